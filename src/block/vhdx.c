/*
 * vhdx.c - VHDX, Hyper-V's second format ([MS-VHDX]): dynamic and fixed; differencing is refused.
 *
 * 64 KiB: two headers, of which the one with the higher sequence number counts; 192 KiB: two copies
 * of a table of regions; then the log, the metadata and the table of blocks (BAT), all of it little
 * endian and with CRC-32C. Changes of the BAT go through the log: an entry with whole sectors of
 * 4 KiB, flushed; the sectors in place, flushed. As every entry is in place before the next is
 * written, an entry's tail is itself. A reader of a file with a live log replays it in memory, a
 * writer into the file.
 */
#include "block/bat.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum { SECTOR = 4096, HEADER_1 = 64 * KiB, HEADER_2 = 128 * KiB };
enum { REGIONS_1 = 192 * KiB, REGIONS_2 = 256 * KiB, REGIONS_SIZE = 64 * KiB };
enum { LOG_MAX = 64 * MiB, METADATA_TABLE = 64 * KiB, ITEMS_MAX = 2047 };
enum { NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL = 6, PARTIAL = 7 };
enum { DESCRIPTORS_MAX = 126 }; /* of an entry of ours: with its header one sector */
/* In a header. */
enum {
    H_CHECKSUM = 4,
    H_SEQUENCE = 8,
    H_FILE_GUID = 16,
    H_DATA_GUID = 32,
    H_LOG_GUID = 48,
    H_VERSION = 66,
    H_LOG_LENGTH = 68,
    H_LOG_OFFSET = 72,
};
/* In a log entry. */
enum {
    L_CHECKSUM = 4,
    L_LENGTH = 8,
    L_TAIL = 12,
    L_SEQUENCE = 16,
    L_COUNT = 24,
    L_GUID = 32,
    L_FLUSHED = 48,
    L_LAST = 56,
    L_DESCRIPTORS = 64,
};
#define DISK_MAX (UINT64_C(64) << 40)

/* As they lie in the file. */
static const uint8_t bat_guid[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                     0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
static const uint8_t metadata_guid[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                          0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
static const uint8_t parameters_guid[16] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                            0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
static const uint8_t size_guid[16] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                      0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
static const uint8_t page83_guid[16] = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                        0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46};
static const uint8_t logical_guid[16] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                         0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};
static const uint8_t physical_guid[16] = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                          0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56};
static const uint8_t parent_guid[16] = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
                                        0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c};
static const uint8_t no_guid[16];

struct vhdx {
    struct bat bat;
    uint8_t header[SECTOR];
    bool second; /* the current header is the second one */
    uint64_t log_at, log_length, log_head, log_sequence;
    uint64_t bat_at, bat_length, metadata_at, metadata_length;
    uint64_t ratio;     /* payload blocks for one entry of a bitmap */
    uint64_t flushed;   /* the file is at least so long */
    uint8_t *bat_bytes; /* as in the file */
    uint32_t block, logical, physical;
    bool fixed;
    bool log_live; /* the header in the file names the log */
    pthread_mutex_t touch_lock;
    atomic_bool touched;
    /* What the log says and the file does not yet: at open only. */
    struct replayed {
        uint64_t offset, length;
        uint8_t *bytes; /* NULL: zeros */
    } * replayed;
    size_t replayed_count;
};

static bool probe(const uint8_t *head, size_t size)
{
    return size >= 8 && !memcmp(head, "vhdxfile", 8);
}

/* ---- CRC-32C ----------------------------------------------------------------------------------
 */

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_make(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (unsigned k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        crc_table[i] = c;
    }
}

/* Of `length` bytes, in which the four at `own` count as zeros. */
static uint32_t crc(const uint8_t *p, size_t length, size_t own)
{
    uint32_t c = UINT32_MAX;

    pthread_once(&crc_once, crc_make);
    for (size_t i = 0; i < length; i++)
        c = crc_table[(c ^ (i - own < 4 ? 0 : p[i])) & 0xff] ^ c >> 8;
    return ~c;
}

static int make_guid(uint8_t *out)
{
    if (getrandom(out, 16, 0) != 16)
        return -EIO;
    out[7] = (uint8_t)(0x40 | (out[7] & 0x0f));
    out[8] = (uint8_t)(0x80 | (out[8] & 0x3f));
    return 0;
}

/* ---- headers ----------------------------------------------------------------------------------
 */

static bool header_ok(const uint8_t *h)
{
    return !memcmp(h, "head", 4) && load_le(h + H_VERSION, 2) == 1 &&
           load_le(h + H_CHECKSUM, 4) == crc(h, SECTOR, H_CHECKSUM);
}

