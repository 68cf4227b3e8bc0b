/*
 * ide.c - the IDE function of the PIIX3: two channels at the ports of the AT, with bus-master DMA.
 * Intel 290550 (PIIX3) and SFF-8038i (programming interface for bus-master IDE).
 *
 * The channels answer at their old ports whatever configuration space says, for there are guests
 * that never look there. Both drives of a channel hear every register write; only the selected one
 * drives the interrupt.
 */
#include "devices/block/ata_bus.h"
#include "devices/pci/pci.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdio.h>

enum ide_register {
    REG_DATA,
    REG_FEATURE,
    REG_COUNT,
    REG_LOW,
    REG_MID,
    REG_HIGH,
    REG_DEVICE,
    REG_COMMAND
};
enum { CMD_EXECUTE_DIAGNOSTIC = 0x90 };

/* Of each channel's eight bus-master registers. */
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4, BM_LENGTH = 8 };
enum { BM_START = 1, BM_TO_MEMORY = 8 };
enum { BM_ACTIVE = 1, BM_ERROR = 2, BM_INTERRUPT = 4, BM_CAPABLE = 0x60 };

enum { TABLE_END = 1u << 31 };

static const uint16_t command_ports[2] = {0x1f0, 0x170}, control_ports[2] = {0x3f6, 0x376};
static const uint8_t gsis[2] = {14, 15};

struct channel {
    /* saved */
    uint8_t control, selected;
    bool interrupt;
    uint8_t bm_command, bm_status;
    uint32_t bm_table, bm_next; /* the table's address; its entry to be read next */
    uint32_t bm_address, bm_left;
    bool bm_last;
    struct ata drive[2];

    struct irq_line line;
    struct ata_bus bus;
};

struct piix3_ide {
    struct pci_device pci;
    struct channel channel[2];
};
#define to_ide(d) container_of(to_pci(d), struct piix3_ide, pci)

static struct channel *channel_of(struct ata *a)
{
    struct piix3_ide *ide = to_ide(a->controller);

    return a == &ide->channel[0].drive[0] || a == &ide->channel[0].drive[1] ? &ide->channel[0]
                                                                            : &ide->channel[1];
}

static struct ata *selected(struct channel *c)
{
    struct ata *a = &c->drive[c->selected];

    return ata_present(a) ? a : NULL;
}

static void update_line(struct channel *c)
{
    irq_line_set(&c->line, c->interrupt && !(c->control & ATA_NIEN));
}

static void interrupt(struct ata *a)
{
    struct channel *c = channel_of(a);

    if (a != selected(c))
        return;
    c->interrupt = true;
    c->bm_status |= BM_INTERRUPT;
    update_line(c);
}

/* ---- bus-master DMA ----------------------------------------------------------------------------
 */

static bool next_entry(struct piix3_ide *ide, struct channel *c)
{
    uint8_t entry[8];

    if (pci_dma_read(&ide->pci, c->bm_next, entry, sizeof(entry)) < 0)
        return false;
    c->bm_next += sizeof(entry);
    c->bm_address = (uint32_t)load_le(entry, 4) & ~1u;
    c->bm_left = (uint32_t)load_le(entry + 4, 2) & ~1u;
    if (!c->bm_left)
        c->bm_left = 64 * KiB;
    c->bm_last = load_le(entry + 4, 4) & TABLE_END;
    return true;
}

static int64_t ide_dma(struct ata *a, uint8_t *data, uint32_t size, bool to_guest)
{
    struct piix3_ide *ide = to_ide(a->controller);
    struct channel *c = channel_of(a);
    uint32_t done = 0;
    int r = 0;

    if (!(c->bm_status & BM_ACTIVE) || a != selected(c))
        return -EAGAIN;
    if (to_guest != !!(c->bm_command & BM_TO_MEMORY))
        r = -EINVAL;
    while (!r && done < size) {
        uint32_t n;

        if (!c->bm_left && (c->bm_last || !next_entry(ide, c))) {
            r = c->bm_last ? 0 : -EFAULT;
            break;
        }
        n = MIN(c->bm_left, size - done);
        r = to_guest ? pci_dma_write(&ide->pci, c->bm_address, data + done, n)
                     : pci_dma_read(&ide->pci, c->bm_address, data + done, n);
        c->bm_address += n;
        c->bm_left -= n;
        done += n;
    }
    if (r < 0)
        c->bm_status = (uint8_t)((c->bm_status & ~BM_ACTIVE) | BM_ERROR);
    return r < 0 ? r : (int64_t)done;
}

