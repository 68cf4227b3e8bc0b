/*
 * interp.c - the reference interpreter as an engine.
 *
 * Memory listeners: changed() only asks (CPU_EVENT_FLUSH). flush() waits until every vCPU has
 * dropped its TLB, is not in run() (it will drop it before its next instruction, because the event
 * stays set), or is itself in flush(): inside a device hook it holds no translation in use, and
 * two that flush at once must not wait for each other.
 */
#include "interp/interp.h"
#include "engine/engine.h"

#include <sched.h>
#include <stdlib.h>

struct interp_cpu {
    atomic_bool running, flushing;
};

struct interp_engine {
    struct engine *engine;
    struct memory_listener listener;
};

static _Thread_local struct interp_cpu *current;

static void ask_all_to_flush(struct memory_listener *l)
{
    struct engine *e = container_of(l, struct interp_engine, listener)->engine;

    for (unsigned i = 0; i < e->cpu_count; i++)
        cpu_post(e->cpus[i], CPU_EVENT_FLUSH);
}

static bool still_uses_old_pages(const struct cpu *cpu)
{
    const struct interp_cpu *c = cpu->engine;

    return c != current && c->running && !c->flushing &&
           (atomic_load(&cpu->events) & CPU_EVENT_FLUSH);
}

static void flush(struct memory_listener *l)
{
    struct engine *e = container_of(l, struct interp_engine, listener)->engine;

    ask_all_to_flush(l);
    if (current)
        current->flushing = true;
    for (unsigned i = 0; i < e->cpu_count; i++)
        while (still_uses_old_pages(e->cpus[i]))
            sched_yield();
    if (current)
        current->flushing = false;
}

static int probe(struct error *err)
{
    return 0;
}

static int create(struct engine *e, struct error *err)
{
    struct interp_engine *x = xcalloc(1, sizeof(*x));

    for (unsigned i = 0; i < e->cpu_count; i++) {
        e->cpus[i]->engine = xcalloc(1, sizeof(struct interp_cpu));
        interp_attach(e->cpus[i]);
    }
    x->engine = e;
    x->listener = (struct memory_listener){.changed = ask_all_to_flush, .flush = flush};
    memory_listen(e->memory, &x->listener);
    e->data = x;
    return 0;
}

static void destroy(struct engine *e)
{
    struct interp_engine *x = e->data;

    memory_unlisten(e->memory, &x->listener);
    for (unsigned i = 0; i < e->cpu_count; i++) {
        interp_detach(e->cpus[i]);
        free(e->cpus[i]->engine);
        e->cpus[i]->engine = NULL;
    }
    free(x);
    e->data = NULL;
}

static enum engine_exit run(struct engine *e, struct cpu *cpu, struct error *err)
{
    struct interp_cpu *c = cpu->engine;
    enum interp_result r;

    current = c;
    c->running = true;
    r = interp_run(cpu);
    c->running = false;
    current = NULL;
    switch (r) {
    case INTERP_SHUTDOWN: return ENGINE_SHUTDOWN;
    case INTERP_HALTED: return ENGINE_HALTED;
    default: return ENGINE_EVENT;
    }
}

/* The interpreter looks at events between any two instructions. */
static void kick(struct cpu *cpu)
{
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "the reference interpreter, on any host",
    .probe = probe,
    .limits = cpu_limits_software,
    .create = create,
    .destroy = destroy,
    .run = run,
    .kick = kick,
};
