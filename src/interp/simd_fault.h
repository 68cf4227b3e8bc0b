/*
 * simd_fault.h - host faults inside generated code. Apart from simd_stub.c only because the
 * register names of <ucontext.h> and those of interp/insn.h collide.
 */
#ifndef INTERP_SIMD_FAULT_H
#define INTERP_SIMD_FAULT_H

#include <stddef.h>

enum simd_fault_kind { SIMD_FAULT_NONE, SIMD_FAULT_FLOAT, SIMD_FAULT_INVALID };

/* What the handler reads and writes; RSI points `offset` bytes before it while a stub runs. */
struct simd_fault {
    const void *exit; /* where to continue */
    int kind;         /* enum simd_fault_kind, set by the handler */
};

/* Once: SIGFPE and SIGILL at code in [code, code+size) continue at the fault exit. */
void simd_fault_install(const void *code, size_t size, size_t offset);
/* Take both signals again, after somebody else (a test framework) took them away. */
void simd_fault_arm(void);
/* Unblock both in this thread: vCPU threads block signals, but these answer their own doing. */
void simd_fault_unblock(void);

#endif
