/*
 * vcpu.c - see vcpu.h.
 *
 * A thread's life: wait until told to run; then run the engine, handle INIT and SIPI, sleep when
 * halted; on CPU_EVENT_EXIT stand still again. `wanted` is what the main thread wants, `standing`
 * what the thread does; both are under the vcpu's lock.
 */
#include "machine/vcpu.h"

#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

enum vcpu_wanted { VCPU_STAND, VCPU_GO, VCPU_LEAVE };

struct vcpu {
    struct machine *machine;
    struct cpu *cpu;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum vcpu_wanted wanted;
    bool standing;
};

static void engine_pull(struct machine *m, struct cpu *cpu)
{
    if (m->engine.ops->pull)
        m->engine.ops->pull(&m->engine, cpu);
}

static void engine_push(struct machine *m, struct cpu *cpu)
{
    cpu_state_changed(cpu);
    if (m->engine.ops->push)
        m->engine.ops->push(&m->engine, cpu);
}

/* INIT first: a SIPI that comes with it is for the CPU it makes. An NMI that came before SIPI is
 * gone, or it would be taken in real mode, before the new program has vectors. */
static void handle_init_and_sipi(struct machine *m, struct cpu *cpu)
{
    if (!(cpu->events & (CPU_EVENT_INIT | CPU_EVENT_SIPI)))
        return;
    engine_pull(m, cpu);
    if (!cpu->in_smm && cpu_retract(cpu, CPU_EVENT_INIT)) {
        cpu_retract(cpu, CPU_EVENT_NMI);
        cpu_init(cpu, cpu->index == 0);
    }
    if (cpu_retract(cpu, CPU_EVENT_SIPI) && cpu->activity == CPU_WAIT_SIPI) {
        cpu_retract(cpu, CPU_EVENT_NMI); /* nor is one heard while waiting */
        cpu_sipi(cpu, cpu->sipi_vector);
    }
    engine_push(m, cpu);
}

static void fail(struct machine *m, const struct error *err)
{
    if (m->end == END_NONE)
        m->error = *err;
    machine_request_end(m, END_ERROR);
}

/* One stretch of running: until the main thread wants the CPU. */
static void go(struct machine *m, struct cpu *cpu)
{
    struct error err = {0};

    while (!(cpu->events & CPU_EVENT_EXIT)) {
        handle_init_and_sipi(m, cpu);
        if (cpu->activity == CPU_SHUTDOWN) {
            cpu_sleep(cpu, CPU_EVENT_EXIT | CPU_EVENT_INIT);
            continue;
        }
        if (cpu->activity == CPU_WAIT_SIPI) {
            cpu_sleep(cpu, CPU_EVENT_EXIT | CPU_EVENT_INIT | CPU_EVENT_SIPI);
            continue;
        }
        if (cpu->activity == CPU_HALTED && !cpu_has_work(cpu)) {
            uint32_t mask = CPU_EVENT_EXIT | CPU_EVENT_UNHALT | CPU_EVENT_WAKE;

            /* What cannot end the halt must not end the sleep, or we would spin. */
            if (!(cpu->rflags & RFLAGS_IF))
                mask &= ~(uint32_t)CPU_EVENT_INTR;
            if (cpu->nmi_blocked)
                mask &= ~(uint32_t)CPU_EVENT_NMI;
            if (cpu->in_smm)
                mask &= ~(uint32_t)(CPU_EVENT_SMI | CPU_EVENT_INIT);
            cpu_sleep(cpu, mask);
            if (cpu_retract(cpu, CPU_EVENT_WAKE))
                cpu->activity = CPU_RUNNING;
            continue;
        }
        switch (m->engine.ops->run(&m->engine, cpu, &err)) {
        case ENGINE_EVENT:
        case ENGINE_HALTED: break;
        case ENGINE_SHUTDOWN:
            log_info("processor %u: triple fault at %04x:%016llx", cpu->index,
                     cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip);
            machine_request_reset(m);
            cpu->activity = CPU_SHUTDOWN;
            break;
        case ENGINE_ERROR: fail(m, &err); return;
        }
    }
}

