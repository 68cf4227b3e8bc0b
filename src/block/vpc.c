/*
 * vpc.c - VHD, the format of Virtual PC and Hyper-V: fixed, dynamic and differencing.
 *
 * A footer of 512 bytes ends the file; fixed disks have nothing else. The others have a copy of it
 * at the start, a header, a table of 32-bit sector numbers, and blocks, each behind a bitmap that
 * says which sectors it has. Big endian. A new block goes where the footer was; the copy at the
 * start is what counts until the footer is written again by the next flush.
 *
 * Differencing: a sector whose bit is clear is the parent's. The first write into such a block
 * copies the missing sectors and sets the whole bitmap, so that only full bitmaps need no thought.
 */
#include "block/bat.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

enum { FOOTER = 512, HEADER = 1024, LOCATORS = 8, LOCATOR = 24 };
enum { FIXED = 2, DYNAMIC = 3, DIFFERENCING = 4 };
enum {
    AT_DATA_OFFSET = 16,
    AT_TIME = 24,
    AT_CREATOR = 28,
    AT_SIZE = 48,
    AT_GEOMETRY = 56,
    AT_TYPE = 60,
    AT_CHECKSUM = 64,
    AT_UUID = 68,
};
enum { H_TABLE = 16, H_ENTRIES = 28, H_BLOCK = 32, H_CHECKSUM = 36, H_PARENT_UUID = 40 };
enum { H_PARENT_NAME = 64, H_LOCATORS = 576 };
#define UNUSED     0xffffffffu
#define EPOCH_2000 946684800 /* seconds from 1970 to 2000 */
/* The largest that cylinders, heads and sectors can say, and the format's own limit. */
#define CHS_MAX        (UINT64_C(65535) * 16 * 255)
#define SIZE_MAX_BYTES (UINT64_C(2040) * GiB)

struct vpc {
    struct bat bat; /* not of fixed disks */
    uint8_t footer[FOOTER];
    uint32_t type;
    uint64_t table_at, bitmap_bytes;
};

/* Fixed disks are not found: the end of a raw disk is its guest's to write. */
static bool probe(const uint8_t *head, size_t size)
{
    return size >= 8 && !memcmp(head, "conectix", 8);
}

/* The complement of the sum of all bytes but its own. */
static uint32_t checksum(const uint8_t *p, size_t length, size_t own)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < length; i++)
        sum += i >= own && i < own + 4 ? 0 : p[i];
    return ~sum;
}

/* ---- the table --------------------------------------------------------------------------------
 */

static int store(struct bat *b, uint64_t first, uint64_t count, const uint64_t *entries)
{
    struct vpc *v = container_of(b, struct vpc, bat);
    auto_free uint8_t *bytes = malloc(count * 4);
    int r;

    if (!bytes)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++)
        store_be(bytes + 4 * i,
                 entries[i] == BAT_NONE ? UNUSED : (entries[i] - b->head) / BLOCK_SECTOR, 4);
    r = block_write(b->file, v->table_at + 4 * first, bytes, count * 4);
    return r;
}

/* All sectors of a new block are its own. */
static int added(struct bat *b, uint64_t block, uint64_t place)
{
    auto_free uint8_t *ones = malloc(b->head);

    (void)block;
    if (!ones)
        return -ENOMEM;
    memset(ones, 0xff, b->head);
    return block_write(b->file, place - b->head, ones, b->head);
}

static int read_bitmap(struct bat *b, uint64_t block, uint8_t *out)
{
    return block_read(b->file, b->place[block] - b->head, out, b->head);
}

static bool has(const uint8_t *bitmap, uint64_t sector)
{
    return bitmap[sector / 8] & 0x80 >> sector % 8;
}

/* Sector by sector, in runs of the same kind. Within one block. */
static int read_partial(struct bat *b, uint64_t offset, void *buffer, size_t length)
{
    uint64_t block = offset / b->block_size, in = offset & (b->block_size - 1);
    auto_free uint8_t *bitmap = malloc(b->head);
    uint8_t *p = buffer;
    int r = bitmap ? read_bitmap(b, block, bitmap) : -ENOMEM;

    while (r == 0 && length) {
        bool ours = has(bitmap, in / BLOCK_SECTOR);
        size_t run = MIN(length, BLOCK_SECTOR - in % BLOCK_SECTOR);

        while (run < length && has(bitmap, (in + run) / BLOCK_SECTOR) == ours)
            run = MIN(length, run + BLOCK_SECTOR);
        r = ours ? block_read(b->file, b->place[block] + in, p, run)
                 : block_read_backing(b->node, b->start + block * b->block_size + in, p, run);
        in += run;
        p += run;
        length -= run;
    }
    return r;
}

