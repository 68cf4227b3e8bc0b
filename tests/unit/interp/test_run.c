/*
 * test_run.c - the run loop: fetching over pages and segment ends, the decode cache and code that
 * changes, events and shadows, single steps and breakpoints, string instructions.
 */
#include "guest.h"

#include "interp/exceptions.h"

/* ---- fetching ----------------------------------------------------------------------------- */

static void test_code_changes_itself(void **state)
{
    struct guest *g = guest_new(LONG64);

    /* mov byte [next+1], 7; mov al, 1 */
    guest_code(g, GUEST_CODE, "c6050100000007 b001");
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 7);
    /* And again from the cache, changed from outside. */
    *guest_memory(g, GUEST_CODE + 6) = 9;
    g->cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 9);
    guest_free(g);
}

/* The same address and bytes in another mode are another instruction. */
static void test_mode_is_part_of_the_cache(void **state)
{
    struct guest *g = guest_new(LONG64);

    guest_code(g, GUEST_CODE, "48"); /* REX.W, or DEC EAX */
    guest_code(g, GUEST_CODE, "48ffc0");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 1);
    g->cpu->seg[SEG_CS].attr = 0x9b | ATTR_DB | ATTR_G;
    g->cpu->rip = GUEST_CODE;
    cpu_state_changed(g->cpu);
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 0);
    assert_int_equal(g->cpu->rip, GUEST_CODE + 1);
    guest_free(g);
}

static void test_instruction_over_two_pages(void **state)
{
    struct guest *g = guest_new(LONG64);

    /* add eax, 0x01020304 with each number of bytes in the first page, twice */
    for (unsigned in_first = 1; in_first <= 4; in_first++) {
        for (unsigned time = 0; time < 2; time++) {
            g->cpu->gpr[GPR_RAX] = 1;
            guest_code(g, 0x7000 - in_first, "0504030201");
            assert_int_equal(guest_step(g, 1), -1);
            assert_int_equal(g->cpu->gpr[GPR_RAX], 0x01020305);
            assert_int_equal(g->cpu->rip, 0x7000 - in_first + 5);
        }
    }
    /* The half in the second page changes: the cached decoding must not be used. */
    g->cpu->gpr[GPR_RAX] = 1;
    *guest_memory(g, 0x7000) = 2;
    g->cpu->rip = 0x7000 - 4;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 0x02020305);
    guest_free(g);
}

static void test_fetch_fault(void **state)
{
    struct guest *g = guest_new(LONG64);

    /* One byte before the hole: a one-byte instruction runs, a longer one faults in the hole. */
    guest_code(g, GUEST_HOLE - 1, "90");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->rip, GUEST_HOLE);
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_int_equal(g->cpu->cr2, GUEST_HOLE);
    guest_code(g, GUEST_HOLE - 1, "05");
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_int_equal(g->cpu->cr2, GUEST_HOLE);
    assert_int_equal(load_le(guest_memory(g, g->cpu->gpr[GPR_RSP] + 8), 8), GUEST_HOLE - 1);
    /* An opcode that is invalid whatever follows does not need the next page. */
    guest_code(g, GUEST_HOLE - 1, "06");
    assert_int_equal(guest_step(g, 1), EXC_UD);
    guest_free(g);
}

static void test_segment_end(void **state)
{
    struct guest *g = guest_new(PROT32);

    g->cpu->seg[SEG_CS].limit = GUEST_CODE + 2;
    guest_code(g, GUEST_CODE, "90 b001");
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 1);
    assert_int_equal(guest_step(g, 1), EXC_GP);
    g->cpu->gpr[GPR_RSP] = GUEST_STACK;
    g->cpu->rip = GUEST_CODE;
    g->cpu->seg[SEG_CS].limit = GUEST_CODE + 1;
    assert_int_equal(guest_step(g, 2), EXC_GP);
    assert_int_equal(load_le(guest_memory(g, GUEST_STACK - 12), 4), GUEST_CODE + 1);
    guest_free(g);
}

