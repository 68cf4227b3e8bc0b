/*
 * nvme.c - an NVM Express controller with one namespace. NVM Express 1.4.
 *
 * A command is copied out of its submission queue once, into a request of a fixed pool, and lives
 * there until its completion is in the guest's queue: a queue that is full, and a pool that is used
 * up, both make it wait. A restored machine carries out again what was under way; reads, writes and
 * discards may be repeated.
 *
 * A controller whose registers or queues make no sense sets CSTS.CFS and does nothing more until it
 * is reset (CC.EN).
 */
#include "devices/block/nvme.h"

#include "devices/block/transfer.h"
#include "devices/pci/pci.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>

enum { BAR_REGISTERS = 0, BAR_MSIX = 4, REGISTERS = 0x1000, REGISTERS_SIZE = 0x4000 };
enum {
    QUEUES = 17,
    REQUESTS = 64,
    VECTORS = 32,
    ENTRIES_MAX = 2048,
    EVENTS_MAX = 4,
    PAGE = 4096,
    COMMAND = 64,
    COMPLETION = 16,
    LBA = 512,
    MDTS = 8,
    IDENTIFY = 4096,
    TRIM_RANGES = 256
};

enum nvme_register {
    CAP = 0x00,
    VS = 0x08,
    INTMS = 0x0c,
    INTMC = 0x10,
    CC = 0x14,
    CSTS = 0x1c,
    AQA = 0x24,
    ASQ = 0x28,
    ACQ = 0x30
};
enum {
    CC_EN = 1,
    CC_SHUTDOWN = 3 << 14,
    CSTS_READY = 1,
    CSTS_FATAL = 2,
    CSTS_SHUTDOWN = 3 << 2,
    CSTS_SHUT = 2 << 2
};

enum admin {
    DELETE_SQ = 0,
    CREATE_SQ = 1,
    GET_LOG = 2,
    DELETE_CQ = 4,
    CREATE_CQ = 5,
    DO_IDENTIFY = 6,
    ABORT = 8,
    SET_FEATURES = 9,
    GET_FEATURES = 10,
    ASYNC_EVENT = 12
};
enum nvm { FLUSH = 0, WRITE = 1, READ = 2, WRITE_ZEROES = 8, DATASET = 9 };
enum feature {
    ARBITRATION = 1,
    POWER = 2,
    TEMPERATURE = 4,
    ERROR_RECOVERY = 5,
    WRITE_CACHE = 6,
    QUEUE_COUNT = 7,
    COALESCING = 8,
    VECTOR_CONFIG = 9,
    ATOMICITY = 10,
    EVENTS = 11,
    FEATURES
};

/* Status field: type in bits 8-10, and "do not retry". */
enum status {
    GOOD = 0,
    BAD_OPCODE = 0x001,
    BAD_FIELD = 0x002,
    BAD_DATA = 0x004,
    INTERNAL = 0x006,
    BAD_NAMESPACE = 0x00b,
    OUT_OF_RANGE = 0x080,
    BAD_CQ = 0x100,
    BAD_QUEUE = 0x101,
    BAD_QUEUE_SIZE = 0x102,
    TOO_MANY_EVENTS = 0x105,
    BAD_VECTOR = 0x108,
    BAD_LOG = 0x109,
    BAD_DELETION = 0x10c,
    WRITE_FAULT = 0x280,
    READ_FAULT = 0x281,
    WAIT = 0x8000,
    NO_RETRY = 0x4000
};

struct submission {
    bool used;
    uint16_t cq;
    uint32_t size, head, tail;
    uint64_t base;
};

struct completion {
    bool used, interrupts, phase;
    uint16_t vector;
    uint32_t size, head, tail;
    uint64_t base;
};

struct request {
    /* saved */
    bool used, done; /* done: its completion waits for room */
    uint16_t sq, status;
    uint32_t result;
    uint32_t trim_at; /* next range */
    uint8_t command[COMMAND];
    struct transfer *transfer;
};

struct nvme {
    struct pci_device pci;
    /* properties */
    struct disk *disk;
    char *serial;

    /* saved */
    uint32_t mask, cc, csts, aqa;
    uint64_t asq, acq;
    struct submission sq[QUEUES];
    struct completion cq[QUEUES];
    struct request request[REQUESTS];
    uint32_t feature[FEATURES];
    uint64_t read_blocks, written_blocks, reads, writes;
};
#define to_nvme(d) container_of(to_pci(d), struct nvme, pci)

