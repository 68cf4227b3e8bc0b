/*
 * vdi.c - VirtualBox's disk images, version 1.1: dynamic and fixed.
 *
 * Header (512 bytes, little endian), map of 32-bit block numbers, blocks of usually 1 MiB from
 * offData on. 0xffffffff: not there; 0xfffffffe: zeros.
 */
#include "block/bat.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum {
    SIGNATURE = (int)0xbeda107f,
    VERSION = 0x00010001,
    DYNAMIC = 1,
    FIXED = 2,
    HEADER = 512,
    AT_TYPE = 76,
    AT_MAP = 340,
    AT_DATA = 344,
    AT_SECTOR = 360,
    AT_SIZE = 368,
    AT_BLOCK = 376,
    AT_EXTRA = 380,
    AT_COUNT = 384,
    AT_ALLOCATED = 388,
    AT_UUID = 392,
    AT_PARENT = 440,
};
enum { NOT_THERE = (int)0xffffffff, ZEROS = (int)0xfffffffe };
#define BLOCKS_MAX UINT64_C(0x1fffffff)

struct vdi {
    struct bat bat;
    uint8_t header[HEADER];
    uint32_t type, map_at, data_at;
};

static bool probe(const uint8_t *head, size_t size)
{
    return size >= 68 && load_le(head + 64, 4) == (uint32_t)SIGNATURE;
}

static uint32_t number_of(const struct vdi *v, uint64_t place)
{
    return place == BAT_NONE   ? (uint32_t)NOT_THERE
           : place == BAT_ZERO ? (uint32_t)ZEROS
                               : (uint32_t)((place - v->data_at) / v->bat.block_size);
}

static int store(struct bat *b, uint64_t first, uint64_t count, const uint64_t *entries)
{
    struct vdi *v = container_of(b, struct vdi, bat);
    auto_free uint8_t *bytes = malloc(count * 4);
    uint32_t allocated = 0;
    int r;

    if (!bytes)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++)
        store_le(bytes + 4 * i, number_of(v, entries[i]), 4);
    r = block_write(b->file, v->map_at + 4 * first, bytes, count * 4);
    allocated = (uint32_t)((b->end - v->data_at) / b->block_size);
    store_le(v->header + AT_ALLOCATED, allocated, 4);
    return r < 0 ? r : block_write(b->file, 0, v->header, HEADER);
}

static int check_header(struct vdi *v, struct block_node *n, uint64_t *size, uint64_t *block,
                        uint64_t *count, struct error *err)
{
    static const uint8_t no_uuid[16];
    const uint8_t *h = v->header;
    uint32_t sector = (uint32_t)load_le(h + AT_SECTOR, 4);

    if (load_le(h + 64, 4) != (uint32_t)SIGNATURE)
        return error_set(err, EINVAL, "'%s' is not a VDI image", n->filename);
    if (load_le(h + 68, 4) != VERSION)
        return error_set(err, ENOTSUP, "'%s' is VDI version %u.%u; 1.1 is supported", n->filename,
                         (unsigned)load_le(h + 70, 2), (unsigned)load_le(h + 68, 2));
    v->type = (uint32_t)load_le(h + AT_TYPE, 4);
    v->map_at = (uint32_t)load_le(h + AT_MAP, 4);
    v->data_at = (uint32_t)load_le(h + AT_DATA, 4);
    *size = load_le(h + AT_SIZE, 8);
    *block = load_le(h + AT_BLOCK, 4);
    *count = load_le(h + AT_COUNT, 4);
    if (v->type != DYNAMIC && v->type != FIXED)
        return error_set(err, ENOTSUP,
                         "'%s' is a VDI of type %u; dynamic (1) and fixed (2) are supported",
                         n->filename, v->type);
    if (memcmp(h + AT_PARENT, no_uuid, 16))
        return error_set(err, ENOTSUP, "'%s' is a differencing VDI; merge it with its parent",
                         n->filename);
    if (sector != BLOCK_SECTOR)
        return error_set(err, ENOTSUP, "'%s' says sectors of %u bytes", n->filename, sector);
    if (*block < 4096 || *block > 256 * MiB || !is_power_of_2(*block) || load_le(h + AT_EXTRA, 4))
        return error_set(err, ENOTSUP, "'%s' says blocks of %llu and %llu bytes", n->filename,
                         (unsigned long long)*block, (unsigned long long)load_le(h + AT_EXTRA, 4));
    if (*count > BLOCKS_MAX || *size > *count * *block)
        return error_set(err, EINVAL, "'%s' says a disk of %llu bytes in %llu blocks", n->filename,
                         (unsigned long long)*size, (unsigned long long)*count);
    if (v->map_at < HEADER || v->map_at % BLOCK_SECTOR || v->data_at % BLOCK_SECTOR ||
        (uint64_t)v->map_at + *count * 4 > v->data_at)
        return error_set(err, EINVAL, "'%s': its map at 0x%x and data at 0x%x overlap", n->filename,
                         v->map_at, v->data_at);
    if ((uint64_t)v->map_at + *count * 4 > n->file->size)
        return error_set(err, EINVAL, "'%s' is cut short: its map is behind its end", n->filename);
    return 0;
}

