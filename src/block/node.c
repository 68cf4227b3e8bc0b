/*
 * node.c - the graph: opening and closing, finding a format out, and the checks that every request
 * passes before a driver sees it (block.h).
 *
 * A protocol's file may grow by a write behind its end, and reads as zeros there; a format's disk
 * has its size and nothing outside.
 */
#include "base/log.h"
#include "block/block.h"
#include "block/drivers.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHAIN_MAX = 64 };

const struct block_driver *const block_drivers[] = {
#define DRIVER(name) &name,
#include "block/drivers.def"
#undef DRIVER
    NULL,
};

const struct block_driver *block_driver_find(const char *name)
{
    if (!strcmp(name, "vhd")) /* what people say; QEMU says vpc */
        name = "vpc";
    for (unsigned i = 0; block_drivers[i]; i++)
        if (!strcmp(block_drivers[i]->name, name) && !block_drivers[i]->protocol)
            return block_drivers[i];
    return NULL;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

struct block_node *block_node_new(const struct block_driver *driver, const char *filename,
                                  unsigned flags)
{
    struct block_node *n = xcalloc(1, sizeof(*n));

    n->driver = driver;
    n->filename = xstrdup(filename);
    n->flags = flags;
    n->fd = -1;
    n->align = 1;
    n->state = xcalloc(1, driver->instance_size);
    return n;
}

static void node_free(struct block_node *n)
{
    free(n->filename);
    free(n->backing_name);
    free(n->backing_format);
    free(n->state);
    free(n);
}

void block_close(struct block_node *n)
{
    if (!n)
        return;
    if (n->driver->close)
        n->driver->close(n);
    block_close(n->backing);
    block_close(n->file);
    node_free(n);
}

static bool has_scheme(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz+");

    return n > 1 && name[n] == ':';
}

struct block_node *block_open_protocol(const char *filename, unsigned flags, struct error *err)
{
    const struct block_driver *driver = &block_file;
    struct block_node *n;

    if (!strncmp(filename, "nbd", 3) && has_scheme(filename)) {
        driver = block_nbd_driver();
        if (!driver) {
            error_set(err, ENOTSUP, "'%s': this hospes was built without libnbd", filename);
            return NULL;
        }
    } else if (!strncmp(filename, "json:", 5)) {
        error_set(err, ENOTSUP, "'%.60s': descriptions in JSON are not understood; give a path",
                  filename);
        return NULL;
    } else if (!strncmp(filename, "file:", 5)) {
        filename += 5;
    }
    n = block_node_new(driver, filename, flags);
    if (driver->open(n, err) < 0) {
        node_free(n);
        return NULL;
    }
    return n;
}

const struct block_driver *block_probe_sector(const uint8_t sector[BLOCK_SECTOR])
{
    for (unsigned i = 0; block_drivers[i]; i++)
        if (block_drivers[i]->probe && block_drivers[i]->probe(sector, BLOCK_SECTOR))
            return block_drivers[i];
    return &block_raw;
}

int block_probe(struct block_node *file, const struct block_driver **out)
{
    uint8_t head[BLOCK_SECTOR] = {0};
    int r = block_read(file, 0, head, sizeof(head)); /* zeros behind the end */

    if (r == 0)
        *out = block_probe_sector(head);
    return r;
}

/* A backing file's name is relative to the image that names it. */
static char *beside(const char *image, const char *name)
{
    const char *slash = strrchr(image, '/');

    if (name[0] == '/' || has_scheme(name) || !slash || has_scheme(image))
        return xstrdup(name);
    return xasprintf("%.*s/%s", (int)(slash - image), image, name);
}

static struct block_node *open_over(struct block_node *file, const char *format, unsigned flags,
                                    unsigned depth, struct error *err);

static int open_backing(struct block_node *n, unsigned depth, struct error *err)
{
    unsigned flags = n->flags & ~(unsigned)(BLOCK_WRITE | BLOCK_REPAIR);
    auto_free char *path = beside(n->filename, n->backing_name);
    struct block_node *file;

    if (depth >= CHAIN_MAX)
        return error_set(err, ELOOP, "'%s': more than %d backing files, or one is behind itself",
                         n->filename, CHAIN_MAX);
    file = block_open_protocol(path, flags, err);
    if (file) {
        if (!n->backing_format)
            log_warn("'%s' does not say what format its backing file '%s' has; it is found out by "
                     "the content",
                     n->filename, path);
        n->backing = open_over(file, n->backing_format, flags, depth + 1, err);
    }
    if (!n->backing && depth == 0)
        error_prefix(err, 0, "backing file of '%s': ", n->filename);
    return n->backing ? 0 : -EIO;
}

static struct block_node *open_over(struct block_node *file, const char *format, unsigned flags,
                                    unsigned depth, struct error *err)
{
    const struct block_driver *driver = NULL;
    struct block_node *n;
    int r = 0;

    if (format) {
        driver = block_driver_find(format);
        if (!driver)
            r = error_set(err, EINVAL, "'%s': there is no format '%s'", file->filename, format);
    } else {
        r = block_probe(file, &driver);
        if (r < 0)
            error_set_errno(err, -r, "cannot read '%s'", file->filename);
    }
    if (r == 0 && driver->no_write && flags & BLOCK_WRITE)
        r = error_set(err, EROFS,
                      "'%s': format %s can only be read; convert it, or open it "
                      "read-only",
                      file->filename, driver->name);
    if (r < 0) {
        block_close(file);
        return NULL;
    }
    n = block_node_new(driver, file->filename, flags);
    n->file = file;
    r = driver->open(n, err);
    if (r < 0) {
        block_close(file);
        node_free(n);
        return NULL;
    }
    if (n->backing_name && !(flags & BLOCK_NO_BACKING) && !n->backing &&
        open_backing(n, depth, err) < 0) {
        block_close(n);
        return NULL;
    }
    return n;
}

struct block_node *block_open_over(struct block_node *file, const char *format, unsigned flags,
                                   struct error *err)
{
    return open_over(file, format, flags, 0, err);
}

struct block_node *block_open(const char *filename, const char *format, unsigned flags,
                              struct error *err)
{
    struct block_node *file = block_open_protocol(filename, flags, err);

    return file ? open_over(file, format, flags, 0, err) : NULL;
}

int block_create(const char *filename, const char *format, const struct block_create *c,
                 struct error *err)
{
    const struct block_driver *driver = block_driver_find(format);
    struct block_create own = *c;
    struct block_node *file;
    int r;

    if (!driver)
        return error_set(err, EINVAL, "there is no format '%s'", format);
    if (!driver->create)
        return error_set(err, ENOTSUP, "images of format '%s' cannot be made", format);
    if (c->size > BLOCK_SIZE_MAX)
        return error_set(err, EFBIG, "'%s': a disk of %llu bytes is too large", filename,
                         (unsigned long long)c->size);
    own.filename = filename;
    file = has_scheme(filename) ? block_open_protocol(filename, BLOCK_WRITE, err)
                                : block_file_create(filename, err);
    if (!file)
        return err && err->code ? -err->code : -EIO;
    r = driver->create(file, &own, err);
    if (r == 0) {
        r = block_flush(file);
        if (r < 0)
            error_set_errno(err, -r, "cannot write '%s'", filename);
    }
    block_close(file);
    return r;
}

/* ---- requests ---------------------------------------------------------------------------------
 */

unsigned block_begin(struct block_node *n)
{
    for (;;) {
        unsigned e = atomic_load(&n->epoch);

        atomic_fetch_add(&n->inflight[e & 1], 1);
        if (atomic_load(&n->epoch) == e)
            return e & 1;
        atomic_fetch_sub(&n->inflight[e & 1], 1); /* a new epoch began in between */
    }
}

void block_end(struct block_node *n, unsigned ticket)
{
    atomic_fetch_sub(&n->inflight[ticket], 1);
}

bool block_quiesced(struct block_node *n)
{
    unsigned e = atomic_load(&n->epoch);

    if (atomic_load(&n->inflight[(e + 1) & 1]))
        return false;
    atomic_store(&n->epoch, e + 1);
    return true;
}

void block_grew(struct block_node *n, uint64_t end)
{
    uint64_t size = atomic_load(&n->size);

    while (size < end && !atomic_compare_exchange_weak(&n->size, &size, end))
        ;
}

bool block_is_zero(const void *buffer, size_t length)
{
    const uint8_t *p = buffer;

    /* The ends first: most data that is not zero says so there. */
    if (length == 0)
        return true;
    if (p[0] || p[length - 1] || p[length / 2])
        return false;
    return length < 2 || !memcmp(p, p + 1, length - 1);
}

int block_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    uint64_t size = n->size;
    unsigned ticket;
    int r;

    if (n->driver->protocol && !range_within(offset, length, size)) {
        size_t have = offset < size ? size - offset : 0;

        memset((char *)buffer + have, 0, length - have);
        length = have;
    }
    if (length == 0)
        return 0;
    if (!range_within(offset, length, size))
        return -EINVAL;
    ticket = block_begin(n);
    r = n->driver->read(n, offset, buffer, length);
    block_end(n, ticket);
    return r;
}

