/*
 * test_simd.c - the instructions that run on the host: interpreted and native must agree, faults
 * must be the manual's, images of state must come back as they were.
 *
 * Native execution has its own entry, which loads every register, calls the instruction and
 * stores every register; it shares nothing with the stubs.
 */
#include "support/unit.h"

#include "interp/access.h"
#include "interp/interp.h"
#include "interp/simd.h"
#include "memory/ram.h"
#include "simd_cases.h"
#include "x86/model.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- a CPU in 64-bit user mode over 2 MiB of identity-mapped memory -------------------------- */

enum { RAM = 2 * MiB, TABLES = 0x10000, CODE = 0x20000, DATA = 0x40000, HOLE = DATA + 0x1000 };

struct vm {
    struct cpu_model model;
    struct cpu *cpu;
    struct memory_map *map, *ports;
    struct ram_block *ram;
    struct region *region;
    const char *name; /* of the case, for messages */
};

static uint64_t rng_state = 0x9e3779b97f4a7c15;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static void set_segments(struct cpu *cpu, uint32_t code_attr, unsigned dpl)
{
    for (int i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){
            .selector = (uint16_t)(8 * (i + 1) + dpl),
            .attr = 0x93 | dpl << ATTR_DPL_SHIFT | ATTR_DB | ATTR_G,
            .limit = UINT32_MAX,
        };
    cpu->seg[SEG_CS].attr = 0x9b | dpl << ATTR_DPL_SHIFT | ATTR_G | code_attr;
}

static void mode_64(struct cpu *cpu)
{
    set_segments(cpu, ATTR_L, 3);
    cpu->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_MP | CR0_ET | CR0_WP;
    cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->cr3 = TABLES;
    cpu_state_changed(cpu);
}

static void mode_32(struct cpu *cpu)
{
    set_segments(cpu, ATTR_DB, 0);
    cpu->cr0 = CR0_PE | CR0_NE | CR0_MP | CR0_ET;
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    cpu->efer = 0;
    cpu_state_changed(cpu);
}

static void mode_real(struct cpu *cpu)
{
    for (int i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){.selector = 0, .attr = 0x93, .limit = 0xffff};
    cpu->cr0 = CR0_ET | CR0_NE;
    cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->efer = 0;
    cpu_state_changed(cpu);
}

static int setup(void **state)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct cpu_limits limits;
    struct error err = {0};
    uint64_t *tables;

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build("max", &limits, 1, &vm->model, &err), 0);
    vm->map = memory_map_new("memory", UINT64_C(1) << 36);
    vm->ports = memory_map_new("ports", 0x10000);
    assert_int_equal(ram_block_new("ram", RAM, &vm->ram, &err), 0);
    assert_int_equal(memory_add_ram(vm->map, "ram", 0, RAM, PRIORITY_DEFAULT, IN_ALL, vm->ram, 0,
                                    true, &vm->region, &err),
                     0);
    tables = (uint64_t *)(vm->ram->host + TABLES);
    for (int level = 0; level < 3; level++)
        tables[512 * level] = (TABLES + 0x1000 * (level + 1)) | 7;
    for (uint64_t page = 0; page < 512; page++)
        tables[512 * 3 + page] = page << 12 | 7;
    tables[512 * 3 + (HOLE >> 12)] = 0;
    vm->cpu = cpu_new(0, 0, &vm->model);
    vm->cpu->memory = vm->map;
    vm->cpu->ports = vm->ports;
    interp_attach(vm->cpu);
    vm->cpu->xcr0 = vm->model.xcr0_supported;
    mode_64(vm->cpu);
    vm->cpu->fx.mxcsr = MXCSR_INIT;
    vm->cpu->fx.fcw = FCW_INIT;
    vm->cpu->fx.ftw = 0;
    vm->cpu->gpr[GPR_RBX] = DATA;
    vm->cpu->rflags = RFLAGS_FIXED | RFLAGS_IF;
    vm->cpu->rip = CODE;
    *state = vm;
    return 0;
}

static int teardown(void **state)
{
    struct vm *vm = *state;

    interp_detach(vm->cpu);
    cpu_free(vm->cpu);
    memory_remove(vm->region);
    memory_map_free(vm->map);
    memory_map_free(vm->ports);
    ram_block_free(vm->ram);
    free(vm);
    return 0;
}

enum { NO_FAULT = -1 };

/* Execute one instruction; the exception it raised, or NO_FAULT. */
static int execute(struct vm *vm, const void *bytes, unsigned size)
{
    struct cpu *cpu = vm->cpu;
    jmp_buf unwind;
    struct insn in;

    if (insn_decode(bytes, size, cpu->code_size, &in) != DECODE_OK)
        return EXC_UD;
    simd_fault_arm(); /* cmocka takes these signals for each test */
    cpu->next_rip = cpu->rip + in.length;
    cpu->unwind = &unwind;
    if (setjmp(unwind)) {
        cpu->unwind = NULL;
        return cpu->raise_vector;
    }
    in.run(cpu, &in);
    cpu->unwind = NULL;
    return NO_FAULT;
}
#define EXECUTE(vm, ...)                                                                           \
    execute(vm, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* ---- native ---------------------------------------------------------------------------------- */

struct machine {
    uint8_t zmm[32][64];
    uint64_t k[8];
    uint64_t gpr[16];
    uint64_t flags;
    uint32_t mxcsr, host_mxcsr;
    struct fx_image fx;
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct machine, k) == 2048, "used by the assembly below");
_Static_assert(offsetof(struct machine, gpr) == 2112, "");
_Static_assert(offsetof(struct machine, flags) == 2240, "");
_Static_assert(offsetof(struct machine, mxcsr) == 2248, "");
_Static_assert(offsetof(struct machine, fx) == 2304, "");

void native_run(struct machine *m, const void *code);
__asm__(".pushsection .text\n"
        "native_run:\n"
        "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rdi, %r14\n mov %rsi, %r15\n"
        "stmxcsr 2252(%r14)\n"
        "fxrstor64 2304(%r14)\n"
        ".set i, 0\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,"
        "31\n vmovdqu64 \\n*64(%r14), %zmm\\n\n.endr\n"
        ".irp n,0,1,2,3,4,5,6,7\n kmovq 2048+\\n*8(%r14), %k\\n\n.endr\n"
        "ldmxcsr 2248(%r14)\n"
        "mov 2112(%r14), %rax\n mov 2120(%r14), %rcx\n mov 2128(%r14), %rdx\n"
        "mov 2136(%r14), %rbx\n mov 2152(%r14), %rbp\n mov 2160(%r14), %rsi\n"
        "mov 2168(%r14), %rdi\n mov 2176(%r14), %r8\n mov 2184(%r14), %r9\n"
        "mov 2192(%r14), %r10\n mov 2200(%r14), %r11\n mov 2208(%r14), %r12\n"
        "mov 2216(%r14), %r13\n"
        "pushq 2240(%r14)\n popfq\n"
        "call *%r15\n"
        "pushfq\n popq 2240(%r14)\n"
        "stmxcsr 2248(%r14)\n ldmxcsr 2252(%r14)\n"
        "mov %rax, 2112(%r14)\n mov %rcx, 2120(%r14)\n mov %rdx, 2128(%r14)\n"
        "mov %rbx, 2136(%r14)\n mov %rbp, 2152(%r14)\n mov %rsi, 2160(%r14)\n"
        "mov %rdi, 2168(%r14)\n mov %r8, 2176(%r14)\n mov %r9, 2184(%r14)\n"
        "mov %r10, 2192(%r14)\n mov %r11, 2200(%r14)\n mov %r12, 2208(%r14)\n"
        "mov %r13, 2216(%r14)\n"
        ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,"
        "31\n vmovdqu64 %zmm\\n, \\n*64(%r14)\n.endr\n"
        ".irp n,0,1,2,3,4,5,6,7\n kmovq %k\\n, 2048+\\n*8(%r14)\n.endr\n"
        "fxsave64 2304(%r14)\n fninit\n"
        "vzeroupper\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
        ".popsection\n");

