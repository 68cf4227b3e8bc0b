/*
 * decode.c - from bytes to struct insn, by Zydis.
 *
 * Zydis knows the encodings; this file turns what it says into the few bytes a handler wants, and
 * chooses the handler. Whether *this* processor has an instruction is decided in insn_bind(), from
 * the instruction set Zydis files it under: a set that is not in the table below is #UD, so a newer
 * Zydis cannot make instructions run that nobody looked at.
 *
 * Decoding is the same for real, virtual-8086 and 16-bit protected mode; what real mode lacks is
 * refused by handlers, but for VEX encodings, which insn_bind() refuses.
 */
#include "interp/insn.h"

#include "interp/handlers.h"
#include "x86/model.h"

enum { ALWAYS = 1, NEVER = 0 }; /* besides enum cpu_feature; no feature has these numbers' bits */

static const struct {
    uint8_t isa;
    uint16_t feature; /* enum cpu_feature + 2, or ALWAYS */
} isa_features[] = {
#define NEEDS(isa, feature)                                                                        \
    {                                                                                              \
        ZYDIS_ISA_SET_##isa, FEATURE_##feature + 2                                                 \
    }
#define BASIC(isa)                                                                                 \
    {                                                                                              \
        ZYDIS_ISA_SET_##isa, ALWAYS                                                                \
    }
    BASIC(I86),
    BASIC(I186),
    BASIC(I286PROTECTED),
    BASIC(I286REAL),
    BASIC(I386),
    BASIC(I486),
    BASIC(I486REAL),
    BASIC(LONGMODE),
    BASIC(PENTIUMREAL),
    BASIC(PPRO),
    BASIC(FAT_NOP),
    BASIC(PAUSE),
    BASIC(PREFETCH_NOP),
    BASIC(PREFETCHWT1),
    BASIC(LAHF),
    BASIC(RDPMC),
    BASIC(MPX),
    BASIC(CET),
    BASIC(CLDEMOTE),
    NEEDS(X87, FPU),
    NEEDS(CMOV, CMOV),
    NEEDS(FCMOV, CMOV),
    NEEDS(PENTIUMMMX, MMX),
    NEEDS(FXSAVE, FXSR),
    NEEDS(FXSAVE64, FXSR),
    NEEDS(SSE, SSE),
    NEEDS(SSEMXCSR, SSE),
    NEEDS(SSE_PREFETCH, SSE),
    NEEDS(SSE2, SSE2),
    NEEDS(SSE2MMX, SSE2),
    NEEDS(SSE3, SSE3),
    NEEDS(SSE3X87, SSE3),
    NEEDS(SSSE3, SSSE3),
    NEEDS(SSSE3MMX, SSSE3),
    NEEDS(SSE4, SSE41),
    NEEDS(SSE42, SSE42),
    NEEDS(SSE4A, SSE4A),
    NEEDS(POPCNT, POPCNT),
    NEEDS(LZCNT, ABM),
    NEEDS(BMI1, BMI1),
    NEEDS(BMI2, BMI2),
    NEEDS(ADOX_ADCX, ADX),
    NEEDS(MOVBE, MOVBE),
    NEEDS(CMPXCHG16B, CX16),
    NEEDS(AES, AES),
    NEEDS(PCLMULQDQ, PCLMULQDQ),
    NEEDS(SHA, SHA_NI),
    NEEDS(GFNI, GFNI),
    NEEDS(AVX, AVX),
    NEEDS(AVX2, AVX2),
    NEEDS(AVX2GATHER, AVX2),
    NEEDS(AVXAES, AES),
    NEEDS(AVX_GFNI, GFNI),
    NEEDS(AVX_VNNI, AVX_VNNI),
    NEEDS(F16C, F16C),
    NEEDS(FMA, FMA),
    NEEDS(VAES, VAES),
    NEEDS(VPCLMULQDQ, VPCLMULQDQ),
    NEEDS(AVX512F_128, AVX512VL),
    NEEDS(AVX512F_128N, AVX512F),
    NEEDS(AVX512F_256, AVX512VL),
    NEEDS(AVX512F_512, AVX512F),
    NEEDS(AVX512F_KOP, AVX512F),
    NEEDS(AVX512F_SCALAR, AVX512F),
    NEEDS(AVX512BW_128, AVX512BW),
    NEEDS(AVX512BW_128N, AVX512BW),
    NEEDS(AVX512BW_256, AVX512BW),
    NEEDS(AVX512BW_512, AVX512BW),
    NEEDS(AVX512BW_KOP, AVX512BW),
    NEEDS(AVX512CD_128, AVX512CD),
    NEEDS(AVX512CD_256, AVX512CD),
    NEEDS(AVX512CD_512, AVX512CD),
    NEEDS(AVX512DQ_128, AVX512DQ),
    NEEDS(AVX512DQ_128N, AVX512DQ),
    NEEDS(AVX512DQ_256, AVX512DQ),
    NEEDS(AVX512DQ_512, AVX512DQ),
    NEEDS(AVX512DQ_KOP, AVX512DQ),
    NEEDS(AVX512DQ_SCALAR, AVX512DQ),
    NEEDS(AVX512_BF16_128, AVX512BF16),
    NEEDS(AVX512_BF16_256, AVX512BF16),
    NEEDS(AVX512_BF16_512, AVX512BF16),
    NEEDS(AVX512_BITALG_128, AVX512BITALG),
    NEEDS(AVX512_BITALG_256, AVX512BITALG),
    NEEDS(AVX512_BITALG_512, AVX512BITALG),
    NEEDS(AVX512_FP16_128, AVX512FP16),
    NEEDS(AVX512_FP16_128N, AVX512FP16),
    NEEDS(AVX512_FP16_256, AVX512FP16),
    NEEDS(AVX512_FP16_512, AVX512FP16),
    NEEDS(AVX512_FP16_SCALAR, AVX512FP16),
    NEEDS(AVX512_GFNI_128, GFNI),
    NEEDS(AVX512_GFNI_256, GFNI),
    NEEDS(AVX512_GFNI_512, GFNI),
    NEEDS(AVX512_IFMA_128, AVX512IFMA),
    NEEDS(AVX512_IFMA_256, AVX512IFMA),
    NEEDS(AVX512_IFMA_512, AVX512IFMA),
    NEEDS(AVX512_VAES_128, VAES),
    NEEDS(AVX512_VAES_256, VAES),
    NEEDS(AVX512_VAES_512, VAES),
    NEEDS(AVX512_VBMI2_128, AVX512VBMI2),
    NEEDS(AVX512_VBMI2_256, AVX512VBMI2),
    NEEDS(AVX512_VBMI2_512, AVX512VBMI2),
    NEEDS(AVX512_VBMI_128, AVX512VBMI),
    NEEDS(AVX512_VBMI_256, AVX512VBMI),
    NEEDS(AVX512_VBMI_512, AVX512VBMI),
    NEEDS(AVX512_VNNI_128, AVX512VNNI),
    NEEDS(AVX512_VNNI_256, AVX512VNNI),
    NEEDS(AVX512_VNNI_512, AVX512VNNI),
    NEEDS(AVX512_VP2INTERSECT_128, AVX512VP2INTERSECT),
    NEEDS(AVX512_VP2INTERSECT_256, AVX512VP2INTERSECT),
    NEEDS(AVX512_VP2INTERSECT_512, AVX512VP2INTERSECT),
    NEEDS(AVX512_VPCLMULQDQ_128, VPCLMULQDQ),
    NEEDS(AVX512_VPCLMULQDQ_256, VPCLMULQDQ),
    NEEDS(AVX512_VPCLMULQDQ_512, VPCLMULQDQ),
    NEEDS(AVX512_VPOPCNTDQ_128, AVX512VPOPCNTDQ),
    NEEDS(AVX512_VPOPCNTDQ_256, AVX512VPOPCNTDQ),
    NEEDS(AVX512_VPOPCNTDQ_512, AVX512VPOPCNTDQ),
    NEEDS(CLFSH, CLFLUSH),
    NEEDS(CLFLUSHOPT, CLFLUSHOPT),
    NEEDS(CLWB, CLWB),
    NEEDS(CLZERO, CLZERO),
    NEEDS(INVPCID, INVPCID),
    NEEDS(MONITOR, MONITOR),
    NEEDS(MOVDIR, MOVDIRI),
    NEEDS(PKU, PKU),
    NEEDS(RDPID, RDPID),
    NEEDS(RDRAND, RDRAND),
    NEEDS(RDSEED, RDSEED),
    NEEDS(RDTSCP, RDTSCP),
    NEEDS(RDWRFSGS, FSGSBASE),
    NEEDS(SERIALIZE, SERIALIZE),
    NEEDS(SMAP, SMAP),
    NEEDS(XSAVE, XSAVE),
    NEEDS(XSAVEC, XSAVEC),
    NEEDS(XSAVEOPT, XSAVEOPT),
    NEEDS(XSAVES, XSAVES),
    /* Their handlers answer: #UD without VMX or SVM, but VMCALL and VMMCALL may be hypercalls. */
    BASIC(VTX),
    BASIC(SVM),
    BASIC(AMD),
#undef NEEDS
#undef BASIC
};

