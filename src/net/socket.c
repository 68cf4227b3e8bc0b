/*
 * socket.c - a cable between machines: `stream` (TCP or UNIX; each frame behind its length, four
 * bytes, big endian), `dgram` (UDP, multicast or UNIX; a datagram is a frame), and `socket`, the
 * older spelling of both. The other end may be QEMU.
 *
 * What comes from the other end is as hostile as a guest: a length beyond NET_FRAME_MAX ends the
 * connection. A listener has one peer at a time; while there is none the link is down.
 */
#include "net/internal.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LENGTH = 4, SOCK_IN = 4 * (NET_FRAME_MAX + LENGTH), SOCK_BATCH = 64 };

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
        struct sockaddr_storage room;
    };
    socklen_t length; /* 0: none */
};

struct sock {
    struct net net;
    bool datagram, connecting, multicast;
    int listener, fd;    /* -1: none */
    struct address peer; /* to connect or send to */
    char *unlink_path;   /* a UNIX socket that we made */
    uint64_t reconnect;  /* milliseconds; 0: do not */
    int64_t retry_at;    /* milliseconds; when to connect again */
    /* stream */
    uint8_t out[NET_FRAME_MAX + LENGTH]; /* the rest of a frame that went half */
    size_t out_start, out_end;
    size_t in_used;
    uint8_t in[SOCK_IN];
};
#define to_sock(n) container_of(n, struct sock, net)

static int64_t now_msec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* ---- the connection ----------------------------------------------------------------------------
 */

static void disconnect(struct sock *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->connecting = false;
    s->in_used = s->out_start = s->out_end = 0;
    if (s->reconnect)
        s->retry_at = now_msec() + (int64_t)s->reconnect;
    net_set_carrier(&s->net, false);
}

static void connected(struct sock *s)
{
    int one = 1;

    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails where it is no TCP */
    s->connecting = false;
    net_set_carrier(&s->net, true);
}

/* Start to connect; the result comes by ready(). */
static int start_connect(struct sock *s)
{
    s->fd = socket(s->peer.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return -errno;
    if (!connect(s->fd, &s->peer.any, s->peer.length)) {
        connected(s);
        return 0;
    }
    if (errno == EINPROGRESS) {
        s->connecting = true;
        return 0;
    }
    return -errno;
}

static void finish_connect(struct sock *s)
{
    int error = 0;
    socklen_t size = sizeof(error);

    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error) {
        if (!s->reconnect)
            log_warn("network '%s': cannot connect: %s", s->net.id, strerror(error));
        disconnect(s);
    } else {
        connected(s);
    }
}

static void accept_peer(struct sock *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;
    s->fd = fd;
    connected(s);
}

/* ---- frames ------------------------------------------------------------------------------------
 */

/* Hand over the whole frames there are. False: the peer is confused. */
static bool take_frames(struct sock *s)
{
    size_t at = 0;
    bool good = true;

    while (!s->net.pending.first && s->in_used - at >= LENGTH) {
        const uint8_t *p = s->in + at;
        uint32_t size = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];

        if (size > NET_FRAME_MAX) {
            good = false;
            break;
        }
        if (s->in_used - at - LENGTH < size)
            break;
        net_deliver_bytes(&s->net, p + LENGTH, size);
        at += LENGTH + size;
    }
    memmove(s->in, s->in + at, s->in_used - at);
    s->in_used -= at;
    return good;
}

static void receive_stream(struct sock *s)
{
    ssize_t got = recv(s->fd, s->in + s->in_used, SOCK_IN - s->in_used, MSG_DONTWAIT);

    if (got > 0)
        s->in_used += (size_t)got;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        disconnect(s);
    } else if (!take_frames(s)) {
        log_warn("network '%s': the other end does not send frames behind their length; "
                 "disconnected",
                 s->net.id);
        disconnect(s);
    }
}

static void receive_datagrams(struct sock *s)
{
    for (unsigned i = 0; i < SOCK_BATCH && !s->net.pending.first; i++) {
        ssize_t got = recv(s->fd, s->in, NET_FRAME_MAX, MSG_DONTWAIT | MSG_TRUNC);

        if (got < 0)
            return;
        if (got <= NET_FRAME_MAX)
            net_deliver_bytes(&s->net, s->in, (size_t)got);
    }
}

