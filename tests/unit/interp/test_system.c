/*
 * test_system.c - the corners of the privileged half that a guest kernel cannot see well: what is
 * pending at a fault, kinds of interrupts, MWAIT's sleep, what differs by vendor.
 */
#include "guest.h"

#include "interp/exceptions.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum { DR6_BS = 1 << 14, BTF = 2, MSR_DEBUGCTL = 0x1d9 };

static uint64_t at_stack(struct guest *g, unsigned n)
{
    return load_le(guest_memory(g, g->cpu->gpr[GPR_RSP] + 8 * n), 8);
}

/* ---- debug traps -------------------------------------------------------------------------- */

static void a_fault_forgets_its_data_breakpoints(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "a4"); /* movsb */
    *guest_memory(g, GUEST_HANDLER + 16 * EXC_PF) = 0x90;
    cpu->gpr[GPR_RSI] = GUEST_DATA;
    cpu->gpr[GPR_RDI] = GUEST_HOLE;
    cpu->dr[0] = GUEST_DATA;
    cpu->dr[7] = 1 | 3 << 16;
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(cpu->rip, GUEST_HANDLER + 16 * EXC_PF + 1);
    assert_int_equal(cpu->dr[6] & 0xf, 0);
    /* Executed again, with the page there, it traps once. */
    cpu->gpr[GPR_RDI] = GUEST_DATA + 0x100;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(cpu->dr[6] & 0xf, 1);
    guest_free(g);
}

/* The trap of a load of SS waits for the next instruction, also where that one faults. */
static void mov_ss_holds_its_trap_over_a_fault(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "8e13 0f0b"); /* mov ss, [rbx]; ud2 */
    store_le(guest_memory(g, GUEST_DATA), 0x10, 2);
    cpu->gpr[GPR_RBX] = GUEST_DATA;
    cpu->dr[1] = GUEST_DATA;
    cpu->dr[7] = 4 | 3 << 20;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(guest_step(g, 1), EXC_UD);
    assert_int_equal(guest_step(g, 1), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_HANDLER + 16 * EXC_UD);
    assert_int_equal(cpu->dr[6] & 0xf, 2);
    assert_int_equal(cpu->dr6_pending, 0);
    guest_free(g);
}

static void steps_from_branch_to_branch(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    /* nop; test eax, eax; jnz +0x10 (not taken); rep stosb; jz +1; hlt; nop */
    guest_code(g, GUEST_CODE, "90 85c0 7510 f3aa 7401 f4 90");
    cpu->gpr[GPR_RDI] = GUEST_DATA;
    cpu->gpr[GPR_RCX] = 3;
    cpu->rflags |= RFLAGS_TF;
    assert_true(cpu_wrmsr(cpu, MSR_DEBUGCTL, BTF));
    assert_int_equal(guest_step(g, 6), -1);
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_CODE + 10);
    assert_int_equal(cpu->dr[6] & 0xe00f, DR6_BS);
    assert_int_equal(cpu->debugctl, 0);
    /* A jump to the next instruction is one; so is a return. */
    guest_code(g, GUEST_CODE, "eb00 90");
    cpu->rflags |= RFLAGS_TF;
    cpu->debugctl = BTF;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_CODE + 2);
    /* Without BTF every instruction is. */
    guest_code(g, GUEST_CODE, "90 90");
    cpu->rflags |= RFLAGS_TF;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    /* General detect is a #DB as well. */
    guest_code(g, GUEST_CODE, "0f21c0"); /* mov rax, dr0 */
    cpu->debugctl = BTF;
    cpu->dr[7] |= 1 << 13;
    assert_int_equal(guest_step(g, 1), EXC_DB);
    assert_int_equal(cpu->debugctl, 0);
    assert_false(cpu_wrmsr(cpu, MSR_DEBUGCTL, 1 << 6)); /* TR: traces are not there */
    guest_free(g);
}

