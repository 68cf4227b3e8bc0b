/*
 * vga_draw.c - from the VGA's registers and memory to pixels, and in text modes to cells.
 *
 * Drawing holds the screen's lock and works on a copy of the registers; video memory is read while
 * the guest writes it, as a real screen does. Text is compared with what was drawn, graphics are
 * drawn where pages were written.
 */
#include "devices/display/vga.h"
#include "display/display.h"
#include "machine/machine.h"
#include "memory/ram.h"

#include <stdlib.h>

enum { ATTR_MODE = 16, ATTR_LINE_GRAPHICS = 4, ATTR_P54 = 0x80, ATTR_INDEX_SCREEN = 0x20 };

void vga_mode(const struct vga_registers *r, uint32_t vram_size, struct vga_mode *m)
{
    const uint8_t *c = r->crtc;
    uint32_t lines = (c[0x12] | (c[7] & 2u) << 7 | (c[7] & 0x40u) << 3) + 1;
    uint32_t scan = (c[9] & 31u) + 1;

    memset(m, 0, sizeof(*m));
    if (r->vbe[VBE_ENABLE] & VBE_ENABLED) {
        uint32_t bits = r->vbe[VBE_BPP], bytes = (bits + 7) / 8;

        m->kind = bits == 4    ? VGA_PLANAR
                  : bits == 8  ? VGA_PACKED_8
                  : bits == 15 ? VGA_15
                  : bits == 16 ? VGA_16
                  : bits == 24 ? VGA_24
                               : VGA_32;
        m->width = r->vbe[VBE_WIDTH];
        m->height = r->vbe[VBE_HEIGHT];
        m->repeat = 1;
        m->unit = 4;
        m->stride = bits == 4 ? r->vbe[VBE_VIRTUAL_WIDTH] / 2 : r->vbe[VBE_VIRTUAL_WIDTH] * bytes;
        m->start = m->stride * r->vbe[VBE_Y] +
                   (bits == 4 ? r->vbe[VBE_X] / 2 : r->vbe[VBE_X] * bytes);
        return;
    }
    if (!(r->attribute_index & ATTR_INDEX_SCREEN)) /* the palette is being loaded: dark */
        return;
    /* In word mode the counter's addresses are doubled. Chained memory has no gaps here, where the
     * hardware's has them and doubles once more. */
    m->unit = c[0x17] & 0x40 || c[0x14] & 0x40 ? 4 : 8;
    m->start = ((uint32_t)c[0xc] << 8 | c[0xd]) * m->unit & (vram_size - 1);
    m->stride = (uint32_t)c[0x13] * 2 * m->unit;
    if (!(r->graphics[6] & 1)) {
        m->kind = VGA_TEXT;
        m->cell_width = r->sequencer[1] & 1 ? 8 : 9;
        m->cell_height = scan;
        m->columns = MIN(c[1] + 1u, (uint32_t)SCREEN_MAX_CELLS);
        m->rows = MIN(lines / scan, (uint32_t)SCREEN_MAX_CELLS);
        m->width = m->columns * m->cell_width;
        m->height = m->rows * m->cell_height;
        return;
    }
    m->repeat = (c[9] & 0x80 ? 2 : 1) * scan;
    m->width = (c[1] + 1u) * 8;
    m->height = lines;
    switch (r->graphics[5] >> 5 & 3) {
    case 0:
        m->kind = VGA_PLANAR;
        if (r->sequencer[1] & 8)
            m->width *= 2;
        if (!(c[0x17] & 1)) /* lines of the CGA's 640x200 alternate */
            m->repeat = c[9] & 0x80 ? 2 : 1;
        break;
    case 1: m->kind = VGA_CGA; break;
    default:
        m->kind = VGA_PACKED_8;
        if (c[1] < 100 && r->attribute[ATTR_MODE] & 0x40)
            m->width /= 2; /* two clocks a pixel */
        break;
    }
}

