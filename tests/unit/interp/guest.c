/* guest.c - see guest.h. */
#include "guest.h"

#include "memory/ram.h"

#include <stdio.h>

enum {
    IDT = 0x0800,
    GDT = 0x0600,
    PML4 = 0x10000,
    PDPT = 0x11000,
    PD = 0x12000,
    PT = 0x13000,
    RAM_SIZE = 2 * MiB,
    CODE64 = 0x08,
    DATA = 0x10,
    CODE32 = 0x18,
    CODE16 = 0x20,
};

uint8_t *guest_memory(struct guest *g, uint64_t at)
{
    assert_true(at < RAM_SIZE);
    return g->ram->host + at;
}

static void put64(struct guest *g, uint64_t at, uint64_t value)
{
    memcpy(guest_memory(g, at), &value, 8);
}

static void segment(struct guest *g, enum segment_name seg, uint16_t selector, uint32_t attr,
                    uint32_t limit)
{
    g->cpu->seg[seg] =
        (struct segment){.selector = selector, .attr = attr, .limit = limit, .base = 0};
}

static void tables(struct guest *g, enum guest_mode mode)
{
    unsigned code = mode == LONG64 ? CODE64 : mode == PROT32 ? CODE32 : CODE16;

    put64(g, GDT + CODE64, 0x00af9b000000ffff);
    put64(g, GDT + DATA, 0x00cf93000000ffff);
    put64(g, GDT + CODE32, 0x00cf9b000000ffff);
    put64(g, GDT + CODE16, 0x00009b000000ffff);
    for (unsigned v = 0; v < 32; v++) {
        uint64_t handler = GUEST_HANDLER + 16 * v;

        if (mode == REAL16) {
            memcpy(guest_memory(g, v * 4), &(uint32_t){(uint32_t)handler}, 4);
        } else {
            unsigned size = mode == LONG64 ? 16 : 8;

            put64(g, IDT + v * size,
                  (handler & 0xffff) | (uint64_t)code << 16 | UINT64_C(0x8e) << 40);
        }
    }
    put64(g, PML4, PDPT | 7);
    put64(g, PDPT, PD | 7);
    put64(g, PD, PT | 7);
    put64(g, PD + 8, 0x200000 | 0x87); /* GUEST_IO lies in this one */
    for (unsigned i = 0; i < 512; i++)
        put64(g, PT + i * 8, (uint64_t)i << 12 | 7);
    put64(g, PT + (GUEST_HOLE >> 12) * 8, 0);
    put64(g, PT + (GUEST_READONLY >> 12) * 8, GUEST_READONLY | 5);
}

struct guest *guest_new(enum guest_mode mode)
{
    struct guest *g = xcalloc(1, sizeof *g);
    struct error err = {0};
    struct cpu *cpu;
    uint32_t code_attr = 0x9b | (mode == LONG64   ? ATTR_L | ATTR_G
                                 : mode == PROT32 ? ATTR_DB | ATTR_G
                                                  : 0);

    memset(g->model.word, 0xff, sizeof g->model.word);
    g->model.phys_bits = 40;
    g->model.linear_bits = 48;
    assert_int_equal(ram_block_new("ram", RAM_SIZE, &g->ram, &err), 0);
    g->memory = memory_map_new("memory", UINT64_C(1) << 40);
    g->ports = memory_map_new("ports", 0x10000);
    assert_int_equal(memory_add_ram(g->memory, "ram", 0, RAM_SIZE, PRIORITY_DEFAULT, IN_ALL, g->ram,
                                    0, true, &g->region, &err),
                     0);
    g->cpu = cpu = cpu_new(0, 0, &g->model);
    cpu->memory = g->memory;
    cpu->ports = g->ports;
    tables(g, mode);
    cpu->cr0 = CR0_ET | CR0_NE | (mode != REAL16 ? CR0_PE : 0) | (mode == LONG64 ? CR0_PG : 0) |
               CR0_WP;
    cpu->cr4 = mode == LONG64 ? CR4_PAE : 0;
    cpu->efer = mode == LONG64 ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    cpu->cr3 = PML4;
    segment(g, SEG_CS,
            mode == LONG64   ? CODE64
            : mode == PROT32 ? CODE32
            : mode == PROT16 ? CODE16
                             : 0,
            code_attr, mode == PROT32 || mode == LONG64 ? UINT32_MAX : 0xffff);
    for (unsigned s = 0; s < SEG_COUNT; s++) {
        bool wide = mode == PROT32 || mode == LONG64;

        if (s != SEG_CS)
            segment(g, (enum segment_name)s, mode == REAL16 ? 0 : DATA,
                    0x93 | (wide ? ATTR_DB | ATTR_G : 0), wide ? UINT32_MAX : 0xffff);
    }
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 0x27};
    cpu->idtr = mode == REAL16 ? (struct table_register){.base = 0, .limit = 0x3ff}
                               : (struct table_register){.base = IDT, .limit = 0x1ff};
    cpu->rflags = RFLAGS_FIXED;
    cpu->gpr[GPR_RSP] = GUEST_STACK;
    cpu_state_changed(cpu);
    interp_attach(cpu);
    return g;
}

void guest_free(struct guest *g)
{
    interp_detach(g->cpu);
    cpu_free(g->cpu);
    memory_remove(g->region);
    memory_map_free(g->memory);
    memory_map_free(g->ports);
    ram_block_free(g->ram);
    free(g);
}

void guest_code(struct guest *g, uint64_t at, const char *hex)
{
    uint64_t to = at;
    unsigned byte;

    while (*hex) {
        if (*hex == ' ') {
            hex++;
            continue;
        }
        assert_int_equal(sscanf(hex, "%2x", &byte), 1);
        *guest_memory(g, to++) = (uint8_t)byte;
        hex += 2;
    }
    g->cpu->rip = at;
}

int guest_step(struct guest *g, uint64_t count)
{
    uint64_t rip;

    interp_step(g->cpu, count);
    rip = g->cpu->rip;
    if (rip >= GUEST_HANDLER && rip < GUEST_HANDLER + 32 * 16 && rip % 16 == 0)
        return (int)(rip - GUEST_HANDLER) / 16;
    return -1;
}
