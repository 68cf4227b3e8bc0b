/*
 * i8042.h - the keyboard controller of a PC, with its keyboard and mouse; also the A20 gate and
 * the reset line.
 */
#ifndef DEVICES_INPUT_I8042_H
#define DEVICES_INPUT_I8042_H

#include "machine/device.h"

enum i8042_port { I8042_DATA = 0x60, I8042_STATUS = 0x64 };

enum i8042_status {
    STATUS_OBF = 1,
    STATUS_IBF = 2,
    STATUS_SYSTEM = 4,
    STATUS_COMMAND = 8,
    STATUS_UNLOCKED = 16,
    STATUS_MOUSE_OBF = 32,
};

enum i8042_mode { /* the command byte */
                  MODE_KEYBOARD_INT = 1,
                  MODE_MOUSE_INT = 2,
                  MODE_SYSTEM = 4,
                  MODE_KEYBOARD_OFF = 16,
                  MODE_MOUSE_OFF = 32,
                  MODE_TRANSLATE = 64,
};

extern const struct device_type i8042_type;

/* What people do; from any thread. See ps2.h for codes and directions. */
void i8042_key(struct device *dev, unsigned linux_code, bool down);
void i8042_mouse(struct device *dev, int dx, int dy, int dz, uint8_t buttons);

#endif
