/*
 * far.c - far transfers and segment registers: JMP, CALL, RET far, INT n, IRET, MOV, PUSH and POP
 * of segment registers, LDS and its kin.
 *
 * Each checks the target whole, then touches the stack, then commits. Faults carry the selector
 * the manual names for each check; the order of the checks is the manual's.
 */
#include "interp/protect.h"

#include "x86/model.h"

enum { RFLAGS_ALWAYS = RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT };

static bool real_or_vm86(const struct cpu *cpu)
{
    return !cpu_protected(cpu) || cpu_in_vm86(cpu);
}

static unsigned iopl(const struct cpu *cpu)
{
    return cpu->rflags >> 12 & 3;
}

/* RIP of a transfer must lie in the segment it goes to. */
static void check_target(struct cpu *cpu, const struct segment *cs, uint64_t rip)
{
    if (cpu_long_mode(cpu) && cs->attr & ATTR_L ? !cpu_is_canonical(cpu, rip) : rip > cs->limit)
        cpu_raise_error(cpu, EXC_GP, 0);
}

/* A code descriptor of long mode may not be 64-bit and 32-bit at once. */
static bool bad_long_code(const struct cpu *cpu, const struct descriptor *d)
{
    return cpu_long_mode(cpu) && (descriptor_attr(d) & (ATTR_L | ATTR_DB)) == (ATTR_L | ATTR_DB);
}

/* ---- JMP and CALL --------------------------------------------------------------------------- */

/* Of the offset of a far pointer in memory. AMD's have none of 64 bits: REX.W leaves the pointer
 * at 16:32 there, though CALL then pushes 8 bytes each (seen on a Zen 4). */
static unsigned pointer_size(const struct cpu *cpu, const struct insn *in)
{
    return in->operand_size == 8 && cpu_is_amd(cpu) ? 4 : in->operand_size;
}

struct far_target {
    uint16_t selector;
    uint64_t offset;
};

static struct far_target far_operand(struct cpu *cpu, const struct insn *in)
{
    struct far_target t = {(uint16_t)in->imm2, in->imm};
    unsigned size = pointer_size(cpu, in);
    uint64_t offset;

    if (in->op[0].kind == OPERAND_MEM) {
        offset = insn_offset(cpu, in);
        t.offset = segment_load(cpu, in->segment, offset, size);
        offset += size;
        if (in->address_size < 8)
            offset &= size_mask(in->address_size);
        t.selector = (uint16_t)segment_load(cpu, in->segment, offset, 2);
    }
    t.offset &= size_mask(size);
    return t;
}

static void push_return(struct cpu *cpu, struct stack *st, unsigned size)
{
    stack_push_to(cpu, st, cpu->seg[SEG_CS].selector, size);
    stack_push_to(cpu, st, cpu->next_rip, size);
}

static void far_real(struct cpu *cpu, const struct insn *in, struct far_target t, bool call)
{
    struct stack st;

    if (t.offset > (cpu_in_vm86(cpu) ? 0xffff : cpu->seg[SEG_CS].limit))
        cpu_raise_error(cpu, EXC_GP, 0);
    if (call) {
        st = stack_current(cpu, false);
        push_return(cpu, &st, in->operand_size);
        stack_commit(cpu, &st);
    }
    segment_set_real(cpu, SEG_CS, t.selector);
    cpu->next_rip = t.offset;
    cpu_update_derived(cpu);
}

/* Straight to a code segment: the same privilege level. */
static void far_code(struct cpu *cpu, const struct insn *in, struct far_target t,
                     struct descriptor *d, bool call)
{
    struct segment cs = descriptor_segment(t.selector, d);
    struct stack st = stack_current(cpu, false);

    if (!descriptor_is_code(d) || bad_long_code(cpu, d))
        raise_selector(cpu, EXC_GP, t.selector, false);
    if (descriptor_is_conforming(d)
            ? descriptor_dpl(d) > cpu->cpl
            : (t.selector & SELECTOR_RPL) > cpu->cpl || descriptor_dpl(d) != cpu->cpl)
        raise_selector(cpu, EXC_GP, t.selector, false);
    if (!descriptor_present(d))
        raise_selector(cpu, EXC_NP, t.selector, false);
    check_target(cpu, &cs, t.offset);
    if (call)
        push_return(cpu, &st, in->operand_size);
    code_segment_commit(cpu, t.selector, d, cpu->cpl);
    if (call)
        stack_commit(cpu, &st);
    cpu->next_rip = t.offset;
    cpu_update_derived(cpu);
}

