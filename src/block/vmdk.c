/*
 * vmdk.c - VMware's disk images: a descriptor text, and extents of raw (flat) or sparse data, in
 * one file or several. After VMware's technote "Virtual Disk Format 5.0".
 *
 * Sparse extents map grains (64 KiB) by a directory of tables of 32-bit sector numbers, which are
 * there twice; bat.h has them in memory, and both copies are written. Stream-optimized ones have
 * deflated grains, each behind a marker with its place on the disk, and directory and tables behind
 * them: a grain is written once. A flush appends tables, directory and footer; what comes later
 * goes behind those.
 *
 * Extents lie beside the descriptor: a descriptor that names files elsewhere is refused, because
 * writing to the disk would write to them.
 */
#include "block/bat.h"

#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

enum { HEADER = 512, TEXT_MAX = 1 * MiB, EXTENTS_MAX = 4096, GTES = 512, GRAIN = 128 };
enum {
    AT_VERSION = 4,
    AT_FLAGS = 8,
    AT_CAPACITY = 12,
    AT_GRAIN = 20,
    AT_TEXT = 28,
    AT_TEXT_SIZE = 36,
    AT_GTES = 44,
    AT_RGD = 48,
    AT_GD = 56,
    AT_OVERHEAD = 64,
    AT_LINES = 73,
    AT_ALGORITHM = 77,
};
enum { NEWLINE_TEST = 1 << 0, REDUNDANT = 1 << 1, ZERO_GRAIN = 1 << 2 };
enum { COMPRESSED = 1 << 16, MARKERS = 1 << 17 };
enum { MARK_EOS, MARK_GT, MARK_GD, MARK_FOOTER };
#define GD_AT_END   UINT64_MAX
#define SPLIT_BYTES (UINT64_C(2) * GiB)

enum kind { FLAT, SPARSE, ZEROES };

struct extent {
    enum kind kind;
    struct block_node *file;
    bool own; /* opened by us, not the node's */
    uint64_t start, size;
    uint64_t flat_at;
    struct bat bat;     /* SPARSE */
    uint32_t *gd, *rgd; /* sectors of grain tables; rgd NULL: only once */
    uint64_t tables;    /* of them */
    uint32_t gtes;
    uint8_t header[HEADER];
    bool compressed;
};

struct vmdk {
    struct extent *extent;
    unsigned count;
    char *text; /* the descriptor */
    char create_type[32];
    uint32_t cid;
};

static bool probe(const uint8_t *head, size_t size)
{
    static const char text[] = "# Disk DescriptorFile";

    return size >= 32 && (!memcmp(head, "KDMV", 4) || !memcmp(head, text, sizeof(text) - 1));
}

/* ---- the descriptor ---------------------------------------------------------------------------
 */

/* The value of `key=` or `key = ` at a line's start, without quotes; false: it is not there. */
static bool text_value(const char *text, const char *key, char *out, size_t room)
{
    size_t n = strlen(key);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        const char *p;
        size_t used = 0;
        bool quoted;

        line += *line == '\n';
        if (strncasecmp(line, key, n))
            continue;
        p = line + n;
        p += strspn(p, " \t");
        if (*p != '=')
            continue;
        p += 1 + strspn(p + 1, " \t");
        quoted = *p == '"';
        p += quoted;
        while (*p && *p != '\n' && *p != '\r' && (!quoted || *p != '"') && used + 1 < room)
            out[used++] = *p++;
        out[used] = '\0';
        return true;
    }
    return false;
}

/* The array has room for all there can be: tables point into it. */
static struct extent *new_extent(struct vmdk *v, enum kind kind, uint64_t start, uint64_t size)
{
    struct extent *e = &v->extent[v->count++];

    *e = (struct extent){.kind = kind, .start = start, .size = size};
    return e;
}

/* ---- sparse extents ---------------------------------------------------------------------------
 */

static struct extent *extent_of_bat(struct bat *b)
{
    return container_of(b, struct extent, bat);
}

static int store(struct bat *b, uint64_t first, uint64_t count, const uint64_t *entries)
{
    struct extent *e = extent_of_bat(b);
    auto_free uint8_t *bytes = malloc(count * 4);
    int r = 0;

    if (!bytes)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++)
        store_le(bytes + 4 * i, entries[i] <= BAT_ZERO ? entries[i] : entries[i] / BLOCK_SECTOR, 4);
    for (uint64_t i = 0; r == 0 && i < count;) {
        uint64_t table = (first + i) / e->gtes, in = (first + i) % e->gtes;
        uint64_t n = MIN(count - i, e->gtes - in);

        r = block_write(b->file, (uint64_t)e->gd[table] * BLOCK_SECTOR + 4 * in, bytes + 4 * i,
                        4 * n);
        if (r == 0 && e->rgd && e->rgd[table])
            r = block_write(b->file, (uint64_t)e->rgd[table] * BLOCK_SECTOR + 4 * in, bytes + 4 * i,
                            4 * n);
        i += n;
    }
    return r;
}

static int load_directory(struct extent *e, const char *name, uint64_t at, uint32_t **out,
                          struct error *err)
{
    uint64_t size = e->file->size;

    if (at >= size / BLOCK_SECTOR || !range_within(at * BLOCK_SECTOR, e->tables * 4, size))
        return error_set(err, EINVAL, "'%s' is cut short: its grain directory is not there", name);
    *out = malloc(e->tables * 4 + 1);
    if (!*out || block_read(e->file, at * BLOCK_SECTOR, *out, e->tables * 4) < 0)
        return error_set(err, EIO, "cannot read the grain directory of '%s'", name);
    for (uint64_t i = 0; i < e->tables; i++) {
        uint32_t table = (uint32_t)load_le(&(*out)[i], 4);

        (*out)[i] = table;
        if (table && !range_within((uint64_t)table * BLOCK_SECTOR, (uint64_t)e->gtes * 4, size))
            return error_set(err, EINVAL, "'%s': grain table %llu is behind the end of the file",
                             name, (unsigned long long)i);
    }
    return 0;
}

