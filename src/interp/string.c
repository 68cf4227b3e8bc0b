/*
 * string.c - MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with REP.
 *
 * A repeated instruction commits RSI, RDI and RCX after every iteration, so that a fault in the
 * middle leaves what the manual promises, and stops after a bounded amount of work with RIP still
 * on itself: then an interrupt can be taken, with RF set as the processor does. MOVS and STOS
 * going upward do whole stretches within a page at once, by host pointers from the TLB; when the
 * TLB has no entry, one ordinary iteration makes it.
 */
#include "interp/exceptions.h"
#include "interp/handlers.h"

/* Work before a repeated instruction lets others have a turn, in units of one element moved in
 * bulk. An iteration on its own, which may be MMIO, costs more. */
enum { WORK_LIMIT = 16384, WORK_SINGLE = 16 };

struct string {
    struct cpu *cpu;
    const struct insn *in;
    unsigned size;
    uint64_t mask; /* of addresses and the counter */
    int64_t step;  /* to the next element */
    uint32_t flags;
    bool flags_valid;
};

static always_inline uint64_t address_register_get(const struct string *s, unsigned reg)
{
    return s->cpu->gpr[reg] & s->mask;
}

static always_inline void address_register_set(struct string *s, unsigned reg, uint64_t value)
{
    reg_set(s->cpu, reg, value, s->mask == UINT64_MAX ? 8 : s->mask == UINT32_MAX ? 4 : 2);
}

static always_inline void advance(struct string *s, unsigned reg)
{
    address_register_set(s, reg, s->cpu->gpr[reg] + (uint64_t)s->step);
}

static void step_movs(struct string *s)
{
    uint64_t v = segment_load(s->cpu, (enum segment_name)s->in->segment,
                              address_register_get(s, GPR_RSI), s->size);

    segment_store(s->cpu, SEG_ES, address_register_get(s, GPR_RDI), v, s->size);
    advance(s, GPR_RSI);
    advance(s, GPR_RDI);
}

static void step_stos(struct string *s)
{
    segment_store(s->cpu, SEG_ES, address_register_get(s, GPR_RDI), s->cpu->gpr[GPR_RAX], s->size);
    advance(s, GPR_RDI);
}

static void step_lods(struct string *s)
{
    uint64_t v = segment_load(s->cpu, (enum segment_name)s->in->segment,
                              address_register_get(s, GPR_RSI), s->size);

    reg_write(s->cpu, GPR_RAX, v, s->size);
    advance(s, GPR_RSI);
}

static void compare(struct string *s, uint64_t a, uint64_t b)
{
    uint32_t f;

    switch (s->size) {
    case 1: __asm__("cmpb %b2, %b1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc"); break;
    case 2: __asm__("cmpw %w2, %w1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc"); break;
    case 4: __asm__("cmpl %k2, %k1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc"); break;
    default: __asm__("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc"); break;
    }
    s->flags = f;
    s->flags_valid = true;
}

static void step_cmps(struct string *s)
{
    uint64_t a = segment_load(s->cpu, (enum segment_name)s->in->segment,
                              address_register_get(s, GPR_RSI), s->size);
    uint64_t b = segment_load(s->cpu, SEG_ES, address_register_get(s, GPR_RDI), s->size);

    compare(s, a, b);
    advance(s, GPR_RSI);
    advance(s, GPR_RDI);
}

static void step_scas(struct string *s)
{
    uint64_t b = segment_load(s->cpu, SEG_ES, address_register_get(s, GPR_RDI), s->size);

    compare(s, reg_read(s->cpu, GPR_RAX, s->size), b);
    advance(s, GPR_RDI);
}

/* The destination is checked before the port is read: what a device gave is not lost. */
static void step_ins(struct string *s)
{
    uint16_t port = (uint16_t)s->cpu->gpr[GPR_RDX];
    uint64_t at = address_register_get(s, GPR_RDI);
    gva linear;

    io_check(s->cpu, port, s->size);
    linear = segment_linear(s->cpu, SEG_ES, at, s->size, MMU_WRITE);
    mmu_probe(s->cpu, linear, s->size, (enum mmu_mode)s->cpu->mmu_mode, MMU_WRITE);
    segment_store(s->cpu, SEG_ES, at, io_read(s->cpu, port, s->size), s->size);
    advance(s, GPR_RDI);
}

static void step_outs(struct string *s)
{
    uint16_t port = (uint16_t)s->cpu->gpr[GPR_RDX];
    uint64_t v;

    io_check(s->cpu, port, s->size);
    v = segment_load(s->cpu, (enum segment_name)s->in->segment, address_register_get(s, GPR_RSI),
                     s->size);
    io_write(s->cpu, port, v, s->size);
    advance(s, GPR_RSI);
}

/* How many elements from `offset` on are plainly reachable at one host pointer, at most `want`. */
static uint64_t stretch(const struct string *s, unsigned seg, uint64_t offset, uint64_t want,
                        enum mmu_access access, uint8_t **host)
{
    gva linear = fast_linear(s->cpu, seg, offset, s->size, access == MMU_WRITE);
    uint64_t room = 0x1000 - (linear & 0xfff), bytes;

    room = MIN(room, s->mask - offset) / s->size;
    want = MIN(want, room);
    if (want == 0)
        return 0;
    bytes = want * s->size;
    linear = fast_linear(s->cpu, seg, offset, (unsigned)bytes, access == MMU_WRITE);
    *host = fast_pointer(s->cpu, linear, (unsigned)bytes, access);
    return *host ? want : 0;
}

