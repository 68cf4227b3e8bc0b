/*
 * integer.c - data movement, arithmetic, shifts, bits: everything general-purpose but branches
 * and strings.
 *
 * Arithmetic is done by the host's own instruction on the guest's values, with the guest's flags
 * loaded before and taken after, so that flags the manual leaves undefined come out as this host
 * makes them (and not as our idea of them). LAHF/SAHF and SETO move flags, several times cheaper
 * than PUSHF/POPF: in AX, AH holds SF ZF AF PF CF and AL bit 0 OF; adding 0x7f to AL makes OF.
 * What 64-bit mode lacks (BCD) is computed by the manual's own algorithm.
 *
 * The handlers for frequent instructions switch once, on insn->form; every case is compiled with
 * constant size and operand kinds. An editor who adds a case must keep the order of the contract:
 * reads, checks and stores first, registers and flags after.
 */
#include "interp/handlers.h"

#include "x86/model.h"

#include <sched.h>

enum alu_op {
    OP_ADD,
    OP_OR,
    OP_ADC,
    OP_SBB,
    OP_AND,
    OP_SUB,
    OP_XOR,
    OP_CMP,
    OP_TEST,
    OP_INC,
    OP_DEC,
    OP_NEG,
    OP_NOT,
    OP_ROL,
    OP_ROR,
    OP_RCL,
    OP_RCR,
    OP_SHL,
    OP_SHR,
    OP_SAR,
    OP_BT,
    OP_BTS,
    OP_BTR,
    OP_BTC,
    OP_BSF,
    OP_BSR,
    OP_LZCNT,
    OP_TZCNT,
    OP_POPCNT,
    OP_IMUL,
};

uint8_t insn_form(const struct insn *in)
{
    static const uint8_t log2_of[9] = {[1] = 0, [2] = 1, [4] = 2, [8] = 3};
    unsigned size = in->op[0].size, kind = FORM_OTHER;
    bool second = in->op[1].kind != OPERAND_NONE;

    if (size != 1 && size != 2 && size != 4 && size != 8)
        return FORM_OTHER;
    if (second && in->op[1].kind == OPERAND_GPR && in->op[1].size != size)
        return FORM_OTHER;
    for (unsigned i = 0; i < 2; i++) {
        if (in->op[i].kind == OPERAND_GPR && (in->op[i].reg & REG_HIGH8))
            return (uint8_t)(FORM_OTHER | log2_of[size]);
    }
    if (in->op[0].kind == OPERAND_MEM)
        kind = in->op[1].kind == OPERAND_GPR   ? FORM_MEM
               : in->op[1].kind == OPERAND_IMM ? FORM_MI
                                               : FORM_OTHER;
    else if (in->op[0].kind == OPERAND_GPR)
        kind = in->op[1].kind == OPERAND_GPR   ? FORM_RR
               : in->op[1].kind == OPERAND_IMM ? FORM_RI
               : in->op[1].kind == OPERAND_MEM ? FORM_RM
                                               : FORM_OTHER;
    return (uint8_t)(kind | log2_of[size]);
}

void insn_undefined(struct cpu *cpu, const struct insn *in)
{
    cpu_raise(cpu, EXC_UD);
}

void insn_nop(struct cpu *cpu, const struct insn *in)
{
}

/* ---- the host's instructions -------------------------------------------------------------- */

/* d = d OP s; flags in AX form in and out. BODY has the operands %[d], %[s]. */
#define HOST(body)                                                                                 \
    __asm__("addb $0x7f, %%al\n\tsahf\n\t" body "\n\tlahf\n\tseto %%al"                            \
            : "+&a"(f), [d] "+&r"(d)                                                               \
            : [s] "r"(s)                                                                           \
            : "cc")
/* The same where the flags before do not matter. */
#define HOST_FRESH(body)                                                                           \
    __asm__(body "\n\tlahf\n\tseto %%al" : "=&a"(f), [d] "+&r"(d) : [s] "r"(s) : "cc")
#define HOST_COUNT(body)                                                                           \
    __asm__("addb $0x7f, %%al\n\tsahf\n\t" body "\n\tlahf\n\tseto %%al"                            \
            : "+&a"(f), [d] "+&r"(d)                                                               \
            : [s] "c"(s)                                                                           \
            : "cc")
#define BY_SIZE(how, name, operands)                                                               \
    switch (size) {                                                                                \
    case 1: how(name "b " operands("b")); break;                                                   \
    case 2: how(name "w " operands("w")); break;                                                   \
    case 4: how(name "l " operands("k")); break;                                                   \
    default: how(name "q " operands("q")); break;                                                  \
    }
#define WIDE_BY_SIZE(how, name, operands)                                                          \
    switch (size) {                                                                                \
    case 2: how(name "w " operands("w")); break;                                                   \
    case 4: how(name "l " operands("k")); break;                                                   \
    default: how(name "q " operands("q")); break;                                                  \
    }
#define TWO(m)   "%" m "[s], %" m "[d]"
#define ONE(m)   "%" m "[d]"
#define COUNT(m) "%%cl, %" m "[d]"

static always_inline uint64_t host_op(enum alu_op op, unsigned size, uint64_t d, uint64_t s,
                                      uint32_t *flags)
{
    uint32_t f = *flags;

    switch (op) {
    case OP_ADD: BY_SIZE(HOST_FRESH, "add", TWO); break;
    case OP_SUB:
    case OP_CMP: BY_SIZE(HOST_FRESH, "sub", TWO); break;
    case OP_OR: BY_SIZE(HOST, "or", TWO); break;
    case OP_AND:
    case OP_TEST: BY_SIZE(HOST, "and", TWO); break;
    case OP_XOR: BY_SIZE(HOST, "xor", TWO); break;
    case OP_ADC: BY_SIZE(HOST, "adc", TWO); break;
    case OP_SBB: BY_SIZE(HOST, "sbb", TWO); break;
    case OP_INC: BY_SIZE(HOST, "inc", ONE); break;
    case OP_DEC: BY_SIZE(HOST, "dec", ONE); break;
    case OP_NEG: BY_SIZE(HOST_FRESH, "neg", ONE); break;
    case OP_NOT: return ~d;
    case OP_ROL: BY_SIZE(HOST_COUNT, "rol", COUNT); break;
    case OP_ROR: BY_SIZE(HOST_COUNT, "ror", COUNT); break;
    case OP_RCL: BY_SIZE(HOST_COUNT, "rcl", COUNT); break;
    case OP_RCR: BY_SIZE(HOST_COUNT, "rcr", COUNT); break;
    case OP_SHL: BY_SIZE(HOST_COUNT, "shl", COUNT); break;
    case OP_SHR: BY_SIZE(HOST_COUNT, "shr", COUNT); break;
    case OP_SAR: BY_SIZE(HOST_COUNT, "sar", COUNT); break;
    case OP_BT: WIDE_BY_SIZE(HOST, "bt", TWO); break;
    case OP_BTS: WIDE_BY_SIZE(HOST, "bts", TWO); break;
    case OP_BTR: WIDE_BY_SIZE(HOST, "btr", TWO); break;
    case OP_BTC: WIDE_BY_SIZE(HOST, "btc", TWO); break;
    case OP_BSF: WIDE_BY_SIZE(HOST, "bsf", TWO); break;
    case OP_BSR: WIDE_BY_SIZE(HOST, "bsr", TWO); break;
    case OP_LZCNT: WIDE_BY_SIZE(HOST, "lzcnt", TWO); break;
    case OP_TZCNT: WIDE_BY_SIZE(HOST, "tzcnt", TWO); break;
    case OP_POPCNT: WIDE_BY_SIZE(HOST, "popcnt", TWO); break;
    case OP_IMUL: WIDE_BY_SIZE(HOST, "imul", TWO); break;
    }
    *flags = f;
    return d;
}

