/*
 * test_tables.c - ACPI tables, read by a parser of the test's own: every pointer leads to a table
 * of the right name, every length fits, every sum is zero; and a firmware that follows the loader
 * script gets the same bytes.
 */
#include "support/unit.h"

#include "devices/acpi/pm.h"
#include "devices/acpi/tables.h"
#include "devices/pci/q35.h"

#include <errno.h>

enum { ADDRESS = 0xe0040 };

static const struct acpi_config sample = {
    .platform = ACPI_Q35,
    .cpus = 3,
    .devices = ACPI_COM1 | ACPI_HPET | ACPI_I8042,
    .window32_first = 0xc0000000,
    .window32_last = 0xfebfffff,
    .window64_first = UINT64_C(0x200000000),
    .window64_last = UINT64_C(0xfffffffff),
};

static void build(const struct acpi_config *c, struct acpi_blob *b)
{
    struct error err = {0};

    if (acpi_tables_build(c, b, &err) < 0)
        fail_msg("%s", err.text);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;

    while (n--)
        s += *p++;
    return s;
}

/* The table at a guest address, checked. */
static const uint8_t *table_at(const struct acpi_blob *b, uint64_t address, const char *signature)
{
    const uint8_t *t;
    uint32_t length;

    assert_true(address >= ADDRESS && range_within(address - ADDRESS, 36, b->size));
    t = b->tables + (address - ADDRESS);
    if (signature)
        assert_memory_equal(t, signature, 4);
    length = (uint32_t)load_le(t + 4, 4);
    assert_true(length >= 36 && range_within(address - ADDRESS, length, b->size));
    if (memcmp(t, "FACS", 4))
        assert_int_equal(sum(t, length), 0);
    return t;
}

static const uint8_t *find(const struct acpi_blob *b, const char *signature)
{
    const uint8_t *xsdt = table_at(b, load_le(b->rsdp + 24, 8), "XSDT");

    for (uint32_t at = 36; at < load_le(xsdt + 4, 4); at += 8)
        if (!memcmp(table_at(b, load_le(xsdt + at, 8), NULL), signature, 4))
            return table_at(b, load_le(xsdt + at, 8), signature);
    return NULL;
}

static void pointers_and_sums(void **state)
{
    static const char *const names[] = {"FACP", "SSDT", "APIC", "MCFG", "HPET"};
    struct acpi_blob b;
    const uint8_t *rsdt, *xsdt, *fadt;

    build(&sample, &b);
    acpi_tables_place(&b, ADDRESS);
    assert_memory_equal(b.rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(b.rsdp, 20), 0);
    assert_int_equal(sum(b.rsdp, 36), 0);
    assert_int_equal(b.rsdp[15], 2);
    rsdt = table_at(&b, load_le(b.rsdp + 16, 4), "RSDT");
    xsdt = table_at(&b, load_le(b.rsdp + 24, 8), "XSDT");
    assert_int_equal(load_le(rsdt + 4, 4), 36 + 4 * ARRAY_SIZE(names));
    assert_int_equal(load_le(xsdt + 4, 4), 36 + 8 * ARRAY_SIZE(names));
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        table_at(&b, load_le(rsdt + 36 + 4 * i, 4), names[i]);
        table_at(&b, load_le(xsdt + 36 + 8 * i, 8), names[i]);
    }
    fadt = find(&b, "FACP");
    table_at(&b, load_le(fadt + 36, 4), "FACS");
    assert_int_equal(load_le(fadt + 36, 4) % 64, 0);
    table_at(&b, load_le(fadt + 40, 4), "DSDT");
    assert_int_equal(load_le(fadt + 140, 8), load_le(fadt + 40, 4));
    acpi_blob_free(&b);
}

