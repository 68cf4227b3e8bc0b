/*
 * test_mmu.c - page walks against a second formulation of the manual's rules, and the TLB.
 *
 * The second formulation multiplies out what each level allows from its bits as three-letter
 * rights, per mode and access, instead of walking.
 */
#include "support/unit.h"

#include "memory/ram.h"
#include "x86/mmu.h"
#include "x86/model.h"

#include <errno.h>
#include <pthread.h>

enum { RAM = 8 * MiB, TABLES = 0x100000, PAGE = 0x200000 };
#define LINEAR UINT64_C(0x40201000)
enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80 };
#define NX BIT(63)

struct fixture {
    struct cpu_model model;
    struct ram_block *ram;
    struct memory_map *memory;
    struct cpu *cpu;
    unsigned tables;
};

static uint64_t mmio_value;

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    return mmio_value + offset;
}

static void mmio_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    mmio_value = value;
}

static const struct io_ops mmio_ops = {mmio_read, mmio_write, 1, 8};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct cpu_limits limits;

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build("max,phys-bits=40", &limits, 1, &f->model, NULL), 0);
    assert_int_equal(ram_block_new("ram", RAM, &f->ram, NULL), 0);
    f->memory = memory_map_new("memory", UINT64_C(1) << 46);
    assert_int_equal(
        memory_add_ram(f->memory, "ram", 0, RAM, 0, IN_ALL, f->ram, 0, true, NULL, NULL), 0);
    assert_int_equal(
        memory_add_io(f->memory, "io", 0x10000000, 0x1000, 0, &mmio_ops, NULL, NULL, NULL, NULL),
        0);
    f->cpu = cpu_new(0, 0, &f->model);
    f->cpu->memory = f->memory;
    mmu_attach(f->cpu);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    cpu_free(f->cpu);
    memory_map_free(f->memory);
    ram_block_free(f->ram);
    free(f);
    return 0;
}

enum format { FORMAT_32, FORMAT_PAE, FORMAT_4, FORMAT_5, FORMATS };

static unsigned levels(enum format format)
{
    static const uint8_t n[] = {2, 3, 4, 5};

    return n[format];
}

static unsigned entry_size(enum format format)
{
    return format == FORMAT_32 ? 4 : 8;
}

static void use_format(struct fixture *f, enum format format)
{
    struct cpu *cpu = f->cpu;

    memset(f->ram->host + TABLES, 0, 16 * 4096);
    f->tables = 1;
    cpu->cr0 = CR0_PE | CR0_PG;
    cpu->cr3 = TABLES;
    cpu->cr4 = format == FORMAT_32 ? CR4_PSE : CR4_PAE;
    cpu->efer = format == FORMAT_32 ? 0 : EFER_NXE;
    if (format >= FORMAT_4)
        cpu->efer |= EFER_LME | EFER_LMA;
    if (format == FORMAT_5)
        cpu->cr4 |= CR4_LA57;
    mmu_flush_all(cpu);
}

static uint64_t get(struct fixture *f, enum format format, uint64_t at)
{
    return load_le(f->ram->host + at, entry_size(format));
}

static void put(struct fixture *f, enum format format, uint64_t at, uint64_t value)
{
    store_le(f->ram->host + at, value, entry_size(format));
    mmu_flush_linear(f->cpu);
}

/* Address of the entry for LINEAR at `level`; upper tables are made, all rights in them. */
static uint64_t entry(struct fixture *f, enum format format, unsigned level)
{
    unsigned bits = format == FORMAT_32 ? 10 : 9;
    uint64_t table = TABLES, at;

    for (unsigned l = levels(format);; l--) {
        at = table + (LINEAR >> (12 + bits * (l - 1)) & (BIT(bits) - 1)) * entry_size(format);
        if (l == level)
            return at;
        if (!(get(f, format, at) & P)) {
            bool top = format == FORMAT_PAE && l == 3;

            put(f, format, at, (TABLES + 4096 * f->tables++) | P | (top ? 0 : W | U));
            if (top)
                assert_true(mmu_load_pdptrs(f->cpu, TABLES));
        }
        table = get(f, format, at) & 0xfffffff000;
    }
}

/* Rights as letters: a page gives the intersection of its levels'. */
struct rights {
    bool kernel[MMU_ACCESSES], user[MMU_ACCESSES];
};

static struct rights rights_of(uint64_t e, bool nx_counts)
{
    bool run = !(nx_counts && e & NX);

