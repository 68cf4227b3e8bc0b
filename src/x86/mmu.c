/*
 * mmu.c - see mmu.h.
 *
 * One loop walks all formats: a format is the number of levels, the size of an entry, and which
 * bits are reserved where. What an editor must keep:
 *
 *  - An entry is used only in the value its A and D bits were set on: the compare-exchange fails
 *    when another processor changed it, and the walk starts again.
 *  - The accessed bit of an upper entry is set when the walk passes it; a leaf gets A and D only
 *    when the access is allowed.
 *  - A TLB entry says "a plain host access does what the guest asked": RAM or ROM, not the local
 *    APIC's page, and for writes a page nobody watches, with D set already.
 *  - mmu_access_page() is asked once for each page of an access, both before anything is written.
 */
#include "x86/mmu.h"

#include "memory/ram.h"
#include "x86/model.h"

#include <errno.h>
#include <stdlib.h>

enum pte_bit {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8,
};
#define PTE_NX     BIT(63)
#define PAGE_MASK  UINT64_C(0xfff)
#define PTE_FRAME  UINT64_C(0x000ffffffffff000)
#define BITS(h, l) (BIT((h) + 1) - BIT(l)) /* h < 63 */

void mmu_attach(struct cpu *cpu)
{
    cpu->tlb = aligned_alloc(64, align_up(sizeof(struct tlb), 64));
    if (!cpu->tlb)
        abort();
    memset(cpu->tlb, 0, sizeof(struct tlb));
    cpu->tlb->used = (1u << MMU_MODES * MMU_ACCESSES) - 1;
    mmu_flush_all(cpu);
}

void mmu_detach(struct cpu *cpu)
{
    free(cpu->tlb);
    cpu->tlb = NULL;
}

/* ---- physical pages ------------------------------------------------------------------------- */

/* The RAM or ROM page that holds `address` (A20 applied), or NULL: MMIO, APIC or nothing. */
static struct phys_entry *phys_find(struct cpu *cpu, gpa address)
{
    gpa page = address & ~PAGE_MASK;
    struct phys_entry *e = &cpu->tlb->phys[page >> 12 & (PHYS_CACHE_SIZE - 1)];
    struct memory_target t;

    if (page == cpu->apic_page)
        return NULL;
    if (e->page == page)
        return e;
    memory_lookup(cpu->memory, cpu->in_smm ? VIEW_SMM : VIEW_NORMAL, page, &t);
    if (!t.block)
        return NULL;
    *e = (struct phys_entry){page, t.block, t.offset, t.writable};
    return e;
}

static uint64_t entry_load(struct cpu *cpu, gpa address, unsigned size)
{
    struct phys_entry *e = cpu->tlb ? phys_find(cpu, address) : NULL;
    const uint8_t *p;

    if (!e)
        return cpu_phys_read(cpu, address, size);
    p = e->block->host + e->offset + (address & PAGE_MASK);
    return size == 4 ? *(const volatile uint32_t *)p : *(const volatile uint64_t *)p;
}

/* Set bits in a paging-structure entry that still has the value `old`. */
static bool entry_update(struct cpu *cpu, gpa address, uint64_t old, uint64_t new, unsigned size)
{
    struct phys_entry *e = cpu->tlb ? phys_find(cpu, address) : NULL;
    uint64_t offset;
    bool same;

    if (!e) {
        cpu_phys_write(cpu, address, new, size);
        return true;
    }
    if (!e->writable)
        return true; /* tables in ROM: the write is lost */
    offset = e->offset + (address & PAGE_MASK);
    if (size == 4) {
        uint32_t expected = (uint32_t)old;

        same = atomic_compare_exchange_strong((_Atomic uint32_t *)(e->block->host + offset),
                                              &expected, (uint32_t) new);
    } else {
        same = atomic_compare_exchange_strong((_Atomic uint64_t *)(e->block->host + offset), &old,
                                              new);
    }
    if (same && !ram_write_is_plain(e->block, offset))
        ram_written(e->block, offset, size);
    return same;
}