/* The same with the size a variable. */
static always_inline uint64_t host_op_any(enum alu_op op, unsigned size, uint64_t d, uint64_t s,
                                          uint32_t *f)
{
    switch (size) {
    case 1: return host_op(op, 1, d, s, f);
    case 2: return host_op(op, 2, d, s, f);
    case 4: return host_op(op, 4, d, s, f);
    default: return host_op(op, 8, d, s, f);
    }
}

/* ---- two operands: ADD to TEST ------------------------------------------------------------ */

struct update {
    uint64_t operand;
    uint32_t flags_in, flags;
    unsigned size;
    enum alu_op op;
};

static uint64_t update_change(uint64_t old, void *context)
{
    struct update *u = context;
    uint64_t s = u->operand;
    unsigned size = u->size;

    u->flags = u->flags_in;
    switch (u->op) {
    case OP_ADD: return host_op_any(OP_ADD, size, old, s, &u->flags);
    case OP_OR: return host_op_any(OP_OR, size, old, s, &u->flags);
    case OP_ADC: return host_op_any(OP_ADC, size, old, s, &u->flags);
    case OP_SBB: return host_op_any(OP_SBB, size, old, s, &u->flags);
    case OP_AND: return host_op_any(OP_AND, size, old, s, &u->flags);
    case OP_SUB: return host_op_any(OP_SUB, size, old, s, &u->flags);
    case OP_XOR: return host_op_any(OP_XOR, size, old, s, &u->flags);
    case OP_INC: return host_op_any(OP_INC, size, old, s, &u->flags);
    case OP_DEC: return host_op_any(OP_DEC, size, old, s, &u->flags);
    case OP_NEG: return host_op_any(OP_NEG, size, old, s, &u->flags);
    case OP_NOT: return ~old;
    case OP_ROL: return host_op_any(OP_ROL, size, old, s, &u->flags);
    case OP_ROR: return host_op_any(OP_ROR, size, old, s, &u->flags);
    case OP_RCL: return host_op_any(OP_RCL, size, old, s, &u->flags);
    case OP_RCR: return host_op_any(OP_RCR, size, old, s, &u->flags);
    case OP_SHL: return host_op_any(OP_SHL, size, old, s, &u->flags);
    case OP_SHR: return host_op_any(OP_SHR, size, old, s, &u->flags);
    case OP_SAR: return host_op_any(OP_SAR, size, old, s, &u->flags);
    case OP_BTS: return host_op_any(OP_BTS, size, old, s, &u->flags);
    case OP_BTR: return host_op_any(OP_BTR, size, old, s, &u->flags);
    case OP_BTC: return host_op_any(OP_BTC, size, old, s, &u->flags);
    default: return old;
    }
}

/* Read, change, write operand 0 the slow way: locked, MMIO, page crossing, high bytes. */
static void update_slow(struct cpu *cpu, const struct insn *in, enum alu_op op, unsigned size,
                        uint64_t s)
{
    struct update u = {.operand = s, .flags_in = cpu_flags_pack(cpu), .size = size, .op = op};

    operand_modify(cpu, in, 0, update_change, &u);
    if (op != OP_NOT)
        cpu_flags_unpack(cpu, u.flags);
}

static always_inline void update_memory(struct cpu *cpu, const struct insn *in, enum alu_op op,
                                        unsigned size, uint64_t s)
{
    uint32_t f = cpu_flags_pack(cpu);
    uint8_t *p;

    if (op == OP_CMP || op == OP_TEST) {
        host_op(op, size, op_read(cpu, in, 0, size), s, &f);
        cpu_flags_unpack(cpu, f);
        return;
    }
    p = modify_pointer(cpu, in, size);
    if (unlikely(!p)) {
        update_slow(cpu, in, op, size, s);
        return;
    }
    host_store(p, host_op(op, size, host_load(p, size), s, &f), size);
    if (op != OP_NOT)
        cpu_flags_unpack(cpu, f);
}

static always_inline void update_register(struct cpu *cpu, const struct insn *in, enum alu_op op,
                                          unsigned size, uint64_t s)
{
    uint32_t f = cpu_flags_pack(cpu);
    uint64_t d = host_op(op, size, reg_get(cpu, in->op[0].reg, size), s, &f);

    if (op != OP_CMP && op != OP_TEST)
        reg_set(cpu, in->op[0].reg, d, size);
    if (op != OP_NOT)
        cpu_flags_unpack(cpu, f);
}

static always_inline void alu_sized(struct cpu *cpu, const struct insn *in, enum alu_op op,
                                    unsigned size)
{
    switch (in->form & ~(unsigned)FORM_SIZE) {
    case FORM_RR: update_register(cpu, in, op, size, reg_get(cpu, in->op[1].reg, size)); break;
    case FORM_RI: update_register(cpu, in, op, size, in->imm); break;
    case FORM_RM:
        update_register(cpu, in, op, size, load(cpu, in->segment, address_of(cpu, in), size));
        break;
    case FORM_MEM: update_memory(cpu, in, op, size, reg_get(cpu, in->op[1].reg, size)); break;
    case FORM_MI: update_memory(cpu, in, op, size, in->imm); break;
    default: {
        uint64_t s = op_read(cpu, in, 1, size);

        if (in->op[0].kind == OPERAND_MEM)
            update_memory(cpu, in, op, size, s);
        else
            update_register(cpu, in, op, size, s);
        break;
    }
    }
}

