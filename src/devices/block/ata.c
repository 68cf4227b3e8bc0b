/*
 * ata.c - see ata.h. The commands of a disk, and how data flows for any drive.
 *
 * The flow: advance() looks at what is in the buffer and takes the next step: hand a block to the
 * controller, ask the disk, act on what came, or end the command. Each step either waits for
 * somebody (phase says for whom) or goes on; only the controller's ops are called from it, and they
 * come back through ata_block_moved() and ata_dma_go() at once (AHCI) or when the guest gets there.
 */
#include "devices/block/ata.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

enum ata_code {
    CMD_NOP = 0x00,
    CMD_TRIM = 0x06,
    CMD_DEVICE_RESET = 0x08,
    CMD_RECALIBRATE = 0x10,
    CMD_READ = 0x20,
    CMD_READ_ONCE = 0x21,
    CMD_READ_EXT = 0x24,
    CMD_READ_DMA_EXT = 0x25,
    CMD_READ_MAX_EXT = 0x27,
    CMD_READ_MULTIPLE_EXT = 0x29,
    CMD_READ_LOG_EXT = 0x2f,
    CMD_WRITE = 0x30,
    CMD_WRITE_ONCE = 0x31,
    CMD_WRITE_EXT = 0x34,
    CMD_WRITE_DMA_EXT = 0x35,
    CMD_WRITE_MULTIPLE_EXT = 0x39,
    CMD_WRITE_DMA_FUA_EXT = 0x3d,
    CMD_VERIFY = 0x40,
    CMD_VERIFY_ONCE = 0x41,
    CMD_VERIFY_EXT = 0x42,
    CMD_READ_LOG_DMA_EXT = 0x47,
    CMD_SEEK = 0x70,
    CMD_DIAGNOSE = 0x90,
    CMD_SET_GEOMETRY = 0x91,
    CMD_PACKET = 0xa0,
    CMD_IDENTIFY_PACKET = 0xa1,
    CMD_SMART = 0xb0,
    CMD_READ_MULTIPLE = 0xc4,
    CMD_WRITE_MULTIPLE = 0xc5,
    CMD_SET_MULTIPLE = 0xc6,
    CMD_READ_DMA = 0xc8,
    CMD_READ_DMA_ONCE = 0xc9,
    CMD_WRITE_DMA = 0xca,
    CMD_WRITE_DMA_ONCE = 0xcb,
    CMD_WRITE_MULTIPLE_FUA_EXT = 0xce,
    CMD_STANDBY_NOW = 0xe0,
    CMD_IDLE_NOW = 0xe1,
    CMD_STANDBY = 0xe2,
    CMD_IDLE = 0xe3,
    CMD_CHECK_POWER = 0xe5,
    CMD_SLEEP = 0xe6,
    CMD_FLUSH = 0xe7,
    CMD_FLUSH_EXT = 0xea,
    CMD_IDENTIFY = 0xec,
    CMD_SET_FEATURES = 0xef,
    CMD_READ_MAX = 0xf8,
};

enum {
    MULTIPLE_MAX = 16,
    TRIM_BLOCKS = 8, /* of 512 bytes, in one command */
    SMART_MID = 0x4f,
    SMART_HIGH = 0xc2,
    LOG_QUEUED_ERROR = 0x10,
};

/* ---- the flow of data --------------------------------------------------------------------------
 */

static void advance(struct ata *a);

void ata_end(struct ata *a, uint8_t error)
{
    a->phase = ATA_IDLE;
    a->error = error;
    a->status = ATA_DRDY | (a->is_cd ? 0 : ATA_SEEK) | (error ? ATA_ERR : 0);
    if (a->is_cd && a->command == CMD_PACKET)
        a->now.count = ATA_REASON_COMMAND | ATA_REASON_IN;
    a->ops->ended(a);
}

static void disk_failed(struct ata *a, int result)
{
    if (a->is_cd)
        atapi_disk_failed(a);
    else
        ata_end(a, a->disk_op == DISK_READ ? ATA_UNCORRECTABLE : ATA_ABORT);
}

