/*
 * run.c - the run loop: events between instructions, fetching, the decode cache.
 *
 * Two loops. The outer one stands at an instruction boundary and looks at everything the manual
 * has there (SDM vol. 3, table 6-2): events by priority, shadows, TF, RF, breakpoints. When
 * nothing of that kind is on, it enters the inner one, which fetches and executes and looks at one
 * word (cpu->events) only, until an instruction marked INSN_BOUNDARY, an event, the end of the
 * budget or an exception brings it back. So whatever the outer loop found must hold until then:
 * an instruction that changes mode, privilege, paging, IF, TF, RF, shadows or DR7 must be marked.
 *
 * The decode cache is indexed by the linear address and its entries are checked against the bytes
 * in memory at every execution, so nobody ever has to invalidate it. The page that code comes from
 * is looked up in the TLB once and kept until the next look of the outer loop; an instruction
 * within 16 bytes of the page's (or the segment's) end goes the slow way, which touches the next
 * page only if the instruction reaches into it.
 *
 * Exceptions come back by longjmp into interp_loop(); everything it needs is in memory (struct
 * interp, struct cpu), nothing in locals. cpu->rip still is the instruction's own then.
 */
#include "interp/interp.h"

#include "interp/exceptions.h"
#include "interp/handlers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { DR6_BS = 1 << 14, DR6_BT = 1 << 15 };
enum { TICK = 4096 }; /* instructions between two calls of cpu->tick: some 50 microseconds */

/* Events that the inner loop stops for whatever the state (INIT waits for the end of SMM). */
enum {
    EVENTS_ALWAYS = CPU_EVENT_INIT | CPU_EVENT_SIPI | CPU_EVENT_FLUSH | CPU_EVENT_EXIT |
                    CPU_EVENT_WAKE
};

static void *reserve(size_t size, const char *what)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED) {
        fprintf(stderr, "hospes: no memory for %s: %s\n", what, strerror(errno));
        abort();
    }
    return p;
}

void interp_attach(struct cpu *cpu)
{
    if (!cpu->tlb)
        mmu_attach(cpu);
    if (cpu->interp)
        return;
    cpu->interp = xcalloc(1, sizeof *cpu->interp);
    /* Untouched slots cost nothing, and zero means empty. */
    cpu->interp->slots = reserve(SLOT_COUNT * sizeof(struct insn), "the decode cache");
    cpu->interp->empty = cpu->interp->data = mmu_empty_table();
}

void interp_detach(struct cpu *cpu)
{
    if (cpu->interp) {
        munmap(cpu->interp->slots, SLOT_COUNT * sizeof(struct insn));
        free(cpu->interp);
        cpu->interp = NULL;
    }
    if (cpu->tlb)
        mmu_detach(cpu);
}

uint64_t interp_count(const struct cpu *cpu)
{
    return cpu->interp ? cpu->interp->executed : 0;
}

/* ---- fetching ----------------------------------------------------------------------------- */

static always_inline struct insn *slot_of(struct insn *slots, gva linear)
{
    return &slots[(linear ^ linear >> SLOT_BITS) & (SLOT_COUNT - 1)];
}

/* Take over what the CPU's mode says about fetching; the page is looked up when needed. */
static void fetch_setup(struct cpu *cpu)
{
    struct interp *it = cpu->interp;

    it->span = 0;
    it->mode = cpu->code_size;
    if (!cpu_protected(cpu) || cpu_in_vm86(cpu))
        it->mode |= SLOT_REAL;
    it->cs_base = cpu->code_size == 8 ? 0 : cpu->seg[SEG_CS].base;
    it->rip_mask = cpu->code_size == 8 ? UINT64_MAX : UINT32_MAX;
}

static enum mmu_mode fetch_mode(const struct cpu *cpu)
{
    return (enum mmu_mode)cpu->mmu_mode;
}

