/* eeprom93.c - see eeprom93.h. */
#include "devices/net/eeprom93.h"

enum { COMMAND = 9, READ = 6 };

void eeprom93_reset(struct eeprom93 *e)
{
    e->bits = 0;
    e->in = e->out = 0;
    e->clock = false;
    e->data = true;
}

void eeprom93_drive(struct eeprom93 *e, bool select, bool clock, bool data)
{
    bool rises = clock && !e->clock;

    e->clock = clock;
    if (!select) {
        e->bits = 0;
        e->in = 0;
        e->data = true;
    } else if (rises && e->bits < COMMAND) {
        if (!e->bits && !data)
            return; /* before the start bit */
        e->in = (uint16_t)(e->in << 1 | data);
        e->data = false;
        if (++e->bits == COMMAND)
            e->out = e->in >> 6 == READ ? e->word[e->in % EEPROM93_WORDS] : 0xffff;
    } else if (rises) {
        e->data = e->out >> 15;
        e->out = (uint16_t)(e->out << 1);
    }
}

const struct state_field eeprom93_state[] = {
    STATE_ARRAY(struct eeprom93, word),
    STATE_U8(struct eeprom93, bits),
    STATE_U16(struct eeprom93, in),
    STATE_U16(struct eeprom93, out),
    STATE_BOOL(struct eeprom93, clock),
    STATE_BOOL(struct eeprom93, data),
    STATE_END,
};
