/*
 * cmos_rtc.h - MC146818 clock with 128 bytes of battery-backed memory at ports 0x70 and 0x71.
 *
 * The clock starts at machine->config.rtc_base (seconds since 1970; 0: the host's clock, UTC) and
 * goes on with guest time.
 */
#ifndef DEVICES_TIMER_CMOS_RTC_H
#define DEVICES_TIMER_CMOS_RTC_H

#include "machine/device.h"

enum { CMOS_RTC_BASE = 0x70, CMOS_SIZE = 128 };

/* Registers. 14 and up are plain memory, but for the century. */
enum cmos_register {
    CMOS_SECONDS = 0,
    CMOS_SECONDS_ALARM = 1,
    CMOS_MINUTES = 2,
    CMOS_MINUTES_ALARM = 3,
    CMOS_HOURS = 4,
    CMOS_HOURS_ALARM = 5,
    CMOS_WEEKDAY = 6,
    CMOS_DAY = 7,
    CMOS_MONTH = 8,
    CMOS_YEAR = 9,
    CMOS_A = 10,
    CMOS_B = 11,
    CMOS_C = 12,
    CMOS_D = 13,
    CMOS_CENTURY = 0x32,
};

extern const struct device_type cmos_rtc_type;

/* Drives GSI 8. */
struct device *cmos_rtc_add(struct machine *m, struct error *err);

/* Memory as firmware left it (size of RAM, boot order ...); survives resets. index 14 to 127, the
 * century excepted. Take the lock. */
void cmos_set(struct device *rtc, unsigned index, uint8_t value);
uint8_t cmos_get(struct device *rtc, unsigned index);

/* Bit 7 of port 0x70: the guest wants no NMI (boards that raise one ask). */
bool cmos_nmi_masked(struct device *rtc);

/* The HPET's legacy replacement takes IRQ 8 away, and gives it back. Takes the lock. */
void cmos_rtc_irq_enable(struct device *rtc, bool enable);

#endif
