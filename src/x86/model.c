/*
 * model.c - processor models and CPUID; see model.h.
 *
 * A model is a list of feature names on top of another model's, so that a generation says only
 * what it added. cpu_model_build() resolves the list, applies the user's changes, takes out what
 * the engine cannot run and what depends on it, and lays out the leaves that do not depend on the
 * processor's state. cpu_cpuid() patches those that do.
 *
 * An editor must keep: a base stands before the models that name it; a feature that needs another
 * one is in `needs`, so that "-avx" takes AVX2 and AVX-512 along; a feature in software_own[] is
 * one the interpreter really executes.
 */
#include "x86/model.h"

#include "base/log.h"

#include <cpuid.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

static const struct {
    const char *name;
    enum cpu_feature id;
} features[] = {
#define FEATURE(id, name, word, bit) {name, FEATURE_##id},
#include "x86/features.def"
#undef FEATURE
};

/* Other spellings. '-', '_' and '.' never matter, so only different words are here. */
static const struct {
    const char *alias, *name;
} aliases[] = {
    {"pni", "sse3"},
    {"i64", "lm"},
    {"xd", "nx"},
    {"lzcnt", "abm"},
    {"pclmuldq", "pclmulqdq"},
    {"ffxsr", "fxsr-opt"},
    {"cmpxchg8b", "cx8"},
    {"cmpxchg16b", "cx16"},
    {"amd-stibp", "stibp"},
    {"ibrs", "spec-ctrl"},
    {"constant-tsc", "invtsc"},
};

/* `feature` is nothing without `other`. */
static const struct {
    enum cpu_feature feature, other;
} needs[] = {
    {FEATURE_SSE, FEATURE_FXSR},
    {FEATURE_SSE2, FEATURE_SSE},
    {FEATURE_SSE3, FEATURE_SSE2},
    {FEATURE_SSSE3, FEATURE_SSE3},
    {FEATURE_SSE41, FEATURE_SSSE3},
    {FEATURE_SSE42, FEATURE_SSE41},
    {FEATURE_AES, FEATURE_SSE2},
    {FEATURE_PCLMULQDQ, FEATURE_SSE2},
    {FEATURE_GFNI, FEATURE_SSE2},
    {FEATURE_SHA_NI, FEATURE_SSE2},
    {FEATURE_XSAVEOPT, FEATURE_XSAVE},
    {FEATURE_XSAVEC, FEATURE_XSAVE},
    {FEATURE_XGETBV1, FEATURE_XSAVE},
    {FEATURE_XSAVES, FEATURE_XSAVEC},
    {FEATURE_AVX, FEATURE_XSAVE},
    {FEATURE_PKU, FEATURE_XSAVE},
    {FEATURE_AVX2, FEATURE_AVX},
    {FEATURE_FMA, FEATURE_AVX},
    {FEATURE_F16C, FEATURE_AVX},
    {FEATURE_VAES, FEATURE_AVX},
    {FEATURE_VPCLMULQDQ, FEATURE_AVX},
    {FEATURE_AVX_VNNI, FEATURE_AVX2},
    {FEATURE_AVX512F, FEATURE_AVX2},
    {FEATURE_AVX512DQ, FEATURE_AVX512F},
    {FEATURE_AVX512CD, FEATURE_AVX512F},
    {FEATURE_AVX512BW, FEATURE_AVX512F},
    {FEATURE_AVX512VL, FEATURE_AVX512F},
    {FEATURE_AVX512IFMA, FEATURE_AVX512F},
    {FEATURE_AVX512VBMI, FEATURE_AVX512BW},
    {FEATURE_AVX512VBMI2, FEATURE_AVX512BW},
    {FEATURE_AVX512VNNI, FEATURE_AVX512F},
    {FEATURE_AVX512BITALG, FEATURE_AVX512BW},
    {FEATURE_AVX512VPOPCNTDQ, FEATURE_AVX512F},
    {FEATURE_AVX512VP2INTERSECT, FEATURE_AVX512F},
    {FEATURE_AVX512BF16, FEATURE_AVX512BW},
    {FEATURE_AVX512FP16, FEATURE_AVX512BW},
    {FEATURE_X2APIC, FEATURE_APIC},
    {FEATURE_TSC_DEADLINE, FEATURE_APIC},
    {FEATURE_LM, FEATURE_PAE},
    {FEATURE_SYSCALL, FEATURE_LM},
    {FEATURE_LAHF_LM, FEATURE_LM},
    {FEATURE_PCID, FEATURE_LM},
    {FEATURE_LA57, FEATURE_LM},
    {FEATURE_FSGSBASE, FEATURE_LM},
    {FEATURE_PDPE1GB, FEATURE_LM},
    {FEATURE_CX16, FEATURE_LM},
    {FEATURE_NX, FEATURE_PAE},
};

#define PENTIUM "fpu de pse tsc msr mce cx8 mmx"
#define P6      "pae sep mtrr pge mca cmov pat pse36 apic vme"
#define LONG_SSE2                                                                                  \
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse "    \
    "sse2 syscall nx lm hypervisor"
#define AVX512_SKX "avx512f avx512dq avx512bw avx512cd avx512vl clwb pdpe1gb"

struct base_model {
    const char *name, *like; /* `like`: starts from that model, identity included */
    const char *add, *drop;  /* features, separated by blanks */
    const char *vendor;
    uint8_t family, model, stepping;
    uint8_t phys_bits;
    const char *id; /* brand string */
};

