/*
 * virtio_mmio.c - the MMIO transport, version 2 and the legacy version 1. See virtio_mmio.h; virtio
 * 1.2, section 4.2.
 *
 * The interrupt line is high while a bit of InterruptStatus (v->isr) is set.
 */
#include "devices/virtio/virtio_mmio.h"

#include "machine/machine.h"

#include <errno.h>
#include <linux/virtio_mmio.h>

enum { MAGIC = 0x74726976, VENDOR = 0x554d4551 }; /* the vendor guests know from VMs */

static bool is_legacy(const struct virtio_device *v)
{
    return v->legacy;
}

static void set_isr(struct virtio_device *v, uint8_t isr)
{
    v->isr = isr;
    irq_line_set(&v->line, isr != 0);
}

static void mmio_interrupt(struct virtio_device *v, uint64_t queues, bool config)
{
    set_isr(v,
            v->isr | (queues ? VIRTIO_MMIO_INT_VRING : 0) | (config ? VIRTIO_MMIO_INT_CONFIG : 0));
}

static void mmio_clear(struct virtio_device *v)
{
    set_isr(v, 0);
}

static const struct virtio_transport mmio_transport = {mmio_interrupt, mmio_clear};

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    const struct virtio_queue *q = virtio_selected(v);

    if (offset >= VIRTIO_MMIO_CONFIG)
        return virtio_config_get(v, (unsigned)offset - VIRTIO_MMIO_CONFIG, size);
    if (size != 4)
        return guest_error_read(dev, offset, size);
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE: return MAGIC;
    case VIRTIO_MMIO_VERSION: return is_legacy(v) ? 1 : 2;
    case VIRTIO_MMIO_DEVICE_ID: return v->type->id;
    case VIRTIO_MMIO_VENDOR_ID: return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return is_legacy(v) && v->device_select
                   ? 0
                   : virtio_get_features(v, v->device_select, is_legacy(v));
    case VIRTIO_MMIO_QUEUE_NUM_MAX: return q ? q->max_size : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS: return v->isr;
    case VIRTIO_MMIO_STATUS: return v->status;
    default: break;
    }
    if (is_legacy(v) && offset == VIRTIO_MMIO_QUEUE_PFN)
        return q && q->enabled && v->page_size ? (uint32_t)(q->desc / v->page_size) : 0;
    if (!is_legacy(v))
        switch (offset) {
        case VIRTIO_MMIO_QUEUE_READY: return q && q->enabled;
        case VIRTIO_MMIO_CONFIG_GENERATION: return v->generation;
        case VIRTIO_MMIO_SHM_LEN_LOW: /* no shared memory: all ones */
        case VIRTIO_MMIO_SHM_LEN_HIGH:
        case VIRTIO_MMIO_SHM_BASE_LOW:
        case VIRTIO_MMIO_SHM_BASE_HIGH: return UINT32_MAX;
        default: break;
        }
    return guest_error_read(dev, offset, size);
}

static void legacy_queue(struct virtio_device *v, struct virtio_queue *q, uint64_t offset,
                         uint32_t value)
{
    if (offset == VIRTIO_MMIO_GUEST_PAGE_SIZE)
        v->page_size = value;
    else if (offset == VIRTIO_MMIO_QUEUE_ALIGN)
        v->queue_align = value;
    else if (q && is_power_of_2(v->page_size) && is_power_of_2(v->queue_align))
        virtio_queue_legacy(q, (uint64_t)value * v->page_size, v->queue_align);
}

static bool modern_queue(struct virtio_queue *q, uint64_t offset, uint32_t value)
{
    if (q->enabled) /* fixed until the reset */
        return true;
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_READY:
        if (value == 1)
            virtio_queue_enable(q);
        return true;
    case VIRTIO_MMIO_QUEUE_DESC_LOW: q->desc = bits_set(q->desc, 0, 32, value); return true;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH: q->desc = bits_set(q->desc, 32, 32, value); return true;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW: q->driver = bits_set(q->driver, 0, 32, value); return true;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH: q->driver = bits_set(q->driver, 32, 32, value); return true;
    case VIRTIO_MMIO_QUEUE_USED_LOW: q->device = bits_set(q->device, 0, 32, value); return true;
    case VIRTIO_MMIO_QUEUE_USED_HIGH: q->device = bits_set(q->device, 32, 32, value); return true;
    default: return false;
    }
}

