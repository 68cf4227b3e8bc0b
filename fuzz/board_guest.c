/*
 * board_guest.c - see board_guest.h. Nothing here checks a result: a guest may be told anything.
 * What is checked is that it was told at all, soon, and that the process still stands.
 */
#include "board_guest.h"

#include "boards/common.h"
#include "chardev/chardev.h"
#include "devices/input/i8042.h"
#include "devices/irq/apic_bus.h"
#include "devices/misc/fw_cfg.h"
#include "devices/pci/pci.h"
#include "event/loop.h"
#include "state/state.h"

#include <stdio.h>
#include <stdlib.h>

enum { OUTPUT = 4096, FW_CFG_SELECTOR = 0x510, FW_CFG_DMA = 0x514, DMA_BLOCK = 0x1000 };

static const uint64_t interesting[] = {
    0,          1,          2,           0x7f,      0x80,
    0xff,       0x7fff,     0xffff,      0x10000,   0x7fffffff,
    0x80000000, 0xffffffff, 0x100000000, INT64_MAX, UINT64_MAX - 1,
    UINT64_MAX};

/* ---- life ------------------------------------------------------------------------------------ */

void guest_build(struct guest *g, const char *board, bool manual_clock)
{
    struct machine_config config = {.board = board,
                                    .cpus = GUEST_CPUS,
                                    .memory = GUEST_MEMORY,
                                    .acpi = true,
                                    .hpet = true,
                                    .isa_debug_exit = true,
                                    .rtc_base = 1000000007};
    struct error err = {0};

    *g = (struct guest){0};
    for (unsigned i = 0; i < GUEST_SERIAL; i++)
        g->serial[i] = config.serial[i] = chardev_memory(NULL, OUTPUT);
    g->debugcon = config.debugcon = chardev_memory(NULL, OUTPUT);
    g->m = machine_new(&config, manual_clock);
    if (machine_build(g->m, board_find(board), &engine_interp, &err) < 0) {
        fprintf(stderr, "%s: %s\n", board, err.text);
        abort();
    }
    for (struct device *d = g->m->devices; d; d = d->next)
        if (d->type == &i8042_type)
            g->i8042 = d;
    machine_reset(g->m, NULL);
    guest_find_spots(g);
}

void guest_free(struct guest *g)
{
    machine_free_devices(g->m);
    for (unsigned i = 0; i < GUEST_SERIAL; i++)
        chardev_free(g->serial[i]);
    chardev_free(g->debugcon);
    machine_free(g->m);
}

static bool add_spot(void *opaque, const struct memory_section *s)
{
    struct spots *spots = opaque;

    spots->at[spots->count].base = s->base;
    spots->at[spots->count++].size = s->size;
    return spots->count < GUEST_SPOTS;
}

void guest_find_spots(struct guest *g)
{
    g->ports.count = g->memory.count = 0;
    memory_walk(g->m->ports, VIEW_NORMAL, add_spot, &g->ports);
    memory_walk(g->m->memory, VIEW_NORMAL, add_spot, &g->memory);
}

/* ---- processors ------------------------------------------------------------------------------ */

/* Mostly at a register, now and then across an end or anywhere. */
static gpa address_of(const struct spots *s, const struct operation *op)
{
    unsigned i = op->where % (s->count + 1), offset = op->where >> 7;
    uint64_t size;

    if (i == s->count)
        return op->value >> (op->how & 48);
    size = s->at[i].size;
    switch (op->how >> 4 & 7) {
    case 0: return s->at[i].base + size - 1 - offset % 8;
    case 1: return s->at[i].base - offset % 8;
    case 2: return s->at[i].base + (op->value >> 20) % size;
    default: return s->at[i].base + offset * 4 % size + (op->how & 128 ? offset & 3 : 0);
    }
}

static uint64_t value_of(const struct operation *op)
{
    return op->how & 1 ? op->value : interesting[op->value % ARRAY_SIZE(interesting)];
}

static void config_write(struct machine *m, unsigned devfn, unsigned reg, uint32_t value,
                         unsigned size)
{
    machine_out(m, PCI_CONFIG_ADDRESS, 1u << 31 | (devfn & 255) << 8 | (reg & 0xfc), 4);
    machine_out(m, (uint16_t)(PCI_CONFIG_DATA + (reg & 3)), value, size);
}

/* The functions that boards have, and others. */
static unsigned devfn_of(const struct operation *op)
{
    static const uint8_t known[] = {0, 0, 0, 1 << 3, 1 << 3 | 3, 31 << 3, 31 << 3};

    return op->how >> 4 < 8 ? known[(op->how >> 4) % ARRAY_SIZE(known)] : op->where >> 8;
}

