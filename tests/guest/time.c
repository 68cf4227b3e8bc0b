/*
 * time.c - the clocks of a PC agree: TSC, ACPI timer, 8254, HPET, real-time clock, and the
 * interrupts of the last three.
 *
 * A loaded host stops us at any time, between any two readings: stretches are long, all clocks are
 * read at both ends, and they agree when they are within a factor of two.
 */
#include "apic.h"

enum { MS = 1000, STRETCH = 100 * MS };
enum { RTC_VECTOR = 0x50, HPET_VECTOR = 0x60, PIT_VECTOR = 0x70 };

#define HPET(offset) (*(volatile u64 *)(word)(0xfed00000 + (offset)))

static u8 cmos(u8 index)
{
    outb(0x70, index);
    return inb(0x71);
}
static void cmos_write(u8 index, u8 value)
{
    outb(0x70, index);
    outb(0x71, value);
}

static void end(word *frame)
{
    apic_eoi();
}

static void agree(const char *name, u64 got, u64 want)
{
    bool near = got >= want / 2 && got <= want * 2;

    if (!near) {
        print("  ");
        print_hex(got);
        print(" against ");
        print_hex(want);
        print("\n");
    }
    expect(name, near, true);
}

static u32 hpet_us(u64 ticks)
{
    return (u32)(ticks * (HPET(0) >> 32) / 1000000000);
}

/* The 8254's channel 2 counts down from 65535 at 1.19 MHz, 55 ms: shorter than the stretch, so it
 * is read often and its steps are added. */
static u32 pit_last, pit_ticks;

static void pit2_start(void)
{
    outb(0x61, (inb(0x61) & ~2) | 1);
    outb(0x43, 0xb4);
    outb(0x42, 0xff);
    outb(0x42, 0xff);
    pit_last = 0;
    pit_ticks = 0;
}

static u32 pit2_read(void)
{
    u32 n;

    outb(0x43, 0x80);
    n = inb(0x42);
    return n | (u32)inb(0x42) << 8;
}

static void pit2_follow(void)
{
    u32 n = pit2_read();

    if (pit_last)
        pit_ticks += (pit_last + 65535 - n) % 65535;
    pit_last = n;
}

static void counters(void)
{
    u32 start, us = 0, gaps = 0;
    u64 tsc, hpet, tsc2, later;

    HPET(0x10) = 0;
    hpet = HPET(0xf0);
    delay_us(5 * MS);
    expect("HPET stands still when stopped", HPET(0xf0), hpet);
    HPET(0x10) = 1;
    expect("its period is at most 100 ns", HPET(0) >> 32 <= 100000000 && HPET(0) >> 32, true);
    pit2_start();
    start = pm_now();
    tsc = rdtsc();
    hpet = HPET(0xf0);
    while (us < STRETCH) {
        u32 before = us;

        pit2_follow();
        us = us_since(start);
        gaps |= us - before > 25 * MS; /* the 8254 may have gone round unseen */
    }
    tsc2 = rdtsc();
    hpet = HPET(0xf0) - hpet;
    agree("HPET and ACPI timer", hpet_us(hpet), us);
    if (!gaps)
        agree("8254 and ACPI timer", (u64)pit_ticks * 1000000 / 1193182, us);
    start = pm_now();
    later = rdtsc();
    delay_us(STRETCH);
    agree("the TSC is steady", (rdtsc() - later) / us_since(start), (tsc2 - tsc) / us);
    for (u32 i = 0; i < 1000; i++) {
        u64 a = rdtsc(), h = HPET(0xf0);

        if (rdtsc() <= a || HPET(0xf0) < h) {
            expect("no clock goes back", 1, 0);
            break;
        }
    }
}

/* The rate of an interrupt: how long `n` of them take, never much less than it should. */
static void rate(const char *name, u8 vector, u32 n, u32 expected_us)
{
    u32 start;

    (void)wait_for(&seen[vector], seen[vector] + 1);
    start = pm_now();
    expect(name, wait_for(&seen[vector], seen[vector] + n), true);
    expect("  and not too often", us_since(start) >= expected_us / 2, true);
}