/* One switch for what compilers make, two for the rest. */
static always_inline void alu(struct cpu *cpu, const struct insn *in, enum alu_op op)
{
    switch (in->form) {
    case FORM_RR | 2: update_register(cpu, in, op, 4, reg_get(cpu, in->op[1].reg, 4)); break;
    case FORM_RR | 3: update_register(cpu, in, op, 8, reg_get(cpu, in->op[1].reg, 8)); break;
    case FORM_RI | 2: update_register(cpu, in, op, 4, in->imm); break;
    case FORM_RI | 3: update_register(cpu, in, op, 8, in->imm); break;
    case FORM_OTHER | 0:
    case FORM_RR | 0:
    case FORM_RI | 0:
    case FORM_RM | 0:
    case FORM_MEM | 0:
    case FORM_MI | 0: alu_sized(cpu, in, op, 1); break;
    case FORM_OTHER | 1:
    case FORM_RR | 1:
    case FORM_RI | 1:
    case FORM_RM | 1:
    case FORM_MEM | 1:
    case FORM_MI | 1: alu_sized(cpu, in, op, 2); break;
    case FORM_OTHER | 2:
    case FORM_RM | 2:
    case FORM_MEM | 2:
    case FORM_MI | 2: alu_sized(cpu, in, op, 4); break;
    default: alu_sized(cpu, in, op, 8); break;
    }
}

static void do_add(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_ADD);
}

static void do_or(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_OR);
}

static void do_adc(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_ADC);
}

static void do_sbb(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_SBB);
}

static void do_and(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_AND);
}

static void do_sub(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_SUB);
}

static void do_xor(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_XOR);
}

static void do_cmp(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_CMP);
}

static void do_test(struct cpu *cpu, const struct insn *in)
{
    alu(cpu, in, OP_TEST);
}

/* ---- one operand, and shifts -------------------------------------------------------------- */

static always_inline void unary_sized(struct cpu *cpu, const struct insn *in, enum alu_op op,
                                      unsigned size, uint64_t s)
{
    if (in->op[0].kind == OPERAND_MEM)
        update_memory(cpu, in, op, size, s);
    else
        update_register(cpu, in, op, size, s);
}

static always_inline void unary(struct cpu *cpu, const struct insn *in, enum alu_op op, uint64_t s)
{
    switch (in->op[0].size) {
    case 1: unary_sized(cpu, in, op, 1, s); break;
    case 2: unary_sized(cpu, in, op, 2, s); break;
    case 4: unary_sized(cpu, in, op, 4, s); break;
    default: unary_sized(cpu, in, op, 8, s); break;
    }
}

static void do_inc(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_INC, 0);
}

static void do_dec(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_DEC, 0);
}

static void do_neg(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_NEG, 0);
}

static void do_not(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_NOT, 0);
}

/* CL, an immediate, or the 1 of opcodes D0 and D1. */
static always_inline uint64_t shift_count(const struct cpu *cpu, const struct insn *in, unsigned n)
{
    if (in->op[n].kind == OPERAND_GPR)
        return (uint8_t)cpu->gpr[GPR_RCX];
    return in->op[n].kind == OPERAND_IMM ? (uint8_t)in->imm : 1;
}

static void do_rol(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_ROL, shift_count(cpu, in, 1));
}

static void do_ror(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_ROR, shift_count(cpu, in, 1));
}

static void do_rcl(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_RCL, shift_count(cpu, in, 1));
}

static void do_rcr(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_RCR, shift_count(cpu, in, 1));
}

static void do_shl(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_SHL, shift_count(cpu, in, 1));
}

static void do_shr(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_SHR, shift_count(cpu, in, 1));
}

static void do_sar(struct cpu *cpu, const struct insn *in)
{
    unary(cpu, in, OP_SAR, shift_count(cpu, in, 1));
}

struct double_shift {
    uint64_t source, count;
    uint32_t flags_in, flags;
    unsigned size;
    bool left;
};

#define HOST_DOUBLE(text)                                                                          \
    __asm__("addb $0x7f, %%al\n\tsahf\n\t" text "\n\tlahf\n\tseto %%al"                            \
            : "+&a"(f), [d] "+&r"(d)                                                               \
            : [s] "r"(x->source), "c"(x->count)                                                    \
            : "cc")

static uint64_t double_shift_change(uint64_t d, void *context)
{
    struct double_shift *x = context;
    uint32_t f = x->flags_in;

    switch (x->size | (x->left ? 16 : 0)) {
    case 2: HOST_DOUBLE("shrdw %%cl, %w[s], %w[d]"); break;
    case 4: HOST_DOUBLE("shrdl %%cl, %k[s], %k[d]"); break;
    case 8: HOST_DOUBLE("shrdq %%cl, %q[s], %q[d]"); break;
    case 2 | 16: HOST_DOUBLE("shldw %%cl, %w[s], %w[d]"); break;
    case 4 | 16: HOST_DOUBLE("shldl %%cl, %k[s], %k[d]"); break;
    default: HOST_DOUBLE("shldq %%cl, %q[s], %q[d]"); break;
    }
    x->flags = f;
    return d;
}

static void shift_double(struct cpu *cpu, const struct insn *in, bool left)
{
    struct double_shift x = {.source = reg_get(cpu, in->op[1].reg, 8),
                             .count = shift_count(cpu, in, 2),
                             .flags_in = cpu_flags_pack(cpu),
                             .size = in->op[0].size,
                             .left = left};

    operand_modify(cpu, in, 0, double_shift_change, &x);
    cpu_flags_unpack(cpu, x.flags);
}

static void do_shld(struct cpu *cpu, const struct insn *in)
{
    shift_double(cpu, in, true);
}

static void do_shrd(struct cpu *cpu, const struct insn *in)
{
    shift_double(cpu, in, false);
}

/* ---- bits --------------------------------------------------------------------------------- */

static always_inline void bit_op(struct cpu *cpu, const struct insn *in, enum alu_op op)
{
    unsigned size = in->op[0].size;
    bool is_register = in->op[1].kind == OPERAND_GPR;
    uint64_t bit = is_register ? reg_get(cpu, in->op[1].reg, size) : in->imm;
    uint32_t f = cpu_flags_pack(cpu);

    if (in->op[0].kind == OPERAND_GPR) {
        uint64_t d = reg_get(cpu, in->op[0].reg, size);

        d = size == 2   ? host_op(op, 2, d, bit, &f)
            : size == 4 ? host_op(op, 4, d, bit, &f)
                        : host_op(op, 8, d, bit, &f);
        if (op != OP_BT)
            reg_set(cpu, in->op[0].reg, d, size);
    } else {
        uint64_t offset = (uint64_t)in->disp;
        struct update u = {.flags_in = f, .size = size, .op = op};

        /* A register reaches beyond the operand: the bit string starts there and goes both ways. */
        if (is_register) {
            int64_t units = sign_extend(bit, size * 8) >> (size == 8 ? 6 : size == 4 ? 5 : 4);

            offset = address_of(cpu, in) + (uint64_t)units * size;
            offset = in->address_size == 8   ? offset
                     : in->address_size == 4 ? (uint32_t)offset
                                             : (uint16_t)offset;
        } else {
            offset = address_of(cpu, in);
        }
        u.operand = bit & (size * 8 - 1);
        if (op == OP_BT) {
            uint64_t d = segment_load(cpu, (enum segment_name)in->segment, offset, size);

            host_op_any(OP_BT, size == 2 || size == 4 ? size : 8, d, u.operand, &f);
        } else {
            gva linear = segment_linear(cpu, (enum segment_name)in->segment, offset, size,
                                        MMU_WRITE);

            linear_modify(cpu, linear, size, (in->prefix & PREFIX_LOCK) != 0, update_change, &u);
            f = u.flags;
        }
    }
    cpu_flags_unpack(cpu, f);
}

