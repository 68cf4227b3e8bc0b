/*
 * drive.c - ide-hd and ide-cd: what is put on an ATA bus. See ata_bus.h; the drive itself is a part
 * of its controller (ata.c).
 */
#include "devices/block/ata_bus.h"
#include "machine/machine.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { UNIT_ANY = 0xff, NO_BOOTINDEX = 0xffffffff };

struct drive {
    struct device dev;
    /* properties */
    struct disk *disk;
    char *bus, *serial, *model, *revision;
    uint8_t unit;
    uint32_t bootindex;
    uint64_t wwn;

    struct ata *ata; /* NULL: not attached */
    struct ata_bus *on;
    unsigned bus_index; /* of the controller */
};
#define to_drive(d) container_of(d, struct drive, dev)

static struct ata_bus *bus_of(struct device *dev, unsigned n)
{
    struct ata_bus *bus = piix3_ide_bus(dev, n);

    return bus ? bus : ahci_bus(dev, n);
}

static int free_unit(const struct ata_bus *bus, uint8_t unit)
{
    for (unsigned i = 0; i < bus->units; i++)
        if ((unit == UNIT_ANY || unit == i) && !ata_present(bus->drive[i]))
            return (int)i;
    return -1;
}

/* The unit, and where in d->on; by "ide.N" and unit, or the first that is free. */
static int find_place(struct drive *d, struct error *err)
{
    unsigned number = 0, buses = 0;
    char *end = NULL;
    int unit = -1;

    if (d->bus) {
        if (!strncmp(d->bus, "ide.", 4) && isdigit((unsigned char)d->bus[4]))
            number = (unsigned)strtoul(d->bus + 4, &end, 10);
        if (!end || *end)
            return error_set(err, EINVAL, "%s: bus=%s is not ide.0, ide.1, ...", d->dev.type->name,
                             d->bus);
    }
    for (struct device *dev = d->dev.machine->devices; dev && unit < 0; dev = dev->next) {
        struct ata_bus *bus;

        for (unsigned n = 0; dev->realized && (bus = bus_of(dev, n)) && unit < 0; n++, buses++) {
            if (d->bus && buses != number)
                continue;
            unit = free_unit(bus, d->unit);
            d->on = bus;
            d->bus_index = n;
        }
    }
    if (!buses || (d->bus && number >= buses))
        return error_set(err, ENOENT, "%s: this machine has %s%s", d->dev.type->name,
                         buses ? "no bus " : "no IDE or AHCI controller", buses ? d->bus : "");
    if (unit < 0 && d->unit != UNIT_ANY)
        return error_set(err, EBUSY, "%s: unit=%u is taken, or not on this bus", d->dev.type->name,
                         d->unit);
    if (unit < 0)
        return error_set(err, ENOSPC, "%s: all places for drives are taken", d->dev.type->name);
    return unit;
}

/* Printable characters that fit: what a guest prints as it finds it. */
static int set_text(const struct drive *d, const char *property, const char *value, char *to,
                    size_t size, struct error *err)
{
    if (strlen(value) >= size)
        return error_set(err, EINVAL, "%s: %s=%s has more than %zu characters", d->dev.type->name,
                         property, value, size - 1);
    for (const char *c = value; *c; c++)
        if (*c < ' ' || *c > '~')
            return error_set(err, EINVAL, "%s: %s may have only printable ASCII characters",
                             d->dev.type->name, property);
    strcpy(to, value);
    return 0;
}

