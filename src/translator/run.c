/*
 * run.c - the engine: the run loop, what translated code asks of C, and the many vCPUs.
 *
 * The loop stands at an instruction boundary with everything in struct cpu. Whatever is not an
 * ordinary instruction there (events, traps, shadows, breakpoints) is the interpreter's
 * (interp_needed()); cold code too, a stretch up to the next taken branch at a time; else the block
 * is found or made, and entered. bt_slow() is called by translated code that cannot go on; it
 * answers with host code to continue at, or 0 to come back to the loop.
 *
 * Rules an editor must keep:
 *  - `inside` is set while translated code may run or be returned into. Who wants to empty the
 * cache sets `stop`, waits until nobody else is inside, and must not hold the lock meanwhile.
 *  - bt_slow() may return an address only if nothing has happened that voids what the code relies
 *    on: the TLB (addends in slots), the mode, the code itself. interpret_one() has that list.
 *  - Jump entries, code names and return stacks speak of linear addresses or of host code: the
 * first die with the TLB; what goes from the cache is taken out of them (cache.c).
 */
#include "translator/internal.h"

#include "base/log.h"
#include "interp/exceptions.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK_SIZE = 64 * 1024, STACK_GUARD = 4096, STACK_MARGIN = 512 };
enum { COLD_STRETCH = 64, TICK_TSC = 100000 };

static struct translator_options options_now;
static bool options_are_set;

void translator_options_default(struct translator_options *o)
{
    *o = (struct translator_options){.cache_size = 128 * MiB, .warm = 1};
}

void translator_options_set(const struct translator_options *o)
{
    options_now = *o;
    options_are_set = true;
}

static inline uint64_t rdtsc(void)
{
    return __builtin_ia32_rdtsc();
}

/* ---- GS ------------------------------------------------------------------------------------- */

void gs_set(struct translator *t, struct tlb_table *area)
{
    static _Thread_local struct tlb_table *now;

    /* With the instruction, translated code changes it too: STAC, CLAC. */
    if (t->features & HOST_FSGSBASE) {
        __asm__ volatile("wrgsbase %0" ::"r"(area));
    } else if (now != area) {
        syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, area);
        now = area;
    }
}

/* ---- return stacks, jumps ------------------------------------------------------------------- */

static void stacks_reset(struct bt_cpu *c)
{
    for (unsigned i = 0; i < 2; i++)
        c->stack_sp[i] = c->stack_base[i];
    c->context->host_sp = c->stack_sp[c->stack_now];
    c->count[COUNT_STACK_RESET]++;
}

static void code_dropped(struct cpu *cpu)
{
    stacks_reset(cpu->engine);
}

static void jumps_drop(struct bt_cpu *c)
{
    for (unsigned s = 0; s < TLB_SETS; s++)
        for (unsigned m = 0; m < MMU_MODES; m++) {
            struct tlb_table *table = c->cpu->tlb->set[s].table[m];

            if (table && table->jumps_used)
                tlb_jumps_clear(table);
        }
    c->count[COUNT_FLUSH_JUMPS]++;
}

/* ---- the key -------------------------------------------------------------------------------- */

static bool is_flat(const struct segment *s)
{
    return s->base == 0 && s->limit == UINT32_MAX &&
           (s->attr & (ATTR_NULL | ATTR_CODE | ATTR_DOWN | ATTR_WRITABLE)) == ATTR_WRITABLE;
}

static uint32_t key_of(struct cpu *cpu)
{
    uint32_t key = 0;

    if (cpu->code_size == 8) {
        key = KEY_FLAT_CODE | KEY_FLAT_DATA;
    } else {
        const struct segment *cs = &cpu->seg[SEG_CS];

        key = cpu->code_size == 4 ? KEY_SIZE32 : KEY_SIZE16;
        if (cs->base == 0 && cs->limit == UINT32_MAX)
            key |= KEY_FLAT_CODE;
        if (is_flat(&cpu->seg[SEG_DS]) && is_flat(&cpu->seg[SEG_ES]) && is_flat(&cpu->seg[SEG_SS]))
            key |= KEY_FLAT_DATA;
        if (cpu->seg[SEG_SS].attr & ATTR_DB)
            key |= KEY_STACK32;
        if (!cpu_protected(cpu) || cpu_in_vm86(cpu))
            key |= KEY_REAL;
    }
    if (cpu->cpl == 3)
        key |= KEY_USER;
    else if (cpu->cpl == 0)
        key |= KEY_CPL0;
    if (!(cpu->cr0 & (CR0_EM | CR0_TS))) {
        key |= KEY_X87;
        if (cpu->cr4 & CR4_OSFXSR)
            key |= KEY_SSE;
        if (cpu->cr4 & CR4_OSXSAVE && (cpu->xcr0 & 7) == 7)
            key |= KEY_AVX;
        if (cpu->cr4 & CR4_OSXSAVE && (cpu->xcr0 & (XCR0_AVX512 | 7)) == (XCR0_AVX512 | 7))
            key |= KEY_AVX512;
    }
    return key;
}