static int read_headers(struct vhdx *v, struct block_node *n, struct error *err)
{
    auto_free uint8_t *h = malloc(2 * SECTOR);
    bool a, b;

    if (!h || block_read(n->file, 0, h, 8) < 0)
        return error_set(err, EIO, "cannot read '%s'", n->filename);
    if (memcmp(h, "vhdxfile", 8))
        return error_set(err, EINVAL, "'%s' is not a VHDX image", n->filename);
    if (block_read(n->file, HEADER_1, h, SECTOR) < 0 ||
        block_read(n->file, HEADER_2, h + SECTOR, SECTOR) < 0)
        return error_set(err, EIO, "cannot read the headers of '%s'", n->filename);
    a = header_ok(h);
    b = header_ok(h + SECTOR);
    if (!a && !b)
        return error_set(err, EINVAL, "'%s': none of its two headers is good", n->filename);
    v->second = b && (!a || load_le(h + SECTOR + H_SEQUENCE, 8) > load_le(h + H_SEQUENCE, 8));
    memcpy(v->header, h + (v->second ? SECTOR : 0), SECTOR);
    v->log_length = load_le(v->header + H_LOG_LENGTH, 4);
    v->log_at = load_le(v->header + H_LOG_OFFSET, 8);
    if (v->log_length % MiB || v->log_length > LOG_MAX || v->log_at % MiB || v->log_at < MiB ||
        v->log_at > BIT(56))
        return error_set(err, EINVAL, "'%s' says a log of %llu bytes at 0x%llx", n->filename,
                         (unsigned long long)v->log_length, (unsigned long long)v->log_at);
    return 0;
}

/* The other header becomes the current one. */
static int write_header(struct vhdx *v)
{
    struct block_node *file = v->bat.file;
    int r;

    store_le(v->header + H_SEQUENCE, load_le(v->header + H_SEQUENCE, 8) + 1, 8);
    store_le(v->header + H_CHECKSUM, crc(v->header, SECTOR, H_CHECKSUM), 4);
    v->second = !v->second;
    r = block_write(file, v->second ? HEADER_2 : HEADER_1, v->header, SECTOR);
    return r < 0 ? r : block_flush(file);
}

static int write_headers(struct vhdx *v)
{
    int r = write_header(v);

    return r < 0 ? r : write_header(v);
}

/* Before the first change of a session. */
static int touch(struct vhdx *v)
{
    int r = 0;

    if (atomic_load(&v->touched))
        return 0;
    pthread_mutex_lock(&v->touch_lock);
    if (!v->touched) {
        r = make_guid(v->header + H_FILE_GUID);
        if (r == 0)
            r = make_guid(v->header + H_DATA_GUID);
        if (r == 0)
            r = write_headers(v);
        if (r == 0)
            atomic_store(&v->touched, true);
    }
    pthread_mutex_unlock(&v->touch_lock);
    return r;
}

/* ---- the log, read ----------------------------------------------------------------------------
 */

struct log {
    uint8_t *bytes;
    uint64_t length, budget; /* of bytes that may be summed up: entries may overlap */
    const uint8_t *guid;
};

/* `length` bytes from `at` in the ring. */
static void ring_copy(const struct log *l, uint64_t at, uint8_t *out, uint64_t length)
{
    uint64_t first = MIN(length, l->length - at);

    memcpy(out, l->bytes + at, first);
    memcpy(out + first, l->bytes, length - first);
}

/* A copy of the entry at `at` in a row, or NULL if there is no good one. */
static uint8_t *entry_at(struct log *l, uint64_t at)
{
    const uint8_t *h = l->bytes + at;
    uint64_t length, count, sequence, data;
    uint8_t *e;

    length = load_le(h + L_LENGTH, 4);
    count = load_le(h + L_COUNT, 4);
    sequence = load_le(h + L_SEQUENCE, 8);
    if (memcmp(h, "loge", 4) || !sequence || memcmp(h + L_GUID, l->guid, 16) || !length ||
        length % SECTOR || length > l->length || load_le(h + L_TAIL, 4) % SECTOR ||
        load_le(h + L_TAIL, 4) >= l->length || count > length / 32 || length > l->budget)
        return NULL;
    data = align_up(L_DESCRIPTORS + 32 * count, SECTOR);
    if (data > length)
        return NULL;
    l->budget -= length;
    e = malloc(length);
    if (!e)
        return NULL;
    ring_copy(l, at, e, length);
    if (load_le(e + L_CHECKSUM, 4) != crc(e, length, L_CHECKSUM))
        goto bad;
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *d = e + L_DESCRIPTORS + 32 * i;

        if (load_le(d + 24, 8) != sequence || load_le(d + 16, 8) % SECTOR)
            goto bad;
        if (!memcmp(d, "zero", 4)) {
            if (load_le(d + 8, 8) % SECTOR)
                goto bad;
        } else if (!memcmp(d, "desc", 4)) {
            const uint8_t *s = e + data;

            if (data + SECTOR > length || memcmp(s, "data", 4) ||
                load_le(s + 4, 4) != sequence >> 32 ||
                load_le(s + SECTOR - 4, 4) != (sequence & UINT32_MAX))
                goto bad;
            data += SECTOR;
        } else {
            goto bad;
        }
    }
    return e;
