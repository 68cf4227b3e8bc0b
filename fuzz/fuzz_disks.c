/*
 * fuzz_disks.c - a guest that writes whatever it likes to disk controllers: registers, bus-master
 * tables, command lists, packets, and state streams with wrong bytes.
 *
 * An input is a list of 8-byte operations on one controller with a disk and a CD. Half of them make
 * what a driver would (a command FIS, a table, a packet), so that the rest is reached. The disk is
 * settled after each operation, which makes an input do the same every time.
 */
#include "fuzz.h"

#include "block/disk.h"
#include "devices/block/ata_bus.h"
#include "devices/block/nvme.h"
#include "devices/pci/pci.h"
#include "machine/machine.h"
#include "memory/ram.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { IDE, AHCI, NVME };
enum {
    OPERATION = 8,
    MMIO = 0xe0000000,
    PORTS = 0xc000,
    LIST = 0x10000,
    TABLE = 0x20000,
    DATA = 0x40000
};

struct guest {
    struct machine *m;
    struct device *controller;
    struct disk *disk[2];
    struct machine_backend backends[2];
};

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_disks: %s\n", what);
    abort();
}

static struct disk *open_disk(unsigned sectors, const char *options)
{
    char text[100];
    int fd = memfd_create("disk", MFD_CLOEXEC);
    struct disk *d;

    check(fd >= 0 && !ftruncate(fd, sectors * 512), "no memfd");
    snprintf(text, sizeof(text), "file=/proc/self/fd/%d,format=raw%s", fd, options);
    d = disk_open(text, NULL);
    check(d != NULL, "a disk did not open");
    return d;
}

static void build(struct guest *g, unsigned kind)
{
    static const struct device_type *const types[] = {&piix3_ide_type, &ahci_type, &nvme_type};
    struct machine_config config = {.memory = 4 * MiB};

    g->disk[0] = open_disk(1000, "");
    g->disk[1] = open_disk(400, ",readonly=on");
    for (unsigned i = 0; i < 2; i++)
        g->backends[i] = (struct machine_backend){"drive", i ? "cd" : "hd", g->disk[i]};
    config.backends = g->backends;
    config.backend_count = 2;
    g->m = machine_new(&config, true);
    check(!ram_block_new("ram", config.memory, &g->m->ram, NULL) &&
              !memory_add_ram(g->m->memory, "ram", 0, config.memory, 0, IN_ALL, g->m->ram, 0, true,
                              NULL, NULL),
          "no RAM");
    check(pci_host_add(g->m, "pci.0", NULL) != NULL, "no host bridge");
    if (kind == NVME) {
        g->controller = device_add(g->m, types[kind], "addr=3,drive=hd", NULL);
        check(g->controller != NULL, "a device was not created");
        return;
    }
    g->controller = pci_device_add(g->m, types[kind], "3", NULL);
    check(g->controller && device_add(g->m, &ide_hd_type, "drive=hd", NULL) &&
              device_add(g->m, &ide_cd_type, "drive=cd", NULL),
          "a device was not created");
}

static void settle(struct guest *g)
{
    for (unsigned i = 0; i < 2; i++)
        disk_drain(g->disk[i]);
}

/* An NVMe controller that runs, with a pair of queues. */
static void start_nvme(struct guest *g)
{
    struct memory_map *map = g->m->memory;
    uint8_t *c = g->m->ram->host + LIST;

    pci_config_write(pci_bus_find(g->m, NULL)->host, 0, 3 << 3, PCI_BAR0, MMIO, 4);
    pci_config_write(pci_bus_find(g->m, NULL)->host, 0, 3 << 3, PCI_COMMAND, 6, 2);
    memory_write(map, VIEW_NORMAL, MMIO + 0x14, 0, 4);
    memory_write(map, VIEW_NORMAL, MMIO + 0x24, 31 << 16 | 31, 4);
    memory_write(map, VIEW_NORMAL, MMIO + 0x28, LIST, 8);
    memory_write(map, VIEW_NORMAL, MMIO + 0x30, LIST + 0x1000, 8);
    memory_write(map, VIEW_NORMAL, MMIO + 0x14, 0x00460001, 4);
    memset(c, 0, 128);
    c[0] = 5;
    store_le(c + 24, LIST + 0x3000, 8);
    store_le(c + 40, 31 << 16 | 1, 4);
    store_le(c + 44, 3, 4);
    c[64] = 1;
    store_le(c + 64 + 24, LIST + 0x2000, 8);
    store_le(c + 64 + 40, 31 << 16 | 1, 4);
    store_le(c + 64 + 44, 1 << 16 | 1, 4);
    memory_write(map, VIEW_NORMAL, MMIO + 0x1000, 2, 4);
}

