/*
 * pci_host.c - the host bridge's side of PCI: buses, configuration mechanism 1 and ECAM, and the
 * way of INTx to the interrupt controllers. See pci.h.
 *
 * Port 0xcf9 (reset control) lies inside the address register 0xcf8, which takes only 32-bit
 * accesses: both are one region here.
 */
#include "devices/pci/pci.h"

#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { PRIORITY_ECAM = -5 }; /* below RAM, above BARs */
enum { ADDRESS_ENABLE = 1u << 31, RESET_SYSTEM = 1 << 1, RESET_CPU = 1 << 2 };

/* ---- interrupts --------------------------------------------------------------------------------
 */

static void pirq_drive_locked(struct pci_host *h, unsigned pirq)
{
    irq_line_set(&h->pirq[pirq].isa, h->pirq[pirq].raised != 0);
    irq_line_set(&h->pirq[pirq].apic, h->pirq[pirq].raised != 0);
}

/* A device's pin, seen from the root bus: each bridge turns the pins by the slot behind it. */
void pci_intx_drive(struct pci_device *p, bool level)
{
    struct pci_host *h = p->bus->host;
    unsigned pin = p->initial[PCI_INTERRUPT_PIN] - 1u, slot = pci_slot(p), pirq;

    for (const struct pci_bus *bus = p->bus; bus->bridge; bus = bus->bridge->bus) {
        pin = (pin + slot) % PCI_PINS;
        slot = pci_slot(bus->bridge);
    }
    pthread_mutex_lock(&h->intx_lock);
    if (p->intx_driven != level) {
        p->intx_driven = level;
        h->raised[slot][pin] += level ? 1 : -1;
        if (h->raised[slot][pin] == (level ? 1 : 0)) {
            pirq = h->wire[slot][pin];
            h->pirq[pirq].raised += level ? 1u : -1u;
            pirq_drive_locked(h, pirq);
        }
    }
    pthread_mutex_unlock(&h->intx_lock);
}

void pci_host_wire(struct pci_host *h, unsigned slot, unsigned pin, unsigned pirq)
{
    unsigned before;

    assert(slot < PCI_SLOTS && pin < PCI_PINS && pirq < PCI_PIRQS);
    pthread_mutex_lock(&h->intx_lock);
    before = h->wire[slot][pin];
    h->wire[slot][pin] = (uint8_t)pirq;
    if (h->raised[slot][pin] && before != pirq) {
        h->pirq[before].raised--;
        h->pirq[pirq].raised++;
        pirq_drive_locked(h, before);
        pirq_drive_locked(h, pirq);
    }
    pthread_mutex_unlock(&h->intx_lock);
}

static void route(struct pci_host *h, unsigned pirq, struct irq_line *line, int pin)
{
    struct irq_pin *to = pin >= 0 && pin < MACHINE_GSI_COUNT ? &h->dev.machine->gsi[pin] : NULL;

    pthread_mutex_lock(&h->intx_lock);
    if (line->pin != to) {
        irq_line_set(line, false);
        irq_line_connect(line, to);
        pirq_drive_locked(h, pirq);
    }
    pthread_mutex_unlock(&h->intx_lock);
}

void pci_host_route_isa(struct pci_host *h, unsigned pirq, int irq)
{
    route(h, pirq, &h->pirq[pirq].isa, irq);
}

void pci_host_route_gsi(struct pci_host *h, unsigned pirq, unsigned gsi)
{
    route(h, pirq, &h->pirq[pirq].apic, (int)gsi);
}

/* ---- buses -------------------------------------------------------------------------------------
 */

struct pci_bus *pci_bus_find(struct machine *m, const char *name)
{
    for (struct device *d = m->devices; d; d = d->next) {
        struct pci_bus *bus = NULL;

        if (!d->realized)
            continue;
        if (d->type == &pci_host_type)
            bus = &to_pci_host(d)->root;
        else if (d->type->realize == pci_realize)
            bus = to_pci(d)->secondary;
        if (bus && (!name || !strcmp(bus->name, name)))
            return bus;
    }
    return NULL;
}

struct pci_device *pci_device_at(struct pci_bus *bus, unsigned slot, unsigned function)
{
    return slot < PCI_SLOTS && function < PCI_FUNCTIONS ? bus->functions[slot << 3 | function]
                                                        : NULL;
}

static bool slot_used(const struct pci_bus *bus, unsigned slot)
{
    for (unsigned f = 0; f < PCI_FUNCTIONS; f++)
        if (bus->functions[slot << 3 | f])
            return true;
    return false;
}

/* "slot[.function]" in hexadecimal, as PCI addresses are written. */
static int parse_addr(const struct pci_device *p, struct error *err)
{
    char *end;
    unsigned long slot = strtoul(p->addr, &end, 16), function = 0;
    bool good = end != p->addr && p->addr[0] != '-' && p->addr[0] != '+';

    if (good && *end == '.') {
        const char *start = end + 1;

        function = strtoul(start, &end, 16);
        good = end != start && *start != '-' && *start != '+';
    }
    if (!good || *end || slot >= PCI_SLOTS || function >= PCI_FUNCTIONS)
        return error_set(err, EINVAL, "%s: addr=%s is not slot.function, 0.0 to 1f.7",
                         p->dev.type->name, p->addr);
    return (int)(slot << 3 | function);
}

