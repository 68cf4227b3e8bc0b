/* test_cpu.c - reset, events and sleep, time, MSRs and control registers. */
#include "support/unit.h"

#include "memory/ram.h"
#include "x86/mmu.h"
#include "x86/model.h"

#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

struct fixture {
    struct cpu_model model;
    struct memory_map *memory;
    struct ram_block *ram;
    struct cpu *cpu;
};

static void fixture_make(struct fixture *f, const char *spec)
{
    struct cpu_limits limits;

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build(spec, &limits, 1, &f->model, NULL), 0);
    f->cpu = cpu_new(0, 0, &f->model);
    f->cpu->memory = f->memory;
    mmu_attach(f->cpu);
}

static int setup_with(void **state, const char *spec)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->memory = memory_map_new("memory", UINT64_C(1) << 46);
    assert_int_equal(ram_block_new("ram", MiB, &f->ram, NULL), 0);
    assert_int_equal(
        memory_add_ram(f->memory, "ram", 0, MiB, 0, IN_ALL, f->ram, 0, true, NULL, NULL), 0);
    fixture_make(f, spec);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(
        state,
        "qemu64,vendor=GenuineIntel,+pcid,+la57,+smep,+smap,+tsc-adjust,+xsave,+xsavec,+xsaves");
}

static int setup_amd(void **state)
{
    return setup_with(state, "qemu64,vendor=AuthenticAMD");
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

/* ---- reset ---------------------------------------------------------------------------------- */

static void reset_is_table_9_1(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    uint32_t leaf1[4];

    cpu_cpuid(cpu, 1, 0, leaf1);
    memset(cpu->gpr, 0xff, sizeof(cpu->gpr));
    cpu->cr4 = CR4_PAE;
    cpu->star = 7;
    cpu->zmm[3][5] = 9;
    cpu_reset(cpu);
    assert_int_equal(cpu->rip, 0xfff0);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0xf000);
    assert_int_equal(cpu->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(cpu->rflags, 2);
    assert_int_equal(cpu->cr0, 0x60000010);
    assert_int_equal(cpu->cr4, 0);
    assert_int_equal(cpu->gpr[GPR_RAX], 0);
    assert_int_equal(cpu->gpr[GPR_RDX], leaf1[0]);
    assert_int_equal(cpu->dr[6], 0xffff0ff0);
    assert_int_equal(cpu->dr[7], 0x400);
    assert_int_equal(cpu->star, 0);
    assert_int_equal(cpu->zmm[3][5], 0);
    assert_int_equal(cpu->fx.fcw, 0x40);
    assert_int_equal(cpu->fx.mxcsr, 0x1f80);
    assert_int_equal(cpu->smbase, 0x30000);
    assert_int_equal(cpu->activity, CPU_RUNNING);
    assert_int_equal(cpu->code_size, 2);
    assert_int_equal(cpu->cpl, 0);
}

static void init_keeps_what_it_must(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    cpu->cr0 = CR0_PE | CR0_PG | CR0_CD | CR0_ET;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->star = 7;
    cpu->zmm[3][5] = 9;
    cpu->smbase = 0xa0000;
    cpu_init(cpu, false);
    assert_int_equal(cpu->cr0, CR0_CD | CR0_ET);
    assert_int_equal(cpu->efer, 0);
    assert_int_equal(cpu->star, 7);
    assert_int_equal(cpu->zmm[3][5], 9);
    assert_int_equal(cpu->smbase, 0xa0000);
    assert_int_equal(cpu->activity, CPU_WAIT_SIPI);
    cpu_sipi(cpu, 0x9a);
    assert_int_equal(cpu->activity, CPU_RUNNING);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x9a000);
    assert_int_equal(cpu->rip, 0);
    cpu_sipi(cpu, 0x11); /* running: ignored */
    assert_int_equal(cpu->seg[SEG_CS].base, 0x9a000);
}

/* ---- events --------------------------------------------------------------------------------- */

static void work_considers_what_masks_it(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    assert_false(cpu_has_work(cpu));
    cpu_post(cpu, CPU_EVENT_INTR);
    assert_false(cpu_has_work(cpu));
    cpu->rflags |= RFLAGS_IF;
    assert_true(cpu_has_work(cpu));
    cpu->sti_shadow = true;
    assert_false(cpu_has_work(cpu));
    cpu->sti_shadow = false;
    assert_true(cpu_retract(cpu, CPU_EVENT_INTR));
    assert_false(cpu_retract(cpu, CPU_EVENT_INTR));
    cpu_post(cpu, CPU_EVENT_NMI);
    assert_true(cpu_has_work(cpu));
    cpu->nmi_blocked = true;
    assert_false(cpu_has_work(cpu));
    cpu_post(cpu, CPU_EVENT_SMI);
    assert_true(cpu_has_work(cpu));
    cpu->in_smm = true;
    assert_false(cpu_has_work(cpu));
    cpu_post(cpu, CPU_EVENT_FLUSH);
    assert_false(cpu_has_work(cpu));
}

