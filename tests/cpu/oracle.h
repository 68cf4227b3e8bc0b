/*
 * oracle.h - the random-instruction tester: the host CPU says what is right.
 *
 * A test case is a processor state, some memory and up to 64 instructions. generate.c makes cases
 * from numbers, straight ones itself and those with branches and loops through shape.c; native.c
 * runs them in a sandboxed child on the host CPU, guest.c in an engine, defined.c knows what the
 * manuals leave undefined, judge.c compares, and shrinks what differs.
 *
 * Both sides see the same linear addresses: the arena, 16 pages below 4 GiB, of which some are
 * data, read-only, stack, code, code that may be written, and nothing; and two data pages far
 * above 4 GiB. Every run ends in an exception: behind the instructions stands INT3.
 *
 * A case depends only on the seed, its number and the options, never on what ran before it.
 */
#ifndef TESTS_CPU_ORACLE_H
#define TESTS_CPU_ORACLE_H

#include "base/error.h"
#include "base/util.h"
#include "x86/cpu.h"

#include <Zydis/Zydis.h>
#include <stdio.h>

enum { PAGE = 4096, LINE = 64 };

/* The arena, in pages from ARENA. What is not named is not mapped. */
#define ARENA      UINT64_C(0x20000000)
#define ARENA_HIGH UINT64_C(0x234560000000)
enum {
    ARENA_PAGES = 16,
    ARENA_DATA = 1,
    ARENA_DATA_PAGES = 2,
    ARENA_RO = 3, /* follows the data: a crossing store fails in its second half */
    ARENA_STACK = 4,
    ARENA_STACK_PAGES = 2,
    ARENA_CODE = 7,
    ARENA_CODE_PAGES = 2,
    ARENA_OPEN = 10, /* code that may be written: where cases run that modify themselves */
    HIGH_PAGES = 2,
};
#define CODE_BASE (ARENA + (uint64_t)ARENA_CODE * PAGE)
#define OPEN_BASE (ARENA + (uint64_t)ARENA_OPEN * PAGE)

/* The memory image: data, read-only, stack (contiguous in the arena), the high pages, then the
 * code that may be written: INT3 but for the case itself. */
enum {
    IMAGE_LOW_PAGES = ARENA_DATA_PAGES + 1 + ARENA_STACK_PAGES,
    IMAGE_OPEN = (IMAGE_LOW_PAGES + HIGH_PAGES) * PAGE,
    IMAGE_PAGES = IMAGE_LOW_PAGES + HIGH_PAGES + ARENA_CODE_PAGES,
    IMAGE_SIZE = IMAGE_PAGES * PAGE,
    IMAGE_LINES = IMAGE_SIZE / LINE,
};

/* Selectors both sides have. The first three are Linux's, the rest are in the LDT (oracle_ldt). */
enum {
    SEL_CODE32 = 0x23,
    SEL_DATA = 0x2b,
    SEL_CODE64 = 0x33,
    SEL_DATA32_ARENA = 0x07,
    SEL_DATA16_ARENA = 0x0f,
    SEL_CODE16_ARENA = 0x17,
    SEL_CODE32_FLAT = 0x1f,
    SEL_DATA32_RO = 0x27,
    SEL_DATA32_DOWN = 0x2f,
    SEL_DATA32_FLAT = 0x37,
    SEL_ABSENT = 0x3f,
    SEL_CODE32_XO = 0x47,
    SEL_DATA16_SMALL = 0x4f,
};
/* As modify_ldt() wants them; `read_exec_only` and so on are Linux's names. */
struct ldt_entry {
    uint32_t base, limit;
    uint8_t is_32, contents, read_exec_only, in_pages, absent, avl;
};
enum { ORACLE_LDT_SIZE = 10 };
extern const struct ldt_entry oracle_ldt[ORACLE_LDT_SIZE];

/* What goes in and comes out. FIP, FDP and FOP are left out: they are kept differently by vendor
 * and by whoever saved them last. */
struct cpu_image {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, rflags;
    uint64_t fs_base, gs_base; /* used in 64-bit mode */
    uint16_t sel[SEG_COUNT];
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged */
    uint32_t mxcsr;
    uint8_t st[8][16];
    uint8_t zmm[32][64] __attribute__((aligned(64)));
    uint64_t k[8];
};

