/* test_fw_cfg.c - the firmware configuration device at its ports, and hostile DMA. */
#include "support/unit.h"

#include "devices/misc/fw_cfg.h"
#include "support/test_machine.h"

#include <errno.h>

enum { SELECTOR = 0x510, DATA = 0x511, DMA = 0x514, BLOCK = 0x1000, BUFFER = 0x2000 };
enum { ERROR = 1, READ = 2, SKIP = 4, SELECT = 8, WRITE = 16 };

static struct device *add(struct machine *m)
{
    assert_int_equal(test_add(m, &fw_cfg_type, NULL, NULL), 0);
    return test_device(m);
}

static uint32_t be32(uint32_t v)
{
    return __builtin_bswap32(v);
}

/* Run a control block; what it says afterwards. */
static uint32_t dma(struct machine *m, uint32_t control, uint32_t length, gpa address)
{
    uint32_t block[4] = {be32(control), be32(length), be32((uint32_t)(address >> 32)),
                         be32((uint32_t)address)};

    assert_int_equal(dma_write(m->memory, BLOCK, block, sizeof(block)), 0);
    out32(m, DMA, 0);
    out32(m, DMA + 4, be32(BLOCK));
    assert_int_equal(dma_read(m->memory, BLOCK, block, sizeof(block)), 0);
    return be32(block[0]);
}

static void bytes_at_the_data_port(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);

    fw_cfg_add_u32(dev, FW_CFG_RAM_SIZE, 0x11223344);
    assert_int_equal(in8(m, DATA), 'Q'); /* selected by reset */
    out16(m, SELECTOR, FW_CFG_SIGNATURE);
    assert_int_equal(in8(m, DATA), 'Q');
    assert_int_equal(in8(m, DATA), 'E');
    test_save_reset_restore(m);
    assert_int_equal(in8(m, DATA), 'M');
    assert_int_equal(in8(m, DATA), 'U');
    assert_int_equal(in8(m, DATA), 0); /* behind the end */
    out16(m, SELECTOR, FW_CFG_ID);
    assert_int_equal(in8(m, DATA), 3); /* with DMA */
    out16(m, SELECTOR, FW_CFG_RAM_SIZE);
    assert_int_equal(in8(m, DATA), 0x44);
    fw_cfg_add_u16(dev, FW_CFG_RAM_SIZE, 7); /* replaces */
    out16(m, SELECTOR, FW_CFG_RAM_SIZE);
    assert_int_equal(in8(m, DATA), 7);
    out16(m, SELECTOR, 0x5f); /* nobody's */
    assert_int_equal(in8(m, DATA), 0);
    assert_int_equal(in32(m, DMA), 0x554d4551); /* "QEMU" */
    assert_int_equal(in32(m, DMA + 4), 0x47464320);
}

static void directory_is_sorted(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);
    uint8_t dir[4 + 3 * 64];
    struct error err = {0};

    assert_int_equal(fw_cfg_add_file(dev, "etc/z", "zz", 2, NULL), 0);
    assert_int_equal(fw_cfg_add_file(dev, "bootorder", "a", 1, NULL), 0);
    assert_int_equal(fw_cfg_add_file(dev, "etc/e820", "12345", 5, NULL), 0);
    assert_int_equal(fw_cfg_add_file(dev, "etc/z", "", 0, &err), -EEXIST);
    assert_string_equal(err.text, "fw_cfg: there is a file 'etc/z' already");
    assert_int_equal(fw_cfg_add_file(dev,
                                     "0123456789012345678901234567890123456789012345678901234567",
                                     "", 0, &err),
                     -EINVAL);
    assert_int_equal(dma(m, SELECT | READ | FW_CFG_FILE_DIR << 16, sizeof(dir), BUFFER), 0);
    assert_int_equal(dma_read(m->memory, BUFFER, dir, sizeof(dir)), 0);
    assert_int_equal(dir[3], 3);
    assert_string_equal((char *)dir + 4 + 8, "bootorder");
    assert_string_equal((char *)dir + 4 + 64 + 8, "etc/e820");
    assert_int_equal(dir[4 + 64 + 3], 5);
    assert_int_equal(dir[4 + 64 + 5], 0x21);
    assert_string_equal((char *)dir + 4 + 128 + 8, "etc/z");
    out16(m, SELECTOR, 0x21);
    assert_int_equal(in8(m, DATA), '1');
    assert_int_equal(fw_cfg_set_file(dev, "etc/e820", "9", 1, NULL), 0);
    out16(m, SELECTOR, 0x21);
    assert_int_equal(in8(m, DATA), '9');
    assert_int_equal(in8(m, DATA), 0);
    assert_int_equal(fw_cfg_set_file(dev, "nofile", "9", 1, NULL), -ENOENT);
}