static int choose_devfn(struct pci_device *p, struct pci_bus *bus, struct error *err)
{
    int devfn;

    if (p->addr) {
        devfn = parse_addr(p, err);
        if (devfn >= 0 && bus->functions[devfn])
            return error_set(err, EBUSY, "%s: addr=%s on %s is taken by '%s'", p->dev.type->name,
                             p->addr, bus->name, bus->functions[devfn]->dev.id);
        return devfn;
    }
    for (unsigned slot = bus->bridge ? 0 : 1; slot < PCI_SLOTS; slot++)
        if (!slot_used(bus, slot))
            return (int)(slot << 3);
    return error_set(err, ENOSPC, "%s: all slots of %s are taken; give addr=slot.function",
                     p->dev.type->name, bus->name);
}

int pci_bus_attach(struct pci_device *p, struct error *err)
{
    struct pci_bus *bus = pci_bus_find(p->dev.machine, p->bus_name);
    int devfn;

    if (!bus && p->bus_name)
        return error_set(err, ENOENT, "%s: there is no PCI bus '%s'", p->dev.type->name,
                         p->bus_name);
    if (!bus)
        return error_set(err, ENOENT, "%s: this machine has no PCI bus", p->dev.type->name);
    pthread_mutex_lock(&bus->host->dev.lock);
    devfn = choose_devfn(p, bus, err);
    if (devfn >= 0) {
        struct pci_device *first;

        bus->functions[devfn] = p;
        p->bus = bus;
        p->devfn = (uint8_t)devfn;
        p->dev.parent = bus->bridge ? &bus->bridge->dev : &bus->host->dev;
        first = bus->functions[devfn & ~7];
        for (unsigned f = 1; first && f < PCI_FUNCTIONS; f++)
            if (bus->functions[(devfn & ~7) + (int)f])
                pci_set(first, PCI_HEADER_TYPE, first->initial[PCI_HEADER_TYPE] | 0x80, 1);
    }
    pthread_mutex_unlock(&bus->host->dev.lock);
    return MIN(devfn, 0);
}

void pci_bus_detach(struct pci_device *p)
{
    struct pci_host *h = p->bus->host;

    if (p->intx_driven)
        pci_intx_drive(p, false);
    pthread_mutex_lock(&h->dev.lock);
    p->bus->functions[p->devfn] = NULL;
    pthread_mutex_unlock(&h->dev.lock);
}

/* ---- configuration space -----------------------------------------------------------------------
 */

static struct pci_bus *bus_by_number_locked(struct pci_bus *bus, unsigned number)
{
    for (unsigned i = 0; i < ARRAY_SIZE(bus->functions); i++) {
        struct pci_device *p = bus->functions[i];
        unsigned secondary, last;

        if (!p || !p->secondary)
            continue;
        secondary = pci_get(p, PCI_SECONDARY_BUS, 1);
        last = pci_get(p, PCI_SUBORDINATE_BUS, 1);
        if (!secondary || number < secondary || number > last)
            continue;
        return number == secondary ? p->secondary : bus_by_number_locked(p->secondary, number);
    }
    return NULL;
}

/* The function with its lock held, or NULL. */
static struct pci_device *function_lock(struct pci_host *h, unsigned number, unsigned devfn,
                                        unsigned offset, unsigned size)
{
    struct pci_bus *bus = number ? bus_by_number_locked(&h->root, number) : &h->root;
    struct pci_device *p = bus ? bus->functions[devfn & 0xff] : NULL;

    if (!p || !range_within(offset, size, p->config_size))
        return NULL;
    pthread_mutex_lock(&p->dev.lock);
    return p;
}

static uint32_t config_read_locked(struct pci_host *h, unsigned number, unsigned devfn,
                                   unsigned offset, unsigned size)
{
    struct pci_device *p = function_lock(h, number, devfn, offset, size);
    uint32_t value = (uint32_t)size_mask(size);

    if (p) {
        value = pci_config_read_locked(p, offset, size);
        pthread_mutex_unlock(&p->dev.lock);
    }
    return value;
}

static void config_write_locked(struct pci_host *h, unsigned number, unsigned devfn,
                                unsigned offset, uint32_t value, unsigned size)
{
    struct pci_device *p = function_lock(h, number, devfn, offset, size);

    if (p) {
        pci_config_write_locked(p, offset, value, size);
        pthread_mutex_unlock(&p->dev.lock);
    }
}

uint32_t pci_config_read(struct pci_host *h, unsigned bus, unsigned devfn, unsigned offset,
                         unsigned size)
{
    uint32_t value;

    pthread_mutex_lock(&h->dev.lock);
    value = config_read_locked(h, bus, devfn, offset, size);
    pthread_mutex_unlock(&h->dev.lock);
    return value;
}

