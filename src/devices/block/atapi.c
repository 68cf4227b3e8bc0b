/*
 * atapi.c - the packet commands of a CD or DVD drive (MMC-5, SPC-3), for ata.c.
 *
 * A disc is one data track of 2048-byte sectors. Every reply is cut to the allocation length of its
 * command; a command that fails leaves its reason as sense data, fetched by REQUEST SENSE.
 */
#include "devices/block/ata.h"

#include <errno.h>

enum packet_code {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    MODE_SELECT_6 = 0x15,
    MODE_SENSE_6 = 0x1a,
    START_STOP = 0x1b,
    PREVENT_REMOVAL = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    READ_SUBCHANNEL = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    READ_TRACK_INFORMATION = 0x52,
    MODE_SELECT_10 = 0x55,
    MODE_SENSE_10 = 0x5a,
    READ_12 = 0xa8,
    SET_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd,
    READ_CD = 0xbe,
};

enum sense_key {
    NO_SENSE = 0,
    NOT_READY = 2,
    MEDIUM_ERROR = 3,
    ILLEGAL_REQUEST = 5,
    UNIT_ATTENTION
};

enum media_event { EVENT_NONE, EVENT_EJECT_REQUEST, EVENT_NEW_MEDIA, EVENT_REMOVAL };

/* Additional sense codes: code and qualifier. */
enum {
    ASC_READ_ERROR = 0x1100,
    ASC_BAD_COMMAND = 0x2000,
    ASC_OUT_OF_RANGE = 0x2100,
    ASC_BAD_FIELD = 0x2400,
    ASC_MEDIUM_CHANGED = 0x2800,
    ASC_NO_MEDIUM = 0x3a00,
    ASC_NO_MEDIUM_TRAY_OPEN = 0x3a02,
    ASC_REMOVAL_PREVENTED = 0x5302,
    ASC_WRONG_MODE = 0x6400,
};

enum {
    CD_SECTORS_MAX = 80 * 60 * 75, /* more is a DVD */
    PROFILE_CD = 0x0008,
    PROFILE_DVD = 0x0010,
    LEAD_OUT = 0xaa,
};

static void put_be(uint8_t *to, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        to[i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static uint32_t get_be(const uint8_t *from, unsigned size)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v = v << 8 | from[i];
    return v;
}

static bool has_disc(const struct ata *a)
{
    return a->disk && !a->tray_open;
}

static uint32_t disc_sectors(const struct ata *a)
{
    return (uint32_t)MIN(a->sectors / (ATA_CD_SECTOR / ATA_SECTOR), UINT64_C(0xffffffff));
}

static uint16_t profile(const struct ata *a)
{
    if (!has_disc(a))
        return 0;
    return disc_sectors(a) > CD_SECTORS_MAX ? PROFILE_DVD : PROFILE_CD;
}

static void fail(struct ata *a, enum sense_key key, uint16_t asc)
{
    a->sense = (uint8_t)key;
    a->sense_code = (uint8_t)(asc >> 8);
    a->sense_qualifier = (uint8_t)asc;
    ata_end(a, (uint8_t)(key << 4) | ATA_ABORT);
}

static void good(struct ata *a)
{
    a->sense = a->sense_code = a->sense_qualifier = 0;
    ata_end(a, 0);
}

/* `size` bytes lie in the buffer, of which the guest wants at most `most`. */
static void reply(struct ata *a, uint32_t size, uint32_t most)
{
    if (a->packet[0] != REQUEST_SENSE)
        a->sense = a->sense_code = a->sense_qualifier = 0;
    ata_reply(a, MIN(size, most));
}

void atapi_disk_failed(struct ata *a)
{
    fail(a, MEDIUM_ERROR, ASC_READ_ERROR);
}

/* The words that differ from a disk's, and those every drive has. */
void atapi_identify(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, ATA_SECTOR);
    store_le(p, 0x85c0, 2); /* removable CD drive, DRQ within 50 us, packets of 12 bytes */
    ata_put_text(p + 20, a->serial, 20);
    ata_put_text(p + 46, a->revision, 8);
    ata_put_text(p + 54, a->model, 40);
    store_le(p + 2 * 49, 0x0f00, 2);
    store_le(p + 2 * 53, 0x0007, 2);
    store_le(p + 2 * 63, 0x0007 | (a->dma_mode >> 3 == 4 ? 0x100u << (a->dma_mode & 7) : 0), 2);
    store_le(p + 2 * 64, 0x0003, 2);
    for (unsigned i = 65; i <= 68; i++)
        store_le(p + 2 * i, 120, 2);
    if (a->serial_ata)
        store_le(p + 2 * 76, 0x000e, 2);
    else
        store_le(p + 2 * 93, a->unit ? 0x4b00 : 0x600b, 2);
    store_le(p + 2 * 80, 0x00f0, 2);
    store_le(p + 2 * 82, 0x4210, 2); /* NOP, DEVICE RESET, PACKET */
    store_le(p + 2 * 83, 0x4000, 2);
    store_le(p + 2 * 84, 0x4000, 2);
    store_le(p + 2 * 85, 0x4210, 2);
    store_le(p + 2 * 87, 0x4000, 2);
    store_le(p + 2 * 88, 0x003f | (a->dma_mode >> 3 == 8 ? 0x100u << (a->dma_mode & 7) : 0), 2);
}

