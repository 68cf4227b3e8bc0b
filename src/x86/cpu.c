/*
 * cpu.c - a processor's life outside of instructions: reset, events, sleep, time, physical
 * accesses, and what a snapshot carries.
 *
 * Sleeping. The futex is the word of events itself, so a post between the look at it and the wait
 * makes the wait return at once. `sleeping` only spares the poster a system call; both sides use
 * sequentially consistent operations, in opposite order, so one of them always sees the other.
 *
 * Time. All CPUs of a process count from one origin, taken when the first is made: guests compare
 * the TSCs of their processors and must find them equal, so a reset cannot clear each by itself.
 */
#include "x86/cpu.h"

#include "x86/mmu.h"
#include "x86/model.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static _Atomic uint64_t a20_open = UINT64_MAX;

static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;
static uint64_t tsc_origin, tsc_hz;

static uint64_t raw_nsec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* Both clocks at one moment: the closest of some attempts, as a busy host may stop us in between.
 */
static void read_clocks(uint64_t *tsc, uint64_t *nsec)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < 16; i++) {
        uint64_t before = __rdtsc(), now = raw_nsec(), after = __rdtsc();

        if (after - before < best) {
            best = after - before;
            *tsc = before + best / 2;
            *nsec = now;
        }
    }
}

/* Leaf 15h gives crystal and ratio where the processor knows both; else 20 ms of counting. */
static void tsc_measure(void)
{
    uint32_t denominator = 0, numerator = 0, crystal = 0, d;
    uint64_t start_nsec, start_tsc, nsec, tsc;

    tsc_origin = __rdtsc();
    if (__get_cpuid_max(0, NULL) >= 0x15)
        __cpuid(0x15, denominator, numerator, crystal, d);
    if (denominator && numerator && crystal) {
        tsc_hz = (uint64_t)crystal * numerator / denominator;
        return;
    }
    read_clocks(&start_tsc, &start_nsec);
    do
        read_clocks(&tsc, &nsec);
    while (nsec - start_nsec < 20 * NSEC_PER_MSEC);
    tsc_hz = muldiv64(tsc - start_tsc, NSEC_PER_SEC, nsec - start_nsec);
}

uint64_t cpu_tsc_hz(void)
{
    pthread_once(&tsc_once, tsc_measure);
    return tsc_hz;
}

uint64_t cpu_read_tsc(const struct cpu *cpu)
{
    return __rdtsc() + cpu->tsc_offset;
}

void cpu_write_tsc(struct cpu *cpu, uint64_t value)
{
    cpu->tsc_offset = value - __rdtsc();
}

/* The leak checker does not look for pointers in mappings it does not know. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_register_root_region(p, size)   ((void)(p))
#define __lsan_unregister_root_region(p, size) ((void)(p))
#endif

struct cpu *cpu_new(unsigned index, uint32_t apic_id, const struct cpu_model *model)
{
    int fd = memfd_create("cpu", MFD_CLOEXEC);
    struct cpu *cpu = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, CPU_PAGES * 4096) == 0)
        cpu = mmap(NULL, CPU_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (cpu == MAP_FAILED) {
        fprintf(stderr, "hospes: no memory for a processor: %s\n", strerror(errno));
        abort();
    }
    __lsan_register_root_region(cpu, sizeof(*cpu));
    cpu->fd = fd;
    cpu->index = index;
    cpu->apic_id = apic_id;
    cpu->model = model;
    cpu->a20_mask = &a20_open;
    cpu->apic_page = CPU_NO_APIC_PAGE;
    cpu_reset(cpu);
    return cpu;
}

void cpu_free(struct cpu *cpu)
{
    if (!cpu)
        return;
    mmu_detach(cpu);
    close(cpu->fd);
    __lsan_unregister_root_region(cpu, sizeof(*cpu));
    munmap(cpu, CPU_PAGES * 4096);
}

/* ---- reset ---------------------------------------------------------------------------------- */

/* EAX of CPUID leaf 1, which is also what EDX holds after reset. */
static uint32_t signature(const struct cpu_model *m)
{
    uint32_t family = MIN(m->family, 15u), extended = m->family - family;

    return m->stepping | (m->model & 15) << 4 | family << 8 | m->model >> 4 << 16 | extended << 20;
}

