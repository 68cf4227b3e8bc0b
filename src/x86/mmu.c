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
 *  - No write entry without RAM_WRITE_CACHED in the page's flags, set before RAM_CODE and tracking
 *    are looked at (write_allowed()): see memory/ram.h.
 *  - mmu_access_page() is asked once for each page of an access, both before anything is written.
 *  - mmu_fill() runs while the guest's vector registers are live: this file is compiled for general
 *    registers only, and what mmu_fill() uses is inlined into it and calls nothing.
 */
#include "x86/mmu.h"

#include "memory/ram.h"
#include "x86/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef __SSE__
#error "mmu.c must be compiled with -mgeneral-regs-only"
#endif
#define always_inline inline __attribute__((always_inline))

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

/* ---- physical pages ------------------------------------------------------------------------- */

/* A page of RAM or ROM. */
struct page {
    struct ram_block *block; /* NULL: MMIO, APIC or nothing */
    uint64_t offset;         /* in the block */
    bool writable;
};

/* A range for the page and what follows it. It takes the place of one it contains, so that each
 * piece of RAM ends up with one. */
static void phys_learn(struct cpu *cpu, gpa page)
{
    struct tlb *tlb = cpu->tlb;
    struct memory_target t;
    unsigned n = 0;

    memory_lookup(cpu->memory, cpu->in_smm ? VIEW_SMM : VIEW_NORMAL, page, &t);
    t.length &= ~PAGE_MASK;
    if (!t.block || t.length == 0)
        return;
    while (n < PHYS_RANGES && tlb->phys[n].length && tlb->phys[n].base - page >= t.length)
        n++;
    if (n == PHYS_RANGES)
        n = tlb->phys_next++ % PHYS_RANGES;
    tlb->phys[n] = (struct phys_range){page, t.length, t.block, t.offset, t.writable};
}

static always_inline bool phys_known(struct cpu *cpu, gpa page, struct page *out)
{
    for (unsigned n = 0; n < PHYS_RANGES; n++) {
        const struct phys_range *r = &cpu->tlb->phys[n];

        if (page - r->base < r->length) {
            *out = (struct page){r->block, r->offset + (page - r->base), r->writable};
            return true;
        }
    }
    return false;
}

/* The RAM or ROM page that holds `address` (A20 applied). `cached`: where it is known, and nobody
 * is asked. */
static always_inline struct page phys_find(struct cpu *cpu, gpa address, const bool cached)
{
    gpa page = address & ~PAGE_MASK;
    struct page p = {0};

    if (page == cpu->apic_page || phys_known(cpu, page, &p) || cached)
        return p;
    phys_learn(cpu, page);
    phys_known(cpu, page, &p);
    return p;
}

enum update { UPDATE_DONE, UPDATE_AGAIN, UPDATE_REFUSED };

/* False: not known (`cached` only). */
static always_inline bool entry_load(struct cpu *cpu, gpa address, unsigned size, const bool cached,
                                     uint64_t *entry)
{
    struct page e = cpu->tlb ? phys_find(cpu, address, cached) : (struct page){0};
    const uint8_t *p;

    if (!e.block) {
        if (cached)
            return false;
        if (cpu->tlb && cpu->tlb->dry)
            cpu->tlb->dry->device(cpu);
        *entry = cpu_phys_read(cpu, address, size);
        return true;
    }
    p = e.block->host + e.offset;
    if (!cached && cpu->tlb->dry)
        p = cpu->tlb->dry->page(cpu, e.block->host + e.offset, false, true);
    p += address & PAGE_MASK;
    *entry = size == 4 ? *(const volatile uint32_t *)p : *(const volatile uint64_t *)p;
    return true;
}

