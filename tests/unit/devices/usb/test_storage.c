/* Tests of usb-storage: commands, data and status over the bulk endpoints. */
#include "support/unit.h"

#include "block/disk.h"
#include "devices/usb/storage.h"
#include "host.h"

#include <fcntl.h>
#include <unistd.h>

enum {
    IN = 3,
    OUT = 4,
    BLOCKS = 2048,
    CBW = HOST_DATA,
    CSW = HOST_DATA + 64,
    DATA = HOST_DATA + 4096
};

struct stick {
    struct host *h;
    struct disk *disk;
    char path[40];
    uint32_t tag;
};

static int stick_setup(void **state)
{
    struct stick *s = xcalloc(1, sizeof(*s));
    struct error err = {0};
    struct device *dev;
    void *host;
    int fd;

    strcpy(s->path, "/tmp/hospes-stick-XXXXXX");
    fd = mkstemp(s->path);
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint8_t block[512];

        memset(block, (int)i, sizeof(block));
        if (write(fd, block, sizeof(block)) != sizeof(block))
            return -1;
    }
    close(fd);
    {
        auto_free char *words = xasprintf("file=%s,format=raw", s->path);

        s->disk = disk_open(words, &err);
    }
    if (!s->disk || host_setup(&host) < 0)
        return -1;
    s->h = host;
    dev = device_new(s->h->m, &usb_storage_type, NULL);
    device_set_ref(dev, "drive", s->disk);
    if (device_realize(dev, &err) < 0)
        return -1;
    host_start(s->h);
    host_enumerate(s->h, XHCI_PORTS2 + 1);
    if (host_control(s->h, 0, USB_SET_CONFIGURATION, 1, 0, 0, NULL) != CODE_SUCCESS ||
        host_configure(s->h, IN, 6, 1024) != CODE_SUCCESS ||
        host_configure(s->h, OUT, 2, 1024) != CODE_SUCCESS)
        return -1;
    *state = s;
    return 0;
}

static int stick_teardown(void **state)
{
    struct stick *s = *state;
    void *host = s->h;
    int r = host_teardown(&host);

    disk_close(s->disk);
    unlink(s->path);
    free(s);
    return r;
}

/* The disk works on threads of its own. */
static unsigned wait_code(struct stick *s, uint32_t *left)
{
    for (int i = 0; i < 5000; i++) {
        struct host_event e;
        bool there;

        pthread_mutex_lock(&s->h->xhci->lock);
        there = mmio_read(s->h->m, HOST_EVENTS + 16 * s->h->event_at + 12, 4) % 2 ==
                s->h->event_cycle;
        pthread_mutex_unlock(&s->h->xhci->lock);
        if (there && host_event(s->h, &e)) {
            if (left)
                *left = e.status & 0xffffff;
            return host_code(&e);
        }
        usleep(1000);
    }
    return 0;
}

static void put_cbw(struct stick *s, const uint8_t *cdb, size_t cdb_size, uint32_t length, bool in)
{
    uint8_t w[31] = {0x55, 0x53, 0x42, 0x43};

    store_le(w + 4, ++s->tag, 4);
    store_le(w + 8, length, 4);
    w[12] = in ? 0x80 : 0;
    w[14] = (uint8_t)cdb_size;
    memcpy(w + 15, cdb, cdb_size);
    assert_int_equal(dma_write(s->h->m->memory, CBW, w, sizeof(w)), 0);
    host_submit(s->h, OUT, CBW, sizeof(w));
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
}

static void expect_status(struct stick *s, unsigned status, uint32_t residue)
{
    host_submit(s->h, IN, CSW, 13);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    assert_int_equal(mmio_read(s->h->m, CSW, 4), 0x53425355);
    assert_int_equal(mmio_read(s->h->m, CSW + 4, 4), s->tag);
    assert_int_equal(mmio_read(s->h->m, CSW + 8, 4), residue);
    assert_int_equal(mmio_read(s->h->m, CSW + 12, 1), status);
}

static void settle(struct stick *s) /* power on is told once */
{
    put_cbw(s, (const uint8_t[6]){0}, 6, 0, true);
    expect_status(s, 1, 0);
    put_cbw(s, (const uint8_t[6]){3, 0, 0, 0, 18}, 6, 18, true);
    host_submit(s->h, IN, DATA, 18);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    assert_int_equal(mmio_read(s->h->m, DATA + 2, 1) & 15, 6); /* unit attention */
    assert_int_equal(mmio_read(s->h->m, DATA + 12, 1), 0x29);
    expect_status(s, 0, 0);
}

