/*
 * vsock.c - virtio-vsock: stream sockets between the guest and UNIX sockets of the host. virtio
 * 1.2, section 5.10. No help of the host's kernel is needed.
 *
 * The guest's connect() to port P of CID 2 reaches the socket PATH_P. Who connects to the socket
 * PATH and says "CONNECT P\n" reaches whoever listens at port P in the guest, and is answered
 * "OK NUMBER\n". This is how Firecracker does it, so that its clients work here.
 *
 * A thread polls the sockets; it and the I/O thread share all under io_lock. What has to be told to
 * the guest is kept as bits of a connection while there are no buffers. Flow control is by credit:
 * each side says how many bytes it took and how many it can hold.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { RX, TX, EVENTS, QUEUE_SIZE = 128, HEADER = sizeof(struct virtio_vsock_hdr) };
enum { HOST_CID = 2, FIRST_GUEST_CID = 3, CONNECTIONS = 256, BUFFER = 64 * KiB, LINE = 24 };
enum { FIRST_PORT = 1 << 30, LOST_MAX = 64 };

enum state {
    FREE,
    GREETING, /* the host's client has not said which port */
    ASKED,    /* we wait for the guest's answer */
    CONNECTED,
    CLOSING, /* we said that all is over, or are about to */
};

enum tell {
    TELL_REQUEST = 1,
    TELL_RESPONSE = 2,
    TELL_CREDIT = 4,
    TELL_SHUTDOWN = 8,
    TELL_RST = 16
};

struct connection {
    enum state state;
    int fd;
    uint32_t guest_port, host_port;
    uint8_t tell; /* enum tell, in the order of sending */
    uint8_t shut; /* what the guest does not do any more: VIRTIO_VSOCK_SHUTDOWN_* */
    bool ended;   /* the socket has no more to read */
    uint32_t peer_room, peer_took, sent; /* the guest's buffer, what left it, what went in */
    uint32_t took, told;                 /* of ours: left it, and last said so */
    char line[LINE];
    unsigned line_size;
    uint8_t *out; /* BUFFER bytes: from the guest, not yet written */
    size_t out_size;
};

/* Answers to who has no connection. */
struct lost {
    uint32_t guest_port, host_port;
};

struct virtio_vsock {
    struct virtio_device v;
    uint64_t cid; /* properties */
    char *path;

    int listener, wake_fd;
    pthread_t thread;
    bool thread_made, ending;
    struct connection connection[CONNECTIONS];
    struct lost lost[LOST_MAX];
    unsigned lost_count;
    uint32_t next_port;
    bool event_due; /* connections were lost by a restore */
};

static struct virtio_vsock *to_vsock(struct virtio_device *v)
{
    return container_of(v, struct virtio_vsock, v);
}

static void wake(struct virtio_vsock *s)
{
    uint64_t one = 1;

    if (write(s->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_error("%s: cannot wake its thread", s->v.dev.id);
}

/* ---- connections -------------------------------------------------------------------------------
 */

static struct connection *find(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &s->connection[i];

        if (c->state > GREETING && c->guest_port == guest_port && c->host_port == host_port)
            return c;
    }
    return NULL;
}

static struct connection *new_connection(struct virtio_vsock *s, int fd, enum state state)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &s->connection[i];

        if (c->state != FREE)
            continue;
        *c = (struct connection){.state = state, .fd = fd, .out = malloc(BUFFER)};
        if (c->out)
            return c;
        c->state = FREE;
        break;
    }
    return NULL;
}

static void drop(struct connection *c)
{
    if (c->state == FREE)
        return;
    if (c->fd >= 0)
        close(c->fd);
    free(c->out);
    *c = (struct connection){.state = FREE, .fd = -1};
}

/* No more bytes either way; the guest is told, then the connection goes. */
static void reset_connection(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->out_size = 0;
    c->state = CLOSING;
    c->tell = TELL_RST;
}

