/* test_ide.c - IDE at its ports: ATA by PIO and DMA, ATAPI, resets, restores. */
#include "support/unit.h"

#include "devices/block/ata_bus.h"
#include "devices/pci/pci.h"
#include "memory/ram.h"
#include "support/test_machine.h"
#include "test_file.h"

#include <stdlib.h>

enum {
    PORT = 0x1f0,
    SECOND = 0x170,
    CONTROL = 0x3f6,
    BM = 0xc000,
    IDE = 1 << 3 | 1,
    IRQ = 14,
    SECTORS = 2048,
    TABLE = 0x1000,
    MEMORY = 0x10000
};

static struct test_file disk, disc;

static int setup(void **state)
{
    struct machine *m;
    struct machine_backend *b = calloc(2, sizeof(*b));

    if (!b || test_machine_setup(state) < 0)
        return -1;
    m = *state;
    test_file_open(&disk, SECTORS, "");
    test_file_open(&disc, 64, ",readonly=on");
    b[0] = (struct machine_backend){"drive", "hd", disk.disk};
    b[1] = (struct machine_backend){"drive", "cd", disc.disk};
    m->config.backends = b;
    m->config.backend_count = 2;
    if (!pci_host_add(m, "pci.0", NULL) || !pci_device_add(m, &piix3_ide_type, "1.1", NULL) ||
        test_add(m, &ide_hd_type, "drive=hd,serial=S123,wwn=0x5000000000000001", NULL) ||
        test_add(m, &ide_cd_type, "drive=cd,bus=ide.1", NULL))
        return -1;
    pci_config_write(pci_bus_find(m, NULL)->host, 0, IDE, PCI_BAR0 + 16, BM, 4);
    pci_config_write(pci_bus_find(m, NULL)->host, 0, IDE, PCI_COMMAND, 5, 2);
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

static void command28(struct machine *m, uint32_t lba, uint8_t count, uint8_t command)
{
    out8(m, PORT + 6, (uint8_t)(0xe0 | lba >> 24));
    out8(m, PORT + 2, count);
    out8(m, PORT + 3, (uint8_t)lba);
    out8(m, PORT + 4, (uint8_t)(lba >> 8));
    out8(m, PORT + 5, (uint8_t)(lba >> 16));
    out8(m, PORT + 7, command);
    settle();
}

static void read_block(struct machine *m, uint16_t port, uint8_t *to, unsigned size)
{
    for (unsigned i = 0; i < size; i += 2)
        store_le(to + i, in16(m, port), 2);
}

static void assert_sector(const uint8_t *data, uint64_t n)
{
    uint8_t want[512];

    test_file_sector(n, want);
    assert_memory_equal(data, want, 512);
}

static void tells_what_it_is(void **state)
{
    struct machine *m = *state;
    uint8_t id[512], sum = 0;

    command28(m, 0, 0, 0xec);
    assert_int_equal(in8(m, CONTROL), 0x58);
    assert_true(test_irq(m, IRQ));
    assert_int_equal(in8(m, PORT + 7), 0x58);
    assert_false(test_irq(m, IRQ)); /* reading the status takes it back */
    test_save_reset_restore(m);
    read_block(m, PORT, id, 512);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    assert_memory_equal(id + 20, "1S32                ", 4);
    assert_memory_equal(id + 54, "OHPSSEH RADDSI K", 16);
    assert_int_equal(load_le(id + 120, 4), SECTORS);
    assert_int_equal(load_le(id + 200, 8), SECTORS);
    assert_int_equal(load_le(id + 216, 2), 0x5000);
    for (unsigned i = 0; i < 512; i++)
        sum = (uint8_t)(sum + id[i]);
    assert_int_equal(sum, 0);
    /* no drive 1 */
    out8(m, PORT + 6, 0xf0);
    assert_int_equal(in8(m, PORT + 7), 0);
}

static void reads_and_writes_by_the_processor(void **state)
{
    struct machine *m = *state;
    uint8_t data[1024], now[512];

    command28(m, 5, 2, 0x20);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(test_irq(m, IRQ)); /* one for each sector */
        assert_int_equal(in8(m, PORT + 7), 0x58);
        read_block(m, PORT, data, 512);
        assert_sector(data, 5 + i);
    }
    assert_int_equal(in8(m, PORT + 7), 0x50);
    assert_false(test_irq(m, IRQ));
    /* by cylinder, head, sector: 0/1/1 is sector 63 */
    out8(m, PORT + 6, 0xa1);
    out8(m, PORT + 2, 1);
    out8(m, PORT + 3, 1);
    out8(m, PORT + 4, 0);
    out8(m, PORT + 5, 0);
    out8(m, PORT + 7, 0x20);
    settle();
    read_block(m, PORT, data, 512);
    assert_sector(data, 63);
    /* READ MULTIPLE in blocks of two */
    command28(m, 0, 2, 0xc6);
    command28(m, 9, 2, 0xc4);
    assert_int_equal(in8(m, PORT + 7), 0x58);
    read_block(m, PORT, data, 1024);
    assert_sector(data, 9);
    assert_sector(data + 512, 10);
    assert_int_equal(in8(m, PORT + 7), 0x50);

    command28(m, 100, 2, 0x30);
    assert_false(test_irq(m, IRQ)); /* the first block is asked for silently */
    for (unsigned i = 0; i < 512; i += 4)
        out32(m, PORT, 0x01020304 + i);
    assert_true(test_irq(m, IRQ));
    assert_int_equal(in8(m, PORT + 7), 0x58);
    test_save_reset_restore(m);
    for (unsigned i = 0; i < 512; i += 2)
        out16(m, PORT, (uint16_t)(0x5500 + i / 2));
    settle();
    assert_true(test_irq(m, IRQ));
    assert_int_equal(in8(m, PORT + 7), 0x50);
    command28(m, 0, 0, 0xe7);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    test_file_read(&disk, 100, now);
    assert_int_equal(load_le(now + 4, 4), 0x01020308);
    test_file_read(&disk, 101, now);
    assert_int_equal(load_le(now + 510, 2), 0x55ff);
    test_file_read(&disk, 102, now);
    assert_sector(now, 102);
}