static uint32_t dword(const struct request *r, unsigned n)
{
    return (uint32_t)load_le(r->command + 4 * n, 4);
}

static uint64_t blocks(const struct nvme *n)
{
    return disk_size(n->disk) / LBA;
}

/* ---- interrupts and completions ----------------------------------------------------------------
 */

static void update_pin(struct nvme *n)
{
    uint32_t raised = 0;

    for (unsigned i = 0; i < QUEUES; i++)
        if (n->cq[i].used && n->cq[i].interrupts && n->cq[i].head != n->cq[i].tail)
            raised |= 1u << (n->cq[i].vector & 31);
    pci_intx_set(&n->pci, !pci_msix_enabled(&n->pci) && raised & ~n->mask);
}

static void fatal(struct nvme *n)
{
    n->csts |= CSTS_FATAL;
}

/* Put a completion into its queue; false: there is no room. */
static bool post(struct nvme *n, struct request *r)
{
    struct submission *s = &n->sq[r->sq];
    struct completion *c = &n->cq[s->cq];
    uint8_t entry[COMPLETION] = {0};

    if ((c->tail + 1) % c->size == c->head)
        return false;
    store_le(entry, r->result, 4);
    store_le(entry + 8, s->head, 2);
    store_le(entry + 10, r->sq, 2);
    store_le(entry + 12, load_le(r->command + 2, 2), 2);
    store_le(entry + 14, (uint64_t)r->status << 1 | c->phase, 2);
    if (pci_dma_write(&n->pci, c->base + (uint64_t)c->tail * COMPLETION, entry, sizeof(entry)) < 0)
        fatal(n);
    c->tail = (c->tail + 1) % c->size;
    if (!c->tail)
        c->phase = !c->phase;
    r->used = false;
    if (c->interrupts && pci_msix_enabled(&n->pci))
        pci_msix_send(&n->pci, c->vector);
    update_pin(n);
    return true;
}

static void fetch_all(struct nvme *n);

static void finish(struct nvme *n, struct request *r, uint32_t status)
{
    transfer_forget(r->transfer);
    r->transfer = NULL;
    r->status = (uint16_t)(status ? status | NO_RETRY : 0);
    r->done = true;
    post(n, r);
}

/* ---- a command's memory: physical region pages -------------------------------------------------
 */

static bool entry_read(struct nvme *n, uint64_t at, uint64_t *out)
{
    uint8_t bytes[8];

    if (pci_dma_read(&n->pci, at, bytes, sizeof(bytes)) < 0)
        return false;
    *out = load_le(bytes, 8);
    return true;
}

/* Page `index` of `pages`: the first two may be named by the command itself, more are in lists,
 * whose last entry goes on in the next where one page does not hold all. */
static bool page_find(struct nvme *n, const struct request *r, uint32_t index, uint32_t pages,
                      uint64_t *out)
{
    uint64_t at = load_le(r->command + 32, 8);
    uint32_t left = pages - 1;

    if (!index) {
        *out = load_le(r->command + 24, 8);
        return true;
    }
    index--;
    if (pages == 2) {
        *out = at & ~UINT64_C(4095);
        return true;
    }
    for (;;) {
        uint32_t room = (uint32_t)(PAGE - (at & (PAGE - 1))) / 8;

        if (left <= room || index < room - 1)
            break;
        if (!entry_read(n, at + 8 * (room - 1), &at) || at & 7)
            return false;
        index -= room - 1;
        left -= room - 1;
    }
    if (!entry_read(n, at + 8 * (uint64_t)index, out))
        return false;
    *out &= ~UINT64_C(4095);
    return true;
}

static bool move(struct nvme *n, const struct request *r, uint8_t *data, uint32_t size,
                 bool to_guest)
{
    uint32_t first = (uint32_t)(load_le(r->command + 24, 8) & (PAGE - 1));
    uint32_t pages = (first + size + PAGE - 1) / PAGE;
    uint32_t done = 0;

    if (first & 3 || r->command[1] >> 6) /* scatter-gather lists are not offered */
        return false;
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t length = MIN(PAGE - (i ? 0 : first), size - done);
        uint64_t at;
        int result;

        if (!page_find(n, r, i, pages, &at))
            return false;
        result = to_guest ? pci_dma_write(&n->pci, at, data + done, length)
                          : pci_dma_read(&n->pci, at, data + done, length);
        if (result < 0)
            return false;
        done += length;
    }
    return true;
}

