/*
 * raw.c - the format that is none: the disk's bytes are the file's.
 */
#include "block/drivers.h"

#include <errno.h>

static int raw_open(struct block_node *n, struct error *err)
{
    (void)err;
    n->size = atomic_load(&n->file->size);
    return 0;
}

static int raw_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    const char *mode, *extra;
    int r;

    if (!o)
        return -EINVAL;
    mode = block_option(o, "preallocation");
    extra = block_option_unused(o);
    if (extra)
        r = error_set(err, EINVAL, "format raw has no option '%s'; it has preallocation", extra);
    else if (c->backing)
        r = error_set(err, EINVAL, "a raw image cannot have a backing file; qcow2 can");
    else if (mode && strcmp(mode, "off") && strcmp(mode, "falloc") && strcmp(mode, "full"))
        r = error_set(err, EINVAL, "option preallocation: '%s' is none of off, falloc, full", mode);
    else
        r = block_resize(file, c->size, err);
    if (r == 0 && mode && strcmp(mode, "off")) {
        r = block_file_preallocate(file, 0, c->size, !strcmp(mode, "full"));
        if (r < 0)
            error_set_errno(err, -r, "cannot preallocate '%s'", c->filename);
    }
    block_options_free(o);
    return r;
}

static int raw_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    return block_read(n->file, offset, buffer, length);
}

static int raw_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    return block_write(n->file, offset, buffer, length);
}

static int raw_flush(struct block_node *n)
{
    return block_flush(n->file);
}

static int raw_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    return n->flags & BLOCK_UNMAP ? block_discard(n->file, offset, length) : 0;
}

static int raw_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    return block_write_zeroes(n->file, offset, length, unmap && n->flags & BLOCK_UNMAP);
}

static int raw_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                   struct block_extent *out)
{
    (void)flags;
    *out = (struct block_extent){
        .kind = BLOCK_DATA, .length = length, .file = n->file, .offset = offset};
    return 0;
}

static int raw_resize(struct block_node *n, uint64_t size, struct error *err)
{
    int r = block_resize(n->file, size, err);

    if (r == 0)
        n->size = size;
    return r;
}

const struct block_driver block_raw = {
    .name = "raw",
    .summary = "the disk's bytes and nothing else",
    .create_options =
        (const struct block_create_option[]){
            {"preallocation", "off, falloc (reserve the space) or full (write it)"},
            {0},
        },
    .open = raw_open,
    .create = raw_create,
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
    .map = raw_map,
    .resize = raw_resize,
};