static int unix_socket(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    memcpy(address->sun_path, path, strlen(path) + 1);
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* ---- to the guest ------------------------------------------------------------------------------
 */

static void put_header(const struct virtio_vsock *s, uint8_t *h, uint32_t guest_port,
                       uint32_t host_port, uint16_t op, uint32_t size)
{
    struct virtio_vsock_hdr head = {.src_cid = HOST_CID,
                                    .dst_cid = s->cid,
                                    .src_port = host_port,
                                    .dst_port = guest_port,
                                    .len = size,
                                    .type = VIRTIO_VSOCK_TYPE_STREAM,
                                    .op = op,
                                    .buf_alloc = BUFFER};

    memcpy(h, &head, HEADER);
}

static bool send_packet(struct virtio_vsock *s, struct connection *c, uint16_t op, uint32_t flags)
{
    struct virtio_queue *q = &s->v.queue[RX];
    struct virtio_element *e = virtqueue_pop(q);
    uint8_t h[HEADER];

    if (!e)
        return false;
    put_header(s, h, c->guest_port, c->host_port, op, 0);
    store_le(h + offsetof(struct virtio_vsock_hdr, flags), flags, 4);
    store_le(h + offsetof(struct virtio_vsock_hdr, fwd_cnt), c->took, 4);
    c->told = c->took;
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, h, HEADER));
    return true;
}

static bool send_lost(struct virtio_vsock *s)
{
    struct virtio_queue *q = &s->v.queue[RX];

    while (s->lost_count) {
        struct virtio_element *e = virtqueue_pop(q);
        const struct lost *l = &s->lost[s->lost_count - 1];
        uint8_t h[HEADER];

        if (!e)
            return false;
        put_header(s, h, l->guest_port, l->host_port, VIRTIO_VSOCK_OP_RST, 0);
        virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, h, HEADER));
        s->lost_count--;
    }
    return true;
}

static void refuse(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port)
{
    if (s->lost_count < LOST_MAX)
        s->lost[s->lost_count++] = (struct lost){guest_port, host_port};
}

/* False: there are no buffers. */
static bool tell(struct virtio_vsock *s, struct connection *c)
{
    static const struct {
        uint8_t bit;
        uint16_t op;
        uint32_t flags;
    } order[] = {
        {TELL_REQUEST, VIRTIO_VSOCK_OP_REQUEST, 0},
        {TELL_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE, 0},
        {TELL_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0},
        {TELL_SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN,
         VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND},
        {TELL_RST, VIRTIO_VSOCK_OP_RST, 0},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if (c->tell & order[i].bit) {
            if (!send_packet(s, c, order[i].op, order[i].flags))
                return false;
            c->tell &= (uint8_t)~order[i].bit;
            if (order[i].bit == TELL_RST)
                drop(c);
        }
    return true;
}

static uint32_t credit(const struct connection *c)
{
    uint32_t inside = c->sent - c->peer_took;

    return inside < c->peer_room ? c->peer_room - inside : 0;
}

/* Straight from the socket into a buffer. False: there is none. */
static bool read_socket(struct virtio_vsock *s, struct connection *c)
{
    struct virtio_queue *q = &s->v.queue[RX];
    struct virtio_element *e = virtqueue_pop(q);
    struct iovec iov[64];
    uint8_t h[HEADER];
    unsigned count;
    size_t room;
    ssize_t n;

    if (!e)
        return false;
    room = e->in_size > HEADER ? e->in_size - HEADER : 0;
    room = MIN(room, (size_t)credit(c));
    if (!room) {
        virtqueue_unpop(q, e);
        return e->in_size > HEADER;
    }
    count = iov_slice(e->in, e->in_count, HEADER, room, iov, ARRAY_SIZE(iov));
    n = readv(c->fd, iov, (int)count);
    if (n <= 0) {
        virtqueue_unpop(q, e);
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            c->ended = true;
            c->state = CLOSING;
            c->tell |= TELL_SHUTDOWN;
        }
        return true;
    }
    c->sent += (uint32_t)n;
    c->told = c->took;
    put_header(s, h, c->guest_port, c->host_port, VIRTIO_VSOCK_OP_RW, (uint32_t)n);
    store_le(h + offsetof(struct virtio_vsock_hdr, fwd_cnt), c->took, 4);
    iov_write(e->in, e->in_count, 0, h, HEADER);
    virtqueue_push(q, e, HEADER + (size_t)n);
    return true;
}

