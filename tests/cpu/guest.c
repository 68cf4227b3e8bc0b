/*
 * guest.c - the other side: the same case in an engine, through its public interface only.
 *
 * A tiny guest without a machine: one RAM block with descriptor tables, page tables and the
 * arena's pages at the linear addresses the native child has them. The CPU runs at privilege
 * level 3 with everything the host kernel gives its processes (CR4, Linux's descriptors in the
 * GDT, the LDT of oracle_ldt). Exceptions are delivered through the IDT to ring 0, where the run
 * ends with HLT: the pushed frame and the handler's address tell what happened.
 *
 * There are two such guests. The pilot is the interpreter, one instruction at a time: it learns
 * which results are undefined, which fault may be another, and whether the case ends. The other
 * is the engine under test, of which nothing is seen but how it ends. They share nothing, so
 * what one keeps of the code cannot help the other.
 */
#include "oracle.h"

#include "interp/interp.h"
#include "memory/ram.h"
#include "translator/translator.h"
#include "x86/mmu.h"
#include "x86/model.h"

#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

/* Guest-physical layout. */
enum {
    PHYS_GDT = 0x1000,
    PHYS_LDT = 0x1400,
    PHYS_TSS = 0x1800,
    PHYS_IDT = 0x2000,
    PHYS_STUBS = 0x3000, /* 256 times 16 bytes of HLT */
    PHYS_STACK_TOP = 0x6000,
    PHYS_TABLES = 0x10000,
    PHYS_TABLES_END = 0x20000,
    PHYS_ARENA = 0x20000,
    PHYS_HIGH = 0x30000,
    PHYS_OPEN = PHYS_ARENA + ARENA_OPEN * PAGE,
    PHYS_END = 0x40000,
};
#define KERNEL UINT64_C(0xffff800000000000)

enum { GDT_KERNEL_CODE = 0x10, GDT_KERNEL_DATA = 0x18, GDT_TSS = 0x40, GDT_LDT = 0x50 };
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40 };
#define PTE_NX BIT(63)

/* Steps: a REP instruction is one, at most. */
enum { STEP_LIMIT = 40000, RUN_LIMIT = 100 * STEP_LIMIT, DECODED = 256 };

