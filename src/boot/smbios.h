/*
 * smbios.h - the System Management BIOS tables (DMTF DSP0134): what the machine says it is.
 *
 * The structures and both entry points, 2.8 (32-bit) and 3.0 (64-bit), are made as bytes that the
 * loader or the firmware (fw_cfg files etc/smbios/smbios-tables, -anchor) puts into memory.
 */
#ifndef BOOT_SMBIOS_H
#define BOOT_SMBIOS_H

#include "base/error.h"
#include "base/util.h"

struct smbios_config {
    const char *manufacturer, *product, *version, *serial; /* NULL: ours */
    uint8_t uuid[16];                                      /* all zero: not set */
    unsigned cpus, cores, threads;                         /* all; per socket; per core. 0: 1 */
    uint32_t cpu_signature;                                /* CPUID leaf 1 EAX */
    uint32_t cpu_features;                                 /* CPUID leaf 1 EDX */
    const char *cpu_vendor, *cpu_model;
    uint64_t ram_below_4g, ram_above_4g; /* bytes */
};

enum { SMBIOS_ENTRY_28 = 31, SMBIOS_ENTRY_30 = 24 }; /* sizes of the entry points */

/* The structures, without entry points: *out is allocated. */
int smbios_build(const struct smbios_config *c, uint8_t **out, size_t *size, struct error *err);
/* Entry points for tables of `size` bytes (as smbios_build() made them) at `address`. */
void smbios_entry_28(uint8_t out[SMBIOS_ENTRY_28], const uint8_t *tables, size_t size,
                     uint32_t address);
void smbios_entry_30(uint8_t out[SMBIOS_ENTRY_30], size_t size, uint64_t address);

#endif
