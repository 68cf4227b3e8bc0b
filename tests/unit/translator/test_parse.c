/*
 * test_parse.c - the translator's parser against Zydis and the interpreter's decoder.
 *
 * Every opcode of every map, in three code sizes, with sets of prefixes and many ModRM bytes: what
 * the parser says of it must be what Zydis says, register by register and flag by flag, and the
 * host form of what it would copy must decode to the same instruction. Differences that are meant
 * are functions here, each with its reason.
 */
#include "support/unit.h"

#include "interp/handlers.h"
#include "interp/insn.h"
#include "interp/simd.h"
#include "translator/parse.h"
#include "x86/model.h"

#include <Zydis/Zydis.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static struct cpu_model model_max, model_old;
static struct cpu *cpu_max, *cpu_old;
static ZydisDecoder decoder[9];
static uint8_t *stub; /* executable: see run() */

static uint64_t rng_state = 0x9e3779b97f4a7c15;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static struct cpu *make_cpu(const char *name, struct cpu_model *model)
{
    struct cpu_limits limits;
    struct error err = {0};
    struct cpu *cpu;

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build(name, &limits, 1, model, &err), 0);
    cpu = cpu_new(0, 0, model);
    cpu->cr0 |= CR0_PE;
    return cpu;
}

static void decoder_setup(unsigned code_size, ZydisMachineMode mode, ZydisStackWidth width)
{
    ZydisDecoderInit(&decoder[code_size], mode, width);
    ZydisDecoderEnableMode(&decoder[code_size], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder[code_size], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder[code_size], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
}

static int setup(void **state)
{
    cpu_max = make_cpu("max", &model_max);
    cpu_old =
        make_cpu("max,-sse3,-ssse3,-sse4.1,-avx,-popcnt,-abm,-bmi1,-bmi2,-adx,-movbe,-lahf-lm,"
                 "-fsgsbase,-smap",
                 &model_old);
    stub = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    decoder_setup(2, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    decoder_setup(4, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    decoder_setup(8, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return 0;
}

static int teardown(void **state)
{
    cpu_free(cpu_max);
    cpu_free(cpu_old);
    munmap(stub, 4096);
    return 0;
}

/* ---- what is compared ------------------------------------------------------------------------ */

struct test_case {
    const struct cpu *cpu;
    uint8_t bytes[16];
    unsigned size, code_size;
    struct bt_insn o;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand z[ZYDIS_MAX_OPERAND_COUNT];
    struct insn in;
    bool undefined; /* the interpreter refuses it */
};

static unsigned failures, compared, copied, copied_slow, executed;
static unsigned kinds[KIND_COUNT];

static void say(const struct test_case *t, const char *what, uint64_t got, uint64_t wanted)
{
    char text[128] = "?";
    ZydisFormatter f;
    static struct {
        unsigned mnemonic;
        const char *what;
    } said[60];

    failures++;
    for (unsigned i = 0; i < ARRAY_SIZE(said); i++) {
        if (said[i].mnemonic == t->d.mnemonic && said[i].what == what)
            return;
        if (!said[i].what) {
            said[i].mnemonic = t->d.mnemonic;
            said[i].what = what;
            break;
        }
        if (i + 1 == ARRAY_SIZE(said))
            return;
    }
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&f, &t->d, t->z, t->d.operand_count_visible, text, sizeof(text),
                                    0, NULL);
    print_error("%u-bit", 8 * t->code_size);
    for (unsigned i = 0; i < t->size; i++)
        print_error(" %02x", t->bytes[i]);
    print_error(" %s: %s is 0x%llx, not 0x%llx (kind %u)\n", text, what, (unsigned long long)got,
                (unsigned long long)wanted, t->o.kind);
}

#define SAME(t, what, got, wanted)                                                                 \
    do {                                                                                           \
        if ((uint64_t)(got) != (uint64_t)(wanted))                                                 \
            say(t, what, (uint64_t)(got), (uint64_t)(wanted));                                     \
    } while (0)

static bool mnemonic_is(const struct test_case *t, ZydisMnemonic m)
{
    return t->d.mnemonic == m;
}

static bool is_gpr(ZydisRegister r)
{
    ZydisRegisterClass c = ZydisRegisterGetClass(r);

    return c >= ZYDIS_REGCLASS_GPR8 && c <= ZYDIS_REGCLASS_GPR64;
}

static bool is_high(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static unsigned gpr_of(ZydisRegister r)
{
    return (unsigned)ZydisRegisterGetId(
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
}

/* Register sets of an instruction: all, and for each how wide and which half. */
struct sets {
    uint32_t read, write, high;
    uint8_t write_size[16];
};

static void sets_add(struct sets *s, unsigned reg, unsigned size, bool high, bool read, bool write)
{
    if (read)
        s->read |= 1u << reg;
    if (write) {
        s->write |= 1u << reg;
        s->write_size[reg] = (uint8_t)MAX(s->write_size[reg], size);
    }
    if (high)
        s->high |= 1u << reg;
}

static struct sets sets_of_zydis(const struct test_case *t)
{
    struct sets s = {0};

    for (unsigned i = 0; i < t->d.operand_count; i++) {
        const ZydisDecodedOperand *z = &t->z[i];

        if (z->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(z->reg.value))
            sets_add(&s, gpr_of(z->reg.value), z->size / 8, is_high(z->reg.value),
                     (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0,
                     (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0);
    }
    return s;
}

static struct sets sets_of_parser(const struct bt_insn *o)
{
    struct sets s = {0};

    if (o->reg_gpr)
        sets_add(&s, o->reg, o->reg_size, o->reg_high, o->reg_read, o->reg_write);
    if (o->rm_gpr && o->rm_kind == RM_REG)
        sets_add(&s, o->rm, o->rm_size, o->rm_high, o->rm_read, o->rm_write);
    if (o->vvvv_gpr)
        sets_add(&s, o->vvvv, o->vvvv_size, false, o->vvvv_read, o->vvvv_write);
    for (unsigned i = 0; i < 16; i++)
        sets_add(&s, i, 0, false, o->implicit_read >> i & 1, o->implicit_write >> i & 1);
    return s;
}

/* ---- the host's form ------------------------------------------------------------------------- */

/* Put together for 64-bit mode: the same registers, memory at [RBX]. */
static unsigned assemble(const struct bt_insn *o, uint8_t *code)
{
    unsigned n = 0, reg = o->reg, rm = o->rm_kind == RM_MEM ? GPR_RBX : o->rm, opcode = o->opcode;
    bool rex = false;

    if (o->reg_high)
        reg += 4;
    if (o->rm_high && o->rm_kind == RM_REG)
        rm += 4;
    if (o->reg_gpr && o->reg_size == 1 && !o->reg_high && reg >= 4)
        rex = true;
    if (o->rm_gpr && o->rm_kind == RM_REG && o->rm_size == 1 && !o->rm_high && rm >= 4)
        rex = true;
    if (o->lock)
        code[n++] = 0xf0;
    if (o->encoding == ENC_LEGACY) {
        unsigned bits = (unsigned)o->rex_w << 3 | (reg & 8) >> 1 | (rm & 8) >> 3;

        if (o->p66)
            code[n++] = 0x66;
        if (o->rep)
            code[n++] = o->rep;
        if (bits || rex)
            code[n++] = (uint8_t)(0x40 | bits);
        if (o->map)
            code[n++] = 0x0f;
        if (o->map >= 2)
            code[n++] = o->map == 2 ? 0x38 : 0x3a;
    } else if (o->encoding == ENC_VEX) {
        code[n++] = 0xc4;
        code[n++] = (uint8_t)(!(reg & 8) << 7 | 1 << 6 | !(rm & 8) << 5 | o->map);
        code[n++] = (uint8_t)(o->rex_w << 7 | (~o->vvvv & 15) << 3 | o->vex_l << 2 | o->vex_pp);
    } else {
        code[n++] = 0x62;
        code[n++] = (uint8_t)(!(reg & 8) << 7 | !(rm & 16) << 6 | !(rm & 8) << 5 |
                              !(reg & 16) << 4 | o->map);
        code[n++] = (uint8_t)(o->rex_w << 7 | (~o->vvvv & 15) << 3 | 4 | o->vex_pp);
        code[n++] = (uint8_t)(o->evex_p2 | o->vex_l << 5 | !(o->vvvv & 16) << 3);
    }
    if (o->opcode_reg)
        opcode |= rm & 7;
    code[n++] = (uint8_t)opcode;
    if (o->has_modrm)
        code[n++] = (uint8_t)((o->rm_kind == RM_MEM ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    for (unsigned i = 0; i < o->imm_size; i++)
        code[n++] = (uint8_t)((uint64_t)o->imm >> 8 * i);
    return n;
}

/* MOVQ has two opcodes and several more instructions have aliases; the mnemonic decides. */
static void compare_host_form(struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand z[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t code[24];
    unsigned n = assemble(o, code), wanted = t->d.mnemonic;

    if (o->is_lea)
        return;
    if (wanted == ZYDIS_MNEMONIC_LZCNT && !o->rep)
        wanted = ZYDIS_MNEMONIC_BSR;
    if (wanted == ZYDIS_MNEMONIC_TZCNT && !o->rep)
        wanted = ZYDIS_MNEMONIC_BSF;
    if (t->in.mnemonic == ZYDIS_MNEMONIC_XCHG)
        wanted = ZYDIS_MNEMONIC_XCHG;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder[8], code, n, &d, z))) {
        say(t, "host form valid", 0, 1);
        return;
    }
    SAME(t, "host form's length", d.length, n);
    SAME(t, "host form's mnemonic", d.mnemonic, wanted);
    if (t->in.mnemonic == ZYDIS_MNEMONIC_XCHG)
        return; /* the operands change places */
    SAME(t, "host form's operands", d.operand_count_visible, t->d.operand_count_visible);
    for (unsigned i = 0; i < d.operand_count_visible; i++) {
        const ZydisDecodedOperand *a = &t->z[i], *b = &z[i];

        SAME(t, "host form's operand type", b->type, a->type);
        if (a->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            uint64_t mask = o->operand_size < 8 ? BIT(8 * o->operand_size) - 1 : UINT64_MAX;

            if (o->imm_size > o->operand_size || t->o.unit != UNIT_INTEGER)
                mask = 0xff;
            if (b->encoding != ZYDIS_OPERAND_ENCODING_IS4)
                SAME(t, "host form's immediate", b->imm.value.u & mask, a->imm.value.u & mask);
            continue;
        }
        if (!(a->size == 0 && b->size == 32))
            SAME(t, "host form's operand size", b->size, a->size);
        if (a->type == ZYDIS_OPERAND_TYPE_REGISTER)
            SAME(t, "host form's register", b->reg.value, a->reg.value);
    }
    SAME(t, "host form's mask", d.avx.mask.reg, t->d.avx.mask.reg);
    SAME(t, "host form's mask mode", d.avx.mask.mode, t->d.avx.mask.mode);
    SAME(t, "host form's broadcast", d.avx.broadcast.mode, t->d.avx.broadcast.mode);
    SAME(t, "host form's rounding", d.avx.rounding.mode, t->d.avx.rounding.mode);
    SAME(t, "host form's vector length", d.avx.vector_length, t->d.avx.vector_length);
}

/* ---- memory, flags --------------------------------------------------------------------------- */

static void compare_memory(struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    const ZydisDecodedOperand *m = NULL;
    bool touched = o->kind != KIND_NOP && o->kind != KIND_INVLPG && !o->is_lea;

    for (unsigned i = 0; i < t->d.operand_count; i++)
        if (t->z[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (t->o.kind == KIND_STRING || t->z[i].visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN))
            m = &t->z[i];
    if (o->kind == KIND_STRING) {
        SAME(t, "string width", o->mem_size, m ? m->size / 8 : 0);
        return;
    }
    SAME(t, "memory operand", o->rm_kind == RM_MEM, m != NULL);
    if (!m || o->rm_kind != RM_MEM)
        return;
    /* The interpreter's operand: Zydis with its mistakes repaired. */
    SAME(t, "base", o->rip ? REG_RIP : o->base, t->in.base);
    SAME(t, "index", o->index, t->in.index);
    if (o->index != PARSE_NO_REG)
        SAME(t, "scale", o->scale, t->in.scale);
    SAME(t, "displacement", (uint64_t)o->disp & (o->address_size == 2 ? 0xffff : UINT64_MAX),
         (uint64_t)t->in.disp & (o->address_size == 2 ? 0xffff : UINT64_MAX));
    if (!o->is_lea && o->kind != KIND_NOP) {
        if (t->code_size != 8)
            SAME(t, "segment", o->segment, t->in.segment);
        else /* the interpreter tells SS from DS for stack faults */
            SAME(t, "segment", o->segment, t->in.segment == SEG_SS ? SEG_DS : t->in.segment);
    }
    SAME(t, "memory size", o->mem_size, touched ? m->size / 8 : 0);
    if (!touched)
        return;
    SAME(t, "memory read", o->rm_read, (m->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0);
    SAME(t, "memory write", o->rm_write, (m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0);
}

static void compare_unit(struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    unsigned unit = UNIT_INTEGER, needs = 0;
    bool fault = mnemonic_is(t, ZYDIS_MNEMONIC_DIV) || mnemonic_is(t, ZYDIS_MNEMONIC_IDIV);
    struct simd_spec spec;

    if (simd_describe(&t->in, &t->d, t->z, &spec)) {
        switch ((enum simd_class)spec.class) {
        case SIMD_GPR:
        case SIMD_VEX: break;
        case SIMD_X87:
        case SIMD_MMX:
            unit = UNIT_X87;
            needs = NEEDS_X87;
            fault = true;
            break;
        case SIMD_SSE:
            unit = UNIT_VECTOR;
            needs = NEEDS_SSE;
            break;
        case SIMD_AVX:
            unit = UNIT_VECTOR;
            needs = NEEDS_AVX;
            break;
        case SIMD_AVX512:
            unit = UNIT_VECTOR;
            needs = NEEDS_AVX512;
            break;
        }
        fault = fault || spec.use & SIMD_USES_MXCSR || spec.align;
    } else if (t->d.meta.isa_set == ZYDIS_ISA_SET_X87 || mnemonic_is(t, ZYDIS_MNEMONIC_EMMS)) {
        unit = UNIT_X87;
        needs = NEEDS_X87;
        fault = true;
    } else if (mnemonic_is(t, ZYDIS_MNEMONIC_LDMXCSR) || mnemonic_is(t, ZYDIS_MNEMONIC_STMXCSR)) {
        unit = UNIT_VECTOR;
        needs = NEEDS_SSE;
        fault = true;
    } else if (mnemonic_is(t, ZYDIS_MNEMONIC_VLDMXCSR) || mnemonic_is(t, ZYDIS_MNEMONIC_VSTMXCSR)) {
        unit = UNIT_VECTOR;
        needs = NEEDS_AVX;
        fault = true;
    }
    SAME(t, "unit", o->unit, unit);
    SAME(t, "needs", o->needs, needs);
    SAME(t, "may fault", o->may_fault, fault);
}

static void compare_flags(struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    const ZydisAccessedFlags *f = t->d.cpu_flags;
    uint32_t read = f ? f->tested & RFLAGS_STATUS : 0;
    uint32_t changed = f ? (f->modified | f->set_0 | f->set_1 | f->undefined) & RFLAGS_STATUS : 0;
    uint32_t set = changed;
    ZydisMnemonic m = t->d.mnemonic;
    bool carry = m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR;
    bool shift = t->d.meta.category == ZYDIS_CATEGORY_SHIFT ||
                 t->d.meta.category == ZYDIS_CATEGORY_ROTATE;

    /* A count of 0 leaves all as it is; one that is not known may. */
    if (shift && o->unit == UNIT_INTEGER && o->encoding == ENC_LEGACY) {
        unsigned count = (unsigned)o->imm & (o->operand_size == 8 ? 63 : 31);

        if (!o->has_imm)
            count = o->implicit_read ? 0 : 1;
        if (count == 0)
            set = 0;
        if (o->has_imm && count == 0)
            read = changed = 0;
        if (carry && count % (8u * o->operand_size + 1) == 0) /* once round: nothing moves */
            set = 0;
    }
    /* What is undefined after BT is not changed by any processor. */
    if (m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR ||
        m == ZYDIS_MNEMONIC_BTC)
        set = RFLAGS_CF;
    if (o->kind == KIND_STRING && o->rep) { /* RCX may be 0; ZF is read after it was written */
        read = set = 0;
    }
    if (o->kind == KIND_SYSCALL) { /* RFLAGS goes into R11, and is masked */
        read = changed = RFLAGS_STATUS;
        set = 0;
    }
    /* Vector comparisons write all of them, those too that Zydis leaves out. */
    if (o->unit == UNIT_VECTOR && changed)
        set = changed = RFLAGS_STATUS;
    SAME(t, "flags read", o->flags_read, read);
    SAME(t, "flags changed", o->flags_changed, changed);
    SAME(t, "flags set", o->flags_set, set);
}

/* What we mean and Zydis has otherwise. */
static void adjust_registers(const struct test_case *t, struct sets *s)
{
    ZydisInstructionCategory category = t->d.meta.category;

    /* The destination is kept when the condition is false, or the source is zero. */
    if (category == ZYDIS_CATEGORY_CMOV ||
        (!t->o.rep && t->o.map == 1 && (t->o.opcode == 0xbc || t->o.opcode == 0xbd)))
        s->read |= 1u << t->o.reg;
    /* AH is named nowhere: RAX is touched. */
    if (t->d.mnemonic == ZYDIS_MNEMONIC_LAHF || t->d.mnemonic == ZYDIS_MNEMONIC_SAHF)
        s->high = 0;
    if (t->o.kind == KIND_STRING) { /* the indices move, also where Zydis does not say so */
        unsigned move = t->in.opcode & 0x0e;
        bool source = move == 4 || move == 6 || move == 0xc, destination = move != 0xc;

        s->write |= (unsigned)source << GPR_RSI | (unsigned)destination << GPR_RDI;
        s->read |= (unsigned)source << GPR_RSI | (unsigned)destination << GPR_RDI;
        s->read |= (unsigned)(t->o.rep && move == 0xc) << GPR_RAX;
    }
    if (t->o.kind == KIND_NOP)
        *s = (struct sets){0};
    /* Implicit registers written in part, or perhaps, are read. */
    for (unsigned i = 0; i < 16; i++)
        if (t->o.implicit_write >> i & 1 && s->write_size[i] < 4)
            s->read |= 1u << i;
}

static void compare_registers(struct test_case *t)
{
    struct sets a = sets_of_parser(&t->o), b = sets_of_zydis(t);

    adjust_registers(t, &b);
    SAME(t, "GPRs read", a.read, b.read);
    SAME(t, "GPRs written", a.write, b.write);
    SAME(t, "high bytes", a.high, b.high);
    for (unsigned i = 0; i < t->d.operand_count; i++) {
        const ZydisDecodedOperand *z = &t->z[i];
        const struct bt_insn *o = &t->o;

        if (z->type != ZYDIS_OPERAND_TYPE_REGISTER || !is_gpr(z->reg.value) || o->kind == KIND_NOP)
            continue;
        switch (z->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG:
            SAME(t, "reg", o->reg, gpr_of(z->reg.value));
            SAME(t, "reg's size", o->reg_size, z->size / 8);
            break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        case ZYDIS_OPERAND_ENCODING_OPCODE:
            SAME(t, "rm", o->rm, gpr_of(z->reg.value));
            SAME(t, "rm's size", o->rm_size, z->size / 8);
            break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD:
            SAME(t, "vvvv", o->vvvv, gpr_of(z->reg.value));
            SAME(t, "vvvv's size", o->vvvv_size, z->size / 8);
            break;
        default: break;
        }
    }
}

/* ---- branches, stack and the rest ------------------------------------------------------------ */

static void compare_control(struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    const struct insn *in = &t->in;
    uint64_t mask = o->operand_size < 8 ? BIT(8 * o->operand_size) - 1 : UINT64_MAX;

    compare_registers(t);
    compare_flags(t);
    switch ((enum parse_kind)o->kind) {
    case KIND_JCC: SAME(t, "condition", o->cond, in->form); /* fall through */
    case KIND_JMP:
    case KIND_CALL:
    case KIND_LOOP:
        SAME(t, "displacement of branch", o->rel, in->imm);
        SAME(t, "operand size", o->operand_size, in->stack_size);
        SAME(t, "opcode", o->opcode, in->opcode);
        break;
    case KIND_RET:
        SAME(t, "bytes dropped", o->imm, in->op[0].kind == OPERAND_IMM ? in->imm & 0xffff : 0);
        SAME(t, "operand size", o->operand_size, in->stack_size);
        break;
    case KIND_PUSH:
        SAME(t, "immediate", o->has_imm, in->op[0].kind == OPERAND_IMM);
        if (o->has_imm)
            SAME(t, "immediate", (uint64_t)o->imm & mask, in->imm & mask); /* fall through */
    case KIND_POP:
    case KIND_PUSHF:
    case KIND_POPF:
    case KIND_LEAVE:
    case KIND_CALL_IND:
    case KIND_JMP_IND: SAME(t, "operand size", o->operand_size, in->stack_size); break;
    case KIND_IRET: SAME(t, "operand size", o->operand_size, in->operand_size); break;
    case KIND_IN:
    case KIND_OUT: {
        const struct insn_operand *port = &in->op[o->kind == KIND_IN ? 1 : 0];

        SAME(t, "operand size", o->operand_size, in->op[o->kind == KIND_IN ? 0 : 1].size);
        SAME(t, "port given", o->has_imm, port->kind == OPERAND_IMM);
        if (o->has_imm)
            SAME(t, "port", o->imm, in->imm & 0xff);
        break;
    }
    case KIND_STRING:
        SAME(t, "operand size", o->operand_size, MAX(1, in->operand_size));
        SAME(t, "opcode", o->opcode, in->opcode);
        SAME(t, "repeated",
             o->rep == 0xf3   ? PREFIX_REP
             : o->rep == 0xf2 ? PREFIX_REPNE
                              : 0,
             in->prefix & (PREFIX_REP | PREFIX_REPNE));
        SAME(t, "segment", o->segment, in->segment);
        break;
    case KIND_MOV_TO_CR:
        SAME(t, "control register", o->reg, in->op[0].reg);
        SAME(t, "GPR", o->rm, in->op[1].reg);
        break;
    case KIND_MOV_FROM_CR:
        SAME(t, "control register", o->reg, in->op[1].reg);
        SAME(t, "GPR", o->rm, in->op[0].reg);
        break;
    default: break;
    }
}

/* ---- what is left to the interpreter --------------------------------------------------------- */

static const uint16_t interpreters[] = {
#define M(name) ZYDIS_MNEMONIC_##name
    M(AAA),      M(AAD),        M(AAM),          M(AAS),           M(DAA),           M(DAS),
    M(SALC),     M(XLAT),       M(ARPL),         M(BOUND),         M(INTO),          M(INT),
    M(INT1),     M(INT3),       M(LDS),          M(LES),           M(LFS),           M(LGS),
    M(LSS),      M(PUSHA),      M(PUSHAD),       M(POPA),          M(POPAD),         M(ENTER),
    M(CLFLUSH),  M(CLFLUSHOPT), M(CLWB),         M(CLZERO),        M(CMPXCHG8B),     M(CMPXCHG16B),
    M(HLT),      M(INSB),       M(INSW),         M(INSD),          M(OUTSB),         M(OUTSW),
    M(OUTSD),    M(INVD),       M(WBINVD),       M(INVPCID),       M(LAR),           M(LSL),
    M(LGDT),     M(LIDT),       M(LLDT),         M(LMSW),          M(LTR),           M(SGDT),
    M(SIDT),     M(SLDT),       M(SMSW),         M(STR),           M(VERR),          M(VERW),
    M(MONITOR),  M(MWAIT),      M(RDPMC),        M(RDRAND),        M(RDSEED),        M(RSM),
    M(SYSENTER), M(SYSEXIT),    M(XGETBV),       M(XSETBV),        M(FXSAVE),        M(FXSAVE64),
    M(FXRSTOR),  M(FXRSTOR64),  M(XSAVE),        M(XSAVE64),       M(XSAVEC),        M(XSAVEC64),
    M(XSAVEOPT), M(XSAVES),     M(XSAVES64),     M(XSAVEOPT64),    M(XRSTOR),        M(XRSTOR64),
    M(XRSTORS),  M(XRSTORS64),  M(FLDENV),       M(FNSTENV),       M(FNSAVE),        M(FRSTOR),
    M(UD0),      M(UD1),        M(FENI8087_NOP), M(FDISI8087_NOP), M(FSETPM287_NOP), M(VMCALL),
    M(VMMCALL),
#undef M
};

static bool has_prefix(const struct test_case *t, uint8_t value)
{
    for (unsigned i = 0; i < t->d.raw.prefix_count; i++)
        if (t->d.raw.prefixes[i].value == value)
            return true;
    return false;
}

/* Mask registers and, for EVEX, general registers in ModRM.rm: there is a bit too many. */
static bool names_too_many(const struct test_case *t, ZydisRegister r)
{
    if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_MASK)
        return t->d.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX
                   ? !t->d.raw.vex.B
                   : !t->d.raw.evex.B || !t->d.raw.evex.X;
    return is_gpr(r) && t->d.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && !t->d.raw.evex.X;
}

/* May the parser not know this valid instruction? */
static bool fallback_is_meant(const struct test_case *t)
{
    bool segment = false, memory = false, extra = false;
    struct simd_spec spec;

    if (simd_describe(&t->in, &t->d, t->z, &spec)) {
        for (unsigned i = 0; i < spec.features; i++)
            if (!cpu_has(t->cpu, (enum cpu_feature)spec.feature[i]))
                return true;
        if (spec.kind == SIMD_ZERO)
            return t->code_size != 8;
        if (spec.kind != SIMD_HOST || (spec.class == SIMD_SSE && spec.use & SIMD_USES_FX))
            return true;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(interpreters); i++)
        if (interpreters[i] == t->d.mnemonic)
            return true;
    for (unsigned i = 0; i < t->d.operand_count_visible; i++) {
        memory |= t->z[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
        if (t->z[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        if (t->z[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
            extra |= names_too_many(t, t->z[i].reg.value);
        segment |= ZydisRegisterGetClass(t->z[i].reg.value) == ZYDIS_REGCLASS_SEGMENT ||
                   ZydisRegisterGetClass(t->z[i].reg.value) == ZYDIS_REGCLASS_DEBUG;
    }
    if (segment || extra || t->d.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return true;
    /* [EIP + n] */
    if (memory && t->in.base == REG_RIP && t->in.address_size == 4)
        return true;
    /* Near branches with 66: processors differ. */
    if (t->code_size == 8 && has_prefix(t, 0x66) && !t->d.raw.rex.W &&
        t->d.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
        return true;
    if (t->d.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && t->code_size != 8)
        return !t->d.raw.vex.B || !(t->d.raw.vex.vvvv & 8);
    if (t->d.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && t->code_size != 8)
        return !t->d.raw.evex.B || !t->d.raw.evex.R2 || !t->d.raw.evex.V2 ||
               !(t->d.raw.evex.vvvv & 8);
    switch (t->d.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* which memory is touched depends on the register */
        return memory && t->d.opcode != 0xba;
    case ZYDIS_MNEMONIC_BSWAP: return t->z[0].size == 16;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR: return has_prefix(t, 0xf2);
    case ZYDIS_MNEMONIC_MOVSXD: return has_prefix(t, 0x66) && !t->d.raw.rex.W;
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: return t->d.raw.prefix_count != 0; /* prefixes without meaning */
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE: return (t->d.raw.modrm.rm) != 0;
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET: return t->code_size != 8;
    case ZYDIS_MNEMONIC_MOV: /* to and from an absolute address of 64 bits; CR0 as CR8 on AMD */
        return (t->d.opcode >= 0xa0 && t->d.opcode <= 0xa3 && t->code_size == 8) ||
               has_prefix(t, 0xf0);
    default: return false;
    }
}

/* ---- what instructions touch, by running them ------------------------------------------------ */

/* The stub keeps this in R15, so instructions that name RSP, RBP or R15 are not run. */
struct context {
    uint64_t gpr[16], flags;
};

static unsigned put(unsigned n, const char *code, unsigned size)
{
    memcpy(stub + n, code, size);
    return n + size;
}
#define PUT(n, code) put(n, code, sizeof(code) - 1)

static void run(const uint8_t *code, unsigned size, struct context *c)
{
    unsigned n = 0;
    void (*entry)(struct context *) = (void (*)(struct context *))stub;

    n = PUT(n, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x49\x89\xff"); /* push...; mov r15,rdi */
    n = PUT(n, "\x41\xff\xb7\x80\0\0\0\x9d");                           /* push [r15+128]; popfq */
    for (unsigned i = 0; i < 15; i++) {                                 /* mov reg, [r15+8*i] */
        if (i == GPR_RSP || i == GPR_RBP)
            continue;
        stub[n++] = (uint8_t)(0x49 | (i & 8) >> 1);
        stub[n++] = 0x8b;
        stub[n++] = (uint8_t)(0x47 | (i & 7) << 3);
        stub[n++] = (uint8_t)(8 * i);
    }
    memcpy(stub + n, code, size);
    n += size;
    for (unsigned i = 0; i < 15; i++) {
        if (i == GPR_RSP || i == GPR_RBP)
            continue;
        stub[n++] = (uint8_t)(0x49 | (i & 8) >> 1);
        stub[n++] = 0x89;
        stub[n++] = (uint8_t)(0x47 | (i & 7) << 3);
        stub[n++] = (uint8_t)(8 * i);
    }
    n = PUT(n, "\x9c\x41\x8f\x87\x80\0\0\0"); /* pushfq; pop [r15+128] */
    PUT(n, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
    entry(c);
}

/* From two states that agree on all that is read: what is written must agree, and what is not
 * said to be written must be as it was. */
static void compare_execution(const struct test_case *t)
{
    const struct bt_insn *o = &t->o;
    struct sets sets = sets_of_parser(o);
    uint32_t undefined = t->d.cpu_flags ? t->d.cpu_flags->undefined : 0;
    uint32_t avoid = 1u << GPR_RSP | 1u << GPR_RBP | 1u << GPR_R15;
    struct context before[2], after[2];
    uint8_t code[24];
    unsigned size = assemble(o, code);

    if (stub == MAP_FAILED || o->rm_kind == RM_MEM || o->unit == UNIT_X87 ||
        (o->may_fault && o->unit == UNIT_INTEGER) || (sets.read | sets.write) & avoid)
        return;
    executed++;
    for (unsigned i = 0; i < 2; i++) {
        before[i].flags = 0x202 | (rng() & RFLAGS_STATUS);
        for (unsigned r = 0; r < 16; r++)
            before[i].gpr[r] = rng() >> (rng() & 63);
    }
    for (unsigned r = 0; r < 16; r++)
        /* One that is written in part is read for the rest. */
        if (sets.read >> r & 1 || (sets.write >> r & 1 && sets.write_size[r] < 4))
            before[1].gpr[r] = before[0].gpr[r];
    before[1].flags ^= (before[1].flags ^ before[0].flags) &
                       (o->flags_read | (o->flags_changed & ~o->flags_set));
    for (unsigned i = 0; i < 2; i++) {
        after[i] = before[i];
        run(code, size, &after[i]);
        for (unsigned r = 0; r < 15; r++)
            if (!(sets.write >> r & 1))
                SAME(t, "register that is not written", after[i].gpr[r], before[i].gpr[r]);
        SAME(t, "flags not changed", after[i].flags & ~(uint64_t)o->flags_changed & RFLAGS_STATUS,
             before[i].flags & ~(uint64_t)o->flags_changed & RFLAGS_STATUS);
    }
    if (o->unit == UNIT_VECTOR) /* vector registers are what the compiler left there */
        return;
    for (unsigned r = 0; r < 15; r++)
        if (sets.write >> r & 1)
            SAME(t, "result", after[1].gpr[r], after[0].gpr[r]);
    SAME(t, "resulting flags", after[1].flags & o->flags_set & ~undefined,
         after[0].flags & o->flags_set & ~undefined);
}

/* ---- one case -------------------------------------------------------------------------------- */

static void compare(struct test_case *t)
{
    struct bt_insn *o = &t->o;
    enum decode_result result;
    bool whole;

    compared++;
    memset(o, 0xee, sizeof(*o));
    whole = parse_insn(t->cpu, t->bytes, t->size, t->code_size, o);
    memset(&t->d, 0, sizeof(t->d));
    result = insn_decode(t->bytes, t->size, t->code_size, &t->in);
    if (result == DECODE_OK)
        ZydisDecoderDecodeFull(&decoder[t->code_size], t->bytes, t->size, &t->d, t->z);
    if (!whole) {
        if (result == DECODE_OK)
            say(t, "parsed", 0, 1);
        return;
    }
    assert_true(o->kind < KIND_COUNT);
    kinds[o->kind]++;
    t->undefined = result != DECODE_OK;
    if (result == DECODE_OK) {
        insn_bind(t->cpu, &t->in, false);
        t->undefined = t->in.run == insn_undefined;
    }
    if (o->kind == KIND_FALLBACK) {
        if (o->length && result == DECODE_OK)
            SAME(t, "length", o->length, t->in.length);
        SAME(t, "flags of fallback", o->flags_changed, RFLAGS_STATUS);
        if (!t->undefined && !fallback_is_meant(t))
            say(t, "fallback", 0, 1);
        return;
    }
    if (t->undefined) {
        say(t, "undefined instruction's kind", o->kind, KIND_FALLBACK);
        return;
    }
    SAME(t, "length", o->length, t->in.length);
    SAME(t, "code size", o->code_size, t->code_size);
    SAME(t, "address size", o->address_size, t->in.address_size);
    SAME(t, "lock", o->lock, (t->in.prefix & PREFIX_LOCK) != 0);
    compare_memory(t);
    if (o->kind == KIND_COPY) {
        copied++;
        copied_slow += o->unit != UNIT_INTEGER;
        if (t->in.mnemonic == t->d.mnemonic) /* not F3 90 with REX.B: Zydis says PAUSE */
            compare_registers(t);
        compare_flags(t);
        compare_unit(t);
        compare_host_form(t);
        if (t->cpu == cpu_max)
            compare_execution(t);
    } else {
        compare_control(t);
    }
}

/* ---- many cases ------------------------------------------------------------------------------ */

static const char *const prefix_sets[] = {
    "",         "\x66",     "\x67",         "\xf2",         "\xf3",     "\x66\xf2",     "\x66\xf3",
    "\xf0",     "\x64",     "\x2e\x65",     "\x48",         "\x45",     "\x4f",         "\x66\x48",
    "\xf3\x4f", "\xf2\x41", "\x67\x64\x42", "\x66\x67\xf3", "\xf2\xf3", "\xf3\x66\xf2",
};

static void one(const struct cpu *cpu, unsigned code_size, const char *prefixes, unsigned map,
                unsigned opcode, unsigned modrm)
{
    struct test_case t = {.cpu = cpu, .code_size = code_size, .size = 15};
    unsigned n = 0;

    for (const char *p = prefixes; *p; p++)
        t.bytes[n++] = (uint8_t)*p;
    if (map >= 1)
        t.bytes[n++] = 0x0f;
    if (map >= 2)
        t.bytes[n++] = map == 2 ? 0x38 : 0x3a;
    t.bytes[n++] = (uint8_t)opcode;
    t.bytes[n++] = (uint8_t)modrm;
    for (uint64_t r = rng(); n < 15; r = r >> 8 ? r >> 8 : rng())
        t.bytes[n++] = (uint8_t)r;
    compare(&t);
}

static void every_opcode(const struct cpu *cpu, unsigned code_size)
{
    for (unsigned map = 0; map < 4; map++)
        for (unsigned p = 0; p < ARRAY_SIZE(prefix_sets); p++)
            for (unsigned opcode = 0; opcode < 256; opcode++)
                for (unsigned i = 0; i < (map < 2 ? 12 : 4); i++)
                    one(cpu, code_size, prefix_sets[p], map, opcode, (unsigned)rng() & 0xff);
    for (unsigned map = 0; map < 2; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned modrm = 0; modrm < 256; modrm++)
                one(cpu, code_size, "", map, opcode, modrm);
}

/* Random fields, now and then one that is reserved. */
static void vex_once(const struct cpu *cpu, unsigned code_size, unsigned map, unsigned opcode)
{
    struct test_case t = {.cpu = cpu, .code_size = code_size, .size = 15};
    unsigned n = 0, r = (unsigned)rng(), vvvv = r & 0x100 ? 15 : r >> 4 & 15;

    if (r & 0x200 && map == 1) {
        t.bytes[n++] = 0xc5;
        t.bytes[n++] = (uint8_t)((r & 0x80) | vvvv << 3 | (r >> 16 & 7));
    } else {
        t.bytes[n++] = 0xc4;
        t.bytes[n++] = (uint8_t)((r & 0xe0) | map);
        t.bytes[n++] = (uint8_t)((r >> 12 & 0x80) | vvvv << 3 | (r >> 16 & 7));
    }
    t.bytes[n++] = (uint8_t)opcode;
    for (uint64_t x = rng(); n < 15; x = x >> 8 ? x >> 8 : rng())
        t.bytes[n++] = (uint8_t)x;
    compare(&t);
}

static void evex_once(const struct cpu *cpu, unsigned code_size, unsigned map, unsigned opcode)
{
    struct test_case t = {.cpu = cpu, .code_size = code_size, .size = 15};
    unsigned n = 0, r = (unsigned)rng(), vvvv = r & 0x100 ? 15 : r >> 4 & 15;

    t.bytes[n++] = 0x62;
    t.bytes[n++] = (uint8_t)((r & 0xf0) | (code_size == 8 ? 0 : 0xf0) | map);
    t.bytes[n++] = (uint8_t)((r >> 12 & 0x80) | vvvv << 3 | (r & 0xfe00 ? 4 : 0) | (r >> 16 & 3));
    /* Masking, broadcast and rounding now and then. */
    t.bytes[n++] = (uint8_t)((r & 0x1000000 ? rng() & 0xf7 : r >> 20 & 0x60) |
                             (vvvv == 15 ? 8 : r >> 20 & 8));
    t.bytes[n++] = (uint8_t)opcode;
    for (uint64_t x = rng(); n < 15; x = x >> 8 ? x >> 8 : rng())
        t.bytes[n++] = (uint8_t)x;
    compare(&t);
}

static void summary(void)
{
    printf("# %u compared, %u copied of which %u by vector and x87 units, %u executed, %u not "
           "parsed\n",
           compared, copied, copied_slow, executed, kinds[KIND_FALLBACK]);
    assert_int_equal(failures, 0);
    compared = copied = copied_slow = executed = kinds[KIND_FALLBACK] = 0;
}

static void legacy_encodings_64(void **state)
{
    every_opcode(cpu_max, 8);
    summary();
}

static void legacy_encodings_32(void **state)
{
    every_opcode(cpu_max, 4);
    summary();
}

static void legacy_encodings_16(void **state)
{
    every_opcode(cpu_max, 2);
    summary();
}

static void vex_encodings(void **state)
{
    for (unsigned map = 1; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned i = 0; i < 600; i++)
                vex_once(cpu_max, i % 3 ? 8 : i % 2 ? 4 : 2, map, opcode);
    summary();
}

static void evex_encodings(void **state)
{
    for (unsigned map = 1; map < 7; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned i = 0; i < 600; i++)
                evex_once(cpu_max, i % 3 ? 8 : i % 2 ? 4 : 2, map, opcode);
    summary();
}

/* A processor that lacks much. */
static void features_count(void **state)
{
    every_opcode(cpu_old, 8);
    for (unsigned map = 1; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++)
            for (unsigned i = 0; i < 30; i++)
                vex_once(cpu_old, 8, map, opcode);
    summary();
}

static void random_bytes(void **state)
{
    static const uint8_t sizes[3] = {2, 4, 8};

    for (unsigned i = 0; i < 300000; i++) {
        struct test_case t = {.cpu = cpu_max, .code_size = sizes[i % 3], .size = 15};

        for (unsigned n = 0; n < 15; n++)
            t.bytes[n] = (uint8_t)(rng() >> 13);
        compare(&t);
    }
    summary();
}

static void random_code(uint8_t *bytes)
{
    static const uint8_t starts[][3] = {{0x0f}, {0x66, 0x0f}, {0xf3, 0x0f}, {0xc5}, {0xc4, 0xe2}};
    uint64_t r = rng();
    unsigned n = 0;

    if (r & 1)
        for (const uint8_t *p = starts[(r >> 8) % ARRAY_SIZE(starts)]; n < 3 && p[n]; n++)
            bytes[n] = p[n];
    for (; n < 15; n++)
        bytes[n] = (uint8_t)(rng() >> 13);
}

/* With too few bytes it is not parsed or left to the interpreter; with just enough it is the same
 * as with more, and what stands behind it does not matter. */
static void bytes_behind_do_not_matter(void **state)
{
    static const uint8_t sizes[3] = {2, 4, 8};
    struct bt_insn whole, part;
    uint8_t bytes[15], *exact;
    unsigned parsed = 0;

    for (unsigned i = 0; i < 60000; i++) {
        random_code(bytes);
        if (!parse_insn(cpu_max, bytes, 15, sizes[i % 3], &whole) || !whole.length ||
            whole.kind == KIND_FALLBACK)
            continue;
        parsed++;
        for (unsigned n = 1; n <= whole.length; n++) {
            bool result;

            exact = malloc(n); /* so that a sanitizer sees who reads beyond */
            memcpy(exact, bytes, n);
            result = parse_insn(cpu_max, exact, n, sizes[i % 3], &part);
            free(exact);
            if (n < whole.length) {
                assert_true(!result || part.kind == KIND_FALLBACK);
            } else {
                assert_true(result);
                assert_memory_equal(&whole, &part, sizeof(whole));
            }
        }
        for (unsigned n = whole.length; n < 15; n++)
            bytes[n] = (uint8_t)~bytes[n];
        assert_true(parse_insn(cpu_max, bytes, 15, sizes[i % 3], &part));
        assert_memory_equal(&whole, &part, sizeof(whole));
    }
    assert_true(parsed > 20000);
}

static void vex_is_undefined_in_real_mode(void **state)
{
    static const uint8_t andn[15] = {0xc4, 0xe2, 0x78, 0xf2, 0xc1};
    static const uint8_t vaddps[15] = {0xc5, 0xf8, 0x58, 0xc1};
    struct bt_insn o;

    cpu_max->cr0 &= ~(uint64_t)CR0_PE;
    assert_true(parse_insn(cpu_max, andn, 15, 2, &o));
    assert_int_equal(o.kind, KIND_FALLBACK);
    cpu_max->cr0 |= CR0_PE;
    cpu_max->rflags |= RFLAGS_VM;
    assert_true(parse_insn(cpu_max, vaddps, 15, 2, &o));
    assert_int_equal(o.kind, KIND_FALLBACK);
    cpu_max->rflags &= ~(uint64_t)RFLAGS_VM;
    if (cpu_has(cpu_max, FEATURE_AVX)) {
        assert_true(parse_insn(cpu_max, vaddps, 15, 2, &o));
        assert_int_equal(o.kind, KIND_COPY);
    }
}

static void fifteen_bytes_are_the_limit(void **state)
{
    uint8_t bytes[15];
    struct bt_insn o;

    memset(bytes, 0x2e, sizeof(bytes));
    assert_false(parse_insn(cpu_max, bytes, 15, 8, &o));
    bytes[14] = 0x90;
    assert_true(parse_insn(cpu_max, bytes, 15, 8, &o));
    assert_int_equal(o.kind, KIND_NOP);
    assert_int_equal(o.length, 15);
    bytes[13] = 0x01; /* add eax, edx */
    bytes[14] = 0xd0;
    assert_true(parse_insn(cpu_max, bytes, 15, 8, &o));
    assert_int_equal(o.length, 15);
    bytes[14] = 0x50; /* add [rax+...], edx: the displacement is the sixteenth */
    assert_false(parse_insn(cpu_max, bytes, 15, 8, &o));
}

enum { THREADS = 4, PARSED = 20000 };

struct worker {
    pthread_t thread;
    uint8_t (*code)[15];
    struct bt_insn *out;
    unsigned first;
};

static void *work(void *opaque)
{
    struct worker *w = opaque;

    for (unsigned i = 0; i < PARSED; i++) {
        unsigned n = (w->first + i) % PARSED;

        memset(&w->out[n], 0, sizeof(w->out[n]));
        parse_insn(cpu_max, w->code[n], 15, 8, &w->out[n]);
    }
    return NULL;
}

/* Forms are found by many threads at once; this is the first test, so they are new. */
static void threads_agree(void **state)
{
    uint8_t(*code)[15] = malloc(sizeof(*code) * PARSED);
    struct worker w[THREADS] = {0};

    for (unsigned i = 0; i < PARSED; i++)
        random_code(code[i]);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){
            .code = code, .out = malloc(sizeof(*w->out) * PARSED), .first = i % 2 * 3};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    for (unsigned i = 1; i < THREADS; i++)
        assert_memory_equal(w[0].out, w[i].out, sizeof(*w->out) * PARSED);
    for (unsigned i = 0; i < THREADS; i++)
        free(w[i].out);
    free(code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_agree),
        cmocka_unit_test(legacy_encodings_64),
        cmocka_unit_test(legacy_encodings_32),
        cmocka_unit_test(legacy_encodings_16),
        cmocka_unit_test(vex_encodings),
        cmocka_unit_test(evex_encodings),
        cmocka_unit_test(features_count),
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(bytes_behind_do_not_matter),
        cmocka_unit_test(vex_is_undefined_in_real_mode),
        cmocka_unit_test(fifteen_bytes_are_the_limit),
    };

    return cmocka_run_group_tests_name("parse", tests, setup, teardown);
}