/* ---- replies -----------------------------------------------------------------------------------
 */

static void pad_text(uint8_t *to, const char *text, size_t size)
{
    size_t length = MIN(strlen(text), size);

    memset(to, ' ', size);
    memcpy(to, text, length);
}

static void inquiry(struct ata *a)
{
    uint8_t *p = a->buffer;

    if (a->packet[1] & 3) { /* vital product data: a list that has only itself */
        if (a->packet[2]) {
            fail(a, ILLEGAL_REQUEST, ASC_BAD_FIELD);
            return;
        }
        memcpy(p, (const uint8_t[]){5, 0, 0, 1, 0}, 5);
        reply(a, 5, get_be(a->packet + 3, 2));
        return;
    }
    memset(p, 0, 36);
    p[0] = 5;
    p[1] = 0x80;
    p[3] = 0x21; /* ATAPI 2, response format 1 */
    p[4] = 31;
    pad_text(p + 8, "HOSPES", 8);
    pad_text(p + 16, a->model, 16);
    pad_text(p + 32, a->revision, 4);
    reply(a, 36, a->packet[4]);
}

static void request_sense(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, 18);
    if (!a->sense && a->changed) {
        a->sense = UNIT_ATTENTION;
        a->sense_code = ASC_MEDIUM_CHANGED >> 8;
        a->changed = false;
    }
    p[0] = 0x70;
    p[2] = a->sense;
    p[7] = 10;
    p[12] = a->sense_code;
    p[13] = a->sense_qualifier;
    a->sense = a->sense_code = a->sense_qualifier = 0;
    reply(a, 18, a->packet[4]);
}

static void put_address(uint8_t *to, uint32_t lba, bool msf)
{
    if (!msf) {
        put_be(to, lba, 4);
        return;
    }
    lba += 150;
    to[0] = 0;
    to[1] = (uint8_t)(lba / 75 / 60);
    to[2] = (uint8_t)(lba / 75 % 60);
    to[3] = (uint8_t)(lba % 75);
}

static void track(uint8_t *at, uint8_t number, uint32_t lba, bool msf)
{
    at[1] = 0x14; /* data */
    at[2] = number;
    put_address(at + 4, lba, msf);
}

static void raw_track(uint8_t *at, uint8_t point, uint8_t m, uint8_t s, uint8_t f)
{
    at[0] = 1;
    at[1] = 0x14;
    at[3] = point;
    at[8] = m;
    at[9] = s;
    at[10] = f;
}

