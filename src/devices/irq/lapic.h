/*
 * lapic.h - the local APIC of one processor: xAPIC page, x2APIC MSRs, timer with TSC deadline.
 *
 * Realizing one fills cpu->intc; freeing it clears that again.
 */
#ifndef DEVICES_IRQ_LAPIC_H
#define DEVICES_IRQ_LAPIC_H

#include "devices/irq/apic_bus.h"
#include "machine/device.h"

struct cpu;

#define LAPIC_DEFAULT_BASE UINT64_C(0xfee00000)

extern const struct device_type lapic_type;

/* One for `cpu`, with its APIC ID. CPU 0 gets the i8259 on LINT0 as firmware would set it up
 * ("virtual wire"), so that kernels started without firmware have timer interrupts. */
struct device *lapic_add(struct machine *m, struct apic_bus *bus, struct cpu *cpu,
                         struct error *err);

/* For apic_bus.c. All take the local APIC's lock. */
bool lapic_matches(struct device *lapic, const struct apic_message *m);
void lapic_accept(struct device *lapic, const struct apic_message *m);
/* For lowest-priority arbitration: the processor's priority, or -1 where it takes none. */
int lapic_priority(struct device *lapic);
void lapic_set_lint(struct device *lapic, unsigned pin, bool level); /* 0: i8259, 1: NMI */

#endif
