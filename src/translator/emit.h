/*
 * emit.h - writing x86-64 host code, a byte at a time.
 *
 * An emitter writes through the writable mapping of the code cache; `at` and everything else that
 * has to do with addresses counts in that mapping, and displacements between two places in the
 * cache are the same in both mappings. Running over the end is noticed, not done: `full` is set and
 * nothing more is written; who started the emitter looks at it once at the end.
 */
#ifndef TRANSLATOR_EMIT_H
#define TRANSLATOR_EMIT_H

#include "base/util.h"

#include <stddef.h>
#include <string.h>

enum host_reg {
    RAX,
    RCX,
    RDX,
    RBX,
    RSP,
    RBP,
    RSI,
    RDI,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    NO_REG = 0xff,
};

struct emitter {
    uint8_t *at, *end;
    bool full;
};

/* A host memory operand: [gs: base + index*scale + disp]. Without base and index an absolute
 * address, which only makes sense with gs. */
struct mem {
    uint8_t base, index, scale; /* NO_REG; 1, 2, 4, 8 */
    bool gs;
    int32_t disp;
};

static inline struct mem mem_at(uint8_t base, int32_t disp)
{
    return (struct mem){.base = base, .index = NO_REG, .scale = 1, .disp = disp};
}

static inline struct mem mem_gs(size_t offset)
{
    return (struct mem){
        .base = NO_REG, .index = NO_REG, .scale = 1, .gs = true, .disp = (int32_t)offset};
}

/* [gs: index*8 + offset] */
static inline struct mem mem_table(uint8_t index, size_t offset)
{
    return (struct mem){
        .base = NO_REG, .index = index, .scale = 8, .gs = true, .disp = (int32_t)offset};
}

static inline void emit8(struct emitter *e, unsigned byte)
{
    if (e->at < e->end)
        *e->at++ = (uint8_t)byte;
    else
        e->full = true;
}

static inline void emit_bytes(struct emitter *e, const void *p, size_t n)
{
    if ((size_t)(e->end - e->at) < n) {
        e->full = true;
        return;
    }
    memcpy(e->at, p, n);
    e->at += n;
}

static inline void emit16(struct emitter *e, unsigned v)
{
    uint16_t x = (uint16_t)v;

    emit_bytes(e, &x, 2);
}

static inline void emit32(struct emitter *e, uint64_t v)
{
    uint32_t x = (uint32_t)v;

    emit_bytes(e, &x, 4);
}

static inline void emit64(struct emitter *e, uint64_t v)
{
    emit_bytes(e, &v, 8);
}

/* ModRM, SIB and displacement of a memory operand; `reg` is the low three bits. `wide`: no 8-bit
 * displacement (EVEX scales it). */
static inline void emit_modrm_mem(struct emitter *e, unsigned reg, struct mem m, bool wide)
{
    unsigned mod, rm;
    unsigned scale = m.scale == 8 ? 3 : m.scale == 4 ? 2 : m.scale == 2 ? 1 : 0;

    reg = (reg & 7) << 3;
    if (m.base == NO_REG) { /* SIB without base: disp32 */
        emit8(e, reg | 4);
        emit8(e, scale << 6 | (m.index == NO_REG ? 4u : m.index & 7u) << 3 | 5);
        emit32(e, (uint32_t)m.disp);
        return;
    }
    rm = m.index != NO_REG || (m.base & 7) == 4 ? 4 : m.base & 7;
    if (m.disp == 0 && (m.base & 7) != 5)
        mod = 0;
    else if (!wide && m.disp == (int8_t)m.disp)
        mod = 1;
    else
        mod = 2;
    emit8(e, mod << 6 | reg | rm);
    if (rm == 4)
        emit8(e, scale << 6 | (m.index == NO_REG ? 4u : m.index & 7u) << 3 | (m.base & 7u));
    if (mod == 1)
        emit8(e, (uint8_t)m.disp);
    else if (mod == 2)
        emit32(e, (uint32_t)m.disp);
}

static inline unsigned rex_of_mem(struct mem m)
{
    return (m.base != NO_REG && m.base & 8 ? 1u : 0) | (m.index != NO_REG && m.index & 8 ? 2u : 0);
}

/* `opcode` up to 0xff, or 0x0fXX. `size` 8 gives REX.W, 2 gives 66. `byte_reg`: reg is a byte
 * register, so 4-7 need a REX to be SPL..DIL. */
static inline void emit_op_mem(struct emitter *e, unsigned opcode, unsigned size, unsigned reg,
                               struct mem m, bool byte_reg)
{
    unsigned rex = rex_of_mem(m) | (reg & 8 ? 4u : 0) | (size == 8 ? 8u : 0);

