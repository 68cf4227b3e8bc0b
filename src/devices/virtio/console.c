/*
 * console.c - virtio-console with ports (virtio-serial), and the devices that sit on it: consoles
 * and named channels. virtio 1.2, section 5.3.
 *
 * Port n has the queues 2n+2 and 2n+3, port 0 the first two; 2 and 3 carry control messages. What
 * has to be told about a port is kept as bits, in the order of their sending, so nothing is lost
 * while the guest has no buffers for it.
 *
 * Bytes from the host go straight from the back end into the guest's buffers, on the loop's thread;
 * a back end that is full leaves a chain where it is, with the number of bytes that are through.
 * All of a port's fields are under io_lock.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "chardev/chardev.h"
#include "machine/machine.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdio.h>

enum { PORTS = 31, QUEUE_SIZE = 128, CONTROL_QUEUE_SIZE = 32, CONTROL_IN = 2, CONTROL_OUT = 3 };
enum { NAME_MAX_LENGTH = 127, CHUNK = 4096 };

enum pending { TELL_ADD = 1, TELL_REMOVE = 2, TELL_CONSOLE = 4, TELL_NAME = 8, TELL_OPEN = 16 };

struct serial_port {
    struct device dev;
    /* properties */
    char *name, *bus_name;
    uint32_t nr;
    struct chardev *chardev; /* NULL: nobody is connected */

    struct virtio_serial *serial;
    bool console;
};

struct port_state {
    uint8_t pending; /* enum pending */
    bool open;       /* the guest has it open */
    uint64_t sent;   /* bytes of the next chain to the host that are through */
};

struct virtio_serial {
    struct virtio_device v;
    uint32_t max_ports; /* property */
    bool emergency;     /* property */
    struct serial_port *port[PORTS];
    struct port_state state[PORTS]; /* saved */
    bool ready;                     /* saved: the driver wants to know of ports */
};

static struct virtio_serial *to_serial(struct virtio_device *v)
{
    return container_of(v, struct virtio_serial, v);
}

static struct virtio_queue *input_of(struct virtio_serial *s, unsigned nr)
{
    return &s->v.queue[nr ? 2 * nr + 2 : 0];
}

static struct virtio_queue *output_of(struct virtio_serial *s, unsigned nr)
{
    return &s->v.queue[nr ? 2 * nr + 3 : 1];
}

static bool multiport(const struct virtio_serial *s)
{
    return virtio_has(&s->v, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* ---- control messages --------------------------------------------------------------------------
 */

/* One message; false: the guest has no buffer now. */
static bool send_control(struct virtio_serial *s, unsigned nr, uint16_t event, uint16_t value,
                         const char *text)
{
    struct virtio_queue *q = &s->v.queue[CONTROL_IN];
    struct virtio_element *e = virtqueue_pop(q);
    uint8_t message[sizeof(struct virtio_console_control) + NAME_MAX_LENGTH];
    size_t size = sizeof(struct virtio_console_control);

    if (!e)
        return false;
    store_le(message, nr, 4);
    store_le(message + 4, event, 2);
    store_le(message + 6, value, 2);
    if (text) {
        memcpy(message + size, text, strlen(text));
        size += strlen(text);
    }
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, message, size));
    return true;
}

