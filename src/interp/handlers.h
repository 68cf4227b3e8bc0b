/*
 * handlers.h - the interpreter's inside: the fast ways to registers and memory, flags, and the
 * vCPU's private data. Only files of interp/ include it; access.h is the same without haste.
 *
 * The fast way to memory is one compare with the software TLB. It is right only while nothing
 * watches data accesses; while debug registers or alignment checks are on, interp->data points to
 * a table that is always empty, so every access takes the slow way, which does all checks. It is
 * the table of the mode the run loop found; instructions that change the mode or the address space
 * end the inner loop, and must not use the fast ways afterwards.
 */
#ifndef INTERP_HANDLERS_H
#define INTERP_HANDLERS_H

#include "interp/access.h"

#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define always_inline inline __attribute__((always_inline))

enum { SLOT_BITS = 14, SLOT_COUNT = 1 << SLOT_BITS, SLOT_REAL = 16 };

struct interp {
    const struct tlb_table *data; /* what fast data accesses look into */
    const struct tlb_table *empty;
    struct insn *slots; /* SLOT_COUNT: the decode cache */

    /* The page code is fetched from: valid while `span` is not 0. Bytes [0, span) of it lie within
     * CS's limit; an instruction may be taken from `offset` by the fast way if offset + 16 <= span.
     */
    gva page;
    const uint8_t *host;
    uint32_t span;
    uint8_t mode;      /* of slots that match now: code size, and SLOT_REAL in real and vm86 mode */
    uint64_t cs_base;  /* 0 in 64-bit mode */
    uint64_t rip_mask; /* of RIP and of linear addresses of code */
    uint32_t watch;    /* the events that matter now */

    uint64_t dr6_held; /* cpu->dr6_pending before the instruction under way: see MOV SS */
    uint64_t executed; /* before this run */
    uint64_t events;   /* delivered in this run */
    uint64_t budget;   /* instructions left in this run */
    bool stretch;      /* interp_stretch(): a branch taken ends the run */
    bool stretch_over; /* one was */
};

/* How integer.c's two-operand instructions find their operands: kinds and size in one number, so
 * that a handler needs one switch. */
enum insn_form {
    FORM_SIZE = 3,      /* log2 of the size */
    FORM_MEM = 0 << 2,  /* op[0] memory, op[1] register */
    FORM_MI = 1 << 2,   /* memory, immediate */
    FORM_RR = 2 << 2,   /* register, register */
    FORM_RI = 3 << 2,   /* register, immediate */
    FORM_RM = 4 << 2,   /* register, memory */
    FORM_OTHER = 5 << 2 /* high byte registers and everything else */
};
uint8_t insn_form(const struct insn *in);

void insn_undefined(struct cpu *cpu, const struct insn *in);
void insn_nop(struct cpu *cpu, const struct insn *in);

/* The slow ways: all checks. `linear` has passed segmentation. */
uint64_t load_slow(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size);
void store_slow(struct cpu *cpu, enum segment_name seg, uint64_t offset, uint64_t value,
                unsigned size);

/* ---- registers ---------------------------------------------------------------------------- */

static always_inline uint64_t reg_get(const struct cpu *cpu, unsigned reg, unsigned size)
{
    switch (size) {
    case 1:
        if (reg & REG_HIGH8)
            return (uint8_t)(cpu->gpr[reg & 3] >> 8);
        return (uint8_t)cpu->gpr[reg & 15];
    case 2: return (uint16_t)cpu->gpr[reg & 15];
    case 4: return (uint32_t)cpu->gpr[reg & 15];
    default: return cpu->gpr[reg & 15];
    }
}

static always_inline void reg_set(struct cpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
    uint64_t *r = &cpu->gpr[reg & 15];

    switch (size) {
    case 1:
        if (reg & REG_HIGH8) {
            r = &cpu->gpr[reg & 3];
            *r = (*r & ~UINT64_C(0xff00)) | (value & 0xff) << 8;
        } else {
            *r = (*r & ~UINT64_C(0xff)) | (value & 0xff);
        }
        break;
    case 2: *r = (*r & ~UINT64_C(0xffff)) | (value & 0xffff); break;
    case 4: *r = (uint32_t)value; break;
    default: *r = value; break;
    }
}

/* ---- memory ------------------------------------------------------------------------------- */

static always_inline uint64_t host_load(const void *p, unsigned size)
{
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return *(const volatile mmu_u16 *)p;
    case 4: return *(const volatile mmu_u32 *)p;
    default: return *(const volatile mmu_u64 *)p;
    }
}

static always_inline void host_store(void *p, uint64_t value, unsigned size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)value; break;
    case 2: *(volatile mmu_u16 *)p = (uint16_t)value; break;
    case 4: *(volatile mmu_u32 *)p = (uint32_t)value; break;
    default: *(volatile mmu_u64 *)p = value; break;
    }
}

/* Linear address for the fast way, or an address that is in no TLB when the segment has anything
 * unusual about it (limit, type, null): the slow way finds out. */
