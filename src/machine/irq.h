/*
 * irq.h - interrupt pins: where device lines meet interrupt controllers.
 *
 * The machine has one pin for each GSI (0-15 are the ISA interrupts). A pin is high while any
 * line on it is; changes go to each connected input: typically one of the i8259 and one of the
 * IOAPIC. Inputs are called with the pin's lock held, in the order the changes happened, and take
 * the lock of their own chip.
 */
#ifndef MACHINE_IRQ_H
#define MACHINE_IRQ_H

#include "machine/device.h"

enum { MACHINE_GSI_COUNT = 24, IRQ_PIN_INPUTS = 3 };

struct irq_input {
    void (*set)(struct device *chip, unsigned pin, bool level); /* takes chip->lock itself */
    struct device *chip;
    unsigned pin;
};

struct irq_pin {
    pthread_mutex_t lock;
    unsigned number;
    unsigned raised; /* lines that are high */
    struct irq_input inputs[IRQ_PIN_INPUTS];
};

void irq_pin_init(struct irq_pin *p, unsigned number);
void irq_pin_connect(struct irq_pin *p, const struct irq_input *input);
void irq_pin_disconnect(struct irq_pin *p, const struct device *chip); /* all its inputs */
/* Connect a line straight to a pin (boards; device_claim_irq() does it by number). */
void irq_line_connect(struct irq_line *line, struct irq_pin *pin);

#endif
