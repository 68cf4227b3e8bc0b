/*
 * registers.c - struct cpu into KVM and back.
 *
 * Order of a push: segments and control registers first (MSRs depend on EFER), the rest after.
 * An event caught in mid-delivery is not pushed: kvm.c has the interpreter deliver it before.
 * The APIC base and CR8 come from our interrupt controller.
 */
#include "kvm/internal.h"

#include "base/log.h"
#include "interp/exceptions.h"
#include "x86/mmu.h"

#include <errno.h>
#include <stdlib.h>

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_MCG_CAP = 0x179,
    XSAVE_AREA = 4096,
    XSAVE_HEADER = 512,
};

/* ---- segments and control registers ---------------------------------------------------------- */

static void segment_to_kvm(struct kvm_segment *to, const struct segment *s)
{
    *to = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->selector,
        .type = s->attr & ATTR_TYPE,
        .present = (s->attr & ATTR_P) && !(s->attr & ATTR_NULL),
        .dpl = (s->attr & ATTR_DPL) >> ATTR_DPL_SHIFT,
        .db = (s->attr & ATTR_DB) != 0,
        .s = (s->attr & ATTR_S) != 0,
        .l = (s->attr & ATTR_L) != 0,
        /* The processor refuses to enter a guest whose granularity contradicts the limit. */
        .g = s->limit > 0xfffff || ((s->attr & ATTR_G) && (s->limit & 0xfff) == 0xfff),
        .avl = (s->attr & ATTR_AVL) != 0,
    };
    to->unusable = !to->present;
}

static void segment_from_kvm(struct segment *to, const struct kvm_segment *s)
{
    to->base = s->base;
    to->limit = s->limit;
    to->selector = s->selector;
    to->attr = (s->type & ATTR_TYPE) | (s->s ? ATTR_S : 0) |
               (uint32_t)(s->dpl & 3) << ATTR_DPL_SHIFT | (s->present ? ATTR_P : 0) |
               (s->avl ? ATTR_AVL : 0) | (s->l ? ATTR_L : 0) | (s->db ? ATTR_DB : 0) |
               (s->g ? ATTR_G : 0);
    if (s->unusable || !s->present)
        to->attr |= ATTR_NULL;
}

static const uint8_t kvm_segment_order[SEG_COUNT] = {
    [SEG_ES] = offsetof(struct kvm_sregs2, es), [SEG_CS] = offsetof(struct kvm_sregs2, cs),
    [SEG_SS] = offsetof(struct kvm_sregs2, ss), [SEG_DS] = offsetof(struct kvm_sregs2, ds),
    [SEG_FS] = offsetof(struct kvm_sregs2, fs), [SEG_GS] = offsetof(struct kvm_sregs2, gs),
};

static struct kvm_segment *kvm_segment_of(struct kvm_sregs2 *s, unsigned name)
{
    return (struct kvm_segment *)((char *)s + kvm_segment_order[name]);
}

/* Both forms of the ioctl agree up to the APIC base. */
_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags),
               "sregs");

static int sregs_read(const struct kvm_cpu *kc, struct kvm_sregs2 *s)
{
    struct kvm_sregs old;

    memset(s, 0, sizeof(*s));
    if (kc->machine->has_sregs2)
        return ioctl(kc->fd, KVM_GET_SREGS2, s);
    if (ioctl(kc->fd, KVM_GET_SREGS, &old) < 0)
        return -1;
    memcpy(s, &old, offsetof(struct kvm_sregs2, flags));
    return 0;
}

static int sregs_write(const struct kvm_cpu *kc, struct kvm_sregs2 *s)
{
    struct kvm_sregs old = {0};

    if (kc->machine->has_sregs2)
        return ioctl(kc->fd, KVM_SET_SREGS2, s);
    memcpy(&old, s, offsetof(struct kvm_sregs2, flags));
    return ioctl(kc->fd, KVM_SET_SREGS, &old);
}

