/*
 * driver.c - main() of every fuzzer when it is not linked with libFuzzer.
 *
 *   fuzz-NAME [--count N | --seconds N] [--seed S] [--from N] [FILE]...
 *
 * Input i of seed S is always the same, so `--seed S --from i --count 1` repeats it: the driver
 * says so when the target dies or takes longer than TIMEOUT seconds. FILEs are run as they are.
 */
#include "fuzz.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TIMEOUT = 10, MUTATIONS_MAX = 12 };

static uint64_t seed, random_state;
static volatile uint64_t current;
static const char *program;

/* splitmix64 */
uint64_t fuzz_random(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t below(size_t n)
{
    return n ? fuzz_random() % n : 0;
}

static void mutate(uint8_t *input, size_t *size)
{
    static const uint64_t interesting[] = {
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x7ffffffffffff000,
        UINT64_MAX,
        0x1000,
        0x100000,
    };
    size_t at = below(*size), width = (size_t)1 << below(4), from, n;
    uint64_t value = interesting[below(sizeof(interesting) / sizeof(interesting[0]))];

    switch (below(8)) {
    case 0: input[at] = (uint8_t)fuzz_random(); break;
    case 1: input[at] ^= (uint8_t)(1u << below(8)); break;
    case 2: value = fuzz_random(); /* fall through */
    case 3:
    case 4:
        at &= ~(width - 1);
        if (at + width <= *size)
            memcpy(input + at, &value, width);
        break;
    case 5: /* near what is there: off by a little */
        at &= ~(size_t)3;
        if (at + 4 <= *size) {
            uint32_t v;

            memcpy(&v, input + at, 4);
            v += (uint32_t)below(65) - 32;
            memcpy(input + at, &v, 4);
        }
        break;
    case 6: *size = below(*size + 1); break;
    default:
        from = below(*size);
        n = below(64);
        if (at + n <= *size && from + n <= *size)
            memmove(input + at, input + from, n);
    }
}

__attribute__((weak)) size_t fuzz_seed(unsigned n, uint8_t *out)
{
    (void)n;
    (void)out;
    return 0;
}

__attribute__((weak)) size_t fuzz_make_input(uint8_t *to, size_t room)
{
    static unsigned seeds = UINT32_MAX; /* how many there are */
    size_t size, which;

    if (seeds == UINT32_MAX)
        for (seeds = 0; fuzz_seed(seeds, to);)
            seeds++;
    which = below(seeds + 1);
    if (which == seeds) {
        size = below(room + 1);
        for (size_t i = 0; i < size; i++)
            to[i] = (uint8_t)fuzz_random();
        return size;
    }
    memset(to, 0, room);
    size = fuzz_seed((unsigned)which, to);
    for (size_t n = below(MUTATIONS_MAX); n && size; n--)
        mutate(to, &size);
    return size;
}

/* Only write(): we may be in a signal handler, or in the sanitizer's. */
static void tell(void)
{
    char text[200], *p = text + sizeof(text);
    const uint64_t numbers[] = {current, seed};
    static const char *const words[] = {" --count 1\n", " --from ", " --seed "};

    for (unsigned i = 0; i < 3; i++) {
        p -= strlen(words[i]);
        memcpy(p, words[i], strlen(words[i]));
        if (i < 2) {
            uint64_t v = numbers[i];

            do
                *--p = (char)('0' + v % 10);
            while (v /= 10);
        }
    }
    if (write(STDERR_FILENO, "fuzz: repeat with: ", 19) < 0 ||
        write(STDERR_FILENO, program, strlen(program)) < 0 ||
        write(STDERR_FILENO, p, (size_t)(text + sizeof(text) - p)) < 0)
        _exit(99);
}

static void on_signal(int number)
{
    tell();
    if (number == SIGALRM) {
        static const char text[] = "fuzz: the input takes too long\n";

        if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
            _exit(99);
        _exit(98);
    }
    signal(number, SIG_DFL);
    raise(number);
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static int run_file(const char *path)
{
    static uint8_t bytes[1 << 20];
    FILE *f = fopen(path, "rb");
    size_t size;

    if (!f) {
        fprintf(stderr, "%s: %s: %s\n", program, path, strerror(errno));
        return 2;
    }
    size = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, size);
    return 0;
}

static uint64_t number_of(const char *option, const char *text)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = text ? strtoull(text, &end, 0) : 0;
    if (!text || errno || end == text || *end) {
        fprintf(stderr, "%s: %s needs a number\n", program, option);
        exit(2);
    }
    return v;
}

int main(int argc, char **argv)
{
    static uint8_t input[FUZZ_INPUT_MAX];
    uint64_t count = 0, seconds = 0, from = 0, done = 0;
    struct timespec t;
    time_t end;

    program = argv[0];
    clock_gettime(CLOCK_MONOTONIC, &t);
    seed = (uint64_t)t.tv_nsec << 16 ^ (uint64_t)t.tv_sec ^ (uint64_t)getpid() << 32;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--count")) {
            count = number_of(argv[i], argv[i + 1]);
            i++;
        } else if (!strcmp(argv[i], "--seconds")) {
            seconds = number_of(argv[i], argv[i + 1]);
            i++;
        } else if (!strcmp(argv[i], "--seed")) {
            seed = number_of(argv[i], argv[i + 1]);
            i++;
        } else if (!strcmp(argv[i], "--from")) {
            from = number_of(argv[i], argv[i + 1]);
            i++;
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "usage: %s [--count N | --seconds N] [--seed S] [--from N] [FILE]...\n",
                    program);
            return 2;
        } else {
            return run_file(argv[i]);
        }
    }
    if (!count && !seconds)
        count = FUZZ_DEFAULT_COUNT;
    signal(SIGSEGV, on_signal);
    signal(SIGBUS, on_signal);
    signal(SIGFPE, on_signal);
    signal(SIGILL, on_signal);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(tell);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &t);
    end = t.tv_sec + (time_t)seconds;
    for (; !count || done < count; done++) {
        size_t size;

        if (seconds) {
            clock_gettime(CLOCK_MONOTONIC, &t);
            if (t.tv_sec >= end)
                break;
        }
        current = from + done;
        random_state = seed ^ current * UINT64_C(0xd1342543de82ef95);
        size = fuzz_make_input(input, sizeof(input));
        alarm(TIMEOUT);
        LLVMFuzzerTestOneInput(input, size);
    }
    alarm(0);
    printf("%llu inputs\n", (unsigned long long)done);
    return 0;
}
