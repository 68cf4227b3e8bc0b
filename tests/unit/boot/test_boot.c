/*
 * test_boot.c - each kernel format from a synthetic image: what the guest finds in memory and in
 * CPU 0; and files that lie about themselves.
 */
#include "support/unit.h"

#include "boot/boot.h"
#include "unit/boot/bare_machine.h"

#include <elf.h>
#include <errno.h>
#include <stdio.h>

enum { IMAGE_MAX = 128 * KiB, KERNEL_AT = 0x1000000 };

struct image {
    uint8_t data[IMAGE_MAX];
    size_t size;
};

struct fixture {
    struct machine *m;
    struct image image;
    struct boot_config config;
    struct error err;
    uint8_t initrd[5000];
    bool with_initrd;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->m = bare_machine(64 * MiB, "qemu64");
    for (unsigned i = 0; i < sizeof(f->initrd); i++)
        f->initrd[i] = (uint8_t)(i * 7 + 1);
    *state = f;
    return f->m ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    machine_free(f->m);
    free(f);
    return 0;
}

static int load(struct fixture *f)
{
    struct boot_files *files = NULL;
    int kernel = memory_file(f->image.data, f->image.size), r;
    int initrd = f->with_initrd ? memory_file(f->initrd, sizeof(f->initrd)) : -1;

    f->err = (struct error){0};
    r = boot_open_fds(kernel, "k", initrd, &files, &f->err);
    if (r < 0)
        return r;
    f->config.files = files;
    r = boot_load(f->m, &f->config, &f->err);
    boot_close(files);
    return r;
}

static uint64_t peek(struct fixture *f, gpa at, unsigned size)
{
    uint64_t v = 0;

    assert_int_equal(dma_read(f->m->memory, at, &v, size), 0);
    return v;
}

static void put(struct fixture *f, size_t at, uint64_t value, unsigned size)
{
    store_le(f->image.data + at, value, size);
}

/* The text of the error: exactly one cause, named with the file. */
static void refused(struct fixture *f, const char *part)
{
    cpu_reset(f->m->cpus[0]);
    assert_true(load(f) < 0);
    if (!strstr(f->err.text, part))
        fail_msg("'%s' does not say '%s'", f->err.text, part);
    assert_int_equal(f->m->cpus[0]->rip, 0xfff0); /* untouched */
}

/* ---- Linux ------------------------------------------------------------------------------------
 */

enum { SETUP_SECTORS = 2, PAYLOAD_AT = (SETUP_SECTORS + 1) * 512, PAYLOAD = 40000 };

static void make_bzimage(struct fixture *f)
{
    memset(&f->image, 0, sizeof(f->image));
    put(f, 0x1f1, SETUP_SECTORS, 1);
    put(f, 0x1f4, PAYLOAD / 16, 4);
    put(f, 0x1fe, 0xaa55, 2);
    put(f, 0x200, 0x66eb, 2); /* jmp: the header ends at 0x268 */
    memcpy(f->image.data + 0x202, "HdrS", 4);
    put(f, 0x206, 0x20f, 2);
    put(f, 0x211, 1, 1); /* loaded high */
    put(f, 0x214, 0x100000, 4);
    put(f, 0x22c, 0x7fffffff, 4);
    put(f, 0x230, 0x200000, 4);
    put(f, 0x234, 1, 1); /* relocatable */
    put(f, 0x236, 1, 2); /* a 64-bit kernel */
    put(f, 0x238, 100, 4);
    put(f, 0x258, KERNEL_AT, 8);
    put(f, 0x260, 0x400000, 4);
    for (unsigned i = 0; i < PAYLOAD; i++)
        f->image.data[PAYLOAD_AT + i] = (uint8_t)(i * 3 + 5);
    f->image.size = PAYLOAD_AT + PAYLOAD;
}

