/* test_virtio_vsock.c - connections both ways, flow control, ends, and packets out of place. */
#include "support/unit.h"

#include "driver.h"

#include "memory/ram.h"
#include "state/state.h"
#include "support/test_machine.h"

#include <linux/virtio_vsock.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFERS = 16, ROOM = 4096, HEADER = sizeof(struct virtio_vsock_hdr) };

static char folder[40], path[60];
static gpa buffer[BUFFERS];
static unsigned given;

static int setup(void **state)
{
    strcpy(folder, "/tmp/virtio-vsock-XXXXXX");
    if (!mkdtemp(folder) || test_machine_setup(state) < 0)
        return -1;
    snprintf(path, sizeof(path), "%s/v", folder);
    return 0;
}

static int teardown(void **state)
{
    auto_free char *command = xasprintf("rm -rf '%s'", folder);
    int r = test_machine_teardown(state);

    return system(command) ? -1 : r;
}

static void add(struct driver *d, void **state, enum driver_via via)
{
    struct error err = {0};
    char text[120];

    snprintf(text, sizeof(text), "guest-cid=42,path=%s", path);
    if (!driver_add_device(d, *state, via, "virtio-vsock", text, &err))
        fail_msg("%s", err.text);
    driver_start(d, ~UINT64_C(0));
    assert_int_equal(driver_config(d, 0, 4), 42);
    for (given = 0; given < BUFFERS; given++) {
        buffer[given] = driver_alloc(d, ROOM);
        driver_add(d, 0, &(struct driver_buffer){buffer[given], ROOM, true}, 1);
    }
    driver_kick(d, 0);
}

static struct sockaddr_un address(const char *at)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof(a.sun_path), "%s", at);
    return a;
}

static int listen_at(unsigned port)
{
    auto_free char *at = xasprintf("%s_%u", path, port);
    struct sockaddr_un a = address(at);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void send_packet(struct driver *d, uint32_t guest, uint32_t host, uint16_t op,
                        uint32_t flags, const char *data, uint32_t took)
{
    struct virtio_vsock_hdr h = {.src_cid = 42,
                                 .dst_cid = 2,
                                 .src_port = guest,
                                 .dst_port = host,
                                 .len = data ? (uint32_t)strlen(data) : 0,
                                 .type = VIRTIO_VSOCK_TYPE_STREAM,
                                 .op = op,
                                 .flags = flags,
                                 .buf_alloc = 100,
                                 .fwd_cnt = took};
    gpa at = driver_alloc(d, HEADER + h.len);

    driver_put(d, at, &h, HEADER);
    if (data)
        driver_put(d, at + HEADER, data, h.len);
    driver_do(d, 1, (struct driver_buffer[]){{at, HEADER, false}, {at + HEADER, h.len, false}},
              data ? 2 : 1);
}

/* The next packet to the guest; its data follow the header in guest memory. */
static struct virtio_vsock_hdr next_packet(struct driver *d, char *data)
{
    struct virtio_vsock_hdr h = {0};
    uint32_t written;
    int id = -1;

    for (unsigned i = 0; i < 1000 && id < 0; i++) {
        id = driver_used(d, 0, &written);
        if (id < 0)
            poll(NULL, 0, 2);
    }
    assert_true(id >= 0);
    driver_get(d, buffer[id], &h, HEADER);
    assert_int_equal(written, HEADER + h.len);
    if (data) {
        driver_get(d, buffer[id] + HEADER, data, h.len);
        data[h.len] = '\0';
    }
    assert_int_equal(h.src_cid, 2);
    assert_int_equal(h.dst_cid, 42);
    return h;
}

static void expect(struct driver *d, uint16_t op, uint32_t guest, uint32_t host)
{
    struct virtio_vsock_hdr h = next_packet(d, NULL);

    assert_int_equal(h.op, op);
    assert_int_equal(h.dst_port, guest);
    assert_int_equal(h.src_port, host);
}

static ssize_t receive(int fd, char *to, size_t size)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ssize_t n = poll(&p, 1, 2000) == 1 ? recv(fd, to, size - 1, 0) : -1;

    to[n > 0 ? n : 0] = '\0';
    return n;
}