/* ---- the namespace's commands ------------------------------------------------------------------
 */

static uint32_t trim_next(struct nvme *n, struct request *r);

static void disk_done(struct transfer *t, int result)
{
    struct request *r = t->owner;
    struct nvme *n = to_nvme(t->dev);
    uint32_t status = GOOD;

    if (result < 0) {
        status = r->command[0] == READ                 ? READ_FAULT
                 : result == -ENOSPC || result == -EIO ? WRITE_FAULT
                                                       : INTERNAL;
    } else if (r->command[0] == READ) {
        n->reads++;
        n->read_blocks += t->iov.iov_len / LBA;
        status = move(n, r, t->data, (uint32_t)t->iov.iov_len, true) ? GOOD : BAD_DATA;
    } else if (r->command[0] == WRITE) {
        n->writes++;
        n->written_blocks += t->iov.iov_len / LBA;
    } else if (r->command[0] == DATASET) {
        status = trim_next(n, r);
        if (status == WAIT)
            return;
    }
    finish(n, r, status);
    fetch_all(n);
}

static uint32_t trim_next(struct nvme *n, struct request *r)
{
    uint32_t ranges = (dword(r, 10) & 0xff) + 1;

    for (; r->trim_at < ranges; r->trim_at++) {
        const uint8_t *range = r->transfer->data + 16 * r->trim_at;
        uint64_t count = load_le(range + 4, 4), lba = load_le(range + 8, 8);

        if (!range_within(lba, count, blocks(n)))
            return OUT_OF_RANGE;
        if (!count)
            continue;
        r->trim_at++;
        transfer_submit(r->transfer, n->disk, DISK_DISCARD, lba * LBA, count * LBA, 0);
        return WAIT;
    }
    return GOOD;
}

static uint32_t data_command(struct nvme *n, struct request *r)
{
    uint64_t lba = load_le(r->command + 40, 8);
    uint32_t count = (dword(r, 12) & 0xffff) + 1, flags = 0;
    bool zeroes = r->command[0] == WRITE_ZEROES, write = r->command[0] == WRITE;

    if (!range_within(lba, count, blocks(n)))
        return OUT_OF_RANGE;
    if (!zeroes && count * LBA > TRANSFER_MAX)
        return BAD_FIELD;
    if ((zeroes || write) && (dword(r, 12) & 1u << 30 || !n->feature[WRITE_CACHE]))
        flags |= DISK_FUA;
    if (zeroes && dword(r, 12) & 1u << 25)
        flags |= DISK_UNMAP;
    r->transfer = transfer_new(&n->pci.dev, r, zeroes ? 0 : count * LBA, disk_done);
    if (write && !move(n, r, r->transfer->data, count * LBA, false))
        return BAD_DATA;
    transfer_submit(r->transfer, n->disk,
                    zeroes  ? DISK_WRITE_ZEROES
                    : write ? DISK_WRITE
                            : DISK_READ,
                    lba * LBA, (uint64_t)count * LBA, flags);
    return WAIT;
}

static uint32_t nvm_command(struct nvme *n, struct request *r)
{
    uint32_t space = dword(r, 1), ranges = (dword(r, 10) & 0xff) + 1;

    if (space != 1 && !(r->command[0] == FLUSH && space == 0xffffffff))
        return BAD_NAMESPACE;
    switch (r->command[0]) {
    case FLUSH:
        r->transfer = transfer_new(&n->pci.dev, r, 0, disk_done);
        transfer_submit(r->transfer, n->disk, DISK_FLUSH, 0, 0, 0);
        return WAIT;
    case READ:
    case WRITE:
    case WRITE_ZEROES: return data_command(n, r);
    case DATASET:
        if (!(dword(r, 11) & 4)) /* only hints */
            return GOOD;
        r->transfer = transfer_new(&n->pci.dev, r, TRIM_RANGES * 16, disk_done);
        r->trim_at = 0;
        return move(n, r, r->transfer->data, ranges * 16, false) ? trim_next(n, r) : BAD_DATA;
    default: return BAD_OPCODE;
    }
}

