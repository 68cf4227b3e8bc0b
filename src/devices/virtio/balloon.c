/*
 * balloon.c - virtio-balloon: the guest gives memory back to the host. virtio 1.2, section 5.5.
 *
 * A page in the balloon, or reported as free, is cut out of the RAM block's file: it costs nothing
 * and reads as zeros when the guest touches it again, which needs no help from us. Pages count 4
 * KiB here whatever the guest's are. What the guest names is checked to be RAM of the machine.
 *
 * The buffer with statistics stays the guest's turn: it is looked at, put back, and returned when
 * new ones are wanted, so that a snapshot finds the queue in order.
 */
#include "devices/virtio/balloon.h"
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "base/log.h"
#include "machine/machine.h"
#include "memory/ram.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <sys/mman.h>

enum { INFLATE, DEFLATE, FIRST_OPTIONAL, QUEUE_SIZE = 128, PAGE = 1 << VIRTIO_BALLOON_PFN_SHIFT };
enum { STAT_SIZE = 10, BATCH_PFNS = 256, CONFIG_SIZE = 8 };

struct virtio_balloon {
    struct virtio_device v;
    bool deflate_on_oom, reporting; /* properties */
    uint32_t stats_interval;        /* seconds; 0: only once */
    uint64_t target;                /* bytes; 0: all */

    uint32_t wanted, actual; /* saved, dev.lock: pages in the balloon */
    struct timer stats_timer;
    atomic_bool stats_due;      /* return the buffer */
    bool stats_seen;            /* io_lock: the one that waits was looked at */
    struct balloon_stats stats; /* io_lock */
};

static struct virtio_balloon *to_balloon(struct virtio_device *v)
{
    return container_of(v, struct virtio_balloon, v);
}

/* ---- giving back -------------------------------------------------------------------------------
 */

static void cut_out(struct ram_block *ram, uint64_t offset, uint64_t length)
{
    if (length)
        (void)ram_discard(ram, offset, length); /* where it fails the memory stays where it is */
}

struct run {
    uint64_t offset, length;
};

/* Pages that lie one behind the other go together. */
static void add_page(struct ram_block *ram, struct run *run, uint64_t offset)
{
    if (run->length && offset == run->offset + run->length) {
        run->length += PAGE;
        return;
    }
    if (run->length && offset + PAGE == run->offset) { /* Linux takes them from the top */
        run->offset = offset;
        run->length += PAGE;
        return;
    }
    cut_out(ram, run->offset, run->length);
    *run = (struct run){offset, PAGE};
}

static void inflate(struct virtio_queue *q, struct virtio_element *e)
{
    struct machine *m = q->v->dev.machine;
    struct run run = {0};
    uint32_t pfn[BATCH_PFNS];
    size_t at = 0, n;

    while ((n = iov_read(e->out, e->out_count, at, pfn, sizeof(pfn)) / 4)) {
        for (size_t i = 0; i < n; i++) {
            struct memory_target t;

            memory_lookup(m->memory, VIEW_NORMAL, (gpa)pfn[i] << VIRTIO_BALLOON_PFN_SHIFT, &t);
            if (t.block && t.block == m->ram && t.writable && t.length >= PAGE)
                add_page(m->ram, &run, t.offset);
            else
                log_guest("virtio-balloon: page %#x is not RAM", pfn[i]);
        }
        at += 4 * n;
    }
    cut_out(m->ram, run.offset, run.length);
    virtqueue_push(q, e, 0);
}

static void deflate(struct virtio_queue *q, struct virtio_element *e)
{
    virtqueue_push(q, e, 0);
}

/* The buffers themselves are free memory. */
static void report(struct virtio_queue *q, struct virtio_element *e)
{
    struct ram_block *ram = q->v->dev.machine->ram;

    for (unsigned i = 0; i < e->in_count; i++) {
        uint64_t start = (uint64_t)((uint8_t *)e->in[i].iov_base - ram->host);
        uint64_t end = align_down(start + e->in[i].iov_len, PAGE);

        start = align_up(start, PAGE);
        if (start < end)
            cut_out(ram, start, end - start);
    }
    virtqueue_push(q, e, 0);
}