static ZydisDecoder decoder_16, decoder_32, decoder_64;
static insn_handler table_ordinary[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static insn_handler table_string[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static insn_handler table_system[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static insn_handler table_far[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static insn_handler table_state[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static uint16_t isa_feature[ZYDIS_ISA_SET_MAX_VALUE + 1];

static void table_add(insn_handler *table, const struct insn_row *rows)
{
    for (; rows->mnemonic != ZYDIS_MNEMONIC_INVALID; rows++) {
        if (!table[rows->mnemonic])
            table[rows->mnemonic] = rows->run;
    }
}

static void decoder_setup(ZydisDecoder *d, ZydisMachineMode mode, ZydisStackWidth width)
{
    ZydisDecoderInit(d, mode, width);
    /* Guests have neither MPX nor CET: their instructions are the NOPs they were made of. */
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
}

static void decode_setup(void)
{
    decoder_setup(&decoder_16, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    decoder_setup(&decoder_32, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    decoder_setup(&decoder_64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    table_add(table_ordinary, insn_integer);
    table_add(table_ordinary, insn_branch);
    table_add(table_string, insn_string);
    table_add(table_system, insn_system);
    table_add(table_far, insn_far);
    table_add(table_state, insn_state);
    for (unsigned i = 0; i < ARRAY_SIZE(isa_features); i++)
        isa_feature[isa_features[i].isa] = isa_features[i].feature;
}

/* Jcc, SETcc, CMOVcc */
static bool insn_is_conditional(const struct insn *in)
{
    unsigned high = in->opcode & 0xf0;

    return (in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && high == 0x70) ||
           (in->opcode_map == ZYDIS_OPCODE_MAP_0F &&
            (high == 0x40 || high == 0x80 || high == 0x90));
}

static uint8_t gpr_number(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (uint8_t)(REG_HIGH8 | (r - ZYDIS_REGISTER_AH));
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
        return (uint8_t)(r - ZYDIS_REGISTER_AL);
    if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
        return (uint8_t)(r - ZYDIS_REGISTER_SPL + 4);
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
        return (uint8_t)(r - ZYDIS_REGISTER_AX);
    if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
        return (uint8_t)(r - ZYDIS_REGISTER_EAX);
    if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
        return (uint8_t)(r - ZYDIS_REGISTER_RAX);
    return REG_NONE;
}

static uint8_t address_register(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return REG_NONE;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return REG_RIP;
    if (gpr_number(r) != REG_NONE)
        return gpr_number(r);
    return (uint8_t)ZydisRegisterGetId(r); /* VSIB */
}

/* In 64-bit mode only FS and GS count; a null prefix leaves the default. */
static uint8_t memory_segment(ZydisRegister segment, uint8_t base, unsigned code_size)
{
    if (segment == ZYDIS_REGISTER_NONE)
        return SEG_DS;
    if (code_size == 8 && segment != ZYDIS_REGISTER_FS && segment != ZYDIS_REGISTER_GS)
        return base == GPR_RSP || base == GPR_RBP ? SEG_SS : SEG_DS;
    return (uint8_t)(segment - ZYDIS_REGISTER_ES);
}

static uint8_t implicit_segment(const ZydisDecodedInstruction *d, unsigned code_size)
{
    if (d->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return SEG_FS;
    if (d->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return SEG_GS;
    if (code_size == 8)
        return SEG_DS;
    if (d->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
        return SEG_CS;
    if (d->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
        return SEG_SS;
    if (d->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES)
        return SEG_ES;
    return SEG_DS;
}

/* Zydis names REP by the instruction's habits; the processor only asks whether F2 or F3 came
 * last. */
static uint8_t repeat_prefix(const ZydisDecodedInstruction *d)
{
    uint8_t result = 0;

    for (unsigned i = 0; i < d->raw.prefix_count; i++) {
        if (d->raw.prefixes[i].value == 0xf3)
            result = PREFIX_REP;
        else if (d->raw.prefixes[i].value == 0xf2)
            result = PREFIX_REPNE;
    }
    return result;
}

static void decode_operand(struct insn *out, struct insn_operand *op, const ZydisDecodedOperand *z,
                           unsigned code_size, unsigned *immediates)
{
    op->size = (uint8_t)(z->size / 8);
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        op->kind = OPERAND_GPR;
        op->reg = gpr_number(z->reg.value);
        if (op->reg == REG_NONE) {
            op->kind = OPERAND_OTHER;
            op->reg = z->reg.value >= ZYDIS_REGISTER_ES && z->reg.value <= ZYDIS_REGISTER_GS
                          ? (uint8_t)(z->reg.value - ZYDIS_REGISTER_ES)
                          : (uint8_t)ZydisRegisterGetId(z->reg.value);
        }
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        op->kind = OPERAND_MEM;
        out->base = address_register(z->mem.base);
        out->index = address_register(z->mem.index);
        out->scale = z->mem.scale;
        out->disp = z->mem.disp.has_displacement ? z->mem.disp.value : 0;
        out->segment = memory_segment(z->mem.segment, out->base, code_size);
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        op->kind = OPERAND_IMM;
        *((*immediates)++ ? &out->imm2 : &out->imm) = z->imm.value.u;
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        op->kind = OPERAND_IMM;
        out->imm = z->ptr.offset;
        out->imm2 = z->ptr.segment;
        break;
    case ZYDIS_OPERAND_TYPE_UNUSED: op->kind = OPERAND_NONE; break;
    }
}

/* What Zydis 4.0 gets wrong, found by comparing with processors. */
static void decode_repair(struct insn *in, const ZydisDecodedInstruction *d)
{
    /* A SIB byte whose base is 101 with mod 00 has a displacement and no base, REX.B or not; with
     * 32-bit addressing Zydis makes it R13D without displacement. */
    if (d->raw.modrm.mod == 0 && d->raw.modrm.rm == 4 && d->raw.sib.base == 5 &&
        in->address_size != 2 && (d->attributes & ZYDIS_ATTRIB_HAS_SIB)) {
        in->base = REG_NONE;
        in->disp = d->raw.disp.value;
    }
    /* F3 90 is PAUSE, but with REX.B it is what 90 is with REX.B: XCHG R8, RAX. */
    if (in->mnemonic == ZYDIS_MNEMONIC_PAUSE && (d->attributes & ZYDIS_ATTRIB_HAS_REX) &&
        d->raw.rex.B) {
        uint8_t size = d->raw.rex.W ? 8 : (d->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) ? 2 : 4;

        in->mnemonic = ZYDIS_MNEMONIC_XCHG;
        in->isa = ZYDIS_ISA_SET_I86;
        in->operand_size = in->stack_size = size;
        in->op[0] = (struct insn_operand){OPERAND_GPR, GPR_R8, size};
        in->op[1] = (struct insn_operand){OPERAND_GPR, GPR_RAX, size};
    }
}

/* The special forms that insn.h lists come before the mnemonic's ordinary meaning. */
static insn_handler choose_handler(struct insn *out, const ZydisDecodedInstruction *d,
                                   const ZydisDecodedOperand *z)
{
    unsigned m = out->mnemonic;
    bool segment = false, control = false;
    insn_handler run;

    for (unsigned i = 0; i < d->operand_count_visible; i++) {
        if (z[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            ZydisRegisterClass c = ZydisRegisterGetClass(z[i].reg.value);

            segment |= c == ZYDIS_REGCLASS_SEGMENT;
            control |= c == ZYDIS_REGCLASS_CONTROL || c == ZYDIS_REGCLASS_DEBUG;
        }
    }
    out->flags |= INSN_BOUNDARY;
    if (control)
        return table_system[m];
    if (segment || d->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return table_far[m] ? table_far[m] : table_system[m];
    if (d->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && table_string[m]) {
        out->flags &= (uint8_t)~INSN_BOUNDARY;
        out->prefix = (uint8_t)((out->prefix & PREFIX_LOCK) | repeat_prefix(d));
        out->segment = implicit_segment(d, out->code_size);
        return table_string[m];
    }
    if (table_ordinary[m]) {
        out->flags &= (uint8_t)~INSN_BOUNDARY;
        return table_ordinary[m];
    }
    run = table_system[m] ? table_system[m] : table_far[m] ? table_far[m] : table_state[m];
    if (run)
        return run;
    out->flags &= (uint8_t)~INSN_BOUNDARY;
    return simd_bind(out, d, z);
}

/* Zydis takes VEX forms that only this processor had, some under names of ordinary instructions. */
static bool is_knights_corner(const ZydisDecodedInstruction *d)
{
    return d->meta.isa_ext == ZYDIS_ISA_EXT_KNC || d->meta.isa_ext == ZYDIS_ISA_EXT_KNCE ||
           d->meta.isa_ext == ZYDIS_ISA_EXT_KNCV;
}

enum decode_result insn_decode(const uint8_t *bytes, unsigned available, unsigned code_size,
                               struct insn *out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const ZydisDecoder *decoder;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand z[ZYDIS_MAX_OPERAND_COUNT];
    struct insn in = {0};
    unsigned immediates = 0;
    ZyanStatus status;

    pthread_once(&once, decode_setup);
    decoder = code_size == 8 ? &decoder_64 : code_size == 4 ? &decoder_32 : &decoder_16;
    available = MIN(available, (unsigned)INSN_MAX_LENGTH);
    status = ZydisDecoderDecodeFull(decoder, bytes, available, &d, z);
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return available == INSN_MAX_LENGTH ? DECODE_TOO_LONG : DECODE_MORE;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return DECODE_TOO_LONG;
    if (!ZYAN_SUCCESS(status) || is_knights_corner(&d))
        return DECODE_UD;

    in.length = d.length;
    in.code_size = (uint8_t)code_size;
    in.operand_size = (uint8_t)MAX(1, d.operand_width / 8);
    in.address_size = (uint8_t)(d.address_width / 8);
    in.stack_size = in.operand_size;
    in.mnemonic = (uint16_t)d.mnemonic;
    in.opcode = d.opcode;
    in.opcode_map = (uint8_t)d.opcode_map;
    in.isa = (uint8_t)d.meta.isa_set;
    in.segment = SEG_DS;
    in.base = in.index = REG_NONE;
    if (d.attributes & ZYDIS_ATTRIB_HAS_LOCK)
        in.prefix |= PREFIX_LOCK;
    if (d.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        d.encoding != ZYDIS_INSTRUCTION_ENCODING_3DNOW)
        in.flags |= INSN_VEX;
    if (d.mnemonic == ZYDIS_MNEMONIC_INT || d.mnemonic == ZYDIS_MNEMONIC_INT1 ||
        d.mnemonic == ZYDIS_MNEMONIC_INT3 || d.mnemonic == ZYDIS_MNEMONIC_INTO ||
        d.mnemonic == ZYDIS_MNEMONIC_SYSCALL || d.mnemonic == ZYDIS_MNEMONIC_SYSRET)
        in.flags |= INSN_INT;
    memcpy(in.bytes, bytes, d.length);
    if (d.mnemonic == ZYDIS_MNEMONIC_XLAT)
        in.segment = implicit_segment(&d, code_size);
    for (unsigned i = 0, n = 0; i < d.operand_count_visible && n < INSN_OPERANDS; i++)
        decode_operand(&in, &in.op[n++], &z[i], code_size, &immediates);
    decode_repair(&in, &d);
    in.form = insn_is_conditional(&in) ? in.opcode & 15 : insn_form(&in);
    in.run = choose_handler(&in, &d, z);
    if (!in.run)
        return DECODE_UD;
    *out = in;
    return DECODE_OK;
}

void insn_bind(const struct cpu *cpu, struct insn *in, bool plain_real)
{
    unsigned need = isa_feature[in->isa];
    bool there = need == ALWAYS || (need > ALWAYS && cpu_has(cpu, (enum cpu_feature)(need - 2)));

    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_LZCNT:
        if (!there) {
            in->run = table_ordinary[ZYDIS_MNEMONIC_BSR];
            return;
        }
        break;
    case ZYDIS_MNEMONIC_TZCNT:
        if (!there) {
            in->run = table_ordinary[ZYDIS_MNEMONIC_BSF];
            return;
        }
        break;
    case ZYDIS_MNEMONIC_CMPXCHG8B: there = cpu_has(cpu, FEATURE_CX8); break;
    case ZYDIS_MNEMONIC_MOVDIR64B: there = cpu_has(cpu, FEATURE_MOVDIR64B); break;
    case ZYDIS_MNEMONIC_RDTSC: there = cpu_has(cpu, FEATURE_TSC); break;
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR: there = cpu_has(cpu, FEATURE_MSR); break;
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET: there = cpu_has(cpu, FEATURE_SYSCALL); break;
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT: there = cpu_has(cpu, FEATURE_SEP); break;
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF: there = in->code_size != 8 || cpu_has(cpu, FEATURE_LAHF_LM); break;
    default: break;
    }
    if (!there || (plain_real && (in->flags & INSN_VEX)))
        in->run = insn_undefined;
}