bad:
    free(e);
    return NULL;
}

static int note_replayed(struct vhdx *v, uint64_t offset, uint64_t length, uint8_t *bytes)
{
    struct replayed *all = realloc(v->replayed, (v->replayed_count + 1) * sizeof(*all));

    if (!all) {
        free(bytes);
        return -ENOMEM;
    }
    v->replayed = all;
    all[v->replayed_count++] =
        (struct replayed){.offset = offset, .length = length, .bytes = bytes};
    return 0;
}

static int replay_entry(struct vhdx *v, struct block_node *n, const uint8_t *e, struct error *err)
{
    uint64_t count = load_le(e + L_COUNT, 4), data = align_up(L_DESCRIPTORS + 32 * count, SECTOR);
    uint64_t last = load_le(e + L_LAST, 8), limit = MAX(n->file->size, last);
    int r = 0;

    if (load_le(e + L_FLUSHED, 8) > n->file->size)
        return error_set(err, EINVAL, "'%s' is cut short: its log says %llu bytes, it has %llu",
                         n->filename, (unsigned long long)load_le(e + L_FLUSHED, 8),
                         (unsigned long long)n->file->size);
    if (last > DISK_MAX + 16 * (uint64_t)GiB)
        return error_set(err, EINVAL, "'%s': its log says a file of %llu bytes", n->filename,
                         (unsigned long long)last);
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        const uint8_t *d = e + L_DESCRIPTORS + 32 * i;
        uint64_t offset = load_le(d + 16, 8), length = SECTOR;
        uint8_t *bytes = NULL;

        if (!memcmp(d, "zero", 4)) {
            length = load_le(d + 8, 8);
        } else {
            bytes = malloc(SECTOR);
            if (!bytes)
                return error_set(err, ENOMEM, "no memory for the log of '%s'", n->filename);
            memcpy(bytes, d + 8, 8);
            memcpy(bytes + 8, e + data + 8, SECTOR - 12);
            memcpy(bytes + SECTOR - 4, d + 4, 4);
            data += SECTOR;
        }
        if (!range_within(offset, length, limit)) {
            free(bytes);
            return error_set(err, EINVAL, "'%s': its log writes to 0x%llx, behind the end",
                             n->filename, (unsigned long long)offset);
        }
        r = note_replayed(v, offset, length, bytes);
    }
    return r;
}

/* Find the newest sequence of entries that is whole, and take in what it says. */
static int read_log(struct vhdx *v, struct block_node *n, struct error *err)
{
    struct log l = {.length = v->log_length, .guid = v->header + H_LOG_GUID};
    uint64_t best = 0, best_tail = 0, best_head = 0;
    auto_free uint8_t *bytes = NULL;
    int r = 0;

    if (!memcmp(l.guid, no_guid, 16))
        return 0;
    if (load_le(v->header + 64, 2))
        return error_set(err, ENOTSUP, "'%s' has a log of version %u; 0 is supported", n->filename,
                         (unsigned)load_le(v->header + 64, 2));
    if (!l.length || !range_within(v->log_at, l.length, n->file->size + l.length))
        return error_set(err, EINVAL, "'%s' is cut short: its log is not there", n->filename);
    bytes = malloc(l.length);
    if (!bytes || block_read(n->file, v->log_at, bytes, l.length) < 0)
        return error_set(err, EIO, "cannot read the log of '%s'", n->filename);
    l.bytes = bytes;
    l.budget = 16 * l.length;
    for (uint64_t start = 0; start < l.length; start += SECTOR) {
        uint64_t at = start, sequence = 0, tail = 0, head = 0, total = 0;
        bool has_tail = false;

        for (;;) {
            auto_free uint8_t *e = entry_at(&l, at);

            if (!e || (sequence && load_le(e + L_SEQUENCE, 8) != sequence + 1) ||
                total + load_le(e + L_LENGTH, 4) > l.length)
                break;
            sequence = load_le(e + L_SEQUENCE, 8);
            tail = load_le(e + L_TAIL, 4);
            head = at;
            total += load_le(e + L_LENGTH, 4);
            at = (at + load_le(e + L_LENGTH, 4)) % l.length;
        }
        /* The newest entry's tail must be one of the sequence. */
        for (uint64_t p = start; sequence && total;) {
            uint64_t length = load_le(bytes + p + L_LENGTH, 4);

            has_tail |= p == tail;
            if (p == head)
                break;
            p = (p + length) % l.length;
        }
        if (has_tail && sequence > best) {
            best = sequence;
            best_tail = tail;
            best_head = head;
        }
    }
    if (!best) { /* the power failed before the first entry: nothing was changed yet */
        log_warn("'%s' was not closed, and there is nothing in its log", n->filename);
        return 0;
    }
    v->log_sequence = best;
    l.budget = 2 * l.length;
    for (uint64_t at = best_tail;;) {
        auto_free uint8_t *e = entry_at(&l, at);

        if (!e)
            return error_set(err, EINVAL, "'%s': its log is damaged", n->filename);
        r = replay_entry(v, n, e, err);
        if (r < 0 || at == best_head)
            break;
        at = (at + load_le(e + L_LENGTH, 4)) % l.length;
    }
    return r;
}