static bool pae_paging(const struct cpu *cpu)
{
    return (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu);
}

static int pull_sregs(struct cpu *cpu)
{
    struct kvm_sregs2 s;

    if (sregs_read(kvm_cpu(cpu), &s) < 0)
        return -errno;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        segment_from_kvm(&cpu->seg[i], kvm_segment_of(&s, i));
    segment_from_kvm(&cpu->ldtr, &s.ldt);
    segment_from_kvm(&cpu->tr, &s.tr);
    cpu->gdtr = (struct table_register){s.gdt.base, s.gdt.limit};
    cpu->idtr = (struct table_register){s.idt.base, s.idt.limit};
    cpu->cr0 = s.cr0;
    cpu->cr2 = s.cr2;
    cpu->cr3 = s.cr3;
    cpu->cr4 = s.cr4;
    cpu->efer = s.efer;
    if (s.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)
        memcpy(cpu->pdptr, s.pdptrs, sizeof(cpu->pdptr));
    else if (pae_paging(cpu))
        mmu_load_pdptrs(cpu, cpu->cr3);
    return 0;
}

static int push_sregs(struct cpu *cpu)
{
    struct kvm_sregs2 s = {0};
    uint64_t base;

    for (unsigned i = 0; i < SEG_COUNT; i++)
        segment_to_kvm(kvm_segment_of(&s, i), &cpu->seg[i]);
    s.ss.dpl = cpu->cpl; /* KVM takes the privilege level from there */
    segment_to_kvm(&s.ldt, &cpu->ldtr);
    segment_to_kvm(&s.tr, &cpu->tr);
    /* A running processor always has a busy TSS; some of them insist. */
    if (s.tr.type != 3)
        s.tr.type = 11;
    s.tr.s = 0;
    s.tr.present = 1;
    s.tr.unusable = 0;
    s.gdt.base = cpu->gdtr.base;
    s.gdt.limit = cpu->gdtr.limit;
    s.idt.base = cpu->idtr.base;
    s.idt.limit = cpu->idtr.limit;
    s.cr0 = cpu->cr0;
    s.cr2 = cpu->cr2;
    s.cr3 = cpu->cr3;
    s.cr4 = cpu->cr4;
    s.efer = cpu->efer;
    if (cpu->intc.get_cr8)
        s.cr8 = cpu->intc.get_cr8(cpu->intc.opaque);
    if (cpu->intc.read_msr && cpu->intc.read_msr(cpu->intc.opaque, MSR_APIC_BASE, &base))
        s.apic_base = base;
    if (pae_paging(cpu)) {
        s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(s.pdptrs, cpu->pdptr, sizeof(s.pdptrs));
    }
    return sregs_write(kvm_cpu(cpu), &s) < 0 ? -errno : 0;
}

/* ---- general registers ------------------------------------------------------------------------
 */

static int pull_regs(struct cpu *cpu)
{
    struct kvm_regs r;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_REGS, &r) < 0)
        return -errno;
    memcpy(cpu->gpr,
           (const uint64_t[GPR_COUNT]){r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8,
                                       r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15},
           sizeof(cpu->gpr));
    cpu->rip = r.rip;
    cpu->rflags = r.rflags;
    return 0;
}

static int push_regs(struct cpu *cpu)
{
    const uint64_t *g = cpu->gpr;
    struct kvm_regs r = {
        .rax = g[GPR_RAX],
        .rcx = g[GPR_RCX],
        .rdx = g[GPR_RDX],
        .rbx = g[GPR_RBX],
        .rsp = g[GPR_RSP],
        .rbp = g[GPR_RBP],
        .rsi = g[GPR_RSI],
        .rdi = g[GPR_RDI],
        .r8 = g[GPR_R8],
        .r9 = g[GPR_R9],
        .r10 = g[GPR_R10],
        .r11 = g[GPR_R11],
        .r12 = g[GPR_R12],
        .r13 = g[GPR_R13],
        .r14 = g[GPR_R14],
        .r15 = g[GPR_R15],
        .rip = cpu->rip,
        .rflags = cpu->rflags | RFLAGS_FIXED,
    };

    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_REGS, &r) < 0 ? -errno : 0;
}

