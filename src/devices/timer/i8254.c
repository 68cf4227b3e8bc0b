/*
 * i8254.c - the three counters of a PC's interval timer, and port 0x61 that belongs to the third.
 *
 * Nothing counts: a counter is the tick at which it started and the count it started from, and
 * everything a guest can see follows from those and the present tick of guest time. The clock is
 * 1193182 Hz; loading takes no time here (one pulse on the chip).
 *
 * Of channel 0's output only rising edges matter, so one timer is set to the next of them
 * (`deadline`, saved: an edge that was due when the machine was saved is not lost). When it comes
 * late, because the process was stopped or the guest asks for more than we can give, the edges
 * between are one.
 */
#include "devices/timer/i8254.h"

#include "machine/irq.h"

enum { CHANNELS = 3, SPEAKER = 2 };
enum { ACCESS_LATCH = 0, ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };
enum { READ_BACK = 3, NOT_COUNT = 0x20, NOT_STATUS = 0x10 };
enum { STATUS_OUT = 0x80, STATUS_NULL = 0x40 };
enum {
    PORT_B_GATE = 0x01,
    PORT_B_WRITABLE = 0x0f,
    PORT_B_REFRESH = 0x10,
    PORT_B_OUT = 0x20,
};
#define REFRESH_NSEC      UINT64_C(15085)
#define SHORTEST_INTERVAL (20 * NSEC_PER_USEC)
/* A tight loop: so many reads, none later than that after the one before. */
enum { POLLS = 32 };
#define POLL_NSEC (50 * NSEC_PER_USEC)

struct channel {
    uint64_t start;     /* tick at which counting began */
    uint64_t elapsed;   /* ticks counted when the gate stopped it */
    uint64_t switch_at; /* tick at which `next` takes over in modes 2 and 3 */
    uint32_t count;     /* what it counts from: 1 .. 65536 */
    uint32_t next;      /* written, not in use yet; 0: none */
    uint16_t latch;
    uint8_t mode; /* 0..5 */
    uint8_t access;
    uint8_t low;     /* first byte of a two-byte write */
    uint8_t latched; /* bytes of `latch` still to be read */
    uint8_t status;
    bool bcd, gate;
    bool loaded; /* it has a count and counts, or did */
    bool read_high, write_high;
    bool status_latched;
};

struct i8254 {
    struct device dev;
    struct channel channel[CHANNELS];
    uint8_t port_b;
    uint64_t deadline; /* guest nanoseconds: next rising edge of channel 0 */
    uint64_t now;      /* not saved: of the access under way; one for all, or edges get lost */
    uint64_t polled;   /* not saved: when port B was read last, how often in a row, and OUT then */
    unsigned polls;
    bool out_seen;
    bool irq_disabled; /* the HPET's doing, who saves it */
    struct irq_line line;
    struct timer timer;
};
#define to_i8254(d) container_of(d, struct i8254, dev)

static uint64_t tick_of(uint64_t nsec)
{
    return muldiv64(nsec, I8254_HZ, NSEC_PER_SEC);
}

/* The first nanosecond of a tick. */
static uint64_t nsec_of(uint64_t tick)
{
    return (uint64_t)(((unsigned __int128)tick * NSEC_PER_SEC + I8254_HZ - 1) / I8254_HZ);
}

/* ---- what a channel shows at a tick ------------------------------------------------------------
 */

