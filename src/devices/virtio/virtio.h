/*
 * virtio.h - what all virtio devices share: features, status, queues, and the thread that works.
 *
 * A device is one struct that embeds struct virtio_device first, a struct virtio_type with what
 * does not depend on how the guest reaches it, and one struct device_type for each transport
 * (virtio_pci.h, virtio_mmio.h). The specification is virtio 1.2; constants come from the kernel's
 * linux/virtio_*.h.
 *
 * Threads and locks. Registers are the vCPUs': under dev.lock. Queues are the I/O thread's, one for
 * each device, woken by an eventfd: under io_lock, between virtio_io_begin() and virtio_io_end(),
 * which any back end's thread may call too. dev.lock comes before io_lock; so whoever holds io_lock
 * must not touch registers. What it wants to tell the guest (used buffers, a changed configuration,
 * that the device is broken) is noted and told by virtio_io_end(), without io_lock.
 *
 * Life. The queues are live between DRIVER_OK and the next reset. They stand still while the
 * machine is paused, and while a PCI function may not master the bus. A type's hooks other than
 * realize and unrealize run with the lock that their comment names.
 *
 * What a guest puts into a ring is read once, then checked. A chain that loops, is too long or
 * names an address that is not RAM breaks the device: one line in the log, the status bit
 * NEEDS_RESET, and nothing more until the guest resets it.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_H
#define DEVICES_VIRTIO_VIRTIO_H

#include "devices/pci/pci.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <sys/uio.h>

struct virtio_device;
struct virtio_queue;

enum {
    VIRTIO_QUEUES = 64,
    VIRTIO_QUEUE_MAX = 1024, /* entries of a ring, and descriptors of a chain */
    VIRTIO_NO_VECTOR = 0xffff,
    VIRTIO_CONFIG_MAX = 256,
};

/* A chain of buffers the guest made available. Offered to the device: out; to be filled: in. */
struct virtio_element {
    struct virtio_queue *queue;
    uint16_t index; /* what the used entry says */
    uint16_t slots; /* descriptors it takes in a packed ring */
    unsigned out_count, in_count;
    size_t out_size, in_size; /* bytes; together less than 4 GiB */
    struct iovec *out, *in;   /* in guest RAM: others may write while we read */
    struct iovec iov[];
};

/* Positions in a ring; the packed ring's wrap counters are in the wrap fields. */
struct virtio_queue {
    struct virtio_device *v;
    unsigned number;
    uint16_t max_size;

    /* Registers, saved; under dev.lock. */
    uint16_t size, vector;
    bool enabled;
    uint64_t desc, driver, device; /* guest addresses of the three parts */

    /* Saved; under io_lock. */
    uint16_t next_avail, next_used;
    bool avail_wrap, used_wrap;

    /* Under io_lock: the ring as it lies in RAM while it is mapped. */
    bool mapped, packed, event_idx, kicks_wanted;
    bool told_once; /* since it was mapped */
    uint16_t num;
    uint8_t *desc_ring, *driver_ring, *device_ring;
    uint16_t used_pending; /* pushed, not yet told */
};

struct virtio_type {
    const char *name;    /* for messages */
    uint16_t id;         /* virtio device type */
    uint16_t legacy_id;  /* PCI device id of a transitional device; 0: modern only */
    uint32_t class_code; /* PCI */
    /* No lock. Offers features (v->offered), adds queues, sets config_size. */
    int (*realize)(struct virtio_device *v, struct error *err);
    void (*unrealize)(struct virtio_device *v); /* no lock, the I/O thread is gone */
    /* dev.lock and io_lock, or no thread yet: forget what the guest set. The queues are unmapped,
     * nothing is in flight. Optional, as are all below. */
    void (*reset)(struct virtio_device *v);
    /* dev.lock: may the driver have these features? */
    bool (*accept)(struct virtio_device *v, uint64_t features);
    /* dev.lock and io_lock: the queues went live, now or again after a restore. */
    void (*start)(struct virtio_device *v);
    /* io_lock: the guest kicked queue `number`. */
    void (*kicked)(struct virtio_device *v, unsigned number);
    /* dev.lock: bring v->config up to date before a read; the guest wrote some of it. */
    void (*config_read)(struct virtio_device *v);
    void (*config_written)(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size);
    /* dev.lock and io_lock: saved fields were loaded; check them. */
    void (*refresh)(struct virtio_device *v);
    /* No lock: the machine goes on, or stands still from now on. */
    void (*running)(struct virtio_device *v, bool running);
};