static void fields(void **state)
{
    struct acpi_blob b;
    const uint8_t *t;
    unsigned lapics = 0, ioapics = 0, overrides = 0, nmis = 0;

    build(&sample, &b);
    acpi_tables_place(&b, ADDRESS);
    t = find(&b, "FACP");
    assert_int_equal(load_le(t + 46, 2), PM_SCI_GSI);
    assert_int_equal(load_le(t + 48, 4), APM_COMMAND);
    assert_int_equal(load_le(t + 56, 4), 0x600);
    assert_int_equal(load_le(t + 76, 4), 0x608);
    assert_int_equal(load_le(t + 80, 4), 0x620);
    assert_int_equal(t[92], 16);                      /* GPE0 */
    assert_int_equal(load_le(t + 109, 2), 1 | 2 | 4); /* legacy devices, i8042, no VGA */
    assert_int_equal(load_le(t + 120, 8), 0xcf9);
    assert_int_equal(t[128], 6);
    assert_int_equal(load_le(t + 152, 8), 0x600);
    assert_int_equal(load_le(t + 212, 8), 0x608);
    assert_int_equal(load_le(t + 224, 8), 0x620);
    t = find(&b, "MCFG");
    assert_true(load_le(t + 44, 8) == Q35_ECAM_BASE);
    assert_int_equal(t[55], 255);
    t = find(&b, "HPET");
    assert_true(load_le(t + 44, 8) == 0xfed00000);
    t = find(&b, "APIC");
    for (uint32_t at = 44; at < load_le(t + 4, 4); at += t[at + 1]) {
        assert_true(t[at + 1] >= 6);
        switch (t[at]) {
        case 0:
            assert_int_equal(t[at + 3], lapics++);
            assert_int_equal(load_le(t + at + 4, 4), 1);
            break;
        case 1:
            ioapics++;
            assert_int_equal(load_le(t + at + 4, 4), 0xfec00000);
            break;
        case 2:
            overrides++;
            if (t[at + 3] == 0)
                assert_int_equal(load_le(t + at + 4, 4), 2);
            if (t[at + 3] == PM_SCI_GSI)
                assert_int_equal(load_le(t + at + 8, 2), 0xd); /* level, high */
            break;
        case 4: nmis++; break;
        default: fail_msg("entry of type %u", t[at]);
        }
    }
    assert_int_equal(lapics, 3);
    assert_int_equal(ioapics, 1);
    assert_int_equal(overrides, 5);
    assert_int_equal(nmis, 1);
    acpi_blob_free(&b);
}

static void what_is_not_there_is_not_told(void **state)
{
    struct acpi_config c = sample;
    struct acpi_blob b;

    c.platform = ACPI_PC;
    c.devices = 0;
    build(&c, &b);
    acpi_tables_place(&b, ADDRESS);
    assert_null(find(&b, "HPET"));
    assert_null(find(&b, "MCFG"));
    assert_int_equal(load_le(find(&b, "FACP") + 109, 2), 1 | 4);
    acpi_blob_free(&b);
}

static void many_processors_fit(void **state)
{
    struct acpi_config c = sample;
    struct acpi_blob b;

    c.cpus = 255;
    build(&c, &b);
    acpi_tables_place(&b, ADDRESS);
    assert_non_null(find(&b, "SSDT"));
    assert_int_equal(load_le(find(&b, "APIC") + 4, 4), 44 + 255 * 8 + 12 + 5 * 10 + 6);
    acpi_blob_free(&b);
}

/* What a firmware does with etc/table-loader, at an address of its own. */
static void the_script_does_the_same(void **state)
{
    struct acpi_blob b, placed;
    uint8_t *script, *files[2], zero[128] = {0};
    size_t size;

    build(&sample, &b);
    build(&sample, &placed);
    acpi_tables_place(&placed, ADDRESS);
    script = acpi_loader_script(&b, &size);
    assert_int_equal(size % 128, 0);
    for (uint8_t *e = script; e < script + size; e += 128) {
        bool in_rsdp = !strcmp((char *)e + 4, "etc/acpi/rsdp");
        uint8_t *file = in_rsdp ? b.rsdp : b.tables;
        size_t file_size = in_rsdp ? sizeof(b.rsdp) : b.size;
        uint32_t offset, start, length;

        assert_true(in_rsdp || !strcmp((char *)e + 4, "etc/acpi/tables"));
        switch (load_le(e, 4)) {
        case 1:
            assert_true(load_le(e + 60, 4) == (in_rsdp ? 16 : 64));
            assert_int_equal(e[64], in_rsdp ? 2 : 1);
            files[in_rsdp] = file;
            break;
        case 2:
            assert_string_equal((char *)e + 60, "etc/acpi/tables");
            offset = (uint32_t)load_le(e + 116, 4);
            assert_true(range_within(offset, e[120], file_size));
            store_le(file + offset, load_le(file + offset, e[120]) + ADDRESS, e[120]);
            break;
        case 3:
            offset = (uint32_t)load_le(e + 60, 4);
            start = (uint32_t)load_le(e + 64, 4);
            length = (uint32_t)load_le(e + 68, 4);
            assert_true(offset < file_size && range_within(start, length, file_size));
            file[offset] = (uint8_t)(file[offset] - sum(file + start, length));
            break;
        default: fail_msg("command %u", (unsigned)load_le(e, 4));
        }
    }
    assert_memory_not_equal(script, zero, 128);
    assert_ptr_equal(files[0], b.tables);
    assert_ptr_equal(files[1], b.rsdp);
    assert_int_equal(b.size, placed.size);
    assert_memory_equal(b.tables, placed.tables, b.size);
    assert_memory_equal(b.rsdp, placed.rsdp, sizeof(b.rsdp));
    free(script);
    acpi_blob_free(&b);
    acpi_blob_free(&placed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pointers_and_sums),
        cmocka_unit_test(fields),
        cmocka_unit_test(what_is_not_there_is_not_told),
        cmocka_unit_test(many_processors_fit),
        cmocka_unit_test(the_script_does_the_same),
    };

    return cmocka_run_group_tests_name("tables", tests, NULL, NULL);
}