/* ---- the controller's commands -----------------------------------------------------------------
 */

static void put_text(uint8_t *to, const char *text, size_t size)
{
    memset(to, ' ', size);
    memcpy(to, text, MIN(strlen(text), size));
}

static uint32_t identify(struct nvme *n, struct request *r)
{
    uint8_t p[IDENTIFY] = {0};
    uint32_t what = dword(r, 10) & 0xff, space = dword(r, 1);

    switch (what) {
    case 0: /* a namespace */
        if (space != 1 && space != 0xffffffff)
            return BAD_NAMESPACE;
        store_le(p, blocks(n), 8);
        store_le(p + 8, blocks(n), 8);
        store_le(p + 16, blocks(n), 8);
        p[33] = 1;      /* what was deallocated reads as zeros, mostly */
        p[128 + 2] = 9; /* the one format: 512 bytes */
        break;
    case 1: /* the controller */
        store_le(p, pci_get(&n->pci, PCI_VENDOR_ID, 2), 2);
        store_le(p + 2, pci_get(&n->pci, PCI_SUBSYSTEM_VENDOR, 2), 2);
        put_text(p + 4, n->serial ? n->serial : "HSN00001", 20);
        put_text(p + 24, "Hospes NVMe", 40);
        put_text(p + 64, "1.0", 8);
        p[72] = 6; /* arbitration burst */
        p[77] = MDTS;
        store_le(p + 80, 0x00010400, 4); /* version */
        p[258] = 3;                      /* aborts */
        p[259] = EVENTS_MAX - 1;
        p[260] = 3;                /* one firmware slot, read only */
        store_le(p + 266, 343, 2); /* kelvin: warning and critical */
        store_le(p + 268, 373, 2);
        p[512] = 0x66; /* entries of 64 bytes */
        p[513] = 0x44; /* of 16 */
        store_le(p + 516, 1, 4);
        store_le(p + 520, 1 << 2 | 1 << 3, 2); /* dataset management, write zeroes */
        p[525] = disk_write_cache(n->disk) ? 1 : 0;
        memcpy(p + 768, "nqn.2026-01.hospes:nvme:", 24);
        memcpy(p + 792, n->serial ? n->serial : "HSN00001",
               MIN(strlen(n->serial ? n->serial : "HSN00001"), (size_t)20));
        store_le(p + 2048, 2500, 2); /* power state 0: 25 W */
        break;
    case 2: /* active namespaces above a number */
        if (space >= 0xfffffffe)
            return BAD_NAMESPACE;
        store_le(p, space < 1 ? 1 : 0, 4);
        break;
    case 3: /* how namespace 1 is told from all others */
        if (space != 1)
            return BAD_NAMESPACE;
        p[0] = 3; /* UUID: from the serial number */
        p[1] = 16;
        put_text(p + 4, n->serial ? n->serial : "HSN00001", 16);
        break;
    default: return BAD_FIELD;
    }
    return move(n, r, p, sizeof(p), true) ? GOOD : BAD_DATA;
}

static uint32_t get_log(struct nvme *n, struct request *r)
{
    uint8_t p[PAGE] = {0};
    uint64_t size = ((uint64_t)(dword(r, 10) >> 16) | (uint64_t)(dword(r, 11) & 0xffff) << 16) * 4 +
                    4;
    uint64_t offset = (uint64_t)dword(r, 12) | (uint64_t)dword(r, 13) << 32, whole;

    switch (dword(r, 10) & 0xff) {
    case 1: whole = 64; break; /* errors: none */
    case 2:                    /* health */
        whole = 512;
        store_le(p + 1, 323, 2);
        p[3] = 100; /* spare, and its threshold */
        p[4] = 10;
        store_le(p + 32, n->read_blocks / 1000, 8);
        store_le(p + 48, n->written_blocks / 1000, 8);
        store_le(p + 64, n->reads, 8);
        store_le(p + 80, n->writes, 8);
        break;
    case 3: /* firmware slot */
        whole = 512;
        p[0] = 1;
        put_text(p + 8, "1.0", 8);
        break;
    default: return BAD_LOG;
    }
    if (offset & 3 || offset >= whole)
        return BAD_FIELD;
    size = MIN(size, sizeof(p) - offset);
    return move(n, r, p + offset, (uint32_t)size, true) ? GOOD : BAD_DATA;
}

