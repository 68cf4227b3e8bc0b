/*
 * storage.c - see storage.h. "Universal Serial Bus Mass Storage Class, Bulk-Only Transport", 1.0: a
 * command block (31 bytes), data, a status (13 bytes). The SCSI disk is a device of its own, made
 * by this one, on a bus of one place.
 *
 * The data of a command is collected in a buffer, so the disk works while the host's transfers come
 * as they like; an IN transfer before the disk is done is answered with NAK. A command that the
 * host gave up by a reset runs to its end, and the next one waits for that.
 *
 * What a snapshot meets in the middle is ended by a stall: the host then resets the device and
 * tries again.
 */
#include "devices/usb/storage.h"

#include "base/log.h"
#include "devices/scsi/scsi.h"
#include "devices/usb/usb.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    BULK_IN = 1,
    BULK_OUT = 2,
    CBW_SIZE = 31,
    CSW_SIZE = 13,
    CBW_SIGNATURE = 0x43425355,
    CSW_SIGNATURE = 0x53425355,
    DATA_MOST = 16 * MiB,
    GET_MAX_LUN = 0xa1 << 8 | 0xfe,
    BULK_RESET = 0x21 << 8 | 0xff,
    REQUEST_SENSE = 3,
};

enum phase { PHASE_COMMAND, PHASE_OUT, PHASE_IN, PHASE_STATUS, PHASE_BROKEN };
enum csw_status { CSW_GOOD, CSW_FAILED, CSW_PHASE };

struct storage {
    struct usb_device usb;
    struct disk *disk; /* property */
    uint32_t bootindex;
    struct scsi_bus bus;
    char *bus_name_own;

    /* saved */
    uint8_t phase, status;
    uint32_t tag, length, residue;
    uint8_t sense[SCSI_SENSE_SIZE], sense_size;

    struct scsi_command command;
    struct iovec iov;
    uint8_t *data;          /* `length` bytes */
    uint32_t filled, given; /* by the host; to the host */
    bool pending;           /* the disk has the command */
    bool abandoned;         /* and nobody waits for it */
    bool lost;              /* derived: a restore came in the middle, the data is gone */
};
#define to_storage(d) container_of(d, struct storage, usb)

static const uint8_t storage_device[] = {
    18, 1, 0x00, 0x03, 0, 0, 0, 9, 0x27, 0x06, 4, 0, 0, 1, 1, 2, 3, 1,
};

static const uint8_t storage_configuration[] = {
    9,  2,    44,
    0,  1,    1,
    0,  0xc0, 12, /* self powered */
    9,  4,    0,
    0,  2,    8,
    6,  0x50, 0, /* mass storage, SCSI, bulk only */
    7,  5,    0x80 | BULK_IN,
    2,  0x00, 0x04,
    0,  6,    0x30,
    15, 0,    0,
    0, /* 1024 bytes; bursts of 16 */
    7,  5,    BULK_OUT,
    2,  0x00, 0x04,
    0,  6,    0x30,
    15, 0,    0,
    0,
};

static const uint8_t storage_bos[] = {
    5,  15, 22, 0, 2,                       /* two capabilities */
    7,  16, 2,  2, 0, 0, 0,                 /* of USB 2.0: LPM */
    10, 16, 3,  0, 8, 0, 3, 10, 0xff, 0x07, /* SuperSpeed only */
};

/* ---- commands ----------------------------------------------------------------------------------
 */

/* The disk is done, or there was nothing for it to do. */
static void command_ended(struct storage *s)
{
    const struct scsi_command *c = &s->command;

    s->residue = s->length - (uint32_t)MIN(c->moved, (size_t)s->length);
    s->status = c->overrun ? CSW_PHASE : c->status == SCSI_GOOD ? CSW_GOOD : CSW_FAILED;
    s->sense_size = c->status == SCSI_GOOD ? 0 : MIN(c->sense_size, (uint8_t)SCSI_SENSE_SIZE);
    memcpy(s->sense, c->sense, s->sense_size);
    if (s->phase == PHASE_OUT || !s->length)
        s->phase = PHASE_STATUS;
}

static void disk_done(struct scsi_command *c)
{
    struct storage *s = container_of(c, struct storage, command);

    usb_lock(&s->usb);
    s->pending = false;
    if (s->abandoned) {
        s->abandoned = false;
        free(s->data);
        s->data = NULL;
    } else {
        command_ended(s);
    }
    usb_wake(&s->usb, BULK_IN, true);
    usb_wake(&s->usb, BULK_OUT, false);
    usb_unlock(&s->usb);
}

/* What the last command failed with, which the disk told at once and the host asks for now. */
static void answer_sense(struct storage *s)
{
    size_t n = MIN((size_t)s->command.cdb[4], (size_t)s->sense_size);

    n = MIN(n, (size_t)s->length);
    if (n)
        memcpy(s->data, s->sense, n);
    s->command.moved = n;
    s->command.status = SCSI_GOOD;
    s->command.sense_size = 0;
    command_ended(s);
}