static int load_tables(struct extent *e, const char *name, struct error *err)
{
    auto_free uint8_t *table = malloc((size_t)e->gtes * 4);
    bool zero_grains = load_le(e->header + AT_FLAGS, 4) & ZERO_GRAIN;

    if (!table)
        return error_set(err, ENOMEM, "no memory for the tables of '%s'", name);
    for (uint64_t t = 0; t < e->tables; t++) {
        if (!e->gd[t])
            continue;
        if (block_read(e->file, (uint64_t)e->gd[t] * BLOCK_SECTOR, table, (size_t)e->gtes * 4) < 0)
            return error_set(err, EIO, "cannot read a grain table of '%s'", name);
        for (uint64_t i = 0; i < e->gtes && t * e->gtes + i < e->bat.count; i++) {
            uint64_t sector = load_le(table + 4 * i, 4);

            e->bat.place[t * e->gtes + i] = sector == 1 && zero_grains ? BAT_ZERO
                                                                       : sector * BLOCK_SECTOR;
        }
    }
    return 0;
}

/* A table that is missing is made at once, because a flush only writes into those there are. */
static int add_missing_tables(struct extent *e, uint64_t gd_at, uint64_t rgd_at)
{
    auto_free uint8_t *zeros = calloc(e->gtes, 4);
    uint64_t bytes = align_up((uint64_t)e->gtes * 4, BLOCK_SECTOR), end;
    int r = zeros ? 0 : -ENOMEM;

    for (unsigned k = 0; r == 0 && k < 2; k++) {
        uint32_t *dir = k ? e->rgd : e->gd;
        uint64_t at = (k ? rgd_at : gd_at) * BLOCK_SECTOR;

        for (uint64_t t = 0; dir && r == 0 && t < e->tables; t++) {
            uint8_t entry[4];

            if (dir[t])
                continue;
            end = MAX(align_up(e->file->size, BLOCK_SECTOR), e->bat.end);
            r = block_write(e->file, end, zeros, (size_t)e->gtes * 4);
            if (r == 0)
                r = block_flush(e->file);
            store_le(entry, end / BLOCK_SECTOR, 4);
            if (r == 0)
                r = block_write(e->file, at + 4 * t, entry, 4);
            dir[t] = (uint32_t)(end / BLOCK_SECTOR);
            e->bat.end = e->bat.fresh_from = end + bytes;
        }
    }
    return r;
}

static int check_header(struct extent *e, const char *name, struct error *err)
{
    const uint8_t *h = e->header;
    uint64_t grain = load_le(h + AT_GRAIN, 8), version = load_le(h + AT_VERSION, 4);

    if (memcmp(h, "KDMV", 4))
        return error_set(err, EINVAL, "'%s' is not a sparse extent of a VMDK", name);
    if (version < 1 || version > 3)
        return error_set(err, ENOTSUP, "'%s' is a VMDK of version %llu; 1 to 3 are supported", name,
                         (unsigned long long)version);
    if (!is_power_of_2(grain) || grain < 8 || grain > 65536)
        return error_set(err, EINVAL, "'%s' says grains of %llu sectors", name,
                         (unsigned long long)grain);
    e->gtes = (uint32_t)load_le(h + AT_GTES, 4);
    if (!e->gtes || e->gtes > 65536)
        return error_set(err, EINVAL, "'%s' says grain tables of %u entries", name, e->gtes);
    if (load_le(h + AT_FLAGS, 4) & NEWLINE_TEST && memcmp(h + AT_LINES, "\n \r\n", 4))
        return error_set(err, EINVAL,
                         "'%s' was damaged on its way: something changed its line ends", name);
    e->compressed = load_le(h + AT_FLAGS, 4) & COMPRESSED;
    if (e->compressed && load_le(h + AT_ALGORITHM, 2) != 1)
        return error_set(err, ENOTSUP, "'%s': compression method %llu is not known", name,
                         (unsigned long long)load_le(h + AT_ALGORITHM, 2));
    return 0;
}

