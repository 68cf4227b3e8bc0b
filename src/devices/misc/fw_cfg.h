/*
 * fw_cfg.h - the firmware configuration device, as QEMU's: how a firmware, or a guest's driver,
 * asks for memory map, tables and the kernel.
 *
 * Ports 0x510 (selector, 16 bits), 0x511 (data), 0x514 (DMA, big-endian). Items are numbered;
 * files are items from 0x20 on with a name in the directory (item 0x19).
 *
 * The board adds items after creating the device and before the machine starts. Data is copied.
 */
#ifndef DEVICES_MISC_FW_CFG_H
#define DEVICES_MISC_FW_CFG_H

#include "machine/device.h"

enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MACHINE_ID = 0x06,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_KERNEL_CMDLINE = 0x09,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_FILES = 0x60, /* how many files there can be */
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
};

extern const struct device_type fw_cfg_type;

/* A numbered item; a later one with the same key replaces it. */
void fw_cfg_add_item(struct device *dev, uint16_t key, const void *data, size_t size);
/* An item whose bytes are fetched when the guest reads them, for what is large. read() fills
 * `size` bytes from `offset`, both within the item; called with the device's lock held. */
void fw_cfg_add_reader(struct device *dev, uint16_t key, uint32_t size,
                       void (*read)(void *opaque, uint32_t offset, uint8_t *data, size_t size),
                       void *opaque);
void fw_cfg_add_u16(struct device *dev, uint16_t key, uint16_t value);
void fw_cfg_add_u32(struct device *dev, uint16_t key, uint32_t value);
void fw_cfg_add_u64(struct device *dev, uint16_t key, uint64_t value);

/* A file; the directory is kept sorted by name, so numbers do not depend on who added first. */
int fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t size,
                    struct error *err);
/* A file that is written by the guest through DMA (size fixed; starts as `data`) and tells when:
 * `written(opaque, data, size)` is called with the device's lock held, after each write. */
int fw_cfg_add_writable(struct device *dev, const char *name, const void *data, size_t size,
                        void (*written)(void *opaque, const uint8_t *data, size_t size),
                        void *opaque, struct error *err);
/* Replace the bytes of a file (a table that changed): also while the machine runs. */
int fw_cfg_set_file(struct device *dev, const char *name, const void *data, size_t size,
                    struct error *err);

#endif
