/*
 * tables.h - the ACPI tables of a board: RSDP, RSDT, XSDT, FADT, FACS, DSDT, SSDT, MADT, and MCFG
 * and HPET where there is one.
 *
 * The fixed part of the namespace is written in ASL (*.asl here, compiled at build time); what the
 * command line decides is in a small SSDT made here. The tables come out as one blob of offsets
 * with a list of what must be added and summed once its address is known: acpi_tables_place() does
 * it for a machine without firmware, acpi_loader_script() tells a firmware how to (the commands
 * of QEMU's etc/table-loader).
 */
#ifndef DEVICES_ACPI_TABLES_H
#define DEVICES_ACPI_TABLES_H

#include "base/error.h"
#include "memory/map.h"

enum acpi_platform { ACPI_PC, ACPI_Q35, ACPI_MICROVM };

/* What is optional on the ISA bus: bits of \HFLG in the ASL. */
enum acpi_device {
    ACPI_COM1 = 1 << 0, /* COM2 to COM4 follow */
    ACPI_HPET = 1 << 4,
    ACPI_FW_CFG = 1 << 5,
    ACPI_PVPANIC = 1 << 6,
    ACPI_I8042 = 1 << 7,
    ACPI_VGA = 1 << 8,
};

enum { ACPI_VIRTIO_SLOTS = 8 };

struct acpi_config {
    enum acpi_platform platform;
    unsigned cpus;    /* local APIC ids 0 .. cpus-1 */
    unsigned devices; /* enum acpi_device */
    uint8_t ioapic_id;
    uint16_t pm_ports; /* where the firmware puts power management; 0: ACPI_PM_PORTS */
    /* First and last byte of the PCI windows; not for ACPI_MICROVM. */
    gpa window32_first, window32_last, window64_first, window64_last;
    /* virtio-mmio devices, below 4 GiB, with level-triggered ISA interrupts. */
    gpa virtio_base;
    uint32_t virtio_step;
    unsigned virtio_slots;
    uint8_t virtio_irq[ACPI_VIRTIO_SLOTS];
};

enum { ACPI_POINTERS = 24, ACPI_CHECKSUMS = 16, ACPI_RSDP_SIZE = 36, ACPI_MAX_SIZE = 64 * KiB };

struct acpi_blob {
    uint8_t *tables; /* allocated; begins with the FACS, wants 64-byte alignment */
    size_t size;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    struct {
        bool in_rsdp; /* else in tables */
        uint32_t offset;
        uint8_t size; /* of the field, which holds an offset into tables */
    } pointer[ACPI_POINTERS];
    unsigned pointers;
    struct {
        bool in_rsdp;
        uint32_t start, length, offset; /* the byte at offset makes the sum of the range zero */
    } checksum[ACPI_CHECKSUMS];
    unsigned checksums;
};

int acpi_tables_build(const struct acpi_config *c, struct acpi_blob *out, struct error *err);
void acpi_blob_free(struct acpi_blob *b);

/* Add `address` to the pointers, make the sums right; once. Below 4 GiB, 64-byte aligned. */
void acpi_tables_place(struct acpi_blob *b, gpa address);

/* For a blob that was not placed: commands for a firmware that has files "etc/acpi/tables" and
 * "etc/acpi/rsdp". Allocated; *size in bytes. */
uint8_t *acpi_loader_script(const struct acpi_blob *b, size_t *size);

#endif
