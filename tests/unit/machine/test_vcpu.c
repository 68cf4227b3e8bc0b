/*
 * The life of a machine and its processors, with an engine that does what the test tells it: the
 * "program" of a processor is a letter in its RAX.
 */
#include "support/unit.h"

#include "event/clock.h"
#include "machine/machine.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>
#include <x86intrin.h>

enum program { SPIN, HALT, TRIPLE_FAULT, FAIL, POWER_OFF, PANIC };

struct fake {
    atomic_uint runs[4], kicks;
};
static struct fake fake;
static struct machine *machine;

static void fake_limits(struct cpu_limits *out)
{
    cpu_limits_software(out);
}

static int fake_create(struct engine *e, struct error *err)
{
    (void)e;
    (void)err;
    return 0;
}

static enum engine_exit fake_run(struct engine *e, struct cpu *cpu, struct error *err)
{
    (void)e;
    fake.runs[cpu->index]++;
    cpu->activity = CPU_RUNNING;
    switch ((enum program)cpu->gpr[GPR_RAX]) {
    case SPIN:
        while (!(cpu->events & (CPU_EVENT_EXIT | CPU_EVENT_INIT | CPU_EVENT_SIPI)))
            sched_yield();
        return ENGINE_EVENT;
    case HALT: cpu->activity = CPU_HALTED; return ENGINE_HALTED;
    case TRIPLE_FAULT: return ENGINE_SHUTDOWN;
    case FAIL: error_set(err, EIO, "fake: told to fail"); return ENGINE_ERROR;
    case POWER_OFF: machine_request_end(machine, END_POWEROFF); break;
    case PANIC: machine_request_end(machine, END_PANIC); break;
    }
    cpu->gpr[GPR_RAX] = SPIN;
    return ENGINE_EVENT;
}

static void fake_kick(struct cpu *cpu)
{
    (void)cpu;
    fake.kicks++;
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .limits = fake_limits,
    .create = fake_create,
    .run = fake_run,
    .kick = fake_kick,
};

static int board_build(struct machine *m, struct error *err)
{
    (void)m;
    (void)err;
    return 0;
}

static const struct board_type board = {
    .name = "bare", .max_ram_below_4g = 3 * (uint64_t)GiB, .max_cpus = 4, .build = board_build};

static enum program first_program;
static unsigned loads;

static int load(struct machine *m, struct error *err)
{
    (void)err;
    /* What a guest does after a reset may differ: it powers off the second time. */
    m->cpus[0]->gpr[GPR_RAX] = loads++ ? POWER_OFF : first_program;
    return 0;
}

static struct machine *start(enum program program, unsigned cpus, bool no_reboot)
{
    struct machine_config config = {.cpus = cpus, .memory = 16 * MiB, .no_reboot = no_reboot};
    struct error err = {0};

    memset(&fake, 0, sizeof(fake));
    loads = 0;
    first_program = program;
    machine = machine_new(&config, false);
    if (machine_build(machine, &board, &fake_engine, &err) < 0)
        fail_msg("%s", err.text);
    machine->load = load;
    if (machine_start(machine, &err) < 0)
        fail_msg("%s", err.text);
    return machine;
}

static void wait_for(atomic_uint *what, unsigned at_least)
{
    for (unsigned i = 0; i < 5000 && *what < at_least; i++)
        usleep(1000);
    assert_true(*what >= at_least);
}

static void wait_taken(struct cpu *cpu, uint32_t event)
{
    for (unsigned i = 0; i < 5000 && cpu->events & event; i++)
        usleep(1000);
    assert_false(cpu->events & event);
}

static void ends_with_the_reason(void **state)
{
    static const struct {
        enum program program;
        bool no_reboot;
        enum machine_end end;
        unsigned loads;
    } cases[] = {
        {POWER_OFF, false, END_POWEROFF, 1},
        {PANIC, false, END_PANIC, 1},
        {FAIL, false, END_ERROR, 1},
        {TRIPLE_FAULT, true, END_RESET, 1},
        {TRIPLE_FAULT, false, END_POWEROFF, 2}, /* reboots, then powers off */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct machine *m = start(cases[i].program, 2, cases[i].no_reboot);

        assert_int_equal(machine_wait(m), cases[i].end);
        assert_int_equal(loads, cases[i].loads);
        if (cases[i].end == END_ERROR)
            assert_string_equal(m->error.text, "fake: told to fail");
        machine_free(m);
    }
}

static void pausing_stops_processors_and_time(void **state)
{
    struct machine *m = start(SPIN, 3, false);
    uint64_t now;
    unsigned runs;

    (void)state;
    wait_for(&fake.runs[0], 1);
    machine_pause(m);
    machine_pause(m);
    now = clock_now(m->clock);
    runs = fake.runs[0];
    usleep(3000);
    assert_int_equal(clock_now(m->clock), now);
    assert_int_equal(fake.runs[0], runs);
    machine_resume(m);
    wait_for(&fake.runs[0], runs + 1);
    assert_int_equal(fake.runs[1] + fake.runs[2], 0); /* they wait for SIPI */
    for (unsigned i = 0; i < 50; i++) {
        machine_pause(m);
        machine_resume(m);
    }
    machine_free(m);
}

