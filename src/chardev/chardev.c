/*
 * chardev.c - see chardev.h.
 *
 * Output is copied into a bounded buffer and written by the loop's thread, so that a vCPU never
 * waits for a terminal. Descriptors are not switched to non-blocking mode, which would leak into
 * the shell we share them with: they are polled, and at most PIPE_BUF bytes are written at a time,
 * which a ready pipe, terminal or socket takes without blocking.
 *
 * Input is read only while the user can take it; what was read and could not be handed over stays
 * in `in` and the descriptor is not watched meanwhile.
 */
#include "chardev/chardev.h"

#include "event/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_LIMIT = 64 * KiB, IN_LIMIT = 4096 };

struct chardev {
    struct loop *loop; /* NULL: hooks are called at once (memory) */
    struct chardev_user user;
    size_t (*filter)(void *opaque, uint8_t *data, size_t size);
    void *filter_opaque;

    pthread_mutex_t lock; /* guards the output, and `posted_*` */
    uint8_t *out;
    size_t out_limit, out_used;
    bool discard;    /* null, or the reader went away */
    bool memory;     /* output stays until chardev_memory_take() */
    bool wants_room; /* a write came short: call writable() */
    bool flush_posted, accept_posted;

    uint8_t in[IN_LIMIT];
    size_t in_used;
    int fd_in, fd_out;
    bool own_fd, regular; /* regular files cannot be polled */
    struct loop_fd *watch_in, *watch_out;
};

static struct chardev *chardev_new(struct loop *loop, size_t out_limit)
{
    struct chardev *c = xcalloc(1, sizeof(*c));

    c->loop = loop;
    c->out_limit = out_limit;
    c->out = out_limit ? xcalloc(1, out_limit) : NULL;
    c->fd_in = c->fd_out = -1;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

/* ---- output ------------------------------------------------------------------------------- */

static void out_ready(void *opaque, uint32_t events);

/* One attempt; true when the descriptor would block. Lock held. */
static bool write_some_locked(struct chardev *c)
{
    struct pollfd p = {.fd = c->fd_out, .events = POLLOUT};
    ssize_t n;

    if (!c->regular && poll(&p, 1, 0) == 0)
        return true;
    n = write(c->fd_out, c->out, MIN(c->out_used, (size_t)PIPE_BUF));
    if (n < 0)
        switch (errno) {
        case EINTR: return false;
        case EAGAIN: return true;
        default:
            /* Nobody reads any more: the guest's port goes on, into nothing. */
            c->discard = true;
            c->out_used = 0;
            return false;
        }
    c->out_used -= (size_t)n;
    memmove(c->out, c->out + n, c->out_used);
    return false;
}

static void flush(void *opaque)
{
    struct chardev *c = opaque;
    bool blocked = false, tell;

    pthread_mutex_lock(&c->lock);
    c->flush_posted = false;
    while (c->out_used && !c->memory && !blocked)
        blocked = write_some_locked(c);
    tell = c->wants_room && c->out_used < c->out_limit;
    if (tell)
        c->wants_room = false;
    pthread_mutex_unlock(&c->lock);
    if (blocked && !c->watch_out) {
        c->watch_out = loop_add_fd(c->loop, c->fd_out, EPOLLOUT, out_ready, c);
    } else if (!blocked && c->watch_out) {
        loop_remove_fd(c->watch_out);
        c->watch_out = NULL;
    }
    if (tell && c->user.writable)
        c->user.writable(c->user.opaque);
}

static void out_ready(void *opaque, uint32_t events)
{
    (void)events;
    flush(opaque);
}

static void post_flush_locked(struct chardev *c)
{
    if (!c->loop || c->flush_posted)
        return;
    c->flush_posted = true;
    loop_post(c->loop, flush, c);
}

size_t chardev_write(struct chardev *c, const void *data, size_t size)
{
    size_t taken;

    pthread_mutex_lock(&c->lock);
    if (c->discard) {
        taken = size;
    } else {
        taken = MIN(size, c->out_limit - c->out_used);
        memcpy(c->out + c->out_used, data, taken);
        c->out_used += taken;
        c->wants_room |= taken < size;
        if (taken && !c->memory)
            post_flush_locked(c);
    }
    pthread_mutex_unlock(&c->lock);
    return taken;
}

/* ---- input -------------------------------------------------------------------------------- */

static void in_ready(void *opaque, uint32_t events);

static void hand_over(struct chardev *c)
{
    while (c->in_used && c->user.receive) {
        size_t n = MIN(c->user.can_receive(c->user.opaque), c->in_used);

        if (!n)
            break;
        c->user.receive(c->user.opaque, c->in, n);
        c->in_used -= n;
        memmove(c->in, c->in + n, c->in_used);
    }
    if (c->fd_in < 0)
        return;
    /* With no room the filter must go on seeing keys: stop only when our own buffer is full. */
    if (c->in_used == IN_LIMIT && c->watch_in) {
        loop_remove_fd(c->watch_in);
        c->watch_in = NULL;
    } else if (c->in_used < IN_LIMIT && !c->watch_in) {
        c->watch_in = loop_add_fd(c->loop, c->fd_in, EPOLLIN, in_ready, c);
    }
}

void chardev_feed(struct chardev *c, const void *data, size_t size)
{
    size_t n = MIN(size, IN_LIMIT - c->in_used);

    memcpy(c->in + c->in_used, data, n);
    if (c->filter)
        n = c->filter(c->filter_opaque, c->in + c->in_used, n);
    c->in_used += n;
    hand_over(c);
}

static void in_ready(void *opaque, uint32_t events)
{
    struct chardev *c = opaque;
    uint8_t data[IN_LIMIT];
    ssize_t n = read(c->fd_in, data, IN_LIMIT - c->in_used);

    (void)events;
    if (n > 0) {
        chardev_feed(c, data, (size_t)n);
    } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
        loop_remove_fd(c->watch_in);
        c->watch_in = NULL;
        c->fd_in = -1; /* end of input; output goes on */
        if (c->user.event)
            c->user.event(c->user.opaque, CHARDEV_CLOSED);
    }
}

