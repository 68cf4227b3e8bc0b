/*
 * ring.c - split and packed rings. See virtio.h; virtio 1.2, sections 2.7 and 2.8.
 *
 * Rings lie in the machine's RAM block, which stays mapped for the machine's life, so a mapped ring
 * is three host pointers. Only that block is ever written to: addresses of devices, ROM and video
 * memory are refused. Every field the guest may change meanwhile is loaded once, atomically; what
 * is decided on is the copy. Indirect tables may lie anywhere in RAM and are copied whole.
 *
 * The order of memory accesses matters where the guest runs on another processor:
 *   pop    index or flags with acquire, then the rest;
 *   push   the used entry, then index or flags with release;
 *   tell   a full barrier between our publication and the look at what the guest wants to be told;
 *   kicks  a full barrier between our wish and the look whether something came.
 */
#include "devices/virtio/virtio.h"

#include "base/log.h"
#include "machine/machine.h"
#include "memory/ram.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>

enum { DESC_SIZE = 16, SPLIT_HEAD = 4, SPLIT_USED_SIZE = 8 };
enum { PACKED_AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL, PACKED_USED = 1 << VRING_PACKED_DESC_F_USED };
enum { BATCH = 256 }; /* chains between two interrupts */
enum { EVENT_FLAGS = 2, OFFSET_WRAP = 1 << VRING_PACKED_EVENT_F_WRAP_CTR };

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next; /* split: next; packed: the buffer's id */
};
_Static_assert(sizeof(struct vring_desc) == DESC_SIZE &&
                   sizeof(struct vring_packed_desc) == DESC_SIZE &&
                   sizeof(struct vring_used_elem) == SPLIT_USED_SIZE,
               "ring layout");

/* ---- guest memory ------------------------------------------------------------------------------
 */

static struct ram_block *ram_of(const struct virtio_queue *q)
{
    return q->v->dev.machine->ram;
}

/* A range that is RAM as a whole; NULL: it is not. */
static uint8_t *map_range(const struct virtio_queue *q, gpa address, uint64_t length)
{
    struct memory_target t;

    memory_lookup(q->v->dev.machine->memory, VIEW_NORMAL, address, &t);
    if (!t.block || t.block != ram_of(q) || !t.writable || t.length < length)
        return NULL;
    return t.block->host + t.offset;
}

static uint16_t load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static void store16(struct virtio_queue *q, uint8_t *p, uint16_t value)
{
    struct ram_block *ram = ram_of(q);

    __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE);
    ram_written(ram, (uint64_t)(p - ram->host), sizeof(value));
}

static void store_bytes(struct virtio_queue *q, uint8_t *p, const void *from, size_t size)
{
    struct ram_block *ram = ram_of(q);

    memcpy(p, from, size);
    ram_written(ram, (uint64_t)(p - ram->host), size);
}

/* Ring descriptors are aligned: two loads. */
static struct descriptor load_descriptor(const uint8_t *p)
{
    uint64_t raw[2] = {__atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED),
                       __atomic_load_n((const uint64_t *)p + 1, __ATOMIC_RELAXED)};
    struct descriptor d;

    memcpy(&d, raw, sizeof(d));
    return d;
}

/* ---- mapping -----------------------------------------------------------------------------------
 */