static bool send_pending(struct virtio_serial *s, unsigned nr, unsigned what)
{
    const struct serial_port *p = s->port[nr];

    switch (what) {
    case TELL_ADD: return send_control(s, nr, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
    case TELL_REMOVE: return send_control(s, nr, VIRTIO_CONSOLE_PORT_REMOVE, 1, NULL);
    case TELL_CONSOLE: return send_control(s, nr, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL);
    case TELL_NAME: return !p || send_control(s, nr, VIRTIO_CONSOLE_PORT_NAME, 1, p->name);
    default: return !p || send_control(s, nr, VIRTIO_CONSOLE_PORT_OPEN, p->chardev != NULL, NULL);
    }
}

static void send_all_pending(struct virtio_serial *s)
{
    if (!s->ready || !multiport(s))
        return;
    for (unsigned nr = 0; nr < s->max_ports; nr++)
        for (unsigned what = TELL_ADD; what <= TELL_OPEN; what <<= 1)
            if (s->state[nr].pending & what) {
                if (!send_pending(s, nr, what)) {
                    virtqueue_want_kicks(&s->v.queue[CONTROL_IN], true);
                    if (!virtqueue_has_chain(&s->v.queue[CONTROL_IN]) || !send_pending(s, nr, what))
                        return;
                }
                s->state[nr].pending &= (uint8_t)~what;
            }
}

static void take_control(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_serial *s = to_serial(q->v);
    uint8_t message[sizeof(struct virtio_console_control)] = {0};
    bool whole = iov_read(e->out, e->out_count, 0, message, sizeof(message)) == sizeof(message);
    uint64_t nr = load_le(message, 4), event = load_le(message + 4, 2);
    uint64_t value = load_le(message + 6, 2);
    const struct serial_port *p = nr < s->max_ports ? s->port[nr] : NULL;

    virtqueue_push(q, e, 0);
    if (!whole)
        return;
    if (event == VIRTIO_CONSOLE_DEVICE_READY) {
        s->ready = value == 1;
        for (unsigned i = 0; i < s->max_ports; i++)
            if (s->port[i])
                s->state[i].pending |= TELL_ADD;
    } else if (p && event == VIRTIO_CONSOLE_PORT_READY && value) {
        s->state[nr].pending |= (uint8_t)((p->console ? TELL_CONSOLE : 0) |
                                          (p->name ? TELL_NAME : 0) | TELL_OPEN);
    } else if (p && event == VIRTIO_CONSOLE_PORT_OPEN) {
        s->state[nr].open = value != 0;
        if (p->chardev && value)
            chardev_accept(p->chardev);
    }
    send_all_pending(s);
}

/* ---- bytes from the host -----------------------------------------------------------------------
 */

static bool takes_input(const struct virtio_serial *s, unsigned nr)
{
    return virtio_io_live(&s->v) && (!multiport(s) || s->state[nr].open);
}

static size_t port_can_receive(void *opaque)
{
    struct serial_port *p = opaque;
    struct virtio_serial *s = p->serial;
    struct virtio_queue *q = input_of(s, p->nr);
    struct virtio_element *e;
    size_t room = 0;

    virtio_io_begin(&s->v);
    if (takes_input(s, p->nr)) {
        virtqueue_want_kicks(q, true);
        e = virtqueue_pop(q);
        if (e) {
            room = e->in_size;
            if (room) {
                virtqueue_unpop(q, e);
                virtqueue_want_kicks(q, false);
            } else {
                virtqueue_push(q, e, 0);
                virtio_kick(&s->v, q->number);
            }
        }
    }
    virtio_io_end(&s->v);
    return room;
}

static void port_receive(void *opaque, const uint8_t *data, size_t size)
{
    struct serial_port *p = opaque;
    struct virtio_serial *s = p->serial;
    struct virtio_queue *q = input_of(s, p->nr);

    virtio_io_begin(&s->v);
    while (size && takes_input(s, p->nr)) {
        struct virtio_element *e = virtqueue_pop(q);
        size_t n;

        if (!e)
            break; /* the guest reset the device in between */
        n = iov_write(e->in, e->in_count, 0, data, size);
        virtqueue_push(q, e, n);
        data += n;
        size -= n;
    }
    virtio_io_end(&s->v);
}

/* ---- bytes to the host -------------------------------------------------------------------------
 */

/* False: the back end is full; it will call. */
static bool send_chain(struct virtio_serial *s, unsigned nr, struct virtio_element *e)
{
    struct port_state *state = &s->state[nr];
    const struct serial_port *p = s->port[nr];
    uint8_t bytes[CHUNK];
    size_t n;

    if (!p || !p->chardev)
        return true;
    while ((n = iov_read(e->out, e->out_count, state->sent, bytes, sizeof(bytes)))) {
        size_t taken = chardev_write(p->chardev, bytes, n);

        state->sent += taken;
        if (taken < n)
            return false;
    }
    return true;
}

static void send_output(struct virtio_serial *s, unsigned nr)
{
    struct virtio_queue *q = output_of(s, nr);

    for (unsigned n = 0; n < QUEUE_SIZE; n++) {
        struct virtio_element *e = virtqueue_pop(q);

        if (!e) {
            virtqueue_want_kicks(q, true);
            e = virtqueue_pop(q);
            if (!e)
                return;
        }
        if (!send_chain(s, nr, e)) {
            virtqueue_unpop(q, e);
            return;
        }
        s->state[nr].sent = 0;
        virtqueue_push(q, e, 0);
    }
    virtio_kick(&s->v, q->number);
}

static void port_writable(void *opaque)
{
    struct serial_port *p = opaque;

    virtio_kick(&p->serial->v, output_of(p->serial, p->nr)->number);
}

static void serial_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_serial *s = to_serial(v);
    unsigned nr = number < 2 ? 0 : (number - 2) / 2;

    if (number == CONTROL_IN)
        send_all_pending(s);
    else if (number == CONTROL_OUT)
        virtqueue_each(&v->queue[CONTROL_OUT], take_control);
    else if (number & 1)
        send_output(s, nr);
    else if (s->port[nr] && s->port[nr]->chardev)
        chardev_accept(s->port[nr]->chardev);
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* A kernel that cannot do more yet writes single bytes here. */
static void serial_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    struct virtio_serial *s = to_serial(v);
    uint8_t byte = (uint8_t)value;

    if (offset == offsetof(struct virtio_console_config, emerg_wr) && s->emergency && s->port[0] &&
        s->port[0]->chardev)
        chardev_write(s->port[0]->chardev, &byte, 1);
}

