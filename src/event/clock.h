/*
 * clock.h - guest time, and timers on it.
 *
 * Guest time counts nanoseconds from the creation of the machine and stands still while the
 * machine is paused. A manual clock moves only when told to (unit tests, record and replay).
 *
 * Threads: every call may come from any thread. Timers fire on the thread that calls
 * clock_run(): the event loop's, or a busy vCPU's through clock_poll(), so that a guest's time does
 * not depend on when the host gets round to our main thread. A clock's lock is a leaf: nothing is
 * called with it held.
 */
#ifndef EVENT_CLOCK_H
#define EVENT_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct clock;
struct clock_timer;

#define CLOCK_NEVER UINT64_MAX

struct clock *clock_new(void);                       /* runs with the host's monotonic clock */
struct clock *clock_new_manual(uint64_t start_nsec); /* moved by clock_advance() only */
void clock_free(struct clock *c);                    /* timers on it must be disarmed before */

uint64_t clock_now(struct clock *c);
void clock_stop(struct clock *c); /* guest time stands still; may be nested with clock_start */
void clock_start(struct clock *c);
bool clock_is_stopped(struct clock *c);
/* Restore: guest time becomes `nsec`. Armed deadlines keep their absolute values. */
void clock_set(struct clock *c, uint64_t nsec);

/* A host descriptor that becomes readable when a timer is due; -1 on a manual clock. */
int clock_fd(struct clock *c);
/* Fire all timers that are due, earliest first. */
void clock_run(struct clock *c);
/* The same, cheap (some 25 ns) while nothing is due. Not for manual clocks. */
void clock_poll(struct clock *c);
/* Manual clock only: step to each deadline on the way, firing, and end `nsec` later. */
void clock_advance(struct clock *c, uint64_t nsec);
uint64_t clock_next_deadline(struct clock *c); /* CLOCK_NEVER: no timer armed */

/*
 * A timer. The owner embeds it and calls clock_timer_init() once.
 *
 * fire() is called without locks. An owner that guards its state by a lock takes that lock, then
 * asks clock_timer_claim(): false means the timer was re-armed or disarmed meanwhile and this
 * firing no longer counts.
 */
struct clock_timer {
    struct clock *clock;
    void (*fire)(struct clock_timer *t);
    uint64_t deadline; /* guest nanoseconds */
    int heap_index;    /* -1: not armed */
    bool firing;
};

void clock_timer_init(struct clock_timer *t, struct clock *c, void (*fire)(struct clock_timer *t));
void clock_timer_set(struct clock_timer *t, uint64_t deadline); /* guest ns; CLOCK_NEVER disarms */
bool clock_timer_claim(struct clock_timer *t);

#endif
