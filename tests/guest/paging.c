/*
 * paging.c - permissions, error codes, accessed and dirty bits of every paging mode.
 *
 * One page is mapped with every combination of bits, read, written and fetched from, by ring 0 and
 * ring 3, under WP, SMEP, SMAP and AC; what must happen is computed here from the manual's text,
 * level by level, in a form unlike the walk of an emulator. The same source is built for 32-bit,
 * PAE, 4-level and 5-level paging.
 */
#include "kernel.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
enum { TEST_PHYS = 0x400000, WINDOW = 0x40000000 };
enum { CR0_WP = 1 << 16, CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, FLAG_AC = 1 << 18 };

#ifdef PAGING_32
typedef u32 entry;
enum { SHIFT = 22, INDEX = 10, LEVELS = 2 };
#else
typedef u64 entry;
enum { INDEX = 9 };
#ifdef PAGING_PAE
enum { LEVELS = 3 };
#elif defined(LA57)
enum { LEVELS = 5 };
#else
enum { LEVELS = 4 };
#endif
#endif
#define NX (sizeof(entry) == 8 ? (entry)((u64)1 << 63) : 0)

static entry low[LEVELS + 8][4096 / sizeof(entry)] __attribute__((aligned(4096)));
static unsigned used;

/* The entry that maps `linear` at `level` (1: 4 KiB), making upper tables on the way. */
static entry *entry_at(entry *top, word linear, unsigned level)
{
    entry *table = top;

    for (unsigned l = LEVELS; l > level; l--) {
        entry *e = &table[linear >> (12 + INDEX * (l - 1)) & ((1u << INDEX) - 1)];

        if (!(*e & P)) {
            /* PAE's top entries have neither W nor U. */
            *e = (entry)(word)low[++used] | P;
            if (!(LEVELS == 3 && l == 3))
                *e |= W | U;
        }
        table = (entry *)(word)(*e & ~(entry)0xfff & ~NX);
    }
    return &table[linear >> (12 + INDEX * (level - 1)) & ((1u << INDEX) - 1)];
}

static void build(void)
{
    entry *top = low[0];

    /* The kernel: the low 8 MiB in small pages, of ring 0 but for the user-mode ones. */
    for (word a = 0; a < 0x800000; a += 4096) {
        bool user = (a >= (word)user_start && a < (word)user_end) || a == (word)user_stack;

        *entry_at(top, a, 1) = (entry)(a | P | W | (user ? U : 0));
    }
}

struct access {
    bool user, write, fetch;
};

struct bits {
    entry leaf, upper;
    bool wp, smep, smap, ac;
};

/* What the manual says: the error code, or -1 where the access is allowed. */
static int predicted(struct bits b, struct access a)
{
    bool user_page = b.leaf & U && b.upper & U, may_write = b.leaf & W && b.upper & W;
    bool no_execute = (b.leaf | b.upper) & NX;
    int code = (a.write ? 2 : 0) | (a.user ? 4 : 0);

    if (a.fetch && (b.smep || NX))
        code |= 16;
    if (!(b.upper & P) || !(b.leaf & P))
        return code;
    code |= 1;
    if (a.user && !user_page)
        return code;
    if (a.fetch && no_execute)
        return code;
    if (a.fetch && !a.user && b.smep && user_page)
        return code;
    if (!a.fetch && !a.user && user_page && b.smap && !b.ac)
        return code;
    if (a.write && !may_write && (a.user || b.wp))
        return code;
    return -1;
}

static void do_read(word at)
{
    (void)*(volatile u8 *)at;
}

static void do_write(word at)
{
    *(volatile u8 *)at = 0xc3;
}

static void do_fetch(word at)
{
    ((void (*)(void))at)();
}

static void with_ac(word at)
{
    __asm__ volatile("stac");
    do_read(at);
    __asm__ volatile("clac");
}