/* SYSCALL traps by the TF that its mask leaves: kernels count on that. */
static void syscall_masks_its_own_trap(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "0f05");
    *guest_memory(g, GUEST_DATA) = 0x90;
    cpu->lstar = GUEST_DATA;
    cpu->star = (uint64_t)0x08 << 32;
    cpu->sfmask = RFLAGS_TF;
    cpu->rflags |= RFLAGS_TF;
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(cpu->rip, GUEST_DATA + 1);
    assert_int_equal(cpu->gpr[GPR_R11] & RFLAGS_TF, RFLAGS_TF);
    cpu->sfmask = 0;
    cpu->rflags |= RFLAGS_TF;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_DATA);
    /* SYSRET traps by the TF that it brings. */
    cpu->rflags &= ~(uint64_t)RFLAGS_TF;
    cpu->tr.limit = 0x67;
    cpu->tr.base = GUEST_DATA + 0x100;
    store_le(guest_memory(g, GUEST_DATA + 0x104), GUEST_STACK, 8);
    cpu->gpr[GPR_RCX] = GUEST_DATA;
    cpu->gpr[GPR_R11] = RFLAGS_TF;
    guest_code(g, GUEST_CODE, "480f07");
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_DATA);
    guest_free(g);
}

/* An IRET in SMM lets NMIs in. */
static void iret_in_smm_unblocks_nmi(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "90 90");
    cpu->in_smm = cpu->nmi_blocked = true;
    cpu_post(cpu, CPU_EVENT_NMI);
    assert_int_equal(guest_step(g, 1), -1);
    cpu->nmi_blocked = false; /* what IRET does */
    assert_int_equal(guest_step(g, 1), EXC_NMI);
    guest_free(g);
}

static void a_step_over_hlt_does_not_halt(void **state)
{
    struct guest *g = guest_new(LONG64);

    guest_code(g, GUEST_CODE, "f4 90");
    g->cpu->rflags |= RFLAGS_TF;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(at_stack(g, 0), GUEST_CODE + 1);
    assert_int_equal(g->cpu->activity, CPU_RUNNING);
    guest_free(g);
}

/* ---- interrupts --------------------------------------------------------------------------- */

static int two(void *opaque)
{
    struct guest *g = opaque;

    cpu_retract(g->cpu, CPU_EVENT_INTR);
    return 2;
}

static void vector_2_from_a_device_is_no_nmi(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->intc.opaque = g;
    cpu->intc.acknowledge = two;
    cpu->rflags |= RFLAGS_IF;
    guest_code(g, GUEST_CODE, "90");
    cpu_post(cpu, CPU_EVENT_INTR);
    assert_int_equal(guest_step(g, 1), EXC_NMI);
    assert_false(cpu->nmi_blocked);
    cpu_post(cpu, CPU_EVENT_NMI);
    assert_int_equal(guest_step(g, 1), EXC_NMI);
    assert_true(cpu->nmi_blocked);
    assert_int_equal(at_stack(g, 0), GUEST_HANDLER + 16 * EXC_NMI);
    cpu->nmi_blocked = false;
    cpu->pending_vector = EXC_NMI; /* as KVM hands over one it had begun */
    cpu->pending_kind = INTERRUPT_NMI;
    assert_int_equal(guest_step(g, 1), EXC_NMI);
    assert_true(cpu->nmi_blocked);
    guest_free(g);
}

static void iret_ends_nmi_blocking_even_if_it_faults(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "48cf");
    cpu->nmi_blocked = true;
    cpu->gpr[GPR_RSP] = GUEST_STACK - 0x100; /* zeros: a null CS */
    assert_int_equal(guest_step(g, 1), EXC_GP);
    assert_false(cpu->nmi_blocked);
    guest_free(g);
}

/* A shadow does not outlive the fault of its instruction's fetch. */
static void delivery_ends_shadows(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->rip = GUEST_HOLE;
    cpu->movss_shadow = true;
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_false(cpu->movss_shadow);
    guest_free(g);
}

/* ---- MWAIT -------------------------------------------------------------------------------- */

enum { MSEC = 1000 * 1000 };