static void test_fetch_from_nowhere(void **state)
{
    struct guest *g = guest_new(LONG64);

    /* Bytes nobody answers for are ones: FF FF is invalid. */
    g->cpu->rip = GUEST_IO;
    assert_int_equal(guest_step(g, 1), EXC_UD);
    guest_free(g);
}

/* ---- memory ------------------------------------------------------------------------------- */

static void test_faults_leave_no_trace(void **state)
{
    static const struct {
        const char *code;
        int exception;
        uint64_t cr2;
    } faults[] = {
        {"48890425fcff0100", EXC_PF, GUEST_HOLE},   /* mov [hole-4], rax */
        {"48010425fcff0100", EXC_PF, GUEST_HOLE},   /* add */
        {"f048010425fcff0100", EXC_PF, GUEST_HOLE}, /* lock add */
        {"48870425fcff0100", EXC_PF, GUEST_HOLE},   /* xchg */
        {"488b0425fcff0100", EXC_PF, GUEST_HOLE},   /* mov rax, [hole-4] */
        {"480fb10c2500100200", EXC_PF,
         GUEST_READONLY},                    /* cmpxchg [read-only], rcx: writes always */
        {"48a10000000000008000", EXC_GP, 0}, /* mov rax, [non-canonical] */
    };

    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        struct guest *g = guest_new(LONG64);
        uint8_t before[16];

        memset(guest_memory(g, GUEST_HOLE - 8), 0x5a, 16);
        memcpy(before, guest_memory(g, GUEST_HOLE - 8), 16);
        g->cpu->gpr[GPR_RAX] = 0x1234;
        guest_code(g, GUEST_CODE, faults[i].code);
        assert_int_equal(guest_step(g, 1), faults[i].exception);
        if (faults[i].exception >= 0) {
            assert_int_equal(g->cpu->gpr[GPR_RAX], 0x1234);
            assert_memory_equal(guest_memory(g, GUEST_HOLE - 8), before, 16);
            if (faults[i].exception == EXC_PF)
                assert_int_equal(g->cpu->cr2, faults[i].cr2);
        }
        guest_free(g);
    }
}

/* Read-modify-write over a page boundary, plain and locked. */
static void test_update_over_two_pages(void **state)
{
    static const char *const codes[] = {"48010425fc7f0000", "f048010425fc7f0000"};

    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        struct guest *g = guest_new(LONG64);

        store_le(guest_memory(g, 0x7ffc), 0x00000000ffffffff, 8);
        g->cpu->gpr[GPR_RAX] = 1;
        guest_code(g, GUEST_CODE, codes[i]);
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(load_le(guest_memory(g, 0x7ffc), 8), 0x100000000);
        guest_free(g);
    }
}

static void test_segment_limits(void **state)
{
    static const struct {
        const char *code;
        uint32_t attr, limit;
        int exception;
    } rows[] = {
        {"8b03", 0x93 | ATTR_DB, GUEST_DATA + 3, -1},
        {"8b03", 0x93 | ATTR_DB, GUEST_DATA + 2, EXC_GP},
        {"8903", 0x91 | ATTR_DB, UINT32_MAX, EXC_GP},             /* read-only */
        {"8b03", 0x91 | ATTR_DB, UINT32_MAX, -1},                 /* but readable */
        {"8b03", 0x97 | ATTR_DB, GUEST_DATA - 1, -1},             /* expand-down, above */
        {"8b03", 0x97 | ATTR_DB, GUEST_DATA, EXC_GP},             /* and not */
        {"8b03", 0x99 | ATTR_DB, UINT32_MAX, EXC_GP},             /* execute-only */
        {"8b03", 0x9b | ATTR_DB, UINT32_MAX, -1},                 /* readable code */
        {"8903", 0x9b | ATTR_DB, UINT32_MAX, EXC_GP},             /* is never writable */
        {"8b03", 0x93 | ATTR_DB | ATTR_NULL, UINT32_MAX, EXC_GP}, /* null */
        {"368b03", 0x93 | ATTR_DB, GUEST_DATA + 2, -1},           /* SS has its own limit */
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct guest *g = guest_new(PROT32);

        g->cpu->seg[SEG_DS].attr = rows[i].attr;
        g->cpu->seg[SEG_DS].limit = rows[i].limit;
        g->cpu->gpr[GPR_RBX] = GUEST_DATA;
        guest_code(g, GUEST_CODE, rows[i].code);
        /* Twice: by the slow way and with the TLB filled. */
        for (int time = 0; time < 2; time++) {
            g->cpu->rip = GUEST_CODE;
            assert_int_equal(guest_step(g, 1), rows[i].exception);
        }
        guest_free(g);
    }
}

