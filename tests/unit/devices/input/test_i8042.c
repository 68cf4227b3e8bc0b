#include "support/unit.h"

#include "devices/input/i8042.h"
#include "support/test_machine.h"

enum { KEY_A = 30, KEY_UP = 103, KEY_PRINT = 99, KEY_PAUSE = 119, KEY_F7 = 65 };
enum { KEYBOARD_IRQ = 1, MOUSE_IRQ = 12 };

static int setup(void **state)
{
    if (test_machine_setup(state) < 0)
        return -1;
    return test_add(*state, &i8042_type, NULL, NULL);
}

static void command(struct machine *m, uint8_t c)
{
    out8(m, I8042_STATUS, c);
}

static void expect(struct machine *m, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, STATUS_OBF);
        assert_int_equal(in8(m, I8042_DATA), bytes[i]);
    }
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, 0);
}
#define EXPECT(m, ...)                                                                             \
    expect(m, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void set_mode(struct machine *m, uint8_t mode)
{
    command(m, 0x60);
    out8(m, I8042_DATA, mode);
}

static void mouse_write(struct machine *m, uint8_t byte)
{
    command(m, 0xd4);
    out8(m, I8042_DATA, byte);
}

static void self_test_and_ram(void **state)
{
    struct machine *m = *state;

    command(m, 0xaa);
    EXPECT(m, 0x55);
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_SYSTEM, STATUS_SYSTEM);
    command(m, 0xab);
    EXPECT(m, 0);
    command(m, 0x65);
    test_save_reset_restore(m); /* between command and argument */
    out8(m, I8042_DATA, 0x99);
    command(m, 0x25);
    EXPECT(m, 0x99);
    command(m, 0x20);
    EXPECT(m, MODE_KEYBOARD_INT | MODE_MOUSE_INT | MODE_TRANSLATE | MODE_SYSTEM);
}

static void keys_are_translated_to_set_1(void **state)
{
    struct machine *m = *state;
    struct device *dev = test_device(m);

    i8042_key(dev, KEY_A, true);
    assert_true(test_irq(m, KEYBOARD_IRQ));
    assert_int_equal(in8(m, I8042_DATA), 0x1e);
    assert_false(test_irq(m, KEYBOARD_IRQ));
    i8042_key(dev, KEY_A, false);
    i8042_key(dev, KEY_UP, true);
    test_save_reset_restore(m);
    EXPECT(m, 0x9e, 0xe0, 0x48);
    i8042_key(dev, KEY_UP, false);
    i8042_key(dev, KEY_F7, true);
    i8042_key(dev, KEY_F7, false);
    EXPECT(m, 0xe0, 0xc8, 0x41, 0xc1);
    i8042_key(dev, KEY_PRINT, true);
    i8042_key(dev, KEY_PRINT, false);
    EXPECT(m, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
    i8042_key(dev, KEY_PAUSE, true);
    i8042_key(dev, KEY_PAUSE, false);
    EXPECT(m, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    i8042_key(dev, 0, true);
    i8042_key(dev, 9999, true);
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, 0);
}

/* Every key below 88 comes out as its own code: the two tables are inverse to each other. */
static void both_tables_agree(void **state)
{
    struct machine *m = *state;

    for (unsigned key = 1; key <= 88; key++) {
        if (key == 84 || key == 85) /* SysRq is made by Print; 85 is unassigned */
            continue;
        i8042_key(test_device(m), key, true);
        i8042_key(test_device(m), key, false);
        EXPECT(m, (uint8_t)key, (uint8_t)(key | 0x80));
    }
}

static void untranslated_is_set_2(void **state)
{
    struct machine *m = *state;

    set_mode(m, MODE_KEYBOARD_INT);
    i8042_key(test_device(m), KEY_A, true);
    i8042_key(test_device(m), KEY_A, false);
    EXPECT(m, 0x1c, 0xf0, 0x1c);
    out8(m, I8042_DATA, 0xf0); /* scan set */
    EXPECT(m, 0xfa);
    out8(m, I8042_DATA, 0x01);
    EXPECT(m, 0xfa);
    test_save_reset_restore(m);
    i8042_key(test_device(m), KEY_UP, true);
    EXPECT(m, 0xe0, 0x48);
    out8(m, I8042_DATA, 0xf0);
    out8(m, I8042_DATA, 0x00);
    EXPECT(m, 0xfa, 0xfa, 0x01);
    out8(m, I8042_DATA, 0xf0);
    EXPECT(m, 0xfa);
    out8(m, I8042_DATA, 0x07);
    EXPECT(m, 0xfe);
}

static void keyboard_commands(void **state)
{
    struct machine *m = *state;

    set_mode(m, 0);
    out8(m, I8042_DATA, 0xff);
    EXPECT(m, 0xfa, 0xaa);
    out8(m, I8042_DATA, 0xf2);
    EXPECT(m, 0xfa, 0xab, 0x83);
    out8(m, I8042_DATA, 0xee);
    EXPECT(m, 0xee);
    out8(m, I8042_DATA, 0xed);
    EXPECT(m, 0xfa);
    out8(m, I8042_DATA, 0x07);
    EXPECT(m, 0xfa);
    out8(m, I8042_DATA, 0x17);
    EXPECT(m, 0xfe);
    out8(m, I8042_DATA, 0xf5); /* off */
    EXPECT(m, 0xfa);
    i8042_key(test_device(m), KEY_A, true);
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, 0);
}