static uint64_t clock_now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void *store_soon(void *opaque)
{
    usleep(1000);
    __atomic_fetch_add(guest_memory(opaque, GUEST_DATA + 40), 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void *interrupt_soon(void *opaque)
{
    usleep(1000);
    cpu_post(((struct guest *)opaque)->cpu, CPU_EVENT_INTR);
    return NULL;
}

/* MONITOR, then what `between` does, then MWAIT with ECX: how long it took, while `meanwhile` ran
 * in a thread. The shortest of some, for the host has other things to do. */
static uint64_t mwait_time(struct guest *g, uint64_t ecx, bool store_between,
                           void *(*meanwhile)(void *))
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < 8; i++) {
        pthread_t thread;
        uint64_t start;

        g->cpu->gpr[GPR_RAX] = GUEST_DATA + 5;
        g->cpu->gpr[GPR_RCX] = 0;
        guest_code(g, GUEST_CODE, "0f01c8 0f01c9");
        assert_int_equal(guest_step(g, 1), -1);
        assert_true(g->cpu->monitor_armed);
        g->cpu->gpr[GPR_RCX] = ecx;
        if (store_between)
            ++*guest_memory(g, GUEST_DATA + 63);
        start = clock_now(CLOCK_MONOTONIC);
        if (meanwhile)
            assert_int_equal(pthread_create(&thread, NULL, meanwhile, g), 0);
        assert_int_equal(guest_step(g, 1), -1);
        best = MIN(best, clock_now(CLOCK_MONOTONIC) - start);
        if (meanwhile)
            pthread_join(thread, NULL);
        assert_int_equal(g->cpu->rip, GUEST_CODE + 6);
        assert_false(g->cpu->monitor_armed);
        cpu_retract(g->cpu, CPU_EVENT_INTR);
    }
    return best;
}

static void mwait_sleeps_until_something_happens(void **state)
{
    struct guest *g = guest_new(LONG64);
    uint64_t cpu_time = clock_now(CLOCK_THREAD_CPUTIME_ID);

    assert_true(mwait_time(g, 0, false, NULL) >= 9 * MSEC); /* nothing: its limit */
    cpu_time = clock_now(CLOCK_THREAD_CPUTIME_ID) - cpu_time;
    assert_true(cpu_time < 40 * MSEC); /* of 80 */
    assert_true(mwait_time(g, 0, true, NULL) < 5 * MSEC);
    assert_in_range(mwait_time(g, 0, false, store_soon), MSEC, 8 * MSEC);
    /* IF is clear: an interrupt wakes only with ECX bit 0, and stays pending. */
    assert_in_range(mwait_time(g, 1, false, interrupt_soon), MSEC, 8 * MSEC);
    assert_true(mwait_time(g, 0, false, interrupt_soon) >= 9 * MSEC);
    guest_code(g, GUEST_CODE, "0f01c9");
    g->cpu->gpr[GPR_RCX] = 2;
    assert_int_equal(guest_step(g, 1), EXC_GP);
    guest_free(g);
}

/* ---- others ------------------------------------------------------------------------------- */

static uint64_t xgetbv(struct guest *g, uint32_t index)
{
    g->cpu->gpr[GPR_RCX] = index;
    guest_code(g, GUEST_CODE, "0f01d0");
    assert_int_equal(guest_step(g, 1), -1);
    return g->cpu->gpr[GPR_RAX] | g->cpu->gpr[GPR_RDX] << 32;
}

static void xgetbv_1_tells_what_is_in_use(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->cr4 |= CR4_OSXSAVE;
    cpu->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    cpu->fx.fcw = 0x37f;
    cpu->fx.ftw = 0;
    assert_int_equal(xgetbv(g, 0), cpu->xcr0);
    assert_int_equal(xgetbv(g, 1), 0);
    cpu->zmm[3][1] = 1;
    assert_int_equal(xgetbv(g, 1), XCR0_SSE);
    cpu->zmm[4][16] = 1;
    assert_int_equal(xgetbv(g, 1), XCR0_SSE | XCR0_AVX);
    cpu->zmm[5][63] = 1;
    cpu->k[7] = 1;
    cpu->zmm[31][0] = 1;
    cpu->fx.ftw = 1;
    assert_int_equal(xgetbv(g, 1), cpu->xcr0);
    cpu->xcr0 = XCR0_X87 | XCR0_SSE; /* what is not enabled is not told */
    assert_int_equal(xgetbv(g, 1), cpu->xcr0);
    cpu->gpr[GPR_RCX] = 2;
    guest_code(g, GUEST_CODE, "0f01d0");
    assert_int_equal(guest_step(g, 1), EXC_GP);
    guest_free(g);
}

