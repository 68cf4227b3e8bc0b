/*
 * qcow2.c - the header: opening, making, resizing and describing qcow2 images (qcow2.h).
 *
 * The fixed part of the header is one sector, so that writing it is all or nothing.
 */
#include "block/qcow2.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = (int)0xe2792aca,
    EXT_FEATURES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_CRYPTO = 0x0537be77,
    EXT_DATA_FILE = 0x44415441,
};
enum { NAME_MAX_BYTES = 1023, TABLES_BYTES = 8 * MiB };

static bool probe(const uint8_t *head, size_t size)
{
    return size >= 8 && load_be(head, 4) == QCOW2_MAGIC;
}

int qcow2_damaged(struct qcow2 *q, const char *format, ...)
{
    char text[200];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (!atomic_exchange(&q->broken, true)) {
        log_error("'%s' is damaged: %s; no more is written to it (hospes img check -r all mends)",
                  q->node->filename, text);
        if (q->version >= 3 && q->node->flags & BLOCK_WRITE) {
            q->incompatible |= QCOW2_CORRUPT;
            qcow2_header_write(q);
        }
    }
    return -EIO;
}

int qcow2_read_table(struct qcow2 *q, uint64_t offset, uint32_t entries, uint64_t *out)
{
    int r = block_read(q->node->file, offset, out, (size_t)entries * 8);

    for (uint32_t i = 0; r == 0 && i < entries; i++)
        out[i] = load_be(&out[i], 8);
    return r;
}

int qcow2_write_table(struct qcow2 *q, uint64_t offset, uint32_t entries, const uint64_t *in)
{
    auto_free uint8_t *bytes = malloc((size_t)entries * 8 + 1);

    if (!bytes)
        return -ENOMEM;
    for (uint32_t i = 0; i < entries; i++)
        store_be(bytes + 8 * (size_t)i, in[i], 8);
    return block_write(q->node->file, offset, bytes, (size_t)entries * 8);
}

int qcow2_header_write(struct qcow2 *q)
{
    uint8_t *h = q->header;

    store_be(h + 24, q->node->size, 8);
    store_be(h + 36, q->l1_size, 4);
    store_be(h + 40, q->l1_offset, 8);
    store_be(h + 48, q->rt_offset, 8);
    store_be(h + 56, q->rt_size >> (q->cluster_bits - 3), 4);
    store_be(h + 60, q->snapshot_count, 4);
    store_be(h + 64, q->snapshots_offset, 8);
    if (q->version >= 3) {
        store_be(h + 72, q->incompatible, 8);
        store_be(h + 80, q->compatible, 8);
        store_be(h + 88, q->autoclear, 8);
    }
    return block_write(q->node->file, 0, h, MIN(q->cluster_size, BLOCK_SECTOR));
}

/*
 * Before the first change: bitmaps that should follow changes are marked as not doing so, which is
 * what the format has for somebody who does not keep them up, and with lazy refcounts the image is
 * marked as one whose counts may be behind.
 */
