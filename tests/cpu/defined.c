/*
 * defined.c - what the manuals leave undefined, so that nobody is blamed for it.
 *
 * Called before each instruction of a run with the state it will run in, so the rules can depend
 * on values (shift counts, a zero source). Zydis knows which flags an instruction leaves
 * undefined in general; what follows here is where that depends on something, and where memory
 * or registers are undefined too. A flag stays undefined until something sets it; an instruction
 * that reads one makes the rest of the run worthless, and it is given up.
 */
#include "oracle.h"

#include "x86/model.h"

static uint64_t mask_flags(ZydisAccessedFlagsMask f)
{
    return f & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_TF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID);
}

/* Count of a shift or rotate, masked as the processor does. */
static unsigned shift_count(const struct cpu *cpu, const ZydisDecodedInstruction *in,
                            const ZydisDecodedOperand *count)
{
    uint64_t n = count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? count->imm.value.u
                                                             : cpu->gpr[GPR_RCX];

    return n & (in->operand_width == 64 ? 63 : 31);
}

/* Sets the two masks; returns false when the result itself is undefined. */
static bool shift_flags(const struct cpu *cpu, const ZydisDecodedInstruction *in,
                        const ZydisDecodedOperand *op, uint64_t *set, uint64_t *undefined)
{
    const uint64_t results = RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF;
    bool wide = in->mnemonic == ZYDIS_MNEMONIC_SHLD || in->mnemonic == ZYDIS_MNEMONIC_SHRD;
    unsigned bits = in->operand_width, count = shift_count(cpu, in, &op[wide ? 2 : 1]);

    *set = *undefined = 0;
    if (!count)
        return true;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        if (bits < 32 && !(count % (bits + 1)))
            count = 0;
        *set = RFLAGS_CF;
        *undefined = count != 1 ? RFLAGS_OF : 0;
        break;
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
        *set = RFLAGS_CF;
        *undefined = count != 1 ? RFLAGS_OF : 0;
        break;
    case ZYDIS_MNEMONIC_SAR:
        *set = results | RFLAGS_CF;
        *undefined = RFLAGS_AF | (count != 1 ? RFLAGS_OF : 0);
        break;
    default:
        *set = results;
        *undefined = RFLAGS_AF | (count != 1 ? RFLAGS_OF : 0);
        if (wide ? count > bits : count >= bits)
            *undefined |= RFLAGS_CF;
        else
            *set |= RFLAGS_CF;
        if (wide && count > bits)
            return false;
        break;
    }
    if (count == 1)
        *set |= RFLAGS_OF;
    return true;
}

static uint64_t segment_base_of(const struct cpu *cpu, ZydisRegister reg)
{
    ZyanI8 id = ZydisRegisterGetId(reg);

    if (id < 0 || id >= SEG_COUNT || (cpu->code_size == 8 && id < SEG_FS))
        return 0;
    return cpu->seg[id].base;
}

/* Where an instruction pushes several things, of which a fault may come after some. */
static struct ignored_range stack_below(const struct cpu *cpu)
{
    enum { DEPTH = 256 };
    bool is_16 = cpu->code_size != 8 && !(cpu->seg[SEG_SS].attr & ATTR_DB);

    return (struct ignored_range){(cpu->code_size == 8 ? 0 : cpu->seg[SEG_SS].base) +
                                      (is_16 ? (uint16_t)cpu->gpr[GPR_RSP] : cpu->gpr[GPR_RSP]) -
                                      DEPTH,
                                  DEPTH};
}

/* Wholly: neither read-only, nor so small that a limit could be met. */
static bool segment_writable(const struct cpu *cpu, ZydisRegister reg)
{
    ZyanI8 id = ZydisRegisterGetId(reg);

    return cpu->code_size == 8 ||
           (id >= 0 && id < SEG_COUNT && cpu->seg[id].limit >= 0xffff &&
            (cpu->seg[id].attr & (ATTR_CODE | ATTR_WRITABLE)) == ATTR_WRITABLE);
}

static uint64_t register_value(const struct cpu *cpu, ZydisRegister reg, uint64_t next)
{
    ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return next;
    if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64)
        return 0;
    return cpu->gpr[ZydisRegisterGetId(whole)];
}

static uint64_t operand_address(const struct cpu *cpu, const ZydisDecodedInstruction *in,
                                const ZydisDecodedOperand *op)
{
    uint64_t at = (uint64_t)op->mem.disp.value;

    at += register_value(cpu, op->mem.base, cpu->rip + in->length);
    at += register_value(cpu, op->mem.index, 0) * op->mem.scale;
    if (in->address_width < 64)
        at &= size_mask(in->address_width / 8);
    return segment_base_of(cpu, op->mem.segment) + at;
}

void defined_ignore(struct defined *d, struct ignored_range r)
{
    if (d->ranges == IGNORED_RANGES)
        d->give_up = "too many undefined ranges";
    else
        d->range[d->ranges++] = r;
}

