/*
 * verify.c - see verify.h: abstract interpretation of one block of host code.
 *
 * A value is a sum of symbols times constants plus a constant, modulo 2^64. A symbol is something
 * unknown with a name: what an instruction left in a register, where two ways meet, or one of the
 * few operations a check is made of: the low 32 or 16 bits of a value, a TLB index, a page number,
 * and the addend that belongs to a linear address. An access is proved when its address is an
 * addend plus a value that differs from the addend's linear address by a constant within the range
 * checked.
 *
 * The state is kept for each instruction: the values of the registers and of the cells of the GS
 * area that matter, and the facts. A fact says that the range [linear, linear + span] lies within
 * one page with a valid entry in the TLB.
 *
 * Instructions are followed by ascending address, so all ways that lead down to one are known when
 * it is reached. A way back (to the start of a check, behind an instruction that the interpreter
 * executed) must bring what was assumed there. Where it does not, that is noted (struct place) and
 * the block is followed again from the start, until nothing new is noted.
 *
 * Rules an editor must keep:
 *  - States only get poorer where ways meet: values that differ become a symbol of that place.
 *  - A symbol stands for one value on one way through the block. So on a way back to a lower
 *    address all symbols born at or behind that address are forgotten.
 *  - C may fill and drop TLB entries: behind it a fact says nothing about the TLB any more
 *    (`present`), but addends that were loaded stay good, for C does not let code go on when a
 *    mapping was dropped. When it has executed an instruction, registers are unknown, unless it was
 *    one of known effect (site.writes): then C has seen that it did no more.
 *  - What is not known to be harmless is refused: instructions are listed by what may pass.
 */
#include "translator/verify.h"

#include "translator/internal.h"

#include <Zydis/Zydis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { TERMS = 8, MAX_FACTS = 64, MAX_SPAN = 4095, MAX_LOST = 1 << 14, MAX_TIMES = 400 };

struct term {
    uint32_t symbol;
    int64_t times;
};

/* Interned: equal values have equal numbers. Terms by ascending symbol. */
struct value {
    int64_t constant;
    uint8_t terms;
    struct term term[TERMS];
};

enum symbol_kind {
    UNKNOWN,   /* a: where, b: which register or cell, and enum origin */
    LOW32,     /* a: of which value */
    LOW16,     /* a */
    PAGE,      /* a: value >> 12, b: of its low half alone, which will do for an index */
    TLB_INDEX, /* a: index of (value - 0x1000); b unused */
    ADDEND,    /* a: of the linear address, b: access */
    SIGNED32,  /* a: the low half of a value with its sign */
    BYTES,     /* a: value >> 3, with its sign */
    WORDS,     /* a: BYTES of a value cut to a multiple of b */
    AREA,      /* a: a GS area that C has prepared */
    MASKED,    /* a: of an unknown value; less than TLB_JUMPS */
    JUMP,      /* a: MASKED value; 16 times that */
};

enum origin { BY_INSTRUCTION, BY_MEETING = 1 << 8, BY_LEAVING = 2 << 8, BY_FORGETTING = 3 << 8 };

struct symbol {
    uint8_t kind;
    uint32_t a, b;
    uint32_t born; /* highest place of what it is made of */
};

struct fact {
    uint32_t linear; /* value */
    uint16_t span;
    uint8_t access;
    bool present; /* the TLB has the entry */
};

enum { /* cells of the GS area */
       CELL_GPR,
       CELL_SLOT = CELL_GPR + GPR_COUNT,
       CELL_SEGMENT = CELL_SLOT + CONTEXT_SLOTS,
       CELL_PAGE_RIP = CELL_SEGMENT + SEG_COUNT,
       CELL_SPILL,
       CELL_VALUE,
       CELL_SITE,
       CELL_KERNEL_GS,
       CELLS,
};

enum pending { NOTHING, TAG_COMPARED, RETURN_COMPARED, RETURN_PROVED, JUMP_COMPARED };

struct state {
    uint32_t reg[16]; /* values; RSP's is not used */
    uint32_t cell[CELLS];
    struct fact fact[MAX_FACTS];
    uint8_t facts;
    int8_t stack; /* RSP - RSP at the entry */
    /* Of the compare just before. */
    uint8_t pending, pending_access;
    uint16_t pending_span;
    uint32_t pending_linear;
    uint32_t jump;   /* the value of the index whose jump entry was found to be the target's */
    uint32_t missed; /* on the way out of a check: its linear address, 0: not there */
    uint16_t missed_span;
    uint8_t missed_access;
};

/* An offset in the block. The first three are of this time through it, the others stay. */
struct place {
    struct state *state; /* before the instruction */
    uint8_t is;          /* enum byte_is */
    bool done;
    bool back;      /* a way back leads here */
    uint64_t meets; /* registers and cells that differ between the ways here */
    uint32_t lost;  /* 0: none */
};

/* A fact that a way back to a place does not bring, or not that the TLB has the entry. */
struct lost {
    uint32_t linear, next; /* of the same place */
    uint8_t access;
    bool entry_alone;
};

