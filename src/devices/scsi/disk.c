/*
 * disk.c - the commands of a SCSI disk, SBC-3. See scsi.h.
 */
#include "devices/scsi/scsi.h"

#include <string.h>

enum {
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY_10 = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    SEEK_10 = 0x2b,
    WRITE_AND_VERIFY_10 = 0x2e,
    VERIFY_10 = 0x2f,
    SYNCHRONIZE_CACHE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    WRITE_AND_VERIFY_16 = 0x8e,
    VERIFY_16 = 0x8f,
    SYNCHRONIZE_CACHE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_ACTION_IN_16 = 0x9e,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
    WRITE_AND_VERIFY_12 = 0xae,
    VERIFY_12 = 0xaf,
};
enum { READ_CAPACITY_16 = 0x10, PAGE_CACHING = 8, PAGE_CONTROL = 0x0a };

/* Where a command says first block and number of blocks, by the length of its CDB. */
static void get_range(const uint8_t *cdb, uint64_t *block, uint64_t *count)
{
    switch (cdb[0] >> 5) {
    case 0:
        *block = scsi_be(cdb + 1, 3) & 0x1fffff;
        *count = cdb[4] ? cdb[4] : 256;
        break;
    case 1:
    case 2:
        *block = scsi_be(cdb + 2, 4);
        *count = scsi_be(cdb + 7, 2);
        break;
    case 4:
        *block = scsi_be(cdb + 2, 8);
        *count = scsi_be(cdb + 10, 4);
        break;
    default:
        *block = scsi_be(cdb + 2, 4);
        *count = scsi_be(cdb + 6, 4);
        break;
    }
}

static void read_capacity_10(struct scsi_unit *u, struct scsi_command *c)
{
    uint8_t d[8];

    scsi_put_be(d, MIN(scsi_blocks(u) - 1, UINT32_MAX), 4);
    scsi_put_be(d + 4, u->block_size, 4);
    scsi_answer(c, d, sizeof(d), sizeof(d));
}

static void read_capacity_16(struct scsi_unit *u, struct scsi_command *c)
{
    uint32_t per_physical = MAX(disk_physical_block(u->disk) / u->block_size, 1u);
    uint8_t d[32] = {0};

    scsi_put_be(d, scsi_blocks(u) - 1, 8);
    scsi_put_be(d + 8, u->block_size, 4);
    d[13] = (uint8_t)__builtin_ctz(per_physical);
    d[14] = 0x80; /* blocks may be unmapped; what they read as is not said */
    scsi_answer(c, d, sizeof(d), scsi_be(c->cdb + 10, 4));
}

static size_t parameters(const struct scsi_command *c, void *to, size_t size)
{
    size_t done = 0;

    for (unsigned i = 0; i < c->out_count && done < size; i++) {
        size_t n = MIN(size - done, c->out[i].iov_len);

        memcpy((uint8_t *)to + done, c->out[i].iov_base, n);
        done += n;
    }
    return done;
}

static bool unmap(struct scsi_unit *u, struct scsi_command *c)
{
    size_t length = scsi_be(c->cdb + 7, 2);
    uint8_t d[24];

    if (!length) {
        scsi_good(c);
        return false;
    }
    if (c->cdb[1] & 1 || length < 8 || parameters(c, d, MIN(length, sizeof(d))) < 8) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_PARAMETER_LENGTH);
        return false;
    }
    if (scsi_be(d + 2, 2) == 0) {
        scsi_good(c);
        return false;
    }
    if (length != sizeof(d) || scsi_be(d + 2, 2) != 16 || c->out_size < sizeof(d)) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_PARAMETER); /* one descriptor */
        return false;
    }
    c->moved = length;
    return scsi_operate(u, c, DISK_DISCARD, scsi_be(d + 8, 8), scsi_be(d + 16, 4), 0);
}

