/*
 * translate.c - from guest instructions to host instructions, one block at a time.
 *
 * A block goes straight on from where it starts, over conditional branches, to an unconditional
 * one, the end of the page or MAX_INSNS. It is made in two passes. The first parses, and finds
 * which memory operands can share one check of the TLB: those off the same registers, changed by
 * constants at most, within a short range. The second emits.
 *
 * What must hold, or faults are not precise:
 *  - At every check, poll and exit all guest registers are as before the instruction it belongs to.
 *    An instruction's own host instruction is the last thing that can fault in it; what is written
 *    back to memory-held registers comes after it.
 *  - Before anything clobbers EFLAGS they are saved, unless saved already (`flags`) or to be had
 *    again by repeating an instruction (`repeat`): a fault must find them, even when nobody in the
 *    block reads them.
 *  - A shared check that fails has had no effect: the interpreter goes on from that instruction.
 *    When a block keeps failing it is made again with KEY_SINGLE: a check for each access.
 *  - Addresses of code are page_rip plus constants. No linear address is in a translation.
 *  - Every guest memory access is [linear + addend] with the addend of a successful check whose
 *    range covers it. That, and GS, are all the memory that translated code reaches; verify.c
 *    proves it of emitted code.
 */
#include "translator/internal.h"

#include "interp/insn.h"

enum { PARSE_MAX = 15 };
enum { MAX_INSNS = 48, MAX_GROUPS = 96, MAX_COLD = 192, MAX_RANGE = 256 };
enum { NO_GROUP = 255, NO_SLOT = 255 };

enum flags_where { FLAGS_HW = 1, FLAGS_SAVED = 2 };

/* Memory operands that one check covers. */
struct group {
    uint8_t base, index, scale, segment, address_size;
    uint16_t base_version, index_version;
    int64_t low, high; /* offsets from the base as it was in its version's first instruction; high
                          is the last byte */
    uint8_t access, uses, slot;
    uint8_t exits;         /* conditional exits before it was made */
    uint8_t world;         /* versions.world then */
    uint8_t bit, bit_size; /* BT_MEM: the register that moves the address; 0 size: none */
    bool checked;
};

/* An access of an instruction to memory, as the first pass sees it. */
struct access {
    uint8_t group;
    int64_t offset; /* in the group's terms */
};

struct cold {
    uint8_t kind;          /* enum site_kind, or what follows */
    uint8_t *from, *other; /* displacements of the jumps that come here; NULL: none */
    uint32_t site, link;
    bool saved;
    uint8_t *back; /* COLD_CALL: the continuation */
    unsigned insn;
    uint8_t repeat; /* flags are neither here nor there: xlate.repeat */
    int64_t target; /* COLD_CROSS */
};
enum { COLD_CROSS = 100, COLD_CALL, COLD_INDIRECT, COLD_RET };

struct xlate {
    struct emitter e;
    struct translator *t;
    struct bt_cpu *c;
    struct block *block;
    uint32_t key;
    unsigned code_size;
    const uint8_t *bytes; /* of the page */
    unsigned readable;    /* how many of them there are from the page's start */
    uint32_t page2; /* the next page's name, when the block is an instruction that goes on there */
    uint8_t crossing[2 * PARSE_MAX];
    unsigned count;
    struct bt_insn insn[MAX_INSNS + 1];
    uint16_t at[MAX_INSNS + 1];         /* offset in the page */
    struct access access[MAX_INSNS][2]; /* memory operand, stack */
    struct group group[MAX_GROUPS];
    unsigned groups;
    uint8_t *host[MAX_INSNS + 1];
    struct cold cold[MAX_COLD];
    unsigned colds;
    unsigned i;    /* instruction under way */
    uint8_t flags; /* enum flags_where */
    uint8_t rax;   /* group whose addend RAX holds, or NO_GROUP */
    uint8_t
        repeat; /* one more than the instruction whose repetition makes the flags; 0: none does */
    uint16_t repeat_regs;
    bool vec, x87; /* ensured */
    bool sti;      /* the instruction behind STI is next */
    bool failed;
};

/* ---- small things --------------------------------------------------------------------------- */

static uint32_t cache_at(struct xlate *x, const uint8_t *p)
{
    return (uint32_t)(p - x->t->rw);
}

static uint8_t *stub(struct xlate *x, const uint8_t *rx)
{
    return x->t->rw + (rx - x->t->rx);
}

static unsigned next_at(const struct xlate *x)
{
    return x->at[x->i] + x->insn[x->i].length;
}

static bool wide(const struct xlate *x)
{
    return x->code_size == 8;
}

static uint32_t site_new(struct xlate *x, enum site_kind kind, int32_t offset)
{
    uint32_t n = x->t->site_count++;

    x->t->sites[n] = (struct site){.block = (uint32_t)(x->block - x->t->blocks),
                                   .kind = (uint8_t)kind,
                                   .offset = offset,
                                   .length = x->i < x->count ? x->insn[x->i].length : 0};
    return n;
}

static struct cold *cold_new(struct xlate *x, unsigned kind, uint8_t *from)
{
    struct cold *c = &x->cold[x->colds];

    if (x->colds + 1 < MAX_COLD)
        x->colds++;
    else
        x->failed = true;
    *c = (struct cold){
        .kind = (uint8_t)kind, .from = from, .insn = x->i, .repeat = x->flags ? 0 : x->repeat};
    return c;
}

/* How the flags of an instruction that was executed are made again. */
enum again { AGAIN_NOT, AGAIN_SAME, AGAIN_TEST, AGAIN_UNDO };

/*
 * Flags that need not be kept, because the instruction that made them can be executed once more:
 * CMP and TEST of registers that still have their values; AND, OR and XOR by a TEST of their
 * result; ADD and SUB when the other of the two has taken them back. Only ways out of the code need
 * them then, and do that on the way.
 */
static enum again repeatable(const struct bt_insn *in, uint16_t *regs)
{
    bool group = in->opcode == 0x80 || in->opcode == 0x81 || in->opcode == 0x83;
    bool test_imm = (in->opcode == 0xf6 || in->opcode == 0xf7) && in->reg < 2;
    unsigned op = group ? in->reg * 8u : in->opcode, low = in->opcode & 7;

    if (in->kind != KIND_COPY || in->unit != UNIT_INTEGER || in->encoding != ENC_LEGACY ||
        in->map || in->rm_kind != RM_REG || !in->rm_gpr || in->rm_high || in->reg_high ||
        in->opcode_reg || in->may_fault || in->implicit_read || in->implicit_write ||
        host_of[in->rm] == NO_REG || (in->reg_gpr && host_of[in->reg] == NO_REG))
        return AGAIN_NOT;
    *regs = (uint16_t)(BIT(in->rm) | (in->reg_gpr ? BIT(in->reg) : 0));
    if (test_imm || in->opcode == 0x84 || in->opcode == 0x85)
        return AGAIN_SAME;
    if (!group && (low > 3 || op >= 0x40))
        return AGAIN_NOT;
    switch (op & 0x38) {
    case 0x38: return AGAIN_SAME;
    case 0x08:
    case 0x20:
    case 0x30: *regs = (uint16_t)BIT(group || low < 2 ? in->rm : in->reg); return AGAIN_TEST;
    case 0x00:
    case 0x28: /* of parts of a register verify.c does not see that they come back */
        return in->operand_size >= 4 && (group || in->reg != in->rm) ? AGAIN_UNDO : AGAIN_NOT;
    default: return AGAIN_NOT;
    }
}

static void emit_encoded(struct xlate *x, const struct bt_insn *in, unsigned reg, unsigned rm,
                         const struct mem *m, unsigned vvvv);

/* EFLAGS as instruction n made them. */
static void repeat(struct xlate *x, unsigned n)
{
    const struct bt_insn *in = &x->insn[n];
    unsigned reg = in->reg_gpr ? host_of[in->reg] : in->reg, rm = host_of[in->rm];
    struct bt_insn undo = *in;
    uint16_t regs;

    switch (repeatable(in, &regs)) {
    case AGAIN_NOT: x->failed = true; break;
    case AGAIN_TEST:
        reg = host_of[__builtin_ctz(regs)];
        emit_op_reg(&x->e, in->operand_size == 1 ? 0x84 : 0x85, in->operand_size, reg, reg);
        break;
    case AGAIN_UNDO: /* SUB for ADD, and the other way round */
        if (in->reg_is_opcode)
            undo.reg ^= 5;
        else
            undo.opcode ^= 0x28;
        emit_encoded(x, &undo, in->reg_is_opcode ? undo.reg : reg, rm, NULL, 0); /* fall through */
    case AGAIN_SAME: emit_encoded(x, in, reg, rm, NULL, 0); break;
    }
}

/* General registers that its operands and implicit ones say it writes. */
static uint16_t operands_written(const struct bt_insn *in)
{
    uint16_t mask = in->implicit_write;

    if (in->reg_gpr && in->reg_write)
        mask |= (uint16_t)BIT(in->reg);
    if (in->rm_kind == RM_REG && in->rm_gpr && in->rm_write)
        mask |= (uint16_t)BIT(in->rm);
    if (in->vvvv_gpr && in->vvvv_write)
        mask |= (uint16_t)BIT(in->vvvv);
    return mask;
}

static uint16_t written(const struct bt_insn *in)
{
    switch (in->kind) {
    case KIND_COPY: return operands_written(in);
    case KIND_PUSH: return BIT(GPR_RSP);
    case KIND_POP: return (uint16_t)(BIT(GPR_RSP) | BIT(in->rm));
    case KIND_LEAVE: return BIT(GPR_RSP) | BIT(GPR_RBP);
    case KIND_JCC:
    case KIND_NOP: return 0;
    default: return UINT16_MAX;
    }
}

/* Will nobody but ways out ask for the flags, from instruction i on, until they are set anew? */
static bool can_do_without(const struct xlate *x)
{
    if (!x->repeat)
        return false;
    for (unsigned i = x->i; i < x->count; i++) {
        const struct bt_insn *in = &x->insn[i];

        switch (in->kind) {
        case KIND_COPY:
            if (in->flags_read || in->may_fault || in->unit == UNIT_X87 ||
                (in->flags_changed && in->flags_set != RFLAGS_STATUS))
                return false;
            if (in->flags_set == RFLAGS_STATUS)
                return true;
            break;
        case KIND_NOP:
        case KIND_PUSH:
        case KIND_POP:
        case KIND_LEAVE: break;
        default: return false;
        }
        if (written(in) & x->repeat_regs)
            return false;
    }
    return false;
}

static void need_hw(struct xlate *x)
{
    if (x->flags & FLAGS_HW)
        return;
    if (x->flags & FLAGS_SAVED) {
        emit_restore_flags(&x->e, CTX(flags));
        x->rax = NO_GROUP;
    } else {
        repeat(x, x->repeat - 1u);
    }
    x->flags |= FLAGS_HW;
}

static void need_saved(struct xlate *x)
{
    if (!(x->flags & FLAGS_SAVED)) {
        need_hw(x);
        emit_save_flags(&x->e, CTX(flags));
        x->rax = NO_GROUP;
    }
    x->flags |= FLAGS_SAVED;
}

/* Here or there, but not nowhere. */
static void need_any(struct xlate *x)
{
    if (!x->flags)
        need_hw(x);
}

/* EFLAGS are about to be clobbered. */
static void clobber_flags(struct xlate *x)
{
    if (x->flags & FLAGS_SAVED || !can_do_without(x)) {
        need_saved(x);
        x->flags = FLAGS_SAVED;
    } else {
        x->flags = 0;
    }
}

static uint8_t *emit_jrcxz(struct emitter *e)
{
    emit8(e, 0xe3);
    emit8(e, 0);
    return e->at - 1;
}

static void fix8(struct emitter *e, uint8_t *place)
{
    if (!e->full)
        *place = (uint8_t)(e->at - (place + 1));
}

/* Pad so that four bytes `ahead` of here lie in one aligned word. */
static void align_patch(struct emitter *e, unsigned ahead)
{
    unsigned n = ((uintptr_t)e->at + ahead) & 7;

    if (n <= 4)
        return;
    switch (8 - n) {
    case 1: emit8(e, 0x90); break;
    case 2: emit_bytes(e, "\x66\x90", 2); break;
    default: emit_bytes(e, "\x0f\x1f\x00", 3); break;
    }
}

/* ---- leaving -------------------------------------------------------------------------------- */

