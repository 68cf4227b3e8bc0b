/* misc.h - small devices of one or two registers: see each in misc/. */
#ifndef DEVICES_MISC_MISC_H
#define DEVICES_MISC_MISC_H

#include "machine/device.h"

extern const struct device_type debugcon_type;       /* "isa-debugcon": iobase (0xe9), chardev */
extern const struct device_type isa_debug_exit_type; /* iobase (0xf4), iosize (4) */
extern const struct device_type pvpanic_type;        /* ioport (0x505), events (3) */
extern const struct device_type port92_type;         /* system control port A: A20, fast reset */

#endif
