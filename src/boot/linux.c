/*
 * linux.c - Linux by its boot protocol (Documentation/arch/x86/boot.rst): bzImage, and uncompressed
 * kernels that were put into memory by elf.c.
 *
 * A 64-bit kernel that has a 64-bit entry (xloadflags bit 0) is entered there when the CPU has long
 * mode; everything else at its 32-bit entry. Nothing goes above 4 GiB, where the identity page
 * tables end.
 */
#include "base/log.h"
#include "boot/loader.h"

#include <errno.h>

/* Offsets in boot_params; those from SETUP_SECTS on are the setup header's, as in the file. */
enum {
    RSDP_ADDRESS = 0x70,
    E820_ENTRIES = 0x1e8,
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
    BOOT_FLAG = 0x1fe,
    JUMP = 0x200,
    HEADER = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    KERNEL_ALIGNMENT = 0x230,
    RELOCATABLE = 0x234,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END_MAX = 0x290,
    E820_TABLE = 0x2d0,
    BOOT_PARAMS_SIZE = 4096,
};

enum { LOADED_HIGH = 1, XLF_KERNEL_64 = 1, LOADER_UNDEFINED = 0xff };

struct setup {
    uint8_t params[BOOT_PARAMS_SIZE];
    uint16_t version;
    uint64_t payload, payload_size; /* in the file */
    bool relocatable, is_64;
    uint64_t load, run, init_size, initrd_max, cmdline_max;
};

static uint64_t field(const struct setup *s, unsigned offset, unsigned size)
{
    return load_le(s->params + offset, size);
}

bool linux_probe(const struct loader *l)
{
    return load_le(l->head + BOOT_FLAG, 2) == 0xaa55 && !memcmp(l->head + HEADER, "HdrS", 4);
}

static int read_payload(struct loader *l, struct setup *s, struct error *err)
{
    uint64_t sectors = field(s, SETUP_SECTS, 1), size = field(s, SYSSIZE, 4) * 16, rest;

    s->payload = ((sectors ? sectors : 4) + 1) * 512;
    if (s->payload >= l->kernel->size)
        return file_error(
            l->kernel, err,
            "setup header says the kernel starts at %#llx, but the file ends at %#llx",
            (unsigned long long)s->payload, (unsigned long long)l->kernel->size);
    rest = l->kernel->size - s->payload;
    /* Before 2.04 the field had 16 bits. The last paragraph may be cut short. */
    if (s->version < 0x204 || !size)
        size = rest;
    if (size > rest + 15)
        return file_error(l->kernel, err,
                          "setup header says the kernel has %llu bytes from %#llx on, but the file "
                          "ends at %#llx: it is truncated",
                          (unsigned long long)size, (unsigned long long)s->payload,
                          (unsigned long long)l->kernel->size);
    s->payload_size = MIN(size, rest);
    return 0;
}

static int read_setup(struct loader *l, struct setup *s, struct error *err)
{
    unsigned end = HEADER + l->head[JUMP + 1];
    uint64_t alignment;
    int r;

    if (end > HEADER_END_MAX)
        end = HEADER_END_MAX;
    memcpy(s->params + SETUP_SECTS, l->head + SETUP_SECTS, end - SETUP_SECTS);
    s->version = (uint16_t)field(s, VERSION, 2);
    if (s->version < 0x202)
        return file_error(l->kernel, err,
                          "has boot protocol %u.%02u; 2.02 (Linux 2.4) is the oldest supported",
                          s->version >> 8, s->version & 0xffu);
    if (!(field(s, LOADFLAGS, 1) & LOADED_HIGH))
        return file_error(l->kernel, err, "is a zImage; only bzImage is supported");
    r = read_payload(l, s, err);
    if (r < 0)
        return r;
    s->relocatable = s->version >= 0x205 && field(s, RELOCATABLE, 1);
    s->is_64 = s->version >= 0x20c && field(s, XLOADFLAGS, 2) & XLF_KERNEL_64;
    s->initrd_max = s->version >= 0x203 ? field(s, INITRD_ADDR_MAX, 4) : 0x37ffffff;
    s->cmdline_max = s->version >= 0x206 ? field(s, CMDLINE_SIZE, 4) : 255;
    s->load = s->run = field(s, CODE32_START, 4);
    s->init_size = 4 * s->payload_size; /* old kernels do not say; they unpack to about this */
    if (s->version >= 0x20a) {
        s->run = field(s, PREF_ADDRESS, 8);
        s->init_size = MAX(field(s, INIT_SIZE, 4), s->payload_size);
        if (s->relocatable)
            s->load = s->run;
    }
    if (s->load < MiB || s->run < MiB || s->run >= UINT64_C(1) << 32)
        return file_error(
            l->kernel, err,
            "setup header asks for address %#llx (runs at %#llx); it must be from 1 MiB to 4 GiB",
            (unsigned long long)s->load, (unsigned long long)s->run);
    alignment = s->version >= 0x205 ? field(s, KERNEL_ALIGNMENT, 4) : 0;
    if (s->relocatable && (!is_power_of_2(alignment) || s->load % alignment))
        return file_error(l->kernel, err,
                          "setup header says address %#llx and alignment %#llx, which contradict",
                          (unsigned long long)s->load, (unsigned long long)alignment);
    return 0;
}