/* Keep the page of `linear` for the fast way, if its code can be read through a host pointer. */
static void fetch_page(struct cpu *cpu, gva linear)
{
    struct interp *it = cpu->interp;
    const uint8_t *host = tlb_lookup(cpu, linear & ~UINT64_C(0xfff), 1, fetch_mode(cpu), MMU_FETCH);
    uint64_t span = 0x1000;

    it->span = 0;
    it->page = linear & ~UINT64_C(0xfff);
    if (!host)
        return;
    it->host = host;
    if (cpu->code_size != 8) {
        /* The first byte of the page that lies outside of the segment. A segment that wraps around
         * the end of the address space takes the slow way. */
        uint64_t end = it->cs_base + cpu->seg[SEG_CS].limit + 1;

        if (it->page < it->cs_base || end <= it->page)
            return;
        span = MIN(span, end - it->page);
    }
    it->span = (uint32_t)span;
}

/* Read code bytes within one page; raises #PF. */
static void fetch_bytes(struct cpu *cpu, gva linear, uint8_t *to, unsigned size)
{
    struct ram_block *block;
    uint64_t offset;
    gpa address;
    const uint8_t *p = mmu_access_page(cpu, linear, fetch_mode(cpu), MMU_FETCH, &address, &block,
                                       &offset);

    if (p) {
        memcpy(to, p, size);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        to[i] = (uint8_t)cpu_phys_read(cpu, address + i, 1);
}

/*
 * The slow way to an instruction, from anywhere: as many bytes as lie in the page and the segment,
 * more only if it turns out longer. The bytes of the second page are read after the first page's
 * have proved the instruction to go on, so a fault there is one the processor has too.
 */
static const struct insn *fetch_slow(struct cpu *cpu)
{
    struct interp *it = cpu->interp;
    gva linear = (it->cs_base + cpu->rip) & it->rip_mask;
    struct insn *slot = slot_of(it->slots, linear);
    unsigned in_page = 0x1000 - (unsigned)(linear & 0xfff), in_segment = INSN_MAX_LENGTH, have;
    uint8_t bytes[16] = {0};
    enum decode_result result;

    if (cpu->code_size != 8) {
        if (cpu->rip > cpu->seg[SEG_CS].limit)
            cpu_raise_error(cpu, EXC_GP, 0);
        in_segment = (unsigned)MIN(cpu->seg[SEG_CS].limit - cpu->rip + 1,
                                   (uint64_t)INSN_MAX_LENGTH);
    } else {
        /* Sequential execution may run into the hole between the canonical halves. */
        segment_linear(cpu, SEG_CS, cpu->rip, 1, MMU_FETCH);
    }
    have = MIN(in_page, in_segment);
    fetch_bytes(cpu, linear, bytes, have);
    fetch_page(cpu, linear);
    if (slot->mode == it->mode && slot->length <= have &&
        memcmp(slot->bytes, bytes, slot->length) == 0)
        return slot;
    slot->mode = 0;
    result = insn_decode(bytes, have, cpu->code_size, slot);
    if (result == DECODE_MORE && have < in_segment) {
        gva next = (linear + have) & it->rip_mask;

        if (cpu->code_size == 8)
            segment_linear(cpu, SEG_CS, next, 1, MMU_FETCH);
        fetch_bytes(cpu, next, bytes + have, in_segment - have);
        result = insn_decode(bytes, in_segment, cpu->code_size, slot);
    }
    switch (result) {
    case DECODE_OK: break;
    case DECODE_UD: cpu_raise(cpu, EXC_UD);
    case DECODE_MORE:
    case DECODE_TOO_LONG: cpu_raise_error(cpu, EXC_GP, 0);
    }
    insn_bind(cpu, slot, (it->mode & SLOT_REAL) != 0);
    slot->mode = it->mode;
    return slot;
}

/* Do the first `length` of 16 bytes at p equal the slot's? */
static always_inline bool bytes_match(const struct insn *in, const uint8_t *p)
{
    const uint8_t *mine = (const uint8_t *)in + offsetof(struct insn, bytes);
    uint64_t low = *(const volatile mmu_u64 *)p ^ *(const mmu_u64 *)mine;
    unsigned length = in->length;

    if (likely(length <= 8))
        return low << (64 - 8 * length) == 0;
    return low == 0 && (*(const volatile mmu_u64 *)(p + 8) ^ *(const mmu_u64 *)(mine + 8))
                               << (128 - 8 * length) ==
                           0;
}

static const struct insn *fetch(struct cpu *cpu)
{
    struct interp *it = cpu->interp;
    gva linear = (it->cs_base + cpu->rip) & it->rip_mask;
    uint64_t offset = linear - it->page;
    struct insn *slot = slot_of(it->slots, linear);

    if (offset + 16 <= it->span && slot->mode == it->mode && bytes_match(slot, it->host + offset))
        return slot;
    return fetch_slow(cpu);
}

/* ---- executing ---------------------------------------------------------------------------- */

static always_inline void execute(struct cpu *cpu, const struct insn *in, uint64_t rip_mask)
{
    cpu->next_rip = (cpu->rip + in->length) & rip_mask;
    in->run(cpu, in);
    cpu->rip = cpu->next_rip;
}

/*
 * The inner loop. What fetch_setup() found is kept in registers; only fetch_slow() changes some of
 * it. The budget lives in memory, for an exception leaves by longjmp.
 */
static void execute_many(struct cpu *cpu)
{
    struct interp *const it = cpu->interp;
    struct insn *const slots = it->slots;
    const uint64_t cs_base = it->cs_base, rip_mask = it->rip_mask;
    const uint32_t watch = it->watch;
    const uint8_t mode = it->mode;
    const uint8_t *host = it->host;
    gva page = it->page;
    uint64_t span = it->span;
    const struct insn *in;

    do {
        gva linear = (cs_base + cpu->rip) & rip_mask;
        uint64_t offset = linear - page;
        struct insn *slot = slot_of(slots, linear);

        if (unlikely(atomic_load_explicit(&cpu->events, memory_order_relaxed) & watch))
            return;
        if (likely(offset + 16 <= span) && likely(slot->mode == mode) &&
            likely(bytes_match(slot, host + offset))) {
            in = slot;
        } else {
            in = fetch_slow(cpu);
            host = it->host;
            page = it->page;
            span = it->span;
        }
        /* Code goes straight on more often than not; its slots are a cache line each. */
        __builtin_prefetch(slot_of(slots, linear + in->length));
        linear = cpu->rip + in->length;
        execute(cpu, in, rip_mask);
        if (unlikely(it->stretch) && cpu->rip != (linear & rip_mask)) {
            it->stretch_over = true;
            return;
        }
    } while (likely(--it->budget) && likely(!(in->flags & INSN_BOUNDARY)));
}

/* An event takes the place of an instruction in the budget, but is none. */
static void count_event(struct interp *it)
{
    it->budget--;
    it->events++;
}

/* Was the instruction just executed a branch that was taken? What single steps under DEBUGCTL.BTF
 * stop for. A conditional one to the instruction behind it counts as not taken. */
static bool branched(const struct cpu *cpu, const struct insn *in, uint64_t behind)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT: return true;
    default: /* a string instruction with more to do stays where it is */
        return cpu->rip != behind && !(in->prefix & (PREFIX_REP | PREFIX_REPNE));
    }
}

