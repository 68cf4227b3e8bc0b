/*
 * net.c - see net.h: queues, the thread of a back end, and the calls of a client's hooks.
 *
 * A hook is called so: under n->lock the thread copies the client and sets `calling`; then it takes
 * the client's lock and calls. Who detaches a client waits for `calling` to end. `blocked` is set
 * before receive() is called and cleared by net_receive_ready(), so that buffers a card gets while
 * it is refusing are not missed.
 */
#include "net/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    SEND_FRAMES = 1024, /* beyond it the card has to wait */
    SEND_BYTES = 4 * MiB,
    PENDING_FRAMES = 4096, /* beyond it what the world sent is lost */
    PENDING_BYTES = 8 * MiB,
};

static const struct net_ops *const types[] = {
    &net_user_ops, &net_tap_ops, &net_bridge_ops, &net_stream_ops, &net_dgram_ops, &net_socket_ops,
};

/* ---- queues ---------------------------------------------------------------------------------- */

static void queue_init(struct net_queue *q)
{
    *q = (struct net_queue){.last = &q->first};
}

static bool queue_add(struct net_queue *q, const struct net_packet *p)
{
    struct net_frame *f = malloc(sizeof(*f) + p->size);

    if (!f)
        return false;
    f->next = NULL;
    f->offload = p->offload;
    f->size = net_flatten(p, f->bytes, p->size);
    *q->last = f;
    q->last = &f->next;
    q->count++;
    q->bytes += f->size;
    return true;
}

static struct net_frame *queue_take(struct net_queue *q)
{
    struct net_frame *f = q->first;

    if (!f)
        return NULL;
    q->first = f->next;
    if (!q->first)
        q->last = &q->first;
    q->count--;
    q->bytes -= f->size;
    return f;
}

static void queue_put_back(struct net_queue *q, struct net_frame *f)
{
    f->next = q->first;
    if (!q->first)
        q->last = &f->next;
    q->first = f;
    q->count++;
    q->bytes += f->size;
}

