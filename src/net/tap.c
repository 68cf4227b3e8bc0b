/*
 * tap.c - a TAP interface of the host: `tap` opens one by name or takes a descriptor, `bridge` gets
 * one from QEMU's bridge helper, which is set-uid root and asks /etc/qemu/bridge.conf.
 *
 * Frames carry the virtio-net header where the kernel offers it, so large segments pass whole. No
 * script is run: addresses and bridges are the host's business.
 */
#include "net/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { VNET_HEADER = 10, TAP_BATCH = 64 };

struct tap {
    struct net net;
    int fd; /* non-blocking */
    bool vnet;
    uint8_t buffer[VNET_HEADER + NET_FRAME_MAX];
};
#define to_tap(n) container_of(n, struct tap, net)

/* As it lies before each frame; host order: the default of TAP on this host. */
struct vnet_header {
    uint8_t flags, gso;
    uint16_t header, segment, csum_start, csum_offset;
};
_Static_assert(sizeof(struct vnet_header) == VNET_HEADER, "the header of if_tun.h");

static void tap_fill(struct net *n, struct net_poll *p, bool receiving)
{
    short events = (receiving ? POLLIN : 0) | (net_sending(n) ? POLLOUT : 0);

    /* An interface that is gone reports POLLERR for ever. */
    if (events && n->carrier)
        net_poll_add(p, to_tap(n)->fd, events);
}

static void tap_ready(struct net *n, struct net_poll *p, bool receiving)
{
    struct tap *t = to_tap(n);

    if (!(net_poll_events(p, t->fd) & (POLLIN | POLLERR)))
        return;
    for (unsigned i = 0; i < TAP_BATCH && receiving && !n->pending.first; i++) {
        ssize_t got = read(t->fd, t->buffer, sizeof(t->buffer));
        size_t skip = t->vnet ? VNET_HEADER : 0;
        struct net_packet packet = {.count = 1};
        struct vnet_header h;
        struct iovec iov;

        if (got < 0) {
            if (errno == EBADFD || errno == EIO || errno == ENODEV)
                net_set_carrier(n, false); /* somebody deleted the interface */
            return;
        }
        if ((size_t)got < skip + NET_HEADER)
            continue;
        iov = (struct iovec){t->buffer + skip, (size_t)got - skip};
        packet.iov = &iov;
        packet.size = iov.iov_len;
        if (t->vnet) {
            memcpy(&h, t->buffer, sizeof(h));
            packet.offload = (struct net_offload){h.flags & (NET_NEEDS_CSUM | NET_DATA_VALID),
                                                  h.gso,
                                                  h.header,
                                                  h.segment,
                                                  h.csum_start,
                                                  h.csum_offset};
        }
        net_deliver(n, &packet);
    }
}

static bool tap_transmit(struct net *n, const struct net_packet *p)
{
    struct vnet_header h = {p->offload.flags & NET_NEEDS_CSUM,
                            p->offload.gso,
                            p->offload.header,
                            p->offload.segment,
                            p->offload.csum_start,
                            p->offload.csum_offset};
    struct tap *t = to_tap(n);
    struct iovec iov[64];
    unsigned count = 0;

    if (p->count >= ARRAY_SIZE(iov))
        return false; /* it is copied into the queue, as one piece */
    if (t->vnet)
        iov[count++] = (struct iovec){&h, sizeof(h)};
    memcpy(iov + count, p->iov, p->count * sizeof(*iov));
    count += p->count;
    /* What the kernel refuses for what it is, or for the interface being down, is lost. */
    return writev(t->fd, iov, (int)count) >= 0 || (errno != EAGAIN && errno != ENOBUFS);
}

static void tap_set_accepts(struct net *n, unsigned features)
{
    unsigned long f = 0;

    if (!to_tap(n)->vnet)
        return;
    f |= features & NET_CSUM ? TUN_F_CSUM : 0;
    f |= features & NET_TSO4 ? TUN_F_TSO4 : 0;
    f |= features & NET_TSO6 ? TUN_F_TSO6 : 0;
    f |= features & NET_ECN && features & (NET_TSO4 | NET_TSO6) ? TUN_F_TSO_ECN : 0;
    /* Refused, the kernel goes on with complete frames: right too. */
    ioctl(to_tap(n)->fd, TUNSETOFFLOAD, f);
}

