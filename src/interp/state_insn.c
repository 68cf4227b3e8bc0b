/*
 * state_insn.c - instructions that move processor state between struct cpu and memory: FXSAVE,
 * the XSAVE family, the x87 environment, control and status words, MXCSR.
 *
 * They are done in software: their images hold the guest's instruction pointers and reserved
 * bits, which the host's registers cannot. An image is put together in a buffer with the offsets
 * it has in memory; a list of ranges says which of its bytes are transferred. All ranges are
 * probed before the first is stored, so a fault leaves memory and registers as they were.
 *
 * SDM vol. 1, chapters 8 (x87), 10.5 (FXSAVE) and 13 (XSAVE).
 */
#include "interp/access.h"
#include "interp/exceptions.h"
#include "interp/simd.h"
#include "x86/model.h"

enum {
    AREA_LEGACY = 512,
    AREA_HEADER = 64,
    AREA_MAX = 4096,
    RANGES_MAX = 12,
    OFFSET_MXCSR = 24,
    OFFSET_ST = 32,
    OFFSET_XMM = 160,
};
#define XCOMP_COMPACT BIT(63)
#define XCR0_KNOWN    (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

struct area {
    uint8_t bytes[AREA_MAX] __attribute__((aligned(64)));
    struct {
        uint16_t offset, size;
    } range[RANGES_MAX];
    unsigned ranges;
};

static void area_add(struct area *a, unsigned offset, unsigned size)
{
    if (!size)
        return;
    a->range[a->ranges].offset = (uint16_t)offset;
    a->range[a->ranges++].size = (uint16_t)size;
}

static void area_store(struct cpu *cpu, gva linear, const struct area *a)
{
    enum mmu_mode mode = cpu->mmu_mode;

    for (unsigned i = 0; i < a->ranges; i++)
        mmu_probe(cpu, linear + a->range[i].offset, a->range[i].size, mode, MMU_WRITE);
    for (unsigned i = 0; i < a->ranges; i++) {
        unsigned offset = a->range[i].offset, end = offset + a->range[i].size, n;

        if (cpu->dr[7] & 0xff)
            debug_data_access(cpu, linear + offset, a->range[i].size, true);
        for (; offset < end; offset += n) {
            n = MIN(end - offset, 64);
            mmu_store_bytes(cpu, linear + offset, a->bytes + offset, n, mode);
        }
    }
}

/* The segment must hold all of it. */
static void area_check(struct cpu *cpu, const struct insn *in, const struct area *a,
                       enum mmu_access access)
{
    unsigned end = 0;

    for (unsigned i = 0; i < a->ranges; i++)
        end = MAX(end, (unsigned)a->range[i].offset + a->range[i].size);
    if (end)
        insn_linear(cpu, in, end, access);
}

/* Load what was added since the last call. */
static void area_load(struct cpu *cpu, gva linear, struct area *a)
{
    for (unsigned i = 0; i < a->ranges; i++) {
        unsigned offset = a->range[i].offset, end = offset + a->range[i].size, n;

        if (cpu->dr[7] & 0xff)
            debug_data_access(cpu, linear + offset, a->range[i].size, false);
        for (; offset < end; offset += n) {
            n = MIN(end - offset, 64);
            mmu_load_bytes(cpu, linear + offset, a->bytes + offset, n, cpu->mmu_mode);
        }
    }
    a->ranges = 0;
}

static gva aligned_operand(struct cpu *cpu, const struct insn *in, unsigned size, unsigned align,
                           enum mmu_access access)
{
    gva linear = insn_linear(cpu, in, size, access);

    if (linear % align)
        cpu_raise_error(cpu, EXC_GP, 0);
    return linear;
}

static void require(struct cpu *cpu, enum cpu_feature feature)
{
    if (!cpu_has(cpu, feature))
        cpu_raise(cpu, EXC_UD);
}

/* XMM, YMM registers that this mode can name. */
static unsigned vector_count(const struct cpu *cpu)
{
    return cpu->code_size == 8 ? 16 : 8;
}

/* ---- the legacy area: FXSAVE and the first 512 bytes of XSAVE ------------------------------- */

