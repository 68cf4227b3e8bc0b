/* test_virtio_balloon.c - pages given back, reported, and the guest's statistics. */
#include "support/unit.h"

#include "driver.h"

#include "devices/virtio/balloon.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_balloon.h>
#include <sys/mman.h>

enum { PAGE = 4096, FIRST = 8 * MiB };

static void add(struct driver *d, void **state, enum driver_via via, const char *properties)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, "virtio-balloon", properties, &err))
        fail_msg("%s", err.text);
}

static unsigned resident(struct machine *m, uint64_t at, unsigned pages)
{
    unsigned char in[64];
    unsigned n = 0;

    assert_true(pages <= sizeof(in));
    assert_int_equal(mincore(m->ram->host + at, (size_t)pages * PAGE, in), 0);
    for (unsigned i = 0; i < pages; i++)
        n += in[i] & 1;
    return n;
}

static void pages_leave_and_come_back(void **state)
{
    struct driver d;
    uint32_t pfn[] = {FIRST / PAGE + 3, FIRST / PAGE + 2, FIRST / PAGE + 1, FIRST / PAGE + 6,
                      FIRST / PAGE + 7, 0xd0000,          0xffffffff,       16 * MiB / PAGE};
    struct driver_buffer b;

    for (enum driver_via via = 0; via < VIA_COUNT; via++) {
        assert_int_equal(test_machine_teardown(state), 0);
        assert_int_equal(test_machine_setup(state), 0);
        add(&d, state, via, NULL);
        driver_start(&d, ~UINT64_C(0));
        memset(d.m->ram->host + FIRST, 0x55, 9 * PAGE);
        assert_int_equal(resident(d.m, FIRST, 9), 9);
        b = (struct driver_buffer){driver_alloc(&d, sizeof(pfn)), sizeof(pfn), false};
        driver_put(&d, b.at, pfn, sizeof(pfn));
        assert_int_equal(driver_do(&d, 0, &b, 1), 0);
        assert_int_equal(resident(d.m, FIRST, 9), 4);
        assert_int_equal(d.m->ram->host[FIRST + PAGE], 0); /* it may be used again */
        assert_int_equal(d.m->ram->host[FIRST + 3 * PAGE], 0);
        assert_int_equal(d.m->ram->host[FIRST + 7 * PAGE], 0);
        assert_int_equal(d.m->ram->host[FIRST], 0x55);
        assert_int_equal(d.m->ram->host[FIRST + 4 * PAGE], 0x55);
        assert_int_equal(d.m->ram->host[FIRST + 8 * PAGE], 0x55);
        assert_int_equal(driver_do(&d, 1, &b, 1), 0); /* deflate: nothing to do */
        assert_int_equal(d.m->ram->host[FIRST], 0x55);
    }
}

static void the_target_is_told_and_the_answer_kept(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "target=8388608");
    driver_start(&d, ~UINT64_C(0));
    assert_int_equal(driver_config(&d, 0, 4), 2048);
    driver_isr(&d);
    balloon_set_target(&d.v->dev, 12 * MiB);
    assert_int_equal(driver_config(&d, 0, 4), 1024);
    assert_int_equal(driver_isr(&d), 2);
    assert_int_equal(balloon_actual(&d.v->dev), 16 * MiB);
    driver_set_config(&d, 4, 1024, 4);
    assert_int_equal(driver_config(&d, 4, 4), 1024);
    assert_int_equal(balloon_actual(&d.v->dev), 12 * MiB);
    driver_set_config(&d, 0, 77, 4); /* not the guest's to say */
    assert_int_equal(driver_config(&d, 0, 4), 1024);
    test_save_reset_restore(d.m);
    assert_int_equal(balloon_actual(&d.v->dev), 12 * MiB);
    driver_set_config(&d, 4, UINT32_MAX, 4);
    assert_int_equal(balloon_actual(&d.v->dev), 0);
    balloon_set_target(&d.v->dev, UINT64_MAX);
    assert_int_equal(driver_config(&d, 0, 4), 0);
    driver_reset(&d);
    assert_int_equal(balloon_actual(&d.v->dev), 16 * MiB);
}

static void free_pages_are_reported(void **state)
{
    struct driver d;
    struct driver_buffer b[2] = {{FIRST, 2 * PAGE, true}, {FIRST + 3 * PAGE + 1, 2 * PAGE, true}};

    add(&d, state, VIA_MODERN, "free-page-reporting=on");
    for (unsigned stats = 0; stats < 2; stats++) {
        driver_start(&d, BIT(VIRTIO_BALLOON_F_REPORTING) |
                             (stats ? BIT(VIRTIO_BALLOON_F_STATS_VQ) : 0));
        memset(d.m->ram->host + FIRST, 0x55, 6 * PAGE);
        assert_int_equal(driver_do(&d, 2 + stats, b, 2), 0);
        assert_int_equal(resident(d.m, FIRST, 6), 3); /* whole pages only */
        assert_int_equal(d.m->ram->host[FIRST + 3 * PAGE + 1], 0x55);
    }
}

static void statistics_come_by_the_timer(void **state)
{
    struct driver d;
    struct balloon_stats s;
    uint8_t stats[30];
    struct driver_buffer b;

    add(&d, state, VIA_MODERN, "guest-stats-polling-interval=2");
    driver_start(&d, ~UINT64_C(0));
    balloon_get_stats(&d.v->dev, &s);
    assert_int_equal(s.when, 0);
    for (unsigned i = 0; i < 3; i++) {
        store_le(stats + 10 * i, i == 2 ? 999 : i + 4, 2); /* free, total, unknown */
        store_le(stats + 10 * i + 2, 1000 + i, 8);
    }
    b = (struct driver_buffer){driver_alloc(&d, 30), 30, false};
    driver_put(&d, b.at, stats, 30);
    driver_add(&d, 2, &b, 1);
    driver_kick(&d, 2);
    assert_int_equal(driver_used(&d, 2, NULL), -1); /* stays with the device */
    balloon_get_stats(&d.v->dev, &s);
    assert_int_equal(s.value[VIRTIO_BALLOON_S_MEMFREE], 1000);
    assert_int_equal(s.value[VIRTIO_BALLOON_S_MEMTOT], 1001);
    assert_true(s.value[VIRTIO_BALLOON_S_SWAP_IN] == UINT64_MAX);
    test_save_reset_restore(d.m);
    driver_kick(&d, 2);
    assert_int_equal(driver_used(&d, 2, NULL), -1);
    test_advance(d.m, 2 * NSEC_PER_SEC);
    assert_int_equal(driver_used(&d, 2, NULL), 0); /* the next ones, please */
    assert_int_equal(driver_used(&d, 2, NULL), -1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, test_machine_setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pages_leave_and_come_back),
        TEST(the_target_is_told_and_the_answer_kept),
        TEST(free_pages_are_reported),
        TEST(statistics_come_by_the_timer),
    };

    return cmocka_run_group_tests_name("virtio-balloon", tests, NULL, NULL);
}
