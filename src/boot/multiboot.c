/*
 * multiboot.c - kernels with a Multiboot header: version 0.6.96 ("1") and 2.
 *
 * Both say by flags or tags what they need; what we do not have and they cannot do without is
 * refused by name. The information they get is built in one buffer that lies at LOW_INFO, so an
 * offset in it is an address. The initrd is the only module.
 */
#include "boot/loader.h"

#include <errno.h>

#define MB1_HEADER UINT32_C(0x1badb002)
#define MB1_LOADED UINT32_C(0x2badb002)
#define MB2_HEADER UINT32_C(0xe85250d6)
#define MB2_LOADED UINT32_C(0x36d76289)
enum { MB1_SEARCH = 8192, MB2_SEARCH = 32768 };
enum { LOW_INFO_MAX = LOW_CMDLINE - LOW_INFO };

static const char loader_name[] = "Hospes " HOSPES_VERSION;

/* Where a kernel that is no ELF file says it belongs. */
struct addresses {
    bool given;
    uint32_t header, load, load_end, bss_end, entry;
    bool entry_given;
};

/* ---- what both have ---------------------------------------------------------------------------
 */

struct info {
    uint8_t data[LOW_INFO_MAX];
    uint32_t used;
    bool overflow;
};

/* Append `size` bytes (zeros where data is NULL), aligned to 8; their address. */
static uint32_t info_add(struct info *i, const void *data, size_t size)
{
    uint32_t at = (uint32_t)align_up(i->used, 8);

    if (!range_within(at, size, LOW_INFO_MAX)) {
        i->overflow = true;
        return LOW_INFO;
    }
    if (data)
        memcpy(i->data + at, data, size);
    i->used = at + (uint32_t)size;
    return LOW_INFO + at;
}

static uint32_t info_add_text(struct info *i, const char *text)
{
    return info_add(i, text, strlen(text) + 1);
}

static void info_set(struct info *i, uint32_t offset, uint64_t value, unsigned size)
{
    store_le(i->data + offset, value, size);
}

static int info_write(struct loader *l, const struct info *i, struct error *err)
{
    if (i->overflow)
        return file_error(l->kernel, err,
                          "Multiboot information needs more than %d bytes; the command line is too "
                          "long",
                          LOW_INFO_MAX);
    return loader_write(l, LOW_INFO, i->data, i->used, err);
}

/* The header lies at `offset` in the file; load what the address fields say. */
static int load_addressed(struct loader *l, uint32_t offset, const struct addresses *a,
                          uint32_t *entry, struct error *err)
{
    uint64_t skip, start, size, bss;
    int r;

    if (a->header < a->load || a->header - a->load > offset)
        return file_error(l->kernel, err,
                          "Multiboot header at %#x says it lies at address %#x and loading starts "
                          "at %#x, which is before the file's begin",
                          offset, a->header, a->load);
    skip = a->header - a->load;
    start = offset - skip;
    size = a->load_end ? (uint64_t)a->load_end - a->load : l->kernel->size - start;
    if (a->load_end && a->load_end < a->load)
        return file_error(l->kernel, err,
                          "Multiboot header says load end %#x, before its start %#x", a->load_end,
                          a->load);
    bss = a->bss_end ? a->bss_end : a->load + size;
    if (bss < a->load + size)
        return file_error(l->kernel, err,
                          "Multiboot header says bss end %#x, before the end of what is loaded, "
                          "%#llx",
                          a->bss_end, (unsigned long long)(a->load + size));
    if (!a->entry_given || a->entry < a->load || a->entry >= bss)
        return file_error(l->kernel, err, "Multiboot header says entry %#x, outside [%#x, %#llx)",
                          a->entry, a->load, (unsigned long long)bss);
    r = loader_claim(l, a->load, bss - a->load, "the kernel", err);
    if (!r)
        r = loader_copy(l, l->kernel, start, size, a->load, "the kernel", err);
    if (!r)
        r = loader_fill(l, a->load + size, bss - a->load - size, err);
    if (!r)
        *entry = a->entry;
    return r;
}

