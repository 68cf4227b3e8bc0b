/*
 * disk.c - requests of devices, without blocking them (disk.h).
 *
 * Two ways. Fast: block_map() says where the bytes are in a host's file, without waiting, and
 * io_uring moves them; one thread per disk waits for completions. Slow: a worker thread calls the
 * driver. A request that is only partly at one place goes the slow way as a whole. Requests over
 * the limits of throttling wait in a queue that the disk's thread serves by the clock.
 *
 * Locks. `lock` guards the queues and counts of a disk, `submit_lock` the ring's submission side;
 * neither is held when `done` is called. The pool of workers is one for the process.
 */
#include "block/disk.h"

#include "base/log.h"
#include "block/drivers.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

enum { WORKERS_MAX = 16, WORKER_IDLE_SECONDS = 10, RING_ENTRIES = 256, IOV_MAX_COUNT = 1024 };
enum { REQUEST_MAX = GiB, BOUNCE_MAX = 2 * MiB };

enum limit { LIMIT_ALL, LIMIT_READ, LIMIT_WRITE, LIMITS };

/* A bucket that fills with `rate` tokens a second, up to a tenth of a second's. */
struct bucket {
    double rate, level;
};

struct disk {
    struct block_node *node;
    bool write_cache, no_flush, read_only, discard, zero_detect, zero_unmap, guard_magic;
    bool throttled;
    unsigned physical_block;
    uint32_t granularity;

    pthread_mutex_t lock;
    pthread_cond_t idle;                         /* inflight became 0 */
    unsigned inflight;                           /* accepted and not done */
    struct disk_request *waiting, **waiting_end; /* throttled, or come while paused */
    unsigned waiting_count, paused;
    bool closing, stop;
    struct bucket ops[LIMITS], bytes[LIMITS];
    double filled; /* when the buckets were filled last, seconds */
    struct disk_stats stats;
    void (*resized)(void *opaque, uint64_t size);
    void *resized_opaque;

    pthread_t thread;
    bool thread_runs;
    pthread_cond_t wake; /* the thread, where there is no ring */
#ifdef HAVE_LIBURING
    struct io_uring ring;
    pthread_mutex_t submit_lock;
    unsigned ring_inflight;
#endif
    bool ring_ok;
};

static void start(struct disk *d, struct disk_request *r);

/* ---- ends -------------------------------------------------------------------------------------
 */

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void count_locked(struct disk *d, const struct disk_request *r, int result)
{
    struct disk_stats *s = &d->stats;

    s->failed += result < 0;
    switch (r->op) {
    case DISK_READ:
        s->reads++;
        s->read_bytes += r->bytes;
        break;
    case DISK_WRITE:
        s->writes++;
        s->written_bytes += r->bytes;
        break;
    case DISK_FLUSH: s->flushes++; break;
    case DISK_DISCARD: s->discards++; break;
    case DISK_WRITE_ZEROES: s->zeroes++; break;
    }
}

static void finish(struct disk *d, struct disk_request *r, int result)
{
    pthread_mutex_lock(&d->lock);
    count_locked(d, r, result);
    pthread_mutex_unlock(&d->lock);
    r->done(r, result);
    pthread_mutex_lock(&d->lock);
    if (!--d->inflight || d->paused)
        pthread_cond_broadcast(&d->idle);
    pthread_mutex_unlock(&d->lock);
}

/* ---- workers ----------------------------------------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct disk_request *first, **last;
    unsigned threads, idle;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, &pool.first, 0, 0};

static int gather(const struct disk_request *r, uint8_t *flat, bool from_guest)
{
    size_t at = 0;

    for (unsigned i = 0; i < r->iov_count; i++) {
        if (from_guest)
            memcpy(flat + at, r->iov[i].iov_base, r->iov[i].iov_len);
        else
            memcpy(r->iov[i].iov_base, flat + at, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
    }
    return 0;
}

/* Copied once before it is looked at: a guest may change its memory meanwhile. */
static bool would_change_format(struct disk *d, const struct disk_request *r, const uint8_t *data)
{
    uint8_t sector[BLOCK_SECTOR];

    if (!d->guard_magic || r->offset >= BLOCK_SECTOR)
        return false;
    if (block_read(d->node, 0, sector, MIN(d->node->size, BLOCK_SECTOR)) < 0)
        return true;
    memcpy(sector + r->offset, data, MIN(r->bytes, BLOCK_SECTOR - r->offset));
    return block_probe_sector(sector) != &block_raw;
}