static void serial_reset(struct virtio_device *v)
{
    struct virtio_serial *s = to_serial(v);

    memset(s->state, 0, sizeof(s->state));
    s->ready = false;
}

static int serial_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_serial *s = to_serial(v);

    if (s->max_ports < 1 || s->max_ports > PORTS)
        return error_set(err, EINVAL, "%s: max_ports=%u is not from 1 to %d", v->dev.type->name,
                         s->max_ports, PORTS);
    v->offered |= BIT(VIRTIO_CONSOLE_F_MULTIPORT) |
                  (s->emergency ? BIT(VIRTIO_CONSOLE_F_EMERG_WRITE) : 0);
    v->config_size = sizeof(struct virtio_console_config);
    store_le(v->config + offsetof(struct virtio_console_config, max_nr_ports), s->max_ports, 4);
    for (unsigned i = 0; i < 2 * s->max_ports + 2; i++)
        virtio_add_queue(v, i / 2 == 1 ? CONTROL_QUEUE_SIZE : QUEUE_SIZE);
    return 0;
}

static const struct virtio_type serial_virtio = {
    .name = "virtio-serial",
    .id = VIRTIO_ID_CONSOLE,
    .legacy_id = 0x1003,
    .class_code = 0x078000,
    .realize = serial_realize,
    .reset = serial_reset,
    .kicked = serial_kicked,
    .config_written = serial_written,
};

/* ---- what sits on it ---------------------------------------------------------------------------
 */

static bool is_serial(const struct device *d)
{
    return d->type == &virtio_serial_pci_type || d->type == &virtio_serial_pci_transitional_type ||
           d->type == &virtio_serial_pci_modern_type || d->type == &virtio_serial_mmio_type;
}

/* By the name of the device or of its bus, "ID.0"; NULL: the one added last. */
static struct virtio_serial *find_serial(struct machine *m, const char *bus)
{
    struct virtio_serial *found = NULL;

    for (struct device *d = m->devices; d; d = d->next) {
        auto_free char *name = xasprintf("%s.0", d->id);

        if (is_serial(d) && d->realized && (!bus || !strcmp(bus, d->id) || !strcmp(bus, name)))
            found = to_serial(to_virtio(d));
    }
    return found;
}

/* A back end has one user. */
static bool chardev_is_taken(const struct serial_port *p)
{
    for (struct device *d = p->dev.machine->devices; d; d = d->next)
        if ((d->type == &virtconsole_type || d->type == &virtserialport_type) && d != &p->dev &&
            d->realized && container_of(d, struct serial_port, dev)->chardev == p->chardev)
            return true;
    return false;
}

static int choose_number(struct serial_port *p, struct error *err)
{
    struct virtio_serial *s = p->serial;
    unsigned first = p->console ? 0 : 1; /* port 0 is a console by tradition */

    if (p->nr == UINT32_MAX) {
        for (p->nr = first; p->nr < s->max_ports && s->port[p->nr]; p->nr++)
            ;
        if (p->nr >= s->max_ports)
            return error_set(err, ENOSPC, "%s: all %u ports of '%s' are taken", p->dev.type->name,
                             s->max_ports, s->v.dev.id);
    }
    if (p->nr >= s->max_ports || p->nr < first)
        return error_set(err, EINVAL, "%s: nr=%u is not from %u to %u", p->dev.type->name, p->nr,
                         first, s->max_ports - 1);
    if (s->port[p->nr])
        return error_set(err, EBUSY, "%s: nr=%u is the number of another port", p->dev.type->name,
                         p->nr);
    return 0;
}

