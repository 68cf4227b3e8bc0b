/*
 * backends.c - see backends.h.
 */
#include "cli/backends.h"

#include "boards/board.h"
#include "chardev/chardev.h"
#include "cli/cli.h"
#include "devices/devices.h"
#include "display/vnc.h"
#include "machine/machine.h"
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>

struct backends {
    struct chardev *chardev[ARRAY_SIZE(((struct run_options *)0)->chardevs)];
    unsigned chardevs;
    struct net *net[ARRAY_SIZE(((struct run_options *)0)->netdevs)];
    unsigned nets;
    struct display *display;
    struct vnc *vnc;
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

/* ---- character devices -------------------------------------------------------------------------
 */

static int open_chardev(struct machine *m, const char *words, struct chardev **out,
                        struct error *err)
{
    auto_free char *id = value_of(words, "id"), *path = value_of(words, "path");
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
    if (r < 0)
        return r;
    *out = c;
    return machine_backend_add(m, "chardev", id, c, err);
}

/* ---- networks ----------------------------------------------------------------------------------
 */

static int open_netdev(struct machine *m, const char *words, struct net **out, struct error *err)
{
    int r = net_open(words, out, err);

    if (!r)
        r = machine_backend_add(m, "netdev", net_id(*out), *out, err);
    return r < 0 ? error_prefix(err, r, "option --netdev: ") : 0;
}

/* ---- the display -------------------------------------------------------------------------------
 */

/* "none" was sorted out before; "vnc=WHERE". */
static int open_display(struct machine *m, const char *words, struct backends *b, struct error *err)
{
    int r;

    b->display = m->config.display = display_new();
    r = vnc_open(b->display, words + strlen("vnc="), &b->vnc, err);
    return r < 0 ? error_prefix(err, r, "option --display: ") : 0;
}

/* ---- all of them -------------------------------------------------------------------------------
 */

int backends_open(struct machine *m, const struct run_options *o, struct backends **out,
                  struct error *err)
{
    struct backends *b = *out = xcalloc(1, sizeof(*b));
    int r = 0;

    for (unsigned i = 0; i < o->chardev_count && !r; i++)
        r = open_chardev(m, o->chardevs[i], &b->chardev[b->chardevs++], err);
    for (unsigned i = 0; i < o->netdev_count && !r; i++)
        r = open_netdev(m, o->netdevs[i], &b->net[b->nets++], err);
    if (!r && o->display)
        r = open_display(m, o->display, b, err);
    return r;
}

void backends_free(struct backends *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < b->chardevs; i++)
        chardev_free(b->chardev[i]);
    for (unsigned i = 0; i < b->nets; i++)
        net_free(b->net[i]);
    vnc_free(b->vnc);
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
