/*
 * common.c - see common.h.
 */
#include "boards/common.h"

#include "devices/char/serial.h"
#include "devices/input/i8042.h"
#include "devices/irq/apic_bus.h"
#include "devices/irq/i8259.h"
#include "devices/irq/ioapic.h"
#include "devices/irq/lapic.h"
#include "devices/misc/fw_cfg.h"
#include "devices/misc/misc.h"
#include "devices/timer/cmos_rtc.h"
#include "devices/timer/hpet.h"
#include "devices/timer/i8254.h"

#include <errno.h>
#include <stdlib.h>

/* ---- devices -----------------------------------------------------------------------------------
 */

/* Sizes of memory where firmware has looked for them since the AT: kilobytes and 64 KiB units. */
static void fill_cmos(struct machine *m, struct device *rtc)
{
    uint64_t low = m->ram_below_4g, high = m->ram_above_4g / (64 * KiB);
    uint64_t above_1m = low > MiB ? MIN((low - MiB) / KiB, 0xffff) : 0;
    uint64_t above_16m = low > 16 * MiB ? MIN((low - 16 * MiB) / (64 * KiB), 0xffff) : 0;

    cmos_set(rtc, 0x14, 0x04 | 0x02); /* keyboard, coprocessor */
    cmos_set(rtc, 0x15, 640 & 0xff);
    cmos_set(rtc, 0x16, 640 >> 8);
    cmos_set(rtc, 0x17, (uint8_t)above_1m);
    cmos_set(rtc, 0x18, (uint8_t)(above_1m >> 8));
    cmos_set(rtc, 0x30, (uint8_t)above_1m);
    cmos_set(rtc, 0x31, (uint8_t)(above_1m >> 8));
    cmos_set(rtc, 0x34, (uint8_t)above_16m);
    cmos_set(rtc, 0x35, (uint8_t)(above_16m >> 8));
    for (unsigned i = 0; i < 3; i++)
        cmos_set(rtc, 0x5b + i, (uint8_t)(high >> 8 * i));
    cmos_set(rtc, 0x5f, (uint8_t)(m->cpu_count - 1));
}

int board_add_core(struct machine *m, enum acpi_platform platform, struct error *err)
{
    struct board *b = xcalloc(1, sizeof(*b));

    m->board_data = b;
    b->platform = platform;
    b->apics = apic_bus_new();
    m->msi = apic_bus_msi;
    m->msi_opaque = b->apics;
    b->pic = i8259_add(m, apic_bus_extint, b->apics, err);
    if (!b->pic)
        return -err->code;
    apic_bus_set_pic(b->apics, b->pic);
    for (unsigned i = 0; i < m->cpu_count; i++)
        if (!lapic_add(m, b->apics, m->cpus[i], err))
            return -err->code;
    if (!ioapic_add(m, b->apics, BOARD_IOAPIC_ID, err))
        return -err->code;
    b->pit = i8254_add(m, err);
    if (!b->pit)
        return -err->code;
    b->rtc = cmos_rtc_add(m, err);
    if (!b->rtc)
        return -err->code;
    fill_cmos(m, b->rtc);
    if (m->config.hpet) {
        if (!hpet_add(m, b->pit, b->rtc, err))
            return -err->code;
        b->acpi_devices |= ACPI_HPET;
    }
    return 0;
}

static int add_with_chardev(struct machine *m, const struct device_type *type, const char *iobase,
                            const char *irq, struct chardev *chardev, struct error *err)
{
    struct device *dev = device_new(m, type, NULL);
    int r = device_set(dev, "iobase", iobase, err);

    if (!r && irq)
        r = device_set(dev, "irq", irq, err);
    device_set_ref(dev, "chardev", chardev);
    if (!r)
        r = device_realize(dev, err);
    if (r < 0)
        device_free(dev);
    return r;
}

