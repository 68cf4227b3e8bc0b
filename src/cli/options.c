/*
 * options.c - see options.h. getopt_long() does the cutting; the messages are ours, because its own
 * neither suggest nor say where help is.
 */
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

int parse_size(const char *text, uint64_t *out, struct error *err)
{
    static const char suffixes[] = "KMGT";
    const char *suffix;
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || errno || !end[0] || end[1] ||
        !(suffix = strchr(suffixes, end[0])))
        return error_set(err, EINVAL,
                         "'%s' is not a size; write a whole number and K, M, G or T, as in 512M",
                         text);
    if (n > UINT64_MAX >> (10 * (suffix - suffixes + 1)))
        return error_set(err, ERANGE, "size '%s' is too large", text);
    *out = (uint64_t)n << (10 * (suffix - suffixes + 1));
    return 0;
}

int parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *out, struct error *err)
{
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || errno || *end || n < low || n > high)
        return error_set(err, EINVAL, "'%s' is not a number from %llu to %llu", text,
                         (unsigned long long)low, (unsigned long long)high);
    *out = n;
    return 0;
}

/* ---- suggestions ------------------------------------------------------------------------------
 */

enum { WORD_MAX = 64 };

/* Levenshtein's distance; words longer than WORD_MAX are far from everything. */
static unsigned distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned row[WORD_MAX + 1];

    if (la > WORD_MAX || lb > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);

            best = MIN(best, above + 1);
            row[j] = MIN(best, row[j - 1] + 1);
            diagonal = above;
        }
    }
    return row[lb];
}

const char *nearest_word(const char *word, const char *(*next)(const void *opaque, unsigned n),
                         const void *opaque)
{
    unsigned limit = (unsigned)strlen(word) / 3 + 1, best = limit + 1;
    const char *found = NULL, *candidate;

    for (unsigned n = 0; (candidate = next(opaque, n)); n++) {
        unsigned d = distance(word, candidate);

        if (d < best) {
            best = d;
            found = candidate;
        }
    }
    return found;
}

static const char *option_name(const void *opaque, unsigned n)
{
    return ((const struct option_spec *)opaque)[n].name;
}

/* The n-th of "a|b|c", in a buffer of the caller's. */
static bool choice(const char *choices, unsigned n, char out[WORD_MAX])
{
    const char *end;

    for (; n; n--) {
        choices = strchr(choices, '|');
        if (!choices)
            return false;
        choices++;
    }
    end = strchrnul(choices, '|');
    if (end - choices >= WORD_MAX)
        return false;
    memcpy(out, choices, (size_t)(end - choices));
    out[end - choices] = '\0';
    return true;
}

static bool is_choice(const char *choices, const char *value)
{
    char word[WORD_MAX];

    for (unsigned n = 0; choice(choices, n, word); n++)
        if (!strcmp(word, value))
            return true;
    return false;
}

/* ---- parsing ----------------------------------------------------------------------------------
 */

enum { FIRST_LONG = 256 };

static int unknown_option(const struct option_spec *specs, const char *argument, struct error *err)
{
    char name[WORD_MAX];
    const char *near;

    while (*argument == '-')
        argument++;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(argument, "="), argument);
    near = nearest_word(name, option_name, specs);
    if (near)
        return error_set(err, EINVAL, "there is no option --%s; did you mean --%s?", name, near);
    return error_set(err, EINVAL, "there is no option --%s; --help lists the options", name);
}

static int apply(const struct option_spec *s, void *target, const char *value, struct error *err)
{
    int r;

    if (value && s->choices && !is_choice(s->choices, value))
        return error_set(err, EINVAL, "option --%s: '%s' is none of %s", s->name, value,
                         s->choices);
    r = s->set ? s->set(target, value, err) : 0;
    return r < 0 ? error_prefix(err, r, "option --%s: ", s->name) : r;
}

int options_parse(const struct option_spec *specs, int argc, char **argv, void *target,
                  int (*operand)(void *target, const char *value, struct error *err),
                  struct error *err)
{
    struct option table[OPTIONS_MAX + 1] = {0};
    char letters[2 * OPTIONS_MAX + 4] = ":"; /* a missing argument is told apart */
    size_t used = 1;
    unsigned count;
    int c, index;

    for (count = 0; count < OPTIONS_MAX && specs[count].name; count++) {
        const struct option_spec *s = &specs[count];

        table[count] = (struct option){.name = s->name,
                                       .has_arg = s->argument ? required_argument : no_argument,
                                       .val = FIRST_LONG + (int)count};
        if (s->letter) {
            letters[used++] = s->letter;
            if (s->argument)
                letters[used++] = ':';
        }
    }
    optind = 0; /* start anew, permuting */
    opterr = 0;
    while ((c = getopt_long(argc, argv, letters, table, &index)) >= 0) {
        const struct option_spec *s = NULL;
        int r;

        for (unsigned i = 0; i < count; i++)
            if (c == FIRST_LONG + (int)i || (c < FIRST_LONG && specs[i].letter == c))
                s = &specs[i];
        if (c == ':') {
            for (unsigned i = 0; i < count; i++)
                if (optopt == FIRST_LONG + (int)i || specs[i].letter == optopt)
                    s = &specs[i];
            return error_set(err, EINVAL, "option %s needs a value%s%s", argv[optind - 1],
                             s ? ": " : "", s ? s->argument : "");
        }
        if (c == '?' && optopt >= FIRST_LONG)
            return error_set(err, EINVAL, "option --%s takes no value",
                             specs[optopt - FIRST_LONG].name);
        if (c == '?' && optopt)
            return error_set(err, EINVAL, "there is no option -%c; --help lists the options",
                             optopt);
        if (!s)
            return unknown_option(specs, argv[optind - 1], err);
        if (!strcmp(s->name, "help"))
            return 1;
        r = apply(s, target, s->argument ? optarg : NULL, err);
        if (r)
            return r;
    }
    for (; optind < argc; optind++) {
        int r = operand ? operand(target, argv[optind], err)
                        : error_set(err, EINVAL, "'%s' is unexpected", argv[optind]);

        if (r < 0)
            return r;
    }
    return 0;
}

void options_help(const struct option_spec *specs, bool all, FILE *out)
{
    for (; specs->name; specs++) {
        char left[WORD_MAX];
        const char *argument = specs->argument;

        if (specs->rare && !all)
            continue;

        if (specs->letter)
            snprintf(left, sizeof(left), "-%c, --%s%s%s", specs->letter, specs->name,
                     argument ? " " : "", argument ? argument : "");
        else
            snprintf(left, sizeof(left), "    --%s%s%s", specs->name, argument ? " " : "",
                     argument ? argument : "");
        fprintf(out, "  %-24s %s\n", left, specs->help);
    }
}
