/*
 * internal.h - what the parts of the translator share.
 *
 * Host registers while translated code runs:
 *   RAX, RCX   scratch
 *   RSP        stack of paired calls: two words a frame, the guest's return address over the host's
 *   GS base    the area of the present address space and mode (struct tlb_table): struct cpu, the
 *              context below, then the TLB
 *   others     guest registers, by host_of[]; the guest's R10, R11 and R15 are in struct cpu
 * Status flags are in EFLAGS or in context.flags; the rest of RFLAGS is in struct cpu. Vector
 * registers are the guest's when context.vec_live, x87 when context.x87_live; else they are in
 * struct cpu.
 */
#ifndef TRANSLATOR_INTERNAL_H
#define TRANSLATOR_INTERNAL_H

#include "memory/ram.h"
#include "translator/emit.h"
#include "translator/parse.h"
#include "translator/translator.h"
#include "x86/mmu.h"

#include <time.h>

enum { CONTEXT_SLOTS = 16 };

/* In the GS area behind struct cpu; also mapped for C at bt_cpu.context. */
struct bt_context {
    /* RIP of the first byte of the page of code under way: RIP is this plus an offset below 4096.
     */
    uint64_t page_rip;
    uint64_t target;       /* where an indirect branch goes */
    _Atomic uint32_t poll; /* 0: leave at the next poll */
    union {
        uint32_t flags; /* AX after LAHF and SETO AL */
        struct {
            uint8_t flags_low, flags_high;
        };
    };
    uint64_t cpu;           /* struct cpu as C knows it */
    uint64_t host_sp, c_sp; /* RSP of the other side */
    uint64_t a, c;          /* RAX and RCX where the code left */
    uint32_t site;          /* where it left */
    uint8_t vec_live, x87_live;
    uint8_t vec_resume;           /* load vectors when coming back */
    uint64_t slot[CONTEXT_SLOTS]; /* addends of checked ranges */
    uint64_t spill;               /* a borrowed register */
    uint8_t done;                 /* bt_fast() executed the instruction, but cannot go on */
    uint8_t mode[2];              /* mmu_mode with EFLAGS.AC clear and set, where CPL is 0 */
    uint64_t area[2];             /* and the GS area; 0: not known to be fit */
    uint32_t indirect_site;       /* of the last indirect branch */
    uint32_t fault_offset;        /* of an instruction that faulted in the host */
    uint64_t value;               /* of an operand, while another one is looked up */
    /* Outside of flat modes: the last offset that may be read or written plainly, -1 where none. */
    int64_t limit[2][SEG_COUNT];
    uint32_t host_mxcsr;
};

enum { CONTEXT_AT = 2 * 4096, AREA_HEAD_USED = 3 * 4096 };
_Static_assert(sizeof(struct cpu) <= CONTEXT_AT, "two pages of struct cpu");
_Static_assert(sizeof(struct bt_context) <= 4096, "one page of context");
_Static_assert((int)AREA_HEAD_USED < (int)TLB_HEAD, "head");

#define CPU(field)  mem_gs(offsetof(struct cpu, field))
#define CTX(field)  mem_gs(CONTEXT_AT + offsetof(struct bt_context, field))
#define GPR_MEM(r)  mem_gs(offsetof(struct cpu, gpr) + 8 * (size_t)(r))
#define SLOT_MEM(n) mem_gs(CONTEXT_AT + offsetof(struct bt_context, slot) + 8 * (size_t)(n))

/* NO_REG: in memory. */
extern const uint8_t host_of[GPR_COUNT];

/* What a translation depends on besides the bytes. */
enum block_key {
    KEY_SIZE16 = 1 << 0, /* code size; none of these: 64-bit */
    KEY_SIZE32 = 1 << 1,
    KEY_USER = 1 << 2,
    KEY_FLAT_CODE = 1 << 3, /* CS base 0, limit 4 GiB or 64-bit mode: RIP is linear */
    KEY_FLAT_DATA = 1 << 4, /* DS, ES, SS alike, readable and writable; 64-bit mode */
    KEY_STACK32 = 1 << 5,   /* SS.B; outside 64-bit mode */
    KEY_REAL = 1 << 6,      /* real or virtual-8086 mode */
    KEY_X87 = 1 << 7,       /* may be used: CR0.EM and TS clear */
    KEY_SSE = 1 << 8,
    KEY_AVX = 1 << 9,
    KEY_AVX512 = 1 << 10,
    KEY_SINGLE =
        1 << 11, /* no check covers more than one access: for code whose wider checks fail */
    KEY_CPL0 = 1 << 12,
};

