/*
 * text.c - see text.h.
 *
 * What the terminal shows is kept; only cells that differ are written. The terminal never holds up
 * anybody: what it does not take is drawn again from the start when it takes something.
 */
#include "display/text.h"

#include "chardev/chardev.h"
#include "display/keymap.h"

#include <errno.h>
#include <linux/input-event-codes.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT_MSEC = 50, CELL_MOST = 40, SEQUENCE = 16 };

struct text {
    struct display *display;
    struct display_watch *watch;
    struct chardev *terminal;
    const struct keymap *keymap;
    /* the display's lock */
    struct screen_cell *shown;
    uint32_t columns, rows, cursor;
    bool stale; /* what the terminal shows is not known */
    /* the loop's thread: an escape sequence or character that is not complete */
    uint8_t held[SEQUENCE];
    unsigned holds;
};

/* ---- the screen --------------------------------------------------------------------------------
 */

/* Code page 437 as Unicode: below 32, and from 128 up. */
static const uint16_t low[32] = {
    0x0020, 0x263a, 0x263b, 0x2665, 0x2666, 0x2663, 0x2660, 0x2022, 0x25d8, 0x25cb, 0x25d9,
    0x2642, 0x2640, 0x266a, 0x266b, 0x263c, 0x25ba, 0x25c4, 0x2195, 0x203c, 0x00b6, 0x00a7,
    0x25ac, 0x21a8, 0x2191, 0x2193, 0x2192, 0x2190, 0x221f, 0x2194, 0x25b2, 0x25bc,
};
static const uint16_t high[128] = {
    0x00c7, 0x00fc, 0x00e9, 0x00e2, 0x00e4, 0x00e0, 0x00e5, 0x00e7, 0x00ea, 0x00eb, 0x00e8, 0x00ef,
    0x00ee, 0x00ec, 0x00c4, 0x00c5, 0x00c9, 0x00e6, 0x00c6, 0x00f4, 0x00f6, 0x00f2, 0x00fb, 0x00f9,
    0x00ff, 0x00d6, 0x00dc, 0x00a2, 0x00a3, 0x00a5, 0x20a7, 0x0192, 0x00e1, 0x00ed, 0x00f3, 0x00fa,
    0x00f1, 0x00d1, 0x00aa, 0x00ba, 0x00bf, 0x2310, 0x00ac, 0x00bd, 0x00bc, 0x00a1, 0x00ab, 0x00bb,
    0x2591, 0x2592, 0x2593, 0x2502, 0x2524, 0x2561, 0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557,
    0x255d, 0x255c, 0x255b, 0x2510, 0x2514, 0x2534, 0x252c, 0x251c, 0x2500, 0x253c, 0x255e, 0x255f,
    0x255a, 0x2554, 0x2569, 0x2566, 0x2560, 0x2550, 0x256c, 0x2567, 0x2568, 0x2564, 0x2565, 0x2559,
    0x2558, 0x2552, 0x2553, 0x256b, 0x256a, 0x2518, 0x250c, 0x2588, 0x2584, 0x258c, 0x2590, 0x2580,
    0x03b1, 0x00df, 0x0393, 0x03c0, 0x03a3, 0x03c3, 0x00b5, 0x03c4, 0x03a6, 0x0398, 0x03a9, 0x03b4,
    0x221e, 0x03c6, 0x03b5, 0x2229, 0x2261, 0x00b1, 0x2265, 0x2264, 0x2320, 0x2321, 0x00f7, 0x2248,
    0x00b0, 0x2219, 0x00b7, 0x221a, 0x207f, 0x00b2, 0x25a0, 0x00a0,
};

static size_t put_character(char *to, uint8_t code)
{
    unsigned u = code < 32     ? low[code]
                 : code < 127  ? code
                 : code == 127 ? 0x2302
                               : high[code - 128];

    if (u < 0x80)
        return to[0] = (char)u, 1;
    if (u < 0x800) {
        to[0] = (char)(0xc0 | u >> 6);
        to[1] = (char)(0x80 | (u & 63));
        return 2;
    }
    to[0] = (char)(0xe0 | u >> 12);
    to[1] = (char)(0x80 | (u >> 6 & 63));
    to[2] = (char)(0x80 | (u & 63));
    return 3;
}

/* A VGA's colours have blue and red the other way round than a terminal's. */
static unsigned colour(unsigned vga)
{
    return (vga & 1) << 2 | (vga & 2) | (vga & 4) >> 2;
}

static size_t put_attribute(char *to, uint8_t attribute)
{
    unsigned front = attribute & 15, back = attribute >> 4 & 7;

    return (size_t)sprintf(to, "\x1b[0;%u;%um", (front & 8 ? 90 : 30) + colour(front & 7),
                           40 + colour(back));
}

