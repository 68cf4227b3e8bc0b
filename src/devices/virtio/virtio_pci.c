/*
 * virtio_pci.c - the PCI transport. See virtio_pci.h; virtio 1.2, section 4.1.
 *
 * The legacy interface is 20 bytes of ports, four more for vectors while MSI-X is enabled, then the
 * device's configuration. The modern one is in memory, found by vendor capabilities; the capability
 * for access by configuration space reaches both without a BAR being placed, for firmware.
 */
#include "devices/virtio/virtio_pci.h"

#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_pci.h>

enum { LEGACY_MSIX = VIRTIO_PCI_CONFIG_OFF(true), LEGACY_PLAIN = VIRTIO_PCI_CONFIG_OFF(false) };
enum { LEGACY_PAGE_BITS = VIRTIO_PCI_QUEUE_ADDR_SHIFT, MODERN_ID = 0x1040 };
enum { VIRTIO_PCI_ISR_QUEUE = 1 };
enum { CFG_CAP_BAR = 4, CFG_CAP_OFFSET = 8, CFG_CAP_LENGTH = 12, CFG_CAP_DATA = 16 };

static const struct virtio_pci_type *type_of(const struct virtio_device *v)
{
    return container_of(v->dev.type->bus_data, const struct virtio_pci_type, pci);
}

static struct virtio_device *of_pci(struct pci_device *p)
{
    return to_virtio(&p->dev);
}

/* ---- interrupts --------------------------------------------------------------------------------
 */

static void set_isr(struct virtio_device *v, uint8_t isr)
{
    v->isr = isr;
    pci_intx_set(&v->pci, isr != 0);
}

static void pci_interrupt(struct virtio_device *v, uint64_t queues, bool config)
{
    if (!pci_msix_enabled(&v->pci)) {
        set_isr(v, v->isr | (queues ? VIRTIO_PCI_ISR_QUEUE : 0) |
                       (config ? VIRTIO_PCI_ISR_CONFIG : 0));
        return;
    }
    for (unsigned i = 0; i < v->queues; i++)
        if (queues & BIT(i) && v->queue[i].vector != VIRTIO_NO_VECTOR)
            pci_msix_send(&v->pci, v->queue[i].vector);
    if (config && v->config_vector != VIRTIO_NO_VECTOR)
        pci_msix_send(&v->pci, v->config_vector);
}

static void pci_clear(struct virtio_device *v)
{
    set_isr(v, 0);
}

static const struct virtio_transport pci_transport = {pci_interrupt, pci_clear};

static uint8_t take_isr(struct virtio_device *v)
{
    uint8_t isr = v->isr;

    set_isr(v, 0);
    return isr;
}

/* A vector the function does not have reads back as none: the driver then tries with fewer. */
static uint16_t vector(const struct virtio_device *v, uint64_t value)
{
    return value < v->msix_vectors ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

/* ---- the legacy interface ----------------------------------------------------------------------
 */

static unsigned legacy_config(const struct virtio_device *v)
{
    return pci_msix_enabled(&v->pci) ? LEGACY_MSIX : LEGACY_PLAIN;
}

static uint64_t legacy_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    const struct virtio_queue *q = virtio_selected(v);

    if (offset >= legacy_config(v))
        return virtio_config_get(v, (unsigned)offset - legacy_config(v), size);
    switch (offset) {
    case VIRTIO_PCI_HOST_FEATURES: return virtio_get_features(v, 0, true);
    case VIRTIO_PCI_GUEST_FEATURES: return (uint32_t)v->features;
    case VIRTIO_PCI_QUEUE_PFN: return q && q->enabled ? (uint32_t)(q->desc >> LEGACY_PAGE_BITS) : 0;
    case VIRTIO_PCI_QUEUE_NUM: return q ? q->max_size : 0;
    case VIRTIO_PCI_QUEUE_SEL: return v->queue_select;
    case VIRTIO_PCI_QUEUE_NOTIFY: return 0;
    case VIRTIO_PCI_STATUS: return v->status;
    case VIRTIO_PCI_ISR: return take_isr(v);
    case VIRTIO_MSI_CONFIG_VECTOR: return v->config_vector;
    case VIRTIO_MSI_QUEUE_VECTOR: return q ? q->vector : VIRTIO_NO_VECTOR;
    default: return guest_error_read(dev, offset, size);
    }
}

