/*
 * Tests of the user network, as an ordinary user: a guest of a few frames asks for an address,
 * sends datagrams to a server on the host's loopback and is reached through port forwards.
 */
#include "card.h"
#include "net/internal.h"
#include "support/unit.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
static const uint8_t router[6] = {0x52, 0x55, 10, 0, 2, 2}; /* libslirp's */

enum { IP = 14, UDP = 34, DATA = 42 };

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static size_t udp_frame(uint8_t *f, const char *from, const char *to, unsigned sport,
                        unsigned dport, const void *data, size_t size)
{
    struct in_addr a, b;

    inet_pton(AF_INET, from, &a);
    inet_pton(AF_INET, to, &b);
    memset(f, 0, DATA);
    memcpy(f, b.s_addr == INADDR_BROADCAST ? (const uint8_t *)"\xff\xff\xff\xff\xff\xff" : router,
           6);
    memcpy(f + 6, mac, 6);
    put16(f + 12, 0x0800);
    f[IP] = 0x45;
    put16(f + IP + 2, (unsigned)(28 + size));
    f[IP + 8] = 64;
    f[IP + 9] = 17;
    memcpy(f + IP + 12, &a, 4);
    memcpy(f + IP + 16, &b, 4);
    store_le(f + IP + 10, net_fold(net_sum(f + IP, 20, 0)), 2);
    put16(f + UDP, sport);
    put16(f + UDP + 2, dport);
    put16(f + UDP + 4, (unsigned)(8 + size));
    memcpy(f + DATA, data, size);
    return DATA + size;
}

/* So that libslirp knows where the guest is. */
static void announce(struct card *c, const char *address)
{
    uint8_t f[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0,
                     0,    8,    6,    0,    1,    8,    0, 6, 4, 0, 1};

    memcpy(f + 6, mac, 6);
    memcpy(f + 22, mac, 6);
    inet_pton(AF_INET, address, f + 28);
    inet_pton(AF_INET, "10.0.2.2", f + 38);
    assert_true(card_send(c, f, sizeof(f)));
}

/* A UDP socket on 127.0.0.1, and its port. */
static int host_socket(unsigned *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static unsigned free_port(void)
{
    unsigned port;

    close(host_socket(&port));
    return port;
}

static bool is_udp(const uint8_t *f, size_t size)
{
    return size >= DATA && f[IP + 9] == 17;
}

static void dhcp_gives_an_address(void **state)
{
    uint8_t f[600], data[300] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
    struct card c;
    struct net *n;
    const uint8_t *g;
    unsigned from = 0;
    size_t size;

    assert_int_equal(net_open("user,net=192.168.7.0/24,hostname=test", &n, NULL), 0);
    card_attach(&c, n);
    memcpy(data + 28, mac, 6);
    memcpy(data + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8); /* discover */
    size = udp_frame(f, "0.0.0.0", "255.255.255.255", 68, 67, data, sizeof(data));
    assert_true(card_send(&c, f, size));
    g = card_find(&c, &from, 0x0800, is_udp, &size);
    assert_non_null(g);
    assert_int_equal(get16(g + UDP), 67);
    assert_int_equal(get16(g + UDP + 2), 68);
    assert_memory_equal(g + DATA + 4, data + 4, 4);
    assert_memory_equal(g + DATA + 16, "\xc0\xa8\x07\x0f", 4); /* 192.168.7.15 */
    assert_memory_equal(g + DATA + 240, "\x35\x01\x02", 3);    /* an offer */
    card_free(&c);
    net_free(n);
}

static void datagrams_go_out_and_back(void **state)
{
    struct sockaddr_in peer;
    socklen_t length = sizeof(peer);
    unsigned port, from = 0;
    uint8_t f[200], buffer[200];
    int fd = host_socket(&port);
    struct pollfd p = {fd, POLLIN, 0};
    const uint8_t *g;
    struct card c;
    struct net *n;
    size_t size;

    assert_int_equal(net_open("user", &n, NULL), 0);
    card_attach(&c, n);
    announce(&c, "10.0.2.15");
    size = udp_frame(f, "10.0.2.15", "10.0.2.2", 1234, port, "question", 8);
    assert_true(card_send(&c, f, size));
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&peer, &length), 8);
    assert_memory_equal(buffer, "question", 8);
    assert_int_equal(sendto(fd, "answer", 6, 0, (struct sockaddr *)&peer, length), 6);
    g = card_find(&c, &from, 0x0800, is_udp, &size);
    assert_non_null(g);
    assert_memory_equal(g, mac, 6);
    assert_int_equal(get16(g + UDP), port);
    assert_int_equal(get16(g + UDP + 2), 1234);
    assert_memory_equal(g + DATA, "answer", 6);
    card_free(&c);
    net_free(n);

    /* A guest that may reach nothing, and one that may not reach the host itself. */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(net_open(i ? "user,host-loopback=off" : "user,restrict=on", &n, NULL), 0);
        card_attach(&c, n);
        announce(&c, "10.0.2.15");
        size = udp_frame(f, "10.0.2.15", "10.0.2.2", 1234, port, "question", 8);
        assert_true(card_send(&c, f, size));
        assert_int_equal(poll(&p, 1, 100), 0);
        card_free(&c);
        net_free(n);
    }
    close(fd);
}

