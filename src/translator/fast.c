/*
 * fast.c - what translated code has done in C while the guest's vector registers are in the host's:
 * TLB fills, string instructions, and the ways between privilege levels.
 *
 * This file is compiled for general registers only and must call nothing that is not (mmu_fill() is
 * the one thing). It never raises: what is not ordinary is left as it was, with 0 for an answer,
 * and the interpreter does it. So everything is looked at before anything is changed.
 */
#include "translator/internal.h"

#include "interp/exceptions.h"
#include "x86/model.h"

/* ---- string instructions -------------------------------------------------------------------- */

enum { STRING_PAGES = 64 };

/* The host address of `linear`, for as much of the page as follows. */
static uint8_t *string_page(struct cpu *cpu, gva linear, enum mmu_access access)
{
    enum mmu_mode mode = (enum mmu_mode)cpu->mmu_mode;
    uint8_t *p = tlb_lookup(cpu, linear, 1, mode, access);

    if (p)
        return p;
    return mmu_fill(cpu, linear, mode, access) ? tlb_lookup(cpu, linear, 1, mode, access) : NULL;
}

static uint64_t whole(uint64_t linear, unsigned size, uint64_t count)
{
    return MIN(count, (0x1000 - (linear & 0xfff)) / size);
}

static void copy(uint8_t *to, const uint8_t *from, uint64_t count, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory"); break;
    case 2: __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count)::"memory"); break;
    case 4: __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count)::"memory"); break;
    default: __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory"); break;
    }
}

static void fill(uint8_t *to, uint64_t value, uint64_t count, unsigned size)
{
    switch (size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory"); break;
    }
}

/* MOVS and STOS, upwards, flat. site.link: size, REP, whether MOVS, registers are 32 bits wide. */
static uint64_t string(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;
    unsigned size = s->link & 15;
    bool rep = s->link & 0x10, movs = s->link & 0x20;
    uint64_t mask = s->link & 0x40 ? UINT32_MAX : UINT64_MAX;
    uint64_t count = rep ? cpu->gpr[GPR_RCX] & mask : 1, done = 0;
    uint64_t to = cpu->gpr[GPR_RDI] & mask, from = cpu->gpr[GPR_RSI] & mask;

    if (cpu->rflags & RFLAGS_DF)
        return 0;
    if (!count)
        return (uint64_t)(uintptr_t)(c->t->rx + s->resume);
    for (unsigned pages = 0; count && pages < STRING_PAGES; pages++) {
        uint64_t n = whole(to, size, count);
        uint8_t *d = n ? string_page(cpu, to, MMU_WRITE) : NULL;
        const uint8_t *f = NULL;

        if (movs && d) {
            n = MIN(n, whole(from, size, count));
            f = n ? string_page(cpu, from, MMU_READ) : NULL;
        }
        if (!d || (movs && !f))
            break;
        if (movs)
            copy(d, f, n, size);
        else
            fill(d, cpu->gpr[GPR_RAX], n, size);
        to = (to + n * size) & mask;
        from = (from + n * size) & mask;
        count -= n;
        done += n;
    }
    if (!done && count)
        return 0;
    if (done) {
        cpu->gpr[GPR_RDI] = to;
        if (movs)
            cpu->gpr[GPR_RSI] = from;
    }
    if (rep)
        cpu->gpr[GPR_RCX] = count;
    if (count) { /* to be gone on with, after a look at what else there is */
        cpu->rip = rip_at(cpu, c->context, s->offset);
        c->context->done = 1;
        return 0;
    }
    return (uint64_t)(uintptr_t)(c->t->rx + s->resume);
}

/* ---- between privilege levels --------------------------------------------------------------- */

/* Might something want to be looked at once interrupts are on? */
static bool events(const struct cpu *cpu)
{
    return atomic_load_explicit(&cpu->events, memory_order_relaxed) != 0;
}

