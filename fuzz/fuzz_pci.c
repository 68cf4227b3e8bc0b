/*
 * fuzz_pci.c - a guest that writes whatever it likes to PCI: configuration space by ports and
 * ECAM, BARs, power management ports, and state streams with wrong bytes.
 *
 * An input is a list of 8-byte operations on one of the two chip sets, each with a bridge and two
 * functions that have every kind of BAR. Afterwards what cannot change must not have changed, and
 * a reset must leave every interrupt pin low.
 */
#include "fuzz.h"

#include "../tests/unit/devices/pci/sample.h"
#include "devices/acpi/pm.h"
#include "devices/pci/i440fx.h"
#include "devices/pci/ich9.h"
#include "devices/pci/pam.h"
#include "devices/pci/piix.h"
#include "devices/pci/q35.h"
#include "machine/machine.h"
#include "memory/ram.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>

enum { OPERATION = 8, FUNCTIONS = 8 };

struct guest {
    struct machine *m;
    struct pci_host *host;
    struct pci_device *function[FUNCTIONS];
    unsigned functions;
    uint32_t identity[FUNCTIONS];
};

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_pci: %s\n", what);
    abort();
}

static void add(struct guest *g, struct device *dev)
{
    check(dev != NULL, "a device was not created");
    if (dev->type->realize != pci_realize)
        return;
    g->function[g->functions] = to_pci(dev);
    g->identity[g->functions++] = pci_get(to_pci(dev), PCI_VENDOR_ID, 4);
}

static void build(struct guest *g, bool q35)
{
    struct machine_config config = {.memory = 16 * MiB};
    struct device *pam;

    g->m = machine_new(&config, true);
    g->m->ram_below_4g = config.memory;
    check(!ram_block_new("ram", config.memory, &g->m->ram, NULL) &&
              !memory_add_ram(g->m->memory, "ram", 0, config.memory, 0, IN_ALL, g->m->ram, 0, true,
                              NULL, NULL),
          "no RAM");
    g->host = pci_host_add(g->m, "pci.0", NULL);
    pam = pam_add(g->m, NULL, NULL);
    if (q35) {
        add(g, q35_mch_add(g->m, pam, NULL));
        add(g, pci_device_add(g->m, &ich9_lpc_type, "1f.0", NULL));
    } else {
        add(g, i440fx_add(g->m, pam, NULL));
        add(g, pci_device_add(g->m, &piix3_type, "1.0", NULL));
        add(g, pci_device_add(g->m, &piix4_pm_type, "1.3", NULL));
    }
    add(g, device_add(g->m, &sample_type, "addr=3", NULL));
    add(g, device_add(g->m, &pci_bridge_type, "addr=4", NULL));
    add(g, device_add(g->m, &sample_type, "addr=2,bus=pci-bridge0", NULL));
}

static void corrupt_stream(struct device *dev, uint16_t where, uint8_t what)
{
    struct state_buffer b = {0};

    state_save_device(&b, dev);
    if (b.size)
        b.data[where * 7u % b.size] ^= what;
    state_load_device(&b, dev, NULL); /* may refuse */
    state_buffer_free(&b);
}

static void interrupt(struct pci_device *p, uint16_t how)
{
    if (!p->bar[4].kind) /* not one of ours */
        return;
    pthread_mutex_lock(&p->dev.lock);
    switch (how & 3) {
    case 0: pci_msi_send(p, how >> 2 & 63); break;
    case 1: pci_msix_send(p, how >> 2 & 255); break;
    default: pci_intx_set(p, how & 1); break;
    }
    pthread_mutex_unlock(&p->dev.lock);
}

static void operate(struct guest *g, const uint8_t *op)
{
    struct machine *m = g->m;
    struct pci_device *p = g->function[op[1] % g->functions];
    uint16_t reg = (uint16_t)load_le(op + 2, 2);
    uint32_t value = (uint32_t)load_le(op + 4, 4);
    unsigned size = 1u << (op[0] >> 4 & 3), bus = p->bus->bridge ? op[0] >> 6 : 0;
    gpa base;

    size = MIN(size, 4);
    switch (op[0] & 15) {
    case 0 ... 3:
        machine_out(m, PCI_CONFIG_ADDRESS, 1u << 31 | bus << 16 | p->devfn << 8 | (reg & 0xfc), 4);
        machine_out(m, (uint16_t)(PCI_CONFIG_DATA + (reg & 3)), value, size);
        break;
    case 4: pci_config_read(g->host, bus, p->devfn, reg & 0xff, 1); break;
    case 5: memory_write(m->memory, VIEW_NORMAL, Q35_ECAM_BASE + value, reg, size); break;
    case 6:
        base = pci_bar_address(p, reg % PCI_BARS);
        if (base != DEVICE_UNMAPPED)
            memory_write(m->memory, VIEW_NORMAL, base + (value & 0xffff), value, 2 * size);
        break;
    case 7: memory_read(m->memory, reg & 1, value, 2 * size); break;
    case 8: machine_out(m, ACPI_PM_PORTS + (reg & 0x7f), value, size); break;
    case 9: machine_out(m, reg, value, size); break;
    case 10: machine_in(m, reg, size); break;
    case 11: interrupt(p, reg); break;
    case 12: corrupt_stream(&p->dev, reg, op[4]); break;
    case 13: clock_advance(m->clock, value); break;
    case 14: /* as firmware would put it */
        pci_config_write(g->host, bus, p->devfn, PCI_BAR0 + reg % 6 * 4, 0xe0000000 + (value >> 8),
                         4);
        pci_config_write(g->host, bus, p->devfn, PCI_COMMAND, value & 0x407, 2);
        break;
    default: device_reset(&p->dev); break;
    }
}

/* Short ones: what goes wrong does so after some steps, and each step may rebuild the memory map.
 */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = 1 + OPERATION * (fuzz_random() % 100);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest guests[2];
    struct guest *g;

    if (!size)
        return 0;
    g = &guests[data[0] & 1];
    if (!g->m)
        build(g, data[0] & 1);
    data++, size--;
    for (; size >= OPERATION; data += OPERATION, size -= OPERATION)
        operate(g, data);
    for (unsigned i = 0; i < g->functions; i++)
        check(pci_get(g->function[i], PCI_VENDOR_ID, 4) == g->identity[i], "an identity changed");
    for (struct device *d = g->m->devices; d; d = d->next)
        device_reset(d);
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        check(!g->m->gsi[i].raised, "a reset left an interrupt pin high");
    return 0;
}
