/*
 * hid.c - usb-kbd, usb-mouse and usb-tablet (HID 1.11), fed by the display's input.
 *
 * Each has one interrupt endpoint, and a short queue of what happened: an event of a key or button
 * is never lost to a later one while there is room, movement adds up. The report is made when the
 * host fetches it.
 */
#include "devices/usb/hid.h"

#include "devices/usb/usb.h"
#include "display/display.h"
#include "machine/machine.h"

#include <linux/input-event-codes.h>

enum { HID_QUEUE = 32, HID_KEYS = 6, ROLL_OVER = 1, REPORT_MAX = 8 };
enum { GET_REPORT = 1, GET_IDLE = 2, GET_PROTOCOL = 3, SET_REPORT = 9, SET_IDLE = 10 };
enum { SET_PROTOCOL = 11, CLASS_IN = 0xa1, CLASS_OUT = 0x21, INTERFACE_IN = 0x81 };
enum { DESCRIPTOR_HID = 0x21, DESCRIPTOR_REPORT = 0x22, POINTER_MOST = 127 };

enum hid_kind { HID_KEYBOARD, HID_MOUSE, HID_TABLET };

struct hid_event {
    uint8_t usage, down; /* keyboard */
    uint8_t buttons;     /* pointers */
    int32_t x, y, wheel; /* movement, or a position */
};

struct hid {
    struct usb_device usb;
    struct input_sink *sink;
    /* saved */
    struct hid_event queue[HID_QUEUE];
    uint8_t head, count;
    uint8_t idle, protocol, leds;
    uint8_t modifiers, key[HID_KEYS], keys_down;
    uint8_t buttons;
    int32_t x, y; /* of a tablet */
    bool untold;  /* the host does not know the present state */
};
#define to_hid(d) container_of(d, struct hid, usb)

/* ---- descriptors -------------------------------------------------------------------------------
 */

static const uint8_t keyboard_report[] = {
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01,             /* desktop, keyboard: application */
    0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, /* keys: the modifiers */
    0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02, /* eight bits */
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01,             /* a byte of nothing */
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, /* five LEDs, output */
    0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, /* and three bits of nothing */
    0x91, 0x01, 0x95, 0x06, 0x75, 0x08, 0x15, 0x00, /* six keys */
    0x26, 0xff, 0x00, 0x05, 0x07, 0x19, 0x00, 0x2a, /* of 0 to 255 */
    0xff, 0x00, 0x81, 0x00, 0xc0,
};

static const uint8_t mouse_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, /* mouse: pointer */
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, /* five buttons */
    0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, /* and three bits */
    0x81, 0x01, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, /* X, Y, wheel */
    0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, /* bytes, relative */
    0xc0, 0xc0,
};

static const uint8_t tablet_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01,
    0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01,
    0x75, 0x03, 0x81, 0x01, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, /* X and Y */
    0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10, /* 0 to 32767, 16 bits */
    0x95, 0x02, 0x81, 0x02, 0x05, 0x01, 0x09, 0x38, 0x15, 0x81, /* absolute; the wheel */
    0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06, 0xc0, 0xc0,
};

#define DEVICE_DESCRIPTOR(product)                                                                 \
    {                                                                                              \
        18, 1, 0x00, 0x02, 0, 0, 0, 64, 0x27, 0x06, product, 0, 0, 1, 1, 2, 3, 1                   \
    }
/* One interface with one interrupt endpoint, polled each 4 ms (2^5 microframes). */
#define CONFIGURATION_DESCRIPTOR(boot, protocol, report, packet)                                   \
    {                                                                                              \
        9, 2, 34, 0, 1, 1, 0, 0xa0, 50, /* configuration: wakes up, 100 mA */                      \
            9, 4, 0, 0, 1, 3, boot, protocol, 0, 9, DESCRIPTOR_HID, 0x11, 0x01, 0, 1,              \
            DESCRIPTOR_REPORT, (report)&0xff, (report) >> 8, 7, 5, 0x81, 3, packet, 0, 6           \
    }

static const uint8_t keyboard_device[] = DEVICE_DESCRIPTOR(1);
static const uint8_t mouse_device[] = DEVICE_DESCRIPTOR(2);
static const uint8_t tablet_device[] = DEVICE_DESCRIPTOR(3);
static const uint8_t keyboard_configuration[] =
    CONFIGURATION_DESCRIPTOR(1, 1, sizeof(keyboard_report), 8);
static const uint8_t mouse_configuration[] = CONFIGURATION_DESCRIPTOR(1, 2, sizeof(mouse_report),
                                                                      4);
