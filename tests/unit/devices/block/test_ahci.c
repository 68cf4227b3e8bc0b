/* test_ahci.c - AHCI at its registers: command list, queued commands, errors, resets, interrupts.
 */
#include "support/unit.h"

#include "devices/block/ata_bus.h"
#include "devices/pci/ich9.h"
#include "devices/pci/pci.h"
#include "memory/ram.h"
#include "state/state.h"
#include "support/test_machine.h"
#include "test_file.h"

#include <stdlib.h>

enum {
    HBA = 0xe0000000,
    LIST = 0x10000,
    FIS = 0x11000,
    TABLES = 0x12000,
    DATA = 0x100000,
    SECTORS = 4096,
    DEVFN = 31 << 3 | 2
};
enum {
    P_IS = 0x10,
    P_IE = 0x14,
    P_CMD = 0x18,
    P_TFD = 0x20,
    P_SIG = 0x24,
    P_SSTS = 0x28,
    P_SCTL = 0x2c,
    P_SACT = 0x34,
    P_CI = 0x38
};

static struct test_file disk, disc;

static gpa port(unsigned n, unsigned reg)
{
    return HBA + 0x100 + 0x80 * n + reg;
}

static uint32_t get(struct machine *m, unsigned n, unsigned reg)
{
    return (uint32_t)mmio_read(m, port(n, reg), 4);
}

static void set(struct machine *m, unsigned n, unsigned reg, uint32_t value)
{
    mmio_write(m, port(n, reg), value, 4);
}

static void start(struct machine *m, unsigned n)
{
    set(m, n, 0, LIST + n * 0x8000);
    set(m, n, 8, FIS + n * 0x8000);
    set(m, n, P_CMD, 0x16);
    set(m, n, P_IS, 0xffffffff);
    set(m, n, P_CMD, 0x17);
    set(m, n, P_IE, 0x7dc000ff);
}

static int setup(void **state)
{
    struct machine *m;
    struct machine_backend *b = calloc(2, sizeof(*b));
    struct pci_host *h;

    if (!b || test_machine_setup(state) < 0)
        return -1;
    m = *state;
    test_file_open(&disk, SECTORS, "");
    test_file_open(&disc, 64, ",readonly=on");
    b[0] = (struct machine_backend){"drive", "hd", disk.disk};
    b[1] = (struct machine_backend){"drive", "cd", disc.disk};
    m->config.backends = b;
    m->config.backend_count = 2;
    if (!pci_host_add(m, "pcie.0", NULL) || !pci_device_add(m, &ich9_lpc_type, "1f.0", NULL) ||
        !pci_device_add(m, &ahci_type, "1f.2", NULL) ||
        test_add(m, &ide_hd_type, "drive=hd,bus=ide.0", NULL) ||
        test_add(m, &ide_cd_type, "drive=cd,bus=ide.1", NULL))
        return -1;
    h = pci_bus_find(m, NULL)->host;
    pci_config_write(h, 0, DEVFN, PCI_BAR0 + 20, HBA, 4);
    pci_config_write(h, 0, DEVFN, PCI_COMMAND, 6, 2);
    mmio_write(m, HBA + 4, 2, 4);
    start(m, 0);
    start(m, 1);
    return 0;
}

static int teardown(void **state)
{
    struct machine *m = *state;
    void *backends = (void *)m->config.backends;
    int r = test_machine_teardown(state);

    test_file_close(&disk);
    test_file_close(&disc);
    free(backends);
    return r;
}

static void settle(void)
{
    disk_drain(disk.disk);
    disk_drain(disc.disk);
}