static void x87_to_image(const struct cpu *cpu, uint8_t *image, bool wide)
{
    store_le(image + 0, cpu->fx.fcw, 2);
    store_le(image + 2, cpu->fx.fsw, 2);
    store_le(image + 4, cpu->fx.ftw, 2);
    store_le(image + 6, cpu->fx.fop, 2);
    store_le(image + 8, cpu->fx.fip, 8);
    store_le(image + 16, cpu->fx.fdp, 8);
    if (!wide) {
        store_le(image + 12, cpu->fcs, 4);
        store_le(image + 20, cpu->fds, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        memset(image + OFFSET_ST + 16 * i, 0, 16);
        memcpy(image + OFFSET_ST + 16 * i, cpu->fx.st[i], 10);
    }
}

/* Where TOP changes by itself the physical registers stay: st[] counts from the top, so it turns.
 */
static void x87_turn(struct cpu *cpu, unsigned top)
{
    unsigned by = (top - (cpu->fx.fsw >> 11)) & 7;
    uint8_t st[8][16];

    for (unsigned i = 0; i < 8; i++)
        memcpy(st[i], cpu->fx.st[(i + by) & 7], 16);
    memcpy(cpu->fx.st, st, sizeof(st));
}

static uint16_t fcw_valid(uint16_t v)
{
    return (v & 0x1f7f) | 0x40;
}

static void x87_from_image(struct cpu *cpu, const uint8_t *image, bool wide)
{
    cpu->fx.fcw = fcw_valid((uint16_t)load_le(image, 2));
    cpu->fx.fsw = fpu_summary((uint16_t)load_le(image + 2, 2), cpu->fx.fcw);
    cpu->fx.ftw = image[4];
    cpu->fx.fop = load_le(image + 6, 2) & 0x7ff;
    cpu->fx.fip = load_le(image + 8, wide ? 8 : 4);
    cpu->fx.fdp = load_le(image + 16, wide ? 8 : 4);
    cpu->fcs = wide ? 0 : (uint16_t)load_le(image + 12, 2);
    cpu->fds = wide ? 0 : (uint16_t)load_le(image + 20, 2);
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->fx.st[i], 0, 16);
        memcpy(cpu->fx.st[i], image + OFFSET_ST + 16 * i, 10);
    }
}

static void x87_init(struct cpu *cpu, bool registers)
{
    cpu->fx.fcw = FCW_INIT;
    cpu->fx.fsw = cpu->fx.ftw = 0;
    cpu->fx.fop = cpu->fcs = cpu->fds = 0;
    cpu->fx.fip = cpu->fx.fdp = 0;
    if (registers)
        memset(cpu->fx.st, 0, sizeof(cpu->fx.st));
}

static void mxcsr_to_image(const struct cpu *cpu, uint8_t *image)
{
    store_le(image + OFFSET_MXCSR, cpu->fx.mxcsr, 4);
    store_le(image + OFFSET_MXCSR + 4, MXCSR_VALID, 4);
}

static uint32_t mxcsr_from_image(struct cpu *cpu, const uint8_t *image)
{
    uint32_t v = (uint32_t)load_le(image + OFFSET_MXCSR, 4);

    if (v & ~(uint32_t)MXCSR_VALID)
        cpu_raise_error(cpu, EXC_GP, 0);
    return v;
}

/* A part of each vector register, `size` bytes from `from`, packed. */
static void vectors_to_image(const struct cpu *cpu, uint8_t *image, unsigned first, unsigned count,
                             unsigned from, unsigned size)
{
    for (unsigned i = 0; i < count; i++)
        memcpy(image + i * size, cpu->zmm[first + i] + from, size);
}

/* image NULL: zeroes. */
static void vectors_from_image(struct cpu *cpu, const uint8_t *image, unsigned first,
                               unsigned count, unsigned from, unsigned size)
{
    for (unsigned i = 0; i < count; i++) {
        if (image)
            memcpy(cpu->zmm[first + i] + from, image + i * size, size);
        else
            memset(cpu->zmm[first + i] + from, 0, size);
    }
}

