/*
 * simd.c - x87, MMX, SSE, AVX, AVX-512, BMI, AES, SHA and their like: run on the host's own units.
 *
 * Binding: simd_bind() looks an instruction's ISA set up in an explicit list, describes it in a
 * struct simd_spec and rebuilds it for a stub: memory operand at [rsi], general registers renamed,
 * prefixes reduced to those that mean something. The result is decoded again and must be the same
 * instruction on the expected operands; what is not is refused (#UD) and said in the log. So
 * nothing runs on the host that was not understood twice.
 *
 * Execution: checks of feature and state; memory into the bounce buffer, whole or only the bytes
 * that the mask selects; the stub; memory out; then the general registers, flags, MXCSR and x87
 * state are committed. A stub writes vector and mask registers itself, which is safe because no
 * instruction that runs in one writes both them and memory. Gathers, scatters and byte-masked
 * stores are loops in C, for their partial completion is visible.
 *
 * When CR0.NE is 0, a PC reports x87 exceptions by FERR# and IRQ 13. That wire is not modelled:
 * a pending exception is then ignored, as with IGNNE# held active.
 */
#include "interp/simd.h"

#include "base/log.h"
#include "interp/access.h"
#include "interp/exceptions.h"
#include "x86/model.h"

/* ---- what may run ------------------------------------------------------------------------- */

#define F(n, ...)                                                                                  \
    {                                                                                              \
        n,                                                                                         \
        {                                                                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define F512(feature)    F(1, FEATURE_##feature)
#define F512VL(feature)  F(2, FEATURE_##feature, FEATURE_AVX512VL)
#define F512F(feature)   F(2, FEATURE_##feature, FEATURE_AVX512F)
#define F512FVL(feature) F(3, FEATURE_##feature, FEATURE_AVX512F, FEATURE_AVX512VL)

/* The allow-list: an ISA set without an entry (count 0) is #UD. All features must be there. */
static const struct {
    uint8_t count;
    uint16_t feature[SIMD_FEATURES];
} isa_sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    [ZYDIS_ISA_SET_X87] = F(1, FEATURE_FPU),
    [ZYDIS_ISA_SET_PPRO] = F(2, FEATURE_FPU, FEATURE_CMOV),
    [ZYDIS_ISA_SET_FCMOV] = F(2, FEATURE_FPU, FEATURE_CMOV),
    [ZYDIS_ISA_SET_SSE3X87] = F(2, FEATURE_FPU, FEATURE_SSE3),
    [ZYDIS_ISA_SET_PENTIUMMMX] = F(1, FEATURE_MMX),
    [ZYDIS_ISA_SET_SSE] = F(1, FEATURE_SSE),
    [ZYDIS_ISA_SET_SSE2] = F(1, FEATURE_SSE2),
    [ZYDIS_ISA_SET_SSE2MMX] = F(1, FEATURE_SSE2),
    [ZYDIS_ISA_SET_SSE3] = F(1, FEATURE_SSE3),
    [ZYDIS_ISA_SET_SSSE3] = F(1, FEATURE_SSSE3),
    [ZYDIS_ISA_SET_SSSE3MMX] = F(1, FEATURE_SSSE3),
    [ZYDIS_ISA_SET_SSE4] = F(1, FEATURE_SSE41),
    [ZYDIS_ISA_SET_SSE42] = F(1, FEATURE_SSE42),
    [ZYDIS_ISA_SET_SSE4A] = F(1, FEATURE_SSE4A),
    [ZYDIS_ISA_SET_AES] = F(1, FEATURE_AES),
    [ZYDIS_ISA_SET_PCLMULQDQ] = F(1, FEATURE_PCLMULQDQ),
    [ZYDIS_ISA_SET_SHA] = F(1, FEATURE_SHA_NI),
    [ZYDIS_ISA_SET_GFNI] = F(1, FEATURE_GFNI),
    [ZYDIS_ISA_SET_ADOX_ADCX] = F(1, FEATURE_ADX),
    [ZYDIS_ISA_SET_BMI1] = F(1, FEATURE_BMI1),
    [ZYDIS_ISA_SET_BMI2] = F(1, FEATURE_BMI2),
    /* MOVDIR64B: see simd_bind() */
    [ZYDIS_ISA_SET_MOVDIR] = F(1, FEATURE_MOVDIRI),
    [ZYDIS_ISA_SET_AVX] = F(1, FEATURE_AVX),
    [ZYDIS_ISA_SET_AVX2] = F(1, FEATURE_AVX2),
    [ZYDIS_ISA_SET_AVX2GATHER] = F(1, FEATURE_AVX2),
    [ZYDIS_ISA_SET_AVXAES] = F(2, FEATURE_AES, FEATURE_AVX),
    [ZYDIS_ISA_SET_AVX_GFNI] = F(2, FEATURE_GFNI, FEATURE_AVX),
    [ZYDIS_ISA_SET_AVX_VNNI] = F(2, FEATURE_AVX_VNNI, FEATURE_AVX),
    [ZYDIS_ISA_SET_VAES] = F(2, FEATURE_VAES, FEATURE_AVX),
    [ZYDIS_ISA_SET_VPCLMULQDQ] = F(2, FEATURE_VPCLMULQDQ, FEATURE_AVX),
    [ZYDIS_ISA_SET_F16C] = F(2, FEATURE_F16C, FEATURE_AVX),
    [ZYDIS_ISA_SET_FMA] = F(2, FEATURE_FMA, FEATURE_AVX),
    [ZYDIS_ISA_SET_AVX512F_128] = F512VL(AVX512F),
    [ZYDIS_ISA_SET_AVX512F_256] = F512VL(AVX512F),
    [ZYDIS_ISA_SET_AVX512F_512] = F512(AVX512F),
    [ZYDIS_ISA_SET_AVX512F_128N] = F512(AVX512F),
    [ZYDIS_ISA_SET_AVX512F_SCALAR] = F512(AVX512F),
    [ZYDIS_ISA_SET_AVX512F_KOP] = F512(AVX512F),
    [ZYDIS_ISA_SET_AVX512BW_128] = F512VL(AVX512BW),
    [ZYDIS_ISA_SET_AVX512BW_256] = F512VL(AVX512BW),
    [ZYDIS_ISA_SET_AVX512BW_512] = F512(AVX512BW),
    [ZYDIS_ISA_SET_AVX512BW_128N] = F512(AVX512BW),
    [ZYDIS_ISA_SET_AVX512BW_KOP] = F512(AVX512BW),
    [ZYDIS_ISA_SET_AVX512CD_128] = F512VL(AVX512CD),
    [ZYDIS_ISA_SET_AVX512CD_256] = F512VL(AVX512CD),
    [ZYDIS_ISA_SET_AVX512CD_512] = F512(AVX512CD),
    [ZYDIS_ISA_SET_AVX512DQ_128] = F512VL(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512DQ_256] = F512VL(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512DQ_512] = F512(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512DQ_128N] = F512(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512DQ_SCALAR] = F512(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512DQ_KOP] = F512(AVX512DQ),
    [ZYDIS_ISA_SET_AVX512_BF16_128] = F512VL(AVX512BF16),
    [ZYDIS_ISA_SET_AVX512_BF16_256] = F512VL(AVX512BF16),
    [ZYDIS_ISA_SET_AVX512_BF16_512] = F512(AVX512BF16),
    [ZYDIS_ISA_SET_AVX512_BITALG_128] = F512VL(AVX512BITALG),
    [ZYDIS_ISA_SET_AVX512_BITALG_256] = F512VL(AVX512BITALG),
    [ZYDIS_ISA_SET_AVX512_BITALG_512] = F512(AVX512BITALG),
    [ZYDIS_ISA_SET_AVX512_FP16_128] = F512VL(AVX512FP16),
    [ZYDIS_ISA_SET_AVX512_FP16_256] = F512VL(AVX512FP16),
    [ZYDIS_ISA_SET_AVX512_FP16_512] = F512(AVX512FP16),
    [ZYDIS_ISA_SET_AVX512_FP16_128N] = F512(AVX512FP16),
    [ZYDIS_ISA_SET_AVX512_FP16_SCALAR] = F512(AVX512FP16),
    [ZYDIS_ISA_SET_AVX512_GFNI_128] = F512FVL(GFNI),
    [ZYDIS_ISA_SET_AVX512_GFNI_256] = F512FVL(GFNI),
    [ZYDIS_ISA_SET_AVX512_GFNI_512] = F512F(GFNI),
    [ZYDIS_ISA_SET_AVX512_IFMA_128] = F512VL(AVX512IFMA),
    [ZYDIS_ISA_SET_AVX512_IFMA_256] = F512VL(AVX512IFMA),
    [ZYDIS_ISA_SET_AVX512_IFMA_512] = F512(AVX512IFMA),
    [ZYDIS_ISA_SET_AVX512_VAES_128] = F512FVL(VAES),
    [ZYDIS_ISA_SET_AVX512_VAES_256] = F512FVL(VAES),
    [ZYDIS_ISA_SET_AVX512_VAES_512] = F512F(VAES),
    [ZYDIS_ISA_SET_AVX512_VBMI_128] = F512VL(AVX512VBMI),
    [ZYDIS_ISA_SET_AVX512_VBMI_256] = F512VL(AVX512VBMI),
    [ZYDIS_ISA_SET_AVX512_VBMI_512] = F512(AVX512VBMI),
    [ZYDIS_ISA_SET_AVX512_VBMI2_128] = F512VL(AVX512VBMI2),
    [ZYDIS_ISA_SET_AVX512_VBMI2_256] = F512VL(AVX512VBMI2),
    [ZYDIS_ISA_SET_AVX512_VBMI2_512] = F512(AVX512VBMI2),
    [ZYDIS_ISA_SET_AVX512_VNNI_128] = F512VL(AVX512VNNI),
    [ZYDIS_ISA_SET_AVX512_VNNI_256] = F512VL(AVX512VNNI),
    [ZYDIS_ISA_SET_AVX512_VNNI_512] = F512(AVX512VNNI),
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128] = F512VL(AVX512VP2INTERSECT),
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256] = F512VL(AVX512VP2INTERSECT),
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512] = F512(AVX512VP2INTERSECT),
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128] = F512FVL(VPCLMULQDQ),
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256] = F512FVL(VPCLMULQDQ),
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512] = F512F(VPCLMULQDQ),
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128] = F512VL(AVX512VPOPCNTDQ),
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256] = F512VL(AVX512VPOPCNTDQ),
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512] = F512(AVX512VPOPCNTDQ),
};

