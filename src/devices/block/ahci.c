/*
 * ahci.c - the SATA controller of the ICH9 in AHCI mode, six ports. Serial ATA AHCI 1.3.1.
 *
 * A port has one drive (ata.c). A command that is not queued goes through the drive's registers,
 * one at a time: its FIS fills them, the drive moves data through the slot's memory table, and its
 * end becomes a FIS to the guest. Queued commands (READ and WRITE FPDMA) never touch the registers:
 * each has a transfer of its own, and how far it got is counted only when a piece is done, so a
 * machine that is restored repeats the piece.
 */
#include "devices/block/ata_bus.h"
#include "devices/pci/pci.h"
#include "machine/machine.h"

#include <errno.h>

enum { PORTS = 6, SLOTS = 32, NO_SLOT = 0xff };

enum hba_register {
    HBA_CAP = 0x00,
    HBA_CONTROL = 0x04,
    HBA_STATUS = 0x08,
    HBA_PORTS = 0x0c,
    HBA_VERSION = 0x10,
    HBA_LENGTH = 0x1000,
    PORT_BASE = 0x100,
    PORT_LENGTH = 0x80
};
enum {
    CAP_64 = 1u << 31,
    CAP_QUEUE = 1 << 30,
    CAP_CLO = 1 << 24,
    CAP_GEN3 = 3 << 20,
    CAP_AHCI_ONLY = 1 << 18,
    CAP_SLOTS = 31 << 8
};
enum { HBA_RESET = 1 << 0, HBA_INTERRUPTS = 1 << 1, HBA_AHCI = 1u << 31 };

enum port_register {
    P_LIST = 0x00,
    P_LIST_HIGH = 0x04,
    P_FIS = 0x08,
    P_FIS_HIGH = 0x0c,
    P_IS = 0x10,
    P_IE = 0x14,
    P_CMD = 0x18,
    P_TFD = 0x20,
    P_SIG = 0x24,
    P_SSTS = 0x28,
    P_SCTL = 0x2c,
    P_SERR = 0x30,
    P_SACT = 0x34,
    P_CI = 0x38,
    P_SNTF = 0x3c
};
enum port_interrupt {
    IS_REGISTER = 1 << 0,
    IS_PIO = 1 << 1,
    IS_BITS = 1 << 3,
    IS_CONNECT = 1 << 6,
    IS_OVERFLOW = 1 << 24,
    IS_BUS = 1 << 29,
    IS_TASK_FILE = 1 << 30,
    IE_ALL = 0x7dc000ff
};
enum port_command {
    CMD_START = 1 << 0,
    CMD_SPIN_UP = 1 << 1,
    CMD_POWER = 1 << 2,
    CMD_CLO = 1 << 3,
    CMD_FIS = 1 << 4,
    CMD_SLOT = 31 << 8,
    CMD_FIS_RUNS = 1 << 14,
    CMD_RUNS = 1 << 15,
    CMD_ATAPI = 1 << 24,
    CMD_WRITABLE = CMD_START | CMD_FIS | CMD_ATAPI | 0x0e000000
};
enum { SERR_EXCHANGED = 1 << 26, SSTS_UP = 0x133, TFD_NONE = 0x7f, SIG_NONE = 0xffffffff };

/* Command header and FIS. */
enum { HEADER_SIZE = 32, TABLE_PACKET = 0x40, TABLE_PRD = 0x80, PRD_SIZE = 16 };
enum { FIS_TO_DEVICE = 0x27, FIS_TO_HOST = 0x34, FIS_PIO = 0x5f, FIS_SET_BITS = 0xa1 };
enum { AT_PIO = 0x20, AT_REGISTER = 0x40, AT_SET_BITS = 0x58 };
enum { FIS_IS_COMMAND = 0x80, FIS_INTERRUPT = 0x40, FIS_PIO_IN = 0x20 };
enum { QUEUED_READ = 0x60, QUEUED_WRITE = 0x61, QUEUED_FUA = 0x80 };

/* A slot's memory, and how far the data got in it. */
struct scatter {
    uint64_t table;
    uint32_t entries;
    uint32_t index, offset; /* entry, and bytes into it */
};

struct queued {
    /* saved */
    bool used, write, fua;
    uint64_t offset, left;
    uint64_t lba;
    uint32_t count;
    struct scatter memory;
    struct transfer *transfer;
};

