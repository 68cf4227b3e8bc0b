/*
 * mmu.h - address translation: the page walk, and the software TLB the software engines share.
 *
 * The walk follows SDM vol. 3, chapter 4: no paging, 32-bit (with PSE), PAE, 4-level, 5-level.
 * It sets accessed and dirty bits with locked operations, as the processor does.
 *
 * The TLB: a table for each mode, in each of a few sets. A set belongs to an address space (a PCID
 * while CR4.PCIDE is on; without PCIDs set 0 serves all), so that a switch with CR3's no-flush bit
 * is a change of pointers. A table is direct mapped by 16 bits of the page number and lies in
 * anonymous memory that costs nothing until it is touched: all zeros is empty. The tag is the page
 * number plus one (so that page 0 has a tag that is not 0). Two places hold ~0 when empty, for
 * there a tag of 0 would match: index 0, where the very last page belongs, and index 0xffff, where
 * an access that crosses into the last page looks. Host address = guest linear address + addend.
 * A page that may not be reached by a plain host access (MMIO, write-tracked, absent) has no entry.
 * A lookup takes the index from the *first* byte of an access and compares the tag with that of the
 * *last*, so that a page crosser falls to the slow path: its tag belongs to the next index.
 *
 * The first TLB_HEAD bytes of a table are the translator's: it maps the CPU's state there, and what
 * follows it finds at fixed distances. `code` and `jump` are filled by the translator alone, and
 * only for a page whose fetch entry is there. They are cleared here: code[i] when fetch entry i
 * goes or becomes another page's; all of `jump` when a mapping it may rely on goes. A jump entry
 * relies on the mapping of its linear address, not on the fetch entry, so it outlives replacement
 * of that.
 *
 * Threads: a TLB belongs to its vCPU's thread. Others ask with CPU_EVENT_FLUSH.
 */
#ifndef X86_MMU_H
#define X86_MMU_H

#include "x86/cpu.h"

enum mmu_mode {
    MMU_KERNEL,    /* CPL 0-2 with SMAP in force: user pages refuse data accesses */
    MMU_USER,      /* CPL 3 */
    MMU_KERNEL_AC, /* CPL 0-2, user pages may be accessed: SMAP off, or EFLAGS.AC */
    MMU_MODES,
};

enum mmu_access { MMU_READ, MMU_WRITE, MMU_FETCH, MMU_ACCESSES };

enum {
    TLB_BITS = 16,
    TLB_SIZE = 1 << TLB_BITS,
    TLB_HEAD = 4 * 4096, /* bytes in front of each table, page aligned, for the engine */
    TLB_SETS = 8,
    TLB_JUMPS = 4096,
    TLB_BLOCK = 64, /* entries that are dropped together */
    TLB_BLOCKS = TLB_SIZE / TLB_BLOCK,
};

#define TLB_ASK BIT(63) /* in a tag: mmu_fill_code() */

/* Separate arrays, for an index scaled by 8 needs no shift. */
struct tlb_ways {
    uint64_t tag[TLB_SIZE]; /* tlb_tag(); empty: tlb_empty() */
    uint64_t addend[TLB_SIZE];
};

struct tlb_jump {
    uint64_t rip; /* linear; empty: tlb_no_rip() */
    const void *code;
};

/* mmap()ed: page aligned, zero, without reserve. */
struct tlb_table {
    uint8_t head[TLB_HEAD];
    struct tlb_ways ways[MMU_ACCESSES];
    uint64_t
        code[TLB_SIZE]; /* beside ways[MMU_FETCH]: the translator's name of the page; 0: none */
    struct tlb_jump jump[TLB_JUMPS];
    /* Not for translated code. Bit n: block n has entries; so little is touched to empty it. */
    uint64_t used[MMU_ACCESSES][TLB_BLOCKS / 64];
    uint64_t global[MMU_ACCESSES][TLB_BLOCKS]; /* bit: the entry is of a global page */
    bool fetch_replaced; /* jumps may rely on pages that have no fetch entry any more */
    bool jumps_used;     /* set by the translator when it fills one */
} __attribute__((aligned(4096)));