/* ---- the walk ------------------------------------------------------------------------------- */

struct format {
    unsigned levels, entry_size, index_bits;
    uint64_t reserved;    /* in every present entry */
    uint64_t pae_top;     /* PAE: the entry comes from a register */
    unsigned max_leaf;    /* highest level with PS: 2, or 3 with 1 GiB pages */
    uint64_t must_not_ps; /* PS is reserved above max_leaf: PTE_PS or 0 */
};

static unsigned phys_bits(const struct cpu *cpu)
{
    unsigned n = cpu->model ? cpu->model->phys_bits : 0;

    return n >= 32 && n <= 52 ? n : 40;
}

static void format_get(struct cpu *cpu, struct format *f)
{
    uint64_t above = BIT(52) - BIT(phys_bits(cpu));

    if (!(cpu->cr4 & CR4_PAE)) {
        *f = (struct format){.levels = 2, .entry_size = 4, .index_bits = 10, .max_leaf = 1};
        if (cpu->cr4 & CR4_PSE)
            f->max_leaf = 2;
        return;
    }
    *f = (struct format){.entry_size = 8, .index_bits = 9, .reserved = above, .max_leaf = 2};
    if (!(cpu->efer & EFER_NXE))
        f->reserved |= PTE_NX;
    if (!cpu_long_mode(cpu)) {
        f->levels = 2; /* the third is in registers */
        f->reserved |= BITS(62, 52);
        return;
    }
    f->levels = cpu->cr4 & CR4_LA57 ? 5 : 4;
    f->must_not_ps = PTE_PS;
    if (cpu->model && cpu_has(cpu, FEATURE_PDPE1GB))
        f->max_leaf = 3;
}

/* Bits of a large leaf that must be zero besides format.reserved. */
static uint64_t large_reserved(const struct cpu *cpu, const struct format *f, unsigned level)
{
    unsigned bits;

    if (f->entry_size == 8)
        return level == 3 ? BITS(29, 13) : BITS(20, 13);
    /* 4 MiB: bits 13 up are address bits 32 up (PSE-36), as many as the processor has */
    if (cpu->model && !cpu_has(cpu, FEATURE_PSE36))
        return BITS(21, 13);
    bits = MIN(phys_bits(cpu), 40u);
    return BITS(21, bits - 19);
}

static bool no_execute_counts(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_PAE && cpu->efer & EFER_NXE;
}

static bool allowed(const struct cpu *cpu, enum mmu_mode mode, enum mmu_access access, bool user,
                    bool writable, bool nx)
{
    if (mode == MMU_USER)
        return user && (access != MMU_WRITE || writable) && (access != MMU_FETCH || !nx);
    if (access == MMU_FETCH)
        return !nx && !(user && cpu->cr4 & CR4_SMEP);
    if (user && mode == MMU_KERNEL)
        return false;
    return access == MMU_READ || writable || !(cpu->cr0 & CR0_WP);
}

int mmu_walk(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access, bool set_bits,
             struct mmu_translation *out, uint32_t *pf_error)
{
    uint64_t a20 = *cpu->a20_mask;
    uint32_t error = 0;
    struct format f;

    if (!(cpu->cr0 & CR0_PG)) {
        *out = (struct mmu_translation){.address = linear & UINT32_MAX & a20,
                                        .page_size = 4 * KiB,
                                        .writable = true,
                                        .dirty = true,
                                        .user = true};
        return 0;
    }
    if (access == MMU_WRITE)
        error |= PF_W;
    if (mode == MMU_USER)
        error |= PF_U;
    if (access == MMU_FETCH && (no_execute_counts(cpu) || cpu->cr4 & CR4_SMEP))
        error |= PF_I;
    format_get(cpu, &f);

