#include "support/test_machine.h"
#include "support/unit.h"

#include "memory/ram.h"
#include "state/state.h"

#include <stdio.h>

/* A device whose line follows its one saved field. */
struct latch {
    struct device dev;
    uint32_t value;
    struct irq_line line;
};

static void latch_refresh(struct device *dev)
{
    irq_line_set(&((struct latch *)dev)->line, ((struct latch *)dev)->value != 0);
}

static void latch_reset(struct device *dev)
{
    ((struct latch *)dev)->value = 0;
    latch_refresh(dev);
}

static int latch_realize(struct device *dev, struct error *err)
{
    return device_claim_irq(dev, 5, &((struct latch *)dev)->line, err);
}

static const struct state_field latch_state[] = {
    STATE_U32(struct latch, value),
    STATE_END,
};

static const struct device_type latch_type = {
    .name = "latch",
    .summary = "for this test",
    .instance_size = sizeof(struct latch),
    .state = latch_state,
    .realize = latch_realize,
    .reset = latch_reset,
    .refresh = latch_refresh,
};

struct bytes {
    char *data;
    size_t size;
};

static struct bytes save(struct machine *m)
{
    struct bytes b = {0};
    struct error err = {0};
    FILE *out = open_memstream(&b.data, &b.size);

    assert_int_equal(state_save_machine(out, m, &err), 0);
    fclose(out);
    return b;
}

static int load(struct machine *m, const void *data, size_t size, struct error *err)
{
    FILE *in = fmemopen((void *)(uintptr_t)data, size, "r");
    int r;

    assert_non_null(in);
    r = state_load_machine(in, m, err);
    fclose(in);
    return r;
}

static void set_latch(struct machine *m, uint32_t value)
{
    ((struct latch *)test_device(m))->value = value;
    latch_refresh(test_device(m));
}