int qcow2_touch(struct qcow2 *q)
{
    int r = 0;

    if (atomic_load(&q->broken))
        return -EIO;
    if (atomic_load(&q->touched))
        return 0;
    pthread_mutex_lock(&q->lock);
    for (unsigned i = 0; !q->touched && r == 0 && i < q->bitmap_count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        uint8_t flags[4];

        if (b->flags & QCOW2_BITMAP_IN_USE || !(b->flags & QCOW2_BITMAP_AUTO))
            continue;
        b->flags |= QCOW2_BITMAP_IN_USE;
        store_be(flags, b->flags, 4);
        r = block_write(q->node->file, b->flags_at, flags, 4);
    }
    if (r == 0 && !q->touched && q->compatible & QCOW2_LAZY && q->version >= 3) {
        q->incompatible |= QCOW2_DIRTY;
        r = qcow2_header_write(q);
    }
    if (r == 0 && !q->touched)
        r = block_flush(q->node->file);
    if (r == 0)
        atomic_store(&q->touched, true);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int load_bitmaps(struct qcow2 *q, const uint8_t *ext, uint32_t length, struct error *err)
{
    const char *name = q->node->filename;
    uint64_t at = 0, size, offset;
    auto_free uint8_t *dir = NULL;
    uint32_t count;

    if (length < 24)
        return error_set(err, EINVAL, "'%s': its list of bitmaps is cut short", name);
    count = (uint32_t)load_be(ext, 4);
    size = load_be(ext + 8, 8);
    offset = load_be(ext + 16, 8);
    if (!count || count > QCOW2_BITMAPS_MAX || size > 32 * MiB || size < (uint64_t)count * 24 ||
        !qcow2_offset_ok(q, offset))
        return error_set(err, EINVAL, "'%s': its list of bitmaps (%u, %llu bytes) is damaged", name,
                         count, (unsigned long long)size);
    dir = malloc(size);
    q->bitmaps = calloc(count, sizeof(*q->bitmaps));
    if (!dir || !q->bitmaps || block_read(q->node->file, offset, dir, size) < 0)
        return error_set(err, EIO, "'%s': cannot read its list of bitmaps", name);
    for (uint32_t i = 0; i < count; i++) {
        struct qcow2_bitmap *b = &q->bitmaps[i];
        const uint8_t *e = dir + at;
        uint32_t name_size, extra;
        uint64_t whole;

        if (!range_within(at, 24, size))
            return error_set(err, EINVAL, "'%s': its list of bitmaps is damaged", name);
        name_size = (uint32_t)load_be(e + 18, 2);
        extra = (uint32_t)load_be(e + 20, 4);
        whole = align_up(24 + (uint64_t)name_size + extra, 8);
        if (!range_within(at, whole, size) || name_size > NAME_MAX_BYTES)
            return error_set(err, EINVAL, "'%s': bitmap %u in its list is damaged", name, i);
        b->table_offset = load_be(e, 8);
        b->table_size = (uint32_t)load_be(e + 8, 4);
        b->flags = (uint32_t)load_be(e + 12, 4);
        b->granularity_bits = e[17];
        b->flags_at = offset + at + 12;
        snprintf(b->name, sizeof(b->name), "%.*s", (int)MIN(name_size, sizeof(b->name) - 1),
                 (const char *)e + 24 + extra);
        if (!qcow2_offset_ok(q, b->table_offset) || b->table_size > 128 * MiB / 8)
            return error_set(err, EINVAL, "'%s': bitmap '%s' is damaged", name, b->name);
        at += whole;
        q->bitmap_count++;
    }
    q->bitmaps_offset = offset;
    q->bitmaps_bytes = size;
    return 0;
}

static char *text_of(const uint8_t *bytes, size_t length)
{
    char *s = xcalloc(1, length + 1);

    memcpy(s, bytes, length);
    return s;
}

static int load_extensions(struct qcow2 *q, const uint8_t *head, uint64_t end, char **data_file,
                           struct error *err)
{
    struct block_node *n = q->node;
    uint64_t at = q->header_length;

    while (range_within(at, 8, end)) {
        uint32_t kind = (uint32_t)load_be(head + at, 4),
                 length = (uint32_t)load_be(head + at + 4, 4);
        const uint8_t *body = head + at + 8;
        int r = 0;

        if (kind == EXT_END)
            break;
        if (!range_within(at + 8, length, end))
            return error_set(err, EINVAL,
                             "'%s': header extension 0x%x of %u bytes runs out of the header",
                             n->filename, kind, length);
        if (kind == (uint32_t)EXT_BACKING_FORMAT && !n->backing_format && length < 256)
            n->backing_format = text_of(body, length);
        else if (kind == EXT_BITMAPS && q->autoclear & QCOW2_BITMAPS && !q->bitmaps)
            r = load_bitmaps(q, body, length, err);
        else if (kind == EXT_DATA_FILE && !*data_file && length < NAME_MAX_BYTES)
            *data_file = text_of(body, length);
        if (r < 0)
            return r;
        at += 8 + align_up(length, 8);
    }
    return 0;
}

static int check_features(struct qcow2 *q, struct error *err)
{
    const char *name = q->node->filename;
    uint64_t unknown = q->incompatible & ~(uint64_t)(QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_DATA_FILE |
                                                     QCOW2_COMPRESSION);
    uint32_t crypt = (uint32_t)load_be(q->header + 32, 4);

    if (unknown & QCOW2_EXTENDED_L2)
        return error_set(err, ENOTSUP,
                         "'%s' has extended L2 entries (subclusters), which are not supported; "
                         "convert it with qemu-img",
                         name);
    if (unknown)
        return error_set(err, ENOTSUP, "'%s' has features that are not known here (bits 0x%llx)",
                         name, (unsigned long long)unknown);
    if (crypt)
        return error_set(err, ENOTSUP,
                         "'%s' is encrypted (%s), which is not supported; decrypt it with qemu-img "
                         "convert",
                         name,
                         crypt == 1   ? "AES"
                         : crypt == 2 ? "LUKS"
                                      : "unknown method");
    if (q->incompatible & QCOW2_CORRUPT && q->node->flags & BLOCK_WRITE &&
        !(q->node->flags & BLOCK_REPAIR))
        return error_set(err, EIO,
                         "'%s' is marked as damaged; it can be read, and hospes img check -r all "
                         "mends it",
                         name);
    if (q->incompatible & QCOW2_DATA_FILE && !(q->node->flags & BLOCK_DATA_FILE))
        return error_set(err, EPERM,
                         "'%s' keeps its data in another file, which it names itself; data-file=on "
                         "allows it",
                         name);
    if (q->compression > QCOW2_ZSTD)
        return error_set(err, ENOTSUP, "'%s': compression type %u is not known", name,
                         q->compression);
    return 0;
}

static int parse_header(struct qcow2 *q, struct error *err)
{
    struct block_node *n = q->node;
    const uint8_t *h = q->header;
    uint64_t size, l1_needed;
    uint32_t rt_clusters;

    if (load_be(h, 4) != QCOW2_MAGIC)
        return error_set(err, EINVAL, "'%s' is not a qcow2 image", n->filename);
    q->version = (unsigned)load_be(h + 4, 4);
    if (q->version != 2 && q->version != 3)
        return error_set(err, ENOTSUP, "'%s' is qcow version %u; 2 and 3 are supported",
                         n->filename, q->version);
    q->cluster_bits = (unsigned)load_be(h + 20, 4);
    if (q->cluster_bits < 9 || q->cluster_bits > 21)
        return error_set(err, EINVAL, "'%s' says clusters of 2^%u bytes; 2^9 to 2^21 exist",
                         n->filename, q->cluster_bits);
    q->cluster_size = BIT(q->cluster_bits);
    q->refcount_order = 4;
    q->header_length = QCOW2_HEADER_V2;
    if (q->version >= 3) {
        q->incompatible = load_be(h + 72, 8);
        q->compatible = load_be(h + 80, 8);
        q->autoclear = load_be(h + 88, 8);
        q->refcount_order = (unsigned)load_be(h + 96, 4);
        q->header_length = (unsigned)load_be(h + 100, 4);
        if (q->header_length < QCOW2_HEADER_V3 || q->header_length > q->cluster_size)
            return error_set(err, EINVAL, "'%s' says a header of %u bytes", n->filename,
                             q->header_length);
        if (q->incompatible & QCOW2_COMPRESSION && q->header_length > 104)
            q->compression = h[104];
    }
    if (q->refcount_order > 6)
        return error_set(err, EINVAL, "'%s' says refcounts of 2^%u bits; 2^0 to 2^6 exist",
                         n->filename, q->refcount_order);
    q->l2_bits = q->cluster_bits - 3;
    q->block_bits = q->cluster_bits + 3 - q->refcount_order;
    size = load_be(h + 24, 8);
    q->l1_size = (uint32_t)load_be(h + 36, 4);
    q->l1_offset = load_be(h + 40, 8);
    q->rt_offset = load_be(h + 48, 8);
    rt_clusters = (uint32_t)load_be(h + 56, 4);
    q->snapshot_count = (uint32_t)load_be(h + 60, 4);
    q->snapshots_offset = load_be(h + 64, 8);
    if (size > BLOCK_SIZE_MAX)
        return error_set(err, EFBIG, "'%s' says a disk of %llu bytes", n->filename,
                         (unsigned long long)size);
    l1_needed = (size + BIT(q->cluster_bits + q->l2_bits) - 1) >> (q->cluster_bits + q->l2_bits);
    if (q->l1_size > QCOW2_L1_MAX || l1_needed > q->l1_size)
        return error_set(err, EINVAL, "'%s' says an L1 table of %u entries; its disk needs %llu",
                         n->filename, q->l1_size, (unsigned long long)l1_needed);
    if ((q->l1_size && !qcow2_offset_ok(q, q->l1_offset)) || !qcow2_offset_ok(q, q->rt_offset))
        return error_set(err, EINVAL, "'%s': its L1 or refcount table is at an impossible place",
                         n->filename);
    if (!rt_clusters || (uint64_t)rt_clusters << q->cluster_bits > 8 * MiB * 8)
        return error_set(err, EINVAL, "'%s' says a refcount table of %u clusters", n->filename,
                         rt_clusters);
    q->rt_size = rt_clusters << (q->cluster_bits - 3);
    if (q->snapshot_count > QCOW2_SNAPSHOTS_MAX ||
        (q->snapshot_count && !qcow2_offset_ok(q, q->snapshots_offset)))
        return error_set(err, EINVAL, "'%s' says %u snapshots at 0x%llx", n->filename,
                         q->snapshot_count, (unsigned long long)q->snapshots_offset);
    n->size = size;
    return check_features(q, err);
}

static int load_tables(struct qcow2 *q, struct error *err)
{
    const char *name = q->node->filename;
    uint64_t file_size = q->node->file->size;

    /* A table that is not in the file at all would only make us allocate memory for zeros. */
    if (q->l1_offset > file_size || q->rt_offset > file_size ||
        (uint64_t)q->l1_size * 8 > file_size || (uint64_t)q->rt_size * 8 > file_size + 2 * MiB)
        return error_set(err, EINVAL, "'%s' is cut short: its tables are behind its end", name);
    q->l1 = calloc((size_t)q->l1_size + 1, 8);
    q->l2 = calloc((size_t)q->l1_size + 1, sizeof(*q->l2));
    q->rt = calloc(q->rt_size, 8);
    q->blocks = calloc(q->rt_size, sizeof(*q->blocks));
    if (!q->l1 || !q->l2 || !q->rt || !q->blocks)
        return error_set(err, ENOMEM, "'%s': no memory for its tables", name);
    if (qcow2_read_table(q, q->l1_offset, q->l1_size, q->l1) < 0 ||
        qcow2_read_table(q, q->rt_offset, q->rt_size, q->rt) < 0)
        return error_set(err, EIO, "'%s': cannot read its tables", name);
    return 0;
}

static void release(struct qcow2 *q)
{
    if (q->l2 && q->blocks) {
        qcow2_drop_tables_locked(q, false);
        qcow2_drop_tables_locked(q, true);
    }
    qcow2_snapshots_free(q);
    if (q->external)
        block_close(q->data);
    free(q->l1);
    free(q->l2);
    free(q->rt);
    free(q->blocks);
    free(q->tables);
    free(q->bitmaps);
    free(q->inflated);
    free(q->leaving.range);
    free(q->aging.range);
    free(q->aged.range);
    pthread_mutex_destroy(&q->lock);
    pthread_mutex_destroy(&q->flush_lock);
    pthread_mutex_destroy(&q->inflate_lock);
    pthread_cond_destroy(&q->allocated);
}

static int open_data_file(struct qcow2 *q, const char *name, struct error *err)
{
    struct block_node *n = q->node;
    const char *slash = strrchr(n->filename, '/');
    auto_free char *path = NULL;

    if (!(q->incompatible & QCOW2_DATA_FILE))
        return 0;
    if (!name)
        return error_set(err, EINVAL, "'%s' does not say which file has its data", n->filename);
    path = name[0] == '/' || !slash
               ? xstrdup(name)
               : xasprintf("%.*s/%s", (int)(slash - n->filename), n->filename, name);
    q->data = block_open_protocol(path, n->flags, err);
    if (!q->data) {
        q->data = n->file;
        return error_prefix(err, err ? -err->code : -EIO, "data file of '%s': ", n->filename);
    }
    q->external = true;
    return 0;
}

static int open_rest(struct qcow2 *q, struct error *err)
{
    struct block_node *n = q->node;
    auto_free char *data_file = NULL;
    auto_free uint8_t *head = NULL;
    uint64_t backing_at, end;
    uint32_t backing_length;
    int r = parse_header(q, err);

    if (r < 0)
        return r;
    head = malloc(q->cluster_size);
    if (!head || block_read(n->file, 0, head, q->cluster_size) < 0)
        return error_set(err, EIO, "cannot read the header of '%s'", n->filename);
    backing_at = load_be(q->header + 8, 8);
    backing_length = (uint32_t)load_be(q->header + 16, 4);
    end = backing_at && backing_at < q->cluster_size ? backing_at : q->cluster_size;
    if (backing_at) {
        if (!backing_length || backing_length > NAME_MAX_BYTES ||
            !range_within(backing_at, backing_length, q->cluster_size))
            return error_set(err, EINVAL,
                             "'%s': the name of its backing file (%u bytes at 0x%llx) is not in "
                             "its header",
                             n->filename, backing_length, (unsigned long long)backing_at);
        n->backing_name = text_of(head + backing_at, backing_length);
    }
    r = load_tables(q, err);
    if (r == 0)
        r = load_extensions(q, head, end, &data_file, err);
    if (r == 0)
        r = open_data_file(q, data_file, err);
    if (r == 0)
        r = qcow2_snapshots_load(q, err);
    return r;
}

/* What a writer does first: forget what it does not understand, mend what was left dirty. */
static int open_for_writing(struct qcow2 *q, struct error *err)
{
    struct block_node *n = q->node;
    uint64_t known = (q->bitmap_count ? QCOW2_BITMAPS : 0) |
                     (q->external ? q->autoclear & QCOW2_RAW_DATA : 0);
    int r = 0;

    if (n->flags & BLOCK_REPAIR)
        return 0;
    if (q->autoclear & ~known) {
        q->autoclear &= known;
        r = qcow2_header_write(q);
    }
    if (r == 0 && q->incompatible & QCOW2_DIRTY) {
        struct block_check c = {.fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS};

        r = qcow2_check(n, &c, err);
        if (r == 0 && (c.corruptions || c.errors))
            return error_set(err, EIO,
                             "'%s' was not closed and cannot be mended; try hospes img check",
                             n->filename);
        return r;
    }
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", n->filename) : 0;
}

static int qcow2_open(struct block_node *n, struct error *err)
{
    struct qcow2 *q = n->state;
    int r;

    q->node = n;
    q->data = n->file;
    q->age = 16;
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->flush_lock, NULL);
    pthread_mutex_init(&q->inflate_lock, NULL);
    pthread_cond_init(&q->allocated, NULL);
    r = block_read(n->file, 0, q->header, sizeof(q->header));
    if (r < 0)
        error_set_errno(err, -r, "cannot read '%s'", n->filename);
    else
        r = open_rest(q, err);
    if (r == 0) {
        q->table_limit = (unsigned)MAX(TABLES_BYTES >> q->cluster_bits, 6);
        q->fresh_from = qcow2_clusters(q, n->file->size);
        if (n->flags & BLOCK_WRITE)
            r = open_for_writing(q, err);
    }
    if (r < 0)
        release(q);
    return r;
}

