/*
 * verify.h - a proof, made from the host code alone, that a block stays confined.
 *
 * What is proved of each block: it reads and writes guest memory only at [linear + addend] within a
 * range that a check of the TLB has passed for, on every way to the access; in the GS area it reads
 * the head and the TLB, and writes what translated code may write; it touches the stack of paired
 * calls by its pattern only; it jumps to its own instructions, to entries of blocks and to stubs;
 * it has no instruction that could change segments, the GS base or the privileges of the process,
 * or enter the kernel. What is not proved: the stubs, and that C keeps what it promises where it
 * lets code go on (run.c, resume_allowed).
 *
 * The proof knows nothing of how the translator thinks: it disassembles the block and follows the
 * values in it. `--bt-verify` and the tests run it over every block that is made.
 */
#ifndef TRANSLATOR_VERIFY_H
#define TRANSLATOR_VERIFY_H

#include <stdbool.h>
#include <stddef.h>

struct translator;
struct block;

/* False: `why` (of `size` bytes) tells which host instruction could not be proved. Lock held. */
bool verify_block(struct translator *t, const struct block *b, char *why, size_t size);

#endif