/* The part that INIT resets too. */
static void reset_common(struct cpu *cpu, bool bsp)
{
    static const struct segment data = {.attr = ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED,
                                        .limit = 0xffff};

    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->gpr[GPR_RDX] = cpu->model ? signature(cpu->model) : 0x600;
    cpu->rip = 0xfff0;
    cpu->rflags = RFLAGS_FIXED;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = data;
    cpu->seg[SEG_CS].selector = 0xf000;
    cpu->seg[SEG_CS].base = 0xffff0000;
    cpu->seg[SEG_CS].attr |= ATTR_CODE;
    cpu->ldtr = (struct segment){.attr = ATTR_P | 2, .limit = 0xffff};
    cpu->tr = (struct segment){.attr = ATTR_P | 11, .limit = 0xffff};
    cpu->gdtr = cpu->idtr = (struct table_register){.limit = 0xffff};
    cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
    memset(cpu->dr, 0, sizeof(cpu->dr));
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    memset(cpu->pdptr, 0, sizeof(cpu->pdptr));
    cpu->activity = bsp ? CPU_RUNNING : CPU_WAIT_SIPI;
    cpu->sti_shadow = cpu->movss_shadow = false;
    cpu->nmi_blocked = cpu->in_smm = cpu->smi_blocked_nmi = false;
    cpu->monitor_armed = false;
    cpu->dr6_pending = 0;
    cpu->pending_vector = -1;
    cpu->debugctl = 0;
}

static void reset_msrs(struct cpu *cpu)
{
    cpu->star = cpu->lstar = cpu->cstar = cpu->sfmask = 0;
    cpu->kernel_gs_base = cpu->tsc_aux = 0;
    cpu->sysenter_cs = cpu->sysenter_esp = cpu->sysenter_eip = 0;
    cpu->pat = UINT64_C(0x0007040600070406);
    cpu->misc_enable = BIT(0) | BIT(11) | BIT(12); /* fast strings; no BTS, no PEBS */
    if (cpu->model && cpu_has(cpu, FEATURE_MONITOR))
        cpu->misc_enable |= BIT(18);
    cpu->spec_ctrl = 0;
    cpu->mtrr_def_type = 0;
    memset(cpu->mtrr_fixed, 0, sizeof(cpu->mtrr_fixed));
    memset(cpu->mtrr_base, 0, sizeof(cpu->mtrr_base));
    memset(cpu->mtrr_mask, 0, sizeof(cpu->mtrr_mask));
    cpu->mcg_status = 0;
    cpu->mcg_ctl = UINT64_MAX;
    memset(cpu->mce_bank, 0, sizeof(cpu->mce_bank));
    for (unsigned i = 0; i < CPU_MCE_BANKS; i++)
        cpu->mce_bank[i][0] = UINT64_MAX;
    cpu->tsc_adjust = 0;
    cpu->smbase = 0x30000;
}

void cpu_reset(struct cpu *cpu)
{
    pthread_once(&tsc_once, tsc_measure);
    reset_common(cpu, cpu->index == 0);
    reset_msrs(cpu);
    cpu->cr0 = CR0_CD | CR0_NW | CR0_ET;
    cpu->xcr0 = XCR0_X87;
    memset(&cpu->fx, 0, sizeof(cpu->fx));
    cpu->fx.fcw = 0x40;
    cpu->fx.ftw = 0xff; /* +0.0 in every register */
    cpu->fx.mxcsr = 0x1f80;
    cpu->fx.mxcsr_mask = 0xffff;
    memset(cpu->zmm, 0, sizeof(cpu->zmm));
    memset(cpu->k, 0, sizeof(cpu->k));
    cpu->fcs = cpu->fds = 0;
    cpu->tsc_offset = 0 - tsc_origin;
    cpu->sipi_vector = 0;
    cpu_state_changed(cpu);
}