static void push_of_a_segment_register_differs_by_vendor(void **state)
{
    static const struct {
        enum guest_mode mode;
        const char *vendor, *code;
        uint32_t want;
    } cases[] = {
        {PROT32, "GenuineIntel", "0fa0", 0x55550010},
        {PROT32, "AuthenticAMD", "0fa0", 0x00000010},
        {PROT16, "GenuineIntel", "660fa0", 0x55550010},
        {LONG64, "GenuineIntel", "0fa0", 0x00000010},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct guest *g = guest_new(cases[i].mode);
        unsigned size = cases[i].mode == LONG64 ? 8 : 4;

        snprintf(g->model.vendor, sizeof(g->model.vendor), "%s", cases[i].vendor);
        store_le(guest_memory(g, GUEST_STACK - size), 0x5555555555555555, size);
        guest_code(g, GUEST_CODE, cases[i].code);
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - size);
        assert_int_equal(load_le(guest_memory(g, GUEST_STACK - size), size), cases[i].want);
        guest_free(g);
    }
}

static void far_pointers_of_64_bits_differ_by_vendor(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct guest *g = guest_new(LONG64);
        struct cpu *cpu = g->cpu;

        snprintf(g->model.vendor, sizeof(g->model.vendor), "%s",
                 amd ? "AuthenticAMD" : "GenuineIntel");
        /* As 16:64 it is 0x08:...33_00005555, as 16:32 0x08:5555. */
        store_le(guest_memory(g, GUEST_DATA), amd ? 0x000800005555 : 0x5555, 8);
        store_le(guest_memory(g, GUEST_DATA + 8), amd ? 0x33 : 0x08, 2);
        cpu->gpr[GPR_RBX] = GUEST_DATA;
        guest_code(g, GUEST_CODE, "48ff1b"); /* call far */
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(cpu->rip, 0x5555);
        assert_int_equal(cpu->gpr[GPR_RSP], GUEST_STACK - 16);
        assert_int_equal(at_stack(g, 0), GUEST_CODE + 3);
        assert_int_equal(at_stack(g, 1), 0x08);
        store_le(guest_memory(g, GUEST_DATA), 0x0000001011223344, 8);
        store_le(guest_memory(g, GUEST_DATA + 8), 0, 2);
        guest_code(g, GUEST_CODE, "480fb503"); /* lgs rax, [rbx] */
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(cpu->gpr[GPR_RAX], amd ? 0x11223344 : 0x0000001011223344);
        assert_int_equal(cpu->seg[SEG_GS].selector, amd ? 0x10 : 0);
        guest_free(g);
    }
}

static void addresses_wrap_where_the_mode_says(void **state)
{
    struct guest *g = guest_new(PROT32);

    /* A segment whose base puts an access over the end of the address space. */
    g->cpu->seg[SEG_DS].base = 0xfffffff0;
    g->cpu->gpr[GPR_RBX] = 0xe;
    g->cpu->gpr[GPR_RAX] = 0x11223344;
    guest_code(g, GUEST_CODE, "8903 8b0b"); /* mov [ebx], eax; mov ecx, [ebx] */
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(load_le(guest_memory(g, 0), 2), 0x1122);
    assert_int_equal(g->cpu->gpr[GPR_RCX], 0x1122ffff); /* nobody at the top */
    guest_code(g, GUEST_CODE, "f00903");                /* lock or [ebx], eax */
    g->cpu->gpr[GPR_RAX] = 0x40000000;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(load_le(guest_memory(g, 0), 2), 0x5122);
    guest_free(g);

    g = guest_new(REAL16);
    guest_code(g, GUEST_CODE, "a1ffff"); /* mov ax, [ffff]: does not wrap */
    assert_int_equal(guest_step(g, 1), EXC_GP);
    guest_code(g, GUEST_CODE, "36a1ffff");
    assert_int_equal(guest_step(g, 1), EXC_SS);
    guest_code(g, GUEST_CODE, "8b40ff"); /* mov ax, [bx+si-1]: the sum does */
    g->cpu->gpr[GPR_RBX] = 0xfff0;
    g->cpu->gpr[GPR_RSI] = GUEST_DATA + 0x11;
    store_le(guest_memory(g, GUEST_DATA), 0xbeef, 2);
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 0xbeef);
    guest_free(g);
}

