/*
 * huge.c - see huge.h.
 *
 * What is in use is what the file has pages for (mincore() tells that of a mapping of a memfd, for
 * all who map it). A chunk is worth a huge page when a few of its small ones are there: that is
 * what anonymous memory does at the first touch, and each page that is there beforehand is a fault
 * less.
 *
 * Rules an editor must keep:
 *  - The thread must cost next to nothing when nothing changes: it looks at a file only when that
 *    has more pages than last time, and waits longer each time it found nothing.
 *  - huge_unwatch() returns only when the thread is out of the area, within one chunk's time.
 *  - A chunk that was given back is never touched again: MADV_COLLAPSE would fill it.
 */
#include "memory/huge.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { SMALL = 4096, IN_CHUNK = HUGE_PAGE_SIZE / SMALL, WORTH = 16, TRIES = 3 };
enum { SOONEST_MS = 10, LATEST_MS = 1000, SHARE = 50 };

/* Of a chunk: how often the host refused, or that it is done with. */
enum { DONE = 0x40, LEFT = 0x80 };

struct huge_area {
    uint8_t *base;
    size_t chunks;
    int fd;
    blkcnt_t blocks; /* the file had when it was looked at last */
    bool again;      /* whatever that says */
    atomic_bool stop;
    atomic_size_t huge; /* chunks */
    struct huge_area *next;
    atomic_uchar state[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* areas, running; held in a scan */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct huge_area *areas;
static bool running, unsupported;
static atomic_uint waiting; /* for the lock, while a scan has it */

void *huge_reserve(size_t size)
{
    size_t all = size + HUGE_PAGE_SIZE;
    uint8_t *p = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t before, behind;

    if (p == MAP_FAILED)
        return p;
    before = -(uintptr_t)p & (HUGE_PAGE_SIZE - 1);
    behind = HUGE_PAGE_SIZE - before;
    if (before)
        munmap(p, before);
    munmap(p + before + align_up(size, SMALL), behind - (align_up(size, SMALL) - size));
    return p + before;
}

static unsigned pages_there(const uint8_t *chunk)
{
    unsigned char there[IN_CHUNK];
    unsigned n = 0;

    if (mincore((void *)(uintptr_t)chunk, HUGE_PAGE_SIZE, there) < 0)
        return 0;
    for (unsigned i = 0; i < IN_CHUNK; i++)
        n += there[i] & 1;
    return n;
}

/* Whether anything became huge. */
static bool look_at(struct huge_area *a)
{
    struct stat st;
    bool found = false, left = false;

    if (fstat(a->fd, &st) < 0 || (st.st_blocks == a->blocks && !a->again))
        return false;
    a->blocks = st.st_blocks;
    for (size_t i = 0; i < a->chunks; i++) {
        uint8_t *chunk = a->base + i * HUGE_PAGE_SIZE;
        unsigned char tried = atomic_load(&a->state[i]), next;

        if (atomic_load(&a->stop) || atomic_load(&waiting)) {
            left = true; /* the rest another time */
            break;
        }
        if (tried >= TRIES || pages_there(chunk) < WORTH)
            continue;
        if (!madvise(chunk, HUGE_PAGE_SIZE, MADV_COLLAPSE)) {
            next = DONE;
            atomic_fetch_add(&a->huge, 1);
            found = true;
        } else if (errno == EINVAL && !atomic_load(&a->huge)) {
            unsupported = true; /* before Linux 6.1 */
            return false;
        } else {
            next = tried + 1; /* short of memory, or pages were in use */
            left |= next < TRIES;
        }
        /* Unless huge_leave() has been here. */
        if (!atomic_compare_exchange_strong(&a->state[i], &tried, next) && next == DONE)
            atomic_fetch_sub(&a->huge, 1);
    }
    a->again = left;
    return found;
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *watch(void *unused)
{
    unsigned wait = SOONEST_MS;

    pthread_mutex_lock(&lock);
    while (areas && !unsupported) {
        uint64_t began = now_ms(), took;
        struct timespec until;
        bool found = false;

        for (struct huge_area *a = areas; a && !unsupported; a = a->next)
            found |= look_at(a);
        took = now_ms() - began;
        wait = found ? SOONEST_MS : MIN(2 * wait, (unsigned)LATEST_MS);
        /* What found something is paid for; looking in vain is bounded in its share of time. */
        if (!found)
            wait = MAX(wait, (unsigned)MIN(took * SHARE, (uint64_t)60000));
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(wait % 1000) * 1000000;
        until.tv_sec += wait / 1000 + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&changed, &lock, &until);
    }
    running = false;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void enter(void)
{
    atomic_fetch_add(&waiting, 1);
    pthread_mutex_lock(&lock);
    atomic_fetch_sub(&waiting, 1);
}

struct huge_area *huge_watch(void *base, size_t size, int fd)
{
    size_t chunks = size / HUGE_PAGE_SIZE;
    struct huge_area *a;
    sigset_t all, before;
    pthread_t thread;

    if (!chunks || (uintptr_t)base % HUGE_PAGE_SIZE)
        return NULL;
    madvise(base, size, MADV_HUGEPAGE); /* enough by itself where shmem_enabled is advise */
    a = xcalloc(1, sizeof(*a) + chunks);
    a->base = base;
    a->chunks = chunks;
    a->fd = fd;
    enter();
    a->next = areas;
    areas = a;
    if (!running && !unsupported) {
        sigfillset(&all); /* they are for others */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        if (!pthread_create(&thread, NULL, watch, NULL)) {
            pthread_detach(thread);
            running = true;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_unlock(&lock);
    return a;
}

void huge_unwatch(struct huge_area *a)
{
    if (!a)
        return;
    atomic_store(&a->stop, true);
    enter();
    for (struct huge_area **at = &areas; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            break;
        }
    if (!areas)
        pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    free(a);
}

void huge_leave(struct huge_area *a, size_t offset, size_t length)
{
    if (!a || !length)
        return;
    for (size_t i = offset / HUGE_PAGE_SIZE;
         i < a->chunks && i <= (offset + length - 1) / HUGE_PAGE_SIZE; i++)
        if (atomic_exchange(&a->state[i], LEFT) == DONE)
            atomic_fetch_sub(&a->huge, 1);
}

size_t huge_bytes(const struct huge_area *a)
{
    return a ? atomic_load(&((struct huge_area *)(uintptr_t)a)->huge) * HUGE_PAGE_SIZE : 0;
}
