/*
 * clock.c - see clock.h. A binary heap of armed timers and one timerfd set to its top.
 *
 * The timerfd is in host time: while the clock is stopped it is disarmed. Arming it costs about
 * 250 ns, so it is touched only when the earliest deadline changes.
 */
#include "event/clock.h"

#include "base/util.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct clock {
    pthread_mutex_t lock;
    bool manual;
    unsigned stopped;            /* nesting count */
    uint64_t offset;             /* running: guest = host - offset */
    uint64_t frozen;             /* stopped or manual: guest time */
    int timerfd;                 /* -1: manual */
    _Atomic uint64_t programmed; /* host deadline in the timerfd, 0: disarmed */
    struct clock_timer **heap;
    int count, capacity;
};

static uint64_t host_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static uint64_t now_locked(const struct clock *c)
{
    return c->manual || c->stopped ? c->frozen : host_now() - c->offset;
}

static void program_locked(struct clock *c)
{
    struct itimerspec its = {0};
    uint64_t want = 0;

    if (c->timerfd < 0)
        return;
    if (c->count && !c->stopped && c->heap[0]->deadline < CLOCK_NEVER - c->offset)
        want = MAX(c->heap[0]->deadline + c->offset, 1);
    if (want == c->programmed)
        return;
    c->programmed = want;
    its.it_value.tv_sec = (time_t)(want / NSEC_PER_SEC);
    its.it_value.tv_nsec = (long)(want % NSEC_PER_SEC);
    timerfd_settime(c->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

static void heap_put(struct clock *c, int i, struct clock_timer *t)
{
    c->heap[i] = t;
    t->heap_index = i;
}

static void heap_sift(struct clock *c, int i)
{
    struct clock_timer *t = c->heap[i];

    while (i > 0 && c->heap[(i - 1) / 2]->deadline > t->deadline) {
        heap_put(c, i, c->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        int child = 2 * i + 1;

        if (child + 1 < c->count && c->heap[child + 1]->deadline < c->heap[child]->deadline)
            child++;
        if (child >= c->count || c->heap[child]->deadline >= t->deadline)
            break;
        heap_put(c, i, c->heap[child]);
        i = child;
    }
    heap_put(c, i, t);
}

static void heap_remove(struct clock *c, struct clock_timer *t)
{
    int i = t->heap_index;
    struct clock_timer *last = c->heap[--c->count];

    t->heap_index = -1;
    if (last == t)
        return;
    heap_put(c, i, last);
    heap_sift(c, i);
}

static struct clock *clock_alloc(bool manual, uint64_t start)
{
    struct clock *c = xcalloc(1, sizeof(*c));

    pthread_mutex_init(&c->lock, NULL);
    c->manual = manual;
    c->frozen = start;
    c->offset = manual ? 0 : host_now();
    c->timerfd = manual ? -1 : timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    assert(manual || c->timerfd >= 0);
    return c;
}

struct clock *clock_new(void)
{
    return clock_alloc(false, 0);
}

struct clock *clock_new_manual(uint64_t start_nsec)
{
    return clock_alloc(true, start_nsec);
}

void clock_free(struct clock *c)
{
    if (!c)
        return;
    if (c->timerfd >= 0)
        close(c->timerfd);
    free(c->heap);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

uint64_t clock_now(struct clock *c)
{
    uint64_t now;

    pthread_mutex_lock(&c->lock);
    now = now_locked(c);
    pthread_mutex_unlock(&c->lock);
    return now;
}

void clock_stop(struct clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->stopped)
        c->frozen = now_locked(c);
    c->stopped++;
    program_locked(c);
    pthread_mutex_unlock(&c->lock);
}

void clock_start(struct clock *c)
{
    pthread_mutex_lock(&c->lock);
    assert(c->stopped);
    if (--c->stopped == 0 && !c->manual)
        c->offset = host_now() - c->frozen;
    program_locked(c);
    pthread_mutex_unlock(&c->lock);
}

bool clock_is_stopped(struct clock *c)
{
    bool stopped;

    pthread_mutex_lock(&c->lock);
    stopped = c->stopped != 0;
    pthread_mutex_unlock(&c->lock);
    return stopped;
}

void clock_set(struct clock *c, uint64_t nsec)
{
    pthread_mutex_lock(&c->lock);
    c->frozen = nsec;
    if (!c->manual)
        c->offset = host_now() - nsec;
    program_locked(c);
    pthread_mutex_unlock(&c->lock);
}

int clock_fd(struct clock *c)
{
    return c->timerfd;
}

void clock_run(struct clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->timerfd >= 0) {
        uint64_t expirations;

        /* Empty it; whether it had fired does not matter, the heap decides. */
        if (read(c->timerfd, &expirations, sizeof(expirations)) > 0)
            c->programmed = 0;
    }
    while (c->count && !c->stopped && c->heap[0]->deadline <= now_locked(c)) {
        struct clock_timer *t = c->heap[0];

        heap_remove(c, t);
        t->firing = true;
        pthread_mutex_unlock(&c->lock);
        t->fire(t);
        pthread_mutex_lock(&c->lock);
    }
    program_locked(c);
    pthread_mutex_unlock(&c->lock);
}

void clock_poll(struct clock *c)
{
    uint64_t due = atomic_load_explicit(&c->programmed, memory_order_relaxed);

    if (due && host_now() >= due)
        clock_run(c);
}

void clock_advance(struct clock *c, uint64_t nsec)
{
    uint64_t end = c->frozen + nsec;

    assert(c->manual);
    while (clock_next_deadline(c) <= end) {
        pthread_mutex_lock(&c->lock);
        c->frozen = MAX(c->frozen, c->heap[0]->deadline);
        pthread_mutex_unlock(&c->lock);
        clock_run(c);
    }
    clock_set(c, end);
}

uint64_t clock_next_deadline(struct clock *c)
{
    uint64_t deadline;

    pthread_mutex_lock(&c->lock);
    deadline = c->count ? c->heap[0]->deadline : CLOCK_NEVER;
    pthread_mutex_unlock(&c->lock);
    return deadline;
}

void clock_timer_init(struct clock_timer *t, struct clock *c, void (*fire)(struct clock_timer *t))
{
    *t = (struct clock_timer){.clock = c, .fire = fire, .heap_index = -1};
}

void clock_timer_set(struct clock_timer *t, uint64_t deadline)
{
    struct clock *c = t->clock;

    pthread_mutex_lock(&c->lock);
    t->firing = false;
    t->deadline = deadline;
    if (deadline == CLOCK_NEVER) {
        if (t->heap_index >= 0)
            heap_remove(c, t);
    } else {
        if (t->heap_index < 0) {
            if (c->count == c->capacity) {
                c->capacity = c->capacity ? 2 * c->capacity : 16;
                c->heap = realloc(c->heap, (size_t)c->capacity * sizeof(*c->heap));
                assert(c->heap);
            }
            heap_put(c, c->count++, t);
        }
        heap_sift(c, t->heap_index);
    }
    program_locked(c);
    pthread_mutex_unlock(&c->lock);
}

bool clock_timer_claim(struct clock_timer *t)
{
    bool claimed;

    pthread_mutex_lock(&t->clock->lock);
    claimed = t->firing;
    t->firing = false;
    pthread_mutex_unlock(&t->clock->lock);
    return claimed;
}
