/*
 * device.c - see device.h. Devices, their properties and what they claim.
 *
 * Claims are a list so that a failed realize and an unplug give back the same things in the same
 * way. A type is found in the table the program registered: nothing runs before main().
 */
#include "machine/device.h"

#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum claim_kind { CLAIM_REGION, CLAIM_IRQ, CLAIM_TIMER };

struct device_claim {
    struct device_claim *next;
    enum claim_kind kind;
    union {
        struct region *region;
        struct irq_line *line;
        struct timer *timer;
    };
};

static const struct device_type *const *registered;

void device_types_register(const struct device_type *const *types)
{
    registered = types;
}

const struct device_type *device_type_list(unsigned n)
{
    return registered ? registered[n] : NULL;
}

const struct device_type *device_type_find(const char *name)
{
    for (unsigned i = 0; device_type_list(i); i++)
        if (!strcmp(device_type_list(i)->name, name))
            return device_type_list(i);
    return NULL;
}

static struct device_claim *claim(struct device *dev, enum claim_kind kind)
{
    struct device_claim *c = xcalloc(1, sizeof(*c));

    c->kind = kind;
    c->next = dev->claims;
    dev->claims = c;
    return c;
}

static void claims_release(struct device *dev)
{
    while (dev->claims) {
        struct device_claim *c = dev->claims;

        dev->claims = c->next;
        switch (c->kind) {
        case CLAIM_REGION: memory_remove(c->region); break;
        case CLAIM_IRQ: irq_line_set(c->line, false); break;
        case CLAIM_TIMER: clock_timer_set(&c->timer->clock_timer, CLOCK_NEVER); break;
        }
        free(c);
    }
}

static void *field_of(struct device *dev, const struct property *p)
{
    return (char *)dev + p->offset;
}

static char *unique_id(struct machine *m, const struct device_type *type)
{
    for (unsigned n = 0;; n++) {
        char *id = xasprintf("%s%u", type->name, n);
        bool taken = false;

        for (struct device *d = m->devices; d; d = d->next)
            taken |= !strcmp(d->id, id);
        if (!taken)
            return id;
        free(id);
    }
}

struct device *device_new(struct machine *m, const struct device_type *type, const char *id)
{
    struct device *dev = xcalloc(1, type->instance_size);

    dev->type = type;
    dev->machine = m;
    dev->id = id ? xstrdup(id) : unique_id(m, type);
    pthread_mutex_init(&dev->lock, NULL);
    for (const struct property *p = type->properties; p && p->name; p++) {
        if (p->kind == PROPERTY_TEXT) {
            if (p->initial_text)
                *(char **)field_of(dev, p) = xstrdup(p->initial_text);
        } else if (p->kind != PROPERTY_REFERENCE) {
            store_le(field_of(dev, p), p->initial, p->size);
        }
    }
    *m->devices_end = dev;
    m->devices_end = &dev->next;
    return dev;
}

static const struct property *property_find(const struct device_type *type, const char *name)
{
    for (const struct property *p = type->properties; p && p->name; p++)
        if (!strcmp(p->name, name))
            return p;
    return NULL;
}

static int set_unsigned(struct device *dev, const struct property *p, const char *value,
                        struct error *err)
{
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(value, &end, 0);
    if (errno || end == value || *end || value[0] == '-' || n > size_mask(p->size))
        return error_set(err, EINVAL, "%s: %s=%s is not a number from 0 to %llu", dev->type->name,
                         p->name, value, (unsigned long long)size_mask(p->size));
    store_le(field_of(dev, p), n, p->size);
    return 0;
}

static int set_bool(struct device *dev, const struct property *p, const char *value,
                    struct error *err)
{
    bool on = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");
    bool off = !strcmp(value, "off") || !strcmp(value, "false") || !strcmp(value, "no");

    if (!on && !off)
        return error_set(err, EINVAL, "%s: %s=%s is neither on nor off", dev->type->name, p->name,
                         value);
    *(bool *)field_of(dev, p) = on;
    return 0;
}

