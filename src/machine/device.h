/*
 * device.h - what a device model offers the machine, and what it may ask of it.
 *
 * A device is one table and a few functions. It touches its own struct and what the device_*()
 * calls hand it: no lookups by name, no file-scope variables. Whatever it claimed through
 * device_*() the machine gives back, when realize fails and on unplug.
 *
 * Threads: every hook runs with that device's lock held, and none may block. Lock order: an
 * ordinary device, then an interrupt chip (PIC, IOAPIC), then a local APIC; never back. An
 * interrupt chip therefore calls devices only through irq pins.
 */
#ifndef MACHINE_DEVICE_H
#define MACHINE_DEVICE_H

#include "base/error.h"
#include "base/state.h"
#include "event/clock.h"
#include "memory/map.h"

struct device;
struct machine;
struct irq_pin;

/* ---- properties: what -device, device_add and the boards may set before realize ------------- */

enum property_kind { PROPERTY_UINT, PROPERTY_BOOLEAN, PROPERTY_TEXT, PROPERTY_REFERENCE };

struct property {
    const char *name; /* NULL ends the table */
    const char *help;
    enum property_kind kind;
    uint32_t offset, size; /* of the field; TEXT: char *, owned by the device */
    uint64_t initial;
    const char *initial_text;
};

#define PROPERTY_SIZED(pname, type, field, value, text)                                            \
    {                                                                                              \
        .name = pname, .help = text, .kind = PROPERTY_UINT, .offset = offsetof(type, field),       \
        .size = sizeof(((type *)0)->field), .initial = (value)                                     \
    }
#define PROPERTY_U8(pname, type, field, value, text) PROPERTY_SIZED(pname, type, field, value, text)
#define PROPERTY_U16(pname, type, field, value, text)                                              \
    PROPERTY_SIZED(pname, type, field, value, text)
#define PROPERTY_U32(pname, type, field, value, text)                                              \
    PROPERTY_SIZED(pname, type, field, value, text)
#define PROPERTY_U64(pname, type, field, value, text)                                              \
    PROPERTY_SIZED(pname, type, field, value, text)
#define PROPERTY_BOOL(pname, type, field, value, text)                                             \
    {                                                                                              \
        .name = pname, .help = text, .kind = PROPERTY_BOOLEAN, .offset = offsetof(type, field),    \
        .size = sizeof(bool), .initial = (value)                                                   \
    }
#define PROPERTY_STRING(pname, type, field, value, text)                                           \
    {                                                                                              \
        .name = pname, .help = text, .kind = PROPERTY_TEXT, .offset = offsetof(type, field),       \
        .size = sizeof(char *), .initial_text = (value)                                            \
    }
/* A host object (character back end, another device) that a board hands over by device_set_ref().
 */
#define PROPERTY_REF(pname, type, field, text)                                                     \
    {                                                                                              \
        .name = pname, .help = text, .kind = PROPERTY_REFERENCE, .offset = offsetof(type, field),  \
        .size = sizeof(void *)                                                                     \
    }
#define PROPERTY_END                                                                               \
    {                                                                                              \
        .name = NULL                                                                               \
    }

/* ---- the table --------------------------------------------------------------------------------
 */

struct device_type {
    const char *name;                  /* as in -device NAME */
    const char *summary;               /* one line for -device help */
    const char *bus;                   /* "isa", "pci", or NULL: wired by the board only */
    size_t instance_size;              /* of the struct that embeds struct device first */
    const struct property *properties; /* may be NULL */
    const struct state_field *state;   /* what a snapshot carries, and nothing else; may be NULL */
    uint16_t state_version;            /* raised when a field is added */

    int (*realize)(struct device *dev, struct error *err); /* 0, or -errno with err set */
    void (*reset)(struct device *dev);                     /* to the power-on state */
    void (*before_save)(struct device *dev); /* bring the saved fields up to date; optional */
    void (*refresh)(struct device *dev);     /* after a restore: rebuild what is derived */
    void (*unrealize)(struct device *dev);   /* only for what the device itself opened */
    /* The vCPUs stopped, and until the next call nothing may change guest memory or what is saved;
     * or they are about to run. Main thread, without the lock: it may wait. Optional. */
    void (*running)(struct device *dev, bool running);
    /* For buses: how a child of this type is completed (pci.h uses it); optional. */
    const void *bus_data;
};