void virtqueue_map(struct virtio_queue *q)
{
    struct virtio_device *v = q->v;
    uint64_t desc = (uint64_t)DESC_SIZE * q->size, driver, device;
    bool packed = virtio_has(v, VIRTIO_F_RING_PACKED);

    driver = packed ? 4 : SPLIT_HEAD + 2ull * q->size + 2;
    device = packed ? 4 : SPLIT_HEAD + (uint64_t)SPLIT_USED_SIZE * q->size + 2;
    if (!q->size || q->size > q->max_size || (!packed && !is_power_of_2(q->size))) {
        virtio_break(v, "queue %u has %u entries", q->number, q->size);
        return;
    }
    if (q->desc % 16 || q->driver % (packed ? 4 : 2) || q->device % 4) {
        virtio_break(v, "queue %u is not aligned", q->number);
        return;
    }
    q->desc_ring = map_range(q, q->desc, desc);
    q->driver_ring = map_range(q, q->driver, driver);
    q->device_ring = map_range(q, q->device, device);
    if (!q->desc_ring || !q->driver_ring || !q->device_ring) {
        virtio_break(v, "queue %u does not lie in RAM (%#llx, %#llx, %#llx)", q->number,
                     (unsigned long long)q->desc, (unsigned long long)q->driver,
                     (unsigned long long)q->device);
        return;
    }
    if (packed && (q->next_avail >= q->size || q->next_used >= q->size)) {
        virtio_break(v, "queue %u is at %u and %u of %u", q->number, q->next_avail, q->next_used,
                     q->size);
        return;
    }
    q->num = q->size;
    q->packed = packed;
    q->event_idx = virtio_has(v, VIRTIO_RING_F_EVENT_IDX);
    q->kicks_wanted = true;
    q->used_pending = 0;
    q->told_once = false;
    q->mapped = true;
}

void virtqueue_unmap(struct virtio_queue *q)
{
    q->mapped = false;
    q->desc_ring = q->driver_ring = q->device_ring = NULL;
}

/* ---- building a chain --------------------------------------------------------------------------
 */

/* On the stack of the one who pops. */
struct chain {
    struct descriptor d[VIRTIO_QUEUE_MAX];
    unsigned count;
};

static bool add_descriptor(struct virtio_queue *q, struct chain *c, const struct descriptor *d)
{
    if (c->count == VIRTIO_QUEUE_MAX) {
        virtio_break(q->v, "queue %u: a chain has a loop or more than %d descriptors", q->number,
                     VIRTIO_QUEUE_MAX);
        return false;
    }
    c->d[c->count++] = *d;
    return true;
}

/* The table that an indirect descriptor names; packed ones have no links. */
static bool add_indirect(struct virtio_queue *q, struct chain *c, const struct descriptor *d)
{
    struct descriptor table[VIRTIO_QUEUE_MAX];
    unsigned entries = d->length / DESC_SIZE, at = 0;

    if (!virtio_has(q->v, VIRTIO_RING_F_INDIRECT_DESC) || d->length % DESC_SIZE || !entries ||
        entries > VIRTIO_QUEUE_MAX || c->count) {
        virtio_break(q->v, "queue %u: an indirect descriptor of %u bytes", q->number, d->length);
        return false;
    }
    if (dma_read(q->v->dev.machine->memory, d->address, table, d->length) < 0) {
        virtio_break(q->v, "queue %u: the table at %#llx is not in RAM", q->number,
                     (unsigned long long)d->address);
        return false;
    }
    for (unsigned n = 0; n < entries && q->packed; n++) { /* the id stands before the flags */
        uint16_t id = table[n].flags;

        table[n].flags = table[n].next;
        table[n].next = id;
    }
    for (unsigned n = 0; n < entries; n++) {
        if (at >= entries || table[at].flags & VRING_DESC_F_INDIRECT) {
            virtio_break(q->v, "queue %u: a table of %u entries refers to entry %u", q->number,
                         entries, at);
            return false;
        }
        if (!add_descriptor(q, c, &table[at]))
            return false;
        if (q->packed)
            at++;
        else if (table[at].flags & VRING_DESC_F_NEXT)
            at = table[at].next;
        else
            return true;
    }
    if (!q->packed)
        virtio_break(q->v, "queue %u: a table of %u entries has a loop", q->number, entries);
    return q->packed;
}

/* Where a buffer lies, as host memory; it may cross the hole below 4 GiB. The number of pieces or
 * -1. Counts only where `to` is NULL. */
