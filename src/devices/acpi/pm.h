/*
 * pm.h - the ACPI fixed hardware of a south bridge: PM1 event and control registers, the PM timer,
 * general-purpose events, the power button.
 *
 * A part of the device that has the registers (PIIX4, ICH9, or the plain block of a machine
 * without PCI): its lock guards it, its reset and refresh call ours. ACPI 6.4, chapter 4.8.
 */
#ifndef DEVICES_ACPI_PM_H
#define DEVICES_ACPI_PM_H

#include "machine/device.h"

enum pm_register { PM1_STATUS = 0, PM1_ENABLE = 2, PM1_CONTROL = 4, PM_TIMER = 8 };

enum pm1_event {
    PM1_TIMER = 1 << 0,
    PM1_BUS_MASTER = 1 << 4,
    PM1_GLOBAL = 1 << 5,
    PM1_POWER_BUTTON = 1 << 8,
    PM1_SLEEP_BUTTON = 1 << 9,
    PM1_RTC = 1 << 10,
    PM1_WAKE = 1 << 15,
};

enum pm1_control {
    PM1_SCI_ENABLE = 1 << 0,
    PM1_BUS_MASTER_RELOAD = 1 << 1,
    PM1_GLOBAL_RELEASE = 1 << 2,
    PM1_SLEEP_TYPE_SHIFT = 10,
    PM1_SLEEP_TYPE = 7 << PM1_SLEEP_TYPE_SHIFT,
    PM1_SLEEP_ENABLE = 1 << 13,
};

enum { PM_TIMER_HZ = 3579545, PM_TIMER_BITS = 24, PM_SCI_GSI = 9 };

/* The ports by which software calls its firmware: a write to the first may raise an SMI, the second
 * is plain memory. Values that firmware takes to mean ACPI mode; here the chip sees to them. */
enum { APM_COMMAND = 0xb2, APM_STATUS = 0xb3, PM_ACPI_ENABLE = 0xf1, PM_ACPI_DISABLE = 0xf0 };

struct acpi_pm {
    struct device *dev;
    uint8_t poweroff_types; /* bit n: sleep type n switches off */
    struct irq_line sci;
    struct timer overflow;

    uint16_t status, enable, control; /* saved */
    uint32_t gpe_status, gpe_enable;  /* saved */
    uint8_t apm[2];                   /* saved */
    uint64_t timer_start;             /* saved: guest time when the counter was zero */
    uint64_t next_toggle;             /* saved: guest time when bit 23 changes next */
};

extern const struct state_field acpi_pm_state[];

int acpi_pm_init(struct acpi_pm *pm, struct device *dev, uint8_t poweroff_types, struct error *err);
void acpi_pm_reset(struct acpi_pm *pm);
void acpi_pm_refresh(struct acpi_pm *pm);

/* Registers at PM1_STATUS ... PM_TIMER + 3; sizes 1, 2, 4. Others read as zero. */
uint32_t acpi_pm_read(struct acpi_pm *pm, unsigned offset, unsigned size);
void acpi_pm_write(struct acpi_pm *pm, unsigned offset, uint32_t value, unsigned size);
/* GPE0: `width` bytes of status (2, 4, 8), then as many of enable; `offset` counts in them. */
uint32_t acpi_pm_gpe_read(struct acpi_pm *pm, unsigned width, unsigned offset, unsigned size);
void acpi_pm_gpe_write(struct acpi_pm *pm, unsigned width, unsigned offset, uint32_t value,
                       unsigned size);

/* A byte written to APM_COMMAND + offset; true: a command, which may be worth an SMI. */
bool acpi_pm_apm_write(struct acpi_pm *pm, unsigned offset, uint8_t value);

/* ACPI mode on and off, as the SMI handler of a firmware would do it. */
void acpi_pm_set_sci(struct acpi_pm *pm, bool on);
void acpi_pm_event(struct acpi_pm *pm, uint16_t event); /* enum pm1_event */
void acpi_pm_gpe(struct acpi_pm *pm, unsigned number);  /* 0-31; 0-15 where width is 2 */
/* A system-management interrupt, to the processor firmware set up for it: the first. */
void acpi_pm_smi(struct machine *m);

/*
 * The block by itself, for boards without a south bridge: PM1 and timer at 0x600, GPE0 behind
 * them, a reset register at 0xcf9. ACPI mode is always on.
 */
enum {
    ACPI_PM_PORTS = 0x600,
    ACPI_PM_GPE = 0x0c,
    ACPI_PM_GPE_WIDTH = 4,
    ACPI_PM_PORTS_LEN = 0x14,
    ACPI_PM_RESET = 0xcf9,
};
extern const struct device_type acpi_pm_type;
struct device *acpi_pm_add(struct machine *m, struct error *err);
void acpi_pm_power_button(struct device *dev); /* of an acpi_pm_type; takes the lock */

#endif
