/*
 * access.c - operands, memory and stack with every check the processor makes.
 *
 * The order of checks is segment (null, type, limit, canonical form), alignment, then paging. The
 * fast ways in handlers.h skip to the TLB where all of these are known to pass.
 *
 * Locked updates of plain guest RAM are host atomic operations on the page itself, so vCPUs and
 * devices see them as such. What cannot be one host operation (two pages, MMIO) takes one mutex:
 * such updates exclude each other but not plain stores, as on processors where the lock covers no
 * more than the bus. Nothing may raise while the mutex is held; pages are found before.
 */
#include "interp/access.h"

#include "interp/exceptions.h"
#include "interp/handlers.h"
#include "memory/ram.h"

static pthread_mutex_t lock_slow = PTHREAD_MUTEX_INITIALIZER;

static _Noreturn void raise_segment(struct cpu *cpu, enum segment_name seg)
{
    cpu_raise_error(cpu, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
}

uint64_t insn_offset(const struct cpu *cpu, const struct insn *in)
{
    return address_of(cpu, in);
}

gva segment_linear(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size,
                   enum mmu_access access)
{
    const struct segment *s = &cpu->seg[seg];
    gva linear;

    if (cpu->code_size == 8) {
        linear = offset + (seg >= SEG_FS ? s->base : 0);
        if (!cpu_is_canonical(cpu, linear) || !cpu_is_canonical(cpu, linear + size - 1))
            raise_segment(cpu, seg);
    } else {
        uint64_t first = 0, last = s->limit;

        if (s->attr & ATTR_NULL)
            raise_segment(cpu, seg);
        if (cpu_protected(cpu) && !cpu_in_vm86(cpu) && access != MMU_FETCH) {
            bool code = (s->attr & ATTR_CODE) != 0;

            if (access == MMU_WRITE ? code || !(s->attr & ATTR_WRITABLE)
                                    : code && !(s->attr & ATTR_READABLE))
                raise_segment(cpu, seg);
        }
        if ((s->attr & (ATTR_CODE | ATTR_DOWN)) == ATTR_DOWN) {
            first = (uint64_t)s->limit + 1;
            last = s->attr & ATTR_DB ? UINT32_MAX : UINT16_MAX;
        }
        if (offset < first || offset + (size - 1) > last)
            raise_segment(cpu, seg);
        linear = (uint32_t)(s->base + offset);
    }
    if (unlikely(cpu->rflags & RFLAGS_AC) && (cpu->cr0 & CR0_AM) && cpu->cpl == 3 && size <= 8 &&
        is_power_of_2(size) && (linear & (size - 1)) && access != MMU_FETCH)
        cpu_raise_error(cpu, EXC_AC, 0);
    return linear;
}

gva insn_linear(struct cpu *cpu, const struct insn *in, unsigned size, enum mmu_access access)
{
    return segment_linear(cpu, (enum segment_name)in->segment, address_of(cpu, in), size, access);
}

static void watch_data(struct cpu *cpu, gva linear, unsigned size, bool write)
{
    if (unlikely(cpu->dr[7] & 0xff))
        debug_data_access(cpu, linear, size, write);
}

uint64_t load_slow(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size)
{
    gva linear = segment_linear(cpu, seg, offset, size, MMU_READ);
    uint64_t value = mmu_load(cpu, linear, size, (enum mmu_mode)cpu->mmu_mode);

    watch_data(cpu, linear, size, false);
    return value;
}

void store_slow(struct cpu *cpu, enum segment_name seg, uint64_t offset, uint64_t value,
                unsigned size)
{
    gva linear = segment_linear(cpu, seg, offset, size, MMU_WRITE);

    mmu_store(cpu, linear, value, size, (enum mmu_mode)cpu->mmu_mode);
    watch_data(cpu, linear, size, true);
}

uint64_t segment_load(struct cpu *cpu, enum segment_name seg, uint64_t offset, unsigned size)
{
    return load(cpu, seg, offset, size);
}

void segment_store(struct cpu *cpu, enum segment_name seg, uint64_t offset, uint64_t value,
                   unsigned size)
{
    store(cpu, seg, offset, value, size);
}

uint64_t reg_read(const struct cpu *cpu, unsigned reg, unsigned size)
{
    return reg_get(cpu, reg, size);
}

void reg_write(struct cpu *cpu, unsigned reg, uint64_t value, unsigned size)
{
    reg_set(cpu, reg, value, size);
}

uint64_t operand_read(struct cpu *cpu, const struct insn *in, unsigned n)
{
    switch (in->op[n].size) {
    case 1: return op_read(cpu, in, n, 1);
    case 2: return op_read(cpu, in, n, 2);
    case 4: return op_read(cpu, in, n, 4);
    default: return op_read(cpu, in, n, 8);
    }
}

void operand_write(struct cpu *cpu, const struct insn *in, unsigned n, uint64_t value)
{
    switch (in->op[n].size) {
    case 1: op_write(cpu, in, n, value, 1); break;
    case 2: op_write(cpu, in, n, value, 2); break;
    case 4: op_write(cpu, in, n, value, 4); break;
    default: op_write(cpu, in, n, value, 8); break;
    }
}

/* ---- updates ------------------------------------------------------------------------------ */

/* A writable range, found and permitted: one or two pieces, each within a page. */
struct span {
    unsigned pieces;
    struct {
        uint8_t *host; /* NULL: MMIO at `address` */
        gpa address;
        struct ram_block *block;
        uint64_t offset;
        unsigned size;
    } piece[2];
};

static void span_find(struct cpu *cpu, gva linear, unsigned size, enum mmu_mode mode,
                      struct span *s)
{
    unsigned first = (unsigned)MIN((uint64_t)size, 0x1000 - (linear & 0xfff));
    gva next = linear + first;

    if (cpu->code_size != 8 && linear <= UINT32_MAX)
        next = (uint32_t)next;
    memset(s, 0, sizeof *s);
    s->pieces = first < size ? 2 : 1;
    s->piece[0].size = first;
    s->piece[1].size = size - first;
    for (unsigned i = 0; i < s->pieces; i++)
        s->piece[i].host = mmu_access_page(cpu, i ? next : linear, mode, MMU_WRITE,
                                           &s->piece[i].address, &s->piece[i].block,
                                           &s->piece[i].offset);
}

static bool is_io_size(unsigned size)
{
    return size <= 8 && is_power_of_2(size);
}

static void span_read(struct cpu *cpu, const struct span *s, void *to)
{
    uint8_t *p = to;

    for (unsigned i = 0; i < s->pieces; p += s->piece[i++].size) {
        unsigned size = s->piece[i].size, step = is_io_size(size) ? size : 1;

        if (s->piece[i].host) {
            memcpy(p, s->piece[i].host, size);
            continue;
        }
        for (unsigned at = 0; at < size; at += step)
            store_le(p + at, cpu_phys_read(cpu, s->piece[i].address + at, step), step);
    }
}

static void span_write(struct cpu *cpu, const struct span *s, const void *from)
{
    const uint8_t *p = from;

    for (unsigned i = 0; i < s->pieces; p += s->piece[i++].size) {
        unsigned size = s->piece[i].size, step = is_io_size(size) ? size : 1;

        if (s->piece[i].host) {
            memcpy(s->piece[i].host, p, size);
            continue;
        }
        for (unsigned at = 0; at < size; at += step)
            cpu_phys_write(cpu, s->piece[i].address + at, load_le(p + at, step), step);
    }
}

static void span_done(const struct span *s)
{
    for (unsigned i = 0; i < s->pieces; i++) {
        if (s->piece[i].host && s->piece[i].block)
            ram_written(s->piece[i].block, s->piece[i].offset, s->piece[i].size);
    }
}

/* One host LOCK CMPXCHG. Returns whether it stored; *expected gets what was there. */
static bool host_compare_exchange(uint8_t *p, uint64_t *expected, uint64_t desired, unsigned size)
{
    bool equal;

    switch (size) {
    case 1:
        __asm__ volatile("lock cmpxchgb %b[new], %[p]"
                         : [p] "+m"(*p), "+a"(*expected), "=@ccz"(equal)
                         : [new] "q"(desired)
                         : "memory");
        break;
    case 2:
        __asm__ volatile("lock cmpxchgw %w[new], %[p]"
                         : [p] "+m"(*p), "+a"(*expected), "=@ccz"(equal)
                         : [new] "r"(desired)
                         : "memory");
        break;
    case 4:
        __asm__ volatile("lock cmpxchgl %k[new], %[p]"
                         : [p] "+m"(*p), "+a"(*expected), "=@ccz"(equal)
                         : [new] "r"(desired)
                         : "memory");
        break;
    default:
        __asm__ volatile("lock cmpxchgq %[new], %[p]"
                         : [p] "+m"(*p), "+a"(*expected), "=@ccz"(equal)
                         : [new] "r"(desired)
                         : "memory");
        break;
    }
    return equal;
}

static bool host_compare_exchange16(uint8_t *p, uint64_t expected[2], const uint64_t desired[2])
{
    bool equal;

    __asm__ volatile("lock cmpxchg16b %[p]"
                     : [p] "+m"(*p), "+a"(expected[0]), "+d"(expected[1]), "=@ccz"(equal)
                     : "b"(desired[0]), "c"(desired[1])
                     : "memory");
    return equal;
}

static uint64_t modify_memory(struct cpu *cpu, gva linear, unsigned size, bool locked,
                              uint64_t (*change)(uint64_t old, void *context), void *context)
{
    struct span s;
    uint64_t old = 0, new;

    span_find(cpu, linear, size, (enum mmu_mode)cpu->mmu_mode, &s);
    if (s.pieces == 1 && s.piece[0].host) {
        uint8_t *p = s.piece[0].host;

        old = load_le(p, size);
        if (locked) {
            while (!host_compare_exchange(p, &old, change(old, context), size))
                old &= size_mask(size);
        } else {
            store_le(p, change(old, context), size);
        }
    } else {
        pthread_mutex_lock(&lock_slow);
        span_read(cpu, &s, &old);
        new = change(old, context);
        span_write(cpu, &s, &new);
        pthread_mutex_unlock(&lock_slow);
    }
    span_done(&s);
    watch_data(cpu, linear, size, true);
    return old;
}

uint64_t operand_modify(struct cpu *cpu, const struct insn *in, unsigned n,
                        uint64_t (*change)(uint64_t old, void *context), void *context)
{
    unsigned size = in->op[n].size;
    bool locked = (in->prefix & PREFIX_LOCK) || in->mnemonic == ZYDIS_MNEMONIC_XCHG;

    if (in->op[n].kind != OPERAND_MEM) {
        uint64_t old = reg_get(cpu, in->op[n].reg, size);

        reg_set(cpu, in->op[n].reg, change(old, context), size);
        return old;
    }
    return modify_memory(cpu, insn_linear(cpu, in, size, MMU_WRITE), size, locked, change, context);
}

uint64_t linear_modify(struct cpu *cpu, gva linear, unsigned size, bool locked,
                       uint64_t (*change)(uint64_t old, void *context), void *context)
{
    return modify_memory(cpu, linear, size, locked, change, context);
}

bool linear_compare_exchange(struct cpu *cpu, gva linear, void *expected, const void *desired,
                             unsigned size, enum mmu_mode mode)
{
    struct span s;
    uint64_t want[2] = {0}, put[2] = {0}, seen[2] = {0};
    bool equal;

    memcpy(want, expected, size);
    memcpy(put, desired, size);
    span_find(cpu, linear, size, mode, &s);
    if (s.pieces == 1 && s.piece[0].host && is_io_size(size)) {
        equal = host_compare_exchange(s.piece[0].host, &want[0], put[0], size);
        seen[0] = want[0];
    } else if (s.pieces == 1 && s.piece[0].host && size == 16 && !(linear & 15)) {
        equal = host_compare_exchange16(s.piece[0].host, want, put);
        memcpy(seen, want, sizeof seen);
    } else {
        pthread_mutex_lock(&lock_slow);
        span_read(cpu, &s, seen);
        equal = memcmp(seen, want, size) == 0;
        span_write(cpu, &s, equal ? put : seen);
        pthread_mutex_unlock(&lock_slow);
    }
    span_done(&s);
    watch_data(cpu, linear, size, true);
    memcpy(expected, seen, size);
    return equal;
}

/* ---- stack -------------------------------------------------------------------------------- */

uint64_t stack_load(struct cpu *cpu, unsigned depth, unsigned size)
{
    return load(cpu, SEG_SS, stack_cut(cpu, cpu->gpr[GPR_RSP] + depth), size);
}

void stack_store(struct cpu *cpu, unsigned depth, uint64_t value, unsigned size)
{
    store(cpu, SEG_SS, stack_cut(cpu, cpu->gpr[GPR_RSP] - depth), value, size);
}

void stack_move(struct cpu *cpu, int64_t bytes)
{
    reg_set(cpu, GPR_RSP, cpu->gpr[GPR_RSP] + (uint64_t)bytes, stack_width(cpu));
}

void stack_push(struct cpu *cpu, uint64_t value, unsigned size)
{
    stack_store(cpu, size, value, size);
    stack_move(cpu, -(int64_t)size);
}

uint64_t stack_pop(struct cpu *cpu, unsigned size)
{
    uint64_t value = stack_load(cpu, 0, size);

    stack_move(cpu, size);
    return value;
}

/* ---- branches ----------------------------------------------------------------------------- */

void branch_to(struct cpu *cpu, const struct insn *in, uint64_t target)
{
    if (in->stack_size == 2)
        target = (uint16_t)target;
    else if (in->stack_size == 4)
        target = (uint32_t)target;
    if (cpu->code_size == 8 ? !cpu_is_canonical(cpu, target) : target > cpu->seg[SEG_CS].limit)
        cpu_raise_error(cpu, EXC_GP, 0);
    cpu->next_rip = target;
}

enum mmu_mode mmu_system_mode(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_SMAP ? MMU_KERNEL : MMU_KERNEL_AC;
}