int board_add_isa(struct machine *m, bool pc, struct error *err)
{
    static const char *const com[4][2] = {
        {"0x3f8", "4"}, {"0x2f8", "3"}, {"0x3e8", "4"}, {"0x2e8", "3"}};
    struct board *b = board_of(m);
    int r = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(com) && !r; i++)
        if (m->config.serial[i]) {
            r = add_with_chardev(m, &isa_serial_type, com[i][0], com[i][1], m->config.serial[i],
                                 err);
            b->acpi_devices |= ACPI_COM1 << i;
        }
    if (!r && m->config.debugcon)
        r = add_with_chardev(m, &debugcon_type, "0xe9", NULL, m->config.debugcon, err);
    if (!r && m->config.firmware_log)
        r = add_with_chardev(m, &debugcon_type, "0x402", NULL, m->config.firmware_log, err);
    if (!r && m->config.isa_debug_exit && !device_add(m, &isa_debug_exit_type, NULL, err))
        r = -err->code;
    if (!r && !device_add(m, &pvpanic_type, NULL, err))
        r = -err->code;
    b->acpi_devices |= ACPI_PVPANIC;
    if (!r && pc) {
        b->acpi_devices |= ACPI_I8042;
        if (!device_add(m, &i8042_type, NULL, err) || !device_add(m, &port92_type, NULL, err))
            r = -err->code;
    }
    return r;
}

int board_add_devices(struct machine *m, struct error *err)
{
    for (unsigned i = 0; i < m->config.device_count; i++)
        if (!device_add_text(m, m->config.devices[i], err))
            return error_prefix(err, -err->code, "device %s: ", m->config.devices[i]);
    return 0;
}

/* ---- PCI, as firmware leaves it ----------------------------------------------------------------
 */

void board_window64(const struct machine *m, gpa *first, gpa *last)
{
    unsigned bits = m->model.phys_bits ? MIN(m->model.phys_bits, 46) : 36;

    *first = align_up((UINT64_C(1) << 32) + m->ram_above_4g, GiB);
    *last = MAX(UINT64_C(1) << bits, *first + GiB) - 1;
}

struct windows {
    gpa io, io_end, low, low_end, high, high_end;
};

/* The next free place for `size` bytes, naturally aligned; 0: none. */
static gpa take(gpa *next, gpa end, uint64_t size)
{
    gpa at = align_up(*next, size);

    if (at < *next || at + size > end)
        return 0;
    *next = at + size;
    return at;
}

static void assign_bar(struct pci_device *p, unsigned bar, struct windows *w)
{
    struct pci_host *h = p->bus->host;
    const struct pci_bar *b = &p->bar[bar];
    gpa at;

    if (bar == PCI_ROM_BAR) /* whoever wants it reads it */
        return;
    if (b->kind == PCI_BAR_IO)
        at = take(&w->io, w->io_end, b->size);
    else if (b->kind == PCI_BAR_MEM64 && b->size >= 64 * MiB)
        at = take(&w->high, w->high_end, b->size);
    else
        at = take(&w->low, w->low_end, b->size);
    pci_config_write(h, 0, p->devfn, PCI_BAR0 + 4 * bar, (uint32_t)at, 4);
    if (b->kind == PCI_BAR_MEM64)
        pci_config_write(h, 0, p->devfn, PCI_BAR0 + 4 * bar + 4, (uint32_t)(at >> 32), 4);
}

void board_assign_pci(struct machine *m)
{
    struct board *b = board_of(m);
    struct windows w = {
        .io = 0xc000, .io_end = 0x10000, .low = BOARD_WINDOW32, .low_end = BOARD_WINDOW32_LAST + 1};

    board_window64(m, &w.high, &w.high_end);
    w.high_end++;
    for (unsigned devfn = 0; devfn < ARRAY_SIZE(b->pci->root.functions); devfn++) {
        struct pci_device *p = b->pci->root.functions[devfn];
        unsigned pin, io = 0, memory = 0;

        if (!p || p->secondary)
            continue;
        for (unsigned bar = 0; bar < PCI_BARS; bar++) {
            if (p->bar[bar].kind == PCI_BAR_NONE)
                continue;
            assign_bar(p, bar, &w);
            *(p->bar[bar].kind == PCI_BAR_IO ? &io : &memory) = 1;
        }
        pci_config_write(b->pci, 0, devfn, PCI_COMMAND,
                         pci_config_read(b->pci, 0, devfn, PCI_COMMAND, 2) |
                             (io ? PCI_COMMAND_IO : 0) | (memory ? PCI_COMMAND_MEMORY : 0),
                         2);
        pin = pci_config_read(b->pci, 0, devfn, PCI_INTERRUPT_PIN, 1);
        if (pin)
            pci_config_write(b->pci, 0, devfn, PCI_INTERRUPT_LINE,
                             b->pci_gsi(m, pci_slot(p), pin - 1), 1);
    }
}

