/*
 * options.c - "TYPE,key=value,key=value": the argument of --netdev. A comma in a value is written
 * twice, a key without a value is on, a key may come again.
 */
#include "net/internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* Cut the next item off *text, making ",," one comma. */
static char *next_item(char **text)
{
    char *start = *text, *to = start, *from = start;

    if (!start)
        return NULL;
    for (; *from; from++) {
        if (*from == ',') {
            if (from[1] != ',')
                break;
            from++;
        }
        *to++ = *from;
    }
    *text = *from ? from + 1 : NULL;
    *to = '\0';
    return start;
}

int net_options_parse(struct net_options *o, const char *spec, struct error *err)
{
    char *rest, *item;

    *o = (struct net_options){.text = xstrdup(spec)};
    rest = o->text;
    o->type = next_item(&rest);
    while ((item = next_item(&rest))) {
        char *equal = strchr(item, '=');

        if (!*item)
            continue;
        if (o->count == NET_OPTIONS_MAX) {
            net_options_free(o);
            return error_set(err, E2BIG, "more than %d options in '%.40s...'", NET_OPTIONS_MAX,
                             spec);
        }
        if (equal)
            *equal = '\0';
        o->item[o->count].key = item;
        o->item[o->count++].value = equal ? equal + 1 : "on";
    }
    return 0;
}

void net_options_free(struct net_options *o)
{
    free(o->text);
    o->text = NULL;
    o->count = 0;
}

const char *net_option(const struct net_options *o, const char *key)
{
    for (unsigned i = o->count; i > 0; i--)
        if (!strcmp(o->item[i - 1].key, key))
            return o->item[i - 1].value;
    return NULL;
}

const char *net_option_next(const struct net_options *o, const char *key, unsigned *position)
{
    while (*position < o->count) {
        unsigned i = (*position)++;

        if (!strcmp(o->item[i].key, key))
            return o->item[i].value;
    }
    return NULL;
}

int net_option_bool(const struct net_options *o, const char *key, bool *out, struct error *err)
{
    const char *value = net_option(o, key);
    bool on, off;

    if (!value)
        return 0;
    on = !strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true");
    off = !strcmp(value, "off") || !strcmp(value, "no") || !strcmp(value, "false");
    if (!on && !off)
        return error_set(err, EINVAL, "%s=%s is neither on nor off", key, value);
    *out = on;
    return 0;
}

int net_option_number(const struct net_options *o, const char *key, uint64_t low, uint64_t high,
                      uint64_t *out, struct error *err)
{
    const char *value = net_option(o, key);
    unsigned long long n;
    char *end;

    if (!value)
        return 0;
    errno = 0;
    n = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || errno || *end || n < low || n > high)
        return error_set(err, EINVAL, "%s=%s is not a number from %llu to %llu", key, value,
                         (unsigned long long)low, (unsigned long long)high);
    *out = n;
    return 0;
}

int net_option_fd(const struct net_options *o, const char *key, int *out, struct error *err)
{
    uint64_t n = 0;
    int r = net_option_number(o, key, 3, 1 << 20, &n, err);

    if (r < 0 || !net_option(o, key))
        return r;
    if (fcntl((int)n, F_GETFD) < 0)
        return error_set(err, EBADF, "%s=%d: no such descriptor is open", key, (int)n);
    *out = (int)n;
    return 0;
}
