/*
 * exceptions.c - delivery of exceptions and interrupts; descriptors, stacks and segment registers,
 * which far transfers share with it; the I/O permission check.
 *
 * A delivery commits registers only when nothing can fault any more, so that a fault in it finds
 * the interrupted state whole and the double-fault rule can be applied by starting over. The
 * stack frame may be half written by then: it lies below the stack pointer. Task switches are the
 * exception the manual makes: their late faults belong to the new task.
 *
 * CPL is SS.DPL, as in VMX: whoever loads SS, a null one too, gives it the right DPL.
 */
#include "interp/exceptions.h"

#include "interp/protect.h"

#include <setjmp.h>

/* ---- descriptors ---------------------------------------------------------------------------- */

static bool table_find(const struct cpu *cpu, uint16_t selector, unsigned size, gva *where)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;

    if (selector & SELECTOR_TI) {
        if (cpu->ldtr.attr & ATTR_NULL || !(cpu->ldtr.attr & ATTR_P))
            return false;
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if ((selector & ~7u) + size - 1 > limit)
        return false;
    *where = base + (selector & ~7u);
    if (!cpu_long_mode(cpu))
        *where &= UINT32_MAX;
    return true;
}

bool descriptor_load(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
    uint64_t value;

    if (!table_find(cpu, selector, 8, &d->where))
        return false;
    value = mmu_load(cpu, d->where, 8, mmu_system_mode(cpu));
    d->low = (uint32_t)value;
    d->high = (uint32_t)(value >> 32);
    d->upper = 0;
    return true;
}

bool descriptor_load_upper(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
    gva where;

    if (!table_find(cpu, selector, 16, &where))
        return false;
    d->upper = mmu_load(cpu, where + 8, 8, mmu_system_mode(cpu));
    return (d->upper >> 40 & 0x1f) == 0;
}

void descriptor_change(struct cpu *cpu, struct descriptor *d, uint32_t set, uint32_t clear)
{
    for (;;) {
        uint32_t desired = (d->high | set) & ~clear;

        if (linear_compare_exchange(cpu, d->where + 4, &d->high, &desired, 4,
                                    mmu_system_mode(cpu))) {
            d->high = desired;
            return;
        }
    }
}

void descriptor_accessed(struct cpu *cpu, struct descriptor *d)
{
    if (!(d->high >> 8 & ATTR_ACCESSED))
        descriptor_change(cpu, d, ATTR_ACCESSED << 8, 0);
}

struct segment descriptor_segment(uint16_t selector, const struct descriptor *d)
{
    struct segment s = {.selector = selector, .attr = descriptor_attr(d)};

    s.base = (d->low >> 16) | (d->high & 0xff) << 16 | (d->high & 0xff000000) |
             (uint64_t)(uint32_t)d->upper << 32;
    s.limit = (d->low & 0xffff) | (d->high & 0xf0000);
    if (s.attr & ATTR_G)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

struct segment segment_null(uint16_t selector, unsigned dpl)
{
    return (struct segment){.selector = selector, .attr = ATTR_NULL | dpl << ATTR_DPL_SHIFT};
}

bool segment_contains(const struct segment *s, uint64_t offset, unsigned size)
{
    uint64_t last = offset + size - 1;

    if ((s->attr & (ATTR_S | ATTR_CODE | ATTR_DOWN)) == (ATTR_S | ATTR_DOWN))
        return offset > s->limit && last <= (s->attr & ATTR_DB ? UINT32_MAX : 0xffff);
    return last <= s->limit;
}

/* ---- segment registers ---------------------------------------------------------------------- */

void segment_set_real(struct cpu *cpu, enum segment_name seg, uint16_t selector)
{
    struct segment *s = &cpu->seg[seg];
    uint32_t attr = ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_ACCESSED;

    if (cpu_in_vm86(cpu)) {
        s->limit = 0xffff;
        s->attr = attr | ATTR_DPL;
    } else {
        /* The limit and the default size stay: "unreal" mode. */
        if (s->attr & ATTR_NULL)
            s->limit = 0xffff;
        s->attr = attr | (s->attr & (ATTR_DB | ATTR_G)) | (seg == SEG_CS ? ATTR_CODE : 0);
    }
    s->selector = selector;
    s->base = (uint64_t)selector << 4;
}

static struct segment stack_segment_get(struct cpu *cpu, uint16_t selector, enum exception vector,
                                        bool ext)
{
    struct descriptor d;

    if (selector_null(selector)) {
        if (vector == EXC_GP && cpu->code_size == 8 && cpu->cpl < 3 &&
            (selector & SELECTOR_RPL) == cpu->cpl)
            return segment_null(selector, cpu->cpl);
        cpu_raise_error(cpu, vector, ext);
    }
    if (!descriptor_load(cpu, selector, &d) || (selector & SELECTOR_RPL) != cpu->cpl ||
        !descriptor_is_writable_data(&d) || descriptor_dpl(&d) != cpu->cpl)
        raise_selector(cpu, vector, selector, ext);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_SS, selector, ext);
    descriptor_accessed(cpu, &d);
    return descriptor_segment(selector, &d);
}