/* ---- starting a kernel -------------------------------------------------------------------------
 */

static int build_acpi(struct machine *m, struct acpi_blob *out, struct error *err)
{
    struct board *b = board_of(m);
    /* Where firmwares look for room for BARs on this board, and for the PIIX4's ports. */
    gpa window32 = m->config.firmware && b->platform == ACPI_PC
                       ? MAX(m->ram_below_4g, UINT64_C(2) * GiB)
                       : BOARD_WINDOW32;
    struct acpi_config c = {.platform = b->platform,
                            .cpus = m->cpu_count,
                            .devices = b->acpi_devices,
                            .ioapic_id = BOARD_IOAPIC_ID,
                            .pm_ports = b->uefi && b->platform == ACPI_PC ? 0xb000 : 0,
                            .window32_first = window32,
                            .window32_last = BOARD_WINDOW32_LAST,
                            .virtio_base = BOARD_VIRTIO_BASE,
                            .virtio_step = BOARD_VIRTIO_STEP,
                            .virtio_slots = b->virtio_slots};

    memcpy(c.virtio_irq, b->virtio_irq, sizeof(c.virtio_irq));
    board_window64(m, &c.window64_first, &c.window64_last);
    return acpi_tables_build(&c, out, err);
}

static int load_acpi(struct machine *m, struct error *err)
{
    struct acpi_blob blob;
    int r = build_acpi(m, &blob, err);

    if (r < 0)
        return r;
    acpi_tables_place(&blob, BOARD_ACPI_TABLES);
    if (blob.size > BOARD_ACPI_END - BOARD_ACPI_TABLES ||
        dma_write(m->memory, BOARD_ACPI_RSDP, blob.rsdp, sizeof(blob.rsdp)) < 0 ||
        dma_write(m->memory, BOARD_ACPI_TABLES, blob.tables, blob.size) < 0)
        r = error_set(err, ENOSPC, "no room for the ACPI tables (%zu bytes) at %#x", blob.size,
                      BOARD_ACPI_TABLES);
    acpi_blob_free(&blob);
    return r;
}

/* Wires of the PCI functions that have an interrupt, for the MP table. */
static unsigned list_pci_irqs(struct machine *m, struct mptable_pci *out, unsigned most)
{
    struct board *b = board_of(m);
    unsigned count = 0;

    for (unsigned i = 0; b->pci && i < ARRAY_SIZE(b->pci->root.functions); i++) {
        struct pci_device *p = b->pci->root.functions[i];
        unsigned pin = p ? pci_get(p, PCI_INTERRUPT_PIN, 1) : 0;
        bool known = false;

        for (unsigned n = 0; n < count; n++)
            known |= out[n].device == i >> 3 && out[n].pin == pin;
        if (!pin || known || count == most)
            continue;
        out[count++] = (struct mptable_pci){.device = (uint8_t)(i >> 3),
                                            .pin = (uint8_t)pin,
                                            .gsi = (uint8_t)b->pci_gsi(m, i >> 3, pin - 1)};
    }
    return count;
}

/* What loaders and firmware are told of the machine. */
struct description {
    struct mptable_pci pci_irqs[PCI_SLOTS * PCI_PINS];
    struct mptable_config mp;
    struct smbios_config smbios;
    struct boot_config boot;
};

/* Is there a display device? */
static bool has_display(struct machine *m)
{
    for (struct device *dev = m->devices; dev; dev = dev->next)
        if (dev->realized && dev->type->realize == pci_realize &&
            pci_get(to_pci(dev), PCI_CLASS + 2, 1) == 0x03)
            return true;
    return false;
}

