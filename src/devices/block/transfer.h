/*
 * transfer.h - one request of a device model to its disk, with a buffer of its own.
 *
 * The buffer belongs to the transfer, never to the device or the guest: a device that is reset
 * while the disk is at work forgets the transfer and goes on, and what the disk still reads or
 * writes then touches nothing of the machine's.
 *
 * All functions are called with the lock of `dev` held; done() is called with it too, from a thread
 * of the block layer. Before the device goes it calls disk_drain() without the lock.
 */
#ifndef DEVICES_BLOCK_TRANSFER_H
#define DEVICES_BLOCK_TRANSFER_H

#include "block/disk.h"
#include "machine/device.h"

enum { TRANSFER_MAX = 1 * MiB };

struct transfer {
    struct device *dev;
    void *owner; /* the device's; NULL: forgotten */
    void (*done)(struct transfer *t, int result);
    uint8_t *data;
    uint32_t size; /* of data */
    bool in_flight;
    struct disk_request request;
    struct iovec iov;
};

/* `size` up to TRANSFER_MAX; 0: without data. */
struct transfer *transfer_new(struct device *dev, void *owner, uint32_t size,
                              void (*done)(struct transfer *t, int result));
/* READ and WRITE move `length` bytes of the buffer, which has them. */
void transfer_submit(struct transfer *t, struct disk *disk, enum disk_op op, uint64_t offset,
                     uint64_t length, unsigned flags);
/* Nobody waits for it any more: freed now, or when the disk is done. NULL is nothing. */
void transfer_forget(struct transfer *t);

#endif
