/*
 * image.h - a fuzzer of one format of disk images: image.c does the work, and each format's own
 * file says which it is.
 *
 * An input is a byte of flags and sectors, each with its number before it: what a file has that is
 * not zero. Flags: 1 for writing, 2 checksums are made right again, so that more than the sums is
 * tried.
 */
#ifndef FUZZ_IMAGE_H
#define FUZZ_IMAGE_H

#include "unit/block/memory_file.h"

struct fuzz_image {
    const char *format;
    const char *const *options;              /* of the seeds; NULL ends */
    uint64_t size;                           /* of their disks */
    void (*mend)(struct memory_file *image); /* make the checksums right; NULL: there are none */
};
extern const struct fuzz_image fuzz_image;

#endif