static uint32_t create_cq(struct nvme *n, struct request *r)
{
    uint32_t id = dword(r, 10) & 0xffff, size = (dword(r, 10) >> 16) + 1, how = dword(r, 11);
    uint64_t base = load_le(r->command + 24, 8);

    if (!id || id >= QUEUES || n->cq[id].used)
        return BAD_QUEUE;
    if (size < 2 || size > ENTRIES_MAX)
        return BAD_QUEUE_SIZE;
    if (!(how & 1) || base & (PAGE - 1)) /* in one piece */
        return BAD_FIELD;
    if (how >> 16 >= (pci_msix_enabled(&n->pci) ? VECTORS : 1u))
        return BAD_VECTOR;
    n->cq[id] = (struct completion){.used = true,
                                    .interrupts = how & 2,
                                    .phase = true,
                                    .vector = (uint16_t)(how >> 16),
                                    .size = size,
                                    .base = base};
    return GOOD;
}

static uint32_t create_sq(struct nvme *n, struct request *r)
{
    uint32_t id = dword(r, 10) & 0xffff, size = (dword(r, 10) >> 16) + 1, how = dword(r, 11);
    uint64_t base = load_le(r->command + 24, 8);

    if (!id || id >= QUEUES || n->sq[id].used)
        return BAD_QUEUE;
    if (how >> 16 == 0 || how >> 16 >= QUEUES || !n->cq[how >> 16].used)
        return BAD_CQ;
    if (size < 2 || size > ENTRIES_MAX)
        return BAD_QUEUE_SIZE;
    if (!(how & 1) || base & (PAGE - 1))
        return BAD_FIELD;
    n->sq[id] =
        (struct submission){.used = true, .cq = (uint16_t)(how >> 16), .size = size, .base = base};
    return GOOD;
}

static void request_drop(struct request *r)
{
    transfer_forget(r->transfer);
    r->transfer = NULL;
    r->used = false;
}

static uint32_t delete_sq(struct nvme *n, struct request *r)
{
    uint32_t id = dword(r, 10) & 0xffff;

    if (!id || id >= QUEUES || !n->sq[id].used)
        return BAD_QUEUE;
    for (unsigned i = 0; i < REQUESTS; i++)
        if (n->request[i].used && n->request[i].sq == id)
            request_drop(&n->request[i]);
    n->sq[id].used = false;
    return GOOD;
}

static uint32_t delete_cq(struct nvme *n, struct request *r)
{
    uint32_t id = dword(r, 10) & 0xffff;

    if (!id || id >= QUEUES || !n->cq[id].used)
        return BAD_QUEUE;
    for (unsigned i = 0; i < QUEUES; i++)
        if (n->sq[i].used && n->sq[i].cq == id)
            return BAD_DELETION;
    n->cq[id].used = false;
    update_pin(n);
    return GOOD;
}

static uint32_t features(struct nvme *n, struct request *r, bool set)
{
    uint32_t id = dword(r, 10) & 0xff, value = dword(r, 11);

    if (id >= FEATURES || id == 0 || id == 3)
        return BAD_FIELD;
    if (id == QUEUE_COUNT) { /* as many as there can be, whatever was asked for */
        if (set && ((value & 0xffff) == 0xffff || value >> 16 == 0xffff))
            return BAD_FIELD;
        r->result = (QUEUES - 2) | (uint32_t)(QUEUES - 2) << 16;
        return GOOD;
    }
    if (!set)
        r->result = id == VECTOR_CONFIG ? value & 0xffff : n->feature[id];
    else if (id == WRITE_CACHE)
        n->feature[id] = value & 1;
    else if (id == POWER && value & 31)
        return BAD_FIELD;
    else
        n->feature[id] = value;
    return GOOD;
}

static uint32_t async_event(struct nvme *n)
{
    unsigned waiting = 0;

    for (unsigned i = 0; i < REQUESTS; i++)
        waiting += n->request[i].used && !n->request[i].sq &&
                   n->request[i].command[0] == ASYNC_EVENT;
    return waiting > EVENTS_MAX ? TOO_MANY_EVENTS : WAIT; /* nothing ever happens */
}

