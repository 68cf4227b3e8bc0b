/* fuzz_vmdk.c - see image.h. */
#include "image.h"

static const char *const options[] = {
    "subformat=monolithicSparse",
    "zeroed_grain=on",
    "subformat=streamOptimized",
    NULL,
};

const struct fuzz_image fuzz_image = {.format = "vmdk", .options = options, .size = 1 * MiB};
