/* devices.h - the table of all device types, made from devices.def. */
#ifndef DEVICES_DEVICES_H
#define DEVICES_DEVICES_H

#include "machine/device.h"

#define DEVICE(type) extern const struct device_type type;
#include "devices/devices.def"
#undef DEVICE

extern const struct device_type *const device_types[]; /* NULL terminated */

#endif
