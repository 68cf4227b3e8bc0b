/*
 * firmware.c - the firmware a board starts with: SeaBIOS ("bios"), OVMF ("uefi"), or a file; and
 * what it is told of the order in which to try devices.
 *
 * It lies below 4 GiB, where a CPU begins, and its end once more below 1 MiB, until the firmware
 * copies itself into the RAM there. What it must know of the machine it asks fw_cfg for. UEFI's
 * variables lie in a flash right below its code.
 */
#include "boards/common.h"

#include "base/log.h"
#include "devices/block/ata_bus.h"
#include "devices/flash/pflash.h"
#include "devices/flash/rom.h"
#include "devices/misc/fw_cfg.h"
#include "memory/ram.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIRMWARE_MAX = 16 * MiB };

/* Debian's names, and older ones. Not the variants for Secure Boot, which need SMM. */
static const char *const uefi_images[][2] = {{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"},
                                             {"OVMF_CODE.fd", "OVMF_VARS.fd"}};

static int add_rom(struct machine *m, const char *name, const char *package, uint64_t unit,
                   struct error *err)
{
    struct board *b = board_of(m);
    auto_free char *path = NULL;
    uint64_t size;
    int r = rom_find(name, package, &path, err);

    if (!r)
        r = rom_load(path, FIRMWARE_MAX, true, &b->rom, &size, err);
    if (r < 0)
        return r;
    b->uefi = !memcmp(b->rom->host + b->rom->size - size + 0x28, "_FVH", 4);
    if (size % unit)
        return error_set(err, EINVAL,
                         "firmware '%s' has %llu bytes; an image is a multiple of %llu KiB", path,
                         (unsigned long long)size, (unsigned long long)unit / 1024);
    return memory_add_ram(m->memory, "firmware", (UINT64_C(1) << 32) - size, size, PRIORITY_BOARD,
                          IN_ALL, b->rom, 0, false, &b->rom_region, err);
}

/* ---- UEFI's variables --------------------------------------------------------------------------
 */

/* $XDG_STATE_HOME/hospes/NAME/uefi-vars.fd, its folders made; NULL: there is no home. */
static char *vars_path(const struct machine *m)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    const char *name = m->config.name && *m->config.name ? m->config.name : "default";
    char *path, *clean = xstrdup(name);

    for (char *c = clean; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("-_. +", *c))
            *c = '_';
    if (clean[0] == '.')
        clean[0] = '_';
    if (state && state[0] == '/')
        path = xasprintf("%s/hospes/%s/uefi-vars.fd", state, clean);
    else
        path = home && home[0] == '/'
                   ? xasprintf("%s/.local/state/hospes/%s/uefi-vars.fd", home, clean)
                   : NULL;
    free(clean);
    for (char *slash = path ? strchr(path + 1, '/') : NULL; slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700); /* opening the file says what is wrong */
        *slash = '/';
    }
    return path;
}

static bool write_whole(int fd, const uint8_t *data, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, data + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (uint64_t)n;
    }
    return true;
}