/* Set bits in a paging-structure entry that still has the value `old`. */
static always_inline enum update entry_update(struct cpu *cpu, gpa address, uint64_t old,
                                              uint64_t new, unsigned size, const bool cached)
{
    struct page e = cpu->tlb ? phys_find(cpu, address, cached) : (struct page){0};
    uint64_t offset;
    bool same;

    if (!e.block) {
        if (cached)
            return UPDATE_REFUSED;
        cpu_phys_write(cpu, address, new, size);
        return UPDATE_DONE;
    }
    if (!e.writable)
        return UPDATE_DONE; /* tables in ROM: the write is lost */
    offset = e.offset + (address & PAGE_MASK);
    if (cached && !ram_write_is_plain(e.block, offset))
        return UPDATE_REFUSED;
    if (!cached && cpu->tlb->dry) {
        uint8_t *p = cpu->tlb->dry->page(cpu, e.block->host + e.offset, true, true);

        store_le(p + (address & PAGE_MASK), new, size);
        return UPDATE_DONE;
    }
    if (size == 4) {
        uint32_t expected = (uint32_t)old;

        same = atomic_compare_exchange_strong((_Atomic uint32_t *)(e.block->host + offset),
                                              &expected, (uint32_t) new);
    } else {
        same = atomic_compare_exchange_strong((_Atomic uint64_t *)(e.block->host + offset), &old,
                                              new);
    }
    if (!cached && same && !ram_write_is_plain(e.block, offset))
        ram_written(e.block, offset, size);
    return same ? UPDATE_DONE : UPDATE_AGAIN;
}

/* ---- the walk ------------------------------------------------------------------------------- */

struct format {
    unsigned levels, entry_size, index_bits;
    uint64_t reserved;    /* in every present entry */
    uint64_t pae_top;     /* PAE: the entry comes from a register */
    unsigned max_leaf;    /* highest level with PS: 2, or 3 with 1 GiB pages */
    uint64_t must_not_ps; /* PS is reserved above max_leaf: PTE_PS or 0 */
};

static always_inline unsigned phys_bits(const struct cpu *cpu)
{
    unsigned n = cpu->model ? cpu->model->phys_bits : 0;

    return n >= 32 && n <= 52 ? n : 40;
}

static always_inline void format_get(struct cpu *cpu, struct format *f)
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
static always_inline uint64_t large_reserved(const struct cpu *cpu, const struct format *f,
                                             unsigned level)
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

static always_inline bool no_execute_counts(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_PAE && cpu->efer & EFER_NXE;
}

static always_inline bool allowed(const struct cpu *cpu, enum mmu_mode mode, enum mmu_access access,
                                  bool user, bool writable, bool nx)
{
    if (mode == MMU_USER)
        return user && (access != MMU_WRITE || writable) && (access != MMU_FETCH || !nx);
    if (access == MMU_FETCH)
        return !nx && !(user && cpu->cr4 & CR4_SMEP);
    if (user && mode == MMU_KERNEL)
        return false;
    return access == MMU_READ || writable || !(cpu->cr0 & CR0_WP);
}

/* May guest code write the page that is at `offset`, as far as the page's flags say? Then it is
 * noted that there is a write entry. */
static always_inline bool write_allowed(struct ram_block *b, uint64_t offset)
{
    atomic_uchar *flags = &b->page_flags[offset >> RAM_PAGE_BITS];

    if (!ram_write_is_plain(b, offset))
        return false;
    if (!(atomic_load_explicit(flags, memory_order_relaxed) & RAM_WRITE_CACHED))
        atomic_fetch_or(flags, RAM_WRITE_CACHED);
    return ram_write_is_plain(b, offset);
}

/* Whose walk it is: mmu_walk()'s, mmu_fill()'s, mmu_fill_code()'s. */
enum walk_for { WALK_ALL, WALK_FILL, WALK_CODE };

/* A page that is written to directly but for the engine's code made from it? */
static always_inline bool only_code(const struct ram_block *b, uint64_t offset)
{
    uint8_t flags = atomic_load_explicit(&b->page_flags[offset >> RAM_PAGE_BITS],
                                         memory_order_relaxed);

    return flags & RAM_CODE && !(atomic_load_explicit(&b->tracking, memory_order_relaxed) & ~flags);
}

/* Would a write to this address be an access that mmu_fill() may make an entry for, or one that
 * mmu_fill_code() is for? */
