/*
 * interp.h - the reference interpreter: the truth the other engines are judged by.
 *
 * It runs one vCPU from its struct cpu, on the vCPU's own thread, in any mode. Other engines call
 * it for what they do not do themselves, between any two instructions.
 */
#ifndef INTERP_INTERP_H
#define INTERP_INTERP_H

#include "x86/cpu.h"

enum interp_result {
    INTERP_OK,       /* did what was asked */
    INTERP_EVENT,    /* CPU_EVENT_EXIT, _INIT or _SIPI is set: the caller handles it */
    INTERP_HALTED,   /* activity is no longer CPU_RUNNING: HLT, MWAIT */
    INTERP_SHUTDOWN, /* triple fault; activity is CPU_SHUTDOWN */
};

/* Once for each vCPU before the first run: allocates the TLB and the decode cache. */
void interp_attach(struct cpu *cpu);
void interp_detach(struct cpu *cpu);

/* Run until something else than an instruction is wanted. Takes NMI, SMI and interrupts itself. */
enum interp_result interp_run(struct cpu *cpu);

/* Execute at most `count` instructions (an event delivered counts as one). */
enum interp_result interp_step(struct cpu *cpu, uint64_t count);

/*
 * For an engine that runs ordinary instructions itself. Is there anything at this boundary that
 * only the interpreter does: an event that may be taken now, a trap, a shadow, single stepping,
 * breakpoints, alignment checks, a CPU that does not run?
 */
bool interp_needed(const struct cpu *cpu);

/* As interp_step(), but stops behind the first branch taken, too. */
enum interp_result interp_stretch(struct cpu *cpu, uint64_t count);

enum interp_trial {
    TRIAL_DONE,
    TRIAL_REFUSED, /* `may` said no; nothing was done */
    TRIAL_RAISED,  /* unwound: an exception (raise_vector), or whoever else jumps to cpu->unwind */
};
struct insn;

/* For a checker, under mmu_set_dry() and where interp_needed() is false, but for shadows: execute
 * one instruction, deliver nothing, look at no event. *out is which one, until the next. */
enum interp_trial interp_try(struct cpu *cpu, bool (*may)(const struct insn *in),
                             const struct insn **out);

/* Instructions executed by this CPU in the interpreter. */
uint64_t interp_count(const struct cpu *cpu);

#endif