/* Put a command into a slot: its FIS, and memory of `parts` equal parts at DATA + slot MiB. */
static void prepare(struct machine *m, unsigned n, unsigned slot, const uint8_t fis[16],
                    uint32_t size, unsigned parts)
{
    uint8_t *header = m->ram->host + LIST + n * 0x8000 + 32 * slot;
    gpa at = TABLES + n * 0x8000 + slot * 0x200;
    uint8_t *table = m->ram->host + at;

    memset(header, 0, 32);
    memset(table, 0, 0x200);
    store_le(header, 5 | (fis[2] == 0x35 || fis[2] == 0x61 ? 1 << 6 : 0), 2);
    store_le(header + 2, parts, 2);
    store_le(header + 8, at, 8);
    memcpy(table, fis, 16);
    for (unsigned i = 0; i < parts; i++) {
        store_le(table + 0x80 + 16 * i, DATA + slot * MiB + i * (size / parts), 8);
        store_le(table + 0x80 + 16 * i + 12, size / parts - 1, 4);
    }
}

static void fis48(uint8_t fis[16], uint8_t command, uint64_t lba, uint16_t count)
{
    memset(fis, 0, 16);
    fis[0] = 0x27;
    fis[1] = 0x80;
    fis[2] = command;
    fis[7] = 0x40;
    for (unsigned i = 0; i < 3; i++) {
        fis[4 + i] = (uint8_t)(lba >> 8 * i);
        fis[8 + i] = (uint8_t)(lba >> (24 + 8 * i));
    }
    fis[12] = (uint8_t)count;
    fis[13] = (uint8_t)(count >> 8);
}

static void queued(uint8_t fis[16], bool write, unsigned tag, uint64_t lba, uint16_t count)
{
    fis48(fis, write ? 0x61 : 0x60, lba, 0);
    fis[3] = (uint8_t)count;
    fis[11] = (uint8_t)(count >> 8);
    fis[12] = (uint8_t)(tag << 3);
}

static void assert_sector(const uint8_t *data, uint64_t n)
{
    uint8_t want[512];

    test_file_sector(n, want);
    assert_memory_equal(data, want, 512);
}

static void says_what_is_there(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16], *data = m->ram->host + DATA + 3 * MiB;

    assert_int_equal(mmio_read(m, HBA, 4), 0xc1341f05);
    assert_int_equal(mmio_read(m, HBA + 0xc, 4), 0x3f);
    assert_int_equal(get(m, 0, P_SSTS), 0x133);
    assert_int_equal(get(m, 2, P_SSTS), 0);
    assert_int_equal(get(m, 0, P_SIG), 0x00000101);
    assert_int_equal(get(m, 1, P_SIG), 0xeb140101);
    assert_int_equal(get(m, 0, P_TFD), 0x0150);
    assert_int_equal(get(m, 2, P_TFD), 0x7f);
    fis48(fis, 0xec, 0, 0);
    prepare(m, 0, 3, fis, 512, 1);
    set(m, 0, P_CI, 8);
    assert_int_equal(get(m, 0, P_CI), 0);
    assert_int_equal(get(m, 0, P_IS), 2); /* by a PIO FIS alone */
    assert_int_equal(m->ram->host[FIS + 0x20], 0x5f);
    assert_int_equal(m->ram->host[FIS + 0x20 + 15], 0x50);
    assert_int_equal(load_le(m->ram->host + LIST + 3 * 32 + 4, 4), 512);
    assert_memory_equal(data + 54, "OHPSSEH", 7);
    assert_int_equal(load_le(data + 152, 2), 0x010e);
    assert_int_equal(mmio_read(m, HBA + 8, 4), 1);
    assert_true(test_irq(m, 16)); /* INTA of slot 31 */
    set(m, 0, P_IS, 2);
    mmio_write(m, HBA + 8, 1, 4);
    assert_false(test_irq(m, 16));
}

/* The restored controller asks the disk again for what it had not got. */
static void save_and_restore(struct machine *m)
{
    struct device *controller = &pci_device_at(pci_bus_find(m, NULL), 31, 2)->dev;
    struct state_buffer b = {0};

    state_save_device(&b, controller);
    device_reset(controller);
    settle();
    assert_int_equal(state_load_device(&b, controller, NULL), 0);
    state_buffer_free(&b);
}

