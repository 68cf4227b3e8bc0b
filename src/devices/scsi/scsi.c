/*
 * scsi.c - what every unit does: sense, INQUIRY, mode pages, data. See scsi.h.
 *
 * A unit attention is told to the first command that may be told; INQUIRY, REPORT LUNS and REQUEST
 * SENSE are not, as SPC-4 says.
 */
#include "devices/scsi/scsi.h"

#include "devices/usb/storage.h"
#include "devices/virtio/virtio_scsi.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIXED_SENSE = 0x70, TRANSFER_IOV = 1024, PATTERN = 64 * KiB };
enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    MODE_SELECT_6 = 0x15,
    RESERVE_6 = 0x16,
    RELEASE_6 = 0x17,
    MODE_SENSE_6 = 0x1a,
    MODE_SELECT_10 = 0x55,
    MODE_SENSE_10 = 0x5a,
    REPORT_LUNS = 0xa0,
};

/* ---- ending ------------------------------------------------------------------------------------
 */

void scsi_good(struct scsi_command *c)
{
    c->status = SCSI_GOOD;
}

static void fill_sense(uint8_t *to, enum scsi_key key, unsigned asc)
{
    memset(to, 0, SCSI_SENSE_SIZE);
    to[0] = FIXED_SENSE;
    to[2] = (uint8_t)key;
    to[7] = SCSI_SENSE_SIZE - 8;
    to[12] = (uint8_t)(asc >> 8);
    to[13] = (uint8_t)asc;
}

void scsi_fail(struct scsi_command *c, enum scsi_key key, enum scsi_asc asc)
{
    c->status = SCSI_CHECK_CONDITION;
    c->moved = 0;
    c->sense_size = SCSI_SENSE_SIZE;
    fill_sense(c->sense, key, asc);
}

static size_t write_in(struct scsi_command *c, const void *data, size_t size)
{
    const uint8_t *from = data;
    size_t done = 0;

    for (unsigned i = 0; i < c->in_count && done < size; i++) {
        size_t n = MIN(size - done, c->in[i].iov_len);

        memcpy(c->in[i].iov_base, from + done, n);
        done += n;
    }
    return done;
}

static size_t read_out(const struct scsi_command *c, void *to, size_t size)
{
    size_t done = 0;

    for (unsigned i = 0; i < c->out_count && done < size; i++) {
        size_t n = MIN(size - done, c->out[i].iov_len);

        memcpy((uint8_t *)to + done, c->out[i].iov_base, n);
        done += n;
    }
    return done;
}

void scsi_answer(struct scsi_command *c, const void *data, size_t size, size_t allocated)
{
    c->status = SCSI_GOOD;
    c->moved = write_in(c, data, MIN(size, allocated));
}

/* ---- the disk ----------------------------------------------------------------------------------
 */

struct scsi_transfer {
    struct disk_request disk;
    struct scsi_command *command;
    uint8_t *pattern;
    struct iovec iov[];
};

uint64_t scsi_blocks(const struct scsi_unit *u)
{
    return u->disk && u->loaded ? disk_size(u->disk) / u->block_size : 0;
}

static void transfer_done(struct disk_request *d, int result)
{
    struct scsi_transfer *t = container_of(d, struct scsi_transfer, disk);
    struct scsi_command *c = t->command;

    if (result == -ENOSPC)
        scsi_fail(c, SCSI_DATA_PROTECT, SCSI_SPACE);
    else if (result)
        scsi_fail(c, SCSI_MEDIUM_ERROR, d->op == DISK_READ ? SCSI_READ_ERROR : SCSI_WRITE_ERROR);
    else
        c->status = SCSI_GOOD;
    free(t->pattern);
    free(t);
    c->done(c);
}

static struct scsi_transfer *transfer_new(struct scsi_command *c, enum disk_op op, unsigned pieces)
{
    struct scsi_transfer *t = calloc(1, sizeof(*t) + pieces * sizeof(t->iov[0]));

