/*
 * pam.c - see pam.h.
 *
 * The board maps RAM over the whole of the first MiB. One I/O region lies over 0xc0000-0xfffff;
 * each segment shows RAM (writable or not) or ROM above it. What is left is nothing, or reads and
 * writes that part ways (firmware copying itself into the RAM beneath), which the I/O region does.
 */
#include "devices/pci/pam.h"

#include "machine/machine.h"
#include "memory/ram.h"

#include <stdlib.h>

enum {
    PRIORITY_HOLE = 1, /* over RAM, below what PCI devices show there */
    PRIORITY_SEGMENT = 20,
    PAM_BASE = 0xc0000,
    PAM_SIZE = 0x40000,
    SMRAM_WINDOW = 0xa0000,
    SMRAM_SIZE = 0x20000,
};

struct pam {
    struct device dev;
    struct ram_block *rom;
    struct {
        uint8_t attributes;
        struct region *ram, *rom; /* rom NULL: none here */
    } segment[PAM_SEGMENTS];
    struct region *smram;   /* 0xa0000-0xbffff as RAM, over what PCI has there */
    struct region *tseg[3]; /* 1, 2, 8 MiB of low memory, hidden from the normal view */
};
#define to_pam(d) container_of(d, struct pam, dev)

/* Segments 0-11 are 16 KiB each from 0xc0000, 12 is 0xf0000-0xfffff. */
static gpa segment_base(unsigned n)
{
    return PAM_BASE + (gpa)n * 16 * KiB;
}

static uint64_t segment_size(unsigned n)
{
    return n == PAM_SEGMENTS - 1 ? 64 * KiB : 16 * KiB;
}

/* The last 128 KiB of the firmware, as south bridges decode it. */
static bool rom_reaches(const struct pam *p, gpa address)
{
    return p->rom && MiB - address <= MIN(p->rom->size, (uint64_t)128 * KiB);
}

static uint64_t under_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pam *p = to_pam(dev);

    if (!rom_reaches(p, PAM_BASE + offset))
        return size_mask(size);
    return load_le(p->rom->host + (p->rom->size - (PAM_SIZE - offset)), size);
}

static void under_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pam *p = to_pam(dev);
    unsigned n = (unsigned)MIN(offset / (16 * KiB), PAM_SEGMENTS - 1);
    struct ram_block *ram = dev->machine->ram;

    if (!(p->segment[n].attributes & PAM_WRITE))
        return;
    store_le(ram->host + PAM_BASE + offset, value, size);
    ram_written(ram, PAM_BASE + offset, size);
}

static uint64_t hole_read(struct device *dev, uint64_t offset, unsigned size)
{
    return size_mask(size);
}

static void hole_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
}

static const struct io_ops under_io = {under_read, under_write, 1, 8};
static const struct io_ops hole_io = {hole_read, hole_write, 1, 8};

void pam_update(struct device *dev, const uint8_t registers[PAM_REGISTERS])
{
    struct pam *p = to_pam(dev);
    struct memory_map *map = dev->machine->memory;

    pthread_mutex_lock(&dev->lock);
    memory_begin(map);
    for (unsigned n = 0; n < PAM_SEGMENTS; n++) {
        /* Register 0 holds only segment 12, in its high half. */
        uint8_t reg = registers[n == PAM_SEGMENTS - 1 ? 0 : 1 + n / 2];
        uint8_t attributes = (n == PAM_SEGMENTS - 1 || n % 2 ? reg >> 4 : reg) & 3;

        p->segment[n].attributes = attributes;
        memory_set_writable(p->segment[n].ram, (attributes & PAM_WRITE) != 0);
        memory_set_visibility(p->segment[n].ram, attributes & PAM_READ ? IN_ALL : 0);
        if (p->segment[n].rom)
            memory_set_visibility(p->segment[n].rom, attributes ? 0 : IN_ALL);
    }
    memory_commit(map);
    pthread_mutex_unlock(&dev->lock);
}

/* SMRAM_CLOSED sends data accesses in SMM to PCI and code fetches to RAM. The map has one view for
 * both, and code that closes its own RAM must still run: the bit is kept and does nothing. */
