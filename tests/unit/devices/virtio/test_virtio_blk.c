/* test_virtio_blk.c - a disk over a real file: data, flush, discard, zeroes, cache, errors. */
#include "support/unit.h"

#include "driver.h"

#include "block/disk.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_blk.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 1 * MiB };

static struct disk *disk;
static struct machine_backend backend;
static char path[] = "/tmp/virtio-blk-XXXXXX";

static int open_disk(void **state, const char *options)
{
    struct error err = {0};
    char text[200];
    int fd;

    memcpy(path + sizeof(path) - 7, "XXXXXX", 6);
    fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, SIZE) < 0 || test_machine_setup(state) < 0)
        return -1;
    close(fd);
    snprintf(text, sizeof(text), "file=%s,format=raw,%s", path, options);
    disk = disk_open(text, &err);
    if (!disk)
        fail_msg("%s", err.text);
    backend = (struct machine_backend){"drive", "d0", disk};
    ((struct machine *)*state)->config.backends = &backend;
    ((struct machine *)*state)->config.backend_count = 1;
    return 0;
}

static int setup(void **state)
{
    return open_disk(state, "cache=writeback");
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    disk_close(disk);
    unlink(path);
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via, const char *properties)
{
    struct error err = {0};
    char text[200];

    snprintf(text, sizeof(text), "drive=d0,serial=hospes-1,%s", properties ? properties : "");
    if (!driver_add_device(d, *state, via, "virtio-blk", text, &err))
        fail_msg("%s", err.text);
}

/* One request with `size` bytes of data at `at`; the status. */
static int request_on(struct driver *d, unsigned queue, uint32_t type, uint64_t sector, gpa at,
                      uint32_t size)
{
    struct virtio_blk_outhdr head = {.type = type, .sector = sector};
    gpa h = driver_alloc(d, sizeof(head)), s = driver_alloc(d, 1);
    bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    struct driver_buffer b[4] = {{h, sizeof(head), false},
                                 {at, size / 2, in},
                                 {at + size / 2, size - size / 2, in},
                                 {s, 1, true}};
    uint8_t status = 0xee;

    driver_put(d, h, &head, sizeof(head));
    driver_put(d, s, &status, 1);
    if (!size)
        b[1] = b[3];
    driver_do(d, queue, b, size ? 4 : 2);
    driver_get(d, s, &status, 1);
    return status;
}

static int request(struct driver *d, uint32_t type, uint64_t sector, gpa at, uint32_t size)
{
    return request_on(d, 0, type, sector, at, size);
}

static void data_comes_back(void **state)
{
    uint8_t out[8192], in[8192];

    for (enum driver_via via = 0; via < VIA_COUNT; via++)
        for (unsigned packed = 0; packed < (via == VIA_MODERN || via == VIA_MMIO ? 2 : 1);
             packed++) {
            struct driver d;
            gpa at;

            assert_int_equal(teardown(state), 0);
            assert_int_equal(setup(state), 0);
            add(&d, state, via, packed ? "packed=on" : NULL);
            driver_start(&d, ~UINT64_C(0));
            assert_int_equal(driver_config(&d, 0, 4), SIZE / 512);
            assert_int_equal(driver_config(&d, 20, 4), 512);
            at = driver_alloc(&d, sizeof(out));
            for (unsigned n = 0; n < 4; n++) {
                for (unsigned i = 0; i < sizeof(out); i++)
                    out[i] = (uint8_t)(i * 7 + i / 256 + n);
                driver_put(&d, at, out, sizeof(out));
                assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 16 * n + 1, at, sizeof(out)), 0);
                assert_int_equal(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), 0);
                test_save_reset_restore(d.m);
                memset(d.m->ram->host + at, 0, sizeof(out));
                assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 16 * n + 1, at, sizeof(in)), 0);
                driver_get(&d, at, in, sizeof(in));
                assert_memory_equal(in, out, sizeof(in));
            }
        }
}

static void many_at_once_on_several_queues(void **state)
{
    struct driver d;
    gpa at[32], status[32], head[32];
    struct disk_stats stats;
    unsigned back = 0;

    add(&d, state, VIA_MODERN, "num-queues=4");
    driver_start(&d, ~UINT64_C(0));
    assert_int_equal(driver_config(&d, 34, 2), 4);
    for (unsigned i = 0; i < 32; i++) {
        struct virtio_blk_outhdr h = {.type = VIRTIO_BLK_T_OUT, .sector = 8 * i};

        at[i] = driver_alloc(&d, 4096);
        status[i] = driver_alloc(&d, 1);
        head[i] = driver_alloc(&d, sizeof(h));
        memset(d.m->ram->host + at[i], 'a' + i, 4096);
        driver_put(&d, head[i], &h, sizeof(h));
        driver_put(&d, status[i], &(uint8_t){0xee}, 1);
        driver_add(&d, i % 4,
                   (struct driver_buffer[]){
                       {head[i], sizeof(h), false}, {at[i], 4096, false}, {status[i], 1, true}},
                   3);
    }
    for (unsigned q = 0; q < 4; q++)
        driver_kick(&d, q);
    for (unsigned q = 0; q < 4; q++)
        while (driver_used(&d, q, NULL) >= 0)
            back++;
    assert_int_equal(back, 32);
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(d.m->ram->host[status[i]], 0);
        memset(d.m->ram->host + at[0], 0, 4096);
        assert_int_equal(request_on(&d, i % 4, VIRTIO_BLK_T_IN, 8 * i, at[0], 4096), 0);
        assert_int_equal(d.m->ram->host[at[0]], 'a' + i);
        assert_int_equal(d.m->ram->host[at[0] + 4095], 'a' + i);
    }
    disk_get_stats(disk, &stats);
    assert_int_equal(stats.writes, 32);
}