struct segment data_segment_get(struct cpu *cpu, enum segment_name seg, uint16_t selector,
                                enum exception vector, bool ext)
{
    struct descriptor d;
    unsigned kind;

    if (seg == SEG_SS)
        return stack_segment_get(cpu, selector, vector, ext);
    if (selector_null(selector))
        return segment_null(selector, 0);
    if (!descriptor_load(cpu, selector, &d))
        raise_selector(cpu, vector, selector, ext);
    kind = descriptor_kind(&d);
    if (!(kind & ATTR_S) || (kind & ATTR_CODE && !(kind & ATTR_READABLE)))
        raise_selector(cpu, vector, selector, ext);
    if (!descriptor_is_conforming(&d) &&
        ((selector & SELECTOR_RPL) > descriptor_dpl(&d) || cpu->cpl > descriptor_dpl(&d)))
        raise_selector(cpu, vector, selector, ext);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_NP, selector, ext);
    descriptor_accessed(cpu, &d);
    return descriptor_segment(selector, &d);
}

void segment_set(struct cpu *cpu, enum segment_name seg, uint16_t selector)
{
    if (!cpu_protected(cpu) || cpu_in_vm86(cpu))
        segment_set_real(cpu, seg, selector);
    else
        cpu->seg[seg] = data_segment_get(cpu, seg, selector, EXC_GP, false);
}

void data_segments_revalidate(struct cpu *cpu)
{
    static const enum segment_name data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (size_t i = 0; i < ARRAY_SIZE(data); i++)
        if (!segment_survives(&cpu->seg[data[i]], cpu->cpl))
            cpu->seg[data[i]] = segment_null(0, 0);
}

void code_segment_commit(struct cpu *cpu, uint16_t selector, struct descriptor *d, unsigned cpl)
{
    descriptor_accessed(cpu, d);
    cpu->seg[SEG_CS] = descriptor_segment((uint16_t)((selector & ~SELECTOR_RPL) | cpl), d);
}

/* ---- stacks --------------------------------------------------------------------------------- */

struct stack stack_current(const struct cpu *cpu, bool ext)
{
    unsigned width = cpu->code_size == 8 ? 8 : cpu->seg[SEG_SS].attr & ATTR_DB ? 4 : 2;

    return (struct stack){.ss = cpu->seg[SEG_SS],
                          .sp = cpu->gpr[GPR_RSP],
                          .width = width,
                          .mode = cpu->mmu_mode,
                          .error = ext};
}

void stack_push_to(struct cpu *cpu, struct stack *s, uint64_t value, unsigned size)
{
    uint64_t mask = size_mask(s->width), offset = (s->sp - size) & mask;
    gva linear = offset;

    if (s->width == 8) {
        if (!cpu_is_canonical(cpu, offset) || !cpu_is_canonical(cpu, offset + size - 1))
            cpu_raise_error(cpu, EXC_SS, s->error);
    } else {
        if (!segment_contains(&s->ss, offset, size))
            cpu_raise_error(cpu, EXC_SS, s->error);
        linear = (s->ss.base + offset) & UINT32_MAX;
    }
    if (cpu->rflags & RFLAGS_AC && cpu->cr0 & CR0_AM && s->mode == MMU_USER && linear & (size - 1))
        cpu_raise_error(cpu, EXC_AC, 0);
    mmu_store(cpu, linear, value, size, s->mode);
    s->sp = (s->sp & ~mask) | offset;
}