static void flush(struct sock *s)
{
    ssize_t sent;

    if (s->out_start == s->out_end)
        return;
    sent = send(s->fd, s->out + s->out_start, s->out_end - s->out_start,
                MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0)
        s->out_start += (size_t)sent;
    else if (errno != EAGAIN && errno != EINTR)
        disconnect(s);
}

static bool transmit_stream(struct sock *s, const struct net_packet *p)
{
    uint8_t length[LENGTH] = {(uint8_t)(p->size >> 24), (uint8_t)(p->size >> 16),
                              (uint8_t)(p->size >> 8), (uint8_t)p->size};
    struct iovec iov[2] = {{length, LENGTH}, p->iov[0]};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    ssize_t sent;

    flush(s);
    if (s->fd < 0)
        return true; /* lost */
    if (s->out_start != s->out_end)
        return false;
    sent = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return false;
        disconnect(s);
        return true;
    }
    if ((size_t)sent < LENGTH + p->size) {
        uint8_t *to = s->out;

        memcpy(to, length, LENGTH);
        memcpy(to + LENGTH, p->iov[0].iov_base, p->size);
        s->out_start = (size_t)sent;
        s->out_end = LENGTH + p->size;
    }
    return true;
}

static bool sock_transmit(struct net *n, const struct net_packet *p)
{
    struct sock *s = to_sock(n);
    ssize_t sent;

    if (s->fd < 0 || s->connecting)
        return true;
    if (!s->datagram)
        return transmit_stream(s, p);
    sent = s->peer.length ? sendto(s->fd, p->iov[0].iov_base, p->size, MSG_DONTWAIT | MSG_NOSIGNAL,
                                   &s->peer.any, s->peer.length)
                          : send(s->fd, p->iov[0].iov_base, p->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent >= 0 || errno != EAGAIN; /* nobody there: lost, as on any cable */
}

/* ---- rounds ------------------------------------------------------------------------------------
 */

static void sock_fill(struct net *n, struct net_poll *p, bool receiving)
{
    struct sock *s = to_sock(n);
    short events = receiving ? POLLIN : 0;

    if (s->fd >= 0) {
        /* What was read before the card refused comes first. */
        if (receiving && s->in_used && !s->datagram && !take_frames(s)) {
            disconnect(s);
            p->timeout = 0;
            return;
        }
        if (n->pending.first)
            events = 0;
        if (s->connecting || s->out_start != s->out_end || net_sending(n))
            events |= POLLOUT;
        if (events)
            net_poll_add(p, s->fd, events);
    } else if (s->listener >= 0) {
        net_poll_add(p, s->listener, POLLIN);
    } else if (s->reconnect && s->peer.length) {
        int64_t left = s->retry_at - now_msec();

        p->timeout = left > 0 ? (int)MIN(left, INT64_C(60000)) : 0;
    }
}

static void sock_ready(struct net *n, struct net_poll *p, bool receiving)
{
    struct sock *s = to_sock(n);
    short events = s->fd >= 0 ? net_poll_events(p, s->fd) : 0;

    if (s->fd < 0) {
        if (s->listener >= 0 && net_poll_events(p, s->listener))
            accept_peer(s);
        else if (s->listener < 0 && s->reconnect && s->peer.length && now_msec() >= s->retry_at &&
                 start_connect(s) < 0)
            disconnect(s);
        return;
    }
    if (s->connecting) {
        if (events)
            finish_connect(s);
        return;
    }
    if (events & POLLOUT && !s->datagram)
        flush(s);
    if (s->fd >= 0 && events & (POLLIN | POLLHUP | POLLERR) && !n->pending.first) {
        if (s->datagram)
            receive_datagrams(s);
        else
            receive_stream(s);
    }
}

/* ---- addresses ---------------------------------------------------------------------------------
 */

static int resolve(const char *host, const char *port, bool datagram, bool passive,
                   struct address *out, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = datagram ? SOCK_DGRAM : SOCK_STREAM,
                             .ai_flags = (passive ? AI_PASSIVE : 0) | AI_NUMERICSERV},
                    *list;
    int r;

    /* A name without a family would mean ::, which other programs do not expect. */
    if (!host || !*host)
        hints.ai_family = AF_INET;
    r = getaddrinfo(host && *host ? host : NULL, port, &hints, &list);
    if (r)
        return error_set(err, EINVAL, "address '%s', port '%s': %s", host ? host : "", port,
                         gai_strerror(r));
    memcpy(&out->room, list->ai_addr, list->ai_addrlen);
    out->length = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

static int unix_address(const char *path, struct address *out, struct error *err)
{
    if (!*path || strlen(path) >= sizeof(out->local.sun_path))
        return error_set(err, EINVAL, "path '%s' of a UNIX socket must have 1 to %zu letters", path,
                         sizeof(out->local.sun_path) - 1);
    out->local = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out->local.sun_path, path, strlen(path));
    out->length = sizeof(out->local);
    return 0;
}

