/*
 * test_huge.c - memory that is used comes to lie on huge pages, keeps its content, and is not
 * filled again after it was given back.
 */
#include "support/unit.h"

#include "memory/huge.h"
#include "memory/ram.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNKS = 8, SIZE = CHUNKS * HUGE_PAGE_SIZE, USED = 40, PATIENCE_MS = 3000 };

static struct ram_block *block_new(void)
{
    struct error err = {0};
    struct ram_block *b;

    assert_int_equal(ram_block_new("test", SIZE, &b, &err), 0);
    assert_int_equal((uintptr_t)b->host % HUGE_PAGE_SIZE, 0);
    assert_non_null(b->huge);
    return b;
}

static void use(struct ram_block *b, unsigned chunk)
{
    for (unsigned i = 0; i < USED; i++)
        b->host[(size_t)chunk * HUGE_PAGE_SIZE + i * 4096u] = (uint8_t)(i + chunk);
}

static bool becomes(const struct ram_block *b, size_t bytes)
{
    for (unsigned ms = 0; ms < PATIENCE_MS; ms += 10) {
        if (huge_bytes(b->huge) == bytes)
            return true;
        usleep(10000);
    }
    return false;
}

static unsigned pages_of(const struct ram_block *b, unsigned chunk)
{
    unsigned char there[HUGE_PAGE_SIZE / 4096];
    unsigned n = 0;

    assert_int_equal(mincore(b->host + (size_t)chunk * HUGE_PAGE_SIZE, HUGE_PAGE_SIZE, there), 0);
    for (unsigned i = 0; i < sizeof(there); i++)
        n += there[i] & 1;
    return n;
}

static void what_is_used_becomes_huge(void **state)
{
    struct ram_block *b = block_new();

    use(b, 2);
    use(b, 5);
    if (!becomes(b, 2 * HUGE_PAGE_SIZE)) {
        ram_block_free(b);
        print_message(
            "# not tried: this host does not collapse shared memory (before Linux 6.1?)\n");
        return;
    }
    assert_int_equal(pages_of(b, 2), HUGE_PAGE_SIZE / 4096);
    assert_int_equal(pages_of(b, 3), 0);
    for (unsigned i = 0; i < USED; i++) {
        assert_int_equal(b->host[2 * HUGE_PAGE_SIZE + i * 4096u], (uint8_t)(i + 2));
        assert_int_equal(b->host[5 * HUGE_PAGE_SIZE + i * 4096u], (uint8_t)(i + 5));
    }
    ram_block_free(b);
}

static void what_is_given_back_stays_away(void **state)
{
    struct ram_block *b = block_new();
    bool huge;

    use(b, 1);
    huge = becomes(b, HUGE_PAGE_SIZE);
    assert_int_equal(ram_discard(b, HUGE_PAGE_SIZE, HUGE_PAGE_SIZE - 4096), 0);
    assert_int_equal(b->host[HUGE_PAGE_SIZE], 0);
    use(b, 1);
    if (huge) {
        use(b, 3);
        assert_true(becomes(b, HUGE_PAGE_SIZE)); /* that, and it has seen the other */
        assert_true(pages_of(b, 1) <= USED + 1);
        assert_int_equal(pages_of(b, 3), HUGE_PAGE_SIZE / 4096);
    }
    ram_block_free(b);
}

static void areas_come_and_go(void **state)
{
    for (unsigned round = 0; round < 50; round++) {
        struct ram_block *a = block_new(), *b = block_new();

        use(a, round % CHUNKS);
        use(b, 0);
        ram_block_free(round & 1 ? a : b);
        ram_block_free(round & 1 ? b : a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_used_becomes_huge),
        cmocka_unit_test(what_is_given_back_stays_away),
        cmocka_unit_test(areas_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
