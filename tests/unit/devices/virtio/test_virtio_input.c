/* test_virtio_input.c - what the devices say of themselves, and reports from a display. */
#include "support/unit.h"

#include "driver.h"

#include "display/display.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/input-event-codes.h>
#include <linux/virtio_input.h>

static struct display *display;

static int setup(void **state)
{
    if (test_machine_setup(state) < 0)
        return -1;
    display = display_new();
    ((struct machine *)*state)->config.display = display;
    return 0;
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    display_free(display);
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via, const char *name)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, name, "serial=no-7", &err))
        fail_msg("%s", err.text);
    driver_start(d, ~UINT64_C(0));
}

/* The window of a selector; its size. */
static unsigned window(struct driver *d, uint8_t select, uint8_t subselect, uint8_t *to)
{
    unsigned size;

    driver_set_config(d, 0, select, 1);
    driver_set_config(d, 1, subselect, 1);
    size = (unsigned)driver_config(d, 2, 1);
    assert_true(size <= 128);
    for (unsigned i = 0; i < 128; i++)
        to[i] = (uint8_t)driver_config(d, 8 + i, 1);
    return size;
}

static bool has_bit(const uint8_t *bits, unsigned n)
{
    return bits[n / 8] >> n % 8 & 1;
}

static void devices_describe_themselves(void **state)
{
    static const struct {
        const char *type, *name;
        bool keys, relative, absolute;
    } kinds[] = {
        {"virtio-keyboard", "Hospes Virtio Keyboard", true, false, false},
        {"virtio-mouse", "Hospes Virtio Mouse", false, true, false},
        {"virtio-tablet", "Hospes Virtio Tablet", false, false, true},
    };
    uint8_t w[129] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct driver d;

        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, i == 1 ? VIA_MMIO : VIA_MODERN, kinds[i].type);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_ID_NAME, 0, w), strlen(kinds[i].name));
        assert_string_equal(w, kinds[i].name);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_ID_SERIAL, 0, w), 4);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_ID_DEVIDS, 0, w), 8);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_EV_BITS, EV_KEY, w) > 0, 1);
        assert_int_equal(has_bit(w, KEY_A), kinds[i].keys);
        assert_int_equal(has_bit(w, BTN_LEFT % 1024), !kinds[i].keys);
        window(&d, VIRTIO_INPUT_CFG_EV_BITS, EV_REL, w);
        assert_int_equal(has_bit(w, REL_X), kinds[i].relative);
        test_save_reset_restore(d.m);
        assert_int_equal(driver_config(&d, 1, 1), EV_REL);
        window(&d, VIRTIO_INPUT_CFG_EV_BITS, EV_ABS, w);
        assert_int_equal(has_bit(w, ABS_Y), kinds[i].absolute);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_ABS_INFO, ABS_X, w),
                         kinds[i].absolute ? 20 : 0);
        assert_int_equal(load_le(w + 4, 4), kinds[i].absolute ? 32767 : 0);
        assert_int_equal(window(&d, 0x77, 0, w), 0);
        assert_int_equal(window(&d, VIRTIO_INPUT_CFG_ABS_INFO, 99, w), 0);
    }
}

static gpa buffers[16];

static void give_buffers(struct driver *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        buffers[i] = driver_alloc(d, 8);
        driver_add(d, 0, &(struct driver_buffer){buffers[i], 8, true}, 1);
    }
    driver_kick(d, 0);
}

static void expect(struct driver *d, unsigned n, unsigned type, unsigned code, int32_t value)
{
    uint8_t e[8];
    uint32_t written;

    assert_int_equal(driver_used(d, 0, &written), n);
    assert_int_equal(written, 8);
    driver_get(d, buffers[n], e, 8);
    assert_int_equal(load_le(e, 2), type);
    assert_int_equal(load_le(e + 2, 2), code);
    assert_int_equal((int32_t)load_le(e + 4, 4), value);
}

static void keys_arrive(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "virtio-keyboard");
    input_key(display, KEY_A, true); /* no buffers: lost as a whole */
    give_buffers(&d, 3);
    input_key(display, KEY_B, true);
    expect(&d, 0, EV_KEY, KEY_B, 1);
    expect(&d, 1, EV_SYN, SYN_REPORT, 0);
    input_key(display, KEY_B, false); /* room for one of two */
    assert_int_equal(driver_used(&d, 0, NULL), -1);
}

static void the_tablet_takes_positions_only_while_it_is_used(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "virtio-tablet");
    assert_true(input_is_absolute(display));
    give_buffers(&d, 8);
    input_pointer(display, 50, 25, 101, 101, INPUT_LEFT, 1, 0);
    expect(&d, 0, EV_ABS, ABS_X, 50 * 32767 / 100);
    expect(&d, 1, EV_ABS, ABS_Y, 25 * 32767 / 100);
    expect(&d, 2, EV_REL, REL_WHEEL, 1);
    expect(&d, 3, EV_KEY, BTN_LEFT, 1);
    expect(&d, 4, EV_SYN, SYN_REPORT, 0);
    test_save_reset_restore(d.m);
    assert_true(input_is_absolute(display));
    driver_reset(&d);
    assert_false(input_is_absolute(display));
}

static void the_mouse_moves(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "virtio-mouse");
    give_buffers(&d, 8);
    input_move(display, 5, -7, 0, 0, 0);
    expect(&d, 0, EV_REL, REL_X, 5);
    expect(&d, 1, EV_REL, REL_Y, -7);
    expect(&d, 2, EV_SYN, SYN_REPORT, 0);
    driver_do(&d, 1, &(struct driver_buffer){driver_alloc(&d, 8), 8, false}, 1); /* status */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(devices_describe_themselves),
        TEST(keys_arrive),
        TEST(the_tablet_takes_positions_only_while_it_is_used),
        TEST(the_mouse_moves),
    };

    return cmocka_run_group_tests_name("virtio-input", tests, NULL, NULL);
}