static bool write_same(struct scsi_unit *u, struct scsi_command *c)
{
    bool no_data = c->cdb[0] == WRITE_SAME_16 && c->cdb[1] & 1, zero = true;
    unsigned flags = c->cdb[1] & 8 ? DISK_UNMAP : 0;
    uint8_t pattern[4096] = {0};
    uint64_t block, count;

    get_range(c->cdb, &block, &count);
    if (!count && block < scsi_blocks(u))
        count = scsi_blocks(u) - block;
    if (c->cdb[1] & 0x06 || count > 32 * MiB / u->block_size) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return false;
    }
    if (!no_data) {
        if (c->out_size < u->block_size) {
            c->overrun = true;
            return false;
        }
        parameters(c, pattern, u->block_size);
        c->moved = u->block_size;
    }
    for (unsigned i = 0; i < u->block_size; i++)
        zero &= pattern[i] == 0;
    if (zero)
        return scsi_operate(u, c, DISK_WRITE_ZEROES, block, count, flags);
    return scsi_write_same(u, c, block, count, pattern);
}

static bool verify(struct scsi_unit *u, struct scsi_command *c, uint64_t block, uint64_t count)
{
    if (c->cdb[1] & 6) /* with data to compare */
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
    else if (!range_within(block, count, scsi_blocks(u)))
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_LBA_RANGE);
    else
        scsi_good(c);
    return false;
}

static bool disk_run(struct scsi_unit *u, struct scsi_command *c, bool *pending)
{
    uint64_t block, count;
    bool durable = c->cdb[1] & 8;

    get_range(c->cdb, &block, &count);
    switch (c->cdb[0]) {
    case READ_6: *pending = scsi_transfer(u, c, false, block, count, false); return true;
    case READ_10:
    case READ_12:
    case READ_16: *pending = scsi_transfer(u, c, false, block, count, false); return true;
    case WRITE_6: *pending = scsi_transfer(u, c, true, block, count, false); return true;
    case WRITE_10:
    case WRITE_12:
    case WRITE_16: *pending = scsi_transfer(u, c, true, block, count, durable); return true;
    case WRITE_AND_VERIFY_10:
    case WRITE_AND_VERIFY_12:
    case WRITE_AND_VERIFY_16: *pending = scsi_transfer(u, c, true, block, count, true); return true;
    case VERIFY_10:
    case VERIFY_12:
    case VERIFY_16: verify(u, c, block, count); return true;
    case SYNCHRONIZE_CACHE_10:
    case SYNCHRONIZE_CACHE_16: *pending = scsi_operate(u, c, DISK_FLUSH, 0, 0, 0); return true;
    case WRITE_SAME_10:
    case WRITE_SAME_16: *pending = write_same(u, c); return true;
    case UNMAP: *pending = unmap(u, c); return true;
    case READ_CAPACITY_10: read_capacity_10(u, c); return true;
    case SERVICE_ACTION_IN_16:
        if ((c->cdb[1] & 0x1f) == READ_CAPACITY_16)
            read_capacity_16(u, c);
        else
            scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return true;
    case START_STOP_UNIT: /* nothing turns */
    case SEEK_10: scsi_good(c); return true;
    case PREVENT_ALLOW:
        u->prevented = c->cdb[4] & 1;
        scsi_good(c);
        return true;
    default: return false;
    }
}

static unsigned disk_page(struct scsi_unit *u, uint8_t page, bool changeable, uint8_t *p)
{
    switch (page) {
    case PAGE_CACHING:
        p[0] = page;
        p[1] = 18;
        p[2] = changeable || u->write_cache ? 4 : 0;
        return 20;
    case PAGE_CONTROL:
        p[0] = page;
        p[1] = 10;
        return 12;
    default: return 0;
    }
}

const struct scsi_kind scsi_disk = {
    .type = 0x00,
    .product = "HOSPES HARDDISK",
    .block_size = 512,
    .run = disk_run,
    .mode_page = disk_page,
};
