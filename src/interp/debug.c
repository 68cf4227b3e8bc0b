/*
 * debug.c - debug registers: which accesses match a breakpoint, and #DB.
 *
 * Instruction breakpoints are faults, looked for before the instruction; data and I/O breakpoints
 * are traps, gathered in cpu->dr6_pending while the instruction runs.
 */
#include "interp/protect.h"

enum { RW_EXECUTE, RW_WRITE, RW_IO, RW_ACCESS };
enum { DR7_GD = 1 << 13, DR6_TRAPS = 0xf };

static bool enabled(const struct cpu *cpu, unsigned n)
{
    return (cpu->dr[7] >> 2 * n & 3) != 0;
}

static unsigned condition(const struct cpu *cpu, unsigned n)
{
    return cpu->dr[7] >> (16 + 4 * n) & 3;
}

static unsigned length(const struct cpu *cpu, unsigned n)
{
    static const uint8_t bytes[] = {1, 2, 8, 4};

    return bytes[cpu->dr[7] >> (18 + 4 * n) & 3];
}

/* The breakpoint covers its length, aligned to it. */
static bool covers(const struct cpu *cpu, unsigned n, uint64_t address, unsigned size)
{
    unsigned len = length(cpu, n);
    uint64_t start = cpu->dr[n] & ~(uint64_t)(len - 1);

    return start < address + size && address < start + len;
}

bool debug_fetch_match(struct cpu *cpu, uint64_t *dr6_bits)
{
    uint64_t bits = 0;
    gva linear;

    if (cpu->rflags & RFLAGS_RF)
        return false;
    linear = cpu->rip;
    if (cpu->code_size != 8)
        linear = (cpu->seg[SEG_CS].base + cpu->rip) & UINT32_MAX;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(cpu, n) && condition(cpu, n) == RW_EXECUTE && cpu->dr[n] == linear)
            bits |= BIT(n);
    *dr6_bits = bits;
    return bits != 0;
}

void debug_data_access(struct cpu *cpu, gva linear, unsigned size, bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        unsigned c = condition(cpu, n);

        if (enabled(cpu, n) && (c == RW_ACCESS || (c == RW_WRITE && write)) &&
            covers(cpu, n, linear, size))
            cpu->dr6_pending |= BIT(n);
    }
}

void debug_io_access(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (!(cpu->cr4 & CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++)
        if (enabled(cpu, n) && condition(cpu, n) == RW_IO && covers(cpu, n, port, size))
            cpu->dr6_pending |= BIT(n);
}

void debug_exception(struct cpu *cpu, uint64_t dr6_bits)
{
    cpu->dr[6] = (cpu->dr[6] & ~(uint64_t)DR6_TRAPS) | dr6_bits;
    cpu->dr[7] &= ~(uint64_t)DR7_GD;
    interrupt_deliver(cpu, EXC_DB, INTERRUPT_EXCEPTION, false, 0);
}
