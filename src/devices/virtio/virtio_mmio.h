/*
 * virtio_mmio.h - virtio devices in memory, one interrupt each: for boards without PCI.
 *
 * A device sits where its properties `base` and `irq` say, by default in the board's next slot
 * (machine->mmio_slot); the guest learns of it by ACPI or its command line. Tables are made as for
 * PCI, by VIRTIO_MMIO_DEVICE.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_MMIO_H
#define DEVICES_VIRTIO_VIRTIO_MMIO_H

#include "devices/virtio/virtio.h"

enum { VIRTIO_MMIO_SIZE = 0x200 };
#define VIRTIO_MMIO_NOWHERE UINT64_MAX

int virtio_mmio_realize(struct device *dev, struct error *err);
void virtio_mmio_reset(struct device *dev);
void virtio_mmio_refresh(struct device *dev);
void virtio_mmio_unrealize(struct device *dev);

#define VIRTIO_MMIO_DEVICE(type_name, text, type, property_table, state_table, virtio_type)        \
    {                                                                                              \
        .name = (type_name), .summary = (text), .bus = "virtio-mmio",                              \
        .instance_size = sizeof(type), .properties = (property_table), .state = (state_table),     \
        .realize = virtio_mmio_realize, .reset = virtio_mmio_reset,                                \
        .before_save = virtio_before_save, .refresh = virtio_mmio_refresh,                         \
        .unrealize = virtio_mmio_unrealize, .running = virtio_running, .bus_data = &(virtio_type)  \
    }

#define VIRTIO_MMIO_PROPERTIES(type, field)                                                        \
    VIRTIO_PROPERTIES(type, field),                                                                \
        PROPERTY_U64("base", type, field.prop_base, VIRTIO_MMIO_NOWHERE,                           \
                     "address of the registers (default: the board's next slot)"),                 \
        PROPERTY_U8("irq", type, field.prop_irq, 0, "interrupt, as base"),                         \
        PROPERTY_BOOL("force-legacy", type, field.prop_force_legacy, false,                        \
                      "offer the legacy interface (version 1)")

#define VIRTIO_MMIO_STATE(type, field) STATE_STRUCT(type, field, virtio_state)

#endif
