/* test_pflash.c - flash by its commands, and what reaches the file; ROM images and where they are.
 */
#include "support/unit.h"

#include "devices/flash/pflash.h"
#include "devices/flash/rom.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BASE = 0xffc00000, SIZE = 4 * PFLASH_BLOCK };

static char path[] = "/tmp/hospes-test-flash-XXXXXX";

static int setup(void **state)
{
    uint8_t content[SIZE];
    int fd;

    strcpy(path + sizeof(path) - 7, "XXXXXX");
    fd = mkstemp(path);
    for (unsigned i = 0; i < SIZE; i++)
        content[i] = (uint8_t)(i / 3);
    if (fd < 0 || write(fd, content, SIZE) != SIZE || test_machine_setup(state) < 0)
        return -1;
    return pflash_add(*state, BASE, fd, path, NULL, SIZE, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
    unlink(path);
    return test_machine_teardown(state);
}

static uint8_t in_file(unsigned offset)
{
    FILE *f = fopen(path, "r");
    int c;

    assert_non_null(f);
    fseek(f, offset, SEEK_SET);
    c = fgetc(f);
    fclose(f);
    return (uint8_t)c;
}

static uint8_t get(struct machine *m, unsigned offset)
{
    return (uint8_t)mmio_read(m, BASE + offset, 1);
}

static void put(struct machine *m, unsigned offset, uint8_t value)
{
    mmio_write(m, BASE + offset, value, 1);
}

static void reads_like_memory(void **state)
{
    assert_int_equal(get(*state, 300), 100);
    assert_int_equal(mmio_read(*state, BASE + 3, 8), 0x0303020202010101);
}

static void programs_bits_to_zero(void **state)
{
    struct machine *m = *state;

    put(m, 9, 0x40);
    assert_int_equal(get(m, 9), 0x80); /* status */
    put(m, 9, 0xf1);
    assert_int_equal(get(m, 9), 0x80);
    test_save_reset_restore(m);
    assert_int_equal(get(m, 9), 0x80);
    put(m, 0, 0xff);
    assert_int_equal(get(m, 9), 3 & 0xf1);
    assert_int_equal(in_file(9), 3 & 0xf1);
}

static void erases_a_block(void **state)
{
    struct machine *m = *state;

    put(m, PFLASH_BLOCK + 77, 0x20);
    put(m, PFLASH_BLOCK + 77, 0xd0);
    put(m, 0, 0xff);
    for (unsigned i = 0; i < PFLASH_BLOCK; i++)
        assert_int_equal(get(m, PFLASH_BLOCK + i), 0xff);
    assert_int_equal(get(m, PFLASH_BLOCK - 1), (uint8_t)((PFLASH_BLOCK - 1) / 3));
    assert_int_equal(get(m, 2 * PFLASH_BLOCK), (uint8_t)(2 * PFLASH_BLOCK / 3));
    assert_int_equal(in_file(2 * PFLASH_BLOCK - 1), 0xff);
    /* without the second command nothing is erased, and the status says so */
    put(m, 0, 0x20);
    put(m, 0, 0xff);
    assert_int_equal(get(m, 0), 0x80 | 0x30);
    put(m, 0, 0x50);
    assert_int_equal(get(m, 300), 100);
}

static void writes_by_its_buffer(void **state)
{
    struct machine *m = *state;

    put(m, 0x1000, 0x20);
    put(m, 0x1000, 0xd0);
    put(m, 0x1000, 0xe8);
    put(m, 0x1000, 3); /* four bytes */
    mmio_write(m, BASE + 0x1010, 0x04030201, 4);
    put(m, 0x1000, 0xd0);
    put(m, 0, 0xff);
    assert_int_equal(mmio_read(m, BASE + 0x100f, 8), 0xffffff04030201ff);
    assert_int_equal(in_file(0x1013), 4);
    /* not confirmed, and at an end that is too near */
    put(m, 0, 0xe8);
    put(m, 0, 0);
    put(m, 8, 0);
    put(m, 0, 0x00);
    assert_int_equal(get(m, 0) & 0x10, 0x10);
    put(m, 0, 0x50);
    assert_int_equal(get(m, 8), 2);
    put(m, 0, 0xe8);
    put(m, 0, 31);
    for (unsigned i = 0; i < 32; i++)
        put(m, SIZE - 1, 0);
    put(m, 0, 0xd0);
    assert_int_equal(get(m, 0) & 0x10, 0x10);
}

static void says_what_it_is(void **state)
{
    struct machine *m = *state;

    put(m, 0, 0x98);
    assert_int_equal(get(m, 0x10), 'Q');
    assert_int_equal(get(m, 0x27), 14);
    assert_int_equal(get(m, 0x2d), 3);
    assert_int_equal(get(m, 0x2f) << 8, PFLASH_BLOCK);
    put(m, 0, 0x90);
    assert_int_equal(get(m, 0), 0x89);
    put(m, 0, 0xff);
    assert_int_equal(get(m, 0x10), 5);
}

static void keeps_to_itself_without_a_file(void **state)
{
    static const uint8_t content[PFLASH_BLOCK] = {7};
    struct machine *m = *state;
    struct error err = {0};

    assert_non_null(pflash_add(m, 0xff000000, -1, "template", content, sizeof(content), NULL));
    assert_int_equal(mmio_read(m, 0xff000000, 1), 7);
    mmio_write(m, 0xff000000, 0x10, 1);
    mmio_write(m, 0xff000000, 5, 1);
    mmio_write(m, 0xff000000, 0xff, 1);
    assert_int_equal(mmio_read(m, 0xff000000, 1), 5);
    assert_null(pflash_add(m, 0xfe000000, -1, "odd", content, 100, &err));
    assert_string_equal(err.text,
                        "'odd' has 100 bytes; a flash has a multiple of 4 KiB, up to 16 MiB");
}

static void finds_and_loads_images(void **state)
{
    struct error err = {0};
    struct ram_block *block;
    uint64_t size;
    char *found;

    assert_int_equal(rom_find("no-such-firmware.bin", "nowhere", &found, &err), -ENOENT);
    assert_non_null(strstr(err.text, "install the package 'nowhere'"));
    assert_int_equal(rom_find("./here", "x", &found, NULL), 0);
    assert_string_equal(found, "./here");
    free(found);
    assert_int_equal(rom_load(path, 1 * MiB, true, &block, &size, &err), 0);
    assert_int_equal(size, SIZE);
    assert_int_equal(block->host[300], 100);
    ram_block_free(block);
    assert_int_equal(rom_load(path, 1 * KiB, true, &block, &size, &err), -EINVAL);
    assert_int_equal(rom_load("/dev/null", 1 * MiB, true, &block, &size, &err), -EINVAL);
    assert_int_equal(rom_load("/no/file", 1 * MiB, true, &block, &size, &err), -ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_like_memory),      TEST(programs_bits_to_zero),
        TEST(erases_a_block),         TEST(writes_by_its_buffer),
        TEST(says_what_it_is),        TEST(keeps_to_itself_without_a_file),
        TEST(finds_and_loads_images),
    };

    return cmocka_run_group_tests_name("pflash", tests, NULL, NULL);
}