/* Everything is committed, RIP too: where to go on. */
static uint64_t arrive(struct bt_cpu *c, uint32_t key)
{
    struct cpu *cpu = c->cpu;
    struct bt_context *x = c->context;
    struct tlb_table *area = cpu->tlb->table[cpu->mmu_mode];
    const struct tlb_jump *j = jump_of(area, cpu->rip);

    flags_out(cpu, x);
    if (!atomic_load_explicit(&x->poll, memory_order_relaxed) || *table_key(area) != key ||
        j->rip != cpu->rip) {
        x->done = 1;
        return 0;
    }
    key_enter(c, key);
    x->page_rip = cpu->rip & ~UINT64_C(0xfff);
    if (key & KEY_USER && !x->vec_live)
        x->vec_resume |= 1;
    for (unsigned ac = 0; ac < 2; ac++)
        area_choose(c, ac, key);
    gs_set(c->t, area);
    return (uint64_t)(uintptr_t)j->code;
}

static void mode_set(struct cpu *cpu, unsigned cpl)
{
    cpu->cpl = (uint8_t)cpl;
    cpu->mmu_mode = (uint8_t)mmu_mode_of(cpu, cpl);
}

/* 64-bit code and its stack, as SYSCALL and SYSRET make them. */
static void flat_segments(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl)
{
    uint32_t common = ATTR_G | ATTR_P | ATTR_S | ATTR_ACCESSED | cpl << ATTR_DPL_SHIFT;

    cpu->seg[SEG_CS].selector = cs;
    cpu->seg[SEG_CS].attr = common | ATTR_CODE | ATTR_READABLE | ATTR_L;
    cpu->seg[SEG_CS].limit = UINT32_MAX;
    cpu->seg[SEG_CS].base = 0;
    cpu->seg[SEG_SS].selector = ss;
    cpu->seg[SEG_SS].attr = common | ATTR_WRITABLE | ATTR_DB;
    cpu->seg[SEG_SS].limit = UINT32_MAX;
    cpu->seg[SEG_SS].base = 0;
    mode_set(cpu, cpl);
}

static uint64_t syscall_(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;
    uint16_t cs = (uint16_t)(cpu->star >> 32) & 0xfffc;

    if (!(cpu->efer & EFER_SCE) || !(c->key & KEY_USER) || !cpu_is_canonical(cpu, cpu->lstar))
        return 0;
    flags_in(cpu, c->context);
    cpu->gpr[GPR_RCX] = rip_at(cpu, c->context, s->offset + s->length);
    cpu->gpr[GPR_R11] = cpu->rflags & ~(uint64_t)RFLAGS_RF;
    cpu->rip = cpu->lstar;
    cpu->rflags = (cpu->rflags & ~(cpu->sfmask | RFLAGS_RF)) | RFLAGS_FIXED;
    flat_segments(cpu, cs, cs + 8, 0);
    return arrive(c, (c->key & ~(uint32_t)KEY_USER) | KEY_CPL0);
}

static uint64_t sysret(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;
    uint16_t base = (uint16_t)(cpu->star >> 48);
    uint64_t flags = (cpu->gpr[GPR_R11] & 0x3c7fd7) | RFLAGS_FIXED;

    if (!(cpu->efer & EFER_SCE) || !(c->key & KEY_CPL0) ||
        !cpu_is_canonical(cpu, cpu->gpr[GPR_RCX]) || flags & (RFLAGS_TF | RFLAGS_RF | RFLAGS_AC) ||
        events(cpu))
        return 0;
    cpu->rip = cpu->gpr[GPR_RCX];
    cpu->rflags = flags;
    flat_segments(cpu, (uint16_t)((base + 16) | 3), (uint16_t)((base + 8) | 3), 3);
    return arrive(c, (c->key & ~(uint32_t)KEY_CPL0) | KEY_USER);
}

/* The descriptor behind a selector of the GDT, if the TLB knows it. */
static bool descriptor(struct cpu *cpu, uint16_t selector, uint64_t *raw)
{
    gva at = cpu->gdtr.base + (selector & ~7u);
    const uint8_t *p;

    if (selector < 4 || selector & 4 || (selector | 7u) > cpu->gdtr.limit)
        return false;
    p = tlb_lookup(cpu, at, 8, (enum mmu_mode)cpu->mmu_mode, MMU_READ);
    if (!p)
        return false;
    *raw = *(const volatile mmu_u64 *)p;
    return true;
}

