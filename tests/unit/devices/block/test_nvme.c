/* test_nvme.c - NVMe at its registers and queues. */
#include "support/unit.h"

#include "devices/block/nvme.h"
#include "devices/pci/pci.h"
#include "memory/ram.h"
#include "state/state.h"
#include "support/test_machine.h"
#include "test_file.h"

#include <stdlib.h>

enum {
    BASE = 0xe0000000,
    SECTORS = 4096,
    ASQ = 0x10000,
    ACQ = 0x11000,
    SQ = 0x12000,
    CQ = 0x13000,
    LIST = 0x14000,
    DATA = 0x100000,
    DEPTH = 4
};
enum { CC = 0x14, CSTS = 0x1c };

static struct test_file disk;
static uint16_t sq_tail[2], cq_head[2], next_id;
static bool phase[2];

static uint8_t *ram(struct machine *m, gpa at)
{
    return m->ram->host + at;
}

static void bell(struct machine *m, unsigned index, uint32_t value)
{
    mmio_write(m, BASE + 0x1000 + 4 * index, value, 4);
}

/* Put a command into queue `q`; its identifier. */
static uint16_t put(struct machine *m, unsigned q, uint8_t code, uint32_t space, uint64_t prp1,
                    uint64_t prp2, const uint32_t dwords[6])
{
    uint8_t *c = ram(m, (q ? SQ : ASQ) + 64 * sq_tail[q]);

    memset(c, 0, 64);
    c[0] = code;
    store_le(c + 2, ++next_id, 2);
    store_le(c + 4, space, 4);
    store_le(c + 24, prp1, 8);
    store_le(c + 32, prp2, 8);
    for (unsigned i = 0; dwords && i < 6; i++)
        store_le(c + 40 + 4 * i, dwords[i], 4);
    sq_tail[q] = (sq_tail[q] + 1) % DEPTH;
    return next_id;
}

/* The next completion of queue `q`: its status, -1: there is none; *result its first word. */
static int take(struct machine *m, unsigned q, uint32_t *result, uint16_t *id)
{
    const uint8_t *c = ram(m, (q ? CQ : ACQ) + 16 * cq_head[q]);

    disk_drain(disk.disk);
    if ((load_le(c + 14, 2) & 1) != phase[q])
        return -1;
    if (result)
        *result = (uint32_t)load_le(c, 4);
    if (id)
        *id = (uint16_t)load_le(c + 12, 2);
    cq_head[q] = (cq_head[q] + 1) % DEPTH;
    if (!cq_head[q])
        phase[q] = !phase[q];
    bell(m, 2 * q + 1, cq_head[q]);
    return (int)(load_le(c + 14, 2) >> 1 & 0x7ff);
}

static int run(struct machine *m, unsigned q, uint8_t code, uint32_t space, uint64_t prp1,
               uint64_t prp2, const uint32_t dwords[6], uint32_t *result)
{
    uint16_t id = put(m, q, code, space, prp1, prp2, dwords), got = 0;
    int status;

    bell(m, 2 * q, sq_tail[q]);
    status = take(m, q, result, &got);
    if (status >= 0)
        assert_int_equal(got, id);
    return status;
}

#define WORDS(...) ((const uint32_t[6]){__VA_ARGS__})

static void enable(struct machine *m)
{
    memset(sq_tail, 0, sizeof(sq_tail));
    memset(cq_head, 0, sizeof(cq_head));
    phase[0] = phase[1] = true;
    memset(ram(m, ASQ), 0, 0x4000);
    mmio_write(m, BASE + 0x24, (DEPTH - 1) << 16 | (DEPTH - 1), 4);
    mmio_write(m, BASE + 0x28, ASQ, 8);
    mmio_write(m, BASE + 0x30, ACQ, 4);
    mmio_write(m, BASE + CC, 0x00460001, 4);
}

static void make_queues(struct machine *m)
{
    assert_int_equal(run(m, 0, 5, 0, CQ, 0, WORDS((DEPTH - 1) << 16 | 1, 3), NULL), 0);
    assert_int_equal(run(m, 0, 1, 0, SQ, 0, WORDS((DEPTH - 1) << 16 | 1, 1 << 16 | 1), NULL), 0);
}

static int setup(void **state)
{
    static struct machine_backend backend;
    struct machine *m;
    struct pci_host *h;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    test_file_open(&disk, SECTORS, "");
    backend = (struct machine_backend){"drive", "d", disk.disk};
    m->config.backends = &backend;
    m->config.backend_count = 1;
    if (!pci_host_add(m, "pci.0", NULL) ||
        test_add(m, &nvme_type, "addr=3,drive=d,serial=S77", NULL))
        return -1;
    h = pci_bus_find(m, NULL)->host;
    pci_host_wire(h, 3, 0, 0);
    pci_host_route_gsi(h, 0, 16);
    pci_config_write(h, 0, 3 << 3, PCI_BAR0, BASE, 4);
    pci_config_write(h, 0, 3 << 3, PCI_COMMAND, 6, 2);
    return 0;
}