static int map_buffer(struct virtio_queue *q, const struct descriptor *d, struct iovec *to)
{
    gpa address = d->address;
    uint64_t length = d->length;
    int n = 0;

    while (length) {
        struct memory_target t;
        uint64_t piece;

        memory_lookup(q->v->dev.machine->memory, VIEW_NORMAL, address, &t);
        if (!t.block || t.block != ram_of(q) || !t.writable)
            return -1;
        piece = MIN(length, t.length);
        if (to)
            to[n] = (struct iovec){t.block->host + t.offset, piece};
        n++;
        address += piece;
        length -= piece;
        if (length && !address)
            return -1;
    }
    return n;
}

static struct virtio_element *build(struct virtio_queue *q, const struct chain *c, uint16_t index,
                                    uint16_t slots)
{
    uint64_t out = 0, in = 0;
    unsigned pieces = 0, out_pieces = 0, at = 0;
    struct virtio_element *e;

    for (unsigned i = 0; i < c->count; i++) {
        const struct descriptor *d = &c->d[i];
        int n = map_buffer(q, d, NULL);

        if (n < 0) {
            virtio_break(q->v, "queue %u: a buffer of %u bytes at %#llx is not in RAM", q->number,
                         d->length, (unsigned long long)d->address);
            return NULL;
        }
        pieces += (unsigned)n;
        if (d->flags & VRING_DESC_F_WRITE) {
            in += d->length;
        } else if (in) {
            virtio_break(q->v, "queue %u: a buffer to read comes after one to write", q->number);
            return NULL;
        } else {
            out += d->length;
            out_pieces += (unsigned)n;
        }
    }
    if (out + in > UINT32_MAX) {
        virtio_break(q->v, "queue %u: a chain of %llu bytes", q->number,
                     (unsigned long long)(out + in));
        return NULL;
    }
    /* RAM's map may change between the two looks: allow for one more piece each, then refuse. */
    e = calloc(1, sizeof(*e) + (pieces + 2) * sizeof(e->iov[0]));
    if (!e) {
        virtio_break(q->v, "queue %u: no memory for a chain of %u pieces", q->number, pieces);
        return NULL;
    }
    *e = (struct virtio_element){.queue = q, .index = index, .slots = slots, .out = e->iov};
    for (unsigned i = 0; i < c->count; i++) {
        int n = map_buffer(q, &c->d[i], NULL);

        if (n < 0 || at + (unsigned)n > pieces) {
            virtio_break(q->v, "queue %u: memory moved under a chain", q->number);
            free(e);
            return NULL;
        }
        map_buffer(q, &c->d[i], &e->iov[at]);
        at += (unsigned)n;
    }
    e->out_count = out_pieces;
    e->in = e->iov + out_pieces;
    e->in_count = at - out_pieces;
    e->out_size = out;
    e->in_size = in;
    return e;
}

/* ---- taking ------------------------------------------------------------------------------------
 */

static bool split_collect(struct virtio_queue *q, struct chain *c, uint16_t head)
{
    uint16_t at = head;

    for (unsigned n = 0;; n++) {
        struct descriptor d;

        if (at >= q->num || n == q->num) {
            virtio_break(q->v, "queue %u: a chain from descriptor %u %s", q->number, head,
                         at >= q->num ? "leaves the ring" : "has a loop");
            return false;
        }
        d = load_descriptor(q->desc_ring + DESC_SIZE * at);
        if (d.flags & VRING_DESC_F_INDIRECT)
            return add_indirect(q, c, &d);
        if (!add_descriptor(q, c, &d))
            return false;
        if (!(d.flags & VRING_DESC_F_NEXT))
            return true;
        at = d.next;
    }
}

static struct virtio_element *split_pop(struct virtio_queue *q, struct chain *c)
{
    uint16_t waiting = (uint16_t)(load16(q->driver_ring + 2) - q->next_avail), head;
    struct virtio_element *e;

