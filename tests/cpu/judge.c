/*
 * judge.c - do two outcomes agree; and if not, on how small a case do they still differ.
 *
 * Not compared: what defined.c says; RF (who sets it in pushed flags differs); IF, IOPL; the high
 * halves of registers and R8-R15 in a run that was not in 64-bit mode from start to end; the
 * present bit of a page fault in the kernel's half (Linux always shows it as set).
 */
#include "oracle.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static const char gpr_name[GPR_COUNT][4] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                            "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
static const char seg_name[SEG_COUNT][3] = {"ES", "CS", "SS", "DS", "FS", "GS"};
static const uint64_t compared_flags = RFLAGS_STATUS | RFLAGS_DF | RFLAGS_TF | RFLAGS_NT |
                                       RFLAGS_AC | RFLAGS_ID;

/* Linux keeps the last page of the lower half from its processes. */
#define LINUX_USER_END UINT64_C(0x7ffffffff000)

struct judge {
    FILE *report;
    unsigned differences;
};

static void differ(struct judge *j, const char *name, uint64_t want, uint64_t got)
{
    j->differences++;
    if (j->report)
        fprintf(j->report, "    %-8s host %016llx  engine %016llx\n", name,
                (unsigned long long)want, (unsigned long long)got);
}

static void compare(struct judge *j, const char *name, uint64_t want, uint64_t got)
{
    if (want != got)
        differ(j, name, want, got);
}

static void compare_bytes(struct judge *j, const char *name, unsigned n, const uint8_t *want,
                          const uint8_t *got, unsigned size)
{
    char at[24];

    if (!memcmp(want, got, size))
        return;
    for (unsigned i = 0; i < size; i += 8) {
        unsigned part = MIN(8, size - i);

        snprintf(at, sizeof(at), "%s%u+%u", name, n, i);
        compare(j, at, load_le(want + i, part), load_le(got + i, part));
    }
}

static bool ignored(const struct defined *d, uint64_t address)
{
    for (unsigned i = 0; i < d->ranges; i++)
        if (address - d->range[i].start < d->range[i].size)
            return true;
    return false;
}

/* Lines only one side changed are compared with the image it started from. */
static void compare_memory(struct judge *j, const struct test_case *c, const struct outcome *want,
                           const struct outcome *got, const struct defined *d)
{
    static uint8_t image[IMAGE_SIZE];
    static uint64_t image_seed = UINT64_MAX;
    unsigned a = 0, b = 0, reported = 0;

    if (!want->lines && !got->lines)
        return;
    if (image_seed != c->memory_seed) {
        memory_image_fill(c->memory_seed, image);
        image_seed = c->memory_seed;
    }
    if (c->open)
        memcpy(image + IMAGE_OPEN + c->code_offset, c->code, c->length);
    while (a < want->lines || b < got->lines) {
        unsigned ia = a < want->lines ? want->line[a].index : UINT32_MAX;
        unsigned ib = b < got->lines ? got->line[b].index : UINT32_MAX;
        unsigned index = MIN(ia, ib);
        const uint8_t *original = image + (size_t)index * LINE;
        const uint8_t *wa = ia == index ? want->line[a++].bytes : original;
        const uint8_t *gb = ib == index ? got->line[b++].bytes : original;

        for (unsigned i = 0; i < LINE; i++) {
            uint64_t address = image_address(index * LINE + i);
            char name[32];

            if (wa[i] == gb[i] || ignored(d, address))
                continue;
            snprintf(name, sizeof(name), "[%llx]", (unsigned long long)address);
            if (reported++ < 20)
                differ(j, name, wa[i], gb[i]);
        }
    }
    memset(image + IMAGE_OPEN + c->code_offset, 0xcc, c->length);
}