static void linux_64_bit(void **state)
{
    static const uint8_t sum = 5;
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];
    const struct boot_range reserved = {0x3f00000, 0x10000, BOOT_MEMORY_ACPI};
    gpa params, initrd;
    bool acpi_seen = false, ram_seen = false;

    make_bzimage(f);
    f->with_initrd = true;
    f->config = (struct boot_config){
        .append = "console=ttyS0", .rsdp = 0xe0010, .reserved = &reserved, .reserved_count = 1};
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->rip, KERNEL_AT + 0x200);
    assert_true(cpu_long_mode(cpu));
    assert_int_equal(cpu->code_size, 8);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
    assert_int_equal(cpu->rflags & RFLAGS_IF, 0);
    assert_int_equal(peek(f, KERNEL_AT, 1), sum);
    assert_int_equal(peek(f, KERNEL_AT + PAYLOAD - 1, 1), (uint8_t)((PAYLOAD - 1) * 3 + 5));
    params = cpu->gpr[GPR_RSI];
    assert_int_equal(peek(f, params + 0x202, 4), 0x53726448);
    assert_int_equal(peek(f, params + 0x210, 1), 0xff);
    assert_int_equal(peek(f, params + 0x70, 8), 0xe0010);
    assert_int_equal(peek(f, peek(f, params + 0x228, 4), 8), 0x3d656c6f736e6f63); /* "console=" */
    assert_int_equal(peek(f, 0xffff0, 8), 0xccfff81e010f2e); /* lidt cs:[fff8]; int3: a reset */
    initrd = peek(f, params + 0x218, 4);
    assert_int_equal(peek(f, params + 0x21c, 4), sizeof(f->initrd));
    assert_int_equal(initrd % 4096, 0);
    assert_int_equal(peek(f, initrd + 4999, 1), f->initrd[4999]);
    assert_true(initrd + sizeof(f->initrd) <= 64 * MiB);
    /* Identity mapping of the first and the last 2 MiB below 4 GiB. */
    assert_int_equal(peek(f, cpu->cr3, 8) & 3, 3);
    assert_int_equal(peek(f, (peek(f, peek(f, cpu->cr3, 8) & ~0xfffull, 8) & ~0xfffull), 8), 0x83);
    for (unsigned i = 0; i < peek(f, params + 0x1e8, 1); i++) {
        gpa e = params + 0x2d0 + 20 * i;

        acpi_seen |= peek(f, e, 8) == reserved.base && peek(f, e + 8, 8) == reserved.size &&
                     peek(f, e + 16, 4) == BOOT_MEMORY_ACPI;
        ram_seen |= peek(f, e, 8) == MiB && peek(f, e + 8, 8) == reserved.base - MiB &&
                    peek(f, e + 16, 4) == BOOT_MEMORY_RAM;
    }
    assert_true(acpi_seen);
    assert_true(ram_seen);
    /* GDT entries for the selectors that are loaded. */
    assert_int_equal(peek(f, cpu->gdtr.base + cpu->seg[SEG_CS].selector, 8), 0x00af9b000000ffff);
    assert_int_equal(peek(f, cpu->gdtr.base + cpu->seg[SEG_DS].selector, 8), 0x00cf93000000ffff);
}

static void linux_32_bit(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];

    make_bzimage(f);
    put(f, 0x236, 0, 2);
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->rip, KERNEL_AT);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_false(cpu_long_mode(cpu));
    assert_int_equal(cpu->code_size, 4);
    assert_int_equal(cpu->seg[SEG_CS].limit, UINT32_MAX);
    assert_int_not_equal(cpu->gpr[GPR_RSI], 0);
    assert_int_equal(peek(f, cpu->gpr[GPR_RSI] + 0x218, 4), 0); /* no initrd */

    /* Not relocatable: at its place, whatever it prefers to run at. */
    put(f, 0x234, 0, 1);
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->rip, 0x100000);
    assert_int_equal(peek(f, 0x100000, 1), 5);

    /* A 64-bit kernel on a processor without long mode starts at its 32-bit entry. */
    make_bzimage(f);
    machine_free(f->m);
    f->m = bare_machine(64 * MiB, "qemu64,-lm");
    assert_non_null(f->m);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->m->cpus[0]->rip, KERNEL_AT);
    assert_false(cpu_long_mode(f->m->cpus[0]));
}

