/*
 * elf.c - ELF kernels: segments at their physical addresses, and the PVH start protocol
 * (a note says the 32-bit entry; the kernel gets struct hvm_start_info).
 *
 * Program headers are used, sections never. The program header table and the notes are bounded, so
 * a file cannot make us loop or allocate by what it says.
 */
#include "boot/loader.h"

#include <elf.h>
#include <errno.h>

enum { ELF_PROGRAM_HEADERS = 64, ELF_NOTES_SIZE = 64 * KiB, NOTE_PHYS32_ENTRY = 18 };

struct segment_header {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
};

bool elf_probe(const struct loader *l)
{
    return !memcmp(l->head, ELFMAG, SELFMAG);
}

static void read_header(const uint8_t *table, unsigned size, bool is_64, unsigned i,
                        struct segment_header *out)
{
    if (is_64) {
        Elf64_Phdr p;

        memcpy(&p, table + (size_t)i * size, sizeof(p));
        *out = (struct segment_header){p.p_type,  p.p_offset, p.p_vaddr,
                                       p.p_paddr, p.p_filesz, p.p_memsz};
    } else {
        Elf32_Phdr p;

        memcpy(&p, table + (size_t)i * size, sizeof(p));
        *out = (struct segment_header){p.p_type,  p.p_offset, p.p_vaddr,
                                       p.p_paddr, p.p_filesz, p.p_memsz};
    }
}

/* Look for the PVH entry in a PT_NOTE segment. Notes that make no sense end the search. */
static int read_notes(struct loader *l, const struct segment_header *s, struct elf *out,
                      struct error *err)
{
    size_t size = (size_t)MIN(s->filesz, (uint64_t)ELF_NOTES_SIZE), at = 0;
    auto_free uint8_t *notes = xcalloc(1, ELF_NOTES_SIZE);
    int r = file_read(l->kernel, s->offset, notes, size, "the ELF notes", err);

    if (r < 0)
        return r;
    while (size - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr n;
        uint64_t name, desc;

        memcpy(&n, notes + at, sizeof(n));
        name = at + sizeof(n);
        desc = name + align_up(n.n_namesz, 4);
        if (!range_within(desc, n.n_descsz, size))
            break;
        if (n.n_type == NOTE_PHYS32_ENTRY && n.n_namesz == 4 && !memcmp(notes + name, "Xen", 4) &&
            (n.n_descsz == 4 || n.n_descsz == 8)) {
            uint64_t entry = load_le(notes + desc, n.n_descsz);

            if (entry > UINT32_MAX)
                return file_error(l->kernel, err, "PVH note says entry %#llx, which is above 4 GiB",
                                  (unsigned long long)entry);
            out->has_pvh = true;
            out->pvh_entry = (uint32_t)entry;
            return 0;
        }
        if (desc + align_up(n.n_descsz, 4) > size)
            break;
        at = (size_t)(desc + align_up(n.n_descsz, 4));
    }
    return 0;
}

static int load_segment(struct loader *l, const struct segment_header *s, struct error *err)
{
    int r;

    if (s->filesz > s->memsz)
        return file_error(l->kernel, err,
                          "an ELF segment has %#llx bytes in the file and only %#llx in memory",
                          (unsigned long long)s->filesz, (unsigned long long)s->memsz);
    if (!range_within(s->paddr, s->memsz, UINT64_C(1) << 32))
        return file_error(l->kernel, err, "an ELF segment at %#llx, %#llx bytes, is above 4 GiB",
                          (unsigned long long)s->paddr, (unsigned long long)s->memsz);
    r = loader_claim(l, s->paddr, s->memsz, "an ELF segment", err);
    if (!r)
        r = loader_copy(l, l->kernel, s->offset, s->filesz, s->paddr, "an ELF segment", err);
    return r < 0 ? r : loader_fill(l, s->paddr + s->filesz, s->memsz - s->filesz, err);
}

