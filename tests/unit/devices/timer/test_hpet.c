#include "support/unit.h"

#include "support/test_machine.h"

#include "devices/timer/cmos_rtc.h"
#include "devices/timer/hpet.h"
#include "devices/timer/i8254.h"

enum { LEVEL = 2, ENABLE = 4, PERIODIC = 8, SET = 0x40, WIDTH_32 = 0x100, FSB = 0x4000 };
enum { ROUTE_21 = 21 << 9, ROUTE_22 = 22 << 9 };
enum { TICK = HPET_TICK_NSEC };

static gpa last_address;
static uint32_t last_data;
static unsigned messages;

static void count_message(void *opaque, gpa address, uint32_t data)
{
    last_address = address;
    last_data = data;
    messages++;
}

static int setup(void **state)
{
    struct machine *m;
    struct device *pit, *rtc;

    if (test_machine_setup(state))
        return -1;
    m = *state;
    test_advance(m, 9); /* 1234567900: the start of a tick */
    m->msi = count_message;
    messages = 0;
    pit = i8254_add(m, NULL);
    rtc = cmos_rtc_add(m, NULL);
    return hpet_add(m, pit, rtc, NULL) ? 0 : -1;
}

static uint64_t get(struct machine *m, unsigned reg)
{
    return mmio_read(m, HPET_DEFAULT_BASE + reg, 8);
}

static void put(struct machine *m, unsigned reg, uint64_t value)
{
    mmio_write(m, HPET_DEFAULT_BASE + reg, value, 8);
}

static void put32(struct machine *m, unsigned reg, uint32_t value)
{
    mmio_write(m, HPET_DEFAULT_BASE + reg, value, 4);
}

static unsigned timer_reg(unsigned n, unsigned reg)
{
    return HPET_TIMER + n * HPET_TIMER_LEN + reg;
}

static void configure(struct machine *m, unsigned n, uint64_t config, uint64_t comparator)
{
    put(m, timer_reg(n, HPET_TIMER_CONFIG), config);
    put(m, timer_reg(n, HPET_TIMER_COMPARATOR), comparator);
}

static void registers(void **state)
{
    struct machine *m = *state;

    assert_int_equal(get(m, HPET_CAPABILITIES), UINT64_C(10000000) << 32 | 0x8086a201);
    assert_int_equal(mmio_read(m, HPET_DEFAULT_BASE + 4, 4), 10000000);
    assert_int_equal(mmio_read(m, HPET_DEFAULT_BASE + 4, 2), 0xffff); /* 4 or 8 bytes */
    assert_int_equal(get(m, HPET_CONFIG), 0);
    assert_int_equal(get(m, HPET_COUNTER), 0);
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        assert_int_equal(get(m, timer_reg(n, HPET_TIMER_CONFIG)), UINT64_C(0x00f0000000008030));
        assert_int_equal(get(m, timer_reg(n, HPET_TIMER_COMPARATOR)), UINT64_MAX);
    }
    put(m, timer_reg(1, HPET_TIMER_CONFIG), UINT64_MAX & ~(uint64_t)WIDTH_32);
    assert_int_equal(get(m, timer_reg(1, HPET_TIMER_CONFIG)), UINT64_C(0x00f000000000fe7e));
    put(m, HPET_CAPABILITIES, 0);
    assert_int_equal(get(m, HPET_CAPABILITIES) & 0xffffffff, 0x8086a201);
    put(m, timer_reg(HPET_TIMERS, 0), 1);
    assert_int_equal(get(m, timer_reg(HPET_TIMERS, 0)), UINT64_MAX);
    put(m, HPET_CONFIG, 0xfc);
    assert_int_equal(get(m, HPET_CONFIG), 0);
    put32(m, timer_reg(0, HPET_TIMER_FSB) + 4, 0xfee00000);
    put32(m, timer_reg(0, HPET_TIMER_FSB), 0x4041);
    test_save_reset_restore(m);
    assert_int_equal(get(m, timer_reg(0, HPET_TIMER_FSB)), UINT64_C(0xfee0000000004041));
}

static void the_counter_runs_when_enabled(void **state)
{
    struct machine *m = *state;

    test_advance(m, 100 * TICK);
    assert_int_equal(get(m, HPET_COUNTER), 0);
    put(m, HPET_COUNTER, UINT64_C(0x1fffffff0));
    put(m, HPET_CONFIG, 1);
    test_advance(m, 15 * TICK + TICK - 1);
    assert_int_equal(get(m, HPET_COUNTER), UINT64_C(0x1ffffffff));
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_int_equal(get(m, HPET_COUNTER), UINT64_C(0x200000000));
    assert_int_equal(mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER + 4, 4), 2);
    put(m, HPET_CONFIG, 0);
    test_advance(m, 100 * TICK);
    assert_int_equal(get(m, HPET_COUNTER), UINT64_C(0x200000000));
    put32(m, HPET_COUNTER, 5);
    assert_int_equal(get(m, HPET_COUNTER), UINT64_C(0x200000005));
    put(m, HPET_CONFIG, 1);
    test_advance(m, 3 * TICK);
    assert_int_equal(get(m, HPET_COUNTER), UINT64_C(0x200000008));
}