static bool periodic(const struct channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Modes 1 and 5 start when the gate rises and do not care for its level. */
static bool triggered(const struct channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

static bool stopped(const struct channel *c)
{
    return !c->gate && !triggered(c);
}

static uint64_t elapsed(const struct channel *c, uint64_t tick)
{
    return stopped(c) ? c->elapsed : tick - c->start;
}

static uint32_t modulus(const struct channel *c)
{
    return c->bcd ? 10000 : 65536;
}

static bool channel_out(const struct channel *c, uint64_t tick)
{
    uint64_t n = elapsed(c, tick);

    switch (c->mode) {
    case 0: return c->loaded && n >= c->count;
    case 1: return !c->loaded || n >= c->count;
    case 2: return !c->loaded || !c->gate || n % c->count != c->count - 1;
    case 3: return !c->loaded || !c->gate || n % c->count < (c->count + 1) / 2;
    default: return !c->loaded || n != c->count;
    }
}

/* The counting element. */
static uint16_t channel_value(const struct channel *c, uint64_t tick)
{
    uint64_t n = elapsed(c, tick), value;

    if (!c->loaded) {
        value = 0;
    } else if (c->mode == 2) {
        value = c->count - n % c->count;
    } else if (c->mode == 3) {
        /* By two, once for each half; an odd count makes the first half longer by a tick. */
        uint64_t half = (c->count + 1) / 2, at = n % c->count;

        value = (c->count & ~1u) - 2 * (at < half ? at : at - half);
    } else {
        value = c->count + modulus(c) - n % modulus(c);
    }
    value %= modulus(c);
    if (c->bcd)
        value = value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10;
    return (uint16_t)value;
}

/* The tick of the next rising edge of OUT, or UINT64_MAX. */
static uint64_t next_edge(const struct channel *c, uint64_t tick)
{
    uint64_t n = elapsed(c, tick), edge;

    if (!c->loaded || stopped(c))
        return UINT64_MAX;
    switch (c->mode) {
    case 0:
    case 1: edge = c->count; break;
    case 2:
    case 3: edge = (n / c->count + 1) * c->count; break;
    default: edge = (uint64_t)c->count + 1; break;
    }
    return edge > n ? c->start + edge : UINT64_MAX;
}

/* ---- what happens to a channel ------------------------------------------------------------------
 */

/* Make good what time alone brought: in modes 2 and 3 a new count waits for the period's end. */
static void channel_sync(struct channel *c, uint64_t tick)
{
    if (!periodic(c) || !c->loaded || !c->next || stopped(c) || tick < c->switch_at)
        return;
    c->start = c->switch_at;
    c->count = c->next;
    c->next = 0;
}

static void channel_start(struct channel *c, uint64_t tick)
{
    if (c->next)
        c->count = c->next;
    c->next = 0;
    c->start = tick;
    c->elapsed = 0;
    c->loaded = true;
}

static void channel_load(struct channel *c, uint16_t value, uint64_t tick)
{
    uint32_t count = value;

    if (c->bcd)
        count = (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u +
                (value & 15);
    c->next = count ? MIN(count, modulus(c)) : modulus(c); /* digits above 9: as far as it goes */
    if (triggered(c))
        return; /* from the next trigger on */
    if (!periodic(c) || !c->loaded) {
        channel_start(c, tick);
    } else if (!stopped(c)) {
        c->switch_at = c->start + (elapsed(c, tick) / c->count + 1) * c->count;
    }
}

static void channel_gate(struct channel *c, bool gate, uint64_t tick)
{
    if (c->gate == gate)
        return;
    if (!gate) {
        c->elapsed = elapsed(c, tick);
        c->gate = false;
        return;
    }
    c->gate = true;
    if (triggered(c) ? c->loaded || c->next : periodic(c) && c->loaded)
        channel_start(c, tick);
    else if (!triggered(c))
        c->start = tick - c->elapsed;
}

static void channel_control(struct channel *c, uint8_t value)
{
    c->access = value >> 4 & 3;
    c->mode = value >> 1 & 7;
    if (c->mode > 5)
        c->mode -= 4; /* bit 2 means nothing in modes 2 and 3 */
    c->bcd = value & 1;
    c->loaded = false;
    c->next = 0;
    c->elapsed = 0;
    c->read_high = c->write_high = false;
    c->latched = 0;
    c->status_latched = false;
}

static void latch_count(struct channel *c, uint64_t tick)
{
    if (c->latched)
        return;
    c->latch = channel_value(c, tick);
    c->latched = c->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct channel *c, uint64_t tick)
{
    if (c->status_latched)
        return;
    c->status_latched = true;
    c->status = (uint8_t)((channel_out(c, tick) ? STATUS_OUT : 0) |
                          (c->next || !c->loaded ? STATUS_NULL : 0) | c->access << 4 |
                          c->mode << 1 | c->bcd);
}

static uint8_t channel_read(struct channel *c, uint64_t tick)
{
    uint16_t value = c->latched ? c->latch : channel_value(c, tick);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->access == ACCESS_BOTH)
        c->read_high = !c->read_high;
    if (c->latched)
        c->latched--;
    return (uint8_t)(high ? value >> 8 : value);
}

static void channel_write(struct channel *c, uint8_t value, uint64_t tick)
{
    switch (c->access) {
    case ACCESS_LOW: channel_load(c, value, tick); break;
    case ACCESS_HIGH: channel_load(c, (uint16_t)(value << 8), tick); break;
    default:
        if (c->write_high) {
            channel_load(c, (uint16_t)(value << 8 | c->low), tick);
        } else {
            c->low = value;
            if (c->mode == 0)
                c->loaded = false; /* the first byte stops it */
        }
        c->write_high = !c->write_high;
    }
}

/* ---- the device
 * ---------------------------------------------------------------------------------- */

static uint64_t sync_all(struct i8254 *p)
{
    uint64_t tick;

    p->now = device_now(&p->dev);
    tick = tick_of(p->now);
    for (unsigned i = 0; i < CHANNELS; i++)
        channel_sync(&p->channel[i], tick);
    return tick;
}

/* The interrupt line: OUT of channel 0, but for the low times that end by themselves: those are
 * pulses in i8254_expired(). */
static void set_line(struct i8254 *p)
{
    const struct channel *c = &p->channel[0];
    bool level = c->mode >= 2 || channel_out(c, tick_of(p->now));

    irq_line_set(&p->line, level && !p->irq_disabled);
}

/* Nobody hears edges while the HPET has the interrupt; one that was missed comes afterwards. */
static void arm(struct i8254 *p)
{
    timer_set(&p->timer, p->irq_disabled ? CLOCK_NEVER : p->deadline);
}

static void schedule(struct i8254 *p)
{
    uint64_t edge = next_edge(&p->channel[0], tick_of(p->now));

    p->deadline = edge == UINT64_MAX ? CLOCK_NEVER : MAX(nsec_of(edge), p->now + SHORTEST_INTERVAL);
    arm(p);
}

static void i8254_expired(struct device *dev, struct timer *t)
{
    struct i8254 *p = to_i8254(dev);

    sync_all(p);
    irq_line_set(&p->line, false);
    set_line(p);
    schedule(p);
}

/* What a stream may hold and a guest cannot make. */
static void channel_sanitize(struct channel *c)
{
    c->mode = c->mode > 5 ? 0 : c->mode;
    c->access &= 3;
    c->latched = MIN(c->latched, 2);
    c->next = MIN(c->next, modulus(c));
    if (!c->count || c->count > modulus(c))
        c->count = modulus(c);
}

static void i8254_refresh(struct device *dev)
{
    struct i8254 *p = to_i8254(dev);

    for (unsigned i = 0; i < CHANNELS; i++)
        channel_sanitize(&p->channel[i]);
    p->now = device_now(dev);
    set_line(p);
    arm(p);
}

static void i8254_reset(struct device *dev)
{
    struct i8254 *p = to_i8254(dev);

    for (unsigned i = 0; i < CHANNELS; i++)
        p->channel[i] =
            (struct channel){.access = ACCESS_BOTH, .count = 65536, .gate = i != SPEAKER};
    p->port_b = 0;
    p->polls = 0;
    p->deadline = CLOCK_NEVER;
    set_line(p);
    arm(p);
}

void i8254_irq_enable(struct device *pit, bool enable)
{
    struct i8254 *p = to_i8254(pit);

    pthread_mutex_lock(&pit->lock);
    p->irq_disabled = !enable;
    sync_all(p);
    set_line(p);
    arm(p);
    pthread_mutex_unlock(&pit->lock);
}

static uint64_t i8254_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8254 *p = to_i8254(dev);

    if (offset == CHANNELS)
        return guest_error_read(dev, offset, size); /* the control word is write-only */
    return channel_read(&p->channel[offset], sync_all(p));
}

static void write_control(struct i8254 *p, uint8_t value, uint64_t tick)
{
    unsigned select = value >> 6;

    if (select == READ_BACK) {
        for (unsigned i = 0; i < CHANNELS; i++) {
            if (!(value & 2u << i))
                continue;
            if (!(value & NOT_COUNT))
                latch_count(&p->channel[i], tick);
            if (!(value & NOT_STATUS))
                latch_status(&p->channel[i], tick);
        }
        return;
    }
    if ((value >> 4 & 3) == ACCESS_LATCH) {
        latch_count(&p->channel[select], tick);
        return;
    }
    channel_control(&p->channel[select], value);
}

static void i8254_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8254 *p = to_i8254(dev);
    struct channel *c = &p->channel[0], before;
    uint64_t tick = sync_all(p);

    before = *c;
    if (offset == CHANNELS)
        write_control(p, (uint8_t)value, tick);
    else
        channel_write(&p->channel[offset], (uint8_t)value, tick);
    set_line(p);
    /* Not for a latch command: an edge that is due and was not served yet would be lost. */
    if (c->mode != before.mode || c->loaded != before.loaded || c->start != before.start)
        schedule(p);
}

