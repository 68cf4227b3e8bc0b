/*
 * pci_bridge.c - a PCI-to-PCI bridge: a bus more behind one slot.
 *
 * Forwarding is in pci.c: a BAR behind the bridge answers only where the bridge's windows and
 * command register let it through. VGA and ISA modes are not there (their bits read as zero).
 */
#include "devices/pci/pci.h"

#include <stdlib.h>

struct pci_bridge {
    struct pci_device pci;
    struct pci_bus bus;
};
#define to_bridge(p) container_of(p, struct pci_bridge, pci)

static int bridge_realize(struct pci_device *p, struct error *err)
{
    struct pci_bridge *b = to_bridge(p);

    pci_set_writable(p, PCI_PRIMARY_BUS, 0xffffff, 4);
    pci_set_writable(p, PCI_SECONDARY_LATENCY, 0xff, 1);
    pci_set_writable(p, PCI_IO_BASE, 0xf0f0, 2);
    pci_set_writable(p, PCI_MEMORY_BASE, 0xfff0fff0, 4);
    pci_set(p, PCI_PREFETCH_BASE, 0x00010001, 4); /* 64-bit */
    pci_set_writable(p, PCI_PREFETCH_BASE, 0xfff0fff0, 4);
    pci_set_writable(p, PCI_PREFETCH_BASE_HIGH, 0xffffffff, 4);
    pci_set_writable(p, PCI_PREFETCH_LIMIT_HIGH, 0xffffffff, 4);
    pci_set_writable(p, PCI_BRIDGE_CONTROL, 0x0003, 2); /* parity, SERR */
    b->bus.name = p->dev.id;
    b->bus.host = p->bus->host;
    b->bus.bridge = p;
    p->secondary = &b->bus;
    return 0;
}

static const struct pci_type bridge_pci = {
    .vendor = 0x1b36, /* the identity under which guests know an emulated bridge */
    .device = 0x0001,
    .class_code = 0x060400,
    .bridge = true,
    .realize = bridge_realize,
};

static const struct property bridge_properties[] = {
    PCI_PROPERTIES(struct pci_bridge, pci),
    PROPERTY_END,
};

static const struct state_field bridge_state[] = {
    PCI_STATE(struct pci_bridge, pci),
    STATE_END,
};

const struct device_type pci_bridge_type = {
    .name = "pci-bridge",
    .summary = "PCI-to-PCI bridge; its bus has the bridge's id as name",
    .instance_size = sizeof(struct pci_bridge),
    .properties = bridge_properties,
    .state = bridge_state,
    .bus = "pci",
    .bus_data = &bridge_pci,
    PCI_DEVICE_HOOKS,
};
