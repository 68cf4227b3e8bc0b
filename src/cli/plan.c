/*
 * plan.c - see plan.h.
 *
 * It only writes the options a user could have written: --drive, --device, --netdev, --firmware.
 * So nothing can be had by an image alone that could not be had by words, and the lines it tells
 * say which.
 */
#include "cli/plan.h"

#include "base/log.h"
#include "cli/operand.h"
#include "cli/seed.h"
#include "machine/device.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct bus {
    const char *name;       /* as in --disk FILE,bus=NAME */
    const char *controller; /* device to add once; NULL: the board has it */
    const char *disk, *cd;  /* device types; NULL: there is none */
    const char *text;       /* for people */
};

static const struct bus buses[] = {
    {"virtio", NULL, "virtio-blk-pci", NULL, "virtio-blk"},
    {"ide", NULL, "ide-hd", "ide-cd", "IDE"},
    {"sata", NULL, "ide-hd", "ide-cd", "SATA"},
    {"scsi", "virtio-scsi-pci,id=scsi0", "scsi-hd", "scsi-cd", "virtio-scsi"},
    {"nvme", NULL, "nvme", NULL, "NVMe"},
    {"usb", "qemu-xhci,id=usb0", "usb-storage", NULL, "USB"},
};

struct plan {
    struct run_options *o;
    unsigned disks, cds, bootindex;
    bool controller[ARRAY_SIZE(buses)];
};

/* ---- words ------------------------------------------------------------------------------------
 */

/* Text that lives as long as the options. */
__attribute__((format(printf, 2, 3))) static const char *text(struct run_options *o,
                                                              const char *format, ...)
{
    char buffer[8192];
    va_list ap;

    va_start(ap, format);
    vsnprintf(buffer, sizeof(buffer), format, ap);
    va_end(ap);
    o->made = realloc(o->made, (o->made_count + 1) * sizeof(*o->made));
    if (!o->made)
        abort();
    return o->made[o->made_count++] = xstrdup(buffer);
}

/* A comma in a value is written twice. */
static const char *quoted(struct run_options *o, const char *value)
{
    auto_free char *twice = xcalloc(2, strlen(value) + 1);
    char *to = twice;

    for (; *value; *to++ = *value++)
        if (*value == ',')
            *to++ = ',';
    return text(o, "%s", twice);
}

static int add(struct run_options *o, const char **list, unsigned *count, unsigned size,
               const char *what, const char *words, struct error *err)
{
    if (*count == size)
        return error_set(err, E2BIG, "there can be %u %s; '%s' is one more", size, what, words);
    list[(*count)++] = words;
    return 0;
}

static int add_device(struct run_options *o, const char *words, struct error *err)
{
    return add(o, o->devices, &o->config.device_count, ARRAY_SIZE(o->devices), "devices", words,
               err);
}

static int add_drive(struct run_options *o, const char *words, struct error *err)
{
    return add(o, o->drives, &o->drive_count, ARRAY_SIZE(o->drives), "drives", words, err);
}

/* A device of this type, or of this type with properties? */
static bool has_device(const struct run_options *o, const char *type)
{
    size_t n = strlen(type);

    for (unsigned i = 0; i < o->config.device_count; i++)
        if (!strncmp(o->devices[i], type, n) && (!o->devices[i][n] || o->devices[i][n] == ','))
            return true;
    return false;
}

static bool is_microvm(const struct run_options *o)
{
    return o->config.board && !strcmp(o->config.board, "microvm");
}

/* virtio devices of a board without PCI have another name. */
static const char *fit(struct run_options *o, const char *type)
{
    size_t n = strlen(type);

    return is_microvm(o) && n > 4 && !strcmp(type + n - 4, "-pci")
               ? text(o, "%.*s-device", (int)n - 4, type)
               : type;
}

/* ---- disks ------------------------------------------------------------------------------------
 */