static void test_alignment_check(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "8b03");
    cpu->gpr[GPR_RBX] = GUEST_DATA + 1;
    assert_int_equal(guest_step(g, 1), -1);
    cpu->cr0 |= CR0_AM;
    cpu->rflags |= RFLAGS_AC;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 1), -1); /* not at CPL 0 */
    cpu->seg[SEG_CS].selector |= 3;
    cpu->seg[SEG_CS].attr |= ATTR_DPL;
    cpu->seg[SEG_SS].selector |= 3;
    cpu->seg[SEG_SS].attr |= ATTR_DPL;
    cpu->tr.base = 0x1a000;
    cpu->tr.limit = 0x67;
    cpu->tr.attr = 0x8b;
    store_le(guest_memory(g, 0x1a004), 0xe000, 8);
    cpu_state_changed(cpu);
    cpu->gpr[GPR_RBX] = GUEST_DATA + 4;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 1), -1);
    cpu->gpr[GPR_RBX] = GUEST_DATA + 1;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 1), EXC_AC);
    guest_free(g);
}

/* ---- strings ------------------------------------------------------------------------------ */

static void test_rep_movs(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;
    enum { LENGTH = 10000 };

    for (unsigned i = 0; i < LENGTH; i++)
        *guest_memory(g, 0x30000 + i) = (uint8_t)(i * 7);
    cpu->gpr[GPR_RSI] = 0x30000;
    cpu->gpr[GPR_RDI] = 0x40123;
    cpu->gpr[GPR_RCX] = LENGTH;
    guest_code(g, GUEST_CODE, "f3a4");
    guest_step(g, 1);
    assert_int_equal(cpu->gpr[GPR_RCX], 0);
    assert_int_equal(cpu->gpr[GPR_RSI], 0x30000 + LENGTH);
    assert_int_equal(cpu->gpr[GPR_RDI], 0x40123 + LENGTH);
    assert_int_equal(cpu->rip, GUEST_CODE + 2);
    assert_memory_equal(guest_memory(g, 0x30000), guest_memory(g, 0x40123), LENGTH);
    /* Overlapping upward: a pattern. */
    memcpy(guest_memory(g, 0x30000), "abc", 3);
    cpu->gpr[GPR_RSI] = 0x30000;
    cpu->gpr[GPR_RDI] = 0x30003;
    cpu->gpr[GPR_RCX] = 8;
    cpu->rip = GUEST_CODE;
    guest_step(g, 1);
    assert_memory_equal(guest_memory(g, 0x30000), "abcabcabcab", 11);
    /* Downward. */
    cpu->rflags |= RFLAGS_DF;
    cpu->gpr[GPR_RSI] = 0x30004;
    cpu->gpr[GPR_RDI] = 0x30006;
    cpu->gpr[GPR_RCX] = 5;
    cpu->rip = GUEST_CODE;
    guest_step(g, 1);
    assert_memory_equal(guest_memory(g, 0x30000), "ababcabcca", 7);
    assert_int_equal(cpu->gpr[GPR_RSI], 0x2ffff);
    guest_free(g);
}

