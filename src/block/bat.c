/* bat.c - see bat.h. Allocation is as in qcow2_cluster.c: place, write, enter into the table. */
#include "block/bat.h"

#include <errno.h>
#include <stdlib.h>

/* 64 TiB in blocks of 1 MiB; the tables of more would take half a gigabyte. */
enum { BLOCKS_MAX = 1 << 26 };

int bat_init(struct bat *b, struct block_node *node, struct block_node *file, uint64_t start,
             uint64_t size, uint64_t block_size)
{
    *b = (struct bat){.node = node,
                      .file = file,
                      .start = start,
                      .size = size,
                      .block_size = block_size,
                      .align = BLOCK_SECTOR,
                      .limit = BLOCK_SIZE_MAX,
                      .unit = 1,
                      .count = (size + block_size - 1) / block_size};
    if (b->count > BLOCKS_MAX)
        return -EFBIG;
    b->place = calloc(b->count + 1, sizeof(*b->place));
    b->dirty = calloc(b->count + 1, 1);
    if (!b->place || !b->dirty) {
        free(b->place);
        free(b->dirty);
        b->place = NULL;
        return -ENOMEM;
    }
    pthread_mutex_init(&b->lock, NULL);
    pthread_mutex_init(&b->flush_lock, NULL);
    pthread_cond_init(&b->allocated, NULL);
    return 0;
}

int bat_ready(struct bat *b, uint64_t least, uint64_t *bad)
{
    b->end = least;
    for (uint64_t i = 0; i < b->count; i++) {
        uint64_t p = b->place[i];

        if (p <= BAT_ZERO)
            continue;
        if (p < least + b->head || p >= BIT(56)) {
            *bad = i;
            return -EINVAL;
        }
        b->end = MAX(b->end, p + b->block_size);
    }
    b->fresh_from = b->file->size;
    return 0;
}

void bat_free(struct bat *b)
{
    if (!b->place)
        return;
    free(b->place);
    free(b->partial);
    free(b->dirty);
    b->place = NULL;
    pthread_mutex_destroy(&b->lock);
    pthread_mutex_destroy(&b->flush_lock);
    pthread_cond_destroy(&b->allocated);
}

/* Bytes of a block from `in` on that are on the disk at all: its last block may be short. */
static uint64_t piece(const struct bat *b, uint64_t offset, uint64_t length)
{
    uint64_t in = offset & (b->block_size - 1);

    return MIN(MIN(length, b->block_size - in), b->size - offset);
}

static uint64_t place_of(struct bat *b, uint64_t block, bool *partial)
{
    uint64_t p;

    pthread_mutex_lock(&b->lock);
    p = b->place[block];
    *partial = b->partial && b->partial[block];
    pthread_mutex_unlock(&b->lock);
    return p;
}

int bat_read(struct bat *b, uint64_t offset, void *buffer, size_t length)
{
    uint8_t *p = buffer;
    int r = 0;

    while (r == 0 && length) {
        uint64_t step = piece(b, offset, length), in = offset & (b->block_size - 1);
        bool partial;
        uint64_t place = place_of(b, offset / b->block_size, &partial);

        if (partial)
            r = b->read_partial(b, offset, p, step);
        else if (place == BAT_NONE)
            r = block_read_backing(b->node, b->start + offset, p, step);
        else if (place == BAT_ZERO)
            memset(p, 0, step);
        else
            r = block_read(b->file, place + in, p, step);
        offset += step;
        p += step;
        length -= step;
    }
    return r;
}

int bat_map(struct bat *b, uint64_t offset, uint64_t length, unsigned flags,
            struct block_extent *out)
{
    uint64_t block = offset / b->block_size, in = offset & (b->block_size - 1);
    uint64_t have = b->block_size - in, place;