static void qcow2_close(struct block_node *n)
{
    struct qcow2 *q = n->state;

    if (n->flags & BLOCK_WRITE && !atomic_load(&q->broken)) {
        int r = qcow2_settle(q);

        if (r == 0 && q->incompatible & QCOW2_DIRTY) {
            q->incompatible &= ~(uint64_t)QCOW2_DIRTY;
            r = qcow2_header_write(q);
            if (r == 0)
                r = block_flush(n->file);
        }
        if (r < 0)
            log_error("'%s': cannot write what it still needs: %s", n->filename, strerror(-r));
    }
    release(q);
}

/* ---- making -----------------------------------------------------------------------------------
 */

struct wish {
    uint64_t cluster_size, refcount_bits;
    bool v2, lazy, zstd;
    const char *preallocation;
};

static int parse_wish(struct block_options *o, const struct block_create *c, struct wish *w,
                      struct error *err)
{
    const char *compat, *compression, *extra;
    bool extended = false;
    int r;

    *w = (struct wish){.cluster_size = 65536, .refcount_bits = 16, .preallocation = "off"};
    r = block_option_size(o, "cluster_size", &w->cluster_size, err);
    if (r == 0)
        r = block_option_size(o, "refcount_bits", &w->refcount_bits, err);
    if (r == 0)
        r = block_option_bool(o, "lazy_refcounts", &w->lazy, err);
    if (r == 0)
        r = block_option_bool(o, "extended_l2", &extended, err);
    if (r < 0)
        return r;
    compat = block_option(o, "compat");
    compression = block_option(o, "compression_type");
    if (block_option(o, "preallocation"))
        w->preallocation = block_option(o, "preallocation");
    extra = block_option_unused(o);
    if (extra)
        return error_set(err, EINVAL, "format qcow2 has no option '%s'", extra);
    if (extended)
        return error_set(err, ENOTSUP, "option extended_l2: subclusters are not supported");
    if (compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2")))
        w->v2 = true;
    else if (compat && strcmp(compat, "1.1") && strcmp(compat, "v3"))
        return error_set(err, EINVAL, "option compat: '%s' is neither 0.10 nor 1.1", compat);
    if (compression && !strcmp(compression, "zstd"))
        w->zstd = true;
    else if (compression && strcmp(compression, "zlib"))
        return error_set(err, EINVAL, "option compression_type: '%s' is neither zlib nor zstd",
                         compression);
    if (!is_power_of_2(w->cluster_size) || w->cluster_size < 512 || w->cluster_size > 2 * MiB)
        return error_set(err, EINVAL,
                         "option cluster_size: %llu is not a power of 2 from 512 to 2M",
                         (unsigned long long)w->cluster_size);
    if (!is_power_of_2(w->refcount_bits) || w->refcount_bits > 64)
        return error_set(err, EINVAL, "option refcount_bits: %llu is not 1, 2, 4, ... or 64",
                         (unsigned long long)w->refcount_bits);
    if (w->v2 && (w->lazy || w->zstd || w->refcount_bits != 16))
        return error_set(err, EINVAL,
                         "lazy_refcounts, zstd and refcount_bits other than 16 need compat=1.1");
    if (strcmp(w->preallocation, "off") && strcmp(w->preallocation, "metadata") &&
        strcmp(w->preallocation, "falloc") && strcmp(w->preallocation, "full"))
        return error_set(err, EINVAL,
                         "option preallocation: '%s' is none of off, metadata, falloc, full",
                         w->preallocation);
    if (c->backing && strcmp(w->preallocation, "off"))
        return error_set(err, EINVAL, "preallocation would hide the backing file");
    if (c->backing && strlen(c->backing) > NAME_MAX_BYTES)
        return error_set(err, EINVAL, "the name of the backing file is longer than %d bytes",
                         NAME_MAX_BYTES);
    return 0;
}

static void put_extension(uint8_t *head, size_t *at, uint32_t kind, const void *body, size_t length)
{
    store_be(head + *at, kind, 4);
    store_be(head + *at + 4, length, 4);
    memcpy(head + *at + 8, body, length);
    *at += 8 + align_up(length, 8);
}

static size_t put_features(uint8_t *out)
{
    static const struct {
        uint8_t kind, bit;
        const char *name;
    } features[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        out[48 * i] = features[i].kind;
        out[48 * i + 1] = features[i].bit;
        strncpy((char *)out + 48 * i + 2, features[i].name, 46);
    }
    return 48 * ARRAY_SIZE(features);
}

/* The layout of a new image: header | refcount table | refcount blocks | L1. */
static int write_new(struct block_node *file, const struct block_create *c, const struct wish *w,
                     struct error *err)
{
    unsigned bits = (unsigned)__builtin_ctzll(w->cluster_size);
    unsigned order = (unsigned)__builtin_ctzll(w->refcount_bits);
    uint64_t per_l2 = BIT(2 * bits - 3), per_block = BIT(bits + 3 - order);
    uint64_t l1_size = (c->size + per_l2 - 1) / per_l2;
    uint64_t l1_clusters = MAX((l1_size * 8 + w->cluster_size - 1) >> bits, 1);
    uint64_t blocks = 1, table = 1, total;
    auto_free uint8_t *buffer = NULL;
    size_t at, bytes;
    int r;

