/*
 * main.c - cpu-oracle: random instruction sequences, on the host CPU and in an engine.
 *
 * Exit status: 0 when all agree, 1 when something differs, 2 for wrong use, 77 when this host
 * cannot (the sandbox is refused, no XSAVE): meson calls that a skip. The last line is a summary.
 */
#include "oracle.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum { EXIT_SKIP = 77, MODES = 3, MAX_KINDS = 256, REPORT_SIZE = 2000 };
static const unsigned modes[MODES] = {64, 32, 16};
static const char shape_name[SHAPES][9] = {"straight", "branch", "loop", "smc"};

static const char fault_name[FAULT_KINDS][14] = {
    "", "absent", "read-only", "crossing", "non-canonical", "limit", "stack", "walk"};

struct options {
    struct generator_options make;
    const struct guest_engine *engine;
    uint64_t count, first;
    bool one, shrink, coverage, self_test, native_only, mode[MODES];
    unsigned kinds; /* stop after so many different failures */
};

/* Failures that shrink to the same instructions and differ in the same things are one kind. */
struct kind {
    char text[200];
    unsigned count;
};

struct run {
    const struct options *o;
    struct guest *guest;
    struct coverage coverage;
    bool possible[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    uint64_t ended[256];                                         /* by vector, on the host */
    uint64_t planned[FAULT_KINDS], happened[FAULT_KINDS], later; /* faults: see count_fault() */
    uint64_t steps[SHAPES], of_shape[SHAPES], whole[SHAPES];
    uint64_t done[MODES], compared, gave_up, left, hung, broken, failures;
    struct kind kind[MAX_KINDS];
    unsigned kinds;
    struct error err;
};

/* The address sanitizer's shadow lies where random addresses of the child lead, so what the host
 * does there says nothing. Such a build still runs all of it, to see the engine do it. */
#if defined(__SANITIZE_ADDRESS__)
enum { SHADOWED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { SHADOWED = 1 };
#else
enum { SHADOWED = 0 };
#endif
#else
enum { SHADOWED = 0 };
#endif

static struct outcome got;

/* What to say if the engine takes us with it. */
static const struct test_case *volatile current;
static const struct options *current_options;

/* " --mode 64 --seed 1 --sequence 5": how to make this case again. */
static void print_origin(const struct options *o, const struct test_case *c, char *out, size_t size)
{
    bool mixed = o->make.shape == SHAPE_MIXED;

    snprintf(out, size, "--mode %u --seed %llu%s%s --sequence %llu", c->mode,
             (unsigned long long)o->make.seed, mixed ? "" : " --shape ",
             mixed ? "" : shape_name[o->make.shape], (unsigned long long)c->number);
}

static void crashed(int number)
{
    char text[120] = "outside of a sequence";

    signal(number, SIG_DFL);
    if (current)
        print_origin(current_options, (const struct test_case *)current, text, sizeof(text));
    printf("\nCRASH (signal %d): %s\n", number, text);
    if (current)
        case_print((const struct test_case *)current, stdout);
    fflush(stdout);
    raise(number);
}

static void catch_crashes(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};

    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        struct sigaction sa = {.sa_handler = crashed, .sa_flags = SA_ONSTACK | SA_NODEFER};

        sigaction(signals[i], &sa, NULL);
    }
}

/* "mul add: RAX RFLAGS" */
static void name_kind(const struct test_case *c, const char *report, char *out, size_t size)
{
    ZydisDecoder decoder;
    size_t n = (size_t)snprintf(out, size, "%u-bit", c->mode), last_length = SIZE_MAX;
    const char *last = NULL;

    decoder_init(&decoder, c->mode);
    for (unsigned i = 0; i < c->insns && n < size; i++) {
        ZydisDecodedInstruction in;
        const char *name = "(invalid)";

        if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, c->code + c->start[i],
                                                       (ZyanUSize)(c->start[i + 1] - c->start[i]),
                                                       &in)))
            name = ZydisMnemonicGetString(in.mnemonic);
        n += (size_t)snprintf(out + n, size - n, " %s", name);
    }
    if (n < size)
        n += (size_t)snprintf(out + n, size - n, ":");
    for (const char *line = report; line && strlen(line) > 4 && n < size;) {
        size_t length = strcspn(line + 4, " +0123456789[");

        if (length != last_length || strncmp(last, line + 4, length))
            n += (size_t)snprintf(out + n, size - n, " %.*s", length ? (int)length : 6,
                                  length ? line + 4 : "memory");
        last = line + 4;
        last_length = length;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
}