static int check_write(struct block_node *n, uint64_t offset, uint64_t length)
{
    if (!(n->flags & BLOCK_WRITE))
        return -EROFS;
    return range_within(offset, length, n->driver->protocol ? BLOCK_SIZE_MAX : n->size) ? 0
                                                                                        : -EINVAL;
}

int block_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    int r = check_write(n, offset, length);
    unsigned ticket;

    if (r < 0 || length == 0)
        return r;
    ticket = block_begin(n);
    r = n->driver->write(n, offset, buffer, length);
    block_end(n, ticket);
    return r;
}

int block_flush(struct block_node *n)
{
    if (!(n->flags & BLOCK_WRITE))
        return 0;
    return n->driver->flush ? n->driver->flush(n) : 0;
}

int block_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    int r = check_write(n, offset, length);
    unsigned ticket;

    if (r < 0 || length == 0 || !n->driver->discard)
        return r;
    ticket = block_begin(n);
    r = n->driver->discard(n, offset, length);
    block_end(n, ticket);
    return r == -ENOTSUP ? 0 : r; /* a discard is advice */
}

static int write_zero_bytes(struct block_node *n, uint64_t offset, uint64_t length)
{
    size_t room = MIN(length, (uint64_t)MiB);
    auto_free void *zeros = aligned_alloc(4096, align_up(room, 4096));
    int r = zeros ? 0 : -ENOMEM;

    if (zeros)
        memset(zeros, 0, room);
    for (; r == 0 && length; offset += room, length -= room) {
        room = MIN(length, (uint64_t)MiB);
        r = n->driver->write(n, offset, zeros, room);
    }
    return r;
}

