/*
 * xhci.c - see xhci.h; section numbers are those of the xHCI specification, revision 1.0.
 *
 * A transfer is taken from its ring as a whole (all TRBs of a TD; for control transfers all
 * stages), given to the device, and only when the device is done the ring's dequeue pointer moves.
 * So a device that has nothing (NAK) costs nothing: the transfer stays in the ring until the device
 * wakes its endpoint. Only a transfer the device keeps (USB_LATER) is held here, in td.
 *
 * Everything in guest memory is hostile: rings may have no end, link to themselves, or lie nowhere.
 * How much is looked at for one doorbell is bounded by the *_MAX below.
 */
#include "devices/usb/xhci.h"

#include "base/log.h"
#include "devices/pci/pci.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>

enum {
    TRB_SIZE = 16,
    LINKS_MAX = 32,
    TRBS_MAX = 1024,
    TRANSFERS_MAX = 256, /* for one doorbell */
    COMMANDS_MAX = 1024,
    DATA_MAX = 4 * MiB,
    CONTEXT = 32,
};

enum trb_bits {
    TRB_CYCLE = 1 << 0,
    TRB_TOGGLE = 1 << 1, /* of a link */
    TRB_ISP = 1 << 2,
    TRB_CHAIN = 1 << 4,
    TRB_IOC = 1 << 5,
    TRB_IMMEDIATE = 1 << 6,
    TRB_BSR = 1 << 9, /* commands: block SET_ADDRESS; deconfigure */
    TRB_IN = 1 << 16,
    EVENT_ED = 1 << 2,
};

enum register_bits {
    CMD_RUN = 1 << 0,
    CMD_RESET = 1 << 1,
    CMD_INTE = 1 << 2,
    STS_HALTED = 1 << 0,
    STS_EVENT = 1 << 3,
    STS_PORT = 1 << 4,
    STS_ERROR = 1 << 12,
    CRCR_RUNNING = 1 << 3,
    IMAN_PENDING = 1,
    IMAN_ENABLED = 2,
    ERDP_BUSY = 1 << 3,
    PORT_CONNECTED = 1 << 0,
    PORT_ENABLED = 1 << 1,
    PORT_RESET = 1 << 4,
    PORT_STATE = 15 << 5,
    PORT_POWER = 1 << 9,
    PORT_SPEED_SHIFT = 10,
    PORT_WRITE_STATE = 1 << 16,
    PORT_CHANGED = 1 << 17,
    PORT_ENABLE_CHANGED = 1 << 18,
    PORT_WARM_CHANGED = 1 << 19,
    PORT_RESET_CHANGED = 1 << 21,
    PORT_STATE_CHANGED = 1 << 22,
    PORT_CHANGES = 0x7f << 17,
    PORT_WAKE = 7 << 25,
    PORT_WARM_RESET = 1u << 31,
};

enum slot_state { SLOT_ENABLED = 0, SLOT_DEFAULT = 1, SLOT_ADDRESSED = 2, SLOT_CONFIGURED = 3 };
enum endpoint_state { EP_DISABLED, EP_RUNNING, EP_HALTED, EP_STOPPED, EP_ERROR };
enum endpoint_type { EP_CONTROL = 4 }; /* 1 to 3 OUT, 5 to 7 IN */

struct trb {
    uint64_t parameter;
    uint32_t status, control;
    gpa at;
};

struct ring {
    uint64_t dequeue;
    uint8_t cycle;
};

/* A transfer in the device's hands. */
struct td {
    struct td *next;
    struct usb_packet packet;
    struct usb_device *device;
    uint8_t slot, id;
    struct ring after; /* where the ring goes on */
    unsigned count;
    struct trb *trb;
    uint8_t *data;
};

struct endpoint {
    struct ring ring; /* saved, as the next two */
    uint8_t state, type;
    struct td *td; /* the device has it; NULL: none */
};

struct slot {
    /* saved */
    uint8_t enabled, state, port;
    uint16_t interrupter;
    uint64_t context;                             /* the device context in guest memory */
    struct endpoint endpoint[XHCI_ENDPOINTS + 1]; /* by DCI; 0 is not used */
};

struct interrupter {
    uint32_t iman, imod, erstsz;
    uint64_t erstba, erdp;
    /* the event ring: its one segment, and where the next event goes */
    uint64_t base;
    uint32_t size, enqueue;
    uint8_t cycle;
};

struct xhci {
    struct pci_device pci;

    /* saved */
    uint32_t usbcmd, usbsts, dnctrl, config;
    uint64_t crcr, dcbaap;
    struct ring commands;
    bool commands_run;
    uint32_t portsc[XHCI_PORTS];
    struct slot slot[XHCI_SLOTS + 1]; /* from 1 */
    struct interrupter interrupter[XHCI_INTERRUPTERS];

    struct usb_device *device[XHCI_PORTS]; /* attached */
};
#define to_xhci(d) container_of(to_pci(d), struct xhci, pci)

/* ---- events (4.9.4, 4.17) ----------------------------------------------------------------------
 */

static void update_line(struct xhci *x)
{
    const struct interrupter *i = &x->interrupter[0];
    bool level = i->iman & IMAN_PENDING && i->iman & IMAN_ENABLED && x->usbcmd & CMD_INTE;

    pci_intx_set(&x->pci, level && !pci_msix_enabled(&x->pci));
}

static void interrupt(struct xhci *x, unsigned number)
{
    struct interrupter *i = &x->interrupter[number];

    i->erdp |= ERDP_BUSY;
    i->iman |= IMAN_PENDING;
    x->usbsts |= STS_EVENT;
    if (pci_msix_enabled(&x->pci) && i->iman & IMAN_ENABLED && x->usbcmd & CMD_INTE) {
        i->iman &= ~(uint32_t)IMAN_PENDING; /* the message takes it along */
        pci_msix_send(&x->pci, number);
    }
    update_line(x);
}

static void host_error(struct xhci *x, const char *what)
{
    log_guest("%s: %s: the controller stops until it is reset", x->pci.dev.id, what);
    x->usbsts |= STS_ERROR | STS_HALTED;
    x->usbcmd &= ~(uint32_t)CMD_RUN;
}

