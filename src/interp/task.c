/*
 * task.c - hardware task switches (SDM vol. 3, 7.3).
 *
 * Up to the point where the old task is saved everything is checked and faults are the old
 * task's. Then registers are loaded, first all selectors without their descriptors, so that a
 * fault while loading a descriptor finds a whole new task to be delivered in.
 */
#include "interp/protect.h"

#include "x86/model.h"

enum { DR6_BT = 1 << 15, TSS16_LIMIT = 0x2b, TSS32_LIMIT = 0x67, DR7_LOCAL = 0x155 };

struct task_layout {
    uint8_t cr3, ip, flags, gpr, gpr_step, segments, segment_step, segment_count, ldt;
};

static const struct task_layout layout16 = {.ip = 0x0e,
                                            .flags = 0x10,
                                            .gpr = 0x12,
                                            .gpr_step = 2,
                                            .segments = 0x22,
                                            .segment_step = 2,
                                            .segment_count = 4,
                                            .ldt = 0x2a};
static const struct task_layout layout32 = {.cr3 = 0x1c,
                                            .ip = 0x20,
                                            .flags = 0x24,
                                            .gpr = 0x28,
                                            .gpr_step = 4,
                                            .segments = 0x48,
                                            .segment_step = 4,
                                            .segment_count = 6,
                                            .ldt = 0x60};

/* The TSS of a task being left or entered. */
struct task {
    struct segment tss;
    bool wide;
    const struct task_layout *layout;
};

static struct task task_of(const struct segment *tss)
{
    bool wide = (tss->attr & ATTR_TYPE) >= TYPE_TSS32;

    return (struct task){*tss, wide, wide ? &layout32 : &layout16};
}

static uint64_t task_get(struct cpu *cpu, const struct task *t, unsigned offset, unsigned size)
{
    return mmu_load(cpu, (t->tss.base + offset) & UINT32_MAX, size, mmu_system_mode(cpu));
}

static void task_put(struct cpu *cpu, const struct task *t, unsigned offset, uint64_t value,
                     unsigned size)
{
    mmu_store(cpu, (t->tss.base + offset) & UINT32_MAX, value, size, mmu_system_mode(cpu));
}

static void task_save(struct cpu *cpu, const struct task *t, uint64_t rip, uint64_t flags)
{
    const struct task_layout *l = t->layout;
    unsigned size = l->gpr_step;

    task_put(cpu, t, l->ip, rip, size);
    task_put(cpu, t, l->flags, flags, size);
    for (unsigned i = 0; i < 8; i++)
        task_put(cpu, t, l->gpr + i * size, cpu->gpr[i], size);
    for (unsigned i = 0; i < l->segment_count; i++)
        task_put(cpu, t, l->segments + i * l->segment_step, cpu->seg[i].selector, 2);
}

static void load_ldt(struct cpu *cpu, uint16_t selector)
{
    struct descriptor d;

    cpu->ldtr = segment_null(selector, 0);
    if (selector_null(selector))
        return;
    if (selector & SELECTOR_TI || !descriptor_load(cpu, selector, &d) ||
        descriptor_kind(&d) != TYPE_LDT || !descriptor_present(&d))
        raise_selector(cpu, EXC_TS, selector, false);
    cpu->ldtr = descriptor_segment(selector, &d);
}

static void load_code(struct cpu *cpu, uint16_t selector)
{
    struct descriptor d;
    unsigned cpl = selector & SELECTOR_RPL;

    if (selector_null(selector) || !descriptor_load(cpu, selector, &d) || !descriptor_is_code(&d) ||
        (descriptor_is_conforming(&d) ? descriptor_dpl(&d) > cpl : descriptor_dpl(&d) != cpl))
        raise_selector(cpu, EXC_TS, selector, false);
    if (!descriptor_present(&d))
        raise_selector(cpu, EXC_NP, selector, false);
    code_segment_commit(cpu, selector, &d, cpl);
}

/* Descriptors of the new task, with the selectors already in the registers. */
static void load_segments(struct cpu *cpu, uint16_t ldt)
{
    static const enum segment_name data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    if (cpu_in_vm86(cpu)) {
        load_ldt(cpu, ldt);
        return;
    }
    load_ldt(cpu, ldt);
    load_code(cpu, cpu->seg[SEG_CS].selector);
    cpu_update_derived(cpu);
    cpu->seg[SEG_SS] = data_segment_get(cpu, SEG_SS, cpu->seg[SEG_SS].selector, EXC_TS, false);
    for (size_t i = 0; i < ARRAY_SIZE(data); i++)
        cpu->seg[data[i]] = data_segment_get(cpu, data[i], cpu->seg[data[i]].selector, EXC_TS,
                                             false);
}

/* The descriptor of the TSS to switch to, with the checks all ways have in common. */
static void find_tss(struct cpu *cpu, uint16_t selector, enum task_source source, bool ext,
                     struct descriptor *d)
{
    enum exception wrong = source == TASK_IRET ? EXC_TS : EXC_GP;
    unsigned busy = source == TASK_IRET ? 2 : 0, type;
    struct segment tss;