int block_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    int r = check_write(n, offset, length);
    unsigned ticket;

    if (r < 0 || length == 0)
        return r;
    ticket = block_begin(n);
    r = n->driver->write_zeroes ? n->driver->write_zeroes(n, offset, length, unmap) : -ENOTSUP;
    if (r == -ENOTSUP)
        r = write_zero_bytes(n, offset, length);
    block_end(n, ticket);
    return r;
}

int block_write_compressed(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    int r = check_write(n, offset, length);
    unsigned ticket;

    if (r < 0 || length == 0)
        return r;
    if (!n->driver->write_compressed)
        return -ENOTSUP;
    ticket = block_begin(n);
    r = n->driver->write_compressed(n, offset, buffer, length);
    block_end(n, ticket);
    return r;
}

int block_read_backing(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    struct block_node *b = n->backing;
    size_t have = !b || offset >= b->size ? 0 : MIN(length, b->size - offset);

    memset((char *)buffer + have, 0, length - have);
    return have ? block_read(b, offset, buffer, have) : 0;
}

int block_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
              struct block_extent *out)
{
    uint64_t size = n->size;
    unsigned depth = 0;
    int r;

    if (!length || !range_within(offset, length, size) ||
        (flags & BLOCK_MAP_WRITE && !(n->flags & BLOCK_WRITE)))
        return -EINVAL;
    for (;; n = n->backing, depth++) {
        *out = (struct block_extent){.kind = BLOCK_SLOW, .length = length, .depth = depth};
        if (!n->driver->map)
            return 0;
        r = n->driver->map(n, offset, length, flags, out);
        out->depth = depth;
        if (r < 0 || out->kind != BLOCK_UNBACKED)
            return r;
        length = out->length;
        if (!n->backing || offset >= n->backing->size) {
            out->kind = BLOCK_ZERO;
            return 0;
        }
        length = MIN(length, n->backing->size - offset);
    }
}

int block_status(struct block_node *n, uint64_t offset, uint64_t length, struct block_extent *out)
{
    int r = block_map(n, offset, length, 0, out);
    uint64_t run;

    if (r == 0 && out->kind == BLOCK_DATA && out->file->driver->hole) {
        int hole = out->file->driver->hole(out->file, out->offset, out->length, &run);

        if (hole >= 0) {
            out->length = MIN(out->length, run);
            if (hole)
                out->kind = BLOCK_ZERO;
        }
    }
    return r;
}

int block_resize(struct block_node *n, uint64_t size, struct error *err)
{
    if (!(n->flags & BLOCK_WRITE))
        return error_set(err, EROFS, "'%s' is open read-only", n->filename);
    if (size > BLOCK_SIZE_MAX)
        return error_set(err, EFBIG, "'%s': %llu bytes are too large", n->filename,
                         (unsigned long long)size);
    if (!n->driver->resize)
        return error_set(err, ENOTSUP, "'%s': images of format %s cannot be resized", n->filename,
                         n->driver->name);
    return n->driver->resize(n, size, err);
}

int block_check(struct block_node *n, struct block_check *c, struct error *err)
{
    if (!n->driver->check)
        return error_set(err, ENOTSUP, "'%s': format %s has nothing to check", n->filename,
                         n->driver->name);
    return n->driver->check(n, c, err);
}

void block_check_tell(struct block_check *c, const char *format, ...)
{
    char text[300];
    va_list ap;

    if (!c->tell)
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    c->tell(c->opaque, text);
}

void block_info_add(struct block_info *i, const char *name, const char *format, ...)
{
    va_list ap;

    if (i->count == BLOCK_INFO_MAX)
        return;
    snprintf(i->fact[i->count].name, sizeof(i->fact[0].name), "%s", name);
    va_start(ap, format);
    vsnprintf(i->fact[i->count].value, sizeof(i->fact[0].value), format, ap);
    va_end(ap);
    i->count++;
}