struct port {
    /* saved */
    uint64_t list, fis;
    uint32_t is, ie, cmd, tfd, sig, sctl, serr, sact, ci;
    uint8_t slot;       /* of the command in the drive's registers, or NO_SLOT */
    bool signature_due; /* the drive's first FIS, which waits for somewhere to go */
    bool resetting;     /* between the two FIS of a software reset */
    bool stopped;       /* by a failed command, until START is cleared */
    uint32_t moved;     /* bytes, for the slot's header */
    struct scatter memory;
    struct ata drive;
    struct queued queued[SLOTS];

    struct ata_bus bus;
};

struct ahci {
    struct pci_device pci;
    uint32_t control, status; /* saved */
    struct port port[PORTS];
};
#define to_ahci(d) container_of(to_pci(d), struct ahci, pci)

static struct port *port_of(struct ata *a)
{
    return container_of(a, struct port, drive);
}

static struct ahci *ahci_of(struct port *p)
{
    return to_ahci(p->bus.controller);
}

/* ---- interrupts --------------------------------------------------------------------------------
 */

static void update_interrupts(struct ahci *h, bool news)
{
    bool raised;

    for (unsigned i = 0; i < PORTS; i++)
        if (h->port[i].is & h->port[i].ie)
            h->status |= 1u << i;
    raised = h->control & HBA_INTERRUPTS && h->status;
    if (!pci_msi_enabled(&h->pci))
        pci_intx_set(&h->pci, raised);
    else if (raised && news)
        pci_msi_send(&h->pci, 0);
}

static void port_event(struct port *p, uint32_t bits)
{
    p->is |= bits;
    update_interrupts(ahci_of(p), (bits & p->ie) != 0);
}

/* ---- what the guest receives -------------------------------------------------------------------
 */

static void put_registers(const struct ata *a, uint8_t *fis)
{
    fis[2] = a->status;
    fis[3] = a->error;
    fis[4] = a->now.low;
    fis[5] = a->now.mid;
    fis[6] = a->now.high;
    fis[7] = a->device;
    fis[8] = a->before.low;
    fis[9] = a->before.mid;
    fis[10] = a->before.high;
    fis[12] = a->now.count;
    fis[13] = a->before.count;
}

static void receive(struct port *p, unsigned at, const uint8_t *fis, unsigned size)
{
    if (p->cmd & CMD_FIS && pci_dma_write(&ahci_of(p)->pci, p->fis + at, fis, size) < 0)
        p->is |= IS_BUS;
}

static void send_registers(struct port *p, bool interrupt)
{
    struct ata *a = &p->drive;
    uint8_t fis[20] = {FIS_TO_HOST, interrupt ? FIS_INTERRUPT : 0};

    put_registers(a, fis);
    p->tfd = a->status | (uint32_t)a->error << 8;
    receive(p, AT_REGISTER, fis, sizeof(fis));
    if (a->status & ATA_ERR)
        p->is |= IS_TASK_FILE;
    port_event(p, (interrupt ? IS_REGISTER : 0) | (a->status & ATA_ERR ? IS_TASK_FILE : 0));
}

static void send_signature(struct port *p)
{
    struct ata *a = &p->drive;

    if (!p->signature_due || !(p->cmd & CMD_FIS) || !ata_present(a))
        return;
    p->signature_due = false;
    p->sig = (uint32_t)a->now.high << 24 | (uint32_t)a->now.mid << 16 | (uint32_t)a->now.low << 8 |
             a->now.count;
    send_registers(p, false);
}

/* ---- memory of a slot --------------------------------------------------------------------------
 */

/* How many bytes went: fewer when the table ends. -EFAULT: it, or what it names, is not memory. */
static int64_t scatter_move(struct ahci *h, struct scatter *s, uint8_t *data, uint32_t size,
                            bool to_guest)
{
    uint32_t done = 0;

    while (done < size && s->index < s->entries) {
        uint8_t entry[PRD_SIZE];
        uint64_t address;
        uint32_t length, n;
        int r = pci_dma_read(&h->pci, s->table + TABLE_PRD + (uint64_t)s->index * PRD_SIZE, entry,
                             sizeof(entry));

        if (r < 0)
            return r;
        address = load_le(entry, 8) & ~UINT64_C(1);
        length = ((uint32_t)load_le(entry + 12, 4) & 0x3fffff) + 1;
        if (s->offset >= length) {
            s->index++;
            s->offset = 0;
            continue;
        }
        n = MIN(length - s->offset, size - done);
        r = to_guest ? pci_dma_write(&h->pci, address + s->offset, data + done, n)
                     : pci_dma_read(&h->pci, address + s->offset, data + done, n);
        if (r < 0)
            return r;
        done += n;
        s->offset += n;
    }
    return done;
}

