/*
 * keymap.h - which key of a keyboard a symbol is on, for front ends that get symbols (VNC) or
 * characters (a terminal) instead of keys.
 */
#ifndef DISPLAY_KEYMAP_H
#define DISPLAY_KEYMAP_H

#include "base/util.h"

struct keymap;

/* "en-us", "en-gb", "de", "fr": the layout the guest believes in. NULL: there is none of that name.
 */
const struct keymap *keymap_find(const char *name);
const char *keymap_names(void); /* for messages */

/* The Linux code of the key with the X11 keysym; 0: none. *shift and *altgr (either may be NULL):
 * what must be held to get it. */
unsigned keymap_code(const struct keymap *k, uint32_t keysym, bool *shift, bool *altgr);

#endif