    if (!waiting)
        return NULL;
    if (waiting > q->num) {
        virtio_break(q->v, "queue %u: %u chains at once in a ring of %u", q->number, waiting,
                     q->num);
        return NULL;
    }
    head = load16(q->driver_ring + SPLIT_HEAD + 2 * (q->next_avail % q->num));
    if (!split_collect(q, c, head))
        return NULL;
    e = build(q, c, head, 1);
    if (e)
        q->next_avail++;
    return e;
}

static bool packed_is_available(const struct virtio_queue *q, uint16_t flags)
{
    return !!(flags & PACKED_AVAIL) == q->avail_wrap && !!(flags & PACKED_USED) != q->avail_wrap;
}

static uint16_t packed_flags(const struct virtio_queue *q, uint16_t at)
{
    return load16(q->desc_ring + DESC_SIZE * at + 14);
}

static struct virtio_element *packed_pop(struct virtio_queue *q, struct chain *c)
{
    uint16_t at = q->next_avail, slots = 0;
    struct virtio_element *e;
    struct descriptor d;

    if (!packed_is_available(q, packed_flags(q, at)))
        return NULL;
    do {
        uint64_t raw[2];

        if (slots == q->num) {
            virtio_break(q->v, "queue %u: a chain has a loop", q->number);
            return NULL;
        }
        /* struct vring_packed_desc: address, length, id, flags */
        raw[0] = __atomic_load_n((uint64_t *)(q->desc_ring + DESC_SIZE * at), __ATOMIC_RELAXED);
        raw[1] = __atomic_load_n((uint64_t *)(q->desc_ring + DESC_SIZE * at) + 1, __ATOMIC_RELAXED);
        d = (struct descriptor){.address = raw[0],
                                .length = (uint32_t)raw[1],
                                .next = (uint16_t)(raw[1] >> 32),
                                .flags = (uint16_t)(raw[1] >> 48)};
        slots++;
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (!add_indirect(q, c, &d))
                return NULL;
            d.flags &= (uint16_t)~VRING_DESC_F_NEXT;
        } else if (!add_descriptor(q, c, &d)) {
            return NULL;
        }
        at = (uint16_t)(at + 1 == q->num ? 0 : at + 1);
    } while (d.flags & VRING_DESC_F_NEXT);
    e = build(q, c, d.next, slots);
    if (!e)
        return NULL;
    q->next_avail = (uint16_t)(q->next_avail + slots);
    if (q->next_avail >= q->num) {
        q->next_avail = (uint16_t)(q->next_avail - q->num);
        q->avail_wrap = !q->avail_wrap;
    }
    return e;
}

struct virtio_element *virtqueue_pop(struct virtio_queue *q)
{
    struct chain c;

    if (!virtqueue_ready(q))
        return NULL;
    c.count = 0;
    return q->packed ? packed_pop(q, &c) : split_pop(q, &c);
}

void virtqueue_unpop(struct virtio_queue *q, struct virtio_element *e)
{
    if (!q->packed) {
        q->next_avail--;
    } else if (q->next_avail >= e->slots) {
        q->next_avail = (uint16_t)(q->next_avail - e->slots);
    } else {
        q->next_avail = (uint16_t)(q->next_avail + q->num - e->slots);
        q->avail_wrap = !q->avail_wrap;
    }
    free(e);
}

void virtqueue_discard(struct virtio_element *e)
{
    free(e);
}

bool virtqueue_has_chain(struct virtio_queue *q)
{
    if (!virtqueue_ready(q))
        return false;
    if (q->packed)
        return packed_is_available(q, packed_flags(q, q->next_avail));
    return load16(q->driver_ring + 2) != q->next_avail;
}

/* ---- giving back -------------------------------------------------------------------------------
 */

