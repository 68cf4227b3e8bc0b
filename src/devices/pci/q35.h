/*
 * q35.h - memory controller hub of the Q35 chip set: 00:00.0 of the `q35` board.
 */
#ifndef DEVICES_PCI_Q35_H
#define DEVICES_PCI_Q35_H

#include "devices/pci/pci.h"

enum q35_register {
    Q35_PCIEXBAR = 0x60,
    Q35_PAM = 0x90,
    Q35_SMRAM = 0x9d,
    Q35_ESMRAMC = 0x9e,
    Q35_TOLUD = 0xb0,
};

#define Q35_ECAM_BASE UINT64_C(0xb0000000)
#define Q35_ECAM_SIZE UINT64_C(0x10000000)

extern const struct device_type q35_mch_type;

/* `pam` as pam_add() made it. */
struct device *q35_mch_add(struct machine *m, struct device *pam, struct error *err);

#endif
