/*
 * user.c - the user network: a small router with DHCP and DNS inside the process (libslirp), which
 * needs no privilege. TCP and UDP of the guest become sockets of ours.
 *
 * libslirp is used on the back end's thread only. It writes frames through send_packet() whenever
 * it likes, so while the card takes none its sockets are not polled: then TCP's own windows hold
 * the senders back.
 *
 * A guest's large TCP segments go to libslirp whole (it has no MTU on that side for IPv4), with
 * their checksum completed; it answers with frames whose checksums are right.
 */
#include "net/internal.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <time.h>

enum { USER_TIMERS = 8, USER_SEARCHES = 16 };

struct user_timer {
    SlirpTimerId id;
    void *cb_opaque;
    int64_t due; /* milliseconds; INT64_MAX: not armed */
    bool used;
};

struct user {
    struct net net;
    Slirp *slirp;
    struct user_timer timer[USER_TIMERS];
    struct in_addr guest; /* where forwards without an address go */
    bool polled;          /* this round libslirp's descriptors are in the set */
};
#define to_user(n) container_of(n, struct user, net)

/* ---- what libslirp calls -----------------------------------------------------------------------
 */

static ssize_t send_packet(const void *frame, size_t size, void *opaque)
{
    struct iovec iov = {(void *)(uintptr_t)frame, size};
    struct net_packet p = {.iov = &iov, .count = 1, .size = size, .offload.flags = NET_DATA_VALID};

    net_deliver(opaque, &p);
    return (ssize_t)size;
}

static void guest_error(const char *message, void *opaque)
{
    log_debug("guest: user network: %s", message);
}

static int64_t clock_get_ns(void *opaque)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * (int64_t)NSEC_PER_SEC + t.tv_nsec;
}

static void *timer_new_opaque(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct user *u = to_user(opaque);

    for (unsigned i = 0; i < USER_TIMERS; i++)
        if (!u->timer[i].used) {
            u->timer[i] = (struct user_timer){id, cb_opaque, INT64_MAX, true};
            return &u->timer[i];
        }
    return NULL;
}

static void timer_free(void *timer, void *opaque)
{
    if (timer)
        ((struct user_timer *)timer)->used = false;
}

static void timer_mod(void *timer, int64_t due, void *opaque)
{
    if (timer)
        ((struct user_timer *)timer)->due = due;
}

static void ignore_fd(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_new_opaque = timer_new_opaque,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = ignore_fd,
    .unregister_poll_fd = ignore_fd,
    .notify = notify,
};

/* ---- rounds ------------------------------------------------------------------------------------
 */

static int add_poll(int fd, int events, void *opaque)
{
    short e = 0;

    e |= events & SLIRP_POLL_IN ? POLLIN : 0;
    e |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
    e |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
    e |= events & SLIRP_POLL_ERR ? POLLERR : 0;
    e |= events & SLIRP_POLL_HUP ? POLLHUP : 0;
    return (int)net_poll_add(opaque, fd, e);
}

static int get_revents(int index, void *opaque)
{
    const struct net_poll *p = opaque;
    short e = index >= 0 && (unsigned)index < p->count ? p->fds[index].revents : 0;
    int events = 0;

    events |= e & POLLIN ? SLIRP_POLL_IN : 0;
    events |= e & POLLOUT ? SLIRP_POLL_OUT : 0;
    events |= e & POLLPRI ? SLIRP_POLL_PRI : 0;
    events |= e & POLLERR ? SLIRP_POLL_ERR : 0;
    events |= e & POLLHUP ? SLIRP_POLL_HUP : 0;
    return events;
}

static void user_fill(struct net *n, struct net_poll *p, bool receiving)
{
    struct user *u = to_user(n);
    uint32_t timeout = 1000;

    u->polled = receiving;
    if (!receiving)
        return;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, p);
    for (unsigned i = 0; i < USER_TIMERS; i++)
        if (u->timer[i].used && u->timer[i].due != INT64_MAX) {
            int64_t left = u->timer[i].due - clock_get_ns(NULL) / (int64_t)NSEC_PER_MSEC;

            timeout = left <= 0 ? 0 : MIN(timeout, (uint32_t)MIN(left, (int64_t)1000));
        }
    p->timeout = (int)timeout;
}

