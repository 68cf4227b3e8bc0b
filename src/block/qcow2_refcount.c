/*
 * qcow2_refcount.c - reference counts, allocation, the cache of tables, and the flush that puts
 * everything into the file in an order that survives a power cut (qcow2.h).
 *
 * The cache is written back only by a flush, because only a flush keeps the order. When all cached
 * tables are dirty it grows beyond its limit; qcow2_write_back(), which every changing request
 * calls when it no longer holds the lock, brings it back.
 */
#include "block/qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* ---- tables -----------------------------------------------------------------------------------
 */

static struct qcow2_table **slot_of(struct qcow2 *q, bool refcounts, uint32_t index)
{
    return refcounts ? &q->blocks[index] : &q->l2[index];
}

static void forget(struct qcow2 *q, unsigned at)
{
    struct qcow2_table *t = q->tables[at];

    *slot_of(q, t->refcounts, t->index) = NULL;
    q->tables[at] = q->tables[--q->table_count];
    free(t->data);
    free(t);
}

/* Room for one more: the clean table that was used longest ago goes, if there are enough. */
static struct qcow2_table *table_room(struct qcow2 *q)
{
    struct qcow2_table *t;

    if (q->table_count >= q->table_limit) {
        unsigned oldest = UINT32_MAX;
        uint64_t age = q->age - 3; /* a caller may hold the last two */

        for (unsigned i = 0; i < q->table_count; i++)
            if (!q->tables[i]->high && !q->tables[i]->writing && q->tables[i]->age < age) {
                age = q->tables[i]->age;
                oldest = i;
            }
        if (oldest != UINT32_MAX)
            forget(q, oldest);
    }
    if (q->table_count == q->table_room) {
        unsigned room = q->table_room ? 2 * q->table_room : 64;
        struct qcow2_table **tables = realloc(q->tables, room * sizeof(*tables));

        if (!tables)
            return NULL;
        q->tables = tables;
        q->table_room = room;
    }
    t = calloc(1, sizeof(*t));
    if (t && !(t->data = aligned_alloc(4096, align_up(q->cluster_size, 4096)))) {
        free(t);
        t = NULL;
    }
    return t;
}

static int table_add(struct qcow2 *q, bool refcounts, uint32_t index, uint64_t offset, bool load,
                     struct qcow2_table **out)
{
    struct qcow2_table *t;
    int r = 0;

    if (!qcow2_offset_ok(q, offset))
        return qcow2_damaged(q, "%s %u is at offset 0x%llx",
                             refcounts ? "refcount block" : "L2 table", index,
                             (unsigned long long)offset);
    t = table_room(q);
    if (!t)
        return -ENOMEM;
    if (load)
        r = block_read(q->node->file, offset, t->data, q->cluster_size);
    else
        memset(t->data, 0, q->cluster_size);
    if (r < 0) {
        free(t->data);
        free(t);
        return r;
    }
    t->refcounts = refcounts;
    t->index = index;
    t->offset = offset;
    t->fresh = !load;
    t->age = ++q->age;
    q->tables[q->table_count++] = t;
    *slot_of(q, refcounts, index) = t;
    *out = t;
    return 0;
}

int qcow2_table_get_locked(struct qcow2 *q, bool refcounts, uint32_t index, uint64_t offset,
                           struct qcow2_table **out)
{
    struct qcow2_table *t = *slot_of(q, refcounts, index);

    if (!t)
        return table_add(q, refcounts, index, offset, true, out);
    t->age = ++q->age;
    *out = t;
    return 0;
}

/* A table of zeros at a new place; the old one of that index is forgotten. */
int qcow2_table_new_locked(struct qcow2 *q, bool refcounts, uint32_t index, uint64_t offset,
                           struct qcow2_table **out)
{
    assert(!*slot_of(q, refcounts, index));
    return table_add(q, refcounts, index, offset, false, out);
}

void qcow2_table_dirty_locked(struct qcow2 *q, struct qcow2_table *t, uint32_t low, uint32_t high)
{
    if (!t->high) {
        t->low = low;
        t->high = high;
        q->table_dirty++;
    }
    t->low = MIN(t->low, low);
    t->high = MAX(t->high, high);
}

void qcow2_l1_dirty_locked(struct qcow2 *q, uint32_t index)
{
    q->l1_low = q->l1_high ? MIN(q->l1_low, index) : index;
    q->l1_high = MAX(q->l1_high, index + 1);
}

