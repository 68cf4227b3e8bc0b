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

/* ---- tables and sets ------------------------------------------------------------------------ */

enum { G = 0x100, OTHER_ROOT = 0x180000 };

/* Map a page at any canonical address, in the 4-level tables at `root`. */
static void map_at(struct fixture *f, uint64_t root, gva linear, uint64_t value)
{
    uint64_t table = root;

    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint8_t *e = f->ram->host + table + (linear >> shift & 511) * 8;

        if (!(load_le(e, 8) & P))
            store_le(e, (TABLES + 4096 * f->tables++) | P | W | U, 8);
        table = load_le(e, 8) & 0xfffffff000;
    }
    store_le(f->ram->host + table + (linear >> 12 & 511) * 8, value, 8);
}

/* Two address spaces with the same linear address mapped to different pages, PCIDs on. */
static void two_spaces(struct fixture *f, uint64_t bits)
{
    use_format(f, FORMAT_4);
    memset(f->ram->host + OTHER_ROOT, 0, 4096);
    map_at(f, TABLES, LINEAR, PAGE | P | W | U | A | D | bits);
    map_at(f, OTHER_ROOT, LINEAR, (PAGE + 0x1000) | P | W | U | A | D | bits);
    store_le(f->ram->host + PAGE, 1, 8);
    store_le(f->ram->host + PAGE + 0x1000, 2, 8);
    f->cpu->cr4 |= CR4_PCIDE | CR4_PGE;
    f->cpu->cr3 = TABLES;
    f->cpu->code_size = 8;
    mmu_flush_all(f->cpu);
}

static void space_enter(struct fixture *f, uint64_t root, unsigned pcid, bool keep)
{
    assert_true(cpu_write_cr3(f->cpu, root | pcid | (keep ? BIT(63) : 0)));
    assert_int_equal(f->cpu->cr3, root | pcid);
}

static bool has(struct fixture *f, gva linear, enum mmu_access access)
{
    return tlb_lookup(f->cpu, linear, 1, MMU_KERNEL_AC, access) != NULL;
}

static uint64_t value_at(struct fixture *f, gva linear)
{
    return mmu_load(f->cpu, linear, 4, MMU_KERNEL_AC);
}

static void address_spaces_survive_a_switch_that_keeps(void **state)
{
    struct fixture *f = *state;

    two_spaces(f, 0);
    space_enter(f, TABLES, 1, false);
    assert_int_equal(value_at(f, LINEAR), 1);
    space_enter(f, OTHER_ROOT, 2, true);
    assert_false(has(f, LINEAR, MMU_READ));
    assert_int_equal(value_at(f, LINEAR), 2);
    space_enter(f, TABLES, 1, true);
    assert_true(has(f, LINEAR, MMU_READ));
    assert_int_equal(value_at(f, LINEAR), 1);
    space_enter(f, OTHER_ROOT, 2, false); /* drops its own, not the other's */
    assert_false(has(f, LINEAR, MMU_READ));
    space_enter(f, TABLES, 1, true);
    assert_true(has(f, LINEAR, MMU_READ));
    space_enter(f, TABLES, 1, false); /* the current one, again */
    assert_false(has(f, LINEAR, MMU_READ));
    assert_int_equal(value_at(f, LINEAR), 1);
    space_enter(f, OTHER_ROOT, 1, true); /* another's PCID: nothing of it is kept */
    assert_int_equal(value_at(f, LINEAR), 2);

    /* More PCIDs than sets, in an order that makes every set be reused. */
    for (unsigned i = 0; i < 5 * TLB_SETS; i++) {
        unsigned pcid = i * 7 % (TLB_SETS + 3);

        space_enter(f, pcid % 2 ? OTHER_ROOT : TABLES, 16 + pcid, true);
        assert_int_equal(value_at(f, LINEAR), pcid % 2 ? 2 : 1);
    }
    /* The sets used last are there still. */
    for (unsigned i = 0; i < TLB_SETS; i++) {
        space_enter(f, TABLES, 100 + i, true);
        value_at(f, LINEAR);
    }
    for (unsigned i = 0; i < TLB_SETS; i++) {
        space_enter(f, TABLES, 100 + i, true);
        assert_true(has(f, LINEAR, MMU_READ));
    }

    /* Leaving PCIDs: set 0 and nothing in it. */
    space_enter(f, TABLES, 0, true);
    assert_true(cpu_write_cr4(f->cpu, f->cpu->cr4 & ~(uint64_t)CR4_PCIDE));
    assert_int_equal(f->cpu->tlb->current, 0);
    assert_false(has(f, LINEAR, MMU_READ));
    assert_true(cpu_write_cr3(f->cpu, OTHER_ROOT));
    assert_int_equal(f->cpu->tlb->current, 0);
    assert_int_equal(value_at(f, LINEAR), 2);
}

