/*
 * pflash.h - parallel flash with Intel's command set (CFI 01): where UEFI keeps its variables.
 */
#ifndef DEVICES_FLASH_PFLASH_H
#define DEVICES_FLASH_PFLASH_H

#include "machine/device.h"

enum { PFLASH_BLOCK = 4096, PFLASH_MAX = 16 * MiB };

extern const struct device_type pflash_type;

/* A flash at `base` with the content of the open file `fd`, which becomes the device's: what the
 * guest programs is written there. fd -1: `content` (of `size` bytes, copied) is all there is, and
 * is lost in the end. `name` is for messages. */
struct device *pflash_add(struct machine *m, gpa base, int fd, const char *name,
                          const uint8_t *content, uint64_t size, struct error *err);

#endif
