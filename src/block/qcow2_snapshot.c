/*
 * qcow2_snapshot.c - internal snapshots: a copy of the L1 table and one more reference on all it
 * leads to. Nobody else uses the node meanwhile.
 *
 * The order of steps is such that a power cut between any two leaves lost space or a flag that is
 * too careful (COPIED missing), and never two owners of one cluster who both write it:
 * COPIED off, counts up, table, header; and the other way round when one goes.
 */
#include "block/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ENTRY = 40, EXTRA = 24, TABLE_MAX = 64 * MiB };

void qcow2_snapshots_free(struct qcow2 *q)
{
    for (uint32_t i = 0; q->snapshots && i < q->snapshot_count; i++)
        free(q->snapshots[i].extra);
    free(q->snapshots);
    q->snapshots = NULL;
}

static void copy_text(char *out, size_t room, const uint8_t *from, size_t length)
{
    length = MIN(length, room - 1);
    memcpy(out, from, length);
    out[length] = '\0';
}

static int load_one(struct qcow2 *q, struct qcow2_snapshot *s, uint64_t *at)
{
    struct block_node *file = q->node->file;
    uint8_t fixed[ENTRY], text[512];
    uint64_t end = file->size, base = q->snapshots_offset;
    uint32_t id_length, name_length;
    int r;

    if (!range_within(base + *at, ENTRY, end))
        return -EINVAL;
    r = block_read(file, base + *at, fixed, ENTRY);
    if (r < 0)
        return r;
    s->l1_offset = load_be(fixed, 8);
    s->l1_size = (uint32_t)load_be(fixed + 8, 4);
    id_length = (uint32_t)load_be(fixed + 12, 2);
    name_length = (uint32_t)load_be(fixed + 14, 2);
    s->pub.date_sec = load_be(fixed + 16, 4);
    s->pub.date_nsec = (uint32_t)load_be(fixed + 20, 4);
    s->pub.vm_clock_nsec = load_be(fixed + 24, 8);
    s->pub.vm_state_size = load_be(fixed + 32, 4);
    s->pub.disk_size = q->node->size;
    s->extra_size = (uint32_t)load_be(fixed + 36, 4);
    if (s->extra_size > 1024 || s->l1_size > QCOW2_L1_MAX ||
        (s->l1_size && !qcow2_offset_ok(q, s->l1_offset)) ||
        !range_within(base + *at, ENTRY + s->extra_size + id_length + name_length, end))
        return -EINVAL;
    s->extra = xcalloc(1, s->extra_size);
    r = block_read(file, base + *at + ENTRY, s->extra, s->extra_size);
    if (s->extra_size >= 8)
        s->pub.vm_state_size = load_be(s->extra, 8);
    if (s->extra_size >= 16)
        s->pub.disk_size = load_be(s->extra + 8, 8);
    if (s->pub.disk_size > BLOCK_SIZE_MAX)
        return -EINVAL;
    *at += ENTRY + s->extra_size;
    if (r == 0)
        r = block_read(file, base + *at, text, MIN(id_length, sizeof(text)));
    copy_text(s->pub.id, sizeof(s->pub.id), text, MIN(id_length, sizeof(text)));
    *at += id_length;
    if (r == 0)
        r = block_read(file, base + *at, text, MIN(name_length, sizeof(text)));
    copy_text(s->pub.name, sizeof(s->pub.name), text, MIN(name_length, sizeof(text)));
    *at = align_up(*at + name_length, 8);
    return *at > TABLE_MAX ? -EFBIG : r;
}

int qcow2_snapshots_load(struct qcow2 *q, struct error *err)
{
    uint32_t count = q->snapshot_count;
    uint64_t at = 0;

    q->snapshots = calloc(count + 1, sizeof(*q->snapshots));
    if (!q->snapshots)
        return error_set(err, ENOMEM, "no memory for the snapshots of '%s'", q->node->filename);
    for (q->snapshot_count = 0; q->snapshot_count < count;) {
        struct qcow2_snapshot *s = &q->snapshots[q->snapshot_count++];

        if (load_one(q, s, &at) < 0)
            return error_set(err, EINVAL, "'%s': snapshot %u of %u in its table is damaged",
                             q->node->filename, q->snapshot_count, count);
    }
    q->snapshots_bytes = at;
    return 0;
}