static const struct base_model models[] = {
    {"base", NULL, "", NULL, "GenuineIntel", 6, 6, 3, 40, "Hospes processor"},
    {"486", NULL, "fpu", NULL, "GenuineIntel", 4, 8, 0, 32, "i486"},
    {"pentium", NULL, PENTIUM, NULL, "GenuineIntel", 5, 4, 3, 32, "Pentium MMX"},
    {"pentium2", "pentium", P6 " fxsr", NULL, "GenuineIntel", 6, 5, 2, 36, "Pentium II"},
    {"pentium3", "pentium2", "sse", NULL, "GenuineIntel", 6, 7, 3, 36, "Pentium III"},
    {"n270", "pentium3", "sse2 sse3 ssse3 movbe clflush ss nx", NULL, "GenuineIntel", 6, 28, 2, 36,
     "Intel(R) Atom(TM) CPU N270 @ 1.60GHz"},
    {"coreduo", "pentium3", "sse2 sse3 clflush ss nx monitor", NULL, "GenuineIntel", 6, 14, 8, 36,
     "Genuine Intel(R) CPU T2600 @ 2.16GHz"},
    {"kvm32", "pentium3", "sse2 sse3 clflush hypervisor", NULL, "GenuineIntel", 15, 6, 1, 36,
     "Common 32-bit processor"},
    {"qemu32", "pentium3", "sse2 sse3 clflush popcnt hypervisor", NULL, "GenuineIntel", 6, 6, 3, 36,
     "Hospes virtual 32-bit processor"},
    {"qemu64", NULL, LONG_SSE2 " sse3 cx16 popcnt lahf-lm svm abm sse4a x2apic", "svm abm sse4a",
     "AuthenticAMD", 15, 107, 1, 40, "Hospes virtual processor"},
    {"kvm64", NULL, LONG_SSE2 " sse3 cx16 x2apic", NULL, "GenuineIntel", 15, 6, 1, 40,
     "Common 64-bit processor"},

    {"Conroe", NULL, LONG_SSE2 " sse3 ssse3 cx16 lahf-lm vme x2apic", NULL, "GenuineIntel", 6, 15,
     3, 40, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)"},
    {"Penryn", "Conroe", "sse4.1", NULL, "GenuineIntel", 6, 23, 3, 40,
     "Intel Core 2 Duo P9xxx (Penryn Class Core 2)"},
    {"Nehalem", "Penryn", "sse4.2 popcnt", NULL, "GenuineIntel", 6, 26, 3, 40,
     "Intel Core i7 9xx (Nehalem Class Core i7)"},
    {"Westmere", "Nehalem", "aes pclmulqdq arat", NULL, "GenuineIntel", 6, 44, 1, 40,
     "Westmere E56xx/L56xx/X56xx (Nehalem-C)"},
    {"SandyBridge", "Westmere", "avx xsave xsaveopt rdtscp tsc-deadline", NULL, "GenuineIntel", 6,
     42, 1, 40, "Intel Xeon E312xx (Sandy Bridge)"},
    {"IvyBridge", "SandyBridge", "fsgsbase smep erms f16c rdrand", NULL, "GenuineIntel", 6, 58, 9,
     40, "Intel Xeon E3-12xx v2 (Ivy Bridge)"},
    {"Haswell", "IvyBridge", "avx2 fma bmi1 bmi2 movbe abm pcid invpcid", NULL, "GenuineIntel", 6,
     60, 4, 40, "Intel Core Processor (Haswell)"},
    {"Broadwell", "Haswell", "rdseed adx smap 3dnowprefetch", NULL, "GenuineIntel", 6, 61, 2, 40,
     "Intel Core Processor (Broadwell)"},
    {"Skylake-Client", "Broadwell", "xsavec xgetbv1 clflushopt", NULL, "GenuineIntel", 6, 94, 3, 40,
     "Intel Core Processor (Skylake)"},
    {"Skylake-Server", "Skylake-Client", AVX512_SKX, NULL, "GenuineIntel", 6, 85, 4, 46,
     "Intel Xeon Processor (Skylake)"},
    {"Cascadelake-Server", "Skylake-Server", "avx512vnni spec-ctrl ssbd md-clear", NULL,
     "GenuineIntel", 6, 85, 6, 46, "Intel Xeon Processor (Cascadelake)"},
    {"Icelake-Server", "Cascadelake-Server",
     "avx512ifma avx512vbmi avx512vbmi2 avx512bitalg avx512-vpopcntdq gfni vaes vpclmulqdq umip "
     "la57 rdpid sha-ni wbnoinvd xsaves fsrm",
     NULL, "GenuineIntel", 6, 134, 0, 46, "Intel Xeon Processor (Icelake)"},
    {"SapphireRapids", "Icelake-Server",
     "avx-vnni avx512-bf16 avx512-fp16 serialize movdiri movdir64b", NULL, "GenuineIntel", 6, 143,
     4, 46, "Intel Xeon Processor (SapphireRapids)"},

    {"Opteron_G1", NULL, LONG_SSE2 " sse3", NULL, "AuthenticAMD", 15, 6, 1, 40,
     "AMD Opteron 240 (Gen 1 Class Opteron)"},
    {"Opteron_G2", "Opteron_G1", "cx16 lahf-lm", NULL, "AuthenticAMD", 15, 6, 1, 40,
     "AMD Opteron 22xx (Gen 2 Class Opteron)"},
    {"Opteron_G3", "Opteron_G2", "popcnt abm sse4a misalignsse monitor rdtscp", NULL,
     "AuthenticAMD", 16, 2, 3, 40, "AMD Opteron 23xx (Gen 3 Class Opteron)"},
    {"Opteron_G4", "Opteron_G3",
     "avx xsave aes pclmulqdq ssse3 sse4.1 sse4.2 pdpe1gb 3dnowprefetch", "monitor", "AuthenticAMD",
     21, 1, 2, 40, "AMD Opteron 62xx class CPU"},
    {"Opteron_G5", "Opteron_G4", "f16c fma", NULL, "AuthenticAMD", 21, 2, 0, 40,
     "AMD Opteron 63xx class CPU"},
    {"EPYC", "Opteron_G5",
     "vme rdrand movbe fsgsbase bmi1 bmi2 avx2 smep rdseed adx smap clflushopt sha-ni mmxext "
     "fxsr-opt cr8legacy osvw topoext xsaveopt xsavec xgetbv1 arat x2apic",
     NULL, "AuthenticAMD", 23, 1, 2, 48, "AMD EPYC Processor"},
    {"EPYC-Rome", "EPYC", "ibpb stibp clzero xsaveerptr wbnoinvd clwb umip rdpid", NULL,
     "AuthenticAMD", 23, 49, 0, 48, "AMD EPYC-Rome Processor"},
    {"EPYC-Milan", "EPYC-Rome", "invpcid pcid erms fsrm vaes vpclmulqdq ssbd xsaves", NULL,
     "AuthenticAMD", 25, 1, 1, 48, "AMD EPYC-Milan Processor"},
    {"EPYC-Genoa", "EPYC-Milan",
     AVX512_SKX " avx512ifma avx512vbmi avx512vbmi2 gfni avx512vnni avx512bitalg avx512-vpopcntdq "
                "avx512-bf16 la57",
     NULL, "AuthenticAMD", 25, 17, 0, 52, "AMD EPYC-Genoa Processor"},

    /* These two take what the engine has; without MONITOR, because a HLT costs us less than
     * watching memory for an idle processor. */
    {"host", NULL, NULL, "monitor", NULL, 0, 0, 0, 0, NULL},
    /* AMD's name because guests then leave out what only cures Intel's hardware (page-table
     * isolation costs a software MMU dearly). The first family with long mode: a 32-bit Linux takes
     * family 6 for an Athlon, and warns that this one is not made for several processors. */
    {"max", NULL, NULL, "monitor", "AuthenticAMD", 15, 107, 1, 46, "Hospes maximum processor"},
};

