/*
 * piix.h - the south bridge of the `pc` board: PIIX3's ISA bridge (function 0) and PIIX4's power
 * management (function 3).
 */
#ifndef DEVICES_PCI_PIIX_H
#define DEVICES_PCI_PIIX_H

#include "devices/pci/pci.h"

enum { PIIX_PIRQ_ROUTE = 0x60, PIIX_PIRQ_OFF = 0x80 };

enum piix4_register {
    PIIX4_PM_BASE = 0x40,
    PIIX4_ACTIVITY_B = 0x58, /* bit 25: SMI on writes to 0xb2 */
    PIIX4_PM_MISC = 0x80,    /* bit 0: the block at PM_BASE answers */
    PIIX4_APMC_ENABLE = 1 << 25,
};

/* Offsets in the block of 64 ports. */
enum piix4_port { PIIX4_GPE = 0x0c, PIIX4_GPE_WIDTH = 2, PIIX4_GLOBAL_CONTROL = 0x28 };
enum { PIIX4_PORTS_LEN = 64, PIIX4_SMI_ENABLE = 1, PIIX4_POWEROFF_TYPE = 0 };

extern const struct device_type piix3_type, piix4_pm_type;

void piix4_power_button(struct device *pm); /* takes the lock */

#endif