static void put_line(struct text *t, const char *line)
{
    chardev_write(t->terminal, line, strlen(line));
}

/* Another size, or graphics: start anew. */
static void start_screen(struct text *t, const struct screen_surface *s)
{
    free(t->shown);
    t->shown = s->columns ? calloc((size_t)s->columns * s->rows, sizeof(*t->shown)) : NULL;
    t->columns = t->shown ? s->columns : 0;
    t->rows = t->shown ? s->rows : 0;
    t->stale = true;
    if (!s->columns) {
        auto_free char *line =
            xasprintf("\x1b[0m\x1b[2J\x1b[H[the guest shows %u x %u pixels: --display vnc=:0 "
                      "would show them]\r\n",
                      s->width, s->height);

        put_line(t, line);
    }
}

static void on_text(void *opaque, const struct screen_surface *s)
{
    struct text *t = opaque;
    uint32_t cells = s->columns * s->rows, at = UINT32_MAX;
    auto_free char *out = NULL;
    size_t used = 0;
    int attribute = -1;

    if (s->columns != t->columns || s->rows != t->rows || !s->columns)
        start_screen(t, s);
    if (!t->shown || !(out = malloc((size_t)cells * CELL_MOST + 100)))
        return;
    used += (size_t)sprintf(out, "\x1b[?25l%s", t->stale ? "\x1b[0m\x1b[2J" : "");
    for (uint32_t i = 0; i < cells; i++) {
        struct screen_cell c = s->cells[i];

        if (!t->stale && c.code == t->shown[i].code && c.attribute == t->shown[i].attribute)
            continue;
        if (at != i || i % s->columns == 0)
            used += (size_t)sprintf(out + used, "\x1b[%u;%uH", i / s->columns + 1,
                                    i % s->columns + 1);
        if (attribute != c.attribute)
            used += put_attribute(out + used, c.attribute);
        attribute = c.attribute;
        used += put_character(out + used, c.code);
        at = i + 1;
        t->shown[i] = c;
    }
    if (s->cursor < cells)
        used += (size_t)sprintf(out + used, "\x1b[%u;%uH\x1b[?25h", s->cursor / s->columns + 1,
                                s->cursor % s->columns + 1);
    t->stale = chardev_write(t->terminal, out, used) < used;
}

/* ---- keys --------------------------------------------------------------------------------------
 */

static void type(struct text *t, unsigned code, bool shift, bool altgr, bool control, bool alt)
{
    const struct {
        bool held;
        unsigned code;
    } modifiers[] = {
        {shift, KEY_LEFTSHIFT}, {altgr, KEY_RIGHTALT}, {control, KEY_LEFTCTRL}, {alt, KEY_LEFTALT}};

    if (!code)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(modifiers); i++)
        if (modifiers[i].held)
            input_key(t->display, modifiers[i].code, true);
    input_key(t->display, code, true);
    input_key(t->display, code, false);
    for (unsigned i = ARRAY_SIZE(modifiers); i-- > 0;)
        if (modifiers[i].held)
            input_key(t->display, modifiers[i].code, false);
}

static void type_symbol(struct text *t, uint32_t symbol, bool control, bool alt)
{
    bool shift, altgr;
    unsigned code = keymap_code(t->keymap, symbol, &shift, &altgr);

    type(t, code, shift, altgr, control, alt);
}

static void type_byte(struct text *t, uint8_t c, bool alt)
{
    static const uint8_t others[] = {'\\', ']', '6', '-'}; /* with control: 28 to 31 */

    switch (c) {
    case '\r':
    case '\n': type(t, KEY_ENTER, false, false, false, alt); break;
    case '\t': type(t, KEY_TAB, false, false, false, alt); break;
    case 8:
    case 127: type(t, KEY_BACKSPACE, false, false, false, alt); break;
    case 27: type(t, KEY_ESC, false, false, false, alt); break;
    case 0: type(t, KEY_SPACE, false, false, true, alt); break;
    default:
        if (c < 27)
            type_symbol(t, 'a' - 1u + c, true, alt);
        else if (c >= 28 && c < 32)
            type_symbol(t, others[c - 28], true, alt);
        else
            type_symbol(t, c, false, alt);
    }
}