/* "HOST:PORT", of the older spelling. */
static int host_and_port(const char *text, bool datagram, bool passive, struct address *out,
                         struct error *err)
{
    auto_free char *copy = xstrdup(text);
    char *colon = strrchr(copy, ':');

    if (!colon)
        return error_set(err, EINVAL, "'%s' is not HOST:PORT", text);
    *colon = '\0';
    return resolve(copy, colon + 1, datagram, passive, out, err);
}

/* PREFIX.type, .host, .port, .path, .str of QEMU's socket addresses. *fd where it is a descriptor.
 */
static int typed_address(const struct net_options *o, const char *prefix, bool datagram,
                         bool passive, struct address *out, int *fd, struct error *err)
{
    char key[32];
    const char *type, *path, *host, *port;

    snprintf(key, sizeof(key), "%s.type", prefix);
    type = net_option(o, key);
    if (!type)
        return error_set(err, EINVAL, "%s is missing: inet, unix or fd", key);
    if (!strcmp(type, "fd")) {
        snprintf(key, sizeof(key), "%s.str", prefix);
        if (!net_option(o, key))
            return error_set(err, EINVAL, "%s is missing: the descriptor's number", key);
        return net_option_fd(o, key, fd, err);
    }
    if (!strcmp(type, "unix")) {
        snprintf(key, sizeof(key), "%s.path", prefix);
        path = net_option(o, key);
        return path ? unix_address(path, out, err) : error_set(err, EINVAL, "%s is missing", key);
    }
    if (strcmp(type, "inet"))
        return error_set(err, EINVAL, "%s=%s is none of inet, unix, fd", key, type);
    snprintf(key, sizeof(key), "%s.host", prefix);
    host = net_option(o, key);
    snprintf(key, sizeof(key), "%s.port", prefix);
    port = net_option(o, key);
    return port ? resolve(host, port, datagram, passive, out, err)
                : error_set(err, EINVAL, "%s is missing", key);
}

/* ---- opening -----------------------------------------------------------------------------------
 */

