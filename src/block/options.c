/*
 * options.c - "name=value,name=value": options of disks and of new images, and sizes as people
 * write them. A comma inside a value is doubled.
 */
#include "block/block.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { OPTIONS = 64 };

struct block_options {
    unsigned count;
    struct {
        char *name, *value;
        bool used;
    } option[OPTIONS];
};

/* Up to a single comma; the rest's start. */
static const char *take_value(const char *text, char **out)
{
    char *value = xcalloc(1, strlen(text) + 1);
    size_t n = 0;

    for (; *text; text++) {
        if (*text == ',') {
            if (text[1] != ',')
                break;
            text++;
        }
        value[n++] = *text;
    }
    *out = value;
    return *text ? text + 1 : text;
}

struct block_options *block_options_parse(const char *text, struct error *err)
{
    struct block_options *o = xcalloc(1, sizeof(*o));

    while (text && *text) {
        size_t n = strcspn(text, "=,");

        if (text[n] != '=' || n == 0) {
            error_set(err, EINVAL, "'%.*s' is not of the form name=value", (int)n, text);
            block_options_free(o);
            return NULL;
        }
        if (o->count == OPTIONS) {
            error_set(err, E2BIG, "more than %d options", OPTIONS);
            block_options_free(o);
            return NULL;
        }
        o->option[o->count].name = strndup(text, n);
        text = take_value(text + n + 1, &o->option[o->count].value);
        o->count++;
    }
    return o;
}

void block_options_free(struct block_options *o)
{
    for (unsigned i = 0; o && i < o->count; i++) {
        free(o->option[i].name);
        free(o->option[i].value);
    }
    free(o);
}

/* The last one counts, as elsewhere on command lines. */
const char *block_option(struct block_options *o, const char *name)
{
    const char *value = NULL;

    for (unsigned i = 0; i < o->count; i++)
        if (!strcmp(o->option[i].name, name)) {
            o->option[i].used = true;
            value = o->option[i].value;
        }
    return value;
}

const char *block_option_unused(const struct block_options *o)
{
    for (unsigned i = 0; i < o->count; i++)
        if (!o->option[i].used)
            return o->option[i].name;
    return NULL;
}

int block_parse_size(const char *text, uint64_t *out, struct error *err)
{
    static const char suffixes[] = "bkmgtpe";
    unsigned shift = 0;
    const char *suffix;
    double value;
    uint64_t whole;
    char *end;

    errno = 0;
    whole = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || errno)
        return error_set(err, EINVAL, "'%s' is not a size, as in 512M or 10G", text);
    value = (double)whole;
    if (*end == '.') {
        value = strtod(text, &end);
        whole = 0;
    }
    if (*end && (suffix = strchr(suffixes, tolower((unsigned char)*end)))) {
        shift = 10 * (unsigned)(suffix - suffixes);
        end++;
    }
    if (*end)
        return error_set(err, EINVAL, "'%s' is not a size, as in 512M or 10G", text);
    if (ldexp(value, (int)shift) >= 0x1p63)
        return error_set(err, ERANGE, "size '%s' is too large", text);
    *out = whole ? whole << shift : (uint64_t)ldexp(value, (int)shift);
    return 0;
}

int block_option_size(struct block_options *o, const char *name, uint64_t *out, struct error *err)
{
    const char *value = block_option(o, name);
    int r = value ? block_parse_size(value, out, err) : 0;

    return r < 0 ? error_prefix(err, r, "option %s: ", name) : 0;
}

int block_option_bool(struct block_options *o, const char *name, bool *out, struct error *err)
{
    const char *value = block_option(o, name);

    if (!value)
        return 0;
    if (!strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true"))
        *out = true;
    else if (!strcmp(value, "off") || !strcmp(value, "no") || !strcmp(value, "false"))
        *out = false;
    else
        return error_set(err, EINVAL, "option %s: '%s' is neither on nor off", name, value);
    return 0;
}
