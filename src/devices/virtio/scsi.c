/*
 * scsi.c - virtio-scsi: a host adapter for the units of devices/scsi. virtio 1.2, section 5.6.
 *
 * Queue 0 takes task management, queue 1 has buffers for events, the others take commands. What is
 * with the disk cannot be called back: a task management function that ends tasks is answered when
 * those of its unit have ended by themselves, so that afterwards none of their buffers is touched.
 */
#include "devices/scsi/scsi.h"
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"
#include "devices/virtio/virtio_scsi.h"

#include "machine/machine.h"

#include <errno.h>
#include <linux/virtio_scsi.h>
#include <stdlib.h>

enum { CONTROL, EVENTS, FIRST_COMMANDS, MAX_QUEUES = 16, AUTO_QUEUES = 0xffff, WAITERS = 64 };
enum { CDB_SIZE = 32, SENSE_SIZE = 96, CONFIG_SIZE = sizeof(struct virtio_scsi_config) };

/* The parts of a request before and after what has no fixed size. */
enum { REQUEST_HEAD = 19, RESPONSE_HEAD = 12, LUN_SIZE = 8, TMF_SIZE = 24, AN_SIZE = 16 };

struct event {
    uint32_t event, reason;
    uint8_t lun[LUN_SIZE];
};

struct virtio_scsi {
    struct virtio_device v;
    /* properties */
    uint16_t num_queues, queue_size;
    uint32_t max_sectors, cmd_per_lun;
    bool hotplug, param_change;

    struct scsi_bus bus;
    char *bus_name;

    /* io_lock */
    uint32_t sense_size, cdb_size; /* saved */
    uint8_t missed;                /* saved: an event found no buffer */
    struct waiter {
        struct virtio_element *element; /* NULL: free */
        unsigned target, lun;
        bool all_luns;
    } waiter[WAITERS];
};

static struct virtio_scsi *to_scsi(struct virtio_device *v)
{
    return container_of(v, struct virtio_scsi, v);
}

/* ---- commands ----------------------------------------------------------------------------------
 */

struct request {
    struct scsi_command command;
    struct virtio_scsi *scsi;
    struct virtio_element *element;
    struct scsi_unit *unit;
    struct iovec iov[];
};

static void finish(struct virtio_scsi *s, struct virtio_element *e, uint8_t response,
                   const struct scsi_command *c)
{
    uint8_t head[RESPONSE_HEAD + SENSE_SIZE] = {0};
    size_t fixed = RESPONSE_HEAD + s->sense_size, size = MIN(fixed, sizeof(head));

    if (c && response == VIRTIO_SCSI_S_OK) {
        size_t data = c->in_size ? c->in_size : c->out_size;

        store_le(head, MIN(c->sense_size, s->sense_size), 4);
        store_le(head + 4, data - MIN(c->moved, data), 4);
        head[10] = c->status;
        memcpy(head + RESPONSE_HEAD, c->sense, c->sense_size);
    }
    head[11] = response;
    iov_write(e->in, e->in_count, 0, head, size);
    virtqueue_push(e->queue, e, MIN(fixed + (c && c->in_size ? c->moved : 0), e->in_size));
}

static void answer_waiters(struct virtio_scsi *s);

static void request_end(struct request *r)
{
    struct scsi_command *c = &r->command;

    if (r->unit)
        r->unit->active--;
    finish(r->scsi, r->element, c->overrun ? VIRTIO_SCSI_S_OVERRUN : VIRTIO_SCSI_S_OK, c);
    free(r);
}

static void command_done(struct scsi_command *c)
{
    struct request *r = container_of(c, struct request, command);
    struct virtio_scsi *s = r->scsi;

    virtio_io_begin(&s->v);
    request_end(r);
    answer_waiters(s);
    virtio_request_end(&s->v);
    virtio_io_end(&s->v);
}

