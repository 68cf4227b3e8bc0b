/*
 * chardev.h - where the bytes of a serial port, a debug port or a monitor go to and come from.
 *
 * A back end (terminal, file, socket, memory) has one user at a time: the front end, a device.
 * Bytes from outside are offered with can_receive() and handed over with receive(), on the loop's
 * thread and without locks; bytes to outside are taken by chardev_write() from any thread, which
 * never blocks: what the host does not take now is buffered up to a bound, then told by its
 * return value, and writable() is called when there is room again.
 */
#ifndef CHARDEV_CHARDEV_H
#define CHARDEV_CHARDEV_H

#include "base/error.h"
#include "base/util.h"

struct chardev;
struct loop;

enum chardev_event { CHARDEV_OPENED, CHARDEV_CLOSED, CHARDEV_BREAK };

struct chardev_user {
    void *opaque;
    size_t (*can_receive)(void *opaque); /* how many bytes may be handed over now */
    void (*receive)(void *opaque, const uint8_t *data, size_t size);
    void (*writable)(void *opaque);                       /* may be NULL */
    void (*event)(void *opaque, enum chardev_event what); /* may be NULL */
};

/* NULL detaches; afterwards none of the old user's hooks is running or will run. Loop's thread. */
void chardev_attach(struct chardev *c, const struct chardev_user *user);
/* The user can take bytes again (its FIFO was read): from any thread. */
void chardev_accept(struct chardev *c);
/* How many bytes were taken; fewer than `size` when the buffer is full. */
size_t chardev_write(struct chardev *c, const void *data, size_t size);
/* Writes out what is buffered, waiting at most a second for a slow reader. NULL is nothing. */
void chardev_free(struct chardev *c);

/* Looks at input before the user does, on the loop's thread; returns how many of the bytes, moved
 * to the front, go on. The terminal's Ctrl-A keys are made of it. */
void chardev_set_filter(struct chardev *c,
                        size_t (*filter)(void *opaque, uint8_t *data, size_t size), void *opaque);

/* Back ends. */
struct chardev *chardev_null(void);
/* Output into memory (up to `limit` bytes, then no more is taken until some is fetched), input by
 * chardev_feed(): tests. `loop` may be NULL: then hooks are called at once. */
struct chardev *chardev_memory(struct loop *loop, size_t limit);
size_t chardev_memory_take(struct chardev *c, void *to, size_t size);
void chardev_feed(struct chardev *c, const void *data, size_t size); /* on the loop's thread */
int chardev_file(struct loop *loop, const char *path, struct chardev **out, struct error *err);
/* Descriptors that are already open; not closed by chardev_free(). fd_in -1: output only. */
int chardev_fds(struct loop *loop, int fd_in, int fd_out, struct chardev **out, struct error *err);

#endif
