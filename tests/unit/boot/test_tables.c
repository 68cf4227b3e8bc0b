/* test_tables.c - SMBIOS and MP tables as a guest parses them. */
#include "support/unit.h"

#include "boot/mptable.h"
#include "boot/smbios.h"

#include <errno.h>

static uint8_t sum(const uint8_t *p, size_t size)
{
    uint8_t s = 0;

    while (size--)
        s = (uint8_t)(s + *p++);
    return s;
}

/* The n-th string of a structure. */
static const char *text(const uint8_t *s, unsigned n)
{
    const char *p = (const char *)s + s[1];

    assert_int_not_equal(n, 0);
    while (--n)
        p += strlen(p) + 1;
    return p;
}

static void smbios_structures(void **state)
{
    const struct smbios_config c = {
        .product = "Thing",
        .serial = "bad\nserial",
        .uuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 8, 9, 10, 11, 12, 13, 14, 15},
        .cpus = 6,
        .cores = 2,
        .threads = 2,
        .cpu_signature = 0x806f8,
        .cpu_vendor = "GenuineIntel",
        .ram_below_4g = UINT64_C(3) << 30,
        .ram_above_4g = UINT64_C(5) << 30,
    };
    auto_free uint8_t *t = NULL;
    unsigned count[128] = {0}, total = 0;
    uint8_t entry[31];
    size_t size, at = 0;

    assert_int_equal(smbios_build(&c, &t, &size, NULL), 0);
    while (at < size) {
        const uint8_t *s = t + at;
        size_t end = at + s[1];

        assert_true(s[0] < 128 && s[1] >= 4);
        count[s[0]]++;
        total++;
        if (s[0] == 1) {
            static const uint8_t mixed[8] = {0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66};

            assert_string_equal(text(s, s[4]), "Hospes");
            assert_string_equal(text(s, s[5]), "Thing");
            assert_string_equal(text(s, s[7]), "bad.serial");
            assert_memory_equal(s + 8, mixed, 8);
            assert_int_equal(s[8 + 15], 15);
        }
        if (s[0] == 4)
            assert_int_equal(load_le(s + 8, 4), 0x806f8);
        if (s[0] == 17)
            assert_int_equal(load_le(s + 12, 2), 8192); /* MiB */
        if (s[0] == 19 && count[19] == 2) {
            assert_int_equal(load_le(s + 4, 4), 4 * MiB); /* KiB */
            assert_int_equal(load_le(s + 8, 4), 9 * MiB - 1);
        }
        while (t[end] || t[end + 1])
            end++;
        at = end + 2;
    }
    assert_int_equal(at, size);
    assert_int_equal(count[0], 1);
    assert_int_equal(count[1], 1);
    assert_int_equal(count[3], 1);
    assert_int_equal(count[4], 2); /* six processors in sockets of four */
    assert_int_equal(count[16], 1);
    assert_int_equal(count[17], 1);
    assert_int_equal(count[19], 2);
    assert_int_equal(count[32], 1);
    assert_int_equal(count[127], 1);

    smbios_entry_28(entry, t, size, 0xf0040);
    assert_memory_equal(entry, "_SM_", 4);
    assert_int_equal(sum(entry, 31), 0);
    assert_int_equal(sum(entry + 16, 15), 0);
    assert_int_equal(load_le(entry + 22, 2), size);
    assert_int_equal(load_le(entry + 24, 4), 0xf0040);
    assert_int_equal(load_le(entry + 28, 2), total);
    smbios_entry_30(entry, size, 0xf0040);
    assert_memory_equal(entry, "_SM3_", 5);
    assert_int_equal(sum(entry, 24), 0);
    assert_int_equal(load_le(entry + 16, 8), 0xf0040);
}

static void smbios_bounds(void **state)
{
    struct smbios_config c = {.cpus = 255, .ram_below_4g = MiB};
    char long_text[1000];
    auto_free uint8_t *t = NULL;
    struct error err = {0};
    size_t size;

    memset(long_text, 'y', sizeof(long_text) - 1);
    long_text[999] = '\0';
    c.serial = c.product = c.manufacturer = long_text;
    assert_int_equal(smbios_build(&c, &t, &size, &err), 0); /* strings are cut */
    c.cpus = 2000;
    assert_int_equal(smbios_build(&c, &t, &size, &err), -E2BIG);
}

static void mp_table(void **state)
{
    static const struct mptable_pci pci[] = {{.device = 3, .pin = 1, .gsi = 17}};
    const struct mptable_config c = {.cpus = 3,
                                     .cpu_signature = 0x663,
                                     .ioapic_id = 3,
                                     .pci = true,
                                     .level_isa = 1 << 9,
                                     .timer_on_pin_2 = true,
                                     .pci_irqs = pci,
                                     .pci_irq_count = 1};
    unsigned count[5] = {0};
    auto_free uint8_t *t = NULL;
    const uint8_t *h, *e;
    size_t size;

    assert_int_equal(mptable_build(&c, 0xfc000, &t, &size, NULL), 0);
    assert_memory_equal(t, "_MP_", 4);
    assert_int_equal(sum(t, 16), 0);
    assert_int_equal(load_le(t + 4, 4), 0xfc010);
    h = t + 16;
    assert_memory_equal(h, "PCMP", 4);
    assert_int_equal(load_le(h + 4, 2), size - 16);
    assert_int_equal(sum(h, size - 16), 0);
    e = h + 44;
    for (unsigned n = (unsigned)load_le(h + 34, 2); n; n--) {
        assert_true(e[0] <= 4);
        count[e[0]]++;
        if (e[0] == 0) {
            assert_int_equal(e[1], count[0] - 1);
            assert_int_equal(e[3], count[0] == 1 ? 3 : 1);
        }
        if (e[0] == 2) {
            assert_int_equal(e[1], 3);
            assert_int_equal(load_le(e + 4, 4), 0xfec00000);
        }
        if (e[0] == 3 && e[4] == 1 && e[5] == 0)
            assert_int_equal(e[7], 2); /* the timer */
        if (e[0] == 3 && e[4] == 1 && e[5] == 9)
            assert_int_equal(load_le(e + 2, 2), 0xd); /* level, active high */
        if (e[0] == 3 && e[4] == 0) {
            assert_int_equal(e[5], 3 << 2);
            assert_int_equal(e[7], 17);
            assert_int_equal(load_le(e + 2, 2), 0xf);
        }
        e += e[0] == 0 ? 20 : 8;
    }
    assert_ptr_equal(e, t + size);
    assert_int_equal(count[0], 3);
    assert_int_equal(count[1], 2);
    assert_int_equal(count[2], 1);
    assert_int_equal(count[3], 15 + 1);
    assert_int_equal(count[4], 2);
}

static void mp_table_bounds(void **state)
{
    struct mptable_config c = {.cpus = 255};
    auto_free uint8_t *t = NULL;
    struct error err = {0};
    size_t size;

    assert_int_equal(mptable_build(&c, 0xfc000, &t, &size, &err), -EINVAL);
    c.cpus = 0;
    assert_int_equal(mptable_build(&c, 0xfc000, &t, &size, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smbios_structures),
        cmocka_unit_test(smbios_bounds),
        cmocka_unit_test(mp_table),
        cmocka_unit_test(mp_table_bounds),
    };
    return cmocka_run_group_tests_name("boot tables", tests, NULL, NULL);
}