static always_inline bool target_is_cached(struct cpu *cpu, gpa address, enum mmu_access access,
                                           const enum walk_for cached)
{
    struct page e = phys_find(cpu, address, true);

    if (cached == WALK_CODE)
        return e.block && e.writable && only_code(e.block, e.offset);

    return e.block && (access != MMU_WRITE || (e.writable && write_allowed(e.block, e.offset)));
}

/*
 * The walk of mmu_walk() and, with `cached`, of the other two: then only pages known to tlb->phys
 * are read, nothing is done but what ends in an entry, and whatever else there is gives -EAGAIN.
 */
static always_inline int walk(struct cpu *cpu, gva linear, enum mmu_mode mode,
                              enum mmu_access access, bool set_bits, const enum walk_for cached,
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

    /* Again when another processor changed an entry under the walk. */
    for (unsigned tries = 0; !cached || tries < 8; tries++) {
        bool user = true, writable = true, nx = false;
        uint64_t table, entry, changed, size;
        unsigned level = f.levels, shift;
        enum update update;
        gpa address, target;

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
            if (!entry_load(cpu, address, f.entry_size, cached, &entry))
                return -EAGAIN;
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
            if (set_bits && !(entry & PTE_A)) {
                update = entry_update(cpu, address, entry, entry | PTE_A, f.entry_size, cached);
                if (cached && update == UPDATE_REFUSED)
                    return -EAGAIN;
                if (update == UPDATE_AGAIN)
                    goto again;
            }
            table = entry & (f.entry_size == 8 ? PTE_FRAME : UINT64_C(0xfffff000));
        }

        if (!allowed(cpu, mode, access, user, writable, nx)) {
            *pf_error = error | PF_P;
            return -EFAULT;
        }
        size = BIT(shift);
        if (f.entry_size == 4 && level == 2) {
            target = (entry & UINT64_C(0xffc00000)) | (entry >> 13 & 0xff) << 32;
        } else {
            target = entry & (f.entry_size == 8 ? PTE_FRAME : UINT64_C(0xfffff000)) & ~(size - 1);
        }
        target = (target | (linear & (size - 1))) & a20;
        if (cached && !target_is_cached(cpu, target, access, cached))
            return -EAGAIN;
        changed = entry | PTE_A | (access == MMU_WRITE ? PTE_D : 0);
        if (set_bits && changed != entry) {
            update = entry_update(cpu, address, entry, changed, f.entry_size, cached);
            if (cached && update == UPDATE_REFUSED)
                return -EAGAIN;
            if (update == UPDATE_AGAIN)
                goto again;
            entry = changed;
        }
        *out = (struct mmu_translation){
            .address = target,
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
    return -EAGAIN;

not_present:
    *pf_error = error;
    return -EFAULT;
}

int mmu_walk(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access, bool set_bits,
             struct mmu_translation *out, uint32_t *pf_error)
{
    return walk(cpu, linear, mode, access, set_bits, WALK_ALL, out, pf_error);
}

/* ---- tables and sets ------------------------------------------------------------------------ */

static const struct tlb_large no_large = {.base = 1};

static struct tlb_table *table_new(void)
{
    struct tlb_table *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (t == MAP_FAILED) {
        fprintf(stderr, "hospes: no address space for a TLB: %s\n", strerror(errno));
        abort();
    }
    for (unsigned access = 0; access < MMU_ACCESSES; access++) {
        t->ways[access].tag[0] = tlb_empty(0);
        t->ways[access].tag[TLB_SIZE - 1] = tlb_empty(TLB_SIZE - 1);
    }
    return t;
}

static void tables_make(struct cpu *cpu, struct tlb_set *s)
{
    for (unsigned mode = 0; mode < MMU_MODES; mode++) {
        struct tlb_table *t = table_new();

        s->table[mode] = t;
        t->jump[0].rip = tlb_no_rip(0);
        if (cpu->tlb->table_made)
            cpu->tlb->table_made(cpu, t);
    }
}

/* Empty the entry with index i, and what the engine hung on it. */
static void entry_drop(struct tlb_table *t, enum mmu_access access, unsigned i)
{
    t->ways[access].tag[i] = tlb_empty(i);
    if (access == MMU_FETCH)
        t->code[i] = 0;
}

static void block_drop(struct tlb_table *t, enum mmu_access access, unsigned block, bool global_too)
{
    uint64_t keep = global_too ? 0 : t->global[access][block];
    unsigned first = block * TLB_BLOCK;

    if (!keep) {
        memset(&t->ways[access].tag[first], 0, TLB_BLOCK * sizeof(uint64_t));
        if (access == MMU_FETCH)
            memset(&t->code[first], 0, TLB_BLOCK * sizeof(uint64_t));
        if (block == 0)
            t->ways[access].tag[0] = tlb_empty(0);
        if (block == TLB_BLOCKS - 1)
            t->ways[access].tag[TLB_SIZE - 1] = tlb_empty(TLB_SIZE - 1);
        t->global[access][block] = 0;
        t->used[access][block / 64] &= ~BIT(block % 64);
        return;
    }
    for (unsigned i = 0; i < TLB_BLOCK; i++)
        if (!(keep & BIT(i)))
            entry_drop(t, access, first + i);
}

/* All jumps: mappings went. */
static void jumps_drop(struct tlb_table *t)
{
    if (t->jumps_used)
        tlb_jumps_clear(t);
    t->fetch_replaced = false;
}

#define FOR_EACH_BLOCK(block, t, access)                                                           \
    for (unsigned word_ = 0; word_ < TLB_BLOCKS / 64; word_++)                                     \
        for (uint64_t bits_ = (t)->used[access][word_];                                            \
             bits_ && ((block) = word_ * 64 + (unsigned)__builtin_ctzll(bits_), true);             \
             bits_ &= bits_ - 1)

static void set_drop(struct tlb_set *s, bool global_too)
{
    unsigned block;

    if (!s->table[0])
        return;
    for (unsigned mode = 0; mode < MMU_MODES; mode++) {
        struct tlb_table *t = s->table[mode];

        for (unsigned access = 0; access < MMU_ACCESSES; access++)
            FOR_EACH_BLOCK (block, t, access)
                block_drop(t, access, block, global_too);
        jumps_drop(t);
    }
    for (unsigned half = 0; half < 2; half++)
        if (global_too || !s->large[half].global)
            s->large[half] = no_large;
}

/* A dry run may not touch TLBs. */
static void not_dry(struct cpu *cpu)
{
    if (cpu->tlb->dry)
        cpu->tlb->dry->device(cpu);
}

static void code_dropped(struct cpu *cpu)
{
    if (cpu->tlb->code_dropped)
        cpu->tlb->code_dropped(cpu);
}

static unsigned pcid_now(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_PCIDE ? cpu->cr3 & PAGE_MASK : 0;
}

/* Make a set current, for what CR3 and CR4 say now. */
static void set_enter(struct cpu *cpu, unsigned n)
{
    struct tlb *t = cpu->tlb;
    struct tlb_set *s = &t->set[n];

    if (!s->table[0])
        tables_make(cpu, s);
    s->valid = true;
    s->pcid = (uint16_t)pcid_now(cpu);
    s->root = cpu->cr3 & ~PAGE_MASK;
    s->last_use = ++t->clock;
    t->current = n;
    memcpy(t->table, s->table, sizeof(t->table));
}

void mmu_attach(struct cpu *cpu)
{
    cpu->tlb = aligned_alloc(64, align_up(sizeof(struct tlb), 64));
    if (!cpu->tlb)
        abort();
    memset(cpu->tlb, 0, sizeof(struct tlb));
    for (unsigned n = 0; n < TLB_SETS; n++)
        cpu->tlb->set[n].large[0] = cpu->tlb->set[n].large[1] = no_large;
    mmu_flush_all(cpu);
}

void mmu_detach(struct cpu *cpu)
{
    if (!cpu->tlb)
        return;
    for (unsigned n = 0; n < TLB_SETS; n++)
        for (unsigned mode = 0; mode < MMU_MODES; mode++)
            if (cpu->tlb->set[n].table[mode])
                munmap(cpu->tlb->set[n].table[mode], sizeof(struct tlb_table));
    free(cpu->tlb);
    cpu->tlb = NULL;
}

void mmu_set_hooks(struct cpu *cpu, void (*table_made)(struct cpu *cpu, struct tlb_table *t),
                   void (*dropped)(struct cpu *cpu))
{
    struct tlb *t = cpu->tlb;

    t->table_made = table_made;
    t->code_dropped = dropped;
    for (unsigned n = 0; table_made && n < TLB_SETS; n++)
        for (unsigned mode = 0; mode < MMU_MODES; mode++)
            if (t->set[n].table[mode])
                table_made(cpu, t->set[n].table[mode]);
}

static const struct tlb_table *empty_table;

static void empty_table_make(void)
{
    struct tlb_table *t = table_new();

    mprotect(t, sizeof(*t), PROT_READ);
    empty_table = t;
}

const struct tlb_table *mmu_empty_table(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, empty_table_make);
    return empty_table;
}

