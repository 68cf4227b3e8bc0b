/*
 * system.c - privileged and sensitive instructions: descriptor-table and control registers, MSRs,
 * system calls, interrupt flags, port I/O, cache and TLB control, HLT and MWAIT.
 *
 * Privilege is checked first where the manual says so, and every check comes before a change. What
 * alters EFLAGS.AC, CS, SS, CR0, CR4 or EFER ends in cpu_update_derived().
 *
 * MWAIT sleeps here, in slices, and compares the monitored line with what it held at MONITOR: a
 * store by another CPU ends it within a slice; one that leaves the same bytes is found by the time
 * limit, for MWAIT may end for no reason. So no store is waited for longer than MWAIT_LIMIT.
 */
#include "interp/protect.h"
#include "x86/model.h"

#include <immintrin.h>

enum {
    DR6_BD = 1 << 13,
    DR6_BS = 1 << 14,
    DR7_GD = 1 << 13,
    CR0_LMSW = CR0_PE | CR0_MP | CR0_EM | CR0_TS,
};

static const uint64_t mwait_first = 20 * 1000, mwait_longest = 1000 * 1000,
                      mwait_limit = 10 * 1000 * 1000; /* nanoseconds */

_Noreturn static void raise_gp(struct cpu *cpu)
{
    cpu_raise_error(cpu, EXC_GP, 0);
}

static void require_cpl0(struct cpu *cpu)
{
    if (cpu->cpl)
        raise_gp(cpu);
}

static void require_protected(struct cpu *cpu)
{
    if (!cpu_protected(cpu) || cpu_in_vm86(cpu))
        cpu_raise(cpu, EXC_UD);
}

static void check_umip(struct cpu *cpu)
{
    if (cpu->cr4 & CR4_UMIP && cpu->cpl)
        raise_gp(cpu);
}

static unsigned iopl(const struct cpu *cpu)
{
    return cpu->rflags >> 12 & 3;
}

/* Offset of a second field behind the first `by` bytes of the memory operand. */
static uint64_t field_offset(const struct cpu *cpu, const struct insn *in, unsigned by)
{
    uint64_t offset = insn_offset(cpu, in) + by;

    return in->address_size < 8 ? offset & size_mask(in->address_size) : offset;
}