static int open_sparse(struct block_node *n, struct extent *e, const char *name, struct error *err)
{
    uint64_t capacity, grain, gd, rgd, bad, least;
    bool redundant;
    int r = block_read(e->file, 0, e->header, HEADER);

    if (r < 0)
        return error_set_errno(err, -r, "cannot read '%s'", name);
    r = check_header(e, name, err);
    if (r == 0 && load_le(e->header + AT_GD, 8) == GD_AT_END) {
        if (e->file->size < 3 * BLOCK_SECTOR ||
            block_read(e->file, e->file->size - 2 * BLOCK_SECTOR, e->header, HEADER) < 0)
            return error_set(err, EINVAL, "'%s' is cut short: it has no footer", name);
        r = check_header(e, name, err);
        if (r < 0)
            return error_prefix(err, r, "footer: ");
    }
    if (r < 0)
        return r;
    capacity = load_le(e->header + AT_CAPACITY, 8);
    grain = load_le(e->header + AT_GRAIN, 8);
    gd = load_le(e->header + AT_GD, 8);
    rgd = load_le(e->header + AT_RGD, 8);
    if (capacity > BLOCK_SIZE_MAX / BLOCK_SECTOR)
        return error_set(err, EINVAL, "'%s' says %llu sectors", name, (unsigned long long)capacity);
    if (!e->size)
        e->size = capacity * BLOCK_SECTOR;
    if (e->size > capacity * BLOCK_SECTOR)
        return error_set(err, EINVAL, "'%s' has %llu sectors, its descriptor says %llu", name,
                         (unsigned long long)capacity,
                         (unsigned long long)(e->size / BLOCK_SECTOR));
    e->tables = (capacity + grain * e->gtes - 1) / (grain * e->gtes);
    redundant = load_le(e->header + AT_FLAGS, 4) & REDUNDANT && rgd && !e->compressed;
    r = load_directory(e, name, gd, &e->gd, err);
    if (r == 0 && redundant)
        r = load_directory(e, name, rgd, &e->rgd, err);
    if (r < 0)
        return r;
    if (bat_init(&e->bat, n, e->file, e->start, e->size, grain * BLOCK_SECTOR) < 0)
        return error_set(err, ENOMEM, "'%s' has too many grains", name);
    r = load_tables(e, name, err);
    if (r < 0)
        return r;
    e->bat.store = store;
    e->bat.can_zero = load_le(e->header + AT_FLAGS, 4) & ZERO_GRAIN;
    e->bat.unit = BLOCK_SECTOR / 4;
    e->bat.limit = (uint64_t)UINT32_MAX * BLOCK_SECTOR;
    least = MIN(load_le(e->header + AT_OVERHEAD, 8), UINT32_MAX) * BLOCK_SECTOR;
    if (bat_ready(&e->bat, BLOCK_SECTOR, &bad) < 0)
        return error_set(err, EINVAL, "'%s': grain %llu is at an impossible place", name,
                         (unsigned long long)bad);
    e->bat.end = MAX(e->bat.end, least);
    for (uint64_t t = 0; t < e->tables; t++) /* nothing new on top of a table */
        for (unsigned k = 0; k < 2; k++) {
            const uint32_t *dir = k ? e->rgd : e->gd;

            if (dir)
                e->bat.end = MAX(e->bat.end, ((uint64_t)dir[t] * BLOCK_SECTOR) +
                                                 align_up((uint64_t)e->gtes * 4, BLOCK_SECTOR));
        }
    if (e->compressed) { /* behind all there is, unless there is nothing yet */
        bool any = false;

        for (uint64_t i = 0; i < e->bat.count; i++)
            any |= e->bat.place[i] > BAT_ZERO;
        e->bat.end = any ? align_up(e->file->size, BLOCK_SECTOR) : least;
    } else if (n->flags & BLOCK_WRITE) {
        r = add_missing_tables(e, gd, redundant ? rgd : 0);
        if (r < 0)
            return error_set_errno(err, -r, "cannot add grain tables to '%s'", name);
    }
    return 0;
}

/* ---- compressed grains ------------------------------------------------------------------------
 */

static int read_packed_grain(struct extent *e, uint64_t grain, uint8_t *out)
{
    uint64_t place = e->bat.place[grain], size = e->bat.block_size;
    uLongf got = size;
    uint8_t marker[12];
    auto_free uint8_t *packed = NULL;
    uint32_t bytes;
    int r = block_read(e->file, place, marker, sizeof(marker));

    if (r < 0)
        return r;
    bytes = (uint32_t)load_le(marker + 8, 4);
    if (load_le(marker, 8) != grain * (size / BLOCK_SECTOR) || bytes > 2 * size + 1024 ||
        place + 12 + bytes > e->file->size)
        return -EIO;
    packed = malloc(bytes + 1);
    if (!packed)
        return -ENOMEM;
    r = block_read(e->file, place + 12, packed, bytes);
    if (r < 0)
        return r;
    memset(out, 0, size);
    /* The last grain may hold less than a grain. */
    return uncompress(out, &got, packed, bytes) == Z_OK ? 0 : -EIO;
}

static int read_packed(struct extent *e, uint64_t offset, uint8_t *p, uint64_t length)
{
    auto_free uint8_t *whole = malloc(e->bat.block_size);
    int r = whole ? 0 : -ENOMEM;

    while (r == 0 && length) {
        uint64_t in = offset & (e->bat.block_size - 1), grain = offset / e->bat.block_size;
        uint64_t step = MIN(length, e->bat.block_size - in), place;

        pthread_mutex_lock(&e->bat.lock);
        place = e->bat.place[grain];
        pthread_mutex_unlock(&e->bat.lock);
        if (place == BAT_NONE)
            r = block_read_backing(e->bat.node, e->start + offset, p, step);
        else if (place == BAT_ZERO)
            memset(p, 0, step);
        else if ((r = read_packed_grain(e, grain, whole)) == 0)
            memcpy(p, whole + in, step);
        offset += step;
        p += step;
        length -= step;
    }
    return r;
}

static int write_packed_grain(struct extent *e, uint64_t grain, const uint8_t *data)
{
    uLongf bytes = compressBound(e->bat.block_size);
    auto_free uint8_t *packed = calloc(1, align_up(12 + bytes, BLOCK_SECTOR));
    uint64_t at, whole;
    int r;

    if (!packed)
        return -ENOMEM;
    if (compress2(packed + 12, &bytes, data, e->bat.block_size, Z_DEFAULT_COMPRESSION) != Z_OK)
        return -EIO;
    store_le(packed, grain * (e->bat.block_size / BLOCK_SECTOR), 8);
    store_le(packed + 8, bytes, 4);
    whole = align_up(12 + bytes, BLOCK_SECTOR);
    memset(packed + 12 + bytes, 0, whole - 12 - bytes);
    pthread_mutex_lock(&e->bat.lock);
    if (e->bat.place[grain] != BAT_NONE) {
        pthread_mutex_unlock(&e->bat.lock);
        return -EROFS; /* written once */
    }
    at = e->bat.end;
    e->bat.end += whole;
    pthread_mutex_unlock(&e->bat.lock);
    r = e->bat.end > e->bat.limit ? -EFBIG : block_write(e->file, at, packed, whole);
    pthread_mutex_lock(&e->bat.lock);
    if (r == 0) {
        e->bat.place[grain] = at;
        e->bat.any_dirty = true;
    }
    pthread_mutex_unlock(&e->bat.lock);
    return r;
}

