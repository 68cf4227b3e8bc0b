/*
 * i8254.h - programmable interval timer with port 0x61 (speaker gate, refresh toggle).
 */
#ifndef DEVICES_TIMER_I8254_H
#define DEVICES_TIMER_I8254_H

#include "machine/device.h"

enum { I8254_BASE = 0x40, I8254_CONTROL = 0x43, I8254_PORT_B = 0x61, I8254_HZ = 1193182 };

extern const struct device_type i8254_type;

/* Channel 0 drives GSI 0. */
struct device *i8254_add(struct machine *m, struct error *err);

/* The HPET's legacy replacement takes IRQ 0 away, and gives it back. Takes the lock. */
void i8254_irq_enable(struct device *pit, bool enable);

#endif
