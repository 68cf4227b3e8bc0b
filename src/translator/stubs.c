/*
 * stubs.c - the host code that stands before all translations: into and out of translated code,
 * and the shared ends of indirect branches.
 *
 * Leaving happens in two steps. The first saves only what C may clobber and asks bt_fast(), which
 * is compiled for general registers and answers the common question (a TLB entry to fill) with an
 * address to go on at. When it has no answer, the rest is saved, the vector and x87 state too if it
 * is in the registers, and bt_slow() does whatever is to be done, with all of struct cpu valid but
 * RIP and the status flags, which it works out itself. What only bt_slow() can do goes there at
 * once.
 */
#include "translator/internal.h"

#include "x86/cpu.h"

static const uint8_t host_volatile[] = {RDX, RSI, RDI, R8, R9, R10, R11};

const uint8_t host_of[GPR_COUNT] = {
    [GPR_RAX] = R10, [GPR_RCX] = R11, [GPR_RDX] = RDX,    [GPR_RBX] = RBX,
    [GPR_RSP] = R15, [GPR_RBP] = RBP, [GPR_RSI] = RSI,    [GPR_RDI] = RDI,
    [GPR_R8] = R8,   [GPR_R9] = R9,   [GPR_R10] = NO_REG, [GPR_R11] = NO_REG,
    [GPR_R12] = R12, [GPR_R13] = R13, [GPR_R14] = R14,    [GPR_R15] = NO_REG,
};

static bool is_volatile(unsigned host)
{
    for (unsigned i = 0; i < sizeof(host_volatile); i++)
        if (host_volatile[i] == host)
            return true;
    return false;
}

static void move_guest(struct emitter *e, bool load, bool want_volatile)
{
    for (unsigned g = 0; g < GPR_COUNT; g++) {
        if (host_of[g] == NO_REG || is_volatile(host_of[g]) != want_volatile)
            continue;
        if (load)
            emit_load(e, host_of[g], GPR_MEM(g), 8);
        else
            emit_store(e, GPR_MEM(g), host_of[g], 8);
    }
}

#define RAW(bytes) emit_bytes(e, bytes, sizeof(bytes) - 1)

/* Vector moves between register n and [rcx + disp32]: EVEX, VEX or legacy, whole registers. */
static void vector_move(struct emitter *e, struct translator *t, unsigned n, bool load)
{
    struct mem m = mem_at(RCX, (int32_t)(64 * n));

    if (t->features & HOST_AVX512) { /* vmovdqu64 zmm */
        emit8(e, 0x62);
        emit8(e, 0x61u | (n & 8 ? 0 : 0x80u) | (n & 16 ? 0 : 0x10u));
        emit8(e, 0xfe);
        emit8(e, 0x48);
        emit8(e, load ? 0x6f : 0x7f);
        emit_modrm_mem(e, n, m, true);
    } else if (t->features & HOST_AVX) { /* vmovdqu ymm */
        emit8(e, 0xc5);
        emit8(e, 0x7eu | (n & 8 ? 0 : 0x80u));
        emit8(e, load ? 0x6f : 0x7f);
        emit_modrm_mem(e, n, m, false);
    } else { /* movdqu */
        emit8(e, 0xf3);
        if (n & 8)
            emit8(e, 0x44);
        emit8(e, 0x0f);
        emit8(e, load ? 0x6f : 0x7f);
        emit_modrm_mem(e, n, m, false);
    }
}

static void lea_cpu(struct emitter *e, unsigned reg, size_t offset)
{
    emit_load(e, reg, CTX(cpu), 8);
    emit_op_mem(e, 0x8d, 8, reg, mem_at((uint8_t)reg, (int32_t)offset), false);
}