static uint64_t edx_eax(const struct cpu *cpu)
{
    return (uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;
}

static void edx_eax_set(struct cpu *cpu, uint64_t value)
{
    cpu->gpr[GPR_RAX] = (uint32_t)value;
    cpu->gpr[GPR_RDX] = value >> 32;
}

/* ---- descriptor tables ---------------------------------------------------------------------- */

static void load_table(struct cpu *cpu, const struct insn *in, struct table_register *t)
{
    unsigned size = in->code_size == 8 ? 8 : 4;
    uint64_t limit, base;

    require_cpl0(cpu);
    limit = segment_load(cpu, in->segment, insn_offset(cpu, in), 2);
    base = segment_load(cpu, in->segment, field_offset(cpu, in, 2), size);
    if (size == 8 && !cpu_is_canonical(cpu, base))
        raise_gp(cpu);
    if (size == 4 && in->operand_size == 2)
        base &= 0xffffff;
    *t = (struct table_register){base, (uint16_t)limit};
}

static void store_table(struct cpu *cpu, const struct insn *in, const struct table_register *t)
{
    unsigned size = in->code_size == 8 ? 8 : 4;

    check_umip(cpu);
    mmu_probe(cpu, segment_linear(cpu, in->segment, field_offset(cpu, in, 2), size, MMU_WRITE),
              size, cpu->mmu_mode, MMU_WRITE);
    segment_store(cpu, in->segment, insn_offset(cpu, in), t->limit, 2);
    segment_store(cpu, in->segment, field_offset(cpu, in, 2), t->base, size);
}

static void run_lgdt(struct cpu *cpu, const struct insn *in)
{
    load_table(cpu, in, &cpu->gdtr);
}

static void run_lidt(struct cpu *cpu, const struct insn *in)
{
    load_table(cpu, in, &cpu->idtr);
}

static void run_sgdt(struct cpu *cpu, const struct insn *in)
{
    store_table(cpu, in, &cpu->gdtr);
}

static void run_sidt(struct cpu *cpu, const struct insn *in)
{
    store_table(cpu, in, &cpu->idtr);
}

static void run_sldt(struct cpu *cpu, const struct insn *in)
{
    require_protected(cpu);
    check_umip(cpu);
    operand_write(cpu, in, 0, cpu->ldtr.selector);
}

static void run_str(struct cpu *cpu, const struct insn *in)
{
    require_protected(cpu);
    check_umip(cpu);
    operand_write(cpu, in, 0, cpu->tr.selector);
}

/* A system descriptor for LDTR or TR; kinds as bits. */
static struct segment system_segment_get(struct cpu *cpu, uint16_t selector, uint32_t kinds,
                                         struct descriptor *d)
{
    struct segment s;

    if (selector & SELECTOR_TI || !descriptor_load(cpu, selector, d) ||
        !(kinds >> descriptor_kind(d) & 1))
        raise_selector(cpu, EXC_GP, selector, false);
    if (cpu_long_mode(cpu) && !descriptor_load_upper(cpu, selector, d))
        raise_selector(cpu, EXC_GP, selector, false);
    if (!descriptor_present(d))
        raise_selector(cpu, EXC_NP, selector, false);
    s = descriptor_segment(selector, d);
    if (cpu_long_mode(cpu) && !cpu_is_canonical(cpu, s.base))
        raise_selector(cpu, EXC_GP, selector, false);
    return s;
}

static void run_lldt(struct cpu *cpu, const struct insn *in)
{
    struct descriptor d;
    uint16_t selector;

    require_protected(cpu);
    require_cpl0(cpu);
    selector = (uint16_t)operand_read(cpu, in, 0);
    cpu->ldtr = selector_null(selector) ? segment_null(selector, 0)
                                        : system_segment_get(cpu, selector, 1u << TYPE_LDT, &d);
}

static void run_ltr(struct cpu *cpu, const struct insn *in)
{
    uint32_t kinds = 1u << TYPE_TSS32 | (cpu_long_mode(cpu) ? 0 : 1u << TYPE_TSS16);
    struct descriptor d;
    struct segment tr;
    uint16_t selector;

    require_protected(cpu);
    require_cpl0(cpu);
    selector = (uint16_t)operand_read(cpu, in, 0);
    if (selector_null(selector))
        raise_gp(cpu);
    tr = system_segment_get(cpu, selector, kinds, &d);
    descriptor_change(cpu, &d, 2u << 8, 0);
    tr.attr |= 2;
    cpu->tr = tr;
}

/* May LAR, LSL, VERR, VERW see this? The descriptor if so. */
static bool inspect(struct cpu *cpu, const struct insn *in, unsigned n, uint32_t system_kinds,
                    struct descriptor *d)
{
    uint16_t selector = (uint16_t)operand_read(cpu, in, n);
    unsigned kind;

    if (selector_null(selector) || !descriptor_load(cpu, selector, d))
        return false;
    kind = descriptor_kind(d);
    if (!(kind & ATTR_S) && !(system_kinds >> kind & 1))
        return false;
    if (!(kind & ATTR_S) && cpu_long_mode(cpu) && !descriptor_load_upper(cpu, selector, d))
        return false;
    return descriptor_is_conforming(d) ||
           (descriptor_dpl(d) >= cpu->cpl && descriptor_dpl(d) >= (selector & SELECTOR_RPL));
}

static void set_zf(struct cpu *cpu, bool set)
{
    cpu->rflags &= ~(uint64_t)RFLAGS_ZF;
    if (set)
        cpu->rflags |= RFLAGS_ZF;
}

static void run_lar(struct cpu *cpu, const struct insn *in)
{
    uint32_t kinds = 1u << TYPE_LDT | 1u << TYPE_TSS32 | 1u << TYPE_TSS32_BUSY | 1u << TYPE_CALL32;
    struct descriptor d;
    bool ok;

    require_protected(cpu);
    if (!cpu_long_mode(cpu))
        kinds |= 1u << TYPE_TSS16 | 1u << TYPE_TSS16_BUSY | 1u << TYPE_CALL16 |
                 1u << TYPE_TASK_GATE;
    ok = inspect(cpu, in, 1, kinds, &d);
    if (ok)
        reg_write(cpu, in->op[0].reg, d.high & 0x00ffff00, in->operand_size);
    set_zf(cpu, ok);
}

static void run_lsl(struct cpu *cpu, const struct insn *in)
{
    uint32_t kinds = 1u << TYPE_LDT | 1u << TYPE_TSS32 | 1u << TYPE_TSS32_BUSY;
    struct descriptor d;
    bool ok;

    require_protected(cpu);
    if (!cpu_long_mode(cpu))
        kinds |= 1u << TYPE_TSS16 | 1u << TYPE_TSS16_BUSY;
    ok = inspect(cpu, in, 1, kinds, &d);
    if (ok)
        reg_write(cpu, in->op[0].reg, descriptor_segment(0, &d).limit, in->operand_size);
    set_zf(cpu, ok);
}

static void run_verr(struct cpu *cpu, const struct insn *in)
{
    struct descriptor d;

    require_protected(cpu);
    set_zf(cpu, inspect(cpu, in, 0, 0, &d) &&
                    (!descriptor_is_code(&d) || descriptor_kind(&d) & ATTR_READABLE));
}

static void run_verw(struct cpu *cpu, const struct insn *in)
{
    struct descriptor d;

    require_protected(cpu);
    set_zf(cpu, inspect(cpu, in, 0, 0, &d) && descriptor_is_writable_data(&d));
}

static uint64_t arpl_change(uint64_t old, void *context)
{
    uint64_t rpl = *(uint64_t *)context & SELECTOR_RPL;

    return (old & SELECTOR_RPL) < rpl ? (old & ~(uint64_t)SELECTOR_RPL) | rpl : old;
}

static void run_arpl(struct cpu *cpu, const struct insn *in)
{
    uint64_t source, old;

    require_protected(cpu);
    source = operand_read(cpu, in, 1);
    old = operand_modify(cpu, in, 0, arpl_change, &source);
    set_zf(cpu, (old & SELECTOR_RPL) < (source & SELECTOR_RPL));
}

/* ---- control and debug registers ------------------------------------------------------------ */

static void run_smsw(struct cpu *cpu, const struct insn *in)
{
    check_umip(cpu);
    operand_write(cpu, in, 0, cpu->cr0);
}

static void run_lmsw(struct cpu *cpu, const struct insn *in)
{
    uint64_t value;

    require_cpl0(cpu);
    value = operand_read(cpu, in, 0) & CR0_LMSW;
    value |= (cpu->cr0 & ~(uint64_t)CR0_LMSW) | (cpu->cr0 & CR0_PE); /* PE cannot be cleared */
    if (!cpu_write_cr0(cpu, value))
        raise_gp(cpu);
}

static void run_clts(struct cpu *cpu, const struct insn *in)
{
    require_cpl0(cpu);
    cpu->cr0 &= ~(uint64_t)CR0_TS;
}

static void read_control(struct cpu *cpu, const struct insn *in, unsigned size)
{
    uint64_t value;

    require_cpl0(cpu);
    switch (in->op[1].reg) {
    case 0: value = cpu->cr0; break;
    case 2: value = cpu->cr2; break;
    case 3: value = cpu->cr3; break;
    case 4: value = cpu->cr4; break;
    case 8: value = cpu->intc.get_cr8 ? cpu->intc.get_cr8(cpu->intc.opaque) : 0; break;
    default: cpu_raise(cpu, EXC_UD);
    }
    reg_write(cpu, in->op[0].reg, value, size);
}

static void write_control(struct cpu *cpu, const struct insn *in, unsigned size)
{
    uint64_t value = reg_read(cpu, in->op[1].reg, size);
    bool ok = true;

    require_cpl0(cpu);
    switch (in->op[0].reg) {
    case 0: ok = cpu_write_cr0(cpu, value); break;
    case 2: cpu->cr2 = value; break;
    case 3: ok = cpu_write_cr3(cpu, value); break;
    case 4: ok = cpu_write_cr4(cpu, value); break;
    case 8:
        ok = value <= 15;
        if (ok && cpu->intc.set_cr8)
            cpu->intc.set_cr8(cpu->intc.opaque, (uint8_t)value);
        break;
    default: cpu_raise(cpu, EXC_UD);
    }
    if (!ok)
        raise_gp(cpu);
}

/* Which debug register is meant, with the checks of all accesses. */
static unsigned debug_register(struct cpu *cpu, unsigned n)
{
    if (n > 7 || ((n == 4 || n == 5) && cpu->cr4 & CR4_DE))
        cpu_raise(cpu, EXC_UD);
    require_cpl0(cpu);
    if (cpu->dr[7] & DR7_GD) {
        cpu->dr[6] |= DR6_BD;
        cpu->dr[7] &= ~(uint64_t)DR7_GD;
        cpu_raise(cpu, EXC_DB);
    }
    return n == 4 || n == 5 ? n + 2 : n;
}

static void read_debug(struct cpu *cpu, const struct insn *in, unsigned size)
{
    reg_write(cpu, in->op[0].reg, cpu->dr[debug_register(cpu, in->op[1].reg)], size);
}

static void write_debug(struct cpu *cpu, const struct insn *in, unsigned size)
{
    unsigned n = debug_register(cpu, in->op[0].reg);
    uint64_t value = reg_read(cpu, in->op[1].reg, size);

    if (n >= 6 && value >> 32)
        raise_gp(cpu);
    if (n == 6)
        value = (value & 0xe00f) | 0xffff0ff0;
    else if (n == 7)
        value = (value & 0xffff23ff) | 0x400;
    cpu->dr[n] = value;
}

static void run_mov(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->code_size == 8 ? 8 : 4;

    switch (in->opcode) {
    case 0x20: read_control(cpu, in, size); break;
    case 0x21: read_debug(cpu, in, size); break;
    case 0x22: write_control(cpu, in, size); break;
    case 0x23: write_debug(cpu, in, size); break;
    default: cpu_raise(cpu, EXC_UD); /* test registers of the 386 and 486 */
    }
}

static void run_xgetbv(struct cpu *cpu, const struct insn *in)
{
    uint32_t n = (uint32_t)cpu->gpr[GPR_RCX];

    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_raise(cpu, EXC_UD);
    if (n > 1 || (n == 1 && !cpu_has(cpu, FEATURE_XGETBV1)))
        raise_gp(cpu);
    edx_eax_set(cpu, n ? cpu->xcr0 & components_in_use(cpu) : cpu->xcr0);
}

static void run_xsetbv(struct cpu *cpu, const struct insn *in)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_raise(cpu, EXC_UD);
    require_cpl0(cpu);
    if ((uint32_t)cpu->gpr[GPR_RCX] || !cpu_write_xcr0(cpu, edx_eax(cpu)))
        raise_gp(cpu);
}