/* What was done before a fault stays done, and RIP is on the instruction. */
static void test_rep_fault(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->gpr[GPR_RAX] = 0x1122334455667788;
    cpu->gpr[GPR_RDI] = GUEST_HOLE - 40;
    cpu->gpr[GPR_RCX] = 100;
    guest_code(g, GUEST_CODE, "f348ab");
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_int_equal(cpu->gpr[GPR_RCX], 95);
    assert_int_equal(cpu->gpr[GPR_RDI], GUEST_HOLE);
    assert_int_equal(load_le(guest_memory(g, GUEST_HOLE - 8), 8), 0x1122334455667788);
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP] + 8), 8), GUEST_CODE);
    guest_free(g);
}

/* A long one gives way to events, and goes on. */
static void test_rep_is_interruptible(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;
    unsigned steps = 0;

    cpu->gpr[GPR_RDI] = 0x40000;
    cpu->gpr[GPR_RCX] = 0x20000;
    cpu->gpr[GPR_RAX] = 0xee;
    guest_code(g, GUEST_CODE, "f3aa");
    while (cpu->rip == GUEST_CODE) {
        guest_step(g, 1);
        steps++;
        assert_true(cpu->rip != GUEST_CODE || (cpu->rflags & RFLAGS_RF));
    }
    assert_in_range(steps, 2, 100);
    assert_false(cpu->rflags & RFLAGS_RF);
    assert_int_equal(*guest_memory(g, 0x5ffff), 0xee);
    assert_int_equal(*guest_memory(g, 0x60000), 0);
    guest_free(g);
}

static void test_rep_compare(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    memcpy(guest_memory(g, 0x30000), "hello world", 12);
    memcpy(guest_memory(g, 0x31000), "hello earth", 12);
    guest_code(g, GUEST_CODE, "f3a6 f2ae");
    cpu->gpr[GPR_RSI] = 0x30000;
    cpu->gpr[GPR_RDI] = 0x31000;
    cpu->gpr[GPR_RCX] = 12;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(cpu->gpr[GPR_RCX], 5);
    assert_int_equal(cpu->gpr[GPR_RSI], 0x30007);
    assert_false(cpu->rflags & (RFLAGS_ZF | RFLAGS_CF)); /* 'w' above 'e' */
    cpu->gpr[GPR_RDI] = 0x30000;
    cpu->gpr[GPR_RCX] = UINT64_MAX;
    cpu->gpr[GPR_RAX] = 0;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(cpu->gpr[GPR_RDI], 0x3000c);
    assert_int_equal(cpu->gpr[GPR_RCX], UINT64_MAX - 12);
    assert_true(cpu->rflags & RFLAGS_ZF);
    /* RCX = 0: nothing happens, flags stay */
    cpu->gpr[GPR_RCX] = 0;
    cpu->rip = GUEST_CODE;
    assert_int_equal(guest_step(g, 1), -1);
    assert_true(cpu->rflags & RFLAGS_ZF);
    assert_int_equal(cpu->gpr[GPR_RDI], 0x3000c);
    guest_free(g);
}

/* In 16-bit code SI, DI and CX are used, and wrap. */
static void test_string_16(void **state)
{
    struct guest *g = guest_new(REAL16);
    struct cpu *cpu = g->cpu;

    cpu->seg[SEG_ES].base = 0x10000;
    cpu->gpr[GPR_RSI] = 0xaaaa0000 | GUEST_DATA;
    cpu->gpr[GPR_RDI] = 0xfffe;
    cpu->gpr[GPR_RCX] = 0x10002;
    memcpy(guest_memory(g, GUEST_DATA), "wxyz", 4);
    guest_code(g, GUEST_CODE, "f3a5");
    assert_int_equal(guest_step(g, 1), -1);
    assert_memory_equal(guest_memory(g, 0x1fffe), "wx", 2);
    assert_memory_equal(guest_memory(g, 0x10000), "yz", 2);
    assert_int_equal(cpu->gpr[GPR_RSI], 0xaaaa0000 | (GUEST_DATA + 4));
    assert_int_equal(cpu->gpr[GPR_RDI], 2);
    assert_int_equal(cpu->gpr[GPR_RCX], 0x10000);
    guest_free(g);
}