static int write_packed(struct extent *e, uint64_t offset, const uint8_t *p, uint64_t length)
{
    auto_free uint8_t *whole = NULL;
    int r = 0;

    while (r == 0 && length) {
        uint64_t in = offset & (e->bat.block_size - 1), grain = offset / e->bat.block_size;
        uint64_t step = MIN(length, e->bat.block_size - in);

        if (step == e->bat.block_size) {
            r = write_packed_grain(e, grain, p);
        } else {
            if (!whole)
                whole = malloc(e->bat.block_size);
            if (!whole)
                return -ENOMEM;
            memset(whole, 0, e->bat.block_size);
            memcpy(whole + in, p, step);
            r = write_packed_grain(e, grain, whole);
        }
        offset += step;
        p += step;
        length -= step;
    }
    return r;
}

static int put_marker(struct extent *e, uint64_t *at, uint64_t sectors, unsigned kind)
{
    uint8_t m[BLOCK_SECTOR] = {0};
    int r;

    store_le(m, sectors, 8);
    store_le(m + 12, kind, 4);
    r = block_write(e->file, *at, m, sizeof(m));
    *at += sizeof(m);
    return r;
}

/* Tables, directory and footer behind the grains. */
static int flush_packed(struct extent *e)
{
    uint64_t at, gd_sectors = (e->tables * 4 + BLOCK_SECTOR - 1) / BLOCK_SECTOR;
    uint64_t gt_bytes = align_up((uint64_t)e->gtes * 4, BLOCK_SECTOR);
    auto_free uint8_t *gd = calloc(gd_sectors, BLOCK_SECTOR), *gt = malloc(gt_bytes);
    auto_free uint64_t *places = malloc(e->bat.count * 8 + 1);
    int r = gd && gt && places ? 0 : -ENOMEM;

    pthread_mutex_lock(&e->bat.lock);
    if (!e->bat.any_dirty || r < 0) {
        pthread_mutex_unlock(&e->bat.lock);
        return r < 0 ? r : block_flush(e->file);
    }
    e->bat.any_dirty = false;
    memcpy(places, e->bat.place, e->bat.count * 8);
    at = e->bat.end;
    for (uint64_t t = 0; r == 0 && t < e->tables; t++) {
        bool any = false;

        memset(gt, 0, gt_bytes);
        for (uint64_t i = 0; i < e->gtes && t * e->gtes + i < e->bat.count; i++) {
            uint64_t place = places[t * e->gtes + i];

            store_le(gt + 4 * i, place / BLOCK_SECTOR, 4);
            any |= place > BAT_ZERO;
        }
        if (!any)
            continue;
        r = put_marker(e, &at, gt_bytes / BLOCK_SECTOR, MARK_GT);
        store_le(gd + 4 * t, at / BLOCK_SECTOR, 4);
        if (r == 0)
            r = block_write(e->file, at, gt, gt_bytes);
        at += gt_bytes;
    }
    if (r == 0)
        r = put_marker(e, &at, gd_sectors, MARK_GD);
    store_le(e->header + AT_GD, at / BLOCK_SECTOR, 8);
    if (r == 0)
        r = block_write(e->file, at, gd, gd_sectors * BLOCK_SECTOR);
    at += gd_sectors * BLOCK_SECTOR;
    if (r == 0)
        r = block_flush(e->file);
    if (r == 0)
        r = put_marker(e, &at, 1, MARK_FOOTER);
    if (r == 0)
        r = block_write(e->file, at, e->header, HEADER);
    at += HEADER;
    if (r == 0)
        r = put_marker(e, &at, 0, MARK_EOS);
    e->bat.end = at;
    if (r < 0)
        e->bat.any_dirty = true;
    pthread_mutex_unlock(&e->bat.lock);
    return r < 0 ? r : block_flush(e->file);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void release(struct vmdk *v)
{
    for (unsigned i = 0; i < v->count; i++) {
        struct extent *e = &v->extent[i];

        if (e->kind == SPARSE)
            bat_free(&e->bat);
        if (e->own)
            block_close(e->file);
        free(e->gd);
        free(e->rgd);
    }
    free(v->extent);
    free(v->text);
}

static char *beside(const char *image, const char *name)
{
    const char *slash = strrchr(image, '/');

    return slash ? xasprintf("%.*s/%s", (int)(slash - image), image, name) : xstrdup(name);
}

/* One line: RW 4192256 SPARSE "disk-s001.vmdk" [offset]. 1: it is not about an extent. */
static int add_extent(struct block_node *n, const char *line, uint64_t *start, struct error *err)
{
    struct vmdk *v = n->state;
    char access[16], type[16], name[512] = "";
    unsigned long long sectors, offset = 0;
    auto_free char *path = NULL;
    struct extent *e;
    enum kind kind;
    int fields = sscanf(line, "%15[A-Z] %llu %15[A-Z] \"%511[^\"\n]\" %llu", access, &sectors, type,
                        name, &offset);

    if (fields < 3 ||
        (strcmp(access, "RW") && strcmp(access, "RDONLY") && strcmp(access, "NOACCESS")))
        return 1;
    if (!strcmp(type, "ZERO"))
        kind = ZEROES;
    else if ((!strcmp(type, "FLAT") || !strcmp(type, "VMFS")) && fields >= 4)
        kind = FLAT;
    else if (!strcmp(type, "SPARSE") && fields >= 4)
        kind = SPARSE;
    else
        return error_set(err, ENOTSUP,
                         "'%s': extents of type %s are not supported; FLAT, VMFS, SPARSE and ZERO "
                         "are",
                         n->filename, type);
    if (strcmp(access, "RW") && n->flags & BLOCK_WRITE)
        return error_set(err, EROFS, "'%s': extent '%s' is %s; open it read-only", n->filename,
                         name, access);
    if (strchr(name, '/') || strchr(name, '\\') || !strcmp(name, ".."))
        return error_set(err, EPERM,
                         "'%s' names the file '%s' elsewhere; extents must lie beside it",
                         n->filename, name);
    if (!sectors || sectors > (BLOCK_SIZE_MAX - *start) / BLOCK_SECTOR || v->count == EXTENTS_MAX)
        return error_set(err, EINVAL, "'%s': extent '%s' of %llu sectors", n->filename, name,
                         sectors);
    e = new_extent(v, kind, *start, sectors * BLOCK_SECTOR);
    *start += e->size;
    if (kind == ZEROES)
        return 0;
    path = beside(n->filename, name);
    e->file = block_open_protocol(path, n->flags, err);
    if (!e->file)
        return error_prefix(err, err ? -err->code : -EIO, "extent of '%s': ", n->filename);
    e->own = true;
    if (kind == SPARSE)
        return open_sparse(n, e, path, err);
    if (offset > BLOCK_SIZE_MAX / BLOCK_SECTOR ||
        !range_within(offset * BLOCK_SECTOR, e->size, e->file->size))
        return error_set(err, EINVAL, "'%s' has %llu bytes, its descriptor wants %llu from %llu",
                         path, (unsigned long long)e->file->size, (unsigned long long)e->size,
                         offset * BLOCK_SECTOR);
    e->flat_at = offset * BLOCK_SECTOR;
    return 0;
}

static int read_text(struct block_node *n, uint64_t at, uint64_t size, struct error *err)
{
    struct vmdk *v = n->state;

    if (size > TEXT_MAX || !range_within(at, size, n->file->size))
        return error_set(err, EINVAL, "'%s': its descriptor of %llu bytes is not there",
                         n->filename, (unsigned long long)size);
    v->text = calloc(1, size + 1);
    if (!v->text || block_read(n->file, at, v->text, size) < 0)
        return error_set(err, EIO, "cannot read the descriptor of '%s'", n->filename);
    return 0;
}

static int read_parent(struct block_node *n, struct error *err)
{
    struct vmdk *v = n->state;
    char value[1024];

    if (text_value(v->text, "CID", value, sizeof(value)))
        v->cid = (uint32_t)strtoul(value, NULL, 16);
    if (text_value(v->text, "createType", value, sizeof(value)))
        snprintf(v->create_type, sizeof(v->create_type), "%.31s", value);
    if (!text_value(v->text, "parentCID", value, sizeof(value)) || !strcasecmp(value, "ffffffff"))
        return 0;
    if (!text_value(v->text, "parentFileNameHint", value, sizeof(value)) || !value[0])
        return error_set(err, EINVAL, "'%s' has a parent and does not name it", n->filename);
    n->backing_name = xstrdup(value);
    n->backing_format = xstrdup("vmdk");
    return 0;
}

static int open_all(struct block_node *n, struct error *err)
{
    struct vmdk *v = n->state;
    uint64_t start = 0, text_at, text_size;
    uint8_t head[HEADER];
    struct extent *e;
    int r = block_read(n->file, 0, head, HEADER);

    if (r < 0)
        return error_set_errno(err, -r, "cannot read '%s'", n->filename);
    if (!memcmp(head, "KDMV", 4)) {
        text_at = load_le(head + AT_TEXT, 8);
        text_size = load_le(head + AT_TEXT_SIZE, 8);
        if (text_at && text_size) {
            if (text_at > TEXT_MAX || text_size > TEXT_MAX / BLOCK_SECTOR)
                return error_set(err, EINVAL, "'%s': its descriptor is at sector %llu", n->filename,
                                 (unsigned long long)text_at);
            r = read_text(n, text_at * BLOCK_SECTOR, text_size * BLOCK_SECTOR, err);
            if (r == 0)
                r = read_parent(n, err);
        }
        if (r < 0)
            return r;
        v->extent = xcalloc(1, sizeof(*v->extent));
        e = new_extent(v, SPARSE, 0, 0);
        e->file = n->file;
        r = open_sparse(n, e, n->filename, err);
        n->size = e->size;
        return r;
    }
    if (!probe(head, HEADER))
        return error_set(err, EINVAL, "'%s' is not a VMDK image", n->filename);
    r = read_text(n, 0, n->file->size, err);
    if (r == 0)
        r = read_parent(n, err);
    if (r == 0) {
        unsigned lines = 1;

        for (const char *p = v->text; (p = strchr(p, '\n')); p++)
            lines++;
        v->extent = calloc(MIN(lines, (unsigned)EXTENTS_MAX) + 1, sizeof(*v->extent));
        if (!v->extent)
            r = error_set(err, ENOMEM, "no memory for '%s'", n->filename);
    }
    for (const char *line = v->text; r >= 0 && line; line = strchr(line, '\n')) {
        line += *line == '\n';
        r = add_extent(n, line, &start, err);
    }
    if (r >= 0 && !v->count)
        r = error_set(err, EINVAL, "'%s' names no extents", n->filename);
    n->size = start;
    return r < 0 ? r : 0;
}

static int vmdk_open(struct block_node *n, struct error *err)
{
    int r = open_all(n, err);

    if (r < 0)
        release(n->state);
    return r;
}

static int vmdk_flush(struct block_node *n)
{
    struct vmdk *v = n->state;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < v->count; i++) {
        struct extent *e = &v->extent[i];

        if (e->kind == SPARSE)
            r = e->compressed ? flush_packed(e) : bat_flush(&e->bat);
        else if (e->kind == FLAT)
            r = block_flush(e->file);
    }
    return r;
}

