/*
 * ioapic.c - I/O APIC (82093AA as in the ICH9): pins to messages for the local APICs.
 *
 * An edge is delivered at once, or lost where its entry is masked (82093AA, 3.2.4). A level is
 * delivered when it is high, not masked and its remote IRR is clear; delivery sets remote IRR and
 * the EOI of a local APIC, or of the guest through the EOI register, clears it. Delivery modes
 * that no EOI follows (NMI and so on) have no remote IRR and are delivered on the rise of the pin.
 *
 * Levels of the pins are saved, so that a line that is high over a restore is no new edge.
 */
#include "devices/irq/ioapic.h"

#include "machine/irq.h"
#include "machine/machine.h"

#include <errno.h>

enum { VERSION = 0x20, WINDOW = 0x1000 };
#define REDIR_LOGICAL    BIT(11)
#define REDIR_PENDING    BIT(12)
#define REDIR_REMOTE_IRR BIT(14)
#define REDIR_LEVEL      BIT(15)
#define REDIR_MASKED     BIT(16)
/* What a guest can write: not the two status bits. */
#define REDIR_WRITABLE (UINT64_C(0xff0000000001ffff) & ~(REDIR_PENDING | REDIR_REMOTE_IRR))

struct ioapic {
    struct device dev;
    struct apic_bus *bus; /* property */
    uint64_t base;        /* property */
    uint8_t initial_id;   /* property */
    uint8_t id, index;
    uint32_t pins; /* levels */
    uint64_t redir[IOAPIC_PINS];
};
#define to_ioapic(d) container_of(d, struct ioapic, dev)

static bool waits_for_eoi(uint64_t entry)
{
    unsigned delivery = entry >> 8 & 7;

    return (entry & REDIR_LEVEL) && (delivery == APIC_FIXED || delivery == APIC_LOWEST);
}

/* Deliver what the pin asks for now; `rising`: it just became high. */
static void service(struct ioapic *p, unsigned pin, bool rising)
{
    uint64_t entry = p->redir[pin];
    struct apic_message m = {.destination = (uint32_t)(entry >> 56),
                             .logical = (entry & REDIR_LOGICAL) != 0,
                             .delivery = entry >> 8 & 7,
                             .vector = (uint8_t)entry,
                             .level = waits_for_eoi(entry)};

    if (!(p->pins & 1u << pin) || (entry & REDIR_MASKED))
        return;
    if (m.level ? (entry & REDIR_REMOTE_IRR) != 0 : !rising)
        return;
    if (m.level)
        p->redir[pin] |= REDIR_REMOTE_IRR;
    apic_bus_deliver(p->bus, &m);
}

static void set_pin(struct device *dev, unsigned pin, bool level)
{
    struct ioapic *p = to_ioapic(dev);
    bool before;

    pthread_mutex_lock(&dev->lock);
    before = (p->pins >> pin & 1) != 0;
    p->pins = (uint32_t)bits_set(p->pins, pin, 1, level);
    service(p, pin, level && !before);
    pthread_mutex_unlock(&dev->lock);
}

static void end_of_interrupt(struct ioapic *p, uint8_t vector)
{
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        if ((uint8_t)p->redir[i] == vector && (p->redir[i] & REDIR_REMOTE_IRR)) {
            p->redir[i] &= ~REDIR_REMOTE_IRR;
            service(p, i, false);
        }
}