enum site_kind {
    SITE_CHECK,    /* a memory check failed */
    SITE_INTERP,   /* the interpreter executes one instruction */
    SITE_LINK,     /* a direct branch not linked yet: sites[].link */
    SITE_INDIRECT, /* context.target */
    SITE_POLL,     /* context.poll was 0; RIP is page_rip + offset */
    SITE_FAST,     /* bt_fast() executes one instruction: enum fast_op */
    SITE_EXIT,     /* end of translation at `offset`, without a link */
    SITE_FAULT,    /* a host fault: context.fault_offset */
    SITE_HELP,     /* help() executes one instruction: enum help_op */
};

/* sites[].helper of SITE_FAST; fast.c */
enum fast_op { FAST_STRING, FAST_SYSCALL, FAST_SYSRET, FAST_IRET, FAST_OPS };

/* sites[].helper of SITE_HELP; help.c. What each finds in its site is said there. */
enum help_op {
    HELP_IN,
    HELP_OUT,
    HELP_RDMSR,
    HELP_WRMSR,
    HELP_CPUID,
    HELP_FROM_CR8,
    HELP_TO_CR,
    HELP_TO_CR3,
    HELP_INVLPG,
    HELP_PAUSE,
    HELP_OPS,
};

/* Sites that no block owns. */
enum { SITE_OF_INDIRECT, SITE_OF_FAULT, SITES_FIXED };

/* A place where translated code may leave. */
struct site {
    uint32_t block;
    int32_t offset;  /* of the instruction in the page; LINK: of the target, may lie in another */
    uint32_t retry;  /* CHECK: where the check starts, as an offset in the cache */
    uint32_t resume; /* behind the instruction; 0: cannot resume there */
    uint32_t link;
    uint8_t kind, access, length, helper;
    /* CHECK and INTERP with `resume`: what the instruction does to general registers, which code
     * behind it relies on. The interpreter may have found other bytes there, if another vCPU writes
     * code. */
    bool known;      /* false: nothing is relied on */
    uint16_t writes; /* bit n: GPR n may change, whatever to */
    int8_t stack;    /* RSP moves by this, if it is not one of those */
    /* CHECK of one write alone: its address, and where it goes on with the addend in RAX. HELP:
     * operands. */
    uint32_t pass;
    int32_t disp;
    uint8_t base, index, scale, segment, address_size, size;
};

enum { BASE_RIP = 16, BASE_NONE = 17 }; /* site.base, group.base beside the GPRs */

/* A host instruction that may fault by itself. */
struct fault_point {
    uint32_t host;      /* offset in the cache, of its first byte */
    uint16_t offset;    /* guest instruction, in the page */
    uint8_t flags_live; /* flags are in EFLAGS there, else in context.flags */
    uint8_t borrowed;   /* host register whose guest value is in context.spill, or NO_REG */
};

struct link {
    uint32_t from, to;      /* blocks; to 0: not linked */
    uint32_t patch;         /* offset of the rel32 in the cache */
    uint32_t stub;          /* where it goes when not linked */
    uint32_t page_check;    /* offset of the imm32 with the page's name, or 0: the same page */
    int32_t offset;         /* target relative to the page of `from` */
    uint32_t next_incoming; /* of the target */
    bool saved;             /* flags are in context.flags, not in EFLAGS */
};

