/* test_virtio_scsi.c - a disk, a CD drive and an empty one on a virtio-scsi adapter. */
#include "support/unit.h"

#include "driver.h"

#include "devices/devices.h"
#include "devices/scsi/scsi.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_scsi.h>
#include <stdio.h>
#include <unistd.h>

enum { SIZE = 1 * MiB, REQUEST = 51, RESPONSE = 108 };
enum { DISK, CD, EMPTY };

static struct disk *disks[2];
static struct machine_backend backends[2];
static char paths[2][40];

static int setup(void **state)
{
    struct error err = {0};
    struct machine *m;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    for (unsigned i = 0; i < 2; i++) {
        char text[160];
        int fd;

        strcpy(paths[i], "/tmp/virtio-scsi-XXXXXX");
        fd = mkstemp(paths[i]);
        if (fd < 0 || ftruncate(fd, SIZE) < 0 || pwrite(fd, "CD001", 5, 32769) != 5)
            return -1;
        close(fd);
        snprintf(text, sizeof(text), "file=%s,format=raw,readonly=%s", paths[i], i ? "on" : "off");
        disks[i] = disk_open(text, &err);
        if (!disks[i])
            fail_msg("%s", err.text);
        backends[i] = (struct machine_backend){"drive", i ? "cd" : "hd", disks[i]};
    }
    m->config.backends = backends;
    m->config.backend_count = 2;
    return 0;
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    for (unsigned i = 0; i < 2; i++) {
        disk_close(disks[i]);
        unlink(paths[i]);
    }
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via, uint64_t features)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, "virtio-scsi", NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(test_add(*state, &scsi_hd_type, "drive=hd,serial=S1", NULL), 0);
    assert_int_equal(test_add(*state, &scsi_cd_type, "drive=cd", NULL), 0);
    assert_int_equal(test_add(*state, &scsi_cd_type, "scsi-id=7,lun=300", NULL), 0);
    driver_start(d, features);
}

struct result {
    uint8_t response, status, key;
    uint16_t asc;
    uint32_t residual;
};

static void put_lun(uint8_t *to, unsigned unit)
{
    memcpy(to,
           unit == EMPTY ? "\1\7\x41\x2c\0\0\0\0"
           : unit == CD  ? "\1\1\x40\0\0\0\0\0"
                         : "\1\0\x40\0\0\0\0\0",
           8);
}

static struct result command_at(struct driver *d, const uint8_t *lun, const uint8_t *cdb,
                                unsigned length, gpa data, uint32_t size, bool in)
{
    uint8_t request[REQUEST] = {0}, response[RESPONSE] = {0};
    gpa q = driver_alloc(d, REQUEST), a = driver_alloc(d, RESPONSE);
    struct driver_buffer b[3] = {{q, REQUEST, false}};
    unsigned n = 1;

    memcpy(request, lun, 8);
    memcpy(request + 19, cdb, length);
    driver_put(d, q, request, REQUEST);
    if (size && !in)
        b[n++] = (struct driver_buffer){data, size, false};
    b[n++] = (struct driver_buffer){a, RESPONSE, true};
    if (size && in)
        b[n++] = (struct driver_buffer){data, size, true};
    driver_do(d, 2, b, n);
    driver_get(d, a, response, RESPONSE);
    return (struct result){
        .response = response[11],
        .status = response[10],
        .key = load_le(response, 4) ? response[14] : 0,
        .asc = (uint16_t)(load_le(response, 4) ? response[24] << 8 | response[25] : 0),
        .residual = (uint32_t)load_le(response + 4, 4)};
}

static struct result command(struct driver *d, unsigned unit, const uint8_t *cdb, unsigned length,
                             gpa data, uint32_t size, bool in)
{
    uint8_t lun[8];

    put_lun(lun, unit);
    return command_at(d, lun, cdb, length, data, size, in);
}

#define CDB(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static void expect(struct result r, uint8_t key, uint16_t asc)
{
    assert_int_equal(r.response, 0);
    assert_int_equal(r.status, key ? 2 : 0);
    assert_int_equal(r.key, key);
    assert_int_equal(r.asc, asc);
}