int elf_read(struct loader *l, bool load, struct elf *out, struct error *err)
{
    struct elf e = {.is_64 = l->head[EI_CLASS] == ELFCLASS64};
    uint8_t table[ELF_PROGRAM_HEADERS * sizeof(Elf64_Phdr)];
    uint64_t phoff, entry, entry_at = 0;
    unsigned machine, phnum, phentsize, want, loadable = 0;
    bool found = false;
    int r;

    if (e.is_64) {
        Elf64_Ehdr h;

        memcpy(&h, l->head, sizeof(h));
        machine = h.e_machine, phoff = h.e_phoff, phnum = h.e_phnum;
        phentsize = h.e_phentsize, entry = h.e_entry;
        e.for_programs = h.e_type == ET_DYN;
        want = sizeof(Elf64_Phdr);
    } else {
        Elf32_Ehdr h;

        memcpy(&h, l->head, sizeof(h));
        machine = h.e_machine, phoff = h.e_phoff, phnum = h.e_phnum;
        phentsize = h.e_phentsize, entry = h.e_entry;
        e.for_programs = h.e_type == ET_DYN;
        want = sizeof(Elf32_Phdr);
    }
    /* 32-bit files of x86-64 code (x32) exist. */
    if (l->head[EI_DATA] != ELFDATA2LSB || (machine != EM_X86_64 && (e.is_64 || machine != EM_386)))
        return file_error(l->kernel, err, "is an ELF file for another processor (machine %u)",
                          machine);
    if (phentsize != want || !phnum || phnum > ELF_PROGRAM_HEADERS)
        return file_error(
            l->kernel, err,
            "has %u ELF program headers of %u bytes; 1 to %d of %u bytes are expected", phnum,
            phentsize, ELF_PROGRAM_HEADERS, want);
    r = file_read(l->kernel, phoff, table, (size_t)phnum * want, "the ELF program header table",
                  err);
    for (unsigned i = 0; !r && i < phnum; i++) {
        struct segment_header s;

        read_header(table, want, e.is_64, i, &s);
        if (s.type == PT_INTERP)
            e.for_programs = true;
        if (s.type == PT_NOTE && !e.has_pvh)
            r = read_notes(l, &s, &e, err);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        loadable++;
        /* The entry is a virtual address in some kernels, a physical one in Linux. */
        if (!found && entry >= s.vaddr && entry - s.vaddr < s.memsz) {
            entry_at = s.paddr + (entry - s.vaddr);
            found = true;
        } else if (!found && entry >= s.paddr && entry - s.paddr < s.memsz) {
            entry_at = entry;
            found = true;
        }
        if (load)
            r = load_segment(l, &s, err);
    }
    if (r < 0)
        return r;
    if (!loadable)
        return file_error(l->kernel, err, "has no ELF segment to load");
    if (!found && !e.has_pvh)
        return file_error(l->kernel, err, "has its ELF entry %#llx outside of every segment",
                          (unsigned long long)entry);
    e.entry = entry_at;
    *out = e;
    return 0;
}

/* struct hvm_start_info, version 1, and what it points at, one behind the other. */
enum {
    START_INFO_SIZE = 56,
    MODULE_ENTRY_SIZE = 32,
    MEMMAP_ENTRY_SIZE = 24,
};
#define START_INFO_MAGIC UINT32_C(0x336ec578)

int pvh_start(struct loader *l, const struct elf *e, struct error *err)
{
    uint8_t info[START_INFO_SIZE + MODULE_ENTRY_SIZE + BOOT_RANGES * MEMMAP_ENTRY_SIZE] = {0};
    uint8_t *module = info + START_INFO_SIZE, *memmap = module + MODULE_ENTRY_SIZE;
    struct elf again;
    uint64_t size;
    gpa initrd;
    int r = elf_read(l, true, &again, err);

    if (!r)
        r = loader_initrd(l, UINT64_C(1) << 32, &initrd, &size, err);
    if (!r)
        r = loader_cmdline(l, LOW_CMDLINE_MAX - 1, err);
    if (r < 0)
        return r;
    store_le(info, START_INFO_MAGIC, 4);
    store_le(info + 4, 1, 4); /* version */
    if (size) {
        store_le(info + 12, 1, 4); /* modules */
        store_le(info + 16, LOW_INFO + START_INFO_SIZE, 8);
        store_le(module, initrd, 8);
        store_le(module + 8, size, 8);
    }
    store_le(info + 24, LOW_CMDLINE, 8);
    store_le(info + 32, l->c->rsdp, 8);
    store_le(info + 40, LOW_INFO + START_INFO_SIZE + MODULE_ENTRY_SIZE, 8);
    store_le(info + 48, l->map_count, 4);
    for (unsigned i = 0; i < l->map_count; i++) {
        store_le(memmap + MEMMAP_ENTRY_SIZE * i, l->map[i].base, 8);
        store_le(memmap + MEMMAP_ENTRY_SIZE * i + 8, l->map[i].size, 8);
        store_le(memmap + MEMMAP_ENTRY_SIZE * i + 16, l->map[i].kind, 4);
    }
    r = loader_write(l, LOW_INFO, info, sizeof(info), err);
    if (!r)
        r = loader_enter_32(l, e->pvh_entry, err);
    if (!r)
        l->m->cpus[0]->gpr[GPR_RBX] = LOW_INFO;
    return r;
}
