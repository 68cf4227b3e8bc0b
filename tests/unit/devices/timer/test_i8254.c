#include "support/unit.h"

#include "support/test_machine.h"

#include "devices/timer/i8254.h"

enum { CH0 = I8254_BASE, CH1, CH2, CONTROL };

/* Nanoseconds that are at least so many ticks, and less than one more. */
static uint64_t ticks(uint64_t n)
{
    return (n * NSEC_PER_SEC + I8254_HZ - 1) / I8254_HZ;
}

static int setup(void **state)
{
    struct machine *m;

    if (test_machine_setup(state) || !i8254_add(*state, NULL))
        return -1;
    m = *state;
    test_advance(m, ticks(1) - clock_now(m->clock) % 838); /* near the start of a tick */
    return 0;
}

static void program(struct machine *m, unsigned channel, unsigned mode, uint16_t count)
{
    out8(m, CONTROL, (uint8_t)(channel << 6 | 0x30 | mode << 1));
    out8(m, (uint16_t)(CH0 + channel), (uint8_t)count);
    out8(m, (uint16_t)(CH0 + channel), (uint8_t)(count >> 8));
}

static uint16_t read16(struct machine *m, unsigned channel)
{
    uint8_t low = in8(m, (uint16_t)(CH0 + channel));

    return (uint16_t)(low | in8(m, (uint16_t)(CH0 + channel)) << 8);
}

static uint16_t latched(struct machine *m, unsigned channel)
{
    out8(m, CONTROL, (uint8_t)(channel << 6));
    return read16(m, channel);
}

static uint8_t status(struct machine *m, unsigned channel)
{
    out8(m, CONTROL, (uint8_t)(0xe0 | 2u << channel));
    return in8(m, (uint16_t)(CH0 + channel));
}

static bool out2(struct machine *m)
{
    return (in8(m, I8254_PORT_B) & 0x20) != 0;
}

#define assert_near(value, expected)                                                               \
    do {                                                                                           \
        int near_value = (int)(value), near_expected = (int)(expected);                            \
        if (near_value < near_expected - 2 || near_value > near_expected + 2)                      \
            fail_msg("%s is %d, not about %d", #value, near_value, near_expected);                 \
    } while (0)

static void rate_generator_interrupts_each_period(void **state)
{
    struct machine *m = *state;
    unsigned first;

    program(m, 0, 2, 11932); /* 100 Hz */
    first = test_irq_edges(m, 0);
    test_advance(m, 9 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 0);
    assert_near(latched(m, 0), 11932 - 10739);
    test_save_reset_restore(m);
    test_advance(m, 1100 * NSEC_PER_USEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 1);
    test_advance(m, 990 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 100);
    assert_true(test_irq(m, 0));
    device_reset(test_device(m));
    assert_false(test_irq(m, 0));
    first = test_irq_edges(m, 0);
    test_advance(m, 100 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 0);
}

static void new_rate_waits_for_the_periods_end(void **state)
{
    struct machine *m = *state;
    unsigned first;

    program(m, 0, 2, 10000);
    first = test_irq_edges(m, 0);
    test_advance(m, ticks(4000));
    out8(m, CH0, 2000 & 0xff);
    test_save_reset_restore(m); /* between the bytes */
    out8(m, CH0, 2000 >> 8);
    assert_int_equal(status(m, 0) & 0x40, 0x40); /* not taken yet */
    test_save_reset_restore(m);
    test_advance(m, ticks(5900));
    assert_int_equal(test_irq_edges(m, 0) - first, 0);
    test_advance(m, ticks(200));
    assert_int_equal(test_irq_edges(m, 0) - first, 1);
    assert_int_equal(status(m, 0) & 0x40, 0);
    assert_near(latched(m, 0), 1900);
    test_advance(m, ticks(2000 * 5));
    assert_int_equal(test_irq_edges(m, 0) - first, 6);
}

static void terminal_count_raises_once(void **state)
{
    struct machine *m = *state;

    program(m, 0, 0, 1000);
    assert_false(test_irq(m, 0));
    assert_int_equal(status(m, 0), 0x30);
    test_advance(m, ticks(998));
    assert_false(test_irq(m, 0));
    test_save_reset_restore(m);
    test_advance(m, ticks(4));
    assert_true(test_irq(m, 0));
    assert_int_equal(status(m, 0), 0xb0);
    assert_near(latched(m, 0), 65536 - 2); /* goes on counting */
    test_save_reset_restore(m);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 0), 1);
    /* The first byte of a new count stops it and takes OUT down. */
    out8(m, CH0, 100);
    assert_false(test_irq(m, 0));
    test_advance(m, NSEC_PER_SEC);
    assert_false(test_irq(m, 0));
    out8(m, CH0, 0);
    test_advance(m, ticks(102));
    assert_int_equal(test_irq_edges(m, 0), 2);
}

