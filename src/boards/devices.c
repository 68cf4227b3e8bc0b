/*
 * devices.c - the devices of the command line: "TYPE,property=value,...", and the slots for
 * virtio-mmio.
 *
 * A comma in a value is written twice. `id=` names the device. Which bus a type sits on says what
 * the board must do: PCI functions find a slot of their own, what sits on another device (a SCSI
 * disk, a port of a console) finds that, and virtio-mmio devices are placed here.
 */
#include "boards/common.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

/* Free on a board without PCI: not the serial ports', the clock's, ACPI's. */
static const uint8_t slot_irq[BOARD_VIRTIO_SLOTS] = {5, 6, 7, 10, 11, 12, 14, 15};

static bool is_bus(const struct device_type *t, const char *bus)
{
    return t->bus && !strcmp(t->bus, bus);
}

/* The next word up to a single comma, undoubled in place; NULL: the end. */
static char *next_word(char **rest)
{
    char *from = *rest, *to = *rest, *word = *rest;

    if (!from)
        return NULL;
    while (*from && (*from != ',' || from[1] == ',')) {
        from += *from == ',';
        *to++ = *from++;
    }
    *rest = *from ? from + 1 : NULL;
    *to = '\0';
    return word;
}

static int place_mmio(struct machine *m, struct device *dev, struct error *err)
{
    struct board *b = board_of(m);
    char text[24];
    int r;

    if (b->platform != ACPI_MICROVM)
        return error_set(err, ENODEV, "%s: machine '%s' has no virtio-mmio; use the -pci device",
                         dev->type->name, m->config.board);
    if (b->virtio_slots == BOARD_VIRTIO_SLOTS)
        return error_set(err, ENOSPC, "%s: all %d virtio-mmio slots are taken", dev->type->name,
                         BOARD_VIRTIO_SLOTS);
    snprintf(text, sizeof(text), "%llu",
             (unsigned long long)(BOARD_VIRTIO_BASE + BOARD_VIRTIO_STEP * b->virtio_slots));
    r = device_set(dev, "base", text, err);
    snprintf(text, sizeof(text), "%u", slot_irq[b->virtio_slots]);
    if (!r)
        r = device_set(dev, "irq", text, err);
    if (!r) {
        b->virtio_irq[b->virtio_slots] = slot_irq[b->virtio_slots];
        b->virtio_slots++;
    }
    return r;
}

static bool good_id(struct machine *m, const char *id, struct error *err)
{
    for (const char *p = id; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-._", *p)) {
            error_set(err, EINVAL, "id=%s has '%c'; letters, digits, - . _ are allowed", id, *p);
            return false;
        }
    for (struct device *d = m->devices; d; d = d->next)
        if (!strcmp(d->id, id)) {
            error_set(err, EEXIST, "id=%s is the name of another device", id);
            return false;
        }
    return *id != '\0' || error_set(err, EINVAL, "id= is empty") == 0;
}

static int set_words(struct device *dev, char *words, struct error *err)
{
    for (char *word; (word = next_word(&words));) {
        char *equal = strchr(word, '=');
        int r;

        if (equal)
            *equal = '\0';
        if (!*word || !strcmp(word, "id"))
            continue;
        r = device_set(dev, word, equal ? equal + 1 : "on", err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The value of id=; allocated. NULL: there is none. */
static char *find_id(const char *words)
{
    auto_free char *copy = xstrdup(words);
    char *rest = copy;

    for (char *word; (word = next_word(&rest));)
        if (!strncmp(word, "id=", 3))
            return xstrdup(word + 3);
    return NULL;
}

static int add_one(struct machine *m, const char *text, struct error *err)
{
    auto_free char *copy = xstrdup(text), *id = NULL;
    char *words = copy, *name = next_word(&words);
    const struct device_type *t = device_type_find(name);
    struct device *dev;
    int r = 0;

    if (!t || !t->bus)
        return error_set(err, ENOENT, "there is no device '%s' to add; --device help lists them",
                         name);
    if (is_bus(t, "pci") && !board_of(m)->pci)
        return error_set(err, ENODEV, "machine '%s' has no PCI", m->config.board);
    if (words)
        id = find_id(words);
    if (id && !good_id(m, id, err))
        return -err->code;
    dev = device_new(m, t, id);
    if (is_bus(t, "virtio-mmio"))
        r = place_mmio(m, dev, err);
    if (!r && words)
        r = set_words(dev, words, err);
    if (!r)
        r = device_realize(dev, err);
    if (r < 0)
        device_free(dev);
    return r;
}

int board_add_devices(struct machine *m, struct error *err)
{
    struct error unread = {0};

    err = err ? err : &unread;
    for (unsigned i = 0; i < m->config.device_count; i++) {
        int r = add_one(m, m->config.devices[i], err);

        if (r < 0)
            return error_prefix(err, r, "device '%s': ", m->config.devices[i]);
    }
    return 0;
}
