/*
 * qcow2_cluster.c - guest offsets to places in the file: reading, writing, giving space back.
 *
 * A write that needs space goes in three steps: take clusters and enter them in the list of
 * allocations (locked); write data and what must be copied around it (unlocked); enter them in the
 * L2 table (locked). Who wants the same guest clusters meanwhile waits. So the table never points
 * at data that is not written, and the flush's order does the rest.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

enum { RUN_BYTES = 2 * MiB }; /* the most that one allocating step takes */

/* ---- lookup -----------------------------------------------------------------------------------
 */

enum state { UNBACKED, ZERO_PLAIN, ZERO_PLACED, NORMAL, COMPRESSED };

static enum state state_of(const struct qcow2 *q, uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED)
        return COMPRESSED;
    if (q->version >= 3 && entry & QCOW2_ZERO)
        return entry & QCOW2_OFFSET_MASK ? ZERO_PLACED : ZERO_PLAIN;
    if (entry & QCOW2_OFFSET_MASK || (q->external && entry & QCOW2_COPIED))
        return NORMAL;
    return UNBACKED;
}

static uint64_t entry_at(const struct qcow2_table *t, uint32_t i)
{
    return load_be(t->data + 8 * (size_t)i, 8);
}

/* The L2 table of a guest cluster to read; *out NULL: there is none. */
static int table_locked(struct qcow2 *q, uint64_t cluster, bool nowait, struct qcow2_table **out)
{
    uint64_t index = cluster >> q->l2_bits;

    *out = NULL;
    if (index >= q->l1_size)
        return qcow2_damaged(q, "the L1 table is too short for the disk");
    if (!(q->l1[index] & QCOW2_OFFSET_MASK))
        return 0;
    if (nowait && !q->l2[index])
        return -EAGAIN;
    return qcow2_table_get_locked(q, false, (uint32_t)index, q->l1[index] & QCOW2_OFFSET_MASK, out);
}

/* The same to change it: made, or copied if a snapshot has it too. */
static int own_table_locked(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
    uint32_t index = (uint32_t)(cluster >> q->l2_bits);
    struct qcow2_table *old = NULL, *t;
    auto_free uint8_t *copy = NULL;
    uint64_t first, got, was;
    int r = table_locked(q, cluster, false, &old);

    if (r < 0)
        return r;
    was = q->l1[index];
    if (old && was & QCOW2_COPIED) {
        *out = old;
        return 0;
    }
    if (old) {
        copy = malloc(q->cluster_size);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, old->data, q->cluster_size);
    }
    r = qcow2_allocate_locked(q, 1, true, &first, &got);
    if (r < 0)
        return r;
    if (q->l2[index]) { /* shared, so it cannot be dirty: it was flushed when it became shared */
        for (unsigned i = 0; i < q->table_count; i++)
            if (q->tables[i] == q->l2[index]) {
                free(q->tables[i]->data);
                free(q->tables[i]);
                q->tables[i] = q->tables[--q->table_count];
                break;
            }
        q->l2[index] = NULL;
    }
    r = qcow2_table_new_locked(q, false, index, first << q->cluster_bits, &t);
    if (r < 0) {
        qcow2_free_locked(q, first << q->cluster_bits, q->cluster_size);
        return r;
    }
    if (copy)
        memcpy(t->data, copy, q->cluster_size);
    q->fresh_from = MAX(q->fresh_from, first + 1);
    qcow2_table_dirty_locked(q, t, 0, (uint32_t)q->cluster_size);
    q->l1[index] = first << q->cluster_bits | QCOW2_COPIED;
    qcow2_l1_dirty_locked(q, index);
    if (was & QCOW2_OFFSET_MASK)
        qcow2_free_locked(q, was & QCOW2_OFFSET_MASK, q->cluster_size);
    *out = t;
    return 0;
}

static void entry_set(struct qcow2 *q, struct qcow2_table *t, uint32_t i, uint64_t entry)
{
    store_be(t->data + 8 * (size_t)i, entry, 8);
    qcow2_table_dirty_locked(q, t, 8 * i, 8 * i + 8);
}

