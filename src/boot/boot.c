/*
 * boot.c - see boot.h. Files, claims on memory, the memory map, CPU 0's state; and the order in
 * which the formats are tried.
 *
 * A bzImage is asked first, because its payload may contain anything; an ELF file that has a PVH
 * note is started by it even if it has a Multiboot header too (Xen has all three), because PVH
 * gives a kernel the most.
 */
#include "boot/boot.h"

#include "base/log.h"
#include "boot/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- files ------------------------------------------------------------------------------------
 */

int file_error(const struct boot_file *f, struct error *err, const char *format, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    return error_set(err, EINVAL, "%s '%s': %s", f->what, f->name, text);
}

static int file_check(struct boot_file *f, struct error *err)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return error_set_errno(err, errno, "%s '%s'", f->what, f->name);
    if (!S_ISREG(st.st_mode))
        return file_error(f, err, "is not a regular file");
    if (!st.st_size)
        return file_error(f, err, "is empty");
    f->size = (uint64_t)st.st_size;
    return 0;
}

static int file_open(struct boot_file *f, const char *name, struct error *err)
{
    f->name = xstrdup(name);
    /* Not blocking: a FIFO is refused by file_check(), not waited for. */
    f->fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0)
        return error_set_errno(err, errno, "cannot open %s '%s'", f->what, name);
    return file_check(f, err);
}

static struct boot_files *files_new(void)
{
    struct boot_files *f = xcalloc(1, sizeof(*f));

    f->kernel = (struct boot_file){.fd = -1, .what = "kernel"};
    f->initrd = (struct boot_file){.fd = -1, .what = "initrd"};
    return f;
}

int boot_open(const char *kernel, const char *initrd, struct boot_files **out, struct error *err)
{
    struct boot_files *f = files_new();
    int r = file_open(&f->kernel, kernel, err);

    if (!r && initrd)
        r = file_open(&f->initrd, initrd, err);
    if (r < 0)
        boot_close(f);
    else
        *out = f;
    return r;
}

int boot_open_fds(int kernel, const char *name, int initrd, struct boot_files **out,
                  struct error *err)
{
    struct boot_files *f = files_new();
    int r;

    f->kernel.fd = kernel;
    f->kernel.name = xstrdup(name);
    f->initrd.fd = initrd;
    f->initrd.name = xstrdup("initrd");
    r = file_check(&f->kernel, err);
    if (!r && initrd >= 0)
        r = file_check(&f->initrd, err);
    if (r < 0)
        boot_close(f);
    else
        *out = f;
    return r;
}

void boot_close(struct boot_files *f)
{
    if (!f)
        return;
    if (f->kernel.fd >= 0)
        close(f->kernel.fd);
    if (f->initrd.fd >= 0)
        close(f->initrd.fd);
    free(f->kernel.name);
    free(f->initrd.name);
    free(f);
}

