/*
 * loader.h - what the loaders of kernel formats share. Private to boot/.
 *
 * Everything that goes into guest memory is claimed first: loader_claim() and loader_place() make
 * sure that it lies in RAM of the memory map and on nothing that was claimed before, so no format's
 * code can overwrite another part or a table, whatever its file says.
 */
#ifndef BOOT_LOADER_H
#define BOOT_LOADER_H

#include "boot/boot.h"
#include "machine/machine.h"
#include "memory/ram.h"

struct boot_file {
    int fd;           /* -1: there is none */
    const char *what; /* "kernel", "initrd" */
    char *name;
    uint64_t size;
    uint32_t setup_size; /* the real-mode part, for fw_cfg */
};

struct boot_files {
    struct boot_file kernel, initrd;
};

enum { LOADER_CLAIMS = 80, LOADER_HEAD = 32 * KiB + 64 };

struct loader {
    struct machine *m;
    const struct boot_config *c;
    struct boot_file *kernel, *initrd; /* initrd NULL: none */
    uint8_t head[LOADER_HEAD];         /* of the kernel file, zeros behind its end */
    struct boot_range map[BOOT_RANGES];
    unsigned map_count;
    struct {
        gpa base;
        uint64_t size;
        const char *what;
    } claims[LOADER_CLAIMS];
    unsigned claim_count;
};

/* Where things lie in [BOOT_LOW_TABLES, BOOT_LOW_TABLES_END). */
enum {
    LOW_GDT = BOOT_LOW_TABLES,
    LOW_PAGE_TABLES = 0x8000, /* PML4, PDPT, four page directories */
    LOW_STACK = 0xf000,       /* top of a small stack */
    LOW_INFO = 0x10000,       /* boot_params, start info, Multiboot information */
    LOW_CMDLINE = 0x20000,
    LOW_CMDLINE_MAX = BOOT_LOW_TABLES_END - LOW_CMDLINE,
};

/* "kernel 'vmlinuz': " before the text. */
int file_error(const struct boot_file *f, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Exactly `size` bytes; `what` names them in the message when the file is too short. */
int file_read(const struct boot_file *f, uint64_t offset, void *buffer, size_t size,
              const char *what, struct error *err);

/* Take [base, base+size) for `what`; refused where it is not RAM or is taken. */
int loader_claim(struct loader *l, gpa base, uint64_t size, const char *what, struct error *err);
/* The highest free place that ends at or below `end` (not included), aligned; claimed. */
int loader_place(struct loader *l, uint64_t size, uint64_t align, gpa end, const char *what,
                 gpa *out, struct error *err);
/* Copy from a file, or from memory, to what was claimed. */
int loader_copy(struct loader *l, const struct boot_file *f, uint64_t offset, uint64_t size, gpa to,
                const char *what, struct error *err);
int loader_write(struct loader *l, gpa to, const void *data, uint64_t size, struct error *err);
int loader_fill(struct loader *l, gpa to, uint64_t size, struct error *err); /* zeros */

/* Place and copy the initrd below `end`; both are 0 where there is none. */
int loader_initrd(struct loader *l, gpa end, gpa *base, uint64_t *size, struct error *err);
/* Put the command line at LOW_CMDLINE; `limit` is the longest the kernel takes. */
int loader_cmdline(struct loader *l, uint64_t limit, struct error *err);

/* Start CPU 0 in flat 32-bit protected mode without paging, or in 64-bit mode with the first
 * 4 GiB mapped to themselves. General registers are zero but RSP. */
int loader_enter_32(struct loader *l, uint32_t entry, struct error *err);
int loader_enter_64(struct loader *l, uint64_t entry, struct error *err);

/* Formats. probe: is it one (head only)? */
bool linux_probe(const struct loader *l);
int linux_load(struct loader *l, struct error *err);
/* A kernel that is in memory already: boot_params without a file's setup header. */
int linux_start(struct loader *l, gpa entry, bool is_64, struct error *err);

struct elf {
    bool is_64;
    uint64_t entry; /* physical */
    bool has_pvh;
    uint32_t pvh_entry;
    bool for_programs; /* has an interpreter or is position independent: not a kernel */
};
bool elf_probe(const struct loader *l);
/* Check, and, where `load` is set, put the segments into memory. */
int elf_read(struct loader *l, bool load, struct elf *out, struct error *err);
int pvh_start(struct loader *l, const struct elf *e, struct error *err);

bool multiboot1_probe(const struct loader *l, uint32_t *offset);
int multiboot1_load(struct loader *l, uint32_t offset, struct error *err);
bool multiboot2_probe(const struct loader *l, uint32_t *offset);
int multiboot2_load(struct loader *l, uint32_t offset, struct error *err);

#endif