static int load_image(struct loader *l, uint32_t offset, const struct addresses *a, uint32_t *entry,
                      struct error *err)
{
    struct elf e;
    int r;

    if (a->given)
        return load_addressed(l, offset, a, entry, err);
    if (!elf_probe(l))
        return file_error(l->kernel, err,
                          "has a Multiboot header without addresses and is not an ELF file");
    r = elf_read(l, true, &e, err);
    if (r < 0)
        return r;
    if (!a->entry_given && e.entry > UINT32_MAX)
        return file_error(l->kernel, err, "has its entry at %#llx, above 4 GiB",
                          (unsigned long long)e.entry);
    *entry = a->entry_given ? a->entry : (uint32_t)e.entry;
    return 0;
}

/* KiB of RAM below 640 KiB and from 1 MiB to the first hole. */
static void classic_memory(const struct loader *l, uint32_t *lower, uint32_t *upper)
{
    *lower = BOOT_EBDA / KiB;
    *upper = 0;
    for (unsigned i = 0; i < l->map_count; i++)
        if (l->map[i].kind == BOOT_MEMORY_RAM && l->map[i].base == MiB)
            *upper = (uint32_t)(l->map[i].size / KiB);
}

static int start(struct loader *l, const struct info *i, uint32_t entry, uint32_t magic,
                 struct error *err)
{
    int r = info_write(l, i, err);

    if (!r)
        r = loader_enter_32(l, entry, err);
    if (!r) {
        l->m->cpus[0]->gpr[GPR_RAX] = magic;
        l->m->cpus[0]->gpr[GPR_RBX] = LOW_INFO;
    }
    return r;
}

/* ---- version 1 --------------------------------------------------------------------------------
 */

enum mb1_header_flag {
    MB1_ALIGN_MODULES = 1 << 0,
    MB1_WANT_MEMORY = 1 << 1,
    MB1_WANT_VIDEO = 1 << 2, /* a wish: without video information the kernel does without */
    MB1_KNOWN = MB1_ALIGN_MODULES | MB1_WANT_MEMORY | MB1_WANT_VIDEO,
    MB1_MUST_KNOW = 0xffff,
    MB1_ADDRESSES = 1 << 16,
};

enum mb1_info_flag {
    MB1_INFO_MEMORY = 1 << 0,
    MB1_INFO_CMDLINE = 1 << 2,
    MB1_INFO_MODULES = 1 << 3,
    MB1_INFO_MMAP = 1 << 6,
    MB1_INFO_LOADER = 1 << 9,
};

enum { MB1_INFO_SIZE = 120, MB1_MMAP_ENTRY = 24 };

bool multiboot1_probe(const struct loader *l, uint32_t *offset)
{
    uint32_t end = (uint32_t)MIN((uint64_t)MB1_SEARCH, l->kernel->size);

    for (uint32_t i = 0; i + 12 <= end; i += 4) {
        const uint8_t *h = l->head + i;

        if (load_le(h, 4) == MB1_HEADER &&
            !(uint32_t)(load_le(h, 4) + load_le(h + 4, 4) + load_le(h + 8, 4))) {
            *offset = i;
            return true;
        }
    }
    return false;
}

static int mb1_header(struct loader *l, uint32_t offset, struct addresses *a, struct error *err)
{
    const uint8_t *h = l->head + offset;
    uint32_t flags = (uint32_t)load_le(h + 4, 4), unknown = flags & MB1_MUST_KNOW & ~MB1_KNOWN;

    if (unknown)
        return file_error(l->kernel, err,
                          "Multiboot header requires features %#x, which are unknown", unknown);
    if (!(flags & MB1_ADDRESSES))
        return 0;
    if (offset + 32 > l->kernel->size)
        return file_error(l->kernel, err, "Multiboot header at %#x runs past the end of the file",
                          offset);
    *a = (struct addresses){.given = true,
                            .entry_given = true,
                            .header = (uint32_t)load_le(h + 12, 4),
                            .load = (uint32_t)load_le(h + 16, 4),
                            .load_end = (uint32_t)load_le(h + 20, 4),
                            .bss_end = (uint32_t)load_le(h + 24, 4),
                            .entry = (uint32_t)load_le(h + 28, 4)};
    return 0;
}