/* Everybody says first that there was a reset. */
static void awake(struct driver *d)
{
    for (unsigned u = DISK; u <= EMPTY; u++)
        expect(command(d, u, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 6, SCSI_POWER_ON);
}

static void units_are_found(void **state)
{
    struct driver d;
    uint8_t data[96];
    gpa at;

    for (enum driver_via via = 0; via < VIA_COUNT; via++) {
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, via, ~UINT64_C(0));
        at = driver_alloc(&d, 4096);
        assert_int_equal(driver_config(&d, 0, 4), 1);
        expect(command(&d, DISK, CDB(0x12, 0, 0, 0, 96, 0), at, 96, true), 0, 0);
        driver_get(&d, at, data, 96);
        assert_int_equal(data[0], 0);
        assert_memory_equal(data + 8, "HOSPES  HOSPES HARDDISK ", 24);
        expect(command(&d, CD, CDB(0x12, 0, 0, 0, 36, 0), at, 96, true), 0, 0);
        driver_get(&d, at, data, 36);
        assert_int_equal(data[0], 5);
        assert_int_equal(data[1], 0x80);
        awake(&d);
        expect(command(&d, DISK, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 0, 0);
        expect(command(&d, EMPTY, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 2, SCSI_NO_MEDIUM);
        /* an unknown target, an unknown unit of a target, another form of address */
        assert_int_equal(
            command_at(&d, (uint8_t *)"\1\5\x40\0\0\0\0\0", CDB(0, 0, 0, 0, 0, 0), 0, 0, false)
                .response,
            VIRTIO_SCSI_S_BAD_TARGET);
        expect(command_at(&d, (uint8_t *)"\1\0\x40\5\0\0\0\0", CDB(0, 0, 0, 0, 0, 0), 0, 0, false),
               5, SCSI_NO_SUCH_LUN);
        assert_int_equal(
            command_at(&d, (uint8_t *)"\2\0\x40\0\0\0\0\0", CDB(0, 0, 0, 0, 0, 0), 0, 0, false)
                .response,
            VIRTIO_SCSI_S_BAD_TARGET);
        /* REPORT LUNS at unit 0 of target 7, which is not there */
        expect(command_at(&d, (uint8_t *)"\1\7\x40\0\0\0\0\0",
                          CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0), at, 1024, true),
               0, 0);
        driver_get(&d, at, data, 16);
        assert_memory_equal(data, "\0\0\0\x08\0\0\0\0\x41\x2c\0\0\0\0\0\0", 16);
    }
}

static void blocks_come_back(void **state)
{
    struct driver d;
    uint8_t out[4096], in[4096];
    gpa at;

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    at = driver_alloc(&d, sizeof(out));
    struct {
        uint8_t write[16], read[16];
        unsigned size;
    } forms[] = {
        {{0x0a, 0, 0, 8, 8}, {0x08, 0, 0, 8, 8}, 6},
        {{0x2a, 0, 0, 0, 0, 16, 0, 0, 8}, {0x28, 0, 0, 0, 0, 16, 0, 0, 8}, 10},
        {{0x2a, 8, 0, 0, 0, 24, 0, 0, 8}, {0x28, 0, 0, 0, 0, 24, 0, 0, 8}, 10},
        {{0xaa, 0, 0, 0, 0, 32, 0, 0, 0, 8}, {0xa8, 0, 0, 0, 0, 32, 0, 0, 0, 8}, 12},
        {{0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 8},
         {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 8},
         16},
        {{0x2e, 0, 0, 0, 0, 48, 0, 0, 8}, {0x28, 0, 0, 0, 0, 48, 0, 0, 8}, 10},
    };
    for (unsigned n = 0; n < ARRAY_SIZE(forms); n++) {
        for (unsigned i = 0; i < sizeof(out); i++)
            out[i] = (uint8_t)(i * 5 + i / 256 + n);
        driver_put(&d, at, out, sizeof(out));
        expect(command(&d, DISK, forms[n].write, forms[n].size, at, sizeof(out), false), 0, 0);
        memset(d.m->ram->host + at, 0, sizeof(out));
        expect(command(&d, DISK, forms[n].read, forms[n].size, at, sizeof(in), true), 0, 0);
        driver_get(&d, at, in, sizeof(in));
        assert_memory_equal(in, out, sizeof(in));
        test_save_reset_restore(d.m);
    }
    expect(command(&d, DISK, CDB(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0, false), 0, 0);
    /* more than the buffer has room for */
    assert_int_equal(
        command(&d, DISK, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 9, 0), at, 4096, true).response,
        VIRTIO_SCSI_S_OVERRUN);
    /* less */
    assert_int_equal(
        command(&d, DISK, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), at, 4096, true).residual,
        4096 - 512);
    expect(command(&d, DISK, CDB(0x28, 0, 0, 0, 7, 0xff, 0, 0, 2, 0), at, 1024, true), 5,
           SCSI_LBA_RANGE);
    expect(command(&d, DISK, CDB(0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 2, 0, 0),
                   at, 1024, true),
           5, SCSI_LBA_RANGE);
    expect(command(&d, DISK, CDB(0xee, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, 0, false), 5,
           SCSI_INVALID_OPCODE);
}

static void capacity_and_pages(void **state)
{
    struct driver d;
    uint8_t data[64];
    gpa at;

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    at = driver_alloc(&d, 4096);
    expect(command(&d, DISK, CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), at, 8, true), 0, 0);
    driver_get(&d, at, data, 8);
    assert_int_equal(scsi_be(data, 4), SIZE / 512 - 1);
    assert_int_equal(scsi_be(data + 4, 4), 512);
    expect(
        command(&d, DISK, CDB(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), at, 32, true),
        0, 0);
    driver_get(&d, at, data, 32);
    assert_int_equal(scsi_be(data, 8), SIZE / 512 - 1);
    assert_int_equal(data[14] & 0x80, 0x80);
    expect(command(&d, DISK, CDB(0x12, 1, 0x80, 0, 64, 0), at, 64, true), 0, 0);
    driver_get(&d, at, data, 6);
    assert_memory_equal(data, "\0\x80\0\2S1", 6);
    expect(command(&d, DISK, CDB(0x12, 1, 0xb0, 0, 64, 0), at, 64, true), 0, 0);
    expect(command(&d, DISK, CDB(0x12, 1, 0xcc, 0, 64, 0), at, 64, true), 5, SCSI_INVALID_FIELD);
    expect(command(&d, CD, CDB(0x12, 1, 0xb0, 0, 64, 0), at, 64, true), 5, SCSI_INVALID_FIELD);
    /* the write cache, and switching it off */
    expect(command(&d, DISK, CDB(0x1a, 8, 8, 0, 64, 0), at, 64, true), 0, 0);
    driver_get(&d, at, data, 24);
    assert_int_equal(data[0], 23);
    assert_int_equal(data[4], 8);
    assert_int_equal(data[6], 4);
    memset(data, 0, 4);
    data[6] = 0;
    driver_put(&d, at, data, 24);
    expect(command(&d, DISK, CDB(0x15, 0x10, 0, 0, 24, 0), at, 24, false), 0, 0);
    test_save_reset_restore(d.m);
    expect(command(&d, DISK, CDB(0x5a, 8, 8, 0, 0, 0, 0, 0, 64, 0), at, 64, true), 0, 0);
    driver_get(&d, at, data, 28);
    assert_int_equal(data[8], 8);
    assert_int_equal(data[10], 0);
    data[12] ^= 1; /* a bit that cannot be changed */
    driver_put(&d, at, data, 28);
    expect(command(&d, DISK, CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0), at, 28, false), 5,
           SCSI_INVALID_PARAMETER);
    expect(command(&d, DISK, CDB(0x1a, 8, 0x33, 0, 64, 0), at, 64, true), 5, SCSI_INVALID_FIELD);
}

