#include "support/unit.h"

#include "support/test_machine.h"

#include "devices/timer/cmos_rtc.h"
#include "state/state.h"

#include <stdio.h>
#include <time.h>

enum { IRQ = 8 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, H24 = 2 };

static uint8_t get(struct machine *m, uint8_t index)
{
    out8(m, 0x70, index);
    return in8(m, 0x71);
}

static void put(struct machine *m, uint8_t index, uint8_t value)
{
    out8(m, 0x70, index);
    out8(m, 0x71, value);
}

/* The test machine starts at 2001-09-09 01:46:47, a Sunday. */
static int setup(void **state)
{
    return test_machine_setup(state) || !cmos_rtc_add(*state, NULL) ? -1 : 0;
}

static void assert_time(struct machine *m, const char *expected)
{
    char text[40];

    snprintf(text, sizeof(text), "%02x%02x-%02x-%02x %02x:%02x:%02x %x", get(m, CMOS_CENTURY),
             get(m, CMOS_YEAR), get(m, CMOS_MONTH), get(m, CMOS_DAY), get(m, CMOS_HOURS),
             get(m, CMOS_MINUTES), get(m, CMOS_SECONDS), get(m, CMOS_WEEKDAY));
    assert_string_equal(text, expected);
}

static void the_time_passes(void **state)
{
    struct machine *m = *state;

    assert_time(m, "2001-09-09 01:46:47 1");
    test_advance(m, NSEC_PER_SEC - 1);
    assert_time(m, "2001-09-09 01:46:47 1");
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_time(m, "2001-09-09 01:46:48 1");
    test_advance(m, (22 * 3600 + 13 * 60 + 12) * NSEC_PER_SEC);
    assert_time(m, "2001-09-10 00:00:00 2");
    device_reset(test_device(m)); /* has a battery */
    assert_time(m, "2001-09-10 00:00:00 2");
    assert_int_equal(get(m, CMOS_D), 0x80);
    assert_int_equal(get(m, CMOS_A), 0x26);
    assert_int_equal(get(m, CMOS_B), H24);
    assert_int_equal(in8(m, 0x70), 0xff);
}

static void twelve_hours_and_binary(void **state)
{
    struct machine *m = *state;

    put(m, CMOS_B, BINARY);
    assert_int_equal(get(m, CMOS_HOURS), 1);
    assert_int_equal(get(m, CMOS_MINUTES), 46);
    assert_int_equal(get(m, CMOS_CENTURY), 20);
    test_advance(m, 11 * 3600 * NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_HOURS), 0x80 | 12);
    test_save_reset_restore(m);
    put(m, CMOS_B, 0);
    assert_int_equal(get(m, CMOS_HOURS), 0x80 | 0x12);
    test_advance(m, 10 * 3600 * NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_HOURS), 0x80 | 0x10);
    test_advance(m, 2 * 3600 * NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_HOURS), 0x12); /* midnight */
    put(m, CMOS_HOURS, 0x81);
    put(m, CMOS_B, H24);
    assert_int_equal(get(m, CMOS_HOURS), 0x13);
}