static int teardown(void **state)
{
    int r = test_machine_teardown(state);

    test_file_close(&disk);
    return r;
}

static void assert_sectors(const uint8_t *data, uint64_t n, unsigned count)
{
    uint8_t want[512];

    for (unsigned i = 0; i < count; i++) {
        test_file_sector(n + i, want);
        assert_memory_equal(data + 512 * i, want, 512);
    }
}

static void starts_and_tells_of_itself(void **state)
{
    struct machine *m = *state;
    uint32_t result;

    assert_int_equal(mmio_read(m, BASE, 8), 0x000000200f0107ff);
    assert_int_equal(mmio_read(m, BASE + 8, 4), 0x00010400);
    assert_int_equal(mmio_read(m, BASE + CSTS, 4), 0);
    enable(m);
    assert_int_equal(mmio_read(m, BASE + CSTS, 4), 1);
    assert_int_equal(run(m, 0, 6, 0, DATA, 0, WORDS(1), NULL), 0);
    assert_memory_equal(ram(m, DATA + 4), "S77   ", 6);
    assert_int_equal(load_le(ram(m, DATA + 516), 4), 1);
    assert_int_equal(run(m, 0, 6, 1, DATA, 0, WORDS(0), NULL), 0);
    assert_int_equal(load_le(ram(m, DATA), 8), SECTORS);
    assert_int_equal(ram(m, DATA)[130], 9);
    assert_int_equal(run(m, 0, 6, 7, DATA, 0, WORDS(0), NULL), 0x0b);
    assert_int_equal(run(m, 0, 6, 0, DATA, 0, WORDS(2), NULL), 0);
    assert_int_equal(load_le(ram(m, DATA), 8), 1);
    assert_int_equal(run(m, 0, 9, 0, 0, 0, WORDS(7, 7 << 16 | 7), &result), 0);
    assert_int_equal(result, 15 << 16 | 15);
    assert_int_equal(run(m, 0, 2, 0, DATA, 0, WORDS(2 | 127 << 16), NULL), 0);
    assert_int_equal(load_le(ram(m, DATA + 1), 2), 323);
    assert_int_equal(run(m, 0, 0x7f, 0, 0, 0, NULL, NULL), 1);
    assert_int_equal(run(m, 0, 12, 0, 0, 0, NULL, NULL), -1); /* waits for an event for ever */
    mmio_write(m, BASE + CC, 0x00464001, 4);                  /* shutdown */
    assert_int_equal(mmio_read(m, BASE + CSTS, 4) >> 2 & 3, 2);
    mmio_write(m, BASE + CC, 0, 4);
    assert_int_equal(mmio_read(m, BASE + CSTS, 4), 0);
    mmio_write(m, BASE + 0x28, 0x123, 4); /* a queue that is on no page */
    mmio_write(m, BASE + CC, 0x00460001, 4);
    assert_int_equal(mmio_read(m, BASE + CSTS, 4), 2);
}

static void moves_data(void **state)
{
    struct machine *m = *state;
    uint8_t now[512];

    enable(m);
    make_queues(m);
    /* one page, from its middle */
    assert_int_equal(run(m, 1, 2, 1, DATA + 1024, 0, WORDS(7, 0, 1), NULL), 0);
    assert_sectors(ram(m, DATA + 1024), 7, 2);
    assert_int_equal(cq_head[1], 1);
    /* two pages, not one behind the other */
    assert_int_equal(run(m, 1, 2, 1, DATA + 2048, DATA + 0x8000, WORDS(20, 0, 7), NULL), 0);
    assert_sectors(ram(m, DATA + 2048), 20, 4);
    assert_sectors(ram(m, DATA + 0x8000), 24, 4);
    /* a list, which goes on in another from its last entry */
    store_le(ram(m, LIST + 4096 - 16), DATA + 0x10000, 8);
    store_le(ram(m, LIST + 4096 - 8), LIST + 0x1000, 8);
    for (unsigned i = 0; i < 8; i++)
        store_le(ram(m, LIST + 0x1000 + 8 * i), DATA + 0x20000 + i * 0x2000, 8);
    assert_int_equal(run(m, 1, 2, 1, DATA, LIST + 4096 - 16, WORDS(100, 0, 31), NULL), 0);
    assert_sectors(ram(m, DATA), 100, 8);
    assert_sectors(ram(m, DATA + 0x10000), 108, 8);
    assert_sectors(ram(m, DATA + 0x20000), 116, 8);
    assert_sectors(ram(m, DATA + 0x22000), 124, 8);
    /* written, durable; then zeros; then given up */
    memset(ram(m, DATA), 0x9c, 4096);
    assert_int_equal(run(m, 1, 1, 1, DATA, 0, WORDS(300, 0, 7 | 1 << 30), NULL), 0);
    assert_int_equal(run(m, 1, 0, 1, 0, 0, NULL, NULL), 0);
    test_file_read(&disk, 307, now);
    assert_int_equal(now[511], 0x9c);
    assert_int_equal(run(m, 1, 8, 1, 0, 0, WORDS(300, 0, 0), NULL), 0);
    test_file_read(&disk, 300, now);
    assert_int_equal(now[0], 0);
    test_file_read(&disk, 301, now);
    assert_int_equal(now[0], 0x9c);
    memset(ram(m, DATA), 0, 32);
    store_le(ram(m, DATA + 4), 8, 4);
    store_le(ram(m, DATA + 8), 1024, 8);
    store_le(ram(m, DATA + 16 + 4), 8, 4);
    store_le(ram(m, DATA + 16 + 8), 2048, 8);
    assert_int_equal(run(m, 1, 9, 1, DATA, 0, WORDS(1, 4), NULL), 0);
    test_file_read(&disk, 2048, now);
    assert_int_equal(now[0] | now[100], 0);
    test_file_read(&disk, 2056, now);
    assert_sectors(now, 2056, 1);
}