/* Bytes of the file as the log makes them. */
static int read_meta(struct vhdx *v, struct block_node *n, uint64_t offset, uint8_t *out,
                     uint64_t length)
{
    int r = block_read(n->file, offset, out, length);

    for (size_t i = 0; r == 0 && i < v->replayed_count; i++) {
        const struct replayed *p = &v->replayed[i];
        uint64_t from = MAX(offset, p->offset), to = MIN(offset + length, p->offset + p->length);

        if (from >= to)
            continue;
        if (p->bytes)
            memcpy(out + (from - offset), p->bytes + (from - p->offset), to - from);
        else
            memset(out + (from - offset), 0, to - from);
    }
    return r;
}

static void forget_replayed(struct vhdx *v)
{
    for (size_t i = 0; i < v->replayed_count; i++)
        free(v->replayed[i].bytes);
    free(v->replayed);
    v->replayed = NULL;
    v->replayed_count = 0;
}

/* The log is emptied into the file. */
static int write_replayed(struct vhdx *v)
{
    struct block_node *file = v->bat.file;
    int r = 0;

    for (size_t i = 0; r == 0 && i < v->replayed_count; i++) {
        const struct replayed *p = &v->replayed[i];

        r = p->bytes ? block_write(file, p->offset, p->bytes, p->length)
                     : block_write_zeroes(file, p->offset, p->length, false);
    }
    if (r == 0)
        r = block_flush(file);
    if (r == 0) {
        memset(v->header + H_LOG_GUID, 0, 16);
        r = write_headers(v);
    }
    return r;
}

/* ---- the log, written -------------------------------------------------------------------------
 */

/* Sectors [first, first + count) of the BAT, all of them in one entry, then in place. */
static int log_sectors(struct vhdx *v, uint64_t first, uint64_t count)
{
    uint64_t length = SECTOR * (1 + count), sequence = ++v->log_sequence, at;
    struct block_node *file = v->bat.file;
    auto_free uint8_t *e = calloc(1, length);
    int r;

    if (!e)
        return -ENOMEM;
    if (v->log_head + length > v->log_length)
        v->log_head = 0;
    at = v->log_head;
    memcpy(e, "loge", 4);
    store_le(e + L_LENGTH, length, 4);
    store_le(e + L_TAIL, at, 4);
    store_le(e + L_SEQUENCE, sequence, 8);
    store_le(e + L_COUNT, count, 4);
    memcpy(e + L_GUID, v->header + H_LOG_GUID, 16);
    store_le(e + L_FLUSHED, v->flushed, 8);
    store_le(e + L_LAST, v->flushed, 8);
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *from = v->bat_bytes + (first + i) * SECTOR;
        uint8_t *d = e + L_DESCRIPTORS + 32 * i, *s = e + SECTOR * (1 + i);

        memcpy(d, "desc", 4);
        memcpy(d + 4, from + SECTOR - 4, 4);
        memcpy(d + 8, from, 8);
        store_le(d + 16, v->bat_at + (first + i) * SECTOR, 8);
        store_le(d + 24, sequence, 8);
        memcpy(s, "data", 4);
        store_le(s + 4, sequence >> 32, 4);
        memcpy(s + 8, from + 8, SECTOR - 12);
        store_le(s + SECTOR - 4, sequence, 4);
    }
    store_le(e + L_CHECKSUM, crc(e, length, L_CHECKSUM), 4);
    r = block_write(file, v->log_at + at, e, length);
    if (r == 0)
        r = block_flush(file);
    if (r == 0 && !v->log_live) { /* the header names the log once there is something in it */
        r = write_headers(v);
        v->log_live = r == 0;
    }
    if (r == 0)
        r = block_write(file, v->bat_at + first * SECTOR, v->bat_bytes + first * SECTOR,
                        count * SECTOR);
    if (r == 0)
        r = block_flush(file);
    v->log_head = (at + length) % v->log_length;
    return r;
}

static uint64_t index_of(const struct vhdx *v, uint64_t block)
{
    return block + block / v->ratio; /* entries of bitmaps lie in between */
}