void stack_commit(struct cpu *cpu, const struct stack *s)
{
    cpu->seg[SEG_SS] = s->ss;
    cpu->gpr[GPR_RSP] = s->sp;
}

void stack_from_tss(struct cpu *cpu, unsigned cpl, bool ext, struct stack *out)
{
    bool wide = (cpu->tr.attr & ATTR_TYPE) >= TYPE_TSS32;
    uint32_t offset = wide ? 4 + 8 * cpl : 2 + 4 * cpl, sp;
    enum mmu_mode mode = mmu_system_mode(cpu);
    struct descriptor d;
    uint16_t selector;

    if (offset + (wide ? 5 : 3) > cpu->tr.limit)
        raise_selector(cpu, EXC_TS, cpu->tr.selector, ext);
    sp = (uint32_t)mmu_load(cpu, (cpu->tr.base + offset) & UINT32_MAX, wide ? 4 : 2, mode);
    selector = (uint16_t)mmu_load(cpu, (cpu->tr.base + offset + (wide ? 4 : 2)) & UINT32_MAX, 2,
                                  mode);
    if (selector_null(selector))
        cpu_raise_error(cpu, EXC_TS, ext);
    if (!descriptor_load(cpu, selector, &d) || (selector & SELECTOR_RPL) != cpl ||
        descriptor_dpl(&d) != cpl || !descriptor_is_writable_data(&d))
        raise_selector(cpu, EXC_TS, selector, ext);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_SS, selector, ext);
    descriptor_accessed(cpu, &d);
    *out = (struct stack){.ss = descriptor_segment(selector, &d),
                          .sp = sp,
                          .mode = mmu_mode_of(cpu, cpl),
                          .error = (selector & 0xfffcu) | ext};
    out->width = out->ss.attr & ATTR_DB ? 4 : 2;
}

uint64_t stack_from_tss64(struct cpu *cpu, unsigned n, bool ext)
{
    uint32_t offset = 4 + 8 * n;
    uint64_t sp;

    if (offset + 7 > cpu->tr.limit)
        raise_selector(cpu, EXC_TS, cpu->tr.selector, ext);
    sp = mmu_load(cpu, cpu->tr.base + offset, 8, mmu_system_mode(cpu));
    if (!cpu_is_canonical(cpu, sp))
        cpu_raise_error(cpu, EXC_SS, ext);
    return sp;
}

/* ---- delivery ------------------------------------------------------------------------------- */

/* Exceptions that are faults, but for #DB: their handlers return to the instruction, which must
 * not meet its breakpoint again. */
static bool pushes_rf(uint8_t vector, enum interrupt_kind kind)
{
    const uint32_t faults = 1u << EXC_DE | 1u << EXC_BR | 1u << EXC_UD | 1u << EXC_NM |
                            1u << EXC_DF | 1u << EXC_TS | 1u << EXC_NP | 1u << EXC_SS |
                            1u << EXC_GP | 1u << EXC_PF | 1u << EXC_MF | 1u << EXC_AC |
                            1u << EXC_MC | 1u << EXC_XM;

    return kind == INTERRUPT_EXCEPTION && vector < 32 && faults >> vector & 1;
}

static bool is_software(enum interrupt_kind kind)
{
    return kind == INTERRUPT_SOFTWARE || kind == INTERRUPT_INT3;
}

static uint64_t flags_to_push(const struct cpu *cpu, uint8_t vector, enum interrupt_kind kind)
{
    if (pushes_rf(vector, kind))
        return cpu->rflags | RFLAGS_RF;
    if (kind == INTERRUPT_EXTERNAL || kind == INTERRUPT_NMI || kind == INTERRUPT_EXCEPTION)
        return cpu->rflags;
    return cpu->rflags & ~(uint64_t)RFLAGS_RF;
}