static void emit_site(struct xlate *x, uint32_t site, bool saved)
{
    emit_store_imm32(&x->e, CTX(site), site);
    emit_jmp_to(&x->e, stub(x, saved ? x->t->stub.leave_saved : x->t->stub.leave_hw));
}

static uint32_t link_new(struct xlate *x, uint8_t *patch, int32_t offset, bool saved)
{
    uint32_t n = x->t->link_count++;

    x->t->links[n] = (struct link){.from = (uint32_t)(x->block - x->t->blocks),
                                   .patch = cache_at(x, patch),
                                   .offset = offset,
                                   .saved = saved};
    return n;
}

/* The displacement at `patch` is a branch to `offset` of this page. */
static void same_page_link(struct xlate *x, uint8_t *patch, int32_t offset, bool saved)
{
    struct cold *c = cold_new(x, SITE_LINK, patch);

    c->link = link_new(x, patch, offset, saved);
    c->site = site_new(x, SITE_LINK, offset);
    x->t->sites[c->site].link = c->link;
    c->saved = saved;
}

/*
 * RCX: RIP of the first byte of a page, flags saved. Two jumps leave when the TLB's fetch entry for
 * it is not of the page with this name: the one returned, and *other. *where gets the name's place.
 */
static uint8_t *emit_page_is(struct xlate *x, uint32_t name, uint8_t **where, uint8_t **other)
{
    struct emitter *e = &x->e;
    uint8_t *miss;

    emit_op_mem(e, 0x8d, 8, RAX, mem_at(RCX, 0x1000), false);
    emit_shr(e, RAX, 12, 8);
    emit_op_reg(e, 0x0fb7, 4, RCX, RAX); /* movzx ecx, ax */
    emit_op_mem(e, 0x3b, 8, RAX, mem_table(RCX, offsetof(struct tlb_table, ways[MMU_FETCH].tag)),
                false);
    miss = emit_jcc(e, 5);
    align_patch(e, 8);
    emit_op_mem(e, 0x81, 4, 7, mem_table(RCX, offsetof(struct tlb_table, code)), false);
    *where = e->at;
    emit32(e, name);
    *other = emit_jcc(e, 5);
    x->rax = NO_GROUP;
    return miss;
}

/* A branch to another page, flags saved: page_rip becomes the target page's, the TLB must say that
 * it is the page the link was made for. Ends in a jump or call (whose return address follows). */
static void cross_page(struct xlate *x, int64_t target, bool call)
{
    struct emitter *e = &x->e;
    unsigned size = wide(x) ? 8 : 4;
    int32_t page = (int32_t)(target & ~INT64_C(0xfff));
    uint8_t *miss, *other, *jump, *name;
    uint32_t link;
    struct cold *c;

    emit_load(e, RCX, CTX(page_rip), 8);
    emit_op_mem(e, 0x8d, size, RCX, mem_at(RCX, page), false);
    emit_store(e, CTX(page_rip), RCX, 8);
    miss = emit_page_is(x, UINT32_MAX, &name, &other);
    align_patch(e, 1);
    jump = call ? emit_call(e) : emit_jmp(e);
    link = link_new(x, jump, (int32_t)target, true);
    x->t->links[link].page_check = cache_at(x, name);

    c = cold_new(x, call ? COLD_CALL : SITE_LINK, miss);
    c->saved = true;
    c->link = link;
    c->site = site_new(x, SITE_LINK, (int32_t)(target & 0xfff));
    c->back = e->at;
    x->t->sites[c->site].link = link;
    c->other = other;
}

/* Leave when context.poll is 0. Returns the short jump that does it: to be landed by poll_out(), at
 * a place that nothing falls into and that is near. */
static uint8_t *poll(struct xlate *x)
{
    emit_load(&x->e, RCX, CTX(poll), 4);
    return emit_jrcxz(&x->e);
}

static void poll_out(struct xlate *x, uint8_t *from, int32_t offset, bool saved)
{
    struct cold *c;

    if (!from)
        return;
    if (x->e.at - (from + 1) > 127)
        x->failed = true;
    fix8(&x->e, from);
    c = cold_new(x, SITE_POLL, emit_jmp(&x->e));
    c->saved = saved;
    c->site = site_new(x, SITE_POLL, offset);
}

/* To `target` (an offset relative to this page), flags as they are. */
static void branch_to_offset(struct xlate *x, int64_t target)
{
    struct emitter *e = &x->e;
    uint8_t *out = NULL;
    bool saved;

    if (!(x->key & KEY_FLAT_CODE) && (target < 0 || target > 0xfff)) {
        uint32_t s = site_new(x, SITE_EXIT, (int32_t)target);

        /* Beyond the segment's limit the branch itself faults; going on there faults later. */
        x->t->sites[s].link = target == next_at(x) ? UINT32_MAX : x->at[x->i];
        emit_site(x, s, (x->flags & FLAGS_SAVED) != 0);
        return;
    }
    saved = (x->flags & FLAGS_SAVED) != 0;
    if (target <= x->at[x->i])
        out = poll(x);
    if (target < 0 || target > 0xfff) {
        clobber_flags(x);
        cross_page(x, target, false);
    } else {
        align_patch(e, 1);
        same_page_link(x, emit_jmp(e), (int32_t)target, saved);
    }
    poll_out(x, out, (int32_t)target, saved);
}

/* What follows is called; then it goes on at `back`. */
static void emit_call_over(struct xlate *x, const uint8_t *back)
{
    emit_bytes(&x->e, "\xe8\x05\x00\x00\x00", 5); /* call over the jump */
    emit_jmp_to(&x->e, back);
}

/* Everything that was set aside. */
static void emit_colds(struct xlate *x)
{
    struct emitter *e = &x->e;

    for (unsigned i = 0; i < x->colds; i++) {
        struct cold *c = &x->cold[i];

        x->i = c->insn;
        emit_fix(e, c->from, e->at);
        if (c->other)
            emit_fix(e, c->other, e->at);
        switch (c->kind) {
        case COLD_CALL: emit_call_over(x, c->back); /* fall through */
        case SITE_LINK: {
            struct link *l = &x->t->links[c->link];

            l->stub = cache_at(x, e->at);
            emit_fix(e, x->t->rw + l->patch, e->at);
            emit_site(x, c->site, c->saved);
            break;
        }
        case COLD_RET:
            emit_store_imm32(e, CTX(indirect_site), c->site);
            emit_jmp_to(e, stub(x, x->t->stub.ret_miss));
            break;
        case COLD_INDIRECT:
            if (c->back)
                emit_call_over(x, c->back);
            emit_store_imm32(e, CTX(indirect_site), c->site);
            emit_jmp_to(e, stub(x, x->t->stub.indirect_miss));
            break;
        case COLD_CROSS:
            x->flags = c->saved ? FLAGS_SAVED : FLAGS_HW;
            x->rax = NO_GROUP;
            branch_to_offset(x, c->target);
            break;
        default:
            if (c->repeat)
                repeat(x, c->repeat - 1u);
            emit_site(x, c->site, c->saved && !c->repeat);
            break;
        }
    }
}

/*
 * Instructions behind which the interpreter has much to look at, but the block may go on if it
 * finds nothing new (block_goes_on() of run.c). None may drop single TLB entries, for that is not
 * noticed; outside of 64-bit mode none may load segments, for limits are kept in the context.
 */
static bool goes_on_behind(const struct xlate *x, const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_RDFSBASE: /* without CR4.FSGSBASE */
    case ZYDIS_MNEMONIC_RDGSBASE: return true;
    case ZYDIS_MNEMONIC_MOV: /* segment registers */
        return in->opcode == 0x8c || (in->opcode == 0x8e && wide(x));
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT: return wide(x);
    default: return false;
    }
}

/* Does the interpreter come back right behind it, with nothing to look at? */
static bool interp_ends(struct xlate *x, unsigned at, struct bt_insn *in)
{
    struct insn decoded;

    if (insn_decode(x->bytes + at, MIN((unsigned)PARSE_MAX, x->readable - at), x->code_size,
                    &decoded) != DECODE_OK)
        return true;
    in->length = decoded.length;
    in->sub_mnemonic = decoded.mnemonic;
    return decoded.flags & INSN_BOUNDARY && !goes_on_behind(x, &decoded);
}

/* Where `from` jumps, flags saved, the interpreter executes instruction i instead. */
static struct cold *cold_interp(struct xlate *x, uint8_t *from)
{
    struct cold *c = cold_new(x, SITE_INTERP, from);
    struct bt_insn *in = &x->insn[x->i];

    if (x->t->options.stats && !in->sub_mnemonic)
        interp_ends(x, x->at[x->i], in);
    c->saved = true;
    c->site = site_new(x, SITE_INTERP, x->at[x->i]);
    x->t->sites[c->site].link = in->sub_mnemonic;
    return c;
}

/* What instruction i does to general registers: interpret_known() of run.c. */
static void note_effect(const struct xlate *x, struct site *s)
{
    const struct bt_insn *in = &x->insn[x->i];
    int8_t size = (int8_t)x->code_size;

    s->known = true;
    s->writes = operands_written(in);
    switch (in->kind) {
    case KIND_PUSH:
    case KIND_PUSHF: s->stack = (int8_t)-size; break;
    case KIND_POP: s->writes |= (uint16_t)BIT(in->rm); /* fall through */
    case KIND_POPF: s->stack = size; break;
    case KIND_LEAVE: s->writes |= BIT(GPR_RSP) | BIT(GPR_RBP); break;
    case KIND_CMPXCHG_PAIR: s->writes |= BIT(GPR_RAX) | BIT(GPR_RDX); break;
    default: break;
    }
}

/* The interpreter executes instruction i, then the block goes on, or not. */
static void emit_interp(struct xlate *x, bool resume)
{
    uint32_t s;

    if (!x->insn[x->i].sub_mnemonic && x->insn[x->i].length)
        interp_ends(x, x->at[x->i], &x->insn[x->i]);
    need_saved(x);
    s = site_new(x, SITE_INTERP, x->at[x->i]);
    emit_site(x, s, true);
    x->t->sites[s].resume = resume ? cache_at(x, x->e.at) : 0;
    x->t->sites[s].link = x->insn[x->i].sub_mnemonic;
    if (x->insn[x->i].kind == KIND_COPY) /* as plan() sees it */
        note_effect(x, &x->t->sites[s]);
    x->flags = FLAGS_HW | FLAGS_SAVED;
    x->rax = NO_GROUP;
    x->vec = x->x87 = false;
}

/* ---- first pass: which checks --------------------------------------------------------------- */

struct versions {
    uint16_t version[GPR_COUNT];
    int64_t delta[GPR_COUNT];
    unsigned exits;
    uint8_t world; /* counts instructions that may change segments */
};

static void reg_written(struct versions *v, unsigned reg)
{
    v->version[reg & 15]++;
    v->delta[reg & 15] = 0;
}

static uint8_t group_for(struct xlate *x, const struct versions *v, struct group want,
                         int64_t offset, unsigned size, unsigned access, int64_t *out)
{
    int64_t high;
    bool wraps;

    if (want.base < GPR_COUNT) {
        offset += v->delta[want.base];
        want.base_version = v->version[want.base];
    }
    if (want.index < GPR_COUNT) {
        offset += v->delta[want.index] * want.scale;
        want.index_version = v->version[want.index];
    }
    high = offset + size - 1;
    *out = offset;
    want.world = v->world;
    /* An offset that is cut before the segment's base is added may wrap within a page. */
    wraps = want.segment != SEG_NONE && want.address_size < (wide(x) ? 8 : 4);
    if (!(x->key & KEY_SINGLE) && !want.bit_size && !wraps)
        for (unsigned i = x->groups; i-- > 0 && i + 12 > x->groups;) {
            struct group *g = &x->group[i];
            int64_t low = MIN(g->low, offset), top = MAX(g->high, high);

            if (g->base != want.base || g->index != want.index || g->scale != want.scale ||
                g->segment != want.segment || g->address_size != want.address_size ||
                g->base_version != want.base_version || g->index_version != want.index_version ||
                (g->segment != SEG_NONE && g->world != want.world) || top - low >= MAX_RANGE ||
                g->bit_size || g->uses == 255)
                continue;
            if (access == MMU_WRITE && g->access == MMU_READ && g->exits != v->exits)
                continue; /* the write may not happen: it must not set D */
            g->low = low;
            g->high = top;
            if (access == MMU_WRITE)
                g->access = MMU_WRITE;
            g->uses++;
            return (uint8_t)i;
        }
    if (x->groups >= MAX_GROUPS) {
        x->failed = true;
        return 0;
    }
    want.low = offset;
    want.high = high;
    want.access = (uint8_t)access;
    want.uses = 1;
    want.slot = 0; /* given out later */
    want.exits = (uint8_t)v->exits;
    x->group[x->groups] = want;
    return (uint8_t)x->groups++;
}

