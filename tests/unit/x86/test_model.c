/*
 * test_model.c - processor models: names, changes, limits, dependencies, CPUID leaves.
 *
 * Limits are made up here, so that the answers do not depend on the host; one test asks the host.
 */
#include "support/unit.h"

#include "base/log.h"
#include "x86/model.h"

#include <cpuid.h>
#include <errno.h>

static void everything(struct cpu_limits *l)
{
    memset(l, 0, sizeof(*l));
    memset(l->word, 0xff, sizeof(l->word));
    l->phys_bits = 52;
    l->who = "the test";
    l->xsave[0].size = 160;
    l->xsave[1].offset = 160;
    l->xsave[1].size = 256;
    l->xsave[2].offset = 576;
    l->xsave[2].size = 256;
    l->xsave[5].offset = 832;
    l->xsave[5].size = 64;
    l->xsave[6].offset = 896;
    l->xsave[6].size = 512;
    l->xsave[7].offset = 1408;
    l->xsave[7].size = 1024;
    l->xsave[9].offset = 2432;
    l->xsave[9].size = 8;
}

static struct cpu_model build(const char *spec, unsigned cpus)
{
    struct cpu_limits l;
    struct cpu_model m;
    struct error err = {0};

    everything(&l);
    if (cpu_model_build(spec, &l, cpus, &m, &err))
        fail_msg("%s: %s", spec, err.text);
    return m;
}

static struct cpu make_cpu(const struct cpu_model *m)
{
    return (struct cpu){.model = m, .apic_page = CPU_NO_APIC_PAGE, .xcr0 = XCR0_X87};
}

static bool apic_base_enabled(void *opaque, uint32_t index, uint64_t *value)
{
    assert_int_equal(index, 0x1b);
    *value = 0xfee00900;
    return true;
}

static void refuse(const char *spec, int code, const char *text)
{
    struct cpu_limits l;
    struct cpu_model m;
    struct error err = {0};

    everything(&l);
    l.word[FEATURE_AVX512F / 32] &= ~(1u << FEATURE_AVX512F % 32);
    l.phys_bits = 46;
    assert_int_equal(cpu_model_build(spec, &l, 1, &m, &err), -code);
    assert_string_equal(err.text, text);
}

static void every_model_builds(void **state)
{
    const char *name;

    for (unsigned n = 0; (name = cpu_model_name(n)); n++) {
        struct cpu_model m = build(name, 3);

        assert_string_equal(m.name, name);
        assert_in_range(m.leaves, 2, CPUID_LEAVES);
        assert_int_equal(strlen(m.vendor), 12);
        assert_int_equal(strcmp(name, "base") == 0, !model_has(&m, FEATURE_FPU));
    }
    assert_true(name == NULL);
}

static void generations_add_up(void **state)
{
    struct cpu_model sandy = build("SandyBridge", 1), haswell = build("Haswell-noTSX-IBRS", 1),
                     skylake = build("skylake-server-v3", 1), genoa = build("EPYC-Genoa", 1),
                     g5 = build("Opteron_G5", 1);

    assert_true(model_has(&sandy, FEATURE_AVX) && model_has(&sandy, FEATURE_SSE42));
    assert_false(model_has(&sandy, FEATURE_AVX2) || model_has(&sandy, FEATURE_F16C));
    assert_true(model_has(&haswell, FEATURE_AVX2) && model_has(&haswell, FEATURE_SPEC_CTRL));
    assert_false(model_has(&haswell, FEATURE_SMAP));
    assert_true(model_has(&skylake, FEATURE_AVX512BW) && model_has(&skylake, FEATURE_CX16));
    assert_int_equal(skylake.model, 85);
    assert_true(model_has(&genoa, FEATURE_AVX512BF16) && model_has(&genoa, FEATURE_TOPOEXT));
    assert_true(model_has(&g5, FEATURE_FMA));
    assert_false(model_has(&g5, FEATURE_MONITOR)); /* dropped by its parent */
}