static void disk_done(struct transfer *t, int result)
{
    struct ata *a = t->owner;

    if (result < 0) {
        disk_failed(a, result);
        return;
    }
    if (a->disk_op == DISK_READ) {
        memcpy(a->buffer, t->data, a->op_length);
        a->filled = (uint32_t)a->op_length;
        a->moved = 0;
        a->sectors_read += a->op_length / ATA_SECTOR;
    } else if (a->disk_op == DISK_WRITE) {
        a->filled = a->moved = 0;
        a->sectors_written += a->op_length / ATA_SECTOR;
    }
    if (a->disk_op == DISK_READ || a->disk_op == DISK_WRITE) {
        a->offset += a->op_length;
        a->left -= a->op_length;
    }
    a->status &= (uint8_t)~ATA_BSY;
    advance(a);
}

static void disk_ask(struct ata *a)
{
    unsigned flags = 0;

    if (!a->transfer)
        a->transfer = transfer_new(a->controller, a, ATA_BUFFER, disk_done);
    if (a->disk_op == DISK_WRITE) {
        memcpy(a->transfer->data, a->buffer, a->op_length);
        flags = a->fua || !a->write_cache ? DISK_FUA : 0;
    }
    transfer_submit(a->transfer, a->disk, (enum disk_op)a->disk_op, a->op_offset, a->op_length,
                    flags);
}

void ata_disk_op(struct ata *a, enum disk_op op, uint64_t offset, uint64_t length)
{
    a->phase = ATA_DISK;
    a->status = ATA_BSY | ATA_DRDY | (a->is_cd ? 0 : ATA_SEEK);
    a->disk_op = (uint8_t)op;
    a->op_offset = offset;
    a->op_length = length;
    disk_ask(a);
}

static void present(struct ata *a, bool interrupt)
{
    if (a->by_dma) {
        a->phase = ATA_DMA;
        a->status = (uint8_t)(ATA_DRDY | ATA_DRQ | (a->is_cd ? 0 : ATA_SEEK));
        ata_dma_go(a);
        return;
    }
    a->phase = ATA_DATA;
    a->status = (uint8_t)(ATA_DRDY | ATA_DRQ | (a->is_cd ? 0 : ATA_SEEK));
    a->end = a->moved + MIN(a->filled - a->moved, a->block);
    if (a->is_cd && a->command == CMD_PACKET) {
        uint32_t size = a->end - a->moved;

        a->now.count = (uint8_t)((a->packet_wanted ? ATA_REASON_COMMAND : 0) |
                                 (a->to_guest ? ATA_REASON_IN : 0));
        if (!a->packet_wanted) {
            a->now.mid = (uint8_t)size;
            a->now.high = (uint8_t)(size >> 8);
        }
    }
    a->ops->block(a, interrupt);
}

static void trim_next(struct ata *a)
{
    for (; a->trim_at < a->filled; a->trim_at += 8) {
        uint64_t entry = load_le(a->buffer + a->trim_at, 8);
        uint64_t lba = entry & (BIT(48) - 1), count = entry >> 48;

        if (!count)
            continue;
        if (!range_within(lba, count, a->sectors)) {
            ata_end(a, ATA_NOT_FOUND);
            return;
        }
        a->trim_at += 8;
        ata_disk_op(a, DISK_DISCARD, lba * ATA_SECTOR, count * ATA_SECTOR);
        return;
    }
    ata_end(a, 0);
}

/* All the bytes a command wanted of the guest, which are not for the disk, are there. */
static void taken(struct ata *a)
{
    if (a->is_cd)
        atapi_taken(a);
    else
        trim_next(a);
}

static void advance(struct ata *a)
{
    if (a->disk_op == DISK_FLUSH || a->disk_op == DISK_DISCARD) {
        bool trim = a->disk_op == DISK_DISCARD;

        a->disk_op = DISK_READ;
        if (trim)
            trim_next(a);
        else
            ata_end(a, 0);
    } else if (a->moved < a->filled) {
        present(a, true);
    } else if (a->to_guest) {
        if (a->left)
            ata_disk_op(a, DISK_READ, a->offset, MIN(a->left, (uint64_t)ATA_BUFFER));
        else
            ata_end(a, 0);
    } else if (a->filled && a->on_disk) {
        ata_disk_op(a, DISK_WRITE, a->offset, a->filled);
    } else if (a->left) {
        a->filled = (uint32_t)MIN(a->left, (uint64_t)ATA_BUFFER);
        a->moved = 0;
        present(a, true);
    } else if (a->on_disk) {
        ata_end(a, 0);
    } else {
        taken(a);
    }
}