/*
 * Is this read one of many in a tight loop, and late? Then the host took the processor away, and
 * the guest, which looks at its TSC after each read that shows OUT low, would believe that OUT
 * rose before the gap: Linux then finds a TSC some times too slow, trusts the PIT more than the
 * HPET, and its time runs as many times too fast. Shown OUT low once more, it sees the gap and
 * discards the measurement. Who waits by another clock and then reads once is told the truth.
 */
static bool poll_was_late(struct i8254 *p)
{
    uint64_t gap = p->now - p->polled;
    bool late = gap > POLL_NSEC && p->polls >= POLLS;

    p->polls = gap <= POLL_NSEC ? MIN(p->polls + 1, (unsigned)POLLS) : 0;
    p->polled = p->now;
    return late;
}

static uint64_t port_b_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8254 *p = to_i8254(dev);
    uint64_t tick = sync_all(p);
    bool out = channel_out(&p->channel[SPEAKER], tick);

    if (poll_was_late(p) && out && p->channel[SPEAKER].mode == 0 && !p->out_seen)
        out = false;
    p->out_seen = out;
    return p->port_b | (p->now / REFRESH_NSEC & 1 ? PORT_B_REFRESH : 0) | (out ? PORT_B_OUT : 0);
}

static void port_b_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8254 *p = to_i8254(dev);

    p->port_b = value & PORT_B_WRITABLE;
    channel_gate(&p->channel[SPEAKER], (value & PORT_B_GATE) != 0, sync_all(p));
}