struct simd_case {
    const char *name;
    const uint8_t *code, *end; /* followed by RET */
};
extern const struct simd_case simd_cases[], simd_cases_end[];
#define CASE(text)                                                                                 \
    "771: " text "\n772: ret\n"                                                                    \
    ".pushsection .rodata\n773: .asciz \"" text "\"\n.popsection\n"                                \
    ".pushsection .data\n.quad 773b, 771b, 772b\n.popsection\n"
__asm__(
    ".pushsection .data\n.balign 8\nsimd_cases:\n.popsection\n"
    ".pushsection .text\n" SIMD_CASES(CASE) ".popsection\n"
                                            ".pushsection .data\nsimd_cases_end:\n.popsection\n");

static bool native_possible(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

/* ---- random state ---------------------------------------------------------------------------- */

/* Bytes that are often something: small integers, ordinary floats, NaNs, denormals, anything. */
static void random_vector(uint8_t *p, unsigned size)
{
    static const uint32_t singles[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                       0x7fc00001, 0x7f800001, 1,          0x4b800000, 0x33800000};

    for (unsigned i = 0; i < size; i += 4) {
        uint32_t v = (uint32_t)rng();

        switch (rng() % 6) {
        case 0: v = singles[rng() % ARRAY_SIZE(singles)]; break;
        case 1: v = 0x3f000000 + (v & 0x01ffffff); break;
        case 2: v = 0x3ff00000 | (v & 0x800fffff); break;
        case 3: v &= 0xff; break;
        default: break;
        }
        store_le(p + i, v, 4);
    }
}

static void random_state(struct machine *m)
{
    memset(m, 0, sizeof(*m));
    random_vector(m->zmm[0], sizeof(m->zmm));
    for (int i = 0; i < 8; i++)
        m->k[i] = rng() & rng();
    for (int i = 0; i < 16; i++)
        m->gpr[i] = rng() & (rng() % 4 ? ~UINT64_C(0) : 0x1f);
    m->flags = (rng() & RFLAGS_STATUS) | RFLAGS_FIXED | RFLAGS_IF;
    m->mxcsr = (uint32_t)(MXCSR_INIT | (rng() & 0xe07f)) & ~0x40u;
    if (rng() % 4 == 0)
        m->mxcsr |= 0x40;
    m->fx.fcw = (uint16_t)(0x7f | (rng() & 0xf00 & ~0x100u) | 0x300);
    m->fx.fsw = (uint16_t)(rng() & 0x7f00);
    m->fx.ftw = (uint8_t)(rng() % 2 ? 0xff : rng());
    m->fx.mxcsr = MXCSR_INIT;
    for (int i = 0; i < 8; i++) {
        uint64_t mantissa = rng() | BIT(63);
        uint16_t exponent = (uint16_t)(0x3fff - 20 + rng() % 60);

        if (rng() % 8 == 0)
            exponent = (uint16_t)rng();
        store_le(m->fx.st[i], mantissa, 8);
        store_le(m->fx.st[i] + 8, exponent, 2);
    }
    /* Indices for gathers: small, of either width, each element of zmm11 by itself. */
    for (int i = 0; i < 16; i++)
        store_le(m->zmm[11] + 4 * i, rng() % 13, 4);
}

static void to_guest(struct cpu *cpu, const struct machine *m)
{
    memcpy(cpu->zmm, m->zmm, sizeof(cpu->zmm));
    memcpy(cpu->k, m->k, sizeof(cpu->k));
    memcpy(cpu->gpr, m->gpr, sizeof(cpu->gpr));
    cpu->gpr[GPR_RBX] = DATA;
    cpu->rflags = m->flags;
    cpu->fx.mxcsr = m->mxcsr;
    cpu->fx.fcw = m->fx.fcw;
    cpu->fx.fsw = m->fx.fsw;
    cpu->fx.ftw = m->fx.ftw;
    memcpy(cpu->fx.st, m->fx.st, sizeof(cpu->fx.st));
}

/* 64-bit indices: the upper halves must be clear. */
static bool wide_index(const char *name)
{
    return strstr(name, "gatherq") || strstr(name, "scatterq");
}

static void compare_bytes(const struct vm *vm, const char *what, const void *ours,
                          const void *native, size_t size)
{
    if (!memcmp(ours, native, size))
        return;
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)ours)[i] != ((const uint8_t *)native)[i])
            fail_msg("%s: %s differs at byte %zu: 0x%02x, natively 0x%02x", vm->name, what, i,
                     ((const uint8_t *)ours)[i], ((const uint8_t *)native)[i]);
}

static void compare_value(const struct vm *vm, const char *what, uint64_t ours, uint64_t native)
{
    if (ours != native)
        fail_msg("%s: %s is 0x%lx, natively 0x%lx", vm->name, what, (unsigned long)ours,
                 (unsigned long)native);
}

static void run_case(struct vm *vm, const struct simd_case *c, uint8_t *buffer)
{
    struct cpu *cpu = vm->cpu;
    uint8_t *guest = vm->ram->host + DATA;
    struct machine m;
    int fault;

    vm->name = c->name;
    random_state(&m);
    if (wide_index(c->name))
        for (int i = 0; i < 8; i++)
            store_le(m.zmm[11] + 8 * i, rng() % 25, 8);
    random_vector(buffer, 256);
    memcpy(guest, buffer, 256);
    to_guest(cpu, &m);
    m.gpr[GPR_RBX] = (uintptr_t)buffer;
    fault = execute(vm, c->code, (unsigned)(c->end - c->code));
    if (fault == EXC_UD) { /* the host, and so the model, has no such thing */
        struct insn in;

        if (insn_decode(c->code, (unsigned)(c->end - c->code), 8, &in) != DECODE_OK)
            fail_msg("%s: not bound", vm->name);
        if (in.extra) {
            const struct simd_spec *s = &((const struct simd_stub *)in.extra)->spec;

            for (unsigned i = 0; i < s->features; i++)
                if (!cpu_has(cpu, s->feature[i]))
                    return;
        }
        fail_msg("%s: #UD", vm->name);
    }
    if (fault != NO_FAULT)
        fail_msg("%s: exception %d", vm->name, fault);

    native_run(&m, c->code);
    compare_bytes(vm, "memory", guest, buffer, 256);
    for (int i = 0; i < 32; i++)
        compare_bytes(vm, "vector register", cpu->zmm[i], m.zmm[i], 64);
    compare_bytes(vm, "mask register", cpu->k, m.k, sizeof(m.k));
    m.gpr[GPR_RBX] = DATA;
    compare_bytes(vm, "general register", cpu->gpr, m.gpr, sizeof(m.gpr));
    compare_value(vm, "flags", cpu->rflags & RFLAGS_STATUS, m.flags & RFLAGS_STATUS);
    compare_value(vm, "MXCSR", cpu->fx.mxcsr, m.mxcsr);
    compare_value(vm, "FCW", cpu->fx.fcw, m.fx.fcw);
    compare_value(vm, "FSW", cpu->fx.fsw, m.fx.fsw);
    compare_value(vm, "FTW", cpu->fx.ftw, m.fx.ftw);
    compare_bytes(vm, "x87 register", cpu->fx.st, m.fx.st, sizeof(m.fx.st));
}

