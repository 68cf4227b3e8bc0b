/* The formats besides qcow2, by the same model. */
#include "support/unit.h"

#include "base/log.h"
#include "unit/block/model.h"

#include <stdio.h>
#include <unistd.h>

static const struct model_setup setups[] = {
    {.format = "raw", .size = 2 * MiB},
    {.format = "vdi", .size = 9 * MiB},
    {.format = "vdi", .size = 5 * MiB + 512, .options = "static=on"},
    {.format = "vpc", .size = 9 * MiB + 512},
    {.format = "vmdk", .size = 5 * MiB + 512},
    {.format = "vmdk", .size = 3 * MiB, .options = "zeroed_grain=on"},
    {.format = "vhdx", .size = 9 * MiB, .options = "block_size=1M"},
    {.format = "vhdx", .size = 5 * MiB + 512, .options = "block_size=2M,subformat=fixed"},
    {.format = "vpc", .size = 2 * MiB, .options = "subformat=fixed"},
};

static void ignore(const char *line)
{
    (void)line;
}

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
        model_cut(&s, 77 + i, 100, strcmp(s.format, "vhdx") ? 4 : 9);
    }
}

/* ---- VHD with a parent ---- */

static char folder[] = "/tmp/hospes-formats-XXXXXX";

static void put(struct block_node *n, uint64_t offset, uint8_t value, size_t length)
{
    uint8_t *p = malloc(length);

    memset(p, value, length);
    assert_int_equal(block_write(n, offset, p, length), 0);
    free(p);
}

static void expect(struct block_node *n, uint64_t offset, uint8_t value, size_t length)
{
    uint8_t *p = malloc(length);

    assert_int_equal(block_read(n, offset, p, length), 0);
    for (size_t i = 0; i < length; i++)
        if (p[i] != value)
            fail_msg("byte %llu is %u, not %u", (unsigned long long)(offset + i), p[i], value);
    free(p);
}

/* A block of which the child has only some sectors, as Windows makes them. */
static void a_vhd_takes_missing_sectors_from_its_parent(void **unused)
{
    struct block_create c = {.size = 6 * MiB};
    char parent[100], child[100];
    struct error err = {0};
    struct block_extent e;
    struct block_node *n;
    uint8_t bitmap[512];
    uint64_t place;

    (void)unused;
    assert_non_null(mkdtemp(folder));
    snprintf(parent, sizeof(parent), "%s/parent.vhd", folder);
    snprintf(child, sizeof(child), "%s/child.vhd", folder);
    assert_int_equal(block_create(parent, "vpc", &c, &err), 0);
    n = block_open(parent, "vpc", BLOCK_WRITE, &err);
    assert_non_null(n);
    put(n, 0, 1, 5 * MiB);
    block_close(n);
    c.backing = "parent.vhd";
    c.backing_format = "vpc";
    assert_int_equal(block_create(child, "vpc", &c, &err), 0);
    n = block_open(child, NULL, BLOCK_WRITE, &err);
    if (!n)
        fail_msg("%s", err.text);
    expect(n, 0, 1, 5 * MiB);
    put(n, 2 * MiB, 2, 2 * MiB);
    assert_int_equal(block_map(n, 2 * MiB, MiB, 0, &e), 0);
    assert_int_equal(e.kind, BLOCK_DATA);
    place = e.offset;
    block_close(n);
    /* Only sectors 0 to 7 and 100 of that block are the child's. */
    n = block_open_protocol(child, BLOCK_WRITE, &err);
    memset(bitmap, 0, sizeof(bitmap));
    bitmap[0] = 0xff;
    bitmap[100 / 8] = 0x80 >> 100 % 8;
    assert_int_equal(block_write(n, place - 512, bitmap, 512), 0);
    block_close(n);
    n = block_open(child, NULL, BLOCK_WRITE, &err);
    assert_non_null(n);
    expect(n, 2 * MiB, 2, 8 * 512);
    expect(n, 2 * MiB + 8 * 512, 1, 92 * 512);
    expect(n, 2 * MiB + 100 * 512, 2, 512);
    expect(n, 2 * MiB + 101 * 512, 1, 1000);
    expect(n, 2 * MiB + 99 * 512 + 300, 1, 212);
    assert_int_equal(block_map(n, 2 * MiB, MiB, 0, &e), 0);
    assert_int_equal(e.kind, BLOCK_SLOW);
    put(n, 2 * MiB + 50 * 512 + 10, 3, 20); /* completes the block */
    for (unsigned i = 0; i < 2; i++) {
        expect(n, 2 * MiB, 2, 8 * 512);
        expect(n, 2 * MiB + 8 * 512, 1, 42 * 512 + 10);
        expect(n, 2 * MiB + 50 * 512 + 10, 3, 20);
        expect(n, 2 * MiB + 100 * 512, 2, 512);
        expect(n, 2 * MiB + 101 * 512, 1, MiB);
        assert_int_equal(block_map(n, 2 * MiB, MiB, 0, &e), 0);
        assert_int_equal(e.kind, BLOCK_DATA);
        block_close(n);
        n = block_open(child, NULL, i ? 0 : BLOCK_WRITE, &err);
        assert_non_null(n);
    }
    block_close(n);
    unlink(child);
    unlink(parent);
    rmdir(folder);
}

static void a_failing_host_loses_nothing_flushed(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++) {
        struct model_setup s = setups[i];

        s.leaks = true;
        s.size = MIN(s.size, 2 * MiB);
        print_message("# setup %u %s %s\n", i, s.format, s.options);
        model_fail(&s, 4000 + i, 60);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_use_agrees_with_a_model),
        cmocka_unit_test(a_power_cut_loses_nothing_flushed),
        cmocka_unit_test(a_vhd_takes_missing_sectors_from_its_parent),
        cmocka_unit_test(a_failing_host_loses_nothing_flushed),
    };

    log_set_sink(ignore);
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