struct verifier {
    struct translator *t;
    const struct block *b;
    const uint8_t *code; /* of the block */
    uint32_t low, size;  /* in the cache */
    struct place *place; /* each byte */
    struct lost *lost;
    uint32_t losts;
    bool again;    /* something was noted */
    uint32_t next; /* nothing to be done below */
    struct value *value;
    uint32_t *value_hash;
    uint32_t values, value_room;
    struct symbol *symbol;
    uint32_t *symbol_hash;
    uint32_t symbols;
    uint32_t now; /* offset of the instruction under way */
    bool failed;
    char *why;
    size_t why_size;
    ZydisDecoder decoder;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

enum byte_is { BYTE_UNSEEN, BYTE_START, BYTE_INSIDE };
enum { VALUE_HASH = 1 << 13, SYMBOL_HASH = 1 << 14 };

static void fail(struct verifier *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct verifier *v, const char *format, ...)
{
    ZydisFormatter formatter;
    char text[96] = "?", reason[128];
    va_list ap;

    if (v->failed)
        return;
    v->failed = true;
    va_start(ap, format);
    vsnprintf(reason, sizeof(reason), format, ap);
    va_end(ap);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (v->d.length)
        ZydisFormatterFormatInstruction(&formatter, &v->d, v->op, v->d.operand_count_visible, text,
                                        sizeof(text), v->now, NULL);
    snprintf(v->why, v->why_size, "block at %#x+%#x, '%s': %s", v->low, v->now, text, reason);
}

/* ---- values --------------------------------------------------------------------------------- */

static uint32_t intern(struct verifier *v, const struct value *x)
{
    uint64_t h = (uint64_t)x->constant * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t *at;

    for (unsigned i = 0; i < x->terms; i++)
        h = (h ^ x->term[i].symbol ^ (uint64_t)x->term[i].times << 32) *
            UINT64_C(0xc2b2ae3d27d4eb4f);
    for (uint32_t i = (uint32_t)(h >> 40);; i++) {
        const struct value *y;

        at = &v->value_hash[i & (VALUE_HASH - 1)];
        if (!*at)
            break;
        y = &v->value[*at];
        if (y->constant == x->constant && y->terms == x->terms &&
            !memcmp(y->term, x->term, x->terms * sizeof(x->term[0])))
            return *at;
    }
    if (v->values + 1 >= VALUE_HASH / 2) {
        fail(v, "the block has too many values");
        return 1;
    }
    *at = v->values++;
    v->value[*at] = *x;
    return *at;
}

static uint32_t constant(struct verifier *v, int64_t c)
{
    return intern(v, &(struct value){.constant = c});
}

static uint32_t born(const struct verifier *v, uint32_t value)
{
    const struct value *x = &v->value[value];
    uint32_t latest = 0;

    for (unsigned i = 0; i < x->terms; i++)
        latest = MAX(latest, v->symbol[x->term[i].symbol].born);
    return latest;
}

static uint32_t symbol(struct verifier *v, unsigned kind, uint32_t a, uint32_t b)
{
    struct value x = {.terms = 1};
    uint32_t *at, i = (kind << 20 ^ b * 0x9e3779b1u ^ a * 0x85ebca6bu) >> 7;

    for (;; i++) {
        const struct symbol *y;

        at = &v->symbol_hash[i & (SYMBOL_HASH - 1)];
        y = &v->symbol[*at];
        if (!*at || (y->kind == kind && y->a == a && y->b == b))
            break;
    }
    if (!*at) {
        if (v->symbols + 1 >= SYMBOL_HASH / 2) {
            fail(v, "the block has too many unknowns");
            return 1;
        }
        *at = v->symbols++;
        v->symbol[*at] = (struct symbol){.kind = (uint8_t)kind, .a = a, .b = b};
        v->symbol[*at].born = kind == UNKNOWN ? a : born(v, a);
    }
    i = *at;
    x.term[0] = (struct term){.symbol = i, .times = 1};
    return intern(v, &x);
}

/* What the instruction under way (or the place `where`) leaves in `which`. */
static uint32_t unknown(struct verifier *v, uint32_t where, unsigned which)
{
    return symbol(v, UNKNOWN, where, which);
}

/* a + b * times; none: more terms than a value can have. */
static bool add(const struct value *a, const struct value *b, int64_t times, struct value *out)
{
    unsigned i = 0, j = 0;
    struct value r = {
        .constant = (int64_t)((uint64_t)a->constant + (uint64_t)b->constant * (uint64_t)times)};

    while (i < a->terms || j < b->terms) {
        struct term t;

        if (j == b->terms || (i < a->terms && a->term[i].symbol < b->term[j].symbol)) {
            t = a->term[i++];
        } else {
            t = (struct term){.symbol = b->term[j].symbol,
                              .times = (int64_t)((uint64_t)b->term[j].times * (uint64_t)times)};
            if (i < a->terms && a->term[i].symbol == t.symbol)
                t.times = (int64_t)((uint64_t)t.times + (uint64_t)a->term[i++].times);
            j++;
        }
        if (!t.times)
            continue;
        if (r.terms == TERMS)
            return false;
        r.term[r.terms++] = t;
    }
    *out = r;
    return true;
}

/* As a number; 0 stands for a value that is too long. */
static uint32_t sum(struct verifier *v, uint32_t a, uint32_t b, int64_t times)
{
    struct value r;

    return a && b && add(&v->value[a], &v->value[b], times, &r) ? intern(v, &r) : 0;
}

static uint32_t plus(struct verifier *v, uint32_t a, int64_t c)
{
    return sum(v, a, constant(v, c), 1);
}

/* The symbol that a value is, when it is nothing else. */
static const struct symbol *only(const struct verifier *v, uint32_t value)
{
    const struct value *x = &v->value[value];

    return value && x->terms == 1 && x->term[0].times == 1 && !x->constant
               ? &v->symbol[x->term[0].symbol]
               : NULL;
}

/* The low bits of a value: parts of it that are low bits themselves count as what they are of. */
static uint32_t low_bits(struct verifier *v, unsigned kind, uint32_t value)
{
    unsigned bits = kind == LOW32 ? 32 : 16;
    struct value x = v->value[value];
    uint32_t r = constant(v, sign_extend((uint64_t)x.constant, bits));

    if (!value)
        return 0;
    if (kind == LOW32 && only(v, value) && only(v, value)->kind == LOW16)
        return value;
    if (!x.terms)
        return constant(v, (int64_t)((uint64_t)x.constant & (BIT(bits) - 1)));
    for (unsigned i = 0; i < x.terms; i++) {
        const struct symbol *s = &v->symbol[x.term[i].symbol];
        struct value one = {.terms = 1, .term = {x.term[i]}};

        one.term[0].times = sign_extend((uint64_t)one.term[0].times, bits);
        if (!one.term[0].times)
            continue;
        if (s->kind == LOW32 || (s->kind == LOW16 && kind == LOW16))
            r = sum(v, r, s->a, one.term[0].times);
        else
            r = sum(v, r, intern(v, &one), 1);
    }
    x = v->value[r];
    x.constant = sign_extend((uint64_t)x.constant, bits);
    return r ? symbol(v, kind, intern(v, &x), 0) : 0;
}

/* A symbol of low bits, of which `span` can be added without running over them? */
static bool no_wrap(const struct verifier *v, const struct state *s, uint32_t symbol_number,
                    int64_t span)
{
    for (unsigned i = 0; i < s->facts; i++) {
        const struct value *l = &v->value[s->fact[i].linear];

        /* The range lies in one page, and pages do not cross 64 KiB and 4 GiB. */
        if (span <= s->fact[i].span && l->terms == 1 && l->term[0].symbol == symbol_number &&
            l->term[0].times == 1 && !l->constant)
            return true;
    }
    return false;
}

/* Is a - b a constant? */
static bool difference(struct verifier *v, const struct state *s, uint32_t a, uint32_t b,
                       int64_t *out)
{
    struct value r;

    if (!a || !b || !add(&v->value[a], &v->value[b], -1, &r))
        return false;
    if (r.terms == 2 && (r.term[0].times == 1 || r.term[0].times == -1) &&
        r.term[0].times == -r.term[1].times) {
        const struct term *more = &r.term[r.term[0].times == 1 ? 0 : 1];
        const struct term *less = &r.term[r.term[0].times == 1 ? 1 : 0];
        const struct symbol *x = &v->symbol[more->symbol], *y = &v->symbol[less->symbol];
        int64_t d;

        if (x->kind != y->kind || (x->kind != LOW32 && x->kind != LOW16) ||
            !difference(v, s, x->a, y->a, &d))
            return false;
        d = sign_extend((uint64_t)d, x->kind == LOW32 ? 32 : 16);
        if (d < 0 || d > MAX_SPAN || !no_wrap(v, s, less->symbol, d))
            return false;
        *out = (int64_t)((uint64_t)r.constant + (uint64_t)d);
        return true;
    }
    *out = r.constant;
    return r.terms == 0;
}

/* ---- states --------------------------------------------------------------------------------- */

static void forget_all(struct verifier *v, struct state *s, uint32_t where)
{
    for (unsigned r = 0; r < 16; r++)
        s->reg[r] = unknown(v, where, r | BY_LEAVING);
    for (unsigned c = 0; c < CELLS; c++)
        s->cell[c] = unknown(v, where, (16 + c) | BY_LEAVING);
    s->facts = 0;
    s->pending = NOTHING;
    s->jump = 0;
}

static void forget_entries(struct state *s)
{
    for (unsigned i = 0; i < s->facts; i++)
        s->fact[i].present = false;
}

static uint32_t *value_of(struct state *s, unsigned which)
{
    return which < 16 ? &s->reg[which] : &s->cell[which - 16];
}

enum { VALUES_OF_STATE = 16 + CELLS };
_Static_assert(VALUES_OF_STATE <= 64, "place.meets");

/* Nothing is known of what was born at or behind `where`, but that a thing still has the value it
 * had there. */
static void forget_young(struct verifier *v, struct state *s, uint32_t where)
{
    unsigned kept = 0;

    for (unsigned n = 0; n < VALUES_OF_STATE; n++) {
        uint32_t *value = value_of(s, n);

        if (born(v, *value) >= where && *value != unknown(v, where, n | BY_MEETING))
            *value = unknown(v, where, n | BY_FORGETTING);
    }
    for (unsigned i = 0; i < s->facts; i++)
        if (born(v, s->fact[i].linear) < where)
            s->fact[kept++] = s->fact[i];
    s->facts = (uint8_t)kept;
}

static struct fact *fact_find(struct state *s, uint32_t linear, unsigned access)
{
    for (unsigned i = 0; i < s->facts; i++)
        if (s->fact[i].linear == linear && s->fact[i].access == access)
            return &s->fact[i];
    return NULL;
}

/* `s`, of a place not reached yet, becomes what holds for `o`, too. */
static void meet(struct verifier *v, struct state *s, struct state *o, uint32_t where)
{
    unsigned kept = 0;

    for (unsigned n = 0; n < VALUES_OF_STATE; n++)
        if (*value_of(s, n) != *value_of(o, n))
            *value_of(s, n) = unknown(v, where, n | BY_MEETING);
    for (unsigned i = 0; i < s->facts; i++) {
        struct fact f = s->fact[i];
        const struct fact *g = fact_find(o, f.linear, f.access);

        if (!g)
            continue;
        f.span = MIN(f.span, g->span);
        f.present &= g->present;
        s->fact[kept++] = f;
    }
    s->facts = (uint8_t)kept;
    if (s->pending != o->pending || s->pending_linear != o->pending_linear ||
        s->pending_access != o->pending_access || s->pending_span != o->pending_span)
        s->pending = NOTHING;
    if (s->missed != o->missed || s->missed_span != o->missed_span ||
        s->missed_access != o->missed_access)
        s->missed = 0;
    if (s->jump != o->jump)
        s->jump = 0;
}

/* `o` comes to a place that was followed with `s`: note what it does not bring. */
static void compare(struct verifier *v, struct state *s, struct state *o, uint32_t where)
{
    struct place *p = &v->place[where];

    if (!p->back) {
        p->back = v->again = true;
        return;
    }
    for (unsigned n = 0; n < VALUES_OF_STATE; n++)
        if (*value_of(s, n) != *value_of(o, n) &&
            *value_of(s, n) != unknown(v, where, n | BY_MEETING)) {
            p->meets |= BIT(n);
            v->again = true;
        }
    for (unsigned i = 0; i < s->facts; i++) {
        const struct fact *g = fact_find(o, s->fact[i].linear, s->fact[i].access);

        bool whole = !g || g->span < s->fact[i].span;

        if (!whole && g->present >= s->fact[i].present)
            continue;
        v->again = true;
        if (v->losts < MAX_LOST) {
            v->lost[v->losts] = (struct lost){.linear = s->fact[i].linear,
                                              .access = s->fact[i].access,
                                              .next = p->lost,
                                              .entry_alone = !whole};
            p->lost = v->losts++;
        } else {
            fail(v, "too many ways with different checks");
        }
    }
}

/* What was noted of a place, before its instruction is followed. */
static void apply_notes(struct verifier *v, struct state *s, uint32_t where)
{
    const struct place *p = &v->place[where];

    if (!p->back)
        return;
    s->pending = NOTHING;
    s->missed = s->jump = 0;
    for (unsigned n = 0; n < VALUES_OF_STATE; n++)
        if (p->meets & BIT(n))
            *value_of(s, n) = unknown(v, where, n | BY_MEETING);
    for (uint32_t i = p->lost; i; i = v->lost[i].next) {
        struct fact *f = fact_find(s, v->lost[i].linear, v->lost[i].access);

        if (f && v->lost[i].entry_alone)
            f->present = false;
        else if (f)
            *f = s->fact[--s->facts];
    }
}

/* Control goes from the instruction under way to offset `to` of the block. */
static void flow(struct verifier *v, const struct state *from, uint32_t to)
{
    struct state s = *from;
    struct place *p = &v->place[to];

    if (to >= v->size) {
        fail(v, "runs out of the block");
        return;
    }
    if (to <= v->now)
        forget_young(v, &s, to);
    if (!p->state) {
        p->state = xcalloc(1, sizeof(s));
        *p->state = s;
        v->next = MIN(v->next, to);
        return;
    }
    if (p->state->stack != s.stack)
        fail(v, "the stack of paired calls is at %d and at %d", p->state->stack, s.stack);
    if (p->done)
        compare(v, p->state, &s, to);
    else
        meet(v, p->state, &s, to);
}

static void fact_add(struct verifier *v, struct state *s)
{
    struct fact f = {.linear = s->pending_linear,
                     .span = s->pending_span,
                     .access = s->pending_access,
                     .present = true};

    for (unsigned i = 0; i < s->facts; i++)
        if (s->fact[i].linear == f.linear && s->fact[i].access == f.access) {
            s->fact[i].span = MAX(s->fact[i].span, f.span);
            s->fact[i].present = true;
            return;
        }
    if (s->facts < MAX_FACTS)
        s->fact[s->facts++] = f;
    else
        fail(v, "too many checks");
}

/* ---- the GS area ---------------------------------------------------------------------------- */

#define CONTEXT(field) (CONTEXT_AT + offsetof(struct bt_context, field))

/* The cell that [offset, offset + size) is; -1: none; -2: part of one. */
static int cell_of(int64_t offset, unsigned size)
{
    static const struct {
        size_t offset;
        unsigned count, step, size, first;
    } cells[] = {
        {offsetof(struct cpu, gpr), GPR_COUNT, 8, 8, CELL_GPR},
        {CONTEXT(slot), CONTEXT_SLOTS, 8, 8, CELL_SLOT},
        {offsetof(struct cpu, seg) + offsetof(struct segment, base), SEG_COUNT,
         sizeof(struct segment), 8, CELL_SEGMENT},
        {CONTEXT(page_rip), 1, 8, 8, CELL_PAGE_RIP},
        {CONTEXT(spill), 1, 8, 8, CELL_SPILL},
        {CONTEXT(value), 1, 8, 8, CELL_VALUE},
        {CONTEXT(site), 1, 4, 4, CELL_SITE},
        {offsetof(struct cpu, kernel_gs_base), 1, 8, 8, CELL_KERNEL_GS},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cells); i++)
        for (unsigned n = 0; n < cells[i].count; n++) {
            int64_t at = (int64_t)(cells[i].offset + (size_t)n * cells[i].step);

            if (at == offset && cells[i].size == size)
                return (int)(cells[i].first + n);
            if (offset < at + cells[i].size && at < offset + size)
                return -2 - (int)(cells[i].first + n);
        }
    return -1;
}

