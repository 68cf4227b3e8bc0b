/*
 * protect.h - what the files of the privileged half share: descriptors, stacks other than the
 * current one, task switches. Private to exceptions.c, far.c, system.c, task.c, smm.c, debug.c.
 *
 * Functions that check raise; `ext` is the EXT bit of the error codes they raise with. They read
 * tables in supervisor mode whatever the CPL.
 */
#ifndef INTERP_PROTECT_H
#define INTERP_PROTECT_H

#include "interp/access.h"
#include "interp/exceptions.h"

enum system_type {
    TYPE_TSS16 = 1,
    TYPE_LDT = 2,
    TYPE_TSS16_BUSY = 3,
    TYPE_CALL16 = 4,
    TYPE_TASK_GATE = 5,
    TYPE_INTERRUPT16 = 6,
    TYPE_TRAP16 = 7,
    TYPE_TSS32 = 9,
    TYPE_TSS32_BUSY = 11,
    TYPE_CALL32 = 12,
    TYPE_INTERRUPT32 = 14,
    TYPE_TRAP32 = 15,
};

enum { SELECTOR_RPL = 3, SELECTOR_TI = 4 };

/* A descriptor or gate as it stands in its table; `upper` is the second half of those that have
 * 16 bytes in long mode. */
struct descriptor {
    gva where;
    uint32_t low, high;
    uint64_t upper;
};

static inline bool selector_null(uint16_t selector)
{
    return (selector & ~SELECTOR_RPL) == 0;
}

/* raise with the selector as error code */
_Noreturn static inline void raise_selector(struct cpu *cpu, enum exception vector,
                                            uint16_t selector, bool ext)
{
    cpu_raise_error(cpu, vector, (selector & 0xfffcu) | ext);
}

static inline uint32_t descriptor_attr(const struct descriptor *d)
{
    return d->high >> 8 & 0xf0ff;
}

static inline unsigned descriptor_dpl(const struct descriptor *d)
{
    return d->high >> 13 & 3;
}

static inline bool descriptor_present(const struct descriptor *d)
{
    return (d->high & 1u << 15) != 0;
}

/* S and type: 0-15 system types, 16-31 data and code */
static inline unsigned descriptor_kind(const struct descriptor *d)
{
    return d->high >> 8 & 0x1f;
}

static inline bool descriptor_is_code(const struct descriptor *d)
{
    return (descriptor_kind(d) & (ATTR_S | ATTR_CODE)) == (ATTR_S | ATTR_CODE);
}

static inline bool descriptor_is_writable_data(const struct descriptor *d)
{
    return (descriptor_kind(d) & (ATTR_S | ATTR_CODE | ATTR_WRITABLE)) == (ATTR_S | ATTR_WRITABLE);
}

static inline bool descriptor_is_conforming(const struct descriptor *d)
{
    return descriptor_is_code(d) && d->high >> 8 & ATTR_CONFORMING;
}

/* Read what the selector points at. false: outside of its table. Not for null selectors. */
bool descriptor_load(struct cpu *cpu, uint16_t selector, struct descriptor *d);
/* Read the second half of a 16-byte system descriptor. false: outside of the table, or its type
 * field is not zero. */
bool descriptor_load_upper(struct cpu *cpu, uint16_t selector, struct descriptor *d);
/* Set or clear bits of the high word in the table, locked; also in *d. */
void descriptor_change(struct cpu *cpu, struct descriptor *d, uint32_t set, uint32_t clear);
/* Set the accessed bit of a code or data descriptor if it is clear. */
void descriptor_accessed(struct cpu *cpu, struct descriptor *d);
/* The hidden part for a register. */
struct segment descriptor_segment(uint16_t selector, const struct descriptor *d);
struct segment segment_null(uint16_t selector, unsigned dpl);

/* Is [offset, offset+size) within the segment's limit? Expand-down segments considered. */
bool segment_contains(const struct segment *s, uint64_t offset, unsigned size);

/*
 * A stack that is not in SS:RSP yet. Pushes store at once and move only `sp`; the caller commits
 * ss and sp at the end. Faults carry `error`.
 */
struct stack {
    struct segment ss;
    uint64_t sp;
    unsigned width; /* bytes of SP that count */
    enum mmu_mode mode;
    uint32_t error;
};

struct stack stack_current(const struct cpu *cpu, bool ext);
void stack_push_to(struct cpu *cpu, struct stack *s, uint64_t value, unsigned size);
/* RSP with the stack's pointer in its width put in. */
void stack_commit(struct cpu *cpu, const struct stack *s);

/* Privilege level `cpl`'s stack pointer and SS from the TSS, legacy modes: all checks, #TS/#SS. */
void stack_from_tss(struct cpu *cpu, unsigned cpl, bool ext, struct stack *out);
/* RSP0-2 (n 0-2) or IST1-7 (n 4-10: that is the order in the TSS) of the 64-bit TSS. */
uint64_t stack_from_tss64(struct cpu *cpu, unsigned n, bool ext);

/* Load CS for a transfer to privilege level `cpl` (RPL put in), with a descriptor already
 * checked. Sets the accessed bit. Call cpu_update_derived() when all is loaded. */
void code_segment_commit(struct cpu *cpu, uint16_t selector, struct descriptor *d, unsigned cpl);

/* Data segment checks of MOV Sreg (`vector` EXC_GP) and of task switches (EXC_TS). */
struct segment data_segment_get(struct cpu *cpu, enum segment_name seg, uint16_t selector,
                                enum exception vector, bool ext);
/* Null out ES, DS, FS, GS that the new CPL may not use: returns to outer levels. */
void data_segments_revalidate(struct cpu *cpu);

/* Deliver; raises instead of making double faults. `return_rip` is what gets pushed. Leaves the
 * target in cpu->next_rip. */
void interrupt_transfer(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind, bool has_error,
                        uint32_t error, uint64_t return_rip);

enum task_source { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INTERRUPT };

/* Switch to the task whose TSS this is. Leaves EIP in rip and next_rip: from then on faults are
 * the new task's. */
void task_switch(struct cpu *cpu, uint16_t selector, enum task_source source, bool has_error,
                 uint32_t error, uint64_t return_rip, bool ext);
/* Through a task gate, already checked itself. */
void task_gate(struct cpu *cpu, const struct descriptor *gate, enum task_source source,
               bool has_error, uint32_t error, uint64_t return_rip, bool ext);

#endif
