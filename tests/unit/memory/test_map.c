#include "support/unit.h"

#include "memory/map.h"
#include "memory/ram.h"

#include <errno.h>
#include <stdio.h>

/* The owner of I/O regions here: what the hooks saw. */
struct device {
    uint64_t offset, value;
    unsigned size, reads, writes;
    struct region *drop; /* removed from within a hook */
};

static uint64_t note_read(struct device *dev, uint64_t offset, unsigned size)
{
    dev->offset = offset;
    dev->size = size;
    dev->reads++;
    if (dev->drop) {
        memory_remove(dev->drop);
        dev->drop = NULL;
    }
    return 0x1122334455667788 + offset;
}

static void note_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    dev->offset = offset;
    dev->value = value;
    dev->size = size;
    dev->writes++;
}

static const struct io_ops any_size = {note_read, note_write, 1, 8};
static const struct io_ops only_32 = {note_read, note_write, 4, 4};
static const struct io_ops bytes = {note_read, note_write, 1, 1};

struct fixture {
    struct memory_map *map;
    struct ram_block *ram;
    struct device dev;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    f->map = memory_map_new("memory", UINT64_C(1) << 36);
    if (ram_block_new("ram", 16 * RAM_PAGE_SIZE, &f->ram, NULL) < 0 ||
        memory_add_ram(f->map, "ram", 0x10000, 16 * RAM_PAGE_SIZE, 0, IN_ALL, f->ram, 0, true, NULL,
                       NULL) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memory_map_free(f->map);
    ram_block_free(f->ram);
    free(f);
    return 0;
}

static void nobody_answers_with_ones(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0, 4), 0xffffffff);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, UINT64_MAX - 3, 8), UINT64_MAX);
    memory_write(f->map, VIEW_NORMAL, 0xfffe, 0x44332211, 4); /* half of it is RAM */
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0xfffe, 4), 0x4433ffff);
    assert_int_equal(f->ram->host[0], 0x33);
}

static void sizes_are_the_declared_ones(void **state)
{
    struct fixture *f = *state;
    struct device *d = &f->dev;

    assert_int_equal(memory_add_io(f->map, "d", 0x1000, 16, 0, &only_32, d, NULL, NULL, NULL), 0);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x1004, 4), 0x5566778c);
    assert_int_equal(d->offset, 4);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x1000, 8), 0x5566778c55667788);
    assert_int_equal(d->reads, 3);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x1000, 2), 0xffff); /* never reaches it */
    memory_write(f->map, VIEW_NORMAL, 0x1002, 1, 4); /* unaligned: two pieces of 2, refused */
    assert_int_equal(d->reads, 3);
    assert_int_equal(d->writes, 0);
}

static void an_access_is_cut_at_the_border(void **state)
{
    struct fixture *f = *state;
    struct device low = {0}, high = {0};

    assert_int_equal(memory_add_io(f->map, "l", 0x70, 1, 0, &bytes, &low, NULL, NULL, NULL), 0);
    assert_int_equal(memory_add_io(f->map, "h", 0x71, 1, 0, &any_size, &high, NULL, NULL, NULL), 0);
    memory_write(f->map, VIEW_NORMAL, 0x70, 0xbbaa, 2);
    assert_int_equal(low.value, 0xaa);
    assert_int_equal(high.value, 0xbb);
    assert_int_equal(high.offset, 0);
    assert_int_equal(high.size, 1);
}

static void the_higher_priority_answers(void **state)
{
    struct fixture *f = *state;
    struct memory_target t;
    struct region *over;

    assert_int_equal(
        memory_add_io(f->map, "over", 0x12000, 0x2000, 1, &any_size, &f->dev, NULL, &over, NULL),
        0);
    memory_lookup(f->map, VIEW_NORMAL, 0x11ff8, &t);
    assert_ptr_equal(t.block, f->ram);
    assert_int_equal(t.length, 8);
    memory_lookup(f->map, VIEW_NORMAL, 0x12008, &t);
    assert_true(t.io);
    assert_int_equal(t.length, 0x1ff8);
    memory_lookup(f->map, VIEW_NORMAL, 0x14000, &t);
    assert_ptr_equal(t.block, f->ram);
    assert_int_equal(t.offset, 0x4000);
    memory_place(over, 0x15000, true);
    memory_lookup(f->map, VIEW_NORMAL, 0x12008, &t);
    assert_ptr_equal(t.block, f->ram);
    memory_place(over, 0x15000, false);
    memory_lookup(f->map, VIEW_NORMAL, 0x15000, &t);
    assert_ptr_equal(t.block, f->ram);
    memory_place(over, UINT64_MAX - 0x100, true); /* out of range: hidden */
    memory_lookup(f->map, VIEW_NORMAL, UINT64_MAX - 0x100, &t);
    assert_false(t.io);
}

