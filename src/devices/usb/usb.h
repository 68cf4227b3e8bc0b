/*
 * usb.h - a USB device, and what it and the host controller (xhci.c) are to each other.
 *
 * A device is one table (struct usb_type in device_type.bus_data) and a few functions. It has no
 * lock of its own: all its hooks run with its controller's lock (usb_lock()), and what reaches it
 * from elsewhere (a front end's input, the end of a disk request) takes that lock first.
 */
#ifndef DEVICES_USB_USB_H
#define DEVICES_USB_USB_H

#include "machine/device.h"

struct xhci;
struct usb_device;

enum usb_speed { USB_FULL = 1, USB_LOW = 2, USB_HIGH = 3, USB_SUPER = 4 }; /* as in PORTSC */

/* What became of a packet; 0 and above: bytes. */
enum usb_result {
    USB_NAK = -1,   /* nothing now: the controller asks again after usb_wake() */
    USB_STALL = -2, /* the endpoint halts, or the request is not known */
    USB_LATER = -3, /* usb_packet_done() will be called */
};

struct usb_packet {
    uint8_t endpoint; /* number */
    bool in;
    uint8_t *data; /* the controller's; until the packet is done or cancelled */
    uint32_t length;
};

enum usb_request {
    USB_GET_STATUS = 0,
    USB_CLEAR_FEATURE = 1,
    USB_SET_FEATURE = 3,
    USB_SET_ADDRESS = 5,
    USB_GET_DESCRIPTOR = 6,
    USB_GET_CONFIGURATION = 8,
    USB_SET_CONFIGURATION = 9,
    USB_GET_INTERFACE = 10,
    USB_SET_INTERFACE = 11,
};

struct usb_setup {
    uint8_t type, request; /* bmRequestType, bRequest */
    uint16_t value, index, length;
};

struct usb_type {
    enum usb_speed speed;
    /* Descriptors as they go over the wire. The device descriptor has iManufacturer 1, iProduct 2,
     * iSerialNumber 3. */
    const uint8_t *device, *configuration;
    const uint8_t *bos; /* NULL: none */
    const char *product;

    int (*realize)(struct usb_device *d, struct error *err);
    void (*unrealize)(struct usb_device *d);  /* without the lock */
    void (*reset)(struct usb_device *d);      /* the port, or the machine */
    void (*configured)(struct usb_device *d); /* d->configuration changed */
    /* A request that usb.c does not know; `data` has setup.length bytes. A count, or USB_STALL. */
    int (*control)(struct usb_device *d, const struct usb_setup *setup, uint8_t *data);
    int (*transfer)(struct usb_device *d, struct usb_packet *p);
    void (*cancel)(struct usb_device *d, struct usb_packet *p); /* after USB_LATER; may be NULL */
    void (*refresh)(struct usb_device *d);                      /* after a restore; may be NULL */
};

struct usb_device {
    struct device dev;
    char *bus_name;      /* property: the controller's id */
    char *serial;        /* property */
    uint8_t port_wanted; /* property: 0: a free one */

    struct xhci *host;
    uint8_t port; /* from 1 */
    /* saved */
    uint8_t configuration;
    uint32_t halted; /* endpoints: bit n OUT, bit 16 + n IN */
};

static inline struct usb_device *to_usb(struct device *dev)
{
    return container_of(dev, struct usb_device, dev);
}
static inline const struct usb_type *usb_type_of(const struct usb_device *d)
{
    return d->dev.type->bus_data;
}

int usb_realize(struct device *dev, struct error *err);
void usb_reset(struct device *dev);
void usb_refresh(struct device *dev);
void usb_unrealize(struct device *dev);

#define USB_DEVICE_HOOKS                                                                           \
    .bus = "usb", .realize = usb_realize, .reset = usb_reset, .refresh = usb_refresh,              \
    .unrealize = usb_unrealize
#define USB_PROPERTIES(type, field)                                                                \
    PROPERTY_STRING("bus", type, field.bus_name, NULL,                                             \
                    "the controller's id (default: the first)"),                                   \
        PROPERTY_U8("port", type, field.port_wanted, 0, "its port (0: one that is free)"),         \
        PROPERTY_STRING("serial", type, field.serial, "1", "its serial number")
extern const struct state_field usb_device_state[];
#define USB_STATE(type, field) STATE_STRUCT(type, field, usb_device_state)

void usb_lock(struct usb_device *d);
void usb_unlock(struct usb_device *d);
/* With the lock held: an endpoint that answered USB_NAK has something. */
void usb_wake(struct usb_device *d, unsigned endpoint, bool in);
/* With the lock held: the end of a packet that answered USB_LATER; bytes or USB_STALL. */
void usb_packet_done(struct usb_device *d, struct usb_packet *p, int result);

/* For the controller, with its lock. */
int usb_control(struct usb_device *d, const struct usb_setup *setup, uint8_t *data);
int usb_transfer(struct usb_device *d, struct usb_packet *p);
void usb_bus_reset(struct usb_device *d);

#endif
