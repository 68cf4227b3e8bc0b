/* supply.c - the parts of the interpreter that have not landed yet; goes away when they do. */
#include "interp/exceptions.h"
#include "interp/insn.h"

const struct insn_row insn_system[] = {{0, NULL}};
const struct insn_row insn_far[] = {{0, NULL}};
const struct insn_row insn_state[] = {{0, NULL}};
insn_handler simd_bind(struct insn *in, const ZydisDecodedInstruction *d,
                       const ZydisDecodedOperand *z)
{
    return NULL;
}
void smm_enter(struct cpu *cpu)
{
}