static void ranges_are_given_up_and_filled(void **state)
{
    struct driver d;
    uint8_t list[24] = {0, 22, 0, 16}, data[512];
    gpa at;

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    at = driver_alloc(&d, 8192);
    scsi_put_be(list + 8, 8, 8);
    scsi_put_be(list + 16, 8, 4);
    driver_put(&d, at, list, 24);
    expect(command(&d, DISK, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), at, 24, false), 0, 0);
    scsi_put_be(list + 8, SIZE / 512, 8);
    driver_put(&d, at, list, 24);
    expect(command(&d, DISK, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0), at, 24, false), 5,
           SCSI_LBA_RANGE);
    expect(command(&d, DISK, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 23, 0), at, 24, false), 5,
           SCSI_INVALID_PARAMETER);
    for (unsigned i = 0; i < 512; i++)
        data[i] = (uint8_t)(i + 1);
    driver_put(&d, at, data, 512);
    expect(
        command(&d, DISK, CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0), at, 512, false),
        0, 0);
    for (unsigned block = 100; block < 357; block += 51) {
        memset(d.m->ram->host + at, 0, 512);
        expect(command(&d, DISK,
                       CDB(0x28, 0, 0, 0, (uint8_t)(block >> 8), (uint8_t)block, 0, 0, 1, 0), at,
                       512, true),
               0, 0);
        assert_int_equal(memcmp(d.m->ram->host + at, data, 512) == 0, block < 356);
    }
    memset(d.m->ram->host + at, 0, 512);
    expect(command(&d, DISK, CDB(0x41, 8, 0, 0, 0, 100, 0, 0, 10, 0), at, 512, false), 0, 0);
    expect(command(&d, DISK, CDB(0x28, 0, 0, 0, 0, 105, 0, 0, 1, 0), at, 512, true), 0, 0);
    assert_int_equal(d.m->ram->host[at + 7], 0);
    /* without data, more than is allowed, half a pattern */
    expect(command(&d, DISK, CDB(0x93, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0), 0, 0, false),
           0, 0);
    expect(
        command(&d, DISK, CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0), at, 512, false),
        5, SCSI_INVALID_FIELD);
    assert_int_equal(
        command(&d, DISK, CDB(0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0), at, 256, false).response,
        VIRTIO_SCSI_S_OVERRUN);
}

