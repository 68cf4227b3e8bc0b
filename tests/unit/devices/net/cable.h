/*
 * cable.h - a network card on a test machine, and the other end of its cable in the test's hands.
 *
 * The card sits in slot 3, its BAR 0 (memory) at CABLE_MEMORY or, an I/O BAR, at CABLE_PORTS; BAR 3
 * at CABLE_MSIX. Its pin is GSI CABLE_GSI. RAM is 16 MiB from 0.
 */
#ifndef UNIT_NET_CABLE_H
#define UNIT_NET_CABLE_H

#include "devices/pci/pci.h"
#include "net/net.h"
#include "support/test_machine.h"

enum { CABLE_MEMORY = 0xe0000000, CABLE_MSIX = 0xe0100000, CABLE_PORTS = 0xc000, CABLE_GSI = 16 };

struct cable {
    struct machine *m;
    struct pci_host *host;
    struct pci_device *card;
    struct net *net;
    struct machine_backend backend;
    int fd; /* our end: a datagram is a frame */
    unsigned messages;
    uint64_t message_address;
    uint32_t message_data;
};

int cable_setup(void **state, const struct device_type *type); /* *state = struct cable * */
int cable_teardown(void **state);

uint32_t cable_config(struct cable *c, unsigned offset, unsigned size);
void cable_set_config(struct cable *c, unsigned offset, uint32_t value, unsigned size);

void cable_send(struct cable *c, const void *frame, size_t size); /* to the card */
/* A frame that the card sent, within a second; 0: none. */
size_t cable_receive(struct cable *c, void *frame, size_t room);
bool cable_quiet(struct cable *c); /* nothing comes for 20 ms */
/* Waits until the bits of a byte of guest memory are set, at most a second. */
bool cable_wait(struct cable *c, gpa address, uint8_t bits);

void ram_write(struct cable *c, gpa address, const void *data, size_t size);
void ram_read(struct cable *c, gpa address, void *data, size_t size);

#endif
