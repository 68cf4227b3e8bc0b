/*
 * pvpanic.c - the guest says that it panicked (QEMU's docs/specs/pvpanic): one port. Reading it
 * tells which events it takes, writing a bit reports one.
 */
#include "base/log.h"
#include "devices/misc/misc.h"
#include "machine/machine.h"

#include <errno.h>

enum pvpanic_event { PVPANIC_PANICKED = 1, PVPANIC_CRASH_LOADED = 2, PVPANIC_ALL = 3 };

struct pvpanic {
    struct device dev;
    uint16_t ioport; /* properties */
    uint8_t events;
};
#define to_pvpanic(d) container_of(d, struct pvpanic, dev)

static uint64_t pvpanic_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return to_pvpanic(dev)->events;
}

static void pvpanic_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (value & ~(uint64_t)PVPANIC_ALL)
        guest_error_write(dev, offset, value, size);
    if (value & to_pvpanic(dev)->events & PVPANIC_PANICKED)
        machine_request_end(dev->machine, END_PANIC);
    else if (value & to_pvpanic(dev)->events & PVPANIC_CRASH_LOADED)
        log_guest("panicked; its crash kernel takes over");
}

static const struct io_ops pvpanic_io = {pvpanic_read, pvpanic_write, 1, 1};

static int pvpanic_realize(struct device *dev, struct error *err)
{
    struct pvpanic *p = to_pvpanic(dev);

    if (p->events & ~PVPANIC_ALL)
        return error_set(err, EINVAL, "pvpanic: events=%u has unknown bits, the known ones are 3",
                         p->events);
    return device_map_pio(dev, p->ioport, 1, &pvpanic_io, err);
}

static const struct property pvpanic_properties[] = {
    PROPERTY_U16("ioport", struct pvpanic, ioport, 0x505, "I/O port"),
    PROPERTY_U8("events", struct pvpanic, events, PVPANIC_ALL, "events taken: 1 panic, 2 kexec"),
    PROPERTY_END,
};

const struct device_type pvpanic_type = {
    .name = "pvpanic",
    .summary = "lets the guest report that it panicked",
    .bus = "isa",
    .instance_size = sizeof(struct pvpanic),
    .properties = pvpanic_properties,
    .realize = pvpanic_realize,
};
