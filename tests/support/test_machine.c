/*
 * test_machine.c - see test_machine.h. The watchers of the interrupt pins hang on a board of our
 * own, so that machine_free() frees them after the devices.
 */
#include "support/unit.h"

#include "support/test_machine.h"

#include "memory/ram.h"
#include "state/state.h"

#include <stdio.h>

enum { TEST_MAX_DEVICES = 64 };

struct watch {
    struct device dev; /* only so that inputs have an owner */
    bool level[MACHINE_GSI_COUNT];
    unsigned edges[MACHINE_GSI_COUNT];
};

static void watch_set(struct device *chip, unsigned pin, bool level)
{
    struct watch *w = container_of(chip, struct watch, dev);

    w->edges[pin] += level && !w->level[pin];
    w->level[pin] = level;
}

static void free_watch(struct machine *m)
{
    free(m->board_data);
}

static const struct board_type test_board = {
    .name = "test",
    .summary = "RAM and whatever a test adds",
    .max_ram_below_4g = UINT64_C(3) * GiB,
    .max_cpus = 1,
    .free = free_watch,
};

int test_machine_setup(void **state)
{
    struct machine_config config = {
        .board = "test", .cpus = 1, .memory = 16 * MiB, .rtc_base = 1000000007};
    struct machine *m = machine_new(&config, true);
    struct watch *w = xcalloc(1, sizeof(*w));

    m->board = &test_board;
    m->board_data = w;
    m->ram_below_4g = config.memory;
    if (ram_block_new("test.ram", config.memory, &m->ram, NULL) < 0 ||
        memory_add_ram(m->memory, "ram-below-4g", 0, config.memory, PRIORITY_DEFAULT, IN_ALL,
                       m->ram, 0, true, NULL, NULL) < 0)
        return -1;
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        irq_pin_connect(&m->gsi[i],
                        &(struct irq_input){.set = watch_set, .chip = &w->dev, .pin = i});
    *state = m;
    return 0;
}

int test_machine_teardown(void **state)
{
    machine_free(*state);
    *state = NULL;
    return 0;
}

int test_add(struct machine *m, const struct device_type *type, const char *properties,
             struct error *err)
{
    struct error local = {0};

    if (device_add(m, type, properties, err ? err : &local))
        return 0;
    if (!err)
        print_message("%s\n", local.text); /* the caller did not expect it: say why */
    return -(err ? err : &local)->code;
}

struct device *test_device(struct machine *m)
{
    struct device *d = m->devices;

    assert_non_null(d);
    while (d->next)
        d = d->next;
    return d;
}

void test_advance(struct machine *m, uint64_t nsec)
{
    clock_advance(m->clock, nsec);
}

static struct watch *watch_of(struct machine *m, unsigned gsi)
{
    assert_true(gsi < MACHINE_GSI_COUNT);
    return m->board_data;
}

bool test_irq(struct machine *m, unsigned gsi)
{
    return watch_of(m, gsi)->level[gsi];
}

unsigned test_irq_edges(struct machine *m, unsigned gsi)
{
    return watch_of(m, gsi)->edges[gsi];
}

void test_save_reset_restore(struct machine *m)
{
    struct state_buffer saved[TEST_MAX_DEVICES] = {0}, again = {0};
    struct watch before = *watch_of(m, 0);
    struct error err = {0};
    unsigned n = 0;

    for (struct device *d = m->devices; d; d = d->next, n++) {
        assert_true(n < TEST_MAX_DEVICES);
        state_save_device(&saved[n], d);
    }
    for (struct device *d = m->devices; d; d = d->next)
        device_reset(d);
    n = 0;
    for (struct device *d = m->devices; d; d = d->next, n++) {
        if (state_load_device(&saved[n], d, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(saved[n].position, saved[n].size);
    }
    n = 0;
    for (struct device *d = m->devices; d; d = d->next, n++) {
        state_save_device(&again, d);
        assert_int_equal(again.size, saved[n].size);
        assert_memory_equal(again.data, saved[n].data, again.size);
        state_buffer_free(&again);
        state_buffer_free(&saved[n]);
    }
    /* Lines fell and rose again on the way; they must be as they were, and nobody saw it. */
    assert_memory_equal(before.level, watch_of(m, 0)->level, sizeof(before.level));
    memcpy(watch_of(m, 0)->edges, before.edges, sizeof(before.edges));
}

uint8_t in8(struct machine *m, uint16_t port)
{
    return (uint8_t)machine_in(m, port, 1);
}

uint16_t in16(struct machine *m, uint16_t port)
{
    return (uint16_t)machine_in(m, port, 2);
}

uint32_t in32(struct machine *m, uint16_t port)
{
    return (uint32_t)machine_in(m, port, 4);
}

void out8(struct machine *m, uint16_t port, uint8_t value)
{
    machine_out(m, port, value, 1);
}

void out16(struct machine *m, uint16_t port, uint16_t value)
{
    machine_out(m, port, value, 2);
}

void out32(struct machine *m, uint16_t port, uint32_t value)
{
    machine_out(m, port, value, 4);
}

uint64_t mmio_read(struct machine *m, gpa address, unsigned size)
{
    return memory_read(m->memory, VIEW_NORMAL, address, size);
}

void mmio_write(struct machine *m, gpa address, uint64_t value, unsigned size)
{
    memory_write(m->memory, VIEW_NORMAL, address, value, size);
}
