/*
 * smm.c - system management mode: what an SMI saves, what RSM loads.
 *
 * Two save-state maps: the 64-bit one of AMD64 processors where the model has long mode (its
 * revision says so to the firmware), else the 32-bit one. The maps are tables; entering and
 * leaving walk the same one. A map holds `attr` of a segment in the layout of struct segment.
 */
#include "interp/protect.h"

#include "x86/model.h"

enum {
    SMM_ENTRY = 0x8000,
    REVISION_32 = 0x00020000, /* bit 17: SMBASE can be moved */
    REVISION_64 = 0x00020064,
    REVISION_OFFSET = 0xfefc,
    FIELD_ATTR = 0xf0ff,
};

struct map_row {
    uint16_t offset;
    uint8_t size;
    uint16_t field; /* in struct cpu */
    uint8_t width;  /* of the field */
};

#define ROW(offset, size, field)                                                                   \
    {                                                                                              \
        offset, size, offsetof(struct cpu, field), sizeof(((struct cpu *)0)->field)                \
    }
#define SEGMENT_ROWS(at, reg)                                                                      \
    ROW(at, 2, reg.selector), ROW((at) + 2, 2, reg.attr), ROW((at) + 4, 4, reg.limit),             \
        ROW((at) + 8, 8, reg.base)
#define SEGMENT_ROWS_32(selector_at, at, reg)                                                      \
    ROW(selector_at, 2, reg.selector), ROW(at, 2, reg.attr), ROW((at) + 4, 4, reg.limit),          \
        ROW((at) + 8, 4, reg.base)

static const struct map_row map_64[] = {
    SEGMENT_ROWS(0xfe00, seg[SEG_ES]),
    SEGMENT_ROWS(0xfe10, seg[SEG_CS]),
    SEGMENT_ROWS(0xfe20, seg[SEG_SS]),
    SEGMENT_ROWS(0xfe30, seg[SEG_DS]),
    SEGMENT_ROWS(0xfe40, seg[SEG_FS]),
    SEGMENT_ROWS(0xfe50, seg[SEG_GS]),
    ROW(0xfe64, 2, gdtr.limit),
    ROW(0xfe68, 8, gdtr.base),
    SEGMENT_ROWS(0xfe70, ldtr),
    ROW(0xfe84, 2, idtr.limit),
    ROW(0xfe88, 8, idtr.base),
    SEGMENT_ROWS(0xfe90, tr),
    ROW(0xfed0, 8, efer),
    ROW(0xff00, 4, smbase),
    ROW(0xff48, 8, cr4),
    ROW(0xff50, 8, cr3),
    ROW(0xff58, 8, cr0),
    ROW(0xff60, 8, dr[7]),
    ROW(0xff68, 8, dr[6]),
    ROW(0xff70, 8, rflags),
    ROW(0xff78, 8, rip),
    ROW(0xff80, 8, gpr[15]),
    ROW(0xff88, 8, gpr[14]),
    ROW(0xff90, 8, gpr[13]),
    ROW(0xff98, 8, gpr[12]),
    ROW(0xffa0, 8, gpr[11]),
    ROW(0xffa8, 8, gpr[10]),
    ROW(0xffb0, 8, gpr[9]),
    ROW(0xffb8, 8, gpr[8]),
    ROW(0xffc0, 8, gpr[GPR_RDI]),
    ROW(0xffc8, 8, gpr[GPR_RSI]),
    ROW(0xffd0, 8, gpr[GPR_RBP]),
    ROW(0xffd8, 8, gpr[GPR_RSP]),
    ROW(0xffe0, 8, gpr[GPR_RBX]),
    ROW(0xffe8, 8, gpr[GPR_RDX]),
    ROW(0xfff0, 8, gpr[GPR_RCX]),
    ROW(0xfff8, 8, gpr[GPR_RAX]),
    {0},
};

static const struct map_row map_32[] = {
    ROW(0xfef8, 4, smbase),
    ROW(0xff14, 4, cr4),
    SEGMENT_ROWS_32(0xffb4, 0xff2c, seg[SEG_DS]),
    SEGMENT_ROWS_32(0xffb8, 0xff38, seg[SEG_FS]),
    SEGMENT_ROWS_32(0xffbc, 0xff44, seg[SEG_GS]),
    ROW(0xff54, 2, idtr.limit),
    ROW(0xff58, 4, idtr.base),
    SEGMENT_ROWS_32(0xffc4, 0xff5c, tr),
    ROW(0xff70, 2, gdtr.limit),
    ROW(0xff74, 4, gdtr.base),
    SEGMENT_ROWS_32(0xffc0, 0xff78, ldtr),
    SEGMENT_ROWS_32(0xffa8, 0xff84, seg[SEG_ES]),
    SEGMENT_ROWS_32(0xffac, 0xff90, seg[SEG_CS]),
    SEGMENT_ROWS_32(0xffb0, 0xff9c, seg[SEG_SS]),
    ROW(0xffc8, 4, dr[7]),
    ROW(0xffcc, 4, dr[6]),
    ROW(0xffd0, 4, gpr[GPR_RAX]),
    ROW(0xffd4, 4, gpr[GPR_RCX]),
    ROW(0xffd8, 4, gpr[GPR_RDX]),
    ROW(0xffdc, 4, gpr[GPR_RBX]),
    ROW(0xffe0, 4, gpr[GPR_RSP]),
    ROW(0xffe4, 4, gpr[GPR_RBP]),
    ROW(0xffe8, 4, gpr[GPR_RSI]),
    ROW(0xffec, 4, gpr[GPR_RDI]),
    ROW(0xfff0, 4, rip),
    ROW(0xfff4, 4, rflags),
    ROW(0xfff8, 4, cr3),
    ROW(0xfffc, 4, cr0),
    {0},
};