/* Accesses find no entry where they look first, so all of them come to mmu_access_page(). */
void mmu_set_dry(struct cpu *cpu, const struct mmu_dry *dry)
{
    struct tlb *t = cpu->tlb;

    t->dry = dry;
    for (unsigned mode = 0; mode < MMU_MODES; mode++)
        t->table[mode] = dry ? (struct tlb_table *)(uintptr_t)mmu_empty_table()
                             : t->set[t->current].table[mode];
}

/* ---- dropping ------------------------------------------------------------------------------- */

void mmu_flush_linear(struct cpu *cpu)
{
    struct tlb *t = cpu->tlb;

    if (!t)
        return;
    not_dry(cpu);
    for (unsigned n = 0; n < TLB_SETS; n++) {
        set_drop(&t->set[n], true);
        t->set[n].valid = false;
    }
    set_enter(cpu, cpu->cr4 & CR4_PCIDE ? t->current : 0);
    t->flushes++;
    code_dropped(cpu);
}

void mmu_flush_all(struct cpu *cpu)
{
    if (!cpu->tlb)
        return;
    mmu_flush_linear(cpu);
    memset(cpu->tlb->phys, 0, sizeof(cpu->tlb->phys));
}

/* Drop one page's entries in a set; `all`: not only if they are global. Whether code went. */
static bool set_drop_page(struct tlb_set *s, gva linear, bool all)
{
    struct tlb_large *large = &s->large[linear >> 63];
    unsigned i = tlb_index(linear), bit = i % TLB_BLOCK;
    bool code = false;

    if (!s->table[0])
        return false;
    if ((linear & large->mask) == large->base && (all || large->global)) {
        set_drop(s, large->global);
        return true;
    }
    for (unsigned mode = 0; mode < MMU_MODES; mode++) {
        struct tlb_table *t = s->table[mode];
        bool jumps = t->fetch_replaced;

        for (unsigned access = 0; access < MMU_ACCESSES; access++) {
            if ((t->ways[access].tag[i] & ~TLB_ASK) != tlb_tag(linear) ||
                !(all || t->global[access][i / TLB_BLOCK] & BIT(bit)))
                continue;
            entry_drop(t, access, i);
            jumps |= access == MMU_FETCH;
        }
        if (jumps) {
            jumps_drop(t);
            code = true;
        }
    }
    return code;
}

