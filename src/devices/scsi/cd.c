/*
 * cd.c - the commands of a CD drive with one data track, MMC-6. See scsi.h.
 */
#include "devices/scsi/scsi.h"

#include <string.h>

enum {
    READ_6 = 0x08,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SYNCHRONIZE_CACHE = 0x35,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    READ_12 = 0xa8,
    MECHANISM_STATUS = 0xbd,
};
enum {
    LEAD_OUT = 0xaa,
    DATA_TRACK = 0x14,
    PROFILE_CD_ROM = 8,
    PAGE_RECOVERY = 1,
    PAGE_CAPS = 0x2a
};

static bool has_medium(struct scsi_unit *u, struct scsi_command *c)
{
    if (scsi_blocks(u))
        return true;
    scsi_fail(c, SCSI_NOT_READY, SCSI_NO_MEDIUM);
    return false;
}

/* An address as minutes, seconds and frames behind the lead-in, or as a block. */
static void put_address(uint8_t *p, uint64_t block, bool msf)
{
    uint64_t frames = block + 150;

    if (!msf) {
        scsi_put_be(p, MIN(block, UINT32_MAX), 4);
        return;
    }
    p[0] = 0;
    p[1] = (uint8_t)(frames / 75 / 60);
    p[2] = (uint8_t)(frames / 75 % 60);
    p[3] = (uint8_t)(frames % 75);
}

static void read_toc(struct scsi_unit *u, struct scsi_command *c)
{
    bool msf = c->cdb[1] & 2;
    uint8_t format = c->cdb[2] & 15, d[20] = {0, 0, 1, 1};
    unsigned size = 4, start = c->cdb[6];

    if (!has_medium(u, c))
        return;
    if (!format)
        format = c->cdb[9] >> 6;
    if (format > 1 || (format == 0 && start > 1 && start != LEAD_OUT)) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return;
    }
    if (format == 1 || start <= 1) { /* the session's, or the track */
        d[size + 1] = DATA_TRACK;
        d[size + 2] = 1;
        put_address(d + size + 4, 0, msf);
        size += 8;
    }
    if (format == 0) {
        d[size + 1] = DATA_TRACK;
        d[size + 2] = LEAD_OUT;
        put_address(d + size + 4, scsi_blocks(u), msf);
        size += 8;
    }
    scsi_put_be(d, size - 2, 2);
    scsi_answer(c, d, size, scsi_be(c->cdb + 7, 2));
}

static void get_configuration(struct scsi_unit *u, struct scsi_command *c)
{
    uint8_t d[8 + 8 + 12 + 8] = {0};
    unsigned size = 8;

    scsi_put_be(d + 6, scsi_blocks(u) ? PROFILE_CD_ROM : 0, 2);
    d[size + 2] = 3; /* feature 0, the profiles: persistent, current */
    d[size + 3] = 4;
    scsi_put_be(d + size + 4, PROFILE_CD_ROM, 2);
    d[size + 6] = scsi_blocks(u) ? 1 : 0;
    size += 8;
    d[size + 1] = 1; /* core */
    d[size + 2] = 0x0b;
    d[size + 3] = 8;
    scsi_put_be(d + size + 4, 1, 4); /* SCSI */
    d[size + 8] = 1;
    size += 12;
    d[size + 1] = 3; /* removable medium: tray, eject, lock */
    d[size + 2] = 3;
    d[size + 3] = 4;
    d[size + 4] = 0x29;
    size += 8;
    scsi_put_be(d, size - 4, 4);
    scsi_answer(c, d, size, scsi_be(c->cdb + 7, 2));
}

static void get_event_status(struct scsi_unit *u, struct scsi_command *c)
{
    uint8_t d[8] = {0, 6, 4, 0x10};

    if (!(c->cdb[1] & 1)) { /* events that come by themselves are not had */
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_INVALID_FIELD);
        return;
    }
    if (!(c->cdb[4] & 0x10)) {
        d[1] = 2;
        d[2] = 0x80;
        scsi_answer(c, d, 4, scsi_be(c->cdb + 7, 2));
        return;
    }
    d[5] = (uint8_t)((scsi_blocks(u) ? 2 : 0) | (u->loaded || !u->disk ? 0 : 1));
    scsi_answer(c, d, sizeof(d), scsi_be(c->cdb + 7, 2));
}