static int report_failure(struct run *r, const struct test_case *failed, const char *in_batch)
{
    static struct test_case c;
    char *text = NULL, name[sizeof(r->kind[0].text)], origin[120];
    size_t size;
    FILE *report;
    int ret;

    c = *failed;
    r->failures++;
    ret = case_check(r->guest, &c, NULL, &r->err);
    if (ret < 0)
        return ret;
    if (ret == 1) {
        printf("sequence %llu (%u-bit) differed in its batch but not alone:\n%s",
               (unsigned long long)c.number, c.mode, in_batch);
        return 0;
    }
    if (r->o->shrink) {
        ret = case_shrink(r->guest, &c, false, &r->err);
        if (ret < 0)
            return ret;
    }
    report = open_memstream(&text, &size);
    ret = case_check(r->guest, &c, report, &r->err);
    fclose(report);
    name_kind(&c, text, name, sizeof(name));
    for (unsigned i = 0; i < r->kinds; i++)
        if (!strcmp(r->kind[i].text, name)) {
            r->kind[i].count++;
            free(text);
            return ret < 0 ? ret : 0;
        }
    print_origin(r->o, &c, origin, sizeof(origin));
    printf("DIFFERS: %s   (%s)\n", name, origin);
    case_print(&c, stdout);
    printf("%s\n", text);
    free(text);
    if (r->kinds < MAX_KINDS) {
        snprintf(r->kind[r->kinds].text, sizeof(name), "%s", name);
        r->kind[r->kinds++].count = 1;
    }
    return ret < 0 ? ret : 0;
}

static bool enough(const struct run *r)
{
    return r->kinds >= r->o->kinds || r->kinds == MAX_KINDS || r->failures > 5000;
}

/* Did the case run into what it was made for? And not before the instruction had ended well? */
static void count_fault(struct run *r, const struct test_case *c, const struct outcome *want,
                        const struct seen *seen)
{
    bool memory = want->vector == EXC_SS || want->vector == EXC_GP || want->vector == EXC_PF;

    r->planned[c->fault]++;
    if (!memory ||
        (c->fault != FAULT_STACK && want->out.rip != c->in.rip + c->start[c->fault_insn]))
        return;
    r->happened[c->fault]++;
    r->later += seen->fault_passes > 0;
}

/* What the engine made of a case that the host ran. */
static bool judge(struct run *r, const struct test_case *c, const struct outcome *want,
                  char text[REPORT_SIZE])
{
    struct seen seen;
    const struct defined *d = &seen.defined;
    FILE *report;

    if (want->status != RAN) {
        char origin[120];

        print_origin(r->o, c, origin, sizeof(origin));
        r->left += want->status == LEFT;
        r->hung += want->status == HUNG || want->status == DIED;
        if (want->status == HUNG || want->status == DIED)
            printf("the host %s: %s\n", want->status == HUNG ? "does not end" : "process dies",
                   origin);
        r->broken += want->status == BROKEN;
        return true;
    }
    r->ended[want->vector]++;
    if (!r->guest)
        return true;
    current = c;
    guest_run(r->guest, c, &got, &seen, &r->coverage);
    current = NULL;
    r->of_shape[c->shape]++;
    r->steps[c->shape] += seen.steps;
    r->whole[c->shape] += want->vector == EXC_BP;
    if (d->give_up) {
        r->gave_up++;
        return true;
    }
    if (c->fault)
        count_fault(r, c, want, &seen);
    if (SHADOWED)
        return true;
    r->compared++;
    if (outcomes_agree(c, want, &got, d, NULL))
        return true;
    report = fmemopen(text, REPORT_SIZE, "w");
    outcomes_agree(c, want, &got, d, report);
    fclose(report);
    text[REPORT_SIZE - 1] = 0;
    return false;
}

static int run_mode(struct run *r, unsigned mode)
{
    static struct test_case failed[BATCH];
    static char text[BATCH][REPORT_SIZE];
    const struct options *o = r->o;
    struct generator *g;
    const bool *has;
    uint64_t end = o->one ? o->first + 1 : o->count;
    int ret;

    if (modes[mode] == 16 && !native_has_ldt()) {
        printf("16-bit mode skipped: the kernel does not offer modify_ldt\n");
        return 0;
    }
    g = generator_new(modes[mode], &o->make);
    if (!g)
        return 0;
    ret = generator_probe(g, &r->err);
    if (ret < 0)
        return ret;
    has = generator_mnemonics(g);
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
        r->possible[i] |= has[i];
    for (uint64_t n = o->first; n < end && !enough(r);) {
        unsigned count = 0, failures = 0;

        for (; count < BATCH && n < end; count++)
            generator_make(g, n++, &native_cases()[count]);
        if (o->one) {
            case_print(native_cases(), stdout);
            if (r->guest && o->shrink && case_crashes(r->guest, native_cases())) {
                static struct test_case c;

                c = native_cases()[0];
                case_shrink(r->guest, &c, true, &r->err);
                printf("CRASH, of which this is enough:\n");
                case_print(&c, stdout);
            }
        }
        ret = native_run(count, &r->err);
        if (ret < 0)
            return ret;
        for (unsigned i = 0; i < count; i++)
            if (!judge(r, &native_cases()[i], &native_outcomes()[i], text[failures]))
                failed[failures++] = native_cases()[i];
        r->done[mode] += count;
        for (unsigned i = 0; i < failures && !enough(r); i++) {
            ret = report_failure(r, &failed[i], text[i]);
            if (ret < 0)
                return ret;
        }
    }
    generator_free(g);
    return 0;
}

