/*
 * ps2.c - see ps2.h. IBM PS/2 Hardware Interface Technical Reference: keyboard, mouse.
 *
 * Scan codes: the table has set 1 by Linux key code (0x100 marks an E0 prefix); set 2 follows from
 * set 1 by the controller's own translation table turned round, and set 3 is set 2 but for the
 * keys that had E0.
 */
#include "devices/input/ps2.h"

enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_OK = 0xaa, ECHO = 0xee };
enum { RESERVED_FOR_ANSWERS = 8 };

bool ps2_empty(const struct ps2_queue *q)
{
    return q->count == 0;
}

uint8_t ps2_read(struct ps2_queue *q)
{
    if (!q->count)
        return q->bytes[(q->head + PS2_QUEUE - 1) % PS2_QUEUE];
    q->head = (q->head + 1) % PS2_QUEUE;
    q->count--;
    return q->bytes[(q->head + PS2_QUEUE - 1) % PS2_QUEUE];
}

static void answer(struct ps2_queue *q, uint8_t byte)
{
    if (q->count < PS2_QUEUE)
        q->bytes[(q->head + q->count++) % PS2_QUEUE] = byte;
}

/* Input goes in whole or not at all: half a scan code would confuse the guest for long. */
static bool post(struct ps2_queue *q, const uint8_t *bytes, unsigned count)
{
    if (q->count + count > PS2_QUEUE - RESERVED_FOR_ANSWERS)
        return false;
    for (unsigned i = 0; i < count; i++)
        answer(q, bytes[i]);
    return true;
}

static void empty(struct ps2_queue *q)
{
    q->count = 0;
}

/* ---- keyboard ----------------------------------------------------------------------------- */

/* Set 2 code of each set 1 code below 0x59. */
static const uint8_t set2_of_set1[0x59] = {
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66,
    0x0d, 0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14,
    0x1c, 0x1b, 0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a,
    0x22, 0x21, 0x2a, 0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05,
    0x06, 0x04, 0x0c, 0x03, 0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b,
    0x6b, 0x73, 0x74, 0x79, 0x69, 0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07,
};

enum { E0 = 0x100, KEY_PRINT = 99, KEY_PAUSE_BREAK = 119 };

/* Linux codes up to 88 are set 1; these are the others. */
static unsigned set1_code(unsigned linux_code)
{
    static const struct {
        uint8_t linux_code, set1;
    } extended[] = {
        {96, 0x1c},  {97, 0x1d},  {98, 0x35},  {100, 0x38}, {102, 0x47}, {103, 0x48},
        {104, 0x49}, {105, 0x4b}, {106, 0x4d}, {107, 0x4f}, {108, 0x50}, {109, 0x51},
        {110, 0x52}, {111, 0x53}, {113, 0x20}, {114, 0x2e}, {115, 0x30}, {116, 0x5e},
        {125, 0x5b}, {126, 0x5c}, {127, 0x5d}, {142, 0x5f}, {143, 0x63},
    };

    if (linux_code < ARRAY_SIZE(set2_of_set1))
        return linux_code;
    for (unsigned i = 0; i < ARRAY_SIZE(extended); i++)
        if (extended[i].linux_code == linux_code)
            return E0 | extended[i].set1;
    return 0;
}

/* Windows, menu and power keys lie behind the table. */
static uint8_t set2_code(uint8_t set1)
{
    switch (set1) {
    case 0x5b: return 0x1f;
    case 0x5c: return 0x27;
    case 0x5d: return 0x2f;
    case 0x5e: return 0x37;
    case 0x5f: return 0x3f;
    case 0x63: return 0x5e;
    default: return set1 < ARRAY_SIZE(set2_of_set1) ? set2_of_set1[set1] : 0;
    }
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
    *k = (struct ps2_keyboard){.scan_set = 2, .enabled = true};
}

static void set_defaults(struct ps2_keyboard *k)
{
    empty(&k->queue);
    k->scan_set = 2;
    k->leds = 0;
}