static void agrees_with_the_host(void **state)
{
    uint8_t *buffer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(buffer, MAP_FAILED);
    if (!native_possible())
        skip();
    for (const struct simd_case *c = simd_cases; c < simd_cases_end; c++)
        for (int i = 0; i < 20; i++)
            run_case(*state, c, buffer);
    munmap(buffer, 4096);
}

/* ---- faults ---------------------------------------------------------------------------------- */

static void refuses_without_the_feature(void **state)
{
    struct vm *vm = *state;

    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0x38, 0xdc, 0xca), NO_FAULT); /* aesenc */
    vm->model.word[FEATURE_AES / 32] &= ~(uint32_t)BIT(FEATURE_AES % 32);
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0x38, 0xdc, 0xca), EXC_UD);
    assert_int_equal(EXECUTE(vm, 0xc4, 0xe2, 0x69, 0xdc, 0xd9), EXC_UD); /* vaesenc */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0xca), NO_FAULT);           /* addps */
    vm->model.word[FEATURE_SSE / 32] &= ~(uint32_t)BIT(FEATURE_SSE % 32);
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0xca), EXC_UD);
    /* XOP and 3DNow! no model has. */
    assert_int_equal(EXECUTE(vm, 0x8f, 0xe9, 0x78, 0x81, 0xc8), EXC_UD);
    assert_int_equal(EXECUTE(vm, 0x0f, 0x0f, 0xc1, 0x9e), EXC_UD);
}

static void checks_control_registers_in_order(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint64_t cr0 = cpu->cr0, cr4 = cpu->cr4, xcr0 = cpu->xcr0;
    bool avx = cpu_has(cpu, FEATURE_AVX);
    static const uint8_t addps[] = {0x0f, 0x58, 0xca}, fld1[] = {0xd9, 0xe8},
                         paddb[] = {0x0f, 0xfc, 0xca}, vaddps[] = {0xc5, 0xf0, 0x58, 0xca},
                         evex[] = {0x62, 0xf1, 0x74, 0x48, 0x58, 0xca},
                         kandw[] = {0xc5, 0xec, 0x41, 0xd9}, fwait[] = {0x9b},
                         andn[] = {0xc4, 0xe2, 0x68, 0xf2, 0xc1};

    cpu->cr0 = cr0 | CR0_TS;
    assert_int_equal(execute(vm, addps, sizeof(addps)), EXC_NM);
    assert_int_equal(execute(vm, fld1, sizeof(fld1)), EXC_NM);
    assert_int_equal(execute(vm, paddb, sizeof(paddb)), EXC_NM);
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), avx ? EXC_NM : EXC_UD);
    assert_int_equal(execute(vm, fwait, sizeof(fwait)), EXC_NM);
    assert_int_equal(execute(vm, andn, sizeof(andn)),
                     cpu_has(cpu, FEATURE_BMI1) ? NO_FAULT : EXC_UD);
    cpu->cr0 = cr0 | CR0_TS | CR0_EM;
    assert_int_equal(execute(vm, addps, sizeof(addps)), EXC_UD);
    assert_int_equal(execute(vm, paddb, sizeof(paddb)), EXC_UD);
    assert_int_equal(execute(vm, fld1, sizeof(fld1)), EXC_NM);
    cpu->cr0 = (cr0 | CR0_TS) & ~(uint64_t)CR0_MP;
    assert_int_equal(execute(vm, fwait, sizeof(fwait)), NO_FAULT);
    cpu->cr0 = cr0;
    cpu->cr4 = cr4 & ~(uint64_t)CR4_OSFXSR;
    assert_int_equal(execute(vm, addps, sizeof(addps)), EXC_UD);
    assert_int_equal(execute(vm, paddb, sizeof(paddb)), NO_FAULT);
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), avx ? NO_FAULT : EXC_UD);
    cpu->cr4 = cr4 & ~(uint64_t)CR4_OSXSAVE;
    cpu->cr0 = cr0 | CR0_TS; /* #UD comes first */
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), EXC_UD);
    cpu->cr0 = cr0;
    cpu->cr4 = cr4;
    cpu->xcr0 = XCR0_X87 | XCR0_SSE;
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), EXC_UD);
    cpu->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), avx ? NO_FAULT : EXC_UD);
    assert_int_equal(execute(vm, evex, sizeof(evex)), EXC_UD);
    assert_int_equal(execute(vm, kandw, sizeof(kandw)), EXC_UD);
    cpu->xcr0 = xcr0;
    mode_real(cpu);
    assert_int_equal(execute(vm, addps, sizeof(addps)), NO_FAULT);
    assert_int_equal(execute(vm, vaddps, sizeof(vaddps)), EXC_UD);
    assert_int_equal(execute(vm, andn, sizeof(andn)), EXC_UD);
}

static void misaligned_is_gp_only_where_it_should(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;

    cpu->gpr[GPR_RBX] = DATA + 8;
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0x03), EXC_GP);                  /* addps (%rbx) */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x28, 0x03), EXC_GP);                  /* movaps */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x10, 0x03), NO_FAULT);                /* movups */
    assert_int_equal(EXECUTE(vm, 0xf3, 0x0f, 0x58, 0x03), NO_FAULT);          /* addss */
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0xe7, 0x03), EXC_GP);            /* movntdq */
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0x2d, 0x03), EXC_GP);            /* cvtpd2pi */
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0x3a, 0x63, 0x0b, 0), NO_FAULT); /* pcmpistri */
    /* Alignment is checked before paging. */
    cpu->gpr[GPR_RBX] = HOLE + 8;
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0x03), EXC_GP);
    cpu->gpr[GPR_RBX] = HOLE + 16;
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0x03), EXC_PF);
    assert_int_equal(cpu->cr2, HOLE + 16);

    if (!cpu_has(cpu, FEATURE_AVX))
        return;
    cpu->gpr[GPR_RBX] = DATA + 8;
    assert_int_equal(EXECUTE(vm, 0xc5, 0xf0, 0x58, 0x03), NO_FAULT); /* vaddps */
    assert_int_equal(EXECUTE(vm, 0xc5, 0xf8, 0x28, 0x03), EXC_GP);   /* vmovaps xmm */
    cpu->gpr[GPR_RBX] = DATA + 16;
    assert_int_equal(EXECUTE(vm, 0xc5, 0xf8, 0x28, 0x03), NO_FAULT);
    assert_int_equal(EXECUTE(vm, 0xc5, 0xfc, 0x28, 0x03), EXC_GP); /* vmovaps ymm */
    /* EFLAGS.AC: AMD's processors check whole vectors, Intel's do not. */
    cpu->rflags |= RFLAGS_AC;
    cpu->cr0 |= CR0_AM;
    strcpy(vm->model.vendor, "AuthenticAMD");
    assert_int_equal(EXECUTE(vm, 0xc5, 0xfc, 0x58, 0x03), EXC_AC);
    strcpy(vm->model.vendor, "GenuineIntel");
    assert_int_equal(EXECUTE(vm, 0xc5, 0xfc, 0x58, 0x03), NO_FAULT);
    cpu->gpr[GPR_RBX] = DATA + 2;
    assert_int_equal(EXECUTE(vm, 0xf3, 0x0f, 0x58, 0x03), EXC_AC); /* addss: 4 bytes */
    cpu->rflags &= ~(uint64_t)RFLAGS_AC;
    if (!cpu_has(cpu, FEATURE_AVX512F))
        return;
    cpu->gpr[GPR_RBX] = DATA + 32;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x7c, 0x48, 0x28, 0x03), EXC_GP); /* vmovaps zmm */
}

