/*
 * board.h - the boards there are.
 *
 * A board is a table and a build function (struct board_type in machine/machine.h). Devices never
 * look for each other: the board connects them.
 */
#ifndef BOARDS_BOARD_H
#define BOARDS_BOARD_H

#include "machine/machine.h"

extern const struct board_type board_pc, board_q35, board_microvm;

const struct board_type *board_find(const char *name);
const struct board_type *board_list(unsigned n); /* NULL after the last */

#endif
