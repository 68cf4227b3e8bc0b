/*
 * tables.c - see tables.h. ACPI 6.4, chapter 5; the revisions of the tables are those of 6.0.
 *
 * Bytes go into one growing buffer by put(); a table starts with table_begin() and is complete
 * after table_end(), which fills its length and notes its checksum. Pointers between tables are
 * written as offsets and noted. Checksums are noted in an order in which summing them in turn is
 * right: none covers another one's byte that changes later.
 */
#include "devices/acpi/tables.h"

#include "devices/acpi/pm.h"
#include "devices/irq/ioapic.h"
#include "devices/irq/lapic.h"
#include "devices/pci/ich9.h"
#include "devices/pci/piix.h"
#include "devices/pci/q35.h"
#include "devices/timer/cmos_rtc.h"
#include "devices/timer/hpet.h"

#include "devices/acpi/dsdt_microvm.hex"
#include "devices/acpi/dsdt_pc.hex"
#include "devices/acpi/dsdt_q35.hex"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { HEADER_SIZE = 36, HEADER_LENGTH = 4, HEADER_CHECKSUM = 9 };

/* What the chip sets differ in. */
struct platform {
    const uint8_t *dsdt;
    size_t dsdt_size;
    uint16_t gpe;     /* from the first power management port */
    uint8_t gpe_size; /* of status and enable together */
    bool smi;         /* ACPI mode is switched by the APM port */
    bool pci;
    uint32_t level_isa; /* ISA interrupts that are level triggered, active high */
};

static const struct platform platforms[] = {
    [ACPI_PC] = {dsdt_pc_aml_code, sizeof(dsdt_pc_aml_code), PIIX4_GPE, 2 * PIIX4_GPE_WIDTH, true,
                 true, 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11},
    [ACPI_Q35] = {dsdt_q35_aml_code, sizeof(dsdt_q35_aml_code), ICH9_GPE, 2 * ICH9_GPE_WIDTH, true,
                  true, 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11},
    [ACPI_MICROVM] = {dsdt_microvm_aml_code, sizeof(dsdt_microvm_aml_code), ACPI_PM_GPE,
                      2 * ACPI_PM_GPE_WIDTH, false, false, 1 << 9},
};

struct writer {
    uint8_t *data;
    size_t size, capacity;
    struct acpi_blob *blob;
    size_t table; /* where the one under way begins */
};

static void put_bytes(struct writer *w, const void *bytes, size_t size)
{
    if (w->size + size > w->capacity) {
        size_t capacity = MAX(w->capacity * 2, w->size + size + 4 * KiB);
        uint8_t *data = xcalloc(1, capacity);

        if (w->size)
            memcpy(data, w->data, w->size);
        free(w->data);
        w->data = data;
        w->capacity = capacity;
    }
    memcpy(w->data + w->size, bytes, size);
    w->size += size;
}

static void put(struct writer *w, uint64_t value, unsigned size)
{
    put_bytes(w, &value, size);
}

static void put_zeros(struct writer *w, size_t count)
{
    while (count--)
        put(w, 0, 1);
}

static void put_align(struct writer *w, size_t to)
{
    put_zeros(w, align_up(w->size, to) - w->size);
}

/* A field that will hold an address: for now the offset `to`. */
static void put_pointer(struct writer *w, size_t to, unsigned size)
{
    struct acpi_blob *b = w->blob;

    assert(b->pointers < ACPI_POINTERS);
    b->pointer[b->pointers].in_rsdp = false;
    b->pointer[b->pointers].offset = (uint32_t)w->size;
    b->pointer[b->pointers++].size = (uint8_t)size;
    put(w, to, size);
}

static void note_checksum(struct acpi_blob *b, bool in_rsdp, size_t start, size_t length,
                          size_t offset)
{
    assert(b->checksums < ACPI_CHECKSUMS);
    b->checksum[b->checksums].in_rsdp = in_rsdp;
    b->checksum[b->checksums].start = (uint32_t)start;
    b->checksum[b->checksums].length = (uint32_t)length;
    b->checksum[b->checksums++].offset = (uint32_t)offset;
}

static size_t table_begin(struct writer *w, const char *signature, uint8_t revision)
{
    put_align(w, 16);
    w->table = w->size;
    put_bytes(w, signature, 4);
    put(w, 0, 4); /* length */
    put(w, revision, 1);
    put(w, 0, 1); /* checksum */
    put_bytes(w, "HOSPES", 6);
    put_bytes(w, "HOSPES  ", 8);
    put(w, 1, 4);
    put_bytes(w, "HOSP", 4);
    put(w, 1, 4);
    return w->table;
}