static void accept_now(void *opaque)
{
    struct chardev *c = opaque;

    pthread_mutex_lock(&c->lock);
    c->accept_posted = false;
    pthread_mutex_unlock(&c->lock);
    hand_over(c);
}

void chardev_accept(struct chardev *c)
{
    bool post;

    if (!c->loop)
        return; /* a test feeds again */
    pthread_mutex_lock(&c->lock);
    post = !c->accept_posted;
    c->accept_posted = true;
    pthread_mutex_unlock(&c->lock);
    if (post)
        loop_post(c->loop, accept_now, c);
}

/* ---- life ----------------------------------------------------------------------------------- */

void chardev_attach(struct chardev *c, const struct chardev_user *user)
{
    if (c)
        c->user = user ? *user : (struct chardev_user){0};
}

void chardev_set_filter(struct chardev *c,
                        size_t (*filter)(void *opaque, uint8_t *data, size_t size), void *opaque)
{
    c->filter = filter;
    c->filter_opaque = opaque;
}

struct chardev *chardev_null(void)
{
    struct chardev *c = chardev_new(NULL, 0);

    c->discard = true;
    return c;
}

struct chardev *chardev_memory(struct loop *loop, size_t limit)
{
    struct chardev *c = chardev_new(loop, limit);

    c->memory = true;
    return c;
}

size_t chardev_memory_take(struct chardev *c, void *to, size_t size)
{
    size_t n;

    pthread_mutex_lock(&c->lock);
    n = MIN(size, c->out_used);
    memcpy(to, c->out, n);
    c->out_used -= n;
    memmove(c->out, c->out + n, c->out_used);
    pthread_mutex_unlock(&c->lock);
    if (n)
        flush(c); /* there is room now: tell who waits for it */
    return n;
}

int chardev_fds(struct loop *loop, int fd_in, int fd_out, struct chardev **out, struct error *err)
{
    struct chardev *c;
    struct stat st;

    if (fstat(fd_out, &st) < 0)
        return error_set_errno(err, errno, "character device: descriptor %d", fd_out);
    c = chardev_new(loop, OUT_LIMIT);
    c->fd_out = fd_out;
    c->regular = S_ISREG(st.st_mode);
    if (fd_in >= 0) {
        c->fd_in = fd_in;
        c->watch_in = loop_add_fd(loop, fd_in, EPOLLIN, in_ready, c);
        if (!c->watch_in) {
            /* A regular file or /dev/null as input: nothing will ever come from it. */
            c->fd_in = -1;
        }
    }
    *out = c;
    return 0;
}

int chardev_file(struct loop *loop, const char *path, struct chardev **out, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int r;

    if (fd < 0)
        return error_set_errno(err, errno, "cannot write to '%s'", path);
    r = chardev_fds(loop, -1, fd, out, err);
    if (r < 0) {
        close(fd);
        return r;
    }
    (*out)->own_fd = true;
    return 0;
}

void chardev_free(struct chardev *c)
{
    if (!c)
        return;
    for (int wait = 0; c->out_used && c->fd_out >= 0 && !c->memory && wait < 100; wait++)
        if (write_some_locked(c))
            poll(NULL, 0, 10);
        else
            wait = 0;
    if (c->loop)
        loop_cancel_posts(c->loop, c);
    loop_remove_fd(c->watch_in);
    loop_remove_fd(c->watch_out);
    if (c->own_fd)
        close(c->fd_out);
    pthread_mutex_destroy(&c->lock);
    free(c->out);
    free(c);
}
