/*
 * loop.h - the main loop: host descriptors, the guest clock's timers, and posted calls.
 *
 * One loop for a machine, run by the thread that created it (the main thread). Back ends (a
 * terminal, a socket, a tap) and timers live on it; vCPU threads never do. Handlers must not
 * block. loop_post() and loop_quit() may be called from any thread and from signal handlers'
 * helper threads; everything else belongs to the loop's thread.
 */
#ifndef EVENT_LOOP_H
#define EVENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct clock;
struct loop;
struct loop_fd;

struct loop *loop_new(struct clock *clock); /* the clock is not owned */
void loop_free(struct loop *l);

/* `events`: EPOLLIN | EPOLLOUT | ... A handler may remove any watch, its own included. */
struct loop_fd *loop_add_fd(struct loop *l, int fd, uint32_t events,
                            void (*ready)(void *opaque, uint32_t events), void *opaque);
void loop_modify_fd(struct loop_fd *w, uint32_t events);
void loop_remove_fd(struct loop_fd *w); /* the descriptor stays open; NULL is nothing */

/* Run `call(opaque)` on the loop's thread, soon, in order of posting. */
void loop_post(struct loop *l, void (*call)(void *opaque), void *opaque);
/* Forget calls posted for `opaque` that have not run yet: it is about to be freed. */
void loop_cancel_posts(struct loop *l, void *opaque);

void loop_run(struct loop *l); /* until loop_quit() */
void loop_quit(struct loop *l);
/* One round, waiting at most `timeout_msec` (-1: for ever). For tests and tools. */
void loop_poll(struct loop *l, int timeout_msec);

#endif