uint8_t *ata_block(struct ata *a, uint32_t *left)
{
    *left = a->phase == ATA_DATA ? a->end - a->moved : 0;
    return a->buffer + a->moved;
}

void ata_block_moved(struct ata *a, uint32_t count)
{
    assert(a->phase == ATA_DATA && count <= a->end - a->moved);
    a->moved += count;
    if (a->moved < a->end)
        return;
    a->status &= (uint8_t)~ATA_DRQ;
    /* The last block a disk's command gives ends the command without telling it again. */
    if (a->to_guest && !a->is_cd && a->moved == a->filled && !a->left && !a->whole_blocks) {
        a->phase = ATA_IDLE;
        a->status = ATA_DRDY | ATA_SEEK;
        return;
    }
    advance(a);
}

void ata_dma_go(struct ata *a)
{
    int64_t n;

    if (a->phase != ATA_DMA)
        return;
    n = a->ops->dma(a, a->buffer + a->moved, a->filled - a->moved, a->to_guest);
    if (n == -EAGAIN)
        return;
    if (n < 0 || a->moved + n < a->filled) { /* the guest's list of memory is bad, or too short */
        if (a->is_cd)
            atapi_disk_failed(a);
        else
            ata_end(a, ATA_ABORT);
        return;
    }
    a->moved += (uint32_t)n;
    advance(a);
}

void ata_reply(struct ata *a, uint32_t size)
{
    a->to_guest = true;
    a->on_disk = false;
    a->left = 0;
    a->filled = size;
    a->moved = 0;
    advance(a);
}

void ata_take(struct ata *a, uint32_t size)
{
    a->to_guest = a->on_disk = false;
    a->left = 0;
    a->filled = size;
    a->moved = 0;
    present(a, false);
}

void ata_read_disk(struct ata *a, uint64_t offset, uint64_t length)
{
    a->to_guest = a->on_disk = true;
    a->offset = offset;
    a->left = length;
    a->filled = a->moved = 0;
    advance(a);
}

static void write_disk(struct ata *a, uint64_t offset, uint64_t length)
{
    a->to_guest = false;
    a->on_disk = true;
    a->offset = offset;
    a->left = length;
    a->filled = (uint32_t)MIN(length, (uint64_t)ATA_BUFFER);
    a->moved = 0;
    present(a, false);
}

/* ---- addresses ---------------------------------------------------------------------------------
 */

uint64_t ata_lba48(const struct ata *a)
{
    return (uint64_t)a->now.low | (uint64_t)a->now.mid << 8 | (uint64_t)a->now.high << 16 |
           (uint64_t)a->before.low << 24 | (uint64_t)a->before.mid << 32 |
           (uint64_t)a->before.high << 40;
}

static uint64_t address(const struct ata *a, bool lba48)
{
    uint64_t cylinder = (uint64_t)a->now.mid | (uint64_t)a->now.high << 8;

    if (lba48)
        return ata_lba48(a);
    if (a->device & ATA_LBA)
        return (uint64_t)a->now.low | cylinder << 8 | (uint64_t)(a->device & 15) << 24;
    if (!a->now.low || !a->set_track || a->now.low > a->set_track ||
        (a->device & 15) >= a->set_heads)
        return UINT64_MAX;
    return (cylinder * a->set_heads + (a->device & 15)) * a->set_track + a->now.low - 1;
}

static void set_address(struct ata *a, uint64_t lba, bool lba48)
{
    a->now.low = (uint8_t)lba;
    a->now.mid = (uint8_t)(lba >> 8);
    a->now.high = (uint8_t)(lba >> 16);
    if (lba48) {
        a->before.low = (uint8_t)(lba >> 24);
        a->before.mid = (uint8_t)(lba >> 32);
        a->before.high = (uint8_t)(lba >> 40);
    } else {
        a->device = (uint8_t)((a->device & 0xf0) | (lba >> 24 & 15));
    }
}

static uint32_t count_of(const struct ata *a, bool lba48)
{
    uint32_t count = a->now.count | (lba48 ? (uint32_t)a->before.count << 8 : 0);

    return count ? count : lba48 ? 65536 : 256;
}

/* ---- commands of disks -------------------------------------------------------------------------
 */

