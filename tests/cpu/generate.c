/*
 * generate.c - test cases from numbers.
 *
 * At the start every opcode of every map is tried with every prefix, W, L and ModRM.reg, and what
 * Zydis accepts becomes a template. A case picks a class, a mnemonic of it, a template of that,
 * each with equal chance, so rare mnemonics come as often as MOV; then fills in what the template
 * leaves open: registers, memory form, masks, immediates, needless prefixes. Some instructions
 * are made of plain random bytes, and some are invalid on purpose.
 *
 * Random addresses would nearly always fault. So after choosing a memory operand the registers it
 * uses are given values that lead into the arena, if nothing earlier in the sequence fixed or
 * wrote them.
 */
#include "maker.h"

#include <stdlib.h>
#include <strings.h>

enum { PROBES = 12 /* at most BATCH */, STRAIGHT_INSNS = 8 };

/* How often each class is picked, of 100; what is left is random bytes. */
static const uint8_t class_percent[CLASSES] = {45, 3, 10, 12, 10, 12, 3}; /* the rest: bytes */

const struct ldt_entry oracle_ldt[ORACLE_LDT_SIZE] = {
    {.base = ARENA, .limit = 0xffff, .is_32 = 1, .avl = 1},
    {.base = ARENA, .limit = 0xffff},
    {.base = ARENA, .limit = 0xffff, .contents = 2},
    {.limit = 0xfffff, .is_32 = 1, .contents = 2, .in_pages = 1},
    {.base = ARENA, .limit = 0x3fff, .is_32 = 1, .read_exec_only = 1},
    {.base = ARENA, .limit = 0x0fff, .is_32 = 1, .contents = 1},
    {.limit = 0xfffff, .is_32 = 1, .in_pages = 1},
    {.base = ARENA, .limit = 0xffff, .is_32 = 1, .absent = 1},
    {.limit = 0xfffff, .is_32 = 1, .contents = 2, .read_exec_only = 1, .in_pages = 1},
    {.base = ARENA, .limit = 0x1fff},
};

bool mnemonic_excluded(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_SYSCALL: /* leave the sandbox, or try to */
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_RDTSC: /* not the same twice */
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_SGDT: /* the kernel's tables; emulated by Linux under UMIP */
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_VMCALL: /* hypervisors answer these themselves */
    case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_VMRUN:
    case ZYDIS_MNEMONIC_VMLOAD:
    case ZYDIS_MNEMONIC_VMSAVE:
    case ZYDIS_MNEMONIC_CLGI:
    case ZYDIS_MNEMONIC_STGI:
    case ZYDIS_MNEMONIC_SKINIT:
    case ZYDIS_MNEMONIC_INVLPGA:
    case ZYDIS_MNEMONIC_PVALIDATE:
    case ZYDIS_MNEMONIC_SYSEXIT: /* no two vendors agree what long mode makes of it */
    case ZYDIS_MNEMONIC_SEAMCALL:
    case ZYDIS_MNEMONIC_TDCALL:
    case ZYDIS_MNEMONIC_MONITORX: /* wait, or depend on what the hypervisor intercepts */
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_MCOMMIT:
    case ZYDIS_MNEMONIC_INT1:   /* KVM on AMD reports it at the wrong address */
    case ZYDIS_MNEMONIC_XBEGIN: /* aborts as it likes */
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE: return true;
    default: return false;
    }
}

void decoder_init(ZydisDecoder *d, unsigned mode)
{
    if (mode == 64)
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (mode == 32)
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(d, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
}

bool selector_is_16(uint16_t selector)
{
    return selector & 4 && selector >> 3 < ORACLE_LDT_SIZE && !oracle_ldt[selector >> 3].is_32;
}

uint64_t image_address(unsigned offset)
{
    if (offset < IMAGE_LOW_PAGES * PAGE)
        return ARENA + (uint64_t)ARENA_DATA * PAGE + offset;
    if (offset < IMAGE_OPEN)
        return ARENA_HIGH + (offset - (uint64_t)IMAGE_LOW_PAGES * PAGE);
    return OPEN_BASE + (offset - (uint64_t)IMAGE_OPEN);
}

int image_offset(uint64_t address)
{
    uint64_t low = address - (ARENA + (uint64_t)ARENA_DATA * PAGE);

    if (low < (uint64_t)IMAGE_LOW_PAGES * PAGE)
        return (int)low;
    if (address - ARENA_HIGH < (uint64_t)HIGH_PAGES * PAGE)
        return (int)(address - ARENA_HIGH) + IMAGE_LOW_PAGES * PAGE;
    if (address - OPEN_BASE < (uint64_t)ARENA_CODE_PAGES * PAGE)
        return (int)(address - OPEN_BASE) + IMAGE_OPEN;
    return -1;
}

/* ---- templates ----------------------------------------------------------------------------- */

static enum class class_of(const ZydisDecodedInstruction *in) {
    if (in->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) return CLASS_SYSTEM;
    if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) return CLASS_EVEX;
    switch (in->meta.category){
        case ZYDIS_CATEGORY_X87_ALU : return CLASS_X87;
        case ZYDIS_CATEGORY_KMASK : return CLASS_MASK;
        case ZYDIS_CATEGORY_BMI1 : case ZYDIS_CATEGORY_BMI2 : return CLASS_INTEGER;
        case ZYDIS_CATEGORY_SYSTEM : case ZYDIS_CATEGORY_IO : case ZYDIS_CATEGORY_IOSTRINGOP : case
        ZYDIS_CATEGORY_INTERRUPT : case ZYDIS_CATEGORY_SYSCALL : case ZYDIS_CATEGORY_SYSRET : case
        ZYDIS_CATEGORY_VTX : case ZYDIS_CATEGORY_CET : return CLASS_SYSTEM;
        default : break;
    }
if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return CLASS_VEX;
switch (in->meta.isa_ext) {
case ZYDIS_ISA_EXT_X87: return CLASS_X87;
case ZYDIS_ISA_EXT_MMX:
case ZYDIS_ISA_EXT_SSE:
case ZYDIS_ISA_EXT_SSE2:
case ZYDIS_ISA_EXT_SSE3:
case ZYDIS_ISA_EXT_SSSE3:
case ZYDIS_ISA_EXT_SSE4:
case ZYDIS_ISA_EXT_SSE4A:
case ZYDIS_ISA_EXT_AES:
case ZYDIS_ISA_EXT_SHA:
case ZYDIS_ISA_EXT_GFNI:
case ZYDIS_ISA_EXT_PCLMULQDQ: return CLASS_SSE;
default: return CLASS_INTEGER;
}
}

static bool is_3dnow_or_foreign(const ZydisDecodedInstruction *in)
{
    return in->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
           in->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP ||
           in->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
           in->meta.isa_ext == ZYDIS_ISA_EXT_PADLOCK;
}

static bool mnemonic_matches(ZydisMnemonic m, const char *filter)
{
    const char *name = ZydisMnemonicGetString(m);

    return !filter || (name && !strcasecmp(name, filter));
}