static void brings_back_clock_memory_and_devices(void **state)
{
    struct machine *m = *state;
    struct error err = {0};
    struct bytes b;
    uint64_t then;

    assert_int_equal(test_add(m, &latch_type, NULL, NULL), 0);
    set_latch(m, 3);
    mmio_write(m, 0x5ff8, 0x1234, 8);
    mmio_write(m, 16 * MiB - 8, 0x5678, 8);
    then = clock_now(m->clock);
    b = save(m);
    /* Mostly empty memory makes a small file. */
    assert_true(b.size < 4 * RAM_PAGE_SIZE);

    test_advance(m, 1000);
    set_latch(m, 0);
    mmio_write(m, 0x5ff8, 0, 8);
    mmio_write(m, 0x100000, 0xbad, 8); /* a page that was zero */
    m->ram->tracking = RAM_DIRTY_MIGRATION;
    if (load(m, b.data, b.size, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(clock_now(m->clock), then);
    assert_true(test_irq(m, 5));
    assert_int_equal(mmio_read(m, 0x5ff8, 8), 0x1234);
    assert_int_equal(mmio_read(m, 16 * MiB - 8, 8), 0x5678);
    assert_int_equal(mmio_read(m, 0x100000, 8), 0);
    /* Whoever follows writes was told of the pages that changed, and only of them. */
    assert_true(ram_test_and_clear(m->ram, 0x5000, RAM_DIRTY_MIGRATION));
    assert_true(ram_test_and_clear(m->ram, 0x100000, RAM_DIRTY_MIGRATION));
    assert_false(ram_test_and_clear(m->ram, 0x200000, RAM_DIRTY_MIGRATION));
    free(b.data);
}

static void brings_back_processors(void **state)
{
    struct machine *m = *state;
    struct error err = {0};
    struct bytes b;
    uint64_t tsc, host;

    for (unsigned i = 0; i < 2; i++)
        m->cpus[m->cpu_count++] = cpu_new(i, i, &m->model);
    m->cpus[0]->gpr[GPR_RBX] = 0x1122334455667788;
    m->cpus[1]->zmm[31][63] = 0x9a;
    m->cpus[1]->tsc_offset = m->cpus[0]->tsc_offset + 1000;
    m->cpus[0]->events = CPU_EVENT_NMI | CPU_EVENT_INTR;
    m->cpus[1]->events = CPU_EVENT_SIPI;
    b = save(m);
    tsc = cpu_read_tsc(m->cpus[0]);
    /* As if the host that saved it had been up for longer. */
    memcpy(&host, b.data + 39, 8);
    host += UINT64_C(1) << 50;
    memcpy(b.data + 39, &host, 8);

    cpu_reset(m->cpus[0]);
    cpu_reset(m->cpus[1]);
    m->cpus[0]->events = CPU_EVENT_SMI | CPU_EVENT_EXIT;
    m->cpus[1]->events = 0;
    m->cpus[1]->zmm[31][63] = 0;
    if (load(m, b.data, b.size, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(m->cpus[0]->gpr[GPR_RBX], 0x1122334455667788);
    assert_int_equal(m->cpus[1]->zmm[31][63], 0x9a);
    /* Levels and what the machine wants are not the snapshot's. */
    assert_int_equal(m->cpus[0]->events, CPU_EVENT_NMI | CPU_EVENT_EXIT);
    assert_int_equal(m->cpus[1]->events, CPU_EVENT_SIPI);
    assert_int_equal(m->cpus[1]->tsc_offset - m->cpus[0]->tsc_offset, 1000);
    assert_in_range(cpu_read_tsc(m->cpus[0]), tsc + (UINT64_C(1) << 50) - (UINT64_C(1) << 40),
                    tsc + (UINT64_C(1) << 50) + (UINT64_C(1) << 40));
    for (size_t length = 1; length < 400; length++)
        assert_int_equal(load(m, b.data, length, &err), -EINVAL);
    free(b.data);
}

static void refuses_every_truncation(void **state)
{
    struct machine *m = *state;
    struct error err = {0};
    struct bytes b;

    assert_int_equal(test_add(m, &latch_type, NULL, NULL), 0);
    b = save(m);
    for (size_t length = 1; length < b.size; length++) {
        err.text[0] = '\0';
        assert_int_equal(load(m, b.data, length, &err), -EINVAL);
        assert_true(err.text[0]);
    }
    free(b.data);
}

static void refuses_another_machine_and_hostile_lengths(void **state)
{
    struct machine *m = *state;
    struct error err = {0};
    struct bytes b = save(m);
    size_t memory = 16 + 2 + 5 + 8 + 16; /* magic, the clock's head and times */
    uint64_t huge = UINT64_MAX;

    assert_int_equal(load(m, "something else, longer", 22, &err), -EINVAL);
    assert_string_equal(err.text, "this is not the saved state of a machine");

    assert_int_equal(test_add(m, &latch_type, NULL, NULL), 0);
    assert_int_equal(load(m, b.data, b.size, &err), -EINVAL);
    assert_non_null(strstr(err.text, "section 4 'latch0' expected, 5 '' found"));
    free(b.data);

    set_latch(m, 1);
    mmio_write(m, 0x3000, 1, 8);
    b = save(m);
    assert_int_equal(b.data[memory], 3);
    memcpy(b.data + memory + 5, &huge, 8); /* length of the section */
    assert_int_equal(load(m, b.data, b.size, &err), -EINVAL);
    free(b.data);

    b = save(m);
    huge = 1 << 30;
    memcpy(b.data + memory + 21, &huge, 8); /* offset of the page: beyond memory */
    assert_int_equal(load(m, b.data, b.size, &err), -EINVAL);
    assert_non_null(strstr(err.text, "there is no page 0x40000000"));
    huge = 0x3001;
    memcpy(b.data + memory + 21, &huge, 8); /* not aligned */
    assert_int_equal(load(m, b.data, b.size, &err), -EINVAL);
    free(b.data);

    b = save(m);
    /* The device's section is last but the end: its length says more than there is. */
    huge = UINT64_C(1) << 60;
    for (size_t at = 0; at + 16 < b.size; at++)
        if (!memcmp(b.data + at, "latch0", 6)) {
            memcpy(b.data + at + 6, &huge, 8);
            break;
        }
    assert_int_equal(load(m, b.data, b.size, &err), -EINVAL);
    assert_string_equal(err.text, "the state is cut short");
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(brings_back_clock_memory_and_devices, test_machine_setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(brings_back_processors, test_machine_setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(refuses_every_truncation, test_machine_setup,
                                        test_machine_teardown),
        cmocka_unit_test_setup_teardown(refuses_another_machine_and_hostile_lengths,
                                        test_machine_setup, test_machine_teardown),
    };
    return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