static const struct io_ops i8254_io = {i8254_read, i8254_write, 1, 1};
static const struct io_ops port_b_io = {port_b_read, port_b_write, 1, 1};

static int i8254_realize(struct device *dev, struct error *err)
{
    struct i8254 *p = to_i8254(dev);
    int r = device_claim_irq(dev, 0, &p->line, err);

    timer_init(&p->timer, dev, i8254_expired);
    if (!r)
        r = device_map_pio(dev, I8254_BASE, 4, &i8254_io, err);
    return r ? r : device_map_pio(dev, I8254_PORT_B, 1, &port_b_io, err);
}

static const struct state_field channel_state[] = {
    STATE_U64(struct channel, start),
    STATE_U64(struct channel, elapsed),
    STATE_U64(struct channel, switch_at),
    STATE_U32(struct channel, count),
    STATE_U32(struct channel, next),
    STATE_U16(struct channel, latch),
    STATE_U8(struct channel, mode),
    STATE_U8(struct channel, access),
    STATE_U8(struct channel, low),
    STATE_U8(struct channel, latched),
    STATE_U8(struct channel, status),
    STATE_BOOL(struct channel, bcd),
    STATE_BOOL(struct channel, gate),
    STATE_BOOL(struct channel, loaded),
    STATE_BOOL(struct channel, read_high),
    STATE_BOOL(struct channel, write_high),
    STATE_BOOL(struct channel, status_latched),
    STATE_END,
};

static const struct state_field i8254_state[] = {
    STATE_STRUCT_ARRAY(struct i8254, channel, channel_state),
    STATE_U8(struct i8254, port_b),
    STATE_U64(struct i8254, deadline),
    STATE_END,
};

const struct device_type i8254_type = {
    .name = "i8254",
    .summary = "Interval timer and port 0x61",
    .instance_size = sizeof(struct i8254),
    .state = i8254_state,
    .realize = i8254_realize,
    .reset = i8254_reset,
    .refresh = i8254_refresh,
};

struct device *i8254_add(struct machine *m, struct error *err)
{
    return device_add(m, &i8254_type, NULL, err);
}