static void rt_dirty(struct qcow2 *q, uint32_t index)
{
    q->rt_low = q->rt_high ? MIN(q->rt_low, index) : index;
    q->rt_high = MAX(q->rt_high, index + 1);
}

void qcow2_drop_tables_locked(struct qcow2 *q, bool refcounts)
{
    for (unsigned i = 0; i < q->table_count;) {
        if (q->tables[i]->refcounts != refcounts) {
            i++;
            continue;
        }
        if (q->tables[i]->high)
            q->table_dirty--;
        forget(q, i);
    }
}

/* ---- counts -----------------------------------------------------------------------------------
 */

static uint64_t count_max(const struct qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : BIT(1u << q->refcount_order) - 1;
}

static uint64_t count_get(const struct qcow2 *q, const uint8_t *data, uint64_t i)
{
    unsigned order = q->refcount_order;

    if (order < 3) {
        unsigned bits = 1u << order;

        return data[i >> (3 - order)] >> (i % (8 / bits) * bits) & ((1u << bits) - 1);
    }
    return load_be(data + (i << (order - 3)), 1u << (order - 3));
}

static void count_set(struct qcow2 *q, struct qcow2_table *t, uint64_t i, uint64_t value)
{
    unsigned order = q->refcount_order;
    uint32_t at;

    if (order < 3) {
        unsigned bits = 1u << order, shift = (unsigned)(i % (8 / bits) * bits);

        at = (uint32_t)(i >> (3 - order));
        t->data[at] = (uint8_t)bits_set(t->data[at], shift, bits, value);
        qcow2_table_dirty_locked(q, t, at, at + 1);
        return;
    }
    at = (uint32_t)(i << (order - 3));
    store_be(t->data + at, value, 1u << (order - 3));
    qcow2_table_dirty_locked(q, t, at, at + (1u << (order - 3)));
}

int qcow2_refcount_locked(struct qcow2 *q, uint64_t cluster, uint64_t *out)
{
    uint64_t index = cluster >> q->block_bits;
    struct qcow2_table *t;
    int r;

    if (index >= q->rt_size || !q->rt[index]) {
        *out = 0;
        return 0;
    }
    r = qcow2_table_get_locked(q, true, (uint32_t)index, q->rt[index], &t);
    if (r == 0)
        *out = count_get(q, t->data, cluster & (BIT(q->block_bits) - 1));
    return r;
}

/*
 * A larger refcount table. It goes behind everything that the old one could describe, with the
 * blocks that describe that place, so that no allocation is needed: [blocks][table].
 */
static int grow_table(struct qcow2 *q, uint64_t wanted)
{
    uint64_t per = BIT(q->block_bits), start = (uint64_t)q->rt_size << q->block_bits;
    uint64_t size, table_clusters, blocks = 1, total, *rt, *old = q->rt, old_offset = q->rt_offset;
    struct qcow2_table **slots;
    uint32_t old_size = q->rt_size;
    int r;

    wanted = MAX(wanted, (uint64_t)q->rt_size + q->rt_size / 2);
    for (;;) {
        size = wanted + blocks;
        table_clusters = qcow2_clusters(q, size * 8);
        total = blocks + table_clusters;
        if (blocks * per >= total)
            break;
        blocks = (total + per - 1) / per;
    }
    size = table_clusters << (q->cluster_bits - 3);
    if (size > UINT32_MAX / 8 || (start + total) << q->cluster_bits >= BIT(56))
        return -EFBIG;
    rt = calloc(size, 8);
    slots = calloc(size, sizeof(*slots));
    if (!rt || !slots) {
        free(rt);
        free(slots);
        return -ENOMEM;
    }
    memcpy(rt, q->rt, (size_t)q->rt_size * 8);
    memcpy(slots, q->blocks, (size_t)q->rt_size * sizeof(*slots));
    free(q->blocks);
    q->blocks = slots;
    q->rt = rt;
    q->rt_size = (uint32_t)size;
    r = 0;
    for (uint64_t i = 0; r == 0 && i < blocks; i++) {
        struct qcow2_table *t;

        rt[old_size + i] = (start + i) << q->cluster_bits;
        r = qcow2_table_new_locked(q, true, (uint32_t)(old_size + i), rt[old_size + i], &t);
        for (uint64_t c = i * per; r == 0 && c < MIN((i + 1) * per, total); c++)
            count_set(q, t, c - i * per, 1);
    }
    /* Everything that the new table will name goes to the file before it. */
    for (unsigned i = 0; r == 0 && i < q->table_count; i++)
        if (q->tables[i]->refcounts && q->tables[i]->fresh)
            r = block_write(q->node->file, q->tables[i]->offset, q->tables[i]->data,
                            q->cluster_size);
    if (r == 0)
        r = block_write_zeroes(q->node->file, (start + blocks) << q->cluster_bits,
                               table_clusters << q->cluster_bits, false);
    if (r == 0)
        r = qcow2_write_table(q, (start + blocks) << q->cluster_bits, (uint32_t)size, rt);
    if (r == 0)
        r = block_flush(q->node->file);
    if (r == 0) {
        q->rt_offset = (start + blocks) << q->cluster_bits;
        r = qcow2_header_write(q);
        if (r == 0)
            r = block_flush(q->node->file);
    }
    if (r < 0) {
        atomic_store(&q->broken, true); /* memory and file no longer agree */
        free(old);
        return r;
    }
    for (unsigned i = 0; i < q->table_count; i++)
        if (q->tables[i]->refcounts)
            q->tables[i]->fresh = false;
    q->rt_low = q->rt_high = 0;
    q->fresh_from = MAX(q->fresh_from, start + total);
    qcow2_free_locked(q, old_offset, (uint64_t)old_size * 8);
    free(old);
    return 0;
}