    if (!t) {
        c->status = SCSI_BUSY;
        return NULL;
    }
    t->command = c;
    t->disk.op = op;
    t->disk.done = transfer_done;
    t->disk.iov = t->iov;
    return t;
}

static bool check_range(struct scsi_unit *u, struct scsi_command *c, bool write, uint64_t block,
                        uint64_t count)
{
    if (!scsi_blocks(u))
        scsi_fail(c, SCSI_NOT_READY, SCSI_NO_MEDIUM);
    else if (!range_within(block, count, scsi_blocks(u)))
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_LBA_RANGE);
    else if (write && disk_read_only(u->disk))
        scsi_fail(c, SCSI_DATA_PROTECT, SCSI_WRITE_PROTECTED);
    else
        return true;
    return false;
}

/* The first `size` bytes of the buffers. */
static unsigned cut(const struct iovec *iov, unsigned count, size_t size, struct iovec *to)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && size; i++) {
        size_t length = MIN(size, iov[i].iov_len);

        if (!length)
            continue;
        to[n++] = (struct iovec){iov[i].iov_base, length};
        size -= length;
    }
    return n;
}

bool scsi_transfer(struct scsi_unit *u, struct scsi_command *c, bool write, uint64_t block,
                   uint64_t count, bool durable)
{
    const struct iovec *iov = write ? c->out : c->in;
    unsigned pieces = write ? c->out_count : c->in_count;
    uint64_t size = count * u->block_size;
    struct scsi_transfer *t;

    if (!check_range(u, c, write, block, count))
        return false;
    if (size > (write ? c->out_size : c->in_size)) {
        c->overrun = true;
        return false;
    }
    if (size > GiB || pieces > TRANSFER_IOV) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return false;
    }
    if (!count) {
        scsi_good(c);
        return false;
    }
    t = transfer_new(c, write ? DISK_WRITE : DISK_READ, pieces);
    if (!t)
        return false;
    t->disk.offset = block * u->block_size;
    t->disk.length = c->moved = size;
    t->disk.iov_count = cut(iov, pieces, size, t->iov);
    t->disk.flags = write && (durable || !u->write_cache) ? DISK_FUA : 0;
    disk_submit(u->disk, &t->disk);
    return true;
}

bool scsi_operate(struct scsi_unit *u, struct scsi_command *c, enum disk_op op, uint64_t block,
                  uint64_t count, unsigned flags)
{
    struct scsi_transfer *t;

    if (!check_range(u, c, op != DISK_FLUSH, block, count))
        return false;
    t = transfer_new(c, op, 0);
    if (!t)
        return false;
    t->disk.offset = op == DISK_FLUSH ? 0 : block * u->block_size;
    t->disk.length = op == DISK_FLUSH ? 0 : count * u->block_size;
    t->disk.flags = flags | (op == DISK_WRITE_ZEROES && !u->write_cache ? (unsigned)DISK_FUA : 0u);
    disk_submit(u->disk, &t->disk);
    return true;
}

/* One buffer with the pattern many times, and an iovec that names it many times. */
bool scsi_write_same(struct scsi_unit *u, struct scsi_command *c, uint64_t block, uint64_t count,
                     const uint8_t *pattern)
{
    uint64_t size = count * u->block_size, left = size;
    unsigned pieces = (unsigned)((size + PATTERN - 1) / PATTERN);
    struct scsi_transfer *t;

    if (!check_range(u, c, true, block, count))
        return false;
    t = transfer_new(c, DISK_WRITE, pieces);
    if (!t)
        return false;
    t->pattern = malloc(PATTERN);
    if (!t->pattern) {
        free(t);
        c->status = SCSI_BUSY;
        return false;
    }
    for (unsigned at = 0; at < PATTERN; at += u->block_size)
        memcpy(t->pattern + at, pattern, u->block_size);
    for (unsigned i = 0; i < pieces; i++) {
        t->iov[i] = (struct iovec){t->pattern, MIN(left, (uint64_t)PATTERN)};
        left -= t->iov[i].iov_len;
    }
    t->disk.offset = block * u->block_size;
    t->disk.length = size;
    t->disk.iov_count = pieces;
    t->disk.flags = u->write_cache ? 0 : DISK_FUA;
    c->moved = MIN(c->out_size, u->block_size);
    disk_submit(u->disk, &t->disk);
    return true;
}