static void one_shot_edge(void **state)
{
    struct machine *m = *state;

    put(m, HPET_CONFIG, 1);
    configure(m, 0, ENABLE | ROUTE_21, 10000);
    test_advance(m, 10000 * TICK - 1);
    assert_int_equal(test_irq_edges(m, 21), 0);
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_int_equal(test_irq_edges(m, 21), 1);
    assert_false(test_irq(m, 21));
    assert_int_equal(get(m, HPET_STATUS), 0);
    test_advance(m, 1000 * NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 21), 1);
    configure(m, 0, ENABLE | ROUTE_21, 5); /* in the past */
    test_advance(m, 1000 * NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 21), 1);
    /* A stopped counter meets nothing. */
    configure(m, 0, ENABLE | ROUTE_21, get(m, HPET_COUNTER) + 1000);
    put(m, HPET_CONFIG, 0);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 21), 1);
    put(m, HPET_CONFIG, 1);
    test_advance(m, 1000 * TICK);
    assert_int_equal(test_irq_edges(m, 21), 2);
    /* Not enabled, or routed to an input that is not offered. */
    configure(m, 0, ROUTE_21, get(m, HPET_COUNTER) + 1000);
    test_advance(m, NSEC_PER_SEC);
    configure(m, 0, ENABLE | 5 << 9, get(m, HPET_COUNTER) + 1000);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 21), 2);
    assert_int_equal(test_irq_edges(m, 5), 0);
}

static void level_stays_until_acknowledged(void **state)
{
    struct machine *m = *state;

    put(m, HPET_CONFIG, 1);
    configure(m, 2, LEVEL | ENABLE | ROUTE_22, 1000);
    test_advance(m, 1000 * TICK);
    assert_true(test_irq(m, 22));
    assert_int_equal(get(m, HPET_STATUS), 4);
    test_save_reset_restore(m);
    put(m, HPET_STATUS, 3);
    assert_true(test_irq(m, 22));
    put(m, timer_reg(2, HPET_TIMER_CONFIG), LEVEL | ROUTE_22);
    assert_false(test_irq(m, 22));
    put(m, timer_reg(2, HPET_TIMER_CONFIG), LEVEL | ENABLE | ROUTE_21); /* moves */
    assert_true(test_irq(m, 21));
    assert_false(test_irq(m, 22));
    put(m, HPET_STATUS, 4);
    assert_false(test_irq(m, 21));
    assert_int_equal(get(m, HPET_STATUS), 0);
}

static void periodic(void **state)
{
    struct machine *m = *state;

    put(m, HPET_CONFIG, 1);
    test_advance(m, 77 * TICK);
    /* As Linux does it: the first match through the accumulator, then the period. */
    configure(m, 1, ENABLE | PERIODIC | SET | WIDTH_32 | ROUTE_21, 150077);
    assert_int_equal(get(m, timer_reg(1, HPET_TIMER_CONFIG)) & SET, 0);
    put32(m, timer_reg(1, HPET_TIMER_COMPARATOR), 100000);
    assert_int_equal(get(m, timer_reg(1, HPET_TIMER_COMPARATOR)), 150077);
    test_advance(m, 150000 * TICK - 1);
    assert_int_equal(test_irq_edges(m, 21), 0);
    test_advance(m, 1);
    assert_int_equal(test_irq_edges(m, 21), 1);
    assert_int_equal(get(m, timer_reg(1, HPET_TIMER_COMPARATOR)), 250077);
    test_save_reset_restore(m);
    test_advance(m, 99 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 21), 100);
    /* A stop of an hour is one interrupt; the phase stays. */
    clock_set(m->clock, clock_now(m->clock) + 3600 * NSEC_PER_SEC + 400 * NSEC_PER_USEC);
    clock_run(m->clock);
    assert_int_equal(test_irq_edges(m, 21), 101);
    test_advance(m, 600 * NSEC_PER_USEC - 1);
    assert_int_equal(test_irq_edges(m, 21), 101);
    test_advance(m, 1);
    assert_int_equal(test_irq_edges(m, 21), 102);
    /* Greed is bounded. */
    configure(m, 1, ENABLE | PERIODIC | SET | ROUTE_21, get(m, HPET_COUNTER) + 1);
    put(m, timer_reg(1, HPET_TIMER_COMPARATOR), 1);
    test_advance(m, NSEC_PER_MSEC);
    assert_in_range(test_irq_edges(m, 21) - 102, 10, 52);
}

static void thirty_two_bits_wrap(void **state)
{
    struct machine *m = *state;

    put(m, HPET_COUNTER, UINT64_C(0x7fffffff0));
    put(m, HPET_CONFIG, 1);
    configure(m, 0, ENABLE | WIDTH_32 | ROUTE_21, UINT64_C(0x900000010));
    assert_int_equal(get(m, timer_reg(0, HPET_TIMER_COMPARATOR)), 0x10);
    test_advance(m, 0x20 * TICK);
    assert_int_equal(test_irq_edges(m, 21), 1);
    test_advance(m, (UINT64_C(1) << 32) * TICK - 1);
    assert_int_equal(test_irq_edges(m, 21), 1);
    test_advance(m, 1);
    assert_int_equal(test_irq_edges(m, 21), 2);
}

