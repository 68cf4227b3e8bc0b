#include "support/unit.h"

#include "base/util.h"
#include "event/clock.h"
#include "event/loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <unistd.h>

struct seen {
    char order[16];
    unsigned count;
    struct loop *loop;
    struct loop_fd *watch, *other;
};

static void note_a(void *opaque)
{
    struct seen *s = opaque;

    s->order[s->count++] = 'a';
}

static void note_b_and_cancel(void *opaque)
{
    struct seen *s = *(struct seen **)opaque;

    s->order[s->count++] = 'b';
    loop_cancel_posts(s->loop, s);
}

static void posted_calls_run_in_order_until_cancelled(void **state)
{
    struct loop *l = loop_new(NULL);
    struct seen s = {.loop = l}, *ps = &s;

    (void)state;
    loop_post(l, note_a, &s);
    loop_post(l, note_b_and_cancel, &ps);
    loop_post(l, note_a, &s); /* cancelled by the one before it */
    loop_poll(l, 0);
    loop_poll(l, 0);
    assert_string_equal(s.order, "ab");
    loop_free(l);
}

static void remove_both(void *opaque, uint32_t events)
{
    struct seen *s = opaque;

    (void)events;
    s->count++;
    loop_remove_fd(s->watch);
    loop_remove_fd(s->other);
    s->watch = s->other = NULL;
}

static void a_removed_watch_is_not_called(void **state)
{
    struct loop *l = loop_new(NULL);
    struct seen s = {.loop = l};
    int a[2], b[2];

    (void)state;
    assert_int_equal(pipe(a) | pipe(b), 0);
    assert_int_equal(write(a[1], "x", 1), 1);
    assert_int_equal(write(b[1], "x", 1), 1);
    s.watch = loop_add_fd(l, a[0], EPOLLIN, remove_both, &s);
    s.other = loop_add_fd(l, b[0], EPOLLIN, remove_both, &s);
    loop_poll(l, 0);
    loop_poll(l, 0);
    assert_int_equal(s.count, 1);
    loop_free(l);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

static void quit_from_timer(struct clock_timer *t);

struct alarm {
    struct clock_timer timer;
    struct loop *loop;
};

static void quit_from_timer(struct clock_timer *t)
{
    if (clock_timer_claim(t))
        loop_quit(container_of(t, struct alarm, timer)->loop);
}

static void timers_wake_the_loop(void **state)
{
    struct clock *c = clock_new();
    struct loop *l = loop_new(c);
    struct alarm a = {.loop = l};
    uint64_t start = clock_now(c);

    (void)state;
    clock_timer_init(&a.timer, c, quit_from_timer);
    clock_timer_set(&a.timer, start + 5 * NSEC_PER_MSEC);
    loop_run(l);
    assert_true(clock_now(c) - start >= 5 * NSEC_PER_MSEC);
    loop_free(l);
    clock_free(c);
}

static void *quit_later(void *opaque)
{
    usleep(2000);
    loop_quit(opaque);
    return NULL;
}

static void another_thread_can_quit_it(void **state)
{
    struct loop *l = loop_new(NULL);
    pthread_t t;

    (void)state;
    assert_int_equal(pthread_create(&t, NULL, quit_later, l), 0);
    loop_run(l);
    pthread_join(t, NULL);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posted_calls_run_in_order_until_cancelled),
        cmocka_unit_test(a_removed_watch_is_not_called),
        cmocka_unit_test(timers_wake_the_loop),
        cmocka_unit_test(another_thread_can_quit_it),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
