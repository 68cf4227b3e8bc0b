/*
 * vnc.h - a VNC server for a machine's screen, keyboard and pointer (by libvncserver).
 *
 * It has a thread of its own, in which all of libvncserver runs.
 */
#ifndef DISPLAY_VNC_H
#define DISPLAY_VNC_H

#include "display/display.h"

struct vnc;

/*
 * `spec`: "[HOST]:N" (TCP port 5900 + N; no host: 127.0.0.1) or "unix:PATH", and any of
 *   password-file=FILE  its first line, up to eight letters, is asked for
 *   keymap=NAME         the guest's layout (en-us)
 *   screen=N            which one (0)
 *   port=N              the TCP port itself, 0: any that is free
 */
int vnc_open(struct display *d, const char *spec, struct vnc **out, struct error *err);
void vnc_free(struct vnc *v);           /* NULL is nothing */
unsigned vnc_port(const struct vnc *v); /* TCP; 0: a UNIX socket */

#endif