/* ---- SIMD and floating point ------------------------------------------------------------------
 */

/* One extended component between its place in the area and the registers. */
static void component_copy(struct cpu *cpu, unsigned component, uint8_t *area, bool to_cpu)
{
    struct {
        uint8_t *reg;
        unsigned size, step, count;
    } part;

    switch (component) {
    case 1: part = (typeof(part)){cpu->zmm[0], 16, 64, 16}; break;
    case 2: part = (typeof(part)){cpu->zmm[0] + 16, 16, 64, 16}; break;
    case 5: part = (typeof(part)){(uint8_t *)cpu->k, 8, 8, 8}; break;
    case 6: part = (typeof(part)){cpu->zmm[0] + 32, 32, 64, 16}; break;
    case 7: part = (typeof(part)){cpu->zmm[16], 64, 64, 16}; break;
    default: return;
    }
    for (unsigned i = 0; i < part.count; i++, part.reg += part.step) {
        if (!to_cpu)
            memcpy(area + i * part.size, part.reg, part.size);
        else if (area)
            memcpy(part.reg, area + i * part.size, part.size);
        else
            memset(part.reg, 0, part.size);
    }
}

static uint32_t component_offset(const struct cpu_limits *l, unsigned component)
{
    return l->xsave[component].size &&
                   l->xsave[component].offset + l->xsave[component].size <= XSAVE_AREA
               ? l->xsave[component].offset
               : 0;
}

static void fx_from_area(struct cpu *cpu, const uint8_t *area)
{
    memcpy(&cpu->fx, area, offsetof(struct fx_image, xmm));
    cpu->fx.reserved1 = 0;
}

static int pull_xsave(struct cpu *cpu)
{
    const struct cpu_limits *l = &kvm_cpu(cpu)->machine->limits;
    struct kvm_xsave x;
    uint8_t *area = (uint8_t *)x.region;
    uint64_t present;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_XSAVE, &x) < 0)
        return -errno;
    memcpy(&present, area + XSAVE_HEADER, 8);
    fx_from_area(cpu, area);
    if (!(present & XCR0_X87)) {
        cpu->fx.fcw = 0x37f;
        cpu->fx.fsw = cpu->fx.fop = 0;
        cpu->fx.ftw = 0;
        cpu->fx.fip = cpu->fx.fdp = 0;
        memset(cpu->fx.st, 0, sizeof(cpu->fx.st));
    }
    for (unsigned i = 1; i < XSAVE_COMPONENTS; i++) {
        uint32_t offset = component_offset(l, i);

        component_copy(cpu, i, offset && (present >> i & 1) ? area + offset : NULL, true);
    }
    return 0;
}

static int push_xsave(struct cpu *cpu)
{
    const struct cpu_limits *l = &kvm_cpu(cpu)->machine->limits;
    struct kvm_xsave x = {0};
    uint8_t *area = (uint8_t *)x.region;
    uint64_t present = XCR0_X87;

    memcpy(area, &cpu->fx, offsetof(struct fx_image, xmm));
    for (unsigned i = 1; i < XSAVE_COMPONENTS; i++) {
        uint32_t offset = component_offset(l, i);

        if (!offset || (i > 1 && !(cpu->model->xcr0_supported >> i & 1)))
            continue;
        component_copy(cpu, i, area + offset, false);
        present |= BIT(i);
    }
    memcpy(area + XSAVE_HEADER, &present, 8);
    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_XSAVE, &x) < 0 ? -errno : 0;
}