/* What the interpreter executes itself, whatever the host is. */
static const char software_own[] =
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush fxsr ss ht "
    "mmx sse sse2 monitor cx16 pcid x2apic tsc-deadline xsave hypervisor arat fsgsbase tsc-adjust "
    "smep erms invpcid smap clflushopt clwb umip la57 rdpid fsrm md-clear syscall nx mmxext "
    "pdpe1gb rdtscp lm lahf-lm cmp-legacy 3dnowprefetch topoext xsaveerptr xsaveopt xsavec xgetbv1 "
    "xsaves clzero wbnoinvd serialize";

/* What it runs on the host's own units: there only if the host has it. */
static const char software_host[] =
    "sse3 pclmulqdq ssse3 fma sse4.1 sse4.2 movbe popcnt aes avx f16c rdrand bmi1 avx2 bmi2 "
    "avx512f avx512dq rdseed adx avx512ifma avx512cd sha-ni avx512bw avx512vl avx512vbmi "
    "avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg avx512-vpopcntdq "
    "avx512-vp2intersect avx512-fp16 avx-vnni avx512-bf16 abm sse4a movdiri movdir64b invtsc";

/* ---- names ------------------------------------------------------------------------------- */

/* Equal, where '-', '_' and '.' and case do not count; `length` of a. */
static bool name_equal(const char *a, size_t length, const char *b)
{
    const char *end = a + length;

    for (;;) {
        while (a < end && strchr("-_.", *a))
            a++;
        while (*b && strchr("-_.", *b))
            b++;
        if (a == end || !*b)
            return a == end && !*b;
        if (tolower((unsigned char)*a++) != tolower((unsigned char)*b++))
            return false;
    }
}

static int feature_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(aliases); i++) {
        if (name_equal(name, length, aliases[i].alias)) {
            name = aliases[i].name;
            length = strlen(name);
            break;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(features); i++)
        if (name_equal(name, length, features[i].name))
            return (int)features[i].id;
    return -1;
}

/* Edit distance, for "did you mean"; names are cut to 63 characters. */
static unsigned name_distance(const char *a, const char *b)
{
    unsigned row[64], la = (unsigned)strnlen(a, 63), lb = (unsigned)strnlen(b, 63);

    for (unsigned j = 0; j <= lb; j++)
        row[j] = j;
    for (unsigned i = 1; i <= la; i++) {
        unsigned corner = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= lb; j++) {
            unsigned same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
            unsigned best = MIN(MIN(row[j], row[j - 1]) + 1, corner + !same);

            corner = row[j];
            row[j] = best;
        }
    }
    return row[lb];
}

static const char *nearest_feature(const char *name)
{
    const char *best = features[0].name;
    unsigned distance = UINT32_MAX;

    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        unsigned d = name_distance(name, features[i].name);

        if (d < distance) {
            distance = d;
            best = features[i].name;
        }
    }
    return best;
}

static const char *nearest_model(const char *name)
{
    const char *best = models[0].name;
    unsigned distance = UINT32_MAX;

    for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
        unsigned d = name_distance(name, models[i].name);

        if (d < distance) {
            distance = d;
            best = models[i].name;
        }
    }
    return best;
}

static void word_set(uint32_t *word, enum cpu_feature f, bool on)
{
    if (on)
        word[f / 32] |= 1u << f % 32;
    else
        word[f / 32] &= ~(1u << f % 32);
}

static bool word_get(const uint32_t *word, enum cpu_feature f)
{
    return (word[f / 32] >> f % 32 & 1) != 0;
}

/* A list of our own: every name in it exists. */
static void apply_list(uint32_t *word, const char *list, bool on)
{
    while (list && *list) {
        size_t n = strcspn(list, " ");

        if (n)
            word_set(word, (enum cpu_feature)feature_find(list, n), on);
        list += n;
        list += strspn(list, " ");
    }
}

