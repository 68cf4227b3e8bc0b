/*
 * msr.c - model-specific registers.
 *
 * An MSR exists when the CPUID model says so, by its feature bit or by its vendor; nothing here
 * asks who the guest is. false means #GP(0). Kernels probe for MSRs and live with #GP; what they
 * read without asking first exists here, and the comment says who does.
 */
#include "base/log.h"
#include "x86/mmu.h"
#include "x86/model.h"

#include <stdatomic.h>

enum msr {
    MSR_MC0_ADDR_P5 = 0x0,
    MSR_MC0_TYPE_P5 = 0x1,
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDATE = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_SMBASE = 0x9e,
    MSR_FSB_FREQ = 0xcd,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRR_CAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_BBL_CR_CTL3 = 0x11e,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_MCG_CTL = 0x17b,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LAST_BRANCH_FROM = 0x1db,
    MSR_LAST_INT_TO = 0x1de,
    MSR_MTRR_VARIABLE = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K = 0x258,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_MC_BANKS = 0x400,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC = 0x800,
    MSR_X2APIC_END = 0x8ff,
    MSR_XSS = 0xda0,
    MSR_EFER = 0xc0000080,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_SFMASK,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_TSC_AUX,
    MSR_AMD_EVNTSEL0 = 0xc0010000,
    MSR_AMD_PERFCTR3 = 0xc0010007,
    MSR_AMD_SYSCFG = 0xc0010010,
    MSR_AMD_HWCR = 0xc0010015,
    MSR_AMD_TOP_MEM = 0xc001001a,
    MSR_AMD_TOP_MEM2 = 0xc001001d,
    MSR_AMD_NB_CFG = 0xc001001f,
    MSR_AMD_PATCH_LOADER = 0xc0010020,
    MSR_AMD_INT_PENDING = 0xc0010055,
    MSR_AMD_MMIO_CONF_BASE = 0xc0010058,
    MSR_AMD_VM_CR = 0xc0010114,
    MSR_AMD_OSVW_LENGTH = 0xc0010140,
    MSR_AMD_OSVW_STATUS = 0xc0010141,
    MSR_AMD_LS_CFG = 0xc0011020,
    MSR_AMD_IC_CFG = 0xc0011021,
    MSR_AMD_DC_CFG = 0xc0011022,
    MSR_AMD_BU_CFG = 0xc0011023,
    MSR_AMD_FP_CFG = 0xc0011028,
    MSR_AMD_DE_CFG = 0xc0011029,
    MSR_AMD_BU_CFG2 = 0xc001102a,
    MSR_AMD_LS_CFG2 = 0xc001102d,
};

enum {
    SPEC_CTRL_IBRS = 1 << 0,
    SPEC_CTRL_STIBP = 1 << 1,
    SPEC_CTRL_SSBD = 1 << 2,
    DEBUGCTL_VALID = 3, /* LBR (records nothing), BTF */
    MCG_STATUS_VALID = 7,
    MTRR_CAP_FIXED = 1 << 8,
    MTRR_CAP_WC = 1 << 10,
    MTRR_DEF_VALID = 0xff | 1 << 10 | 1 << 11,
    DE_CFG_LFENCE_SERIALIZE = 1 << 1,
    HWCR_TSC_FREQ_SEL = 1 << 24,
};

static bool is_canonical(const struct cpu *cpu, uint64_t address)
{
    unsigned bits = cpu_has(cpu, FEATURE_LA57) ? 57 : 48; /* MSRs: what the processor can hold */

    return (uint64_t)sign_extend(address, bits) == address;
}

/* Each index is told once, at debug level. A bit may stand for several indices: then fewer are. */
static bool unknown(struct cpu *cpu, uint32_t index, const char *what)
{
    static _Atomic uint64_t told[64];
    uint32_t hash = (index * 0x9e3779b1u) >> 20;

    if (log_enabled(LOG_DEBUG) &&
        !(atomic_fetch_or(&told[hash / 64], BIT(hash % 64)) & BIT(hash % 64)))
        log_debug("processor %u: %s of unknown MSR %#x", cpu->index, what, index);
    return false;
}