/* A host object by its name, as the user gave it. */
static int set_reference(struct device *dev, const struct property *p, const char *value,
                         struct error *err)
{
    const struct machine_config *c = &dev->machine->config;

    for (unsigned i = 0; i < c->backend_count; i++) {
        const struct machine_backend *b = &c->backends[i];

        if (strcmp(b->kind, p->name) || strcmp(b->id, value))
            continue;
        device_set_ref(dev, p->name, b->object);
        return 0;
    }
    return error_set(err, ENOENT, "%s: %s=%s: there is no %s of this name", dev->type->name,
                     p->name, value, p->name);
}

int device_set(struct device *dev, const char *property, const char *value, struct error *err)
{
    const struct property *p = property_find(dev->type, property);
    char **text;

    assert(!dev->realized);
    if (!p)
        return error_set(err, EINVAL, "%s: there is no property '%s'; '-device %s,help' lists them",
                         dev->type->name, property, dev->type->name);
    switch (p->kind) {
    case PROPERTY_UINT: return set_unsigned(dev, p, value, err);
    case PROPERTY_BOOLEAN: return set_bool(dev, p, value, err);
    case PROPERTY_REFERENCE: return set_reference(dev, p, value, err);
    default: break;
    }
    text = field_of(dev, p);
    free(*text);
    *text = xstrdup(value);
    return 0;
}

bool device_get_uint(struct device *dev, const char *property, uint64_t *out)
{
    const struct property *p = property_find(dev->type, property);

    if (!p || p->kind != PROPERTY_UINT)
        return false;
    *out = load_le(field_of(dev, p), p->size);
    return true;
}

void device_set_ref(struct device *dev, const char *property, void *object)
{
    const struct property *p = property_find(dev->type, property);

    assert(p && p->kind == PROPERTY_REFERENCE && !dev->realized);
    memcpy(field_of(dev, p), &object, sizeof(object));
}

static int set_list(struct device *dev, const char *properties, struct error *err)
{
    auto_free char *copy = xstrdup(properties);
    char *save = NULL;

    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        char *equal = strchr(item, '=');
        int r;

        if (equal)
            *equal = '\0';
        if (!strcmp(item, "id")) /* the name of the whole, not a property */
            continue;
        r = device_set(dev, item, equal ? equal + 1 : "on", err);
        if (r < 0)
            return r;
    }
    return 0;
}

int device_realize(struct device *dev, struct error *err)
{
    int r = dev->type->realize ? dev->type->realize(dev, err) : 0;

    if (r < 0) {
        claims_release(dev);
        return r;
    }
    dev->realized = true;
    device_reset(dev);
    return 0;
}

void device_free(struct device *dev)
{
    struct machine *m;

    if (!dev)
        return;
    m = dev->machine;
    for (struct device **p = &m->devices; *p; p = &(*p)->next)
        if (*p == dev) {
            *p = dev->next;
            if (!*p)
                m->devices_end = p;
            break;
        }
    if (dev->realized && dev->type->unrealize)
        dev->type->unrealize(dev);
    claims_release(dev);
    for (const struct property *p = dev->type->properties; p && p->name; p++)
        if (p->kind == PROPERTY_TEXT)
            free(*(char **)field_of(dev, p));
    pthread_mutex_destroy(&dev->lock);
    free(dev->id);
    free(dev);
}

struct device *device_add_text(struct machine *m, const char *text, struct error *err)
{
    const char *comma = strchrnul(text, ',');
    auto_free char *name = strndup(text, (size_t)(comma - text));
    auto_free char *id = NULL;
    const struct device_type *type = name ? device_type_find(name) : NULL;
    const char *with_id = comma;
    struct device *dev;