static void user_changes_are_applied(void **state)
{
    struct cpu_model m = build("qemu64,+AVX_512F,+avx2,+avx,+xsave,-nx,lahf_lm=off,sse4.2=on,"
                               "+sse4-1,+ssse3,+pni,vendor=HygonGenuine,family=24,model=0x1f,"
                               "stepping=7,phys-bits=44,model-id=a name",
                               1);
    struct cpu cpu = make_cpu(&m);
    uint32_t r[4];

    assert_true(model_has(&m, FEATURE_AVX512F) && model_has(&m, FEATURE_SSE42));
    assert_false(model_has(&m, FEATURE_NX) || model_has(&m, FEATURE_LAHF_LM));
    cpu_cpuid(&cpu, 1, 0, r);
    assert_int_equal(r[0], 0x00910ff7);
    cpu_cpuid(&cpu, 0, 0, r);
    assert_memory_equal(&r[1], "Hygo", 4);
    assert_memory_equal(&r[3], "nGen", 4);
    assert_memory_equal(&r[2], "uine", 4);
    cpu_cpuid(&cpu, 0x80000002, 0, r);
    assert_memory_equal(r, "a name\0\0", 8);
    cpu_cpuid(&cpu, 0x80000008, 0, r);
    assert_int_equal(r[0] & 0xffff, 0x302c);
}

static void what_needs_the_missing_goes_too(void **state)
{
    struct cpu_model m = build("Icelake-Server,-xsave", 1), n = build("Icelake-Server,-avx2", 1),
                     p = build("EPYC,-lm,-apic", 2);

    assert_false(model_has(&m, FEATURE_AVX) || model_has(&m, FEATURE_AVX512VBMI) ||
                 model_has(&m, FEATURE_XSAVES) || model_has(&m, FEATURE_VAES));
    assert_int_equal(m.xcr0_supported, 0);
    assert_true(model_has(&n, FEATURE_AVX));
    assert_false(model_has(&n, FEATURE_AVX512BW));
    assert_int_equal(n.xcr0_supported, XCR0_X87 | XCR0_SSE | XCR0_AVX);
    assert_false(model_has(&p, FEATURE_SYSCALL) || model_has(&p, FEATURE_X2APIC) ||
                 model_has(&p, FEATURE_HT));
    assert_int_equal(p.linear_bits, 32);
    assert_int_equal(p.phys_bits, 36);
}

static void limits_take_out(void **state)
{
    struct cpu_limits l;
    struct cpu_model m;
    struct error err = {0};

    everything(&l);
    l.word[FEATURE_AVX / 32] &= ~(1u << FEATURE_AVX % 32);
    l.phys_bits = 39;
    assert_int_equal(cpu_model_build("Haswell,check=off", &l, 1, &m, &err), 0);
    assert_false(model_has(&m, FEATURE_AVX) || model_has(&m, FEATURE_AVX2) ||
                 model_has(&m, FEATURE_FMA));
    assert_true(model_has(&m, FEATURE_BMI2));
    assert_int_equal(m.phys_bits, 39);
    assert_int_equal(cpu_model_build(NULL, &l, 1, &m, &err), 0);
    assert_string_equal(m.name, "max");
    assert_false(model_has(&m, FEATURE_MONITOR));
    l.who = "KVM";
    assert_int_equal(cpu_model_build("", &l, 1, &m, &err), 0);
    assert_string_equal(m.name, "host");
}

static void mistakes_are_named(void **state)
{
    char long_id[80] = "qemu64,model-id=";

    memset(long_id + strlen(long_id), 'x', 49);
    refuse("Haswel", EINVAL, "unknown processor model 'Haswel'; the nearest is 'Haswell'");
    refuse("qemu64-v22", EINVAL, "unknown processor model 'qemu64-v22'; the nearest is 'qemu64'");
    refuse("qemu64,+avx512fq", EINVAL,
           "processor model 'qemu64': unknown processor feature 'avx512fq'; the nearest is "
           "'avx512f'");
    refuse("qemu64,family=x", EINVAL,
           "processor model 'qemu64': family=x is not a number from 0 to 270");
    refuse("qemu64,stepping=16", EINVAL,
           "processor model 'qemu64': stepping=16 is not a number from 0 to 15");
    refuse("qemu64,phys-bits=48", EINVAL,
           "processor model 'qemu64': phys-bits=48: the test has 46 at most");
    refuse("qemu64,vendor=Intel", EINVAL,
           "processor model 'qemu64': vendor=Intel has 5 characters, a vendor has 12");
    refuse(long_id, EINVAL, "processor model 'qemu64': model-id is 49 characters long, 48 fit");
    refuse("qemu64,avx=maybe", EINVAL, "processor model 'qemu64': avx=maybe: say on or off");
    refuse("Skylake-Server,enforce", ENOTSUP,
           "processor model 'Skylake-Server': the test does not have avx512f here");
}