static void global_pages_survive_a_switch(void **state)
{
    struct fixture *f = *state;

    two_spaces(f, 0);
    assert_true(cpu_write_cr4(f->cpu, f->cpu->cr4 & ~(uint64_t)CR4_PCIDE));
    map_at(f, TABLES, LINEAR + 0x1000, (PAGE + 0x2000) | P | W | G);
    store_le(f->ram->host + PAGE + 0x2000, 3, 8);
    assert_int_equal(value_at(f, LINEAR), 1);
    assert_int_equal(value_at(f, LINEAR + 0x1000), 3);
    assert_int_equal(fetch(f, LINEAR + 0x1000), -1);
    assert_true(cpu_write_cr3(f->cpu, OTHER_ROOT));
    assert_false(has(f, LINEAR, MMU_READ));
    assert_true(has(f, LINEAR + 0x1000, MMU_READ));
    assert_int_equal(value_at(f, LINEAR), 2);
    assert_int_equal(value_at(f, LINEAR + 0x1000), 3);
    /* The same entry, no longer global, goes. */
    mmu_flush_page(f->cpu, LINEAR + 0x1000);
    map_at(f, OTHER_ROOT, LINEAR + 0x1000, (PAGE + 0x2000) | P | W);
    assert_int_equal(value_at(f, LINEAR + 0x1000), 3);
    assert_true(cpu_write_cr3(f->cpu, OTHER_ROOT));
    assert_false(has(f, LINEAR + 0x1000, MMU_READ));
    /* Without CR4.PGE there is no such thing. */
    assert_true(cpu_write_cr4(f->cpu, f->cpu->cr4 & ~(uint64_t)CR4_PGE));
    map_at(f, OTHER_ROOT, LINEAR + 0x1000, (PAGE + 0x2000) | P | W | G);
    assert_int_equal(value_at(f, LINEAR + 0x1000), 3);
    assert_true(cpu_write_cr3(f->cpu, OTHER_ROOT));
    assert_false(has(f, LINEAR + 0x1000, MMU_READ));
}

/* Fill LINEAR under PCIDs 1 and 2; PCID 2 is current afterwards. */
static void fill_both(struct fixture *f)
{
    space_enter(f, TABLES, 1, true);
    value_at(f, LINEAR);
    space_enter(f, OTHER_ROOT, 2, true);
    value_at(f, LINEAR);
}

/* Which of the two have it: bits 0 and 1. */
static int both_have(struct fixture *f)
{
    int r = has(f, LINEAR, MMU_READ) << 1;

    space_enter(f, TABLES, 1, true);
    r |= has(f, LINEAR, MMU_READ);
    space_enter(f, OTHER_ROOT, 2, true);
    return r;
}

static void single_drops_reach_the_right_sets(void **state)
{
    struct fixture *f = *state;

    for (unsigned global = 0; global < 2; global++) {
        two_spaces(f, global ? G : 0);
        fill_both(f);
        assert_int_equal(both_have(f), 3);
        mmu_flush_page(f->cpu, LINEAR + 0x1000);
        assert_int_equal(both_have(f), 3);
        mmu_flush_page(f->cpu, LINEAR + 5); /* INVLPG: global ones in all */
        assert_int_equal(both_have(f), global ? 0 : 1);
        fill_both(f);
        mmu_flush_pcid(f->cpu, 0, 1, LINEAR + 5);
        assert_int_equal(both_have(f), 2);
        fill_both(f);
        mmu_flush_pcid(f->cpu, 0, 3, LINEAR); /* nobody's */
        assert_int_equal(both_have(f), 3);
        mmu_flush_pcid(f->cpu, 1, 1, 0);
        assert_int_equal(both_have(f), global ? 3 : 2);
        fill_both(f);
        mmu_flush_pcid(f->cpu, 1, 2, 0);
        assert_int_equal(both_have(f), global ? 3 : 1);
        fill_both(f);
        mmu_flush_pcid(f->cpu, 3, 0, 0);
        assert_int_equal(both_have(f), global ? 3 : 0);
        fill_both(f);
        mmu_flush_pcid(f->cpu, 2, 0, 0);
        assert_int_equal(both_have(f), 0);
        fill_both(f);
        assert_true(cpu_write_cr4(f->cpu, f->cpu->cr4 ^ CR4_PGE));
        assert_int_equal(both_have(f), 0);
    }
}