    for (;;) { /* again when another processor changed an entry under the walk */
        bool user = true, writable = true, nx = false;
        uint64_t table, entry, changed, size;
        unsigned level = f.levels, shift;
        gpa address;

        if (f.entry_size == 8 && f.levels == 2) {
            entry = cpu->pdptr[linear >> 30 & 3];
            if (!(entry & PTE_P))
                goto not_present;
            table = entry & PTE_FRAME;
        } else {
            table = cpu->cr3 & (f.entry_size == 8 ? PTE_FRAME : UINT64_C(0xfffff000));
        }
        for (;; level--) {
            bool leaf;

            shift = 12 + f.index_bits * (level - 1);
            address = (table + (linear >> shift & (BIT(f.index_bits) - 1)) * f.entry_size) & a20;
            entry = entry_load(cpu, address, f.entry_size);
            if (!(entry & PTE_P))
                goto not_present;
            leaf = level == 1 || (entry & PTE_PS && level <= f.max_leaf);
            if (entry & f.reserved || (!leaf && level > f.max_leaf && entry & f.must_not_ps) ||
                (leaf && level > 1 && entry & large_reserved(cpu, &f, level))) {
                *pf_error = error | PF_P | PF_RSVD;
                return -EFAULT;
            }
            user = user && entry & PTE_U;
            writable = writable && entry & PTE_W;
            nx = nx || (f.entry_size == 8 && entry & PTE_NX);
            if (leaf)
                break;
            if (set_bits && !(entry & PTE_A) &&
                !entry_update(cpu, address, entry, entry | PTE_A, f.entry_size))
                goto again;
            table = entry & (f.entry_size == 8 ? PTE_FRAME : UINT64_C(0xfffff000));
        }

        if (!allowed(cpu, mode, access, user, writable, nx)) {
            *pf_error = error | PF_P;
            return -EFAULT;
        }
        changed = entry | PTE_A | (access == MMU_WRITE ? PTE_D : 0);
        if (set_bits && changed != entry) {
            if (!entry_update(cpu, address, entry, changed, f.entry_size))
                goto again;
            entry = changed;
        }
        size = BIT(shift);
        if (f.entry_size == 4 && level == 2) {
            address = (entry & UINT64_C(0xffc00000)) | (entry >> 13 & 0xff) << 32;
        } else {
            address = entry & (f.entry_size == 8 ? PTE_FRAME : UINT64_C(0xfffff000)) & ~(size - 1);
        }
        *out = (struct mmu_translation){
            .address = (address | (linear & (size - 1))) & a20,
            .page_size = size,
            .writable = allowed(cpu, mode, MMU_WRITE, user, writable, nx),
            .dirty = (entry & PTE_D) != 0,
            .user = user,
            .global = (entry & PTE_G) != 0 && cpu->cr4 & CR4_PGE,
            .no_execute = nx,
        };
        return 0;
again:;
    }

not_present:
    *pf_error = error;
    return -EFAULT;
}

/* ---- the TLB -------------------------------------------------------------------------------- */

void mmu_flush_linear(struct cpu *cpu)
{
    struct tlb *t = cpu->tlb;

    if (!t)
        return;
    for (unsigned i = 0; i < MMU_MODES * MMU_ACCESSES; i++)
        if (t->used & 1u << i)
            memset(t->entry[i / MMU_ACCESSES][i % MMU_ACCESSES], 0xff, sizeof(t->entry[0][0]));
    t->used = 0;
    t->large_mask = 0;
    t->large_base = 1;
    t->flushes++;
}

void mmu_flush_all(struct cpu *cpu)
{
    if (!cpu->tlb)
        return;
    mmu_flush_linear(cpu);
    memset(cpu->tlb->phys, 0xff, sizeof(cpu->tlb->phys));
}

void mmu_flush_page(struct cpu *cpu, gva linear)
{
    struct tlb *t = cpu->tlb;

    if (!t)
        return;
    if ((linear & t->large_mask) == t->large_base) {
        mmu_flush_linear(cpu);
        return;
    }
    for (unsigned mode = 0; mode < MMU_MODES; mode++)
        for (unsigned access = 0; access < MMU_ACCESSES; access++) {
            struct tlb_entry *e = &t->entry[mode][access][tlb_index(linear)];

            if (e->tag == (linear & ~PAGE_MASK))
                e->tag = TLB_NO_TAG;
        }
}