static const uint8_t tablet_configuration[] = CONFIGURATION_DESCRIPTOR(0, 0, sizeof(tablet_report),
                                                                       8);

static enum hid_kind kind_of(const struct hid *h)
{
    const uint8_t *d = usb_type_of(&h->usb)->device;

    return d == keyboard_device ? HID_KEYBOARD : d == mouse_device ? HID_MOUSE : HID_TABLET;
}

/* ---- keys --------------------------------------------------------------------------------------
 */

/* Usages of the keyboard page by Linux code: rows of the main block, then the rest. */
static uint8_t usage_of(unsigned code)
{
    static const uint8_t low[KEY_KPDOT + 1] = {
        0,    0x29, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2d, 0x2e,
        0x2a, 0x2b, 0x14, 0x1a, 0x08, 0x15, 0x17, 0x1c, 0x18, 0x0c, 0x12, 0x13, 0x2f, 0x30,
        0x28, 0xe0, 0x04, 0x16, 0x07, 0x09, 0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x33, 0x34, 0x35,
        0xe1, 0x31, 0x1d, 0x1b, 0x06, 0x19, 0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xe5, 0x55,
        0xe2, 0x2c, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x40, 0x41, 0x42, 0x43, 0x53,
        0x47, 0x5f, 0x60, 0x61, 0x56, 0x5c, 0x5d, 0x5e, 0x57, 0x59, 0x5a, 0x5b, 0x62, 0x63,
    };
    static const struct {
        uint8_t code, usage;
    } others[] = {
        {KEY_102ND, 0x64},     {KEY_F11, 0x44},     {KEY_F12, 0x45},     {KEY_KPENTER, 0x58},
        {KEY_RIGHTCTRL, 0xe4}, {KEY_KPSLASH, 0x54}, {KEY_SYSRQ, 0x46},   {KEY_RIGHTALT, 0xe6},
        {KEY_HOME, 0x4a},      {KEY_UP, 0x52},      {KEY_PAGEUP, 0x4b},  {KEY_LEFT, 0x50},
        {KEY_RIGHT, 0x4f},     {KEY_END, 0x4d},     {KEY_DOWN, 0x51},    {KEY_PAGEDOWN, 0x4e},
        {KEY_INSERT, 0x49},    {KEY_DELETE, 0x4c},  {KEY_PAUSE, 0x48},   {KEY_LEFTMETA, 0xe3},
        {KEY_RIGHTMETA, 0xe7}, {KEY_COMPOSE, 0x65}, {KEY_KPEQUAL, 0x67}, {KEY_RO, 0x87},
        {KEY_YEN, 0x89},
    };

    if (code < ARRAY_SIZE(low))
        return low[code];
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        if (others[i].code == code)
            return others[i].usage;
    return 0;
}

static void apply_key(struct hid *h, uint8_t usage, bool down)
{
    if (usage >= 0xe0 && usage <= 0xe7) {
        uint8_t bit = (uint8_t)(1 << (usage - 0xe0));

        h->modifiers = down ? h->modifiers | bit : h->modifiers & (uint8_t)~bit;
        return;
    }
    for (unsigned i = 0; i < h->keys_down && i < HID_KEYS; i++)
        if (h->key[i] == usage) {
            if (!down) {
                memmove(h->key + i, h->key + i + 1, HID_KEYS - 1 - i);
                h->key[HID_KEYS - 1] = 0;
                h->keys_down--;
            }
            return;
        }
    if (down && h->keys_down < HID_KEYS)
        h->key[h->keys_down++] = usage;
}

/* ---- the queue ---------------------------------------------------------------------------------
 */

static void report_soon(struct hid *h)
{
    if (h->usb.configuration)
        usb_wake(&h->usb, 1, true);
}

static struct hid_event *last_event(struct hid *h)
{
    return h->count ? &h->queue[(h->head + h->count - 1) % HID_QUEUE] : NULL;
}

static void add_event(struct hid *h, const struct hid_event *e)
{
    if (h->count < HID_QUEUE)
        h->queue[(h->head + h->count++) % HID_QUEUE] = *e;
}