/* Single level, flat addressing; false: another form. */
static bool get_lun(const uint8_t *l, unsigned *target, unsigned *lun)
{
    *target = l[1];
    *lun = (unsigned)(l[2] & 0x3f) << 8 | l[3];
    return l[0] == 1 && (l[2] < 0x80);
}

static void take_command(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_scsi *s = to_scsi(q->v);
    size_t before = REQUEST_HEAD + s->cdb_size, after = RESPONSE_HEAD + s->sense_size;
    uint8_t head[REQUEST_HEAD + CDB_SIZE] = {0};
    unsigned target, lun;
    struct request *r;
    bool pending;

    if (e->out_size < before || e->in_size < after) {
        virtio_break(q->v, "queue %u: a command of %zu and %zu bytes", q->number, e->out_size,
                     e->in_size);
        virtqueue_discard(e);
        return;
    }
    iov_read(e->out, e->out_count, 0, head, MIN(before, sizeof(head)));
    if (!get_lun(head, &target, &lun) || !scsi_has_target(&s->bus, target)) {
        finish(s, e, VIRTIO_SCSI_S_BAD_TARGET, NULL);
        return;
    }
    if (e->out_size > before && e->in_size > after) { /* both ways: not offered */
        finish(s, e, VIRTIO_SCSI_S_FAILURE, NULL);
        return;
    }
    r = calloc(1, sizeof(*r) + (e->out_count + e->in_count) * sizeof(r->iov[0]));
    if (!r) {
        finish(s, e, VIRTIO_SCSI_S_BUSY, NULL);
        return;
    }
    r->scsi = s;
    r->element = e;
    r->unit = scsi_find(&s->bus, target, lun);
    memcpy(r->command.cdb, head + REQUEST_HEAD, SCSI_CDB_MAX);
    r->command.done = command_done;
    r->command.out_size = e->out_size - before;
    r->command.in_size = e->in_size - after;
    r->command.out = r->iov;
    r->command.out_count = iov_slice(e->out, e->out_count, before, r->command.out_size, r->iov,
                                     e->out_count);
    r->command.in = r->iov + r->command.out_count;
    r->command.in_count = iov_slice(e->in, e->in_count, after, r->command.in_size,
                                    r->iov + r->command.out_count, e->in_count);
    if (!r->unit) {
        scsi_submit_absent(&s->bus, target, &r->command);
        request_end(r);
        return;
    }
    r->unit->active++;
    virtio_request_begin(&s->v);
    pending = scsi_submit(r->unit, &r->command);
    if (pending)
        return;
    request_end(r);
    virtio_request_end(&s->v);
}

/* ---- task management ---------------------------------------------------------------------------
 */

static bool is_idle(const struct virtio_scsi *s, const struct waiter *w)
{
    for (const struct scsi_unit *u = s->bus.first; u; u = u->next)
        if (u->target == w->target && (w->all_luns || u->lun == w->lun) && u->active)
            return false;
    return true;
}

static void respond(struct virtio_element *e, uint8_t response)
{
    virtqueue_push(e->queue, e, iov_write(e->in, e->in_count, 0, &response, 1));
}

static void answer_waiters(struct virtio_scsi *s)
{
    for (unsigned i = 0; i < WAITERS; i++)
        if (s->waiter[i].element && is_idle(s, &s->waiter[i])) {
            respond(s->waiter[i].element, VIRTIO_SCSI_S_OK);
            s->waiter[i].element = NULL;
            virtio_request_end(&s->v);
        }
}

static void wait_for_unit(struct virtio_scsi *s, struct virtio_element *e, unsigned target,
                          unsigned lun, bool all_luns)
{
    struct waiter w = {.element = e, .target = target, .lun = lun, .all_luns = all_luns};

    if (is_idle(s, &w)) {
        respond(e, VIRTIO_SCSI_S_OK);
        return;
    }
    for (unsigned i = 0; i < WAITERS; i++)
        if (!s->waiter[i].element) {
            s->waiter[i] = w;
            virtio_request_begin(&s->v);
            return;
        }
    respond(e, VIRTIO_SCSI_S_FAILURE);
}

