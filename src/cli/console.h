/*
 * console.h - the terminal as a serial console: raw mode, restored on every way out, and the keys
 * behind Ctrl-A.
 *
 * A serial line cannot tell a guest how large its terminal is; Ctrl-A w types the command that
 * does (stty) instead.
 *
 * One console per process: it owns the terminal and the signals that end or stop the process.
 */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include "base/error.h"
#include "base/util.h"

struct chardev;
struct loop;
struct machine;

/* What the keys and signals ask for; all called on the loop's thread. */
struct console_actions {
    void *opaque;
    void (*quit)(void *opaque);  /* Ctrl-A x, or a signal */
    void (*pause)(void *opaque); /* Ctrl-A p: pause, or go on */
    void (*power)(void *opaque); /* Ctrl-A o: the power button */
    void (*reset)(void *opaque); /* Ctrl-A r */
};

/* Standard input and output as a character device. Where standard input is a terminal it becomes
 * raw and Ctrl-A has its meaning; else bytes pass as they are. */
int console_open(struct loop *loop, const struct console_actions *actions, struct chardev **out,
                 struct error *err);
/* Take over SIGINT, SIGTERM, SIGHUP and SIGQUIT: the first calls quit(), the second kills. Works
 * with and without a console. */
int console_catch_signals(struct loop *loop, const struct console_actions *actions,
                          struct error *err);
/* Restore terminal and signals. The signal that ended us, or 0. */
int console_close(void);

/* The state machine of the keys, without a terminal: takes `size` bytes typed, leaves in `data`
 * what the guest gets, and returns how many. *escape is its state (start with false). For each
 * command key, command(opaque, key) is called. */
size_t console_keys(bool *escape, uint8_t *data, size_t size,
                    void (*command)(void *opaque, char key), void *opaque);

#endif