/* What was decoded last at addresses that are alike: the bytes say whether it is still so. */
struct decoded {
    bool valid;
    uint8_t which, size, bytes[15];
    ZydisDecodedInstruction in;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* One guest: its memory and CPU. */
struct machine {
    const struct guest_engine *engine;
    struct cpu_model model;
    struct cpu *cpu;
    struct memory_map *memory, *ports;
    struct ram_block *ram;
    struct region *region;
    _Atomic uint64_t a20;
    uint64_t next_table;
    uint64_t image_seed;
    uint8_t image[IMAGE_SIZE];
};

struct guest {
    struct machine *pilot, *tested;
    ZydisDecoder decoder[3]; /* 64, 32, 16 */
    struct decoded decoded[DECODED];
    const struct sabotage *sabotage;
    bool sabotaged;
};

/* Slices of uneven size: a run may be stopped and taken up again anywhere. */
static void run_interp(struct cpu *cpu, uint64_t limit)
{
    for (uint64_t done = 0, slice = 1; done < limit; done += slice, slice = slice * 3 + 1)
        if (interp_step(cpu, MIN(slice, limit - done)) != INTERP_OK)
            break;
}

static void attach_translator(struct cpu *cpu, unsigned warm, uint64_t cache_size)
{
    struct translator_options o;

    translator_options_default(&o);
    o.warm = warm;
    o.cache_size = cache_size;
    o.log_path = getenv("BT_LOG");
    o.verify = getenv("BT_VERIFY");
    o.stats = getenv("BT_STATS") != NULL;
    translator_attach(cpu, &o);
}

/* Translates what it executes the first time; a small cache is emptied often. */
static void attach_bt(struct cpu *cpu)
{
    attach_translator(cpu, 0, 8 * MiB);
}

/* Interprets first, so that loops change over while they run; a cache that is always full. */
static void attach_bt_warm(struct cpu *cpu)
{
    attach_translator(cpu, 3, 1 * MiB);
}

static struct cpu *volatile watched;
static volatile sig_atomic_t ticks;

static void tick(int signal)
{
    (void)signal;
    ticks++;
    if (watched)
        cpu_post(watched, CPU_EVENT_EXIT);
}

/* It counts no instructions. A timer asks it to leave, wherever it is, and it goes on from there
 * until that has happened too often. */
static void run_bt(struct cpu *cpu, uint64_t limit)
{
    enum { PERIOD_US = 2000, PERIODS = 250 };
    static const struct itimerval period = {{0, PERIOD_US}, {0, PERIOD_US}};
    static const struct sigaction sa = {.sa_handler = tick, .sa_flags = SA_ONSTACK | SA_RESTART};
    static bool started;
    enum interp_result r;

    (void)limit;
    if (!started) {
        sigaction(SIGVTALRM, &sa, NULL);
        setitimer(ITIMER_VIRTUAL, &period, NULL);
        started = true;
    }
    ticks = 0;
    watched = cpu;
    do {
        cpu_retract(cpu, CPU_EVENT_EXIT);
        r = translator_run(cpu);
    } while (r == INTERP_OK || (r == INTERP_EVENT && ticks < PERIODS));
    watched = NULL;
    cpu_retract(cpu, CPU_EVENT_EXIT);
}

const struct guest_engine guest_engines[] = {
    {"interp", interp_attach, interp_detach, run_interp},
    {"bt", attach_bt, translator_detach, run_bt},
    {"bt-warm", attach_bt_warm, translator_detach, run_bt},
    {NULL, NULL, NULL, NULL},
};

/* ---- the guest's tables -------------------------------------------------------------------- */

static void map_page(struct machine *m, uint64_t linear, uint64_t phys, uint64_t flags)
{
    uint64_t table = PHYS_TABLES;

    for (unsigned level = 3; level; level--) {
        uint8_t *entry = m->ram->host + table + 8 * (linear >> (12 + 9 * level) & 511);
        uint64_t e = load_le(entry, 8);

        if (!(e & PTE_P)) {
            e = m->next_table | PTE_P | PTE_W | PTE_U | PTE_A;
            m->next_table += PAGE;
            store_le(entry, e, 8);
        }
        table = e & 0x000ffffffffff000;
    }
    store_le(m->ram->host + table + 8 * (linear >> 12 & 511), phys | flags | PTE_A | PTE_D, 8);
}

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)flags << 52 |
           (uint64_t)(base >> 24) << 56;
}