static void with_ac_write(word at)
{
    __asm__ volatile("stac");
    do_write(at);
    __asm__ volatile("clac");
}

static word perform(struct bits b, struct access a)
{
    if (a.user)
        return attempt_user(a.fetch ? user_call : a.write ? user_store : user_load, WINDOW);
    if (b.ac && !a.fetch)
        return attempt(a.write ? with_ac_write : with_ac, WINDOW);
    return attempt(a.fetch ? do_fetch : a.write ? do_write : do_read, WINDOW);
}

static unsigned wrong;

static void complain(const char *what, struct bits b, struct access a, u64 got, u64 want)
{
    if (++wrong > 12)
        return;
    print("  ");
    print(what);
    print(": leaf ");
    print_hex(b.leaf);
    print(" upper ");
    print_hex(b.upper);
    print(a.user ? " ring 3" : " ring 0");
    print(a.fetch ? " fetch" : a.write ? " write" : " read");
    print(b.wp ? " WP" : "");
    print(b.smep ? " SMEP" : "");
    print(b.smap ? b.ac ? " SMAP+AC" : " SMAP" : "");
    print(" got ");
    print_hex(got);
    print(" want ");
    print_hex(want);
    print("\n");
}

static void one(entry *leaf, entry *upper, struct bits b, struct access a)
{
    int want = predicted(b, a);
    entry frame = *leaf & ~(entry)0xfff & ~NX, table = *upper & ~(entry)0xfff & ~NX;
    word got;

    *leaf = frame | b.leaf;
    *upper = table | b.upper;
    invlpg(WINDOW);
    trap.error = 0;
    *(volatile u8 *)TEST_PHYS = 0xc3;
    got = perform(b, a);
    if (want < 0) {
        if (got != (a.user ? USER_DONE : NONE))
            complain("refused", b, a, got << 16 | trap.error, 0);
    } else {
        if (got != PF || trap.error != (word)want)
            complain("error code", b, a, got << 16 | trap.error, PF << 16 | (word)want);
        else if (trap.cr2 != WINDOW)
            complain("CR2", b, a, trap.cr2, WINDOW);
    }
    if ((*leaf & (A | D)) != (want >= 0 ? 0 : a.write ? A | D : A))
        complain("A and D of the leaf", b, a, *leaf & (A | D), 0);
    if (want < 0 && !(*upper & A))
        complain("A of the upper entry", b, a, *upper, A);
    *leaf = frame | P | W;
    *upper = table | P | W;
    invlpg(WINDOW);
}

static bool has_smep, has_smap;

static void sweep(const char *name, unsigned level)
{
    entry *leaf = entry_at(low[0], WINDOW, level), *upper = entry_at(low[0], WINDOW, level + 1);
    entry size = level > 1 ? PS : 0;
    word cr0 = READ_CR(0), cr4 = READ_CR(4);

    wrong = 0;
    *leaf = TEST_PHYS | P;
    for (unsigned i = 0; i < 256; i++) {
        struct bits b = {.leaf = (i & 7) | size | (i & 8 ? NX : 0),
                         .upper = (i >> 4 & 7) | (i & 128 ? NX : 0)};

        if ((i & 0x88) && !NX)
            continue;
        for (unsigned c = 0; c < 16; c++) {
            b.wp = c & 1;
            b.smep = c & 2;
            b.smap = c & 4;
            b.ac = c & 8;
            if ((b.smep && !has_smep) || (b.smap && !has_smap) || (b.ac && !b.smap))
                continue;
            WRITE_CR(0, b.wp ? cr0 | CR0_WP : cr0 & ~(word)CR0_WP);
            WRITE_CR(4, (cr4 & ~(word)(CR4_SMEP | CR4_SMAP)) | (b.smep ? CR4_SMEP : 0) |
                            (b.smap ? CR4_SMAP : 0));
            for (unsigned a = 0; a < 6; a++)
                one(leaf, upper, b, (struct access){a & 1, a / 2 == 1, a / 2 == 2});
        }
    }
    WRITE_CR(0, cr0);
    WRITE_CR(4, cr4);
    expect(name, wrong, 0);
}

