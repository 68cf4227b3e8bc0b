/* fuzz.h - what a fuzzer is: libFuzzer's entry point, and random numbers for driver.c. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

enum { FUZZ_INPUT_MAX = 4096, FUZZ_DEFAULT_COUNT = 3000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

uint64_t fuzz_random(void);
/* Fill `to` with one input; its size. The default is random bytes. */
size_t fuzz_make_input(uint8_t *to, size_t room);

#endif