/* ---- who are you? ------------------------------------------------------------------------------
 */

static void put_text(uint8_t *to, const char *text, size_t size)
{
    memset(to, ' ', size);
    memcpy(to, text, MIN(strlen(text), size));
}

static const char *serial_of(const struct scsi_unit *u)
{
    return u->serial ? u->serial : u->dev.id;
}

static void standard_inquiry(struct scsi_unit *u, struct scsi_command *c, size_t allocated)
{
    uint8_t d[96] = {u->kind->type, u->removable ? 0x80 : 0, 5 /* SPC-3 */, 0x12, sizeof(d) - 5};

    d[7] = 0x02; /* command queueing */
    put_text(d + 8, u->vendor ? u->vendor : "HOSPES", 8);
    put_text(d + 16, u->product ? u->product : u->kind->product, 16);
    put_text(d + 32, u->revision ? u->revision : "1.0", 4);
    scsi_put_be(d + 58, 0x00a0, 2); /* SAM-5 */
    scsi_put_be(d + 60, 0x0460, 2); /* SPC-4 */
    scsi_put_be(d + 62, u->kind == &scsi_disk ? 0x04c0 : 0x0460, 2);
    scsi_answer(c, d, sizeof(d), allocated);
}

static unsigned page_identification(struct scsi_unit *u, uint8_t *p)
{
    const char *id = serial_of(u);
    unsigned size = (unsigned)MIN(strlen(id), 36), at = 4;

    p[at] = 2; /* ASCII, by the vendor */
    p[at + 3] = (uint8_t)(8 + size);
    put_text(p + at + 4, u->vendor ? u->vendor : "HOSPES", 8);
    memcpy(p + at + 12, id, size);
    at += 12 + size;
    if (u->wwn) {
        p[at] = 1; /* binary, NAA */
        p[at + 1] = 3;
        p[at + 3] = 8;
        scsi_put_be(p + at + 4, u->wwn, 8);
        at += 12;
    }
    return at;
}

/* Limits (0xb0), characteristics (0xb1) and provisioning (0xb2) of a disk, SBC-3. */
static unsigned page_disk(struct scsi_unit *u, uint8_t page, uint8_t *p)
{
    uint32_t grain = MAX(disk_discard_granularity(u->disk) / u->block_size, 1u);

    switch (page) {
    case 0xb0:
        scsi_put_be(p + 6, MAX(disk_physical_block(u->disk) / u->block_size, 1u), 2);
        scsi_put_be(p + 8, GiB / u->block_size / 2, 4); /* longest transfer */
        scsi_put_be(p + 20, UINT32_MAX, 4);             /* longest unmap */
        scsi_put_be(p + 24, 1, 4);                      /* descriptors of it */
        scsi_put_be(p + 28, grain, 4);
        scsi_put_be(p + 36, 32 * MiB / u->block_size, 8); /* longest write same */
        return 64;
    case 0xb1:
        p[5] = 1; /* does not rotate */
        return 64;
    default:
        p[5] = 0xe0; /* unmap, write same 10 and 16 with unmap */
        p[6] = 2;    /* thin */
        return 8;
    }
}