static void send_to(unsigned port, const char *text)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, sizeof(a));
    close(fd);
}

static void forwards_come_and_go(void **state)
{
    unsigned first = free_port(), second = free_port(), from = 0;
    auto_free char *spec = xasprintf("user,restrict=on,hostfwd=udp:127.0.0.1:%u-:53", first);
    auto_free char *rule = xasprintf("udp:127.0.0.1:%u-10.0.2.15:54", second);
    auto_free char *gone = xasprintf("udp:127.0.0.1:%u", second);
    struct error err = {0};
    const uint8_t *g;
    struct card c;
    struct net *n;
    size_t size;

    assert_int_equal(net_open(spec, &n, NULL), 0);
    card_attach(&c, n);
    announce(&c, "10.0.2.15");
    send_to(first, "one");
    g = card_find(&c, &from, 0x0800, is_udp, &size);
    assert_non_null(g);
    assert_int_equal(get16(g + UDP + 2), 53);
    assert_memory_equal(g + DATA, "one", 3);
    assert_int_equal(net_forward_add(n, rule, NULL), 0);
    send_to(second, "two");
    g = card_find(&c, &from, 0x0800, is_udp, &size);
    assert_non_null(g);
    assert_int_equal(get16(g + UDP + 2), 54);
    assert_memory_equal(g + DATA, "two", 3);
    assert_true(net_forward_add(n, rule, &err) < 0); /* the port is taken */
    assert_int_equal(net_forward_remove(n, gone, NULL), 0);
    assert_int_equal(net_forward_remove(n, gone, &err), -ENOENT);
    assert_non_null(strstr(err.text, gone));
    assert_int_equal(net_forward_add(n, "udp:1-2", &err), -EINVAL);
    assert_int_equal(net_forward_add(n, "sctp::1-:2", &err), -EINVAL);
    assert_int_equal(net_forward_add(n, "tcp:1.2.3:1-:2", &err), -EINVAL);
    assert_int_equal(net_forward_add(n, "tcp::70000-:2", &err), -EINVAL);
    assert_int_equal(net_forward_add(n, "tcp::0-:2", &err), -EINVAL);
    send_to(second, "three");
    send_to(first, "four");
    g = card_find(&c, &from, 0x0800, is_udp, &size);
    assert_non_null(g);
    assert_memory_equal(g + DATA, "four", 4);
    card_free(&c);
    net_free(n);
}

/* ---- one TCP connection, its guest's side by hand ----------------------------------------------
 */

enum { TCP = 34, TCP_DATA = 54, LARGE = 60000 };