static void check_fxsave(struct cpu *cpu)
{
    require(cpu, FEATURE_FXSR);
    if (cpu->cr0 & (CR0_EM | CR0_TS))
        cpu_raise(cpu, EXC_NM);
}

/* AMD's fast FXSAVE leaves XMM alone. */
static unsigned fxsave_vectors(const struct cpu *cpu)
{
    if (cpu->efer & EFER_FFXSR && cpu->code_size == 8 && cpu->cpl == 0)
        return 0;
    return vector_count(cpu);
}

static void do_fxsave(struct cpu *cpu, const struct insn *in)
{
    unsigned vectors;
    struct area a;
    gva linear;

    check_fxsave(cpu);
    linear = aligned_operand(cpu, in, AREA_LEGACY, 16, MMU_WRITE);
    vectors = fxsave_vectors(cpu);
    a.ranges = 0;
    x87_to_image(cpu, a.bytes, in->mnemonic == ZYDIS_MNEMONIC_FXSAVE64);
    mxcsr_to_image(cpu, a.bytes);
    vectors_to_image(cpu, a.bytes + OFFSET_XMM, 0, vectors, 0, 16);
    mmu_probe(cpu, linear, AREA_LEGACY, cpu->mmu_mode, MMU_WRITE);
    area_add(&a, 0, OFFSET_XMM + 16 * vectors);
    area_store(cpu, linear, &a);
}

static void do_fxrstor(struct cpu *cpu, const struct insn *in)
{
    unsigned vectors;
    struct area a;
    gva linear;

    check_fxsave(cpu);
    linear = aligned_operand(cpu, in, AREA_LEGACY, 16, MMU_READ);
    vectors = fxsave_vectors(cpu);
    a.ranges = 0;
    mmu_probe(cpu, linear, AREA_LEGACY, cpu->mmu_mode, MMU_READ); /* all, though not all is used */
    area_add(&a, 0, OFFSET_XMM + 16 * vectors);
    area_load(cpu, linear, &a);
    cpu->fx.mxcsr = mxcsr_from_image(cpu, a.bytes);
    x87_from_image(cpu, a.bytes, in->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64);
    vectors_from_image(cpu, a.bytes + OFFSET_XMM, 0, vectors, 0, 16);
}

/* ---- XSAVE ---------------------------------------------------------------------------------- */

enum xsave_form { FORM_XSAVE, FORM_XSAVEOPT, FORM_XSAVEC, FORM_XSAVES };

static enum xsave_form xsave_form(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: return FORM_XSAVEOPT;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64: return FORM_XSAVEC;
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64: return FORM_XSAVES;
    default: return FORM_XSAVE;
    }
}

/* REX.W: 64-bit instruction pointers. */
static bool xsave_wide(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS64: return true;
    default: return false;
    }
}

static void check_xsave(struct cpu *cpu, enum xsave_form form)
{
    static const uint16_t features[] = {FEATURE_XSAVE, FEATURE_XSAVEOPT, FEATURE_XSAVEC,
                                        FEATURE_XSAVES};

    require(cpu, features[form]);
    if (!(cpu->cr4 & CR4_OSXSAVE))
        cpu_raise(cpu, EXC_UD);
    if (cpu->cr0 & CR0_TS)
        cpu_raise(cpu, EXC_NM);
    if (form == FORM_XSAVES && cpu->cpl)
        cpu_raise_error(cpu, EXC_GP, 0);
}

static bool all_zero(const uint8_t *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (p[i])
            return false;
    return true;
}

static bool vectors_zero(const struct cpu *cpu, unsigned first, unsigned count, unsigned from,
                         unsigned size)
{
    for (unsigned i = first; i < first + count; i++)
        if (!all_zero(cpu->zmm[i] + from, size))
            return false;
    return true;
}

