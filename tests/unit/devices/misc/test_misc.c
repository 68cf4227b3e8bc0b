#include "support/unit.h"

#include "chardev/chardev.h"
#include "devices/misc/misc.h"
#include "support/test_machine.h"

static void debug_exit_ends_with_its_status(void **state)
{
    struct machine *m = *state;

    assert_int_equal(test_add(m, &isa_debug_exit_type, "iobase=0x501", NULL), 0);
    assert_int_equal(in8(m, 0x501), 0);
    out8(m, 0x501, 0x10);
    assert_int_equal(m->end, END_DEBUG);
    assert_int_equal(m->debug_code, 0x21);
    out8(m, 0x501, 0x11); /* too late */
    assert_int_equal(m->debug_code, 0x21);
}

static void debug_exit_names_bad_ports(void **state)
{
    struct error err = {0};

    assert_int_equal(test_add(*state, &isa_debug_exit_type, "iobase=0xffff,iosize=2", &err),
                     -EINVAL);
    assert_string_equal(err.text,
                        "isa-debug-exit: ports 0xffff to 0x10000 are not within 0 to 0xffff");
    assert_int_equal(test_add(*state, &isa_debug_exit_type, "iobase=frog", &err), -EINVAL);
    assert_string_equal(err.text,
                        "isa-debug-exit: iobase=frog is not a number from 0 to 4294967295");
}

static void debugcon_passes_bytes_on(void **state)
{
    struct machine *m = *state;
    struct chardev *c = chardev_memory(NULL, 16);
    struct device *dev = device_new(m, &debugcon_type, NULL);
    char text[4] = {0};

    device_set_ref(dev, "chardev", c);
    assert_int_equal(device_realize(dev, NULL), 0);
    assert_int_equal(in8(m, 0xe9), 0xe9);
    out8(m, 0xe9, 'o');
    out8(m, 0xe9, 'k');
    assert_int_equal(chardev_memory_take(c, text, sizeof(text)), 2);
    assert_string_equal(text, "ok");
    device_free(dev);
    chardev_free(c);
    assert_int_equal(in8(m, 0xe9), 0xff); /* its port went with it */
}

static void pvpanic_reports(void **state)
{
    struct machine *m = *state;

    assert_int_equal(test_add(m, &pvpanic_type, NULL, NULL), 0);
    assert_int_equal(in8(m, 0x505), 3);
    out8(m, 0x505, 2);
    out8(m, 0x505, 0xf0);
    assert_int_equal(m->end, END_NONE);
    out8(m, 0x505, 1);
    assert_int_equal(m->end, END_PANIC);
}

static void pvpanic_refuses_unknown_events(void **state)
{
    struct error err = {0};

    assert_int_equal(test_add(*state, &pvpanic_type, "events=4", &err), -EINVAL);
    assert_string_equal(err.text, "pvpanic: events=4 has unknown bits, the known ones are 3");
}

static void port92_drives_a20_and_reset(void **state)
{
    struct machine *m = *state;

    assert_int_equal(test_add(m, &port92_type, NULL, NULL), 0);
    assert_int_equal(in8(m, 0x92), 2);
    out8(m, 0x92, 0);
    assert_false(machine_a20(m));
    out8(m, 0x92, 0x82);
    test_save_reset_restore(m);
    assert_int_equal(in8(m, 0x92), 0x82);
    assert_false(m->reset_requested);
    out8(m, 0x92, 3);
    assert_true(m->reset_requested);
    m->reset_requested = false;
    out8(m, 0x92, 3); /* no rising edge */
    assert_false(m->reset_requested);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, test_machine_setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(debug_exit_ends_with_its_status), CASE(debug_exit_names_bad_ports),
        CASE(debugcon_passes_bytes_on),        CASE(pvpanic_reports),
        CASE(pvpanic_refuses_unknown_events),  CASE(port92_drives_a20_and_reset),
    };
    return cmocka_run_group_tests_name("misc", tests, NULL, NULL);
}