void cpu_init(struct cpu *cpu, bool bsp)
{
    reset_common(cpu, bsp);
    cpu->cr0 = (cpu->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    cpu_state_changed(cpu);
}

void cpu_sipi(struct cpu *cpu, uint8_t vector)
{
    if (cpu->activity != CPU_WAIT_SIPI)
        return;
    cpu->seg[SEG_CS].selector = (uint16_t)(vector << 8);
    cpu->seg[SEG_CS].base = (uint64_t)vector << 12;
    cpu->rip = 0;
    cpu->activity = CPU_RUNNING;
}

/* ---- what is derived ------------------------------------------------------------------------ */

void cpu_update_derived(struct cpu *cpu)
{
    uint32_t cs = cpu->seg[SEG_CS].attr;

    if (!cpu_protected(cpu))
        cpu->cpl = 0;
    else if (cpu_in_vm86(cpu))
        cpu->cpl = 3;
    else
        cpu->cpl = (uint8_t)((cpu->seg[SEG_SS].attr & ATTR_DPL) >> ATTR_DPL_SHIFT);

    if (cpu_long_mode(cpu) && cs & ATTR_L)
        cpu->code_size = 8;
    else
        cpu->code_size = cs & ATTR_DB ? 4 : 2;

    cpu->mmu_mode = (uint8_t)mmu_mode_of(cpu, cpu->cpl);
}

void cpu_state_changed(struct cpu *cpu)
{
    cpu_update_derived(cpu);
    if (cpu->tlb)
        mmu_flush_all(cpu);
}

/* ---- events --------------------------------------------------------------------------------- */

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void cpu_post(struct cpu *cpu, enum cpu_event event)
{
    if (atomic_fetch_or(&cpu->events, event) & event)
        return; /* whoever set it woke the thread, and the thread has not taken it yet */
    if (atomic_load(&cpu->sleeping))
        futex_wake(&cpu->events);
    else if (cpu->kick)
        cpu->kick(cpu);
}

bool cpu_retract(struct cpu *cpu, enum cpu_event event)
{
    if (!(atomic_load_explicit(&cpu->events, memory_order_relaxed) & event))
        return false;
    return (atomic_fetch_and(&cpu->events, ~(uint32_t)event) & event) != 0;
}

static void sleep_until(struct cpu *cpu, uint32_t mask, const struct timespec *timeout)
{
    uint32_t seen;

    atomic_store(&cpu->sleeping, true);
    seen = atomic_load(&cpu->events);
    if (!(seen & mask))
        syscall(SYS_futex, &cpu->events, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
    atomic_store(&cpu->sleeping, false);
}

void cpu_sleep(struct cpu *cpu, uint32_t mask)
{
    sleep_until(cpu, mask, NULL);
}

void cpu_sleep_for(struct cpu *cpu, uint32_t mask, uint64_t nsec)
{
    struct timespec t = {.tv_sec = (time_t)(nsec / NSEC_PER_SEC),
                         .tv_nsec = (long)(nsec % NSEC_PER_SEC)};

    sleep_until(cpu, mask, &t);
}

bool cpu_has_work(const struct cpu *cpu)
{
    uint32_t events = cpu->events & CPU_EVENT_UNHALT;

    if (!(cpu->rflags & RFLAGS_IF) || cpu->sti_shadow || cpu->movss_shadow)
        events &= ~(uint32_t)CPU_EVENT_INTR;
    if (cpu->nmi_blocked || cpu->movss_shadow)
        events &= ~(uint32_t)CPU_EVENT_NMI;
    if (cpu->in_smm)
        events &= ~(uint32_t)(CPU_EVENT_SMI | CPU_EVENT_INIT);
    return events != 0;
}

_Noreturn static void unwind(struct cpu *cpu, enum exception vector, bool has_error, uint32_t error)
{
    cpu->raise_vector = (uint8_t)vector;
    cpu->raise_has_error = has_error;
    cpu->raise_error = error;
    if (!cpu->unwind) {
        fprintf(stderr, "hospes: exception %u raised outside of an instruction\n",
                (unsigned)vector);
        abort();
    }
    longjmp(*cpu->unwind, 1);
}

void cpu_raise(struct cpu *cpu, enum exception vector)
{
    unwind(cpu, vector, false, 0);
}

void cpu_raise_error(struct cpu *cpu, enum exception vector, uint32_t error)
{
    unwind(cpu, vector, true, error);
}

/* ---- physical accesses ---------------------------------------------------------------------- */

static enum memory_view cpu_view(const struct cpu *cpu)
{
    return cpu->in_smm ? VIEW_SMM : VIEW_NORMAL;
}

static bool in_apic_page(const struct cpu *cpu, gpa address)
{
    return cpu->apic_page == (address & ~UINT64_C(0xfff)) && cpu->intc.read;
}

uint64_t cpu_phys_read(struct cpu *cpu, gpa address, unsigned size)
{
    address &= *cpu->a20_mask;
    if (in_apic_page(cpu, address))
        return cpu->intc.read(cpu->intc.opaque, address & 0xfff, size);
    return memory_read(cpu->memory, cpu_view(cpu), address, size);
}

void cpu_phys_write(struct cpu *cpu, gpa address, uint64_t value, unsigned size)
{
    address &= *cpu->a20_mask;
    if (in_apic_page(cpu, address))
        cpu->intc.write(cpu->intc.opaque, address & 0xfff, value, size);
    else
        memory_write(cpu->memory, cpu_view(cpu), address, value, size);
}

/* ---- snapshots and people ------------------------------------------------------------------- */

static const struct state_field segment_state[] = {
    STATE_U16(struct segment, selector),
    STATE_U32(struct segment, attr),
    STATE_U32(struct segment, limit),
    STATE_U64(struct segment, base),
    STATE_END,
};

static const struct state_field table_state[] = {
    STATE_U64(struct table_register, base),
    STATE_U16(struct table_register, limit),
    STATE_END,
};

static const struct state_field fx_state[] = {
    STATE_U16(struct fx_image, fcw),
    STATE_U16(struct fx_image, fsw),
    STATE_U8(struct fx_image, ftw),
    STATE_U16(struct fx_image, fop),
    STATE_U64(struct fx_image, fip),
    STATE_U64(struct fx_image, fdp),
    STATE_U32(struct fx_image, mxcsr),
    STATE_U32(struct fx_image, mxcsr_mask),
    STATE_FIELD(struct fx_image, st, 8 * 16, 0),
    STATE_END,
};

const struct state_field cpu_state[] = {
    STATE_ARRAY(struct cpu, gpr),
    STATE_U64(struct cpu, rip),
    STATE_U64(struct cpu, rflags),
    STATE_STRUCT_ARRAY(struct cpu, seg, segment_state),
    STATE_STRUCT(struct cpu, ldtr, segment_state),
    STATE_STRUCT(struct cpu, tr, segment_state),
    STATE_STRUCT(struct cpu, gdtr, table_state),
    STATE_STRUCT(struct cpu, idtr, table_state),
    STATE_U64(struct cpu, cr0),
    STATE_U64(struct cpu, cr2),
    STATE_U64(struct cpu, cr3),
    STATE_U64(struct cpu, cr4),
    STATE_U64(struct cpu, efer),
    STATE_U64(struct cpu, xcr0),
    STATE_ARRAY(struct cpu, dr),
    STATE_ARRAY(struct cpu, pdptr),
    STATE_STRUCT(struct cpu, fx, fx_state),
    STATE_FIELD(struct cpu, zmm, 32 * 64, 0),
    STATE_ARRAY(struct cpu, k),
    STATE_U16(struct cpu, fcs),
    STATE_U16(struct cpu, fds),
    STATE_U64(struct cpu, star),
    STATE_U64(struct cpu, lstar),
    STATE_U64(struct cpu, cstar),
    STATE_U64(struct cpu, sfmask),
    STATE_U64(struct cpu, kernel_gs_base),
    STATE_U64(struct cpu, tsc_aux),
    STATE_U64(struct cpu, sysenter_cs),
    STATE_U64(struct cpu, sysenter_esp),
    STATE_U64(struct cpu, sysenter_eip),
    STATE_U64(struct cpu, pat),
    STATE_U64(struct cpu, misc_enable),
    STATE_U64(struct cpu, spec_ctrl),
    STATE_U64(struct cpu, debugctl),
    STATE_U64(struct cpu, mtrr_def_type),
    STATE_ARRAY(struct cpu, mtrr_fixed),
    STATE_ARRAY(struct cpu, mtrr_base),
    STATE_ARRAY(struct cpu, mtrr_mask),
    STATE_U64(struct cpu, mcg_status),
    STATE_U64(struct cpu, mcg_ctl),
    STATE_FIELD(struct cpu, mce_bank, CPU_MCE_BANKS * 4, 0),
    STATE_U64(struct cpu, tsc_offset),
    STATE_U64(struct cpu, tsc_adjust),
    STATE_U32(struct cpu, smbase),
    STATE_U32(struct cpu, activity),
    STATE_BOOL(struct cpu, sti_shadow),
    STATE_BOOL(struct cpu, movss_shadow),
    STATE_BOOL(struct cpu, nmi_blocked),
    STATE_BOOL(struct cpu, in_smm),
    STATE_BOOL(struct cpu, smi_blocked_nmi),
    STATE_U8(struct cpu, sipi_vector),
    STATE_U64(struct cpu, monitor_address),
    STATE_BOOL(struct cpu, monitor_armed),
    STATE_ARRAY(struct cpu, monitor_line),
    STATE_U64(struct cpu, dr6_pending),
    STATE_U16(struct cpu, pending_vector),
    STATE_U8(struct cpu, pending_kind),
    STATE_BOOL(struct cpu, pending_has_error),
    STATE_U32(struct cpu, pending_error),
    STATE_END,
};

#define LL(x) ((unsigned long long)(x))

static void print_segment(FILE *f, const char *name, const struct segment *s)
{
    fprintf(f, "%-4s %04x base %016llx limit %08x attr %05x\n", name, s->selector, LL(s->base),
            s->limit, s->attr);
}

void cpu_print(const struct cpu *cpu, void *file)
{
    static const char *const gpr[] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                      "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const seg[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    static const char *const activity[] = {"running", "halted", "waiting for SIPI", "shut down"};
    FILE *f = file;

    fprintf(f, "processor %u: %s, CPL %u, %u-bit code%s\n", cpu->index,
            cpu->activity < ARRAY_SIZE(activity) ? activity[cpu->activity] : "?", cpu->cpl,
            cpu->code_size * 8u, cpu->in_smm ? ", SMM" : "");
    for (unsigned i = 0; i < GPR_COUNT; i++)
        fprintf(f, "%-3s %016llx%c", gpr[i], LL(cpu->gpr[i]), i % 4 == 3 ? '\n' : ' ');
    fprintf(f, "RIP %016llx RFLAGS %08llx\n", LL(cpu->rip), LL(cpu->rflags));
    for (unsigned i = 0; i < SEG_COUNT; i++)
        print_segment(f, seg[i], &cpu->seg[i]);
    print_segment(f, "LDTR", &cpu->ldtr);
    print_segment(f, "TR", &cpu->tr);
    fprintf(f, "GDTR %016llx %04x IDTR %016llx %04x\n", LL(cpu->gdtr.base), cpu->gdtr.limit,
            LL(cpu->idtr.base), cpu->idtr.limit);
    fprintf(f, "CR0 %08llx CR2 %016llx CR3 %016llx CR4 %08llx\n", LL(cpu->cr0), LL(cpu->cr2),
            LL(cpu->cr3), LL(cpu->cr4));
    fprintf(f, "DR0 %016llx DR1 %016llx DR2 %016llx DR3 %016llx DR6 %08llx DR7 %08llx\n",
            LL(cpu->dr[0]), LL(cpu->dr[1]), LL(cpu->dr[2]), LL(cpu->dr[3]), LL(cpu->dr[6]),
            LL(cpu->dr[7]));
    fprintf(f, "EFER %08llx XCR0 %llx PAT %016llx events %02x\n", LL(cpu->efer), LL(cpu->xcr0),
            LL(cpu->pat), cpu->events);
    fprintf(f, "FCW %04x FSW %04x FTW %02x MXCSR %08x\n", cpu->fx.fcw, cpu->fx.fsw, cpu->fx.ftw,
            cpu->fx.mxcsr);
    for (unsigned i = 0; i < 16; i++)
        fprintf(f, "XMM%-2u %016llx%016llx%c", i, LL(load_le(&cpu->zmm[i][8], 8)),
                LL(load_le(cpu->zmm[i], 8)), i % 2 ? '\n' : ' ');
}
