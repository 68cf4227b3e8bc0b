/*
 * ich9.c - see ich9.h. Intel 316972.
 *
 * PIRQA to H have a GSI each (16 to 23) for the I/O APIC, and an ISA interrupt where their
 * register says so. Slots 25 to 31 are wired as the registers DxxIR behind RCBA say; all other
 * slots share PIRQE to H. There is no watchdog: the strap that would let it reset reads as set.
 */
#include "devices/pci/ich9.h"

#include "devices/acpi/pm.h"

#include <stdlib.h>

enum {
    FIRST_PIRQ_GSI = 16,
    PIRQ_OFF = 0x80,
    SMI_LOCK = 1 << 4,
    SMI_CONTROL_BITS = 0x000f387f,
    RCBA_ENABLE = 1,
    RCBA_LEN = 0x4000,
    /* In the 16 KiB: only these bytes are modelled. */
    CHIPSET_FIRST = 0x3100,
    CHIPSET_LEN = 0x100,
    CHIPSET_GCS = 0x3410, /* bit 5: no reboot by the watchdog */
    GCS_NO_REBOOT = 1 << 5,
};

struct ich9_lpc {
    struct pci_device pci;
    struct acpi_pm pm;
    uint32_t smi_control, smi_status; /* saved */
    uint8_t chipset[CHIPSET_LEN];     /* saved */
    bool smi_locked;                  /* saved */
    struct region *ports, *rcba;
};
#define to_lpc(p) container_of(p, struct ich9_lpc, pci)

static struct ich9_lpc *of(struct device *dev)
{
    return to_lpc(to_pci(dev));
}

/* ---- interrupts --------------------------------------------------------------------------------
 */

static void route(struct pci_device *p)
{
    for (unsigned i = 0; i < PCI_PIRQS; i++) {
        uint8_t reg = (uint8_t)pci_get(p, i < 4 ? ICH9_PIRQ_A + i : ICH9_PIRQ_E + (i - 4), 1);

        pci_host_route_isa(p->bus->host, i, reg & PIRQ_OFF ? -1 : reg & 15);
    }
}

/* The register that says how a slot is wired, four bits for each pin; 0: none does. */
static unsigned wiring_register(unsigned slot)
{
    switch (slot) {
    case 25: return 0x50;
    case 26: return 0x4c;
    case 27: return 0x48;
    case 28: return 0x46;
    case 29: return 0x44;
    case 31: return 0x40;
    default: return 0;
    }
}

static void wire(struct pci_device *p)
{
    struct ich9_lpc *f = to_lpc(p);

    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        for (unsigned pin = 0; pin < PCI_PINS; pin++) {
            unsigned reg = wiring_register(slot), pirq = 4 + (slot + pin) % 4;

            if (reg)
                pirq = (unsigned)load_le(f->chipset + reg, 2) >> 4 * pin & 7;
            else if (slot == 30)
                pirq = 4 + pin;
            pci_host_wire(p->bus->host, slot, pin, pirq);
        }
}

/* ---- chip set configuration -------------------------------------------------------------------
 */

static uint64_t rcba_read(struct device *dev, uint64_t offset, unsigned size)
{
    if (offset >= CHIPSET_FIRST && offset < CHIPSET_FIRST + CHIPSET_LEN)
        return load_le(of(dev)->chipset + (offset - CHIPSET_FIRST), size);
    return offset == CHIPSET_GCS ? GCS_NO_REBOOT : 0;
}

static void rcba_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset < CHIPSET_FIRST || offset >= CHIPSET_FIRST + CHIPSET_LEN)
        return;
    store_le(of(dev)->chipset + (offset - CHIPSET_FIRST), value, size);
    wire(&of(dev)->pci);
}

static const struct io_ops rcba_io = {rcba_read, rcba_write, 1, 4};

/* ---- power management --------------------------------------------------------------------------
 */

