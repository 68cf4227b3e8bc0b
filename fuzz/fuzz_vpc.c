/* fuzz_vpc.c - see image.h. Footer and header have sums of their bytes. */
#include "image.h"

static const char *const options[] = {"", "subformat=fixed", NULL};

static void sum(uint8_t *p, size_t length, size_t own)
{
    uint32_t all = 0;

    memset(p + own, 0, 4);
    for (size_t i = 0; i < length; i++)
        all += p[i];
    store_be(p + own, ~all, 4);
}

static void mend(struct memory_file *f)
{
    uint64_t header;

    if (f->size < 2 * BLOCK_SECTOR)
        return;
    sum(f->bytes, 512, 64);
    sum(f->bytes + (f->size - 512), 512, 64);
    header = load_be(f->bytes + 16, 8);
    if (header >= 512 && range_within(header, 1024, f->size))
        sum(f->bytes + header, 1024, 36);
}

const struct fuzz_image fuzz_image = {
    .format = "vpc", .options = options, .size = 5 * MiB, .mend = mend};