    return (struct rights){.kernel = {true, e & W, run},
                           .user = {e & U, e & U && e & W, e & U && run}};
}

static int want(struct fixture *f, uint64_t upper, uint64_t leaf, enum mmu_mode mode,
                enum mmu_access access)
{
    bool nx_counts = f->cpu->efer & EFER_NXE;
    struct rights a = rights_of(upper, nx_counts), b = rights_of(leaf, nx_counts);
    bool kernel = a.kernel[access] && b.kernel[access], user = a.user[access] && b.user[access];
    bool user_page = upper & leaf & U, ok;
    int error = (access == MMU_WRITE ? PF_W : 0) | (mode == MMU_USER ? PF_U : 0);

    if (access == MMU_FETCH && (nx_counts || f->cpu->cr4 & CR4_SMEP))
        error |= PF_I;
    if (!(upper & leaf & P))
        return error;
    if (mode == MMU_USER)
        ok = user;
    else if (access == MMU_FETCH)
        ok = kernel && !(user_page && f->cpu->cr4 & CR4_SMEP);
    else
        ok = (kernel || (access == MMU_WRITE && !(f->cpu->cr0 & CR0_WP))) &&
             !(user_page && mode == MMU_KERNEL);
    return ok ? -1 : error | PF_P;
}

static void check_one(struct fixture *f, enum format format, unsigned level, uint64_t upper_bits,
                      uint64_t leaf_bits, enum mmu_mode mode, enum mmu_access access)
{
    uint64_t leaf_at = entry(f, format, level), upper_at = entry(f, format, level + 1);
    uint64_t upper = (get(f, format, upper_at) & 0xfffff000) | upper_bits;
    uint64_t leaf = PAGE | leaf_bits | (level > 1 ? PS : 0), after;
    struct mmu_translation t;
    uint32_t error = 0;
    int expected, result;

    put(f, format, upper_at, upper);
    put(f, format, leaf_at, leaf);
    expected = want(f, upper, leaf, mode, access);
    result = mmu_walk(f->cpu, LINEAR, mode, access, false, &t, &error);
    assert_int_equal(get(f, format, leaf_at), leaf); /* a probe changes nothing */
    if ((result < 0 ? (int)error : -1) != expected)
        fprintf(stderr,
                "fmt %d level %u upper %lx leaf %lx mode %d acc %d cr0 %lx cr4 %lx exp %d\n",
                format, level, upper, leaf, mode, access, f->cpu->cr0, f->cpu->cr4, expected);
    assert_int_equal(result < 0 ? (int)error : -1, expected);
    result = mmu_walk(f->cpu, LINEAR, mode, access, true, &t, &error);
    assert_int_equal(result < 0 ? (int)error : -1, expected);
    after = get(f, format, leaf_at);
    if (expected >= 0) {
        assert_int_equal(result, -EFAULT);
        assert_int_equal(after, leaf);
    } else {
        unsigned shift = level == 1 ? 12 : format == FORMAT_32 ? 22 : 21;

        assert_int_equal(after, leaf | A | (access == MMU_WRITE ? D : 0));
        assert_true(get(f, format, upper_at) & A);
        assert_int_equal(t.page_size, BIT(shift));
        assert_int_equal(t.address, PAGE % BIT(shift) + (LINEAR & (BIT(shift) - 1)) +
                                        (PAGE & ~(BIT(shift) - 1)));
        assert_int_equal(t.writable, want(f, upper, after, mode, MMU_WRITE) < 0);
        assert_int_equal(t.dirty, access == MMU_WRITE);
    }
    put(f, format, upper_at, upper | P | W | U);
}

static void permissions_follow_the_manual(void **state)
{
    struct fixture *f = *state;

    for (enum format format = 0; format < FORMATS; format++)
        for (unsigned level = 1; level <= (format >= FORMAT_4 ? 2 : 1); level++) {
            use_format(f, format);
            entry(f, format, level);
            for (unsigned bits = 0; bits < 256; bits++)
                for (unsigned mode = 0; mode < MMU_MODES; mode++)
                    for (unsigned access = 0; access < MMU_ACCESSES; access++)
                        for (unsigned extra = 0; extra < 4; extra++) {
                            uint64_t nx = format == FORMAT_32 ? 0 : NX;
                            uint64_t low = (bits & 7) | (bits & 8 ? nx : 0);
                            uint64_t high = (bits >> 4 & 7) | (bits & 128 ? nx : 0);

                            f->cpu->cr0 = CR0_PE | CR0_PG | (extra & 1 ? CR0_WP : 0);
                            f->cpu->cr4 &= ~(uint64_t)CR4_SMEP;
                            f->cpu->cr4 |= extra & 2 ? CR4_SMEP : 0;
                            check_one(f, format, level, high, low, mode, access);
                        }
        }
}