/* ---- what there is ------------------------------------------------------------------------ */

static void host_words(uint32_t *word)
{
    unsigned a, b, c, d;

    memset(word, 0, WORD_COUNT * sizeof(*word));
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        word[WORD_1_EDX] = d;
        word[WORD_1_ECX] = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        word[WORD_7_0_EBX] = b;
        word[WORD_7_0_ECX] = c;
        word[WORD_7_0_EDX] = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            word[WORD_7_1_EAX] = a;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        word[WORD_80000001_EDX] = d;
        word[WORD_80000001_ECX] = c;
    }
    if (__get_cpuid(0x80000007, &a, &b, &c, &d))
        word[WORD_80000007_EDX] = d;
    if (__get_cpuid(0x80000008, &a, &b, &c, &d))
        word[WORD_80000008_EBX] = b;
    if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
        word[WORD_D_1_EAX] = a;
}

/* What the host's system lets programs use. */
static uint64_t host_xcr0(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return XCR0_X87 | XCR0_SSE;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a | (uint64_t)d << 32;
}

void cpu_limits_software(struct cpu_limits *out)
{
    /* For hosts that have a component but do not tell where (none known): Intel's places. */
    static const struct {
        uint16_t offset, size;
    } standard[XSAVE_COMPONENTS] = {{0, 160},   {160, 256},  {576, 256},   {0, 0}, {0, 0},
                                    {1088, 64}, {1152, 512}, {1664, 1024}, {0, 0}, {0, 0}};
    uint64_t xcr0 = host_xcr0();
    uint32_t host[WORD_COUNT], wanted[WORD_COUNT] = {0};
    unsigned a, b, c, d;

    memset(out, 0, sizeof(*out));
    out->who = "the software engine";
    out->phys_bits = 52;
    host_words(host);
    apply_list(wanted, software_host, true);
    for (unsigned i = 0; i < WORD_COUNT; i++)
        out->word[i] = host[i] & wanted[i];
    apply_list(out->word, software_own, true);
    if (!(xcr0 & XCR0_AVX))
        word_set(out->word, FEATURE_AVX, false);
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512)
        word_set(out->word, FEATURE_AVX512F, false);
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++) {
        if (!standard[i].size || !(xcr0 >> i & 1))
            continue;
        out->xsave[i].offset = standard[i].offset;
        out->xsave[i].size = standard[i].size;
        if (i >= 2 && __get_cpuid_count(0xd, i, &a, &b, &c, &d) && a == standard[i].size) {
            out->xsave[i].offset = b;
            out->xsave[i].size = a;
        }
    }
}

/* ---- building ------------------------------------------------------------------------------ */

static const struct base_model *model_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        if (strlen(models[i].name) == length && !strncasecmp(models[i].name, name, length))
            return &models[i];
    return NULL;
}

/* QEMU's variants: "-v2", "-noTSX" (no model here has TSX), "-IBRS", "-IBPB". */
static const struct base_model *model_find_variant(const char *name, uint32_t *word)
{
    size_t length = strlen(name);
    const struct base_model *m;

    while (!(m = model_find(name, length))) {
        const char *dash = memrchr(name, '-', length);
        size_t n = dash ? length - (size_t)(dash - name) : 0;

        if (n == 3 && dash[1] == 'v' && isdigit((unsigned char)dash[2]))
            ;
        else if (n == 6 && !strncmp(dash, "-noTSX", n))
            ;
        else if (n == 5 && !strncmp(dash, "-IBRS", n))
            word_set(word, FEATURE_SPEC_CTRL, true);
        else if (n == 5 && !strncmp(dash, "-IBPB", n))
            word_set(word, FEATURE_IBPB, true);
        else
            return NULL;
        length -= n;
    }
    return m;
}

static void apply_base(uint32_t *word, const struct base_model *m)
{
    if (m->like)
        apply_base(word, model_find(m->like, strlen(m->like)));
    apply_list(word, m->add, true);
    apply_list(word, m->drop, false);
}

struct build {
    struct cpu_model *m;
    const struct cpu_limits *limits;
    uint32_t asked[WORD_COUNT]; /* by the user, by name */
    char brand[49];
    bool check, enforce;
};

static void host_identity(struct build *b)
{
    unsigned a, r[4], top, family, model;
    char brand[49] = {0};

    __cpuid(0, a, r[0], r[1], r[2]);
    memcpy(b->m->vendor, &r[0], 4);
    memcpy(b->m->vendor + 4, &r[2], 4);
    memcpy(b->m->vendor + 8, &r[1], 4);
    __cpuid(1, a, r[1], r[2], r[3]);
    family = a >> 8 & 15;
    model = a >> 4 & 15;
    if (family == 6 || family == 15)
        model |= (a >> 16 & 15) << 4;
    if (family == 15)
        family += a >> 20 & 255;
    b->m->family = family;
    b->m->model = model;
    b->m->stepping = a & 15;
    top = __get_cpuid_max(0x80000000, NULL);
    for (unsigned i = 0; top >= 0x80000004 && i < 3; i++) {
        __cpuid(0x80000002 + i, r[0], r[1], r[2], r[3]);
        memcpy(brand + 16 * i, r, 16);
    }
    memcpy(b->brand, brand, sizeof(brand));
    b->m->phys_bits = 40;
    if (top >= 0x80000008) {
        __cpuid(0x80000008, a, r[1], r[2], r[3]);
        b->m->phys_bits = (uint8_t)a;
    }
}

