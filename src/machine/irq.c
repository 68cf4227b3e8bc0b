/* irq.c - see irq.h. */
#include "machine/irq.h"

#include <assert.h>

void irq_pin_init(struct irq_pin *p, unsigned number)
{
    *p = (struct irq_pin){.number = number};
    pthread_mutex_init(&p->lock, NULL);
}

void irq_pin_connect(struct irq_pin *p, const struct irq_input *input)
{
    for (unsigned i = 0; i < IRQ_PIN_INPUTS; i++)
        if (!p->inputs[i].set) {
            p->inputs[i] = *input;
            return;
        }
    assert(!"too many inputs on one interrupt pin");
}

void irq_pin_disconnect(struct irq_pin *p, const struct device *chip)
{
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < IRQ_PIN_INPUTS; i++)
        if (p->inputs[i].chip == chip)
            p->inputs[i] = (struct irq_input){0};
    pthread_mutex_unlock(&p->lock);
}

void irq_line_connect(struct irq_line *line, struct irq_pin *pin)
{
    *line = (struct irq_line){.pin = pin};
}

void irq_line_set(struct irq_line *line, bool level)
{
    struct irq_pin *p = line->pin;
    bool before, after;

    if (!p || line->level == level)
        return;
    pthread_mutex_lock(&p->lock);
    line->level = level;
    before = p->raised != 0;
    p->raised += level ? 1u : -1u;
    after = p->raised != 0;
    if (before != after)
        for (unsigned i = 0; i < IRQ_PIN_INPUTS; i++)
            if (p->inputs[i].set)
                p->inputs[i].set(p->inputs[i].chip, p->inputs[i].pin, after);
    pthread_mutex_unlock(&p->lock);
}