static void addresses_with_48_bits(void **state)
{
    struct machine *m = *state;
    uint8_t data[512];

    out8(m, PORT + 6, 0x40);
    out8(m, PORT + 2, 0); /* high halves first */
    out8(m, PORT + 2, 1);
    out8(m, PORT + 3, 0);
    out8(m, PORT + 3, (uint8_t)(SECTORS - 1));
    out8(m, PORT + 4, 0);
    out8(m, PORT + 4, (SECTORS - 1) >> 8);
    out8(m, PORT + 5, 0);
    out8(m, PORT + 5, 0);
    out8(m, PORT + 7, 0x24);
    settle();
    read_block(m, PORT, data, 512);
    assert_sector(data, SECTORS - 1);
    out8(m, PORT + 3, 1); /* now the high half is what was low */
    out8(m, PORT + 3, 0);
    out8(m, PORT + 7, 0x24);
    settle();
    assert_int_equal(in8(m, PORT + 7), 0x51);
    assert_int_equal(in8(m, PORT + 1), ATA_NOT_FOUND);
    out8(m, CONTROL, ATA_HOB);
    assert_int_equal(in8(m, PORT + 3), 1);
    out8(m, CONTROL, 0);
    assert_int_equal(in8(m, PORT + 3), 0);
    out8(m, PORT + 7, 0x27); /* READ NATIVE MAX ADDRESS EXT */
    assert_int_equal(in8(m, PORT + 3), (uint8_t)(SECTORS - 1));
    assert_int_equal(in8(m, PORT + 4), (SECTORS - 1) >> 8);
}

static void refuses_what_it_has_not(void **state)
{
    struct machine *m = *state;

    command28(m, SECTORS - 1, 2, 0x20);
    assert_int_equal(in8(m, PORT + 7), 0x51);
    assert_int_equal(in8(m, PORT + 1), ATA_NOT_FOUND);
    command28(m, 0, 1, 0xfe);
    assert_int_equal(in8(m, PORT + 7), 0x51);
    assert_int_equal(in8(m, PORT + 1), ATA_ABORT);
    command28(m, 0, 3, 0xc6); /* SET MULTIPLE to no power of two */
    assert_int_equal(in8(m, PORT + 1), ATA_ABORT);
    command28(m, 0, 1, 0xa1); /* IDENTIFY PACKET DEVICE of a disk */
    assert_int_equal(in8(m, PORT + 1), ATA_ABORT);
    /* SMART needs its key, and says that all is well */
    out8(m, PORT + 1, 0xda);
    command28(m, 0, 0, 0xb0);
    assert_int_equal(in8(m, PORT + 1), ATA_ABORT);
    out8(m, PORT + 1, 0xda);
    command28(m, 0xc24f00, 0, 0xb0);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    assert_int_equal(in8(m, PORT + 4), 0x4f);
    assert_int_equal(in8(m, PORT + 5), 0xc2);
}