static void page_inquiry(struct scsi_unit *u, struct scsi_command *c, size_t allocated)
{
    static const uint8_t disk_pages[] = {0, 0x80, 0x83, 0xb0, 0xb1, 0xb2},
                         cd_pages[] = {0, 0x80, 0x83};
    bool disk = u->kind == &scsi_disk;
    uint8_t p[256] = {u->kind->type, c->cdb[2]};
    unsigned size = 4;

    switch (c->cdb[2]) {
    case 0x00:
        memcpy(p + 4, disk ? disk_pages : cd_pages, disk ? sizeof(disk_pages) : sizeof(cd_pages));
        size += disk ? sizeof(disk_pages) : sizeof(cd_pages);
        break;
    case 0x80:
        size += (unsigned)MIN(strlen(serial_of(u)), 36);
        memcpy(p + 4, serial_of(u), size - 4);
        break;
    case 0x83: size = page_identification(u, p); break;
    case 0xb0:
    case 0xb1:
    case 0xb2:
        if (disk) {
            size = page_disk(u, c->cdb[2], p);
            break;
        }
        /* fall through */
    default: scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD); return;
    }
    scsi_put_be(p + 2, size - 4, 2);
    scsi_answer(c, p, size, allocated);
}

static void inquiry(struct scsi_unit *u, struct scsi_command *c)
{
    size_t allocated = scsi_be(c->cdb + 3, 2);

    if (c->cdb[1] & 1)
        page_inquiry(u, c, allocated);
    else if (c->cdb[2])
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
    else
        standard_inquiry(u, c, allocated);
}

static void report_luns(struct scsi_bus *bus, unsigned target, struct scsi_command *c)
{
    uint8_t list[8 + 8 * 256] = {0};
    size_t size = 8;

    for (const struct scsi_unit *u = bus->first; u && size + 8 <= sizeof(list); u = u->next)
        if (u->target == target) {
            scsi_put_be(list + size, u->lun < 256 ? u->lun : 0x4000u | u->lun, 2);
            size += 8;
        }
    scsi_put_be(list, size - 8, 4);
    scsi_answer(c, list, size, scsi_be(c->cdb + 6, 4));
}

/* ---- mode pages --------------------------------------------------------------------------------
 */

static unsigned add_page(struct scsi_unit *u, uint8_t page, bool changeable, uint8_t *to,
                         unsigned room)
{
    uint8_t p[64] = {0};
    unsigned size = u->kind->mode_page(u, page, changeable, p);

    if (size > room)
        return 0;
    memcpy(to, p, size);
    return size;
}

static void mode_sense(struct scsi_unit *u, struct scsi_command *c)
{
    bool ten = c->cdb[0] == MODE_SENSE_10, blocks = !(c->cdb[1] & 8) && u->kind == &scsi_disk;
    uint8_t page = c->cdb[2] & 0x3f, control = c->cdb[2] >> 6, d[300] = {0};
    unsigned head = ten ? 8 : 4, size = head, before;

    if (control == 3) { /* saved values: there are none */
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return;
    }
    if (u->kind == &scsi_disk)
        d[ten ? 3 : 2] = (uint8_t)((disk_read_only(u->disk) ? 0x80 : 0) | 0x10); /* FUA is known */
    if (blocks) {
        d[ten ? 7 : 3] = 8;
        scsi_put_be(d + size, MIN(scsi_blocks(u), UINT32_MAX), 4);
        scsi_put_be(d + size + 5, u->block_size, 3);
        size += 8;
    }
    before = size;
    for (unsigned p = page == 0x3f ? 0 : page; p <= (page == 0x3f ? 0x3e : page); p++)
        size += add_page(u, (uint8_t)p, control == 1, d + size, sizeof(d) - size);
    if (size == before && page != 0x3f) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return;
    }
    scsi_put_be(d, size - (ten ? 2 : 1), ten ? 2 : 1);
    scsi_answer(c, d, size, ten ? scsi_be(c->cdb + 7, 2) : c->cdb[4]);
}