static int write_data(struct disk *d, const struct disk_request *r, const uint8_t *data)
{
    if (would_change_format(d, r, data)) {
        log_guest("a write would make raw disk '%s', whose format was guessed, look like another "
                  "format; say format=raw to allow it",
                  d->node->filename);
        return -EPERM;
    }
    if (d->zero_detect && block_is_zero(data, r->bytes))
        return block_write_zeroes(d->node, r->offset, r->bytes, d->zero_unmap);
    return block_write(d->node, r->offset, data, r->bytes);
}

static int move(struct disk *d, const struct disk_request *r)
{
    auto_free uint8_t *flat = NULL;
    int result;

    if (r->iov_count == 1)
        return r->op == DISK_READ ? block_read(d->node, r->offset, r->iov[0].iov_base, r->bytes)
                                  : write_data(d, r, r->iov[0].iov_base);
    if (r->bytes == 0)
        return 0;
    flat = aligned_alloc(4096, align_up(r->bytes, 4096));
    if (!flat)
        return -ENOMEM;
    if (r->op == DISK_WRITE) {
        gather(r, flat, true);
        return write_data(d, r, flat);
    }
    result = block_read(d->node, r->offset, flat, r->bytes);
    return result < 0 ? result : gather(r, flat, false);
}

static bool needs_flush(const struct disk *d, const struct disk_request *r)
{
    return (r->op == DISK_WRITE || r->op == DISK_WRITE_ZEROES) && !d->no_flush &&
           (!d->write_cache || r->flags & DISK_FUA);
}

/* A request from beginning to end, on a worker's thread. */
static int perform(struct disk *d, const struct disk_request *r)
{
    int result = 0;

    if (r->refused)
        return r->refused;
    switch (r->op) {
    case DISK_READ:
    case DISK_WRITE: result = move(d, r); break;
    case DISK_FLUSH: return d->no_flush ? 0 : block_flush(d->node);
    case DISK_DISCARD: return d->discard ? block_discard(d->node, r->offset, r->length) : 0;
    case DISK_WRITE_ZEROES:
        result = block_write_zeroes(d->node, r->offset, r->length,
                                    r->flags & DISK_UNMAP && d->discard);
    }
    if (result == 0 && needs_flush(d, r))
        result = block_flush(d->node);
    return result;
}

static void *work(void *unused)
{
    (void)unused;
    pthread_setname_np(pthread_self(), "block-worker");
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        struct disk_request *r;
        struct timespec until;
        int timed_out = 0;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += WORKER_IDLE_SECONDS;
        pool.idle++;
        while (!pool.first && !timed_out)
            timed_out = pthread_cond_timedwait(&pool.more, &pool.lock, &until);
        pool.idle--;
        if (!pool.first)
            break;
        r = pool.first;
        pool.first = r->next;
        if (!pool.first)
            pool.last = &pool.first;
        pthread_mutex_unlock(&pool.lock);
        finish(r->disk, r, perform(r->disk, r));
        pthread_mutex_lock(&pool.lock);
    }
    pool.threads--;
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static void give_to_worker(struct disk_request *r)
{
    bool add;

    pthread_mutex_lock(&pool.lock);
    r->next = NULL;
    *pool.last = r;
    pool.last = &r->next;
    add = !pool.idle && pool.threads < WORKERS_MAX;
    pool.threads += add;
    pthread_cond_signal(&pool.more);
    pthread_mutex_unlock(&pool.lock);
    if (add) {
        pthread_attr_t attr;
        pthread_t t;
        bool failed;

        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        failed = pthread_create(&t, &attr, work, NULL) != 0;
        pthread_attr_destroy(&attr);
        if (failed) {
            pthread_mutex_lock(&pool.lock);
            add = !--pool.threads;
            pthread_mutex_unlock(&pool.lock);
            if (add)
                work(NULL); /* none at all: the caller has to do it */
        }
    }
}