static void setting_the_time(void **state)
{
    struct machine *m = *state;

    put(m, CMOS_B, SET | UIE | H24);
    assert_int_equal(get(m, CMOS_B), SET | H24); /* no updates, no interrupts of them */
    test_advance(m, 100 * NSEC_PER_SEC + NSEC_PER_MSEC);
    assert_time(m, "2001-09-09 01:46:47 1"); /* held */
    put(m, CMOS_CENTURY, 0x19);
    put(m, CMOS_YEAR, 0x96);
    put(m, CMOS_MONTH, 0x02);
    put(m, CMOS_DAY, 0x28);
    put(m, CMOS_HOURS, 0x23);
    put(m, CMOS_MINUTES, 0x59);
    put(m, CMOS_SECONDS, 0x58);
    test_save_reset_restore(m);
    put(m, CMOS_B, H24);
    assert_time(m, "1996-02-28 23:59:58 4");
    test_advance(m, 2 * NSEC_PER_SEC);
    assert_time(m, "1996-02-29 00:00:00 5");
    put(m, CMOS_YEAR, 0x97); /* at once; there is no such day */
    assert_time(m, "1997-03-01 00:00:00 7");
    put(m, CMOS_WEEKDAY, 3);
    assert_int_equal(get(m, CMOS_WEEKDAY), 7);
    /* Nonsense is some time. */
    put(m, CMOS_B, SET | BINARY | H24);
    for (unsigned i = 0; i <= CMOS_YEAR; i++)
        put(m, (uint8_t)i, 0xff);
    put(m, CMOS_CENTURY, 0xff);
    put(m, CMOS_B, BINARY | H24);
    assert_int_equal(get(m, CMOS_CENTURY), 99);
    assert_int_equal(get(m, CMOS_YEAR), 99);
    test_advance(m, 10 * NSEC_PER_SEC); /* the last second lasts */
    test_save_reset_restore(m);
    assert_int_equal(get(m, CMOS_CENTURY), 99);
    /* Before 1970. */
    put(m, CMOS_CENTURY, 19);
    put(m, CMOS_YEAR, 12);
    assert_int_equal(get(m, CMOS_YEAR), 12);
}

static void update_in_progress(void **state)
{
    struct machine *m = *state;

    test_advance(m, NSEC_PER_SEC - 245 * NSEC_PER_USEC);
    assert_int_equal(get(m, CMOS_A), 0x26);
    test_advance(m, 2 * NSEC_PER_USEC);
    assert_int_equal(get(m, CMOS_A), 0xa6);
    put(m, CMOS_A, 0xa6); /* read-only */
    test_advance(m, 243 * NSEC_PER_USEC);
    assert_int_equal(get(m, CMOS_A), 0x26);
    put(m, CMOS_B, SET | H24);
    test_advance(m, NSEC_PER_SEC - 100 * NSEC_PER_USEC);
    assert_int_equal(get(m, CMOS_A), 0x26);
}

static void update_interrupt(void **state)
{
    struct machine *m = *state;

    put(m, CMOS_A, 0x20); /* no periodic flag */
    assert_int_equal(get(m, CMOS_C), 0);
    test_advance(m, NSEC_PER_SEC);
    assert_false(test_irq(m, IRQ));
    assert_int_equal(get(m, CMOS_C), 0x10); /* the flag without its interrupt */
    put(m, CMOS_B, UIE | H24);
    test_advance(m, NSEC_PER_SEC - 1);
    assert_false(test_irq(m, IRQ));
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_true(test_irq(m, IRQ));
    test_save_reset_restore(m);
    assert_true(test_irq(m, IRQ));
    put(m, CMOS_C, 0);
    assert_int_equal(get(m, CMOS_C), 0x90);
    assert_false(test_irq(m, IRQ));
    assert_int_equal(get(m, CMOS_C), 0);
    test_advance(m, 10 * NSEC_PER_SEC); /* nobody reads: one interrupt */
    assert_int_equal(test_irq_edges(m, IRQ), 2);
    /* A flag that is set raises the line when it is allowed to. */
    put(m, CMOS_B, H24);
    assert_false(test_irq(m, IRQ));
    put(m, CMOS_B, UIE | H24);
    assert_true(test_irq(m, IRQ));
    device_reset(test_device(m));
    assert_false(test_irq(m, IRQ));
    assert_int_equal(get(m, CMOS_B), H24);
    assert_int_equal(get(m, CMOS_C), 0);
}