static int new_socket(const struct address *a, bool datagram, int *out, struct error *err)
{
    int fd = socket(a->any.sa_family,
                    (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return error_set_errno(err, errno, "cannot create a socket");
    *out = fd;
    return 0;
}

static int bind_to(struct sock *s, int fd, const struct address *a, struct error *err)
{
    int one = 1;

    if (a->any.sa_family == AF_UNIX) {
        struct stat st;

        /* A socket that a program left behind; anything else stays, and bind() says so. */
        if (!lstat(a->local.sun_path, &st) && S_ISSOCK(st.st_mode))
            unlink(a->local.sun_path);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (bind(fd, &a->any, a->length) < 0)
        return error_set_errno(err, errno, "cannot listen at the address given");
    if (a->any.sa_family == AF_UNIX)
        s->unlink_path = xstrdup(a->local.sun_path);
    return 0;
}

static int use_fd(struct sock *s, int fd, int type_wanted, struct error *err)
{
    int type = 0, r;
    socklen_t size = sizeof(type);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return error_set_errno(err, errno, "descriptor %d is not a socket", fd);
    if ((type_wanted && type != type_wanted) || (type != SOCK_STREAM && type != SOCK_DGRAM))
        return error_set(err, EINVAL, "descriptor %d is not a %s socket", fd,
                         type_wanted == SOCK_DGRAM ? "datagram" : "stream");
    s->datagram = type == SOCK_DGRAM;
    s->fd = fd;
    r = net_set_nonblocking(fd);
    return r < 0 ? error_set_errno(err, -r, "descriptor %d", fd) : 0;
}

static int open_listener(struct sock *s, const struct address *a, struct error *err)
{
    int r = new_socket(a, false, &s->listener, err);

    r = r ? r : bind_to(s, s->listener, a, err);
    if (!r && listen(s->listener, 1) < 0)
        r = error_set_errno(err, errno, "cannot listen at the address given");
    if (!r)
        net_set_carrier(&s->net, false);
    return r;
}

static int open_connection(struct sock *s, struct error *err)
{
    int r;

    net_set_carrier(&s->net, false);
    r = start_connect(s);
    if (r < 0 && s->reconnect)
        disconnect(s);
    else if (r < 0)
        return error_set_errno(err, -r, "cannot connect (reconnect=SECONDS would try again)");
    return 0;
}

static int join_group(struct sock *s, const struct address *group, const struct address *local,
                      struct error *err)
{
    struct ip_mreq m = {.imr_multiaddr = group->v4.sin_addr};
    int one = 1;

    if (local && local->length && local->any.sa_family == AF_INET)
        m.imr_interface = local->v4.sin_addr;
    setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s->fd, &group->any, group->length) < 0)
        return error_set_errno(err, errno, "cannot bind to the multicast address");
    if (setsockopt(s->fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)) < 0 ||
        setsockopt(s->fd, IPPROTO_IP, IP_MULTICAST_LOOP, &one, sizeof(one)) < 0)
        return error_set_errno(err, errno, "cannot join the multicast group");
    if (m.imr_interface.s_addr && setsockopt(s->fd, IPPROTO_IP, IP_MULTICAST_IF, &m.imr_interface,
                                             sizeof(m.imr_interface)) < 0)
        return error_set_errno(err, errno, "cannot send to the multicast group from there");
    s->multicast = true;
    return 0;
}

/* `peer` has an address; `local` may have none. */
static int open_datagram(struct sock *s, const struct address *peer, const struct address *local,
                         struct error *err)
{
    int r;

    if (local->length && local->any.sa_family != peer->any.sa_family)
        return error_set(err, EINVAL, "both addresses must be of one family");
    s->datagram = true;
    s->peer = *peer;
    r = new_socket(peer, true, &s->fd, err);
    if (r < 0)
        return r;
    if (peer->any.sa_family == AF_INET && IN_MULTICAST(ntohl(peer->v4.sin_addr.s_addr)))
        return join_group(s, peer, local, err);
    if (!local->length)
        return error_set(err, EINVAL, "the address to receive at is missing");
    r = bind_to(s, s->fd, local, err);
    if (r < 0)
        return r;
    /* Connected, the kernel drops what others send; a UNIX peer may not be there yet. */
    if (peer->any.sa_family != AF_UNIX) {
        if (connect(s->fd, &peer->any, peer->length) < 0)
            return error_set_errno(err, errno, "cannot use the remote address");
        s->peer.length = 0;
    }
    return 0;
}

static int option_reconnect(struct sock *s, const struct net_options *o, struct error *err)
{
    uint64_t seconds = 0;
    int r = net_option_number(o, "reconnect", 0, 3600, &seconds, err);

    s->reconnect = seconds * 1000;
    return r;
}

static int stream_open(struct net *n, const struct net_options *o, struct error *err)
{
    struct sock *s = to_sock(n);
    struct address a = {.length = 0};
    bool server = false;
    int r, fd = -1;

    s->fd = s->listener = -1;
    r = net_option_bool(o, "server", &server, err);
    r = r ? r : option_reconnect(s, o, err);
    r = r ? r : typed_address(o, "addr", false, server, &a, &fd, err);
    if (r < 0)
        return r;
    if (fd >= 0)
        return use_fd(s, fd, SOCK_STREAM, err);
    if (server)
        return open_listener(s, &a, err);
    s->peer = a;
    return open_connection(s, err);
}

static int dgram_open(struct net *n, const struct net_options *o, struct error *err)
{
    struct address local = {.length = 0}, remote = {.length = 0};
    struct sock *s = to_sock(n);
    int r = 0, fd = -1;

    s->fd = s->listener = -1;
    if (net_option(o, "local.type"))
        r = typed_address(o, "local", true, true, &local, &fd, err);
    if (!r && fd >= 0)
        return use_fd(s, fd, SOCK_DGRAM, err);
    r = r ? r : typed_address(o, "remote", true, false, &remote, &fd, err);
    if (!r && fd >= 0)
        r = error_set(err, EINVAL, "remote.type=fd: say local.type=fd");
    return r ? r : open_datagram(s, &remote, &local, err);
}

