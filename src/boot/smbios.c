/*
 * smbios.c - see smbios.h. Field offsets are those of DSP0134 2.8.
 *
 * A structure is a fixed part, then its strings, each ended by a zero byte, then one more zero.
 * Fixed parts refer to strings by number, from 1; 0 is none.
 */
#include "boot/smbios.h"

#include <errno.h>
#include <stdlib.h>

enum { TABLES_MAX = 32 * KiB, STRING_MAX = 64, FIXED_MAX = 48 };

enum handle {
    HANDLE_BIOS = 0x000,
    HANDLE_SYSTEM = 0x100,
    HANDLE_CHASSIS = 0x300,
    HANDLE_PROCESSOR = 0x400,
    HANDLE_ARRAY = 0x1000,
    HANDLE_DEVICE = 0x1100,
    HANDLE_MAPPED = 0x1300,
    HANDLE_BOOT = 0x2000,
    HANDLE_END = 0x7f00,
};

struct tables {
    uint8_t *data;
    size_t used;
    bool overflow;
};

struct structure {
    uint8_t fixed[FIXED_MAX];
    size_t size;
    char strings[STRING_MAX * 8];
    size_t strings_size;
    uint8_t count;
};

static void begin(struct structure *s, uint8_t type, size_t size, uint16_t handle)
{
    *s = (struct structure){.size = size};
    s->fixed[0] = type;
    s->fixed[1] = (uint8_t)size;
    store_le(s->fixed + 2, handle, 2);
}

/* Set the string field at `offset`. Long strings are cut; control characters become dots. */
static void text(struct structure *s, unsigned offset, const char *value)
{
    size_t length = value ? strnlen(value, STRING_MAX - 1) : 0;

    if (!length || s->strings_size + length + 1 > sizeof(s->strings))
        return;
    for (size_t i = 0; i < length; i++)
        s->strings[s->strings_size++] = value[i] < ' ' || value[i] > '~' ? '.' : value[i];
    s->strings[s->strings_size++] = '\0';
    s->fixed[offset] = ++s->count;
}

static void finish(struct tables *t, const struct structure *s)
{
    size_t end = s->strings_size ? 1 : 2;

    if (!range_within(t->used, s->size + s->strings_size + end, TABLES_MAX)) {
        t->overflow = true;
        return;
    }
    memcpy(t->data + t->used, s->fixed, s->size);
    memcpy(t->data + t->used + s->size, s->strings, s->strings_size);
    t->used += s->size + s->strings_size + end; /* the rest is zero already */
}

static const char *or_ours(const char *value, const char *ours)
{
    return value ? value : ours;
}

static void add_bios(struct tables *t)
{
    struct structure s;

    begin(&s, 0, 24, HANDLE_BIOS);
    text(&s, 4, "Hospes");
    text(&s, 5, HOSPES_VERSION);
    store_le(s.fixed + 6, 0xe800, 2); /* segment */
    text(&s, 8, "01/01/2024");
    s.fixed[9] = 0;                     /* ROM: 64 KiB */
    store_le(s.fixed + 10, 1u << 3, 8); /* characteristics: not given */
    s.fixed[18] = 1;                    /* ACPI */
    s.fixed[19] = 1u << 4 | 1u << 2;    /* a virtual machine; targeted distribution */
    s.fixed[20] = s.fixed[21] = 0;
    s.fixed[22] = s.fixed[23] = 0xff; /* no embedded controller */
    finish(t, &s);
}

