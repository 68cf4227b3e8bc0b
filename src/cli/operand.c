/*
 * operand.c - see operand.h.
 *
 * The order of the questions matters: a Linux kernel with an EFI stub ends its first sector like a
 * disk with a boot sector, and a hybrid ISO image begins like one.
 */
#include "cli/operand.h"

#include "block/block.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    SECTOR = 512,
    MBR_CODE = 440, /* bytes of code before the disk's signature */
    MBR_PARTITIONS = 446,
    MBR_SIGNATURE = 510,
    MBR_TYPE_ESP = 0xef,
    LINUX_HEADER = 0x202,
    ISO_DESCRIPTORS = 16 * 2048,
    ISO_BOOT_RECORD = 17 * 2048,
    ISO_BOOT_CATALOG = 0x47, /* in the boot record: sector of the catalog */
    HEAD = 19 * 2048,
    GPT_ENTRIES_MAX = 256,
};

/* ---- folders ----------------------------------------------------------------------------------
 */

static bool begins_with_one_of(const char *name, const char *const *beginnings)
{
    for (; *beginnings; beginnings++)
        if (!strncmp(name, *beginnings, strlen(*beginnings)))
            return true;
    return false;
}

/* The last by name: "vmlinuz-6.1.0-9" after "vmlinuz-6.1.0-10" is wrong but seldom both are there,
 * so versions are compared as versions. */
static void keep_newest(char **best, const char *folder, const char *name)
{
    char *path = xasprintf("%s/%s", folder, name);

    if (*best && strverscmp(path, *best) < 0) {
        free(path);
        return;
    }
    free(*best);
    *best = path;
}

static int look_into(const char *path, struct operand *out, struct error *err)
{
    static const char *const kernels[] = {"vmlinuz", "vmlinux", "bzImage", "linux", "kernel", NULL};
    static const char *const initrds[] = {"initrd", "initramfs", NULL};
    DIR *folder = opendir(path);
    struct dirent *e;

    if (!folder)
        return error_set_errno(err, errno, "cannot read folder '%s'", path);
    out->kind = OPERAND_FOLDER;
    while ((e = readdir(folder)))
        if (begins_with_one_of(e->d_name, kernels))
            keep_newest(&out->kernel, path, e->d_name);
        else if (begins_with_one_of(e->d_name, initrds))
            keep_newest(&out->initrd, path, e->d_name);
    closedir(folder);
    if (!out->kernel)
        return error_set(
            err, ENOENT,
            "folder '%s' has no kernel (a file vmlinuz*, vmlinux*, bzImage*, linux* or "
            "kernel*)",
            path);
    return 0;
}

/* ---- what can start it ------------------------------------------------------------------------
 */

static bool is_set(const uint8_t *p, size_t n)
{
    return !block_is_zero(p, n);
}

static bool has_signature(const uint8_t *sector)
{
    return sector[MBR_SIGNATURE] == 0x55 && sector[MBR_SIGNATURE + 1] == 0xaa;
}

/* Is there an EFI system partition in the GPT whose header is `header`? */
static bool gpt_has_esp(struct block_node *n, const uint8_t *header)
{
    static const uint8_t esp[16] = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
                                    0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b};
    uint64_t at = load_le(header + 72, 8);
    uint32_t count = (uint32_t)MIN(load_le(header + 80, 4), (uint64_t)GPT_ENTRIES_MAX);
    uint32_t size = (uint32_t)load_le(header + 84, 4);
    uint8_t entry[16];

    if (memcmp(header, "EFI PART", 8) || size < 128 || size > 4096 ||
        at > UINT64_MAX / SECTOR - GPT_ENTRIES_MAX * 8)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (!range_within(at * SECTOR + (uint64_t)i * size, sizeof(entry), n->size) ||
            block_read(n, at * SECTOR + (uint64_t)i * size, entry, sizeof(entry)) < 0)
            return false;
        else if (!memcmp(entry, esp, sizeof(esp)))
            return true;
    return false;
}