/* ---- commands through the drive's registers ----------------------------------------------------
 */

static void next_command(struct port *p);

static int64_t ahci_dma(struct ata *a, uint8_t *data, uint32_t size, bool to_guest)
{
    struct port *p = port_of(a);
    int64_t n = scatter_move(ahci_of(p), &p->memory, data, size, to_guest);

    if (n < 0)
        port_event(p, IS_BUS);
    else
        p->moved += (uint32_t)n;
    return n;
}

static void ahci_block(struct ata *a, bool interrupt)
{
    struct port *p = port_of(a);
    uint8_t fis[20] = {FIS_PIO, (uint8_t)(FIS_INTERRUPT | (a->to_guest ? FIS_PIO_IN : 0))};
    uint32_t size;
    uint8_t *data = ata_block(a, &size);
    int64_t n = size;

    if (a->packet_wanted) {
        if (pci_dma_read(&ahci_of(p)->pci, p->memory.table + TABLE_PACKET, data, size) < 0)
            memset(data, 0xff, size); /* a command that does not exist */
        ata_block_moved(a, size);
        return;
    }
    put_registers(a, fis);
    fis[15] = ATA_DRDY | ATA_SEEK;
    store_le(fis + 16, MIN(size, 0xfffeu), 2);
    n = ahci_dma(a, data, size, a->to_guest);
    if (n < (int64_t)size) { /* no memory for it */
        if (a->is_cd)
            atapi_disk_failed(a);
        else
            ata_end(a, ATA_ABORT);
        return;
    }
    receive(p, AT_PIO, fis, sizeof(fis));
    p->is |= a->to_guest ? IS_PIO : 0;
    ata_block_moved(a, size);
}

static void ahci_ended(struct ata *a)
{
    struct port *p = port_of(a);
    bool told = a->to_guest && !a->by_dma && !a->is_cd && a->moved && !(a->status & ATA_ERR);
    uint8_t moved[4];

    if (p->slot == NO_SLOT)
        return;
    store_le(moved, p->moved, 4);
    if (pci_dma_write(&ahci_of(p)->pci, p->list + (uint64_t)p->slot * HEADER_SIZE + 4, moved,
                      sizeof(moved)) < 0)
        p->is |= IS_BUS;
    if (a->status & ATA_ERR)
        p->stopped = true;
    else
        p->ci &= ~(1u << p->slot);
    p->slot = NO_SLOT;
    if (told) { /* the last PIO FIS said how it ends */
        p->tfd = a->status;
        port_event(p, IS_PIO);
    } else {
        send_registers(p, true);
    }
    next_command(p);
}

static const struct ata_ops ahci_ops = {.dma = ahci_dma, .block = ahci_block, .ended = ahci_ended};

/* ---- queued commands ---------------------------------------------------------------------------
 */

static void queued_step(struct port *p, unsigned slot);

static void queued_forget(struct queued *q)
{
    transfer_forget(q->transfer);
    q->transfer = NULL;
    q->used = false;
}

static void queued_end(struct port *p, unsigned slot, uint8_t error)
{
    struct queued *q = &p->queued[slot];
    uint8_t fis[8] = {FIS_SET_BITS, FIS_INTERRUPT, ATA_DRDY, error};

    q->used = false;
    transfer_forget(q->transfer);
    q->transfer = NULL;
    if (error) {
        ata_queued_failed(&p->drive, slot, ATA_DRDY | ATA_ERR, error, q->lba, q->count);
        for (unsigned i = 0; i < SLOTS; i++)
            queued_forget(&p->queued[i]);
        fis[2] |= ATA_ERR;
        p->stopped = true;
    } else {
        store_le(fis + 4, 1u << slot, 4);
        p->sact &= ~(1u << slot);
    }
    p->tfd = fis[2] | (uint32_t)error << 8;
    receive(p, AT_SET_BITS, fis, sizeof(fis));
    port_event(p, IS_BITS | (error ? IS_TASK_FILE : 0));
    if (!error)
        next_command(p);
}

