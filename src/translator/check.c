/*
 * check.c - lock-step with the interpreter: each block that runs is compared with what the
 * interpreter makes of the same instructions.
 *
 * With options.check blocks are not linked and the jump table stays empty, so each entry runs one
 * block, and an instruction that needs the interpreter is left to the loop: nothing is executed
 * twice that the outside could see. Before the block the interpreter makes a trial of the same
 * straight line: no events, no devices, and all that it writes goes to copies of the pages (page
 * tables too: mmu_set_dry()). Then registers are put back, the block runs for real, and registers
 * and the pages that the trial wrote are compared.
 *
 * The trial ends where the block leaves its line, and before what may not be tried: may_try(), and
 * accesses to devices. When the block left
 * earlier than the trial ended, or that in the middle of an instruction, the trial is made again up
 * to there, from copies of the pages as they were. So it is with a difference, before it is
 * believed: memory that devices or others write may have been read twice, with two values.
 *
 * What is not compared, and why: the x87's last instruction and operand (FOP, FIP, FDP, FCS, FDS),
 * of which the translator keeps less than the processor; and in page tables, accessed and dirty
 * bits that the block has set and the trial has not (the translator checks several accesses
 * at once, so an exception or exit between them finds bits set for the later ones); and status
 * flags that the manual leaves undefined (leaves_undefined()): both sides take them from the host,
 * but some hosts leave there what was before, which in translated code may be anything; RF after
 * IRET, which without breakpoints has no effect (fast.c drops it). Pages that only the block wrote
 * are not seen.
 *
 * A block counts as without a reference when it goes on behind something that was refused (what
 * check_excludes() names becomes SITE_INTERP, so that this is rare), or when it left in the middle
 * of a string instruction, where both sides rest at different places.
 *
 * vCPUs take turns (check_turn()): nobody runs guest code between a trial and its block.
 */
#include "translator/internal.h"

#include "interp/insn.h"

#include <stdio.h>
#include <stdlib.h>

enum { TRIAL_PAGES = 64, MAX_STEPS = 64, MAX_REPEAT = 4096, TURN = 256 };
enum { STATE = offsetof(struct cpu, events) };

struct state {
    uint8_t bytes[STATE] __attribute__((aligned(64))); /* the first part of struct cpu */
    uint8_t cpl, code_size, mmu_mode;
};

struct page {
    uint8_t *host;
    uint8_t *before, *work; /* as it was; as the trial left it */
    bool table;
};

enum ending { END_OF_LINE, END_REFUSED, END_RAISED };

struct check {
    struct state before, expected, got;
    struct page page[TRIAL_PAGES];
    unsigned pages;
    uint64_t rip[MAX_STEPS + 1]; /* after that many instructions */
    unsigned steps;
    enum ending ending;
    uint32_t undefined; /* status flags */
    bool refused;       /* in the middle of an instruction */
    uint64_t blocks, instructions, again, unchecked;
    unsigned turn;
    bool mine; /* translator.check_lock is held */
};

/* ---- state ---------------------------------------------------------------------------------- */

static void state_get(const struct cpu *cpu, struct state *s)
{
    memcpy(s->bytes, cpu, STATE);
    s->cpl = cpu->cpl;
    s->code_size = cpu->code_size;
    s->mmu_mode = cpu->mmu_mode;
}

static void state_put(struct cpu *cpu, const struct state *s)
{
    memcpy((void *)cpu, s->bytes, STATE);
    cpu->cpl = s->cpl;
    cpu->code_size = s->code_size;
    cpu->mmu_mode = s->mmu_mode;
}

/* All that is compared; names for people. */
struct field {
    const char *name;
    uint16_t offset, size, count;
};
#define FIELD(f)                                                                                   \
    {                                                                                              \
#f, offsetof(struct cpu, f), sizeof(((struct cpu *)0)->f), 1                               \
    }
#define ARRAY(f, n)                                                                                \
    {                                                                                              \
#f, offsetof(struct cpu, f), sizeof(((struct cpu *)0)->f[0]), n                            \
    }
