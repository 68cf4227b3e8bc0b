/*
 * maker.h - what generate.c and shape.c share: instructions are made one at a time at the end of
 * a case, with regard to those before.
 */
#ifndef TESTS_CPU_MAKER_H
#define TESTS_CPU_MAKER_H

#include "oracle.h"

enum encoding { LEGACY, VEX, EVEX };
enum class {
    CLASS_INTEGER,
    CLASS_SYSTEM,
    CLASS_X87,
    CLASS_SSE,
    CLASS_VEX,
    CLASS_EVEX,
    CLASS_MASK,
    CLASSES,
};
struct template
{
    uint8_t encoding, map, opcode, pp, w, l, modrm; /* modrm: reg; mod 3 or 0; rm if fixed_rm */
    bool has_modrm, fixed_rm;
    uint16_t mnemonic;
};

struct mnemonic_list {
    uint16_t mnemonic;
    bool foreign;          /* the host has it not: always #UD */
    uint32_t first, count; /* in templates */
};

struct generator {
    unsigned mode;
    uint64_t seed;
    ZydisDecoder decoder;
    struct template *templates;
    uint32_t count, capacity;
    struct mnemonic_list *list[CLASSES];
    unsigned listed[CLASSES];
    bool has[ZYDIS_MNEMONIC_MAX_VALUE + 1], unsuited[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    bool filtered;
    enum shape shape;
    const struct mnemonic_list *only;                                      /* while probing */
    const struct mnemonic_list *by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* of CLASS_INTEGER */
};

struct maker {
    struct generator *g;
    struct rng *r;
    struct test_case *c;
    uint32_t written; /* GPRs that something in the sequence changes */
    uint32_t pinned;  /* GPRs whose initial value somebody relies on */
    uint64_t undefined;
    bool ended; /* the last one should be the last */

    /* The rest is for cases with a shape, where instructions run more than once or not at all. */
    bool shaped;
    bool keep_stack;        /* no pushes and pops now */
    uint32_t reserved;      /* GPRs that only the shape itself changes */
    bool memory, lock;      /* the next one: must have a memory operand, LOCK */
    enum fault_kind bad;    /* the next one: where its memory operand leads */
    const uint16_t *wanted; /* the next one: one of these mnemonics, 0 at the end; or NULL */
};

/* Where the displacement of a branch stands in the code. */
struct branch {
    uint16_t at, insn, selector_at;
    uint8_t size;
    bool far, call;
};

enum { NOT_GPR = 0xff };

void random_state(struct rng *r, unsigned mode, struct cpu_image *s);
uint64_t arena_address(struct rng *r, unsigned mode);
unsigned gpr_number(ZydisRegister reg);
uint64_t segment_base(const struct maker *m, ZydisRegister reg);
/* Note what the instruction writes and leaves undefined; false: it would use what is undefined. */
bool flags_pass(struct maker *m, const ZydisDecodedInstruction *in);
void note_writes(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op);
/* One instruction at the end of what is there. False: try again. */
bool make_one(struct maker *m, bool last, struct branch *branch);

/* May it be part of a case with branches and loops, which it must not spoil? */
bool suits_shape(struct maker *m, const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op);

/* ---- shape.c ----------------------------------------------------------------------------- */

/* A linear address that faults in this way for an access of `size` bytes. */
uint64_t bad_address(struct maker *m, enum fault_kind kind, unsigned size);
bool is_bad(enum fault_kind kind, uint64_t address, unsigned size, bool write);
/* A whole case; false: it came out wrong, make another. */
bool shape_make(struct maker *m, enum shape shape);

#endif