static void page_faults_change_nothing(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    struct fx_image fx;
    uint8_t zmm[32][64], ram[64];

    random_vector(cpu->zmm[0], sizeof(cpu->zmm));
    assert_int_equal(EXECUTE(vm, 0xd9, 0xe8), NO_FAULT); /* fld1 */
    memcpy(zmm, cpu->zmm, sizeof(zmm));
    fx = cpu->fx;
    memcpy(ram, vm->ram->host + HOLE - 64, 64);
    cpu->gpr[GPR_RBX] = HOLE - 4;
    assert_int_equal(EXECUTE(vm, 0xdd, 0x1b), EXC_PF);       /* fstpl */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x11, 0x0b), EXC_PF); /* movups store */
    if (cpu_has(cpu, FEATURE_AVX))
        assert_int_equal(EXECUTE(vm, 0xc5, 0xf4, 0x58, 0x13), EXC_PF); /* vaddps ymm */
    if (cpu_has(cpu, FEATURE_F16C))
        assert_int_equal(EXECUTE(vm, 0xc4, 0xe3, 0x7d, 0x1d, 0x13, 0), EXC_PF); /* vcvtps2ph */
    assert_int_equal(cpu->cr2, HOLE);
    assert_memory_equal(zmm, cpu->zmm, sizeof(zmm));
    assert_memory_equal(&fx, &cpu->fx, sizeof(fx));
    assert_memory_equal(ram, vm->ram->host + HOLE - 64, 64);
}

static void masked_elements_do_not_fault(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *edge = vm->ram->host + HOLE - 16;

    if (!cpu_has(cpu, FEATURE_AVX512F))
        skip();
    cpu->gpr[GPR_RBX] = HOLE - 16;
    memset(cpu->zmm[1], 0x11, 64);
    cpu->k[1] = 0xf;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x7c, 0x49, 0x11, 0x0b), NO_FAULT); /* vmovups store */
    assert_int_equal(edge[15], 0x11);
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x74, 0x49, 0x58, 0x13), NO_FAULT); /* vaddps load */
    cpu->k[1] = 0x5;
    memset(edge, 0, 16);
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x7c, 0x49, 0x11, 0x0b), NO_FAULT);
    assert_int_equal(load_le(edge, 8), 0x11111111);
    assert_int_equal(load_le(edge + 8, 8), 0x11111111);
    cpu->k[1] = 0x11;
    memset(edge, 0, 16);
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x7c, 0x49, 0x11, 0x0b), EXC_PF);
    assert_int_equal(cpu->cr2, HOLE);
    assert_int_equal(edge[0], 0); /* nothing was stored */
    /* Compress touches as many as there are, wherever their bits. */
    cpu->k[1] = 0xf000;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x0b), NO_FAULT);
    cpu->k[1] = 0xf001;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf2, 0x7d, 0x49, 0x8b, 0x0b), EXC_PF);
    /* VEXTRACTF32X4 is of type E6NF: it faults on elements that it leaves alone. */
    cpu->gpr[GPR_RBX] = HOLE - 8;
    cpu->k[1] = 1;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf3, 0x7d, 0x49, 0x19, 0x0b, 0), EXC_PF);
    /* A broadcast element is not touched when no result wants it. */
    cpu->gpr[GPR_RBX] = HOLE;
    cpu->k[1] = 0xffff0000;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x74, 0x59, 0x58, 0x13), NO_FAULT);
    cpu->k[1] = 0x8000;
    assert_int_equal(EXECUTE(vm, 0x62, 0xf1, 0x74, 0x59, 0x58, 0x13), EXC_PF);
    /* VMASKMOVPS: sign bits of xmm2. */
    cpu->gpr[GPR_RBX] = HOLE - 8;
    memset(cpu->zmm[2], 0, 64);
    cpu->zmm[2][3] = cpu->zmm[2][7] = 0x80;
    assert_int_equal(EXECUTE(vm, 0xc4, 0xe2, 0x69, 0x2e, 0x0b), NO_FAULT);
    cpu->zmm[2][11] = 0x80;
    assert_int_equal(EXECUTE(vm, 0xc4, 0xe2, 0x69, 0x2e, 0x0b), EXC_PF);
    /* MASKMOVDQU to [rdi]. */
    cpu->gpr[GPR_RDI] = HOLE - 8;
    memset(cpu->zmm[2], 0x80, 8);
    memset(cpu->zmm[2] + 8, 0x7f, 8);
    memset(edge, 0, 16);
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0xf7, 0xca), NO_FAULT);
    assert_int_equal(edge[7], 0);
    assert_int_equal(load_le(edge + 8, 8), 0x1111111111111111);
    cpu->zmm[2][15] = 0x80;
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0xf7, 0xca), EXC_PF);
}

static void gathers_keep_what_they_did(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    static const uint8_t gather[] = {0xc4, 0xe2, 0x61, 0x90, 0x24, 0x0b}; /* xmm4,[rbx+xmm1],xmm3 */

    if (!cpu_has(cpu, FEATURE_AVX2))
        skip();
    store_le(vm->ram->host + HOLE - 8, 0x2222222211111111, 8);
    memset(cpu->zmm[3], 0xff, 64);
    memset(cpu->zmm[4], 0x77, 64);
    for (int i = 0; i < 4; i++)
        store_le(cpu->zmm[1] + 4 * i, (uint32_t)(4 * i - 8), 4);
    cpu->gpr[GPR_RBX] = HOLE;
    assert_int_equal(execute(vm, gather, sizeof(gather)), EXC_PF);
    assert_int_equal(cpu->cr2, HOLE);
    assert_int_equal(load_le(cpu->zmm[4], 8), 0x2222222211111111);
    assert_int_equal(load_le(cpu->zmm[3], 8), 0);
    assert_int_equal(load_le(cpu->zmm[3] + 8, 8), ~UINT64_C(0));
    /* The handler maps the page; the instruction goes on where it was. */
    store_le(vm->ram->host + TABLES + 0x3000 + (HOLE >> 12) * 8, HOLE | 7, 8);
    store_le(vm->ram->host + HOLE, 0x4444444433333333, 8);
    memset(vm->ram->host + HOLE - 8, 0, 8); /* must not be read again */
    assert_int_equal(execute(vm, gather, sizeof(gather)), NO_FAULT);
    assert_int_equal(load_le(cpu->zmm[4], 8), 0x2222222211111111);
    assert_int_equal(load_le(cpu->zmm[4] + 8, 8), 0x4444444433333333);
    assert_int_equal(load_le(cpu->zmm[4] + 16, 8), 0);
    assert_int_equal(load_le(cpu->zmm[3] + 8, 8), 0);
    /* Index, mask and destination must differ. */
    assert_int_equal(EXECUTE(vm, 0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x0b), EXC_UD);
}

