/*
 * hpet.c - high precision event timers (IA-PC HPET specification 1.0a), as in the ICH9.
 *
 * The main counter is guest time in ticks plus an offset while it runs, and a number while it is
 * halted. A timer is its comparator; `deadline` is when the counter will meet it (saved, so that
 * a match that is due is not lost over a snapshot).
 *
 * hpet_sync() serves what is due before a register is read or written, so what the guest sees and
 * changes is up to date however late the host's timer is. A periodic timer that missed periods
 * interrupts once for them.
 *
 * Lock order: this device, then PIT and RTC, whose interrupts it takes in legacy replacement.
 */
#include "devices/timer/hpet.h"

#include "devices/timer/cmos_rtc.h"
#include "devices/timer/i8254.h"
#include "machine/irq.h"
#include "machine/machine.h"

#define CONFIG_ENABLE BIT(0)
#define CONFIG_LEGACY BIT(1)

#define TIMER_LEVEL    BIT(1)
#define TIMER_ENABLE   BIT(2)
#define TIMER_PERIODIC BIT(3)
#define TIMER_SET      BIT(6)
#define TIMER_32       BIT(8)
#define TIMER_FSB      BIT(14)
/* Periodic and 64-bit capable, message-signalled, and which inputs of the IOAPIC: 20 to 23. */
#define TIMER_CAPABLE (BIT(4) | BIT(5) | BIT(15) | UINT64_C(0x00f00000) << 32)
#define TIMER_ROUTE   UINT64_C(0x3e00)
#define TIMER_WRITABLE                                                                             \
    (TIMER_LEVEL | TIMER_ENABLE | TIMER_PERIODIC | TIMER_SET | TIMER_32 | TIMER_FSB | TIMER_ROUTE)

#define CAPABILITIES                                                                               \
    (UINT64_C(1000000) * HPET_TICK_NSEC << 32 | HPET_BLOCK_ID) /* period in femtoseconds */
#define SHORTEST_INTERVAL (20 * NSEC_PER_USEC)

struct hpet_timer {
    uint64_t config, comparator, period, fsb;
    uint64_t deadline; /* guest nanoseconds */
};

struct hpet {
    struct device dev;
    struct device *pit, *rtc; /* properties; may be NULL */
    uint64_t base;            /* property */
    uint64_t config, status;
    uint64_t counter; /* halted: its value; running: what to add to guest time in ticks */
    struct hpet_timer t[HPET_TIMERS];
    struct irq_line line[HPET_TIMERS];
    struct timer timer;  /* for the earliest deadline */
    uint64_t now;        /* not saved: of the access under way; one for all, or matches get lost */
    uint64_t not_before; /* not saved: the next host wake-up, whatever period a guest asks for */
};
#define to_hpet(d) container_of(d, struct hpet, dev)

static uint64_t ticks_now(const struct hpet *h)
{
    return h->now / HPET_TICK_NSEC;
}

static uint64_t counter_now(const struct hpet *h)
{
    return h->config & CONFIG_ENABLE ? ticks_now(h) + h->counter : h->counter;
}

static uint64_t width_mask(const struct hpet_timer *t)
{
    return t->config & TIMER_32 ? UINT32_MAX : UINT64_MAX;
}

/* ---- interrupts ---------------------------------------------------------------------------------
 */

/* Where a timer's line goes; negative: nowhere. */
static int gsi_of(const struct hpet *h, unsigned n)
{
    unsigned route = h->t[n].config >> 9 & 31;

    if (h->config & CONFIG_LEGACY && n < 2)
        return n ? 8 : 0;
    return TIMER_CAPABLE >> 32 & BIT(route) ? (int)route : -1;
}

static void set_line(struct hpet *h, unsigned n, bool level)
{
    struct machine *m = h->dev.machine;
    int gsi = gsi_of(h, n);
    struct irq_pin *pin = gsi < 0 ? NULL : &m->gsi[gsi];

    if (h->line[n].pin != pin) {
        irq_line_set(&h->line[n], false);
        irq_line_connect(&h->line[n], pin);
    }
    irq_line_set(&h->line[n], level);
}

/* Level-triggered lines follow the status register. */
static void set_lines(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        uint64_t config = h->t[n].config;

        set_line(h, n,
                 (config & TIMER_LEVEL) && (config & TIMER_ENABLE) && !(config & TIMER_FSB) &&
                     (h->status & BIT(n)));
    }
}

static void fire(struct hpet *h, unsigned n)
{
    struct hpet_timer *t = &h->t[n];

    if (t->config & TIMER_LEVEL)
        h->status |= BIT(n);
    if (!(t->config & TIMER_ENABLE))
        return;
    if (t->config & TIMER_FSB) {
        machine_msi(h->dev.machine, t->fsb >> 32, (uint32_t)t->fsb);
    } else {
        set_line(h, n, true);
        if (!(t->config & TIMER_LEVEL))
            set_line(h, n, false);
    }
}

/* ---- time
 * ---------------------------------------------------------------------------------------- */