static void mmio_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_device *v = to_virtio(dev);
    struct virtio_queue *q = virtio_selected(v);
    uint32_t word = (uint32_t)value;

    if (offset >= VIRTIO_MMIO_CONFIG) {
        virtio_config_put(v, (unsigned)offset - VIRTIO_MMIO_CONFIG, value, size);
        return;
    }
    if (size != 4) {
        guest_error_write(dev, offset, value, size);
        return;
    }
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL: v->device_select = word; return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_set_features(v, v->driver_select, word, is_legacy(v));
        return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL: v->driver_select = word; return;
    case VIRTIO_MMIO_QUEUE_SEL: v->queue_select = (uint16_t)MIN(word, UINT16_MAX); return;
    case VIRTIO_MMIO_QUEUE_NUM:
        if (q && !q->enabled)
            q->size = (uint16_t)MIN(word, UINT16_MAX); /* checked when used */
        return;
    case VIRTIO_MMIO_QUEUE_NOTIFY: virtio_notified(v, word); return;
    case VIRTIO_MMIO_INTERRUPT_ACK: set_isr(v, v->isr & (uint8_t)~word); return;
    case VIRTIO_MMIO_STATUS: virtio_set_status(v, (uint8_t)word, is_legacy(v)); return;
    case VIRTIO_MMIO_SHM_SEL: return;
    default: break;
    }
    if (is_legacy(v) && (offset == VIRTIO_MMIO_GUEST_PAGE_SIZE ||
                         offset == VIRTIO_MMIO_QUEUE_ALIGN || offset == VIRTIO_MMIO_QUEUE_PFN))
        legacy_queue(v, q, offset, word);
    else if (is_legacy(v) || (q && !modern_queue(q, offset, word)))
        guest_error_write(dev, offset, value, size);
}

static const struct io_ops mmio_io = {mmio_read, mmio_write, 1, 4};

int virtio_mmio_realize(struct device *dev, struct error *err)
{
    struct virtio_device *v = to_virtio(dev);
    int r;

    v->type = dev->type->bus_data;
    v->transport = &mmio_transport;
    if (v->prop_base == VIRTIO_MMIO_NOWHERE && dev->machine->mmio_slot) {
        r = dev->machine->mmio_slot(dev->machine, &v->prop_base, &v->prop_irq, err);
        if (r < 0)
            return error_prefix(err, r, "%s: ", dev->type->name);
    }
    if (v->prop_base == VIRTIO_MMIO_NOWHERE)
        return error_set(err, ENODEV, "%s: this machine has no slots for virtio-mmio; microvm has",
                         dev->type->name);
    if (v->prop_force_legacy && !v->type->legacy_id)
        return error_set(err, EINVAL,
                         "%s: this device has no legacy interface: force-legacy=on "
                         "cannot be",
                         dev->type->name);
    v->legacy = v->prop_force_legacy;
    v->modern = !v->legacy;
    atomic_store(&v->allowed, true);
    r = device_claim_irq(dev, v->prop_irq, &v->line, err);
    if (!r)
        r = device_map_mmio(dev, v->prop_base, VIRTIO_MMIO_SIZE, PRIORITY_BOARD, &mmio_io, err);
    return r < 0 ? r : virtio_realize(v, err);
}

void virtio_mmio_reset(struct device *dev)
{
    struct virtio_device *v = to_virtio(dev);

    virtio_reset(v);
    v->page_size = v->queue_align = 0; /* a driver sets it once, and then resets the device */
}

void virtio_mmio_refresh(struct device *dev)
{
    struct virtio_device *v = to_virtio(dev);

    set_isr(v, v->isr & (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG));
    virtio_refresh(v);
}

void virtio_mmio_unrealize(struct device *dev)
{
    virtio_unrealize(to_virtio(dev));
}