/* The bytes of a template up to ModRM, with no liberties taken. */
static unsigned template_bytes(const struct template *t, unsigned mode, uint8_t *b)
{
    static const uint8_t legacy_prefix[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0;

    switch (t->encoding) {
    case LEGACY:
        if (t->pp)
            b[n++] = legacy_prefix[t->pp];
        if (t->w)
            b[n++] = 0x48;
        if (t->map) {
            b[n++] = 0x0f;
            if (t->map > 1)
                b[n++] = t->map == 2 ? 0x38 : 0x3a;
        }
        break;
    case VEX:
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(0xe0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x78 | t->l << 2 | t->pp);
        break;
    default:
        b[n++] = 0x62;
        b[n++] = (uint8_t)(0xf0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x7c | t->pp);
        b[n++] = (uint8_t)(t->l << 5 | 0x08);
        break;
    }
    b[n++] = t->opcode;
    b[n++] = t->modrm;
    (void)mode;
    return n;
}

/* Must this be the last one: what it stores is partly undefined, or it goes elsewhere? */
static bool must_end(const ZydisDecodedInstruction *in)
{
    switch (in->meta.category) {
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT: return true;
    default: break;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: return true;
    default: return (in->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0;
    }
}

/* Those that a shape has its own of, or that end a case. */
static bool never_suits(const ZydisDecodedInstruction *in)
{
    switch (in->meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP: return true;
    default: return must_end(in);
    }
}

struct built {
    struct template t;
    uint8_t class;
};

static void consider(struct generator *g, struct built **all, struct template t,
                     const struct generator_options *o)
{
    uint8_t bytes[16];
    unsigned n = template_bytes(&t, g->mode, bytes);
    ZydisDecodedInstruction in;

    memset(bytes + n, 0x11, sizeof(bytes) - n);
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeInstruction(&g->decoder, NULL, bytes, sizeof(bytes), &in))) {
        /* A vvvv operand that must not be all ones would be a second thing to try: gathers and
         * scatters want a mask. */
        if (t.encoding != EVEX)
            return;
        bytes[3] |= 1;
        if (!ZYAN_SUCCESS(
                ZydisDecoderDecodeInstruction(&g->decoder, NULL, bytes, sizeof(bytes), &in)))
            return;
    }
    /* What the bytes are a shorter spelling of has its own template. */
    if (mnemonic_excluded(in.mnemonic) || is_3dnow_or_foreign(&in) ||
        !mnemonic_matches(in.mnemonic, o->filter) || in.raw.prefix_count > 2)
        return;
    t.has_modrm = (in.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    if (!t.has_modrm && (t.modrm & 0xf8))
        return;
    t.mnemonic = (uint16_t)in.mnemonic;
    if (g->count == g->capacity) {
        g->capacity = g->capacity ? g->capacity * 2 : 4096;
        *all = realloc(*all, g->capacity * sizeof(**all));
        if (!*all)
            abort();
    }
    (*all)[g->count].t = t;
    (*all)[g->count++].class = (uint8_t)class_of(&in);
    g->has[in.mnemonic] = true;
    g->unsuited[in.mnemonic] = never_suits(&in);
}

static int built_order(const void *a, const void *b)
{
    const struct built *x = a, *y = b;

    if (x->class != y->class)
        return x->class - y->class;
    if (x->t.mnemonic != y->t.mnemonic)
        return x->t.mnemonic - y->t.mnemonic;
    return memcmp(&x->t, &y->t, sizeof(x->t));
}

static void enumerate(struct generator *g, struct built **all, const struct generator_options *o)
{
    for (unsigned i = 0; i < 4 * 256; i++) {
        struct template t = {.encoding = LEGACY, .map = (uint8_t)(i >> 8), .opcode = (uint8_t)i};
        bool by_rm = (t.map == 0 && (i & 0xf8) == 0xd8) ||
                     (t.map == 1 && (t.opcode == 0x01 || t.opcode == 0xae || t.opcode == 0xc7));

        if (t.map == 1 && t.opcode == 0x0f)
            continue;
        if (t.map == 0 &&
            (t.opcode == 0x0f || t.opcode == 0x66 || t.opcode == 0x67 ||
             (t.opcode & 0xfe) == 0xf2 || t.opcode == 0xf0 || (t.opcode & 0xe7) == 0x26 ||
             (t.opcode & 0xfe) == 0x64 || (g->mode == 64 && (t.opcode & 0xf0) == 0x40)))
            continue; /* prefixes */
        for (t.pp = 0; t.pp < 4; t.pp++)
            for (t.w = 0; t.w < (g->mode == 64 ? 2 : 1); t.w++)
                for (unsigned m = 0; m < 8 * 9; m++) {
                    unsigned reg = m / 9, form = m % 9; /* 0: memory, 1 + rm: register */

                    if (form > 1 && !by_rm && t.map)
                        continue;
                    if (form > 1 && !by_rm)
                        continue;
                    t.modrm = (uint8_t)(reg << 3 | (form ? 0xc0 | (form - 1) : 0));
                    t.fixed_rm = by_rm && form;
                    consider(g, all, t, o);
                }
    }
    for (unsigned i = 0; i < 2 * 6 * 256; i++) {
        struct template t = {.encoding = (i & 1) ? EVEX : VEX, .opcode = (uint8_t)(i >> 1)};

        t.map = (uint8_t)(1 + (i >> 9));
        if (t.encoding == VEX && t.map > 3)
            continue;
        for (unsigned f = 0; f < 4 * 2 * 4 * 16; f++) {
            t.pp = f & 3;
            t.w = f >> 2 & 1;
            t.l = f >> 3 & 3;
            t.modrm = (uint8_t)((f >> 5 & 7) << 3 | (f >> 8 ? 0xc0 : 0));
            if (t.encoding == VEX && t.l > 1)
                continue;
            consider(g, all, t, o);
        }
    }
}

struct generator *generator_new(unsigned mode, const struct generator_options *o)
{
    struct generator *g = xcalloc(1, sizeof(*g));
    struct built *all = NULL;

    g->mode = mode;
    g->seed = o->seed;
    g->filtered = o->filter != NULL;
    g->shape = o->shape;
    decoder_init(&g->decoder, mode);
    enumerate(g, &all, o);
    if (!g->count) {
        free(all);
        free(g);
        return NULL;
    }
    qsort(all, g->count, sizeof(*all), built_order);
    g->templates = xcalloc(g->count, sizeof(*g->templates));
    for (uint32_t i = 0; i < g->count; i++) {
        unsigned class = all[i].class;
        struct mnemonic_list *last;

        g->templates[i] = all[i].t;
        if (!g->list[class])
            g->list[class] = xcalloc(ZYDIS_MNEMONIC_MAX_VALUE + 1, sizeof(**g->list));
        if (!i || all[i - 1].class != class || all[i - 1].t.mnemonic != all[i].t.mnemonic)
            g->list[class][g->listed[class]++] =
                (struct mnemonic_list){.mnemonic = all[i].t.mnemonic, .first = i};
        last = &g->list[class][g->listed[class] - 1];
        last->count++;
    }
    free(all);
    for (unsigned i = 0; i < g->listed[CLASS_INTEGER]; i++)
        g->by_mnemonic[g->list[CLASS_INTEGER][i].mnemonic] = &g->list[CLASS_INTEGER][i];
    return g;
}

/*
 * What the host always answers with #UD is of little interest; find out by trying. Only how often
 * it is chosen depends on this.
 */
int generator_probe(struct generator *g, struct error *err)
{
    struct test_case *c = native_cases();

    for (unsigned class = 0; class < CLASSES; class ++)
        for (unsigned i = 0; i < g->listed[class]; i++) {
            struct mnemonic_list *l = &g->list[class][i];
            unsigned alien = 0;
            int r;

            g->only = l;
            for (unsigned n = 0; n < PROBES; n++)
                generator_make(g, n, &c[n]);
            g->only = NULL;
            r = native_run(PROBES, err);
            if (r < 0)
                return r;
            for (unsigned n = 0; n < PROBES; n++) {
                const struct outcome *o = &native_outcomes()[n];

                /* A fetch beyond the end of the code says nothing. */
                alien += c[n].insns == 0 || o->status != RAN ||
                         (o->out.rip == c[n].in.rip &&
                          (o->vector == EXC_UD || (o->vector == EXC_PF && o->error & PF_I)));
            }
            l->foreign = alien == PROBES;
        }
    return 0;
}

void generator_free(struct generator *g)
{
    if (!g)
        return;
    for (unsigned i = 0; i < CLASSES; i++)
        free(g->list[i]);
    free(g->templates);
    free(g);
}

const bool *generator_mnemonics(const struct generator *g)
{
    return g->has;
}

/* ---- values -------------------------------------------------------------------------------- */

static uint64_t corner_integer(struct rng *r)
{
    static const uint64_t corner[] = {
        0,
        1,
        ~UINT64_C(0),
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        INT64_MAX,
        (uint64_t)INT64_MIN,
        0x8080808080808080,
        0x0101010101010101,
        0x7fff7fff7fff7fff,
        0x8000800080008000,
        0x8000000080000000,
    };

    return corner[rng_below(r, ARRAY_SIZE(corner))];
}

static uint64_t corner_double(struct rng *r)
{
    static const uint64_t corner[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000, /* 1 */
        0xbff0000000000000,
        0x7ff0000000000000, /* infinity */
        0xfff0000000000000,
        0x7ff8000000000000, /* quiet */
        0x7ff0000000000001, /* signalling */
        0xfff8000000001234,
        1, /* denormal */
        0x800fffffffffffff,
        0x0010000000000000, /* smallest normal */
        0x7fefffffffffffff,
        0x41dfffffffc00000, /* INT32_MAX */
        0xc1e0000000000000,
        0x43e0000000000000, /* 2^63 */
        0x3fe0000000000000,
        0x4008000000000000,
        0x36a0000000000000, /* becomes a denormal float */
    };

    if (rng_percent(r, 40)) /* moderate size */
        return (rng_next(r) & 0x800fffffffffffff) | (uint64_t)(1023 - 8 + rng_below(r, 40)) << 52;
    return corner[rng_below(r, ARRAY_SIZE(corner))];
}

static uint32_t corner_float(struct rng *r)
{
    static const uint32_t corner[] = {
        0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
        0x7fc00000, 0x7f800001, 0xffc01234, 1,          0x807fffff, 0x00800000,
        0x7f7fffff, 0x4effffff, 0x4f000000, 0xcf000000, 0x3f000000, 0x40400000,
    };

    if (rng_percent(r, 40))
        return ((uint32_t)rng_next(r) & 0x807fffff) | (127 - 8 + rng_below(r, 40)) << 23;
    return corner[rng_below(r, ARRAY_SIZE(corner))];
}

/* An address, as an offset into the arena: edges and alignments more often than the middle. */
static uint64_t arena_offset(struct rng *r)
{
    static const uint8_t page[] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 5, 3, 3};
    uint64_t base = (uint64_t)page[rng_below(r, sizeof(page))] * PAGE;
    unsigned kind = rng_below(r, 100);

    if (kind < 50)
        return base + (rng_below(r, PAGE) & ~63u);
    if (kind < 80)
        return base + rng_below(r, PAGE);
    if (kind < 95)
        return base + PAGE - rng_below(r, 65);
    return rng_below(r, ARENA_PAGES * PAGE);
}