/* Find when the counter meets the comparator. `after`: not now any more. */
static void arm(struct hpet *h, struct hpet_timer *t, bool after)
{
    uint64_t mask = width_mask(t), wait = (t->comparator - counter_now(h)) & mask;
    uint64_t deadline = ticks_now(h) * HPET_TICK_NSEC;

    t->deadline = CLOCK_NEVER;
    if (!(h->config & CONFIG_ENABLE))
        return;
    if (!wait && after) {
        if (mask == UINT64_MAX)
            return;
        wait = mask + 1; /* 32 bits wrap in 43 seconds */
    }
    /* What the 64-bit counter has passed it will not meet in this life. */
    if (wait > (CLOCK_NEVER - deadline) / HPET_TICK_NSEC - 1)
        return;
    t->deadline = deadline + wait * HPET_TICK_NSEC;
}

static void hpet_sync(struct hpet *h)
{
    uint64_t now = h->now = device_now(&h->dev);

    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        struct hpet_timer *t = &h->t[n];
        uint64_t mask = width_mask(t);

        if (t->deadline > now)
            continue;
        if (t->config & TIMER_PERIODIC && t->period & mask) {
            uint64_t period = t->period & mask;
            uint64_t late = (now - t->deadline) / HPET_TICK_NSEC; /* more than 32 bits of it */

            t->comparator = (t->comparator + (late / period + 1) * period) & mask;
        }
        arm(h, t, true);
        h->not_before = now + SHORTEST_INTERVAL;
        fire(h, n);
    }
}

static void set_timer(struct hpet *h)
{
    uint64_t deadline = CLOCK_NEVER;

    /* One that may not interrupt is brought up to date when somebody looks: Linux leaves its
     * periodic timer running that way for as long as the machine is up. */
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        if (h->t[n].config & TIMER_ENABLE)
            deadline = MIN(deadline, h->t[n].deadline);
    timer_set(&h->timer, MAX(deadline, h->not_before));
}

static void hpet_expired(struct device *dev, struct timer *timer)
{
    hpet_sync(to_hpet(dev));
    set_timer(to_hpet(dev));
}

/* Take IRQ 0 and 8, or give them back. */
static void set_legacy(struct hpet *h)
{
    bool enable = !(h->config & CONFIG_LEGACY);

    if (h->pit)
        i8254_irq_enable(h->pit, enable);
    if (h->rtc)
        cmos_rtc_irq_enable(h->rtc, enable);
}

static void hpet_refresh(struct device *dev)
{
    struct hpet *h = to_hpet(dev);

    /* A stream may hold what no guest could write. */
    h->config &= CONFIG_ENABLE | CONFIG_LEGACY;
    h->status &= BIT(HPET_TIMERS) - 1;
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        h->t[n].config = TIMER_CAPABLE | (h->t[n].config & TIMER_WRITABLE);
    set_legacy(h);
    set_lines(h);
    set_timer(h);
}

static void hpet_reset(struct device *dev)
{
    struct hpet *h = to_hpet(dev);

    h->config = h->status = h->counter = h->not_before = 0;
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        h->t[n] = (struct hpet_timer){
            .config = TIMER_CAPABLE, .comparator = UINT64_MAX, .deadline = CLOCK_NEVER};
    hpet_refresh(dev);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static uint64_t *timer_register(struct hpet *h, uint64_t offset, unsigned *n)
{
    *n = (unsigned)(offset - HPET_TIMER) / HPET_TIMER_LEN;
    if (offset < HPET_TIMER || *n >= HPET_TIMERS)
        return NULL;
    switch (offset % HPET_TIMER_LEN) {
    case HPET_TIMER_CONFIG: return &h->t[*n].config;
    case HPET_TIMER_COMPARATOR: return &h->t[*n].comparator;
    case HPET_TIMER_FSB: return &h->t[*n].fsb;
    default: return NULL;
    }
}

/* All 64 bits of the register at an aligned offset; false: there is none. */
static bool read_register(struct hpet *h, uint64_t offset, uint64_t *value)
{
    unsigned n;
    uint64_t *reg;

    switch (offset) {
    case HPET_CAPABILITIES: *value = CAPABILITIES; return true;
    case HPET_CONFIG: *value = h->config; return true;
    case HPET_STATUS: *value = h->status; return true;
    case HPET_COUNTER: *value = counter_now(h); return true;
    }
    reg = timer_register(h, offset, &n);
    if (reg)
        *value = *reg;
    return reg != NULL;
}

static uint64_t hpet_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct hpet *h = to_hpet(dev);
    uint64_t value = 0;

    if ((offset & ~UINT64_C(7)) == HPET_COUNTER) {
        h->now = device_now(dev); /* read often, and that is all it needs */
    } else {
        hpet_sync(h);
        set_timer(h);
    }
    if (!read_register(h, offset & ~UINT64_C(7), &value))
        return guest_error_read(dev, offset, size);
    return value >> 8 * (offset & 7) & size_mask(size);
}

