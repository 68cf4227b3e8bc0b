/* Tests of the cable: specs, addresses, flow control, link, offloads, sockets, capture. */
#include "card.h"
#include "net/internal.h"
#include "support/unit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void fill(uint8_t *frame, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(i * 7 + seed);
}

/* Two back ends of type `socket` on the ends of a socket pair. */
static void open_pair(int type, struct net **a, struct net **b)
{
    int sock[2];

    assert_int_equal(socketpair(AF_UNIX, type, 0, sock), 0);
    for (int i = 0; i < 2; i++) {
        auto_free char *spec = xasprintf("socket,id=end%d,fd=%d", i, sock[i]);

        assert_int_equal(net_open(spec, i ? b : a, NULL), 0);
    }
}

static void addresses_are_stable_and_checked(void **state)
{
    uint8_t a[6], b[6], c[6], d[6];

    net_mac_of("one", 0, a);
    net_mac_of("one", 0, b);
    net_mac_of("one", 1, c);
    net_mac_of("two", 0, d);
    assert_memory_equal(a, b, 6);
    assert_memory_not_equal(a, c, 6);
    assert_memory_not_equal(a, d, 6);
    assert_memory_equal(a, "\x52\x54\x00", 3);
    /* A promise: guests name their interfaces by it. */
    assert_int_equal(net_mac_parse("52:54:00:Ab:cd:0f", b, NULL), 0);
    assert_memory_equal(b, "\x52\x54\x00\xab\xcd\x0f", 6);
    assert_int_equal(net_mac_parse("53:54:00:ab:cd:0f", b, NULL), -EINVAL);
    assert_int_equal(net_mac_parse("00:00:00:00:00:00", b, NULL), -EINVAL);
    assert_int_equal(net_mac_parse("52:54:00:ab:cd", b, NULL), -EINVAL);
    assert_int_equal(net_mac_parse("52:54:00:ab:cd:0f:", b, NULL), -EINVAL);
    assert_int_equal(net_mac_parse("52:54:00:ab:cd:0g", b, NULL), -EINVAL);
}