/* Segments as the checks of code that is not flat see them. */
static void limits_set(struct cpu *cpu, struct bt_context *x)
{
    for (unsigned s = 0; s < SEG_COUNT; s++) {
        const struct segment *g = &cpu->seg[s];
        bool plain = !(g->attr & ATTR_NULL) && (g->attr & (ATTR_CODE | ATTR_DOWN)) == 0;

        x->limit[MMU_READ][s] = plain ? (int64_t)g->limit : -1;
        x->limit[MMU_WRITE][s] = plain && g->attr & ATTR_WRITABLE ? (int64_t)g->limit : -1;
    }
}

/* ---- finding code --------------------------------------------------------------------------- */

static gva linear_rip(const struct cpu *cpu)
{
    return cpu->code_size == 8 ? cpu->rip : (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
}

/* All of the page within the code segment? */
static bool page_in_segment(const struct cpu *cpu, gva linear)
{
    const struct segment *cs = &cpu->seg[SEG_CS];
    uint64_t page = linear & ~UINT64_C(0xfff);

    if (cpu->code_size == 8)
        return true;
    return page >= cs->base && page - cs->base + 0xfff <= cs->limit;
}

/* Host address of the code at RIP; raises #PF. NULL: it cannot be translated. */
static const uint8_t *code_host(struct cpu *cpu, gva linear)
{
    const uint8_t *host = tlb_lookup(cpu, linear, 1, (enum mmu_mode)cpu->mmu_mode, MMU_FETCH);
    struct ram_block *block;
    uint64_t offset;
    gpa address;

    if (host)
        return host;
    return mmu_access_page(cpu, linear, (enum mmu_mode)cpu->mmu_mode, MMU_FETCH, &address, &block,
                           &offset);
}

/* Which page of which block of RAM; false: none that can be watched. */
static bool code_ram(struct cpu *cpu, gva linear, struct ram_block **ram, uint64_t *offset)
{
    struct mmu_translation tr;
    struct memory_target target;
    uint32_t error;

    if (mmu_walk(cpu, linear, (enum mmu_mode)cpu->mmu_mode, MMU_FETCH, false, &tr, &error) < 0)
        return false;
    memory_lookup(cpu->memory, cpu->in_smm ? VIEW_SMM : VIEW_NORMAL, tr.address, &target);
    if (!target.block)
        return false;
    *ram = target.block;
    *offset = target.offset & ~UINT64_C(0xfff);
    return true;
}

/* When the instruction at `linear` goes on in the next page: that page's name, if it can have one
 * now. Lock held. */
static uint32_t next_page_name(struct bt_cpu *c, gva linear, const uint8_t *host)
{
    struct translator *t = c->t;
    struct cpu *cpu = c->cpu;
    gva next = (linear | 0xfff) + 1;
    unsigned left = (unsigned)(next - linear);
    struct ram_block *ram;
    struct bt_insn in;
    uint32_t *slot, name;
    uint64_t at;

    if (left >= 15 || !(c->key_now & KEY_FLAT_CODE) || (cpu->code_size != 8 && next > UINT32_MAX) ||
        parse_insn(cpu, host, left, cpu->code_size, &in))
        return 0;
    if (!mmu_fill_slow(cpu, next, (enum mmu_mode)cpu->mmu_mode, MMU_FETCH))
        return 0;
    slot = name_slot(cpu, next);
    if (!slot)
        return 0;
    name = *slot;
    if (name) {
        ram = t->pages[name].ram;
        at = t->pages[name].offset;
    } else if (!code_ram(cpu, next, &ram, &at)) {
        return 0;
    }
    if (!page_make(t, c, ram, at, &name))
        return 0;
    return *slot = name;
}

/* A block at `linear`, whose page has its name, or gets it, in *slot. NULL: not now. Lock held. */
static struct block *block_make(struct bt_cpu *c, gva linear, const uint8_t *host, uint32_t *slot,
                                uint32_t key, uint8_t *warm)
{
    struct translator *t = c->t;
    uint32_t name = *slot, page2;
    struct ram_block *ram = t->pages[name].ram;
    uint64_t at = t->pages[name].offset;
    struct block *b = NULL;

    if (cache_full(t) || (!name && !code_ram(c->cpu, linear, &ram, &at)))
        return NULL;
    *slot = name = page_find(t, ram, at);
    if (*warm < page_warm(t, name)) {
        (*warm)++;
        return NULL;
    }
    if (!page_make(t, c, ram, at, &name))
        return NULL;
    *slot = name;
    b = block_find(t, name, (unsigned)(linear & 0xfff), key);
    if (b)
        return b;
    page2 = next_page_name(c, linear, host);
    if (page_close(t, c, name) && (!page2 || page_close(t, c, page2)))
        b = translate(t, c, name, (unsigned)(linear & 0xfff), key, page2);
    pages_open(t, b, name, page2);
    return b;
}

/*
 * The block at RIP, made when it is warm. NULL: interpret. Raises #PF of the fetch, so call it from
 * the loop only. `single`: of the kind with a check for each access.
 */
static struct block *block_at_rip(struct bt_cpu *c, uint32_t key)
{
    struct translator *t = c->t;
    struct cpu *cpu = c->cpu;
    gva linear = linear_rip(cpu);
    unsigned offset = (unsigned)(linear & 0xfff);
    const uint8_t *host;
    uint32_t *slot, name;
    struct block *b = NULL;
    uint8_t *warm;

    c->key_now = key;
    if (cpu->code_size == 8 && !cpu_is_canonical(cpu, cpu->rip))
        return NULL;
    host = code_host(cpu, linear);
    if (!host || !page_in_segment(cpu, linear))
        return NULL;
    slot = name_slot(cpu, linear);
    if (!slot)
        return NULL;
    name = *slot;
    if (name) {
        b = block_find(t, name, offset, key);
        if (b) {
            if (b->failures < MANY_FAILURES)
                return b;
            b = block_find(t, name, offset, key | KEY_SINGLE);
            if (b)
                return b;
            key |= KEY_SINGLE;
        }
    }
    warm = &c->warm[warm_index(host)];
    if (*warm < page_warm(t, name)) {
        (*warm)++;
        return NULL;
    }
    pthread_mutex_lock(&t->lock);
    b = block_make(c, linear, host, slot, key, warm);
    c->want_empty = !b && cache_full(t);
    pthread_mutex_unlock(&t->lock);
    return b;
}

/* The jump entries of a table are for one key. */
static void key_switch(struct bt_cpu *c, struct tlb_table *table, uint32_t key)
{
    if (table->jumps_used)
        tlb_jumps_clear(table);
    *table_key(table) = key;
    stacks_reset(c);
}

/* ---- what translated code asks -------------------------------------------------------------- */

/* Enter a block from C: the flags are in both places, so the body's own start will do. */
static const uint8_t *block_body(struct translator *t, const struct block *b)
{
    return cache_rx(t, MAX(b->start, b->entry_saved));
}

/* Another block of the same kind at cpu->rip that exists already. Neither raises nor makes. */
static struct block *block_known(struct bt_cpu *c, uint32_t key)
{
    struct cpu *cpu = c->cpu;
    gva linear = linear_rip(cpu);
    uint32_t *slot = name_slot(cpu, linear);
    struct block *b;

    if (!slot || !*slot || !page_in_segment(cpu, linear))
        return NULL;
    b = block_find(c->t, *slot, (unsigned)(linear & 0xfff), key);
    if (b && b->failures >= MANY_FAILURES)
        b = block_find(c->t, *slot, (unsigned)(linear & 0xfff), key | KEY_SINGLE);
    return b;
}

/* Code that goes on asks itself whether the x87's state is there, and, but for the user's, whether
 * the vector registers' is: none is loaded for it. */
static void nothing_to_load(struct bt_cpu *c)
{
    c->context->vec_resume &= c->key & KEY_USER ? 1 : 0;
}

static uint64_t go_on(struct bt_cpu *c, const struct block *b)
{
    struct cpu *cpu = c->cpu;

    nothing_to_load(c);
    c->context->page_rip = cpu->rip - (linear_rip(cpu) & 0xfff);
    flags_out(cpu, c->context);
    return (uint64_t)(uintptr_t)block_body(c->t, b);
}

/* Nobody comes to a block any more whose checks have failed too often. */
static void check_failed(struct translator *t, struct block *b)
{
    if (b->failures >= MANY_FAILURES || !failure_counts(b))
        return;
    pthread_mutex_lock(&t->lock);
    block_forget(t, b);
    pthread_mutex_unlock(&t->lock);
}

/* Does all that a block relies on still hold, behind one of its instructions that C has done? But
 * for segment bases. */
static bool block_goes_on(struct bt_cpu *c, uint32_t block, uint64_t flushes,
                          const struct tlb_table *table)
{
    struct cpu *cpu = c->cpu;

    return c->t->blocks[block].valid && flushes == cpu->tlb->flushes &&
           table == cpu->tlb->table[cpu->mmu_mode] &&
           key_of(cpu) == (c->key & ~(uint32_t)KEY_SINGLE) && !atomic_load(&c->t->stop) &&
           !interp_needed(cpu);
}

/* One instruction by the interpreter. Whether the block it is of may go on: all that its code
 * relies on is as before. Not that the instruction was the one that was translated: another vCPU
 * may just be writing it. */
static bool interpret_one(struct bt_cpu *c, uint32_t block)
{
    struct cpu *cpu = c->cpu;
    uint64_t base[SEG_COUNT];
    uint64_t flushes = cpu->tlb->flushes;
    struct tlb_table *table = cpu->tlb->table[cpu->mmu_mode];
    enum interp_result r;

    if (c->check) {
        c->left = true;
        return false;
    }
    for (unsigned s = 0; s < SEG_COUNT; s++)
        base[s] = cpu->seg[s].base;
    r = interp_step(cpu, 1);
    for (unsigned s = 0; s < SEG_COUNT; s++)
        if (cpu->seg[s].base != base[s])
            return false;
    return r == INTERP_OK && block_goes_on(c, block, flushes, table);
}

/* The same for one whose effect code may rely on. */
static bool interpret_known(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;
    uint64_t before[GPR_COUNT];

    memcpy(before, cpu->gpr, sizeof(before));
    before[GPR_RSP] += (uint64_t)(int64_t)s->stack;
    if (cpu->code_size != 8)
        before[GPR_RSP] = (uint32_t)before[GPR_RSP];
    if (!interpret_one(c, s->block))
        return false;
    if (!s->known)
        return true;
    for (unsigned r = 0; r < GPR_COUNT; r++)
        if (cpu->gpr[r] != before[r] && !(s->writes >> r & 1))
            return false;
    return true;
}

/* GS and all that goes with it become those of the present address space. */
static void area_enter(struct bt_cpu *c, uint32_t key)
{
    struct cpu *cpu = c->cpu;
    struct tlb_table *area = cpu->tlb->table[cpu->mmu_mode];

    if (*table_key(area) != key)
        key_switch(c, area, key);
    for (unsigned ac = 0; ac < 2; ac++) {
        struct tlb_table *other = cpu->tlb->table[kernel_mode(cpu, ac)];

        if (key & KEY_CPL0 && c->t->features & HOST_FSGSBASE && other != area &&
            *table_key(other) != key)
            key_switch(c, other, key);
        area_choose(c, ac, key);
    }
    gs_set(c->t, area);
}

/*
 * One instruction by help(); RIP goes behind it. Where its block goes on, or 0; *done: not for the
 * interpreter any more. Where linear addresses may lead elsewhere, RIP must still lead to the page
 * that the block was made from.
 */
static uint64_t help_one(struct bt_cpu *c, const struct site *s, uint32_t key, bool *done)
{
    struct cpu *cpu = c->cpu;
    uint64_t flushes = cpu->tlb->flushes, next = rip_at(cpu, c->context, s->offset + s->length);
    struct tlb_table *table = cpu->tlb->table[cpu->mmu_mode];
    const uint32_t *name;

    *done = !c->check && !cpu->sti_shadow && help(c, s);
    if (!*done)
        return 0;
    c->helped[s->helper]++;
    cpu->rip = next;
    if (help_remaps(s->helper)) {
        name = name_slot(cpu, linear_rip(cpu));
        if (!name || *name != c->t->blocks[s->block].page)
            return 0;
        flushes = cpu->tlb->flushes;
        if (table != cpu->tlb->table[cpu->mmu_mode]) {
            table = cpu->tlb->table[cpu->mmu_mode];
            area_enter(c, key);
        }
    }
    return s->resume && block_goes_on(c, s->block, flushes, table)
               ? (uint64_t)(uintptr_t)(c->t->rx + s->resume)
               : 0;
}

/* Wherever an instruction has led, into another mode perhaps (an exception): on from there without
 * a turn of the loop, where the block exists. */
static uint64_t go_anywhere(struct bt_cpu *c)
{
    struct cpu *cpu = c->cpu;
    struct block *b;
    uint32_t key;

    if (c->check || atomic_load(&c->t->stop) || interp_needed(cpu))
        return 0;
    key = key_of(cpu);
    b = block_known(c, key);
    if (!b)
        return 0;
    if (cpu->code_size != 8)
        limits_set(cpu, c->context);
    key_enter(c, key);
    area_enter(c, key);
    jump_remember(c, b, cpu->rip);
    if (key & KEY_USER)
        c->context->vec_resume |= 1;
    return go_on(c, b);
}

/* A page that the TLB cannot be filled with, where an access is to be interpreted. */
static void device_note(struct bt_cpu *c, uint64_t tag, enum mmu_access access)
{
    struct cpu *cpu = c->cpu;
    enum mmu_mode mode = (enum mmu_mode)cpu->mmu_mode;
    struct mmu_translation t;
    struct memory_target target;
    uint32_t error;

    if (mmu_walk(cpu, (tag - 1) << 12, mode, access, false, &t, &error) < 0)
        return;
    if ((t.address & ~UINT64_C(0xfff)) != cpu->apic_page) {
        memory_lookup(cpu->memory, cpu->in_smm ? VIEW_SMM : VIEW_NORMAL, t.address, &target);
        if (target.block)
            return;
    }
    c->device[tag % DEVICE_PAGES] = (struct device_page){tag, cpu->tlb->table[mode], DEVICE_TIMES};
}

uint64_t bt_slow(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;
    struct bt_context *x = c->context;
    struct translator *t = c->t;
    const struct site *s = &t->sites[x->site];
    struct block *b;
    uint32_t key = c->key & ~(uint32_t)KEY_SINGLE;
    struct device_page *device;
    uint64_t next;
    bool done;

    if (atomic_load_explicit(&c->writing, memory_order_relaxed))
        atomic_store_explicit(&c->writing, 0, memory_order_release);
    flags_in(cpu, x);
    if (x->vec_resume & 2) /* the host's addresses are not for the guest: FXSAVE would tell them */
        cpu->fx.fop = 0, cpu->fx.fip = cpu->fx.fdp = 0;
    if (x->done) {
        x->done = 0;
        return 0;
    }
    switch ((enum site_kind)s->kind) {
    case SITE_CHECK:
        cpu->rip = rip_at(cpu, x, s->offset);
        c->count[COUNT_CHECK_SLOW]++;
        device = device_page(c, x->a);
        if (s->access < MMU_ACCESSES && (uint16_t)x->a == x->c && device && s->resume) {
            device->left--;
        } else if (s->access < MMU_ACCESSES && (uint16_t)x->a == x->c) {
            if (mmu_fill_slow(cpu, (x->a - 1) << 12, (enum mmu_mode)cpu->mmu_mode,
                              (enum mmu_access)s->access))
                return (uint64_t)(uintptr_t)(t->rx + s->retry);
            if (s->resume)
                device_note(c, x->a, (enum mmu_access)s->access);
        }
        if (!s->resume) {
            c->count[COUNT_CHECK_WIDE]++;
            check_failed(t, &t->blocks[s->block]);
            if (!c->check && !(t->blocks[s->block].key & KEY_SINGLE)) {
                /* Go on from here with single checks, this once. */
                b = block_find(t, t->blocks[s->block].page, (unsigned)s->offset, key | KEY_SINGLE);
                if (b && !atomic_load(&t->stop) && !interp_needed(cpu))
                    return go_on(c, b);
                c->single = true;
                break;
            }
        }
        next = rip_at(cpu, x, s->offset + s->length);
        if (!interpret_known(c, s) || !s->resume || cpu->rip != next)
            return go_anywhere(c);
        flags_out(cpu, x);
        return (uint64_t)(uintptr_t)(t->rx + s->resume);
    case SITE_HELP:
        nothing_to_load(c);
        cpu->rip = rip_at(cpu, x, s->offset);
        next = help_one(c, s, key, &done);
        if (done)
            return next ? next : go_anywhere(c);
        /* fall through */
    case SITE_FAST:
    case SITE_INTERP:
        cpu->rip = rip_at(cpu, x, s->offset);
        next = rip_at(cpu, x, s->offset + s->length);
        c->count[COUNT_INTERP_ONE]++;
        if (s->kind != SITE_FAST)
            c->fallback[s->link % FALLBACKS]++;
        else
            c->slow_fast[s->helper]++;
        if (s->kind == SITE_INTERP)
            nothing_to_load(c);
        if (!interpret_known(c, s) || !s->resume || cpu->rip != next) {
            if (s->kind == SITE_FAST && s->helper == FAST_IRET)
                fast_learn(c);
            return go_anywhere(c);
        }
        flags_out(cpu, x);
        return (uint64_t)(uintptr_t)(t->rx + s->resume);
    case SITE_LINK:
        cpu->rip = rip_at(cpu, x, s->offset);
        c->count[COUNT_LINK]++;
        if (c->check || atomic_load(&t->stop) || interp_needed(cpu))
            break;
        b = block_known(c, key);
        if (!b)
            break;
        pthread_mutex_lock(&t->lock);
        link_blocks(t, &t->links[s->link], b);
        pthread_mutex_unlock(&t->lock);
        return go_on(c, b);
    case SITE_INDIRECT: {
        const struct site *from = &t->sites[x->indirect_site];

        c->count[COUNT_INDIRECT]++;
        cpu->rip = x->target;
        if (cpu->code_size == 8 && !cpu_is_canonical(cpu, cpu->rip)) {
            /* #GP belongs to the branch. */
            cpu->rip = rip_at(cpu, x, from->offset);
            cpu->gpr[GPR_RSP] -= (uint64_t)(int64_t)(int32_t)from->link;
            interpret_one(c, s->block);
            break;
        }
        if (c->check || atomic_load(&t->stop) || interp_needed(cpu))
            break;
        b = block_known(c, key);
        if (!b)
            break;
        jump_remember(c, b, cpu->rip);
        return go_on(c, b);
    }
    case SITE_POLL:
        c->count[COUNT_POLL]++;
        cpu->rip = rip_at(cpu, x, s->offset);
        break;
    case SITE_FAULT:
        cpu->rip = rip_at(cpu, x, (int32_t)x->fault_offset);
        c->count[COUNT_FAULT]++;
        interpret_one(c, s->block);
        break;
    case SITE_EXIT:
        cpu->rip = rip_at(cpu, x, s->offset);
        if (s->link != UINT32_MAX) {
            if (cpu->code_size == 2)
                cpu->rip = (uint16_t)cpu->rip;
            if (cpu->rip > cpu->seg[SEG_CS].limit) {
                cpu->rip = rip_at(cpu, x, (int32_t)s->link);
                interpret_one(c, s->block);
            }
        }
        break;
    }
    return 0;
}

/* ---- many vCPUs ----------------------------------------------------------------------------- */

/* Everybody out, and make room in the cache. Called outside. */
static void empty_cache(struct bt_cpu *c)
{
    struct translator *t = c->t;
    bool expected = false, names;
    uint64_t began = now_ns(), took;

    c->want_empty = false;
    if (!atomic_compare_exchange_strong(&t->stop, &expected, true)) {
        while (atomic_load(&t->stop))
            sched_yield();
        return;
    }
    for (unsigned i = 0; i < t->cpu_count; i++)
        atomic_store(&t->cpus[i]->context->poll, 0);
    for (unsigned i = 0; i < t->cpu_count; i++)
        while (t->cpus[i] != c && atomic_load(&t->cpus[i]->inside)) {
            atomic_store(&t->cpus[i]->context->poll, 0);
            sched_yield();
        }
    pthread_mutex_lock(&t->lock);
    if (cache_full(t)) { /* or somebody was here before us */
        names = cache_recycle(t);
        for (unsigned i = 0; i < t->cpu_count; i++) {
            t->cpus[i]->names_gone |= names;
            t->cpus[i]->code_gone = true;
            memset(t->cpus[i]->warm, 0, WARM_SIZE); /* what is seldom used may stay out */
        }
        took = now_ns() - began;
        t->stats.longest_ns = MAX(t->stats.longest_ns, took);
    }
    pthread_mutex_unlock(&t->lock);
    atomic_store(&t->stop, false);
}

/* Nobody may be emptying the cache while we are in it. */
static void go_inside(struct bt_cpu *c)
{
    for (;;) {
        atomic_store(&c->inside, true);
        if (!atomic_load(&c->t->stop))
            break;
        atomic_store(&c->inside, false);
        while (atomic_load(&c->t->stop))
            sched_yield();
    }
    if (c->code_gone) {
        if (c->names_gone)
            mmu_flush_linear(c->cpu);
        c->names_gone = c->code_gone = false;
        jumps_drop(c);
        stacks_reset(c);
    }
}

/* ---- the loop ------------------------------------------------------------------------------- */

void enter_block(struct bt_cpu *c, struct block *b, uint32_t key)
{
    struct cpu *cpu = c->cpu;
    struct bt_context *x = c->context;

    key_enter(c, key);
    if (cpu->code_size != 8)
        limits_set(cpu, x);
    x->page_rip = cpu->rip - (linear_rip(cpu) & 0xfff);
    flags_out(cpu, x);
    x->vec_resume = key & KEY_USER ? 1 : 0;
    area_enter(c, key);
    jump_remember(c, b, cpu->rip);
    c->single = false;
    c->count[COUNT_ENTER]++;
    c->t->stub.enter(cpu, block_body(c->t, b));
}

static void tick(struct bt_cpu *c)
{
    uint64_t now = rdtsc();

    if (now - c->last_tick > TICK_TSC) {
        c->last_tick = now;
        if (c->cpu->tick)
            c->cpu->tick(c->cpu);
    }
}

/* Registers do not survive the way back from an exception: what is needed is read from cpu->engine,
 * unchanged since. */
static enum interp_result loop(struct cpu *cpu)
{
    struct bt_cpu *const c = cpu->engine;
    jmp_buf here;

    if (_setjmp(here))
        interrupt_deliver(cpu, cpu->raise_vector, INTERRUPT_EXCEPTION, cpu->raise_has_error,
                          cpu->raise_error);
    cpu->unwind = &here;
    for (;;) {
        enum interp_result r;
        struct block *b;
        uint32_t key;

        tick(c);
        if (c->check)
            check_turn(c);
        if (c->want_empty) {
            atomic_store(&c->inside, false);
            empty_cache(c);
        }
        go_inside(c);
        atomic_store(&c->context->poll, 1);
        if (interp_needed(cpu)) {
            c->count[COUNT_INTERP_EVENT]++;
            r = interp_step(cpu, 1);
            if (r != INTERP_OK)
                return r;
            continue;
        }
        key = key_of(cpu);
        b = block_at_rip(c, key | (c->single ? KEY_SINGLE : 0));
        if (!b) {
            c->single = false;
            c->count[COUNT_INTERP_COLD]++;
            r = interp_stretch(cpu, COLD_STRETCH);
            if (r != INTERP_OK)
                return r;
            continue;
        }
        if (!c->check) {
            enter_block(c, b, key);
            continue;
        }
        if (c->differs || !check_run(c, b, key))
            return INTERP_EVENT;
        if (c->left) {
            const struct site *s = &c->t->sites[c->context->site];

            r = interp_step(cpu, 1);
            if (s->kind == SITE_FAST && s->helper == FAST_IRET)
                fast_learn(c);
            if (r != INTERP_OK)
                return r;
        }
    }
}

enum interp_result translator_run(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;
    jmp_buf *outer = cpu->unwind;
    enum interp_result r;

    fault_thread(c);
    r = loop(cpu);
    atomic_store(&c->inside, false);
    if (c->check)
        check_pause(c);
    cpu->unwind = outer;
    return r;
}

bool translator_differs(const struct cpu *cpu)
{
    return ((const struct bt_cpu *)cpu->engine)->differs;
}

/* ---- attaching ------------------------------------------------------------------------------ */

static void table_made(struct cpu *cpu, struct tlb_table *table)
{
    struct bt_cpu *c = cpu->engine;

    if (mmap(table->head, CONTEXT_AT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, cpu->fd, 0) ==
            MAP_FAILED ||
        mmap(table->head + CONTEXT_AT, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             c->context_fd, 0) == MAP_FAILED) {
        fprintf(stderr, "hospes: no memory for a vCPU's translation tables: %s\n", strerror(errno));
        abort();
    }
}

/* The lowest frames are there from the start; a return never goes below them. Their guest address
 * is not canonical, and secret: a guest can return to any number, but not find this one. */
static uint8_t *stack_new(const struct translator *t)
{
    uint64_t nowhere;
    uint8_t *p = mmap(NULL, STACK_SIZE + 2 * STACK_GUARD, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED || mprotect(p + STACK_GUARD, STACK_SIZE, PROT_READ | PROT_WRITE) < 0)
        abort();
    if (getrandom(&nowhere, sizeof(nowhere), 0) != sizeof(nowhere))
        abort();
    nowhere = (nowhere >> 2) | BIT(63);
    p += STACK_GUARD;
    for (unsigned at = STACK_SIZE - STACK_MARGIN; at < STACK_SIZE; at += 16) {
        memcpy(p + at, &t->stub.no_return, 8);
        memcpy(p + at + 8, &nowhere, 8);
    }
    return p;
}

static struct translator *translator_new(const struct translator_options *o, struct error *err)
{
    struct translator *t = xcalloc(1, sizeof(*t));
    struct translator_host host;

    t->options = *o;
    if (!t->options.cache_size)
        t->options.cache_size = 128 * MiB;
    t->options.cache_size = MIN(MAX(t->options.cache_size, TRANSLATOR_CACHE_MIN),
                                TRANSLATOR_CACHE_MAX);
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->check_lock, NULL);
    pthread_mutex_init(&t->check_next, NULL);
    if (t->options.check)
        t->options.warm = 0; /* everything */
    translator_host_look(&host);
    t->features = (host.fsgsbase ? HOST_FSGSBASE : 0) | (host.avx ? HOST_AVX : 0) |
                  (host.avx512 ? HOST_AVX512 : 0);
    if (translator_host_check(&host, err) < 0) {
        free(t);
        return NULL;
    }
    t->fd = -1;
    if (cache_new(t, err) < 0 || tools_open(t, err) < 0) {
        tools_close(t);
        cache_free(t);
        free(t);
        return NULL;
    }
    t->sites[SITE_OF_INDIRECT].kind = SITE_INDIRECT;
    t->sites[SITE_OF_FAULT].kind = SITE_FAULT;
    stubs_make(t);
    cache_begin(t);
    perf_map_stubs(t);
    fault_setup();
    return t;
}