static void start_command(struct storage *s)
{
    struct scsi_command *c = &s->command;
    bool out = s->phase == PHASE_OUT;

    s->iov = (struct iovec){s->data, s->length};
    c->out = out ? &s->iov : NULL;
    c->in = out ? NULL : &s->iov;
    c->out_count = out;
    c->in_count = !out && s->length;
    c->out_size = out ? s->length : 0;
    c->in_size = out ? 0 : s->length;
    c->done = disk_done;
    if (c->cdb[0] == REQUEST_SENSE && s->sense_size && !out) {
        answer_sense(s);
        return;
    }
    if (!s->bus.first) { /* its disk was taken away */
        scsi_submit_absent(&s->bus, 0, c);
        command_ended(s);
        return;
    }
    s->pending = scsi_submit(s->bus.first, c);
    if (!s->pending)
        command_ended(s);
}

static void drop_data(struct storage *s)
{
    if (s->pending) {
        s->abandoned = true; /* the disk still has the buffer */
        return;
    }
    free(s->data);
    s->data = NULL;
}

static int take_command(struct storage *s, const struct usb_packet *p)
{
    const uint8_t *w = p->data;
    uint32_t length;

    if (s->pending)
        return USB_NAK; /* one that was given up is at work still */
    if (p->length != CBW_SIZE || load_le(w, 4) != CBW_SIGNATURE || w[13] > 15 || w[14] < 1 ||
        w[14] > SCSI_CDB_MAX || (length = (uint32_t)load_le(w + 8, 4)) > DATA_MOST) {
        log_guest("%s: a command block that is none", s->usb.dev.id);
        s->phase = PHASE_BROKEN;
        return USB_STALL;
    }
    drop_data(s);
    s->data = length ? calloc(1, length) : NULL;
    if (length && !s->data) {
        s->phase = PHASE_BROKEN;
        return USB_STALL;
    }
    s->tag = (uint32_t)load_le(w + 4, 4);
    s->length = s->residue = length;
    s->filled = s->given = 0;
    s->command = (struct scsi_command){0};
    memcpy(s->command.cdb, w + 15, w[14]);
    s->phase = !length ? PHASE_STATUS : w[12] & 0x80 ? PHASE_IN : PHASE_OUT;
    if (w[13]) { /* there is unit 0 only */
        s->command.status = SCSI_CHECK_CONDITION;
        command_ended(s);
    } else if (s->phase != PHASE_OUT) {
        start_command(s);
    }
    return CBW_SIZE;
}

static int take_data(struct storage *s, const struct usb_packet *p)
{
    uint32_t n = MIN(p->length, s->length - s->filled);

    if (s->pending)
        return USB_NAK;
    memcpy(s->data + s->filled, p->data, n);
    s->filled += n;
    if (s->filled == s->length)
        start_command(s);
    return (int)p->length; /* what is too much goes nowhere */
}

static int give_data(struct storage *s, const struct usb_packet *p)
{
    uint32_t n;

    if (s->pending)
        return USB_NAK;
    n = MIN(p->length, s->length - s->residue - s->given);
    if (n)
        memcpy(p->data, s->data + s->given, n);
    s->given += n;
    /* A short packet, or the last byte the host waits for, ends the data. */
    if (n < p->length || s->given == s->length)
        s->phase = PHASE_STATUS;
    return (int)n;
}

static int give_status(struct storage *s, const struct usb_packet *p)
{
    uint8_t w[CSW_SIZE];

    if (s->pending)
        return USB_NAK;
    if (p->length < CSW_SIZE)
        return USB_STALL;
    store_le(w, CSW_SIGNATURE, 4);
    store_le(w + 4, s->tag, 4);
    store_le(w + 8, s->residue, 4);
    w[12] = s->status;
    memcpy(p->data, w, sizeof(w));
    s->phase = PHASE_COMMAND;
    drop_data(s);
    return CSW_SIZE;
}

static int storage_transfer(struct usb_device *d, struct usb_packet *p)
{
    struct storage *s = to_storage(d);

    if (s->lost)
        return USB_STALL;
    if (p->in && p->endpoint == BULK_IN)
        switch (s->phase) {
        case PHASE_IN: return give_data(s, p);
        case PHASE_STATUS: return give_status(s, p);
        case PHASE_COMMAND: return USB_NAK;
        case PHASE_OUT:
            return s->pending ? USB_NAK : USB_STALL; /* the status, as soon as there is one */
        default: return USB_STALL;
        }
    if (!p->in && p->endpoint == BULK_OUT)
        switch (s->phase) {
        case PHASE_COMMAND: return take_command(s, p);
        case PHASE_OUT: return take_data(s, p);
        default: return USB_STALL;
        }
    return USB_STALL;
}