static int complete(struct bat *b, uint64_t block)
{
    auto_free uint8_t *data = malloc(b->block_size), *bitmap = malloc(b->head);
    uint64_t start = block * b->block_size, whole = MIN(b->block_size, b->size - start);
    int r = data && bitmap ? read_partial(b, start, data, whole) : -ENOMEM;

    if (r == 0)
        r = read_bitmap(b, block, bitmap);
    for (uint64_t s = 0; r == 0 && s < whole / BLOCK_SECTOR; s++)
        if (!has(bitmap, s))
            r = block_write(b->file, b->place[block] + s * BLOCK_SECTOR, data + s * BLOCK_SECTOR,
                            BLOCK_SECTOR);
    if (r == 0)
        r = block_flush(b->file);
    return r < 0 ? r : added(b, block, b->place[block]);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

/* Virtual PC gives its guests only what the geometry says; those who came later, all of it. */
static uint64_t size_of(const uint8_t *footer)
{
    uint64_t chs = load_be(footer + AT_GEOMETRY, 2) * footer[AT_GEOMETRY + 2] *
                   footer[AT_GEOMETRY + 3];
    bool geometry = !memcmp(footer + AT_CREATOR, "vpc ", 4) ||
                    !memcmp(footer + AT_CREATOR, "qemu", 4);

    return geometry && chs && chs < CHS_MAX ? chs * BLOCK_SECTOR : load_be(footer + AT_SIZE, 8);
}

static int read_footer(struct vpc *v, struct block_node *n, struct error *err)
{
    uint64_t size = n->file->size;
    int r = block_read(n->file, 0, v->footer, FOOTER);

    if (r == 0 && memcmp(v->footer, "conectix", 8) && size >= FOOTER)
        r = block_read(n->file, align_down(size - FOOTER, BLOCK_SECTOR), v->footer, FOOTER);
    if (r == 0 && memcmp(v->footer, "conectix", 8) && size >= FOOTER)
        r = block_read(n->file, size - FOOTER, v->footer, FOOTER);
    if (r < 0)
        return error_set_errno(err, -r, "cannot read '%s'", n->filename);
    if (memcmp(v->footer, "conectix", 8))
        return error_set(err, EINVAL, "'%s' is not a VHD image: it has no footer", n->filename);
    if (load_be(v->footer + AT_CHECKSUM, 4) != checksum(v->footer, FOOTER, AT_CHECKSUM))
        return error_set(err, EINVAL, "'%s': the checksum of its footer is wrong", n->filename);
    if (load_be(v->footer + 12, 4) >> 16 != 1)
        return error_set(err, ENOTSUP, "'%s' is VHD version %u; 1 is supported", n->filename,
                         (unsigned)(load_be(v->footer + 12, 4) >> 16));
    return 0;
}

static char *narrow(const uint8_t *text, size_t units, bool little)
{
    char *out = xcalloc(1, units * 3 + 1), *p = out;

    for (size_t i = 0; i < units; i++) {
        unsigned c = (unsigned)(little ? load_le(text + 2 * i, 2) : load_be(text + 2 * i, 2));

        if (!c)
            break;
        if (c < 0x80) {
            *p++ = (char)c;
        } else if (c < 0x800) {
            *p++ = (char)(0xc0 | c >> 6);
            *p++ = (char)(0x80 | (c & 0x3f));
        } else {
            *p++ = (char)(0xe0 | c >> 12);
            *p++ = (char)(0x80 | (c >> 6 & 0x3f));
            *p++ = (char)(0x80 | (c & 0x3f));
        }
    }
    return out;
}

/* The parent's name: relative by a locator (Windows', with backslashes), else the one in the
 * header. */
static int read_parent(struct block_node *n, const uint8_t *header, struct error *err)
{
    for (unsigned i = 0; i < LOCATORS; i++) {
        const uint8_t *l = header + H_LOCATORS + LOCATOR * i;
        uint32_t length = (uint32_t)load_be(l + 8, 4);
        uint64_t at = load_be(l + 16, 8);
        uint8_t text[1024];

        if (memcmp(l, "W2ru", 4) || !length || length > sizeof(text))
            continue;
        if (!range_within(at, length, n->file->size) || block_read(n->file, at, text, length) < 0)
            return error_set(err, EINVAL, "'%s': the name of its parent is not in the file",
                             n->filename);
        n->backing_name = narrow(text, length / 2, true);
    }
    if (!n->backing_name)
        n->backing_name = narrow(header + H_PARENT_NAME, 256, false);
    for (char *p = n->backing_name; *p; p++)
        if (*p == '\\')
            *p = '/';
    if (!n->backing_name[0])
        return error_set(err, EINVAL, "'%s' does not name its parent", n->filename);
    n->backing_format = xstrdup("vpc");
    return 0;
}

static int find_partial(struct vpc *v)
{
    struct bat *b = &v->bat;
    auto_free uint8_t *bitmap = malloc(b->head);
    int r = 0;

    b->partial = calloc(b->count + 1, 1);
    if (!bitmap || !b->partial)
        return -ENOMEM;
    for (uint64_t i = 0; r == 0 && i < b->count; i++) {
        uint64_t sectors = MIN(b->block_size, b->size - i * b->block_size) / BLOCK_SECTOR;

        if (b->place[i] == BAT_NONE)
            continue;
        r = read_bitmap(b, i, bitmap);
        for (uint64_t s = 0; r == 0 && s < sectors; s++)
            if (!has(bitmap, s)) {
                b->partial[i] = 1;
                break;
            }
    }
    return r;
}

static int open_dynamic(struct vpc *v, struct block_node *n, struct error *err)
{
    uint64_t at = load_be(v->footer + AT_DATA_OFFSET, 8), block, bad;
    uint8_t last[8] = {0};
    auto_free uint8_t *table = NULL;
    uint8_t header[HEADER];
    uint32_t entries;
    int r;

    if (at % BLOCK_SECTOR || at < FOOTER || !range_within(at, HEADER, n->file->size) ||
        block_read(n->file, at, header, HEADER) < 0 || memcmp(header, "cxsparse", 8))
        return error_set(err, EINVAL, "'%s' has no header at 0x%llx", n->filename,
                         (unsigned long long)at);
    if (load_be(header + H_CHECKSUM, 4) != checksum(header, HEADER, H_CHECKSUM))
        return error_set(err, EINVAL, "'%s': the checksum of its header is wrong", n->filename);
    v->table_at = load_be(header + H_TABLE, 8);
    entries = (uint32_t)load_be(header + H_ENTRIES, 4);
    block = load_be(header + H_BLOCK, 4);
    if (!is_power_of_2(block) || block < 4096 || block > 256 * MiB)
        return error_set(err, EINVAL, "'%s' says blocks of %llu bytes", n->filename,
                         (unsigned long long)block);
    if ((n->size + block - 1) / block > entries)
        return error_set(err, EINVAL, "'%s' says a table of %u entries, too few for its %llu bytes",
                         n->filename, entries, (unsigned long long)n->size);
    if (v->table_at % BLOCK_SECTOR || v->table_at < FOOTER ||
        !range_within(v->table_at, (uint64_t)entries * 4, n->file->size))
        return error_set(err, EINVAL, "'%s' is cut short: its table of %u entries is not there",
                         n->filename, entries);
    if (bat_init(&v->bat, n, n->file, 0, n->size, block) < 0 ||
        !(table = malloc(v->bat.count * 4 + 1)) ||
        block_read(n->file, v->table_at, table, v->bat.count * 4) < 0)
        return error_set(err, EIO, "cannot read the table of '%s'", n->filename);
    v->bitmap_bytes = align_up(block / BLOCK_SECTOR / 8, BLOCK_SECTOR);
    v->bat.head = v->bitmap_bytes;
    v->bat.store = store;
    v->bat.added = added;
    v->bat.read_partial = read_partial;
    v->bat.complete = complete;
    v->bat.unit = BLOCK_SECTOR / 4;
    v->bat.limit = (uint64_t)UNUSED * BLOCK_SECTOR;
    for (uint64_t i = 0; i < v->bat.count; i++) {
        uint32_t sector = (uint32_t)load_be(table + 4 * i, 4);

        v->bat.place[i] = sector == UNUSED ? BAT_NONE
                                           : (uint64_t)sector * BLOCK_SECTOR + v->bat.head;
    }
    if (bat_ready(&v->bat, FOOTER, &bad) < 0)
        return error_set(err, EINVAL, "'%s': block %llu is at an impossible place", n->filename,
                         (unsigned long long)bad);
    /* New blocks start where the footer is, or behind whatever else ends the file. */
    v->bat.end = align_up(n->file->size, BLOCK_SECTOR);
    if (block_read(n->file, v->bat.end - FOOTER, last, sizeof(last)) == 0 &&
        !memcmp(last, "conectix", 8))
        v->bat.end -= FOOTER;
    if (v->type != DIFFERENCING)
        return 0;
    r = read_parent(n, header, err);
    if (r == 0 && find_partial(v) < 0)
        r = error_set(err, EIO, "cannot read the bitmaps of '%s'", n->filename);
    return r;
}

static int vpc_open(struct block_node *n, struct error *err)
{
    struct vpc *v = n->state;
    int r = read_footer(v, n, err);

    if (r < 0)
        return r;
    v->type = (uint32_t)load_be(v->footer + AT_TYPE, 4);
    n->size = size_of(v->footer);
    if (n->size > SIZE_MAX_BYTES || n->size % BLOCK_SECTOR)
        return error_set(err, EINVAL, "'%s' says a disk of %llu bytes", n->filename,
                         (unsigned long long)n->size);
    if (v->type == FIXED) {
        if (n->file->size < FOOTER || n->size > n->file->size - FOOTER)
            return error_set(err, EINVAL, "'%s' is cut short: %llu bytes for a disk of %llu",
                             n->filename, (unsigned long long)n->file->size,
                             (unsigned long long)n->size);
        return 0;
    }
    if (v->type != DYNAMIC && v->type != DIFFERENCING)
        return error_set(err, ENOTSUP, "'%s' is a VHD of type %u; 2, 3 and 4 are supported",
                         n->filename, v->type);
    r = open_dynamic(v, n, err);
    if (r < 0)
        bat_free(&v->bat);
    return r;
}

static int vpc_flush(struct block_node *n)
{
    struct vpc *v = n->state;
    int r = 0;

    if (v->type == FIXED)
        return block_flush(n->file);
    pthread_mutex_lock(&v->bat.lock); /* or a block that is added there would lose its bitmap */
    if (v->bat.any_dirty)
        r = block_write(n->file, v->bat.end, v->footer, FOOTER);
    pthread_mutex_unlock(&v->bat.lock);
    return r < 0 ? r : bat_flush(&v->bat);
}

static void vpc_close(struct block_node *n)
{
    struct vpc *v = n->state;

    if (n->flags & BLOCK_WRITE && vpc_flush(n) < 0)
        log_error("'%s': cannot write its table", n->filename);
    bat_free(&v->bat);
}

/* ---- making -----------------------------------------------------------------------------------
 */

/* The format's own rule for cylinders, heads and sectors of a disk of so many sectors. */
static void put_geometry(uint8_t *footer, uint64_t sectors)
{
    uint64_t cylinders_heads, heads, per_track;

    sectors = MIN(sectors, CHS_MAX);
    if (sectors >= UINT64_C(65535) * 16 * 63) {
        per_track = 255;
        heads = 16;
        cylinders_heads = sectors / per_track;
    } else {
        per_track = 17;
        cylinders_heads = sectors / per_track;
        heads = MAX((cylinders_heads + 1023) / 1024, 4);
        if (cylinders_heads >= heads * 1024 || heads > 16) {
            per_track = 31;
            heads = 16;
            cylinders_heads = sectors / per_track;
        }
        if (cylinders_heads >= heads * 1024) {
            per_track = 63;
            heads = 16;
            cylinders_heads = sectors / per_track;
        }
    }
    store_be(footer + AT_GEOMETRY, cylinders_heads / heads, 2);
    footer[AT_GEOMETRY + 2] = (uint8_t)heads;
    footer[AT_GEOMETRY + 3] = (uint8_t)per_track;
}

static int make_footer(uint8_t *f, uint64_t size, uint32_t type, struct error *err)
{
    memset(f, 0, FOOTER);
    memcpy(f, "conectix", 8);
    store_be(f + 8, 2, 4); /* reserved, always set */
    store_be(f + 12, 0x10000, 4);
    store_be(f + AT_DATA_OFFSET, type == FIXED ? UINT64_MAX : FOOTER, 8);
    store_be(f + AT_TIME, (uint64_t)time(NULL) - EPOCH_2000, 4);
    memcpy(f + AT_CREATOR, "win ", 4); /* whose disks have all of their size; see size_of() */
    store_be(f + AT_CREATOR + 4, 0x60001, 4);
    memcpy(f + AT_CREATOR + 8, "Wi2k", 4);
    store_be(f + 40, size, 8);
    store_be(f + AT_SIZE, size, 8);
    put_geometry(f, size / BLOCK_SECTOR);
    store_be(f + AT_TYPE, type, 4);
    if (getrandom(f + AT_UUID, 16, 0) != 16)
        return error_set_errno(err, errno, "no random numbers");
    store_be(f + AT_CHECKSUM, checksum(f, FOOTER, AT_CHECKSUM), 4);
    return 0;
}

/* Where the parent is, for the header; its name goes into the locators' sector. */
static int put_parent(const struct block_create *c, uint8_t *header, uint8_t *locator,
                      uint64_t locator_at, struct error *err)
{
    const char *slash = strrchr(c->filename, '/');
    auto_free char *path = c->backing[0] == '/' || !slash
                               ? xstrdup(c->backing)
                               : xasprintf("%.*s/%s", (int)(slash - c->filename), c->filename,
                                           c->backing);
    size_t length = strlen(c->backing);
    struct block_node *parent;
    uint8_t footer[FOOTER];

    if (!c->backing_format ||
        (strcmp(c->backing_format, "vpc") && strcmp(c->backing_format, "vhd")))
        return error_set(err, EINVAL, "a VHD's parent must be a VHD, too (backing format vpc)");
    if (length > 255)
        return error_set(err, EINVAL, "the name of the parent is longer than 255 bytes");
    parent = block_open(path, "vpc", BLOCK_NO_BACKING, err);
    if (!parent)
        return -EINVAL;
    memcpy(footer, ((struct vpc *)parent->state)->footer, FOOTER);
    block_close(parent);
    memcpy(header + H_PARENT_UUID, footer + AT_UUID, 16);
    memcpy(header + H_PARENT_UUID + 16, footer + AT_TIME, 4);
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)c->backing[i] >= 0x80)
            return error_set(err, EINVAL, "the name of the parent may only have ASCII here");
        header[H_PARENT_NAME + 2 * i + 1] = (uint8_t)c->backing[i];
        locator[2 * i] = (uint8_t)c->backing[i];
    }
    memcpy(header + H_LOCATORS, "W2ru", 4);
    store_be(header + H_LOCATORS + 4, BLOCK_SECTOR, 4);
    store_be(header + H_LOCATORS + 8, 2 * length, 4);
    store_be(header + H_LOCATORS + 16, locator_at, 8);
    return 0;
}

