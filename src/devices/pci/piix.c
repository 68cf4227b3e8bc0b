/*
 * piix.c - see piix.h. Intel 290550 (PIIX3), 290562 (PIIX4).
 *
 * The ISA bridge routes four PIRQs, one register each; the host bridge's object drives the lines.
 * What the PIIX contains of PIC, timer and clock are devices of their own.
 */
#include "devices/pci/piix.h"

#include "devices/acpi/pm.h"

#include <stdlib.h>

/* ---- function 0: ISA bridge --------------------------------------------------------------------
 */

struct piix3 {
    struct pci_device pci;
};

static void piix3_route(struct pci_device *p)
{
    for (unsigned i = 0; i < 4; i++) {
        uint8_t reg = (uint8_t)pci_get(p, PIIX_PIRQ_ROUTE + i, 1);

        pci_host_route_isa(p->bus->host, i, reg & PIIX_PIRQ_OFF ? -1 : reg & 15);
    }
}

static void piix3_written(struct pci_device *p, unsigned offset, unsigned size)
{
    if (ranges_overlap(offset, size, PIIX_PIRQ_ROUTE, 4))
        piix3_route(p);
}

static int piix3_realize(struct pci_device *p, struct error *err)
{
    pci_set(p, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    pci_set_writable(p, PCI_COMMAND, PCI_COMMAND_SERR, 2);
    pci_set(p, PCI_STATUS, 0x0200, 2);
    pci_set(p, 0x4c, 0x4d, 1); /* ISA I/O recovery */
    pci_set(p, 0x4e, 0x0003, 2);
    pci_set_writable(p, 0x4e, 0x00ff, 2); /* chip selects */
    for (unsigned i = 0; i < 4; i++) {
        pci_set(p, PIIX_PIRQ_ROUTE + i, PIIX_PIRQ_OFF, 1);
        pci_set_writable(p, PIIX_PIRQ_ROUTE + i, PIIX_PIRQ_OFF | 15, 1);
    }
    /* The board's wiring: slot 1 has INTA on PIRQA, each slot further turns by one. */
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        for (unsigned pin = 0; pin < PCI_PINS; pin++)
            pci_host_wire(p->bus->host, slot, pin, (slot + pin + 3) % 4);
    return 0;
}

static const struct pci_type piix3_pci = {
    .vendor = 0x8086,
    .device = 0x7000,
    .class_code = 0x060100,
    .realize = piix3_realize,
    .reset = piix3_route,
    .refresh = piix3_route,
    .config_written = piix3_written,
};

static const struct property piix3_properties[] = {
    PCI_PROPERTIES(struct piix3, pci),
    PROPERTY_END,
};

static const struct state_field piix3_state[] = {
    PCI_STATE(struct piix3, pci),
    STATE_END,
};

const struct device_type piix3_type = {
    .name = "piix3",
    .summary = "PIIX3 PCI-to-ISA bridge",
    .instance_size = sizeof(struct piix3),
    .properties = piix3_properties,
    .state = piix3_state,
    .bus_data = &piix3_pci,
    PCI_DEVICE_HOOKS,
};

/* ---- function 3: power management --------------------------------------------------------------
 */

struct piix4_pm {
    struct pci_device pci;
    struct acpi_pm pm;
    uint32_t global_control; /* saved */
    struct region *ports;
};
#define to_piix4(p) container_of(p, struct piix4_pm, pci)

static struct piix4_pm *of(struct device *dev)
{
    return to_piix4(to_pci(dev));
}

static uint64_t ports_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct piix4_pm *f = of(dev);

    if (offset == PIIX4_GLOBAL_CONTROL)
        return f->global_control;
    if (offset >= PIIX4_GPE)
        return acpi_pm_gpe_read(&f->pm, PIIX4_GPE_WIDTH, (unsigned)offset - PIIX4_GPE, size);
    return acpi_pm_read(&f->pm, (unsigned)offset, size);
}

static void ports_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix4_pm *f = of(dev);

    if (offset == PIIX4_GLOBAL_CONTROL)
        f->global_control = (uint32_t)value & 0x04010f07;
    else if (offset >= PIIX4_GPE)
        acpi_pm_gpe_write(&f->pm, PIIX4_GPE_WIDTH, (unsigned)offset - PIIX4_GPE, (uint32_t)value,
                          size);
    else
        acpi_pm_write(&f->pm, (unsigned)offset, (uint32_t)value, size);
}

