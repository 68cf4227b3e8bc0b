/*
 * blk.c - virtio-blk: a disk in sectors of 512 bytes, whatever its blocks are. virtio 1.2, section
 * 5.2.
 *
 * A request is a header, data and a byte of status. It is handed to the disk with the guest's own
 * buffers; the disk's threads end it. What came by one kick is submitted together.
 *
 * Who did not negotiate FLUSH cannot ask for durability, and who turned the cache off (wce) does
 * not: their writes are durable when they are done.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "block/disk.h"
#include "machine/machine.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>

enum { SECTOR = 512, BATCH = 64, AUTO_QUEUES = 0xffff, MAX_QUEUES = 16 };
enum { RANGE_SECTORS = 1 << 22, CONFIG_SIZE = offsetof(struct virtio_blk_config, unused1) + 3 };

struct virtio_blk {
    struct virtio_device v;
    /* properties */
    struct disk *disk;
    char *serial;
    uint16_t num_queues, queue_size;
    uint32_t logical, physical, bootindex;
    bool discard, write_zeroes, config_wce;

    _Atomic uint8_t wce;               /* saved: the guest may leave flushing to itself */
    struct disk_request *batch[BATCH]; /* under io_lock */
    unsigned batched;
};

static struct virtio_blk *to_blk(struct virtio_device *v)
{
    return container_of(v, struct virtio_blk, v);
}

/* ---- one request -------------------------------------------------------------------------------
 */

struct request {
    struct disk_request disk;
    struct virtio_blk *blk;
    struct virtio_element *element;
    struct iovec iov[];
};

static void answer(struct virtio_element *e, uint8_t status)
{
    if (e->in_size)
        iov_write(e->in, e->in_count, e->in_size - 1, &status, 1);
    virtqueue_push(e->queue, e, e->in_size);
}

