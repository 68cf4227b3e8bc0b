/* The formats besides qcow2, by the same model. */
#include "support/unit.h"

#include "base/log.h"
#include "unit/block/model.h"

static const struct model_setup setups[] = {
    {.format = "raw", .size = 2 * MiB},
    {.format = "vdi", .size = 9 * MiB},
    {.format = "vdi", .size = 5 * MiB + 512, .options = "static=on"},
};

static void random_use_agrees_with_a_model(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++)
        for (unsigned k = 0; k < 2; k++) {
            print_message("# setup %u.%u %s %s\n", i, k, setups[i].format, setups[i].options);
            model_run(&setups[i], 1000 * i + k, 1000);
        }
}

static void a_power_cut_loses_nothing_flushed(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++) {
        struct model_setup s = setups[i];

        s.leaks = true;
        print_message("# setup %u %s %s\n", i, s.format, s.options);
        model_cut(&s, 77 + i, 100, 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_use_agrees_with_a_model),
        cmocka_unit_test(a_power_cut_loses_nothing_flushed),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