/* INVPCID, and MOV CR3 that keeps: what another address space had under a PCID must not come back
 * in a reused one. */
static void a_pcid_used_again_has_no_old_translations(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;
    uint64_t other = 0x30000, no_flush = BIT(63);

    memcpy(guest_memory(g, other), guest_memory(g, cpu->cr3), 4096);
    memcpy(guest_memory(g, other + 0x1000), guest_memory(g, 0x11000), 0x3000);
    store_le(guest_memory(g, other), (other + 0x1000) | 7, 8);
    store_le(guest_memory(g, other + 0x1000), (other + 0x2000) | 7, 8);
    store_le(guest_memory(g, other + 0x2000), (other + 0x3000) | 7, 8);
    store_le(guest_memory(g, other + 0x3000 + 0x50 * 8), 0x51007, 8);
    store_le(guest_memory(g, 0x50000), 1, 1);
    store_le(guest_memory(g, 0x51000), 2, 1);
    assert_true(cpu_write_cr4(cpu, cpu->cr4 | CR4_PCIDE));
    assert_true(cpu_write_cr3(cpu, 0x10000 | 5));
    assert_int_equal(mmu_load(cpu, 0x50000, 1, MMU_KERNEL_AC), 1);
    assert_true(cpu_write_cr3(cpu, other | 6 | no_flush));
    assert_int_equal(cpu->cr3, other | 6);
    assert_int_equal(mmu_load(cpu, 0x50000, 1, MMU_KERNEL_AC), 2);
    assert_true(cpu_write_cr3(cpu, other | 5)); /* PCID 5 now is this space */
    assert_int_equal(mmu_load(cpu, 0x50000, 1, MMU_KERNEL_AC), 2);
    assert_true(cpu_write_cr3(cpu, 0x10000 | 5 | no_flush)); /* may keep, not what is wrong here */
    assert_int_equal(mmu_load(cpu, 0x50000, 1, MMU_KERNEL_AC), 1);
    /* The same space again without a flush keeps; INVPCID drops what was kept. */
    store_le(guest_memory(g, 0x13000 + 0x50 * 8), 0x51007, 8);
    cpu->gpr[GPR_RAX] = 2;
    cpu->gpr[GPR_RBX] = GUEST_DATA;
    guest_code(g, GUEST_CODE, "660f388203"); /* invpcid rax, [rbx] */
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(mmu_load(cpu, 0x50000, 1, MMU_KERNEL_AC), 2);
    assert_true(cpu_write_cr3(cpu, 0x10000));
    assert_false(cpu_write_cr0(cpu, cpu->cr0 & ~(uint64_t)CR0_PG));
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fault_forgets_its_data_breakpoints),
        cmocka_unit_test(mov_ss_holds_its_trap_over_a_fault),
        cmocka_unit_test(steps_from_branch_to_branch),
        cmocka_unit_test(syscall_masks_its_own_trap),
        cmocka_unit_test(iret_in_smm_unblocks_nmi),
        cmocka_unit_test(a_step_over_hlt_does_not_halt),
        cmocka_unit_test(vector_2_from_a_device_is_no_nmi),
        cmocka_unit_test(iret_ends_nmi_blocking_even_if_it_faults),
        cmocka_unit_test(delivery_ends_shadows),
        cmocka_unit_test(mwait_sleeps_until_something_happens),
        cmocka_unit_test(xgetbv_1_tells_what_is_in_use),
        cmocka_unit_test(push_of_a_segment_register_differs_by_vendor),
        cmocka_unit_test(far_pointers_of_64_bits_differ_by_vendor),
        cmocka_unit_test(addresses_wrap_where_the_mode_says),
        cmocka_unit_test(a_pcid_used_again_has_no_old_translations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
