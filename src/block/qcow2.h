/*
 * qcow2.h - what the files of the qcow2 driver share. The format is QEMU's docs/interop/qcow2.txt.
 *
 * Truth. The tables in memory (L1, refcount table, cached L2 tables and refcount blocks) are what
 * the image is; the file follows when flushed (qcow2_flush(), refcount.c). The order of writes is
 * what makes a power cut harmless:
 *
 *   data, refcounts  |  refcount table  |  L2 tables  |  L1 table       "|": a flush of the file
 *
 * A reference is never on disk before what it refers to and its count are. Giving space back goes
 * the other way: the reference goes first, and only when that is flushed, and every request that
 * could still use the cluster has ended, is the count lowered (struct frees). A cut in between
 * loses space, never data.
 *
 * Locks, in order: flush_lock, lock. `lock` guards all tables; it is not held over data I/O.
 * Functions ending in _locked want it held.
 */
#ifndef BLOCK_QCOW2_H
#define BLOCK_QCOW2_H

#include "block/drivers.h"

#include <pthread.h>

#define QCOW2_MAGIC       0x514649fbu
#define QCOW2_COPIED      BIT(63) /* the refcount is exactly 1: may be written in place */
#define QCOW2_COMPRESSED  BIT(62)
#define QCOW2_ZERO        BIT(0)
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

enum { QCOW2_HEADER_V2 = 72, QCOW2_HEADER_V3 = 104, QCOW2_HEADER_NOW = 112 };
enum {
    QCOW2_DIRTY = 1 << 0,
    QCOW2_CORRUPT = 1 << 1,
    QCOW2_DATA_FILE = 1 << 2,
    QCOW2_COMPRESSION = 1 << 3,
    QCOW2_EXTENDED_L2 = 1 << 4,
};
enum { QCOW2_LAZY = 1 << 0 };                             /* compatible */
enum { QCOW2_BITMAPS = 1 << 0, QCOW2_RAW_DATA = 1 << 1 }; /* autoclear */
enum { QCOW2_ZLIB, QCOW2_ZSTD };
enum { QCOW2_L1_MAX = 4 << 20, QCOW2_SNAPSHOTS_MAX = 65536, QCOW2_BITMAPS_MAX = 65535 };

/* A cached L2 table or refcount block: one cluster. */
struct qcow2_table {
    uint64_t offset; /* in the file */
    uint8_t *data;
    uint32_t index;     /* in l2 or blocks */
    uint32_t low, high; /* bytes that the file does not have yet; high 0: none */
    bool refcounts;     /* a refcount block */
    bool fresh;         /* nothing on disk refers to it yet */
    bool writing;       /* a copy is on its way to the file */
    uint64_t age;
};

struct qcow2_range {
    uint64_t start, count; /* clusters of the file */
};

/* Clusters that lose a reference. */
struct qcow2_frees {
    struct qcow2_range *range;
    size_t count, room;
};

/* Guest clusters that somebody is allocating. */
struct qcow2_allocation {
    uint64_t start, count;
    struct qcow2_allocation *next;
};

struct qcow2_snapshot {
    struct block_snapshot pub;
    uint64_t l1_offset;
    uint32_t l1_size;
    uint8_t *extra; /* as it was in the file */
    uint32_t extra_size;
};

struct qcow2_bitmap {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags;
    uint8_t granularity_bits;
    uint64_t flags_at; /* where the flags are in the file */
    char name[64];
};
enum { QCOW2_BITMAP_IN_USE = 1 << 0, QCOW2_BITMAP_AUTO = 1 << 1 };

struct qcow2 {
    struct block_node *node, *data; /* data: the file, or an external data file */
    uint8_t header[BLOCK_SECTOR];   /* the fixed part as it is in the file */
    unsigned version, header_length;
    unsigned cluster_bits, l2_bits;      /* entries of an L2 table */
    unsigned refcount_order, block_bits; /* entries of a refcount block */
    uint64_t cluster_size;
    uint64_t incompatible, compatible, autoclear;
    unsigned compression;
    bool external, encrypted;

    pthread_mutex_t flush_lock, lock;
    pthread_cond_t allocated; /* an allocation ended */
    struct qcow2_allocation *allocations;

    uint64_t *l1, l1_offset;
    uint32_t l1_size;
    uint32_t l1_low, l1_high; /* entries to be written; high 0: none */
    struct qcow2_table **l2;  /* l1_size: cached, or NULL */

    uint64_t *rt, rt_offset;
    uint32_t rt_size; /* entries */
    uint32_t rt_low, rt_high;
    struct qcow2_table **blocks; /* rt_size */

    struct qcow2_table **tables; /* all that are cached */
    unsigned table_count, table_room, table_limit, table_dirty;
    uint64_t age;

    uint64_t free_hint;         /* no cluster below is free */
    uint64_t fresh_from;        /* clusters from here on were never written: they read as zeros */
    uint64_t pack_at;           /* where the next compressed cluster goes; 0: a new cluster */
    struct qcow2_frees leaving; /* their references are gone in memory */
    struct qcow2_frees aging;   /* and on disk; requests may still use them */
    struct qcow2_frees aged;

    struct qcow2_snapshot *snapshots;
    unsigned snapshot_count;
    uint64_t snapshots_offset;
    uint64_t snapshots_bytes; /* of the table in the file */
    struct qcow2_bitmap *bitmaps;
    unsigned bitmap_count;
    uint64_t bitmaps_offset, bitmaps_bytes;