static void add_system(struct tables *t, const struct smbios_config *c)
{
    struct structure s;
    const uint8_t *u = c->uuid;
    /* The first three fields are little-endian in SMBIOS, big-endian in text and here. */
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

    begin(&s, 1, 27, HANDLE_SYSTEM);
    text(&s, 4, or_ours(c->manufacturer, "Hospes"));
    text(&s, 5, or_ours(c->product, "Hospes Virtual Machine"));
    text(&s, 6, or_ours(c->version, HOSPES_VERSION));
    text(&s, 7, c->serial);
    for (unsigned i = 0; i < 16; i++)
        s.fixed[8 + i] = u[order[i]];
    s.fixed[24] = 6; /* woken by the power switch */
    finish(t, &s);

    begin(&s, 3, 22, HANDLE_CHASSIS);
    text(&s, 4, or_ours(c->manufacturer, "Hospes"));
    s.fixed[5] = 1; /* other */
    text(&s, 6, or_ours(c->version, HOSPES_VERSION));
    s.fixed[9] = s.fixed[10] = s.fixed[11] = 3; /* boot-up, power and heat: safe */
    s.fixed[12] = 2;                            /* security: unknown */
    finish(t, &s);
}

static void add_processors(struct tables *t, const struct smbios_config *c)
{
    unsigned per_socket = MAX(c->cores, 1u) * MAX(c->threads, 1u);
    unsigned sockets = (MAX(c->cpus, 1u) + per_socket - 1) / per_socket;

    for (unsigned i = 0; i < sockets; i++) {
        struct structure s;
        char name[16] = "CPU ";
        unsigned digits = 4;

        if (i >= 100)
            name[digits++] = (char)('0' + i / 100 % 10);
        if (i >= 10)
            name[digits++] = (char)('0' + i / 10 % 10);
        name[digits] = (char)('0' + i % 10);
        begin(&s, 4, 42, (uint16_t)(HANDLE_PROCESSOR + i));
        text(&s, 4, name);
        s.fixed[5] = 3; /* a central processor */
        s.fixed[6] = 1; /* family: other */
        text(&s, 7, or_ours(c->cpu_vendor, "Hospes"));
        store_le(s.fixed + 8, c->cpu_signature, 4);
        store_le(s.fixed + 12, c->cpu_features, 4);
        text(&s, 16, c->cpu_model);
        store_le(s.fixed + 20, 2000, 2); /* MHz */
        store_le(s.fixed + 22, 2000, 2);
        s.fixed[24] = 0x41;                /* populated, enabled */
        s.fixed[25] = 1;                   /* upgrade: other */
        store_le(s.fixed + 26, 0xffff, 2); /* no cache handles */
        store_le(s.fixed + 28, 0xffff, 2);
        store_le(s.fixed + 30, 0xffff, 2);
        s.fixed[35] = s.fixed[36] = (uint8_t)MIN(MAX(c->cores, 1u), 255u);
        s.fixed[37] = (uint8_t)MIN(per_socket, 255u);
        store_le(s.fixed + 38, 2, 2); /* characteristics: unknown */
        store_le(s.fixed + 40, 1, 2); /* family 2: other */
        finish(t, &s);
    }
}

static void add_mapped(struct tables *t, uint16_t number, uint64_t start, uint64_t size)
{
    struct structure s;

    begin(&s, 19, 31, (uint16_t)(HANDLE_MAPPED + number));
    /* In KiB, or as bytes in the fields behind where they do not fit. */
    if ((start + size - 1) / KiB < UINT32_MAX) {
        store_le(s.fixed + 4, start / KiB, 4);
        store_le(s.fixed + 8, (start + size - 1) / KiB, 4);
    } else {
        store_le(s.fixed + 4, UINT32_MAX, 4);
        store_le(s.fixed + 8, UINT32_MAX, 4);
        store_le(s.fixed + 15, start, 8);
        store_le(s.fixed + 23, start + size - 1, 8);
    }
    store_le(s.fixed + 12, HANDLE_ARRAY, 2);
    s.fixed[14] = 1; /* partitions */
    finish(t, &s);
}

