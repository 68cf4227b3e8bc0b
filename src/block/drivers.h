/*
 * drivers.h - the drivers there are (drivers.def), and what they share among themselves.
 */
#ifndef BLOCK_DRIVERS_H
#define BLOCK_DRIVERS_H

#include "block/block.h"

#define DRIVER(name) extern const struct block_driver name;
#include "block/drivers.def"
#undef DRIVER
extern const struct block_driver block_file;
const struct block_driver *block_nbd_driver(void); /* NULL: built without */

/* An empty file under that name, open for writing and locked; an old one is emptied. A block
 * device stays as it is. */
struct block_node *block_file_create(const char *path, struct error *err);
/* Reserve, or with `write` fill, space in a regular file. */
int block_file_preallocate(struct block_node *n, uint64_t offset, uint64_t length, bool write);

#endif