/* Those of a disk that no worker has begun. */
static struct disk_request *take_back(struct disk *d)
{
    struct disk_request *mine = NULL, **at = &pool.first;

    pthread_mutex_lock(&pool.lock);
    while (*at) {
        struct disk_request *r = *at;

        if (r->disk != d) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = mine;
        mine = r;
    }
    pool.last = at;
    pthread_mutex_unlock(&pool.lock);
    return mine;
}

/* ---- throttling -------------------------------------------------------------------------------
 */

static bool bucket_full_enough(const struct bucket *b)
{
    return !b->rate || b->level > 0;
}

/* May it go now? Then it is charged; a large request leaves a debt that later ones wait for. */
static bool admit_locked(struct disk *d, const struct disk_request *r)
{
    double now = seconds_now(), passed = now - d->filled;
    enum limit kind = r->op == DISK_READ ? LIMIT_READ : LIMIT_WRITE;

    d->filled = now;
    for (unsigned i = 0; i < LIMITS; i++) {
        struct bucket *b[2] = {&d->ops[i], &d->bytes[i]};

        for (unsigned k = 0; k < 2; k++)
            b[k]->level = MIN(b[k]->level + passed * b[k]->rate, b[k]->rate / 10 + 1);
    }
    if (r->op == DISK_FLUSH || r->op == DISK_DISCARD)
        return true;
    if (!bucket_full_enough(&d->ops[LIMIT_ALL]) || !bucket_full_enough(&d->bytes[LIMIT_ALL]) ||
        !bucket_full_enough(&d->ops[kind]) || !bucket_full_enough(&d->bytes[kind]))
        return false;
    d->ops[LIMIT_ALL].level -= 1;
    d->ops[kind].level -= 1;
    d->bytes[LIMIT_ALL].level -= (double)r->bytes;
    d->bytes[kind].level -= (double)r->bytes;
    return true;
}

/* Seconds until the first waiting request may be let go; large when there is none. */
static double next_admission_locked(struct disk *d)
{
    double wait = 0;

    if (!d->waiting || d->paused)
        return 3600;
    for (unsigned i = 0; i < LIMITS; i++) {
        struct bucket *b[2] = {&d->ops[i], &d->bytes[i]};

        for (unsigned k = 0; k < 2; k++)
            if (b[k]->rate && b[k]->level <= 0)
                wait = MAX(wait, (1e-3 - b[k]->level) / b[k]->rate);
    }
    return MAX(wait, 0.0005);
}

static void serve_waiting(struct disk *d)
{
    for (;;) {
        struct disk_request *r;

        pthread_mutex_lock(&d->lock);
        r = d->waiting;
        if (r && !d->closing && !d->paused && admit_locked(d, r)) {
            d->waiting = r->next;
            d->waiting_count--;
            if (!d->waiting)
                d->waiting_end = &d->waiting;
        } else {
            r = NULL;
        }
        pthread_mutex_unlock(&d->lock);
        if (!r)
            return;
        start(d, r);
    }
}

/* ---- the fast way -----------------------------------------------------------------------------
 */

#ifdef HAVE_LIBURING
static bool aligned(const struct disk_request *r, const struct block_extent *e)
{
    unsigned align = e->file->align;
    uint64_t all = e->offset | r->bytes;

    if (align == 1)
        return true;
    for (unsigned i = 0; i < r->iov_count; i++)
        all |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
    return !(all & (align - 1));
}

static void wake_thread(struct disk *d)
{
    struct io_uring_sqe *sqe;

    pthread_mutex_lock(&d->submit_lock);
    sqe = io_uring_get_sqe(&d->ring);
    if (sqe) {
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data(sqe, NULL);
    }
    io_uring_submit(&d->ring);
    pthread_mutex_unlock(&d->submit_lock);
}

