/*
 * dump_tables.c - writes each board's DSDT and SSDT into a directory, for check_aml.py.
 */
#include "base/util.h"
#include "devices/acpi/tables.h"

#include <stdio.h>

static int dump(enum acpi_platform platform, const char *directory)
{
    static const char *const names[] = {"DSDT", "SSDT"};
    const struct acpi_config c = {.platform = platform,
                                  .cpus = 3,
                                  .devices = ACPI_COM1 | ACPI_HPET | ACPI_I8042,
                                  .window32_first = 0xc0000000,
                                  .window32_last = 0xfebfffff,
                                  .window64_first = UINT64_C(0x200000000),
                                  .window64_last = UINT64_C(0xfffffffff)};
    struct acpi_blob b;
    int r = 0;

    if (acpi_tables_build(&c, &b, NULL) < 0)
        return 1;
    acpi_tables_place(&b, 0xe0040);
    for (unsigned i = 0; i < ARRAY_SIZE(names) && !r; i++) {
        auto_free char *path = xasprintf("%s/%u-%s.aml", directory, platform, names[i]);
        const uint8_t *t = b.tables;
        FILE *f = fopen(path, "wb");

        while (memcmp(t, names[i], 4))
            t += 4;
        r = !f || fwrite(t, load_le(t + 4, 4), 1, f) != 1;
        if (f)
            r |= fclose(f) != 0;
    }
    acpi_blob_free(&b);
    return r;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    return dump(ACPI_PC, argv[1]) || dump(ACPI_Q35, argv[1]) || dump(ACPI_MICROVM, argv[1]);
}