/* ---- statistics --------------------------------------------------------------------------------
 */

static void read_stats(struct virtio_balloon *b, const struct virtio_element *e)
{
    uint8_t entry[STAT_SIZE];

    memset(b->stats.value, 0xff, sizeof(b->stats.value));
    for (size_t at = 0; at < BALLOON_STATS * 4 * STAT_SIZE &&
                        iov_read(e->out, e->out_count, at, entry, STAT_SIZE) == STAT_SIZE;
         at += STAT_SIZE) {
        uint64_t tag = load_le(entry, 2);

        if (tag < BALLOON_STATS)
            b->stats.value[tag] = load_le(entry + 2, 8);
    }
    b->stats.when = device_now(&b->v.dev);
}

static void stats_kicked(struct virtio_balloon *b, struct virtio_queue *q)
{
    struct virtio_element *e = virtqueue_pop(q);

    virtqueue_want_kicks(q, true);
    if (!e)
        return;
    if (!b->stats_seen)
        read_stats(b, e);
    b->stats_seen = true;
    if (atomic_exchange(&b->stats_due, false)) {
        b->stats_seen = false;
        virtqueue_push(q, e, 0);
    } else {
        virtqueue_unpop(q, e);
    }
}

static void stats_expired(struct device *dev, struct timer *t)
{
    struct virtio_balloon *b = to_balloon(to_virtio(dev));

    timer_set(t, device_now(dev) + b->stats_interval * NSEC_PER_SEC);
    if (virtio_has(&b->v, VIRTIO_BALLOON_F_STATS_VQ)) {
        atomic_store(&b->stats_due, true);
        virtio_kick(&b->v, FIRST_OPTIONAL);
    }
}

void balloon_get_stats(struct device *dev, struct balloon_stats *out)
{
    struct virtio_balloon *b = to_balloon(to_virtio(dev));

    virtio_io_begin(&b->v);
    *out = b->stats;
    virtio_io_end(&b->v);
}

/* ---- the device --------------------------------------------------------------------------------
 */

/* A queue of a feature that the driver did not take is not counted. */
static void balloon_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_queue *q = &v->queue[number];
    bool stats = virtio_has(v, VIRTIO_BALLOON_F_STATS_VQ);

    if (number == INFLATE)
        virtqueue_each(q, inflate);
    else if (number == DEFLATE)
        virtqueue_each(q, deflate);
    else if (number == FIRST_OPTIONAL && stats)
        stats_kicked(to_balloon(v), q);
    else if (number == FIRST_OPTIONAL + (stats ? 1u : 0) &&
             virtio_has(v, VIRTIO_BALLOON_F_REPORTING))
        virtqueue_each(q, report);
}

static void fill_config(struct virtio_device *v)
{
    store_le(v->config, to_balloon(v)->wanted, 4);
    store_le(v->config + 4, to_balloon(v)->actual, 4);
}

static void balloon_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    struct virtio_balloon *b = to_balloon(v);

    if (offset < 4)
        return;
    b->actual = (uint32_t)bits_set(b->actual, 8 * (offset - 4), 8 * size, value);
}

void balloon_set_target(struct device *dev, uint64_t bytes)
{
    struct virtio_balloon *b = to_balloon(to_virtio(dev));
    uint64_t size = dev->machine->ram->size;

    pthread_mutex_lock(&dev->lock);
    b->wanted = (uint32_t)((size - MIN(bytes, size)) / PAGE);
    virtio_config_changed(&b->v);
    pthread_mutex_unlock(&dev->lock);
}

uint64_t balloon_actual(struct device *dev)
{
    struct virtio_balloon *b = to_balloon(to_virtio(dev));
    uint64_t size = dev->machine->ram->size, inside;

    pthread_mutex_lock(&dev->lock);
    inside = (uint64_t)b->actual * PAGE;
    pthread_mutex_unlock(&dev->lock);
    return size - MIN(inside, size);
}