int multiboot1_load(struct loader *l, uint32_t offset, struct error *err)
{
    auto_free struct info *i = xcalloc(1, sizeof(*i));
    struct addresses a = {0};
    uint32_t entry, lower, upper,
        flags = MB1_INFO_MEMORY | MB1_INFO_CMDLINE | MB1_INFO_MMAP | MB1_INFO_LOADER;
    uint64_t size;
    gpa initrd;
    int r = mb1_header(l, offset, &a, err);

    if (!r)
        r = load_image(l, offset, &a, &entry, err);
    if (!r)
        r = loader_initrd(l, UINT64_C(1) << 32, &initrd, &size, err);
    if (!r)
        r = loader_cmdline(l, LOW_CMDLINE_MAX - 1, err);
    if (r < 0)
        return r;
    info_add(i, NULL, MB1_INFO_SIZE);
    classic_memory(l, &lower, &upper);
    info_set(i, 4, lower, 4);
    info_set(i, 8, upper, 4);
    info_set(i, 16, LOW_CMDLINE, 4);
    if (size) {
        uint8_t module[16] = {0};

        flags |= MB1_INFO_MODULES;
        store_le(module, initrd, 4);
        store_le(module + 4, initrd + size, 4);
        store_le(module + 8, info_add_text(i, l->initrd->name), 4);
        info_set(i, 20, 1, 4);
        info_set(i, 24, info_add(i, module, sizeof(module)), 4);
    }
    info_set(i, 44, l->map_count * MB1_MMAP_ENTRY, 4);
    for (unsigned n = 0; n < l->map_count; n++) {
        uint8_t e[MB1_MMAP_ENTRY];
        uint32_t at;

        store_le(e, MB1_MMAP_ENTRY - 4, 4);
        store_le(e + 4, l->map[n].base, 8);
        store_le(e + 12, l->map[n].size, 8);
        store_le(e + 20, l->map[n].kind, 4);
        at = info_add(i, e, sizeof(e)); /* entries follow each other: 24 is a multiple of 8 */
        if (!n)
            info_set(i, 48, at, 4);
    }
    info_set(i, 64, info_add_text(i, loader_name), 4);
    info_set(i, 0, flags, 4);
    return start(l, i, entry, MB1_LOADED, err);
}

/* ---- version 2 --------------------------------------------------------------------------------
 */

enum mb2_header_tag {
    MB2_TAG_END = 0,
    MB2_TAG_REQUEST = 1,
    MB2_TAG_ADDRESS = 2,
    MB2_TAG_ENTRY = 3,
    MB2_TAG_CONSOLE = 4,
    MB2_TAG_FRAMEBUFFER = 5,
    MB2_TAG_MODULE_ALIGN = 6,
    MB2_TAG_EFI_SERVICES = 7,
    MB2_TAG_EFI32_ENTRY = 8,
    MB2_TAG_EFI64_ENTRY = 9,
    MB2_TAG_RELOCATABLE = 10,
    MB2_OPTIONAL = 1, /* flag */
};

enum mb2_info_tag {
    MB2_INFO_END = 0,
    MB2_INFO_CMDLINE = 1,
    MB2_INFO_LOADER = 2,
    MB2_INFO_MODULE = 3,
    MB2_INFO_MEMORY = 4,
    MB2_INFO_MMAP = 6,
    MB2_INFO_ACPI_OLD = 14,
    MB2_INFO_ACPI_NEW = 15,
};

