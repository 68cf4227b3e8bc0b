/*
 * qcow2_check.c - does every cluster have as many references as its count says, and is every
 * reference one that can be? What is wrong can be mended: counts follow the references, references
 * that lead nowhere are cut (and told), and counts whose own tables are damaged are made anew.
 *
 * A count that is too high is a leak: space, not data. One that is too low is a corruption, because
 * the cluster could be given to somebody else.
 */
#include "block/qcow2.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

struct check {
    struct qcow2 *q;
    struct block_check *c;
    uint32_t *counts; /* references found */
    uint64_t clusters;
    uint64_t next; /* where the next cluster would be if nothing were fragmented */
};

static void corrupt(struct check *k, bool mended)
{
    if (mended)
        k->c->corruptions_fixed++;
    else
        k->c->corruptions++;
}

/* References to [offset, +bytes). False: that is not in the file. */
static bool count(struct check *k, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset >> k->q->cluster_bits, last;

    if (!bytes)
        return true;
    last = (offset + bytes - 1) >> k->q->cluster_bits;
    if (last >= k->clusters)
        return false;
    for (; first <= last; first++)
        k->counts[first] += k->counts[first] != UINT32_MAX;
    return true;
}

/* One table of entries; `active`: of the disk as it is now. */
static int check_table(struct check *k, uint64_t table, uint64_t first_cluster, bool active)
{
    struct qcow2 *q = k->q;
    auto_free uint8_t *data = malloc(q->cluster_size);
    bool fix = k->c->fix & BLOCK_FIX_ERRORS, changed = false;
    int r = data ? block_read(q->node->file, table, data, q->cluster_size) : -ENOMEM;
    uint64_t disk = qcow2_clusters(q, q->node->size);

    for (uint64_t i = 0; r == 0 && i < BIT(q->l2_bits); i++) {
        uint64_t e = load_be(data + 8 * i, 8), offset, bytes;
        bool ok;

        if (e & QCOW2_COMPRESSED) {
            qcow2_compressed_range(q, e, &offset, &bytes);
            ok = !q->external && offset < q->node->file->size && count(k, offset, bytes);
            if (active && first_cluster + i < disk) {
                k->c->allocated++;
                k->c->compressed++;
                k->c->fragmented++; /* never in a row with its neighbours */
            }
        } else {
            offset = e & QCOW2_OFFSET_MASK;
            if (!offset)
                continue;
            ok = q->external ? !(offset & (q->cluster_size - 1))
                             : qcow2_offset_ok(q, offset) && count(k, offset, q->cluster_size);
            if (active && first_cluster + i < disk) {
                k->c->allocated++;
                k->c->fragmented += k->next && offset != k->next;
                k->next = offset + q->cluster_size;
            }
        }
        if (ok)
            continue;
        block_check_tell(k->c, "%s the cluster of guest offset 0x%llx: entry 0x%llx leads nowhere",
                         fix ? "cut off" : "corrupt",
                         (unsigned long long)(first_cluster + i) << q->cluster_bits,
                         (unsigned long long)e);
        corrupt(k, fix);
        if (fix) {
            store_be(data + 8 * i, q->version >= 3 ? QCOW2_ZERO : 0, 8);
            changed = true;
        }
    }
    if (r == 0 && changed)
        r = block_write(q->node->file, table, data, q->cluster_size);
    return r;
}

static int check_tree(struct check *k, uint64_t l1_offset, uint64_t *l1, uint32_t size, bool active)
{
    struct qcow2 *q = k->q;
    bool fix = k->c->fix & BLOCK_FIX_ERRORS;
    int r = 0;

    if (size && !count(k, l1_offset, (uint64_t)size * 8)) {
        block_check_tell(k->c, "corrupt: an L1 table at 0x%llx is behind the end of the file",
                         (unsigned long long)l1_offset);
        corrupt(k, false);
        return 0;
    }
    for (uint32_t i = 0; r == 0 && i < size; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;
        uint8_t zero[8] = {0};

        if (!table)
            continue;
        if (qcow2_offset_ok(q, table) && count(k, table, q->cluster_size)) {
            r = check_table(k, table, (uint64_t)i << q->l2_bits, active);
            if (r < 0) {
                block_check_tell(k->c, "cannot read the L2 table at 0x%llx",
                                 (unsigned long long)table);
                k->c->errors++;
                r = r == -ENOMEM ? r : 0;
            }
            continue;
        }
        block_check_tell(k->c, "%s entry %u of an L1 table, 0x%llx: it leads nowhere",
                         fix ? "cut off" : "corrupt:", i, (unsigned long long)l1[i]);
        corrupt(k, fix);
        if (fix) {
            l1[i] = 0;
            r = block_write(q->node->file, l1_offset + 8 * (uint64_t)i, zero, 8);
        }
    }
    return r;
}