static void linux_hostile(void **state)
{
    struct fixture *f = *state;

    make_bzimage(f);
    f->image.size -= 100;
    refused(f, "kernel 'k': setup header says the kernel has 40000 bytes");
    f->image.size = 0x300;
    refused(f, "the file ends at 0x300");
    make_bzimage(f);
    put(f, 0x1f4, UINT32_MAX, 4);
    refused(f, "truncated");
    make_bzimage(f);
    put(f, 0x206, 0x201, 2);
    refused(f, "boot protocol 2.01");
    make_bzimage(f);
    put(f, 0x211, 0, 1);
    refused(f, "zImage");
    make_bzimage(f);
    put(f, 0x258, UINT64_MAX - 0xfff, 8);
    refused(f, "0xfffffffffffff000");
    make_bzimage(f);
    put(f, 0x258, 0x1000, 8);
    refused(f, "from 1 MiB to 4 GiB");
    make_bzimage(f);
    put(f, 0x260, UINT32_MAX, 4);
    refused(f, "not RAM of this machine");
    make_bzimage(f);
    put(f, 0x230, 0, 4);
    refused(f, "alignment");
    make_bzimage(f);
    put(f, 0x234, 0, 1);
    put(f, 0x214, 0x9000, 4);
    refused(f, "0x9000");
    make_bzimage(f);
    f->with_initrd = true;
    put(f, 0x22c, 0x100000, 4); /* nothing is left below */
    put(f, 0x201, 0x66, 1);
    f->config.append = NULL;
    f->config.reserved = &(struct boot_range){0x30000, 0x6fc00, BOOT_MEMORY_RESERVED};
    f->config.reserved_count = 1;
    put(f, 0x22c, 0x1fff, 4);
    refused(f, "no room for the initrd");
    f->config = (struct boot_config){
        .append = "0123456789012345678901234567890123456789012345678901234567890123456789"
                  "0123456789012345678901234567890"};
    make_bzimage(f);
    refused(f, "takes a command line of 100 bytes, --append has 101");
    f->image.size = 0;
    refused(f, "is empty");
    f->image.size = 64;
    refused(f, "no Linux bzImage, no ELF file");
}

/* The kernel's memory is all it may unpack into; a board's table in it is refused. */
static void linux_overlaps_table(void **state)
{
    struct fixture *f = *state;
    const struct boot_range table = {KERNEL_AT + 0x3ff000, 0x1000, BOOT_MEMORY_ACPI};

    make_bzimage(f);
    f->config.reserved = &table;
    f->config.reserved_count = 1;
    refused(f, "not RAM of this machine");
}

/* ---- ELF --------------------------------------------------------------------------------------
 */

enum { ELF_TEXT = 0x1000, ELF_TEXT_SIZE = 0x800, ELF_MEMORY = 0x3000, NOTE_AT = 0x400 };