static void moves_data(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16], now[512], *data = m->ram->host + DATA;

    fis48(fis, 0x25, 1000, 600); /* more than the drive's buffer holds */
    prepare(m, 0, 0, fis, 600 * 512, 3);
    set(m, 0, P_CI, 1);
    save_and_restore(m); /* with the disk at work */
    settle();
    assert_int_equal(get(m, 0, P_CI), 0);
    assert_int_equal(get(m, 0, P_IS), 1);
    assert_int_equal(get(m, 0, P_TFD), 0x50);
    for (unsigned i = 0; i < 600; i++)
        assert_sector(data + 512 * i, 1000 + i);
    memset(data + MiB, 0x77, 1024);
    fis48(fis, 0x35, 50, 2);
    prepare(m, 0, 1, fis, 1024, 2);
    fis48(fis, 0xea, 0, 0);
    prepare(m, 0, 2, fis, 512, 0);
    set(m, 0, P_CI, 6); /* one after the other */
    assert_int_equal(get(m, 0, P_CI) & 4, 4);
    settle();
    assert_int_equal(get(m, 0, P_CI), 0);
    test_file_read(&disk, 50, now);
    assert_memory_equal(now, data + MiB, 512);
    test_file_read(&disk, 51, now);
    assert_memory_equal(now, data + MiB, 512);
    test_file_read(&disk, 52, now);
    assert_sector(now, 52);
}

static void queues(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16], now[512];

    memset(m->ram->host + DATA + 5 * MiB, 0x3c, 512);
    queued(fis, true, 5, 4000, 1);
    prepare(m, 0, 5, fis, 512, 1);
    queued(fis, false, 7, 3, 8);
    prepare(m, 0, 7, fis, 4096, 2);
    set(m, 0, P_SACT, 0xa0);
    set(m, 0, P_CI, 0xa0);
    assert_int_equal(get(m, 0, P_CI), 0); /* accepted at once */
    settle();
    assert_int_equal(get(m, 0, P_SACT), 0);
    assert_int_equal(get(m, 0, P_IS), 8);
    assert_int_equal(m->ram->host[FIS + 0x58], 0xa1);
    test_file_read(&disk, 4000, now);
    assert_int_equal(now[0], 0x3c);
    assert_int_equal(now[511], 0x3c);
    for (unsigned i = 0; i < 8; i++)
        assert_sector(m->ram->host + DATA + 7 * MiB + 512 * i, 3 + i);
}

static void tells_which_queued_one_failed(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16], *log = m->ram->host + DATA, sum = 0;

    queued(fis, false, 9, SECTORS, 1);
    prepare(m, 0, 9, fis, 512, 1);
    set(m, 0, P_SACT, 1 << 9);
    set(m, 0, P_CI, 1 << 9);
    settle();
    assert_int_equal(get(m, 0, P_IS), 1 << 30 | 8);
    assert_int_equal(get(m, 0, P_TFD) & 1, 1);
    assert_int_equal(get(m, 0, P_SACT), 1 << 9);
    /* nothing goes on before START was cleared */
    fis48(fis, 0x2f, 0x10, 1);
    prepare(m, 0, 0, fis, 512, 1);
    set(m, 0, P_CI, 1);
    assert_int_equal(get(m, 0, P_CI), 1);
    set(m, 0, P_CMD, 0x16);
    assert_int_equal(get(m, 0, P_SACT) | get(m, 0, P_CI), 0);
    set(m, 0, P_CMD, 0x17);
    set(m, 0, P_CI, 1);
    assert_int_equal(get(m, 0, P_CI), 0);
    assert_int_equal(log[0], 9);
    assert_int_equal(log[2] & 1, 1);
    assert_int_equal(log[3], ATA_NOT_FOUND);
    assert_int_equal(load_le(log + 4, 2), SECTORS);
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + log[i]);
    assert_int_equal(sum, 0);
}