static void table_end(struct writer *w)
{
    store_le(w->data + w->table + HEADER_LENGTH, w->size - w->table, 4);
    note_checksum(w->blob, false, w->table, w->size - w->table, w->table + HEADER_CHECKSUM);
}

/* A register in I/O space (Generic Address Structure); size in bytes, 0: not there. */
static void put_port(struct writer *w, uint16_t port, unsigned size)
{
    put(w, size ? 1 : 0, 1);
    put(w, MIN(8 * size, 255), 1);
    put(w, 0, 1);
    put(w, size ? (size == 1 ? 1 : size == 2 ? 2 : size == 4 ? 3 : 1) : 0, 1); /* access */
    put(w, port, 8);
}

/* ---- AML: only what the SSDT needs ------------------------------------------------------------
 */

static void aml_name_integer(struct writer *w, const char *name, uint64_t value)
{
    put(w, 0x08, 1); /* NameOp */
    put_bytes(w, name, strlen(name));
    put(w, 0x0e, 1); /* QWordPrefix */
    put(w, value, 8);
}

static void aml_name_string(struct writer *w, const char *name, const char *text)
{
    put(w, 0x08, 1);
    put_bytes(w, name, 4);
    put(w, 0x0d, 1); /* StringPrefix */
    put_bytes(w, text, strlen(text) + 1);
}

/* An object with a package length: opened here, closed by aml_end() with what it returned. Three
 * bytes of length are kept free: enough for 1 MiB. */
static size_t aml_begin(struct writer *w, unsigned op, unsigned op_size, const char *name)
{
    size_t at;

    put(w, op, op_size);
    at = w->size;
    put_zeros(w, 3);
    put_bytes(w, name, strlen(name));
    return at;
}

static void aml_end(struct writer *w, size_t at)
{
    size_t length = w->size - at;

    w->data[at] = (uint8_t)(2 << 6 | (length & 15)); /* two bytes follow */
    w->data[at + 1] = (uint8_t)(length >> 4);
    w->data[at + 2] = (uint8_t)(length >> 12);
}

/* _CRS of a device with one range of memory and one interrupt (ACPI 6.4, 6.4.3). */
static void aml_resources(struct writer *w, gpa base, uint32_t length, unsigned gsi)
{
    enum { SIZE = 12 + 9 + 2 };

    put(w, 0x08, 1);
    put_bytes(w, "_CRS", 4);
    put(w, 0x11, 1);     /* BufferOp */
    put(w, 3 + SIZE, 1); /* package length: itself, the size, the bytes */
    put(w, 0x0a, 1);     /* BytePrefix */
    put(w, SIZE, 1);
    put(w, 0x86, 1); /* fixed 32-bit memory, writable */
    put(w, 9, 2);
    put(w, 1, 1);
    put(w, base, 4);
    put(w, length, 4);
    put(w, 0x89, 1); /* extended interrupt: consumer, level, active high, exclusive */
    put(w, 6, 2);
    put(w, 1, 1);
    put(w, 1, 1);
    put(w, gsi, 4);
    put(w, 0x79, 1); /* the end; its checksum is not used */
    put(w, 0, 1);
}

static void put_virtio_slots(struct writer *w, const struct acpi_config *c)
{
    for (unsigned i = 0; i < c->virtio_slots; i++) {
        auto_free char *name = xasprintf("VR%02X", i);
        size_t device = aml_begin(w, 0x825b, 2, name);

        aml_name_string(w, "_HID", "LNRO0005"); /* what Linux knows it by */
        aml_name_integer(w, "_UID", i);
        aml_name_integer(w, "_CCA", 1);
        aml_resources(w, c->virtio_base + c->virtio_step * i, c->virtio_step, c->virtio_irq[i]);
        aml_end(w, device);
    }
}

static size_t build_ssdt(struct writer *w, const struct acpi_config *c)
{
    size_t table = table_begin(w, "SSDT", 2), scope;

    aml_name_integer(w, "\\HFLG", c->devices);
    if (platforms[c->platform].pci) {
        aml_name_integer(w, "\\HW3B", c->window32_first);
        aml_name_integer(w, "\\HW3L", c->window32_last);
        aml_name_integer(w, "\\HW6B", c->window64_first);
        aml_name_integer(w, "\\HW6L", c->window64_last);
    }
    scope = aml_begin(w, 0x10, 1, "\\_SB_"); /* ScopeOp */
    for (unsigned i = 0; i < c->cpus; i++) {
        auto_free char *name = xasprintf("C%03X", i);
        size_t device = aml_begin(w, 0x825b, 2, name); /* DeviceOp */

        aml_name_string(w, "_HID", "ACPI0007");
        aml_name_integer(w, "_UID", i);
        aml_end(w, device);
    }
    put_virtio_slots(w, c);
    aml_end(w, scope);
    table_end(w);
    return table;
}