    length = MIN(length, b->size - offset);
    if (!(flags & BLOCK_MAP_NOWAIT))
        pthread_mutex_lock(&b->lock);
    else if (pthread_mutex_trylock(&b->lock))
        return -EAGAIN;
    place = b->place[block];
    *out = (struct block_extent){.kind = BLOCK_SLOW};
    if (!b->partial || !b->partial[block]) {
        while (have < length && !b->partial && ++block < b->count &&
               b->place[block] == (place <= BAT_ZERO ? place : place + in + have))
            have += b->block_size;
        if (place > BAT_ZERO)
            *out = (struct block_extent){.kind = BLOCK_DATA, .file = b->file, .offset = place + in};
        else if (!(flags & BLOCK_MAP_WRITE))
            out->kind = place == BAT_ZERO ? BLOCK_ZERO : BLOCK_UNBACKED;
    }
    pthread_mutex_unlock(&b->lock);
    out->length = MIN(length, have);
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static void wait_locked(struct bat *b, uint64_t block)
{
again:
    for (struct bat_allocation *a = b->allocations; a; a = a->next)
        if (a->block == block) {
            pthread_cond_wait(&b->allocated, &b->lock);
            goto again;
        }
}

static void end_locked(struct bat *b, struct bat_allocation *mine)
{
    struct bat_allocation **a = &b->allocations;

    while (*a != mine)
        a = &(*a)->next;
    *a = mine->next;
    pthread_cond_broadcast(&b->allocated);
}

static void set_locked(struct bat *b, uint64_t block, uint64_t place)
{
    b->place[block] = place;
    b->dirty[block / b->unit] = 1;
    b->any_dirty = true;
}

/* A new block at `place` with `data` in it and what was there before around it. */
static int fill(struct bat *b, uint64_t block, uint64_t was, uint64_t place, uint64_t in,
                const uint8_t *data, uint64_t length)
{
    uint64_t start = block * b->block_size, whole = MIN(b->block_size, b->size - start);
    bool fresh = place >= b->fresh_from;
    auto_free uint8_t *buffer = NULL;
    int r = 0;

    if (fresh && (was == BAT_ZERO || !b->node->backing)) {
        static const uint8_t zeros[BLOCK_SECTOR];

        if (in + length < b->block_size) /* the file reaches as far as the block does */
            r = block_write(b->file, place + b->block_size - sizeof(zeros), zeros, sizeof(zeros));
        return r < 0 ? r : block_write(b->file, place + in, data, length);
    }
    buffer = aligned_alloc(4096, align_up(b->block_size, 4096));
    if (!buffer)
        return -ENOMEM;
    memset(buffer, 0, b->block_size);
    if (was == BAT_NONE && (in || length < whole))
        r = block_read_backing(b->node, b->start + start, buffer, whole);
    if (r < 0)
        return r;
    memcpy(buffer + in, data, length);
    return block_write(b->file, place, buffer, b->block_size);
}

/* Within one block. */
static int write_piece(struct bat *b, uint64_t offset, const uint8_t *data, uint64_t length)
{
    uint64_t block = offset / b->block_size, in = offset & (b->block_size - 1), was, at;
    struct bat_allocation mine = {.block = block};
    int r;

    pthread_mutex_lock(&b->lock);
    wait_locked(b, block);
    was = b->place[block];
    if (was > BAT_ZERO && !(b->partial && b->partial[block])) {
        pthread_mutex_unlock(&b->lock);
        return block_write(b->file, was + in, data, length);
    }
    at = was > BAT_ZERO ? was : align_up(b->end, b->align) + b->head;
    if (was <= BAT_ZERO) {
        if (at + b->block_size > b->limit) {
            pthread_mutex_unlock(&b->lock);
            return -EFBIG;
        }
        b->end = at + b->block_size;
    }
    mine.next = b->allocations;
    b->allocations = &mine;
    pthread_mutex_unlock(&b->lock);
    if (was > BAT_ZERO) {
        r = b->complete(b, block);
        if (r == 0)
            r = block_write(b->file, was + in, data, length);
    } else {
        r = fill(b, block, was, at, in, data, length);
        if (r == 0 && b->added)
            r = b->added(b, block, at);
    }
    pthread_mutex_lock(&b->lock);
    if (r == 0 && was > BAT_ZERO)
        b->partial[block] = 0;
    else if (r == 0)
        set_locked(b, block, at);
    end_locked(b, &mine);
    pthread_mutex_unlock(&b->lock);
    return r;
}

int bat_write(struct bat *b, uint64_t offset, const void *buffer, size_t length)
{
    const uint8_t *p = buffer;
    int r = 0;

    while (r == 0 && length) {
        uint64_t step = piece(b, offset, length);

        r = write_piece(b, offset, p, step);
        offset += step;
        p += step;
        length -= step;
    }
    return r;
}

static int write_zero_bytes(struct bat *b, uint64_t offset, uint64_t length)
{
    auto_free uint8_t *zeros = calloc(1, length);

    return zeros ? bat_write(b, offset, zeros, length) : -ENOMEM;
}

/* Within one block. */
static int zero_piece(struct bat *b, uint64_t offset, uint64_t length, bool unmap)
{
    uint64_t block = offset / b->block_size, in = offset & (b->block_size - 1), place;
    bool partial, whole = !in && piece(b, offset, UINT64_MAX) == length;

    pthread_mutex_lock(&b->lock);
    wait_locked(b, block);
    place = b->place[block];
    partial = b->partial && b->partial[block];
    if (place == BAT_NONE && b->node->backing && whole && b->can_zero) {
        set_locked(b, block, BAT_ZERO);
        place = BAT_ZERO;
    }
    pthread_mutex_unlock(&b->lock);
    if (place == BAT_ZERO || (place == BAT_NONE && !b->node->backing_name))
        return 0;
    if (place == BAT_NONE || partial)
        return write_zero_bytes(b, offset, length);
    return block_write_zeroes(b->file, place + in, length, unmap);
}

int bat_write_zeroes(struct bat *b, uint64_t offset, uint64_t length, bool unmap)
{
    int r = 0;

    while (r == 0 && length) {
        uint64_t step = piece(b, offset, length);

        r = zero_piece(b, offset, step, unmap);
        offset += step;
        length -= step;
    }
    return r;
}

int bat_discard(struct bat *b, uint64_t offset, uint64_t length)
{
    int r = 0;

    while (r == 0 && length) {
        uint64_t step = piece(b, offset, length);
        bool partial;
        uint64_t place = place_of(b, offset / b->block_size, &partial);

        if (place > BAT_ZERO && !partial && b->node->flags & BLOCK_UNMAP)
            r = block_discard(b->file, place + (offset & (b->block_size - 1)), step);
        offset += step;
        length -= step;
    }
    return r;
}

int bat_fill(struct bat *b)
{
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < b->count; i++)
        if (b->place[i] == BAT_NONE)
            r = write_zero_bytes(b, i * b->block_size, BLOCK_SECTOR);
    return r;
}

