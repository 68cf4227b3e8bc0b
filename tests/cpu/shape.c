/*
 * shape.c - cases with branches and loops, with faults at chosen places, and those that change
 * their own code.
 *
 * A case is a list of items: random instructions from generate.c's templates, groups that are
 * known to be hard (flags changed in part and then a fault, what follows a flag through memory,
 * locked operations, the stack), and control flow around them: jumps forward, loops with a
 * bounded counter, calls of functions that stand behind the end, jumps through registers, tables
 * and the stack. What holds a counter or an address is reserved: no other instruction writes it.
 *
 * Addresses of instructions are fixes, never numbers, so that judge.c can take instructions out.
 * While a case is made, a fix names a label; at the end labels become instructions.
 *
 * The host must come to an end: all loops are bounded by what is reserved. Code that modifies
 * itself jumps before it runs what it wrote.
 */
#include "maker.h"

enum { LABELS = 60, FUNCTIONS = 5, TABLES = 6, TRIES = 60, FULL = MAX_INSNS - 26 };

struct shaper {
    struct maker *m;
    uint8_t label[LABELS]; /* the instruction it stands before */
    unsigned labels, functions, tables;
    unsigned begun; /* of the functions */
    uint8_t function[FUNCTIONS], table[TABLES], table_to[TABLES];
    unsigned depth;               /* of loops */
    unsigned total;               /* how often what is made now runs, at most */
    unsigned counter, iterations; /* of the innermost; NOT_GPR: not known */
    bool wrong, self_modifying, in_function;
    enum fault_kind fault;
    unsigned until_fault; /* items */
};

/* One instruction as bytes, with at most one fix. */
struct raw {
    uint8_t b[16];
    unsigned n;
    bool fixed;
    struct fix fix; /* `at` counts from b, `target` is a label */
};

static const uint16_t flag_mnemonics[] = {ZYDIS_MNEMONIC_INC,   ZYDIS_MNEMONIC_DEC,
                                          ZYDIS_MNEMONIC_INC,   ZYDIS_MNEMONIC_DEC,
                                          ZYDIS_MNEMONIC_SHL,   ZYDIS_MNEMONIC_SHR,
                                          ZYDIS_MNEMONIC_SAR,   ZYDIS_MNEMONIC_ROL,
                                          ZYDIS_MNEMONIC_ROR,   ZYDIS_MNEMONIC_RCL,
                                          ZYDIS_MNEMONIC_RCR,   ZYDIS_MNEMONIC_BT,
                                          ZYDIS_MNEMONIC_BTS,   ZYDIS_MNEMONIC_BTR,
                                          ZYDIS_MNEMONIC_CMC,   ZYDIS_MNEMONIC_STC,
                                          ZYDIS_MNEMONIC_CLC,   ZYDIS_MNEMONIC_NEG,
                                          ZYDIS_MNEMONIC_ADC,   ZYDIS_MNEMONIC_SBB,
                                          ZYDIS_MNEMONIC_CMP,   ZYDIS_MNEMONIC_TEST,
                                          ZYDIS_MNEMONIC_AND,   ZYDIS_MNEMONIC_XOR,
                                          ZYDIS_MNEMONIC_ADD,   ZYDIS_MNEMONIC_SUB,
                                          ZYDIS_MNEMONIC_SAHF,  ZYDIS_MNEMONIC_SHLD,
                                          ZYDIS_MNEMONIC_SHRD,  ZYDIS_MNEMONIC_MUL,
                                          ZYDIS_MNEMONIC_IMUL,  ZYDIS_MNEMONIC_BSF,
                                          ZYDIS_MNEMONIC_ADCX,  ZYDIS_MNEMONIC_ADOX,
                                          ZYDIS_MNEMONIC_TZCNT, ZYDIS_MNEMONIC_STD,
                                          ZYDIS_MNEMONIC_CLD,   0};
static const uint16_t consumer_mnemonics[] = {ZYDIS_MNEMONIC_ADC,
                                              ZYDIS_MNEMONIC_SBB,
                                              ZYDIS_MNEMONIC_RCL,
                                              ZYDIS_MNEMONIC_RCR,
                                              ZYDIS_MNEMONIC_LAHF,
                                              ZYDIS_MNEMONIC_CMC,
                                              ZYDIS_MNEMONIC_SETB,
                                              ZYDIS_MNEMONIC_SETBE,
                                              ZYDIS_MNEMONIC_SETL,
                                              ZYDIS_MNEMONIC_SETLE,
                                              ZYDIS_MNEMONIC_SETNB,
                                              ZYDIS_MNEMONIC_SETNBE,
                                              ZYDIS_MNEMONIC_SETNL,
                                              ZYDIS_MNEMONIC_SETNLE,
                                              ZYDIS_MNEMONIC_SETNO,
                                              ZYDIS_MNEMONIC_SETNP,
                                              ZYDIS_MNEMONIC_SETNS,
                                              ZYDIS_MNEMONIC_SETNZ,
                                              ZYDIS_MNEMONIC_SETO,
                                              ZYDIS_MNEMONIC_SETP,
                                              ZYDIS_MNEMONIC_SETS,
                                              ZYDIS_MNEMONIC_SETZ,
                                              ZYDIS_MNEMONIC_CMOVB,
                                              ZYDIS_MNEMONIC_CMOVBE,
                                              ZYDIS_MNEMONIC_CMOVL,
                                              ZYDIS_MNEMONIC_CMOVLE,
                                              ZYDIS_MNEMONIC_CMOVNB,
                                              ZYDIS_MNEMONIC_CMOVNBE,
                                              ZYDIS_MNEMONIC_CMOVNL,
                                              ZYDIS_MNEMONIC_CMOVNO,
                                              ZYDIS_MNEMONIC_CMOVNP,
                                              ZYDIS_MNEMONIC_CMOVNS,
                                              ZYDIS_MNEMONIC_CMOVNZ,
                                              ZYDIS_MNEMONIC_CMOVO,
                                              ZYDIS_MNEMONIC_CMOVS,
                                              ZYDIS_MNEMONIC_CMOVZ,
                                              ZYDIS_MNEMONIC_PUSHF,
                                              ZYDIS_MNEMONIC_PUSHFD,
                                              ZYDIS_MNEMONIC_PUSHFQ,
                                              ZYDIS_MNEMONIC_SALC,
                                              0};
