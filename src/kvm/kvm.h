/*
 * kvm.h - the hardware engine: vCPUs run by /dev/kvm, everything else by us.
 *
 * Interrupt chips are ours: KVM is told of interrupts one by one, when the guest can take them.
 * What KVM cannot run (an instruction it fails to emulate, SMM, a shut A20 gate, an event caught
 * in mid-delivery) the interpreter does, on the same struct cpu, and the guest goes on.
 */
#ifndef KVM_KVM_H
#define KVM_KVM_H

#include "engine/engine.h"

extern const struct engine_ops engine_kvm;

/* Only the guest of probe(), whatever the processor's flags say: 64-bit code with paging, SSE2, an
 * exception, a port and memory, that must end right within 200 ms. */
int kvm_probe_guest(struct error *err);

/* What the interpreter did for this CPU because KVM could not. */
uint64_t kvm_interpreted(const struct cpu *cpu);

#endif