/* Opened, locked, and filled from the template where it is new. -errno with *err. */
static int vars_open(const char *path, const struct ram_block *template, uint64_t size,
                     struct error *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    int r = 0;

    if (fd < 0)
        return error_set_errno(err, errno, "cannot open firmware variables '%s'", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = error_set(err, EBUSY,
                      "firmware variables '%s' are in use by another machine; give "
                      "this one its own by --name or --firmware-vars",
                      path);
    else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        r = error_set(err, EINVAL, "firmware variables '%s' are not a regular file", path);
    else if (!st.st_size && !write_whole(fd, template->host, size))
        r = error_set_errno(err, errno, "cannot write firmware variables '%s'", path);
    else if (st.st_size && (uint64_t)st.st_size != size)
        r = error_set(err, EINVAL,
                      "firmware variables '%s' have %lld bytes, but this firmware's "
                      "have %llu; give another file by --firmware-vars",
                      path, (long long)st.st_size, (unsigned long long)size);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

static int add_vars(struct machine *m, const char *template_name, struct error *err)
{
    struct board *b = board_of(m);
    auto_free char *template_path = NULL, *own = NULL;
    const char *path = m->config.firmware_vars;
    struct ram_block *template;
    struct error trouble = {0};
    uint64_t size;
    int fd = -1, r = rom_find(template_name, "ovmf", &template_path, err);

    if (!r)
        r = rom_load(template_path, PFLASH_MAX, false, &template, &size, err);
    if (r < 0)
        return r;
    if (!path)
        path = own = vars_path(m);
    if (path)
        fd = vars_open(path, template, size, &trouble);
    if (fd < 0 && (m->config.firmware_vars || m->config.name)) {
        r = error_set(err, trouble.code ? trouble.code : ENOENT, "%s",
                      trouble.code ? trouble.text
                                   : "there is no HOME for firmware variables; give "
                                     "a file by --firmware-vars");
    } else {
        if (fd < 0)
            log_warn("firmware variables will be lost: %s",
                     trouble.code ? trouble.text : "there is no HOME");
        if (!pflash_add(m, (UINT64_C(1) << 32) - b->rom->size - size, MAX(fd, -1),
                        path ? path : template_path, template->host, size, err))
            r = -err->code;
    }
    ram_block_free(template);
    return r;
}

static int add_uefi(struct machine *m, struct error *err)
{
    int r = -ENOENT;

    for (unsigned i = 0; i < ARRAY_SIZE(uefi_images) && r == -ENOENT; i++) {
        r = add_rom(m, uefi_images[i][0], "ovmf", 4 * KiB, err);
        if (!r)
            return add_vars(m, uefi_images[i][1], err);
    }
    return r;
}

int board_add_firmware(struct machine *m, struct error *err)
{
    const char *name = m->config.firmware;

    if (!name)
        return 0;
    if (!strcmp(name, "bios"))
        return add_rom(m, "bios-256k.bin", "seabios", 64 * KiB, err);
    if (!strcmp(name, "uefi"))
        return add_uefi(m, err);
    return add_rom(m, name, "seabios", 64 * KiB, err);
}

void board_free_firmware(struct machine *m)
{
    struct board *b = board_of(m);

    memory_remove(b->rom_region);
    machine_release_ram(m, b->rom);
}

/* ---- boot order --------------------------------------------------------------------------------
 *
 * Both firmwares read the file "bootorder": a line for each device, as Open Firmware would name it.
 * Order is by bootindex; devices without one come, when letters were given, by their letter's
 * place.
 */

enum { ORDER_MAX = 32, PATH_MAX_LENGTH = 160, NO_INDEX = 0xffffffff };

struct candidate {
    uint32_t index;
    char path[PATH_MAX_LENGTH];
};

/* "/pci@i0cf8/..." to the function, through bridges. */
static size_t pci_path(const struct pci_device *p, const char *name, char *out, size_t size)
{
    size_t at = p->bus->bridge ? pci_path(p->bus->bridge, "pci-bridge", out, size)
                               : (size_t)snprintf(out, size, "/pci@i0cf8");

    if (at >= size)
        return at;
    at += (size_t)snprintf(out + at, size - at, "/%s@%x", name, pci_slot(p));
    if (at < size && pci_function(p))
        at += (size_t)snprintf(out + at, size - at, ",%x", pci_function(p));
    return at;
}

/* What a firmware calls a PCI function that it can start from, and its letter; false: it cannot. */
static bool pci_candidate(struct pci_device *p, char *path, size_t size, char *letter)
{
    uint32_t class = pci_get(p, PCI_CLASS, 1) | pci_get(p, PCI_CLASS + 1, 2) << 8;
    uint16_t vendor = (uint16_t)pci_get(p, PCI_VENDOR_ID, 2);
    char name[24];
    size_t at;

    *letter = 'c';
    switch (class >> 8) {
    case 0x0200:
        *letter = 'n';
        at = pci_path(p, "ethernet", path, size);
        if (at < size)
            snprintf(path + at, size - at, "/ethernet-phy@0");
        return true;
    case 0x0108:
        snprintf(name, sizeof(name), "pci%04x,%04x", vendor, pci_get(p, PCI_DEVICE_ID, 2));
        at = pci_path(p, name, path, size);
        if (at < size)
            snprintf(path + at, size - at, "/namespace@1,0");
        return true;
    case 0x0100:
        at = pci_path(p, "scsi", path, size);
        if (at < size)
            snprintf(path + at, size - at, "/disk@0,0");
        return true;
    default: return false;
    }
}

static bool candidate_of(struct device *dev, char *path, size_t size, char *letter)
{
    struct ata_place place;
    size_t at;

    if (ata_drive_place(dev, &place)) {
        bool ide = piix3_ide_bus(place.controller, 0);

        *letter = dev->type == &ide_cd_type ? 'd' : 'c';
        at = pci_path(to_pci(place.controller), ide ? "ide" : "pci8086,2922", path, size);
        if (at < size)
            snprintf(path + at, size - at, "/drive@%u/disk@%u", place.bus, place.unit);
        return true;
    }
    return dev->type->realize == pci_realize && pci_candidate(to_pci(dev), path, size, letter);
}

static int by_index(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return x->index < y->index ? -1 : x->index > y->index;
}

int board_tell_firmware(struct machine *m, struct error *err)
{
    const char *order = m->config.boot_order ? m->config.boot_order : "";
    struct candidate list[ORDER_MAX] = {0};
    char text[ORDER_MAX * (PATH_MAX_LENGTH + 1)];
    unsigned count = 0;
    size_t used = 0;

    for (struct device *dev = m->devices; dev && count < ORDER_MAX; dev = dev->next) {
        struct candidate *c = &list[count];
        uint64_t index;
        char letter;

        if (!dev->realized || !candidate_of(dev, c->path, sizeof(c->path), &letter))
            continue;
        c->index = device_get_uint(dev, "bootindex", &index) ? (uint32_t)index : NO_INDEX;
        if (c->index == NO_INDEX) {
            const char *found = strchr(order, letter);

            if (!found)
                continue;
            /* Behind all that have an index; of one kind in order of creation. */
            c->index = 0x80000000u + (uint32_t)(found - order) * 0x1000 + count;
        }
        count++;
    }
    for (unsigned i = 0; i < count; i++)
        for (unsigned n = 0; n < i; n++)
            if (list[i].index == list[n].index)
                return error_set(err, EINVAL, "two devices have bootindex=%u", list[i].index);
    qsort(list, count, sizeof(list[0]), by_index);
    for (unsigned i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n", list[i].path);
    if (!count)
        return 0;
    text[used - 1] = '\0'; /* ends with a zero, as the firmwares want */
    return fw_cfg_add_file(board_of(m)->fw_cfg, "bootorder", text, used, err);
}
