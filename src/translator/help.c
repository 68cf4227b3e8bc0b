/*
 * help.c - privileged and sensitive instructions that translated code has done by ordinary C: ports
 * and MSRs, CPUID, control registers, INVLPG, PAUSE.
 *
 * bt_slow() calls help() with all of struct cpu valid and RIP at the instruction. What the
 * translator knows of its operands is in the site, so nothing is decoded. That is taken from bytes
 * another vCPU may have changed since: as with any translation, until its block is invalid the
 * instruction is the one that was there.
 *
 * Rules an editor must keep: whatever is not plain (a fault, a privilege that the block's key does
 * not grant) is refused before anything has changed, for the interpreter then executes the
 * instruction and raises. Only registers that site.writes names may change (the translator and
 * verify.c rely on it), segment bases by HELP_WRMSR alone, mappings where help_remaps() says so.
 * What else may have changed (mode, TLB, events) run.c looks at afterwards.
 */
#include "translator/internal.h"

#include "interp/exceptions.h"
#include "x86/model.h"

#include <sched.h>

/* site.disp: the port, or -1 for DX; site.size. */
static uint16_t port_of(const struct cpu *cpu, const struct site *s)
{
    return s->disp < 0 ? (uint16_t)cpu->gpr[GPR_RDX] : (uint16_t)s->disp;
}

static void in(struct cpu *cpu, const struct site *s)
{
    uint64_t value = io_read(cpu, port_of(cpu, s), s->size);
    uint64_t mask = s->size == 4 ? UINT64_MAX : BIT(8 * s->size) - 1;

    cpu->gpr[GPR_RAX] = (cpu->gpr[GPR_RAX] & ~mask) | (value & (s->size == 4 ? UINT32_MAX : mask));
}

static void out(struct cpu *cpu, const struct site *s)
{
    uint64_t mask = BIT(8 * s->size) - 1;

    io_write(cpu, port_of(cpu, s), cpu->gpr[GPR_RAX] & mask, s->size);
}

static bool read_msr(struct cpu *cpu)
{
    uint64_t value;

    if (!cpu_rdmsr(cpu, (uint32_t)cpu->gpr[GPR_RCX], &value))
        return false;
    cpu->gpr[GPR_RAX] = (uint32_t)value;
    cpu->gpr[GPR_RDX] = value >> 32;
    return true;
}

static bool write_msr(struct cpu *cpu)
{
    return cpu_wrmsr(cpu, (uint32_t)cpu->gpr[GPR_RCX],
                     (uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32);
}

static void identify(struct cpu *cpu)
{
    uint32_t r[4];

    cpu_cpuid(cpu, (uint32_t)cpu->gpr[GPR_RAX], (uint32_t)cpu->gpr[GPR_RCX], r);
    cpu->gpr[GPR_RAX] = r[0];
    cpu->gpr[GPR_RBX] = r[1];
    cpu->gpr[GPR_RCX] = r[2];
    cpu->gpr[GPR_RDX] = r[3];
}

/* site.base: the general register; site.index: the control register; site.size. */
static bool to_control(struct cpu *cpu, const struct site *s)
{
    uint64_t value = s->size == 8 ? cpu->gpr[s->base] : (uint32_t)cpu->gpr[s->base];

    switch (s->index) {
    case 0: return cpu_write_cr0(cpu, value);
    case 2: cpu->cr2 = value; return true;
    case 3: return cpu_write_cr3(cpu, value);
    case 4: return cpu_write_cr4(cpu, value);
    case 8:
        if (value > 15)
            return false;
        if (cpu->intc.set_cr8)
            cpu->intc.set_cr8(cpu->intc.opaque, (uint8_t)value);
        return true;
    default: return false;
    }
}

static void from_cr8(struct cpu *cpu, const struct site *s)
{
    cpu->gpr[s->base] = cpu->intc.get_cr8 ? cpu->intc.get_cr8(cpu->intc.opaque) : 0;
}

/* As the interpreter's: who spins may wait for somebody that has no host CPU. */
static void pause_(struct cpu *cpu)
{
    static _Thread_local unsigned pauses;

    if (++pauses % 32 == 0)
        sched_yield();
}

bool help(struct bt_cpu *c, const struct site *s)
{
    struct cpu *cpu = c->cpu;

    switch ((enum help_op)s->helper) {
    case HELP_IN: in(cpu, s); return true;
    case HELP_OUT: out(cpu, s); return true;
    case HELP_RDMSR: return read_msr(cpu);
    case HELP_WRMSR: return write_msr(cpu);
    case HELP_CPUID: identify(cpu); return true;
    case HELP_FROM_CR8: from_cr8(cpu, s); return true;
    case HELP_TO_CR:
    case HELP_TO_CR3: return to_control(cpu, s);
    case HELP_INVLPG: mmu_flush_page(cpu, site_linear(cpu, c->context, s)); return true;
    case HELP_PAUSE: pause_(cpu); return true;
    case HELP_OPS: break;
    }
    return false;
}