static void keyboard_argument(struct ps2_keyboard *k, uint8_t byte)
{
    uint8_t command = k->command;

    k->command = 0;
    switch (command) {
    case 0xed: k->leds = byte & 7; break;
    case 0xf0:
        if (byte > 3) {
            answer(&k->queue, RESEND);
            return;
        }
        answer(&k->queue, ACK);
        if (byte == 0)
            answer(&k->queue, k->scan_set);
        else
            k->scan_set = byte;
        return;
    default: break; /* F3: the host repeats keys; FB..FD: per-key modes of set 3 */
    }
    answer(&k->queue, ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte)
{
    if (k->command && byte < 0xed) {
        keyboard_argument(k, byte);
        return;
    }
    k->command = 0;
    switch (byte) {
    case ECHO: answer(&k->queue, ECHO); return;
    case 0xfe: /* resend: the byte that was read last */
        answer(&k->queue, k->queue.bytes[(k->queue.head + PS2_QUEUE - 1) % PS2_QUEUE]);
        return;
    case 0xed:
    case 0xf0:
    case 0xf3:
    case 0xfb:
    case 0xfc:
    case 0xfd: k->command = byte; break;
    case 0xf2:
        answer(&k->queue, ACK);
        answer(&k->queue, 0xab);
        answer(&k->queue, 0x83);
        return;
    case 0xf4:
        empty(&k->queue);
        k->enabled = true;
        break;
    case 0xf5:
        set_defaults(k);
        k->enabled = false;
        break;
    case 0xf6: set_defaults(k); break;
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa: break; /* all keys typematic, make/break...: only set 3 would differ */
    case 0xff:
        set_defaults(k);
        k->enabled = true;
        answer(&k->queue, ACK);
        answer(&k->queue, SELF_TEST_OK);
        return;
    default: answer(&k->queue, RESEND); return;
    }
    answer(&k->queue, ACK);
}

static unsigned encode_set1(unsigned code, bool down, uint8_t *out)
{
    unsigned n = 0;

    if (code & E0)
        out[n++] = 0xe0;
    out[n++] = (uint8_t)((code & 0x7f) | (down ? 0 : 0x80));
    return n;
}

static unsigned encode_set2(unsigned code, bool down, bool with_e0, uint8_t *out)
{
    unsigned n = 0;

    if (code & E0 && with_e0)
        out[n++] = 0xe0;
    if (!down)
        out[n++] = 0xf0;
    out[n++] = set2_code((uint8_t)code);
    return n;
}

void ps2_keyboard_key(struct ps2_keyboard *k, unsigned linux_code, bool down)
{
    static const uint8_t pause1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
    static const uint8_t pause2[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};
    unsigned code = set1_code(linux_code), n;
    uint8_t bytes[8];

    if (!k->enabled)
        return;
    if (linux_code == KEY_PAUSE_BREAK && k->scan_set != 3) {
        /* Sends press and release at once, and nothing when let go. */
        if (down && k->scan_set == 1)
            post(&k->queue, pause1, sizeof(pause1));
        else if (down)
            post(&k->queue, pause2, sizeof(pause2));
        return;
    }
    if (linux_code == KEY_PRINT) {
        /* The keyboard adds a shift of its own: E0 2A E0 37, released the other way round. */
        unsigned first = down ? E0 | 0x2a : E0 | 0x37, second = down ? E0 | 0x37 : E0 | 0x2a;

        n = k->scan_set == 1 ? encode_set1(first, down, bytes)
                             : encode_set2(first, down, k->scan_set == 2, bytes);
        n += k->scan_set == 1 ? encode_set1(second, down, bytes + n)
                              : encode_set2(second, down, k->scan_set == 2, bytes + n);
        post(&k->queue, bytes, n);
        return;
    }
    if (!code)
        return;
    n = k->scan_set == 1 ? encode_set1(code, down, bytes)
                         : encode_set2(code, down, k->scan_set == 2, bytes);
    post(&k->queue, bytes, n);
}

void ps2_keyboard_check(struct ps2_keyboard *k)
{
    k->queue.head %= PS2_QUEUE;
    k->queue.count = MIN(k->queue.count, (uint8_t)PS2_QUEUE);
    if (k->scan_set < 1 || k->scan_set > 3)
        k->scan_set = 2;
}

/* ---- mouse -------------------------------------------------------------------------------- */

static void mouse_defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scaling = m->remote = m->enabled = m->wrap = false;
    m->dx = m->dy = m->dz = 0;
    m->changed = false;
    empty(&m->queue);
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    *m = (struct ps2_mouse){0};
    mouse_defaults(m);
}

static int take(int32_t *movement, int limit)
{
    int n = MAX(-limit, MIN(limit, *movement));

    *movement -= n;
    return n;
}

/* One packet of what has moved; false where there is no room for it. */
static bool queue_packet(struct ps2_mouse *m, bool reserve)
{
    unsigned size = m->id ? 4 : 3;
    uint8_t packet[4];
    int dx, dy;

    if (reserve && m->queue.count + size > PS2_QUEUE - RESERVED_FOR_ANSWERS)
        return false;
    dx = take(&m->dx, 255);
    dy = take(&m->dy, 255);
    packet[0] = (uint8_t)(8 | (m->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0));
    packet[1] = (uint8_t)dx;
    packet[2] = (uint8_t)dy;
    if (m->id == 3)
        packet[3] = (uint8_t)-take(&m->dz, 127);
    else if (m->id == 4)
        packet[3] = (uint8_t)((-take(&m->dz, 7) & 0x0f) | (m->buttons << 1 & 0x30));
    else
        m->dz = 0;
    for (unsigned i = 0; i < size; i++)
        answer(&m->queue, packet[i]);
    m->changed = m->dx || m->dy || m->dz;
    return true;
}