static bool entry_ok(const struct qcow2 *q, enum state s, uint64_t entry)
{
    if (s == NORMAL || s == ZERO_PLACED)
        return q->external ? !(entry & QCOW2_OFFSET_MASK & (q->cluster_size - 1))
                           : qcow2_offset_ok(q, entry & QCOW2_OFFSET_MASK);
    return true;
}

/*
 * What is at `offset`: state, the entry, and for how many bytes the same holds (for NORMAL: in a
 * row in the file, too). Within one L2 table.
 */
static int lookup_locked(struct qcow2 *q, uint64_t offset, uint64_t length, bool nowait,
                         enum state *state, uint64_t *entry, uint64_t *run)
{
    uint64_t cluster = offset >> q->cluster_bits, in = offset & (q->cluster_size - 1);
    uint64_t per = BIT(q->l2_bits), i = cluster & (per - 1), have;
    struct qcow2_table *t;
    int r = table_locked(q, cluster, nowait, &t);

    if (r < 0)
        return r;
    if (!t) {
        *state = UNBACKED;
        *entry = 0;
        *run = MIN(length, ((per - i) << q->cluster_bits) - in);
        return 0;
    }
    *entry = entry_at(t, (uint32_t)i);
    *state = state_of(q, *entry);
    if (!entry_ok(q, *state, *entry))
        return qcow2_damaged(q, "the cluster of guest offset 0x%llx has entry 0x%llx",
                             (unsigned long long)offset, (unsigned long long)*entry);
    have = q->cluster_size - in;
    while (have < length && ++i < per && *state != COMPRESSED) {
        uint64_t e = entry_at(t, (uint32_t)i);

        if (state_of(q, e) != *state || ((e ^ *entry) & QCOW2_COPIED && *state == NORMAL) ||
            (*state == NORMAL &&
             (e & QCOW2_OFFSET_MASK) != (*entry & QCOW2_OFFSET_MASK) + in + have))
            break;
        have += q->cluster_size;
    }
    *run = MIN(length, have);
    return 0;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static int inflate_bytes(struct qcow2 *q, const uint8_t *in, size_t in_length, uint8_t *out)
{
    size_t got;

    if (q->compression == QCOW2_ZLIB) {
        z_stream z = {.next_in = (uint8_t *)in,
                      .avail_in = (uInt)in_length,
                      .next_out = out,
                      .avail_out = (uInt)q->cluster_size};
        int r = inflateInit2(&z, -12);

        if (r != Z_OK)
            return -ENOMEM;
        /* The stream's end may lie behind what the sectors hold: all bytes out is what counts. */
        r = inflate(&z, Z_FINISH);
        inflateEnd(&z);
        return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
    }
    /* A frame, then the rest of its last sector: streaming stops where the frame ends. */
    {
        ZSTD_DCtx *d = ZSTD_createDCtx();
        ZSTD_inBuffer ib = {in, in_length, 0};
        ZSTD_outBuffer ob = {out, q->cluster_size, 0};
        size_t left = 1;

        if (!d)
            return -ENOMEM;
        while (ob.pos < ob.size) {
            size_t before = ob.pos + ib.pos;

            left = ZSTD_decompressStream(d, &ob, &ib);
            if (ZSTD_isError(left) || ob.pos + ib.pos == before)
                break;
        }
        ZSTD_freeDCtx(d);
        got = ob.pos;
        return !ZSTD_isError(left) && got == q->cluster_size ? 0 : -EIO;
    }
}

static int read_compressed(struct qcow2 *q, uint64_t entry, uint64_t in, uint8_t *buffer,
                           size_t length)
{
    unsigned generation = atomic_load(&q->generation);
    auto_free uint8_t *packed = NULL, *whole = NULL;
    uint64_t offset, bytes;
    int r = 0;

    pthread_mutex_lock(&q->inflate_lock);
    if (q->inflated && q->inflated_entry == entry && q->inflated_generation == generation) {
        memcpy(buffer, q->inflated + in, length);
        pthread_mutex_unlock(&q->inflate_lock);
        return 0;
    }
    pthread_mutex_unlock(&q->inflate_lock);
    qcow2_compressed_range(q, entry, &offset, &bytes);
    if (bytes > 2 * q->cluster_size + BLOCK_SECTOR)
        return -EIO;
    packed = malloc(bytes);
    whole = malloc(q->cluster_size);
    if (!packed || !whole)
        return -ENOMEM;
    if (offset >= q->node->file->size)
        return qcow2_damaged(q, "a compressed cluster at 0x%llx is behind the end of the file",
                             (unsigned long long)offset);
    r = block_read(q->node->file, offset, packed, bytes);
    if (r == 0)
        r = inflate_bytes(q, packed, bytes, whole);
    if (r < 0)
        return r;
    memcpy(buffer, whole + in, length);
    pthread_mutex_lock(&q->inflate_lock);
    free(q->inflated);
    q->inflated = whole;
    q->inflated_entry = entry;
    q->inflated_generation = generation;
    pthread_mutex_unlock(&q->inflate_lock);
    whole = NULL;
    return 0;
}

int qcow2_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    struct qcow2 *q = n->state;
    uint8_t *p = buffer;
    int r = 0;