static void user_ready(struct net *n, struct net_poll *p, bool receiving)
{
    struct user *u = to_user(n);
    int64_t now = clock_get_ns(NULL) / (int64_t)NSEC_PER_MSEC;

    if (!u->polled)
        return;
    for (unsigned i = 0; i < USER_TIMERS; i++)
        if (u->timer[i].used && u->timer[i].due <= now) {
            u->timer[i].due = INT64_MAX;
            slirp_handle_timer(u->slirp, u->timer[i].id, u->timer[i].cb_opaque);
        }
    slirp_pollfds_poll(u->slirp, 0, get_revents, p);
}

static bool user_transmit(struct net *n, const struct net_packet *p)
{
    uint8_t *frame = p->iov[0].iov_base; /* of our queue */

    if (p->offload.flags & NET_NEEDS_CSUM)
        net_finish_csum(frame, p->size, &p->offload);
    slirp_input(to_user(n)->slirp, frame, (int)p->size);
    return true;
}

/* ---- port forwards -----------------------------------------------------------------------------
 */

struct endpoint {
    union {
        struct sockaddr address;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t length;
    bool any; /* no address was given */
};

/* "[ADDRESS]:PORT" up to the end of the text; an IPv6 address stands in brackets. */
static bool parse_endpoint(const char *text, size_t length, bool six, struct endpoint *out)
{
    char copy[80], *colon, *host = copy, *end;
    unsigned long port;

    if (length >= sizeof(copy))
        return false;
    memcpy(copy, text, length);
    copy[length] = '\0';
    colon = strrchr(copy, ':');
    if (!colon)
        return false;
    *colon = '\0';
    port = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end || colon[1] == '-' || port == 0 || port > 65535)
        return false;
    if (host[0] == '[' && colon > host + 1 && colon[-1] == ']') {
        colon[-1] = '\0';
        host++;
        six = true;
    }
    memset(out, 0, sizeof(*out));
    out->any = !*host;
    if (six) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons((uint16_t)port);
        out->length = sizeof(out->v6);
        return out->any || inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1;
    }
    out->v4.sin_family = AF_INET;
    out->v4.sin_port = htons((uint16_t)port);
    out->length = sizeof(out->v4);
    return out->any || inet_pton(AF_INET, host, &out->v4.sin_addr) == 1;
}

static int bad_rule(const char *rule, struct error *err)
{
    return error_set(err, EINVAL,
                     "'%s' is not a port forward: write [tcp|udp]:[HOSTADDR]:PORT-[GUESTADDR]:PORT",
                     rule);
}

static int user_forward(struct net *n, const char *rule, bool add, struct error *err)
{
    struct user *u = to_user(n);
    const char *p = strchr(rule, ':'), *dash;
    struct endpoint host, guest = {0};
    int flags = 0;
    bool six = false;
    size_t word;

    if (!p)
        return bad_rule(rule, err);
    word = (size_t)(p - rule);
    if (word == 4 && (rule[3] == '6' || rule[3] == '4')) {
        six = rule[3] == '6';
        word = 3;
    }
    if (word == 3 && !strncmp(rule, "udp", 3))
        flags |= SLIRP_HOSTFWD_UDP;
    else if (word && (word != 3 || strncmp(rule, "tcp", 3)))
        return bad_rule(rule, err);
    dash = strchr(++p, '-');
    if (!dash && add)
        return bad_rule(rule, err);
    if (!parse_endpoint(p, dash ? (size_t)(dash - p) : strlen(p), six, &host) ||
        (add && !parse_endpoint(dash + 1, strlen(dash + 1), six, &guest)))
        return bad_rule(rule, err);
    if (host.address.sa_family == AF_INET6)
        flags |= SLIRP_HOSTFWD_V6ONLY;
    if (!add)
        return slirp_remove_hostxfwd(u->slirp, &host.address, host.length, flags) < 0
                   ? error_set(err, ENOENT, "there is no port forward '%s'", rule)
                   : 0;
    if (guest.any && guest.address.sa_family == AF_INET6)
        return error_set(err, EINVAL, "'%s': a guest's IPv6 address must be given", rule);
    if (guest.any)
        guest.v4.sin_addr = u->guest;
    if (slirp_add_hostxfwd(u->slirp, &host.address, host.length, &guest.address, guest.length,
                           flags) < 0)
        return error_set_errno(err, errno ? errno : EADDRINUSE, "cannot forward '%s'", rule);
    return 0;
}

