#include "support/unit.h"

#include "base/error.h"
#include "base/util.h"

#include <errno.h>

static void says_what_and_returns_the_code(void **state)
{
    struct error err = {0};

    (void)state;
    assert_int_equal(error_set(&err, EINVAL, "iobase %#x", 0x601), -EINVAL);
    assert_int_equal(err.code, EINVAL);
    assert_string_equal(err.text, "iobase 0x601");
    assert_int_equal(error_prefix(&err, -EINVAL, "%s: ", "alarm"), -EINVAL);
    assert_string_equal(err.text, "alarm: iobase 0x601");
    assert_int_equal(error_set_errno(&err, ENOENT, "cannot open '%s'", "x"), -ENOENT);
    assert_string_equal(err.text, "cannot open 'x': No such file or directory");
    assert_int_equal(error_set(NULL, EIO, "nobody reads this"), -EIO);
}

static void long_texts_are_cut_not_overrun(void **state)
{
    struct error err;
    char big[2000];

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    error_set_errno(&err, EIO, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    error_set(&err, EIO, "tail");
    error_prefix(&err, -EIO, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    error_set(&err, EIO, "%s", big);
    error_prefix(&err, -EIO, "p: ");
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_memory_equal(err.text, "p: xxx", 6);
}

static void ranges_do_not_wrap(void **state)
{
    (void)state;
    assert_true(range_within(0, 0, 0));
    assert_true(range_within(10, 0, 10));
    assert_false(range_within(11, 0, 10));
    assert_true(range_within(8, 2, 10));
    assert_false(range_within(8, 3, 10));
    assert_false(range_within(8, UINT64_MAX, 10));
    assert_false(range_within(UINT64_MAX, 2, UINT64_MAX));
    assert_true(ranges_overlap(0, 1, 0, 1));
    assert_false(ranges_overlap(0, 1, 1, 1));
    assert_false(ranges_overlap(0, 0, 0, 1));
    assert_true(ranges_overlap(UINT64_MAX, 1, UINT64_MAX - 1, 2));
}

static void bit_fields(void **state)
{
    (void)state;
    assert_int_equal(bits_get(0xabcd, 4, 8), 0xbc);
    assert_int_equal(bits_get(UINT64_MAX, 0, 64), UINT64_MAX);
    assert_int_equal(bits_set(0xffff, 4, 8, 0x12), 0xf12f);
    assert_int_equal(bits_set(0, 0, 4, 0xff), 0xf);
    assert_int_equal(sign_extend(0x80, 8), -128);
    assert_int_equal(sign_extend(0x7f, 8), 127);
    assert_int_equal(size_mask(8), UINT64_MAX);
    assert_int_equal(size_mask(1), 0xff);
    assert_int_equal(align_up(4097, 4096), 8192);
    assert_int_equal(align_down(4097, 4096), 4096);
    assert_int_equal(muldiv64(UINT64_MAX, 10, 20), UINT64_MAX / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_and_returns_the_code),
        cmocka_unit_test(long_texts_are_cut_not_overrun),
        cmocka_unit_test(ranges_do_not_wrap),
        cmocka_unit_test(bit_fields),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