/* A command in one of the two queues, and the bell. */
static void nvme_command(struct guest *g, const uint8_t *op)
{
    bool io = op[1] & 1;
    uint8_t *c = g->m->ram->host + LIST + (io ? 0x2000 : 0) + (op[2] & 31) * 64;

    memset(c, 0, 64);
    c[0] = op[3] & (op[1] & 2 ? 0xff : 0x0f);
    c[4] = op[1] & 4 ? op[5] : 1;
    store_le(c + 24, op[1] & 8 ? load_le(op + 4, 4) : (uint64_t)DATA + op[4], 8);
    store_le(c + 32, op[1] & 16 ? TABLE + op[5] * 8u : DATA + 0x1000u, 8);
    store_le(c + 40, op[6] | (uint32_t)op[4] << 16, 4);
    store_le(c + 48, op[7], 4);
    memory_write(g->m->memory, VIEW_NORMAL, MMIO + 0x1000 + (io ? 8 : 0), ((op[2] & 31) + 1) % 32,
                 4);
    if (op[1] & 32)
        memory_write(g->m->memory, VIEW_NORMAL, MMIO + 0x1004 + (io ? 8 : 0), op[2] & 31, 4);
}

static void place(struct guest *g)
{
    struct pci_host *h = pci_bus_find(g->m, NULL)->host;

    if (g->controller->type == &nvme_type) {
        start_nvme(g);
        return;
    }

    pci_config_write(h, 0, 3 << 3, PCI_BAR0 + 16, PORTS, 4);
    pci_config_write(h, 0, 3 << 3, PCI_BAR0 + 20, MMIO, 4);
    pci_config_write(h, 0, 3 << 3, PCI_COMMAND, 7, 2);
    for (unsigned n = 0; n < 2; n++) { /* ports of an AHCI controller that run */
        gpa port = MMIO + 0x100 + 0x80 * n;

        memory_write(g->m->memory, VIEW_NORMAL, port, LIST, 4);
        memory_write(g->m->memory, VIEW_NORMAL, port + 8, LIST + 0x1000, 4);
        memory_write(g->m->memory, VIEW_NORMAL, port + 0x18, 0x17, 4);
    }
}

static void corrupt_stream(struct guest *g, uint32_t where, uint8_t what)
{
    struct state_buffer b = {0};

    state_save_device(&b, g->controller);
    if (b.size)
        b.data[where % b.size] ^= what;
    state_load_device(&b, g->controller, NULL); /* may refuse */
    state_buffer_free(&b);
}

/* A slot that names a command, and memory for its data. */
static void make_slot(struct guest *g, const uint8_t *op)
{
    static const uint8_t commands[] = {0xec, 0x25, 0x35, 0x60, 0x61, 0x20, 0x30, 0x06,
                                       0xa0, 0xea, 0xef, 0xb0, 0x2f, 0xc4, 0xc5, 0xe7};
    uint8_t *ram = g->m->ram->host, *table = ram + TABLE + (op[1] & 31) * 0x200;
    uint8_t *header = ram + LIST + (op[1] & 31) * 32;

    store_le(header, 5 | (op[2] & 1) << 6, 2);
    store_le(header + 2, op[2] >> 4, 2);
    store_le(header + 8, TABLE + (op[1] & 31) * 0x200, 8);
    memset(table, 0, 0x80);
    table[0] = 0x27;
    table[1] = op[1] & 0x80;
    table[2] = op[1] & 0x40 ? op[3] : commands[op[3] & 15];
    table[3] = op[4];
    table[4] = op[5];
    table[5] = op[3] >> 6;
    table[7] = 0x40;
    table[12] = table[2] == 0x60 || table[2] == 0x61 ? (uint8_t)(op[1] << 3) : op[6];
    table[15] = op[1] & 0x80 ? 0 : op[7];
    memcpy(table + 0x40, (const uint8_t[]){op[6], 0, 0, 0, 0, op[7], 0, op[4], op[5]}, 9);
    for (unsigned i = 0; i < 16; i++) {
        store_le(table + 0x80 + 16 * i, DATA + 0x1000 * i, 8);
        store_le(table + 0x80 + 16 * i + 12, op[4] & 1 ? 0xfff : op[4], 4);
    }
}