/* Up to `size` bytes; fewer at the end of the file. */
static ssize_t file_read_some(const struct boot_file *f, uint64_t offset, void *buffer, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = pread(f->fd, (char *)buffer + done, size - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int file_read(const struct boot_file *f, uint64_t offset, void *buffer, size_t size,
              const char *what, struct error *err)
{
    ssize_t n;

    if (!range_within(offset, size, f->size))
        return file_error(f, err, "%s is at %#llx, %zu bytes, but the file ends at %#llx", what,
                          (unsigned long long)offset, size, (unsigned long long)f->size);
    n = file_read_some(f, offset, buffer, size);
    if (n < 0)
        return error_set_errno(err, (int)-n, "%s '%s': cannot read %s", f->what, f->name, what);
    if ((size_t)n < size)
        return file_error(f, err, "became shorter while it was read");
    return 0;
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static int map_add(struct boot_range *map, unsigned *n, gpa base, uint64_t size, uint32_t kind,
                   struct error *err)
{
    if (!size)
        return 0;
    if (*n == BOOT_RANGES)
        return error_set(err, E2BIG, "the memory map has more than %d ranges", BOOT_RANGES);
    map[(*n)++] = (struct boot_range){base, size, kind};
    return 0;
}

/* Cut [base, base+size) out of what is in the map. */
static int map_cut(struct boot_range *map, unsigned *n, gpa base, uint64_t size, struct error *err)
{
    unsigned count = *n;

    for (unsigned i = 0; i < count; i++) {
        struct boot_range *r = &map[i];
        gpa end = r->base + r->size, cut_end = base + size;

        if (!ranges_overlap(r->base, r->size, base, size))
            continue;
        if (cut_end < end) {
            int result = map_add(map, n, cut_end, end - cut_end, r->kind, err);

            if (result < 0)
                return result;
        }
        r->size = base > r->base ? base - r->base : 0;
    }
    return 0;
}

static int by_base(const void *a, const void *b)
{
    const struct boot_range *x = a, *y = b;

    return x->base < y->base ? -1 : x->base > y->base;
}

int boot_memory_map(const struct machine *m, const struct boot_range *reserved, unsigned count,
                    struct boot_range *out, struct error *err)
{
    const struct boot_range fixed[] = {
        {BOOT_EBDA, 0xa0000 - BOOT_EBDA, BOOT_MEMORY_RESERVED},
        {0xa0000, 0x50000, 0}, /* a hole: VGA and option ROMs */
        {BOOT_SMBIOS, 0x10000, BOOT_MEMORY_RESERVED},
    };
    struct boot_range map[BOOT_RANGES];
    unsigned n = 0, kept = 0;
    int r = map_add(map, &n, 0, m->ram_below_4g, BOOT_MEMORY_RAM, err);

    if (!r)
        r = map_add(map, &n, UINT64_C(1) << 32, m->ram_above_4g, BOOT_MEMORY_RAM, err);
    for (unsigned i = 0; !r && i < ARRAY_SIZE(fixed) + count; i++) {
        const struct boot_range *x = i < ARRAY_SIZE(fixed) ? &fixed[i]
                                                           : &reserved[i - ARRAY_SIZE(fixed)];

        if (!range_within(x->base, x->size, UINT64_C(1) << 52))
            return error_set(err, EINVAL, "reserved memory [%#llx, +%#llx) is out of range",
                             (unsigned long long)x->base, (unsigned long long)x->size);
        r = map_cut(map, &n, x->base, x->size, err);
        if (!r && x->kind)
            r = map_add(map, &n, x->base, x->size, x->kind, err);
    }
    if (r < 0)
        return r;
    qsort(map, n, sizeof(map[0]), by_base);
    for (unsigned i = 0; i < n; i++) {
        if (!map[i].size)
            continue;
        if (kept && out[kept - 1].kind == map[i].kind &&
            out[kept - 1].base + out[kept - 1].size == map[i].base)
            out[kept - 1].size += map[i].size;
        else
            out[kept++] = map[i];
    }
    return (int)kept;
}

static bool in_ram(const struct loader *l, gpa base, uint64_t size)
{
    for (unsigned i = 0; i < l->map_count; i++)
        if (l->map[i].kind == BOOT_MEMORY_RAM && base >= l->map[i].base &&
            range_within(base - l->map[i].base, size, l->map[i].size))
            return true;
    return false;
}

/* The index of a claim that is in the way, or -1. */
static int claim_in_way(const struct loader *l, gpa base, uint64_t size)
{
    for (unsigned i = 0; i < l->claim_count; i++)
        if (ranges_overlap(base, size, l->claims[i].base, l->claims[i].size))
            return (int)i;
    return -1;
}

int loader_claim(struct loader *l, gpa base, uint64_t size, const char *what, struct error *err)
{
    int other;

    if (!size)
        return 0;
    if (!in_ram(l, base, size))
        return file_error(l->kernel, err,
                          "%s needs memory at %#llx, %llu KiB, which is not RAM of this machine "
                          "(%llu MiB); try a larger --memory",
                          what, (unsigned long long)base, (unsigned long long)((size + 1023) / KiB),
                          (unsigned long long)(l->m->config.memory / MiB));
    other = claim_in_way(l, base, size);
    if (other >= 0)
        return file_error(l->kernel, err, "%s at %#llx, %#llx bytes, overlaps %s at %#llx", what,
                          (unsigned long long)base, (unsigned long long)size, l->claims[other].what,
                          (unsigned long long)l->claims[other].base);
    if (l->claim_count == LOADER_CLAIMS)
        return file_error(l->kernel, err, "has more than %d parts to load", LOADER_CLAIMS);
    l->claims[l->claim_count].base = base;
    l->claims[l->claim_count].size = size;
    l->claims[l->claim_count++].what = what;
    return 0;
}

int loader_place(struct loader *l, uint64_t size, uint64_t align, gpa end, const char *what,
                 gpa *out, struct error *err)
{
    gpa best = 0;
    bool found = false;

    for (unsigned i = 0; i < l->map_count; i++) {
        const struct boot_range *r = &l->map[i];
        gpa top = MIN(end, r->base + r->size);

        if (r->kind != BOOT_MEMORY_RAM)
            continue;
        /* Down from the top of the range, below whatever is in the way. */
        while (top >= r->base && top - r->base >= size) {
            gpa at = align_down(top - size, align);
            int other;

            if (at < r->base)
                break;
            other = claim_in_way(l, at, size);
            if (other < 0) {
                if (!found || at > best)
                    best = at;
                found = true;
                break;
            }
            top = l->claims[other].base;
        }
    }
    if (!found)
        return error_set(err, ENOMEM,
                         "no room for %s (%llu KiB) below %#llx in %llu MiB of memory; try a "
                         "larger --memory",
                         what, (unsigned long long)((size + 1023) / KiB), (unsigned long long)end,
                         (unsigned long long)(l->m->config.memory / MiB));
    *out = best;
    return loader_claim(l, best, size, what, err);
}

int loader_write(struct loader *l, gpa to, const void *data, uint64_t size, struct error *err)
{
    int r = dma_write(l->m->memory, to, data, size);

    if (r < 0)
        return error_set(err, EFAULT, "memory at %#llx cannot be written", (unsigned long long)to);
    return 0;
}

int loader_fill(struct loader *l, gpa to, uint64_t size, struct error *err)
{
    int r = dma_fill(l->m->memory, to, 0, size);

    if (r < 0)
        return error_set(err, EFAULT, "memory at %#llx cannot be written", (unsigned long long)to);
    return 0;
}

int loader_copy(struct loader *l, const struct boot_file *f, uint64_t offset, uint64_t size, gpa to,
                const char *what, struct error *err)
{
    enum { PIECE = 64 * KiB };
    auto_free uint8_t *piece = xcalloc(1, PIECE);

    if (!range_within(offset, size, f->size))
        return file_error(f, err, "%s is at %#llx, %#llx bytes, but the file ends at %#llx", what,
                          (unsigned long long)offset, (unsigned long long)size,
                          (unsigned long long)f->size);
    for (uint64_t done = 0; done < size;) {
        size_t n = (size_t)MIN((uint64_t)PIECE, size - done);
        int r = file_read(f, offset + done, piece, n, what, err);

        if (!r)
            r = loader_write(l, to + done, piece, n, err);
        if (r < 0)
            return r;
        done += n;
    }
    return 0;
}

int loader_initrd(struct loader *l, gpa end, gpa *base, uint64_t *size, struct error *err)
{
    int r;

    *base = *size = 0;
    if (!l->initrd)
        return 0;
    r = loader_place(l, l->initrd->size, RAM_PAGE_SIZE, end, "the initrd", base, err);
    if (!r)
        r = loader_copy(l, l->initrd, 0, l->initrd->size, *base, "its content", err);
    *size = l->initrd->size;
    return r;
}

int loader_cmdline(struct loader *l, uint64_t limit, struct error *err)
{
    const char *text = l->c->append ? l->c->append : "";
    size_t length = strlen(text);

    limit = MIN(limit, (uint64_t)LOW_CMDLINE_MAX - 1);
    if (length > limit)
        return file_error(l->kernel, err, "takes a command line of %llu bytes, --append has %zu",
                          (unsigned long long)limit, length);
    return loader_write(l, LOW_CMDLINE, text, length + 1, err);
}

/* ---- the processor ----------------------------------------------------------------------------
 */

enum { BOOT_CS = 0x10, BOOT_DS = 0x18 };

static void set_segments(struct cpu *cpu, bool is_64)
{
    uint32_t code = ATTR_CODE | ATTR_READABLE | ATTR_ACCESSED | ATTR_S | ATTR_P | ATTR_G;
    uint32_t data = ATTR_WRITABLE | ATTR_ACCESSED | ATTR_S | ATTR_P | ATTR_G | ATTR_DB;

    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] =
            (struct segment){.selector = BOOT_DS, .attr = data, .limit = UINT32_MAX, .base = 0};
    cpu->seg[SEG_CS].selector = BOOT_CS;
    cpu->seg[SEG_CS].attr = code | (is_64 ? ATTR_L : ATTR_DB);
    /* A busy TSS, as the PVH protocol has it; its type is the same in both modes. */
    cpu->tr = (struct segment){.attr = 0xb | ATTR_P, .limit = 0x67};
    cpu->ldtr = (struct segment){.attr = ATTR_NULL};
    cpu->gdtr = (struct table_register){.base = LOW_GDT, .limit = 4 * 8 - 1};
    cpu->idtr = (struct table_register){0};
}

/* What a firmware leaves in the memory type registers: all memory write-back but the legacy video
 * window and the address space below 4 GiB that is no RAM. Without it Linux uses no PAT. */
static void set_memory_types(struct machine *m, struct cpu *cpu)
{
    gpa hole = align_up(m->ram_below_4g, 256 * MiB);
    unsigned n = 0;

    if (!cpu_has(cpu, FEATURE_MTRR))
        return;
    for (unsigned i = 0; i < 11; i++)
        cpu->mtrr_fixed[i] = UINT64_C(0x0606060606060606);
    cpu->mtrr_fixed[2] = 0; /* 0xa0000-0xbffff */
    for (gpa at = MAX(hole, UINT64_C(2) * GiB); at < UINT64_C(1) << 32 && n < CPU_MTRR_VARIABLE;) {
        uint64_t size = at & -at; /* the largest aligned block that starts here */

        cpu->mtrr_base[n] = at; /* type 0: uncacheable */
        cpu->mtrr_mask[n++] = (BIT(cpu->model->phys_bits) - 1 - (size - 1)) | BIT(11);
        at += size;
    }
    cpu->mtrr_def_type = 6 | BIT(10) | BIT(11); /* write-back; fixed and all enabled */
}

static int enter(struct loader *l, uint64_t entry, bool is_64, struct error *err)
{
    static const uint64_t gdt32[4] = {0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    static const uint64_t gdt64[4] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
    struct cpu *cpu = l->m->cpus[0];
    int r = loader_write(l, LOW_GDT, is_64 ? gdt64 : gdt32, sizeof(gdt32), err);

    if (r < 0)
        return r;
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[GPR_RSP] = LOW_STACK;
    cpu->rip = entry;
    cpu->rflags = RFLAGS_FIXED;
    set_segments(cpu, is_64);
    cpu->cr0 = CR0_PE | CR0_ET | (is_64 ? CR0_PG : 0);
    cpu->cr3 = is_64 ? LOW_PAGE_TABLES : 0;
    cpu->cr4 = is_64 ? CR4_PAE : 0;
    cpu->efer = is_64 ? EFER_LME | EFER_LMA : 0;
    cpu->activity = CPU_RUNNING;
    for (unsigned i = 0; i < l->m->cpu_count; i++)
        set_memory_types(l->m, l->m->cpus[i]);
    cpu_state_changed(cpu);
    return 0;
}

int loader_enter_32(struct loader *l, uint32_t entry, struct error *err)
{
    return enter(l, entry, false, err);
}

int loader_enter_64(struct loader *l, uint64_t entry, struct error *err)
{
    enum { PRESENT = 1, WRITABLE = 2, LARGE = 1 << 7, TABLE = 512 };
    auto_free uint64_t *tables = xcalloc(6 * TABLE, sizeof(uint64_t));
    int r;

    tables[0] = (LOW_PAGE_TABLES + RAM_PAGE_SIZE) | PRESENT | WRITABLE;
    for (unsigned i = 0; i < 4; i++)
        tables[TABLE + i] = (LOW_PAGE_TABLES + (2 + i) * RAM_PAGE_SIZE) | PRESENT | WRITABLE;
    for (uint64_t i = 0; i < 4 * TABLE; i++)
        tables[2 * TABLE + i] = i << 21 | PRESENT | WRITABLE | LARGE;
    r = loader_write(l, LOW_PAGE_TABLES, tables, 6 * TABLE * sizeof(uint64_t), err);
    return r < 0 ? r : enter(l, entry, true, err);
}

/* ---- the whole --------------------------------------------------------------------------------
 */

enum { RESET_ENTRY = 0xffff0 };

static int write_smbios(struct loader *l, struct error *err)
{
    uint8_t entry28[SMBIOS_ENTRY_28], entry30[SMBIOS_ENTRY_30];
    auto_free uint8_t *tables = NULL;
    size_t size;
    int r = smbios_build(l->c->smbios, &tables, &size, err);

    if (r < 0)
        return r;
    if (size > BOOT_MPTABLE - BOOT_SMBIOS - 0x40)
        return error_set(err, E2BIG, "the SMBIOS tables have %zu bytes, there is room for %d", size,
                         BOOT_MPTABLE - BOOT_SMBIOS - 0x40);
    smbios_entry_28(entry28, tables, size, BOOT_SMBIOS + 0x40);
    smbios_entry_30(entry30, size, BOOT_SMBIOS + 0x40);
    r = loader_write(l, BOOT_SMBIOS, entry28, sizeof(entry28), err);
    if (!r)
        r = loader_write(l, BOOT_SMBIOS + 0x20, entry30, sizeof(entry30), err);
    if (!r)
        r = loader_write(l, BOOT_SMBIOS + 0x40, tables, size, err);
    return r;
}

static int write_mptable(struct loader *l, struct error *err)
{
    auto_free uint8_t *table = NULL;
    size_t size;
    int r = mptable_build(l->c->mp, BOOT_MPTABLE, &table, &size, err);

    if (r < 0)
        return r;
    if (size > RESET_ENTRY - BOOT_MPTABLE)
        return error_set(err, E2BIG, "the MP table has %zu bytes, there is room for %d", size,
                         RESET_ENTRY - BOOT_MPTABLE);
    return loader_write(l, BOOT_MPTABLE, table, size, err);
}

/*
 * A kernel that knows no better way to reset jumps to F000:FFF0, as Linux does on a microvm without
 * ACPI. The entry resets by a triple fault, which every board has: it loads an empty vector table
 * (the zeros at FFF8) and calls for a vector.
 */
static int write_reset_entry(struct loader *l, struct error *err)
{
    static const uint8_t entry[16] = {
        0x2e,        0x0f, 0x01, 0x1e, 0xf8, 0xff, /* lidt cs:[fff8] */
        0xcc,                                      /* int3 */
        [14] = 0xfc,                               /* the model byte: an AT */
    };

    return loader_write(l, RESET_ENTRY, entry, sizeof(entry), err);
}

/* The BIOS data area, as far as kernels look: where the EBDA is, and where memory ends. */
static int write_bios_data(struct loader *l, struct error *err)
{
    uint8_t ebda[2], memory[2];
    int r;

    store_le(ebda, BOOT_EBDA >> 4, 2);
    store_le(memory, BOOT_EBDA / KiB, 2);
    r = loader_write(l, 0x40e, ebda, 2, err);
    return r < 0 ? r : loader_write(l, 0x413, memory, 2, err);
}

static int load_kernel(struct loader *l, struct error *err)
{
    struct elf e = {0};
    uint32_t offset;
    bool is_elf = elf_probe(l);
    int r;

    if (linux_probe(l))
        return linux_load(l, err);
    if (is_elf) {
        r = elf_read(l, false, &e, err);
        if (r < 0)
            return r;
        if (e.has_pvh)
            return pvh_start(l, &e, err);
    }
    if (multiboot2_probe(l, &offset))
        return multiboot2_load(l, offset, err);
    if (multiboot1_probe(l, &offset))
        return multiboot1_load(l, offset, err);
    if (!is_elf)
        return file_error(l->kernel, err,
                          "is no Linux bzImage, no ELF file, and has no Multiboot header");
    if (e.for_programs)
        return file_error(l->kernel, err,
                          "is an ELF program for an operating system, not a kernel");
    r = elf_read(l, true, &e, err);
    return r < 0 ? r : linux_start(l, e.entry, e.is_64, err);
}

int boot_load(struct machine *m, const struct boot_config *c, struct error *err)
{
    auto_free struct loader *l = xcalloc(1, sizeof(*l));
    ssize_t n;
    int r;

    *l = (struct loader){.m = m, .c = c, .kernel = &c->files->kernel};
    l->initrd = c->files->initrd.fd >= 0 ? &c->files->initrd : NULL;
    if (m->ram_below_4g < 2 * MiB)
        return error_set(err, EINVAL, "a kernel needs at least 2 MiB of memory, there are %llu KiB",
                         (unsigned long long)(m->ram_below_4g / KiB));
    /* The files may have changed since they were opened. */
    r = file_check(l->kernel, err);
    if (!r && l->initrd)
        r = file_check(l->initrd, err);
    if (r < 0)
        return r;
    n = file_read_some(l->kernel, 0, l->head, sizeof(l->head));
    if (n < 0)
        return error_set_errno(err, (int)-n, "cannot read kernel '%s'", l->kernel->name);
    r = boot_memory_map(m, c->reserved, c->reserved_count, l->map, err);
    if (r < 0)
        return r;
    l->map_count = (unsigned)r;
    r = loader_claim(l, 0, 0x1000, "the BIOS data area", err);
    if (!r)
        r = loader_claim(l, BOOT_LOW_TABLES, BOOT_LOW_TABLES_END - BOOT_LOW_TABLES,
                         "the loader's tables", err);
    if (!r)
        r = write_bios_data(l, err);
    if (!r)
        r = write_reset_entry(l, err);
    if (!r && c->smbios)
        r = write_smbios(l, err);
    if (!r && c->mp)
        r = write_mptable(l, err);
    return r < 0 ? r : load_kernel(l, err);
}
