/*
 * scsi.h - SCSI disks and CD drives for any host adapter, and the bus they sit on.
 *
 * An adapter embeds a struct scsi_bus and hands commands to a unit by scsi_submit(), with the lock
 * held that guards its units (virtio-scsi: io_lock). A command ends before scsi_submit() returns,
 * or later by done(), which a thread of the disk calls without locks. Data goes straight between
 * the disk and the iovecs, which must stay valid until then.
 *
 * SPC-4 for what all units do, SBC-3 for disks (disk.c), MMC-6 for CD drives (cd.c).
 */
#ifndef DEVICES_SCSI_SCSI_H
#define DEVICES_SCSI_SCSI_H

#include "block/disk.h"
#include "machine/device.h"

struct scsi_unit;

enum { SCSI_CDB_MAX = 16, SCSI_SENSE_SIZE = 18, SCSI_TARGETS = 256, SCSI_LUNS = 16384 };
enum scsi_status { SCSI_GOOD = 0, SCSI_CHECK_CONDITION = 2, SCSI_BUSY = 8 };
enum scsi_key {
    SCSI_NO_SENSE = 0,
    SCSI_NOT_READY = 2,
    SCSI_MEDIUM_ERROR = 3,
    SCSI_ILLEGAL_REQUEST = 5,
    SCSI_UNIT_ATTENTION = 6,
    SCSI_DATA_PROTECT = 7,
};
/* Additional sense code and its qualifier. */
enum scsi_asc {
    SCSI_WRITE_ERROR = 0x0c00,
    SCSI_READ_ERROR = 0x1100,
    SCSI_PARAMETER_LENGTH = 0x1a00,
    SCSI_INVALID_OPCODE = 0x2000,
    SCSI_LBA_RANGE = 0x2100,
    SCSI_INVALID_FIELD = 0x2400,
    SCSI_NO_SUCH_LUN = 0x2500,
    SCSI_INVALID_PARAMETER = 0x2600,
    SCSI_WRITE_PROTECTED = 0x2700,
    SCSI_SPACE = 0x2707,
    SCSI_MEDIUM_CHANGED = 0x2800,
    SCSI_POWER_ON = 0x2900,
    SCSI_CAPACITY_CHANGED = 0x2a09,
    SCSI_NO_MEDIUM = 0x3a00,
    SCSI_REMOVAL_PREVENTED = 0x5302,
};

struct scsi_command {
    /* The adapter's. */
    uint8_t cdb[SCSI_CDB_MAX];
    const struct iovec *out, *in; /* to the unit, from the unit */
    unsigned out_count, in_count;
    size_t out_size, in_size;
    void (*done)(struct scsi_command *c);

    /* The result. */
    uint8_t status; /* enum scsi_status */
    uint8_t sense[SCSI_SENSE_SIZE];
    uint8_t sense_size; /* 0 with SCSI_GOOD */
    bool overrun;       /* the buffers are shorter than what the command moves: nothing was done */
    size_t moved;       /* bytes of `in` or `out` */

    /* The unit's. */
    struct scsi_unit *unit;
    struct scsi_transfer *transfer;
};

enum scsi_event { SCSI_UNIT_ADDED, SCSI_UNIT_REMOVED, SCSI_UNIT_RESIZED };

struct scsi_bus {
    const char *name; /* "ID.0" */
    unsigned targets, luns;
    struct scsi_unit *first;
    void *opaque;
    /* A unit came, goes, or has another size. Without locks. */
    void (*changed)(void *opaque, struct scsi_unit *u, enum scsi_event what);
    /* Around changes of the list of units. */
    void (*lock)(void *opaque, bool lock);
};

struct scsi_unit {
    struct device dev;
    const struct scsi_kind *kind;
    /* properties */
    struct disk *disk;
    char *bus_name, *serial, *vendor, *product, *revision;
    uint32_t target, lun, block_size, bootindex;
    uint64_t wwn;
    bool removable;

    struct scsi_bus *bus;
    struct scsi_unit *next;
    unsigned active; /* commands under way; the adapter's lock */

    /* Saved; the adapter's lock. */
    uint16_t attention; /* enum scsi_asc: what the next command is told; 0: nothing */
    uint8_t write_cache, prevented, loaded;
};

/* What disks and CD drives differ in. */
struct scsi_kind {
    uint8_t type; /* peripheral device type */
    const char *product;
    uint32_t block_size;
    /* False: the command is not known. */
    bool (*run)(struct scsi_unit *u, struct scsi_command *c, bool *pending);
    /* A mode page at `to` (64 bytes of room); its size, 0: there is none. */
    unsigned (*mode_page)(struct scsi_unit *u, uint8_t page, bool changeable, uint8_t *to);
};
extern const struct scsi_kind scsi_disk, scsi_cd;
extern const struct device_type scsi_hd_type, scsi_cd_type;

/* True: done() comes later. */
bool scsi_submit(struct scsi_unit *u, struct scsi_command *c);
/* For a unit that is not there, at a target that is: REPORT LUNS and INQUIRY of no device. */
void scsi_submit_absent(struct scsi_bus *bus, unsigned target, struct scsi_command *c);
struct scsi_unit *scsi_find(struct scsi_bus *bus, unsigned target, unsigned lun);
bool scsi_has_target(const struct scsi_bus *bus, unsigned target);
void scsi_unit_reset(struct scsi_unit *u);

/* ---- between the files here --------------------------------------------------------------------
 */

/* End a command: well, with data, or with sense. They return nothing of use to the caller. */
void scsi_good(struct scsi_command *c);
void scsi_answer(struct scsi_command *c, const void *data, size_t size, size_t allocated);
void scsi_fail(struct scsi_command *c, enum scsi_key key, enum scsi_asc asc);
/* Blocks between the disk and the buffers; checks the range. Returns whether done() comes later. */
bool scsi_transfer(struct scsi_unit *u, struct scsi_command *c, bool write, uint64_t block,
                   uint64_t count, bool durable);
/* An operation without data. */
bool scsi_operate(struct scsi_unit *u, struct scsi_command *c, enum disk_op op, uint64_t block,
                  uint64_t count, unsigned flags);
bool scsi_write_same(struct scsi_unit *u, struct scsi_command *c, uint64_t block, uint64_t count,
                     const uint8_t *pattern);
uint64_t scsi_blocks(const struct scsi_unit *u); /* 0: no medium */

static inline uint64_t scsi_be(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v = v << 8 | p[i];
    return v;
}

static inline void scsi_put_be(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * (size - 1 - i));
}

#endif