/* The source's segment can be overridden, the destination's not. */
static void test_string_segment(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->seg[SEG_FS].base = 0x1000;
    cpu->gpr[GPR_RSI] = 0x30000;
    cpu->gpr[GPR_RDI] = 0x32000;
    *guest_memory(g, 0x31000) = 0x42;
    guest_code(g, GUEST_CODE, "64a4");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(*guest_memory(g, 0x32000), 0x42);
    guest_free(g);
}

/* ---- between instructions ----------------------------------------------------------------- */

static int pending_vector = -1;
static unsigned acknowledged;

static int acknowledge(void *opaque)
{
    struct guest *g = opaque;
    int v = pending_vector;

    pending_vector = -1;
    acknowledged++;
    cpu_retract(g->cpu, CPU_EVENT_INTR);
    return v;
}

static struct guest *guest_with_interrupts(const char *code)
{
    struct guest *g = guest_new(LONG64);

    g->cpu->intc.opaque = g;
    g->cpu->intc.acknowledge = acknowledge;
    acknowledged = 0;
    guest_code(g, GUEST_CODE, code);
    return g;
}

static void test_interrupt(void **state)
{
    struct guest *g = guest_with_interrupts("90 90 90 90");
    struct cpu *cpu = g->cpu;

    pending_vector = 9;
    cpu_post(cpu, CPU_EVENT_INTR);
    assert_int_equal(guest_step(g, 1), -1); /* IF clear */
    assert_int_equal(cpu->rip, GUEST_CODE + 1);
    cpu->rflags |= RFLAGS_IF;
    cpu->sti_shadow = true;
    assert_int_equal(guest_step(g, 1), -1); /* shadow */
    assert_int_equal(cpu->rip, GUEST_CODE + 2);
    assert_int_equal(guest_step(g, 1), 9);
    assert_false(cpu->rflags & RFLAGS_IF);
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP]), 8), GUEST_CODE + 2);
    assert_int_equal(acknowledged, 1);
    /* Spurious: the instruction runs. */
    cpu->rflags |= RFLAGS_IF;
    cpu->rip = GUEST_CODE;
    cpu_post(cpu, CPU_EVENT_INTR);
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(cpu->rip, GUEST_CODE + 1);
    guest_free(g);
}

static void test_nmi(void **state)
{
    struct guest *g = guest_with_interrupts("90 90 90 90");
    struct cpu *cpu = g->cpu;

    cpu_post(cpu, CPU_EVENT_NMI);
    cpu->movss_shadow = true;
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(guest_step(g, 1), EXC_NMI);
    assert_true(cpu->nmi_blocked);
    cpu->rip = GUEST_CODE;
    cpu_post(cpu, CPU_EVENT_NMI);
    assert_int_equal(guest_step(g, 1), -1); /* until IRET */
    guest_free(g);
}

static void test_exit_events(void **state)
{
    struct guest *g = guest_with_interrupts("ebfe");

    cpu_post(g->cpu, CPU_EVENT_EXIT);
    assert_int_equal(interp_run(g->cpu), INTERP_EVENT);
    cpu_retract(g->cpu, CPU_EVENT_EXIT);
    assert_int_equal(interp_step(g->cpu, 1000), INTERP_OK);
    assert_int_equal(interp_count(g->cpu), 1000);
    g->cpu->activity = CPU_HALTED;
    assert_int_equal(interp_run(g->cpu), INTERP_HALTED);
    g->cpu->activity = CPU_WAIT_SIPI;
    assert_int_equal(interp_run(g->cpu), INTERP_HALTED);
    guest_free(g);
}

static void test_triple_fault(void **state)
{
    struct guest *g = guest_new(LONG64);

    g->cpu->idtr.limit = 0;
    guest_code(g, GUEST_CODE, "0f0b");
    assert_int_equal(interp_run(g->cpu), INTERP_SHUTDOWN);
    guest_free(g);
}