/* All that waits for buffers. */
static void tell_all(struct virtio_vsock *s)
{
    if (!virtio_io_live(&s->v))
        return;
    virtqueue_want_kicks(&s->v.queue[RX], true);
    if (!send_lost(s))
        return;
    for (unsigned i = 0; i < CONNECTIONS; i++)
        if (s->connection[i].state != FREE && !tell(s, &s->connection[i]))
            return;
}

/* ---- to the host -------------------------------------------------------------------------------
 */

static void write_socket(struct connection *c)
{
    while (c->out_size && c->fd >= 0) {
        ssize_t n = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0) {
            reset_connection(c);
            return;
        }
        c->out_size -= (size_t)n;
        memmove(c->out, c->out + n, c->out_size);
        c->took += (uint32_t)n;
    }
    if (c->took - c->told >= BUFFER / 2) /* before the guest has to stop */
        c->tell |= TELL_CREDIT;
    if (!c->out_size && c->fd >= 0 && c->shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
        shutdown(c->fd, SHUT_WR);
    if (!c->out_size && c->shut == (VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV))
        reset_connection(c);
}

static void guest_connects(struct virtio_vsock *s, const struct virtio_vsock_hdr *h)
{
    auto_free char *path = xasprintf("%s_%u", s->path, h->dst_port);
    struct sockaddr_un address;
    struct connection *c;
    int fd = unix_socket(path, &address);

    if (fd < 0 || find(s, h->src_port, h->dst_port) ||
        connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        !(c = new_connection(s, fd, CONNECTED))) {
        if (fd >= 0)
            close(fd);
        refuse(s, h->src_port, h->dst_port);
        return;
    }
    c->guest_port = h->src_port;
    c->host_port = h->dst_port;
    c->peer_room = h->buf_alloc;
    c->peer_took = h->fwd_cnt;
    c->tell = TELL_RESPONSE;
}

static void take_data(struct connection *c, const struct virtio_vsock_hdr *h,
                      const struct virtio_element *e)
{
    if (c->state != CONNECTED && c->state != CLOSING)
        return;
    if (h->len > BUFFER - c->out_size ||
        iov_read(e->out, e->out_count, HEADER, c->out + c->out_size, h->len) != h->len) {
        reset_connection(c); /* more than we have room for */
        return;
    }
    c->out_size += h->len;
    write_socket(c);
}

static void guest_answers(struct connection *c)
{
    char line[32];
    int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

    if (c->state != ASKED || send(c->fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        reset_connection(c);
    else
        c->state = CONNECTED;
}

static void take_packet(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_vsock *s = to_vsock(q->v);
    struct virtio_vsock_hdr h;
    struct connection *c;

    if (iov_read(e->out, e->out_count, 0, &h, HEADER) != HEADER) {
        virtio_break(q->v, "a packet of %zu bytes", e->out_size);
        virtqueue_discard(e);
        return;
    }
    c = find(s, h.src_port, h.dst_port);
    if (h.dst_cid != HOST_CID || h.src_cid != s->cid || h.type != VIRTIO_VSOCK_TYPE_STREAM) {
        if (h.op != VIRTIO_VSOCK_OP_RST && h.dst_cid == HOST_CID)
            refuse(s, h.src_port, h.dst_port);
    } else if (h.op == VIRTIO_VSOCK_OP_REQUEST) {
        guest_connects(s, &h);
    } else if (!c) {
        if (h.op != VIRTIO_VSOCK_OP_RST)
            refuse(s, h.src_port, h.dst_port);
    } else {
        c->peer_room = h.buf_alloc;
        c->peer_took = h.fwd_cnt;
        switch (h.op) {
        case VIRTIO_VSOCK_OP_RESPONSE: guest_answers(c); break;
        case VIRTIO_VSOCK_OP_RW: take_data(c, &h, e); break;
        case VIRTIO_VSOCK_OP_RST: drop(c); break;
        case VIRTIO_VSOCK_OP_SHUTDOWN:
            c->shut |= h.flags & (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND);
            write_socket(c);
            break;
        case VIRTIO_VSOCK_OP_CREDIT_UPDATE: break;
        case VIRTIO_VSOCK_OP_CREDIT_REQUEST: c->tell |= TELL_CREDIT; break;
        default: reset_connection(c); break;
        }
    }
    virtqueue_push(q, e, 0);
}

static void send_event(struct virtio_vsock *s)
{
    struct virtio_element *e = s->event_due ? virtqueue_pop(&s->v.queue[EVENTS]) : NULL;
    uint32_t id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET;

    if (!e)
        return;
    s->event_due = false;
    virtqueue_push(e->queue, e, iov_write(e->in, e->in_count, 0, &id, sizeof(id)));
}

static void vsock_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_vsock *s = to_vsock(v);

    if (number == TX)
        virtqueue_each(&v->queue[TX], take_packet);
    if (number == EVENTS)
        send_event(s);
    tell_all(s);
    wake(s);
}

/* ---- the sockets' thread -----------------------------------------------------------------------
 */

static void client_arrives(struct virtio_vsock *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0 && !new_connection(s, fd, GREETING))
        close(fd);
}