static void report(const struct translator *t)
{
    if (t->options.check)
        check_print(t, stderr);
    if (t->options.stats)
        print_stats(t, stderr);
}

static void translator_free(struct translator *t)
{
    tools_close(t);
    cache_empty(t);
    cache_free(t);
    free(t);
}

static void attach(struct translator *t, struct cpu *cpu)
{
    struct bt_cpu *c = xcalloc(1, sizeof(*c));

    interp_attach(cpu);
    c->t = t;
    c->cpu = cpu;
    c->context_fd = memfd_create("hospes-vcpu", MFD_CLOEXEC);
    if (c->context_fd < 0 || ftruncate(c->context_fd, 4096) < 0)
        abort();
    c->context = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c->context_fd, 0);
    if (c->context == MAP_FAILED)
        abort();
    c->context->cpu = (uint64_t)(uintptr_t)cpu;
    c->context->host_mxcsr = 0x1f80;
    c->stack[0] = stack_new(t);
    c->stack[1] = stack_new(t);
    for (unsigned i = 0; i < 2; i++)
        c->stack_base[i] = (uint64_t)(uintptr_t)(c->stack[i] + STACK_SIZE - STACK_MARGIN);
    c->warm = xcalloc(1, WARM_SIZE);
    if (t->options.check)
        check_new(c);
    cpu->engine = c;
    stacks_reset(c);
    t->cpus[t->cpu_count++] = c;
    mmu_set_hooks(cpu, table_made, code_dropped);
}

