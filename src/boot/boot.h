/*
 * boot.h - start a kernel without firmware: put it, its initrd, its command line and the tables a
 * firmware would have left into RAM, and set CPU 0 to the kernel's entry.
 *
 * The board calls boot_open() once, when it is built, and boot_load() from its load hook: at
 * start and at every reset, after CPUs and devices were reset and while no vCPU runs. Before
 * boot_load() the board has
 *   - made 0xc0000-0xfffff RAM that can be read and written (PAM open), as firmware does,
 *   - opened the A20 gate,
 *   - put its own tables (ACPI) into RAM and listed them in `reserved`.
 *
 * Files are hostile: each number in them is checked before it is used, and a message names the
 * file, what it says, and what is true. They stay open, so a reset loads what start loaded even if
 * the name is another file by then.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "base/error.h"
#include "boot/mptable.h"
#include "boot/smbios.h"
#include "memory/map.h"

struct boot_files;
struct device;
struct machine;

/* Kinds of memory, numbered as in INT 15h/E820. */
enum boot_memory {
    BOOT_MEMORY_RAM = 1,
    BOOT_MEMORY_RESERVED = 2,
    BOOT_MEMORY_ACPI = 3, /* tables; the guest may have the memory when it has read them */
    BOOT_MEMORY_NVS = 4,
};

struct boot_range {
    gpa base;
    uint64_t size;
    uint32_t kind; /* enum boot_memory */
};

enum { BOOT_RANGES = 32 };

/* Addresses that are ours in the first MiB; a board keeps its tables out of them. */
enum {
    BOOT_LOW_TABLES = 0x7000, /* GDT, boot_params, page tables, command line, ... */
    BOOT_LOW_TABLES_END = 0x30000,
    BOOT_EBDA = 0x9fc00,    /* 1 KiB */
    BOOT_SMBIOS = 0xf0000,  /* to 0xfbfff: entry points and structures */
    BOOT_MPTABLE = 0xfc000, /* to 0xfffff */
};

struct boot_config {
    struct boot_files *files;
    const char *append; /* command line; NULL: none */
    gpa rsdp;           /* where the ACPI root pointer lies; 0: no ACPI */
    /* What the board occupies: tables in RAM (BOOT_MEMORY_ACPI, _NVS) and address space that is
     * not RAM (ECAM: BOOT_MEMORY_RESERVED). Nothing is loaded there. */
    const struct boot_range *reserved;
    unsigned reserved_count;
    const struct smbios_config *smbios; /* NULL: no SMBIOS */
    const struct mptable_config *mp;    /* NULL: no MP table */
    bool display, boot_menu;            /* for a firmware: is there a screen, ask the user? */
};

/* `initrd` may be NULL. */
int boot_open(const char *kernel, const char *initrd, struct boot_files **out, struct error *err);
/* The same from open descriptors, which become ours; `name` is for messages. initrd -1: none. */
int boot_open_fds(int kernel, const char *name, int initrd, struct boot_files **out,
                  struct error *err);
void boot_close(struct boot_files *f); /* NULL is nothing */

/* Detect the kernel's type and load it: bzImage, ELF with a PVH note, Multiboot 1 and 2, vmlinux.
 */
int boot_load(struct machine *m, const struct boot_config *c, struct error *err);

/* Give a firmware the same through fw_cfg (devices/misc/fw_cfg.h): memory map (etc/e820), RAM and
 * CPU counts, SMBIOS files, and kernel, initrd and command line by the legacy keys. `c->files` may
 * be NULL. The files must outlive the device. */
int boot_fill_fw_cfg(struct machine *m, const struct boot_config *c, struct device *fw_cfg,
                     struct error *err);

/* The memory map a firmware would report, sorted, without overlaps; `out` has BOOT_RANGES
 * entries. Returns how many are used; -E2BIG when they do not fit. */
int boot_memory_map(const struct machine *m, const struct boot_range *reserved, unsigned count,
                    struct boot_range *out, struct error *err);

#endif