static void test_flush_event(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    cpu->gpr[GPR_RBX] = 0x30000;
    guest_code(g, GUEST_CODE, "8a03 ebfc");
    *guest_memory(g, 0x30000) = 1;
    *guest_memory(g, 0x31000) = 2;
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(cpu->gpr[GPR_RAX], 1);
    store_le(guest_memory(g, 0x13000 + 0x30 * 8), 0x31007, 8);
    cpu_post(cpu, CPU_EVENT_FLUSH);
    assert_int_equal(guest_step(g, 2), -1);
    assert_int_equal(cpu->gpr[GPR_RAX], 2);
    guest_free(g);
}

static void test_single_step(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "90 90");
    cpu->rflags |= RFLAGS_TF;
    assert_int_equal(guest_step(g, 2), EXC_DB); /* the instruction, and the trap */
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP]), 8), GUEST_CODE + 1);
    assert_true(cpu->dr[6] & 1 << 14);
    assert_false(cpu->rflags & RFLAGS_TF);
    /* A repeated string instruction traps after each iteration. */
    guest_code(g, GUEST_CODE, "f3aa");
    cpu->gpr[GPR_RDI] = 0x30000;
    cpu->gpr[GPR_RCX] = 3;
    cpu->rflags |= RFLAGS_TF;
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(cpu->gpr[GPR_RCX], 2);
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP]), 8), GUEST_CODE);
    guest_free(g);
}

static void test_breakpoints(void **state)
{
    struct guest *g = guest_new(LONG64);
    struct cpu *cpu = g->cpu;

    guest_code(g, GUEST_CODE, "90 90 8803 90");
    cpu->gpr[GPR_RBX] = GUEST_DATA;
    cpu->dr[0] = GUEST_CODE + 1;
    cpu->dr[1] = GUEST_DATA;
    cpu->dr[7] = 1 | 4 | 1 << 20; /* DR0: execute; DR1: write, one byte */
    assert_int_equal(guest_step(g, 2), EXC_DB);
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP]), 8), GUEST_CODE + 1);
    assert_true(cpu->dr[6] & 1);
    assert_false(load_le(guest_memory(g, cpu->gpr[GPR_RSP] + 16), 8) & RFLAGS_RF);
    /* As IRET would go back, with RF: past it, to the store, which traps after it was done. */
    cpu->dr[6] = 0;
    cpu->rip = GUEST_CODE + 1;
    cpu->rflags |= RFLAGS_RF;
    cpu->gpr[GPR_RAX] = 0x77;
    assert_int_equal(guest_step(g, 3), EXC_DB);
    assert_int_equal(load_le(guest_memory(g, cpu->gpr[GPR_RSP]), 8), GUEST_CODE + 4);
    assert_int_equal(cpu->dr[6] & 0xf, 2);
    assert_int_equal(*guest_memory(g, GUEST_DATA), 0x77);
    guest_free(g);
}

static void test_pending_delivery(void **state)
{
    struct guest *g = guest_with_interrupts("90");

    g->cpu->pending_vector = 5;
    g->cpu->pending_kind = INTERRUPT_EXTERNAL;
    assert_int_equal(guest_step(g, 1), 5);
    assert_int_equal(g->cpu->pending_vector, -1);
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_code_changes_itself),
        cmocka_unit_test(test_mode_is_part_of_the_cache),
        cmocka_unit_test(test_instruction_over_two_pages),
        cmocka_unit_test(test_fetch_fault),
        cmocka_unit_test(test_segment_end),
        cmocka_unit_test(test_fetch_from_nowhere),
        cmocka_unit_test(test_faults_leave_no_trace),
        cmocka_unit_test(test_update_over_two_pages),
        cmocka_unit_test(test_segment_limits),
        cmocka_unit_test(test_alignment_check),
        cmocka_unit_test(test_rep_movs),
        cmocka_unit_test(test_rep_fault),
        cmocka_unit_test(test_rep_is_interruptible),
        cmocka_unit_test(test_rep_compare),
        cmocka_unit_test(test_string_16),
        cmocka_unit_test(test_string_segment),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_nmi),
        cmocka_unit_test(test_exit_events),
        cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_flush_event),
        cmocka_unit_test(test_single_step),
        cmocka_unit_test(test_breakpoints),
        cmocka_unit_test(test_pending_delivery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