/* XINUSE: components that are not in their initial configuration. */
uint64_t components_in_use(const struct cpu *cpu)
{
    const struct fx_image *fx = &cpu->fx;
    uint64_t in_use = 0;

    if (fx->fcw != FCW_INIT || fx->fsw || fx->ftw || fx->fop || fx->fip || fx->fdp || cpu->fcs ||
        cpu->fds || !all_zero(fx->st[0], sizeof(fx->st)))
        in_use |= XCR0_X87;
    if (!vectors_zero(cpu, 0, 16, 0, 16))
        in_use |= XCR0_SSE;
    if (!vectors_zero(cpu, 0, 16, 16, 16))
        in_use |= XCR0_AVX;
    if (!all_zero((const uint8_t *)cpu->k, sizeof(cpu->k)))
        in_use |= XCR0_OPMASK;
    if (!vectors_zero(cpu, 0, 16, 32, 32))
        in_use |= XCR0_ZMM_HI256;
    if (!vectors_zero(cpu, 16, 16, 0, 64))
        in_use |= XCR0_HI16_ZMM;
    return in_use;
}

/* Where component n >= 2 lies; `present` is what a compacted image holds, 0 for the standard
 * format. A model whose layout does not fit is a mistake of ours: such a component is skipped. */
static unsigned component_offset(const struct cpu *cpu, unsigned n, uint64_t present)
{
    unsigned offset = AREA_LEGACY + AREA_HEADER;

    if (!present)
        return cpu->model->xsave[n].offset;
    for (unsigned i = 2; i < n; i++)
        if (present >> i & 1)
            offset += cpu->model->xsave[i].size;
    return offset;
}

/* Bytes of component n that this mode transfers. */
static unsigned component_size(const struct cpu *cpu, unsigned n)
{
    switch (n) {
    case 2: return 16 * vector_count(cpu);
    case 5: return sizeof(cpu->k);
    case 6: return 32 * vector_count(cpu);
    case 7: return cpu->code_size == 8 ? 16 * 64 : 0;
    default: return 0;
    }
}

static void component_to_image(const struct cpu *cpu, unsigned n, uint8_t *image)
{
    switch (n) {
    case 2: vectors_to_image(cpu, image, 0, vector_count(cpu), 16, 16); break;
    case 5: memcpy(image, cpu->k, sizeof(cpu->k)); break;
    case 6: vectors_to_image(cpu, image, 0, vector_count(cpu), 32, 32); break;
    case 7:
        if (cpu->code_size == 8)
            vectors_to_image(cpu, image, 16, 16, 0, 64);
        break;
    default: break;
    }
}

/* image NULL: the initial configuration. */
static void component_from_image(struct cpu *cpu, unsigned n, const uint8_t *image)
{
    switch (n) {
    case 2: vectors_from_image(cpu, image, 0, vector_count(cpu), 16, 16); break;
    case 5:
        if (image)
            memcpy(cpu->k, image, sizeof(cpu->k));
        else
            memset(cpu->k, 0, sizeof(cpu->k));
        break;
    case 6: vectors_from_image(cpu, image, 0, vector_count(cpu), 32, 32); break;
    case 7:
        if (cpu->code_size == 8)
            vectors_from_image(cpu, image, 16, 16, 0, 64);
        break;
    default: break;
    }
}