/* ---- caches and TLB ------------------------------------------------------------------------- */

static void run_invlpg(struct cpu *cpu, const struct insn *in)
{
    gva linear = insn_offset(cpu, in);

    require_cpl0(cpu);
    if (cpu->code_size != 8)
        linear = (linear + cpu->seg[in->segment].base) & UINT32_MAX;
    else if (in->segment >= SEG_FS)
        linear += cpu->seg[in->segment].base;
    mmu_flush_page(cpu, linear);
}

static void run_invpcid(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->code_size == 8 ? 8 : 4;
    uint64_t type, pcid, linear;

    require_cpl0(cpu);
    type = reg_read(cpu, in->op[0].reg, size);
    pcid = segment_load(cpu, in->segment, insn_offset(cpu, in), 8);
    linear = segment_load(cpu, in->segment, field_offset(cpu, in, 8), 8);
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(cpu->cr4 & CR4_PCIDE)) ||
        (type == 0 && !cpu_is_canonical(cpu, linear)))
        raise_gp(cpu);
    mmu_flush_pcid(cpu, (unsigned)type, (unsigned)pcid, linear);
}

static void run_wbinvd(struct cpu *cpu, const struct insn *in)
{
    require_cpl0(cpu); /* no caches to write back */
}

/* CLFLUSH and its kin: an access like a load of one byte, but execute-only segments will do. */
static void run_clflush(struct cpu *cpu, const struct insn *in)
{
    mmu_probe(cpu, insn_linear(cpu, in, 1, MMU_FETCH), 1, cpu->mmu_mode, MMU_READ);
}