/* Without XSAVE in KVM there is nothing beyond SSE. */
static int pull_fpu(struct cpu *cpu)
{
    struct kvm_fpu f;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_FPU, &f) < 0)
        return -errno;
    cpu->fx.fcw = f.fcw;
    cpu->fx.fsw = f.fsw;
    cpu->fx.ftw = f.ftwx;
    cpu->fx.fop = f.last_opcode;
    cpu->fx.fip = f.last_ip;
    cpu->fx.fdp = f.last_dp;
    cpu->fx.mxcsr = f.mxcsr;
    memcpy(cpu->fx.st, f.fpr, sizeof(cpu->fx.st));
    component_copy(cpu, 1, f.xmm[0], true);
    return 0;
}

static int push_fpu(struct cpu *cpu)
{
    struct kvm_fpu f = {
        .fcw = cpu->fx.fcw,
        .fsw = cpu->fx.fsw,
        .ftwx = cpu->fx.ftw,
        .last_opcode = cpu->fx.fop,
        .last_ip = cpu->fx.fip,
        .last_dp = cpu->fx.fdp,
        .mxcsr = cpu->fx.mxcsr,
    };

    memcpy(f.fpr, cpu->fx.st, sizeof(f.fpr));
    component_copy(cpu, 1, f.xmm[0], false);
    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_FPU, &f) < 0 ? -errno : 0;
}

static int pull_xcr0(struct cpu *cpu)
{
    struct kvm_xcrs x;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_XCRS, &x) < 0)
        return -errno;
    for (unsigned i = 0; i < MIN(x.nr_xcrs, (unsigned)KVM_MAX_XCRS); i++)
        if (x.xcrs[i].xcr == 0)
            cpu->xcr0 = x.xcrs[i].value;
    return 0;
}

static int push_xcr0(struct cpu *cpu)
{
    struct kvm_xcrs x = {.nr_xcrs = 1};

    if (!cpu_has(cpu, FEATURE_XSAVE))
        return 0;
    x.xcrs[0].value = cpu->xcr0;
    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_XCRS, &x) < 0 ? -errno : 0;
}

/* ---- model specific registers ------------------------------------------------------------------
 */

/* Where an MSR lives in struct cpu; NULL: not saved. EFER and the bases are in the sregs. */
static uint64_t *msr_field(struct cpu *cpu, uint32_t index)
{
    static const struct {
        uint32_t index, offset;
    } table[] = {
        {0x3b, offsetof(struct cpu, tsc_adjust)},
        {0x48, offsetof(struct cpu, spec_ctrl)},
        {0x174, offsetof(struct cpu, sysenter_cs)},
        {0x175, offsetof(struct cpu, sysenter_esp)},
        {0x176, offsetof(struct cpu, sysenter_eip)},
        {0x17a, offsetof(struct cpu, mcg_status)},
        {0x17b, offsetof(struct cpu, mcg_ctl)},
        {0x1a0, offsetof(struct cpu, misc_enable)},
        {0x1d9, offsetof(struct cpu, debugctl)},
        {0x250, offsetof(struct cpu, mtrr_fixed[0])},
        {0x258, offsetof(struct cpu, mtrr_fixed[1])},
        {0x259, offsetof(struct cpu, mtrr_fixed[2])},
        {0x268, offsetof(struct cpu, mtrr_fixed[3])},
        {0x269, offsetof(struct cpu, mtrr_fixed[4])},
        {0x26a, offsetof(struct cpu, mtrr_fixed[5])},
        {0x26b, offsetof(struct cpu, mtrr_fixed[6])},
        {0x26c, offsetof(struct cpu, mtrr_fixed[7])},
        {0x26d, offsetof(struct cpu, mtrr_fixed[8])},
        {0x26e, offsetof(struct cpu, mtrr_fixed[9])},
        {0x26f, offsetof(struct cpu, mtrr_fixed[10])},
        {0x277, offsetof(struct cpu, pat)},
        {0x2ff, offsetof(struct cpu, mtrr_def_type)},
        {0xc0000081, offsetof(struct cpu, star)},
        {0xc0000082, offsetof(struct cpu, lstar)},
        {0xc0000083, offsetof(struct cpu, cstar)},
        {0xc0000084, offsetof(struct cpu, sfmask)},
        {0xc0000102, offsetof(struct cpu, kernel_gs_base)},
        {0xc0000103, offsetof(struct cpu, tsc_aux)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].index == index)
            return (uint64_t *)((char *)cpu + table[i].offset);
    if (index >= 0x200 && index < 0x200 + 2 * CPU_MTRR_VARIABLE)
        return index & 1 ? &cpu->mtrr_mask[index / 2 & 7] : &cpu->mtrr_base[index / 2 & 7];
    if (index >= 0x400 && index < 0x400 + 4 * CPU_MCE_BANKS)
        return &cpu->mce_bank[(index - 0x400) / 4][index & 3];
    return NULL;
}
_Static_assert((CPU_MTRR_VARIABLE & 7) == 0 && CPU_MTRR_VARIABLE == 8, "index / 2 & 7");