static void periodic_interrupt(void **state)
{
    struct machine *m = *state;
    unsigned count = 0;

    put(m, CMOS_B, PIE | H24); /* 1024 Hz */
    get(m, CMOS_C);
    for (unsigned i = 0; i < 20000; i++) {
        if (i == 777)
            test_save_reset_restore(m);
        test_advance(m, 50 * NSEC_PER_USEC);
        if (test_irq(m, IRQ)) {
            assert_int_equal(get(m, CMOS_C) & 0xc0, 0xc0);
            count++;
        }
    }
    assert_in_range(count, 1023, 1025);
    put(m, CMOS_A, 0x2f); /* 2 Hz */
    count = test_irq_edges(m, IRQ);
    for (unsigned i = 0; i < 100; i++) {
        test_advance(m, 100 * NSEC_PER_MSEC);
        get(m, CMOS_C);
    }
    assert_in_range(test_irq_edges(m, IRQ) - count, 19, 21);
    put(m, CMOS_A, 0x20); /* none */
    count = test_irq_edges(m, IRQ);
    test_advance(m, 10 * NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, IRQ), count);
    put(m, CMOS_A, 0x21); /* 256 Hz: the first two rates are those of 8 and 9 */
    for (unsigned i = 0; i < 1000; i++) {
        test_advance(m, NSEC_PER_MSEC);
        get(m, CMOS_C);
    }
    assert_in_range(test_irq_edges(m, IRQ) - count, 255, 257);
    cmos_rtc_irq_enable(test_device(m), false);
    count = test_irq_edges(m, IRQ);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, IRQ), count);
    cmos_rtc_irq_enable(test_device(m), true);
    assert_true(test_irq(m, IRQ));
}

static void alarms(void **state)
{
    struct machine *m = *state;

    put(m, CMOS_A, 0x20); /* no periodic flag */
    put(m, CMOS_HOURS_ALARM, 0x01);
    put(m, CMOS_MINUTES_ALARM, 0x47);
    put(m, CMOS_SECONDS_ALARM, 0x05);
    put(m, CMOS_B, AIE | H24);
    test_advance(m, 18 * NSEC_PER_SEC - 1);
    assert_false(test_irq(m, IRQ));
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_true(test_irq(m, IRQ));
    assert_int_equal(get(m, CMOS_C), 0xb0);
    test_advance(m, 86399 * NSEC_PER_SEC);
    assert_false(test_irq(m, IRQ));
    test_advance(m, NSEC_PER_SEC);
    assert_true(test_irq(m, IRQ)); /* each day */
    get(m, CMOS_C);
    put(m, CMOS_HOURS_ALARM, 0xff); /* each hour */
    test_advance(m, 3600 * NSEC_PER_SEC - 1);
    assert_false(test_irq(m, IRQ));
    test_advance(m, 1);
    assert_true(test_irq(m, IRQ));
    get(m, CMOS_C);
    put(m, CMOS_MINUTES_ALARM, 0xc0);
    put(m, CMOS_SECONDS_ALARM, 0xc5); /* each second */
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_C), 0xb0);
    put(m, CMOS_SECONDS_ALARM, 0x61); /* never */
    get(m, CMOS_C);
    test_advance(m, 100000 * NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_C), 0x10);
    /* Without its interrupt the flag is still found, however late one looks. */
    put(m, CMOS_SECONDS_ALARM, 0x30);
    put(m, CMOS_B, H24);
    clock_set(m->clock, clock_now(m->clock) + 500000 * NSEC_PER_SEC);
    assert_int_equal(get(m, CMOS_C), 0x30);
    /* 12-hour clock: 1 p.m. */
    put(m, CMOS_B, AIE);
    put(m, CMOS_HOURS, 0x12 | 0x80);
    put(m, CMOS_MINUTES, 0x59);
    put(m, CMOS_SECONDS, 0x59);
    put(m, CMOS_HOURS_ALARM, 0x81);
    put(m, CMOS_MINUTES_ALARM, 0);
    put(m, CMOS_SECONDS_ALARM, 0);
    get(m, CMOS_C);
    assert_false(test_irq(m, IRQ));
    test_advance(m, NSEC_PER_SEC);
    assert_true(test_irq(m, IRQ));
}

static void the_divider_stops_the_clock(void **state)
{
    struct machine *m = *state;

    put(m, CMOS_A, 0x66);
    put(m, CMOS_B, UIE | PIE | H24);
    test_advance(m, 100 * NSEC_PER_SEC);
    assert_false(test_irq(m, IRQ));
    assert_time(m, "2001-09-09 01:46:47 1");
    put(m, CMOS_A, 0x20);
    test_advance(m, NSEC_PER_SEC / 2 - 1);
    assert_time(m, "2001-09-09 01:46:47 1");
    test_save_reset_restore(m);
    test_advance(m, 1);
    assert_time(m, "2001-09-09 01:46:48 1");
    assert_true(test_irq(m, IRQ));
}