/* ---- trees ------------------------------------------------------------------------------------
 */

enum walk { WALK_ADD, WALK_UNDO, WALK_FREE };

/* One table and what it refers to; *budget counts references for WALK_UNDO. */
static int walk_table(struct qcow2 *q, uint64_t table, const uint8_t *data, enum walk what,
                      uint64_t *budget)
{
    int r = 0;

    for (uint64_t i = 0; r == 0 && i <= BIT(q->l2_bits); i++) {
        bool self = i == BIT(q->l2_bits);
        uint64_t e = self ? table : load_be(data + 8 * i, 8), offset, bytes;

        if (!self && e & QCOW2_COMPRESSED) {
            qcow2_compressed_range(q, e, &offset, &bytes);
        } else {
            offset = e & QCOW2_OFFSET_MASK;
            bytes = q->cluster_size;
            if (!offset || (q->external && !self))
                continue;
            if (!qcow2_offset_ok(q, offset))
                return qcow2_damaged(q, "entry 0x%llx of an L2 table", (unsigned long long)e);
        }
        if (what == WALK_FREE) {
            qcow2_free_locked(q, offset, bytes);
            continue;
        }
        for (uint64_t c = offset >> q->cluster_bits;
             r == 0 && c <= (offset + bytes - 1) >> q->cluster_bits; c++) {
            if (what == WALK_UNDO && !(*budget)--)
                return 1;
            r = qcow2_refcount_add_locked(q, c, 1, what == WALK_ADD ? 1 : -1);
            if (what == WALK_ADD && r == 0)
                ++*budget;
        }
    }
    return r;
}

static int walk(struct qcow2 *q, const uint64_t *l1, uint32_t size, enum walk what,
                uint64_t *budget)
{
    auto_free uint8_t *data = malloc(q->cluster_size);
    int r = data ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < size; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;

        if (!table)
            continue;
        if (!qcow2_offset_ok(q, table))
            return qcow2_damaged(q, "an L1 table's entry %u is 0x%llx", i,
                                 (unsigned long long)l1[i]);
        r = block_read(q->node->file, table, data, q->cluster_size);
        if (r == 0)
            r = walk_table(q, table, data, what, budget);
    }
    return r;
}

/* One reference more on everything, or none. The tables are in the file. */
static int reference(struct qcow2 *q, const uint64_t *l1, uint32_t size)
{
    uint64_t budget = 0;
    int r;

    pthread_mutex_lock(&q->lock);
    r = walk(q, l1, size, WALK_ADD, &budget);
    if (r < 0)
        walk(q, l1, size, WALK_UNDO, &budget);
    pthread_mutex_unlock(&q->lock);
    return r;
}

static int unreference(struct qcow2 *q, const uint64_t *l1, uint32_t size)
{
    uint64_t budget = 0;
    int r;

    pthread_mutex_lock(&q->lock);
    r = walk(q, l1, size, WALK_FREE, &budget);
    pthread_mutex_unlock(&q->lock);
    return r;
}

static int copied_of(struct qcow2 *q, uint64_t entry, bool clear, uint64_t *out)
{
    uint64_t count = 0, offset = entry & QCOW2_OFFSET_MASK;
    int r = 0;

    *out = entry;
    if (entry & QCOW2_COMPRESSED || !offset)
        return 0;
    if (!clear)
        r = qcow2_refcount_locked(q, offset >> q->cluster_bits, &count);
    *out = count == 1 ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
    return r;
}

