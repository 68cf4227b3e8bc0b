/*
 * mptable.h - the MultiProcessor Specification 1.4 table, for guests without ACPI.
 *
 * Processors, the ISA and PCI buses, one I/O APIC, the interrupt wiring.
 */
#ifndef BOOT_MPTABLE_H
#define BOOT_MPTABLE_H

#include "base/error.h"
#include "memory/map.h"

/* Pin 1 to 4 (INTA to INTD) of a PCI device on bus 0 reaches I/O APIC input `gsi`. */
struct mptable_pci {
    uint8_t device, pin, gsi;
};

struct mptable_config {
    unsigned cpus;          /* local APIC ids 0 .. cpus-1; the first boots */
    uint32_t cpu_signature; /* CPUID leaf 1 EAX */
    uint32_t cpu_features;  /* CPUID leaf 1 EDX */
    uint8_t ioapic_id;
    uint32_t ioapic_address; /* 0: the usual 0xfec00000 */
    bool pci;                /* there is PCI bus 0 */
    uint32_t level_isa;      /* bit n: ISA interrupt n is level triggered, active high (the
                                ACPI SCI); clear: edge, active high */
    bool timer_on_pin_2;     /* ISA interrupt 0 reaches I/O APIC input 2 */
    const struct mptable_pci *pci_irqs;
    unsigned pci_irq_count;
};

/* Floating pointer and table as bytes for `address` (16-byte aligned): *out is allocated. */
int mptable_build(const struct mptable_config *c, gpa address, uint8_t **out, size_t *size,
                  struct error *err);

#endif