static int check_bitmaps(struct check *k)
{
    struct qcow2 *q = k->q;
    int r = 0;

    if (!q->bitmap_count)
        return 0;
    if (!count(k, q->bitmaps_offset, q->bitmaps_bytes))
        corrupt(k, false);
    for (unsigned i = 0; r == 0 && i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        auto_free uint64_t *table = calloc((size_t)b->table_size + 1, 8);

        if (!table)
            return -ENOMEM;
        if (!count(k, b->table_offset, (uint64_t)b->table_size * 8)) {
            block_check_tell(k->c, "corrupt: the table of bitmap '%s'", b->name);
            corrupt(k, false);
            continue;
        }
        r = qcow2_read_table(q, b->table_offset, b->table_size, table);
        for (uint32_t e = 0; r == 0 && e < b->table_size; e++) {
            uint64_t offset = table[e] & QCOW2_OFFSET_MASK;

            if (offset && (!qcow2_offset_ok(q, offset) || !count(k, offset, q->cluster_size))) {
                block_check_tell(k->c, "corrupt: entry %u of bitmap '%s'", e, b->name);
                corrupt(k, false);
            }
        }
    }
    return r;
}

/* False: the tables of the counts themselves are damaged. */
static bool check_blocks(struct check *k)
{
    struct qcow2 *q = k->q;
    uint64_t rt_bytes = (uint64_t)q->rt_size * 8, rt_cluster = q->rt_offset >> q->cluster_bits;
    bool good = count(k, q->rt_offset, rt_bytes);

    for (uint64_t i = 0; good && i < qcow2_clusters(q, rt_bytes); i++)
        good = k->counts[rt_cluster + i] == 1;
    if (!good)
        block_check_tell(k->c, "corrupt: the refcount table at 0x%llx",
                         (unsigned long long)q->rt_offset);
    for (uint32_t i = 0; i < q->rt_size; i++) {
        if (!q->rt[i])
            continue;
        if (!qcow2_offset_ok(q, q->rt[i]) || !count(k, q->rt[i], q->cluster_size) ||
            k->counts[q->rt[i] >> q->cluster_bits] != 1) {
            block_check_tell(k->c, "corrupt: refcount block %u at 0x%llx", i,
                             (unsigned long long)q->rt[i]);
            good = false;
        }
    }
    /* A block that is made now would lie among the clusters it counts, and those are in use. */
    for (uint64_t i = 0; good && i < k->clusters; i++)
        if (k->counts[i] && (i >> q->block_bits >= q->rt_size || !q->rt[i >> q->block_bits])) {
            block_check_tell(k->c, "corrupt: cluster %llu is in use and has no refcount",
                             (unsigned long long)i);
            good = false;
        }
    return good;
}

static int compare_counts(struct check *k)
{
    struct qcow2 *q = k->q;
    uint64_t end = MAX(k->clusters, (uint64_t)q->rt_size << q->block_bits);
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < end; i++) {
        uint64_t have, want = i < k->clusters ? k->counts[i] : 0;
        bool leak, fix;

        if (i >> q->block_bits >= q->rt_size || !q->rt[i >> q->block_bits]) {
            if (i >= k->clusters) { /* nothing is counted in all of this block */
                i |= BIT(q->block_bits) - 1;
                continue;
            }
        }
        pthread_mutex_lock(&q->lock);
        r = qcow2_refcount_locked(q, i, &have);
        if (r == 0 && have)
            k->c->image_end = (i + 1) << q->cluster_bits;
        if (r == 0 && have != want) {
            leak = have > want;
            fix = k->c->fix & (leak ? BLOCK_FIX_LEAKS : BLOCK_FIX_ERRORS);
            if (fix) {
                r = qcow2_refcount_set_locked(q, i, want);
                if (r == -ERANGE) { /* more references than the count can say */
                    fix = false;
                    r = 0;
                }
            }
            block_check_tell(k->c, "%s%s cluster %llu: refcount %llu, references %llu",
                             fix ? "mended " : "", leak ? "leaked" : "corrupt",
                             (unsigned long long)i, (unsigned long long)have,
                             (unsigned long long)want);
            if (leak && fix)
                k->c->leaks_fixed++;
            else if (leak)
                k->c->leaks++;
            else
                corrupt(k, fix);
        }
        pthread_mutex_unlock(&q->lock);
        if (r == 0 && (i & 0xffff) == 0)
            r = qcow2_write_back(q);
    }
    return r;
}

