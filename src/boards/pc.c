/*
 * pc.c - the board `pc`: i440FX, PIIX3 and PIIX4, the machine every guest since 1996 knows.
 *
 * Bus 0: 00.0 host bridge, 01.0 ISA bridge, 01.1 IDE, 01.3 power management. PIRQA to D are ISA
 * interrupts 10, 10, 11 and 11, on the i8259 and the I/O APIC alike.
 */
#include "boards/common.h"
#include "devices/acpi/pm.h"
#include "devices/block/ata_bus.h"
#include "devices/pci/i440fx.h"
#include "devices/pci/pam.h"
#include "devices/pci/piix.h"

#include <errno.h>

enum { ISA_BRIDGE = 1 << 3, IDE = 1 << 3 | 1, POWER = 1 << 3 | 3 };

static const uint8_t pirq_isa[4] = {10, 10, 11, 11};

static unsigned pc_pci_gsi(struct machine *m, unsigned slot, unsigned pin)
{
    return pirq_isa[board_of(m)->pci->wire[slot][pin]];
}

static void pc_prepare(struct machine *m)
{
    struct pci_host *h = board_of(m)->pci;

    for (unsigned i = 0; i < PAM_REGISTERS; i++)
        pci_config_write(h, 0, 0, I440FX_PAM + i, 0x33, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(pirq_isa); i++)
        pci_config_write(h, 0, ISA_BRIDGE, PIIX_PIRQ_ROUTE + i, pirq_isa[i], 1);
    pci_config_write(h, 0, IDE, PIIX3_IDE_TIMING, 0x80008000, 4); /* both channels decode */
    machine_out(m, 0x4d1, (1 << 10 | 1 << 11) >> 8, 1);           /* level triggered */
    pci_config_write(h, 0, POWER, PIIX4_PM_BASE, ACPI_PM_PORTS, 4);
    pci_config_write(h, 0, POWER, PIIX4_PM_MISC, 1, 1);
    board_assign_pci(m);
}

static void pc_power_button(struct machine *m)
{
    piix4_power_button(board_of(m)->pm);
}

static int pc_build(struct machine *m, struct error *err)
{
    struct error unread = {0};
    struct board *b;
    struct device *pam;
    int r;

    err = err ? err : &unread;
    r = board_add_core(m, ACPI_PC, err);
    if (r)
        return r;
    b = board_of(m);
    b->level_isa = 1 << 9 | 1 << 10 | 1 << 11;
    b->prepare = pc_prepare;
    b->pci_gsi = pc_pci_gsi;
    r = board_add_firmware(m, err);
    if (r)
        return r;
    b->pci = pci_host_add(m, "pci.0", err);
    pam = b->pci ? pam_add(m, b->rom, err) : NULL;
    b->bridge = pam ? i440fx_add(m, pam, err) : NULL;
    if (!b->bridge || !pci_device_add(m, &piix3_type, "1.0", err))
        return -err->code;
    if (!pci_device_add(m, &piix3_ide_type, "1.1", err))
        return -err->code;
    b->pm = pci_device_add(m, &piix4_pm_type, "1.3", err);
    if (!b->pm)
        return -err->code;
    m->power_button = pc_power_button;
    r = board_add_isa(m, true, err);
    return r ? r : board_finish(m, err);
}

const struct board_type board_pc = {
    .name = "pc",
    .summary = "PC with PCI (i440FX, PIIX3)",
    .max_ram_below_4g = UINT64_C(3) * GiB,
    .max_cpus = MACHINE_MAX_CPUS,
    .build = pc_build,
    .free = board_free,
};