static void ignore(struct defined *d, uint64_t start, unsigned size)
{
    defined_ignore(d, (struct ignored_range){start, size});
}

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *in,
                                                 const ZydisDecodedOperand *op)
{
    for (unsigned i = 0; i < in->operand_count; i++)
        if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &op[i];
    return NULL;
}

/* Is [start, start+size) part of the image, wholly (2), in part (1), or not at all? */
static int present(uint64_t start, unsigned size, bool write)
{
    unsigned yes = 0;

    for (unsigned i = 0; i < size; i++) {
        int at = image_offset(start + i);

        yes += at >= 0 && !(write && at / PAGE == ARENA_DATA_PAGES);
    }
    return yes == size ? 2 : yes ? 1 : 0;
}

static int writable(uint64_t start, unsigned size)
{
    return present(start, size, true);
}

enum { XSAVE_ALL = 4096 };

/*
 * Instructions that store or load the FPU's state. The x87 instruction and data pointers and
 * opcode are kept differently by each vendor; XSTATE_BV and what XSAVEC and XSAVEOPT leave out
 * depend on what the processor found out about components being in use. Which part of such an
 * image is touched first, and what was stored before a fault, is nobody's promise.
 */
static void environment(struct defined *d, const struct cpu *cpu, const ZydisDecodedInstruction *in,
                        const ZydisDecodedOperand *op)
{
    const ZydisDecodedOperand *m = memory_operand(in, op);
    uint64_t at;

    if (!m)
        return;
    at = operand_address(cpu, in, m);
    d->any_fault = true;
    d->fault_range = (struct ignored_range){at, XSAVE_ALL};
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV: {
        bool wide = m->size == 28 * 8 || m->size == 108 * 8;

        ignore(d, at + (wide ? 12 : 6), wide ? 16 : 8);
        break;
    }
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        ignore(d, at + 6, 18);
        ignore(d, at + 28, 4); /* MXCSR_MASK: of the model, not the host */
        break;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        ignore(d, at + 6, 18);
        ignore(d, at + 28, 4);
        ignore(d, at + 512, 1);
        break;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: ignore(d, at, XSAVE_ALL); break;
    default:
        d->fault_range.size = 0;
        d->fault_give_up = "a state image loaded in part";
        if (present(at, 512, false) == 1 || present(at, XSAVE_ALL * 3 / 4, false) == 1)
            d->give_up = "a state image that lies partly where nothing is";
        return;
    }
    if (in->mnemonic != ZYDIS_MNEMONIC_FNSAVE && in->mnemonic != ZYDIS_MNEMONIC_FNSTENV &&
        (!segment_writable(cpu, m->mem.segment) || writable(at, 576) == 1 ||
         writable(at, XSAVE_ALL * 3 / 4) == 1))
        d->give_up = "a state image that lies partly where it cannot be written";
}

/* MASKMOVQ and MASKMOVDQU may or may not fault for bytes that the mask leaves out. */
static void masked_store(struct defined *d, const struct cpu *cpu,
                         const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
    const ZydisDecodedOperand *m = memory_operand(in, op);

    if (m &&
        (!segment_writable(cpu, m->mem.segment) || writable(operand_address(cpu, in, m), 16) != 2))
        d->give_up = "a masked store to where it may fault";
}

/*
 * With alignment checking on: what is wider than eight bytes may or may not be checked. And an
 * aligned move that its mask leaves nothing to do for may or may not complain.
 */
static void alignment(struct defined *d, const struct cpu *cpu, const ZydisDecodedInstruction *in,
                      const ZydisDecodedOperand *op)
{
    const ZydisDecodedOperand *m = memory_operand(in, op);

    if (!m || m->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return;
    if (cpu->rflags & RFLAGS_AC && (m->size > 64 || in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ||
                                    in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX))
        d->give_up = "alignment check of a wide operand";
    if (cpu->code_size != 8 && (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
                                in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX))
        d->any_fault = true; /* across a limit: #GP, or #PF of what is masked in, first */
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
        if (in->avx.mask.reg > ZYDIS_REGISTER_K0 && operand_address(cpu, in, m) % (m->size / 8))
            d->give_up = "a masked, aligned move of what is not aligned";
        break;
    default: break;
    }
}