static void post_event(struct xhci *x, unsigned number, uint64_t parameter, uint32_t status,
                       uint32_t control)
{
    struct interrupter *i = &x->interrupter[number < XHCI_INTERRUPTERS ? number : 0];
    uint32_t next;
    uint8_t trb[TRB_SIZE];

    if (!i->size || x->usbsts & STS_ERROR)
        return;
    next = i->enqueue + 1 == i->size ? 0 : i->enqueue + 1;
    if (i->base + next * (uint64_t)TRB_SIZE == (i->erdp & ~UINT64_C(15))) {
        host_error(x, "the event ring is full");
        return;
    }
    store_le(trb, parameter, 8);
    store_le(trb + 8, status, 4);
    store_le(trb + 12, control | i->cycle, 4);
    if (pci_dma_write(&x->pci, i->base + i->enqueue * (uint64_t)TRB_SIZE, trb, sizeof(trb)) < 0) {
        host_error(x, "the event ring lies outside RAM");
        return;
    }
    i->enqueue = next;
    i->cycle ^= !next;
    if (!(i->erdp & ERDP_BUSY))
        interrupt(x, (unsigned)(i - x->interrupter));
}

static void port_event(struct xhci *x, unsigned port)
{
    if (x->usbcmd & CMD_RUN) {
        x->usbsts |= STS_PORT;
        post_event(x, 0, (uint64_t)port << 24, (uint32_t)CODE_SUCCESS << 24, TRB_PORT_EVENT << 10);
    }
}

/* ---- rings (4.9.2) -----------------------------------------------------------------------------
 */

enum fetched { FETCHED, NOTHING, BROKEN };

/* The next TRB, past links. */
static enum fetched fetch(struct xhci *x, struct ring *r, struct trb *out)
{
    uint8_t raw[TRB_SIZE];

    for (unsigned links = 0; links < LINKS_MAX; links++) {
        if (pci_dma_read(&x->pci, r->dequeue, raw, sizeof(raw)) < 0)
            return BROKEN;
        *out = (struct trb){load_le(raw, 8), (uint32_t)load_le(raw + 8, 4),
                            (uint32_t)load_le(raw + 12, 4), r->dequeue};
        if ((out->control & TRB_CYCLE) != r->cycle)
            return NOTHING;
        if ((out->control >> 10 & 63) != TRB_LINK) {
            r->dequeue += TRB_SIZE;
            return FETCHED;
        }
        r->dequeue = out->parameter & ~UINT64_C(15);
        r->cycle ^= (out->control & TRB_TOGGLE) != 0;
    }
    return BROKEN;
}

static unsigned type_of(const struct trb *t)
{
    return t->control >> 10 & 63;
}

/* ---- contexts (6.2) ----------------------------------------------------------------------------
 */

static bool read_context(struct xhci *x, gpa at, uint32_t c[8])
{
    return pci_dma_read(&x->pci, at, c, CONTEXT) == 0;
}

static void write_context(struct xhci *x, gpa at, const uint32_t c[8])
{
    pci_dma_write(&x->pci, at, c, CONTEXT);
}

/* The state, and where it stands, of an endpoint in the guest's copy. */
static void publish_endpoint(struct xhci *x, const struct slot *s, unsigned id)
{
    const struct endpoint *e = &s->endpoint[id];
    uint32_t c[8];

    if (!read_context(x, s->context + CONTEXT * id, c))
        return;
    c[0] = (c[0] & ~7u) | e->state;
    c[2] = (uint32_t)e->ring.dequeue | e->ring.cycle;
    c[3] = (uint32_t)(e->ring.dequeue >> 32);
    write_context(x, s->context + CONTEXT * id, c);
}

static void publish_slot(struct xhci *x, struct slot *s, unsigned state, unsigned entries)
{
    uint32_t c[8];

    s->state = (uint8_t)state;
    if (!read_context(x, s->context, c))
        return;
    c[0] = (c[0] & ~(31u << 27)) | entries << 27;
    c[3] = (uint32_t)state << 27 | (state >= SLOT_ADDRESSED ? (uint32_t)(s - x->slot) : 0);
    write_context(x, s->context, c);
}

/* ---- transfers (4.10, 4.11) --------------------------------------------------------------------
 */

static void td_free(struct td *t)
{
    if (!t)
        return;
    free(t->trb);
    free(t->data);
    free(t);
}

static struct usb_device *device_of(struct xhci *x, const struct slot *s)
{
    return s->port && s->port <= XHCI_PORTS ? x->device[s->port - 1] : NULL;
}

static void transfer_event(struct xhci *x, const struct td *t, const struct trb *trb, unsigned code,
                           uint32_t length, bool event_data)
{
    post_event(x, trb->status >> 22, event_data ? trb->parameter : trb->at,
               (length & 0xffffff) | (uint32_t)code << 24,
               TRB_TRANSFER_EVENT << 10 | (uint32_t)t->slot << 24 | (uint32_t)t->id << 16 |
                   (event_data ? EVENT_ED : 0));
}

/* Tell of a transfer of which `moved` bytes went over the wire. One event for a TD, at the TRB that
 * asked for it or at which the data ended; a status stage is a TD of its own. */
static void report(struct xhci *x, const struct td *t, unsigned code, uint32_t moved)
{
    bool told = false, is_short = false;
    uint32_t left = moved, total = 0;

    for (unsigned i = 0; i < t->count; i++) {
        const struct trb *b = &t->trb[i];
        unsigned type = type_of(b);
        uint32_t size = b->status & 0x1ffff, chunk = 0;

        if (type == TRB_DATA || type == TRB_NORMAL || type == TRB_ISOCH) {
            chunk = MIN(size, left);
            is_short |= chunk < size && code == CODE_SUCCESS;
            left -= chunk;
            total += chunk;
        } else if (type == TRB_SETUP) {
            chunk = size;
        } else if (type == TRB_STATUS) {
            told = is_short = false;
        }
        if (!told && (b->control & TRB_IOC || (is_short && b->control & TRB_ISP) ||
                      (code != CODE_SUCCESS && !left && type != TRB_SETUP))) {
            unsigned say = code != CODE_SUCCESS ? code : is_short ? CODE_SHORT : CODE_SUCCESS;

            transfer_event(x, t, b, say, type == TRB_EVENT_DATA ? total : size - chunk,
                           type == TRB_EVENT_DATA);
            told = true;
            if (code != CODE_SUCCESS)
                return;
        }
        if (type == TRB_SETUP)
            told = is_short = false;
    }
}

/* All TRBs of the next transfer: a chain, or the stages of a control transfer. */
static enum fetched gather(struct xhci *x, struct endpoint *e, struct td *t)
{
    struct ring r = e->ring;
    bool control = e->type == EP_CONTROL;
    uint64_t total = 0;