static void fw_cfg_dma(struct machine *m, const struct operation *op)
{
    uint32_t control = __builtin_bswap32((uint32_t)op->where << 16 | (op->how >> 2 & 31));
    uint32_t length = __builtin_bswap32((uint32_t)value_of(op));
    uint64_t to = __builtin_bswap64(op->how & 2 ? op->value % (2 * GUEST_MEMORY) : op->value);
    gpa block = op->how & 128 ? DMA_BLOCK : op->value >> (op->how & 48);

    memory_write(m->memory, VIEW_NORMAL, block, control, 4);
    memory_write(m->memory, VIEW_NORMAL, block + 4, length, 4);
    memory_write(m->memory, VIEW_NORMAL, block + 8, to, 8);
    machine_out(m, FW_CFG_SELECTOR, op->where >> 1 & 127, 2);
    machine_out(m, FW_CFG_DMA, __builtin_bswap32((uint32_t)(block >> 32)), 4);
    machine_out(m, FW_CFG_DMA + 4, __builtin_bswap32((uint32_t)block), 4);
}

static void msr(struct cpu *cpu, const struct operation *op)
{
    static const uint32_t other[] = {0x1b, 0x1b, 0x6e0};
    uint32_t index = op->where % 4 ? 0x800u + (op->where >> 8) : other[(op->where >> 8) % 3];
    uint64_t value = value_of(op);

    if (index == 0x1b && op->how & 2)
        value = 0xfee00000 | (value & 0xd00); /* a valid one: off, on, x2APIC */
    if (op->how & 4)
        cpu->intc.read_msr(cpu->intc.opaque, index, &value);
    else
        cpu->intc.write_msr(cpu->intc.opaque, index, value);
}

static void local_apic(struct cpu *cpu, const struct operation *op)
{
    unsigned size = 1u << (op->how & 3), offset = (op->where & 0xfff) & ~(size - 1);

    switch (op->how >> 2 & 7) {
    case 0: cpu->intc.acknowledge(cpu->intc.opaque); break;
    case 1: cpu->intc.get_cr8(cpu->intc.opaque); break;
    case 2: cpu->intc.set_cr8(cpu->intc.opaque, op->value & 15); break;
    case 3: cpu->intc.read(cpu->intc.opaque, offset, size); break;
    case 4: cpu->intc.write(cpu->intc.opaque, offset, op->value, size); break;
    default: cpu->intc.write(cpu->intc.opaque, offset & 0xff0, value_of(op), 4); break;
    }
}

static void message(struct machine *m, const struct operation *op)
{
    const struct apic_message message = {.destination = (uint32_t)(op->value >> 32),
                                         .logical = op->how & 2,
                                         .wide = op->how & 4,
                                         .delivery = op->where & 7,
                                         .vector = (uint8_t)op->value,
                                         .level = op->how & 8};

    switch (op->how >> 4 & 3) {
    case 0: apic_bus_deliver(board_of(m)->apics, &message); break;
    case 1: apic_bus_nmi(board_of(m)->apics); break;
    default: machine_msi(m, 0xfee00000 | (op->value >> 32 & 0xfffff), (uint32_t)op->value); break;
    }
}

void guest_operate(struct guest *g, const struct operation *op, unsigned index,
                   const struct spots *ports, const struct spots *memory)
{
    struct machine *m = g->m;
    unsigned kind = op->kind % GUEST_OPERATE_KINDS, size = 1u << (op->how >> 1 & 3);
    struct cpu *cpu = m->cpus[index % GUEST_CPUS];
    enum memory_view view = op->how & 8 ? VIEW_SMM : VIEW_NORMAL;

    if (index >= GUEST_CPUS && (kind == 8 || kind == 9))
        return;
    switch (kind) {
    case 0:
    case 1: machine_out(m, (uint16_t)address_of(ports, op), value_of(op), MIN(size, 4u)); break;
    case 2: machine_in(m, (uint16_t)address_of(ports, op), MIN(size, 4u)); break;
    case 3:
    case 4: memory_write(m->memory, view, address_of(memory, op), value_of(op), size); break;
    case 5: memory_read(m->memory, view, address_of(memory, op), size); break;
    case 6: config_write(m, devfn_of(op), op->where, (uint32_t)value_of(op), MIN(size, 4u)); break;
    case 7: fw_cfg_dma(m, op); break;
    case 8: msr(cpu, op); break;
    case 9: local_apic(cpu, op); break;
    case 10: message(m, op); break;
    default: /* PAM, SMRAM, and on Q35 the base of ECAM */
        config_write(m, 0, 0x58 + op->where % 0x48, (uint32_t)value_of(op), MIN(size, 4u));
        break;
    }
}

/* ---- the user -------------------------------------------------------------------------------- */

static void feed(struct guest *g, const struct operation *op)
{
    struct chardev *c = g->serial[op->how & 1];
    uint8_t bytes[OUTPUT];

    switch (op->how >> 1 & 3) {
    case 0: chardev_memory_take(c, bytes, op->where % OUTPUT); break;
    case 1: chardev_accept(c); break;
    default: chardev_feed(c, &op->value, 1 + op->where % 8); break;
    }
    chardev_memory_take(g->debugcon, bytes, sizeof(bytes));
}