    while (r == 0 && length) {
        uint64_t in = offset & (q->cluster_size - 1), entry, run;
        enum state s;

        pthread_mutex_lock(&q->lock);
        r = lookup_locked(q, offset, length, false, &s, &entry, &run);
        pthread_mutex_unlock(&q->lock);
        if (r < 0)
            return r;
        switch (s) {
        case UNBACKED: r = block_read_backing(n, offset, p, run); break;
        case ZERO_PLAIN:
        case ZERO_PLACED: memset(p, 0, run); break;
        case NORMAL: r = block_read(q->data, (entry & QCOW2_OFFSET_MASK) + in, p, run); break;
        case COMPRESSED: r = read_compressed(q, entry, in, p, run); break;
        }
        offset += run;
        p += run;
        length -= run;
    }
    return r;
}

int qcow2_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
              struct block_extent *out)
{
    struct qcow2 *q = n->state;
    bool nowait = flags & BLOCK_MAP_NOWAIT;
    uint64_t entry, run;
    enum state s;
    int r;

    if (flags & BLOCK_MAP_WRITE && !atomic_load(&q->touched))
        return 0; /* BLOCK_SLOW, as *out was filled */
    if (!nowait)
        pthread_mutex_lock(&q->lock);
    else if (pthread_mutex_trylock(&q->lock))
        return -EAGAIN;
    r = lookup_locked(q, offset, length, nowait, &s, &entry, &run);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    *out = (struct block_extent){.length = run};
    switch (s) {
    case UNBACKED: out->kind = BLOCK_UNBACKED; break;
    case ZERO_PLAIN:
    case ZERO_PLACED: out->kind = BLOCK_ZERO; break;
    case COMPRESSED:
        out->kind = BLOCK_SLOW;
        out->compressed = true;
        break;
    case NORMAL:
        out->kind = BLOCK_DATA;
        out->file = q->data;
        out->offset = (entry & QCOW2_OFFSET_MASK) + (offset & (q->cluster_size - 1));
    }
    if (flags & BLOCK_MAP_WRITE &&
        (s != NORMAL || !(entry & QCOW2_COPIED) || atomic_load(&q->broken)))
        *out = (struct block_extent){.kind = BLOCK_SLOW, .length = run};
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

/* Wait until nobody allocates in [start, start+count); true if there was somebody. */
static bool wait_locked(struct qcow2 *q, uint64_t start, uint64_t count)
{
    bool waited = false;

again:
    for (struct qcow2_allocation *a = q->allocations; a; a = a->next)
        if (ranges_overlap(start, count, a->start, a->count)) {
            pthread_cond_wait(&q->allocated, &q->lock);
            waited = true;
            goto again;
        }
    return waited;
}

static void allocation_end_locked(struct qcow2 *q, struct qcow2_allocation *mine)
{
    struct qcow2_allocation **a = &q->allocations;

    while (*a != mine)
        a = &(*a)->next;
    *a = mine->next;
    pthread_cond_broadcast(&q->allocated);
}

static bool in_place(enum state s, uint64_t entry)
{
    return s == NORMAL && entry & QCOW2_COPIED;
}

struct placing {
    struct qcow2_allocation guest; /* clusters */
    uint64_t host;                 /* bytes */
    bool placed;                   /* they had this place already (ZERO_PLACED) */
    bool fresh;                    /* what is not written there reads as zeros */
};

/* How many clusters from the first on need a place, up to `count`, and take it. */
static int place_locked(struct qcow2 *q, uint64_t first, uint64_t count, struct placing *p)
{
    uint64_t per = BIT(q->l2_bits), i = first & (per - 1), n = 0, host, got, entry;
    struct qcow2_table *t;
    int r = own_table_locked(q, first, &t);

    if (r < 0)
        return r;
    count = MIN(count, per - i);
    entry = entry_at(t, (uint32_t)i);
    *p = (struct placing){.guest = {.start = first, .count = 1}};
    if (state_of(q, entry) == ZERO_PLACED && entry & QCOW2_COPIED) {
        if (!entry_ok(q, ZERO_PLACED, entry))
            return qcow2_damaged(q, "entry 0x%llx of an L2 table", (unsigned long long)entry);
        p->placed = true;
        p->host = entry & QCOW2_OFFSET_MASK;
    } else {
        while (n < count) {
            entry = entry_at(t, (uint32_t)(i + n));
            if (in_place(state_of(q, entry), entry) ||
                (state_of(q, entry) == ZERO_PLACED && entry & QCOW2_COPIED))
                break;
            n++;
        }
        for (struct qcow2_allocation *a = q->allocations; a; a = a->next)
            if (a->start > first && a->start < first + n)
                n = a->start - first; /* that far we need not wait */
        if (q->external) {
            host = first;
            got = n;
        } else {
            r = qcow2_allocate_locked(q, n, false, &host, &got);
            if (r < 0)
                return r;
            p->fresh = host >= q->fresh_from;
            q->fresh_from = MAX(q->fresh_from, host + got);
        }
        p->guest.count = got;
        p->host = host << q->cluster_bits;
    }
    p->guest.next = q->allocations;
    q->allocations = &p->guest;
    return 0;
}

/* The tables learn of it, or the place is given back. */
static int placed_locked(struct qcow2 *q, struct placing *p, int result)
{
    struct qcow2_table *t;
    uint32_t i = (uint32_t)(p->guest.start & (BIT(q->l2_bits) - 1));

    if (result == 0)
        result = own_table_locked(q, p->guest.start, &t);
    for (uint64_t k = 0; result == 0 && k < p->guest.count; k++) {
        uint64_t old = entry_at(t, (uint32_t)(i + k));

        entry_set(q, t, (uint32_t)(i + k), (p->host + (k << q->cluster_bits)) | QCOW2_COPIED);
        if (!p->placed)
            qcow2_free_entry_locked(q, old);
    }
    if (result < 0 && !p->placed && !q->external)
        qcow2_free_locked(q, p->host, p->guest.count << q->cluster_bits);
    allocation_end_locked(q, &p->guest);
    return result;
}

/* Is what [offset, +length) has now all zeros, known without reading data? */
static bool known_zero(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    struct block_extent e;

    length = offset < q->node->size ? MIN(length, q->node->size - offset) : 0;
    for (; length; offset += e.length, length -= e.length)
        if (block_map(q->node, offset, length, 0, &e) < 0 || e.kind != BLOCK_ZERO)
            return false;
    return true;
}

/* Old contents for the ends of a new run of clusters; the disk may end in its last one. */
static int read_old(struct qcow2 *q, uint64_t offset, uint8_t *buffer, uint64_t length)
{
    uint64_t size = q->node->size;
    uint64_t have = offset < size ? MIN(length, size - offset) : 0;

    memset(buffer + have, 0, length - have);
    return have ? qcow2_read(q->node, offset, buffer, have) : 0;
}

/* Write `length` bytes at `offset` into new clusters, completed by what was around them. */
static int fill(struct qcow2 *q, const struct placing *p, uint64_t offset, const uint8_t *data,
                uint64_t length)
{
    uint64_t start = p->guest.start << q->cluster_bits, whole = p->guest.count << q->cluster_bits;
    uint64_t head = offset - start, tail = whole - head - length;
    auto_free uint8_t *buffer = NULL;
    int r = 0;

    if ((!head && !tail) ||
        (p->fresh && known_zero(q, start, head) && known_zero(q, offset + length, tail)))
        return block_write(q->data, p->host + head, data, length);
    buffer = aligned_alloc(4096, align_up(whole, 4096));
    if (!buffer)
        return -ENOMEM;
    if (p->placed) /* a zero cluster with a place */
        memset(buffer, 0, whole);
    else
        r = read_old(q, start, buffer, head);
    if (r == 0 && !p->placed)
        r = read_old(q, offset + length, buffer + head + length, tail);
    if (r < 0)
        return r;
    memcpy(buffer + head, data, length);
    return block_write(q->data, p->host, buffer, whole);
}

/* One step of a write at `offset`; *done is how far it came. */
static int write_step(struct qcow2 *q, uint64_t offset, const uint8_t *data, uint64_t length,
                      uint64_t *done)
{
    uint64_t first = offset >> q->cluster_bits, in = offset & (q->cluster_size - 1), entry;
    struct placing p;
    enum state s;
    int r;

    pthread_mutex_lock(&q->lock);
    do {
        r = lookup_locked(q, offset, length, false, &s, &entry, done);
        if (r < 0 || in_place(s, entry))
            break;
    } while (wait_locked(q, first, 1));
    if (r < 0 || in_place(s, entry)) {
        pthread_mutex_unlock(&q->lock);
        return r < 0 ? r : block_write(q->data, (entry & QCOW2_OFFSET_MASK) + in, data, *done);
    }
    r = place_locked(q, first, qcow2_clusters(q, in + MIN(length, (uint64_t)RUN_BYTES)), &p);
    pthread_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    *done = MIN(length, (p.guest.count << q->cluster_bits) - in);
    r = fill(q, &p, offset, data, *done);
    pthread_mutex_lock(&q->lock);
    r = placed_locked(q, &p, r);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct qcow2 *q = n->state;
    const uint8_t *p = buffer;
    uint64_t done;
    int r = qcow2_touch(q);

    while (r == 0 && length) {
        r = write_step(q, offset, p, length, &done);
        offset += done;
        p += done;
        length -= done;
    }
    return r < 0 ? r : qcow2_write_back(q);
}

/* ---- compressed -------------------------------------------------------------------------------
 */

static size_t deflate_bytes(const struct qcow2 *q, const uint8_t *in, uint8_t *out, size_t room)
{
    size_t n;

    if (q->compression == QCOW2_ZSTD) {
        n = ZSTD_compress(out, room, in, q->cluster_size, ZSTD_CLEVEL_DEFAULT);
        return ZSTD_isError(n) ? 0 : n;
    }
    {
        z_stream z = {.next_in = (uint8_t *)in,
                      .avail_in = (uInt)q->cluster_size,
                      .next_out = out,
                      .avail_out = (uInt)room};
        int r;

        if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
            return 0;
        r = deflate(&z, Z_FINISH);
        n = room - z.avail_out;
        deflateEnd(&z);
        return r == Z_STREAM_END ? n : 0;
    }
}

/* A place for packed bytes, behind the last ones if they share its clusters. Counts are raised. */
static int pack_locked(struct qcow2 *q, uint64_t bytes, uint64_t *out)
{
    uint64_t at = q->pack_at, first, got, last;
    int r;

    if (at) {
        last = (at + bytes - 1) >> q->cluster_bits;
        first = at >> q->cluster_bits;
        r = qcow2_refcount_add_locked(q, first, 1, 1);
        if (r == 0 && last != first) {
            uint64_t value;

            r = qcow2_refcount_locked(q, last, &value);
            if (r == 0 && value == 0)
                r = qcow2_refcount_add_locked(q, last, 1, 1);
            else if (r == 0)
                r = -EBUSY;
            /* A new block of counts may have taken that very cluster for itself. */
            if (r == 0)
                r = qcow2_refcount_locked(q, last, &value);
            if (r == 0 && value != 1) {
                qcow2_free_locked(q, last << q->cluster_bits, 1);
                r = -EBUSY;
            }
            if (r == 0)
                q->fresh_from = MAX(q->fresh_from, last + 1);
            else
                qcow2_free_locked(q, first << q->cluster_bits, 1);
        }
        if (r == 0)
            goto found;
        if (r != -EBUSY && r != -ERANGE)
            return r;
    }
    r = qcow2_allocate_locked(q, 1, true, &first, &got);
    if (r < 0)
        return r;
    q->fresh_from = MAX(q->fresh_from, first + 1);
    at = first << q->cluster_bits;
found:
    *out = at;
    q->pack_at = at + bytes;
    if (!(q->pack_at & (q->cluster_size - 1)))
        q->pack_at = 0;
    return 0;
}

static int write_packed(struct qcow2 *q, uint64_t cluster, const uint8_t *data, uint8_t *packed)
{
    unsigned shift = 62 - (q->cluster_bits - 8);
    struct qcow2_allocation mine = {.start = cluster, .count = 1};
    size_t bytes = deflate_bytes(q, data, packed, q->cluster_size - 1);
    uint64_t at = 0, entry;
    struct qcow2_table *t;
    int r;

    if (!bytes || q->external) /* it does not become smaller */
        return qcow2_write(q->node, cluster << q->cluster_bits, data,
                           MIN(q->cluster_size, q->node->size - (cluster << q->cluster_bits)));
    pthread_mutex_lock(&q->lock);
    wait_locked(q, cluster, 1);
    r = pack_locked(q, bytes, &at);
    if (r == 0 && at >= BIT(shift)) {
        qcow2_free_locked(q, at, bytes);
        r = -EFBIG;
    }
    if (r < 0) {
        pthread_mutex_unlock(&q->lock);
        return r;
    }
    mine.next = q->allocations;
    q->allocations = &mine;
    pthread_mutex_unlock(&q->lock);
    entry = QCOW2_COMPRESSED | at | ((at + bytes - 1) / 512 - at / 512) << shift;
    r = block_write(q->node->file, at, packed, bytes);
    pthread_mutex_lock(&q->lock);
    if (r == 0)
        r = own_table_locked(q, cluster, &t);
    if (r == 0) {
        uint32_t i = (uint32_t)(cluster & (BIT(q->l2_bits) - 1));

        qcow2_free_entry_locked(q, entry_at(t, i));
        entry_set(q, t, i, entry);
    } else {
        qcow2_free_locked(q, at, bytes);
    }
    allocation_end_locked(q, &mine);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_write_compressed(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct qcow2 *q = n->state;
    auto_free uint8_t *packed = malloc(q->cluster_size), *last = NULL;
    const uint8_t *p = buffer;
    int r;

    if (offset & (q->cluster_size - 1) ||
        (length & (q->cluster_size - 1) && offset + length != n->size))
        return -EINVAL;
    if (!packed)
        return -ENOMEM;
    r = qcow2_touch(q);
    for (; r == 0 && length >= q->cluster_size; length -= q->cluster_size) {
        r = write_packed(q, offset >> q->cluster_bits, p, packed);
        offset += q->cluster_size;
        p += q->cluster_size;
    }
    if (r == 0 && length) { /* the disk ends in this cluster */
        last = calloc(1, q->cluster_size);
        if (!last)
            return -ENOMEM;
        memcpy(last, p, length);
        r = write_packed(q, offset >> q->cluster_bits, last, packed);
    }
    return r < 0 ? r : qcow2_write_back(q);
}

/* ---- space given back -------------------------------------------------------------------------
 */

enum drop { DROP_DISCARD, DROP_ZERO, DROP_ZERO_KEEP, DROP_CUT };

/* What the entry of a whole cluster becomes; the same where nothing is to be done. */
static uint64_t dropped(const struct qcow2 *q, uint64_t old, enum drop how)
{
    enum state s = state_of(q, old);
    bool backed = q->node->backing_name != NULL;

    switch (how) {
    case DROP_CUT: return 0;
    case DROP_DISCARD:
        if (s == UNBACKED || s == ZERO_PLAIN)
            return old;
        return !backed ? 0 : q->version >= 3 ? QCOW2_ZERO : old;
    case DROP_ZERO:
        if (s == UNBACKED && !backed)
            return old;
        return !backed ? 0 : q->version >= 3 ? QCOW2_ZERO : old;
    default:
        if (s == ZERO_PLAIN || s == ZERO_PLACED || (s == UNBACKED && !backed))
            return old;
        if (s == NORMAL && old & QCOW2_COPIED)
            return old | QCOW2_ZERO;
        return QCOW2_ZERO;
    }
}

/* Whole clusters [first, end). -ENOTSUP: one cannot be said to be zeros in this version. */
static int drop_clusters(struct qcow2 *q, uint64_t first, uint64_t end, enum drop how)
{
    uint64_t per = BIT(q->l2_bits);
    int r = 0;

    while (r == 0 && first < end) {
        uint64_t stop = MIN(end, align_down(first, per) + per);
        struct qcow2_table *t;

        pthread_mutex_lock(&q->lock);
        wait_locked(q, first, stop - first);
        r = table_locked(q, first, false, &t);
        for (; r == 0 && first < stop; first++) {
            uint32_t i = (uint32_t)(first & (per - 1));
            uint64_t old = t ? entry_at(t, i) : 0, entry = dropped(q, old, how);
            bool same_place = entry & QCOW2_OFFSET_MASK;

            if ((how == DROP_ZERO || how == DROP_ZERO_KEEP) && q->version < 3) {
                enum state s = state_of(q, old);

                if (q->node->backing_name || how == DROP_ZERO_KEEP) {
                    r = s == UNBACKED && !q->node->backing_name ? 0 : -ENOTSUP;
                    if (r == 0)
                        continue;
                    break;
                }
            }
            if (entry == old || (q->external && how != DROP_CUT && how != DROP_ZERO_KEEP))
                continue;
            r = own_table_locked(q, first, &t);
            if (r < 0)
                break;
            entry_set(q, t, i, entry);
            if (!same_place)
                qcow2_free_entry_locked(q, old);
        }
        pthread_mutex_unlock(&q->lock);
    }
    return r;
}

/* The clusters that lie wholly in the range; the disk's last one does although it is short. */
static void inner(const struct qcow2 *q, uint64_t offset, uint64_t length, uint64_t *first,
                  uint64_t *end)
{
    *first = qcow2_clusters(q, offset);
    *end = offset + length == q->node->size ? qcow2_clusters(q, offset + length)
                                            : (offset + length) >> q->cluster_bits;
}

int qcow2_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    struct qcow2 *q = n->state;
    uint64_t first, end;
    int r;

    inner(q, offset, length, &first, &end);
    if (first >= end)
        return 0;
    r = qcow2_touch(q);
    if (r == 0)
        r = drop_clusters(q, first, end, DROP_DISCARD);
    return r < 0 ? r : qcow2_write_back(q);
}

/* The part of a cluster: nothing to do where it is zero anyway. */
static int zero_part(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    auto_free uint8_t *zeros = NULL;

    if (!length || known_zero(q, offset, length))
        return 0;
    zeros = calloc(1, length);
    return zeros ? qcow2_write(q->node, offset, zeros, length) : -ENOMEM;
}

int qcow2_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    struct qcow2 *q = n->state;
    uint64_t first, end, from, to;
    int r;

