/*
 * backends.c - see backends.h.
 */
#include "cli/backends.h"

#include "block/disk.h"
#include "boards/board.h"
#include "chardev/chardev.h"
#include "cli/cli.h"
#include "devices/devices.h"
#include "display/text.h"
#include "display/vnc.h"
#include "machine/machine.h"
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>

enum { BACKENDS = 48 };

struct backends {
    struct machine_backend list[BACKENDS];
    unsigned count;
    struct display *display;
    struct vnc *vnc;
    struct text *text;
};

/* ---- words: "KIND,key=value,..." ---------------------------------------------------------------
 */

/* The value of `key` in a list of words; allocated. NULL: it is not there. A comma in a value is
 * written twice. */
static char *value_of(const char *words, const char *key)
{
    size_t length = strlen(key);

    while (words) {
        const char *end = words;
        char *value, *to;

        while (*end && (*end != ',' || end[1] == ','))
            end += *end == ',' ? 2 : 1;
        if (!strncmp(words, key, length) && words[length] == '=') {
            to = value = xcalloc(1, (size_t)(end - words) + 1);
            for (const char *p = words + length + 1; p < end; p++) {
                p += *p == ',';
                *to++ = *p;
            }
            return value;
        }
        words = *end ? end + 1 : NULL;
    }
    return NULL;
}

static bool kind_is(const char *words, const char *kind)
{
    size_t length = strlen(kind);

    return !strncmp(words, kind, length) && (!words[length] || words[length] == ',');
}

/* ---- opening -----------------------------------------------------------------------------------
 */

static int remember(struct backends *b, const char *kind, char *id, void *object, struct error *err)
{
    bool twice = false;

    for (unsigned i = 0; i < b->count; i++)
        twice |= !strcmp(b->list[i].kind, kind) && !strcmp(b->list[i].id, id);
    b->list[b->count++] = (struct machine_backend){.kind = kind, .id = id, .object = object};
    return twice ? error_set(err, EEXIST, "option --%s: there are two with id=%s", kind, id) : 0;
}

static int open_chardev(struct backends *b, struct machine *m, const char *words, struct error *err)
{
    auto_free char *path = value_of(words, "path");
    char *id = value_of(words, "id");
    struct chardev *c = NULL;
    int r = 0;

    if (!id)
        return error_set(err, EINVAL, "option --chardev: '%s' has no id=", words);
    if (kind_is(words, "null"))
        c = chardev_null();
    else if (kind_is(words, "file") && path)
        r = chardev_file(m->loop, path, &c, err);
    else
        r = error_set(err, EINVAL,
                      "option --chardev: '%s' is neither null,id=ID nor "
                      "file,id=ID,path=FILE",
                      words);
    if (r < 0) {
        free(id);
        return r;
    }
    return remember(b, "chardev", id, c, err);
}

/* "id=NAME," and what disk_open() takes. */
static int open_drive(struct backends *b, const char *words, struct error *err)
{
    const char *id = words + 3, *comma = strchr(id, ',');
    struct disk *disk = disk_open(comma + 1, err);

    if (!disk)
        return error_prefix(err, -err->code, "drive %.*s: ", (int)(comma - id), id);
    return remember(b, "drive", strndup(id, (size_t)(comma - id)), disk, err);
}

static int open_netdev(struct backends *b, const char *words, struct error *err)
{
    struct net *net;
    int r = net_open(words, &net, err);

    if (r < 0)
        return error_prefix(err, r, "option --netdev: ");
    return remember(b, "netdev", xstrdup(net_id(net)), net, err);
}

/* ---- the display -------------------------------------------------------------------------------
 */

/* Who looks: a viewer, the terminal, or nobody until the end (--screenshot). */
static int open_display(struct machine *m, const struct run_options *o, struct chardev *terminal,
                        struct backends *b, struct error *err)
{
    int r = 0;

    if (!o->display && !o->screenshot)
        return 0;
    b->display = m->config.display = display_new();
    if (o->display && !strncmp(o->display, "vnc=", 4))
        r = vnc_open(b->display, o->display + strlen("vnc="), &b->vnc, err);
    else if (o->display)
        r = text_open(b->display, 0, terminal, NULL, &b->text, err);
    return r < 0 ? error_prefix(err, r, "option --display: ") : 0;
}

/* ---- all of them -------------------------------------------------------------------------------
 */

int backends_open(struct machine *m, const struct run_options *o, struct chardev *terminal,
                  struct backends **out, struct error *err)
{
    struct backends *b = *out = xcalloc(1, sizeof(*b));
    int r = 0;

    for (unsigned i = 0; i < o->chardev_count && !r; i++)
        r = open_chardev(b, m, o->chardevs[i], err);
    for (unsigned i = 0; i < o->drive_count && !r; i++)
        r = open_drive(b, o->drives[i], err);
    for (unsigned i = 0; i < o->netdev_count && !r; i++)
        r = open_netdev(b, o->netdevs[i], err);
    m->config.backends = b->list;
    m->config.backend_count = b->count;
    return r ? r : open_display(m, o, terminal, b, err);
}

void backends_free(struct backends *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < b->count; i++) {
        if (!strcmp(b->list[i].kind, "chardev"))
            chardev_free(b->list[i].object);
        else if (!strcmp(b->list[i].kind, "drive"))
            disk_close(b->list[i].object);
        else
            net_free(b->list[i].object);
        free((char *)b->list[i].id);
    }
    vnc_free(b->vnc);
    text_free(b->text);
    display_free(b->display);
    free(b);
}

/* ---- help --------------------------------------------------------------------------------------
 */

static void list_properties(FILE *out, const struct device_type *t)
{
    fprintf(out, "%s: %s\n", t->name, t->summary);
    for (const struct property *p = t->properties; p && p->name; p++) {
        static const char *const kinds[] = {"number", "on|off", "text", "object"};

        if (p->kind != PROPERTY_REFERENCE)
            fprintf(out, "  %-20s %-8s %s\n", p->name, kinds[p->kind], p->help);
    }
}

bool device_help(FILE *out, const char *text)
{
    auto_free char *name = xstrdup(text);
    char *comma = strchr(name, ',');

    if (!strcmp(text, "help")) {
        for (unsigned i = 0; device_types[i]; i++)
            if (device_types[i]->bus)
                fprintf(out, "%-34s %s\n", device_types[i]->name, device_types[i]->summary);
        return true;
    }
    if (!comma || strcmp(comma, ",help"))
        return false;
    *comma = '\0';
    for (unsigned i = 0; device_types[i]; i++)
        if (!strcmp(device_types[i]->name, name)) {
            list_properties(out, device_types[i]);
            return true;
        }
    return false;
}