static void make_table(struct guest *g, const uint8_t *op)
{
    uint8_t *ram = g->m->ram->host;
    uint16_t channel = op[1] & 1 ? 8 : 0;

    for (unsigned i = 0; i < 8; i++) {
        store_le(ram + TABLE + 8 * i, DATA + 0x1000 * i, 4);
        store_le(ram + TABLE + 8 * i + 4, op[2] * 16u | (i == (op[3] & 7) ? 1u << 31 : 0), 4);
    }
    machine_out(g->m, PORTS + channel + 4, TABLE, 4);
    machine_out(g->m, PORTS + channel, op[4] & 9, 1);
}

static void operate(struct guest *g, const uint8_t *op)
{
    static const uint16_t ide[] = {0x1f0, 0x170, 0x3f6, 0x376};
    struct machine *m = g->m;
    uint32_t value = (uint32_t)load_le(op + 4, 4);
    unsigned size = 1u << (op[0] >> 4 & 3);

    size = MIN(size, 4);
    if (g->controller->type == &nvme_type && (op[0] & 15) < 9) {
        nvme_command(g, op);
        return;
    }
    switch (op[0] & 15) {
    case 0 ... 2:
        machine_out(m, (uint16_t)(ide[op[1] & 1] + op[2] % 8), op[2] % 8 ? op[4] : value,
                    op[2] % 8 ? 1 : size);
        break;
    case 3: machine_out(m, (uint16_t)(ide[op[1] & 1] + 7), op[4], 1); break;
    case 4: /* a packet */
        machine_out(m, ide[op[1] & 1] + 6, op[1] & 2 ? 0xb0 : 0xa0, 1);
        machine_out(m, ide[op[1] & 1] + 7, 0xa0, 1);
        for (unsigned i = 0; i < 12; i += 2)
            machine_out(m, ide[op[1] & 1], load_le(op + 2 + i % 6, 2), 2);
        break;
    case 5:
        for (unsigned i = 0; i < op[2]; i++)
            if (op[3] & 1)
                machine_in(m, ide[op[1] & 1], size);
            else
                machine_out(m, ide[op[1] & 1], value, size);
        break;
    case 6: machine_out(m, ide[2 + (op[1] & 1)], op[4], 1); break;
    case 7: machine_out(m, (uint16_t)(PORTS + (op[1] & 15)), value, size); break;
    case 8: make_table(g, op); break;
    case 9: make_slot(g, op); break;
    case 10: {
        gpa port = MMIO + 0x100 + 0x80 * (op[2] & 1);

        memory_write(m->memory, VIEW_NORMAL, port + 0x34, value, 4);
        memory_write(m->memory, VIEW_NORMAL, port + 0x38, value, 4);
        break;
    }
    case 11:
        memory_write(m->memory, VIEW_NORMAL, MMIO + (load_le(op + 1, 2) & 0x3ff), value, 4);
        break;
    case 12: memory_read(m->memory, VIEW_NORMAL, MMIO + (load_le(op + 1, 2) & 0x3ff), size); break;
    case 13: store_le(m->ram->host + LIST + (load_le(op + 1, 2) & 0x3fff) * 8, value, 4); break;
    case 14:
        if (!(op[1] & 7)) /* slow: the buffers are in it */
            corrupt_stream(g, op[2] & 1 ? value : value & 0xfff, op[3]);
        else
            machine_in(m, (uint16_t)(ide[op[1] & 1] + op[2] % 8), 1);
        break;
    default:
        if (op[1] & 1)
            place(g);
        else if (!(op[1] & 14))
            device_reset(g->controller);
        break;
    }
    if (op[0] & 0x40)
        settle(g);
}

size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = 1 + OPERATION * (fuzz_random() % 100);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest guests[3];
    struct guest *g;

    if (!size)
        return 0;
    g = &guests[data[0] % 3];
    if (!g->m)
        build(g, data[0] % 3);
    memset(g->m->ram->host, 0, 0x20000);
    place(g);
    data++, size--;
    for (; size >= OPERATION; data += OPERATION, size -= OPERATION)
        operate(g, data);
    device_reset(g->controller);
    settle(g);
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        check(!g->m->gsi[i].raised, "a reset left an interrupt pin high");
    return 0;
}