    if (l1_size > QCOW2_L1_MAX)
        return error_set(
            err, EFBIG, "'%s': a disk of %llu bytes needs larger clusters than %llu bytes",
            c->filename, (unsigned long long)c->size, (unsigned long long)w->cluster_size);
    do {
        total = 1 + table + blocks + l1_clusters;
        blocks = (total + per_block - 1) / per_block;
        table = (blocks * 8 + w->cluster_size - 1) >> bits;
    } while (1 + table + blocks + l1_clusters > total);
    total = 1 + table + blocks + l1_clusters;
    bytes = (size_t)(total << bits);
    buffer = calloc(1, bytes);
    if (!buffer)
        return error_set(err, ENOMEM, "no memory for the tables of '%s'", c->filename);
    store_be(buffer, QCOW2_MAGIC, 4);
    store_be(buffer + 4, w->v2 ? 2 : 3, 4);
    store_be(buffer + 20, bits, 4);
    store_be(buffer + 24, c->size, 8);
    store_be(buffer + 36, l1_size, 4);
    store_be(buffer + 40, (1 + table + blocks) << bits, 8);
    store_be(buffer + 48, w->cluster_size, 8);
    store_be(buffer + 56, table, 4);
    at = QCOW2_HEADER_V2;
    if (!w->v2) {
        store_be(buffer + 72, w->zstd ? QCOW2_COMPRESSION : 0, 8);
        store_be(buffer + 80, w->lazy ? QCOW2_LAZY : 0, 8);
        store_be(buffer + 96, order, 4);
        store_be(buffer + 100, QCOW2_HEADER_NOW, 4);
        buffer[104] = w->zstd ? QCOW2_ZSTD : QCOW2_ZLIB;
        at = QCOW2_HEADER_NOW;
    }
    if (c->backing && c->backing_format)
        put_extension(buffer, &at, (uint32_t)EXT_BACKING_FORMAT, c->backing_format,
                      strlen(c->backing_format));
    if (!w->v2 && w->cluster_size >= 4096) {
        uint8_t features[48 * 8] = {0};

        put_extension(buffer, &at, EXT_FEATURES, features, put_features(features));
    }
    at += 8; /* the end of extensions */
    if (c->backing) {
        if (at + strlen(c->backing) > w->cluster_size)
            return error_set(err, EINVAL,
                             "the name of the backing file does not fit into a cluster");
        store_be(buffer + 8, at, 8);
        store_be(buffer + 16, strlen(c->backing), 4);
        memcpy(buffer + at, c->backing, strlen(c->backing));
    }
    for (uint64_t b = 0; b < blocks; b++)
        store_be(buffer + w->cluster_size + 8 * b, (1 + table + b) << bits, 8);
    for (uint64_t i = 0; i < total; i++) {
        uint8_t *p = buffer + ((1 + table) << bits);

        if (order < 3)
            p[i >> (3 - order)] |= (uint8_t)(1 << (i % (8u >> order) << order));
        else
            store_be(p + (i << (order - 3)), 1, 1u << (order - 3));
    }
    /* The header last: until then it is no image. */
    r = block_write(file, w->cluster_size, buffer + w->cluster_size, bytes - w->cluster_size);
    if (r == 0)
        r = block_flush(file);
    if (r == 0)
        r = block_write(file, 0, buffer, w->cluster_size);
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", c->filename) : 0;
}

/* Clusters for all of [from, to), and a file that is long enough for them. */
static int preallocate(struct block_node *n, uint64_t from, uint64_t to, const char *mode,
                       struct error *err)
{
    struct qcow2 *q = n->state;
    uint64_t start = q->fresh_from << q->cluster_bits, end;
    int r = qcow2_preallocate(q, from, to);