static void unmasked_simd_exceptions(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    static const uint8_t divps[] = {0x0f, 0x5e, 0xca};
    uint8_t before[64];

    memset(cpu->zmm[1], 0, 64);
    store_le(cpu->zmm[1], 0x3f800000, 4);
    memset(cpu->zmm[2], 0, 64);
    memcpy(before, cpu->zmm[1], 64);
    assert_int_equal(execute(vm, divps, sizeof(divps)), NO_FAULT); /* 1/0, 0/0 masked */
    assert_int_equal(cpu->fx.mxcsr, MXCSR_INIT | 5);
    memcpy(cpu->zmm[1], before, 64);
    cpu->fx.mxcsr = MXCSR_INIT & ~0x200u; /* divide by zero unmasked */
    store_le(cpu->zmm[2] + 4, 0x3f8000003f800000, 8);
    store_le(cpu->zmm[2] + 12, 0x3f800000, 4);
    assert_int_equal(execute(vm, divps, sizeof(divps)), EXC_XM);
    assert_int_equal(cpu->fx.mxcsr, (MXCSR_INIT & ~0x200u) | 4);
    assert_memory_equal(cpu->zmm[1], before, 64);
    cpu->cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
    assert_int_equal(execute(vm, divps, sizeof(divps)), EXC_UD);
    assert_int_equal(__builtin_ia32_stmxcsr() & 0x1f80, 0x1f80); /* ours is back */
}

static void x87_exceptions_wait(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *data = vm->ram->host + DATA;

    EXECUTE(vm, 0xdb, 0xe3); /* fninit */
    cpu->fx.fcw = FCW_INIT & ~4;
    EXECUTE(vm, 0xd9, 0xe8);                             /* fld1 */
    EXECUTE(vm, 0xd9, 0xee);                             /* fldz */
    assert_int_equal(EXECUTE(vm, 0xdc, 0xf9), NO_FAULT); /* fdiv st1,st: 1/0 */
    assert_int_equal(cpu->fx.fsw & 0x8084, 0x8084);
    assert_int_equal(EXECUTE(vm, 0xd9, 0xe8), EXC_MF);
    assert_int_equal(EXECUTE(vm, 0x9b), EXC_MF);
    assert_int_equal(EXECUTE(vm, 0xdb, 0xe0), NO_FAULT);       /* fneni does not wait */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x2a, 0xca), EXC_MF);   /* cvtpi2ps xmm1, mm2 */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x2a, 0x0b), NO_FAULT); /* from memory: no x87 in it */
    assert_int_equal(EXECUTE(vm, 0x0f, 0xfc, 0xca), EXC_MF);   /* paddb: MMX waits too */
    assert_int_equal(EXECUTE(vm, 0x0f, 0x58, 0xca), NO_FAULT); /* addps does not */
    assert_int_equal(EXECUTE(vm, 0xdf, 0xe0), NO_FAULT);       /* fnstsw ax */
    assert_int_equal(cpu->gpr[GPR_RAX] & 0xffff, cpu->fx.fsw);
    cpu->cr0 &= ~(uint64_t)CR0_NE; /* FERR# is not modelled: ignored */
    assert_int_equal(EXECUTE(vm, 0xd9, 0xe8), NO_FAULT);
    assert_int_equal(cpu->fx.fsw & 0x8084, 0x8084);
    assert_int_equal(cpu->fx.fcw, FCW_INIT & ~4);
    cpu->cr0 |= CR0_NE;
    EXECUTE(vm, 0xdb, 0xe2); /* fnclex */
    assert_int_equal(EXECUTE(vm, 0xd9, 0xe8), NO_FAULT);

    /* A store that overflows, unmasked: memory and stack stay. */
    EXECUTE(vm, 0xdb, 0xe3);
    cpu->fx.fcw = FCW_INIT & ~8;
    memset(data, 0, 10);
    data[7] = 0x80;
    data[9] = 0x7f;
    data[8] = 0xf0;
    assert_int_equal(EXECUTE(vm, 0xdb, 0x2b), NO_FAULT); /* fldt */
    memset(data, 0xab, 8);
    assert_int_equal(EXECUTE(vm, 0xd9, 0x1b), NO_FAULT); /* fstps */
    assert_int_equal(data[0], 0xab);
    assert_int_equal(cpu->fx.fsw & 0x8088, 0x8088);
    assert_int_equal(cpu->fx.fsw >> 11 & 7, 7);
}

static void x87_pointers_are_the_guests(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;

    cpu->rip = CODE + 0x123;
    assert_int_equal(EXECUTE(vm, 0xdd, 0x43, 0x08), NO_FAULT); /* fldl 8(%rbx) */
    assert_int_equal(cpu->fx.fip, CODE + 0x123);
    assert_int_equal(cpu->fx.fdp, DATA + 8);
    assert_int_equal(cpu->fcs, cpu->seg[SEG_CS].selector);
    assert_int_equal(cpu->fds, cpu->seg[SEG_DS].selector);
    assert_int_equal(cpu->fx.fop, 0x543);
    cpu->rip = CODE + 0x200;
    EXECUTE(vm, 0xd9, 0x7b, 0x10); /* fnstcw: control, not recorded */
    EXECUTE(vm, 0x0f, 0xfc, 0xca); /* MMX: neither */
    assert_int_equal(cpu->fx.fip, CODE + 0x123);
    EXECUTE(vm, 0x0f, 0x77); /* emms */
    EXECUTE(vm, 0xd9, 0xe8);
    assert_int_equal(cpu->fx.fip, CODE + 0x200);
    assert_int_equal(cpu->fx.fdp, DATA + 8);
    assert_int_equal(cpu->fx.fop, 0x1e8);
}