static int port_realize(struct device *dev, struct error *err)
{
    struct serial_port *p = container_of(dev, struct serial_port, dev);
    int r;

    p->console = dev->type == &virtconsole_type;
    p->serial = find_serial(dev->machine, p->bus_name);
    if (!p->serial)
        return error_set(
            err, ENODEV,
            "%s: there is no virtio-serial device%s%s for it; add one before it, as in "
            "--device virtio-serial-pci",
            dev->type->name, p->bus_name ? " " : "", p->bus_name ? p->bus_name : "");
    if (p->name && strlen(p->name) > NAME_MAX_LENGTH)
        return error_set(err, EINVAL, "%s: name= has more than %d bytes", dev->type->name,
                         NAME_MAX_LENGTH);
    if (p->chardev && chardev_is_taken(p))
        return error_set(err, EBUSY, "%s: another port has that chardev", dev->type->name);
    r = choose_number(p, err);
    if (r < 0)
        return r;
    virtio_io_begin(&p->serial->v);
    p->serial->port[p->nr] = p;
    p->serial->state[p->nr].pending |= TELL_ADD;
    send_all_pending(p->serial);
    virtio_io_end(&p->serial->v);
    chardev_attach(p->chardev, &(struct chardev_user){.opaque = p,
                                                      .can_receive = port_can_receive,
                                                      .receive = port_receive,
                                                      .writable = port_writable});
    return 0;
}

static void port_unrealize(struct device *dev)
{
    struct serial_port *p = container_of(dev, struct serial_port, dev);

    chardev_attach(p->chardev, NULL);
    virtio_io_begin(&p->serial->v);
    p->serial->port[p->nr] = NULL;
    p->serial->state[p->nr] = (struct port_state){.pending = TELL_REMOVE};
    send_all_pending(p->serial);
    virtio_io_end(&p->serial->v);
}

static const struct property port_properties[] = {
    PROPERTY_REF("chardev", struct serial_port, chardev, "where the bytes go"),
    PROPERTY_STRING("name", struct serial_port, name, NULL, "what the guest finds the port by"),
    PROPERTY_STRING("bus", struct serial_port, bus_name, NULL,
                    "the virtio-serial device (default: the last)"),
    PROPERTY_U32("nr", struct serial_port, nr, UINT32_MAX, "number (default: the next)"),
    PROPERTY_END,
};

const struct device_type virtconsole_type = {
    .name = "virtconsole",
    .summary = "a console (hvc0 ...) on a virtio-serial device",
    .bus = "virtio-serial",
    .instance_size = sizeof(struct serial_port),
    .properties = port_properties,
    .realize = port_realize,
    .unrealize = port_unrealize,
};

const struct device_type virtserialport_type = {
    .name = "virtserialport",
    .summary = "a named channel on a virtio-serial device",
    .bus = "virtio-serial",
    .instance_size = sizeof(struct serial_port),
    .properties = port_properties,
    .realize = port_realize,
    .unrealize = port_unrealize,
};

/* ---- tables ------------------------------------------------------------------------------------
 */

static const struct state_field port_state_fields[] = {
    STATE_U8(struct port_state, pending),
    STATE_BOOL(struct port_state, open),
    STATE_U64(struct port_state, sent),
    STATE_END,
};

#define SERIAL_PROPERTIES                                                                          \
    PROPERTY_U32("max_ports", struct virtio_serial, max_ports, PORTS, "1 to 31"),                  \
        PROPERTY_BOOL("emergency-write", struct virtio_serial, emergency, true,                    \
                      "offer a register for a kernel's first words")
#define SERIAL_STATE                                                                               \
    STATE_STRUCT_ARRAY(struct virtio_serial, state, port_state_fields),                            \
        STATE_BOOL(struct virtio_serial, ready)

static const struct property serial_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_serial, v),
    SERIAL_PROPERTIES,
    PROPERTY_END,
};
static const struct property serial_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_serial, v),
    SERIAL_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field serial_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_serial, v),
    SERIAL_STATE,
    STATE_END,
};
static const struct state_field serial_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_serial, v),
    SERIAL_STATE,
    STATE_END,
};

#define SUMMARY "carries consoles and channels (virtio)"
const struct device_type virtio_serial_pci_type =
    VIRTIO_PCI_DEVICE("virtio-serial-pci", SUMMARY, struct virtio_serial, serial_pci_properties,
                      serial_pci_state, serial_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_serial_pci_transitional_type = VIRTIO_PCI_DEVICE(
    "virtio-serial-pci-transitional", SUMMARY, struct virtio_serial, serial_pci_properties,
    serial_pci_state, serial_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_serial_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-serial-pci-non-transitional", SUMMARY, struct virtio_serial,
                      serial_pci_properties, serial_pci_state, serial_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_serial_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-serial-device", SUMMARY, struct virtio_serial,
                       serial_mmio_properties, serial_mmio_state, serial_virtio);