enum access_flag { WRITES = 1, EXT = 2, DMA = 4, MULTIPLE = 8, FUA = 16, VERIFIES = 32 };

static void access_disk(struct ata *a, unsigned flags)
{
    bool lba48 = flags & EXT;
    uint64_t lba = address(a, lba48), count = count_of(a, lba48);

    if (flags & MULTIPLE && !a->multiple) {
        ata_end(a, ATA_ABORT);
        return;
    }
    if (lba == UINT64_MAX || !range_within(lba, count, a->sectors)) {
        ata_end(a, ATA_NOT_FOUND);
        return;
    }
    a->by_dma = flags & DMA;
    a->fua = flags & FUA;
    a->block = flags & MULTIPLE ? (uint32_t)a->multiple * ATA_SECTOR : ATA_SECTOR;
    if (a->whole_blocks)
        a->block = ATA_BUFFER;
    if (flags & VERIFIES)
        ata_end(a, 0);
    else if (flags & WRITES)
        write_disk(a, lba * ATA_SECTOR, count * ATA_SECTOR);
    else
        ata_read_disk(a, lba * ATA_SECTOR, count * ATA_SECTOR);
}

void ata_put_text(uint8_t *to, const char *text, size_t size)
{
    size_t length = strlen(text);

    for (size_t i = 0; i < size; i++)
        to[i ^ 1] = (uint8_t)(i < length ? text[i] : ' ');
}

static void put(uint8_t *page, unsigned word, uint64_t value, unsigned words)
{
    store_le(page + 2 * word, value, 2 * words);
}

/* ATA8-ACS, 7.16. */
static void identify(struct ata *a)
{
    uint8_t *p = a->buffer;
    unsigned physical = disk_physical_block(a->disk), shift = 0;
    uint64_t chs = (uint64_t)a->cylinders * a->heads * a->track;
    uint8_t sum = 0;

    while (ATA_SECTOR << shift < (int)physical)
        shift++;
    memset(p, 0, ATA_SECTOR);
    put(p, 0, 0x0040, 1);
    put(p, 1, a->cylinders, 1);
    put(p, 3, a->heads, 1);
    put(p, 6, a->track, 1);
    ata_put_text(p + 20, a->serial, 20);
    ata_put_text(p + 46, a->revision, 8);
    ata_put_text(p + 54, a->model, 40);
    put(p, 47, 0x8000 | MULTIPLE_MAX, 1);
    put(p, 49, 0x0f00, 1); /* DMA, LBA, IORDY */
    put(p, 50, 0x4000, 1);
    put(p, 53, 0x0007, 1);
    put(p, 54, a->cylinders, 1);
    put(p, 55, a->set_heads, 1);
    put(p, 56, a->set_track, 1);
    put(p, 57, chs, 2);
    put(p, 59, a->multiple ? 0x0100 | a->multiple : 0, 1);
    put(p, 60, MIN(a->sectors, BIT(28) - 1), 2);
    put(p, 63, 0x0007 | (a->dma_mode >> 3 == 4 ? 0x100u << (a->dma_mode & 7) : 0), 1);
    put(p, 64, 0x0003, 1);
    for (unsigned i = 65; i <= 68; i++)
        put(p, i, 120, 1); /* ns */
    put(p, 69, 0x4000, 1); /* what was trimmed reads the same each time */
    if (a->serial_ata) {
        put(p, 75, 31, 1);
        put(p, 76, 0x010e, 1); /* queueing; 1.5, 3 and 6 Gbit/s */
        put(p, 78, 0x0000, 1);
    } else {
        put(p, 93, a->unit ? 0x4b00 : 0x600b, 1); /* passed its test, 80-wire cable */
    }
    put(p, 80, 0x01f0, 1);
    put(p, 82, 0x4061, 1);                         /* NOP, look-ahead, write cache, SMART */
    put(p, 83, 0x7400, 1);                         /* flushes, 48 bits */
    put(p, 84, 0x4063 | (a->wwn ? 0x0100 : 0), 1); /* FUA, logs, self-test; WWN */
    put(p, 85, 0x4000 | (a->read_ahead ? 0x40 : 0) | (a->write_cache ? 0x20 : 0) | a->smart, 1);
    put(p, 86, 0x3400, 1);
    put(p, 87, 0x4063 | (a->wwn ? 0x0100 : 0), 1);
    put(p, 88, 0x003f | (a->dma_mode >> 3 == 8 ? 0x100u << (a->dma_mode & 7) : 0), 1);
    put(p, 100, a->sectors, 4);
    put(p, 105, TRIM_BLOCKS, 1);
    put(p, 106, 0x4000 | (shift ? 0x2000 | shift : 0), 1);
    for (unsigned i = 0; i < 4; i++)
        put(p, 108 + i, a->wwn >> (48 - 16 * i), 1);
    put(p, 169, 1, 1); /* TRIM */
    put(p, 217, 1, 1); /* nothing turns */
    p[510] = 0xa5;
    for (unsigned i = 0; i < 511; i++)
        sum = (uint8_t)(sum + p[i]);
    p[511] = (uint8_t)-sum;
}

