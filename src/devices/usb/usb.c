/*
 * usb.c - see usb.h: the standard requests (USB 2.0, chapter 9), and a device's place on its bus.
 */
#include "devices/usb/usb.h"

#include "devices/usb/xhci.h"

#include <errno.h>
#include <stdlib.h>

enum { DESCRIPTOR_DEVICE = 1, DESCRIPTOR_CONFIGURATION = 2, DESCRIPTOR_STRING = 3 };
enum { DESCRIPTOR_BOS = 15, ENDPOINT_HALT = 0, STRING_MAX = 126 };
enum { TO_DEVICE = 0x00, TO_INTERFACE = 0x01, TO_ENDPOINT = 0x02, FROM = 0x80 };

static int give(uint8_t *to, const struct usb_setup *s, const uint8_t *from, size_t size)
{
    size = MIN(size, (size_t)s->length);
    memcpy(to, from, size);
    return (int)size;
}

static int give_string(struct usb_device *d, const struct usb_setup *s, uint8_t *data)
{
    const char *text[] = {NULL, "Hospes", usb_type_of(d)->product, d->serial};
    static const uint8_t english[] = {4, DESCRIPTOR_STRING, 0x09, 0x04};
    uint8_t out[2 + 2 * STRING_MAX] = {0, DESCRIPTOR_STRING};
    unsigned n = s->value & 0xff;
    size_t length;

    if (!n)
        return give(data, s, english, sizeof(english));
    if (n >= ARRAY_SIZE(text) || !text[n])
        return USB_STALL;
    length = strnlen(text[n], STRING_MAX);
    for (size_t i = 0; i < length; i++)
        out[2 + 2 * i] = (uint8_t)text[n][i];
    out[0] = (uint8_t)(2 + 2 * length);
    return give(data, s, out, out[0]);
}

static int give_descriptor(struct usb_device *d, const struct usb_setup *s, uint8_t *data)
{
    const struct usb_type *t = usb_type_of(d);

    switch (s->value >> 8) {
    case DESCRIPTOR_DEVICE: return give(data, s, t->device, t->device[0]);
    case DESCRIPTOR_CONFIGURATION:
        return s->value & 0xff ? USB_STALL
                               : give(data, s, t->configuration, load_le(t->configuration + 2, 2));
    case DESCRIPTOR_STRING: return give_string(d, s, data);
    case DESCRIPTOR_BOS: return t->bos ? give(data, s, t->bos, load_le(t->bos + 2, 2)) : USB_STALL;
    default: return USB_STALL;
    }
}

static void set_configuration(struct usb_device *d, uint8_t n)
{
    d->configuration = n;
    d->halted = 0;
    if (usb_type_of(d)->configured)
        usb_type_of(d)->configured(d);
}

/* The bit of an endpoint's address in `halted`; 0: it cannot halt. */
static uint32_t halt_bit(unsigned address)
{
    unsigned n = address & 15;

    return n ? 1u << (n + (address & 0x80 ? 16 : 0)) : 0;
}

static int give_status(struct usb_device *d, const struct usb_setup *s, uint8_t *data)
{
    uint8_t status[2] = {0};

    if (s->type == (FROM | TO_DEVICE))
        status[0] = 1; /* self powered */
    else if (s->type == (FROM | TO_ENDPOINT))
        status[0] = (d->halted & halt_bit(s->index)) != 0;
    return give(data, s, status, sizeof(status));
}

static int set_halt(struct usb_device *d, const struct usb_setup *s, bool halted)
{
    if (s->value != ENDPOINT_HALT)
        return USB_STALL;
    if (halted)
        d->halted |= halt_bit(s->index);
    else
        d->halted &= ~halt_bit(s->index);
    return 0;
}

