/* fuzz_vhdx.c - see image.h. Headers, tables of regions and entries of the log have a CRC-32C. */
#include "image.h"

static const char *const options[] = {"block_size=1M", "block_size=2M,subformat=fixed", NULL};

static uint32_t crc(const uint8_t *p, size_t length)
{
    uint32_t c = UINT32_MAX;

    for (size_t i = 0; i < length; i++) {
        c ^= p[i];
        for (unsigned k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
    }
    return ~c;
}

static void sum(struct memory_file *f, uint64_t at, uint64_t length)
{
    if (!range_within(at, length, f->size))
        return;
    memset(f->bytes + at + 4, 0, 4);
    store_le(f->bytes + at + 4, crc(f->bytes + at, length), 4);
}

static void mend(struct memory_file *f)
{
    sum(f, 64 * KiB, 4096);
    sum(f, 128 * KiB, 4096);
    sum(f, 192 * KiB, 64 * KiB);
    sum(f, 256 * KiB, 64 * KiB);
    for (uint64_t at = MiB; at + 4096 <= MIN(f->size, 2 * (uint64_t)MiB); at += 4096) {
        uint64_t length = load_le(f->bytes + at + 8, 4);

        if (!memcmp(f->bytes + at, "loge", 4) && length >= 4096 && length <= 64 * KiB)
            sum(f, at, length);
    }
}

const struct fuzz_image fuzz_image = {
    .format = "vhdx", .options = options, .size = 5 * MiB, .mend = mend};