static void blocks_are_read_and_written(void **state)
{
    struct stick *s = *state;
    uint8_t block[1024];
    uint32_t left;
    int fd;

    settle(s);
    put_cbw(s, (const uint8_t[10]){0x28, 0, 0, 0, 0, 5, 0, 0, 2}, 10, 1024, true);
    test_save_reset_restore(s->h->m); /* ends it */
    host_control(s->h, 0x21, 0xff, 0, 0, 0, NULL);
    host_submit(s->h, IN, DATA, 16);
    put_cbw(s, (const uint8_t[10]){0x28, 0, 0, 0, 0, 5, 0, 0, 2}, 10, 1024, true);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS); /* 16 of 1024 */
    host_submit(s->h, IN, DATA + 16, 1024 - 16);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    assert_int_equal(dma_read(s->h->m->memory, DATA, block, 1024), 0);
    assert_int_equal(block[0], 5);
    assert_int_equal(block[511], 5);
    assert_int_equal(block[512], 6);
    expect_status(s, 0, 0);
    /* Written in two pieces. */
    memset(block, 0xa5, sizeof(block));
    assert_int_equal(dma_write(s->h->m->memory, DATA, block, sizeof(block)), 0);
    put_cbw(s, (const uint8_t[10]){0x2a, 0, 0, 0, 0, 9, 0, 0, 2}, 10, 1024, false);
    host_submit(s->h, OUT, DATA, 600);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    host_submit(s->h, OUT, DATA + 600, 424);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    expect_status(s, 0, 0);
    put_cbw(s, (const uint8_t[10]){0x35}, 10, 0, false);
    expect_status(s, 0, 0);
    fd = open(s->path, O_RDONLY);
    assert_int_equal(pread(fd, block, 1024, 9 * 512), 1024);
    close(fd);
    assert_int_equal(block[0], 0xa5);
    assert_int_equal(block[1023], 0xa5);
    /* Less than was asked for: a short packet and a residue. */
    put_cbw(s, (const uint8_t[6]){0x12, 0, 0, 0, 36}, 6, 255, true);
    host_submit(s->h, IN, DATA, 255);
    assert_int_equal(wait_code(s, &left), CODE_SHORT);
    assert_int_equal(left, 255 - 36);
    expect_status(s, 0, 255 - 36);
}

static void errors_have_their_status(void **state)
{
    struct stick *s = *state;
    uint32_t moved;

    settle(s);
    assert_int_equal(host_control(s->h, 0xa1, 0xfe, 0, 0, 1, &moved), CODE_SUCCESS);
    assert_int_equal(mmio_read(s->h->m, HOST_DATA, 1), 0);
    /* Beyond the end: failed, and why. */
    put_cbw(s, (const uint8_t[10]){0x28, 0, 0, 1, 0, 0, 0, 0, 1}, 10, 512, true);
    host_submit(s->h, IN, DATA, 512);
    assert_int_equal(wait_code(s, NULL), CODE_SHORT);
    expect_status(s, 1, 512);
    put_cbw(s, (const uint8_t[6]){3, 0, 0, 0, 18}, 6, 18, true);
    host_submit(s->h, IN, DATA, 18);
    assert_int_equal(wait_code(s, NULL), CODE_SUCCESS);
    assert_int_equal(mmio_read(s->h->m, DATA + 2, 1) & 15, 5);
    assert_int_equal(mmio_read(s->h->m, DATA + 12, 1), 0x21);
    expect_status(s, 0, 0);
    /* The host expects less than the command moves: a phase error. */
    put_cbw(s, (const uint8_t[10]){0x28, 0, 0, 0, 0, 0, 0, 0, 2}, 10, 512, true);
    host_submit(s->h, IN, DATA, 512);
    assert_int_not_equal(wait_code(s, NULL), 0);
    expect_status(s, 2, 512);
    /* No command block: both endpoints stall until the device is reset. */
    mmio_write(s->h->m, CBW, 0x12345678, 4);
    host_submit(s->h, OUT, CBW, 31);
    assert_int_equal(wait_code(s, NULL), CODE_STALL);
    assert_int_equal(mmio_read(s->h->m, HOST_CONTEXT + 32 * OUT, 4) & 7, 2);
}

#define T(test) cmocka_unit_test_setup_teardown(test, stick_setup, stick_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(blocks_are_read_and_written), T(errors_have_their_status)};

    return cmocka_run_group_tests_name("usb-storage", tests, NULL, NULL);
}