/* An image whose counts are wrong must not make us write over its own tables. */
static bool in_use_by_tables(const struct qcow2 *q, uint64_t cluster)
{
    uint64_t at = cluster << q->cluster_bits, index = cluster >> q->block_bits;

    return at == 0 || ranges_overlap(at, q->cluster_size, q->l1_offset, (uint64_t)q->l1_size * 8) ||
           ranges_overlap(at, q->cluster_size, q->rt_offset, (uint64_t)q->rt_size * 8) ||
           (index < q->rt_size && q->rt[index] == at) ||
           ranges_overlap(at, q->cluster_size, q->snapshots_offset, q->snapshots_bytes);
}

/* The block that counts `cluster`, made where there is none: it then counts itself, lying at the
 * first cluster it describes that nobody else can have got. */
static int block_for(struct qcow2 *q, uint64_t cluster, struct qcow2_table **out)
{
    uint64_t index = cluster >> q->block_bits, own;
    int r;

    if (index >= q->rt_size) {
        r = grow_table(q, index + 1);
        if (r < 0)
            return r;
    }
    if (q->rt[index])
        return qcow2_table_get_locked(q, true, (uint32_t)index, q->rt[index], out);
    own = index << q->block_bits;
    if (in_use_by_tables(q, own))
        return qcow2_damaged(q, "refcount block %llu is missing", (unsigned long long)index);
    r = qcow2_table_new_locked(q, true, (uint32_t)index, own << q->cluster_bits, out);
    if (r < 0)
        return r;
    q->rt[index] = own << q->cluster_bits;
    q->fresh_from = MAX(q->fresh_from, own + 1);
    rt_dirty(q, (uint32_t)index);
    count_set(q, *out, 0, 1);
    qcow2_table_dirty_locked(q, *out, 0, (uint32_t)q->cluster_size);
    return 0;
}

int qcow2_refcount_set_locked(struct qcow2 *q, uint64_t cluster, uint64_t value)
{
    struct qcow2_table *t;
    int r = block_for(q, cluster, &t);

    if (r < 0)
        return r;
    if (value > count_max(q))
        return -ERANGE;
    count_set(q, t, cluster & (BIT(q->block_bits) - 1), value);
    if (value == 0)
        q->free_hint = MIN(q->free_hint, cluster);
    return 0;
}

int qcow2_refcount_add_locked(struct qcow2 *q, uint64_t cluster, uint64_t count, int64_t add)
{
    uint64_t value;
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < count; i++) {
        struct qcow2_table *t;
        uint64_t at = (cluster + i) & (BIT(q->block_bits) - 1);

        r = block_for(q, cluster + i, &t);
        if (r < 0)
            break;
        value = count_get(q, t->data, at);
        if (add < 0 ? value < (uint64_t)-add : value > count_max(q) - (uint64_t)add) {
            r = add < 0 ? qcow2_damaged(q, "cluster 0x%llx is freed, but its refcount is %llu",
                                        (unsigned long long)(cluster + i) << q->cluster_bits,
                                        (unsigned long long)value)
                        : -ERANGE;
            break;
        }
        count_set(q, t, at, value + (uint64_t)add);
        if (value + (uint64_t)add == 0)
            q->free_hint = MIN(q->free_hint, cluster + i);
    }
    return r;
}

