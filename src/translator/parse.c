/*
 * parse.c - guest instructions for the translator: see parse.h.
 *
 * Two ways. Legacy-encoded integer instructions are rows of a table: one row says what the ModRM
 * operands are, what is read and written, which immediate follows and which flags change; a row
 * may name a `special`, a few lines of C for what does not fit. Everything else (SSE, AVX, x87...)
 * goes by *form*: all that decides what an instruction means, registers and displacements left
 * out, in one number. When a form is met first, one instruction of it is put together from that
 * number and shown to Zydis and to the interpreter's decoder; the answer is kept for the life of
 * the process, and from then on only ModRM, displacement and immediate are taken apart here.
 *
 * Rules for an editor: a form's answer may depend on nothing that is not in its key, hence the
 * instruction made from the key, not the guest's own; what depends on the CPU model is a list of
 * features in the answer. What this file does not know for certain is KIND_FALLBACK, and the flag
 * masks are promises: a flag in flags_set really has nothing of its old value left.
 */
#include "translator/parse.h"

#include "interp/insn.h"
#include "interp/simd.h"
#include "x86/model.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define likely(x)     __builtin_expect(!!(x), 1)
#define unlikely(x)   __builtin_expect(!!(x), 0)
#define always_inline inline __attribute__((always_inline))

/* ---- prefixes and bytes ---------------------------------------------------------------------- */

enum { LENGTH_MAX = 15, PREFIXES_DIRECT = 3 };

enum prefix_class { NOT_PREFIX, PREFIX_SEGMENT, PREFIX_66, PREFIX_67, PREFIX_F0, PREFIX_FX, REX };

static const uint8_t prefix_class[256] = {
    [0x26] = PREFIX_SEGMENT, [0x2e] = PREFIX_SEGMENT, [0x36] = PREFIX_SEGMENT,
    [0x3e] = PREFIX_SEGMENT, [0x64] = PREFIX_SEGMENT, [0x65] = PREFIX_SEGMENT,
    [0x66] = PREFIX_66,      [0x67] = PREFIX_67,      [0xf0] = PREFIX_F0,
    [0xf2] = PREFIX_FX,      [0xf3] = PREFIX_FX,      [0x40 ... 0x4f] = REX,
};

struct parser {
    const struct cpu *cpu;
    const uint8_t *p; /* readable as far as any instruction with so many prefixes reaches */
    unsigned pos;
    uint8_t code_size;
    uint8_t segment; /* override, or SEG_NONE */
    uint8_t rep, rex;
    bool p66, p67, lock;
    uint8_t address_size;
};

static always_inline uint64_t fetch(struct parser *s, unsigned size)
{
    uint64_t v = 0;

    switch (size) {
    case 1: v = s->p[s->pos]; break;
    case 2: memcpy(&v, s->p + s->pos, 2); break;
    case 4: memcpy(&v, s->p + s->pos, 4); break;
    default: memcpy(&v, s->p + s->pos, 8); break;
    }
    s->pos += size;
    return v;
}

