/*
 * input.c - virtio-input: a keyboard, a mouse and a tablet. virtio 1.2, section 5.8.
 *
 * What a device is able to send is read through a window in its configuration. An event takes a
 * buffer; those of one report, up to its end mark, go together or not at all, so that a guest that
 * is slow loses whole movements. A sink is ready while a driver uses the device: then the display's
 * keys and pointer come here and not to the PS/2 ports.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "display/display.h"
#include "machine/machine.h"

#include <linux/input-event-codes.h>
#include <linux/virtio_input.h>
#include <stdlib.h>

enum { EVENTS, STATUS, QUEUE_SIZE = 64, REPORT_MAX = 12, EVENT_SIZE = 8, VIRTUAL_BUS = 6 };
enum { CONFIG_SIZE = sizeof(struct virtio_input_config), WINDOW = 128, LAST_KEY = KEY_MICMUTE };
enum { DATA = offsetof(struct virtio_input_config, u) };

/* What kind of device it is: its type, and the display's word for it. */
struct device_kind {
    struct virtio_type virtio;
    const char *name;
    uint16_t product;
    unsigned takes; /* enum input_kind of display.h */
};

struct virtio_input {
    struct virtio_device v;
    char *serial; /* property */
    struct input_sink *sink;

    uint8_t select, subselect; /* saved, dev.lock */
    uint8_t buttons;           /* saved, io_lock: those the guest knows to be down */
};

static struct virtio_input *to_input(struct virtio_device *v)
{
    return container_of(v, struct virtio_input, v);
}

static const struct device_kind *kind_of(const struct virtio_device *v)
{
    return container_of(v->type, const struct device_kind, virtio);
}

static const struct {
    uint8_t bit;
    uint16_t code;
} buttons[] = {{INPUT_LEFT, BTN_LEFT},
               {INPUT_RIGHT, BTN_RIGHT},
               {INPUT_MIDDLE, BTN_MIDDLE},
               {INPUT_SIDE, BTN_SIDE},
               {INPUT_EXTRA, BTN_EXTRA}};

/* ---- events ------------------------------------------------------------------------------------
 */

struct report {
    uint8_t events[REPORT_MAX][EVENT_SIZE];
    unsigned count;
};

static void add(struct report *r, unsigned type, unsigned code, int32_t value)
{
    uint8_t *e = r->events[r->count++];

    store_le(e, type, 2);
    store_le(e + 2, code, 2);
    store_le(e + 4, (uint32_t)value, 4);
}