/* COPIED says that the count is 1. Missing, it costs a copy; set wrongly, it costs a snapshot. */
static int check_copied_entry(struct check *k, const char *what, uint64_t at, uint64_t *entry,
                              bool *changed)
{
    struct qcow2 *q = k->q;
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, have;
    bool fix = k->c->fix & BLOCK_FIX_ERRORS;
    int r;

    if (!offset || *entry & QCOW2_COMPRESSED || !qcow2_offset_ok(q, offset))
        return 0;
    r = qcow2_refcount_locked(q, offset >> q->cluster_bits, &have);
    if (r < 0 || (have == 1) == !!(*entry & QCOW2_COPIED))
        return r;
    block_check_tell(k->c, "%s%s 0x%llx: COPIED is %s and the refcount %llu",
                     fix ? "mended: " : "corrupt: ", what, (unsigned long long)at,
                     *entry & QCOW2_COPIED ? "set" : "missing", (unsigned long long)have);
    corrupt(k, fix);
    if (fix) {
        *entry ^= QCOW2_COPIED;
        *changed = true;
    }
    return 0;
}

static int check_copied(struct check *k)
{
    struct qcow2 *q = k->q;
    auto_free uint8_t *data = malloc(q->cluster_size);
    bool l1_changed = false;
    int r = data ? 0 : -ENOMEM;

    pthread_mutex_lock(&q->lock);
    for (uint32_t i = 0; r == 0 && i < q->l1_size; i++) {
        uint64_t table = q->l1[i] & QCOW2_OFFSET_MASK;
        bool changed = false;

        if (!table || !qcow2_offset_ok(q, table))
            continue;
        r = check_copied_entry(k, "L1 entry", i, &q->l1[i], &l1_changed);
        if (r == 0)
            r = block_read(q->node->file, table, data, q->cluster_size);
        for (uint64_t e = 0; r == 0 && !q->external && e < BIT(q->l2_bits); e++) {
            uint64_t entry = load_be(data + 8 * e, 8);

            r = check_copied_entry(k, "guest offset",
                                   (((uint64_t)i << q->l2_bits) + e) << q->cluster_bits, &entry,
                                   &changed);
            store_be(data + 8 * e, entry, 8);
        }
        if (r == 0 && changed)
            r = block_write(q->node->file, table, data, q->cluster_size);
    }
    if (r == 0 && l1_changed)
        r = qcow2_write_table(q, q->l1_offset, q->l1_size, q->l1);
    pthread_mutex_unlock(&q->lock);
    return r;
}

static int check_references(struct check *k)
{
    struct qcow2 *q = k->q;
    int r;

    count(k, 0, q->cluster_size);
    r = check_tree(k, q->l1_offset, q->l1, q->l1_size, true);
    if (r == 0 && !count(k, q->snapshots_offset, q->snapshots_bytes))
        corrupt(k, false);
    for (uint32_t i = 0; r == 0 && i < q->snapshot_count; i++) {
        struct qcow2_snapshot *s = &q->snapshots[i];
        auto_free uint64_t *l1 = NULL;

        if (s->l1_offset > q->node->file->size || (uint64_t)s->l1_size * 8 > q->node->file->size) {
            block_check_tell(k->c, "corrupt: the L1 table of snapshot '%s'", s->pub.name);
            corrupt(k, false);
            continue;
        }
        l1 = calloc((size_t)s->l1_size + 1, 8);
        r = l1 ? qcow2_read_table(q, s->l1_offset, s->l1_size, l1) : -ENOMEM;
        if (r == 0)
            r = check_tree(k, s->l1_offset, l1, s->l1_size, false);
    }
    return r < 0 ? r : check_bitmaps(k);
}

