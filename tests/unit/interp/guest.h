/*
 * guest.h - one processor with a little memory, set up in a chosen mode by hand, for tests of the
 * interpreter: code bytes in, registers, flags, memory and exceptions out.
 *
 * Memory: 2 MiB of RAM, mapped one to one. Code goes to GUEST_CODE; the stack ends at GUEST_STACK;
 * data at GUEST_DATA. Each exception's handler is at GUEST_HANDLER + 16 * vector, so RIP tells
 * which one came. In 64-bit mode the page at GUEST_HOLE is not present and the one at
 * GUEST_READONLY cannot be written.
 */
#ifndef UNIT_INTERP_GUEST_H
#define UNIT_INTERP_GUEST_H

#include "support/unit.h"

#include "interp/interp.h"
#include "x86/mmu.h"
#include "x86/model.h"

enum guest_mode { REAL16, PROT16, PROT32, LONG64 };

enum {
    GUEST_HANDLER = 0x3000,
    GUEST_CODE = 0x5000,
    GUEST_DATA = 0x9000,
    GUEST_STACK = 0xc000,
    GUEST_HOLE = 0x20000,
    GUEST_READONLY = 0x21000,
    GUEST_IO = 0x300000, /* no RAM; nobody lives there */
};

struct guest {
    struct cpu *cpu;
    struct cpu_model model;
    struct memory_map *memory, *ports;
    struct ram_block *ram;
    struct region *region;
};

struct guest *guest_new(enum guest_mode mode);
void guest_free(struct guest *g);
/* Put code (hexadecimal, blanks ignored) at an address and RIP on it. */
void guest_code(struct guest *g, uint64_t at, const char *hex);
/* Execute `count` instructions; the vector of the exception that came last, or -1. */
int guest_step(struct guest *g, uint64_t count);
uint8_t *guest_memory(struct guest *g, uint64_t at);

#endif
