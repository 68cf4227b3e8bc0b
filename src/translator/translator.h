/*
 * translator.h - the engine `bt`: x86-64 on x86-64 by binary translation. docs/translator.md.
 */
#ifndef TRANSLATOR_TRANSLATOR_H
#define TRANSLATOR_TRANSLATOR_H

#include "engine/engine.h"
#include "interp/interp.h"

extern const struct engine_ops engine_bt;

enum { TRANSLATOR_CACHE_MIN = 1 << 20, TRANSLATOR_CACHE_MAX = 1 << 30 };

struct translator_options {
    uint64_t cache_size;  /* bytes of host code, TRANSLATOR_CACHE_MIN to MAX; 0: 128 MiB */
    unsigned warm;        /* executions of a block before it is translated; 0: the first one is */
    const char *log_path; /* guest and host code of every translation; NULL: none */
    bool stats;           /* print counters when the engine ends */
    bool perf_map;        /* write /tmp/perf-PID.map */
    bool check;           /* lock-step with the interpreter */
    bool verify;          /* prove each block confined (verify.h), abort where that fails */
};

/* What the engine needs of the host (the first three) and what it passes on to guests. */
struct translator_host {
    bool lahf;       /* LAHF and SAHF in 64-bit mode */
    bool memfd;      /* memory without a name, to be mapped twice */
    bool executable; /* which may be executed */
    bool fsgsbase;   /* GS is set without a system call */
    bool avx, avx512;
};

void translator_host_look(struct translator_host *host);
/* 0, or -ENOTSUP and others where the engine cannot run on it. */
int translator_host_check(const struct translator_host *host, struct error *err);

/* What translator_options_set() left; an engine made by its table uses it. */
void translator_options_default(struct translator_options *o);
void translator_options_set(const struct translator_options *o);

/* One vCPU without an engine around it (tests): a code cache of its own. cpu->memory must be set.
 */
void translator_attach(struct cpu *cpu, const struct translator_options *o);
void translator_detach(struct cpu *cpu);

/* As interp_run(). */
enum interp_result translator_run(struct cpu *cpu);

#endif
