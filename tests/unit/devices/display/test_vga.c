/* test_vga.c - the VGA at its registers, and the pictures that follow. */
#include "support/unit.h"

#include "devices/display/vga.h"
#include "display/display.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <errno.h>

enum { FRAME = 0xd0000000, REGISTERS = 0xe0000000 };

static struct display *display;

static int setup(void **state)
{
    struct machine *m;
    struct pci_host *h;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    m->config.display = display = display_new();
    if (!pci_host_add(m, "pci.0", NULL) ||
        test_add(m, &vga_type, "addr=2,xres=1024,yres=768", NULL))
        return -1;
    h = pci_bus_find(m, NULL)->host;
    pci_config_write(h, 0, 2 << 3, PCI_BAR0, FRAME, 4);
    pci_config_write(h, 0, 2 << 3, PCI_BAR0 + 8, REGISTERS, 4);
    pci_config_write(h, 0, 2 << 3, PCI_COMMAND, 3, 2);
    return 0;
}

static int teardown(void **state)
{
    int r = test_machine_teardown(state);

    display_free(display);
    return r;
}

static void set(struct machine *m, uint16_t port, uint8_t index, uint8_t value)
{
    out16(m, port, (uint16_t)(index | value << 8));
}

static void attribute(struct machine *m, uint8_t index, uint8_t value)
{
    in8(m, 0x3da);
    out8(m, 0x3c0, index);
    out8(m, 0x3c0, value);
}

static void vbe(struct machine *m, uint16_t index, uint16_t value)
{
    out16(m, 0x1ce, index);
    out16(m, 0x1cf, value);
}

static uint16_t vbe_get(struct machine *m, uint16_t index)
{
    out16(m, 0x1ce, index);
    return in16(m, 0x1d0);
}

/* What a screen shows, copied by display_look(). */
static struct {
    uint32_t width, height, columns, rows, cursor;
    uint32_t pixel[1024 * 768];
    struct screen_cell cell[200 * 100];
} seen;

static void look(void *opaque, const struct screen_surface *s)
{
    seen.width = s->width;
    seen.height = s->height;
    seen.columns = s->columns;
    seen.rows = s->rows;
    seen.cursor = s->cursor;
    assert_true(s->width <= 1024 && s->height <= 768);
    for (uint32_t y = 0; y < s->height; y++)
        memcpy(seen.pixel + y * s->width, s->pixels + y * s->stride / 4, s->width * 4);
    if (s->columns)
        memcpy(seen.cell, s->cells, sizeof(*s->cells) * s->columns * s->rows);
}

static uint32_t pixel(uint32_t x, uint32_t y)
{
    return seen.pixel[y * seen.width + x];
}

static void see(void)
{
    struct error err = {0};

    if (display_look(display, 0, look, NULL, &err) < 0)
        fail_msg("%s", err.text);
}

/* The colours of a text mode: attribute n is DAC entry n, and that is n times 4 of each. */
static void palette(struct machine *m)
{
    for (uint8_t i = 0; i < 16; i++)
        attribute(m, i, i);
    attribute(m, 0x10, 0x0c);
    attribute(m, 0x12, 0x0f);
    out8(m, 0x3c8, 0);
    for (unsigned i = 0; i < 16 * 3; i++)
        out8(m, 0x3c9, (uint8_t)(i / 3 * 4));
    in8(m, 0x3da);
    out8(m, 0x3c0, 0x20); /* the palette is the screen's */
}

static void text_mode(struct machine *m)
{
    static const uint8_t crtc[] = {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f,
                                   0,    0x4f, 0x0d, 0x0e, 0,    0,    0,    0,
                                   0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3};

    out8(m, 0x3c2, 0x67);
    set(m, 0x3c4, 1, 0);
    set(m, 0x3c4, 2, 3);
    set(m, 0x3c4, 4, 2);
    set(m, 0x3ce, 5, 0x10);
    set(m, 0x3ce, 6, 0x0e);
    set(m, 0x3ce, 8, 0xff);
    set(m, 0x3d4, 0x11, 0);
    for (uint8_t i = 0; i < sizeof(crtc); i++)
        set(m, 0x3d4, i, crtc[i]);
    palette(m);
}

static uint32_t grey(unsigned n)
{
    uint32_t c = n * 4 << 2 | n * 4 >> 4;

    return c << 16 | c << 8 | c;
}