static void vmdk_close(struct block_node *n)
{
    if (n->flags & BLOCK_WRITE && vmdk_flush(n) < 0)
        log_error("'%s': cannot write its tables", n->filename);
    release(n->state);
}

/* ---- contents ---------------------------------------------------------------------------------
 */

/* The extent of an offset, and how much of the request lies in it. */
static struct extent *extent_at(struct block_node *n, uint64_t offset, uint64_t length,
                                uint64_t *in, uint64_t *step)
{
    struct vmdk *v = n->state;
    unsigned low = 0, high = v->count;

    while (high - low > 1) {
        unsigned middle = (low + high) / 2;

        if (v->extent[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    *in = offset - v->extent[low].start;
    *step = MIN(length, v->extent[low].size - *in);
    return &v->extent[low];
}

static int vmdk_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    uint8_t *p = buffer;
    uint64_t in, step;
    int r = 0;

    for (; r == 0 && length; offset += step, p += step, length -= step) {
        struct extent *e = extent_at(n, offset, length, &in, &step);

        if (e->kind == ZEROES)
            memset(p, 0, step);
        else if (e->kind == FLAT)
            r = block_read(e->file, e->flat_at + in, p, step);
        else
            r = e->compressed ? read_packed(e, in, p, step) : bat_read(&e->bat, in, p, step);
    }
    return r;
}

static int vmdk_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    const uint8_t *p = buffer;
    uint64_t in, step;
    int r = 0;

    for (; r == 0 && length; offset += step, p += step, length -= step) {
        struct extent *e = extent_at(n, offset, length, &in, &step);

        if (e->kind == ZEROES)
            r = -EROFS;
        else if (e->kind == FLAT)
            r = block_write(e->file, e->flat_at + in, p, step);
        else
            r = e->compressed ? write_packed(e, in, p, step) : bat_write(&e->bat, in, p, step);
    }
    return r;
}

static int vmdk_write_compressed(struct block_node *n, uint64_t offset, const void *buffer,
                                 size_t length)
{
    struct vmdk *v = n->state;

    return v->extent[0].compressed ? vmdk_write(n, offset, buffer, length) : -ENOTSUP;
}

static int vmdk_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    uint64_t in, step;
    int r = 0;

    for (; r == 0 && length; offset += step, length -= step) {
        struct extent *e = extent_at(n, offset, length, &in, &step);

        if (e->kind == FLAT)
            r = block_write_zeroes(e->file, e->flat_at + in, step, unmap);
        else if (e->kind == SPARSE)
            r = e->compressed ? -ENOTSUP : bat_write_zeroes(&e->bat, in, step, unmap);
    }
    return r;
}