/* May translated code write there? */
static bool head_writable(int64_t offset, unsigned size)
{
    static const struct {
        size_t from, size;
    } good[] = {
        {offsetof(struct cpu, gpr), sizeof(((struct cpu *)0)->gpr)},
        {CONTEXT(page_rip), 8},
        {CONTEXT(target), 8},
        {CONTEXT(flags), 4},
        {CONTEXT(site), 4},
        {CONTEXT(slot), 8 * CONTEXT_SLOTS},
        {CONTEXT(spill), 8},
        {CONTEXT(value), 8},
        {CONTEXT(indirect_site), 4},
        {offsetof(struct cpu, rflags), 4},
        {offsetof(struct cpu, sti_shadow), 1},
        {offsetof(struct cpu, mmu_mode), 1},
        {offsetof(struct cpu, kernel_gs_base), 8},
        {offsetof(struct cpu, seg[SEG_FS].base), 8},
        {offsetof(struct cpu, seg[SEG_GS].base), 8},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
        if (offset >= (int64_t)good[i].from &&
            offset + size <= (int64_t)(good[i].from + good[i].size))
            return true;
    return false;
}

static bool head_readable(int64_t offset, unsigned size)
{
    return offset >= 0 && offset + size <= (int64_t)(CONTEXT_AT + sizeof(struct bt_context));
}

/* [gs: index*8 + offset]: an array of the TLB? Which access; MMU_ACCESSES: names of pages. */
static bool table_at(int64_t offset, unsigned size, bool *tag, unsigned *access)
{
    for (unsigned a = 0; a < MMU_ACCESSES; a++) {
        int64_t ways =
            (int64_t)(offsetof(struct tlb_table, ways) + (size_t)a * sizeof(struct tlb_ways));

        *access = a;
        *tag = offset == ways + (int64_t)offsetof(struct tlb_ways, tag);
        if (size == 8 && (*tag || offset == ways + (int64_t)offsetof(struct tlb_ways, addend)))
            return true;
    }
    *tag = false;
    *access = MMU_ACCESSES;
    return size <= 8 && offset == (int64_t)offsetof(struct tlb_table, code);
}

/* ---- instructions --------------------------------------------------------------------------- */

static int gpr_of(ZydisRegister r)
{
    ZydisRegister whole;

    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
        return (int)(whole - ZYDIS_REGISTER_RAX);
    default: return -1;
    }
}

