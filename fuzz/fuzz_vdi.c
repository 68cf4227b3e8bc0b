/* fuzz_vdi.c - see image.h. */
#include "image.h"

static const char *const options[] = {"", "static=on", NULL};

const struct fuzz_image fuzz_image = {.format = "vdi", .options = options, .size = 5 * MiB};