/* All vector state between the registers and struct cpu. Clobbers RCX. */
static void vectors(struct emitter *e, struct translator *t, bool load)
{
    unsigned count = t->features & HOST_AVX512 ? 32 : 16;

    lea_cpu(e, RCX, offsetof(struct cpu, zmm));
    for (unsigned n = 0; n < count; n++)
        vector_move(e, t, n, load);
    if (t->features & HOST_AVX512)
        for (unsigned n = 0; n < 8; n++) { /* kmovq */
            emit8(e, 0x65);
            emit8(e, 0xc4), emit8(e, 0xe1), emit8(e, 0xf8);
            emit8(e, load ? 0x90 : 0x91);
            emit_modrm_mem(e, n, mem_gs(offsetof(struct cpu, k) + 8 * n), false);
        }
    if (load) {
        emit_op_mem(e, 0x0fae, 4, 2, mem_gs(offsetof(struct cpu, fx.mxcsr)), false); /* ldmxcsr */
    } else {
        emit_op_mem(e, 0x0fae, 4, 3, mem_gs(offsetof(struct cpu, fx.mxcsr)), false); /* stmxcsr */
        emit_op_mem(e, 0x0fae, 4, 2, CTX(host_mxcsr), false);
        if (t->features & HOST_AVX)
            RAW("\xc5\xf8\x77"); /* vzeroupper */
    }
    emit_op_mem(e, 0xc6, 1, 0, CTX(vec_live), false);
    emit8(e, load);
}

/* x87 alone, by XSAVE64/XRSTOR64 of component 0 (the others' parts of the image are not touched).
 * Clobbers RAX, RCX; keeps RDX in RCX. */
static void x87(struct emitter *e, bool load)
{
    if (load) { /* the image counts, whatever XSAVE found to be in its initial state */
        emit_op_mem(e, 0xc7, 8, 0, CPU(fx_header), false);
        emit32(e, 1);
    }
    emit_mov(e, RCX, RDX, 8);
    emit_mov_imm(e, RAX, 1);
    emit_mov_imm(e, RDX, 0);
    emit_op_mem(e, 0x0fae, 8, load ? 5 : 4, CPU(fx), false);
    if (!load)
        RAW("\xdb\xe3"); /* fninit */
    emit_mov(e, RDX, RCX, 8);
    emit_op_mem(e, 0xc6, 1, 0, CTX(x87_live), false);
    emit8(e, load);
}

static uint8_t *jump_if_clear(struct emitter *e, struct mem m)
{
    emit_op_mem(e, 0x80, 1, 7, m, false); /* cmp byte */
    emit8(e, 0);
    return emit_jcc(e, 4);
}

static void call_c(struct emitter *e, uint64_t (*function)(struct cpu *))
{
    emit_load(e, RDI, CTX(cpu), 8);
    emit_mov_imm(e, RAX, (uint64_t)(uintptr_t)function);
    RAW("\xff\xd0"); /* call rax */
}

static const uint8_t *rx_of(struct translator *t, const uint8_t *rw)
{
    return t->rx + (rw - t->rw);
}

static void align(struct emitter *e)
{
    while ((uintptr_t)e->at & 15)
        emit8(e, 0xcc);
}

/*
 * RCX: where a branch goes. Then RAX is the index of its jump entry (mem_jump()) and page_rip is
 * set; else one of two jumps leaves, RCX unchanged: the one returned, or *polled. Clobbers flags.
 */
uint8_t *emit_jump_look_up(struct emitter *e, uint8_t **polled)
{
    uint8_t *miss;

    emit_mov(e, RAX, RCX, 4);
    emit_shr(e, RAX, 12, 4);
    RAW("\x31\xc8"); /* xor eax, ecx */
    RAW("\x25");
    emit32(e, TLB_JUMPS - 1);
    emit_op_reg(e, 0xc1, 4, 4, RAX); /* shl eax, 4 */
    emit8(e, 4);
    emit_op_mem(e, 0x3b, 8, RCX, mem_jump(0), false);
    miss = emit_jcc(e, 5);
    emit_op_mem(e, 0x83, 4, 7, CTX(poll), false); /* cmp dword, 0 */
    emit8(e, 0);
    *polled = emit_jcc(e, 4);
    RAW("\x48\x81\xe1");
    emit32(e, 0xfffff000); /* and rcx, -4096 */
    emit_store(e, CTX(page_rip), RCX, 8);
    return miss;
}

