/*
 * ata_bus.h - where drives are put: a channel of an IDE controller, or a port of an AHCI one.
 *
 * Buses are named "ide.0", "ide.1", ... within a machine, in the order of the controllers, as
 * QEMU's are. The drives are parts of the controller, which saves and resets them; the devices
 * ide-hd and ide-cd say what they are and which disk they have.
 */
#ifndef DEVICES_BLOCK_ATA_BUS_H
#define DEVICES_BLOCK_ATA_BUS_H

#include "devices/block/ata.h"

struct ata_bus {
    struct device *controller;
    const struct ata_ops *ops;
    struct ata *drive[2];
    unsigned units; /* 1 or 2 */
    bool serial_ata;
    void (*plugged)(struct ata *a); /* with the controller's lock held; NULL: nothing to tell */
};

enum { PIIX3_IDE_TIMING = 0x40 }; /* bit 15 of each half: the channel decodes */

extern const struct device_type piix3_ide_type, ahci_type, ide_hd_type, ide_cd_type;

/* Bus `n` of a controller; NULL where there is none, or `dev` is something else. */
struct ata_bus *piix3_ide_bus(struct device *dev, unsigned n);
struct ata_bus *ahci_bus(struct device *dev, unsigned n);

/* Where a drive is, for the firmware's boot order; false where `dev` is something else. */
struct ata_place {
    struct device *controller;
    unsigned bus, unit; /* of the controller */
    int bootindex;      /* -1: none */
};
bool ata_drive_place(struct device *dev, struct ata_place *out);

#endif