static void print_names(const char *title, const struct run *r, int which)
{
    unsigned column = 0, n = 0;

    for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        int state = !r->possible[i]           ? -1
                    : r->coverage.retired[i]  ? 0
                    : r->coverage.executed[i] ? 1
                                              : 2;
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)i);

        if (state != which)
            continue;
        if (!n++)
            printf("%s:\n ", title);
        if (column + strlen(name) > 95) {
            printf("\n ");
            column = 0;
        }
        column += (unsigned)printf(" %s", name);
    }
    if (n)
        printf("\n");
}

static void print_summary(struct run *r, double seconds)
{
    const struct options *o = r->o;
    unsigned possible = 0, retired = 0, faulted = 0;

    for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        possible += r->possible[i];
        retired += r->possible[i] && r->coverage.retired[i];
        faulted += r->possible[i] && !r->coverage.retired[i] && r->coverage.executed[i];
    }
    if (o->coverage) {
        for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
            if (r->coverage.executed[i])
                printf("%-20s %8llu run %8llu retired\n", ZydisMnemonicGetString((ZydisMnemonic)i),
                       (unsigned long long)r->coverage.executed[i],
                       (unsigned long long)r->coverage.retired[i]);
    }
    if (r->guest) {
        print_names("only ever faulted (privileged, or not on this host)", r, 1);
        print_names("not covered", r, 2);
        if (o->coverage) {
            printf("excluded:");
            for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
                if (mnemonic_excluded((ZydisMnemonic)i))
                    printf(" %s", ZydisMnemonicGetString((ZydisMnemonic)i));
            printf("\n");
        }
    }
    for (unsigned i = 0; i < SHAPES; i++)
        if (r->of_shape[i])
            printf("%s: %llu sequences, %llu.%llu instructions each, %llu ran to the end\n",
                   shape_name[i], (unsigned long long)r->of_shape[i],
                   (unsigned long long)(r->steps[i] / r->of_shape[i]),
                   (unsigned long long)(r->steps[i] * 10 / r->of_shape[i] % 10),
                   (unsigned long long)r->whole[i]);
    printf("faults made:");
    for (unsigned i = 1; i < FAULT_KINDS; i++)
        printf(" %s %llu of %llu,", fault_name[i], (unsigned long long)r->happened[i],
               (unsigned long long)r->planned[i]);
    printf(" %llu after the instruction had run\n", (unsigned long long)r->later);
    printf("ended by vector:");
    for (unsigned i = 0; i < ARRAY_SIZE(r->ended); i++)
        if (r->ended[i])
            printf("  %u: %llu", i, (unsigned long long)r->ended[i]);
    printf("\n");
    for (unsigned i = 0; i < r->kinds; i++)
        printf("%6u times: %s\n", r->kind[i].count, r->kind[i].text);
    printf("cpu-oracle: %llu sequences (64-bit %llu, 32-bit %llu, 16-bit %llu) in %.1f s, seed "
           "%llu, engine %s: %llu compared, %llu undefined, %llu left, %llu hung, %llu broken; "
           "mnemonics: %u done, %u only faulted, of %u; %llu differences\n",
           (unsigned long long)(r->done[0] + r->done[1] + r->done[2]),
           (unsigned long long)r->done[0], (unsigned long long)r->done[1],
           (unsigned long long)r->done[2], seconds, (unsigned long long)o->make.seed,
           o->native_only ? "none" : o->engine->name, (unsigned long long)r->compared,
           (unsigned long long)r->gave_up, (unsigned long long)r->left, (unsigned long long)r->hung,
           (unsigned long long)r->broken, retired, faulted, possible,
           (unsigned long long)r->failures);
}

static int usage(int status)
{
    printf("usage: cpu-oracle [options]\n"
           "  --count N        sequences for each mode (default 10000)\n"
           "  --seed N         of all random choices (default: the clock)\n"
           "  --sequence K     only sequence K, printed\n"
           "  --mode 64|32|16  only this mode (may be repeated)\n"
           "  --filter NAME    only this instruction\n"
           "  --shape NAME     straight, branch, loop or smc (changing itself); default: mixed\n"
           "  --engine NAME    interp (default), bt, bt-warm, or none: run on the\n"
           "                   host only\n"
           "  --kinds N        stop after N different failures (default 20)\n"
           "  --no-shrink      show failures as they were made\n"
           "  --coverage       count every mnemonic\n"
           "  --self-test      break results on purpose and see that it is noticed\n");
    return status;
}