    t->trb = malloc(sizeof(*t->trb) * 8);
    for (unsigned room = 8; t->trb; t->count++) {
        enum fetched f;
        struct trb *b;

        if (t->count == TRBS_MAX)
            return BROKEN;
        if (t->count == room) {
            struct trb *more = realloc(t->trb, sizeof(*t->trb) * (room *= 2));

            if (!more)
                return BROKEN;
            t->trb = more;
        }
        b = &t->trb[t->count];
        f = fetch(x, &r, b);
        if (f != FETCHED)
            return f;
        total += type_of(b) == TRB_SETUP || type_of(b) == TRB_EVENT_DATA ? 0 : b->status & 0x1ffff;
        if (total > DATA_MAX)
            return BROKEN;
        if (control ? type_of(b) == TRB_STATUS || type_of(b) == TRB_NOOP
                    : !(b->control & TRB_CHAIN))
            break;
    }
    if (!t->trb)
        return BROKEN;
    /* An event data TRB behind the status stage belongs to it. */
    if (control && t->trb[t->count].control & TRB_CHAIN && t->count + 1 < TRBS_MAX) {
        struct trb *more = realloc(t->trb, sizeof(*t->trb) * (t->count + 2));
        enum fetched f;

        if (!more)
            return BROKEN;
        t->trb = more;
        f = fetch(x, &r, &t->trb[t->count + 1]);
        if (f != FETCHED)
            return f;
        t->count++;
    }
    t->count++;
    t->after = r;
    t->packet.length = (uint32_t)total;
    t->data = total ? malloc(total) : NULL;
    return total && !t->data ? BROKEN : FETCHED;
}

/* Move the transfer's data between t->data and guest memory; false: some of it is no RAM. */
static bool move_data(struct xhci *x, struct td *t, bool to_guest, uint32_t bytes)
{
    uint32_t at = 0;

    for (unsigned i = 0; i < t->count && at < bytes; i++) {
        const struct trb *b = &t->trb[i];
        uint32_t size = MIN(b->status & 0x1ffff, bytes - at);
        unsigned type = type_of(b);
        int r = 0;

        if (type != TRB_DATA && type != TRB_NORMAL && type != TRB_ISOCH)
            continue;
        if (b->control & TRB_IMMEDIATE && !to_guest && size <= 8)
            memcpy(t->data + at, &b->parameter, size);
        else if (to_guest)
            r = pci_dma_write(&x->pci, b->parameter, t->data + at, size);
        else
            r = pci_dma_read(&x->pci, b->parameter, t->data + at, size);
        if (r < 0)
            return false;
        at += size;
    }
    return true;
}

static int run_control(struct xhci *x, struct usb_device *d, struct td *t, uint32_t *moved)
{
    uint8_t *raw = (uint8_t *)&t->trb[0].parameter;
    struct usb_setup s = {raw[0], raw[1], (uint16_t)load_le(raw + 2, 2),
                          (uint16_t)load_le(raw + 4, 2), (uint16_t)load_le(raw + 6, 2)};
    auto_free uint8_t *data = NULL;
    int r;

    if (type_of(&t->trb[0]) != TRB_SETUP || !(t->trb[0].control & TRB_IMMEDIATE))
        return CODE_TRB;
    data = xcalloc(1, s.length + 1u);
    if (!(s.type & 0x80)) {
        uint32_t n = MIN(t->packet.length, (uint32_t)s.length);

        if (n && !move_data(x, t, false, n))
            return CODE_TRB;
        if (n)
            memcpy(data, t->data, n);
        *moved = n;
    }
    r = usb_control(d, &s, data);
    if (r < 0)
        return CODE_STALL;
    if (s.type & 0x80) {
        *moved = MIN((uint32_t)r, t->packet.length);
        if (*moved)
            memcpy(t->data, data, *moved);
        if (!move_data(x, t, true, *moved))
            return CODE_TRB;
    }
    return CODE_SUCCESS;
}

/* The transfer is over: the ring goes on, the guest is told. */
static void finish(struct xhci *x, struct slot *s, unsigned id, struct td *t, unsigned code,
                   uint32_t moved)
{
    struct endpoint *e = &s->endpoint[id];

    if (code == CODE_STALL || code == CODE_TRANSACTION || code == CODE_TRB) {
        /* The ring stays at the transfer: the guest moves it (4.10.2.1). */
        e->state = code == CODE_TRB ? EP_ERROR : EP_HALTED;
        e->ring.dequeue = t->trb[0].at;
        e->ring.cycle = t->trb[0].control & TRB_CYCLE;
        publish_endpoint(x, s, id);
    } else {
        e->ring = t->after;
    }
    report(x, t, code, moved);
}

static bool is_in(const struct endpoint *e)
{
    return e->type >= 5;
}

/* One transfer of an endpoint; false: nothing more to do now. */
static bool run_one(struct xhci *x, struct slot *s, unsigned id)
{
    struct endpoint *e = &s->endpoint[id];
    struct usb_device *d = device_of(x, s);
    struct td *t;
    unsigned code = CODE_SUCCESS;
    uint32_t moved = 0;
    int r = 0;

    if (e->state != EP_RUNNING || e->td)
        return false;
    t = xcalloc(1, sizeof(*t));
    t->slot = (uint8_t)(s - x->slot);
    t->id = (uint8_t)id;
    switch (gather(x, e, t)) {
    case NOTHING: td_free(t); return false;
    case BROKEN:
        log_guest("%s: a transfer ring without end, or outside RAM", x->pci.dev.id);
        e->state = EP_ERROR;
        publish_endpoint(x, s, id);
        if (t->count) {
            t->count = 1;
            report(x, t, CODE_TRB, 0);
        }
        td_free(t);
        return false;
    case FETCHED: break;
    }
    t->device = d;
    t->packet.endpoint = (uint8_t)(id / 2);
    t->packet.in = is_in(e);
    t->packet.data = t->data;
    if (type_of(&t->trb[0]) == TRB_NOOP) {
        /* nothing goes over the wire */
    } else if (!d) {
        code = CODE_TRANSACTION;
    } else if (e->type == EP_CONTROL) {
        code = (unsigned)run_control(x, d, t, &moved);
    } else if (!is_in(e) && !move_data(x, t, false, t->packet.length)) {
        code = CODE_TRB;
    } else {
        r = usb_transfer(d, &t->packet);
        if (r == USB_NAK) {
            td_free(t);
            return false;
        }
        if (r == USB_LATER) {
            e->td = t;
            return false;
        }
        moved = r > 0 ? MIN((uint32_t)r, t->packet.length) : 0;
        code = r < 0 ? CODE_STALL : CODE_SUCCESS;
        if (is_in(e) && !move_data(x, t, true, moved))
            code = CODE_TRB;
    }
    finish(x, s, id, t, code, moved);
    td_free(t);
    return e->state == EP_RUNNING;
}