struct block {
    uint32_t page;  /* index into pages */
    uint32_t page2; /* where its only instruction ends, or 0 */
    uint32_t next_in_page2;
    uint16_t offset, length; /* guest bytes it was made from */
    uint32_t key;
    uint32_t start, entry_saved, end; /* in the cache; start is the entry with flags in EFLAGS */
    uint32_t next;                    /* in the hash chain */
    uint32_t next_in_page;
    uint32_t incoming; /* links */
    uint32_t first_fault, faults;
    uint16_t instructions;
    _Atomic bool valid;
    uint8_t failures;          /* of wide checks */
    uint32_t failing_since;    /* in 1024 ticks of the TSC */
    _Atomic uint64_t jump_rip; /* RIP ^ BIT(63) it went into jump tables with; 0: never */
};
#define JUMP_RIP_MANY UINT64_MAX

enum { MANY_FAILURES = 64, FAILURES_TIME = 500 }; /* of a block's wide checks */

enum { GRANULE_BITS = 4, GRANULE_WORDS = (4096 >> GRANULE_BITS) / 64 };

struct code_page {
    struct ram_block *ram;
    uint64_t offset;
    _Atomic uint64_t granules[GRANULE_WORDS]; /* bit: some block was made from it */
    uint32_t blocks;
    uint32_t crossers;              /* blocks of the page before whose instruction ends here */
    uint32_t heat;                  /* how often blocks were invalidated lately */
    uint64_t heated;                /* and when: TSC */
    uint64_t before[GRANULE_WORDS]; /* the granules when the page was closed; if known: */
    bool before_known;
    uint64_t closed_until;   /* TSC: kept closed for whoever is to make a block; 0: not so */
    _Atomic uint32_t beside; /* stores that passed beside its code since the page was watched */
    uint32_t patience;       /* how many of them it stands */
    uint32_t drops;          /* how often it was tired of them */
};

enum {
    BLOCK_HASH_BITS = 18,
    MAX_BLOCKS = 1 << 20,
    MAX_PAGES = 1 << 18,
    MAX_SITES = 1 << 23,
    MAX_LINKS = 1 << 22,
    MAX_FAULTS = 1 << 22,
    MAX_CPUS = 256,
    MAX_REGIONS = 8,
    MAX_RAM = 64, /* blocks of it that code may be translated from */
};

struct bt_stats {
    uint64_t translated_blocks, translated_instructions, guest_bytes, host_bytes, translate_ns;
    uint64_t flushes, recycled, invalidated, links;
    uint64_t longest_ns; /* that everybody stood for it */
};

/* How far something reaches in the cache and in each array that belongs to code. */
struct region {
    uint32_t used, blocks, sites, links, faults;
};

struct bt_stubs {
    void (*enter)(struct cpu *cpu, const void *code);
    const uint8_t *leave_hw, *leave_saved; /* context.site is set */
    const uint8_t *leave_fast;             /* the same for SITE_FAST, with all registers saved */
    const uint8_t *leave_slow;             /* for SITE_HELP, flags saved: past bt_fast() */
    const uint8_t *indirect_miss;          /* RCX: target, which has no jump entry; flags saved */
    const uint8_t *indirect;               /* RCX: target; flags saved */
    const uint8_t *ret_miss;               /* RCX: target; flags saved */
    const uint8_t *ensure_vec, *ensure_x87;
    const uint8_t *no_return; /* the host's return address of frames that nobody pushed */
    const uint8_t *pass;      /* with RAX = context.a to context.c */
};

struct translator {
    pthread_mutex_t lock; /* everything below but where said */
    struct translator_options options;
    uint8_t *rw, *rx; /* the two mappings of the cache */
    struct huge_area *huge;
    int fd;
    uint32_t size, used, first; /* first: behind the stubs */
    struct bt_stubs stub;
    uint32_t *hash; /* read without the lock */
    struct block *blocks;
    struct code_page *pages;
    struct site *sites;
    struct link *links;
    struct fault_point *faults;
    struct ram_block *ram[MAX_RAM]; /* that have names; read without the lock */
    _Atomic unsigned ram_count;
    unsigned regions, region; /* parts of the cache that are recycled one by one; the current one */
    struct region region_end[MAX_REGIONS]; /* how far those that are not current are filled */
    struct region limit;                   /* of the current one */
    uint32_t block_count, page_count, site_count, link_count, fault_count;
    struct bt_cpu *cpus[MAX_CPUS];
    unsigned cpu_count;
    _Atomic bool stop; /* everybody out: the cache is emptied */
    struct bt_stats stats;
    void *log;
    void *perf_map;
    uint64_t features;                      /* of the host, enum host_feature */
    pthread_mutex_t check_lock, check_next; /* check_turn() */
};

