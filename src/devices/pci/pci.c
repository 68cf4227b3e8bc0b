/*
 * pci.c - one PCI function: its header, BARs, capabilities and interrupts. See pci.h.
 *
 * config[] is the truth; update_bars(), update_intx() and the two *_deliver_pending() derive what
 * follows and may be called at any time. BARs lie below RAM in priority, as a memory controller
 * decodes RAM first: a guest that puts a BAR over its memory, or sizes it with decoding on, loses
 * the BAR and not the memory.
 */
#include "devices/pci/pci.h"

#include "base/log.h"
#include "devices/flash/rom.h"
#include "machine/machine.h"
#include "memory/ram.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { PRIORITY_BAR = -10, ROM_MAX = 1 * MiB };
enum { PROJECT_VENDOR = 0x1af4, PROJECT_SUBSYSTEM = 0x1100 }; /* what guests expect of a VM */
enum { BAR_IO_FLAG = 1, BAR_64_FLAG = 4, BAR_PREFETCH_FLAG = 8, ROM_ENABLE = 1 };

/* Offsets within capabilities. */
enum {
    MSI_CONTROL = 2,
    MSI_ADDRESS = 4,
    MSI_ADDRESS_HIGH = 8,
    MSI_DATA = 12,
    MSI_MASK = 16,
    MSI_PENDING = 20,
    MSI_LEN = 24,
    MSI_ENABLE = 1 << 0,
    MSI_64BIT = 1 << 7,
    MSI_MASKING = 1 << 8,
    MSIX_CONTROL = 2,
    MSIX_TABLE = 4,
    MSIX_PENDING = 8,
    MSIX_LEN = 12,
    MSIX_FUNCTION_MASK = 1 << 14,
    MSIX_ENABLE = 1 << 15,
    MSIX_PENDING_OFFSET = PCI_MSIX_VECTORS * 16, /* behind the longest table */
};

static const struct state_field msix_state[] = {
    STATE_U64(struct pci_msix_vector, address),
    STATE_U32(struct pci_msix_vector, data),
    STATE_U32(struct pci_msix_vector, control),
    STATE_END,
};

const struct state_field pci_device_state[] = {
    STATE_ARRAY(struct pci_device, config),
    STATE_U8(struct pci_device, intx),
    STATE_STRUCT_ARRAY(struct pci_device, msix, msix_state),
    STATE_ARRAY(struct pci_device, msix_pending),
    STATE_END,
};

static const struct pci_type *type_of(const struct pci_device *p)
{
    return p->dev.type->bus_data;
}

/* ---- BARs --------------------------------------------------------------------------------------
 */

static unsigned bar_register(const struct pci_device *p, unsigned bar)
{
    if (bar == PCI_ROM_BAR)
        return type_of(p)->bridge ? PCI_BRIDGE_ROM_ADDRESS : PCI_ROM_ADDRESS;
    return PCI_BAR0 + 4 * bar;
}

void pci_bar_add(struct pci_device *p, unsigned bar, enum pci_bar_kind kind, bool prefetch,
                 uint64_t size)
{
    struct pci_bar *b = &p->bar[bar];
    unsigned reg = bar_register(p, bar), least = kind == PCI_BAR_IO ? 4 : 16;
    uint32_t flags = 0;

    if (bar == PCI_ROM_BAR)
        least = 2 * KiB;
    assert(bar < PCI_BARS && !b->kind && size && size <= UINT64_C(1) << 46);
    assert(kind != PCI_BAR_MEM64 || (bar < 5 && !p->bar[bar + 1].kind));
    b->size = least;
    while (b->size < size)
        b->size *= 2;
    b->kind = (uint8_t)kind;
    b->prefetch = prefetch;
    if (kind == PCI_BAR_IO)
        flags = BAR_IO_FLAG;
    else if (bar != PCI_ROM_BAR)
        flags = (kind == PCI_BAR_MEM64 ? BAR_64_FLAG : 0) | (prefetch ? BAR_PREFETCH_FLAG : 0);
    pci_set(p, reg, flags, 4);
    pci_set_writable(p, reg, (uint32_t) ~(b->size - 1) | (bar == PCI_ROM_BAR ? ROM_ENABLE : 0), 4);
    if (kind == PCI_BAR_MEM64)
        pci_set_writable(p, reg + 4, (uint32_t)(~(b->size - 1) >> 32), 4);
}

