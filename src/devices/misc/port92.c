/* port92.c - system control port A of the PS/2: bit 1 is the A20 gate, a rising bit 0 resets. */
#include "devices/misc/misc.h"
#include "machine/machine.h"

enum { FAST_RESET = 1, A20_GATE = 2 };

struct port92 {
    struct device dev;
    uint8_t value; /* saved; A20 is the machine's */
};
#define to_port92(d) container_of(d, struct port92, dev)

static uint64_t port92_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)offset;
    (void)size;
    return (to_port92(dev)->value & ~(unsigned)A20_GATE) |
           (machine_a20(dev->machine) ? A20_GATE : 0u);
}

static void port92_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct port92 *p = to_port92(dev);
    bool reset = value & FAST_RESET && !(p->value & FAST_RESET);

    (void)offset;
    (void)size;
    p->value = (uint8_t)value;
    machine_set_a20(dev->machine, (value & A20_GATE) != 0);
    if (reset)
        machine_request_reset(dev->machine);
}

static const struct io_ops port92_io = {port92_read, port92_write, 1, 1};

static void port92_reset(struct device *dev)
{
    to_port92(dev)->value = 0;
}

static int port92_realize(struct device *dev, struct error *err)
{
    return device_map_pio(dev, 0x92, 1, &port92_io, err);
}

static const struct state_field port92_state[] = {
    STATE_U8(struct port92, value),
    STATE_END,
};

const struct device_type port92_type = {
    .name = "port92",
    .summary = "system control port A: A20 gate and fast reset",
    .instance_size = sizeof(struct port92),
    .state = port92_state,
    .realize = port92_realize,
    .reset = port92_reset,
};