/* Bytes in guest memory were changed behind the map's back. */
static void mark_written(struct virtio_queue *q, const struct virtio_element *e, size_t written)
{
    struct ram_block *ram = ram_of(q);

    for (unsigned i = 0; i < e->in_count && written; i++) {
        size_t n = MIN(written, e->in[i].iov_len);

        if (n)
            ram_written(ram, (uint64_t)((uint8_t *)e->in[i].iov_base - ram->host), n);
        written -= n;
    }
}

static void split_put(struct virtio_queue *q, const struct virtio_element *e, size_t written,
                      unsigned ahead)
{
    struct vring_used_elem used = {.id = e->index, .len = (uint32_t)written};
    uint16_t at = (uint16_t)(q->next_used + ahead) % q->num;

    store_bytes(q, q->device_ring + SPLIT_HEAD + SPLIT_USED_SIZE * at, &used, sizeof(used));
}

/* The flags of the first descriptor come last: with them the guest sees all. */
static void packed_put(struct virtio_queue *q, struct virtio_element **e, const size_t *written,
                       unsigned count)
{
    uint16_t at = q->next_used, first_flags = 0;
    uint8_t *first = q->desc_ring + DESC_SIZE * at;

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = (uint16_t)((q->used_wrap ? PACKED_AVAIL | PACKED_USED : 0) |
                                    (written[i] ? VRING_DESC_F_WRITE : 0));
        uint8_t *p = q->desc_ring + DESC_SIZE * at, body[6];

        store_le(body, (uint32_t)written[i], 4);
        store_le(body + 4, e[i]->index, 2);
        store_bytes(q, p + 8, body, sizeof(body));
        if (i)
            store16(q, p + 14, flags);
        else
            first_flags = flags;
        at = (uint16_t)(at + e[i]->slots);
        if (at >= q->num) {
            at = (uint16_t)(at - q->num);
            q->used_wrap = !q->used_wrap;
        }
        q->used_pending = (uint16_t)(q->used_pending + e[i]->slots);
    }
    q->next_used = at;
    store16(q, first + 14, first_flags);
}

void virtqueue_push_many(struct virtio_queue *q, struct virtio_element **e, const size_t *written,
                         unsigned count)
{
    if (virtqueue_ready(q)) {
        for (unsigned i = 0; i < count; i++) {
            mark_written(q, e[i], written[i]);
            if (!q->packed)
                split_put(q, e[i], written[i], i);
        }
        if (q->packed) {
            packed_put(q, e, written, count);
        } else {
            q->next_used = (uint16_t)(q->next_used + count);
            q->used_pending = (uint16_t)(q->used_pending + count);
            store16(q, q->device_ring + 2, q->next_used);
        }
    }
    for (unsigned i = 0; i < count; i++)
        free(e[i]);
}

void virtqueue_push(struct virtio_queue *q, struct virtio_element *e, size_t written)
{
    virtqueue_push_many(q, &e, &written, 1);
}

void virtqueue_each(struct virtio_queue *q,
                    void (*handle)(struct virtio_queue *q, struct virtio_element *e))
{
    virtqueue_want_kicks(q, false);
    for (unsigned n = 0; n < BATCH; n++) {
        struct virtio_element *e = virtqueue_pop(q);

        if (!e) {
            virtqueue_want_kicks(q, true);
            e = virtqueue_pop(q);
            if (!e)
                return;
            virtqueue_want_kicks(q, false);
        }
        handle(q, e);
    }
    virtio_kick(q->v, q->number); /* the rest after the guest heard of these */
}

/* ---- who wants to hear what --------------------------------------------------------------------
 */

static bool packed_should_tell(struct virtio_queue *q, uint16_t pushed)
{
    uint16_t flags = load16(q->driver_ring + EVENT_FLAGS) & 3, wanted;
    int event;

    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_idx)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    wanted = load16(q->driver_ring);
    event = wanted & (OFFSET_WRAP - 1);
    if (!!(wanted & OFFSET_WRAP) != q->used_wrap)
        event -= q->num;
    return !q->told_once || (uint16_t)(q->next_used - event - 1) < pushed;
}