#define SEGMENT(s) FIELD(s.selector), FIELD(s.attr), FIELD(s.limit), FIELD(s.base)
static const struct field fields[] = {
    ARRAY(gpr, GPR_COUNT),
    FIELD(rip),
    FIELD(rflags),
    SEGMENT(seg[SEG_ES]),
    SEGMENT(seg[SEG_CS]),
    SEGMENT(seg[SEG_SS]),
    SEGMENT(seg[SEG_DS]),
    SEGMENT(seg[SEG_FS]),
    SEGMENT(seg[SEG_GS]),
    SEGMENT(ldtr),
    SEGMENT(tr),
    FIELD(gdtr.base),
    FIELD(gdtr.limit),
    FIELD(idtr.base),
    FIELD(idtr.limit),
    FIELD(cr0),
    FIELD(cr2),
    FIELD(cr3),
    FIELD(cr4),
    FIELD(efer),
    FIELD(xcr0),
    ARRAY(dr, 8),
    ARRAY(pdptr, 4),
    FIELD(fx.fcw),
    FIELD(fx.fsw),
    FIELD(fx.ftw),
    FIELD(fx.mxcsr),
    ARRAY(fx.st, 8),
    ARRAY(zmm, 32),
    ARRAY(k, 8),
    FIELD(star),
    FIELD(lstar),
    FIELD(cstar),
    FIELD(sfmask),
    FIELD(kernel_gs_base),
    FIELD(tsc_aux),
    FIELD(sysenter_cs),
    FIELD(sysenter_esp),
    FIELD(sysenter_eip),
    FIELD(pat),
    FIELD(misc_enable),
    FIELD(spec_ctrl),
    FIELD(debugctl),
    FIELD(tsc_offset),
    FIELD(activity),
    FIELD(sti_shadow),
    FIELD(movss_shadow),
    FIELD(nmi_blocked),
    FIELD(in_smm),
    FIELD(dr6_pending),
    FIELD(pending_vector),
};

/* The same, in few pieces. */
static const struct {
    uint16_t from, to;
} ranges[] = {
    {0, offsetof(struct cpu, fx)},
    {offsetof(struct cpu, fx.fcw), offsetof(struct cpu, fx.reserved1)},
    {offsetof(struct cpu, fx.mxcsr), offsetof(struct cpu, fx.mxcsr_mask)},
    {offsetof(struct cpu, fx.st), offsetof(struct cpu, fx.xmm)},
    {offsetof(struct cpu, zmm), offsetof(struct cpu, fcs)},
    {offsetof(struct cpu, star), STATE},
};

/* Flags of which the manual says nothing after this instruction; those it defines go to *defines,
 * where it is one that is frequent. */
static uint32_t leaves_undefined(const struct insn *in, uint32_t *defines)
{
    const uint32_t results = RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF;

    *defines = 0;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_NEG: *defines = RFLAGS_STATUS; return 0;
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: *defines = RFLAGS_STATUS & ~RFLAGS_AF; return RFLAGS_AF;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL: return results | RFLAGS_AF;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV: return RFLAGS_STATUS;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR: /* CF: counts as large as the operand */
        return RFLAGS_AF | RFLAGS_OF | (in->operand_size < 4 ? RFLAGS_CF : 0);
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return RFLAGS_AF | RFLAGS_OF | (in->operand_size < 4 ? RFLAGS_STATUS : 0);
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR: return RFLAGS_OF;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: return RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR: return RFLAGS_STATUS & ~RFLAGS_ZF;
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT: return RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF;
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BZHI: return RFLAGS_AF | RFLAGS_PF;
    case ZYDIS_MNEMONIC_BEXTR: return RFLAGS_SF | RFLAGS_AF | RFLAGS_PF;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS: return results | RFLAGS_OF;
    case ZYDIS_MNEMONIC_AAD:
    case ZYDIS_MNEMONIC_AAM: return RFLAGS_OF | RFLAGS_AF | RFLAGS_CF;
    case ZYDIS_MNEMONIC_IRETQ: return RFLAGS_RF; /* defined, but see above */
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS: return RFLAGS_OF;
    default: return 0;
    }
}

static bool element_differs(const struct field *f, unsigned i, const struct state *a,
                            const struct state *b)
{
    size_t at = f->offset + (size_t)i * f->size;

    return memcmp(a->bytes + at, b->bytes + at, f->size) != 0;
}