static void reset_units(struct virtio_scsi *s, unsigned target, unsigned lun, bool all_luns)
{
    for (struct scsi_unit *u = s->bus.first; u; u = u->next)
        if (u->target == target && (all_luns || u->lun == lun))
            scsi_unit_reset(u);
}

static void manage_task(struct virtio_scsi *s, struct virtio_element *e, const uint8_t *request)
{
    uint64_t subtype = load_le(request + 4, 4);
    unsigned target, lun;
    bool all = subtype == VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET;

    if (!get_lun(request + 8, &target, &lun) || !scsi_has_target(&s->bus, target)) {
        respond(e, VIRTIO_SCSI_S_BAD_TARGET);
        return;
    }
    if (!all && !scsi_find(&s->bus, target, lun)) {
        respond(e, VIRTIO_SCSI_S_INCORRECT_LUN);
        return;
    }
    switch (subtype) {
    case VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET:
    case VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET:
        reset_units(s, target, lun, all);
        wait_for_unit(s, e, target, lun, all);
        break;
    case VIRTIO_SCSI_T_TMF_ABORT_TASK:
    case VIRTIO_SCSI_T_TMF_ABORT_TASK_SET:
    case VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET: wait_for_unit(s, e, target, lun, false); break;
    case VIRTIO_SCSI_T_TMF_QUERY_TASK:
    case VIRTIO_SCSI_T_TMF_QUERY_TASK_SET:
        respond(e, scsi_find(&s->bus, target, lun)->active ? VIRTIO_SCSI_S_FUNCTION_SUCCEEDED
                                                           : VIRTIO_SCSI_S_OK);
        break;
    default: respond(e, VIRTIO_SCSI_S_FUNCTION_REJECTED); break;
    }
}

static void take_control(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_scsi *s = to_scsi(q->v);
    uint8_t request[TMF_SIZE] = {0}, answer[5] = {0};
    size_t size = iov_read(e->out, e->out_count, 0, request, sizeof(request));
    uint64_t type = load_le(request, 4);

    if (type == VIRTIO_SCSI_T_TMF && size == TMF_SIZE && e->in_size >= 1) {
        manage_task(s, e, request);
    } else if ((type == VIRTIO_SCSI_T_AN_QUERY || type == VIRTIO_SCSI_T_AN_SUBSCRIBE) &&
               size >= AN_SIZE && e->in_size >= sizeof(answer)) {
        virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, answer, sizeof(answer)));
    } else {
        virtio_break(q->v, "queue 0: a request of type %llu with %zu bytes",
                     (unsigned long long)type, e->out_size);
        virtqueue_discard(e);
    }
}

/* ---- events ------------------------------------------------------------------------------------
 */

static void send_event(struct virtio_scsi *s, const struct event *what)
{
    struct virtio_queue *q = &s->v.queue[EVENTS];
    struct virtio_element *e = virtio_io_live(&s->v) ? virtqueue_pop(q) : NULL;
    uint8_t event[sizeof(struct virtio_scsi_event)];

    if (!e) {
        s->missed = virtio_io_live(&s->v);
        return;
    }
    store_le(event, what->event | (s->missed ? VIRTIO_SCSI_T_EVENTS_MISSED : 0), 4);
    memcpy(event + 4, what->lun, LUN_SIZE);
    store_le(event + 12, what->reason, 4);
    s->missed = 0;
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, event, sizeof(event)));
}