static void kick(struct xhci *x, struct slot *s, unsigned id)
{
    if (!(x->usbcmd & CMD_RUN))
        return;
    for (unsigned n = 0; n < TRANSFERS_MAX && run_one(x, s, id); n++)
        ;
}

/* Take a transfer back from the device. */
static void cancel(struct xhci *x, struct endpoint *e)
{
    struct td *t = e->td;

    if (!t)
        return;
    e->td = NULL;
    if (t->device && usb_type_of(t->device)->cancel)
        usb_type_of(t->device)->cancel(t->device, &t->packet);
    td_free(t);
}

void xhci_packet_done(struct xhci *x, struct usb_packet *p, int result)
{
    struct td *t = container_of(p, struct td, packet);
    struct slot *s = &x->slot[t->slot];
    unsigned id = t->id, code = result < 0 ? CODE_STALL : CODE_SUCCESS;
    uint32_t moved = result > 0 ? MIN((uint32_t)result, p->length) : 0;

    s->endpoint[id].td = NULL;
    if (p->in && !move_data(x, t, true, moved))
        code = CODE_TRB;
    finish(x, s, id, t, code, moved);
    td_free(t);
    kick(x, s, id);
}

void xhci_wake(struct xhci *x, unsigned port, unsigned id)
{
    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        if (x->slot[n].enabled && x->slot[n].port == port)
            kick(x, &x->slot[n], id);
}

/* ---- commands (4.6) ----------------------------------------------------------------------------
 */

static void disable_endpoint(struct xhci *x, struct endpoint *e)
{
    cancel(x, e);
    *e = (struct endpoint){.state = EP_DISABLED};
}

static void disable_slot(struct xhci *x, struct slot *s)
{
    for (unsigned id = 1; id <= XHCI_ENDPOINTS; id++)
        disable_endpoint(x, &s->endpoint[id]);
    *s = (struct slot){0};
}

static unsigned enable_slot(struct xhci *x, unsigned *number)
{
    for (unsigned n = 1; n <= MIN(x->config & 0xff, (uint32_t)XHCI_SLOTS); n++)
        if (!x->slot[n].enabled) {
            x->slot[n] = (struct slot){.enabled = true};
            *number = n;
            return CODE_SUCCESS;
        }
    return CODE_NO_SLOTS;
}

static void set_endpoint(struct xhci *x, struct slot *s, unsigned id, uint32_t c[8])
{
    struct endpoint *e = &s->endpoint[id];

    cancel(x, e);
    *e = (struct endpoint){.ring = {(c[2] & ~15u) | (uint64_t)c[3] << 32, c[2] & 1},
                           .state = EP_RUNNING,
                           .type = c[1] >> 3 & 7};
    c[0] = (c[0] & ~7u) | EP_RUNNING;
    write_context(x, s->context + CONTEXT * id, c);
}

static unsigned address_device(struct xhci *x, unsigned number, const struct trb *t)
{
    gpa input = t->parameter & ~UINT64_C(15);
    struct slot *s = &x->slot[number];
    uint32_t control[8], slot[8], ep0[8];
    uint64_t context;
    unsigned port;

    if (pci_dma_read(&x->pci, x->dcbaap + 8 * number, &context, 8) < 0 ||
        !read_context(x, input, control) || !read_context(x, input + CONTEXT, slot) ||
        !read_context(x, input + 2 * CONTEXT, ep0))
        return CODE_TRB;
    if ((control[0] & 3) || (control[1] & 3) != 3)
        return CODE_TRB;
    port = slot[1] >> 16 & 0xff;
    if (!port || port > XHCI_PORTS || slot[0] & 0xfffff || (ep0[1] >> 3 & 7) != EP_CONTROL)
        return CODE_PARAMETER; /* no hubs: a route leads nowhere */
    if (!x->device[port - 1] || !(x->portsc[port - 1] & PORT_ENABLED))
        return CODE_TRANSACTION;
    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        if (n != number && x->slot[n].enabled && x->slot[n].port == port)
            return CODE_TRB;
    s->context = context & ~UINT64_C(63);
    s->port = (uint8_t)port;
    s->interrupter = slot[2] >> 22;
    slot[3] = 0;
    write_context(x, s->context, slot);
    set_endpoint(x, s, 1, ep0);
    publish_slot(x, s, t->control & TRB_BSR ? SLOT_DEFAULT : SLOT_ADDRESSED, 1);
    return CODE_SUCCESS;
}

static unsigned configure_endpoint(struct xhci *x, unsigned number, const struct trb *t)
{
    gpa input = t->parameter & ~UINT64_C(15);
    struct slot *s = &x->slot[number];
    uint32_t control[8], slot[8], c[8];
    unsigned last = 1;

    if (s->state != SLOT_ADDRESSED && s->state != SLOT_CONFIGURED)
        return CODE_CONTEXT;
    if (t->control & TRB_BSR) { /* deconfigure */
        for (unsigned id = 2; id <= XHCI_ENDPOINTS; id++) {
            disable_endpoint(x, &s->endpoint[id]);
            publish_endpoint(x, s, id);
        }
        publish_slot(x, s, SLOT_ADDRESSED, 1);
        return CODE_SUCCESS;
    }
    if (!read_context(x, input, control) || !read_context(x, input + CONTEXT, slot))
        return CODE_TRB;
    if (control[0] & 3 || (control[1] & 3) != 1)
        return CODE_TRB;
    for (unsigned id = 2; id <= XHCI_ENDPOINTS; id++) {
        if (control[0] >> id & 1 || control[1] >> id & 1) {
            disable_endpoint(x, &s->endpoint[id]);
            publish_endpoint(x, s, id);
        }
        if (control[1] >> id & 1) {
            if (!read_context(x, input + CONTEXT * (id + 1), c))
                return CODE_TRB;
            /* A control endpoint besides 0, streams, or a direction that is not the id's. */
            if ((c[1] >> 3 & 7) % 4 == 0 || c[0] >> 10 & 31 || (c[1] >> 5 & 1) != (id & 1))
                return CODE_PARAMETER;
            set_endpoint(x, s, id, c);
        }
        if (s->endpoint[id].state != EP_DISABLED)
            last = id;
    }
    publish_slot(x, s, last > 1 ? SLOT_CONFIGURED : SLOT_ADDRESSED, last);
    return CODE_SUCCESS;
}