static int store(struct bat *b, uint64_t first, uint64_t count, const uint64_t *entries)
{
    struct vhdx *v = container_of(b, struct vhdx, bat);
    uint64_t low = index_of(v, first) * 8 / SECTOR;
    uint64_t high = (index_of(v, first + count - 1) * 8 + 7) / SECTOR + 1;
    uint64_t most = MIN((uint64_t)DESCRIPTORS_MAX, v->log_length / SECTOR / 2 - 1);
    int r = 0;

    for (uint64_t i = 0; i < count; i++) {
        uint8_t *e = v->bat_bytes + index_of(v, first + i) * 8;

        if (entries[i] > BAT_ZERO) {
            store_le(e, entries[i] | FULL, 8);
            v->flushed = MAX(v->flushed, entries[i] + b->block_size);
        } else if (entries[i] == BAT_ZERO) {
            store_le(e, ZERO, 8);
        } /* else as it was: not present or undefined */
    }
    if (!v->log_live)
        r = make_guid(v->header + H_LOG_GUID);
    for (; r == 0 && low < high; low += most)
        r = log_sectors(v, low, MIN(most, high - low));
    return r;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int read_regions(struct vhdx *v, struct block_node *n, struct error *err)
{
    auto_free uint8_t *t = malloc(REGIONS_SIZE);
    uint32_t count;
    bool good = false;

    if (!t)
        return error_set(err, ENOMEM, "no memory for '%s'", n->filename);
    for (unsigned i = 0; !good && i < 2; i++)
        good = read_meta(v, n, i ? REGIONS_2 : REGIONS_1, t, REGIONS_SIZE) == 0 &&
               !memcmp(t, "regi", 4) && load_le(t + 4, 4) == crc(t, REGIONS_SIZE, 4);
    count = (uint32_t)load_le(t + 8, 4);
    if (!good || count > ITEMS_MAX)
        return error_set(err, EINVAL, "'%s': none of its two region tables is good", n->filename);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = t + 16 + 32 * i;
        uint64_t at = load_le(e + 16, 8), length = load_le(e + 24, 4);

        if (at % MiB || at < MiB || !length || !range_within(at, length, n->file->size))
            return error_set(err, EINVAL, "'%s': region %u (%llu bytes at 0x%llx) is not there",
                             n->filename, i, (unsigned long long)length, (unsigned long long)at);
        if (!memcmp(e, bat_guid, 16)) {
            v->bat_at = at;
            v->bat_length = length;
        } else if (!memcmp(e, metadata_guid, 16)) {
            v->metadata_at = at;
            v->metadata_length = length;
        } else if (load_le(e + 28, 4) & 1) {
            return error_set(err, ENOTSUP, "'%s' has a region that is not known and required",
                             n->filename);
        }
    }
    if (!v->bat_at || v->metadata_length < METADATA_TABLE)
        return error_set(err, EINVAL, "'%s' has no table of blocks or no metadata", n->filename);
    return 0;
}

static int read_metadata(struct vhdx *v, struct block_node *n, uint64_t *size, struct error *err)
{
    auto_free uint8_t *t = malloc(METADATA_TABLE);
    uint32_t count, flags = 0;

    if (!t || read_meta(v, n, v->metadata_at, t, METADATA_TABLE) < 0)
        return error_set(err, EIO, "cannot read the metadata of '%s'", n->filename);
    count = (uint32_t)load_le(t + 10, 2);
    if (memcmp(t, "metadata", 8) || count > ITEMS_MAX)
        return error_set(err, EINVAL, "'%s': its metadata is damaged", n->filename);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *e = t + 32 + 32 * i;
        uint64_t at = load_le(e + 16, 4), length = load_le(e + 20, 4);
        uint8_t item[8] = {0};

        if (at < METADATA_TABLE || !range_within(at, length, v->metadata_length))
            return error_set(err, EINVAL, "'%s': item %u of its metadata is not there", n->filename,
                             i);
        if (read_meta(v, n, v->metadata_at + at, item, MIN(length, sizeof(item))) < 0)
            return error_set(err, EIO, "cannot read the metadata of '%s'", n->filename);
        if (!memcmp(e, parameters_guid, 16)) {
            v->block = (uint32_t)load_le(item, 4);
            flags = (uint32_t)load_le(item + 4, 4);
        } else if (!memcmp(e, size_guid, 16)) {
            *size = load_le(item, 8);
        } else if (!memcmp(e, logical_guid, 16)) {
            v->logical = (uint32_t)load_le(item, 4);
        } else if (!memcmp(e, physical_guid, 16)) {
            v->physical = (uint32_t)load_le(item, 4);
        } else if (memcmp(e, page83_guid, 16) && memcmp(e, parent_guid, 16) &&
                   load_le(e + 24, 4) & 4) {
            return error_set(err, ENOTSUP, "'%s' has metadata that is not known and required",
                             n->filename);
        }
    }
    if (flags & 2)
        return error_set(err, ENOTSUP, "'%s' is a differencing VHDX; merge it with its parent",
                         n->filename);
    v->fixed = flags & 1;
    if (!is_power_of_2(v->block) || v->block < MiB || v->block > 256 * MiB)
        return error_set(err, EINVAL, "'%s' says blocks of %u bytes", n->filename, v->block);
    if (v->logical != 512 && v->logical != 4096)
        return error_set(err, EINVAL, "'%s' says sectors of %u bytes", n->filename, v->logical);
    if (*size > DISK_MAX || *size % v->logical)
        return error_set(err, EINVAL, "'%s' says a disk of %llu bytes", n->filename,
                         (unsigned long long)*size);
    return 0;
}

