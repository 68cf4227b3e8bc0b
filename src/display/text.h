/*
 * text.h - the guest's text screen on a terminal, and the terminal's keys for the guest.
 *
 * The terminal is a character device (chardev/) in raw mode that speaks the usual escape sequences
 * and UTF-8.
 */
#ifndef DISPLAY_TEXT_H
#define DISPLAY_TEXT_H

#include "display/display.h"

struct chardev;
struct text;

/* `keymap`: the guest's layout, NULL: en-us. Attaches to the terminal, which outlives it. Loop's
 * thread. */
int text_open(struct display *d, unsigned screen, struct chardev *terminal, const char *keymap,
              struct text **out, struct error *err);
void text_free(struct text *t); /* leaves the terminal's colours as usual; NULL is nothing */

#endif