static void dma_reads_and_skips(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);
    uint64_t v = ~UINT64_C(0);

    fw_cfg_add_item(dev, FW_CFG_UUID, "0123456789abcdef", 16);
    assert_int_equal(dma_write(m->memory, BUFFER, &v, 8), 0);
    assert_int_equal(dma(m, SELECT | SKIP | FW_CFG_UUID << 16, 14, 0), 0);
    test_save_reset_restore(m);
    assert_int_equal(dma(m, READ, 4, BUFFER), 0); /* two bytes and two zeros */
    assert_int_equal(dma_read(m->memory, BUFFER, &v, 8), 0);
    assert_int_equal(v, 0xffffffff00006665);
    assert_int_equal(dma(m, SELECT | FW_CFG_UUID << 16, 0, 0), 0);
    assert_int_equal(in8(m, DATA), '0');
    /* The address in one 8-byte access is not possible at a port; high half first, kept apart. */
    out32(m, DMA, be32(1)); /* above 4 GiB: there is nothing */
    out32(m, DMA + 4, be32(BLOCK));
    assert_int_equal(in8(m, DATA), '1'); /* nothing happened */
}

static void dma_hostile(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);

    fw_cfg_add_item(dev, FW_CFG_UUID, "0123", 4);
    assert_int_equal(dma(m, SELECT | READ | FW_CFG_UUID << 16, 4, 16 * MiB - 2), ERROR);
    assert_int_equal(dma(m, SELECT | READ | FW_CFG_UUID << 16, UINT32_MAX, BUFFER), ERROR);
    assert_int_equal(dma(m, SELECT | READ | FW_CFG_UUID << 16, 16, UINT64_MAX - 3), ERROR);
    assert_int_equal(dma(m, SELECT | WRITE | FW_CFG_UUID << 16, 4, BUFFER), ERROR);
    assert_int_equal(dma(m, SELECT | READ | 0x3ff << 16, 8, BUFFER), 0); /* no item: zeros */
    for (unsigned i = 0; i < 5; i++) /* the offset must not wrap */
        assert_int_equal(dma(m, SKIP | (i ? 0 : SELECT | FW_CFG_UUID << 16), UINT32_MAX, 0), 0);
    assert_int_equal(in8(m, DATA), 0);
    out32(m, DMA, 0);
    out32(m, DMA + 4, be32(16 * MiB - 8)); /* a block that leaves RAM */
    out8(m, DMA + 4, 1);
    out8(m, SELECTOR, 1);
    assert_int_equal(in16(m, SELECTOR), 0xffff);
}

static uint8_t written[4];

static void on_written(void *opaque, const uint8_t *data, size_t size)
{
    *(unsigned *)opaque += 1;
    assert_int_equal(size, 4);
    memcpy(written, data, 4);
}

static void writable_file(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);
    unsigned calls = 0;
    uint16_t key = FW_CFG_FILE_FIRST;

    assert_int_equal(fw_cfg_add_writable(dev, "etc/w", "abcd", 4, on_written, &calls, NULL), 0);
    assert_int_equal(dma_write(m->memory, BUFFER, "XY", 2), 0);
    assert_int_equal(dma(m, SELECT | SKIP | (uint32_t)key << 16, 2, 0), 0);
    assert_int_equal(dma(m, WRITE, 2, BUFFER), 0);
    assert_int_equal(calls, 1);
    assert_memory_equal(written, "abXY", 4);
    assert_int_equal(dma(m, WRITE, 1, BUFFER), ERROR); /* at the end */
    assert_int_equal(dma(m, SELECT | WRITE | (uint32_t)key << 16, 5, BUFFER), ERROR);
    assert_int_equal(calls, 1);
}

static void read_some(void *opaque, uint32_t offset, uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)((offset + i) >> 8);
}

static void reader_is_asked_in_pieces(void **state)
{
    struct machine *m = *state;
    struct device *dev = add(m);
    uint8_t v[2];

    fw_cfg_add_reader(dev, FW_CFG_KERNEL_DATA, 10000, read_some, NULL);
    assert_int_equal(dma(m, SELECT | READ | FW_CFG_KERNEL_DATA << 16, 10001, BUFFER), 0);
    assert_int_equal(dma_read(m->memory, BUFFER + 9999, v, 2), 0);
    assert_int_equal(v[0], 9999 >> 8);
    assert_int_equal(v[1], 0);
    out16(m, SELECTOR, FW_CFG_KERNEL_DATA);
    for (unsigned i = 0; i < 256; i++)
        in8(m, DATA);
    assert_int_equal(in8(m, DATA), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_machine_setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bytes_at_the_data_port), TEST(directory_is_sorted),
        TEST(dma_reads_and_skips),    TEST(dma_hostile),
        TEST(writable_file),          TEST(reader_is_asked_in_pieces),
    };
    return cmocka_run_group_tests_name("fw_cfg", tests, NULL, NULL);
}