/* The one thing that can be changed is the write cache. */
static bool select_page(struct scsi_unit *u, const uint8_t *p, unsigned size)
{
    uint8_t now[64] = {0}, mask[64] = {0};
    unsigned expected = u->kind->mode_page(u, p[0] & 0x3f, false, now);

    if (!expected || size < 2 || size != expected || p[1] != expected - 2)
        return false;
    u->kind->mode_page(u, p[0] & 0x3f, true, mask);
    for (unsigned i = 2; i < expected; i++)
        if ((p[i] ^ now[i]) & ~mask[i])
            return false;
    if ((p[0] & 0x3f) == 8)
        u->write_cache = (p[2] & 4) != 0;
    return true;
}

static bool mode_select(struct scsi_unit *u, struct scsi_command *c)
{
    bool ten = c->cdb[0] == MODE_SELECT_10;
    unsigned head = ten ? 8 : 4, length = ten ? (unsigned)scsi_be(c->cdb + 7, 2) : c->cdb[4], at;
    uint8_t d[300];
    bool was = u->write_cache;

    if (!(c->cdb[1] & 0x10) || c->cdb[1] & 1) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return false;
    }
    if (length > sizeof(d) || length < head || read_out(c, d, length) != length) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_PARAMETER_LENGTH);
        return false;
    }
    at = head + (ten ? (unsigned)scsi_be(d + 6, 2) : d[3]);
    while (at + 2 <= length) {
        unsigned size = 2u + d[at + 1];

        if (at + size > length || !select_page(u, d + at, size)) {
            scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_PARAMETER);
            return false;
        }
        at += size;
    }
    c->moved = length;
    if (was && !u->write_cache) /* what is cached must not stay so */
        return scsi_operate(u, c, DISK_FLUSH, 0, 0, 0);
    scsi_good(c);
    return false;
}

static void request_sense(struct scsi_unit *u, struct scsi_command *c)
{
    uint8_t sense[SCSI_SENSE_SIZE];

    fill_sense(sense, u->attention ? SCSI_UNIT_ATTENTION : SCSI_NO_SENSE, u->attention);
    u->attention = 0;
    scsi_answer(c, sense, sizeof(sense), c->cdb[4]);
}

/* ---- commands ----------------------------------------------------------------------------------
 */

bool scsi_submit(struct scsi_unit *u, struct scsi_command *c)
{
    bool pending = false;

    c->unit = u;
    c->status = SCSI_GOOD;
    c->sense_size = 0;
    c->overrun = false;
    c->moved = 0;
    switch (c->cdb[0]) {
    case INQUIRY: inquiry(u, c); return false;
    case REPORT_LUNS: report_luns(u->bus, u->target, c); return false;
    case REQUEST_SENSE: request_sense(u, c); return false;
    default: break;
    }
    if (u->attention) {
        scsi_fail(c, SCSI_UNIT_ATTENTION, u->attention);
        u->attention = 0;
        return false;
    }
    switch (c->cdb[0]) {
    case TEST_UNIT_READY:
        if (scsi_blocks(u))
            scsi_good(c);
        else
            scsi_fail(c, SCSI_NOT_READY, SCSI_NO_MEDIUM);
        return false;
    case MODE_SENSE_6:
    case MODE_SENSE_10: mode_sense(u, c); return false;
    case MODE_SELECT_6:
    case MODE_SELECT_10: return mode_select(u, c);
    case RESERVE_6: /* there is one initiator */
    case RELEASE_6: scsi_good(c); return false;
    default: break;
    }
    if (!u->kind->run(u, c, &pending)) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_OPCODE);
        return false;
    }
    return pending;
}

void scsi_submit_absent(struct scsi_bus *bus, unsigned target, struct scsi_command *c)
{
    uint8_t nothing[36] = {0x7f, 0, 5, 2, 31};

    c->sense_size = 0;
    c->overrun = false;
    c->moved = 0;
    if (c->cdb[0] == REPORT_LUNS)
        report_luns(bus, target, c);
    else if (c->cdb[0] == INQUIRY && !(c->cdb[1] & 1))
        scsi_answer(c, nothing, sizeof(nothing), scsi_be(c->cdb + 3, 2));
    else
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_NO_SUCH_LUN);
}

