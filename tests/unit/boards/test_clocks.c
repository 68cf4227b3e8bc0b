/*
 * test_clocks.c - kernels measure one clock of a board by another: they must agree.
 *
 * The ways are those of Linux: the high byte of PIT channel 2 as it counts down (fast TSC
 * calibration), its output in port 0x61 against HPET and ACPI timer, and the local APIC's timer.
 */
#include "support/unit.h"

#include "boards/board.h"
#include "devices/acpi/pm.h"
#include "devices/irq/lapic.h"
#include "devices/timer/hpet.h"
#include "devices/timer/i8254.h"
#include "support/test_machine.h"

enum { CHANNEL_2 = I8254_BASE + 2, CONTROL = I8254_BASE + 3, GATE = 1, OUT = 0x20 };
enum { MODE_0 = 0xb0, STEP = 1000 /* ns */ };
enum { LVT_TIMER = 0x320, INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0, SPURIOUS = 0xf0 };

static struct machine *build(const char *board)
{
    struct machine_config config = {
        .board = board, .cpus = 1, .memory = 4 * MiB, .acpi = true, .hpet = true};
    struct machine *m = machine_new(&config, true);
    struct error err = {0};

    if (machine_build(m, board_find(board), &engine_interp, &err) < 0)
        fail_msg("%s", err.text);
    machine_reset(m, NULL);
    return m;
}

static void start_channel_2(struct machine *m, uint16_t count)
{
    out8(m, I8254_PORT_B, GATE);
    out8(m, CONTROL, MODE_0);
    out8(m, CHANNEL_2, (uint8_t)count);
    out8(m, CHANNEL_2, (uint8_t)(count >> 8));
}

/* The ports of the ACPI timer as firmware leaves them. */
static uint16_t pm_timer_port(struct machine *m)
{
    uint16_t base;

    if (!strcmp(m->board->name, "microvm"))
        return 0x600 + PM_TIMER;
    base = ACPI_PM_PORTS;
    if (!strcmp(m->board->name, "pc")) {
        out32(m, 0xcf8, 0x80000b40);
        out32(m, 0xcfc, base);
        out32(m, 0xcf8, 0x80000b80);
        out8(m, 0xcfc, 1);
    } else {
        out32(m, 0xcf8, 0x8000f840);
        out32(m, 0xcfc, base);
        out32(m, 0xcf8, 0x8000f844);
        out8(m, 0xcfc, 0x80);
    }
    return base + PM_TIMER;
}

static void assert_about(uint64_t measured, uint64_t expected, uint64_t tolerance, const char *what)
{
    if (measured > expected + tolerance || measured + tolerance < expected)
        fail_msg("%s: %llu, not %llu", what, (unsigned long long)measured,
                 (unsigned long long)expected);
}