static uint64_t requested(const struct cpu *cpu)
{
    uint64_t mask = (uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32;

    return cpu->xcr0 & mask & XCR0_KNOWN;
}

static void do_xsave(struct cpu *cpu, const struct insn *in)
{
    enum xsave_form form = xsave_form(in->mnemonic);
    bool compact = form == FORM_XSAVEC || form == FORM_XSAVES;
    uint64_t want = requested(cpu), in_use = components_in_use(cpu), write, header[8] = {0};
    struct area a;
    gva linear;

    check_xsave(cpu, form);
    linear = aligned_operand(cpu, in, AREA_LEGACY + AREA_HEADER, 64, MMU_WRITE);
    a.ranges = 0;
    if (compact && cpu->fx.mxcsr != MXCSR_INIT)
        in_use |= XCR0_SSE; /* there MXCSR is part of the SSE component */
    write = form == FORM_XSAVE ? want : want & in_use;

    if (write & XCR0_X87) {
        x87_to_image(cpu, a.bytes, xsave_wide(in->mnemonic));
        area_add(&a, 0, OFFSET_MXCSR);
        area_add(&a, OFFSET_ST, OFFSET_XMM - OFFSET_ST);
    }
    if (compact ? write & XCR0_SSE : want & (XCR0_SSE | XCR0_AVX)) {
        mxcsr_to_image(cpu, a.bytes);
        area_add(&a, OFFSET_MXCSR, 8);
    }
    if (write & XCR0_SSE) {
        vectors_to_image(cpu, a.bytes + OFFSET_XMM, 0, vector_count(cpu), 0, 16);
        area_add(&a, OFFSET_XMM, 16 * vector_count(cpu));
    }
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        unsigned offset = component_offset(cpu, n, compact ? want | XCOMP_COMPACT : 0);

        if (!(write >> n & 1) || !range_within(offset, component_size(cpu, n), AREA_MAX))
            continue;
        component_to_image(cpu, n, a.bytes + offset);
        area_add(&a, offset, component_size(cpu, n));
    }
    if (compact) {
        header[0] = want & in_use;
        header[1] = want | XCOMP_COMPACT;
    } else {
        mmu_load_bytes(cpu, linear + AREA_LEGACY, header, 8, cpu->mmu_mode);
        header[0] = (header[0] & ~want) | (want & in_use);
    }
    /* The standard format writes XSTATE_BV alone, the compacted one XCOMP_BV too. */
    memcpy(a.bytes + AREA_LEGACY, header, 16);
    area_add(&a, AREA_LEGACY, compact ? 16 : 8);
    area_check(cpu, in, &a, MMU_WRITE);
    area_store(cpu, linear, &a);
}

static void do_xrstor(struct cpu *cpu, const struct insn *in)
{
    enum xsave_form form = xsave_form(in->mnemonic);
    uint64_t want = requested(cpu), header[8], have;
    uint32_t mxcsr = cpu->fx.mxcsr;
    bool compact, bad;
    struct area a;
    gva linear;

    check_xsave(cpu, form);
    linear = aligned_operand(cpu, in, AREA_LEGACY + AREA_HEADER, 64, MMU_READ);
    mmu_load_bytes(cpu, linear + AREA_LEGACY, header, sizeof(header), cpu->mmu_mode);
    compact = (header[1] & XCOMP_COMPACT) != 0;
    if (compact)
        bad = (form == FORM_XSAVE && !cpu_has(cpu, FEATURE_XSAVEC)) ||
              header[1] & ~XCOMP_COMPACT & ~cpu->xcr0 || header[0] & ~header[1] ||
              !all_zero((const uint8_t *)&header[2], sizeof(header) - 16);
    else
        bad = form == FORM_XSAVES || header[1] || header[2] || header[0] & ~cpu->xcr0;
    if (bad)
        cpu_raise_error(cpu, EXC_GP, 0);

    have = want & header[0];
    a.ranges = 0;
    if (have & XCR0_X87)
        area_add(&a, 0, OFFSET_XMM);
    if (compact ? have & XCR0_SSE : want & (XCR0_SSE | XCR0_AVX))
        area_add(&a, OFFSET_MXCSR, 8);
    if (have & XCR0_SSE)
        area_add(&a, OFFSET_XMM, 16 * vector_count(cpu));
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        unsigned offset = component_offset(cpu, n, compact ? header[1] : 0);

        if (!range_within(offset, component_size(cpu, n), AREA_MAX))
            have &= ~BIT(n), want &= ~BIT(n);
        else if (have >> n & 1)
            area_add(&a, offset, component_size(cpu, n));
    }
    area_check(cpu, in, &a, MMU_READ);
    area_load(cpu, linear, &a);
    if (compact ? have & XCR0_SSE : want & (XCR0_SSE | XCR0_AVX))
        mxcsr = mxcsr_from_image(cpu, a.bytes);
    else if (compact && want & XCR0_SSE)
        mxcsr = MXCSR_INIT;

    cpu->fx.mxcsr = mxcsr;
    if (have & XCR0_X87)
        x87_from_image(cpu, a.bytes, xsave_wide(in->mnemonic));
    else if (want & XCR0_X87)
        x87_init(cpu, true);
    if (want & XCR0_SSE)
        vectors_from_image(cpu, have & XCR0_SSE ? a.bytes + OFFSET_XMM : NULL, 0, vector_count(cpu),
                           0, 16);
    for (unsigned n = 2; n < XSAVE_COMPONENTS; n++) {
        unsigned offset = component_offset(cpu, n, compact ? header[1] : 0);

        if (want >> n & 1)
            component_from_image(cpu, n, have >> n & 1 ? a.bytes + offset : NULL);
    }
}

