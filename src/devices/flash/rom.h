/*
 * rom.h - images of firmware and option ROMs, from the files of the distribution's packages.
 *
 * A block belongs to the caller. Files are read once; a package that is replaced under a running
 * machine changes nothing for it.
 */
#ifndef DEVICES_FLASH_ROM_H
#define DEVICES_FLASH_ROM_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct ram_block;

/* What is found by a name without a slash: the first folder in this list that has it. NULL after
 * the last. */
const char *rom_folder(unsigned n);

/* The file's path, allocated: `name` itself where it has a slash or is there, else the file of that
 * name in a package's folder. `package` is what to install, for the message. */
int rom_find(const char *name, const char *package, char **out, struct error *err);

/* The file at `path` as a block; *size is the file's, at most `most`; the block is rounded up to a
 * page and, where `at_end`, the content lies at its end. */
int rom_load(const char *path, uint64_t most, bool at_end, struct ram_block **out, uint64_t *size,
             struct error *err);

#endif