static uint64_t spec_ctrl_valid(const struct cpu *cpu)
{
    uint64_t valid = 0;

    if (cpu_has(cpu, FEATURE_SPEC_CTRL))
        valid |= SPEC_CTRL_IBRS;
    if (cpu_has(cpu, FEATURE_STIBP))
        valid |= SPEC_CTRL_STIBP;
    if (cpu_has(cpu, FEATURE_SSBD))
        valid |= SPEC_CTRL_SSBD;
    return valid;
}

/* ---- memory types --------------------------------------------------------------------------- */

static bool valid_mtrr_type(uint8_t type)
{
    return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

static bool valid_types(uint64_t value, bool pat)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t type = (uint8_t)(value >> 8 * i);

        if (!valid_mtrr_type(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

/* The fixed MTRR at this index: 0..10, or -1. */
static int fixed_mtrr(uint32_t index)
{
    if (index == MSR_MTRR_FIX64K)
        return 0;
    if (index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1)
        return (int)(index - MSR_MTRR_FIX16K) + 1;
    if (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8)
        return (int)(index - MSR_MTRR_FIX4K) + 3;
    return -1;
}

static uint64_t *mtrr_register(struct cpu *cpu, uint32_t index)
{
    int fixed = fixed_mtrr(index);

    if (!cpu_has(cpu, FEATURE_MTRR))
        return NULL;
    if (index == MSR_MTRR_DEF_TYPE)
        return &cpu->mtrr_def_type;
    if (fixed >= 0)
        return &cpu->mtrr_fixed[fixed];
    if (index >= MSR_MTRR_VARIABLE && index < MSR_MTRR_VARIABLE + 2 * CPU_MTRR_VARIABLE) {
        unsigned n = (index - MSR_MTRR_VARIABLE) / 2;

        return index & 1 ? &cpu->mtrr_mask[n] : &cpu->mtrr_base[n];
    }
    return NULL;
}

static bool valid_mtrr(const struct cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t above = ~UINT64_C(0) << cpu->model->phys_bits;

    if (index == MSR_MTRR_DEF_TYPE)
        return !(value & ~(uint64_t)MTRR_DEF_VALID) && valid_mtrr_type((uint8_t)value);
    if (fixed_mtrr(index) >= 0)
        return valid_types(value, false);
    if (index & 1)
        return !(value & (above | 0x7ff));
    return !(value & (above | 0xf00)) && valid_mtrr_type((uint8_t)value);
}

/* ---- by index ------------------------------------------------------------------------------- */

static bool is_apic_msr(const struct cpu *cpu, uint32_t index)
{
    return index == MSR_APIC_BASE || (index >= MSR_X2APIC && index <= MSR_X2APIC_END) ||
           (index == MSR_TSC_DEADLINE && cpu_has(cpu, FEATURE_TSC_DEADLINE));
}

static bool is_mce_bank(const struct cpu *cpu, uint32_t index)
{
    return cpu_has(cpu, FEATURE_MCA) && index >= MSR_MC_BANKS &&
           index < MSR_MC_BANKS + 4 * CPU_MCE_BANKS;
}

/* Plain 64-bit registers: read and written with no more than a canonical check. */
static uint64_t *plain_register(struct cpu *cpu, uint32_t index, bool *canonical)
{
    *canonical = false;
    switch (index) {
    case MSR_SYSENTER_CS: return cpu_has(cpu, FEATURE_SEP) ? &cpu->sysenter_cs : NULL;
    case MSR_SYSENTER_ESP:
        *canonical = true;
        return cpu_has(cpu, FEATURE_SEP) ? &cpu->sysenter_esp : NULL;
    case MSR_SYSENTER_EIP:
        *canonical = true;
        return cpu_has(cpu, FEATURE_SEP) ? &cpu->sysenter_eip : NULL;
    }
    if (!cpu_has(cpu, FEATURE_LM) && index != MSR_STAR)
        return NULL;
    switch (index) {
    case MSR_STAR: return cpu_has(cpu, FEATURE_SYSCALL) ? &cpu->star : NULL;
    case MSR_LSTAR: *canonical = true; return &cpu->lstar;
    case MSR_CSTAR: *canonical = true; return &cpu->cstar;
    case MSR_FS_BASE: *canonical = true; return &cpu->seg[SEG_FS].base;
    case MSR_GS_BASE: *canonical = true; return &cpu->seg[SEG_GS].base;
    case MSR_KERNEL_GS_BASE: *canonical = true; return &cpu->kernel_gs_base;
    default: return NULL;
    }
}

/* AMD configuration registers that firmware and kernels read, and change bits of, without care:
 * they hold nothing here. */
static bool amd_ignored(uint32_t index)
{
    switch (index) {
    case MSR_AMD_SYSCFG:
    case MSR_AMD_TOP_MEM:
    case MSR_AMD_TOP_MEM2:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMIO_CONF_BASE:
    case MSR_AMD_LS_CFG:
    case MSR_AMD_IC_CFG:
    case MSR_AMD_DC_CFG:
    case MSR_AMD_BU_CFG:
    case MSR_AMD_FP_CFG:
    case MSR_AMD_BU_CFG2:
    case MSR_AMD_LS_CFG2: return true;
    default: return index >= MSR_AMD_EVNTSEL0 && index <= MSR_AMD_PERFCTR3;
    }
}

static bool read_amd(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    *value = 0;
    if (amd_ignored(index))
        return true;
    switch (index) {
    case MSR_AMD_HWCR: *value = HWCR_TSC_FREQ_SEL; return true; /* Linux: TSC at P0 frequency */
    case MSR_AMD_DE_CFG: *value = DE_CFG_LFENCE_SERIALIZE; return true;
    case MSR_AMD_VM_CR: *value = BIT(3) | BIT(4); return true; /* LOCK, SVMDIS */
    case MSR_AMD_OSVW_LENGTH:
    case MSR_AMD_OSVW_STATUS: return cpu_has(cpu, FEATURE_OSVW);
    default: return unknown(cpu, index, "read");
    }
}

static bool write_amd(struct cpu *cpu, uint32_t index)
{
    if (amd_ignored(index) || index == MSR_AMD_HWCR || index == MSR_AMD_DE_CFG ||
        index == MSR_AMD_PATCH_LOADER)
        return true;
    return unknown(cpu, index, "write");
}

/* Intel's: read without asking by kernels that recognise the family. */
static bool read_intel(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
    case MSR_FSB_FREQ:
    case MSR_PERF_CTL: *value = 0; return true;
    case MSR_FEATURE_CONTROL: *value = 1; return true;                /* locked, no VMX */
    case MSR_BBL_CR_CTL3: *value = UINT64_C(0xbe702111); return true; /* L2 present and on */
    case MSR_PERF_STATUS: *value = BIT(40) | 1000; return true;
    case MSR_MISC_ENABLE: *value = cpu->misc_enable; return true;
    case MSR_PLATFORM_INFO: {
        /* Non-turbo ratio in units of 100 MHz: agrees with the TSC. */
        uint64_t ratio = MIN(cpu_tsc_hz() / 100000000, UINT64_C(0xff));

        *value = ratio << 8 | ratio << 40;
        return true;
    }
    default: return unknown(cpu, index, "read");
    }
}

static bool write_intel(struct cpu *cpu, uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_MISC_ENABLE:
        /* BTS and PEBS stay unavailable. */
        cpu->misc_enable = value | BIT(11) | BIT(12);
        return true;
    case MSR_EBL_CR_POWERON:
    case MSR_PERF_CTL:
    case MSR_BBL_CR_CTL3: return true;
    default: return unknown(cpu, index, "write");
    }
}

bool cpu_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value)
{
    bool canonical;
    uint64_t *reg;

    *value = 0;
    if (is_apic_msr(cpu, index))
        return cpu->intc.read_msr && cpu->intc.read_msr(cpu->intc.opaque, index, value);
    if (is_mce_bank(cpu, index)) {
        *value = cpu->mce_bank[(index - MSR_MC_BANKS) / 4][index & 3];
        return true;
    }
    reg = plain_register(cpu, index, &canonical);
    if (!reg)
        reg = mtrr_register(cpu, index);
    if (reg) {
        *value = *reg;
        return true;
    }
    switch (index) {
    case MSR_MC0_ADDR_P5:
    case MSR_MC0_TYPE_P5: return cpu_has(cpu, FEATURE_MCE);
    case MSR_TSC: *value = cpu_read_tsc(cpu); return true;
    case MSR_TSC_ADJUST: *value = cpu->tsc_adjust; return cpu_has(cpu, FEATURE_TSC_ADJUST);
    case MSR_SPEC_CTRL: *value = cpu->spec_ctrl; return spec_ctrl_valid(cpu) != 0;
    case MSR_ARCH_CAPABILITIES:
        /* Nothing to defend against in an interpreter; on KVM the host's own answer is taken:
         * RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, TAA_NO. */
        *value = BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(8);
        return cpu_has(cpu, FEATURE_ARCH_CAPABILITIES);
    case MSR_BIOS_UPDATE: return false; /* write only */
    case MSR_BIOS_SIGN_ID:              /* AMD: PATCH_LEVEL */
        *value = cpu_is_amd(cpu) ? 0x01000065 : BIT(32);
        return true;
    case MSR_SMBASE: *value = cpu->smbase; return cpu->in_smm;
    case MSR_MTRR_CAP:
        *value = CPU_MTRR_VARIABLE | MTRR_CAP_FIXED | MTRR_CAP_WC;
        return cpu_has(cpu, FEATURE_MTRR);
    case MSR_MCG_CAP: *value = CPU_MCE_BANKS | BIT(8); return cpu_has(cpu, FEATURE_MCA);
    case MSR_MCG_STATUS: *value = cpu->mcg_status; return cpu_has(cpu, FEATURE_MCA);
    case MSR_MCG_CTL: *value = cpu->mcg_ctl; return cpu_has(cpu, FEATURE_MCA);
    case MSR_DEBUGCTL: *value = cpu->debugctl; return true;
    case MSR_LAST_BRANCH_FROM ... MSR_LAST_INT_TO: return true;
    case MSR_PAT: *value = cpu->pat; return cpu_has(cpu, FEATURE_PAT);
    case MSR_XSS: return cpu_has(cpu, FEATURE_XSAVES); /* no supervisor states: CPUID says none */
    case MSR_EFER: *value = cpu->efer; return cpu_efer_reserved(cpu) != UINT64_MAX;
    case MSR_SFMASK: *value = cpu->sfmask; return cpu_has(cpu, FEATURE_LM);
    case MSR_TSC_AUX:
        *value = cpu->tsc_aux;
        return cpu_has(cpu, FEATURE_RDTSCP) || cpu_has(cpu, FEATURE_RDPID);
    }
    return cpu_is_amd(cpu) ? read_amd(cpu, index, value) : read_intel(cpu, index, value);
}