static int bar_part(struct pci_device *p, unsigned bar, uint64_t offset, uint64_t length,
                    struct region *region, bool ours, struct error *err)
{
    struct pci_bar *b = &p->bar[bar];

    assert(b->kind && range_within(offset, length, b->size) && b->parts < PCI_BAR_PARTS);
    b->part[b->parts].region = region;
    b->part[b->parts].offset = offset;
    b->part[b->parts++].ours = ours;
    return 0;
}

int pci_bar_io(struct pci_device *p, unsigned bar, uint64_t offset, uint64_t length,
               const struct io_ops *ops, struct error *err)
{
    struct region *region;
    int r = device_map_region(&p->dev, p->bar[bar].kind == PCI_BAR_IO, DEVICE_UNMAPPED, length,
                              PRIORITY_BAR, ops, &region, err);

    return r < 0 ? r : bar_part(p, bar, offset, length, region, false, err);
}

int pci_bar_ram(struct pci_device *p, unsigned bar, uint64_t offset, struct ram_block *block,
                bool writable, struct error *err)
{
    struct region *region;
    int r = memory_add_ram(p->dev.machine->memory, p->dev.id, 0, block->size, PRIORITY_BAR, 0,
                           block, 0, writable, &region, err);

    if (r < 0)
        return error_prefix(err, r, "%s: ", p->dev.type->name);
    memory_place(region, 0, false);
    memory_set_visibility(region, IN_ALL);
    return bar_part(p, bar, offset, block->size, region, true, err);
}

gpa pci_bar_address(const struct pci_device *p, unsigned bar)
{
    return p->bar[bar].placed ? p->bar[bar].base : DEVICE_UNMAPPED;
}

/* The windows a bridge forwards, from its registers. */
static bool bridge_forwards(const struct pci_device *bridge, const struct pci_bar *b, gpa base)
{
    uint16_t command = (uint16_t)pci_get(bridge, PCI_COMMAND, 2);
    uint64_t low, high;

    if (b->kind == PCI_BAR_IO) {
        low = (pci_get(bridge, PCI_IO_BASE, 1) & 0xf0) << 8;
        high = (pci_get(bridge, PCI_IO_LIMIT, 1) & 0xf0) << 8 | 0xfff;
        return command & PCI_COMMAND_IO && base >= low && base + (b->size - 1) <= high;
    }
    if (!(command & PCI_COMMAND_MEMORY))
        return false;
    low = (uint64_t)(pci_get(bridge, PCI_MEMORY_BASE, 2) & 0xfff0) << 16;
    high = (uint64_t)(pci_get(bridge, PCI_MEMORY_LIMIT, 2) & 0xfff0) << 16 | 0xfffff;
    if (base >= low && base + (b->size - 1) <= high)
        return true;
    low = (uint64_t)(pci_get(bridge, PCI_PREFETCH_BASE, 2) & 0xfff0) << 16 |
          (uint64_t)pci_get(bridge, PCI_PREFETCH_BASE_HIGH, 4) << 32;
    high = (uint64_t)(pci_get(bridge, PCI_PREFETCH_LIMIT, 2) & 0xfff0) << 16 | 0xfffff |
           (uint64_t)pci_get(bridge, PCI_PREFETCH_LIMIT_HIGH, 4) << 32;
    return base >= low && base + (b->size - 1) <= high;
}

