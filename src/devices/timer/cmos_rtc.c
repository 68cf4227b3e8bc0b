/*
 * cmos_rtc.c - MC146818A real-time clock and its battery-backed memory.
 *
 * Time is not counted: `seconds` is the time at guest nanosecond `phase`, and rtc_sync() moves
 * both on by the seconds that passed. The ten registers of the time are made from it when they
 * are read. Only while the guest holds the clock (SET in register B) are they memory of their
 * own, and become the time again when it lets go.
 *
 * Flags in register C are found by rtc_sync() as well, so one timer is enough, set to the next
 * flag that would raise the interrupt. A flag that is already set needs none: however late we
 * are, and whatever rate the guest asks for, there is one interrupt for each read of register C.
 *
 * The day of the week follows from the date; writing it does nothing.
 */
#include "devices/timer/cmos_rtc.h"

#include "machine/irq.h"
#include "machine/machine.h"

#include <assert.h>
#include <time.h>

enum {
    A_UPDATE = 0x80,
    A_DIVIDER = 0x70,
    A_DIVIDER_RESET = 0x60,
    A_DIVIDER_ON = 0x20,
    A_RATE = 15
};
enum {
    B_SET = 0x80,
    B_PERIODIC = 0x40,
    B_ALARM = 0x20,
    B_UPDATE = 0x10,
    B_SQUARE = 0x08,
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,
};
enum { C_IRQ = 0x80, C_PERIODIC = 0x40, C_ALARM = 0x20, C_UPDATE = 0x10 };
enum { D_VALID = 0x80, HOUR_PM = 0x80, ANY = 0xc0 };
enum { RATE_HZ = 32768, DAY = 86400 };
#define UPDATE_NSEC (244 * NSEC_PER_USEC) /* UIP is set that long before the update */

#define EARLIEST INT64_C(-62167219200) /* year 0 */
#define LATEST   INT64_C(253402300799) /* end of year 9999 */

struct rtc {
    struct device dev;
    uint8_t cell[CMOS_SIZE];
    uint8_t index;
    bool nmi_masked;
    int64_t seconds;    /* since 1970 */
    uint64_t phase;     /* guest nanoseconds when that second began; may wrap below zero */
    uint64_t rate_tick; /* of 32768 Hz, up to which periodic flags were looked for */
    bool irq_disabled;  /* the HPET's doing, who saves it */
    struct irq_line line;
    struct timer timer;
};
#define to_rtc(d) container_of(d, struct rtc, dev)

/* ---- the time in registers ----------------------------------------------------------------------
 */