static void ide_block(struct ata *a, bool tell)
{
    if (tell)
        interrupt(a);
}

static void ide_ended(struct ata *a)
{
    struct channel *c = channel_of(a);

    /* A table longer than the transfer leaves the engine running. */
    if (a->by_dma && a == selected(c) && !c->bm_left && c->bm_last)
        c->bm_status &= (uint8_t)~BM_ACTIVE;
    interrupt(a);
}

static const struct ata_ops ide_ops = {.dma = ide_dma, .block = ide_block, .ended = ide_ended};

static uint64_t bm_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct channel *c = &to_ide(dev)->channel[offset / BM_LENGTH];
    uint8_t registers[BM_LENGTH] = {[BM_COMMAND] = c->bm_command, [BM_STATUS] = c->bm_status};

    store_le(registers + BM_TABLE, c->bm_table, 4);
    return load_le(registers + offset % BM_LENGTH, size);
}

static void bm_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct channel *c = &to_ide(dev)->channel[offset / BM_LENGTH];
    unsigned reg = offset % BM_LENGTH;

    if (reg == BM_COMMAND && size == 1) {
        bool start = value & BM_START && !(c->bm_command & BM_START);

        c->bm_command = (uint8_t)value & (BM_START | BM_TO_MEMORY);
        if (!(value & BM_START))
            c->bm_status &= (uint8_t)~BM_ACTIVE;
        if (start) {
            c->bm_status |= BM_ACTIVE;
            c->bm_next = c->bm_table;
            c->bm_left = 0;
            c->bm_last = false;
            if (selected(c))
                ata_dma_go(selected(c));
        }
    } else if (reg == BM_STATUS && size == 1) {
        c->bm_status = (uint8_t)((value & BM_CAPABLE) | (c->bm_status & BM_ACTIVE) |
                                 (c->bm_status & ~value & (BM_ERROR | BM_INTERRUPT)));
    } else if (reg >= BM_TABLE && reg + size <= BM_LENGTH) {
        uint8_t bytes[4];

        store_le(bytes, c->bm_table, 4);
        store_le(bytes + reg - BM_TABLE, value, size);
        c->bm_table = (uint32_t)load_le(bytes, 4) & ~3u;
    }
}

static const struct io_ops bm_io = {bm_read, bm_write, 1, 4};

/* ---- a channel's registers ---------------------------------------------------------------------
 */

static uint32_t data_read(struct channel *c, unsigned size)
{
    struct ata *a = selected(c);
    uint32_t left, value;
    uint8_t *block;

    if (!a || !a->to_guest)
        return 0;
    block = ata_block(a, &left);
    if (!left)
        return 0;
    size = MIN(size, left);
    value = (uint32_t)load_le(block, size == 3 ? 2 : size);
    ata_block_moved(a, size);
    return value;
}

static void data_write(struct channel *c, uint32_t value, unsigned size)
{
    struct ata *a = selected(c);
    uint32_t left;
    uint8_t *block;

    if (!a || a->to_guest)
        return;
    block = ata_block(a, &left);
    if (!left)
        return;
    size = MIN(size, left);
    store_le(block, value, size == 3 ? 2 : size);
    ata_block_moved(a, size);
}

static uint8_t status_read(struct channel *c, bool acknowledge)
{
    struct ata *a = selected(c);

    if (acknowledge) {
        c->interrupt = false;
        update_line(c);
    }
    return !a ? 0 : a->phase == ATA_DISK ? ATA_BSY : a->status;
}

static uint8_t register_read(struct channel *c, unsigned reg)
{
    struct ata *a = selected(c);
    const struct ata_registers *r;

    if (reg == REG_COMMAND)
        return status_read(c, true);
    if (!a)
        return 0;
    r = c->control & ATA_HOB ? &a->before : &a->now;
    switch (reg) {
    case REG_FEATURE: return c->control & ATA_HOB ? r->feature : a->error;
    case REG_COUNT: return r->count;
    case REG_LOW: return r->low;
    case REG_MID: return r->mid;
    case REG_HIGH: return r->high;
    default: return (uint8_t)(a->device | 0xa0);
    }
}