static void do_bt(struct cpu *cpu, const struct insn *in)
{
    bit_op(cpu, in, OP_BT);
}

static void do_bts(struct cpu *cpu, const struct insn *in)
{
    bit_op(cpu, in, OP_BTS);
}

static void do_btr(struct cpu *cpu, const struct insn *in)
{
    bit_op(cpu, in, OP_BTR);
}

static void do_btc(struct cpu *cpu, const struct insn *in)
{
    bit_op(cpu, in, OP_BTC);
}

/* A scan of zero leaves the destination to the host, upper half included. */
static always_inline void scan_op(struct cpu *cpu, const struct insn *in, enum alu_op op)
{
    unsigned size = in->op[0].size;
    uint64_t s = operand_read(cpu, in, 1), d = cpu->gpr[in->op[0].reg & 15];
    uint32_t f = cpu_flags_pack(cpu);

    switch (size) {
    case 2: reg_set(cpu, in->op[0].reg, host_op(op, 2, d, s, &f), 2); break;
    case 4: reg_set(cpu, in->op[0].reg, host_op(op, 4, d, s, &f), 8); break;
    default: reg_set(cpu, in->op[0].reg, host_op(op, 8, d, s, &f), 8); break;
    }
    cpu_flags_unpack(cpu, f);
}

static void do_bsf(struct cpu *cpu, const struct insn *in)
{
    scan_op(cpu, in, OP_BSF);
}

static void do_bsr(struct cpu *cpu, const struct insn *in)
{
    scan_op(cpu, in, OP_BSR);
}

static void do_lzcnt(struct cpu *cpu, const struct insn *in)
{
    scan_op(cpu, in, OP_LZCNT);
}

static void do_tzcnt(struct cpu *cpu, const struct insn *in)
{
    scan_op(cpu, in, OP_TZCNT);
}

static void do_popcnt(struct cpu *cpu, const struct insn *in)
{
    scan_op(cpu, in, OP_POPCNT);
}

static void do_bswap(struct cpu *cpu, const struct insn *in)
{
    uint64_t v = cpu->gpr[in->op[0].reg & 15];

    switch (in->op[0].size) {
    case 2:
        /* Undefined by the manual: what the host makes of the 16-bit form, which assemblers
         * refuse: 66 BSWAP EAX. */
        __asm__(".byte 0x66, 0x0f, 0xc8" : "+a"(v));
        cpu->gpr[in->op[0].reg & 15] = v;
        break;
    case 4: reg_set(cpu, in->op[0].reg, __builtin_bswap32((uint32_t)v), 4); break;
    default: reg_set(cpu, in->op[0].reg, __builtin_bswap64(v), 8); break;
    }
}

static void do_movbe(struct cpu *cpu, const struct insn *in)
{
    uint64_t v = operand_read(cpu, in, 1);

    switch (in->op[0].size) {
    case 2: v = __builtin_bswap16((uint16_t)v); break;
    case 4: v = __builtin_bswap32((uint32_t)v); break;
    default: v = __builtin_bswap64(v); break;
    }
    operand_write(cpu, in, 0, v);
}

/* ADCX and ADOX: an addition whose carry lives in one flag and which leaves the others alone. */
static void carry_chain(struct cpu *cpu, const struct insn *in, uint64_t flag)
{
    unsigned size = in->op[0].size;
    unsigned __int128 sum = (unsigned __int128)reg_get(cpu, in->op[0].reg, size == 4 ? 4 : 8) +
                            operand_read(cpu, in, 1) + ((cpu->rflags & flag) != 0);

    reg_set(cpu, in->op[0].reg, (uint64_t)sum, size == 4 ? 4 : 8);
    cpu->rflags &= ~flag;
    if (sum >> (size * 8))
        cpu->rflags |= flag;
}

static void do_adcx(struct cpu *cpu, const struct insn *in)
{
    carry_chain(cpu, in, RFLAGS_CF);
}

static void do_adox(struct cpu *cpu, const struct insn *in)
{
    carry_chain(cpu, in, RFLAGS_OF);
}

/* ---- data movement ------------------------------------------------------------------------ */

static always_inline void mov_sized(struct cpu *cpu, const struct insn *in, unsigned size)
{
    switch (in->form & ~(unsigned)FORM_SIZE) {
    case FORM_RR: reg_set(cpu, in->op[0].reg, reg_get(cpu, in->op[1].reg, size), size); break;
    case FORM_RI: reg_set(cpu, in->op[0].reg, in->imm, size); break;
    case FORM_RM:
        reg_set(cpu, in->op[0].reg, load(cpu, in->segment, address_of(cpu, in), size), size);
        break;
    case FORM_MEM:
        store(cpu, in->segment, address_of(cpu, in), reg_get(cpu, in->op[1].reg, size), size);
        break;
    case FORM_MI: store(cpu, in->segment, address_of(cpu, in), in->imm, size); break;
    default: op_write(cpu, in, 0, op_read(cpu, in, 1, size), size); break;
    }
}

static void do_mov(struct cpu *cpu, const struct insn *in)
{
    uint64_t *r = &cpu->gpr[in->op[0].reg & 15];

    switch (in->form) {
    case FORM_RR | 2: *r = (uint32_t)cpu->gpr[in->op[1].reg]; break;
    case FORM_RR | 3: *r = cpu->gpr[in->op[1].reg]; break;
    case FORM_RI | 2: *r = (uint32_t)in->imm; break;
    case FORM_RI | 3: *r = in->imm; break;
    case FORM_RM | 2: *r = load(cpu, in->segment, address_of(cpu, in), 4); break;
    case FORM_RM | 3: *r = load(cpu, in->segment, address_of(cpu, in), 8); break;
    case FORM_MEM | 2:
        store(cpu, in->segment, address_of(cpu, in), cpu->gpr[in->op[1].reg], 4);
        break;
    case FORM_MEM | 3:
        store(cpu, in->segment, address_of(cpu, in), cpu->gpr[in->op[1].reg], 8);
        break;
    default:
        switch (in->form & FORM_SIZE) {
        case 0: mov_sized(cpu, in, 1); break;
        case 1: mov_sized(cpu, in, 2); break;
        case 2: mov_sized(cpu, in, 4); break;
        default: mov_sized(cpu, in, 8); break;
        }
        break;
    }
}