static const uint16_t lock_mnemonics[] = {ZYDIS_MNEMONIC_ADD,        ZYDIS_MNEMONIC_OR,
                                          ZYDIS_MNEMONIC_ADC,        ZYDIS_MNEMONIC_SBB,
                                          ZYDIS_MNEMONIC_AND,        ZYDIS_MNEMONIC_SUB,
                                          ZYDIS_MNEMONIC_XOR,        ZYDIS_MNEMONIC_INC,
                                          ZYDIS_MNEMONIC_DEC,        ZYDIS_MNEMONIC_NOT,
                                          ZYDIS_MNEMONIC_NEG,        ZYDIS_MNEMONIC_XADD,
                                          ZYDIS_MNEMONIC_BTS,        ZYDIS_MNEMONIC_BTR,
                                          ZYDIS_MNEMONIC_BTC,        ZYDIS_MNEMONIC_CMPXCHG,
                                          ZYDIS_MNEMONIC_XCHG,       ZYDIS_MNEMONIC_CMPXCHG8B,
                                          ZYDIS_MNEMONIC_CMPXCHG16B, 0};
static const uint16_t stack_mnemonics[] = {ZYDIS_MNEMONIC_PUSH,   ZYDIS_MNEMONIC_POP,
                                           ZYDIS_MNEMONIC_PUSH,   ZYDIS_MNEMONIC_POP,
                                           ZYDIS_MNEMONIC_PUSHF,  ZYDIS_MNEMONIC_PUSHFD,
                                           ZYDIS_MNEMONIC_PUSHFQ, ZYDIS_MNEMONIC_PUSHA,
                                           ZYDIS_MNEMONIC_PUSHAD, 0};

/* Operations with a memory operand whose address is up to us. */
enum { REG = 8, IMM8 = 1, IMMZ = 2 };
struct memory_op {
    uint8_t map, opcode, ext, imm; /* ext REG: a register */
    bool byte, lock;               /* opcode - 1 is the same with bytes; LOCK is allowed */
};
static const struct memory_op memory_ops[] = {
    {0, 0x01, REG, 0, true, true},    {0, 0x11, REG, 0, true, true},
    {0, 0x19, REG, 0, true, true},    {0, 0x21, REG, 0, true, true},
    {0, 0x29, REG, 0, true, true},    {0, 0x31, REG, 0, true, true},
    {0, 0x39, REG, 0, true, false},   {0, 0x03, REG, 0, true, false},
    {0, 0x0b, REG, 0, true, false},   {0, 0x13, REG, 0, true, false},
    {0, 0x1b, REG, 0, true, false},   {0, 0x23, REG, 0, true, false},
    {0, 0x2b, REG, 0, true, false},   {0, 0x33, REG, 0, true, false},
    {0, 0x3b, REG, 0, true, false},   {0, 0x89, REG, 0, true, false},
    {0, 0x8b, REG, 0, true, false},   {0, 0x89, REG, 0, true, false},
    {0, 0x8b, REG, 0, true, false},   {0, 0x85, REG, 0, true, false},
    {0, 0x87, REG, 0, true, true},    {0, 0x81, 0, IMMZ, true, true},
    {0, 0x81, 5, IMMZ, true, true},   {0, 0x81, 7, IMMZ, true, false},
    {0, 0x83, 2, IMM8, false, true},  {0, 0x83, 4, IMM8, false, true},
    {0, 0x83, 7, IMM8, false, false}, {0, 0xc7, 0, IMMZ, true, false},
    {0, 0xff, 0, 0, true, true},      {0, 0xff, 1, 0, true, true},
    {0, 0xf7, 2, 0, true, true},      {0, 0xf7, 3, 0, true, true},
    {0, 0xf7, 0, IMMZ, true, false},  {0, 0xf7, 4, 0, true, false},
    {0, 0xd1, 0, 0, true, false},     {0, 0xd1, 2, 0, true, false},
    {0, 0xd1, 4, 0, true, false},     {0, 0xd3, 5, 0, true, false},
    {0, 0xd3, 1, 0, true, false},     {0, 0xd3, 3, 0, true, false},
    {0, 0xc1, 7, IMM8, true, false},  {0, 0xc1, 0, IMM8, true, false},
    {0, 0xff, 6, 0, false, false},    {0, 0x8f, 0, 0, false, false},
    {1, 0xaf, REG, 0, false, false},  {1, 0xb6, REG, 0, false, false},
    {1, 0xb7, REG, 0, false, false},  {1, 0xbe, REG, 0, false, false},
    {1, 0x42, REG, 0, false, false},  {1, 0x44, REG, 0, false, false},
    {1, 0x4c, REG, 0, false, false},  {1, 0x92, 0, 0, false, false},
    {1, 0x95, 0, 0, false, false},    {1, 0xba, 4, IMM8, false, false},
    {1, 0xba, 5, IMM8, false, true},  {1, 0xc1, REG, 0, true, true},
    {1, 0xb1, REG, 0, true, true},    {1, 0xa4, REG, IMM8, false, false},
    {1, 0xad, REG, 0, false, false},  {1, 0xc7, 1, 0, false, true},
    {1, 0x10, REG, 0, false, false},  {1, 0x11, REG, 0, false, false},
    {1, 0x29, REG, 0, false, false},  {1, 0x6f, REG, 0, false, false},
    {1, 0x7f, REG, 0, false, false},  {1, 0x58, REG, 0, false, false},
    {1, 0x2e, REG, 0, false, false},  {0, 0xd9, 0, 0, false, false},
    {0, 0xdd, 2, 0, false, false},    {0, 0xdd, 3, 0, false, false},
};

/* ---- bad addresses -------------------------------------------------------------------------- */