static void register_write(struct channel *c, unsigned reg, uint8_t value)
{
    if (reg == REG_DEVICE)
        c->selected = value & ATA_DEVICE_1 ? 1 : 0;
    c->control &= (uint8_t)~ATA_HOB;
    for (unsigned i = 0; i < 2; i++) {
        struct ata *a = &c->drive[i];
        uint8_t *now, *before;

        if (!ata_present(a) || a->phase != ATA_IDLE)
            continue;
        switch (reg) {
        case REG_FEATURE: now = &a->now.feature, before = &a->before.feature; break;
        case REG_COUNT: now = &a->now.count, before = &a->before.count; break;
        case REG_LOW: now = &a->now.low, before = &a->before.low; break;
        case REG_MID: now = &a->now.mid, before = &a->before.mid; break;
        case REG_HIGH: now = &a->now.high, before = &a->before.high; break;
        default: a->device = value; continue;
        }
        *before = *now;
        *now = value;
    }
}

static void command_write(struct channel *c, uint8_t value)
{
    c->interrupt = false;
    update_line(c);
    if (value == CMD_EXECUTE_DIAGNOSTIC) { /* for both; device 0 reports */
        c->selected = 0;
        for (unsigned i = 0; i < 2; i++)
            if (ata_present(&c->drive[i]))
                ata_command(&c->drive[i], value);
    } else if (selected(c)) {
        ata_command(selected(c), value);
    }
}

static uint64_t ide_read(struct channel *c, uint64_t offset, unsigned size)
{
    if (offset == REG_DATA)
        return data_read(c, size);
    return size == 1 ? register_read(c, (unsigned)offset) : size_mask(size);
}

static void ide_write(struct channel *c, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == REG_DATA)
        data_write(c, (uint32_t)value, size);
    else if (size == 1 && offset == REG_COMMAND)
        command_write(c, (uint8_t)value);
    else if (size == 1)
        register_write(c, (unsigned)offset, (uint8_t)value);
}

static void control_write(struct channel *c, uint8_t value)
{
    bool reset = value & ATA_SRST && !(c->control & ATA_SRST);
    bool ready = !(value & ATA_SRST) && c->control & ATA_SRST;

    c->control = value & (ATA_NIEN | ATA_SRST | ATA_HOB);
    for (unsigned i = 0; i < 2 && (reset || ready); i++) {
        if (!ata_present(&c->drive[i]))
            continue;
        ata_reset(&c->drive[i], false);
        if (reset)
            c->drive[i].status = ATA_BSY;
        c->drive[i].device = 0;
    }
    if (reset) {
        c->selected = 0;
        c->interrupt = false;
    }
    update_line(c);
}

static uint64_t primary_read(struct device *dev, uint64_t offset, unsigned size)
{
    return ide_read(&to_ide(dev)->channel[0], offset, size);
}

static uint64_t secondary_read(struct device *dev, uint64_t offset, unsigned size)
{
    return ide_read(&to_ide(dev)->channel[1], offset, size);
}

static void primary_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    ide_write(&to_ide(dev)->channel[0], offset, value, size);
}

static void secondary_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    ide_write(&to_ide(dev)->channel[1], offset, value, size);
}

static uint64_t primary_status(struct device *dev, uint64_t offset, unsigned size)
{
    return status_read(&to_ide(dev)->channel[0], false);
}

static uint64_t secondary_status(struct device *dev, uint64_t offset, unsigned size)
{
    return status_read(&to_ide(dev)->channel[1], false);
}

static void primary_control(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    control_write(&to_ide(dev)->channel[0], (uint8_t)value);
}

static void secondary_control(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    control_write(&to_ide(dev)->channel[1], (uint8_t)value);
}

static const struct io_ops command_io[2] = {{primary_read, primary_write, 1, 4},
                                            {secondary_read, secondary_write, 1, 4}};
static const struct io_ops control_io[2] = {{primary_status, primary_control, 1, 1},
                                            {secondary_status, secondary_control, 1, 1}};