static void queue_free(struct net_queue *q)
{
    struct net_frame *f;

    while ((f = queue_take(q)))
        free(f);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void wake_locked(struct net *n)
{
    uint64_t one = 1;

    n->work = true;
    if (!n->sleeping)
        return;
    n->sleeping = false;
    while (write(n->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

unsigned net_poll_add(struct net_poll *p, int fd, short events)
{
    if (p->count == p->room) {
        unsigned room = p->room ? 2 * p->room : 16;
        struct pollfd *bigger = xcalloc(room, sizeof(*bigger));

        if (p->count)
            memcpy(bigger, p->fds, p->count * sizeof(*bigger));
        free(p->fds);
        p->fds = bigger;
        p->room = room;
    }
    p->fds[p->count] = (struct pollfd){.fd = fd, .events = events};
    return p->count++;
}

short net_poll_events(const struct net_poll *p, int fd)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->fds[i].fd == fd)
            return p->fds[i].revents;
    return 0;
}

/* Before and after a hook of the client's; false: there is none to call. */
static bool call_begin_locked(struct net *n, struct net_client *out)
{
    if (!n->attached || !n->running)
        return false;
    n->calling = true;
    *out = n->client;
    pthread_mutex_unlock(&n->lock);
    if (out->lock)
        pthread_mutex_lock(out->lock);
    return true;
}

static void call_end_locked(struct net *n, const struct net_client *c)
{
    if (c->lock)
        pthread_mutex_unlock(c->lock);
    pthread_mutex_lock(&n->lock);
    n->calling = false;
    pthread_cond_broadcast(&n->changed);
}

enum handed { HANDED_OVER, HANDED_BACK };

/* One frame that the client accepts. */
static enum handed hand_over(struct net *n, const struct net_packet *p)
{
    enum handed result = HANDED_BACK;
    struct net_client c;

    pthread_mutex_lock(&n->lock);
    if (!n->attached || !n->link_set || !n->carrier) {
        n->counts.receive_dropped++;
        result = HANDED_OVER;
    } else if (!n->blocked) {
        n->blocked = true;
        if (call_begin_locked(n, &c)) {
            bool taken = c.receive(c.opaque, p);

            call_end_locked(n, &c);
            if (taken) {
                n->blocked = false;
                n->counts.received++;
                n->counts.received_bytes += p->size;
                result = HANDED_OVER;
            }
        } else {
            n->blocked = false;
        }
    }
    pthread_mutex_unlock(&n->lock);
    return result;
}

static void deliver_one(void *opaque, const struct net_packet *p)
{
    struct net *n = opaque;

    if (!n->pending.first && hand_over(n, p) == HANDED_OVER)
        return;
    if (n->pending.count < PENDING_FRAMES && n->pending.bytes < PENDING_BYTES &&
        queue_add(&n->pending, p))
        return;
    pthread_mutex_lock(&n->lock);
    n->counts.receive_dropped++;
    pthread_mutex_unlock(&n->lock);
}

void net_deliver(struct net *n, const struct net_packet *p)
{
    unsigned accepts;
    bool good = p->size >= NET_HEADER && p->size <= NET_FRAME_MAX && net_offload_valid(p);

    pthread_mutex_lock(&n->lock);
    accepts = n->accepts;
    if (!good)
        n->counts.receive_dropped++;
    else if (n->pcap)
        net_pcap_write(n->pcap, p);
    n->pcap_dirty |= n->pcap != NULL;
    pthread_mutex_unlock(&n->lock);
    if (!good)
        return;
    if (net_offload_needs(&p->offload) & ~accepts)
        net_complete(p, accepts, deliver_one, n);
    else
        deliver_one(n, p);
}

void net_deliver_bytes(struct net *n, const void *frame, size_t size)
{
    struct iovec iov = {(void *)(uintptr_t)frame, size};

    net_deliver(n, &(struct net_packet){.iov = &iov, .count = 1, .size = size});
}

static void hand_over_pending(struct net *n)
{
    struct net_frame *f;

    while ((f = queue_take(&n->pending))) {
        struct iovec iov = {f->bytes, f->size};
        struct net_packet p = {.iov = &iov, .count = 1, .size = f->size, .offload = f->offload};

        if (hand_over(n, &p) == HANDED_BACK) {
            queue_put_back(&n->pending, f);
            return;
        }
        free(f);
    }
}

static bool send_room_locked(const struct net *n, unsigned share)
{
    return n->sending.count < SEND_FRAMES / share && n->sending.bytes < SEND_BYTES / share;
}

static void send_waiting(struct net *n)
{
    struct net_frame *f;
    bool sent = true;

    pthread_mutex_lock(&n->lock);
    while (sent && (f = queue_take(&n->sending))) {
        struct iovec iov = {f->bytes, f->size};
        struct net_packet p = {.iov = &iov, .count = 1, .size = f->size, .offload = f->offload};

        if (!n->ops->direct)
            pthread_mutex_unlock(&n->lock);
        sent = n->ops->transmit(n, &p);
        if (!n->ops->direct)
            pthread_mutex_lock(&n->lock);
        if (sent)
            free(f);
        else
            queue_put_back(&n->sending, f);
    }
    if (n->client_waits && send_room_locked(n, 2)) {
        struct net_client c;

        if (n->client.writable && call_begin_locked(n, &c)) {
            /* It may fill the queue again, and ask again. */
            pthread_mutex_lock(&n->lock);
            n->client_waits = false;
            pthread_mutex_unlock(&n->lock);
            c.writable(c.opaque);
            call_end_locked(n, &c);
        }
    }
    pthread_mutex_unlock(&n->lock);
}

static void tell_link(struct net *n)
{
    struct net_client c;

    pthread_mutex_lock(&n->lock);
    while (n->attached && n->link_told != (n->link_set && n->carrier)) {
        bool up = n->link_set && n->carrier;

        if (n->client.link) {
            if (!call_begin_locked(n, &c))
                break;
            c.link(c.opaque, up);
            call_end_locked(n, &c);
        }
        n->link_told = up;
    }
    pthread_mutex_unlock(&n->lock);
}

static void run_commands(struct net *n)
{
    struct net_command *c;

    pthread_mutex_lock(&n->lock);
    while ((c = n->commands)) {
        n->commands = c->next;
        pthread_mutex_unlock(&n->lock);
        c->result = c->run(n, c->rule, c->add, c->err);
        pthread_mutex_lock(&n->lock);
        c->done = true;
        pthread_cond_broadcast(&n->changed);
    }
    pthread_mutex_unlock(&n->lock);
}

static void *net_thread(void *opaque)
{
    struct net *n = opaque;
    struct net_poll poll_set = {0};

    pthread_setname_np(pthread_self(), n->ops->type);
    for (;;) {
        bool receiving, stop;

        pthread_mutex_lock(&n->lock);
        n->work = false;
        stop = n->stop;
        pthread_mutex_unlock(&n->lock);
        if (stop)
            break;
        run_commands(n);
        tell_link(n);
        hand_over_pending(n);
        send_waiting(n);
        poll_set.count = 0;
        poll_set.timeout = -1;
        pthread_mutex_lock(&n->lock);
        receiving = !n->pending.first;
        if (n->pcap_dirty && n->pcap)
            net_pcap_flush(n->pcap);
        n->pcap_dirty = false;
        pthread_mutex_unlock(&n->lock);
        net_poll_add(&poll_set, n->wake, POLLIN);
        n->ops->fill(n, &poll_set, receiving);
        pthread_mutex_lock(&n->lock);
        if (n->work) /* it came meanwhile */
            poll_set.timeout = 0;
        else
            n->sleeping = true;
        pthread_mutex_unlock(&n->lock);
        if (poll(poll_set.fds, poll_set.count, poll_set.timeout) < 0)
            for (unsigned i = 0; i < poll_set.count; i++)
                poll_set.fds[i].revents = 0;
        pthread_mutex_lock(&n->lock);
        n->sleeping = false;
        pthread_mutex_unlock(&n->lock);
        if (poll_set.fds[0].revents) {
            uint64_t count;

            if (read(n->wake, &count, sizeof(count)) < 0)
                count = 0; /* spurious */
        }
        n->ops->ready(n, &poll_set, receiving);
    }
    free(poll_set.fds);
    return NULL;
}

/* ---- sending --------------------------------------------------------------------------------- */

struct sending {
    struct net *n;
    bool lost;
};

/* One frame that the back end takes. n->lock is held. */
static void send_one_locked(void *opaque, const struct net_packet *p)
{
    struct sending *s = opaque;
    struct net *n = s->n;

    if (n->ops->direct && !n->sending.first && n->ops->transmit(n, p))
        return;
    if (!queue_add(&n->sending, p)) {
        s->lost = true;
        return;
    }
    wake_locked(n);
}

bool net_send(struct net *n, const struct net_packet *p)
{
    struct sending s = {.n = n};
    bool taken = true;

    pthread_mutex_lock(&n->lock);
    if (p->size < NET_HEADER || p->size > NET_FRAME_MAX || !net_offload_valid(p) || !n->link_set ||
        !n->carrier) {
        s.lost = true;
    } else if (!send_room_locked(n, 1)) {
        n->client_waits = true;
        taken = false;
    } else {
        if (n->pcap) {
            net_pcap_write(n->pcap, p);
            n->pcap_dirty = true;
        }
        if (net_offload_needs(&p->offload) & ~n->features)
            net_complete(p, n->features, send_one_locked, &s);
        else
            send_one_locked(&s, p);
    }
    if (s.lost) {
        n->counts.send_dropped++;
    } else if (taken) {
        n->counts.sent++;
        n->counts.sent_bytes += p->size;
    }
    pthread_mutex_unlock(&n->lock);
    return taken;
}

bool net_sending(struct net *n)
{
    bool any;

    pthread_mutex_lock(&n->lock);
    any = n->sending.first != NULL;
    pthread_mutex_unlock(&n->lock);
    return any;
}

void net_receive_ready(struct net *n)
{
    pthread_mutex_lock(&n->lock);
    if (n->blocked) {
        n->blocked = false;
        wake_locked(n);
    }
    pthread_mutex_unlock(&n->lock);
}

void net_set_accepts(struct net *n, unsigned features)
{
    pthread_mutex_lock(&n->lock);
    n->accepts = features ? features | NET_CSUM : 0;
    if (n->ops->set_accepts)
        n->ops->set_accepts(n, n->accepts);
    pthread_mutex_unlock(&n->lock);
}

unsigned net_features(const struct net *n)
{
    return n->features;
}

/* ---- link, pause, counters ------------------------------------------------------------------- */

void net_set_link(struct net *n, bool up)
{
    pthread_mutex_lock(&n->lock);
    n->link_set = up;
    wake_locked(n);
    pthread_mutex_unlock(&n->lock);
}

void net_set_carrier(struct net *n, bool up)
{
    pthread_mutex_lock(&n->lock);
    n->carrier = up;
    wake_locked(n);
    pthread_mutex_unlock(&n->lock);
}

bool net_link(struct net *n)
{
    bool up;

    pthread_mutex_lock(&n->lock);
    up = n->link_set && n->carrier;
    pthread_mutex_unlock(&n->lock);
    return up;
}

static void wait_for_hook_locked(struct net *n)
{
    while (n->calling)
        pthread_cond_wait(&n->changed, &n->lock);
}

void net_set_running(struct net *n, bool running)
{
    pthread_mutex_lock(&n->lock);
    n->running = running;
    wait_for_hook_locked(n);
    wake_locked(n);
    pthread_mutex_unlock(&n->lock);
}

void net_counts(struct net *n, struct net_counts *out)
{
    pthread_mutex_lock(&n->lock);
    *out = n->counts;
    pthread_mutex_unlock(&n->lock);
}

int net_capture(struct net *n, const char *path, struct error *err)
{
    struct net_pcap *p = NULL, *old;
    int r = path ? net_pcap_open(path, &p, err) : 0;

    if (r < 0)
        return error_prefix(err, r, "network '%s': ", n->id);
    pthread_mutex_lock(&n->lock);
    old = n->pcap;
    n->pcap = p;
    pthread_mutex_unlock(&n->lock);
    net_pcap_close(old);
    return 0;
}

/* ---- commands -------------------------------------------------------------------------------- */

static int run_on_thread(struct net *n, const char *rule, bool add, struct error *err)
{
    struct net_command c = {.run = n->ops->forward, .rule = rule, .add = add, .err = err};
    struct net_command **last = &n->commands;

    if (!n->ops->forward)
        return error_set(err, EOPNOTSUPP,
                         "network '%s' is of type %s: only type user has port forwards", n->id,
                         n->ops->type);
    pthread_mutex_lock(&n->lock);
    while (*last)
        last = &(*last)->next;
    *last = &c;
    wake_locked(n);
    while (!c.done)
        pthread_cond_wait(&n->changed, &n->lock);
    pthread_mutex_unlock(&n->lock);
    return c.result < 0 ? error_prefix(err, c.result, "network '%s': ", n->id) : 0;
}

int net_forward_add(struct net *n, const char *rule, struct error *err)
{
    return run_on_thread(n, rule, true, err);
}

int net_forward_remove(struct net *n, const char *rule, struct error *err)
{
    return run_on_thread(n, rule, false, err);
}

/* ---- life ------------------------------------------------------------------------------------ */

int net_attach(struct net *n, const struct net_client *client, struct error *err)
{
    int r = 0;

    pthread_mutex_lock(&n->lock);
    if (client && n->attached) {
        r = error_set(err, EBUSY, "network '%s' has a card already", n->id);
    } else {
        n->attached = false;
        wait_for_hook_locked(n);
        n->client_waits = n->blocked = false;
        n->accepts = 0;
        if (n->ops->set_accepts)
            n->ops->set_accepts(n, 0);
        n->link_told = n->link_set && n->carrier;
        n->client = client ? *client : (struct net_client){0};
        n->attached = client != NULL;
        wake_locked(n);
    }
    pthread_mutex_unlock(&n->lock);
    return r;
}

static const struct net_ops *type_find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        if (!strcmp(types[i]->type, name))
            return types[i];
    return NULL;
}

static bool in_list(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (const char *p = list; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (!strncmp(p, word, length) && (p[length] == '|' || !p[length]))
            return true;
    return false;
}

static int check_keys(const struct net_ops *ops, const struct net_options *o, struct error *err)
{
    for (unsigned i = 0; i < o->count; i++)
        if (!in_list("id|capture", o->item[i].key) && !in_list(ops->keys, o->item[i].key))
            return error_set(err, EINVAL, "type %s has no option '%s'; it has id, capture, %s",
                             ops->type, o->item[i].key, ops->keys);
    return 0;
}

static int open_parsed(const struct net_options *o, struct net **out, struct error *err)
{
    const struct net_ops *ops = type_find(o->type);
    const char *capture = net_option(o, "capture");
    struct net *n;
    int r;

    if (!ops)
        return error_set(err, EINVAL,
                         "there is no network type '%s'; there are user, tap, bridge, stream, "
                         "dgram, socket",
                         o->type);
    r = check_keys(ops, o, err);
    if (r < 0)
        return r;
    n = xcalloc(1, ops->size);
    n->ops = ops;
    n->features = ops->features;
    n->id = xstrdup(net_option(o, "id") ? net_option(o, "id") : ops->type);
    n->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    n->running = n->link_set = n->carrier = n->link_told = true;
    queue_init(&n->sending);
    queue_init(&n->pending);
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->changed, NULL);
    if (n->wake < 0)
        r = error_set_errno(err, errno, "cannot create an eventfd");
    if (!r)
        r = ops->open(n, o, err);
    if (!r && capture)
        r = net_capture(n, capture, err);
    if (!r && (r = -pthread_create(&n->thread, NULL, net_thread, n)))
        error_set_errno(err, -r, "cannot start a thread");
    if (r < 0) {
        net_free(n);
        return r;
    }
    n->thread_started = true;
    *out = n;
    return 0;
}

int net_open(const char *spec, struct net **out, struct error *err)
{
    struct net_options o;
    int r = net_options_parse(&o, spec, err);

    if (!r) {
        r = open_parsed(&o, out, err);
        net_options_free(&o);
    }
    return r < 0 ? error_prefix(err, r, "network: ") : 0;
}

void net_free(struct net *n)
{
    if (!n)
        return;
    net_attach(n, NULL, NULL);
    if (n->thread_started) {
        pthread_mutex_lock(&n->lock);
        n->stop = true;
        wake_locked(n);
        pthread_mutex_unlock(&n->lock);
        pthread_join(n->thread, NULL);
    }
    n->ops->close(n);
    queue_free(&n->sending);
    queue_free(&n->pending);
    net_pcap_close(n->pcap);
    if (n->wake >= 0)
        close(n->wake);
    pthread_cond_destroy(&n->changed);
    pthread_mutex_destroy(&n->lock);
    free(n->id);
    free(n);
}

const char *net_id(const struct net *n)
{
    return n->id;
}

const char *net_type(const struct net *n)
{
    return n->ops->type;
}

void net_help(FILE *out)
{
    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        fprintf(out, "%s%s", i ? "\n" : "", types[i]->help);
    fprintf(out, "\nEach takes id=NAME and capture=FILE (pcap). A comma in a value is written "
                 "twice.\n");
}