static void request_done(struct disk_request *d, int result)
{
    struct request *r = container_of(d, struct request, disk);
    struct virtio_device *v = &r->blk->v;

    virtio_io_begin(v);
    answer(r->element, result ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
    virtio_request_end(v);
    virtio_io_end(v);
    free(r);
}

static void submit_batch(struct virtio_blk *b)
{
    unsigned n = b->batched;

    b->batched = 0;
    if (n)
        disk_submit_many(b->disk, b->batch, n);
}

static void submit(struct virtio_blk *b, struct request *r)
{
    virtio_request_begin(&b->v);
    b->batch[b->batched++] = &r->disk;
    if (b->batched == BATCH)
        submit_batch(b);
}

static struct request *request_new(struct virtio_blk *b, struct virtio_element *e, enum disk_op op,
                                   unsigned pieces)
{
    struct request *r = calloc(1, sizeof(*r) + pieces * sizeof(r->iov[0]));

    if (!r)
        return NULL;
    r->blk = b;
    r->element = e;
    r->disk.op = op;
    r->disk.done = request_done;
    return r;
}

static unsigned durable(const struct virtio_blk *b)
{
    return virtio_has(&b->v, VIRTIO_BLK_F_FLUSH) && b->wce ? 0 : DISK_FUA;
}

static bool range_good(const struct virtio_blk *b, uint64_t sector, uint64_t size)
{
    return sector <= UINT64_MAX / SECTOR && size % b->logical == 0 &&
           sector * SECTOR % b->logical == 0 &&
           range_within(sector * SECTOR, size, disk_size(b->disk));
}

static void transfer(struct virtio_blk *b, struct virtio_element *e, bool write, uint64_t sector)
{
    const struct iovec *iov = write ? e->out : e->in;
    unsigned count = write ? e->out_count : e->in_count;
    size_t skip = write ? sizeof(struct virtio_blk_outhdr) : 0;
    size_t size = write ? e->out_size - skip : e->in_size - 1;
    struct request *r;

    if (!range_good(b, sector, size) || size > GiB || (write && disk_read_only(b->disk))) {
        answer(e, VIRTIO_BLK_S_IOERR);
        return;
    }
    r = request_new(b, e, write ? DISK_WRITE : DISK_READ, count);
    if (!r) {
        answer(e, VIRTIO_BLK_S_IOERR);
        return;
    }
    r->disk.offset = sector * SECTOR;
    r->disk.length = size;
    r->disk.flags = write ? durable(b) : 0;
    r->disk.iov = r->iov;
    r->disk.iov_count = iov_slice(iov, count, skip, size, r->iov, count);
    if (r->disk.iov_count > 1024) {
        free(r);
        answer(e, VIRTIO_BLK_S_IOERR);
        return;
    }
    submit(b, r);
}

/* Discard and write zeroes: one range each, as the configuration says. */
static void change_range(struct virtio_blk *b, struct virtio_element *e, bool zeroes)
{
    struct virtio_blk_discard_write_zeroes range;
    size_t skip = sizeof(struct virtio_blk_outhdr);
    struct request *r;

    if (!(zeroes ? b->write_zeroes : b->discard) || e->out_size - skip != sizeof(range) ||
        iov_read(e->out, e->out_count, skip, &range, sizeof(range)) != sizeof(range) ||
        range.flags & ~(zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u)) {
        answer(e, VIRTIO_BLK_S_UNSUPP);
        return;
    }
    if (range.num_sectors > RANGE_SECTORS || disk_read_only(b->disk) ||
        !range_good(b, range.sector, (uint64_t)range.num_sectors * SECTOR)) {
        answer(e, VIRTIO_BLK_S_IOERR);
        return;
    }
    r = request_new(b, e, zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD, 0);
    if (!r) {
        answer(e, VIRTIO_BLK_S_IOERR);
        return;
    }
    r->disk.offset = range.sector * SECTOR;
    r->disk.length = (uint64_t)range.num_sectors * SECTOR;
    r->disk.flags = zeroes
                        ? durable(b) |
                              (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP ? DISK_UNMAP : 0u)
                        : 0;
    submit(b, r);
}

static void flush(struct virtio_blk *b, struct virtio_element *e)
{
    struct request *r = request_new(b, e, DISK_FLUSH, 0);

    if (r)
        submit(b, r);
    else
        answer(e, VIRTIO_BLK_S_IOERR);
}

static void get_id(struct virtio_blk *b, struct virtio_element *e)
{
    char id[VIRTIO_BLK_ID_BYTES] = "";
    size_t size = MIN(e->in_size - 1, sizeof(id));

    if (b->serial)
        memcpy(id, b->serial, strlen(b->serial)); /* a full one has no end */
    iov_write(e->in, e->in_count, 0, id, size);
    answer(e, VIRTIO_BLK_S_OK);
}

static void take_request(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_blk *b = to_blk(q->v);
    struct virtio_blk_outhdr head;

    if (iov_read(e->out, e->out_count, 0, &head, sizeof(head)) != sizeof(head) || !e->in_size) {
        virtio_break(q->v, "queue %u: a request without header or status", q->number);
        virtqueue_discard(e);
        return;
    }
    switch (head.type & ~VIRTIO_BLK_T_BARRIER) {
    case VIRTIO_BLK_T_IN: transfer(b, e, false, head.sector); break;
    case VIRTIO_BLK_T_OUT: transfer(b, e, true, head.sector); break;
    case VIRTIO_BLK_T_FLUSH: flush(b, e); break;
    case VIRTIO_BLK_T_GET_ID: get_id(b, e); break;
    case VIRTIO_BLK_T_DISCARD: change_range(b, e, false); break;
    case VIRTIO_BLK_T_WRITE_ZEROES: change_range(b, e, true); break;
    default: answer(e, VIRTIO_BLK_S_UNSUPP); break;
    }
}

static void blk_kicked(struct virtio_device *v, unsigned number)
{
    virtqueue_each(&v->queue[number], take_request);
    submit_batch(to_blk(v));
}

/* ---- configuration -----------------------------------------------------------------------------
 */

static void fill_config(struct virtio_device *v)
{
    struct virtio_blk *b = to_blk(v);
    uint64_t sectors = disk_size(b->disk) / SECTOR;
    struct virtio_blk_config c = {
        .capacity = sectors,
        .seg_max = (uint32_t)MIN(b->queue_size - 2u, 254u),
        .geometry = {.cylinders = (uint16_t)MIN(sectors / (16 * 63), 16383u),
                     .heads = 16,
                     .sectors = 63},
        .blk_size = b->logical,
        .physical_block_exp = (uint8_t)__builtin_ctz(MAX(b->physical / b->logical, 1u)),
        .wce = b->wce,
        .num_queues = (uint16_t)v->queues,
        .max_discard_sectors = RANGE_SECTORS,
        .max_discard_seg = 1,
        .discard_sector_alignment = MAX(disk_discard_granularity(b->disk), b->logical) / SECTOR,
        .max_write_zeroes_sectors = RANGE_SECTORS,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = 1,
    };

    memcpy(v->config, &c, CONFIG_SIZE);
}

static void blk_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
        virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
        to_blk(v)->wce = value & 1;
}

