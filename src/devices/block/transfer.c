/* transfer.c - see transfer.h. */
#include "devices/block/transfer.h"

#include <assert.h>
#include <stdlib.h>

static void transfer_free(struct transfer *t)
{
    free(t->data);
    free(t);
}

struct transfer *transfer_new(struct device *dev, void *owner, uint32_t size,
                              void (*done)(struct transfer *t, int result))
{
    struct transfer *t = xcalloc(1, sizeof(*t));

    assert(size <= TRANSFER_MAX);
    t->dev = dev;
    t->owner = owner;
    t->done = done;
    t->size = size;
    t->data = size ? xcalloc(1, size) : NULL;
    return t;
}

static void request_done(struct disk_request *r, int result)
{
    struct transfer *t = r->opaque;
    struct device *dev = t->dev;

    pthread_mutex_lock(&dev->lock);
    t->in_flight = false;
    if (t->owner)
        t->done(t, result);
    else
        transfer_free(t);
    pthread_mutex_unlock(&dev->lock);
}

void transfer_submit(struct transfer *t, struct disk *disk, enum disk_op op, uint64_t offset,
                     uint64_t length, unsigned flags)
{
    bool data = op == DISK_READ || op == DISK_WRITE;

    assert(!t->in_flight && (!data || length <= t->size));
    t->iov = (struct iovec){.iov_base = t->data, .iov_len = length};
    t->request = (struct disk_request){.op = op,
                                       .flags = flags,
                                       .offset = offset,
                                       .length = length,
                                       .iov = data ? &t->iov : NULL,
                                       .iov_count = data ? 1 : 0,
                                       .done = request_done,
                                       .opaque = t};
    t->in_flight = true;
    disk_submit(disk, &t->request);
}

void transfer_forget(struct transfer *t)
{
    if (!t)
        return;
    t->owner = NULL;
    if (!t->in_flight)
        transfer_free(t);
}