/* Takes "bus=NAME" out of the words. */
static int choose_bus(struct run_options *o, const char *words, const struct bus **bus,
                      const char **rest, struct error *err)
{
    const char *at = strstr(words, ",bus=");
    size_t length;

    *rest = words;
    if (!at)
        return 0;
    length = strcspn(at + 5, ",");
    for (unsigned i = 0; i < ARRAY_SIZE(buses); i++)
        if (strlen(buses[i].name) == length && !strncmp(buses[i].name, at + 5, length)) {
            *bus = &buses[i];
            *rest = text(o, "%.*s%s", (int)(at - words), words, at + 5 + length);
            return 0;
        }
    return error_set(err, EINVAL, "'%s': bus is one of virtio, ide, sata, scsi, nvme, usb", words);
}

static void tell_disk(const char *what, const char *path, const struct operand *found,
                      const struct bus *bus)
{
    log_info("%s: %s, %s, %.1f GiB, on %s", what, path, found->format ? found->format : "raw",
             (double)found->size / (double)GiB, bus->text);
}

static int attach(struct plan *p, const struct bus *bus, bool cd, const char *id, const char *words,
                  struct error *err)
{
    struct run_options *o = p->o;
    unsigned n = (unsigned)(bus - buses);
    const char *type = cd ? bus->cd : bus->disk;
    int r = add_drive(o, text(o, "id=%s,%s", id, words), err);

    if (!type)
        return error_set(err, EINVAL, "there is no CD drive on bus %s: take ide, sata or scsi",
                         bus->name);
    if (!r && bus->controller && !p->controller[n]) {
        p->controller[n] = true;
        r = add_device(o, fit(o, bus->controller), err);
    }
    if (r < 0)
        return r;
    return add_device(o,
                      text(o, "%s,drive=%s%s%s,bootindex=%u", fit(o, type), id,
                           !strcmp(bus->name, "nvme") ? ",serial=" : "",
                           !strcmp(bus->name, "nvme") ? id : "", p->bootindex++),
                      err);
}

/* Guests that come from elsewhere may have no driver for virtio. */
static const struct bus *bus_for(const struct operand *found)
{
    bool ours = !found->format || !strcmp(found->format, "raw") || !strcmp(found->format, "qcow2");

    return &buses[ours ? 0 : 1];
}

/* FILE or FILE,bus=NAME,words of --drive. `found`: what was seen of it, or NULL. */
static int add_disk(struct plan *p, const char *words, const struct operand *found,
                    struct error *err)
{
    struct run_options *o = p->o;
    const char *comma = strchr(words, ','), *rest;
    const char *path = comma ? text(o, "%.*s", (int)(comma - words), words) : words;
    struct operand own = {0};
    const struct bus *bus;
    int r = 0;

    if (!found && !strstr(words, ",format=")) {
        struct error why = {0};

        r = operand_look(path, &own, &why);
        found = &own;
        if (own.kind == OPERAND_FOLDER)
            r = error_set(err, EISDIR, "'%s' is a folder, not a disk image", path);
        else if (r < 0)
            *err = why;
    }
    bus = bus_for(found ? found : &own);
    if (!r)
        r = choose_bus(o, words, &bus, &rest, err);
    if (!r && found) {
        rest = text(o, "%s,format=%s", rest, found->format ? found->format : "raw");
        tell_disk("disk", path, found, bus);
    }
    if (!r)
        r = attach(p, bus, false, text(o, "disk%u", p->disks++),
                   text(o, "file=%s%s", rest, o->snapshot ? ",snapshot=on" : ""), err);
    operand_free(&own);
    return r;
}

static int add_cd(struct plan *p, const char *path, struct error *err)
{
    struct run_options *o = p->o;
    bool q35 = o->config.board && !strcmp(o->config.board, "q35");

    log_info("CD: %s", path);
    return attach(p, &buses[q35 ? 2 : 1], true, text(o, "cd%u", p->cds++),
                  text(o, "file=%s,format=raw,readonly=on", quoted(o, path)), err);
}

