#include "support/unit.h"

#include "base/util.h"
#include "event/clock.h"

struct shot {
    struct clock_timer timer;
    unsigned fired;
    uint64_t at;
    uint64_t again; /* re-arm this much later */
};

static void shot_fire(struct clock_timer *t)
{
    struct shot *s = container_of(t, struct shot, timer);

    if (!clock_timer_claim(t))
        return;
    s->fired++;
    s->at = clock_now(t->clock);
    if (s->again)
        clock_timer_set(t, t->deadline + s->again);
}

static void fires_in_order_and_at_the_deadline(void **state)
{
    struct clock *c = clock_new_manual(1000);
    struct shot s[20] = {0};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
        clock_timer_init(&s[i].timer, c, shot_fire);
        clock_timer_set(&s[i].timer, 1000 + (i * 7 % ARRAY_SIZE(s)) * 10 + 10);
    }
    clock_timer_set(&s[3].timer, CLOCK_NEVER);
    clock_advance(c, 100);
    for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
        uint64_t deadline = 1000 + (i * 7 % ARRAY_SIZE(s)) * 10 + 10;

        assert_int_equal(s[i].fired, i != 3 && deadline <= 1100);
        if (s[i].fired)
            assert_int_equal(s[i].at, deadline);
    }
    assert_int_equal(clock_now(c), 1100);
    assert_int_equal(clock_next_deadline(c), 1110);
    for (unsigned i = 0; i < ARRAY_SIZE(s); i++)
        clock_timer_set(&s[i].timer, CLOCK_NEVER);
    assert_int_equal(clock_next_deadline(c), CLOCK_NEVER);
    clock_free(c);
}

static void a_periodic_timer_keeps_its_phase(void **state)
{
    struct clock *c = clock_new_manual(5);
    struct shot s = {.again = 100};

    (void)state;
    clock_timer_init(&s.timer, c, shot_fire);
    clock_timer_set(&s.timer, 105);
    clock_advance(c, 1000);
    assert_int_equal(s.fired, 10);
    assert_int_equal(s.at, 1005);
    clock_timer_set(&s.timer, CLOCK_NEVER);
    clock_free(c);
}

static void rearm_on_fire(struct clock_timer *t)
{
    struct shot *s = container_of(t, struct shot, timer);

    /* Somebody disarms between the pop and the owner's lock. */
    clock_timer_set(t, CLOCK_NEVER);
    s->fired += clock_timer_claim(t);
}

static void a_disarmed_firing_does_not_count(void **state)
{
    struct clock *c = clock_new_manual(0);
    struct shot s = {0};

    (void)state;
    clock_timer_init(&s.timer, c, rearm_on_fire);
    clock_timer_set(&s.timer, 10);
    clock_advance(c, 20);
    assert_int_equal(s.fired, 0);
    clock_free(c);
}

static void stands_still_while_stopped(void **state)
{
    struct clock *c = clock_new();
    uint64_t a, b;

    (void)state;
    clock_stop(c);
    clock_stop(c);
    a = clock_now(c);
    clock_start(c);
    assert_true(clock_is_stopped(c));
    assert_int_equal(clock_now(c), a);
    clock_start(c);
    assert_false(clock_is_stopped(c));
    b = clock_now(c);
    assert_true(b >= a && b - a < NSEC_PER_SEC);
    clock_set(c, 77 * NSEC_PER_SEC);
    b = clock_now(c);
    assert_true(b >= 77 * NSEC_PER_SEC && b < 78 * NSEC_PER_SEC);
    clock_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_in_order_and_at_the_deadline),
        cmocka_unit_test(a_periodic_timer_keeps_its_phase),
        cmocka_unit_test(a_disarmed_firing_does_not_count),
        cmocka_unit_test(stands_still_while_stopped),
    };
    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
