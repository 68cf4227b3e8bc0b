/*
 * fuzz_fw_cfg.c - a guest that does anything to the firmware configuration device. The input is a
 * list of actions of 20 bytes: what, a key or control word, length, address.
 *
 * Read-only items stay as they are.
 */
#include "fuzz.h"

#include "base/log.h"
#include "devices/misc/fw_cfg.h"
#include "unit/boot/bare_machine.h"

#include <stdlib.h>

enum { ACTION = 20, MEMORY = 1 * MiB, BLOCK = 0x800 };
enum { SELECT, READ_BYTE, DMA_PORT, DMA_BLOCK, DMA_RAW, ANY_PORT, ACTIONS };

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    uint8_t *a = out;

    if (n > 3)
        return 0;
    memset(out, 0, FUZZ_INPUT_MAX);
    for (unsigned i = 0; i < 24; i++, a += ACTION) {
        a[0] = (uint8_t)((i + n) % ACTIONS);
        store_le(a + 4, (uint32_t)(i % 5 == 0 ? 8 | 2 : 2 << (i % 4)) | (0x1fu + i % 6) << 16, 4);
        store_le(a + 8, i * 100, 4);
        store_le(a + 12, 0x20000 + i * 0x1000, 8);
    }
    return (size_t)(a - out);
}

static void written(void *opaque, const uint8_t *data, size_t size)
{
    (void)opaque;
    if (size != 8 || !data)
        abort();
}

static void read_pattern(void *opaque, uint32_t offset, uint8_t *data, size_t size)
{
    (void)opaque;
    if (!range_within(offset, size, 5000))
        abort();
    memset(data, 0x77, size);
}

static void run_block(struct machine *m, const uint8_t *a, gpa at)
{
    uint8_t block[16];

    for (unsigned i = 0; i < 4; i++) {
        block[i] = a[7 - i];
        block[4 + i] = a[11 - i];
    }
    for (unsigned i = 0; i < 8; i++)
        block[8 + i] = a[19 - i];
    if (dma_write(m->memory, at, block, sizeof(block)) < 0)
        abort();
    machine_out(m, 0x514, 0, 4);
    machine_out(m, 0x518, __builtin_bswap32((uint32_t)at), 4);
}

static void run(struct machine *m, const uint8_t *a)
{
    switch (a[0] % ACTIONS) {
    case SELECT: machine_out(m, 0x510, load_le(a + 6, 2), 2); break;
    case READ_BYTE: machine_in(m, 0x511, 1); break;
    case DMA_PORT: machine_out(m, (uint16_t)(0x514 + (a[1] & 4)), load_le(a + 4, 4), 4); break;
    case DMA_BLOCK: run_block(m, a, BLOCK); break;
    case DMA_RAW: machine_out(m, 0x514, load_le(a + 12, 8), 8); break;
    default:
        if (a[1] & 1)
            machine_out(m, (uint16_t)(0x50e + a[2] % 16), load_le(a + 4, 8), 1u << (a[3] & 3));
        else
            machine_in(m, (uint16_t)(0x50e + a[2] % 16), 1u << (a[3] & 3));
    }
}

static void check_read_only(struct machine *m)
{
    machine_out(m, 0x510, FW_CFG_UUID, 2);
    for (unsigned i = 0; i < 16; i++)
        if (machine_in(m, 0x511, 1) != i + 1)
            abort();
    if (machine_in(m, 0x511, 1) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    static struct machine *m;
    struct device *dev;

    log_set_level(LOG_ERROR);
    if (!m)
        m = bare_machine(MEMORY, "qemu64");
    if (!m)
        abort();
    dev = device_add(m, &fw_cfg_type, NULL, NULL);
    if (!dev)
        abort();
    fw_cfg_add_item(dev, FW_CFG_UUID, uuid, sizeof(uuid));
    fw_cfg_add_reader(dev, FW_CFG_KERNEL_DATA, 5000, read_pattern, NULL);
    if (fw_cfg_add_file(dev, "etc/a", uuid, sizeof(uuid), NULL) < 0 ||
        fw_cfg_add_file(dev, "etc/empty", "", 0, NULL) < 0 ||
        fw_cfg_add_writable(dev, "etc/w", uuid, 8, written, NULL, NULL) < 0)
        abort();
    for (size_t at = 0; at + ACTION <= MIN(size, (size_t)64 * ACTION); at += ACTION)
        run(m, data + at);
    check_read_only(m);
    device_free(dev);
    return 0;
}