void fast_learn(struct bt_cpu *c)
{
    struct cpu *cpu = c->cpu;
    struct tlb_table *kernel = cpu->tlb->table[c->context->mode[0]];
    const struct segment *cs = &cpu->seg[SEG_CS], *ss = &cpu->seg[SEG_SS];
    const uint8_t *p, *q;

    c->returned.gdt = 0;
    if (cpu->cpl != 3 || cpu->code_size != 8 || cs->selector & 4 || ss->selector & 4)
        return;
    p = tlb_find(kernel, cpu->gdtr.base + (cs->selector & ~7u), 8, MMU_READ);
    q = tlb_find(kernel, cpu->gdtr.base + (ss->selector & ~7u), 8, MMU_READ);
    if (!p || !q)
        return;
    c->returned.raw_cs = *(const volatile mmu_u64 *)p;
    c->returned.raw_ss = *(const volatile mmu_u64 *)q;
    c->returned.cs = *cs;
    c->returned.ss = *ss;
    c->returned.gdt = cpu->gdtr.base;
}

/* To 64-bit code of the same level, or of level 3 as last time. */
static uint64_t iret(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;
    uint64_t sp = cpu->gpr[GPR_RSP], rip, cs, flags, rsp, ss, raw;
    const uint8_t *p = tlb_lookup(cpu, sp, 40, (enum mmu_mode)cpu->mmu_mode, MMU_READ);
    static const uint64_t plain = 0x247fd7; /* no RF, VM, AC, VIF, VIP */

    if (!p || !(c->key & KEY_CPL0) || cpu->nmi_blocked || cpu->rflags & RFLAGS_NT || events(cpu))
        return 0;
    rip = *(const volatile mmu_u64 *)p;
    cs = *(const volatile mmu_u64 *)(p + 8);
    flags = *(const volatile mmu_u64 *)(p + 16) & ~(uint64_t)RFLAGS_RF;
    rsp = *(const volatile mmu_u64 *)(p + 24);
    ss = *(const volatile mmu_u64 *)(p + 32);
    if (flags & ~(plain | RFLAGS_IOPL) || flags & (RFLAGS_TF | RFLAGS_NT) ||
        !cpu_is_canonical(cpu, rip))
        return 0;
    if (cs == cpu->seg[SEG_CS].selector && ss == cpu->seg[SEG_SS].selector && !(cs & 3)) {
        cpu->gpr[GPR_RSP] = rsp;
        cpu->rip = rip;
        cpu->rflags = flags | RFLAGS_FIXED;
        mode_set(cpu, 0);
        return arrive(c, c->key);
    }
    if (c->returned.gdt != cpu->gdtr.base || !cpu->gdtr.base || cs != c->returned.cs.selector ||
        ss != c->returned.ss.selector || (cs & 3) != 3)
        return 0;
    if (!descriptor(cpu, (uint16_t)cs, &raw) || raw != c->returned.raw_cs ||
        !descriptor(cpu, (uint16_t)ss, &raw) || raw != c->returned.raw_ss)
        return 0;
    if (!segment_survives(&cpu->seg[SEG_DS], 3) || !segment_survives(&cpu->seg[SEG_ES], 3) ||
        !segment_survives(&cpu->seg[SEG_FS], 3) || !segment_survives(&cpu->seg[SEG_GS], 3))
        return 0;
    cpu->gpr[GPR_RSP] = rsp;
    cpu->rip = rip;
    cpu->rflags = flags | RFLAGS_FIXED;
    cpu->seg[SEG_CS] = c->returned.cs;
    cpu->seg[SEG_SS] = c->returned.ss;
    mode_set(cpu, 3);
    return arrive(c, (c->key & ~(uint32_t)KEY_CPL0) | KEY_USER);
}

/* ---- data beside code ----------------------------------------------------------------------- */

/*
 * A write to a page of code that touches no code: pass the check for this once. Between the look at
 * the granules and the write nobody may make a block from what is written: page_close() looks at
 * `writing`, which stays until this vCPU leaves translated code again.
 */
static uint64_t write_beside_code(struct bt_cpu *c, const struct site *s)
{
    struct bt_context *x = c->context;
    struct cpu *cpu = c->cpu;
    gva linear = site_linear(cpu, x, s);
    const uint8_t *host = tlb_find_code(cpu->tlb->table[cpu->mmu_mode], linear, s->size);
    uint32_t name = host ? page_of_host(c->t, host) : 0;
    struct code_page *p = &c->t->pages[name];

    if (!name || page_is_tired(p))
        return 0;
    atomic_store(&c->writing, name);
    if (page_is_code(p, (uintptr_t)host & 0xfff, s->size))
        return 0;
    c->count[COUNT_BESIDE_CODE]++;
    atomic_store_explicit(&p->beside, p->beside + 1, memory_order_relaxed); /* about */
    x->a = (uint64_t)(uintptr_t)host - linear;
    x->c = (uint64_t)(uintptr_t)(c->t->rx + s->pass);
    return (uint64_t)(uintptr_t)c->t->stub.pass;
}