static bool states_equal(const struct state *a, struct state *b, uint32_t undefined)
{
    uint64_t flags, other;
    unsigned i;

    memcpy(&flags, a->bytes + offsetof(struct cpu, rflags), 8);
    memcpy(&other, b->bytes + offsetof(struct cpu, rflags), 8);
    if (flags != other && !((flags ^ other) & ~(uint64_t)undefined))
        memcpy(b->bytes + offsetof(struct cpu, rflags), &flags, 8);

    if (a->cpl != b->cpl || a->code_size != b->code_size || a->mmu_mode != b->mmu_mode)
        return false;
    for (i = 0; i < ARRAY_SIZE(ranges); i++)
        if (memcmp(a->bytes + ranges[i].from, b->bytes + ranges[i].from,
                   ranges[i].to - ranges[i].from))
            break;
    if (i == ARRAY_SIZE(ranges))
        return true;
    /* It may be padding. */
    for (i = 0; i < ARRAY_SIZE(fields); i++)
        for (unsigned n = 0; n < fields[i].count; n++)
            if (element_differs(&fields[i], n, a, b))
                return false;
    return true;
}

/* ---- pages ---------------------------------------------------------------------------------- */

_Noreturn static void trial_device(struct cpu *cpu)
{
    struct bt_cpu *c = cpu->engine;

    c->check->refused = true;
    longjmp(*cpu->unwind, 1);
}

static uint8_t *trial_page(struct cpu *cpu, uint8_t *host, bool write, bool table)
{
    struct bt_cpu *c = cpu->engine;
    struct check *k = c->check;
    struct page *p;

    for (p = k->page; p < k->page + k->pages; p++)
        if (p->host == host) {
            p->table |= table && write;
            return p->work;
        }
    if (!write)
        return host;
    if (k->pages == TRIAL_PAGES)
        trial_device(cpu);
    k->pages++;
    if (!p->work) {
        p->work = xcalloc(2, RAM_PAGE_SIZE);
        p->before = p->work + RAM_PAGE_SIZE;
    }
    memcpy(p->before, host, RAM_PAGE_SIZE);
    memcpy(p->work, p->before, RAM_PAGE_SIZE);
    p->host = host;
    p->table = table;
    return p->work;
}

static const struct mmu_dry dry = {.page = trial_page, .device = trial_device};

/* Accessed and dirty, of an entry of either size: bits 5 and 6 of its first byte. */
static bool is_excused(const struct page *p, unsigned i)
{
    uint8_t only_got = p->host[i] & (uint8_t)~p->work[i], differ = p->host[i] ^ p->work[i];

    return p->table && i % 4 == 0 && differ == only_got && !(differ & ~0x60);
}

static bool pages_equal(const struct check *k)
{
    for (const struct page *p = k->page; p < k->page + k->pages; p++) {
        if (!memcmp(p->host, p->work, RAM_PAGE_SIZE))
            continue;
        for (unsigned i = 0; i < RAM_PAGE_SIZE; i++)
            if (p->host[i] != p->work[i] && !is_excused(p, i))
                return false;
    }
    return true;
}

/* ---- the trial ------------------------------------------------------------------------------ */

/* What the outside sees, or what comes out otherwise each time. */
static bool may_try(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_RSM: return false;
    case ZYDIS_MNEMONIC_MOV:
        return !(in->flags & INSN_BOUNDARY) || in->op[0].kind == OPERAND_MEM ||
               in->op[1].kind == OPERAND_MEM || in->opcode == 0x8c || in->opcode == 0x8e ||
               (in->opcode == 0x20 && in->op[1].reg != 8);
    default: return true;
    }
}

bool check_excludes(unsigned kind)
{
    switch (kind) {
    case KIND_RDTSC:
    case KIND_RDTSCP:
    case KIND_CPUID: /* left to the interpreter either way, and so no shorter line */
    case KIND_IN:
    case KIND_OUT:
    case KIND_RDMSR:
    case KIND_WRMSR:
    case KIND_INVLPG:
    case KIND_MOV_TO_CR:
    case KIND_PAUSE: return true;
    default: return false;
    }
}

