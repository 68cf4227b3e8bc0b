/* sample.c - see sample.h. */
#include "sample.h"

#include "memory/ram.h"

struct sample *sample_of(struct device *dev)
{
    return container_of(to_pci(dev), struct sample, pci);
}

static uint64_t sample_read(struct device *dev, uint64_t offset, unsigned size)
{
    return 0x5a000000 | (uint32_t)offset;
}

static void sample_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    sample_of(dev)->last_write = (uint32_t)value;
}

static const struct io_ops sample_io = {sample_read, sample_write, 1, 4};

static int sample_realize(struct pci_device *p, struct error *err)
{
    struct sample *s = container_of(p, struct sample, pci);
    int r = ram_block_new("sample", 64 * KiB, &s->ram, err);

    pci_bar_add(p, 0, PCI_BAR_IO, false, 32);
    pci_bar_add(p, 1, PCI_BAR_MEM32, false, 4000); /* rounded up */
    pci_bar_add(p, 2, PCI_BAR_MEM64, true, 64 * KiB);
    pci_bar_add(p, 4, PCI_BAR_MEM32, false, pci_msix_size(70));
    if (!r)
        r = pci_bar_io(p, 0, 0, 32, &sample_io, err);
    if (!r)
        r = pci_bar_io(p, 1, 0x100, 0x200, &sample_io, err);
    if (!r)
        r = pci_bar_ram(p, 2, 0, s->ram, true, err);
    if (!r)
        r = pci_msi_add(p, 4, err);
    return r ? r : pci_msix_add(p, 70, 4, 0, err);
}

static void sample_unrealize(struct pci_device *p)
{
    ram_block_free(container_of(p, struct sample, pci)->ram);
}

static const struct pci_type sample_pci = {
    .vendor = 0x1234,
    .device = 0x5678,
    .revision = 9,
    .class_code = 0x020304,
    .pin = 2,
    .realize = sample_realize,
    .unrealize = sample_unrealize,
};

static const struct property sample_properties[] = {
    PCI_PROPERTIES(struct sample, pci),
    PROPERTY_END,
};

static const struct state_field sample_state[] = {
    PCI_STATE(struct sample, pci),
    STATE_U32(struct sample, last_write),
    STATE_END,
};

const struct device_type sample_type = {
    .name = "sample",
    .summary = "PCI function for tests",
    .bus = "pci",
    .instance_size = sizeof(struct sample),
    .properties = sample_properties,
    .state = sample_state,
    .bus_data = &sample_pci,
    PCI_DEVICE_HOOKS,
};