static void legacy_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    struct virtio_queue *q = virtio_selected(v);

    if (offset >= legacy_config(v)) {
        virtio_config_put(v, (unsigned)offset - legacy_config(v), value, size);
        return;
    }
    switch (offset) {
    case VIRTIO_PCI_GUEST_FEATURES: virtio_set_features(v, 0, (uint32_t)value, true); break;
    case VIRTIO_PCI_QUEUE_PFN:
        if (q)
            virtio_queue_legacy(q, (value & UINT32_MAX) << LEGACY_PAGE_BITS,
                                VIRTIO_PCI_VRING_ALIGN);
        break;
    case VIRTIO_PCI_QUEUE_SEL: v->queue_select = (uint16_t)value; break;
    case VIRTIO_PCI_QUEUE_NOTIFY: virtio_notified(v, (uint16_t)value); break;
    case VIRTIO_PCI_STATUS: virtio_set_status(v, (uint8_t)value, true); break;
    case VIRTIO_MSI_CONFIG_VECTOR: v->config_vector = vector(v, value); break;
    case VIRTIO_MSI_QUEUE_VECTOR:
        if (q)
            q->vector = vector(v, value);
        break;
    default: guest_error_write(dev, offset, value, size);
    }
}

static const struct io_ops legacy_io = {legacy_read, legacy_write, 1, 4};

/* ---- the modern interface ----------------------------------------------------------------------
 */

static uint64_t common_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    const struct virtio_queue *q = virtio_selected(v);

    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT: return v->device_select;
    case VIRTIO_PCI_COMMON_DF: return virtio_get_features(v, v->device_select, false);
    case VIRTIO_PCI_COMMON_GFSELECT: return v->driver_select;
    case VIRTIO_PCI_COMMON_GF:
        return v->driver_select < 2 ? (uint32_t)(v->features >> 32 * v->driver_select) : 0;
    case VIRTIO_PCI_COMMON_MSIX: return v->config_vector;
    case VIRTIO_PCI_COMMON_NUMQ: return v->queues;
    case VIRTIO_PCI_COMMON_STATUS: return v->status;
    case VIRTIO_PCI_COMMON_CFGGENERATION: return v->generation;
    case VIRTIO_PCI_COMMON_Q_SELECT: return v->queue_select;
    case VIRTIO_PCI_COMMON_Q_NDATA: /* features that are not offered */
    case VIRTIO_PCI_COMMON_Q_RESET: return 0;
    default: break;
    }
    if (offset > VIRTIO_PCI_COMMON_Q_USEDHI)
        return guest_error_read(dev, offset, size);
    if (!q)
        return 0;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE: return q->size;
    case VIRTIO_PCI_COMMON_Q_MSIX: return q->vector;
    case VIRTIO_PCI_COMMON_Q_ENABLE: return q->enabled;
    case VIRTIO_PCI_COMMON_Q_NOFF: return q->number;
    case VIRTIO_PCI_COMMON_Q_DESCLO: return (uint32_t)q->desc;
    case VIRTIO_PCI_COMMON_Q_DESCHI: return q->desc >> 32;
    case VIRTIO_PCI_COMMON_Q_AVAILLO: return (uint32_t)q->driver;
    case VIRTIO_PCI_COMMON_Q_AVAILHI: return q->driver >> 32;
    case VIRTIO_PCI_COMMON_Q_USEDLO: return (uint32_t)q->device;
    case VIRTIO_PCI_COMMON_Q_USEDHI: return q->device >> 32;
    default: return guest_error_read(dev, offset, size);
    }
}