static void reply_page(struct ata *a, uint32_t size)
{
    a->block = a->whole_blocks ? ATA_BUFFER : ATA_SECTOR;
    ata_reply(a, size);
}

static void sum_page(uint8_t *p)
{
    uint8_t sum = 0;

    for (unsigned i = 0; i < 511; i++)
        sum = (uint8_t)(sum + p[i]);
    p[511] = (uint8_t)-sum;
}

static void smart_attribute(uint8_t *at, uint8_t id, uint16_t flags, uint64_t raw)
{
    at[0] = id;
    store_le(at + 1, flags, 2);
    at[3] = at[4] = 100; /* as good as new */
    for (unsigned i = 0; i < 6; i++)
        at[5 + i] = (uint8_t)(raw >> 8 * i);
}

static void smart(struct ata *a)
{
    static const uint8_t ids[] = {5, 197, 241, 242};
    const uint64_t raw[] = {0, 0, a->sectors_written, a->sectors_read};
    uint8_t *p = a->buffer;

    if (a->now.mid != SMART_MID || a->now.high != SMART_HIGH ||
        (!a->smart && a->now.feature != 0xd8)) {
        ata_end(a, ATA_ABORT);
        return;
    }
    memset(p, 0, ATA_SECTOR);
    switch (a->now.feature) {
    case 0xd0: /* read data */
        store_le(p, 0x0010, 2);
        for (unsigned i = 0; i < ARRAY_SIZE(ids); i++)
            smart_attribute(p + 2 + 12 * i, ids[i], 0x0032, raw[i]);
        p[367] = 0x01; /* offline tests by command */
        store_le(p + 368, 0x0003, 2);
        p[370] = 0x01;
        p[372] = p[373] = 1; /* minutes of a self-test */
        sum_page(p);
        reply_page(a, ATA_SECTOR);
        return;
    case 0xd1: /* read thresholds */
        store_le(p, 0x0010, 2);
        for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
            p[2 + 12 * i] = ids[i];
            p[3 + 12 * i] = 10;
        }
        sum_page(p);
        reply_page(a, ATA_SECTOR);
        return;
    case 0xd5: /* read log */
        if (a->now.low == 0) {
            p[0] = 1;
            p[2] = 1; /* log 1 has one page */
            p[2 * 6] = 1;
        } else if (a->now.low == 1 || a->now.low == 6) { /* errors, self-tests: none */
            p[0] = 1;
            sum_page(p);
        } else {
            ata_end(a, ATA_ABORT);
            return;
        }
        reply_page(a, ATA_SECTOR);
        return;
    case 0xd2: /* autosave */
    case 0xd3: /* save */
    case 0xd4: /* self-test: passes at once */ break;
    case 0xd8: a->smart = true; break;
    case 0xd9: a->smart = false; break;
    case 0xda: /* status: mid and high as they are say "no threshold exceeded" */ break;
    default: ata_end(a, ATA_ABORT); return;
    }
    ata_end(a, 0);
}

void ata_queued_failed(struct ata *a, unsigned tag, uint8_t status, uint8_t error, uint64_t lba,
                       unsigned count)
{
    uint8_t *p = a->queued_error;

    memset(p, 0, sizeof(a->queued_error));
    p[0] = (uint8_t)tag;
    p[2] = status;
    p[3] = error;
    p[4] = (uint8_t)lba;
    p[5] = (uint8_t)(lba >> 8);
    p[6] = (uint8_t)(lba >> 16);
    p[7] = ATA_LBA;
    p[8] = (uint8_t)(lba >> 24);
    p[9] = (uint8_t)(lba >> 32);
    p[10] = (uint8_t)(lba >> 40);
    p[12] = (uint8_t)count;
    p[13] = (uint8_t)(count >> 8);
}