/* The stack of the inner level a call gate leads to, with what is pushed before CS and RIP. */
static struct stack gate_inner_stack(struct cpu *cpu, const struct descriptor *gate, unsigned size,
                                     unsigned cpl)
{
    unsigned parameters = size == 8 ? 0 : gate->high & 0x1f;
    uint32_t copy[31];
    struct stack st;

    if (size == 8)
        st = (struct stack){.ss = segment_null((uint16_t)cpl, cpl),
                            .sp = stack_from_tss64(cpu, cpl, false),
                            .width = 8,
                            .mode = mmu_mode_of(cpu, cpl)};
    else
        stack_from_tss(cpu, cpl, false, &st);
    for (unsigned i = 0; i < parameters; i++)
        copy[i] = (uint32_t)stack_load(cpu, i * size, size);
    stack_push_to(cpu, &st, cpu->seg[SEG_SS].selector, size);
    stack_push_to(cpu, &st, cpu->gpr[GPR_RSP], size);
    while (parameters)
        stack_push_to(cpu, &st, copy[--parameters], size);
    return st;
}

static void far_gate(struct cpu *cpu, uint16_t gate_selector, struct descriptor *gate, bool call)
{
    uint16_t selector = (uint16_t)(gate->low >> 16);
    uint64_t target = gate->low & 0xffff;
    unsigned size = descriptor_kind(gate) == TYPE_CALL16 ? 2 : 4, cpl = cpu->cpl;
    struct descriptor d;
    struct segment cs;
    struct stack st;
    bool inner;

    if (descriptor_dpl(gate) < cpl || descriptor_dpl(gate) < (gate_selector & SELECTOR_RPL))
        raise_selector(cpu, EXC_GP, gate_selector, false);
    if (cpu_long_mode(cpu)) {
        if (!descriptor_load_upper(cpu, gate_selector, gate))
            raise_selector(cpu, EXC_GP, gate_selector, false);
        size = 8;
        target |= (uint64_t)(uint32_t)gate->upper << 32;
    }
    if (!descriptor_present(gate))
        raise_selector(cpu, EXC_NP, gate_selector, false);
    if (size > 2)
        target |= gate->high & 0xffff0000;
    if (selector_null(selector))
        cpu_raise_error(cpu, EXC_GP, 0);
    if (!descriptor_load(cpu, selector, &d) || !descriptor_is_code(&d) || descriptor_dpl(&d) > cpl)
        raise_selector(cpu, EXC_GP, selector, false);
    inner = !descriptor_is_conforming(&d) && descriptor_dpl(&d) < cpl;
    if (!call && inner)
        raise_selector(cpu, EXC_GP, selector, false);
    if (size == 8 && (descriptor_attr(&d) & (ATTR_L | ATTR_DB)) != ATTR_L)
        raise_selector(cpu, EXC_GP, selector, false);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_NP, selector, false);
    if (inner)
        cpl = descriptor_dpl(&d);
    cs = descriptor_segment(selector, &d);
    st = stack_current(cpu, false);
    if (call) {
        if (size == 8)
            st.width = 8; /* compatibility mode: the gate makes it 64-bit */
        if (inner)
            st = gate_inner_stack(cpu, gate, size, cpl);
        push_return(cpu, &st, size);
    }
    check_target(cpu, &cs, target);
    code_segment_commit(cpu, selector, &d, cpl);
    if (call)
        stack_commit(cpu, &st);
    cpu->next_rip = target;
    cpu_update_derived(cpu);
}

static void far_transfer(struct cpu *cpu, const struct insn *in, bool call)
{
    struct far_target t = far_operand(cpu, in);
    enum task_source source = call ? TASK_CALL : TASK_JMP;
    struct descriptor d;
    unsigned kind;

    if (real_or_vm86(cpu)) {
        far_real(cpu, in, t, call);
        return;
    }
    if (selector_null(t.selector))
        cpu_raise_error(cpu, EXC_GP, 0);
    if (!descriptor_load(cpu, t.selector, &d))
        raise_selector(cpu, EXC_GP, t.selector, false);
    kind = descriptor_kind(&d);
    if (kind & ATTR_S) {
        far_code(cpu, in, t, &d, call);
        return;
    }
    if (kind == TYPE_CALL32 || (kind == TYPE_CALL16 && !cpu_long_mode(cpu))) {
        far_gate(cpu, t.selector, &d, call);
        return;
    }
    if (cpu_long_mode(cpu) ||
        (kind != TYPE_TASK_GATE && kind != TYPE_TSS16 && kind != TYPE_TSS32) ||
        descriptor_dpl(&d) < cpu->cpl || descriptor_dpl(&d) < (t.selector & SELECTOR_RPL))
        raise_selector(cpu, EXC_GP, t.selector, false);
    if (kind == TYPE_TASK_GATE) {
        if (!descriptor_present(&d))
            raise_selector(cpu, EXC_NP, t.selector, false);
        task_gate(cpu, &d, source, false, 0, cpu->next_rip, false);
    } else {
        task_switch(cpu, t.selector, source, false, 0, cpu->next_rip, false);
    }
}