/* ---- colours -----------------------------------------------------------------------------------
 */

static uint32_t dac_colour(const struct vga_registers *r, uint8_t index)
{
    const uint8_t *c = r->dac + 3 * (index & r->dac_mask);
    bool wide = r->vbe[VBE_ENABLE] & VBE_DAC_8;
    uint32_t rgb = 0;

    for (unsigned i = 0; i < 3; i++)
        rgb = rgb << 8 | (wide ? c[i] : (uint8_t)(c[i] << 2 | (c[i] & 0x3f) >> 4));
    return rgb;
}

static void palette_16(const struct vga_registers *r, uint32_t out[16])
{
    for (unsigned i = 0; i < 16; i++) {
        uint8_t entry = r->attribute[i];

        if (r->attribute[ATTR_MODE] & ATTR_P54)
            entry = (uint8_t)((entry & 15) | (r->attribute[20] & 15) << 4);
        else
            entry = (uint8_t)((entry & 0x3f) | (r->attribute[20] & 12) << 4);
        out[i] = dac_colour(r, entry);
    }
}

/* ---- text --------------------------------------------------------------------------------------
 */

static void draw_cell(struct screen_surface *s, const struct vga_mode *m, uint32_t x, uint32_t y,
                      const uint8_t *glyph, bool joined, uint32_t front, uint32_t back)
{
    for (uint32_t row = 0; row < m->cell_height; row++) {
        uint32_t *to = s->pixels + (size_t)(y + row) * (s->stride / 4) + x;
        uint8_t bits = glyph[row & 31];

        for (unsigned i = 0; i < 8; i++)
            to[i] = bits & 0x80 >> i ? front : back;
        if (m->cell_width == 9)
            to[8] = joined && bits & 1 ? front : back;
    }
}

/* The two fonts: plane 2, 32 bytes for each character. */
static bool load_fonts(struct vga *v, const struct vga_registers *r, bool whole)
{
    uint8_t select = r->sequencer[3];
    const unsigned which[2] = {(select >> 4 & 1) | (select << 1 & 6),
                               (select >> 5 & 1) | (select >> 1 & 6)};
    bool changed = whole;

    for (unsigned f = 0; f < 2; f++)
        for (unsigned i = 0; i < VGA_FONT; i++) {
            uint64_t at = ((uint64_t)which[f] * VGA_FONT + i) * 4 + 2;
            uint8_t byte = v->vram->host[at & (v->vram->size - 1)];

            changed |= v->text->font[f][i] != byte;
            v->text->font[f][i] = byte;
        }
    return changed;
}

static uint32_t cursor_cell(const struct vga_registers *r, const struct vga_mode *m)
{
    uint32_t at = ((uint32_t)r->crtc[0xe] << 8 | r->crtc[0xf]) -
                  ((uint32_t)r->crtc[0xc] << 8 | r->crtc[0xd]);

    if (r->crtc[0xa] & 0x20 || (r->crtc[0xa] & 31) > (r->crtc[0xb] & 31) ||
        at >= m->columns * m->rows)
        return m->columns * m->rows;
    return at;
}

static void draw_cursor(struct screen_surface *s, const struct vga_registers *r,
                        const struct vga_mode *m, uint32_t cell, uint32_t colour)
{
    uint32_t x = cell % m->columns * m->cell_width, y = cell / m->columns * m->cell_height;
    uint32_t first = r->crtc[0xa] & 31, last = MIN(r->crtc[0xb] & 31u, m->cell_height - 1);

    for (uint32_t row = first; row <= last; row++)
        for (uint32_t i = 0; i < m->cell_width; i++)
            s->pixels[(size_t)(y + row) * (s->stride / 4) + x + i] = colour;
}