static void do_movzx(struct cpu *cpu, const struct insn *in)
{
    uint64_t v = in->op[1].size == 1 ? op_read(cpu, in, 1, 1) : op_read(cpu, in, 1, 2);

    reg_write(cpu, in->op[0].reg, v, in->op[0].size);
}

/* MOVSX and MOVSXD. The latter with a 16-bit destination reads 16 bits (the manual's r16, r/m16).
 */
static void do_movsx(struct cpu *cpu, const struct insn *in)
{
    unsigned size = MIN(in->op[1].size, in->op[0].size);
    uint64_t v;

    switch (size) {
    case 1: v = (uint64_t)(int8_t)op_read(cpu, in, 1, 1); break;
    case 2: v = (uint64_t)(int16_t)op_read(cpu, in, 1, 2); break;
    default: v = (uint64_t)(int32_t)op_read(cpu, in, 1, 4); break;
    }
    reg_write(cpu, in->op[0].reg, v, in->op[0].size);
}

static void do_movnti(struct cpu *cpu, const struct insn *in)
{
    operand_write(cpu, in, 0, operand_read(cpu, in, 1));
}

static void do_lea(struct cpu *cpu, const struct insn *in)
{
    reg_write(cpu, in->op[0].reg, address_of(cpu, in), in->op[0].size);
}

static uint64_t exchange_change(uint64_t old, void *context)
{
    return *(uint64_t *)context;
}

static void do_xchg(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size, memory = in->op[1].kind == OPERAND_MEM ? 1 : 0;
    unsigned other = memory ^ 1;
    uint64_t mine = reg_get(cpu, in->op[other].reg, size);
    uint64_t theirs = operand_modify(cpu, in, memory, exchange_change, &mine);

    reg_write(cpu, in->op[other].reg, theirs, size);
}

static uint64_t add_change(uint64_t old, void *context)
{
    return old + *(uint64_t *)context;
}

static void do_xadd(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size;
    uint64_t addend = reg_read(cpu, in->op[1].reg, size), old;
    uint32_t f = 0;

    if (in->op[0].kind == OPERAND_MEM) {
        old = operand_modify(cpu, in, 0, add_change, &addend);
        reg_write(cpu, in->op[1].reg, old, size);
    } else {
        old = reg_read(cpu, in->op[0].reg, size);
        reg_write(cpu, in->op[1].reg, old, size);
        reg_write(cpu, in->op[0].reg, old + addend, size);
    }
    host_op_any(OP_ADD, size, old, addend, &f);
    cpu_flags_unpack(cpu, f);
}

struct compare_exchange {
    uint64_t accumulator, desired, mask;
};

static uint64_t compare_exchange_change(uint64_t old, void *context)
{
    struct compare_exchange *x = context;

    return ((old ^ x->accumulator) & x->mask) == 0 ? x->desired : old;
}

static void do_cmpxchg(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size;
    struct compare_exchange x = {.accumulator = reg_read(cpu, GPR_RAX, size),
                                 .desired = reg_read(cpu, in->op[1].reg, size),
                                 .mask = size_mask(size)};
    uint64_t old;
    uint32_t f = 0;

    if (in->op[0].kind == OPERAND_MEM) {
        old = operand_modify(cpu, in, 0, compare_exchange_change, &x);
        if (old != x.accumulator)
            reg_write(cpu, GPR_RAX, old, size);
    } else {
        old = reg_read(cpu, in->op[0].reg, size);
        if (old == x.accumulator)
            reg_write(cpu, in->op[0].reg, x.desired, size);
        else
            reg_write(cpu, GPR_RAX, old, size);
    }
    host_op_any(OP_CMP, size, x.accumulator, old, &f);
    cpu_flags_unpack(cpu, f);
}

/* CMPXCHG8B, CMPXCHG16B: half is the size of one register. */
static void compare_exchange_wide(struct cpu *cpu, const struct insn *in, unsigned half)
{
    uint8_t expected[16], desired[16];
    gva linear = segment_linear(cpu, (enum segment_name)in->segment, address_of(cpu, in), half * 2,
                                MMU_WRITE);

    if (half == 8 && (linear & 15))
        cpu_raise_error(cpu, EXC_GP, 0);
    store_le(expected, cpu->gpr[GPR_RAX], half);
    store_le(expected + half, cpu->gpr[GPR_RDX], half);
    store_le(desired, cpu->gpr[GPR_RBX], half);
    store_le(desired + half, cpu->gpr[GPR_RCX], half);
    if (linear_compare_exchange(cpu, linear, expected, desired, half * 2,
                                (enum mmu_mode)cpu->mmu_mode)) {
        cpu->rflags |= RFLAGS_ZF;
    } else {
        cpu->rflags &= ~(uint64_t)RFLAGS_ZF;
        reg_write(cpu, GPR_RAX, load_le(expected, half), half);
        reg_write(cpu, GPR_RDX, load_le(expected + half, half), half);
    }
}

static void do_cmpxchg8b(struct cpu *cpu, const struct insn *in)
{
    compare_exchange_wide(cpu, in, 4);
}

static void do_cmpxchg16b(struct cpu *cpu, const struct insn *in)
{
    compare_exchange_wide(cpu, in, 8);
}

static void do_xlat(struct cpu *cpu, const struct insn *in)
{
    uint64_t offset = cpu->gpr[GPR_RBX] + (uint8_t)cpu->gpr[GPR_RAX];

    if (in->address_size != 8)
        offset = in->address_size == 4 ? (uint32_t)offset : (uint16_t)offset;
    reg_set(cpu, GPR_RAX, load(cpu, in->segment, offset, 1), 1);
}

/* ---- stack -------------------------------------------------------------------------------- */

static void do_push(struct cpu *cpu, const struct insn *in)
{
    if (likely(in->stack_size == 8))
        push(cpu, in->op[0].kind == OPERAND_IMM ? in->imm : op_read(cpu, in, 0, 8), 8);
    else if (in->stack_size == 4)
        push(cpu, op_read(cpu, in, 0, 4), 4);
    else
        push(cpu, op_read(cpu, in, 0, 2), 2);
}

static void do_pop(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->stack_size;
    uint64_t value;

    if (likely(size == 8 && in->op[0].kind == OPERAND_GPR)) {
        value = top_of_stack(cpu, 8);
        drop(cpu, 8);
        cpu->gpr[in->op[0].reg] = value;
        return;
    }
    value = stack_load(cpu, 0, size);
    if (in->op[0].kind == OPERAND_MEM) {
        /* An address relative to RSP counts from after the pop. */
        uint64_t offset = address_of(cpu, in);

        if (in->base == GPR_RSP) {
            offset += size;
            offset = in->address_size == 8   ? offset
                     : in->address_size == 4 ? (uint32_t)offset
                                             : (uint16_t)offset;
        }
        segment_store(cpu, (enum segment_name)in->segment, offset, value, size);
        stack_move(cpu, size);
        return;
    }
    stack_move(cpu, size);
    reg_write(cpu, in->op[0].reg, value, size);
}