struct device {
    const struct device_type *type;
    struct machine *machine;
    char *id; /* unique name; "alarm0" where the user gave none */
    pthread_mutex_t lock;
    bool realized;
    struct device *next;         /* of the machine's list, in order of creation */
    struct device *parent;       /* the bus it sits on; NULL: the board */
    struct device_claim *claims; /* what it holds through device_*() */
    uint64_t guest_errors;       /* how often the guest did what is not defined; under lock */
};

/*
 * Life: device_new() allocates and sets defaults; then properties; then device_realize(), which
 * also resets it. device_free() unrealizes first, and is called while no vCPU runs: a vCPU may be
 * inside a hook. A failed realize leaves a device to be freed.
 */
struct device *device_new(struct machine *m, const struct device_type *type, const char *id);
int device_set(struct device *dev, const char *property, const char *value, struct error *err);
void device_set_ref(struct device *dev, const char *property, void *object);
/* The value of a number's property; false: the type has none of that name. */
bool device_get_uint(struct device *dev, const char *property, uint64_t *out);
int device_realize(struct device *dev, struct error *err);
void device_free(struct device *dev);
/* All three; `properties` is "a=1,b=2" or NULL. NULL on failure. */
struct device *device_add(struct machine *m, const struct device_type *type, const char *properties,
                          struct error *err);

/* The same from "TYPE,id=NAME,property=value,...", as users write it; only types that say on which
 * bus they sit. */
struct device *device_add_text(struct machine *m, const char *text, struct error *err);

void device_reset(struct device *dev);

/* All types there are (devices/devices.def), for help and lookup; NULL after the last. Set by the
 * program with device_types_register(). */
void device_types_register(const struct device_type *const *types); /* NULL terminated */
const struct device_type *device_type_find(const char *name);
const struct device_type *device_type_list(unsigned n);

/* ---- what a device may ask for; what it claims here ends with the device ------------------------
 */

int device_map_pio(struct device *dev, uint16_t base, uint32_t len, const struct io_ops *ops,
                   struct error *err);
int device_map_mmio(struct device *dev, gpa base, uint64_t len, int priority,
                    const struct io_ops *ops, struct error *err);
/* The same, for what moves or disappears later: the region is handed out, hidden at first where
 * base is DEVICE_UNMAPPED. */
#define DEVICE_UNMAPPED UINT64_MAX
int device_map_region(struct device *dev, bool ports, gpa base, uint64_t len, int priority,
                      const struct io_ops *ops, struct region **out, struct error *err);

/* An input of an interrupt controller as a device drives it. Lines that share a pin are ORed. */
struct irq_line {
    struct irq_pin *pin; /* NULL: connected to nothing */
    bool level;
};
int device_claim_irq(struct device *dev, unsigned gsi, struct irq_line *out, struct error *err);
void irq_line_set(struct irq_line *line, bool level);
static inline void irq_line_pulse(struct irq_line *line)
{
    irq_line_set(line, true);
    irq_line_set(line, false);
}

uint64_t device_now(struct device *dev); /* guest nanoseconds */

/* A timer whose expiry runs under the device's lock. Disarmed when the device goes. */
struct timer {
    struct clock_timer clock_timer;
    struct device *dev;
    void (*expired)(struct device *dev, struct timer *t);
};
void timer_init(struct timer *t, struct device *dev,
                void (*expired)(struct device *dev, struct timer *t));
void timer_set(struct timer *t, uint64_t deadline); /* guest nanoseconds; CLOCK_NEVER disarms */

/* A guest did what the hardware does not define: told once for each device, and go on. */
uint64_t guest_error_read(struct device *dev, uint64_t offset, unsigned size); /* all ones */
void guest_error_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size);

#endif