static int run(struct check *k)
{
    struct qcow2 *q = k->q;
    auto_free uint32_t *without = NULL;
    int r = check_references(k);

    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    qcow2_drop_tables_locked(q, false); /* mended ones are in the file */
    pthread_mutex_unlock(&q->lock);
    without = malloc(k->clusters * sizeof(*without));
    if (!without)
        return -ENOMEM;
    memcpy(without, k->counts, k->clusters * sizeof(*without));
    if (!check_blocks(k)) {
        bool fix = k->c->fix & BLOCK_FIX_ERRORS;

        corrupt(k, fix);
        if (!fix)
            return 0;
        block_check_tell(k->c, "making all refcounts anew");
        r = qcow2_refcount_rebuild(q, without, k->clusters);
        atomic_store(&q->broken, false);
    } else {
        r = compare_counts(k);
    }
    if (r == 0)
        r = check_copied(k);
    return r;
}

/* One pass; `c` says what to mend and gets the counts. */
static int pass(struct qcow2 *q, struct block_check *c, struct error *err)
{
    struct check k = {.q = q, .c = c};
    int r;

    c->clusters = qcow2_clusters(q, q->node->size);
    c->allocated = c->compressed = c->fragmented = 0;
    k.clusters = qcow2_clusters(q, q->node->file->size);
    if (k.clusters > UINT32_MAX)
        return error_set(err, EFBIG, "'%s' has %llu clusters, more than can be checked",
                         q->node->filename, (unsigned long long)k.clusters);
    k.counts = calloc(k.clusters + 1, sizeof(*k.counts));
    if (!k.counts)
        return error_set(err, ENOMEM, "no memory to check '%s'", q->node->filename);
    r = run(&k);
    free(k.counts);
    return r < 0 ? error_set_errno(err, -r, "cannot check '%s'", q->node->filename) : 0;
}

/* Tables that share bytes change each other when mended: look again at what is in the file. */
static int look_again(struct qcow2 *q, struct block_check *c, struct error *err)
{
    struct block_check again = {0};
    int r = qcow2_settle(q);

    if (r == 0) {
        pthread_mutex_lock(&q->lock);
        qcow2_drop_tables_locked(q, true);
        qcow2_drop_tables_locked(q, false);
        r = qcow2_read_table(q, q->l1_offset, q->l1_size, q->l1);
        if (r == 0)
            r = qcow2_read_table(q, q->rt_offset, q->rt_size, q->rt);
        pthread_mutex_unlock(&q->lock);
    }
    if (r < 0)
        return error_set_errno(err, -r, "cannot mend '%s'", q->node->filename);
    r = pass(q, &again, err);
    c->corruptions = again.corruptions;
    c->leaks = again.leaks;
    c->errors = again.errors;
    return r;
}

int qcow2_check(struct block_node *n, struct block_check *c, struct error *err)
{
    enum { PASSES = 4 };
    struct qcow2 *q = n->state;
    unsigned fix = c->fix, passes = 0;
    int r = 0;

    if (fix && !(n->flags & BLOCK_WRITE))
        return error_set(err, EROFS, "'%s' is open read-only and cannot be mended", n->filename);
    if (n->flags & BLOCK_WRITE)
        r = qcow2_settle(q);
    if (r < 0)
        return error_set_errno(err, -r, "cannot write '%s'", n->filename);
    *c = (struct block_check){.fix = fix, .tell = c->tell, .opaque = c->opaque};
    do {
        r = pass(q, c, err);
        if (r == 0 && fix && (c->corruptions_fixed || c->leaks_fixed))
            r = look_again(q, c, err);
    } while (r == 0 && fix & BLOCK_FIX_ERRORS && c->corruptions + c->leaks && ++passes < PASSES);
    if (r < 0 || !fix)
        return r;
    r = qcow2_settle(q);
    if (r == 0 && !c->corruptions && !c->errors && fix & BLOCK_FIX_ERRORS) {
        atomic_store(&q->broken, false);
        if (q->incompatible & (QCOW2_DIRTY | QCOW2_CORRUPT)) {
            q->incompatible &= ~(uint64_t)(QCOW2_DIRTY | QCOW2_CORRUPT);
            r = qcow2_header_write(q);
            if (r == 0)
                r = block_flush(n->file);
        }
    }
    atomic_store(&q->touched, false);
    return r < 0 ? error_set_errno(err, -r, "cannot mend '%s'", n->filename) : 0;
}
