/*
 * virtio_pci.h - virtio devices as PCI functions: modern, transitional and legacy interfaces.
 *
 * A device says, for each of its names,
 *
 *     const struct device_type virtio_rng_pci_type =
 *         VIRTIO_PCI_DEVICE("virtio-rng-pci", "random numbers", struct virtio_rng, rng_properties,
 *                           rng_state, rng_virtio, VIRTIO_PCI_CHOICE);
 *
 * with VIRTIO_PCI_PROPERTIES and VIRTIO_PCI_STATE in its tables.
 * The struct embeds struct virtio_device first. BAR 0 is the legacy interface (ports), BAR 1 the
 * MSI-X table, BAR 4 the modern registers.
 */
#ifndef DEVICES_VIRTIO_VIRTIO_PCI_H
#define DEVICES_VIRTIO_VIRTIO_PCI_H

#include "devices/virtio/virtio.h"

enum virtio_pci_flavour {
    VIRTIO_PCI_CHOICE,       /* by the properties disable-legacy and disable-modern */
    VIRTIO_PCI_TRANSITIONAL, /* NAME-transitional */
    VIRTIO_PCI_MODERN,       /* NAME-non-transitional */
};

struct virtio_pci_type {
    struct pci_type pci;
    const struct virtio_type *virtio;
    enum virtio_pci_flavour flavour;
};

/* Where the parts of BAR 4 are. */
enum virtio_pci_layout {
    VIRTIO_PCI_COMMON = 0x0000,
    VIRTIO_PCI_ISR_AT = 0x1000,
    VIRTIO_PCI_DEVICE = 0x2000,
    VIRTIO_PCI_NOTIFY = 0x3000,
    VIRTIO_PCI_PART = 0x1000,
    VIRTIO_PCI_BAR_SIZE = 0x4000,
    VIRTIO_PCI_NOTIFY_STEP = 4,
    VIRTIO_PCI_LEGACY_BAR = 0,
    VIRTIO_PCI_MSIX_BAR = 1,
    VIRTIO_PCI_MODERN_BAR = 4,
};
#define VIRTIO_PCI_DEFAULT_VECTORS UINT32_MAX /* one for each queue, and one */

int virtio_pci_realize(struct pci_device *p, struct error *err);
void virtio_pci_reset(struct pci_device *p);
void virtio_pci_refresh(struct pci_device *p);
void virtio_pci_unrealize(struct pci_device *p);
void virtio_pci_config_read(struct pci_device *p, unsigned offset, unsigned size);
void virtio_pci_config_written(struct pci_device *p, unsigned offset, unsigned size);

#define VIRTIO_PCI_DEVICE(type_name, text, type, property_table, state_table, virtio_type, how)    \
    {                                                                                              \
        PCI_DEVICE_HOOKS, .name = (type_name), .summary = (text), .bus = "pci",                    \
                          .instance_size = sizeof(type), .properties = (property_table),           \
                          .state = (state_table), .before_save = virtio_before_save,               \
                          .running = virtio_running,                                               \
                          .bus_data = &((const struct virtio_pci_type){                            \
                                            .pci = {.vendor = 0x1af4,                              \
                                                    .pin = 1,                                      \
                                                    .realize = virtio_pci_realize,                 \
                                                    .reset = virtio_pci_reset,                     \
                                                    .refresh = virtio_pci_refresh,                 \
                                                    .unrealize = virtio_pci_unrealize,             \
                                                    .config_read = virtio_pci_config_read,         \
                                                    .config_written = virtio_pci_config_written},  \
                                            .virtio = &(virtio_type),                              \
                                            .flavour = (how)})                                     \
                                           .pci                                                    \
    }

#define VIRTIO_PCI_PROPERTIES(type, field)                                                         \
    PCI_PROPERTIES(type, field.pci), VIRTIO_PROPERTIES(type, field),                               \
        PROPERTY_STRING("disable-legacy", type, field.prop_disable_legacy, "auto",                 \
                        "on: no legacy interface; auto: where the device has one, it is offered"), \
        PROPERTY_BOOL("disable-modern", type, field.prop_disable_modern, false,                    \
                      "offer the legacy interface only"),                                          \
        PROPERTY_U32("vectors", type, field.prop_vectors, VIRTIO_PCI_DEFAULT_VECTORS,              \
                     "MSI-X vectors; 0: none (default: one for each queue and one)")

#define VIRTIO_PCI_STATE(type, field)                                                              \
    PCI_STATE(type, field.pci), STATE_STRUCT(type, field, virtio_state)

#endif
