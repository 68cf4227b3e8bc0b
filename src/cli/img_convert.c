/*
 * img_convert.c - `hospes img convert` and `compare`: all of an image, read by several threads.
 *
 * Convert. The output is made under another name and gets its own when it is complete, so that
 * whatever happens leaves the old file or the new one. Threads take pieces of the disk in
 * order, read them at once, and write them in order where the order decides how the output lies in
 * its file. Zeros are not written into what is new.
 */
#include "cli/img.h"

#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 2 * MiB, THREADS = 4 };

struct pieces {
    struct block_node *in, *out;
    uint64_t size, grain; /* zeros are left out in units of this */
    bool compress, zeros, in_order, durable;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t next, written; /* offsets: of the next piece to take, and to write */
    uint64_t reached;
    uint64_t differs; /* compare: the first byte that does, or UINT64_MAX */
    int error;
    bool reading; /* the error is the input's */
    uint64_t error_at;
    struct img_progress progress;
};

static void fail(struct pieces *p, int error, bool reading, uint64_t at)
{
    pthread_mutex_lock(&p->lock);
    if (!p->error) {
        p->error = error;
        p->reading = reading;
        p->error_at = at;
    }
    pthread_cond_broadcast(&p->turn);
    pthread_mutex_unlock(&p->lock);
}

/* The next piece, or false at the end. */
static bool take(struct pieces *p, uint64_t *offset, uint64_t *length)
{
    bool any;

    pthread_mutex_lock(&p->lock);
    if (img_stopped && !p->error)
        p->error = -EINTR;
    any = p->next < p->size && !p->error;
    *offset = p->next;
    *length = MIN(p->size - p->next, PIECE);
    p->next += any ? *length : 0;
    pthread_mutex_unlock(&p->lock);
    return any;
}

/* Read a piece; `zero` says that it is known to be zeros without looking. */
static int read_piece(struct pieces *p, struct block_node *n, uint64_t offset, uint8_t *buffer,
                      uint64_t length, bool *zero)
{
    int r = 0;

    *zero = true;
    for (uint64_t at = 0; r == 0 && at < length;) {
        struct block_extent e;

        if (offset + at >= n->size) {
            memset(buffer + at, 0, length - at);
            break;
        }
        r = block_status(n, offset + at, MIN(length - at, n->size - offset - at), &e);
        if (r < 0)
            break;
        if (e.kind == BLOCK_ZERO) {
            memset(buffer + at, 0, e.length);
        } else {
            *zero = false;
            r = block_read(n, offset + at, buffer + at, e.length);
        }
        at += e.length;
    }
    return r;
}

static int write_run(struct pieces *p, uint64_t offset, const uint8_t *data, uint64_t length,
                     bool zero)
{
    if (zero)
        return p->zeros ? block_write_zeroes(p->out, offset, length, true) : 0;
    if (p->compress)
        return block_write_compressed(p->out, offset, data, length);
    return block_write(p->out, offset, data, length);
}

/* Runs of grains that are zero and that are not. */
static int write_piece(struct pieces *p, uint64_t offset, const uint8_t *data, uint64_t length,
                       bool zero)
{
    int r = 0;

    if (zero)
        return write_run(p, offset, data, length, true);
    for (uint64_t at = 0, end; r == 0 && at < length; at = end) {
        bool first = p->grain && block_is_zero(data + at, MIN(p->grain, length - at));

        end = p->grain ? at + MIN(p->grain, length - at) : length;
        while (end < length && block_is_zero(data + end, MIN(p->grain, length - end)) == first)
            end += MIN(p->grain, length - end);
        r = write_run(p, offset + at, data + at, end - at, first);
    }
    return r;
}