void mmu_flush_page(struct cpu *cpu, gva linear)
{
    struct tlb *t = cpu->tlb;
    bool code = false;

    if (!t)
        return;
    not_dry(cpu);
    for (unsigned n = 0; n < TLB_SETS; n++)
        code |= set_drop_page(&t->set[n], linear, n == t->current);
    if (code)
        code_dropped(cpu);
}

/* The set of a PCID, or TLB_SETS. */
static unsigned set_find(const struct tlb *t, unsigned pcid)
{
    for (unsigned n = 0; n < TLB_SETS; n++)
        if (t->set[n].valid && t->set[n].pcid == pcid)
            return n;
    return TLB_SETS;
}

/* A set nobody has, or the one that was left longest ago, emptied. */
static unsigned set_reuse(struct tlb *t)
{
    unsigned oldest = t->current ? 0 : 1;

    for (unsigned n = 0; n < TLB_SETS; n++) {
        if (n == t->current)
            continue;
        if (!t->set[n].valid) {
            /* One that has tables rather than none; both are empty. */
            if (t->set[oldest].valid || (t->set[n].table[0] && !t->set[oldest].table[0]))
                oldest = n;
        } else if (t->set[oldest].valid && t->set[n].last_use < t->set[oldest].last_use) {
            oldest = n;
        }
    }
    set_drop(&t->set[oldest], true);
    return oldest;
}