static void bus_changed(void *opaque, struct scsi_unit *u, enum scsi_event what)
{
    struct virtio_scsi *s = opaque;
    struct event e = {
        .event = VIRTIO_SCSI_T_TRANSPORT_RESET,
        .reason = what == SCSI_UNIT_REMOVED ? VIRTIO_SCSI_EVT_RESET_REMOVED
                                            : VIRTIO_SCSI_EVT_RESET_RESCAN,
        .lun = {1, (uint8_t)u->target, (uint8_t)(0x40 | u->lun >> 8), (uint8_t)u->lun}};

    if (what == SCSI_UNIT_RESIZED) {
        e.event = VIRTIO_SCSI_T_PARAM_CHANGE;
        e.reason = SCSI_CAPACITY_CHANGED >> 8 | (SCSI_CAPACITY_CHANGED & 0xff) << 8;
    }
    virtio_io_begin(&s->v);
    if (virtio_has(&s->v, what == SCSI_UNIT_RESIZED ? VIRTIO_SCSI_F_CHANGE : VIRTIO_SCSI_F_HOTPLUG))
        send_event(s, &e);
    virtio_io_end(&s->v);
}

static void bus_lock(void *opaque, bool lock)
{
    struct virtio_scsi *s = opaque;

    if (lock)
        virtio_io_begin(&s->v);
    else
        virtio_io_end(&s->v);
}

static void scsi_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_scsi *s = to_scsi(v);

    if (number == CONTROL)
        virtqueue_each(&v->queue[number], take_control);
    else if (number != EVENTS)
        virtqueue_each(&v->queue[number], take_command);
    else if (s->missed)
        send_event(s, &(struct event){.event = VIRTIO_SCSI_T_NO_EVENT});
}

/* ---- the device --------------------------------------------------------------------------------
 */

static void fill_config(struct virtio_device *v)
{
    const struct virtio_scsi *s = to_scsi(v);
    struct virtio_scsi_config c = {.num_queues = s->num_queues,
                                   .seg_max = s->queue_size - 2u,
                                   .max_sectors = s->max_sectors,
                                   .cmd_per_lun = s->cmd_per_lun,
                                   .event_info_size = sizeof(struct virtio_scsi_event),
                                   .sense_size = s->sense_size,
                                   .cdb_size = s->cdb_size,
                                   .max_target = SCSI_TARGETS - 1,
                                   .max_lun = SCSI_LUNS - 1};

    memcpy(v->config, &c, CONFIG_SIZE);
}

/* Sizes are set before the device is used. */
static void scsi_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    struct virtio_scsi *s = to_scsi(v);

    if (v->status & VIRTIO_CONFIG_S_DRIVER_OK || size != 4)
        return;
    if (offset == offsetof(struct virtio_scsi_config, sense_size) && value <= 65536)
        s->sense_size = (uint32_t)value;
    else if (offset == offsetof(struct virtio_scsi_config, cdb_size) && value <= 256)
        s->cdb_size = (uint32_t)value;
}

static void scsi_reset(struct virtio_device *v)
{
    struct virtio_scsi *s = to_scsi(v);

    s->sense_size = SENSE_SIZE;
    s->cdb_size = CDB_SIZE;
    s->missed = 0;
    for (struct scsi_unit *u = s->bus.first; u; u = u->next)
        scsi_unit_reset(u);
}

static void scsi_refresh(struct virtio_device *v)
{
    struct virtio_scsi *s = to_scsi(v);

    s->sense_size = MIN(s->sense_size, 65536u);
    s->cdb_size = MIN(s->cdb_size, 256u);
}

struct scsi_bus *virtio_scsi_bus(struct device *dev)
{
    if (dev->type == &virtio_scsi_pci_type || dev->type == &virtio_scsi_pci_transitional_type ||
        dev->type == &virtio_scsi_pci_modern_type || dev->type == &virtio_scsi_mmio_type)
        return &to_scsi(to_virtio(dev))->bus;
    return NULL;
}