static void queued_done(struct transfer *t, int result)
{
    struct queued *q = t->owner;
    struct ata *drive = NULL;
    struct port *p = NULL;
    struct ahci *h = to_ahci(t->dev);
    uint32_t size = (uint32_t)t->iov.iov_len;

    for (unsigned i = 0; i < PORTS && !p; i++)
        if (q >= h->port[i].queued && q < h->port[i].queued + SLOTS)
            p = &h->port[i];
    drive = &p->drive;
    if (result < 0) {
        queued_end(p, (unsigned)(q - p->queued), q->write ? ATA_ABORT : ATA_UNCORRECTABLE);
        return;
    }
    if (!q->write && scatter_move(h, &q->memory, t->data, size, true) != size) {
        queued_end(p, (unsigned)(q - p->queued), ATA_ABORT);
        return;
    }
    q->offset += size;
    q->left -= size;
    *(q->write ? &drive->sectors_written : &drive->sectors_read) += size / ATA_SECTOR;
    queued_step(p, (unsigned)(q - p->queued));
}

static void queued_step(struct port *p, unsigned slot)
{
    struct queued *q = &p->queued[slot];
    struct ahci *h = ahci_of(p);
    uint32_t size = (uint32_t)MIN(q->left, (uint64_t)TRANSFER_MAX);
    bool durable = q->fua || !p->drive.write_cache;

    if (!size) {
        queued_end(p, slot, 0);
        return;
    }
    if (!q->transfer)
        q->transfer = transfer_new(&h->pci.dev, q, size, queued_done);
    if (q->write && scatter_move(h, &q->memory, q->transfer->data, size, false) != size) {
        queued_end(p, slot, ATA_ABORT);
        return;
    }
    transfer_submit(q->transfer, p->drive.disk, q->write ? DISK_WRITE : DISK_READ, q->offset, size,
                    q->write && durable ? DISK_FUA : 0);
}

static void queued_start(struct port *p, unsigned slot, const uint8_t *fis,
                         const struct scatter *memory)
{
    struct queued *q = &p->queued[slot];
    uint32_t count = fis[3] | (uint32_t)fis[11] << 8;
    uint64_t lba = load_le(fis + 4, 2) | (uint64_t)fis[6] << 16 | (uint64_t)fis[8] << 24 |
                   (uint64_t)fis[9] << 32 | (uint64_t)fis[10] << 40;

    count = count ? count : 65536;
    *q = (struct queued){.used = true,
                         .write = fis[2] == QUEUED_WRITE,
                         .fua = fis[7] & QUEUED_FUA,
                         .offset = lba * ATA_SECTOR,
                         .left = (uint64_t)count * ATA_SECTOR,
                         .lba = lba,
                         .count = count,
                         .memory = *memory};
    p->ci &= ~(1u << slot); /* accepted */
    if (fis[12] >> 3 != slot || !(p->sact & 1u << slot))
        queued_end(p, slot, ATA_ABORT);
    else if (!range_within(lba, count, p->drive.sectors))
        queued_end(p, slot, ATA_NOT_FOUND);
    else
        queued_step(p, slot);
}

/* ---- the command list --------------------------------------------------------------------------
 */

static void load_registers(struct ata *a, const uint8_t *fis)
{
    a->now = (struct ata_registers){fis[3], fis[12], fis[4], fis[5], fis[6]};
    a->before = (struct ata_registers){fis[11], fis[13], fis[8], fis[9], fis[10]};
    a->device = fis[7] & (uint8_t)~ATA_DEVICE_1;
}

static bool queue_busy(const struct port *p)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (p->queued[i].used)
            return true;
    return false;
}

/* A FIS with no command in it: the control register. */
static void control_fis(struct port *p, uint8_t control)
{
    struct ata *a = &p->drive;

    if (control & ATA_SRST) {
        p->resetting = true;
        return;
    }
    if (!p->resetting)
        return;
    p->resetting = false;
    ata_reset(a, false);
    p->signature_due = true;
    send_signature(p);
}