static void wait_for_turn(struct pieces *p, uint64_t offset)
{
    pthread_mutex_lock(&p->lock);
    while (p->written != offset && !p->error)
        pthread_cond_wait(&p->turn, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void piece_done(struct pieces *p, uint64_t offset, uint64_t length)
{
    pthread_mutex_lock(&p->lock);
    if (p->in_order)
        p->written = offset + length;
    p->reached += length;
    img_progress_show(&p->progress, p->reached, p->size);
    pthread_cond_broadcast(&p->turn);
    pthread_mutex_unlock(&p->lock);
}

static void *copy(void *opaque)
{
    struct pieces *p = opaque;
    auto_free uint8_t *buffer = aligned_alloc(4096, PIECE);
    uint64_t offset, length;

    if (!buffer)
        fail(p, -ENOMEM, true, 0);
    while (take(p, &offset, &length)) {
        bool zero;
        int r = read_piece(p, p->in, offset, buffer, length, &zero);

        if (r < 0) {
            fail(p, r, true, offset);
            break;
        }
        if (p->in_order)
            wait_for_turn(p, offset);
        if (p->error)
            break;
        r = write_piece(p, offset, buffer, length, zero);
        if (r < 0) {
            fail(p, r, false, offset);
            break;
        }
        piece_done(p, offset, length);
    }
    return NULL;
}

static void run_threads(struct pieces *p, void *(*work)(void *), const struct img_options *o)
{
    pthread_t thread[THREADS];
    unsigned count = 0;

    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->turn, NULL);
    img_progress_begin(&p->progress, o);
    while (count < THREADS && pthread_create(&thread[count], NULL, work, p) == 0)
        count++;
    if (!count)
        work(p);
    while (count)
        pthread_join(thread[--count], NULL);
    img_progress_end(&p->progress);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->turn);
}

/* ---- convert ----------------------------------------------------------------------------------
 */

static bool is_device(const char *name)
{
    struct stat st;

    return stat(name, &st) == 0 && S_ISBLK(st.st_mode);
}

static int copy_all(struct pieces *p, const struct img_options *o, const char *out_name,
                    struct error *err)
{
    int r;

    run_threads(p, copy, o);
    if (p->error == -EINTR)
        return error_set(err, EINTR, "stopped by a signal; '%s' is as it was", out_name);
    if (p->error)
        return error_set_errno(err, -p->error, "cannot %s at byte %llu of '%s'",
                               p->reading ? "read" : "write", (unsigned long long)p->error_at,
                               p->reading ? p->in->filename : out_name);
    r = p->durable ? block_flush(p->out) : 0;
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", out_name) : 0;
}

static void remove_file(void *unused, const char *path)
{
    (void)unused;
    unlink(path);
}

static int convert_into(const struct img_options *o, struct block_node *in, const char *name,
                        const char *format, const char *final, struct error *err)
{
    struct pieces p = {.in = in, .size = in->size, .compress = o->compress};
    struct block_info info = {0};
    bool fresh = !o->no_create && !is_device(name);
    struct block_create c = {.size = in->size,
                             .backing = o->backing,
                             .backing_format = o->backing_format,
                             .options = o->options,
                             .final_name = final};
    int r = 0;

    if (!o->no_create)
        r = block_create(name, format, &c, err);
    if (r < 0)
        return r;
    /* Like cp, and qemu-img, we leave it to the host when a new file reaches its disk; one that
     * takes an old one's place is there before that goes. */
    p.durable = o->no_create || is_device(name) || access(final, F_OK) == 0 ||
                (o->cache && strcmp(o->cache, "unsafe"));
    p.out = block_open(name, format, BLOCK_WRITE | BLOCK_UNMAP | (p.durable ? 0 : BLOCK_NO_FLUSH),
                       err);
    if (!p.out)
        return -EIO;
    if (o->compress && !p.out->driver->write_compressed)
        r = error_set(err, ENOTSUP, "format %s has no compression (option -c)", format);
    else if (p.out->size < in->size)
        r = error_set(err, ENOSPC, "'%s' has %llu bytes, the image %llu", final,
                      (unsigned long long)p.out->size, (unsigned long long)in->size);
    if (p.out->driver->info)
        p.out->driver->info(p.out, &info);
    /* Zeros inside of large blocks become holes of the file; small clusters are left out whole. */
    p.grain = o->sparse;
    if (p.grain && (o->compress || info.cluster_size <= 64 * KiB))
        p.grain = MAX(p.grain, info.cluster_size);
    if (p.grain > PIECE)
        p.grain = PIECE;
    p.zeros = !fresh || o->backing;
    p.in_order = info.cluster_size && !o->compress;
    if (r == 0)
        r = copy_all(&p, o, final, err);
    if (r < 0 && !o->no_create && p.out->driver->files)
        p.out->driver->files(p.out, remove_file, NULL);
    block_close(p.out);
    return r;
}