uint64_t arena_address(struct rng *r, unsigned mode)
{
    if (mode == 64 && rng_percent(r, 20))
        return ARENA_HIGH +
               (rng_percent(r, 50) ? rng_below(r, 2 * PAGE) : rng_below(r, 2 * PAGE - 64) & ~63u);
    return ARENA + arena_offset(r);
}

/* m16:32 or m16:16, to data or code. */
static uint64_t far_pointer(struct rng *r)
{
    static const uint16_t sel[] = {SEL_DATA,   SEL_DATA,   SEL_DATA32_ARENA, SEL_DATA16_ARENA,
                                   SEL_CODE32, SEL_CODE64, SEL_CODE32_FLAT};
    uint64_t selector = sel[rng_below(r, ARRAY_SIZE(sel))];

    if (rng_percent(r, 30))
        return (CODE_BASE - ARENA + rng_below(r, PAGE)) | SEL_CODE16_ARENA << 16 | selector << 32;
    return (CODE_BASE + rng_below(r, PAGE)) | selector << 32;
}

/* Frames that IRET and far returns can take: at these offsets in the stack's first page there are
 * FRAMES of each, for the operand sizes 8, 4 and 2. */
enum { FRAMES = 4, FRAME_AT_8 = 0x100, FRAME_AT_4 = 0x200, FRAME_AT_2 = 0x300 };

static void fill_frames(struct rng *r, uint8_t *stack)
{
    static const struct {
        uint16_t at, cs[FRAMES];
        uint8_t size;
    } kind[] = {
        {FRAME_AT_8, {SEL_CODE64, SEL_CODE64, SEL_CODE32, SEL_CODE32_FLAT}, 8},
        {FRAME_AT_4, {SEL_CODE32, SEL_CODE32_FLAT, SEL_CODE64, SEL_CODE16_ARENA}, 4},
        {FRAME_AT_2, {SEL_CODE16_ARENA, SEL_CODE16_ARENA, SEL_CODE16_ARENA, SEL_CODE32}, 2},
    };

    for (size_t k = 0; k < ARRAY_SIZE(kind); k++)
        for (unsigned i = 0; i < FRAMES; i++) {
            unsigned size = kind[k].size;
            uint8_t *at = stack + kind[k].at + (size_t)i * 8 * size;
            uint64_t flags = RFLAGS_FIXED | RFLAGS_IF |
                             (rng_next(r) & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_NT | RFLAGS_ID));

            store_le(at,
                     CODE_BASE - (kind[k].cs[i] == SEL_CODE16_ARENA ? ARENA : 0) + 0x400 +
                         rng_below(r, 0x400),
                     size);
            store_le(at + size, kind[k].cs[i], size);
            store_le(at + (ptrdiff_t)2 * size, flags, size);
            store_le(at + (ptrdiff_t)3 * size,
                     ARENA + (uint64_t)ARENA_STACK * PAGE + 0x800 + rng_below(r, 0x400), size);
            store_le(at + (ptrdiff_t)4 * size, SEL_DATA, size);
        }
}

/* Headers of state images that XRSTOR takes, in both formats, at these offsets in the first data
 * page; what they say is there is the random data around. */
enum { STATE_AT = 0x400, COMPACT_STATE_AT = 0xc00 };

static void fill_state_headers(struct rng *r, uint8_t *data)
{
    static const unsigned at[] = {STATE_AT, COMPACT_STATE_AT};

    for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
        uint64_t in_use = rng_next(r) & native_xcr0(), compact = in_use | rng_next(r);

        if (rng_percent(r, 40)) /* AVX and the parts of AVX-512 belong together */
            in_use = native_xcr0();
        store_le(data + at[i] + 24, rng_next(r) & 0xffff, 4);
        memset(data + at[i] + 512, 0, 64);
        store_le(data + at[i] + 512, in_use, 8);
        if (at[i] == COMPACT_STATE_AT)
            store_le(data + at[i] + 520, BIT(63) | (compact & native_xcr0()) | in_use, 8);
    }
}

void memory_image_fill(uint64_t seed, uint8_t image[IMAGE_SIZE])
{
    struct rng r = {seed ^ 0x6d656d6f7279};

    memset(image, 0, IMAGE_OPEN);
    memset(image + IMAGE_OPEN, 0xcc, IMAGE_SIZE - IMAGE_OPEN);
    if (!seed)
        return;
    for (unsigned at = 0; at < IMAGE_OPEN; at += 8) {
        uint64_t v;

        switch (rng_below(&r, 16)) {
        case 0: v = corner_integer(&r); break;
        case 1:
        case 2: v = corner_double(&r); break;
        case 3:
        case 4: v = corner_float(&r) | (uint64_t)corner_float(&r) << 32; break;
        case 5: v = arena_address(&r, 64); break;
        case 6: v = CODE_BASE + rng_below(&r, 256); break;
        case 7: v = far_pointer(&r); break;
        case 8: v = rng_next(&r) & 0x00ff00ff00ff00ff; break;
        case 9: v = 0x3fff + rng_below(&r, 0x8000); break; /* exponent of an 80-bit number */
        default: v = rng_next(&r); break;
        }
        store_le(image + at, v, 8);
    }
    fill_state_headers(&r, image);
    fill_frames(&r, image + (size_t)(ARENA_STACK - ARENA_DATA) * PAGE);
}