/* Does the BAR answer, and where? */
static bool bar_decodes(const struct pci_device *p, unsigned bar, gpa *base)
{
    const struct pci_bar *b = &p->bar[bar];
    uint16_t command = (uint16_t)pci_get(p, PCI_COMMAND, 2);
    uint32_t low = pci_get(p, bar_register(p, bar), 4);

    if (!(command & (b->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return false;
    if (bar == PCI_ROM_BAR && !(low & ROM_ENABLE))
        return false;
    *base = low & ~(b->size - 1);
    if (b->kind == PCI_BAR_MEM64)
        *base |= (uint64_t)pci_get(p, bar_register(p, bar) + 4, 4) << 32 & ~(b->size - 1);
    if (!*base || *base + (b->size - 1) < *base)
        return false;
    for (const struct pci_bus *bus = p->bus; bus->bridge; bus = bus->bridge->bus)
        if (!bridge_forwards(bus->bridge, b, *base))
            return false;
    return true;
}

/* Of a function, and of all behind it: a bridge's windows decide for them. */
static void update_bars(struct pci_device *p)
{
    struct machine *m = p->dev.machine;

    memory_begin(m->memory);
    memory_begin(m->ports);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *b = &p->bar[i];
        gpa base = 0;
        bool placed = b->kind && bar_decodes(p, i, &base);

        if (placed == b->placed && base == b->base)
            continue;
        b->placed = placed;
        b->base = base;
        for (unsigned n = 0; n < b->parts; n++)
            memory_place(b->part[n].region, base + b->part[n].offset, placed);
    }
    for (unsigned i = 0; p->secondary && i < ARRAY_SIZE(p->secondary->functions); i++) {
        struct pci_device *child = p->secondary->functions[i];

        if (!child)
            continue;
        pthread_mutex_lock(&child->dev.lock);
        update_bars(child);
        pthread_mutex_unlock(&child->dev.lock);
    }
    memory_commit(m->ports);
    memory_commit(m->memory);
}

/* ---- the array and its masks ------------------------------------------------------------------
 */

void pci_set(struct pci_device *p, unsigned offset, uint32_t value, unsigned size)
{
    assert(offset + size <= p->config_size);
    store_le(p->initial + offset, value, size);
    store_le(p->config + offset, value, size);
}

void pci_set_writable(struct pci_device *p, unsigned offset, uint32_t mask, unsigned size)
{
    assert(offset + size <= p->config_size);
    store_le(p->writable + offset, mask, size);
}

void pci_set_clears(struct pci_device *p, unsigned offset, uint32_t mask, unsigned size)
{
    assert(offset + size <= p->config_size);
    store_le(p->clears + offset, mask, size);
}

int pci_cap_add(struct pci_device *p, uint8_t id, unsigned size, struct error *err)
{
    unsigned at = (unsigned)align_up(p->cap_end, 4);

    if (at + size > PCI_CONFIG_SIZE)
        return error_set(err, ENOSPC, "%s: no room for capability %#x (%u bytes at %#x)",
                         p->dev.type->name, id, size, at);
    pci_set(p, at, id, 2);
    if (p->cap_last)
        pci_set(p, p->cap_last + 1u, at, 1);
    else
        pci_set(p, PCI_CAPABILITIES, at, 1);
    pci_set(p, PCI_STATUS, pci_get(p, PCI_STATUS, 2) | PCI_STATUS_CAP_LIST, 2);
    p->cap_last = (uint8_t)at;
    p->cap_end = (uint16_t)(at + size);
    return (int)at;
}

/* ---- INTx --------------------------------------------------------------------------------------
 */

static void update_intx(struct pci_device *p)
{
    bool on = p->intx && !(pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) &&
              !pci_msi_enabled(p) && !pci_msix_enabled(p);
    uint16_t status = (uint16_t)pci_get(p, PCI_STATUS, 2) & (uint16_t)~PCI_STATUS_INTERRUPT;

    pci_put(p, PCI_STATUS, status | (p->intx ? PCI_STATUS_INTERRUPT : 0), 2);
    if (type_of(p)->pin)
        pci_intx_drive(p, on);
}

void pci_intx_set(struct pci_device *p, bool level)
{
    p->intx = level;
    update_intx(p);
}

/* ---- MSI ---------------------------------------------------------------------------------------
 */

/* A message is a memory write of the function. */
static void send_message(struct pci_device *p, uint64_t address, uint32_t data)
{
    if (pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER)
        machine_msi(p->dev.machine, address, data);
}

int pci_msi_add(struct pci_device *p, unsigned vectors, struct error *err)
{
    unsigned order = (unsigned)__builtin_ctz(vectors);
    int at;

    assert(is_power_of_2(vectors) && vectors <= 32);
    at = pci_cap_add(p, PCI_CAP_MSI, MSI_LEN, err);
    if (at < 0)
        return at;
    p->msi_cap = (uint8_t)at;
    p->msi_vectors = (uint8_t)vectors;
    pci_set(p, (unsigned)at + MSI_CONTROL, MSI_64BIT | MSI_MASKING | order << 1, 2);
    pci_set_writable(p, (unsigned)at + MSI_CONTROL, MSI_ENABLE | 7 << 4, 2);
    pci_set_writable(p, (unsigned)at + MSI_ADDRESS, 0xfffffffc, 4);
    pci_set_writable(p, (unsigned)at + MSI_ADDRESS_HIGH, 0xffffffff, 4);
    pci_set_writable(p, (unsigned)at + MSI_DATA, 0xffff, 2);
    pci_set_writable(p, (unsigned)at + MSI_MASK, (uint32_t)size_mask(4) >> (32 - vectors), 4);
    return 0;
}

bool pci_msi_enabled(const struct pci_device *p)
{
    return p->msi_cap && pci_get(p, p->msi_cap + MSI_CONTROL, 2) & MSI_ENABLE;
}

void pci_msi_send(struct pci_device *p, unsigned vector)
{
    unsigned cap = p->msi_cap, granted;
    uint32_t data;

    if (!pci_msi_enabled(p) || vector >= p->msi_vectors)
        return;
    if (pci_get(p, cap + MSI_MASK, 4) & 1u << vector) {
        pci_put(p, cap + MSI_PENDING, pci_get(p, cap + MSI_PENDING, 4) | 1u << vector, 4);
        return;
    }
    /* Granted fewer than asked for: vectors share; the low bits of the data are the vector's. */
    granted = 1u << (pci_get(p, cap + MSI_CONTROL, 2) >> 4 & 7);
    granted = MIN(granted, p->msi_vectors);
    data = pci_get(p, cap + MSI_DATA, 2);
    send_message(
        p, pci_get(p, cap + MSI_ADDRESS, 4) | (uint64_t)pci_get(p, cap + MSI_ADDRESS_HIGH, 4) << 32,
        (data & ~(granted - 1)) | (vector & (granted - 1)));
}

static void msi_deliver_pending(struct pci_device *p)
{
    unsigned cap = p->msi_cap;
    uint32_t ready;

    if (!pci_msi_enabled(p))
        return;
    ready = pci_get(p, cap + MSI_PENDING, 4) & ~pci_get(p, cap + MSI_MASK, 4);
    pci_put(p, cap + MSI_PENDING, pci_get(p, cap + MSI_PENDING, 4) & ~ready, 4);
    for (unsigned v = 0; v < p->msi_vectors; v++)
        if (ready & 1u << v)
            pci_msi_send(p, v);
}

/* ---- MSI-X -------------------------------------------------------------------------------------
 */

uint32_t pci_msix_size(unsigned vectors)
{
    return (uint32_t)align_up(MSIX_PENDING_OFFSET + (vectors + 63) / 64 * 8, 4 * KiB);
}

bool pci_msix_enabled(const struct pci_device *p)
{
    return p->msix_cap && pci_get(p, p->msix_cap + MSIX_CONTROL, 2) & MSIX_ENABLE;
}

static bool msix_masked(const struct pci_device *p, unsigned vector)
{
    return pci_get(p, p->msix_cap + MSIX_CONTROL, 2) & MSIX_FUNCTION_MASK ||
           p->msix[vector].control & 1;
}

void pci_msix_send(struct pci_device *p, unsigned vector)
{
    if (!pci_msix_enabled(p) || vector >= p->msix_vectors)
        return;
    if (msix_masked(p, vector))
        p->msix_pending[vector / 64] |= BIT(vector % 64);
    else
        send_message(p, p->msix[vector].address, p->msix[vector].data);
}

static void msix_deliver_pending(struct pci_device *p)
{
    if (!pci_msix_enabled(p))
        return;
    for (unsigned v = 0; v < p->msix_vectors; v++)
        if (p->msix_pending[v / 64] & BIT(v % 64) && !msix_masked(p, v)) {
            p->msix_pending[v / 64] &= ~BIT(v % 64);
            pci_msix_send(p, v);
        }
}

static uint64_t msix_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pci_device *p = to_pci(dev);

    if (offset < p->msix_vectors * sizeof(p->msix[0]))
        return load_le((uint8_t *)p->msix + offset, size);
    if (offset >= MSIX_PENDING_OFFSET &&
        range_within(offset - MSIX_PENDING_OFFSET, size, sizeof(p->msix_pending)))
        return load_le((uint8_t *)p->msix_pending + (offset - MSIX_PENDING_OFFSET), size);
    return 0;
}

static void msix_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_device *p = to_pci(dev);

    if (offset >= p->msix_vectors * sizeof(p->msix[0]))
        return;
    store_le((uint8_t *)p->msix + offset, value, size);
    p->msix[offset / 16].control &= 1;
    msix_deliver_pending(p);
}