static void add_memory(struct tables *t, const struct smbios_config *c)
{
    uint64_t total = c->ram_below_4g + c->ram_above_4g;
    struct structure s;

    begin(&s, 16, 23, HANDLE_ARRAY);
    s.fixed[4] = 1; /* location: other */
    s.fixed[5] = 3; /* system memory */
    s.fixed[6] = 6; /* multi-bit ECC, as servers have */
    if (total / KiB < UINT32_C(0x80000000)) {
        store_le(s.fixed + 7, total / KiB, 4);
    } else {
        store_le(s.fixed + 7, UINT32_C(0x80000000), 4);
        store_le(s.fixed + 15, total, 8);
    }
    store_le(s.fixed + 11, 0xfffe, 2); /* no error information */
    store_le(s.fixed + 13, 1, 2);      /* devices */
    finish(t, &s);

    begin(&s, 17, 40, HANDLE_DEVICE);
    store_le(s.fixed + 4, HANDLE_ARRAY, 2);
    store_le(s.fixed + 6, 0xfffe, 2);
    store_le(s.fixed + 8, 0xffff, 2); /* widths: unknown */
    store_le(s.fixed + 10, 0xffff, 2);
    if (total / MiB < 0x7fff) {
        store_le(s.fixed + 12, total / MiB, 2);
    } else {
        store_le(s.fixed + 12, 0x7fff, 2);
        store_le(s.fixed + 28, MIN(total / MiB, UINT64_C(0x7fffffff)), 4);
    }
    s.fixed[14] = 9; /* a DIMM */
    text(&s, 16, "DIMM 0");
    s.fixed[18] = 7;              /* type: RAM */
    store_le(s.fixed + 19, 2, 2); /* other */
    text(&s, 23, or_ours(c->manufacturer, "Hospes"));
    finish(t, &s);

    if (c->ram_below_4g)
        add_mapped(t, 0, 0, c->ram_below_4g);
    if (c->ram_above_4g)
        add_mapped(t, 1, UINT64_C(1) << 32, c->ram_above_4g);
}

int smbios_build(const struct smbios_config *c, uint8_t **out, size_t *size, struct error *err)
{
    struct tables t = {.data = xcalloc(1, TABLES_MAX)};
    struct structure s;

    add_bios(&t);
    add_system(&t, c);
    add_processors(&t, c);
    add_memory(&t, c);
    begin(&s, 32, 11, HANDLE_BOOT);
    finish(&t, &s);
    begin(&s, 127, 4, HANDLE_END);
    finish(&t, &s);
    if (t.overflow) {
        free(t.data);
        return error_set(err, E2BIG, "the SMBIOS tables of %u processors exceed %d bytes", c->cpus,
                         TABLES_MAX);
    }
    *out = t.data;
    *size = t.used;
    return 0;
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + data[i]);
    return (uint8_t)-sum;
}

/* Bytes of the structure at `s`, strings and end included. */
static size_t structure_size(const uint8_t *s, size_t room)
{
    size_t at = s[1];

    while (at + 2 <= room && (s[at] || s[at + 1]))
        at++;
    return at + 2;
}

void smbios_entry_28(uint8_t out[SMBIOS_ENTRY_28], const uint8_t *tables, size_t size,
                     uint32_t address)
{
    size_t largest = 0, at = 0;
    unsigned count = 0;

    while (at + 4 <= size) {
        size_t n = structure_size(tables + at, size - at);

        largest = MAX(largest, n);
        at += n;
        count++;
    }
    memset(out, 0, SMBIOS_ENTRY_28);
    memcpy(out, "_SM_", 4);
    out[5] = SMBIOS_ENTRY_28;
    out[6] = 2;
    out[7] = 8;
    store_le(out + 8, largest, 2);
    memcpy(out + 16, "_DMI_", 5);
    store_le(out + 22, size, 2);
    store_le(out + 24, address, 4);
    store_le(out + 28, count, 2);
    out[30] = 0x28;
    out[21] = checksum(out + 16, 15);
    out[4] = checksum(out, SMBIOS_ENTRY_28);
}

void smbios_entry_30(uint8_t out[SMBIOS_ENTRY_30], size_t size, uint64_t address)
{
    memset(out, 0, SMBIOS_ENTRY_30);
    memcpy(out, "_SM3_", 5);
    out[6] = SMBIOS_ENTRY_30;
    out[7] = 3;
    out[10] = 1; /* entry point revision */
    store_le(out + 12, size, 4);
    store_le(out + 16, address, 8);
    out[5] = checksum(out, SMBIOS_ENTRY_30);
}