static void transfer_real(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind,
                          uint64_t return_rip)
{
    struct stack st = stack_current(cpu, false);
    uint32_t target;

    if (vector * 4u + 3 > cpu->idtr.limit)
        cpu_raise_error(cpu, EXC_GP, vector * 8u + 2);
    target = (uint32_t)mmu_load(cpu, (cpu->idtr.base + vector * 4u) & UINT32_MAX, 4,
                                mmu_system_mode(cpu));
    stack_push_to(cpu, &st, flags_to_push(cpu, vector, kind), 2);
    stack_push_to(cpu, &st, cpu->seg[SEG_CS].selector, 2);
    stack_push_to(cpu, &st, return_rip, 2);
    stack_commit(cpu, &st);
    cpu->rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
    segment_set_real(cpu, SEG_CS, (uint16_t)(target >> 16));
    cpu->next_rip = target & 0xffff;
    cpu_update_derived(cpu);
}

/* Through an interrupt or trap gate, legacy protected mode. */
static void transfer_gate(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind,
                          const struct descriptor *gate, bool has_error, uint32_t error,
                          uint64_t return_rip, bool ext)
{
    static const enum segment_name vm86[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    unsigned type = descriptor_kind(gate), size = type >= TYPE_CALL32 ? 4 : 2;
    uint16_t selector = (uint16_t)(gate->low >> 16);
    uint32_t target = (gate->low & 0xffff) | (size == 4 ? gate->high & 0xffff0000 : 0);
    uint64_t flags = flags_to_push(cpu, vector, kind);
    bool from_vm86 = cpu_in_vm86(cpu), inner = false;
    unsigned cpl = cpu->cpl;
    struct descriptor code;
    struct segment cs;
    struct stack st;

    if (selector_null(selector))
        cpu_raise_error(cpu, EXC_GP, ext);
    if (!descriptor_load(cpu, selector, &code) || !descriptor_is_code(&code) ||
        descriptor_dpl(&code) > cpl)
        raise_selector(cpu, EXC_GP, selector, ext);
    if (!descriptor_present(&code))
        raise_selector(cpu, EXC_NP, selector, ext);
    if (!descriptor_is_conforming(&code) && descriptor_dpl(&code) < cpl) {
        inner = true;
        cpl = descriptor_dpl(&code);
    }
    if (from_vm86 && (!inner || cpl != 0))
        raise_selector(cpu, EXC_GP, selector, ext);

    if (inner)
        stack_from_tss(cpu, cpl, ext, &st);
    else
        st = stack_current(cpu, ext);
    if (from_vm86)
        for (size_t i = 0; i < ARRAY_SIZE(vm86); i++)
            stack_push_to(cpu, &st, cpu->seg[vm86[i]].selector, size);
    if (inner) {
        stack_push_to(cpu, &st, cpu->seg[SEG_SS].selector, size);
        stack_push_to(cpu, &st, cpu->gpr[GPR_RSP], size);
    }
    stack_push_to(cpu, &st, flags, size);
    stack_push_to(cpu, &st, cpu->seg[SEG_CS].selector, size);
    stack_push_to(cpu, &st, return_rip, size);
    if (has_error)
        stack_push_to(cpu, &st, error, size);
    cs = descriptor_segment(selector, &code);
    if (target > cs.limit)
        cpu_raise_error(cpu, EXC_GP, ext);
    code_segment_commit(cpu, selector, &code, cpl);

    stack_commit(cpu, &st);
    if (from_vm86)
        for (size_t i = 0; i < ARRAY_SIZE(vm86); i++)
            cpu->seg[vm86[i]] = segment_null(0, 0);
    cpu->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF);
    if (!(type & 1))
        cpu->rflags &= ~(uint64_t)RFLAGS_IF;
    cpu->next_rip = target;
    cpu_update_derived(cpu);
}