static void strobe_pulses_once(void **state)
{
    struct machine *m = *state;
    unsigned first;

    program(m, 0, 4, 500);
    first = test_irq_edges(m, 0);
    assert_true(test_irq(m, 0));
    test_advance(m, ticks(499));
    assert_int_equal(test_irq_edges(m, 0) - first, 0);
    test_save_reset_restore(m);
    test_advance(m, ticks(4));
    assert_int_equal(test_irq_edges(m, 0) - first, 1);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 1);
}

static void square_wave_halves(void **state)
{
    struct machine *m = *state;
    unsigned first;

    out8(m, I8254_PORT_B, 1);
    program(m, 2, 3, 1001);
    assert_true(out2(m));
    assert_near(latched(m, 2), 1000);
    test_advance(m, ticks(250));
    assert_near(latched(m, 2), 500); /* by two */
    test_advance(m, ticks(248));
    assert_true(out2(m));
    test_advance(m, ticks(10));
    assert_false(out2(m));
    assert_near(latched(m, 2), 1000 - 14);
    test_save_reset_restore(m);
    assert_false(out2(m));
    test_advance(m, ticks(496));
    assert_true(out2(m));
    program(m, 0, 3, 1000);
    first = test_irq_edges(m, 0);
    test_advance(m, ticks(10001));
    assert_int_equal(test_irq_edges(m, 0) - first, 10);
}

static void gate_of_the_speaker(void **state)
{
    struct machine *m = *state;

    out8(m, I8254_PORT_B, 0xfe);
    test_save_reset_restore(m);
    assert_int_equal(in8(m, I8254_PORT_B) & 0xcf, 0x0e);
    /* Mode 0: the gate stops counting. */
    program(m, 2, 0, 1000);
    test_advance(m, ticks(2000));
    assert_int_equal(latched(m, 2), 1000);
    assert_false(out2(m));
    out8(m, I8254_PORT_B, 1);
    test_advance(m, ticks(400));
    out8(m, I8254_PORT_B, 0);
    test_advance(m, ticks(5000));
    assert_near(latched(m, 2), 600);
    test_save_reset_restore(m);
    assert_near(latched(m, 2), 600);
    out8(m, I8254_PORT_B, 1);
    test_advance(m, ticks(598));
    assert_false(out2(m));
    test_advance(m, ticks(4));
    assert_true(out2(m));
    /* Mode 2: a low gate holds OUT high, its rise starts over. */
    program(m, 2, 2, 1000);
    test_advance(m, ticks(300));
    out8(m, I8254_PORT_B, 0);
    assert_true(out2(m));
    test_advance(m, ticks(5));
    out8(m, I8254_PORT_B, 1);
    test_advance(m, ticks(100));
    assert_near(latched(m, 2), 900);
}