static int create_dynamic(struct block_node *file, const struct block_create *c, uint64_t size,
                          struct error *err)
{
    uint64_t entries = (size + 2 * MiB - 1) / (2 * MiB);
    uint64_t table = align_up(entries * 4, BLOCK_SECTOR), table_at = FOOTER + HEADER;
    uint64_t locator_at = table_at + table, bytes = locator_at + BLOCK_SECTOR + FOOTER;
    auto_free uint8_t *all = calloc(1, bytes);
    uint8_t *header;
    int r;

    if (!all)
        return error_set(err, ENOMEM, "no memory for the table of '%s'", c->filename);
    header = all + FOOTER;
    memcpy(header, "cxsparse", 8);
    store_be(header + 8, UINT64_MAX, 8);
    store_be(header + H_TABLE, table_at, 8);
    store_be(header + 24, 0x10000, 4);
    store_be(header + H_ENTRIES, entries, 4);
    store_be(header + H_BLOCK, 2 * MiB, 4);
    r = c->backing ? put_parent(c, header, all + locator_at, locator_at, err) : 0;
    if (r == 0)
        r = make_footer(all, size, c->backing ? DIFFERENCING : DYNAMIC, err);
    if (r < 0)
        return r;
    store_be(header + H_CHECKSUM, checksum(header, HEADER, H_CHECKSUM), 4);
    memset(all + table_at, 0xff, table);
    memcpy(all + bytes - FOOTER, all, FOOTER);
    r = block_write(file, FOOTER, all + FOOTER, bytes - FOOTER);
    if (r == 0)
        r = block_flush(file);
    if (r == 0)
        r = block_write(file, 0, all, FOOTER);
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", c->filename) : 0;
}