static unsigned evaluate_context(struct xhci *x, unsigned number, const struct trb *t)
{
    gpa input = t->parameter & ~UINT64_C(15);
    struct slot *s = &x->slot[number];
    uint32_t control[8], in[8], out[8];

    if (!read_context(x, input, control) || control[0] || control[1] & ~3u)
        return CODE_TRB;
    if (control[1] & 1) { /* exit latency, interrupter */
        if (!read_context(x, input + CONTEXT, in) || !read_context(x, s->context, out))
            return CODE_TRB;
        out[1] = (out[1] & ~0xffffu) | (in[1] & 0xffff);
        out[2] = (out[2] & ~(0x3ffu << 22)) | (in[2] & 0x3ffu << 22);
        s->interrupter = in[2] >> 22;
        write_context(x, s->context, out);
    }
    if (control[1] & 2) { /* the packet size of endpoint 0 */
        if (!read_context(x, input + 2 * CONTEXT, in) ||
            !read_context(x, s->context + CONTEXT, out))
            return CODE_TRB;
        out[1] = (out[1] & 0xffff) | (in[1] & 0xffff0000);
        write_context(x, s->context + CONTEXT, out);
    }
    return CODE_SUCCESS;
}

static unsigned reset_device(struct xhci *x, unsigned number)
{
    struct slot *s = &x->slot[number];

    if (s->state < SLOT_DEFAULT)
        return CODE_CONTEXT;
    for (unsigned id = 2; id <= XHCI_ENDPOINTS; id++)
        if (s->endpoint[id].state != EP_DISABLED) {
            disable_endpoint(x, &s->endpoint[id]);
            publish_endpoint(x, s, id);
        }
    publish_slot(x, s, SLOT_DEFAULT, 1);
    return CODE_SUCCESS;
}

/* Where it stood: the transfer in the device's hands, or the next one in the ring (4.6.9). */
static void stopped_event(struct xhci *x, struct slot *s, unsigned id)
{
    struct ring r = s->endpoint[id].ring;
    struct td t = {.slot = (uint8_t)(s - x->slot), .id = (uint8_t)id};
    struct trb b;

    if (fetch(x, &r, &b) == FETCHED)
        transfer_event(x, &t, &b, CODE_STOPPED, b.status & 0x1ffff, false);
}

static unsigned endpoint_command(struct xhci *x, unsigned number, const struct trb *t)
{
    unsigned id = t->control >> 16 & 31;
    struct slot *s = &x->slot[number];
    struct endpoint *e = &s->endpoint[id];

    if (!id)
        return CODE_TRB;
    if (e->state == EP_DISABLED)
        return CODE_ENDPOINT_DISABLED;
    switch (type_of(t)) {
    case TRB_STOP_ENDPOINT:
        if (e->state != EP_RUNNING)
            return CODE_CONTEXT;
        stopped_event(x, s, id);
        cancel(x, e);
        e->state = EP_STOPPED;
        break;
    case TRB_RESET_ENDPOINT:
        if (e->state != EP_HALTED)
            return CODE_CONTEXT;
        e->state = EP_STOPPED;
        break;
    default: /* TRB_SET_DEQUEUE */
        if (e->state != EP_STOPPED && e->state != EP_ERROR)
            return CODE_CONTEXT;
        e->ring.dequeue = t->parameter & ~UINT64_C(15);
        e->ring.cycle = t->parameter & 1;
        e->state = EP_STOPPED;
        break;
    }
    publish_endpoint(x, s, id);
    return CODE_SUCCESS;
}

static unsigned run_command(struct xhci *x, const struct trb *t, unsigned *number)
{
    unsigned type = type_of(t);

    if (type == TRB_NOOP_COMMAND)
        return CODE_SUCCESS;
    if (type == TRB_ENABLE_SLOT)
        return enable_slot(x, number);
    if (type < TRB_DISABLE_SLOT || type > TRB_RESET_DEVICE)
        return CODE_TRB;
    *number = t->control >> 24;
    if (!*number || *number > XHCI_SLOTS || !x->slot[*number].enabled)
        return CODE_SLOT_DISABLED;
    switch (type) {
    case TRB_DISABLE_SLOT: disable_slot(x, &x->slot[*number]); return CODE_SUCCESS;
    case TRB_ADDRESS_DEVICE: return address_device(x, *number, t);
    case TRB_CONFIGURE_ENDPOINT: return configure_endpoint(x, *number, t);
    case TRB_EVALUATE_CONTEXT: return evaluate_context(x, *number, t);
    case TRB_RESET_DEVICE: return reset_device(x, *number);
    default: return endpoint_command(x, *number, t);
    }
}

static void run_commands(struct xhci *x)
{
    struct trb t;

    if (!(x->usbcmd & CMD_RUN))
        return;
    x->commands_run = true;
    for (unsigned n = 0; n < COMMANDS_MAX; n++) {
        unsigned number = 0, code;
        enum fetched f = fetch(x, &x->commands, &t);

        if (f == BROKEN)
            host_error(x, "the command ring has no end, or lies outside RAM");
        if (f != FETCHED)
            return;
        code = run_command(x, &t, &number);
        post_event(x, 0, t.at, (uint32_t)code << 24,
                   TRB_COMMAND_EVENT << 10 | (uint32_t)number << 24);
    }
}

static void doorbell(struct xhci *x, unsigned number, uint32_t value)
{
    unsigned id = value & 0xff;
    struct slot *s = &x->slot[number <= XHCI_SLOTS ? number : 0];

    if (!number) {
        if (!id)
            run_commands(x);
        return;
    }
    if (number > XHCI_SLOTS || !s->enabled || !id || id > XHCI_ENDPOINTS)
        return;
    if (s->endpoint[id].state == EP_STOPPED) {
        s->endpoint[id].state = EP_RUNNING;
        publish_endpoint(x, s, id);
    }
    kick(x, s, id);
}

/* ---- ports (4.19) ------------------------------------------------------------------------------
 */

static bool is_port3(unsigned port)
{
    return port > XHCI_PORTS2;
}

/* A device came or went: what the port shows. */
static void connect_port(struct xhci *x, unsigned port)
{
    uint32_t *sc = &x->portsc[port - 1];
    const struct usb_device *d = x->device[port - 1];

    *sc = (*sc & (PORT_CHANGES | PORT_WAKE)) | PORT_POWER;
    if (!d)
        *sc |= 5u << 5; /* looking for a device */
    else if (is_port3(port))
        *sc |= PORT_CONNECTED | PORT_ENABLED | (uint32_t)USB_SUPER << PORT_SPEED_SHIFT;
    else
        *sc |= PORT_CONNECTED | 7u << 5 |
               (uint32_t)usb_type_of(d)->speed << PORT_SPEED_SHIFT; /* not enabled yet */
}