/* One instruction with everything around it that execute_many() need not think of. */
static void execute_careful(struct cpu *cpu)
{
    struct interp *it = cpu->interp;
    bool stepping = (cpu->rflags & RFLAGS_TF) != 0, by_branch = cpu->debugctl & DEBUGCTL_BTF;
    const struct insn *in;
    uint64_t bits, behind;

    /* The one fault whose image has RF as it was (clear): the handler sets it to go on. */
    if (cpu_debug_active(cpu) && !cpu->movss_shadow && debug_fetch_match(cpu, &bits)) {
        count_event(it);
        debug_exception(cpu, bits);
        return;
    }
    in = fetch(cpu);
    behind = (cpu->rip + in->length) & it->rip_mask;
    cpu->rflags &= ~(uint64_t)RFLAGS_RF;
    cpu->sti_shadow = cpu->movss_shadow = false;
    execute(cpu, in, it->rip_mask);
    it->budget--;
    /* Delivery of INT n clears TF and with it the trap; INTO may have done nothing. */
    if (stepping && !((in->flags & INSN_INT) && !(cpu->rflags & RFLAGS_TF)) && !cpu->movss_shadow &&
        (!by_branch || branched(cpu, in, behind)))
        cpu->dr6_pending |= DR6_BS;
    if (cpu->dr6_pending && cpu->activity == CPU_HALTED)
        cpu->activity = CPU_RUNNING; /* the trap behind HLT ends it */
}