/* Instructions that compute and do nothing else, whatever their operands. */
static bool harmless(const ZydisDecodedInstruction *d)
{
    if (d->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return false;
    switch (d->mnemonic) {
    case ZYDIS_MNEMONIC_STD: /* C expects it clear */
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE: return false;
    default: break;
    }
    switch (d->meta.category) {
    case ZYDIS_CATEGORY_ADOX_ADCX:
    case ZYDIS_CATEGORY_AES:
    case ZYDIS_CATEGORY_AVX:
    case ZYDIS_CATEGORY_AVX2:
    case ZYDIS_CATEGORY_AVX512:
    case ZYDIS_CATEGORY_AVX512_BITALG:
    case ZYDIS_CATEGORY_AVX512_VBMI:
    case ZYDIS_CATEGORY_AVX512_VP2INTERSECT:
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_BLEND:
    case ZYDIS_CATEGORY_BMI1:
    case ZYDIS_CATEGORY_BMI2:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_COMPRESS:
    case ZYDIS_CATEGORY_CONFLICT:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_EXPAND:
    case ZYDIS_CATEGORY_FCMOV:
    case ZYDIS_CATEGORY_FLAGOP:
    case ZYDIS_CATEGORY_FP16:
    case ZYDIS_CATEGORY_GFNI:
    case ZYDIS_CATEGORY_IFMA:
    case ZYDIS_CATEGORY_KMASK:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_LZCNT:
    case ZYDIS_CATEGORY_MISC:
    case ZYDIS_CATEGORY_MMX:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_PCLMULQDQ:
    case ZYDIS_CATEGORY_RDRAND:
    case ZYDIS_CATEGORY_RDSEED:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_SEMAPHORE:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHA:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_SSE:
    case ZYDIS_CATEGORY_STTNI:
    case ZYDIS_CATEGORY_UFMA:
    case ZYDIS_CATEGORY_VAES:
    case ZYDIS_CATEGORY_VBMI2:
    case ZYDIS_CATEGORY_VEX:
    case ZYDIS_CATEGORY_VFMA:
    case ZYDIS_CATEGORY_VPCLMULQDQ:
    case ZYDIS_CATEGORY_WIDENOP:
    case ZYDIS_CATEGORY_X87_ALU: return true;
    default: return false;
    }
}

/* The address of a memory operand without its segment. 0: not known. */
static uint32_t address_of(struct verifier *v, const struct state *s,
                           const ZydisDecodedOperandMem *m)
{
    uint32_t r = constant(v, m->disp.value);
    int base = gpr_of(m->base), index = gpr_of(m->index);

    if (m->base != ZYDIS_REGISTER_NONE) {
        if (base < 0 || base == RSP || ZydisRegisterGetClass(m->base) != ZYDIS_REGCLASS_GPR64)
            return 0;
        r = sum(v, r, s->reg[base], 1);
    }
    if (m->index != ZYDIS_REGISTER_NONE) {
        if (index < 0 || ZydisRegisterGetClass(m->index) != ZYDIS_REGCLASS_GPR64)
            return 0;
        r = sum(v, r, s->reg[index], m->scale ? m->scale : 1);
    }
    return r;
}

static void guest_access(struct verifier *v, const struct state *s, uint32_t address, unsigned size,
                         bool write)
{
    const struct value *x = &v->value[address];

    for (unsigned i = 0; address && i < x->terms; i++) {
        const struct symbol addend = v->symbol[x->term[i].symbol];
        struct value one = {.terms = 1, .term = {x->term[i]}};
        uint32_t linear;
        int64_t at;

        if (addend.kind != ADDEND || x->term[i].times != 1)
            continue;
        linear = sum(v, address, intern(v, &one), -1);
        x = &v->value[address];
        if (write && addend.b != MMU_WRITE) {
            fail(v, "a write by an entry for another access");
            return;
        }
        for (unsigned f = 0; f < s->facts; f++)
            if (s->fact[f].linear == addend.a && s->fact[f].access == addend.b &&
                difference(v, s, linear, addend.a, &at) && at >= 0 &&
                at + size - 1 <= s->fact[f].span)
                return;
        fail(v, "an access of %u bytes that no check covers", size);
        return;
    }
    fail(v, "an address without an addend");
}

static bool is_bit_string(const struct verifier *v)
{
    switch (v->d.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: return v->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default: return false;
    }
}

/* Of the bytes that are accessed: a bit's number moves them by words. */
static uint32_t operand_address(struct verifier *v, const struct state *s,
                                const ZydisDecodedOperand *o)
{
    uint32_t address = address_of(v, s, &o->mem), bit;

    if (!is_bit_string(v))
        return address;
    if (o->size != 32 && o->size != 64)
        return 0;
    bit = s->reg[gpr_of(v->op[1].reg.value)];
    if (o->size == 32)
        bit = symbol(v, SIGNED32, bit, 0);
    return sum(v, address, symbol(v, WORDS, bit, o->size / 8), 1);
}

/* Prove a memory operand; for one in the GS area say what is read: a cell's value, a tag ... */
static void memory_operand(struct verifier *v, const struct state *s, const ZydisDecodedOperand *o)
{
    const ZydisDecodedOperandMem *m = &o->mem;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE, tag;
    unsigned size = o->size / 8, access;

    if (m->type == ZYDIS_MEMOP_TYPE_AGEN || v->d.mnemonic == ZYDIS_MNEMONIC_NOP)
        return;
    if (m->type != ZYDIS_MEMOP_TYPE_MEM || !size || size > 64) {
        fail(v, "a memory operand of a kind that cannot be proved");
        return;
    }
    switch (m->segment) {
    case ZYDIS_REGISTER_GS:
        if (m->base != ZYDIS_REGISTER_NONE) {
            const struct symbol *i = gpr_of(m->base) >= 0 ? only(v, s->reg[gpr_of(m->base)]) : NULL;

            if (!i || i->kind != JUMP || m->index != ZYDIS_REGISTER_NONE || write || size != 8 ||
                m->disp.value != (int64_t)offsetof(struct tlb_table, jump))
                fail(v, "the GS area by a base register");
        } else if (m->index == ZYDIS_REGISTER_NONE) {
            if (write ? !head_writable(m->disp.value, size) : !head_readable(m->disp.value, size))
                fail(v, "not a place of the GS area that may be accessed so");
        } else {
            const struct symbol *i = gpr_of(m->index) >= 0 ? only(v, s->reg[gpr_of(m->index)])
                                                           : NULL;

            if (!i || (i->kind != TLB_INDEX && i->kind != LOW16) || m->scale != 8 || write ||
                !table_at(m->disp.value, size, &tag, &access))
                fail(v, "not an entry of the TLB");
        }
        break;
    case ZYDIS_REGISTER_FS: fail(v, "FS"); break;
    default: guest_access(v, s, operand_address(v, s, o), size, write); break;
    }
}

static uint32_t operand_value(struct verifier *v, const struct state *s,
                              const ZydisDecodedOperand *o)
{
    int cell;

    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_IMMEDIATE: return constant(v, (int64_t)o->imm.value.u);
    case ZYDIS_OPERAND_TYPE_REGISTER:
        return o->size == 64   ? s->reg[gpr_of(o->reg.value)]
               : o->size == 32 ? low_bits(v, LOW32, s->reg[gpr_of(o->reg.value)])
                               : 0;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (o->mem.segment != ZYDIS_REGISTER_GS || o->mem.index != ZYDIS_REGISTER_NONE)
            return 0;
        if (o->size == 64 && o->mem.disp.value >= (int64_t)CONTEXT(area) &&
            o->mem.disp.value < (int64_t)(CONTEXT(area) + 16) && o->mem.disp.value % 8 == 0)
            return symbol(v, AREA, constant(v, 0), v->now);
        cell = cell_of(o->mem.disp.value, o->size / 8);
        if (cell >= 0)
            return s->cell[cell];
        /* The low half of a cell. */
        cell = o->size == 32 ? cell_of(o->mem.disp.value, 8) : -1;
        return cell >= 0 ? low_bits(v, LOW32, s->cell[cell]) : 0;
    default: return 0;
    }
}