static int read_bat(struct vhdx *v, struct block_node *n, uint64_t size, struct error *err)
{
    uint64_t needed, bad;

    v->ratio = BIT(23) * v->logical / v->block;
    if (bat_init(&v->bat, n, n->file, 0, size, v->block) < 0)
        return error_set(err, ENOMEM, "'%s' has too many blocks", n->filename);
    needed = v->bat.count ? index_of(v, v->bat.count - 1) + 1 : 0;
    if (needed > v->bat_length / 8)
        return error_set(err, EINVAL, "'%s': its table has %llu entries, too few for %llu bytes",
                         n->filename, (unsigned long long)(v->bat_length / 8),
                         (unsigned long long)size);
    v->bat_bytes = malloc(align_up(needed * 8 + 1, SECTOR));
    if (!v->bat_bytes || read_meta(v, n, v->bat_at, v->bat_bytes, align_up(needed * 8, SECTOR)) < 0)
        return error_set(err, EIO, "cannot read the table of '%s'", n->filename);
    for (uint64_t i = 0; i < v->bat.count; i++) {
        uint64_t e = load_le(v->bat_bytes + index_of(v, i) * 8, 8);

        switch (e & 7) {
        case NOT_PRESENT:
        case UNDEFINED: v->bat.place[i] = BAT_NONE; break;
        case ZERO:
        case UNMAPPED: v->bat.place[i] = BAT_ZERO; break;
        case FULL: v->bat.place[i] = MAX(align_down(e, MiB), (uint64_t)BLOCK_SECTOR); break;
        default:
            return error_set(err, EINVAL, "'%s': block %llu has state %u", n->filename,
                             (unsigned long long)i, (unsigned)(e & 7));
        }
    }
    v->bat.store = store;
    v->bat.can_zero = true;
    v->bat.unit = SECTOR / 8;
    v->bat.align = MiB;
    if (bat_ready(&v->bat, MiB, &bad) < 0)
        return error_set(err, EINVAL, "'%s': block %llu is at an impossible place", n->filename,
                         (unsigned long long)bad);
    v->bat.end = MAX(v->bat.end, v->bat_at + v->bat_length);
    v->bat.end = MAX(v->bat.end, v->metadata_at + v->metadata_length);
    v->bat.end = MAX(v->bat.end, v->log_at + v->log_length);
    return 0;
}

static int open_all(struct vhdx *v, struct block_node *n, struct error *err)
{
    uint64_t size = 0;
    int r = read_headers(v, n, err);

    if (r == 0)
        r = read_log(v, n, err);
    if (r == 0)
        r = read_regions(v, n, err);
    if (r == 0)
        r = read_metadata(v, n, &size, err);
    if (r == 0)
        r = read_bat(v, n, size, err);
    if (r < 0)
        return r;
    n->size = size;
    v->flushed = n->file->size;
    if (!(n->flags & BLOCK_WRITE))
        return 0;
    if (!v->log_length)
        return error_set(err, EINVAL, "'%s' has no log and can only be read", n->filename);
    r = v->replayed_count ? write_replayed(v) : 0;
    if (r == 0 && memcmp(v->header + H_LOG_GUID, no_guid, 16)) { /* an empty log, left open */
        memset(v->header + H_LOG_GUID, 0, 16);
        r = write_headers(v);
    }
    return r < 0 ? error_set_errno(err, -r, "cannot replay the log of '%s'", n->filename) : 0;
}

static void release(struct vhdx *v)
{
    forget_replayed(v);
    bat_free(&v->bat);
    free(v->bat_bytes);
    pthread_mutex_destroy(&v->touch_lock);
}

static int vhdx_open(struct block_node *n, struct error *err)
{
    struct vhdx *v = n->state;
    int r;

    pthread_mutex_init(&v->touch_lock, NULL);
    r = open_all(v, n, err);
    if (r < 0)
        release(v);
    else
        forget_replayed(v);
    return r;
}