static void a_cd_is_read_and_ejected(void **state)
{
    struct driver d;
    uint8_t data[64];
    gpa at;

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    at = driver_alloc(&d, 4096);
    expect(command(&d, CD, CDB(0x28, 0, 0, 0, 0, 16, 0, 0, 1, 0), at, 2048, true), 0, 0);
    driver_get(&d, at, data, 6);
    assert_memory_equal(data + 1, "CD001", 5);
    expect(command(&d, CD, CDB(0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), at, 8, true), 0, 0);
    driver_get(&d, at, data, 8);
    assert_int_equal(scsi_be(data, 4), SIZE / 2048 - 1);
    assert_int_equal(scsi_be(data + 4, 4), 2048);
    expect(command(&d, CD, CDB(0x43, 2, 0, 0, 0, 0, 0, 0, 20, 0), at, 20, true), 0, 0);
    driver_get(&d, at, data, 20);
    assert_int_equal(data[1], 18);
    assert_memory_equal(data + 4, "\0\x14\1\0\0\0\2\0", 8); /* block 0 is at 00:02:00 */
    assert_int_equal(data[14], 0xaa);
    expect(command(&d, CD, CDB(0x46, 0, 0, 0, 0, 0, 0, 0, 64, 0), at, 64, true), 0, 0);
    expect(command(&d, CD, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), at, 2048, false), 5,
           SCSI_INVALID_OPCODE);
    /* locked, it stays; then it goes, and comes back as another */
    expect(command(&d, CD, CDB(0x1e, 0, 0, 0, 1, 0), 0, 0, false), 0, 0);
    expect(command(&d, CD, CDB(0x1b, 0, 0, 0, 2, 0), 0, 0, false), 5, SCSI_REMOVAL_PREVENTED);
    expect(command(&d, CD, CDB(0x1e, 0, 0, 0, 0, 0), 0, 0, false), 0, 0);
    expect(command(&d, CD, CDB(0x1b, 0, 0, 0, 2, 0), 0, 0, false), 0, 0);
    test_save_reset_restore(d.m);
    expect(command(&d, CD, CDB(0x28, 0, 0, 0, 0, 16, 0, 0, 1, 0), at, 2048, true), 2,
           SCSI_NO_MEDIUM);
    expect(command(&d, CD, CDB(0x1b, 0, 0, 0, 3, 0), 0, 0, false), 0, 0);
    expect(command(&d, CD, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 6, SCSI_MEDIUM_CHANGED);
    expect(command(&d, CD, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 0, 0);
}

static uint8_t manage(struct driver *d, uint32_t subtype, unsigned unit)
{
    uint8_t request[24] = {0}, response = 0xee;
    gpa q = driver_alloc(d, 24), a = driver_alloc(d, 1);

    store_le(request + 4, subtype, 4);
    put_lun(request + 8, unit);
    driver_put(d, q, request, 24);
    driver_do(d, 0, (struct driver_buffer[]){{q, 24, false}, {a, 1, true}}, 2);
    driver_get(d, a, &response, 1);
    return response;
}

static void tasks_are_managed(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    assert_int_equal(manage(&d, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, DISK), 0);
    expect(command(&d, DISK, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 6, SCSI_POWER_ON);
    expect(command(&d, CD, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 0, 0); /* not that one */
    assert_int_equal(manage(&d, VIRTIO_SCSI_T_TMF_ABORT_TASK, DISK), 0);
    assert_int_equal(manage(&d, VIRTIO_SCSI_T_TMF_QUERY_TASK, DISK), 0);
    assert_int_equal(manage(&d, VIRTIO_SCSI_T_TMF_CLEAR_ACA, DISK),
                     VIRTIO_SCSI_S_FUNCTION_REJECTED);
}

static void changes_are_told(void **state)
{
    struct driver d;
    uint8_t event[16];
    gpa at[3];

    add(&d, state, VIA_MODERN, ~UINT64_C(0));
    awake(&d);
    for (unsigned i = 0; i < 3; i++)
        at[i] = driver_alloc(&d, 16);
    driver_add(&d, 1, &(struct driver_buffer){at[0], 16, true}, 1);
    assert_int_equal(disk_resize(disks[0], 2 * SIZE, NULL), 0);
    assert_int_equal(driver_used(&d, 1, NULL), 0);
    driver_get(&d, at[0], event, 16);
    assert_int_equal(load_le(event, 4), VIRTIO_SCSI_T_PARAM_CHANGE);
    assert_int_equal(load_le(event + 12, 4), 0x092a);
    expect(command(&d, DISK, CDB(0, 0, 0, 0, 0, 0), 0, 0, false), 6, SCSI_CAPACITY_CHANGED);
    /* without a buffer the next one says that something was missed */
    assert_int_equal(test_add(d.m, &scsi_cd_type, "scsi-id=20", NULL), 0);
    driver_add(&d, 1, &(struct driver_buffer){at[1], 16, true}, 1);
    driver_kick(&d, 1);
    assert_int_equal(driver_used(&d, 1, NULL), 1);
    driver_get(&d, at[1], event, 16);
    assert_int_equal(load_le(event, 4), VIRTIO_SCSI_T_EVENTS_MISSED);
    driver_add(&d, 1, &(struct driver_buffer){at[2], 16, true}, 1);
    device_free(test_device(d.m));
    assert_int_equal(driver_used(&d, 1, NULL), 2);
    driver_get(&d, at[2], event, 16);
    assert_int_equal(load_le(event, 4), VIRTIO_SCSI_T_TRANSPORT_RESET);
    assert_int_equal(event[5], 20);
    assert_int_equal(load_le(event + 12, 4), VIRTIO_SCSI_EVT_RESET_REMOVED);
}

static void refuses_by_name(void **state)
{
    static const struct {
        const struct device_type *type;
        const char *properties, *text;
    } bad[] = {
        {&scsi_hd_type, NULL, "scsi-hd: which disk? Say drive=ID"},
        {&scsi_cd_type, "scsi-id=0", "scsi-cd: scsi-id=0,lun=0 is the place of another unit"},
        {&scsi_cd_type, "scsi-id=256", "scsi-cd: scsi-id=256 is not from 0 to 255"},
        {&scsi_cd_type, "lun=16384", "scsi-cd: lun=16384 is not from 0 to 16383"},
        {&scsi_cd_type, "bus=x",
         "scsi-cd: there is no SCSI adapter x for it; add one before it, as in --device "
         "virtio-scsi-pci"},
    };
    struct driver d;

    add(&d, state, VIA_MODERN, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};

        assert_int_not_equal(test_add(d.m, bad[i].type, bad[i].properties, &err), 0);
        assert_string_equal(err.text, bad[i].text);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(units_are_found),          TEST(blocks_come_back),
        TEST(capacity_and_pages),       TEST(ranges_are_given_up_and_filled),
        TEST(a_cd_is_read_and_ejected), TEST(tasks_are_managed),
        TEST(changes_are_told),         TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-scsi", tests, NULL, NULL);
}