static void runs_in_other_modes(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint32_t crc = 0;

    memset(cpu->zmm, 0x5a, sizeof(cpu->zmm));
    mode_32(cpu);
    cpu->gpr[GPR_RAX] = 0x3fc00000;
    cpu->gpr[GPR_RBX] = DATA;
    assert_int_equal(EXECUTE(vm, 0x66, 0x0f, 0x6e, 0xc8), NO_FAULT); /* movd xmm1, eax */
    assert_int_equal(load_le(cpu->zmm[1], 8), 0x3fc00000);
    assert_int_equal(cpu->zmm[1][16], 0x5a); /* legacy: the rest is kept */
    if (cpu_has(cpu, FEATURE_AVX)) {
        /* VEX.W means nothing here: vmovd ecx, xmm1. */
        assert_int_equal(EXECUTE(vm, 0xc4, 0xe1, 0xf9, 0x7e, 0xc9), NO_FAULT);
        assert_int_equal(cpu->gpr[GPR_RCX], 0x3fc00000);
        /* Nor does the highest bit of a register in an immediate: vpblendvb with xmm5. */
        assert_int_equal(EXECUTE(vm, 0xc4, 0xe3, 0x79, 0x4c, 0xfa, 0xdc), NO_FAULT);
        cpu->gpr[GPR_RAX] = cpu->gpr[GPR_RDX] = 0xffffffff00000002; /* lengths are EAX, EDX */
        memcpy(cpu->zmm[3], "ab", 2);
        memcpy(cpu->zmm[6], "ba", 2);
        assert_int_equal(EXECUTE(vm, 0xc4, 0xe3, 0xf9, 0x61, 0xde, 0x0c),
                         NO_FAULT); /* vpcmpestri */
        assert_int_equal(cpu->gpr[GPR_RCX], 16);
        assert_int_equal(EXECUTE(vm, 0xc5, 0xf8, 0x77), NO_FAULT); /* vzeroupper: 0 to 7 only */
        assert_int_equal(cpu->zmm[7][16], 0);
        assert_int_equal(cpu->zmm[8][16], 0x5a);
    }
    cpu->gpr[GPR_RAX] = 0x1ff;
    assert_int_equal(EXECUTE(vm, 0xf2, 0x0f, 0x38, 0xf0, 0xcc), NO_FAULT); /* crc32 ecx, ah */
    cpu->seg[SEG_DS].limit = DATA + 7;
    assert_int_equal(EXECUTE(vm, 0x0f, 0x10, 0x0b), EXC_GP); /* movups over the limit */
    assert_int_equal(EXECUTE(vm, 0xdd, 0x03), NO_FAULT);     /* fldl fits */
    mode_real(cpu);
    cpu->gpr[GPR_RBX] = 0x100;
    store_le(vm->ram->host + 0x100, 0x3fc00000, 4);
    assert_int_equal(EXECUTE(vm, 0xd9, 0x07), NO_FAULT); /* flds [bx] */
    assert_int_equal(load_le(cpu->fx.st[0] + 8, 2), 0x3fff);
    /* 66 makes 32 bits of 16: crc32 ecx, eax against crc32 ecx, ax. */
    cpu->gpr[GPR_RAX] = 0x12345678;
    cpu->gpr[GPR_RCX] = 0;
    assert_int_equal(EXECUTE(vm, 0xf2, 0x0f, 0x38, 0xf1, 0xc8), NO_FAULT);
    __asm__("crc32w %w1, %0" : "+r"(crc) : "r"(0x5678));
    assert_int_equal(cpu->gpr[GPR_RCX], crc);
    cpu->gpr[GPR_RCX] = 0;
    assert_int_equal(EXECUTE(vm, 0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xc8), NO_FAULT);
    crc = 0;
    __asm__("crc32l %1, %0" : "+r"(crc) : "r"(0x12345678));
    assert_int_equal(cpu->gpr[GPR_RCX], crc);
}

/* ---- state images ---------------------------------------------------------------------------- */

static void scramble(struct cpu *cpu)
{
    random_vector(cpu->zmm[0], sizeof(cpu->zmm));
    for (int i = 0; i < 8; i++) {
        cpu->k[i] = rng();
        store_le(cpu->fx.st[i], rng() | BIT(63), 8);
        store_le(cpu->fx.st[i] + 8, rng() & 0x3fff, 2);
    }
    for (int i = 0; i < 32; i++) { /* what XCR0 has not is always clear */
        unsigned keep = i < 16 ? 16 : 0;

        if (i < 16 && cpu->xcr0 & XCR0_AVX)
            keep = 32;
        if (cpu->xcr0 & XCR0_ZMM_HI256)
            keep = 64;
        memset(cpu->zmm[i] + keep, 0, 64 - keep);
    }
    if (!(cpu->xcr0 & XCR0_OPMASK))
        memset(cpu->k, 0, sizeof(cpu->k));
    cpu->fx.fcw = 0x27f;
    cpu->fx.fsw = 0x3841;
    cpu->fx.ftw = 0x7e;
    cpu->fx.fop = 0x123;
    cpu->fx.fip = 0x89abcdef;
    cpu->fx.fdp = 0x76543210;
    cpu->fcs = 0x33;
    cpu->fds = 0x2b;
    cpu->fx.mxcsr = 0x9fa5;
}

struct saved {
    struct fx_image fx;
    uint8_t zmm[32][64];
    uint64_t k[8];
    uint16_t fcs, fds;
};

static void take(struct saved *s, const struct cpu *cpu)
{
    memset(s, 0, sizeof(*s));
    s->fx = cpu->fx;
    memcpy(s->zmm, cpu->zmm, sizeof(s->zmm));
    memcpy(s->k, cpu->k, sizeof(s->k));
    s->fcs = cpu->fcs;
    s->fds = cpu->fds;
}

static void fxsave_round_trip(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    const uint8_t *image = vm->ram->host + DATA;
    struct saved before, after;

    for (int wide = 0; wide < 2; wide++) {
        scramble(cpu);
        if (wide)
            cpu->fcs = cpu->fds = 0;
        take(&before, cpu);
        memset(vm->ram->host + DATA, 0xcc, 512);
        assert_int_equal(EXECUTE(vm, 0x40 | wide << 3, 0x0f, 0xae, 0x03), NO_FAULT);
        assert_int_equal(load_le(image, 2), 0x27f);
        assert_int_equal(load_le(image + 2, 2), 0x3841);
        assert_int_equal(image[4], 0x7e);
        assert_int_equal(load_le(image + 24, 4), 0x9fa5);
        assert_int_equal(load_le(image + 28, 4), 0xffff);
        assert_memory_equal(image + 160 + 16 * 15, cpu->zmm[15], 16);
        assert_int_equal(image[511], 0xcc); /* the software's part */
        scramble(cpu);
        cpu->fx.fcw = FCW_INIT;
        memcpy(cpu->zmm[16], before.zmm[16], 16 * 64);
        for (int i = 0; i < 16; i++)
            memcpy(cpu->zmm[i] + 16, before.zmm[i] + 16, 48);
        memcpy(cpu->k, before.k, sizeof(before.k));
        assert_int_equal(EXECUTE(vm, 0x40 | wide << 3, 0x0f, 0xae, 0x0b), NO_FAULT);
        take(&after, cpu);
        assert_memory_equal(&before, &after, sizeof(before));
    }
    store_le(vm->ram->host + DATA + 24, 0x10000, 4);
    assert_int_equal(EXECUTE(vm, 0x0f, 0xae, 0x0b), EXC_GP);
    cpu->gpr[GPR_RBX] = DATA + 8;
    assert_int_equal(EXECUTE(vm, 0x0f, 0xae, 0x03), EXC_GP);
    cpu->gpr[GPR_RBX] = HOLE - 16;
    memset(vm->ram->host + HOLE - 16, 0xcc, 16);
    assert_int_equal(EXECUTE(vm, 0x0f, 0xae, 0x03), EXC_PF);
    assert_int_equal(vm->ram->host[HOLE - 16], 0xcc);
}