static void send_report(struct virtio_input *n, const struct report *r)
{
    struct virtio_queue *q = &n->v.queue[EVENTS];
    struct virtio_element *e[REPORT_MAX];
    size_t written[REPORT_MAX];
    unsigned count = 0;

    while (count < r->count && (e[count] = virtqueue_pop(q)))
        count++;
    if (count < r->count) {
        while (count)
            virtqueue_unpop(q, e[--count]);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        written[i] = iov_write(e[i]->in, e[i]->in_count, 0, r->events[i], EVENT_SIZE);
    virtqueue_push_many(q, e, written, count);
}

static void take_event(void *opaque, const struct input_event *e)
{
    struct virtio_input *n = opaque;
    struct report r = {0};

    virtio_io_begin(&n->v);
    if (e->type == INPUT_KEY) {
        if (e->code <= LAST_KEY)
            add(&r, EV_KEY, e->code, e->down);
    } else {
        if (e->absolute) {
            add(&r, EV_ABS, ABS_X, e->x);
            add(&r, EV_ABS, ABS_Y, e->y);
        } else {
            if (e->x)
                add(&r, EV_REL, REL_X, e->x);
            if (e->y)
                add(&r, EV_REL, REL_Y, e->y);
        }
        if (e->wheel)
            add(&r, EV_REL, REL_WHEEL, e->wheel);
        if (e->hwheel)
            add(&r, EV_REL, REL_HWHEEL, e->hwheel);
        for (unsigned i = 0; i < ARRAY_SIZE(buttons); i++)
            if ((e->buttons ^ n->buttons) & buttons[i].bit)
                add(&r, EV_KEY, buttons[i].code, (e->buttons & buttons[i].bit) != 0);
    }
    if (r.count && virtio_io_live(&n->v)) {
        add(&r, EV_SYN, SYN_REPORT, 0);
        if (e->type == INPUT_POINTER)
            n->buttons = e->buttons;
        send_report(n, &r);
    }
    virtio_io_end(&n->v);
}

/* Lamps: nobody looks at them. */
static void take_status(struct virtio_queue *q, struct virtio_element *e)
{
    virtqueue_push(q, e, 0);
}

static void input_kicked(struct virtio_device *v, unsigned number)
{
    if (number == STATUS)
        virtqueue_each(&v->queue[STATUS], take_status);
}

/* ---- what it can send --------------------------------------------------------------------------
 */

static void set_bit(uint8_t *bits, unsigned n, uint8_t *size)
{
    bits[n / 8] |= (uint8_t)(1 << n % 8);
    *size = MAX(*size, (uint8_t)(n / 8 + 1));
}

static uint8_t event_bits(const struct device_kind *k, unsigned type, uint8_t *bits)
{
    uint8_t size = 0;

    switch (type) {
    case EV_KEY:
        if (k->takes == INPUT_KEYS)
            for (unsigned i = 1; i <= LAST_KEY; i++)
                set_bit(bits, i, &size);
        else
            for (unsigned i = 0; i < ARRAY_SIZE(buttons); i++)
                set_bit(bits, buttons[i].code, &size);
        break;
    case EV_REL:
        if (k->takes == INPUT_RELATIVE) {
            set_bit(bits, REL_X, &size);
            set_bit(bits, REL_Y, &size);
        }
        if (k->takes != INPUT_KEYS) {
            set_bit(bits, REL_WHEEL, &size);
            set_bit(bits, REL_HWHEEL, &size);
        }
        break;
    case EV_ABS:
        if (k->takes == INPUT_ABSOLUTE) {
            set_bit(bits, ABS_X, &size);
            set_bit(bits, ABS_Y, &size);
        }
        break;
    case EV_REP:
        if (k->takes == INPUT_KEYS)
            size = 1; /* the guest repeats keys itself */
        break;
    case EV_LED:
        if (k->takes == INPUT_KEYS)
            for (unsigned i = LED_NUML; i <= LED_SCROLLL; i++)
                set_bit(bits, i, &size);
        break;
    default: break;
    }
    return size;
}

static uint8_t text(uint8_t *to, const char *from)
{
    size_t size = from ? MIN(strlen(from), (size_t)WINDOW) : 0;

    if (size)
        memcpy(to, from, size);
    return (uint8_t)size;
}

static void fill_config(struct virtio_device *v)
{
    const struct virtio_input *n = to_input(v);
    const struct device_kind *k = kind_of(v);
    uint8_t *data = v->config + DATA, size = 0;

    memset(v->config, 0, CONFIG_SIZE);
    v->config[0] = n->select;
    v->config[1] = n->subselect;
    switch (n->select) {
    case VIRTIO_INPUT_CFG_ID_NAME: size = text(data, k->name); break;
    case VIRTIO_INPUT_CFG_ID_SERIAL: size = text(data, n->serial); break;
    case VIRTIO_INPUT_CFG_ID_DEVIDS:
        store_le(data, VIRTUAL_BUS, 2);
        store_le(data + 2, 0x0627, 2);
        store_le(data + 4, k->product, 2);
        store_le(data + 6, 1, 2);
        size = 8;
        break;
    case VIRTIO_INPUT_CFG_EV_BITS: size = event_bits(k, n->subselect, data); break;
    case VIRTIO_INPUT_CFG_ABS_INFO:
        if (k->takes == INPUT_ABSOLUTE && n->subselect <= ABS_Y) {
            store_le(data + 4, INPUT_RANGE - 1, 4);
            size = 20;
        }
        break;
    default: break;
    }
    v->config[2] = size;
}

static void input_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    if (offset == 0)
        to_input(v)->select = (uint8_t)value;
    if (offset <= 1 && offset + size > 1)
        to_input(v)->subselect = (uint8_t)(value >> 8 * (1 - offset));
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void input_start(struct virtio_device *v)
{
    if (to_input(v)->sink)
        input_sink_set_ready(to_input(v)->sink, true);
}

static void input_reset(struct virtio_device *v)
{
    struct virtio_input *n = to_input(v);

    n->select = n->subselect = n->buttons = 0;
    if (n->sink)
        input_sink_set_ready(n->sink, false);
}

static int input_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_input *n = to_input(v);
    struct display *d = v->dev.machine->config.display;

    v->config_size = CONFIG_SIZE;
    virtio_add_queue(v, QUEUE_SIZE);
    virtio_add_queue(v, QUEUE_SIZE);
    if (d)
        n->sink = input_sink_add(d, &(struct input_sink_ops){.name = v->dev.id,
                                                             .opaque = n,
                                                             .kinds = kind_of(v)->takes,
                                                             .event = take_event});
    return 0;
}

