/*
 * fuzz_boot.c - kernel files that lie. The first byte says whether there is an initrd, ACPI and an
 * old CPU; the rest is the kernel.
 *
 * Whatever the file says, the board's table in RAM and the space outside of RAM stay as they are,
 * and a loader that says "good" has left CPU 0 at an address in RAM.
 */
#include "fuzz.h"

#include "base/log.h"
#include "boot/boot.h"
#include "unit/boot/bare_machine.h"

#include <elf.h>
#include <stdlib.h>

enum { MEMORY = 24 * MiB, TABLE_AT = 0xa00000, TABLE_SIZE = 0x2000, PATTERN = 0xa5 };
enum { WITH_INITRD = 1, WITH_ACPI = 2, OLD_CPU = 4 };

static void put(uint8_t *at, uint64_t value, unsigned size)
{
    store_le(at, value, size);
}

static size_t seed_bzimage(uint8_t *k)
{
    put(k + 0x1f1, 1, 1);
    put(k + 0x1f4, 0x1000 / 16, 4);
    put(k + 0x1fe, 0xaa55, 2);
    put(k + 0x200, 0x66eb, 2);
    memcpy(k + 0x202, "HdrS", 4);
    put(k + 0x206, 0x20f, 2);
    put(k + 0x211, 1, 1);
    put(k + 0x214, 0x100000, 4);
    put(k + 0x22c, 0x7fffffff, 4);
    put(k + 0x230, 0x100000, 4);
    put(k + 0x234, 1, 1);
    put(k + 0x236, 1, 2);
    put(k + 0x238, 2047, 4);
    put(k + 0x258, 0x200000, 8);
    put(k + 0x260, 0x300000, 4);
    return 0x400 + 0x1000;
}

static size_t seed_elf64(uint8_t *k, bool note)
{
    Elf64_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_entry = 0x200000,
                    .e_phoff = 64,
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 3};
    Elf64_Phdr p[3] = {{.p_type = PT_LOAD,
                        .p_offset = 0x400,
                        .p_vaddr = 0x200000,
                        .p_paddr = 0x200000,
                        .p_filesz = 0x300,
                        .p_memsz = 0x3000},
                       {.p_type = PT_LOAD,
                        .p_offset = 0x700,
                        .p_vaddr = 0x300000,
                        .p_paddr = 0x300000,
                        .p_filesz = 0x100,
                        .p_memsz = 0x100},
                       {.p_type = note ? PT_NOTE : PT_NULL, .p_offset = 0x300, .p_filesz = 0x40}};

    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS64;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(k, &h, sizeof(h));
    memcpy(k + 64, p, sizeof(p));
    put(k + 0x300, 4, 4);
    put(k + 0x304, 4, 4);
    put(k + 0x308, 18, 4);
    memcpy(k + 0x30c, "Xen", 4);
    put(k + 0x310, 0x200000, 4);
    return 0x800;
}

static size_t seed_elf32(uint8_t *k)
{
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_entry = 0x200000,
                    .e_phoff = 52,
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 1};
    Elf32_Phdr p = {.p_type = PT_LOAD,
                    .p_offset = 0x400,
                    .p_vaddr = 0x200000,
                    .p_paddr = 0x200000,
                    .p_filesz = 0x300,
                    .p_memsz = 0x3000};

    memcpy(h.e_ident, ELFMAG, SELFMAG);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(k, &h, sizeof(h));
    memcpy(k + 52, &p, sizeof(p));
    return 0x800;
}

static size_t seed_multiboot1(uint8_t *k)
{
    put(k, 0x1badb002, 4);
    put(k + 4, 0x10003, 4);
    put(k + 8, 0u - 0x1badb002u - 0x10003u, 4);
    put(k + 12, 0x100000, 4);
    put(k + 16, 0x100000, 4);
    put(k + 20, 0x100800, 4);
    put(k + 24, 0x101000, 4);
    put(k + 28, 0x100100, 4);
    return 0x1000;
}

static size_t seed_multiboot2(uint8_t *k)
{
    static const uint32_t tags[] = {1,           24,       4,  6,  1, 3,  2,        24,
                                    0x100000,    0x100000, 0,  0,  3, 12, 0x100100, 0,
                                    5 | 1 << 16, 20,       80, 25, 0, 0,  0,        8};

    put(k, 0xe85250d6, 4);
    put(k + 8, 16 + sizeof(tags), 4);
    put(k + 12, 0u - 0xe85250d6u - (uint32_t)(16 + sizeof(tags)), 4);
    memcpy(k + 16, tags, sizeof(tags));
    return 0x1000;
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    memset(out, 0, FUZZ_INPUT_MAX);
    out[0] = (uint8_t)(n / 6);
    switch (n % 6) {
    case 0: return 1 + seed_bzimage(out + 1);
    case 1: return n / 6 <= 7 ? 1 + seed_elf64(out + 1, true) : 0;
    case 2: return 1 + seed_elf64(out + 1, false);
    case 3: return 1 + seed_elf32(out + 1);
    case 4: return 1 + seed_multiboot1(out + 1);
    default: return 1 + seed_multiboot2(out + 1);
    }
}

static void check_table(struct machine *m, bool set)
{
    uint8_t *table = m->ram->host + TABLE_AT;

    if (set)
        memset(table, PATTERN, TABLE_SIZE);
    for (unsigned i = 0; i < TABLE_SIZE; i++)
        if (table[i] != PATTERN)
            abort();
}

static void check_entry(struct machine *m)
{
    struct memory_target t;

    memory_lookup(m->memory, VIEW_NORMAL, m->cpus[0]->rip, &t);
    if (!t.block && m->cpus[0]->rip < UINT64_C(1) << 32 && !m->cpus[0]->gpr[GPR_RBX])
        abort(); /* PVH's entry is the note's word: it may be anything */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine *machines[2];
    static const struct boot_range table = {TABLE_AT, TABLE_SIZE, BOOT_MEMORY_ACPI};
    struct boot_config c = {.append = "console=ttyS0", .reserved = &table, .reserved_count = 1};
    struct boot_files *files;
    struct machine *m;
    unsigned flags;

    if (size < 2)
        return 0;
    log_set_level(LOG_ERROR);
    flags = data[0];
    m = machines[!!(flags & OLD_CPU)];
    if (!m)
        m = machines[!!(flags & OLD_CPU)] = bare_machine(MEMORY,
                                                         flags & OLD_CPU ? "qemu64,-lm" : "qemu64");
    if (!m)
        abort();
    check_table(m, true);
    cpu_reset(m->cpus[0]);
    c.rsdp = flags & WITH_ACPI ? TABLE_AT : 0;
    if (boot_open_fds(memory_file(data + 1, size - 1), "fuzz",
                      flags & WITH_INITRD ? memory_file(data, size) : -1, &files, NULL) < 0)
        abort();
    c.files = files;
    if (boot_load(m, &c, NULL) == 0)
        check_entry(m);
    else if (m->cpus[0]->rip != 0xfff0)
        abort();
    check_table(m, false);
    boot_close(files);
    return 0;
}
