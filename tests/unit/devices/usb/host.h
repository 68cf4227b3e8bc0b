/*
 * host.h - a driver of an xHCI as small as can be, for tests of the controller and of USB devices.
 *
 * Guest memory: command ring, event ring and contexts in the first 64 KiB, a ring of its own for
 * each endpoint, data from HOST_DATA on.
 */
#ifndef UNIT_USB_HOST_H
#define UNIT_USB_HOST_H

#include "devices/pci/pci.h"
#include "devices/usb/xhci.h"
#include "display/display.h"
#include "support/test_machine.h"

enum { HOST_BAR = 0xe0000000, HOST_GSI = 16, HOST_DATA = 0x100000, HOST_INPUT = 0x5000 };
enum { HOST_CONTEXT = 0x4000, HOST_EVENTS = 0x3000, HOST_EVENT_COUNT = 32, HOST_COMMANDS = 0x2000 };

struct host_ring {
    gpa base;
    unsigned at, cycle;
};

struct host {
    struct machine *m;
    struct pci_host *pci;
    struct device *xhci, *usb;
    struct display *display;
    struct host_ring commands, endpoint[32];
    unsigned event_at, event_cycle;
    unsigned messages;
    uint32_t message_data;
};

struct host_event {
    uint64_t parameter;
    uint32_t status, control;
};

int host_setup(void **state); /* *state = struct host *: the controller alone, not running */
int host_teardown(void **state);
int host_add(struct host *h, const struct device_type *type, const char *properties,
             struct error *err); /* h->usb */

uint32_t host_read(struct host *h, unsigned reg);
void host_write(struct host *h, unsigned reg, uint32_t value);
void host_start(struct host *h); /* rings, interrupter 0, run */

void host_put(struct host *h, struct host_ring *r, uint64_t parameter, uint32_t status,
              uint32_t control);
/* The next event; false: there is none. It is acknowledged. */
bool host_event(struct host *h, struct host_event *e);
unsigned host_code(const struct host_event *e);
/* A command: its completion code; *slot (may be NULL) from the event. */
unsigned host_command(struct host *h, uint64_t parameter, uint32_t control, unsigned *slot);

/* Port reset, slot 1, address: asserts that all succeeds. `port` is the device's. */
void host_enumerate(struct host *h, unsigned port);
/* Endpoint by its context index, of a type (3 bits), with a ring. The completion code. */
unsigned host_configure(struct host *h, unsigned id, unsigned type, unsigned packet);
/* A control transfer on endpoint 0; the completion code, *moved bytes. Data at HOST_DATA. */
unsigned host_control(struct host *h, uint8_t type, uint8_t request, uint16_t value, uint16_t index,
                      uint16_t length, uint32_t *moved);
/* Start a normal transfer of endpoint `id` at `data`; IOC and ISP. */
void host_submit(struct host *h, unsigned id, gpa data, uint32_t length);

#endif