static int vmdk_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    uint64_t in, step;
    int r = 0;

    for (; r == 0 && length; offset += step, length -= step) {
        struct extent *e = extent_at(n, offset, length, &in, &step);

        if (e->kind == FLAT && n->flags & BLOCK_UNMAP)
            r = block_discard(e->file, e->flat_at + in, step);
        else if (e->kind == SPARSE && !e->compressed)
            r = bat_discard(&e->bat, in, step);
    }
    return r;
}

static int vmdk_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                    struct block_extent *out)
{
    uint64_t in, step;
    struct extent *e = extent_at(n, offset, length, &in, &step);
    int r = 0;

    if (e->kind == SPARSE) {
        r = bat_map(&e->bat, in, step, flags, out);
        if (r == 0 && e->compressed && (out->kind == BLOCK_DATA || flags & BLOCK_MAP_WRITE)) {
            *out = (struct block_extent){
                .kind = BLOCK_SLOW,
                .compressed = out->kind == BLOCK_DATA,
                .length = MIN(step, e->bat.block_size - (in & (e->bat.block_size - 1)))};
        }
        return r;
    }
    *out = (struct block_extent){.kind = e->kind == FLAT           ? BLOCK_DATA
                                         : flags & BLOCK_MAP_WRITE ? BLOCK_SLOW
                                                                   : BLOCK_ZERO,
                                 .length = step,
                                 .file = e->file,
                                 .offset = e->flat_at + in};
    return 0;
}

static int vmdk_check(struct block_node *n, struct block_check *c, struct error *err)
{
    struct vmdk *v = n->state;
    int r = 0;

    (void)err;
    *c = (struct block_check){.fix = c->fix, .tell = c->tell, .opaque = c->opaque};
    for (unsigned i = 0; r == 0 && i < v->count; i++)
        if (v->extent[i].kind == SPARSE && !v->extent[i].compressed)
            r = bat_check(&v->extent[i].bat, c, HEADER);
    return r;
}

static int vmdk_info(struct block_node *n, struct block_info *out)
{
    struct vmdk *v = n->state;

    for (unsigned i = 0; i < v->count; i++)
        if (v->extent[i].kind == SPARSE)
            out->cluster_size = v->extent[i].bat.block_size;
    block_info_add(out, "create type", "%s", v->create_type);
    block_info_add(out, "cid", "%u", v->cid);
    block_info_add(out, "extents", "%u", v->count);
    return 0;
}

static void vmdk_files(struct block_node *n, void (*each)(void *opaque, const char *path),
                       void *opaque)
{
    struct vmdk *v = n->state;

    for (unsigned i = 0; i < v->count; i++)
        if (v->extent[i].own)
            each(opaque, v->extent[i].file->filename);
}

/* ---- making -----------------------------------------------------------------------------------
 */

struct wish {
    const char *subformat, *adapter;
    bool flat, split, stream, zero_grain;
};