static void blk_resized(void *opaque, uint64_t size)
{
    struct virtio_blk *b = opaque;

    pthread_mutex_lock(&b->v.dev.lock);
    virtio_config_changed(&b->v);
    pthread_mutex_unlock(&b->v.dev.lock);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void blk_reset(struct virtio_device *v)
{
    to_blk(v)->wce = disk_write_cache(to_blk(v)->disk);
}

static void blk_refresh(struct virtio_device *v)
{
    to_blk(v)->wce = to_blk(v)->wce != 0;
}

static int check_properties(struct virtio_blk *b, struct error *err)
{
    const char *name = b->v.dev.type->name;

    if (!b->disk)
        return error_set(err, EINVAL, "%s: which disk? Say drive=ID", name);
    if (!is_power_of_2(b->queue_size) || b->queue_size < 4 || b->queue_size > VIRTIO_QUEUE_MAX)
        return error_set(err, EINVAL, "%s: queue-size=%u is not a power of two from 4 to %d", name,
                         b->queue_size, VIRTIO_QUEUE_MAX);
    if (b->num_queues == AUTO_QUEUES)
        b->num_queues = (uint16_t)MAX(MIN(b->v.dev.machine->config.cpus, MAX_QUEUES), 1u);
    if (!b->num_queues || b->num_queues > MAX_QUEUES)
        return error_set(err, EINVAL, "%s: num-queues=%u is not from 1 to %d", name, b->num_queues,
                         MAX_QUEUES);
    if (!b->physical)
        b->physical = MAX(disk_physical_block(b->disk), b->logical);
    if (!is_power_of_2(b->logical) || b->logical < SECTOR || b->logical > 32 * KiB)
        return error_set(err, EINVAL,
                         "%s: logical_block_size=%u is not a power of two from 512 to 32768", name,
                         b->logical);
    if (!is_power_of_2(b->physical) || b->physical < b->logical || b->physical > 2 * MiB)
        return error_set(err, EINVAL,
                         "%s: physical_block_size=%u is not a power of two from "
                         "logical_block_size=%u to 2097152",
                         name, b->physical, b->logical);
    if (b->serial && strlen(b->serial) > VIRTIO_BLK_ID_BYTES)
        return error_set(err, EINVAL, "%s: serial=%s has more than %d characters", name, b->serial,
                         VIRTIO_BLK_ID_BYTES);
    return 0;
}

static int blk_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_blk *b = to_blk(v);
    int r = check_properties(b, err);

    if (r < 0)
        return r;
    v->offered |= BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) |
                  BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                  BIT(VIRTIO_BLK_F_FLUSH) | (b->config_wce ? BIT(VIRTIO_BLK_F_CONFIG_WCE) : 0) |
                  (disk_read_only(b->disk) ? BIT(VIRTIO_BLK_F_RO) : 0) |
                  (b->num_queues > 1 ? BIT(VIRTIO_BLK_F_MQ) : 0) |
                  (b->discard ? BIT(VIRTIO_BLK_F_DISCARD) : 0) |
                  (b->write_zeroes ? BIT(VIRTIO_BLK_F_WRITE_ZEROES) : 0);
    v->config_size = CONFIG_SIZE;
    for (unsigned i = 0; i < b->num_queues; i++)
        virtio_add_queue(v, b->queue_size);
    b->wce = disk_write_cache(b->disk);
    disk_on_resize(b->disk, blk_resized, b);
    return 0;
}