void pam_smram_update(struct device *dev, uint8_t smram)
{
    unsigned shown = 0;

    if (smram & SMRAM_ENABLE)
        shown = smram & SMRAM_OPEN ? IN_ALL : IN_SMM;
    pthread_mutex_lock(&dev->lock);
    memory_set_visibility(to_pam(dev)->smram, shown);
    pthread_mutex_unlock(&dev->lock);
}

uint8_t pam_smram_written(uint8_t before, uint8_t value)
{
    if (before & SMRAM_LOCK)
        return before;
    value = (uint8_t)((value & 0x78) | SMRAM_BASE);
    if (value & SMRAM_LOCK)
        value &= (uint8_t)~SMRAM_OPEN;
    return value;
}

void pam_tseg_update(struct device *dev, gpa top, uint64_t size)
{
    struct pam *p = to_pam(dev);

    pthread_mutex_lock(&dev->lock);
    memory_begin(dev->machine->memory);
    for (unsigned i = 0; i < ARRAY_SIZE(p->tseg); i++) {
        uint64_t mine = (uint64_t)(i == 2 ? 8 : 1 << i) * MiB;

        memory_place(p->tseg[i], top - mine, mine == size && top >= mine);
        memory_set_visibility(p->tseg[i], IN_NORMAL);
    }
    memory_commit(dev->machine->memory);
    pthread_mutex_unlock(&dev->lock);
}

static void pam_unrealize(struct device *dev)
{
    struct pam *p = to_pam(dev);

    for (unsigned n = 0; n < PAM_SEGMENTS; n++) {
        memory_remove(p->segment[n].ram);
        memory_remove(p->segment[n].rom);
    }
    memory_remove(p->smram);
}

static int pam_realize(struct device *dev, struct error *err)
{
    struct pam *p = to_pam(dev);
    struct machine *m = dev->machine;
    int r = device_map_mmio(dev, PAM_BASE, PAM_SIZE, PRIORITY_HOLE, &under_io, err);

    if (!r)
        r = device_map_mmio(dev, SMRAM_WINDOW, SMRAM_SIZE, PRIORITY_HOLE, &hole_io, err);
    for (unsigned n = 0; n < PAM_SEGMENTS && !r; n++) {
        gpa base = segment_base(n);
        uint64_t size = segment_size(n);

        r = memory_add_ram(m->memory, "pam-ram", base, size, PRIORITY_SEGMENT, 0, m->ram, base,
                           false, &p->segment[n].ram, err);
        if (!r && rom_reaches(p, base))
            r = memory_add_ram(m->memory, "pam-rom", base, size, PRIORITY_SEGMENT, IN_ALL, p->rom,
                               p->rom->size - (MiB - base), false, &p->segment[n].rom, err);
    }
    if (!r)
        r = memory_add_ram(m->memory, "smram", SMRAM_WINDOW, SMRAM_SIZE, PRIORITY_SMRAM, 0, m->ram,
                           SMRAM_WINDOW, true, &p->smram, err);
    for (unsigned i = 0; i < ARRAY_SIZE(p->tseg) && !r; i++)
        r = device_map_region(dev, false, DEVICE_UNMAPPED, (uint64_t)(i == 2 ? 8 : 1 << i) * MiB,
                              PRIORITY_SMRAM, &hole_io, &p->tseg[i], err);
    if (r < 0)
        pam_unrealize(dev);
    return r;
}

static const struct property pam_properties[] = {
    PROPERTY_REF("rom", struct pam, rom, "what lies behind RAM below 1 MiB"),
    PROPERTY_END,
};

const struct device_type pam_type = {
    .name = "pam",
    .summary = "Memory attributes below 1 MiB and system-management RAM",
    .instance_size = sizeof(struct pam),
    .properties = pam_properties,
    .realize = pam_realize,
    .unrealize = pam_unrealize,
};

struct device *pam_add(struct machine *m, struct ram_block *rom, struct error *err)
{
    struct device *dev = device_new(m, &pam_type, NULL);

    device_set_ref(dev, "rom", rom);
    if (device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
