/*
 * apic_bus.c - see apic_bus.h.
 *
 * Who a message is for is asked of every local APIC, because logical destinations depend on its
 * registers; only a physical destination other than everybody finds its APIC by number.
 */
#include "devices/irq/apic_bus.h"

#include "devices/irq/i8259.h"
#include "devices/irq/ioapic.h"
#include "devices/irq/lapic.h"

#include <assert.h>
#include <stdlib.h>

enum { MSI_LOGICAL = 1 << 2, MSI_ASSERT = 1 << 14, MSI_LEVEL = 1 << 15 };

struct apic_bus {
    struct device *lapic[APIC_BUS_LAPICS]; /* by APIC ID */
    unsigned lapic_end;                    /* one above the highest APIC ID there is */
    struct device *ioapic[APIC_BUS_IOAPICS];
    struct device *pic;
};

struct apic_bus *apic_bus_new(void)
{
    return xcalloc(1, sizeof(struct apic_bus));
}

void apic_bus_free(struct apic_bus *bus)
{
    free(bus);
}

void apic_bus_join_lapic(struct apic_bus *bus, uint32_t apic_id, struct device *lapic)
{
    assert(apic_id < APIC_BUS_LAPICS && !bus->lapic[apic_id]);
    bus->lapic[apic_id] = lapic;
    bus->lapic_end = MAX(bus->lapic_end, apic_id + 1);
}

void apic_bus_leave_lapic(struct apic_bus *bus, struct device *lapic)
{
    for (unsigned i = 0; i < bus->lapic_end; i++)
        if (bus->lapic[i] == lapic)
            bus->lapic[i] = NULL;
}

void apic_bus_join_ioapic(struct apic_bus *bus, struct device *ioapic)
{
    unsigned i = 0;

    while (i < APIC_BUS_IOAPICS && bus->ioapic[i])
        i++;
    assert(i < APIC_BUS_IOAPICS);
    bus->ioapic[i] = ioapic;
}

void apic_bus_leave_ioapic(struct apic_bus *bus, struct device *ioapic)
{
    for (unsigned i = 0; i < APIC_BUS_IOAPICS; i++)
        if (bus->ioapic[i] == ioapic)
            bus->ioapic[i] = NULL;
}

void apic_bus_set_pic(struct apic_bus *bus, struct device *pic)
{
    bus->pic = pic;
}

static void set_lint(struct apic_bus *bus, unsigned pin, bool level)
{
    for (unsigned i = 0; i < bus->lapic_end; i++)
        if (bus->lapic[i])
            lapic_set_lint(bus->lapic[i], pin, level);
}

void apic_bus_extint(void *bus, bool level)
{
    set_lint(bus, 0, level);
}

void apic_bus_nmi(struct apic_bus *bus)
{
    set_lint(bus, 1, true);
    set_lint(bus, 1, false);
}

/* To the one of lowest priority among those named; the lowest APIC ID where several have it. */
static void deliver_lowest(struct apic_bus *bus, const struct apic_message *m)
{
    struct device *best = NULL;
    int best_priority = INT32_MAX;

    for (unsigned i = 0; i < bus->lapic_end; i++) {
        int priority;

        if (!bus->lapic[i] || !lapic_matches(bus->lapic[i], m))
            continue;
        priority = lapic_priority(bus->lapic[i]);
        if (priority >= 0 && priority < best_priority) {
            best = bus->lapic[i];
            best_priority = priority;
        }
    }
    if (best)
        lapic_accept(best, m);
}

void apic_bus_deliver(struct apic_bus *bus, const struct apic_message *m)
{
    if (m->delivery == APIC_LOWEST) {
        deliver_lowest(bus, m);
        return;
    }
    if (!m->logical && m->destination != (m->wide ? UINT32_MAX : 0xff)) {
        if (m->destination < bus->lapic_end && bus->lapic[m->destination])
            lapic_accept(bus->lapic[m->destination], m);
        return;
    }
    for (unsigned i = 0; i < bus->lapic_end; i++)
        if (bus->lapic[i] && lapic_matches(bus->lapic[i], m))
            lapic_accept(bus->lapic[i], m);
}

void apic_bus_deliver_shorthand(struct apic_bus *bus, const struct apic_message *m,
                                enum apic_shorthand shorthand, struct device *sender)
{
    if (shorthand == APIC_NO_SHORTHAND)
        apic_bus_deliver(bus, m);
    else if (shorthand == APIC_SELF)
        lapic_accept(sender, m);
    else
        for (unsigned i = 0; i < bus->lapic_end; i++)
            if (bus->lapic[i] && (shorthand == APIC_ALL || bus->lapic[i] != sender))
                lapic_accept(bus->lapic[i], m);
}

void apic_bus_msi(void *bus, gpa address, uint32_t data)
{
    struct apic_message m = {.destination = address >> 12 & 0xff,
                             .logical = (address & MSI_LOGICAL) != 0,
                             .delivery = data >> 8 & 7,
                             .vector = (uint8_t)data,
                             .level = (data & MSI_LEVEL) != 0};

    if (address >> 20 != LAPIC_DEFAULT_BASE >> 20)
        return;
    if (m.level && !(data & MSI_ASSERT))
        return; /* the end of a level: nobody listens to those */
    apic_bus_deliver(bus, &m);
}

void apic_bus_eoi(struct apic_bus *bus, uint8_t vector)
{
    for (unsigned i = 0; i < APIC_BUS_IOAPICS; i++)
        if (bus->ioapic[i])
            ioapic_eoi(bus->ioapic[i], vector);
}

int apic_bus_acknowledge_pic(struct apic_bus *bus)
{
    return bus->pic ? pic_acknowledge(bus->pic) : -1;
}
