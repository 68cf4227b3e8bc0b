/*
 * bat.h - what VDI, VHD, VHDX and VMDK have in common: a table that says for each block of the disk
 * where in the file it is, and blocks that are added at the file's end.
 *
 * The table in memory is the truth. A flush first makes data durable, then stores the changed parts
 * of the table, then makes those durable; so what the file's table says is always there. Blocks are
 * never moved or given back; zeros punch holes into the host's file instead.
 */
#ifndef BLOCK_BAT_H
#define BLOCK_BAT_H

#include "block/drivers.h"

#include <pthread.h>

enum { BAT_NONE = 0, BAT_ZERO = 1 }; /* instead of a place, which is at least 512 */

struct bat_allocation {
    uint64_t block;
    struct bat_allocation *next;
};

struct bat {
    struct block_node *node, *file;
    uint64_t start, size; /* of the disk, bytes: what this table is for */
    uint64_t block_size;  /* a power of 2 */
    uint64_t head;        /* bytes before a block's data that belong to it (a bitmap) */
    uint64_t align;       /* of the places of new blocks, before the head */
    uint64_t limit;       /* no block ends behind this offset */
    uint64_t count;       /* of blocks */
    uint64_t *place;      /* of each block's data in the file */
    uint8_t *partial;     /* or NULL: 1 where only some sectors are in the block */
    bool can_zero;        /* the format can say BAT_ZERO */
    unsigned unit;        /* entries that are stored together */

    /* The entries of unit-aligned [first, first + count): into the file. The caller flushes. */
    int (*store)(struct bat *b, uint64_t first, uint64_t count, const uint64_t *entries);
    /* May be NULL: what a new block needs beside its data. */
    int (*added)(struct bat *b, uint64_t block, uint64_t place);
    /* For partial blocks: read, and make whole. */
    int (*read_partial)(struct bat *b, uint64_t offset, void *buffer, size_t length);
    int (*complete)(struct bat *b, uint64_t block);

    /* bat.c's own */
    pthread_mutex_t flush_lock, lock; /* in this order */
    pthread_cond_t allocated;
    struct bat_allocation *allocations;
    uint64_t end, fresh_from;
    uint8_t *dirty; /* each unit */
    bool any_dirty;
};

/* `count` from size and block_size, all else 0; the caller fills place[] and hooks, then calls
 * bat_ready(). -ENOMEM, -EFBIG. */
int bat_init(struct bat *b, struct block_node *node, struct block_node *file, uint64_t start,
             uint64_t size, uint64_t block_size);
/* After place[] is filled: -EINVAL with *bad if a place is not one that can be. `least`: where the
 * first block may be. */
int bat_ready(struct bat *b, uint64_t least, uint64_t *bad);
void bat_free(struct bat *b);

/* Offsets are those within the table's part of the disk. */
int bat_read(struct bat *b, uint64_t offset, void *buffer, size_t length);
int bat_write(struct bat *b, uint64_t offset, const void *buffer, size_t length);
int bat_write_zeroes(struct bat *b, uint64_t offset, uint64_t length, bool unmap);
int bat_discard(struct bat *b, uint64_t offset, uint64_t length);
int bat_map(struct bat *b, uint64_t offset, uint64_t length, unsigned flags,
            struct block_extent *out);
int bat_flush(struct bat *b);
/* Blocks that share bytes with others, lie in the tables or outside of the file. */
int bat_check(struct bat *b, struct block_check *c, uint64_t least);
/* All blocks get a place, for images that are full from the beginning. */
int bat_fill(struct bat *b);

#endif