/* XSAVE, XSAVEOPT, XSAVEC, XSAVES and back; REX.W as `wide` says. */
static void xsave_round_trip(void **state)
{
    static const struct {
        uint8_t save[3], restore[3];
        bool compact, kernel;
    } forms[] = {
        {{0x0f, 0xae, 0x23}, {0x0f, 0xae, 0x2b}, false, false},
        {{0x0f, 0xae, 0x33}, {0x0f, 0xae, 0x2b}, false, false},
        {{0x0f, 0xc7, 0x23}, {0x0f, 0xae, 0x2b}, true, false},
        {{0x0f, 0xc7, 0x2b}, {0x0f, 0xc7, 0x1b}, true, true},
    };
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *image = vm->ram->host + DATA, code[4];
    struct saved before, after, init;

    memset(vm->ram->host + TABLES + 0x3000 + (HOLE >> 12) * 8, 0, 8);
    for (unsigned i = 0; i < ARRAY_SIZE(forms); i++)
        for (int wide = 0; wide < 2; wide++) {
            cpu->cpl = forms[i].kernel ? 0 : 3;
            scramble(cpu);
            if (wide)
                cpu->fcs = cpu->fds = 0;
            take(&before, cpu);
            memset(image, 0xcc, 4096);
            memset(image + 512, 0, 64);
            cpu->gpr[GPR_RAX] = cpu->gpr[GPR_RDX] = UINT32_MAX;
            code[0] = (uint8_t)(0x40 | wide << 3);
            memcpy(code + 1, forms[i].save, 3);
            assert_int_equal(execute(vm, code, 4), NO_FAULT);
            assert_int_equal(load_le(image + 512, 8), cpu->xcr0);
            assert_int_equal(load_le(image + 520, 8),
                             forms[i].compact ? cpu->xcr0 | BIT(63) : UINT64_C(0));
            if (cpu->xcr0 & XCR0_AVX)
                assert_memory_equal(image + (forms[i].compact ? 576 : vm->model.xsave[2].offset),
                                    cpu->zmm[0] + 16, 16);
            scramble(cpu);
            cpu->fx.ftw = 0;
            memcpy(code + 1, forms[i].restore, 3);
            assert_int_equal(execute(vm, code, 4), NO_FAULT);
            take(&after, cpu);
            assert_memory_equal(&before, &after, sizeof(before));

            /* Components without their bit come back initialised. */
            memset(image + 512, 0, 8);
            assert_int_equal(execute(vm, code, 4), NO_FAULT);
            take(&after, cpu);
            memset(&init, 0, sizeof(init));
            init.fx.fcw = FCW_INIT;
            init.fx.mxcsr = forms[i].compact ? MXCSR_INIT : before.fx.mxcsr;
            init.fx.mxcsr_mask = after.fx.mxcsr_mask;
            assert_memory_equal(&init, &after, sizeof(init));
        }
    cpu->cpl = 3;
}

static void xsave_optimisations_and_checks(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *image = vm->ram->host + DATA;
    static const uint8_t xsave[] = {0x0f, 0xae, 0x23}, xsaveopt[] = {0x0f, 0xae, 0x33},
                         xsavec[] = {0x0f, 0xc7, 0x23}, xrstor[] = {0x0f, 0xae, 0x2b},
                         xsaves[] = {0x0f, 0xc7, 0x2b}, xrstors[] = {0x0f, 0xc7, 0x1b};

    memset(cpu->zmm, 0, sizeof(cpu->zmm));
    memset(cpu->k, 0, sizeof(cpu->k));
    if (!(cpu->xcr0 & XCR0_AVX))
        skip();
    cpu->zmm[3][20] = 1; /* AVX only is in use */
    cpu->gpr[GPR_RAX] = cpu->gpr[GPR_RDX] = UINT32_MAX;
    memset(image, 0xcc, 4096);
    store_le(image + 512, BIT(62), 8);
    assert_int_equal(execute(vm, xsaveopt, 3), NO_FAULT);
    assert_int_equal(load_le(image + 512, 8), BIT(62) | XCR0_AVX);
    assert_int_equal(image[160], 0xcc);                   /* SSE not written */
    assert_int_equal(load_le(image + 24, 4), MXCSR_INIT); /* MXCSR is */
    assert_int_equal(load_le(image + 520, 8), 0xcccccccccccccccc);
    assert_int_equal(execute(vm, xsave, 3), NO_FAULT);
    assert_int_equal(image[160], 0); /* XSAVE writes it all */
    cpu->gpr[GPR_RAX] = XCR0_X87 | XCR0_SSE;
    assert_int_equal(execute(vm, xsavec, 3), NO_FAULT);
    assert_int_equal(load_le(image + 512, 8), 0);
    assert_int_equal(load_le(image + 520, 8), XCR0_X87 | XCR0_SSE | BIT(63));

    memset(image + 512, 0, 64);
    assert_int_equal(execute(vm, xrstor, 3), NO_FAULT);
    store_le(image + 512, BIT(40), 8); /* not in XCR0 */
    assert_int_equal(execute(vm, xrstor, 3), EXC_GP);
    store_le(image + 512, 0, 8);
    image[530] = 1; /* reserved */
    assert_int_equal(execute(vm, xrstor, 3), EXC_GP);
    image[530] = 0;
    store_le(image + 24, 0x10000, 4); /* MXCSR */
    assert_int_equal(execute(vm, xrstor, 3), EXC_GP);
    store_le(image + 24, MXCSR_INIT, 4);
    store_le(image + 520, BIT(63) | XCR0_X87, 8);
    store_le(image + 512, XCR0_SSE, 8); /* not in XCOMP_BV */
    assert_int_equal(execute(vm, xrstor, 3), EXC_GP);
    assert_int_equal(execute(vm, xsaves, 3), EXC_GP); /* CPL 3 */
    cpu->cpl = 0;
    store_le(image + 520, 0, 8);
    store_le(image + 512, 0, 8);
    assert_int_equal(execute(vm, xrstors, 3), EXC_GP); /* not compacted */
    cpu->cpl = 3;
    cpu->gpr[GPR_RBX] = DATA + 32;
    assert_int_equal(execute(vm, xsave, 3), EXC_GP);
    cpu->gpr[GPR_RBX] = DATA;
    cpu->cr0 |= CR0_TS;
    assert_int_equal(execute(vm, xsave, 3), EXC_NM);
    cpu->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(execute(vm, xsave, 3), EXC_UD);
}

static void environment_formats(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *image = vm->ram->host + 0x100;
    struct saved before, after;

    for (int real = 0; real < 2; real++)
        for (int word = 0; word < 2; word++) {
            /* Without 66 the size is that of the mode. */
            bool prefix = real ? !word : word;
            uint8_t save[3] = {0x66, 0xdd, 0x33}, restore[3] = {0x66, 0xdd, 0x23};
            unsigned env = word ? 14 : 28;

            if (real) {
                mode_real(cpu);
                save[2] = 0x37, restore[2] = 0x27; /* [bx] */
            } else {
                mode_32(cpu);
            }
            cpu->gpr[GPR_RBX] = 0x100;
            scramble(cpu);
            cpu->fx.fip = 0x1234;
            cpu->fx.fdp = 0x5678;
            if (word && !real)
                cpu->fx.fop = 0; /* no room there */
            take(&before, cpu);
            memset(image, 0xcc, 120);
            assert_int_equal(execute(vm, save + !prefix, 2 + prefix), NO_FAULT);
            assert_int_equal(load_le(image, 2), 0x27f);
            assert_int_equal(load_le(image + (word ? 4 : 8), 2) & 0x3, 3); /* register 0 empty */
            assert_int_equal(image[env + 80], 0xcc);
            assert_memory_equal(image + env, before.fx.st[0], 10);
            assert_int_equal(cpu->fx.fcw, FCW_INIT);
            assert_int_equal(cpu->fx.ftw, 0);
            if (real && !word)
                assert_int_equal(load_le(image + 16, 4), 0x123 | (0x33 * 16 + 0x1234) >> 16 << 12);
            if (!real && !word)
                assert_int_equal(load_le(image + 16, 4), 0x1230033);
            assert_int_equal(execute(vm, restore + !prefix, 2 + prefix), NO_FAULT);
            take(&after, cpu);
            if (real) { /* linear addresses */
                assert_int_equal(after.fx.fip, 0x1234 + 0x33 * 16);
                before.fx.fip = after.fx.fip;
                before.fx.fdp = after.fx.fdp;
                before.fcs = before.fds = 0;
            }
            assert_memory_equal(&before, &after, sizeof(before));
        }

    /* FNSTENV masks exceptions; FLDENV turns the stack but leaves the registers. */
    mode_32(cpu);
    EXECUTE(vm, 0xdb, 0xe3);
    EXECUTE(vm, 0xd9, 0xe8); /* fld1: in register 7 */
    cpu->fx.fcw = 0x300 | 0x40;
    assert_int_equal(EXECUTE(vm, 0xd9, 0x33), NO_FAULT);
    assert_int_equal(cpu->fx.fcw, FCW_INIT);
    assert_int_equal(load_le(image, 2), 0x340);
    store_le(image + 4, 0, 2); /* TOP 0 */
    assert_int_equal(EXECUTE(vm, 0xd9, 0x23), NO_FAULT);
    assert_int_equal(load_le(cpu->fx.st[7] + 8, 2), 0x3fff);
}