/* Where guest-physical pages lie in host memory; what page walks and TLB fills look up. */
struct phys_range {
    gpa base;        /* page aligned */
    uint64_t length; /* 0: none */
    struct ram_block *block;
    uint64_t offset; /* of base in the block */
    bool writable;   /* false: ROM */
};

enum { PHYS_RANGES = 8 };

/* Covers every large page in half an address space: INVLPG within it drops all. Matches where
 * (linear & mask) == base; base 1 with mask 0: none, base 0 with mask 0: everywhere. */
struct tlb_large {
    uint64_t base, mask;
    bool global; /* one of them is global */
};

struct tlb_set {
    struct tlb_table *table[MMU_MODES]; /* NULL: the set was never used */
    struct tlb_large large[2];          /* by bit 63 of the linear address */
    uint64_t root;                      /* CR3 without the PCID: an address space that takes over
                                           another's PCID finds nothing, whatever it asks to keep */
    uint16_t pcid;
    bool valid;
    uint64_t last_use; /* for choosing the set to reuse */
};

struct tlb {
    struct tlb_table *table[MMU_MODES]; /* of the current set */
    struct tlb_set set[TLB_SETS];
    unsigned current;
    uint64_t clock; /* counts switches, for tlb_set.last_use */
    /* Survives CR3 writes and INVLPG; dropped by mmu_flush_all() only. RAM and ROM. */
    struct phys_range phys[PHYS_RANGES];
    unsigned phys_next;       /* the one to be replaced next */
    uint64_t misses, flushes; /* statistics */

    /* The engine's, each may be NULL: mmu_set_hooks(). Called on the vCPU's thread. */
    void (*table_made)(struct cpu *cpu, struct tlb_table *t);
    /* Fetch entries went, or another set became current: what the engine remembers of linear
     * addresses of code (return stacks) is void, and `table` above may have changed. */
    void (*code_dropped)(struct cpu *cpu);
    const struct mmu_dry *dry; /* mmu_set_dry() */
};

/* Allocate and free cpu->tlb, empty. Software engines call this before the first access. */
void mmu_attach(struct cpu *cpu);
void mmu_detach(struct cpu *cpu);

/* `table_made` is called for each table when it is made, and now for those there are: the engine
 * may map what it wants over head[]. Both may be NULL. mmu_detach() unmaps tables with heads. */
void mmu_set_hooks(struct cpu *cpu, void (*table_made)(struct cpu *cpu, struct tlb_table *t),
                   void (*code_dropped)(struct cpu *cpu));

/*
 * A dry run: while set, accesses change nothing that anybody else sees, and reach no device. The
 * TLB is asked but not filled, page tables (accessed and dirty bits included) and data are what
 * `page` has in their place, and nobody hears of writes to watched pages. Whoever drops or
 * switches TLBs is told `device`, too. NULL: no more.
 */
struct mmu_dry {
    /* What stands for a host page of RAM; `write`: it is going to be written. `table`: it is the
     * walk that asks, not the guest. */
    uint8_t *(*page)(struct cpu *cpu, uint8_t *host_page, bool write, bool table);
    /* The access is one to a device, or a write to ROM: it is refused. Does not return. */
    void (*device)(struct cpu *cpu);
};
void mmu_set_dry(struct cpu *cpu, const struct mmu_dry *dry);
/* A table without entries, read-only, shared by all. */
const struct tlb_table *mmu_empty_table(void);

/* Guest data at any alignment: one host access each, which is what makes it atomic as the manual
 * promises for aligned ones. */
typedef uint16_t mmu_u16 __attribute__((aligned(1), may_alias));
typedef uint32_t mmu_u32 __attribute__((aligned(1), may_alias));
typedef uint64_t mmu_u64 __attribute__((aligned(1), may_alias));

