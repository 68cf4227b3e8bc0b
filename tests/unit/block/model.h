/*
 * model.h - random use of a disk beside a plain array that says what it must contain, and the
 * power failing at any write of it. One for all formats.
 */
#ifndef TESTS_UNIT_BLOCK_MODEL_H
#define TESTS_UNIT_BLOCK_MODEL_H

#include "unit/block/memory_file.h"

struct model_setup {
    const char *format, *options; /* of the image */
    uint64_t size;
    bool backed;    /* a backing file (qcow2 with pattern) of 3/4 of the size */
    bool snapshots; /* make, apply and delete some on the way */
    bool compressed;
    bool leaks;     /* a cut may leave lost space */
    bool repaired;  /* a cut may leave what a repair mends (lazy refcounts) */
    unsigned align; /* of requests; 0: 512 */
    unsigned flags; /* more for block_open_over() */
};

/* Both: the environment's MODEL_SEED=N gives other numbers. */
/* `steps` random requests, compared all the way, closed and opened again, checked. */
void model_run(const struct model_setup *s, uint64_t seed, unsigned steps);
/* The same recorded; then cut at every write, at each twice: in order, and with holes. `every`:
 * only each n-th cut. */
void model_cut(const struct model_setup *s, uint64_t seed, unsigned steps, unsigned every);
/* The host's file refuses a write, once or from then on: nothing flushed is lost. */
void model_fail(const struct model_setup *s, uint64_t seed, unsigned steps);

#endif