/* ---- the network ------------------------------------------------------------------------------
 */

/* "[ADDRESS:]HOST:GUEST[/udp]": from this port of the host's to that of the guest's. */
static int forward_words(struct run_options *o, const char *rule, const char **out,
                         struct error *err)
{
    const char *slash = strchr(rule, '/'), *kind = slash ? slash + 1 : "tcp";
    auto_free char *ports = slash ? xasprintf("%.*s", (int)(slash - rule), rule) : xstrdup(rule);
    const char *address = "127.0.0.1";
    char *guest = strrchr(ports, ':'), *host;
    unsigned long from, to;
    char *end1, *end2;

    if (guest)
        *guest++ = '\0';
    host = guest ? strrchr(ports, ':') : NULL;
    if (host) {
        *host++ = '\0';
        address = ports;
    } else {
        host = ports;
    }
    from = guest ? strtoul(host, &end1, 10) : 0;
    to = guest ? strtoul(guest, &end2, 10) : 0;
    if (!from || !to || *end1 || *end2 || from > 65535 || to > 65535 ||
        (strcmp(kind, "tcp") && strcmp(kind, "udp")))
        return error_set(err, EINVAL,
                         "'%s' is not [ADDRESS:]HOSTPORT:GUESTPORT[/udp], as in 2222:22", rule);
    log_info("network: %s:%lu leads to the guest's port %lu (%s)", address, from, to, kind);
    *out = text(o, ",hostfwd=%s:%s:%lu-:%lu", kind, address, from, to);
    return 0;
}

static int add_net(struct run_options *o, struct error *err)
{
    const char *words = o->net ? o->net : "user", *comma = strchr(words, ',');
    const char *model = "virtio-net-pci", *forwards = "", *at = strstr(words, ",model=");
    size_t length = comma ? (size_t)(comma - words) : strlen(words);
    bool user = length == 4 && !strncmp(words, "user", 4);
    int r = 0;

    if (o->forward_count && !user)
        return error_set(err, EINVAL, "--forward is for --net user, not '%s'", words);
    if (!strcmp(words, "none"))
        return 0;
    if (at) {
        size_t n = strcspn(at + 7, ",");

        model = text(o, "%.*s", (int)n, at + 7);
        words = text(o, "%.*s%s", (int)(at - words), words, at + 7 + n);
    }
    for (unsigned i = 0; i < o->forward_count && !r; i++) {
        const char *one = "";

        r = forward_words(o, o->forwards[i], &one, err);
        forwards = text(o, "%s%s", forwards, one);
    }
    if (!strcmp(model, "virtio"))
        model = "virtio-net-pci";
    if (!r)
        r = add(o, o->netdevs, &o->netdev_count, ARRAY_SIZE(o->netdevs), "networks",
                text(o, "%.*s,id=net0%s%s", (int)length, words, words + length, forwards), err);
    if (!r)
        r = add_device(o, text(o, "%s,netdev=net0", fit(o, model)), err);
    if (!r)
        log_info("network: %s, on %s", words, model);
    return r;
}

/* "DIR" or "DIR,property=value,..." of virtio-9p; the first is named share, the next share2 ... */
static int add_share(struct run_options *o, unsigned n, struct error *err)
{
    const char *words = o->shares[n], *comma = strchr(words, ',');
    const char *path = comma ? text(o, "%.*s", (int)(comma - words), words) : words;
    const char *tag = n ? text(o, "share%u", n + 1) : "share";
    struct stat st;

    if (stat(path, &st) < 0)
        return error_set_errno(err, errno, "cannot share '%s'", path);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ENOTDIR, "'%s' is not a folder; --disk takes images", path);
    log_info("share: %s; in the guest: mount -t 9p -o trans=virtio %s /mnt", path, tag);
    return add_device(o,
                      text(o, "%s,path=%s,mount_tag=%s%s", fit(o, "virtio-9p-pci"), path, tag,
                           comma ? comma : ""),
                      err);
}