static uint64_t ports_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct ich9_lpc *f = of(dev);

    if (offset >= ICH9_GPE && offset < ICH9_GPE + 2 * ICH9_GPE_WIDTH)
        return acpi_pm_gpe_read(&f->pm, ICH9_GPE_WIDTH, (unsigned)offset - ICH9_GPE, size);
    if (offset >= ICH9_SMI_CONTROL && offset < ICH9_SMI_STATUS + 4) {
        uint64_t both = f->smi_control | (uint64_t)f->smi_status << 32;

        return both >> 8 * (offset - ICH9_SMI_CONTROL);
    }
    return acpi_pm_read(&f->pm, (unsigned)offset, size);
}

static void ports_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct ich9_lpc *f = of(dev);
    uint32_t control;

    if (offset >= ICH9_GPE && offset < ICH9_GPE + 2 * ICH9_GPE_WIDTH) {
        acpi_pm_gpe_write(&f->pm, ICH9_GPE_WIDTH, (unsigned)offset - ICH9_GPE, (uint32_t)value,
                          size);
    } else if (offset >= ICH9_SMI_CONTROL && offset < ICH9_SMI_STATUS) {
        control = f->smi_control;
        store_le((uint8_t *)&control + (offset - ICH9_SMI_CONTROL), value, size);
        control &= SMI_CONTROL_BITS;
        if (f->smi_locked)
            control = (control & ~(uint32_t)ICH9_SMI_GLOBAL) | (f->smi_control & ICH9_SMI_GLOBAL);
        f->smi_control = control;
    } else if (offset >= ICH9_SMI_STATUS && offset < ICH9_SMI_STATUS + 4) {
        f->smi_status &= ~(uint32_t)(value << 8 * (offset - ICH9_SMI_STATUS));
    } else {
        acpi_pm_write(&f->pm, (unsigned)offset, (uint32_t)value, size);
    }
}

static uint64_t apm_read(struct device *dev, uint64_t offset, unsigned size)
{
    return of(dev)->pm.apm[offset];
}

static void apm_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct ich9_lpc *f = of(dev);

    if (!acpi_pm_apm_write(&f->pm, (unsigned)offset, (uint8_t)value) ||
        !(f->smi_control & ICH9_SMI_APMC))
        return;
    f->smi_status |= ICH9_SMI_APMC;
    if (f->smi_control & ICH9_SMI_GLOBAL)
        acpi_pm_smi(dev->machine);
}

static const struct io_ops ports_io = {ports_read, ports_write, 1, 4};
static const struct io_ops apm_io = {apm_read, apm_write, 1, 1};

/* ---- configuration space -----------------------------------------------------------------------
 */

static void apply(struct pci_device *p)
{
    struct ich9_lpc *f = to_lpc(p);
    uint32_t base = pci_get(p, ICH9_PM_BASE, 4) & 0xff80, rcba = pci_get(p, ICH9_RCBA, 4);

    memory_place(f->ports, base, base && pci_get(p, ICH9_ACPI_CONTROL, 1) & ICH9_PM_ENABLE);
    memory_place(f->rcba, rcba & 0xffffc000, (rcba & RCBA_ENABLE) != 0);
    route(p);
}

static void lpc_written(struct pci_device *p, unsigned offset, unsigned size)
{
    struct ich9_lpc *f = to_lpc(p);

    /* Once set, the lock stays until a reset. */
    if (ranges_overlap(offset, size, ICH9_GEN_PMCON_1, 2)) {
        f->smi_locked |= (pci_get(p, ICH9_GEN_PMCON_1, 2) & SMI_LOCK) != 0;
        if (f->smi_locked)
            pci_put(p, ICH9_GEN_PMCON_1, pci_get(p, ICH9_GEN_PMCON_1, 2) | SMI_LOCK, 2);
    }
    if (offset >= ICH9_PM_BASE)
        apply(p);
}

static void lpc_reset(struct pci_device *p)
{
    struct ich9_lpc *f = to_lpc(p);

    acpi_pm_reset(&f->pm);
    f->smi_control = f->smi_status = 0;
    f->smi_locked = false;
    memset(f->chipset, 0, sizeof(f->chipset));
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        if (wiring_register(slot))
            store_le(f->chipset + wiring_register(slot), 0x3210, 2);
    apply(p);
    wire(p);
}

