/*
 * internal.h - what the files of kvm/ share.
 *
 * Who has a vCPU's truth: `stale` means KVM has it and struct cpu is old; `push` means struct cpu
 * was changed and KVM is old. Never both. Reading registers out of KVM while an exit to us waits
 * for its answer would lose the answer, so `incomplete` has that finished first.
 */
#ifndef KVM_INTERNAL_H
#define KVM_INTERNAL_H

#include "kvm/kvm.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>

enum { KVM_MSR_LIMIT = 128, KVM_SLOTS = 128 };

#define KVM_KICK_SIGNAL (SIGRTMIN + 1)

struct kvm_slot {
    struct ram_block *block; /* NULL: free */
    gpa base;
    uint64_t size, offset;
    uint32_t flags; /* KVM_MEM_* */
};

struct kvm_machine {
    struct engine *engine;
    int kvm, vm;
    size_t run_size;
    bool has_xsave, has_xcrs, has_debugregs, has_sregs2, has_user_msr, has_readonly, has_tsc_offset;
    struct cpu_limits limits;
    struct memory_listener listener;
    pthread_mutex_t lock; /* of the slots; taken inside the memory map's locks, calls nothing */
    struct kvm_slot slots[KVM_SLOTS];
    bool slots_failed; /* told once */
};

struct kvm_cpu {
    struct kvm_machine *machine;
    int fd;
    struct kvm_run *run;
    bool stale, push, incomplete;
    bool injectable; /* an interrupt given now would be taken at once */
    bool told;       /* of what KVM could not do */
    uint64_t interpreted;
    pthread_t thread;
    bool has_thread;
    atomic_bool running;                /* in run(): a kick must signal */
    atomic_bool interpreting, flushing; /* of kvm.c's slots_flush() */
    uint32_t msr[KVM_MSR_LIMIT];
    unsigned msr_count;
};

static inline struct kvm_cpu *kvm_cpu(const struct cpu *cpu)
{
    return cpu->engine;
}

/* host.c: the device, and what it offers. */
int kvm_open(struct error *err); /* the descriptor of /dev/kvm, with the API checked */
int kvm_read_limits(int kvm, struct cpu_limits *out, struct error *err);
int kvm_has(int fd, long capability); /* as KVM_CHECK_EXTENSION */

/* slots.c */
void kvm_slots_update(struct kvm_machine *m);
void kvm_slots_harvest(struct kvm_machine *m); /* KVM's dirty log into the page flags */

/* registers.c: all of a vCPU's registers. On the vCPU's thread, or while it stands still. */
int kvm_registers_init(struct cpu *cpu, struct error *err);
int kvm_registers_pull(struct cpu *cpu, struct error *err);
int kvm_registers_push(struct cpu *cpu, struct error *err);

#endif