/* The addend of the page that the index in `index` belongs to. 0: no check says that it is there.
 */
static uint32_t addend_of(struct verifier *v, const struct state *s, int index, unsigned access)
{
    const struct symbol *i = only(v, s->reg[index]);
    uint32_t linear, found = 0;
    int64_t at;

    if (!i || i->kind != TLB_INDEX)
        return 0;
    linear = plus(v, i->a, -0x1000);
    for (unsigned f = 0; f < s->facts; f++)
        if (s->fact[f].present && s->fact[f].access == access &&
            difference(v, s, linear, s->fact[f].linear, &at) && at >= 0 && at <= s->fact[f].span &&
            (!found || !at)) /* best the check that was made for it */
            found = s->fact[f].linear;
    return found ? symbol(v, ADDEND, found, access) : 0;
}

/* What the instruction gives its first operand, when that is one of the things followed. */
static uint32_t result(struct verifier *v, const struct state *s)
{
    const ZydisDecodedOperand *to = &v->op[0], *from = &v->op[1];
    uint32_t r = 0;
    const struct symbol *page;
    unsigned access;
    bool tag;

    switch (v->d.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (from->type == ZYDIS_OPERAND_TYPE_MEMORY && from->mem.segment == ZYDIS_REGISTER_GS &&
            from->mem.index != ZYDIS_REGISTER_NONE) {
            if (to->size == 64 && table_at(from->mem.disp.value, 8, &tag, &access) && !tag &&
                access < MMU_ACCESSES)
                r = addend_of(v, s, gpr_of(from->mem.index), access);
        } else {
            r = operand_value(v, s, from);
        }
        break;
    case ZYDIS_MNEMONIC_LEA: r = address_of(v, s, &from->mem); break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (to->size >= 32)
            r = sum(v, operand_value(v, s, to), operand_value(v, s, from),
                    v->d.mnemonic == ZYDIS_MNEMONIC_ADD ? 1 : -1);
        break;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        if (to->size >= 32)
            r = plus(v, operand_value(v, s, to), v->d.mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1);
        break;
    case ZYDIS_MNEMONIC_MOVSXD:
        if (to->size == 64 && from->type == ZYDIS_OPERAND_TYPE_REGISTER)
            r = symbol(v, SIGNED32, s->reg[gpr_of(from->reg.value)], 0);
        break;
    case ZYDIS_MNEMONIC_SAR:
        if (to->size == 64 && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            from->imm.value.u == 3 && to->type == ZYDIS_OPERAND_TYPE_REGISTER)
            r = symbol(v, BYTES, s->reg[gpr_of(to->reg.value)], 0);
        break;
    case ZYDIS_MNEMONIC_SHL:
        page = to->type == ZYDIS_OPERAND_TYPE_REGISTER && to->size == 32
                   ? only(v, s->reg[gpr_of(to->reg.value)])
                   : NULL;
        if (page && page->kind == MASKED && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            from->imm.value.u == 4)
            return symbol(v, JUMP, s->reg[gpr_of(to->reg.value)], 0);
        break;
    case ZYDIS_MNEMONIC_AND:
        if (to->size == 32 && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            from->imm.value.u == TLB_JUMPS - 1)
            return symbol(v, MASKED, unknown(v, v->now, RAX), 0);
        if (to->size == 64 && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            (from->imm.value.s == -4 || from->imm.value.s == -8) &&
            to->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            page = only(v, s->reg[gpr_of(to->reg.value)]);
            if (page && page->kind == BYTES)
                r = symbol(v, WORDS, page->a, (uint32_t)-from->imm.value.s);
        }
        break;
    case ZYDIS_MNEMONIC_SHR:
        if (to->size >= 32 && from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            from->imm.value.u == 12 && to->type == ZYDIS_OPERAND_TYPE_REGISTER)
            return symbol(v, PAGE, s->reg[gpr_of(to->reg.value)], to->size == 32);
        break;
    case ZYDIS_MNEMONIC_MOVZX:
        if (to->size == 32 && from->type == ZYDIS_OPERAND_TYPE_REGISTER && from->size == 16) {
            page = only(v, s->reg[gpr_of(from->reg.value)]);
            r = page && page->kind == PAGE ? symbol(v, TLB_INDEX, page->a, 0)
                                           : low_bits(v, LOW16, s->reg[gpr_of(from->reg.value)]);
        }
        break;
    default: break;
    }
    if (r && to->size == 32 && v->d.mnemonic != ZYDIS_MNEMONIC_MOVZX)
        r = low_bits(v, LOW32, r);
    return to->size >= 32 ? r : 0;
}

