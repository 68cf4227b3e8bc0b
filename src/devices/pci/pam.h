/*
 * pam.h - what a PC memory controller does below 1 MiB and for system-management RAM: the
 * programmable attribute map of 0xc0000-0xfffff, and the windows only a processor in SMM sees.
 *
 * A device the board hands to the host bridge (i440FX, Q35), which owns the registers and tells
 * it what they say; it has no state of its own to save.
 */
#ifndef DEVICES_PCI_PAM_H
#define DEVICES_PCI_PAM_H

#include "machine/device.h"

struct ram_block;

enum { PAM_SEGMENTS = 13, PAM_REGISTERS = 7 };

/* Bits of one segment's attributes. */
enum { PAM_READ = 1, PAM_WRITE = 2 };

/* Bits of the SMRAM register, the same in both chips. */
enum smram_bit {
    SMRAM_BASE = 2, /* fixed: 0xa0000 */
    SMRAM_ENABLE = 1 << 3,
    SMRAM_LOCK = 1 << 4,
    SMRAM_CLOSED = 1 << 5,
    SMRAM_OPEN = 1 << 6,
};

extern const struct device_type pam_type;

/* `rom` lies behind RAM, its end at 1 MiB, and outlives the device; NULL: nothing does. */
struct device *pam_add(struct machine *m, struct ram_block *rom, struct error *err);

/* All take the lock. The seven PAM registers as bytes: attributes in bits 0-1 and 4-5 of each. */
void pam_update(struct device *pam, const uint8_t registers[PAM_REGISTERS]);
void pam_smram_update(struct device *pam, uint8_t smram);
/* Top-of-memory SMRAM, `size` 1, 2 or 8 MiB that end at `top`; 0: none. */
void pam_tseg_update(struct device *pam, gpa top, uint64_t size);

/* The SMRAM register after a write: locked means that only a reset changes it. */
uint8_t pam_smram_written(uint8_t before, uint8_t value);

#endif