static void blk_unrealize(struct virtio_device *v)
{
    disk_on_resize(to_blk(v)->disk, NULL, NULL);
}

static const struct virtio_type blk_virtio = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .legacy_id = 0x1001,
    .class_code = 0x010000,
    .realize = blk_realize,
    .unrealize = blk_unrealize,
    .reset = blk_reset,
    .kicked = blk_kicked,
    .config_read = fill_config,
    .config_written = blk_written,
    .refresh = blk_refresh,
};

#define BLK_PROPERTIES                                                                             \
    PROPERTY_REF("drive", struct virtio_blk, disk, "the disk, as --drive names it"),               \
        PROPERTY_STRING("serial", struct virtio_blk, serial, NULL,                                 \
                        "serial number, 20 characters"),                                           \
        PROPERTY_U16("num-queues", struct virtio_blk, num_queues, AUTO_QUEUES,                     \
                     "queues, 1 to 16 (default: one for each processor)"),                         \
        PROPERTY_U16("queue-size", struct virtio_blk, queue_size, 256, "entries of each"),         \
        PROPERTY_U32("logical_block_size", struct virtio_blk, logical, SECTOR, "bytes"),           \
        PROPERTY_U32("physical_block_size", struct virtio_blk, physical, 0,                        \
                     "bytes (default: the disk's)"),                                               \
        PROPERTY_U32("bootindex", struct virtio_blk, bootindex, UINT32_MAX,                        \
                     "place in the boot order"),                                                   \
        PROPERTY_BOOL("discard", struct virtio_blk, discard, true, "offer discard"),               \
        PROPERTY_BOOL("write-zeroes", struct virtio_blk, write_zeroes, true,                       \
                      "offer writing of zeroes"),                                                  \
        PROPERTY_BOOL("config-wce", struct virtio_blk, config_wce, true,                           \
                      "let the guest switch the write cache")
#define BLK_STATE STATE_U8(struct virtio_blk, wce)

static const struct property blk_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_blk, v),
    BLK_PROPERTIES,
    PROPERTY_END,
};
static const struct property blk_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_blk, v),
    BLK_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field blk_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_blk, v),
    BLK_STATE,
    STATE_END,
};
static const struct state_field blk_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_blk, v),
    BLK_STATE,
    STATE_END,
};

#define SUMMARY "a disk (virtio)"
const struct device_type virtio_blk_pci_type =
    VIRTIO_PCI_DEVICE("virtio-blk-pci", SUMMARY, struct virtio_blk, blk_pci_properties,
                      blk_pci_state, blk_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_blk_pci_transitional_type =
    VIRTIO_PCI_DEVICE("virtio-blk-pci-transitional", SUMMARY, struct virtio_blk, blk_pci_properties,
                      blk_pci_state, blk_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_blk_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-blk-pci-non-transitional", SUMMARY, struct virtio_blk,
                      blk_pci_properties, blk_pci_state, blk_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_blk_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-blk-device", SUMMARY, struct virtio_blk, blk_mmio_properties,
                       blk_mmio_state, blk_virtio);