static void a_full_queue_drops_whole_codes(void **state)
{
    struct machine *m = *state;
    unsigned whole = 0;

    set_mode(m, MODE_TRANSLATE | MODE_KEYBOARD_OFF);
    for (unsigned i = 0; i < 200; i++)
        i8042_key(test_device(m), KEY_UP, true);
    command(m, 0xae);
    while (in8(m, I8042_STATUS) & STATUS_OBF) {
        assert_int_equal(in8(m, I8042_DATA), 0xe0);
        assert_int_equal(in8(m, I8042_DATA), 0x48);
        whole++;
    }
    assert_in_range(whole, 10, 40);
}

static void the_mouse_reports(void **state)
{
    struct machine *m = *state;

    mouse_write(m, 0xff);
    assert_true(test_irq(m, MOUSE_IRQ));
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_MOUSE_OBF, STATUS_MOUSE_OBF);
    EXPECT(m, 0xfa, 0xaa, 0x00);
    i8042_mouse(test_device(m), 5, 5, 0, 0); /* not enabled: kept back */
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, 0);
    mouse_write(m, 0xf4);
    EXPECT(m, 0xfa, 0x08, 5, 5);
    i8042_mouse(test_device(m), -1, 300, 0, 1);
    test_save_reset_restore(m);
    EXPECT(m, 0x19, 0xff, 0xff, 0x09, 0, 45);
    i8042_mouse(test_device(m), 0, 0, 0, 1); /* nothing new */
    assert_int_equal(in8(m, I8042_STATUS) & STATUS_OBF, 0);
}

static void the_knock_makes_a_wheel(void **state)
{
    struct machine *m = *state;
    static const uint8_t rates[] = {200, 100, 80};

    for (unsigned i = 0; i < 3; i++) {
        mouse_write(m, 0xf3);
        mouse_write(m, rates[i]);
        EXPECT(m, 0xfa, 0xfa);
    }
    mouse_write(m, 0xf2);
    EXPECT(m, 0xfa, 3);
    mouse_write(m, 0xf4);
    EXPECT(m, 0xfa);
    test_save_reset_restore(m);
    i8042_mouse(test_device(m), 0, 0, 2, 4);
    EXPECT(m, 0x0c, 0, 0, 0xfe);
    mouse_write(m, 0xe9);
    EXPECT(m, 0xfa, 0x22, 2, 80);
}

static void a20_and_reset(void **state)
{
    struct machine *m = *state;

    assert_true(machine_a20(m));
    command(m, 0xd1);
    out8(m, I8042_DATA, 0xdd);
    assert_false(machine_a20(m));
    command(m, 0xd0);
    EXPECT(m, 0xc1);
    command(m, 0xdf);
    assert_true(machine_a20(m));
    assert_false(m->reset_requested);
    command(m, 0xff); /* pulses nothing */
    assert_false(m->reset_requested);
    command(m, 0xfe);
    assert_true(m->reset_requested);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(self_test_and_ram), CASE(keys_are_translated_to_set_1),
        CASE(both_tables_agree), CASE(untranslated_is_set_2),
        CASE(keyboard_commands), CASE(a_full_queue_drops_whole_codes),
        CASE(the_mouse_reports), CASE(the_knock_makes_a_wheel),
        CASE(a20_and_reset),
    };
    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