static void set_queue(struct device *dev, struct virtio_queue *q, uint64_t offset, uint64_t value,
                      unsigned size)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE: q->size = (uint16_t)value; break; /* checked when used */
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1)
            virtio_queue_enable(q);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO: q->desc = bits_set(q->desc, 0, 32, value); break;
    case VIRTIO_PCI_COMMON_Q_DESCHI: q->desc = bits_set(q->desc, 32, 32, value); break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO: q->driver = bits_set(q->driver, 0, 32, value); break;
    case VIRTIO_PCI_COMMON_Q_AVAILHI: q->driver = bits_set(q->driver, 32, 32, value); break;
    case VIRTIO_PCI_COMMON_Q_USEDLO: q->device = bits_set(q->device, 0, 32, value); break;
    case VIRTIO_PCI_COMMON_Q_USEDHI: q->device = bits_set(q->device, 32, 32, value); break;
    default: guest_error_write(dev, offset, value, size);
    }
}

static void common_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    struct virtio_queue *q = virtio_selected(v);

    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT: v->device_select = (uint32_t)value; return;
    case VIRTIO_PCI_COMMON_GFSELECT: v->driver_select = (uint32_t)value; return;
    case VIRTIO_PCI_COMMON_GF:
        virtio_set_features(v, v->driver_select, (uint32_t)value, false);
        return;
    case VIRTIO_PCI_COMMON_MSIX: v->config_vector = vector(v, value); return;
    case VIRTIO_PCI_COMMON_STATUS: virtio_set_status(v, (uint8_t)value, false); return;
    case VIRTIO_PCI_COMMON_Q_SELECT: v->queue_select = (uint16_t)value; return;
    case VIRTIO_PCI_COMMON_Q_MSIX:
        if (q)
            q->vector = vector(v, value);
        return;
    default: break;
    }
    if (!q)
        return;
    if (q->enabled && offset != VIRTIO_PCI_COMMON_Q_ENABLE)
        return; /* fixed until the reset */
    set_queue(dev, q, offset, value, size);
}

static uint64_t isr_read(struct device *dev, uint64_t offset, unsigned size)
{
    return offset ? 0 : take_isr(to_virtio(dev));
}

static void isr_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    guest_error_write(dev, offset, value, size);
}

static uint64_t device_read(struct device *dev, uint64_t offset, unsigned size)
{
    return virtio_config_get(to_virtio(dev), (unsigned)offset, size);
}

static void device_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    virtio_config_put(to_virtio(dev), (unsigned)offset, value, size);
}

static uint64_t notify_read(struct device *dev, uint64_t offset, unsigned size)
{
    return 0;
}

/* The place says which queue; the value is the same number. */
static void notify_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    virtio_notified(to_virtio(dev), (unsigned)offset / VIRTIO_PCI_NOTIFY_STEP);
}

static const struct io_ops common_io = {common_read, common_write, 1, 4};
static const struct io_ops isr_io = {isr_read, isr_write, 1, 4};
static const struct io_ops device_io = {device_read, device_write, 1, 4};
static const struct io_ops notify_io = {notify_read, notify_write, 1, 4};

static const struct part {
    uint8_t kind;
    uint32_t offset;
    const struct io_ops *ops;
} parts[] = {
    {VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_COMMON, &common_io},
    {VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_ISR_AT, &isr_io},
    {VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_DEVICE, &device_io},
    {VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_PCI_NOTIFY, &notify_io},
};

/* ---- access by configuration space -------------------------------------------------------------
 */

static const struct io_ops *window(struct virtio_device *v, uint32_t *offset, uint32_t *length)
{
    struct pci_device *p = &v->pci;
    unsigned bar = pci_get(p, v->cfg_cap + CFG_CAP_BAR, 1u);

    *offset = pci_get(p, v->cfg_cap + CFG_CAP_OFFSET, 4);
    *length = pci_get(p, v->cfg_cap + CFG_CAP_LENGTH, 4);
    if ((*length != 1 && *length != 2 && *length != 4) || *offset % *length)
        return NULL;
    if (bar == VIRTIO_PCI_LEGACY_BAR && v->legacy && *offset < p->bar[0].size)
        return &legacy_io;
    if (bar != VIRTIO_PCI_MODERN_BAR || *offset >= VIRTIO_PCI_BAR_SIZE)
        return NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (*offset / VIRTIO_PCI_PART == parts[i].offset / VIRTIO_PCI_PART) {
            *offset %= VIRTIO_PCI_PART;
            return parts[i].ops;
        }
    return NULL;
}

