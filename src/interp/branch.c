/*
 * branch.c - near jumps, calls, returns, loops, and what else depends on a condition.
 *
 * A near branch is checked against the code segment before anything is committed (branch_to());
 * a CALL whose push faults therefore leaves no trace, as next_rip is dropped with the instruction.
 * In 64-bit mode near branches are 64 bits wide whatever the prefix says, as on Intel's processors.
 */
#include "interp/handlers.h"

/* As the low four bits of opcodes 70-7F, 0F 80-8F, 0F 90-9F, 0F 40-4F have it: insn->form. */
static always_inline bool condition(const struct cpu *cpu, unsigned code)
{
    uint64_t f = cpu->rflags;
    bool less = ((f >> 7 ^ f >> 11) & 1) != 0; /* SF != OF */
    bool result;

    switch (code >> 1 & 7) {
    case 0: result = (f & RFLAGS_OF) != 0; break;
    case 1: result = (f & RFLAGS_CF) != 0; break;
    case 2: result = (f & RFLAGS_ZF) != 0; break;
    case 3: result = (f & (RFLAGS_CF | RFLAGS_ZF)) != 0; break;
    case 4: result = (f & RFLAGS_SF) != 0; break;
    case 5: result = (f & RFLAGS_PF) != 0; break;
    case 6: result = less; break;
    default: result = less || (f & RFLAGS_ZF); break;
    }
    return result ^ (code & 1);
}

static always_inline void jump_relative(struct cpu *cpu, const struct insn *in)
{
    jump(cpu, in, cpu->next_rip + in->imm);
}

static void do_jcc(struct cpu *cpu, const struct insn *in)
{
    if (condition(cpu, in->form))
        jump_relative(cpu, in);
}

static void do_setcc(struct cpu *cpu, const struct insn *in)
{
    op_write(cpu, in, 0, condition(cpu, in->form), 1);
}

/* The source is read, and may fault, and a 32-bit destination is extended, either way. */
static void do_cmovcc(struct cpu *cpu, const struct insn *in)
{
    unsigned size = in->op[0].size;
    uint64_t v = operand_read(cpu, in, 1);

    if (!condition(cpu, in->form))
        v = reg_read(cpu, in->op[0].reg, size);
    reg_write(cpu, in->op[0].reg, v, size);
}

static always_inline void jump_operand(struct cpu *cpu, const struct insn *in)
{
    if (likely(in->op[0].kind == OPERAND_IMM))
        jump_relative(cpu, in);
    else if (likely(in->op[0].size == 8))
        jump(cpu, in, op_read(cpu, in, 0, 8));
    else
        jump(cpu, in, operand_read(cpu, in, 0));
}

static void do_jmp(struct cpu *cpu, const struct insn *in)
{
    jump_operand(cpu, in);
}

static void do_call(struct cpu *cpu, const struct insn *in)
{
    uint64_t back = cpu->next_rip;

    jump_operand(cpu, in);
    if (likely(in->stack_size == 8))
        push(cpu, back, 8);
    else
        stack_push(cpu, back, in->stack_size);
}

static void do_ret(struct cpu *cpu, const struct insn *in)
{
    uint64_t extra = in->op[0].kind == OPERAND_IMM ? in->imm & 0xffff : 0;

    if (likely(in->stack_size == 8)) {
        jump(cpu, in, top_of_stack(cpu, 8));
        drop(cpu, 8 + extra);
    } else {
        jump(cpu, in, stack_load(cpu, 0, in->stack_size));
        drop(cpu, in->stack_size + extra);
    }
}