static void lpc_refresh(struct pci_device *p)
{
    acpi_pm_refresh(&to_lpc(p)->pm);
    apply(p);
    wire(p);
}

static int lpc_realize(struct pci_device *p, struct error *err)
{
    struct ich9_lpc *f = to_lpc(p);
    /* Type 0 too: firmware written for virtual machines switches off by it. */
    int r = acpi_pm_init(&f->pm, &p->dev, 1 << ICH9_POWEROFF_TYPE | 1 << 0, err);

    if (!r)
        r = device_map_pio(&p->dev, APM_COMMAND, 2, &apm_io, err);
    if (!r)
        r = device_map_region(&p->dev, true, DEVICE_UNMAPPED, ICH9_PORTS_LEN, PRIORITY_DEFAULT,
                              &ports_io, &f->ports, err);
    if (!r)
        r = device_map_region(&p->dev, false, DEVICE_UNMAPPED, RCBA_LEN, PRIORITY_BOARD, &rcba_io,
                              &f->rcba, err);
    if (r)
        return r;
    pci_set(p, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    pci_set_writable(p, PCI_COMMAND, PCI_COMMAND_SERR, 2);
    pci_set(p, PCI_STATUS, 0x0200, 2);
    pci_set(p, ICH9_PM_BASE, 1, 4);
    pci_set_writable(p, ICH9_PM_BASE, 0xff80, 4);
    pci_set_writable(p, ICH9_ACPI_CONTROL, 0x87, 1);
    for (unsigned i = 0; i < 4; i++) {
        pci_set(p, ICH9_PIRQ_A + i, PIRQ_OFF, 1);
        pci_set_writable(p, ICH9_PIRQ_A + i, PIRQ_OFF | 15, 1);
        pci_set(p, ICH9_PIRQ_E + i, PIRQ_OFF, 1);
        pci_set_writable(p, ICH9_PIRQ_E + i, PIRQ_OFF | 15, 1);
    }
    pci_set_writable(p, 0x80, 0x73773377, 4); /* decode ranges: kept, and all always decoded */
    pci_set_writable(p, ICH9_GEN_PMCON_1, 0x0637, 2);
    pci_set_writable(p, ICH9_RCBA, 0xffffc001, 4);
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        pci_host_route_gsi(p->bus->host, i, FIRST_PIRQ_GSI + i);
    return 0;
}

void ich9_power_button(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    acpi_pm_event(&of(dev)->pm, PM1_POWER_BUTTON);
    pthread_mutex_unlock(&dev->lock);
}

static const struct pci_type lpc_pci = {
    .vendor = 0x8086,
    .device = 0x2918,
    .revision = 2,
    .class_code = 0x060100,
    .realize = lpc_realize,
    .reset = lpc_reset,
    .refresh = lpc_refresh,
    .config_written = lpc_written,
};

static const struct property lpc_properties[] = {
    PCI_PROPERTIES(struct ich9_lpc, pci),
    PROPERTY_END,
};

static const struct state_field lpc_state[] = {
    PCI_STATE(struct ich9_lpc, pci),
    STATE_STRUCT(struct ich9_lpc, pm, acpi_pm_state),
    STATE_U32(struct ich9_lpc, smi_control),
    STATE_U32(struct ich9_lpc, smi_status),
    STATE_ARRAY(struct ich9_lpc, chipset),
    STATE_BOOL(struct ich9_lpc, smi_locked),
    STATE_END,
};

const struct device_type ich9_lpc_type = {
    .name = "ich9-lpc",
    .summary = "ICH9 LPC bridge with power management",
    .instance_size = sizeof(struct ich9_lpc),
    .properties = lpc_properties,
    .state = lpc_state,
    .bus_data = &lpc_pci,
    PCI_DEVICE_HOOKS,
};