/* Into the ring if all of it is at one place. The caller submits. */
static bool enter_ring(struct disk *d, struct disk_request *r)
{
    bool write = r->op == DISK_WRITE;
    struct io_uring_sqe *sqe;
    struct block_extent e;
    unsigned ticket;

    if (!d->ring_ok || (r->op != DISK_READ && !write) || !r->bytes ||
        (write &&
         (needs_flush(d, r) || d->zero_detect || (d->guard_magic && r->offset < BLOCK_SECTOR))))
        return false;
    ticket = block_begin(d->node);
    if (block_map(d->node, r->offset, r->bytes, BLOCK_MAP_NOWAIT | (write ? BLOCK_MAP_WRITE : 0),
                  &e) < 0 ||
        e.length < r->bytes || e.kind == BLOCK_SLOW ||
        (e.kind == BLOCK_DATA && (e.file->fd < 0 || !aligned(r, &e)))) {
        block_end(d->node, ticket);
        return false;
    }
    pthread_mutex_lock(&d->submit_lock);
    sqe = d->ring_inflight < RING_ENTRIES ? io_uring_get_sqe(&d->ring) : NULL;
    if (sqe) {
        d->ring_inflight++;
        r->ticket = ticket;
        r->node = e.kind == BLOCK_DATA ? e.file : NULL;
        r->place = e.offset;
        if (e.kind == BLOCK_ZERO)
            io_uring_prep_nop(sqe);
        else if (r->iov_count == 1 && write)
            io_uring_prep_write(sqe, e.file->fd, r->iov[0].iov_base, (unsigned)r->bytes, e.offset);
        else if (r->iov_count == 1)
            io_uring_prep_read(sqe, e.file->fd, r->iov[0].iov_base, (unsigned)r->bytes, e.offset);
        else if (write)
            io_uring_prep_writev(sqe, e.file->fd, r->iov, r->iov_count, e.offset);
        else
            io_uring_prep_readv(sqe, e.file->fd, r->iov, r->iov_count, e.offset);
        io_uring_sqe_set_data(sqe, r);
    }
    pthread_mutex_unlock(&d->submit_lock);
    if (!sqe)
        block_end(d->node, ticket);
    return sqe != NULL;
}

static void submit_ring(struct disk *d)
{
    pthread_mutex_lock(&d->submit_lock);
    while (io_uring_submit(&d->ring) == -EINTR)
        ;
    pthread_mutex_unlock(&d->submit_lock);
}

static void ring_done(struct disk *d, struct disk_request *r, int result)
{
    struct block_node *file = r->node;

    block_end(d->node, r->ticket);
    if (!file) { /* zeros */
        for (unsigned i = 0; i < r->iov_count; i++)
            memset(r->iov[i].iov_base, 0, r->iov[i].iov_len);
    } else if (result < 0 || (uint64_t)result < r->bytes) {
        /* Short at the end of the file, or an error: the slow way knows what to make of it. */
        give_to_worker(r);
        return;
    } else if (r->op == DISK_WRITE) {
        block_grew(file, r->place + r->bytes);
    }
    pthread_mutex_lock(&d->lock);
    d->stats.fast++;
    pthread_mutex_unlock(&d->lock);
    finish(d, r, 0);
}

static void reap(struct disk *d)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&d->ring, head, cqe)
    {
        struct disk_request *r = io_uring_cqe_get_data(cqe);
        int result = cqe->res;

        n++;
        if (!r)
            continue;
        pthread_mutex_lock(&d->submit_lock);
        d->ring_inflight--;
        pthread_mutex_unlock(&d->submit_lock);
        ring_done(d, r, result);
    }
    io_uring_cq_advance(&d->ring, n);
}
#endif

static void *attend(void *opaque)
{
    struct disk *d = opaque;

    pthread_setname_np(pthread_self(), "block-disk");
    for (;;) {
        double wait;
        bool stop;

        pthread_mutex_lock(&d->lock);
        stop = d->stop;
        wait = next_admission_locked(d);
#ifdef HAVE_LIBURING
        if (d->ring_ok) {
            struct __kernel_timespec t = {(long long)wait,
                                          (long long)((wait - (double)(long long)wait) * 1e9)};
            struct io_uring_cqe *cqe;

            pthread_mutex_unlock(&d->lock);
            if (stop)
                return NULL;
            io_uring_wait_cqe_timeout(&d->ring, &cqe, &t);
            reap(d);
            serve_waiting(d);
            continue;
        }
#endif
        if (!stop) {
            struct timespec until;

            clock_gettime(CLOCK_REALTIME, &until);
            wait += (double)until.tv_nsec * 1e-9;
            until.tv_sec += (time_t)wait;
            until.tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9);
            pthread_cond_timedwait(&d->wake, &d->lock, &until);
        }
        pthread_mutex_unlock(&d->lock);
        if (stop)
            return NULL;
        serve_waiting(d);
    }
}

