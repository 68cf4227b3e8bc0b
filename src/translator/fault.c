/*
 * fault.c - host faults in translated code.
 *
 * A division, an unmasked floating-point exception, a misaligned aligned-move: the host takes the
 * guest's fault. The instruction has changed nothing yet (translate.c), so the handler lets the
 * code leave through its ordinary door as if it had asked for the interpreter there, which executes
 * the instruction again and raises what is to be raised. The side table block.faults tells which
 * guest instruction it is, where the flags are and whether a register was borrowed.
 *
 * The stack of paired calls ends at a page that cannot be written: when a call runs into it, the
 * stack starts again (all its returns then take the slower way) and the call is executed again.
 *
 * Signals run on a stack of their own: RSP is not a stack a handler may use. Faults anywhere else
 * go to whoever had the signal before.
 */
#include "translator/internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#undef REG_RIP /* interp/insn.h has one, too, but is not included here */
enum { GREG_R8 = 0, GREG_RIP = 16, GREG_RSP = 15 };

/* The context's order of registers, by hardware number. */
static const uint8_t greg_of[16] = {13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};

enum { SIGNAL_STACK = 64 * 1024 };

static struct sigaction old_action[65];
static _Thread_local struct bt_cpu *current;
static _Thread_local void *signal_stack;

static void pass_on(int sig, siginfo_t *info, void *context)
{
    const struct sigaction *old = &old_action[sig];

    if (old->sa_flags & SA_SIGINFO) { /* it may mend the fault */
        old->sa_sigaction(sig, info, context);
        return;
    }
    /* It faults again, and then for good; what somebody sent would not come again by itself. */
    sigaction(sig, old, NULL);
    if (info->si_code <= 0)
        raise(sig);
}

/* Did the stack of paired calls run over? */
static bool stack_overflow(struct bt_cpu *c, greg_t *g, const siginfo_t *info)
{
    uintptr_t at = (uintptr_t)info->si_addr, low = (uintptr_t)c->stack[c->stack_now];

    if (at >= low || at < low - 4096)
        return false;
    g[GREG_RSP] = (greg_t)c->stack_base[c->stack_now];
    c->count[COUNT_STACK_RESET]++;
    return true;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct bt_cpu *c = current;
    struct translator *t = c ? c->t : NULL;
    uintptr_t at = t ? (uintptr_t)g[GREG_RIP] - (uintptr_t)t->rx : 0;
    const struct block *b;

    if (!t || at >= t->size) {
        pass_on(sig, info, context);
        return;
    }
    if (sig == SIGSEGV && stack_overflow(c, g, info))
        return;
    b = block_of_host(t, (uint32_t)at);
    for (uint32_t i = 0; b && i < b->faults; i++) {
        const struct fault_point *f = &t->faults[b->first_fault + i];

        if (f->host != at)
            continue;
        if (f->borrowed != NO_REG)
            g[greg_of[f->borrowed]] = (greg_t)c->context->spill;
        c->context->fault_offset = f->offset;
        c->context->site = SITE_OF_FAULT;
        g[GREG_RIP] = (greg_t)(uintptr_t)(f->flags_live ? t->stub.leave_hw : t->stub.leave_saved);
        return;
    }
    fprintf(stderr, "hospes: internal error: signal %d in translated code at %#lx, address %p\n",
            sig, (unsigned long)at, info->si_addr);
    if (b)
        fprintf(stderr, "hospes: block of page %u offset %#x key %#x, host %#x-%#x\n", b->page,
                b->offset, b->key, b->start, b->end);
    pass_on(sig, info, context);
}

static void install(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        struct sigaction now,
            action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

        sigemptyset(&action.sa_mask);
        sigaction(signals[i], &action, &now);
        if (now.sa_sigaction != on_fault)
            old_action[signals[i]] = now;
    }
}

void fault_setup(void)
{
    install();
}

void fault_thread(struct bt_cpu *c)
{
    sigset_t set;

    current = c;
    if (!c || signal_stack)
        return;
    signal_stack = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                        0);
    if (signal_stack == MAP_FAILED)
        abort();
    sigaltstack(&(stack_t){.ss_sp = signal_stack, .ss_size = SIGNAL_STACK}, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGFPE);
    sigaddset(&set, SIGILL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