static void run_jmp(struct cpu *cpu, const struct insn *in)
{
    far_transfer(cpu, in, false);
}

static void run_call(struct cpu *cpu, const struct insn *in)
{
    far_transfer(cpu, in, true);
}

/* ---- RET and IRET --------------------------------------------------------------------------- */

/* The code segment a far return goes to: all checks. */
static void return_code_get(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
    unsigned rpl = selector & SELECTOR_RPL;

    if (selector_null(selector))
        cpu_raise_error(cpu, EXC_GP, 0);
    if (!descriptor_load(cpu, selector, d) || !descriptor_is_code(d) || rpl < cpu->cpl ||
        bad_long_code(cpu, d) ||
        (descriptor_is_conforming(d) ? descriptor_dpl(d) > rpl : descriptor_dpl(d) != rpl))
        raise_selector(cpu, EXC_GP, selector, false);
    if (!descriptor_present(d))
        raise_selector(cpu, EXC_NP, selector, false);
}

/* The stack segment a return to level `cpl` takes with it. */
static struct segment return_stack_get(struct cpu *cpu, uint16_t selector, unsigned cpl,
                                       bool to_64bit)
{
    struct descriptor d;

    if (selector_null(selector)) {
        if (to_64bit && cpl != 3 && (selector & SELECTOR_RPL) == cpl)
            return segment_null(selector, cpl);
        cpu_raise_error(cpu, EXC_GP, 0);
    }
    if (!descriptor_load(cpu, selector, &d) || (selector & SELECTOR_RPL) != cpl ||
        !descriptor_is_writable_data(&d) || descriptor_dpl(&d) != cpl)
        raise_selector(cpu, EXC_GP, selector, false);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_SS, selector, false);
    descriptor_accessed(cpu, &d);
    return descriptor_segment(selector, &d);
}

/* Load SP in the width the new stack has: a 16-bit one keeps the rest of ESP. */
static void return_sp_set(struct cpu *cpu, uint64_t sp, bool to_64bit)
{
    uint64_t *rsp = &cpu->gpr[GPR_RSP];

    if (to_64bit)
        *rsp = sp;
    else if (cpu->seg[SEG_SS].attr & ATTR_DB)
        *rsp = (uint32_t)sp;
    else
        *rsp = (*rsp & ~UINT64_C(0xffff)) | (sp & 0xffff);
}

/* The end of RET and IRET: CS:RIP, and SS:RSP when `with_stack`; then the data segments. */
static void return_commit(struct cpu *cpu, uint16_t selector, struct descriptor *d, uint64_t rip,
                          bool with_stack, const struct segment *ss, uint64_t sp)
{
    unsigned cpl = selector & SELECTOR_RPL, old = cpu->cpl;
    bool to_64bit;

    code_segment_commit(cpu, selector, d, cpl);
    to_64bit = cpu_long_mode(cpu) && cpu->seg[SEG_CS].attr & ATTR_L;
    if (with_stack) {
        cpu->seg[SEG_SS] = *ss;
        return_sp_set(cpu, sp, to_64bit);
    }
    cpu->next_rip = rip;
    cpu_update_derived(cpu);
    if (cpl > old)
        data_segments_revalidate(cpu);
}