static void transfer_long(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind,
                          const struct descriptor *gate, bool has_error, uint32_t error,
                          uint64_t return_rip, bool ext)
{
    uint64_t target = (gate->low & 0xffff) | (gate->high & 0xffff0000) |
                      (uint64_t)(uint32_t)gate->upper << 32;
    uint16_t selector = (uint16_t)(gate->low >> 16);
    uint64_t flags = flags_to_push(cpu, vector, kind);
    unsigned cpl = cpu->cpl, ist = gate->high & 7;
    struct descriptor code;
    bool inner = false;
    struct stack st;

    if (selector_null(selector))
        cpu_raise_error(cpu, EXC_GP, ext);
    if (!descriptor_load(cpu, selector, &code) || !descriptor_is_code(&code) ||
        descriptor_dpl(&code) > cpl || (descriptor_attr(&code) & (ATTR_L | ATTR_DB)) != ATTR_L)
        raise_selector(cpu, EXC_GP, selector, ext);
    if (!descriptor_present(&code))
        raise_selector(cpu, EXC_NP, selector, ext);
    if (!descriptor_is_conforming(&code) && descriptor_dpl(&code) < cpl) {
        inner = true;
        cpl = descriptor_dpl(&code);
    }
    st = (struct stack){.ss = inner ? segment_null((uint16_t)cpl, cpl) : cpu->seg[SEG_SS],
                        .sp = cpu->gpr[GPR_RSP],
                        .width = 8,
                        .mode = mmu_mode_of(cpu, cpl),
                        .error = ext};
    if (ist)
        st.sp = stack_from_tss64(cpu, 3 + ist, ext);
    else if (inner)
        st.sp = stack_from_tss64(cpu, cpl, ext);
    st.sp &= ~UINT64_C(15);
    stack_push_to(cpu, &st, cpu->seg[SEG_SS].selector, 8);
    stack_push_to(cpu, &st, cpu->gpr[GPR_RSP], 8);
    stack_push_to(cpu, &st, flags, 8);
    stack_push_to(cpu, &st, cpu->seg[SEG_CS].selector, 8);
    stack_push_to(cpu, &st, return_rip, 8);
    if (has_error)
        stack_push_to(cpu, &st, error, 8);
    if (!cpu_is_canonical(cpu, target))
        cpu_raise_error(cpu, EXC_GP, ext);
    code_segment_commit(cpu, selector, &code, cpl);

    stack_commit(cpu, &st);
    cpu->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF);
    if (!(descriptor_kind(gate) & 1))
        cpu->rflags &= ~(uint64_t)RFLAGS_IF;
    cpu->next_rip = target;
    cpu_update_derived(cpu);
}

void interrupt_transfer(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind, bool has_error,
                        uint32_t error, uint64_t return_rip)
{
    bool ext = !is_software(kind), lm = cpu_long_mode(cpu);
    uint32_t gate_error = vector * 8u + 2 + ext;
    unsigned size = lm ? 16 : 8, type;
    struct descriptor gate = {0};
    uint64_t value;

    if (!cpu_protected(cpu)) {
        transfer_real(cpu, vector, kind, return_rip);
        return;
    }
    if (vector * size + size - 1 > cpu->idtr.limit)
        cpu_raise_error(cpu, EXC_GP, gate_error);
    gate.where = cpu->idtr.base + vector * size;
    if (!lm)
        gate.where &= UINT32_MAX;
    value = mmu_load(cpu, gate.where, 8, mmu_system_mode(cpu));
    gate.low = (uint32_t)value;
    gate.high = (uint32_t)(value >> 32);
    if (lm)
        gate.upper = mmu_load(cpu, gate.where + 8, 8, mmu_system_mode(cpu));
    type = descriptor_kind(&gate);
    if (lm ? type != TYPE_INTERRUPT32 && type != TYPE_TRAP32
           : type != TYPE_TASK_GATE && type != TYPE_INTERRUPT16 && type != TYPE_TRAP16 &&
                 type != TYPE_INTERRUPT32 && type != TYPE_TRAP32)
        cpu_raise_error(cpu, EXC_GP, gate_error);
    if (is_software(kind) && descriptor_dpl(&gate) < cpu->cpl)
        cpu_raise_error(cpu, EXC_GP, gate_error);
    if (!descriptor_present(&gate))
        cpu_raise_error(cpu, EXC_NP, gate_error);
    if (lm)
        transfer_long(cpu, vector, kind, &gate, has_error, error, return_rip, ext);
    else if (type == TYPE_TASK_GATE) {
        /* The image of the old task is made of the flags themselves. Should the switch fail, what
         * it raises is a fault too. */
        cpu->rflags = flags_to_push(cpu, vector, kind);
        task_gate(cpu, &gate, TASK_INTERRUPT, has_error, error, return_rip, ext);
    } else
        transfer_gate(cpu, vector, kind, &gate, has_error, error, return_rip, ext);
}