static int parse(int argc, char **argv, struct options *o)
{
    enum {
        SEED = 256,
        COUNT,
        SEQUENCE,
        FILTER,
        MODE,
        SHAPE,
        ENGINE,
        KINDS,
        SHRINK,
        NO_SHRINK,
        COVERAGE,
        SELF_TEST,
        HELP
    };
    static const struct option known[] = {
        {"seed", 1, NULL, SEED},         {"count", 1, NULL, COUNT},
        {"sequence", 1, NULL, SEQUENCE}, {"filter", 1, NULL, FILTER},
        {"mode", 1, NULL, MODE},         {"shape", 1, NULL, SHAPE},
        {"engine", 1, NULL, ENGINE},     {"kinds", 1, NULL, KINDS},
        {"shrink", 0, NULL, SHRINK},     {"no-shrink", 0, NULL, NO_SHRINK},
        {"coverage", 0, NULL, COVERAGE}, {"self-test", 0, NULL, SELF_TEST},
        {"help", 0, NULL, HELP},         {0},
    };
    int c;
    bool any = false;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        bool found = true;

        switch (c) {
        case SEED: o->make.seed = strtoull(optarg, NULL, 0); break;
        case COUNT: o->count = strtoull(optarg, NULL, 0); break;
        case SEQUENCE:
            o->first = strtoull(optarg, NULL, 0);
            o->one = true;
            break;
        case FILTER: o->make.filter = optarg; break;
        case KINDS: o->kinds = (unsigned)strtoul(optarg, NULL, 0); break;
        case SHRINK: o->shrink = true; break;
        case NO_SHRINK: o->shrink = false; break;
        case COVERAGE: o->coverage = true; break;
        case SELF_TEST: o->self_test = true; break;
        case HELP: return usage(0);
        case MODE:
            found = false;
            for (unsigned i = 0; i < MODES; i++)
                if (strtoul(optarg, NULL, 10) == modes[i])
                    o->mode[i] = any = found = true;
            break;
        case SHAPE:
            found = false;
            for (unsigned i = 0; i < SHAPES; i++)
                if (!strcmp(optarg, shape_name[i])) {
                    o->make.shape = (enum shape)i;
                    found = true;
                }
            break;
        case ENGINE:
            o->native_only = !strcmp(optarg, "none");
            found = o->native_only;
            for (const struct guest_engine *e = guest_engines; e->name; e++)
                if (!strcmp(e->name, optarg)) {
                    o->engine = e;
                    found = true;
                }
            break;
        default: return usage(2);
        }
        if (!found) {
            fprintf(stderr, "cpu-oracle: no such mode, shape or engine: '%s'\n", optarg);
            return usage(2);
        }
    }
    for (unsigned i = 0; i < MODES && !any; i++)
        o->mode[i] = true;
    return optind == argc ? -1 : usage(2);
}

int main(int argc, char **argv)
{
    static struct run r;
    struct options o = {.count = 10000,
                        .kinds = 20,
                        .shrink = true,
                        .engine = guest_engines,
                        .make.shape = SHAPE_MIXED};
    struct timespec t0, t1;
    int ret;

    clock_gettime(CLOCK_REALTIME, &t0);
    o.make.seed = (uint64_t)t0.tv_sec;
    ret = parse(argc, argv, &o);
    if (ret >= 0)
        return ret;
    setvbuf(stdout, NULL, _IOLBF, 0);
    r.o = &o;
    ret = native_start(&r.err);
    if (ret < 0) {
        printf("cpu-oracle: skipped: %s\n", r.err.text);
        return EXIT_SKIP;
    }
    current_options = &o;
    catch_crashes();
    if (!o.native_only) {
        r.guest = guest_new(o.engine, &r.err);
        if (!r.guest) {
            fprintf(stderr, "cpu-oracle: %s\n", r.err.text);
            return 1;
        }
    }
    if (o.self_test) {
        ret = r.guest ? self_test(r.guest, &r.err) : usage(2);
        if (ret < 0)
            fprintf(stderr, "cpu-oracle: %s\n", r.err.text);
        native_stop();
        guest_free(r.guest);
        return ret < 0 ? 1 : ret;
    }
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (unsigned i = 0; i < MODES && ret >= 0; i++)
        if (o.mode[i])
            ret = run_mode(&r, i);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    native_stop();
    guest_free(r.guest);
    if (ret < 0)
        fprintf(stderr, "cpu-oracle: %s\n", r.err.text);
    print_summary(&r, (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9);
    return ret < 0 || r.failures ? 1 : 0;
}
