/*
 * model.h - CPUID: which processor a guest sees.
 *
 * A model is a name ("qemu64", "EPYC-v1", "host", "max") and changes ("+avx2,-x2apic",
 * "vendor=AuthenticAMD", "phys-bits=40"), in QEMU's syntax. What the engine cannot run is taken out
 * (and said), so a guest is never promised what would fault.
 *
 * Feature names are QEMU's; the list is in x86/features.def, one line each, read for the enum,
 * the names and the help.
 */
#ifndef X86_MODEL_H
#define X86_MODEL_H

#include "base/error.h"
#include "base/util.h"
#include "x86/cpu.h"

#include <stdio.h>

/* One CPUID output register that holds feature bits. */
enum feature_word {
    WORD_1_EDX,
    WORD_1_ECX,
    WORD_7_0_EBX,
    WORD_7_0_ECX,
    WORD_7_0_EDX,
    WORD_7_1_EAX,
    WORD_80000001_EDX,
    WORD_80000001_ECX,
    WORD_80000007_EDX,
    WORD_80000008_EBX,
    WORD_D_1_EAX,
    WORD_6_EAX,
    WORD_COUNT,
};

enum cpu_feature {
#define FEATURE(id, name, word, bit) FEATURE_##id = (word)*32 + (bit),
#include "x86/features.def"
#undef FEATURE
};

enum { XSAVE_COMPONENTS = 10, CPUID_LEAVES = 64 };

struct cpuid_entry {
    uint32_t function, index;
    bool indexed; /* `index` (ECX) matters */
    uint32_t eax, ebx, ecx, edx;
};

/* What an engine can run: a mask for each feature word, and the shape of XSAVE's area. */
struct cpu_limits {
    uint32_t word[WORD_COUNT];
    struct {
        uint32_t offset, size; /* standard format; 0: not there */
    } xsave[XSAVE_COMPONENTS];
    uint8_t phys_bits;
    const char *who; /* "the software engine", "KVM": for messages */
};

struct cpu_model {
    char name[64];
    uint32_t word[WORD_COUNT]; /* static bits; cpu_cpuid() adds what depends on state */
    char vendor[13];
    uint32_t family, model, stepping;
    uint8_t phys_bits, linear_bits;
    uint64_t xcr0_supported;
    struct {
        uint32_t offset, size;
    } xsave[XSAVE_COMPONENTS];
    unsigned cpus;           /* for the topology leaves */
    unsigned cores, threads; /* per socket; per core */
    struct cpuid_entry leaf[CPUID_LEAVES];
    unsigned leaves;
};

/* What the software engines can run here: the host's own SIMD and user-mode features (asked by
 * CPUID and XGETBV), and every system feature the interpreter has. */
void cpu_limits_software(struct cpu_limits *out);

/* `spec` as after -cpu; NULL or "": the default, "max" for software engines, "host" for KVM. */
int cpu_model_build(const char *spec, const struct cpu_limits *limits, unsigned cpus,
                    struct cpu_model *out, struct error *err);

/* The models and features there are, for --help and -cpu help. */
void cpu_model_list(FILE *out);
/* For completion and introspection: NULL after the last. */
const char *cpu_model_name(unsigned n);

static inline bool model_has(const struct cpu_model *m, enum cpu_feature f)
{
    return (m->word[f / 32] >> f % 32 & 1) != 0;
}

static inline bool cpu_has(const struct cpu *cpu, enum cpu_feature f)
{
    return model_has(cpu->model, f);
}

/* Does it behave as AMD's do where the vendors differ (SYSCALL outside 64-bit mode...)? */
static inline bool cpu_is_amd(const struct cpu *cpu)
{
    return !strcmp(cpu->model->vendor, "AuthenticAMD") ||
           !strcmp(cpu->model->vendor, "HygonGenuine");
}

/* CPUID as this CPU answers it now. out: EAX, EBX, ECX, EDX. */
void cpu_cpuid(const struct cpu *cpu, uint32_t function, uint32_t index, uint32_t out[4]);

/* Reserved bits of control registers under this model: a write that sets one raises #GP. */
uint64_t cpu_cr0_reserved(const struct cpu *cpu);
uint64_t cpu_cr4_reserved(const struct cpu *cpu);
uint64_t cpu_efer_reserved(const struct cpu *cpu);

/*
 * MSRs (x86/msr.c). false: the MSR does not exist or refuses the value, and the instruction must
 * raise #GP. Unknown MSRs are answered so; the log tells each index once. APIC MSRs go to
 * cpu->intc. Writing EFER, FS.base and so on updates what is derived.
 */
bool cpu_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value);
bool cpu_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value);

/* Control registers with all checks of MOV CR (x86/control.c). false: #GP. They switch paging,
 * long mode and PDPTRs as the manual says; CR8 goes to the interrupt controller. */
bool cpu_write_cr0(struct cpu *cpu, uint64_t value);
bool cpu_write_cr3(struct cpu *cpu, uint64_t value);
bool cpu_write_cr4(struct cpu *cpu, uint64_t value);
bool cpu_write_xcr0(struct cpu *cpu, uint64_t value);

#endif