static void state_shows_in_cpuid(void **state)
{
    struct cpu_model m = build("Icelake-Server,+pku", 6);
    struct cpu cpu = make_cpu(&m);
    uint32_t r[4];

    cpu.apic_id = 5;
    cpu_cpuid(&cpu, 1, 0, r);
    assert_int_equal(r[1], 5u << 24 | 8u << 16 | 8u << 8);
    assert_int_equal(r[2] >> 27 & 1, 0);
    assert_int_equal(r[3] >> 9 & 1, 0); /* no APIC is switched on */
    assert_int_equal(r[3] >> 28 & 1, 1);
    cpu.cr4 = CR4_OSXSAVE | CR4_PKE;
    cpu.intc.read_msr = apic_base_enabled;
    cpu_cpuid(&cpu, 1, 77, r);
    assert_int_equal(r[2] >> 27 & 1, 1);
    assert_int_equal(r[3] >> 9 & 1, 1);
    cpu_cpuid(&cpu, 7, 0, r);
    assert_int_equal(r[2] >> 3 & 3, 3);
    cpu_cpuid(&cpu, 7, 9, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);

    cpu_cpuid(&cpu, 0xd, 0, r);
    assert_int_equal(r[0], 0x2e7);
    assert_int_equal(r[1], 576);
    assert_int_equal(r[2], 2440);
    cpu.xcr0 = 0xe7;
    cpu_cpuid(&cpu, 0xd, 0, r);
    assert_int_equal(r[1], 2432);
    cpu.xcr0 = 0x203;
    cpu_cpuid(&cpu, 0xd, 1, r);
    assert_int_equal(r[1], 576 + 8);
    cpu_cpuid(&cpu, 0xd, 6, r);
    assert_int_equal(r[0], 512);
    assert_int_equal(r[1], 896);

    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
        cpu_cpuid(&cpu, leaf, 0, r);
        assert_int_equal(r[1], 1);
        assert_int_equal(r[2], 0x100);
        assert_int_equal(r[3], 5);
        cpu_cpuid(&cpu, leaf, 1, r);
        assert_int_equal(r[0], 3);
        assert_int_equal(r[1], 6);
        assert_int_equal(r[2], 0x201);
        cpu_cpuid(&cpu, leaf, 7, r);
        assert_int_equal(r[1], 0);
        assert_int_equal(r[2], 7);
        assert_int_equal(r[3], 5);
    }
}