/* Begin the command of `slot`; false: it must wait. */
static bool begin(struct port *p, unsigned slot)
{
    struct ahci *h = ahci_of(p);
    uint8_t header[HEADER_SIZE], fis[64];
    struct scatter memory = {0};
    bool queued;

    if (pci_dma_read(&h->pci, p->list + (uint64_t)slot * HEADER_SIZE, header, sizeof(header)) < 0)
        goto bus_error;
    memory.table = load_le(header + 8, 8) & ~UINT64_C(127);
    memory.entries = (uint32_t)load_le(header + 2, 2);
    if (pci_dma_read(&h->pci, memory.table, fis, sizeof(fis)) < 0)
        goto bus_error;
    p->cmd = (p->cmd & ~CMD_SLOT) | slot << 8;
    if (fis[0] != FIS_TO_DEVICE || !ata_present(&p->drive)) {
        p->ci &= ~(1u << slot);
        return true;
    }
    if (!(fis[1] & FIS_IS_COMMAND)) {
        p->ci &= ~(1u << slot);
        control_fis(p, fis[15]);
        return true;
    }
    queued = (fis[2] == QUEUED_READ || fis[2] == QUEUED_WRITE) && !p->drive.is_cd;
    if (!queued && queue_busy(p))
        return false;
    if (queued) {
        queued_start(p, slot, fis, &memory);
        return true;
    }
    p->slot = (uint8_t)slot;
    p->memory = memory;
    p->moved = 0;
    p->tfd = ATA_BSY | ATA_DRDY;
    load_registers(&p->drive, fis);
    ata_command(&p->drive, fis[2]);
    return true;

bus_error:
    p->stopped = true;
    port_event(p, IS_BUS);
    return false;
}

/* Slots are taken in ascending order; each is begun at most once, as that clears its bit or makes
 * the port busy. An end may come back here from inside begin(): the loop then finds less to do. */
static void next_command(struct port *p)
{
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        if (!(p->cmd & CMD_START) || p->stopped || p->slot != NO_SLOT)
            return;
        if (p->ci & 1u << slot && !begin(p, slot))
            return;
    }
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static void abandon(struct port *p)
{
    for (unsigned i = 0; i < SLOTS; i++)
        queued_forget(&p->queued[i]);
    if (p->slot != NO_SLOT && ata_present(&p->drive)) {
        uint8_t device = p->drive.device;

        p->slot = NO_SLOT; /* its end is nobody's business */
        ata_reset(&p->drive, false);
        p->drive.device = device;
    }
    p->slot = NO_SLOT;
    p->ci = p->sact = 0;
    p->stopped = false;
    p->cmd &= ~(uint32_t)CMD_SLOT;
}

/* The link comes up: power on, COMRESET, HBA reset. */
static void port_reset(struct port *p, bool power_on)
{
    abandon(p);
    p->is = p->serr = 0;
    p->tfd = TFD_NONE;
    p->sig = SIG_NONE;
    p->resetting = false;
    if (!ata_present(&p->drive))
        return;
    ata_reset(&p->drive, power_on);
    p->signature_due = true;
    send_signature(p);
}

static void write_command(struct port *p, uint32_t value)
{
    uint32_t before = p->cmd;

    p->cmd = (value & CMD_WRITABLE) | CMD_SPIN_UP | CMD_POWER | (before & CMD_SLOT);
    if (value & CMD_START)
        p->cmd |= CMD_RUNS;
    if (value & CMD_FIS)
        p->cmd |= CMD_FIS_RUNS;
    if (value & CMD_CLO)
        p->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    if (before & CMD_START && !(value & CMD_START))
        abandon(p);
    send_signature(p);
    next_command(p);
}

static uint32_t port_read(struct port *p, unsigned reg)
{
    switch (reg) {
    case P_LIST: return (uint32_t)p->list;
    case P_LIST_HIGH: return (uint32_t)(p->list >> 32);
    case P_FIS: return (uint32_t)p->fis;
    case P_FIS_HIGH: return (uint32_t)(p->fis >> 32);
    case P_IS: return p->is;
    case P_IE: return p->ie;
    case P_CMD: return p->cmd;
    case P_TFD: return p->tfd;
    case P_SIG: return p->sig;
    case P_SSTS: return ata_present(&p->drive) && !(p->sctl & 5) ? SSTS_UP : 0;
    case P_SCTL: return p->sctl;
    case P_SERR: return p->serr;
    case P_SACT: return p->sact;
    case P_CI: return p->ci;
    default: return 0;
    }
}