static int look_at_disk(struct block_node *n, struct operand *out)
{
    uint8_t head[2 * SECTOR] = {0};
    int r = 0;

    out->size = n->size;
    if (n->size >= sizeof(head))
        r = block_read(n, 0, head, sizeof(head));
    if (r < 0 || !has_signature(head))
        return r;
    out->bios = is_set(head, MBR_CODE);
    out->uefi = gpt_has_esp(n, head + SECTOR);
    for (unsigned i = 0; i < 4; i++)
        out->uefi |= head[MBR_PARTITIONS + 16 * i + 4] == MBR_TYPE_ESP;
    return 0;
}

/* "El Torito": platforms of the default entry and of the sections behind it. */
static int look_at_cd(struct block_node *n, const uint8_t *head, struct operand *out)
{
    const uint8_t *boot = head + ISO_BOOT_RECORD;
    uint8_t catalog[2048];
    uint64_t at;

    out->kind = OPERAND_CD;
    out->size = n->size;
    if (memcmp(boot, "\0CD001\1EL TORITO SPECIFICATION", 30))
        return 0;
    at = load_le(boot + ISO_BOOT_CATALOG, 4) * 2048;
    if (!range_within(at, sizeof(catalog), n->size))
        return 0;
    if (block_read(n, at, catalog, sizeof(catalog)) < 0)
        return -EIO;
    for (unsigned i = 0; i < sizeof(catalog); i += 32) {
        bool validation = i == 0 && catalog[0] == 1, section = (catalog[i] & 0xfe) == 0x90;

        if (!validation && !section)
            continue;
        out->bios |= catalog[i + 1] == 0;
        out->uefi |= catalog[i + 1] == 0xef;
    }
    return 0;
}

/* ---- files ------------------------------------------------------------------------------------
 */

static bool is_kernel(const uint8_t *head)
{
    if (!memcmp(head + LINUX_HEADER, "HdrS", 4) || !memcmp(head, "\177ELF", 4))
        return true;
    for (unsigned i = 0; i + 12 <= 8192; i += 4) /* Multiboot: magic, flags, their sum is 0 */
        if (load_le(head + i, 4) == 0x1badb002 &&
            (uint32_t)(load_le(head + i, 4) + load_le(head + i + 4, 4) +
                       load_le(head + i + 8, 4)) == 0)
            return true;
    return false;
}

static int look_at_file(struct block_node *file, const char *path, struct operand *out,
                        struct error *err)
{
    const struct block_driver *driver;
    auto_free uint8_t *head = xcalloc(1, HEAD);
    struct block_node *n;
    int r = block_probe(file, &driver);

    if (!r)
        r = block_read(file, 0, head, (size_t)MIN(file->size, (uint64_t)HEAD));
    if (r < 0)
        return error_set_errno(err, -r, "cannot read '%s'", path);
    if (!strcmp(driver->name, "raw")) {
        if (is_kernel(head))
            return 0;
        if (!memcmp(head + ISO_DESCRIPTORS + 1, "CD001", 5))
            return look_at_cd(file, head, out);
        if (!has_signature(head))
            return 0; /* the loaders of kernels will say what they miss */
    }
    out->kind = OPERAND_DISK;
    out->format = driver->name;
    n = block_open(path, driver->name, BLOCK_FORCE_SHARE, err);
    if (!n)
        return -err->code;
    r = look_at_disk(n, out);
    block_close(n);
    return r < 0 ? error_set_errno(err, -r, "cannot read '%s'", path) : 0;
}

int operand_look(const char *path, struct operand *out, struct error *err)
{
    struct block_node *file;
    struct stat st;
    int r;

    *out = (struct operand){.kind = OPERAND_KERNEL};
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        return look_into(path, out, err);
    file = block_open_protocol(path, BLOCK_FORCE_SHARE, err);
    if (!file)
        return -err->code;
    r = look_at_file(file, path, out, err);
    block_close(file);
    return r;
}

void operand_free(struct operand *o)
{
    free(o->kernel);
    free(o->initrd);
}
