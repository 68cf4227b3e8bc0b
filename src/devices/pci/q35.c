/*
 * q35.c - see q35.h. Intel 316966 (3 Series chip sets), chapter 5: PCIEXBAR, the attribute map,
 * SMRAM and TSEG; what concerns real DRAM, graphics and DMI is not there.
 */
#include "devices/pci/q35.h"

#include "devices/pci/pam.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>

enum {
    ECAM_ENABLE = 1 << 0,
    TSEG_ENABLE = 1 << 0,
    TSEG_SIZE = 3 << 1, /* 1, 2, 8 MiB */
    SMRAM_ERROR = 1 << 6,
};

struct q35_mch {
    struct pci_device pci;
    struct device *pam;
    uint8_t smram, esmramc; /* derived: the registers as they were applied */
};
#define to_mch(p) container_of(p, struct q35_mch, pci)

static void apply_ecam(struct pci_device *p)
{
    static const uint64_t sizes[] = {256 * MiB, 128 * MiB, 64 * MiB, 0};
    uint64_t bar = pci_get(p, Q35_PCIEXBAR, 4) | (uint64_t)pci_get(p, Q35_PCIEXBAR + 4, 4) << 32;
    uint64_t size = sizes[bar >> 1 & 3];

    pci_host_place_ecam(p->bus->host, size ? bar & ~(size - 1) : 0, size,
                        size && bar & ECAM_ENABLE);
}

static void apply_memory(struct pci_device *p)
{
    static const uint64_t sizes[] = {1 * MiB, 2 * MiB, 8 * MiB, 0};
    struct q35_mch *f = to_mch(p);

    f->smram = (uint8_t)pci_get(p, Q35_SMRAM, 1);
    f->esmramc = (uint8_t)pci_get(p, Q35_ESMRAMC, 1);
    pam_update(f->pam, p->config + Q35_PAM);
    pam_smram_update(f->pam, f->smram);
    pam_tseg_update(f->pam, p->dev.machine->ram_below_4g,
                    f->smram & SMRAM_ENABLE && f->esmramc & TSEG_ENABLE ? sizes[f->esmramc >> 1 & 3]
                                                                        : 0);
}

static void apply(struct pci_device *p)
{
    apply_ecam(p);
    apply_memory(p);
}

static void mch_written(struct pci_device *p, unsigned offset, unsigned size)
{
    if (ranges_overlap(offset, size, Q35_PCIEXBAR, 8))
        apply_ecam(p);
    if (!ranges_overlap(offset, size, Q35_PAM, Q35_ESMRAMC + 1 - Q35_PAM))
        return;
    if (to_mch(p)->smram & SMRAM_LOCK)
        pci_put(p, Q35_ESMRAMC, to_mch(p)->esmramc & (pci_get(p, Q35_ESMRAMC, 1) | ~SMRAM_ERROR),
                1);
    pci_put(p, Q35_SMRAM, pam_smram_written(to_mch(p)->smram, (uint8_t)pci_get(p, Q35_SMRAM, 1)),
            1);
    apply_memory(p);
}

static int mch_realize(struct pci_device *p, struct error *err)
{
    if (!to_mch(p)->pam)
        return error_set(err, EINVAL, "q35-mch: is a part of the board 'q35'");
    pci_set(p, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    pci_set_writable(p, PCI_COMMAND, PCI_COMMAND_SERR, 2);
    pci_set(p, PCI_STATUS, 0x0090 & ~PCI_STATUS_CAP_LIST, 2);
    pci_set(p, Q35_PCIEXBAR, (uint32_t)Q35_ECAM_BASE, 4);
    pci_set_writable(p, Q35_PCIEXBAR, 0xfc000007, 4);
    pci_set_writable(p, Q35_PCIEXBAR + 4, 0x0000000f, 4);
    pci_set_writable(p, Q35_PAM, 0x30, 1);
    for (unsigned i = 1; i < PAM_REGISTERS; i++)
        pci_set_writable(p, Q35_PAM + i, 0x33, 1);
    pci_set(p, Q35_SMRAM, SMRAM_BASE, 1);
    pci_set_writable(p, Q35_SMRAM, 0x78, 1);
    pci_set(p, Q35_ESMRAMC, 0x38, 1);
    pci_set_writable(p, Q35_ESMRAMC, TSEG_ENABLE | TSEG_SIZE, 1);
    pci_set_clears(p, Q35_ESMRAMC, SMRAM_ERROR, 1);
    /* In MiB, bits 15:4. */
    pci_set(p, Q35_TOLUD, (uint32_t)(p->dev.machine->ram_below_4g / MiB) << 4 & 0xfff0, 2);
    return 0;
}

static const struct pci_type mch_pci = {
    .vendor = 0x8086,
    .device = 0x29c0,
    .class_code = 0x060000,
    .realize = mch_realize,
    .reset = apply,
    .refresh = apply,
    .config_written = mch_written,
};

static const struct property mch_properties[] = {
    PCI_PROPERTIES(struct q35_mch, pci),
    PROPERTY_REF("pam", struct q35_mch, pam, "the memory attribute device"),
    PROPERTY_END,
};

static const struct state_field mch_state[] = {
    PCI_STATE(struct q35_mch, pci),
    STATE_END,
};

const struct device_type q35_mch_type = {
    .name = "q35-mch",
    .summary = "Q35 memory controller hub",
    .instance_size = sizeof(struct q35_mch),
    .properties = mch_properties,
    .state = mch_state,
    .bus_data = &mch_pci,
    PCI_DEVICE_HOOKS,
};

struct device *q35_mch_add(struct machine *m, struct device *pam, struct error *err)
{
    struct device *dev = device_new(m, &q35_mch_type, NULL);

    device_set_ref(dev, "pam", pam);
    if (device_set(dev, "addr", "0", err) < 0 || device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