/* INVLPG within a large page drops all of it: in the current set, and elsewhere if it is global. */
static void large_pages_are_dropped_in_all_sets_they_are_in(void **state)
{
    struct fixture *f = *state;

    for (unsigned global = 0; global < 2; global++) {
        uint64_t pd;

        two_spaces(f, 0);
        for (unsigned space = 0; space < 2; space++) {
            uint64_t t = space ? OTHER_ROOT : TABLES;

            for (unsigned shift = 39; shift > 21; shift -= 9)
                t = load_le(f->ram->host + t + (LINEAR >> shift & 511) * 8, 8) & 0xfffffff000;
            pd = t + (LINEAR >> 21 & 511) * 8;
            store_le(f->ram->host + pd, PAGE | P | W | U | PS | (global ? G : 0), 8);
        }
        fill_both(f);
        assert_int_equal(both_have(f), 3);
        mmu_flush_page(f->cpu, LINEAR ^ 0x100000);
        assert_int_equal(both_have(f), global ? 0 : 1);
    }
}

static void the_ends_of_the_address_space(void **state)
{
    static const gva page[] = {0, UINT64_C(0xfffffffffffff000), UINT64_C(0xffffffffffffe000),
                               0x0ffff000, 0x10000000};
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    f->cpu->code_size = 8;
    for (unsigned flushes = 0; flushes < 3; flushes++) {
        for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
            for (unsigned mode = 0; mode < MMU_MODES; mode++)
                for (unsigned access = 0; access < MMU_ACCESSES; access++)
                    for (unsigned at = 0; at < 0x1000; at += 0xfc8)
                        for (unsigned size = 1; size <= 64; size++)
                            assert_null(tlb_lookup(f->cpu, page[i] + at, size, mode, access));
        for (unsigned i = 0; i < ARRAY_SIZE(page); i++) {
            map_at(f, TABLES, page[i], (PAGE + 0x1000 * i) | P | W);
            store_le(f->ram->host + PAGE + 0x1000 * i + 8, i + 1, 8);
            store_le(f->ram->host + PAGE + 0x1000 * i + 0xffe, 0x5500 + i, 2);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(page); i++) {
            assert_int_equal(mmu_load(f->cpu, page[i] + 8, 8, MMU_KERNEL), i + 1);
            mmu_store(f->cpu, page[i] + 16, i, 8, MMU_KERNEL);
            assert_int_equal(fetch(f, page[i]), -1);
        }
        /* 0x10000000 took the index of page 0xfffffffffffff... no: 0x0ffff000 has that of the end.
         */
        assert_int_equal(tlb_index(0x0ffff000), tlb_index(page[1]));
        for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
            assert_int_equal(mmu_load(f->cpu, page[i] + 8, 8, MMU_KERNEL), i + 1);
        /* Both pages there, and yet no crosser hits. */
        assert_null(tlb_lookup(f->cpu, page[2] + 0xfff, 2, MMU_KERNEL, MMU_READ));
        assert_int_equal(mmu_load(f->cpu, page[2] + 0xffe, 4, MMU_KERNEL), 0x5502);
        assert_int_equal(mmu_load(f->cpu, page[3] + 0xffe, 4, MMU_KERNEL), 0x5503);
        mmu_flush_page(f->cpu, page[0] + 0x800);
        mmu_flush_page(f->cpu, page[1] + 0x800);
        assert_null(tlb_lookup(f->cpu, page[0], 1, MMU_KERNEL, MMU_READ));
        assert_null(tlb_lookup(f->cpu, page[1], 1, MMU_KERNEL, MMU_WRITE));
        assert_null(tlb_lookup(f->cpu, page[1], 1, MMU_KERNEL, MMU_FETCH));
        if (flushes)
            assert_true(cpu_write_cr3(f->cpu, TABLES));
        else
            mmu_flush_linear(f->cpu);
    }
}