/* How interrupts reach the guest; virtio_pci.c and virtio_mmio.c. dev.lock. */
struct virtio_transport {
    void (*interrupt)(struct virtio_device *v, uint64_t queues, bool config);
    void (*clear)(struct virtio_device *v); /* at a reset: isr and vectors are the core's */
};

struct virtio_device {
    union {
        struct device dev;
        struct pci_device pci; /* where the transport is PCI */
    };
    const struct virtio_type *type;
    const struct virtio_transport *transport;

    /* Properties of all virtio devices. */
    bool prop_indirect, prop_event_idx, prop_packed, prop_iommu;
    /* PCI's */
    char *prop_disable_legacy;
    bool prop_disable_modern;
    uint32_t prop_vectors;
    /* MMIO's */
    uint64_t prop_base;
    uint8_t prop_irq;
    bool prop_force_legacy;

    uint64_t offered; /* fixed when realized */
    unsigned queues;
    bool legacy, modern; /* what the transport speaks */

    /* Registers, saved; under dev.lock. */
    uint64_t features; /* the driver's */
    uint8_t status, isr, generation;
    uint16_t config_vector, queue_select;
    uint32_t device_select, driver_select;
    uint32_t page_size, queue_align; /* legacy MMIO */
    bool legacy_used;                /* the driver came by the legacy interface */
    struct irq_line line;            /* MMIO */
    uint8_t cfg_cap, msix_vectors;   /* PCI */

    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned config_size;

    struct virtio_queue queue[VIRTIO_QUEUES];

    /* The I/O thread. */
    pthread_mutex_t io_lock;
    pthread_cond_t io_idle;
    pthread_t thread;
    bool thread_made;
    int kick_fd;
    atomic_ullong kicked; /* queues to look at */
    atomic_ullong told;   /* queues whose interrupt is due */
    atomic_bool tell_config, tell_broken;
    atomic_bool allowed; /* PCI: may master the bus */
    atomic_uint users;   /* threads between virtio_io_begin() and the end of virtio_io_end() */
    atomic_uint waiting; /* threads that want io_lock now: the I/O thread makes room */
    bool live, running, broken, quit, working;
    unsigned in_flight; /* requests that somebody else completes */
};

static inline struct virtio_device *to_virtio(struct device *dev)
{
    return container_of(dev, struct virtio_device, dev);
}

static inline bool virtio_has(const struct virtio_device *v, unsigned feature)
{
    return v->features >> feature & 1;
}

/* ---- for a type's realize ----------------------------------------------------------------------
 */

/* The next queue; its number. `size`: a power of two up to VIRTIO_QUEUE_MAX. */
unsigned virtio_add_queue(struct virtio_device *v, uint16_t size);

#define VIRTIO_PROPERTIES(type, field)                                                             \
    PROPERTY_BOOL("indirect_desc", type, field.prop_indirect, true,                                \
                  "offer tables of descriptors outside of the ring"),                              \
        PROPERTY_BOOL("event_idx", type, field.prop_event_idx, true,                               \
                      "offer kicks and interrupts by ring position"),                              \
        PROPERTY_BOOL("packed", type, field.prop_packed, false, "offer packed rings"),             \
        PROPERTY_BOOL("iommu_platform", type, field.prop_iommu, false,                             \
                      "addresses go through an IOMMU: refused, there is none")

extern const struct state_field virtio_state[];

/* ---- at run time, with io_lock -----------------------------------------------------------------
 */