static void port_write(struct port *p, unsigned reg, uint32_t value)
{
    switch (reg) {
    case P_LIST: p->list = (p->list & ~UINT64_C(0xffffffff)) | (value & ~1023u); break;
    case P_LIST_HIGH: p->list = (uint32_t)p->list | (uint64_t)value << 32; break;
    case P_FIS: p->fis = (p->fis & ~UINT64_C(0xffffffff)) | (value & ~255u); break;
    case P_FIS_HIGH: p->fis = (uint32_t)p->fis | (uint64_t)value << 32; break;
    case P_IS:
        p->is &= ~value;
        update_interrupts(ahci_of(p), false);
        break;
    case P_IE:
        p->ie = value & IE_ALL;
        update_interrupts(ahci_of(p), true);
        break;
    case P_CMD: write_command(p, value); break;
    case P_SCTL: {
        bool reset = (p->sctl & 15) == 1 && (value & 15) != 1;

        p->sctl = value & 0xfff;
        if (reset)
            port_reset(p, false);
        break;
    }
    case P_SERR: p->serr &= ~value; break;
    case P_SACT:
        if (p->cmd & CMD_START)
            p->sact |= value;
        break;
    case P_CI:
        if (p->cmd & CMD_START) {
            p->ci |= value;
            next_command(p);
        }
        break;
    default: break;
    }
}

static uint64_t hba_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct ahci *h = to_ahci(dev);
    unsigned at = (unsigned)offset & ~3u;
    uint32_t value = 0;

    if (at >= PORT_BASE) {
        if ((at - PORT_BASE) / PORT_LENGTH < PORTS)
            value = port_read(&h->port[(at - PORT_BASE) / PORT_LENGTH], at % PORT_LENGTH);
    } else {
        switch (at) {
        case HBA_CAP:
            value = CAP_64 | CAP_QUEUE | CAP_CLO | CAP_GEN3 | CAP_AHCI_ONLY | CAP_SLOTS |
                    (PORTS - 1);
            break;
        case HBA_CONTROL: value = h->control | HBA_AHCI; break;
        case HBA_STATUS: value = h->status; break;
        case HBA_PORTS: value = (1u << PORTS) - 1; break;
        case HBA_VERSION: value = 0x00010300; break;
        default: break;
        }
    }
    return value >> 8 * (offset & 3) & size_mask(size);
}

static void hba_reset(struct ahci *h)
{
    h->control = h->status = 0;
    for (unsigned i = 0; i < PORTS; i++) {
        struct port *p = &h->port[i];

        p->ie = 0;
        p->sctl = 0;
        p->cmd = CMD_SPIN_UP | CMD_POWER;
        port_reset(p, false);
    }
}

static void hba_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct ahci *h = to_ahci(dev);
    unsigned n = (unsigned)(offset - PORT_BASE) / PORT_LENGTH;

    if (size != 4) {
        guest_error_write(dev, offset, value, size);
        return;
    }
    if (offset >= PORT_BASE) {
        if (n < PORTS)
            port_write(&h->port[n], offset % PORT_LENGTH, (uint32_t)value);
    } else if (offset == HBA_CONTROL) {
        if (value & HBA_RESET)
            hba_reset(h);
        else
            h->control = (uint32_t)value & HBA_INTERRUPTS;
        update_interrupts(h, true);
    } else if (offset == HBA_STATUS) {
        h->status &= ~(uint32_t)value;
        update_interrupts(h, true);
    }
}

static const struct io_ops hba_io = {hba_read, hba_write, 1, 4};

/* ---- the device --------------------------------------------------------------------------------
 */

struct ata_bus *ahci_bus(struct device *dev, unsigned n)
{
    return dev->type == &ahci_type && n < PORTS ? &to_ahci(dev)->port[n].bus : NULL;
}

static void plugged(struct ata *a)
{
    struct port *p = port_of(a);

    p->signature_due = true;
    p->serr |= SERR_EXCHANGED;
    send_signature(p);
    port_event(p, IS_CONNECT);
}

static void ahci_reset(struct pci_device *pci)
{
    struct ahci *h = container_of(pci, struct ahci, pci);

    for (unsigned i = 0; i < PORTS; i++) {
        struct port *p = &h->port[i];

        p->cmd = CMD_SPIN_UP | CMD_POWER;
        p->ie = p->sctl = 0;
        p->list = p->fis = 0;
        p->moved = 0;
        p->memory = (struct scatter){0};
        p->signature_due = false;
        port_reset(p, true);
    }
    h->control = h->status = 0;
    update_interrupts(h, false);
}

