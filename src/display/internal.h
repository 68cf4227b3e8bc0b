/* internal.h - between the files of src/display. */
#ifndef DISPLAY_INTERNAL_H
#define DISPLAY_INTERNAL_H

#include "display/display.h"

struct input;
struct input *input_new(void);
void input_free(struct input *i);
struct input *display_input(struct display *d);

#endif