void mmu_switch(struct cpu *cpu, bool keep)
{
    struct tlb *t = cpu->tlb;
    unsigned n, before;

    if (!t)
        return;
    not_dry(cpu);
    before = t->current;
    n = set_find(t, pcid_now(cpu));
    if (n == TLB_SETS)
        n = set_reuse(t);
    else if (!keep || t->set[n].root != (cpu->cr3 & ~PAGE_MASK))
        set_drop(&t->set[n], false);
    else if (n == before)
        return;
    set_enter(cpu, n);
    code_dropped(cpu);
}

void mmu_flush_pcid(struct cpu *cpu, unsigned type, unsigned pcid, gva linear)
{
    struct tlb *t = cpu->tlb;
    unsigned n;

    if (!t)
        return;
    not_dry(cpu);
    if (type == 2) {
        mmu_flush_linear(cpu);
        return;
    }
    if (type == 3) {
        for (n = 0; n < TLB_SETS; n++)
            set_drop(&t->set[n], false);
        code_dropped(cpu);
        return;
    }
    n = set_find(t, pcid);
    if (n == TLB_SETS)
        return;
    if (type == 1) {
        set_drop(&t->set[n], false);
        code_dropped(cpu);
    } else if (set_drop_page(&t->set[n], linear, true)) {
        code_dropped(cpu);
    }
}

/*
 * write_at says of a page of RAM where the one write entry is that there may be: vCPU, set, mode
 * and index; 0: there is none, WRITE_MANY: anywhere. It is noted before RAM_WRITE_CACHED is looked
 * at, so that who sets RAM_CODE and then takes the note sees every entry that may be made.
 */
enum { WRITE_MODE_AT = 16, WRITE_SET_AT = 18, WRITE_CPU_AT = 22 };
#define WRITE_MANY UINT32_MAX

_Static_assert(MMU_MODES <= 4 && TLB_SETS <= 16 && TLB_SIZE <= 1 << WRITE_MODE_AT, "write_at");

static always_inline void note_write(const struct cpu *cpu, struct ram_block *b, uint64_t offset,
                                     enum mmu_mode mode, gva linear)
{
    atomic_uint *at = &b->write_at[offset >> RAM_PAGE_BITS];
    unsigned here = 1 + (cpu->index << WRITE_CPU_AT | cpu->tlb->current << WRITE_SET_AT |
                         (unsigned)mode << WRITE_MODE_AT | tlb_index(linear));
    unsigned old = atomic_load_explicit(at, memory_order_relaxed);

    if (old == here || old == WRITE_MANY)
        return;
    if (old || (!atomic_compare_exchange_strong(at, &old, here) && old != here))
        atomic_store(at, WRITE_MANY);
}

static void drop_write(struct tlb_table *t, unsigned i, uint64_t host)
{
    uint64_t tag = t->ways[MMU_WRITE].tag[i];

    if (tag != tlb_empty(i) && (tag << 12) - 0x1000 + t->ways[MMU_WRITE].addend[i] == host)
        entry_drop(t, MMU_WRITE, i);
}

