#include "support/unit.h"

#include "base/log.h"
#include "block/block.h"
#include "unit/block/model.h"

#include <string.h>
#include <unistd.h>

static const struct model_setup setups[] = {
    {.format = "qcow2", .size = 1 * MiB, .options = "cluster_size=512"},
    {.format = "qcow2", .size = 3 * MiB, .options = "cluster_size=4096"},
    {.format = "qcow2", .size = 4 * MiB + 512 * 7, .options = "cluster_size=65536"},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=1024,compat=0.10"},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=4096,refcount_bits=1"},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=4096,refcount_bits=64"},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=2048,lazy_refcounts=on"},
    {.format = "qcow2", .size = 1 * MiB, .options = "cluster_size=4096", .compressed = true},
    {.format = "qcow2",
     .size = 2 * MiB - 512,
     .options = "cluster_size=65536,compression_type=zstd",
     .compressed = true},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=4096", .backed = true},
    {.format = "qcow2",
     .size = 2 * MiB,
     .options = "cluster_size=4096,compat=0.10",
     .backed = true},
    {.format = "qcow2", .size = 1 * MiB, .options = "cluster_size=1024", .snapshots = true},
    {.format = "qcow2",
     .size = 1 * MiB,
     .options = "cluster_size=4096",
     .snapshots = true,
     .compressed = true,
     .backed = true},
    {.format = "qcow2", .size = 2 * MiB, .options = "cluster_size=4096,preallocation=metadata"},
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
            print_message("# setup %u.%u %s\n", i, k, setups[i].options);
            model_run(&setups[i], 1000 * i + k, 2000);
        }
}

static void a_power_cut_loses_nothing_flushed(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++) {
        struct model_setup s = setups[i];

        if (s.size > 2 * MiB || s.align)
            continue;
        s.leaks = true;
        s.repaired = strstr(s.options, "lazy") != NULL;
        s.size = MIN(s.size, 512 * KiB);
        print_message("# setup %u %s\n", i, s.options);
        model_cut(&s, 77 + i, 150, s.snapshots ? 3 : 4);
    }
}

static void a_failing_host_loses_nothing_flushed(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(setups); i++) {
        struct model_setup s = setups[i];

        s.leaks = true;
        s.repaired = strstr(s.options, "lazy") != NULL;
        s.size = MIN(s.size, 2 * MiB);
        print_message("# setup %u %s %s\n", i, s.format, s.options);
        model_fail(&s, 4000 + i, 60);
    }
}

/* Packed bytes end anywhere, also just where the next cluster is the first that a refcount block
 * describes: that block, made for it, takes the cluster itself. */
static void packed_bytes_leave_room_for_counts(void **unused)
{
    char path[] = "/tmp/hospes-packed-XXXXXX";
    uint8_t data[512];

    (void)unused;
    close(mkstemp(path));
    for (unsigned before = 0; before < 48; before++) {
        struct block_create c = {.size = 1 * MiB, .options = "cluster_size=512"};
        struct block_check check = {0};
        struct error err = {0};
        struct block_node *n;

        assert_int_equal(block_create(path, "qcow2", &c, &err), 0);
        n = block_open(path, "qcow2", BLOCK_WRITE, &err);
        assert_non_null(n);
        memset(data, 1, sizeof(data));
        for (unsigned i = 0; i < before; i++) /* whole clusters, to move the others along */
            assert_int_equal(block_write(n, i * 512, data, 512), 0);
        for (unsigned i = before; i < 1000; i++) {
            for (unsigned k = 0; k < 512; k++) /* half of it is noise */
                data[k] = k < 300 ? (uint8_t)((i * 2654435761u + k * k * 40503u) >> 11) : 0;
            assert_int_equal(block_write_compressed(n, i * 512, data, 512), 0);
        }
        block_close(n);
        n = block_open(path, "qcow2", 0, &err);
        assert_non_null(n);
        assert_int_equal(block_check(n, &check, &err), 0);
        assert_int_equal(check.corruptions + check.leaks + check.errors, 0);
        block_close(n);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_use_agrees_with_a_model),
        cmocka_unit_test(a_power_cut_loses_nothing_flushed),
        cmocka_unit_test(a_failing_host_loses_nothing_flushed),
        cmocka_unit_test(packed_bytes_leave_room_for_counts),
    };

    log_set_sink(ignore);
    return cmocka_run_group_tests_name("qcow2", tests, NULL, NULL);
}
