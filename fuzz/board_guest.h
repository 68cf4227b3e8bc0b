/*
 * board_guest.h - a whole board that no processor runs on, and what a hostile guest, its user and a
 * bad snapshot can do to it, one operation at a time. For fuzz_board.c and fuzz_board_threads.c.
 */
#ifndef FUZZ_BOARD_GUEST_H
#define FUZZ_BOARD_GUEST_H

#include "boards/board.h"

enum { GUEST_CPUS = 2, GUEST_SERIAL = 2, GUEST_SPOTS = 400, GUEST_MEMORY = 4 * MiB };

/* An operation as it stands in an input. */
struct operation {
    uint8_t kind, how;
    uint16_t where;
    uint64_t value;
} __attribute__((packed));

/* Where somebody answers: where random accesses go. */
struct spots {
    unsigned count;
    struct {
        gpa base;
        uint64_t size;
    } at[GUEST_SPOTS];
};

struct guest {
    struct machine *m;
    struct chardev *serial[GUEST_SERIAL], *debugcon;
    struct device *i8042; /* NULL: this board has none */
    struct spots ports, memory;
};

void guest_build(struct guest *g, const char *board, bool manual_clock);
void guest_free(struct guest *g);
void guest_find_spots(struct guest *g);

/* What processors do: from the thread that plays processor `cpu`, or, for cpu >= GUEST_CPUS, from
 * one that plays a device with DMA. */
void guest_operate(struct guest *g, const struct operation *op, unsigned cpu,
                   const struct spots *ports, const struct spots *memory);
/* What the main thread does while processors may run. */
void guest_user(struct guest *g, const struct operation *op);
/* What the main thread does while none does: saves, restores, resets. */
void guest_paused(struct guest *g, const struct operation *op);

const char *guest_name_of(const struct operation *op); /* for messages */
enum { GUEST_OPERATE_KINDS = 12, GUEST_USER_KINDS = 6, GUEST_PAUSED_KINDS = 6 };

#endif