static void make_elf(struct fixture *f, bool pvh, bool is_64)
{
    memset(&f->image, 0, sizeof(f->image));
    f->image.size = ELF_TEXT + ELF_TEXT_SIZE;
    if (is_64) {
        Elf64_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_X86_64,
                        .e_version = 1,
                        .e_entry = KERNEL_AT + 0x10,
                        .e_phoff = sizeof(Elf64_Ehdr),
                        .e_ehsize = sizeof(Elf64_Ehdr),
                        .e_phentsize = sizeof(Elf64_Phdr),
                        .e_phnum = 2};
        Elf64_Phdr p[2] = {{.p_type = PT_LOAD,
                            .p_offset = ELF_TEXT,
                            .p_vaddr = 0xffffffff81000000,
                            .p_paddr = KERNEL_AT,
                            .p_filesz = ELF_TEXT_SIZE,
                            .p_memsz = ELF_MEMORY},
                           {.p_type = pvh ? PT_NOTE : PT_NULL,
                            .p_offset = NOTE_AT,
                            .p_filesz = 20 + 20,
                            .p_memsz = 40}};

        memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        memcpy(f->image.data, &h, sizeof(h));
        memcpy(f->image.data + sizeof(h), p, sizeof(p));
    } else {
        Elf32_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_386,
                        .e_version = 1,
                        .e_entry = 0xc1000010,
                        .e_phoff = sizeof(Elf32_Ehdr),
                        .e_phentsize = sizeof(Elf32_Phdr),
                        .e_phnum = 1};
        Elf32_Phdr p = {.p_type = PT_LOAD,
                        .p_offset = ELF_TEXT,
                        .p_vaddr = 0xc1000000,
                        .p_paddr = KERNEL_AT,
                        .p_filesz = ELF_TEXT_SIZE,
                        .p_memsz = ELF_MEMORY};

        memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS32;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        memcpy(f->image.data, &h, sizeof(h));
        memcpy(f->image.data + sizeof(h), &p, sizeof(p));
    }
    /* Two notes: one of somebody else, then the entry. */
    put(f, NOTE_AT, 4, 4);
    put(f, NOTE_AT + 4, 4, 4);
    put(f, NOTE_AT + 8, 18, 4);
    memcpy(f->image.data + NOTE_AT + 12, "GNU", 4);
    put(f, NOTE_AT + 20, 4, 4);
    put(f, NOTE_AT + 24, 4, 4);
    put(f, NOTE_AT + 28, 18, 4);
    memcpy(f->image.data + NOTE_AT + 32, "Xen", 4);
    put(f, NOTE_AT + 36, KERNEL_AT + 0x40, 4);
    memset(f->image.data + ELF_TEXT, 0x90, ELF_TEXT_SIZE);
}

static void pvh(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];
    uint64_t junk = ~UINT64_C(0);
    gpa info, module, map;

    make_elf(f, true, true);
    f->with_initrd = true;
    f->config = (struct boot_config){.append = "quiet", .rsdp = 0xe0020};
    assert_int_equal(dma_write(f->m->memory, KERNEL_AT + ELF_TEXT_SIZE, &junk, 8), 0);
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->rip, KERNEL_AT + 0x40);
    assert_int_equal(cpu->code_size, 4);
    assert_int_equal(cpu->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(peek(f, KERNEL_AT, 2), 0x9090);
    assert_int_equal(peek(f, KERNEL_AT + ELF_TEXT_SIZE, 8), 0); /* bss was cleared */
    info = cpu->gpr[GPR_RBX];
    assert_int_equal(peek(f, info, 4), 0x336ec578);
    assert_int_equal(peek(f, info + 4, 4), 1);
    assert_int_equal(peek(f, info + 12, 4), 1);
    module = peek(f, info + 16, 8);
    assert_int_equal(peek(f, module + 8, 8), sizeof(f->initrd));
    assert_int_equal(peek(f, peek(f, module, 8) + 10, 1), f->initrd[10]);
    assert_int_equal(peek(f, peek(f, info + 24, 8), 4), 0x65697571); /* "quie" */
    assert_int_equal(peek(f, info + 32, 8), 0xe0020);
    map = peek(f, info + 40, 8);
    assert_true(peek(f, info + 48, 4) >= 4);
    assert_int_equal(peek(f, map, 8), 0);
    assert_int_equal(peek(f, map + 8, 8), BOOT_EBDA);
    assert_int_equal(peek(f, map + 16, 4), BOOT_MEMORY_RAM);
}