static always_inline gva fast_linear(const struct cpu *cpu, unsigned seg, uint64_t offset,
                                     unsigned size, bool write)
{
    const struct segment *s = &cpu->seg[seg];
    uint32_t need = write ? ATTR_WRITABLE | ATTR_CODE : 0;

    if (likely(cpu->code_size == 8))
        return unlikely(seg >= SEG_FS) ? offset + s->base : offset;
    /* Expand-up data, or anything readable when reading: data segments always are. */
    if (unlikely(s->attr & ATTR_NULL) || offset + (size - 1) > s->limit)
        return UINT64_C(1) << 63;
    if (write ? (s->attr & (need | ATTR_DOWN)) != ATTR_WRITABLE
              : (s->attr & (ATTR_CODE | ATTR_DOWN)) != 0)
        return UINT64_C(1) << 63;
    return (uint32_t)(s->base + offset);
}

static always_inline uint8_t *fast_pointer(struct cpu *cpu, gva linear, unsigned size,
                                           enum mmu_access access)
{
    const struct tlb_ways *w = &cpu->interp->data->ways[access];
    unsigned i = tlb_index(linear);

    if (unlikely(w->tag[i] != tlb_tag(linear + size - 1)))
        return NULL;
    return (uint8_t *)(linear + w->addend[i]);
}

static always_inline uint64_t load(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
    uint8_t *p = fast_pointer(cpu, fast_linear(cpu, seg, offset, size, false), size, MMU_READ);

    if (likely(p))
        return host_load(p, size);
    return load_slow(cpu, (enum segment_name)seg, offset, size);
}

static always_inline void store(struct cpu *cpu, unsigned seg, uint64_t offset, uint64_t value,
                                unsigned size)
{
    uint8_t *p = fast_pointer(cpu, fast_linear(cpu, seg, offset, size, true), size, MMU_WRITE);

    if (likely(p))
        host_store(p, value, size);
    else
        store_slow(cpu, (enum segment_name)seg, offset, value, size);
}

static always_inline uint64_t address_of(const struct cpu *cpu, const struct insn *in)
{
    uint64_t a = (uint64_t)in->disp;

    if (in->base < GPR_COUNT)
        a += cpu->gpr[in->base];
    else if (in->base == REG_RIP)
        a += cpu->next_rip;
    if (in->index < GPR_COUNT)
        a += cpu->gpr[in->index] * in->scale;
    if (likely(in->address_size == 8))
        return a;
    return in->address_size == 4 ? (uint32_t)a : (uint16_t)a;
}

/* Operands, size known to the compiler. */
static always_inline uint64_t op_read(struct cpu *cpu, const struct insn *in, unsigned n,
                                      unsigned size)
{
    if (in->op[n].kind == OPERAND_GPR)
        return reg_get(cpu, in->op[n].reg, size);
    if (in->op[n].kind == OPERAND_MEM)
        return load(cpu, in->segment, address_of(cpu, in), size);
    return in->imm & (~UINT64_C(0) >> (64 - 8 * size));
}

static always_inline void op_write(struct cpu *cpu, const struct insn *in, unsigned n,
                                   uint64_t value, unsigned size)
{
    if (in->op[n].kind == OPERAND_GPR)
        reg_set(cpu, in->op[n].reg, value, size);
    else
        store(cpu, in->segment, address_of(cpu, in), value, size);
}

/* The host address of a memory operand to be modified in place, when no atomic operation is asked
 * for and the page is plain; else NULL: operand_modify(). */
static always_inline uint8_t *modify_pointer(struct cpu *cpu, const struct insn *in, unsigned size)
{
    if (unlikely(in->prefix & PREFIX_LOCK))
        return NULL;
    return fast_pointer(cpu, fast_linear(cpu, in->segment, address_of(cpu, in), size, true), size,
                        MMU_WRITE);
}

/* ---- stack and branches ------------------------------------------------------------------- */

static always_inline unsigned stack_width(const struct cpu *cpu)
{
    return likely(cpu->code_size == 8) ? 8 : cpu->seg[SEG_SS].attr & ATTR_DB ? 4 : 2;
}

static always_inline uint64_t stack_cut(const struct cpu *cpu, uint64_t offset)
{
    unsigned width = stack_width(cpu);

    return width == 8 ? offset : width == 4 ? (uint32_t)offset : (uint16_t)offset;
}

static always_inline void push(struct cpu *cpu, uint64_t value, unsigned size)
{
    uint64_t top = stack_cut(cpu, cpu->gpr[GPR_RSP] - size);

    store(cpu, SEG_SS, top, value, size);
    reg_set(cpu, GPR_RSP, top, stack_width(cpu));
}

static always_inline uint64_t top_of_stack(struct cpu *cpu, unsigned size)
{
    return load(cpu, SEG_SS, stack_cut(cpu, cpu->gpr[GPR_RSP]), size);
}

static always_inline void drop(struct cpu *cpu, uint64_t bytes)
{
    reg_set(cpu, GPR_RSP, cpu->gpr[GPR_RSP] + bytes, stack_width(cpu));
}

/* branch_to() for the ordinary case. */
static always_inline void jump(struct cpu *cpu, const struct insn *in, uint64_t target)
{
    if (likely(cpu->code_size == 8) && likely((uint64_t)sign_extend(target, 48) == target))
        cpu->next_rip = target;
    else
        branch_to(cpu, in, target);
}

#endif