/* The time survives a reset, so only another time shows that it is restored. */
static void restored_over_another_time(void **state)
{
    struct machine *m = *state;
    struct state_buffer b = {0};
    struct error err = {0};
    uint64_t then;

    put(m, CMOS_B, UIE | H24);
    test_advance(m, 300 * NSEC_PER_MSEC);
    get(m, CMOS_C);
    then = clock_now(m->clock);
    state_save_device(&b, test_device(m));
    put(m, CMOS_A, 0x60);
    put(m, CMOS_YEAR, 0x55);
    test_advance(m, 1777 * NSEC_PER_MSEC);
    put(m, CMOS_A, 0x20);
    clock_set(m->clock, then);
    assert_int_equal(state_load_device(&b, test_device(m), &err), 0);
    state_buffer_free(&b);
    assert_time(m, "2001-09-09 01:46:47 1");
    assert_int_equal(get(m, CMOS_C), 0); /* no periodic flag out of nothing */
    test_advance(m, 700 * NSEC_PER_MSEC - 1);
    assert_false(test_irq(m, IRQ));
    test_advance(m, 1);
    assert_true(test_irq(m, IRQ));
    assert_time(m, "2001-09-09 01:46:48 1");
}

static void memory_and_its_index(void **state)
{
    struct machine *m = *state;

    cmos_set(test_device(m), 0x34, 0x12);
    assert_int_equal(get(m, 0x34), 0x12);
    assert_int_equal(get(m, 0x34 | 0x80), 0x12); /* bit 7 is not the index */
    assert_true(cmos_nmi_masked(test_device(m)));
    put(m, 0x7f, 0x55);
    assert_false(cmos_nmi_masked(test_device(m)));
    assert_int_equal(cmos_get(test_device(m), 0x7f), 0x55);
    put(m, 0x0e, 0x66);
    out8(m, 0x70, 0xff);
    test_save_reset_restore(m);
    assert_true(cmos_nmi_masked(test_device(m)));
    assert_int_equal(in8(m, 0x71), 0x55);
    device_reset(test_device(m));
    assert_int_equal(get(m, 0x0e), 0x66);
    assert_false(cmos_nmi_masked(test_device(m)));
    put(m, CMOS_D, 0);
    assert_int_equal(get(m, CMOS_D), 0x80);
}

static void starts_with_the_hosts_clock(void **state)
{
    struct machine *m = *state;
    time_t now = time(NULL), t;
    struct tm tm = {0};

    m->config.rtc_base = 0;
    assert_non_null(cmos_rtc_add(m, NULL));
    put(m, CMOS_B, BINARY | H24);
    tm.tm_year = get(m, CMOS_CENTURY) * 100 + get(m, CMOS_YEAR) - 1900;
    tm.tm_mon = get(m, CMOS_MONTH) - 1;
    tm.tm_mday = get(m, CMOS_DAY);
    tm.tm_hour = get(m, CMOS_HOURS);
    tm.tm_min = get(m, CMOS_MINUTES);
    tm.tm_sec = get(m, CMOS_SECONDS);
    t = timegm(&tm);
    assert_in_range(t, now, now + 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_time_passes),
        TEST(twelve_hours_and_binary),
        TEST(setting_the_time),
        TEST(update_in_progress),
        TEST(update_interrupt),
        TEST(periodic_interrupt),
        TEST(alarms),
        TEST(the_divider_stops_the_clock),
        TEST(restored_over_another_time),
        TEST(memory_and_its_index),
        cmocka_unit_test_setup_teardown(starts_with_the_hosts_clock, test_machine_setup,
                                        test_machine_teardown),
    };
    return cmocka_run_group_tests_name("cmos-rtc", tests, NULL, NULL);
}