static void one_shot_starts_with_the_gate(void **state)
{
    struct machine *m = *state;

    program(m, 2, 1, 100);
    test_advance(m, ticks(1000));
    assert_true(out2(m));
    assert_int_equal(status(m, 2) & 0x40, 0x40);
    out8(m, I8254_PORT_B, 1);
    assert_false(out2(m));
    test_advance(m, ticks(50));
    out8(m, I8254_PORT_B, 0); /* no matter */
    test_save_reset_restore(m);
    assert_false(out2(m));
    out8(m, I8254_PORT_B, 1); /* again from the start */
    test_advance(m, ticks(97));
    assert_false(out2(m));
    test_advance(m, ticks(5));
    assert_true(out2(m));
    /* Mode 5: low for one tick, then high. */
    program(m, 2, 5, 100);
    out8(m, I8254_PORT_B, 0);
    assert_true(out2(m));
    out8(m, I8254_PORT_B, 1);
    test_advance(m, ticks(98));
    assert_true(out2(m));
    for (unsigned i = 0; i < 10 && out2(m); i++)
        test_advance(m, ticks(1) / 2);
    assert_false(out2(m));
    test_advance(m, ticks(2));
    assert_true(out2(m));
}

static void counts_in_decimal(void **state)
{
    struct machine *m = *state;

    out8(m, I8254_PORT_B, 1);
    out8(m, CONTROL, 0xb1); /* channel 2, both bytes, mode 0, BCD */
    out8(m, CH2, 0x50);
    out8(m, CH2, 0x12);
    assert_int_equal(status(m, 2) & 0x3f, 0x31);
    assert_int_equal(latched(m, 2), 0x1250);
    test_advance(m, ticks(251));
    assert_int_equal(latched(m, 2) & 0xfff8, 0x0998);
    out8(m, CH2, 0);
    out8(m, CH2, 0); /* 10000 */
    test_advance(m, ticks(9998));
    assert_false(out2(m));
    test_advance(m, ticks(4));
    assert_true(out2(m));
    assert_int_equal(latched(m, 2) & 0xfff0, 0x9990);
    out8(m, CONTROL, 0xb5);
    out8(m, CH2, 0xff); /* no digits */
    out8(m, CH2, 0xff);
    test_advance(m, ticks(1));
    test_save_reset_restore(m);
    assert_int_equal(latched(m, 2) & 0xff00, 0x9900);
}

static void access_modes_and_latches(void **state)
{
    struct machine *m = *state;
    uint16_t value;

    out8(m, CONTROL, 0x14); /* channel 0, low byte only, mode 2 */
    out8(m, CH0, 0x80);
    test_advance(m, ticks(16));
    assert_near(in8(m, CH0), 0x70);
    out8(m, CONTROL, 0x24); /* high byte only */
    test_save_reset_restore(m);
    out8(m, CH0, 0x80);
    test_advance(m, ticks(300));
    assert_int_equal(in8(m, CH0), 0x7e);
    assert_int_equal(in8(m, CH0), 0x7e);

    program(m, 0, 2, 40000);
    test_advance(m, ticks(100));
    out8(m, CONTROL, 0x00);
    test_advance(m, ticks(5000));
    out8(m, CONTROL, 0x00); /* held until read */
    assert_near(in8(m, CH0), (40000 - 100) & 0xff);
    test_save_reset_restore(m);
    assert_int_equal(in8(m, CH0), (40000 - 100) >> 8);
    assert_near(read16(m, 0), 40000 - 5100); /* live */

    out8(m, CONTROL, 0xc2); /* read-back of count and status, channel 0 */
    test_advance(m, ticks(500));
    test_save_reset_restore(m);
    assert_int_equal(in8(m, CH0), 0xb4);
    value = read16(m, 0);
    assert_near(value, 40000 - 5100);
    out8(m, CONTROL, 0xd2); /* count only */
    assert_near(read16(m, 0), 40000 - 5600);
    assert_int_equal(in8(m, CONTROL), 0xff);
}

static void refresh_bit_toggles(void **state)
{
    struct machine *m = *state;
    unsigned changes = 0;
    uint8_t last = in8(m, I8254_PORT_B) & 0x10;

    for (unsigned i = 0; i < 100; i++) {
        test_advance(m, 5000);
        changes += (in8(m, I8254_PORT_B) & 0x10) != last;
        last = in8(m, I8254_PORT_B) & 0x10;
    }
    assert_near(changes, 500000 / 15085);
}