static bool write_efer(struct cpu *cpu, uint64_t value)
{
    uint64_t changed = cpu->efer ^ value;

    if (cpu_efer_reserved(cpu) == UINT64_MAX || value & cpu_efer_reserved(cpu))
        return false;
    if (changed & EFER_LME && cpu->cr0 & CR0_PG)
        return false;
    cpu->efer = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
    if (changed & EFER_NXE)
        mmu_flush_linear(cpu);
    cpu_update_derived(cpu);
    return true;
}

static bool write_mce_bank(struct cpu *cpu, unsigned offset, uint64_t value)
{
    /* STATUS, ADDR and MISC may only be cleared; CTL takes any mask (Linux clears GART errors). */
    if (offset % 4 && value)
        return false;
    cpu->mce_bank[offset / 4][offset % 4] = value;
    return true;
}

bool cpu_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value)
{
    bool canonical;
    uint64_t *reg;

    if (is_apic_msr(cpu, index))
        return cpu->intc.write_msr && cpu->intc.write_msr(cpu->intc.opaque, index, value);
    if (is_mce_bank(cpu, index))
        return write_mce_bank(cpu, index - MSR_MC_BANKS, value);
    reg = plain_register(cpu, index, &canonical);
    if (reg) {
        if (canonical && !is_canonical(cpu, value))
            return false;
        *reg = value;
        return true;
    }
    reg = mtrr_register(cpu, index);
    if (reg) {
        if (!valid_mtrr(cpu, index, value))
            return false;
        *reg = value;
        return true;
    }
    switch (index) {
    case MSR_MC0_ADDR_P5:
    case MSR_MC0_TYPE_P5: return cpu_has(cpu, FEATURE_MCE);
    case MSR_TSC: {
        uint64_t delta = value - cpu_read_tsc(cpu);

        cpu->tsc_offset += delta;
        cpu->tsc_adjust += delta;
        return true;
    }
    case MSR_TSC_ADJUST:
        if (!cpu_has(cpu, FEATURE_TSC_ADJUST))
            return false;
        cpu->tsc_offset += value - cpu->tsc_adjust;
        cpu->tsc_adjust = value;
        return true;
    case MSR_SPEC_CTRL:
        if (!spec_ctrl_valid(cpu) || value & ~spec_ctrl_valid(cpu))
            return false;
        cpu->spec_ctrl = value;
        return true;
    case MSR_PRED_CMD:
        return !(value & ~UINT64_C(1)) &&
               (cpu_has(cpu, FEATURE_SPEC_CTRL) || cpu_has(cpu, FEATURE_IBPB));
    case MSR_BIOS_UPDATE: return true;
    case MSR_BIOS_SIGN_ID: return true; /* 0, before CPUID fills it in */
    case MSR_MCG_STATUS:
        if (!cpu_has(cpu, FEATURE_MCA) || value & ~(uint64_t)MCG_STATUS_VALID)
            return false;
        cpu->mcg_status = value;
        return true;
    case MSR_MCG_CTL:
        if (!cpu_has(cpu, FEATURE_MCA) || (value && value != UINT64_MAX))
            return false;
        cpu->mcg_ctl = value;
        return true;
    case MSR_DEBUGCTL:
        if (value & ~(uint64_t)DEBUGCTL_VALID)
            return false;
        cpu->debugctl = value;
        return true;
    case MSR_PAT:
        if (!cpu_has(cpu, FEATURE_PAT) || !valid_types(value, true))
            return false;
        cpu->pat = value;
        return true;
    case MSR_XSS: return cpu_has(cpu, FEATURE_XSAVES) && value == 0;
    case MSR_EFER: return write_efer(cpu, value);
    case MSR_SFMASK: cpu->sfmask = value & UINT32_MAX; return cpu_has(cpu, FEATURE_LM);
    case MSR_TSC_AUX:
        if ((!cpu_has(cpu, FEATURE_RDTSCP) && !cpu_has(cpu, FEATURE_RDPID)) || value >> 32)
            return false;
        cpu->tsc_aux = value;
        return true;
    }
    return cpu_is_amd(cpu) ? write_amd(cpu, index) : write_intel(cpu, index, value);
}