/* The result of a walk. */
struct mmu_translation {
    gpa address;        /* of the byte asked for; A20 applied */
    uint64_t page_size; /* of the mapping: 4 KiB, 2 MiB, 4 MiB, 1 GiB */
    bool writable;      /* a write in this mode would be allowed by the tables now */
    bool dirty;         /* and would not have to set D */
    bool user, global, no_execute;
};

/*
 * Translate. 0, or -EFAULT with the page-fault error code in *pf_error: the caller sets CR2 and
 * raises, or not (a probe). `set_bits` false changes nothing in the tables (debuggers).
 */
int mmu_walk(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access, bool set_bits,
             struct mmu_translation *out, uint32_t *pf_error);

/*
 * Slow path of every access within one page: find the page, check permission (raises #PF), fill
 * the TLB where a plain host access is allowed. Returns a host pointer to the byte, or NULL when
 * the access must go through cpu_phys_read/write with the address in *address. A write through
 * the returned pointer to a page that is not plain must be followed by ram_written(): then *block
 * and *offset say where (NULL: nothing to do).
 */
uint8_t *mmu_access_page(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access,
                         gpa *address, struct ram_block **block, uint64_t *offset);

/* Checks that the whole range can be accessed (raises #PF at the first byte that cannot). */
void mmu_probe(struct cpu *cpu, gva linear, uint64_t length, enum mmu_mode mode,
               enum mmu_access access);

/* Accesses of any alignment that raise #PF and nothing else: segment limits, canonical form and
 * alignment were checked before. A write that faults has changed nothing. mmu_load() and
 * mmu_store() below take 1, 2, 4 or 8 bytes, those of bytes 1 to 64. */
void mmu_load_bytes(struct cpu *cpu, gva linear, void *to, unsigned size, enum mmu_mode mode);
void mmu_store_bytes(struct cpu *cpu, gva linear, const void *from, unsigned size,
                     enum mmu_mode mode);
uint64_t mmu_load_slow(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode);
void mmu_store_slow(struct cpu *cpu, gva linear, uint64_t value, unsigned size, enum mmu_mode mode);

/*
 * The same as mmu_access_page() for those who may neither raise nor use vector registers
 * (translated code's own are live): fill the entry of a page where a plain host access is allowed.
 * False: nothing was filled, ask the slow path, which finds out why; so it is for addresses that
 * are not canonical, and for guest-physical addresses that tlb->phys does not
 * have yet. Calls nothing, and
 * uses general registers only: mmu.c is compiled so.
 */
bool mmu_fill(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access);
/* The same for those who may call anything: it learns what tlb->phys lacks. Does not raise. */
bool mmu_fill_slow(struct cpu *cpu, gva linear, enum mmu_mode mode, enum mmu_access access);

/* As mmu_fill() for writes, in a page that could have a write entry but for its RAM_CODE: the entry
 * made has TLB_ASK in its tag, so that no lookup finds it but tlb_find_code(). */
bool mmu_fill_code(struct cpu *cpu, gva linear, enum mmu_mode mode);

/* What CPU_EVENT_FLUSH asks for: drop everything that was ever cached. Also after SMM came or
 * went, after A20 changed, and after CR3 changed in any way but MOV CR3. */
void mmu_flush_all(struct cpu *cpu);
void mmu_flush_linear(struct cpu *cpu); /* all linear addresses in all sets, global ones too */
void mmu_flush_page(struct cpu *cpu, gva linear); /* INVLPG: current set, and global in all */
/* MOV CR3 (cr3 is set already): without PCIDs drops what is not global; with PCIDs makes the set of
 * the new PCID current, and drops what is not global in it unless `keep` (bit 63 of the source). */
void mmu_switch(struct cpu *cpu, bool keep);
/* INVPCID: type 0 (one address in one PCID), 1 (all of a PCID but global ones), 2 (all, global ones
 * too), 3 (all but global ones). */