static bool flat_segment(const struct xlate *x, unsigned segment)
{
    return segment < SEG_FS && (x->key & KEY_FLAT_DATA) && (wide(x) || segment != SEG_CS);
}

static struct group operand_group(struct xlate *x, const struct bt_insn *in)
{
    struct group g = {.base = in->rip                    ? BASE_RIP
                              : in->base == PARSE_NO_REG ? BASE_NONE
                                                         : in->base,
                      .index = in->index == PARSE_NO_REG ? BASE_NONE : in->index,
                      .scale = in->index == PARSE_NO_REG ? 1 : in->scale,
                      .address_size = in->address_size,
                      .segment = flat_segment(x, in->segment) ? SEG_NONE : in->segment};

    return g;
}

static struct group stack_group(struct xlate *x, unsigned base)
{
    return (struct group){.base = (uint8_t)base,
                          .index = BASE_NONE,
                          .scale = 1,
                          .address_size = (uint8_t)x->code_size,
                          .segment = SEG_NONE};
}

/* Does the instruction add a constant to a register and nothing else? */
static bool adds_constant(const struct bt_insn *in, unsigned *reg, int64_t *value)
{
    if (in->kind != KIND_COPY || in->unit != UNIT_INTEGER || in->encoding != ENC_LEGACY)
        return false;
    if (in->operand_size != in->code_size || in->operand_size == 2)
        return false;
    if (in->is_lea) {
        if (in->rip || in->base == PARSE_NO_REG || in->index != PARSE_NO_REG ||
            in->base != in->reg || in->address_size != in->code_size)
            return false;
        *reg = in->reg;
        *value = in->disp;
        return true;
    }
    if (in->map || in->rm_kind != RM_REG || !in->rm_gpr || in->rm_high)
        return false;
    *reg = in->rm;
    if ((in->opcode == 0x83 || in->opcode == 0x81) && in->reg_is_opcode &&
        (in->reg == 0 || in->reg == 5)) {
        *value = in->reg == 0 ? in->imm : -in->imm;
        return true;
    }
    if (in->opcode == 0xff && in->reg_is_opcode && in->reg < 2) {
        *value = in->reg == 0 ? 1 : -1;
        return true;
    }
    return false;
}

static void plan(struct xlate *x)
{
    struct versions v = {0};
    unsigned stack = x->code_size;
    uint8_t slots = 0;

    for (x->i = 0; x->i < x->count; x->i++) {
        const struct bt_insn *in = &x->insn[x->i];
        struct access *a = x->access[x->i];
        unsigned reg;
        int64_t value;

        a[0].group = a[1].group = NO_GROUP;
        if (in->rm_kind == RM_MEM && in->mem_size && !in->is_lea &&
            (in->kind == KIND_COPY || in->kind == KIND_PUSH || in->kind == KIND_JMP_IND ||
             in->kind == KIND_CALL_IND || in->kind == KIND_BT_MEM ||
             in->kind == KIND_CMPXCHG_PAIR)) {
            bool write = in->rm_write && in->kind != KIND_PUSH;
            struct group g = operand_group(x, in);
            int64_t offset = in->disp;

            if (in->kind == KIND_BT_MEM) {
                g.bit = in->reg;
                g.bit_size = in->operand_size;
            }

            if (in->rip)
                offset += x->at[x->i] + in->length;
            a[0].group = group_for(x, &v, g, offset, in->mem_size, write ? MMU_WRITE : MMU_READ,
                                   &a[0].offset);
        }
        switch (in->kind) {
        case KIND_PUSH:
        case KIND_PUSHF:
        case KIND_CALL:
        case KIND_CALL_IND:
            a[1].group = group_for(x, &v, stack_group(x, GPR_RSP), -(int64_t)stack, stack,
                                   MMU_WRITE, &a[1].offset);
            v.delta[GPR_RSP] -= stack;
            break;
        case KIND_POP:
        case KIND_POPF:
        case KIND_RET:
            a[1].group = group_for(x, &v, stack_group(x, GPR_RSP), 0, stack, MMU_READ,
                                   &a[1].offset);
            v.delta[GPR_RSP] += stack;
            if (in->kind == KIND_POP && in->rm_kind == RM_REG)
                reg_written(&v, in->rm);
            break;
        case KIND_LEAVE:
            a[1].group = group_for(x, &v, stack_group(x, GPR_RBP), 0, stack, MMU_READ,
                                   &a[1].offset);
            reg_written(&v, GPR_RSP);
            reg_written(&v, GPR_RBP);
            break;
        case KIND_COPY:
            if (adds_constant(in, &reg, &value)) {
                v.delta[reg] += value;
                if (v.delta[reg] != (int32_t)v.delta[reg])
                    reg_written(&v, reg);
                break;
            }
            for (unsigned r = 0; r < GPR_COUNT; r++)
                if (operands_written(in) >> r & 1)
                    reg_written(&v, r);
            break;
        case KIND_JCC: v.exits++; break;
        case KIND_NOP:
        case KIND_CLI:
        case KIND_CLD:
        case KIND_STD:
        case KIND_CLTS:
        case KIND_BT_MEM:
        case KIND_JMP: break;
        case KIND_CMPXCHG_PAIR:
            reg_written(&v, GPR_RAX);
            reg_written(&v, GPR_RDX);
            break;
        case KIND_WRFSGSBASE: v.world++; break;
        case KIND_WRMSR: v.world++; /* fall through */
        case KIND_IN:
        case KIND_OUT:
        case KIND_RDMSR:
        case KIND_CPUID:
        case KIND_MOV_TO_CR:
        case KIND_PAUSE:
        case KIND_SERIALIZE: v.exits++; /* fall through */
        case KIND_RDTSC:
        case KIND_RDTSCP:
        case KIND_RDPID:
        case KIND_RDFSGSBASE:
        case KIND_MOV_FROM_CR:
        case KIND_MOV_FROM_SEG:
            for (unsigned r = 0; r < GPR_COUNT; r++)
                if (operands_written(in) >> r & 1)
                    reg_written(&v, r);
            break;
        case KIND_LOOP:
            reg_written(&v, GPR_RCX);
            v.exits++;
            break;
        default: /* the interpreter or a helper: anything may be different, the TLB too */
            for (unsigned r = 0; r < GPR_COUNT; r++)
                reg_written(&v, r);
            v.exits++;
            v.world++;
            break;
        }
    }
    /* Slots for what is used more than once; those left over share nothing. */
    for (unsigned i = 0; i < x->groups; i++) {
        struct group *g = &x->group[i];

        g->slot = NO_SLOT;
        if (g->uses > 1 && slots < CONTEXT_SLOTS)
            g->slot = slots++;
        else if (g->uses > 1)
            x->failed = true; /* too many: shorter blocks are made, see translate() */
    }
}

/* ---- memory operands ------------------------------------------------------------------------ */

/* RCX = the offset (not yet segment base) at `offset` of the group, cut to the address size. May
 * use RAX for a second register in memory. EFLAGS stay. */
static void emit_offset(struct xlate *x, const struct group *g, int64_t offset)
{
    struct emitter *e = &x->e;
    struct mem m = {.base = NO_REG, .index = NO_REG, .scale = 1, .disp = (int32_t)offset};
    unsigned size = g->address_size == 8 ? 8 : 4;

    if (g->base == BASE_RIP) {
        emit_load(e, RCX, CTX(page_rip), 8);
        m.base = RCX;
    } else if (g->base != BASE_NONE) {
        m.base = host_of[g->base];
        if (m.base == NO_REG) {
            emit_load(e, RCX, GPR_MEM(g->base), 8);
            m.base = RCX;
        }
    }
    if (g->index != BASE_NONE) {
        m.index = host_of[g->index];
        m.scale = g->scale;
        if (m.index == NO_REG) {
            m.index = m.base == RCX ? RAX : RCX;
            emit_load(e, m.index, GPR_MEM(g->index), 8);
            if (m.index == RAX)
                x->rax = NO_GROUP;
        }
    }
    if (m.base == NO_REG && m.index == NO_REG) {
        if (size == 8)
            emit_mov_imm(e, RCX, (uint64_t)offset);
        else
            emit_mov_imm(e, RCX, (uint32_t)offset);
    } else {
        emit_op_mem(e, 0x8d, size, RCX, m, false);
    }
    if (g->address_size == 2)
        emit_op_reg(e, 0x0fb7, 4, RCX, RCX);
}

static struct mem segment_base(unsigned segment)
{
    return mem_gs(offsetof(struct cpu, seg) + segment * sizeof(struct segment) +
                  offsetof(struct segment, base));
}

/* The check at site `s` of one write may be passed by C, which works the address out again. */
static void site_passes(struct xlate *x, uint32_t n, const struct group *g, int64_t disp)
{
    struct site *s = &x->t->sites[n];

    s->pass = cache_at(x, x->e.at);
    s->disp = (int32_t)disp;
    s->base = g->base;
    s->index = g->index;
    s->scale = g->scale;
    s->segment = g->segment;
    s->address_size = g->address_size;
    s->size = (uint8_t)(g->high - g->low + 1);
}

/* The ordinary address, all its registers in the host's: RAX = last byte and RCX = first byte (when
 * they differ), both plus a page, in as few steps as can be. */
static bool emit_biased(struct xlate *x, const struct group *g, int64_t offset, int64_t span)
{
    struct mem m = {.base = NO_REG, .index = NO_REG, .scale = g->scale};

    if (g->address_size != 8 || g->segment != SEG_NONE || g->bit_size || g->base >= GPR_COUNT ||
        host_of[g->base] == NO_REG || (g->index != BASE_NONE && host_of[g->index] == NO_REG) ||
        offset + 0x1000 + span != (int32_t)(offset + 0x1000 + span))
        return false;
    m.base = host_of[g->base];
    if (g->index != BASE_NONE)
        m.index = host_of[g->index];
    m.disp = (int32_t)(offset + 0x1000);
    if (span)
        emit_op_mem(&x->e, 0x8d, 8, RCX, m, false);
    m.disp += (int32_t)span;
    emit_op_mem(&x->e, 0x8d, 8, RAX, m, false);
    return true;
}

/* How far the group's base register has moved between the instruction of its first use and now is
 * in `delta`: an access at `offset` of the group is at offset - delta from the register now. */