static void draw_text(struct vga *v, struct screen *screen, const struct vga_registers *r,
                      const struct vga_mode *m, bool whole)
{
    struct screen_surface *s = screen_surface(screen);
    struct vga_text *t = v->text;
    uint32_t palette[16], cursor = cursor_cell(r, m), changed = 0;
    bool two_fonts = (r->sequencer[3] >> 4 & 1) != (r->sequencer[3] >> 5 & 1) ||
                     (r->sequencer[3] & 3) != (r->sequencer[3] >> 2 & 3);

    if (s->columns != m->columns || s->rows != m->rows) {
        if (!screen_set_text(screen, m->columns, m->rows))
            return;
        whole = true;
    }
    whole |= load_fonts(v, r, whole) || t->columns != m->columns || t->rows != m->rows;
    t->columns = m->columns;
    t->rows = m->rows;
    palette_16(r, palette);
    for (uint32_t i = 0; i < m->columns * m->rows; i++) {
        uint32_t x = i % m->columns, y = i / m->columns;
        const uint8_t *from = v->vram->host + ((m->start + y * m->stride + x * m->unit) &
                                               (v->vram->size - 1) & ~3u);
        uint8_t code = from[0], attribute = from[1];
        uint16_t now = (uint16_t)(code | attribute << 8);
        uint8_t font = two_fonts && attribute & 8 ? 0 : 1;

        if (!whole && now == t->cells[i] &&
            (cursor == t->cursor || (i != cursor && i != t->cursor)))
            continue;
        t->cells[i] = now;
        s->cells[i] = (struct screen_cell){code, attribute};
        draw_cell(s, m, x * m->cell_width, y * m->cell_height,
                  t->font[two_fonts ? font : 0] + code * 32,
                  r->attribute[ATTR_MODE] & ATTR_LINE_GRAPHICS && (code & 0xe0) == 0xc0,
                  palette[attribute & (two_fonts ? 7 : 15)],
                  palette[attribute >> 4 & (r->attribute[ATTR_MODE] & 8 ? 7 : 15)]);
        if (i == cursor)
            draw_cursor(s, r, m, i, palette[attribute & 15]);
        screen_dirty(screen, x * m->cell_width, y * m->cell_height, m->cell_width, m->cell_height);
        changed++;
    }
    if (changed || cursor != t->cursor) {
        s->cursor = cursor;
        t->cursor = cursor;
        screen_cells_dirty(screen);
    }
}

/* ---- graphics ----------------------------------------------------------------------------------
 */

static uint8_t expand(uint32_t value, unsigned bits)
{
    return (uint8_t)(value << (8 - bits) | value >> (2 * bits - 8));
}

static uint32_t pixel(const struct vga *v, const struct vga_mode *m, uint64_t line, uint32_t x,
                      const uint32_t *palette)
{
    const uint8_t *ram = v->vram->host;
    uint64_t last = v->vram->size - 1, at;
    uint32_t c;

    switch (m->kind) {
    case VGA_PLANAR: {
        const uint8_t *p = ram + ((line + x / 8 * m->unit) & last & ~UINT64_C(3));
        unsigned bit = 7 - x % 8;

        return palette[(p[0] >> bit & 1) | (p[1] >> bit & 1) << 1 | (p[2] >> bit & 1) << 2 |
                       (p[3] >> bit & 1) << 3];
    }
    case VGA_CGA: { /* two bits a pixel; planes 0 and 1 have alternating bytes */
        const uint8_t *p = ram + ((line + x / 8 * m->unit) & last & ~UINT64_C(3));
        uint8_t byte = p[x / 4 & 1];

        return palette[byte >> (6 - 2 * (x % 4)) & 3];
    }
    case VGA_PACKED_8: return palette[ram[(line + x) & last]];
    case VGA_15:
        at = (line + 2 * (uint64_t)x) & last & ~UINT64_C(1);
        c = (uint32_t)load_le(ram + at, 2);
        return (uint32_t)expand(c >> 10 & 31, 5) << 16 | (uint32_t)expand(c >> 5 & 31, 5) << 8 |
               expand(c & 31, 5);
    case VGA_16:
        at = (line + 2 * (uint64_t)x) & last & ~UINT64_C(1);
        c = (uint32_t)load_le(ram + at, 2);
        return (uint32_t)expand(c >> 11 & 31, 5) << 16 | (uint32_t)expand(c >> 5 & 63, 6) << 8 |
               expand(c & 31, 5);
    case VGA_24:
        at = line + 3 * (uint64_t)x;
        return ram[at & last] | (uint32_t)ram[(at + 1) & last] << 8 |
               (uint32_t)ram[(at + 2) & last] << 16;
    case VGA_32:
        at = (line + 4 * (uint64_t)x) & last & ~UINT64_C(3);
        return (uint32_t)load_le(ram + at, 4) & 0xffffff;
    default: return 0;
    }
}

