/*
 * apic_bus.h - what connects the local APICs, the IOAPICs, the i8259 pair and message-signalled
 * interrupts of one machine.
 *
 * Not a device: it has no state of its own that a snapshot would need. The board makes it before
 * the chips and frees it after them (in its free hook). Chips join when they are realized and
 * leave when they are freed, so all of them may be freed in any order.
 *
 * Threads: chips join and leave on the main thread while no vCPU runs; all else from any thread.
 * The bus has no lock. Lock order: apic_bus_deliver(), apic_bus_msi() and apic_bus_extint() take
 * locks of local APICs, apic_bus_eoi() and apic_bus_acknowledge_pic() those of IOAPICs and i8259s:
 * a local APIC calls the latter two without its lock.
 */
#ifndef DEVICES_IRQ_APIC_BUS_H
#define DEVICES_IRQ_APIC_BUS_H

#include "memory/map.h"

struct apic_bus;
struct device;

enum { APIC_BUS_LAPICS = 256, APIC_BUS_IOAPICS = 8 };

/* The delivery mode field of ICR, LVT, redirection entries and MSI data. */
enum apic_delivery {
    APIC_FIXED = 0,
    APIC_LOWEST = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

enum apic_shorthand { APIC_NO_SHORTHAND, APIC_SELF, APIC_ALL, APIC_OTHERS };

struct apic_message {
    uint32_t destination; /* APIC ID or logical set; meaning of all ones: everybody */
    bool logical;
    bool wide;        /* 32-bit destination (x2APIC); else 8-bit, 0xff: everybody */
    uint8_t delivery; /* enum apic_delivery */
    uint8_t vector;
    bool level; /* trigger mode: goes into TMR, so that EOI is told to the IOAPICs */
};

struct apic_bus *apic_bus_new(void);
void apic_bus_free(struct apic_bus *bus); /* NULL is nothing */

/* By the chips themselves. */
void apic_bus_join_lapic(struct apic_bus *bus, uint32_t apic_id, struct device *lapic);
void apic_bus_leave_lapic(struct apic_bus *bus, struct device *lapic);
void apic_bus_join_ioapic(struct apic_bus *bus, struct device *ioapic);
void apic_bus_leave_ioapic(struct apic_bus *bus, struct device *ioapic);

/* The i8259 pair whose INT output calls apic_bus_extint(); NULL: none any more. By the board. */
void apic_bus_set_pic(struct apic_bus *bus, struct device *pic);
/* For i8259_add(): the INT output, led to LINT0 of every local APIC. */
void apic_bus_extint(void *bus, bool level);

/* Deliver to whom it names. `sender` matters to shorthands only. */
void apic_bus_deliver(struct apic_bus *bus, const struct apic_message *m);
void apic_bus_deliver_shorthand(struct apic_bus *bus, const struct apic_message *m,
                                enum apic_shorthand shorthand, struct device *sender);
/* A write to 0xfeexxxxx by a device; fits machine->msi. Other addresses are nobody's. */
void apic_bus_msi(void *bus, gpa address, uint32_t data);
/* NMI on LINT1 of every local APIC, as boards wire it (the monitor's `nmi`). */
void apic_bus_nmi(struct apic_bus *bus);

void apic_bus_eoi(struct apic_bus *bus, uint8_t vector);
int apic_bus_acknowledge_pic(struct apic_bus *bus); /* a vector, or -1 */

#endif