/* COPIED in the active tables says what the counts say; or is off everywhere. Flushed. */
static int settle_copied(struct qcow2 *q, bool clear)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < q->l1_size; i++) {
        struct qcow2_table *t;
        uint64_t e;

        if (!(q->l1[i] & QCOW2_OFFSET_MASK))
            continue;
        pthread_mutex_lock(&q->lock);
        r = copied_of(q, q->l1[i], clear, &e);
        if (r == 0 && e != q->l1[i]) {
            q->l1[i] = e;
            qcow2_l1_dirty_locked(q, i);
        }
        for (uint32_t k = 0; r == 0 && k < BIT(q->l2_bits) && !q->external; k++) {
            uint64_t old;

            r = qcow2_table_get_locked(q, false, i, q->l1[i] & QCOW2_OFFSET_MASK, &t);
            if (r < 0)
                break;
            old = load_be(t->data + 8 * (size_t)k, 8);
            if (!(old & QCOW2_OFFSET_MASK))
                continue;
            r = copied_of(q, old, clear, &e);
            if (r == 0 && e != old) {
                r = qcow2_table_get_locked(q, false, i, q->l1[i] & QCOW2_OFFSET_MASK, &t);
                if (r == 0) {
                    store_be(t->data + 8 * (size_t)k, e, 8);
                    qcow2_table_dirty_locked(q, t, 8 * k, 8 * k + 8);
                }
            }
        }
        pthread_mutex_unlock(&q->lock);
        if (r == 0)
            r = qcow2_write_back(q);
    }
    return r < 0 ? r : qcow2_flush(q->node);
}

/* Tables that only snapshots have may still say COPIED; they must not when they become active. */
static int clear_copied(struct qcow2 *q, const uint64_t *l1, uint32_t size)
{
    auto_free uint8_t *data = malloc(q->cluster_size);
    int r = data ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < size; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;
        bool changed = false;

        if (!table)
            continue;
        r = block_read(q->node->file, table, data, q->cluster_size);
        for (uint64_t k = 0; r == 0 && k < BIT(q->l2_bits); k++) {
            uint64_t e = load_be(data + 8 * k, 8);

            if (e & QCOW2_COPIED && !(e & QCOW2_COMPRESSED)) {
                store_be(data + 8 * k, e & ~QCOW2_COPIED, 8);
                changed = true;
            }
        }
        if (r == 0 && changed)
            r = block_write(q->node->file, table, data, q->cluster_size);
    }
    return r;
}

/* ---- the table --------------------------------------------------------------------------------
 */

static size_t put_one(const struct qcow2_snapshot *s, uint8_t *out)
{
    size_t id = strlen(s->pub.id), name = strlen(s->pub.name), at = ENTRY;

    if (out) {
        memset(out, 0, ENTRY);
        store_be(out, s->l1_offset, 8);
        store_be(out + 8, s->l1_size, 4);
        store_be(out + 12, id, 2);
        store_be(out + 14, name, 2);
        store_be(out + 16, s->pub.date_sec, 4);
        store_be(out + 20, s->pub.date_nsec, 4);
        store_be(out + 24, s->pub.vm_clock_nsec, 8);
        store_be(out + 32, s->pub.vm_state_size > UINT32_MAX ? 0 : s->pub.vm_state_size, 4);
        store_be(out + 36, s->extra_size, 4);
        memcpy(out + at, s->extra, s->extra_size);
        memcpy(out + at + s->extra_size, s->pub.id, id);
        memcpy(out + at + s->extra_size + id, s->pub.name, name);
    }
    return align_up(at + s->extra_size + id + name, 8);
}