static void specs_are_cut_and_errors_named(void **state)
{
    struct net_options o;
    struct net *n = NULL;
    struct error err = {0};
    unsigned position = 0;

    assert_int_equal(net_options_parse(&o, "user,a=1,,2,b,c=x=y,a=3", NULL), 0);
    assert_string_equal(o.type, "user");
    assert_string_equal(net_option(&o, "a"), "3");
    assert_string_equal(net_option_next(&o, "a", &position), "1,2");
    assert_string_equal(net_option_next(&o, "a", &position), "3");
    assert_null(net_option_next(&o, "a", &position));
    assert_string_equal(net_option(&o, "b"), "on");
    assert_string_equal(net_option(&o, "c"), "x=y");
    net_options_free(&o);

    assert_int_equal(net_open("usr", &n, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'usr'"));
    assert_int_equal(net_open("user,hostfw=x", &n, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'hostfw'"));
    assert_int_equal(net_open("user,hostfwd=tcp:22-:22", &n, &err), -EINVAL);
    assert_int_equal(net_open("user,restrict=maybe", &n, &err), -EINVAL);
    assert_int_equal(net_open("user,net=10.0.0.0/99", &n, &err), -EINVAL);
    assert_int_equal(net_open("user,dns=1.2.3.4", &n, &err), -EINVAL);
    assert_int_equal(net_open("socket,listen=:1,connect=x:2", &n, &err), -EINVAL);
    assert_int_equal(net_open("socket,fd=77777", &n, &err), -EBADF);
    assert_int_equal(net_open("stream,addr.type=unix,addr.path=/nowhere/x", &n, &err), -ENOENT);
    assert_int_equal(net_open("stream", &n, &err), -EINVAL);
    assert_int_equal(net_open("tap,vhost=on", &n, &err), -EOPNOTSUPP);
    assert_int_equal(net_open("tap,ifname=waytoolongforaninterface", &n, &err), -EINVAL);
    assert_null(n);
}

static void frames_cross(int type)
{
    static const size_t sizes[] = {14, 60, 1514, 9000, NET_FRAME_MAX};
    uint8_t *frame = malloc(NET_FRAME_MAX);
    struct net *a, *b;
    struct net_counts counts;
    struct card ca, cb;

    open_pair(type, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        fill(frame, sizes[i], i);
        assert_true(card_send(&ca, frame, sizes[i]));
        assert_true(card_wait(&cb, i + 1));
        assert_int_equal(cb.frame[i].size, sizes[i]);
        assert_memory_equal(cb.frame[i].bytes, frame, sizes[i]);
        assert_true(card_send(&cb, frame, sizes[i]));
        assert_true(card_wait(&ca, i + 1));
        assert_memory_equal(ca.frame[i].bytes, frame, sizes[i]);
    }
    assert_true(card_send(&ca, frame, 13)); /* dropped */
    card_free(&ca);
    card_free(&cb);
    net_counts(a, &counts);
    assert_int_equal(counts.sent, ARRAY_SIZE(sizes));
    assert_int_equal(counts.received, ARRAY_SIZE(sizes));
    assert_int_equal(counts.send_dropped, 1);
    net_free(a);
    net_free(b);
    free(frame);
}

static void a_stream_carries_frames(void **state)
{
    frames_cross(SOCK_STREAM);
}

static void datagrams_carry_frames(void **state)
{
    frames_cross(SOCK_DGRAM);
}

static void a_card_without_buffers_loses_nothing(void **state)
{
    uint8_t frame[1514];
    struct net *a, *b;
    struct card ca, cb;
    unsigned sent = 0;

    open_pair(SOCK_STREAM, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    pthread_mutex_lock(&cb.lock);
    cb.room = 2;
    pthread_mutex_unlock(&cb.lock);
    /* Far more than the queues and the socket hold: the sender is told to wait at some point. */
    for (; sent < 20000; sent++) {
        fill(frame, sizeof(frame), sent);
        if (!card_send(&ca, frame, sizeof(frame)))
            break;
    }
    assert_in_range(sent, 100, 19999);
    assert_true(card_wait(&cb, 2));
    usleep(20000);
    pthread_mutex_lock(&cb.lock);
    assert_int_equal(cb.count, 2);
    assert_in_range(cb.refused, 1, 3); /* no busy loop */
    pthread_mutex_unlock(&cb.lock);
    assert_int_equal(ca.writable, 0);
    /* Room again: all come, in order. */
    for (unsigned at = 0; at < sent;) {
        assert_true(card_wait(&cb, 1));
        pthread_mutex_lock(&cb.lock);
        for (unsigned i = 0; i < cb.count; i++) {
            fill(frame, sizeof(frame), at + i);
            assert_memory_equal(cb.frame[i].bytes, frame, sizeof(frame));
            free(cb.frame[i].bytes);
        }
        at += cb.count;
        cb.count = 0;
        cb.room = CARD_FRAMES;
        net_receive_ready(b);
        pthread_mutex_unlock(&cb.lock);
    }
    pthread_mutex_lock(&ca.lock);
    assert_int_equal(ca.writable, 1);
    pthread_mutex_unlock(&ca.lock);
    card_free(&ca);
    card_free(&cb);
    net_free(a);
    net_free(b);
}

static void wait_for_link(struct card *c, bool up)
{
    for (int i = 0; i < 5000; i++) {
        bool now;

        pthread_mutex_lock(&c->lock);
        now = c->links && c->link == up;
        pthread_mutex_unlock(&c->lock);
        if (now)
            return;
        usleep(1000);
    }
    fail_msg("the link did not go %s", up ? "up" : "down");
}

static void a_pulled_cable_carries_nothing(void **state)
{
    uint8_t frame[60] = {0};
    struct net *a, *b;
    struct card ca, cb;

    open_pair(SOCK_DGRAM, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    net_set_link(a, false);
    wait_for_link(&ca, false);
    assert_false(net_link(a));
    assert_true(net_link(b));
    assert_true(card_send(&ca, frame, sizeof(frame)));
    assert_true(card_send(&cb, frame, sizeof(frame)));
    usleep(20000);
    assert_int_equal(ca.count + cb.count, 0);
    net_set_link(a, true);
    wait_for_link(&ca, true);
    assert_true(card_send(&ca, frame, sizeof(frame)));
    assert_true(card_wait(&cb, 1));
    /* A paused machine gets nothing, and later what came meanwhile. */
    net_set_running(b, false);
    assert_true(card_send(&ca, frame, sizeof(frame)));
    usleep(20000);
    assert_int_equal(cb.count, 1);
    net_set_running(b, true);
    assert_true(card_wait(&cb, 2));
    card_free(&ca);
    card_free(&cb);
    net_free(a);
    net_free(b);
}

static void one_card_at_a_time(void **state)
{
    struct net *a, *b;
    struct net_client client = {0};
    struct error err = {0};
    struct card c;

    open_pair(SOCK_DGRAM, &a, &b);
    card_attach(&c, a);
    assert_int_equal(net_attach(a, &client, &err), -EBUSY);
    assert_string_equal(err.text, "network 'end0' has a card already");
    card_free(&c);
    card_attach(&c, a);
    card_free(&c);
    net_free(a);
    net_free(b);
}

static void listener_and_reconnect(void **state)
{
    char dir[] = "/tmp/hospes-net-XXXXXX";
    uint8_t frame[60] = {1};
    struct net *a, *b;
    struct card ca, cb;

    assert_non_null(mkdtemp(dir));
    {
        auto_free char *path = xasprintf("%s/s", dir);
        auto_free char *server = xasprintf("stream,server=on,addr.type=unix,addr.path=%s", path);
        auto_free char *client = xasprintf("stream,reconnect=1,addr.type=unix,addr.path=%s", path);

        assert_int_equal(net_open(server, &a, NULL), 0);
        assert_false(net_link(a));
        card_attach(&ca, a);
        assert_int_equal(net_open(client, &b, NULL), 0);
        wait_for_link(&ca, true);
        card_attach(&cb, b);
        assert_true(card_send(&cb, frame, sizeof(frame)));
        assert_true(card_wait(&ca, 1));
        /* The server goes and comes back: the client finds it again. */
        card_free(&ca);
        net_free(a);
        wait_for_link(&cb, false);
        assert_int_equal(net_open(server, &a, NULL), 0);
        card_attach(&ca, a);
        wait_for_link(&cb, true);
        wait_for_link(&ca, true);
        assert_true(card_send(&ca, frame, sizeof(frame)));
        assert_true(card_wait(&cb, 1));
        card_free(&ca);
        card_free(&cb);
        net_free(a);
        net_free(b);
        assert_int_equal(access(path, F_OK), -1);
    }
    rmdir(dir);
}

static void a_confused_stream_is_disconnected(void **state)
{
    struct card c;
    struct net *n;
    int sock[2];
    char byte;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
    {
        auto_free char *spec = xasprintf("stream,addr.type=fd,addr.str=%d", sock[1]);

        assert_int_equal(net_open(spec, &n, NULL), 0);
    }
    card_attach(&c, n);
    /* A frame in pieces first, and one too short to be one. */
    assert_int_equal(write(sock[0], "\0\0", 2), 2);
    usleep(5000);
    assert_int_equal(write(sock[0],
                           "\0\x10"
                           "0123456789",
                           12),
                     12);
    usleep(5000);
    assert_int_equal(write(sock[0],
                           "abcdef\0\0\0\1x\0\0\0\x0e"
                           "0123456789abcd",
                           29),
                     29);
    assert_true(card_wait(&c, 2));
    assert_memory_equal(c.frame[0].bytes, "0123456789abcdef", 16);
    assert_memory_equal(c.frame[1].bytes, "0123456789abcd", 14);
    assert_int_equal(write(sock[0], "\x7f\xff\xff\xff", 4), 4);
    wait_for_link(&c, false);
    assert_int_equal(read(sock[0], &byte, 1), 0);
    card_free(&c);
    net_free(n);
    close(sock[0]);
}

/* ---- offloads ---------------------------------------------------------------------------------
 */

enum { PAYLOAD = 4000, V4 = 14, TCP4 = 34, DATA4 = 54, SEGMENT = 1460 };

static uint16_t checksum(const uint8_t *p, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static unsigned be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint32_t pseudo4(const uint8_t *ip, unsigned protocol, unsigned length)
{
    uint32_t sum = protocol + length;

    for (int i = 12; i < 20; i += 2)
        sum += be16(ip + i);
    return sum;
}

/* A TCP frame of PAYLOAD bytes as a guest gives it to a card with TSO. */
static size_t tcp_frame(uint8_t *f)
{
    static const uint8_t start[] = {
        2,    0,    0,    0,    0,    1,    2, 0, 0,  0, 0,    2,    8,    0, 0x45, 0, 0,    0,
        0x12, 0xff, 0x40, 0,    64,   6,    0, 0, 10, 0, 2,    15,   10,   0, 2,    2, 0x12, 0x34,
        0,    80,   0xff, 0xff, 0xff, 0xf0, 0, 0, 0,  1, 0x50, 0x99, 0x20, 0, 0,    0, 0,    0};
    size_t size = DATA4 + PAYLOAD;
    uint16_t sum;

    memcpy(f, start, sizeof(start));
    f[16] = (size - V4) >> 8;
    f[17] = (size - V4) & 0xff;
    sum = checksum(f + V4, 20, 0);
    f[24] = sum >> 8;
    f[25] = sum & 0xff;
    for (size_t i = 0; i < PAYLOAD; i++)
        f[DATA4 + i] = (uint8_t)(i >> 3);
    sum = (uint16_t)~checksum(NULL, 0, pseudo4(f + V4, 6, (unsigned)size - TCP4));
    f[TCP4 + 16] = sum >> 8;
    f[TCP4 + 17] = sum & 0xff;
    return size;
}

static void large_segments_are_cut(void **state)
{
    uint8_t *f = malloc(NET_FRAME_MAX);
    size_t size = tcp_frame(f);
    struct iovec iov[2] = {{f, 30}, {f + 30, size - 30}};
    struct net_packet p = {.iov = iov,
                           .count = 2,
                           .size = size,
                           .offload = {NET_NEEDS_CSUM, NET_GSO_TCPV4, DATA4, SEGMENT, TCP4, 16}};
    uint32_t sequence = 0xfffffff0;
    size_t done = 0;
    struct net *a, *b;
    struct card ca, cb;

    open_pair(SOCK_DGRAM, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    assert_true(net_send(a, &p));
    assert_true(card_wait(&cb, 3));
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *g = cb.frame[i].bytes;
        size_t n = MIN((size_t)SEGMENT, PAYLOAD - done);

        assert_int_equal(cb.frame[i].size, DATA4 + n);
        assert_int_equal(be16(g + 16), 40 + n);
        assert_int_equal(be16(g + 18), 0x12ff + i); /* identification */
        assert_int_equal(checksum(g + V4, 20, 0), 0);
        assert_int_equal(be16(g + TCP4 + 4) << 16 | be16(g + TCP4 + 6), sequence);
        assert_int_equal(checksum(g + TCP4, 20 + n, pseudo4(g + V4, 6, 20 + (unsigned)n)), 0);
        /* FIN and PSH on the last one, CWR on the first one. */
        assert_int_equal(g[TCP4 + 13], i == 0 ? 0x90 : i == 1 ? 0x10 : 0x19);
        assert_memory_equal(g + DATA4, f + DATA4 + done, n);
        done += n;
        sequence += (uint32_t)n;
    }
    assert_int_equal(done, PAYLOAD);

    /* Only the checksum. */
    p.offload =
        (struct net_offload){.flags = NET_NEEDS_CSUM, .csum_start = TCP4, .csum_offset = 16};
    assert_true(net_send(a, &p));
    assert_true(card_wait(&cb, 4));
    assert_int_equal(cb.frame[3].size, size);
    assert_int_equal(
        checksum(cb.frame[3].bytes + TCP4, size - TCP4, pseudo4(f + V4, 6, (unsigned)size - TCP4)),
        0);

    /* What the header says and the frame is not. */
    static const struct net_offload wrong[] = {
        {NET_NEEDS_CSUM, 0, 0, 0, 65000, 600},
        {NET_NEEDS_CSUM, 0, 0, 0, DATA4 + PAYLOAD - 1, 0},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 0, 0, TCP4, 16},
        {0, NET_GSO_TCPV4, 0, 1000, TCP4, 16},
        {NET_NEEDS_CSUM, 2, 0, 1000, TCP4, 16},
        {NET_NEEDS_CSUM, NET_GSO_UDP, 0, 1000, TCP4, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV6, 0, 1000, TCP4, 16},
        {NET_NEEDS_CSUM, NET_GSO_UDP_L4, 0, 1000, TCP4, 6},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 0, 1000, TCP4 + 2, 16},
        {NET_NEEDS_CSUM, NET_GSO_TCPV4, 0, 1000, TCP4, 14},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        p.offload = wrong[i];
        assert_true(net_send(a, &p));
    }
    assert_true(card_send(&ca, f, 60));
    assert_true(card_wait(&cb, 5));
    usleep(5000);
    assert_int_equal(cb.count, 5);
    assert_int_equal(cb.frame[4].size, 60);
    card_free(&ca);
    card_free(&cb);
    net_free(a);
    net_free(b);
    free(f);
}

static void ipv6_and_udp_are_cut_too(void **state)
{
    uint8_t f[14 + 4 + 40 + 8 + 2000] = {2, 0, 0,    0, 0, 1, 2,    0,    0,   0,
                                         0, 2, 0x81, 0, 0, 5, 0x86, 0xdd, 0x60};
    enum { IP = 18, UDP = 58, DATA = 66 };
    struct iovec iov = {f, sizeof(f)};
    struct net_packet p = {.iov = &iov,
                           .count = 1,
                           .size = sizeof(f),
                           .offload = {NET_NEEDS_CSUM, NET_GSO_UDP_L4, DATA, 900, UDP, 6}};
    struct net *a, *b;
    struct card ca, cb;
    size_t done = 0;

    f[IP + 6] = 17;
    f[IP + 8] = f[IP + 24] = 0xfe;
    f[IP + 23] = 1;
    f[IP + 39] = 2;
    fill(f + DATA, sizeof(f) - DATA, 3);
    open_pair(SOCK_STREAM, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    assert_true(net_send(a, &p));
    assert_true(card_wait(&cb, 3));
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *g = cb.frame[i].bytes;
        size_t n = MIN((size_t)900, sizeof(f) - DATA - done);
        uint32_t sum = 17 + 8 + (uint32_t)n;

        for (int at = IP + 8; at < IP + 40; at += 2)
            sum += be16(g + at);
        assert_int_equal(cb.frame[i].size, DATA + n);
        assert_int_equal(be16(g + IP + 4), 8 + n);
        assert_int_equal(be16(g + UDP + 4), 8 + n);
        assert_int_equal(checksum(g + UDP, 8 + n, sum), 0);
        assert_memory_equal(g + DATA, f + DATA + done, n);
        done += n;
    }
    card_free(&ca);
    card_free(&cb);
    net_free(a);
    net_free(b);
}

static void the_capture_has_both_directions(void **state)
{
    char path[] = "/tmp/hospes-pcap-XXXXXX";
    uint8_t frame[60], file[24 + 2 * (16 + 60) + 1];
    int fd = mkstemp(path);
    struct net *a, *b;
    struct card ca, cb;

    close(fd);
    open_pair(SOCK_DGRAM, &a, &b);
    card_attach(&ca, a);
    card_attach(&cb, b);
    assert_int_equal(net_capture(a, path, NULL), 0);
    fill(frame, sizeof(frame), 1);
    assert_true(card_send(&ca, frame, sizeof(frame)));
    assert_true(card_wait(&cb, 1));
    fill(frame, sizeof(frame), 2);
    assert_true(card_send(&cb, frame, sizeof(frame)));
    assert_true(card_wait(&ca, 1));
    assert_int_equal(net_capture(a, NULL, NULL), 0);
    assert_true(card_send(&ca, frame, sizeof(frame)));
    fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, file, sizeof(file)), sizeof(file) - 1);
    close(fd);
    unlink(path);
    assert_int_equal(load_le(file, 4), 0xa1b23c4d);
    assert_int_equal(load_le(file + 20, 4), 1);
    assert_int_equal(load_le(file + 24 + 8, 4), 60);
    assert_int_equal(load_le(file + 24 + 12, 4), 60);
    assert_int_equal(file[24 + 16], 1);
    assert_int_equal(file[24 + 16 + 60 + 16], 2);
    assert_true(net_capture(a, "/nowhere/x", NULL) < 0);
    card_free(&ca);
    card_free(&cb);
    net_free(a);
    net_free(b);
}

/* ---- TAP: where this user may make one ---------------------------------------------------------
 */

static bool is_arp_reply(const uint8_t *f, size_t size)
{
    return size >= 42 && f[21] == 2;
}

static void a_tap_reaches_the_host(void **state)
{
    char name[16], spec[40];
    uint8_t f[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0,    1,    2,   3, 8, 6,
                     0,    1,    8,    0,    6,    4,    0,    1,    0x52, 0x54, 0,   1, 2, 3,
                     192,  0,    2,    9,    0,    0,    0,    0,    0,    0,    192, 0, 2, 1};
    struct ifreq request = {0};
    struct sockaddr_in *a = (struct sockaddr_in *)&request.ifr_addr;
    struct error err = {0};
    const uint8_t *g;
    struct net *n;
    struct card c;
    unsigned from = 0;
    size_t size;
    int fd;

    snprintf(name, sizeof(name), "hos%d", getpid() % 1000000);
    snprintf(spec, sizeof(spec), "tap,ifname=%s", name);
    if (net_open(spec, &n, &err) < 0) {
        assert_non_null(strstr(err.text, "network: "));
        print_message("# not tried: %s\n", err.text);
        return;
    }
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(request.ifr_name, name, strlen(name));
    a->sin_family = AF_INET;
    inet_pton(AF_INET, "192.0.2.1", &a->sin_addr);
    assert_int_equal(ioctl(fd, SIOCSIFADDR, &request), 0);
    request.ifr_flags = IFF_UP;
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
    card_attach(&c, n);
    net_set_accepts(n, NET_CSUM | NET_TSO4);
    assert_true(card_send(&c, f, sizeof(f)));
    g = card_find(&c, &from, 0x0806, is_arp_reply, &size);
    assert_non_null(g);
    assert_memory_equal(g + 28, "\xc0\x00\x02\x01", 4);
    card_free(&c);
    net_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_stable_and_checked),
        cmocka_unit_test(specs_are_cut_and_errors_named),
        cmocka_unit_test(a_stream_carries_frames),
        cmocka_unit_test(datagrams_carry_frames),
        cmocka_unit_test(a_card_without_buffers_loses_nothing),
        cmocka_unit_test(a_pulled_cable_carries_nothing),
        cmocka_unit_test(one_card_at_a_time),
        cmocka_unit_test(listener_and_reconnect),
        cmocka_unit_test(a_confused_stream_is_disconnected),
        cmocka_unit_test(large_segments_are_cut),
        cmocka_unit_test(ipv6_and_udp_are_cut_too),
        cmocka_unit_test(the_capture_has_both_directions),
        cmocka_unit_test(a_tap_reaches_the_host),
    };
    return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