/* Grow the range that stands for all large pages until it holds this one. */
static void note_large(struct tlb *t, gva linear, uint64_t size)
{
    uint64_t mask = ~(size - 1);

    if (t->large_base != 1) {
        mask &= t->large_mask;
        while ((t->large_base ^ linear) & mask)
            mask <<= 1;
    }
    t->large_mask = mask;
    t->large_base = linear & mask;
}

static void tlb_set(struct tlb *t, enum mmu_mode mode, enum mmu_access access, gva linear,
                    const uint8_t *host)
{
    gva page = linear & ~PAGE_MASK;

    t->used |= (uint16_t)(1u << (mode * MMU_ACCESSES + access));
    t->entry[mode][access][tlb_index(linear)] =
        (struct tlb_entry){page, (uint64_t)(host - (linear & PAGE_MASK)) - page};
}

_Noreturn static void page_fault(struct cpu *cpu, gva linear, uint32_t error)
{
    cpu->cr2 = linear;
    cpu_raise_error(cpu, EXC_PF, error);
}

uint8_t *mmu_access_page(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access,
                         gpa *address, struct ram_block **block, uint64_t *offset)
{
    uint8_t *host = tlb_lookup(cpu, linear, 1, mode, access);
    struct mmu_translation t;
    struct phys_entry *e;
    uint32_t error;

    *block = NULL;
    if (host)
        return host;
    cpu->tlb->misses++;
    if (mmu_walk(cpu, linear, mode, access, true, &t, &error) < 0)
        page_fault(cpu, linear, error);
    *address = t.address;
    e = phys_find(cpu, t.address);
    if (!e || (access == MMU_WRITE && !e->writable))
        return NULL;
    host = e->block->host + e->offset + (t.address & PAGE_MASK);
    if (t.page_size > 4 * KiB)
        note_large(cpu->tlb, linear, t.page_size);
    if (access == MMU_FETCH) {
        tlb_set(cpu->tlb, mode, MMU_FETCH, linear, host);
        return host;
    }
    tlb_set(cpu->tlb, mode, MMU_READ, linear, host);
    if (e->writable && t.writable && t.dirty) {
        if (ram_write_is_plain(e->block, e->offset)) {
            tlb_set(cpu->tlb, mode, MMU_WRITE, linear, host);
        } else if (access == MMU_WRITE) {
            *block = e->block;
            *offset = e->offset + (t.address & PAGE_MASK);
        }
    }
    return host;
}

/* ---- accesses of any shape ------------------------------------------------------------------ */

/* One side of an access that may cross a page. */
struct piece {
    uint8_t *host; /* NULL: by address */
    gpa address;
    struct ram_block *block;
    uint64_t offset;
    unsigned size;
};

/* Where the page behind the one of `linear` starts: 32-bit code wraps at 4 GiB, but in
 * compatibility mode the tables and stacks of the system lie above. */
static gva next_page(const struct cpu *cpu, gva linear)
{
    gva next = (linear | PAGE_MASK) + 1;

    return cpu->code_size == 8 || linear > UINT32_MAX ? next : next & UINT32_MAX;
}

/* Find, and check, all pages of an access. How many pieces it has. */
static unsigned pieces_get(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode,
                           enum mmu_access access, struct piece p[2])
{
    unsigned first = (unsigned)MIN(size, PAGE_MASK + 1 - (linear & PAGE_MASK));

    p[0].size = first;
    p[0].host = mmu_access_page(cpu, linear, mode, access, &p[0].address, &p[0].block,
                                &p[0].offset);
    if (first == size)
        return 1;
    p[1].size = size - first;
    p[1].host = mmu_access_page(cpu, next_page(cpu, linear), mode, access, &p[1].address,
                                &p[1].block, &p[1].offset);
    return 2;
}