/* A busy processor serves the timers that are due: the main thread may be waiting for a core. */
static void vcpu_tick(struct cpu *cpu)
{
    struct vcpu *v = cpu->vcpu;

    clock_poll(v->machine->clock);
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *v = opaque;
    char name[16];

    snprintf(name, sizeof(name), "CPU %u", v->cpu->index);
    pthread_setname_np(pthread_self(), name);
    pthread_mutex_lock(&v->lock);
    while (v->wanted != VCPU_LEAVE) {
        if (v->wanted == VCPU_STAND) {
            v->standing = true;
            pthread_cond_broadcast(&v->changed);
            pthread_cond_wait(&v->changed, &v->lock);
            continue;
        }
        v->standing = false;
        pthread_mutex_unlock(&v->lock);
        go(v->machine, v->cpu);
        engine_pull(v->machine, v->cpu);
        pthread_mutex_lock(&v->lock);
        cpu_retract(v->cpu, CPU_EVENT_EXIT);
        if (v->wanted == VCPU_GO && v->machine->end == END_ERROR)
            v->wanted = VCPU_STAND; /* failed by itself */
    }
    v->standing = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    return NULL;
}

int vcpu_create_all(struct machine *m, struct error *err)
{
    sigset_t all, before;
    int r = 0;

    /* Signals are for the main thread; engines open for themselves what they need. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < m->cpu_count && !r; i++) {
        struct vcpu *v = xcalloc(1, sizeof(*v));

        v->machine = m;
        v->cpu = m->cpus[i];
        pthread_mutex_init(&v->lock, NULL);
        pthread_cond_init(&v->changed, NULL);
        m->cpus[i]->vcpu = v;
        m->cpus[i]->tick = vcpu_tick;
        r = pthread_create(&v->thread, NULL, vcpu_main, v);
        v->has_thread = r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        return error_set_errno(err, r, "cannot start %u processor threads", m->cpu_count);
    return 0;
}

static void vcpu_want(struct vcpu *v, enum vcpu_wanted wanted)
{
    pthread_mutex_lock(&v->lock);
    v->wanted = wanted;
    if (wanted == VCPU_GO)
        cpu_retract(v->cpu, CPU_EVENT_EXIT);
    else
        cpu_post(v->cpu, CPU_EVENT_EXIT);
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

static void wait_standing(struct vcpu *v)
{
    pthread_mutex_lock(&v->lock);
    while (!v->standing)
        pthread_cond_wait(&v->changed, &v->lock);
    pthread_mutex_unlock(&v->lock);
}

void vcpu_run_all(struct machine *m)
{
    for (unsigned i = 0; i < m->cpu_count; i++) {
        struct vcpu *v = m->cpus[i]->vcpu;

        engine_push(m, m->cpus[i]); /* it stands still: nobody else uses the state */
        vcpu_want(v, VCPU_GO);
    }
}

void vcpu_stop_all(struct machine *m)
{
    for (unsigned i = 0; i < m->cpu_count; i++)
        vcpu_want(m->cpus[i]->vcpu, VCPU_STAND);
    for (unsigned i = 0; i < m->cpu_count; i++)
        wait_standing(m->cpus[i]->vcpu);
}

void vcpu_join_all(struct machine *m)
{
    for (unsigned i = 0; i < m->cpu_count; i++) {
        struct vcpu *v = m->cpus[i]->vcpu;

        if (!v)
            continue;
        if (v->has_thread) {
            vcpu_want(v, VCPU_LEAVE);
            pthread_join(v->thread, NULL);
        }
        pthread_mutex_destroy(&v->lock);
        pthread_cond_destroy(&v->changed);
        free(v);
        m->cpus[i]->vcpu = NULL;
        m->cpus[i]->tick = NULL;
    }
}