enum { MAX_INSNS = 64, MAX_CODE = MAX_INSNS * 15 + 15, MAX_FIXES = 64 };

/* A place that holds the address of one of the instructions, so that they can be moved. */
enum fix_kind {
    FIX_RELATIVE, /* from the end of the instruction it is in */
    FIX_ABSOLUTE, /* as an offset in the code segment */
    FIX_GPR,      /* the same, in the register `at` at the start */
};
struct fix {
    uint8_t kind, size, insn, target;
    uint8_t plus; /* bytes into the target */
    uint16_t at;  /* in the code */
};

/* What a case was made to run into, at the instruction `fault_insn`. */
enum fault_kind {
    FAULT_NONE,
    FAULT_ABSENT,
    FAULT_READ_ONLY,
    FAULT_CROSSING,
    FAULT_NON_CANONICAL,
    FAULT_LIMIT,
    FAULT_STACK, /* the stack ends */
    FAULT_WALK,  /* a pointer that a loop moves leaves what is mapped */
    FAULT_KINDS,
};

enum shape { SHAPE_STRAIGHT, SHAPE_BRANCH, SHAPE_LOOP, SHAPE_SELF_MODIFYING, SHAPES, SHAPE_MIXED };

struct test_case {
    uint64_t number;
    unsigned mode; /* 64, 32 or 16: the code segment's size */
    struct cpu_image in;
    uint64_t memory_seed; /* 0: all zero */
    unsigned insns, length, fixes;
    uint16_t code_offset; /* from the first of the code pages */
    bool open;            /* which are those that may be written */
    uint8_t shape, fault, fault_insn;
    uint16_t start[MAX_INSNS + 1];
    uint8_t code[MAX_CODE];
    struct fix fix[MAX_FIXES];
};

static inline uint64_t code_base(const struct test_case *c)
{
    return c->open ? OPEN_BASE : CODE_BASE;
}

enum outcome_status {
    RAN,
    LEFT,   /* the code made a system call: the sandbox stopped it */
    HUNG,   /* did not end */
    DIED,   /* took the child with it */
    BROKEN, /* the state could not even be loaded */
};

struct dirty_line {
    uint16_t index; /* in the memory image */
    uint8_t bytes[LINE];
};

struct outcome {
    struct cpu_image out;
    uint8_t status; /* enum outcome_status */
    uint8_t vector;
    uint64_t error, cr2; /* where the vector has them, else 0 */
    unsigned lines;      /* dirty ones: those that differ from the image */
    struct dirty_line line[IMAGE_LINES];
};

/* ---- random numbers ---------------------------------------------------------------------- */

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline unsigned rng_below(struct rng *r, unsigned n)
{
    return (unsigned)((rng_next(r) >> 32) * n >> 32);
}

static inline bool rng_percent(struct rng *r, unsigned percent)
{
    return rng_below(r, 100) < percent;
}

/* ---- generate.c -------------------------------------------------------------------------- */

struct generator;
struct generator_options {
    uint64_t seed;
    const char *filter; /* a mnemonic in lower case, or NULL: all */
    enum shape shape;
};

/* NULL: no instruction passes the filter in this mode. */
struct generator *generator_new(unsigned mode, const struct generator_options *o);
/* Find out what this host has not, so that it is made less often; the native side must run. */
int generator_probe(struct generator *g, struct error *err);
void generator_free(struct generator *g);
void generator_make(struct generator *g, uint64_t number, struct test_case *out);
/* Which mnemonics the generator has templates for: array of ZYDIS_MNEMONIC_MAX_VALUE + 1. */
const bool *generator_mnemonics(const struct generator *g);

/* Never run natively: not the same twice, or it leaves the sandbox, or a hypervisor below answers
 * differently from the CPU. */
bool mnemonic_excluded(ZydisMnemonic m);
/* Write the addresses of instructions to where they are kept. */
void case_fix(struct test_case *c);
void memory_image_fill(uint64_t seed, uint8_t image[IMAGE_SIZE]);
void decoder_init(ZydisDecoder *d, unsigned mode);
bool selector_is_16(uint16_t selector); /* one of oracle_ldt's with D/B clear */
/* The linear address of a byte of the image, and back (-1: not in it). */
uint64_t image_address(unsigned offset);
int image_offset(uint64_t address);

/* ---- native.c ---------------------------------------------------------------------------- */

enum { BATCH = 128 };