    if (!type || !type->bus) {
        error_set(err, ENOENT, "there is no device '%s' that can be added", name ? name : "");
        return NULL;
    }
    while (*with_id && strncmp(with_id, ",id=", 4))
        with_id = strchrnul(with_id + 1, ',');
    if (*with_id)
        id = strndup(with_id + 4, strcspn(with_id + 4, ","));
    for (dev = m->devices; dev && id; dev = dev->next)
        if (!strcmp(dev->id, id)) {
            error_set(err, EEXIST, "there are two devices '%s'", id);
            return NULL;
        }
    dev = device_new(m, type, id);
    if ((*comma && set_list(dev, comma + 1, err) < 0) || device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}

struct device *device_add(struct machine *m, const struct device_type *type, const char *properties,
                          struct error *err)
{
    struct device *dev = device_new(m, type, NULL);

    if ((properties && set_list(dev, properties, err) < 0) || device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}

void device_reset(struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->type->reset)
        dev->type->reset(dev);
    pthread_mutex_unlock(&dev->lock);
}

int device_map_region(struct device *dev, bool ports, gpa base, uint64_t len, int priority,
                      const struct io_ops *ops, struct region **out, struct error *err)
{
    bool hidden = base == DEVICE_UNMAPPED;
    struct region *region;
    int r = memory_add_io(ports ? dev->machine->ports : dev->machine->memory, dev->id,
                          hidden ? 0 : base, len, priority, ops, dev, &dev->lock, &region, err);

    if (r < 0)
        return error_prefix(err, r, "%s: ", dev->type->name);
    if (hidden)
        memory_place(region, 0, false);
    claim(dev, CLAIM_REGION)->region = region;
    if (out)
        *out = region;
    return 0;
}

int device_map_pio(struct device *dev, uint16_t base, uint32_t len, const struct io_ops *ops,
                   struct error *err)
{
    return device_map_region(dev, true, base, len, PRIORITY_DEFAULT, ops, NULL, err);
}

int device_map_mmio(struct device *dev, gpa base, uint64_t len, int priority,
                    const struct io_ops *ops, struct error *err)
{
    return device_map_region(dev, false, base, len, priority, ops, NULL, err);
}

int device_claim_irq(struct device *dev, unsigned gsi, struct irq_line *out, struct error *err)
{
    if (gsi >= MACHINE_GSI_COUNT)
        return error_set(err, EINVAL, "%s: interrupt %u does not exist, the last is %d",
                         dev->type->name, gsi, MACHINE_GSI_COUNT - 1);
    irq_line_connect(out, &dev->machine->gsi[gsi]);
    claim(dev, CLAIM_IRQ)->line = out;
    return 0;
}

uint64_t device_now(struct device *dev)
{
    return clock_now(dev->machine->clock);
}

static void timer_fire(struct clock_timer *ct)
{
    struct timer *t = container_of(ct, struct timer, clock_timer);

    pthread_mutex_lock(&t->dev->lock);
    if (clock_timer_claim(ct))
        t->expired(t->dev, t);
    pthread_mutex_unlock(&t->dev->lock);
}

void timer_init(struct timer *t, struct device *dev,
                void (*expired)(struct device *dev, struct timer *t))
{
    clock_timer_init(&t->clock_timer, dev->machine->clock, timer_fire);
    t->dev = dev;
    t->expired = expired;
    claim(dev, CLAIM_TIMER)->timer = t;
}

void timer_set(struct timer *t, uint64_t deadline)
{
    clock_timer_set(&t->clock_timer, deadline);
}

uint64_t guest_error_read(struct device *dev, uint64_t offset, unsigned size)
{
    if (dev->guest_errors++ == 0)
        log_warn("guest: %s: read of %u bytes from register %#llx, which does not exist", dev->id,
                 size, (unsigned long long)offset);
    return ~UINT64_C(0);
}

void guest_error_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (dev->guest_errors++ == 0)
        log_warn("guest: %s: write of %#llx (%u bytes) to register %#llx, which does not take it",
                 dev->id, (unsigned long long)value, size, (unsigned long long)offset);
}
