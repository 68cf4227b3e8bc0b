/* devices.c - see devices.h. */
#include "devices/devices.h"

const struct device_type *const device_types[] = {
#define DEVICE(type) &type,
#include "devices/devices.def"
#undef DEVICE
    NULL,
};