static void vmlinux(void **state)
{
    struct fixture *f = *state;

    make_elf(f, false, true);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->m->cpus[0]->rip, KERNEL_AT + 0x10); /* a physical entry */
    assert_true(cpu_long_mode(f->m->cpus[0]));
    assert_int_equal(peek(f, f->m->cpus[0]->gpr[GPR_RSI] + 0x202, 4), 0x53726448);
    make_elf(f, false, false);
    assert_int_equal(load(f), 0);
    assert_int_equal(f->m->cpus[0]->rip, KERNEL_AT + 0x10); /* from a virtual one */
    assert_false(cpu_long_mode(f->m->cpus[0]));
}

static void elf_hostile(void **state)
{
    struct fixture *f = *state;
    const size_t load_header = sizeof(Elf64_Ehdr);

    make_elf(f, true, true);
    f->image.size = ELF_TEXT + 100;
    refused(f, "an ELF segment is at 0x1000, 0x800 bytes, but the file ends at 0x1064");
    make_elf(f, true, true);
    put(f, offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 10, 8);
    refused(f, "the ELF program header table");
    make_elf(f, true, true);
    put(f, offsetof(Elf64_Ehdr, e_phnum), 0xffff, 2);
    refused(f, "65535 ELF program headers");
    make_elf(f, true, true);
    put(f, offsetof(Elf64_Ehdr, e_phentsize), 1, 2);
    refused(f, "headers of 1 bytes");
    make_elf(f, true, true);
    put(f, load_header + offsetof(Elf64_Phdr, p_paddr), UINT64_MAX - 0xfff, 8);
    refused(f, "above 4 GiB");
    make_elf(f, true, true);
    put(f, load_header + offsetof(Elf64_Phdr, p_paddr), 0x8000, 8);
    refused(f, "overlaps the loader's tables");
    make_elf(f, true, true);
    put(f, load_header + offsetof(Elf64_Phdr, p_paddr), 0x9f000, 8);
    refused(f, "not RAM");
    make_elf(f, true, true);
    put(f, load_header + offsetof(Elf64_Phdr, p_memsz), 1, 8);
    refused(f, "only 0x1 in memory");
    make_elf(f, true, true);
    put(f, load_header + offsetof(Elf64_Phdr, p_offset), UINT64_MAX - 1, 8);
    refused(f, "an ELF segment is at");
    make_elf(f, false, true);
    put(f, offsetof(Elf64_Ehdr, e_entry), 0x42, 8);
    refused(f, "outside of every segment");
    make_elf(f, false, true);
    put(f, offsetof(Elf64_Ehdr, e_type), ET_DYN, 2);
    refused(f, "not a kernel");
    make_elf(f, false, true);
    put(f, offsetof(Elf64_Ehdr, e_machine), EM_AARCH64, 2);
    refused(f, "another processor");
    make_elf(f, false, true);
    put(f, load_header, PT_NULL, 4);
    refused(f, "no ELF segment to load");
    make_elf(f, true, true);
    put(f, NOTE_AT + 20, UINT32_MAX, 4); /* a name without end: no PVH note then */
    assert_int_equal(load(f), 0);
    assert_true(cpu_long_mode(f->m->cpus[0]));
}

/* ---- Multiboot --------------------------------------------------------------------------------
 */

static void put_checksum(struct fixture *f, size_t at, unsigned words)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < words; i++)
        sum += (uint32_t)load_le(f->image.data + at + 4 * i, 4);
    put(f, at + 4 * words, (uint32_t)-sum, 4);
}

enum { MB_AT = 0x40, MB_LOAD = 0x200000 };

static void make_multiboot1(struct fixture *f, uint32_t flags)
{
    memset(&f->image, 0, sizeof(f->image));
    f->image.size = 0x900;
    put(f, MB_AT, 0x1badb002, 4);
    put(f, MB_AT + 4, flags, 4);
    put_checksum(f, MB_AT, 2);
    put(f, MB_AT + 12, MB_LOAD + MB_AT, 4);
    put(f, MB_AT + 16, MB_LOAD, 4);
    put(f, MB_AT + 20, MB_LOAD + 0x800, 4);
    put(f, MB_AT + 24, MB_LOAD + 0x2000, 4);
    put(f, MB_AT + 28, MB_LOAD + 0x100, 4);
    put(f, 0x100, 0xf4, 1);
    put(f, 0x800, 0xee, 1); /* behind load_end: not loaded */
}