static uint64_t random_gpr(struct rng *r, unsigned mode)
{
    unsigned kind = rng_below(r, 100);

    if (kind < 35)
        return mode == 16 || (mode == 32 && rng_percent(r, 10)) ? arena_offset(r)
                                                                : arena_address(r, mode);
    if (kind < 55)
        return corner_integer(r);
    if (kind < 65)
        return rng_below(r, 80);
    if (kind < 70)
        return BIT(rng_below(r, 64));
    if (kind < 80)
        return (uint64_t)(int64_t)(int32_t)rng_next(r);
    return rng_next(r);
}

static void random_vector(struct rng *r, uint8_t *out, unsigned bytes)
{
    unsigned kind = rng_below(r, 10);

    for (unsigned i = 0; i < bytes; i += 8) {
        uint64_t v;

        if (kind < 3)
            v = corner_double(r);
        else if (kind < 6)
            v = corner_float(r) | (uint64_t)corner_float(r) << 32;
        else if (kind < 8)
            v = rng_next(r);
        else if (kind < 9)
            v = corner_integer(r);
        else
            v = rng_next(r) & 0x0f0f0f0f3f3f3f3f;
        store_le(out + i, v, 8);
    }
}

static void random_st(struct rng *r, uint8_t st[16])
{
    static const uint64_t mantissa[] = {0, BIT(63), BIT(62), BIT(63) | BIT(62), ~UINT64_C(0), 1};
    static const uint16_t exponent[] = {0, 1, 0x3fff, 0x3ffe, 0x4000, 0x7ffe, 0x7fff, 0x403e};
    uint64_t m = rng_percent(r, 60) ? rng_next(r) | BIT(63)
                                    : mantissa[rng_below(r, ARRAY_SIZE(mantissa))];
    unsigned e = rng_percent(r, 60) ? 0x3fff - 20 + rng_below(r, 90)
                                    : exponent[rng_below(r, ARRAY_SIZE(exponent))];

    memset(st, 0, 16);
    store_le(st, m, 8);
    store_le(st + 8, e | (rng_percent(r, 50) ? 0x8000 : 0), 2);
}

static void random_fpu(struct rng *r, struct cpu_image *s)
{
    s->fcw = (uint16_t)(0x40 | rng_below(r, 4) << 10);
    s->fcw |= (uint16_t)(rng_percent(r, 80) ? 0x300 : rng_percent(r, 50) ? 0x200 : 0);
    s->fcw |= rng_percent(r, 92) ? 0x3f : (uint16_t)rng_below(r, 64);
    s->fsw = (uint16_t)((rng_percent(r, 60) ? 0 : rng_below(r, 8)) << 11 | rng_below(r, 2) << 14 |
                        rng_below(r, 8) << 8);
    if (rng_percent(r, 30))
        s->fsw |= (uint16_t)rng_below(r, 128);
    if (s->fsw & ~s->fcw & 0x3f) {
        if (rng_percent(r, 80))
            s->fsw &= (uint16_t) ~(~s->fcw & 0x3f);
        else
            s->fsw |= 0x8080; /* pending: #MF at the next waiting instruction */
    }
    s->ftw = rng_percent(r, 40) ? 0xff : rng_percent(r, 20) ? 0 : (uint8_t)rng_next(r);
    for (unsigned i = 0; i < 8; i++)
        random_st(r, s->st[i]);
    s->mxcsr = rng_below(r, 4) << 13 | (rng_percent(r, 15) ? 0x8000 : 0) |
               (rng_percent(r, 15) ? 0x40 : 0) | (rng_percent(r, 30) ? rng_below(r, 64) : 0) |
               (rng_percent(r, 94) ? 0x1f80 : rng_below(r, 64) << 7);
    for (unsigned i = 0; i < 32; i++)
        random_vector(r, s->zmm[i], 64);
    for (unsigned i = 0; i < 8; i++)
        s->k[i] = rng_percent(r, 60) ? rng_next(r) : corner_integer(r);
    if (!(native_xcr0() & XCR0_ZMM_HI256)) {
        for (unsigned i = 0; i < 32; i++)
            memset(s->zmm[i] + (i < 16 && native_xcr0() & XCR0_AVX ? 32 : 0), 0,
                   i < 16 && native_xcr0() & XCR0_AVX ? 32 : 64);
        memset(s->k, 0, sizeof(s->k));
    }
}

static void random_segments(struct rng *r, unsigned mode, struct cpu_image *s)
{
    static const uint16_t flat[] = {SEL_DATA, SEL_DATA, SEL_DATA, SEL_DATA32_FLAT};
    static const uint16_t based[] = {SEL_DATA32_ARENA,
                                     SEL_DATA32_ARENA,
                                     SEL_DATA16_ARENA,
                                     SEL_DATA32_RO,
                                     SEL_DATA32_DOWN,
                                     SEL_DATA16_SMALL,
                                     SEL_CODE32_FLAT,
                                     SEL_CODE16_ARENA,
                                     SEL_DATA32_ARENA,
                                     0,
                                     3};
    bool ldt = native_has_ldt();

    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (mode == 64)
            s->sel[i] = (i == SEG_DS || i == SEG_ES) && rng_percent(r, 30) ? SEL_DATA : 0;
        else if (mode == 32)
            s->sel[i] = ldt ? flat[rng_below(r, ARRAY_SIZE(flat))] : SEL_DATA;
        else
            s->sel[i] = SEL_DATA16_ARENA;
        if (mode != 64 && ldt && i != SEG_SS &&
            rng_percent(r, i == SEG_FS || i == SEG_GS ? 70 : 10))
            s->sel[i] = based[rng_below(r, ARRAY_SIZE(based))];
    }
    if (mode != 64 && ldt && rng_percent(r, 8))
        s->sel[SEG_SS] = based[rng_below(r, 6) == 3 ? 0 : rng_below(r, 3)];
    s->sel[SEG_CS] = mode == 64 ? SEL_CODE64 : mode == 32 ? SEL_CODE32 : SEL_CODE16_ARENA;
    if (mode == 64)
        s->sel[SEG_SS] = SEL_DATA;
    else if (mode == 32 && ldt && rng_percent(r, 10))
        s->sel[SEG_CS] = rng_percent(r, 50) ? SEL_CODE32_FLAT : SEL_CODE32_XO;
    s->fs_base = mode != 64 ? 0 : rng_percent(r, 70) ? arena_address(r, 64) & ~63ull : 0;
    s->gs_base = mode != 64 ? 0 : rng_percent(r, 70) ? arena_address(r, 64) : 0;
}