static int attach(struct drive *d, bool is_cd, struct error *err)
{
    const char *type = d->dev.type->name;
    struct ata identity = {0}, *a;
    char serial[21];
    int unit, r;

    if (!is_cd && !d->disk)
        return error_set(err, EINVAL, "%s: needs drive=ID", type);
    if (!is_cd && disk_read_only(d->disk))
        return error_set(err, EROFS,
                         "%s: '%s' is read-only, which an ATA disk cannot be; use ide-cd "
                         "for a CD, or snapshot=on",
                         type, disk_filename(d->disk));
    if (!is_cd && (disk_size(d->disk) < ATA_SECTOR || disk_size(d->disk) > ATA_SECTOR * BIT(48)))
        return error_set(err, EINVAL, "%s: '%s' has %llu bytes; an ATA disk has 512 to 2^57", type,
                         disk_filename(d->disk), (unsigned long long)disk_size(d->disk));
    unit = find_place(d, err);
    if (unit < 0)
        return unit;
    snprintf(serial, sizeof(serial), "HS%05u", d->bus_index * 2 + (unsigned)unit + 1);
    r = set_text(d, "serial", d->serial ? d->serial : serial, identity.serial,
                 sizeof(identity.serial), err);
    if (!r)
        r = set_text(d, "model",
                     d->model ? d->model
                     : is_cd  ? "HOSPES DVD-ROM"
                              : "HOSPES HARDDISK",
                     identity.model, sizeof(identity.model), err);
    if (!r)
        r = set_text(d, "ver", d->revision ? d->revision : "1.0", identity.revision,
                     sizeof(identity.revision), err);
    if (r < 0)
        return r;
    a = d->on->drive[unit];
    pthread_mutex_lock(&d->on->controller->lock);
    memcpy(a->serial, identity.serial, sizeof(a->serial));
    memcpy(a->model, identity.model, sizeof(a->model));
    memcpy(a->revision, identity.revision, sizeof(a->revision));
    a->wwn = d->wwn;
    a->is_cd = is_cd;
    a->disk = d->disk;
    a->unit = (unsigned)unit;
    a->serial_ata = d->on->serial_ata;
    a->whole_blocks = d->on->serial_ata;
    ata_attach(a, d->on->controller, d->on->ops);
    if (d->on->plugged)
        d->on->plugged(a);
    pthread_mutex_unlock(&d->on->controller->lock);
    d->ata = a;
    d->unit = (uint8_t)unit;
    d->dev.parent = d->on->controller;
    return 0;
}

static int hd_realize(struct device *dev, struct error *err)
{
    return attach(to_drive(dev), false, err);
}

static int cd_realize(struct device *dev, struct error *err)
{
    return attach(to_drive(dev), true, err);
}

static void drive_unrealize(struct device *dev)
{
    ata_detach(to_drive(dev)->ata);
}

bool ata_drive_place(struct device *dev, struct ata_place *out)
{
    struct drive *d = to_drive(dev);

    if (dev->type != &ide_hd_type && dev->type != &ide_cd_type)
        return false;
    *out = (struct ata_place){.controller = d->on->controller,
                              .bus = d->bus_index,
                              .unit = d->unit,
                              .bootindex = (int)d->bootindex};
    return true;
}

static const struct property drive_properties[] = {
    PROPERTY_REF("drive", struct drive, disk, "the disk"),
    PROPERTY_STRING("bus", struct drive, bus, NULL, "ide.0, ide.1, ... (default: the first free)"),
    PROPERTY_U8("unit", struct drive, unit, UNIT_ANY, "0 or 1 (default: the first free)"),
    PROPERTY_U32("bootindex", struct drive, bootindex, NO_BOOTINDEX, "place in the boot order"),
    PROPERTY_STRING("serial", struct drive, serial, NULL, "serial number, up to 20 characters"),
    PROPERTY_STRING("model", struct drive, model, NULL, "model, up to 40 characters"),
    PROPERTY_STRING("ver", struct drive, revision, NULL, "firmware revision, up to 8 characters"),
    PROPERTY_U64("wwn", struct drive, wwn, 0, "world wide name"),
    PROPERTY_END,
};

const struct device_type ide_hd_type = {
    .name = "ide-hd",
    .summary = "ATA disk, on IDE or AHCI",
    .bus = "ide",
    .instance_size = sizeof(struct drive),
    .properties = drive_properties,
    .realize = hd_realize,
    .unrealize = drive_unrealize,
};

const struct device_type ide_cd_type = {
    .name = "ide-cd",
    .summary = "ATAPI CD or DVD drive, on IDE or AHCI",
    .bus = "ide",
    .instance_size = sizeof(struct drive),
    .properties = drive_properties,
    .realize = cd_realize,
    .unrealize = drive_unrealize,
};
