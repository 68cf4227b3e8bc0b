/*
 * test_features.c - what CPUID promises, the interpreter does.
 *
 * For every feature of the software engines' `max` that stands for an instruction, a control
 * register bit or an MSR: with it, an instruction that needs it runs; without it ("max,-feature"),
 * the same bytes raise what the manual says. A feature that is neither among the cases nor among
 * those that no single instruction shows fails the test, so that a new one gets looked at.
 *
 * The processor is in 64-bit mode at privilege level 0, everything switched on, and Intel's (on
 * AMD's SYSENTER is none of 64-bit mode). RBX points to 64 zeroed, 64-byte aligned bytes; RAX, RCX
 * and RDX are the case's.
 */
#include "guest.h"

#include <stdio.h>

enum { OK = -1 };

struct feature_case {
    enum cpu_feature feature;
    int without; /* the exception when the feature is off, or OK */
    uint64_t rax, rcx, rdx;
    const char *text;
    const uint8_t *code, *end;
};

/* In the assembler's words; the labels around it give the bytes. */
#define BYTES(n, text)                                                                             \
    __asm__(".pushsection .rodata\nfeature_" #n ":\n" text "\nfeature_end_" #n ":\n.popsection");  \
    extern const uint8_t feature_##n[], feature_end_##n[];

/* X(id, feature, exception without it, RAX, RCX, RDX, instruction) */
#define CASES(X)                                                                                   \
    X(fpu, FPU, EXC_UD, 0, 0, 0, "fld1")                                                           \
    X(vme, VME, EXC_GP, CR4_VME, 0, 0, SET_CR4)                                                    \
    X(pvi, VME, EXC_GP, CR4_PVI, 0, 0, SET_CR4)                                                    \
    X(de, DE, EXC_GP, CR4_DE, 0, 0, SET_CR4)                                                       \
    X(pse, PSE, EXC_GP, CR4_PSE, 0, 0, SET_CR4)                                                    \
    X(tsc, TSC, EXC_UD, 0, 0, 0, "rdtsc")                                                          \
    X(tsd, TSC, EXC_GP, CR4_TSD, 0, 0, SET_CR4)                                                    \
    X(msr, MSR, EXC_UD, 0, 0x10, 0, "rdmsr")                                                       \
    X(mce, MCE, EXC_GP, CR4_MCE, 0, 0, SET_CR4)                                                    \
    X(cx8, CX8, EXC_UD, 0, 0, 0, "cmpxchg8b (%rbx)")                                               \
    X(sep, SEP, EXC_UD, 0, 0, 0, "sysenter")                                                       \
    X(mtrr, MTRR, EXC_GP, 0, 0xfe, 0, "rdmsr")                                                     \
    X(mtrr_fixed, MTRR, EXC_GP, 0, 0x250, 0, "rdmsr")                                              \
    X(pge, PGE, EXC_GP, CR4_PGE, 0, 0, SET_CR4)                                                    \
    X(mca, MCA, EXC_GP, 0, 0x179, 0, "rdmsr")                                                      \
    X(cmov, CMOV, EXC_UD, 0, 0, 0, "cmovne %ecx, %eax")                                            \
    X(fcmov, CMOV, EXC_UD, 0, 0, 0, "fcmove %st(0), %st")                                          \
    X(pat, PAT, EXC_GP, 0, 0x277, 0, "rdmsr")                                                      \
    X(clflush, CLFLUSH, EXC_UD, 0, 0, 0, "clflush (%rbx)")                                         \
    X(mmx, MMX, EXC_UD, 0, 0, 0, "paddb %mm1, %mm2")                                               \
    X(fxsr, FXSR, EXC_UD, 0, 0, 0, "fxsave (%rbx)")                                                \
    X(sse, SSE, EXC_UD, 0, 0, 0, "addps %xmm1, %xmm2")                                             \
    X(ldmxcsr, SSE, EXC_UD, 0, 0, 0, "ldmxcsr (%rbx)")                                             \
    X(sfence, SSE, EXC_UD, 0, 0, 0, "sfence")                                                      \
    X(sse2, SSE2, EXC_UD, 0, 0, 0, "addpd %xmm1, %xmm2")                                           \
    X(lfence, SSE2, EXC_UD, 0, 0, 0, "lfence")                                                     \
    X(mfence, SSE2, EXC_UD, 0, 0, 0, "mfence")                                                     \
    X(movnti, SSE2, EXC_UD, 0, 0, 0, "movnti %eax, (%rbx)")                                        \
    X(sse3, SSE3, EXC_UD, 0, 0, 0, "haddpd %xmm1, %xmm2")                                          \
    X(fisttp, SSE3, EXC_UD, 0, 0, 0, "fisttpl (%rbx)")                                             \
    X(pclmulqdq, PCLMULQDQ, EXC_UD, 0, 0, 0, "pclmulqdq $1, %xmm1, %xmm2")                         \
    X(vpclmul_128, PCLMULQDQ, EXC_UD, 0, 0, 0, "vpclmulqdq $1, %xmm1, %xmm2, %xmm3")               \
    X(monitor, MONITOR, EXC_UD, GUEST_DATA, 0, 0, "monitor")                                       \
    X(mwait, MONITOR, EXC_UD, 0, 0, 0, "mwait")                                                    \
    X(ssse3, SSSE3, EXC_UD, 0, 0, 0, "pshufb %xmm1, %xmm2")                                        \
    X(ssse3_mmx, SSSE3, EXC_UD, 0, 0, 0, "pabsb %mm1, %mm2")                                       \
    X(fma, FMA, EXC_UD, 0, 0, 0, "vfmadd213ps %ymm1, %ymm2, %ymm3")                                \
    X(cx16, CX16, EXC_UD, 0, 0, 0, "cmpxchg16b (%rbx)")                                            \
    X(pcid, PCID, EXC_GP, CR4_PCIDE, 0, 0, SET_CR4)                                                \
    X(sse41, SSE41, EXC_UD, 0, 0, 0, "ptest %xmm1, %xmm2")                                         \
    X(sse42, SSE42, EXC_UD, 0, 0, 0, "pcmpgtq %xmm1, %xmm2")                                       \
    X(crc32, SSE42, EXC_UD, 0, 0, 0, "crc32l %edx, %eax")                                          \
    X(movbe, MOVBE, EXC_UD, 0, 0, 0, "movbe (%rbx), %eax")                                         \
    X(popcnt, POPCNT, EXC_UD, 0, 0, 0, "popcnt %ecx, %eax")                                        \
    X(aes, AES, EXC_UD, 0, 0, 0, "aesenc %xmm1, %xmm2")                                            \
    X(vaes_128, AES, EXC_UD, 0, 0, 0, "vaesenc %xmm1, %xmm2, %xmm3")                               \
    X(xsave, XSAVE, EXC_UD, 7, 0, 0, "xsave (%rbx)")                                               \
    X(xgetbv, XSAVE, EXC_UD, 0, 0, 0, "xgetbv")                                                    \
    X(osxsave, XSAVE, EXC_GP, CR4_OSXSAVE, 0, 0, SET_CR4)                                          \
    X(avx, AVX, EXC_UD, 0, 0, 0, "vaddps %ymm1, %ymm2, %ymm3")                                     \
    X(f16c, F16C, EXC_UD, 0, 0, 0, "vcvtph2ps %xmm1, %ymm2")                                       \
    X(rdrand, RDRAND, EXC_UD, 0, 0, 0, "rdrand %eax")                                              \
    X(rdfsbase, FSGSBASE, EXC_UD, 0, 0, 0, "rdfsbase %rax")                                        \
    X(wrgsbase, FSGSBASE, EXC_UD, 0, 0, 0, "wrgsbase %rax")                                        \
    X(cr4_fsgsbase, FSGSBASE, EXC_GP, CR4_FSGSBASE, 0, 0, SET_CR4)                                 \
    X(tsc_adjust, TSC_ADJUST, EXC_GP, 0, 0x3b, 0, "rdmsr")                                         \
    X(bmi1, BMI1, EXC_UD, 0, 0, 0, "andn %ecx, %edx, %eax")                                        \
    X(tzcnt, BMI1, OK, 0, 1, 0, "tzcnt %ecx, %eax")                                                \
    X(avx2, AVX2, EXC_UD, 0, 0, 0, "vpaddd %ymm1, %ymm2, %ymm3")                                   \
    X(gather, AVX2, EXC_UD, 0, 0, 0, "vpgatherdd %xmm1, (%rbx,%xmm2), %xmm3")                      \
    X(smep, SMEP, EXC_GP, CR4_SMEP, 0, 0, SET_CR4)                                                 \
    X(bmi2, BMI2, EXC_UD, 0, 0, 0, "rorx $3, %ecx, %eax")                                          \
    X(mulx, BMI2, EXC_UD, 0, 0, 0, "mulx %rcx, %rax, %rbp")                                        \
    X(invpcid, INVPCID, EXC_UD, 2, 0, 0, "invpcid (%rbx), %rax")                                   \
    X(avx512f, AVX512F, EXC_UD, 0, 0, 0, "vaddps %zmm1, %zmm2, %zmm3")                             \
    X(kmovw, AVX512F, EXC_UD, 0, 0, 0, "kmovw %k1, %k2")                                           \
    X(avx512dq, AVX512DQ, EXC_UD, 0, 0, 0, "vpmullq %zmm1, %zmm2, %zmm3")                          \
    X(rdseed, RDSEED, EXC_UD, 0, 0, 0, "rdseed %eax")                                              \
    X(adx, ADX, EXC_UD, 0, 0, 0, "adcx %ecx, %eax")                                                \
    X(stac, SMAP, EXC_UD, 0, 0, 0, "stac")                                                         \
    X(clac, SMAP, EXC_UD, 0, 0, 0, "clac")                                                         \
    X(smap, SMAP, EXC_GP, CR4_SMAP, 0, 0, SET_CR4)                                                 \
    X(avx512ifma, AVX512IFMA, EXC_UD, 0, 0, 0, "vpmadd52luq %zmm1, %zmm2, %zmm3")                  \
    X(clflushopt, CLFLUSHOPT, EXC_UD, 0, 0, 0, "clflushopt (%rbx)")                                \
    X(clwb, CLWB, EXC_UD, 0, 0, 0, "clwb (%rbx)")                                                  \
    X(avx512cd, AVX512CD, EXC_UD, 0, 0, 0, "vpconflictd %zmm1, %zmm2")                             \
    X(sha, SHA_NI, EXC_UD, 0, 0, 0, "sha1nexte %xmm1, %xmm2")                                      \
    X(avx512bw, AVX512BW, EXC_UD, 0, 0, 0, "vpaddb %zmm1, %zmm2, %zmm3")                           \
    X(kmovq, AVX512BW, EXC_UD, 0, 0, 0, "kmovq %k1, %k2")                                          \
    X(avx512vl, AVX512VL, EXC_UD, 0, 0, 0, "vpaddd %ymm1, %ymm2, %ymm3{%k1}")                      \
    X(avx512vbmi, AVX512VBMI, EXC_UD, 0, 0, 0, "vpermb %zmm1, %zmm2, %zmm3")                       \
    X(umip, UMIP, EXC_GP, CR4_UMIP, 0, 0, SET_CR4)                                                 \
    X(avx512vbmi2, AVX512VBMI2, EXC_UD, 0, 0, 0, "vpshldw $3, %zmm1, %zmm2, %zmm3")                \
    X(gfni, GFNI, EXC_UD, 0, 0, 0, "gf2p8mulb %xmm1, %xmm2")                                       \
    X(vgfni, GFNI, EXC_UD, 0, 0, 0, "vgf2p8mulb %ymm1, %ymm2, %ymm3")                              \
    X(vaes, VAES, EXC_UD, 0, 0, 0, "vaesenc %ymm1, %ymm2, %ymm3")                                  \
    X(vpclmulqdq, VPCLMULQDQ, EXC_UD, 0, 0, 0, "vpclmulqdq $1, %ymm1, %ymm2, %ymm3")               \
    X(avx512vnni, AVX512VNNI, EXC_UD, 0, 0, 0, "vpdpbusd %zmm1, %zmm2, %zmm3")                     \
    X(avx512bitalg, AVX512BITALG, EXC_UD, 0, 0, 0, "vpopcntb %zmm1, %zmm2")                        \
    X(vpopcntdq, AVX512VPOPCNTDQ, EXC_UD, 0, 0, 0, "vpopcntd %zmm1, %zmm2")                        \
    X(rdpid, RDPID, EXC_UD, 0, 0, 0, "rdpid %rax")                                                 \
    X(movdiri, MOVDIRI, EXC_UD, 0, 0, 0, "movdiri %eax, (%rbx)")                                   \
    X(movdir64b, MOVDIR64B, EXC_UD, GUEST_DATA, 0, 0, "movdir64b (%rbx), %rax")                    \
    X(vp2intersect, AVX512VP2INTERSECT, EXC_UD, 0, 0, 0, "vp2intersectd %zmm1, %zmm2, %k2")        \
    X(serialize, SERIALIZE, EXC_UD, 0, 0, 0, "serialize")                                          \
    X(avx512fp16, AVX512FP16, EXC_UD, 0, 0, 0, "vaddph %zmm1, %zmm2, %zmm3")                       \
    X(spec_ctrl, SPEC_CTRL, EXC_GP, 0, 0x48, 0, "rdmsr")                                           \
    X(avx_vnni, AVX_VNNI, EXC_UD, 0, 0, 0, "{vex} vpdpbusd %ymm1, %ymm2, %ymm3")                   \
    X(avx512bf16, AVX512BF16, EXC_UD, 0, 0, 0, "vdpbf16ps %zmm1, %zmm2, %zmm3")                    \
    X(syscall, SYSCALL, EXC_UD, 0, 0, 0, "syscall")                                                \
    X(star, SYSCALL, EXC_GP, EFER_SCE | EFER_LME | EFER_LMA, 0xc0000080, 0, "wrmsr")               \
    X(nx, NX, EXC_GP, EFER_NXE | EFER_LME | EFER_LMA, 0xc0000080, 0, "wrmsr")                      \
    X(rdtscp, RDTSCP, EXC_UD, 0, 0, 0, "rdtscp")                                                   \
    X(lahf, LAHF_LM, EXC_UD, 0, 0, 0, "lahf")                                                      \
    X(sahf, LAHF_LM, EXC_UD, 0, 0, 0, "sahf")                                                      \
    X(lzcnt, ABM, OK, 0, 1, 0, "lzcnt %ecx, %eax")                                                 \
    X(sse4a, SSE4A, EXC_UD, 0, 0, 0, "extrq %xmm1, %xmm2")                                         \
    X(prefetchw, PREFETCHW, OK, 0, 0, 0, "prefetchw (%rbx)")                                       \
    X(clzero, CLZERO, EXC_UD, GUEST_DATA, 0, 0, "clzero")                                          \
    X(wbnoinvd, WBNOINVD, OK, 0, 0, 0, "wbnoinvd")                                                 \
    X(ibpb, IBPB, EXC_GP, 1, 0x49, 0, "wrmsr")                                                     \
    X(xsaveopt, XSAVEOPT, EXC_UD, 7, 0, 0, "xsaveopt (%rbx)")                                      \
    X(xsavec, XSAVEC, EXC_UD, 7, 0, 0, "xsavec (%rbx)")                                            \
    X(xgetbv1, XGETBV1, EXC_GP, 0, 1, 0, "xgetbv")                                                 \
    X(xsaves, XSAVES, EXC_UD, 7, 0, 0, "xsaves (%rbx)")                                            \
    X(xss, XSAVES, EXC_GP, 0, 0xda0, 0, "rdmsr")

#define SET_CR4                                               "mov %rax, %cr4"
#define CASE_BYTES(id, feature, without, rax, rcx, rdx, text) BYTES(id, text)
CASES(CASE_BYTES)

static const struct feature_case cases[] = {
#define CASE_ROW(id, feature, without, rax, rcx, rdx, text)                                        \
    {FEATURE_##feature, without, rax, rcx, rdx, text, feature_##id, feature_end_##id},
    CASES(CASE_ROW)};

/* Features that no single instruction shows: how memory, caches, interrupts or the topology are,
 * and modes that 64-bit code cannot do without or switch. The last few speak of the APIC, which
 * this processor does not have. */
static const enum cpu_feature others[] = {
    FEATURE_PAE,        FEATURE_PSE36,        FEATURE_SS,          FEATURE_HT,      FEATURE_ERMS,
    FEATURE_FSRM,       FEATURE_LA57,         FEATURE_MD_CLEAR,    FEATURE_MMXEXT,  FEATURE_PDPE1GB,
    FEATURE_LM,         FEATURE_CMP_LEGACY,   FEATURE_MISALIGNSSE, FEATURE_TOPOEXT, FEATURE_INVTSC,
    FEATURE_XSAVEERPTR, FEATURE_HYPERVISOR,   FEATURE_ARAT,        FEATURE_APIC,    FEATURE_X2APIC,
    FEATURE_CR8LEGACY,  FEATURE_TSC_DEADLINE,
};

static const struct {
    enum cpu_feature id;
    const char *name;
} features[] = {
#define FEATURE(id, name, word, bit) {FEATURE_##id, name},
#include "x86/features.def"
#undef FEATURE
};

static const char *feature_name(enum cpu_feature id)
{
    for (size_t i = 0; i < ARRAY_SIZE(features); i++)
        if (features[i].id == id)
            return features[i].name;
    return "?";
}

/* The exception an instruction raises on this model, or OK. */
static int execute(const struct cpu_model *model, const struct feature_case *c)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;
    bool is_cr4 = !strcmp(c->text, SET_CR4);
    int vector;

    g->model = *model;
    cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (model_has(model, FEATURE_XSAVE))
        cpu->cr4 |= CR4_OSXSAVE;
    if (model_has(model, FEATURE_FSGSBASE))
        cpu->cr4 |= CR4_FSGSBASE;
    cpu->xcr0 = model->xcr0_supported;
    cpu->fx.fcw = 0x37f;
    cpu->fx.mxcsr = 0x1f80;
    cpu->fx.ftw = 1;
    cpu->fx.st[0][9] = 0x3f; /* a small normal number in ST(0) */
    cpu->fx.st[0][8] = 0xff;
    cpu->fx.st[0][7] = 0x80;
    cpu->sysenter_cs = 0x08;
    cpu->sysenter_eip = cpu->lstar = GUEST_CODE;
    cpu->star = UINT64_C(0x08) << 32;
    cpu->k[1] = 1;
    cpu->gpr[GPR_RBX] = GUEST_DATA & ~63u;
    cpu->gpr[GPR_RAX] = c->rax | (is_cr4 ? cpu->cr4 : 0);
    cpu->gpr[GPR_RCX] = c->rcx;
    cpu->gpr[GPR_RDX] = c->rdx;
    memcpy(guest_memory(g, GUEST_CODE), c->code, (size_t)(c->end - c->code));
    cpu->rip = GUEST_CODE;
    cpu_state_changed(cpu);
    vector = guest_step(g, 1);
    guest_free(g);
    return vector;
}

static void build(const char *spec, struct cpu_model *out)
{
    struct cpu_limits limits;
    struct error err = {0};

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build(spec, &limits, 2, out, &err), 0);
}