bool multiboot2_probe(const struct loader *l, uint32_t *offset)
{
    uint32_t end = (uint32_t)MIN((uint64_t)MB2_SEARCH, l->kernel->size);

    for (uint32_t i = 0; i + 16 <= end; i += 8) {
        const uint8_t *h = l->head + i;

        if (load_le(h, 4) == MB2_HEADER && !(uint32_t)(load_le(h, 4) + load_le(h + 4, 4) +
                                                       load_le(h + 8, 4) + load_le(h + 12, 4))) {
            *offset = i;
            return true;
        }
    }
    return false;
}

static int mb2_requests(struct loader *l, const uint8_t *tag, uint32_t size, struct error *err)
{
    for (uint32_t at = 8; at + 4 <= size; at += 4)
        switch (load_le(tag + at, 4)) {
        case MB2_INFO_CMDLINE:
        case MB2_INFO_LOADER:
        case MB2_INFO_MODULE:
        case MB2_INFO_MEMORY:
        case MB2_INFO_MMAP: break;
        case MB2_INFO_ACPI_OLD:
        case MB2_INFO_ACPI_NEW:
            if (l->c->rsdp)
                break;
            /* fall through */
        default:
            return file_error(l->kernel, err,
                              "Multiboot2 header requires information %u, which there is none of",
                              (unsigned)load_le(tag + at, 4));
        }
    return 0;
}

static int mb2_tag(struct loader *l, const uint8_t *tag, uint32_t size, struct addresses *a,
                   struct error *err)
{
    unsigned type = (unsigned)load_le(tag, 2);
    bool optional = load_le(tag + 2, 2) & MB2_OPTIONAL;

    switch (type) {
    case MB2_TAG_REQUEST: return optional ? 0 : mb2_requests(l, tag, size, err);
    case MB2_TAG_ADDRESS:
        if (size < 24)
            break;
        a->given = true;
        a->header = (uint32_t)load_le(tag + 8, 4);
        a->load = (uint32_t)load_le(tag + 12, 4);
        a->load_end = (uint32_t)load_le(tag + 16, 4);
        a->bss_end = (uint32_t)load_le(tag + 20, 4);
        return 0;
    case MB2_TAG_ENTRY:
        if (size < 12)
            break;
        a->entry_given = true;
        a->entry = (uint32_t)load_le(tag + 8, 4);
        return 0;
    case MB2_TAG_CONSOLE:     /* the serial console is one */
    case MB2_TAG_FRAMEBUFFER: /* a wish */
    case MB2_TAG_MODULE_ALIGN:
    case MB2_TAG_EFI_SERVICES: /* these three are for EFI machines only */
    case MB2_TAG_EFI32_ENTRY:
    case MB2_TAG_EFI64_ENTRY:
    case MB2_TAG_RELOCATABLE: return 0; /* may be, need not */
    default:
        if (optional)
            return 0;
        return file_error(l->kernel, err, "Multiboot2 header requires feature %u, which is unknown",
                          type);
    }
    return file_error(l->kernel, err, "Multiboot2 header tag %u has only %u bytes", type, size);
}

static int mb2_header(struct loader *l, uint32_t offset, struct addresses *a, struct error *err)
{
    const uint8_t *h = l->head + offset;
    uint32_t length = (uint32_t)load_le(h + 8, 4), at = 16;

    if (load_le(h + 4, 4) != 0)
        return file_error(l->kernel, err, "Multiboot2 header is for architecture %u, not i386",
                          (unsigned)load_le(h + 4, 4));
    if (length < 16 || !range_within(offset, length, MIN(l->kernel->size, (uint64_t)MB2_SEARCH)))
        return file_error(l->kernel, err,
                          "Multiboot2 header at %#x says %u bytes; it must end within the file and "
                          "its first 32 KiB",
                          offset, length);
    while (length - at >= 8) {
        uint32_t size = (uint32_t)load_le(h + at + 4, 4);
        int r;

        if (size < 8 || size > length - at)
            return file_error(l->kernel, err, "Multiboot2 header tag at %#x says %u bytes",
                              offset + at, size);
        if (load_le(h + at, 2) == MB2_TAG_END)
            return 0;
        r = mb2_tag(l, h + at, size, a, err);
        if (r < 0)
            return r;
        size = (uint32_t)align_up(size, 8);
        if (size > length - at)
            break;
        at += size;
    }
    return file_error(l->kernel, err, "Multiboot2 header at %#x has no end tag", offset);
}