static void vhdx_close(struct block_node *n)
{
    struct vhdx *v = n->state;
    int r = 0;

    if (n->flags & BLOCK_WRITE) {
        r = bat_flush(&v->bat);
        memset(v->header + H_LOG_GUID, 0, 16);
        if (r == 0 && v->log_live)
            r = write_headers(v);
    }
    if (r < 0)
        log_error("'%s': cannot write its table", n->filename);
    release(v);
}

/* ---- making -----------------------------------------------------------------------------------
 */

static void put_item(uint8_t *table, unsigned i, const uint8_t *guid, uint32_t at, uint32_t length,
                     uint32_t flags)
{
    uint8_t *e = table + 32 + 32 * (size_t)i;

    memcpy(e, guid, 16);
    store_le(e + 16, at, 4);
    store_le(e + 20, length, 4);
    store_le(e + 24, flags, 4);
}

static void put_metadata(uint8_t *m, uint64_t size, uint32_t block, bool fixed, const uint8_t *id)
{
    enum { VIRTUAL = 1 << 1, REQUIRED = 1 << 2 };
    uint8_t *items = m + METADATA_TABLE;

    memcpy(m, "metadata", 8);
    store_le(m + 10, 5, 2);
    put_item(m, 0, parameters_guid, METADATA_TABLE, 8, REQUIRED);
    put_item(m, 1, size_guid, METADATA_TABLE + 8, 8, VIRTUAL | REQUIRED);
    put_item(m, 2, page83_guid, METADATA_TABLE + 16, 16, VIRTUAL | REQUIRED);
    put_item(m, 3, logical_guid, METADATA_TABLE + 32, 4, VIRTUAL | REQUIRED);
    put_item(m, 4, physical_guid, METADATA_TABLE + 36, 4, VIRTUAL | REQUIRED);
    store_le(items, block, 4);
    store_le(items + 4, fixed, 4);
    store_le(items + 8, size, 8);
    memcpy(items + 16, id, 16);
    store_le(items + 32, 512, 4);
    store_le(items + 36, 4096, 4);
}

static void put_region(uint8_t *e, const uint8_t *guid, uint64_t at, uint64_t length)
{
    memcpy(e, guid, 16);
    store_le(e + 16, at, 8);
    store_le(e + 24, length, 4);
    store_le(e + 28, 1, 4);
}

/* First MiB, log, metadata, table, blocks. */
static int write_new(struct block_node *file, uint64_t size, uint32_t block, uint64_t log_size,
                     bool fixed, struct error *err)
{
    static const char creator[] = "hospes " HOSPES_VERSION;
    uint64_t blocks = (size + block - 1) / block, ratio = BIT(23) * 512 / block;
    uint64_t entries = blocks ? blocks + (blocks - 1) / ratio : 0;
    uint64_t metadata_at = MiB + log_size, bat_at = metadata_at + MiB;
    uint64_t bat_length = MAX(align_up(entries * 8, MiB), (uint64_t)MiB);
    auto_free uint8_t *head = calloc(1, MiB), *meta = calloc(1, MiB), *bat = calloc(1, bat_length);
    uint8_t guid[3][16];
    int r = 0;

    if (!head || !meta || !bat)
        return -ENOMEM;
    for (unsigned i = 0; r == 0 && i < 3; i++)
        r = make_guid(guid[i]);
    if (r < 0)
        return r;
    memcpy(head, "vhdxfile", 8);
    for (size_t i = 0; i < sizeof(creator) - 1; i++)
        head[8 + 2 * i] = (uint8_t)creator[i];
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *h = head + (i ? HEADER_2 : HEADER_1), *t = head + (i ? REGIONS_2 : REGIONS_1);

        memcpy(h, "head", 4);
        store_le(h + H_SEQUENCE, i + 1, 8);
        memcpy(h + H_FILE_GUID, guid[0], 16);
        memcpy(h + H_DATA_GUID, guid[1], 16);
        store_le(h + H_VERSION, 1, 2);
        store_le(h + H_LOG_LENGTH, log_size, 4);
        store_le(h + H_LOG_OFFSET, MiB, 8);
        store_le(h + H_CHECKSUM, crc(h, SECTOR, H_CHECKSUM), 4);
        memcpy(t, "regi", 4);
        store_le(t + 8, 2, 4);
        put_region(t + 16, bat_guid, bat_at, bat_length);
        put_region(t + 48, metadata_guid, metadata_at, MiB);
        store_le(t + 4, crc(t, REGIONS_SIZE, 4), 4);
    }
    put_metadata(meta, size, block, fixed, guid[2]);
    for (uint64_t i = 0; fixed && i < blocks; i++)
        store_le(bat + (i + i / ratio) * 8, (bat_at + bat_length + i * block) | FULL, 8);
    r = block_resize(file, bat_at + bat_length + (fixed ? blocks * block : 0), err);
    if (r == 0)
        r = block_write(file, metadata_at, meta, 2 * METADATA_TABLE);
    if (r == 0)
        r = block_write(file, bat_at, bat, bat_length);
    if (r == 0)
        r = block_write(file, SECTOR, head + SECTOR, MiB - SECTOR);
    if (r == 0)
        r = block_flush(file);
    return r < 0 ? r : block_write(file, 0, head, SECTOR);
}

