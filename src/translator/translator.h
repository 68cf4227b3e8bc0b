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
    bool check;           /* lock-step with the interpreter: check.c */
    bool verify;          /* prove each block confined (verify.h), abort where that fails */
    unsigned sabotage;    /* enum translator_sabotage; tests of the check alone */
};

/* Which instructions are translated wrongly. */
enum translator_sabotage {
    BT_WRONG_NONE,
    BT_WRONG_ADD,    /* ADD with an immediate: another one */
    BT_WRONG_STORE,  /* MOV of an immediate to memory */
    BT_WRONG_JCC,    /* the opposite condition */
    BT_WRONG_CMP,    /* CMP with an immediate: another one */
    BT_WRONG_VECTOR, /* PXOR does POR */
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

/* As interp_run(). INTERP_EVENT also when a check has failed; translator_differs() tells, and the
 * guest does not go on. */
bool translator_differs(const struct cpu *cpu);
enum interp_result translator_run(struct cpu *cpu);

#endif