static void table(struct machine *m, unsigned i, uint32_t address, uint16_t size, bool last)
{
    mmio_write(m, TABLE + 8 * i, address, 4);
    mmio_write(m, TABLE + 8 * i + 4, size | (last ? 1u << 31 : 0), 4);
}

static void moves_by_dma(void **state)
{
    struct machine *m = *state;
    uint8_t now[512];

    table(m, 0, MEMORY, 700, false); /* not a whole sector */
    table(m, 1, MEMORY + 0x2000, 4096 - 700, true);
    out32(m, BM + 4, TABLE);
    command28(m, 16, 8, 0xc8);
    assert_false(test_irq(m, IRQ)); /* the engine stands still */
    assert_int_equal(in8(m, CONTROL) & ATA_BSY, 0);
    out8(m, BM, 9);
    settle();
    assert_true(test_irq(m, IRQ));
    assert_int_equal(in8(m, BM + 2) & 7, 4);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    out8(m, BM + 2, 4);
    assert_int_equal(in8(m, BM + 2) & 7, 0);
    out8(m, BM, 0);
    assert_sector(m->ram->host + MEMORY, 16);
    memcpy(now, m->ram->host + MEMORY + 512, 188);
    memcpy(now + 188, m->ram->host + MEMORY + 0x2000, 512 - 188);
    assert_sector(now, 17);
    assert_sector(m->ram->host + MEMORY + 0x2000 + 324 + 5 * 512, 23);

    /* written where it is read, engine first */
    memset(m->ram->host + MEMORY, 0xa5, 512);
    table(m, 0, MEMORY, 512, true);
    out8(m, BM, 1);
    command28(m, 200, 1, 0xca);
    settle();
    out8(m, BM, 0);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    test_file_read(&disk, 200, now);
    assert_memory_equal(now, m->ram->host + MEMORY, 512);

    /* a table too short, and one that points nowhere */
    out8(m, BM, 9);
    command28(m, 0, 2, 0xc8);
    assert_int_equal(in8(m, PORT + 7), 0x51);
    out8(m, BM, 0);
    table(m, 0, 0xf0000000, 512, true);
    out8(m, BM, 9);
    command28(m, 0, 1, 0xc8);
    assert_int_equal(in8(m, BM + 2) & 3, 2);
    assert_int_equal(in8(m, PORT + 7), 0x51);
    out8(m, BM, 0);
}

static void trims(void **state)
{
    struct machine *m = *state;
    uint8_t now[512], zero[512] = {0};

    memset(m->ram->host + MEMORY, 0, 512);
    store_le(m->ram->host + MEMORY, 1024 | UINT64_C(8) << 48, 8);
    table(m, 0, MEMORY, 512, true);
    out32(m, BM + 4, TABLE);
    out8(m, BM, 1);
    out8(m, PORT + 1, 1);
    out8(m, PORT + 2, 0);
    command28(m, 0, 1, 0x06);
    settle();
    assert_int_equal(in8(m, PORT + 7), 0x50);
    test_file_read(&disk, 1024, now);
    assert_memory_equal(now, zero, 512);
    test_file_read(&disk, 1032, now);
    assert_sector(now, 1032);
    out8(m, BM, 0);
    store_le(m->ram->host + MEMORY, SECTORS | UINT64_C(8) << 48, 8);
    out8(m, BM, 1);
    out8(m, PORT + 1, 1);
    command28(m, 0, 1, 0x06);
    settle();
    assert_int_equal(in8(m, PORT + 7), 0x51);
}

