/*
 * eeprom93.h - a 93C46: 64 words behind three wires (Microwire), which many cards keep their
 * address in. With CS high a start bit, two bits of opcode and six of address are clocked in; then
 * a word comes out, its first bit with the tenth rising edge. Only reading is there.
 */
#ifndef DEVICES_NET_EEPROM93_H
#define DEVICES_NET_EEPROM93_H

#include "base/state.h"

enum { EEPROM93_WORDS = 64 };

struct eeprom93 {
    uint16_t word[EEPROM93_WORDS];
    uint8_t bits; /* clocked in since the start bit */
    uint16_t in, out;
    bool clock, data; /* the wires SK, and DO: what is read */
};

void eeprom93_reset(struct eeprom93 *e); /* the port; the words stay */
void eeprom93_drive(struct eeprom93 *e, bool select, bool clock, bool data);

extern const struct state_field eeprom93_state[];

#endif
