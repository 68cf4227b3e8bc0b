/*
 * mptable.c - see mptable.h. The layout is that of Intel's MultiProcessor Specification 1.4,
 * chapter 4. The floating pointer comes first, so a search for it finds the table right behind.
 */
#include "boot/mptable.h"

#include <errno.h>
#include <stdlib.h>

enum { FLOATING_SIZE = 16, HEADER_SIZE = 44, PROCESSOR_SIZE = 20, ENTRY_SIZE = 8 };
enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_INTERRUPT, ENTRY_LOCAL };
enum { INTERRUPT_INT = 0, INTERRUPT_NMI = 1, INTERRUPT_EXTINT = 3 };
enum { BUS_PCI = 0, BUS_ISA = 1 };
/* Polarity in bits 1:0, trigger in 3:2; 0: as usual for the bus. */
enum { FLAGS_BUS = 0, FLAGS_LEVEL_LOW = 3 | 3 << 2, FLAGS_LEVEL_HIGH = 1 | 3 << 2 };
enum { APIC_VERSION = 0x14, IOAPIC_VERSION = 0x20, ALL_APICS = 0xff };

struct table {
    uint8_t *data;
    size_t used;
    unsigned entries;
};

static uint8_t *entry(struct table *t, uint8_t type, size_t size)
{
    uint8_t *e = t->data + t->used;

    t->used += size;
    t->entries++;
    e[0] = type;
    return e;
}

static void add_bus(struct table *t, uint8_t id, const char *name)
{
    uint8_t *e = entry(t, ENTRY_BUS, ENTRY_SIZE);

    e[1] = id;
    memcpy(e + 2, name, 6);
}

static void add_interrupt(struct table *t, uint8_t type, uint8_t kind, uint16_t flags, uint8_t bus,
                          uint8_t irq, uint8_t apic, uint8_t pin)
{
    uint8_t *e = entry(t, type, ENTRY_SIZE);

    e[1] = kind;
    store_le(e + 2, flags, 2);
    e[4] = bus;
    e[5] = irq;
    e[6] = apic;
    e[7] = pin;
}

static void set_checksum(uint8_t *field, const uint8_t *data, size_t size)
{
    uint8_t sum = 0;

    *field = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + data[i]);
    *field = (uint8_t)-sum;
}

int mptable_build(const struct mptable_config *c, gpa address, uint8_t **out, size_t *size,
                  struct error *err)
{
    size_t room = FLOATING_SIZE + HEADER_SIZE + (size_t)c->cpus * PROCESSOR_SIZE +
                  (3 + 16 + 2 + (size_t)c->pci_irq_count) * ENTRY_SIZE;
    uint8_t isa_bus = c->pci ? BUS_ISA : 0, *f, *h;
    struct table t = {0};

    /* Ids are 8 bits wide and 0xff means all. */
    if (c->cpus < 1 || c->cpus > 254 || c->pci_irq_count > 256)
        return error_set(err, EINVAL, "an MP table cannot tell of %u processors and %u PCI pins",
                         c->cpus, c->pci_irq_count);
    t.data = xcalloc(1, room);
    t.used = FLOATING_SIZE + HEADER_SIZE;
    for (unsigned i = 0; i < c->cpus; i++) {
        uint8_t *e = entry(&t, ENTRY_PROCESSOR, PROCESSOR_SIZE);

        e[1] = (uint8_t)i;
        e[2] = APIC_VERSION;
        e[3] = i ? 1 : 3; /* enabled; bootstrap */
        store_le(e + 4, c->cpu_signature, 4);
        store_le(e + 8, c->cpu_features, 4);
    }
    if (c->pci)
        add_bus(&t, BUS_PCI, "PCI   ");
    add_bus(&t, isa_bus, "ISA   ");
    h = entry(&t, ENTRY_IOAPIC, ENTRY_SIZE);
    h[1] = c->ioapic_id;
    h[2] = IOAPIC_VERSION;
    h[3] = 1; /* usable */
    store_le(h + 4, c->ioapic_address ? c->ioapic_address : UINT32_C(0xfec00000), 4);
    for (uint8_t irq = 0; irq < 16; irq++) {
        bool level = c->level_isa >> irq & 1;

        if (irq == 2 && c->timer_on_pin_2)
            continue; /* the cascade has no pin of its own */
        add_interrupt(&t, ENTRY_INTERRUPT, INTERRUPT_INT, level ? FLAGS_LEVEL_HIGH : FLAGS_BUS,
                      isa_bus, irq, c->ioapic_id, irq == 0 && c->timer_on_pin_2 ? 2 : irq);
    }
    for (unsigned i = 0; i < c->pci_irq_count; i++) {
        const struct mptable_pci *p = &c->pci_irqs[i];

        add_interrupt(&t, ENTRY_INTERRUPT, INTERRUPT_INT, FLAGS_LEVEL_LOW, BUS_PCI,
                      (uint8_t)(p->device << 2 | ((p->pin - 1) & 3)), c->ioapic_id, p->gsi);
    }
    add_interrupt(&t, ENTRY_LOCAL, INTERRUPT_EXTINT, FLAGS_BUS, isa_bus, 0, ALL_APICS, 0);
    add_interrupt(&t, ENTRY_LOCAL, INTERRUPT_NMI, FLAGS_BUS, isa_bus, 0, ALL_APICS, 1);

    h = t.data + FLOATING_SIZE;
    memcpy(h, "PCMP", 4);
    store_le(h + 4, t.used - FLOATING_SIZE, 2);
    h[6] = 4; /* 1.4 */
    memcpy(h + 8, "HOSPES  PC          ", 20);
    store_le(h + 34, t.entries, 2);
    store_le(h + 36, UINT32_C(0xfee00000), 4);
    set_checksum(h + 7, h, t.used - FLOATING_SIZE);

    f = t.data;
    memcpy(f, "_MP_", 4);
    store_le(f + 4, address + FLOATING_SIZE, 4);
    f[8] = 1; /* paragraphs */
    f[9] = 4; /* 1.4 */
    set_checksum(f + 10, f, FLOATING_SIZE);
    *out = t.data;
    *size = t.used;
    return 0;
}