/* ---- between instructions ----------------------------------------------------------------- */

static void deliver(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind, bool has_error,
                    uint32_t error)
{
    count_event(cpu->interp);
    interrupt_deliver(cpu, vector, kind, has_error, error);
}

/*
 * Take the most urgent event, if any may be taken now; true: one was, look again. An SMI waits for
 * a shadow to pass and a trap to be taken, for the saved state has no room for either: the manual
 * has it before the trap, but an instruction later is where a guest cannot tell.
 */
static bool take_event(struct cpu *cpu, uint32_t events)
{
    bool held = cpu->movss_shadow || cpu->sti_shadow;

    if ((events & CPU_EVENT_SMI) && !cpu->in_smm && !held && !cpu->dr6_pending) {
        cpu_retract(cpu, CPU_EVENT_SMI);
        count_event(cpu->interp);
        smm_enter(cpu);
        return true;
    }
    if (cpu->dr6_pending && !cpu->movss_shadow) {
        uint64_t bits = cpu->dr6_pending;

        cpu->dr6_pending = 0;
        count_event(cpu->interp);
        debug_exception(cpu, bits);
        return true;
    }
    if ((events & CPU_EVENT_NMI) && !cpu->nmi_blocked && !held) {
        cpu_retract(cpu, CPU_EVENT_NMI);
        deliver(cpu, EXC_NMI, INTERRUPT_NMI, false, 0);
        return true;
    }
    if ((events & CPU_EVENT_INTR) && (cpu->rflags & RFLAGS_IF) && !held && cpu->intc.acknowledge) {
        int vector = cpu->intc.acknowledge(cpu->intc.opaque);

        if (vector >= 0) {
            deliver(cpu, (uint8_t)vector, INTERRUPT_EXTERNAL, false, 0);
            return true;
        }
    }
    return false;
}

/* Which events end the inner loop, given what masks them now. */
static uint32_t watched_events(const struct cpu *cpu)
{
    uint32_t watch = EVENTS_ALWAYS;

    if (cpu->rflags & RFLAGS_IF)
        watch |= CPU_EVENT_INTR;
    if (!cpu->nmi_blocked)
        watch |= CPU_EVENT_NMI;
    if (!cpu->in_smm)
        watch |= CPU_EVENT_SMI;
    else
        watch &= ~(uint32_t)CPU_EVENT_INIT; /* it waits for RSM */
    return watch;
}

static bool data_watched(const struct cpu *cpu)
{
    return cpu_debug_active(cpu) ||
           ((cpu->rflags & RFLAGS_AC) && (cpu->cr0 & CR0_AM) && cpu->cpl == 3);
}

static enum interp_result interp_loop(struct cpu *cpu)
{
    struct interp *it = cpu->interp;
    jmp_buf here;