void random_state(struct rng *r, unsigned mode, struct cpu_image *s)
{
    uint64_t stack = ARENA + (uint64_t)ARENA_STACK * PAGE;

    memset(s, 0, sizeof(*s));
    random_segments(r, mode, s);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s->gpr[i] = random_gpr(r, mode);
    if (rng_percent(r, 90))
        s->gpr[GPR_RSP] = stack + PAGE + (rng_below(r, PAGE - 64) & ~7u);
    else if (rng_percent(r, 80))
        s->gpr[GPR_RSP] = stack + rng_below(r, 2 * PAGE);
    if (mode != 64 &&
        (s->sel[SEG_SS] & 4 && s->sel[SEG_SS] != SEL_DATA32_FLAT)) /* based at the arena */
        s->gpr[GPR_RSP] = (s->gpr[GPR_RSP] - ARENA) & UINT16_MAX;
    if (mode != 64)
        for (unsigned i = 0; i < GPR_COUNT; i++)
            s->gpr[i] = i < 8 ? (uint32_t)s->gpr[i] : 0;
    s->rflags = RFLAGS_FIXED | RFLAGS_IF | (rng_next(r) & RFLAGS_STATUS) |
                (rng_percent(r, 30) ? RFLAGS_DF : 0) | (rng_percent(r, 2) ? RFLAGS_TF : 0) |
                (rng_percent(r, 2) ? RFLAGS_AC : 0) | (rng_percent(r, 10) ? RFLAGS_ID : 0) |
                (rng_percent(r, 5) ? RFLAGS_NT : 0);
    random_fpu(r, s);
}

/* ---- instructions -------------------------------------------------------------------------- */

static unsigned put_modrm(struct maker *m, const struct template *t, uint8_t *b)
{
    struct rng *r = m->r;
    unsigned n = 0, mod, rm;

    if ((t->modrm & 0xc0) == 0xc0) {
        rm = t->fixed_rm ? t->modrm & 7 : rng_below(r, 8);
        b[n++] = (uint8_t)(0xc0 | (t->modrm & 0x38) | rm);
        return n;
    }
    mod = rng_below(r, 3);
    rm = rng_below(r, 8);
    b[n++] = (uint8_t)(mod << 6 | (t->modrm & 0x38) | rm);
    /* SIB and displacement: plain random bytes; Zydis says how many count. */
    return n;
}

/* The bytes of one try; what follows the opcode and ModRM is random. Returns where that starts. */
static unsigned put_template(struct maker *m, const struct template *t, uint8_t b[24])
{
    static const uint8_t legacy_prefix[] = {0, 0x66, 0xf3, 0xf2};
    static const uint8_t segment[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x64, 0x65};
    struct rng *r = m->r;
    bool is_64 = m->g->mode == 64, memory = (t->modrm & 0xc0) != 0xc0;
    unsigned n = 0;
    uint8_t high = (uint8_t)(is_64 ? rng_below(r, 8) : 0); /* R X B */

    if (m->shaped && rng_percent(r, 25)) /* SPL to DIL, or AH to BH, as long as REX stays away */
        high = 0;
    else if (m->shaped && is_64 && rng_percent(r, 40)) {
        /* RAX, RCX, RSP; R10, R11, R15: those an engine may have put elsewhere */
        unsigned reg = t->modrm >> 3 & 7;

        high = (uint8_t)((reg == 2 || reg == 3 || reg == 7) << 2 | rng_below(r, 4));
    }

    if (rng_percent(r, memory ? 10 : 3))
        b[n++] = segment[rng_below(r, 8)];
    if (rng_percent(r, memory ? 8 : 3))
        b[n++] = 0x67;
    if (t->encoding == LEGACY) {
        uint8_t rex;

        if (rng_percent(r, m->g->mode == 64 ? 8 : 12) && t->pp != 1)
            b[n++] = 0x66;
        if (rng_percent(r, 3))
            b[n++] = rng_percent(r, 50) ? 0xf2 : 0xf3;
        if (m->lock || rng_percent(r, m->shaped ? 0 : memory ? 10 : 1))
            b[n++] = 0xf0;
        if (t->pp)
            b[n++] = legacy_prefix[t->pp];
        if (n > 1 && rng_percent(r, 20)) { /* another order */
            unsigned i = rng_below(r, n), j = rng_below(r, n);
            uint8_t x = b[i];

            b[i] = b[j];
            b[j] = x;
        }
        rex = (uint8_t)(0x40 | t->w << 3 | high);
        if (is_64 && (rex != 0x40 || rng_percent(r, 15)))
            b[n++] = rex;
        if (t->map) {
            b[n++] = 0x0f;
            if (t->map > 1)
                b[n++] = t->map == 2 ? 0x38 : 0x3a;
        }
    } else {
        bool simple = rng_percent(r, 30);
        unsigned v = simple ? 0xf : is_64 ? rng_below(r, 16) : 8 + rng_below(r, 8);

        if (rng_percent(r, 1))
            b[n++] = legacy_prefix[1 + rng_below(r, 3)]; /* #UD */
        if (t->encoding == VEX) {
            if (t->map == 1 && !t->w && !(high & 3) && rng_percent(r, 60)) {
                b[n++] = 0xc5;
                b[n++] = (uint8_t)((high & 4 ? 0 : 0x80) | v << 3 | t->l << 2 | t->pp);
            } else {
                b[n++] = 0xc4;
                b[n++] = (uint8_t)((~high & 7) << 5 | t->map);
                b[n++] = (uint8_t)(t->w << 7 | v << 3 | t->l << 2 | t->pp);
            }
        } else {
            unsigned r2 = is_64 && rng_percent(r, 50), v2 = is_64 && !simple && rng_percent(r, 50);
            unsigned aaa = rng_percent(r, 50) ? 0 : rng_below(r, 8);
            unsigned z = rng_percent(r, aaa ? 35 : 1), bc = rng_percent(r, 20);

            b[n++] = 0x62;
            b[n++] = (uint8_t)((~high & 7) << 5 | (r2 ? 0 : 0x10) | t->map);
            b[n++] = (uint8_t)(t->w << 7 | v << 3 | 4 | t->pp);
            b[n++] = (uint8_t)(z << 7 | t->l << 5 | bc << 4 | (v2 ? 0 : 8) | aaa);
        }
    }
    b[n++] = t->opcode;
    if (t->has_modrm)
        n += put_modrm(m, t, b + n);
    return n;
}

/* One of the mnemonics that are wanted next, or NULL where this mode has none of those tried. */
static const struct mnemonic_list *pick_wanted(struct maker *m)
{
    unsigned n = 0;

    while (m->wanted[n])
        n++;
    return m->g->by_mnemonic[m->wanted[rng_below(m->r, n)]];
}

static const struct template *pick_template(struct maker *m)
{
    static const uint8_t shaped_percent[CLASSES] = {74, 0, 6, 10, 5, 4, 1};
    const uint8_t *percent = m->shaped ? shaped_percent : class_percent;
    struct generator *g = m->g;
    unsigned tries = 0;
    unsigned roll = rng_below(m->r, 100), class = 0;
    const struct mnemonic_list *l = g->only;
    const struct template *t;

    if (m->wanted)
        l = pick_wanted(m);
    while (!l && class < CLASSES && roll >= percent[class])
        roll -= percent[class ++];
    if (class == CLASSES) {
        if (!g->filtered)
            return NULL;
        class = 0;
    }
    while (!g->listed[class]) /* some class has something: the generator exists */
        class = (class + 1) % CLASSES;
    while (!l) {
        l = &g->list[class][rng_below(m->r, g->listed[class])];
        if (m->shaped && g->unsuited[l->mnemonic])
            l = NULL;
        else if (l->foreign && (m->shaped || !rng_percent(m->r, 5)) && ++tries < 20)
            l = NULL;
    }
    do
        t = &g->templates[l->first + rng_below(m->r, l->count)];
    while (m->memory && (!t->has_modrm || (t->modrm & 0xc0) == 0xc0) && ++tries < 60);
    return t;
}

unsigned gpr_number(ZydisRegister reg)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64)
        return NOT_GPR;
    return (unsigned)ZydisRegisterGetId(whole);
}

static bool gpr_free(const struct maker *m, unsigned reg)
{
    return reg < GPR_COUNT && !((m->written | m->pinned) & 1u << reg);
}