/* "CONNECT 1234\n", byte by byte, so that nothing behind it is read. */
static void client_greets(struct virtio_vsock *s, struct connection *c)
{
    unsigned port;
    char end;

    for (;;) {
        ssize_t n = read(c->fd, c->line + c->line_size, 1);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || c->line_size + 2 == LINE) {
            drop(c);
            return;
        }
        if (c->line[c->line_size++] == '\n')
            break;
    }
    if (sscanf(c->line, "CONNECT %u%c", &port, &end) != 2 || end != '\n') {
        drop(c);
        return;
    }
    while (find(s, port, s->next_port))
        s->next_port = FIRST_PORT | (s->next_port + 1);
    c->guest_port = port;
    c->host_port = s->next_port;
    s->next_port = FIRST_PORT | (s->next_port + 1);
    c->state = ASKED;
    c->tell = TELL_REQUEST;
}

static short interest(struct virtio_vsock *s, const struct connection *c)
{
    bool room = virtqueue_has_chain(&s->v.queue[RX]);
    short events = 0;

    if (c->state == GREETING || (c->state == CONNECTED && credit(c) && room && !c->ended &&
                                 !(c->shut & VIRTIO_VSOCK_SHUTDOWN_RCV)))
        events |= POLLIN;
    if (c->out_size)
        events |= POLLOUT;
    return events;
}

static void serve(struct virtio_vsock *s, struct connection *c, short events)
{
    if (events & POLLOUT)
        write_socket(c);
    if (c->state == GREETING && events & (POLLIN | POLLHUP))
        client_greets(s, c);
    else if (c->state == CONNECTED && events & (POLLIN | POLLHUP | POLLERR))
        read_socket(s, c);
}