void pci_config_write(struct pci_host *h, unsigned bus, unsigned devfn, unsigned offset,
                      uint32_t value, unsigned size)
{
    pthread_mutex_lock(&h->dev.lock);
    config_write_locked(h, bus, devfn, offset, value, size);
    pthread_mutex_unlock(&h->dev.lock);
}

static uint64_t address_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pci_host *h = to_pci_host(dev);

    if (size == 4)
        return h->address;
    if (size == 1 && offset == PCI_RESET_CONTROL - PCI_CONFIG_ADDRESS)
        return h->reset_control;
    return size_mask(size);
}

static void address_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_host *h = to_pci_host(dev);

    if (size == 4) {
        h->address = (uint32_t)value & (ADDRESS_ENABLE | 0xfffffc);
    } else if (size == 1 && offset == PCI_RESET_CONTROL - PCI_CONFIG_ADDRESS) {
        if (value & RESET_CPU && !(h->reset_control & RESET_CPU))
            machine_request_reset(dev->machine);
        h->reset_control = (uint8_t)value & (RESET_SYSTEM | RESET_CPU | 1 << 3);
    }
}

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pci_host *h = to_pci_host(dev);

    if (!(h->address & ADDRESS_ENABLE))
        return size_mask(size);
    return config_read_locked(h, h->address >> 16 & 0xff, h->address >> 8 & 0xff,
                              (h->address & 0xfc) + (unsigned)offset, size);
}

static void data_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_host *h = to_pci_host(dev);

    if (h->address & ADDRESS_ENABLE)
        config_write_locked(h, h->address >> 16 & 0xff, h->address >> 8 & 0xff,
                            (h->address & 0xfc) + (unsigned)offset, (uint32_t)value, size);
}

static uint64_t ecam_read(struct device *dev, uint64_t offset, unsigned size)
{
    return config_read_locked(to_pci_host(dev), (unsigned)(offset >> 20),
                              (unsigned)(offset >> 12 & 0xff), (unsigned)(offset & 0xfff), size);
}

static void ecam_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    config_write_locked(to_pci_host(dev), (unsigned)(offset >> 20), (unsigned)(offset >> 12 & 0xff),
                        (unsigned)(offset & 0xfff), (uint32_t)value, size);
}

static const struct io_ops address_io = {address_read, address_write, 1, 4};
static const struct io_ops data_io = {data_read, data_write, 1, 4};
static const struct io_ops ecam_io = {ecam_read, ecam_write, 1, 4};

void pci_host_place_ecam(struct pci_host *h, gpa base, uint64_t size, bool enabled)
{
    memory_begin(h->dev.machine->memory);
    for (unsigned i = 0; i < ARRAY_SIZE(h->ecam); i++)
        memory_place(h->ecam[i], base, enabled && size == (uint64_t)64 * MiB << i);
    memory_commit(h->dev.machine->memory);
}

/* ---- the device --------------------------------------------------------------------------------
 */

static int host_realize(struct device *dev, struct error *err)
{
    struct pci_host *h = to_pci_host(dev);
    int r = device_map_pio(dev, PCI_CONFIG_ADDRESS, 4, &address_io, err);

    if (!r)
        r = device_map_pio(dev, PCI_CONFIG_DATA, 4, &data_io, err);
    for (unsigned i = 0; i < ARRAY_SIZE(h->ecam) && !r; i++)
        r = device_map_region(dev, false, DEVICE_UNMAPPED, (uint64_t)64 * MiB << i, PRIORITY_ECAM,
                              &ecam_io, &h->ecam[i], err);
    if (r)
        return r;
    pthread_mutex_init(&h->intx_lock, NULL);
    h->root.name = h->bus_name;
    h->root.host = h;
    return 0;
}

static void host_reset(struct device *dev)
{
    to_pci_host(dev)->address = 0;
    to_pci_host(dev)->reset_control = 0;
}

static void host_unrealize(struct device *dev)
{
    struct pci_host *h = to_pci_host(dev);

    for (unsigned i = 0; i < PCI_PIRQS; i++) {
        irq_line_set(&h->pirq[i].isa, false);
        irq_line_set(&h->pirq[i].apic, false);
    }
    pthread_mutex_destroy(&h->intx_lock);
}

static const struct property host_properties[] = {
    PROPERTY_STRING("bus-name", struct pci_host, bus_name, "pci.0", "name of the root bus"),
    PROPERTY_END,
};

static const struct state_field host_state[] = {
    STATE_U32(struct pci_host, address),
    STATE_U8(struct pci_host, reset_control),
    STATE_END,
};

const struct device_type pci_host_type = {
    .name = "pci-host",
    .summary = "PCI host bridge: configuration ports, ECAM, interrupt wires",
    .instance_size = sizeof(struct pci_host),
    .properties = host_properties,
    .state = host_state,
    .realize = host_realize,
    .reset = host_reset,
    .unrealize = host_unrealize,
};

struct pci_host *pci_host_add(struct machine *m, const char *bus_name, struct error *err)
{
    auto_free char *properties = xasprintf("bus-name=%s", bus_name);
    struct device *dev = device_add(m, &pci_host_type, properties, err);

    return dev ? to_pci_host(dev) : NULL;
}