static void run_ret(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->operand_size;
    uint64_t extra = in->op[0].kind == OPERAND_IMM ? (uint16_t)in->imm : 0, sp = 0;
    uint64_t rip = stack_load(cpu, 0, size);
    uint16_t selector = (uint16_t)stack_load(cpu, size, size);
    struct segment cs, ss = {0};
    struct descriptor d;
    bool outer, to_64bit;

    if (real_or_vm86(cpu)) {
        if (rip > (cpu_in_vm86(cpu) ? 0xffff : cpu->seg[SEG_CS].limit))
            cpu_raise_error(cpu, EXC_GP, 0);
        stack_move(cpu, (int64_t)(2 * size + extra));
        segment_set_real(cpu, SEG_CS, selector);
        cpu->next_rip = rip;
        cpu_update_derived(cpu);
        return;
    }
    return_code_get(cpu, selector, &d);
    cs = descriptor_segment(selector, &d);
    to_64bit = cpu_long_mode(cpu) && cs.attr & ATTR_L;
    outer = (selector & SELECTOR_RPL) > cpu->cpl;
    if (outer) {
        unsigned depth = (unsigned)(2 * size + extra);

        sp = stack_load(cpu, depth, size) + extra;
        ss = return_stack_get(cpu, (uint16_t)stack_load(cpu, depth + size, size),
                              selector & SELECTOR_RPL, to_64bit);
    }
    check_target(cpu, &cs, rip);
    descriptor_accessed(cpu, &d); /* the last thing that may fault */
    if (!outer)
        stack_move(cpu, (int64_t)(2 * size + extra));
    return_commit(cpu, selector, &d, rip, outer, &ss, sp);
}

/* Flags that IRET at this level may change; the rest stays. */
static void return_flags_set(struct cpu *cpu, uint64_t flags, unsigned size, unsigned cpl)
{
    uint64_t mask = RFLAGS_ALWAYS;

    if (cpl <= iopl(cpu))
        mask |= RFLAGS_IF;
    if (cpl == 0)
        mask |= RFLAGS_IOPL;
    if (size > 2) {
        mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
        if (cpl == 0 && cpu_protected(cpu))
            mask |= RFLAGS_VIF | RFLAGS_VIP;
    }
    cpu->rflags = (cpu->rflags & ~mask) | (flags & mask) | RFLAGS_FIXED;
}

static void iret_real(struct cpu *cpu, unsigned size)
{
    uint64_t rip = stack_load(cpu, 0, size), flags = stack_load(cpu, 2 * size, size);
    uint16_t selector = (uint16_t)stack_load(cpu, size, size);
    bool virtual_if = false;

    if (cpu_in_vm86(cpu) && iopl(cpu) < 3) {
        if (!(cpu->cr4 & CR4_VME) || size > 2 || flags & RFLAGS_TF ||
            (flags & RFLAGS_IF && cpu->rflags & RFLAGS_VIP))
            cpu_raise_error(cpu, EXC_GP, 0);
        virtual_if = true;
    }
    if (rip > (cpu_in_vm86(cpu) ? 0xffff : cpu->seg[SEG_CS].limit))
        cpu_raise_error(cpu, EXC_GP, 0);
    stack_move(cpu, 3 * (int)size);
    segment_set_real(cpu, SEG_CS, selector);
    cpu->next_rip = rip;
    return_flags_set(cpu, flags, size, cpu->cpl);
    if (virtual_if) {
        cpu->rflags &= ~(uint64_t)RFLAGS_VIF;
        if (flags & RFLAGS_IF)
            cpu->rflags |= RFLAGS_VIF;
    }
    cpu_update_derived(cpu);
}

static void iret_to_vm86(struct cpu *cpu, uint64_t rip, uint16_t cs, uint64_t flags)
{
    static const enum segment_name order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t sp = stack_load(cpu, 12, 4);
    uint16_t selector[ARRAY_SIZE(order)];

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        selector[i] = (uint16_t)stack_load(cpu, 16 + 4 * i, 4);
    if (rip > 0xffff)
        cpu_raise_error(cpu, EXC_GP, 0);
    return_flags_set(cpu, flags, 4, 0);
    cpu->rflags |= RFLAGS_VM;
    segment_set_real(cpu, SEG_CS, cs);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        segment_set_real(cpu, order[i], selector[i]);
    cpu->gpr[GPR_RSP] = sp;
    cpu->next_rip = rip;
    cpu_update_derived(cpu);
}

static void iret_task(struct cpu *cpu)
{
    uint16_t link;

    if (cpu_long_mode(cpu))
        cpu_raise_error(cpu, EXC_GP, 0);
    link = (uint16_t)mmu_load(cpu, cpu->tr.base, 2, mmu_system_mode(cpu));
    task_switch(cpu, link, TASK_IRET, false, 0, cpu->next_rip, false);
}