    /* Registers do not survive the way back from an exception: `cpu` and `it` are read again from
     * where setjmp leaves them, unchanged since. */
    if (_setjmp(here)) {
        count_event(it);
        /* What the instruction would have trapped for, had it ended, it will trap for when it is
         * executed again. Not so what MOV SS held back before it, and a task switch that took
         * place. */
        cpu->dr6_pending = it->dr6_held | (cpu->dr6_pending & DR6_BT);
        interrupt_deliver(cpu, cpu->raise_vector, INTERRUPT_EXCEPTION, cpu->raise_has_error,
                          cpu->raise_error);
    }
    cpu->unwind = &here;
    for (;;) {
        uint32_t events = atomic_load_explicit(&cpu->events, memory_order_acquire);

        if (cpu->activity != CPU_RUNNING)
            return cpu->activity == CPU_SHUTDOWN ? INTERP_SHUTDOWN : INTERP_HALTED;
        if (unlikely(events & EVENTS_ALWAYS)) {
            if (events & CPU_EVENT_FLUSH) {
                cpu_retract(cpu, CPU_EVENT_FLUSH);
                mmu_flush_all(cpu);
            }
            if (events & CPU_EVENT_WAKE)
                cpu_retract(cpu, CPU_EVENT_WAKE);
            if (events & (CPU_EVENT_EXIT | CPU_EVENT_SIPI | (cpu->in_smm ? 0 : CPU_EVENT_INIT)))
                return INTERP_EVENT;
        }
        if (it->budget == 0 || it->stretch_over)
            return INTERP_OK;
        if (unlikely(cpu->pending_vector >= 0)) {
            uint8_t vector = (uint8_t)cpu->pending_vector;

            cpu->pending_vector = -1;
            deliver(cpu, vector, (enum interrupt_kind)cpu->pending_kind, cpu->pending_has_error,
                    cpu->pending_error);
            continue;
        }
        if ((events || cpu->dr6_pending) && take_event(cpu, events))
            continue;
        it->dr6_held = cpu->dr6_pending;
        fetch_setup(cpu);
        it->data = data_watched(cpu) ? it->empty : cpu->tlb->table[cpu->mmu_mode];
        if (unlikely((cpu->rflags & (RFLAGS_TF | RFLAGS_RF)) || cpu->sti_shadow ||
                     cpu->movss_shadow || cpu->dr6_pending || cpu_debug_active(cpu))) {
            execute_careful(cpu);
        } else {
            it->watch = watched_events(cpu);
            /* An interrupt that turned out spurious must not stop us forever. */
            if (events & it->watch) {
                execute(cpu, fetch(cpu), it->rip_mask);
                it->budget--;
            } else {
                execute_many(cpu);
            }
        }
    }
}

enum interp_trial interp_try(struct cpu *cpu, bool (*may)(const struct insn *in),
                             const struct insn **out)
{
    struct interp *const it = cpu->interp;
    jmp_buf here, *const outer = cpu->unwind;
    const struct insn *in;
    bool tried;

    if (_setjmp(here)) {
        cpu->unwind = outer;
        return TRIAL_RAISED;
    }
    cpu->unwind = &here;
    fetch_setup(cpu);
    it->data = it->empty;
    in = fetch(cpu);
    *out = in;
    tried = may(in);
    if (tried) {
        cpu->sti_shadow = cpu->movss_shadow = false;
        execute(cpu, in, it->rip_mask);
    }
    cpu->unwind = outer;
    return tried ? TRIAL_DONE : TRIAL_REFUSED;
}

static enum interp_result run(struct cpu *cpu, uint64_t count)
{
    jmp_buf *outer = cpu->unwind;
    enum interp_result result;

    if (!cpu->interp || !cpu->tlb)
        interp_attach(cpu);
    if (cpu->activity == CPU_HALTED &&
        (cpu_has_work(cpu) || (cpu->monitor_armed && (cpu->events & CPU_EVENT_WAKE)))) {
        if (!cpu->in_smm && cpu_retract(cpu, CPU_EVENT_SMI))
            smm_enter(cpu); /* RSM comes back to the halt */
        cpu->activity = CPU_RUNNING;
    }
    cpu->interp->budget = count;
    cpu->interp->events = 0;
    cpu->interp->stretch_over = false;
    result = interp_loop(cpu);
    cpu->interp->executed += count - cpu->interp->budget - cpu->interp->events;
    cpu->unwind = outer;
    return result;
}

enum interp_result interp_run(struct cpu *cpu)
{
    enum interp_result result;

    while ((result = run(cpu, TICK)) == INTERP_OK)
        if (cpu->tick)
            cpu->tick(cpu);
    return result;
}

enum interp_result interp_step(struct cpu *cpu, uint64_t count)
{
    return run(cpu, count);
}

enum interp_result interp_stretch(struct cpu *cpu, uint64_t count)
{
    enum interp_result result;

    cpu->interp->stretch = true;
    result = run(cpu, count);
    cpu->interp->stretch = false;
    return result;
}

bool interp_needed(const struct cpu *cpu)
{
    uint32_t events = atomic_load_explicit(&cpu->events, memory_order_acquire);

    return (events && (events & watched_events(cpu))) || cpu->activity != CPU_RUNNING ||
           cpu->pending_vector >= 0 || cpu->dr6_pending || cpu->sti_shadow || cpu->movss_shadow ||
           (cpu->rflags & (RFLAGS_TF | RFLAGS_RF)) || data_watched(cpu);
}