/* SDM vol. 3, table 6-4. */
enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT };

static enum fault_class class_of(uint8_t vector)
{
    if (vector == EXC_PF)
        return PAGE_FAULT;
    if (vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP))
        return CONTRIBUTORY;
    return BENIGN;
}

void interrupt_deliver(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind, bool has_error,
                       uint32_t error)
{
    /* Kept over longjmp, hence volatile. */
    volatile uint8_t current = vector;
    volatile enum interrupt_kind current_kind = kind;
    volatile bool current_has_error = has_error;
    volatile uint32_t current_error = error;
    jmp_buf here, *outer = cpu->unwind;

    if (cpu->activity == CPU_HALTED)
        cpu->activity = CPU_RUNNING;
    cpu->sti_shadow = cpu->movss_shadow = false;
    if (kind == INTERRUPT_NMI)
        cpu->nmi_blocked = true;
    if (kind == INTERRUPT_EXCEPTION && vector == EXC_DB)
        cpu->debugctl &= ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF);
    if (setjmp(here)) {
        enum fault_class second = class_of(cpu->raise_vector);
        enum fault_class first = current_kind == INTERRUPT_EXCEPTION ? class_of(current) : BENIGN;

        if (current_kind == INTERRUPT_EXCEPTION && current == EXC_DF && second != BENIGN) {
            cpu->activity = CPU_SHUTDOWN;
            cpu->unwind = outer;
            return;
        }
        if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
            (first == PAGE_FAULT && second != BENIGN)) {
            current = EXC_DF;
            current_has_error = true;
            current_error = 0;
        } else {
            current = cpu->raise_vector;
            current_has_error = cpu->raise_has_error;
            current_error = cpu->raise_error;
        }
        current_kind = INTERRUPT_EXCEPTION;
    }
    cpu->unwind = &here;
    interrupt_transfer(cpu, current, current_kind, current_has_error, current_error, cpu->rip);
    cpu->rip = cpu->next_rip;
    cpu->unwind = outer;
}

/* ---- I/O ------------------------------------------------------------------------------------ */

void io_check(struct cpu *cpu, uint16_t port, unsigned size)
{
    enum mmu_mode mode = mmu_system_mode(cpu);
    uint64_t base = cpu->tr.base, at;
    uint16_t map, bits;

    if (!cpu_protected(cpu))
        return;
    if (!cpu_in_vm86(cpu) && cpu->cpl <= (cpu->rflags & RFLAGS_IOPL) >> 12)
        return;
    /* A 16-bit TSS has no map. Two bytes are read, so the last one must lie within the limit. */
    if ((cpu->tr.attr & (ATTR_TYPE & ~2)) != TYPE_TSS32 || cpu->tr.limit < 0x67)
        cpu_raise_error(cpu, EXC_GP, 0);
    map = (uint16_t)mmu_load(cpu, base + 0x66, 2, mode);
    at = map + port / 8u;
    if (at + 1 > cpu->tr.limit)
        cpu_raise_error(cpu, EXC_GP, 0);
    bits = (uint16_t)mmu_load(cpu, base + at, 2, mode);
    if (bits >> port % 8 & ((1u << size) - 1))
        cpu_raise_error(cpu, EXC_GP, 0);
}

uint64_t io_read(struct cpu *cpu, uint16_t port, unsigned size)
{
    uint64_t value = memory_read(cpu->ports, VIEW_NORMAL, port, size);

    if (cpu_debug_active(cpu))
        debug_io_access(cpu, port, size);
    return value;
}

void io_write(struct cpu *cpu, uint16_t port, uint64_t value, unsigned size)
{
    memory_write(cpu->ports, VIEW_NORMAL, port, value, size);
    if (cpu_debug_active(cpu))
        debug_io_access(cpu, port, size);
}