/* ---- allocation -------------------------------------------------------------------------------
 */

int qcow2_allocate_locked(struct qcow2 *q, uint64_t count, bool exactly, uint64_t *first,
                          uint64_t *got)
{
    uint64_t at = q->free_hint, run = 0, limit = BIT(56) >> q->cluster_bits, value;
    bool skipped = false;
    int r;

    if (atomic_load(&q->broken))
        return -EIO;
    while (run < count) {
        struct qcow2_table *t;

        if (at >= limit)
            return -EFBIG;
        r = block_for(q, at, &t); /* may itself take clusters: look at the count after it */
        if (r < 0)
            return r;
        value = count_get(q, t->data, at & (BIT(q->block_bits) - 1));
        at++;
        if (value == 0) {
            run++;
            continue;
        }
        if (run && !exactly)
            break;
        skipped |= run != 0;
        run = 0;
        if (!skipped)
            q->free_hint = at;
        continue;
    }
    at = value == 0 ? at - run : at - 1 - run;
    for (uint64_t i = 0; i < run; i++)
        if (in_use_by_tables(q, at + i))
            return qcow2_damaged(q, "cluster 0x%llx has refcount 0 and is in use",
                                 (unsigned long long)(at + i) << q->cluster_bits);
    r = qcow2_refcount_add_locked(q, at, run, 1);
    if (r < 0)
        return r;
    if (!skipped)
        q->free_hint = at + run;
    *first = at;
    *got = run;
    return 0;
}

static void frees_add(struct qcow2_frees *f, uint64_t start, uint64_t count)
{
    struct qcow2_range *last = f->count ? &f->range[f->count - 1] : NULL;

    if (last && last->start + last->count == start) {
        last->count += count;
        return;
    }
    if (f->count == f->room) {
        size_t room = f->room ? 2 * f->room : 64;
        struct qcow2_range *range = realloc(f->range, room * sizeof(*range));

        if (!range)
            return; /* a leak, which is the lesser evil */
        f->range = range;
        f->room = room;
    }
    f->range[f->count++] = (struct qcow2_range){start, count};
}

static void frees_move(struct qcow2_frees *to, struct qcow2_frees *from)
{
    for (size_t i = 0; i < from->count; i++)
        frees_add(to, from->range[i].start, from->range[i].count);
    from->count = 0;
}

void qcow2_free_locked(struct qcow2 *q, uint64_t offset, uint64_t bytes)
{
    uint64_t start = offset >> q->cluster_bits;

    if (bytes)
        frees_add(&q->leaving, start, ((offset + bytes - 1) >> q->cluster_bits) - start + 1);
}

void qcow2_free_entry_locked(struct qcow2 *q, uint64_t entry)
{
    uint64_t offset, bytes;

    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_range(q, entry, &offset, &bytes);
        qcow2_free_locked(q, offset, bytes);
    } else if (entry & QCOW2_OFFSET_MASK && !q->external) {
        qcow2_free_locked(q, entry & QCOW2_OFFSET_MASK, q->cluster_size);
    }
}

/* The counts go down; what nobody refers to any more is given back to the host. */
static int release(struct qcow2 *q, struct qcow2_frees *f)
{
    int r = 0;

    atomic_fetch_add(&q->generation, 1);
    for (size_t i = 0; i < f->count; i++) {
        struct qcow2_range *g = &f->range[i];
        uint64_t run = 0;

        for (uint64_t k = 0; r == 0 && k < g->count; k++) {
            uint64_t value = 1;

            r = qcow2_refcount_add_locked(q, g->start + k, 1, -1);
            if (r == 0)
                r = qcow2_refcount_locked(q, g->start + k, &value);
            if (value == 0 && (g->start + k) == q->pack_at >> q->cluster_bits)
                q->pack_at = 0;
            run = value == 0 ? run + 1 : 0;
            if (run && (k + 1 == g->count || run == 1024) && q->node->flags & BLOCK_UNMAP) {
                block_discard(q->node->file, (g->start + k + 1 - run) << q->cluster_bits,
                              run << q->cluster_bits);
                run = 0;
            }
        }
    }
    f->count = 0;
    return r;
}