static void detach(struct bt_cpu *c)
{
    struct cpu *cpu = c->cpu;

    mmu_set_hooks(cpu, NULL, NULL);
    for (unsigned i = 0; i < 2; i++)
        munmap(c->stack[i] - STACK_GUARD, STACK_SIZE + 2 * STACK_GUARD);
    fault_thread(NULL);
    interp_detach(cpu);
    munmap(c->context, 4096);
    close(c->context_fd);
    free(c->warm);
    check_free(c);
    cpu->engine = NULL;
    free(c);
}

void translator_attach(struct cpu *cpu, const struct translator_options *o)
{
    struct error err = {0};
    struct translator *t = translator_new(o, &err);

    if (!t) {
        fprintf(stderr, "hospes: %s\n", err.text);
        abort();
    }
    attach(t, cpu);
}

void translator_detach(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;
    struct translator *t = c->t;

    report(t);
    detach(c);
    translator_free(t);
}

/* ---- as an engine --------------------------------------------------------------------------- */

struct bt_engine {
    struct engine *engine;
    struct translator *t;
    struct memory_listener listener;
};

static void bt_kick(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;

    if (c)
        atomic_store(&c->context->poll, 0);
}

static void ask_all_to_flush(struct memory_listener *l)
{
    struct engine *e = container_of(l, struct bt_engine, listener)->engine;

    for (unsigned i = 0; i < e->cpu_count; i++) {
        cpu_post(e->cpus[i], CPU_EVENT_FLUSH);
        bt_kick(e->cpus[i]);
    }
}