/* The segment override of an instruction whose memory operand is implicit. */
static enum segment_name override_segment(const struct insn *in)
{
    enum segment_name seg = SEG_DS;

    for (unsigned i = 0; i < in->length; i++)
        switch (in->bytes[i]) {
        case 0x26: seg = in->code_size == 8 ? seg : SEG_ES; break;
        case 0x2e: seg = in->code_size == 8 ? seg : SEG_CS; break;
        case 0x36: seg = in->code_size == 8 ? seg : SEG_SS; break;
        case 0x3e: seg = in->code_size == 8 ? seg : SEG_DS; break;
        case 0x64: seg = SEG_FS; break;
        case 0x65: seg = SEG_GS; break;
        case 0x66:
        case 0x67:
        case 0xf2:
        case 0xf3: break;
        default: return seg;
        }
    return seg;
}

static uint64_t rax_offset(const struct cpu *cpu, const struct insn *in)
{
    return cpu->gpr[GPR_RAX] & size_mask(in->address_size);
}

static void run_clzero(struct cpu *cpu, const struct insn *in)
{
    static const uint8_t zero[64];
    /* The line is one of linear memory: a segment's base need not be aligned. */
    gva linear = segment_linear(cpu, override_segment(in), rax_offset(cpu, in), 1, MMU_WRITE);

    mmu_store_bytes(cpu, align_down(linear, sizeof(zero)), zero, sizeof(zero), cpu->mmu_mode);
}

static void run_fence(struct cpu *cpu, const struct insn *in)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* ---- MSRs, time, identity, randomness ------------------------------------------------------- */

static void run_rdmsr(struct cpu *cpu, const struct insn *in)
{
    uint64_t value;

    require_cpl0(cpu);
    if (!cpu_rdmsr(cpu, (uint32_t)cpu->gpr[GPR_RCX], &value))
        raise_gp(cpu);
    edx_eax_set(cpu, value);
}

static void run_wrmsr(struct cpu *cpu, const struct insn *in)
{
    require_cpl0(cpu);
    if (!cpu_wrmsr(cpu, (uint32_t)cpu->gpr[GPR_RCX], edx_eax(cpu)))
        raise_gp(cpu);
}

static void run_rdtsc(struct cpu *cpu, const struct insn *in)
{
    if (cpu->cr4 & CR4_TSD && cpu->cpl)
        raise_gp(cpu);
    edx_eax_set(cpu, cpu_read_tsc(cpu));
    if (in->mnemonic == ZYDIS_MNEMONIC_RDTSCP)
        cpu->gpr[GPR_RCX] = (uint32_t)cpu->tsc_aux;
}

static void run_rdpmc(struct cpu *cpu, const struct insn *in)
{
    if (!(cpu->cr4 & CR4_PCE) && cpu->cpl)
        raise_gp(cpu);
    if (!cpu_is_amd(cpu) || (uint32_t)cpu->gpr[GPR_RCX] > 3)
        raise_gp(cpu); /* no counters but AMD's four, which stand still */
    edx_eax_set(cpu, 0);
}