static int parse_number(const char *key, const char *value, unsigned long low, unsigned long high,
                        unsigned long *out, struct error *err)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(value, &end, 0);
    if (errno || end == value || *end || *value == '-' || n < low || n > high)
        return error_set(err, EINVAL, "%s=%s is not a number from %lu to %lu", key, value, low,
                         high);
    *out = n;
    return 0;
}

static int parse_switch(const char *key, const char *value, bool *out, struct error *err)
{
    bool on = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");

    if (!on && strcmp(value, "off") && strcmp(value, "false") && strcmp(value, "no"))
        return error_set(err, EINVAL, "%s=%s: say on or off", key, value);
    *out = on;
    return 0;
}

static int set_vendor(struct build *b, const char *value, struct error *err)
{
    if (strlen(value) != 12)
        return error_set(err, EINVAL, "vendor=%s has %zu characters, a vendor has 12", value,
                         strlen(value));
    memcpy(b->m->vendor, value, 13);
    return 0;
}

static int set_model_id(struct build *b, const char *value, struct error *err)
{
    if (strlen(value) > 48)
        return error_set(err, EINVAL, "model-id is %zu characters long, 48 fit", strlen(value));
    memset(b->brand, 0, sizeof(b->brand));
    memcpy(b->brand, value, strlen(value));
    return 0;
}

/* One item of the list after the model's name; `item` is ours to cut up. */
static int apply_item(struct build *b, char *item, struct error *err)
{
    char *value = strchr(item, '=');
    bool on = *item != '-';
    unsigned long n;
    int f, r;

    if (*item == '+' || *item == '-') {
        item++;
        value = NULL;
    }
    if (value) {
        *value++ = 0;
        if (!strcmp(item, "vendor"))
            return set_vendor(b, value, err);
        if (!strcmp(item, "model-id"))
            return set_model_id(b, value, err);
        if (!strcmp(item, "family")) {
            r = parse_number(item, value, 0, 15 + 255, &n, err);
            if (!r)
                b->m->family = (uint32_t)n;
            return r;
        }
        if (!strcmp(item, "model")) {
            r = parse_number(item, value, 0, 255, &n, err);
            if (!r)
                b->m->model = (uint32_t)n;
            return r;
        }
        if (!strcmp(item, "stepping")) {
            r = parse_number(item, value, 0, 15, &n, err);
            if (!r)
                b->m->stepping = (uint32_t)n;
            return r;
        }
        if (!strcmp(item, "phys-bits")) {
            r = parse_number(item, value, 32, 52, &n, err);
            if (!r && n > b->limits->phys_bits)
                return error_set(err, EINVAL, "phys-bits=%lu: %s has %u at most", n, b->limits->who,
                                 b->limits->phys_bits);
            if (!r)
                b->m->phys_bits = (uint8_t)n;
            return r;
        }
        r = parse_switch(item, value, &on, err);
        if (r)
            return r;
    }
    if (!strcmp(item, "check") || !strcmp(item, "enforce")) {
        *(*item == 'c' ? &b->check : &b->enforce) = on;
        return 0;
    }
    f = feature_find(item, strlen(item));
    if (f < 0)
        return error_set(err, EINVAL, "unknown processor feature '%s'; the nearest is '%s'", item,
                         nearest_feature(item));
    word_set(b->m->word, (enum cpu_feature)f, on);
    word_set(b->asked, (enum cpu_feature)f, on);
    return 0;
}

static void drop_dependents(struct cpu_model *m)
{
    bool changed;

    do {
        changed = false;
        for (size_t i = 0; i < ARRAY_SIZE(needs); i++) {
            if (model_has(m, needs[i].feature) && !model_has(m, needs[i].other)) {
                word_set(m->word, needs[i].feature, false);
                changed = true;
            }
        }
    } while (changed);
}

/* Take out what the engine has not. */
static int apply_limits(struct build *b, struct error *err)
{
    struct cpu_model *m = b->m;
    char missing[256] = "";
    size_t used = 0;
    bool asked = false;

    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        if (!model_has(m, features[i].id) || word_get(b->limits->word, features[i].id))
            continue;
        word_set(m->word, features[i].id, false);
        asked |= word_get(b->asked, features[i].id);
        if (used < sizeof(missing))
            used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s",
                                     used ? ", " : "", features[i].name);
    }
    if (used && b->enforce)
        return error_set(err, ENOTSUP, "processor model '%s': %s does not have %s here", m->name,
                         b->limits->who, missing);
    if (used && b->check)
        log_message(asked ? LOG_WARN : LOG_INFO,
                    "processor model '%s': left out what %s has not: %s", m->name, b->limits->who,
                    missing);
    m->phys_bits = MIN(m->phys_bits, b->limits->phys_bits);
    return 0;
}

static void set_xsave(struct cpu_model *m, const struct cpu_limits *limits)
{
    if (!model_has(m, FEATURE_XSAVE))
        return;
    m->xcr0_supported = XCR0_X87 | XCR0_SSE;
    if (model_has(m, FEATURE_AVX))
        m->xcr0_supported |= XCR0_AVX;
    if (model_has(m, FEATURE_AVX512F))
        m->xcr0_supported |= XCR0_AVX512;
    if (model_has(m, FEATURE_PKU))
        m->xcr0_supported |= XCR0_PKRU;
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++) {
        if (!(m->xcr0_supported >> i & 1))
            continue;
        m->xsave[i].offset = limits->xsave[i].offset;
        m->xsave[i].size = limits->xsave[i].size;
    }
}

static unsigned log2_up(unsigned n)
{
    unsigned bits = 0;

    while (1u << bits < n)
        bits++;
    return bits;
}

static bool is_amd(const struct cpu_model *m)
{
    return !strcmp(m->vendor, "AuthenticAMD") || !strcmp(m->vendor, "HygonGenuine");
}

