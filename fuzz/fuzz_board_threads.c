/*
 * fuzz_board_threads.c - several processors at once on one board: made for ThreadSanitizer, which
 * finds races and locks taken in two orders (and for deadlocks, which any build finds).
 *
 *   CC=clang meson setup build-tsan -Db_sanitize=thread -Db_lundef=false
 *   TSAN_OPTIONS=suppressions=tools/tsan.supp build-tsan/fuzz/fuzz-board-threads --seconds 60
 *
 * Two threads are processors and one is a device with DMA; the main thread is the main loop, and
 * stops them as machine_pause() would before it resets, saves or restores. The operations follow
 * from the input; how they interleave does not.
 */
#include "fuzz.h"

#include "board_guest.h"

#include "event/loop.h"

#include <pthread.h>
#include <stdlib.h>

enum { THREADS = GUEST_CPUS + 1, OPERATIONS = 300, ROUNDS = 4 };

struct worker {
    struct guest *guest;
    pthread_t thread;
    unsigned index;
    uint64_t random;
    struct spots ports, memory; /* a copy: the main thread looks again while we run */
};

/* xorshift64*, one for each thread */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static struct operation random_operation(uint64_t *state)
{
    uint64_t bits = next_random(state);

    return (struct operation){.kind = (uint8_t)bits,
                              .how = (uint8_t)(bits >> 8),
                              .where = (uint16_t)(bits >> 16),
                              .value = next_random(state)};
}

static void *work(void *opaque)
{
    struct worker *w = opaque;

    for (unsigned i = 0; i < OPERATIONS; i++) {
        struct operation op = random_operation(&w->random);

        guest_operate(w->guest, &op, w->index, &w->ports, &w->memory);
    }
    return NULL;
}

static void run_round(struct guest *g, struct worker *workers, uint64_t *state)
{
    guest_find_spots(g);
    for (unsigned i = 0; i < THREADS; i++) {
        struct worker *w = &workers[i];

        *w = (struct worker){.guest = g,
                             .index = i,
                             .random = next_random(state) | 1,
                             .ports = g->ports,
                             .memory = g->memory};
        if (pthread_create(&w->thread, NULL, work, w))
            abort();
    }
    for (unsigned i = 0; i < OPERATIONS / 4; i++) {
        struct operation op = random_operation(state);

        /* Requests for a reset wait until nobody runs; timers do not. */
        if (op.kind % GUEST_USER_KINDS == 4)
            clock_run(g->m->clock);
        else
            guest_user(g, &op);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    loop_poll(g->m->loop, 0);
    g->m->end = END_NONE;
    for (unsigned i = 0; i < 8; i++) {
        struct operation op = random_operation(state);

        guest_paused(g, &op);
    }
}

size_t fuzz_make_input(uint8_t *to, size_t room)
{
    store_le(to, fuzz_random(), 8);
    to[8] = (uint8_t)fuzz_random();
    return 9;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const boards[] = {"pc", "q35", "microvm"};
    static struct worker workers[THREADS];
    struct guest g;
    uint64_t state;

    if (size < 9)
        return 0;
    state = load_le(data, 8) | 1;
    guest_build(&g, boards[data[8] % 3], false);
    for (unsigned i = 0; i < ROUNDS; i++)
        run_round(&g, workers, &state);
    guest_free(&g);
    return 0;
}