uint64_t segment_base(const struct maker *m, ZydisRegister reg)
{
    ZyanI8 id = ZydisRegisterGetId(reg);
    uint16_t sel = id >= 0 && id < SEG_COUNT ? m->c->in.sel[id] : 0;

    if (m->g->mode == 64)
        return reg == ZYDIS_REGISTER_FS   ? m->c->in.fs_base
               : reg == ZYDIS_REGISTER_GS ? m->c->in.gs_base
                                          : 0;
    return (sel & 4) && sel >> 3 < ORACLE_LDT_SIZE ? oracle_ldt[sel >> 3].base : 0;
}

static void set_vector_index(struct maker *m, unsigned reg)
{
    bool dwords = rng_percent(m->r, 50);

    for (unsigned i = 0; i < 64; i += 8)
        store_le(m->c->in.zmm[reg] + i,
                 rng_below(m->r, 64) | (dwords ? (uint64_t)rng_below(m->r, 64) << 32 : 0), 8);
}

/* Give the registers (or the displacement) values that make operand `op` lie in the arena. */
static void aim(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
                uint8_t *bytes, uint64_t next)
{
    uint64_t *gpr = m->c->in.gpr;
    uint64_t mask = in->address_width == 64   ? ~UINT64_C(0)
                    : in->address_width == 32 ? UINT32_MAX
                                              : UINT16_MAX;
    unsigned base = gpr_number(op->mem.base), index = gpr_number(op->mem.index);
    unsigned scale = op->mem.scale, want_size = in->raw.disp.size / 8;
    uint64_t target = in->address_width == 64 ? arena_address(m->r, 64)
                                              : ARENA + arena_offset(m->r);
    uint64_t offset, rest;
    const bool bad = m->bad && op->mem.type != ZYDIS_MEMOP_TYPE_VSIB;
    bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;

    if (base == GPR_RSP && index == NOT_GPR && !in->raw.disp.size)
        return;
    if (op->size >= 512 * 8 && rng_percent(m->r, 70)) /* FXRSTOR, XRSTOR */
        target = ARENA + (uint64_t)ARENA_DATA * PAGE +
                 (rng_percent(m->r, 70) ? STATE_AT : COMPACT_STATE_AT);
    if (bad)
        target = bad_address(m, m->bad, op->size / 8);
    offset = target - segment_base(m, op->mem.segment);
    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        set_vector_index(m, (unsigned)ZydisRegisterGetId(op->mem.index) & 31);
        index = NOT_GPR;
    }
    rest = offset - (uint64_t)op->mem.disp.value;
    if (index != NOT_GPR && index != base)
        rest -= gpr[index] * scale;
    if (gpr_free(m, base) && base != GPR_RSP) {
        if (index == base)
            rest /= 1 + scale;
        if (mask != UINT64_MAX && (m->g->mode == 64 || mask == UINT16_MAX) &&
            rng_percent(m->r, 50)) /* bits that do not count */
            rest = (rest & mask) | (rng_next(m->r) & ~mask);
        else
            rest &= mask;
        gpr[base] = m->g->mode == 64 ? rest : (uint32_t)rest;
    } else if (want_size >= 2) {
        if (rip)
            offset = (bad ? target : ARENA + arena_offset(m->r)) - next;
        else if (base != NOT_GPR)
            offset -= gpr[base];
        if (!rip && index != NOT_GPR)
            offset -= gpr[index] * scale;
        store_le(bytes + in->raw.disp.offset, offset, want_size);
    } else if (gpr_free(m, index)) {
        rest = offset - (uint64_t)op->mem.disp.value - (base != NOT_GPR ? gpr[base] : 0);
        gpr[index] = (rest / (scale ? scale : 1)) & mask;
    }
    if (base != NOT_GPR)
        m->pinned |= 1u << base;
    if (index != NOT_GPR)
        m->pinned |= 1u << index;
}

static uint64_t zydis_flags(ZydisAccessedFlagsMask f)
{
    return f & (RFLAGS_STATUS | RFLAGS_DF);
}

/* Would it use a flag that is undefined by then? If not, follow what it does to flags. */
bool flags_pass(struct maker *m, const ZydisDecodedInstruction *in)
{
    const ZydisAccessedFlags *f = in->cpu_flags;
    bool maybe = in->meta.category == ZYDIS_CATEGORY_SHIFT ||
                 in->meta.category == ZYDIS_CATEGORY_ROTATE ||
                 in->meta.category == ZYDIS_CATEGORY_STRINGOP;

    if (!f)
        return true;
    if ((zydis_flags(f->tested) & m->undefined) ||
        (m->undefined &&
         (in->meta.category == ZYDIS_CATEGORY_PUSH || in->mnemonic == ZYDIS_MNEMONIC_LAHF)))
        return rng_percent(m->r, 2);
    if (!maybe)
        m->undefined &= ~zydis_flags(f->modified | f->set_0 | f->set_1);
    m->undefined |= zydis_flags(f->undefined);
    return true;
}

/* Values that make an instruction do its work more often than fault. */
static void help(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
    uint64_t *gpr = m->c->in.gpr;
    const ZydisInstructionAttributes repeats = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                                               ZYDIS_ATTRIB_HAS_REPNE;

    if ((in->attributes & repeats || in->meta.category == ZYDIS_CATEGORY_COND_BR) &&
        gpr_free(m, GPR_RCX) && rng_percent(m->r, 90))
        gpr[GPR_RCX] = rng_below(m->r, 24) | (rng_percent(m->r, 10) ? rng_next(m->r) << 32 : 0);
    if ((in->mnemonic == ZYDIS_MNEMONIC_IRET || in->mnemonic == ZYDIS_MNEMONIC_IRETD ||
         in->mnemonic == ZYDIS_MNEMONIC_IRETQ ||
         (in->mnemonic == ZYDIS_MNEMONIC_RET && in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)) &&
        gpr_free(m, GPR_RSP) && rng_percent(m->r, 70)) {
        unsigned size = in->operand_width / 8;
        unsigned at = size == 8 ? FRAME_AT_8 : size == 4 ? FRAME_AT_4 : FRAME_AT_2;
        uint16_t ss = m->c->in.sel[SEG_SS];

        gpr[GPR_RSP] = (m->g->mode != 64 && ss & 4 && ss != SEL_DATA32_FLAT ? 0 : ARENA) +
                       (uint64_t)ARENA_STACK * PAGE + at + rng_below(m->r, FRAMES) * 8 * size;
    }
    if ((in->mnemonic == ZYDIS_MNEMONIC_DIV || in->mnemonic == ZYDIS_MNEMONIC_IDIV) &&
        gpr_free(m, GPR_RDX) && rng_percent(m->r, 70))
        gpr[GPR_RDX] = rng_below(m->r, 8);
    if (in->meta.category == ZYDIS_CATEGORY_BITBYTE && in->operand_count_visible == 2 &&
        op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        gpr_free(m, gpr_number(op[1].reg.value)))
        gpr[gpr_number(op[1].reg.value)] = (uint64_t)((int64_t)rng_below(m->r, 4096) - 2048);
    if (m->g->mode != 64)
        for (unsigned i = 0; i < GPR_COUNT; i++)
            gpr[i] = (uint32_t)gpr[i];
}