static void read_toc(struct ata *a)
{
    bool msf = a->packet[1] & 2;
    uint8_t *p = a->buffer, format = a->packet[2] & 15, first = a->packet[6], end[4];
    uint32_t size = 4;

    if (!format)
        format = a->packet[9] >> 6;
    memset(p, 0, 64);
    p[2] = p[3] = 1;
    switch (format) {
    case 0:
        if (first > 1 && first != LEAD_OUT) {
            fail(a, ILLEGAL_REQUEST, ASC_BAD_FIELD);
            return;
        }
        if (first <= 1) {
            track(p + size, 1, 0, msf);
            size += 8;
        }
        track(p + size, LEAD_OUT, disc_sectors(a), msf);
        size += 8;
        break;
    case 1:
        track(p + 4, 1, 0, msf);
        size = 12;
        break;
    case 2:
        put_address(end, disc_sectors(a), true);
        raw_track(p + 4, 0xa0, 1, 0, 0);
        raw_track(p + 15, 0xa1, 1, 0, 0);
        raw_track(p + 26, 0xa2, end[1], end[2], end[3]);
        raw_track(p + 37, 1, 0, 2, 0);
        size = 48;
        break;
    default: fail(a, ILLEGAL_REQUEST, ASC_BAD_FIELD); return;
    }
    put_be(p, size - 2, 2);
    reply(a, size, get_be(a->packet + 7, 2));
}

static void get_configuration(struct ata *a)
{
    uint8_t *p = a->buffer, *end = p + 8;
    uint16_t from = (uint16_t)get_be(a->packet + 2, 2), current = profile(a);
    uint8_t kind = a->packet[1] & 3;
    static const uint16_t features[] = {0x0000, 0x0001, 0x0003, 0x0010, 0x001e, 0x001f};

    memset(p, 0, 128);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        uint16_t f = features[i];
        bool active = f < 0x10 || (f == 0x10 && current) || (f == 0x1e && current == PROFILE_CD) ||
                      (f == 0x1f && current == PROFILE_DVD);

        if ((kind == 2 ? f != from : f < from) || (kind == 1 && !active))
            continue;
        put_be(end, f, 2);
        end[2] = (uint8_t)((f < 0x10 ? 2 : 0) | active); /* persistent, current */
        end[3] = f == 0x1f ? 4 : f == 0x1e ? 4 : f == 0x10 || f == 0 || f == 1 ? 8 : 4;
        if (f == 0) {
            put_be(end + 4, PROFILE_DVD, 2);
            end[6] = current == PROFILE_DVD;
            put_be(end + 8, PROFILE_CD, 2);
            end[10] = current == PROFILE_CD;
        } else if (f == 1) {
            put_be(end + 4, 2, 4); /* ATAPI */
        } else if (f == 3) {
            end[4] = 0x39; /* tray; can eject and lock */
        } else if (f == 0x10) {
            put_be(end + 4, ATA_CD_SECTOR, 4);
            put_be(end + 8, 16, 2);
        }
        end += 4 + end[3];
    }
    put_be(p, (uint64_t)(end - p - 4), 4);
    put_be(p + 6, current, 2);
    reply(a, (uint32_t)(end - p), get_be(a->packet + 7, 2));
}

static void get_event_status(struct ata *a)
{
    uint8_t *p = a->buffer;
    uint32_t most = get_be(a->packet + 7, 2);

    if (!(a->packet[1] & 1)) { /* only polling */
        fail(a, ILLEGAL_REQUEST, ASC_BAD_FIELD);
        return;
    }
    memset(p, 0, 8);
    p[3] = 0x10; /* the media class is what there is */
    if (!(a->packet[4] & 0x10)) {
        p[2] = 0x80;
        put_be(p, 2, 2);
        reply(a, 4, most);
        return;
    }
    put_be(p, 6, 2);
    p[2] = 4;
    p[4] = a->media_event;
    p[5] = (uint8_t)((a->tray_open ? 1 : 0) | (has_disc(a) ? 2 : 0));
    a->media_event = EVENT_NONE;
    reply(a, 8, most);
}

/* MODE SENSE: error recovery and capabilities. */
static uint32_t mode_page(const struct ata *a, uint8_t page, uint8_t *to)
{
    if (page == 0x01) {
        memset(to, 0, 12);
        to[0] = 0x01;
        to[1] = 10;
        to[3] = 5; /* tries */
        return 12;
    }
    memset(to, 0, 22);
    to[0] = 0x2a;
    to[1] = 20;
    to[2] = 0x3b;                                  /* reads CD-R, CD-RW, DVD */
    to[4] = 0x70;                                  /* forms of mode 2, several sessions */
    to[6] = (uint8_t)(0x29 | (a->locked ? 2 : 0)); /* tray; can eject and lock */
    put_be(to + 8, 706, 2);                        /* kB/s: 4 times */
    put_be(to + 10, 2, 2);
    put_be(to + 12, 512, 2);
    put_be(to + 14, 706, 2);
    return 22;
}

