/*
 * xhci.h - the USB host controller (eXtensible Host Controller Interface 1.0).
 *
 * Ports 1 to 4 are for USB 2 (full and high speed), 5 to 8 for USB 3 (SuperSpeed).
 */
#ifndef DEVICES_USB_XHCI_H
#define DEVICES_USB_XHCI_H

#include "devices/usb/usb.h"

enum {
    XHCI_PORTS2 = 4,
    XHCI_PORTS3 = 4,
    XHCI_PORTS = XHCI_PORTS2 + XHCI_PORTS3,
    XHCI_SLOTS = 32,
    XHCI_ENDPOINTS = 31,
    XHCI_INTERRUPTERS = 4,
};

/* Where the parts lie in BAR 0, and registers in them. */
enum xhci_register {
    XHCI_CAPLENGTH = 0x00,
    XHCI_HCSPARAMS1 = 0x04,
    XHCI_HCSPARAMS2 = 0x08,
    XHCI_HCCPARAMS1 = 0x10,
    XHCI_DBOFF = 0x14,
    XHCI_RTSOFF = 0x18,
    XHCI_EXTENDED = 0x20,
    XHCI_OPERATIONAL = 0x40,
    XHCI_USBCMD = XHCI_OPERATIONAL + 0x00,
    XHCI_USBSTS = XHCI_OPERATIONAL + 0x04,
    XHCI_PAGESIZE = XHCI_OPERATIONAL + 0x08,
    XHCI_DNCTRL = XHCI_OPERATIONAL + 0x14,
    XHCI_CRCR = XHCI_OPERATIONAL + 0x18,
    XHCI_DCBAAP = XHCI_OPERATIONAL + 0x30,
    XHCI_CONFIG = XHCI_OPERATIONAL + 0x38,
    XHCI_PORTSC = XHCI_OPERATIONAL + 0x400, /* of port 1; 16 bytes each */
    XHCI_RUNTIME = 0x1000,
    XHCI_INTERRUPTER = XHCI_RUNTIME + 0x20, /* 32 bytes each */
    XHCI_IMAN = 0x00,
    XHCI_IMOD = 0x04,
    XHCI_ERSTSZ = 0x08,
    XHCI_ERSTBA = 0x10,
    XHCI_ERDP = 0x18,
    XHCI_DOORBELL = 0x2000,
    XHCI_MSIX = 0x3000,
    XHCI_SIZE = 0x4000,
};

enum xhci_trb_type {
    TRB_NORMAL = 1,
    TRB_SETUP = 2,
    TRB_DATA = 3,
    TRB_STATUS = 4,
    TRB_ISOCH = 5,
    TRB_LINK = 6,
    TRB_EVENT_DATA = 7,
    TRB_NOOP = 8,
    TRB_ENABLE_SLOT = 9,
    TRB_DISABLE_SLOT = 10,
    TRB_ADDRESS_DEVICE = 11,
    TRB_CONFIGURE_ENDPOINT = 12,
    TRB_EVALUATE_CONTEXT = 13,
    TRB_RESET_ENDPOINT = 14,
    TRB_STOP_ENDPOINT = 15,
    TRB_SET_DEQUEUE = 16,
    TRB_RESET_DEVICE = 17,
    TRB_NOOP_COMMAND = 23,
    TRB_TRANSFER_EVENT = 32,
    TRB_COMMAND_EVENT = 33,
    TRB_PORT_EVENT = 34,
};

enum xhci_code {
    CODE_SUCCESS = 1,
    CODE_TRANSACTION = 4,
    CODE_TRB = 5,
    CODE_STALL = 6,
    CODE_NO_SLOTS = 9,
    CODE_SLOT_DISABLED = 11,
    CODE_ENDPOINT_DISABLED = 12,
    CODE_SHORT = 13,
    CODE_PARAMETER = 17,
    CODE_CONTEXT = 19,
    CODE_RING_STOPPED = 24,
    CODE_STOPPED = 26,
};

extern const struct device_type xhci_type;

/* For usb.c. */
struct xhci *xhci_find(struct machine *m, const char *id); /* NULL: the first */
pthread_mutex_t *xhci_lock(struct xhci *x);
int xhci_attach(struct xhci *x, struct usb_device *d, struct error *err); /* sets d->port */
void xhci_detach(struct xhci *x, struct usb_device *d);
/* With the lock. `id` is an endpoint's number in the device context (DCI). */
void xhci_wake(struct xhci *x, unsigned port, unsigned id);
void xhci_packet_done(struct xhci *x, struct usb_packet *p, int result);

#endif