static void multiboot1(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];
    gpa info, mods, map;
    char name[16];

    make_multiboot1(f, 0x10003);
    f->with_initrd = true;
    f->config.append = "hello";
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x2badb002);
    assert_int_equal(cpu->rip, MB_LOAD + 0x100);
    assert_int_equal(cpu->code_size, 4);
    assert_int_equal(peek(f, MB_LOAD + 0x100, 1), 0xf4);
    assert_int_equal(peek(f, MB_LOAD + 0x800, 1), 0);
    info = cpu->gpr[GPR_RBX];
    assert_int_equal(peek(f, info, 4), 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_int_equal(peek(f, info + 4, 4), 639);
    assert_int_equal(peek(f, info + 8, 4), 63 * KiB);
    assert_int_equal(dma_read(f->m->memory, peek(f, info + 16, 4), name, 6), 0);
    assert_string_equal(name, "hello");
    assert_int_equal(peek(f, info + 20, 4), 1);
    mods = peek(f, info + 24, 4);
    assert_int_equal(peek(f, mods + 4, 4) - peek(f, mods, 4), sizeof(f->initrd));
    assert_int_equal(dma_read(f->m->memory, peek(f, mods + 8, 4), name, 7), 0);
    assert_string_equal(name, "initrd");
    map = peek(f, info + 48, 4);
    assert_int_equal(peek(f, info + 44, 4) % 24, 0);
    assert_int_equal(peek(f, map, 4), 20);
    assert_int_equal(peek(f, map + 24, 4), 20);
    assert_int_equal(peek(f, map + 24 + 4, 8), BOOT_EBDA);
    assert_int_equal(dma_read(f->m->memory, peek(f, info + 64, 4), name, 6), 0);
    assert_memory_equal(name, "Hospes", 6);

    /* The same in an ELF file, without addresses. */
    make_elf(f, false, false);
    put(f, 0x800, 0x1badb002, 4);
    put(f, 0x804, 0, 4);
    put_checksum(f, 0x800, 2);
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x2badb002);
    assert_int_equal(cpu->rip, KERNEL_AT + 0x10);
}

static void multiboot1_hostile(void **state)
{
    struct fixture *f = *state;

    make_multiboot1(f, 0x10003 | 1 << 5);
    refused(f, "requires features 0x20");
    make_multiboot1(f, 3);
    refused(f, "without addresses and is not an ELF file");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 12, MB_LOAD + MB_AT + 1, 4);
    refused(f, "before the file's begin");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 20, MB_LOAD + 0x901, 4);
    refused(f, "but the file ends at 0x900");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 20, MB_LOAD - 1, 4);
    refused(f, "load end");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 24, UINT32_MAX, 4);
    refused(f, "not RAM");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 24, MB_LOAD + 1, 4);
    refused(f, "bss end");
    make_multiboot1(f, 0x10000);
    put(f, MB_AT + 28, MB_LOAD + 0x2000, 4);
    refused(f, "entry 0x202000, outside");
    make_multiboot1(f, 0x10000);
    f->image.size = MB_AT + 20;
    refused(f, "runs past the end");
}