/* ---- other blocks ---------------------------------------------------------------------------- */

/* A check of several accesses has failed: go on with single ones, where there is such a block. */
static uint64_t check_each(struct bt_cpu *c, const struct site *s)
{
    struct translator *t = c->t;
    struct block *failed = &t->blocks[s->block], *b;

    if (c->check || s->resume || failed->key & KEY_SINGLE ||
        failed->failures == MANY_FAILURES - 1 || /* that is for bt_slow() */
        !atomic_load_explicit(&c->context->poll, memory_order_relaxed))
        return 0;
    b = block_find(t, failed->page, (unsigned)s->offset, failed->key | KEY_SINGLE);
    if (!b)
        return 0;
    if (failed->failures < MANY_FAILURES)
        failure_counts(failed);
    c->count[COUNT_CHECK_WIDE]++;
    return (uint64_t)(uintptr_t)(t->rx + b->entry_saved);
}

/* An indirect branch to a block that is not in the jump table. */
static uint64_t indirect(struct bt_cpu *c)
{
    struct cpu *cpu = c->cpu;
    struct bt_context *x = c->context;
    uint64_t rip = x->target;
    uint32_t *slot;
    struct block *b;

    if (c->check || !(c->key & KEY_FLAT_CODE) ||
        !atomic_load_explicit(&x->poll, memory_order_relaxed) ||
        (cpu->code_size == 8 ? !cpu_is_canonical(cpu, rip) : rip > UINT32_MAX))
        return 0;
    slot = name_slot(cpu, rip);
    b = slot && *slot
            ? block_find(c->t, *slot, (unsigned)(rip & 0xfff), c->key & ~(uint32_t)KEY_SINGLE)
            : NULL;
    if (!b || b->failures >= MANY_FAILURES)
        return 0;
    jump_remember(c, b, rip);
    x->page_rip = rip & ~UINT64_C(0xfff);
    c->count[COUNT_INDIRECT]++;
    return (uint64_t)(uintptr_t)(c->t->rx + b->entry_saved);
}

/* ---- the door ------------------------------------------------------------------------------- */

uint64_t bt_fast(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;
    struct bt_context *x = c->context;
    const struct site *s = &c->t->sites[x->site];
    enum mmu_mode mode = (enum mmu_mode)cpu->mmu_mode;
    uint64_t next;
    gva page;

    if (atomic_load_explicit(&c->writing, memory_order_relaxed))
        atomic_store_explicit(&c->writing, 0, memory_order_release);
    if (s->kind == SITE_FAST) {
        switch ((enum fast_op)s->helper) {
        case FAST_STRING: return string(c, s);
        case FAST_SYSCALL: return syscall_(c, s);
        case FAST_SYSRET: return sysret(c, s);
        case FAST_IRET: return iret(c, s);
        case FAST_OPS: break;
        }
        return 0;
    }
    if (s->kind == SITE_INDIRECT)
        return indirect(c);
    if (s->kind != SITE_CHECK)
        return 0;
    if (s->access >= MMU_ACCESSES)
        return check_each(c, s);
    /* RAX: tag of the last byte; RCX: index of the first. */
    if ((uint16_t)x->a != x->c)
        return check_each(c, s);
    if (device_page(c, x->a))
        return 0;
    page = (x->a - 1) << 12;
    if (s->pass && cpu->tlb->table[mode]->ways[MMU_WRITE].tag[x->c] == (x->a | TLB_ASK)) {
        next = write_beside_code(c, s);
        if (next)
            return next;
    }
    if (mmu_fill(cpu, page, mode, (enum mmu_access)s->access)) {
        c->count[COUNT_FILL]++;
        return (uint64_t)(uintptr_t)(c->t->rx + s->retry);
    }
    return s->pass && mmu_fill_code(cpu, page, mode) ? write_beside_code(c, s) : 0;
}