/* ---- the device --------------------------------------------------------------------------------
 */

struct ata_bus *piix3_ide_bus(struct device *dev, unsigned n)
{
    return dev->type == &piix3_ide_type && n < 2 ? &to_ide(dev)->channel[n].bus : NULL;
}

static void ide_reset(struct pci_device *p)
{
    struct piix3_ide *ide = container_of(p, struct piix3_ide, pci);

    for (unsigned i = 0; i < 2; i++) {
        struct channel *c = &ide->channel[i];

        c->control = c->selected = 0;
        c->interrupt = false;
        c->bm_command = c->bm_status = 0;
        c->bm_table = c->bm_next = c->bm_address = c->bm_left = 0;
        c->bm_last = false;
        for (unsigned n = 0; n < 2; n++)
            if (ata_present(&c->drive[n]))
                ata_reset(&c->drive[n], true);
        update_line(c);
    }
}

static void ide_refresh(struct pci_device *p)
{
    struct piix3_ide *ide = container_of(p, struct piix3_ide, pci);

    for (unsigned i = 0; i < 2; i++) {
        struct channel *c = &ide->channel[i];

        c->selected &= 1;
        for (unsigned n = 0; n < 2; n++)
            if (ata_present(&c->drive[n]))
                ata_refresh(&c->drive[n]);
        update_line(c);
    }
}

static int ide_realize(struct pci_device *p, struct error *err)
{
    struct piix3_ide *ide = container_of(p, struct piix3_ide, pci);
    int r = 0;

    pci_set(p, PCI_STATUS, 0x0280, 2);
    pci_set_writable(p, PIIX3_IDE_TIMING, 0xffffffff, 4);
    pci_set_writable(p, PIIX3_IDE_TIMING + 4, 0xff, 1);
    pci_bar_add(p, 4, PCI_BAR_IO, false, 2 * BM_LENGTH);
    r = pci_bar_io(p, 4, 0, 2 * BM_LENGTH, &bm_io, err);
    for (unsigned i = 0; i < 2 && !r; i++) {
        struct channel *c = &ide->channel[i];

        c->bus = (struct ata_bus){.controller = &p->dev,
                                  .ops = &ide_ops,
                                  .drive = {&c->drive[0], &c->drive[1]},
                                  .units = 2};
        r = device_map_pio(&p->dev, command_ports[i], 8, &command_io[i], err);
        if (!r)
            r = device_map_pio(&p->dev, control_ports[i], 1, &control_io[i], err);
        if (!r)
            r = device_claim_irq(&p->dev, gsis[i], &c->line, err);
    }
    return r;
}

static const struct pci_type ide_pci = {
    .vendor = 0x8086,
    .device = 0x7010,
    .class_code = 0x010180,
    .realize = ide_realize,
    .reset = ide_reset,
    .refresh = ide_refresh,
};

static const struct property ide_properties[] = {
    PCI_PROPERTIES(struct piix3_ide, pci),
    PROPERTY_END,
};

static const struct state_field channel_state[] = {
    STATE_U8(struct channel, control),
    STATE_U8(struct channel, selected),
    STATE_BOOL(struct channel, interrupt),
    STATE_U8(struct channel, bm_command),
    STATE_U8(struct channel, bm_status),
    STATE_U32(struct channel, bm_table),
    STATE_U32(struct channel, bm_next),
    STATE_U32(struct channel, bm_address),
    STATE_U32(struct channel, bm_left),
    STATE_BOOL(struct channel, bm_last),
    STATE_STRUCT_ARRAY(struct channel, drive, ata_state),
    STATE_END,
};

static const struct state_field ide_state[] = {
    PCI_STATE(struct piix3_ide, pci),
    STATE_STRUCT_ARRAY(struct piix3_ide, channel, channel_state),
    STATE_END,
};

const struct device_type piix3_ide_type = {
    .name = "piix3-ide",
    .summary = "PIIX3 IDE controller",
    .bus = "pci",
    .instance_size = sizeof(struct piix3_ide),
    .properties = ide_properties,
    .state = ide_state,
    .bus_data = &ide_pci,
    PCI_DEVICE_HOOKS,
};
