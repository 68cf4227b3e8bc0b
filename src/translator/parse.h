/*
 * parse.h - a guest instruction as the translator needs it: its bytes taken apart so that they can
 * be put together again with other registers and another memory operand, and what it does.
 *
 * Parsing is a pure function of the bytes, the code size and what the CPU has. It must be fast
 * (tens of nanoseconds for the common ones): frequent instructions are taken apart by hand and
 * everything else asks the interpreter's decoder once for each form (parse.c).
 *
 * Rules: an instruction gets a kind other than KIND_FALLBACK only when the translator may execute
 * it so in every case, faults included; whatever is rare, odd or not known is KIND_FALLBACK: the
 * interpreter executes it. Guest registers are numbered as in encodings (enum gpr), in all modes.
 */
#ifndef TRANSLATOR_PARSE_H
#define TRANSLATOR_PARSE_H

#include "x86/cpu.h"

enum parse_kind {
    KIND_FALLBACK,
    /*
     * Executed by the host as it is: registers renamed, memory operand redirected. All roles are in
     * the fields below. Covers ALU, MOV, LEA (no memory access: mem_size 0, is_lea), shifts, MUL,
     * DIV, bit tests with register or immediate operands (not BT m,r whose address depends on r:
     * FALLBACK), SETcc, CMOVcc, MOVZX, XCHG, XADD, CMPXCHG (not 8B/16B), BSWAP, CWD, SAHF, LAHF,
     * CLC, STC, CMC, LOCK forms; SIMD, x87, BMI.
     */
    KIND_COPY,
    KIND_NOP,      /* multi-byte NOP, prefetches, ENDBR, hints without effect; memory not touched */
    KIND_JCC,      /* cond, target */
    KIND_JMP,      /* target */
    KIND_CALL,     /* target */
    KIND_JMP_IND,  /* r/m operand: rm fields; operand_size */
    KIND_CALL_IND, /* the same */
    KIND_RET,      /* imm: bytes to drop */
    KIND_LOOP,     /* opcode E0-E3: LOOPNE, LOOPE, LOOP, JCXZ; address_size, target */
    KIND_PUSH,     /* register or memory (rm fields), or immediate (rm_kind NONE; imm) */
    KIND_POP,      /* register or memory: rm fields. POP into memory: base RSP counts after POP */
    KIND_LEAVE,
    KIND_STRING, /* MOVS STOS LODS CMPS SCAS (not INS, OUTS); opcode, rep, operand_size */
    KIND_PUSHF,
    KIND_POPF,
    KIND_CLI,
    KIND_STI,
    KIND_CLD,
    KIND_STD,
    KIND_SYSCALL,
    KIND_SYSRET,
    KIND_IRET,
    KIND_SWAPGS,
    KIND_STAC,
    KIND_CLAC,
    KIND_RDTSC,
    KIND_RDTSCP,
    KIND_RDPID, /* rm: GPR; operand_size */
    KIND_CPUID,
    KIND_SERIALIZE,
    KIND_CLTS,
    KIND_MOV_FROM_SEG, /* reg: enum segment_name; rm: GPR; operand_size */
    KIND_MOV_TO_CR,    /* reg: control register; rm: GPR */
    KIND_MOV_FROM_CR,  /* the same */
    KIND_RDMSR,
    KIND_WRMSR,
    KIND_INVLPG,
    KIND_IN, /* operand_size 1, 2, 4; imm: port, or has_imm false: DX */
    KIND_OUT,
    KIND_WRFSGSBASE, /* WRFSBASE, WRGSBASE: bit 0 of `reg`: GS; rm: GPR; operand_size */
    KIND_RDFSGSBASE,
    KIND_PAUSE,
    KIND_BT_MEM, /* BT, BTS, BTR, BTC of memory by a register: fields as for COPY; reg: the bit,
                    which moves the address. mem_size: operand_size */
    KIND_CMPXCHG_PAIR, /* CMPXCHG8B, CMPXCHG16B: mem_size tells */
    KIND_COUNT,
};

enum parse_rm_kind { RM_NONE, RM_REG, RM_MEM };

enum parse_encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };

enum parse_unit { UNIT_INTEGER, UNIT_VECTOR, UNIT_X87 /* and MMX */ };

/* What must be so for a `unit` to be usable; where it is not, the instruction faults: fall back. */
enum parse_needs {
    NEEDS_X87 = 1,    /* x87, MMX, FWAIT: CR0.EM and CR0.TS clear */
    NEEDS_SSE = 2,    /* CR4.OSFXSR, CR0.EM and CR0.TS clear */
    NEEDS_AVX = 4,    /* CR4.OSXSAVE, XCR0.SSE and AVX, CR0.TS clear */
    NEEDS_AVX512 = 8, /* the same and XCR0's AVX-512 bits */
};

enum { PARSE_NO_REG = 0xff };