/* The interpreter has more to say between this instruction and the next. */
static bool is_disturbed(const struct cpu *cpu)
{
    return cpu->dr6_pending || cpu->activity != CPU_RUNNING || cpu->pending_vector >= 0 ||
           (cpu->rflags & (RFLAGS_TF | RFLAGS_RF));
}

/* At most `limit` instructions from where the CPU stands; it is left there where they end. */
static void trial(struct bt_cpu *c, unsigned limit)
{
    struct check *k = c->check;
    struct cpu *cpu = c->cpu;
    uint64_t line = cpu->rip;

    k->steps = 0;
    k->rip[0] = cpu->rip;
    k->ending = END_OF_LINE;
    k->refused = false;
    k->undefined = 0;
    mmu_set_dry(cpu, &dry);
    while (k->steps < limit && cpu->rip == line) {
        const struct insn *in;
        enum interp_trial r;
        uint32_t defines;

        /* A repeated string instruction stops now and then. */
        for (unsigned n = 0; n < MAX_REPEAT; n++) {
            r = interp_try(cpu, may_try, &in);
            if (r != TRIAL_DONE || cpu->rip != line || !(in->prefix & (PREFIX_REP | PREFIX_REPNE)))
                break;
        }
        if (r != TRIAL_DONE) {
            k->ending = r == TRIAL_REFUSED || k->refused ? END_REFUSED : END_RAISED;
            break;
        }
        line += in->length;
        k->undefined |= leaves_undefined(in, &defines);
        k->undefined &= ~defines;
        if (cpu->code_size != 8)
            line = (uint32_t)line;
        k->rip[++k->steps] = cpu->rip;
        if (is_disturbed(cpu))
            break;
    }
    mmu_set_dry(cpu, NULL);
    cpu->rip = k->rip[k->steps];
}

/* Once more, up to `limit`: what is expected. Leaves the CPU as it is. */
static void trial_again(struct bt_cpu *c, unsigned limit)
{
    struct check *k = c->check;
    struct cpu *cpu = c->cpu;

    for (struct page *p = k->page; p < k->page + k->pages; p++)
        memcpy(p->work, p->before, RAM_PAGE_SIZE);
    state_get(cpu, &k->got);
    state_put(cpu, &k->before);
    trial(c, limit);
    state_get(cpu, &k->expected);
    state_put(cpu, &k->got);
    k->again++;
}

/* ---- comparing ------------------------------------------------------------------------------ */

/* After how many instructions does the trial stand where the block has left? -1: never. A line can
 * end at one of its own instructions: how the block left tells before from after. */
static int step_of_exit(const struct bt_cpu *c)
{
    const struct check *k = c->check;
    unsigned kind = c->t->sites[c->context->site].kind;
    bool branched = !c->left && (kind == SITE_LINK || kind == SITE_INDIRECT || kind == SITE_EXIT ||
                                 kind == SITE_FAST);
    uint64_t rip = c->cpu->rip;

    if (branched || kind == SITE_POLL)
        for (unsigned i = k->steps; i > 0; i--)
            if (k->rip[i] == rip)
                return (int)i;
    for (unsigned i = 0; !branched && i <= k->steps; i++)
        if (k->rip[i] == rip)
            return (int)i;
    return -1;
}

/* A string instruction was begun: fast.c and the interpreter rest at different places. */
static bool is_inside_string(const struct bt_cpu *c)
{
    const struct site *s = &c->t->sites[c->context->site];

    return s->kind == SITE_FAST && s->helper == FAST_STRING && !c->left;
}

enum verdict { EQUAL, DIFFERENT, NO_REFERENCE };

static enum verdict judge(struct bt_cpu *c)
{
    struct check *k = c->check;
    int step = step_of_exit(c);

    if (is_inside_string(c))
        return NO_REFERENCE;
    if (step < 0)
        return k->ending == END_REFUSED ? NO_REFERENCE : DIFFERENT;
    /* An instruction that did not come to its end may have set accessed bits. */
    if ((unsigned)step < k->steps || k->ending != END_OF_LINE)
        trial_again(c, (unsigned)step);
    state_get(c->cpu, &k->got);
    k->instructions += (unsigned)step;
    return states_equal(&k->expected, &k->got, k->undefined) && pages_equal(k) ? EQUAL : DIFFERENT;
}

