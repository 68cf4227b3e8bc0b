/*
 * firmware.c - what a firmware asks fw_cfg for: the same memory map, tables and kernel that the
 * loaders of boot.c use themselves.
 *
 * Kernel and initrd are read from their files when the firmware asks for them, never kept.
 */
#include "base/log.h"
#include "boot/boot.h"
#include "boot/loader.h"
#include "devices/misc/fw_cfg.h"

#include <errno.h>

/* A file that became shorter reads as zeros: the firmware has no way to hear of it. */
static void read_file(void *opaque, uint32_t offset, uint8_t *data, size_t size)
{
    struct boot_file *f = opaque;
    struct error err = {0};

    if (file_read(f, offset, data, size, "its content", &err) < 0) {
        memset(data, 0, size);
        log_guest("%s", err.text);
    }
}

static int add_memory_map(struct machine *m, const struct boot_config *c, struct device *fw_cfg,
                          struct error *err)
{
    struct boot_range map[BOOT_RANGES];
    uint8_t bytes[BOOT_RANGES * 20];
    unsigned used = 0;
    int n = boot_memory_map(m, c->reserved, c->reserved_count, map, err);

    if (n < 0)
        return n;
    /* What lies below 1 MiB is the firmware's own to tell: memory here starts at 0. So is the
     * place of what is not RAM, which it chose. */
    for (int i = 0; i < n; i++) {
        gpa base = map[i].base, end = map[i].base + map[i].size;

        if (end <= MiB || map[i].kind != BOOT_MEMORY_RAM)
            continue;
        if (base == MiB)
            base = 0;
        store_le(bytes + used, base, 8);
        store_le(bytes + used + 8, end - base, 8);
        store_le(bytes + used + 16, map[i].kind, 4);
        used += 20;
    }
    return fw_cfg_add_file(fw_cfg, "etc/e820", bytes, used, err);
}

static int add_smbios(const struct smbios_config *c, struct device *fw_cfg, struct error *err)
{
    uint8_t anchor[SMBIOS_ENTRY_30];
    auto_free uint8_t *tables = NULL;
    size_t size;
    int r = smbios_build(c, &tables, &size, err);

    if (r < 0)
        return r;
    smbios_entry_30(anchor, size, 0); /* the firmware fills in where it puts the tables */
    r = fw_cfg_add_file(fw_cfg, "etc/smbios/smbios-tables", tables, size, err);
    if (!r)
        r = fw_cfg_add_file(fw_cfg, "etc/smbios/smbios-anchor", anchor, sizeof(anchor), err);
    if (!r)
        fw_cfg_add_item(fw_cfg, FW_CFG_UUID, c->uuid, sizeof(c->uuid));
    return r;
}

static void read_kernel(void *opaque, uint32_t offset, uint8_t *data, size_t size)
{
    struct boot_file *f = opaque;
    struct error err = {0};

    if (file_read(f, f->setup_size + (uint64_t)offset, data, size, "its content", &err) < 0) {
        memset(data, 0, size);
        log_guest("%s", err.text);
    }
}

/* The real-mode part of a bzImage; 0 for anything else, or where the file is shorter than that. */
static uint32_t setup_size(const struct boot_file *f)
{
    uint8_t head[0x206];
    struct error err = {0};
    uint32_t size;

    if (file_read(f, 0, head, sizeof(head), "its header", &err) < 0 ||
        memcmp(head + 0x202, "HdrS", 4) != 0)
        return 0;
    size = ((head[0x1f1] ? head[0x1f1] : 4) + 1u) * 512;
    return size < f->size ? size : 0;
}

/* By the legacy keys: setup part and protected-mode part. */
static int add_kernel(const struct boot_config *c, struct device *fw_cfg, struct error *err)
{
    struct boot_file *kernel = &c->files->kernel, *initrd = &c->files->initrd;
    const char *cmdline = c->append ? c->append : "";

    if (kernel->size > UINT32_MAX || initrd->size > UINT32_MAX)
        return error_set(err, EFBIG, "kernel and initrd must be below 4 GiB to go through fw_cfg");
    kernel->setup_size = setup_size(kernel);
    fw_cfg_add_u32(fw_cfg, FW_CFG_SETUP_SIZE, kernel->setup_size);
    fw_cfg_add_reader(fw_cfg, FW_CFG_SETUP_DATA, kernel->setup_size, read_file, kernel);
    fw_cfg_add_u32(fw_cfg, FW_CFG_KERNEL_SIZE, (uint32_t)kernel->size - kernel->setup_size);
    fw_cfg_add_reader(fw_cfg, FW_CFG_KERNEL_DATA, (uint32_t)kernel->size - kernel->setup_size,
                      read_kernel, kernel);
    if (initrd->fd >= 0) {
        fw_cfg_add_u32(fw_cfg, FW_CFG_INITRD_SIZE, (uint32_t)initrd->size);
        fw_cfg_add_reader(fw_cfg, FW_CFG_INITRD_DATA, (uint32_t)initrd->size, read_file, initrd);
    }
    fw_cfg_add_u32(fw_cfg, FW_CFG_CMDLINE_ADDR, LOW_CMDLINE);
    fw_cfg_add_u32(fw_cfg, FW_CFG_CMDLINE_SIZE, (uint32_t)strlen(cmdline) + 1);
    fw_cfg_add_item(fw_cfg, FW_CFG_CMDLINE_DATA, cmdline, strlen(cmdline) + 1);
    return 0;
}

int boot_fill_fw_cfg(struct machine *m, const struct boot_config *c, struct device *fw_cfg,
                     struct error *err)
{
    /* S0 to S5: bit 7 says that there is the state, the others what to write for it. */
    static const uint8_t sleep_states[6] = {0x80, 0, 0, 1, 2, 0x80};
    static const uint8_t for_ever[4] = {0xff, 0xff, 0xff, 0xff};
    int r = add_memory_map(m, c, fw_cfg, err);

    if (r < 0)
        return r;
    fw_cfg_add_u64(fw_cfg, FW_CFG_RAM_SIZE, m->ram_below_4g + m->ram_above_4g);
    fw_cfg_add_u16(fw_cfg, FW_CFG_NB_CPUS, (uint16_t)m->cpu_count);
    fw_cfg_add_u16(fw_cfg, FW_CFG_MAX_CPUS, (uint16_t)m->cpu_count);
    fw_cfg_add_u16(fw_cfg, FW_CFG_NOGRAPHIC, !c->display);
    fw_cfg_add_u16(fw_cfg, FW_CFG_BOOT_MENU, c->boot_menu);
    fw_cfg_add_u32(fw_cfg, FW_CFG_IRQ0_OVERRIDE, 1); /* the timer is on the I/O APIC's pin 2 */
    r = fw_cfg_add_file(fw_cfg, "etc/system-states", sleep_states, sizeof(sleep_states), err);
    if (!r)
        r = fw_cfg_add_file(fw_cfg, "etc/boot-fail-wait", for_ever, sizeof(for_ever), err);
    if (!r && c->smbios)
        r = add_smbios(c->smbios, fw_cfg, err);
    if (!r && c->files)
        r = add_kernel(c, fw_cfg, err);
    return r;
}
