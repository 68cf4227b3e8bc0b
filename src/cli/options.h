/*
 * options.h - one table of options per command: parsing, help, completion and manual read it.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "base/error.h"
#include "base/util.h"

#include <stdio.h>

struct option_spec {
    const char *name;     /* without the dashes; NULL ends the table */
    char letter;          /* short form; 0: none */
    const char *argument; /* what stands for it in help; NULL: takes none */
    const char *choices;  /* "a|b|c" where it is one of few: checked, and offered by completion */
    const char *help;     /* one line */
    /* `value` is NULL where the option takes none. */
    int (*set)(void *target, const char *value, struct error *err);
    bool rare; /* not in the short help */
};

enum { OPTIONS_MAX = 64 };

/*
 * Parse argv[1..]; options and operands may be mixed, "--" ends options. An operand goes to
 * `operand`. 0; 1 where --help (or -h) was met, which every table has; -EINVAL with *err.
 */
int options_parse(const struct option_spec *specs, int argc, char **argv, void *target,
                  int (*operand)(void *target, const char *value, struct error *err),
                  struct error *err);

/* Two columns, fitting 80. `all`: the rare ones too. */
void options_help(const struct option_spec *specs, bool all, FILE *out);

/* The candidate nearest to `word`, or NULL where none is near. next(n) gives them, then NULL. */
const char *nearest_word(const char *word, const char *(*next)(const void *opaque, unsigned n),
                         const void *opaque);

/* "512M", "1G": digits and one of K, M, G, T. */
int parse_size(const char *text, uint64_t *out, struct error *err);
int parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *out, struct error *err);

#endif