/* ---- reporting ------------------------------------------------------------------------------ */

static void print_element(FILE *f, const struct field *d, unsigned i, const struct state *s)
{
    const uint8_t *p = s->bytes + d->offset + (size_t)i * d->size;

    if (d->size <= 8) {
        fprintf(f, " %016llx", (unsigned long long)load_le(p, d->size));
        return;
    }
    fprintf(f, " ");
    for (unsigned n = d->size; n--;)
        fprintf(f, "%02x%s", p[n], n && n % 8 == 0 ? "_" : "");
}

static void print_states(FILE *f, const struct check *k)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    fprintf(f, "  %-16s %-16s %-16s %s\n", "", "before", "interpreter", "translator");
    for (const struct field *d = fields; d < fields + ARRAY_SIZE(fields); d++)
        for (unsigned i = 0; i < d->count; i++) {
            bool differs = element_differs(d, i, &k->expected, &k->got);
            char name[32];

            if (!differs && d->offset > offsetof(struct cpu, rflags))
                continue;
            if (d == fields)
                snprintf(name, sizeof(name), "%s", gpr[i]);
            else
                snprintf(name, sizeof(name), d->count > 1 ? "%s[%u]" : "%s", d->name, i);
            fprintf(f, "%c %-16s", differs ? '*' : ' ', name);
            print_element(f, d, i, &k->before);
            print_element(f, d, i, &k->expected);
            print_element(f, d, i, &k->got);
            fprintf(f, "%s\n", differs ? " <--" : "");
        }
}

/* The guest's name for host memory. */
static void print_place(FILE *f, const struct cpu *cpu, const uint8_t *host)
{
    for (const struct phys_range *r = cpu->tlb->phys; r < cpu->tlb->phys + PHYS_RANGES; r++)
        if (r->length && host >= r->block->host && host < r->block->host + r->block->size) {
            fprintf(f, "%s+%#lx", r->block->name, (unsigned long)(host - r->block->host));
            return;
        }
    fprintf(f, "host %p", (const void *)host);
}

static void print_pages(FILE *f, const struct cpu *cpu, const struct check *k)
{
    for (const struct page *p = k->page; p < k->page + k->pages; p++) {
        unsigned shown = 0;

        for (unsigned i = 0; i < RAM_PAGE_SIZE && shown < 32; i++) {
            if (p->host[i] == p->work[i] || is_excused(p, i))
                continue;
            shown++;
            fprintf(f, "* memory ");
            print_place(f, cpu, p->host + i);
            fprintf(f, ": before %02x, interpreter %02x, translator %02x\n", p->before[i],
                    p->work[i], p->host[i]);
        }
    }
}

static void report(struct bt_cpu *c, struct block *b)
{
    static const char *const endings[] = {"at the end of the line", "at something refused",
                                          "with an exception"};
    struct check *k = c->check;
    struct translator *t = c->t;
    FILE *f = stderr;
    void *log;

    fprintf(f, "engine check: the translator differs from the interpreter on processor %u\n",
            c->cpu->index);
    pthread_mutex_lock(&t->lock);
    log = t->log;
    t->log = f;
    /* The same bytes give the same code: made again to be shown with its instructions. */
    if (!translate(t, c, b->page, b->offset, b->key, b->page2))
        fprintf(f, "(no room to show the block)\n");
    t->log = log;
    pthread_mutex_unlock(&t->lock);
    fprintf(f, "interpreter: %u instructions to %#llx, %s", k->steps,
            (unsigned long long)k->rip[k->steps], endings[k->ending]);
    if (k->ending == END_RAISED)
        fprintf(f, " %u", c->cpu->raise_vector);
    if (k->undefined)
        fprintf(f, ", flags %#x undefined", k->undefined);
    fprintf(f, "\ntranslator: left at %#llx, site kind %u%s\n", (unsigned long long)c->cpu->rip,
            t->sites[c->context->site].kind, c->left ? ", for the interpreter" : "");
    print_states(f, k);
    print_pages(f, c->cpu, k);
    fflush(f);
}