static uint32_t registers_written(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
                                  unsigned operands)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < operands; i++) {
        unsigned reg = op[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(op[i].reg.value)
                       : in->meta.category == ZYDIS_CATEGORY_STRINGOP
                           ? gpr_number(op[i].mem.base) /* moved, which Zydis does not say */
                           : NOT_GPR;

        if (reg < GPR_COUNT && (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY ||
                                op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            mask |= 1u << reg;
    }
    return mask;
}

bool suits_shape(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
    uint32_t all = registers_written(in, op, in->operand_count);
    bool stack = false;

    if (never_suits(in))
        return false;
    switch (in->meta.category) {
    case ZYDIS_CATEGORY_SEGOP: return rng_percent(m->r, 2);
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP: stack = true; break;
    default: break;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
        if (!rng_percent(m->r, 5))
            return false;
        stack = true;
        break;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLZERO:
    case ZYDIS_MNEMONIC_POPF: /* often sets TF, which ends it */
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_AAM:
        if (!rng_percent(m->r, 4))
            return false;
        break;
    default: break;
    }
    if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && in->operand_count_visible &&
        ZydisRegisterGetClass(op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
        in->mnemonic != ZYDIS_MNEMONIC_PUSH && !rng_percent(m->r, 5))
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_PAUSE &&
        in->raw.rex.B) /* is XCHG with R8 to all but Zydis */
        return false;
    if (stack && m->keep_stack)
        return false;
    if ((all & ~(stack ? 1u << GPR_RSP : 0)) & m->reserved)
        return false;
    if (registers_written(in, op, in->operand_count_visible) & 1u << GPR_RSP &&
        (m->keep_stack || !rng_percent(m->r, 2)))
        return false;
    return !(all & m->pinned & ~(1u << GPR_RSP)) || rng_percent(m->r, 3);
}

/* Legacy SSE wants it, and so does CMPXCHG16B. */
static bool wants_alignment(const ZydisDecodedInstruction *in, unsigned size)
{
    return size == 16 && in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
           in->mnemonic != ZYDIS_MNEMONIC_MOVUPS && in->mnemonic != ZYDIS_MNEMONIC_MOVUPD &&
           in->mnemonic != ZYDIS_MNEMONIC_MOVDQU && in->mnemonic != ZYDIS_MNEMONIC_LDDQU;
}

/* Do the memory operands lead where they should, as far as can be told now? */
static bool lands(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
                  const uint8_t *b, uint64_t next)
{
    const uint64_t *gpr = m->c->in.gpr;
    const uint32_t moved = m->written | registers_written(in, op, in->operand_count);
    bool found = false;

    if (in->meta.category == ZYDIS_CATEGORY_BITBYTE && in->operand_count_visible == 2 &&
        op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        m->written & 1u << gpr_number(op[1].reg.value) && !rng_percent(m->r, 5))
        return false;
    for (unsigned i = 0; i < in->operand_count; i++) {
        unsigned base = gpr_number(op[i].mem.base), index = gpr_number(op[i].mem.index);
        bool rip = op[i].mem.base == ZYDIS_REGISTER_RIP || op[i].mem.base == ZYDIS_REGISTER_EIP;
        bool write = (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
        unsigned size = op[i].size / 8;
        uint64_t at;
        int first, last;

        if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || op[i].mem.type != ZYDIS_MEMOP_TYPE_MEM ||
            base == GPR_RSP || !size)
            continue;
        if (rip)
            base = NOT_GPR;
        if (((base < GPR_COUNT && moved & 1u << base) ||
             (index < GPR_COUNT && moved & 1u << index)) &&
            (m->bad || !rng_percent(m->r, 3)))
            return false;
        /* aim() may have changed the displacement. */
        at = in->raw.disp.size
                 ? sign_extend(load_le(b + in->raw.disp.offset, in->raw.disp.size / 8),
                               in->raw.disp.size)
                 : 0;
        if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || !in->raw.disp.size)
            at = (uint64_t)op[i].mem.disp.value;
        at += rip ? next : base < GPR_COUNT ? gpr[base] : 0;
        at += index < GPR_COUNT ? gpr[index] * op[i].mem.scale : 0;
        if (in->address_width < 64)
            at &= size_mask(in->address_width / 8);
        at += segment_base(m, op[i].mem.segment);
        if (m->bad) {
            found |= is_bad(m->bad, at, size, write);
            continue;
        }
        first = image_offset(at);
        last = image_offset(at + size - 1);
        if ((first < 0 || last < 0 || first >= IMAGE_OPEN || last >= IMAGE_OPEN ||
             (write && (first / PAGE == ARENA_DATA_PAGES || last / PAGE == ARENA_DATA_PAGES))) &&
            !rng_percent(m->r, 2))
            return false;
        if (wants_alignment(in, size) && at & 15 && !rng_percent(m->r, 5))
            return false;
        found = true;
    }
    return found || !(m->bad || m->memory);
}

static bool uses_written(const struct maker *m, const ZydisDecodedInstruction *in,
                         const ZydisDecodedOperand *op)
{
    for (unsigned i = 0; i < in->operand_count_visible; i++) {
        unsigned base = gpr_number(op[i].mem.base), index = gpr_number(op[i].mem.index);

        if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY || op[i].mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            continue;
        if ((base < GPR_COUNT && m->written & 1u << base) ||
            (index < GPR_COUNT && m->written & 1u << index))
            return true;
    }
    return false;
}

void note_writes(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
    m->written |= registers_written(in, op, in->operand_count);
}

/* Encodings that Intel and AMD take differently, or that the manuals call reserved. */
static bool vendors_differ(const struct maker *m, const ZydisDecodedInstruction *in,
                           const ZydisDecodedOperand *op)
{
    const ZydisInstructionAttributes repeats = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                                               ZYDIS_ATTRIB_HAS_REPNE;
    bool is_64 = m->g->mode == 64, has_66 = false, has_f2_f3 = false;

    for (unsigned i = 0; i < in->raw.prefix_count; i++) {
        has_66 |= in->raw.prefixes[i].value == 0x66;
        has_f2_f3 |= (in->raw.prefixes[i].value & 0xfe) == 0xf2;
    }
    /* Intel ignores 66 before near branches, AMD truncates RIP. */
    if (is_64 && has_66 &&
        (in->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
         in->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT || in->mnemonic == ZYDIS_MNEMONIC_RET))
        return true;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_LOOPE: /* the prefix turns the condition round on AMD */
    case ZYDIS_MNEMONIC_LOOPNE: return has_f2_f3 && !(in->attributes & repeats);
    case ZYDIS_MNEMONIC_JMP: /* m16:64 */
    case ZYDIS_MNEMONIC_CALL: return in->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && in->raw.rex.W;
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS: return in->raw.rex.W;
    case ZYDIS_MNEMONIC_MOV: /* DR4 and DR5: #UD or #GP first */
        return op[0].reg.value == ZYDIS_REGISTER_DR4 || op[0].reg.value == ZYDIS_REGISTER_DR5 ||
               op[1].reg.value == ZYDIS_REGISTER_DR4 || op[1].reg.value == ZYDIS_REGISTER_DR5;
    case ZYDIS_MNEMONIC_NOP: /* 0F 0D with a register */
        return in->opcode_map == ZYDIS_OPCODE_MAP_0F && in->opcode == 0x0d &&
               op[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
    case ZYDIS_MNEMONIC_MOVSXD: /* reads 2 or 4 bytes */
        return has_66 && op[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    case ZYDIS_MNEMONIC_KMOVD: /* W outside 64-bit mode */
    case ZYDIS_MNEMONIC_KMOVQ:
        return !is_64 && in->raw.vex.W &&
               (gpr_number(op[0].reg.value) != NOT_GPR || gpr_number(op[1].reg.value) != NOT_GPR);
    case ZYDIS_MNEMONIC_VPINSRD: /* W outside 64-bit mode */
    case ZYDIS_MNEMONIC_VPEXTRD: return !is_64 && (in->raw.vex.W || in->raw.evex.W);
    default: return false;
    }
}

bool make_one(struct maker *m, bool last, struct branch *branch)
{
    struct test_case *c = m->c;
    uint8_t b[24];
    const struct template *t = pick_template(m);
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    unsigned n = 0;
    uint64_t next;

    if (t)
        n = put_template(m, t, b);
    for (; n < sizeof(b); n++) {
        uint64_t v = rng_next(m->r);

        b[n] = (uint8_t)(v >> 62 ? v : v & 15);
    }
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&m->g->decoder, b, 15, &in, op))) {
        if (!last || !rng_percent(m->r, t ? 3 : 20))
            return false;
        memcpy(c->code + c->length, b, 15); /* on purpose: should be #UD, or #GP if too long */
        c->length += 15;
        m->ended = true;
        return true;
    }
    if (mnemonic_excluded(in.mnemonic) || (must_end(&in) && !last))
        return false;
    if (m->g->filtered && t && in.mnemonic != t->mnemonic)
        return false;
    if (in.mnemonic == ZYDIS_MNEMONIC_INT &&
        (in.raw.imm[0].value.u == 0x80 || in.raw.imm[0].value.u == 0x2e))
        return false;
    if (vendors_differ(m, &in, op) || (m->shaped && !suits_shape(m, &in, op)))
        return false;
    if ((uses_written(m, &in, op) && rng_percent(m->r, 90)) || !flags_pass(m, &in))
        return false;
    help(m, &in, op);
    next = c->in.rip + c->length + in.length;
    for (unsigned i = 0; i < in.operand_count; i++)
        if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            rng_percent(m->r, 95))
            aim(m, &in, &op[i], b, next);
    if (m->shaped && !lands(m, &in, op, b, next))
        return false;
    if (m->shaped && !m->bad)
        for (unsigned i = 0; i < in.operand_count; i++) /* its like may come again */
            if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && gpr_number(op[i].mem.base) < GPR_COUNT)
                m->pinned |= 1u << gpr_number(op[i].mem.base);
    note_writes(m, &in, op);
    if (in.raw.imm[0].is_relative && in.raw.imm[0].size)
        *branch = (struct branch){.at = (uint16_t)(c->length + in.raw.imm[0].offset),
                                  .size = in.raw.imm[0].size / 8,
                                  .insn = (uint16_t)c->insns};
    else if (in.operand_count && op[0].type == ZYDIS_OPERAND_TYPE_POINTER)
        *branch = (struct branch){.at = (uint16_t)(c->length + in.raw.imm[0].offset),
                                  .size = in.raw.imm[0].size / 8,
                                  .insn = (uint16_t)c->insns,
                                  .selector_at = (uint16_t)(c->length + in.raw.imm[1].offset),
                                  .far = true,
                                  .call = in.meta.category == ZYDIS_CATEGORY_CALL};
    memcpy(c->code + c->length, b, in.length);
    c->length += in.length;
    m->ended = must_end(&in);
    return true;
}

