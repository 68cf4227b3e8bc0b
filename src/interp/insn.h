/*
 * insn.h - a decoded instruction, and what its handler may rely on.
 *
 * Decoding (Zydis) is a pure function of the instruction's bytes and the mode; its result is kept
 * in a cache of the vCPU and compared with the bytes in memory at every execution, so
 * self-modifying code, DMA into code and remapping need no care at all here.
 *
 * The contract of a handler:
 *  - On entry cpu->rip is the instruction's own address and cpu->next_rip the one behind it,
 *    already cut to the code size. A branch writes next_rip. The run loop commits next_rip.
 *  - To fault it calls cpu_raise() (which does not return) BEFORE it changed anything: compute,
 *    check, access memory, then commit registers. Stores are checked by mmu_probe() or happen
 *    last.
 *  - A repeated string instruction does a bounded number of iterations (some thousands), commits
 *    what it did, and sets next_rip = rip when there is more to do.
 *  - It does not look at events, TF or shadows; it sets cpu->sti_shadow / movss_shadow where the
 *    manual says so.
 */
#ifndef INTERP_INSN_H
#define INTERP_INSN_H

#include "x86/cpu.h"

#include <Zydis/Zydis.h>

struct insn;
typedef void (*insn_handler)(struct cpu *cpu, const struct insn *in);

enum operand_kind { OPERAND_NONE, OPERAND_GPR, OPERAND_MEM, OPERAND_IMM, OPERAND_OTHER };

/* GPR operands: 0-15; with REG_HIGH8 they are AH, CH, DH, BH (of RAX, RCX, RDX, RBX). */
enum { REG_HIGH8 = 0x10, REG_NONE = 0xff, REG_RIP = 0xfe };

struct insn_operand {
    uint8_t kind; /* enum operand_kind; OTHER: segment, control, SIMD...: see `reg` */
    uint8_t reg;  /* GPR; else the number within its class (xmm3: 3, cr4: 4, fs: SEG_FS) */
    uint8_t size; /* bytes, of the operand as the manual has it */
};

enum insn_prefix { PREFIX_LOCK = 1, PREFIX_REP = 2, PREFIX_REPNE = 4 };

enum { INSN_MAX_LENGTH = 15, INSN_OPERANDS = 4 };

enum insn_flag {
    INSN_BOUNDARY = 1, /* may change mode, privilege, paging, shadows or IF: the run loop looks at
                          everything anew after it. All but integer, branch, string, SIMD. */
    INSN_VEX = 2,      /* VEX, EVEX or XOP encoded: #UD in real and virtual-8086 mode */
    INSN_INT = 4, /* INT n, INT1, INT3, INTO, SYSCALL, SYSRET: TF set before makes no trap after if
                     it is clear then */
};

/* What execution touches, but for rare things, stands in the first 64 bytes: one cache line. */
struct insn {
    insn_handler run;
    uint8_t bytes[INSN_MAX_LENGTH]; /* as in memory; zero behind the end */
    uint8_t mode;                   /* the decode cache's; 0: no entry */
    /* Explicit operands in Intel order (destination first), also implicit ones where the form has
     * them in its syntax (SHL r/m,CL; IN AL,DX). A far pointer ptr16:32 is one OPERAND_IMM: the
     * offset is in imm, the selector in imm2. */
    struct insn_operand op[INSN_OPERANDS];
    uint8_t length;
    uint8_t code_size;    /* 2, 4, 8: the mode it was decoded for */
    uint8_t operand_size; /* bytes, effective: 1 for byte forms, else 2, 4 or 8 */
    uint8_t address_size; /* bytes: 2, 4, 8 */
    uint8_t stack_size;   /* bytes: 2, 4, 8: of what PUSH, POP and near branches move (the width of
                             RSP used for it is that of SS) */
    uint8_t form;         /* enum insn_form: kinds and size of two operands in one; for Jcc, SETcc
                             and CMOVcc the condition */
    uint8_t flags;        /* enum insn_flag */
    /* The memory operand, if any. For VSIB `index` is the vector register. String instructions and
     * XLAT, whose memory operand is implicit, find here the segment alone. */
    uint8_t segment; /* enum segment_name; default and overrides applied */
    uint8_t base;    /* GPR, REG_RIP or REG_NONE */
    uint8_t index;   /* GPR or REG_NONE */
    uint8_t scale;   /* 1, 2, 4, 8 */
    uint8_t prefix;  /* enum insn_prefix; REP and REPNE on string instructions only */
    int64_t disp;
    uint64_t imm; /* sign-extended as the manual says; a relative branch: the displacement */

    uint64_t imm2;
    const void *extra;  /* SIMD: the host stub; set by simd_bind(), see interp/simd.c */
    uint16_t mnemonic;  /* ZydisMnemonic */
    uint8_t opcode;     /* last opcode byte */
    uint8_t opcode_map; /* ZydisOpcodeMap */
    uint8_t isa;        /* ZydisISASet */
} __attribute__((aligned(64)));

enum decode_result { DECODE_OK, DECODE_MORE, DECODE_UD, DECODE_TOO_LONG };

/* `bytes` holds `available` bytes. DECODE_MORE: valid so far but longer. Fills *out whole,
 * handler included; for DECODE_UD *out is not touched. */
enum decode_result insn_decode(const uint8_t *bytes, unsigned available, unsigned code_size,
                               struct insn *out);

/* Does this CPU have the instruction (CPUID, mode)? Where not, it is #UD; some turn into what older
 * processors make of the same bytes (LZCNT into BSR). Called once for each decoded instruction of
 * a vCPU; `plain_real` says real or virtual-8086 mode. */
void insn_bind(const struct cpu *cpu, struct insn *in, bool plain_real);

/* A table of handlers that a source file offers; ends with mnemonic 0 (INVALID). decode.c lists
 * the tables and takes the first that has the mnemonic, in this order: string (one-byte opcodes
 * only), integer, branch, system, far, state. Forms that share a mnemonic with an ordinary
 * instruction are looked up elsewhere first: far branches (CALL, JMP, RET) and MOV, PUSH, POP with
 * a segment register in far, then system; MOV with a control or debug register in system. */
struct insn_row {
    uint16_t mnemonic;
    insn_handler run;
};
extern const struct insn_row insn_integer[]; /* integer.c: data movement, ALU, shifts, bits */
extern const struct insn_row insn_branch[];  /* branch.c: near jumps, calls, loops, sets */
extern const struct insn_row insn_string[];  /* string.c: MOVS, STOS, CMPS, SCAS, LODS, INS, OUTS */
extern const struct insn_row insn_system[];  /* system.c: privileged and sensitive ones */
extern const struct insn_row insn_far[];     /* far.c: far transfers, INT, IRET, segment loads */
extern const struct insn_row insn_state[]; /* state_insn.c: FXSAVE, XSAVE family, FNSAVE, FLDENV */

/*
 * Called for every other valid instruction (x87, MMX, SSE, AVX, AVX-512, AES, SHA, BMI, CRC32
 * ...): gives it a handler that runs it on the host, or none when the instruction is not one that
 * may be run so: then it is #UD. simd.c.
 */
insn_handler simd_bind(struct insn *in, const ZydisDecodedInstruction *decoded,
                       const ZydisDecodedOperand *operands);

#endif