static void refuses_by_name(void **state)
{
    struct machine *m = *state;

    enable(m);
    make_queues(m);
    assert_int_equal(run(m, 1, 2, 1, DATA, 0, WORDS(SECTORS, 0, 0), NULL), 0x80);
    assert_int_equal(run(m, 1, 2, 1, DATA, 0, WORDS(0xffffffff, 0xffffffff, 7), NULL), 0x80);
    assert_int_equal(run(m, 1, 2, 2, DATA, 0, WORDS(0), NULL), 0x0b);
    assert_int_equal(run(m, 1, 2, 1, 0xf0000000, 0, WORDS(0), NULL), 0x04);
    assert_int_equal(run(m, 1, 2, 1, DATA, 0, WORDS(0, 0, 2048), NULL), 0x02);
    assert_int_equal(run(m, 1, 0x55, 1, 0, 0, NULL, NULL), 0x01);
    assert_int_equal(run(m, 0, 5, 0, CQ, 0, WORDS((DEPTH - 1) << 16 | 1, 3), NULL), 0x101);
    assert_int_equal(run(m, 0, 1, 0, SQ, 0, WORDS((DEPTH - 1) << 16 | 2, 9 << 16 | 1), NULL),
                     0x100);
    assert_int_equal(run(m, 0, 4, 0, 0, 0, WORDS(1), NULL), 0x10c); /* it is in use */
    assert_int_equal(run(m, 0, 0, 0, 0, 0, WORDS(1), NULL), 0);
    assert_int_equal(run(m, 0, 4, 0, 0, 0, WORDS(1), NULL), 0);
    bell(m, 2, 1); /* of a queue that is gone */
    bell(m, 1000, 1);
    assert_int_equal(mmio_read(m, BASE + CSTS, 4), 1);
}

static void waits_for_room(void **state)
{
    struct machine *m = *state;
    uint16_t id;

    enable(m);
    make_queues(m);
    for (unsigned round = 0; round < 2; round++) { /* six, of which three fit */
        for (unsigned i = 0; i < 3; i++)
            put(m, 1, 0, 1, 0, 0, NULL);
        bell(m, 2, sq_tail[1]);
        disk_drain(disk.disk);
    }
    assert_true(test_irq(m, 16));
    mmio_write(m, BASE + 0x0c, 1, 4);
    assert_false(test_irq(m, 16));
    mmio_write(m, BASE + 0x10, 1, 4);
    assert_true(test_irq(m, 16));
    test_save_reset_restore(m);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(take(m, 1, NULL, &id), 0);
    assert_int_equal(take(m, 1, NULL, &id), -1);
    assert_false(test_irq(m, 16));
}

static void is_restored_in_the_middle(void **state)
{
    struct machine *m = *state;
    struct device *dev = test_device(m);
    struct state_buffer b = {0};

    enable(m);
    make_queues(m);
    put(m, 1, 2, 1, DATA, 0, WORDS(40, 0, 7));
    bell(m, 2, sq_tail[1]);
    state_save_device(&b, dev);
    device_reset(dev);
    disk_drain(disk.disk);
    memset(ram(m, DATA), 0, 4096);
    memset(ram(m, CQ), 0, 64);
    assert_int_equal(state_load_device(&b, dev, NULL), 0);
    state_buffer_free(&b);
    if (take(m, 1, NULL, NULL) == 0) /* else it had ended before it was saved */
        assert_sectors(ram(m, DATA), 40, 8);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(starts_and_tells_of_itself),
        TEST(moves_data),
        TEST(refuses_by_name),
        TEST(waits_for_room),
        TEST(is_restored_in_the_middle),
    };

    return cmocka_run_group_tests_name("nvme", tests, NULL, NULL);
}