static int vdi_open(struct block_node *n, struct error *err)
{
    struct vdi *v = n->state;
    uint64_t size = 0, block = 0, count = 0, bad;
    auto_free uint8_t *map = NULL;
    int r = block_read(n->file, 0, v->header, HEADER);

    if (r < 0)
        return error_set_errno(err, -r, "cannot read '%s'", n->filename);
    r = check_header(v, n, &size, &block, &count, err);
    if (r < 0)
        return r;
    map = malloc(count * 4 + 1);
    if (!map || block_read(n->file, v->map_at, map, count * 4) < 0)
        return error_set(err, EIO, "cannot read the map of '%s'", n->filename);
    if (bat_init(&v->bat, n, n->file, 0, size, block) < 0)
        return error_set(err, ENOMEM, "'%s' has too many blocks", n->filename);
    v->bat.store = store;
    v->bat.unit = BLOCK_SECTOR / 4;
    v->bat.align = 1;
    v->bat.can_zero = true;
    v->bat.limit = v->data_at + (uint64_t)count * block;
    for (uint64_t i = 0; i < v->bat.count; i++) {
        uint32_t number = (uint32_t)load_le(map + 4 * i, 4);

        if (number < (uint32_t)ZEROS && number >= count) {
            bat_free(&v->bat);
            return error_set(err, EINVAL, "'%s': its map says block %u of %llu", n->filename,
                             number, (unsigned long long)count);
        }
        v->bat.place[i] = number == (uint32_t)NOT_THERE ? BAT_NONE
                          : number == (uint32_t)ZEROS   ? BAT_ZERO
                                                        : v->data_at + number * block;
    }
    bat_ready(&v->bat, v->data_at, &bad);
    n->size = size;
    return 0;
}

static void vdi_close(struct block_node *n)
{
    struct vdi *v = n->state;

    if (n->flags & BLOCK_WRITE && bat_flush(&v->bat) < 0)
        log_error("'%s': cannot write its map", n->filename);
    bat_free(&v->bat);
}