/* The text with the extents' lines in it. */
static char *make_text(const struct block_create *c, const struct wish *w, const char *lines)
{
    uint64_t sectors = align_up(c->size, BLOCK_SECTOR) / BLOCK_SECTOR;
    unsigned heads = strcmp(w->adapter, "ide") ? 255 : 16;
    auto_free char *parent = NULL;
    uint32_t parent_cid = UINT32_MAX;

    if (c->backing) {
        const char *slash = strrchr(c->filename, '/');
        auto_free char *path = c->backing[0] == '/' || !slash
                                   ? xstrdup(c->backing)
                                   : xasprintf("%.*s/%s", (int)(slash - c->filename), c->filename,
                                               c->backing);
        struct block_node *n = block_open(path, "vmdk", BLOCK_NO_BACKING, NULL);

        if (!n)
            return NULL;
        parent_cid = ((struct vmdk *)n->state)->cid;
        block_close(n);
        parent = xasprintf("parentFileNameHint=\"%s\"\n", c->backing);
    }
    return xasprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n"
                     "createType=\"%s\"\n%s\n# Extent description\n%s\n"
                     "# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\n"
                     "ddb.geometry.cylinders = \"%llu\"\nddb.geometry.heads = \"%u\"\n"
                     "ddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n",
                     (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16, parent_cid, w->subformat,
                     parent ? parent : "", lines,
                     (unsigned long long)MIN(sectors / (63 * heads), 65535), heads, w->adapter);
}

/* header | text | redundant directory and tables | directory and tables | grains */
static int write_sparse(struct block_node *file, uint64_t size, const char *text,
                        const struct wish *w)
{
    uint64_t capacity = align_up(size, BLOCK_SECTOR) / BLOCK_SECTOR;
    uint64_t tables = (capacity + GTES * GRAIN - 1) / (GTES * GRAIN), gt = GTES * 4 / BLOCK_SECTOR;
    uint64_t gd = (tables * 4 + BLOCK_SECTOR - 1) / BLOCK_SECTOR, text_sectors = 20;
    uint64_t rgd_at = 1 + text_sectors, gd_at = rgd_at + gd + gt * tables;
    uint64_t overhead = align_up(gd_at + gd + gt * tables, GRAIN);
    auto_free uint8_t *all = NULL;
    size_t bytes;
    int r;

    if (w->stream)
        overhead = GRAIN;
    bytes = (overhead + (w->stream ? 3 : 0)) * BLOCK_SECTOR;
    all = calloc(1, bytes);
    if (!all || strlen(text) >= text_sectors * BLOCK_SECTOR)
        return all ? -E2BIG : -ENOMEM;
    memcpy(all, "KDMV", 4);
    store_le(all + AT_VERSION, w->stream ? 3 : w->zero_grain ? 2 : 1, 4);
    store_le(all + AT_FLAGS,
             NEWLINE_TEST | (w->stream ? COMPRESSED | MARKERS : REDUNDANT) |
                 (w->zero_grain ? ZERO_GRAIN : 0),
             4);
    store_le(all + AT_CAPACITY, capacity, 8);
    store_le(all + AT_GRAIN, GRAIN, 8);
    store_le(all + AT_TEXT, *text ? 1 : 0, 8);
    store_le(all + AT_TEXT_SIZE, *text ? text_sectors : 0, 8);
    store_le(all + AT_GTES, GTES, 4);
    store_le(all + AT_RGD, w->stream ? 0 : rgd_at, 8);
    store_le(all + AT_GD, w->stream ? GD_AT_END : gd_at, 8);
    store_le(all + AT_OVERHEAD, overhead, 8);
    memcpy(all + AT_LINES, "\n \r\n", 4);
    store_le(all + AT_ALGORITHM, w->stream ? 1 : 0, 2);
    memcpy(all + BLOCK_SECTOR, text, strlen(text));
    if (w->stream) { /* an empty one: the directory lies in the room before the grains */
        uint8_t *marker = all + overhead * BLOCK_SECTOR, *footer = marker + BLOCK_SECTOR;

        if (rgd_at + gd > overhead)
            return -EFBIG;
        store_le(marker, 1, 8);
        store_le(marker + 12, MARK_FOOTER, 4);
        memcpy(footer, all, HEADER);
        store_le(footer + AT_GD, rgd_at, 8);
    } else {
        for (uint64_t t = 0; t < tables; t++) {
            store_le(all + rgd_at * BLOCK_SECTOR + 4 * t, rgd_at + gd + gt * t, 4);
            store_le(all + gd_at * BLOCK_SECTOR + 4 * t, gd_at + gd + gt * t, 4);
        }
    }
    r = block_write(file, BLOCK_SECTOR, all + BLOCK_SECTOR, bytes - BLOCK_SECTOR);
    if (r == 0)
        r = block_flush(file);
    return r < 0 ? r : block_write(file, 0, all, BLOCK_SECTOR);
}

static int write_extent_file(const char *path, uint64_t size, const struct wish *w,
                             struct error *err)
{
    struct block_node *f = block_file_create(path, err);
    int r;

    if (!f)
        return -EIO;
    r = w->flat ? block_resize(f, size, err) : write_sparse(f, size, "", w);
    if (r == 0)
        r = block_flush(f);
    block_close(f);
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", path) : 0;
}