static void shows_text(void **state)
{
    struct machine *m = *state;

    text_mode(m);
    /* a glyph for 'A': its top line is 0x81; fonts are in plane 2 */
    set(m, 0x3c4, 2, 4);
    set(m, 0x3c4, 4, 6);
    set(m, 0x3ce, 5, 0);
    set(m, 0x3ce, 6, 4);
    mmio_write(m, 0xa0000 + 'A' * 32, 0x81, 1);
    set(m, 0x3c4, 2, 3);
    set(m, 0x3c4, 4, 2);
    set(m, 0x3ce, 5, 0x10);
    set(m, 0x3ce, 6, 0x0e);
    mmio_write(m, 0xb8000 + 2 * (3 * 80 + 5), 'A' | 0x1e << 8, 2);
    assert_int_equal(mmio_read(m, 0xb8000 + 2 * (3 * 80 + 5), 2), 'A' | 0x1e << 8);
    set(m, 0x3d4, 0x0f, 81); /* cursor: second line, second column */
    see();
    assert_int_equal(seen.width, 720);
    assert_int_equal(seen.height, 400);
    assert_int_equal(seen.columns, 80);
    assert_int_equal(seen.rows, 25);
    assert_int_equal(seen.cursor, 81);
    assert_int_equal(seen.cell[3 * 80 + 5].code, 'A');
    assert_int_equal(seen.cell[3 * 80 + 5].attribute, 0x1e);
    assert_int_equal(pixel(45, 48), grey(14));
    assert_int_equal(pixel(46, 48), grey(1));
    assert_int_equal(pixel(52, 48), grey(14));
    assert_int_equal(pixel(53, 48), grey(1)); /* the ninth: letters end before */
    assert_int_equal(pixel(44, 48), 0);
    test_save_reset_restore(m);
    see();
    assert_int_equal(pixel(45, 48), grey(14));
    /* only what changed is another */
    mmio_write(m, 0xb8000, 'A' | 0x20 << 8, 2);
    see();
    assert_int_equal(pixel(1, 0), grey(2));
    assert_int_equal(pixel(0, 0), 0);
    assert_int_equal(pixel(45, 48), grey(14));
    set(m, 0x3d4, 0x0d, 80); /* one line up */
    see();
    assert_int_equal(pixel(45, 32), grey(14));
}

static void writes_planes(void **state)
{
    struct machine *m = *state;

    text_mode(m);
    set(m, 0x3c4, 2, 15);
    set(m, 0x3c4, 4, 6);
    set(m, 0x3ce, 5, 0);
    set(m, 0x3ce, 6, 5);
    mmio_write(m, 0xa0010, 0x5a, 1); /* all planes */
    for (uint8_t p = 0; p < 4; p++) {
        set(m, 0x3ce, 4, p);
        assert_int_equal(mmio_read(m, 0xa0010, 1), 0x5a);
    }
    set(m, 0x3ce, 0, 5); /* set/reset: planes 0 and 2 set, 1 reset, 3 by the CPU */
    set(m, 0x3ce, 1, 7);
    set(m, 0x3ce, 8, 0x0f);
    mmio_read(m, 0xa0010, 1); /* into the latches */
    mmio_write(m, 0xa0010, 0xc3, 1);
    for (uint8_t p = 0; p < 4; p++) {
        static const uint8_t want[] = {0x5f, 0x50, 0x5f, 0x53};

        set(m, 0x3ce, 4, p);
        assert_int_equal(mmio_read(m, 0xa0010, 1), want[p]);
    }
    set(m, 0x3ce, 5, 0x08); /* read by colour: where planes are 0101 */
    set(m, 0x3ce, 2, 5);
    set(m, 0x3ce, 7, 15);
    assert_int_equal(mmio_read(m, 0xa0010, 1), 0x5f & (uint8_t)~0x50 & 0x5f & (uint8_t)~0x53);
    set(m, 0x3ce, 5, 1); /* copy the latches */
    mmio_read(m, 0xa0010, 1);
    mmio_write(m, 0xa0020, 0, 1);
    set(m, 0x3ce, 5, 2); /* a colour for the masked bits */
    mmio_read(m, 0xa0020, 1);
    mmio_write(m, 0xa0020, 8, 1);
    set(m, 0x3ce, 5, 0);
    for (uint8_t p = 0; p < 4; p++) {
        static const uint8_t want[] = {0x50, 0x50, 0x50, 0x5f};

        set(m, 0x3ce, 4, p);
        assert_int_equal(mmio_read(m, 0xa0020, 1), want[p]);
    }
    set(m, 0x3ce, 8, 0xff);
    set(m, 0x3ce, 1, 0);
    set(m, 0x3ce, 3, 0x18 | 4); /* exclusive or, after a turn by four */
    mmio_read(m, 0xa0020, 1);
    mmio_write(m, 0xa0020, 0x0f, 1);
    set(m, 0x3ce, 4, 0);
    assert_int_equal(mmio_read(m, 0xa0020, 1), 0x50 ^ 0xf0);
}