static uint32_t admin_command(struct nvme *n, struct request *r)
{
    switch (r->command[0]) {
    case DELETE_SQ: return delete_sq(n, r);
    case CREATE_SQ: return create_sq(n, r);
    case GET_LOG: return get_log(n, r);
    case DELETE_CQ: return delete_cq(n, r);
    case CREATE_CQ: return create_cq(n, r);
    case DO_IDENTIFY: return identify(n, r);
    case ABORT: r->result = 1; return GOOD; /* too late: it goes on */
    case SET_FEATURES: return features(n, r, true);
    case GET_FEATURES: return features(n, r, false);
    case ASYNC_EVENT: return async_event(n);
    default: return BAD_OPCODE;
    }
}

/* ---- queues ------------------------------------------------------------------------------------
 */

static void execute(struct nvme *n, struct request *r)
{
    uint32_t status = r->sq ? nvm_command(n, r) : admin_command(n, r);

    if (status != WAIT)
        finish(n, r, status);
}

static bool works(const struct nvme *n)
{
    return n->csts & CSTS_READY && !(n->csts & CSTS_FATAL);
}

static struct request *request_take(struct nvme *n)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        if (!n->request[i].used)
            return &n->request[i];
    return NULL;
}

static void fetch(struct nvme *n, unsigned id)
{
    struct submission *s = &n->sq[id];
    struct request *r;

    while (works(n) && s->used && s->head != s->tail && (r = request_take(n))) {
        memset(r, 0, sizeof(*r));
        if (pci_dma_read(&n->pci, s->base + (uint64_t)s->head * COMMAND, r->command, COMMAND) < 0) {
            fatal(n);
            return;
        }
        s->head = (s->head + 1) % s->size;
        r->used = true;
        r->sq = (uint16_t)id;
        execute(n, r);
    }
}

static void fetch_all(struct nvme *n)
{
    for (unsigned i = 0; i < QUEUES; i++)
        fetch(n, i);
}

/* The guest took completions: those that waited for room, then new commands. */
static void room_made(struct nvme *n, unsigned id)
{
    for (unsigned i = 0; i < REQUESTS; i++) {
        struct request *r = &n->request[i];

        if (r->used && r->done && n->sq[r->sq].cq == id && !post(n, r))
            break;
    }
    update_pin(n);
    fetch_all(n);
}

static void doorbell(struct nvme *n, unsigned index, uint32_t value)
{
    unsigned id = index / 2;

    if (!works(n) || id >= QUEUES)
        return;
    if (index & 1) {
        if (n->cq[id].used && value < n->cq[id].size) {
            n->cq[id].head = value;
            room_made(n, id);
        }
    } else if (n->sq[id].used && value < n->sq[id].size) {
        n->sq[id].tail = value;
        fetch(n, id);
    }
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static uint64_t capabilities(void)
{
    return (ENTRIES_MAX - 1) | 1 << 16 /* queues in one piece */ | UINT64_C(15) << 24 /* 7.5 s */ |
           UINT64_C(1) << 37 /* the NVM command set */;
}

static void controller_reset(struct nvme *n)
{
    for (unsigned i = 0; i < REQUESTS; i++)
        request_drop(&n->request[i]);
    memset(n->sq, 0, sizeof(n->sq));
    memset(n->cq, 0, sizeof(n->cq));
    n->csts = 0;
    memset(n->feature, 0, sizeof(n->feature));
    n->feature[TEMPERATURE] = 343;
    n->feature[WRITE_CACHE] = disk_write_cache(n->disk);
    update_pin(n);
}

static void enable(struct nvme *n)
{
    uint32_t sq = (n->aqa & 0xfff) + 1, cq = (n->aqa >> 16 & 0xfff) + 1;

    /* Pages of 4 KiB, the NVM command set, and queues that are somewhere. */
    if (n->cc & 0x7f0 || sq < 2 || cq < 2 || n->asq & (PAGE - 1) || n->acq & (PAGE - 1)) {
        fatal(n);
        return;
    }
    n->sq[0] = (struct submission){.used = true, .size = sq, .base = n->asq};
    n->cq[0] = (struct completion){
        .used = true, .interrupts = true, .phase = true, .size = cq, .base = n->acq};
    n->csts = CSTS_READY;
}

static void write_cc(struct nvme *n, uint32_t value)
{
    uint32_t before = n->cc;

    n->cc = value & 0x00fffff1;
    if (before & CC_EN && !(value & CC_EN))
        controller_reset(n);
    else if (!(before & CC_EN) && value & CC_EN)
        enable(n);
    if (value & CC_SHUTDOWN)
        n->csts = (n->csts & ~(uint32_t)CSTS_SHUTDOWN) | CSTS_SHUT;
    else
        n->csts &= ~(uint32_t)CSTS_SHUTDOWN;
}

static uint64_t nvme_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct nvme *n = to_nvme(dev);
    uint8_t r[0x38] = {0};

    if (offset + size > sizeof(r))
        return 0;
    store_le(r + CAP, capabilities(), 8);
    store_le(r + VS, 0x00010400, 4);
    store_le(r + INTMS, n->mask, 4);
    store_le(r + INTMC, n->mask, 4);
    store_le(r + CC, n->cc, 4);
    store_le(r + CSTS, n->csts, 4);
    store_le(r + AQA, n->aqa, 4);
    store_le(r + ASQ, n->asq, 8);
    store_le(r + ACQ, n->acq, 8);
    return load_le(r + offset, size);
}