union msr_list {
    struct kvm_msrs head; /* ends in an array */
    char room[sizeof(struct kvm_msrs) + KVM_MSR_LIMIT * sizeof(struct kvm_msr_entry)];
};

static union msr_list msr_one(uint32_t index)
{
    union msr_list l = {.head.nmsrs = 1};

    l.head.entries[0] = (struct kvm_msr_entry){.index = index};
    return l;
}

/* Those of our MSRs that this KVM has. */
static void list_msrs(struct cpu *cpu)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {{0x3b, 0x48},
                  {0x174, 0x17b},
                  {0x1a0, 0x1d9},
                  {0x200, 0x20f},
                  {0x250, 0x26f},
                  {0x277, 0x277},
                  {0x2ff, 0x2ff},
                  {0x400, 0x427},
                  {0xc0000081, 0xc0000084},
                  {0xc0000102, 0xc0000103}};
    struct kvm_cpu *kc = kvm_cpu(cpu);

    kc->msr_count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (uint32_t n = ranges[i].first; n <= ranges[i].last; n++) {
            union msr_list one = msr_one(n);

            if (kc->msr_count < KVM_MSR_LIMIT && msr_field(cpu, n) &&
                ioctl(kc->fd, KVM_GET_MSRS, &one) == 1)
                kc->msr[kc->msr_count++] = n;
        }
    }
}

static int pull_msrs(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    union msr_list list = {.head.nmsrs = kc->msr_count};
    int n;

    for (unsigned i = 0; i < kc->msr_count; i++)
        list.head.entries[i] = (struct kvm_msr_entry){.index = kc->msr[i]};
    n = ioctl(kc->fd, KVM_GET_MSRS, &list);
    for (int i = 0; i < n; i++)
        *msr_field(cpu, list.head.entries[i].index) = list.head.entries[i].data;
    return n < 0 ? -errno : 0;
}

/* KVM stops at the first it does not take; that one is told, and the rest goes on. */
static int push_msrs(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);

    for (unsigned done = 0; done < kc->msr_count;) {
        union msr_list list = {.head.nmsrs = kc->msr_count - done};
        int n;

        for (unsigned i = done; i < kc->msr_count; i++)
            list.head.entries[i - done] =
                (struct kvm_msr_entry){.index = kc->msr[i], .data = *msr_field(cpu, kc->msr[i])};
        n = ioctl(kc->fd, KVM_SET_MSRS, &list);
        if (n < 0)
            return -errno;
        done += (unsigned)n;
        if (done < kc->msr_count) {
            log_debug("kvm: MSR %#x does not take %#llx", kc->msr[done],
                      (unsigned long long)list.head.entries[n].data);
            done++;
        }
    }
    return 0;
}

/* ---- time ---------------------------------------------------------------------------------------
 */

static int tsc_offset(const struct kvm_cpu *kc, uint64_t *offset, unsigned long request)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};

    return ioctl(kc->fd, request, &a);
}