static void lateness_and_greed_are_bounded(void **state)
{
    struct machine *m = *state;
    unsigned first;

    program(m, 0, 2, 1193); /* about 1 kHz */
    first = test_irq_edges(m, 0);
    clock_set(m->clock, clock_now(m->clock) + 3600 * NSEC_PER_SEC); /* a long stop of the loop */
    out8(m, CONTROL, 0x00); /* latching does not eat the tick that is due */
    clock_run(m->clock);
    assert_int_equal(test_irq_edges(m, 0) - first, 1);
    test_advance(m, 10 * NSEC_PER_MSEC);
    assert_near(test_irq_edges(m, 0) - first, 11);
    for (uint16_t count = 1; count < 3; count++) {
        program(m, 0, 2, count);
        first = test_irq_edges(m, 0);
        test_advance(m, 10 * NSEC_PER_MSEC);
        assert_true(test_irq_edges(m, 0) - first <= 501);
    }
}

static void the_hpet_may_take_the_interrupt(void **state)
{
    struct machine *m = *state;
    unsigned first;

    program(m, 0, 2, 1193);
    i8254_irq_enable(test_device(m), false);
    assert_false(test_irq(m, 0));
    first = test_irq_edges(m, 0);
    test_advance(m, 10 * NSEC_PER_MSEC);
    assert_int_equal(test_irq_edges(m, 0) - first, 0);
    i8254_irq_enable(test_device(m), true);
    first = test_irq_edges(m, 0);
    test_advance(m, 10 * NSEC_PER_MSEC);
    assert_near(test_irq_edges(m, 0) - first, 10);
}

/* A loop that polls OUT was taken off its processor while OUT rose: it learns of the gap first. */
static void late_poll_sees_low_once(void **state)
{
    struct machine *m = *state;

    out8(m, I8254_PORT_B, 1);
    program(m, 2, 0, 11932); /* 10 ms */
    for (unsigned i = 0; i < 1000; i++) {
        assert_false(out2(m));
        test_advance(m, 2 * NSEC_PER_USEC);
    }
    test_advance(m, 20 * NSEC_PER_MSEC);
    assert_false(out2(m));
    test_advance(m, 2 * NSEC_PER_USEC);
    assert_true(out2(m));
    assert_true(out2(m));
    assert_true(status(m, 2) & 0x80);

    /* Low after a gap within which nothing happened, as ever; and then without a gap. */
    program(m, 2, 0, 11932);
    for (unsigned i = 0; i < 1000; i++)
        assert_false(out2(m));
    test_advance(m, 5 * NSEC_PER_MSEC);
    assert_false(out2(m));
    for (unsigned i = 0; i < 100; i++)
        assert_false(out2(m));
    for (unsigned i = 0; i < 5000 && !out2(m); i++)
        test_advance(m, NSEC_PER_USEC);
    assert_true(out2(m));
}

/* Who does something else meanwhile and looks now and then is told the truth at once. */
static void rare_look_sees_high(void **state)
{
    struct machine *m = *state;

    out8(m, I8254_PORT_B, 1);
    program(m, 2, 0, 11932);
    for (unsigned i = 0; i < 10; i++)
        assert_false(out2(m));
    test_advance(m, 20 * NSEC_PER_MSEC);
    assert_true(out2(m));

    program(m, 2, 0, 11932);
    for (unsigned i = 0; i < 9; i++) {
        test_advance(m, NSEC_PER_MSEC);
        assert_false(out2(m));
    }
    test_advance(m, 2 * NSEC_PER_MSEC);
    assert_true(out2(m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rate_generator_interrupts_each_period, setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(new_rate_waits_for_the_periods_end, setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(terminal_count_raises_once, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(strobe_pulses_once, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(square_wave_halves, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(gate_of_the_speaker, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(one_shot_starts_with_the_gate, setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(counts_in_decimal, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(access_modes_and_latches, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(refresh_bit_toggles, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(lateness_and_greed_are_bounded, setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(the_hpet_may_take_the_interrupt, setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(late_poll_sees_low_once, setup, test_machine_teardown),
        cmocka_unit_test_setup_teardown(rare_look_sees_high, setup, test_machine_teardown),
    };
    return cmocka_run_group_tests_name("i8254", tests, NULL, NULL);
}