/* Take the marks of the pages a picture is in; the map of what was written is the caller's. */
static bool take_dirty(struct vga *v, uint8_t *pages, uint64_t count)
{
    bool any = false;

    for (uint64_t i = 0; i < count; i++) {
        pages[i] = ram_test_and_clear(v->vram, i << RAM_PAGE_BITS, RAM_DIRTY_DISPLAY);
        any |= pages[i];
    }
    if (any) /* whoever writes from now on marks the page again */
        memory_flush(v->pci.dev.machine->memory);
    return any;
}

static bool touched(const struct vga *v, const uint8_t *pages, uint64_t from, uint64_t length)
{
    uint64_t last = v->vram->size - 1;

    for (uint64_t at = from & ~UINT64_C(0xfff); at < from + length; at += RAM_PAGE_SIZE)
        if (pages[(at & last) >> RAM_PAGE_BITS])
            return true;
    return false;
}

static void draw_graphics(struct vga *v, struct screen *screen, const struct vga_registers *r,
                          const struct vga_mode *m, const uint8_t *pages, bool whole)
{
    struct screen_surface *s = screen_surface(screen);
    uint32_t palette[256];

    if (m->kind == VGA_PACKED_8)
        for (unsigned i = 0; i < 256; i++)
            palette[i] = dac_colour(r, (uint8_t)i);
    else
        palette_16(r, palette);
    for (uint32_t y = 0; y < m->height; y++) {
        uint32_t line_number = y / m->repeat;
        uint64_t line = m->start + (uint64_t)line_number * m->stride;
        uint32_t *to = s->pixels + (size_t)y * (s->stride / 4);

        if (!(r->vbe[VBE_ENABLE] & VBE_ENABLED) && !(r->crtc[0x17] & 1)) /* CGA: odd lines apart */
            line = m->start + (uint64_t)(line_number >> 1) * m->stride + (line_number & 1) * 0x8000;
        if (!whole && !touched(v, pages, line, MAX(m->stride, m->width)))
            continue;
        for (uint32_t x = 0; x < m->width; x++)
            to[x] = pixel(v, m, line, x, palette);
        screen_dirty(screen, 0, y, m->width, 1);
    }
}

void vga_draw(struct vga *v, struct screen *screen, bool whole)
{
    struct screen_surface *s = screen_surface(screen);
    uint64_t count = v->vram->size >> RAM_PAGE_BITS;
    auto_free uint8_t *pages = xcalloc(1, count);
    struct vga_registers r;
    struct vga_mode m;
    bool dirty;

    pthread_mutex_lock(&v->pci.dev.lock);
    r = v->r;
    whole |= v->changes != v->drawn_changes;
    v->drawn_changes = v->changes;
    pthread_mutex_unlock(&v->pci.dev.lock);
    vga_mode(&r, (uint32_t)v->vram->size, &m);
    dirty = take_dirty(v, pages, count);
    if (!whole && !dirty)
        return;
    if (m.kind == VGA_BLANK || !m.width || !m.height) {
        if (s->width) {
            memset(s->pixels, 0, (size_t)s->stride * s->height);
            screen_dirty(screen, 0, 0, s->width, s->height);
        }
        v->text->columns = 0;
        return;
    }
    if (s->width != m.width || s->height != m.height) {
        if (!screen_resize(screen, m.width, m.height))
            return;
        whole = true;
    }
    if (m.kind == VGA_TEXT) {
        draw_text(v, screen, &r, &m, whole);
        return;
    }
    v->text->columns = 0;
    if (s->columns)
        screen_set_text(screen, 0, 0);
    draw_graphics(v, screen, &r, &m, pages, whole);
}