static void pit_rate(void)
{
    io_route(2, PIT_VECTOR, apic_id());
    pit_start(2, PIT_10MS);
    rate("8254: 10 at 100 Hz", PIT_VECTOR, 10, 100 * MS);
    pit_start(3, 2 * PIT_10MS);
    rate("8254, square wave: 5 at 50 Hz", PIT_VECTOR, 5, 100 * MS);
    io_route(2, MASKED, 0);
    pit_start(0, 0xffff);
}

static void rtc_handler(word *frame)
{
    (void)cmos(0x0c);
    apic_eoi();
}

static u32 rtc_seconds(void)
{
    u8 s;

    do
        while (cmos(0x0a) & 0x80)
            relax();
    while ((s = cmos(0)) != cmos(0));
    return cmos(0x0b) & 4 ? s : (s >> 4) * 10u + (s & 15);
}

static void rtc(void)
{
    u32 from, start, us;

    handlers[RTC_VECTOR] = rtc_handler;
    (void)cmos(0x0c);
    io_route(8, RTC_VECTOR, apic_id());
    cmos_write(0x0a, 0x26 + 3); /* 128 Hz */
    cmos_write(0x0b, (cmos(0x0b) & 0x0f) | 0x40);
    rate("RTC: 13 at 128 Hz", RTC_VECTOR, 13, 100 * MS);
    cmos_write(0x0b, cmos(0x0b) & 0x0f);
    (void)cmos(0x0c);
    from = rtc_seconds();
    while (rtc_seconds() == from)
        relax();
    start = pm_now();
    from = rtc_seconds();
    while (rtc_seconds() == from)
        relax();
    us = us_since(start);
    agree("a second of the RTC", (rtc_seconds() + 60 - from) % 60 * 1000 * MS, us);
    io_route(8, MASKED, 0);
}

static void hpet_interrupts(void)
{
    u64 period = 10 * MS * 1000000000ull / (HPET(0) >> 32);
    u32 routes = (u32)(HPET(0x100) >> 32), pin = 0, start;

    expect("HPET timer 0 can be periodic", HPET(0x100) >> 4 & 1, 1);
    while (pin < 24 && !(pin >= 16 && routes >> pin & 1))
        pin++;
    expect("and has a pin of its own", pin < 24, true);
    io_route(pin, HPET_VECTOR, apic_id());
    HPET(0x10) = 0;
    HPET(0xf0) = 0;
    HPET(0x100) = (u64)pin << 9 | 1 << 6 | 1 << 3 | 1 << 2;
    HPET(0x108) = period;
    HPET(0x108) = period;
    HPET(0x10) = 1;
    rate("HPET: 10 at 100 Hz", HPET_VECTOR, 10, 100 * MS);
    HPET(0x100) = (u64)pin << 9;
    window();
    forget();
    start = pm_now();
    HPET(0x108) = HPET(0xf0) + 5 * period;
    HPET(0x100) = (u64)pin << 9 | 1 << 2;
    expect("HPET once, 50 ms", wait_for(&seen[HPET_VECTOR], 1), true);
    expect("  and not too early", us_since(start) >= 25 * MS, true);
    listen_us(20 * MS);
    expect("  and once only", seen[HPET_VECTOR], 1);
    HPET(0x100) = (u64)pin << 9;
    io_route(pin, MASKED, 0);
    /* Legacy replacement: timer 0 in the place of the 8254. */
    io_route(2, PIT_VECTOR, apic_id());
    pit_start(2, PIT_1MS);
    HPET(0x10) = 3;
    window();
    forget();
    listen_us(30 * MS);
    expect("the 8254 is cut off", seen[PIT_VECTOR], 0);
    HPET(0x108) = HPET(0xf0) + period;
    HPET(0x100) = 1 << 2;
    expect("timer 0 comes at its pin", wait_for(&seen[PIT_VECTOR], 1), true);
    HPET(0x100) = 0;
    HPET(0x10) = 1;
    expect("the 8254 is back", wait_for(&seen[PIT_VECTOR], 4), true);
    io_route(2, MASKED, 0);
    pit_start(0, 0xffff);
}

void test(void)
{
    apic_start();
    handlers[PIT_VECTOR] = handlers[HPET_VECTOR] = end;
    counters();
    pit_rate();
    rtc();
    hpet_interrupts();
}
