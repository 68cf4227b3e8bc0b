/*
 * backends.h - --chardev, --drive and --netdev: host objects with names, which devices take by the
 * properties chardev=, drive= and netdev=; and what --device help prints.
 */
#ifndef CLI_BACKENDS_H
#define CLI_BACKENDS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdio.h>

struct backends;
struct chardev;
struct machine;
struct run_options;

/* Opens what the options say and makes it known to the machine. `terminal`: for --display text,
 * else NULL. On failure *out is to be freed. */
int backends_open(struct machine *m, const struct run_options *o, struct chardev *terminal,
                  struct backends **out, struct error *err);
void backends_free(struct backends *b); /* after the devices, before the machine's loop; or NULL */

/* `text`: "help" or "TYPE,help". False: it is something else. */
bool device_help(FILE *out, const char *text);

#endif