static void wake(struct disk *d)
{
#ifdef HAVE_LIBURING
    if (d->ring_ok) {
        wake_thread(d);
        return;
    }
#endif
    pthread_mutex_lock(&d->lock);
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

/* ---- submission -------------------------------------------------------------------------------
 */

/* What a device passes on from its guest; fills r->bytes. */
static int check(struct disk *d, struct disk_request *r)
{
    uint64_t size = disk_size(d);

    r->bytes = 0;
    switch (r->op) {
    case DISK_FLUSH: return 0;
    case DISK_READ:
    case DISK_WRITE:
        if (r->iov_count > IOV_MAX_COUNT)
            return -EINVAL;
        for (unsigned i = 0; i < r->iov_count; i++) {
            if (r->iov[i].iov_len > REQUEST_MAX - r->bytes)
                return -EINVAL;
            r->bytes += r->iov[i].iov_len;
        }
        break;
    case DISK_DISCARD:
    case DISK_WRITE_ZEROES: r->bytes = r->length; break;
    default: return -EINVAL;
    }
    if (!range_within(r->offset, r->bytes, size))
        return -EINVAL;
    return r->op != DISK_READ && d->read_only ? -EROFS : 0;
}

static void start(struct disk *d, struct disk_request *r)
{
#ifdef HAVE_LIBURING
    if (enter_ring(d, r)) {
        submit_ring(d);
        return;
    }
#endif
    give_to_worker(r);
}

/* Accepted: true if it may start at once; otherwise it waits, or its refusal is on its way. */
static bool accept_request(struct disk *d, struct disk_request *r)
{
    bool go = true;

    r->disk = d;
    r->next = NULL;
    r->refused = check(d, r);
    pthread_mutex_lock(&d->lock);
    d->inflight++;
    if (d->closing)
        r->refused = -ECANCELED;
    if (!r->refused && (d->paused || d->waiting || (d->throttled && !admit_locked(d, r)))) {
        *d->waiting_end = r;
        d->waiting_end = &r->next;
        d->waiting_count++;
        d->stats.throttled += !d->paused;
        go = false;
    }
    pthread_mutex_unlock(&d->lock);
    if (!go)
        wake(d);
    return go;
}

void disk_submit_many(struct disk *d, struct disk_request **requests, unsigned count)
{
    bool entered = false;

    for (unsigned i = 0; i < count; i++) {
        struct disk_request *r = requests[i];

        if (!accept_request(d, r))
            continue;
#ifdef HAVE_LIBURING
        if (!r->refused && enter_ring(d, r)) {
            entered = true;
            continue;
        }
#endif
        give_to_worker(r);
    }
#ifdef HAVE_LIBURING
    if (entered)
        submit_ring(d);
#endif
    (void)entered;
}

void disk_submit(struct disk *d, struct disk_request *r)
{
    disk_submit_many(d, &r, 1);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int take_cache(struct disk *d, const char *mode, unsigned *flags, struct error *err)
{
    static const struct {
        const char *name;
        unsigned flags;
        bool write_cache;
    } modes[] = {
        {"writeback", 0, true},           {"none", BLOCK_DIRECT, true},
        {"writethrough", 0, false},       {"directsync", BLOCK_DIRECT, false},
        {"unsafe", BLOCK_NO_FLUSH, true},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++)
        if (!strcmp(mode, modes[i].name)) {
            *flags |= modes[i].flags;
            d->write_cache = modes[i].write_cache;
            d->no_flush = modes[i].flags & BLOCK_NO_FLUSH;
            return 0;
        }
    return error_set(err, EINVAL,
                     "option cache: '%s' is none of writeback, none, writethrough, directsync, "
                     "unsafe",
                     mode);
}

static int take_limits(struct disk *d, struct block_options *o, struct error *err)
{
    static const struct {
        const char *name, *other;
        bool bytes;
        enum limit limit;
    } limits[] = {
        {"iops", "throttling.iops-total", false, LIMIT_ALL},
        {"iops_rd", "throttling.iops-read", false, LIMIT_READ},
        {"iops_wr", "throttling.iops-write", false, LIMIT_WRITE},
        {"bps", "throttling.bps-total", true, LIMIT_ALL},
        {"bps_rd", "throttling.bps-read", true, LIMIT_READ},
        {"bps_wr", "throttling.bps-write", true, LIMIT_WRITE},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
        uint64_t rate = 0;
        int r = block_option_size(o, limits[i].name, &rate, err);

        if (r == 0)
            r = block_option_size(o, limits[i].other, &rate, err);
        if (r < 0)
            return r;
        (limits[i].bytes ? d->bytes : d->ops)[limits[i].limit].rate = (double)rate;
        d->throttled |= rate != 0;
    }
    return 0;
}

struct opening {
    const char *file, *format;
    unsigned flags;
    bool snapshot, threads;
};

static int take_word(struct block_options *o, const char *name, const char *on, const char *off,
                     bool *out, struct error *err)
{
    const char *v = block_option(o, name);

    if (!v)
        return 0;
    if (strcmp(v, on) && strcmp(v, off))
        return error_set(err, EINVAL, "option %s: '%s' is neither %s nor %s", name, v, on, off);
    *out = !strcmp(v, on);
    return 0;
}

static int take_options(struct disk *d, struct block_options *o, struct opening *p,
                        struct error *err)
{
    const char *cache = block_option(o, "cache"), *detect = block_option(o, "detect-zeroes");
    const char *extra;
    bool share = false, data_file = false;
    int r = 0;

    p->file = block_option(o, "file");
    p->format = block_option(o, "format");
    d->discard = d->write_cache = true;
    r = block_option_bool(o, "readonly", &d->read_only, err);
    if (r == 0)
        r = block_option_bool(o, "read-only", &d->read_only, err);
    if (r == 0)
        r = block_option_bool(o, "snapshot", &p->snapshot, err);
    if (r == 0)
        r = block_option_bool(o, "force-share", &share, err);
    if (r == 0)
        r = block_option_bool(o, "data-file", &data_file, err);
    if (r == 0)
        r = take_word(o, "discard", "unmap", "ignore", &d->discard, err);
    if (r == 0)
        r = take_word(o, "aio", "threads", "io_uring", &p->threads, err);
    if (r == 0 && cache)
        r = take_cache(d, cache, &p->flags, err);
    if (r == 0)
        r = take_limits(d, o, err);
    if (r < 0)
        return r;
    if (detect && strcmp(detect, "off") && strcmp(detect, "on") && strcmp(detect, "unmap"))
        return error_set(err, EINVAL, "option detect-zeroes: '%s' is none of off, on, unmap",
                         detect);
    d->zero_detect = detect && strcmp(detect, "off");
    d->zero_unmap = d->zero_detect && !strcmp(detect, "unmap") && d->discard;
    extra = block_option_unused(o);
    if (extra)
        return error_set(err, EINVAL, "a disk has no option '%s'", extra);
    if (share && !d->read_only)
        return error_set(err, EINVAL, "option force-share needs readonly=on");
    p->flags |= (share ? BLOCK_FORCE_SHARE : 0) | (data_file ? BLOCK_DATA_FILE : 0) |
                (d->discard ? BLOCK_UNMAP : 0);
    if (!d->read_only && !p->snapshot)
        p->flags |= BLOCK_WRITE;
    return 0;
}

/* Changes go to a file without a name; the image stays as it is. */
static struct block_node *overlay(struct block_node *base, struct error *err)
{
    const char *folder = getenv("TMPDIR");
    struct block_create c = {.size = base->size, .filename = "temporary file"};
    int fd = open(folder ? folder : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    struct block_node *file, *n = NULL;

    if (fd < 0) {
        error_set_errno(err, errno, "cannot make a temporary file in %s",
                        folder ? folder : "/var/tmp");
        return NULL;
    }
    file = block_open_fd(fd, "temporary file", BLOCK_WRITE | BLOCK_NO_FLUSH | BLOCK_UNMAP, err);
    if (!file)
        return NULL;
    c.backing = base->filename;
    if (strlen(c.backing) > 1000)
        c.backing = "base";
    c.backing_format = base->driver->name;
    if (block_qcow2.create(file, &c, err) < 0)
        block_close(file);
    else
        n = block_open_over(file, "qcow2",
                            BLOCK_WRITE | BLOCK_NO_FLUSH | BLOCK_UNMAP | BLOCK_NO_BACKING, err);
    if (n)
        n->backing = base;
    return n;
}

static void say_guess(const struct disk *d, const struct block_node *n)
{
    if (n->driver == &block_raw)
        log_warn("disk '%s': no format was given and the content says none: raw; the guest may not "
                 "write another format's header there (format=raw allows it)",
                 n->filename);
    else if (!d->read_only)
        log_info("disk '%s': format %s, by its content", n->filename, n->driver->name);
}

static void describe(struct disk *d)
{
    struct block_info info = {0};
    struct block_node *file = d->node;

    while (file->file)
        file = file->file;
    d->physical_block = MAX(file->align, 512);
    if (d->node->driver->info && d->node->driver->info(d->node, &info) == 0 && info.cluster_size)
        d->granularity = (uint32_t)MIN(info.cluster_size, (uint64_t)GiB);
    else
        d->granularity = 4096;
}

static int start_thread(struct disk *d, bool threads, struct error *err)
{
    int r = 0;

#ifdef HAVE_LIBURING
    if (!threads && io_uring_queue_init(RING_ENTRIES, &d->ring, 0) == 0) {
        /* Waiting with a timeout beside another thread's submissions needs this. */
        d->ring_ok = d->ring.features & IORING_FEAT_EXT_ARG;
        if (!d->ring_ok)
            io_uring_queue_exit(&d->ring);
    }
#endif
    if (d->ring_ok || d->throttled) {
        r = pthread_create(&d->thread, NULL, attend, d);
        d->thread_runs = r == 0;
    }
    return r ? error_set_errno(err, r, "cannot start a thread for disk '%s'", d->node->filename)
             : 0;
}

static struct disk *disk_new(void)
{
    struct disk *d = xcalloc(1, sizeof(*d));

    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->idle, NULL);
    pthread_cond_init(&d->wake, NULL);
#ifdef HAVE_LIBURING
    pthread_mutex_init(&d->submit_lock, NULL);
#endif
    d->waiting_end = &d->waiting;
    d->filled = seconds_now();
    return d;
}

static void disk_free(struct disk *d)
{
#ifdef HAVE_LIBURING
    if (d->ring_ok)
        io_uring_queue_exit(&d->ring);
    pthread_mutex_destroy(&d->submit_lock);
#endif
    block_close(d->node);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->idle);
    pthread_cond_destroy(&d->wake);
    free(d);
}

static struct disk *open_disk(struct disk *d, struct block_options *o, struct opening *p,
                              struct error *err)
{
    bool bad = !d->node;

    if (!bad && !p->format && p->file) {
        say_guess(d, d->node);
        d->guard_magic = d->node->driver == &block_raw && p->flags & BLOCK_WRITE;
    }
    if (!bad && p->snapshot && !d->read_only) {
        struct block_node *top = overlay(d->node, err);

        bad = !top;
        if (top)
            d->node = top;
        d->guard_magic = false;
    }
    if (!bad) {
        describe(d);
        bad = start_thread(d, p->threads, err) < 0;
    }
    if (bad) {
        disk_free(d);
        d = NULL;
    }
    block_options_free(o);
    return d;
}

struct disk *disk_open(const char *options, struct error *err)
{
    struct disk *d = disk_new();
    struct opening p = {0};
    struct block_options *o;

    if (!strchr(options, '=')) { /* only a name, in which commas mean nothing */
        p.file = options;
        o = block_options_parse("", err);
    } else {
        o = block_options_parse(options, err);
    }
    if (o && take_options(d, o, &p, err) == 0) {
        if (!strchr(options, '='))
            p.file = options;
        if (p.file)
            d->node = block_open(p.file, p.format, p.flags, err);
        else
            error_set(err, EINVAL, "a disk needs file=NAME");
    }
    return open_disk(d, o, &p, err);
}

struct disk *disk_open_node(struct block_node *node, const char *options, struct error *err)
{
    struct disk *d = disk_new();
    struct block_options *o = block_options_parse(options, err);
    struct opening p = {0};

    if (o && take_options(d, o, &p, err) == 0 && !p.file && !p.format) {
        d->node = node;
        d->read_only |= !(node->flags & BLOCK_WRITE) && !p.snapshot;
    } else {
        if (o && (p.file || p.format))
            error_set(err, EINVAL, "the disk is open already: file and format are not options");
        block_close(node);
    }
    return open_disk(d, o, &p, err);
}

void disk_drain(struct disk *d)
{
    pthread_mutex_lock(&d->lock);
    while (d->inflight)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

void disk_pause(struct disk *d)
{
    pthread_mutex_lock(&d->lock);
    d->paused++;
    while (d->inflight > d->waiting_count)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

void disk_resume(struct disk *d)
{
    pthread_mutex_lock(&d->lock);
    d->paused--;
    pthread_mutex_unlock(&d->lock);
    serve_waiting(d);
    wake(d); /* it may have to wait for less long now */
}

static void cancel(struct disk *d, struct disk_request *r)
{
    while (r) {
        struct disk_request *next = r->next;

        finish(d, r, -ECANCELED);
        r = next;
    }
}

void disk_close(struct disk *d)
{
    struct disk_request *waiting;

    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    waiting = d->waiting;
    d->waiting = NULL;
    d->waiting_end = &d->waiting;
    d->waiting_count = 0;
    pthread_mutex_unlock(&d->lock);
    cancel(d, waiting);
    cancel(d, take_back(d));
    disk_drain(d);
    if (d->thread_runs) {
        pthread_mutex_lock(&d->lock);
        d->stop = true;
        pthread_mutex_unlock(&d->lock);
        wake(d);
        pthread_join(d->thread, NULL);
    }
    if (!d->read_only && block_flush(d->node) < 0)
        log_error("disk '%s': cannot write all of it", d->node->filename);
    disk_free(d);
}

/* ---- facts ------------------------------------------------------------------------------------
 */

uint64_t disk_size(struct disk *d)
{
    return align_down(d->node->size, BLOCK_SECTOR);
}

bool disk_read_only(struct disk *d)
{
    return d->read_only;
}

bool disk_write_cache(struct disk *d)
{
    return d->write_cache;
}

const char *disk_filename(struct disk *d)
{
    return d->node->filename;
}

unsigned disk_physical_block(struct disk *d)
{
    return d->physical_block;
}

uint32_t disk_discard_granularity(struct disk *d)
{
    return d->granularity;
}

struct block_node *disk_node(struct disk *d)
{
    return d->node;
}

void disk_on_resize(struct disk *d, void (*resized)(void *opaque, uint64_t size), void *opaque)
{
    pthread_mutex_lock(&d->lock);
    d->resized = resized;
    d->resized_opaque = opaque;
    pthread_mutex_unlock(&d->lock);
}

int disk_resize(struct disk *d, uint64_t size, struct error *err)
{
    void (*resized)(void *opaque, uint64_t size);
    void *opaque;
    int r;

    disk_pause(d);
    r = block_resize(d->node, size, err);
    disk_resume(d);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->lock);
    resized = d->resized;
    opaque = d->resized_opaque;
    pthread_mutex_unlock(&d->lock);
    if (resized)
        resized(opaque, disk_size(d));
    return 0;
}

void disk_get_stats(struct disk *d, struct disk_stats *out)
{
    pthread_mutex_lock(&d->lock);
    *out = d->stats;
    pthread_mutex_unlock(&d->lock);
}