static void expect_reserved(struct fixture *f, enum format format, unsigned level, uint64_t bits,
                            bool refused)
{
    uint64_t at = entry(f, format, level), before = get(f, format, at);
    struct mmu_translation t;
    uint32_t error = 0;
    int r;

    put(f, format, at, (level == 1 ? PAGE : 0) | P | W | bits);
    r = mmu_walk(f->cpu, LINEAR, MMU_USER, MMU_WRITE, true, &t, &error);
    assert_int_equal(r, -EFAULT); /* not a user page */
    assert_int_equal(error, PF_P | PF_W | PF_U | (refused ? PF_RSVD : 0));
    put(f, format, at, before);
}

static void reserved_bits_fault_before_permissions(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_32);
    expect_reserved(f, FORMAT_32, 2, PS, false);
    expect_reserved(f, FORMAT_32, 2, PS | BIT(20), false); /* PSE-36: address bit 39 */
    expect_reserved(f, FORMAT_32, 2, PS | BIT(21), true);
    use_format(f, FORMAT_PAE);
    for (unsigned bit = 40; bit < 63; bit++)
        expect_reserved(f, FORMAT_PAE, 1, BIT(bit), true);
    expect_reserved(f, FORMAT_PAE, 1, BIT(39), false);
    expect_reserved(f, FORMAT_PAE, 2, PS | BIT(13), true);
    use_format(f, FORMAT_4);
    for (unsigned bit = 40; bit < 52; bit++)
        expect_reserved(f, FORMAT_4, 1, BIT(bit), true);
    for (unsigned bit = 52; bit < 63; bit++)
        expect_reserved(f, FORMAT_4, 1, BIT(bit), false);
    expect_reserved(f, FORMAT_4, 1, NX, false);
    f->cpu->efer &= ~(uint64_t)EFER_NXE;
    expect_reserved(f, FORMAT_4, 1, NX, true);
    f->cpu->efer |= EFER_NXE;
    expect_reserved(f, FORMAT_4, 2, PS | BIT(20), true);
    expect_reserved(f, FORMAT_4, 4, PS, true);
    expect_reserved(f, FORMAT_4, 3, PS | BIT(29), true);
    expect_reserved(f, FORMAT_4, 3, PS | BIT(13), true);
}

static void pse36_reaches_above_4_gib(void **state)
{
    struct fixture *f = *state;
    struct mmu_translation t;
    uint32_t error;

    use_format(f, FORMAT_32);
    put(f, FORMAT_32, entry(f, FORMAT_32, 2), 0x00400000 | 0x5 << 13 | P | PS);
    assert_int_equal(mmu_walk(f->cpu, LINEAR, MMU_KERNEL, MMU_READ, true, &t, &error), 0);
    assert_int_equal(t.address, UINT64_C(0x500400000) + (LINEAR & 0x3fffff));
    f->cpu->cr4 = 0; /* without PSE the bit means nothing: it is a table */
    assert_int_equal(mmu_walk(f->cpu, LINEAR, MMU_KERNEL, MMU_READ, true, &t, &error), -EFAULT);
}

static void pdptrs_are_checked_and_kept(void **state)
{
    struct fixture *f = *state;
    struct mmu_translation t;
    uint32_t error;

    use_format(f, FORMAT_PAE);
    put(f, FORMAT_PAE, entry(f, FORMAT_PAE, 1), PAGE | P);
    store_le(f->ram->host + TABLES + 8, 0, 8); /* memory changes, the register does not */
    assert_int_equal(mmu_walk(f->cpu, LINEAR, MMU_KERNEL, MMU_READ, true, &t, &error), 0);
    assert_true(mmu_load_pdptrs(f->cpu, TABLES));
    assert_int_equal(mmu_walk(f->cpu, LINEAR, MMU_KERNEL, MMU_READ, true, &t, &error), -EFAULT);
    store_le(f->ram->host + TABLES + 16, P | BIT(40), 8);
    assert_false(mmu_load_pdptrs(f->cpu, TABLES));
    store_le(f->ram->host + TABLES + 16, BIT(40), 8); /* absent: anything goes */
    assert_true(mmu_load_pdptrs(f->cpu, TABLES));
    store_le(f->ram->host + TABLES + 16, P | 2, 8);
    assert_false(mmu_load_pdptrs(f->cpu, TABLES));
}