static void storage_reset(struct usb_device *d)
{
    struct storage *s = to_storage(d);

    s->phase = PHASE_COMMAND;
    s->lost = false;
    s->sense_size = 0;
    s->tag = s->length = s->residue = 0;
    memset(s->sense, 0, sizeof(s->sense));
    s->status = CSW_GOOD;
    drop_data(s);
}

static int storage_control(struct usb_device *d, const struct usb_setup *setup, uint8_t *data)
{
    switch (setup->type << 8 | setup->request) {
    case GET_MAX_LUN:
        if (setup->length)
            data[0] = 0;
        return MIN(setup->length, (uint16_t)1);
    case BULK_RESET: storage_reset(d); return 0;
    default: return USB_STALL;
    }
}

static void storage_refresh(struct usb_device *d)
{
    struct storage *s = to_storage(d);

    drop_data(s);
    s->lost = s->phase == PHASE_IN || s->phase == PHASE_OUT;
    s->sense_size = MIN(s->sense_size, (uint8_t)SCSI_SENSE_SIZE);
}

/* ---- the device's life -------------------------------------------------------------------------
 */

static void bus_changed(void *opaque, struct scsi_unit *u, enum scsi_event what)
{
    /* The disk says it itself: by unit attention. */
}

static void bus_lock(void *opaque, bool lock)
{
    struct storage *s = opaque;

    if (lock)
        usb_lock(&s->usb);
    else
        usb_unlock(&s->usb);
}

struct scsi_bus *usb_storage_bus(struct device *dev)
{
    struct storage *s;

    if (dev->type != &usb_storage_type)
        return NULL;
    s = to_storage(to_usb(dev));
    return s->bus.name ? &s->bus : NULL;
}

static int storage_realize(struct usb_device *d, struct error *err)
{
    struct storage *s = to_storage(d);
    auto_free char *name = xasprintf("%s.disk", d->dev.id);
    struct device *disk;
    int r;

    if (!s->disk)
        return error_set(err, EINVAL, "%s: which disk? Say drive=NAME", d->dev.id);
    s->bus_name_own = xasprintf("%s.0", d->dev.id);
    s->bus = (struct scsi_bus){.name = s->bus_name_own,
                               .targets = 1,
                               .luns = 1,
                               .opaque = s,
                               .changed = bus_changed,
                               .lock = bus_lock};
    disk = device_new(d->dev.machine, &scsi_hd_type, name);
    device_set_ref(disk, "drive", s->disk);
    r = device_set(disk, "bus", s->bus.name, err);
    if (!r && s->bootindex != UINT32_MAX) {
        auto_free char *place = xasprintf("%u", s->bootindex);

        r = device_set(disk, "bootindex", place, err);
    }
    r = r ? r : device_realize(disk, err);
    if (r < 0) {
        device_free(disk);
        free(s->bus_name_own);
        s->bus.name = s->bus_name_own = NULL;
    }
    return r;
}

static void storage_unrealize(struct usb_device *d)
{
    struct storage *s = to_storage(d);

    if (s->bus.first)
        device_free(&s->bus.first->dev); /* waits for what is under way */
    free(s->data);
    free(s->bus_name_own);
}

static const struct usb_type storage_usb = {
    .speed = USB_SUPER,
    .device = storage_device,
    .configuration = storage_configuration,
    .bos = storage_bos,
    .product = "USB disk",
    .realize = storage_realize,
    .unrealize = storage_unrealize,
    .reset = storage_reset,
    .control = storage_control,
    .transfer = storage_transfer,
    .refresh = storage_refresh,
};

static const struct property storage_properties[] = {
    USB_PROPERTIES(struct storage, usb),
    PROPERTY_REF("drive", struct storage, disk, "the disk, as --drive names it"),
    PROPERTY_U32("bootindex", struct storage, bootindex, UINT32_MAX, "place in the boot order"),
    PROPERTY_END,
};

static const struct state_field storage_state[] = {
    USB_STATE(struct storage, usb),
    STATE_U8(struct storage, phase),
    STATE_U8(struct storage, status),
    STATE_U32(struct storage, tag),
    STATE_U32(struct storage, length),
    STATE_U32(struct storage, residue),
    STATE_ARRAY(struct storage, sense),
    STATE_U8(struct storage, sense_size),
    STATE_END,
};

const struct device_type usb_storage_type = {
    .name = "usb-storage",
    .summary = "USB disk (bulk-only, SuperSpeed)",
    .instance_size = sizeof(struct storage),
    .properties = storage_properties,
    .state = storage_state,
    .bus_data = &storage_usb,
    USB_DEVICE_HOOKS,
};