#ifndef PAGING_32
/* A bit that is reserved at this place gives P and RSVD, whatever the permissions. */
static void reserved(const char *name, unsigned level, entry bit)
{
    entry *e = entry_at(low[0], WINDOW, level), before = *e;

    *e |= bit | P | U | W;
    invlpg(WINDOW);
    attempt(do_read, WINDOW);
    expect(name, trap.vector << 16 | trap.error, PF << 16 | 9);
    *e = before;
    invlpg(WINDOW);
}

#endif

static void write_across(word at)
{
    *(volatile u32 *)(at + 0xffe) = 0x11223344;
}

static void crossing(void)
{
    entry *second = entry_at(low[0], WINDOW + 4096, 1);

    *entry_at(low[0], WINDOW, 1) = TEST_PHYS | P | W;
    *second = 0;
    invlpg(WINDOW + 4096);
    *(volatile u32 *)(TEST_PHYS + 0xffc) = 0;
    expect("a write into an absent second page", attempt(write_across, WINDOW), PF);
    expect("CR2 is the second page", trap.cr2, WINDOW + 4096);
    expect("nothing was written to the first", *(volatile u32 *)(TEST_PHYS + 0xffc), 0);
    *second = (TEST_PHYS + 0x1000) | P | W;
    expect("a write over two pages", attempt(write_across, WINDOW), NONE);
    expect("its first part", *(volatile u16 *)(TEST_PHYS + 0xffe), 0x3344);
    expect("its second part", *(volatile u16 *)(TEST_PHYS + 0x1000), 0x1122);
}

/* A translation may be used until INVLPG, and must not after. */
static void invalidation(void)
{
    entry *leaf = entry_at(low[0], WINDOW, 1);

    *leaf = TEST_PHYS | P | W;
    invlpg(WINDOW);
    *(volatile u32 *)TEST_PHYS = 1;
    *(volatile u32 *)(TEST_PHYS + 0x2000) = 2;
    expect("before", *(volatile u32 *)WINDOW, 1);
    *leaf = (TEST_PHYS + 0x2000) | P | W;
    invlpg(WINDOW);
    expect("after INVLPG", *(volatile u32 *)WINDOW, 2);
    *leaf = TEST_PHYS | P | W;
    WRITE_CR(3, READ_CR(3));
    expect("after MOV CR3", *(volatile u32 *)WINDOW, 1);
    *leaf = (TEST_PHYS + 0x2000) | P;
    invlpg(WINDOW);
    expect("dirty stays clear on reads", (*(volatile u32 *)WINDOW, *leaf & D), 0);
}

#if defined(__x86_64__) || defined(PAGING_PAE)
static void write_cr3(word v)
{
    WRITE_CR(3, v);
}

#endif
#ifdef __x86_64__
static void write_cr4(word v)
{
    WRITE_CR(4, v);
}
#endif

static void write_cr0(word v)
{
    WRITE_CR(0, v);
}