enum host_feature { HOST_AVX = 1, HOST_AVX512 = 2, HOST_FSGSBASE = 4 };

enum { FALLBACKS = 2048, WARM_SIZE = 1 << 16, DEVICE_PAGES = 8, DEVICE_TIMES = 256 };

enum bt_counter {
    COUNT_ENTER,
    COUNT_FILL,
    COUNT_BESIDE_CODE,
    COUNT_CHECK_SLOW,
    COUNT_CHECK_WIDE,
    COUNT_INTERP_ONE,
    COUNT_INTERP_COLD,
    COUNT_INTERP_EVENT,
    COUNT_LINK,
    COUNT_INDIRECT,
    COUNT_POLL,
    COUNT_FAULT,
    COUNT_FLUSH_JUMPS,
    COUNT_STACK_RESET,
    COUNTERS,
};

struct bt_cpu {
    struct translator *t;
    struct cpu *cpu;
    struct bt_context *context;
    int context_fd;
    uint8_t *stack[2]; /* of paired calls: kernel, user */
    uint64_t stack_sp[2], stack_base[2];
    unsigned stack_now;
    uint32_t key;             /* of the last entry */
    uint32_t key_now;         /* of the block looked for */
    _Atomic uint32_t writing; /* name of a page it may be storing to, unnoticed, beside code */
    _Atomic bool inside, flushing;
    bool want_empty; /* the cache is full */
    bool single;     /* the next block shall be one with single checks */
    bool names_gone; /* it was emptied */
    bool code_gone;  /* a part of it was */
    uint64_t last_tick;
    uint64_t count[COUNTERS];
    uint64_t slow_fast[FAST_OPS]; /* SITE_FAST that went to the interpreter */
    uint64_t helped[HELP_OPS];    /* SITE_HELP that did not */
    uint64_t fallback[FALLBACKS]; /* instructions left to the interpreter, by mnemonic */
    uint8_t *warm;                /* counters of cold code, by hash */
    /* What the last returns to a less privileged level loaded, and from which descriptors. */
    struct {
        uint64_t gdt, raw_cs, raw_ss;
        struct segment cs, ss;
    } returned;
    /* Pages seen to be devices': for `left` times nobody tries to fill the TLB with them. A hint;
     * by the tag's low bits. */
    struct device_page {
        uint64_t tag; /* 0: none */
        const struct tlb_table *table;
        unsigned left;
    } device[DEVICE_PAGES];
    struct check *check; /* NULL: options.check is off */
    bool left;           /* with check: the next instruction is to be interpreted */
    bool differs;        /* a check has failed */
};

static inline uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint8_t *cache_rw(struct translator *t, uint32_t at)
{
    return t->rw + at;
}

static inline const uint8_t *cache_rx(struct translator *t, uint32_t at)
{
    return t->rx + at;
}

static inline unsigned warm_index(const uint8_t *host)
{
    return (uintptr_t)host * UINT64_C(0x9e3779b97f4a7c15) >> 48;
}

/* ---- cache.c -------------------------------------------------------------------------------- */

int cache_new(struct translator *t, struct error *err);
void cache_free(struct translator *t);
void cache_begin(struct translator *t); /* the stubs are made */
void cache_empty(struct translator *t); /* nobody inside, lock held */
/* Make room: the region filled longest ago is emptied, and filled next. Nobody inside, lock held.
 * Jump tables and return stacks are void then, names too when it returns true. */
bool cache_recycle(struct translator *t);
bool cache_full(const struct translator *t);

/* The name of the page at `offset` of a block of RAM; made when there is none (write accesses are
 * watched from then on). Lock held. 0: no room. */
uint32_t page_find(struct translator *t, struct ram_block *ram, uint64_t offset);
uint32_t page_make(struct translator *t, struct bt_cpu *c, struct ram_block *ram, uint64_t offset,
                   uint32_t *out);