static void ahci_refresh(struct pci_device *pci)
{
    struct ahci *h = container_of(pci, struct ahci, pci);

    for (unsigned i = 0; i < PORTS; i++) {
        struct port *p = &h->port[i];

        if (p->slot >= SLOTS)
            p->slot = NO_SLOT;
        if (!ata_present(&p->drive))
            continue;
        ata_refresh(&p->drive);
        for (unsigned n = 0; n < SLOTS; n++) {
            struct queued *q = &p->queued[n];

            transfer_forget(q->transfer);
            q->transfer = NULL;
            q->used = q->used && p->drive.disk && !p->drive.is_cd;
            if (q->used)
                queued_step(p, n);
        }
    }
    update_interrupts(h, false);
}

static int ahci_realize(struct pci_device *pci, struct error *err)
{
    struct ahci *h = container_of(pci, struct ahci, pci);
    int r;

    pci_set(pci, PCI_STATUS, 0x0280, 2);
    pci_set(pci, 0x90, 0x40, 1); /* the mode that firmware chooses: AHCI */
    pci_bar_add(pci, 5, PCI_BAR_MEM32, false, HBA_LENGTH);
    r = pci_bar_io(pci, 5, 0, HBA_LENGTH, &hba_io, err);
    if (!r)
        r = pci_msi_add(pci, 1, err);
    for (unsigned i = 0; i < PORTS; i++) {
        h->port[i].slot = NO_SLOT;
        h->port[i].bus = (struct ata_bus){.controller = &pci->dev,
                                          .ops = &ahci_ops,
                                          .drive = {&h->port[i].drive},
                                          .units = 1,
                                          .serial_ata = true,
                                          .plugged = plugged};
    }
    return r;
}

static const struct pci_type ahci_pci = {
    .vendor = 0x8086,
    .device = 0x2922,
    .revision = 2,
    .class_code = 0x010601,
    .pin = 1,
    .realize = ahci_realize,
    .reset = ahci_reset,
    .refresh = ahci_refresh,
};

static const struct property ahci_properties[] = {
    PCI_PROPERTIES(struct ahci, pci),
    PROPERTY_END,
};

static const struct state_field scatter_state[] = {
    STATE_U64(struct scatter, table),
    STATE_U32(struct scatter, entries),
    STATE_U32(struct scatter, index),
    STATE_U32(struct scatter, offset),
    STATE_END,
};

static const struct state_field queued_state[] = {
    STATE_BOOL(struct queued, used),
    STATE_BOOL(struct queued, write),
    STATE_BOOL(struct queued, fua),
    STATE_U64(struct queued, offset),
    STATE_U64(struct queued, left),
    STATE_U64(struct queued, lba),
    STATE_U32(struct queued, count),
    STATE_STRUCT(struct queued, memory, scatter_state),
    STATE_END,
};

static const struct state_field port_state[] = {
    STATE_U64(struct port, list),
    STATE_U64(struct port, fis),
    STATE_U32(struct port, is),
    STATE_U32(struct port, ie),
    STATE_U32(struct port, cmd),
    STATE_U32(struct port, tfd),
    STATE_U32(struct port, sig),
    STATE_U32(struct port, sctl),
    STATE_U32(struct port, serr),
    STATE_U32(struct port, sact),
    STATE_U32(struct port, ci),
    STATE_U8(struct port, slot),
    STATE_BOOL(struct port, signature_due),
    STATE_BOOL(struct port, resetting),
    STATE_BOOL(struct port, stopped),
    STATE_U32(struct port, moved),
    STATE_STRUCT(struct port, memory, scatter_state),
    STATE_STRUCT(struct port, drive, ata_state),
    STATE_STRUCT_ARRAY(struct port, queued, queued_state),
    STATE_END,
};

static const struct state_field ahci_state[] = {
    PCI_STATE(struct ahci, pci),
    STATE_U32(struct ahci, control),
    STATE_U32(struct ahci, status),
    STATE_STRUCT_ARRAY(struct ahci, port, port_state),
    STATE_END,
};

const struct device_type ahci_type = {
    .name = "ich9-ahci",
    .summary = "ICH9 SATA controller (AHCI)",
    .bus = "pci",
    .instance_size = sizeof(struct ahci),
    .properties = ahci_properties,
    .state = ahci_state,
    .bus_data = &ahci_pci,
    PCI_DEVICE_HOOKS,
};