/* Time in small steps, every timer at its moment; or as after the host slept: all at once. */
static void advance(struct machine *m, const struct operation *op)
{
    uint64_t now = clock_now(m->clock);

    if (op->how & 7) {
        clock_advance(m->clock, op->value % (2 * NSEC_PER_MSEC));
        return;
    }
    clock_set(m->clock, now + (op->value >> 16) / (op->how & 8 ? 1 : NSEC_PER_SEC));
    clock_run(m->clock);
}

void guest_user(struct guest *g, const struct operation *op)
{
    struct machine *m = g->m;

    switch (op->kind % GUEST_USER_KINDS) {
    case 0:
    case 1: feed(g, op); break;
    case 2:
        if (g->i8042 && op->how & 1)
            i8042_key(g->i8042, op->where, op->how & 2);
        else if (g->i8042)
            i8042_mouse(g->i8042, (int)op->value, (int)(op->value >> 32), (int8_t)op->where,
                        op->how);
        break;
    case 3:
        if (m->power_button)
            m->power_button(m);
        break;
    case 4: loop_poll(m->loop, 0); break;
    default:
        if (clock_fd(m->clock) < 0)
            advance(m, op);
    }
    m->end = END_NONE;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

/* The n-th number among the elements of a stream of records (see state.c), so that most of what is
 * changed is a value and the stream is taken. Nested sequences follow their heads, so the structure
 * needs no stack. */
static uint8_t *element_of(struct state_buffer *b, unsigned n, unsigned *size)
{
    uint8_t *found = NULL;
    unsigned total = 0;

    for (unsigned pass = 0; pass < 2; pass++) {
        unsigned seen = 0;

        for (size_t at = 2; at < b->size;) {
            unsigned name = b->data[at++];
            uint32_t width, count;

            if (!name)
                continue;
            at += name;
            width = (uint32_t)load_le(b->data + at, 4);
            count = (uint32_t)load_le(b->data + at + 4, 4);
            at += 8;
            if (!width)
                continue;
            if (pass && total && n % total >= seen && n % total < seen + count) {
                *size = MIN(width, 8);
                found = b->data + at + (size_t)(n % total - seen) * width;
            }
            seen += count;
            at += (size_t)width * count;
        }
        total = seen;
    }
    return found;
}

static struct device *device_of(struct machine *m, unsigned n)
{
    struct device *d = m->devices;
    unsigned count = 0;

    for (; d; d = d->next)
        count++;
    for (d = m->devices, n %= count; n; n--)
        d = d->next;
    return d;
}

static void load_wrong_device(struct machine *m, const struct operation *op)
{
    struct device *d = device_of(m, op->where);
    struct state_buffer b = {0};
    unsigned size = 0;
    uint8_t *at;

    state_save_device(&b, d);
    at = element_of(&b, (unsigned)(op->value >> 40), &size);
    if (at && op->how & 6)
        store_le(at, value_of(op), size);
    else
        b.data[op->value % b.size] ^= op->how;
    state_load_device(&b, d, NULL); /* may refuse */
    state_buffer_free(&b);
}

/* Save everything and take it back, with a wrong byte where `op` has a value. */
static void round_trip(struct machine *m, const struct operation *op, bool wrong)
{
    struct error err = {0};
    char *bytes = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&bytes, &size);
    int r;

    if (!f || state_save_machine(f, m, &err) < 0 || fclose(f))
        abort();
    if (wrong) {
        size_t end = op->how & 8 ? size : MIN(size, 20000u); /* the processors come first */

        for (unsigned i = 0; i <= op->how % 4; i++)
            bytes[(op->value >> 8 * i) % end] ^= (char)(1 + op->where);
        if (op->how & 16)
            size = op->value % size;
    }
    f = fmemopen(bytes, size ? size : 1, "r");
    if (!f)
        abort();
    r = state_load_machine(f, m, &err);
    fclose(f);
    if (r && !wrong) {
        fprintf(stderr, "what was saved is refused: %s\n", err.text);
        abort();
    }
    if (r)
        machine_reset(m, NULL); /* it was refused half-way */
    free(bytes);
}

void guest_paused(struct guest *g, const struct operation *op)
{
    struct machine *m = g->m;

    switch (op->kind % GUEST_PAUSED_KINDS) {
    case 0: device_reset(device_of(m, op->where)); break;
    case 1: machine_reset(m, NULL); break;
    case 2: round_trip(m, op, false); break;
    case 3: round_trip(m, op, true); break;
    default: load_wrong_device(m, op); break;
    }
}

const char *guest_name_of(const struct operation *op)
{
    static char text[100];

    snprintf(text, sizeof(text), "kind %u how %#x where %#x value %#llx", op->kind, op->how,
             op->where, (unsigned long long)op->value);
    return text;
}
