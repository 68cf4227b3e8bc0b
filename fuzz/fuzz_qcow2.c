/* fuzz_qcow2.c - see image.h. */
#include "image.h"

static const char *const options[] = {
    "cluster_size=512",
    "cluster_size=1024,compat=0.10",
    "cluster_size=512,lazy_refcounts=on,refcount_bits=1",
    "cluster_size=512,compression_type=zstd,refcount_bits=64",
    NULL,
};

const struct fuzz_image fuzz_image = {.format = "qcow2", .options = options, .size = 256 * KiB};