static void emit_check(struct xlate *x, unsigned n, int64_t delta, bool alone)
{
    struct group *g = &x->group[n];
    struct emitter *e = &x->e;
    uint8_t *start;
    uint32_t s;
    struct cold *c;
    int64_t span = g->high - g->low;

    clobber_flags(x);
    start = e->at;
    if (emit_biased(x, g, g->low - delta, span))
        goto look_up;
    emit_offset(x, g, g->low - delta);
    if (g->bit_size) { /* the word with the bit */
        if (host_of[g->bit] == NO_REG)
            emit_load(e, RAX, GPR_MEM(g->bit), 8);
        else
            emit_mov(e, RAX, host_of[g->bit], 8);
        if (g->bit_size == 4)
            emit_bytes(e, "\x48\x63\xc0", 3); /* movsxd rax, eax */
        emit_bytes(e, "\x48\xc1\xf8\x03", 4); /* sar rax, 3 */
        emit_bytes(e, "\x48\x83\xe0", 3);     /* and rax, -size */
        emit8(e, (uint8_t)-g->bit_size);
        emit_op_mem(e, 0x8d, 8, RCX, (struct mem){RCX, RAX, 1, false, 0}, false);
    }
    if (g->segment != SEG_NONE) {
        if (!wide(x)) { /* limit and type */
            emit_op_mem(e, 0x8d, 8, RAX, mem_at(RCX, (int32_t)span), false);
            emit_op_mem(e, 0x3b, 8, RAX,
                        mem_gs(CONTEXT_AT + offsetof(struct bt_context, limit) +
                               8 * (size_t)(g->access * SEG_COUNT + g->segment)),
                        false);
            c = cold_new(x, SITE_CHECK, emit_jcc(e, 15)); /* jg */
            c->saved = true;
            c->site = s = site_new(x, SITE_CHECK, x->at[x->i]);
            x->t->sites[s].access = MMU_ACCESSES; /* no TLB entry will help */
            x->t->sites[s].link = n;
        }
        emit_op_mem(e, 0x03, wide(x) ? 8 : 4, RCX, segment_base(g->segment), false);
    }
    emit_op_mem(e, 0x8d, 8, RAX, mem_at(RCX, (int32_t)(0x1000 + span)), false);
    if (span)
        emit_op_mem(e, 0x8d, 8, RCX, mem_at(RCX, 0x1000), false);
look_up:
    emit_shr(e, RAX, 12, 8);
    if (span == 0) {
        emit_op_reg(e, 0x0fb7, 4, RCX, RAX); /* movzx ecx, ax */
    } else {
        emit_shr(e, RCX, 12, 4);
        emit_op_reg(e, 0x0fb7, 4, RCX, RCX);
    }
    emit_op_mem(e, 0x3b, 8, RAX,
                mem_table(RCX, offsetof(struct tlb_table, ways) +
                                   g->access * sizeof(struct tlb_ways) +
                                   offsetof(struct tlb_ways, tag)),
                false);
    c = cold_new(x, SITE_CHECK, emit_jcc(e, 5));
    c->saved = true;
    c->site = s = site_new(x, SITE_CHECK, x->at[x->i]);
    x->t->sites[s].access = g->access;
    x->t->sites[s].retry = cache_at(x, start);
    x->t->sites[s].link = n;
    x->t->sites[s].helper = alone;
    emit_load(e, RAX,
              mem_table(RCX, offsetof(struct tlb_table, ways) +
                                 g->access * sizeof(struct tlb_ways) +
                                 offsetof(struct tlb_ways, addend)),
              8);
    if (alone && g->access == MMU_WRITE && !g->bit_size)
        site_passes(x, s, g, g->low - delta);
    g->checked = true;
    if (g->slot != NO_SLOT)
        emit_store(e, SLOT_MEM(g->slot), RAX, 8);
    x->rax = (uint8_t)n;
}

/*
 * The host operand of an access of instruction i: checks if need be. It uses RAX, and RCX when
 * that is its base. `disp` is the displacement from the registers as they are now. `resumable`: if
 * the interpreter has to do this instruction, translated code can go on behind it.
 */
static struct mem access_operand(struct xlate *x, unsigned which, int64_t disp, bool resumable)
{
    struct access *a = &x->access[x->i][which];
    struct group *g = &x->group[a->group];
    int64_t delta = a->offset - disp;
    struct emitter *e = &x->e;
    struct mem m;

    if (!g->checked)
        emit_check(x, a->group, delta, resumable && g->uses == 1);
    else if (x->rax != a->group)
        emit_load(e, RAX, SLOT_MEM(g->slot), 8);
    x->rax = a->group;
    if (g->address_size == 8 && g->segment == SEG_NONE && g->index == BASE_NONE &&
        g->base < GPR_COUNT && host_of[g->base] != NO_REG)
        return (struct mem){
            .base = host_of[g->base], .index = RAX, .scale = 1, .disp = (int32_t)disp};
    if (g->base == BASE_RIP && g->segment == SEG_NONE && g->address_size == 8) {
        emit_load(e, RCX, CTX(page_rip), 8);
        return (struct mem){.base = RCX, .index = RAX, .scale = 1, .disp = (int32_t)disp};
    }
    /* Two registers in memory would need RAX: then the addend comes last. */
    m = (struct mem){.base = RCX, .index = RAX, .scale = 1};
    emit_offset(x, g, disp);
    if (g->segment != SEG_NONE) {
        if (wide(x) && (x->flags & FLAGS_HW) && !(x->flags & FLAGS_SAVED)) {
            x->rax = NO_GROUP;
            need_saved(x);
        }
        if (x->flags & FLAGS_SAVED)
            x->flags = FLAGS_SAVED;
        else
            clobber_flags(x);
        emit_op_mem(e, 0x03, wide(x) ? 8 : 4, RCX, segment_base(g->segment), false);
    }
    if (x->rax != a->group) {
        if (g->slot != NO_SLOT) {
            emit_load(e, RAX, SLOT_MEM(g->slot), 8);
        } else {
            /* used once: look the addend up again, the check has just passed */
            emit_op_mem(e, 0x8d, 8, RAX, mem_at(RCX, 0x1000), false);
            clobber_flags(x);
            emit_shr(e, RAX, 12, 8);
            emit_op_reg(e, 0x0fb7, 4, RAX, RAX);
            emit_load(e, RAX,
                      mem_table(RAX, offsetof(struct tlb_table, ways) +
                                         g->access * sizeof(struct tlb_ways) +
                                         offsetof(struct tlb_ways, addend)),
                      8);
        }
        x->rax = a->group;
    }
    return m;
}

/* The operand's host address in one register; RAX or RCX. */
static struct mem collapse(struct xlate *x, struct mem m, unsigned reg)
{
    emit_op_mem(&x->e, 0x8d, 8, reg, m, false);
    x->rax = NO_GROUP;
    return mem_at((uint8_t)reg, 0);
}

/* Behind instruction i: where its checks' slow ways may come back to. */
static void resume_here(struct xlate *x, uint32_t first_site)
{
    for (uint32_t s = first_site; s < x->t->site_count; s++) {
        struct site *site = &x->t->sites[s];

        if (site->kind == SITE_CHECK && site->helper && site->offset == x->at[x->i]) {
            site->resume = cache_at(x, x->e.at);
            note_effect(x, site);
        }
    }
}

/* ---- putting instructions together ---------------------------------------------------------- */

/* `reg`, `vvvv`: host numbers; memory when m, else `rm`. */
static void emit_encoded(struct xlate *x, const struct bt_insn *in, unsigned reg, unsigned rm,
                         const struct mem *m, unsigned vvvv)
{
    struct emitter *e = &x->e;
    unsigned b = m ? (m->base != NO_REG && m->base & 8 ? 1 : 0) : (rm >> 3 & 1);
    unsigned xx = m ? (m->index != NO_REG && m->index & 8 ? 1 : 0) : (rm >> 4 & 1);
    unsigned r = in->reg_is_opcode ? 0 : reg >> 3 & 1;
    unsigned opcode = in->opcode;

    /* AH, CH, DH, BH of the first four, never with REX: what they go with is placed there, too. */
    if (in->reg_gpr && in->reg_high)
        reg += 4;
    if (!m && in->rm_gpr && in->rm_high)
        rm += 4;
    if (m && m->gs)
        emit8(e, 0x65);
    switch (in->encoding) {
    case ENC_LEGACY: {
        unsigned rex = (in->rex_w ? 8u : 0) | r << 2 | (m ? xx << 1 : 0) | b;
        bool p66 = in->p66, low_byte;

        low_byte = (in->reg_gpr && in->reg_size == 1 && !in->reg_high && reg >= 4) ||
                   (!m && in->rm_gpr && in->rm_size == 1 && !in->rm_high && rm >= 4);
        if (in->lock)
            emit8(e, 0xf0);
        if (p66)
            emit8(e, 0x66);
        if (in->rep)
            emit8(e, in->rep);
        if (rex || low_byte)
            emit8(e, 0x40 | rex);
        if (in->map)
            emit8(e, 0x0f);
        if (in->map == 2)
            emit8(e, 0x38);
        else if (in->map == 3)
            emit8(e, 0x3a);
        emit8(e, in->opcode_reg ? opcode | (rm & 7) : opcode);
        break;
    }
    case ENC_VEX:
        emit8(e, 0xc4);
        emit8(e, (r ? 0 : 0x80u) | (xx && m ? 0 : 0x40u) | (b ? 0 : 0x20u) | in->map);
        emit8(e,
              (in->rex_w ? 0x80u : 0) | (~vvvv & 15) << 3 | (unsigned)in->vex_l << 2 | in->vex_pp);
        emit8(e, opcode);
        break;
    case ENC_EVEX:
        emit8(e, 0x62);
        emit8(e, (r ? 0 : 0x80u) | (xx ? 0 : 0x40u) | (b ? 0 : 0x20u) | (reg & 16 ? 0 : 0x10u) |
                     in->map);
        emit8(e, (in->rex_w ? 0x80u : 0) | (~vvvv & 15) << 3 | 4 | in->vex_pp);
        emit8(e, (in->evex_p2 & 0x97u) | (unsigned)in->vex_l << 5 | (vvvv & 16 ? 0 : 8u));
        emit8(e, opcode);
        break;
    }
    if (in->has_modrm) {
        if (m)
            emit_modrm_mem(e, reg, *m, in->encoding == ENC_EVEX);
        else
            emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
    }
    if (in->has_imm)
        switch (in->imm_size) {
        case 1: emit8(e, (uint8_t)in->imm); break;
        case 2: emit16(e, (uint16_t)in->imm); break;
        case 4: emit32(e, (uint64_t)in->imm); break;
        default: emit64(e, (uint64_t)in->imm); break;
        }
}

/* Where the registers of one instruction go. */
struct placing {
    uint8_t host[4];  /* reg, rm, vvvv */
    uint8_t guest[4]; /* what a scratch register stands for */
    uint8_t scratch[4];
    bool read[4], write[4];
    unsigned n;       /* scratch registers in use */
    uint8_t borrowed; /* NO_REG or a pinned register whose value is in context.spill */
};

static void place(struct placing *p, unsigned role, unsigned guest, bool force, bool read,
                  bool write, uint16_t *free_scratch)
{
    unsigned s;

    if (host_of[guest] != NO_REG && !force) {
        p->host[role] = host_of[guest];
        return;
    }
    for (s = 0; s < p->n; s++)
        if (p->guest[s] == guest)
            break;
    if (s == p->n) {
        if (*free_scratch & BIT(RAX))
            p->scratch[s] = RAX;
        else if (*free_scratch & BIT(RCX))
            p->scratch[s] = RCX;
        else
            p->scratch[s] = NO_REG; /* borrow */
        if (p->scratch[s] != NO_REG)
            *free_scratch &= (uint16_t)~BIT(p->scratch[s]);
        p->guest[s] = (uint8_t)guest;
        p->read[s] = p->write[s] = false;
        p->n++;
    }
    p->read[s] |= read;
    p->write[s] |= write;
    p->host[role] = p->scratch[s];
}

static void fault_point(struct xlate *x, uint8_t borrowed)
{
    x->t->faults[x->t->fault_count++] = (struct fault_point){.host = cache_at(x, x->e.at),
                                                             .offset = x->at[x->i],
                                                             .flags_live = (x->flags & FLAGS_HW) !=
                                                                           0,
                                                             .borrowed = borrowed};
}

static void ensure(struct xlate *x, struct mem live, const uint8_t *stub_rx)
{
    struct emitter *e = &x->e;
    uint8_t *skip;

    clobber_flags(x);
    emit_op_mem(e, 0x80, 1, 7, live, false);
    emit8(e, 0);
    emit8(e, 0x75), emit8(e, 0); /* jne */
    skip = e->at - 1;
    emit_fix(e, emit_call(e), stub(x, stub_rx));
    fix8(e, skip);
    x->rax = NO_GROUP;
}

/* Its state must be in the host's registers. */
static void ensure_unit(struct xlate *x, unsigned unit)
{
    if (unit == UNIT_VECTOR && !x->vec) {
        if (!(x->key & KEY_USER))
            ensure(x, CTX(vec_live), x->t->stub.ensure_vec);
        x->vec = true;
    } else if (unit == UNIT_X87 && !x->x87) {
        ensure(x, CTX(x87_live), x->t->stub.ensure_x87);
        x->x87 = true;
    }
}

static bool can_be_memory(const struct bt_insn *in)
{
    if (in->encoding != ENC_LEGACY || in->map > 1 || in->unit != UNIT_INTEGER || in->opcode_reg ||
        !in->rm_gpr || in->rm_high || in->reg_high || in->lock || !in->has_modrm || in->is_lea)
        return false;
    if (in->rm_write && in->rm_size == 4)
        return false;
    if (in->map == 1 && (in->opcode == 0xa3 || in->opcode == 0xab || in->opcode == 0xb3 ||
                         in->opcode == 0xbb || (in->opcode & 0xf8) == 0xc8))
        return false;
    return !(in->map == 0 && (in->opcode == 0x86 || in->opcode == 0x87)); /* XCHG would lock */
}