/* Take a descriptor: see what it is. */
static int tap_use(struct tap *t, int fd, struct error *err)
{
    struct ifreq request = {0};
    int size = VNET_HEADER, r;

    t->fd = fd;
    if (ioctl(fd, TUNGETIFF, &request) < 0)
        return error_set_errno(err, errno, "descriptor %d is not a TAP interface", fd);
    if (!(request.ifr_flags & IFF_TAP))
        return error_set(err, EINVAL, "'%.15s' is a TUN interface; a card needs TAP",
                         request.ifr_name);
    t->vnet = (request.ifr_flags & IFF_VNET_HDR) != 0;
    if (t->vnet && ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
        return error_set_errno(err, errno, "'%.15s': the virtio header's size", request.ifr_name);
    if (!t->vnet)
        t->net.features = 0;
    tap_set_accepts(&t->net, 0);
    r = net_set_nonblocking(fd);
    return r < 0 ? error_set_errno(err, -r, "'%.15s'", request.ifr_name) : 0;
}

static int check_vhost(const struct net_options *o, struct error *err)
{
    bool vhost = false;
    int r = net_option_bool(o, "vhost", &vhost, err);

    if (r < 0 || !vhost)
        return r;
    return error_set(err, EOPNOTSUPP, "vhost=on is not supported; leave it out");
}

static int tap_open(struct net *n, const struct net_options *o, struct error *err)
{
    const char *name = net_option(o, "ifname");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    struct tap *t = to_tap(n);
    bool vnet = true;
    int r, fd = -1;

    t->fd = -1;
    r = check_vhost(o, err);
    r = r ? r : net_option_bool(o, "vnet_hdr", &vnet, err);
    r = r ? r : net_option_fd(o, "fd", &fd, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < 2; i++) {
        static const char *const scripts[] = {"script", "downscript"};
        const char *script = net_option(o, scripts[i]);

        if (script && strcmp(script, "no"))
            return error_set(err, EOPNOTSUPP,
                             "%s=%s: no script is run; set the interface up beforehand and say "
                             "ifname=",
                             scripts[i], script);
    }
    if (fd >= 0 && name)
        return error_set(err, EINVAL, "fd= and ifname= exclude each other");
    if (fd >= 0)
        return tap_use(t, fd, err);
    if (name && (!*name || strlen(name) >= IFNAMSIZ))
        return error_set(err, EINVAL, "ifname=%s is not an interface's name (1 to %d letters)",
                         name, IFNAMSIZ - 1);
    if (name)
        memcpy(request.ifr_name, name, strlen(name));
    t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (t->fd < 0)
        return error_set_errno(err, errno, "cannot open /dev/net/tun (type user needs no rights)");
    if (vnet)
        request.ifr_flags |= IFF_VNET_HDR;
    if (ioctl(t->fd, TUNSETIFF, &request) < 0)
        return error_set_errno(err, errno,
                               "cannot use TAP interface '%s'; as root: ip tuntap add NAME mode "
                               "tap user %s",
                               name ? name : "tap%d", getenv("USER") ? getenv("USER") : "USER");
    return tap_use(t, t->fd, err);
}

/* Close the child's end, fetch the descriptor it sends, and its verdict. */
static int helper_result(int sock, pid_t child, const char *helper, int *fd, struct error *err)
{
    char byte, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
    struct cmsghdr *c;
    int status;
    ssize_t got;

    *fd = -1;
    while ((got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    c = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
        c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(fd, CMSG_DATA(c), sizeof(int));
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (*fd < 0)
        return error_set(err, EPERM,
                         "%s gave no interface (is the bridge allowed in "
                         "/etc/qemu/bridge.conf?)",
                         helper);
    return 0;
}

static int bridge_open(struct net *n, const struct net_options *o, struct error *err)
{
    static const char *const places[] = {"/usr/lib/qemu/qemu-bridge-helper",
                                         "/usr/libexec/qemu-bridge-helper"};
    const char *helper = net_option(o, "helper"), *bridge = net_option(o, "br");
    struct tap *t = to_tap(n);
    posix_spawn_file_actions_t actions;
    int sock[2], r, fd = -1;
    pid_t child;

    t->fd = -1;
    r = check_vhost(o, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < ARRAY_SIZE(places) && !helper; i++)
        if (!access(places[i], X_OK))
            helper = places[i];
    if (!helper)
        return error_set(err, ENOENT,
                         "there is no qemu-bridge-helper (package qemu-system-common); say "
                         "helper=PATH, or use a tap");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) < 0)
        return error_set_errno(err, errno, "cannot create a socket");
    {
        auto_free char *fd_word = xasprintf("--fd=%d", sock[1]);
        auto_free char *br_word = xasprintf("--br=%s", bridge ? bridge : "br0");
        auto_free char *name = xstrdup(helper);
        char vnet_word[] = "--use-vnet";
        char *const argv[] = {name, vnet_word, fd_word, br_word, NULL};

        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, sock[1], sock[1]); /* survives exec */
        r = posix_spawn(&child, helper, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(sock[1]);
    r = r ? error_set_errno(err, r, "cannot run '%s'", helper)
          : helper_result(sock[0], child, helper, &fd, err);
    close(sock[0]);
    return r < 0 ? r : tap_use(t, fd, err);
}

static void tap_close(struct net *n)
{
    if (to_tap(n)->fd >= 0)
        close(to_tap(n)->fd);
}

#define TAP_HOOKS                                                                                  \
    .features = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN, .direct = true,                          \
    .size = sizeof(struct tap), .close = tap_close, .fill = tap_fill, .ready = tap_ready,          \
    .transmit = tap_transmit, .set_accepts = tap_set_accepts

const struct net_ops net_tap_ops = {
    .type = "tap",
    .keys = "ifname|fd|vnet_hdr|vhost|script|downscript",
    .help = "tap: a TAP interface of the host, which exists or is made (that needs rights)\n"
            "  ifname=NAME          its name\n"
            "  fd=N                 a descriptor that is open already\n"
            "  vnet_hdr=off         no offloads\n",
    .open = tap_open,
    TAP_HOOKS,
};

const struct net_ops net_bridge_ops = {
    .type = "bridge",
    .keys = "br|helper|vhost",
    .help = "bridge: a TAP interface on a bridge of the host, by qemu-bridge-helper\n"
            "  br=NAME              the bridge (br0)\n"
            "  helper=PATH          the program\n",
    .open = bridge_open,
    TAP_HOOKS,
};