static void resets_to_its_signature(void **state)
{
    struct machine *m = *state;

    command28(m, 1, 1, 0x20);
    out8(m, CONTROL, ATA_SRST);
    assert_int_equal(in8(m, CONTROL), ATA_BSY);
    assert_false(test_irq(m, IRQ));
    out8(m, CONTROL, 0);
    assert_int_equal(in8(m, PORT + 7), 0x50);
    assert_int_equal(in8(m, PORT + 1), 1);
    assert_int_equal(in8(m, PORT + 2), 1);
    assert_int_equal(in8(m, PORT + 4) | in8(m, PORT + 5), 0);
    out8(m, SECOND + 6, 0xa0);
    assert_int_equal(in8(m, SECOND + 4), 0x14);
    assert_int_equal(in8(m, SECOND + 5), 0xeb);
    /* no interrupt while nIEN is set; it is there afterwards */
    out8(m, CONTROL, ATA_NIEN);
    command28(m, 0, 0, 0xe7);
    assert_false(test_irq(m, IRQ));
    out8(m, CONTROL, 0);
    assert_true(test_irq(m, IRQ));
}

/* A packet command by PIO; the reply's size, or -1 for CHECK CONDITION. */
static int packet(struct machine *m, const uint8_t *cdb, size_t size, uint8_t *reply,
                  uint16_t limit)
{
    uint8_t bytes[12] = {0};
    int got = 0;

    memcpy(bytes, cdb, size);
    out8(m, SECOND + 6, 0xa0);
    out8(m, SECOND + 1, 0);
    out8(m, SECOND + 4, (uint8_t)limit);
    out8(m, SECOND + 5, (uint8_t)(limit >> 8));
    out8(m, SECOND + 7, 0xa0);
    assert_int_equal(in8(m, SECOND + 2) & 3, 1); /* wants the command */
    for (unsigned i = 0; i < 12; i += 2)
        out16(m, SECOND, (uint16_t)load_le(bytes + i, 2));
    for (;;) {
        uint8_t status;
        unsigned count;

        settle();
        status = in8(m, SECOND + 7);
        if (!(status & ATA_DRQ)) {
            assert_int_equal(in8(m, SECOND + 2) & 3, 3);
            return status & ATA_ERR ? -1 : got;
        }
        assert_int_equal(in8(m, SECOND + 2) & 3, 2);
        count = in8(m, SECOND + 4) | (unsigned)in8(m, SECOND + 5) << 8;
        assert_true(count && count <= limit);
        read_block(m, SECOND, reply + got, count);
        got += (int)count;
    }
}

#define PACKET(m, reply, ...)                                                                      \
    packet(m, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), reply, 2048)

static void assert_sense(struct machine *m, uint8_t key, uint16_t code)
{
    uint8_t sense[18];

    assert_int_equal(PACKET(m, sense, 3, 0, 0, 0, 18), 18);
    assert_int_equal(sense[2], key);
    assert_int_equal(sense[12] << 8 | sense[13], code);
}

static void reads_a_disc(void **state)
{
    struct machine *m = *state;
    uint8_t reply[16384];

    assert_int_equal(PACKET(m, reply, 0x12, 0, 0, 0, 36), 36);
    assert_int_equal(reply[0], 5);
    assert_memory_equal(reply + 8, "HOSPES", 6);
    assert_int_equal(PACKET(m, reply, 0x25), 8);
    assert_memory_equal(reply, ((uint8_t[]){0, 0, 0, 15, 0, 0, 8, 0}), 8);
    /* three sectors from 2, in blocks the guest said */
    assert_int_equal(PACKET(m, reply, 0x28, 0, 0, 0, 0, 2, 0, 0, 3), 6144);
    assert_sector(reply, 8);
    assert_sector(reply + 6144 - 512, 19);
    assert_int_equal(packet(m, (uint8_t[]){0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 1}, 10, reply, 600), 2048);
    assert_sector(reply, 4);
    assert_int_equal(PACKET(m, reply, 0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0x10), 2048);
    assert_sector(reply, 12);
    assert_int_equal(PACKET(m, reply, 0x28, 0, 0, 0, 0, 15, 0, 0, 2), -1);
    assert_sense(m, 5, 0x2100);
    assert_int_equal(PACKET(m, reply, 0x43, 2, 0, 0, 0, 0, 0, 0, 20), 20);
    assert_memory_equal(
        reply, ((uint8_t[]){0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 2, 16}),
        20);
    assert_int_equal(PACKET(m, reply, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 30), 30);
    assert_int_equal(reply[8], 0x2a);
    assert_int_equal(PACKET(m, reply, 0x46, 0, 0, 0, 0, 0, 0, 0, 8), 8);
    assert_int_equal(reply[7], 8); /* a CD */
    assert_int_equal(PACKET(m, reply, 0xff), -1);
    assert_sense(m, 5, 0x2000);
    assert_sense(m, 0, 0);
}