struct scsi_unit *scsi_find(struct scsi_bus *bus, unsigned target, unsigned lun)
{
    struct scsi_unit *u = bus->first;

    while (u && (u->target != target || u->lun != lun))
        u = u->next;
    return u;
}

bool scsi_has_target(const struct scsi_bus *bus, unsigned target)
{
    const struct scsi_unit *u = bus->first;

    while (u && u->target != target)
        u = u->next;
    return u != NULL;
}

/* ---- life --------------------------------------------------------------------------------------
 */

void scsi_unit_reset(struct scsi_unit *u)
{
    u->attention = SCSI_POWER_ON;
    u->write_cache = u->disk && disk_write_cache(u->disk);
    u->prevented = 0;
    u->loaded = u->disk != NULL;
}

static struct scsi_unit *to_unit(struct device *dev)
{
    return container_of(dev, struct scsi_unit, dev);
}

static void unit_reset(struct device *dev)
{
    scsi_unit_reset(to_unit(dev));
}

static void unit_refresh(struct device *dev)
{
    struct scsi_unit *u = to_unit(dev);

    u->loaded = u->loaded && u->disk;
    u->prevented = u->prevented != 0;
    u->write_cache = u->write_cache != 0;
}

static void unit_resized(void *opaque, uint64_t size)
{
    struct scsi_unit *u = opaque;

    u->bus->lock(u->bus->opaque, true);
    u->attention = SCSI_CAPACITY_CHANGED;
    u->bus->lock(u->bus->opaque, false);
    u->bus->changed(u->bus->opaque, u, SCSI_UNIT_RESIZED);
}

static struct scsi_bus *find_bus(struct machine *m, const char *name)
{
    struct scsi_bus *found = NULL;

    for (struct device *d = m->devices; d; d = d->next) {
        struct scsi_bus *bus = d->realized ? virtio_scsi_bus(d) : NULL;

        if (name && !bus) /* makes its disk itself, while it is realized */
            bus = usb_storage_bus(d);
        if (bus && (!name || !strcmp(name, bus->name) || !strcmp(name, d->id)))
            found = bus;
    }
    return found;
}

static int find_place(struct scsi_unit *u, struct error *err)
{
    const char *name = u->dev.type->name;
    struct scsi_bus *b = find_bus(u->dev.machine, u->bus_name);

    if (!b)
        return error_set(err, ENODEV,
                         "%s: there is no SCSI adapter%s%s for it; add one before it, as in "
                         "--device virtio-scsi-pci",
                         name, u->bus_name ? " " : "", u->bus_name ? u->bus_name : "");
    if (u->lun >= b->luns)
        return error_set(err, EINVAL, "%s: lun=%u is not from 0 to %u", name, u->lun, b->luns - 1);
    if (u->target == UINT32_MAX)
        for (u->target = 0; scsi_find(b, u->target, u->lun); u->target++)
            ;
    if (u->target >= b->targets)
        return error_set(err, EINVAL, "%s: scsi-id=%u is not from 0 to %u", name, u->target,
                         b->targets - 1);
    if (scsi_find(b, u->target, u->lun))
        return error_set(err, EBUSY, "%s: scsi-id=%u,lun=%u is the place of another unit", name,
                         u->target, u->lun);
    u->bus = b;
    return 0;
}