static inline uint32_t hash_of(uint32_t page, unsigned offset, uint32_t key)
{
    uint64_t h = ((uint64_t)page << 12 | offset) * UINT64_C(0x9e3779b97f4a7c15) ^
                 (uint64_t)key * UINT64_C(0xc2b2ae3d27d4eb4f);

    return (uint32_t)(h >> (64 - BLOCK_HASH_BITS));
}

/* Without the lock; uses general registers only. */
static inline struct block *block_find(struct translator *t, uint32_t page, unsigned offset,
                                       uint32_t key)
{
    uint32_t i = __atomic_load_n(&t->hash[hash_of(page, offset, key)], __ATOMIC_ACQUIRE);

    while (i) {
        struct block *b = &t->blocks[i];

        if (b->page == page && b->offset == offset && b->key == key)
            return b;
        i = __atomic_load_n(&b->next, __ATOMIC_ACQUIRE);
    }
    return NULL;
}

void block_insert(struct translator *t, struct block *b);
void block_invalidate(struct translator *t, struct block *b);
/* Nobody comes to it any more but through the hash. Lock held. */
void block_forget(struct translator *t, struct block *b);
/* The block is about to be in this jump table entry; afterwards it must be asked for valid. */
void block_jump(struct block *b, uint64_t rip);
/* Before a block is made from a page, and behind it: meanwhile no store beside its code goes
 * unnoticed. False: some may be under way; the page stays closed for a while, so ask again. Lock
 * held. */
bool page_close(struct translator *t, struct bt_cpu *c, uint32_t page);
void page_open(struct translator *t, uint32_t page);
/* page_open() of both, after `b` was made from them (or was not: NULL). */
void pages_open(struct translator *t, const struct block *b, uint32_t page, uint32_t page2);
/* How often code is interpreted before it is translated. */
unsigned page_warm(const struct translator *t, uint32_t page);
/* The name of the page that a host address is in; 0 also when nothing is made of it now. Without
 * the lock; uses general registers only. */
static inline uint32_t page_of_host(const struct translator *t, const uint8_t *host)
{
    for (unsigned i = 0; i < t->ram_count; i++) {
        struct ram_block *ram = t->ram[i];
        uint64_t page = (uint64_t)(host - ram->host) >> RAM_PAGE_BITS;

        if (page < ram->size >> RAM_PAGE_BITS)
            return atomic_load_explicit(&ram->page_flags[page], memory_order_relaxed) & RAM_CODE
                       ? ((uint32_t *)ram->code_opaque)[page]
                       : 0;
    }
    return 0;
}
/* Is any of these bytes code? Without the lock; uses general registers only. */
static inline bool page_is_code(const struct code_page *p, unsigned offset, unsigned size)
{
    for (unsigned g = offset >> GRANULE_BITS; g <= (offset + size - 1) >> GRANULE_BITS; g++)
        if (atomic_load_explicit(&p->granules[g / 64], memory_order_relaxed) >> g % 64 & 1)
            return true;
    return false;
}
static inline bool page_is_tired(const struct code_page *p)
{
    return atomic_load_explicit(&p->beside, memory_order_relaxed) > p->patience;
}
/* Code bytes changed. Takes the lock. */
void code_written(struct ram_block *ram, uint64_t offset, uint64_t length);
void link_blocks(struct translator *t, struct link *l, struct block *to);
/* Which block's code holds this cache offset. Lock held, or the world stands. */
struct block *block_of_host(struct translator *t, uint32_t host);

/* ---- translate.c ---------------------------------------------------------------------------- */

/* Translate from `offset` of a page. `page2`: the next page, when the first instruction goes on
 * there; else 0. Lock held. NULL: no room. */
struct block *translate(struct translator *t, struct bt_cpu *c, uint32_t page, unsigned offset,
                        uint32_t key, uint32_t page2);

/* ---- stubs.c -------------------------------------------------------------------------------- */

void stubs_make(struct translator *t);
uint8_t *emit_jump_look_up(struct emitter *e, uint8_t **polled);