    if (r == 0)
        r = qcow2_settle(q);
    end = q->fresh_from << q->cluster_bits;
    if (r == 0 && n->file->size < end)
        r = block_resize(n->file, end, err);
    if (r == 0 && strcmp(mode, "metadata") && n->file->driver == &block_file) {
        if (!strcmp(mode, "falloc"))
            r = block_file_preallocate(n->file, start, end - start, false);
        for (uint64_t at = from; r == 0 && !strcmp(mode, "full") && at < to;) {
            struct block_extent e;

            r = block_map(n, at, to - at, 0, &e);
            if (r == 0 && e.kind == BLOCK_DATA)
                r = block_file_preallocate(n->file, e.offset, e.length, true);
            at += r == 0 ? e.length : 0;
        }
    }
    return r < 0 ? error_set_errno(err, -r, "cannot preallocate '%s'", n->filename) : 0;
}

static int qcow2_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    struct block_node *n;
    struct wish w;
    int r = o ? parse_wish(o, c, &w, err) : -EINVAL;

    if (r == 0)
        r = write_new(file, c, &w, err);
    if (r == 0 && strcmp(w.preallocation, "off")) {
        n = block_node_new(&block_qcow2, c->filename, BLOCK_WRITE);
        n->file = file;
        r = qcow2_open(n, err);
        if (r == 0) {
            r = preallocate(n, 0, c->size, w.preallocation, err);
            qcow2_close(n);
        }
        n->driver = &block_raw; /* what the node had is closed; the file stays the caller's */
        n->file = NULL;
        block_close(n);
    }
    block_options_free(o);
    return r;
}

