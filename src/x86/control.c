/*
 * control.c - writes to control registers, with every check of MOV CR and XSETBV, and what
 * follows from them: long mode coming and going, PDPTE registers, TLB flushes.
 *
 * Each function checks everything before it changes anything; false means #GP(0). Which bits a
 * model has not is in model.c.
 */
#include "x86/mmu.h"
#include "x86/model.h"

#define CR0_DEFINED                                                                                \
    ((uint64_t)(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW |   \
                CR0_CD | CR0_PG))
#define CR3_NO_FLUSH BIT(63)

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return cr0 & CR0_PG && cr4 & CR4_PAE && !(efer & EFER_LME);
}

bool cpu_write_cr0(struct cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->cr0, changed, efer = cpu->efer;
    bool enable, disable;

    if (value & cpu_cr0_reserved(cpu))
        return false;
    value = (value & CR0_DEFINED) | CR0_ET;
    if ((value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD)))
        return false;
    changed = old ^ value;
    enable = changed & value & CR0_PG;
    disable = changed & old & CR0_PG;
    if (enable && efer & EFER_LME) {
        /* Long mode needs PAE, a CS that is not 64-bit yet, and a TSS it can use. */
        if (!(cpu->cr4 & CR4_PAE) || cpu->seg[SEG_CS].attr & ATTR_L ||
            (cpu->tr.attr & (ATTR_TYPE & ~2)) == 1)
            return false;
        efer |= EFER_LMA;
    }
    if (disable) {
        if (cpu->cr4 & CR4_PCIDE || (efer & EFER_LMA && cpu->seg[SEG_CS].attr & ATTR_L))
            return false;
        efer &= ~(uint64_t)EFER_LMA;
    }
    if (changed & (CR0_PG | CR0_CD | CR0_NW) && pae_paging(value, cpu->cr4, efer) &&
        !mmu_load_pdptrs(cpu, cpu->cr3))
        return false;
    cpu->cr0 = value;
    cpu->efer = efer;
    if (changed & (CR0_PG | CR0_WP | CR0_PE))
        mmu_flush_linear(cpu);
    cpu_update_derived(cpu);
    return true;
}

bool cpu_write_cr3(struct cpu *cpu, uint64_t value)
{
    bool keep = false;

    if (cpu_long_mode(cpu)) {
        if (cpu->cr4 & CR4_PCIDE && value & CR3_NO_FLUSH) {
            value &= ~CR3_NO_FLUSH;
            keep = true;
        }
        if (value >> cpu->model->phys_bits)
            return false;
    } else {
        value &= UINT32_MAX;
        if (pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !mmu_load_pdptrs(cpu, value))
            return false;
    }
    cpu->cr3 = value;
    mmu_switch(cpu, keep);
    return true;
}

bool cpu_write_cr4(struct cpu *cpu, uint64_t value)
{
    const uint64_t paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP |
                            CR4_LA57 | CR4_PKE;
    uint64_t changed = cpu->cr4 ^ value;

    if (value & cpu_cr4_reserved(cpu))
        return false;
    if (cpu_long_mode(cpu) && (!(value & CR4_PAE) || changed & CR4_LA57))
        return false;
    if (changed & value & CR4_PCIDE && (!cpu_long_mode(cpu) || cpu->cr3 & 0xfff))
        return false;
    if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) &&
        pae_paging(cpu->cr0, value, cpu->efer) && !mmu_load_pdptrs(cpu, cpu->cr3))
        return false;
    cpu->cr4 = value;
    if (changed & paging)
        mmu_flush_linear(cpu);
    cpu_update_derived(cpu);
    return true;
}

bool cpu_write_xcr0(struct cpu *cpu, uint64_t value)
{
    if (!(value & XCR0_X87) || value & ~cpu->model->xcr0_supported)
        return false;
    if (value & XCR0_AVX && !(value & XCR0_SSE))
        return false;
    if (value & XCR0_AVX512 && ((value & XCR0_AVX512) != XCR0_AVX512 || !(value & XCR0_AVX)))
        return false;
    cpu->xcr0 = value;
    return true;
}