/* ---- flush ------------------------------------------------------------------------------------
 */

static int store_units(struct bat *b, const uint8_t *dirty, const uint64_t *copy)
{
    uint64_t units = (b->count + b->unit - 1) / b->unit;
    int r = 0;

    for (uint64_t u = 0; r == 0 && u < units; u++) {
        uint64_t n = 0;

        while (u + n < units && dirty[u + n])
            n++;
        if (n)
            r = b->store(b, u * b->unit, MIN(n * b->unit, b->count - u * b->unit),
                         copy + u * b->unit);
        u += n;
    }
    return r;
}

int bat_flush(struct bat *b)
{
    uint64_t units = (b->count + b->unit - 1) / b->unit;
    auto_free uint64_t *copy = NULL;
    auto_free uint8_t *dirty = NULL;
    int r = 0;

    pthread_mutex_lock(&b->flush_lock);
    pthread_mutex_lock(&b->lock);
    if (b->any_dirty) {
        copy = malloc(b->count * sizeof(*copy));
        dirty = malloc(units);
        if (copy && dirty) {
            memcpy(copy, b->place, b->count * sizeof(*copy));
            memcpy(dirty, b->dirty, units);
            memset(b->dirty, 0, units);
            b->any_dirty = false;
        } else {
            r = -ENOMEM;
        }
    }
    pthread_mutex_unlock(&b->lock);
    if (r == 0)
        r = block_flush(b->file);
    if (r == 0 && dirty) {
        r = store_units(b, dirty, copy);
        if (r == 0)
            r = block_flush(b->file);
    }
    if (r < 0 && dirty) {
        pthread_mutex_lock(&b->lock);
        for (uint64_t u = 0; u < units; u++)
            b->dirty[u] |= dirty[u];
        b->any_dirty = true;
        pthread_mutex_unlock(&b->lock);
    }
    pthread_mutex_unlock(&b->flush_lock);
    return r;
}

/* ---- check ------------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

int bat_check(struct bat *b, struct block_check *c, uint64_t least)
{
    auto_free uint64_t *sorted = malloc((b->count + 1) * sizeof(*sorted));
    uint64_t n = 0, used = least;

    if (!sorted)
        return -ENOMEM;
    for (uint64_t i = 0; i < b->count; i++)
        if (b->place[i] > BAT_ZERO)
            sorted[n++] = b->place[i];
    qsort(sorted, n, sizeof(*sorted), by_value);
    for (uint64_t i = 0; i < n; i++) {
        if (i && sorted[i] < sorted[i - 1] + b->block_size) {
            block_check_tell(c, "corrupt: two blocks share bytes at 0x%llx",
                             (unsigned long long)sorted[i]);
            c->corruptions++;
        }
        if (sorted[i] >= b->file->size) {
            block_check_tell(c, "corrupt: a block at 0x%llx is behind the end of the file",
                             (unsigned long long)sorted[i]);
            c->corruptions++;
        }
        used = MAX(used, sorted[i] + b->block_size);
    }
    c->clusters += b->count;
    c->allocated += n;
    c->image_end = MAX(c->image_end, used);
    return 0;
}