static void build_tables(struct machine *m)
{
    const uint64_t user = PTE_P | PTE_U;
    uint8_t *ram = m->ram->host, *gdt = ram + PHYS_GDT;

    m->next_table = PHYS_TABLES + PAGE;
    for (uint64_t p = 0; p < PHYS_TABLES; p += PAGE)
        map_page(m, KERNEL + p, p, PTE_P | PTE_W);
    for (unsigned p = ARENA_DATA; p < ARENA_DATA + IMAGE_LOW_PAGES; p++)
        map_page(m, ARENA + (uint64_t)p * PAGE, PHYS_ARENA + (uint64_t)p * PAGE,
                 user | PTE_NX | (p == ARENA_RO ? 0 : PTE_W));
    for (unsigned p = ARENA_CODE; p < ARENA_CODE + ARENA_CODE_PAGES; p++)
        map_page(m, ARENA + (uint64_t)p * PAGE, PHYS_ARENA + (uint64_t)p * PAGE, user);
    for (unsigned p = 0; p < HIGH_PAGES; p++)
        map_page(m, ARENA_HIGH + (uint64_t)p * PAGE, PHYS_HIGH + (uint64_t)p * PAGE,
                 user | PTE_NX | PTE_W);
    for (unsigned p = ARENA_OPEN; p < ARENA_OPEN + ARENA_CODE_PAGES; p++)
        map_page(m, ARENA + (uint64_t)p * PAGE, PHYS_ARENA + (uint64_t)p * PAGE, user | PTE_W);
    memset(ram + PHYS_ARENA + (ptrdiff_t)ARENA_CODE * PAGE, 0xcc, (size_t)ARENA_CODE_PAGES * PAGE);
    memset(ram + PHYS_STUBS, 0xf4, PAGE);

    /* As Linux has them, for LAR, LSL and segment loads. */
    store_le(gdt + 0x08, descriptor(0, 0xfffff, 0x9b, 0xc), 8);
    store_le(gdt + GDT_KERNEL_CODE, descriptor(0, 0xfffff, 0x9b, 0xa), 8);
    store_le(gdt + GDT_KERNEL_DATA, descriptor(0, 0xfffff, 0x93, 0xc), 8);
    store_le(gdt + (SEL_CODE32 & ~7), descriptor(0, 0xfffff, 0xfb, 0xc), 8);
    store_le(gdt + (SEL_DATA & ~7), descriptor(0, 0xfffff, 0xf3, 0xc), 8);
    store_le(gdt + (SEL_CODE64 & ~7), descriptor(0, 0xfffff, 0xfb, 0xa), 8);
    store_le(gdt + GDT_TSS, descriptor(PHYS_TSS, 0x67, 0x8b, 0), 8);
    store_le(gdt + GDT_TSS + 8, KERNEL >> 32, 8);
    store_le(gdt + GDT_LDT, descriptor(PHYS_LDT, 8 * ORACLE_LDT_SIZE - 1, 0x82, 0), 8);
    store_le(gdt + GDT_LDT + 8, KERNEL >> 32, 8);
    store_le(gdt + 0x78, descriptor(0, native_cpu(), 0xf5, 0x4), 8);
    for (unsigned i = 0; i < ORACLE_LDT_SIZE; i++) {
        const struct ldt_entry *e = &oracle_ldt[i];
        unsigned access = 0x71 | (e->absent ? 0 : 0x80) | e->contents << 2 |
                          (e->read_exec_only ? 0 : 2);
        unsigned flags = (unsigned)(e->in_pages << 3 | e->is_32 << 2 | e->avl);

        store_le(ram + PHYS_LDT + (ptrdiff_t)8 * i, descriptor(e->base, e->limit, access, flags),
                 8);
    }
    store_le(ram + PHYS_TSS + 4, KERNEL + PHYS_STACK_TOP, 8);
    store_le(ram + PHYS_TSS + 102, 0x68, 2); /* no I/O bitmap */
    for (unsigned v = 0; v < 256; v++) {
        uint64_t to = KERNEL + PHYS_STUBS + 16ull * v;
        unsigned dpl = v == 3 || v == 4 || v == 0x80 ? 3 : 0;

        store_le(ram + PHYS_IDT + 16 * v,
                 (to & 0xffff) | GDT_KERNEL_CODE << 16 | (uint64_t)(0x8e | dpl << 5) << 40 |
                     (to >> 16 & 0xffff) << 48,
                 8);
        store_le(ram + PHYS_IDT + 16 * v + 8, to >> 32, 8);
    }
}

static struct segment segment_from(uint16_t selector, uint64_t d)
{
    struct segment s = {.selector = selector};

    s.attr = (uint32_t)(d >> 40) & 0xf0ff;
    s.base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
    s.limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    if (s.attr & ATTR_G)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

static struct segment segment_by_selector(const struct machine *m, uint16_t selector)
{
    uint64_t table = selector & 4 ? PHYS_LDT : PHYS_GDT;

    if (selector < 4)
        return (struct segment){.selector = selector, .attr = ATTR_NULL};
    return segment_from(selector, load_le(m->ram->host + table + (selector & ~7), 8));
}

static void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->cpu) {
        m->engine->detach(m->cpu);
        cpu_free(m->cpu);
    }
    memory_remove(m->region);
    memory_map_free(m->memory);
    memory_map_free(m->ports);
    ram_block_free(m->ram);
    free(m);
}