static void shows_a_frame_buffer(void **state)
{
    struct machine *m = *state;

    assert_int_equal(vbe_get(m, VBE_ID), 0xb0c5);
    assert_int_equal(vbe_get(m, VBE_MEMORY), 256);
    vbe(m, VBE_ENABLE, VBE_GET_LIMITS);
    assert_int_equal(vbe_get(m, VBE_WIDTH), SCREEN_MAX_WIDTH);
    assert_int_equal(vbe_get(m, VBE_BPP), 32);
    vbe(m, VBE_ENABLE, 0);
    vbe(m, VBE_WIDTH, 640);
    vbe(m, VBE_HEIGHT, 480);
    vbe(m, VBE_BPP, 32);
    vbe(m, VBE_ENABLE, VBE_ENABLED | VBE_LINEAR);
    assert_int_equal(vbe_get(m, VBE_VIRTUAL_WIDTH), 640);
    mmio_write(m, FRAME + (10 * 640 + 20) * 4, 0xff123456, 4);
    see();
    assert_int_equal(seen.width, 640);
    assert_int_equal(seen.height, 480);
    assert_int_equal(seen.columns, 0);
    assert_int_equal(pixel(20, 10), 0x123456);
    assert_int_equal(pixel(21, 10), 0);
    mmio_write(m, FRAME + (479 * 640 + 639) * 4, 0x00fedcba, 4);
    see();
    assert_int_equal(pixel(639, 479), 0xfedcba);
    vbe(m, VBE_VIRTUAL_WIDTH, 800);
    vbe(m, VBE_X, 16);
    vbe(m, VBE_Y, 2);
    mmio_write(m, FRAME + (2 * 800 + 16) * 4, 0x010203, 4);
    see();
    assert_int_equal(pixel(0, 0), 0x010203);
    test_save_reset_restore(m);
    see();
    assert_int_equal(pixel(0, 0), 0x010203);
    /* other depths, by the registers in the BAR */
    vbe(m, VBE_ENABLE, 0);
    mmio_write(m, REGISTERS + 0x500 + 2 * VBE_BPP, 16, 2);
    vbe(m, VBE_ENABLE, VBE_ENABLED | VBE_LINEAR);
    mmio_write(m, FRAME, 0xf81f, 2);
    see();
    assert_int_equal(pixel(0, 0), 0xff00ff);
    vbe(m, VBE_ENABLE, 0);
    vbe(m, VBE_BPP, 8);
    vbe(m, VBE_ENABLE, VBE_ENABLED | VBE_DAC_8);
    out8(m, 0x3c8, 9);
    out8(m, 0x3c9, 0x80);
    out8(m, 0x3c9, 0x40);
    out8(m, 0x3c9, 0xff);
    mmio_write(m, FRAME, 9, 1);
    see();
    assert_int_equal(pixel(0, 0), 0x8040ff);
}

static void bounds_what_it_is_asked(void **state)
{
    struct machine *m = *state;
    struct error err = {0};

    vbe(m, VBE_WIDTH, 0xffff);
    vbe(m, VBE_HEIGHT, 0xffff);
    vbe(m, VBE_BPP, 77);
    vbe(m, VBE_ENABLE, VBE_ENABLED);
    assert_int_equal(vbe_get(m, VBE_BPP), 8);
    assert_true(vbe_get(m, VBE_WIDTH) * vbe_get(m, VBE_HEIGHT) <= 16 * MiB);
    vbe(m, VBE_Y, 0xffff);
    assert_int_equal(vbe_get(m, VBE_Y), 0);
    vbe(m, VBE_BANK, 0x1fff);
    assert_true(vbe_get(m, VBE_BANK) < 256);
    assert_true(test_add(m, &vga_type, "vgamem_mb=3", &err) == -EINVAL);
    assert_string_equal(err.text, "VGA: vgamem_mb=3 is not a power of two from 1 to 512");
}

static void describes_its_screen(void **state)
{
    struct machine *m = *state;
    uint8_t sum = 0;

    assert_int_equal(mmio_read(m, REGISTERS, 8), 0x00ffffffffffff00);
    for (unsigned i = 0; i < VGA_EDID; i++)
        sum = (uint8_t)(sum + mmio_read(m, REGISTERS + i, 1));
    assert_int_equal(sum, 0);
    assert_int_equal(
        mmio_read(m, REGISTERS + 56, 1) | (mmio_read(m, REGISTERS + 58, 1) & 0xf0) << 4, 1024);
    assert_int_equal(mmio_read(m, REGISTERS + 0x604, 4), 0x1e1e1e1e);
    mmio_write(m, REGISTERS + 0x400 + 0x0e, 0x0f08, 2); /* graphics index and data */
    out8(m, 0x3ce, 8);
    assert_int_equal(in8(m, 0x3cf), 0x0f);
    /* the retrace comes and goes */
    for (unsigned i = 0, changes = 0, before = 0; changes < 3; i++) {
        unsigned now = in8(m, 0x3da) & 8;

        assert_true(i < 10000);
        changes += now != before;
        before = now;
        test_advance(m, 20000);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(shows_text),           TEST(writes_planes),
        TEST(shows_a_frame_buffer), TEST(bounds_what_it_is_asked),
        TEST(describes_its_screen),
    };

    return cmocka_run_group_tests_name("vga", tests, NULL, NULL);
}