/* Guest registers to struct cpu, and onto C's stack. */
static void to_c(struct emitter *e)
{
    move_guest(e, false, true);
    move_guest(e, false, false);
    emit_store(e, CTX(host_sp), RSP, 8);
    emit_load(e, RSP, CTX(c_sp), 8);
}

/* The same, and ask bt_fast(); the jump returned is taken where it has no answer. Else RAX has it.
 */
static uint8_t *ask_fast(struct emitter *e)
{
    to_c(e);
    call_c(e, bt_fast);
    RAW("\x48\x85\xc0"); /* test rax,rax */
    return emit_jcc(e, 4);
}

/* Back onto the guest's stack of paired calls, and on at RAX. */
static void go_on_at_rax(struct emitter *e)
{
    emit_load(e, RSP, CTX(host_sp), 8);
    RAW("\xff\xe0"); /* jmp rax */
}

void stubs_make(struct translator *t)
{
    struct emitter em = {.at = t->rw, .end = t->rw + 64 * KiB}, *e = &em;
    static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};
    uint8_t *fast, *none, *none2, *leave, *resume, *skip;

    /* leave_hw, leave_saved */
    t->stub.leave_hw = rx_of(t, e->at);
    emit_store(e, CTX(a), RAX, 8);
    emit_save_flags(e, CTX(flags));
    skip = emit_jmp(e);
    t->stub.leave_saved = rx_of(t, e->at);
    emit_store(e, CTX(a), RAX, 8);
    emit_fix(e, skip, e->at);
    emit_store(e, CTX(c), RCX, 8);
    none = ask_fast(e);
    move_guest(e, true, true);
    go_on_at_rax(e);

    /* leave_fast: flags are saved; all registers go to struct cpu and come back. */
    align(e);
    t->stub.leave_fast = rx_of(t, e->at);
    none2 = ask_fast(e);
    emit_op_mem(e, 0xf6, 1, 0, CTX(vec_resume), false); /* test byte, 1 */
    emit8(e, 1);
    skip = emit_jcc(e, 4);
    emit_mov(e, R15, RAX, 8);
    vectors(e, t, true);
    emit_mov(e, RAX, R15, 8);
    emit_op_mem(e, 0xc6, 1, 0, CTX(vec_resume), false);
    emit8(e, 0);
    emit_fix(e, skip, e->at);
    move_guest(e, true, true);
    move_guest(e, true, false);
    go_on_at_rax(e);

    /* leave_slow: the same, but bt_fast() has nothing to say. */
    align(e);
    t->stub.leave_slow = rx_of(t, e->at);
    to_c(e);

    emit_fix(e, none, e->at);
    emit_fix(e, none2, e->at);
    skip = jump_if_clear(e, CTX(vec_live));
    vectors(e, t, false);
    emit_op_mem(e, 0xc6, 1, 0, CTX(vec_resume), false);
    emit8(e, 1);
    emit_fix(e, skip, e->at);
    skip = jump_if_clear(e, CTX(x87_live));
    x87(e, false);
    emit_op_mem(e, 0x80, 1, 1, CTX(vec_resume), false); /* or byte, 2 */
    emit8(e, 2);
    emit_fix(e, skip, e->at);
    call_c(e, bt_slow);
    RAW("\x48\x85\xc0");
    leave = emit_jcc(e, 4);

    /* RAX: where to go on; everything is in struct cpu. */
    resume = e->at;
    emit_mov(e, R15, RAX, 8);
    emit_op_mem(e, 0xf6, 1, 0, CTX(vec_resume), false); /* test byte, 1 */
    emit8(e, 1);
    skip = emit_jcc(e, 4);
    vectors(e, t, true);
    emit_fix(e, skip, e->at);
    emit_op_mem(e, 0xf6, 1, 0, CTX(vec_resume), false);
    emit8(e, 2);
    skip = emit_jcc(e, 4);
    x87(e, true);
    emit_fix(e, skip, e->at);
    emit_op_mem(e, 0xc6, 1, 0, CTX(vec_resume), false);
    emit8(e, 0);
    emit_mov(e, RCX, R15, 8);
    move_guest(e, true, true);
    move_guest(e, true, false);
    emit_load(e, RSP, CTX(host_sp), 8);
    emit_restore_flags(e, CTX(flags));
    RAW("\xff\xe1"); /* jmp rcx */

    emit_fix(e, leave, e->at);
    RAW("\x48\x83\xc4\x08"); /* add rsp, 8 */
    for (unsigned i = sizeof(callee_saved); i--;) {
        if (callee_saved[i] & 8)
            emit8(e, 0x41);
        emit8(e, 0x58 | (callee_saved[i] & 7));
    }
    RAW("\xc3");

    /* enter(cpu, code): six registers and the return address leave RSP 8 off 16. */
    align(e);
    t->stub.enter = (void (*)(struct cpu *, const void *))(uintptr_t)rx_of(t, e->at);
    for (unsigned i = 0; i < sizeof(callee_saved); i++) {
        if (callee_saved[i] & 8)
            emit8(e, 0x41);
        emit8(e, 0x50 | (callee_saved[i] & 7));
    }
    emit8(e, 0x50); /* push rax: calls need RSP aligned */
    emit_store(e, CTX(c_sp), RSP, 8);
    emit_mov(e, RAX, RSI, 8);
    emit_jmp_to(e, resume);

    /* indirect: RCX is the target, flags are saved; context.indirect_site is set. The same code
     * stands in line where it is worth it: emit_jump_look_up(). */
    align(e);
    t->stub.indirect = rx_of(t, e->at);
    fast = emit_jump_look_up(e, &skip);
    emit_op_mem(e, 0xff, 4, 4, mem_jump(8), false);
    emit_fix(e, fast, e->at);
    emit_fix(e, skip, e->at);
    t->stub.indirect_miss = rx_of(t, e->at);
    emit_store(e, CTX(target), RCX, 8);
    emit_store_imm32(e, CTX(site), SITE_OF_INDIRECT);
    emit_jmp_to(e, t->rw + (t->stub.leave_saved - t->rx));

    /* ret_miss: the expected address is not on top; look some frames down (longjmp, exceptions). */
    align(e);
    t->stub.ret_miss = rx_of(t, e->at);
    for (int frame = 1; frame <= 4; frame++) {
        emit_op_mem(e, 0x3b, 8, RCX, mem_at(RSP, 16 * frame + 8), false);
        skip = emit_jcc(e, 5);
        emit_op_mem(e, 0x8d, 8, RSP, mem_at(RSP, 16 * frame), false);
        RAW("\xc3");
        emit_fix(e, skip, e->at);
    }
    emit_jmp_to(e, t->rw + (t->stub.indirect - t->rx));

    /* no_return: a guest returned to the address that stands in the lowest frames. */
    align(e);
    t->stub.no_return = rx_of(t, e->at);
    emit_op_mem(e, 0x8d, 8, RSP, mem_at(RSP, -8), false);
    emit_jmp_to(e, t->rw + (t->stub.indirect - t->rx));
    align(e);
    t->stub.pass = rx_of(t, e->at);
    emit_load(e, RAX, CTX(a), 8);
    emit_op_mem(e, 0xff, 4, 4, CTX(c), false); /* jmp */

    /* ensure_vec, ensure_x87: called by the code of blocks with flags saved. Keep all but RAX,
     * RCX. */
    align(e);
    t->stub.ensure_vec = rx_of(t, e->at);
    vectors(e, t, true);
    RAW("\xc3");
    align(e);
    t->stub.ensure_x87 = rx_of(t, e->at);
    x87(e, true);
    RAW("\xc3");

    align(e);
    t->first = t->used = (uint32_t)(e->at - t->rw);
}