uint64_t bad_address(struct maker *m, enum fault_kind kind, unsigned size)
{
    static const uint8_t absent[] = {0, 6, 9, 12, 13, 14, 15};
    struct rng *r = m->r;
    unsigned into = size > 1 ? 1 + rng_below(r, size - 1) : 1; /* bytes before the page's end */

    switch (kind) {
    case FAULT_READ_ONLY:
        return ARENA + (uint64_t)ARENA_RO * PAGE +
               (rng_below(r, PAGE - 64) & (rng_percent(r, 50) ? ~15u : ~0u));
    case FAULT_CROSSING:
        if (m->g->mode == 64 && rng_percent(r, 30))
            return ARENA_HIGH + (uint64_t)HIGH_PAGES * PAGE - into;
        return ARENA +
               (uint64_t)(rng_percent(r, 70) ? ARENA_STACK + ARENA_STACK_PAGES : ARENA_RO) * PAGE -
               into;
    case FAULT_NON_CANONICAL:
        if (rng_percent(r, 50))
            return UINT64_C(0x800000000000) + (rng_next(r) & 0xffffff);
        return (rng_next(r) & UINT64_C(0x7fff7fffffffffff)) | UINT64_C(0x1000000000000);
    default:
        if (m->g->mode == 64 && rng_percent(r, 20))
            return ARENA_HIGH + (uint64_t)HIGH_PAGES * PAGE + rng_below(r, PAGE);
        return ARENA + (uint64_t)absent[rng_below(r, ARRAY_SIZE(absent))] * PAGE +
               rng_below(r, PAGE - 64);
    }
}

/* 2: may be written, 1: read, 0: nothing is there. */
static int access_at(uint64_t address)
{
    int at = image_offset(address);

    if (at >= 0)
        return at / PAGE == ARENA_DATA_PAGES ? 1 : 2;
    return address - CODE_BASE < ARENA_CODE_PAGES * PAGE;
}

bool is_bad(enum fault_kind kind, uint64_t address, unsigned size, bool write)
{
    int need = write ? 2 : 1, first = access_at(address), last = access_at(address + size - 1);

    switch (kind) {
    case FAULT_READ_ONLY: return write && first == 1 && last == 1;
    case FAULT_CROSSING: return first >= need && last < need;
    case FAULT_NON_CANONICAL: return address + BIT(47) >= BIT(48);
    default: return !first && !last && address + BIT(47) < BIT(48);
    }
}

/* ---- putting instructions ------------------------------------------------------------------- */

static unsigned label_new(struct shaper *s)
{
    if (s->labels == LABELS) {
        s->wrong = true;
        return 0;
    }
    return s->labels++;
}

static void label_here(struct shaper *s, unsigned label)
{
    s->label[label] = (uint8_t)s->m->c->insns;
}

static void byte(struct raw *w, unsigned b)
{
    w->b[w->n++] = (uint8_t)b;
}

static void bytes(struct raw *w, uint64_t v, unsigned size)
{
    store_le(w->b + w->n, v, size);
    w->n += size;
}

static void fix(struct raw *w, enum fix_kind kind, unsigned size, unsigned label, unsigned plus)
{
    w->fixed = true;
    w->fix = (struct fix){.kind = (uint8_t)kind,
                          .size = (uint8_t)size,
                          .target = (uint8_t)label,
                          .plus = (uint8_t)plus,
                          .at = (uint16_t)w->n};
    bytes(w, 0, size);
}

static void add_fix(struct shaper *s, struct fix f)
{
    struct test_case *c = s->m->c;

    if (c->fixes == MAX_FIXES)
        s->wrong = true;
    else
        c->fix[c->fixes++] = f;
}

/* No questions asked. */
static void append(struct shaper *s, const struct raw *w)
{
    struct test_case *c = s->m->c;

    if (c->insns == MAX_INSNS) {
        s->wrong = true;
        return;
    }
    if (w->fixed) {
        struct fix f = w->fix;

        f.at = (uint16_t)(c->length + f.at);
        f.insn = (uint8_t)c->insns;
        add_fix(s, f);
    }
    memcpy(c->code + c->length, w->b, w->n);
    c->length += w->n;
    c->start[++c->insns] = (uint16_t)c->length;
}

/* An instruction of the shape itself: it may write what is reserved. */
static void put(struct shaper *s, const struct raw *w)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];

    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&s->m->g->decoder, w->b, w->n, &in, op))) {
        note_writes(s->m, &in, op);
        flags_pass(s->m, &in);
    }
    append(s, w);
}

/* Bytes of an immediate or displacement of the default size. */
static unsigned word_size(const struct shaper *s)
{
    return s->m->g->mode == 16 ? 2 : 4;
}

static void rex(struct raw *w, const struct shaper *s, bool wide, unsigned reg, unsigned base)
{
    unsigned b = 0x40 | (unsigned)wide << 3 | (reg >> 3) << 2 | base >> 3;

    if (s->m->g->mode == 64 && (b != 0x40 || rng_percent(s->m->r, 10)))
        byte(w, b);
}

/* A register nothing has to do with so far. The ones that engines treat differently first. */
static unsigned pick_register(struct shaper *s)
{
    static const uint8_t special[] = {GPR_RAX, GPR_RCX, GPR_R10, GPR_R11, GPR_R15};
    struct maker *m = s->m;
    uint32_t taken = m->written | m->pinned | m->reserved | 1u << GPR_RSP;
    unsigned n = m->g->mode == 64 ? GPR_COUNT : 8;

    for (unsigned i = 0; i < 24; i++) {
        unsigned reg = rng_percent(m->r, 40) ? special[rng_below(m->r, ARRAY_SIZE(special))]
                                             : rng_below(m->r, n);

        if (reg < n && !(taken & 1u << reg))
            return reg;
    }
    return NOT_GPR;
}

/* For what is set by MOV: it may have been written before. */
static unsigned pick_written(struct shaper *s)
{
    struct maker *m = s->m;
    uint32_t taken = m->pinned | m->reserved | 1u << GPR_RSP;
    unsigned n = m->g->mode == 64 ? GPR_COUNT : 8;

    for (unsigned i = 0; i < 24; i++) {
        unsigned reg = rng_below(m->r, n);

        if (!(taken & 1u << reg))
            return reg;
    }
    return NOT_GPR;
}

/* MOV reg, imm: of the default size, to a label if that is not LABELS. */
static void put_move(struct shaper *s, unsigned reg, uint64_t value, unsigned label)
{
    struct raw w = {0};

    rex(&w, s, false, 0, reg);
    byte(&w, 0xb8 | (reg & 7));
    if (label < LABELS)
        fix(&w, FIX_ABSOLUTE, word_size(s), label, 0);
    else
        bytes(&w, value, word_size(s));
    put(s, &w);
}

static void put_jump(struct shaper *s, unsigned label)
{
    struct raw w = {0};

    byte(&w, 0xe9);
    fix(&w, FIX_RELATIVE, word_size(s), label, 0);
    put(s, &w);
}

static void put_short(struct shaper *s, unsigned opcode, unsigned label)
{
    struct raw w = {0};

    byte(&w, opcode);
    fix(&w, FIX_RELATIVE, 1, label, 0);
    put(s, &w);
}