static void do_pusha(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->operand_size;

    /* Lowest address first: when that can be written so can, nearly always, the rest; when not,
     * nothing has changed. */
    for (unsigned n = GPR_COUNT / 2; n-- > 0;)
        stack_store(cpu, (n + 1) * size, cpu->gpr[n], size);
    stack_move(cpu, -8 * (int64_t)size);
}

static void do_popa(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->operand_size;
    uint64_t value[8];

    for (unsigned n = 0; n < 8; n++)
        value[n] = stack_load(cpu, (7 - n) * size, size);
    for (unsigned n = 0; n < 8; n++) {
        if (n != GPR_RSP)
            reg_write(cpu, n, value[n], size);
    }
    stack_move(cpu, 8 * (int64_t)size);
}

static void do_enter(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->stack_size, level = in->imm2 & 31, depth = size;
    uint64_t frame = cpu->gpr[GPR_RSP] - size, top;

    stack_store(cpu, size, cpu->gpr[GPR_RBP], size);
    if (level) {
        for (unsigned i = 1; i < level; i++) {
            uint64_t at = stack_cut(cpu, cpu->gpr[GPR_RBP] - i * size);

            depth += size;
            stack_store(cpu, depth, segment_load(cpu, SEG_SS, at, size), size);
        }
        depth += size;
        stack_store(cpu, depth, stack_cut(cpu, frame), size);
    }
    top = stack_cut(cpu, cpu->gpr[GPR_RSP] - depth - (in->imm & 0xffff));
    /* The manual: a push at the new top must be possible. */
    mmu_probe(cpu, segment_linear(cpu, SEG_SS, top, size, MMU_WRITE), size,
              (enum mmu_mode)cpu->mmu_mode, MMU_WRITE);
    reg_write(cpu, GPR_RBP, stack_cut(cpu, frame), size);
    reg_write(cpu, GPR_RSP, top, stack_width(cpu));
}

static void do_leave(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->stack_size, width = stack_width(cpu);
    uint64_t top = reg_read(cpu, GPR_RBP, width);
    uint64_t value = segment_load(cpu, SEG_SS, top, size);

    reg_write(cpu, GPR_RSP, top + size, width);
    reg_write(cpu, GPR_RBP, value, size);
}

/* ---- multiplication and division ---------------------------------------------------------- */

/* RDX:RAX (or AX) = RAX * s by the host, with its flags. */
#define HOST_MUL(text)                                                                             \
    __asm__("mov %[f], %%eax\n\taddb $0x7f, %%al\n\tsahf\n\tmov %[low], %%rax\n\t" text            \
            "\n\tmov %%rax, %[low]\n\tlahf\n\tseto %%al\n\tmov %%eax, %[f]"                        \
            : [f] "+&r"(f), [low] "+&r"(low), "+&d"(high)                                          \
            : [s] "r"(s)                                                                           \
            : "rax", "cc")

static always_inline void multiply(struct cpu *cpu, const struct insn *in, bool is_signed)
{
    unsigned size = in->op[0].size;
    uint64_t s = operand_read(cpu, in, 0), low = cpu->gpr[GPR_RAX], high = cpu->gpr[GPR_RDX];
    uint32_t f = cpu_flags_pack(cpu);

    switch (size | (is_signed ? 16 : 0)) {
    case 1: HOST_MUL("mulb %b[s]"); break;
    case 2: HOST_MUL("mulw %w[s]"); break;
    case 4: HOST_MUL("mull %k[s]"); break;
    case 8: HOST_MUL("mulq %q[s]"); break;
    case 1 | 16: HOST_MUL("imulb %b[s]"); break;
    case 2 | 16: HOST_MUL("imulw %w[s]"); break;
    case 4 | 16: HOST_MUL("imull %k[s]"); break;
    default: HOST_MUL("imulq %q[s]"); break;
    }
    if (size == 1) {
        reg_set(cpu, GPR_RAX, low, 2);
    } else {
        reg_write(cpu, GPR_RAX, low, size);
        reg_write(cpu, GPR_RDX, high, size);
    }
    cpu_flags_unpack(cpu, f);
}

static void do_mul(struct cpu *cpu, const struct insn *in)
{
    multiply(cpu, in, false);
}

static void do_imul(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size;
    uint64_t d, s;
    uint32_t f;

    if (in->op[1].kind == OPERAND_NONE) {
        multiply(cpu, in, true);
        return;
    }
    s = operand_read(cpu, in, 1);
    d = in->op[2].kind == OPERAND_IMM ? in->imm : reg_read(cpu, in->op[0].reg, size);
    f = cpu_flags_pack(cpu);
    d = size == 2   ? host_op(OP_IMUL, 2, d, s, &f)
        : size == 4 ? host_op(OP_IMUL, 4, d, s, &f)
                    : host_op(OP_IMUL, 8, d, s, &f);
    reg_write(cpu, in->op[0].reg, d, size);
    cpu_flags_unpack(cpu, f);
}

/* Would the quotient not fit? Then the host would fault as the guest must. */
static bool division_overflows(uint64_t low, uint64_t high, uint64_t s, unsigned size,
                               bool is_signed)
{
    unsigned bits = size * 8;
    unsigned __int128 n = (unsigned __int128)high << bits | low;
    __int128 sn, ss = sign_extend(s, bits), sq;

    if (s == 0)
        return true;
    if (!is_signed)
        return high >= s;
    sn = (__int128)(n << (128 - 2 * bits)) >> (128 - 2 * bits);
    /* Only here can the 128-bit division itself overflow. */
    if (ss == -1 && size == 8 && sn == (__int128)((unsigned __int128)1 << 127))
        return true;
    sq = sn / ss;
    return sq != sign_extend((uint64_t)sq, bits);
}