/* "tcp:ADDRESS:PORT-cmd:COMMAND": each connection of the guest to it starts a command. */
static int guest_forward(struct user *u, const char *rule, struct error *err)
{
    const char *command = strstr(rule, "-cmd:");
    struct endpoint e;

    if (strncmp(rule, "tcp:", 4) || !command ||
        !parse_endpoint(rule + 4, (size_t)(command - rule - 4), false, &e) || e.any)
        return error_set(err, EINVAL, "guestfwd=%s: write tcp:ADDRESS:PORT-cmd:COMMAND", rule);
    if (slirp_add_exec(u->slirp, command + 5, &e.v4.sin_addr, ntohs(e.v4.sin_port)) < 0)
        return error_set(err, EINVAL,
                         "guestfwd=%s: the address must lie in the guest's network and be none of "
                         "its own",
                         rule);
    return 0;
}

/* ---- opening -----------------------------------------------------------------------------------
 */

static int option_v4(const struct net_options *o, const char *key, struct in_addr *out,
                     struct error *err)
{
    const char *value = net_option(o, key);

    if (value && inet_pton(AF_INET, value, out) != 1)
        return error_set(err, EINVAL, "%s=%s is not an IPv4 address", key, value);
    return 0;
}

static int option_v6(const struct net_options *o, const char *key, struct in6_addr *out,
                     struct error *err)
{
    const char *value = net_option(o, key);

    if (value && inet_pton(AF_INET6, value, out) != 1)
        return error_set(err, EINVAL, "%s=%s is not an IPv6 address", key, value);
    return 0;
}

/* "ADDRESS/BITS" */
static bool parse_prefix(const char *value, int family, void *address, unsigned most,
                         unsigned *bits)
{
    const char *slash = strchr(value, '/');
    char host[64], *end;
    size_t length = slash ? (size_t)(slash - value) : strlen(value);

    if (length >= sizeof(host))
        return false;
    memcpy(host, value, length);
    host[length] = '\0';
    if (slash) {
        unsigned long n = strtoul(slash + 1, &end, 10);

        if (end == slash + 1 || *end || n > most)
            return false;
        *bits = (unsigned)n;
    }
    return inet_pton(family, host, address) == 1;
}

static struct in_addr in_network(const SlirpConfig *c, uint32_t number)
{
    return (struct in_addr){c->vnetwork.s_addr | (htonl(number) & ~c->vnetmask.s_addr)};
}

static int configure_v4(const struct net_options *o, SlirpConfig *c, struct error *err)
{
    const char *net = net_option(o, "net");
    unsigned bits = 24;
    int r;

    inet_pton(AF_INET, "10.0.2.0", &c->vnetwork);
    if (net && (!parse_prefix(net, AF_INET, &c->vnetwork, 32, &bits) || bits < 1 || bits > 28))
        return error_set(err, EINVAL, "net=%s is not a network like 10.0.2.0/24 (of /1 to /28)",
                         net);
    c->vnetmask.s_addr = htonl(~UINT32_C(0) << (32 - bits));
    c->vnetwork.s_addr &= c->vnetmask.s_addr;
    c->vhost = in_network(c, 2);
    c->vnameserver = in_network(c, 3);
    c->vdhcp_start = in_network(c, bits == 28 ? 5 : 15);
    r = option_v4(o, "host", &c->vhost, err);
    r = r ? r : option_v4(o, "dns", &c->vnameserver, err);
    r = r ? r : option_v4(o, "dhcpstart", &c->vdhcp_start, err);
    if (r < 0)
        return r;
    if ((c->vhost.s_addr ^ c->vnetwork.s_addr) & c->vnetmask.s_addr ||
        (c->vnameserver.s_addr ^ c->vnetwork.s_addr) & c->vnetmask.s_addr ||
        (c->vdhcp_start.s_addr ^ c->vnetwork.s_addr) & c->vnetmask.s_addr)
        return error_set(err, EINVAL, "host=, dns= and dhcpstart= must lie in the network");
    if (c->vhost.s_addr == c->vnameserver.s_addr || c->vhost.s_addr == c->vdhcp_start.s_addr ||
        c->vnameserver.s_addr == c->vdhcp_start.s_addr)
        return error_set(err, EINVAL, "host=, dns= and dhcpstart= must differ");
    return 0;
}

static int configure_v6(const struct net_options *o, SlirpConfig *c, struct error *err)
{
    const char *net = net_option(o, "ipv6-net");
    unsigned bits = 64;
    int r;

    inet_pton(AF_INET6, "fec0::", &c->vprefix_addr6);
    if (net && (!parse_prefix(net, AF_INET6, &c->vprefix_addr6, 126, &bits) || bits < 8))
        return error_set(err, EINVAL, "ipv6-net=%s is not a prefix like fec0::/64", net);
    c->vprefix_len = (uint8_t)bits;
    c->vhost6 = c->vnameserver6 = c->vprefix_addr6;
    c->vhost6.s6_addr[15] |= 2;
    c->vnameserver6.s6_addr[15] |= 3;
    r = option_v6(o, "ipv6-host", &c->vhost6, err);
    return r ? r : option_v6(o, "ipv6-dns", &c->vnameserver6, err);
}