/* ---- what the screen says of itself ------------------------------------------------------------
 */

/* VESA E-EDID 1.4: one detailed timing of 60 Hz, the range of frequencies, a name. */
void vga_edid(uint8_t e[VGA_EDID], uint32_t width, uint32_t height)
{
    static const uint8_t chromaticity[10] = {0xee, 0x91, 0xa3, 0x54, 0x4c,
                                             0x99, 0x26, 0x0f, 0x50, 0x54};
    uint32_t blank_x = 160, blank_y = 30, mm_x = width * 254 / 960, mm_y = height * 254 / 960;
    uint64_t clock = (uint64_t)(width + blank_x) * (height + blank_y) * 60 / 10000; /* 10 kHz */
    uint8_t *d = e + 54, sum = 0;

    memset(e, 0, VGA_EDID);
    memset(e + 1, 0xff, 6);
    /* The letters H, S, P, packed. */
    e[8] = (uint8_t)(('H' - 64) << 2 | ('S' - 64) >> 3);
    e[9] = (uint8_t)((('S' - 64) & 7) << 5 | ('P' - 64));
    e[10] = 1;
    e[16] = 1;
    e[17] = 36; /* 2026 */
    e[18] = 1;
    e[19] = 4;
    e[20] = 0xa5; /* digital, 8 bits, DisplayPort */
    e[21] = (uint8_t)MIN(mm_x / 10, 255u);
    e[22] = (uint8_t)MIN(mm_y / 10, 255u);
    e[23] = 120; /* gamma 2.2 */
    e[24] = 0x06;
    memcpy(e + 25, chromaticity, sizeof(chromaticity));
    e[35] = 0x21; /* 640x480, 800x600 at 60 Hz */
    e[36] = 0x08; /* 1024x768 */
    for (unsigned i = 0; i < 8; i++)
        e[38 + 2 * i] = e[39 + 2 * i] = 1;
    store_le(d, MIN(clock, UINT64_C(0xffff)), 2);
    d[2] = (uint8_t)width;
    d[3] = (uint8_t)blank_x;
    d[4] = (uint8_t)(width >> 8 << 4 | blank_x >> 8);
    d[5] = (uint8_t)height;
    d[6] = (uint8_t)blank_y;
    d[7] = (uint8_t)(height >> 8 << 4 | blank_y >> 8);
    d[8] = 48; /* front porches and pulses */
    d[9] = 32;
    d[10] = 3 << 4 | 6;
    d[12] = (uint8_t)mm_x;
    d[13] = (uint8_t)mm_y;
    d[14] = (uint8_t)(mm_x >> 8 << 4 | mm_y >> 8);
    d[17] = 0x18;
    memcpy(e + 72, (const uint8_t[]){0, 0, 0, 0xfd, 0, 50, 75, 30, 160, 60, 1, 10}, 12);
    memset(e + 84, ' ', 6);
    memcpy(e + 90, (const uint8_t[]){0, 0, 0, 0xfc, 0}, 5);
    memcpy(e + 95, "Hospes\n      ", 13);
    e[111] = 0x10; /* nothing in the last */
    for (unsigned i = 0; i < 127; i++)
        sum = (uint8_t)(sum + e[i]);
    e[127] = (uint8_t)-sum;
}
