/*
 * loop.c - see loop.h. epoll over the watched descriptors, the clock's timerfd and an eventfd.
 *
 * A watch removed while a batch of events is being delivered must not be called any more, yet the
 * batch still points at it: it is marked dead and freed after the batch.
 */
#include "event/loop.h"

#include "base/util.h"
#include "event/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct loop_fd {
    struct loop *loop;
    int fd;
    void (*ready)(void *opaque, uint32_t events);
    void *opaque;
    bool dead;
    struct loop_fd *next_dead;
};

struct posted {
    struct posted *next;
    void (*call)(void *opaque);
    void *opaque;
};

struct loop {
    struct clock *clock;
    int epoll, wake;
    struct loop_fd *wake_watch, *clock_watch;
    struct loop_fd *dead;
    atomic_bool quit;
    pthread_mutex_t lock; /* guards the posted calls */
    struct posted *first, **last;
    struct posted *running; /* the rest of the batch being called */
};

static void run_posted(void *opaque, uint32_t events)
{
    struct loop *l = opaque;
    struct posted *p;
    uint64_t count;

    (void)events;
    if (read(l->wake, &count, sizeof(count)) < 0)
        count = 0; /* spurious */
    /* One at a time: a call may cancel those behind it. Those posted meanwhile wait. */
    pthread_mutex_lock(&l->lock);
    l->running = l->first;
    l->first = NULL;
    l->last = &l->first;
    while ((p = l->running)) {
        l->running = p->next;
        pthread_mutex_unlock(&l->lock);
        p->call(p->opaque);
        free(p);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

static void run_clock(void *opaque, uint32_t events)
{
    (void)events;
    clock_run(opaque);
}

struct loop *loop_new(struct clock *clock)
{
    struct loop *l = xcalloc(1, sizeof(*l));

    l->clock = clock;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(l->epoll >= 0 && l->wake >= 0);
    l->last = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    l->wake_watch = loop_add_fd(l, l->wake, EPOLLIN, run_posted, l);
    if (clock && clock_fd(clock) >= 0)
        l->clock_watch = loop_add_fd(l, clock_fd(clock), EPOLLIN, run_clock, clock);
    return l;
}

static void free_dead(struct loop *l)
{
    while (l->dead) {
        struct loop_fd *w = l->dead;

        l->dead = w->next_dead;
        free(w);
    }
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    run_posted(l, 0); /* nothing posted is lost */
    loop_remove_fd(l->wake_watch);
    loop_remove_fd(l->clock_watch);
    free_dead(l);
    close(l->wake);
    close(l->epoll);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct loop_fd *loop_add_fd(struct loop *l, int fd, uint32_t events,
                            void (*ready)(void *opaque, uint32_t events), void *opaque)
{
    struct loop_fd *w = xcalloc(1, sizeof(*w));
    struct epoll_event ev = {.events = events, .data.ptr = w};

    *w = (struct loop_fd){.loop = l, .fd = fd, .ready = ready, .opaque = opaque};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) < 0) {
        /* A regular file is always ready and epoll refuses it; nobody should wait for one. */
        free(w);
        return NULL;
    }
    return w;
}

void loop_modify_fd(struct loop_fd *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    epoll_ctl(w->loop->epoll, EPOLL_CTL_MOD, w->fd, &ev);
}

void loop_remove_fd(struct loop_fd *w)
{
    if (!w || w->dead)
        return;
    epoll_ctl(w->loop->epoll, EPOLL_CTL_DEL, w->fd, NULL);
    w->dead = true;
    w->next_dead = w->loop->dead;
    w->loop->dead = w;
}

void loop_post(struct loop *l, void (*call)(void *opaque), void *opaque)
{
    struct posted *p = xcalloc(1, sizeof(*p));
    uint64_t one = 1;

    p->call = call;
    p->opaque = opaque;
    pthread_mutex_lock(&l->lock);
    *l->last = p;
    l->last = &p->next;
    pthread_mutex_unlock(&l->lock);
    while (write(l->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void cancel_in(struct posted **list, void *opaque)
{
    while (*list) {
        struct posted *p = *list;

        if (p->opaque == opaque) {
            *list = p->next;
            free(p);
        } else {
            list = &p->next;
        }
    }
}

void loop_cancel_posts(struct loop *l, void *opaque)
{
    pthread_mutex_lock(&l->lock);
    cancel_in(&l->running, opaque);
    cancel_in(&l->first, opaque);
    l->last = &l->first;
    while (*l->last)
        l->last = &(*l->last)->next;
    pthread_mutex_unlock(&l->lock);
}

static void do_nothing(void *opaque)
{
    (void)opaque;
}

void loop_quit(struct loop *l)
{
    l->quit = true;
    loop_post(l, do_nothing, NULL);
}

void loop_poll(struct loop *l, int timeout_msec)
{
    struct epoll_event events[16];
    int n = epoll_wait(l->epoll, events, ARRAY_SIZE(events), timeout_msec);

    for (int i = 0; i < n; i++) {
        struct loop_fd *w = events[i].data.ptr;

        if (!w->dead)
            w->ready(w->opaque, events[i].events);
    }
    free_dead(l);
}

void loop_run(struct loop *l)
{
    while (!l->quit)
        loop_poll(l, -1);
    l->quit = false;
}