void ioapic_eoi(struct device *ioapic, uint8_t vector)
{
    pthread_mutex_lock(&ioapic->lock);
    end_of_interrupt(to_ioapic(ioapic), vector);
    pthread_mutex_unlock(&ioapic->lock);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static uint32_t read_register(struct ioapic *p)
{
    unsigned pin = (p->index - IOAPIC_REG_REDIR) / 2u;

    switch (p->index) {
    case IOAPIC_REG_ID:
    case IOAPIC_REG_ARB: return (uint32_t)p->id << 24;
    case IOAPIC_REG_VERSION: return (IOAPIC_PINS - 1) << 16 | VERSION;
    }
    if (p->index < IOAPIC_REG_REDIR || pin >= IOAPIC_PINS)
        return (uint32_t)guest_error_read(&p->dev, p->index, 4);
    return (uint32_t)(p->redir[pin] >> (p->index & 1 ? 32 : 0));
}

static void write_register(struct ioapic *p, uint32_t value)
{
    unsigned index = p->index, pin = (index - IOAPIC_REG_REDIR) / 2, shift = index & 1 ? 32 : 0;
    uint64_t writable;

    if (p->index == IOAPIC_REG_ID) {
        p->id = value >> 24 & 15;
        return;
    }
    if (p->index < IOAPIC_REG_REDIR || pin >= IOAPIC_PINS) {
        guest_error_write(&p->dev, p->index, value, 4);
        return;
    }
    writable = REDIR_WRITABLE & UINT64_C(0xffffffff) << shift;
    p->redir[pin] = (p->redir[pin] & ~writable) | ((uint64_t)value << shift & writable);
    /* Software without an EOI register ends a level by making it an edge for a moment. */
    if (!waits_for_eoi(p->redir[pin]))
        p->redir[pin] &= ~REDIR_REMOTE_IRR;
    service(p, pin, false);
}

static uint64_t ioapic_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct ioapic *p = to_ioapic(dev);

    if (offset == IOAPIC_INDEX)
        return p->index;
    if (offset == IOAPIC_DATA && size == 4)
        return read_register(p);
    return guest_error_read(dev, offset, size);
}

static void ioapic_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *p = to_ioapic(dev);

    if (offset == IOAPIC_INDEX)
        p->index = (uint8_t)value;
    else if (offset == IOAPIC_DATA && size == 4)
        write_register(p, (uint32_t)value);
    else if (offset == IOAPIC_EOI)
        end_of_interrupt(p, (uint8_t)value);
    else
        guest_error_write(dev, offset, value, size);
}

static const struct io_ops ioapic_io = {ioapic_read, ioapic_write, 1, 4};

static void ioapic_reset(struct device *dev)
{
    struct ioapic *p = to_ioapic(dev);

    p->id = p->initial_id & 15;
    p->index = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        p->redir[i] = REDIR_MASKED;
}

/* Which pin a GSI drives; negative: none. */
static int pin_of(unsigned gsi)
{
    return gsi == 0 ? 2 : gsi == 2 ? -1 : (int)gsi;
}

static int ioapic_realize(struct device *dev, struct error *err)
{
    struct ioapic *p = to_ioapic(dev);
    int r;

    if (!p->bus)
        return error_set(err, EINVAL,
                         "ioapic: it is wired by the machine, '-device' cannot add one");
    r = device_map_mmio(dev, p->base, WINDOW, PRIORITY_BOARD, &ioapic_io, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        if (pin_of(i) >= 0)
            irq_pin_connect(
                &dev->machine->gsi[i],
                &(struct irq_input){.set = set_pin, .chip = dev, .pin = (unsigned)pin_of(i)});
    apic_bus_join_ioapic(p->bus, dev);
    return 0;
}

static void ioapic_unrealize(struct device *dev)
{
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        irq_pin_disconnect(&dev->machine->gsi[i], dev);
    apic_bus_leave_ioapic(to_ioapic(dev)->bus, dev);
}

static const struct property ioapic_properties[] = {
    PROPERTY_REF("bus", struct ioapic, bus, "APIC bus"),
    PROPERTY_U64("base", struct ioapic, base, IOAPIC_DEFAULT_BASE, "address of the registers"),
    PROPERTY_U8("id", struct ioapic, initial_id, 0, "APIC ID after a reset"),
    PROPERTY_END,
};

static const struct state_field ioapic_state[] = {
    STATE_U8(struct ioapic, id),
    STATE_U8(struct ioapic, index),
    STATE_U32(struct ioapic, pins),
    STATE_ARRAY(struct ioapic, redir),
    STATE_END,
};

const struct device_type ioapic_type = {
    .name = "ioapic",
    .summary = "I/O APIC with 24 pins",
    .instance_size = sizeof(struct ioapic),
    .properties = ioapic_properties,
    .state = ioapic_state,
    .realize = ioapic_realize,
    .reset = ioapic_reset,
    .unrealize = ioapic_unrealize,
};

struct device *ioapic_add(struct machine *m, struct apic_bus *bus, uint8_t id, struct error *err)
{
    struct device *dev = device_new(m, &ioapic_type, NULL);

    to_ioapic(dev)->initial_id = id;
    device_set_ref(dev, "bus", bus);
    if (device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