static void fill(uint8_t *to, uint64_t value, unsigned size, uint64_t count)
{
    if (size == 1) {
        memset(to, (uint8_t)value, count);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        host_store(to + i * size, value, size);
}

/* Some elements of STOS or MOVS at once; 0: none, do one the ordinary way. */
static uint64_t bulk_stos(struct string *s, uint64_t count)
{
    uint8_t *to;
    uint64_t n = stretch(s, SEG_ES, address_register_get(s, GPR_RDI), count, MMU_WRITE, &to);

    if (n == 0)
        return 0;
    fill(to, s->cpu->gpr[GPR_RAX], s->size, n);
    address_register_set(s, GPR_RDI, s->cpu->gpr[GPR_RDI] + n * s->size);
    return n;
}

static uint64_t bulk_movs(struct string *s, uint64_t count)
{
    uint8_t *to, *from;
    uint64_t n = stretch(s, SEG_ES, address_register_get(s, GPR_RDI), count, MMU_WRITE, &to);

    if (n)
        n = stretch(s, s->in->segment, address_register_get(s, GPR_RSI), n, MMU_READ, &from);
    if (n == 0)
        return 0;
    /* A destination within the source repeats a pattern, element by element. */
    if ((uintptr_t)to - (uintptr_t)from < n * s->size) {
        for (uint64_t i = 0; i < n; i++)
            host_store(to + i * s->size, host_load(from + i * s->size, s->size), s->size);
    } else {
        memmove(to, from, n * s->size);
    }
    address_register_set(s, GPR_RDI, s->cpu->gpr[GPR_RDI] + n * s->size);
    address_register_set(s, GPR_RSI, s->cpu->gpr[GPR_RSI] + n * s->size);
    return n;
}

static always_inline void string_run(struct cpu *cpu, const struct insn *in,
                                     void (*step)(struct string *s),
                                     uint64_t (*bulk)(struct string *s, uint64_t count))
{
    struct string s = {.cpu = cpu, .in = in, .size = in->operand_size};
    bool alone = (cpu->rflags & RFLAGS_TF) || (cpu->dr[7] & 0xff);
    uint64_t count, work = 0;

    s.mask = size_mask(in->address_size);
    s.step = cpu->rflags & RFLAGS_DF ? -(int64_t)s.size : (int64_t)s.size;
    cpu->rflags &= ~(uint64_t)RFLAGS_RF;
    if (!(in->prefix & (PREFIX_REP | PREFIX_REPNE))) {
        step(&s);
    } else {
        count = address_register_get(&s, GPR_RCX);
        while (count) {
            uint64_t done = 0;

            if (work >= WORK_LIMIT) {
                cpu->rflags |= RFLAGS_RF;
                cpu->next_rip = cpu->rip;
                break;
            }
            if (bulk && s.step > 0 && !alone)
                done = bulk(&s, MIN(count, (uint64_t)(WORK_LIMIT - work)));
            work += done;
            if (!done) {
                step(&s);
                done = 1;
                work += alone ? WORK_LIMIT : WORK_SINGLE;
            }
            count -= done;
            address_register_set(&s, GPR_RCX, count);
            /* REPE and REPNE look at ZF, bit 6 of AH in the packed flags. */
            if (s.flags_valid && ((s.flags >> 14 & 1) != 0) != ((in->prefix & PREFIX_REP) != 0))
                break;
        }
    }
    if (s.flags_valid)
        cpu_flags_unpack(cpu, s.flags);
}

static void do_movs(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_movs, bulk_movs);
}

static void do_stos(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_stos, bulk_stos);
}

static void do_lods(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_lods, NULL);
}

static void do_cmps(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_cmps, NULL);
}

static void do_scas(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_scas, NULL);
}

static void do_ins(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_ins, NULL);
}

static void do_outs(struct cpu *cpu, const struct insn *in)
{
    string_run(cpu, in, step_outs, NULL);
}

const struct insn_row insn_string[] = {
    {ZYDIS_MNEMONIC_MOVSB, do_movs}, {ZYDIS_MNEMONIC_MOVSW, do_movs},
    {ZYDIS_MNEMONIC_MOVSD, do_movs}, {ZYDIS_MNEMONIC_MOVSQ, do_movs},
    {ZYDIS_MNEMONIC_STOSB, do_stos}, {ZYDIS_MNEMONIC_STOSW, do_stos},
    {ZYDIS_MNEMONIC_STOSD, do_stos}, {ZYDIS_MNEMONIC_STOSQ, do_stos},
    {ZYDIS_MNEMONIC_LODSB, do_lods}, {ZYDIS_MNEMONIC_LODSW, do_lods},
    {ZYDIS_MNEMONIC_LODSD, do_lods}, {ZYDIS_MNEMONIC_LODSQ, do_lods},
    {ZYDIS_MNEMONIC_CMPSB, do_cmps}, {ZYDIS_MNEMONIC_CMPSW, do_cmps},
    {ZYDIS_MNEMONIC_CMPSD, do_cmps}, {ZYDIS_MNEMONIC_CMPSQ, do_cmps},
    {ZYDIS_MNEMONIC_SCASB, do_scas}, {ZYDIS_MNEMONIC_SCASW, do_scas},
    {ZYDIS_MNEMONIC_SCASD, do_scas}, {ZYDIS_MNEMONIC_SCASQ, do_scas},
    {ZYDIS_MNEMONIC_INSB, do_ins},   {ZYDIS_MNEMONIC_INSW, do_ins},
    {ZYDIS_MNEMONIC_INSD, do_ins},   {ZYDIS_MNEMONIC_OUTSB, do_outs},
    {ZYDIS_MNEMONIC_OUTSW, do_outs}, {ZYDIS_MNEMONIC_OUTSD, do_outs},
    {ZYDIS_MNEMONIC_INVALID, NULL},
};