static void put_half(uint64_t *reg, uint64_t offset, uint64_t value)
{
    *reg = bits_set(*reg, offset & 4 ? 32 : 0, 32, value);
}

static void nvme_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct nvme *n = to_nvme(dev);

    if (offset >= REGISTERS) {
        if (size == 4)
            doorbell(n, (unsigned)(offset - REGISTERS) / 4, (uint32_t)value);
        return;
    }
    if (size == 8 && (offset == ASQ || offset == ACQ)) {
        *(offset == ASQ ? &n->asq : &n->acq) = value;
        return;
    }
    if (size != 4) {
        guest_error_write(dev, offset, value, size);
        return;
    }
    switch (offset) {
    case INTMS: n->mask |= (uint32_t)value; break;
    case INTMC: n->mask &= ~(uint32_t)value; break;
    case CC: write_cc(n, (uint32_t)value); break;
    case AQA: n->aqa = (uint32_t)value & 0x0fff0fff; break;
    case ASQ:
    case ASQ + 4: put_half(&n->asq, offset, value); break;
    case ACQ:
    case ACQ + 4: put_half(&n->acq, offset, value); break;
    default: break;
    }
    update_pin(n);
}

static const struct io_ops nvme_io = {nvme_read, nvme_write, 1, 8};

/* ---- the device --------------------------------------------------------------------------------
 */

static void nvme_reset(struct pci_device *p)
{
    struct nvme *n = container_of(p, struct nvme, pci);

    n->mask = n->cc = n->aqa = 0;
    n->asq = n->acq = 0;
    controller_reset(n);
}

/* The fields may come from a hostile stream. */
static bool sane(const struct nvme *n)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        const struct submission *s = &n->sq[i];
        const struct completion *c = &n->cq[i];

        if (s->used && (s->size < 2 || s->size > 2 * ENTRIES_MAX || s->head >= s->size ||
                        s->tail >= s->size || s->cq >= QUEUES || !n->cq[s->cq].used))
            return false;
        if (c->used && (c->size < 2 || c->size > 2 * ENTRIES_MAX || c->head >= c->size ||
                        c->tail >= c->size || c->vector >= VECTORS))
            return false;
    }
    for (unsigned i = 0; i < REQUESTS; i++)
        if (n->request[i].used && (n->request[i].sq >= QUEUES || !n->sq[n->request[i].sq].used))
            return false;
    return true;
}

static void nvme_refresh(struct pci_device *p)
{
    struct nvme *n = container_of(p, struct nvme, pci);

    for (unsigned i = 0; i < REQUESTS; i++) {
        transfer_forget(n->request[i].transfer);
        n->request[i].transfer = NULL;
    }
    if (!sane(n)) {
        controller_reset(n);
        fatal(n);
        return;
    }
    for (unsigned i = 0; i < REQUESTS; i++)
        if (n->request[i].used && !n->request[i].done && n->request[i].sq)
            execute(n, &n->request[i]);
    update_pin(n);
}