static int vdi_create(struct block_node *file, const struct block_create *c, struct error *err)
{
    struct block_options *o = block_options_parse(c->options, err);
    uint64_t blocks = (c->size + MiB - 1) / MiB, map_bytes = align_up(blocks * 4, BLOCK_SECTOR);
    uint64_t data_at = align_up(HEADER + map_bytes, MiB);
    bool fixed = false;
    auto_free uint8_t *head = NULL;
    const char *extra;
    int r = o ? block_option_bool(o, "static", &fixed, err) : -EINVAL;

    if (r == 0 && (extra = block_option_unused(o)))
        r = error_set(err, EINVAL, "format vdi has no option '%s'; it has static", extra);
    block_options_free(o);
    if (r < 0)
        return r;
    if (c->backing)
        return error_set(err, EINVAL, "a VDI image cannot have a backing file here; qcow2 can");
    if (blocks > BLOCKS_MAX)
        return error_set(err, EFBIG, "a VDI disk has at most %llu MiB",
                         (unsigned long long)BLOCKS_MAX);
    head = calloc(1, HEADER + map_bytes);
    if (!head)
        return error_set(err, ENOMEM, "no memory for the map of '%s'", c->filename);
    snprintf((char *)head, 64, "<<< Hospes VM Virtual Disk Image >>>\n");
    store_le(head + 64, (uint32_t)SIGNATURE, 4);
    store_le(head + 68, VERSION, 4);
    store_le(head + 72, 400, 4); /* of the header from here on */
    store_le(head + AT_TYPE, fixed ? FIXED : DYNAMIC, 4);
    store_le(head + AT_MAP, HEADER, 4);
    store_le(head + AT_DATA, data_at, 4);
    store_le(head + AT_SECTOR, BLOCK_SECTOR, 4);
    store_le(head + AT_SIZE, align_up(c->size, BLOCK_SECTOR), 8);
    store_le(head + AT_BLOCK, MiB, 4);
    store_le(head + AT_COUNT, blocks, 4);
    store_le(head + AT_ALLOCATED, fixed ? blocks : 0, 4);
    if (getrandom(head + AT_UUID, 32, 0) != 32)
        return error_set_errno(err, errno, "no random numbers for '%s'", c->filename);
    for (unsigned i = 0; i < 2; i++) { /* random UUIDs, version 4 */
        head[AT_UUID + 16 * i + 7] = (uint8_t)(0x40 | (head[AT_UUID + 16 * i + 7] & 0x0f));
        head[AT_UUID + 16 * i + 8] = (uint8_t)(0x80 | (head[AT_UUID + 16 * i + 8] & 0x3f));
    }
    for (uint64_t i = 0; i < blocks; i++)
        store_le(head + HEADER + 4 * i, fixed ? (uint32_t)i : (uint32_t)NOT_THERE, 4);
    r = block_write(file, HEADER, head + HEADER, map_bytes);
    if (r == 0 && fixed)
        r = block_resize(file, data_at + blocks * MiB, err);
    if (r == 0)
        r = block_flush(file);
    if (r == 0)
        r = block_write(file, 0, head, HEADER);
    return r < 0 ? error_set_errno(err, -r, "cannot write '%s'", c->filename) : 0;
}

static int vdi_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    return bat_read(&((struct vdi *)n->state)->bat, offset, buffer, length);
}

static int vdi_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    return bat_write(&((struct vdi *)n->state)->bat, offset, buffer, length);
}

static int vdi_flush(struct block_node *n)
{
    return bat_flush(&((struct vdi *)n->state)->bat);
}

static int vdi_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    return bat_discard(&((struct vdi *)n->state)->bat, offset, length);
}

static int vdi_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    return bat_write_zeroes(&((struct vdi *)n->state)->bat, offset, length, unmap);
}

static int vdi_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                   struct block_extent *out)
{
    return bat_map(&((struct vdi *)n->state)->bat, offset, length, flags, out);
}

static int vdi_check(struct block_node *n, struct block_check *c, struct error *err)
{
    struct vdi *v = n->state;

    (void)err;
    *c = (struct block_check){.fix = c->fix, .tell = c->tell, .opaque = c->opaque};
    return bat_check(&v->bat, c, v->data_at);
}

static int vdi_info(struct block_node *n, struct block_info *out)
{
    struct vdi *v = n->state;

    out->cluster_size = v->bat.block_size;
    block_info_add(out, "type", "%s", v->type == FIXED ? "static" : "dynamic");
    return 0;
}

const struct block_driver block_vdi = {
    .name = "vdi",
    .summary = "VirtualBox's, dynamic and fixed",
    .instance_size = sizeof(struct vdi),
    .create_options =
        (const struct block_create_option[]){
            {"static", "on: all blocks have their place from the beginning"},
            {0},
        },
    .probe = probe,
    .open = vdi_open,
    .close = vdi_close,
    .create = vdi_create,
    .read = vdi_read,
    .write = vdi_write,
    .flush = vdi_flush,
    .discard = vdi_discard,
    .write_zeroes = vdi_write_zeroes,
    .map = vdi_map,
    .check = vdi_check,
    .info = vdi_info,
};