/* ---- tables ------------------------------------------------------------------------------------
 */

static size_t build_facs(struct writer *w)
{
    size_t table;

    put_align(w, 64);
    table = w->size;
    put_bytes(w, "FACS", 4);
    put(w, 64, 4);
    put_zeros(w, 24);
    put(w, 2, 1); /* version */
    put_zeros(w, 31);
    return table;
}

static size_t build_dsdt(struct writer *w, const struct platform *p)
{
    size_t table;

    put_align(w, 16);
    table = w->size;
    put_bytes(w, p->dsdt, p->dsdt_size);
    w->data[table + HEADER_CHECKSUM] = 0;
    note_checksum(w->blob, false, table, p->dsdt_size, table + HEADER_CHECKSUM);
    return table;
}

static size_t build_fadt(struct writer *w, const struct acpi_config *c, size_t facs, size_t dsdt)
{
    enum {
        LEGACY_DEVICES = 1 << 0,
        HAS_8042 = 1 << 1,
        NO_VGA = 1 << 2,
        WBINVD = 1 << 0,
        PROC_C1 = 1 << 2,
        SLEEP_BUTTON_NOT_FIXED = 1 << 5,
        RTC_WAKE_NOT_FIXED = 1 << 6,
        RESET_REGISTER = 1 << 10,
    };
    const struct platform *p = &platforms[c->platform];
    uint32_t pm = c->pm_ports ? c->pm_ports : ACPI_PM_PORTS;
    size_t table = table_begin(w, "FACP", 6);

    put_pointer(w, facs, 4);
    put_pointer(w, dsdt, 4);
    put(w, 0, 1);
    put(w, 0, 1); /* profile: not said */
    put(w, PM_SCI_GSI, 2);
    put(w, p->smi ? APM_COMMAND : 0, 4);
    put(w, p->smi ? PM_ACPI_ENABLE : 0, 1);
    put(w, p->smi ? PM_ACPI_DISABLE : 0, 1);
    put(w, 0, 2); /* no S4BIOS, no P-states by SMI */
    put(w, pm + PM1_STATUS, 4);
    put(w, 0, 4);
    put(w, pm + PM1_CONTROL, 4);
    put(w, 0, 4);
    put(w, 0, 4);
    put(w, pm + PM_TIMER, 4);
    put(w, pm + p->gpe, 4);
    put(w, 0, 4);
    put(w, 4, 1);           /* PM1 event */
    put(w, 2, 1);           /* PM1 control */
    put(w, 0, 1);           /* PM2 */
    put(w, 4, 1);           /* timer */
    put(w, p->gpe_size, 1); /* GPE0 */
    put(w, 0, 3);           /* GPE1, its base, _CST */
    put(w, 0xfff, 2);       /* no C2 */
    put(w, 0xfff, 2);       /* no C3 */
    put(w, 0, 6);           /* flushing, duty cycle */
    put(w, 0, 2);           /* alarm's day and month */
    put(w, CMOS_CENTURY, 1);
    put(w,
        LEGACY_DEVICES | (c->devices & ACPI_I8042 ? HAS_8042 : 0) |
            (c->devices & ACPI_VGA ? 0 : NO_VGA),
        2);
    put(w, 0, 1);
    put(w, WBINVD | PROC_C1 | SLEEP_BUTTON_NOT_FIXED | RTC_WAKE_NOT_FIXED | RESET_REGISTER, 4);
    put_port(w, ACPI_PM_RESET, 1);
    put(w, 6, 1); /* value: reset the CPU and the system */
    put(w, 0, 3); /* Arm; minor version */
    put(w, 0, 8); /* X_FIRMWARE_CTRL: the 32-bit one is used */
    put_pointer(w, dsdt, 8);
    put_port(w, pm + PM1_STATUS, 4);
    put_port(w, 0, 0);
    put_port(w, pm + PM1_CONTROL, 2);
    put_port(w, 0, 0);
    put_port(w, 0, 0);
    put_port(w, pm + PM_TIMER, 4);
    put_port(w, pm + p->gpe, p->gpe_size);
    put_port(w, 0, 0);
    put_port(w, 0, 0); /* sleep control and status: hardware-reduced only */
    put_port(w, 0, 0);
    put(w, 0, 8); /* hypervisor */
    assert(w->size - table == 276);
    table_end(w);
    return table;
}