static void cell_write(struct verifier *v, struct state *s, int64_t offset, unsigned size,
                       uint32_t value)
{
    for (unsigned done = 0; done < size;) {
        int cell = cell_of(offset + done, size - done);

        if (cell >= 0) {
            s->cell[cell] = value && !done ? value : unknown(v, v->now, 16 + (unsigned)cell);
            return;
        }
        if (cell <= -2)
            s->cell[-2 - cell] = unknown(v, v->now, 16 + (unsigned)(-2 - cell));
        done++;
    }
}

/* A compare that a check is made of? */
static void note_compare(struct verifier *v, struct state *s)
{
    const ZydisDecodedOperand *a = &v->op[0], *b = &v->op[1];
    const struct symbol *page, *index;
    unsigned access;
    int64_t span;
    bool tag;

    if (a->type != ZYDIS_OPERAND_TYPE_REGISTER || b->type != ZYDIS_OPERAND_TYPE_MEMORY ||
        a->size != 64)
        return;
    if (b->mem.base == ZYDIS_REGISTER_RSP) {
        if (a->reg.value == ZYDIS_REGISTER_RCX)
            s->pending = RETURN_COMPARED;
        return;
    }
    if (b->mem.segment == ZYDIS_REGISTER_GS && gpr_of(b->mem.base) >= 0) {
        s->pending = JUMP_COMPARED;
        s->pending_linear = s->reg[gpr_of(b->mem.base)];
        return;
    }
    if (b->mem.segment != ZYDIS_REGISTER_GS || gpr_of(b->mem.index) < 0 ||
        !table_at(b->mem.disp.value, 8, &tag, &access) || !tag)
        return;
    page = only(v, s->reg[gpr_of(a->reg.value)]);
    index = only(v, s->reg[gpr_of(b->mem.index)]);
    /* The index of the first byte, the tag of the last. */
    if (!page || !index || page->kind != PAGE || page->b || index->kind != TLB_INDEX ||
        !difference(v, s, page->a, index->a, &span) || span < 0 || span > MAX_SPAN)
        return;
    s->pending_linear = plus(v, index->a, -0x1000);
    if (!s->pending_linear)
        return;
    s->pending = TAG_COMPARED;
    s->pending_access = (uint8_t)access;
    s->pending_span = (uint16_t)span;
}

/* Segments, control and debug registers. */
static bool is_of_the_system(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_SEGMENT:
    case ZYDIS_REGCLASS_CONTROL:
    case ZYDIS_REGCLASS_DEBUG:
    case ZYDIS_REGCLASS_TEST:
    case ZYDIS_REGCLASS_TABLE: return true;
    default: return false;
    }
}

/* An instruction that goes on behind itself and does not touch RSP. */
static void ordinary(struct verifier *v, struct state *s)
{
    const ZydisDecodedOperand *to = &v->op[0];
    uint32_t value = 0;
    bool first_written = v->d.operand_count_visible && to->actions & ZYDIS_OPERAND_ACTION_WRITE;

    if (v->d.mnemonic == ZYDIS_MNEMONIC_WRGSBASE) {
        const struct symbol *area = gpr_of(to->reg.value) >= 0
                                        ? only(v, s->reg[gpr_of(to->reg.value)])
                                        : NULL;

        if (!area || area->kind != AREA || to->size != 64)
            fail(v, "another GS area than C prepared");
        forget_entries(s);
        s->pending = NOTHING;
        return;
    }
    if (v->d.mnemonic != ZYDIS_MNEMONIC_RDTSC && !harmless(&v->d)) {
        fail(v, "an instruction that translated code must not have");
        return;
    }
    for (unsigned i = 0; i < v->d.operand_count; i++) {
        const ZydisDecodedOperand *o = &v->op[i];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (o->mem.base == ZYDIS_REGISTER_RSP) {
                if (v->d.mnemonic != ZYDIS_MNEMONIC_CMP || o->mem.disp.value != 8 || s->stack ||
                    o->mem.index != ZYDIS_REGISTER_NONE)
                    fail(v, "the stack of paired calls, not by its pattern");
                continue;
            }
            memory_operand(v, s, o);
        }
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(o->reg.value) == RSP &&
            o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            fail(v, "RSP is written");
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_of_the_system(o->reg.value))
            fail(v, "a register of the system");
    }
    if (is_bit_string(v) && to->type == ZYDIS_OPERAND_TYPE_MEMORY &&
        to->mem.segment == ZYDIS_REGISTER_GS)
        fail(v, "a bit string in the GS area");
    if (v->failed)
        return;
    s->pending = NOTHING;
    s->pending_linear = s->pending_access = s->pending_span = 0;
    if (v->d.mnemonic == ZYDIS_MNEMONIC_CMP)
        note_compare(v, s);
    if (v->d.mnemonic == ZYDIS_MNEMONIC_XCHG && v->op[1].size == 64 &&
        to->type == ZYDIS_OPERAND_TYPE_REGISTER && v->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
        uint32_t *a = &s->reg[gpr_of(to->reg.value)], *b = &s->reg[gpr_of(v->op[1].reg.value)];

        value = *a;
        *a = *b;
        *b = value;
        return;
    }
    if (first_written && (to->type == ZYDIS_OPERAND_TYPE_MEMORY || gpr_of(to->reg.value) >= 0))
        value = result(v, s);
    for (unsigned i = 0; i < v->d.operand_count; i++) {
        const ZydisDecodedOperand *o = &v->op[i];
        int reg;

        if (!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (reg = gpr_of(o->reg.value)) >= 0)
            s->reg[reg] = i == 0 && value ? value : unknown(v, v->now, (unsigned)reg);
        else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.segment == ZYDIS_REGISTER_GS)
            cell_write(v, s, o->mem.disp.value, o->size / 8, i == 0 ? value : 0);
    }
}

/* ---- control flow --------------------------------------------------------------------------- */