static void all_agree(const char *board)
{
    enum { COUNT = 59659 }; /* 50 ms */
    struct machine *m = build(board);
    struct cpu *cpu = m->cpus[0];

    uint16_t pm = pm_timer_port(m);
    uint64_t start, elapsed, hpet, apic_rate, apic;
    uint32_t pm_start;

    /* What one microsecond is to the local APIC's timer, divided by 16. */
    cpu->intc.write(cpu->intc.opaque, SPURIOUS, 0x1ff, 4);
    cpu->intc.write(cpu->intc.opaque, DIVIDE, 3, 4);
    cpu->intc.write(cpu->intc.opaque, LVT_TIMER, 0x10000, 4);
    cpu->intc.write(cpu->intc.opaque, INITIAL, UINT32_MAX, 4);
    test_advance(m, NSEC_PER_MSEC);
    apic_rate = UINT32_MAX - cpu->intc.read(cpu->intc.opaque, CURRENT, 4);
    assert_true(apic_rate > 1000);

    mmio_write(m, HPET_DEFAULT_BASE + HPET_CONFIG, 1, 8);
    start_channel_2(m, COUNT);
    start = clock_now(m->clock);
    hpet = mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER, 8);
    apic = cpu->intc.read(cpu->intc.opaque, CURRENT, 4);
    pm_start = in32(m, pm);
    assert_false(in8(m, I8254_PORT_B) & OUT);
    while (!(in8(m, I8254_PORT_B) & OUT)) {
        test_advance(m, STEP);
        assert_true(clock_now(m->clock) - start < NSEC_PER_SEC);
    }
    elapsed = clock_now(m->clock) - start;
    hpet = mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER, 8) - hpet;
    apic -= cpu->intc.read(cpu->intc.opaque, CURRENT, 4);
    assert_about(elapsed, muldiv64(COUNT, NSEC_PER_SEC, I8254_HZ), 2 * STEP, "PIT");
    assert_about(hpet * HPET_TICK_NSEC, elapsed, 2 * HPET_TICK_NSEC, "HPET");
    assert_about(muldiv64((in32(m, pm) - pm_start) & 0xffffff, NSEC_PER_SEC, PM_TIMER_HZ), elapsed,
                 600, "ACPI timer");
    assert_about(apic * 1000 / apic_rate, elapsed / 1000, 50, "local APIC");

    /* Halting and starting the HPET again must not change its speed. */
    mmio_write(m, HPET_DEFAULT_BASE + HPET_CONFIG, 0, 4);
    hpet = mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER, 4);
    test_advance(m, 5 * NSEC_PER_MSEC);
    assert_int_equal(mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER, 4), hpet);
    mmio_write(m, HPET_DEFAULT_BASE + HPET_CONFIG, 1, 4);
    test_advance(m, 5 * NSEC_PER_MSEC);
    assert_about((mmio_read(m, HPET_DEFAULT_BASE + HPET_COUNTER, 4) - hpet) * HPET_TICK_NSEC,
                 5 * NSEC_PER_MSEC, 2 * HPET_TICK_NSEC, "HPET after a halt");
    machine_free_devices(m);
    machine_free(m);
}

static void pc_clocks_agree(void **state)
{
    all_agree("pc");
}

static void q35_clocks_agree(void **state)
{
    all_agree("q35");
}

static void microvm_clocks_agree(void **state)
{
    all_agree("microvm");
}

/* Bytes are read in pairs and the low one is thrown away: the high byte must go down by one every
 * 256 ticks, without a gap, for the 50 ms that the kernel may look. */
static void high_byte_counts_down(void **state)
{
    struct machine *m = build("pc");
    uint64_t start, last_change;

    start_channel_2(m, 0xffff);
    start = last_change = clock_now(m->clock);
    for (unsigned expected = 0xff; expected > 5;) {
        unsigned high;

        in8(m, CHANNEL_2);
        high = in8(m, CHANNEL_2);
        if (high != expected) {
            assert_int_equal(high, expected - 1);
            expected = high;
            last_change = clock_now(m->clock);
            assert_about(last_change - start,
                         muldiv64(0xffff - ((expected << 8) + 0xff), NSEC_PER_SEC, I8254_HZ),
                         3 * STEP, "change of the high byte");
        }
        test_advance(m, STEP);
    }
    /* Once more, as kernels try again: the count starts anew. */
    start_channel_2(m, 0xffff);
    in8(m, CHANNEL_2);
    assert_int_equal(in8(m, CHANNEL_2), 0xff);
    machine_free_devices(m);
    machine_free(m);
}

/* The gate stops channel 2 and what is left counts on afterwards; OUT stays low meanwhile. */
static void gate_holds_the_count(void **state)
{
    struct machine *m = build("pc");

    start_channel_2(m, 11932); /* 10 ms */
    test_advance(m, 5 * NSEC_PER_MSEC);
    out8(m, I8254_PORT_B, 0);
    test_advance(m, 50 * NSEC_PER_MSEC);
    assert_false(in8(m, I8254_PORT_B) & OUT);
    out8(m, I8254_PORT_B, GATE);
    test_advance(m, 4900 * NSEC_PER_USEC);
    assert_false(in8(m, I8254_PORT_B) & OUT);
    test_advance(m, 200 * NSEC_PER_USEC);
    assert_true(in8(m, I8254_PORT_B) & OUT);
    machine_free_devices(m);
    machine_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pc_clocks_agree),      cmocka_unit_test(q35_clocks_agree),
        cmocka_unit_test(microvm_clocks_agree), cmocka_unit_test(high_byte_counts_down),
        cmocka_unit_test(gate_holds_the_count),
    };

    return cmocka_run_group_tests_name("clocks", tests, NULL, NULL);
}
