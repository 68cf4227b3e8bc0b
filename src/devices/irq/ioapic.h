/*
 * ioapic.h - the I/O APIC of an ICH9: 24 pins, version 0x20, with an EOI register.
 *
 * GSI n of the machine drives pin n, except GSI 0 (the PIT), which drives pin 2, as the interrupt
 * source override in the firmware tables says.
 */
#ifndef DEVICES_IRQ_IOAPIC_H
#define DEVICES_IRQ_IOAPIC_H

#include "devices/irq/apic_bus.h"
#include "machine/device.h"

#define IOAPIC_DEFAULT_BASE UINT64_C(0xfec00000)
enum { IOAPIC_PINS = 24 };

/* Offsets in the window, and register numbers written to IOAPIC_INDEX. */
enum { IOAPIC_INDEX = 0x00, IOAPIC_DATA = 0x10, IOAPIC_EOI = 0x40 };
enum { IOAPIC_REG_ID = 0, IOAPIC_REG_VERSION = 1, IOAPIC_REG_ARB = 2, IOAPIC_REG_REDIR = 0x10 };

extern const struct device_type ioapic_type;

struct device *ioapic_add(struct machine *m, struct apic_bus *bus, uint8_t id, struct error *err);

/* For apic_bus.c: a local APIC ended a level-triggered interrupt. Takes the lock. */
void ioapic_eoi(struct device *ioapic, uint8_t vector);

#endif