/* ---- accesses ------------------------------------------------------------------------------- */

/* Runs it; the #PF's error code, or -1. */
#define FAULT(f, ...)                                                                              \
    ({                                                                                             \
        jmp_buf here_;                                                                             \
        volatile int result_ = -1;                                                                 \
        (f)->cpu->unwind = &here_;                                                                 \
        if (!setjmp(here_)) {                                                                      \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            assert_int_equal((f)->cpu->raise_vector, EXC_PF);                                      \
            result_ = (int)(f)->cpu->raise_error;                                                  \
        }                                                                                          \
        (f)->cpu->unwind = NULL;                                                                   \
        result_;                                                                                   \
    })

static void map4(struct fixture *f, gva linear, uint64_t value)
{
    /* Only pages of the table that maps LINEAR. */
    put(f, FORMAT_4, (entry(f, FORMAT_4, 1) & ~UINT64_C(0xfff)) + (linear >> 12 & 511) * 8, value);
}

static void crossing_stores_write_all_or_nothing(void **state)
{
    struct fixture *f = *state;
    gva end = LINEAR + 0x1000;

    use_format(f, FORMAT_4);
    f->cpu->code_size = 8;
    map4(f, LINEAR, PAGE | P | W);
    assert_int_equal(FAULT(f, mmu_store(f->cpu, end - 3, 0x1122334455667788, 8, MMU_KERNEL)), PF_W);
    assert_int_equal(f->cpu->cr2, end);
    assert_int_equal(load_le(f->ram->host + PAGE + 0xffd, 2), 0);
    map4(f, end, (PAGE + 0x5000) | P | W);
    assert_int_equal(FAULT(f, mmu_store(f->cpu, end - 3, 0x1122334455667788, 8, MMU_KERNEL)), -1);
    assert_int_equal(load_le(f->ram->host + PAGE + 0xffd, 2), 0x7788);
    assert_int_equal(load_le(f->ram->host + PAGE + 0x5000, 4), 0x22334455);
    assert_int_equal(mmu_load(f->cpu, end - 3, 8, MMU_KERNEL), 0x1122334455667788);
    assert_int_equal(mmu_load(f->cpu, end - 1, 2, MMU_KERNEL), 0x5566);
    f->cpu->code_size = 4; /* a wrap at 4 GiB: not here, but the rule must not break this */
    assert_int_equal(mmu_load(f->cpu, end - 2, 4, MMU_KERNEL), 0x44556677);
}

static void device_pages_are_never_cached(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, 0x10000000 | P | W);
    mmio_value = 0x40;
    assert_int_equal(mmu_load(f->cpu, LINEAR + 8, 4, MMU_KERNEL), 0x48);
    mmio_value = 0x50;
    assert_int_equal(mmu_load(f->cpu, LINEAR + 8, 4, MMU_KERNEL), 0x58);
    mmu_store(f->cpu, LINEAR, 0x1234567890, 8, MMU_KERNEL);
    assert_int_equal(mmio_value, 0x1234567890);
    assert_null(tlb_lookup(f->cpu, LINEAR, 1, MMU_KERNEL, MMU_READ));
}

static void entries_hold_until_they_are_flushed(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    store_le(f->ram->host + PAGE, 1, 4);
    store_le(f->ram->host + PAGE + 0x1000, 2, 4);
    assert_int_equal(mmu_load(f->cpu, LINEAR, 4, MMU_KERNEL), 1);
    assert_non_null(tlb_lookup(f->cpu, LINEAR, 4, MMU_KERNEL, MMU_READ));
    assert_null(tlb_lookup(f->cpu, LINEAR, 4, MMU_KERNEL, MMU_WRITE)); /* D is not set yet */
    assert_null(tlb_lookup(f->cpu, LINEAR + 0xffe, 4, MMU_KERNEL, MMU_READ));
    assert_null(tlb_lookup(f->cpu, LINEAR, 4, MMU_USER, MMU_READ));
    mmu_store(f->cpu, LINEAR + 8, 5, 4, MMU_KERNEL);
    assert_non_null(tlb_lookup(f->cpu, LINEAR, 4, MMU_KERNEL, MMU_WRITE));
    store_le(f->ram->host + entry(f, FORMAT_4, 1), (PAGE + 0x1000) | P, 8);
    mmu_flush_page(f->cpu, LINEAR + 0x123);
    assert_int_equal(mmu_load(f->cpu, LINEAR, 4, MMU_KERNEL), 2);
    mmu_flush_page(f->cpu, LINEAR + 0x1000); /* another page */
    assert_non_null(tlb_lookup(f->cpu, LINEAR, 4, MMU_KERNEL, MMU_READ));
}