    if (q->external)
        return -ENOTSUP;
    inner(q, offset, length, &first, &end);
    r = qcow2_touch(q);
    if (r < 0)
        return r;
    if (first >= end)
        return offset >> q->cluster_bits == (offset + length - 1) >> q->cluster_bits
                   ? zero_part(q, offset, length)
                   : -ENOTSUP;
    from = first << q->cluster_bits;
    to = MIN(end << q->cluster_bits, offset + length);
    r = drop_clusters(q, first, end, unmap ? DROP_ZERO : DROP_ZERO_KEEP);
    if (r == 0)
        r = zero_part(q, offset, from - offset);
    if (r == 0)
        r = zero_part(q, to, offset + length - to);
    return r < 0 ? r : qcow2_write_back(q);
}

int qcow2_cut(struct qcow2 *q, uint64_t first, uint64_t end)
{
    return drop_clusters(q, first, end, DROP_CUT);
}

int qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to)
{
    uint64_t first = qcow2_clusters(q, from), end = qcow2_clusters(q, to);
    int r = qcow2_touch(q);

    while (r == 0 && first < end) {
        struct placing p;

        pthread_mutex_lock(&q->lock);
        r = place_locked(q, first, end - first, &p);
        if (r == 0)
            r = placed_locked(q, &p, 0);
        pthread_mutex_unlock(&q->lock);
        first += p.guest.count;
        if (r == 0)
            r = qcow2_write_back(q);
    }
    return r;
}