static void reset_port(struct xhci *x, unsigned port, bool warm)
{
    uint32_t *sc = &x->portsc[port - 1];

    if (!x->device[port - 1])
        return;
    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        if (x->slot[n].port == port)
            for (unsigned id = 1; id <= XHCI_ENDPOINTS; id++)
                cancel(x, &x->slot[n].endpoint[id]);
    usb_bus_reset(x->device[port - 1]);
    *sc &= ~(uint32_t)PORT_STATE;
    *sc |= PORT_ENABLED | PORT_RESET_CHANGED | (warm ? PORT_WARM_CHANGED : 0);
    port_event(x, port);
}

static void write_port(struct xhci *x, unsigned port, uint32_t value)
{
    uint32_t *sc = &x->portsc[port - 1], state = value & PORT_STATE;

    *sc &= ~(value & PORT_CHANGES);
    if (value & PORT_ENABLED && !(value & PORT_RESET))
        *sc &= ~(uint32_t)PORT_ENABLED;
    *sc = (*sc & ~(uint32_t)PORT_WAKE) | (value & PORT_WAKE);
    if (value & PORT_RESET || (value & PORT_WARM_RESET && is_port3(port))) {
        reset_port(x, port, value & PORT_WARM_RESET);
    } else if (value & PORT_WRITE_STATE && *sc & PORT_CONNECTED && state != (*sc & PORT_STATE)) {
        /* U0 and U3 are all there is of power states; resuming (15) goes on to U0 by the guest. */
        bool woke = state == 0 && (*sc & PORT_STATE) != 0;

        if (state == 0 || state == 3u << 5 || state == 15u << 5)
            *sc = (*sc & ~(uint32_t)PORT_STATE) | state;
        if (woke) {
            *sc |= PORT_STATE_CHANGED;
            port_event(x, port);
        }
    }
}

int xhci_attach(struct xhci *x, struct usb_device *d, struct error *err)
{
    bool super = usb_type_of(d)->speed == USB_SUPER;
    unsigned first = super ? XHCI_PORTS2 + 1 : 1, last = super ? XHCI_PORTS : XHCI_PORTS2;
    unsigned port = d->port_wanted;

    if (port && (port < first || port > last))
        return error_set(err, EINVAL, "%s: port=%u is not one of %u to %u", d->dev.id, port, first,
                         last);
    pthread_mutex_lock(&x->pci.dev.lock);
    for (unsigned n = first; n <= last && !port; n++)
        if (!x->device[n - 1])
            port = n;
    if (!port || x->device[port - 1]) {
        pthread_mutex_unlock(&x->pci.dev.lock);
        return error_set(err, EBUSY, "%s: %s of %s is free", d->dev.id,
                         port ? "that port is not free: none" : "no port", x->pci.dev.id);
    }
    d->port = (uint8_t)port;
    x->device[port - 1] = d;
    connect_port(x, port);
    x->portsc[port - 1] |= PORT_CHANGED;
    port_event(x, port);
    pthread_mutex_unlock(&x->pci.dev.lock);
    return 0;
}

void xhci_detach(struct xhci *x, struct usb_device *d)
{
    pthread_mutex_lock(&x->pci.dev.lock);
    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        if (x->slot[n].port == d->port)
            for (unsigned id = 1; id <= XHCI_ENDPOINTS; id++)
                cancel(x, &x->slot[n].endpoint[id]);
    x->device[d->port - 1] = NULL;
    connect_port(x, d->port);
    x->portsc[d->port - 1] |= PORT_CHANGED;
    port_event(x, d->port);
    pthread_mutex_unlock(&x->pci.dev.lock);
}

/* ---- registers (5) -----------------------------------------------------------------------------
 */

static void reset_controller(struct xhci *x)
{
    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        disable_slot(x, &x->slot[n]);
    memset(x->interrupter, 0, sizeof(x->interrupter));
    x->usbcmd = x->dnctrl = x->config = 0;
    x->usbsts = STS_HALTED;
    x->crcr = x->dcbaap = 0;
    x->commands = (struct ring){0};
    x->commands_run = false;
    for (unsigned port = 1; port <= XHCI_PORTS; port++) {
        x->portsc[port - 1] = 0;
        connect_port(x, port);
        if (x->device[port - 1]) {
            usb_bus_reset(x->device[port - 1]);
            x->portsc[port - 1] |= PORT_CHANGED;
        }
    }
    update_line(x);
}

static uint32_t half(uint64_t value, unsigned offset)
{
    return (uint32_t)(value >> (offset & 4 ? 32 : 0));
}

static void set_half(uint64_t *value, unsigned offset, uint32_t v)
{
    *value = offset & 4 ? (*value & 0xffffffff) | (uint64_t)v << 32
                        : (*value & ~UINT64_C(0xffffffff)) | v;
}

static uint32_t read_capability(unsigned offset)
{
    switch (offset) {
    case XHCI_CAPLENGTH: return 0x01000000 | XHCI_OPERATIONAL;
    case XHCI_HCSPARAMS1: return XHCI_SLOTS | XHCI_INTERRUPTERS << 8 | (uint32_t)XHCI_PORTS << 24;
    case XHCI_HCSPARAMS2: return 0xf;                         /* one segment in an event ring */
    case XHCI_HCCPARAMS1: return 1 | XHCI_EXTENDED / 4 << 16; /* 64-bit addresses */
    case XHCI_DBOFF: return XHCI_DOORBELL;
    case XHCI_RTSOFF: return XHCI_RUNTIME;
    /* Supported protocols (7.2): USB 2 on the first ports, USB 3 on the rest. */
    case XHCI_EXTENDED: return 0x02000402;
    case XHCI_EXTENDED + 0x10: return 0x03000002;
    case XHCI_EXTENDED + 4:
    case XHCI_EXTENDED + 0x14: return 0x20425355; /* "USB " */
    case XHCI_EXTENDED + 8: return 1 | XHCI_PORTS2 << 8;
    case XHCI_EXTENDED + 0x18: return (XHCI_PORTS2 + 1) | XHCI_PORTS3 << 8;
    default: return 0;
    }
}