struct bt_insn {
    uint8_t length;
    uint8_t kind; /* enum parse_kind */
    uint8_t sub;
    uint8_t code_size;    /* 2, 4, 8 */
    uint8_t operand_size; /* 1, 2, 4, 8: effective; stack operations: bytes moved */
    uint8_t address_size; /* 2, 4, 8 */
    uint8_t unit;         /* enum parse_unit: whose state must be in the host's registers */
    bool may_fault;       /* the host instruction itself may fault: division, x87, SIMD floating
                             point, aligned vector accesses. Not: its memory access */

    uint16_t sub_mnemonic; /* of a fallback, ZydisMnemonic: by the translator */
    bool ends;             /* for the translator: code does not simply go on behind this fallback */

    uint8_t needs; /* enum parse_needs: state without which the interpreter must have it */

    /*
     * ---- encoding, for KIND_COPY ----------------------------------------------------------
     * What the host, in 64-bit mode, wants for the same operation: 16-bit code has p66 where the
     * guest has none and the other way round; prefixes without meaning are dropped, opcodes that
     * 64-bit mode has not are replaced (INC AX is FF /0), and the short forms of the accumulator
     * are given as the ModRM forms they stand for (ADD EAX,imm is 81 /0 with rm 0, XCHG 87).
     */
    uint8_t encoding; /* enum parse_encoding */
    bool p66, lock;
    uint8_t rep;     /* 0, 0xf2, 0xf3: mandatory or real; KIND_STRING: the last of them */
    uint8_t rex_w;   /* legacy: REX.W. VEX and EVEX: W; 0 or 1 */
    uint8_t map;     /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A (EVEX also 5, 6) */
    uint8_t opcode;  /* with the register cut off where opcode_reg */
    uint8_t vex_l;   /* VEX.L, EVEX.L'L */
    uint8_t vex_pp;  /* VEX, EVEX: 0-3 */
    uint8_t evex_p2; /* EVEX: z (bit 7), b (bit 4), aaa (bits 2:0) of the last payload byte */
    bool has_modrm, has_imm;
    bool opcode_reg;  /* the register is in the opcode: MOV r,imm; XCHG; BSWAP. Its role is `rm`'s:
                         rm_kind RM_REG */
    uint8_t imm_size; /* bytes as encoded: 1, 2 (also two of 1: EXTRQ), 4, 8 */
    int64_t imm;      /* sign-extended from imm_size; RET, IN, OUT: zero-extended */

    /* ---- operands ------------------------------------------------------------------------- */
    /* ModRM.reg: a register number with its extension bits (EVEX R' included), or the opcode's
     * extension (/0-/7) when reg_is_opcode. */
    uint8_t reg;
    bool reg_is_opcode;
    /* GPR operands by role. *_size: bytes 1, 2, 4, 8; writing 4 clears the upper half. *_high: AH,
     * CH, DH, BH: the number is 0-3. */
    bool reg_gpr, reg_read, reg_write, reg_high;
    uint8_t reg_size;
    uint8_t rm_kind; /* enum parse_rm_kind */
    uint8_t rm;      /* register number when RM_REG (EVEX: 5 bits); when it is none that can be
                        renamed (rm_gpr false), the field's value: part of x87 and fence opcodes */
    bool rm_gpr, rm_read, rm_write, rm_high; /* read and write also describe RM_MEM */
    uint8_t rm_size;                         /* RM_REG with rm_gpr */
    uint8_t vvvv;                            /* VEX/EVEX.vvvv with V', as a number */
    bool vvvv_gpr, vvvv_read, vvvv_write;
    uint8_t vvvv_size;
    /* GPRs touched without being named: bit n. One of which 8 or 16 bits or, sometimes, nothing is
     * written is also read. */
    uint16_t implicit_read, implicit_write;

    /* Memory operand (RM_MEM, also LEA's): base + index * scale + disp, cut to address_size. */
    uint8_t segment; /* enum segment_name, override applied; in 64-bit mode FS, GS or SEG_DS */
    uint8_t base;    /* GPR, PARSE_NO_REG */
    uint8_t index;   /* GPR, PARSE_NO_REG */
    uint8_t scale;   /* 1, 2, 4, 8 */
    bool rip;        /* RIP-relative: base is none; disp counts from behind the instruction */
    bool is_lea;
    int64_t disp;     /* EVEX disp8*N already multiplied */
    uint8_t mem_size; /* bytes accessed: 1 to 64 and 10 for x87; 0: none is */

    /* ---- flags and control ---------------------------------------------------------------- */
    /* Of the six status flags. `set`: those that have a new value afterwards whatever the operands
     * (undefined ones too: the host's are taken). `changed`: those that may have one. Shifts by CL
     * or by an immediate that is 0 after masking: changed, not set. */
    uint16_t flags_read, flags_set, flags_changed;
    uint8_t cond; /* JCC, and SETcc, CMOVcc: 0-15 */
    int64_t rel;  /* direct branches: displacement from behind the instruction */
};

/*
 * Parse what stands at `bytes`, `available` (1-15) of them readable. False: the instruction needs
 * more bytes than that, or is too long: the interpreter shall see. Anything invalid or unknown is
 * true with KIND_FALLBACK (then length may be 0: unknown).
 */
bool parse_insn(const struct cpu *cpu, const uint8_t *bytes, unsigned available, unsigned code_size,
                struct bt_insn *out);

#endif
