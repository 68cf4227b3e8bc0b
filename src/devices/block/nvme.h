/* nvme.h - the NVM Express controller. */
#ifndef DEVICES_BLOCK_NVME_H
#define DEVICES_BLOCK_NVME_H

#include "machine/device.h"

extern const struct device_type nvme_type;

#endif