static int create_fixed(struct block_node *file, const struct block_create *c, uint64_t size,
                        struct error *err)
{
    uint8_t footer[FOOTER];
    int r;

    if (c->backing)
        return error_set(err, EINVAL, "a fixed VHD has no parent");
    r = make_footer(footer, size, FIXED, err);
    if (r == 0)
        r = block_resize(file, size + FOOTER, err);
    if (r < 0)
        return r;
    r = block_write(file, size, footer, FOOTER);
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", c->filename) : 0;
}

static int vpc_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    uint64_t size = align_up(c->size, BLOCK_SECTOR);
    const char *subformat, *extra;
    bool fixed, force = false;
    int r = o ? block_option_bool(o, "force_size", &force, err) : -EINVAL;

    if (r < 0) {
        block_options_free(o);
        return r;
    }
    subformat = block_option(o, "subformat");
    extra = block_option_unused(o);
    fixed = subformat && !strcmp(subformat, "fixed");
    if (extra)
        r = error_set(err, EINVAL, "format vpc has no option '%s'; it has subformat", extra);
    else if (subformat && !fixed && strcmp(subformat, "dynamic"))
        r = error_set(err, EINVAL, "option subformat: '%s' is neither dynamic nor fixed",
                      subformat);
    else if (size > SIZE_MAX_BYTES)
        r = error_set(err, EFBIG, "a VHD has at most 2040 GiB; VHDX has more");
    else
        r = fixed ? create_fixed(file, c, size, err) : create_dynamic(file, c, size, err);
    block_options_free(o);
    return r;
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static int vpc_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    struct vpc *v = n->state;

    return v->type == FIXED ? block_read(n->file, offset, buffer, length)
                            : bat_read(&v->bat, offset, buffer, length);
}

