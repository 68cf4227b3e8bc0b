/*
 * i8259.h - the pair of interrupt controllers of a PC, with the edge/level registers at 0x4d0.
 */
#ifndef DEVICES_IRQ_I8259_H
#define DEVICES_IRQ_I8259_H

#include "machine/device.h"

enum {
    I8259_MASTER = 0x20,
    I8259_SLAVE = 0xa0,
    I8259_ELCR = 0x4d0,
};

extern const struct device_type i8259_type;

/* Inputs are GSI 0 to 15 of the machine (2 is the cascade). `output` is INT: called with the
 * chip's lock held, may take a local APIC's. Usually apic_bus_extint, followed by
 * apic_bus_set_pic(). */
struct device *i8259_add(struct machine *m, void (*output)(void *opaque, bool level), void *opaque,
                         struct error *err);

/* INTA: the vector to deliver; the spurious one (7 of either chip) when the request went away. */
int pic_acknowledge(struct device *pic);

#endif
