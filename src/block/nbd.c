/*
 * nbd.c - the protocol `nbd`, by libnbd: nbd://host:port/export, nbd+unix:///export?socket=PATH,
 * nbds://..., and what its URIs can say besides. nbdkit brings SSH, S3, iSCSI and others this way.
 *
 * libnbd's calls are synchronous here and one at a time for each connection; where the server says
 * that several connections see the same data there are several, and workers share them.
 */
#include "block/drivers.h"

#ifdef HAVE_LIBNBD

#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdlib.h>

enum { CONNECTIONS = 4, PIECE = 16 * MiB };

struct nbd {
    struct nbd_handle *handle[CONNECTIONS];
    unsigned count;
    bool flush, trim, zero, status;
    pthread_mutex_t lock;
    pthread_cond_t released;
    bool busy[CONNECTIONS];
};

static int refused(struct block_node *n, struct error *err)
{
    int code = nbd_get_errno() ? nbd_get_errno() : EIO;

    return error_set(err, code, "'%s': %s", n->filename, nbd_get_error());
}

static struct nbd_handle *connect_one(struct block_node *n)
{
    struct nbd_handle *h = nbd_create();

    if (!h)
        return NULL;
    if (nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_set_uri_allow_local_file(h, true) < 0 || nbd_connect_uri(h, n->filename) < 0) {
        nbd_close(h);
        return NULL;
    }
    return h;
}

static void release(struct nbd *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        nbd_shutdown(s->handle[i], 0);
        nbd_close(s->handle[i]);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->released);
}

static int nbd_node_open(struct block_node *n, struct error *err)
{
    struct nbd *s = n->state;
    struct nbd_handle *h = connect_one(n);
    int64_t size;
    int r = 0;

    if (!h)
        return refused(n, err);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->released, NULL);
    s->handle[s->count++] = h;
    size = nbd_get_size(h);
    if (size < 0)
        r = refused(n, err);
    else if (n->flags & BLOCK_WRITE && nbd_is_read_only(h) != 0)
        r = error_set(err, EROFS, "'%s' can only be read; use readonly=on", n->filename);
    if (r < 0) {
        release(s);
        return r;
    }
    s->flush = nbd_can_flush(h) > 0;
    s->trim = nbd_can_trim(h) > 0;
    s->zero = nbd_can_zero(h) > 0;
    s->status = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    if (nbd_can_multi_conn(h) > 0)
        while (s->count < CONNECTIONS && (h = connect_one(n)))
            s->handle[s->count++] = h;
    n->size = (uint64_t)size;
    return 0;
}

static void nbd_node_close(struct block_node *n)
{
    release(n->state);
}

/* A connection that nobody uses. */
static struct nbd_handle *take(struct nbd *s, unsigned *which)
{
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0;; i++) {
        if (i == s->count) {
            pthread_cond_wait(&s->released, &s->lock);
            i = 0;
        }
        if (!s->busy[i]) {
            s->busy[i] = true;
            pthread_mutex_unlock(&s->lock);
            *which = i;
            return s->handle[i];
        }
    }
}

static int give(struct nbd *s, unsigned which, int result)
{
    int code = result < 0 ? (nbd_get_errno() ? nbd_get_errno() : EIO) : 0;

    pthread_mutex_lock(&s->lock);
    s->busy[which] = false;
    pthread_cond_signal(&s->released);
    pthread_mutex_unlock(&s->lock);
    return -code;
}

static int nbd_node_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    struct nbd *s = n->state;
    uint8_t *p = buffer;
    unsigned which;
    struct nbd_handle *h = take(s, &which);
    int r = 0;

    while (r == 0 && length) {
        size_t step = MIN(length, PIECE);

        r = nbd_pread(h, p, step, offset, 0);
        p += step;
        offset += step;
        length -= step;
    }
    return give(s, which, r);
}

