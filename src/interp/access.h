/*
 * access.h - how handlers reach operands, memory and the stack.
 *
 * All functions apply segmentation (limits, types, canonical form), alignment checks (#AC) and
 * paging in the order of the manual, and raise what they find. Sizes are 1, 2, 4 or 8 bytes
 * unless said otherwise.
 */
#ifndef INTERP_ACCESS_H
#define INTERP_ACCESS_H

#include "interp/insn.h"
#include "x86/mmu.h"

/* Offset of the memory operand, cut to the address size. */
uint64_t insn_offset(const struct cpu *cpu, const struct insn *in);

/* Check [offset, offset+size) in the segment for the access; its linear address. Raises #SS for
 * SEG_SS, else #GP (error code 0). */
gva segment_linear(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size,
                   enum mmu_access access);
/* The memory operand's linear address; MMU_WRITE also for read-modify-write. */
gva insn_linear(struct cpu *cpu, const struct insn *in, unsigned size, enum mmu_access access);

uint64_t segment_load(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size);
void segment_store(struct cpu *cpu, enum segment_name seg, uint64_t offset, uint64_t value,
                   unsigned size);

/* GPR access with the rules of partial registers: 32-bit writes clear the upper half. `reg` may
 * carry REG_HIGH8 when size is 1. */
uint64_t reg_read(const struct cpu *cpu, unsigned reg, unsigned size);
void reg_write(struct cpu *cpu, unsigned reg, uint64_t value, unsigned size);

/* Operand n: register, memory or immediate, zero-extended. */
uint64_t operand_read(struct cpu *cpu, const struct insn *in, unsigned n);
void operand_write(struct cpu *cpu, const struct insn *in, unsigned n, uint64_t value);

/*
 * Read-modify-write of operand n. For memory: checks write access first, then calls `change` on
 * the host's copy; with PREFIX_LOCK (or XCHG) on guest RAM the update is one host atomic operation
 * (a compare-and-swap loop), split over pages or MMIO it is done under a global lock.
 * `change` gets the old value and returns the new one; it must not fault or touch the CPU, for it
 * may be called more than once: results go to *context. Returns the old value.
 */
uint64_t operand_modify(struct cpu *cpu, const struct insn *in, unsigned n,
                        uint64_t (*change)(uint64_t old, void *context), void *context);

/* The same for memory that was checked by segment_linear(). */
uint64_t linear_modify(struct cpu *cpu, gva linear, unsigned size, bool locked,
                       uint64_t (*change)(uint64_t old, void *context), void *context);

/* Compare and exchange a linear range of 1, 2, 4, 8 or 16 bytes, as one atomic operation;
 * *expected gets what was there. Used by CMPXCHG8B/16B and for descriptor bits. */
bool linear_compare_exchange(struct cpu *cpu, gva linear, void *expected, const void *desired,
                             unsigned size, enum mmu_mode mode);

/* Implicit stack accesses: RSP width by SS.B or 64-bit mode. Do not change RSP: callers add up
 * and commit with stack_move(). stack_load() reads at RSP + depth (the first pop has depth 0),
 * stack_store() writes at RSP - depth (the first push of 8 bytes has depth 8). */
uint64_t stack_load(struct cpu *cpu, unsigned depth, unsigned size);
void stack_store(struct cpu *cpu, unsigned depth, uint64_t value, unsigned size);
void stack_move(struct cpu *cpu, int64_t bytes); /* RSP += bytes, in the stack's width */
void stack_push(struct cpu *cpu, uint64_t value, unsigned size); /* store, then move */
uint64_t stack_pop(struct cpu *cpu, unsigned size);              /* load, then move */

/* Set next_rip for a near branch: cut to the operand size, checked against CS limit or canonical
 * form (#GP(0)) before anything else is committed. */
void branch_to(struct cpu *cpu, const struct insn *in, uint64_t target);

/* XINUSE: which components of XCR0 are not in their initial configuration. state_insn.c. */
uint64_t components_in_use(const struct cpu *cpu);

/* The mode of implicit supervisor accesses (descriptor tables, TSS): MMU_KERNEL under SMAP
 * whatever the CPL, MMU_KERNEL_AC without. */
enum mmu_mode mmu_system_mode(const struct cpu *cpu);

#endif