/* ---- size -------------------------------------------------------------------------------------
 */

/* A new L1 table of `size` entries in place of the old one, and the disk's size, in one step. */
int qcow2_l1_replace_locked(struct qcow2 *q, const uint64_t *l1, uint32_t size, uint64_t disk_size)
{
    uint64_t clusters = MAX(qcow2_clusters(q, (uint64_t)size * 8), 1), first, got;
    uint64_t old_offset = q->l1_offset, old_disk = q->node->size, *copy;
    uint32_t old_size = q->l1_size;
    struct qcow2_table **slots;
    int r = qcow2_allocate_locked(q, clusters, true, &first, &got);

    if (r < 0)
        return r;
    copy = calloc((size_t)size + 1, 8);
    slots = calloc((size_t)size + 1, sizeof(*slots));
    if (!copy || !slots) {
        free(copy);
        free(slots);
        qcow2_free_locked(q, first << q->cluster_bits, clusters << q->cluster_bits);
        return -ENOMEM;
    }
    memcpy(copy, l1, (size_t)size * 8);
    q->fresh_from = MAX(q->fresh_from, first + clusters);
    pthread_mutex_unlock(&q->lock);
    r = qcow2_flush(q->node); /* the counts of the new place */
    if (r == 0)
        r = block_write_zeroes(q->node->file, first << q->cluster_bits, clusters << q->cluster_bits,
                               false);
    if (r == 0)
        r = qcow2_write_table(q, first << q->cluster_bits, size, copy);
    if (r == 0)
        r = block_flush(q->node->file);
    pthread_mutex_lock(&q->lock);
    if (r == 0) {
        q->l1_offset = first << q->cluster_bits;
        q->l1_size = size;
        q->node->size = disk_size;
        r = qcow2_header_write(q);
        if (r == 0)
            r = block_flush(q->node->file);
    }
    if (r < 0) {
        q->l1_offset = old_offset;
        q->l1_size = old_size;
        q->node->size = old_disk;
        atomic_store(&q->broken, true); /* which of them the file has is unknown */
        free(copy);
        free(slots);
        return r;
    }
    qcow2_drop_tables_locked(q, false); /* all clean: the flush was just now */
    free(q->l1);
    free(q->l2);
    q->l1 = copy;
    q->l2 = slots;
    q->l1_low = q->l1_high = 0;
    qcow2_free_locked(q, old_offset, (uint64_t)old_size * 8);
    return 0;
}