/* Without the attribute the TSC is read and written as a value, which makes it jump by the time an
 * ioctl takes; differences that small are not the guest's doing and change nothing. */
static void pull_tsc(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    union msr_list one = msr_one(MSR_TSC);
    uint64_t offset;
    int64_t jump;

    if (kc->machine->has_tsc_offset) {
        if (!tsc_offset(kc, &offset, KVM_GET_DEVICE_ATTR))
            cpu->tsc_offset = offset;
        return;
    }
    if (ioctl(kc->fd, KVM_GET_MSRS, &one) != 1)
        return;
    jump = (int64_t)(one.head.entries[0].data - cpu_read_tsc(cpu));
    if (llabs(jump) > (int64_t)(cpu_tsc_hz() / 1000))
        cpu->tsc_offset += (uint64_t)jump;
}

static void push_tsc(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    union msr_list one = msr_one(MSR_TSC);

    if (kc->machine->has_tsc_offset) {
        tsc_offset(kc, &cpu->tsc_offset, KVM_SET_DEVICE_ATTR);
        return;
    }
    if (ioctl(kc->fd, KVM_GET_MSRS, &one) != 1 ||
        llabs((int64_t)(one.head.entries[0].data - cpu_read_tsc(cpu))) <=
            (int64_t)(cpu_tsc_hz() / 1000))
        return;
    one.head.entries[0].data = cpu_read_tsc(cpu);
    ioctl(kc->fd, KVM_SET_MSRS, &one);
}

/* ---- debug registers and events
 * ------------------------------------------------------------------ */

static int pull_debug(struct cpu *cpu)
{
    struct kvm_debugregs d;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_DEBUGREGS, &d) < 0)
        return -errno;
    for (unsigned i = 0; i < 4; i++)
        cpu->dr[i] = d.db[i];
    cpu->dr[6] = d.dr6;
    cpu->dr[7] = d.dr7;
    return 0;
}

static int push_debug(struct cpu *cpu)
{
    struct kvm_debugregs d = {.dr6 = cpu->dr[6], .dr7 = cpu->dr[7]};

    for (unsigned i = 0; i < 4; i++)
        d.db[i] = cpu->dr[i];
    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_DEBUGREGS, &d) < 0 ? -errno : 0;
}

static int pull_events(struct cpu *cpu)
{
    struct kvm_vcpu_events v;

    if (ioctl(kvm_cpu(cpu)->fd, KVM_GET_VCPU_EVENTS, &v) < 0)
        return -errno;
    cpu->sti_shadow = (v.interrupt.shadow & KVM_X86_SHADOW_INT_STI) != 0;
    cpu->movss_shadow = (v.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS) != 0;
    cpu->nmi_blocked = v.nmi.masked != 0;
    if (v.nmi.pending) { /* taken over: KVM must forget it */
        atomic_fetch_or(&cpu->events, CPU_EVENT_NMI);
        kvm_cpu(cpu)->push = true;
    }
    cpu->pending_vector = -1;
    cpu->pending_has_error = false;
    cpu->pending_error = 0;
    if (v.exception.injected) {
        cpu->pending_vector = v.exception.nr;
        cpu->pending_kind = INTERRUPT_EXCEPTION;
        cpu->pending_has_error = v.exception.has_error_code != 0;
        cpu->pending_error = v.exception.error_code;
    } else if (v.nmi.injected) {
        cpu->pending_vector = EXC_NMI;
        cpu->pending_kind = INTERRUPT_NMI;
    } else if (v.interrupt.injected && !v.interrupt.soft) {
        /* A software interrupt is not taken over: RIP is at its instruction still. */
        cpu->pending_vector = v.interrupt.nr;
        cpu->pending_kind = INTERRUPT_EXTERNAL;
    }
    return 0;
}