int img_convert(const struct img_options *o)
{
    const char *format = o->other_format ? o->other_format : "raw", *to = o->operand[1];
    const struct block_driver *driver = block_driver_find(format);
    auto_free char *part = NULL;
    struct block_node *in;
    struct error err = {0};
    bool direct = o->no_create || is_device(to) || strchr(to, ':');
    int r;

    if (!driver) {
        log_error("there is no format '%s'", format);
        return IMG_FAILED;
    }
    if (o->backing && !o->backing_format) {
        log_error("option -B needs -F: the format of a backing file is not guessed");
        return IMG_FAILED;
    }
    in = img_open(o, o->operand[0], o->format, 0, &err);
    if (!in) {
        log_error("%s", err.text);
        return IMG_FAILED;
    }
    img_catch_signals();
    part = xasprintf("%s.part-%d", to, (int)getpid());
    r = convert_into(o, in, direct ? to : part, format, to, &err);
    block_close(in);
    if (!direct) {
        if (r == 0 && rename(part, to) < 0)
            r = error_set_errno(&err, errno, "cannot name the new image '%s'", to);
        if (r < 0)
            unlink(part);
    }
    if (r < 0)
        log_error("%s", err.text);
    return r < 0 ? IMG_FAILED : 0;
}

/* ---- compare ----------------------------------------------------------------------------------
 */

static void found(struct pieces *p, uint64_t at)
{
    pthread_mutex_lock(&p->lock);
    p->differs = MIN(p->differs, at);
    if (!p->error)
        p->next = p->size; /* those behind need no look; those before are being looked at */
    pthread_mutex_unlock(&p->lock);
}

static void *look(void *opaque)
{
    struct pieces *p = opaque;
    auto_free uint8_t *a = aligned_alloc(4096, PIECE), *b = aligned_alloc(4096, PIECE);
    uint64_t offset, length;

    if (!a || !b)
        fail(p, -ENOMEM, true, 0);
    while (take(p, &offset, &length)) {
        bool zero_a, zero_b;
        int r = read_piece(p, p->in, offset, a, length, &zero_a);

        if (r < 0) {
            fail(p, r, true, offset);
            break;
        }
        r = read_piece(p, p->out, offset, b, length, &zero_b);
        if (r < 0) {
            fail(p, r, false, offset);
            break;
        }
        if (!(zero_a && zero_b) && memcmp(a, b, length)) {
            uint64_t i = 0;

            while (a[i] == b[i])
                i++;
            found(p, offset + i);
        }
        piece_done(p, offset, length);
    }
    return NULL;
}

int img_compare(const struct img_options *o)
{
    struct pieces p = {.differs = UINT64_MAX};
    struct error err = {0};
    int status = 0;

    p.in = img_open(o, o->operand[0], o->format, 0, &err);
    p.out = p.in ? img_open(o, o->operand[1], o->other_format, 0, &err) : NULL;
    if (!p.out) {
        log_error("%s", err.text);
        block_close(p.in);
        return IMG_USAGE;
    }
    p.size = MAX(p.in->size, p.out->size);
    img_catch_signals();
    if (o->strict && p.in->size != p.out->size) {
        if (!o->quiet)
            printf("Strict mode: the sizes differ: %llu and %llu bytes\n",
                   (unsigned long long)p.in->size, (unsigned long long)p.out->size);
        status = 1;
    } else {
        run_threads(&p, look, o);
        if (p.error) {
            log_error("cannot read '%s' at byte %llu: %s",
                      p.reading ? o->operand[0] : o->operand[1], (unsigned long long)p.error_at,
                      strerror(-p.error));
            status = 2;
        } else if (p.differs != UINT64_MAX) {
            if (!o->quiet)
                printf("Content mismatch at offset %llu!\n", (unsigned long long)p.differs);
            status = 1;
        } else if (!o->quiet) {
            if (p.in->size != p.out->size)
                printf("Warning: the sizes differ; the longer one ends in zeros\n");
            printf("Images are identical.\n");
        }
    }
    block_close(p.in);
    block_close(p.out);
    return status;
}