static void arm_all(struct hpet *h)
{
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        arm(h, &h->t[n], false);
}

static void write_config(struct hpet *h, uint64_t value)
{
    uint64_t counter = counter_now(h), changed = h->config ^ value;

    h->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
    if (changed & CONFIG_ENABLE) {
        h->counter = value & CONFIG_ENABLE ? counter - ticks_now(h) : counter;
        arm_all(h);
    }
    if (changed & CONFIG_LEGACY)
        set_legacy(h);
}

static void write_timer_config(struct hpet *h, struct hpet_timer *t, uint64_t value)
{
    uint64_t changed = t->config ^ value;

    t->config = TIMER_CAPABLE | (value & TIMER_WRITABLE);
    if (t->config & TIMER_32) {
        t->comparator = (uint32_t)t->comparator;
        t->period = (uint32_t)t->period;
    }
    if (changed & (TIMER_32 | TIMER_PERIODIC))
        arm(h, t, true);
}

/* Bits under `mask` of the comparator register were written. */
static void write_comparator(struct hpet *h, struct hpet_timer *t, uint64_t value, uint64_t mask)
{
    mask &= width_mask(t);
    if (t->config & TIMER_PERIODIC)
        t->period = (t->period & ~mask) | (value & mask);
    if (!(t->config & TIMER_PERIODIC) || (t->config & TIMER_SET)) {
        t->comparator = (t->comparator & ~mask) | (value & mask);
        arm(h, t, false);
    }
    if (mask & UINT32_MAX)
        t->config &= ~TIMER_SET;
}

static void hpet_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct hpet *h = to_hpet(dev);
    uint64_t reg = offset & ~UINT64_C(7), mask = size_mask(size) << 8 * (offset & 7);
    uint64_t old = 0;
    unsigned n;

    hpet_sync(h);
    if (!read_register(h, reg, &old)) {
        guest_error_write(dev, offset, value, size);
        return;
    }
    value = value << 8 * (offset & 7) & mask;
    if (reg == HPET_CONFIG) {
        write_config(h, (old & ~mask) | value);
    } else if (reg == HPET_STATUS) {
        h->status &= ~value;
    } else if (reg == HPET_COUNTER) {
        value |= old & ~mask;
        h->counter = h->config & CONFIG_ENABLE ? value - ticks_now(h) : value;
        arm_all(h);
    } else if (reg != HPET_CAPABILITIES) {
        uint64_t *which = timer_register(h, reg, &n);

        if (which == &h->t[n].config)
            write_timer_config(h, &h->t[n], (old & ~mask) | value);
        else if (which == &h->t[n].comparator)
            write_comparator(h, &h->t[n], value, mask);
        else
            *which = (old & ~mask) | value;
    }
    set_lines(h);
    set_timer(h);
}

static const struct io_ops hpet_io = {hpet_read, hpet_write, 4, 8};

static int hpet_realize(struct device *dev, struct error *err)
{
    struct hpet *h = to_hpet(dev);
    int r = 0;

    timer_init(&h->timer, dev, hpet_expired);
    for (unsigned n = 0; !r && n < HPET_TIMERS; n++)
        r = device_claim_irq(dev, 0, &h->line[n], err); /* set_line() moves it */
    return r ? r : device_map_mmio(dev, h->base, HPET_LEN, PRIORITY_BOARD, &hpet_io, err);
}

static const struct property hpet_properties[] = {
    PROPERTY_REF("pit", struct hpet, pit, "interval timer that loses IRQ 0"),
    PROPERTY_REF("rtc", struct hpet, rtc, "clock that loses IRQ 8"),
    PROPERTY_U64("base", struct hpet, base, HPET_DEFAULT_BASE, "address of the registers"),
    PROPERTY_END,
};

static const struct state_field timer_state[] = {
    STATE_U64(struct hpet_timer, config),   STATE_U64(struct hpet_timer, comparator),
    STATE_U64(struct hpet_timer, period),   STATE_U64(struct hpet_timer, fsb),
    STATE_U64(struct hpet_timer, deadline), STATE_END,
};

static const struct state_field hpet_state[] = {
    STATE_U64(struct hpet, config),
    STATE_U64(struct hpet, status),
    STATE_U64(struct hpet, counter),
    STATE_STRUCT_ARRAY(struct hpet, t, timer_state),
    STATE_END,
};

const struct device_type hpet_type = {
    .name = "hpet",
    .summary = "High precision event timer",
    .instance_size = sizeof(struct hpet),
    .properties = hpet_properties,
    .state = hpet_state,
    .realize = hpet_realize,
    .reset = hpet_reset,
    .refresh = hpet_refresh,
};

struct device *hpet_add(struct machine *m, struct device *pit, struct device *rtc,
                        struct error *err)
{
    struct device *dev = device_new(m, &hpet_type, NULL);

    device_set_ref(dev, "pit", pit);
    device_set_ref(dev, "rtc", rtc);
    if (device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