static int grow(struct block_node *n, uint64_t size)
{
    struct qcow2 *q = n->state;
    unsigned shift = q->cluster_bits + q->l2_bits;
    uint64_t needed = (size + BIT(shift) - 1) >> shift, old = n->size;
    auto_free uint64_t *l1 = NULL;
    int r;

    if (needed > QCOW2_L1_MAX)
        return -EFBIG;
    /* What the old end cut off from its last cluster must not come back. */
    if (old & (q->cluster_size - 1)) {
        uint64_t end = MIN(align_up(old, q->cluster_size), size);
        auto_free uint8_t *zeros = calloc(1, q->cluster_size);
        struct block_extent e;

        r = zeros ? block_map(n, old - 1, 1, 0, &e) : -ENOMEM;
        if (r < 0)
            return r;
        if (e.kind != BLOCK_ZERO) {
            n->size = align_up(old, q->cluster_size);
            r = qcow2_write(n, old, zeros, end - old);
            n->size = old;
            if (r < 0)
                return r;
        }
    }
    l1 = calloc(MAX(needed, q->l1_size) + 1, 8);
    if (!l1)
        return -ENOMEM;
    r = qcow2_flush(n);
    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    if (needed > q->l1_size) {
        memcpy(l1, q->l1, (size_t)q->l1_size * 8);
        r = qcow2_l1_replace_locked(q, l1, (uint32_t)needed, size);
    } else {
        n->size = size;
        r = qcow2_header_write(q);
        if (r == 0)
            r = block_flush(n->file);
    }
    pthread_mutex_unlock(&q->lock);
    /* A longer backing file must not shine through. */
    if (r == 0 && n->backing && n->backing->size > old)
        r = block_write_zeroes(n, old, MIN(n->backing->size, size) - old, true);
    return r;
}