static void mxcsr_and_control_word(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    uint8_t *data = vm->ram->host + DATA;

    store_le(data, 0xffff, 4);
    assert_int_equal(EXECUTE(vm, 0x0f, 0xae, 0x13), NO_FAULT); /* ldmxcsr */
    assert_int_equal(cpu->fx.mxcsr, 0xffff);
    store_le(data, 0x10000, 4);
    assert_int_equal(EXECUTE(vm, 0x0f, 0xae, 0x13), EXC_GP);
    if (cpu_has(cpu, FEATURE_AVX)) {
        assert_int_equal(EXECUTE(vm, 0xc5, 0xf8, 0xae, 0x13), EXC_GP);
        assert_int_equal(EXECUTE(vm, 0xc5, 0xf8, 0xae, 0x1b), NO_FAULT); /* vstmxcsr */
        assert_int_equal(load_le(data, 4), 0xffff);
    }
    store_le(data, 0xffff, 2);
    assert_int_equal(EXECUTE(vm, 0xd9, 0x2b), NO_FAULT); /* fldcw */
    assert_int_equal(cpu->fx.fcw, 0x1f7f);
    cpu->fx.fsw = 1;
    store_le(data, 0x37e, 2);
    assert_int_equal(EXECUTE(vm, 0xd9, 0x2b), NO_FAULT); /* unmasks what is pending */
    assert_int_equal(cpu->fx.fsw, 0x8081);
    assert_int_equal(EXECUTE(vm, 0xd9, 0x2b), EXC_MF);
}

/* ---- the stub cache -------------------------------------------------------------------------- */

/* vpternlogd zmm, zmm, zmm, imm over registers and immediates: more than the cache holds. The
 * truth table of 0xca is a ? b : c. */
static void works_when_the_cache_is_full(void **state)
{
    struct vm *vm = *state;
    struct cpu *cpu = vm->cpu;
    unsigned uncached = 0;

    if (!cpu_has(cpu, FEATURE_AVX512F))
        skip();
    for (unsigned n = 0; n < 18000; n++) {
        unsigned imm = n & 0xff, source = n >> 8 & 7, dest = 8 + (n >> 11 & 7);
        uint8_t code[] = {0x62, 0, 0x65, 0x48, 0x25, 0, 0};
        uint64_t a, b, c, want = 0;
        struct insn in;

        code[1] = n >> 14 & 1 ? 0x63 : 0x73; /* destination 24-31, or 8-15 */
        code[5] = (uint8_t)(0xc0 | (dest & 7) << 3 | source);
        code[6] = (uint8_t)imm;
        dest += n >> 14 & 1 ? 16 : 0;
        assert_int_equal(insn_decode(code, sizeof(code), 8, &in), DECODE_OK);
        if (in.extra && n % 512)
            continue; /* built is enough, mostly */
        uncached += !in.extra;
        if (!in.extra && uncached % 64)
            continue;
        store_le(cpu->zmm[dest], a = rng(), 8);
        store_le(cpu->zmm[3], b = rng(), 8);
        if (source == 3)
            c = b;
        else
            store_le(cpu->zmm[source], c = rng(), 8);
        assert_int_equal(execute(vm, code, sizeof(code)), NO_FAULT);
        for (unsigned bit = 0; bit < 64; bit++) {
            unsigned row = (unsigned)(a >> bit & 1) << 2 | (unsigned)(b >> bit & 1) << 1 |
                           (unsigned)(c >> bit & 1);

            want |= (uint64_t)(imm >> row & 1) << bit;
        }
        assert_int_equal(load_le(cpu->zmm[dest], 8), want);
    }
    assert_true(uncached > 64);
    /* Faults are caught there too. */
    memset(cpu->zmm, 0, sizeof(cpu->zmm));
    cpu->fx.mxcsr = 0;
    assert_int_equal(EXECUTE(vm, 0x62, 0xa1, 0x74, 0x40, 0x5e, 0xd3), EXC_XM); /* vdivps 0/0 */
}

static void *hammer(void *opaque)
{
    void *state;
    intptr_t bad = 0;
    uint64_t all = ~UINT64_C(0);

    /* Block every signal as vCPU threads do; <signal.h> does not go together with insn.h. */
    syscall(SYS_rt_sigprocmask, 0, &all, NULL, sizeof(all));
    setup(&state);
    for (unsigned n = 0; n < 4000; n++) {
        struct vm *vm = state;
        struct cpu *cpu = vm->cpu;
        uint8_t code[] = {0x66, 0x0f, 0x73, 0xf8, 0}; /* pslldq xmm, imm */

        code[3] = (uint8_t)(0xf8 | (n & 7));
        code[4] = (uint8_t)(n >> 3 & 15);
        memset(cpu->zmm[n & 7], 0xff, 16);
        bad += execute(vm, code, sizeof(code)) != NO_FAULT;
        bad += __builtin_popcountll(load_le(cpu->zmm[n & 7], 8)) +
                   __builtin_popcountll(load_le(cpu->zmm[n & 7] + 8, 8)) !=
               8 * (16 - code[4]);
        if (n % 64 == 0) {
            memset(cpu->zmm[1], 0, 64);
            cpu->fx.mxcsr = 0x1f00;
            bad += EXECUTE(vm, 0x0f, 0x5e, 0xc9) != EXC_XM; /* 0/0 */
            cpu->fx.mxcsr = MXCSR_INIT;
        }
    }
    teardown(&state);
    return (void *)bad;
}

static void many_threads_at_once(void **state)
{
    pthread_t thread[8];

    for (unsigned i = 0; i < ARRAY_SIZE(thread); i++)
        assert_int_equal(pthread_create(&thread[i], NULL, hammer, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
        void *bad;

        pthread_join(thread[i], &bad);
        assert_int_equal((intptr_t)bad, 0);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(agrees_with_the_host),
        TEST(refuses_without_the_feature),
        TEST(checks_control_registers_in_order),
        TEST(misaligned_is_gp_only_where_it_should),
        TEST(page_faults_change_nothing),
        TEST(masked_elements_do_not_fault),
        TEST(gathers_keep_what_they_did),
        TEST(unmasked_simd_exceptions),
        TEST(x87_exceptions_wait),
        TEST(x87_pointers_are_the_guests),
        TEST(runs_in_other_modes),
        TEST(fxsave_round_trip),
        TEST(xsave_round_trip),
        TEST(xsave_optimisations_and_checks),
        TEST(environment_formats),
        TEST(mxcsr_and_control_word),
        TEST(many_threads_at_once),
        TEST(works_when_the_cache_is_full), /* last: the cache stays full */
    };

    return cmocka_run_group_tests_name("simd", tests, NULL, NULL);
}