static struct machine *machine_new(const struct guest_engine *e, struct error *err)
{
    struct machine *m = xcalloc(1, sizeof(*m));
    unsigned a = 0, b = 0, c = 0, d = 0;
    struct cpu_limits limits;
    struct cpu *cpu;

    m->engine = e;
    cpu_limits_software(&limits);
    /* What the interpreter has and the host lacks (SERIALIZE) has no judge here. */
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        limits.word[WORD_7_0_EDX] &= d;
    if (cpu_model_build("max", &limits, 1, &m->model, err) < 0 ||
        ram_block_new("oracle", PHYS_END, &m->ram, err) < 0) {
        free(m);
        return NULL;
    }
    m->memory = memory_map_new("memory", BIT(40));
    m->ports = memory_map_new("ports", 65536);
    if (memory_add_ram(m->memory, "ram", 0, PHYS_END, PRIORITY_DEFAULT, IN_ALL, m->ram, 0, true,
                       &m->region, err) < 0) {
        machine_free(m);
        return NULL;
    }
    build_tables(m);
    atomic_store(&m->a20, UINT64_MAX);

    cpu = m->cpu = cpu_new(0, 0, &m->model);
    cpu->memory = m->memory;
    cpu->ports = m->ports;
    cpu->a20_mask = &m->a20;
    cpu->apic_page = CPU_NO_APIC_PAGE;
    e->attach(cpu);
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr3 = PHYS_TABLES;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
               CR4_UMIP | CR4_SMEP | CR4_SMAP | CR4_DE | CR4_PSE | CR4_MCE;
    cpu->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    cpu->xcr0 = native_xcr0();
    cpu->gdtr = (struct table_register){KERNEL + PHYS_GDT, 0x7f};
    cpu->idtr = (struct table_register){KERNEL + PHYS_IDT, 0xfff};
    cpu->ldtr = segment_from(GDT_LDT, load_le(m->ram->host + PHYS_GDT + GDT_LDT, 8));
    cpu->tr = segment_from(GDT_TSS, load_le(m->ram->host + PHYS_GDT + GDT_TSS, 8));
    cpu->ldtr.base |= KERNEL;
    cpu->tr.base |= KERNEL;
    return m;
}

struct guest *guest_new(const struct guest_engine *e, struct error *err)
{
    struct guest *g = xcalloc(1, sizeof(*g));

    decoder_init(&g->decoder[0], 64);
    decoder_init(&g->decoder[1], 32);
    decoder_init(&g->decoder[2], 16);
    g->pilot = machine_new(&guest_engines[0], err);
    g->tested = g->pilot ? machine_new(e, err) : NULL;
    if (!g->tested) {
        guest_free(g);
        return NULL;
    }
    return g;
}

struct guest *guest_again(const struct guest *g)
{
    struct error err = {0};

    return guest_new(g->tested->engine, &err);
}

void guest_free(struct guest *g)
{
    if (!g)
        return;
    machine_free(g->pilot);
    machine_free(g->tested);
    free(g);
}

void guest_sabotage(struct guest *g, const struct sabotage *s)
{
    g->sabotage = s;
}

/* ---- a run --------------------------------------------------------------------------------- */

/* In guest-physical memory: what lies at an offset of the image, and the code. */
static uint64_t image_at(unsigned offset)
{
    if (offset < IMAGE_LOW_PAGES * PAGE)
        return PHYS_ARENA + (uint64_t)ARENA_DATA * PAGE + offset;
    if (offset < IMAGE_OPEN)
        return PHYS_HIGH + (offset - (uint64_t)IMAGE_LOW_PAGES * PAGE);
    return PHYS_OPEN + (offset - (uint64_t)IMAGE_OPEN);
}

static uint64_t code_at(const struct test_case *c)
{
    return code_base(c) - ARENA + PHYS_ARENA + c->code_offset;
}

/* As a device writes it: engines that keep something of the code have to be told. */
static void write_ram(struct machine *m, uint64_t at, const void *from, size_t size)
{
    memcpy(m->ram->host + at, from, size);
    ram_written(m->ram, at, size);
}