/* LOOP, LOOPE, LOOPNE: the counter is as wide as addresses are. */
static void do_loop(struct cpu *cpu, const struct insn *in)
{
    uint64_t count = reg_read(cpu, GPR_RCX, in->address_size) - 1;
    bool zero = (cpu->rflags & RFLAGS_ZF) != 0;
    bool taken = (count & size_mask(in->address_size)) != 0;

    if (in->mnemonic == ZYDIS_MNEMONIC_LOOPE)
        taken = taken && zero;
    else if (in->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        taken = taken && !zero;
    if (taken)
        jump_relative(cpu, in);
    reg_write(cpu, GPR_RCX, count, in->address_size);
}

static void do_jcxz(struct cpu *cpu, const struct insn *in)
{
    if (reg_read(cpu, GPR_RCX, in->address_size) == 0)
        jump_relative(cpu, in);
}

const struct insn_row insn_branch[] = {
    {ZYDIS_MNEMONIC_JO, do_jcc},        {ZYDIS_MNEMONIC_JNO, do_jcc},
    {ZYDIS_MNEMONIC_JB, do_jcc},        {ZYDIS_MNEMONIC_JNB, do_jcc},
    {ZYDIS_MNEMONIC_JZ, do_jcc},        {ZYDIS_MNEMONIC_JNZ, do_jcc},
    {ZYDIS_MNEMONIC_JBE, do_jcc},       {ZYDIS_MNEMONIC_JNBE, do_jcc},
    {ZYDIS_MNEMONIC_JS, do_jcc},        {ZYDIS_MNEMONIC_JNS, do_jcc},
    {ZYDIS_MNEMONIC_JP, do_jcc},        {ZYDIS_MNEMONIC_JNP, do_jcc},
    {ZYDIS_MNEMONIC_JL, do_jcc},        {ZYDIS_MNEMONIC_JNL, do_jcc},
    {ZYDIS_MNEMONIC_JLE, do_jcc},       {ZYDIS_MNEMONIC_JNLE, do_jcc},
    {ZYDIS_MNEMONIC_SETO, do_setcc},    {ZYDIS_MNEMONIC_SETNO, do_setcc},
    {ZYDIS_MNEMONIC_SETB, do_setcc},    {ZYDIS_MNEMONIC_SETNB, do_setcc},
    {ZYDIS_MNEMONIC_SETZ, do_setcc},    {ZYDIS_MNEMONIC_SETNZ, do_setcc},
    {ZYDIS_MNEMONIC_SETBE, do_setcc},   {ZYDIS_MNEMONIC_SETNBE, do_setcc},
    {ZYDIS_MNEMONIC_SETS, do_setcc},    {ZYDIS_MNEMONIC_SETNS, do_setcc},
    {ZYDIS_MNEMONIC_SETP, do_setcc},    {ZYDIS_MNEMONIC_SETNP, do_setcc},
    {ZYDIS_MNEMONIC_SETL, do_setcc},    {ZYDIS_MNEMONIC_SETNL, do_setcc},
    {ZYDIS_MNEMONIC_SETLE, do_setcc},   {ZYDIS_MNEMONIC_SETNLE, do_setcc},
    {ZYDIS_MNEMONIC_CMOVO, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNO, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVB, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNB, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVZ, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNZ, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVBE, do_cmovcc}, {ZYDIS_MNEMONIC_CMOVNBE, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVS, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNS, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVP, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNP, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVL, do_cmovcc},  {ZYDIS_MNEMONIC_CMOVNL, do_cmovcc},
    {ZYDIS_MNEMONIC_CMOVLE, do_cmovcc}, {ZYDIS_MNEMONIC_CMOVNLE, do_cmovcc},
    {ZYDIS_MNEMONIC_JMP, do_jmp},       {ZYDIS_MNEMONIC_CALL, do_call},
    {ZYDIS_MNEMONIC_RET, do_ret},       {ZYDIS_MNEMONIC_LOOP, do_loop},
    {ZYDIS_MNEMONIC_LOOPE, do_loop},    {ZYDIS_MNEMONIC_LOOPNE, do_loop},
    {ZYDIS_MNEMONIC_JCXZ, do_jcxz},     {ZYDIS_MNEMONIC_JECXZ, do_jcxz},
    {ZYDIS_MNEMONIC_JRCXZ, do_jcxz},    {ZYDIS_MNEMONIC_INVALID, NULL},
};