static void mb2_add(struct info *i, uint32_t type, const void *data, size_t size)
{
    uint8_t head[8];

    store_le(head, type, 4);
    store_le(head + 4, size + 8, 4);
    info_add(i, head, 8);
    if (size)
        info_add(i, data, size);
}

/* A copy of the root pointer: revision 0 has 20 bytes, later ones say their length. */
static int mb2_add_acpi(struct loader *l, struct info *i, struct error *err)
{
    uint8_t rsdp[36];

    if (!l->c->rsdp)
        return 0;
    if (dma_read(l->m->memory, l->c->rsdp, rsdp, sizeof(rsdp)) < 0)
        return error_set(err, EFAULT, "the ACPI root pointer at %#llx cannot be read",
                         (unsigned long long)l->c->rsdp);
    if (rsdp[15] >= 2)
        mb2_add(i, MB2_INFO_ACPI_NEW, rsdp, 36);
    mb2_add(i, MB2_INFO_ACPI_OLD, rsdp, 20);
    return 0;
}

int multiboot2_load(struct loader *l, uint32_t offset, struct error *err)
{
    auto_free struct info *i = xcalloc(1, sizeof(*i));
    const char *cmdline = l->c->append ? l->c->append : "";
    uint8_t memory[8], map[8 + BOOT_RANGES * 24] = {0};
    struct addresses a = {0};
    uint32_t entry, lower, upper;
    uint64_t size;
    gpa initrd;
    int r = mb2_header(l, offset, &a, err);

    if (!r)
        r = load_image(l, offset, &a, &entry, err);
    if (!r)
        r = loader_initrd(l, UINT64_C(1) << 32, &initrd, &size, err);
    if (r < 0)
        return r;
    info_add(i, NULL, 8);
    mb2_add(i, MB2_INFO_CMDLINE, cmdline, strlen(cmdline) + 1);
    mb2_add(i, MB2_INFO_LOADER, loader_name, sizeof(loader_name));
    if (size) {
        size_t length = strlen(l->initrd->name) + 1;
        auto_free uint8_t *module = xcalloc(1, 8 + length);

        store_le(module, initrd, 4);
        store_le(module + 4, initrd + size, 4);
        memcpy(module + 8, l->initrd->name, length);
        mb2_add(i, MB2_INFO_MODULE, module, 8 + length);
    }
    classic_memory(l, &lower, &upper);
    store_le(memory, lower, 4);
    store_le(memory + 4, upper, 4);
    mb2_add(i, MB2_INFO_MEMORY, memory, sizeof(memory));
    store_le(map, 24, 4);
    for (unsigned n = 0; n < l->map_count; n++) {
        store_le(map + 8 + 24 * n, l->map[n].base, 8);
        store_le(map + 8 + 24 * n + 8, l->map[n].size, 8);
        store_le(map + 8 + 24 * n + 16, l->map[n].kind, 4);
    }
    mb2_add(i, MB2_INFO_MMAP, map, 8 + 24 * l->map_count);
    r = mb2_add_acpi(l, i, err);
    if (r < 0)
        return r;
    mb2_add(i, MB2_INFO_END, NULL, 0);
    info_set(i, 0, i->used, 4);
    return start(l, i, entry, MB2_LOADED, err);
}