static struct cpuid_entry *leaf_add(struct cpu_model *m, uint32_t function, int index, uint32_t eax,
                                    uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    struct cpuid_entry *e = &m->leaf[m->leaves++];

    *e = (struct cpuid_entry){function, index < 0 ? 0 : (uint32_t)index, index >= 0, eax, ebx, ecx,
                              edx};
    return e;
}

static uint32_t signature(const struct cpu_model *m)
{
    uint32_t family = m->family > 15 ? 15 : m->family;
    uint32_t extended = m->family > 15 ? m->family - 15 : 0;

    return extended << 20 | (m->model >> 4) << 16 | family << 8 | (m->model & 15) << 4 |
           m->stepping;
}

/* Deterministic cache parameters: leaf 4 (Intel) and 0x8000001D (AMD) share the form. */
static void leaf_cache(struct cpu_model *m, uint32_t function, unsigned index, unsigned type,
                       unsigned level, unsigned kib, unsigned ways, unsigned sharing)
{
    uint32_t sets = kib * 1024 / 64 / ways;
    uint32_t cores = function == 4 ? (1u << log2_up(m->cores)) - 1 : 0;
    uint32_t share = (1u << log2_up(sharing)) - 1;

    leaf_add(m, function, (int)index, type | level << 5 | 1u << 8 | share << 14 | cores << 26,
             (ways - 1) << 22 | 63, sets - 1, level == 3 ? 4 : 0);
}

static void leaf_caches(struct cpu_model *m, uint32_t function)
{
    leaf_cache(m, function, 0, 1, 1, 32, 8, m->threads);
    leaf_cache(m, function, 1, 2, 1, 32, 8, m->threads);
    leaf_cache(m, function, 2, 3, 2, 512, 8, m->threads);
    leaf_cache(m, function, 3, 3, 3, 16384, 16, m->cpus);
    leaf_add(m, function, 4, 0, 0, 0, 0);
}

static void leaf_text(struct cpu_model *m, uint32_t function, const char *text)
{
    uint32_t r[4];

    memcpy(r, text, sizeof(r));
    leaf_add(m, function, -1, r[0], r[1], r[2], r[3]);
}

static void basic_leaves(struct cpu_model *m)
{
    uint32_t v[3], top = 1;
    bool seven = m->word[WORD_7_0_EBX] || m->word[WORD_7_0_ECX] || m->word[WORD_7_0_EDX] ||
                 m->word[WORD_7_1_EAX];
    unsigned shift = log2_up(m->cpus);

    if (!is_amd(m) && m->family >= 6)
        top = 4;
    if (model_has(m, FEATURE_MONITOR))
        top = 5;
    if (m->word[WORD_6_EAX])
        top = 6;
    if (seven)
        top = 7;
    if (model_has(m, FEATURE_X2APIC))
        top = 0xb;
    if (model_has(m, FEATURE_XSAVE))
        top = 0xd;
    if (!is_amd(m) && model_has(m, FEATURE_LA57))
        top = 0x1f;
    memcpy(v, m->vendor, sizeof(v));
    leaf_add(m, 0, -1, top, v[0], v[2], v[1]);
    /* EBX: CLFLUSH line in units of 8 bytes, processors in this package, APIC id (later). */
    leaf_add(m, 1, -1, signature(m),
             (model_has(m, FEATURE_CLFLUSH) ? 8u << 8 : 0) | MIN(1u << shift, 128u) << 16,
             m->word[WORD_1_ECX], m->word[WORD_1_EDX]);
    if (top >= 4 && !is_amd(m)) {
        leaf_add(m, 2, -1, 0xff01, 0, 0, 0); /* "see leaf 4" */
        leaf_caches(m, 4);
    }
    if (model_has(m, FEATURE_MONITOR))
        leaf_add(m, 5, -1, 64, 64, 3, 0); /* line; extensions, interrupt break; C0 only */
    if (m->word[WORD_6_EAX])
        leaf_add(m, 6, -1, m->word[WORD_6_EAX], 0, 0, 0);
    if (seven) {
        leaf_add(m, 7, 0, m->word[WORD_7_1_EAX] ? 1 : 0, m->word[WORD_7_0_EBX],
                 m->word[WORD_7_0_ECX], m->word[WORD_7_0_EDX]);
        if (m->word[WORD_7_1_EAX])
            leaf_add(m, 7, 1, m->word[WORD_7_1_EAX], 0, 0, 0);
    }
    for (uint32_t f = 0xb; f <= top; f += 0x1f - 0xb) {
        leaf_add(m, f, 0, log2_up(m->threads), m->threads, 1u << 8 | 0, 0);
        leaf_add(m, f, 1, shift, m->cpus, 2u << 8 | 1, 0);
        leaf_add(m, f, 2, 0, 0, 2, 0);
    }
}

/* Bytes of the standard-format area for the components of `mask`. */
static uint32_t xsave_size(const struct cpu_model *m, uint64_t mask)
{
    uint32_t size = 512 + 64;

    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++)
        if (mask >> i & 1)
            size = MAX(size, m->xsave[i].offset + m->xsave[i].size);
    return size;
}

static uint32_t xsave_compact_size(const struct cpu_model *m, uint64_t mask)
{
    uint32_t size = 512 + 64;

    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++)
        if (mask >> i & 1)
            size += m->xsave[i].size;
    return size;
}

static void xsave_leaves(struct cpu_model *m)
{
    if (!model_has(m, FEATURE_XSAVE))
        return;
    leaf_add(m, 0xd, 0, (uint32_t)m->xcr0_supported, xsave_size(m, XCR0_X87),
             xsave_size(m, m->xcr0_supported), (uint32_t)(m->xcr0_supported >> 32));
    leaf_add(m, 0xd, 1, m->word[WORD_D_1_EAX], 0, 0, 0);
    for (unsigned i = 2; i < XSAVE_COMPONENTS; i++)
        if (m->xcr0_supported >> i & 1)
            leaf_add(m, 0xd, (int)i, m->xsave[i].size, m->xsave[i].offset, 0, 0);
}