static void views_differ(void **state)
{
    struct fixture *f = *state;
    struct ram_block *smram;
    struct region *r;

    assert_int_equal(ram_block_new("smram", RAM_PAGE_SIZE, &smram, NULL), 0);
    assert_int_equal(memory_add_ram(f->map, "smram", 0x10000, RAM_PAGE_SIZE, PRIORITY_SMRAM, IN_SMM,
                                    smram, 0, true, &r, NULL),
                     0);
    memory_write(f->map, VIEW_SMM, 0x10000, 0x55, 1);
    memory_write(f->map, VIEW_NORMAL, 0x10000, 0x66, 1);
    assert_int_equal(smram->host[0], 0x55);
    assert_int_equal(f->ram->host[0], 0x66);
    memory_set_visibility(r, IN_ALL);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x10000, 1), 0x55);
    memory_set_writable(r, false);
    memory_write(f->map, VIEW_NORMAL, 0x10000, 0x77, 1);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x10000, 1), 0x55);
    memory_remove(r);
    ram_block_free(smram);
}

static void a_hook_may_remove_its_own_region(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(
        memory_add_io(f->map, "self", 0x100, 8, 0, &any_size, &f->dev, NULL, &f->dev.drop, NULL),
        0);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x100, 1), 0x88);
    assert_int_equal(memory_read(f->map, VIEW_NORMAL, 0x100, 1), 0xff);
}

static void dma_reaches_ram_only(void **state)
{
    struct fixture *f = *state;
    uint8_t data[64] = {1, 2, 3};

    assert_int_equal(
        memory_add_io(f->map, "d", 0x20000, 4096, 0, &any_size, &f->dev, NULL, NULL, NULL), 0);
    assert_int_equal(dma_write(f->map, 0x1ffff - 62, data, 63), 0);
    assert_int_equal(dma_write(f->map, 0x1ffff - 62, data, 64), -EFAULT); /* into the device */
    assert_int_equal(dma_read(f->map, 0x20000, data, 1), -EFAULT);
    assert_int_equal(dma_read(f->map, 0, data, 1), -EFAULT);
    assert_int_equal(dma_read(f->map, UINT64_MAX, data, 2), -EFAULT);
    assert_int_equal(dma_read(f->map, 0x10000, data, UINT64_MAX), -EFAULT);
    assert_int_equal(dma_fill(f->map, 0x10000, 0xee, 16 * RAM_PAGE_SIZE), 0);
    assert_int_equal(f->ram->host[16 * RAM_PAGE_SIZE - 1], 0xee);
    assert_int_equal(f->dev.reads + f->dev.writes, 0);
}

static unsigned code_calls;
static void on_code(struct ram_block *b, uint64_t offset, uint64_t length)
{
    (void)b;
    assert_int_equal(offset, 0x2ff8);
    assert_int_equal(length, 8);
    code_calls++;
}

static void writes_are_tracked(void **state)
{
    struct fixture *f = *state;
    uint8_t data[16] = {0};

    assert_true(ram_write_is_plain(f->ram, 0x1000));
    f->ram->tracking = RAM_DIRTY_DISPLAY;
    assert_false(ram_write_is_plain(f->ram, 0x1000));
    memory_write(f->map, VIEW_NORMAL, 0x11ffc, 1, 8); /* touches two pages */
    assert_true(ram_write_is_plain(f->ram, 0x1000));
    assert_true(ram_test_and_clear(f->ram, 0x1000, RAM_DIRTY_DISPLAY));
    assert_false(ram_test_and_clear(f->ram, 0x1000, RAM_DIRTY_DISPLAY));
    assert_true(ram_test_and_clear(f->ram, 0x2000, RAM_DIRTY_DISPLAY));
    assert_false(ram_test_and_clear(f->ram, 0x3000, RAM_DIRTY_DISPLAY));
    f->ram->code_written = on_code;
    f->ram->page_flags[2] |= RAM_CODE;
    assert_int_equal(dma_write(f->map, 0x12ff8, data, 16), 0);
    assert_int_equal(code_calls, 1);
}