static _Thread_local struct bt_cpu *current;

static void flush(struct memory_listener *l)
{
    struct engine *e = container_of(l, struct bt_engine, listener)->engine;

    ask_all_to_flush(l);
    if (current)
        atomic_store(&current->flushing, true);
    for (unsigned i = 0; i < e->cpu_count; i++) {
        struct bt_cpu *c = e->cpus[i]->engine;

        while (c != current && atomic_load(&c->inside) && !atomic_load(&c->flushing) &&
               (atomic_load(&e->cpus[i]->events) & CPU_EVENT_FLUSH)) {
            bt_kick(e->cpus[i]);
            sched_yield();
        }
    }
    if (current)
        atomic_store(&current->flushing, false);
}

static int probe(struct error *err)
{
    struct translator_host host;

    translator_host_look(&host);
    return translator_host_check(&host, err);
}

static int create(struct engine *e, struct error *err)
{
    struct bt_engine *x = xcalloc(1, sizeof(*x));

    if (!options_are_set)
        translator_options_default(&options_now);
    x->t = translator_new(&options_now, err);
    if (!x->t) {
        free(x);
        return -EIO;
    }
    for (unsigned i = 0; i < e->cpu_count; i++)
        attach(x->t, e->cpus[i]);
    x->engine = e;
    x->listener = (struct memory_listener){.changed = ask_all_to_flush, .flush = flush};
    memory_listen(e->memory, &x->listener);
    e->data = x;
    return 0;
}

static void destroy(struct engine *e)
{
    struct bt_engine *x = e->data;

    memory_unlisten(e->memory, &x->listener);
    report(x->t);
    for (unsigned i = 0; i < e->cpu_count; i++)
        detach(e->cpus[i]->engine);
    translator_free(x->t);
    free(x);
    e->data = NULL;
}

static enum engine_exit run(struct engine *e, struct cpu *cpu, struct error *err)
{
    enum interp_result r;

    current = cpu->engine;
    r = translator_run(cpu);
    current = NULL;
    if (translator_differs(cpu)) {
        error_set(err, EIO, "the engine check has found a difference");
        return ENGINE_ERROR;
    }
    switch (r) {
    case INTERP_SHUTDOWN: return ENGINE_SHUTDOWN;
    case INTERP_HALTED: return ENGINE_HALTED;
    default: return ENGINE_EVENT;
    }
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .summary = "binary translation, on any x86-64 host",
    .probe = probe,
    .limits = cpu_limits_software,
    .create = create,
    .destroy = destroy,
    .run = run,
    .kick = bt_kick,
};