static const struct io_ops ports_io = {ports_read, ports_write, 1, 4};

static uint64_t apm_read(struct device *dev, uint64_t offset, unsigned size)
{
    return of(dev)->pm.apm[offset];
}

static void apm_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix4_pm *f = of(dev);

    if (!acpi_pm_apm_write(&f->pm, (unsigned)offset, (uint8_t)value))
        return;
    if (pci_get(&f->pci, PIIX4_ACTIVITY_B, 4) & PIIX4_APMC_ENABLE &&
        f->global_control & PIIX4_SMI_ENABLE)
        acpi_pm_smi(dev->machine);
}

static const struct io_ops apm_io = {apm_read, apm_write, 1, 1};

static void piix4_place(struct pci_device *p)
{
    uint32_t base = pci_get(p, PIIX4_PM_BASE, 4) & 0xffc0;

    memory_place(to_piix4(p)->ports, base, base && pci_get(p, PIIX4_PM_MISC, 1) & 1);
}

static void piix4_written(struct pci_device *p, unsigned offset, unsigned size)
{
    piix4_place(p);
}

static void piix4_reset(struct pci_device *p)
{
    acpi_pm_reset(&to_piix4(p)->pm);
    to_piix4(p)->global_control = 0;
    piix4_place(p);
}

static void piix4_refresh(struct pci_device *p)
{
    acpi_pm_refresh(&to_piix4(p)->pm);
    piix4_place(p);
}

static int piix4_realize(struct pci_device *p, struct error *err)
{
    struct piix4_pm *f = to_piix4(p);
    int r = acpi_pm_init(&f->pm, &p->dev, 1 << PIIX4_POWEROFF_TYPE, err);

    if (!r)
        r = device_map_pio(&p->dev, APM_COMMAND, 2, &apm_io, err);
    if (!r)
        r = device_map_region(&p->dev, true, DEVICE_UNMAPPED, PIIX4_PORTS_LEN, PRIORITY_DEFAULT,
                              &ports_io, &f->ports, err);
    if (r)
        return r;
    pci_set(p, PCI_STATUS, 0x0280, 2);
    pci_set(p, PCI_INTERRUPT_LINE, PM_SCI_GSI, 1); /* wired: it is the SCI */
    pci_set_writable(p, PCI_INTERRUPT_LINE, 0, 1);
    pci_set(p, PCI_INTERRUPT_PIN, 1, 1);
    pci_set(p, PIIX4_PM_BASE, 1, 4);
    pci_set_writable(p, PIIX4_PM_BASE, 0xffc0, 4);
    pci_set_writable(p, PIIX4_ACTIVITY_B, PIIX4_APMC_ENABLE, 4);
    pci_set_writable(p, PIIX4_PM_MISC, 1, 1);
    return 0;
}

void piix4_power_button(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    acpi_pm_event(&of(dev)->pm, PM1_POWER_BUTTON);
    pthread_mutex_unlock(&dev->lock);
}

static const struct pci_type piix4_pci = {
    .vendor = 0x8086,
    .device = 0x7113,
    .revision = 3,
    .class_code = 0x068000,
    .realize = piix4_realize,
    .reset = piix4_reset,
    .refresh = piix4_refresh,
    .config_written = piix4_written,
};

static const struct property piix4_properties[] = {
    PCI_PROPERTIES(struct piix4_pm, pci),
    PROPERTY_END,
};

static const struct state_field piix4_state[] = {
    PCI_STATE(struct piix4_pm, pci),
    STATE_STRUCT(struct piix4_pm, pm, acpi_pm_state),
    STATE_U32(struct piix4_pm, global_control),
    STATE_END,
};

const struct device_type piix4_pm_type = {
    .name = "piix4-pm",
    .summary = "PIIX4 power management",
    .instance_size = sizeof(struct piix4_pm),
    .properties = piix4_properties,
    .state = piix4_state,
    .bus_data = &piix4_pci,
    PCI_DEVICE_HOOKS,
};