/* Fill in what the loader says, write boot_params and set the CPU. */
static int start(struct loader *l, struct setup *s, uint64_t entry, bool enter_64,
                 struct error *err)
{
    uint8_t *p = s->params;
    uint64_t size;
    gpa initrd;
    int r = loader_initrd(l, s->initrd_max + 1, &initrd, &size, err);

    if (!r)
        r = loader_cmdline(l, s->cmdline_max, err);
    if (r < 0)
        return r;
    p[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    store_le(p + RAMDISK_IMAGE, initrd, 4);
    store_le(p + RAMDISK_SIZE, size, 4);
    store_le(p + CMD_LINE_PTR, LOW_CMDLINE, 4);
    store_le(p + RSDP_ADDRESS, l->c->rsdp, 8);
    p[E820_ENTRIES] = (uint8_t)l->map_count;
    for (unsigned i = 0; i < l->map_count; i++) {
        store_le(p + E820_TABLE + 20 * i, l->map[i].base, 8);
        store_le(p + E820_TABLE + 20 * i + 8, l->map[i].size, 8);
        store_le(p + E820_TABLE + 20 * i + 16, l->map[i].kind, 4);
    }
    r = loader_write(l, LOW_INFO, p, BOOT_PARAMS_SIZE, err);
    if (!r)
        r = enter_64 ? loader_enter_64(l, entry, err) : loader_enter_32(l, (uint32_t)entry, err);
    if (!r)
        l->m->cpus[0]->gpr[GPR_RSI] = LOW_INFO;
    return r;
}

int linux_load(struct loader *l, struct error *err)
{
    struct setup s = {0};
    bool enter_64;
    uint64_t low, high;
    int r = read_setup(l, &s, err);

    if (r < 0)
        return r;
    /* From where it is loaded it moves to where it runs: both, and all between, are its. */
    low = MIN(s.load, s.run);
    high = MAX(s.load + s.payload_size, s.run + s.init_size);
    r = loader_claim(l, low, high - low, "the kernel", err);
    if (!r)
        r = loader_copy(l, l->kernel, s.payload, s.payload_size, s.load, "the kernel", err);
    if (r < 0)
        return r;
    store_le(s.params + CODE32_START, s.load, 4);
    enter_64 = s.is_64 && cpu_has(l->m->cpus[0], FEATURE_LM);
    if (s.is_64 && !enter_64)
        log_warn("kernel '%s' is a 64-bit one, and the CPU model has no long mode",
                 l->kernel->name);
    if (enter_64 && s.payload_size < 0x210)
        return file_error(l->kernel, err, "has no room for its 64-bit entry at 0x200");
    return start(l, &s, s.load + (enter_64 ? 0x200 : 0), enter_64, err);
}

int linux_start(struct loader *l, gpa entry, bool is_64, struct error *err)
{
    struct setup s = {.initrd_max = 0x37ffffff, .cmdline_max = 2047};

    if (is_64 && !cpu_has(l->m->cpus[0], FEATURE_LM))
        return file_error(l->kernel, err, "is a 64-bit kernel, and the CPU model has no long mode");
    /* The least a kernel looks at: that this is a setup header, and of which version. */
    store_le(s.params + BOOT_FLAG, 0xaa55, 2);
    memcpy(s.params + HEADER, "HdrS", 4);
    store_le(s.params + VERSION, 0x20f, 2);
    s.params[LOADFLAGS] = LOADED_HIGH;
    store_le(s.params + KERNEL_ALIGNMENT, 2 * MiB, 4);
    return start(l, &s, entry, is_64, err);
}