void ps2_mouse_report(struct ps2_mouse *m)
{
    if (m->enabled && !m->remote && m->changed && ps2_empty(&m->queue))
        queue_packet(m, true);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, uint8_t buttons)
{
    enum { MOST = 1 << 16 }; /* what nobody fetches must not add up for ever */

    m->changed |= dx || dy || dz || buttons != m->buttons;
    m->dx = MAX(-MOST, MIN(MOST, m->dx + MAX(-MOST, MIN(MOST, dx))));
    m->dy = MAX(-MOST, MIN(MOST, m->dy + MAX(-MOST, MIN(MOST, dy))));
    m->dz = MAX(-MOST, MIN(MOST, m->dz + MAX(-MOST, MIN(MOST, dz))));
    m->buttons = buttons;
    ps2_mouse_report(m);
}

static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
    m->rate = rate ? rate : 100;
    m->knock[0] = m->knock[1];
    m->knock[1] = m->knock[2];
    m->knock[2] = rate;
    if (m->knock[0] == 200 && m->knock[1] == 100 && m->knock[2] == 80)
        m->id = 3;
    else if (m->id == 3 && m->knock[0] == 200 && m->knock[1] == 200 && m->knock[2] == 80)
        m->id = 4;
}

static uint8_t mouse_status(const struct ps2_mouse *m)
{
    return (uint8_t)((m->remote ? 0x40 : 0) | (m->enabled ? 0x20 : 0) | (m->scaling ? 0x10 : 0) |
                     (m->buttons & 1 ? 4 : 0) | (m->buttons & 2 ? 1 : 0) |
                     (m->buttons & 4 ? 2 : 0));
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte)
{
    if (m->command) {
        uint8_t command = m->command;

        m->command = 0;
        if (command == 0xf3)
            set_rate(m, byte);
        else
            m->resolution = byte & 3;
        answer(&m->queue, ACK);
        return;
    }
    if (m->wrap && byte != 0xff && byte != 0xec) {
        answer(&m->queue, byte);
        return;
    }
    if (byte >= 0xe6)
        empty(&m->queue); /* a command stops what was being sent */
    switch (byte) {
    case 0xe6: m->scaling = false; break;
    case 0xe7: m->scaling = true; break;
    case 0xe8:
    case 0xf3: m->command = byte; break;
    case 0xe9:
        answer(&m->queue, ACK);
        answer(&m->queue, mouse_status(m));
        answer(&m->queue, m->resolution);
        answer(&m->queue, m->rate);
        return;
    case 0xea: m->remote = false; break;
    case 0xeb:
        answer(&m->queue, ACK);
        queue_packet(m, false);
        return;
    case 0xec: m->wrap = false; break;
    case 0xee: m->wrap = true; break;
    case 0xf0: m->remote = true; break;
    case 0xf2:
        answer(&m->queue, ACK);
        answer(&m->queue, m->id);
        return;
    case 0xf4: m->enabled = true; break;
    case 0xf5: m->enabled = false; break;
    case 0xf6: mouse_defaults(m); break;
    case 0xff:
        ps2_mouse_reset(m);
        answer(&m->queue, ACK);
        answer(&m->queue, SELF_TEST_OK);
        answer(&m->queue, m->id);
        return;
    default: answer(&m->queue, RESEND); return;
    }
    answer(&m->queue, ACK);
}

void ps2_mouse_check(struct ps2_mouse *m)
{
    m->queue.head %= PS2_QUEUE;
    m->queue.count = MIN(m->queue.count, (uint8_t)PS2_QUEUE);
    if (m->id != 3 && m->id != 4)
        m->id = 0;
}

/* ---- saved state ---------------------------------------------------------------------------- */

static const struct state_field queue_state[] = {
    STATE_ARRAY(struct ps2_queue, bytes),
    STATE_U8(struct ps2_queue, head),
    STATE_U8(struct ps2_queue, count),
    STATE_END,
};

const struct state_field ps2_keyboard_state[] = {
    STATE_STRUCT(struct ps2_keyboard, queue, queue_state),
    STATE_U8(struct ps2_keyboard, command),
    STATE_U8(struct ps2_keyboard, scan_set),
    STATE_U8(struct ps2_keyboard, leds),
    STATE_BOOL(struct ps2_keyboard, enabled),
    STATE_END,
};

const struct state_field ps2_mouse_state[] = {
    STATE_STRUCT(struct ps2_mouse, queue, queue_state),
    STATE_U8(struct ps2_mouse, command),
    STATE_U8(struct ps2_mouse, id),
    STATE_U8(struct ps2_mouse, resolution),
    STATE_U8(struct ps2_mouse, rate),
    STATE_ARRAY(struct ps2_mouse, knock),
    STATE_BOOL(struct ps2_mouse, enabled),
    STATE_BOOL(struct ps2_mouse, remote),
    STATE_BOOL(struct ps2_mouse, wrap),
    STATE_BOOL(struct ps2_mouse, scaling),
    STATE_U8(struct ps2_mouse, buttons),
    STATE_U32(struct ps2_mouse, dx),
    STATE_U32(struct ps2_mouse, dy),
    STATE_U32(struct ps2_mouse, dz),
    STATE_BOOL(struct ps2_mouse, changed),
    STATE_END,
};