/* ---- all of it --------------------------------------------------------------------------------
 */

static int add_seed(struct plan *p, struct error *err)
{
    struct run_options *o = p->o;
    struct seed s = {.hostname = o->config.name ? o->config.name : "hospes",
                     .user = o->user,
                     .password = o->password,
                     .ssh_key = o->ssh_key};
    int fd = seed_make(&s, err);

    if (fd < 0)
        return fd;
    o->seed_fd = fd;
    log_info("cloud-init: a seed disk for %s", o->user ? o->user : "the image's own user");
    return attach(p, &buses[0], false, "seed",
                  text(o, "file=/proc/self/fd/%d,format=raw,readonly=on,force-share=on", fd), err);
}

static void choose_firmware(struct run_options *o, const struct operand *found)
{
    bool uefi = found->uefi && !found->bios;

    if (o->config.firmware)
        return;
    o->config.firmware = uefi ? "uefi" : "bios";
    if (!o->config.board && uefi)
        o->config.board = "q35";
    log_info("firmware: %s", uefi ? "UEFI (OVMF); the image has a boot loader for it alone"
                                  : "BIOS (SeaBIOS); --firmware uefi takes the other");
}

/* What a person expects of a PC. */
static int add_usual(struct run_options *o, struct error *err)
{
    int r = 0;

    if (!is_microvm(o) && !has_device(o, "VGA"))
        r = add_device(o, "VGA", err);
    if (!r && !has_device(o, "virtio-rng-pci"))
        r = add_device(o, fit(o, "virtio-rng-pci"), err);
    return r;
}

int plan_make(struct run_options *o, struct error *err)
{
    struct plan p = {.o = o};
    struct operand found = {.kind = OPERAND_KERNEL};
    int r = o->operand ? operand_look(o->operand, &found, err) : 0;
    bool pc = found.kind == OPERAND_DISK || found.kind == OPERAND_CD || o->disk_count || o->cdrom;

    if (r < 0)
        goto out;
    switch (found.kind) {
    case OPERAND_KERNEL: o->config.kernel = o->operand; break;
    case OPERAND_FOLDER:
        o->config.kernel = text(o, "%s", found.kernel);
        if (!o->config.initrd && found.initrd)
            o->config.initrd = text(o, "%s", found.initrd);
        log_info("kernel: %s%s%s", o->config.kernel, o->config.initrd ? ", RAM disk: " : "",
                 o->config.initrd ? o->config.initrd : "");
        break;
    case OPERAND_DISK:
        choose_firmware(o, &found);
        r = add_disk(&p, quoted(o, o->operand), &found, err);
        break;
    case OPERAND_CD:
        choose_firmware(o, &found);
        r = add_cd(&p, o->operand, err);
        break;
    }
    for (unsigned i = 0; i < o->disk_count && !r; i++)
        r = add_disk(&p, o->disks[i], NULL, err);
    if (!r && o->cdrom)
        r = add_cd(&p, o->cdrom, err);
    if (!r && pc && !o->config.kernel && !o->config.firmware)
        o->config.firmware = "bios";
    if (!r && (o->user || o->password || o->ssh_key))
        r = add_seed(&p, err);
    if (!r && pc)
        r = add_usual(o, err);
    if (!r && (o->net || o->forward_count || (pc && !o->netdev_count)))
        r = add_net(o, err);
    for (unsigned i = 0; i < o->share_count && !r; i++)
        r = add_share(o, i, err);
out:
    if (!o->config.board)
        o->config.board = "pc";
    operand_free(&found);
    return r;
}

void plan_free(struct run_options *o)
{
    for (unsigned i = 0; i < o->made_count; i++)
        free(o->made[i]);
    free(o->made);
    o->made = NULL;
    o->made_count = 0;
    if (o->seed_fd > 0)
        close(o->seed_fd);
    o->seed_fd = 0;
}