static void load_case(struct machine *m, const struct test_case *c)
{
    const struct cpu_image *in = &c->in;
    struct cpu *cpu = m->cpu;
    bool other_mode;

    if (c->memory_seed != m->image_seed || !m->image_seed) {
        memory_image_fill(c->memory_seed, m->image);
        m->image_seed = c->memory_seed;
        for (unsigned at = 0; at < IMAGE_SIZE; at += PAGE)
            write_ram(m, image_at(at), m->image + at, PAGE);
    }
    write_ram(m, code_at(c), c->code, c->length);
    memcpy(cpu->gpr, in->gpr, sizeof(cpu->gpr));
    cpu->rip = in->rip;
    cpu->rflags = in->rflags;
    other_mode = cpu->seg[SEG_CS].selector != in->sel[SEG_CS];
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = segment_by_selector(m, in->sel[i]);
    if (c->mode == 64) {
        cpu->seg[SEG_FS].base = in->fs_base;
        cpu->seg[SEG_GS].base = in->gs_base;
    }
    cpu->fx.fcw = in->fcw;
    cpu->fx.fsw = in->fsw;
    cpu->fx.ftw = in->ftw;
    cpu->fx.fop = 0;
    cpu->fx.fip = cpu->fx.fdp = 0;
    cpu->fx.mxcsr = in->mxcsr;
    memcpy(cpu->fx.st, in->st, sizeof(cpu->fx.st));
    memcpy(cpu->zmm, in->zmm, sizeof(cpu->zmm));
    memcpy(cpu->k, in->k, sizeof(cpu->k));
    cpu->cr2 = 0;
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    cpu->sti_shadow = cpu->movss_shadow = cpu->nmi_blocked = false;
    cpu->pending_vector = -1;
    cpu->activity = CPU_RUNNING;
    if (other_mode)
        cpu_state_changed(cpu);
    else
        cpu_update_derived(cpu);
}