/* ---- running -------------------------------------------------------------------------------- */

bool check_run(struct bt_cpu *c, struct block *b, uint32_t key)
{
    struct check *k = c->check;
    struct cpu *cpu = c->cpu;
    enum verdict v;

    state_get(cpu, &k->before);
    k->pages = 0;
    trial(c, MIN(b->instructions, (unsigned)MAX_STEPS));
    state_get(cpu, &k->expected);
    state_put(cpu, &k->before);
    c->left = false;
    enter_block(c, b, key);
    k->blocks++;
    v = judge(c);
    for (unsigned i = 0; i < 2 && v == DIFFERENT; i++) {
        trial_again(c, MIN(b->instructions, (unsigned)MAX_STEPS));
        v = judge(c);
    }
    if (v == NO_REFERENCE)
        k->unchecked++;
    if (v != DIFFERENT)
        return true;
    state_get(cpu, &k->got);
    report(c, b);
    c->differs = true;
    return false;
}

void check_turn(struct bt_cpu *c)
{
    struct check *k = c->check;

    if (k->mine && ++k->turn % TURN)
        return;
    check_pause(c);
    /* Who waits for the one holds the other, so that it is next. */
    pthread_mutex_lock(&c->t->check_next);
    pthread_mutex_lock(&c->t->check_lock);
    pthread_mutex_unlock(&c->t->check_next);
    k->mine = true;
}

void check_pause(struct bt_cpu *c)
{
    if (!c->check->mine)
        return;
    atomic_store(&c->inside, false);
    c->check->mine = false;
    pthread_mutex_unlock(&c->t->check_lock);
}

void check_new(struct bt_cpu *c)
{
    size_t size = (sizeof(struct check) + 63) & ~(size_t)63;

    c->check = aligned_alloc(64, size);
    if (!c->check)
        abort();
    memset(c->check, 0, size);
}

void check_free(struct bt_cpu *c)
{
    if (!c->check)
        return;
    for (unsigned i = 0; i < TRIAL_PAGES; i++)
        free(c->check->page[i].work);
    free(c->check);
    c->check = NULL;
}

void check_print(const struct translator *t, void *file)
{
    uint64_t blocks = 0, instructions = 0, again = 0, unchecked = 0;

    for (unsigned i = 0; i < t->cpu_count; i++) {
        const struct check *k = t->cpus[i]->check;

        blocks += k->blocks;
        instructions += k->instructions;
        again += k->again;
        unchecked += k->unchecked;
    }
    fprintf((FILE *)file,
            "engine check: %lu blocks, %lu instructions compared; %lu trials made again, %lu "
            "blocks without a reference\n",
            (unsigned long)blocks, (unsigned long)instructions, (unsigned long)again,
            (unsigned long)unchecked);
}

/* ---- faults on purpose ---------------------------------------------------------------------- */

void check_sabotage(const struct translator *t, struct bt_insn *in)
{
    bool immediate = in->kind == KIND_COPY && in->unit == UNIT_INTEGER &&
                     in->encoding == ENC_LEGACY && in->map == 0 && in->has_imm;

    switch (t->options.sabotage) {
    case BT_WRONG_NONE: break;
    case BT_WRONG_ADD:
        if (immediate && (in->opcode == 0x81 || in->opcode == 0x83) && in->reg == 0)
            in->imm ^= 1;
        break;
    case BT_WRONG_STORE:
        if (immediate && (in->opcode & 0xfe) == 0xc6 && in->rm_kind == RM_MEM)
            in->imm ^= 1;
        break;
    case BT_WRONG_JCC:
        if (in->kind == KIND_JCC)
            in->cond ^= 1;
        break;
    case BT_WRONG_CMP: /* flags alone */
        if (immediate && (in->opcode == 0x81 || in->opcode == 0x83) && in->reg == 7)
            in->imm ^= 1;
        break;
    case BT_WRONG_VECTOR: /* PXOR becomes POR */
        if (in->kind == KIND_COPY && in->unit == UNIT_VECTOR && in->map == 1 && in->opcode == 0xef)
            in->opcode = 0xeb;
        break;
    }
}