static void read_log(struct ata *a)
{
    uint32_t count = count_of(a, true), page = a->now.mid | (uint32_t)a->before.mid << 8;
    uint8_t *p = a->buffer;

    if (page || count != 1 || (a->now.low != 0 && a->now.low != LOG_QUEUED_ERROR)) {
        ata_end(a, ATA_ABORT);
        return;
    }
    memset(p, 0, ATA_SECTOR);
    if (a->now.low == LOG_QUEUED_ERROR) {
        memcpy(p, a->queued_error, sizeof(a->queued_error));
        sum_page(p);
    } else {
        p[0] = 1;
        p[2 * LOG_QUEUED_ERROR] = 1;
    }
    a->by_dma = a->command == CMD_READ_LOG_DMA_EXT;
    reply_page(a, ATA_SECTOR);
}

static void set_features(struct ata *a)
{
    switch (a->now.feature) {
    case 0x02: a->write_cache = true; break;
    case 0x82: a->write_cache = false; break;
    case 0x55: a->read_ahead = false; break;
    case 0xaa: a->read_ahead = true; break;
    case 0x03:
        if (a->now.count >> 3 > 8) {
            ata_end(a, ATA_ABORT);
            return;
        }
        a->dma_mode = a->now.count;
        break;
    case 0x10: /* serial ATA features: none has anything to do */
    case 0x90:
    case 0x66: /* keep settings over a reset, or not */
    case 0xcc: break;
    default: ata_end(a, ATA_ABORT); return;
    }
    /* What was in a cache that is switched off must reach the disk. */
    if (a->now.feature == 0x82 && !a->is_cd && a->disk)
        ata_disk_op(a, DISK_FLUSH, 0, 0);
    else
        ata_end(a, 0);
}

static void set_multiple(struct ata *a)
{
    if (a->now.count > MULTIPLE_MAX || (a->now.count & (a->now.count - 1))) {
        ata_end(a, ATA_ABORT);
        return;
    }
    a->multiple = a->now.count;
    ata_end(a, 0);
}

static void trim(struct ata *a)
{
    uint32_t blocks = count_of(a, true);

    if (a->now.feature != 1 || blocks > TRIM_BLOCKS) {
        ata_end(a, ATA_ABORT);
        return;
    }
    a->by_dma = true;
    a->trim_at = 0;
    ata_take(a, blocks * ATA_SECTOR);
}

static bool disk_command(struct ata *a, uint8_t command)
{
    switch (command) {
    case CMD_READ:
    case CMD_READ_ONCE: access_disk(a, 0); break;
    case CMD_READ_EXT: access_disk(a, EXT); break;
    case CMD_READ_MULTIPLE: access_disk(a, MULTIPLE); break;
    case CMD_READ_MULTIPLE_EXT: access_disk(a, MULTIPLE | EXT); break;
    case CMD_READ_DMA:
    case CMD_READ_DMA_ONCE: access_disk(a, DMA); break;
    case CMD_READ_DMA_EXT: access_disk(a, DMA | EXT); break;
    case CMD_WRITE:
    case CMD_WRITE_ONCE: access_disk(a, WRITES); break;
    case CMD_WRITE_EXT: access_disk(a, WRITES | EXT); break;
    case CMD_WRITE_MULTIPLE: access_disk(a, WRITES | MULTIPLE); break;
    case CMD_WRITE_MULTIPLE_EXT: access_disk(a, WRITES | MULTIPLE | EXT); break;
    case CMD_WRITE_MULTIPLE_FUA_EXT: access_disk(a, WRITES | MULTIPLE | EXT | FUA); break;
    case CMD_WRITE_DMA:
    case CMD_WRITE_DMA_ONCE: access_disk(a, WRITES | DMA); break;
    case CMD_WRITE_DMA_EXT: access_disk(a, WRITES | DMA | EXT); break;
    case CMD_WRITE_DMA_FUA_EXT: access_disk(a, WRITES | DMA | EXT | FUA); break;
    case CMD_VERIFY:
    case CMD_VERIFY_ONCE: access_disk(a, VERIFIES); break;
    case CMD_VERIFY_EXT: access_disk(a, VERIFIES | EXT); break;
    case CMD_FLUSH:
    case CMD_FLUSH_EXT: ata_disk_op(a, DISK_FLUSH, 0, 0); break;
    case CMD_IDENTIFY:
        identify(a);
        reply_page(a, ATA_SECTOR);
        break;
    case CMD_SET_MULTIPLE: set_multiple(a); break;
    case CMD_SET_GEOMETRY:
        a->set_heads = (uint8_t)((a->device & 15) + 1);
        a->set_track = a->now.count;
        ata_end(a, a->now.count ? 0 : ATA_ABORT);
        break;
    case CMD_READ_MAX:
    case CMD_READ_MAX_EXT:
        set_address(a, command == CMD_READ_MAX ? MIN(a->sectors, BIT(28)) - 1 : a->sectors - 1,
                    command == CMD_READ_MAX_EXT);
        ata_end(a, 0);
        break;
    case CMD_SMART: smart(a); break;
    case CMD_TRIM: trim(a); break;
    case CMD_READ_LOG_EXT:
    case CMD_READ_LOG_DMA_EXT: read_log(a); break;
    default:
        if ((command & 0xf0) != CMD_RECALIBRATE && (command & 0xf0) != CMD_SEEK)
            return false;
        ata_end(a, 0);
    }
    return true;
}