static bool is_entry(const struct verifier *v, uint32_t at)
{
    const struct block *b = block_of_host(v->t, at);

    return b && (b->start == at || b->entry_saved == at);
}

/* The linear address that C works out for a site whose check it may pass. */
static uint32_t site_address(struct verifier *v, const struct state *s, const struct site *site)
{
    unsigned kind = site->address_size == 8 ? 0 : site->address_size == 4 ? LOW32 : LOW16;
    bool wide = !(v->b->key & (KEY_SIZE16 | KEY_SIZE32));
    uint32_t r = constant(v, site->disp);

    for (unsigned i = 0; i < 2; i++) {
        unsigned g = i ? site->index : site->base;
        uint32_t value = constant(v, 0);

        if (g == BASE_RIP)
            value = s->cell[CELL_PAGE_RIP];
        else if (g < GPR_COUNT)
            value = host_of[g] == NO_REG ? s->cell[CELL_GPR + g] : s->reg[host_of[g]];
        else if (g != BASE_NONE)
            return 0;
        r = sum(v, r, value, i ? site->scale : 1);
    }
    if (kind)
        r = low_bits(v, kind, r);
    if (site->segment != SEG_NONE) {
        if (site->segment >= SEG_COUNT)
            return 0;
        r = sum(v, r, s->cell[CELL_SEGMENT + site->segment], 1);
    }
    return wide ? r : low_bits(v, LOW32, r);
}

/* C has looked at the page: code goes on with the addend in RAX, for this once. */
static void pass(struct verifier *v, const struct state *s, const struct site *site)
{
    struct state after = *s;
    int64_t at;

    if (!s->missed || s->missed_access != MMU_WRITE || s->missed_span + 1 != site->size ||
        !difference(v, s, site_address(v, s, site), s->missed, &at) || at) {
        fail(v, "the address of a site is not the one that was checked");
        return;
    }
    after.pending = NOTHING;
    after.pending_linear = s->missed;
    after.pending_span = s->missed_span;
    after.pending_access = s->missed_access;
    forget_entries(&after);
    fact_add(v, &after); /* the entry is there, with TLB_ASK */
    after.missed = 0;
    after.reg[RAX] = symbol(v, ADDEND, s->missed, MMU_WRITE);
    after.reg[RCX] = unknown(v, v->now, RCX | BY_LEAVING);
    flow(v, &after, site->pass - v->low);
}

/* Leaving by a site: where C may let it go on. */
static void leave(struct verifier *v, const struct state *s)
{
    const struct value *n = &v->value[s->cell[CELL_SITE]];
    const struct site *site;
    struct state again = *s, after = *s;

    if (s->stack != 0 && s->stack != -16) {
        fail(v, "leaves with the stack of paired calls at %d", s->stack);
        return;
    }
    if (n->terms || n->constant < SITES_FIXED || n->constant >= v->t->site_count ||
        &v->t->blocks[v->t->sites[n->constant].block] != v->b) {
        fail(v, "leaves without a site of its own");
        return;
    }
    site = &v->t->sites[n->constant];
    again.pending = after.pending = NOTHING;
    forget_entries(&again);
    again.missed = after.missed = 0;
    if (site->pass)
        pass(v, s, site);
    if (site->retry) {
        again.reg[RAX] = unknown(v, v->now, RAX | BY_LEAVING);
        again.reg[RCX] = unknown(v, v->now, RCX | BY_LEAVING);
        flow(v, &again, site->retry - v->low);
    }
    if (site->resume && site->known) {
        /* run.c sees to it that the registers are as `writes` and `stack` say. */
        for (unsigned g = 0; g < GPR_COUNT; g++) {
            uint32_t *value = host_of[g] == NO_REG ? &after.cell[CELL_GPR + g]
                                                   : &after.reg[host_of[g]];

            if (site->writes >> g & 1)
                *value = unknown(v, v->now, g | BY_LEAVING);
            else if (g == GPR_RSP && site->stack)
                *value = plus(v, *value, site->stack);
            if (g == GPR_RSP && site->stack && !(v->b->key & (KEY_SIZE16 | KEY_SIZE32)))
                continue;
            if (g == GPR_RSP && site->stack)
                *value = low_bits(v, LOW32, *value);
        }
        after.reg[RAX] = unknown(v, v->now, (16 + CELLS) | BY_LEAVING);
        after.reg[RCX] = unknown(v, v->now, (17 + CELLS) | BY_LEAVING);
        if (site->kind == SITE_HELP && site->helper == HELP_WRMSR) { /* of FS, GS, or the other */
            for (unsigned g = 0; g < SEG_COUNT; g++)
                after.cell[CELL_SEGMENT + g] = unknown(v, v->now,
                                                       (16 + CELL_SEGMENT + g) | BY_LEAVING);
            after.cell[CELL_KERNEL_GS] = unknown(v, v->now, (16 + CELL_KERNEL_GS) | BY_LEAVING);
        }
    } else if (site->resume) { /* and to segments, slots and page_rip being as they were */
        for (unsigned r = 0; r < 16; r++)
            after.reg[r] = unknown(v, v->now, r | BY_LEAVING);
        for (unsigned c = 0; c < CELLS; c++)
            if (c < CELL_SLOT || c > CELL_PAGE_RIP)
                after.cell[c] = unknown(v, v->now, (16 + c) | BY_LEAVING);
    }
    if (site->resume) {
        if (site->kind == SITE_HELP && help_remaps(site->helper)) /* addends are void */
            forget_all(v, &after, v->now);
        forget_entries(&after);
        flow(v, &after, site->resume - v->low);
    }
}

enum way { WAY_JUMP, WAY_CONDITION, WAY_CALL };

/* A branch to a place of the cache. */
static void branch(struct verifier *v, const struct state *s, uint32_t to, enum way way)
{
    const struct bt_stubs *stub = &v->t->stub;
    const uint8_t *rx = v->t->rx + to;
    int8_t frame = way == WAY_CALL ? -8 : 0;

    if (way == WAY_CALL && (rx == stub->ensure_vec || rx == stub->ensure_x87))
        return; /* they return behind the call; see step() */
    if (to >= v->low && to - v->low < v->size && !is_entry(v, to)) {
        struct state inner = *s;

        inner.pending = NOTHING;
        if (v->d.mnemonic == ZYDIS_MNEMONIC_JNZ && s->pending == TAG_COMPARED) {
            inner.missed = s->pending_linear;
            inner.missed_span = s->pending_span;
            inner.missed_access = s->pending_access;
        }
        if (way == WAY_CALL)
            inner.stack = (int8_t)(inner.stack - 8);
        flow(v, &inner, to - v->low);
        return;
    }
    if ((rx == stub->leave_hw || rx == stub->leave_saved || rx == stub->leave_fast ||
         rx == stub->leave_slow) &&
        way == WAY_JUMP) {
        leave(v, s);
        return;
    }
    if (s->stack != frame && !(rx == stub->indirect_miss && s->stack == -16))
        fail(v, "leaves with the stack of paired calls at %d", s->stack);
    else if (rx == stub->ret_miss || rx == stub->indirect_miss
                 ? way == WAY_CALL
                 : rx != stub->indirect && !is_entry(v, to))
        fail(v, "goes to %#x, which is no place to go to", to);
}