static int push_events(struct cpu *cpu)
{
    struct kvm_vcpu_events v = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        .interrupt.shadow = (cpu->sti_shadow ? KVM_X86_SHADOW_INT_STI : 0) |
                            (cpu->movss_shadow ? KVM_X86_SHADOW_INT_MOV_SS : 0),
        .nmi.masked = cpu->nmi_blocked,
    };

    return ioctl(kvm_cpu(cpu)->fd, KVM_SET_VCPU_EVENTS, &v) < 0 ? -errno : 0;
}

/* ---- all of it
 * ------------------------------------------------------------------------------------ */

static int check(int r, const char *what, struct error *err)
{
    return r < 0 ? error_set_errno(err, -r, "KVM does not %s", what) : 0;
}

int kvm_registers_init(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    const struct cpu_model *m = cpu->model;
    union {
        struct kvm_cpuid2 head; /* ends in an array */
        char room[sizeof(struct kvm_cpuid2) + CPUID_LEAVES * sizeof(struct kvm_cpuid_entry2)];
    } c = {.head.nent = m->leaves};
    uint64_t mcg_cap;

    for (unsigned i = 0; i < m->leaves; i++) {
        const struct cpuid_entry *l = &m->leaf[i];
        uint32_t r[4];

        cpu_cpuid(cpu, l->function, l->index, r);
        c.head.entries[i] = (struct kvm_cpuid_entry2){
            .function = l->function,
            .index = l->index,
            .flags = l->indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = r[0],
            .ebx = r[1],
            .ecx = r[2],
            .edx = r[3],
        };
        if (l->function == 1 || l->function == 0x80000001)
            c.head.entries[i].edx |= l->edx; /* the APIC bit: KVM hides it while the base says so */
    }
    if (ioctl(kc->fd, KVM_SET_CPUID2, &c) < 0)
        return error_set_errno(err, errno, "KVM does not take processor model '%s'", m->name);
    if (cpu_has(cpu, FEATURE_MCA) && cpu_rdmsr(cpu, MSR_MCG_CAP, &mcg_cap))
        ioctl(kc->fd, KVM_X86_SETUP_MCE, &mcg_cap); /* where refused, KVM's own stays */
    list_msrs(cpu);
    return 0;
}

int kvm_registers_pull(struct cpu *cpu, struct error *err)
{
    const struct kvm_machine *m = kvm_cpu(cpu)->machine;
    int r = check(pull_sregs(cpu), "give control registers", err);

    if (!r)
        r = check(pull_regs(cpu), "give registers", err);
    if (!r)
        r = check(m->has_xsave ? pull_xsave(cpu) : pull_fpu(cpu), "give FPU registers", err);
    if (!r && m->has_xcrs)
        r = check(pull_xcr0(cpu), "give XCR0", err);
    if (!r)
        r = check(pull_msrs(cpu), "give MSRs", err);
    if (!r && m->has_debugregs)
        r = check(pull_debug(cpu), "give debug registers", err);
    if (!r)
        r = check(pull_events(cpu), "give events", err);
    if (r)
        return r;
    pull_tsc(cpu);
    cpu_state_changed(cpu);
    return 0;
}

int kvm_registers_push(struct cpu *cpu, struct error *err)
{
    const struct kvm_machine *m = kvm_cpu(cpu)->machine;
    int r;

    cpu_update_derived(cpu);
    r = check(push_sregs(cpu), "take control registers", err);
    if (!r)
        r = check(push_regs(cpu), "take registers", err);
    if (!r)
        r = check(m->has_xsave ? push_xsave(cpu) : push_fpu(cpu), "take FPU registers", err);
    if (!r && m->has_xcrs)
        r = check(push_xcr0(cpu), "take XCR0", err);
    if (!r)
        r = check(push_msrs(cpu), "take MSRs", err);
    if (!r && m->has_debugregs)
        r = check(push_debug(cpu), "take debug registers", err);
    if (!r)
        r = check(push_events(cpu), "take events", err);
    if (!r)
        push_tsc(cpu);
    return r;
}
