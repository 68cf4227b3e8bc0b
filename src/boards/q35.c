/*
 * q35.c - the board `q35`: Q35 memory controller hub and ICH9, with PCI Express configuration
 * space.
 *
 * Bus 0: 00.0 host bridge, 1f.0 LPC bridge, 1f.2 AHCI. PIRQA to H have the I/O APIC's inputs 16 to
 * 23; for the i8259 they are ISA interrupts 10 and 11 as firmware routes them.
 */
#include "devices/pci/q35.h"
#include "boards/common.h"
#include "devices/acpi/pm.h"
#include "devices/block/ata_bus.h"
#include "devices/pci/ich9.h"
#include "devices/pci/pam.h"

#include <errno.h>

enum { LPC = 31 << 3 };

static unsigned q35_pci_gsi(struct machine *m, unsigned slot, unsigned pin)
{
    return 16 + board_of(m)->pci->wire[slot][pin];
}

static void q35_prepare(struct machine *m)
{
    struct pci_host *h = board_of(m)->pci;

    for (unsigned i = 0; i < PAM_REGISTERS; i++)
        pci_config_write(h, 0, 0, Q35_PAM + i, 0x33, 1);
    pci_config_write(h, 0, 0, Q35_PCIEXBAR + 4, 0, 4);
    pci_config_write(h, 0, 0, Q35_PCIEXBAR, (uint32_t)Q35_ECAM_BASE | 1, 4);
    for (unsigned i = 0; i < 4; i++) {
        pci_config_write(h, 0, LPC, ICH9_PIRQ_A + i, i < 2 ? 10 : 11, 1);
        pci_config_write(h, 0, LPC, ICH9_PIRQ_E + i, i < 2 ? 10 : 11, 1);
    }
    machine_out(m, 0x4d1, (1 << 10 | 1 << 11) >> 8, 1); /* level triggered */
    pci_config_write(h, 0, LPC, ICH9_PM_BASE, ACPI_PM_PORTS, 4);
    pci_config_write(h, 0, LPC, ICH9_ACPI_CONTROL, ICH9_PM_ENABLE, 1);
    pci_config_write(h, 0, LPC, ICH9_RCBA, (uint32_t)ICH9_RCBA_BASE | 1, 4);
    board_assign_pci(m);
}

static void q35_power_button(struct machine *m)
{
    ich9_power_button(board_of(m)->pm);
}

static int q35_build(struct machine *m, struct error *err)
{
    struct error unread = {0};
    struct board *b;
    struct device *pam;
    int r;

    err = err ? err : &unread;
    r = board_add_core(m, ACPI_Q35, err);
    if (r)
        return r;
    b = board_of(m);
    b->level_isa = 1 << 9 | 1 << 10 | 1 << 11;
    b->prepare = q35_prepare;
    b->pci_gsi = q35_pci_gsi;
    b->reserved[b->reserved_count++] = (struct boot_range){Q35_ECAM_BASE, Q35_ECAM_SIZE,
                                                           BOOT_MEMORY_RESERVED};
    r = board_add_firmware(m, err);
    if (r)
        return r;
    b->pci = pci_host_add(m, "pcie.0", err);
    pam = b->pci ? pam_add(m, b->rom, err) : NULL;
    b->bridge = pam ? q35_mch_add(m, pam, err) : NULL;
    b->pm = b->bridge ? pci_device_add(m, &ich9_lpc_type, "1f.0", err) : NULL;
    if (!b->pm || !pci_device_add(m, &ahci_type, "1f.2", err))
        return -err->code;
    m->power_button = q35_power_button;
    r = board_add_isa(m, true, err);
    return r ? r : board_finish(m, err);
}

const struct board_type board_q35 = {
    .name = "q35",
    .summary = "PC with PCI Express (Q35, ICH9)",
    .max_ram_below_4g = UINT64_C(2) * GiB,
    .max_cpus = MACHINE_MAX_CPUS,
    .build = q35_build,
    .free = board_free,
};