void virtio_io_begin(struct virtio_device *v);
void virtio_io_end(struct virtio_device *v); /* tells the guest; not with dev.lock held */
/* The same without telling; dev.lock may be held. */
void virtio_io_leave(struct virtio_device *v);
/* Are the queues to be worked on now? Between begin and end. */
bool virtio_io_live(const struct virtio_device *v);
/* A request was handed to somebody who completes it later; and it was completed. */
void virtio_request_begin(struct virtio_device *v);
void virtio_request_end(struct virtio_device *v);
/* The guest broke the rules of a queue: until its reset nothing works. */
void virtio_break(struct virtio_device *v, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The configuration changed: interrupt at virtio_io_end(). */
void virtio_tell_config(struct virtio_device *v);
/* Look at a queue again on the I/O thread. Any lock, any thread. */
void virtio_kick(struct virtio_device *v, unsigned queue);
/* The same from a thread that holds dev.lock: interrupt at once. */
void virtio_config_changed(struct virtio_device *v);

/* ring.c: the next chain, NULL: none (or the device broke). */
struct virtio_element *virtqueue_pop(struct virtio_queue *q);
/* Give a chain back of which `written` bytes of `in` were filled; frees it. */
void virtqueue_push(struct virtio_queue *q, struct virtio_element *e, size_t written);
/* Several that become visible together (a packet in several buffers). */
void virtqueue_push_many(struct virtio_queue *q, struct virtio_element **e, const size_t *written,
                         unsigned count);
/* Undo the pop of the chain that was popped last. */
void virtqueue_unpop(struct virtio_queue *q, struct virtio_element *e);
/* Free a chain without giving it back: the queue was reset. */
void virtqueue_discard(struct virtio_element *e);
bool virtqueue_has_chain(struct virtio_queue *q);
/* Hand each chain to `handle`, which pushes it now or later; with kicks off meanwhile. A long batch
 * is cut, so that the guest is told in between. For a kicked hook. */
void virtqueue_each(struct virtio_queue *q,
                    void (*handle)(struct virtio_queue *q, struct virtio_element *e));
/* Do we want kicks? After turning them on, look once more. */
void virtqueue_want_kicks(struct virtio_queue *q, bool on);
static inline bool virtqueue_ready(const struct virtio_queue *q)
{
    return q->mapped && !q->v->broken;
}

/* Bytes of a chain: how many were there to copy, from `offset` on. Written bytes are only complete
 * for the rest of the program after the push. */
size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t size);
size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *from,
                 size_t size);
size_t iov_fill(const struct iovec *iov, unsigned count, size_t offset, uint8_t byte, size_t size);
/* A part of an iovec as another one (at most `most` elements); the number of elements. */
unsigned iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t size,
                   struct iovec *to, unsigned most);

/* Wait until the I/O thread has nothing to do and nothing is in flight: tests. No lock. */
void virtio_settle(struct virtio_device *v);

/* ---- for transports; with dev.lock -------------------------------------------------------------
 */

int virtio_realize(struct virtio_device *v, struct error *err);
void virtio_unrealize(struct virtio_device *v);
void virtio_reset(struct virtio_device *v);
void virtio_refresh(struct virtio_device *v);
void virtio_before_save(struct device *dev); /* the hook of struct device_type */
/* The machine pauses or goes on: the hook of struct device_type. */
void virtio_running(struct device *dev, bool running);

uint32_t virtio_get_features(const struct virtio_device *v, unsigned select, bool legacy);
void virtio_set_features(struct virtio_device *v, unsigned select, uint32_t value, bool legacy);
void virtio_set_status(struct virtio_device *v, uint8_t status, bool legacy);
uint64_t virtio_config_get(struct virtio_device *v, unsigned offset, unsigned size);
void virtio_config_put(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size);
/* The selected queue; NULL: there is none of that number. */
struct virtio_queue *virtio_selected(struct virtio_device *v);
/* Its addresses and size are set. */
void virtio_queue_enable(struct virtio_queue *q);
/* One area of the legacy layout: rings one behind the other; 0 takes the queue away. */
void virtio_queue_legacy(struct virtio_queue *q, uint64_t address, unsigned align);
/* The guest wrote a queue's number to a notify register. */
void virtio_notified(struct virtio_device *v, unsigned queue);
void virtio_allow(struct virtio_device *v, bool allowed);

/* ---- between virtio.c and ring.c ---------------------------------------------------------------
 */

void virtqueue_map(struct virtio_queue *q); /* io_lock; breaks the device where it cannot */
void virtqueue_unmap(struct virtio_queue *q);
bool virtqueue_should_tell(struct virtio_queue *q);

#endif