static void nvme_unrealize(struct pci_device *p)
{
    struct nvme *n = container_of(p, struct nvme, pci);

    pthread_mutex_lock(&p->dev.lock);
    for (unsigned i = 0; i < REQUESTS; i++)
        request_drop(&n->request[i]);
    pthread_mutex_unlock(&p->dev.lock);
    disk_drain(n->disk);
}

static int nvme_realize(struct pci_device *p, struct error *err)
{
    struct nvme *n = container_of(p, struct nvme, pci);
    int r;

    if (!n->disk)
        return error_set(err, EINVAL, "nvme: needs drive=ID");
    if (disk_size(n->disk) < LBA)
        return error_set(err, EINVAL, "nvme: '%s' is empty", disk_filename(n->disk));
    if (n->serial && strlen(n->serial) > 20)
        return error_set(err, EINVAL, "nvme: serial=%s has more than 20 characters", n->serial);
    pci_bar_add(p, BAR_REGISTERS, PCI_BAR_MEM64, false, REGISTERS_SIZE);
    pci_bar_add(p, BAR_MSIX, PCI_BAR_MEM32, false, pci_msix_size(VECTORS));
    r = pci_bar_io(p, BAR_REGISTERS, 0, REGISTERS_SIZE, &nvme_io, err);
    return r ? r : pci_msix_add(p, VECTORS, BAR_MSIX, 0, err);
}

static const struct pci_type nvme_pci = {
    .vendor = 0x1b36,
    .device = 0x0010,
    .revision = 2,
    .class_code = 0x010802,
    .pin = 1,
    .realize = nvme_realize,
    .reset = nvme_reset,
    .refresh = nvme_refresh,
    .unrealize = nvme_unrealize,
};

static const struct property nvme_properties[] = {
    PCI_PROPERTIES(struct nvme, pci),
    PROPERTY_REF("drive", struct nvme, disk, "the disk"),
    PROPERTY_STRING("serial", struct nvme, serial, NULL, "serial number, up to 20 characters"),
    PROPERTY_END,
};

static const struct state_field submission_state[] = {
    STATE_BOOL(struct submission, used),
    STATE_U16(struct submission, cq),
    STATE_U32(struct submission, size),
    STATE_U32(struct submission, head),
    STATE_U32(struct submission, tail),
    STATE_U64(struct submission, base),
    STATE_END,
};

static const struct state_field completion_state[] = {
    STATE_BOOL(struct completion, used),
    STATE_BOOL(struct completion, interrupts),
    STATE_BOOL(struct completion, phase),
    STATE_U16(struct completion, vector),
    STATE_U32(struct completion, size),
    STATE_U32(struct completion, head),
    STATE_U32(struct completion, tail),
    STATE_U64(struct completion, base),
    STATE_END,
};

static const struct state_field request_state[] = {
    STATE_BOOL(struct request, used),     STATE_BOOL(struct request, done),
    STATE_U16(struct request, sq),        STATE_U16(struct request, status),
    STATE_U32(struct request, result),    STATE_U32(struct request, trim_at),
    STATE_ARRAY(struct request, command), STATE_END,
};

static const struct state_field nvme_state[] = {
    PCI_STATE(struct nvme, pci),
    STATE_U32(struct nvme, mask),
    STATE_U32(struct nvme, cc),
    STATE_U32(struct nvme, csts),
    STATE_U32(struct nvme, aqa),
    STATE_U64(struct nvme, asq),
    STATE_U64(struct nvme, acq),
    STATE_STRUCT_ARRAY(struct nvme, sq, submission_state),
    STATE_STRUCT_ARRAY(struct nvme, cq, completion_state),
    STATE_STRUCT_ARRAY(struct nvme, request, request_state),
    STATE_ARRAY(struct nvme, feature),
    STATE_U64(struct nvme, read_blocks),
    STATE_U64(struct nvme, written_blocks),
    STATE_U64(struct nvme, reads),
    STATE_U64(struct nvme, writes),
    STATE_END,
};

const struct device_type nvme_type = {
    .name = "nvme",
    .summary = "NVM Express controller with one namespace",
    .bus = "pci",
    .instance_size = sizeof(struct nvme),
    .properties = nvme_properties,
    .state = nvme_state,
    .bus_data = &nvme_pci,
    PCI_DEVICE_HOOKS,
};