static int vpc_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct vpc *v = n->state;

    return v->type == FIXED ? block_write(n->file, offset, buffer, length)
                            : bat_write(&v->bat, offset, buffer, length);
}

static int vpc_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    struct vpc *v = n->state;

    if (v->type != FIXED)
        return bat_discard(&v->bat, offset, length);
    return n->flags & BLOCK_UNMAP ? block_discard(n->file, offset, length) : 0;
}

static int vpc_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    struct vpc *v = n->state;

    return v->type == FIXED ? block_write_zeroes(n->file, offset, length, unmap)
                            : bat_write_zeroes(&v->bat, offset, length, unmap);
}

static int vpc_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                   struct block_extent *out)
{
    struct vpc *v = n->state;

    if (v->type != FIXED)
        return bat_map(&v->bat, offset, length, flags, out);
    *out = (struct block_extent){
        .kind = BLOCK_DATA, .length = length, .file = n->file, .offset = offset};
    return 0;
}

static int vpc_check(struct block_node *n, struct block_check *c, struct error *err)
{
    struct vpc *v = n->state;

    (void)err;
    *c = (struct block_check){.fix = c->fix, .tell = c->tell, .opaque = c->opaque};
    return v->type == FIXED ? 0 : bat_check(&v->bat, c, v->table_at);
}

static int vpc_info(struct block_node *n, struct block_info *out)
{
    struct vpc *v = n->state;

    out->cluster_size = v->type == FIXED ? 0 : v->bat.block_size;
    block_info_add(out, "type", "%s",
                   v->type == FIXED     ? "fixed"
                   : v->type == DYNAMIC ? "dynamic"
                                        : "differencing");
    block_info_add(out, "creator", "%.4s", (const char *)v->footer + AT_CREATOR);
    return 0;
}

const struct block_driver block_vpc = {
    .name = "vpc",
    .summary = "VHD, Virtual PC's and Hyper-V's: fixed, dynamic, differencing",
    .instance_size = sizeof(struct vpc),
    .create_options =
        (const struct block_create_option[]){
            {"subformat", "dynamic or fixed"},
            {"force_size", "accepted; the size is never rounded"},
            {0},
        },
    .probe = probe,
    .open = vpc_open,
    .close = vpc_close,
    .create = vpc_create,
    .read = vpc_read,
    .write = vpc_write,
    .flush = vpc_flush,
    .discard = vpc_discard,
    .write_zeroes = vpc_write_zeroes,
    .map = vpc_map,
    .check = vpc_check,
    .info = vpc_info,
};
