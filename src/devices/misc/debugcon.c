/* debugcon.c - the debug port of Bochs: bytes written go to a back end, reads give 0xe9. */
#include "chardev/chardev.h"
#include "devices/misc/misc.h"

#include <errno.h>

enum { SIGNATURE = 0xe9 };

struct debugcon {
    struct device dev;
    uint32_t iobase; /* properties */
    struct chardev *chardev;
};
#define to_debugcon(d) container_of(d, struct debugcon, dev)

static uint64_t debugcon_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return SIGNATURE;
}

static void debugcon_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    uint8_t byte = (uint8_t)value;

    (void)offset;
    (void)size;
    if (to_debugcon(dev)->chardev)
        chardev_write(to_debugcon(dev)->chardev, &byte, 1);
}

static const struct io_ops debugcon_io = {debugcon_read, debugcon_write, 1, 1};

static int debugcon_realize(struct device *dev, struct error *err)
{
    uint32_t base = to_debugcon(dev)->iobase;

    if (base > 0xffff)
        return error_set(err, EINVAL, "isa-debugcon: iobase %#x is not a port, the last is 0xffff",
                         base);
    return device_map_pio(dev, (uint16_t)base, 1, &debugcon_io, err);
}

static const struct property debugcon_properties[] = {
    PROPERTY_U32("iobase", struct debugcon, iobase, 0xe9, "I/O port"),
    PROPERTY_REF("chardev", struct debugcon, chardev, "where the bytes go"),
    PROPERTY_END,
};

const struct device_type debugcon_type = {
    .name = "isa-debugcon",
    .summary = "debug port: text for the developer",
    .bus = "isa",
    .instance_size = sizeof(struct debugcon),
    .properties = debugcon_properties,
    .realize = debugcon_realize,
};