/* Gathers and scatters: bytes of an index and of an element. */
static const struct {
    uint16_t mnemonic;
    uint8_t kind, index, element;
} vsib_forms[] = {
    {ZYDIS_MNEMONIC_VPGATHERDD, SIMD_GATHER, 4, 4},
    {ZYDIS_MNEMONIC_VPGATHERDQ, SIMD_GATHER, 4, 8},
    {ZYDIS_MNEMONIC_VPGATHERQD, SIMD_GATHER, 8, 4},
    {ZYDIS_MNEMONIC_VPGATHERQQ, SIMD_GATHER, 8, 8},
    {ZYDIS_MNEMONIC_VGATHERDPS, SIMD_GATHER, 4, 4},
    {ZYDIS_MNEMONIC_VGATHERDPD, SIMD_GATHER, 4, 8},
    {ZYDIS_MNEMONIC_VGATHERQPS, SIMD_GATHER, 8, 4},
    {ZYDIS_MNEMONIC_VGATHERQPD, SIMD_GATHER, 8, 8},
    {ZYDIS_MNEMONIC_VPSCATTERDD, SIMD_SCATTER, 4, 4},
    {ZYDIS_MNEMONIC_VPSCATTERDQ, SIMD_SCATTER, 4, 8},
    {ZYDIS_MNEMONIC_VPSCATTERQD, SIMD_SCATTER, 8, 4},
    {ZYDIS_MNEMONIC_VPSCATTERQQ, SIMD_SCATTER, 8, 8},
    {ZYDIS_MNEMONIC_VSCATTERDPS, SIMD_SCATTER, 4, 4},
    {ZYDIS_MNEMONIC_VSCATTERDPD, SIMD_SCATTER, 4, 8},
    {ZYDIS_MNEMONIC_VSCATTERQPS, SIMD_SCATTER, 8, 4},
    {ZYDIS_MNEMONIC_VSCATTERQPD, SIMD_SCATTER, 8, 8},
};

static enum simd_kind kind_of(uint16_t mnemonic, unsigned *index, unsigned *element)
{
    for (unsigned i = 0; i < ARRAY_SIZE(vsib_forms); i++)
        if (vsib_forms[i].mnemonic == mnemonic) {
            *index = vsib_forms[i].index;
            *element = vsib_forms[i].element;
            return vsib_forms[i].kind;
        }
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: return SIMD_MASKMOV;
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER: return SIMD_ZERO;
    case ZYDIS_MNEMONIC_MOVDIR64B: return SIMD_MOVDIR64B;
    default: return SIMD_HOST;
    }
}

/* 16-byte operands of legacy encodings must be aligned, but for these. */
static bool unaligned_sse(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return true;
    default: return false;
    }
}

/* VEX and EVEX operands need not be aligned, but for these. */
static bool aligned_avx(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
    default: return false;
    }
}