static void put_condition(struct shaper *s, unsigned condition, unsigned label, bool near)
{
    struct raw w = {0};

    if (!near) {
        put_short(s, 0x70 | condition, label);
        return;
    }
    byte(&w, 0x0f);
    byte(&w, 0x80 | condition);
    fix(&w, FIX_RELATIVE, word_size(s), label, 0);
    put(s, &w);
}

static unsigned pick_condition(struct shaper *s)
{
    static const uint16_t reads[] = {RFLAGS_OF,
                                     RFLAGS_CF,
                                     RFLAGS_ZF,
                                     RFLAGS_CF | RFLAGS_ZF,
                                     RFLAGS_SF,
                                     RFLAGS_PF,
                                     RFLAGS_SF | RFLAGS_OF,
                                     RFLAGS_SF | RFLAGS_OF | RFLAGS_ZF};

    for (unsigned i = 0; i < 30; i++) {
        unsigned condition = rng_below(s->m->r, 16);

        if (!(s->m->undefined & reads[condition >> 1]))
            return condition;
    }
    return 2;
}

/* ModRM, and what belongs to it, of [base + disp]; mode 16 has 67 before it. */
static void address_bytes(struct shaper *s, struct raw *w, unsigned reg, unsigned base, int disp)
{
    bool small = disp == (int8_t)disp && rng_percent(s->m->r, 85);

    byte(w, (small ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
    if ((base & 7) == 4)
        byte(w, 0x24);
    bytes(w, (uint64_t)disp, small ? 1 : 4);
}

/* A random instruction, as make_one() has it; the state of the maker is as before if it fails. */
static bool put_random(struct shaper *s, unsigned tries)
{
    struct maker *m = s->m;
    struct test_case *c = m->c;
    uint64_t gpr[GPR_COUNT];
    uint32_t pinned = m->pinned, written = m->written;
    uint64_t undefined = m->undefined;
    struct branch unused;

    if (c->insns == MAX_INSNS) {
        s->wrong = true;
        return false;
    }
    memcpy(gpr, c->in.gpr, sizeof(gpr));
    while (tries--) {
        if (make_one(m, false, &unused)) {
            c->start[++c->insns] = (uint16_t)c->length;
            return true;
        }
        memcpy(c->in.gpr, gpr, sizeof(gpr));
        m->pinned = pinned;
        m->written = written;
        m->undefined = undefined;
    }
    return false;
}

static bool put_wanted(struct shaper *s, const uint16_t *wanted, bool memory)
{
    bool done;

    s->m->wanted = wanted;
    s->m->memory = memory;
    done = put_random(s, TRIES);
    s->m->wanted = NULL;
    s->m->memory = false;
    return done;
}

static void put_locked(struct shaper *s)
{
    s->m->lock = true;
    put_wanted(s, lock_mnemonics, true);
    s->m->lock = false;
}

/*
 * An operation on [base + disp], whatever is there. `kind` is what the address is bad for, and
 * `set` means that the base is ours to set. False: nothing was found that fits.
 */
static bool put_memory(struct shaper *s, unsigned base, int disp, enum fault_kind kind, bool set)
{
    static const uint8_t prefixes[] = {0, 0, 0, 0, 0, 0x66, 0x66, 0xf3};
    struct maker *m = s->m;
    struct rng *r = m->r;
    bool is_64 = m->g->mode == 64;

    for (unsigned i = 0; i < TRIES; i++) {
        const struct memory_op *o = &memory_ops[rng_below(r, ARRAY_SIZE(memory_ops))];
        unsigned reg = o->ext == REG ? rng_below(r, is_64 ? 16 : 8) : o->ext, size = 0, n;
        uint8_t prefix = prefixes[rng_below(r, ARRAY_SIZE(prefixes))];
        bool wide = is_64 && rng_percent(r, 40), narrow = o->byte && rng_percent(r, 40);
        bool limit = kind == FAULT_LIMIT, write = false, suits;
        ZydisDecodedInstruction in;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        const ZydisDecodedOperand *memory = NULL;
        uint64_t undefined = m->undefined, target;
        struct raw w = {0};

        if (!is_64 && m->g->mode == 16)
            byte(&w, 0x67);
        if (limit)
            byte(&w, 0x64); /* FS, which is small */
        if (prefix)
            byte(&w, prefix);
        if (o->lock && rng_percent(r, 20))
            byte(&w, 0xf0);
        rex(&w, s, wide, reg, base);
        if (o->map)
            byte(&w, 0x0f);
        byte(&w, o->opcode - narrow);
        address_bytes(s, &w, reg, base, disp);
        n = w.n;
        memset(w.b + n, (int)rng_next(r), sizeof(w.b) - n);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&m->g->decoder, w.b, 15, &in, op)) ||
            in.mnemonic == ZYDIS_MNEMONIC_BT)
            continue;
        w.n = in.length;
        for (unsigned p = 0; p < in.operand_count; p++)
            if (op[p].type == ZYDIS_OPERAND_TYPE_MEMORY && gpr_number(op[p].mem.base) == base) {
                memory = &op[p];
                size = op[p].size / 8;
                write |= (op[p].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
            }
        if (!memory || !size || (kind == FAULT_CROSSING && size < 2) ||
            (kind == FAULT_READ_ONLY && !write) ||
            (in.mnemonic == ZYDIS_MNEMONIC_POP && base == GPR_RSP) ||
            (size == 16 && !kind && !rng_percent(r, 10)) ||
            (s->in_function && base == GPR_RSP && write && disp > -16)) /* the return address */
            continue;
        suits = suits_shape(m, &in, op) && flags_pass(m, &in);
        if (suits && set) {
            target = limit ? ARENA + 0x2000 - rng_below(r, size) + (rng_percent(r, 50) ? 8 : 0)
                           : bad_address(m, kind, size);
            if (limit) /* the segment ends at 0x1fff */
                suits = target + size > ARENA + 0x2000;
            else
                suits = is_bad(kind, target, size, write);
            target -= limit ? ARENA : segment_base(m, memory->mem.segment);
            target -= (uint64_t)(int64_t)disp;
            if (suits)
                m->c->in.gpr[base] = is_64 ? target : (uint32_t)target;
        }
        if (!suits) {
            m->undefined = undefined;
            continue;
        }
        note_writes(m, &in, op);
        append(s, &w);
        return true;
    }
    return false;
}