static int user_open(struct net *n, const struct net_options *o, struct error *err)
{
    struct user *u = to_user(n);
    const char *searches[USER_SEARCHES + 1] = {0}, *value;
    bool ipv4 = true, ipv6 = true, restricted = false, loopback = true;
    unsigned position = 0, count = 0;
    SlirpConfig c = {.version = 4};
    int r;

    r = net_option_bool(o, "ipv4", &ipv4, err);
    r = r ? r : net_option_bool(o, "ipv6", &ipv6, err);
    r = r ? r : net_option_bool(o, "restrict", &restricted, err);
    r = r ? r : net_option_bool(o, "host-loopback", &loopback, err);
    r = r ? r : configure_v4(o, &c, err);
    r = r ? r : configure_v6(o, &c, err);
    if (r < 0)
        return r;
    while ((value = net_option_next(o, "dnssearch", &position)) && count < USER_SEARCHES)
        searches[count++] = value;
    c.in_enabled = ipv4;
    c.in6_enabled = ipv6;
    c.restricted = restricted;
    c.disable_host_loopback = !loopback;
    c.vhostname = net_option(o, "hostname");
    c.vdomainname = net_option(o, "domainname");
    c.tftp_path = net_option(o, "tftp");
    c.tftp_server_name = net_option(o, "tftp-server-name");
    c.bootfile = net_option(o, "bootfile");
    c.vdnssearch = count ? searches : NULL;
    if ((c.vhostname && strlen(c.vhostname) > 32) || (c.bootfile && strlen(c.bootfile) > 127) ||
        (c.tftp_server_name && strlen(c.tftp_server_name) > 255) ||
        (c.vdomainname && strlen(c.vdomainname) > 255))
        return error_set(err, EINVAL,
                         "hostname=, domainname=, bootfile= or tftp-server-name= is "
                         "longer than DHCP can say");
    u->guest = c.vdhcp_start;
    u->slirp = slirp_new(&c, &callbacks, n);
    if (!u->slirp)
        return error_set(err, EINVAL, "libslirp %s does not accept this configuration",
                         slirp_version_string());
    for (position = 0; !r && (value = net_option_next(o, "hostfwd", &position));)
        r = user_forward(n, value, true, err);
    for (position = 0; !r && (value = net_option_next(o, "guestfwd", &position));)
        r = guest_forward(u, value, err);
    return r;
}

static void user_close(struct net *n)
{
    if (to_user(n)->slirp)
        slirp_cleanup(to_user(n)->slirp);
}

const struct net_ops net_user_ops = {
    .type = "user",
    .keys = "ipv4|net|host|dns|dhcpstart|ipv6|ipv6-net|ipv6-host|ipv6-dns|restrict|host-loopback|"
            "hostname|domainname|dnssearch|tftp|tftp-server-name|bootfile|hostfwd|guestfwd",
    .help = "user: a router with DHCP and DNS inside the program; needs no privilege\n"
            "  hostfwd=[tcp|udp]:[ADDR]:PORT-[ADDR]:PORT  from a port of the host to the guest\n"
            "  guestfwd=tcp:ADDR:PORT-cmd:COMMAND         from the guest to a command\n"
            "  restrict=on          the guest reaches nothing but what is forwarded\n"
            "  host-loopback=off    the guest does not reach the host's own 127.0.0.1\n"
            "  net=10.0.2.0/24, host=ADDR, dns=ADDR, dhcpstart=ADDR, ipv4=off\n"
            "  ipv6-net=fec0::/64, ipv6-host=ADDR, ipv6-dns=ADDR, ipv6=off\n"
            "  hostname=NAME, domainname=NAME, dnssearch=DOMAIN\n"
            "  tftp=DIRECTORY, bootfile=FILE, tftp-server-name=NAME\n",
    .features = NET_CSUM | NET_TSO4 | NET_ECN,
    .size = sizeof(struct user),
    .open = user_open,
    .close = user_close,
    .fill = user_fill,
    .ready = user_ready,
    .transmit = user_transmit,
    .forward = user_forward,
};
