/*
 * plan.h - from what people say (an image, --disk, --net, --forward, --user ...) to what a machine
 * is built from: drives, devices, networks, firmware and board.
 */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli/cli.h"

/* Completes *o; each decision that was not the user's is told in a line. 0, or -errno with *err. */
int plan_make(struct run_options *o, struct error *err);
/* What it allocated and opened. */
void plan_free(struct run_options *o);

#endif