/* It computes in registers; both parts of its address may be in memory. */
static void emit_lea_insn(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct group g = operand_group(x, in);
    int64_t disp = in->disp + (in->rip ? next_at(x) : 0);
    bool resident = host_of[in->reg] == NO_REG,
         all = in->operand_size == 8 && in->address_size == 8;
    unsigned to = resident ? RCX : host_of[in->reg];
    struct emitter *e = &x->e;

    if (disp != (int32_t)disp) {
        emit_interp(x, true);
    } else if (!resident && in->address_size >= 4 && in->operand_size >= 4 && g.base < GPR_COUNT &&
               host_of[g.base] != NO_REG && (g.index == BASE_NONE || host_of[g.index] != NO_REG)) {
        struct mem m = {.base = host_of[g.base],
                        .index = g.index == BASE_NONE ? NO_REG : host_of[g.index],
                        .scale = g.scale,
                        .disp = (int32_t)disp};

        emit_op_mem(e, 0x8d, all ? 8 : 4, to, m, false);
    } else if (!resident && in->rip && all) {
        emit_load(e, to, CTX(page_rip), 8);
        emit_op_mem(e, 0x8d, 8, to, mem_at((uint8_t)to, (int32_t)disp), false);
    } else {
        emit_offset(x, &g, disp);
        if (in->operand_size == 2 && resident) {
            emit_store(e, GPR_MEM(in->reg), RCX, 2);
        } else {
            emit_mov(e, to, RCX, in->operand_size);
            if (resident)
                emit_store(e, GPR_MEM(in->reg), RCX, 8);
        }
    }
}

/* The place of the operand in `role`. `implicit`: RAX and RCX are the host's own where the
 * instruction also uses them unnamed. What is written in part is read first. */
static void place_operand(struct placing *p, unsigned role, unsigned guest, unsigned size,
                          bool force, bool read, bool write, unsigned implicit,
                          uint16_t *free_scratch)
{
    if (guest <= GPR_RCX && implicit >> guest & 1)
        p->host[role] = (uint8_t)guest;
    else
        place(p, role, guest, force, read || (write && size < 4), write, free_scratch);
}

static void emit_copy(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct emitter *e = &x->e;
    struct placing p = {.host = {0}, .borrowed = NO_REG};
    unsigned implicit = in->implicit_read | in->implicit_write;
    bool uses_rax = implicit & BIT(GPR_RAX), uses_rcx = implicit & BIT(GPR_RCX);
    bool mem = in->rm_kind == RM_MEM && in->mem_size;
    bool high = in->reg_high || in->rm_high;
    bool partial = in->flags_changed && in->flags_set != RFLAGS_STATUS;
    bool want_flags;
    uint16_t free_scratch = BIT(RAX) | BIT(RCX);
    bool rm_memory = false;
    uint32_t first_site = x->t->site_count;
    struct mem m = {0};

    if (in->is_lea) {
        emit_lea_insn(x);
        return;
    }
    if (in->unit != UNIT_INTEGER)
        ensure_unit(x, in->unit);
    want_flags = (in->flags_read || partial) && !(x->flags & FLAGS_HW);
    if (mem) {
        bool other = in->vvvv_gpr && host_of[in->vvvv] == NO_REG;
        bool resident = (in->reg_gpr && host_of[in->reg] == NO_REG) || other;

        m = access_operand(x, 0, in->disp + (in->rip ? next_at(x) : 0), true);
        /* The check has put the flags away; that may be new. */
        want_flags = (in->flags_read || partial) && !(x->flags & FLAGS_HW);
        if (uses_rcx && (want_flags || uses_rax)) { /* no register is left for the address */
            emit_interp(x, true);
            return;
        }
        if (uses_rax || uses_rcx || high || want_flags) {
            unsigned reg = uses_rcx ? RAX : RCX;

            m = collapse(x, m, reg);
            free_scratch &= (uint16_t)~BIT(reg);
        } else if (resident && !other && in->reg_write && !in->reg_read && in->reg_size >= 4) {
            free_scratch = BIT(RAX); /* the address is used up when it is written */
        } else if (resident && !(other && in->reg_gpr) && m.base != RCX) {
            free_scratch = BIT(RCX);
        } else if (resident) {
            m = collapse(x, m, RCX);
            free_scratch = BIT(RAX);
        } else {
            free_scratch = 0;
        }
    } else if (in->rm_kind == RM_REG && in->rm_gpr && host_of[in->rm] == NO_REG &&
               can_be_memory(in) &&
               !(in->reg_gpr && in->reg == in->rm && (in->reg_write || in->rm_write))) {
        rm_memory = true;
        m = GPR_MEM(in->rm);
    }
    if (want_flags)
        need_hw(x);

    /* Implicit registers are host registers of the same name. */
    if (uses_rax)
        free_scratch &= (uint16_t)~BIT(RAX);
    if (uses_rcx)
        free_scratch &= (uint16_t)~BIT(RCX);
    p.host[0] = in->reg;
    p.host[1] = in->rm;
    p.host[2] = in->vvvv;
    if (in->reg_gpr)
        place_operand(&p, 0, in->reg, in->reg_size, high, in->reg_read, in->reg_write, implicit,
                      &free_scratch);
    if (in->rm_kind == RM_REG && in->rm_gpr && !rm_memory)
        place_operand(&p, 1, in->rm, in->rm_size, high, in->rm_read, in->rm_write, implicit,
                      &free_scratch);
    if (in->vvvv_gpr)
        place(&p, 2, in->vvvv, false, in->vvvv_read, in->vvvv_write, &free_scratch);

    /* One scratch register too few: borrow. */
    for (unsigned s = 0; s < p.n; s++)
        if (p.scratch[s] == NO_REG) {
            static const uint8_t lenders[] = {R14, R13, R12, RBX, R9, R8};
            uint16_t used = 0;

            for (unsigned role = 0; role < 3; role++)
                if (p.host[role] < 16)
                    used |= (uint16_t)BIT(p.host[role]);
            for (unsigned i = 0; i < p.n; i++)
                if (host_of[p.guest[i]] != NO_REG)
                    used |= (uint16_t)BIT(host_of[p.guest[i]]);
            if (mem) {
                if (m.base < 16)
                    used |= (uint16_t)BIT(m.base);
                if (m.index < 16)
                    used |= (uint16_t)BIT(m.index);
            }
            for (unsigned r = 0; r < GPR_COUNT; r++)
                if (implicit >> r & 1 && host_of[r] != NO_REG)
                    used |= (uint16_t)BIT(host_of[r]);
            if (p.borrowed != NO_REG) {
                emit_interp(x, true);
                return;
            }
            for (unsigned i = 0; i < sizeof(lenders); i++)
                if (!(used & BIT(lenders[i])) && !(high && lenders[i] != RBX)) {
                    p.borrowed = p.scratch[s] = lenders[i];
                    break;
                }
            if (p.borrowed == NO_REG) {
                emit_interp(x, true);
                return;
            }
            emit_store(e, CTX(spill), p.borrowed, 8);
            for (unsigned role = 0; role < 3; role++)
                if (p.host[role] == NO_REG)
                    p.host[role] = p.borrowed;
        }
    for (unsigned s = 0; s < p.n; s++) {
        if (p.scratch[s] == RAX)
            x->rax = NO_GROUP;
        if (!p.read[s])
            continue;
        if (host_of[p.guest[s]] == NO_REG)
            emit_load(e, p.scratch[s], GPR_MEM(p.guest[s]), 8);
        else
            emit_mov(e, p.scratch[s], host_of[p.guest[s]], 8);
    }
    if (uses_rax) {
        emit_mov(e, RAX, host_of[GPR_RAX], 8);
        x->rax = NO_GROUP;
    }
    if (uses_rcx)
        emit_mov(e, RCX, host_of[GPR_RCX], 8);

    if (in->may_fault)
        fault_point(x, p.borrowed);
    emit_encoded(x, in, p.host[0], p.host[1], mem || rm_memory ? &m : NULL, p.host[2]);

    if (in->flags_changed)
        x->flags = FLAGS_HW;
    if (uses_rax && operands_written(in) & BIT(GPR_RAX))
        emit_mov(e, host_of[GPR_RAX], RAX, 8);
    if (uses_rcx && operands_written(in) & BIT(GPR_RCX))
        emit_mov(e, host_of[GPR_RCX], RCX, 8);
    for (unsigned s = 0; s < p.n; s++) {
        if (!p.write[s])
            continue;
        if (host_of[p.guest[s]] == NO_REG)
            emit_store(e, GPR_MEM(p.guest[s]), p.scratch[s], 8);
        else
            emit_mov(e, host_of[p.guest[s]], p.scratch[s], 8);
    }
    if (p.borrowed != NO_REG)
        emit_load(e, p.borrowed, CTX(spill), 8);
    if (mem)
        resume_here(x, first_site);
}

/* ---- the stack and branches ----------------------------------------------------------------- */

static unsigned stack_bytes(const struct xlate *x)
{
    return x->code_size;
}

/* RSP += n, in the stack's width, flags untouched. */
static void move_stack(struct xlate *x, int64_t n)
{
    emit_op_mem(&x->e, 0x8d, wide(x) ? 8 : 4, R15, mem_at(R15, (int32_t)n), false);
}

static void emit_push(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    unsigned size = stack_bytes(x);
    struct emitter *e = &x->e;
    uint32_t first_site = x->t->site_count;
    struct mem m;

    if (in->rm_kind == RM_MEM) {
        m = access_operand(x, 0, in->disp + (in->rip ? next_at(x) : 0), false);
        emit_load(e, RCX, m, size);
        emit_store(e, CTX(value), RCX, 8);
        m = access_operand(x, 1, -(int64_t)size, false);
        if (m.base == RCX)
            m = collapse(x, m, RAX);
        emit_load(e, RCX, CTX(value), 8);
        emit_store(e, m, RCX, size);
    } else if (in->rm_kind == RM_NONE) {
        m = access_operand(x, 1, -(int64_t)size, true);
        emit_op_mem(e, 0xc7, size, 0, m, false);
        emit32(e, (uint64_t)in->imm);
    } else {
        unsigned from = host_of[in->rm];

        m = access_operand(x, 1, -(int64_t)size, true);
        if (from == NO_REG) {
            if (m.base == RCX)
                m = collapse(x, m, RAX);
            emit_load(e, RCX, GPR_MEM(in->rm), 8);
            from = RCX;
        }
        emit_store(e, m, from, size);
    }
    move_stack(x, -(int64_t)size);
    if (in->rm_kind != RM_MEM)
        resume_here(x, first_site);
}

static void emit_pop(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    unsigned size = stack_bytes(x), to = host_of[in->rm];
    struct emitter *e = &x->e;
    uint32_t first_site = x->t->site_count;
    struct mem m = access_operand(x, 1, 0, true);

    emit_load(e, to == NO_REG ? RCX : to, m, size);
    if (in->rm != GPR_RSP)
        move_stack(x, size);
    if (to == NO_REG)
        emit_store(e, GPR_MEM(in->rm), RCX, 8);
    resume_here(x, first_site);
}

static void emit_leave(struct xlate *x)
{
    unsigned size = stack_bytes(x);
    uint32_t first_site = x->t->site_count;
    struct mem m = access_operand(x, 1, 0, true);

    emit_op_mem(&x->e, 0x8d, wide(x) ? 8 : 4, R15, mem_at(RBP, (int32_t)size), false);
    emit_load(&x->e, RBP, m, size);
    resume_here(x, first_site);
}

/* Behind a host CALL: the guest has come back to `next`; RCX is that address. */
static void continuation(struct xlate *x, int64_t next)
{
    struct emitter *e = &x->e;

    x->flags = FLAGS_SAVED;
    x->rax = NO_GROUP;
    emit_op_mem(e, 0x8d, 8, RSP, mem_at(RSP, 8), false);
    emit_op_mem(e, 0x8d, wide(x) ? 8 : 4, RCX, mem_at(RCX, (int32_t)-next), false);
    emit_store(e, CTX(page_rip), RCX, 8);
    branch_to_offset(x, next);
}

/* The branch behind STI can do nothing any more but arrive: from there on interrupts are taken.
 * EFLAGS stay. */
static void shadow_ends(struct xlate *x)
{
    if (!x->sti)
        return;
    x->sti = false;
    emit_op_mem(&x->e, 0xc6, 1, 0, CPU(sti_shadow), false);
    emit8(&x->e, 0);
}