bool mmu_drop_writes(struct cpu *cpu, struct ram_block *ram, uint64_t offset)
{
    uint64_t host = (uintptr_t)(ram->host + (offset & ~PAGE_MASK));
    unsigned at = atomic_exchange(&ram->write_at[offset >> RAM_PAGE_BITS], 0), block;
    struct tlb_table *t;

    if (!cpu->tlb || !at)
        return at != 0;
    if (at != WRITE_MANY) {
        at--;
        if (at >> WRITE_CPU_AT != cpu->index)
            return true;
        t = cpu->tlb->set[at >> WRITE_SET_AT & (TLB_SETS - 1)].table[at >> WRITE_MODE_AT & 3];
        if (t)
            drop_write(t, (uint16_t)at, host);
        return false;
    }
    for (unsigned n = 0; n < TLB_SETS; n++)
        for (unsigned mode = 0; mode < MMU_MODES; mode++) {
            t = cpu->tlb->set[n].table[mode];
            if (!t)
                continue;
            FOR_EACH_BLOCK (block, t, MMU_WRITE)
                for (unsigned i = block * TLB_BLOCK; i < (block + 1) * TLB_BLOCK; i++)
                    drop_write(t, i, host);
        }
    return true;
}

/* ---- filling -------------------------------------------------------------------------------- */

/* Grow the range that stands for all large pages until it holds this one. */
static always_inline void note_large(struct tlb *t, gva linear, uint64_t size, bool global)
{
    struct tlb_large *l = &t->set[t->current].large[linear >> 63];
    uint64_t mask = ~(size - 1);

    if (l->base != 1) {
        mask &= l->mask;
        while ((l->base ^ linear) & mask)
            mask <<= 1;
    }
    l->mask = mask;
    l->base = linear & mask;
    l->global |= global;
}

static always_inline void tlb_set(struct tlb *tlb, enum mmu_mode mode, enum mmu_access access,
                                  gva linear, const uint8_t *host, bool global)
{
    struct tlb_table *t = tlb->table[mode];
    gva page = linear & ~PAGE_MASK;
    unsigned i = tlb_index(linear), block = i / TLB_BLOCK;
    uint64_t *used = &t->used[access][block / 64], bit = BIT(i % TLB_BLOCK);
    struct tlb_ways *w = &t->ways[access];

    *used |= BIT(block % 64);
    if (access == MMU_FETCH && w->tag[i] != tlb_tag(linear)) {
        if (w->tag[i] != tlb_empty(i))
            t->fetch_replaced = true;
        t->code[i] = 0;
    }
    if (((t->global[access][block] & bit) != 0) != global)
        t->global[access][block] ^= bit;
    w->addend[i] = (uint64_t)(host - (linear & PAGE_MASK)) - page;
    w->tag[i] = tlb_tag(linear);
}

/* The entries that a translation allows. `host`: of the byte at `linear`. */
static always_inline void fill(struct cpu *cpu, gva linear, enum mmu_mode mode,
                               enum mmu_access access, const struct mmu_translation *t,
                               const struct page *e, const uint8_t *host)
{
    if (t->page_size > 4 * KiB)
        note_large(cpu->tlb, linear, t->page_size, t->global);
    if (access == MMU_FETCH) {
        tlb_set(cpu->tlb, mode, MMU_FETCH, linear, host, t->global);
        return;
    }
    tlb_set(cpu->tlb, mode, MMU_READ, linear, host, t->global);
    if (!e->writable || !t->writable || !t->dirty || !ram_write_is_plain(e->block, e->offset))
        return;
    note_write(cpu, e->block, e->offset, mode, linear);
    if (write_allowed(e->block, e->offset))
        tlb_set(cpu->tlb, mode, MMU_WRITE, linear, host, t->global);
}

/* In 64-bit and compatibility mode canonical, else 32 bits wide. */
static always_inline bool linear_is_valid(const struct cpu *cpu, gva linear)
{
    unsigned shift = cpu->cr4 & CR4_LA57 ? 7 : 16;

    if (!(cpu->efer & EFER_LMA))
        return linear <= UINT32_MAX;
    return (uint64_t)((int64_t)(linear << shift) >> shift) == linear;
}

__attribute__((flatten)) bool mmu_fill(struct cpu *cpu, gva linear, enum mmu_mode mode,
                                       enum mmu_access access)
{
    struct mmu_translation t;
    struct page e;
    uint32_t error;

