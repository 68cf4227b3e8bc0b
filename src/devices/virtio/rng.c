/*
 * rng.c - virtio-rng: random bytes for the guest, from the host's kernel. virtio 1.2, section 5.4.
 *
 * With max-bytes the guest gets that many in each period; what it asks for beyond waits for the
 * next one, which a timer in guest time begins.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "base/log.h"

#include <errno.h>
#include <sys/random.h>

enum { QUEUE_SIZE = 8, CHAIN_LIMIT = 64 * KiB };

struct virtio_rng {
    struct virtio_device v;
    uint64_t max_bytes; /* properties; UINT64_MAX: no limit */
    uint32_t period;    /* milliseconds */

    _Atomic uint64_t quota;
    struct timer timer;
};

static struct virtio_rng *to_rng(struct virtio_device *v)
{
    return container_of(v, struct virtio_rng, v);
}

static void period_begins(struct device *dev, struct timer *t)
{
    struct virtio_rng *r = to_rng(to_virtio(dev));

    r->quota = r->max_bytes;
    timer_set(t, device_now(dev) + r->period * NSEC_PER_MSEC);
    virtio_kick(&r->v, 0);
}

/* Fill the chain as far as the quota goes. */
static void answer(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_rng *r = to_rng(q->v);
    size_t limit = MIN(MIN(e->in_size, (size_t)CHAIN_LIMIT), r->quota), done = 0;

    for (unsigned i = 0; i < e->in_count && done < limit; i++) {
        size_t n = MIN(e->in[i].iov_len, limit - done);
        ssize_t got = getrandom(e->in[i].iov_base, n, 0);

        if (got <= 0)
            break;
        done += (size_t)got;
        if ((size_t)got < n)
            break;
    }
    if (r->max_bytes != UINT64_MAX)
        r->quota -= done;
    virtqueue_push(q, e, done);
}

static void rng_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_queue *q = &v->queue[number];
    struct virtio_element *e;

    do {
        while (to_rng(v)->quota && (e = virtqueue_pop(q)))
            answer(q, e);
        virtqueue_want_kicks(q, true);
    } while (to_rng(v)->quota && virtqueue_has_chain(q));
}

static void rng_refresh(struct virtio_device *v)
{
    to_rng(v)->quota = to_rng(v)->max_bytes;
}

static int rng_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_rng *r = to_rng(v);

    if (!r->max_bytes || !r->period)
        return error_set(err, EINVAL, "%s: max-bytes and period cannot be 0", v->dev.type->name);
    virtio_add_queue(v, QUEUE_SIZE);
    r->quota = r->max_bytes;
    if (r->max_bytes != UINT64_MAX) {
        timer_init(&r->timer, &v->dev, period_begins);
        timer_set(&r->timer, device_now(&v->dev) + r->period * NSEC_PER_MSEC);
    }
    return 0;
}

static const struct virtio_type rng_virtio = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .legacy_id = 0x1005,
    .class_code = 0x00ff00,
    .realize = rng_realize,
    .kicked = rng_kicked,
    .refresh = rng_refresh,
};

#define RNG_PROPERTIES                                                                             \
    PROPERTY_U64("max-bytes", struct virtio_rng, max_bytes, UINT64_MAX,                            \
                 "bytes the guest can have in a period (default: no limit)"),                      \
        PROPERTY_U32("period", struct virtio_rng, period, 65536, "milliseconds")

static const struct property rng_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_rng, v),
    RNG_PROPERTIES,
    PROPERTY_END,
};
static const struct property rng_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_rng, v),
    RNG_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field rng_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_rng, v),
    STATE_END,
};
static const struct state_field rng_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_rng, v),
    STATE_END,
};

#define SUMMARY "random numbers from the host (virtio)"
const struct device_type virtio_rng_pci_type =
    VIRTIO_PCI_DEVICE("virtio-rng-pci", SUMMARY, struct virtio_rng, rng_pci_properties,
                      rng_pci_state, rng_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_rng_pci_transitional_type =
    VIRTIO_PCI_DEVICE("virtio-rng-pci-transitional", SUMMARY, struct virtio_rng, rng_pci_properties,
                      rng_pci_state, rng_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_rng_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-rng-pci-non-transitional", SUMMARY, struct virtio_rng,
                      rng_pci_properties, rng_pci_state, rng_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_rng_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-rng-device", SUMMARY, struct virtio_rng, rng_mmio_properties,
                       rng_mmio_state, rng_virtio);