    if (selector & SELECTOR_TI || selector_null(selector) || !descriptor_load(cpu, selector, d))
        raise_selector(cpu, wrong, selector, ext);
    type = descriptor_kind(d);
    if (type != (TYPE_TSS16 | busy) && type != (TYPE_TSS32 | busy))
        raise_selector(cpu, wrong, selector, ext);
    if (!descriptor_present(d))
        raise_selector(cpu, EXC_NP, selector, ext);
    tss = descriptor_segment(selector, d);
    if (tss.limit < (type >= TYPE_TSS32 ? TSS32_LIMIT : TSS16_LIMIT))
        raise_selector(cpu, EXC_TS, selector, ext);
}

void task_switch(struct cpu *cpu, uint16_t selector, enum task_source source, bool has_error,
                 uint32_t error, uint64_t return_rip, bool ext)
{
    uint64_t old_flags = cpu->rflags, flags, cr3 = 0, gpr[8];
    bool nested = source == TASK_CALL || source == TASK_INTERRUPT, trap = false;
    uint16_t old_selector = cpu->tr.selector, ldt, sel[6] = {0};
    struct descriptor d, old_d = {0};
    bool leave = !nested; /* the old task is not busy any more */
    struct task old = task_of(&cpu->tr), new;
    struct segment tss;
    uint32_t ip;

    find_tss(cpu, selector, source, ext, &d);
    tss = descriptor_segment(selector, &d);
    new = task_of(&tss);
    if (old.tss.limit < (old.wide ? TSS32_LIMIT : TSS16_LIMIT))
        raise_selector(cpu, EXC_TS, old_selector, ext);
    if (leave && !descriptor_load(cpu, old_selector, &old_d))
        raise_selector(cpu, EXC_TS, old_selector, ext);

    /* Everything that could page-fault, before anything changes. */
    mmu_probe(cpu, old.tss.base, old.wide ? 0x60 : 0x2a, mmu_system_mode(cpu), MMU_WRITE);
    mmu_probe(cpu, new.tss.base, (uint64_t)(new.wide ? TSS32_LIMIT : TSS16_LIMIT) + 1,
              mmu_system_mode(cpu), nested ? MMU_WRITE : MMU_READ);

    if (leave)
        descriptor_change(cpu, &old_d, 0, 2u << 8);
    if (source == TASK_IRET)
        old_flags &= ~(uint64_t)RFLAGS_NT;
    task_save(cpu, &old, return_rip, old_flags);

    ip = (uint32_t)task_get(cpu, &new, new.layout->ip, new.layout->gpr_step);
    flags = task_get(cpu, &new, new.layout->flags, new.layout->gpr_step);
    for (unsigned i = 0; i < 8; i++)
        gpr[i] = task_get(cpu, &new, new.layout->gpr + i *new.layout->gpr_step,
                          new.layout->gpr_step);
    for (unsigned i = 0; i < new.layout->segment_count; i++)
        sel[i] = (uint16_t)task_get(cpu, &new, new.layout->segments + i *new.layout->segment_step,
                                    2);
    ldt = (uint16_t)task_get(cpu, &new, new.layout->ldt, 2);
    if (new.wide) {
        cr3 = task_get(cpu, &new, new.layout->cr3, 4);
        trap = task_get(cpu, &new, 0x64, 2) & 1;
    }
    if (nested)
        task_put(cpu, &new, 0, old_selector, 2);
    if (source != TASK_IRET)
        descriptor_change(cpu, &d, 2u << 8, 0);

    /* From here on it is the new task. */
    cpu->tr = descriptor_segment(selector, &d);
    cpu->tr.attr |= 2;
    cpu->cr0 |= CR0_TS;
    cpu->dr[7] &= ~(uint64_t)DR7_LOCAL;
    flags = (flags & (new.wide ? 0x3f7fd5u : 0x7fd5u)) | RFLAGS_FIXED;
    if (nested)
        flags |= RFLAGS_NT;
    cpu->rflags = flags;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = gpr[i];
    cpu->rip = cpu->next_rip = ip;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (cpu_in_vm86(cpu))
            segment_set_real(cpu, i, sel[i]);
        else
            cpu->seg[i] = segment_null(sel[i], sel[SEG_CS] & SELECTOR_RPL);
    }
    cpu_update_derived(cpu);
    if (trap)
        cpu->dr6_pending |= DR6_BT;
    if (new.wide && cpu->cr0 &CR0_PG && !cpu_write_cr3(cpu, cr3))
        raise_selector(cpu, EXC_TS, selector, false);
    load_segments(cpu, ldt);
    cpu_update_derived(cpu);
    if (has_error) {
        struct stack st = stack_current(cpu, ext);

        stack_push_to(cpu, &st, error, new.wide ? 4 : 2);
        stack_commit(cpu, &st);
    }
    if (ip > cpu->seg[SEG_CS].limit)
        cpu_raise_error(cpu, EXC_GP, 0);
}

void task_gate(struct cpu *cpu, const struct descriptor *gate, enum task_source source,
               bool has_error, uint32_t error, uint64_t return_rip, bool ext)
{
    task_switch(cpu, (uint16_t)(gate->low >> 16), source, has_error, error, return_rip, ext);
}