static void opens_and_closes_its_tray(void **state)
{
    struct machine *m = *state;
    uint8_t reply[64];

    assert_int_equal(PACKET(m, reply, 0x1e, 0, 0, 0, 1), 0); /* locked */
    assert_int_equal(PACKET(m, reply, 0x1b, 0, 0, 0, 2), -1);
    assert_sense(m, 5, 0x5302);
    assert_int_equal(PACKET(m, reply, 0x1e), 0);
    assert_int_equal(PACKET(m, reply, 0x1b, 0, 0, 0, 2), 0);
    assert_int_equal(PACKET(m, reply, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
    assert_int_equal(reply[4], 3); /* removal */
    assert_int_equal(reply[5], 1); /* open */
    test_save_reset_restore(m);
    assert_int_equal(PACKET(m, reply, 0x00), -1);
    assert_sense(m, 2, 0x3a02);
    assert_int_equal(PACKET(m, reply, 0x1b, 0, 0, 0, 3), 0);
    assert_int_equal(PACKET(m, reply, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
    assert_int_equal(reply[4], 2); /* new medium */
    assert_int_equal(reply[5], 2);
    assert_int_equal(PACKET(m, reply, 0x00), -1);
    assert_sense(m, 6, 0x2800);
    assert_int_equal(PACKET(m, reply, 0x00), 0);
}

static void reads_a_disc_by_dma(void **state)
{
    struct machine *m = *state;
    const uint8_t cdb[12] = {0x28, 0, 0, 0, 0, 4, 0, 0, 2};

    table(m, 0, MEMORY, 4096, true);
    out32(m, BM + 12, TABLE);
    out8(m, SECOND + 6, 0xa0);
    out8(m, SECOND + 1, 1);
    out8(m, SECOND + 7, 0xa0);
    for (unsigned i = 0; i < 12; i += 2)
        out16(m, SECOND, (uint16_t)load_le(cdb + i, 2));
    out8(m, BM + 8, 9);
    settle();
    assert_true(test_irq(m, 15));
    assert_int_equal(in8(m, SECOND + 7), 0x40);
    assert_int_equal(in8(m, BM + 10) & 7, 4);
    assert_sector(m->ram->host + MEMORY, 16);
    assert_sector(m->ram->host + MEMORY + 7 * 512, 23);
}

static void names_what_it_refuses(void **state)
{
    struct machine *m = *state;
    struct error err = {0};

    assert_true(test_add(m, &ide_hd_type, NULL, &err) < 0);
    assert_string_equal(err.text, "ide-hd: needs drive=ID");
    assert_true(test_add(m, &ide_hd_type, "drive=none", &err) < 0);
    assert_string_equal(err.text, "ide-hd: drive=none: there is no drive of this name");
    assert_true(test_add(m, &ide_hd_type, "drive=hd,bus=ide.0,unit=0", &err) < 0);
    assert_string_equal(err.text, "ide-hd: unit=0 is taken, or not on this bus");
    assert_true(test_add(m, &ide_hd_type, "drive=hd,bus=ide.7", &err) < 0);
    assert_string_equal(err.text, "ide-hd: this machine has no bus ide.7");
    assert_true(test_add(m, &ide_cd_type, "serial=123456789012345678901", &err) < 0);
    assert_string_equal(err.text,
                        "ide-cd: serial=123456789012345678901 has more than 20 characters");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tells_what_it_is),
        TEST(reads_and_writes_by_the_processor),
        TEST(addresses_with_48_bits),
        TEST(refuses_what_it_has_not),
        TEST(moves_by_dma),
        TEST(trims),
        TEST(resets_to_its_signature),
        TEST(reads_a_disc),
        TEST(opens_and_closes_its_tray),
        TEST(reads_a_disc_by_dma),
        TEST(names_what_it_refuses),
    };

    return cmocka_run_group_tests_name("ide", tests, NULL, NULL);
}