/* The return address to the guest's stack and to ours. */
static void push_return(struct xlate *x, int64_t next)
{
    struct emitter *e = &x->e;
    unsigned size = stack_bytes(x);
    struct mem m = access_operand(x, 1, -(int64_t)size, false);

    if (m.base == RCX)
        m = collapse(x, m, RAX);
    emit_load(e, RCX, CTX(page_rip), 8);
    emit_op_mem(e, 0x8d, wide(x) ? 8 : 4, RCX, mem_at(RCX, (int32_t)next), false);
    emit_store(e, m, RCX, size);
    shadow_ends(x);
    move_stack(x, -(int64_t)size);
    emit8(e, 0x51); /* push rcx */
}

static void emit_call_direct(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    int64_t next = next_at(x), target = next + in->rel;
    struct emitter *e = &x->e;

    if (target <= x->at[x->i]) {
        uint8_t *out = poll(x);

        emit8(e, 0xeb), emit8(e, 5);
        poll_out(x, out, x->at[x->i], (x->flags & FLAGS_SAVED) != 0);
    }
    need_saved(x);
    push_return(x, next);
    if (target < 0 || target > 0xfff) {
        clobber_flags(x);
        cross_page(x, target, true);
    } else {
        align_patch(e, 1);
        same_page_link(x, emit_call(e), (int32_t)target, true);
    }
    continuation(x, next);
}

/* The target of an indirect branch into RCX. */
static void indirect_target(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    unsigned size = stack_bytes(x);

    if (in->rm_kind == RM_MEM)
        emit_load(&x->e, RCX, access_operand(x, 0, in->disp + (in->rip ? next_at(x) : 0), false),
                  size);
    else if (host_of[in->rm] == NO_REG)
        emit_load(&x->e, RCX, GPR_MEM(in->rm), size);
    else
        emit_mov(&x->e, RCX, host_of[in->rm], size);
}

/* For a branch that turns out to go nowhere: whose #GP it is. */
static uint32_t indirect_site(struct xlate *x, unsigned drop)
{
    uint32_t s = site_new(x, SITE_INDIRECT, x->at[x->i]);

    x->t->sites[s].link = drop; /* what RSP moved by */
    return s;
}

/* The branch to RCX itself, flags saved. */
static void emit_indirect(struct xlate *x, uint32_t site, bool call)
{
    struct emitter *e = &x->e;
    uint8_t *polled, *miss = emit_jump_look_up(e, &polled);
    struct cold *c;

    emit_op_mem(e, 0xff, 4, call ? 2 : 4, mem_jump(8), false);
    c = cold_new(x, COLD_INDIRECT, miss);
    c->other = polled;
    c->site = site;
    c->back = call ? e->at : NULL;
}

static void emit_jmp_indirect(struct xlate *x)
{
    indirect_target(x);
    shadow_ends(x);
    clobber_flags(x);
    emit_indirect(x, indirect_site(x, 0), false);
}

static void emit_call_indirect(struct xlate *x)
{
    int64_t next = next_at(x);
    struct emitter *e = &x->e;

    indirect_target(x);
    need_saved(x);
    emit_store(e, CTX(value), RCX, 8);
    push_return(x, next);
    emit_load(e, RCX, CTX(value), 8);
    emit_indirect(x, indirect_site(x, (unsigned)-stack_bytes(x)), true);
    continuation(x, next);
}

static void emit_ret(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    unsigned size = stack_bytes(x);
    int64_t drop = size + (in->has_imm ? in->imm & 0xffff : 0);
    struct emitter *e = &x->e;
    struct mem m = access_operand(x, 1, 0, false);
    struct cold *c;

    emit_load(e, RCX, m, size);
    shadow_ends(x);
    clobber_flags(x);
    move_stack(x, drop);
    emit_op_mem(e, 0x3b, 8, RCX, mem_at(RSP, 8), false);
    c = cold_new(x, COLD_RET, emit_jcc(e, 5));
    c->site = indirect_site(x, (unsigned)drop);
    emit8(e, 0xc3);
}

static void emit_jcc_exit(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    int64_t target = next_at(x) + in->rel;
    struct emitter *e = &x->e;
    bool saved;

    need_hw(x);
    shadow_ends(x);
    saved = (x->flags & FLAGS_SAVED) != 0;
    if (target < 0 || target > 0xfff) {
        struct cold *c = cold_new(x, COLD_CROSS, emit_jcc(e, in->cond));

        c->saved = saved;
        c->target = target;
    } else if (target > x->at[x->i]) {
        align_patch(e, 2);
        same_page_link(x, emit_jcc(e, in->cond), (int32_t)target, saved);
    } else {
        uint8_t *over = emit_jcc(e, in->cond ^ 1u);
        uint8_t flags = x->flags;

        branch_to_offset(x, target);
        emit_fix(e, over, e->at);
        x->flags = flags;
    }
    x->rax = NO_GROUP;
}

static void emit_loop(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    int64_t target = next_at(x) + in->rel;
    struct emitter *e = &x->e;
    unsigned size = in->address_size == 8 ? 8 : 4;
    uint8_t *zero, *over;
    uint8_t flags = x->flags;

    if (in->opcode == 0xe2)
        emit_op_mem(e, 0x8d, size, R11, mem_at(R11, -1), false);
    emit_mov(e, RCX, R11, size);
    zero = emit_jrcxz(e);
    /* The taken path may be longer than a short jump reaches: it is jumped over by a long one. */
    if (in->opcode == 0xe3) {
        over = emit_jmp(e);
        fix8(e, zero);
    } else {
        emit8(e, 0xeb), emit8(e, 5);
        fix8(e, zero);
        over = emit_jmp(e);
    }
    branch_to_offset(x, target);
    emit_fix(e, over, e->at);
    x->flags = flags;
    x->rax = NO_GROUP;
}

/* ---- privileged and special ones ------------------------------------------------------------ */

/* C does it while everything stays in place: fast.c. */
static void emit_fast(struct xlate *x, enum fast_op op, uint32_t parameter)
{
    uint32_t s;

    need_saved(x);
    s = site_new(x, SITE_FAST, x->at[x->i]);
    emit_store_imm32(&x->e, CTX(site), s);
    emit_jmp_to(&x->e, stub(x, x->t->stub.leave_fast));
    x->t->sites[s].helper = (uint8_t)op;
    x->t->sites[s].link = parameter;
    x->t->sites[s].resume = op == FAST_STRING ? cache_at(x, x->e.at) : 0;
    x->flags = FLAGS_SAVED;
    x->rax = NO_GROUP;
}

static void emit_string(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];

    emit_fast(x, FAST_STRING,
              (in->opcode & 1 ? in->operand_size : 1u) | (in->rep ? 0x10 : 0) |
                  (in->opcode < 0xa6 ? 0x20 : 0) | (in->address_size == 4 ? 0x40 : 0));
}

/* and/or dword [rflags], bits */
static void change_rflags(struct xlate *x, bool set, uint32_t bits)
{
    clobber_flags(x);
    emit_op_mem(&x->e, 0x81, 4, set ? 1 : 4, CPU(rflags), false);
    emit32(&x->e, set ? bits : ~bits);
}

/* Whatever has come in the meantime is looked at before the instruction at `next`. */
static void leave_for_events(struct xlate *x, int32_t next)
{
    struct emitter *e = &x->e;
    uint8_t *none;
    struct cold *c;

    emit_load(e, RCX, CPU(events), 4);
    none = emit_jrcxz(e);
    c = cold_new(x, SITE_EXIT, emit_jmp(e));
    c->saved = (x->flags & FLAGS_SAVED) != 0;
    c->site = site_new(x, SITE_EXIT, next);
    x->t->sites[c->site].link = UINT32_MAX;
    fix8(e, none);
}

/* What follows STI is executed before any interrupt: only where the block has it. */
static bool sti_can(struct xlate *x, bool *branch)
{
    *branch = false;
    if (x->i + 1 >= x->count)
        return false;
    switch (x->insn[x->i + 1].kind) {
    case KIND_JMP:
    case KIND_JCC:
    case KIND_CALL:
    case KIND_CALL_IND:
    case KIND_JMP_IND:
    case KIND_RET: *branch = true; return true;
    case KIND_COPY:
    case KIND_NOP:
    case KIND_PUSH:
    case KIND_POP:
    case KIND_LEAVE:
    case KIND_MOV_FROM_SEG:
    case KIND_FALLBACK: return true;
    default: return false;
    }
}

/* Behind a branch there is no place to look for events. So what waits now is the interpreter's, and
 * what comes until then is as if it came later: it stops the next poll. */
static void emit_sti(struct xlate *x, bool branch)
{
    struct emitter *e = &x->e;

    if (branch) {
        uint8_t *none;

        clobber_flags(x);
        emit_load(e, RCX, CPU(events), 4);
        none = emit_jrcxz(e);
        cold_interp(x, emit_jmp(e));
        fix8(e, none);
    }
    change_rflags(x, true, RFLAGS_IF);
    emit_op_mem(e, 0xc6, 1, 0, CPU(sti_shadow), false);
    emit8(e, 1);
    x->sti = true;
}

/* Behind the instruction behind STI, which is no branch. */
static void end_shadow(struct xlate *x)
{
    shadow_ends(x);
    leave_for_events(x, (int32_t)next_at(x));
    x->rax = NO_GROUP;
}

static void emit_pushf(struct xlate *x)
{
    struct emitter *e = &x->e;
    uint32_t first_site = x->t->site_count;
    unsigned size = stack_bytes(x);

    clobber_flags(x); /* before RAX has an addend */
    collapse(x, access_operand(x, 1, -(int64_t)size, true), RCX);
    emit_store(e, CTX(value), RCX, 8);
    emit_op_mem(e, 0x0fb6, 4, RCX, CTX(flags_high), false);
    emit_op_mem(e, 0x0fb6, 4, RAX, CTX(flags), false);
    emit_bytes(e, "\x83\xe1", 2), emit8(e, 0xd5); /* and ecx, the five */
    emit_bytes(e, "\x83\xe0", 2), emit8(e, 1);    /* and eax, 1 */
    emit_bytes(e, "\xc1\xe0", 2), emit8(e, 11);   /* shl eax, 11: OF */
    emit_bytes(e, "\x09\xc1", 2);                 /* or ecx, eax */
    emit_load(e, RAX, CPU(rflags), 8);
    emit_bytes(e, "\x48\x25", 2); /* and rax, */
    emit32(e, (uint32_t) ~(RFLAGS_STATUS | RFLAGS_RF | RFLAGS_VM));
    emit_bytes(e, "\x48\x09\xc1", 3); /* or rcx, rax */
    emit_load(e, RAX, CTX(value), 8);
    emit_store(e, mem_at(RAX, 0), RCX, size);
    move_stack(x, -(int64_t)size);
    resume_here(x, first_site);
}

/* Where nothing but the status flags, DF and IF differ from before. */
static void emit_popf(struct xlate *x)
{
    struct emitter *e = &x->e;
    uint32_t first_site = x->t->site_count;
    struct mem m = access_operand(x, 1, 0, true);
    unsigned size = stack_bytes(x);

    emit_load(e, RCX, m, size);
    clobber_flags(x);
    emit_mov(e, RAX, RCX, 8);
    emit_op_mem(e, 0x33, size, RAX, CPU(rflags), false); /* xor rax, */
    if (size == 8)
        emit8(e, 0x48);
    emit8(e, 0xa9); /* test rax, */
    emit32(e, (uint32_t) ~(RFLAGS_STATUS | RFLAGS_IF | RFLAGS_DF));
    cold_interp(x, emit_jcc(e, 5));
    emit_store(e, CPU(rflags), RCX, 4);
    emit_op_reg(e, 0x0fb6, 4, RAX, RCX); /* movzx eax, cl */
    emit_bytes(e, "\xc1\xe0", 2), emit8(e, 8);
    emit_shr(e, RCX, 11, 4);
    emit_bytes(e, "\x83\xe1", 2), emit8(e, 1);
    emit_bytes(e, "\x09\xc8", 2); /* or eax, ecx */
    emit_store(e, CTX(flags), RAX, 4);
    move_stack(x, size);
    x->rax = NO_GROUP;
    leave_for_events(x, (int32_t)next_at(x));
    resume_here(x, first_site);
}

static void emit_swapgs(struct xlate *x)
{
    struct mem gs = mem_gs(offsetof(struct cpu, seg[SEG_GS].base));

    emit_load(&x->e, RAX, gs, 8);
    emit_load(&x->e, RCX, CPU(kernel_gs_base), 8);
    emit_store(&x->e, CPU(kernel_gs_base), RAX, 8);
    emit_store(&x->e, gs, RCX, 8);
    x->rax = NO_GROUP;
}