static void run_rdpid(struct cpu *cpu, const struct insn *in)
{
    reg_write(cpu, in->op[0].reg, cpu->tsc_aux, in->code_size == 8 ? 8 : 4);
}

static void run_cpuid(struct cpu *cpu, const struct insn *in)
{
    uint32_t out[4];

    cpu_cpuid(cpu, (uint32_t)cpu->gpr[GPR_RAX], (uint32_t)cpu->gpr[GPR_RCX], out);
    cpu->gpr[GPR_RAX] = out[0];
    cpu->gpr[GPR_RBX] = out[1];
    cpu->gpr[GPR_RCX] = out[2];
    cpu->gpr[GPR_RDX] = out[3];
}

__attribute__((target("rdrnd"))) static bool host_rdrand(unsigned long long *value)
{
    return _rdrand64_step(value);
}

__attribute__((target("rdseed"))) static bool host_rdseed(unsigned long long *value)
{
    return _rdseed64_step(value);
}

static void run_random(struct cpu *cpu, const struct insn *in)
{
    unsigned long long value = 0;
    bool ok = in->mnemonic == ZYDIS_MNEMONIC_RDRAND ? host_rdrand(&value) : host_rdseed(&value);

    reg_write(cpu, in->op[0].reg, ok ? value : 0, in->operand_size);
    cpu->rflags &= ~(uint64_t)RFLAGS_STATUS;
    if (ok)
        cpu->rflags |= RFLAGS_CF;
}

/* ---- system calls --------------------------------------------------------------------------- */

/* The flat segments that SYSCALL, SYSENTER and their returns load without a table. */
static void flat_segments(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool long_code)
{
    uint32_t common = ATTR_G | ATTR_P | ATTR_S | ATTR_ACCESSED | cpl << ATTR_DPL_SHIFT;

    cpu->seg[SEG_CS] = (struct segment){.selector = cs,
                                        .attr = common | ATTR_CODE | ATTR_READABLE |
                                                (long_code ? ATTR_L : ATTR_DB),
                                        .limit = UINT32_MAX};
    cpu->seg[SEG_SS] = (struct segment){
        .selector = ss, .attr = common | ATTR_WRITABLE | ATTR_DB, .limit = UINT32_MAX};
    cpu_update_derived(cpu);
}

static void run_syscall(struct cpu *cpu, const struct insn *in)
{
    uint16_t cs = (uint16_t)(cpu->star >> 32) & 0xfffc;
    bool from_64bit = cpu->code_size == 8;

    if (!(cpu->efer & EFER_SCE) || !cpu_protected(cpu) || cpu_in_vm86(cpu) ||
        (!from_64bit && !cpu_is_amd(cpu)))
        cpu_raise(cpu, EXC_UD);
    if (cpu_long_mode(cpu)) {
        cpu->gpr[GPR_RCX] = cpu->next_rip;
        cpu->gpr[GPR_R11] = cpu->rflags & ~(uint64_t)RFLAGS_RF;
        cpu->next_rip = from_64bit ? cpu->lstar : cpu->cstar;
        cpu->rflags &= ~(cpu->sfmask | RFLAGS_RF);
        cpu->rflags |= RFLAGS_FIXED;
    } else {
        cpu->gpr[GPR_RCX] = (uint32_t)cpu->next_rip;
        cpu->next_rip = (uint32_t)cpu->star;
        cpu->rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_RF);
    }
    flat_segments(cpu, cs, cs + 8, 0, cpu_long_mode(cpu));
}

static void run_sysret(struct cpu *cpu, const struct insn *in)
{
    uint16_t base = (uint16_t)(cpu->star >> 48);
    bool to_64bit = in->operand_size == 8;

    if (!(cpu->efer & EFER_SCE) || !cpu_protected(cpu) || cpu_in_vm86(cpu) ||
        (cpu->code_size != 8 && !cpu_is_amd(cpu)))
        cpu_raise(cpu, EXC_UD);
    require_cpl0(cpu);
    if (to_64bit && !cpu_is_amd(cpu) && !cpu_is_canonical(cpu, cpu->gpr[GPR_RCX]))
        raise_gp(cpu);
    cpu->next_rip = to_64bit ? cpu->gpr[GPR_RCX] : (uint32_t)cpu->gpr[GPR_RCX];
    if (cpu_long_mode(cpu))
        cpu->rflags = (cpu->gpr[GPR_R11] & 0x3c7fd7) | RFLAGS_FIXED;
    else
        cpu->rflags |= RFLAGS_IF;
    flat_segments(cpu, (uint16_t)((base + (to_64bit ? 16 : 0)) | 3), (uint16_t)((base + 8) | 3), 3,
                  to_64bit);
    /* With TF the trap comes at once, as if the SYSCALL had just ended. */
    if (cpu->rflags & RFLAGS_TF)
        cpu->dr6_pending |= DR6_BS;
}