static void the_guest_connects(void **state)
{
    for (enum driver_via via = 0; via < VIA_COUNT; via++) {
        struct driver d;
        char text[5000];
        int at, fd;

        if (via == VIA_LEGACY || via == VIA_MMIO_LEGACY)
            continue; /* there is no such device */
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, via);
        at = listen_at(77);
        send_packet(&d, 1000, 77, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
        expect(&d, VIRTIO_VSOCK_OP_RESPONSE, 1000, 77);
        fd = accept(at, NULL, NULL);
        send_packet(&d, 1000, 77, VIRTIO_VSOCK_OP_RW, 0, "hello", 0);
        assert_int_equal(receive(fd, text, sizeof(text)), 5);
        assert_string_equal(text, "hello");
        assert_int_equal(send(fd, "world", 5, 0), 5);
        assert_int_equal(next_packet(&d, text).op, VIRTIO_VSOCK_OP_RW);
        assert_string_equal(text, "world");
        /* the guest has room for 100 bytes and took none yet */
        memset(text, 'x', 200);
        assert_int_equal(send(fd, text, 200, 0), 200);
        assert_int_equal(next_packet(&d, text).len, 95);
        poll(NULL, 0, 20);
        assert_int_equal(driver_used(&d, 0, NULL), -1);
        send_packet(&d, 1000, 77, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, NULL, 100);
        assert_int_equal(next_packet(&d, text).len, 100);
        send_packet(&d, 1000, 77, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 0, NULL, 200);
        expect(&d, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 1000, 77);
        assert_int_equal(next_packet(&d, text).len, 5); /* what was left */
        send_packet(&d, 1000, 77, VIRTIO_VSOCK_OP_SHUTDOWN, 3, NULL, 205);
        do
            text[0] = (char)next_packet(&d, NULL).op;
        while (text[0] == VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        assert_int_equal(text[0], VIRTIO_VSOCK_OP_RST);
        assert_int_equal(receive(fd, text, sizeof(text)), 0);
        close(fd);
        close(at);
    }
}

static void the_host_connects(void **state)
{
    struct sockaddr_un a;
    struct virtio_vsock_hdr h;
    struct driver d;
    char text[100], want[40];
    int fd;

    add(&d, state, VIA_MODERN);
    a = address(path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, "CONN", 4, 0), 4);
    poll(NULL, 0, 10);
    assert_int_equal(send(fd, "ECT 555\nearly", 13, 0), 13);
    h = next_packet(&d, NULL);
    assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(h.dst_port, 555);
    send_packet(&d, 555, h.src_port, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL, 0);
    snprintf(want, sizeof(want), "OK %u\n", h.src_port);
    receive(fd, text, sizeof(text));
    assert_string_equal(text, want);
    assert_int_equal(next_packet(&d, text).op, VIRTIO_VSOCK_OP_RW);
    assert_string_equal(text, "early");
    close(fd);
    assert_int_equal(next_packet(&d, NULL).op, VIRTIO_VSOCK_OP_SHUTDOWN);
    send_packet(&d, 555, h.src_port, VIRTIO_VSOCK_OP_RST, 0, NULL, 0);
    /* who says something else is sent away */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, "GET / HTTP/1.1\n", 15, 0), 15);
    assert_true(receive(fd, text, sizeof(text)) <= 0);
    close(fd);
}

static void what_does_not_fit_is_refused(void **state)
{
    struct driver d;
    static char large[70000];
    struct state_buffer saved = {0};
    char text[100];
    int at, fd;

    add(&d, state, VIA_MODERN);
    send_packet(&d, 9, 8, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0); /* nobody listens */
    expect(&d, VIRTIO_VSOCK_OP_RST, 9, 8);
    send_packet(&d, 9, 8, VIRTIO_VSOCK_OP_RW, 0, "x", 0); /* not connected */
    expect(&d, VIRTIO_VSOCK_OP_RST, 9, 8);
    send_packet(&d, 9, 8, VIRTIO_VSOCK_OP_RST, 0, NULL, 0); /* is not answered */
    at = listen_at(5);
    send_packet(&d, 9, 5, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
    expect(&d, VIRTIO_VSOCK_OP_RESPONSE, 9, 5);
    fd = accept(at, NULL, NULL);
    memset(large, 'l', sizeof(large) - 1); /* more than the credit it has */
    send_packet(&d, 9, 5, VIRTIO_VSOCK_OP_RW, 0, large, 0);
    expect(&d, VIRTIO_VSOCK_OP_RST, 9, 5);
    assert_int_equal(receive(fd, text, sizeof(text)), 0);
    close(fd);
    /* a restore loses connections, and says so */
    send_packet(&d, 10, 5, VIRTIO_VSOCK_OP_REQUEST, 0, NULL, 0);
    expect(&d, VIRTIO_VSOCK_OP_RESPONSE, 10, 5);
    driver_add(&d, 2, &(struct driver_buffer){buffer[0], 4, true}, 1);
    state_save_device(&saved, &d.v->dev);
    device_reset(&d.v->dev);
    assert_int_equal(state_load_device(&saved, &d.v->dev, NULL), 0);
    state_buffer_free(&saved);
    assert_int_equal(driver_used(&d, 2, NULL), 0);
    assert_int_equal(driver_status(&d), 15);
    close(at);
}

static void refuses_by_name(void **state)
{
    static const char *const bad[][2] = {
        {"guest-cid=2,path=/tmp/x", "virtio-vsock-pci: guest-cid=2 is not from 3 to 4294967294"},
        {"guest-cid=3", "virtio-vsock-pci: say path=SOCKET"},
        {"path=/nowhere/x",
         "virtio-vsock-pci: cannot listen at '/nowhere/x': No such file or directory"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        struct driver d;

        assert_false(driver_add_device(&d, *state, VIA_MODERN, "virtio-vsock", bad[i][0], &err));
        assert_string_equal(err.text, bad[i][1]);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_guest_connects),
        TEST(the_host_connects),
        TEST(what_does_not_fit_is_refused),
        TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-vsock", tests, NULL, NULL);
}