static void read_disc_information(struct scsi_unit *u, struct scsi_command *c)
{
    uint8_t d[34] = {0, 32, 0x0e, 1, 1, 1, 1, 0x20};

    if (has_medium(u, c))
        scsi_answer(c, d, sizeof(d), scsi_be(c->cdb + 7, 2));
}

static void start_stop(struct scsi_unit *u, struct scsi_command *c)
{
    bool eject = (c->cdb[4] & 3) == 2, load = (c->cdb[4] & 3) == 3;

    if (eject && u->prevented) {
        scsi_fail(c, SCSI_ILLEGAL_REQUEST, SCSI_REMOVAL_PREVENTED);
        return;
    }
    if (load && !u->loaded && u->disk)
        u->attention = SCSI_MEDIUM_CHANGED;
    if (eject || load)
        u->loaded = load && u->disk;
    scsi_good(c);
}

static bool cd_run(struct scsi_unit *u, struct scsi_command *c, bool *pending)
{
    uint8_t d[8] = {0};

    switch (c->cdb[0]) {
    case READ_6:
        *pending = scsi_transfer(u, c, false, scsi_be(c->cdb + 1, 3) & 0x1fffff,
                                 c->cdb[4] ? c->cdb[4] : 256, false);
        return true;
    case READ_10:
        *pending = scsi_transfer(u, c, false, scsi_be(c->cdb + 2, 4), scsi_be(c->cdb + 7, 2),
                                 false);
        return true;
    case READ_12:
        *pending = scsi_transfer(u, c, false, scsi_be(c->cdb + 2, 4), scsi_be(c->cdb + 6, 4),
                                 false);
        return true;
    case READ_CAPACITY:
        if (!has_medium(u, c))
            return true;
        scsi_put_be(d, MIN(scsi_blocks(u) - 1, UINT32_MAX), 4);
        scsi_put_be(d + 4, u->block_size, 4);
        scsi_answer(c, d, sizeof(d), sizeof(d));
        return true;
    case READ_TOC: read_toc(u, c); return true;
    case GET_CONFIGURATION: get_configuration(u, c); return true;
    case GET_EVENT_STATUS: get_event_status(u, c); return true;
    case READ_DISC_INFORMATION: read_disc_information(u, c); return true;
    case MECHANISM_STATUS: scsi_answer(c, d, sizeof(d), scsi_be(c->cdb + 8, 2)); return true;
    case START_STOP_UNIT: start_stop(u, c); return true;
    case PREVENT_ALLOW:
        u->prevented = c->cdb[4] & 1;
        scsi_good(c);
        return true;
    case SYNCHRONIZE_CACHE: scsi_good(c); return true;
    default: return false;
    }
}

static unsigned cd_page(struct scsi_unit *u, uint8_t page, bool changeable, uint8_t *p)
{
    switch (page) {
    case PAGE_RECOVERY:
        p[0] = page;
        p[1] = 6;
        return 8;
    case PAGE_CAPS:
        p[0] = page;
        p[1] = 20;
        if (changeable)
            return 22;
        p[2] = 0x03;                                     /* reads CD-R and CD-RW */
        p[4] = 0x40;                                     /* multi-session */
        p[6] = (uint8_t)(0x29 | (u->prevented ? 2 : 0)); /* tray, eject, lock */
        scsi_put_be(p + 8, 50 * 176, 2);                 /* KB/s: 50x */
        scsi_put_be(p + 12, 2048, 2);
        scsi_put_be(p + 14, 50 * 176, 2);
        return 22;
    default: return 0;
    }
}

const struct scsi_kind scsi_cd = {
    .type = 0x05,
    .product = "HOSPES CD-ROM",
    .block_size = 2048,
    .run = cd_run,
    .mode_page = cd_page,
};