static void invlpg_anywhere_in_a_large_page_drops_all_of_it(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    put(f, FORMAT_4, entry(f, FORMAT_4, 2), PAGE | PS | P | W);
    for (unsigned i = 0; i < 4; i++)
        mmu_load(f->cpu, LINEAR + i * 0x1000, 4, MMU_KERNEL);
    mmu_flush_page(f->cpu, LINEAR + 0x100000);
    for (unsigned i = 0; i < 4; i++)
        assert_null(tlb_lookup(f->cpu, LINEAR + i * 0x1000, 4, MMU_KERNEL, MMU_READ));
}

static int fetch(struct fixture *f, gva linear)
{
    struct ram_block *block;
    uint64_t offset;
    gpa address;

    return FAULT(f,
                 mmu_access_page(f->cpu, linear, MMU_KERNEL, MMU_FETCH, &address, &block, &offset));
}

/* Translations made under the old value of a control must not be used under the new one. */
static void controls_take_effect_at_once(void **state)
{
    struct fixture *f = *state;
    struct cpu *cpu = f->cpu;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | U | A | D);
    assert_int_equal(FAULT(f, mmu_store(cpu, LINEAR, 1, 1, MMU_KERNEL_AC)), -1);
    assert_true(cpu_write_cr0(cpu, cpu->cr0 | CR0_WP));
    assert_int_equal(FAULT(f, mmu_store(cpu, LINEAR, 1, 1, MMU_KERNEL_AC)), PF_W | PF_P);
    assert_int_equal(fetch(f, LINEAR), -1);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 | CR4_SMEP));
    assert_int_equal(fetch(f, LINEAR), PF_P | PF_I);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 & ~(uint64_t)CR4_SMEP));
    assert_int_equal(fetch(f, LINEAR), -1);

    map4(f, LINEAR, PAGE | P | W | U | A | D | NX);
    assert_int_equal(FAULT(f, mmu_load(cpu, LINEAR, 1, MMU_USER)), -1);
    assert_true(cpu_wrmsr(cpu, 0xc0000080, cpu->efer & ~(uint64_t)EFER_NXE));
    assert_int_equal(FAULT(f, mmu_load(cpu, LINEAR, 1, MMU_USER)), PF_P | PF_U | PF_RSVD);
    assert_true(cpu_wrmsr(cpu, 0xc0000080, cpu->efer | EFER_NXE));
    assert_int_equal(FAULT(f, mmu_load(cpu, LINEAR, 1, MMU_USER)), -1);

    /* Global pages: only a change of CR4.PGE need drop them; what MOV CR3 does is not promised. */
    store_le(f->ram->host + PAGE, 1, 1);
    store_le(f->ram->host + PAGE + 0x1000, 2, 1);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 | CR4_PGE));
    map4(f, LINEAR, PAGE | P | W | 0x100);
    assert_int_equal(mmu_load(cpu, LINEAR, 1, MMU_KERNEL), 1);
    store_le(f->ram->host + entry(f, FORMAT_4, 1), (PAGE + 0x1000) | P | W | 0x100, 8);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 & ~(uint64_t)CR4_PGE));
    assert_int_equal(mmu_load(cpu, LINEAR, 1, MMU_KERNEL), 2);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 | CR4_PGE));
    store_le(f->ram->host + entry(f, FORMAT_4, 1), PAGE | P | W | 0x100, 8);
    mmu_flush_page(cpu, LINEAR); /* INVLPG drops global ones as well */
    assert_int_equal(mmu_load(cpu, LINEAR, 1, MMU_KERNEL), 1);

    assert_true(cpu_write_cr0(cpu, cpu->cr0 & ~(uint64_t)CR0_PG));
    store_le(f->ram->host + 0x201000, 9, 1);
    assert_int_equal(mmu_load(cpu, 0x201000, 1, MMU_KERNEL), 9);
    assert_int_equal(FAULT(f, mmu_load(cpu, LINEAR, 1, MMU_KERNEL)), -1); /* nobody, no fault */

    use_format(f, FORMAT_32);
    put(f, FORMAT_32, entry(f, FORMAT_32, 2), 0x400000 | PS | P | W);
    store_le(f->ram->host + 0x400000 + (LINEAR & 0x3fffff), 7, 1);
    assert_int_equal(mmu_load(cpu, LINEAR, 1, MMU_KERNEL), 7);
    assert_true(cpu_write_cr4(cpu, 0)); /* no PSE: the entry points to a table of zeros */
    assert_int_equal(FAULT(f, mmu_load(cpu, LINEAR, 1, MMU_KERNEL)), 0);
}