static bool has_error_code(unsigned vector)
{
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* After delivery: the handler's address and the frame on the ring-0 stack. */
static void read_outcome(struct machine *m, struct outcome *o)
{
    struct cpu *cpu = m->cpu;
    uint64_t stub = cpu->rip - (KERNEL + PHYS_STUBS), sp = cpu->gpr[GPR_RSP];
    const uint8_t *frame = m->ram->host + (sp - KERNEL);

    memset(&o->out, 0, sizeof(o->out));
    o->vector = 0;
    o->lines = 0;
    o->error = o->cr2 = 0;
    o->status = RAN;
    if (cpu->cpl == 3 || stub >= PAGE || !range_within(sp - KERNEL, 40, PHYS_STACK_TOP)) {
        o->status = cpu->activity == CPU_RUNNING ? HUNG : DIED;
        return;
    }
    o->vector = (uint8_t)(stub / 16);
    if (has_error_code(o->vector)) {
        o->error = load_le(frame, 8);
        frame += 8;
    }
    o->out.rip = load_le(frame, 8);
    o->out.sel[SEG_CS] = (uint16_t)load_le(frame + 8, 8);
    o->out.rflags = load_le(frame + 16, 8);
    memcpy(o->out.gpr, cpu->gpr, sizeof(cpu->gpr));
    o->out.gpr[GPR_RSP] = load_le(frame + 24, 8);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            o->out.sel[i] = cpu->seg[i].selector;
    o->out.sel[SEG_SS] = (uint16_t)load_le(frame + 32, 8);
    o->out.fs_base = cpu->seg[SEG_FS].base;
    o->out.gs_base = cpu->seg[SEG_GS].base;
    o->cr2 = o->vector == EXC_PF ? cpu->cr2 : 0;
    o->out.fcw = cpu->fx.fcw;
    o->out.fsw = cpu->fx.fsw;
    o->out.ftw = cpu->fx.ftw;
    o->out.mxcsr = cpu->fx.mxcsr;
    memcpy(o->out.st, cpu->fx.st, sizeof(o->out.st));
    memcpy(o->out.zmm, cpu->zmm, sizeof(o->out.zmm));
    memcpy(o->out.k, cpu->k, sizeof(o->out.k));
}

/* Note what differs from the image, the case's code laid over it, and put back the image. */
static void collect(struct machine *m, const struct test_case *c, struct outcome *o)
{
    static const uint8_t filling[MAX_CODE] = {[0 ... MAX_CODE - 1] = 0xcc};
    unsigned open = IMAGE_OPEN + c->code_offset;

    if (c->open)
        memcpy(m->image + open, c->code, c->length);
    for (unsigned at = 0; at < IMAGE_SIZE; at += LINE) {
        uint8_t *now = m->ram->host + image_at(at);
        struct dirty_line *line;

        if (!memcmp(now, m->image + at, LINE))
            continue;
        line = &o->line[o->lines++];
        line->index = (uint16_t)(at / LINE);
        memcpy(line->bytes, now, LINE);
        write_ram(m, image_at(at), m->image + at, LINE);
    }
    if (c->open)
        memcpy(m->image + open, filling, c->length);
    write_ram(m, code_at(c), filling, c->length);
}

static void apply_sabotage(struct guest *g, struct outcome *o)
{
    switch (g->sabotage->what) {
    case SABOTAGE_GPR: o->out.gpr[GPR_RBX] ^= 4; break;
    case SABOTAGE_FLAG: o->out.rflags ^= g->sabotage->flag; break;
    case SABOTAGE_MEMORY: g->tested->ram->host[image_at(100)] ^= 0x80; break;
    case SABOTAGE_VECTOR: o->vector ^= 1; break;
    case SABOTAGE_ZMM: o->out.zmm[3][17] ^= 1; break;
    }
}

/* Where RIP is in the pages of code, from the first page of all; or -1. */
static int code_position(const struct machine *m)
{
    const struct cpu *cpu = m->cpu;
    uint64_t at = cpu->rip + (cpu->code_size == 8 ? 0 : cpu->seg[SEG_CS].base) - ARENA;
    const uint64_t size = ARENA_CODE_PAGES * PAGE;

    return at - ARENA_CODE * PAGE < size || at - ARENA_OPEN * PAGE < size ? (int)at : -1;
}

static unsigned code_left(int at)
{
    int end = (at < ARENA_OPEN * PAGE ? ARENA_CODE : ARENA_OPEN) * PAGE + ARENA_CODE_PAGES * PAGE;

    return (unsigned)(end - at);
}

/* Decode what stands at RIP, from the code pages only: nothing else can be executed. */
static const struct decoded *decode(struct guest *g)
{
    const struct machine *m = g->pilot;
    struct cpu *cpu = m->cpu;
    int at = code_position(m);
    unsigned which = cpu->code_size == 8 ? 0 : cpu->code_size == 4 ? 1 : 2, size;
    const uint8_t *bytes = m->ram->host + PHYS_ARENA + at;
    struct decoded *d;

    if (at < 0)
        return NULL;
    d = &g->decoded[at % DECODED];
    size = MIN(15, code_left(at));
    if (d->size == size && d->which == which && !memcmp(d->bytes, bytes, size))
        return d->valid ? d : NULL;
    d->size = (uint8_t)size;
    d->which = (uint8_t)which;
    memcpy(d->bytes, bytes, size);
    d->valid = ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder[which], bytes, size, &d->in, d->op));
    if (!d->valid)
        return NULL;
    /* Zydis 4.0 makes R13D of a base that is not there when 67 and REX.B are. */
    if (which == 0 && d->in.attributes & ZYDIS_ATTRIB_HAS_SIB && d->in.raw.modrm.mod == 0 &&
        d->in.raw.sib.base == 5)
        for (unsigned i = 0; i < d->in.operand_count_visible; i++)
            if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                d->op[i].mem.base = ZYDIS_REGISTER_NONE;
                d->op[i].mem.disp.value = d->in.raw.disp.value;
            }
    return d;
}