static int scsi_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_scsi *s = to_scsi(v);
    const char *name = v->dev.type->name;

    if (s->num_queues == AUTO_QUEUES)
        s->num_queues = (uint16_t)MAX(MIN(v->dev.machine->config.cpus, MAX_QUEUES), 1u);
    if (!s->num_queues || s->num_queues > MAX_QUEUES)
        return error_set(err, EINVAL, "%s: num_queues=%u is not from 1 to %d", name, s->num_queues,
                         MAX_QUEUES);
    if (!is_power_of_2(s->queue_size) || s->queue_size < 4 || s->queue_size > VIRTIO_QUEUE_MAX)
        return error_set(err, EINVAL, "%s: virtqueue_size=%u is not a power of two from 4 to %d",
                         name, s->queue_size, VIRTIO_QUEUE_MAX);
    v->offered |= (s->hotplug ? BIT(VIRTIO_SCSI_F_HOTPLUG) : 0) |
                  (s->param_change ? BIT(VIRTIO_SCSI_F_CHANGE) : 0);
    v->config_size = CONFIG_SIZE;
    for (unsigned i = 0; i < FIRST_COMMANDS + (unsigned)s->num_queues; i++)
        virtio_add_queue(v, s->queue_size);
    s->bus_name = xasprintf("%s.0", v->dev.id);
    s->bus = (struct scsi_bus){.name = s->bus_name,
                               .targets = SCSI_TARGETS,
                               .luns = SCSI_LUNS,
                               .opaque = s,
                               .changed = bus_changed,
                               .lock = bus_lock};
    return 0;
}

static void scsi_unrealize(struct virtio_device *v)
{
    free(to_scsi(v)->bus_name);
}

static const struct virtio_type scsi_virtio = {
    .name = "virtio-scsi",
    .id = VIRTIO_ID_SCSI,
    .legacy_id = 0x1004,
    .class_code = 0x010000,
    .realize = scsi_realize,
    .unrealize = scsi_unrealize,
    .reset = scsi_reset,
    .kicked = scsi_kicked,
    .config_read = fill_config,
    .config_written = scsi_written,
    .refresh = scsi_refresh,
};

#define SCSI_PROPERTIES                                                                            \
    PROPERTY_U16("num_queues", struct virtio_scsi, num_queues, AUTO_QUEUES,                        \
                 "queues for commands, 1 to 16 (default: one for each processor)"),                \
        PROPERTY_U16("virtqueue_size", struct virtio_scsi, queue_size, 256, "entries of each"),    \
        PROPERTY_U32("max_sectors", struct virtio_scsi, max_sectors, 0xffff, "of a command"),      \
        PROPERTY_U32("cmd_per_lun", struct virtio_scsi, cmd_per_lun, 128, "commands at once"),     \
        PROPERTY_BOOL("hotplug", struct virtio_scsi, hotplug, true, "tell of units that come"),    \
        PROPERTY_BOOL("param_change", struct virtio_scsi, param_change, true, "tell of sizes")
#define SCSI_STATE                                                                                 \
    STATE_U32(struct virtio_scsi, sense_size), STATE_U32(struct virtio_scsi, cdb_size),            \
        STATE_U8(struct virtio_scsi, missed)

static const struct property scsi_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_scsi, v),
    SCSI_PROPERTIES,
    PROPERTY_END,
};
static const struct property scsi_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_scsi, v),
    SCSI_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field scsi_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_scsi, v),
    SCSI_STATE,
    STATE_END,
};
static const struct state_field scsi_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_scsi, v),
    SCSI_STATE,
    STATE_END,
};

#define SUMMARY "a SCSI adapter (virtio)"
const struct device_type virtio_scsi_pci_type =
    VIRTIO_PCI_DEVICE("virtio-scsi-pci", SUMMARY, struct virtio_scsi, scsi_pci_properties,
                      scsi_pci_state, scsi_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_scsi_pci_transitional_type =
    VIRTIO_PCI_DEVICE("virtio-scsi-pci-transitional", SUMMARY, struct virtio_scsi,
                      scsi_pci_properties, scsi_pci_state, scsi_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_scsi_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-scsi-pci-non-transitional", SUMMARY, struct virtio_scsi,
                      scsi_pci_properties, scsi_pci_state, scsi_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_scsi_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-scsi-device", SUMMARY, struct virtio_scsi, scsi_mmio_properties,
                       scsi_mmio_state, scsi_virtio);