/* Two large pages far apart, and a small one between: dropping one of them drops it whole. */
static void invlpg_of_one_of_several_large_pages(void **state)
{
    struct fixture *f = *state;
    uint64_t pd;

    use_format(f, FORMAT_4);
    pd = entry(f, FORMAT_4, 2) & ~UINT64_C(0xfff);
    for (unsigned round = 0; round < 2; round++) {
        put(f, FORMAT_4, pd + 8 * 8, PAGE | PS | P | W);
        put(f, FORMAT_4, pd + 300 * 8, (PAGE + 0x200000) | PS | P | W);
        store_le(f->ram->host + PAGE + 0x7000, 1, 1);
        store_le(f->ram->host + PAGE + 0x200000 + 0x7000, 2, 1);
        assert_int_equal(mmu_load(f->cpu, 0x41007000, 1, MMU_KERNEL), 1);
        assert_int_equal(mmu_load(f->cpu, 0x65807000, 1, MMU_KERNEL), 2);
        /* In the tables alone, then INVLPG of another part of the page. */
        store_le(f->ram->host + pd + (round ? 8 : 300) * 8, 0, 8);
        mmu_flush_page(f->cpu, round ? 0x411ff000 : 0x65800000);
        assert_int_equal(FAULT(f, mmu_load(f->cpu, round ? 0x41007000 : 0x65807000, 1, MMU_KERNEL)),
                         0);
    }
}

static void only_low_addresses_wrap_in_compatibility_mode(void **state)
{
    const gva high = UINT64_C(0xffffff8000000000) + LINEAR;
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    map4(f, LINEAR + 0x1000, (PAGE + 0x5000) | P | W);
    put(f, FORMAT_4, TABLES + 511 * 8, get(f, FORMAT_4, TABLES));
    f->cpu->code_size = 4; /* tables and stacks of the system, reached from 32-bit code */
    assert_int_equal(FAULT(f, mmu_store(f->cpu, high + 0xffc, 0x1122334455667788, 8, MMU_KERNEL)),
                     -1);
    assert_int_equal(load_le(f->ram->host + PAGE + 0xffc, 4), 0x55667788);
    assert_int_equal(load_le(f->ram->host + PAGE + 0x5000, 4), 0x11223344);
}

struct other_processor {
    _Atomic uint64_t *leaf;
    _Atomic bool stop;
    _Atomic uint64_t changes;
    uint64_t lost; /* its own bit was not as it left it */
};

/* Takes A and D away and flips a bit of its own, as a kernel's page scanner would. */
static void *change_entry(void *opaque)
{
    struct other_processor *o = opaque;

    while (!atomic_load(&o->stop)) {
        uint64_t n = atomic_fetch_add(&o->changes, 1);

        atomic_fetch_and(o->leaf, ~(uint64_t)(A | D));
        o->lost += (atomic_fetch_xor(o->leaf, 0x200) >> 9 & 1) != (n & 1);
    }
    return NULL;
}