static size_t build_madt(struct writer *w, const struct acpi_config *c)
{
    enum { PC_AT_COMPATIBLE = 1, ENABLED = 1, ACTIVE_HIGH = 1, LEVEL = 3 << 2 };
    size_t table = table_begin(w, "APIC", 4);
    uint32_t level_isa = platforms[c->platform].level_isa;

    for (unsigned i = 0; i < c->virtio_slots; i++)
        level_isa |= 1u << c->virtio_irq[i];

    put(w, LAPIC_DEFAULT_BASE, 4);
    put(w, PC_AT_COMPATIBLE, 4);
    for (unsigned i = 0; i < c->cpus; i++) {
        put(w, 0, 1); /* local APIC */
        put(w, 8, 1);
        put(w, i, 1);
        put(w, i, 1);
        put(w, ENABLED, 4);
    }
    put(w, 1, 1); /* I/O APIC */
    put(w, 12, 1);
    put(w, c->ioapic_id, 1);
    put(w, 0, 1);
    put(w, IOAPIC_DEFAULT_BASE, 4);
    put(w, 0, 4);
    for (unsigned irq = 0; irq < 16; irq++) {
        bool level = level_isa >> irq & 1;

        if (irq && !level)
            continue;
        put(w, 2, 1); /* interrupt source override: the timer is on pin 2 */
        put(w, 10, 1);
        put(w, 0, 1);
        put(w, irq, 1);
        put(w, irq ? irq : 2, 4);
        put(w, level ? ACTIVE_HIGH | LEVEL : 0, 2);
    }
    put(w, 4, 1); /* NMI on LINT1 of every processor */
    put(w, 6, 1);
    put(w, 0xff, 1);
    put(w, 0, 2);
    put(w, 1, 1);
    table_end(w);
    return table;
}

static size_t build_mcfg(struct writer *w)
{
    size_t table = table_begin(w, "MCFG", 1);

    put_zeros(w, 8);
    put(w, Q35_ECAM_BASE, 8);
    put(w, 0, 2); /* segment */
    put(w, 0, 1); /* first bus, last bus */
    put(w, Q35_ECAM_SIZE / MiB - 1, 1);
    put_zeros(w, 4);
    table_end(w);
    return table;
}

static size_t build_hpet(struct writer *w)
{
    size_t table = table_begin(w, "HPET", 1);

    put(w, HPET_BLOCK_ID, 4);
    put(w, 0, 4); /* in memory, */
    put(w, HPET_DEFAULT_BASE, 8);
    put(w, 0, 1);    /* number 0 */
    put(w, 1000, 2); /* least period of a periodic timer, in ticks: 10 us */
    put(w, 0, 1);
    table_end(w);
    return table;
}

static size_t build_root(struct writer *w, const char *signature, unsigned pointer_size,
                         const size_t *tables, unsigned count)
{
    size_t table = table_begin(w, signature, 1);

    for (unsigned i = 0; i < count; i++)
        put_pointer(w, tables[i], pointer_size);
    table_end(w);
    return table;
}

static void build_rsdp(struct acpi_blob *b, size_t rsdt, size_t xsdt)
{
    memset(b->rsdp, 0, sizeof(b->rsdp));
    memcpy(b->rsdp, "RSD PTR ", 8);
    memcpy(b->rsdp + 9, "HOSPES", 6);
    b->rsdp[15] = 2;
    store_le(b->rsdp + 16, rsdt, 4);
    store_le(b->rsdp + 20, ACPI_RSDP_SIZE, 4);
    store_le(b->rsdp + 24, xsdt, 8);
    assert(b->pointers + 2 <= ACPI_POINTERS);
    for (unsigned i = 0; i < 2; i++) {
        b->pointer[b->pointers].in_rsdp = true;
        b->pointer[b->pointers].offset = i ? 24 : 16;
        b->pointer[b->pointers++].size = i ? 8 : 4;
    }
    note_checksum(b, true, 0, 20, 8); /* before the one that covers it */
    note_checksum(b, true, 0, ACPI_RSDP_SIZE, 32);
}