    atomic_bool touched; /* the header says what writing needs (qcow2_touch()) */
    atomic_bool broken;  /* damaged, or a metadata write failed: no more writes */

    pthread_mutex_t inflate_lock; /* guards the cluster that was decompressed last */
    uint64_t inflated_entry;
    unsigned inflated_generation;
    atomic_uint generation; /* of the file's clusters: counts reuse */
    uint8_t *inflated;
};

/* ---- qcow2.c ---- */
int qcow2_header_write(struct qcow2 *q); /* the fixed part; the caller flushes */
int qcow2_touch(struct qcow2 *q);        /* before anything is changed */
/* Say that the image is damaged, in the log and in its header; always -EIO. */
int qcow2_damaged(struct qcow2 *q, const char *format, ...) __attribute__((format(printf, 2, 3)));
int qcow2_read_table(struct qcow2 *q, uint64_t offset, uint32_t entries, uint64_t *out);
int qcow2_write_table(struct qcow2 *q, uint64_t offset, uint32_t entries, const uint64_t *in);
int qcow2_l1_replace_locked(struct qcow2 *q, const uint64_t *l1, uint32_t size, uint64_t disk_size);

static inline uint64_t qcow2_clusters(const struct qcow2 *q, uint64_t bytes)
{
    return (bytes + q->cluster_size - 1) >> q->cluster_bits;
}
/* An offset that a table may hold: aligned and in range. */
static inline bool qcow2_offset_ok(const struct qcow2 *q, uint64_t offset)
{
    return !(offset & (q->cluster_size - 1)) && offset && offset < BIT(56);
}
/* The bytes that a compressed entry covers. */
static inline void qcow2_compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *offset,
                                          uint64_t *bytes)
{
    unsigned shift = 62 - (q->cluster_bits - 8);

    *offset = entry & (BIT(shift) - 1);
    *bytes = ((entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> shift) * 512 + 512 - (*offset & 511);
}

/* ---- qcow2_refcount.c ---- */
int qcow2_refcount_locked(struct qcow2 *q, uint64_t cluster, uint64_t *out);
/* Add to the counts of `count` clusters; makes refcount blocks where they are missing. */
int qcow2_refcount_add_locked(struct qcow2 *q, uint64_t cluster, uint64_t count, int64_t add);
int qcow2_refcount_set_locked(struct qcow2 *q, uint64_t cluster, uint64_t value);
/* Up to `count` clusters in a row, at least one (`exactly`: all): their first, count set. */
int qcow2_allocate_locked(struct qcow2 *q, uint64_t count, bool exactly, uint64_t *first,
                          uint64_t *got);
/* One reference less, as soon as that is safe. */
void qcow2_free_locked(struct qcow2 *q, uint64_t offset, uint64_t bytes);
/* The same of what an L2 entry refers to. */
void qcow2_free_entry_locked(struct qcow2 *q, uint64_t entry);
int qcow2_flush(struct block_node *n);
/* All that was freed is free now: nobody else uses the node. */
int qcow2_settle(struct qcow2 *q);
int qcow2_write_back(struct qcow2 *q); /* flush if much has gathered */
int qcow2_table_get_locked(struct qcow2 *q, bool refcounts, uint32_t index, uint64_t offset,
                           struct qcow2_table **out);
int qcow2_table_new_locked(struct qcow2 *q, bool refcounts, uint32_t index, uint64_t offset,
                           struct qcow2_table **out);
void qcow2_table_dirty_locked(struct qcow2 *q, struct qcow2_table *t, uint32_t low, uint32_t high);
void qcow2_l1_dirty_locked(struct qcow2 *q, uint32_t index);
void qcow2_drop_tables_locked(struct qcow2 *q, bool refcounts); /* unwritten changes are lost */
/* Counts and their table are replaced by those in memory, at the end of the file. */
int qcow2_refcount_rebuild(struct qcow2 *q, const uint32_t *counts, uint64_t clusters);

/* ---- qcow2_cluster.c ---- */
int qcow2_read(struct block_node *n, uint64_t offset, void *buffer, size_t length);
int qcow2_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length);
int qcow2_write_compressed(struct block_node *n, uint64_t offset, const void *buffer,
                           size_t length);
int qcow2_discard(struct block_node *n, uint64_t offset, uint64_t length);
int qcow2_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap);
int qcow2_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
              struct block_extent *out);
/* Give every cluster a place, in order; for images made with preallocation. */
int qcow2_preallocate(struct qcow2 *q, uint64_t from, uint64_t to);
/* Take references off guest clusters [first, end), for a smaller disk. */
int qcow2_cut(struct qcow2 *q, uint64_t first, uint64_t end);

/* ---- qcow2_snapshot.c ---- */
int qcow2_snapshots_load(struct qcow2 *q, struct error *err);
int qcow2_snapshot_create(struct block_node *n, const char *name, struct error *err);
int qcow2_snapshot_apply(struct block_node *n, const char *name, struct error *err);
int qcow2_snapshot_delete(struct block_node *n, const char *name, struct error *err);
int qcow2_snapshot_list(struct block_node *n, struct block_snapshot **out, unsigned *count);
void qcow2_snapshots_free(struct qcow2 *q);

/* ---- qcow2_check.c ---- */
int qcow2_check(struct block_node *n, struct block_check *c, struct error *err);

#endif
