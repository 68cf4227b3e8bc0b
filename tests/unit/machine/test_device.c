#include "support/unit.h"

#include "machine/machine.h"
#include "support/test_machine.h"

/* A device that shows what the core does with it. */
struct probe {
    struct device dev;
    uint8_t small;
    uint64_t big;
    bool flag;
    char *text;
    bool fail;
    void *ref;
    uint32_t saved;
    unsigned resets, expired;
    struct irq_line line, second;
    struct timer timer;
};
#define to_probe(d) container_of(d, struct probe, dev)

static void probe_expired(struct device *dev, struct timer *t)
{
    (void)t;
    to_probe(dev)->expired++;
    irq_line_set(&to_probe(dev)->line, true);
}

static uint64_t probe_read(struct device *dev, uint64_t offset, unsigned size)
{
    (void)size;
    return to_probe(dev)->saved + offset;
}

static void probe_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    (void)offset;
    (void)size;
    to_probe(dev)->saved = (uint32_t)value;
}

static const struct io_ops probe_io = {probe_read, probe_write, 1, 4};

static int probe_realize(struct device *dev, struct error *err)
{
    struct probe *p = to_probe(dev);
    int r;

    timer_init(&p->timer, dev, probe_expired);
    r = device_claim_irq(dev, 5, &p->line, err);
    if (!r)
        r = device_claim_irq(dev, 5, &p->second, err);
    if (!r)
        r = device_map_pio(dev, 0x300, 8, &probe_io, err);
    if (!r && p->fail) {
        timer_set(&p->timer, device_now(dev) + 100);
        irq_line_set(&p->line, true);
        return error_set(err, EIO, "probe: told to fail");
    }
    return r;
}

static void probe_reset(struct device *dev)
{
    to_probe(dev)->resets++;
    to_probe(dev)->saved = 0;
}

static const struct property probe_properties[] = {
    PROPERTY_U8("small", struct probe, small, 7, "a byte"),
    PROPERTY_U64("big", struct probe, big, 1, "eight bytes"),
    PROPERTY_BOOL("flag", struct probe, flag, true, "a switch"),
    PROPERTY_STRING("text", struct probe, text, "initial", "a word"),
    PROPERTY_BOOL("fail", struct probe, fail, false, "fail to realize"),
    PROPERTY_REF("ref", struct probe, ref, "an object"),
    PROPERTY_END,
};

static const struct state_field probe_state[] = {
    STATE_U32(struct probe, saved),
    STATE_END,
};

static const struct device_type probe_type = {
    .name = "probe",
    .summary = "shows what the core does",
    .instance_size = sizeof(struct probe),
    .properties = probe_properties,
    .state = probe_state,
    .realize = probe_realize,
    .reset = probe_reset,
};

static void properties_have_defaults_and_bounds(void **state)
{
    struct machine *m = *state;
    struct error err = {0};
    struct probe *p;

    assert_int_equal(test_add(m, &probe_type, "small=0xff,flag=off,text=word", NULL), 0);
    p = to_probe(test_device(m));
    assert_int_equal(p->small, 255);
    assert_int_equal(p->big, 1);
    assert_false(p->flag);
    assert_string_equal(p->text, "word");
    assert_int_equal(p->resets, 1);
    assert_string_equal(p->dev.id, "probe0");
    device_free(&p->dev);

    assert_int_equal(test_add(m, &probe_type, "small=256", &err), -EINVAL);
    assert_string_equal(err.text, "probe: small=256 is not a number from 0 to 255");
    assert_int_equal(test_add(m, &probe_type, "big=-1", &err), -EINVAL);
    assert_int_equal(test_add(m, &probe_type, "big=18446744073709551616", &err), -EINVAL);
    assert_int_equal(test_add(m, &probe_type, "flag=maybe", &err), -EINVAL);
    assert_string_equal(err.text, "probe: flag=maybe is neither on nor off");
    assert_int_equal(test_add(m, &probe_type, "colour=red", &err), -EINVAL);
    assert_string_equal(err.text,
                        "probe: there is no property 'colour'; '-device probe,help' lists them");
    assert_int_equal(test_add(m, &probe_type, "ref=x", &err), -ENOENT);
}

static void a_failed_realize_gives_everything_back(void **state)
{
    struct machine *m = *state;
    struct error err = {0};

    assert_int_equal(test_add(m, &probe_type, "fail=on", &err), -EIO);
    assert_string_equal(err.text, "probe: told to fail");
    assert_int_equal(in8(m, 0x300), 0xff);
    assert_false(test_irq(m, 5));
    test_advance(m, 1000); /* the timer must not fire into freed memory */
    assert_null(m->devices);
}

static void unplug_gives_everything_back(void **state)
{
    struct machine *m = *state;
    struct probe *p;

    assert_int_equal(test_add(m, &probe_type, NULL, NULL), 0);
    p = to_probe(test_device(m));
    out32(m, 0x300, 0x10);
    assert_int_equal(in8(m, 0x301), 0x11);
    test_save_reset_restore(m);
    assert_int_equal(in8(m, 0x301), 0x11);
    timer_set(&p->timer, device_now(&p->dev) + 10);
    test_advance(m, 10);
    assert_int_equal(p->expired, 1);
    assert_true(test_irq(m, 5));
    timer_set(&p->timer, device_now(&p->dev) + 10);
    device_free(&p->dev);
    assert_false(test_irq(m, 5));
    test_advance(m, 1000);
    assert_int_equal(in8(m, 0x301), 0xff);
}

static void lines_on_one_pin_are_ored(void **state)
{
    struct machine *m = *state;
    struct probe *p;

    assert_int_equal(test_add(m, &probe_type, NULL, NULL), 0);
    p = to_probe(test_device(m));
    irq_line_set(&p->line, true);
    irq_line_set(&p->line, true);
    irq_line_set(&p->second, true);
    irq_line_set(&p->line, false);
    assert_true(test_irq(m, 5));
    assert_int_equal(test_irq_edges(m, 5), 1);
    irq_line_set(&p->second, false);
    assert_false(test_irq(m, 5));
    irq_line_pulse(&p->second);
    assert_int_equal(test_irq_edges(m, 5), 2);
}

static void ids_are_unique(void **state)
{
    struct machine *m = *state;
    struct device *a = device_new(m, &probe_type, NULL), *b = device_new(m, &probe_type, NULL);

    assert_string_equal(a->id, "probe0");
    assert_string_equal(b->id, "probe1");
    device_free(a);
    a = device_new(m, &probe_type, NULL);
    assert_string_equal(a->id, "probe0");
    device_free(a);
    device_free(b);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, test_machine_setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(properties_have_defaults_and_bounds),
        CASE(a_failed_realize_gives_everything_back),
        CASE(unplug_gives_everything_back),
        CASE(lines_on_one_pin_are_ored),
        CASE(ids_are_unique),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