static size_t tcp_frame(uint8_t *f, unsigned port, uint32_t seq, uint32_t ack, unsigned flags,
                        size_t payload, struct net_offload *o)
{
    uint8_t pseudo[12] = {10, 0, 2, 15, 10, 0, 2, 2, 0, 6};

    udp_frame(f, "10.0.2.15", "10.0.2.2", 4000, port, "", 0);
    f[IP + 9] = 6;
    put16(f + IP + 2, (unsigned)(40 + payload));
    store_le(f + IP + 10, 0, 2);
    store_le(f + IP + 10, net_fold(net_sum(f + IP, 20, 0)), 2);
    store_le(f + TCP + 4, htonl(seq), 4);
    store_le(f + TCP + 8, htonl(ack), 4);
    f[TCP + 12] = 0x50;
    f[TCP + 13] = (uint8_t)flags;
    put16(f + TCP + 14, 0xffff);
    store_le(f + TCP + 18, 0, 2);
    put16(pseudo + 10, (unsigned)(20 + payload));
    store_le(f + TCP + 16, (uint16_t)~net_fold(net_sum(pseudo, 12, 0)), 2);
    *o = (struct net_offload){
        NET_NEEDS_CSUM, payload > 1460 ? NET_GSO_TCPV4 : NET_GSO_NONE, TCP_DATA, 1460, TCP, 16};
    return TCP_DATA + payload;
}

static void send_tcp(struct card *c, uint8_t *f, unsigned port, uint32_t seq, uint32_t ack,
                     unsigned flags, size_t payload)
{
    struct net_packet p = {.count = 1};
    struct iovec iov = {f, 0};

    p.size = iov.iov_len = tcp_frame(f, port, seq, ack, flags, payload, &p.offload);
    p.iov = &iov;
    assert_true(net_send(c->net, &p));
}

static bool is_tcp(const uint8_t *f, size_t size)
{
    return size >= TCP_DATA && f[IP + 9] == 6;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void a_large_segment_arrives_whole(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(a);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
    uint8_t *f = calloc(1, NET_FRAME_MAX), *got = malloc(LARGE);
    unsigned port, from = 0;
    const uint8_t *g;
    struct pollfd p = {.fd = listener, .events = POLLIN};
    struct card c;
    struct net *n;
    size_t size, have = 0;
    uint32_t ack;

    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &length), 0);
    assert_int_equal(listen(listener, 1), 0);
    port = ntohs(a.sin_port);
    assert_int_equal(net_open("user", &n, NULL), 0);
    card_attach(&c, n);
    announce(&c, "10.0.2.15");
    send_tcp(&c, f, port, 1000, 0, 0x02, 0);
    g = card_find(&c, &from, 0x0800, is_tcp, &size);
    assert_non_null(g);
    assert_int_equal(g[TCP + 13], 0x12);
    ack = get32(g + TCP + 4) + 1;
    send_tcp(&c, f, port, 1001, ack, 0x10, 0);
    assert_int_equal(poll(&p, 1, 5000), 1);
    fd = accept(listener, NULL, NULL);
    for (size_t i = 0; i < LARGE; i++)
        f[TCP_DATA + i] = (uint8_t)(i * 31 >> 4);
    send_tcp(&c, f, port, 1001, ack, 0x18, LARGE);
    p.fd = fd;
    while (have < LARGE) {
        ssize_t r;

        assert_int_equal(poll(&p, 1, 5000), 1);
        r = read(fd, got + have, LARGE - have);
        assert_true(r > 0);
        have += (size_t)r;
    }
    assert_memory_equal(got, f + TCP_DATA, LARGE);
    do { /* acknowledged without a second try */
        g = card_find(&c, &from, 0x0800, is_tcp, &size);
        assert_non_null(g);
    } while (get32(g + TCP + 8) != 1001 + LARGE);
    close(fd);
    close(listener);
    card_free(&c);
    net_free(n);
    free(f);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dhcp_gives_an_address),
        cmocka_unit_test(datagrams_go_out_and_back),
        cmocka_unit_test(forwards_come_and_go),
        cmocka_unit_test(a_large_segment_arrives_whole),
    };
    return cmocka_run_group_tests_name("net-user", tests, NULL, NULL);
}