static inline struct mem mem_jump(unsigned at)
{
    return (struct mem){RAX, NO_REG, 1, true, (int32_t)(offsetof(struct tlb_table, jump) + at)};
}

/* ---- run.c ---------------------------------------------------------------------------------- */

/* Called by translated code; host code to go on at, or 0. stubs.c tells what each may do. */
uint64_t bt_fast(struct cpu *cpu);
uint64_t bt_slow(struct cpu *cpu);

/* Run a block from the loop. */
void enter_block(struct bt_cpu *c, struct block *b, uint32_t key);

/* ---- help.c --------------------------------------------------------------------------------- */

/* Execute the instruction of site `s`, all but RIP, which is its own. False: nothing was done, the
 * interpreter must have it. Does not raise. */
bool help(struct bt_cpu *c, const struct site *s);
/* May linear addresses lead elsewhere afterwards? Then nothing that was looked up counts any more,
 * and the block ends there. */
static inline bool help_remaps(unsigned op)
{
    return op == HELP_TO_CR3 || op == HELP_INVLPG;
}

/* ---- check.c -------------------------------------------------------------------------------- */

void check_new(struct bt_cpu *c);
void check_free(struct bt_cpu *c); /* none is nothing */
/* enter_block() and compare. False: a difference, and it was told. */
bool check_run(struct bt_cpu *c, struct block *b, uint32_t key);
/* Wait for our turn, or go on with it; let others have it. */
void check_turn(struct bt_cpu *c);
void check_pause(struct bt_cpu *c);
/* Must the interpreter have this kind (enum parse_kind), because it cannot be tried first? */
bool check_excludes(unsigned kind);
void check_print(const struct translator *t, void *file);
void check_sabotage(const struct translator *t, struct bt_insn *in);
/* Where GS points, by us on this thread. */
void gs_set(struct translator *t, struct tlb_table *area);

static inline void flags_in(struct cpu *cpu, const struct bt_context *x)
{
    cpu_flags_unpack(cpu, x->flags);
}

static inline void flags_out(const struct cpu *cpu, struct bt_context *x)
{
    x->flags = cpu_flags_pack(cpu);
}

/* Other blocks than before are entered: their kind, and their stack of paired calls. */
static inline void key_enter(struct bt_cpu *c, uint32_t key)
{
    unsigned stack = key & KEY_USER ? 1 : 0;

    c->key = key;
    if (stack != c->stack_now) {
        c->stack_sp[c->stack_now] = c->context->host_sp;
        c->stack_now = stack;
        c->context->host_sp = c->stack_sp[stack];
    }
}

/* mmu_mode at CPL 0 with EFLAGS.AC as said. */
static inline enum mmu_mode kernel_mode(const struct cpu *cpu, bool ac)
{
    return ac || !(cpu->cr4 & CR4_SMAP) ? MMU_KERNEL_AC : MMU_KERNEL;
}

static inline struct tlb_jump *jump_of(struct tlb_table *table, uint64_t rip)
{
    return &table->jump[(rip ^ (uint32_t)rip >> 12) & (TLB_JUMPS - 1)];
}

/* Which key a table's jump entries are for. */
static inline uint32_t *table_key(struct tlb_table *table)
{
    return (uint32_t *)(table->head + AREA_HEAD_USED);
}

/* Where STAC (ac) and CLAC go from blocks of this key: only to a table whose jumps are for it. */
static inline void area_choose(struct bt_cpu *c, bool ac, uint32_t key)
{
    struct bt_context *x = c->context;
    struct tlb_table *table;

    x->mode[ac] = (uint8_t)kernel_mode(c->cpu, ac);
    table = c->cpu->tlb->table[x->mode[ac]];
    x->area[ac] = key & KEY_CPL0 && c->t->features & HOST_FSGSBASE && *table_key(table) == key
                      ? (uint64_t)(uintptr_t)table
                      : 0;
}

/* The name of the page of code at `linear`, 0 when it has none. Needs a fetch entry in the TLB. */
static inline uint32_t *name_slot(struct cpu *cpu, gva linear)
{
    struct tlb_table *t = cpu->tlb->table[cpu->mmu_mode];
    unsigned i = (uint16_t)tlb_tag(linear);

    if (t->ways[MMU_FETCH].tag[i] != tlb_tag(linear))
        return NULL;
    return (uint32_t *)&t->code[i];
}