/* Every entry of a way in use, half of them global. */
static void full_tables_are_emptied(void **state)
{
    const gva base = UINT64_C(0x40000000);
    struct fixture *f = *state;
    uint64_t pd;
    unsigned left = 0;

    use_format(f, FORMAT_4);
    f->cpu->cr4 |= CR4_PGE;
    pd = entry(f, FORMAT_4, 2) & ~UINT64_C(0xfff);
    for (unsigned i = 0; i < TLB_SIZE / 512; i++)
        put(f, FORMAT_4, pd + i * 8, PAGE | P | W | PS | A | D | (i & 1 ? G : 0));
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < TLB_SIZE; i++)
            mmu_load(f->cpu, base + i * UINT64_C(0x1000), 1, MMU_KERNEL);
        for (unsigned i = 0; i < TLB_SIZE; i++) {
            gva linear = base + i * UINT64_C(0x1000);

            assert_non_null(tlb_lookup(f->cpu, linear, 8, MMU_KERNEL, MMU_READ));
            assert_non_null(tlb_lookup(f->cpu, linear, 8, MMU_KERNEL, MMU_WRITE));
            assert_null(tlb_lookup(f->cpu, linear + 0xfff, 2, MMU_KERNEL, MMU_READ));
        }
        if (round)
            mmu_flush_linear(f->cpu);
        else
            assert_true(cpu_write_cr3(f->cpu, TABLES));
        for (unsigned i = 0; i < TLB_SIZE; i++) {
            gva linear = base + i * UINT64_C(0x1000);
            bool kept = tlb_lookup(f->cpu, linear, 1, MMU_KERNEL, MMU_READ);

            assert_int_equal(kept, !round && i / 512 % 2);
            assert_int_equal(tlb_lookup(f->cpu, linear, 1, MMU_KERNEL, MMU_WRITE) != NULL, kept);
            left += kept;
        }
    }
    assert_int_equal(left, TLB_SIZE / 2);
    for (unsigned i = 0; i < TLB_SIZE; i++)
        assert_int_equal(f->cpu->tlb->table[MMU_KERNEL]->ways[MMU_READ].tag[i], tlb_empty(i));
}

/* ---- mmu_fill() ----------------------------------------------------------------------------- */

/* The slow path: the host pointer, or NULL for a fault too. */
static uint8_t *touch(struct fixture *f, gva linear, enum mmu_mode mode, enum mmu_access access)
{
    uint8_t *volatile host = NULL;
    struct ram_block *block;
    uint64_t offset;
    gpa address;

    (void)FAULT(f, host = mmu_access_page(f->cpu, linear, mode, access, &address, &block, &offset));
    return host;
}