/* Branches go forward: to an instruction boundary or behind the end; rarely elsewhere. */
static void set_branch(struct maker *m, const struct branch *b)
{
    static const uint16_t selectors[] = {SEL_CODE32, SEL_CODE64, SEL_CODE16_ARENA, SEL_CODE32_FLAT,
                                         SEL_DATA};
    struct test_case *c = m->c;
    unsigned to = b->insn + 1 + rng_below(m->r, c->insns - b->insn);
    unsigned next = c->start[b->insn + 1], kind = rng_below(m->r, 100);
    uint64_t target = c->start[to];

    if (!b->size)
        return;
    if (b->far) {
        /* A 16-bit offset reaches the code only through the segment based at the arena. A call
         * into 64-bit mode that faults on the stack never ends: Linux takes addresses above 4 GiB
         * in compatibility mode for an erratum and tries again. */
        uint16_t sel = b->size == 2 ? SEL_CODE16_ARENA : selectors[rng_below(m->r, 5)];

        if (sel == SEL_CODE64 && (b->call || selector_is_16(c->in.sel[SEG_SS])))
            sel = SEL_CODE32;
        target += CODE_BASE + c->code_offset - (sel == SEL_CODE16_ARENA ? ARENA : 0);
        if (rng_percent(m->r, 20))
            sel = (uint16_t)(rng_next(m->r) | 8); /* not one of the code segments, mostly */
        store_le(c->code + b->selector_at, sel, 2);
        store_le(c->code + b->at, target, b->size);
        return;
    }
    if (kind < 8) /* anywhere behind */
        target = c->length + rng_below(m->r, 40);
    else if (kind < 12 && b->size > 1)
        target = rng_next(m->r);
    store_le(c->code + b->at, target - next, b->size);
}

void case_fix(struct test_case *c)
{
    for (unsigned i = 0; i < c->fixes; i++) {
        const struct fix *f = &c->fix[i];
        uint64_t to = (uint64_t)c->start[f->target] + f->plus;

        if (f->kind == FIX_GPR)
            c->in.gpr[f->at] = c->in.rip + to;
        else
            store_le(c->code + f->at,
                     f->kind == FIX_ABSOLUTE ? c->in.rip + to : to - c->start[f->insn + 1],
                     f->size);
    }
}

static enum shape pick_shape(const struct generator *g, struct rng *r)
{
    unsigned roll = rng_below(r, 100);

    if (g->only || g->filtered)
        return SHAPE_STRAIGHT;
    if (g->shape != SHAPE_MIXED)
        return g->shape;
    return roll < 40   ? SHAPE_STRAIGHT
           : roll < 65 ? SHAPE_BRANCH
           : roll < 95 ? SHAPE_LOOP
                       : SHAPE_SELF_MODIFYING;
}

void generator_make(struct generator *g, uint64_t number, struct test_case *c)
{
    struct rng r = {(g->seed + 1) * 0xd1342543de82ef95 ^
                    (number * 3 + g->mode) * 0x2545f4914f6cdd1d};
    struct maker m = {.g = g, .r = &r, .c = c};
    struct branch branch[MAX_INSNS] = {0};
    unsigned want, tries = 0, place;

    rng_next(&r);
    memset(c, 0, sizeof(*c));
    c->number = number;
    c->mode = g->mode;
    c->memory_seed = (g->seed << 20) + number / BATCH + 1;
    c->shape = (uint8_t)pick_shape(g, &r);
    while (c->shape != SHAPE_STRAIGHT) {
        struct maker shaped = {.g = g, .r = &r, .c = c, .shaped = true};

        if (shape_make(&shaped, (enum shape)c->shape))
            return;
        if (++tries == 20) { /* nothing but what stands behind every case */
            c->insns = c->length = c->fixes = c->fault = 0;
            return;
        }
    }
    random_state(&r, g->mode, &c->in);
    want = rng_percent(&r, 50) ? 1 : 1 + rng_below(&r, STRAIGHT_INSNS);
    place = rng_below(&r, 100);
    c->code_offset = (uint16_t)(place < 65   ? rng_below(&r, 64)
                                : place < 90 ? PAGE - rng_below(&r, 40)
                                             : 2 * PAGE - 1 - rng_below(&r, 40));
    c->in.rip = (g->mode == 16 ? CODE_BASE - ARENA : CODE_BASE) + c->code_offset;
    while (c->insns < want && !m.ended && tries++ < 400) {
        c->start[c->insns] = (uint16_t)c->length;
        if (make_one(&m, c->insns + 1 == want, &branch[c->insns]))
            c->insns++;
    }
    /* RIP is part of what operands were aimed with, so code that does not fit is cut. */
    if (c->code_offset + c->length > ARENA_CODE_PAGES * PAGE)
        c->length = ARENA_CODE_PAGES * PAGE - c->code_offset;
    while (c->insns && c->start[c->insns - 1] >= c->length)
        c->insns--;
    c->start[c->insns] = (uint16_t)c->length;
    if (g->mode != 64 && selector_is_16(c->in.sel[SEG_SS]))
        c->in.gpr[GPR_RSP] &= UINT16_MAX; /* IRETQ loads no more */
    for (unsigned i = 0; i < c->insns; i++)
        if (branch[i].at + branch[i].size <= c->length)
            set_branch(&m, &branch[i]);
}