static void *socket_thread(void *opaque)
{
    struct virtio_vsock *s = opaque;
    struct pollfd p[CONNECTIONS + 2];
    struct connection *who[CONNECTIONS + 2];
    uint64_t n;

    for (;;) {
        unsigned count = 0;
        bool live;

        virtio_io_begin(&s->v);
        live = virtio_io_live(&s->v);
        p[count++] = (struct pollfd){.fd = s->wake_fd, .events = POLLIN};
        if (live)
            p[count++] = (struct pollfd){.fd = s->listener, .events = POLLIN};
        for (unsigned i = 0; i < CONNECTIONS && live; i++) {
            struct connection *c = &s->connection[i];
            short events = c->state != FREE && c->fd >= 0 ? interest(s, c) : 0;

            if (!events)
                continue;
            who[count] = c;
            p[count++] = (struct pollfd){.fd = c->fd, .events = events};
        }
        virtio_io_end(&s->v);
        if (poll(p, count, -1) < 0 && errno != EINTR)
            return NULL;
        if (p[0].revents && read(s->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
            return NULL;
        virtio_io_begin(&s->v);
        if (s->ending) {
            virtio_io_end(&s->v);
            return NULL;
        }
        for (unsigned i = 1; i < count && virtio_io_live(&s->v); i++) {
            if (!p[i].revents)
                continue;
            if (i == 1)
                client_arrives(s);
            else if (who[i]->state != FREE && who[i]->fd == p[i].fd) /* else gone meanwhile */
                serve(s, who[i], p[i].revents);
        }
        tell_all(s);
        virtio_io_end(&s->v);
    }
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void vsock_reset(struct virtio_device *v)
{
    struct virtio_vsock *s = to_vsock(v);

    for (unsigned i = 0; i < CONNECTIONS; i++)
        drop(&s->connection[i]);
    s->lost_count = 0;
    s->event_due = false;
}

static void vsock_refresh(struct virtio_device *v)
{
    vsock_reset(v);
    to_vsock(v)->event_due = true;
}

static void vsock_start(struct virtio_device *v)
{
    wake(to_vsock(v));
}

static void vsock_running(struct virtio_device *v, bool running)
{
    wake(to_vsock(v));
}

static int listen_at(struct virtio_vsock *s, struct error *err)
{
    const char *name = s->v.dev.type->name;
    struct sockaddr_un address;

    s->listener = unix_socket(s->path, &address);
    if (s->listener < 0)
        return error_set_errno(err, -s->listener, "%s: path=%s", name, s->path);
    if (bind(s->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(s->listener, 16) < 0) {
        int r = error_set_errno(err, errno, "%s: cannot listen at '%s'", name, s->path);

        close(s->listener);
        s->listener = -1;
        return r;
    }
    return 0;
}

static void vsock_unrealize(struct virtio_device *v)
{
    struct virtio_vsock *s = to_vsock(v);

    if (s->thread_made) {
        virtio_io_begin(v);
        s->ending = true;
        virtio_io_end(v);
        wake(s);
        pthread_join(s->thread, NULL);
    }
    vsock_reset(v);
    if (s->listener >= 0) {
        close(s->listener);
        unlink(s->path);
    }
    if (s->wake_fd >= 0)
        close(s->wake_fd);
}

static int vsock_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_vsock *s = to_vsock(v);
    int r;

    s->listener = s->wake_fd = -1;
    s->next_port = FIRST_PORT;
    if (s->cid < FIRST_GUEST_CID || s->cid >= UINT32_MAX)
        return error_set(err, EINVAL, "%s: guest-cid=%llu is not from 3 to 4294967294",
                         v->dev.type->name, (unsigned long long)s->cid);
    if (!s->path)
        return error_set(err, EINVAL, "%s: say path=SOCKET", v->dev.type->name);
    r = listen_at(s, err);
    if (r < 0)
        return r;
    store_le(v->config, s->cid, 8);
    v->config_size = 8;
    for (unsigned i = RX; i <= EVENTS; i++)
        virtio_add_queue(v, QUEUE_SIZE);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = s->wake_fd < 0 ? -errno : -pthread_create(&s->thread, NULL, socket_thread, s);
    s->thread_made = !r;
    if (r < 0) {
        error_set_errno(err, -r, "%s: no thread", v->dev.type->name);
        vsock_unrealize(v);
    }
    return r;
}

static const struct virtio_type vsock_virtio = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .class_code = 0x028000,
    .realize = vsock_realize,
    .unrealize = vsock_unrealize,
    .reset = vsock_reset,
    .refresh = vsock_refresh,
    .start = vsock_start,
    .running = vsock_running,
    .kicked = vsock_kicked,
};

#define VSOCK_PROPERTIES                                                                           \
    PROPERTY_U64("guest-cid", struct virtio_vsock, cid, 3, "the guest's address, 3 or more"),      \
        PROPERTY_STRING("path", struct virtio_vsock, path, NULL,                                   \
                        "socket for the host's clients; PATH_PORT is for the guest's")

static const struct property vsock_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_vsock, v),
    VSOCK_PROPERTIES,
    PROPERTY_END,
};
static const struct property vsock_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_vsock, v),
    VSOCK_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field vsock_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_vsock, v),
    STATE_END,
};
static const struct state_field vsock_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_vsock, v),
    STATE_END,
};

#define SUMMARY "sockets between guest and host (virtio)"
const struct device_type virtio_vsock_pci_type =
    VIRTIO_PCI_DEVICE("virtio-vsock-pci", SUMMARY, struct virtio_vsock, vsock_pci_properties,
                      vsock_pci_state, vsock_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_vsock_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-vsock-device", SUMMARY, struct virtio_vsock, vsock_mmio_properties,
                       vsock_mmio_state, vsock_virtio);
