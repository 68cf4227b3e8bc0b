/*
 * simd.h - what the parts of the SIMD and x87 back end share: simd.c (binding and execution),
 * simd_stub.c (host code), state_insn.c (state management instructions).
 *
 * An instruction that may run on the host is described by a struct simd_spec, a pure function of
 * its bytes and mode. Two instructions with equal specs share one host stub.
 */
#ifndef INTERP_SIMD_H
#define INTERP_SIMD_H

#include "interp/insn.h"
#include "interp/simd_fault.h"

/* Which state checks come before it: SDM vol. 2, "exceptions" of each kind of encoding. */
enum simd_class {
    SIMD_GPR,    /* legacy encoding, no state of its own: CRC32, ADCX, MOVNTI */
    SIMD_X87,    /* waits for x87 exceptions */
    SIMD_MMX,    /* MM registers alone */
    SIMD_SSE,    /* legacy encoding with XMM */
    SIMD_VEX,    /* VEX on general registers: BMI */
    SIMD_AVX,    /* VEX on vectors */
    SIMD_AVX512, /* EVEX, and VEX on mask registers */
};

enum simd_kind {
    SIMD_HOST, /* in a stub; the rest is done in C */
    SIMD_GATHER,
    SIMD_SCATTER,
    SIMD_MASKMOV, /* MASKMOVQ, MASKMOVDQU: implicit destination */
    SIMD_ZERO,    /* VZEROALL, VZEROUPPER */
    SIMD_MOVDIR64B,
};

enum simd_use { SIMD_USES_FX = 1, SIMD_USES_MXCSR = 2, SIMD_USES_FLAGS = 4 };
enum simd_access { SIMD_READS = 1, SIMD_WRITES = 2 };

/* What decides which elements of the memory operand are touched. */
enum simd_mask {
    SIMD_UNMASKED,
    SIMD_MASK_K,       /* bit i of k[mask_reg]: element i modulo the elements in memory */
    SIMD_MASK_PACKED,  /* as many elements as k[mask_reg] has bits set: compress, expand */
    SIMD_MASK_VECTOR,  /* sign bits of vector mask_reg */
    SIMD_MASK_DROPPED, /* masked, but memory is accessed whole: the "NF" exception classes */
};

enum { SIMD_GPRS = 4, SIMD_FEATURES = 3 };

struct simd_gpr {
    uint8_t guest, host; /* numbers; `guest` may carry REG_HIGH8 */
    uint8_t size;        /* bytes written back */
    uint8_t access;      /* enum simd_access */
};

/* Filled over zeroes: compared and hashed as bytes. */
struct simd_spec {
    uint8_t code[16]; /* for the host: memory at [rsi], general registers renamed */
    uint8_t code_length;
    uint8_t kind, class, use;
    uint8_t features, gprs;
    uint8_t memory;       /* enum simd_access; 0: no memory operand */
    uint8_t memory_size;  /* bytes, at most 64 */
    uint8_t memory_whole; /* masked-out elements fault too: the "NF" exception classes */
    uint8_t probe;        /* check write access before executing */
    uint8_t align;        /* of the memory operand: 0, or #GP when misaligned */
    uint8_t mask, mask_reg, mask_granule, mask_bits;
    uint8_t segment;           /* of implicit memory operands */
    uint8_t k_in, k_out;       /* bit sets of mask registers */
    uint8_t reg[3];            /* software kinds: destination, index or source, mask */
    uint8_t index_size, width; /* gathers: bytes of an index; bytes of the vector length */
    uint16_t mnemonic, fop;
    uint16_t feature[SIMD_FEATURES];
    uint32_t vector_in, vector_out; /* bit sets of vector registers */
    struct simd_gpr gpr[SIMD_GPRS];
};

struct simd_stub {
    struct simd_spec spec;
    const void *entry, *fault_exit; /* NULL when spec.kind is not SIMD_HOST */
    struct simd_stub *next;
};

/* What a stub works on, beside struct cpu. `memory` is at offset 0: the code addresses [rsi]. */
struct simd_frame {
    uint8_t memory[64];
    struct fx_image fx; /* in and out: header and registers, not xmm */
    uint64_t gpr[SIMD_GPRS];
    uint64_t flags;
    uint32_t mxcsr, host_mxcsr;
    struct simd_fault fault;
} __attribute__((aligned(64)));

/* Room for one stub with every register saved and restored. */
enum { SIMD_STUB_MAX = 512 };

/*
 * The shared stub for `spec`, made when there is none yet. NULL when the cache is full, or when
 * the host refuses executable memory: then simd_stub_run_once() serves, or the instruction is
 * #UD. Any thread.
 */
const struct simd_stub *simd_stub_find(const struct simd_spec *spec);
/* Run; what the instruction leaves is in *cpu (vector and mask registers) and *frame. On a fault
 * (frame->fault.kind) only frame->mxcsr is new. */
void simd_stub_run(const struct simd_stub *stub, struct cpu *cpu, struct simd_frame *frame);
/* The same without the cache, slowly. */
void simd_stub_run_once(const struct simd_spec *spec, struct cpu *cpu, struct simd_frame *frame);
bool simd_stub_available(void);

/* Complex products: destination and sources must be different registers, a mask bit is for four
 * bytes. */
bool simd_is_complex_fp16(uint16_t mnemonic);
/* The spec of what simd_bind() gave a handler; false: `in` is not run here. For the translator. */
bool simd_describe(const struct insn *in, const ZydisDecodedInstruction *decoded,
                   const ZydisDecodedOperand *operands, struct simd_spec *out);

/* State checks: raise #UD, #NM or #MF when the class may not execute now. */
void simd_check_class(struct cpu *cpu, enum simd_class class);
/* #MF when an unmasked x87 exception is pending and CR0.NE is set. */
void simd_check_pending(struct cpu *cpu);

/* fsw with ES and B as fcw makes them. */
static inline uint16_t fpu_summary(uint16_t fsw, uint16_t fcw)
{
    return (fsw & 0x7f7f) | (fsw & ~fcw & 0x3f ? 0x8080 : 0);
}

/* MXCSR bits that exist. MISALIGNSSE (bit 17) is not offered. */
enum { MXCSR_VALID = 0xffff, MXCSR_INIT = 0x1f80, FCW_INIT = 0x37f };

#endif