static bool cd_command(struct ata *a, uint8_t command)
{
    switch (command) {
    case CMD_PACKET: atapi_packet(a); return true;
    case CMD_IDENTIFY_PACKET:
        atapi_identify(a);
        reply_page(a, ATA_SECTOR);
        return true;
    case CMD_IDENTIFY:
    case CMD_READ: /* refused, with the signature: how drivers know what this is */
        ata_signature(a);
        ata_end(a, ATA_ABORT);
        return true;
    default: return false;
    }
}

void ata_command(struct ata *a, uint8_t command)
{
    if (a->phase != ATA_IDLE && command != CMD_DEVICE_RESET)
        return; /* a drive that is busy does not hear */
    a->command = command;
    a->error = 0;
    a->status = ATA_DRDY | (a->is_cd ? 0 : ATA_SEEK);
    a->by_dma = a->fua = a->packet_wanted = false;
    a->disk_op = DISK_READ;
    a->left = a->filled = a->moved = a->end = 0;
    a->block = ATA_SECTOR;
    switch (command) {
    case CMD_DEVICE_RESET:
        if (!a->is_cd) {
            ata_end(a, ATA_ABORT);
            return;
        }
        ata_reset(a, false);
        return;
    case CMD_DIAGNOSE:
        ata_signature(a);
        a->error = 1; /* passed */
        a->phase = ATA_IDLE;
        a->status = a->is_cd ? 0 : ATA_DRDY | ATA_SEEK;
        a->ops->ended(a);
        return;
    case CMD_SET_FEATURES: set_features(a); return;
    case CMD_CHECK_POWER:
        a->now.count = 0xff; /* active */
        ata_end(a, 0);
        return;
    case CMD_STANDBY_NOW:
    case CMD_IDLE_NOW:
    case CMD_STANDBY:
    case CMD_IDLE:
    case CMD_SLEEP:
        if (a->is_cd)
            ata_end(a, 0);
        else
            ata_disk_op(a, DISK_FLUSH, 0, 0);
        return;
    default: break;
    }
    if (!(a->is_cd ? cd_command(a, command) : disk_command(a, command)))
        ata_end(a, ATA_ABORT);
}

/* ---- life --------------------------------------------------------------------------------------
 */

void ata_signature(struct ata *a)
{
    uint16_t s = a->is_cd ? ATA_SIGNATURE_ATAPI : ATA_SIGNATURE_DISK;

    a->now =
        (struct ata_registers){.count = 1, .low = 1, .mid = (uint8_t)s, .high = (uint8_t)(s >> 8)};
    a->before = (struct ata_registers){0};
    a->device &= ATA_DEVICE_1;
}