static void describe(struct machine *m, struct description *d)
{
    struct board *b = board_of(m);
    uint32_t id[4];

    cpu_cpuid(m->cpus[0], 1, 0, id);
    d->mp = (struct mptable_config){.cpus = m->cpu_count,
                                    .cpu_signature = id[0],
                                    .cpu_features = id[3],
                                    .ioapic_id = BOARD_IOAPIC_ID,
                                    .ioapic_address = (uint32_t)IOAPIC_DEFAULT_BASE,
                                    .pci = b->pci != NULL,
                                    .level_isa = b->level_isa,
                                    .timer_on_pin_2 = true,
                                    .pci_irqs = d->pci_irqs};
    d->mp.pci_irq_count = list_pci_irqs(m, d->pci_irqs, ARRAY_SIZE(d->pci_irqs));
    d->smbios = (struct smbios_config){.cpus = m->cpu_count,
                                       .cores = m->model.cores,
                                       .threads = m->model.threads,
                                       .cpu_signature = id[0],
                                       .cpu_features = id[3],
                                       .cpu_vendor = m->model.vendor,
                                       .cpu_model = m->model.name,
                                       .ram_below_4g = m->ram_below_4g,
                                       .ram_above_4g = m->ram_above_4g};
    d->boot = (struct boot_config){.files = b->files,
                                   .append = b->append ? b->append : m->config.append,
                                   .reserved = b->reserved,
                                   .reserved_count = b->reserved_count,
                                   .smbios = &d->smbios,
                                   .display = has_display(m),
                                   .boot_menu = m->config.boot_menu,
                                   .mp = &d->mp};
}

static int board_load(struct machine *m, struct error *err)
{
    struct board *b = board_of(m);
    struct description d;

    if (b->prepare)
        b->prepare(m);
    describe(m, &d);
    if (m->config.acpi) {
        int r = load_acpi(m, err);

        if (r < 0)
            return r;
        d.boot.rsdp = BOARD_ACPI_RSDP;
    }
    return boot_load(m, &d.boot, err);
}

/* The tables as files, with the script by which a firmware puts them together. */
static int fw_cfg_acpi(struct machine *m, struct device *fw_cfg, struct error *err)
{
    struct acpi_blob blob;
    size_t script_size;
    uint8_t *script;
    int r = build_acpi(m, &blob, err);

    if (r < 0)
        return r;
    script = acpi_loader_script(&blob, &script_size);
    r = fw_cfg_add_file(fw_cfg, "etc/acpi/tables", blob.tables, blob.size, err);
    if (!r)
        r = fw_cfg_add_file(fw_cfg, "etc/acpi/rsdp", blob.rsdp, sizeof(blob.rsdp), err);
    if (!r)
        r = fw_cfg_add_file(fw_cfg, "etc/table-loader", script, script_size, err);
    free(script);
    acpi_blob_free(&blob);
    return r;
}

int board_finish(struct machine *m, struct error *err)
{
    struct board *b = board_of(m);
    struct description d;
    int r = board_add_devices(m, err);

    if (r < 0)
        return r;
    b->reserved[b->reserved_count++] = (struct boot_range){
        BOARD_ACPI_RSDP, BOARD_ACPI_END - BOARD_ACPI_RSDP, BOOT_MEMORY_RESERVED};
    board_virtio_append(m);
    if (m->config.kernel)
        r = boot_open(m->config.kernel, m->config.initrd, &b->files, err);
    if (r < 0)
        return r;
    if (b->files && !m->config.firmware)
        m->load = board_load;
    b->fw_cfg = device_add(m, &fw_cfg_type, NULL, err);
    if (!b->fw_cfg)
        return -err->code;
    b->acpi_devices |= ACPI_FW_CFG | (has_display(m) ? ACPI_VGA : 0);
    describe(m, &d);
    r = boot_fill_fw_cfg(m, &d.boot, b->fw_cfg, err);
    if (!r)
        r = board_tell_firmware(m, err);
    return r || !m->config.acpi ? r : fw_cfg_acpi(m, b->fw_cfg, err);
}

void board_free(struct machine *m)
{
    struct board *b = board_of(m);

    if (!b)
        return;
    board_free_firmware(m);
    boot_close(b->files);
    free(b->append);
    apic_bus_free(b->apics);
    free(b);
    m->board_data = NULL;
}