static void run_sysenter(struct cpu *cpu, const struct insn *in)
{
    uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
    bool lm = cpu_long_mode(cpu);

    if (lm && cpu_is_amd(cpu))
        cpu_raise(cpu, EXC_UD);
    if (!cpu_protected(cpu) || !cs)
        raise_gp(cpu);
    cpu->rflags &= ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    cpu->gpr[GPR_RSP] = lm ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    cpu->next_rip = lm ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    flat_segments(cpu, cs, cs + 8, 0, lm);
}

static void run_sysexit(struct cpu *cpu, const struct insn *in)
{
    uint16_t cs = (uint16_t)cpu->sysenter_cs & 0xfffc;
    bool to_64bit = in->operand_size == 8;
    uint64_t rip = cpu->gpr[GPR_RDX], rsp = cpu->gpr[GPR_RCX];

    if (cpu_long_mode(cpu) && cpu_is_amd(cpu))
        cpu_raise(cpu, EXC_UD);
    if (!cpu_protected(cpu) || !cs || cpu->cpl)
        raise_gp(cpu);
    if (to_64bit && (!cpu_is_canonical(cpu, rip) || !cpu_is_canonical(cpu, rsp)))
        raise_gp(cpu);
    cpu->next_rip = to_64bit ? rip : (uint32_t)rip;
    cpu->gpr[GPR_RSP] = to_64bit ? rsp : (uint32_t)rsp;
    cs = (uint16_t)(cs + (to_64bit ? 32 : 16));
    flat_segments(cpu, cs | 3, (uint16_t)(cs + 8) | 3, 3, to_64bit);
}

static void run_swapgs(struct cpu *cpu, const struct insn *in)
{
    uint64_t base = cpu->seg[SEG_GS].base;

    if (cpu->code_size != 8)
        cpu_raise(cpu, EXC_UD);
    require_cpl0(cpu);
    cpu->seg[SEG_GS].base = cpu->kernel_gs_base;
    cpu->kernel_gs_base = base;
}

static void require_fsgsbase(struct cpu *cpu)
{
    if (!(cpu->cr4 & CR4_FSGSBASE) || cpu->code_size != 8)
        cpu_raise(cpu, EXC_UD);
}

static void run_rdbase(struct cpu *cpu, const struct insn *in)
{
    enum segment_name seg = in->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ? SEG_FS : SEG_GS;

    require_fsgsbase(cpu);
    operand_write(cpu, in, 0, cpu->seg[seg].base);
}

static void run_wrbase(struct cpu *cpu, const struct insn *in)
{
    enum segment_name seg = in->mnemonic == ZYDIS_MNEMONIC_WRFSBASE ? SEG_FS : SEG_GS;
    uint64_t value;

    require_fsgsbase(cpu);
    value = operand_read(cpu, in, 0);
    if (!cpu_is_canonical(cpu, value))
        raise_gp(cpu);
    cpu->seg[seg].base = value;
}

/* ---- flags ---------------------------------------------------------------------------------- */

/* Who may change IF: everybody at sufficient IOPL; else VIF takes its place, or #GP. */
static bool uses_vif(struct cpu *cpu)
{
    if (!cpu_protected(cpu) || (!cpu_in_vm86(cpu) && cpu->cpl <= iopl(cpu)) ||
        (cpu_in_vm86(cpu) && iopl(cpu) == 3))
        return false;
    if (cpu_in_vm86(cpu) ? !(cpu->cr4 & CR4_VME) : !(cpu->cr4 & CR4_PVI) || cpu->cpl != 3)
        raise_gp(cpu);
    return true;
}

static void run_cli(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags &= ~(uint64_t)(uses_vif(cpu) ? RFLAGS_VIF : RFLAGS_IF);
}

static void run_sti(struct cpu *cpu, const struct insn *in)
{
    if (uses_vif(cpu)) {
        if (cpu->rflags & RFLAGS_VIP)
            raise_gp(cpu);
        cpu->rflags |= RFLAGS_VIF;
        return;
    }
    if (!(cpu->rflags & RFLAGS_IF))
        cpu->sti_shadow = true;
    cpu->rflags |= RFLAGS_IF;
}

static void run_pushf(struct cpu *cpu, const struct insn *in)
{
    uint64_t flags = cpu->rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_RF);

    if (cpu_in_vm86(cpu) && iopl(cpu) < 3) {
        if (!(cpu->cr4 & CR4_VME) || in->stack_size != 2)
            raise_gp(cpu);
        flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;
        if (flags & RFLAGS_VIF)
            flags |= RFLAGS_IF;
    }
    stack_push(cpu, flags, in->stack_size);
}