static uint32_t read_operational(struct xhci *x, unsigned offset)
{
    if (offset >= XHCI_PORTSC && offset < XHCI_PORTSC + 16 * XHCI_PORTS)
        return offset & 15 ? 0 : x->portsc[(offset - XHCI_PORTSC) / 16];
    switch (offset) {
    case XHCI_USBCMD: return x->usbcmd;
    case XHCI_USBSTS: return x->usbsts;
    case XHCI_PAGESIZE: return 1;
    case XHCI_DNCTRL: return x->dnctrl;
    case XHCI_CRCR: return x->commands_run && x->usbcmd & CMD_RUN ? CRCR_RUNNING : 0;
    case XHCI_DCBAAP:
    case XHCI_DCBAAP + 4: return half(x->dcbaap, offset);
    case XHCI_CONFIG: return x->config;
    default: return 0;
    }
}

static uint32_t read_runtime(struct xhci *x, unsigned offset)
{
    const struct interrupter *i;

    if (offset == XHCI_RUNTIME) /* the microframe */
        return device_now(&x->pci.dev) / (125 * NSEC_PER_USEC) & 0x3fff;
    if (offset < XHCI_INTERRUPTER || offset >= XHCI_INTERRUPTER + 32 * XHCI_INTERRUPTERS)
        return 0;
    i = &x->interrupter[(offset - XHCI_INTERRUPTER) / 32];
    switch (offset & 31) {
    case XHCI_IMAN: return i->iman;
    case XHCI_IMOD: return i->imod;
    case XHCI_ERSTSZ: return i->erstsz;
    case XHCI_ERSTBA:
    case XHCI_ERSTBA + 4: return half(i->erstba, offset);
    case XHCI_ERDP:
    case XHCI_ERDP + 4: return half(i->erdp, offset);
    default: return 0;
    }
}

/* The guest named its event ring: read the one segment it may have. */
static void load_event_ring(struct xhci *x, struct interrupter *i)
{
    uint8_t entry[16];

    i->size = i->enqueue = 0;
    if (i->erstsz != 1 || pci_dma_read(&x->pci, i->erstba, entry, sizeof(entry)) < 0)
        return;
    i->base = load_le(entry, 8) & ~UINT64_C(63);
    i->size = (uint32_t)load_le(entry + 8, 4) & 0xffff;
    i->cycle = 1;
    if (i->size < 16 || i->size > 4096) {
        i->size = 0;
        host_error(x, "an event ring must have 16 to 4096 entries");
    }
}

static void write_erdp(struct xhci *x, struct interrupter *i, unsigned offset, uint32_t value)
{
    if (offset & 4) {
        set_half(&i->erdp, offset, value);
        return;
    }
    i->erdp = (i->erdp & ~UINT64_C(0xffffffff)) | (value & ~(uint32_t)ERDP_BUSY) |
              (i->erdp & ERDP_BUSY & ~(uint64_t)value);
    if (value & ERDP_BUSY && i->size &&
        (i->erdp & ~UINT64_C(15)) != i->base + i->enqueue * (uint64_t)TRB_SIZE)
        interrupt(x, (unsigned)(i - x->interrupter)); /* there are more */
}

static void write_runtime(struct xhci *x, unsigned offset, uint32_t value)
{
    struct interrupter *i;

    if (offset < XHCI_INTERRUPTER || offset >= XHCI_INTERRUPTER + 32 * XHCI_INTERRUPTERS)
        return;
    i = &x->interrupter[(offset - XHCI_INTERRUPTER) / 32];
    switch (offset & 31) {
    case XHCI_IMAN:
        i->iman = (i->iman & IMAN_PENDING & ~value) | (value & IMAN_ENABLED);
        update_line(x);
        break;
    case XHCI_IMOD: i->imod = value; break;
    case XHCI_ERSTSZ: i->erstsz = value & 0xffff; break;
    case XHCI_ERSTBA: set_half(&i->erstba, offset, value & ~63u); break;
    case XHCI_ERSTBA + 4:
        set_half(&i->erstba, offset, value);
        load_event_ring(x, i);
        break;
    case XHCI_ERDP:
    case XHCI_ERDP + 4: write_erdp(x, i, offset, value); break;
    default: break;
    }
}

static void write_usbcmd(struct xhci *x, uint32_t value)
{
    bool ran = x->usbcmd & CMD_RUN;

    if (value & CMD_RESET) {
        reset_controller(x);
        return;
    }
    x->usbcmd = value & 0xc0f & ~(uint32_t)CMD_RESET;
    if (x->usbsts & STS_ERROR)
        x->usbcmd &= ~(uint32_t)CMD_RUN;
    if (x->usbcmd & CMD_RUN)
        x->usbsts &= ~(uint32_t)STS_HALTED;
    else
        x->usbsts |= STS_HALTED;
    if (ran && !(x->usbcmd & CMD_RUN))
        x->commands_run = false;
    if (!ran && x->usbcmd & CMD_RUN)
        for (unsigned port = 1; port <= XHCI_PORTS; port++)
            if (x->portsc[port - 1] & PORT_CHANGES)
                port_event(x, port);
    update_line(x);
}

static void write_crcr(struct xhci *x, unsigned offset, uint32_t value)
{
    if (offset == XHCI_CRCR && value & 6) { /* stop, abort: no command is ever half done */
        x->commands_run = false;
        post_event(x, 0, x->commands.dequeue, (uint32_t)CODE_RING_STOPPED << 24,
                   TRB_COMMAND_EVENT << 10);
        return;
    }
    if (x->commands_run && x->usbcmd & CMD_RUN)
        return;
    set_half(&x->crcr, offset, value);
    x->commands = (struct ring){x->crcr & ~UINT64_C(63), x->crcr & 1};
}

static void write_operational(struct xhci *x, unsigned offset, uint32_t value)
{
    if (offset >= XHCI_PORTSC && offset < XHCI_PORTSC + 16 * XHCI_PORTS) {
        if (!(offset & 15))
            write_port(x, (offset - XHCI_PORTSC) / 16 + 1, value);
        return;
    }
    switch (offset) {
    case XHCI_USBCMD: write_usbcmd(x, value); break;
    case XHCI_USBSTS: x->usbsts &= ~(value & 0x41c); break;
    case XHCI_DNCTRL: x->dnctrl = value & 0xffff; break;
    case XHCI_CRCR:
    case XHCI_CRCR + 4: write_crcr(x, offset, value); break;
    case XHCI_DCBAAP: set_half(&x->dcbaap, offset, value & ~63u); break;
    case XHCI_DCBAAP + 4: set_half(&x->dcbaap, offset, value); break;
    case XHCI_CONFIG: x->config = value & 0xff; break;
    default: break;
    }
}

