/*
 * firmware.c - the firmware a board starts with: SeaBIOS ("bios"), OVMF ("uefi"), or a file.
 *
 * It lies below 4 GiB, where a CPU begins, and its end once more below 1 MiB, until the firmware
 * copies itself into the RAM there. What it must know of the machine it asks fw_cfg for.
 */
#include "boards/common.h"

#include "devices/flash/rom.h"
#include "memory/ram.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRMWARE_MAX = 16 * MiB };

static int add_rom(struct machine *m, const char *name, const char *package, struct error *err)
{
    struct board *b = board_of(m);
    auto_free char *path = NULL;
    uint64_t size;
    int r = rom_find(name, package, &path, err);

    if (!r)
        r = rom_load(path, FIRMWARE_MAX, true, &b->rom, &size, err);
    if (r < 0)
        return r;
    if (size % (64 * KiB))
        return error_set(err, EINVAL,
                         "firmware '%s' has %llu bytes; an image is a multiple of 64 KiB", path,
                         (unsigned long long)size);
    return memory_add_ram(m->memory, "firmware", (UINT64_C(1) << 32) - size, size, PRIORITY_BOARD,
                          IN_ALL, b->rom, 0, false, &b->rom_region, err);
}

int board_add_firmware(struct machine *m, struct error *err)
{
    const char *name = m->config.firmware;

    if (!name)
        return 0;
    if (!strcmp(name, "bios"))
        return add_rom(m, "bios-256k.bin", "seabios", err);
    return add_rom(m, name, "seabios", err);
}

void board_free_firmware(struct machine *m)
{
    struct board *b = board_of(m);

    memory_remove(b->rom_region);
    machine_release_ram(m, b->rom);
}

int board_tell_firmware(struct machine *m, struct error *err)
{
    return 0;
}
