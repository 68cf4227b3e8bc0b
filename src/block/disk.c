/*
 * disk.c - see disk.h. A raw file and one thread that reads and writes it; formats, caches and
 * locks are the block layer's, which takes this file's place.
 */
#include "block/disk.h"

#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct disk {
    char *filename;
    int fd;
    bool read_only;
    uint64_t size;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    struct disk_request *first, **last;
    bool busy, ending;
};

static int move_all(struct disk *d, struct disk_request *r)
{
    uint64_t at = r->offset;

    for (unsigned i = 0; i < r->iov_count; i++) {
        uint8_t *to = r->iov[i].iov_base;

        for (size_t done = 0; done < r->iov[i].iov_len;) {
            size_t left = r->iov[i].iov_len - done;
            ssize_t n = r->op == DISK_READ ? pread(d->fd, to + done, left, (off_t)at)
                                           : pwrite(d->fd, to + done, left, (off_t)at);

            if (n <= 0)
                return n < 0 ? -errno : -EIO;
            done += (size_t)n;
            at += (uint64_t)n;
        }
    }
    return 0;
}

static int punch(struct disk *d, const struct disk_request *r)
{
    int mode = r->op == DISK_DISCARD ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

    if (!r->length ||
        !fallocate(d->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)r->offset, (off_t)r->length))
        return 0;
    return r->op == DISK_DISCARD ? 0 : -errno;
}

static int carry_out(struct disk *d, struct disk_request *r)
{
    uint64_t length = r->length;
    int result;

    if (r->op == DISK_FLUSH)
        return fdatasync(d->fd) ? -errno : 0;
    if (r->op == DISK_READ || r->op == DISK_WRITE) {
        length = 0;
        for (unsigned i = 0; i < r->iov_count; i++)
            length += r->iov[i].iov_len;
    }
    if (!range_within(r->offset, length, d->size))
        return -EINVAL;
    if (r->op != DISK_READ && d->read_only)
        return -EROFS;
    result = r->op == DISK_READ || r->op == DISK_WRITE ? move_all(d, r) : punch(d, r);
    if (!result && r->flags & DISK_FUA && fdatasync(d->fd))
        result = -errno;
    return result;
}

static void *work(void *opaque)
{
    struct disk *d = opaque;

    pthread_mutex_lock(&d->lock);
    while (d->first || !d->ending) {
        struct disk_request *r = d->first;
        int result;

        if (!r) {
            pthread_cond_wait(&d->wake, &d->lock);
            continue;
        }
        d->first = r->next;
        if (!d->first)
            d->last = &d->first;
        d->busy = true;
        pthread_mutex_unlock(&d->lock);
        result = carry_out(d, r);
        r->done(r, result);
        pthread_mutex_lock(&d->lock);
        d->busy = false;
        pthread_cond_broadcast(&d->idle);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct disk *disk_open(const char *options, struct error *err)
{
    auto_free char *copy = xstrdup(options);
    const char *file = NULL;
    bool read_only = false;
    char *save = NULL;
    struct disk *d;
    struct stat st;
    int fd;

    for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        if (!strncmp(word, "file=", 5) || !strchr(word, '='))
            file = strchr(word, '=') ? word + 5 : word;
        else if (!strcmp(word, "readonly=on") || !strcmp(word, "read-only=on"))
            read_only = true;
        else if (strcmp(word, "format=raw")) {
            error_set(err, EINVAL, "'%s' is not known: file=NAME, format=raw, readonly=on", word);
            return NULL;
        }
    }
    fd = open(file ? file : "", (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set_errno(err, errno, "cannot open disk '%s'", file ? file : "");
        return NULL;
    }
    d = xcalloc(1, sizeof(*d));
    d->filename = xstrdup(file);
    d->fd = fd;
    d->read_only = read_only;
    d->size = (uint64_t)st.st_size & ~UINT64_C(511);
    d->last = &d->first;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    pthread_cond_init(&d->idle, NULL);
    pthread_create(&d->thread, NULL, work, d);
    return d;
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->ending = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    fdatasync(d->fd);
    close(d->fd);
    free(d->filename);
    free(d);
}

void disk_submit(struct disk *d, struct disk_request *r)
{
    pthread_mutex_lock(&d->lock);
    r->next = NULL;
    *d->last = r;
    d->last = &r->next;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}

void disk_drain(struct disk *d)
{
    pthread_mutex_lock(&d->lock);
    while (d->first || d->busy)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

uint64_t disk_size(struct disk *d)
{
    return d->size;
}

bool disk_read_only(struct disk *d)
{
    return d->read_only;
}

bool disk_write_cache(struct disk *d)
{
    return true;
}

const char *disk_filename(struct disk *d)
{
    return d->filename;
}

unsigned disk_physical_block(struct disk *d)
{
    return 512;
}

uint32_t disk_discard_granularity(struct disk *d)
{
    return 4096;
}