int usb_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data)
{
    const struct usb_type *t = usb_type_of(d);
    uint8_t zero = 0;

    switch (s->type << 8 | s->request) {
    case (FROM | TO_DEVICE) << 8 | USB_GET_DESCRIPTOR: return give_descriptor(d, s, data);
    case (FROM | TO_DEVICE) << 8 | USB_GET_STATUS:
    case (FROM | TO_INTERFACE) << 8 | USB_GET_STATUS:
    case (FROM | TO_ENDPOINT) << 8 | USB_GET_STATUS: return give_status(d, s, data);
    case (FROM | TO_DEVICE) << 8 | USB_GET_CONFIGURATION:
        return give(data, s, &d->configuration, 1);
    case TO_DEVICE << 8 | USB_SET_CONFIGURATION:
        if (s->value > 1)
            return USB_STALL;
        set_configuration(d, (uint8_t)s->value);
        return 0;
    case TO_DEVICE << 8 | USB_SET_ADDRESS: return 0; /* the controller's affair */
    case TO_DEVICE << 8 | USB_SET_FEATURE:
    case TO_DEVICE << 8 | USB_CLEAR_FEATURE: return 0; /* wake-up, power states: nothing is lost */
    case TO_DEVICE << 8 | 0x30: return 0;              /* SET_SEL, for SuperSpeed's power states */
    case TO_DEVICE << 8 | 0x31: return 0;              /* SET_ISOCH_DELAY */
    case TO_ENDPOINT << 8 | USB_SET_FEATURE: return set_halt(d, s, true);
    case TO_ENDPOINT << 8 | USB_CLEAR_FEATURE: return set_halt(d, s, false);
    case (FROM | TO_INTERFACE) << 8 | USB_GET_INTERFACE: return give(data, s, &zero, 1);
    case TO_INTERFACE << 8 | USB_SET_INTERFACE: return s->value ? USB_STALL : 0;
    default: return t->control ? t->control(d, s, data) : USB_STALL;
    }
}

int usb_transfer(struct usb_device *d, struct usb_packet *p)
{
    uint32_t bit = 1u << (p->endpoint + (p->in ? 16 : 0));
    int r;

    if (!d->configuration || d->halted & bit)
        return USB_STALL;
    r = usb_type_of(d)->transfer(d, p);
    if (r == USB_STALL)
        d->halted |= bit;
    return r;
}

void usb_packet_done(struct usb_device *d, struct usb_packet *p, int result)
{
    if (result == USB_STALL)
        d->halted |= 1u << (p->endpoint + (p->in ? 16 : 0));
    xhci_packet_done(d->host, p, result);
}

void usb_bus_reset(struct usb_device *d)
{
    if (usb_type_of(d)->reset)
        usb_type_of(d)->reset(d);
    set_configuration(d, 0);
}

void usb_wake(struct usb_device *d, unsigned endpoint, bool in)
{
    xhci_wake(d->host, d->port, 2 * endpoint + in);
}

void usb_lock(struct usb_device *d)
{
    pthread_mutex_lock(xhci_lock(d->host));
}

void usb_unlock(struct usb_device *d)
{
    pthread_mutex_unlock(xhci_lock(d->host));
}

/* ---- the device's life -------------------------------------------------------------------------
 */

int usb_realize(struct device *dev, struct error *err)
{
    struct usb_device *d = to_usb(dev);
    int r;

    d->host = xhci_find(dev->machine, d->bus_name);
    if (!d->host)
        return error_set(err, ENOENT, "%s: there is no USB controller%s%s: add --device qemu-xhci",
                         dev->id, d->bus_name ? " " : "", d->bus_name ? d->bus_name : "");
    r = usb_type_of(d)->realize ? usb_type_of(d)->realize(d, err) : 0;
    if (r < 0)
        return r;
    r = xhci_attach(d->host, d, err);
    if (r < 0 && usb_type_of(d)->unrealize)
        usb_type_of(d)->unrealize(d);
    return r;
}

/* The device's own lock is held, which nobody else takes: the controller's comes after it. */
void usb_reset(struct device *dev)
{
    usb_lock(to_usb(dev));
    usb_bus_reset(to_usb(dev));
    usb_unlock(to_usb(dev));
}

void usb_refresh(struct device *dev)
{
    struct usb_device *d = to_usb(dev);

    usb_lock(d);
    d->configuration = d->configuration != 0;
    if (usb_type_of(d)->refresh)
        usb_type_of(d)->refresh(d);
    for (unsigned id = 2; id < 32; id++) /* transfers that waited go on waiting */
        xhci_wake(d->host, d->port, id);
    usb_unlock(d);
}

void usb_unrealize(struct device *dev)
{
    struct usb_device *d = to_usb(dev);

    xhci_detach(d->host, d);
    if (usb_type_of(d)->unrealize)
        usb_type_of(d)->unrealize(d);
}

const struct state_field usb_device_state[] = {
    STATE_U8(struct usb_device, configuration),
    STATE_U32(struct usb_device, halted),
    STATE_END,
};