static int unit_realize(struct device *dev, struct error *err)
{
    struct scsi_unit *u = to_unit(dev);
    int r;

    u->kind = dev->type == &scsi_cd_type ? &scsi_cd : &scsi_disk;
    if (u->kind == &scsi_cd) {
        u->removable = true;
        u->block_size = u->kind->block_size;
    } else if (!u->disk) {
        return error_set(err, EINVAL, "%s: which disk? Say drive=ID", dev->type->name);
    }
    if (!is_power_of_2(u->block_size) || u->block_size < 512 || u->block_size > 4096)
        return error_set(err, EINVAL, "%s: logical_block_size=%u is none of 512, 1024, 2048, 4096",
                         dev->type->name, u->block_size);
    r = find_place(u, err);
    if (r < 0)
        return r;
    scsi_unit_reset(u);
    u->bus->lock(u->bus->opaque, true);
    u->next = u->bus->first;
    u->bus->first = u;
    u->bus->lock(u->bus->opaque, false);
    u->bus->changed(u->bus->opaque, u, SCSI_UNIT_ADDED);
    if (u->disk)
        disk_on_resize(u->disk, unit_resized, u);
    return 0;
}

static void unit_unrealize(struct device *dev)
{
    struct scsi_unit *u = to_unit(dev), **p = &u->bus->first;

    if (u->disk)
        disk_on_resize(u->disk, NULL, NULL);
    u->bus->lock(u->bus->opaque, true);
    while (*p != u)
        p = &(*p)->next;
    *p = u->next;
    u->bus->lock(u->bus->opaque, false);
    if (u->disk)
        disk_drain(u->disk); /* commands under way name the unit */
    u->bus->changed(u->bus->opaque, u, SCSI_UNIT_REMOVED);
}

#define UNIT_PROPERTIES                                                                            \
    PROPERTY_REF("drive", struct scsi_unit, disk, "the disk, as --drive names it"),                \
        PROPERTY_STRING("bus", struct scsi_unit, bus_name, NULL,                                   \
                        "the adapter (default: the last)"),                                        \
        PROPERTY_U32("scsi-id", struct scsi_unit, target, UINT32_MAX,                              \
                     "target (default: the next)"),                                                \
        PROPERTY_U32("lun", struct scsi_unit, lun, 0, "logical unit"),                             \
        PROPERTY_STRING("serial", struct scsi_unit, serial, NULL, "serial number"),                \
        PROPERTY_STRING("vendor", struct scsi_unit, vendor, NULL, "8 characters"),                 \
        PROPERTY_STRING("product", struct scsi_unit, product, NULL, "16 characters"),              \
        PROPERTY_STRING("ver", struct scsi_unit, revision, NULL, "4 characters"),                  \
        PROPERTY_U64("wwn", struct scsi_unit, wwn, 0, "world wide name"),                          \
        PROPERTY_U32("bootindex", struct scsi_unit, bootindex, UINT32_MAX,                         \
                     "place in the boot order")

static const struct property disk_properties[] = {
    UNIT_PROPERTIES,
    PROPERTY_BOOL("removable", struct scsi_unit, removable, false, "say that it is removable"),
    PROPERTY_U32("logical_block_size", struct scsi_unit, block_size, 512, "512 to 4096"),
    PROPERTY_END,
};
static const struct property cd_properties[] = {
    UNIT_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field unit_state[] = {
    STATE_U16(struct scsi_unit, attention),
    STATE_U8(struct scsi_unit, write_cache),
    STATE_U8(struct scsi_unit, prevented),
    STATE_U8(struct scsi_unit, loaded),
    STATE_END,
};

const struct device_type scsi_hd_type = {
    .name = "scsi-hd",
    .summary = "a disk on a SCSI adapter",
    .bus = "scsi",
    .instance_size = sizeof(struct scsi_unit),
    .properties = disk_properties,
    .state = unit_state,
    .realize = unit_realize,
    .reset = unit_reset,
    .refresh = unit_refresh,
    .unrealize = unit_unrealize,
};

const struct device_type scsi_cd_type = {
    .name = "scsi-cd",
    .summary = "a CD drive on a SCSI adapter; without drive= it is empty",
    .bus = "scsi",
    .instance_size = sizeof(struct scsi_unit),
    .properties = cd_properties,
    .state = unit_state,
    .realize = unit_realize,
    .reset = unit_reset,
    .refresh = unit_refresh,
    .unrealize = unit_unrealize,
};