static void filling_is_what_the_slow_path_does(void **state)
{
    static uint8_t before[16 * 4096], slow[16 * 4096];
    struct fixture *f = *state;
    struct cpu *cpu = f->cpu;
    unsigned filled = 0, refused = 0, watched = 0;
    uint32_t seed = 12345;

    for (unsigned n = 0; n < 40000; n++) {
        enum format format = n % FORMATS;
        enum mmu_mode mode;
        enum mmu_access access;
        uint64_t leaf_at, upper_at, target, r, bits[2];
        unsigned level, at;
        uint8_t *host;
        bool write_entry, ok;

        seed = seed * 1664525 + 1013904223;
        r = seed >> 8 | (uint64_t)(seed * 69069) << 32;
        use_format(f, format);
        cpu->cr0 |= r & 0x100 ? CR0_WP : 0;
        cpu->cr4 |= (r & 0x200 ? CR4_SMEP : 0) | (r & 0x400 ? CR4_PGE : 0);
        level = r >> 11 & 3 ? 1 : 2;
        leaf_at = entry(f, format, level);
        upper_at = level < levels(format) ? entry(f, format, level + 1) : leaf_at;
        for (unsigned i = 0; i < 2; i++) {
            bits[i] = (r >> (16 + 8 * i) & (P | W | U | A | D)) | (r >> (32 + i) & 7 ? P : 0);
            if (entry_size(format) == 8 && (r >> (40 + i) & 7) == 0)
                bits[i] |= NX;
        }
        target = level > 1 ? PAGE : r >> 44 & 7 ? PAGE + (r >> 47 & 7) * 0x1000 : 0x10000000;
        if (format == FORMAT_32 && level > 1)
            target = 0;
        put(f, format, leaf_at,
            target | bits[0] | (level > 1 ? PS : 0) | (r >> 50 & 1 ? G : 0) |
                ((r >> 51 & 31) == 0 && level > 1 ? BIT(13) : 0));
        if (!(format == FORMAT_PAE && level == 2) && upper_at != leaf_at)
            put(f, format, upper_at, (get(f, format, upper_at) & 0xfffff000) | bits[1]);
        mode = r >> 56 & 3 ? r >> 56 & 1 : MMU_KERNEL_AC;
        access = (r >> 58) % MMU_ACCESSES;
        at = r & 0xff8;
        if ((r >> 60 & 7) == 0)
            f->ram->tracking = RAM_DIRTY_MIGRATION; /* nothing is plain until it is written */
        memset((void *)f->ram->page_flags, 0, RAM >> RAM_PAGE_BITS);

        memcpy(before, f->ram->host + TABLES, sizeof(before));
        mmu_flush_all(cpu);
        assert_false(mmu_fill(cpu, LINEAR + at, mode, access)); /* no page is known yet */
        assert_memory_equal(before, f->ram->host + TABLES, sizeof(before));
        host = touch(f, LINEAR + at, mode, access);
        write_entry = tlb_lookup(cpu, LINEAR + at, 8, mode, MMU_WRITE);
        memcpy(slow, f->ram->host + TABLES, sizeof(slow));
        memcpy(f->ram->host + TABLES, before, sizeof(before));
        memset((void *)f->ram->page_flags, 0, RAM >> RAM_PAGE_BITS);
        mmu_flush_linear(cpu);

        ok = mmu_fill(cpu, LINEAR + at, mode, access);
        if (ok) {
            filled++;
            assert_non_null(host);
            assert_ptr_equal(tlb_lookup(cpu, LINEAR + at, 1, mode, access), host);
            assert_memory_equal(slow, f->ram->host + TABLES, sizeof(slow));
            assert_int_equal(tlb_lookup(cpu, LINEAR + at, 1, mode, MMU_WRITE) != NULL, write_entry);
            if (write_entry)
                assert_true(f->ram->page_flags[(host - f->ram->host) >> 12] & RAM_WRITE_CACHED);
        } else {
            refused++;
            for (unsigned a = 0; a < MMU_ACCESSES; a++)
                assert_null(tlb_lookup(cpu, LINEAR + at, 1, mode, a));
            assert_int_equal(get(f, format, leaf_at) & D,
                             load_le(before + leaf_at - TABLES, entry_size(format)) & D);
            if (f->ram->tracking)
                watched++;
            else
                assert_true(!host || (access == MMU_WRITE && !write_entry));
        }
        f->ram->tracking = 0;
    }
    assert_true(filled > 5000 && refused > 5000 && watched > 500);
}

static void filling_refuses_what_is_no_address(void **state)
{
    struct fixture *f = *state;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    value_at(f, LINEAR);
    mmu_flush_linear(f->cpu);
    assert_true(mmu_fill(f->cpu, LINEAR, MMU_KERNEL, MMU_READ));
    assert_false(mmu_fill(f->cpu, LINEAR | BIT(48), MMU_KERNEL, MMU_READ));
    assert_false(mmu_fill(f->cpu, LINEAR | BIT(63), MMU_KERNEL, MMU_READ));
    f->cpu->cr0 = CR0_PE; /* no paging, 32 bits */
    f->cpu->efer = f->cpu->cr4 = 0;
    mmu_flush_linear(f->cpu);
    assert_true(mmu_fill(f->cpu, PAGE, MMU_KERNEL, MMU_WRITE));
    assert_false(mmu_fill(f->cpu, PAGE | BIT(32), MMU_KERNEL, MMU_READ));
    f->cpu->apic_page = PAGE; /* the page becomes the local APIC's */
    mmu_flush_linear(f->cpu);
    assert_false(mmu_fill(f->cpu, PAGE, MMU_KERNEL, MMU_READ));
}