/* ---- x87 environment ------------------------------------------------------------------------ */

enum { ENV_WORD = 14, ENV_DWORD = 28, ST_SIZE = 10 };

static void check_x87(struct cpu *cpu)
{
    if (cpu->cr0 & (CR0_EM | CR0_TS))
        cpu_raise(cpu, EXC_NM);
}

static bool env_real(const struct cpu *cpu)
{
    return !cpu_protected(cpu) || cpu_in_vm86(cpu);
}

/* The tag word with two bits for each register: 0 valid, 1 zero, 2 special, 3 empty. */
static uint16_t full_tags(const struct cpu *cpu)
{
    unsigned top = cpu->fx.fsw >> 11 & 7;
    uint16_t tags = 0;

    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = cpu->fx.st[(i - top) & 7];
        uint64_t mantissa = load_le(st, 8);
        unsigned exponent = load_le(st + 8, 2) & 0x7fff, tag;

        if (!(cpu->fx.ftw >> i & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= (uint16_t)(tag << 2 * i);
    }
    return tags;
}

static unsigned env_to_image(const struct cpu *cpu, uint8_t *image, unsigned operand_size)
{
    uint32_t fip = (uint32_t)cpu->fx.fip, fdp = (uint32_t)cpu->fx.fdp;
    uint16_t field[7] = {cpu->fx.fcw, cpu->fx.fsw,   full_tags(cpu), (uint16_t)fip,
                         cpu->fcs,    (uint16_t)fdp, cpu->fds};

    if (env_real(cpu)) {
        fip += cpu->fcs * 16u;
        fdp += cpu->fds * 16u;
        field[3] = (uint16_t)fip;
        field[4] = (uint16_t)((fip >> 4 & 0xf000) | cpu->fx.fop);
        field[5] = (uint16_t)fdp;
        field[6] = (uint16_t)(fdp >> 4 & 0xf000);
    }
    if (operand_size == 2) {
        memcpy(image, field, sizeof(field));
        return ENV_WORD;
    }
    for (unsigned i = 0; i < 7; i++)
        store_le(image + 4 * i, 0xffff0000u | field[i], 4);
    if (env_real(cpu)) {
        store_le(image + 16, (fip >> 16 << 12) | cpu->fx.fop, 4);
        store_le(image + 24, fdp >> 16 << 12, 4);
    } else {
        store_le(image + 12, fip, 4);
        store_le(image + 16, cpu->fcs | (uint32_t)cpu->fx.fop << 16, 4);
        store_le(image + 20, fdp, 4);
    }
    return ENV_DWORD;
}

static void env_from_image(struct cpu *cpu, const uint8_t *image, unsigned operand_size)
{
    unsigned step = operand_size == 2 ? 2 : 4;
    uint32_t field[7];

    for (unsigned i = 0; i < 7; i++)
        field[i] = (uint32_t)load_le(image + step * i, step);
    x87_turn(cpu, field[1] >> 11 & 7);
    cpu->fx.fcw = fcw_valid((uint16_t)field[0]);
    cpu->fx.fsw = fpu_summary((uint16_t)field[1], cpu->fx.fcw);
    cpu->fx.ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((field[2] >> 2 * i & 3) != 3)
            cpu->fx.ftw |= (uint8_t)(1 << i);
    if (env_real(cpu)) {
        uint32_t mask = step == 2 ? 0xf000 : 0xffff000;

        cpu->fx.fip = (field[3] & 0xffff) | (field[4] & mask) << 4;
        cpu->fx.fdp = (field[5] & 0xffff) | (field[6] & mask) << 4;
        cpu->fx.fop = field[4] & 0x7ff;
        cpu->fcs = cpu->fds = 0;
        return;
    }
    cpu->fx.fip = field[3];
    cpu->fcs = (uint16_t)field[4];
    cpu->fx.fop = step == 2 ? 0 : field[4] >> 16 & 0x7ff;
    cpu->fx.fdp = field[5];
    cpu->fds = (uint16_t)field[6];
}

static unsigned env_size(const struct insn *in)
{
    return in->operand_size == 2 ? ENV_WORD : ENV_DWORD;
}

static void do_fnstenv(struct cpu *cpu, const struct insn *in)
{
    struct area a = {.ranges = 0};
    gva linear;

    check_x87(cpu);
    linear = insn_linear(cpu, in, env_size(in), MMU_WRITE);
    area_add(&a, 0, env_to_image(cpu, a.bytes, in->operand_size));
    area_store(cpu, linear, &a);
    cpu->fx.fcw |= 0x3f;
    cpu->fx.fsw = fpu_summary(cpu->fx.fsw, cpu->fx.fcw);
}

static void do_fldenv(struct cpu *cpu, const struct insn *in)
{
    uint8_t image[ENV_DWORD];

    check_x87(cpu);
    simd_check_pending(cpu);
    mmu_load_bytes(cpu, insn_linear(cpu, in, env_size(in), MMU_READ), image, env_size(in),
                   cpu->mmu_mode);
    env_from_image(cpu, image, in->operand_size);
}

static void do_fnsave(struct cpu *cpu, const struct insn *in)
{
    unsigned env = env_size(in), size = env + 8 * ST_SIZE;
    struct area a = {.ranges = 0};
    gva linear;

    check_x87(cpu);
    linear = insn_linear(cpu, in, size, MMU_WRITE);
    env_to_image(cpu, a.bytes, in->operand_size);
    for (unsigned i = 0; i < 8; i++)
        memcpy(a.bytes + env + ST_SIZE * i, cpu->fx.st[i], ST_SIZE);
    area_add(&a, 0, size);
    area_store(cpu, linear, &a);
    x87_turn(cpu, 0);
    x87_init(cpu, false);
}

static void do_frstor(struct cpu *cpu, const struct insn *in)
{
    unsigned env = env_size(in), size = env + 8 * ST_SIZE;
    struct area a = {.ranges = 0};
    gva linear;

    check_x87(cpu);
    simd_check_pending(cpu);
    linear = insn_linear(cpu, in, size, MMU_READ);
    area_add(&a, 0, size);
    area_load(cpu, linear, &a);
    env_from_image(cpu, a.bytes, in->operand_size);
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->fx.st[i], 0, 16);
        memcpy(cpu->fx.st[i], a.bytes + env + ST_SIZE * i, ST_SIZE);
    }
}

