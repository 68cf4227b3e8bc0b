/*
 * engine.h - the contract of everything that can run a vCPU.
 *
 * An engine executes guest instructions on struct cpu until something else is wanted. It knows
 * the address maps, the events and the interrupt controller's hooks in struct cpu, and no device.
 *
 * Threads: run() on the vCPU's own thread; kick() from any; the rest while no vCPU runs.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/error.h"
#include "x86/cpu.h"
#include "x86/model.h"

enum engine_exit {
    ENGINE_EVENT,    /* CPU_EVENT_EXIT, _INIT or _SIPI wants the vCPU loop */
    ENGINE_HALTED,   /* activity is not CPU_RUNNING any more, or still is not */
    ENGINE_SHUTDOWN, /* triple fault */
    ENGINE_ERROR,    /* the engine cannot go on; *err says why. The machine stops. */
};

struct engine {
    const struct engine_ops *ops;
    struct memory_map *memory, *ports;
    struct cpu **cpus;
    unsigned cpu_count;
    void *data; /* the engine's own */
};

struct engine_ops {
    const char *name;    /* "kvm", "bt", "interp" */
    const char *summary; /* one line for help */

    /* Can it run ordinary guests on this host? 0, or -errno with the reason. Cheap enough to be
     * asked at every start (some milliseconds). */
    int (*probe)(struct error *err);
    /* Which CPU features it can offer. */
    void (*limits)(struct cpu_limits *out);
    /* Set up for the machine; memory and CPUs are there and in reset state. */
    int (*create)(struct engine *e, struct error *err);
    void (*destroy)(struct engine *e);

    enum engine_exit (*run)(struct engine *e, struct cpu *cpu, struct error *err);
    /* Make run() return or look at cpu->events soon. cpu->kick is set to this by the machine. */
    void (*kick)(struct cpu *cpu);
    /* For engines that keep state elsewhere (KVM): bring struct cpu up to date; and take it from
     * there after somebody changed it. NULL: struct cpu is always the truth. */
    void (*pull)(struct engine *e, struct cpu *cpu);
    void (*push)(struct engine *e, struct cpu *cpu);
};

extern const struct engine_ops engine_interp; /* always there, and on the list */

/* Put an engine on the list, before (better than) those that are on it. The program calls it at
 * its start, once for each engine it links: engines stand above this folder. */
void engine_register(const struct engine_ops *ops);

/*
 * Choose by name: "auto", "kvm", "bt", "interp", "tcg" (the best software engine). For "auto" the
 * first whose probe succeeds. `reason` gets one sentence: what was chosen and why. An engine asked
 * for by name that cannot run is an error that says so.
 */
const struct engine_ops *engine_choose(const char *name, char *reason, size_t reason_size,
                                       struct error *err);
/* All engines there are, best first; NULL after the last. */
const struct engine_ops *engine_list(unsigned n);

#endif