/* ---- items ---------------------------------------------------------------------------------- */

static void items(struct shaper *s, unsigned n);

/* The counter of the loop around, and that it is not this round, jumps over. */
static unsigned put_guard(struct shaper *s)
{
    unsigned over = label_new(s);
    struct raw w = {0};

    rex(&w, s, false, 0, s->counter);
    byte(&w, 0x83);
    byte(&w, 0xf8 | (s->counter & 7));
    byte(&w, 1 + rng_below(s->m->r, MIN(s->iterations, 100)));
    put(s, &w);
    put_condition(s, 5, over, true);
    return over;
}

/* The instruction that is to fault, with flags in some state of undress before it. */
static void put_fault(struct shaper *s)
{
    struct maker *m = s->m;
    struct test_case *c = m->c;
    unsigned over = LABELS, base;
    enum fault_kind kind = s->fault;
    bool done = false;

    s->fault = FAULT_NONE;
    if (s->depth && s->counter != NOT_GPR && rng_percent(m->r, 50))
        over = put_guard(s);
    for (unsigned n = rng_below(m->r, 3); n; n--)
        put_wanted(s, flag_mnemonics, false);
    if (kind != FAULT_LIMIT && rng_percent(m->r, 40)) {
        m->bad = kind;
        m->memory = true;
        done = put_random(s, TRIES);
        m->bad = FAULT_NONE;
        m->memory = false;
    }
    if (!done) {
        base = pick_register(s);
        if (base != NOT_GPR) {
            m->reserved |= 1u << base;
            done = put_memory(s, base, (int)rng_below(m->r, 200) - 100, kind, true);
        }
    }
    if (done) {
        c->fault = (uint8_t)kind;
        c->fault_insn = (uint8_t)(c->insns - 1);
    }
    if (over < LABELS)
        label_here(s, over);
}

static void put_skip(struct shaper *s)
{
    struct maker *m = s->m;
    unsigned over = label_new(s), kind = rng_below(m->r, 100);
    uint64_t undefined = m->undefined;

    if (kind < 70)
        put_condition(s, pick_condition(s), over, true);
    else if (kind < 80)
        put_short(s, 0xe3, over); /* JRCXZ and its like */
    else if (kind < 90)
        put_jump(s, over);
    else
        put_condition(s, pick_condition(s), over, false);
    items(s, 1 + rng_below(m->r, kind < 70 ? 4 : 2));
    label_here(s, over);
    m->undefined |= undefined;
}

static unsigned pick_function(struct shaper *s)
{
    /* A function calls only those behind it: what calls itself may take for ever. */
    unsigned there = s->functions - s->begun;

    if (s->functions == FUNCTIONS || (there && rng_percent(s->m->r, 40)))
        return there ? s->function[s->begun + rng_below(s->m->r, there)] : LABELS;
    return s->function[s->functions++] = (uint8_t)label_new(s);
}

/* JMP (4) or CALL (2) to a label through memory, a register or the stack. */
static void put_indirect(struct shaper *s, unsigned ext, unsigned label)
{
    struct maker *m = s->m;
    struct raw w = {0};
    unsigned reg, kind = rng_below(m->r, 100);
    bool is_64 = m->g->mode == 64;

    if (kind < 30 && s->tables < TABLES) {
        unsigned table = label_new(s);

        s->table[s->tables] = (uint8_t)table;
        s->table_to[s->tables++] = (uint8_t)label;
        if (!is_64)
            byte(&w, 0x2e);
        byte(&w, 0xff);
        byte(&w, ext << 3 | (m->g->mode == 16 ? 6 : 5));
        fix(&w, is_64 ? FIX_RELATIVE : FIX_ABSOLUTE, word_size(s), table, 0);
        put(s, &w);
        return;
    }
    if (kind < 45 && ext == 4) { /* PUSH, RET */
        struct raw ret = {.b = {0xc3}, .n = 1};

        byte(&w, 0x68);
        fix(&w, FIX_ABSOLUTE, word_size(s), label, 0);
        put(s, &w);
        put(s, &ret);
        return;
    }
    reg = kind < 70 ? pick_register(s) : NOT_GPR;
    if (reg != NOT_GPR) {
        m->reserved |= 1u << reg;
        m->pinned |= 1u << reg;
        add_fix(s, (struct fix){.kind = FIX_GPR, .target = (uint8_t)label, .at = (uint16_t)reg});
    } else {
        reg = pick_written(s);
        if (reg == NOT_GPR)
            return;
        put_move(s, reg, 0, label);
    }
    rex(&w, s, false, 0, reg);
    byte(&w, 0xff);
    byte(&w, 0xc0 | ext << 3 | (reg & 7));
    put(s, &w);
}

static void put_call(struct shaper *s)
{
    struct maker *m = s->m;
    unsigned function = s->in_function && rng_percent(m->r, 70) ? LABELS : pick_function(s);
    struct raw w = {0};

    if (function == LABELS)
        return;
    if (rng_percent(m->r, 65)) {
        byte(&w, 0xe8);
        fix(&w, FIX_RELATIVE, word_size(s), function, 0);
        put(s, &w);
    } else {
        put_indirect(s, 2, function);
    }
    if (rng_percent(m->r, 50))
        m->undefined |= RFLAGS_STATUS;
}

static void put_indirect_jump(struct shaper *s)
{
    unsigned over = label_new(s);

    put_indirect(s, 4, over);
    if (rng_percent(s->m->r, 60))
        items(s, 1);
    label_here(s, over);
}