static void fails_by_itself(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16];

    fis48(fis, 0x25, SECTORS, 1);
    prepare(m, 0, 4, fis, 512, 1);
    set(m, 0, P_CI, 1 << 4);
    assert_int_equal(get(m, 0, P_TFD), 0x1051);
    assert_int_equal(get(m, 0, P_IS), 1 << 30 | 1);
    assert_int_equal(get(m, 0, P_CI), 1 << 4);
    assert_int_equal(get(m, 0, P_CMD) >> 8 & 31, 4);
    set(m, 0, P_CMD, 0x16);
    set(m, 0, P_CMD, 0x17);
    /* memory too small for the data; and a list that is no memory */
    fis48(fis, 0x25, 0, 2);
    prepare(m, 0, 4, fis, 512, 1);
    set(m, 0, P_CI, 1 << 4);
    settle();
    assert_int_equal(get(m, 0, P_TFD) & 1, 1);
    set(m, 0, P_CMD, 0x16);
    set(m, 0, 0, 0xf0000000);
    set(m, 0, P_IS, 0xffffffff);
    set(m, 0, P_CMD, 0x17);
    set(m, 0, P_CI, 1);
    assert_int_equal(get(m, 0, P_IS), 1 << 29);
}

static void resets(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16];

    fis48(fis, 0x25, 0, 8);
    prepare(m, 0, 0, fis, 4096, 1);
    set(m, 0, P_CI, 1); /* given up in the middle */
    set(m, 0, P_SCTL, 1);
    assert_int_equal(get(m, 0, P_SSTS), 0);
    set(m, 0, P_SCTL, 0);
    settle();
    assert_int_equal(get(m, 0, P_CI), 0);
    assert_int_equal(get(m, 0, P_SSTS), 0x133);
    assert_int_equal(get(m, 0, P_SIG), 0x00000101);
    assert_int_equal(get(m, 0, P_TFD), 0x0150);
    /* by two FIS with the control register */
    set(m, 1, P_IS, 0xffffffff);
    fis48(fis, 0, 0, 0);
    fis[1] = 0;
    fis[15] = ATA_SRST;
    prepare(m, 1, 0, fis, 0, 0);
    set(m, 1, P_CI, 1);
    assert_int_equal(get(m, 1, P_CI), 0);
    fis[15] = 0;
    prepare(m, 1, 0, fis, 0, 0);
    set(m, 1, P_CI, 1);
    assert_int_equal(get(m, 1, P_SIG), 0xeb140101);
    assert_int_equal(get(m, 1, P_TFD), 0x0100);
    mmio_write(m, HBA + 4, 1, 4);
    assert_int_equal(mmio_read(m, HBA + 4, 4), 0x80000000);
    assert_int_equal(get(m, 0, P_CMD), 6);
}

static void reads_a_disc(void **state)
{
    struct machine *m = *state;
    uint8_t fis[16], *table = m->ram->host + TABLES + 0x8000;

    fis48(fis, 0xa0, 0, 0);
    fis[3] = 1; /* DMA */
    prepare(m, 1, 0, fis, 4096, 1);
    table[0x40] = 0x28;
    table[0x45] = 1;
    table[0x48] = 2;
    set(m, 1, P_CI, 1);
    settle();
    assert_int_equal(get(m, 1, P_CI), 0);
    assert_int_equal(get(m, 1, P_TFD), 0x40);
    assert_int_equal(get(m, 1, P_IS), 1);
    for (unsigned i = 0; i < 8; i++)
        assert_sector(m->ram->host + DATA + 512 * i, 4 + i);
    table[0x48] = 99; /* beyond the end */
    set(m, 1, P_CI, 1);
    assert_int_equal(get(m, 1, P_TFD), 0x5441);
    assert_int_equal(get(m, 1, P_IS), 1 << 30 | 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(says_what_is_there),
        TEST(moves_data),
        TEST(queues),
        TEST(tells_which_queued_one_failed),
        TEST(fails_by_itself),
        TEST(resets),
        TEST(reads_a_disc),
    };

    return cmocka_run_group_tests_name("ahci", tests, NULL, NULL);
}