/* JMP and CALL to where the jump entry says. */
static void by_jump_entry(struct verifier *v, struct state *s, enum way way)
{
    const ZydisDecodedOperand *o = &v->op[0];
    int8_t frame = way == WAY_CALL ? -8 : 0;

    if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.segment != ZYDIS_REGISTER_GS ||
        gpr_of(o->mem.base) < 0 || o->mem.index != ZYDIS_REGISTER_NONE || o->size != 64 ||
        o->mem.disp.value != (int64_t)offsetof(struct tlb_table, jump) + 8 || !s->jump ||
        s->reg[gpr_of(o->mem.base)] != s->jump || s->stack != frame ||
        v->d.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        fail(v, "an indirect branch");
}

static bool falls_through(const ZydisDecodedInstruction *d)
{
    return d->mnemonic != ZYDIS_MNEMONIC_JMP && d->mnemonic != ZYDIS_MNEMONIC_RET;
}

/* Branches and the instructions of the stack of paired calls; false: another one. */
static bool control(struct verifier *v, struct state *s)
{
    const ZydisDecodedInstruction *d = &v->d;
    bool direct = v->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && v->op[0].imm.is_relative;
    uint32_t to = v->low + v->now + d->length + (uint32_t)v->op[0].imm.value.s;
    uint8_t pending = s->pending;

    switch (d->meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        if (!direct)
            fail(v, "an indirect branch");
        branch(v, s, to, WAY_CONDITION);
        s->pending = NOTHING;
        s->missed = 0;
        if (d->mnemonic == ZYDIS_MNEMONIC_JNZ && pending == TAG_COMPARED)
            fact_add(v, s);
        if (d->mnemonic == ZYDIS_MNEMONIC_JNZ && pending == JUMP_COMPARED)
            s->jump = s->pending_linear;
        if (d->mnemonic == ZYDIS_MNEMONIC_JNZ && pending == RETURN_COMPARED)
            s->pending = RETURN_PROVED;
        return true;
    case ZYDIS_CATEGORY_UNCOND_BR:
        if (direct)
            branch(v, s, to, WAY_JUMP);
        else
            by_jump_entry(v, s, WAY_JUMP);
        return true;
    case ZYDIS_CATEGORY_CALL:
        if (direct)
            branch(v, s, to, WAY_CALL);
        else
            by_jump_entry(v, s, WAY_CALL);
        if (direct &&
            (v->t->rx + to == v->t->stub.ensure_vec || v->t->rx + to == v->t->stub.ensure_x87)) {
            s->pending = NOTHING;
            s->reg[RAX] = unknown(v, v->now, RAX | BY_LEAVING);
            s->reg[RCX] = unknown(v, v->now, RCX | BY_LEAVING);
        } else {
            if (s->stack != -8)
                fail(v, "a call without the guest's return address");
            forget_all(v, s, v->now);
        }
        return true;
    case ZYDIS_CATEGORY_RET:
        if (pending != RETURN_PROVED || s->stack || d->raw.imm[0].size ||
            d->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
            fail(v, "a return that was not compared");
        return true;
    case ZYDIS_CATEGORY_PUSH:
        if (d->mnemonic != ZYDIS_MNEMONIC_PUSH || v->op[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
            v->op[0].size != 64 || s->stack)
            fail(v, "a push that is not a call's");
        s->stack = -8;
        s->pending = NOTHING;
        return true;
    default: break;
    }
    if (d->mnemonic == ZYDIS_MNEMONIC_LEA && v->op[0].reg.value == ZYDIS_REGISTER_RSP) {
        if (s->stack != -8 || v->op[1].mem.base != ZYDIS_REGISTER_RSP ||
            v->op[1].mem.index != ZYDIS_REGISTER_NONE || v->op[1].mem.disp.value != 8)
            fail(v, "RSP is moved, not by the pattern");
        s->stack = 0;
        s->pending = NOTHING;
        return true;
    }
    return false;
}

static void step(struct verifier *v)
{
    struct state s;

    apply_notes(v, v->place[v->now].state, v->now);
    s = *v->place[v->now].state;
    v->place[v->now].done = true;
    v->d.length = 0;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&v->decoder, v->code + v->now, v->size - v->now, &v->d,
                                             v->op))) {
        fail(v, "not an instruction");
        return;
    }
    for (unsigned i = 0; i < v->d.length; i++) {
        uint8_t is = i ? BYTE_INSIDE : BYTE_START;

        uint8_t *was = &v->place[v->now + i].is;

        if (*was != BYTE_UNSEEN && *was != is)
            fail(v, "one instruction within another");
        *was = is;
    }
    if (v->d.address_width != 64)
        fail(v, "an address that is cut");
    if (!control(v, &s))
        ordinary(v, &s);
    if (!v->failed && falls_through(&v->d))
        flow(v, &s, v->now + v->d.length);
}

/* Once through the block. */
static void follow(struct verifier *v, const struct state *entry)
{
    for (uint32_t i = 0; i < v->size; i++) {
        free(v->place[i].state);
        v->place[i].state = NULL;
        v->place[i].is = BYTE_UNSEEN;
        v->place[i].done = false;
    }
    v->again = false;
    v->next = v->size;
    v->now = v->size; /* the entries are ways from outside, behind everything */
    flow(v, entry, v->b->start - v->low);
    flow(v, entry, v->b->entry_saved - v->low);
    while (!v->failed && v->next < v->size) {
        v->now = v->next++;
        if (v->place[v->now].state && !v->place[v->now].done)
            step(v);
    }
}

bool verify_block(struct translator *t, const struct block *b, char *why, size_t size)
{
    struct verifier v = {.t = t, .b = b, .why = why, .why_size = size};
    struct state entry = {0};
    unsigned times = 0;

    v.low = MIN(b->start, b->entry_saved);
    v.size = b->end - v.low;
    v.code = t->rx + v.low;
    v.place = xcalloc(v.size, sizeof(*v.place));
    v.value = xcalloc(VALUE_HASH / 2, sizeof(*v.value));
    v.value_hash = xcalloc(VALUE_HASH, sizeof(*v.value_hash));
    v.symbol = xcalloc(SYMBOL_HASH / 2, sizeof(*v.symbol));
    v.symbol_hash = xcalloc(SYMBOL_HASH, sizeof(*v.symbol_hash));
    v.lost = xcalloc(MAX_LOST, sizeof(*v.lost));
    v.values = v.losts = 1; /* 0: none */
    v.symbols = 1;
    ZydisDecoderInit(&v.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    snprintf(why, size, "%s", "");
    forget_all(&v, &entry, 0);
    do {
        follow(&v, &entry);
        times++;
    } while (v.again && !v.failed && times < MAX_TIMES);
    if (v.again)
        fail(&v, "the ways through the block do not come to rest");
    for (uint32_t i = 0; i < v.size; i++)
        free(v.place[i].state);
    free(v.place);
    free(v.lost);
    free(v.value);
    free(v.value_hash);
    free(v.symbol);
    free(v.symbol_hash);
    return !v.failed;
}