static bool split_should_tell(struct virtio_queue *q, uint16_t pushed)
{
    if (virtio_has(q->v, VIRTIO_F_NOTIFY_ON_EMPTY) && !virtqueue_has_chain(q))
        return true;
    if (!q->event_idx)
        return !(load16(q->driver_ring) & VRING_AVAIL_F_NO_INTERRUPT);
    return !q->told_once ||
           (uint16_t)(q->next_used - load16(q->driver_ring + SPLIT_HEAD + 2 * q->num) - 1) < pushed;
}

bool virtqueue_should_tell(struct virtio_queue *q)
{
    uint16_t pushed = q->used_pending;
    bool tell;

    if (!pushed || !virtqueue_ready(q))
        return false;
    atomic_thread_fence(memory_order_seq_cst);
    tell = q->packed ? packed_should_tell(q, pushed) : split_should_tell(q, pushed);
    q->used_pending = 0;
    q->told_once = true;
    return tell;
}

/* Where the next kick is wanted, in the form of the ring. */
static void publish_wish(struct virtio_queue *q)
{
    bool on = q->kicks_wanted;

    if (q->packed && q->event_idx && on) {
        store16(q, q->device_ring, (uint16_t)(q->next_avail | (q->avail_wrap ? OFFSET_WRAP : 0)));
        store16(q, q->device_ring + EVENT_FLAGS, VRING_PACKED_EVENT_FLAG_DESC);
    } else if (q->packed) {
        store16(q, q->device_ring + EVENT_FLAGS,
                on ? VRING_PACKED_EVENT_FLAG_ENABLE : VRING_PACKED_EVENT_FLAG_DISABLE);
    } else if (q->event_idx) {
        if (on) /* otherwise an old position does not ask for more kicks */
            store16(q, q->device_ring + SPLIT_HEAD + SPLIT_USED_SIZE * q->num, q->next_avail);
    } else {
        store16(q, q->device_ring, on ? 0 : VRING_USED_F_NO_NOTIFY);
    }
}

void virtqueue_want_kicks(struct virtio_queue *q, bool on)
{
    if (!virtqueue_ready(q))
        return;
    q->kicks_wanted = on;
    publish_wish(q);
    atomic_thread_fence(memory_order_seq_cst);
}

/* ---- iovecs ------------------------------------------------------------------------------------
 */

enum iov_kind { IOV_READ, IOV_WRITE, IOV_FILL };

static size_t iov_copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *buffer,
                       size_t size, enum iov_kind kind, uint8_t byte)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < size; i++) {
        size_t n;
        uint8_t *p;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        p = (uint8_t *)iov[i].iov_base + offset;
        n = MIN(size - done, iov[i].iov_len - offset);
        if (kind == IOV_READ)
            memcpy(buffer + done, p, n);
        else if (kind == IOV_WRITE)
            memcpy(p, buffer + done, n);
        else
            memset(p, byte, n);
        offset = 0;
        done += n;
    }
    return done;
}

size_t iov_read(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t size)
{
    return iov_copy(iov, count, offset, to, size, IOV_READ, 0);
}

size_t iov_write(const struct iovec *iov, unsigned count, size_t offset, const void *from,
                 size_t size)
{
    return iov_copy(iov, count, offset, (void *)from, size, IOV_WRITE, 0);
}

size_t iov_fill(const struct iovec *iov, unsigned count, size_t offset, uint8_t byte, size_t size)
{
    return iov_copy(iov, count, offset, NULL, size, IOV_FILL, byte);
}

unsigned iov_slice(const struct iovec *iov, unsigned count, size_t offset, size_t size,
                   struct iovec *to, unsigned most)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && size && n < most; i++) {
        size_t length;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        length = MIN(size, iov[i].iov_len - offset);
        to[n++] = (struct iovec){(uint8_t *)iov[i].iov_base + offset, length};
        size -= length;
        offset = 0;
    }
    return n;
}