/* ---- x87 control ---------------------------------------------------------------------------- */

static void do_fninit(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
    x87_turn(cpu, 0);
    x87_init(cpu, false);
}

/* FNENI, FNDISI, FNSETPM: control instructions of the 8087 and 80287, no-operations since. They do
 * not wait for exceptions. */
static void do_fnop_8087(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
}

static void do_fnclex(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
    cpu->fx.fsw &= 0x7f00;
}

static void do_fwait(struct cpu *cpu, const struct insn *in)
{
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        cpu_raise(cpu, EXC_NM);
    simd_check_pending(cpu);
}

static void do_fnstsw(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
    operand_write(cpu, in, 0, cpu->fx.fsw);
}

static void do_fnstcw(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
    operand_write(cpu, in, 0, cpu->fx.fcw);
}

static void do_fldcw(struct cpu *cpu, const struct insn *in)
{
    check_x87(cpu);
    simd_check_pending(cpu);
    cpu->fx.fcw = fcw_valid((uint16_t)operand_read(cpu, in, 0));
    cpu->fx.fsw = fpu_summary(cpu->fx.fsw, cpu->fx.fcw);
}

static void do_emms(struct cpu *cpu, const struct insn *in)
{
    require(cpu, FEATURE_MMX);
    simd_check_class(cpu, SIMD_MMX);
    x87_turn(cpu, 0);
    cpu->fx.fsw &= ~0x3800;
    cpu->fx.ftw = 0;
}