    if (m.gs)
        emit8(e, 0x65);
    if (size == 2)
        emit8(e, 0x66);
    if (rex || (byte_reg && reg >= 4))
        emit8(e, 0x40 | rex);
    if (opcode > 0xff)
        emit8(e, opcode >> 8);
    emit8(e, opcode & 0xff);
    emit_modrm_mem(e, reg, m, false);
}

static inline void emit_op_reg(struct emitter *e, unsigned opcode, unsigned size, unsigned reg,
                               unsigned rm)
{
    unsigned rex = (rm & 8 ? 1u : 0) | (reg & 8 ? 4u : 0) | (size == 8 ? 8u : 0);

    if (size == 2)
        emit8(e, 0x66);
    if (rex || (size == 1 && (reg >= 4 || rm >= 4)))
        emit8(e, 0x40 | rex);
    if (opcode > 0xff)
        emit8(e, opcode >> 8);
    emit8(e, opcode & 0xff);
    emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_load(struct emitter *e, unsigned reg, struct mem m, unsigned size)
{
    emit_op_mem(e, 0x8b, size, reg, m, false); /* size 4 or 8 */
}

static inline void emit_store(struct emitter *e, struct mem m, unsigned reg, unsigned size)
{
    if (size == 1)
        emit_op_mem(e, 0x88, 1, reg, m, true);
    else
        emit_op_mem(e, 0x89, size, reg, m, false);
}

static inline void emit_mov(struct emitter *e, unsigned to, unsigned from, unsigned size)
{
    if (to != from || size == 4)
        emit_op_reg(e, 0x89, size, from, to);
}

static inline void emit_lea(struct emitter *e, unsigned reg, struct mem m, unsigned size)
{
    if (m.index == NO_REG && m.disp == 0 && m.base != NO_REG && size == 8)
        emit_mov(e, reg, m.base, 8);
    else
        emit_op_mem(e, 0x8d, size, reg, m, false);
}

/* Without touching flags. */
static inline void emit_mov_imm(struct emitter *e, unsigned reg, uint64_t value)
{
    if (value <= UINT32_MAX) {
        if (reg & 8)
            emit8(e, 0x41);
        emit8(e, 0xb8 | (reg & 7));
        emit32(e, value);
    } else if ((uint64_t)(int64_t)(int32_t)value == value) {
        emit8(e, 0x48 | (reg & 8 ? 1 : 0));
        emit8(e, 0xc7);
        emit8(e, 0xc0 | (reg & 7));
        emit32(e, value);
    } else {
        emit8(e, 0x48 | (reg & 8 ? 1 : 0));
        emit8(e, 0xb8 | (reg & 7));
        emit64(e, value);
    }
}

static inline void emit_store_imm32(struct emitter *e, struct mem m, uint32_t value)
{
    emit_op_mem(e, 0xc7, 4, 0, m, false);
    emit32(e, value);
}

static inline void emit_shr(struct emitter *e, unsigned reg, unsigned count, unsigned size)
{
    emit_op_reg(e, 0xc1, size, 5, reg);
    emit8(e, count);
}

/* Jumps return where their 32-bit displacement is. */
static inline uint8_t *emit_jmp(struct emitter *e)
{
    emit8(e, 0xe9);
    emit32(e, 0);
    return e->at - 4;
}

static inline uint8_t *emit_call(struct emitter *e)
{
    emit8(e, 0xe8);
    emit32(e, 0);
    return e->at - 4;
}

static inline uint8_t *emit_jcc(struct emitter *e, unsigned cond)
{
    emit8(e, 0x0f);
    emit8(e, 0x80 | cond);
    emit32(e, 0);
    return e->at - 4;
}

/* Make the jump whose displacement is at `place` go to `target`. Only within code that is not
 * executed yet; patch32() of cache.c is for the rest. */
static inline void emit_fix(struct emitter *e, uint8_t *place, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (place + 4));

    if (!e->full)
        memcpy(place, &rel, 4);
}

static inline void emit_jmp_to(struct emitter *e, const uint8_t *target)
{
    emit_fix(e, emit_jmp(e), target);
}

/* The flags that LAHF and SETO take go to `m`; clobbers RAX. */
static inline void emit_save_flags(struct emitter *e, struct mem m)
{
    emit8(e, 0x9f);                                 /* lahf */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0); /* seto al */
    emit_store(e, m, RAX, 2);
}

static inline void emit_restore_flags(struct emitter *e, struct mem m)
{
    emit_op_mem(e, 0x0fb7, 4, RAX, m, false); /* movzx eax, word */
    emit8(e, 0x04), emit8(e, 0x7f);           /* add al, 0x7f: OF */
    emit8(e, 0x9e);                           /* sahf */
}

#endif