/* STAC, CLAC: another table of the TLB. */
static void emit_ac(struct xlate *x, bool set)
{
    struct emitter *e = &x->e;

    clobber_flags(x);
    emit_load(e, RCX, CTX(area[set]), 8);
    emit_bytes(e, "\x48\x85\xc9", 3); /* test rcx, rcx */
    cold_interp(x, emit_jcc(e, 4));
    change_rflags(x, set, RFLAGS_AC);
    emit_op_mem(e, 0x0fb6, 4, RAX, CTX(mode[set]), false);
    emit_store(e, CPU(mmu_mode), RAX, 1);
    emit_bytes(e, "\xf3\x48\x0f\xae\xd9", 5); /* wrgsbase rcx */
    x->rax = NO_GROUP;
}

/* The interpreter shall have it where `bits` of a control register are set, or are not. */
static void unless(struct xlate *x, struct mem control, uint32_t bits, bool set)
{
    clobber_flags(x);
    emit_op_mem(&x->e, 0xf7, 4, 0, control, false); /* test dword, */
    emit32(&x->e, bits);
    cold_interp(x, emit_jcc(&x->e, set ? 5 : 4));
}

/* RDTSC, RDTSCP. */
static void emit_rdtsc(struct xlate *x)
{
    struct emitter *e = &x->e;

    if (!(x->key & KEY_CPL0))
        unless(x, CPU(cr4), CR4_TSD, true);
    clobber_flags(x);
    emit_bytes(e, "\x0f\x31", 2);
    emit_bytes(e, "\x48\xc1\xe2\x20", 4); /* shl rdx, 32 */
    emit_bytes(e, "\x48\x09\xd0", 3);     /* or rax, rdx */
    emit_op_mem(e, 0x03, 8, RAX, CPU(tsc_offset), false);
    emit_mov(e, R10, RAX, 4);
    emit_mov(e, RDX, RAX, 8);
    emit_shr(e, RDX, 32, 8);
    if (x->insn[x->i].kind == KIND_RDTSCP)
        emit_load(e, R11, CPU(tsc_aux), 4);
    x->rax = NO_GROUP;
}

/* The register in ModRM.rm becomes what struct cpu has at `m`. EFLAGS stay. */
static void load_rm(struct xlate *x, struct mem m, unsigned size)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct emitter *e = &x->e;
    unsigned to = host_of[in->rm];

    if (size == 2) {
        emit_op_mem(e, 0x0fb7, 4, RCX, m, false); /* movzx ecx, word */
        if (in->operand_size == 2 && to != NO_REG)
            emit_op_reg(e, 0x89, 2, RCX, to);
        else if (in->operand_size == 2)
            emit_store(e, GPR_MEM(in->rm), RCX, 2);
        else if (to != NO_REG)
            emit_mov(e, to, RCX, 8);
        else
            emit_store(e, GPR_MEM(in->rm), RCX, 8);
    } else if (to == NO_REG) {
        emit_load(e, RCX, m, size);
        emit_store(e, GPR_MEM(in->rm), RCX, 8);
    } else {
        emit_load(e, to, m, size);
    }
}

static void emit_read_base(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];

    unless(x, CPU(cr4), CR4_FSGSBASE, false);
    load_rm(x, segment_base(in->reg & 1 ? SEG_GS : SEG_FS), in->operand_size);
}

/* What is canonical depends on CR4.LA57, too: it is expected to stay as it is. */
static void emit_write_base(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct emitter *e = &x->e;
    uint32_t la57 = x->c->cpu->cr4 & CR4_LA57;
    struct cold *c;

    clobber_flags(x);
    emit_load(e, RCX, CPU(cr4), 4);
    emit_bytes(e, "\x81\xe1", 2); /* and ecx, */
    emit32(e, CR4_FSGSBASE | CR4_LA57);
    emit_bytes(e, "\x81\xf9", 2); /* cmp ecx, */
    emit32(e, CR4_FSGSBASE | la57);
    c = cold_interp(x, emit_jcc(e, 5));
    if (host_of[in->rm] == NO_REG)
        emit_load(e, RAX, GPR_MEM(in->rm), in->operand_size);
    else
        emit_mov(e, RAX, host_of[in->rm], in->operand_size);
    if (in->operand_size == 8) {
        emit_mov(e, RCX, RAX, 8);
        emit_bytes(e, "\x48\xc1\xe1", 3); /* shl rcx, */
        emit8(e, la57 ? 7 : 16);
        emit_bytes(e, "\x48\xc1\xf9", 3); /* sar rcx, */
        emit8(e, la57 ? 7 : 16);
        emit_op_reg(e, 0x39, 8, RAX, RCX); /* cmp rcx, rax */
        c->other = emit_jcc(e, 5);
    }
    emit_store(e, segment_base(in->reg & 1 ? SEG_GS : SEG_FS), RAX, 8);
    x->rax = NO_GROUP;
}

static void emit_from_segment(struct xlate *x)
{
    unsigned segment = x->insn[x->i].reg;

    load_rm(x,
            mem_gs(offsetof(struct cpu, seg) + segment * sizeof(struct segment) +
                   offsetof(struct segment, selector)),
            2);
}

/* Serializing for us is to notice that this block is not valid any more: who made it so has cleared
 * context.poll. */
static void emit_serialize(struct xlate *x)
{
    bool saved = (x->flags & FLAGS_SAVED) != 0;
    uint8_t *out = poll(x);

    emit8(&x->e, 0xeb), emit8(&x->e, 5); /* over the jump that poll_out() makes */
    poll_out(x, out, (int32_t)next_at(x), saved);
}

/* C does it, without the interpreter: help.c. The site has the operands. */
static struct site *emit_help(struct xlate *x, enum help_op op)
{
    struct bt_insn *in = &x->insn[x->i];
    struct site *s;
    uint32_t n;

    if (!in->sub_mnemonic)
        interp_ends(x, x->at[x->i], in);
    need_saved(x);
    n = site_new(x, SITE_HELP, x->at[x->i]);
    s = &x->t->sites[n];
    emit_store_imm32(&x->e, CTX(site), n);
    emit_jmp_to(&x->e, stub(x, x->t->stub.leave_slow));
    s->helper = (uint8_t)op;
    s->link = in->sub_mnemonic;
    s->resume = cache_at(x, x->e.at);
    s->size = in->operand_size;
    note_effect(x, s);
    x->flags = FLAGS_HW | FLAGS_SAVED;
    x->rax = NO_GROUP;
    x->vec = x->x87 = false;
    return s;
}

static void emit_port(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct site *s = emit_help(x, in->kind == KIND_IN ? HELP_IN : HELP_OUT);

    s->disp = in->has_imm ? (int32_t)in->imm : -1;
}

static void emit_from_control(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];

    switch (in->reg) {
    case 0: load_rm(x, CPU(cr0), in->operand_size); break;
    case 2: load_rm(x, CPU(cr2), in->operand_size); break;
    case 3: load_rm(x, CPU(cr3), in->operand_size); break;
    case 4: load_rm(x, CPU(cr4), in->operand_size); break;
    default: emit_help(x, HELP_FROM_CR8)->base = in->rm; break;
    }
}

/* False: the block ends there. */
static bool emit_to_control(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct site *s = emit_help(x, in->reg == 3 ? HELP_TO_CR3 : HELP_TO_CR);

    s->base = in->rm;
    s->index = in->reg;
    if (in->reg == 3)
        branch_to_offset(x, next_at(x));
    return in->reg != 3;
}

static void emit_invlpg(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct group g = operand_group(x, in);
    struct site *s = emit_help(x, HELP_INVLPG);

    s->disp = (int32_t)(in->disp + (in->rip ? next_at(x) : 0));
    s->base = g.base;
    s->index = g.index;
    s->scale = g.scale;
    s->segment = g.segment;
    s->address_size = g.address_size;
    branch_to_offset(x, next_at(x));
}

/* The host adds the bit's number to the address as the guest's processor does: only the check is
 * about another address than the operand's. */
static void emit_bt_mem(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    uint32_t first_site = x->t->site_count;
    struct mem m = access_operand(x, 0, in->disp + (in->rip ? next_at(x) : 0), true);
    unsigned reg = host_of[in->reg];

    m = collapse(x, m, RCX);
    need_hw(x); /* ZF stays */
    if (reg == NO_REG) {
        reg = RAX;
        emit_load(&x->e, RAX, GPR_MEM(in->reg), 8);
    }
    emit_encoded(x, in, reg, 0, &m, 0);
    x->flags = FLAGS_HW;
    resume_here(x, first_site);
}

/* CMPXCHG8B, CMPXCHG16B: RDX, RBX are where they belong, RAX and RCX go there, R14 has the address.
 */
static void emit_pair(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    struct emitter *e = &x->e;
    uint32_t first_site = x->t->site_count;
    struct mem m = access_operand(x, 0, in->disp + (in->rip ? next_at(x) : 0), true);

    collapse(x, m, RCX);
    need_hw(x);
    emit_store(e, CTX(spill), R14, 8);
    emit_mov(e, R14, RCX, 8);
    emit_mov(e, RAX, R10, 8);
    emit_mov(e, RCX, R11, 8);
    fault_point(x, R14);
    m = mem_at(R14, 0);
    emit_encoded(x, in, in->reg, 0, &m, 0);
    emit_mov(e, R10, RAX, 8);
    emit_load(e, R14, CTX(spill), 8);
    x->flags = FLAGS_HW;
    resume_here(x, first_site);
}

/* ---- one instruction ------------------------------------------------------------------------ */

/* Whether the first pass may leave instruction i to emit_insn() in this mode. */
static void soften(struct xlate *x, struct bt_insn *in)
{
    bool flat = x->key & KEY_FLAT_CODE;
    bool stack = wide(x) || (x->code_size == 4 && x->key & KEY_STACK32 && x->key & KEY_FLAT_DATA);
    static const uint32_t need_key[][2] = {{NEEDS_X87, KEY_X87},
                                           {NEEDS_SSE, KEY_SSE},
                                           {NEEDS_AVX, KEY_AVX},
                                           {NEEDS_AVX512, KEY_AVX512}};
    bool ok = true;

    if (in->disp != (int32_t)in->disp || in->disp > INT32_MAX - 0x4000 ||
        in->disp < INT32_MIN + 0x4000)
        ok = false;
    switch (in->kind) {
    case KIND_COPY:
        for (unsigned i = 0; i < ARRAY_SIZE(need_key); i++)
            if (in->needs & need_key[i][0] && !(x->key & need_key[i][1]))
                ok = false;
        break;
    case KIND_NOP: break;
    case KIND_JCC:
    case KIND_JMP: ok = wide(x) || in->operand_size == x->code_size; break;
    case KIND_LOOP:
        ok = in->opcode >= 0xe2 && in->address_size != 2 &&
             (wide(x) || in->operand_size == x->code_size);
        break;
    case KIND_PUSH: ok = ok && stack && in->operand_size == x->code_size; break;
    case KIND_POP: ok = stack && in->operand_size == x->code_size && in->rm_kind == RM_REG; break;
    case KIND_LEAVE: ok = stack && in->operand_size == x->code_size; break;
    case KIND_CALL:
    case KIND_RET: ok = stack && flat && in->operand_size == x->code_size; break;
    case KIND_CALL_IND:
    case KIND_JMP_IND: ok = ok && stack && flat && in->operand_size == x->code_size; break;
    case KIND_PUSHF:
    case KIND_POPF: ok = stack && x->key & KEY_CPL0 && in->operand_size == x->code_size; break;
    case KIND_CLI:
    case KIND_STI: ok = (x->key & KEY_CPL0) != 0 && !(x->key & KEY_REAL); break;
    case KIND_STAC:
    case KIND_CLAC: ok = wide(x) && x->key & KEY_CPL0 && x->t->features & HOST_FSGSBASE; break;
    case KIND_SWAPGS: ok = wide(x) && x->key & KEY_CPL0; break;
    case KIND_CLD:
    case KIND_STD: break;
    case KIND_RDTSC:
    case KIND_RDTSCP:
    case KIND_RDPID:
    case KIND_SERIALIZE:
    case KIND_CPUID:
    case KIND_MOV_FROM_SEG:
    case KIND_RDFSGSBASE:
    case KIND_WRFSGSBASE:
    case KIND_PAUSE: ok = true; break;
    case KIND_CLTS:
    case KIND_IN:
    case KIND_OUT:
    case KIND_RDMSR:
    case KIND_WRMSR:
    case KIND_MOV_FROM_CR:
    case KIND_MOV_TO_CR: ok = (x->key & KEY_CPL0) != 0; break;
    case KIND_INVLPG: ok = ok && x->key & KEY_CPL0; break;
    case KIND_SYSCALL: ok = wide(x) && x->key & KEY_USER; break;
    case KIND_SYSRET: ok = wide(x) && x->key & KEY_CPL0 && in->operand_size == 8; break;
    case KIND_IRET: ok = wide(x) && x->key & KEY_CPL0 && in->operand_size == 8; break;
    case KIND_STRING:
        ok = (in->opcode == 0xa4 || in->opcode == 0xa5 || in->opcode == 0xaa ||
              in->opcode == 0xab) &&
             flat && x->key & KEY_FLAT_DATA && in->segment < SEG_FS && in->segment != SEG_CS &&
             in->address_size >= 4 && x->code_size >= 4;
        break;
    case KIND_BT_MEM: /* a second register in memory would cost the addend, see access_operand() */
        ok = ok && in->operand_size >= 4 && in->address_size == 8 &&
             (in->index == PARSE_NO_REG || host_of[in->index] != NO_REG);
        break;
    case KIND_CMPXCHG_PAIR: break;
    default: ok = false; break;
    }
    if (!ok)
        in->kind = KIND_FALLBACK;
}