/* What ends CSI and SS3 sequences, and the numbers before '~'. */
static unsigned sequence_key(uint8_t last, unsigned number)
{
    static const uint8_t numbered[] = {0,          KEY_HOME,     KEY_INSERT, KEY_DELETE, KEY_END,
                                       KEY_PAGEUP, KEY_PAGEDOWN, KEY_HOME,   KEY_END};
    static const uint8_t functions[] = {KEY_F1, KEY_F2, KEY_F3, KEY_F4,  KEY_F5, 0,       KEY_F6,
                                        KEY_F7, KEY_F8, KEY_F9, KEY_F10, 0,      KEY_F11, KEY_F12};

    switch (last) {
    case 'A': return KEY_UP;
    case 'B': return KEY_DOWN;
    case 'C': return KEY_RIGHT;
    case 'D': return KEY_LEFT;
    case 'H': return KEY_HOME;
    case 'F': return KEY_END;
    case 'P': return KEY_F1;
    case 'Q': return KEY_F2;
    case 'R': return KEY_F3;
    case 'S': return KEY_F4;
    case 'Z': return KEY_TAB; /* with shift */
    case '~':
        if (number < ARRAY_SIZE(numbered))
            return numbered[number];
        return number >= 11 && number - 11 < ARRAY_SIZE(functions) ? functions[number - 11] : 0;
    default: return 0;
    }
}

/* One key from the bytes held; how many it took, 0: it is not complete. `whole`: no more come. */
static unsigned take_key(struct text *t, bool whole)
{
    const uint8_t *b = t->held;
    unsigned number = 0, modifier = 0, i = 2;

    if (b[0] == 27 && t->holds == 1)
        return whole ? type_byte(t, 27, false), 1 : 0;
    if (b[0] == 27 && b[1] != '[' && b[1] != 'O')
        return type_byte(t, b[1], true), 2;
    if (b[0] == 27) {
        for (; i < t->holds && (b[i] < 0x40 || b[i] > 0x7e); i++) {
            if (b[i] == ';')
                modifier = 1;
            else if (b[i] >= '0' && b[i] <= '9' && !modifier)
                number = number * 10 + b[i] - '0';
            else if (b[i] >= '0' && b[i] <= '9')
                modifier = (unsigned)b[i] - '0';
        }
        if (i == t->holds)
            return whole || i == SEQUENCE ? i : 0;
        modifier = modifier ? modifier - 1 : 0; /* 1: shift, 2: alt, 4: control */
        type(t, sequence_key(b[i], number), modifier & 1 || b[i] == 'Z', false, modifier & 4,
             modifier & 2);
        return i + 1;
    }
    if (b[0] < 0x80)
        return type_byte(t, b[0], false), 1;
    number = b[0] >= 0xf0 ? 4 : b[0] >= 0xe0 ? 3 : b[0] >= 0xc0 ? 2 : 1; /* UTF-8 */
    if (t->holds < number)
        return whole ? t->holds : 0;
    if (number > 1) {
        uint32_t u = b[0] & (0x7fu >> number);

        for (i = 1; i < number; i++)
            u = u << 6 | (b[i] & 63);
        type_symbol(t, u < 256 ? u : 0x1000000 + u, false, false);
    }
    return number;
}

static size_t can_receive(void *opaque)
{
    return SEQUENCE;
}

static void receive(void *opaque, const uint8_t *data, size_t size)
{
    struct text *t = opaque;

    for (size_t i = 0; i < size; i++) {
        unsigned took;

        t->held[t->holds++] = data[i];
        /* A terminal sends a sequence at once: what ends with ESC was the key. */
        took = take_key(t, i + 1 == size || t->holds == SEQUENCE);
        t->holds -= took;
        memmove(t->held, t->held + took, t->holds);
    }
}

/* ---- life --------------------------------------------------------------------------------------
 */

int text_open(struct display *d, unsigned screen, struct chardev *terminal, const char *keymap,
              struct text **out, struct error *err)
{
    struct display_listener listener = {.text = on_text};
    const struct keymap *k = keymap_find(keymap ? keymap : "en-us");
    struct text *t;

    if (!k)
        return error_set(err, EINVAL, "there is no keymap '%s'; there are %s", keymap,
                         keymap_names());
    t = xcalloc(1, sizeof(*t));
    t->display = d;
    t->terminal = terminal;
    t->keymap = k;
    t->stale = true;
    listener.opaque = t;
    chardev_attach(terminal, &(struct chardev_user){
                                 .opaque = t, .can_receive = can_receive, .receive = receive});
    t->watch = display_watch(d, screen, &listener);
    display_set_interval(t->watch, TEXT_MSEC);
    *out = t;
    return 0;
}

void text_free(struct text *t)
{
    if (!t)
        return;
    display_unwatch(t->watch);
    chardev_attach(t->terminal, NULL);
    put_line(t, "\x1b[0m\x1b[?25h\r\n");
    free(t->shown);
    free(t);
}