static uint8_t encode(const struct rtc *r, int value)
{
    return (uint8_t)(r->cell[CMOS_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *r, uint8_t value)
{
    return r->cell[CMOS_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
    if (r->cell[CMOS_B] & B_24_HOURS)
        return encode(r, hour);
    return (uint8_t)(encode(r, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0));
}

static int decode_hour(const struct rtc *r, uint8_t value)
{
    if (r->cell[CMOS_B] & B_24_HOURS)
        return decode(r, value);
    return decode(r, value & (uint8_t)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

static void time_to_cells(struct rtc *r)
{
    time_t t = (time_t)r->seconds;
    struct tm tm;

    gmtime_r(&t, &tm);
    r->cell[CMOS_SECONDS] = encode(r, tm.tm_sec);
    r->cell[CMOS_MINUTES] = encode(r, tm.tm_min);
    r->cell[CMOS_HOURS] = encode_hour(r, tm.tm_hour);
    r->cell[CMOS_WEEKDAY] = encode(r, tm.tm_wday + 1);
    r->cell[CMOS_DAY] = encode(r, tm.tm_mday);
    r->cell[CMOS_MONTH] = encode(r, tm.tm_mon + 1);
    r->cell[CMOS_YEAR] = encode(r, (tm.tm_year + 1900) % 100);
    r->cell[CMOS_CENTURY] = encode(r, (tm.tm_year + 1900) / 100);
}

/* Whatever they hold is some time: timegm() carries the 31st of June over into July. */
static void cells_to_time(struct rtc *r)
{
    struct tm tm = {
        .tm_sec = decode(r, r->cell[CMOS_SECONDS]),
        .tm_min = decode(r, r->cell[CMOS_MINUTES]),
        .tm_hour = decode_hour(r, r->cell[CMOS_HOURS]),
        .tm_mday = decode(r, r->cell[CMOS_DAY]),
        .tm_mon = decode(r, r->cell[CMOS_MONTH]) - 1,
        .tm_year = decode(r, r->cell[CMOS_CENTURY]) * 100 + decode(r, r->cell[CMOS_YEAR]) - 1900,
    };
    int64_t t = timegm(&tm);

    r->seconds = MIN(MAX(t, EARLIEST), LATEST);
}

static bool is_time(unsigned index)
{
    return index == CMOS_CENTURY || (index <= CMOS_YEAR && index != CMOS_SECONDS_ALARM &&
                                     index != CMOS_MINUTES_ALARM && index != CMOS_HOURS_ALARM);
}

/* ---- what happens as time passes
 * ------------------------------------------------------------------ */

/* The oscillator's divider chain is held in reset. */
static bool stopped(const struct rtc *r)
{
    return (r->cell[CMOS_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

static bool updating(const struct rtc *r)
{
    return !stopped(r) && !(r->cell[CMOS_B] & B_SET);
}

/* Ticks of 32768 Hz between periodic interrupts; 0: none. */
static unsigned period(const struct rtc *r)
{
    unsigned rate = r->cell[CMOS_A] & A_RATE;

    return !rate || stopped(r) ? 0 : rate <= 2 ? 1u << (rate + 6) : 1u << (rate - 1);
}

static uint64_t rate_tick(uint64_t nsec)
{
    return muldiv64(nsec, RATE_HZ, NSEC_PER_SEC);
}

static bool alarm_is(const struct rtc *r, enum cmos_register which, uint8_t now)
{
    return (r->cell[which] & ANY) == ANY || r->cell[which] == now;
}

/* Seconds from `seconds` to the next alarm, 1 to DAY; 0: never. Skips what cannot match. */
static unsigned until_alarm(const struct rtc *r)
{
    unsigned start = (unsigned)((r->seconds % DAY + DAY) % DAY), t = start + 1;

    while (t <= start + DAY) {
        if (!alarm_is(r, CMOS_HOURS_ALARM, encode_hour(r, (int)(t / 3600 % 24))))
            t += 3600 - t % 3600;
        else if (!alarm_is(r, CMOS_MINUTES_ALARM, encode(r, (int)(t / 60 % 60))))
            t += 60 - t % 60;
        else if (!alarm_is(r, CMOS_SECONDS_ALARM, encode(r, (int)(t % 60))))
            t++;
        else
            return t - start;
    }
    return 0;
}

static void rtc_sync(struct rtc *r)
{
    uint64_t now = device_now(&r->dev), passed = (now - r->phase) / NSEC_PER_SEC;
    uint64_t tick = rate_tick(now);

    r->phase += passed * NSEC_PER_SEC;
    if (updating(r) && passed) {
        unsigned alarm = until_alarm(r);

        r->cell[CMOS_C] |= C_UPDATE;
        if (alarm && alarm <= passed)
            r->cell[CMOS_C] |= C_ALARM;
        r->seconds = MIN(r->seconds + (int64_t)passed, LATEST);
    }
    if (period(r) && tick / period(r) != r->rate_tick / period(r))
        r->cell[CMOS_C] |= C_PERIODIC;
    r->rate_tick = tick;
}

/* The interrupt line and the timer, after a sync. */
static void rtc_refresh(struct device *dev)
{
    struct rtc *r = to_rtc(dev);
    uint8_t b = r->cell[CMOS_B], c = r->cell[CMOS_C] & (C_PERIODIC | C_ALARM | C_UPDATE);
    uint8_t awaited = b & (uint8_t)~c;
    uint64_t deadline = CLOCK_NEVER;

    r->cell[CMOS_C] = (uint8_t)(c | (b & c ? C_IRQ : 0));
    irq_line_set(&r->line, (b & c) && !r->irq_disabled);
    if ((awaited & B_PERIODIC) && period(r)) {
        uint64_t next = (r->rate_tick / period(r) + 1) * period(r);

        deadline = muldiv64(next, NSEC_PER_SEC, RATE_HZ) + 1; /* rounded up */
    }
    if ((awaited & B_UPDATE) && updating(r))
        deadline = MIN(deadline, r->phase + NSEC_PER_SEC);
    if ((awaited & B_ALARM) && updating(r) && until_alarm(r))
        deadline = MIN(deadline, r->phase + until_alarm(r) * NSEC_PER_SEC);
    timer_set(&r->timer, deadline);
}

/* After a restore. */
static void rtc_restored(struct device *dev)
{
    struct rtc *r = to_rtc(dev);

    r->index %= CMOS_SIZE;
    r->seconds = MIN(MAX(r->seconds, EARLIEST), LATEST);
    rtc_refresh(dev);
}

static void rtc_expired(struct device *dev, struct timer *t)
{
    rtc_sync(to_rtc(dev));
    rtc_refresh(dev);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

static void write_a(struct rtc *r, uint8_t value)
{
    bool was_stopped = stopped(r);

    r->cell[CMOS_A] = value & (A_DIVIDER | A_RATE);
    if (was_stopped && !stopped(r)) /* the first update comes half a second later */
        r->phase = device_now(&r->dev) - NSEC_PER_SEC / 2;
}

static void write_b(struct rtc *r, uint8_t value)
{
    bool was_set = (r->cell[CMOS_B] & B_SET) != 0;

    if ((value & B_SET) && !was_set)
        time_to_cells(r);
    if (value & B_SET)
        value &= (uint8_t)~B_UPDATE;
    r->cell[CMOS_B] = value;
    if (!(value & B_SET) && was_set)
        cells_to_time(r);
}

static void write_time(struct rtc *r, unsigned index, uint8_t value)
{
    if (r->cell[CMOS_B] & B_SET) {
        r->cell[index] = value;
        return;
    }
    time_to_cells(r);
    r->cell[index] = value;
    cells_to_time(r);
}

static uint8_t read_cell(struct rtc *r, unsigned index)
{
    uint8_t value;

    rtc_sync(r);
    rtc_refresh(&r->dev); /* flags that are due belong to this read of register C */
    if (is_time(index) && !(r->cell[CMOS_B] & B_SET))
        time_to_cells(r);
    value = r->cell[index];
    if (index == CMOS_A && updating(r) &&
        device_now(&r->dev) - r->phase >= NSEC_PER_SEC - UPDATE_NSEC)
        value |= A_UPDATE;
    if (index == CMOS_C)
        r->cell[CMOS_C] = 0;
    else if (index == CMOS_D)
        value = D_VALID;
    return value;
}

static uint64_t rtc_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct rtc *r = to_rtc(dev);
    uint8_t value;

    if (offset == 0)
        return 0xff; /* the index cannot be read */
    value = read_cell(r, r->index);
    rtc_refresh(dev);
    return value;
}

static void rtc_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *r = to_rtc(dev);

    if (offset == 0) {
        r->index = value & 0x7f;
        r->nmi_masked = (value & 0x80) != 0;
        return;
    }
    rtc_sync(r);
    if (is_time(r->index))
        write_time(r, r->index, (uint8_t)value);
    else if (r->index == CMOS_A)
        write_a(r, (uint8_t)value);
    else if (r->index == CMOS_B)
        write_b(r, (uint8_t)value);
    else if (r->index != CMOS_C && r->index != CMOS_D)
        r->cell[r->index] = (uint8_t)value;
    rtc_refresh(dev);
}

static const struct io_ops rtc_io = {rtc_read, rtc_write, 1, 1};

/* ---- what the board asks
 * ------------------------------------------------------------------------- */

void cmos_set(struct device *rtc, unsigned index, uint8_t value)
{
    assert(index > CMOS_D && index < CMOS_SIZE && index != CMOS_CENTURY);
    pthread_mutex_lock(&rtc->lock);
    to_rtc(rtc)->cell[index] = value;
    pthread_mutex_unlock(&rtc->lock);
}

uint8_t cmos_get(struct device *rtc, unsigned index)
{
    uint8_t value;

    assert(index > CMOS_D && index < CMOS_SIZE && index != CMOS_CENTURY);
    pthread_mutex_lock(&rtc->lock);
    value = to_rtc(rtc)->cell[index];
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

bool cmos_nmi_masked(struct device *rtc)
{
    bool masked;

    pthread_mutex_lock(&rtc->lock);
    masked = to_rtc(rtc)->nmi_masked;
    pthread_mutex_unlock(&rtc->lock);
    return masked;
}

void cmos_rtc_irq_enable(struct device *rtc, bool enable)
{
    pthread_mutex_lock(&rtc->lock);
    to_rtc(rtc)->irq_disabled = !enable;
    rtc_sync(to_rtc(rtc));
    rtc_refresh(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

/* RESET of the chip: interrupts off; the time and the memory stay. */
static void rtc_reset(struct device *dev)
{
    struct rtc *r = to_rtc(dev);

    rtc_sync(r);
    r->cell[CMOS_B] &= (uint8_t) ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE);
    r->cell[CMOS_C] = 0;
    r->index = 0;
    r->nmi_masked = false;
    rtc_refresh(dev);
}

static int rtc_realize(struct device *dev, struct error *err)
{
    struct rtc *r = to_rtc(dev);
    struct timespec host = {.tv_sec = (time_t)dev->machine->config.rtc_base};
    int result;

    if (!dev->machine->config.rtc_base)
        clock_gettime(CLOCK_REALTIME, &host);
    r->seconds = MIN(MAX((int64_t)host.tv_sec, EARLIEST), LATEST);
    r->phase = device_now(dev) - (uint64_t)host.tv_nsec;
    r->rate_tick = rate_tick(device_now(dev));
    r->cell[CMOS_A] = A_DIVIDER_ON | 6; /* as firmware leaves it: 1024 Hz, BCD, 24 hours */
    r->cell[CMOS_B] = B_24_HOURS;
    time_to_cells(r);
    timer_init(&r->timer, dev, rtc_expired);
    result = device_claim_irq(dev, 8, &r->line, err);
    return result ? result : device_map_pio(dev, CMOS_RTC_BASE, 2, &rtc_io, err);
}

static void rtc_before_save(struct device *dev)
{
    rtc_sync(to_rtc(dev));
    rtc_refresh(dev);
}

static const struct state_field rtc_state[] = {
    STATE_ARRAY(struct rtc, cell),
    STATE_U8(struct rtc, index),
    STATE_BOOL(struct rtc, nmi_masked),
    STATE_U64(struct rtc, seconds),
    STATE_U64(struct rtc, phase),
    STATE_U64(struct rtc, rate_tick),
    STATE_END,
};

const struct device_type cmos_rtc_type = {
    .name = "cmos-rtc",
    .summary = "Real-time clock and CMOS memory",
    .instance_size = sizeof(struct rtc),
    .state = rtc_state,
    .realize = rtc_realize,
    .reset = rtc_reset,
    .before_save = rtc_before_save,
    .refresh = rtc_restored,
};

struct device *cmos_rtc_add(struct machine *m, struct error *err)
{
    return device_add(m, &cmos_rtc_type, NULL, err);
}