static void balloon_reset(struct virtio_device *v)
{
    struct virtio_balloon *b = to_balloon(v);

    b->actual = 0; /* the memory is the guest's again */
    b->stats_seen = false;
    atomic_store(&b->stats_due, false);
    memset(&b->stats, 0xff, sizeof(b->stats));
    b->stats.when = 0;
}

static void balloon_refresh(struct virtio_device *v)
{
    to_balloon(v)->stats_seen = false;
}

static int balloon_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_balloon *b = to_balloon(v);
    uint64_t size = v->dev.machine->ram->size;

    v->offered |= BIT(VIRTIO_BALLOON_F_STATS_VQ) |
                  (b->deflate_on_oom ? BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) : 0) |
                  (b->reporting ? BIT(VIRTIO_BALLOON_F_REPORTING) : 0);
    v->config_size = CONFIG_SIZE;
    for (unsigned i = 0; i < (b->reporting ? 4 : 3); i++)
        virtio_add_queue(v, QUEUE_SIZE);
    if (b->target)
        b->wanted = (uint32_t)((size - MIN(b->target, size)) / PAGE);
    if (b->stats_interval) {
        timer_init(&b->stats_timer, &v->dev, stats_expired);
        timer_set(&b->stats_timer, device_now(&v->dev) + b->stats_interval * NSEC_PER_SEC);
    }
    return 0;
}

static const struct virtio_type balloon_virtio = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .legacy_id = 0x1002,
    .class_code = 0x00ff00,
    .realize = balloon_realize,
    .reset = balloon_reset,
    .kicked = balloon_kicked,
    .config_read = fill_config,
    .config_written = balloon_written,
    .refresh = balloon_refresh,
};

#define BALLOON_PROPERTIES                                                                         \
    PROPERTY_BOOL("deflate-on-oom", struct virtio_balloon, deflate_on_oom, false,                  \
                  "the guest may take memory back when it has none left"),                         \
        PROPERTY_BOOL("free-page-reporting", struct virtio_balloon, reporting, false,              \
                      "the guest tells which memory it does not use"),                             \
        PROPERTY_U32("guest-stats-polling-interval", struct virtio_balloon, stats_interval, 0,     \
                     "seconds between two looks at the guest's statistics; 0: one"),               \
        PROPERTY_U64("target", struct virtio_balloon, target, 0,                                   \
                     "bytes the guest is to keep from the start; 0: all")
#define BALLOON_STATE                                                                              \
    STATE_U32(struct virtio_balloon, wanted), STATE_U32(struct virtio_balloon, actual)

static const struct property balloon_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_balloon, v),
    BALLOON_PROPERTIES,
    PROPERTY_END,
};
static const struct property balloon_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_balloon, v),
    BALLOON_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field balloon_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_balloon, v),
    BALLOON_STATE,
    STATE_END,
};
static const struct state_field balloon_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_balloon, v),
    BALLOON_STATE,
    STATE_END,
};

#define SUMMARY "gives the guest's unused memory back (virtio)"
const struct device_type virtio_balloon_pci_type =
    VIRTIO_PCI_DEVICE("virtio-balloon-pci", SUMMARY, struct virtio_balloon, balloon_pci_properties,
                      balloon_pci_state, balloon_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_balloon_pci_transitional_type = VIRTIO_PCI_DEVICE(
    "virtio-balloon-pci-transitional", SUMMARY, struct virtio_balloon, balloon_pci_properties,
    balloon_pci_state, balloon_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_balloon_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-balloon-pci-non-transitional", SUMMARY, struct virtio_balloon,
                      balloon_pci_properties, balloon_pci_state, balloon_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_balloon_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-balloon-device", SUMMARY, struct virtio_balloon,
                       balloon_mmio_properties, balloon_mmio_state, balloon_virtio);