static int vhdx_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    uint64_t size = align_up(c->size, BLOCK_SECTOR), block = 8 * MiB, log_size = MiB;
    const char *subformat = NULL, *extra;
    bool zero = true;
    int r = o ? block_option_size(o, "block_size", &block, err) : -EINVAL;

    if (r == 0)
        r = block_option_size(o, "log_size", &log_size, err);
    if (r == 0)
        r = block_option_bool(o, "block_state_zero", &zero, err);
    if (r == 0) {
        subformat = block_option(o, "subformat");
        extra = block_option_unused(o);
        if (extra)
            r = error_set(err, EINVAL, "format vhdx has no option '%s'", extra);
        else if (subformat && strcmp(subformat, "dynamic") && strcmp(subformat, "fixed"))
            r = error_set(err, EINVAL, "option subformat: '%s' is neither dynamic nor fixed",
                          subformat);
        else if (!is_power_of_2(block) || block < MiB || block > 256 * MiB)
            r = error_set(err, EINVAL, "option block_size: %llu is no power of 2 from 1M to 256M",
                          (unsigned long long)block);
        else if (log_size % MiB || !log_size || log_size > LOG_MAX)
            r = error_set(err, EINVAL, "option log_size: %llu is not 1M, 2M, ... 64M",
                          (unsigned long long)log_size);
        else if (size > DISK_MAX)
            r = error_set(err, EFBIG, "a VHDX has at most 64 TiB");
        else if (c->backing)
            r = error_set(err, EINVAL, "a VHDX image cannot have a parent here; qcow2 can");
    }
    if (r == 0) {
        r = write_new(file, size, (uint32_t)block, log_size,
                      subformat && !strcmp(subformat, "fixed"), err);
        if (r < 0)
            error_set_errno(err, -r, "cannot write '%s'", c->filename);
    }
    block_options_free(o);
    return r;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static int vhdx_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    return bat_read(&((struct vhdx *)n->state)->bat, offset, buffer, length);
}

static int vhdx_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct vhdx *v = n->state;
    int r = touch(v);

    return r < 0 ? r : bat_write(&v->bat, offset, buffer, length);
}

static int vhdx_flush(struct block_node *n)
{
    return bat_flush(&((struct vhdx *)n->state)->bat);
}

static int vhdx_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    struct vhdx *v = n->state;
    int r = touch(v);

    return r < 0 ? r : bat_discard(&v->bat, offset, length);
}

static int vhdx_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    struct vhdx *v = n->state;
    int r = touch(v);

    return r < 0 ? r : bat_write_zeroes(&v->bat, offset, length, unmap);
}

static int vhdx_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                    struct block_extent *out)
{
    struct vhdx *v = n->state;

    if (flags & BLOCK_MAP_WRITE && !atomic_load(&v->touched))
        return 0;
    return bat_map(&v->bat, offset, length, flags, out);
}

static int vhdx_check(struct block_node *n, struct block_check *c, struct error *err)
{
    struct vhdx *v = n->state;

    (void)err;
    *c = (struct block_check){.fix = c->fix, .tell = c->tell, .opaque = c->opaque};
    return bat_check(&v->bat, c, MiB);
}

static int vhdx_info(struct block_node *n, struct block_info *out)
{
    struct vhdx *v = n->state;

    out->cluster_size = v->block;
    block_info_add(out, "type", "%s", v->fixed ? "fixed" : "dynamic");
    block_info_add(out, "logical sector", "%u", v->logical);
    block_info_add(out, "physical sector", "%u", v->physical);
    return 0;
}

const struct block_driver block_vhdx = {
    .name = "vhdx",
    .summary = "Hyper-V's, dynamic and fixed, with a log",
    .instance_size = sizeof(struct vhdx),
    .create_options =
        (const struct block_create_option[]){
            {"subformat", "dynamic or fixed"},
            {"block_size", "bytes, a power of 2 from 1M to 256M (8M)"},
            {"log_size", "bytes, 1M to 64M (1M)"},
            {"block_state_zero", "accepted; blocks that are not there are zeros"},
            {0},
        },
    .probe = probe,
    .open = vhdx_open,
    .close = vhdx_close,
    .create = vhdx_create,
    .read = vhdx_read,
    .write = vhdx_write,
    .flush = vhdx_flush,
    .discard = vhdx_discard,
    .write_zeroes = vhdx_write_zeroes,
    .map = vhdx_map,
    .check = vhdx_check,
    .info = vhdx_info,
};