/* One mask bit for a pair of half-precision numbers. */
bool simd_is_complex_fp16(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VFCMADDCPH:
    case ZYDIS_MNEMONIC_VFCMADDCSH:
    case ZYDIS_MNEMONIC_VFCMULCPH:
    case ZYDIS_MNEMONIC_VFCMULCSH:
    case ZYDIS_MNEMONIC_VFMADDCPH:
    case ZYDIS_MNEMONIC_VFMADDCSH:
    case ZYDIS_MNEMONIC_VFMULCPH:
    case ZYDIS_MNEMONIC_VFMULCSH: return true;
    default: return false;
    }
}

/* Does it leave masked-out elements untouched? By exception class, SDM vol. 2, section 2.8; Zydis
 * has some of type E4NF, whose results mix elements, as E4. */
static bool suppresses_faults(const ZydisDecodedInstruction *d)
{
    switch (d->mnemonic) {
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16: return false;
    default: break;
    }
    switch (d->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E4:
    case ZYDIS_EXCEPTION_CLASS_E5:
    case ZYDIS_EXCEPTION_CLASS_E6:
    case ZYDIS_EXCEPTION_CLASS_E10:
    case ZYDIS_EXCEPTION_CLASS_E11: return true;
    default: return false;
    }
}

/* Results of a broadcast for its mode; 0: none. */
static unsigned broadcast_count(ZydisBroadcastMode mode)
{
    static const uint8_t counts[ZYDIS_BROADCAST_MODE_MAX_VALUE + 1] = {
        [ZYDIS_BROADCAST_MODE_1_TO_2] = 2,   [ZYDIS_BROADCAST_MODE_1_TO_4] = 4,
        [ZYDIS_BROADCAST_MODE_1_TO_8] = 8,   [ZYDIS_BROADCAST_MODE_1_TO_16] = 16,
        [ZYDIS_BROADCAST_MODE_1_TO_32] = 32, [ZYDIS_BROADCAST_MODE_1_TO_64] = 64,
        [ZYDIS_BROADCAST_MODE_2_TO_4] = 4,   [ZYDIS_BROADCAST_MODE_2_TO_8] = 8,
        [ZYDIS_BROADCAST_MODE_2_TO_16] = 16, [ZYDIS_BROADCAST_MODE_4_TO_8] = 8,
        [ZYDIS_BROADCAST_MODE_4_TO_16] = 16, [ZYDIS_BROADCAST_MODE_8_TO_16] = 16,
    };

    return counts[mode];
}

/* ---- describing an instruction ---------------------------------------------------------------
 */