static void extended_leaves(struct cpu_model *m, const char *brand)
{
    bool amd = is_amd(m), topology = amd && model_has(m, FEATURE_TOPOEXT);
    uint32_t v[3] = {0}, edx = m->word[WORD_80000001_EDX];
    unsigned shift = log2_up(m->cpus);

    if (m->family < 6)
        return;
    if (amd) {
        memcpy(v, m->vendor, sizeof(v));
        edx |= m->word[WORD_1_EDX] & 0x0183f3ff; /* the bits AMD repeats here */
    }
    leaf_add(m, 0x80000000, -1, topology ? 0x8000001e : 0x80000008, v[0], v[2], v[1]);
    leaf_add(m, 0x80000001, -1, amd ? signature(m) : 0, 0, m->word[WORD_80000001_ECX], edx);
    for (uint32_t i = 0; i < 3; i++)
        leaf_text(m, 0x80000002 + i, brand + 16 * i);
    if (amd) /* L1: TLBs of 64 entries; 32 KiB, 8 ways, lines of 64 */
        leaf_add(m, 0x80000005, -1, 0xff40ff40, 0xff40ff40, 0x20080140, 0x20080140);
    /* L2: 512 KiB, 8 ways (code 6); L3: 16 MiB in units of 512 KiB, 16 ways (code 8). */
    leaf_add(m, 0x80000006, -1, 0, amd ? 0x42004200 : 0, 512u << 16 | 6u << 12 | 1u << 8 | 64,
             amd ? 32u << 18 | 8u << 12 | 1u << 8 | 64 : 0);
    leaf_add(m, 0x80000007, -1, 0, 0, 0, m->word[WORD_80000007_EDX]);
    leaf_add(m, 0x80000008, -1, m->phys_bits | (uint32_t)m->linear_bits << 8,
             m->word[WORD_80000008_EBX], amd ? shift << 12 | MIN(m->cpus - 1, 255u) : 0, 0);
    if (topology) {
        leaf_caches(m, 0x8000001d);
        leaf_add(m, 0x8000001e, -1, 0, (m->threads - 1) << 8, 0, 0);
    }
}

int cpu_model_build(const char *spec, const struct cpu_limits *limits, unsigned cpus,
                    struct cpu_model *out, struct error *err)
{
    struct cpu_model m = {.cpus = cpus, .cores = cpus, .threads = 1};
    struct build b = {.m = &m, .limits = limits, .check = true};
    auto_free char *copy = xstrdup(spec && *spec                ? spec
                                   : strcmp(limits->who, "KVM") ? "max"
                                                                : "host");
    char *rest = copy, *name = strsep(&rest, ",");
    const struct base_model *base = model_find_variant(name, m.word);
    int r;

    if (!base)
        return error_set(err, EINVAL, "unknown processor model '%s'; the nearest is '%s'", name,
                         nearest_model(name));
    snprintf(m.name, sizeof(m.name), "%s", name);
    if (!base->add)
        memcpy(m.word, limits->word, sizeof(m.word));
    apply_base(m.word, base);
    if (base->vendor) {
        memcpy(m.vendor, base->vendor, sizeof(m.vendor));
        m.family = base->family;
        m.model = base->model;
        m.stepping = base->stepping;
        m.phys_bits = base->phys_bits;
        snprintf(b.brand, sizeof(b.brand), "%s", base->id);
    } else {
        host_identity(&b);
    }
    while (rest) {
        char *item = strsep(&rest, ",");

        r = *item ? apply_item(&b, item, err) : 0;
        if (r)
            return error_prefix(err, r, "processor model '%s': ", m.name);
    }
    r = apply_limits(&b, err);
    if (r)
        return r;
    drop_dependents(&m);
    word_set(m.word, FEATURE_HT, cpus > 1 && model_has(&m, FEATURE_APIC));
    word_set(m.word, FEATURE_CMP_LEGACY, cpus > 1 && is_amd(&m) && model_has(&m, FEATURE_LM));
    if (!is_amd(&m))
        word_set(m.word, FEATURE_TOPOEXT, false);
    if (!model_has(&m, FEATURE_PAE))
        m.phys_bits = 32;
    else if (!model_has(&m, FEATURE_LM))
        m.phys_bits = MIN(m.phys_bits, 36);
    m.linear_bits = model_has(&m, FEATURE_LA57) ? 57 : model_has(&m, FEATURE_LM) ? 48 : 32;
    set_xsave(&m, limits);
    basic_leaves(&m);
    xsave_leaves(&m);
    if (model_has(&m, FEATURE_HYPERVISOR)) {
        uint32_t v[3];

        memcpy(v, "HospesHospes", sizeof(v));
        leaf_add(&m, 0x40000000, -1, 0x40000000, v[0], v[1], v[2]);
    }
    extended_leaves(&m, b.brand);
    *out = m;
    return 0;
}

const char *cpu_model_name(unsigned n)
{
    return n < ARRAY_SIZE(models) ? models[n].name : NULL;
}

void cpu_model_list(FILE *out)
{
    unsigned column = 0;

    fprintf(out, "Processor models:\n");
    for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
        const char *id = models[i].id;

        if (!strcmp(models[i].name, "host"))
            id = "this host's processor, as far as the engine goes";
        else if (!strcmp(models[i].name, "max"))
            id = "everything the engine has";
        fprintf(out, "  %-20s %s\n", models[i].name, id);
    }
    fprintf(out, "\nFeatures, for MODEL,+feature,-feature or MODEL,feature=on|off:\n");
    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        if (column + strlen(features[i].name) > 76) {
            fprintf(out, "\n");
            column = 0;
        }
        column += (unsigned)fprintf(out, "%s%s", column ? " " : "  ", features[i].name);
    }
    fprintf(out, "\n\nAlso: vendor=, family=, model=, stepping=, model-id=, phys-bits=, check, "
                 "enforce.\n");
}