int acpi_tables_build(const struct acpi_config *c, struct acpi_blob *out, struct error *err)
{
    struct acpi_blob b = {0};
    struct writer w = {.blob = &b};
    size_t facs, dsdt, rsdt, xsdt, tables[8];
    unsigned count = 0;

    facs = build_facs(&w);
    dsdt = build_dsdt(&w, &platforms[c->platform]);
    tables[count++] = build_fadt(&w, c, facs, dsdt);
    tables[count++] = build_ssdt(&w, c);
    tables[count++] = build_madt(&w, c);
    if (c->platform == ACPI_Q35)
        tables[count++] = build_mcfg(&w);
    if (c->devices & ACPI_HPET)
        tables[count++] = build_hpet(&w);
    rsdt = build_root(&w, "RSDT", 4, tables, count);
    xsdt = build_root(&w, "XSDT", 8, tables, count);
    build_rsdp(&b, rsdt, xsdt);
    if (w.size > ACPI_MAX_SIZE) {
        free(w.data);
        return error_set(err, E2BIG, "ACPI tables for %u processors take %zu bytes, more than %d",
                         c->cpus, w.size, ACPI_MAX_SIZE);
    }
    b.tables = w.data;
    b.size = w.size;
    *out = b;
    return 0;
}

void acpi_blob_free(struct acpi_blob *b)
{
    free(b->tables);
    *b = (struct acpi_blob){0};
}

void acpi_tables_place(struct acpi_blob *b, gpa address)
{
    for (unsigned i = 0; i < b->pointers; i++) {
        uint8_t *field = (b->pointer[i].in_rsdp ? b->rsdp : b->tables) + b->pointer[i].offset;

        store_le(field, load_le(field, b->pointer[i].size) + address, b->pointer[i].size);
    }
    for (unsigned i = 0; i < b->checksums; i++) {
        uint8_t *base = b->checksum[i].in_rsdp ? b->rsdp : b->tables, sum = 0;

        base[b->checksum[i].offset] = 0;
        for (uint32_t n = 0; n < b->checksum[i].length; n++)
            sum += base[b->checksum[i].start + n];
        base[b->checksum[i].offset] = (uint8_t)-sum;
    }
}

/* ---- for firmware ------------------------------------------------------------------------------
 */

enum { LOADER_ENTRY = 128, LOADER_FILE = 56 };
enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum { LOADER_ZONE_HIGH = 1, LOADER_ZONE_FSEG = 2 };

static const char *file_of(bool rsdp)
{
    return rsdp ? "etc/acpi/rsdp" : "etc/acpi/tables";
}

static void loader_allocate(uint8_t *entry, bool rsdp, uint32_t alignment, uint8_t zone)
{
    store_le(entry, LOADER_ALLOCATE, 4);
    memcpy(entry + 4, file_of(rsdp), strlen(file_of(rsdp)));
    store_le(entry + 4 + LOADER_FILE, alignment, 4);
    entry[8 + LOADER_FILE] = zone;
}

uint8_t *acpi_loader_script(const struct acpi_blob *b, size_t *size)
{
    unsigned entries = 2 + b->pointers + b->checksums;
    uint8_t *script = xcalloc(entries, LOADER_ENTRY), *entry = script;

    loader_allocate(entry, false, 64, LOADER_ZONE_HIGH);
    entry += LOADER_ENTRY;
    loader_allocate(entry, true, 16, LOADER_ZONE_FSEG);
    entry += LOADER_ENTRY;
    for (unsigned i = 0; i < b->pointers; i++, entry += LOADER_ENTRY) {
        const char *in = file_of(b->pointer[i].in_rsdp), *to = file_of(false);

        store_le(entry, LOADER_ADD_POINTER, 4);
        memcpy(entry + 4, in, strlen(in));
        memcpy(entry + 4 + LOADER_FILE, to, strlen(to));
        store_le(entry + 4 + 2 * LOADER_FILE, b->pointer[i].offset, 4);
        entry[8 + 2 * LOADER_FILE] = b->pointer[i].size;
    }
    for (unsigned i = 0; i < b->checksums; i++, entry += LOADER_ENTRY) {
        const char *in = file_of(b->checksum[i].in_rsdp);

        store_le(entry, LOADER_ADD_CHECKSUM, 4);
        memcpy(entry + 4, in, strlen(in));
        store_le(entry + 4 + LOADER_FILE, b->checksum[i].offset, 4);
        store_le(entry + 8 + LOADER_FILE, b->checksum[i].start, 4);
        store_le(entry + 12 + LOADER_FILE, b->checksum[i].length, 4);
    }
    *size = (size_t)entries * LOADER_ENTRY;
    return script;
}