static bool operand_writes(const ZydisDecodedOperand *op)
{
    return (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

static bool is_gpr(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return true;
    default: return false;
    }
}

static uint8_t gpr_number(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return REG_HIGH8 | (uint8_t)(reg - ZYDIS_REGISTER_AH);
    return (uint8_t)ZydisRegisterGetId(
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

/* Implicit registers keep their number; the others get one that is neither implicit anywhere nor
 * used by the stub. */
static bool add_gpr(struct simd_spec *s, const ZydisDecodedOperand *op)
{
    uint8_t guest = gpr_number(op->reg.value), access = 0;
    bool fixed = op->encoding == ZYDIS_OPERAND_ENCODING_NONE;

    if (fixed && guest > GPR_RDX)
        return false;
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        access |= SIMD_READS;
    if (operand_writes(op))
        access |= SIMD_WRITES;
    for (unsigned i = 0; i < s->gprs; i++)
        if (s->gpr[i].guest == guest) {
            s->gpr[i].access |= access;
            s->gpr[i].size = MAX(s->gpr[i].size, op->size / 8);
            return true;
        }
    if (s->gprs == SIMD_GPRS)
        return false;
    s->gpr[s->gprs] = (struct simd_gpr){
        .guest = guest,
        .host = fixed ? guest : GPR_R8 + s->gprs,
        .size = (uint8_t)(op->size / 8),
        .access = access,
    };
    s->gprs++;
    return true;
}

static uint8_t host_gpr(const struct simd_spec *s, ZydisRegister reg)
{
    for (unsigned i = 0; i < s->gprs; i++)
        if (s->gpr[i].guest == gpr_number(reg))
            return s->gpr[i].host;
    return 0;
}

static void add_register(struct simd_spec *s, const ZydisDecodedOperand *op, bool *xmm, bool *mask)
{
    unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);

    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
        *xmm = true;
        s->vector_in |= (uint32_t)BIT(id);
        if (operand_writes(op))
            s->vector_out |= (uint32_t)BIT(id);
        break;
    case ZYDIS_REGCLASS_MASK:
        *mask = true;
        s->k_in |= (uint8_t)BIT(id);
        if (operand_writes(op))
            s->k_out |= (uint8_t)BIT(id);
        break;
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_X87: s->use |= SIMD_USES_FX; break;
    default: break;
    }
}

static void describe_memory(struct simd_spec *s, const ZydisDecodedInstruction *d,
                            const ZydisDecodedOperand *ops, const ZydisDecodedOperand *mem)
{
    unsigned count = broadcast_count(d->avx.broadcast.mode);
    ZydisRegister k = d->avx.mask.reg;

    s->memory_size = (uint8_t)(mem->size / 8);
    if (mem->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        s->memory |= SIMD_READS;
    if (operand_writes(mem))
        s->memory |= SIMD_WRITES;
    if (s->class == SIMD_SSE && s->memory_size == 16 && !unaligned_sse(s->mnemonic))
        s->align = 16;
    if ((s->class == SIMD_AVX || s->class == SIMD_AVX512) && aligned_avx(s->mnemonic))
        s->align = s->memory_size;

    /* The page must be writable before a floating-point exception of VCVTPS2PH is reported; an x87
     * store pops, and that cannot be taken back. */
    s->probe = s->memory & SIMD_WRITES && (s->class == SIMD_X87 || s->memory & SIMD_READS ||
                                           d->meta.category == ZYDIS_CATEGORY_CONVERT);
    switch (s->mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        s->probe = (s->memory & SIMD_WRITES) != 0;
        s->mask = SIMD_MASK_VECTOR;
        s->mask_reg = (uint8_t)ZydisRegisterGetId(ops[1].reg.value);
        s->mask_granule = s->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS ||
                                  s->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD
                              ? 4
                              : 8;
        return;
    default: break;
    }
    if (k == ZYDIS_REGISTER_NONE || k == ZYDIS_REGISTER_K0)
        return;
    s->probe = (s->memory & SIMD_WRITES) != 0;
    s->mask_reg = (uint8_t)ZydisRegisterGetId(k);
    s->mask_granule = simd_is_complex_fp16(s->mnemonic) ? 4 : (uint8_t)(mem->element_size / 8);
    if (!s->mask_granule || s->memory_size % s->mask_granule)
        s->mask_granule = s->memory_size;
    s->mask_bits = (uint8_t)(count ? count : s->memory_size / s->mask_granule);
    s->memory_whole = !suppresses_faults(d);
    if (d->meta.category == ZYDIS_CATEGORY_COMPRESS || d->meta.category == ZYDIS_CATEGORY_EXPAND)
        s->mask = SIMD_MASK_PACKED;
    else
        s->mask = s->memory & SIMD_WRITES || !s->memory_whole ? SIMD_MASK_K : SIMD_MASK_DROPPED;
    if (s->mask == SIMD_MASK_DROPPED)
        s->mask_reg = s->mask_granule = s->mask_bits = 0;
}

/* VPCOMPRESSB and so on are not in the category of the older ones. */
static bool packs_memory(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ:
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VEXPANDPD: return true;
    default: return false;
    }
}

static enum simd_class classify(const ZydisDecodedInstruction *d, const struct simd_spec *s,
                                bool xmm, bool mask)
{
    bool zero = s->kind == SIMD_ZERO;

    switch (d->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: return SIMD_AVX512;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        return mask ? SIMD_AVX512 : xmm || zero ? SIMD_AVX : SIMD_VEX;
    default: break;
    }
    if (d->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
        return SIMD_X87;
    return xmm ? SIMD_SSE : s->use & SIMD_USES_FX ? SIMD_MMX : SIMD_GPR;
}

/* ---- the host's form of it -------------------------------------------------------------------
 */

struct rebuild {
    uint8_t reg, rm, vvvv; /* full numbers, 5 bits */
    bool reg_gpr, rm_gpr, v_gpr;
    bool w;
};

/* Field values of the original, extension bits included and put the right way round. */
static struct rebuild fields_of(const ZydisDecodedInstruction *d)
{
    bool wide = d->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    struct rebuild f = {.reg = d->raw.modrm.reg, .rm = d->raw.modrm.rm};

    switch (d->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        f.w = d->raw.evex.W;
        f.vvvv = (~d->raw.evex.vvvv & 15) | !d->raw.evex.V2 << 4;
        f.reg |= !d->raw.evex.R << 3 | !d->raw.evex.R2 << 4;
        f.rm |= !d->raw.evex.B << 3 | !d->raw.evex.X << 4;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        f.w = d->raw.vex.W;
        f.vvvv = ~d->raw.vex.vvvv & 15;
        f.reg |= !d->raw.vex.R << 3;
        f.rm |= !d->raw.vex.B << 3;
        break;
    default:
        f.w = d->raw.rex.W;
        f.reg |= d->raw.rex.R << 3;
        f.rm |= d->raw.rex.B << 3;
        break;
    }
    if (!wide) {
        f.reg &= 7;
        f.rm &= 7;
        f.vvvv &= 7;
    }
    return f;
}

static bool has_prefix(const ZydisDecodedInstruction *d, uint8_t value)
{
    for (unsigned i = 0; i < d->raw.prefix_count; i++)
        if (d->raw.prefixes[i].value == value &&
            d->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            return true;
    return false;
}

static unsigned put_opcode_prefixes(uint8_t *out, const ZydisDecodedInstruction *d,
                                    const struct rebuild *f, bool word)
{
    unsigned n = 0;

    switch (d->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        out[n++] = 0x62;
        out[n++] = (uint8_t)(!(f->reg & 8) << 7 | !(f->rm & 16) << 6 | !(f->rm & 8) << 5 |
                             !(f->reg & 16) << 4 | d->raw.evex.mmm);
        out[n++] = (uint8_t)(f->w << 7 | (~f->vvvv & 15) << 3 | 4 | d->raw.evex.pp);
        out[n++] = (uint8_t)(d->raw.evex.z << 7 | d->raw.evex.L2 << 6 | d->raw.evex.L << 5 |
                             d->raw.evex.b << 4 | !(f->vvvv & 16) << 3 | d->raw.evex.aaa);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        out[n++] = 0xc4;
        out[n++] = (uint8_t)(!(f->reg & 8) << 7 | 1 << 6 | !(f->rm & 8) << 5 | d->raw.vex.m_mmmm);
        out[n++] = (uint8_t)(f->w << 7 | (~f->vvvv & 15) << 3 | d->raw.vex.L << 2 | d->raw.vex.pp);
        break;
    default:
        if (word || has_prefix(d, 0x66))
            out[n++] = 0x66;
        if (has_prefix(d, 0xf2))
            out[n++] = 0xf2;
        if (has_prefix(d, 0xf3))
            out[n++] = 0xf3;
        if (d->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) {
            out[n++] = (uint8_t)(0x40 | f->w << 3 | (f->reg & 8) >> 1 | (f->rm & 8) >> 3);
            out[n++] = 0x0f;
        }
        if (d->opcode_map == ZYDIS_OPCODE_MAP_0F38)
            out[n++] = 0x38;
        if (d->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
            out[n++] = 0x3a;
        break;
    }
    return n;
}

/* Is `again`, decoded from the host's form, the same instruction on the operands we mean? */
static bool same_meaning(const struct simd_spec *s, const ZydisDecodedInstruction *d,
                         const ZydisDecodedOperand *ops, const ZydisDecodedInstruction *again,
                         const ZydisDecodedOperand *ops2)
{
    if (again->mnemonic != d->mnemonic || again->length != s->code_length ||
        again->encoding != d->encoding || again->operand_count != d->operand_count ||
        again->avx.vector_length != d->avx.vector_length ||
        again->avx.mask.reg != d->avx.mask.reg || again->avx.mask.mode != d->avx.mask.mode ||
        again->avx.broadcast.mode != d->avx.broadcast.mode ||
        again->avx.rounding.mode != d->avx.rounding.mode || again->avx.has_sae != d->avx.has_sae)
        return false;
    for (unsigned i = 0; i < d->operand_count; i++) {
        const ZydisDecodedOperand *a = &ops[i], *b = &ops2[i];
        ZydisRegisterClass class;

        if (a->type != b->type)
            return false;
        switch (a->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            class = ZydisRegisterGetClass(a->reg.value);
            if (class == ZYDIS_REGCLASS_FLAGS || class == ZYDIS_REGCLASS_IP)
                break; /* named by mode */
            /* Zydis gives RAX of VPCMPESTRI.W1 in 32-bit mode, where it is EAX, no size. */
            if (a->size != b->size && !(a->size == 0 && b->size == 32))
                return false;
            if (is_gpr(a->reg.value)
                    ? !is_gpr(b->reg.value) || gpr_number(b->reg.value) != host_gpr(s, a->reg.value)
                    : a->reg.value != b->reg.value)
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (a->size != b->size || b->mem.base != ZYDIS_REGISTER_RSI ||
                b->mem.index != ZYDIS_REGISTER_NONE || b->mem.disp.value ||
                b->mem.segment != ZYDIS_REGISTER_DS)
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (a->imm.value.u != b->imm.value.u)
                return false;
            break;
        default: return false;
        }
    }
    return true;
}

static bool rebuild(struct simd_spec *s, const ZydisDecodedInstruction *d,
                    const ZydisDecodedOperand *ops)
{
    struct rebuild f = fields_of(d);
    bool memory = s->memory != 0, word = false, modrm = (d->attributes & ZYDIS_ATTRIB_HAS_MODRM);
    ZydisDecodedInstruction again;
    ZydisDecodedOperand ops2[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoder decoder;
    uint64_t imm[2];

    for (unsigned i = 0; i < d->operand_count; i++) {
        if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER || !is_gpr(ops[i].reg.value))
            continue;
        switch (ops[i].encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG: f.reg = host_gpr(s, ops[i].reg.value); break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM: f.rm = host_gpr(s, ops[i].reg.value); break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD: f.vvvv = host_gpr(s, ops[i].reg.value); break;
        default: break;
        }
        word |= ops[i].size == 16;
    }
    if (memory) {
        f.rm = GPR_RSI;
        word |= s->class == SIMD_GPR && s->memory_size == 2;
    }
    for (unsigned i = 0; i < 2; i++)
        imm[i] = d->raw.imm[i].value.u;
    /* The highest bit of a register in an immediate (VBLENDVPS) counts in 64-bit mode only. */
    if (d->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
        for (unsigned i = 0; i < d->operand_count; i++)
            if (ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
                imm[0] &= 0x7f;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    /* Where W chooses between 32 and 64-bit registers it means nothing outside 64-bit mode: try
     * without first, where a general register is named. */
    if (d->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && s->gprs)
        f.w = false;
    for (int attempt = 0; attempt < 2; attempt++, f.w = !f.w) {
        unsigned n = put_opcode_prefixes(s->code, d, &f, word);

        s->code[n++] = d->opcode;
        if (modrm)
            s->code[n++] = (uint8_t)((memory ? 0 : d->raw.modrm.mod) << 6 | (f.reg & 7) << 3 |
                                     (f.rm & 7));
        for (unsigned i = 0; i < 2; i++)
            for (unsigned b = 0; b < d->raw.imm[i].size / 8u && n < sizeof(s->code); b++)
                s->code[n++] = (uint8_t)(imm[i] >> 8 * b);
        s->code_length = (uint8_t)n;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, s->code, n, &again, ops2)) &&
            same_meaning(s, d, ops, &again, ops2))
            return true;
    }
    log_guest("instruction %s has no form for the host: raises #UD",
              ZydisMnemonicGetString(d->mnemonic));
    return false;
}

/* Moves and integer operations need not have the guest's MXCSR, and loading it is slow. */
static bool uses_mxcsr(const ZydisDecodedInstruction *d, const ZydisDecodedOperand *ops)
{
    switch (d->meta.exception_class) { /* those that can raise #XM; ROUNDSD names integers only */
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E11:
    case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
    default: break;
    }
    switch (d->meta.category) {
    case ZYDIS_CATEGORY_CONVERT: return true;
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_BROADCAST: return false;
    default: break;
    }
    switch (d->meta.isa_set) { /* their operands look like integers to Zydis */
    case ZYDIS_ISA_SET_AVX512_BF16_128:
    case ZYDIS_ISA_SET_AVX512_BF16_256:
    case ZYDIS_ISA_SET_AVX512_BF16_512: return true;
    default: break;
    }
    for (unsigned i = 0; i < d->operand_count; i++)
        if (ops[i].element_type >= ZYDIS_ELEMENT_TYPE_FLOAT16 &&
            ops[i].element_type <= ZYDIS_ELEMENT_TYPE_FLOAT80)
            return true;
    return false;
}

/* Everything about the instruction; false: it may not run. */
static bool describe(struct simd_spec *s, const ZydisDecodedInstruction *d,
                     const ZydisDecodedOperand *ops)
{
    const ZydisDecodedOperand *mem = NULL;
    unsigned index = 0, element = 0;
    bool xmm = false, mask = false;

    memset(s, 0, sizeof(*s));
    if (!isa_sets[d->meta.isa_set].count)
        return false;
    s->mnemonic = (uint16_t)d->mnemonic;
    s->features = isa_sets[d->meta.isa_set].count;
    memcpy(s->feature, isa_sets[d->meta.isa_set].feature, sizeof(s->feature));
    if (d->mnemonic == ZYDIS_MNEMONIC_MOVDIR64B)
        s->feature[0] = FEATURE_MOVDIR64B;
    if (d->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && d->meta.isa_set == ZYDIS_ISA_SET_AVX)
        s->feature[s->features++] = FEATURE_PCLMULQDQ;

    s->kind = (uint8_t)kind_of(s->mnemonic, &index, &element);
    s->segment = SEG_DS;
    /* Implicit registers first, for they cannot be renamed: MULX rdx, rax, [m] reads RDX. */
    for (unsigned i = 0; i < d->operand_count; i++)
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(ops[i].reg.value) &&
            ops[i].encoding == ZYDIS_OPERAND_ENCODING_NONE && !add_gpr(s, &ops[i]))
            return false;
    for (unsigned i = 0; i < d->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
                s->segment = (uint8_t)ZydisRegisterGetId(op->mem.segment);
            else if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
                mem = op;
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (op->encoding == ZYDIS_OPERAND_ENCODING_MASK && op->reg.value == ZYDIS_REGISTER_K0)
                mask = true;
            else if (is_gpr(op->reg.value)) {
                if (!add_gpr(s, op))
                    return false;
            } else {
                add_register(s, op, &xmm, &mask);
            }
        }
    }
    /* Conversions use the SIMD unit also where they name no vector register: CVTSD2SI eax, [m]. */
    if (d->meta.category == ZYDIS_CATEGORY_CONVERT)
        xmm = true;
    s->class = (uint8_t)classify(d, s, xmm, mask);
    if (s->class == SIMD_X87) {
        s->use |= SIMD_USES_FX;
        s->fop = (uint16_t)((d->opcode & 7) << 8 | d->raw.modrm.mod << 6 | d->raw.modrm.reg << 3 |
                            d->raw.modrm.rm);
    }
    if (s->class >= SIMD_SSE && s->class != SIMD_VEX && uses_mxcsr(d, ops))
        s->use |= SIMD_USES_MXCSR;
    if (d->cpu_flags && (d->cpu_flags->tested | d->cpu_flags->modified | d->cpu_flags->set_0 |
                         d->cpu_flags->set_1 | d->cpu_flags->undefined))
        s->use |= SIMD_USES_FLAGS;
    if (d->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTD || d->mnemonic == ZYDIS_MNEMONIC_VP2INTERSECTQ)
        s->k_out |= (uint8_t)((s->k_out & 0x55) << 1 | (s->k_out & 0xaa) >> 1);

    switch ((enum simd_kind)s->kind) {
    case SIMD_HOST:
        if (mem && (mem->size == 0 || mem->size > 512 || mem->mem.type != ZYDIS_MEMOP_TYPE_MEM))
            return false;
        if (mem)
            describe_memory(s, d, ops, mem);
        if (s->mask && packs_memory(s->mnemonic))
            s->mask = SIMD_MASK_PACKED;
        return rebuild(s, d, ops);
    case SIMD_GATHER:
    case SIMD_SCATTER: {
        bool evex = d->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
        const ZydisDecodedOperand *data = &ops[s->kind == SIMD_SCATTER ? 2 : 0];
        const ZydisDecodedOperand *selector = &ops[evex ? 1 : 2];

        if (!mem)
            return false;
        s->reg[0] = (uint8_t)ZydisRegisterGetId(data->reg.value);
        s->reg[1] = (uint8_t)ZydisRegisterGetId(mem->mem.index);
        s->reg[2] = (uint8_t)ZydisRegisterGetId(selector->reg.value);
        s->mask = evex ? SIMD_MASK_K : SIMD_MASK_VECTOR;
        s->index_size = (uint8_t)index;
        s->memory_size = (uint8_t)element;
        s->width = (uint8_t)(d->avx.vector_length / 8);
        if (evex)
            return s->reg[2] != 0 && (s->kind == SIMD_SCATTER || s->reg[0] != s->reg[1]);
        return s->reg[0] != s->reg[1] && s->reg[0] != s->reg[2] && s->reg[1] != s->reg[2];
    }
    case SIMD_MASKMOV:
        s->reg[0] = (uint8_t)ZydisRegisterGetId(ops[0].reg.value);
        s->reg[1] = (uint8_t)ZydisRegisterGetId(ops[1].reg.value);
        s->memory_size = (uint8_t)(ops[0].size / 8);
        return true;
    case SIMD_MOVDIR64B:
    case SIMD_ZERO: return true;
    }
    return false;
}

/* ---- checks before execution ---------------------------------------------------------------- */

void simd_check_pending(struct cpu *cpu)
{
    if (cpu->fx.fsw & 0x80 && cpu->cr0 & CR0_NE)
        cpu_raise(cpu, EXC_MF);
}

static void check_xcr0(struct cpu *cpu, uint64_t needed)
{
    if (!cpu_protected(cpu) || cpu_in_vm86(cpu) || !(cpu->cr4 & CR4_OSXSAVE) ||
        (cpu->xcr0 & needed) != needed)
        cpu_raise(cpu, EXC_UD);
    if (cpu->cr0 & CR0_TS)
        cpu_raise(cpu, EXC_NM);
}

void simd_check_class(struct cpu *cpu, enum simd_class class)
{
    switch (class) {
    case SIMD_GPR: return;
    case SIMD_X87:
        if (cpu->cr0 & (CR0_EM | CR0_TS))
            cpu_raise(cpu, EXC_NM);
        simd_check_pending(cpu);
        return;
    case SIMD_MMX:
        if (cpu->cr0 & CR0_EM)
            cpu_raise(cpu, EXC_UD);
        if (cpu->cr0 & CR0_TS)
            cpu_raise(cpu, EXC_NM);
        simd_check_pending(cpu);
        return;
    case SIMD_SSE:
        if (cpu->cr0 & CR0_EM || !(cpu->cr4 & CR4_OSFXSR))
            cpu_raise(cpu, EXC_UD);
        if (cpu->cr0 & CR0_TS)
            cpu_raise(cpu, EXC_NM);
        return;
    case SIMD_VEX:
        if (!cpu_protected(cpu) || cpu_in_vm86(cpu))
            cpu_raise(cpu, EXC_UD);
        return;
    case SIMD_AVX: check_xcr0(cpu, XCR0_SSE | XCR0_AVX); return;
    case SIMD_AVX512: check_xcr0(cpu, XCR0_SSE | XCR0_AVX | XCR0_AVX512); return;
    }
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t low_bytes(unsigned n)
{
    return n >= 64 ? ~UINT64_C(0) : BIT(n) - 1;
}

/* The bytes of the memory operand that the instruction touches, a bit for each. */
static uint64_t touched_bytes(const struct cpu *cpu, const struct simd_spec *s)
{
    unsigned elements, granule = s->mask_granule;
    uint64_t bytes = 0, k;

    switch ((enum simd_mask)s->mask) {
    case SIMD_MASK_K:
        elements = s->memory_size / granule;
        k = cpu->k[s->mask_reg] & low_bytes(s->mask_bits);
        for (unsigned i = 0; i < s->mask_bits; i++)
            if (k >> i & 1)
                bytes |= low_bytes(granule) << i % elements * granule;
        return bytes;
    case SIMD_MASK_PACKED:
        k = cpu->k[s->mask_reg] & low_bytes(s->mask_bits);
        return low_bytes((unsigned)__builtin_popcountll(k) * granule);
    case SIMD_MASK_VECTOR:
        for (unsigned i = 0; i < s->memory_size; i += granule)
            if (cpu->zmm[s->mask_reg][i + granule - 1] & 0x80)
                bytes |= low_bytes(granule) << i;
        return bytes;
    default: return low_bytes(s->memory_size);
    }
}

/* Elements behind the first do not wrap at the address size: they meet the segment's limit. */
static gva operand_linear(struct cpu *cpu, const struct insn *in, unsigned start, unsigned size,
                          enum mmu_access access)
{
    return segment_linear(cpu, in->segment, insn_offset(cpu, in) + start, size, access);
}

/* #GP for operands that must be aligned; then #AC for vectors, which AMD processors check by their
 * whole size while Intel's check nothing larger than 8 bytes. */
static void check_alignment(struct cpu *cpu, const struct insn *in, const struct simd_spec *s)
{
    uint64_t linear = insn_offset(cpu, in);

    if (cpu->code_size != 8 || in->segment == SEG_FS || in->segment == SEG_GS)
        linear += cpu->seg[in->segment].base;
    if (s->align && linear & (s->align - 1))
        cpu_raise_error(cpu, EXC_GP, 0);
    if (cpu->rflags & RFLAGS_AC && cpu->cr0 & CR0_AM && cpu->cpl == 3 && s->memory_size >= 16 &&
        linear & (s->memory_size - 1) && !strcmp(cpu->model->vendor, "AuthenticAMD"))
        cpu_raise_error(cpu, EXC_AC, 0);
}

/* The next run of set bits at or above *start; its length, at most `limit`, 0: no more. */
static unsigned next_run(uint64_t bytes, unsigned *start, unsigned limit)
{
    uint64_t rest = *start < 64 ? bytes >> *start << *start : 0;
    uint64_t tail;

    if (!rest)
        return 0;
    *start = (unsigned)__builtin_ctzll(rest);
    tail = ~(rest >> *start);
    return MIN(limit, tail ? (unsigned)__builtin_ctzll(tail) : 64u);
}

/* How much of a run is one access. Where segment limits count, masked elements meet limit and
 * page one after the other. */
static unsigned run_limit(const struct cpu *cpu, const struct simd_spec *s)
{
    return s->mask_granule && cpu->code_size != 8 ? s->mask_granule : 64;
}

static void watch(struct cpu *cpu, gva linear, unsigned size, bool write)
{
    if (cpu->dr[7] & 0xff)
        debug_data_access(cpu, linear, size, write);
}

static void memory_load(struct cpu *cpu, const struct insn *in, const struct simd_spec *s,
                        uint64_t bytes, uint8_t *to)
{
    unsigned start = 0, length, limit = run_limit(cpu, s);

    for (; (length = next_run(bytes, &start, limit)) != 0; start += length) {
        gva linear = operand_linear(cpu, in, start, length, MMU_READ);

        mmu_load_bytes(cpu, linear, to + start, length, cpu->mmu_mode);
        watch(cpu, linear, length, false);
    }
}

static void memory_probe(struct cpu *cpu, const struct insn *in, const struct simd_spec *s,
                         uint64_t bytes)
{
    unsigned start = 0, length, limit = run_limit(cpu, s);

    for (; (length = next_run(bytes, &start, limit)) != 0; start += length)
        mmu_probe(cpu, operand_linear(cpu, in, start, length, MMU_WRITE), length, cpu->mmu_mode,
                  MMU_WRITE);
}

static void memory_store(struct cpu *cpu, const struct insn *in, const struct simd_spec *s,
                         uint64_t bytes, const uint8_t *from)
{
    unsigned start = 0, length, limit = run_limit(cpu, s);

    for (; (length = next_run(bytes, &start, limit)) != 0; start += length) {
        gva linear = operand_linear(cpu, in, start, length, MMU_WRITE);

        mmu_store_bytes(cpu, linear, from + start, length, cpu->mmu_mode);
        watch(cpu, linear, length, true);
    }
}

/* The MM registers are the x87 registers by physical number; st[] counts from the top. */
static unsigned mmx_slot(const struct cpu *cpu, unsigned mm)
{
    return (mm - (cpu->fx.fsw >> 11)) & 7;
}

static void mmx_transition(struct cpu *cpu)
{
    uint8_t st[8][16];

    for (unsigned i = 0; i < 8; i++)
        memcpy(st[i], cpu->fx.st[mmx_slot(cpu, i)], 16);
    memcpy(cpu->fx.st, st, sizeof(st));
    cpu->fx.fsw &= ~0x3800;
    cpu->fx.ftw = 0xff;
}

/* ---- on the host ---------------------------------------------------------------------------- */

enum { FX_COPIED = offsetof(struct fx_image, xmm) };

/* Guest x87 state into the frame. Only with CR0.NE clear can an exception be pending here: then
 * all are masked for this instruction, or the host would trap on the old one. */
static void fx_load(const struct cpu *cpu, struct simd_frame *frame)
{
    memcpy(&frame->fx, &cpu->fx, FX_COPIED);
    frame->fx.mxcsr = __builtin_ia32_stmxcsr();
    if (cpu->fx.fsw & 0x80) {
        frame->fx.fcw |= 0x3f;
        frame->fx.fsw &= 0x7f7f;
    }
}

/* Instruction and data pointers are the guest's own: the host's are addresses of ours. */
static void fx_commit(struct cpu *cpu, const struct insn *in, const struct simd_spec *s,
                      const struct simd_frame *frame)
{
    cpu->fx.fsw = fpu_summary(frame->fx.fsw, cpu->fx.fcw);
    cpu->fx.ftw = frame->fx.ftw;
    memcpy(cpu->fx.st, frame->fx.st, sizeof(cpu->fx.st));
    if (s->class != SIMD_X87)
        return;
    cpu->fx.fop = s->fop;
    cpu->fx.fip = cpu->rip;
    cpu->fcs = cpu->seg[SEG_CS].selector;
    if (s->memory) {
        cpu->fx.fdp = insn_offset(cpu, in);
        cpu->fds = cpu->seg[in->segment].selector;
    }
}

/* An x87 store with an unmasked exception other than precision does not store: SDM vol. 1, 8.5. */
static bool fx_store_suppressed(const struct simd_spec *s, const struct simd_frame *frame)
{
    return s->class == SIMD_X87 && frame->fx.fsw & ~frame->fx.fcw & 0x1f;
}

static void run_host(struct cpu *cpu, const struct insn *in, const struct simd_stub *stub,
                     const struct simd_spec *s)
{
    struct simd_frame frame;
    uint64_t bytes = 0;

    if (s->memory) {
        if (s->align || cpu->rflags & RFLAGS_AC)
            check_alignment(cpu, in, s);
        bytes = touched_bytes(cpu, s);
        if (s->probe)
            memory_probe(cpu, in, s, s->memory_whole ? low_bytes(s->memory_size) : bytes);
        memset(frame.memory, 0, sizeof(frame.memory));
        if (s->memory & SIMD_READS)
            memory_load(cpu, in, s, bytes, frame.memory);
    }
    for (unsigned i = 0; i < s->gprs; i++)
        frame.gpr[i] = s->gpr[i].guest & REG_HIGH8 ? reg_read(cpu, s->gpr[i].guest, 1)
                                                   : cpu->gpr[s->gpr[i].guest];
    frame.flags = (cpu->rflags & RFLAGS_STATUS) | RFLAGS_IF | RFLAGS_FIXED;
    frame.mxcsr = cpu->fx.mxcsr;
    if (s->use & SIMD_USES_FX)
        fx_load(cpu, &frame);

    if (stub)
        simd_stub_run(stub, cpu, &frame);
    else
        simd_stub_run_once(s, cpu, &frame);
    if (frame.fault.kind) {
        if (frame.fault.kind == SIMD_FAULT_FLOAT && s->use & SIMD_USES_MXCSR) {
            cpu->fx.mxcsr = frame.mxcsr;
            if (s->use & SIMD_USES_FX) /* the switch to MMX comes before the conversion */
                mmx_transition(cpu);
            cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
        }
        cpu_raise(cpu, EXC_UD);
    }
    if (s->memory & SIMD_WRITES && !fx_store_suppressed(s, &frame))
        memory_store(cpu, in, s, bytes, frame.memory);
    for (unsigned i = 0; i < s->gprs; i++)
        if (s->gpr[i].access & SIMD_WRITES)
            reg_write(cpu, s->gpr[i].guest, frame.gpr[i], s->gpr[i].size);
    if (s->use & SIMD_USES_FLAGS)
        cpu->rflags = (cpu->rflags & ~(uint64_t)RFLAGS_STATUS) | (frame.flags & RFLAGS_STATUS);
    if (s->use & SIMD_USES_MXCSR)
        cpu->fx.mxcsr = frame.mxcsr;
    if (s->use & SIMD_USES_FX)
        fx_commit(cpu, in, s, &frame);
}

/* ---- in software ---------------------------------------------------------------------------- */

static bool element_selected(const struct cpu *cpu, const struct simd_spec *s, unsigned i)
{
    if (s->mask == SIMD_MASK_K)
        return (cpu->k[s->reg[2]] >> i & 1) != 0;
    return (cpu->zmm[s->reg[2]][(i + 1) * s->memory_size - 1] & 0x80) != 0;
}

static void element_done(struct cpu *cpu, const struct simd_spec *s, unsigned i)
{
    if (s->mask == SIMD_MASK_K)
        cpu->k[s->reg[2]] &= ~BIT(i);
    else
        memset(&cpu->zmm[s->reg[2]][i * s->memory_size], 0, s->memory_size);
}

/* Element by element from the lowest: a fault leaves the finished ones done, their mask bits
 * cleared, and the instruction restarts with the rest. */
static void run_vsib(struct cpu *cpu, const struct insn *in, const struct simd_spec *s)
{
    unsigned size = s->memory_size, n = s->width / MAX(s->index_size, size);
    uint8_t *data = cpu->zmm[s->reg[0]];
    uint64_t base = in->base == REG_NONE ? 0 : cpu->gpr[in->base];

    for (unsigned i = 0; i < n; i++) {
        uint64_t index = load_le(&cpu->zmm[s->reg[1]][i * s->index_size], s->index_size);
        uint64_t offset = base + (uint64_t)in->disp +
                          (uint64_t)sign_extend(index, 8 * s->index_size) * in->scale;

        if (!element_selected(cpu, s, i))
            continue;
        offset &= size_mask(in->address_size);
        if (s->kind == SIMD_GATHER)
            store_le(data + i * size, segment_load(cpu, in->segment, offset, size), size);
        else
            segment_store(cpu, in->segment, offset, load_le(data + i * size, size), size);
        element_done(cpu, s, i);
    }
    if (s->mask == SIMD_MASK_K)
        cpu->k[s->reg[2]] = 0;
    else
        memset(cpu->zmm[s->reg[2]], 0, 64);
    if (s->kind == SIMD_GATHER)
        memset(data + n * size, 0, 64 - n * size);
}

static void run_maskmov(struct cpu *cpu, const struct insn *in, const struct simd_spec *s)
{
    bool mmx = s->class == SIMD_MMX;
    const uint8_t *data = mmx ? cpu->fx.st[mmx_slot(cpu, s->reg[0])] : cpu->zmm[s->reg[0]];
    const uint8_t *mask = mmx ? cpu->fx.st[mmx_slot(cpu, s->reg[1])] : cpu->zmm[s->reg[1]];
    uint64_t bytes = 0, base = cpu->gpr[GPR_RDI] & size_mask(in->address_size);

    for (unsigned i = 0; i < s->memory_size; i++)
        if (mask[i] & 0x80)
            bytes |= BIT(i);
    /* The segment is checked even when no byte is selected. */
    segment_linear(cpu, s->segment, base, s->memory_size, MMU_WRITE);
    for (int pass = 0; pass < 2; pass++) { /* probe everything before the first byte is stored */
        unsigned start = 0, length;

        for (; (length = next_run(bytes, &start, 64)) != 0; start += length) {
            gva linear = segment_linear(cpu, s->segment, base + start, length, MMU_WRITE);

            if (pass == 0)
                mmu_probe(cpu, linear, length, cpu->mmu_mode, MMU_WRITE);
            else {
                mmu_store_bytes(cpu, linear, data + start, length, cpu->mmu_mode);
                watch(cpu, linear, length, true);
            }
        }
    }
    if (mmx)
        mmx_transition(cpu);
}

static void run_zero(struct cpu *cpu, const struct simd_spec *s)
{
    unsigned keep = s->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? 0 : 16;

    for (unsigned i = 0; i < (cpu->code_size == 8 ? 16 : 8); i++)
        memset(cpu->zmm[i] + keep, 0, 64 - keep);
}

static void run_movdir64b(struct cpu *cpu, const struct insn *in)
{
    uint64_t to = reg_read(cpu, in->op[0].reg, in->address_size);
    uint8_t line[64];
    gva linear = insn_linear(cpu, in, sizeof(line), MMU_READ);

    mmu_load_bytes(cpu, linear, line, sizeof(line), cpu->mmu_mode);
    watch(cpu, linear, sizeof(line), false);
    linear = segment_linear(cpu, SEG_ES, to, sizeof(line), MMU_WRITE);
    if (linear % sizeof(line))
        cpu_raise_error(cpu, EXC_GP, 0);
    mmu_store_bytes(cpu, linear, line, sizeof(line), cpu->mmu_mode);
    watch(cpu, linear, sizeof(line), true);
}

/* ---- the handler ---------------------------------------------------------------------------- */

static bool decode_again(const struct insn *in, struct simd_spec *s)
{
    ZydisDecodedInstruction d;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecoder decoder;

    if (in->code_size == 8)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (in->code_size == 4)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, in->bytes, in->length, &d, ops)) &&
           describe(s, &d, ops);
}