static void accessed_and_dirty_lose_no_update(void **state)
{
    struct fixture *f = *state;
    struct other_processor o = {0};
    pthread_t thread;
    uint64_t end;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    o.leaf = (_Atomic uint64_t *)(f->ram->host + entry(f, FORMAT_4, 1));
    assert_int_equal(pthread_create(&thread, NULL, change_entry, &o), 0);
    for (unsigned i = 0; i < 200000 || atomic_load(&o.changes) < 200000; i++) {
        mmu_flush_page(f->cpu, LINEAR);
        if (i & 1)
            mmu_store(f->cpu, LINEAR, i, 4, MMU_KERNEL);
        else
            mmu_load(f->cpu, LINEAR, 4, MMU_KERNEL);
    }
    atomic_store(&o.stop, true);
    pthread_join(thread, NULL);
    end = atomic_load(o.leaf);
    assert_int_equal(end & ~(uint64_t)(A | D | 0x200), PAGE | P | W);
    assert_int_equal(end >> 9 & 1, o.changes & 1);
    assert_int_equal(o.lost, 0);
    /* And the bits are set where nobody takes them away. */
    mmu_flush_page(f->cpu, LINEAR);
    mmu_store(f->cpu, LINEAR, 1, 4, MMU_KERNEL);
    assert_int_equal(atomic_load(o.leaf) & (A | D), A | D);
}

static void watched_pages_are_written_the_slow_way(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    f->ram->tracking = RAM_DIRTY_MIGRATION;
    mmu_store(f->cpu, LINEAR + 4, 7, 4, MMU_KERNEL);
    assert_true(ram_test_and_clear(f->ram, PAGE, RAM_DIRTY_MIGRATION));
    /* The page tables were written too: accessed and dirty bits. */
    assert_true(ram_test_and_clear(f->ram, entry(f, FORMAT_4, 1), RAM_DIRTY_MIGRATION));
    mmu_flush_all(f->cpu); /* what memory_flush() makes an engine do */
    mmu_store(f->cpu, LINEAR + 4, 8, 4, MMU_KERNEL);
    assert_true(ram_test_and_clear(f->ram, PAGE, RAM_DIRTY_MIGRATION));
    f->ram->tracking = 0;
}

static void a20_and_paging_off(void **state)
{
    static _Atomic uint64_t shut = ~BIT(20), open = UINT64_MAX;
    struct fixture *f = *state;

    f->cpu->cr0 = CR0_PE;
    f->cpu->cr4 = f->cpu->efer = 0;
    mmu_flush_all(f->cpu);
    store_le(f->ram->host + 0x1234, 0x11, 1);
    store_le(f->ram->host + 0x101234, 0x22, 1);
    assert_int_equal(mmu_load(f->cpu, 0x101234, 1, MMU_KERNEL), 0x22);
    f->cpu->a20_mask = &shut;
    mmu_flush_all(f->cpu);
    assert_int_equal(mmu_load(f->cpu, 0x101234, 1, MMU_KERNEL), 0x11);
    assert_int_equal(cpu_phys_read(f->cpu, 0x101234, 1), 0x11);
    /* Bit 20 of what the tables say is cut, and of where they are. */
    f->cpu->a20_mask = &open;
    use_format(f, FORMAT_4);
    map4(f, LINEAR, 0x101000 | P | W);
    memcpy(f->ram->host, f->ram->host + TABLES, 16 * 4096);
    memset(f->ram->host + TABLES, 0, 16 * 4096);
    f->ram->host[0x1234] = 0x33; /* a table lies there: bytes nobody walks */
    f->cpu->a20_mask = &shut;
    mmu_flush_all(f->cpu);
    assert_int_equal(FAULT(f, mmu_load(f->cpu, LINEAR + 0x234, 1, MMU_KERNEL)), -1);
    assert_int_equal(mmu_load(f->cpu, LINEAR + 0x234, 1, MMU_KERNEL), 0x33);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(permissions_follow_the_manual, setup, teardown),
        cmocka_unit_test_setup_teardown(reserved_bits_fault_before_permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(pse36_reaches_above_4_gib, setup, teardown),
        cmocka_unit_test_setup_teardown(pdptrs_are_checked_and_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(crossing_stores_write_all_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(device_pages_are_never_cached, setup, teardown),
        cmocka_unit_test_setup_teardown(entries_hold_until_they_are_flushed, setup, teardown),
        cmocka_unit_test_setup_teardown(invlpg_anywhere_in_a_large_page_drops_all_of_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(controls_take_effect_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(invlpg_of_one_of_several_large_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(only_low_addresses_wrap_in_compatibility_mode, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(accessed_and_dirty_lose_no_update, setup, teardown),
        cmocka_unit_test_setup_teardown(watched_pages_are_written_the_slow_way, setup, teardown),
        cmocka_unit_test_setup_teardown(a20_and_paging_off, setup, teardown),
    };

    return cmocka_run_group_tests_name("mmu", tests, NULL, NULL);
}