static bool has_map_64(const struct cpu *cpu)
{
    return cpu_has(cpu, FEATURE_LM);
}

static gpa halt_restart(const struct cpu *cpu)
{
    return cpu->smbase + (has_map_64(cpu) ? 0xfec9u : 0xff02u);
}

void smm_enter(struct cpu *cpu)
{
    const struct map_row *map = has_map_64(cpu) ? map_64 : map_32;

    cpu->in_smm = true;
    mmu_flush_all(cpu); /* physical memory looks different now */
    for (; map->size; map++)
        cpu_phys_write(cpu, cpu->smbase + map->offset,
                       load_le((uint8_t *)cpu + map->field, map->width), map->size);
    cpu_phys_write(cpu, cpu->smbase + REVISION_OFFSET, has_map_64(cpu) ? REVISION_64 : REVISION_32,
                   4);
    cpu_phys_write(cpu, halt_restart(cpu), cpu->activity == CPU_HALTED, 1);

    cpu->activity = CPU_RUNNING;
    cpu->smi_blocked_nmi = cpu->nmi_blocked;
    cpu->nmi_blocked = true;
    cpu->sti_shadow = cpu->movss_shadow = false;
    cpu->monitor_armed = false;
    cpu->rflags = RFLAGS_FIXED;
    cpu->rip = cpu->next_rip = SMM_ENTRY;
    cpu->cr0 &= ~(uint64_t)(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    cpu->cr4 = cpu->efer = 0;
    cpu->dr[7] = 0x400;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){.attr = ATTR_G | ATTR_P | ATTR_S | ATTR_WRITABLE |
                                               ATTR_ACCESSED | (i == SEG_CS ? ATTR_CODE : 0),
                                       .limit = UINT32_MAX};
    cpu->seg[SEG_CS].selector = (uint16_t)(cpu->smbase >> 4);
    cpu->seg[SEG_CS].base = cpu->smbase;
    cpu_update_derived(cpu);
}

/* What RSM must not load: then the processor shuts down. */
static bool state_is_bad(const struct cpu *cpu)
{
    return cpu->cr0 & cpu_cr0_reserved(cpu) || cpu->cr4 & cpu_cr4_reserved(cpu) ||
           (cpu->cr0 & CR0_PG && !(cpu->cr0 & CR0_PE)) ||
           (cpu->cr0 & CR0_NW && !(cpu->cr0 & CR0_CD)) ||
           (cpu->cr0 & CR0_PG && cpu->efer & EFER_LME && !(cpu->cr4 & CR4_PAE)) ||
           cpu->efer & cpu_efer_reserved(cpu);
}

/* A register that was null when saved has a present bit of zero. */
static void restore_null(struct segment *s)
{
    s->attr &= FIELD_ATTR;
    if (!(s->attr & ATTR_P))
        s->attr |= ATTR_NULL;
}

bool smm_leave(struct cpu *cpu)
{
    const struct map_row *map = has_map_64(cpu) ? map_64 : map_32;
    gpa base = cpu->smbase;
    bool halted = cpu_phys_read(cpu, halt_restart(cpu), 1) & 1;

    for (; map->size; map++) {
        uint64_t value = cpu_phys_read(cpu, base + map->offset, map->size);

        store_le((uint8_t *)cpu + map->field, value, map->width);
    }
    if (state_is_bad(cpu)) {
        cpu->cr0 &= ~(uint64_t)CR0_PG;
        return false;
    }
    for (unsigned i = 0; i < SEG_COUNT; i++)
        restore_null(&cpu->seg[i]);
    restore_null(&cpu->ldtr);
    cpu->tr.attr &= FIELD_ATTR;
    cpu->cr0 |= CR0_ET;
    cpu->efer &= ~(uint64_t)EFER_LMA;
    if (cpu->efer & EFER_LME && cpu->cr0 & CR0_PG)
        cpu->efer |= EFER_LMA;
    cpu->rflags = (cpu->rflags & 0x3f7fd5) | RFLAGS_FIXED;
    cpu->dr[6] = (cpu->dr[6] & 0xe00f) | 0xffff0ff0;
    cpu->dr[7] = (cpu->dr[7] & 0xffff23ff) | 0x400;
    cpu->in_smm = false;
    cpu->nmi_blocked = cpu->smi_blocked_nmi;
    if (halted)
        cpu->activity = CPU_HALTED;
    mmu_flush_all(cpu);
    if (cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !cpu_long_mode(cpu) &&
        !mmu_load_pdptrs(cpu, cpu->cr3))
        return false;
    cpu->next_rip = cpu->rip;
    cpu_update_derived(cpu);
    return true;
}