static always_inline int64_t fetch_signed(struct parser *s, unsigned size)
{
    uint64_t v = fetch(s, size);

    switch (size) {
    case 1: return (int8_t)v;
    case 2: return (int16_t)v;
    case 4: return (int32_t)v;
    default: return (int64_t)v;
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

enum form_bit {
    KNOWN = 1 << 0, /* the row is complete: the length is right also where the kind is FALLBACK */
    MODRM = 1 << 1,
    BYTE = 1 << 2, /* operands are bytes */
    REG_R = 1 << 3,
    REG_W = 1 << 4,
    RM_R = 1 << 5,
    RM_W = 1 << 6,
    OPREG = 1 << 7, /* the register is in the opcode; the roles are rm's */
    D64 = 1 << 8,   /* 64 bits wide in 64-bit mode */
    NEAR = 1 << 9,  /* with 66 in 64-bit mode processors differ: this is Intel's length */
    LOCKABLE = 1 << 10,
    ONLY_MEM = 1 << 11,
    ONLY_REG = 1 << 12,
    NO64 = 1 << 13,
    ONLY64 = 1 << 14,
    RM8 = 1 << 15, /* rm's size where it is not the operand size */
    RM16 = 1 << 16,
    RM32 = 1 << 17,
    PLAIN = 1 << 18, /* 66, F2 and F3 make another instruction of it */
    FAULTS = 1 << 19,
    REG_RW = REG_R | REG_W,
    RM_RW = RM_R | RM_W,
};

enum imm_kind { IMM_NONE, IMM_B, IMM_UB, IMM_W, IMM_Z, IMM_V, REL_B, REL_Z };

enum flag_kind {
    FL_NONE,
    FL_ALL, /* all six are new */
    FL_ADC, /* and the old carry is read */
    FL_INC, /* all but CF */
    FL_CF,  /* CLC, STC */
    FL_BT,  /* CF; OF, SF, AF and PF are undefined, and no processor known changes them */
    FL_CMC,
    FL_SAHF,
    FL_LAHF,
    FL_SAVE,    /* all are read */
    FL_COMPARE, /* CMPS, SCAS */
    FL_ZF,      /* read */
    FL_ZF_ONLY, /* set */
};

#define STATUS RFLAGS_STATUS
#define FIVE   (RFLAGS_STATUS & ~RFLAGS_OF)

static const struct {
    uint16_t read, set, changed;
} flag_effects[] = {
    [FL_NONE] = {0, 0, 0},
    [FL_ALL] = {0, STATUS, STATUS},
    [FL_ADC] = {RFLAGS_CF, STATUS, STATUS},
    [FL_INC] = {0, STATUS & ~RFLAGS_CF, STATUS & ~RFLAGS_CF},
    [FL_CF] = {0, RFLAGS_CF, RFLAGS_CF},
    [FL_BT] = {0, RFLAGS_CF, STATUS & ~RFLAGS_ZF},
    [FL_CMC] = {RFLAGS_CF, RFLAGS_CF, RFLAGS_CF},
    [FL_SAHF] = {0, FIVE, FIVE},
    [FL_LAHF] = {FIVE, 0, 0},
    [FL_SAVE] = {STATUS, 0, 0},
    [FL_COMPARE] = {0, STATUS, STATUS},
    [FL_ZF] = {RFLAGS_ZF, 0, 0},
    [FL_ZF_ONLY] = {0, RFLAGS_ZF, RFLAGS_ZF},
};

static const uint16_t condition_flags[8] = {
    RFLAGS_OF,
    RFLAGS_CF,
    RFLAGS_ZF,
    RFLAGS_CF | RFLAGS_ZF,
    RFLAGS_SF,
    RFLAGS_PF,
    RFLAGS_SF | RFLAGS_OF,
    RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF,
};

enum special {
    SP_NONE,
    SP_ALU_ACC,  /* 04, 05...: as 80, 81 */
    SP_TEST_ACC, /* A8, A9: as F6, F7 */
    SP_XCHG_ACC, /* 90-97: NOP, PAUSE, or as 87 */
    SP_INC_REG,  /* 40-4F: as FF */
    SP_MOFFS,    /* A0-A3: as 8A, 8B, 88, 89 */
    SP_ALIAS_80, /* 82 */
    SP_TEST_ALIAS,
    SP_SHIFT_IMM,
    SP_SHIFT_1,
    SP_SHIFT_CL,
    SP_DOUBLE_IMM,
    SP_DOUBLE_CL,
    SP_COND,
    SP_CMOV,
    SP_MUL,
    SP_DIV,
    SP_CBW,
    SP_CWD,
    SP_CMPXCHG,
    SP_LAHF,
    SP_SAHF,
    SP_LEA,
    SP_MOVSXD,
    SP_BSWAP,
    SP_SCAN,
    SP_POPCNT,
    SP_STRING,
    SP_LOOP,
    SP_STACK,
    SP_LEAVE,
    SP_IO,
    SP_RDTSC,
    SP_MSR,
    SP_PAIR,
    SP_SYSCALL,
    SP_IRET,
    SP_CR,
    SP_FROM_SEG,
    SP_CPUID,
    SP_RDPID,
    SP_PREFETCH,
    SP_ESCAPE, /* C4, C5, 62: VEX, EVEX, or what they were */
    SP_0F01,
    SP_0FAE,
};

enum { ROW_SLOW = 0x80 };

struct row {
    const struct row *group; /* of eight, by ModRM.reg; what stands there is added */
    uint32_t form;
    uint8_t kind; /* enum parse_kind, or ROW_SLOW */
    uint8_t imm, flags, special;
};

#define COPY(form_, imm_, flags_, special_)                                                        \
    {                                                                                              \
        .kind = KIND_COPY, .form = KNOWN | (form_), .imm = IMM_##imm_, .flags = FL_##flags_,       \
        .special = SP_##special_                                                                   \
    }
#define KIND(kind_, form_, imm_, flags_, special_)                                                 \
    {                                                                                              \
        .kind = KIND_##kind_, .form = KNOWN | (form_), .imm = imm_, .flags = FL_##flags_,          \
        .special = SP_##special_                                                                   \
    }
#define FALL(form_, imm_)                                                                          \
    {                                                                                              \
        .kind = KIND_FALLBACK, .form = KNOWN | (form_), .imm = IMM_##imm_                          \
    }
#define GROUP(group_, form_, imm_)                                                                 \
    {                                                                                              \
        .group = group_, .form = MODRM | (form_), .imm = IMM_##imm_                                \
    }
#define SLOW                                                                                       \
    {                                                                                              \
        .kind = ROW_SLOW                                                                           \
    }

static const struct row group_alu[8] = {
    COPY(RM_RW | LOCKABLE, NONE, ALL, NONE), COPY(RM_RW | LOCKABLE, NONE, ALL, NONE),
    COPY(RM_RW | LOCKABLE, NONE, ADC, NONE), COPY(RM_RW | LOCKABLE, NONE, ADC, NONE),
    COPY(RM_RW | LOCKABLE, NONE, ALL, NONE), COPY(RM_RW | LOCKABLE, NONE, ALL, NONE),
    COPY(RM_RW | LOCKABLE, NONE, ALL, NONE), COPY(RM_R, NONE, ALL, NONE),
};

static const struct row group_82[8] = {
    COPY(RM_RW | LOCKABLE, NONE, ALL, ALIAS_80), COPY(RM_RW | LOCKABLE, NONE, ALL, ALIAS_80),
    COPY(RM_RW | LOCKABLE, NONE, ADC, ALIAS_80), COPY(RM_RW | LOCKABLE, NONE, ADC, ALIAS_80),
    COPY(RM_RW | LOCKABLE, NONE, ALL, ALIAS_80), COPY(RM_RW | LOCKABLE, NONE, ALL, ALIAS_80),
    COPY(RM_RW | LOCKABLE, NONE, ALL, ALIAS_80), COPY(RM_R, NONE, ALL, ALIAS_80),
};

#define EIGHT(row) row, row, row, row, row, row, row, row
static const struct row group_shift_imm[8] = {EIGHT(COPY(RM_RW, NONE, NONE, SHIFT_IMM))};
static const struct row group_shift_1[8] = {EIGHT(COPY(RM_RW, NONE, NONE, SHIFT_1))};
static const struct row group_shift_cl[8] = {EIGHT(COPY(RM_RW, NONE, NONE, SHIFT_CL))};

static const struct row group_f6[8] = {
    COPY(RM_R, Z, ALL, NONE),
    COPY(RM_R, Z, ALL, TEST_ALIAS),
    COPY(RM_RW | LOCKABLE, NONE, NONE, NONE),
    COPY(RM_RW | LOCKABLE, NONE, ALL, NONE),
    COPY(RM_R, NONE, ALL, MUL),
    COPY(RM_R, NONE, ALL, MUL),
    COPY(RM_R | FAULTS, NONE, ALL, DIV),
    COPY(RM_R | FAULTS, NONE, ALL, DIV),
};

static const struct row group_fe[8] = {
    COPY(RM_RW | LOCKABLE, NONE, INC, NONE),
    COPY(RM_RW | LOCKABLE, NONE, INC, NONE),
};

static const struct row group_ff[8] = {
    COPY(RM_RW | LOCKABLE, NONE, INC, NONE),
    COPY(RM_RW | LOCKABLE, NONE, INC, NONE),
    KIND(CALL_IND, RM_R | D64 | NEAR, 0, NONE, STACK),
    FALL(0, NONE),
    KIND(JMP_IND, RM_R | D64 | NEAR, 0, NONE, NONE),
    FALL(0, NONE),
    KIND(PUSH, RM_R | D64, 0, NONE, STACK),
};

static const struct row group_8f[8] = {KIND(POP, RM_W | D64, 0, NONE, STACK)};
static const struct row group_c7[8] = {COPY(RM_W, Z, NONE, NONE)};

static const struct row group_c7_0f[8] = {
    FALL(0, NONE), KIND(CMPXCHG_PAIR, RM_RW | LOCKABLE | ONLY_MEM, 0, ZF_ONLY, PAIR),
    FALL(0, NONE), FALL(0, NONE),
    FALL(0, NONE), FALL(0, NONE),
    FALL(0, NONE), KIND(RDPID, RM_W | ONLY_REG, 0, NONE, RDPID),
};

static const struct row group_bt[8] = {
    [4] = COPY(RM_R, B, BT, NONE),
    [5] = COPY(RM_RW | LOCKABLE, B, BT, NONE),
    [6] = COPY(RM_RW | LOCKABLE, B, BT, NONE),
    [7] = COPY(RM_RW | LOCKABLE, B, BT, NONE),
};

/* ADD, OR, ADC, SBB, AND, SUB, XOR, CMP: `rm` is what they do with their destination. */
#define ALU(base, flags, rm, reg, lock)                                                            \
    [base] = COPY(MODRM | BYTE | REG_R | (rm) | (lock), NONE, flags, NONE),                        \
    [(base) + 1] = COPY(MODRM | REG_R | (rm) | (lock), NONE, flags, NONE),                         \
    [(base) + 2] = COPY(MODRM | BYTE | (reg) | RM_R, NONE, flags, NONE),                           \
    [(base) + 3] = COPY(MODRM | (reg) | RM_R, NONE, flags, NONE),                                  \
    [(base) + 4] = COPY(BYTE | (rm), B, flags, ALU_ACC),                                           \
    [(base) + 5] = COPY((rm), Z, flags, ALU_ACC)

static const struct row one_byte[256] = {
    ALU(0x00, ALL, RM_RW, REG_RW, LOCKABLE),
    ALU(0x08, ALL, RM_RW, REG_RW, LOCKABLE),
    ALU(0x10, ADC, RM_RW, REG_RW, LOCKABLE),
    ALU(0x18, ADC, RM_RW, REG_RW, LOCKABLE),
    ALU(0x20, ALL, RM_RW, REG_RW, LOCKABLE),
    ALU(0x28, ALL, RM_RW, REG_RW, LOCKABLE),
    ALU(0x30, ALL, RM_RW, REG_RW, LOCKABLE),
    ALU(0x38, ALL, RM_R, REG_R, 0),
    [0x06 ... 0x07] = FALL(NO64, NONE),
    [0x0e] = FALL(NO64, NONE),
    [0x16 ... 0x17] = FALL(NO64, NONE),
    [0x1e ... 0x1f] = FALL(NO64, NONE),
    [0x27] = FALL(NO64, NONE),
    [0x2f] = FALL(NO64, NONE),
    [0x37] = FALL(NO64, NONE),
    [0x3f] = FALL(NO64, NONE),
    [0x40 ... 0x4f] = COPY(RM_RW | NO64, NONE, INC, INC_REG),
    [0x50 ... 0x57] = KIND(PUSH, OPREG | RM_R | D64, 0, NONE, STACK),
    [0x58 ... 0x5f] = KIND(POP, OPREG | RM_W | D64, 0, NONE, STACK),
    [0x60 ... 0x61] = FALL(NO64, NONE),
    [0x62] = {.special = SP_ESCAPE, .form = MODRM | NO64 | KNOWN},
    [0x63] = COPY(MODRM | REG_W | RM_R | RM32 | ONLY64, NONE, NONE, MOVSXD),
    [0x68] = KIND(PUSH, D64, IMM_Z, NONE, STACK),
    [0x69] = COPY(MODRM | REG_W | RM_R, Z, ALL, NONE),
    [0x6a] = KIND(PUSH, D64, IMM_B, NONE, STACK),
    [0x6b] = COPY(MODRM | REG_W | RM_R, B, ALL, NONE),
    [0x6c ... 0x6f] = FALL(0, NONE),
    [0x70 ... 0x7f] = KIND(JCC, D64 | NEAR, REL_B, NONE, COND),
    [0x80] = GROUP(group_alu, BYTE, B),
    [0x81] = GROUP(group_alu, 0, Z),
    [0x82] = GROUP(group_82, BYTE | NO64, B),
    [0x83] = GROUP(group_alu, 0, B),
    [0x84] = COPY(MODRM | BYTE | REG_R | RM_R, NONE, ALL, NONE),
    [0x85] = COPY(MODRM | REG_R | RM_R, NONE, ALL, NONE),
    [0x86] = COPY(MODRM | BYTE | REG_RW | RM_RW | LOCKABLE, NONE, NONE, NONE),
    [0x87] = COPY(MODRM | REG_RW | RM_RW | LOCKABLE, NONE, NONE, NONE),
    [0x88] = COPY(MODRM | BYTE | REG_R | RM_W, NONE, NONE, NONE),
    [0x89] = COPY(MODRM | REG_R | RM_W, NONE, NONE, NONE),
    [0x8a] = COPY(MODRM | BYTE | REG_W | RM_R, NONE, NONE, NONE),
    [0x8b] = COPY(MODRM | REG_W | RM_R, NONE, NONE, NONE),
    [0x8c] = KIND(MOV_FROM_SEG, MODRM | ONLY_REG | RM_W, 0, NONE, FROM_SEG),
    [0x8d] = COPY(MODRM | REG_W | ONLY_MEM, NONE, NONE, LEA),
    [0x8e] = FALL(MODRM, NONE),
    [0x8f] = GROUP(group_8f, 0, NONE),
    [0x90 ... 0x97] = COPY(RM_RW, NONE, NONE, XCHG_ACC),
    [0x98] = COPY(0, NONE, NONE, CBW),
    [0x99] = COPY(0, NONE, NONE, CWD),
    [0x9b] = SLOW,
    [0x9c] = KIND(PUSHF, D64, 0, SAVE, STACK),
    [0x9d] = KIND(POPF, D64, 0, ALL, STACK),
    [0x9e] = COPY(BYTE, NONE, SAHF, SAHF),
    [0x9f] = COPY(BYTE, NONE, LAHF, LAHF),
    [0xa0 ... 0xa1] = COPY(REG_W | RM_R, NONE, NONE, MOFFS),
    [0xa2 ... 0xa3] = COPY(REG_R | RM_W, NONE, NONE, MOFFS),
    [0xa4] = KIND(STRING, BYTE, 0, NONE, STRING),
    [0xa5] = KIND(STRING, 0, 0, NONE, STRING),
    [0xa6] = KIND(STRING, BYTE, 0, COMPARE, STRING),
    [0xa7] = KIND(STRING, 0, 0, COMPARE, STRING),
    [0xa8] = COPY(BYTE | RM_R, B, ALL, TEST_ACC),
    [0xa9] = COPY(RM_R, Z, ALL, TEST_ACC),
    [0xaa] = KIND(STRING, BYTE, 0, NONE, STRING),
    [0xab] = KIND(STRING, 0, 0, NONE, STRING),
    [0xac] = KIND(STRING, BYTE, 0, NONE, STRING),
    [0xad] = KIND(STRING, 0, 0, NONE, STRING),
    [0xae] = KIND(STRING, BYTE, 0, COMPARE, STRING),
    [0xaf] = KIND(STRING, 0, 0, COMPARE, STRING),
    [0xb0 ... 0xb7] = COPY(OPREG | BYTE | RM_W, B, NONE, NONE),
    [0xb8 ... 0xbf] = COPY(OPREG | RM_W, V, NONE, NONE),
    [0xc0] = GROUP(group_shift_imm, BYTE, B),
    [0xc1] = GROUP(group_shift_imm, 0, B),
    [0xc2] = KIND(RET, D64 | NEAR, IMM_W, NONE, STACK),
    [0xc3] = KIND(RET, D64 | NEAR, 0, NONE, STACK),
    [0xc4 ... 0xc5] = {.special = SP_ESCAPE, .form = MODRM | NO64 | KNOWN},
    [0xc6] = GROUP(group_c7, BYTE, NONE),
    [0xc7] = GROUP(group_c7, 0, NONE),
    [0xc9] = KIND(LEAVE, D64, 0, NONE, LEAVE),
    [0xca] = FALL(0, W),
    [0xcb ... 0xcc] = FALL(0, NONE),
    [0xcd] = FALL(0, B),
    [0xce] = FALL(NO64, NONE),
    [0xcf] = KIND(IRET, 0, 0, ALL, IRET),
    [0xd0] = GROUP(group_shift_1, BYTE, NONE),
    [0xd1] = GROUP(group_shift_1, 0, NONE),
    [0xd2] = GROUP(group_shift_cl, BYTE, NONE),
    [0xd3] = GROUP(group_shift_cl, 0, NONE),
    [0xd4 ... 0xd5] = FALL(NO64, B),
    [0xd6] = FALL(NO64, NONE),
    [0xd7] = FALL(0, NONE),
    [0xd8 ... 0xdf] = SLOW,
    [0xe0 ... 0xe1] = KIND(LOOP, D64 | NEAR, REL_B, ZF, LOOP),
    [0xe2 ... 0xe3] = KIND(LOOP, D64 | NEAR, REL_B, NONE, LOOP),
    [0xe4] = KIND(IN, BYTE, IMM_UB, NONE, IO),
    [0xe5] = KIND(IN, 0, IMM_UB, NONE, IO),
    [0xe6] = KIND(OUT, BYTE, IMM_UB, NONE, IO),
    [0xe7] = KIND(OUT, 0, IMM_UB, NONE, IO),
    [0xe8] = KIND(CALL, D64 | NEAR, REL_Z, NONE, STACK),
    [0xe9] = KIND(JMP, D64 | NEAR, REL_Z, NONE, NONE),
    [0xeb] = KIND(JMP, D64 | NEAR, REL_B, NONE, NONE),
    [0xec] = KIND(IN, BYTE, 0, NONE, IO),
    [0xed] = KIND(IN, 0, 0, NONE, IO),
    [0xee] = KIND(OUT, BYTE, 0, NONE, IO),
    [0xef] = KIND(OUT, 0, 0, NONE, IO),
    [0xf1] = FALL(0, NONE),
    [0xf4] = FALL(0, NONE),
    [0xf5] = COPY(BYTE, NONE, CMC, NONE),
    [0xf6] = GROUP(group_f6, BYTE, NONE),
    [0xf7] = GROUP(group_f6, 0, NONE),
    [0xf8 ... 0xf9] = COPY(BYTE, NONE, CF, NONE),
    [0xfa] = KIND(CLI, 0, 0, NONE, NONE),
    [0xfb] = KIND(STI, 0, 0, NONE, NONE),
    [0xfc] = KIND(CLD, 0, 0, NONE, NONE),
    [0xfd] = KIND(STD, 0, 0, NONE, NONE),
    [0xfe] = GROUP(group_fe, BYTE, NONE),
    [0xff] = GROUP(group_ff, 0, NONE),
};

static const struct row two_byte[256] = {
    [0x00] = FALL(MODRM, NONE),
    [0x01] = {.special = SP_0F01, .form = MODRM | KNOWN},
    [0x05] = KIND(SYSCALL, ONLY64, 0, SAVE, SYSCALL),
    [0x06] = KIND(CLTS, 0, 0, NONE, NONE),
    [0x07] = KIND(SYSRET, ONLY64, 0, ALL, SYSCALL),
    [0x08 ... 0x09] = FALL(0, NONE),
    [0x0b] = FALL(0, NONE),
    [0x0d] = KIND(NOP, MODRM, 0, NONE, NONE),
    [0x10 ... 0x17] = SLOW,
    [0x18] = KIND(NOP, MODRM, 0, NONE, PREFETCH),
    [0x19 ... 0x1f] = KIND(NOP, MODRM, 0, NONE, NONE),
    [0x20] = KIND(MOV_FROM_CR, MODRM | ONLY_REG | RM_W, 0, NONE, CR),
    [0x22] = KIND(MOV_TO_CR, MODRM | ONLY_REG | RM_R, 0, NONE, CR),
    [0x28 ... 0x2f] = SLOW,
    [0x30] = KIND(WRMSR, 0, 0, NONE, MSR),
    [0x31] = KIND(RDTSC, 0, 0, NONE, RDTSC),
    [0x32] = KIND(RDMSR, 0, 0, NONE, MSR),
    [0x33] = FALL(0, NONE),
    [0x34 ... 0x35] = FALL(0, NONE),
    [0x38] = SLOW,
    [0x3a] = SLOW,
    [0x40 ... 0x4f] = COPY(MODRM | REG_RW | RM_R, NONE, NONE, CMOV),
    [0x50 ... 0x7f] = SLOW,
    [0x80 ... 0x8f] = KIND(JCC, D64 | NEAR, REL_Z, NONE, COND),
    [0x90 ... 0x9f] = COPY(MODRM | BYTE | RM_W, NONE, NONE, COND),
    [0xa0 ... 0xa1] = FALL(0, NONE),
    [0xa2] = KIND(CPUID, 0, 0, NONE, CPUID),
    [0xa3] = COPY(MODRM | ONLY_REG | REG_R | RM_R, NONE, BT, NONE),
    [0xa4] = COPY(MODRM | REG_R | RM_RW, B, NONE, DOUBLE_IMM),
    [0xa5] = COPY(MODRM | REG_R | RM_RW, NONE, NONE, DOUBLE_CL),
    [0xa8 ... 0xaa] = FALL(0, NONE),
    [0xab] = COPY(MODRM | ONLY_REG | REG_R | RM_RW | LOCKABLE, NONE, BT, NONE),
    [0xac] = COPY(MODRM | REG_R | RM_RW, B, NONE, DOUBLE_IMM),
    [0xad] = COPY(MODRM | REG_R | RM_RW, NONE, NONE, DOUBLE_CL),
    [0xae] = {.special = SP_0FAE, .form = MODRM | KNOWN},
    [0xaf] = COPY(MODRM | REG_RW | RM_R, NONE, ALL, NONE),
    [0xb0] = COPY(MODRM | BYTE | REG_R | RM_RW | LOCKABLE, NONE, ALL, CMPXCHG),
    [0xb1] = COPY(MODRM | REG_R | RM_RW | LOCKABLE, NONE, ALL, CMPXCHG),
    [0xb2] = FALL(MODRM, NONE),
    [0xb3] = COPY(MODRM | ONLY_REG | REG_R | RM_RW | LOCKABLE, NONE, BT, NONE),
    [0xb4 ... 0xb5] = FALL(MODRM, NONE),
    [0xb6] = COPY(MODRM | REG_W | RM_R | RM8, NONE, NONE, NONE),
    [0xb7] = COPY(MODRM | REG_W | RM_R | RM16, NONE, NONE, NONE),
    [0xb8] = COPY(MODRM | REG_W | RM_R, NONE, ALL, POPCNT),
    [0xb9] = FALL(MODRM, NONE),
    [0xba] = GROUP(group_bt, 0, NONE),
    [0xbb] = COPY(MODRM | ONLY_REG | REG_R | RM_RW | LOCKABLE, NONE, BT, NONE),
    [0xbc ... 0xbd] = COPY(MODRM | REG_RW | RM_R, NONE, ALL, SCAN),
    [0xbe] = COPY(MODRM | REG_W | RM_R | RM8, NONE, NONE, NONE),
    [0xbf] = COPY(MODRM | REG_W | RM_R | RM16, NONE, NONE, NONE),
    [0xc0] = COPY(MODRM | BYTE | REG_RW | RM_RW | LOCKABLE, NONE, ALL, NONE),
    [0xc1] = COPY(MODRM | REG_RW | RM_RW | LOCKABLE, NONE, ALL, NONE),
    [0xc2 ... 0xc6] = SLOW,
    [0xc7] = GROUP(group_c7_0f, 0, NONE),
    [0xc8 ... 0xcf] = COPY(OPREG | RM_RW, NONE, NONE, BSWAP),
    [0xd0 ... 0xfe] = SLOW,
    [0xff] = FALL(MODRM, NONE),
};

/* ---- operands -------------------------------------------------------------------------------- */

/* Unknown to us, and so everything may happen. */
static bool fall_back(struct bt_insn *out, unsigned length)
{
    out->kind = KIND_FALLBACK;
    out->length = (uint8_t)length;
    out->lock = false;
    out->flags_read = out->flags_changed = STATUS;
    out->flags_set = 0;
    out->implicit_read = out->implicit_write = 0;
    return true;
}

static always_inline void default_segment(struct parser *s, struct bt_insn *out, bool stack)
{
    if (s->segment != SEG_NONE && (s->code_size != 8 || s->segment >= SEG_FS))
        out->segment = s->segment;
    else
        out->segment = stack && s->code_size != 8 ? SEG_SS : SEG_DS;
}

static void parse_memory_16(struct parser *s, struct bt_insn *out, unsigned modrm, unsigned scale)
{
    static const uint8_t base[8] = {GPR_RBX, GPR_RBX, GPR_RBP, GPR_RBP,
                                    GPR_RSI, GPR_RDI, GPR_RBP, GPR_RBX};
    static const uint8_t index[4] = {GPR_RSI, GPR_RDI, GPR_RSI, GPR_RDI};
    unsigned mod = modrm >> 6, rm = modrm & 7;

    out->base = base[rm];
    if (rm < 4)
        out->index = index[rm];
    if (mod == 0 && rm == 6) {
        out->base = PARSE_NO_REG;
        mod = 2;
    }
    if (mod == 1)
        out->disp = fetch_signed(s, 1) * (int64_t)scale;
    else if (mod == 2)
        out->disp = fetch_signed(s, 2);
    default_segment(s, out, out->base == GPR_RBP);
}

/* The memory operand of a ModRM byte; s->pos is behind that. x and b: 8 or 0. `scale` multiplies
 * an 8-bit displacement. */
static always_inline void parse_memory(struct parser *s, struct bt_insn *out, unsigned modrm,
                                       unsigned x, unsigned b, unsigned scale)
{
    unsigned mod = modrm >> 6, base = modrm & 7;

    out->rm_kind = RM_MEM;
    if (unlikely(s->address_size == 2)) {
        parse_memory_16(s, out, modrm, scale);
        return;
    }
    if (base == 4) {
        unsigned sib = (unsigned)fetch(s, 1), index = (sib >> 3 & 7) | x;

        base = sib & 7;
        out->scale = (uint8_t)(1 << (sib >> 6));
        if (index != 4)
            out->index = (uint8_t)index;
    } else if (base == 5 && mod == 0) {
        out->rip = s->code_size == 8;
    }
    if (base == 5 && mod == 0) {
        base = PARSE_NO_REG;
        mod = 2;
    } else {
        base |= b;
    }
    out->base = (uint8_t)base;
    if (mod == 1)
        out->disp = fetch_signed(s, 1) * (int64_t)scale;
    else if (mod == 2)
        out->disp = fetch_signed(s, 4);
    default_segment(s, out, base == GPR_RSP || base == GPR_RBP);
}

/* AH, CH, DH, BH are 4-7 without REX. */
static always_inline bool byte_high(const struct parser *s, uint8_t *reg, unsigned size)
{
    if (size != 1 || s->rex || *reg < 4 || *reg > 7)
        return false;
    *reg -= 4;
    return true;
}

/* ---- by form: everything with vectors, x87 and so on ----------------------------------------- */

enum { MAP_1 = 0, MAP_0F = 1, MAP_0F38 = 2, MAP_0F3A = 3 };

/* Bits of a form's key, all that tells instructions apart. */
enum key_field {
    KEY_CODE = 0, /* 2 bits: log2 of the code size */
    KEY_ENCODING = 2,
    KEY_MAP = 4, /* 3 bits */
    KEY_OPCODE = 7,
    KEY_66 = 15,
    KEY_REP = 16, /* 2 bits: none, F2, F3 */
    KEY_W = 18,
    KEY_L = 19,  /* 2 bits */
    KEY_PP = 21, /* 2 bits */
    KEY_MODRM = 23,
    KEY_REG_FORM = 24, /* mod is 3 */
    KEY_Z = 25,
    KEY_B = 26,
    KEY_MASKED = 27,
    KEY_VVVV = 28, /* names a register other than 0: reserved where vvvv is not used */
    KEY_SPLIT = 29,
    KEY_MODRM_BYTE = 30, /* 8 bits, with SPLIT: reg and, in register forms, rm choose the meaning */
    KEY_TAKEN = 63,
};

static always_inline unsigned key_get(uint64_t key, enum key_field field, unsigned bits)
{
    return key >> field & ((1u << bits) - 1);
}

enum role { ROLE_NONE, ROLE_GPR, ROLE_VECTOR, ROLE_MASK, ROLE_MMX };

enum { FORM_FEATURES = 4, FORM_OPERANDS = 3 };
enum form_operand { FORM_REG, FORM_RM, FORM_VVVV };

struct form {
    uint64_t key;
    struct bt_insn insn;             /* what all of them have in common */
    uint16_t feature[FORM_FEATURES]; /* the CPU needs them */
    uint8_t features;
    uint8_t role[FORM_OPERANDS]; /* enum role */
    uint8_t disp8_scale;
    bool split;    /* ask again with the ModRM byte */
    bool known;    /* the length can be told */
    bool distinct; /* the destination may not be a source too: #UD */
    bool is4;      /* bits 7:4 of the immediate are a register */
};

/* Forms the interpreter does in C and yet the host may do as they are. */
static const struct {
    uint16_t mnemonic, feature;
    uint8_t unit, needs;
    bool may_fault;
} more_forms[] = {
    {ZYDIS_MNEMONIC_MOVBE, FEATURE_MOVBE, UNIT_INTEGER, 0, false},
    {ZYDIS_MNEMONIC_ADCX, FEATURE_ADX, UNIT_INTEGER, 0, false},
    {ZYDIS_MNEMONIC_ADOX, FEATURE_ADX, UNIT_INTEGER, 0, false},
    {ZYDIS_MNEMONIC_MOVNTI, FEATURE_SSE2, UNIT_INTEGER, 0, false},
    {ZYDIS_MNEMONIC_LDMXCSR, FEATURE_SSE, UNIT_VECTOR, NEEDS_SSE, true},
    {ZYDIS_MNEMONIC_STMXCSR, FEATURE_SSE, UNIT_VECTOR, NEEDS_SSE, true},
    {ZYDIS_MNEMONIC_VLDMXCSR, FEATURE_AVX, UNIT_VECTOR, NEEDS_AVX, true},
    {ZYDIS_MNEMONIC_VSTMXCSR, FEATURE_AVX, UNIT_VECTOR, NEEDS_AVX, true},
    {ZYDIS_MNEMONIC_FLDCW, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_FNSTCW, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_FNSTSW, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_FNINIT, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_FNCLEX, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_FWAIT, FEATURE_FPU, UNIT_X87, NEEDS_X87, true},
    {ZYDIS_MNEMONIC_EMMS, FEATURE_MMX, UNIT_X87, NEEDS_X87, true},
};

static ZydisDecoder decoders[4]; /* by KEY_CODE */

static void decoders_setup(void)
{
    ZydisDecoderInit(&decoders[1], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&decoders[2], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoders[3], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

/* An instruction of the form: registers 1, 2 and 3, memory at [RBX + 1], zeroes behind. */
static void form_example(uint64_t key, uint8_t *code)
{
    static const uint8_t rep_prefix[4] = {0, 0xf2, 0xf3, 0};
    unsigned map = key_get(key, KEY_MAP, 3), w = key_get(key, KEY_W, 1);
    unsigned vvvv = key_get(key, KEY_VVVV, 1) ? ~3u & 15 : 15, l = key_get(key, KEY_L, 2);
    unsigned pp = key_get(key, KEY_PP, 2), modrm = key_get(key, KEY_MODRM_BYTE, 8), n = 0;

    memset(code, 0, LENGTH_MAX);
    switch (key_get(key, KEY_ENCODING, 2)) {
    case ENC_EVEX:
        code[n++] = 0x62;
        code[n++] = (uint8_t)(0xf0 | map);
        code[n++] = (uint8_t)(w << 7 | vvvv << 3 | 4 | pp);
        code[n++] = (uint8_t)(key_get(key, KEY_Z, 1) << 7 | l << 5 | key_get(key, KEY_B, 1) << 4 |
                              8 | key_get(key, KEY_MASKED, 1));
        break;
    case ENC_VEX:
        code[n++] = 0xc4;
        code[n++] = (uint8_t)(0xe0 | map);
        code[n++] = (uint8_t)(w << 7 | vvvv << 3 | l << 2 | pp);
        break;
    default:
        if (key_get(key, KEY_66, 1))
            code[n++] = 0x66;
        if (key_get(key, KEY_REP, 2))
            code[n++] = rep_prefix[key_get(key, KEY_REP, 2)];
        if (w)
            code[n++] = 0x48;
        if (map)
            code[n++] = 0x0f;
        if (map > 1)
            code[n++] = map == MAP_0F38 ? 0x38 : 0x3a;
        break;
    }
    code[n++] = (uint8_t)key_get(key, KEY_OPCODE, 8);
    if (!key_get(key, KEY_MODRM, 1))
        return;
    if (!key_get(key, KEY_SPLIT, 1))
        modrm = 1 << 3 | 2;
    if (key_get(key, KEY_REG_FORM, 1)) {
        code[n++] = (uint8_t)(0xc0 | modrm);
    } else {
        code[n++] = (uint8_t)(0x40 | (modrm & 0x38) | (key_get(key, KEY_CODE, 2) == 1 ? 7 : 3));
        code[n++] = 1;
    }
}

static enum role role_of(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return ROLE_GPR;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM: return ROLE_VECTOR;
    case ZYDIS_REGCLASS_MASK: return ROLE_MASK;
    case ZYDIS_REGCLASS_MMX: return ROLE_MMX;
    default: return ROLE_NONE;
    }
}

static void form_register(struct form *f, const ZydisDecodedOperand *z)
{
    struct bt_insn *o = &f->insn;
    enum role role = role_of(z->reg.value);
    bool read = (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    bool write = (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    uint8_t size = (uint8_t)(z->size / 8), number;

    switch (z->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        f->role[FORM_REG] = (uint8_t)role;
        o->reg_gpr = role == ROLE_GPR;
        o->reg_read = read;
        o->reg_write = write;
        o->reg_size = size;
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        f->role[FORM_RM] = (uint8_t)role;
        o->rm_gpr = role == ROLE_GPR;
        o->rm_read = read;
        o->rm_write = write;
        o->rm_size = size;
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        f->role[FORM_VVVV] = (uint8_t)role;
        o->vvvv_gpr = role == ROLE_GPR;
        o->vvvv_read = read;
        o->vvvv_write = write;
        o->vvvv_size = size;
        break;
    case ZYDIS_OPERAND_ENCODING_IS4: f->is4 = true; break;
    case ZYDIS_OPERAND_ENCODING_NONE:
        if (role != ROLE_GPR)
            break;
        number = (uint8_t)ZydisRegisterGetId(
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, z->reg.value));
        if (read || size < 4)
            o->implicit_read |= (uint16_t)BIT(number);
        if (write)
            o->implicit_write |= (uint16_t)BIT(number);
        break;
    default: break;
    }
}

/* As the interpreter's back end puts it together for the host, with all that it verified. */
static void form_encoding(struct form *f, const uint8_t *code)
{
    struct bt_insn *o = &f->insn;

    for (;; code++) {
        if (*code == 0x66)
            o->p66 = true;
        else if (*code == 0xf2 || *code == 0xf3)
            o->rep = *code;
        else
            break;
    }
    if (o->encoding == ENC_LEGACY) {
        o->rex_w = (*code & 0xf0) == 0x40 ? *code >> 3 & 1 : 0;
    } else {
        o->rex_w = code[2] >> 7;
        o->vex_pp = code[2] & 3;
        o->vex_l = o->encoding == ENC_VEX ? code[2] >> 2 & 1 : code[3] >> 5 & 3;
    }
}

static bool form_of_spec(struct form *f, const struct simd_spec *spec, const uint8_t *example)
{
    static const uint8_t class_unit[] = {
        [SIMD_GPR] = UNIT_INTEGER,   [SIMD_X87] = UNIT_X87,     [SIMD_MMX] = UNIT_X87,
        [SIMD_SSE] = UNIT_VECTOR,    [SIMD_VEX] = UNIT_INTEGER, [SIMD_AVX] = UNIT_VECTOR,
        [SIMD_AVX512] = UNIT_VECTOR,
    };
    static const uint8_t class_needs[] = {
        [SIMD_X87] = NEEDS_X87, [SIMD_MMX] = NEEDS_X87,       [SIMD_SSE] = NEEDS_SSE,
        [SIMD_AVX] = NEEDS_AVX, [SIMD_AVX512] = NEEDS_AVX512,
    };
    struct bt_insn *o = &f->insn;

    o->unit = class_unit[spec->class];
    o->needs = class_needs[spec->class];
    o->may_fault = o->unit == UNIT_X87 || spec->use & SIMD_USES_MXCSR || spec->align;
    memcpy(f->feature, spec->feature, sizeof(spec->feature));
    f->features = spec->features;
    /* It clears eight registers or sixteen, by the mode it runs in. */
    if (spec->kind == SIMD_ZERO) {
        form_encoding(f, example);
        return o->code_size == 8;
    }
    if (spec->kind != SIMD_HOST)
        return false;
    /* CVTPI2PS and its like want both units. */
    if (spec->class == SIMD_SSE && spec->use & SIMD_USES_FX)
        return false;
    form_encoding(f, spec->code);
    return true;
}

static bool form_of_mnemonic(struct form *f, uint16_t mnemonic, unsigned operand_size,
                             const uint8_t *example)
{
    struct bt_insn *o = &f->insn;

    for (unsigned i = 0; i < ARRAY_SIZE(more_forms); i++) {
        if (more_forms[i].mnemonic != mnemonic)
            continue;
        o->unit = more_forms[i].unit;
        o->needs = more_forms[i].needs;
        o->may_fault = more_forms[i].may_fault;
        f->feature[0] = more_forms[i].feature;
        f->features = 1;
        form_encoding(f, example);
        if (o->encoding == ENC_LEGACY && mnemonic != ZYDIS_MNEMONIC_ADCX)
            o->p66 = mnemonic == ZYDIS_MNEMONIC_MOVBE && operand_size == 2;
        if (mnemonic != ZYDIS_MNEMONIC_ADOX)
            o->rep = 0;
        return true;
    }
    return false;
}

/* Everything about a form, from its key. */
static void form_fill(struct form *f, uint64_t key)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    bool reg_named = false, rm_named = !key_get(key, KEY_REG_FORM, 1), memory = false, ok = true;
    bool modrm = key_get(key, KEY_MODRM, 1);
    struct bt_insn *o = &f->insn;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand z[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t code[LENGTH_MAX];
    struct simd_spec spec;
    struct insn in;

    pthread_once(&once, decoders_setup);
    memset(f, 0, sizeof(*f));
    f->key = key;
    f->disp8_scale = 1;
    o->kind = KIND_FALLBACK;
    o->code_size = (uint8_t)(1 << key_get(key, KEY_CODE, 2));
    o->encoding = (uint8_t)key_get(key, KEY_ENCODING, 2);
    o->map = (uint8_t)key_get(key, KEY_MAP, 3);
    o->opcode = (uint8_t)key_get(key, KEY_OPCODE, 8);
    o->has_modrm = modrm;
    o->base = o->index = PARSE_NO_REG;
    o->scale = 1;
    form_example(key, code);
    if (insn_decode(code, sizeof(code), o->code_size, &in) != DECODE_OK ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[key_get(key, KEY_CODE, 2)], code,
                                             sizeof(code), &d, z)) ||
        ((d.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0) != modrm) {
        f->split = modrm && !key_get(key, KEY_SPLIT, 1);
        return;
    }
    for (unsigned i = 0; i < d.operand_count; i++) {
        if (z[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            reg_named |= z[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
            rm_named |= z[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
            form_register(f, &z[i]);
        } else if (z[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (memory || z[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                z[i].mem.type != ZYDIS_MEMOP_TYPE_MEM || z[i].size > 512) {
                ok = false;
                continue;
            }
            memory = true;
            o->mem_size = (uint8_t)(z[i].size / 8);
            o->rm_size = o->mem_size;
            o->rm_read = (z[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
            o->rm_write = (z[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
            f->disp8_scale = (uint8_t)z[i].mem.disp.value;
        }
    }
    if (modrm && !key_get(key, KEY_SPLIT, 1) && (!reg_named || !rm_named)) {
        f->known = f->split = true;
        return;
    }
    f->known = true;
    f->distinct = simd_is_complex_fp16(in.mnemonic);
    o->operand_size = in.operand_size;
    o->reg_is_opcode = modrm && !reg_named;
    o->imm_size = (uint8_t)(d.raw.imm[0].size / 8 + d.raw.imm[1].size / 8);
    o->has_imm = o->imm_size != 0;
    if (d.cpu_flags) {
        o->flags_read = d.cpu_flags->tested & STATUS;
        o->flags_set = (d.cpu_flags->modified | d.cpu_flags->set_0 | d.cpu_flags->set_1 |
                        d.cpu_flags->undefined) &
                       STATUS;
        o->flags_changed = o->flags_set;
    }
    if (simd_describe(&in, &d, z, &spec))
        ok = ok && form_of_spec(f, &spec, code);
    else
        ok = ok && form_of_mnemonic(f, in.mnemonic, in.operand_size, code);
    /* Comparisons clear what they do not use, which Zydis does not know of VPTEST and others. */
    if (o->unit == UNIT_VECTOR && o->flags_changed)
        o->flags_set = o->flags_changed = STATUS;
    if (ok)
        o->kind = KIND_COPY;
}

/*
 * The forms met so far. Readers take no lock: a slot is filled once and what it points to never
 * changes. When they are full (a guest at play: there are not so many forms), forms are made anew
 * each time; what is no instruction cannot fill more than a half.
 */
enum { FORM_SLOTS = 1 << 14, FORM_MAX = FORM_SLOTS / 4 * 3 };
static _Atomic(struct form *) forms[FORM_SLOTS];
static _Atomic unsigned forms_used;

static const struct form *form_find(uint64_t key, struct form *own)
{
    unsigned slot = (unsigned)(key * UINT64_C(0x9e3779b97f4a7c15) >> 50);
    struct form *f, *made = NULL;

    for (;; slot = (slot + 1) % FORM_SLOTS) {
        f = atomic_load_explicit(&forms[slot], memory_order_acquire);
        if (!f) {
            if (!made) {
                form_fill(own, key);
                if (atomic_fetch_add(&forms_used, 1) >= (own->known ? FORM_MAX : FORM_MAX / 2)) {
                    atomic_fetch_sub(&forms_used, 1);
                    return own;
                }
                made = malloc(sizeof(*made));
                if (!made) {
                    atomic_fetch_sub(&forms_used, 1);
                    return own;
                }
                *made = *own;
            }
            if (atomic_compare_exchange_strong(&forms[slot], &f, made))
                return made;
        }
        if (f->key == key)
            break;
    }
    if (made) { /* somebody else was faster */
        free(made);
        atomic_fetch_sub(&forms_used, 1);
    }
    return f;
}

/* What stands between the legacy prefixes and the opcode: REX, VEX or EVEX, the right way round. */
struct escape {
    uint8_t encoding, map, opcode;
    uint8_t w, l, pp, p2, vvvv;
    uint8_t r, x, b; /* as numbers to add: r 0-24, x and b 0 or 8 */
};

/* A field that names a register; false: there is none with this number. */
static always_inline bool form_number(enum role role, uint8_t *number)
{
    switch (role) {
    case ROLE_GPR: return *number < 16;
    case ROLE_MASK: return *number < 8;
    case ROLE_VECTOR: return true;
    default: *number &= 7; return true;
    }
}

static bool parse_form(struct parser *s, struct bt_insn *out, const struct escape *e)
{
    bool has_modrm = !(e->map == MAP_1 && e->opcode == 0x9b) &&
                     !(e->map == MAP_0F && e->opcode == 0x77);
    unsigned modrm = has_modrm ? s->p[s->pos] : 0;
    bool reg_form = has_modrm && modrm >= 0xc0;
    const struct form *f;
    struct form own;
    uint64_t key;

    if (s->lock)
        return fall_back(out, 0);
    key = BIT(KEY_TAKEN) | (uint64_t)(s->code_size == 8 ? 3 : s->code_size / 2) << KEY_CODE |
          (uint64_t)e->encoding << KEY_ENCODING | (uint64_t)e->map << KEY_MAP |
          (uint64_t)e->opcode << KEY_OPCODE | (uint64_t)s->p66 << KEY_66 |
          (uint64_t)(s->rep ? s->rep - 0xf1 : 0) << KEY_REP | (uint64_t)e->w << KEY_W |
          (uint64_t)e->l << KEY_L | (uint64_t)e->pp << KEY_PP | (uint64_t)has_modrm << KEY_MODRM |
          (uint64_t)reg_form << KEY_REG_FORM | (uint64_t)(e->p2 >> 7) << KEY_Z |
          (uint64_t)(e->p2 >> 4 & 1) << KEY_B | (uint64_t)((e->p2 & 7) != 0) << KEY_MASKED |
          (uint64_t)(e->vvvv != 0) << KEY_VVVV;
    f = form_find(key, &own);
    if (f->split)
        f = form_find(key | BIT(KEY_SPLIT) |
                          (uint64_t)(modrm & (reg_form ? 0x3f : 0x38)) << KEY_MODRM_BYTE,
                      &own);
    if (!f->known)
        return fall_back(out, 0);

    *out = f->insn;
    out->address_size = s->address_size;
    out->evex_p2 = e->p2;
    out->vvvv = e->vvvv;
    if (!form_number(f->role[FORM_VVVV], &out->vvvv))
        return fall_back(out, 0);
    if (has_modrm) {
        s->pos++;
        out->reg = (uint8_t)((modrm >> 3 & 7) | e->r);
        if (!form_number(f->role[FORM_REG], &out->reg))
            return fall_back(out, 0);
        if (out->reg_gpr)
            out->reg_high = byte_high(s, &out->reg, out->reg_size);
        if (reg_form) {
            out->rm_kind = RM_REG;
            out->rm = (uint8_t)((modrm & 7) | e->b | (e->encoding == ENC_EVEX ? e->x << 1 : 0));
            if (!form_number(f->role[FORM_RM], &out->rm))
                return fall_back(out, 0);
            if (out->rm_gpr)
                out->rm_high = byte_high(s, &out->rm, out->rm_size);
        } else {
            parse_memory(s, out, modrm, e->x, e->b, f->disp8_scale);
        }
    }
    if (out->has_imm) {
        out->imm = fetch_signed(s, out->imm_size);
        if (f->is4 && s->code_size != 8)
            out->imm &= 0x7f;
    }
    out->length = (uint8_t)s->pos;
    if (out->kind == KIND_FALLBACK || (out->rip && s->address_size == 4) ||
        (f->distinct && (out->reg == out->vvvv || (reg_form && out->reg == out->rm))))
        return fall_back(out, s->pos);
    for (unsigned i = 0; i < f->features; i++)
        if (!cpu_has(s->cpu, (enum cpu_feature)f->feature[i]))
            return fall_back(out, s->pos);
    return true;
}

static bool parse_legacy_form(struct parser *s, struct bt_insn *out, unsigned map, unsigned opcode)
{
    struct escape e = {
        .map = (uint8_t)map,
        .opcode = (uint8_t)opcode,
        .w = s->rex >> 3 & 1,
        .r = (uint8_t)((s->rex & 4) << 1),
        .x = (uint8_t)((s->rex & 2) << 2),
        .b = (uint8_t)((s->rex & 1) << 3),
    };

    if (map == MAP_0F && (opcode == 0x38 || opcode == 0x3a)) {
        e.map = opcode == 0x38 ? MAP_0F38 : MAP_0F3A;
        e.opcode = (uint8_t)fetch(s, 1);
    }
    return parse_form(s, out, &e);
}

/* s->pos is behind C4, C5 or 62. */
static bool parse_vex(struct parser *s, struct bt_insn *out, unsigned first)
{
    struct escape e = {.encoding = first == 0x62 ? ENC_EVEX : ENC_VEX, .map = MAP_0F};
    unsigned p0 = (unsigned)fetch(s, 1), p1 = p0;

    if (s->p66 || s->rep || s->rex || s->lock || !cpu_protected(s->cpu) || cpu_in_vm86(s->cpu))
        return fall_back(out, 0);
    e.r = (uint8_t)((~p0 & 0x80) >> 4);
    if (first != 0xc5) {
        e.x = (uint8_t)((~p0 & 0x40) >> 3);
        e.b = (uint8_t)((~p0 & 0x20) >> 2);
        e.map = first == 0x62 ? p0 & 7 : p0 & 31;
        p1 = (unsigned)fetch(s, 1);
        e.w = (uint8_t)(p1 >> 7);
    }
    e.vvvv = ~p1 >> 3 & 15;
    e.l = p1 >> 2 & 1;
    e.pp = p1 & 3;
    if (first == 0x62) {
        unsigned p2 = (unsigned)fetch(s, 1);

        if (p0 & 8 || !(p1 & 4))
            return fall_back(out, 0);
        e.r |= (uint8_t)(~p0 & 0x10);
        e.vvvv |= (uint8_t)((~p2 & 8) << 1);
        e.l = p2 >> 5 & 3;
        e.p2 = p2 & 0x97;
    } else if (e.map > MAP_0F3A) {
        return fall_back(out, 0);
    }
    /* Outside 64-bit mode some of these bits mean nothing and others are an error. */
    if (s->code_size != 8 && (e.r || e.x || e.b || e.vvvv > 7))
        return fall_back(out, 0);
    e.opcode = (uint8_t)fetch(s, 1);
    return parse_form(s, out, &e);
}

/* ---- by row ---------------------------------------------------------------------------------- */

static void reads_and_writes(struct bt_insn *out, unsigned reads, unsigned writes)
{
    out->implicit_read = (uint16_t)reads;
    out->implicit_write = (uint16_t)writes;
}

static void sets_flags(struct bt_insn *out, unsigned set, unsigned changed)
{
    out->flags_set = (uint16_t)set;
    out->flags_changed = (uint16_t)changed;
}

/* Short forms of the accumulator become the long ones. */
static void becomes_modrm(struct bt_insn *out, unsigned opcode, unsigned reg, bool reg_is_opcode,
                          unsigned rm)
{
    out->opcode = (uint8_t)opcode;
    out->has_modrm = true;
    out->reg = (uint8_t)reg;
    out->reg_is_opcode = reg_is_opcode;
    out->rm_kind = RM_REG;
    out->rm = (uint8_t)rm;
    out->rm_gpr = true;
    out->rm_size = out->operand_size;
}

/* Rotates touch CF and OF, shifts all; a count of 0 nothing. ModRM.reg: 0, 1 rotate, 2, 3 through
 * the carry. */
static void shift_flags(struct bt_insn *out, unsigned count, bool counted)
{
    unsigned mask = out->reg < 4 ? RFLAGS_CF | RFLAGS_OF : STATUS;
    bool through_carry = out->reg == 2 || out->reg == 3;

    count &= out->operand_size == 8 ? 63 : 31;
    if (counted && !count)
        return;
    if (through_carry)
        out->flags_read = RFLAGS_CF;
    if (through_carry && count % (8u * out->operand_size + 1) == 0)
        counted = false;
    sets_flags(out, counted ? mask : 0, mask);
}

static const enum cpu_feature NO_FEATURE = (enum cpu_feature)0xffff;

/* What does not fit into a row. False: fall back. */
static always_inline bool apply_special(struct parser *s, struct bt_insn *out,
                                        const struct row *row, unsigned special, unsigned opcode)
{
    enum { RAX = 1 << GPR_RAX, RCX = 1 << GPR_RCX, RDX = 1 << GPR_RDX, RSP = 1 << GPR_RSP };
    unsigned low = (opcode & 7) | (s->rex & 1) << 3, size = out->operand_size, string;
    enum cpu_feature need = NO_FEATURE;

    switch ((enum special)special) {
    case SP_NONE:
    case SP_ESCAPE:
    case SP_0F01:
    case SP_0FAE: break;
    case SP_ALU_ACC: becomes_modrm(out, size == 1 ? 0x80 : 0x81, opcode >> 3, true, GPR_RAX); break;
    case SP_TEST_ACC: becomes_modrm(out, size == 1 ? 0xf6 : 0xf7, 0, true, GPR_RAX); break;
    case SP_XCHG_ACC:
        if (low == 0) {
            out->kind = s->rep == 0xf3 ? KIND_PAUSE : KIND_NOP;
            out->rm_read = out->rm_write = false;
            break;
        }
        becomes_modrm(out, 0x87, GPR_RAX, false, low);
        out->reg_gpr = out->reg_read = out->reg_write = true;
        out->reg_size = out->operand_size;
        break;
    case SP_INC_REG: becomes_modrm(out, 0xff, opcode >> 3 & 1, true, opcode & 7); break;
    case SP_MOFFS: {
        static const uint8_t long_form[4] = {0x8a, 0x8b, 0x88, 0x89};

        if (s->code_size == 8) {
            s->pos += s->address_size;
            return false;
        }
        out->disp = fetch_signed(s, s->address_size);
        out->opcode = long_form[opcode & 3];
        out->has_modrm = true;
        out->rm_kind = RM_MEM;
        out->operand_size = opcode & 1 ? out->operand_size : 1;
        out->reg_gpr = true;
        out->reg_size = out->rm_size = out->mem_size = out->operand_size;
        default_segment(s, out, false);
        break;
    }
    case SP_ALIAS_80: out->opcode = 0x80; break;
    case SP_TEST_ALIAS: out->reg = 0; break;
    case SP_SHIFT_IMM: shift_flags(out, (uint8_t)out->imm, true); break;
    case SP_SHIFT_1: shift_flags(out, 1, true); break;
    case SP_SHIFT_CL:
        reads_and_writes(out, RCX, 0);
        shift_flags(out, 1, false);
        break;
    case SP_DOUBLE_IMM:
        if (out->imm & (size == 8 ? 63 : 31))
            sets_flags(out, STATUS, STATUS);
        break;
    case SP_DOUBLE_CL:
        reads_and_writes(out, RCX, 0);
        sets_flags(out, 0, STATUS);
        break;
    case SP_CMOV: need = FEATURE_CMOV; /* fall through */
    case SP_COND:
        out->cond = opcode & 15;
        out->flags_read = condition_flags[out->cond >> 1];
        break;
    case SP_MUL:
        if (size == 1)
            reads_and_writes(out, RAX, RAX);
        else
            reads_and_writes(out, size == 2 ? RAX | RDX : RAX, RAX | RDX);
        break;
    case SP_DIV:
        if (size == 1)
            reads_and_writes(out, RAX, RAX);
        else
            reads_and_writes(out, RAX | RDX, RAX | RDX);
        break;
    case SP_CBW: reads_and_writes(out, RAX, RAX); break;
    case SP_CWD: reads_and_writes(out, size == 2 ? RAX | RDX : RAX, RDX); break;
    case SP_CMPXCHG: reads_and_writes(out, RAX, RAX); break;
    case SP_LAHF:
    case SP_SAHF:
        reads_and_writes(out, RAX, special == SP_LAHF ? RAX : 0);
        if (s->code_size == 8)
            need = FEATURE_LAHF_LM;
        break;
    case SP_LEA: out->is_lea = true; break;
    case SP_MOVSXD:
        if (s->p66 && !(s->rex & 8))
            return false;
        break;
    case SP_BSWAP:
        if (size == 2)
            return false;
        break;
    case SP_SCAN: /* with F3 TZCNT, LZCNT: whole writes; without the old value survives a zero */
        if (s->rep == 0xf2)
            return false;
        if (s->rep && cpu_has(s->cpu, opcode & 1 ? FEATURE_ABM : FEATURE_BMI1)) {
            out->rep = 0xf3;
            out->reg_read = false;
        }
        break;
    case SP_POPCNT:
        if (s->rep != 0xf3)
            return false;
        out->rep = 0xf3;
        need = FEATURE_POPCNT;
        break;
    case SP_STRING:
        string = opcode & 0x0e; /* 4 MOVS, 6 CMPS, A STOS, C LODS, E SCAS */
        out->rep = s->rep;
        if (string != 0xa && string != 0xe)
            default_segment(s, out, false);
        if (string == 4 || string == 6 || string == 0xc)
            out->implicit_read |= 1 << GPR_RSI;
        if (string != 0xc)
            out->implicit_read |= 1 << GPR_RDI;
        if (s->rep)
            out->implicit_read |= RCX;
        out->implicit_write = out->implicit_read;
        /* LODS keeps some of RAX, and all of it when RCX is 0. */
        if (string == 0xa || string == 0xe || (string == 0xc && (s->rep || size < 4)))
            out->implicit_read |= RAX;
        if (string == 0xc)
            out->implicit_write |= RAX;
        if (s->rep && out->flags_set)
            out->flags_set = 0; /* RCX may be 0 */
        out->mem_size = out->operand_size;
        break;
    case SP_LOOP: reads_and_writes(out, RCX, opcode == 0xe3 ? 0 : RCX); break;
    case SP_STACK: reads_and_writes(out, RSP, RSP); break;
    case SP_LEAVE: reads_and_writes(out, RSP | 1 << GPR_RBP, RSP | 1 << GPR_RBP); break;
    case SP_IO:
        if (out->operand_size == 8)
            out->operand_size = 4;
        reads_and_writes(out, out->has_imm ? 0 : RDX, row->kind == KIND_IN ? RAX : 0);
        if (row->kind == KIND_OUT || size < 4)
            out->implicit_read |= RAX;
        break;
    case SP_RDTSC:
        reads_and_writes(out, 0, row->kind == KIND_RDTSCP ? RAX | RDX | RCX : RAX | RDX);
        need = FEATURE_TSC;
        break;
    case SP_MSR:
        if (row->kind == KIND_RDMSR)
            reads_and_writes(out, RCX, RAX | RDX);
        else
            reads_and_writes(out, RCX | RAX | RDX, 0);
        need = FEATURE_MSR;
        break;
    case SP_SYSCALL:
        if (row->kind == KIND_SYSCALL)
            reads_and_writes(out, 0, RCX | 1 << GPR_R11);
        else
            reads_and_writes(out, RCX | 1 << GPR_R11, 0);
        out->flags_changed = STATUS;
        need = FEATURE_SYSCALL;
        break;
    case SP_PAIR:
        out->mem_size = out->rm_size = out->operand_size == 8 ? 16 : 8;
        out->reg_is_opcode = true;
        reads_and_writes(out, RAX | RCX | RDX | 1 << GPR_RBX, RAX | RDX);
        need = out->mem_size == 16 ? FEATURE_CX16 : FEATURE_CX8;
        break;
    case SP_IRET: reads_and_writes(out, RSP, RSP); break;
    case SP_CR:
        if (out->reg > 4 && out->reg != 8)
            return false;
        if (out->reg == 1)
            return false;
        out->operand_size = out->rm_size = s->code_size == 8 ? 8 : 4;
        break;
    case SP_FROM_SEG:
        if (out->reg >= SEG_COUNT || s->rep)
            return false;
        break;
    case SP_CPUID: reads_and_writes(out, RAX | RCX, RAX | RCX | RDX | 1 << GPR_RBX); break;
    case SP_RDPID:
        if (s->rep != 0xf3)
            return false;
        out->operand_size = out->rm_size = s->code_size == 8 ? 8 : 4;
        need = FEATURE_RDPID;
        break;
    case SP_PREFETCH:
        if (out->rm_kind == RM_MEM && (out->reg & 7) < 4)
            need = FEATURE_SSE;
        break;
    }
    return need == NO_FEATURE || cpu_has(s->cpu, need);
}

/* 0F 01 and 0F AE: which of the few we know, by the whole ModRM byte. */
static const struct row *system_row(const struct parser *s, unsigned special)
{
    static const struct row clac = KIND(CLAC, MODRM, 0, NONE, NONE);
    static const struct row stac = KIND(STAC, MODRM, 0, NONE, NONE);
    static const struct row swapgs = KIND(SWAPGS, MODRM | ONLY64, 0, NONE, NONE);
    static const struct row invlpg = KIND(INVLPG, MODRM, 0, NONE, NONE);
    static const struct row fence = COPY(MODRM | BYTE, NONE, NONE, NONE);
    static const struct row rdbase = KIND(RDFSGSBASE, MODRM | ONLY64 | RM_W, 0, NONE, NONE);
    static const struct row wrbase = KIND(WRFSGSBASE, MODRM | ONLY64 | RM_R, 0, NONE, NONE);
    static const struct row serialize = KIND(SERIALIZE, MODRM, 0, NONE, NONE);
    static const struct row rdtscp = KIND(RDTSCP, MODRM, 0, NONE, RDTSC);
    static const struct row other = FALL(MODRM, NONE), slow = SLOW;
    unsigned modrm = s->p[s->pos], reg = modrm >> 3 & 7;

    if (special == SP_0F01) {
        if (modrm < 0xc0)
            return reg == 7 && !s->rep && !s->p66 ? &invlpg : &other;
        if (modrm == 0xf9)
            return cpu_has(s->cpu, FEATURE_RDTSCP) ? &rdtscp : &other;
        if (s->rep || s->p66)
            return &other;
        switch (modrm) {
        case 0xca: return cpu_has(s->cpu, FEATURE_SMAP) ? &clac : &other;
        case 0xcb: return cpu_has(s->cpu, FEATURE_SMAP) ? &stac : &other;
        case 0xe8: return cpu_has(s->cpu, FEATURE_SERIALIZE) ? &serialize : &other;
        case 0xf8: return &swapgs;
        default: return &other;
        }
    }
    if (modrm < 0xc0)
        return &slow;
    if (s->p66 || s->rep == 0xf2)
        return &other;
    if (s->rep)
        return reg < 4 && cpu_has(s->cpu, FEATURE_FSGSBASE) ? reg < 2 ? &rdbase : &wrbase : &other;
    if ((modrm == 0xe8 || modrm == 0xf0) && cpu_has(s->cpu, FEATURE_SSE2))
        return &fence;
    return modrm == 0xf8 && cpu_has(s->cpu, FEATURE_SSE) ? &fence : &other;
}

static always_inline void clear(const struct parser *s, struct bt_insn *out)
{
    memset(out, 0, sizeof(*out));
    out->code_size = s->code_size;
    out->address_size = s->address_size;
    out->segment = SEG_DS;
    out->base = out->index = PARSE_NO_REG;
    out->scale = 1;
}

static always_inline unsigned operand_size(const struct parser *s, unsigned form)
{
    if (form & BYTE)
        return 1;
    if (s->code_size == 8) {
        if (s->rex & 8 || form & NEAR)
            return 8;
        return s->p66 ? 2 : form & D64 ? 8 : 4;
    }
    return (s->code_size == 4) != s->p66 ? 4 : 2;
}

static always_inline void parse_immediate(struct parser *s, struct bt_insn *out, unsigned kind)
{
    unsigned size = out->operand_size, z = size == 8 ? 4 : size;

    switch ((enum imm_kind)kind) {
    case IMM_NONE: return;
    case REL_B: out->rel = fetch_signed(s, 1); return;
    case REL_Z: out->rel = fetch_signed(s, z); return;
    case IMM_B:
        out->imm_size = 1;
        out->imm = fetch_signed(s, 1);
        break;
    case IMM_UB:
        out->imm_size = 1;
        out->imm = (int64_t)fetch(s, 1);
        break;
    case IMM_W:
        out->imm_size = 2;
        out->imm = (int64_t)fetch(s, 2);
        break;
    case IMM_Z:
        out->imm_size = (uint8_t)z;
        out->imm = fetch_signed(s, z);
        break;
    case IMM_V:
        out->imm_size = (uint8_t)size;
        out->imm = fetch_signed(s, size);
        break;
    }
    out->has_imm = true;
}

/* All but what parse_form() does; s->pos is behind the opcode. */
static always_inline bool parse_row(struct parser *s, struct bt_insn *out, unsigned map,
                                    unsigned opcode, const struct row *row)
{
    unsigned form = row->form, imm = row->imm, size, modrm;

    if (row->group) {
        row = &row->group[s->p[s->pos] >> 3 & 7];
        form |= row->form;
        if (row->imm)
            imm = row->imm;
        out->reg_is_opcode = true;
    } else if (unlikely(row->special >= SP_ESCAPE)) {
        if (row->special == SP_ESCAPE) {
            if (s->code_size == 8 || s->p[s->pos] >= 0xc0)
                return parse_vex(s, out, opcode);
        } else {
            row = system_row(s, row->special);
            form = row->form;
            if (row->kind == ROW_SLOW)
                return parse_legacy_form(s, out, map, opcode);
            out->reg_is_opcode = true;
        }
    }
    if (unlikely(!(form & KNOWN)) ||
        (unlikely(form & (NO64 | ONLY64)) && ((form & NO64) != 0) == (s->code_size == 8)))
        return fall_back(out, 0);

    size = operand_size(s, form);
    out->kind = row->kind;
    out->map = (uint8_t)map;
    out->opcode = (uint8_t)opcode;
    out->operand_size = (uint8_t)size;
    out->lock = s->lock;
    out->may_fault = (form & FAULTS) != 0;
    out->flags_read = flag_effects[row->flags].read;
    out->flags_set = flag_effects[row->flags].set;
    out->flags_changed = flag_effects[row->flags].changed;
    out->rm_read = (form & RM_R) != 0;
    out->rm_write = (form & RM_W) != 0;
    out->reg_read = (form & REG_R) != 0;
    out->reg_write = (form & REG_W) != 0;
    out->rm_size = (uint8_t)(!(form & (RM8 | RM16 | RM32)) ? size
                             : form & RM8                  ? 1
                             : form & RM16                 ? 2
                                                           : 4);
    if (form & MODRM) {
        modrm = (unsigned)fetch(s, 1);
        if (unlikely(row->special == SP_CR))
            modrm |= 0xc0; /* mod is not looked at */
        out->has_modrm = true;
        out->reg = (uint8_t)((modrm >> 3 & 7) | (out->reg_is_opcode ? 0 : (s->rex & 4) << 1));
        if (form & (REG_R | REG_W)) {
            out->reg_gpr = true;
            out->reg_size = (uint8_t)size;
            out->reg_high = byte_high(s, &out->reg, size);
        }
        if (modrm >= 0xc0) {
            out->rm_kind = RM_REG;
            out->rm = (modrm & 7) | (s->rex & 1) << 3;
            if (form & (RM_R | RM_W)) {
                out->rm_gpr = true;
                out->rm_high = byte_high(s, &out->rm, out->rm_size);
            }
        } else {
            parse_memory(s, out, modrm, (s->rex & 2) << 2, (s->rex & 1) << 3, 1);
            if (form & (RM_R | RM_W))
                out->mem_size = out->rm_size;
        }
    } else if (form & OPREG) {
        out->opcode &= 0xf8;
        out->opcode_reg = true;
        out->rm_kind = RM_REG;
        out->rm = (opcode & 7) | (s->rex & 1) << 3;
        out->rm_gpr = true;
        out->rm_high = byte_high(s, &out->rm, size);
    }
    parse_immediate(s, out, imm);
    if (out->kind == KIND_FALLBACK)
        return fall_back(out, s->pos);
    if (row->special && !apply_special(s, out, row, row->special, opcode))
        return fall_back(out, s->pos);
    out->length = (uint8_t)s->pos;
    out->p66 = out->operand_size == 2;
    out->rex_w = out->operand_size == 8;
    if (unlikely(form & (ONLY_MEM | ONLY_REG)) &&
        out->rm_kind != (form & ONLY_MEM ? RM_MEM : RM_REG)) {
        if (out->kind != KIND_COPY || map != MAP_0F || (opcode & 0xe7) != 0xa3 || s->rep)
            return fall_back(out, s->pos);
        out->kind = KIND_BT_MEM;
    }
    if (unlikely(s->lock) && !(form & LOCKABLE && out->rm_kind == RM_MEM && out->rm_write))
        return fall_back(out, s->pos);
    if (unlikely(form & NEAR) && s->p66 && s->code_size == 8 && !(s->rex & 8))
        return fall_back(out, s->pos);
    if (unlikely(out->rip && s->address_size == 4))
        return fall_back(out, s->pos);
    return true;
}

enum parse_result { PARSE_FALSE, PARSE_TRUE, PARSE_AGAIN };

/* `direct`: `bytes` ends where instructions must, so no more than so many prefixes. */
static always_inline enum parse_result parse(const struct cpu *cpu, const uint8_t *bytes,
                                             unsigned available, unsigned code_size, bool direct,
                                             struct bt_insn *out)
{
    struct parser s = {
        .cpu = cpu, .p = bytes, .code_size = (uint8_t)code_size, .segment = SEG_NONE};
    unsigned opcode, class, map = MAP_1;
    const struct row *row;
    bool result;

    for (;; s.pos++) {
        opcode = bytes[s.pos];
        class = prefix_class[opcode];
        if (class == NOT_PREFIX || (class == REX && code_size != 8))
            break;
        if (direct && s.pos == PREFIXES_DIRECT)
            return PARSE_AGAIN;
        if (s.pos + 1 >= available)
            return PARSE_FALSE;
        if (class == REX) {
            s.rex = (uint8_t)opcode;
            continue;
        }
        s.rex = 0;
        switch ((enum prefix_class) class) {
        case PREFIX_66: s.p66 = true; break;
        case PREFIX_67: s.p67 = true; break;
        case PREFIX_F0: s.lock = true; break;
        case PREFIX_FX: s.rep = (uint8_t)opcode; break; /* the last one counts */
        default:
            if (opcode >= 0x64)
                s.segment = opcode == 0x64 ? SEG_FS : SEG_GS;
            else if (code_size != 8)
                s.segment = opcode >> 3 & 3;
            break;
        }
    }
    s.pos++;
    if (code_size == 8)
        s.address_size = s.p67 ? 4 : 8;
    else
        s.address_size = (code_size == 4) != s.p67 ? 4 : 2;
    row = &one_byte[opcode];
    if (opcode == 0x0f) {
        opcode = bytes[s.pos++];
        map = MAP_0F;
        row = &two_byte[opcode];
    }
    clear(&s, out);
    if (row->kind == ROW_SLOW)
        result = parse_legacy_form(&s, out, map, opcode);
    else
        result = parse_row(&s, out, map, opcode, row);
    return result && s.pos <= available ? PARSE_TRUE : PARSE_FALSE;
}

/* Few bytes, or many prefixes. */
static __attribute__((noinline)) bool parse_padded(const struct cpu *cpu, const uint8_t *bytes,
                                                   unsigned available, unsigned code_size,
                                                   struct bt_insn *out)
{
    uint8_t padded[2 * LENGTH_MAX + 2] = {0};

    memcpy(padded, bytes, available);
    return parse(cpu, padded, available, code_size, false, out) == PARSE_TRUE;
}

bool parse_insn(const struct cpu *cpu, const uint8_t *bytes, unsigned available, unsigned code_size,
                struct bt_insn *out)
{
    if (likely(available >= LENGTH_MAX)) {
        enum parse_result r = parse(cpu, bytes, LENGTH_MAX, code_size, true, out);

        if (likely(r != PARSE_AGAIN))
            return r == PARSE_TRUE;
        available = LENGTH_MAX;
    }
    return parse_padded(cpu, bytes, available, code_size, out);
}