/* The clusters go first: what is behind the end when it moves must not come back. */
static int shrink(struct block_node *n, uint64_t size)
{
    struct qcow2 *q = n->state;
    int r = qcow2_cut(q, qcow2_clusters(q, size), qcow2_clusters(q, n->size));

    if (r == 0)
        r = qcow2_flush(n);
    if (r < 0)
        return r;
    pthread_mutex_lock(&q->lock);
    n->size = size;
    r = qcow2_header_write(q);
    pthread_mutex_unlock(&q->lock);
    return r < 0 ? r : qcow2_settle(q);
}

static int qcow2_resize(struct block_node *n, uint64_t size, struct error *err)
{
    struct qcow2 *q = n->state;
    int r = qcow2_touch(q);

    if (q->bitmap_count)
        return error_set(err, ENOTSUP, "'%s' has bitmaps of its old size; remove them first",
                         n->filename);
    if (size < n->size && q->snapshot_count)
        return error_set(err, ENOTSUP, "'%s' has snapshots; delete them before making it smaller",
                         n->filename);
    if (size != n->size && q->snapshot_count && q->version < 3)
        return error_set(err, ENOTSUP,
                         "'%s' is version 2 and has snapshots, which all have its "
                         "size; delete them first",
                         n->filename);
    if (r == 0 && size > n->size)
        r = grow(n, size);
    else if (r == 0 && size < n->size)
        r = shrink(n, size);
    if (r == 0 && q->external)
        r = block_resize(q->data, size, err);
    return r < 0 ? error_set_errno(err, -r, "cannot resize '%s'", n->filename) : 0;
}

/* ---- facts ------------------------------------------------------------------------------------
 */

static int qcow2_info(struct block_node *n, struct block_info *out)
{
    struct qcow2 *q = n->state;

    out->cluster_size = q->cluster_size;
    out->dirty = q->incompatible & QCOW2_DIRTY;
    out->corrupt = q->incompatible & QCOW2_CORRUPT;
    block_info_add(out, "compat", "%s", q->version == 2 ? "0.10" : "1.1");
    block_info_add(out, "compression type", "%s", q->compression ? "zstd" : "zlib");
    block_info_add(out, "lazy refcounts", "%s", q->compatible & QCOW2_LAZY ? "true" : "false");
    block_info_add(out, "refcount bits", "%u", 1u << q->refcount_order);
    block_info_add(out, "corrupt", "%s", out->corrupt ? "true" : "false");
    if (q->external)
        block_info_add(out, "data file", "%s", q->data->filename);
    for (unsigned i = 0; i < MIN(q->bitmap_count, 8); i++)
        block_info_add(out, "bitmap", "%s%s%s", q->bitmaps[i].name,
                       q->bitmaps[i].flags & QCOW2_BITMAP_AUTO ? " auto" : "",
                       q->bitmaps[i].flags & QCOW2_BITMAP_IN_USE ? " in-use" : "");
    return 0;
}

const struct block_driver block_qcow2 = {
    .name = "qcow2",
    .summary = "QEMU's: grows, backing files, snapshots, compression",
    .instance_size = sizeof(struct qcow2),
    .create_options =
        (const struct block_create_option[]){
            {"cluster_size", "bytes, a power of 2 from 512 to 2M (64K)"},
            {"compat", "0.10 (version 2) or 1.1 (version 3)"},
            {"compression_type", "zlib or zstd"},
            {"lazy_refcounts", "on: counts are written late; a cut makes a check necessary"},
            {"preallocation", "off, metadata, falloc or full"},
            {"refcount_bits", "1 to 64 (16)"},
            {0},
        },
    .probe = probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .create = qcow2_create,
    .read = qcow2_read,
    .write = qcow2_write,
    .flush = qcow2_flush,
    .discard = qcow2_discard,
    .write_zeroes = qcow2_write_zeroes,
    .write_compressed = qcow2_write_compressed,
    .map = qcow2_map,
    .resize = qcow2_resize,
    .check = qcow2_check,
    .info = qcow2_info,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_list = qcow2_snapshot_list,
};
