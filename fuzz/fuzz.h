/*
 * fuzz.h - what a fuzzer is, and what its driver (driver.c) gives it.
 *
 * A target is one file with LLVMFuzzerTestOneInput(), as libFuzzer calls it. Inputs follow from a
 * printed number: those of fuzz_seed(), mutated, and random bytes; or what the target's own
 * fuzz_make_input() says. A target abort()s when something is wrong; it must behave the same for
 * the same input, so it resets whatever it keeps between inputs.
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

enum { FUZZ_INPUT_MAX = 32768, FUZZ_DEFAULT_COUNT = 3000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Optional: the n-th well-formed input, at most FUZZ_INPUT_MAX bytes; 0: there are no more. */
size_t fuzz_seed(unsigned n, uint8_t *out);
/* Optional: fill `to` with one input; its size. */
size_t fuzz_make_input(uint8_t *to, size_t room);
uint64_t fuzz_random(void);

#endif