void test(void)
{
    u32 r[4];

    cpuid(7, 0, r);
    has_smep = r[1] >> 7 & 1;
    has_smap = r[1] >> 20 & 1;
    build();
#ifdef PAGING_32
    WRITE_CR(4, 0x10); /* PSE */
    WRITE_CR(3, low[0]);
    WRITE_CR(0, READ_CR(0) | 0x80000000);
#elif defined(PAGING_PAE)
    wrmsr(0xc0000080, 0x800); /* NXE */
    WRITE_CR(4, 0x20);
    WRITE_CR(3, low[0]);
    WRITE_CR(0, READ_CR(0) | 0x80000000);
#else
    WRITE_CR(3, low[0]);
#endif
    sweep("every combination of bits, small pages", 1);
#ifdef PAGING_32
    {
        entry *pde = entry_at(low[0], WINDOW, 2), table = *pde;

        *pde = TEST_PHYS | P | W | PS;
        invlpg(WINDOW);
        *(volatile u8 *)(TEST_PHYS + 0x3456) = 0x77;
        expect("4 MiB page", *(volatile u8 *)(WINDOW + 0x3456), 0x77);
        expect("its accessed bit", *pde & A, A);
        *pde |= 1u << 21;
        invlpg(WINDOW);
        attempt(do_read, WINDOW);
        expect("bit 21 of a 4 MiB page", trap.vector << 16 | trap.error, PF << 16 | 9);
        WRITE_CR(4, 0);
        *pde = table | PS; /* ignored without PSE */
        invlpg(WINDOW);
        expect("PS without CR4.PSE", attempt(do_read, WINDOW), NONE);
        *pde = table;
        WRITE_CR(4, 0x10);
    }
#else
    {
        entry *pde = entry_at(low[0], WINDOW, 2), table = *pde;

        *pde = TEST_PHYS | P | W | PS;
        if (LEVELS > 3) /* PAE's top entries have no permissions */
            sweep("every combination of bits, 2 MiB pages", 2);
        *pde = TEST_PHYS | P | W | PS;
        *(volatile u8 *)(TEST_PHYS + 0x3456) = 0x77;
        invlpg(WINDOW);
        expect("2 MiB page", *(volatile u8 *)(WINDOW + 0x3456), 0x77);
        reserved("bit 13 of a 2 MiB page", 2, 1 << 13);
        *pde = table;
        invlpg(WINDOW);
    }
    reserved("a physical address bit too many", 1, (entry)1 << 51);
    reserved("the same in a table entry", 2, (entry)1 << 51);
#ifdef PAGING_PAE
    reserved("bit 62 of a PTE", 1, (entry)1 << 62);
    wrmsr(0xc0000080, 0);
    reserved("NX without EFER.NXE", 1, NX);
    wrmsr(0xc0000080, 0x800);
    expect("a reserved bit in a PDPTE", (low[0][3] |= 2 | P, attempt(write_cr3, READ_CR(3))), GP);
    low[0][3] = 0;
    WRITE_CR(3, READ_CR(3));
    {
        entry before = low[0][1];

        low[0][1] = 0; /* the registers keep the old PDPTE until CR3 is loaded */
        invlpg(WINDOW);
        expect("PDPTE registers", attempt(do_read, WINDOW), NONE);
        WRITE_CR(3, READ_CR(3));
        expect("PDPTE registers reloaded", attempt(do_read, WINDOW), PF);
        low[0][1] = before;
        WRITE_CR(3, READ_CR(3));
    }
#else
    reserved("PS in a PML4 entry", 4, PS);
    wrmsr(0xc0000080, 0x501);
    reserved("NX without EFER.NXE", 1, NX);
    wrmsr(0xc0000080, 0xd01);
    expect("CR3 with too many address bits", attempt(write_cr3, READ_CR(3) | (word)1 << 51), GP);
    expect("CR3 with bit 63, no PCID", attempt(write_cr3, READ_CR(3) | (word)1 << 63), GP);
    expect("clear PAE in long mode", attempt(write_cr4, READ_CR(4) & ~(word)0x20), GP);
    expect("change LA57 in long mode", attempt(write_cr4, READ_CR(4) ^ 0x1000), GP);
    expect("clear PG in 64-bit mode", attempt(write_cr0, READ_CR(0) & ~(word)0x80000000), GP);
#endif
#endif
    expect("PG without PE", attempt(write_cr0, READ_CR(0) & ~(word)1), GP);
    expect("NW without CD", attempt(write_cr0, (READ_CR(0) & ~(word)0x40000000) | 0x20000000), GP);
    crossing();
    invalidation();
}