static void host_copy(void *to, const void *from, unsigned size)
{
    switch (size) { /* the sizes whose atomicity is promised */
    case 1: *(volatile uint8_t *)to = *(const volatile uint8_t *)from; break;
    case 2: *(volatile mmu_u16 *)to = *(const volatile mmu_u16 *)from; break;
    case 4: *(volatile mmu_u32 *)to = *(const volatile mmu_u32 *)from; break;
    case 8: *(volatile mmu_u64 *)to = *(const volatile mmu_u64 *)from; break;
    default: memcpy(to, from, size);
    }
}

/* A device sees the sizes the guest used where they are 1, 2, 4 or 8; others in such parts. */
static unsigned part_size(unsigned left)
{
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

void mmu_load_bytes(struct cpu *cpu, gva linear, void *to, unsigned size, enum mmu_mode mode)
{
    const uint8_t *host = tlb_lookup(cpu, linear, size, mode, MMU_READ);
    struct piece p[2];
    uint8_t *out = to;
    unsigned count;

    if (host) {
        host_copy(to, host, size);
        return;
    }
    count = pieces_get(cpu, linear, size, mode, MMU_READ, p);
    for (unsigned i = 0; i < count; out += p[i++].size) {
        if (p[i].host) {
            host_copy(out, p[i].host, p[i].size);
            continue;
        }
        for (unsigned done = 0, n; done < p[i].size; done += n) {
            n = part_size(p[i].size - done);
            store_le(out + done, cpu_phys_read(cpu, p[i].address + done, n), n);
        }
    }
}

void mmu_store_bytes(struct cpu *cpu, gva linear, const void *from, unsigned size,
                     enum mmu_mode mode)
{
    uint8_t *host = tlb_lookup(cpu, linear, size, mode, MMU_WRITE);
    const uint8_t *in = from;
    struct piece p[2];
    unsigned count;

    if (host) {
        host_copy(host, from, size);
        return;
    }
    count = pieces_get(cpu, linear, size, mode, MMU_WRITE, p);
    for (unsigned i = 0; i < count; in += p[i++].size) {
        if (p[i].host) {
            host_copy(p[i].host, in, p[i].size);
            if (p[i].block)
                ram_written(p[i].block, p[i].offset, p[i].size);
            continue;
        }
        for (unsigned done = 0, n; done < p[i].size; done += n) {
            n = part_size(p[i].size - done);
            cpu_phys_write(cpu, p[i].address + done, load_le(in + done, n), n);
        }
    }
}

uint64_t mmu_load_slow(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode)
{
    uint64_t value = 0;

    mmu_load_bytes(cpu, linear, &value, size, mode);
    return value;
}

void mmu_store_slow(struct cpu *cpu, gva linear, uint64_t value, unsigned size, enum mmu_mode mode)
{
    mmu_store_bytes(cpu, linear, &value, size, mode);
}

void mmu_probe(struct cpu *cpu, gva linear, uint64_t length, enum mmu_mode mode,
               enum mmu_access access)
{
    struct ram_block *block;
    uint64_t offset;
    gpa address;

    while (length) {
        uint64_t n = MIN(length, PAGE_MASK + 1 - (linear & PAGE_MASK));

        mmu_access_page(cpu, linear, mode, access, &address, &block, &offset);
        linear = next_page(cpu, linear);
        length -= n;
    }
}

bool mmu_load_pdptrs(struct cpu *cpu, uint64_t cr3)
{
    uint64_t reserved = BITS(2, 1) | BITS(8, 5) | (~UINT64_C(0) << phys_bits(cpu)), entry[4];

    for (unsigned i = 0; i < 4; i++) {
        entry[i] = cpu_phys_read(cpu, (cr3 & UINT64_C(0xffffffe0)) + 8 * i, 8);
        if (entry[i] & PTE_P && entry[i] & reserved)
            return false;
    }
    memcpy(cpu->pdptr, entry, sizeof(entry));
    return true;
}