static void mode_sense(struct ata *a)
{
    bool ten = a->packet[0] == MODE_SENSE_10;
    uint8_t *p = a->buffer, page = a->packet[2] & 0x3f, control = a->packet[2] >> 6;
    uint32_t header = ten ? 8 : 4, size = header;

    memset(p, 0, header);
    if (control == 3) {
        fail(a, ILLEGAL_REQUEST, 0x3900); /* values are not saved */
        return;
    }
    if (page == 0x01 || page == 0x3f)
        size += mode_page(a, 0x01, p + size);
    if (page == 0x2a || page == 0x3f)
        size += mode_page(a, 0x2a, p + size);
    if (size == header) {
        fail(a, ILLEGAL_REQUEST, ASC_BAD_FIELD);
        return;
    }
    if (ten) {
        put_be(p, size - 2, 2);
        p[2] = has_disc(a) ? 0x01 : 0x70;
    } else {
        p[0] = (uint8_t)(size - 1);
        p[1] = has_disc(a) ? 0x01 : 0x70;
    }
    reply(a, size, ten ? get_be(a->packet + 7, 2) : a->packet[4]);
}

static void read_capacity(struct ata *a)
{
    uint32_t n = disc_sectors(a);

    put_be(a->buffer, n ? n - 1 : 0, 4);
    put_be(a->buffer + 4, ATA_CD_SECTOR, 4);
    reply(a, 8, 8);
}

static void read_sectors(struct ata *a, uint64_t lba, uint64_t count)
{
    if (!range_within(lba, count, disc_sectors(a))) {
        fail(a, ILLEGAL_REQUEST, ASC_OUT_OF_RANGE);
        return;
    }
    if (!count) {
        good(a);
        return;
    }
    a->sense = a->sense_code = a->sense_qualifier = 0;
    ata_read_disk(a, lba * ATA_CD_SECTOR, count * ATA_CD_SECTOR);
}

/* The user's data of data sectors, which is what discs here are. */
static void read_cd(struct ata *a)
{
    uint8_t what = a->packet[9] & 0xf8;

    if (!what)
        good(a);
    else if (what != 0x10 || a->packet[10] & 7)
        fail(a, ILLEGAL_REQUEST, ASC_WRONG_MODE);
    else
        read_sectors(a, get_be(a->packet + 2, 4), get_be(a->packet + 6, 3));
}

static void read_disc_information(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, 34);
    put_be(p, 32, 2);
    p[2] = 0x0e; /* finished disc, complete session */
    p[3] = p[4] = p[5] = p[6] = 1;
    p[7] = 0x20;
    memset(p + 16, 0xff, 8); /* no lead-in, no lead-out to be written */
    reply(a, 34, get_be(a->packet + 7, 2));
}

static void read_track_information(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, 36);
    put_be(p, 34, 2);
    p[2] = p[3] = 1;
    p[5] = 4; /* data */
    p[6] = 1;
    put_be(p + 24, disc_sectors(a), 4);
    reply(a, 36, get_be(a->packet + 7, 2));
}

static void read_subchannel(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, 4);
    p[1] = 0x15; /* no audio is played */
    reply(a, 4, get_be(a->packet + 7, 2));
}

static void mechanism_status(struct ata *a)
{
    uint8_t *p = a->buffer;

    memset(p, 0, 8);
    p[1] = a->tray_open ? 0x10 : 0;
    p[5] = 1;
    reply(a, 8, get_be(a->packet + 8, 2));
}

static void start_stop(struct ata *a)
{
    bool start = a->packet[4] & 1, tray = a->packet[4] & 2;

    if (!tray) {
        good(a);
        return;
    }
    if (!start && a->locked && !a->tray_open) {
        fail(a, ILLEGAL_REQUEST, ASC_REMOVAL_PREVENTED);
        return;
    }
    if (a->tray_open == start) { /* it moves */
        a->tray_open = !start;
        if (a->disk)
            a->media_event = start ? EVENT_NEW_MEDIA : EVENT_REMOVAL;
        a->changed = start && a->disk;
    }
    good(a);
}

/* ---- the commands ------------------------------------------------------------------------------
 */

