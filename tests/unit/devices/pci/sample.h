/*
 * sample.h - a PCI function for tests: each kind of BAR, MSI, MSI-X and an interrupt pin.
 * BAR 0: 32 ports; 1: 4 KiB of 32-bit memory; 2: 64 KiB of 64-bit RAM; 4: MSI-X.
 */
#ifndef UNIT_PCI_SAMPLE_H
#define UNIT_PCI_SAMPLE_H

#include "devices/pci/pci.h"

struct sample {
    struct pci_device pci;
    struct ram_block *ram;
    uint32_t last_write; /* saved */
};

extern const struct device_type sample_type;
struct sample *sample_of(struct device *dev);

#endif