/* REP and a string instruction, with a count of its own. */
static void put_string(struct shaper *s)
{
    static const uint8_t opcodes[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf};
    struct maker *m = s->m;
    uint8_t opcode = opcodes[rng_below(m->r, ARRAY_SIZE(opcodes))];
    const uint32_t pointers = 1u << GPR_RSI | 1u << GPR_RDI;
    uint32_t mine = (opcode >= 0xaa ? 0 : 1u << GPR_RSI) | 1u << GPR_RDI;
    struct raw w = {0};

    if ((opcode & 0xfe) == 0xac)
        mine = 1u << GPR_RSI | 1u << GPR_RAX;
    if (m->reserved & (1u << GPR_RCX | mine) || m->pinned & (1u << GPR_RCX | mine))
        return;
    for (unsigned reg = GPR_RSI; reg <= GPR_RDI; reg++)
        if (mine & 1u << reg && !(m->written & 1u << reg)) {
            uint64_t to = ARENA + PAGE + (rng_next(m->r) & 0xff8) +
                          (rng_percent(m->r, 50) ? PAGE / 2 : 0);

            to -= segment_base(m, reg == GPR_RSI ? ZYDIS_REGISTER_DS : ZYDIS_REGISTER_ES);
            m->c->in.gpr[reg] = m->g->mode == 64 ? to : (uint32_t)to;
        }
    put_move(s, GPR_RCX, rng_percent(m->r, 15) ? 0 : rng_below(m->r, 30), LABELS);
    byte(&w, (opcode & 0x07) >= 6 && rng_percent(m->r, 50) ? 0xf2 : 0xf3);
    if (opcode & 1 && rng_percent(m->r, 20))
        byte(&w, 0x66);
    rex(&w, s, opcode & 1 && rng_percent(m->r, 40), 0, 0);
    byte(&w, opcode);
    put(s, &w);
    m->written |= mine & pointers;
}

/* A pointer that a loop moves, and what it points to. */
static void put_walk(struct shaper *s)
{
    struct maker *m = s->m;
    struct rng *r = m->r;
    unsigned reg = pick_register(s), step = 1 + rng_below(r, rng_percent(r, 50) ? 16 : 100);
    const unsigned room = 2 * PAGE - 256;
    bool falls = s->fault == FAULT_WALK, down = rng_percent(r, 40), is_64 = m->g->mode == 64;
    int disp = (int)rng_below(r, 32) - 16;
    unsigned rounds = falls ? 1 + rng_below(r, s->iterations) : s->total;
    uint64_t length, edge, at;
    struct raw w = {0};

    if (reg == NOT_GPR)
        return;
    m->reserved |= 1u << reg;
    if (step * rounds > room)
        step = MAX(1, room / rounds);
    length = MIN(step * rounds, room);
    edge = ARENA + (uint64_t)(down ? ARENA_DATA : ARENA_STACK + ARENA_STACK_PAGES) * PAGE;
    if (down)
        at = edge + length + (falls ? 0 : 64);
    else
        at = edge - length - (falls ? 0 : 64);
    if (falls && !down && rng_percent(r, 30)) /* into what is read-only */
        at -= (uint64_t)(ARENA_STACK + ARENA_STACK_PAGES - ARENA_RO) * PAGE;
    at -= segment_base(m, reg == GPR_RBP ? ZYDIS_REGISTER_SS : ZYDIS_REGISTER_DS) +
          (uint64_t)(int64_t)disp;
    m->c->in.gpr[reg] = is_64 ? at : (uint32_t)at;
    if (!put_memory(s, reg, disp, FAULT_NONE, false))
        return;
    if (falls) {
        s->fault = FAULT_NONE;
        m->c->fault = FAULT_WALK;
        m->c->fault_insn = (uint8_t)(m->c->insns - 1);
    }
    if (rng_percent(r, 40))
        items(s, 1);
    if (rng_percent(r, 50)) { /* LEA leaves the flags alone */
        if (m->g->mode == 16)
            byte(&w, 0x66), byte(&w, 0x67);
        rex(&w, s, true, reg, reg);
        byte(&w, 0x8d);
        address_bytes(s, &w, reg, reg, down ? -(int)step : (int)step);
    } else {
        if (m->g->mode == 16)
            byte(&w, 0x66);
        rex(&w, s, true, 0, reg);
        byte(&w, 0x83);
        byte(&w, (down ? 0xe8 : 0xc0) | (reg & 7));
        byte(&w, step);
    }
    put(s, &w);
    m->pinned |= 1u << reg;
}

/* Something on the stack or around where it ends now. */
static void put_stack(struct shaper *s)
{
    struct maker *m = s->m;

    if (!m->keep_stack && rng_percent(m->r, 60))
        put_wanted(s, stack_mnemonics, false);
    else
        put_memory(s, GPR_RSP, (int)rng_below(m->r, 64) - 32, FAULT_NONE, false);
}

/* Change an instruction further on, or a part of it, jump, and come to it. */
static void put_modification(struct shaper *s)
{
    struct maker *m = s->m;
    struct rng *r = m->r;
    unsigned changed = label_new(s), next = label_new(s), mode = m->g->mode;
    unsigned reg = pick_written(s), plus, size, kind = rng_below(r, 3);
    struct raw store = {0}, w = {0};

    if (reg == NOT_GPR)
        return;
    m->written |= 1u << reg;
    /* What is changed: MOV or an ALU operation with an immediate, or the opcode of one. */
    if (kind == 2) {
        rex(&w, s, rng_percent(r, 50), reg, reg);
        plus = w.n;
        byte(&w, 1 + 8 * rng_below(r, 7));
        byte(&w, 0xc0 | rng_below(r, 8) << 3 | (reg & 7));
        size = 1;
    } else {
        rex(&w, s, false, 0, reg);
        byte(&w, kind ? 0x81 : 0xb8 | (reg & 7));
        if (kind)
            byte(&w, 0xc0 | rng_below(r, 7) << 3 | (reg & 7));
        plus = w.n;
        bytes(&w, rng_next(r), word_size(s));
        size = rng_percent(r, 50) ? 1 : word_size(s);
    }
    byte(&store,
         kind == 2 || rng_percent(r, 60) ? (size == 1 ? 0xc6 : 0xc7) : (size == 1 ? 0x80 : 0x81));
    byte(&store, (store.b[0] >= 0xc6 ? 0 : rng_below(r, 7) << 3) | (mode == 16 ? 6 : 5));
    fix(&store, mode == 64 ? FIX_RELATIVE : FIX_ABSOLUTE, word_size(s), changed, plus);
    bytes(&store, kind == 2 ? 1 + 8 * rng_below(r, 7) : rng_next(r), size);
    put(s, &store);
    if (rng_percent(r, 60))
        put_jump(s, next);
    else
        put_short(s, 0xeb, next);
    label_here(s, next);
    items(s, rng_below(r, 3));
    label_here(s, changed);
    put(s, &w);
}