static bool needs_disc(uint8_t code)
{
    switch (code) {
    case TEST_UNIT_READY:
    case READ_CAPACITY:
    case READ_10:
    case READ_12:
    case READ_CD:
    case SEEK_10:
    case READ_TOC:
    case READ_SUBCHANNEL:
    case READ_DISC_INFORMATION:
    case READ_TRACK_INFORMATION: return true;
    default: return false;
    }
}

static bool tells_attention(uint8_t code)
{
    return code != INQUIRY && code != REQUEST_SENSE && code != GET_CONFIGURATION &&
           code != GET_EVENT_STATUS;
}

static void execute(struct ata *a)
{
    const uint8_t *c = a->packet;

    if (a->changed && tells_attention(c[0])) {
        a->changed = false;
        fail(a, UNIT_ATTENTION, ASC_MEDIUM_CHANGED);
        return;
    }
    if (needs_disc(c[0]) && !has_disc(a)) {
        fail(a, NOT_READY, a->tray_open ? ASC_NO_MEDIUM_TRAY_OPEN : ASC_NO_MEDIUM);
        return;
    }
    switch (c[0]) {
    case TEST_UNIT_READY:
    case SEEK_10:
    case SET_SPEED: good(a); break;
    case REQUEST_SENSE: request_sense(a); break;
    case INQUIRY: inquiry(a); break;
    case MODE_SENSE_6:
    case MODE_SENSE_10: mode_sense(a); break;
    case MODE_SELECT_6:
    case MODE_SELECT_10:
        if (!(c[0] == MODE_SELECT_6 ? c[4] : get_be(c + 7, 2)))
            good(a);
        else
            ata_take(a, c[0] == MODE_SELECT_6 ? c[4] : get_be(c + 7, 2));
        break;
    case START_STOP: start_stop(a); break;
    case PREVENT_REMOVAL:
        a->locked = c[4] & 1;
        good(a);
        break;
    case READ_CAPACITY: read_capacity(a); break;
    case READ_10: read_sectors(a, get_be(c + 2, 4), get_be(c + 7, 2)); break;
    case READ_12: read_sectors(a, get_be(c + 2, 4), get_be(c + 6, 4)); break;
    case READ_CD: read_cd(a); break;
    case READ_TOC: read_toc(a); break;
    case READ_SUBCHANNEL: read_subchannel(a); break;
    case GET_CONFIGURATION: get_configuration(a); break;
    case GET_EVENT_STATUS: get_event_status(a); break;
    case READ_DISC_INFORMATION: read_disc_information(a); break;
    case READ_TRACK_INFORMATION: read_track_information(a); break;
    case MECHANISM_STATUS: mechanism_status(a); break;
    default: fail(a, ILLEGAL_REQUEST, ASC_BAD_COMMAND);
    }
}

void atapi_packet(struct ata *a)
{
    uint32_t limit = (a->now.mid | (uint32_t)a->now.high << 8) & ~1u;

    /* The largest block by the processor: even; 0 means what fits. */
    a->limit = a->whole_blocks ? ATA_BUFFER : limit ? limit : 0xfffe;
    a->packet_wanted = true;
    a->block = ATA_PACKET;
    ata_take(a, ATA_PACKET);
}

void atapi_taken(struct ata *a)
{
    if (!a->packet_wanted) { /* MODE SELECT: nothing can be set */
        good(a);
        return;
    }
    memcpy(a->packet, a->buffer, ATA_PACKET);
    a->packet_wanted = false;
    a->by_dma = a->now.feature & 1;
    a->block = a->limit;
    execute(a);
}

void atapi_reset(struct ata *a)
{
    memset(a->packet, 0, sizeof(a->packet));
    a->sense = a->sense_code = a->sense_qualifier = 0;
    a->media_event = EVENT_NONE;
    a->changed = false;
    a->locked = a->tray_open = false;
}

void ata_change_disc(struct ata *a, struct disk *disk)
{
    transfer_forget(a->transfer);
    a->transfer = NULL;
    if (a->phase == ATA_DISK)
        atapi_disk_failed(a);
    a->disk = disk;
    a->sectors = disk ? disk_size(disk) / ATA_SECTOR : 0;
    a->media_event = disk ? EVENT_NEW_MEDIA : EVENT_REMOVAL;
    a->changed = disk != NULL;
    a->tray_open = false;
}