/* The entry of the jump table for `rip`, which is where `b` starts. */
static inline void jump_remember(struct bt_cpu *c, struct block *b, uint64_t rip)
{
    struct tlb_table *table = c->cpu->tlb->table[c->cpu->mmu_mode];
    struct tlb_jump *j = jump_of(table, rip);

    if (!(b->key & KEY_FLAT_CODE) || c->check || c->single)
        return;
    block_jump(b, rip);
    j->rip = rip;
    j->code = cache_rx(c->t, b->entry_saved);
    table->jumps_used = true;
    atomic_thread_fence(memory_order_seq_cst);
    if (!b->valid)
        j->rip = tlb_no_rip(
            (unsigned)(j - table->jump)); /* whoever made it so may not have seen this entry */
}

/*
 * A check of several accesses failed where each alone might not: at a page's end, or because of one
 * that never can. That costs some ten nanoseconds; single checks cost every execution a few. So
 * only a block that fails again and again within a short time gets them: nobody comes to it any
 * more then, and one with single checks is made. Whether this was the last time.
 */
static inline bool failure_counts(struct block *b)
{
    uint32_t now = (uint32_t)(__builtin_ia32_rdtsc() >> 10);

    if (now - b->failing_since > FAILURES_TIME)
        b->failures = 0;
    if (!b->failures)
        b->failing_since = now;
    return ++b->failures == MANY_FAILURES;
}

static inline uint64_t rip_at(const struct cpu *cpu, const struct bt_context *x, int32_t offset)
{
    uint64_t rip = x->page_rip + (uint64_t)(int64_t)offset;

    return cpu->code_size == 8 ? rip : (uint32_t)rip;
}

/* The linear address that the operand fields of a site stand for. */
static inline gva site_linear(const struct cpu *cpu, const struct bt_context *x,
                              const struct site *s)
{
    uint64_t a = (uint64_t)(int64_t)s->disp;

    if (s->base != BASE_NONE)
        a += s->base == BASE_RIP ? x->page_rip : cpu->gpr[s->base];
    if (s->index != BASE_NONE)
        a += cpu->gpr[s->index] * s->scale;
    if (s->address_size < 8)
        a &= s->address_size == 4 ? UINT32_MAX : UINT16_MAX;
    if (s->segment != SEG_NONE)
        a += cpu->seg[s->segment].base;
    return cpu->code_size == 8 ? a : (uint32_t)a;
}

/* The page with this tag in the TLB, if it was last seen to be a device's. */
static inline struct device_page *device_page(struct bt_cpu *c, uint64_t tag)
{
    struct device_page *d = &c->device[tag % DEVICE_PAGES];

    return tag && d->tag == tag && d->table == c->cpu->tlb->table[c->cpu->mmu_mode] && d->left
               ? d
               : NULL;
}

/* ---- fast.c --------------------------------------------------------------------------------- */

/* The interpreter has executed an IRET: remember what it loaded. */
void fast_learn(struct bt_cpu *c);

/* ---- fault.c -------------------------------------------------------------------------------- */

void fault_setup(void);              /* once a process */
void fault_thread(struct bt_cpu *c); /* on each thread that runs translated code; NULL: no more */

/* ---- tools.c -------------------------------------------------------------------------------- */

/* Opens the files that were asked for. */
int tools_open(struct translator *t, struct error *err);
void tools_close(struct translator *t);
/* `host` and `at`: where each instruction is, `count` + 1 of them. */
void log_block(struct translator *t, const struct block *b, uint8_t *const *host,
               const uint16_t *at, unsigned count);
void print_stats(const struct translator *t, void *file);
/* Aborts the process, with the block's code on standard error, where verify_block() fails. */
void verify_or_stop(struct translator *t, const struct block *b, uint8_t *const *host,
                    const uint16_t *at, unsigned count);
/* Each when there is a map. */
void perf_map_stubs(struct translator *t);
void perf_map_add(struct translator *t, const struct block *b);

#endif