static void put_loop(struct shaper *s, unsigned n)
{
    struct maker *m = s->m;
    struct rng *r = m->r;
    struct test_case *c = m->c;
    unsigned kind = rng_below(r, 100), reg = NOT_GPR, head, roll = rng_below(r, 100), start;
    unsigned outer_counter = s->counter, outer_iterations = s->iterations, total = s->total, rounds;
    const uint32_t taken = m->written | m->pinned | m->reserved;
    bool wide = rng_percent(r, 50), cx = kind < 25 && !((m->pinned | m->reserved) & 2);
    uint64_t initial;
    struct raw w = {0};

    rounds = 2 + rng_below(r, s->depth ? 5 : roll < 65 ? 8 : roll < 92 ? 30 : 199);
    reg = cx ? GPR_RCX : pick_register(s);
    if (reg == NOT_GPR)
        reg = pick_written(s);
    if (reg == NOT_GPR)
        return;
    initial = kind >= 75 && !cx ? 0 : rounds;
    if (s->depth || s->in_function || taken & 1u << reg) {
        wide = false;
        put_move(s, reg, initial, LABELS);
    } else {
        if (!cx && !wide && m->g->mode != 32) /* bits that do not count */
            initial |= m->g->mode == 64 ? rng_next(r) << 32 : (rng_next(r) & 0xffff) << 16;
        c->in.gpr[reg] = initial;
    }
    m->reserved |= 1u << reg;
    m->written |= 1u << reg;
    if (m->g->mode == 16)
        wide = false;
    s->counter = wide || cx ? NOT_GPR : reg;
    s->iterations = rounds;
    s->total = total * rounds;
    s->depth++;
    if (rng_percent(r, 50))
        m->undefined |= RFLAGS_AF | RFLAGS_OF;
    head = label_new(s);
    label_here(s, head);
    start = c->length;
    if (rng_percent(r, 50) || s->fault == FAULT_WALK)
        put_walk(s);
    items(s, n);
    s->depth--;
    s->total = total;
    if (cx && c->length - start < 110) {
        put_short(s, 0xe2, head);
    } else {
        if (kind >= 75 && !cx) { /* up: INC or ADD, CMP, JB or JNE */
            rex(&w, s, wide, 0, reg);
            byte(&w, rng_percent(r, 50) ? 0xff : 0x83);
            byte(&w, 0xc0 | (reg & 7));
            if (w.b[w.n - 2] == 0x83)
                byte(&w, 1);
            put(s, &w);
            w.n = 0;
            rex(&w, s, wide, 0, reg);
            byte(&w, 0x81);
            byte(&w, 0xf8 | (reg & 7));
            bytes(&w, rounds, word_size(s));
            put(s, &w);
            put_condition(s, rng_percent(r, 50) ? 2 : 5, head, true);
        } else { /* down: DEC or SUB, JNZ or JA */
            bool dec = rng_percent(r, 60);

            rex(&w, s, wide || cx, 0, reg);
            byte(&w, dec ? 0xff : 0x83);
            byte(&w, (dec ? 0xc8 : 0xe8) | (reg & 7));
            if (!dec)
                byte(&w, 1);
            put(s, &w);
            put_condition(s, dec || rng_percent(r, 50) ? 5 : 7, head,
                          c->length - start > 110 || rng_percent(r, 30));
        }
    }
    s->counter = outer_counter;
    s->iterations = outer_iterations;
}

static void items(struct shaper *s, unsigned n)
{
    struct maker *m = s->m;
    struct rng *r = m->r;

    for (; n && !s->wrong; n--) {
        unsigned roll = rng_below(r, 100);

        if (s->fault && s->fault != FAULT_WALK && !s->until_fault--)
            put_fault(s);
        if (m->c->fault == FAULT_STACK && rng_percent(r, 30))
            roll = 68 + rng_below(r, 22); /* stack, skip, call */
        if (m->c->insns > FULL) {
            put_random(s, TRIES);
            return;
        }
        if (s->self_modifying && roll < 30)
            put_modification(s);
        else if (m->c->shape == SHAPE_LOOP && roll < 10 && s->depth < 2)
            put_loop(s, 1 + rng_below(r, 3));
        else if (roll < 45)
            put_random(s, TRIES);
        else if (roll < 55)
            put_wanted(s, flag_mnemonics, rng_percent(r, 40));
        else if (roll < 63)
            put_wanted(s, consumer_mnemonics, rng_percent(r, 20));
        else if (roll < 68)
            put_locked(s);
        else if (roll < 76)
            put_stack(s);
        else if (roll < 84)
            put_skip(s);
        else if (roll < 90)
            put_call(s);
        else if (roll < 94)
            put_indirect_jump(s);
        else
            put_string(s);
    }
}

/* Behind the end: a body that leaves the stack as it was, and one of several ways back. */
static void put_function(struct shaper *s, unsigned label)
{
    struct maker *m = s->m;
    unsigned kind = rng_below(m->r, 100), size = m->g->mode / 8, reg;
    struct raw w = {0};

    label_here(s, label);
    m->undefined = rng_percent(m->r, 50) ? RFLAGS_STATUS : 0;
    items(s, rng_below(m->r, 4));
    if (rng_percent(m->r, 25)) { /* calls itself, to a depth; later once, or to the stack's end */
        unsigned counter = pick_register(s), out = label_new(s);

        if (counter != NOT_GPR) {
            m->reserved |= 1u << counter;
            m->c->in.gpr[counter] = 1 + rng_below(m->r, rng_percent(m->r, 80) ? 12 : 100);
            rex(&w, s, false, 0, counter);
            byte(&w, 0xff);
            byte(&w, 0xc8 | (counter & 7));
            put(s, &w);
            w.n = 0;
            put_condition(s, 4, out, true);
            byte(&w, 0xe8);
            fix(&w, FIX_RELATIVE, word_size(s), label, 0);
            put(s, &w);
            w = (struct raw){0};
            label_here(s, out);
            items(s, rng_below(m->r, 2));
        }
    }
    if (kind < 10) { /* POP, JMP */
        reg = pick_written(s);
        if (reg != NOT_GPR) {
            rex(&w, s, false, 0, reg);
            byte(&w, 0x58 | (reg & 7));
            put(s, &w);
            w.n = 0;
            rex(&w, s, false, 0, reg);
            byte(&w, 0xff);
            byte(&w, 0xe0 | (reg & 7));
            put(s, &w);
            return;
        }
    } else if (kind < 18 && m->g->mode != 16) { /* LEA RSP, JMP */
        rex(&w, s, true, 0, 0);
        byte(&w, 0x8d);
        byte(&w, 0x64);
        byte(&w, 0x24);
        byte(&w, size);
        put(s, &w);
        w.n = 0;
        byte(&w, 0xff);
        byte(&w, 0x64);
        byte(&w, 0x24);
        byte(&w, 256 - size);
        put(s, &w);
        return;
    } else if (kind < 25) {
        byte(&w, 0xc2);
        bytes(&w, rng_percent(m->r, 50) ? 0 : size, 2);
        put(s, &w);
        return;
    }
    byte(&w, 0xc3);
    put(s, &w);
}