static always_inline void divide(struct cpu *cpu, const struct insn *in, bool is_signed)
{
    unsigned size = in->op[0].size;
    uint64_t s = operand_read(cpu, in, 0);
    uint64_t low = reg_read(cpu, GPR_RAX, size);
    uint64_t high = size == 1 ? (uint8_t)(cpu->gpr[GPR_RAX] >> 8) : reg_read(cpu, GPR_RDX, size);
    uint32_t f = cpu_flags_pack(cpu);

    if (division_overflows(low, high, s, size, is_signed))
        cpu_raise(cpu, EXC_DE);
    if (size == 1)
        low |= high << 8;
    switch (size | (is_signed ? 16 : 0)) {
    case 1: HOST_MUL("divb %b[s]"); break;
    case 2: HOST_MUL("divw %w[s]"); break;
    case 4: HOST_MUL("divl %k[s]"); break;
    case 8: HOST_MUL("divq %q[s]"); break;
    case 1 | 16: HOST_MUL("idivb %b[s]"); break;
    case 2 | 16: HOST_MUL("idivw %w[s]"); break;
    case 4 | 16: HOST_MUL("idivl %k[s]"); break;
    default: HOST_MUL("idivq %q[s]"); break;
    }
    if (size == 1) {
        reg_set(cpu, GPR_RAX, low, 2);
    } else {
        reg_write(cpu, GPR_RAX, low, size);
        reg_write(cpu, GPR_RDX, high, size);
    }
    cpu_flags_unpack(cpu, f);
}

static void do_div(struct cpu *cpu, const struct insn *in)
{
    divide(cpu, in, false);
}

static void do_idiv(struct cpu *cpu, const struct insn *in)
{
    divide(cpu, in, true);
}

static void do_cbw(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, GPR_RAX, (uint64_t)(int8_t)cpu->gpr[GPR_RAX], 2);
}

static void do_cwde(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, GPR_RAX, (uint64_t)(int16_t)cpu->gpr[GPR_RAX], 4);
}

static void do_cdqe(struct cpu *cpu, const struct insn *in)
{
    cpu->gpr[GPR_RAX] = (uint64_t)(int32_t)cpu->gpr[GPR_RAX];
}

static void do_cwd(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, GPR_RDX, (uint64_t)((int16_t)cpu->gpr[GPR_RAX] >> 15), 2);
}

static void do_cdq(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, GPR_RDX, (uint64_t)((int32_t)cpu->gpr[GPR_RAX] >> 31), 4);
}

static void do_cqo(struct cpu *cpu, const struct insn *in)
{
    cpu->gpr[GPR_RDX] = (uint64_t)((int64_t)cpu->gpr[GPR_RAX] >> 63);
}

/* ---- decimal ------------------------------------------------------------------------------ */

/* SF, ZF, PF by a byte; CF and AF as told; OF (undefined) clear. */
static void flags_decimal(struct cpu *cpu, uint8_t al, bool carry, bool adjust)
{
    cpu->rflags &= ~(uint64_t)RFLAGS_STATUS;
    if (carry)
        cpu->rflags |= RFLAGS_CF;
    if (adjust)
        cpu->rflags |= RFLAGS_AF;
    if (al == 0)
        cpu->rflags |= RFLAGS_ZF;
    if (al & 0x80)
        cpu->rflags |= RFLAGS_SF;
    if (!__builtin_parity(al))
        cpu->rflags |= RFLAGS_PF;
}

static void decimal_packed(struct cpu *cpu, bool add)
{
    uint8_t old = (uint8_t)cpu->gpr[GPR_RAX], al = old;
    bool old_carry = (cpu->rflags & RFLAGS_CF) != 0, carry = false;
    bool adjust = (al & 0xf) > 9 || (cpu->rflags & RFLAGS_AF);

    if (adjust) {
        carry = old_carry || (add ? al > 0xff - 6 : al < 6);
        al = (uint8_t)(add ? al + 6 : al - 6);
    }
    if (old > 0x99 || old_carry) {
        al = (uint8_t)(add ? al + 0x60 : al - 0x60);
        carry = true;
    }
    reg_set(cpu, GPR_RAX, al, 1);
    flags_decimal(cpu, al, carry, adjust);
}

static void do_daa(struct cpu *cpu, const struct insn *in)
{
    decimal_packed(cpu, true);
}

static void do_das(struct cpu *cpu, const struct insn *in)
{
    decimal_packed(cpu, false);
}

static void decimal_unpacked(struct cpu *cpu, bool add)
{
    uint16_t ax = (uint16_t)cpu->gpr[GPR_RAX];
    bool adjust = (ax & 0xf) > 9 || (cpu->rflags & RFLAGS_AF);

    if (adjust)
        ax = (uint16_t)(add ? ax + 0x106 : ax - 0x106);
    ax &= 0xff0f;
    reg_set(cpu, GPR_RAX, ax, 2);
    flags_decimal(cpu, (uint8_t)ax, adjust, adjust);
}

static void do_aaa(struct cpu *cpu, const struct insn *in)
{
    decimal_unpacked(cpu, true);
}

static void do_aas(struct cpu *cpu, const struct insn *in)
{
    decimal_unpacked(cpu, false);
}

static void do_aam(struct cpu *cpu, const struct insn *in)
{
    uint8_t base = (uint8_t)in->imm, al = (uint8_t)cpu->gpr[GPR_RAX];

    if (base == 0)
        cpu_raise(cpu, EXC_DE);
    reg_set(cpu, GPR_RAX, (uint64_t)(al / base) << 8 | al % base, 2);
    flags_decimal(cpu, al % base, false, false);
}

static void do_aad(struct cpu *cpu, const struct insn *in)
{
    uint16_t ax = (uint16_t)cpu->gpr[GPR_RAX];
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)in->imm);

    reg_set(cpu, GPR_RAX, al, 2);
    flags_decimal(cpu, al, false, false);
}

static void do_salc(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, GPR_RAX, cpu->rflags & RFLAGS_CF ? 0xff : 0, 1);
}

/* ---- flags, hints, the rest --------------------------------------------------------------- */

static void do_lahf(struct cpu *cpu, const struct insn *in)
{
    reg_set(cpu, REG_HIGH8 | 0, (cpu->rflags & 0xd5) | RFLAGS_FIXED, 1);
}

static void do_sahf(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags = (cpu->rflags & ~UINT64_C(0xd5)) | (cpu->gpr[GPR_RAX] >> 8 & 0xd5);
}

static void do_clc(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags &= ~(uint64_t)RFLAGS_CF;
}

static void do_stc(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags |= RFLAGS_CF;
}

static void do_cmc(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags ^= RFLAGS_CF;
}

static void do_cld(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags &= ~(uint64_t)RFLAGS_DF;
}

static void do_std(struct cpu *cpu, const struct insn *in)
{
    cpu->rflags |= RFLAGS_DF;
}

static void do_bound(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size, bits = size * 8;
    uint64_t offset = address_of(cpu, in), both;
    int64_t index = sign_extend(reg_read(cpu, in->op[0].reg, size), bits);

    /* The limit is checked for both bounds first; each is aligned by itself. */
    segment_linear(cpu, (enum segment_name)in->segment, offset + size, size, MMU_READ);
    both = segment_load(cpu, (enum segment_name)in->segment, offset, size);
    if (index < sign_extend(both, bits))
        cpu_raise(cpu, EXC_BR);
    both = segment_load(cpu, (enum segment_name)in->segment, offset + size, size);
    if (index > sign_extend(both, bits))
        cpu_raise(cpu, EXC_BR);
}

