/*
 * balloon.h - what the host asks of the guest's memory balloon, and what the guest told of its
 * memory. All from any thread, without the device's lock.
 */
#ifndef DEVICES_VIRTIO_BALLOON_H
#define DEVICES_VIRTIO_BALLOON_H

#include "machine/device.h"

enum { BALLOON_STATS = 16 };

struct balloon_stats {
    uint64_t value[BALLOON_STATS]; /* by tag, VIRTIO_BALLOON_S_*; UINT64_MAX: not told */
    uint64_t when;                 /* guest nanoseconds; 0: never */
};

/* Ask the guest to give memory back until it has `bytes` left; more than it has: all of it. */
void balloon_set_target(struct device *dev, uint64_t bytes);
uint64_t balloon_actual(struct device *dev); /* bytes the guest has now, by its word */
void balloon_get_stats(struct device *dev, struct balloon_stats *out);

#endif