static uint32_t read_aligned(struct xhci *x, unsigned offset)
{
    return offset < XHCI_OPERATIONAL ? read_capability(offset)
           : offset < XHCI_RUNTIME   ? read_operational(x, offset)
           : offset < XHCI_DOORBELL  ? read_runtime(x, offset)
                                     : 0;
}

static uint64_t xhci_read(struct device *dev, uint64_t offset, unsigned size)
{
    uint32_t value = read_aligned(to_xhci(dev), (unsigned)offset & ~3u);

    return value >> 8 * (offset & 3); /* parts are read of the capabilities only */
}

static void xhci_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct xhci *x = to_xhci(dev);

    if (size != 4)
        return;
    if (offset >= XHCI_DOORBELL)
        doorbell(x, (unsigned)(offset - XHCI_DOORBELL) / 4, (uint32_t)value);
    else if (offset >= XHCI_RUNTIME)
        write_runtime(x, (unsigned)offset, (uint32_t)value);
    else if (offset >= XHCI_OPERATIONAL)
        write_operational(x, (unsigned)offset, (uint32_t)value);
}

static const struct io_ops xhci_io = {xhci_read, xhci_write, 1, 4};

/* ---- the device --------------------------------------------------------------------------------
 */

struct xhci *xhci_find(struct machine *m, const char *id)
{
    for (struct device *d = m->devices; d; d = d->next)
        if (d->type == &xhci_type && d->realized && (!id || !strcmp(d->id, id)))
            return to_xhci(d);
    return NULL;
}

pthread_mutex_t *xhci_lock(struct xhci *x)
{
    return &x->pci.dev.lock;
}

static int xhci_realize(struct pci_device *p, struct error *err)
{
    int r;

    pci_bar_add(p, 0, PCI_BAR_MEM64, false, XHCI_SIZE);
    r = pci_bar_io(p, 0, 0, XHCI_MSIX, &xhci_io, err);
    pci_set(p, 0x60, 0x30, 1); /* USB 3.0 */
    pci_set(p, 0x61, 0x20, 1); /* frames of the usual length */
    p->cap_end = MAX(p->cap_end, (uint16_t)0x64);
    return r ? r : pci_msix_add(p, XHCI_INTERRUPTERS, 0, XHCI_MSIX, err);
}

static void xhci_reset(struct pci_device *p)
{
    reset_controller(container_of(p, struct xhci, pci));
}

/* Numbers that index something must fit; transfers a device had are in the ring still. */
static void xhci_refresh(struct pci_device *p)
{
    struct xhci *x = container_of(p, struct xhci, pci);

    for (unsigned n = 1; n <= XHCI_SLOTS; n++) {
        if (x->slot[n].port > XHCI_PORTS)
            x->slot[n].port = 0;
        for (unsigned id = 1; id <= XHCI_ENDPOINTS; id++) {
            struct endpoint *e = &x->slot[n].endpoint[id];

            e->state = e->state > EP_ERROR ? EP_DISABLED : e->state;
            e->type &= 7;
            e->ring.cycle &= 1;
        }
    }
    for (unsigned n = 0; n < XHCI_INTERRUPTERS; n++) {
        struct interrupter *i = &x->interrupter[n];

        i->cycle &= 1;
        if (i->size > 4096 || i->enqueue >= i->size)
            i->size = i->enqueue = 0;
    }
    update_line(x);
}

static void xhci_unrealize(struct pci_device *p)
{
    struct xhci *x = container_of(p, struct xhci, pci);

    for (unsigned n = 1; n <= XHCI_SLOTS; n++)
        disable_slot(x, &x->slot[n]);
}

static const struct pci_type xhci_pci = {
    .vendor = 0x1b36, /* the identity under which guests know an emulated one */
    .device = 0x000d,
    .revision = 1,
    .class_code = 0x0c0330,
    .pin = 1,
    .realize = xhci_realize,
    .reset = xhci_reset,
    .refresh = xhci_refresh,
    .unrealize = xhci_unrealize,
};

static const struct property xhci_properties[] = {
    PCI_PROPERTIES(struct xhci, pci),
    PROPERTY_END,
};

static const struct state_field ring_state[] = {
    STATE_U64(struct ring, dequeue),
    STATE_U8(struct ring, cycle),
    STATE_END,
};

static const struct state_field endpoint_state[] = {
    STATE_STRUCT(struct endpoint, ring, ring_state),
    STATE_U8(struct endpoint, state),
    STATE_U8(struct endpoint, type),
    STATE_END,
};

static const struct state_field slot_state[] = {
    STATE_U8(struct slot, enabled),
    STATE_U8(struct slot, state),
    STATE_U8(struct slot, port),
    STATE_U16(struct slot, interrupter),
    STATE_U64(struct slot, context),
    STATE_STRUCT_ARRAY(struct slot, endpoint, endpoint_state),
    STATE_END,
};

static const struct state_field interrupter_state[] = {
    STATE_U32(struct interrupter, iman),   STATE_U32(struct interrupter, imod),
    STATE_U32(struct interrupter, erstsz), STATE_U64(struct interrupter, erstba),
    STATE_U64(struct interrupter, erdp),   STATE_U64(struct interrupter, base),
    STATE_U32(struct interrupter, size),   STATE_U32(struct interrupter, enqueue),
    STATE_U8(struct interrupter, cycle),   STATE_END,
};

static const struct state_field xhci_state[] = {
    PCI_STATE(struct xhci, pci),
    STATE_U32(struct xhci, usbcmd),
    STATE_U32(struct xhci, usbsts),
    STATE_U32(struct xhci, dnctrl),
    STATE_U32(struct xhci, config),
    STATE_U64(struct xhci, crcr),
    STATE_U64(struct xhci, dcbaap),
    STATE_STRUCT(struct xhci, commands, ring_state),
    STATE_BOOL(struct xhci, commands_run),
    STATE_ARRAY(struct xhci, portsc),
    STATE_STRUCT_ARRAY(struct xhci, slot, slot_state),
    STATE_STRUCT_ARRAY(struct xhci, interrupter, interrupter_state),
    STATE_END,
};

const struct device_type xhci_type = {
    .name = "qemu-xhci",
    .summary = "USB 3 host controller (xHCI), four ports of USB 2 and four of USB 3",
    .bus = "pci",
    .instance_size = sizeof(struct xhci),
    .properties = xhci_properties,
    .state = xhci_state,
    .bus_data = &xhci_pci,
    PCI_DEVICE_HOOKS,
};