/* A near branch to where code is can fault in one way only: by what it reads or pushes. */
static bool one_fault(const struct cpu *cpu, const ZydisDecodedInstruction *in,
                      const ZydisDecodedOperand *op)
{
    uint64_t to, base = cpu->code_size == 8 ? 0 : cpu->seg[SEG_CS].base;

    if (in->meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR &&
        in->meta.branch_type != ZYDIS_BRANCH_TYPE_SHORT)
        return false;
    if (in->mnemonic != ZYDIS_MNEMONIC_CALL)
        return true;
    if (op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        to = cpu->rip + in->length + op[0].imm.value.u;
    else if (op[0].type == ZYDIS_OPERAND_TYPE_REGISTER)
        to = register_value(cpu, op[0].reg.value, 0);
    else
        return false;
    if (cpu->code_size != 8)
        to &= size_mask(in->operand_width / 8);
    return base + to - ARENA < (uint64_t)ARENA_PAGES * PAGE;
}

static bool has_prefix(const ZydisDecodedInstruction *in, uint8_t a, uint8_t b)
{
    for (unsigned i = 0; i < in->raw.prefix_count; i++)
        if (in->raw.prefixes[i].value == a || in->raw.prefixes[i].value == b)
            return true;
    return false;
}

void defined_step(struct defined *d, const struct cpu *cpu, const ZydisDecodedInstruction *in,
                  const ZydisDecodedOperand *op)
{
    const ZydisAccessedFlags *f = in->cpu_flags;
    uint64_t set, undefined, tested;

    d->any_address = d->any_fault = false;
    d->fault_give_up = NULL;
    d->fault_flags = 0;
    d->fault_range.size = 0;
    alignment(d, cpu, in, op);
    if (cpu->code_size == 8 && has_prefix(in, 0x66, 0x66) &&
        (in->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
         in->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT))
        d->give_up = "a near branch with 66"; /* Intel ignores the prefix, AMD truncates RIP */
    if (in->meta.category == ZYDIS_CATEGORY_IOSTRINGOP && has_prefix(in, 0xf2, 0xf3))
        d->give_up = "repeated port access: the check with a count of zero";
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: environment(d, cpu, in, op); break;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: masked_store(d, cpu, in, op); break;
    case ZYDIS_MNEMONIC_SHA1MSG1: /* AMD's need no alignment */
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2: {
        const ZydisDecodedOperand *m = memory_operand(in, op);

        if (m && operand_address(cpu, in, m) & 15)
            d->give_up = "SHA on unaligned memory";
        break;
    }
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
        if (one_fault(cpu, in, op))
            break;
        d->any_fault = true; /* and what was pushed by then */
        d->fault_range = stack_below(cpu);
        break;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ: d->any_fault = true; break;
    case ZYDIS_MNEMONIC_ARPL: /* whether it stores what does not change */
        d->any_fault = true;
        if (memory_operand(in, op) &&
            (!segment_writable(cpu, memory_operand(in, op)->mem.segment) ||
             writable(operand_address(cpu, in, memory_operand(in, op)), 2) != 2))
            d->give_up = "ARPL where it cannot write";
        break;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD: d->fault_give_up = "POPA done in part"; break;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_BOUND: d->any_fault = true; break;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
    case ZYDIS_MNEMONIC_ENTER:
        d->any_fault = true;
        d->fault_range = stack_below(cpu);
        break;
    case ZYDIS_MNEMONIC_CMPSB:
    case ZYDIS_MNEMONIC_CMPSW:
    case ZYDIS_MNEMONIC_CMPSD:
    case ZYDIS_MNEMONIC_CMPSQ: d->any_fault = in->meta.category == ZYDIS_CATEGORY_STRINGOP; break;
    case ZYDIS_MNEMONIC_VPINSRB:
    case ZYDIS_MNEMONIC_VPINSRW:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPINSRQ: /* Zen 4 now and then forgets the pushes just before */
        if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[2].reg.value) ==
                ZYDIS_REGISTER_RSP)
            d->give_up = "EVEX VPINSR of the stack pointer";
        break;
    case ZYDIS_MNEMONIC_CLZERO:
        if (!cpu_has(cpu, FEATURE_CLZERO))
            d->give_up = "an instruction that the model leaves out";
        break;
    case ZYDIS_MNEMONIC_BSWAP:
        if (in->operand_width == 16)
            d->give_up = "BSWAP of 16 bits";
        break;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        if (d->flags)
            d->give_up = "undefined flags were stored";
        break;
    case ZYDIS_MNEMONIC_XGETBV:
        if ((uint32_t)cpu->gpr[GPR_RCX] == 1)
            d->give_up = "XINUSE";
        break;
    default: break;
    }
    if (!f)
        return;
    tested = mask_flags(f->tested);
    set = mask_flags(f->modified | f->set_0 | f->set_1) & ~mask_flags(f->undefined);
    undefined = mask_flags(f->undefined);
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        if (!shift_flags(cpu, in, op, &set, &undefined))
            d->give_up = "double shift by more than the size";
        break;
    default: break;
    }
    if (in->meta.category == ZYDIS_CATEGORY_STRINGOP &&
        in->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_REP)) {
        set = 0;                        /* a count of zero changes nothing */
        d->fault_flags = RFLAGS_STATUS; /* Intel puts back those from before, AMD does not */
    }
    if (tested & d->flags)
        d->give_up = "an undefined flag was used";
    d->flags = (d->flags & ~set) | undefined;
}