static void iret_protected(struct cpu *cpu, unsigned size)
{
    uint64_t rip = stack_load(cpu, 0, size), flags = stack_load(cpu, 2 * size, size), sp = 0;
    uint16_t selector = (uint16_t)stack_load(cpu, size, size);
    unsigned cpl = cpu->cpl;
    bool from_64bit = cpu->code_size == 8, to_64bit, with_stack;
    struct segment cs, ss = {0};
    struct descriptor d;

    if (flags & RFLAGS_VM && size == 4 && cpl == 0 && !cpu_long_mode(cpu)) {
        iret_to_vm86(cpu, rip, selector, flags);
        return;
    }
    return_code_get(cpu, selector, &d);
    cs = descriptor_segment(selector, &d);
    to_64bit = cpu_long_mode(cpu) && cs.attr & ATTR_L;
    with_stack = from_64bit || (selector & SELECTOR_RPL) > cpl;
    if (with_stack) {
        sp = stack_load(cpu, 3 * size, size);
        ss = return_stack_get(cpu, (uint16_t)stack_load(cpu, 4 * size, size),
                              selector & SELECTOR_RPL, to_64bit);
    }
    check_target(cpu, &cs, rip);
    descriptor_accessed(cpu, &d); /* the last thing that may fault */
    if (!with_stack)
        stack_move(cpu, 3 * (int)size);
    return_flags_set(cpu, flags, size, cpl);
    return_commit(cpu, selector, &d, rip, with_stack, &ss, sp);
}

static void run_iret(struct cpu *cpu, const struct insn *in)
{
    cpu->nmi_blocked = false; /* also when it faults */
    if (real_or_vm86(cpu))
        iret_real(cpu, in->operand_size);
    else if (cpu->rflags & RFLAGS_NT)
        iret_task(cpu);
    else
        iret_protected(cpu, in->operand_size);
}

/* ---- INT ------------------------------------------------------------------------------------ */

/* INT n in virtual-8086 mode under VME: does the TSS's bitmap keep it in the 8086 program? */
static bool redirected(struct cpu *cpu, uint8_t vector)
{
    enum mmu_mode mode = mmu_system_mode(cpu);
    uint32_t at;

    if (cpu->tr.limit < 0x67)
        cpu_raise_error(cpu, EXC_GP, 0);
    at = (uint32_t)mmu_load(cpu, cpu->tr.base + 0x66, 2, mode);
    if (at < 32 || at - 32 + vector / 8 > cpu->tr.limit)
        cpu_raise_error(cpu, EXC_GP, 0);
    return !(mmu_load(cpu, cpu->tr.base + at - 32 + vector / 8, 1, mode) >> vector % 8 & 1);
}

static void int_in_vm86(struct cpu *cpu, uint8_t vector)
{
    uint64_t flags = cpu->rflags & ~(uint64_t)RFLAGS_RF, clear = RFLAGS_TF | RFLAGS_RF;
    struct stack st = stack_current(cpu, false);
    uint32_t target = (uint32_t)mmu_load(cpu, vector * 4u, 4, cpu->mmu_mode);

    if (iopl(cpu) < 3) {
        flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL;
        if (flags & RFLAGS_VIF)
            flags |= RFLAGS_IF;
        clear |= RFLAGS_VIF;
    } else {
        clear |= RFLAGS_IF;
    }
    stack_push_to(cpu, &st, flags, 2);
    push_return(cpu, &st, 2);
    stack_commit(cpu, &st);
    cpu->rflags &= ~clear;
    segment_set_real(cpu, SEG_CS, (uint16_t)(target >> 16));
    cpu->next_rip = target & 0xffff;
    cpu_update_derived(cpu);
}

static void run_int(struct cpu *cpu, const struct insn *in)
{
    uint8_t vector = (uint8_t)in->imm;

    if (cpu_in_vm86(cpu)) {
        if (cpu->cr4 & CR4_VME && redirected(cpu, vector)) {
            int_in_vm86(cpu, vector);
            return;
        }
        if (iopl(cpu) < 3)
            cpu_raise_error(cpu, EXC_GP, 0);
    }
    interrupt_transfer(cpu, vector, INTERRUPT_SOFTWARE, false, 0, cpu->next_rip);
}

static void run_int3(struct cpu *cpu, const struct insn *in)
{
    interrupt_transfer(cpu, EXC_BP, INTERRUPT_INT3, false, 0, cpu->next_rip);
}

static void run_int1(struct cpu *cpu, const struct insn *in)
{
    interrupt_transfer(cpu, EXC_DB, INTERRUPT_ICEBP, false, 0, cpu->next_rip);
}

