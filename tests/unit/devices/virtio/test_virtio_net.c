/* test_virtio_net.c - frames both ways over a datagram socket, offloads, filters, queues. */
#include "support/unit.h"

#include "driver.h"

#include "event/loop.h"
#include "memory/ram.h"
#include "net/net.h"
#include "support/test_machine.h"

#include <linux/virtio_net.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 2048 };

static struct net *net;
static struct machine_backend backend;
static int fd; /* our end of the cable: a datagram is a frame */
static const uint8_t mac[6] = {0x52, 0x54, 0, 0x11, 0x22, 0x33};

static int setup(void **state)
{
    char spec[80];
    int sock[2];

    if (test_machine_setup(state) < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, sock) < 0)
        return -1;
    fd = sock[0];
    snprintf(spec, sizeof(spec), "dgram,id=n0,local.type=fd,local.str=%d", sock[1]);
    if (net_open(spec, &net, NULL) < 0)
        return -1;
    backend = (struct machine_backend){"netdev", "n0", net};
    ((struct machine *)*state)->config.backends = &backend;
    ((struct machine *)*state)->config.backend_count = 1;
    return 0;
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    net_free(net);
    close(fd);
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via, const char *properties)
{
    struct error err = {0};
    char text[200];

    snprintf(text, sizeof(text), "netdev=n0,mac=52:54:00:11:22:33,%s",
             properties ? properties : "");
    if (!driver_add_device(d, *state, via, "virtio-net", text, &err))
        fail_msg("%s", err.text);
}

static uint32_t header_of(const struct driver *d)
{
    return d->features & (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF)) ? 12 : 10;
}

static void make_frame(uint8_t *f, size_t size, const uint8_t *to, unsigned seed)
{
    memcpy(f, to, 6);
    memcpy(f + 6, "\x52\x54\x00\xaa\xbb\xcc", 6);
    f[12] = 0x88;
    f[13] = 0xb5; /* for experiments */
    for (size_t i = 14; i < size; i++)
        f[i] = (uint8_t)(i * 3 + i / 256 + seed);
}

/* Wait for a datagram; its size, -1: none within the time. */
static ssize_t from_cable(uint8_t *to, size_t size, int msec)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, msec) == 1 ? recv(fd, to, size, 0) : -1;
}

static int wait_used(struct driver *d, unsigned queue, uint32_t *written)
{
    for (unsigned i = 0; i < 1000; i++) {
        int id = driver_used(d, queue, written);

        if (id >= 0)
            return id;
        poll(NULL, 0, 2);
    }
    return -1;
}

static void send_frame(struct driver *d, const void *header, const uint8_t *f, uint32_t size)
{
    uint32_t head = header_of(d);
    gpa at = driver_alloc(d, head + size);

    driver_put(d, at, header ? header : "\0\0\0\0\0\0\0\0\0\0\0", head);
    driver_put(d, at + head, f, size);
    driver_do(d, 1,
              (struct driver_buffer[]){{at, head, false},
                                       {at + head, size / 2, false},
                                       {at + head + size / 2, size - size / 2, false}},
              3);
}

static void frames_go_both_ways(void **state)
{
    uint8_t f[1514], g[2048];

    for (enum driver_via via = 0; via < VIA_COUNT; via++)
        for (unsigned mergeable = 0; mergeable < 2; mergeable++) {
            struct driver d;
            gpa at[4];
            uint32_t written;

            assert_int_equal(teardown(state), 0);
            assert_int_equal(setup(state), 0);
            add(&d, state, via, via == VIA_MODERN && mergeable ? "packed=on" : NULL);
            driver_start(&d, mergeable ? ~UINT64_C(0) : 0);
            for (unsigned i = 0; i < 6; i++)
                assert_int_equal(driver_config(&d, i, 1), mac[i]);
            assert_int_equal(driver_config(&d, 6, 2), 1); /* link up */
            make_frame(f, sizeof(f), (const uint8_t *)"\x52\x54\0\xaa\xbb\xcc", 1);
            send_frame(&d, NULL, f, sizeof(f));
            assert_int_equal(from_cable(g, sizeof(g), 2000), sizeof(f));
            assert_memory_equal(f, g, sizeof(f));

            make_frame(f, sizeof(f), mac, 2);
            assert_int_equal(send(fd, f, 1000, 0), 1000); /* waits for buffers */
            for (unsigned i = 0; i < 4; i++) {
                at[i] = driver_alloc(&d, BUFFER);
                driver_add(&d, 0, &(struct driver_buffer){at[i], BUFFER, true}, 1);
            }
            driver_kick(&d, 0);
            assert_int_equal(wait_used(&d, 0, &written), 0);
            assert_int_equal(written, 1000 + header_of(&d));
            driver_get(&d, at[0] + header_of(&d), g, 1000);
            assert_memory_equal(f, g, 1000);
            if (header_of(&d) == 12)
                assert_int_equal(d.m->ram->host[at[0] + 10], 1);
        }
}