static void run_popf(struct cpu *cpu, const struct insn *in)
{
    uint64_t flags = stack_load(cpu, 0, in->stack_size);
    uint64_t mask = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;

    if (in->stack_size > 2)
        mask |= RFLAGS_AC | RFLAGS_ID;
    if (cpu_in_vm86(cpu)) {
        if (iopl(cpu) == 3) {
            mask |= RFLAGS_IF;
        } else {
            if (!(cpu->cr4 & CR4_VME) || in->stack_size != 2 || flags & RFLAGS_TF ||
                (flags & RFLAGS_IF && cpu->rflags & RFLAGS_VIP))
                raise_gp(cpu);
            mask |= RFLAGS_VIF;
            flags = (flags & ~(uint64_t)RFLAGS_VIF) | (flags & RFLAGS_IF ? RFLAGS_VIF : 0);
        }
    } else {
        if (cpu->cpl <= iopl(cpu))
            mask |= RFLAGS_IF;
        if (cpu->cpl == 0)
            mask |= RFLAGS_IOPL;
    }
    stack_move(cpu, in->stack_size);
    cpu->rflags = (cpu->rflags & ~(mask | RFLAGS_RF)) | (flags & mask) | RFLAGS_FIXED;
    cpu_update_derived(cpu);
}

static void run_clac(struct cpu *cpu, const struct insn *in)
{
    if (cpu->cpl)
        cpu_raise(cpu, EXC_UD);
    cpu->rflags &= ~(uint64_t)RFLAGS_AC;
    if (in->mnemonic == ZYDIS_MNEMONIC_STAC)
        cpu->rflags |= RFLAGS_AC;
    cpu_update_derived(cpu);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void run_hlt(struct cpu *cpu, const struct insn *in)
{
    require_cpl0(cpu);
    cpu->activity = CPU_HALTED;
}

static void line_read(struct cpu *cpu, uint64_t line[8])
{
    for (unsigned i = 0; i < 8; i++)
        line[i] = cpu_phys_read(cpu, cpu->monitor_address + 8 * i, 8);
}

static void run_monitor(struct cpu *cpu, const struct insn *in)
{
    struct mmu_translation t;
    uint64_t line[8];
    uint32_t error;
    gva linear;

    if (cpu->cpl)
        cpu_raise(cpu, EXC_UD);
    if ((uint32_t)cpu->gpr[GPR_RCX])
        raise_gp(cpu);
    linear = segment_linear(cpu, override_segment(in), rax_offset(cpu, in), 1, MMU_READ);
    mmu_probe(cpu, linear, 1, cpu->mmu_mode, MMU_READ);
    if (mmu_walk(cpu, linear, cpu->mmu_mode, MMU_READ, false, &t, &error) < 0)
        return; /* gone since: not armed */
    cpu->monitor_address = t.address & ~UINT64_C(63);
    line_read(cpu, line);
    memcpy(cpu->monitor_line, line, sizeof(line));
    cpu->monitor_armed = true;
}

static void run_mwait(struct cpu *cpu, const struct insn *in)
{
    uint32_t extensions = (uint32_t)cpu->gpr[GPR_RCX];
    uint32_t wake = CPU_EVENT_UNHALT | CPU_EVENT_EXIT | CPU_EVENT_WAKE | CPU_EVENT_FLUSH;
    uint64_t line[8], slept = 0, slice = mwait_first;

    if (cpu->cpl)
        cpu_raise(cpu, EXC_UD);
    if (extensions & ~1u)
        raise_gp(cpu);
    if (!cpu->monitor_armed)
        return;
    cpu->monitor_armed = false;
    /* What cannot be taken does not wake; ECX bit 0 makes masked interrupts wake too. */
    if (!(cpu->rflags & RFLAGS_IF) && !(extensions & 1))
        wake &= ~(uint32_t)CPU_EVENT_INTR;
    if (cpu->nmi_blocked)
        wake &= ~(uint32_t)CPU_EVENT_NMI;
    if (cpu->in_smm)
        wake &= ~(uint32_t)(CPU_EVENT_SMI | CPU_EVENT_INIT);
    while (!(cpu->events & wake) && slept < mwait_limit) {
        line_read(cpu, line);
        if (memcmp(line, cpu->monitor_line, sizeof(line)))
            break;
        cpu_sleep_for(cpu, wake, slice);
        slept += slice;
        slice = MIN(2 * slice, mwait_longest);
    }
    cpu_retract(cpu, CPU_EVENT_WAKE);
}

/* ---- ports, SMM ----------------------------------------------------------------------------- */

static uint16_t port_of(const struct cpu *cpu, const struct insn_operand *op, uint64_t imm)
{
    return op->kind == OPERAND_IMM ? (uint8_t)imm : (uint16_t)cpu->gpr[GPR_RDX];
}

static void run_in(struct cpu *cpu, const struct insn *in)
{
    uint16_t port = port_of(cpu, &in->op[1], in->imm);
    unsigned size = in->op[0].size;

    io_check(cpu, port, size);
    reg_write(cpu, GPR_RAX, io_read(cpu, port, size), size);
}

static void run_out(struct cpu *cpu, const struct insn *in)
{
    uint16_t port = port_of(cpu, &in->op[0], in->imm);
    unsigned size = in->op[1].size;

    io_check(cpu, port, size);
    io_write(cpu, port, reg_read(cpu, GPR_RAX, size), size);
}

static void run_rsm(struct cpu *cpu, const struct insn *in)
{
    if (!cpu->in_smm)
        cpu_raise(cpu, EXC_UD);
    if (!smm_leave(cpu))
        cpu->activity = CPU_SHUTDOWN;
}

const struct insn_row insn_system[] = {
    {ZYDIS_MNEMONIC_LGDT, run_lgdt},
    {ZYDIS_MNEMONIC_LIDT, run_lidt},
    {ZYDIS_MNEMONIC_SGDT, run_sgdt},
    {ZYDIS_MNEMONIC_SIDT, run_sidt},
    {ZYDIS_MNEMONIC_LLDT, run_lldt},
    {ZYDIS_MNEMONIC_SLDT, run_sldt},
    {ZYDIS_MNEMONIC_LTR, run_ltr},
    {ZYDIS_MNEMONIC_STR, run_str},
    {ZYDIS_MNEMONIC_LMSW, run_lmsw},
    {ZYDIS_MNEMONIC_SMSW, run_smsw},
    {ZYDIS_MNEMONIC_LAR, run_lar},
    {ZYDIS_MNEMONIC_LSL, run_lsl},
    {ZYDIS_MNEMONIC_VERR, run_verr},
    {ZYDIS_MNEMONIC_VERW, run_verw},
    {ZYDIS_MNEMONIC_ARPL, run_arpl},
    {ZYDIS_MNEMONIC_MOV, run_mov},
    {ZYDIS_MNEMONIC_CLTS, run_clts},
    {ZYDIS_MNEMONIC_XGETBV, run_xgetbv},
    {ZYDIS_MNEMONIC_XSETBV, run_xsetbv},
    {ZYDIS_MNEMONIC_INVLPG, run_invlpg},
    {ZYDIS_MNEMONIC_INVPCID, run_invpcid},
    {ZYDIS_MNEMONIC_INVD, run_wbinvd},
    {ZYDIS_MNEMONIC_WBINVD, run_wbinvd},
    {ZYDIS_MNEMONIC_CLFLUSH, run_clflush},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, run_clflush},
    {ZYDIS_MNEMONIC_CLWB, run_clflush},
    {ZYDIS_MNEMONIC_CLZERO, run_clzero},
    {ZYDIS_MNEMONIC_LFENCE, run_fence},
    {ZYDIS_MNEMONIC_SFENCE, run_fence},
    {ZYDIS_MNEMONIC_MFENCE, run_fence},
    {ZYDIS_MNEMONIC_SERIALIZE, run_fence},
    {ZYDIS_MNEMONIC_RDMSR, run_rdmsr},
    {ZYDIS_MNEMONIC_WRMSR, run_wrmsr},
    {ZYDIS_MNEMONIC_RDTSC, run_rdtsc},
    {ZYDIS_MNEMONIC_RDTSCP, run_rdtsc},
    {ZYDIS_MNEMONIC_RDPMC, run_rdpmc},
    {ZYDIS_MNEMONIC_RDPID, run_rdpid},
    {ZYDIS_MNEMONIC_CPUID, run_cpuid},
    {ZYDIS_MNEMONIC_RDRAND, run_random},
    {ZYDIS_MNEMONIC_RDSEED, run_random},
    {ZYDIS_MNEMONIC_SYSCALL, run_syscall},
    {ZYDIS_MNEMONIC_SYSRET, run_sysret},
    {ZYDIS_MNEMONIC_SYSENTER, run_sysenter},
    {ZYDIS_MNEMONIC_SYSEXIT, run_sysexit},
    {ZYDIS_MNEMONIC_SWAPGS, run_swapgs},
    {ZYDIS_MNEMONIC_RDFSBASE, run_rdbase},
    {ZYDIS_MNEMONIC_RDGSBASE, run_rdbase},
    {ZYDIS_MNEMONIC_WRFSBASE, run_wrbase},
    {ZYDIS_MNEMONIC_WRGSBASE, run_wrbase},
    {ZYDIS_MNEMONIC_CLI, run_cli},
    {ZYDIS_MNEMONIC_STI, run_sti},
    {ZYDIS_MNEMONIC_PUSHF, run_pushf},
    {ZYDIS_MNEMONIC_PUSHFD, run_pushf},
    {ZYDIS_MNEMONIC_PUSHFQ, run_pushf},
    {ZYDIS_MNEMONIC_POPF, run_popf},
    {ZYDIS_MNEMONIC_POPFD, run_popf},
    {ZYDIS_MNEMONIC_POPFQ, run_popf},
    {ZYDIS_MNEMONIC_CLAC, run_clac},
    {ZYDIS_MNEMONIC_STAC, run_clac},
    {ZYDIS_MNEMONIC_HLT, run_hlt},
    {ZYDIS_MNEMONIC_MONITOR, run_monitor},
    {ZYDIS_MNEMONIC_MWAIT, run_mwait},
    {ZYDIS_MNEMONIC_IN, run_in},
    {ZYDIS_MNEMONIC_OUT, run_out},
    {ZYDIS_MNEMONIC_RSM, run_rsm},
    {ZYDIS_MNEMONIC_INVALID, NULL},
};