static void the_serial_number_is_told(void **state)
{
    struct driver d;
    char id[21] = "";
    gpa at;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    at = driver_alloc(&d, 20);
    assert_int_equal(request(&d, VIRTIO_BLK_T_GET_ID, 0, at, 20), 0);
    driver_get(&d, at, id, 20);
    assert_string_equal(id, "hospes-1");
}

static void ranges_are_discarded_and_zeroed(void **state)
{
    struct driver d;
    struct virtio_blk_discard_write_zeroes range = {.sector = 8, .num_sectors = 8};
    gpa at, r;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    at = driver_alloc(&d, 4096);
    r = driver_alloc(&d, sizeof(range));
    for (unsigned i = 0; i < 2; i++) {
        uint32_t type = i ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;

        memset(d.m->ram->host + at, 0x77, 4096);
        assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 8, at, 4096), 0);
        range.flags = 0;
        driver_put(&d, r, &range, sizeof(range));
        assert_int_equal(request(&d, type, 0, r, sizeof(range)), 0);
        assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 8, at, 4096), 0);
        if (!i)
            assert_int_equal(d.m->ram->host[at + 100], 0);
        range.flags = 2; /* unknown */
        driver_put(&d, r, &range, sizeof(range));
        assert_int_equal(request(&d, type, 0, r, sizeof(range)), VIRTIO_BLK_S_UNSUPP);
        range.flags = 0;
        assert_int_equal(request(&d, type, 0, r, sizeof(range) - 1), VIRTIO_BLK_S_UNSUPP);
        driver_put(&d, r, &(struct virtio_blk_discard_write_zeroes){SIZE / 512 - 1, 2, 0},
                   sizeof(range));
        assert_int_equal(request(&d, type, 0, r, sizeof(range)), VIRTIO_BLK_S_IOERR);
    }
}

static void nonsense_is_refused(void **state)
{
    struct driver d;
    gpa at;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    at = driver_alloc(&d, 4096);
    assert_int_equal(request(&d, VIRTIO_BLK_T_IN, SIZE / 512, at, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, SIZE / 512 - 1, at, 1024), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&d, VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 2, at, 512),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, at, 100), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&d, 77, 0, at, 512), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, at, 512), VIRTIO_BLK_S_OK);
    driver_add(&d, 0, &(struct driver_buffer){at, 15, false}, 1); /* a header too short */
    driver_kick(&d, 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    assert_int_equal(driver_status(&d), 0x4f);
}

static void the_cache_can_be_switched(void **state)
{
    struct driver d;
    gpa at;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, BIT(VIRTIO_BLK_F_FLUSH)); /* CONFIG_WCE was not taken */
    driver_set_config(&d, 32, 0, 1);
    assert_int_equal(driver_config(&d, 32, 1), 1);
    driver_start(&d, ~UINT64_C(0));
    driver_set_config(&d, 32, 0, 1);
    assert_int_equal(driver_config(&d, 32, 1), 0);
    test_save_reset_restore(d.m);
    assert_int_equal(driver_config(&d, 32, 1), 0);
    at = driver_alloc(&d, 512);
    assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 0, at, 512), 0);
    driver_reset(&d);
    assert_int_equal(driver_config(&d, 32, 1), 1);
}

static void a_new_size_is_announced(void **state)
{
    struct driver d;

    add(&d, state, VIA_MMIO, NULL);
    driver_start(&d, ~UINT64_C(0));
    driver_isr(&d);
    assert_int_equal(disk_resize(disk, 2 * SIZE, NULL), 0);
    assert_int_equal(driver_isr(&d), 2);
    assert_int_equal(driver_config(&d, 0, 4), 2 * SIZE / 512);
}

static void read_only_disks_say_so(void **state)
{
    struct driver d;
    gpa at;

    assert_int_equal(teardown(state), 0);
    assert_int_equal(open_disk(state, "readonly=on"), 0);
    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, ~UINT64_C(0));
    assert_true(d.features >> VIRTIO_BLK_F_RO & 1);
    at = driver_alloc(&d, 512);
    assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 0, at, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, at, 512), VIRTIO_BLK_S_OK);
}

static void refuses_by_name(void **state)
{
    static const char *const bad[][2] = {
        {NULL, "virtio-blk-pci: which disk? Say drive=ID"},
        {"drive=none", "virtio-blk-pci: drive=none: there is no drive of this name"},
        {"drive=d0,queue-size=100",
         "virtio-blk-pci: queue-size=100 is not a power of two from 4 to 1024"},
        {"drive=d0,num-queues=17", "virtio-blk-pci: num-queues=17 is not from 1 to 16"},
        {"drive=d0,serial=123456789012345678901",
         "virtio-blk-pci: serial=123456789012345678901 has more than 20 characters"},
        {"drive=d0,logical_block_size=1000",
         "virtio-blk-pci: logical_block_size=1000 is not a power of two from 512 to 32768"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        struct driver d;

        assert_false(driver_add_device(&d, *state, VIA_MODERN, "virtio-blk", bad[i][0], &err));
        assert_string_equal(err.text, bad[i][1]);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(data_comes_back),           TEST(many_at_once_on_several_queues),
        TEST(the_serial_number_is_told), TEST(ranges_are_discarded_and_zeroed),
        TEST(nonsense_is_refused),       TEST(the_cache_can_be_switched),
        TEST(a_new_size_is_announced),   TEST(read_only_disks_say_so),
        TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-blk", tests, NULL, NULL);
}