/* A processor that spins waits for another one, which may have no host CPU while we have ours. */
static void do_pause(struct cpu *cpu, const struct insn *in)
{
    static _Thread_local unsigned pauses;

    if (++pauses % 32 == 0)
        sched_yield();
    else
        __asm__ volatile("pause");
}

const struct insn_row insn_integer[] = {
    {ZYDIS_MNEMONIC_ADD, do_add},
    {ZYDIS_MNEMONIC_OR, do_or},
    {ZYDIS_MNEMONIC_ADC, do_adc},
    {ZYDIS_MNEMONIC_SBB, do_sbb},
    {ZYDIS_MNEMONIC_AND, do_and},
    {ZYDIS_MNEMONIC_SUB, do_sub},
    {ZYDIS_MNEMONIC_XOR, do_xor},
    {ZYDIS_MNEMONIC_CMP, do_cmp},
    {ZYDIS_MNEMONIC_TEST, do_test},
    {ZYDIS_MNEMONIC_INC, do_inc},
    {ZYDIS_MNEMONIC_DEC, do_dec},
    {ZYDIS_MNEMONIC_NEG, do_neg},
    {ZYDIS_MNEMONIC_NOT, do_not},
    {ZYDIS_MNEMONIC_ROL, do_rol},
    {ZYDIS_MNEMONIC_ROR, do_ror},
    {ZYDIS_MNEMONIC_RCL, do_rcl},
    {ZYDIS_MNEMONIC_RCR, do_rcr},
    {ZYDIS_MNEMONIC_SHL, do_shl},
    {ZYDIS_MNEMONIC_SHR, do_shr},
    {ZYDIS_MNEMONIC_SAR, do_sar},
    {ZYDIS_MNEMONIC_SHLD, do_shld},
    {ZYDIS_MNEMONIC_SHRD, do_shrd},
    {ZYDIS_MNEMONIC_BT, do_bt},
    {ZYDIS_MNEMONIC_BTS, do_bts},
    {ZYDIS_MNEMONIC_BTR, do_btr},
    {ZYDIS_MNEMONIC_BTC, do_btc},
    {ZYDIS_MNEMONIC_BSF, do_bsf},
    {ZYDIS_MNEMONIC_BSR, do_bsr},
    {ZYDIS_MNEMONIC_LZCNT, do_lzcnt},
    {ZYDIS_MNEMONIC_TZCNT, do_tzcnt},
    {ZYDIS_MNEMONIC_POPCNT, do_popcnt},
    {ZYDIS_MNEMONIC_BSWAP, do_bswap},
    {ZYDIS_MNEMONIC_MOVBE, do_movbe},
    {ZYDIS_MNEMONIC_ADCX, do_adcx},
    {ZYDIS_MNEMONIC_ADOX, do_adox},
    {ZYDIS_MNEMONIC_MOV, do_mov},
    {ZYDIS_MNEMONIC_MOVZX, do_movzx},
    {ZYDIS_MNEMONIC_MOVSX, do_movsx},
    {ZYDIS_MNEMONIC_MOVSXD, do_movsx},
    {ZYDIS_MNEMONIC_MOVNTI, do_movnti},
    {ZYDIS_MNEMONIC_LEA, do_lea},
    {ZYDIS_MNEMONIC_XCHG, do_xchg},
    {ZYDIS_MNEMONIC_XADD, do_xadd},
    {ZYDIS_MNEMONIC_CMPXCHG, do_cmpxchg},
    {ZYDIS_MNEMONIC_CMPXCHG8B, do_cmpxchg8b},
    {ZYDIS_MNEMONIC_CMPXCHG16B, do_cmpxchg16b},
    {ZYDIS_MNEMONIC_XLAT, do_xlat},
    {ZYDIS_MNEMONIC_PUSH, do_push},
    {ZYDIS_MNEMONIC_POP, do_pop},
    {ZYDIS_MNEMONIC_PUSHA, do_pusha},
    {ZYDIS_MNEMONIC_PUSHAD, do_pusha},
    {ZYDIS_MNEMONIC_POPA, do_popa},
    {ZYDIS_MNEMONIC_POPAD, do_popa},
    {ZYDIS_MNEMONIC_ENTER, do_enter},
    {ZYDIS_MNEMONIC_LEAVE, do_leave},
    {ZYDIS_MNEMONIC_MUL, do_mul},
    {ZYDIS_MNEMONIC_IMUL, do_imul},
    {ZYDIS_MNEMONIC_DIV, do_div},
    {ZYDIS_MNEMONIC_IDIV, do_idiv},
    {ZYDIS_MNEMONIC_CBW, do_cbw},
    {ZYDIS_MNEMONIC_CWDE, do_cwde},
    {ZYDIS_MNEMONIC_CDQE, do_cdqe},
    {ZYDIS_MNEMONIC_CWD, do_cwd},
    {ZYDIS_MNEMONIC_CDQ, do_cdq},
    {ZYDIS_MNEMONIC_CQO, do_cqo},
    {ZYDIS_MNEMONIC_DAA, do_daa},
    {ZYDIS_MNEMONIC_DAS, do_das},
    {ZYDIS_MNEMONIC_AAA, do_aaa},
    {ZYDIS_MNEMONIC_AAS, do_aas},
    {ZYDIS_MNEMONIC_AAM, do_aam},
    {ZYDIS_MNEMONIC_AAD, do_aad},
    {ZYDIS_MNEMONIC_SALC, do_salc},
    {ZYDIS_MNEMONIC_LAHF, do_lahf},
    {ZYDIS_MNEMONIC_SAHF, do_sahf},
    {ZYDIS_MNEMONIC_CLC, do_clc},
    {ZYDIS_MNEMONIC_STC, do_stc},
    {ZYDIS_MNEMONIC_CMC, do_cmc},
    {ZYDIS_MNEMONIC_CLD, do_cld},
    {ZYDIS_MNEMONIC_STD, do_std},
    {ZYDIS_MNEMONIC_BOUND, do_bound},
    {ZYDIS_MNEMONIC_NOP, insn_nop},
    {ZYDIS_MNEMONIC_PAUSE, do_pause},
    {ZYDIS_MNEMONIC_UD0, insn_undefined},
    {ZYDIS_MNEMONIC_UD1, insn_undefined},
    {ZYDIS_MNEMONIC_UD2, insn_undefined},
    {ZYDIS_MNEMONIC_PREFETCH, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHNTA, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHT0, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHT1, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHT2, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHW, insn_nop},
    {ZYDIS_MNEMONIC_PREFETCHWT1, insn_nop},
    {ZYDIS_MNEMONIC_INVALID, NULL},
};