/* ---- MXCSR ---------------------------------------------------------------------------------- */

static void check_mxcsr(struct cpu *cpu, const struct insn *in)
{
    bool vex = in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || in->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;

    require(cpu, vex ? FEATURE_AVX : FEATURE_SSE);
    simd_check_class(cpu, vex ? SIMD_AVX : SIMD_SSE);
}

static void do_ldmxcsr(struct cpu *cpu, const struct insn *in)
{
    uint64_t value;

    check_mxcsr(cpu, in);
    value = operand_read(cpu, in, 0);
    if (value & ~(uint64_t)MXCSR_VALID)
        cpu_raise_error(cpu, EXC_GP, 0);
    cpu->fx.mxcsr = (uint32_t)value;
}

static void do_stmxcsr(struct cpu *cpu, const struct insn *in)
{
    check_mxcsr(cpu, in);
    operand_write(cpu, in, 0, cpu->fx.mxcsr);
}

const struct insn_row insn_state[] = {
    {ZYDIS_MNEMONIC_FXSAVE, do_fxsave},
    {ZYDIS_MNEMONIC_FXSAVE64, do_fxsave},
    {ZYDIS_MNEMONIC_FXRSTOR, do_fxrstor},
    {ZYDIS_MNEMONIC_FXRSTOR64, do_fxrstor},
    {ZYDIS_MNEMONIC_XSAVE, do_xsave},
    {ZYDIS_MNEMONIC_XSAVE64, do_xsave},
    {ZYDIS_MNEMONIC_XSAVEOPT, do_xsave},
    {ZYDIS_MNEMONIC_XSAVEOPT64, do_xsave},
    {ZYDIS_MNEMONIC_XSAVEC, do_xsave},
    {ZYDIS_MNEMONIC_XSAVEC64, do_xsave},
    {ZYDIS_MNEMONIC_XSAVES, do_xsave},
    {ZYDIS_MNEMONIC_XSAVES64, do_xsave},
    {ZYDIS_MNEMONIC_XRSTOR, do_xrstor},
    {ZYDIS_MNEMONIC_XRSTOR64, do_xrstor},
    {ZYDIS_MNEMONIC_XRSTORS, do_xrstor},
    {ZYDIS_MNEMONIC_XRSTORS64, do_xrstor},
    {ZYDIS_MNEMONIC_FNSTENV, do_fnstenv},
    {ZYDIS_MNEMONIC_FLDENV, do_fldenv},
    {ZYDIS_MNEMONIC_FNSAVE, do_fnsave},
    {ZYDIS_MNEMONIC_FRSTOR, do_frstor},
    {ZYDIS_MNEMONIC_FENI8087_NOP, do_fnop_8087},
    {ZYDIS_MNEMONIC_FDISI8087_NOP, do_fnop_8087},
    {ZYDIS_MNEMONIC_FSETPM287_NOP, do_fnop_8087},
    {ZYDIS_MNEMONIC_FNINIT, do_fninit},
    {ZYDIS_MNEMONIC_FNCLEX, do_fnclex},
    {ZYDIS_MNEMONIC_FWAIT, do_fwait},
    {ZYDIS_MNEMONIC_FNSTSW, do_fnstsw},
    {ZYDIS_MNEMONIC_FNSTCW, do_fnstcw},
    {ZYDIS_MNEMONIC_FLDCW, do_fldcw},
    {ZYDIS_MNEMONIC_EMMS, do_emms},
    {ZYDIS_MNEMONIC_LDMXCSR, do_ldmxcsr},
    {ZYDIS_MNEMONIC_VLDMXCSR, do_ldmxcsr},
    {ZYDIS_MNEMONIC_STMXCSR, do_stmxcsr},
    {ZYDIS_MNEMONIC_VSTMXCSR, do_stmxcsr},
    {ZYDIS_MNEMONIC_INVALID, NULL},
};