static void the_tsc_does_not_jump_over_a_pause(void **state)
{
    struct machine *m = start(SPIN, 2, false);
    uint64_t offset, skipped, outside, inside, tsc, again;

    (void)state;
    m->cpus[1]->tsc_offset += 12345; /* the guest wrote it: the difference stays */
    wait_for(&fake.runs[0], 1);
    for (unsigned i = 0; i < 2; i++) {
        offset = m->cpus[0]->tsc_offset;
        tsc = cpu_read_tsc(m->cpus[0]);
        outside = __rdtsc();
        machine_pause(m);
        inside = __rdtsc();
        usleep(5000);
        inside = __rdtsc() - inside;
        machine_resume(m);
        outside = __rdtsc() - outside;
        again = cpu_read_tsc(m->cpus[0]);
        skipped = offset - m->cpus[0]->tsc_offset;
        assert_true(skipped >= inside);
        assert_true(skipped <= outside);
        assert_true(again >= tsc);
        assert_int_equal(m->cpus[1]->tsc_offset - m->cpus[0]->tsc_offset, 12345);
    }
    machine_free(m);
}

static void sipi_starts_a_processor_once(void **state)
{
    struct machine *m = start(SPIN, 2, false);

    (void)state;
    m->cpus[1]->sipi_vector = 0x9a;
    cpu_post(m->cpus[1], CPU_EVENT_NMI); /* lost: it does not listen yet */
    cpu_post(m->cpus[1], CPU_EVENT_SIPI);
    wait_for(&fake.runs[1], 1);
    machine_pause(m);
    assert_int_equal(m->cpus[1]->events & CPU_EVENT_NMI, 0);
    assert_int_equal(m->cpus[1]->seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(m->cpus[1]->activity, CPU_RUNNING);
    m->cpus[1]->sipi_vector = 0x10; /* ignored: it runs */
    machine_resume(m);
    cpu_post(m->cpus[1], CPU_EVENT_SIPI);
    wait_taken(m->cpus[1], CPU_EVENT_SIPI);
    machine_pause(m);
    assert_int_equal(m->cpus[1]->seg[SEG_CS].selector, 0x9a00);
    cpu_post(m->cpus[1], CPU_EVENT_NMI);
    cpu_post(m->cpus[1], CPU_EVENT_INIT);
    machine_resume(m);
    wait_taken(m->cpus[1], CPU_EVENT_INIT);
    machine_pause(m);
    assert_int_equal(m->cpus[1]->activity, CPU_WAIT_SIPI);
    assert_int_equal(m->cpus[1]->events & CPU_EVENT_NMI, 0);
    machine_free(m);
}

static void a_halted_processor_sleeps_until_an_interrupt(void **state)
{
    struct machine *m = start(HALT, 1, false);
    unsigned runs;

    (void)state;
    wait_for(&fake.runs[0], 1);
    usleep(5000);
    runs = fake.runs[0];
    assert_int_equal(runs, 1);
    cpu_post(m->cpus[0], CPU_EVENT_INTR); /* IF is clear after reset: masked */
    usleep(5000);
    assert_int_equal(fake.runs[0], runs);
    cpu_post(m->cpus[0], CPU_EVENT_NMI);
    wait_for(&fake.runs[0], runs + 1);
    machine_free(m);
}

static void too_many_processors_are_refused(void **state)
{
    struct machine_config config = {.cpus = 5, .memory = 16 * MiB};
    struct machine *m = machine_new(&config, true);
    struct error err = {0};

    (void)state;
    assert_int_equal(machine_build(m, &board, &fake_engine, &err), -EINVAL);
    assert_string_equal(err.text, "machine 'bare' has 1 to 4 processors, not 5");
    machine_free(m);
}

static void memory_is_split_around_the_hole(void **state)
{
    struct machine_config config = {.cpus = 1, .memory = 5 * (uint64_t)GiB};
    struct machine *m = machine_new(&config, true);
    struct memory_target t;

    (void)state;
    assert_int_equal(machine_build(m, &board, &fake_engine, NULL), 0);
    assert_int_equal(m->ram_above_4g, 2 * (uint64_t)GiB);
    memory_lookup(m->memory, VIEW_NORMAL, 3 * (uint64_t)GiB, &t);
    assert_null(t.block);
    memory_lookup(m->memory, VIEW_NORMAL, 4 * (uint64_t)GiB, &t);
    assert_int_equal(t.offset, 3 * (uint64_t)GiB);
    assert_int_equal(t.length, 2 * (uint64_t)GiB);
    machine_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_with_the_reason),
        cmocka_unit_test(pausing_stops_processors_and_time),
        cmocka_unit_test(the_tsc_does_not_jump_over_a_pause),
        cmocka_unit_test(sipi_starts_a_processor_once),
        cmocka_unit_test(a_halted_processor_sleeps_until_an_interrupt),
        cmocka_unit_test(too_many_processors_are_refused),
        cmocka_unit_test(memory_is_split_around_the_hole),
    };
    return cmocka_run_group_tests_name("vcpu", tests, NULL, NULL);
}
