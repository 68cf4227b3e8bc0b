/*
 * i440fx.c - see i440fx.h. Intel 290549, chapter 3.2: memory attributes and SMRAM; what concerns
 * real DRAM is not there.
 */
#include "devices/pci/i440fx.h"

#include "devices/pci/pam.h"

#include <errno.h>
#include <stdlib.h>

struct i440fx {
    struct pci_device pci;
    struct device *pam;
    uint8_t smram; /* derived: the register as it was applied */
};
#define to_i440fx(p) container_of(p, struct i440fx, pci)

static void apply(struct pci_device *p)
{
    struct i440fx *f = to_i440fx(p);

    f->smram = (uint8_t)pci_get(p, I440FX_SMRAM, 1);
    pam_update(f->pam, p->config + I440FX_PAM);
    pam_smram_update(f->pam, f->smram);
}

static void i440fx_written(struct pci_device *p, unsigned offset, unsigned size)
{
    if (ranges_overlap(offset, size, I440FX_SMRAM, 1))
        pci_put(p, I440FX_SMRAM,
                pam_smram_written(to_i440fx(p)->smram, (uint8_t)pci_get(p, I440FX_SMRAM, 1)), 1);
    if (ranges_overlap(offset, size, I440FX_SMRAM, 1) ||
        ranges_overlap(offset, size, I440FX_PAM, PAM_REGISTERS))
        apply(p);
}

static int i440fx_realize(struct pci_device *p, struct error *err)
{
    if (!to_i440fx(p)->pam)
        return error_set(err, EINVAL, "i440fx: is a part of the board 'pc'");
    pci_set(p, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    pci_set_writable(p, PCI_COMMAND, PCI_COMMAND_SERR, 2);
    pci_set(p, PCI_STATUS, 0x0280, 2);
    pci_set_writable(p, I440FX_PAM, 0x30, 1);
    for (unsigned i = 1; i < PAM_REGISTERS; i++)
        pci_set_writable(p, I440FX_PAM + i, 0x33, 1);
    pci_set(p, I440FX_SMRAM, SMRAM_BASE, 1);
    pci_set_writable(p, I440FX_SMRAM, 0x78, 1);
    return 0;
}

static const struct pci_type i440fx_pci = {
    .vendor = 0x8086,
    .device = 0x1237,
    .revision = 2,
    .class_code = 0x060000,
    .realize = i440fx_realize,
    .reset = apply,
    .refresh = apply,
    .config_written = i440fx_written,
};

static const struct property i440fx_properties[] = {
    PCI_PROPERTIES(struct i440fx, pci),
    PROPERTY_REF("pam", struct i440fx, pam, "the memory attribute device"),
    PROPERTY_END,
};

static const struct state_field i440fx_state[] = {
    PCI_STATE(struct i440fx, pci),
    STATE_END,
};

const struct device_type i440fx_type = {
    .name = "i440fx",
    .summary = "82440FX host bridge",
    .instance_size = sizeof(struct i440fx),
    .properties = i440fx_properties,
    .state = i440fx_state,
    .bus_data = &i440fx_pci,
    PCI_DEVICE_HOOKS,
};

struct device *i440fx_add(struct machine *m, struct device *pam, struct error *err)
{
    struct device *dev = device_new(m, &i440fx_type, NULL);

    device_set_ref(dev, "pam", pam);
    if (device_set(dev, "addr", "0", err) < 0 || device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
