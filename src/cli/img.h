/*
 * img.h - what the files of `hospes img` share.
 *
 * Options are named as qemu-img's. Exit statuses, too: see img_check() and img_compare().
 */
#ifndef CLI_IMG_H
#define CLI_IMG_H

#include "base/error.h"
#include "block/block.h"
#include "cli/options.h"

#include <signal.h>
#include <stdbool.h>

/* What was on the command line; a command's table of options fills what it knows. */
struct img_options {
    const char *format, *other_format, *options, *backing, *backing_format, *preallocation;
    const char *cache, *repair, *snapshot_create, *snapshot_apply, *snapshot_delete;
    const char *operand[2];
    unsigned operands;
    uint64_t sparse;
    bool json, force_share, chain, compress, no_create, shrink, strict, list, quiet, progress;
    bool data_file;
};

enum { IMG_FAILED = 1, IMG_USAGE = 2 };

extern volatile sig_atomic_t img_stopped; /* a signal asks us to end */
void img_catch_signals(void);

/* A line on a terminal that says how far we are; nothing elsewhere. */
struct img_progress {
    bool shown, drawn;
    double began, last;
};
void img_progress_begin(struct img_progress *p, const struct img_options *o);
void img_progress_show(struct img_progress *p, uint64_t done, uint64_t all);
void img_progress_end(struct img_progress *p);

/* Open an operand for a person's command: the format may be guessed when it is only read. */
struct block_node *img_open(const struct img_options *o, const char *name, const char *format,
                            unsigned flags, struct error *err);

int img_convert(const struct img_options *o);
int img_compare(const struct img_options *o);

#endif
