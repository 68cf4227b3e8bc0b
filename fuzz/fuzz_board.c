/*
 * fuzz_board.c - a guest cannot crash, hang or leave its process: each whole board, driven by
 * random accesses to where devices are, by its user, by time and by bad snapshots.
 *
 * The first byte of an input chooses the board, which is built anew; operations of 12 bytes
 * follow. No operation may take longer than OPERATION_MSEC of processor time, and the board may
 * not hold more memory after an input than GROWTH more than before it.
 */
#include "fuzz.h"

#include "board_guest.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { OPERATION_MSEC = 50, GROWTH = 256 * KiB, OPERATIONS = 250 };

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t memory_held(void)
{
    if (__sanitizer_get_current_allocated_bytes)
        return __sanitizer_get_current_allocated_bytes();
    return mallinfo2().uordblks;
}

static uint64_t processor_nsec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* Longer inputs than the driver's random ones are pointless: some steps in, boards are a mess. */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = 1 + sizeof(struct operation) * (fuzz_random() % OPERATIONS);

    for (size_t i = 0; i < size && i < room; i++)
        to[i] = (uint8_t)fuzz_random();
    return size;
}

static void operate(struct guest *g, const struct operation *op)
{
    struct operation inner = *op;
    unsigned who = op->kind & 31;

    inner.kind = op->kind >> 5 | (op->how & 192) >> 3;
    if (who < 24) {
        inner.kind = op->kind;
        guest_operate(g, &inner, op->where & 1, &g->ports, &g->memory);
    } else if (who < 31) {
        guest_user(g, &inner);
    } else {
        guest_paused(g, &inner);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const boards[] = {"pc", "q35", "microvm"};
    struct guest g;
    size_t before, after;

    if (!size)
        return 0;
    guest_build(&g, boards[data[0] % 3], true);
    before = memory_held();
    data++, size--;
    for (unsigned n = 0; size >= sizeof(struct operation); n++) {
        uint64_t start = processor_nsec(), took;
        struct operation op;

        memcpy(&op, data, sizeof(op));
        operate(&g, &op);
        took = (processor_nsec() - start) / NSEC_PER_MSEC;
        if (took > OPERATION_MSEC) {
            fprintf(stderr, "fuzz_board: operation %u took %llu ms: %s\n", n,
                    (unsigned long long)took, guest_name_of(&op));
            abort();
        }
        if (n % 16 == 15)
            guest_find_spots(&g);
        data += sizeof(op);
        size -= sizeof(op);
    }
    after = memory_held();
    if (after > before + GROWTH) {
        fprintf(stderr, "fuzz_board: %zu bytes were held, now %zu are\n", before, after);
        abort();
    }
    guest_free(&g);
    return 0;
}
