/* memory_file.c - see memory_file.h. */
#include "unit/block/memory_file.h"

#include <errno.h>
#include <stdlib.h>

struct state {
    struct memory_file *file;
};

static struct memory_file *file_of(struct block_node *n)
{
    return ((struct state *)n->state)->file;
}

static void note(struct memory_file *f, uint64_t offset, const void *bytes, size_t length,
                 bool resize)
{
    struct memory_event *e;

    if (!f->recording)
        return;
    if (f->events == f->events_room) {
        f->events_room = f->events_room ? 2 * f->events_room : 1024;
        f->event = realloc(f->event, f->events_room * sizeof(*f->event));
    }
    e = &f->event[f->events++];
    *e = (struct memory_event){.offset = offset, .length = length, .resize = resize};
    if (length) {
        e->bytes = malloc(length);
        memcpy(e->bytes, bytes, length);
    }
}

static void put_size(struct memory_file *f, size_t size)
{
    if (size > f->room) {
        size_t room = MAX(size, 2 * f->room);

        f->bytes = realloc(f->bytes, room);
        memset(f->bytes + f->room, 0, room - f->room);
        f->room = room;
    }
    if (size < f->size)
        memset(f->bytes + size, 0, f->size - size);
    f->size = size;
}

static void put(struct memory_file *f, uint64_t offset, const void *bytes, size_t length)
{
    if (offset + length > f->size)
        put_size(f, offset + length);
    memcpy(f->bytes + offset, bytes, length);
}

static int memory_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    memcpy(buffer, file_of(n)->bytes + offset, length);
    return 0;
}

static int memory_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct memory_file *f = file_of(n);

    if (offset + length > f->limit)
        return -ENOSPC;
    if (f->fail_after == 0) {
        f->fail_after = f->fail_again ? 0 : -1;
        return -EIO;
    }
    if (f->fail_after > 0)
        f->fail_after--;
    note(f, offset, buffer, length, false);
    put(f, offset, buffer, length);
    block_grew(n, offset + length);
    return 0;
}

static int memory_flush(struct block_node *n)
{
    note(file_of(n), 0, NULL, 0, false);
    return 0;
}

static int memory_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    auto_free uint8_t *zeros = calloc(1, length);

    (void)unmap;
    return memory_write(n, offset, zeros, length);
}

static int memory_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    if (offset >= file_of(n)->size)
        return 0;
    return memory_write_zeroes(n, offset, MIN(length, file_of(n)->size - offset), true);
}

static int memory_resize(struct block_node *n, uint64_t size, struct error *err)
{
    struct memory_file *f = file_of(n);

    if (size > f->limit)
        return error_set(err, ENOSPC, "a file in memory has its limit");
    note(f, size, NULL, 0, true);
    put_size(f, size);
    n->size = size;
    return 0;
}

static int memory_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                      struct block_extent *out)
{
    (void)flags;
    *out = (struct block_extent){.kind = BLOCK_DATA, .length = length, .file = n, .offset = offset};
    return 0;
}

static const struct block_driver memory_driver = {
    .name = "memory",
    .protocol = true,
    .instance_size = sizeof(struct state),
    .read = memory_read,
    .write = memory_write,
    .flush = memory_flush,
    .discard = memory_discard,
    .write_zeroes = memory_write_zeroes,
    .map = memory_map,
    .resize = memory_resize,
};

void memory_file_init(struct memory_file *f)
{
    *f = (struct memory_file){.fail_after = -1, .limit = GiB};
}

static void forget(struct memory_file *f)
{
    for (size_t i = 0; i < f->events; i++)
        free(f->event[i].bytes);
    free(f->event);
    f->event = NULL;
    f->events = f->events_room = 0;
}

void memory_file_free(struct memory_file *f)
{
    forget(f);
    free(f->bytes);
    memory_file_init(f);
}

void memory_file_record(struct memory_file *f)
{
    forget(f);
    f->recording = true;
}

struct block_node *memory_file_open(struct memory_file *f, unsigned flags)
{
    struct block_node *n = block_node_new(&memory_driver, "memory", flags);

    ((struct state *)n->state)->file = f;
    n->size = f->size;
    return n;
}

void memory_file_copy(struct memory_file *to, const struct memory_file *from)
{
    memory_file_free(to);
    put_size(to, from->size);
    if (from->size)
        memcpy(to->bytes, from->bytes, from->size);
}

void memory_file_cut(const struct memory_file *log, const struct memory_file *from, size_t events,
                     uint64_t (*random)(void), struct memory_file *out)
{
    size_t flushed = 0;

    memory_file_copy(out, from);
    for (size_t i = 0; i < events; i++)
        if (!log->event[i].length && !log->event[i].resize)
            flushed = i;
    for (size_t i = 0; i < events; i++) {
        const struct memory_event *e = &log->event[i];

        if (e->resize && (i < flushed || !random || random() & 1))
            put_size(out, e->offset);
        for (size_t at = 0; at < e->length;) {
            size_t step = MIN(BLOCK_SECTOR - (e->offset + at) % BLOCK_SECTOR, e->length - at);

            if (i < flushed || !random || random() & 1)
                put(out, e->offset + at, e->bytes + at, step);
            at += step;
        }
    }
}