static void take_event(void *opaque, const struct input_event *in)
{
    struct hid *h = opaque;
    struct hid_event e = {0}, *last;

    usb_lock(&h->usb);
    last = last_event(h);
    if (in->type == INPUT_KEY) {
        e.usage = usage_of(in->code);
        e.down = in->down;
        if (e.usage)
            add_event(h, &e);
    } else {
        bool tablet = kind_of(h) == HID_TABLET;

        e = (struct hid_event){
            .buttons = in->buttons & 31, .x = in->x, .y = in->y, .wheel = in->wheel};
        if (last && (last->buttons == e.buttons || h->count == HID_QUEUE)) {
            last->buttons = e.buttons;
            last->x = tablet ? e.x : MAX(-0xffff, MIN(0xffff, last->x + e.x));
            last->y = tablet ? e.y : MAX(-0xffff, MIN(0xffff, last->y + e.y));
            last->wheel = MAX(-0xffff, MIN(0xffff, last->wheel + e.wheel));
        } else {
            add_event(h, &e);
        }
    }
    report_soon(h);
    usb_unlock(&h->usb);
}

static int8_t step(int32_t *left)
{
    int32_t n = MAX(-POINTER_MOST, MIN(POINTER_MOST, *left));

    *left -= n;
    return (int8_t)n;
}

static uint32_t make_report(struct hid *h, uint8_t r[REPORT_MAX])
{
    struct hid_event none = {.buttons = h->buttons, .x = h->x, .y = h->y};
    struct hid_event *e = h->count ? &h->queue[h->head] : &none;
    bool done = true;
    uint32_t size;

    memset(r, 0, REPORT_MAX);
    switch (kind_of(h)) {
    case HID_KEYBOARD:
        if (h->count)
            apply_key(h, e->usage, e->down);
        r[0] = h->modifiers;
        memcpy(r + 2, h->key, HID_KEYS);
        size = 8;
        break;
    case HID_MOUSE:
        if (!h->count)
            e->x = e->y = 0;
        h->buttons = e->buttons;
        r[0] = h->buttons;
        r[1] = (uint8_t)step(&e->x);
        r[2] = (uint8_t)step(&e->y);
        r[3] = (uint8_t)step(&e->wheel);
        done = !e->x && !e->y && !e->wheel;
        size = h->protocol ? 4 : 3;
        break;
    default:
        h->buttons = e->buttons;
        h->x = MAX(0, MIN(INPUT_RANGE - 1, e->x));
        h->y = MAX(0, MIN(INPUT_RANGE - 1, e->y));
        r[0] = h->buttons;
        store_le(r + 1, (uint32_t)h->x, 2);
        store_le(r + 3, (uint32_t)h->y, 2);
        r[5] = (uint8_t)step(&e->wheel);
        done = !e->wheel;
        size = 6;
        break;
    }
    if (h->count && done) {
        h->head = (uint8_t)((h->head + 1) % HID_QUEUE);
        h->count--;
    }
    return size;
}

/* ---- what the host asks ------------------------------------------------------------------------
 */

static int hid_transfer(struct usb_device *d, struct usb_packet *p)
{
    struct hid *h = to_hid(d);
    uint8_t r[REPORT_MAX];
    uint32_t size;

    if (p->endpoint != 1 || !p->in)
        return USB_STALL;
    if (!h->count && !h->untold)
        return USB_NAK;
    h->untold = false;
    size = make_report(h, r);
    size = MIN(size, p->length); /* the macro would make two */
    if (size)
        memcpy(p->data, r, size);
    return (int)size;
}

static int give(uint8_t *to, const struct usb_setup *s, const void *from, size_t size)
{
    size = MIN(size, (size_t)s->length);
    memcpy(to, from, size);
    return (int)size;
}

static int give_descriptor(struct hid *h, const struct usb_setup *s, uint8_t *data)
{
    static const struct {
        const uint8_t *bytes;
        size_t size;
    } reports[] = {{keyboard_report, sizeof(keyboard_report)},
                   {mouse_report, sizeof(mouse_report)},
                   {tablet_report, sizeof(tablet_report)}};
    enum hid_kind kind = kind_of(h);

    if (s->value >> 8 == DESCRIPTOR_REPORT)
        return give(data, s, reports[kind].bytes, reports[kind].size);
    if (s->value >> 8 == DESCRIPTOR_HID)
        return give(data, s, usb_type_of(&h->usb)->configuration + 18, 9);
    return USB_STALL;
}

static int hid_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data)
{
    struct hid *h = to_hid(d);
    uint8_t r[REPORT_MAX];

    switch (s->type << 8 | s->request) {
    case INTERFACE_IN << 8 | USB_GET_DESCRIPTOR: return give_descriptor(h, s, data);
    case CLASS_IN << 8 | GET_REPORT: return give(data, s, r, make_report(h, r));
    case CLASS_IN << 8 | GET_IDLE: return give(data, s, &h->idle, 1);
    case CLASS_IN << 8 | GET_PROTOCOL: return give(data, s, &h->protocol, 1);
    case CLASS_OUT << 8 | SET_REPORT:
        if (s->length)
            h->leds = data[0];
        return 0;
    case CLASS_OUT << 8 | SET_IDLE: h->idle = (uint8_t)(s->value >> 8); return 0;
    case CLASS_OUT << 8 | SET_PROTOCOL: h->protocol = s->value & 1; return 0;
    default: return USB_STALL;
    }
}