/* 0; or -errno with the reason why this host cannot (ENOTSUP and the like: skip). */
int native_start(struct error *err);
void native_stop(void);
/* The cases to run are written here; results appear beside them. */
struct test_case *native_cases(void);
struct outcome *native_outcomes(void);
int native_run(unsigned count, struct error *err);
bool native_has_ldt(void); /* 16-bit segments and LDT selectors work */
uint64_t native_xcr0(void);
unsigned native_cpu(void); /* Linux puts it into a descriptor that LSL can read */

/* ---- defined.c --------------------------------------------------------------------------- */

enum { IGNORED_RANGES = 8 };

struct ignored_range {
    uint64_t start;
    unsigned size;
};

/* What the manuals leave open at a point of one run. */
struct defined {
    uint64_t flags;      /* RFLAGS bits that are undefined now */
    const char *give_up; /* the outcome depends on something undefined: do not compare */
    unsigned ranges;
    struct ignored_range range[IGNORED_RANGES]; /* memory whose content is not defined */

    /* If the instruction under way faults. */
    uint64_t fault_flags;             /* undefined then */
    struct ignored_range fault_range; /* so is this memory */
    bool any_address;                 /* it has several accesses: any may come first */
    bool any_fault;                   /* and they may fault in different ways */
    const char *fault_give_up;        /* registers may have been loaded by then */
};
/* Before `in` runs in the state `cpu`. */
void defined_step(struct defined *d, const struct cpu *cpu, const ZydisDecodedInstruction *in,
                  const ZydisDecodedOperand *op);

void defined_ignore(struct defined *d, struct ignored_range r);

/* ---- guest.c ----------------------------------------------------------------------------- */

/* What happened to each mnemonic, over all runs. */
struct coverage {
    uint64_t executed[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* started */
    uint64_t retired[ZYDIS_MNEMONIC_MAX_VALUE + 1];  /* ended without a fault */
};

/* Damages an engine's results on purpose, for the self-test. */
struct sabotage {
    uint16_t mnemonic;
    enum { SABOTAGE_GPR, SABOTAGE_FLAG, SABOTAGE_MEMORY, SABOTAGE_VECTOR, SABOTAGE_ZMM } what;
    uint64_t flag;
};

/* An engine under test: `run` goes on until the CPU halts, or about `limit` instructions long. */
struct guest_engine {
    const char *name;
    void (*attach)(struct cpu *cpu);
    void (*detach)(struct cpu *cpu);
    void (*run)(struct cpu *cpu, uint64_t limit);
};
extern const struct guest_engine guest_engines[]; /* ends with a NULL name */

/* What the pilot, the interpreter going step by step, saw of a run. */
struct seen {
    struct defined defined;
    uint64_t steps;
    unsigned fault_passes; /* how often the instruction `fault_insn` had ended well */
};

struct guest;
struct guest *guest_new(const struct guest_engine *e, struct error *err);
struct guest *guest_again(const struct guest *g); /* another one of the kind, or NULL */
void guest_free(struct guest *g);
/* First in the pilot, for what there is to know, then in the engine. */
void guest_run(struct guest *g, const struct test_case *c, struct outcome *out, struct seen *seen,
               struct coverage *coverage);
/* Does the case come to an end, as far as the pilot can tell? */
bool guest_ends(struct guest *g, const struct test_case *c);
void guest_sabotage(struct guest *g, const struct sabotage *s); /* NULL: none */

/* ---- judge.c ----------------------------------------------------------------------------- */

/* Do they agree in all that is defined? `report` (may be NULL) gets a line per difference. */
bool outcomes_agree(const struct test_case *c, const struct outcome *want,
                    const struct outcome *got, const struct defined *d, FILE *report);
void case_print(const struct test_case *c, FILE *to);
/* Does it take the process with it? Tried in another. */
bool case_crashes(struct guest *g, const struct test_case *c);
/* Make a failing case as small as it gets while it still fails, or crashes. */
int case_shrink(struct guest *g, struct test_case *c, bool crash, struct error *err);
/* Run one case on both sides and compare. 1: agree or not comparable, 0: differ, -errno. */
int case_check(struct guest *g, const struct test_case *c, FILE *report, struct error *err);

/* ---- selftest.c -------------------------------------------------------------------------- */

/* 0: all damage was noticed, 1: not, or -errno. */
int self_test(struct guest *g, struct error *err);

#endif
