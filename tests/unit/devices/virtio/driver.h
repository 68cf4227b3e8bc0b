/*
 * driver.h - a guest's driver for the tests of virtio devices: every transport, both rings.
 *
 * The driver lives in the test machine's RAM from DRIVER_MEMORY on. A chain is given as buffers,
 * first those the device reads, then those it writes; driver_do() sends one and waits for it.
 */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include "devices/virtio/virtio.h"

enum driver_via { VIA_MODERN, VIA_LEGACY, VIA_MMIO, VIA_MMIO_LEGACY, VIA_COUNT };

enum {
    DRIVER_MEMORY = 1 * MiB,
    DRIVER_QUEUES = 8,
    DRIVER_PORT = 0xc000,
    DRIVER_BAR = 0xe0000000,
    DRIVER_MSIX = 0xe0100000,
    DRIVER_MMIO = 0xfeb00000,
    DRIVER_IRQ = 5,
};

struct driver_queue {
    unsigned number, num, next_free; /* packed: next_free is the position */
    gpa desc, avail, used;
    uint16_t avail_idx, used_idx;
    bool avail_wrap, used_wrap;
};

struct driver {
    struct machine *m;
    struct virtio_device *v;
    enum driver_via via;
    bool packed, indirect;
    uint64_t offered, features;
    gpa next; /* free guest memory */
    struct driver_queue q[DRIVER_QUEUES];
};

struct driver_buffer {
    gpa at;
    uint32_t size;
    bool in; /* the device writes it */
};

/* Add the device to the test machine (and a PCI host for it): `name` is "virtio-rng", properties
 * may be NULL. False: `err` says why. */
bool driver_add_device(struct driver *d, struct machine *m, enum driver_via via, const char *name,
                       const char *properties, struct error *err);
/* Reset, features (those offered that are in `wanted`), queues, DRIVER_OK. */
void driver_start(struct driver *d, uint64_t wanted);
void driver_reset(struct driver *d);

gpa driver_alloc(struct driver *d, uint32_t size); /* zeroed, 16 aligned */
void driver_put(struct driver *d, gpa at, const void *data, uint32_t size);
void driver_get(struct driver *d, gpa at, void *data, uint32_t size);

/* Make a chain available without a kick; its id. */
uint16_t driver_add(struct driver *d, unsigned queue, const struct driver_buffer *b, unsigned n);
void driver_kick(struct driver *d, unsigned queue);
/* The next used chain: its id, and how many bytes were written; -1: none. Settles first. */
int driver_used(struct driver *d, unsigned queue, uint32_t *written);
/* All of it; asserts that the chain comes back. Bytes written. */
uint32_t driver_do(struct driver *d, unsigned queue, const struct driver_buffer *b, unsigned n);

uint8_t driver_status(struct driver *d);
uint8_t driver_isr(struct driver *d);      /* and clears it */
bool driver_interrupted(struct driver *d); /* the line is high */
uint64_t driver_config(struct driver *d, unsigned offset, unsigned size);
void driver_set_config(struct driver *d, unsigned offset, uint64_t value, unsigned size);

/* Registers of the modern PCI interface, for tests of the transport. */
uint64_t common_get(struct driver *d, unsigned offset, unsigned size);
void common_set(struct driver *d, unsigned offset, uint64_t value, unsigned size);

#endif
