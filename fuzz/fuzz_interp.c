/*
 * fuzz_interp.c - random bytes as machine code, in random modes and states.
 *
 * The interpreter must come back after a bounded number of instructions whatever the code is, and
 * must not touch memory that is not the guest's: the sanitizers look. The first bytes of an input
 * choose mode and state, the rest is code, put where RIP is; the descriptor tables and page tables
 * lie in memory that the code can reach, so it wrecks them too.
 */
#include "fuzz.h"

#include "base/log.h"
#include "interp/interp.h"
#include "memory/ram.h"
#include "x86/mmu.h"
#include "x86/model.h"

#include <stdio.h>
#include <stdlib.h>

enum { RAM_SIZE = 1 * MiB, CODE = 0x8000, GDT = 0x600, IDT = 0x800, TABLES = 0x10000, STEPS = 400 };

struct world {
    struct cpu_model model;
    struct memory_map *memory, *ports;
    struct ram_block *ram;
    struct region *region;
    struct cpu *cpu;
};

static struct world *world_new(void)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct cpu_limits limits;
    struct error err = {0};

    log_set_level(LOG_ERROR);
    cpu_limits_software(&limits);
    w->memory = memory_map_new("memory", UINT64_C(1) << 40);
    w->ports = memory_map_new("ports", 0x10000);
    if (cpu_model_build("max", &limits, 1, &w->model, &err) < 0 ||
        ram_block_new("ram", RAM_SIZE, &w->ram, &err) < 0 ||
        memory_add_ram(w->memory, "ram", 0, RAM_SIZE, 0, IN_ALL, w->ram, 0, true, &w->region,
                       &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    w->cpu = cpu_new(0, 0, &w->model);
    w->cpu->memory = w->memory;
    w->cpu->ports = w->ports;
    interp_attach(w->cpu);
    return w;
}

static void put64(struct world *w, uint64_t at, uint64_t value)
{
    memcpy(w->ram->host + at, &value, 8);
}

static void tables(struct world *w)
{
    put64(w, GDT + 0x08, 0x00af9b000000ffff);
    put64(w, GDT + 0x10, 0x00cf93000000ffff);
    put64(w, GDT + 0x18, 0x00cf9b000000ffff);
    put64(w, GDT + 0x20, 0x00009b000000ffff);
    put64(w, GDT + 0x28, 0x00cffb000000ffff);
    put64(w, GDT + 0x30, 0x00cff3000000ffff);
    put64(w, GDT + 0x38, 0x0000890020000067);
    put64(w, TABLES, (TABLES + 0x1000) | 7);
    put64(w, TABLES + 0x1000, (TABLES + 0x2000) | 7);
    put64(w, TABLES + 0x2000, (TABLES + 0x3000) | 7);
    for (unsigned i = 0; i < 256; i++)
        put64(w, TABLES + 0x3000 + i * 8, (uint64_t)i << 12 | 7);
}

/* 0: real, 1: virtual-8086, 2 and 3: 16 and 32-bit protected, 4: 64-bit, 5: compatibility. */
static void enter_mode(struct cpu *cpu, unsigned mode, unsigned cpl)
{
    bool long_mode = mode >= 4, wide = mode >= 3;
    uint32_t data = 0x93 | (cpl ? ATTR_DPL : 0) | (wide ? ATTR_DB | ATTR_G : 0);
    uint32_t code = 0x9b | (cpl ? ATTR_DPL : 0) |
                    (mode == 4 ? ATTR_L | ATTR_G
                     : wide    ? ATTR_DB | ATTR_G
                               : 0);

    cpu_reset(cpu);
    cpu->cr0 = CR0_ET | CR0_NE | (mode ? CR0_PE : 0) | (long_mode ? CR0_PG : 0);
    cpu->cr3 = TABLES;
    cpu->cr4 = (long_mode ? CR4_PAE : 0) | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    cpu->efer = long_mode ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    cpu->xcr0 = cpu->model->xcr0_supported | XCR0_X87;
    for (unsigned s = 0; s < SEG_COUNT; s++)
        cpu->seg[s] = (struct segment){.selector = (uint16_t)(mode < 2 ? 0 : (cpl ? 0x33 : 0x10)),
                                       .attr = s == SEG_CS && mode > 1 ? code : data,
                                       .limit = wide ? UINT32_MAX : 0xffff};
    if (mode > 1)
        cpu->seg[SEG_CS].selector = cpl ? 0x2b : mode == 4 ? 0x08 : 0x18;
    cpu->tr = (struct segment){.selector = 0x38, .base = 0x2000, .limit = 0x67, .attr = 0x8b};
    cpu->gdtr = (struct table_register){.base = GDT, .limit = 0x3f};
    cpu->idtr = (struct table_register){.base = mode ? IDT : 0, .limit = mode ? 0x5ff : 0x3ff};
    cpu->rflags = RFLAGS_FIXED | (mode == 1 ? RFLAGS_VM | RFLAGS_IOPL : 0);
    cpu->rip = CODE;
    cpu_state_changed(cpu);
}

/* Every vector leads back into the code, somewhere; some gates are nonsense. */
static void gates(struct world *w, unsigned mode, const uint8_t *data)
{
    for (unsigned v = 0; v < 64; v++) {
        uint64_t to = CODE + data[v % 32] * 4u;
        uint64_t kind = v % 8 == 7 ? data[v % 32] : mode == 2 ? 0x86 : 0x8e;
        uint64_t code = mode == 4 || mode == 5 ? 0x08 : mode == 2 ? 0x20 : 0x18;

        if (mode == 0)
            memcpy(w->ram->host + v * 4, &(uint32_t){(uint32_t)to}, 4);
        else
            put64(w, IDT + v * (mode >= 4 ? 16 : 8), to | code << 16 | (kind | 0x60) << 40);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world *w;
    struct cpu *cpu;
    unsigned mode, cpl;

    if (size < 32)
        return 0;
    if (!w)
        w = world_new();
    cpu = w->cpu;
    memset(w->ram->host, 0, RAM_SIZE);
    tables(w);
    mode = data[0] % 6;
    cpl = mode == 1 || (mode > 1 && (data[0] & 0x80)) ? 3 : 0;
    enter_mode(cpu, mode, cpl);
    for (unsigned r = 0; r < GPR_COUNT; r++)
        cpu->gpr[r] = (uint64_t)data[1 + r] << (data[17 + (r & 7)] & 63);
    cpu->gpr[GPR_RSP] = 0x7000;
    cpu->rflags |= (uint64_t)(data[25] & 0xd5) | (data[26] & 1 ? RFLAGS_TF : 0) |
                   (data[26] & 2 ? RFLAGS_AC : 0);
    if (data[26] & 4)
        cpu->dr[7] = (uint64_t)data[27] | (uint64_t)data[28] << 16;
    gates(w, mode, data);
    data += 32;
    size -= 32;
    memcpy(w->ram->host + CODE, data, MIN(size, (size_t)0x4000));
    for (unsigned i = 0; i < STEPS; i += 20) {
        if (interp_step(cpu, 20) != INTERP_OK) {
            if (cpu->activity != CPU_HALTED)
                break;
            cpu->activity = CPU_RUNNING;
        }
    }
    return 0;
}

/* Code bytes that are instructions more often than random ones: common opcodes and prefixes. */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    static const uint8_t starts[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48, 0x0f, 0x0f,
                                     0x0f, 0xc4, 0xc5, 0x62, 0x64, 0x41, 0x8f, 0xff};
    size_t size = MIN(room, (size_t)(64 + fuzz_random() % 512));

    for (size_t i = 0; i < size; i++) {
        uint64_t r = fuzz_random();

        to[i] = r & 0x300 ? (uint8_t)r : starts[r >> 16 & 15];
    }
    return size;
}