static const char *name_of(const struct block_create *c)
{
    const char *path = c->final_name ? c->final_name : c->filename, *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Files beside the descriptor: disk-flat.vmdk; disk-f001.vmdk, ...; disk-s001.vmdk, ... */
static int create_several(struct block_node *file, const struct block_create *c,
                          const struct wish *w, struct error *err)
{
    const char *name = name_of(c), *dot = strrchr(name, '.');
    int stem = dot && !strcmp(dot, ".vmdk") ? (int)(dot - name) : (int)strlen(name);
    uint64_t size = align_up(c->size, BLOCK_SECTOR), each = w->split ? SPLIT_BYTES : size, at = 0;
    auto_free char *lines = xstrdup(""), *text = NULL;
    int r = 0;

    for (unsigned i = 1; r == 0 && at < size; i++, at += each) {
        uint64_t part = MIN(each, size - at);
        auto_free char *own = w->split ? xasprintf("%.*s-%c%03u.vmdk", stem, name,
                                                   w->flat ? 'f' : 's', i)
                                       : xasprintf("%.*s-flat.vmdk", stem, name);
        auto_free char *path = beside(c->filename, own);
        char *longer = xasprintf("%sRW %llu %s \"%s\"%s\n", lines,
                                 (unsigned long long)(part / BLOCK_SECTOR),
                                 w->flat ? "FLAT" : "SPARSE", own, w->flat ? " 0" : "");

        free(lines);
        lines = longer;
        r = write_extent_file(path, part, w, err);
    }
    text = r == 0 ? make_text(c, w, lines) : NULL;
    if (r == 0 && !text)
        r = error_set(err, EINVAL, "the parent '%s' is not a VMDK", c->backing);
    if (r == 0) {
        r = block_write(file, 0, text, strlen(text));
        if (r < 0)
            error_set_errno(err, -r, "cannot write '%s'", c->filename);
    }
    return r;
}

static int parse_wish(struct block_options *o, const struct block_create *c, struct wish *w,
                      struct error *err)
{
    static const char *const subformats[] = {"monolithicSparse", "monolithicFlat",
                                             "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
                                             "streamOptimized"};
    static const char *const adapters[] = {"ide", "buslogic", "lsilogic", "legacyESX"};
    const char *extra;
    bool known = false;
    int r;

    *w = (struct wish){.subformat = block_option(o, "subformat"),
                       .adapter = block_option(o, "adapter_type")};
    if (!w->subformat)
        w->subformat = subformats[0];
    if (!w->adapter)
        w->adapter = adapters[0];
    r = block_option_bool(o, "zeroed_grain", &w->zero_grain, err);
    if (r < 0)
        return r;
    extra = block_option_unused(o);
    if (extra)
        return error_set(err, EINVAL, "format vmdk has no option '%s'", extra);
    for (unsigned i = 0; i < ARRAY_SIZE(subformats); i++)
        known |= !strcmp(w->subformat, subformats[i]);
    if (!known)
        return error_set(err, EINVAL,
                         "option subformat: '%s' is none of monolithicSparse, monolithicFlat, "
                         "twoGbMaxExtentSparse, twoGbMaxExtentFlat, streamOptimized",
                         w->subformat);
    known = false;
    for (unsigned i = 0; i < ARRAY_SIZE(adapters); i++)
        known |= !strcmp(w->adapter, adapters[i]);
    if (!known)
        return error_set(err, EINVAL,
                         "option adapter_type: '%s' is none of ide, buslogic, lsilogic, legacyESX",
                         w->adapter);
    w->flat = strstr(w->subformat, "Flat");
    w->split = strstr(w->subformat, "twoGb");
    w->stream = strstr(w->subformat, "stream");
    if (c->backing && (w->flat || w->stream))
        return error_set(err, EINVAL, "a VMDK of type %s cannot have a parent", w->subformat);
    if (c->backing && (!c->backing_format || strcmp(c->backing_format, "vmdk")))
        return error_set(err, EINVAL, "a VMDK's parent must be a VMDK, too (backing format vmdk)");
    return 0;
}

static int vmdk_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    auto_free char *line = NULL, *text = NULL;
    struct wish w;
    int r = o ? parse_wish(o, c, &w, err) : -EINVAL;

    if (r == 0 && !w.flat && c->size > (uint64_t)UINT32_MAX * BLOCK_SECTOR && !w.split)
        r = error_set(err, EFBIG,
                      "a sparse VMDK in one file has less than 2 TiB; use "
                      "subformat=twoGbMaxExtentSparse");
    if (r == 0 && (w.flat || w.split)) {
        r = create_several(file, c, &w, err);
    } else if (r == 0) {
        line = xasprintf("RW %llu SPARSE \"%s\"\n",
                         (unsigned long long)(align_up(c->size, BLOCK_SECTOR) / BLOCK_SECTOR),
                         name_of(c));
        text = make_text(c, &w, line);
        if (!text) {
            r = error_set(err, EINVAL, "the parent '%s' is not a VMDK", c->backing);
        } else {
            r = write_sparse(file, c->size, text, &w);
            if (r < 0)
                error_set_errno(err, -r, "cannot write '%s'", c->filename);
        }
    }
    block_options_free(o);
    return r;
}

const struct block_driver block_vmdk = {
    .name = "vmdk",
    .summary = "VMware's: sparse, flat, split, stream-optimized",
    .instance_size = sizeof(struct vmdk),
    .create_options =
        (const struct block_create_option[]){
            {"subformat", "monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, "
                          "twoGbMaxExtentFlat or streamOptimized"},
            {"adapter_type", "ide, buslogic, lsilogic or legacyESX: for the descriptor"},
            {"zeroed_grain", "on: zeros over a parent need no space"},
            {0},
        },
    .probe = probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .create = vmdk_create,
    .read = vmdk_read,
    .write = vmdk_write,
    .flush = vmdk_flush,
    .discard = vmdk_discard,
    .write_zeroes = vmdk_write_zeroes,
    .write_compressed = vmdk_write_compressed,
    .map = vmdk_map,
    .check = vmdk_check,
    .info = vmdk_info,
    .files = vmdk_files,
};
