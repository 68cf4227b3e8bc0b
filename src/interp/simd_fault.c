/*
 * simd_fault.c - an unmasked SIMD exception is SIGFPE, an encoding the host refuses SIGILL. The
 * handler recognises addresses of generated code and continues at the stub's fault exit; other
 * faults go to whoever had the signal before.
 */
#include "interp/simd_fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

static struct {
    uintptr_t code;
    size_t size, offset;
    struct sigaction old_fpe, old_ill;
} watch;

static void pass_on(const struct sigaction *old, int sig, siginfo_t *info, void *context)
{
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
        return;
    }
    /* It faults again, and then for good; what somebody sent would not come again by itself. */
    sigaction(sig, old, NULL);
    if (info->si_code <= 0)
        raise(sig);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct simd_fault *fault;

    if ((uintptr_t)gregs[REG_RIP] - watch.code >= watch.size) {
        pass_on(sig == SIGFPE ? &watch.old_fpe : &watch.old_ill, sig, info, context);
        return;
    }
    fault = (struct simd_fault *)((uintptr_t)gregs[REG_RSI] + watch.offset);
    fault->kind = sig == SIGFPE ? SIMD_FAULT_FLOAT : SIMD_FAULT_INVALID;
    gregs[REG_RIP] = (greg_t)(uintptr_t)fault->exit;
}

static void take_signal(int sig, struct sigaction *old)
{
    struct sigaction now, action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    sigemptyset(&action.sa_mask);
    sigaction(sig, &action, &now);
    if (now.sa_sigaction != on_fault)
        *old = now;
}

void simd_fault_arm(void)
{
    take_signal(SIGFPE, &watch.old_fpe);
    take_signal(SIGILL, &watch.old_ill);
}

void simd_fault_install(const void *code, size_t size, size_t offset)
{
    watch.code = (uintptr_t)code;
    watch.size = size;
    watch.offset = offset;
    simd_fault_arm();
}

void simd_fault_unblock(void)
{
    static _Thread_local bool done;
    sigset_t set;

    if (done)
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGFPE);
    sigaddset(&set, SIGILL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    done = true;
}