void mmu_flush_pcid(struct cpu *cpu, unsigned type, unsigned pcid, gva linear);
/* Drop the write entries (in all sets) of a page of RAM: it is to be watched. Only on the vCPU's
 * own thread. Nothing to do where the page has no RAM_WRITE_CACHED. Whether another vCPU may have
 * some.
 */
bool mmu_drop_writes(struct cpu *cpu, struct ram_block *ram, uint64_t offset);

/* The PDPTE registers, from CR3: PAE paging only. false: a reserved bit is set, #GP. */
bool mmu_load_pdptrs(struct cpu *cpu, uint64_t cr3);

/* What stands in an empty jump entry: a value that is looked for in another one. No value would do
 * for all, for a guest can branch to any, canonical or not. */
static inline uint64_t tlb_no_rip(unsigned index)
{
    return index == 0;
}

static inline void tlb_jumps_clear(struct tlb_table *t)
{
    memset(t->jump, 0, sizeof(t->jump));
    t->jump[0].rip = tlb_no_rip(0);
    t->jumps_used = false;
}

static inline uint64_t tlb_tag(gva linear)
{
    return (linear + 0x1000) >> 12;
}

static inline unsigned tlb_index(gva linear)
{
    return (uint16_t)tlb_tag(linear);
}

/* The tag of an empty entry. */
static inline uint64_t tlb_empty(unsigned index)
{
    return index == 0 || index == TLB_SIZE - 1 ? UINT64_MAX : 0;
}

/* The host pointer for [linear, linear+size), or NULL on a miss or when it crosses a page. */
static inline uint8_t *tlb_find(const struct tlb_table *t, gva linear, unsigned size,
                                enum mmu_access access)
{
    unsigned i = tlb_index(linear);

    if (t->ways[access].tag[i] != tlb_tag(linear + size - 1))
        return NULL;
    return (uint8_t *)(linear + t->ways[access].addend[i]);
}

/* The same of what mmu_fill_code() made. */
static inline uint8_t *tlb_find_code(const struct tlb_table *t, gva linear, unsigned size)
{
    unsigned i = tlb_index(linear);

    if (t->ways[MMU_WRITE].tag[i] != (tlb_tag(linear + size - 1) | TLB_ASK))
        return NULL;
    return (uint8_t *)(linear + t->ways[MMU_WRITE].addend[i]);
}

/* The mode of plain accesses at this privilege level. */
static inline enum mmu_mode mmu_mode_of(const struct cpu *cpu, unsigned cpl)
{
    if (cpl == 3)
        return MMU_USER;
    return cpu->cr4 & CR4_SMAP && !(cpu->rflags & RFLAGS_AC) ? MMU_KERNEL : MMU_KERNEL_AC;
}

static inline uint8_t *tlb_lookup(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode,
                                  enum mmu_access access)
{
    return tlb_find(cpu->tlb->table[mode], linear, size, access);
}

static inline uint64_t mmu_load(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode)
{
    const uint8_t *p = tlb_lookup(cpu, linear, size, mode, MMU_READ);

    if (__builtin_expect(!p, 0))
        return mmu_load_slow(cpu, linear, size, mode);
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return *(const volatile mmu_u16 *)p;
    case 4: return *(const volatile mmu_u32 *)p;
    default: return *(const volatile mmu_u64 *)p;
    }
}

static inline void mmu_store(struct cpu *cpu, gva linear, uint64_t value, unsigned size,
                             enum mmu_mode mode)
{
    uint8_t *p = tlb_lookup(cpu, linear, size, mode, MMU_WRITE);

    if (__builtin_expect(!p, 0)) {
        mmu_store_slow(cpu, linear, value, size, mode);
        return;
    }
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)value; break;
    case 2: *(volatile mmu_u16 *)p = (uint16_t)value; break;
    case 4: *(volatile mmu_u32 *)p = (uint32_t)value; break;
    default: *(volatile mmu_u64 *)p = value; break;
    }
}

#endif
