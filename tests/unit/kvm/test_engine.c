/*
 * test_engine.c - the list of engines and the choice among them, with made-up engines.
 */
#include "support/unit.h"

#include "engine/engine.h"

#include <errno.h>

static bool works;

static int probe(struct error *err)
{
    return works ? 0 : error_set(err, ENODEV, "no such hardware");
}

static const struct engine_ops fake_kvm = {
    .name = "kvm", .summary = "made up", .probe = probe, .limits = cpu_limits_software};

static void auto_takes_the_best_that_works(void **state)
{
    struct error err = {0};
    char reason[200];

    works = true;
    assert_ptr_equal(engine_choose("auto", reason, sizeof(reason), &err), &fake_kvm);
    assert_string_equal(reason, "made up");
    assert_ptr_equal(engine_choose(NULL, reason, sizeof(reason), &err), &fake_kvm);
    works = false;
    assert_ptr_equal(engine_choose("auto", reason, sizeof(reason), &err), &engine_interp);
    assert_string_equal(reason,
                        "the reference interpreter, on any host; not kvm: no such hardware");
    assert_int_equal(err.code, 0);
}

static void a_name_means_that_engine(void **state)
{
    struct error err = {0};
    char reason[200];

    works = true;
    assert_ptr_equal(engine_choose("tcg", reason, sizeof(reason), &err), &engine_interp);
    assert_ptr_equal(engine_choose("interp", reason, sizeof(reason), &err), &engine_interp);
    assert_ptr_equal(engine_choose("kvm", reason, sizeof(reason), &err), &fake_kvm);
    works = false;
    assert_null(engine_choose("kvm", reason, sizeof(reason), &err));
    assert_int_equal(err.code, ENODEV);
    assert_string_equal(err.text, "engine 'kvm' cannot run here: no such hardware");
}

static void names_that_are_none(void **state)
{
    struct error err = {0};
    char reason[200];

    assert_null(engine_choose("kwm", reason, sizeof(reason), &err));
    assert_string_equal(err.text, "unknown engine 'kwm'; there are: auto, tcg, kvm, interp");
}

static void the_list_is_best_first(void **state)
{
    engine_register(&fake_kvm); /* again: no change */
    assert_ptr_equal(engine_list(0), &fake_kvm);
    assert_ptr_equal(engine_list(1), &engine_interp);
    assert_null(engine_list(2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_takes_the_best_that_works),
        cmocka_unit_test(a_name_means_that_engine),
        cmocka_unit_test(names_that_are_none),
        cmocka_unit_test(the_list_is_best_first),
    };

    engine_register(&fake_kvm);
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