static void a_frame_takes_several_buffers(void **state)
{
    struct driver d;
    uint8_t f[1000], g[1200];
    gpa at[16];
    size_t got = 0;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, BIT(VIRTIO_NET_F_MRG_RXBUF));
    make_frame(f, sizeof(f), mac, 3);
    for (unsigned i = 0; i < 4; i++) { /* not enough: 4 x 128 */
        at[i] = driver_alloc(&d, 128);
        driver_add(&d, 0, &(struct driver_buffer){at[i], 128, true}, 1);
    }
    driver_kick(&d, 0);
    assert_int_equal(send(fd, f, sizeof(f), 0), sizeof(f));
    poll(NULL, 0, 20);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    for (unsigned i = 4; i < 16; i++) {
        at[i] = driver_alloc(&d, 128);
        driver_add(&d, 0, &(struct driver_buffer){at[i], 128, true}, 1);
    }
    driver_kick(&d, 0);
    for (unsigned i = 0; i < 8; i++) {
        uint32_t written;

        assert_int_equal(wait_used(&d, 0, &written), i);
        assert_true(got + written <= sizeof(g));
        driver_get(&d, at[i], g + got, written);
        got += written;
    }
    assert_int_equal(got, sizeof(f) + 12);
    assert_int_equal(g[10], 8);
    assert_memory_equal(g + 12, f, sizeof(f));
    assert_int_equal(driver_used(&d, 0, NULL), -1);
}