static void run_into(struct cpu *cpu, const struct insn *in)
{
    if (cpu->rflags & RFLAGS_OF)
        interrupt_transfer(cpu, EXC_OF, INTERRUPT_INT3, false, 0, cpu->next_rip);
}

/* ---- segment registers ---------------------------------------------------------------------- */

static void run_mov(struct cpu *cpu, const struct insn *in)
{
    if (in->opcode == 0x8c) {
        operand_write(cpu, in, 0, cpu->seg[in->op[1].reg].selector);
        return;
    }
    if (in->op[0].reg == SEG_CS)
        cpu_raise(cpu, EXC_UD);
    segment_set(cpu, in->op[0].reg, (uint16_t)operand_read(cpu, in, 1));
    if (in->op[0].reg == SEG_SS)
        cpu->movss_shadow = true;
}

/* A 32-bit push writes two bytes of the four on Intel's, zero-extends on AMD's; with 64 bits both
 * zero-extend. */
static void run_push(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->stack_size == 4 && !cpu_is_amd(cpu) ? 2 : in->stack_size;

    stack_store(cpu, in->stack_size, cpu->seg[in->op[0].reg].selector, size);
    stack_move(cpu, -(int64_t)in->stack_size);
}

static void run_pop(struct cpu *cpu, const struct insn *in)
{
    uint16_t selector = (uint16_t)stack_load(cpu, 0, in->stack_size);
    uint64_t before = cpu->gpr[GPR_RSP], after;

    stack_move(cpu, in->stack_size); /* in the width of the old SS */
    after = cpu->gpr[GPR_RSP];
    cpu->gpr[GPR_RSP] = before;
    segment_set(cpu, in->op[0].reg, selector);
    cpu->gpr[GPR_RSP] = after;
    if (in->op[0].reg == SEG_SS)
        cpu->movss_shadow = true;
}

static void load_far_pointer(struct cpu *cpu, const struct insn *in, enum segment_name seg)
{
    unsigned size = pointer_size(cpu, in);
    uint64_t offset = insn_offset(cpu, in), value = segment_load(cpu, in->segment, offset, size);

    offset += size;
    if (in->address_size < 8)
        offset &= size_mask(in->address_size);
    segment_set(cpu, seg, (uint16_t)segment_load(cpu, in->segment, offset, 2));
    reg_write(cpu, in->op[0].reg, value, size);
}

static void run_lds(struct cpu *cpu, const struct insn *in)
{
    load_far_pointer(cpu, in, SEG_DS);
}

static void run_les(struct cpu *cpu, const struct insn *in)
{
    load_far_pointer(cpu, in, SEG_ES);
}

static void run_lfs(struct cpu *cpu, const struct insn *in)
{
    load_far_pointer(cpu, in, SEG_FS);
}

static void run_lgs(struct cpu *cpu, const struct insn *in)
{
    load_far_pointer(cpu, in, SEG_GS);
}

static void run_lss(struct cpu *cpu, const struct insn *in)
{
    load_far_pointer(cpu, in, SEG_SS);
}

const struct insn_row insn_far[] = {
    {ZYDIS_MNEMONIC_JMP, run_jmp},    {ZYDIS_MNEMONIC_CALL, run_call},
    {ZYDIS_MNEMONIC_RET, run_ret},    {ZYDIS_MNEMONIC_IRET, run_iret},
    {ZYDIS_MNEMONIC_IRETD, run_iret}, {ZYDIS_MNEMONIC_IRETQ, run_iret},
    {ZYDIS_MNEMONIC_INT, run_int},    {ZYDIS_MNEMONIC_INT3, run_int3},
    {ZYDIS_MNEMONIC_INT1, run_int1},  {ZYDIS_MNEMONIC_INTO, run_into},
    {ZYDIS_MNEMONIC_MOV, run_mov},    {ZYDIS_MNEMONIC_PUSH, run_push},
    {ZYDIS_MNEMONIC_POP, run_pop},    {ZYDIS_MNEMONIC_LDS, run_lds},
    {ZYDIS_MNEMONIC_LES, run_les},    {ZYDIS_MNEMONIC_LFS, run_lfs},
    {ZYDIS_MNEMONIC_LGS, run_lgs},    {ZYDIS_MNEMONIC_LSS, run_lss},
    {ZYDIS_MNEMONIC_INVALID, NULL},
};
