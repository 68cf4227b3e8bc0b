/* boards.c - see board.h. */
#include "boards/board.h"

static const struct board_type *const boards[] = {&board_pc, &board_q35, &board_microvm};

const struct board_type *board_list(unsigned n)
{
    return n < ARRAY_SIZE(boards) ? boards[n] : NULL;
}

const struct board_type *board_find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(boards); i++)
        if (!strcmp(boards[i]->name, name))
            return boards[i];
    return NULL;
}