/* As random as elsewhere, but so that most of it runs. */
static void calm_state(struct maker *m, enum shape shape)
{
    struct rng *r = m->r;
    struct cpu_image *in = &m->c->in;
    unsigned mode = m->g->mode;
    bool plain = shape == SHAPE_SELF_MODIFYING || rng_percent(r, 85);
    uint64_t rsp = in->gpr[GPR_RSP];

    if (plain && mode != 64) {
        uint16_t data = mode == 16 ? SEL_DATA16_ARENA : SEL_DATA;

        for (unsigned i = 0; i < SEG_FS; i++)
            if (i != SEG_CS)
                in->sel[i] = data;
        rsp = (mode == 16 ? 0 : ARENA) + (uint64_t)ARENA_STACK * PAGE + PAGE +
              (rng_below(r, PAGE - 512) & ~7u);
    }
    if (mode == 32)
        in->sel[SEG_CS] = SEL_CODE32;
    in->gpr[GPR_RSP] = rsp;
    in->rflags &= ~(RFLAGS_TF | RFLAGS_AC | RFLAGS_NT);
    if (rng_percent(r, 1))
        in->rflags |= rng_percent(r, 50) ? RFLAGS_TF : RFLAGS_AC;
    if (rng_percent(r, 90)) {
        in->fcw |= 0x3f;
        in->fsw &= 0x7f7f;
        in->mxcsr |= 0x1f80;
    }
}

static void choose_fault(struct shaper *s, enum shape shape, unsigned n)
{
    struct maker *m = s->m;
    struct cpu_image *in = &m->c->in;
    unsigned roll = rng_below(m->r, 100), mode = m->g->mode;
    uint64_t base = segment_base(m, ZYDIS_REGISTER_SS);

    if (shape == SHAPE_SELF_MODIFYING || !rng_percent(m->r, 45))
        return;
    s->until_fault = rng_below(m->r, n + 1);
    if (roll < 20)
        s->fault = FAULT_ABSENT;
    else if (roll < 38)
        s->fault = FAULT_READ_ONLY;
    else if (roll < 55)
        s->fault = FAULT_CROSSING;
    else if (roll < 67)
        s->fault = mode == 64 ? FAULT_NON_CANONICAL : FAULT_LIMIT;
    else if (roll < 85)
        s->fault = shape == SHAPE_LOOP ? FAULT_WALK : FAULT_ABSENT;
    else
        s->fault = FAULT_STACK;
    if (s->fault == FAULT_LIMIT && native_has_ldt())
        in->sel[SEG_FS] = SEL_DATA16_SMALL;
    else if (s->fault == FAULT_LIMIT)
        s->fault = FAULT_ABSENT;
    if (s->fault != FAULT_STACK)
        return;
    m->c->fault = FAULT_STACK;
    s->fault = FAULT_NONE;
    if (mode == 64 && rng_percent(m->r, 15))
        in->gpr[GPR_RSP] = UINT64_C(0x800000000000) + rng_below(m->r, 64) - 24;
    else if (rng_percent(m->r, 60)) /* down into what is read-only */
        in->gpr[GPR_RSP] = ARENA + (uint64_t)ARENA_STACK * PAGE + rng_below(m->r, 48) - base;
    else
        in->gpr[GPR_RSP] = ARENA + (uint64_t)(ARENA_STACK + ARENA_STACK_PAGES) * PAGE -
                           rng_below(m->r, 48) - base;
}

bool shape_make(struct maker *m, enum shape shape)
{
    struct test_case *c = m->c;
    struct rng *r = m->r;
    struct shaper s = {
        .m = m, .total = 1, .counter = NOT_GPR, .self_modifying = shape == SHAPE_SELF_MODIFYING};
    const struct raw end = {.b = {0xcc}, .n = 1};
    unsigned n = 3 + rng_below(r, 9);

    c->insns = c->length = c->fixes = 0;
    c->fault = FAULT_NONE;
    c->start[0] = 0;
    c->open = s.self_modifying;
    c->code_offset = (uint16_t)(rng_percent(r, 70) ? rng_below(r, 1500) : PAGE - rng_below(r, 150));
    random_state(r, m->g->mode, &c->in);
    calm_state(m, shape);
    c->in.rip = code_base(c) - (m->g->mode == 16 ? ARENA : 0) + c->code_offset;
    m->reserved |= 1u << GPR_RSP;
    choose_fault(&s, shape, n);
    if (shape == SHAPE_LOOP || (s.self_modifying && rng_percent(r, 50))) {
        items(&s, rng_below(r, 2));
        put_loop(&s, n);
        items(&s, rng_below(r, 3));
    } else {
        items(&s, n);
    }
    append(&s, &end);
    m->keep_stack = s.in_function = true;
    while (s.begun < s.functions && !s.wrong) {
        s.begun++;
        put_function(&s, s.function[s.begun - 1]);
    }
    append(&s, &end);
    for (unsigned i = 0; i < s.tables; i++) {
        struct raw w = {0};

        label_here(&s, s.table[i]);
        fix(&w, FIX_ABSOLUTE, m->g->mode / 8, s.table_to[i], 0);
        append(&s, &w);
    }
    for (unsigned i = 0; i < c->fixes; i++)
        c->fix[i].target = s.label[c->fix[i].target];
    for (unsigned i = 0; i < c->fixes && !s.wrong; i++) { /* do short ones reach? */
        const struct fix *f = &c->fix[i];
        int distance = c->start[f->target] - c->start[f->insn + 1];

        if (f->kind == FIX_RELATIVE && f->size == 1 && distance != (int8_t)distance)
            s.wrong = true;
    }
    if (s.wrong || c->code_offset + c->length > ARENA_CODE_PAGES * PAGE)
        return false;
    if (m->g->mode != 64 && selector_is_16(c->in.sel[SEG_SS]))
        c->in.gpr[GPR_RSP] &= UINT16_MAX; /* IRETQ loads no more */
    case_fix(c);
    return true;
}