/* Returns whether the block goes on behind it. */
static bool emit_insn(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];
    bool branch;

    switch (in->kind) {
    case KIND_COPY: emit_copy(x); return true;
    case KIND_NOP: return true;
    case KIND_JCC: emit_jcc_exit(x); return true;
    case KIND_JMP:
        shadow_ends(x);
        branch_to_offset(x, next_at(x) + in->rel);
        return false;
    case KIND_LOOP: emit_loop(x); return true;
    case KIND_PUSH: emit_push(x); return true;
    case KIND_POP: emit_pop(x); return true;
    case KIND_LEAVE: emit_leave(x); return true;
    case KIND_CALL: emit_call_direct(x); return false;
    case KIND_CALL_IND: emit_call_indirect(x); return false;
    case KIND_JMP_IND: emit_jmp_indirect(x); return false;
    case KIND_RET: emit_ret(x); return false;
    case KIND_CLI: change_rflags(x, false, RFLAGS_IF); return true;
    case KIND_CLD: change_rflags(x, false, RFLAGS_DF); return true;
    case KIND_STD: change_rflags(x, true, RFLAGS_DF); return true;
    case KIND_STI:
        if (sti_can(x, &branch)) {
            emit_sti(x, branch);
            return true;
        }
        emit_interp(x, false);
        return false;
    case KIND_PUSHF: emit_pushf(x); return true;
    case KIND_POPF: emit_popf(x); return true;
    case KIND_SWAPGS: emit_swapgs(x); return true;
    case KIND_STAC: emit_ac(x, true); return true;
    case KIND_CLAC: emit_ac(x, false); return true;
    case KIND_RDTSC:
    case KIND_RDTSCP: emit_rdtsc(x); return true;
    case KIND_RDPID: load_rm(x, CPU(tsc_aux), in->operand_size); return true;
    case KIND_RDFSGSBASE: emit_read_base(x); return true;
    case KIND_WRFSGSBASE: emit_write_base(x); return true;
    case KIND_MOV_FROM_SEG: emit_from_segment(x); return true;
    case KIND_MOV_FROM_CR: emit_from_control(x); return true;
    case KIND_MOV_TO_CR: return emit_to_control(x);
    case KIND_INVLPG: emit_invlpg(x); return false;
    case KIND_CLTS: unless(x, CPU(cr0), CR0_TS, true); return true;
    case KIND_SERIALIZE: emit_serialize(x); return true;
    case KIND_IN:
    case KIND_OUT: emit_port(x); return true;
    case KIND_RDMSR: emit_help(x, HELP_RDMSR); return true;
    case KIND_WRMSR: emit_help(x, HELP_WRMSR); return true;
    case KIND_CPUID: emit_help(x, HELP_CPUID); return true;
    case KIND_PAUSE: /* one processor waits for nobody */
        if (x->t->cpu_count > 1)
            emit_help(x, HELP_PAUSE);
        return true;
    case KIND_BT_MEM: emit_bt_mem(x); return true;
    case KIND_CMPXCHG_PAIR: emit_pair(x); return true;
    case KIND_STRING: emit_string(x); return true;
    case KIND_SYSCALL: emit_fast(x, FAST_SYSCALL, 0); return false;
    case KIND_SYSRET: emit_fast(x, FAST_SYSRET, 0); return false;
    case KIND_IRET: emit_fast(x, FAST_IRET, 0); return false;
    default: emit_interp(x, !in->ends); return !in->ends;
    }
}

static bool ends_block(const struct bt_insn *in)
{
    switch (in->kind) {
    case KIND_JMP:
    case KIND_CALL:
    case KIND_CALL_IND:
    case KIND_JMP_IND:
    case KIND_SYSCALL:
    case KIND_SYSRET:
    case KIND_IRET:
    case KIND_INVLPG:
    case KIND_RET: return true;
    case KIND_MOV_TO_CR: return in->reg == 3;
    default: return in->ends;
    }
}

static void parse_all(struct xlate *x, unsigned offset, unsigned max)
{
    unsigned at = offset;

    x->count = 0;
    while (x->count < max) {
        struct bt_insn *in = &x->insn[x->count];

        if (at > 4095)
            break;
        if (!parse_insn(x->c->cpu, x->bytes + at, MIN((unsigned)PARSE_MAX, x->readable - at),
                        x->code_size, in)) {
            /* It goes on in the next page. */
            if (x->count)
                break;
            *in = (struct bt_insn){.kind = KIND_FALLBACK, .length = 0, .ends = true};
        } else {
            soften(x, in);
            if (x->t->options.check && check_excludes(in->kind))
                in->kind = KIND_FALLBACK;
            if (x->t->options.sabotage)
                check_sabotage(x->t, in);
            if (in->kind == KIND_FALLBACK)
                in->ends = interp_ends(x, at, in);
        }
        x->at[x->count++] = (uint16_t)at;
        at += in->length;
        if (ends_block(in))
            break;
    }
    x->at[x->count] = (uint16_t)at;
}

/* Which entry is the natural one: what comes first, a check, a reader or a writer of flags? */
static uint8_t first_flags(struct xlate *x)
{
    for (unsigned i = 0; i < x->count; i++) {
        const struct bt_insn *in = &x->insn[i];

        if (in->kind == KIND_NOP)
            continue;
        if (in->kind == KIND_JCC)
            return FLAGS_HW;
        if (in->kind != KIND_COPY || (in->rm_kind == RM_MEM && in->mem_size && !in->is_lea) ||
            in->may_fault || in->unit == UNIT_X87 ||
            (in->unit == UNIT_VECTOR && !(x->key & KEY_USER)))
            return FLAGS_SAVED;
        if (in->flags_read || (in->flags_changed && in->flags_set != RFLAGS_STATUS))
            return FLAGS_HW;
        if (in->flags_set == RFLAGS_STATUS)
            return FLAGS_HW | FLAGS_SAVED; /* neither matters */
    }
    return FLAGS_SAVED;
}

/* The block's one instruction goes on in the next page: that must be the page it was made from. */
static void check_next_page(struct xlate *x)
{
    struct emitter *e = &x->e;
    uint8_t *miss, *other, *name;

    clobber_flags(x);
    emit_load(e, RCX, CTX(page_rip), 8);
    emit_op_mem(e, 0x8d, wide(x) ? 8 : 4, RCX, mem_at(RCX, 0x1000), false);
    miss = emit_page_is(x, x->page2, &name, &other);
    cold_interp(x, miss)->other = other;
}

/* Behind instruction i. */
static void note_repeatable(struct xlate *x)
{
    const struct bt_insn *in = &x->insn[x->i];

    if (in->kind == KIND_COPY && in->flags_set == RFLAGS_STATUS && x->flags == FLAGS_HW &&
        repeatable(in, &x->repeat_regs) != AGAIN_NOT) {
        x->repeat = (uint8_t)(x->i + 1);
    } else if ((in->kind == KIND_COPY && in->flags_changed) || written(in) & x->repeat_regs) {
        if (!x->flags)
            x->failed = true; /* can_do_without() knows better */
        x->repeat = 0;
    }
}

struct block *translate(struct translator *t, struct bt_cpu *c, uint32_t page, unsigned offset,
                        uint32_t key, uint32_t page2)
{
    static _Thread_local struct xlate xl;
    struct xlate *x = &xl;
    struct block *b;
    uint64_t began = now_ns();
    unsigned max = MAX_INSNS;
    uint32_t sites, links, faults, used = (t->used + 15) & ~15u;
    bool more = true, shadow;

    if (cache_full(t))
        return NULL;
    sites = t->site_count;
    links = t->link_count;
    faults = t->fault_count;
    b = &t->blocks[t->block_count];
    *b =
        (struct block){.page = page, .offset = (uint16_t)offset, .key = key, .first_fault = faults};
    x->t = t;
    x->c = c;
    x->block = b;
    x->key = key;
    x->code_size = key & KEY_SIZE16 ? 2 : key & KEY_SIZE32 ? 4 : 8;
    x->bytes = t->pages[page].ram->host + t->pages[page].offset;
    x->readable = 4096;
    x->page2 = page2;
    if (page2) {
        memcpy(x->crossing, x->bytes + offset, 4096 - offset);
        memcpy(x->crossing + (4096 - offset), t->pages[page2].ram->host + t->pages[page2].offset,
               PARSE_MAX);
        x->bytes = x->crossing - offset;
        x->readable = 4096 + PARSE_MAX;
        max = 1;
    }
again:
    x->e = (struct emitter){.at = t->rw + used, .end = t->rw + t->limit.used};
    x->groups = x->colds = 0;
    x->failed = x->vec = x->x87 = x->sti = false;
    x->repeat = 0;
    x->rax = NO_GROUP;
    parse_all(x, offset, max);
    plan(x);
    if (!x->failed) {
        b->start = cache_at(x, x->e.at);
        x->i = 0;
        x->flags = page2 ? FLAGS_SAVED : first_flags(x);
        if (x->flags == FLAGS_SAVED) {
            emit_save_flags(&x->e, CTX(flags));
            b->entry_saved = cache_at(x, x->e.at);
        } else if (x->flags == FLAGS_HW) {
            /* the entry with saved flags stands before the other */
            b->entry_saved = b->start;
            emit_restore_flags(&x->e, CTX(flags));
            b->start = cache_at(x, x->e.at);
        } else {
            b->entry_saved = b->start;
        }
        if (page2)
            check_next_page(x);
        for (x->i = 0; x->i < x->count && more; x->i++) {
            x->host[x->i] = x->e.at;
            shadow = x->sti;
            more = emit_insn(x);
            note_repeatable(x);
            if (shadow && x->sti && more)
                end_shadow(x);
        }
        x->count = x->i; /* one in the middle may have ended it */
        x->host[x->i] = x->e.at;
        if (more) {
            need_any(x);
            x->repeat = 0; /* what comes next is not known */
            x->i--;
            branch_to_offset(x, x->at[x->count]);
        }
        emit_colds(x);
    }
    if (x->failed || x->e.full) {
        t->site_count = sites;
        t->link_count = links;
        t->fault_count = faults;
        if (x->e.full || max == 1)
            return NULL;
        max = max / 4 ? max / 4 : 1;
        more = true;
        goto again;
    }
    b->instructions = (uint16_t)x->count;
    b->length = (uint16_t)(x->at[x->count] - offset);
    if (!b->length || page2)
        b->length = (uint16_t)(4096 - offset);
    b->page2 = page2;
    b->end = cache_at(x, x->e.at);
    b->faults = t->fault_count - faults;
    t->used = b->end;
    t->block_count++;
    block_insert(t, b);
    t->stats.translated_blocks++;
    t->stats.translated_instructions += x->count;
    t->stats.guest_bytes += b->length;
    t->stats.host_bytes += b->end - used;
    t->stats.translate_ns += now_ns() - began;
    if (t->log)
        log_block(t, b, x->host, x->at, x->count);
    if (t->options.verify)
        verify_or_stop(t, b, x->host, x->at, x->count);
    if (t->perf_map)
        perf_map_add(t, b);
    return b;
}