static void simd_run(struct cpu *cpu, const struct insn *in)
{
    const struct simd_stub *stub = in->extra;
    const struct simd_spec *s;
    struct simd_spec own;

    if (stub) {
        s = &stub->spec;
    } else { /* the cache was full */
        if (!decode_again(in, &own))
            cpu_raise(cpu, EXC_UD);
        s = &own;
    }
    for (unsigned i = 0; i < s->features; i++)
        if (!cpu_has(cpu, s->feature[i]))
            cpu_raise(cpu, EXC_UD);
    simd_check_class(cpu, s->class);
    if (s->class == SIMD_SSE && s->use & SIMD_USES_FX)
        simd_check_pending(cpu);
    switch ((enum simd_kind)s->kind) {
    case SIMD_HOST: run_host(cpu, in, stub, s); break;
    case SIMD_GATHER:
    case SIMD_SCATTER: run_vsib(cpu, in, s); break;
    case SIMD_MASKMOV: run_maskmov(cpu, in, s); break;
    case SIMD_ZERO: run_zero(cpu, s); break;
    case SIMD_MOVDIR64B: run_movdir64b(cpu, in); break;
    }
}

insn_handler simd_bind(struct insn *in, const ZydisDecodedInstruction *decoded,
                       const ZydisDecodedOperand *operands)
{
    struct simd_spec spec;

    in->extra = NULL;
    if (!simd_stub_available() || !describe(&spec, decoded, operands))
        return NULL;
    in->extra = simd_stub_find(&spec);
    return simd_run;
}

bool simd_describe(const struct insn *in, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operands, struct simd_spec *out)
{
    return in->run == simd_run && describe(out, decoded, operands);
}
