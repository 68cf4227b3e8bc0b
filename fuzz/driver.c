/*
 * driver.c - main() of every fuzzer when it is not linked with libFuzzer.
 *
 * It feeds LLVMFuzzerTestOneInput() with random inputs from a seed that it prints first; input n
 * of a seed is always the same. Options: --seed N, --count N, --seconds N, --from N (start at
 * input n), and names of files to run instead. A target that knows better inputs than random bytes
 * has a non-weak fuzz_make_input(). When a run crashes, the last line printed with --verbose tells
 * which input it was.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random_state;

uint64_t fuzz_random(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

__attribute__((weak)) size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = fuzz_random() % (room + 1);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    return size;
}

static uint64_t seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec;
}

static int run_file(const char *name)
{
    static uint8_t bytes[1 << 20];
    FILE *f = fopen(name, "rb");
    size_t size;

    if (!f) {
        fprintf(stderr, "cannot open '%s'\n", name);
        return 1;
    }
    size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    LLVMFuzzerTestOneInput(bytes, size);
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t input[FUZZ_INPUT_MAX];
    uint64_t seed = (uint64_t)time(NULL), count = FUZZ_DEFAULT_COUNT, seconds = 0, from = 0, end;
    bool verbose = false;
    int failed = 0, files = 0;

    for (int i = 1; i < argc; i++) {
        uint64_t *value = !strcmp(argv[i], "--seed")      ? &seed
                          : !strcmp(argv[i], "--count")   ? &count
                          : !strcmp(argv[i], "--seconds") ? &seconds
                          : !strcmp(argv[i], "--from")    ? &from
                                                          : NULL;

        if (value && i + 1 < argc) {
            *value = strtoull(argv[++i], NULL, 0);
        } else if (!strcmp(argv[i], "--verbose")) {
            verbose = true;
        } else {
            failed |= run_file(argv[i]);
            files++;
        }
    }
    if (files)
        return failed;
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    end = seconds_now() + seconds;
    for (uint64_t n = from; seconds ? seconds_now() < end : n < from + count; n++) {
        size_t size;

        random_state = seed ^ n << 20;
        if (verbose) {
            printf("input %llu\n", (unsigned long long)n);
            fflush(stdout);
        }
        size = fuzz_make_input(input, sizeof input);
        LLVMFuzzerTestOneInput(input, size);
    }
    return 0;
}