static void make_multiboot2(struct fixture *f)
{
    static const uint32_t tags[] = {
        1,
        20,
        4,
        6,
        15,
        0, /* wants memory, map, ACPI */
        2,
        24,
        0,
        0,
        0,
        0, /* addresses, below */
        3,
        12,
        0,
        0, /* entry */
        10 | 1 << 16,
        24,
        0,
        0,
        0,
        0,
        99 | 1 << 16,
        8, /* optional ones: relocatable, unknown */
        0,
        8,
    };

    memset(&f->image, 0, sizeof(f->image));
    f->image.size = 0x900;
    put(f, MB_AT, 0xe85250d6, 4);
    put(f, MB_AT + 4, 0, 4);
    put(f, MB_AT + 8, 16 + sizeof(tags), 4);
    put_checksum(f, MB_AT, 3);
    memcpy(f->image.data + MB_AT + 16, tags, sizeof(tags));
    put(f, MB_AT + 16 + 24 + 8, MB_LOAD + MB_AT, 4);
    put(f, MB_AT + 16 + 24 + 12, MB_LOAD, 4);
    put(f, MB_AT + 16 + 24 + 20, MB_LOAD + 0x3000, 4);
    put(f, MB_AT + 16 + 48 + 8, MB_LOAD + 0x200, 4);
    put(f, 0x200, 0xf4, 1);
}

static void multiboot2(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];
    uint8_t rsdp[36] = "RSD PTR ";
    uint32_t seen = 0, total;
    gpa info;

    make_multiboot2(f);
    rsdp[15] = 2;
    rsdp[35] = 0x77;
    assert_int_equal(dma_write(f->m->memory, 0xe0000, rsdp, sizeof(rsdp)), 0);
    f->with_initrd = true;
    f->config = (struct boot_config){.append = "x=1", .rsdp = 0xe0000};
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->gpr[GPR_RAX], 0x36d76289);
    assert_int_equal(cpu->rip, MB_LOAD + 0x200);
    assert_int_equal(peek(f, MB_LOAD + 0x200, 1), 0xf4);
    info = cpu->gpr[GPR_RBX];
    total = (uint32_t)peek(f, info, 4);
    for (uint32_t at = 8; at < total;) {
        uint32_t type = (uint32_t)peek(f, info + at, 4), size = (uint32_t)peek(f, info + at + 4, 4);

        assert_true(type < 32 && size >= 8);
        seen |= 1u << type;
        if (type == 1)
            assert_int_equal(peek(f, info + at + 8, 4), 0x00313d78);
        if (type == 3)
            assert_int_equal(peek(f, peek(f, info + at + 8, 4), 1), f->initrd[0]);
        if (type == 6)
            assert_int_equal(peek(f, info + at + 8, 4), 24);
        if (type == 15)
            assert_int_equal(peek(f, info + at + 8 + 35, 1), 0x77);
        if (type == 0)
            assert_int_equal(at + 8, total);
        at += (uint32_t)align_up(size, 8);
    }
    assert_int_equal(seen, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 14 | 1 << 15);
}

static void multiboot2_hostile(void **state)
{
    struct fixture *f = *state;
    char *long_line;

    make_multiboot2(f);
    refused(f, "requires information 15"); /* there is no ACPI */
    f->config.rsdp = 0xe0000;
    put(f, MB_AT + 16 + 4, 0, 4);
    refused(f, "tag at 0x50 says 0 bytes");
    make_multiboot2(f);
    put(f, MB_AT + 16 + 4, UINT32_MAX, 4);
    refused(f, "says 4294967295 bytes");
    make_multiboot2(f);
    put(f, MB_AT + 8, 0x10000, 4);
    put_checksum(f, MB_AT, 3);
    refused(f, "must end within the file");
    make_multiboot2(f);
    put(f, MB_AT + 4, 4, 4);
    put_checksum(f, MB_AT, 3);
    refused(f, "architecture 4");
    make_multiboot2(f);
    put(f, MB_AT + 16 + 24, 77, 2);
    refused(f, "requires feature 77");
    make_multiboot2(f);
    put(f, MB_AT + 16 + 24 + 4, 8, 4);
    refused(f, "tag 2 has only 8 bytes");
    make_multiboot2(f);
    put(f, MB_AT + 16 + 96, 99, 2); /* optional tag instead of the end */
    put(f, MB_AT + 16 + 98, 1, 2);
    refused(f, "no end tag");
    make_multiboot2(f);
    long_line = xcalloc(1, 70000);
    memset(long_line, 'x', 69999);
    f->config.append = long_line;
    refused(f, "the command line is too long");
    free(long_line);
}