static void message_signalled(void **state)
{
    struct machine *m = *state;

    put(m, timer_reg(1, HPET_TIMER_FSB), UINT64_C(0xfee0100000000051));
    put(m, HPET_CONFIG, 1);
    configure(m, 1, ENABLE | FSB | ROUTE_21, 1000);
    test_save_reset_restore(m);
    test_advance(m, 1000 * TICK);
    assert_int_equal(messages, 1);
    assert_int_equal(last_address, 0xfee01000);
    assert_int_equal(last_data, 0x51);
    assert_int_equal(test_irq_edges(m, 21), 0);
}

static void legacy_replacement(void **state)
{
    struct machine *m = *state;
    unsigned pit;

    out8(m, I8254_CONTROL, 0x34);
    out8(m, I8254_BASE, 1193 & 0xff);
    out8(m, I8254_BASE, 1193 >> 8);
    out8(m, 0x70, CMOS_B);
    out8(m, 0x71, 0x42); /* periodic interrupts */
    test_advance(m, 10 * NSEC_PER_MSEC);
    assert_in_range(test_irq_edges(m, 0), 9, 11);
    assert_true(test_irq(m, 8));
    put(m, HPET_CONFIG, 3);
    assert_false(test_irq(m, 8));
    pit = test_irq_edges(m, 0);
    configure(m, 0, ENABLE, get(m, HPET_COUNTER) + 1000000);
    configure(m, 1, ENABLE, get(m, HPET_COUNTER) + 1000000);
    test_advance(m, 9 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0), pit);
    test_save_reset_restore(m);
    assert_false(test_irq(m, 8));
    test_advance(m, 1 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0), pit + 1);
    assert_int_equal(test_irq_edges(m, 8), 2);
    put(m, HPET_CONFIG, 1);
    assert_true(test_irq(m, 8));
    test_advance(m, 10 * NSEC_PER_MSEC);
    assert_in_range(test_irq_edges(m, 0) - pit, 10, 13);
    put(m, HPET_CONFIG, 3);
    device_reset(test_device(m));
    assert_int_equal(get(m, HPET_CONFIG), 0);
    assert_true(test_irq(m, 8));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, test_machine_teardown)

/* Idle guests must leave the host asleep: no wake-up for what cannot interrupt. */
static void nothing_wakes_the_host_in_vain(void **state)
{
    struct machine *m = *state;
    uint64_t others = clock_next_deadline(m->clock); /* the RTC's, if any */
    unsigned edges;

    put(m, HPET_CONFIG, 1);
    configure(m, 2, ENABLE | PERIODIC | SET | ROUTE_21, 100000);
    put(m, timer_reg(2, HPET_TIMER_COMPARATOR), 100000);
    assert_in_range(clock_next_deadline(m->clock) - clock_now(m->clock), 1, NSEC_PER_MSEC);
    put(m, timer_reg(2, HPET_TIMER_CONFIG), PERIODIC | ROUTE_21);
    assert_true(clock_next_deadline(m->clock) == others);
    test_advance(m, 10 * NSEC_PER_MSEC + 77);
    assert_int_equal(test_irq_edges(m, 21), 0);
    put(m, timer_reg(2, HPET_TIMER_CONFIG), ENABLE | PERIODIC | ROUTE_21);
    assert_in_range(clock_next_deadline(m->clock) - clock_now(m->clock), 1, NSEC_PER_MSEC);
    test_advance(m, NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 21), 1);
    put(m, timer_reg(2, HPET_TIMER_CONFIG), 0);

    /* The PIT's interrupts while the HPET has taken its line. */
    out8(m, I8254_BASE + 3, 0x34);
    out8(m, I8254_BASE, 0xa9);
    out8(m, I8254_BASE, 0x04);
    assert_in_range(clock_next_deadline(m->clock) - clock_now(m->clock), 1, NSEC_PER_MSEC);
    put(m, HPET_CONFIG, 3);
    assert_true(clock_next_deadline(m->clock) == others);
    edges = test_irq_edges(m, 0);
    test_advance(m, 5 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0), edges);
    put(m, HPET_CONFIG, 1);
    test_advance(m, 2 * NSEC_PER_MSEC);
    assert_in_range(test_irq_edges(m, 0) - edges, 1, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registers),
        TEST(the_counter_runs_when_enabled),
        TEST(one_shot_edge),
        TEST(level_stays_until_acknowledged),
        TEST(periodic),
        TEST(thirty_two_bits_wrap),
        TEST(message_signalled),
        TEST(legacy_replacement),
        TEST(nothing_wakes_the_host_in_vain),
    };
    return cmocka_run_group_tests_name("hpet", tests, NULL, NULL);
}
