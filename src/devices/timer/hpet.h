/*
 * hpet.h - high precision event timer: a 64-bit counter of 10 ns ticks and three comparators.
 */
#ifndef DEVICES_TIMER_HPET_H
#define DEVICES_TIMER_HPET_H

#include "machine/device.h"

#define HPET_DEFAULT_BASE UINT64_C(0xfed00000)
enum { HPET_LEN = 0x400, HPET_TIMERS = 3, HPET_TICK_NSEC = 10 };

/* The first half of the capabilities register: what the ACPI table repeats. */
enum { HPET_BLOCK_ID = 0x8086a201 };

enum hpet_register {
    HPET_CAPABILITIES = 0x00,
    HPET_CONFIG = 0x10,
    HPET_STATUS = 0x20,
    HPET_COUNTER = 0xf0,
    HPET_TIMER = 0x100, /* 0x20 bytes each: */
    HPET_TIMER_LEN = 0x20,
    HPET_TIMER_CONFIG = 0x00,
    HPET_TIMER_COMPARATOR = 0x08,
    HPET_TIMER_FSB = 0x10,
};

extern const struct device_type hpet_type;

/* At HPET_DEFAULT_BASE. `pit` and `rtc` lose IRQ 0 and 8 while the guest uses legacy replacement;
 * either may be NULL. Create it after them. */
struct device *hpet_add(struct machine *m, struct device *pit, struct device *rtc,
                        struct error *err);

#endif
