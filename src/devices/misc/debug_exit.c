/*
 * debug_exit.c - isa-debug-exit: a write of V ends the machine, and the process exits with status
 * (V << 1) | 1. Test kernels report with it.
 */
#include "devices/misc/misc.h"
#include "machine/machine.h"

#include <errno.h>

struct debug_exit {
    struct device dev;
    uint32_t iobase, iosize; /* properties */
};
#define to_debug_exit(d) container_of(d, struct debug_exit, dev)

static uint64_t debug_exit_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return 0;
}

static void debug_exit_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    (void)offset;
    (void)size;
    if (dev->machine->end != END_NONE)
        return; /* another vCPU was first */
    dev->machine->debug_code = (int)(value << 1 & 0xff) | 1;
    machine_request_end(dev->machine, END_DEBUG);
}

static const struct io_ops debug_exit_io = {debug_exit_read, debug_exit_write, 1, 4};

static int debug_exit_realize(struct device *dev, struct error *err)
{
    struct debug_exit *d = to_debug_exit(dev);

    if (!range_within(d->iobase, d->iosize, 0x10000) || !d->iosize)
        return error_set(err, EINVAL,
                         "isa-debug-exit: ports %#x to %#llx are not within 0 to 0xffff", d->iobase,
                         (unsigned long long)d->iobase + d->iosize - 1);
    return device_map_pio(dev, (uint16_t)d->iobase, d->iosize, &debug_exit_io, err);
}

static const struct property debug_exit_properties[] = {
    PROPERTY_U32("iobase", struct debug_exit, iobase, 0xf4, "first I/O port"),
    PROPERTY_U32("iosize", struct debug_exit, iosize, 4, "number of ports"),
    PROPERTY_END,
};

const struct device_type isa_debug_exit_type = {
    .name = "isa-debug-exit",
    .summary = "ends the machine with a status a test kernel chooses",
    .bus = "isa",
    .instance_size = sizeof(struct debug_exit),
    .properties = debug_exit_properties,
    .realize = debug_exit_realize,
};