/* The table as it shall be, at a new place, and the header that says so; flushed. */
static int write_list(struct qcow2 *q, struct qcow2_snapshot *list, uint32_t count)
{
    uint64_t bytes = 0, at = 0, first = 0, got, old = q->snapshots_offset;
    uint64_t old_bytes = q->snapshots_bytes;
    auto_free uint8_t *data = NULL;
    int r = 0;

    for (uint32_t i = 0; i < count; i++)
        bytes += put_one(&list[i], NULL);
    if (bytes > TABLE_MAX)
        return -EFBIG;
    if (bytes) {
        data = calloc(1, bytes);
        if (!data)
            return -ENOMEM;
        for (uint32_t i = 0; i < count; i++)
            at += put_one(&list[i], data + at);
        pthread_mutex_lock(&q->lock);
        r = qcow2_allocate_locked(q, qcow2_clusters(q, bytes), true, &first, &got);
        if (r == 0)
            q->fresh_from = MAX(q->fresh_from, first + got);
        pthread_mutex_unlock(&q->lock);
        if (r == 0)
            r = qcow2_flush(q->node);
        if (r == 0)
            r = block_write(q->node->file, first << q->cluster_bits, data, bytes);
        if (r == 0)
            r = block_flush(q->node->file);
    }
    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    q->snapshots_offset = first << q->cluster_bits;
    q->snapshots_bytes = bytes;
    q->snapshot_count = count;
    q->snapshots = list;
    r = qcow2_header_write(q);
    if (r == 0)
        r = block_flush(q->node->file);
    if (r < 0)
        atomic_store(&q->broken, true);
    else
        qcow2_free_locked(q, old, old_bytes);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* By name, else by id. */
static struct qcow2_snapshot *find(struct qcow2 *q, const char *name)
{
    for (uint32_t i = 0; i < q->snapshot_count; i++)
        if (!strcmp(q->snapshots[i].pub.name, name))
            return &q->snapshots[i];
    for (uint32_t i = 0; i < q->snapshot_count; i++)
        if (!strcmp(q->snapshots[i].pub.id, name))
            return &q->snapshots[i];
    return NULL;
}

static int missing(struct qcow2 *q, const char *name, struct error *err)
{
    return error_set(err, ENOENT, "'%s' has no snapshot '%s'; hospes img snapshot -l lists them",
                     q->node->filename, name);
}

static int told(struct qcow2 *q, int r, const char *what, const char *name, struct error *err)
{
    return r < 0 ? error_set_errno(err, -r, "cannot %s snapshot '%s' of '%s'", what, name,
                                   q->node->filename)
                 : 0;
}

int qcow2_snapshot_create(struct block_node *n, const char *name, struct error *err)
{
    struct qcow2 *q = n->state;
    struct qcow2_snapshot s = {.l1_size = q->l1_size}, *list;
    uint64_t first = 0, got = 0;
    unsigned long id = 0;
    struct timespec now;
    int r;

    if (!name[0] || strlen(name) >= sizeof(s.pub.name))
        return error_set(err, EINVAL, "a snapshot's name has 1 to %zu bytes",
                         sizeof(s.pub.name) - 1);
    for (uint32_t i = 0; i < q->snapshot_count; i++) {
        if (!strcmp(q->snapshots[i].pub.name, name))
            return error_set(err, EEXIST, "'%s' has a snapshot '%s' already", n->filename, name);
        id = MAX(id, strtoul(q->snapshots[i].pub.id, NULL, 10));
    }
    if (q->snapshot_count == QCOW2_SNAPSHOTS_MAX)
        return error_set(err, E2BIG, "'%s' has %d snapshots; there is no room for more",
                         n->filename, QCOW2_SNAPSHOTS_MAX);
    r = qcow2_touch(q);
    if (r == 0)
        r = qcow2_flush(n);
    if (r == 0)
        r = settle_copied(q, true);
    if (r == 0)
        r = reference(q, q->l1, q->l1_size);
    if (r == 0 && q->l1_size) {
        pthread_mutex_lock(&q->lock);
        r = qcow2_allocate_locked(q, qcow2_clusters(q, (uint64_t)q->l1_size * 8), true, &first,
                                  &got);
        if (r == 0)
            q->fresh_from = MAX(q->fresh_from, first + got);
        pthread_mutex_unlock(&q->lock);
    }
    if (r == 0)
        r = qcow2_flush(n);
    if (r == 0)
        r = qcow2_write_table(q, first << q->cluster_bits, q->l1_size, q->l1);
    if (r < 0) {
        settle_copied(q, false);
        return told(q, r, "make", name, err);
    }
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(s.pub.id, sizeof(s.pub.id), "%lu", id + 1);
    snprintf(s.pub.name, sizeof(s.pub.name), "%s", name);
    s.pub.date_sec = (uint64_t)now.tv_sec;
    s.pub.date_nsec = (uint32_t)now.tv_nsec;
    s.pub.disk_size = n->size;
    s.l1_offset = first << q->cluster_bits;
    s.extra = xcalloc(1, EXTRA);
    s.extra_size = EXTRA;
    store_be(s.extra + 8, n->size, 8);
    store_be(s.extra + 16, UINT64_MAX, 8); /* no count of instructions */
    list = xcalloc(q->snapshot_count + 1, sizeof(*list));
    memcpy(list, q->snapshots, q->snapshot_count * sizeof(*list));
    list[q->snapshot_count] = s;
    {
        struct qcow2_snapshot *old = q->snapshots;

        r = write_list(q, list, q->snapshot_count + 1);
        if (q->snapshots != list)
            free(s.extra);
        free(q->snapshots == list ? old : list);
    }
    if (r == 0)
        r = qcow2_settle(q);
    return told(q, r, "make", name, err);
}

int qcow2_snapshot_apply(struct block_node *n, const char *name, struct error *err)
{
    struct qcow2 *q = n->state;
    struct qcow2_snapshot *s = find(q, name);
    auto_free uint64_t *old = NULL, *l1 = NULL;
    uint32_t old_size = q->l1_size, size;
    int r;

    if (!s)
        return missing(q, name, err);
    size = s->l1_size;
    if ((s->pub.disk_size + BIT(q->cluster_bits + q->l2_bits) - 1) >>
        (q->cluster_bits + q->l2_bits) > size)
        return error_set(err, EINVAL,
                         "snapshot '%s' of '%s': its L1 table of %u entries is too "
                         "short",
                         name, n->filename, size);
    old = xcalloc(old_size + 1, 8);
    l1 = calloc((size_t)size + 1, 8);
    r = l1 ? qcow2_touch(q) : -ENOMEM;
    if (r == 0)
        r = qcow2_flush(n);
    if (r == 0)
        r = qcow2_read_table(q, s->l1_offset, size, l1);
    if (r == 0)
        r = reference(q, l1, size);
    for (uint32_t i = 0; r == 0 && i < size; i++)
        l1[i] &= ~QCOW2_COPIED;
    if (r == 0)
        r = qcow2_flush(n);
    if (r == 0)
        r = clear_copied(q, l1, size);
    memcpy(old, q->l1, (size_t)old_size * 8);
    if (r == 0) {
        pthread_mutex_lock(&q->lock);
        r = qcow2_l1_replace_locked(q, l1, size, s->pub.disk_size);
        pthread_mutex_unlock(&q->lock);
    }
    if (r == 0)
        r = unreference(q, old, old_size);
    if (r == 0)
        r = qcow2_settle(q);
    return told(q, r, "apply", name, err);
}

int qcow2_snapshot_delete(struct block_node *n, const char *name, struct error *err)
{
    struct qcow2 *q = n->state;
    struct qcow2_snapshot *s = find(q, name), gone, *list, *old = q->snapshots;
    auto_free uint64_t *l1 = NULL;
    uint32_t at;
    int r;

    if (!s)
        return missing(q, name, err);
    gone = *s;
    at = (uint32_t)(s - q->snapshots);
    l1 = calloc((size_t)gone.l1_size + 1, 8);
    r = l1 ? qcow2_touch(q) : -ENOMEM;
    if (r == 0)
        r = qcow2_read_table(q, gone.l1_offset, gone.l1_size, l1);
    if (r < 0)
        return told(q, r, "delete", name, err);
    list = xcalloc(q->snapshot_count, sizeof(*list));
    memcpy(list, old, at * sizeof(*list));
    memcpy(list + at, old + at + 1, (q->snapshot_count - at - 1) * sizeof(*list));
    r = write_list(q, list, q->snapshot_count - 1);
    if (r < 0) {
        if (q->snapshots == list)
            free(gone.extra);
        free(q->snapshots == list ? old : list);
        return told(q, r, "delete", name, err);
    }
    free(old);
    free(gone.extra);
    r = unreference(q, l1, gone.l1_size);
    if (r == 0) {
        pthread_mutex_lock(&q->lock);
        qcow2_free_locked(q, gone.l1_offset, (uint64_t)gone.l1_size * 8);
        pthread_mutex_unlock(&q->lock);
        r = qcow2_settle(q);
    }
    if (r == 0)
        r = settle_copied(q, false);
    return told(q, r, "delete", name, err);
}

int qcow2_snapshot_list(struct block_node *n, struct block_snapshot **out, unsigned *count)
{
    struct qcow2 *q = n->state;

    *out = xcalloc(q->snapshot_count, sizeof(**out));
    for (uint32_t i = 0; i < q->snapshot_count; i++)
        (*out)[i] = q->snapshots[i].pub;
    *count = q->snapshot_count;
    return 0;
}