/* ---- asking -------------------------------------------------------------------------------- */

static const struct cpuid_entry *leaf_find(const struct cpu_model *m, uint32_t function,
                                           uint32_t index)
{
    for (unsigned i = 0; i < m->leaves; i++)
        if (m->leaf[i].function == function && (!m->leaf[i].indexed || m->leaf[i].index == index))
            return &m->leaf[i];
    return NULL;
}

/* Functions that are not there answer as the manual has it: above the highest basic (or extended)
 * one as the highest basic one does (Intel), or with zeros (AMD); below it, zeros. */
static const struct cpuid_entry *leaf_answer(const struct cpu_model *m, uint32_t *function,
                                             uint32_t index)
{
    const struct cpuid_entry *e = leaf_find(m, *function, index), *top;
    uint32_t range = *function & 0x80000000;

    if (e || is_amd(m))
        return e;
    top = leaf_find(m, range, 0);
    if (top && *function <= top->eax)
        return NULL;
    if (*function >> 28 == 4 && model_has(m, FEATURE_HYPERVISOR))
        return NULL;
    *function = leaf_find(m, 0, 0)->eax;
    return leaf_find(m, *function, index);
}

/* IA32_APIC_BASE.EN: a switched off APIC is one that is not there. */
static bool apic_enabled(const struct cpu *cpu)
{
    uint64_t base;

    return cpu->intc.read_msr && cpu->intc.read_msr(cpu->intc.opaque, 0x1b, &base) &&
           (base >> 11 & 1) != 0;
}

void cpu_cpuid(const struct cpu *cpu, uint32_t function, uint32_t index, uint32_t out[4])
{
    const struct cpu_model *m = cpu->model;
    const struct cpuid_entry *e = leaf_answer(m, &function, index);
    bool apic_off = !apic_enabled(cpu);

    memset(out, 0, 4 * sizeof(*out));
    if (e) {
        out[0] = e->eax;
        out[1] = e->ebx;
        out[2] = e->ecx;
        out[3] = e->edx;
    }
    switch (function) {
    case 1:
        out[1] |= (cpu->apic_id & 0xff) << 24;
        if (cpu->cr4 & CR4_OSXSAVE)
            out[2] |= 1u << 27;
        if (apic_off)
            out[3] &= ~(1u << 9);
        break;
    case 7:
        if (e && index == 0 && cpu->cr4 & CR4_PKE)
            out[2] |= 1u << 4;
        break;
    case 0xb:
    case 0x1f:
        if (leaf_find(m, function, 0)) {
            if (!e)
                out[2] = index & 0xff;
            out[3] = cpu->apic_id;
        }
        break;
    case 0xd:
        if (e && index == 0)
            out[1] = xsave_size(m, cpu->xcr0);
        else if (e && index == 1)
            out[1] = out[0] & 0xa ? xsave_compact_size(m, cpu->xcr0) : 0;
        break;
    case 0x80000001:
        if (is_amd(m) && apic_off)
            out[3] &= ~(1u << 9);
        break;
    case 0x8000001e:
        if (e) {
            out[0] = cpu->apic_id;
            out[1] |= cpu->apic_id / m->threads & 0xff;
        }
        break;
    default: break;
    }
}

uint64_t cpu_cr0_reserved(const struct cpu *cpu)
{
    return ~UINT64_C(0) << 32; /* reserved bits below are ignored, not refused */
}

uint64_t cpu_cr4_reserved(const struct cpu *cpu)
{
    static const struct {
        enum cpu_feature feature;
        uint32_t bits;
    } allowed[] = {
        {FEATURE_VME, CR4_VME | CR4_PVI},
        {FEATURE_TSC, CR4_TSD},
        {FEATURE_DE, CR4_DE},
        {FEATURE_PSE, CR4_PSE},
        {FEATURE_PAE, CR4_PAE},
        {FEATURE_MCE, CR4_MCE},
        {FEATURE_PGE, CR4_PGE},
        {FEATURE_FXSR, CR4_OSFXSR},
        {FEATURE_SSE, CR4_OSXMMEXCPT},
        {FEATURE_UMIP, CR4_UMIP},
        {FEATURE_LA57, CR4_LA57},
        {FEATURE_FSGSBASE, CR4_FSGSBASE},
        {FEATURE_PCID, CR4_PCIDE},
        {FEATURE_XSAVE, CR4_OSXSAVE},
        {FEATURE_SMEP, CR4_SMEP},
        {FEATURE_SMAP, CR4_SMAP},
        {FEATURE_PKU, CR4_PKE},
        {FEATURE_MMX, CR4_PCE},
    };
    uint64_t ok = 0;

    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
        if (cpu_has(cpu, allowed[i].feature))
            ok |= allowed[i].bits;
    return ~ok;
}

uint64_t cpu_efer_reserved(const struct cpu *cpu)
{
    uint64_t ok = 0;

    if (cpu_has(cpu, FEATURE_SYSCALL))
        ok |= EFER_SCE;
    if (cpu_has(cpu, FEATURE_LM))
        ok |= EFER_LME | EFER_LMA;
    if (cpu_has(cpu, FEATURE_NX))
        ok |= EFER_NXE;
    if (cpu_has(cpu, FEATURE_FXSR_OPT))
        ok |= EFER_FFXSR;
    return ~ok;
}