static void filling_ends_while_entries_change(void **state)
{
    struct fixture *f = *state;
    struct other_processor o = {0};
    unsigned filled = 0;
    pthread_t thread;

    use_format(f, FORMAT_4);
    map4(f, LINEAR, PAGE | P | W);
    value_at(f, LINEAR);
    o.leaf = (_Atomic uint64_t *)(f->ram->host + entry(f, FORMAT_4, 1));
    assert_int_equal(pthread_create(&thread, NULL, change_entry, &o), 0);
    for (unsigned i = 0; i < 50000 || atomic_load(&o.changes) < 50000; i++) {
        mmu_flush_page(f->cpu, LINEAR);
        filled += mmu_fill(f->cpu, LINEAR, MMU_KERNEL, i & 1 ? MMU_WRITE : MMU_READ);
    }
    atomic_store(&o.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(o.lost, 0);
    assert_true(filled > 1000);
}

/* ---- what engines ask for ------------------------------------------------------------------- */

/* A page with one write entry says where that is, and that no other vCPU has one. */
static void the_one_write_entry_is_known(void **state)
{
    struct fixture *f = *state;

    two_spaces(f, 0);
    space_enter(f, TABLES, 1, true);
    map_at(f, TABLES, LINEAR, PAGE | P | W | U);
    map_at(f, TABLES, LINEAR + 0x5000, PAGE | P | W | U);
    for (unsigned round = 0; round < 3; round++) {
        assert_non_null(touch(f, LINEAR + 0x5000 * (round == 2), MMU_KERNEL_AC, MMU_WRITE));
        assert_true(has(f, LINEAR + 0x5000 * (round == 2), MMU_WRITE));
        if (!round) /* gone, and there again: still one place */
            mmu_flush_page(f->cpu, LINEAR);
        else
            assert_false(mmu_drop_writes(f->cpu, f->ram, PAGE));
        assert_false(has(f, LINEAR + 0x5000 * (round == 2), MMU_WRITE));
    }
    assert_non_null(touch(f, LINEAR, MMU_KERNEL_AC, MMU_WRITE));
    f->cpu->index = 1; /* as another vCPU sees it */
    assert_true(mmu_drop_writes(f->cpu, f->ram, PAGE));
    f->cpu->index = 0;
}

static void write_entries_of_a_page_can_be_dropped(void **state)
{
    struct fixture *f = *state;

    two_spaces(f, 0);
    map_at(f, TABLES, LINEAR + 0x5000, PAGE | P | W | U); /* the same page twice */
    map_at(f, OTHER_ROOT, LINEAR, PAGE | P | W | U);
    for (unsigned space = 0; space < 2; space++) {
        space_enter(f, space ? OTHER_ROOT : TABLES, 1 + space, true);
        assert_non_null(touch(f, LINEAR, MMU_USER, MMU_WRITE));
        assert_non_null(touch(f, space ? LINEAR : LINEAR + 0x5000, MMU_KERNEL_AC, MMU_WRITE));
    }
    assert_true(f->ram->page_flags[PAGE >> 12] & RAM_WRITE_CACHED);
    assert_true(ram_write_is_plain(f->ram, PAGE));
    assert_false(mmu_drop_writes(f->cpu, f->ram, PAGE + 0x1000)); /* another page */
    assert_true(has(f, LINEAR, MMU_WRITE));
    assert_true(mmu_drop_writes(f->cpu, f->ram, PAGE));
    for (unsigned space = 0; space < 2; space++) { /* the other one now */
        space_enter(f, space ? TABLES : OTHER_ROOT, 2 - space, true);
        for (unsigned mode = MMU_USER; mode < MMU_MODES; mode++) {
            assert_null(tlb_lookup(f->cpu, LINEAR, 1, mode, MMU_WRITE));
            assert_null(tlb_lookup(f->cpu, LINEAR + 0x5000, 1, mode, MMU_WRITE));
            assert_non_null(tlb_lookup(f->cpu,
                                       space && mode == MMU_KERNEL_AC ? LINEAR + 0x5000 : LINEAR, 1,
                                       mode, MMU_READ)); /* those stay */
        }
    }
    /* Pages that are not plain get no write entry, so none is noted. */
    f->ram->page_flags[PAGE >> 12] = RAM_CODE;
    mmu_flush_linear(f->cpu);
    value_at(f, LINEAR);
    assert_int_equal(f->ram->page_flags[PAGE >> 12], RAM_CODE);
    assert_false(mmu_fill(f->cpu, LINEAR, MMU_USER, MMU_WRITE));
    f->ram->page_flags[PAGE >> 12] = 0;
}

static unsigned made, dropped;
static struct tlb_table *last_made;

static void on_table_made(struct cpu *cpu, struct tlb_table *t)
{
    assert_int_equal(t->head[TLB_HEAD - 1], 0);
    t->head[TLB_HEAD - 1] = 0x42;
    last_made = t;
    made++;
}

static void on_code_dropped(struct cpu *cpu)
{
    dropped++;
}

/* What a translator leaves behind for a page of code. */
static void plant(struct fixture *f, gva linear)
{
    struct tlb_table *t = f->cpu->tlb->table[MMU_KERNEL_AC];
    struct ram_block *block;
    uint64_t offset;
    gpa address;

    assert_non_null(
        mmu_access_page(f->cpu, linear, MMU_KERNEL_AC, MMU_FETCH, &address, &block, &offset));
    t->code[tlb_index(linear)] = linear;
    t->jump[linear >> 12 & (TLB_JUMPS - 1)] = (struct tlb_jump){linear + 1, f};
    t->jumps_used = true;
    dropped = 0;
}

/* Bit 0: code, bit 1: jump. */
static int planted(struct fixture *f, gva linear)
{
    struct tlb_table *t = f->cpu->tlb->table[MMU_KERNEL_AC];

    return (t->code[tlb_index(linear)] == linear) |
           (t->jump[linear >> 12 & (TLB_JUMPS - 1)].rip == linear + 1) << 1;
}

static void translations_go_with_their_pages(void **state)
{
    const gva alias = LINEAR + TLB_SIZE * UINT64_C(0x1000);
    struct fixture *f = *state;

    made = 0;
    mmu_set_hooks(f->cpu, on_table_made, on_code_dropped);
    assert_int_equal(made, MMU_MODES); /* those there are */
    two_spaces(f, 0);
    map_at(f, TABLES, LINEAR + 0x1000, (PAGE + 0x1000) | P | U);
    map_at(f, TABLES, alias, (PAGE + 0x2000) | P | U);
    space_enter(f, TABLES, 0, true);
    plant(f, LINEAR);
    assert_int_equal(planted(f, LINEAR), 3);
    value_at(f, LINEAR + 0x1000); /* a data entry is no code */
    mmu_flush_page(f->cpu, LINEAR + 0x1000);
    assert_int_equal(planted(f, LINEAR), 3);
    assert_int_equal(dropped, 0);
    mmu_flush_page(f->cpu, LINEAR);
    assert_int_equal(planted(f, LINEAR), 0);
    assert_int_equal(dropped, 1);

    /* Replacement by another page: the name goes, the mapping is as it was; but then INVLPG of the
     * page without an entry must find what relies on it. */
    plant(f, LINEAR);
    assert_non_null(
        touch(f, LINEAR, MMU_KERNEL_AC, MMU_FETCH)); /* the same page: nothing is replaced */
    assert_int_equal(planted(f, LINEAR), 3);
    assert_non_null(touch(f, alias, MMU_KERNEL_AC, MMU_FETCH));
    assert_int_equal(planted(f, LINEAR), 2);
    assert_int_equal(dropped, 0);
    mmu_flush_page(f->cpu, LINEAR);
    assert_int_equal(planted(f, LINEAR), 0);
    assert_int_equal(dropped, 1);
    /* The same by mmu_fill(). */
    mmu_flush_page(f->cpu, alias);
    plant(f, LINEAR);
    assert_true(mmu_fill(f->cpu, LINEAR, MMU_KERNEL_AC, MMU_FETCH));
    assert_int_equal(planted(f, LINEAR), 3);
    assert_true(mmu_fill(f->cpu, alias, MMU_KERNEL_AC, MMU_FETCH));
    assert_int_equal(planted(f, LINEAR), 2);

    /* Other sets have their own, and a switch is told of. */
    plant(f, LINEAR);
    made = 0;
    space_enter(f, OTHER_ROOT, 2, true);
    assert_int_equal(made, MMU_MODES);
    assert_int_equal(dropped, 1);
    assert_int_equal(planted(f, LINEAR), 0);
    space_enter(f, TABLES, 0, true);
    assert_int_equal(dropped, 2);
    assert_int_equal(planted(f, LINEAR), 3);
    space_enter(f, TABLES, 0, true); /* to itself */
    assert_int_equal(dropped, 2);
    assert_int_equal(planted(f, LINEAR), 3);
    space_enter(f, TABLES, 0, false);
    assert_int_equal(dropped, 3);
    assert_int_equal(planted(f, LINEAR), 0);
    plant(f, LINEAR);
    mmu_flush_pcid(f->cpu, 3, 0, 0);
    assert_int_equal(planted(f, LINEAR), 0);
    assert_int_equal(dropped, 1);
    plant(f, LINEAR);
    mmu_flush_linear(f->cpu);
    assert_int_equal(planted(f, LINEAR), 0);
    assert_int_equal(dropped, 1);
    /* Heads are the engine's for good. */
    assert_int_equal(last_made->head[TLB_HEAD - 1], 0x42);
    assert_int_equal(f->cpu->tlb->table[MMU_USER]->head[TLB_HEAD - 1], 0x42);

    /* A global page's stays over MOV CR3, its jumps do not: they may be others'. */
    map_at(f, TABLES, LINEAR, PAGE | P | G);
    assert_true(cpu_write_cr4(f->cpu, f->cpu->cr4 & ~(uint64_t)CR4_PCIDE));
    plant(f, LINEAR);
    assert_true(cpu_write_cr3(f->cpu, TABLES));
    assert_int_equal(planted(f, LINEAR), 1);
    assert_int_equal(dropped, 1);
}

static uint8_t copies[8][4096];
static uint8_t *copied[8];
static unsigned copy_count, table_writes;
static jmp_buf device_asked;

static uint8_t *copy_of(struct cpu *cpu, uint8_t *host_page, bool write, bool table)
{
    table_writes += write && table;
    for (unsigned i = 0; i < copy_count; i++)
        if (copied[i] == host_page)
            return copies[i];
    if (!write)
        return host_page;
    copied[copy_count] = host_page;
    return memcpy(copies[copy_count++], host_page, 4096);
}

static void on_device(struct cpu *cpu)
{
    longjmp(device_asked, 1);
}

static void dry_runs_change_nothing(void **state)
{
    static const struct mmu_dry dry = {copy_of, on_device};
    struct fixture *f = *state;
    uint8_t *ram = f->ram->host;
    uint8_t *before = malloc(f->ram->size);

    two_spaces(f, 0);
    map_at(f, TABLES, LINEAR + 0x1000, (PAGE + 0x1000) | P | W | U);
    map_at(f, TABLES, LINEAR + 0x2000, UINT64_C(0xf0000000) | P | W | U);
    mmu_store(f->cpu, LINEAR + 8, 5, 4, MMU_KERNEL_AC);
    memcpy(before, ram, f->ram->size);
    copy_count = table_writes = 0;
    mmu_set_dry(f->cpu, &dry);
    /* A page that the TLB has for writing: its copy is written, and read from then on. */
    assert_int_equal(value_at(f, LINEAR + 8), 5);
    mmu_store(f->cpu, LINEAR + 8, 6, 4, MMU_KERNEL_AC);
    assert_int_equal(value_at(f, LINEAR + 8), 6);
    assert_int_equal(copy_count, 1);
    assert_ptr_equal(copied[0], ram + PAGE);
    assert_int_equal(table_writes, 0);
    /* One that it has not: accessed and dirty bits go to a copy of the table, no entry is made. */
    mmu_store(f->cpu, LINEAR + 0xffe, 0x11223344, 4, MMU_KERNEL_AC);
    assert_int_equal(copy_count, 3);
    assert_true(table_writes > 0);
    assert_int_equal(mmu_load(f->cpu, LINEAR + 0xffe, 4, MMU_KERNEL_AC), 0x11223344);
    if (!setjmp(device_asked)) {
        mmu_load(f->cpu, LINEAR + 0x2000, 4, MMU_KERNEL_AC);
        fail_msg("the device was asked");
    }
    mmu_set_dry(f->cpu, NULL);
    assert_memory_equal(ram, before, f->ram->size);
    assert_false(has(f, LINEAR + 0x1000, MMU_READ));
    assert_true(has(f, LINEAR, MMU_WRITE));
    mmu_store(f->cpu, LINEAR + 8, 7, 4, MMU_KERNEL_AC);
    assert_int_equal(ram[PAGE + 8], 7);
    free(before);
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
        cmocka_unit_test_setup_teardown(address_spaces_survive_a_switch_that_keeps, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(global_pages_survive_a_switch, setup, teardown),
        cmocka_unit_test_setup_teardown(single_drops_reach_the_right_sets, setup, teardown),
        cmocka_unit_test_setup_teardown(large_pages_are_dropped_in_all_sets_they_are_in, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_ends_of_the_address_space, setup, teardown),
        cmocka_unit_test_setup_teardown(full_tables_are_emptied, setup, teardown),
        cmocka_unit_test_setup_teardown(filling_is_what_the_slow_path_does, setup, teardown),
        cmocka_unit_test_setup_teardown(filling_refuses_what_is_no_address, setup, teardown),
        cmocka_unit_test_setup_teardown(filling_ends_while_entries_change, setup, teardown),
        cmocka_unit_test_setup_teardown(the_one_write_entry_is_known, setup, teardown),
        cmocka_unit_test_setup_teardown(write_entries_of_a_page_can_be_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(translations_go_with_their_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(dry_runs_change_nothing, setup, teardown),
    };

    return cmocka_run_group_tests_name("mmu", tests, NULL, NULL);
}