/* ---- flush ------------------------------------------------------------------------------------
 */

struct job {
    struct qcow2_table *table; /* NULL: L1 or refcount table */
    uint64_t offset;
    uint32_t low, length;
    uint8_t *data;
    bool fresh;
};

struct jobs {
    struct job *job;
    size_t count;
};

static int take_table(struct jobs *j, struct qcow2 *q, struct qcow2_table *t)
{
    uint32_t low = (uint32_t)align_down(t->low, BLOCK_SECTOR);
    uint32_t high = (uint32_t)align_up(t->high, BLOCK_SECTOR);
    uint8_t *copy;

    if (t->fresh) {
        low = 0;
        high = (uint32_t)q->cluster_size;
    }
    copy = malloc(high - low);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, t->data + low, high - low);
    j->job[j->count++] = (struct job){.table = t,
                                      .offset = t->offset + low,
                                      .low = low,
                                      .length = high - low,
                                      .data = copy,
                                      .fresh = t->fresh};
    t->high = 0;
    t->writing = true;
    q->table_dirty--;
    return 0;
}

static int take_array(struct job *j, uint64_t offset, const uint64_t *array, uint32_t *low,
                      uint32_t *high)
{
    uint32_t n = *high - *low;

    j->data = malloc((size_t)n * 8);
    if (!j->data)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        store_be(j->data + 8 * (size_t)i, array[*low + i], 8);
    j->offset = offset + 8 * (uint64_t)*low;
    j->low = *low;
    j->length = n * 8;
    *low = *high = 0;
    return 0;
}

static int write_jobs(struct qcow2 *q, const struct jobs *j)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < j->count; i++)
        r = block_write(q->node->file, j->job[i].offset, j->job[i].data, j->job[i].length);
    return r;
}

static void end_jobs(struct qcow2 *q, struct jobs *j, int r)
{
    for (size_t i = 0; i < j->count; i++) {
        struct job *k = &j->job[i];

        k->table->writing = false;
        if (r < 0)
            qcow2_table_dirty_locked(q, k->table, k->low, k->low + k->length);
        else if (k->fresh)
            k->table->fresh = false;
        free(k->data);
    }
    free(j->job);
}

/* All that is dirty, copied; then, without the lock, written in order. */
static int flush_tables(struct qcow2 *q, bool refcounts)
{
    struct jobs counts = {0}, tables = {0};
    struct job rt = {0}, l1 = {0};
    struct block_node *file = q->node->file;
    int r = 0;

    counts.job = calloc(q->table_dirty + 1, sizeof(struct job));
    tables.job = calloc(q->table_dirty + 1, sizeof(struct job));
    if (!counts.job || !tables.job) {
        free(counts.job);
        free(tables.job);
        return -ENOMEM;
    }
    for (unsigned i = 0; r == 0 && i < q->table_count; i++) {
        struct qcow2_table *t = q->tables[i];

        if (t->high && (!t->refcounts || refcounts || t->fresh))
            r = take_table(t->refcounts ? &counts : &tables, q, t);
    }
    if (r == 0 && q->rt_high)
        r = take_array(&rt, q->rt_offset, q->rt, &q->rt_low, &q->rt_high);
    if (r == 0 && q->l1_high)
        r = take_array(&l1, q->l1_offset, q->l1, &q->l1_low, &q->l1_high);
    pthread_mutex_unlock(&q->lock);
    if (r == 0)
        r = write_jobs(q, &counts);
    if (r == 0 && rt.data) {
        r = block_flush(file);
        if (r == 0)
            r = block_write(file, rt.offset, rt.data, rt.length);
    }
    if (r == 0)
        r = block_flush(q->data);
    if (r == 0 && q->data != file)
        r = block_flush(file);
    if (r == 0 && tables.count)
        r = write_jobs(q, &tables);
    if (r == 0 && l1.data) {
        r = block_flush(file);
        if (r == 0)
            r = block_write(file, l1.offset, l1.data, l1.length);
    }
    if (r == 0 && (tables.count || l1.data))
        r = block_flush(file);
    pthread_mutex_lock(&q->lock);
    if (r < 0 && rt.data) {
        rt_dirty(q, rt.low);
        rt_dirty(q, rt.low + rt.length / 8 - 1);
    }
    if (r < 0 && l1.data) {
        qcow2_l1_dirty_locked(q, l1.low);
        qcow2_l1_dirty_locked(q, l1.low + l1.length / 8 - 1);
    }
    end_jobs(q, &counts, r);
    end_jobs(q, &tables, r);
    free(rt.data);
    free(l1.data);
    return r;
}

