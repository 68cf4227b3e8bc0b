/*
 * ps2.h - a PS/2 keyboard and a PS/2 mouse, as the keyboard controller talks to them.
 *
 * Plain state machines that live inside a device (the i8042) and are guarded by its lock: bytes
 * written to them, bytes to be read from their queues, and what people do.
 */
#ifndef DEVICES_INPUT_PS2_H
#define DEVICES_INPUT_PS2_H

#include "base/state.h"
#include "base/util.h"

enum { PS2_QUEUE = 64 }; /* of which the last 8 are kept for answers to commands */

struct ps2_queue {
    uint8_t bytes[PS2_QUEUE], head, count;
};

bool ps2_empty(const struct ps2_queue *q);
uint8_t ps2_read(struct ps2_queue *q); /* the last byte again when empty, as the hardware does */

struct ps2_keyboard {
    struct ps2_queue queue;
    uint8_t command;  /* one that waits for its argument; 0: none */
    uint8_t scan_set; /* 1, 2, 3 */
    uint8_t leds;
    bool enabled;
};

void ps2_keyboard_reset(struct ps2_keyboard *k);
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte);
/* A key by its Linux code (KEY_A is 30), pressed or released; unknown ones are ignored. */
void ps2_keyboard_key(struct ps2_keyboard *k, unsigned linux_code, bool down);

struct ps2_mouse {
    struct ps2_queue queue;
    uint8_t command;
    uint8_t id;         /* 0: plain, 3: wheel, 4: five buttons */
    uint8_t resolution; /* 0..3: 1, 2, 4, 8 counts per mm */
    uint8_t rate;       /* reports per second */
    uint8_t knock[3];   /* the last rates set: the IntelliMouse knock */
    bool enabled, remote, wrap, scaling;
    uint8_t buttons;    /* bit 0 left, 1 right, 2 middle, 3 and 4 the side ones */
    int32_t dx, dy, dz; /* moved and not reported yet */
    bool changed;
};

void ps2_mouse_reset(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte);
/* Relative movement: right and up are positive, as is the wheel away from the user. */
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, uint8_t buttons);
/* After bytes were read: queue the next report, if there is one and room for it. */
void ps2_mouse_report(struct ps2_mouse *m);

/* Keep a restored state in range. */
void ps2_keyboard_check(struct ps2_keyboard *k);
void ps2_mouse_check(struct ps2_mouse *m);

extern const struct state_field ps2_keyboard_state[], ps2_mouse_state[];

#endif