static bool has_error_code(unsigned vector)
{
    return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* The kernel's IRET to the signal handler makes all null selectors 0. */
static uint16_t selector_seen(uint16_t selector)
{
    return selector < 4 ? 0 : selector;
}

/* Must the rest of an invalid instruction be fetched, from where nothing is, or not? */
static bool undecided_fetch(const struct outcome *a, const struct outcome *b)
{
    return a->status == RAN && b->status == RAN && a->vector == EXC_UD && b->vector == EXC_PF &&
           b->error & PF_I && a->out.rip == b->out.rip;
}

bool outcomes_agree(const struct test_case *c, const struct outcome *want,
                    const struct outcome *got, const struct defined *d, FILE *report)
{
    struct judge j = {.report = report};
    const struct cpu_image *w = &want->out, *g = &got->out;
    bool wide = c->mode == 64 && w->sel[SEG_CS] == SEL_CODE64;
    uint64_t mask = wide ? UINT64_MAX : UINT32_MAX;

    if (undecided_fetch(want, got) || undecided_fetch(got, want))
        return true;
    if (w->mxcsr & ~0xffffu) /* the host has misaligned SSE, which no model offers */
        return true;
    compare(&j, "status", want->status, got->status);
    if (j.differences || want->status != RAN)
        return !j.differences;
    if (!d->any_fault || want->out.rip != got->out.rip)
        compare(&j, "vector", want->vector, got->vector);
    if (!j.differences && !d->any_fault && has_error_code(want->vector)) {
        uint64_t ignore = want->vector == EXC_PF && want->cr2 >= LINUX_USER_END ? PF_P : 0;

        compare(&j, "error", want->error & ~ignore, got->error & ~ignore);
        if (want->vector == EXC_PF && !d->any_address)
            compare(&j, "CR2", want->cr2 & mask, got->cr2 & mask);
    }
    compare(&j, "RIP", w->rip & mask, g->rip & mask);
    compare(&j, "RFLAGS", w->rflags & compared_flags & ~d->flags,
            g->rflags & compared_flags & ~d->flags);
    for (unsigned i = 0; i < (wide ? GPR_COUNT : 8); i++) {
        /* The kernel's return to a 16-bit stack loses the bits that do not count. */
        uint64_t m = i == GPR_RSP && !wide && selector_is_16(w->sel[SEG_SS]) ? UINT16_MAX : mask;

        compare(&j, gpr_name[i], w->gpr[i] & m, g->gpr[i] & m);
    }
    for (unsigned i = 0; i < SEG_COUNT; i++)
        compare(&j, seg_name[i], selector_seen(w->sel[i]), selector_seen(g->sel[i]));
    if (wide) {
        compare(&j, "FS.base", w->fs_base, g->fs_base);
        compare(&j, "GS.base", w->gs_base, g->gs_base);
    }
    compare(&j, "FCW", w->fcw, g->fcw);
    compare(&j, "FSW", w->fsw, g->fsw);
    compare(&j, "FTW", w->ftw, g->ftw);
    compare(&j, "MXCSR", w->mxcsr, g->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        compare_bytes(&j, "ST", i, w->st[i], g->st[i], 10);
        compare(&j, (char[]){'k', (char)('0' + i), 0}, w->k[i], g->k[i]);
    }
    for (unsigned i = 0; i < 32; i++)
        compare_bytes(&j, "zmm", i, w->zmm[i], g->zmm[i], 64);
    compare_memory(&j, c, want, got, d);
    return !j.differences;
}

void case_print(const struct test_case *c, FILE *to)
{
    const struct cpu_image *s = &c->in;
    ZydisDecoder decoder;
    ZydisFormatter formatter;

    decoder_init(&decoder, c->mode);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    fprintf(to, "  %u-bit, sequence %llu, memory seed %llx\n", c->mode,
            (unsigned long long)c->number, (unsigned long long)c->memory_seed);
    for (unsigned i = 0; i < c->insns; i++) {
        const uint8_t *b = c->code + c->start[i];
        unsigned size = (unsigned)(c->start[i + 1] - c->start[i]);
        ZydisDecodedInstruction in;
        ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
        char text[128] = "(invalid)";

        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, b, size, &in, op)))
            ZydisFormatterFormatInstruction(&formatter, &in, op, in.operand_count_visible, text,
                                            sizeof(text), s->rip + c->start[i], NULL);
        fprintf(to, "    %08llx  ", (unsigned long long)(s->rip + c->start[i]));
        for (unsigned n = 0; n < size; n++)
            fprintf(to, "%02x ", b[n]);
        fprintf(to, "  %s\n", text);
    }
    for (unsigned i = 0; i < (c->mode == 64 ? GPR_COUNT : 8); i++)
        if (s->gpr[i])
            fprintf(to, "    %s=%llx", gpr_name[i], (unsigned long long)s->gpr[i]);
    fprintf(to, "    RFLAGS=%llx\n   ", (unsigned long long)s->rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        fprintf(to, " %s=%x", seg_name[i], s->sel[i]);
    fprintf(to, " FS.base=%llx GS.base=%llx FCW=%x FSW=%x FTW=%x MXCSR=%x\n",
            (unsigned long long)s->fs_base, (unsigned long long)s->gs_base, s->fcw, s->fsw, s->ftw,
            s->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        if (load_le(s->st[i], 8) || load_le(s->st[i] + 8, 2))
            fprintf(to, "    ST%u=%04llx.%016llx\n", i,
                    (unsigned long long)load_le(s->st[i] + 8, 2),
                    (unsigned long long)load_le(s->st[i], 8));
    for (unsigned i = 0; i < 8; i++)
        if (s->k[i])
            fprintf(to, "    k%u=%llx\n", i, (unsigned long long)s->k[i]);
    for (unsigned i = 0; i < 32; i++) {
        static const uint8_t zero[64];

        if (!memcmp(s->zmm[i], zero, 64))
            continue;
        fprintf(to, "    zmm%u=", i);
        for (int n = 56; n >= 0; n -= 8)
            fprintf(to, "%016llx%s", (unsigned long long)load_le(s->zmm[i] + n, 8), n ? "_" : "\n");
    }
}

int case_check(struct guest *g, const struct test_case *c, FILE *report, struct error *err)
{
    static struct outcome got;
    static struct coverage unused;
    struct outcome *want = native_outcomes();
    struct seen seen;
    int r;

    if (c != native_cases())
        native_cases()[0] = *c;
    r = native_run(1, err);
    if (r < 0)
        return r;
    if (want->status != RAN)
        return 1;
    guest_run(g, c, &got, &seen, &unused);
    return seen.defined.give_up || outcomes_agree(c, want, &got, &seen.defined, report);
}

bool case_crashes(struct guest *g, const struct test_case *c)
{
    static struct coverage unused;
    static struct outcome got;
    struct seen seen;
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct rlimit none = {0, 0};

        /* Of its own: an engine's memory may be shared with us. */
        g = guest_again(g);
        setrlimit(RLIMIT_CORE, &none);
        close_range(1, 2, 0);
        if (g)
            guest_run(g, c, &got, &seen, &unused);
        _exit(0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status);
}

/* Keep the change if the case still fails, or takes the process with it if that is the failure. */
static int try_change(struct guest *g, struct test_case *c, const struct test_case *changed,
                      bool crash, bool *progress, struct error *err)
{
    int r = !guest_ends(g, changed) ? 1
            : crash                 ? !case_crashes(g, changed)
                                    : case_check(g, changed, NULL, err);

    if (r == 0) {
        *c = *changed;
        *progress = true;
    }
    return r < 0 ? r : 0;
}

/* Jumps still lead where they did, or to what stands there now. */
static void remove_insn(struct test_case *c, unsigned i)
{
    const unsigned from = c->start[i], size = (unsigned)(c->start[i + 1] - from);
    unsigned kept = 0;

    memmove(c->code + from, c->code + from + size, c->length - from - size);
    c->length -= size;
    c->insns--;
    for (unsigned n = i; n <= c->insns; n++)
        c->start[n] = (uint16_t)(c->start[n + 1] - size);
    for (unsigned n = 0; n < c->fixes; n++) {
        struct fix f = c->fix[n];

        if (f.kind != FIX_GPR && f.insn == i)
            continue;
        if (f.kind != FIX_GPR && f.insn > i) {
            f.insn--;
            f.at = (uint16_t)(f.at - size);
        }
        if (f.target == i)
            f.plus = 0;
        f.target = (uint8_t)(f.target - (f.target > i));
        c->fix[kept++] = f;
    }
    c->fixes = kept;
    if (c->fault_insn == i)
        c->fault = FAULT_NONE;
    c->fault_insn = (uint8_t)(c->fault_insn - (c->fault_insn > i));
    case_fix(c);
}

/* The n-th simplification of the state; false: it is that simple already. */
enum { SIMPLIFICATIONS = 16 + 32 + 32 + 8 + 8 + 8 + 16 };
static bool simplify(struct cpu_image *s, struct test_case *c, unsigned n)
{
    struct cpu_image before = *s;
    uint64_t seed = c->memory_seed;

    if (n < 16)
        s->gpr[n] = 0;
    else if (n < 48)
        s->rflags = (s->rflags & ~BIT(n - 16)) | RFLAGS_FIXED | RFLAGS_IF;
    else if (n < 80)
        memset(s->zmm[n - 48], 0, 64);
    else if (n < 88)
        s->k[n - 80] = 0;
    else if (n < 96)
        memset(s->st[n - 88], 0, 16);
    else if (n == 96)
        s->mxcsr = 0x1f80;
    else if (n == 97)
        s->fcw = 0x37f;
    else if (n == 98)
        s->fsw = 0;
    else if (n == 99)
        s->ftw = 0;
    else if (n == 100)
        s->fs_base = 0;
    else if (n == 101)
        s->gs_base = 0;
    else if (n == 102)
        c->memory_seed = 0;
    else if (n >= 104)
        s->gpr[n - 104] = MIN(s->gpr[n - 104], 2); /* counts */
    else if (c->mode == 64)
        s->sel[SEG_DS] = s->sel[SEG_ES] = 0;
    /* As the processor keeps them: pending means unmasked. */
    s->fsw = (uint16_t)((s->fsw & 0x7f7f) | (s->fsw & ~s->fcw & 0x3f ? 0x8080 : 0));
    return memcmp(&before, s, sizeof(*s)) != 0 || seed != c->memory_seed;
}

int case_shrink(struct guest *g, struct test_case *c, bool crash, struct error *err)
{
    static struct test_case t;
    bool progress;
    int r = 0;

    do {
        progress = false;
        for (unsigned some = 8; some && r == 0; some /= 2)
            for (unsigned i = 0; i + some <= c->insns && c->insns > some && r == 0;) {
                bool removed = false;

                t = *c;
                for (unsigned n = 0; n < some; n++)
                    remove_insn(&t, i);
                r = try_change(g, c, &t, crash, &removed, err);
                if (removed)
                    progress = true;
                else
                    i++;
            }
        for (unsigned n = 0; n < SIMPLIFICATIONS && r == 0; n++) {
            t = *c;
            if (simplify(&t.in, &t, n))
                r = try_change(g, c, &t, crash, &progress, err);
        }
    } while (progress && r == 0);
    return r;
}