/* Some encodings in the VEX and EVEX space are reserved, and processors take some of them. */
static bool reserved(const struct machine *m, bool *lock)
{
    const uint8_t *arena = m->ram->host + PHYS_ARENA;
    int at = code_position(m);
    unsigned left = at < 0 ? 0 : code_left(at);

    *lock = false;
    for (; left; at++, left--) {
        if (m->cpu->code_size == 8 && (arena[at] & 0xf0) == 0x40)
            continue;
        switch (arena[at]) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
        case 0x64:
        case 0x65:
        case 0x66:
        case 0x67:
        case 0xf2:
        case 0xf3: continue;
        case 0xf0: *lock = true; continue;
        case 0xc4:
        case 0xc5:
        case 0x62: return true;
        case 0x0f: /* AMD takes LOCK before VERR and VERW */ return *lock && !arena[at + 1];
        default: return false;
        }
    }
    return false;
}

/* The way through a case, one instruction after the other. */
static void fly(struct guest *g, const struct test_case *c, struct seen *seen,
                struct coverage *coverage)
{
    struct machine *m = g->pilot;
    struct cpu *cpu = m->cpu;
    struct defined *d = &seen->defined;
    uint64_t fault_rip = c->fault ? c->in.rip + c->start[c->fault_insn] : UINT64_MAX;

    memset(seen, 0, sizeof(*seen));
    g->sabotaged = false;
    load_case(m, c);
    for (; seen->steps < STEP_LIMIT && cpu->cpl == 3 && cpu->activity == CPU_RUNNING;
         seen->steps++) {
        uint64_t flags_before = d->flags, rip = cpu->rip;
        unsigned code_size = cpu->code_size;
        const struct decoded *decoded = decode(g);
        const ZydisDecodedInstruction *in = decoded ? &decoded->in : NULL;
        bool faulted, lock;

        if (in) {
            coverage->executed[in->mnemonic]++;
            if (mnemonic_excluded(in->mnemonic)) /* a branch went into the middle of something */
                d->give_up = "an excluded instruction";
            defined_step(d, cpu, in, decoded->op);
        } else {
            if (reserved(m, &lock))
                d->give_up = "a reserved encoding";
            d->any_fault = lock; /* #UD for LOCK, or a fault of the operand first */
        }
        interp_step(cpu, 1);
        if (!in)
            continue;
        if (in->mnemonic == ZYDIS_MNEMONIC_CALL && cpu->cpl == 3 && cpu->code_size != code_size)
            d->give_up = "the stack of a call that changes the mode";
        faulted = cpu->cpl != 3 && load_le(m->ram->host + PHYS_STACK_TOP - 40, 8) == rip;
        if (faulted) {
            d->flags = flags_before | d->fault_flags;
            if (d->fault_give_up)
                d->give_up = d->fault_give_up;
            if (d->fault_range.size)
                defined_ignore(d, d->fault_range);
        } else {
            d->any_address = d->any_fault = false;
            seen->fault_passes += rip == fault_rip;
            coverage->retired[in->mnemonic]++;
        }
        if (g->sabotage && g->sabotage->mnemonic == in->mnemonic &&
            (!faulted || g->sabotage->what == SABOTAGE_VECTOR))
            g->sabotaged = true;
    }
    if (seen->steps == STEP_LIMIT)
        d->give_up = "too long";
}

void guest_run(struct guest *g, const struct test_case *c, struct outcome *o, struct seen *seen,
               struct coverage *coverage)
{
    fly(g, c, seen, coverage);
    o->lines = 0;
    collect(g->pilot, c, o);
    if (seen->defined.give_up)
        return;
    load_case(g->tested, c);
    g->tested->engine->run(g->tested->cpu, RUN_LIMIT);
    read_outcome(g->tested, o);
    if (g->sabotaged && o->status == RAN)
        apply_sabotage(g, o);
    collect(g->tested, c, o);
}

bool guest_ends(struct guest *g, const struct test_case *c)
{
    static struct coverage unused;
    static struct outcome o;
    struct seen seen;

    fly(g, c, &seen, &unused);
    o.lines = 0;
    collect(g->pilot, c, &o);
    return seen.steps < STEP_LIMIT;
}