static void hid_configured(struct usb_device *d)
{
    input_sink_set_ready(to_hid(d)->sink, d->configuration != 0);
}

static void hid_reset(struct usb_device *d)
{
    struct hid *h = to_hid(d);

    h->head = h->count = h->modifiers = h->keys_down = h->buttons = h->leds = h->idle = 0;
    memset(h->key, 0, sizeof(h->key));
    memset(h->queue, 0, sizeof(h->queue));
    h->x = h->y = 0;
    h->protocol = 1;
    h->untold = false;
}

static void hid_refresh(struct usb_device *d)
{
    struct hid *h = to_hid(d);

    h->head %= HID_QUEUE;
    h->count = MIN(h->count, (uint8_t)HID_QUEUE);
    h->keys_down = MIN(h->keys_down, (uint8_t)HID_KEYS);
    hid_configured(d);
}

static int hid_realize(struct usb_device *d, struct error *err)
{
    static const unsigned kinds[] = {INPUT_KEYS, INPUT_RELATIVE, INPUT_ABSOLUTE};
    struct hid *h = to_hid(d);

    h->sink = input_sink_add(
        d->dev.machine->config.display,
        &(struct input_sink_ops){
            .name = d->dev.id, .opaque = h, .kinds = kinds[kind_of(h)], .event = take_event});
    return 0;
}

static void hid_unrealize(struct usb_device *d)
{
    input_sink_remove(to_hid(d)->sink);
}

/* ---- the three of them -------------------------------------------------------------------------
 */

#define HID_TYPE(which, text)                                                                      \
    {                                                                                              \
        .speed = USB_HIGH, .device = which##_device, .configuration = which##_configuration,       \
        .product = text, .realize = hid_realize, .unrealize = hid_unrealize, .reset = hid_reset,   \
        .configured = hid_configured, .control = hid_control, .transfer = hid_transfer,            \
        .refresh = hid_refresh                                                                     \
    }

static const struct usb_type keyboard_usb = HID_TYPE(keyboard, "USB keyboard");
static const struct usb_type mouse_usb = HID_TYPE(mouse, "USB mouse");
static const struct usb_type tablet_usb = HID_TYPE(tablet, "USB tablet");

static const struct property hid_properties[] = {
    USB_PROPERTIES(struct hid, usb),
    PROPERTY_END,
};

static const struct state_field hid_event_state[] = {
    STATE_U8(struct hid_event, usage),
    STATE_U8(struct hid_event, down),
    STATE_U8(struct hid_event, buttons),
    STATE_U32(struct hid_event, x),
    STATE_U32(struct hid_event, y),
    STATE_U32(struct hid_event, wheel),
    STATE_END,
};

static const struct state_field hid_state[] = {
    USB_STATE(struct hid, usb),
    STATE_STRUCT_ARRAY(struct hid, queue, hid_event_state),
    STATE_U8(struct hid, head),
    STATE_U8(struct hid, count),
    STATE_U8(struct hid, idle),
    STATE_U8(struct hid, protocol),
    STATE_U8(struct hid, leds),
    STATE_U8(struct hid, modifiers),
    STATE_ARRAY(struct hid, key),
    STATE_U8(struct hid, keys_down),
    STATE_U8(struct hid, buttons),
    STATE_U32(struct hid, x),
    STATE_U32(struct hid, y),
    STATE_BOOL(struct hid, untold),
    STATE_END,
};

#define HID_DEVICE                                                                                 \
    .instance_size = sizeof(struct hid), .properties = hid_properties, .state = hid_state,         \
    USB_DEVICE_HOOKS

const struct device_type usb_kbd_type = {
    .name = "usb-kbd", .summary = "USB keyboard", .bus_data = &keyboard_usb, HID_DEVICE};
const struct device_type usb_mouse_type = {
    .name = "usb-mouse", .summary = "USB mouse", .bus_data = &mouse_usb, HID_DEVICE};
const struct device_type usb_tablet_type = {.name = "usb-tablet",
                                            .summary = "USB tablet: an absolute pointer",
                                            .bus_data = &tablet_usb,
                                            HID_DEVICE};