void ata_reset(struct ata *a, bool power_on)
{
    transfer_forget(a->transfer);
    a->transfer = NULL;
    a->phase = ATA_IDLE;
    a->left = a->filled = a->moved = a->end = 0;
    ata_signature(a);
    a->error = 1;
    a->status = a->is_cd ? 0 : ATA_DRDY | ATA_SEEK;
    a->command = 0;
    if (!power_on)
        return;
    a->device = 0;
    a->multiple = MULTIPLE_MAX;
    a->dma_mode = 0;
    a->set_heads = a->heads;
    a->set_track = a->track;
    a->write_cache = a->read_ahead = a->smart = true;
    memset(a->queued_error, 0, sizeof(a->queued_error));
    if (a->is_cd)
        atapi_reset(a);
}

void ata_refresh(struct ata *a)
{
    bool reads = a->disk_op == DISK_READ || a->disk_op == DISK_WRITE;

    /* The fields may come from a hostile stream. */
    if (a->filled > ATA_BUFFER || a->moved > a->filled || a->end > a->filled || a->trim_at % 8 ||
        a->phase > ATA_DISK || a->disk_op > DISK_DISCARD ||
        (a->phase == ATA_DATA && a->moved > a->end) || (a->phase == ATA_DISK && !a->disk) ||
        (a->phase == ATA_DISK && reads && a->op_length > ATA_BUFFER))
        ata_reset(a, false);
    transfer_forget(a->transfer);
    a->transfer = NULL;
    if (a->phase == ATA_DISK)
        disk_ask(a);
}

void ata_attach(struct ata *a, struct device *controller, const struct ata_ops *ops)
{
    a->controller = controller;
    a->ops = ops;
    a->sectors = a->disk ? disk_size(a->disk) / ATA_SECTOR : 0;
    a->heads = 16;
    a->track = 63;
    a->cylinders = (uint16_t)MIN(a->sectors / (16 * 63), UINT64_C(16383));
    ata_reset(a, true);
}

void ata_detach(struct ata *a)
{
    struct device *c = a->controller;

    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    transfer_forget(a->transfer);
    a->transfer = NULL;
    a->controller = NULL;
    pthread_mutex_unlock(&c->lock);
    if (a->disk)
        disk_drain(a->disk);
}

static const struct state_field registers_state[] = {
    STATE_U8(struct ata_registers, feature), STATE_U8(struct ata_registers, count),
    STATE_U8(struct ata_registers, low),     STATE_U8(struct ata_registers, mid),
    STATE_U8(struct ata_registers, high),    STATE_END,
};

const struct state_field ata_state[] = {
    STATE_STRUCT(struct ata, now, registers_state),
    STATE_STRUCT(struct ata, before, registers_state),
    STATE_U8(struct ata, device),
    STATE_U8(struct ata, status),
    STATE_U8(struct ata, error),
    STATE_U8(struct ata, command),
    STATE_U8(struct ata, multiple),
    STATE_U8(struct ata, dma_mode),
    STATE_U8(struct ata, set_heads),
    STATE_U8(struct ata, set_track),
    STATE_BOOL(struct ata, write_cache),
    STATE_BOOL(struct ata, read_ahead),
    STATE_BOOL(struct ata, smart),
    STATE_U8(struct ata, phase),
    STATE_BOOL(struct ata, to_guest),
    STATE_BOOL(struct ata, by_dma),
    STATE_BOOL(struct ata, fua),
    STATE_BOOL(struct ata, on_disk),
    STATE_BOOL(struct ata, packet_wanted),
    STATE_U64(struct ata, offset),
    STATE_U64(struct ata, left),
    STATE_U32(struct ata, filled),
    STATE_U32(struct ata, moved),
    STATE_U32(struct ata, end),
    STATE_U32(struct ata, block),
    STATE_U32(struct ata, limit),
    STATE_U32(struct ata, trim_at),
    STATE_U8(struct ata, disk_op),
    STATE_U64(struct ata, op_offset),
    STATE_U64(struct ata, op_length),
    STATE_ARRAY(struct ata, queued_error),
    STATE_ARRAY(struct ata, buffer),
    STATE_ARRAY(struct ata, packet),
    STATE_U8(struct ata, sense),
    STATE_U8(struct ata, sense_code),
    STATE_U8(struct ata, sense_qualifier),
    STATE_U8(struct ata, media_event),
    STATE_BOOL(struct ata, changed),
    STATE_BOOL(struct ata, locked),
    STATE_BOOL(struct ata, tray_open),
    STATE_U64(struct ata, sectors_read),
    STATE_U64(struct ata, sectors_written),
    STATE_END,
};