static void what_is_promised_runs(void **state)
{
    struct cpu_model max;
    unsigned wrong = 0, ran = 0;

    build("max,vendor=GenuineIntel,+monitor", &max);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int vector;

        if (!model_has(&max, cases[i].feature))
            continue; /* a host without it */
        ran++;
        vector = execute(&max, &cases[i]);
        if (vector == OK)
            continue;
        print_error("%s is there, but '%s' raises exception %d\n", feature_name(cases[i].feature),
                    cases[i].text, vector);
        wrong++;
    }
    assert_int_equal(wrong, 0);
    assert_true(ran > 50); /* software_own[] alone has as many */
}

static void what_is_not_promised_faults(void **state)
{
    struct cpu_model without;
    unsigned wrong = 0;
    char spec[64];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int vector;

        snprintf(spec, sizeof(spec), "max,vendor=GenuineIntel,+monitor,-%s",
                 feature_name(cases[i].feature));
        build(spec, &without);
        assert_false(model_has(&without, cases[i].feature));
        vector = execute(&without, &cases[i]);
        if (vector == cases[i].without)
            continue;
        print_error("%s: '%s' raises exception %d, expected %d (-1: none)\n", spec, cases[i].text,
                    vector, cases[i].without);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static void every_feature_is_looked_at(void **state)
{
    struct cpu_model max;
    unsigned wrong = 0;

    build("max,vendor=GenuineIntel,+monitor", &max);
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        bool known = !model_has(&max, features[i].id);

        for (size_t j = 0; j < ARRAY_SIZE(cases) && !known; j++)
            known = cases[j].feature == features[i].id;
        for (size_t j = 0; j < ARRAY_SIZE(others) && !known; j++)
            known = others[j] == features[i].id;
        if (known)
            continue;
        print_error("the model 'max' has %s, of which this test knows nothing\n", features[i].name);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_promised_runs),
        cmocka_unit_test(what_is_not_promised_faults),
        cmocka_unit_test(every_feature_is_looked_at),
    };

    return cmocka_run_group_tests_name("interp-features", tests, NULL, NULL);
}
