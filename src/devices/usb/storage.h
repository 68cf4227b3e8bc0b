/* storage.h - usb-storage: a disk behind USB's bulk-only transport. */
#ifndef DEVICES_USB_STORAGE_H
#define DEVICES_USB_STORAGE_H

#include "machine/device.h"

struct scsi_bus;

extern const struct device_type usb_storage_type;

/* The bus its one disk sits on; NULL: the device is another. */
struct scsi_bus *usb_storage_bus(struct device *dev);

#endif
