/*
 * common.h - what all boards have: interrupt controllers, timers, ports, and the way a kernel is
 * started without firmware. For the boards only.
 *
 * A board creates devices in the order in which they are reset: interrupt controllers first, then
 * what drives them. Everything a load hook needs later is in struct board, machine->board_data.
 */
#ifndef BOARDS_COMMON_H
#define BOARDS_COMMON_H

#include "boards/board.h"
#include "boot/boot.h"
#include "devices/acpi/tables.h"
#include "devices/pci/pci.h"

struct apic_bus;
struct ram_block;
struct region;

enum { BOARD_RESERVED = 4, BOARD_IOAPIC_ID = 0 };
enum { BOARD_VIRTIO_SLOTS = ACPI_VIRTIO_SLOTS, BOARD_VIRTIO_STEP = 0x200 };
#define BOARD_VIRTIO_BASE UINT64_C(0xfeb00000) /* of the virtio-mmio slots */

/* Where a board keeps its ACPI tables: in RAM that kernels leave alone. */
enum { BOARD_ACPI_RSDP = 0xe0000, BOARD_ACPI_TABLES = 0xe0040, BOARD_ACPI_END = 0xf0000 };

struct board {
    struct apic_bus *apics;
    struct device *pic, *pit, *rtc, *fw_cfg;
    struct pci_host *pci;       /* NULL: none */
    struct device *bridge, *pm; /* host bridge; what has the power button */
    struct boot_files *files;   /* NULL: no kernel */
    struct ram_block *rom;      /* firmware that cannot be written; NULL: none */
    struct region *rom_region;
    bool uefi; /* the firmware is one */
    enum acpi_platform platform;
    unsigned acpi_devices; /* enum acpi_device */
    uint32_t level_isa;    /* ISA interrupts that are level triggered */
    struct boot_range reserved[BOARD_RESERVED];
    unsigned reserved_count;
    unsigned virtio_slots; /* virtio-mmio devices there are */
    uint8_t virtio_irq[BOARD_VIRTIO_SLOTS];
    char *append; /* the kernel's command line with what the board adds; NULL: as configured */
    /* Leave the chip set as a firmware would; called before a kernel is loaded. */
    void (*prepare)(struct machine *m);
    /* GSI of a PCI pin of bus 0, for the MP table. */
    unsigned (*pci_gsi)(struct machine *m, unsigned slot, unsigned pin);
};

static inline struct board *board_of(struct machine *m)
{
    return m->board_data;
}

/* PCI memory windows: what tables and firmware are told, and where BARs are put. */
#define BOARD_WINDOW32      UINT64_C(0xc0000000)
#define BOARD_WINDOW32_LAST UINT64_C(0xfebfffff)
void board_window64(const struct machine *m, gpa *first, gpa *last);

/* board_data, i8259, local APICs, I/O APIC, PIT, RTC with its memory, HPET if configured. */
int board_add_core(struct machine *m, enum acpi_platform platform, struct error *err);
/* Firmware that ends at 4 GiB, if there is one; before the memory attributes, which show its end
 * below 1 MiB. */
int board_add_firmware(struct machine *m, struct error *err);
void board_free_firmware(struct machine *m);
/* What the firmware is told of the order in which to try devices. */
int board_tell_firmware(struct machine *m, struct error *err);

/* Serial ports, debug ports, pvpanic; with `pc` also i8042 and port 0x92. */
int board_add_isa(struct machine *m, bool pc, struct error *err);
/* For machine->mmio_slot of boards that have slots; and the kernel's command line with them. */
int board_virtio_slot(struct machine *m, gpa *base, uint8_t *irq, struct error *err);
void board_virtio_append(struct machine *m);

/* The devices that the user asked for. */
int board_add_devices(struct machine *m, struct error *err);
/* Open the kernel, if there is one, and set the load hook. The last step of a build. */
int board_finish(struct machine *m, struct error *err);
void board_free(struct machine *m);

/* Give the functions of bus 0 addresses in the windows and interrupt lines, and enable them: as
 * firmware does. */
void board_assign_pci(struct machine *m);

#endif