/* A TCP segment whose checksum is left to us arrives with it. */
static void checksums_are_done(void **state)
{
    struct driver d;
    uint8_t f[74] = {0}, g[100];
    struct virtio_net_hdr_v1 h = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    uint32_t sum = 0;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    memcpy(f, "\x52\x54\0\xaa\xbb\xcc\x52\x54\0\x11\x22\x33\x08\0", 14);
    memcpy(f + 14, "\x45\0\0\x3c\0\0\x40\0\x40\6\0\0\x0a\0\2\xf\x0a\0\2\2", 20);
    for (unsigned i = 34; i < 74; i++)
        f[i] = (uint8_t)i;
    f[46] = 5 << 4;
    sum = 0x0a00 + 0x020f + 0x0a00 + 0x0202 + 6 + 40; /* the pseudo header, not inverted */
    f[50] = (uint8_t)(sum >> 8);
    f[51] = (uint8_t)sum;
    send_frame(&d, &h, f, sizeof(f));
    assert_int_equal(from_cable(g, sizeof(g), 2000), sizeof(f));
    for (unsigned i = 34; i < 74; i += 2)
        sum += (uint32_t)g[i] << 8 | g[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal(sum, 0xffff);
}

static uint8_t command(struct driver *d, uint8_t class, uint8_t what, const void *data,
                       uint32_t size, unsigned queue)
{
    gpa h = driver_alloc(d, 2 + size), a = driver_alloc(d, 1);
    uint8_t ack = 0xee;

    driver_put(d, h, (uint8_t[]){class, what}, 2);
    driver_put(d, h + 2, data, size);
    driver_put(d, a, &ack, 1);
    driver_do(d, queue, (struct driver_buffer[]){{h, 2, false}, {h + 2, size, false}, {a, 1, true}},
              3);
    driver_get(d, a, &ack, 1);
    return ack;
}

/* Does a frame to that address come in? */
static bool arrives(struct driver *d, const uint8_t *f, size_t size)
{
    uint8_t last[60];
    gpa at = driver_alloc(d, BUFFER), end = driver_alloc(d, BUFFER);
    uint16_t id;
    bool arrived;

    make_frame(last, sizeof(last), mac, 99);
    id = driver_add(d, 0, &(struct driver_buffer){at, BUFFER, true}, 1);
    driver_add(d, 0, &(struct driver_buffer){end, BUFFER, true}, 1);
    driver_kick(d, 0);
    assert_int_equal(send(fd, f, size, 0), size);
    assert_int_equal(send(fd, last, sizeof(last), 0), sizeof(last)); /* which comes in any case */
    assert_int_equal(wait_used(d, 0, NULL), id);
    arrived = d->m->ram->host[at + 12 + 20] != last[20] || size != sizeof(last);
    if (arrived)
        assert_true(wait_used(d, 0, NULL) >= 0);
    else
        driver_used(d, 0, NULL);
    return arrived;
}

static void filters(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, group[6] = {1, 0, 0x5e, 0, 0, 5},
                         all[6] = {255, 255, 255, 255, 255, 255};
    struct driver d;
    uint8_t f[61], table[4 + 6 + 4 + 6];

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    make_frame(f, sizeof(f), other, 0);
    assert_true(arrives(&d, f, sizeof(f))); /* everything at first */
    driver_start(&d, ~UINT64_C(0));
    assert_int_equal(command(&d, 0, 0, "\0", 1, 2), 0); /* not promiscuous */
    assert_int_equal(command(&d, 0, 9, "\0", 1, 2), 1); /* unknown */
    assert_int_equal(command(&d, 9, 0, "\0", 1, 2), 1);
    assert_int_equal(command(&d, 1, 0, "\xff\xff\xff\xff", 4, 2), 1);
    test_save_reset_restore(d.m);
    struct {
        const uint8_t *to;
        bool comes;
    } before[] = {{all, true}};
    for (unsigned i = 0; i < ARRAY_SIZE(before); i++) {
        make_frame(f, sizeof(f), before[i].to, 0);
        assert_int_equal(arrives(&d, f, sizeof(f)), before[i].comes);
    }
    store_le(table, 1, 4);
    memcpy(table + 4, other, 6);
    store_le(table + 10, 1, 4);
    memcpy(table + 14, group, 6);
    assert_int_equal(command(&d, 1, 0, table, sizeof(table), 2), 0);
    make_frame(f, sizeof(f), other, 0);
    assert_true(arrives(&d, f, sizeof(f)));
    make_frame(f, sizeof(f), group, 0);
    assert_true(arrives(&d, f, sizeof(f)));
    /* VLAN 5 is not ours until we say so */
    make_frame(f, sizeof(f), mac, 0);
    memcpy(f + 12, "\x81\0\0\x05", 4);
    assert_int_equal(command(&d, 2, 0, "\x05\0", 2, 2), 0);
    assert_true(arrives(&d, f, sizeof(f)));
    assert_int_equal(command(&d, 2, 0, "\0\x10", 2, 2), 1); /* 4096 */
    /* the guest's own choice of address */
    assert_int_equal(command(&d, 1, 1, "\x52\x54\0\7\7\7", 6, 2), 0);
    assert_int_equal(driver_config(&d, 5, 1), 7);
}

static void a_frame_for_others_is_dropped(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, group[6] = {1, 0, 0x5e, 0, 0, 5};
    struct driver d;
    uint8_t f[60];
    gpa at;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    assert_int_equal(command(&d, 0, 0, "\0", 1, 2), 0);
    at = driver_alloc(&d, BUFFER);
    driver_add(&d, 0, &(struct driver_buffer){at, BUFFER, true}, 1);
    driver_kick(&d, 0);
    for (unsigned i = 0; i < 4; i++) {
        make_frame(f, sizeof(f), i == 0 ? other : i == 1 ? group : mac, i);
        if (i == 2)
            memcpy(f + 12, "\x81\0\0\x05", 4);
        assert_int_equal(send(fd, f, sizeof(f), 0), sizeof(f));
    }
    assert_true(wait_used(&d, 0, NULL) >= 0);
    assert_int_equal(d.m->ram->host[at + 12 + 59], f[59]); /* the last, and only that */
    assert_int_equal(driver_used(&d, 0, NULL), -1);
}

static void a_flow_stays_on_its_queue(void **state)
{
    struct driver d;
    uint8_t f[60] = {0};
    unsigned control = 4;

    add(&d, state, VIA_MODERN, "queues=2");
    driver_start(&d, ~UINT64_C(0));
    assert_int_equal(driver_config(&d, 8, 2), 2);
    assert_int_equal(command(&d, 4, 0, "\3\0", 2, control), 1);
    assert_int_equal(command(&d, 4, 0, "\2\0", 2, control), 0);
    for (unsigned q = 0; q < 4; q += 2) {
        gpa at = driver_alloc(&d, BUFFER);

        driver_add(&d, q, &(struct driver_buffer){at, BUFFER, true}, 1);
        driver_kick(&d, q);
    }
    memcpy(f, "\x52\x54\0\xaa\xbb\xcc\x52\x54\0\x11\x22\x33\x08\0", 14);
    memcpy(f + 14, "\x45\0\0\x2e\0\0\x40\0\x40\x11\0\0\x0a\0\2\xf\x0a\0\2\2\0\x35\x10\0", 24);
    gpa at = driver_alloc(&d, 12 + sizeof(f));
    driver_put(&d, at + 12, f, sizeof(f));
    driver_do(&d, 3, &(struct driver_buffer){at, 12 + sizeof(f), false}, 1);
    /* the answer, with the addresses and ports exchanged */
    memcpy(f, mac, 6);
    memcpy(f + 26, "\x0a\0\2\2\x0a\0\2\xf\x10\0\0\x35", 12);
    assert_int_equal(send(fd, f, sizeof(f), 0), sizeof(f));
    assert_true(wait_used(&d, 2, NULL) >= 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
}

static void the_link_is_told(void **state)
{
    struct driver d;

    add(&d, state, VIA_MMIO, NULL);
    driver_start(&d, ~UINT64_C(0));
    poll(NULL, 0, 20);
    driver_isr(&d);
    net_set_link(net, false);
    for (unsigned i = 0; i < 1000 && !driver_interrupted(&d); i++)
        poll(NULL, 0, 2);
    assert_int_equal(driver_isr(&d), 2);
    assert_int_equal(driver_config(&d, 6, 2), 0);
}

static void nonsense(void **state)
{
    struct driver d;
    gpa at;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    at = driver_alloc(&d, 70000);
    /* too short a frame is lost, one without a whole header breaks the device */
    driver_do(&d, 1, &(struct driver_buffer){at, 20, false}, 1);
    driver_do(&d, 1, &(struct driver_buffer){at, 70000, false}, 1);
    assert_int_equal(from_cable((uint8_t[100]){0}, 100, 20), -1);
    assert_int_equal(driver_status(&d), 15);
    driver_add(&d, 1, &(struct driver_buffer){at, 11, false}, 1);
    driver_kick(&d, 1);
    virtio_settle(d.v);
    assert_int_equal(driver_status(&d), 0x4f);
}

static void refuses_by_name(void **state)
{
    static const char *const bad[][2] = {
        {"queues=9", "virtio-net-pci: queues=9 is not from 1 to 8"},
        {"rx_queue_size=100",
         "virtio-net-pci: rx_queue_size=100 is not a power of two from 64 to 1024"},
        {"netdev=x", "virtio-net-pci: netdev=x: there is no netdev of this name"},
        {"host_mtu=20", "virtio-net-pci: host_mtu=20 is less than 68"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        struct driver d;

        assert_false(driver_add_device(&d, *state, VIA_MODERN, "virtio-net", bad[i][0], &err));
        assert_string_equal(err.text, bad[i][1]);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(frames_go_both_ways),
        TEST(a_frame_takes_several_buffers),
        TEST(checksums_are_done),
        TEST(filters),
        TEST(a_frame_for_others_is_dropped),
        TEST(a_flow_stays_on_its_queue),
        TEST(the_link_is_told),
        TEST(nonsense),
        TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-net", tests, NULL, NULL);
}