static int nbd_node_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct nbd *s = n->state;
    const uint8_t *p = buffer;
    struct nbd_handle *h;
    unsigned which;
    int r = 0;

    if (!range_within(offset, length, n->size))
        return -ENOSPC;
    h = take(s, &which);
    while (r == 0 && length) {
        size_t step = MIN(length, PIECE);

        r = nbd_pwrite(h, p, step, offset, 0);
        p += step;
        offset += step;
        length -= step;
    }
    return give(s, which, r);
}

static int nbd_node_flush(struct block_node *n)
{
    struct nbd *s = n->state;
    unsigned which;
    struct nbd_handle *h;

    if (!s->flush || n->flags & BLOCK_NO_FLUSH)
        return 0;
    h = take(s, &which);
    return give(s, which, nbd_flush(h, 0));
}

static int in_pieces(struct block_node *n, uint64_t offset, uint64_t length,
                     int (*call)(struct nbd_handle *h, uint64_t count, uint64_t offset,
                                 uint32_t flags),
                     uint32_t flags)
{
    struct nbd *s = n->state;
    unsigned which;
    struct nbd_handle *h = take(s, &which);
    int r = 0;

    while (r == 0 && length) {
        uint64_t step = MIN(length, (uint64_t)GiB);

        r = call(h, step, offset, flags);
        offset += step;
        length -= step;
    }
    return give(s, which, r);
}

static int nbd_node_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    struct nbd *s = n->state;

    if (!s->trim || !range_within(offset, length, n->size))
        return 0;
    return in_pieces(n, offset, length, nbd_trim, 0);
}

static int nbd_node_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    struct nbd *s = n->state;

    if (!s->zero)
        return -ENOTSUP;
    if (!range_within(offset, length, n->size))
        return -ENOSPC;
    return in_pieces(n, offset, length, nbd_zero, unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
}

static int nbd_node_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                        struct block_extent *out)
{
    (void)flags;
    *out = (struct block_extent){.kind = BLOCK_DATA, .length = length, .file = n, .offset = offset};
    return 0;
}

struct answer {
    bool any, zero;
    uint64_t run;
};

static int note_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                        size_t count, int *error)
{
    struct answer *a = opaque;

    (void)offset;
    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION))
        return 0;
    for (size_t i = 0; i + 1 < count; i += 2) {
        bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;

        if (a->any && zero != a->zero)
            break;
        a->any = true;
        a->zero = zero;
        a->run += entries[i];
    }
    return 0;
}

static int nbd_node_hole(struct block_node *n, uint64_t offset, uint64_t length, uint64_t *run)
{
    struct nbd *s = n->state;
    struct answer a = {0};
    nbd_extent_callback callback = {.callback = note_extents, .user_data = &a};
    unsigned which;
    struct nbd_handle *h;
    int r;

    if (!s->status || offset >= n->size)
        return -ENOTSUP;
    length = MIN(MIN(length, n->size - offset), (uint64_t)GiB);
    h = take(s, &which);
    r = give(s, which, nbd_block_status(h, length, offset, callback, 0));
    if (r < 0 || !a.any || !a.run)
        return -EIO;
    *run = MIN(a.run, length);
    return a.zero;
}

static int nbd_node_resize(struct block_node *n, uint64_t size, struct error *err)
{
    if (size > n->size)
        return error_set(err, ENOSPC, "'%s' has %llu bytes and cannot be made longer from here",
                         n->filename, (unsigned long long)n->size);
    return 0; /* like a block device: what is behind the end is not used */
}

static const struct block_driver block_nbd = {
    .name = "nbd",
    .summary = "a network block device",
    .protocol = true,
    .instance_size = sizeof(struct nbd),
    .open = nbd_node_open,
    .close = nbd_node_close,
    .read = nbd_node_read,
    .write = nbd_node_write,
    .flush = nbd_node_flush,
    .discard = nbd_node_discard,
    .write_zeroes = nbd_node_write_zeroes,
    .map = nbd_node_map,
    .hole = nbd_node_hole,
    .resize = nbd_node_resize,
};

const struct block_driver *block_nbd_driver(void)
{
    return &block_nbd;
}

#else

const struct block_driver *block_nbd_driver(void)
{
    return NULL;
}

#endif