struct listening {
    struct memory_listener l;
    unsigned changed, flushed;
};
static void on_changed(struct memory_listener *l)
{
    container_of(l, struct listening, l)->changed++;
}
static void on_flush(struct memory_listener *l)
{
    container_of(l, struct listening, l)->flushed++;
}

static void listeners_hear_of_a_change_once(void **state)
{
    struct fixture *f = *state;
    struct listening heard = {.l = {.changed = on_changed, .flush = on_flush}};
    struct region *a, *b;

    memory_listen(f->map, &heard.l);
    memory_begin(f->map);
    memory_add_io(f->map, "a", 0, 16, 0, &any_size, &f->dev, NULL, &a, NULL);
    memory_add_io(f->map, "b", 16, 16, 0, &any_size, &f->dev, NULL, &b, NULL);
    assert_int_equal(heard.changed, 0);
    memory_commit(f->map);
    assert_int_equal(heard.changed, 1);
    memory_place(a, 0, true); /* where it is already */
    assert_int_equal(heard.changed, 1);
    memory_place(a, 0x100, true);
    assert_int_equal(heard.changed, 2);
    memory_flush(f->map);
    assert_int_equal(heard.flushed, 1);
    memory_unlisten(f->map, &heard.l);
    memory_remove(b);
    assert_int_equal(heard.changed, 2);
}

static void bad_regions_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};

    assert_int_equal(
        memory_add_io(f->map, "d", UINT64_C(1) << 36, 1, 0, &any_size, NULL, NULL, NULL, &err),
        -EINVAL);
    assert_string_equal(err.text, "d: [0x1000000000, +0x1) does not fit into the memory map");
    assert_int_equal(
        memory_add_io(f->map, "d", 16, UINT64_MAX, 0, &any_size, NULL, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(
        memory_add_ram(f->map, "r", 0x100, 4096, 0, IN_ALL, f->ram, 0, true, NULL, &err), -EINVAL);
    assert_int_equal(
        memory_add_ram(f->map, "r", 0, 4096, 0, IN_ALL, f->ram, 16 * 4096, true, NULL, &err),
        -EINVAL);
}

/* Random overlapping regions against the simplest model: a byte array of owners. */
static void random_layouts_agree_with_a_model(void **state)
{
    enum { SPACE = 512, REGIONS = 24 };
    static struct device devs[REGIONS];
    unsigned seed = 20260;

    (void)state;
    for (unsigned round = 0; round < 200; round++) {
        struct memory_map *m = memory_map_new("model", SPACE);
        int owner[SPACE], priority[SPACE];

        for (unsigned i = 0; i < SPACE; i++)
            owner[i] = -1;
        for (int n = 0; n < REGIONS; n++) {
            unsigned base = (unsigned)rand_r(&seed) % SPACE;
            unsigned size = 1 + (unsigned)rand_r(&seed) % (SPACE - base);

            memory_add_io(m, "r", base, MIN(size, 40u), n, &bytes, &devs[n], NULL, NULL, NULL);
            for (unsigned i = base; i < base + MIN(size, 40u); i++) {
                owner[i] = n; /* rising priorities: the last wins */
                priority[i] = n;
            }
        }
        for (unsigned i = 0; i < SPACE; i++) {
            struct memory_target t;
            unsigned before = owner[i] >= 0 ? devs[owner[i]].reads : 0;

            memory_lookup(m, VIEW_NORMAL, i, &t);
            if (t.io != (owner[i] >= 0))
                fail_msg("round %u address %u", round, i);
            memory_read(m, VIEW_NORMAL, i, 1);
            if (owner[i] >= 0)
                assert_int_equal(devs[priority[i]].reads, before + 1);
        }
        memory_map_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nobody_answers_with_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(sizes_are_the_declared_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(an_access_is_cut_at_the_border, setup, teardown),
        cmocka_unit_test_setup_teardown(the_higher_priority_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(views_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hook_may_remove_its_own_region, setup, teardown),
        cmocka_unit_test_setup_teardown(dma_reaches_ram_only, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_are_tracked, setup, teardown),
        cmocka_unit_test_setup_teardown(listeners_hear_of_a_change_once, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_regions_are_refused, setup, teardown),
        cmocka_unit_test(random_layouts_agree_with_a_model),
    };
    return cmocka_run_group_tests_name("map", tests, NULL, NULL);
}