static void *sleeper(void *opaque)
{
    struct cpu *cpu = opaque;

    for (unsigned i = 0; i < 200; i++) {
        while (!(cpu->events & CPU_EVENT_NMI))
            cpu_sleep(cpu, CPU_EVENT_NMI);
        cpu_retract(cpu, CPU_EVENT_NMI);
        cpu_post(cpu, CPU_EVENT_WAKE); /* answer */
    }
    return NULL;
}

static void no_wakeup_is_lost(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, sleeper, cpu), 0);
    for (unsigned i = 0; i < 200; i++) {
        cpu_post(cpu, CPU_EVENT_NMI);
        while (!cpu_retract(cpu, CPU_EVENT_WAKE))
            nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static unsigned kicks;

static void count_kick(struct cpu *cpu)
{
    kicks++;
}

static void posting_kicks_once(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    kicks = 0;
    cpu->kick = count_kick;
    cpu_post(cpu, CPU_EVENT_EXIT);
    cpu_post(cpu, CPU_EVENT_EXIT);
    assert_int_equal(kicks, 1);
    cpu_retract(cpu, CPU_EVENT_EXIT);
    cpu_post(cpu, CPU_EVENT_EXIT);
    assert_int_equal(kicks, 2);
}

static void a_bounded_sleep_ends(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    struct timespec a, b;

    clock_gettime(CLOCK_MONOTONIC, &a);
    cpu_sleep_for(cpu, CPU_EVENT_NMI, 2 * NSEC_PER_MSEC);
    clock_gettime(CLOCK_MONOTONIC, &b);
    assert_true((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec >= 1900000);
    assert_false(cpu->sleeping);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void tsc_and_its_adjustment_agree(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    struct cpu *other = cpu_new(1, 1, cpu->model);
    uint64_t a, v;

    assert_true(cpu_tsc_hz() > 100000000);
    assert_int_equal(cpu->tsc_offset, other->tsc_offset); /* processors agree */
    cpu_free(other);
    a = cpu_read_tsc(cpu);
    assert_true(cpu_wrmsr(cpu, 0x3b, 1000000000000));
    assert_true(cpu_read_tsc(cpu) - a >= 1000000000000);
    assert_true(cpu_read_tsc(cpu) - a < 1100000000000);
    assert_true(cpu_wrmsr(cpu, 0x10, 5));
    assert_true(cpu_read_tsc(cpu) < 100000000000);
    assert_true(cpu_rdmsr(cpu, 0x3b, &v));
    assert_true((int64_t)v < 1000000000000); /* the write moved it along */
}

/* ---- MSRs ----------------------------------------------------------------------------------- */

static void expect_msr(struct cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t v = ~value;

    assert_true(cpu_rdmsr(cpu, index, &v));
    assert_int_equal(v, value);
}

static void msrs_keep_what_they_may(void **state)
{
    static const uint32_t plain[] = {0xc0000081, 0x174,      0x175,      0x176,     0xc0000082,
                                     0xc0000083, 0xc0000100, 0xc0000101, 0xc0000102};
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    uint64_t v;

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++) {
        assert_true(cpu_wrmsr(cpu, plain[i], 0xffff800012345678));
        expect_msr(cpu, plain[i], 0xffff800012345678);
    }
    assert_int_equal(cpu->seg[SEG_GS].base, 0xffff800012345678);
    for (size_t i = 2; i < ARRAY_SIZE(plain); i++)
        assert_false(cpu_wrmsr(cpu, plain[i], BIT(60)));
    expect_msr(cpu, 0x277, 0x0007040600070406);
    assert_true(cpu_wrmsr(cpu, 0x277, 0x0706050401000007));
    assert_false(cpu_wrmsr(cpu, 0x277, 0x0706050401000207)); /* type 2 is reserved */
    assert_false(cpu_wrmsr(cpu, 0x277, 0x0806050401000007));
    expect_msr(cpu, 0xda0, 0); /* IA32_XSS: Linux writes it wherever there is XSAVES */
    assert_true(cpu_wrmsr(cpu, 0xda0, 0));
    assert_false(cpu_wrmsr(cpu, 0xda0, BIT(8)));
    assert_false(cpu_rdmsr(cpu, 0x12345, &v));
    assert_false(cpu_wrmsr(cpu, 0x12345, 0));
    assert_false(cpu_rdmsr(cpu, 0x1b, &v)); /* no interrupt controller is wired up */
    assert_false(cpu_rdmsr(cpu, 0x9e, &v)); /* SMBASE: in SMM only */
    cpu->in_smm = true;
    expect_msr(cpu, 0x9e, 0x30000);
}

static void mtrrs_refuse_reserved_bits(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    expect_msr(cpu, 0xfe, 0x508);
    assert_true(cpu_wrmsr(cpu, 0x2ff, 0xc06));
    assert_false(cpu_wrmsr(cpu, 0x2ff, 0xc02));
    assert_false(cpu_wrmsr(cpu, 0x2ff, 0x1000));
    assert_true(cpu_wrmsr(cpu, 0x200, 0x80000006));
    assert_false(cpu_wrmsr(cpu, 0x200, 0x80000007));
    assert_false(cpu_wrmsr(cpu, 0x200, BIT(52)));
    assert_true(cpu_wrmsr(cpu, 0x20f, 0xff80000800));
    assert_false(cpu_wrmsr(cpu, 0x20f, 0x400));
    expect_msr(cpu, 0x20f, 0xff80000800);
    assert_true(cpu_wrmsr(cpu, 0x26f, 0x0605040100060606));
    assert_false(cpu_wrmsr(cpu, 0x26f, 0x0605040100060602));
    assert_false(cpu_wrmsr(cpu, 0x210, 0)); /* eight pairs and no more */
    assert_false(cpu_wrmsr(cpu, 0xfe, 0));
}

static void machine_check_banks_are_bounded(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    uint64_t v;

    expect_msr(cpu, 0x179, CPU_MCE_BANKS | 0x100);
    assert_true(cpu_wrmsr(cpu, 0x400, 3));
    expect_msr(cpu, 0x400, 3);
    assert_true(cpu_wrmsr(cpu, 0x401, 0));
    assert_false(cpu_wrmsr(cpu, 0x401, 1));
    assert_true(cpu_rdmsr(cpu, 0x400 + 4 * CPU_MCE_BANKS - 1, &v));
    assert_false(cpu_rdmsr(cpu, 0x400 + 4 * CPU_MCE_BANKS, &v));
    assert_false(cpu_wrmsr(cpu, 0x17a, 8));
}

static void vendors_have_their_own(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    bool amd = cpu_is_amd(cpu);
    uint64_t v;

    assert_int_equal(cpu_rdmsr(cpu, 0x1a0, &v), !amd);
    assert_int_equal(cpu_rdmsr(cpu, 0xce, &v), !amd);
    assert_int_equal(cpu_rdmsr(cpu, 0xc0010015, &v), amd);
    assert_int_equal(cpu_rdmsr(cpu, 0xc001001f, &v), amd);
    assert_int_equal(cpu_rdmsr(cpu, 0xc0000104, &v), false); /* TSC ratio */
    expect_msr(cpu, 0x8b, amd ? 0x01000065 : BIT(32));
}

/* ---- control registers ---------------------------------------------------------------------- */

static void long_mode_comes_and_goes_with_paging(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    assert_true(cpu_write_cr0(cpu, CR0_PE));
    assert_true(cpu_wrmsr(cpu, 0xc0000080, EFER_LME));
    assert_false(cpu_write_cr0(cpu, CR0_PE | CR0_PG)); /* without PAE */
    assert_true(cpu_write_cr4(cpu, CR4_PAE));
    cpu->seg[SEG_CS].attr |= ATTR_L;
    assert_false(cpu_write_cr0(cpu, CR0_PE | CR0_PG)); /* CS is 64-bit already */
    cpu->seg[SEG_CS].attr &= ~(uint32_t)ATTR_L;
    assert_true(cpu_write_cr0(cpu, CR0_PE | CR0_PG));
    assert_true(cpu_long_mode(cpu));
    assert_false(cpu_wrmsr(cpu, 0xc0000080, 0)); /* LME under paging */
    assert_false(cpu_write_cr4(cpu, 0));
    assert_false(cpu_write_cr4(cpu, CR4_PAE | CR4_LA57));
    assert_false(cpu_write_cr3(cpu, BIT(52)));
    cpu->cr3 = 0x1008;
    assert_false(cpu_write_cr4(cpu, CR4_PAE | CR4_PCIDE)); /* CR3 has a PCID already */
    cpu->cr3 = 0x1000;
    assert_false(cpu_write_cr3(cpu, BIT(63) | 0x2000));
    assert_true(cpu_write_cr4(cpu, CR4_PAE | CR4_PCIDE));
    assert_true(cpu_write_cr3(cpu, BIT(63) | 0x2005));
    assert_int_equal(cpu->cr3, 0x2005);
    assert_false(cpu_write_cr0(cpu, CR0_PE)); /* PCIDE holds paging */
    assert_true(cpu_write_cr4(cpu, CR4_PAE));
    cpu->seg[SEG_CS].attr |= ATTR_L;
    assert_false(cpu_write_cr0(cpu, CR0_PE)); /* from 64-bit code */
    cpu->seg[SEG_CS].attr &= ~(uint32_t)ATTR_L;
    assert_true(cpu_write_cr0(cpu, CR0_PE));
    assert_false(cpu_long_mode(cpu));
    assert_int_equal(cpu->efer, EFER_LME);
}

static void control_registers_refuse_nonsense(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    assert_false(cpu_write_cr0(cpu, CR0_PG));
    assert_false(cpu_write_cr0(cpu, CR0_NW));
    assert_false(cpu_write_cr0(cpu, BIT(32)));
    assert_true(cpu_write_cr0(cpu, CR0_PE | 0x1ffc0)); /* undefined bits are ignored */
    assert_int_equal(cpu->cr0, CR0_PE | CR0_ET | CR0_WP);
    assert_false(cpu_write_cr4(cpu, CR4_VMXE));
    assert_false(cpu_write_cr4(cpu, BIT(31)));
    assert_false(cpu_write_cr4(cpu, CR4_PCIDE)); /* not in long mode */
    assert_false(cpu_write_xcr0(cpu, 0));
    assert_false(cpu_write_xcr0(cpu, XCR0_X87 | XCR0_AVX));
    assert_false(cpu_write_xcr0(cpu, BIT(63) | XCR0_X87));
    assert_int_equal(cpu->xcr0, XCR0_X87);
}

static void flags_that_change_the_mode_of_accesses(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;

    assert_true(cpu_write_cr0(cpu, CR0_PE));
    assert_int_equal(cpu->mmu_mode, MMU_KERNEL_AC);
    assert_true(cpu_write_cr4(cpu, CR4_SMAP));
    assert_int_equal(cpu->mmu_mode, MMU_KERNEL);
    cpu->rflags |= RFLAGS_AC;
    cpu_update_derived(cpu);
    assert_int_equal(cpu->mmu_mode, MMU_KERNEL_AC);
    cpu->seg[SEG_SS].attr |= ATTR_DPL;
    cpu_update_derived(cpu);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->mmu_mode, MMU_USER);
    cpu->seg[SEG_SS].attr &= ~(uint32_t)ATTR_DPL;
    cpu->rflags |= RFLAGS_VM;
    cpu_update_derived(cpu);
    assert_int_equal(cpu->cpl, 3);
}

#define TEST(f)     cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_AMD(f) cmocka_unit_test_setup_teardown(f, setup_amd, teardown)

static void its_memory_can_be_mapped_again(void **state)
{
    struct cpu *cpu = ((struct fixture *)*state)->cpu;
    struct cpu *other = mmap(NULL, CPU_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd,
                             0);

    assert_ptr_not_equal(other, MAP_FAILED);
    assert_int_equal((uintptr_t)cpu % 4096, 0);
    cpu->rip = 0x1234;
    assert_int_equal(other->rip, 0x1234);
    other->gpr[GPR_R15] = 5;
    assert_int_equal(cpu->gpr[GPR_R15], 5);
    munmap(other, CPU_PAGES * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reset_is_table_9_1),
        TEST(init_keeps_what_it_must),
        TEST(work_considers_what_masks_it),
        TEST(no_wakeup_is_lost),
        TEST(posting_kicks_once),
        TEST(a_bounded_sleep_ends),
        TEST(tsc_and_its_adjustment_agree),
        TEST(msrs_keep_what_they_may),
        TEST(mtrrs_refuse_reserved_bits),
        TEST(machine_check_banks_are_bounded),
        TEST(vendors_have_their_own),
        TEST_AMD(vendors_have_their_own),
        TEST(long_mode_comes_and_goes_with_paging),
        TEST(control_registers_refuse_nonsense),
        TEST(flags_that_change_the_mode_of_accesses),
        TEST(its_memory_can_be_mapped_again),
    };

    return cmocka_run_group_tests_name("cpu", tests, NULL, NULL);
}