    if (!linear_is_valid(cpu, linear) ||
        walk(cpu, linear, mode, access, true, WALK_FILL, &t, &error) < 0)
        return false;
    e = phys_find(cpu, t.address, true);
    if (!e.block ||
        (access == MMU_WRITE && !target_is_cached(cpu, t.address, MMU_WRITE, WALK_FILL)))
        return false;
    cpu->tlb->misses++;
    fill(cpu, linear, mode, access, &t, &e, e.block->host + e.offset + (t.address & PAGE_MASK));
    return tlb_lookup(cpu, linear, 1, mode, access) != NULL;
}

__attribute__((flatten)) bool mmu_fill_code(struct cpu *cpu, gva linear, enum mmu_mode mode)
{
    struct mmu_translation t;
    struct page e;
    uint32_t error;

    if (!linear_is_valid(cpu, linear) ||
        walk(cpu, linear, mode, MMU_WRITE, true, WALK_CODE, &t, &error) < 0 ||
        !target_is_cached(cpu, t.address, MMU_WRITE, WALK_CODE))
        return false;
    if (t.page_size > 4 * KiB)
        note_large(cpu->tlb, linear, t.page_size, t.global);
    e = phys_find(cpu, t.address, true);
    tlb_set(cpu->tlb, mode, MMU_WRITE, linear, e.block->host + e.offset + (t.address & PAGE_MASK),
            t.global);
    cpu->tlb->table[mode]->ways[MMU_WRITE].tag[tlb_index(linear)] |= TLB_ASK;
    return true;
}

_Noreturn static void page_fault(struct cpu *cpu, gva linear, uint32_t error)
{
    cpu->cr2 = linear;
    cpu_raise_error(cpu, EXC_PF, error);
}

static uint8_t *dry_access(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access)
{
    const struct tlb *tlb = cpu->tlb;
    uint8_t *host = tlb_find(tlb->set[tlb->current].table[mode], linear, 1, access);
    struct mmu_translation t;
    struct page e;
    uint32_t error;

    if (!host) {
        if (mmu_walk(cpu, linear, mode, access, true, &t, &error) < 0)
            page_fault(cpu, linear, error);
        e = phys_find(cpu, t.address, false);
        if (!e.block || (access == MMU_WRITE && !e.writable))
            tlb->dry->device(cpu);
        host = e.block->host + e.offset + (t.address & PAGE_MASK);
    }
    return tlb->dry->page(cpu, host - (linear & PAGE_MASK), access == MMU_WRITE, false) +
           (linear & PAGE_MASK);
}

uint8_t *mmu_access_page(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access,
                         gpa *address, struct ram_block **block, uint64_t *offset)
{
    uint8_t *host = tlb_lookup(cpu, linear, 1, mode, access);
    struct mmu_translation t;
    struct page e;
    uint32_t error;

    *block = NULL;
    if (host)
        return host;
    if (cpu->tlb->dry)
        return dry_access(cpu, linear, mode, access);
    cpu->tlb->misses++;
    if (mmu_walk(cpu, linear, mode, access, true, &t, &error) < 0)
        page_fault(cpu, linear, error);
    *address = t.address;
    e = phys_find(cpu, t.address, false);
    if (!e.block || (access == MMU_WRITE && !e.writable))
        return NULL;
    host = e.block->host + e.offset + (t.address & PAGE_MASK);
    fill(cpu, linear, mode, access, &t, &e, host);
    if (access == MMU_WRITE) {
        if (!ram_write_is_plain(e.block, e.offset)) {
            *block = e.block;
            *offset = e.offset + (t.address & PAGE_MASK);
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

bool mmu_fill_slow(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access)
{
    struct mmu_translation t;
    uint32_t error;

    if (mmu_walk(cpu, linear, mode, access, false, &t, &error) < 0)
        return false;
    phys_find(cpu, t.address, false); /* known from now on, as the tables are that were walked */
    return mmu_fill(cpu, linear, mode, access);
}
