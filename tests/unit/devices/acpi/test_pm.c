/* test_pm.c - the plain power management block: timer, events, SCI, reset. */
#include "support/unit.h"

#include "devices/acpi/pm.h"
#include "support/test_machine.h"

enum { PM = ACPI_PM_PORTS };

static int setup(void **state)
{
    return test_machine_setup(state) < 0 || !acpi_pm_add(*state, NULL) ? -1 : 0;
}

static void timer_counts(void **state)
{
    struct machine *m = *state;

    assert_int_equal(in32(m, PM + PM_TIMER), 0);
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(in32(m, PM + PM_TIMER), PM_TIMER_HZ);
    test_save_reset_restore(m);
    assert_int_equal(in32(m, PM + PM_TIMER), PM_TIMER_HZ);
    assert_int_equal(in16(m, PM + PM_TIMER), PM_TIMER_HZ & 0xffff);
    assert_int_equal(in8(m, PM + PM_TIMER + 2), PM_TIMER_HZ >> 16);
    out32(m, PM + PM_TIMER, 0); /* read only */
    assert_int_equal(in32(m, PM + PM_TIMER), PM_TIMER_HZ);
    test_advance(m, 4 * NSEC_PER_SEC);
    assert_int_equal(in32(m, PM + PM_TIMER), 5 * PM_TIMER_HZ - (1 << 24)); /* 24 bits */
}

/* Bit 23 changes each 8388608 ticks: 2.343484... seconds. */
static void timer_interrupts(void **state)
{
    struct machine *m = *state;
    uint64_t half = UINT64_C(2343484437);

    out16(m, PM + PM1_ENABLE, PM1_TIMER);
    test_advance(m, half - 1000);
    assert_false(test_irq(m, PM_SCI_GSI));
    assert_int_equal(in16(m, PM + PM1_STATUS), 0);
    test_save_reset_restore(m);
    test_advance(m, 2000);
    assert_true(test_irq(m, PM_SCI_GSI));
    assert_int_equal(in16(m, PM + PM1_STATUS), PM1_TIMER);
    out16(m, PM + PM1_STATUS, PM1_TIMER);
    assert_false(test_irq(m, PM_SCI_GSI));
    test_advance(m, half);
    assert_int_equal(test_irq_edges(m, PM_SCI_GSI), 2);
    /* Not enabled: the status tells, the line does not. */
    out16(m, PM + PM1_ENABLE, 0);
    out16(m, PM + PM1_STATUS, 0xffff);
    test_advance(m, 10 * half);
    assert_int_equal(in16(m, PM + PM1_STATUS), PM1_TIMER);
    assert_int_equal(test_irq_edges(m, PM_SCI_GSI), 2);
}

static void button_interrupts(void **state)
{
    struct machine *m = *state;

    acpi_pm_power_button(test_device(m));
    assert_false(test_irq(m, PM_SCI_GSI));
    out16(m, PM + PM1_ENABLE, PM1_POWER_BUTTON);
    assert_true(test_irq(m, PM_SCI_GSI)); /* it was pressed before */
    out16(m, PM + PM1_STATUS, PM1_TIMER);
    assert_true(test_irq(m, PM_SCI_GSI)); /* another bit */
    test_save_reset_restore(m);
    out8(m, PM + PM1_STATUS + 1, PM1_POWER_BUTTON >> 8);
    assert_false(test_irq(m, PM_SCI_GSI));
    out32(m, PM + PM1_STATUS, 0xffffffff); /* both registers at once */
    assert_int_equal(in16(m, PM + PM1_ENABLE), 0x0721);
}

static void switches_off_and_resets(void **state)
{
    struct machine *m = *state;

    assert_int_equal(in16(m, PM + PM1_CONTROL), PM1_SCI_ENABLE);
    out16(m, PM + PM1_CONTROL, PM1_SCI_ENABLE | 5 << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_NONE); /* not asked yet */
    assert_int_equal(in16(m, PM + PM1_CONTROL), PM1_SCI_ENABLE | 5 << PM1_SLEEP_TYPE_SHIFT);
    out8(m, ACPI_PM_RESET, 6);
    assert_true(m->reset_requested);
    out8(m, PM + PM1_CONTROL + 1, (PM1_SLEEP_ENABLE | 5 << PM1_SLEEP_TYPE_SHIFT) >> 8);
    assert_int_equal(m->end, END_POWEROFF);
    assert_int_equal(in16(m, PM + PM1_CONTROL) & PM1_SLEEP_ENABLE, 0); /* reads as zero */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, test_machine_teardown)
    const struct CMUnitTest tests[] = {
        TEST(timer_counts),
        TEST(timer_interrupts),
        TEST(button_interrupts),
        TEST(switches_off_and_resets),
    };

    return cmocka_run_group_tests_name("pm", tests, NULL, NULL);
}