/* ---- the rest ---------------------------------------------------------------------------------
 */

static void memory_map_is_sorted_and_cut(void **state)
{
    struct fixture *f = *state;
    const struct boot_range reserved[] = {
        {0xe0000000, 0x10000000, BOOT_MEMORY_RESERVED}, /* not RAM */
        {0x2000000, 0x1000, BOOT_MEMORY_NVS},
    };
    struct boot_range map[BOOT_RANGES];
    uint64_t total = 0;
    int n;

    f->m->ram_above_4g = GiB;
    n = boot_memory_map(f->m, reserved, 2, map, &f->err);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        if (i)
            assert_true(map[i].base >= map[i - 1].base + map[i - 1].size);
        if (map[i].kind == BOOT_MEMORY_RAM)
            total += map[i].size;
    }
    assert_int_equal(total, BOOT_EBDA + 63 * MiB - 0x1000 + GiB);
    assert_int_equal(map[n - 1].base, UINT64_C(1) << 32);
    assert_int_equal(map[n - 2].base, 0xe0000000);
    assert_int_equal(boot_memory_map(f->m, &(struct boot_range){UINT64_MAX, 2, 2}, 1, map, &f->err),
                     -EINVAL);
}

static void files_that_cannot_be(void **state)
{
    struct fixture *f = *state;
    struct boot_files *files = NULL;

    assert_int_equal(boot_open("/nonexistent/k", NULL, &files, &f->err), -ENOENT);
    assert_string_equal(f->err.text,
                        "cannot open kernel '/nonexistent/k': No such file or directory");
    assert_int_equal(boot_open("/dev", NULL, &files, &f->err), -EINVAL);
    assert_string_equal(f->err.text, "kernel '/dev': is not a regular file");
    assert_null(files);
}

static void reload_gives_the_same(void **state)
{
    struct fixture *f = *state;
    uint8_t zero[64] = {0};
    struct boot_files *files;

    make_bzimage(f);
    assert_int_equal(
        boot_open_fds(memory_file(f->image.data, f->image.size), "k", -1, &files, &f->err), 0);
    f->config.files = files;
    assert_int_equal(boot_load(f->m, &f->config, &f->err), 0);
    assert_int_equal(dma_write(f->m->memory, KERNEL_AT, zero, sizeof(zero)), 0);
    cpu_reset(f->m->cpus[0]);
    assert_int_equal(boot_load(f->m, &f->config, &f->err), 0);
    assert_int_equal(peek(f, KERNEL_AT, 1), 5);
    assert_int_equal(f->m->cpus[0]->rip, KERNEL_AT + 0x200);
    boot_close(files);
}

static void memory_types_cover_the_hole(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->m->cpus[0];

    make_bzimage(f);
    assert_int_equal(load(f), 0);
    assert_int_equal(cpu->mtrr_def_type, 0xc06);
    assert_int_equal(cpu->mtrr_base[0], 0x80000000); /* uncacheable from 2 GiB */
    assert_true(cpu->mtrr_mask[0] & 1 << 11);
    assert_int_equal(cpu->mtrr_mask[0] & 0xfffff000, 0x80000000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(linux_64_bit),
        TEST(linux_32_bit),
        TEST(linux_hostile),
        TEST(linux_overlaps_table),
        TEST(pvh),
        TEST(vmlinux),
        TEST(elf_hostile),
        TEST(multiboot1),
        TEST(multiboot1_hostile),
        TEST(multiboot2),
        TEST(multiboot2_hostile),
        TEST(memory_map_is_sorted_and_cut),
        TEST(files_that_cannot_be),
        TEST(reload_gives_the_same),
        TEST(memory_types_cover_the_hole),
    };
    return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}
