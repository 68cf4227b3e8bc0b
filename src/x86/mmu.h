/*
 * mmu.h - address translation: the page walk, and the software TLB the software engines share.
 *
 * The walk follows SDM vol. 3, chapter 4: no paging, 32-bit (with PSE), PAE, 4-level, 5-level.
 * It sets accessed and dirty bits with locked operations, as the processor does.
 *
 * The TLB has 16-byte entries {tag, addend} in separate tables for each mode and kind of access;
 * host address = guest linear address + addend. A tag is the page's linear address; a page that
 * may not be reached by a plain host access (MMIO, write-tracked, absent) has no entry. Engines
 * that translate code compare the tag with the address of the *last* byte of an access, so that a
 * page crosser falls to the slow path.
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

enum { TLB_BITS = 8, TLB_SIZE = 1 << TLB_BITS };
#define TLB_NO_TAG UINT64_MAX

struct tlb_entry {
    uint64_t tag;    /* linear address of the page, or TLB_NO_TAG */
    uint64_t addend; /* host pointer minus linear address */
};

/* Where a guest-physical page lies in host memory; what page walks and TLB fills look up. */
struct phys_entry {
    gpa page; /* or TLB_NO_TAG */
    struct ram_block *block;
    uint64_t offset; /* of the page in the block */
    bool writable;   /* false: ROM */
};

enum { PHYS_CACHE_SIZE = 128 };

struct tlb {
    struct tlb_entry entry[MMU_MODES][MMU_ACCESSES][TLB_SIZE];
    uint16_t used; /* tables with entries: bit mode * MMU_ACCESSES + access */
    /* Covers every large page in the TLB: INVLPG within it drops all. Matches where
     * (linear & mask) == base; base 1 with mask 0: none, base 0 with mask 0: everywhere. */
    uint64_t large_base, large_mask;
    /* Survives CR3 writes and INVLPG; dropped by mmu_flush_all() only. RAM and ROM pages. */
    struct phys_entry phys[PHYS_CACHE_SIZE];
    uint64_t misses, flushes; /* statistics */
};

/* Allocate and free cpu->tlb, empty. Software engines call this before the first access. */
void mmu_attach(struct cpu *cpu);
void mmu_detach(struct cpu *cpu);

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

/* What CPU_EVENT_FLUSH asks for: drop everything that was ever cached. Also after SMM came or
 * went and after A20 changed. */
void mmu_flush_all(struct cpu *cpu);
void mmu_flush_linear(struct cpu *cpu); /* translations of linear addresses, global ones too */
void mmu_flush_page(struct cpu *cpu, gva linear); /* INVLPG */

/* The PDPTE registers, from CR3: PAE paging only. false: a reserved bit is set, #GP. */
bool mmu_load_pdptrs(struct cpu *cpu, uint64_t cr3);

/* Linear address -> tag index. */
static inline unsigned tlb_index(gva linear)
{
    return (unsigned)(linear >> 12) & (TLB_SIZE - 1);
}

/* The host pointer for [linear, linear+size), or NULL on a miss or when it crosses a page. */
static inline uint8_t *tlb_lookup(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode,
                                  enum mmu_access access)
{
    struct tlb_entry *e = &cpu->tlb->entry[mode][access][tlb_index(linear)];

    if (e->tag != ((linear + size - 1) & ~UINT64_C(0xfff)))
        return NULL;
    return (uint8_t *)(linear + e->addend);
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