static bool is_window(const struct virtio_device *v, unsigned offset, unsigned size)
{
    return v->cfg_cap && ranges_overlap(offset, size, v->cfg_cap + CFG_CAP_DATA, 4);
}

void virtio_pci_config_read(struct pci_device *p, unsigned offset, unsigned size)
{
    struct virtio_device *v = of_pci(p);
    const struct io_ops *ops;
    uint32_t at, length;

    if (!is_window(v, offset, size))
        return;
    ops = window(v, &at, &length);
    if (ops)
        pci_put(p, v->cfg_cap + CFG_CAP_DATA, (uint32_t)ops->read(&p->dev, at, length), length);
}

void virtio_pci_config_written(struct pci_device *p, unsigned offset, unsigned size)
{
    struct virtio_device *v = of_pci(p);
    const struct io_ops *ops;
    uint32_t at, length;

    virtio_allow(v, (pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER) != 0);
    if (!is_window(v, offset, size))
        return;
    ops = window(v, &at, &length);
    if (ops)
        ops->write(&p->dev, at, pci_get(p, v->cfg_cap + CFG_CAP_DATA, length), length);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static int add_capability(struct pci_device *p, unsigned kind, unsigned bar, uint32_t offset,
                          uint32_t length, unsigned size, struct error *err)
{
    int at = pci_cap_add(p, PCI_CAP_VENDOR, size, err);

    if (at < 0)
        return at;
    pci_set(p, (unsigned)at + VIRTIO_PCI_CAP_LEN, size, 1);
    pci_set(p, (unsigned)at + VIRTIO_PCI_CAP_CFG_TYPE, kind, 1);
    pci_set(p, (unsigned)at + VIRTIO_PCI_CAP_BAR, bar, 1);
    pci_set(p, (unsigned)at + VIRTIO_PCI_CAP_OFFSET, offset, 4);
    pci_set(p, (unsigned)at + VIRTIO_PCI_CAP_LENGTH, length, 4);
    return at;
}

static int add_modern(struct virtio_device *v, struct error *err)
{
    struct pci_device *p = &v->pci;
    int at, r = 0;

    pci_bar_add(p, VIRTIO_PCI_MODERN_BAR, PCI_BAR_MEM64, true, VIRTIO_PCI_BAR_SIZE);
    for (unsigned i = 0; i < ARRAY_SIZE(parts) && !r; i++) {
        bool notify = parts[i].kind == VIRTIO_PCI_CAP_NOTIFY_CFG;

        r = pci_bar_io(p, VIRTIO_PCI_MODERN_BAR, parts[i].offset, VIRTIO_PCI_PART, parts[i].ops,
                       err);
        if (r < 0)
            return r;
        at = add_capability(p, parts[i].kind, VIRTIO_PCI_MODERN_BAR, parts[i].offset,
                            VIRTIO_PCI_PART, notify ? 20 : 16, err);
        if (at < 0)
            return at;
        if (notify)
            pci_set(p, (unsigned)at + VIRTIO_PCI_NOTIFY_CAP_MULT, VIRTIO_PCI_NOTIFY_STEP, 4);
    }
    at = add_capability(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 20, err);
    if (at < 0)
        return at;
    v->cfg_cap = (uint8_t)at;
    pci_set_writable(p, v->cfg_cap + CFG_CAP_BAR, 0xff, 1);
    pci_set_writable(p, v->cfg_cap + CFG_CAP_OFFSET, 0xffffffff, 4);
    pci_set_writable(p, v->cfg_cap + CFG_CAP_LENGTH, 0xffffffff, 4);
    pci_set_writable(p, v->cfg_cap + CFG_CAP_DATA, 0xffffffff, 4);
    return 0;
}

static int choose_flavour(struct virtio_device *v, struct error *err)
{
    const struct virtio_pci_type *t = type_of(v);
    const char *off = v->prop_disable_legacy ? v->prop_disable_legacy : "auto";
    bool has_legacy = t->virtio->legacy_id != 0;

    if (strcmp(off, "auto") && strcmp(off, "on") && strcmp(off, "off"))
        return error_set(err, EINVAL, "%s: disable-legacy=%s is none of on, off, auto",
                         v->dev.type->name, off);
    v->modern = t->flavour != VIRTIO_PCI_CHOICE || !v->prop_disable_modern;
    v->legacy = has_legacy && (t->flavour == VIRTIO_PCI_TRANSITIONAL ||
                               (t->flavour == VIRTIO_PCI_CHOICE && strcmp(off, "on") != 0));
    if (t->flavour == VIRTIO_PCI_CHOICE && !strcmp(off, "off") && !has_legacy)
        return error_set(err, EINVAL,
                         "%s: this device has no legacy interface: disable-legacy=off "
                         "cannot be",
                         v->dev.type->name);
    if (!v->modern && !v->legacy)
        return error_set(err, EINVAL,
                         "%s: with disable-modern=on nothing is left: the device has no "
                         "legacy interface, or disable-legacy=on",
                         v->dev.type->name);
    return 0;
}

static void fill_header(struct virtio_device *v)
{
    const struct virtio_type *t = v->type;
    struct pci_device *p = &v->pci;

    pci_set(p, PCI_DEVICE_ID, v->legacy ? t->legacy_id : MODERN_ID + t->id, 2);
    pci_set(p, PCI_REVISION, v->legacy ? 0 : 1, 1);
    pci_set(p, PCI_CLASS, t->class_code & 0xff, 1);
    pci_set(p, PCI_CLASS + 1, t->class_code >> 8, 2);
    pci_set(p, PCI_SUBSYSTEM_VENDOR, 0x1af4, 2);
    pci_set(p, PCI_SUBSYSTEM, v->legacy ? t->id : 0x1100, 2);
}

int virtio_pci_realize(struct pci_device *p, struct error *err)
{
    struct virtio_device *v = of_pci(p);
    uint32_t vectors;
    int r;

    v->type = type_of(v)->virtio;
    v->transport = &pci_transport;
    r = choose_flavour(v, err);
    if (r < 0)
        return r;
    fill_header(v);
    r = virtio_realize(v, err);
    if (r < 0)
        return r;
    vectors = v->prop_vectors == VIRTIO_PCI_DEFAULT_VECTORS ? v->queues + 1 : v->prop_vectors;
    if (vectors > PCI_MSIX_VECTORS)
        r = error_set(err, EINVAL, "%s: vectors=%u is more than %d", v->dev.type->name, vectors,
                      PCI_MSIX_VECTORS);
    if (!r && v->legacy) {
        pci_bar_add(p, VIRTIO_PCI_LEGACY_BAR, PCI_BAR_IO, false, LEGACY_MSIX + v->config_size);
        r = pci_bar_io(p, VIRTIO_PCI_LEGACY_BAR, 0, p->bar[VIRTIO_PCI_LEGACY_BAR].size, &legacy_io,
                       err);
    }
    if (!r && vectors) {
        pci_bar_add(p, VIRTIO_PCI_MSIX_BAR, PCI_BAR_MEM32, false, pci_msix_size(vectors));
        r = pci_msix_add(p, vectors, VIRTIO_PCI_MSIX_BAR, 0, err);
        v->msix_vectors = (uint8_t)vectors;
    }
    if (!r && v->modern)
        r = add_modern(v, err);
    if (r < 0)
        virtio_unrealize(v);
    return r;
}

void virtio_pci_reset(struct pci_device *p)
{
    struct virtio_device *v = of_pci(p);

    virtio_allow(v, false);
    virtio_reset(v);
}

void virtio_pci_refresh(struct pci_device *p)
{
    struct virtio_device *v = of_pci(p);

    virtio_allow(v, (pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER) != 0);
    pci_intx_set(p, v->isr != 0);
    virtio_refresh(v);
}

void virtio_pci_unrealize(struct pci_device *p)
{
    virtio_unrealize(of_pci(p));
}