static int flush_all(struct qcow2 *q, bool refcounts)
{
    struct qcow2_frees leaving;
    int r;

    pthread_mutex_lock(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
    leaving = q->leaving;
    q->leaving = (struct qcow2_frees){0};
    if (q->table_dirty || q->l1_high || q->rt_high) {
        r = flush_tables(q, refcounts);
    } else {
        pthread_mutex_unlock(&q->lock);
        r = block_flush(q->data);
        if (r == 0 && q->data != q->node->file)
            r = block_flush(q->node->file);
        pthread_mutex_lock(&q->lock);
    }
    frees_move(r == 0 ? &q->aging : &q->leaving, &leaving);
    free(leaving.range);
    for (unsigned i = 0; r == 0 && i < 2 && q->aging.count + q->aged.count; i++)
        if (block_quiesced(q->node)) {
            r = release(q, &q->aged);
            frees_move(&q->aged, &q->aging);
        }
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->flush_lock);
    return r;
}

int qcow2_flush(struct block_node *n)
{
    struct qcow2 *q = n->state;

    return flush_all(q, !(q->incompatible & QCOW2_DIRTY));
}

int qcow2_settle(struct qcow2 *q)
{
    int r = flush_all(q, true); /* the references; nobody being there, the counts go down */

    return r < 0 ? r : flush_all(q, true);
}

int qcow2_write_back(struct qcow2 *q)
{
    bool full;

    pthread_mutex_lock(&q->lock);
    full = q->table_dirty > q->table_limit / 2 || q->table_count > 2 * q->table_limit ||
           q->leaving.count > 65536;
    pthread_mutex_unlock(&q->lock);
    return full ? flush_all(q, true) : 0;
}

/* ---- anew -------------------------------------------------------------------------------------
 */

int qcow2_refcount_rebuild(struct qcow2 *q, const uint32_t *counts, uint64_t clusters)
{
    uint64_t per = BIT(q->block_bits), blocks = 1, table = 1, total;
    auto_free uint64_t *rt = NULL;
    auto_free uint8_t *data = malloc(q->cluster_size);
    struct qcow2_table t = {.data = data};
    uint32_t entries;
    int r = 0;

    if (!data)
        return -ENOMEM;
    while (clusters && !counts[clusters - 1])
        clusters--;
    do {
        total = clusters + blocks + table;
        blocks = (total + per - 1) / per;
        table = qcow2_clusters(q, blocks * 8);
    } while (clusters + blocks + table > total);
    entries = (uint32_t)(table << (q->cluster_bits - 3));
    rt = calloc(entries, 8);
    if (!rt)
        return -ENOMEM;
    for (uint64_t b = 0; r == 0 && b < blocks; b++) {
        unsigned dirty = q->table_dirty;

        memset(data, 0, q->cluster_size);
        for (uint64_t i = 0; i < per && b * per + i < total; i++) {
            uint64_t c = b * per + i;

            count_set(q, &t, i, c < clusters ? MIN(counts[c], count_max(q)) : 1);
        }
        q->table_dirty = dirty; /* `t` is not in the cache */
        t.high = 0;
        rt[b] = (clusters + b) << q->cluster_bits;
        r = block_write(q->node->file, rt[b], data, q->cluster_size);
    }
    if (r == 0)
        r = qcow2_write_table(q, (clusters + blocks) << q->cluster_bits, entries, rt);
    if (r == 0)
        r = block_flush(q->node->file);
    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    qcow2_drop_tables_locked(q, true);
    free(q->rt);
    free(q->blocks);
    q->rt = xcalloc(entries, 8);
    q->blocks = xcalloc(entries, sizeof(*q->blocks));
    memcpy(q->rt, rt, (size_t)entries * 8);
    q->rt_size = entries;
    q->rt_offset = (clusters + blocks) << q->cluster_bits;
    q->rt_low = q->rt_high = 0;
    q->free_hint = 0;
    q->pack_at = 0;
    q->fresh_from = MAX(q->fresh_from, clusters + blocks + table);
    r = qcow2_header_write(q);
    pthread_mutex_unlock(&q->lock);
    return r < 0 ? r : block_flush(q->node->file);
}
