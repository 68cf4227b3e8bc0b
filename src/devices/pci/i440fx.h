/*
 * i440fx.h - host bridge of the 82440FX chip set: 00:00.0 of the `pc` board.
 */
#ifndef DEVICES_PCI_I440FX_H
#define DEVICES_PCI_I440FX_H

#include "devices/pci/pci.h"

enum { I440FX_PAM = 0x59, I440FX_SMRAM = 0x72 };

extern const struct device_type i440fx_type;

/* `pam` as pam_add() made it. */
struct device *i440fx_add(struct machine *m, struct device *pam, struct error *err);

#endif
