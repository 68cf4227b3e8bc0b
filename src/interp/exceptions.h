/*
 * exceptions.h - delivery of exceptions, interrupts and SMIs, and what far transfers share with
 * it. SDM vol. 3, chapters 5 to 7 (protection, interrupts, task management) and 32 (SMM).
 */
#ifndef INTERP_EXCEPTIONS_H
#define INTERP_EXCEPTIONS_H

#include "x86/cpu.h"

enum interrupt_kind {
    INTERRUPT_EXTERNAL,  /* INTR, whatever its vector */
    INTERRUPT_EXCEPTION, /* faults, traps: what cpu_raise() and #DB make */
    INTERRUPT_SOFTWARE,  /* INT n: DPL of the gate is checked */
    INTERRUPT_INT3,      /* INT3, INTO: likewise */
    INTERRUPT_ICEBP,     /* INT1: not checked */
    INTERRUPT_NMI,       /* blocks further ones until IRET */
};

/*
 * Deliver through the IVT, IDT, or a task gate. For faults cpu->rip is the faulting instruction;
 * for the rest, where to return to. Faults during delivery become double faults by the table of
 * the manual; a triple fault sets activity to CPU_SHUTDOWN. Returns; never unwinds. Ends HLT and
 * shadows.
 */
void interrupt_deliver(struct cpu *cpu, uint8_t vector, enum interrupt_kind kind, bool has_error,
                       uint32_t error);

/* Does DR7 enable anything? */
static inline bool cpu_debug_active(const struct cpu *cpu)
{
    return (cpu->dr[7] & 0xff) != 0;
}

enum { DEBUGCTL_LBR = 1, DEBUGCTL_BTF = 2 }; /* #DB clears both */

/* #DB: set DR6 bits and deliver. */
void debug_exception(struct cpu *cpu, uint64_t dr6_bits);

/* Before executing at cpu->rip: does a hardware instruction breakpoint match? */
bool debug_fetch_match(struct cpu *cpu, uint64_t *dr6_bits);
/* After a data access in [linear, linear+size): remembers matches in cpu->dr6_pending, reported as
 * a trap after the instruction by the run loop. Called by mmu users only while DR7 enables
 * something: cpu_debug_active(). */
void debug_data_access(struct cpu *cpu, gva linear, unsigned size, bool write);
void debug_io_access(struct cpu *cpu, uint16_t port, unsigned size);

void smm_enter(struct cpu *cpu);
bool smm_leave(struct cpu *cpu); /* RSM; false: the saved state is bad, shutdown */

/* Load a segment register with all checks; raises. `stack` errors are #SS. */
void segment_set(struct cpu *cpu, enum segment_name seg, uint16_t selector);
/* Real and virtual-8086 mode. */
void segment_set_real(struct cpu *cpu, enum segment_name seg, uint16_t selector);

/* May I/O instructions reach this port? Raises #GP(0) when CPL > IOPL and the TSS bitmap says no.
 */
void io_check(struct cpu *cpu, uint16_t port, unsigned size);
uint64_t io_read(struct cpu *cpu, uint16_t port, unsigned size);
void io_write(struct cpu *cpu, uint16_t port, uint64_t value, unsigned size);

#endif
