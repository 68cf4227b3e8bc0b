/*
 * ich9.h - LPC bridge of the ICH9 (00:1f.0 of the `q35` board): interrupt routing, power
 * management, the chip set configuration registers behind RCBA.
 */
#ifndef DEVICES_PCI_ICH9_H
#define DEVICES_PCI_ICH9_H

#include "devices/pci/pci.h"

enum ich9_register {
    ICH9_PM_BASE = 0x40,
    ICH9_ACPI_CONTROL = 0x44, /* bit 7: the block at PM_BASE answers */
    ICH9_PIRQ_A = 0x60,       /* to D */
    ICH9_PIRQ_E = 0x68,       /* to H */
    ICH9_GEN_PMCON_1 = 0xa0,  /* bit 4: SMI lock */
    ICH9_RCBA = 0xf0,
};

/* Offsets in the block of 128 ports. */
enum ich9_port {
    ICH9_GPE = 0x20,
    ICH9_GPE_WIDTH = 8,
    ICH9_SMI_CONTROL = 0x30,
    ICH9_SMI_STATUS = 0x34,
    ICH9_PORTS_LEN = 128,
};

enum { ICH9_PM_ENABLE = 0x80, ICH9_SMI_GLOBAL = 1 << 0, ICH9_SMI_APMC = 1 << 5 };
enum { ICH9_POWEROFF_TYPE = 7 };
#define ICH9_RCBA_BASE UINT64_C(0xfed1c000)

extern const struct device_type ich9_lpc_type;

void ich9_power_button(struct device *lpc); /* takes the lock */

#endif