static void functions_out_of_range(void **state)
{
    struct cpu_model intel = build("Penryn,-x2apic", 1), amd = build("EPYC", 4);
    struct cpu cpu = make_cpu(&intel);
    uint32_t r[4], top[4];

    cpu_cpuid(&cpu, 0, 0, r);
    assert_int_equal(r[0], 4);
    cpu_cpuid(&cpu, 4, 1, top);
    assert_int_not_equal(top[0], 0);
    cpu_cpuid(&cpu, 0x77, 1, r);
    assert_memory_equal(r, top, sizeof(r)); /* Intel: as the highest */
    cpu_cpuid(&cpu, 0x8000ffff, 1, r);
    assert_memory_equal(r, top, sizeof(r));
    cpu_cpuid(&cpu, 3, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    cpu_cpuid(&cpu, 0x40000000, 0, r);
    assert_int_equal(r[0], 0x40000000);
    assert_memory_equal(&r[1], "HospesHospes", 12);
    cpu_cpuid(&cpu, 0x40000001, 0, r);
    assert_int_equal(r[0], 0);

    cpu = make_cpu(&amd);
    cpu.apic_id = 3;
    cpu_cpuid(&cpu, 0x77, 1, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    cpu_cpuid(&cpu, 0x8000001e, 0, r);
    assert_int_equal(r[0], 3);
    assert_int_equal(r[1], 3);
    cpu_cpuid(&cpu, 0x8000001d, 3, r);
    assert_int_equal(r[0] >> 14 & 0xfff, 3); /* all share the L3 */
    cpu_cpuid(&cpu, 0x80000001, 0, r);
    assert_int_equal(r[2] >> 1 & 1, 1);    /* CmpLegacy */
    assert_int_equal(r[3] & 0x3ff, 0x1ff); /* repeated, without the APIC that is off */
}

static void reserved_bits_follow_features(void **state)
{
    struct cpu_model m = build("Nehalem", 1), n = build("Icelake-Server", 1);
    struct cpu a = make_cpu(&m), b = make_cpu(&n);

    assert_true(cpu_cr4_reserved(&a) & CR4_SMEP);
    assert_true(cpu_cr4_reserved(&a) & CR4_OSXSAVE);
    assert_false(cpu_cr4_reserved(&a) & (CR4_PAE | CR4_OSFXSR | CR4_PGE));
    assert_false(cpu_cr4_reserved(&b) & (CR4_SMEP | CR4_SMAP | CR4_LA57 | CR4_PCIDE));
    assert_true(cpu_cr4_reserved(&b) & CR4_VMXE);
    assert_true(cpu_cr4_reserved(&b) & BIT(63));
    assert_int_equal(cpu_efer_reserved(&a), ~(uint64_t)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE));
    assert_int_equal(cpu_cr0_reserved(&a), ~UINT64_C(0) << 32);
}

static void word_clear(struct cpu_limits *l, enum cpu_feature f)
{
    l->word[f / 32] &= ~(1u << f % 32);
}

static void software_limits_are_sane(void **state)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    struct cpu_limits l;
    struct cpu_model m;
    struct error err = {0};

    cpu_limits_software(&l);
    assert_int_equal(cpu_model_build("max", &l, 2, &m, &err), 0);
    assert_true(model_has(&m, FEATURE_LM) && model_has(&m, FEATURE_SSE2) &&
                model_has(&m, FEATURE_APIC) && model_has(&m, FEATURE_LA57));
    assert_false(model_has(&m, FEATURE_VMX) || model_has(&m, FEATURE_SVM) ||
                 model_has(&m, FEATURE_PKU) || model_has(&m, FEATURE_SPEC_CTRL));
    assert_int_equal(m.xcr0_supported & 3, 3);
    for (unsigned i = 0; i < XSAVE_COMPONENTS; i++)
        assert_int_equal(m.xcr0_supported >> i & 1, m.xsave[i].size != 0);
    assert_int_equal(model_has(&m, FEATURE_AVX), __builtin_cpu_supports("avx") != 0);
    assert_int_equal(model_has(&m, FEATURE_AVX2), __builtin_cpu_supports("avx2") != 0);
    assert_int_equal(model_has(&m, FEATURE_AVX512VL), __builtin_cpu_supports("avx512vl") != 0);
    assert_int_equal(model_has(&m, FEATURE_SSE42), __builtin_cpu_supports("sse4.2") != 0);
    assert_true(__get_cpuid(1, &a, &b, &c, &d));
    assert_int_equal(model_has(&m, FEATURE_RDRAND), (c & bit_RDRND) != 0);
    assert_true(__get_cpuid_count(7, 0, &a, &b, &c, &d));
    assert_int_equal(model_has(&m, FEATURE_RDSEED), (b & bit_RDSEED) != 0);
    /* On a host without the two: taken out of a model that has them, or an error that names them.
     */
    word_clear(&l, FEATURE_RDRAND);
    word_clear(&l, FEATURE_RDSEED);
    assert_int_equal(cpu_model_build("Broadwell,check=off", &l, 1, &m, &err), 0);
    assert_false(model_has(&m, FEATURE_RDRAND) || model_has(&m, FEATURE_RDSEED));
    cpu_limits_software(&l);
    word_clear(&l, FEATURE_RDRAND);
    assert_int_equal(cpu_model_build("qemu64,+rdrand,enforce,-svm", &l, 1, &m, &err), -ENOTSUP);
    assert_string_equal(err.text, "processor model 'qemu64': the software engine does not have "
                                  "rdrand here");
}

static void help_lists_all(void **state)
{
    auto_free char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    const char *name;

    cpu_model_list(f);
    fclose(f);
    for (unsigned n = 0; (name = cpu_model_name(n)); n++)
        assert_non_null(strstr(text, name));
    assert_non_null(strstr(text, " avx512-vpopcntdq"));
    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
        assert_in_range(end - line, 0, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_model_builds),
        cmocka_unit_test(generations_add_up),
        cmocka_unit_test(user_changes_are_applied),
        cmocka_unit_test(what_needs_the_missing_goes_too),
        cmocka_unit_test(limits_take_out),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(state_shows_in_cpuid),
        cmocka_unit_test(functions_out_of_range),
        cmocka_unit_test(reserved_bits_follow_features),
        cmocka_unit_test(software_limits_are_sane),
        cmocka_unit_test(help_lists_all),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