static int socket_open(struct net *n, const struct net_options *o, struct error *err)
{
    const char *listen_at = net_option(o, "listen"), *connect_to = net_option(o, "connect");
    const char *group = net_option(o, "mcast"), *udp = net_option(o, "udp");
    const char *localaddr = net_option(o, "localaddr");
    struct address a = {.length = 0}, local = {.length = 0};
    struct sock *s = to_sock(n);
    int r, fd = -1;

    s->fd = s->listener = -1;
    r = net_option_fd(o, "fd", &fd, err);
    r = r ? r : option_reconnect(s, o, err);
    if (r < 0)
        return r;
    if ((fd >= 0) + !!listen_at + !!connect_to + !!group + !!udp != 1)
        return error_set(err, EINVAL,
                         "exactly one of fd=, listen=, connect=, mcast=, udp= is "
                         "needed");
    if (fd >= 0)
        return use_fd(s, fd, 0, err);
    if (listen_at) {
        r = host_and_port(listen_at, false, true, &a, err);
        return r ? r : open_listener(s, &a, err);
    }
    if (connect_to) {
        r = host_and_port(connect_to, false, false, &s->peer, err);
        return r ? r : open_connection(s, err);
    }
    r = host_and_port(group ? group : udp, true, false, &a, err);
    if (!r && localaddr)
        r = group ? resolve(localaddr, "0", true, true, &local, err)
                  : host_and_port(localaddr, true, true, &local, err);
    if (!r && group && (a.any.sa_family != AF_INET || !IN_MULTICAST(ntohl(a.v4.sin_addr.s_addr))))
        r = error_set(err, EINVAL, "mcast=%s is not a multicast address (224.0.0.0/4)", group);
    return r ? r : open_datagram(s, &a, &local, err);
}

static void sock_close(struct net *n)
{
    struct sock *s = to_sock(n);

    if (s->fd >= 0)
        close(s->fd);
    if (s->listener >= 0)
        close(s->listener);
    if (s->unlink_path)
        unlink(s->unlink_path);
    free(s->unlink_path);
}

#define SOCK_HOOKS                                                                                 \
    .size = sizeof(struct sock), .close = sock_close, .fill = sock_fill, .ready = sock_ready,      \
    .transmit = sock_transmit

const struct net_ops net_stream_ops = {
    .type = "stream",
    .keys = "server|reconnect|addr.type|addr.host|addr.port|addr.path|addr.str",
    .help = "stream: a cable to another machine, by TCP or a UNIX socket\n"
            "  addr.type=inet,addr.host=HOST,addr.port=PORT\n"
            "  addr.type=unix,addr.path=PATH\n"
            "  addr.type=fd,addr.str=N\n"
            "  server=on            wait for the other end instead of connecting\n"
            "  reconnect=SECONDS    connect again when it is lost\n",
    .open = stream_open,
    SOCK_HOOKS,
};

const struct net_ops net_dgram_ops = {
    .type = "dgram",
    .keys = "local.type|local.host|local.port|local.path|local.str|remote.type|remote.host|"
            "remote.port|remote.path|remote.str",
    .help = "dgram: a cable to other machines, by UDP, multicast or UNIX datagrams\n"
            "  local.type=inet,local.host=HOST,local.port=PORT,remote.type=inet,...\n"
            "  local.type=unix,local.path=PATH,remote.type=unix,remote.path=PATH\n"
            "  local.type=fd,local.str=N\n"
            "  remote.type=inet,remote.host=230.0.0.1,remote.port=PORT   all who join\n",
    .open = dgram_open,
    SOCK_HOOKS,
};

const struct net_ops net_socket_ops = {
    .type = "socket",
    .keys = "fd|listen|connect|mcast|udp|localaddr|reconnect",
    .help = "socket: stream and dgram in the older spelling\n"
            "  listen=[HOST]:PORT, connect=HOST:PORT, fd=N\n"
            "  mcast=GROUP:PORT[,localaddr=ADDR], udp=HOST:PORT,localaddr=HOST:PORT\n",
    .open = socket_open,
    SOCK_HOOKS,
};