static void input_unrealize(struct virtio_device *v)
{
    input_sink_remove(to_input(v)->sink);
}

#define INPUT_KIND(title, number, what)                                                            \
    {                                                                                              \
        .virtio = {.name = "virtio-input",                                                         \
                   .id = VIRTIO_ID_INPUT,                                                          \
                   .class_code = 0x098000,                                                         \
                   .realize = input_realize,                                                       \
                   .unrealize = input_unrealize,                                                   \
                   .reset = input_reset,                                                           \
                   .start = input_start,                                                           \
                   .kicked = input_kicked,                                                         \
                   .config_read = fill_config,                                                     \
                   .config_written = input_written},                                               \
        .name = (title), .product = (number), .takes = (what)                                      \
    }

static const struct device_kind keyboard = INPUT_KIND("Hospes Virtio Keyboard", 1, INPUT_KEYS);
static const struct device_kind mouse = INPUT_KIND("Hospes Virtio Mouse", 2, INPUT_RELATIVE);
static const struct device_kind tablet = INPUT_KIND("Hospes Virtio Tablet", 3, INPUT_ABSOLUTE);

#define INPUT_PROPERTIES                                                                           \
    PROPERTY_STRING("serial", struct virtio_input, serial, NULL, "serial number")
#define INPUT_STATE                                                                                \
    STATE_U8(struct virtio_input, select), STATE_U8(struct virtio_input, subselect),               \
        STATE_U8(struct virtio_input, buttons)

static const struct property input_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_input, v),
    INPUT_PROPERTIES,
    PROPERTY_END,
};
static const struct property input_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_input, v),
    INPUT_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field input_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_input, v),
    INPUT_STATE,
    STATE_END,
};
static const struct state_field input_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_input, v),
    INPUT_STATE,
    STATE_END,
};

const struct device_type virtio_keyboard_pci_type =
    VIRTIO_PCI_DEVICE("virtio-keyboard-pci", "a keyboard (virtio)", struct virtio_input,
                      input_pci_properties, input_pci_state, keyboard.virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_mouse_pci_type =
    VIRTIO_PCI_DEVICE("virtio-mouse-pci", "a mouse (virtio)", struct virtio_input,
                      input_pci_properties, input_pci_state, mouse.virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_tablet_pci_type = VIRTIO_PCI_DEVICE(
    "virtio-tablet-pci", "a pointer that knows where it is (virtio)", struct virtio_input,
    input_pci_properties, input_pci_state, tablet.virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_keyboard_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-keyboard-device", "a keyboard (virtio)", struct virtio_input,
                       input_mmio_properties, input_mmio_state, keyboard.virtio);
const struct device_type virtio_mouse_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-mouse-device", "a mouse (virtio)", struct virtio_input,
                       input_mmio_properties, input_mmio_state, mouse.virtio);
const struct device_type virtio_tablet_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-tablet-device", "a pointer that knows where it is (virtio)",
                       struct virtio_input, input_mmio_properties, input_mmio_state, tablet.virtio);