static const struct io_ops msix_io = {msix_read, msix_write, 4, 8};

int pci_msix_add(struct pci_device *p, unsigned vectors, unsigned bar, uint32_t offset,
                 struct error *err)
{
    int at;

    assert(vectors && vectors <= PCI_MSIX_VECTORS && offset % (4 * KiB) == 0);
    at = pci_cap_add(p, PCI_CAP_MSIX, MSIX_LEN, err);
    if (at < 0)
        return at;
    p->msix_cap = (uint8_t)at;
    p->msix_vectors = (uint16_t)vectors;
    pci_set(p, (unsigned)at + MSIX_CONTROL, vectors - 1, 2);
    pci_set_writable(p, (unsigned)at + MSIX_CONTROL, MSIX_ENABLE | MSIX_FUNCTION_MASK, 2);
    pci_set(p, (unsigned)at + MSIX_TABLE, offset | bar, 4);
    pci_set(p, (unsigned)at + MSIX_PENDING, (offset + MSIX_PENDING_OFFSET) | bar, 4);
    return pci_bar_io(p, bar, offset, pci_msix_size(vectors), &msix_io, err);
}

/* ---- DMA ---------------------------------------------------------------------------------------
 */

int pci_dma_read(struct pci_device *p, gpa address, void *buffer, uint64_t length)
{
    if (!(pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
        return -EACCES;
    return dma_read(p->dev.machine->memory, address, buffer, length);
}

int pci_dma_write(struct pci_device *p, gpa address, const void *buffer, uint64_t length)
{
    if (!(pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
        return -EACCES;
    return dma_write(p->dev.machine->memory, address, buffer, length);
}

/* ---- configuration accesses --------------------------------------------------------------------
 */

uint32_t pci_config_read_locked(struct pci_device *p, unsigned offset, unsigned size)
{
    if (type_of(p)->config_read)
        type_of(p)->config_read(p, offset, size);
    return pci_get(p, offset, size);
}

void pci_config_write_locked(struct pci_device *p, unsigned offset, uint32_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i), *reg = &p->config[offset + i];

        *reg = (uint8_t)((*reg & ~p->writable[offset + i]) | (byte & p->writable[offset + i]));
        *reg &= (uint8_t) ~(byte & p->clears[offset + i]);
    }
    if (offset < PCI_CAPABILITIES + 12) /* command, BARs, a bridge's windows */
        update_bars(p);
    update_intx(p);
    msi_deliver_pending(p);
    msix_deliver_pending(p);
    if (type_of(p)->config_written)
        type_of(p)->config_written(p, offset, size);
}

struct device *pci_device_add(struct machine *m, const struct device_type *type, const char *addr,
                              struct error *err)
{
    auto_free char *properties = xasprintf("addr=%s", addr);

    return device_add(m, type, properties, err);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void header_fill(struct pci_device *p, const struct pci_type *t)
{
    pci_set(p, PCI_VENDOR_ID, t->vendor, 2);
    pci_set(p, PCI_DEVICE_ID, t->device, 2);
    pci_set(p, PCI_REVISION, t->revision, 1);
    pci_set(p, PCI_CLASS, t->class_code & 0xff, 1);
    pci_set(p, PCI_CLASS + 1, t->class_code >> 8, 2);
    pci_set(p, PCI_HEADER_TYPE, (t->bridge ? 1 : 0) | (p->multifunction ? 0x80 : 0), 1);
    pci_set(p, PCI_INTERRUPT_PIN, t->pin, 1);
    pci_set_writable(p, PCI_COMMAND,
                     PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
                         PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE,
                     2);
    pci_set_clears(p, PCI_STATUS, 0xf900, 2);
    pci_set_writable(p, PCI_CACHE_LINE, 0xff, 1);
    pci_set_writable(p, PCI_LATENCY, 0xff, 1);
    pci_set_writable(p, PCI_INTERRUPT_LINE, 0xff, 1);
    if (t->bridge) {
        pci_set_clears(p, PCI_SECONDARY_STATUS, 0xf900, 2);
        return;
    }
    pci_set(p, PCI_SUBSYSTEM_VENDOR, t->subsystem ? t->subsystem_vendor : PROJECT_VENDOR, 2);
    pci_set(p, PCI_SUBSYSTEM, t->subsystem ? t->subsystem : PROJECT_SUBSYSTEM, 2);
}

static void remove_ram_parts(struct pci_device *p)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        for (unsigned n = 0; n < p->bar[i].parts; n++)
            if (p->bar[i].part[n].ours)
                memory_remove(p->bar[i].part[n].region);
}

/* Only where a firmware will look at it: a ROM of the type's own that is not installed is missed by
 * nobody else. */
static int rom_add(struct pci_device *p, const struct pci_type *t, struct error *err)
{
    const char *name = p->romfile ? p->romfile : t->romfile;
    auto_free char *path = NULL;
    uint64_t size;
    int r;

    if (!name || !*name || !strcmp(name, "none") ||
        (!p->romfile && !p->dev.machine->config.firmware))
        return 0;
    r = rom_find(name, "seabios or ipxe-qemu", &path, err);
    if (r == -ENOENT && !p->romfile) {
        log_info("%s has no option ROM: %s", p->dev.id, err ? err->text : name);
        return 0;
    }
    if (!r)
        r = rom_load(path, ROM_MAX, false, &p->rom, &size, err);
    if (r < 0)
        return error_prefix(err, r, "%s: ", p->dev.type->name);
    if (load_le(p->rom->host, 2) != 0xaa55)
        return error_set(err, EINVAL, "%s: '%s' is no option ROM: it does not begin with 55 AA",
                         p->dev.type->name, path);
    pci_bar_add(p, PCI_ROM_BAR, PCI_BAR_MEM32, false, p->rom->size);
    return pci_bar_ram(p, PCI_ROM_BAR, 0, p->rom, false, err);
}

int pci_realize(struct device *dev, struct error *err)
{
    struct pci_device *p = to_pci(dev);
    const struct pci_type *t = type_of(p);
    int r;

    p->config_size = t->express ? PCIE_CONFIG_SIZE : PCI_CONFIG_SIZE;
    p->cap_end = 0x40;
    header_fill(p, t);
    r = pci_bus_attach(p, err);
    if (r < 0)
        return r;
    r = rom_add(p, t, err);
    if (!r && t->realize)
        r = t->realize(p, err);
    if (r < 0) {
        remove_ram_parts(p);
        pci_bus_detach(p);
        machine_release_ram(dev->machine, p->rom);
    }
    return r;
}

void pci_reset(struct device *dev)
{
    struct pci_device *p = to_pci(dev);

    memcpy(p->config, p->initial, sizeof(p->config));
    p->intx = 0;
    memset(p->msix, 0, sizeof(p->msix));
    for (unsigned v = 0; v < PCI_MSIX_VECTORS; v++)
        p->msix[v].control = 1;
    memset(p->msix_pending, 0, sizeof(p->msix_pending));
    update_bars(p);
    update_intx(p);
    if (type_of(p)->reset)
        type_of(p)->reset(p);
}

void pci_refresh(struct device *dev)
{
    struct pci_device *p = to_pci(dev);

    /* A stream may say anything: what is not the guest's to write is ours. */
    for (unsigned i = 0; i < 0x40; i++)
        if (i != PCI_STATUS && i != PCI_STATUS + 1)
            p->config[i] = (uint8_t)((p->config[i] & p->writable[i]) |
                                     (p->initial[i] & ~p->writable[i]));
    update_bars(p);
    update_intx(p);
    if (type_of(p)->refresh)
        type_of(p)->refresh(p);
}

void pci_unrealize(struct device *dev)
{
    struct pci_device *p = to_pci(dev);

    remove_ram_parts(p);       /* before the device frees the block */
    if (type_of(p)->unrealize) /* its threads may drive INTx until then */
        type_of(p)->unrealize(p);
    pci_bus_detach(p);
    machine_release_ram(dev->machine, p->rom);
}
