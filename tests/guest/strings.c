/*
 * strings.c - string instructions that fault half way: registers say how far they came, and the
 * instruction goes on after the page is mapped; 64-bit.
 */
#include "kernel.h"

enum { WINDOW = 0x40000000, PAGE = 4096 };

static u64 table[512] __attribute__((aligned(4096))), pages[3][512] __attribute__((aligned(4096)));
static volatile word rdi, rcx, faults, fault_cr2, fault_error;

static void map(unsigned n, bool present)
{
    table[n] = present ? (word)pages[n] | 3 : 0;
    invlpg(WINDOW + n * PAGE);
}

static void on_fault(word *frame)
{
    faults++;
    fault_cr2 = READ_CR(2);
    fault_error = frame[1];
    if (frame[0] != PF) {
        trap_resume = 0;
        return;
    }
    map((unsigned)((fault_cr2 - WINDOW) / PAGE), true);
}

static void fill(word x)
{
    rdi = WINDOW + x;
    rcx = 6000;
    __asm__ volatile("rep stosb" : "+D"(rdi), "+c"(rcx) : "a"(0x5a) : "memory");
}

static void interrupted_state(word x)
{
    word to = WINDOW + 100, n = 6000;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x5a) : "memory");
}

/* The registers at the fault: collected by an exception stub of our own. */
volatile word at_fault[4];
void catch_registers(void);
__asm__(".text\n"
        "catch_registers: mov %rcx, at_fault; mov %rsi, at_fault+8; mov %rdi, at_fault+16\n"
        " push $14; jmp collect\n");

static void copy(word x)
{
    word from = WINDOW, to = WINDOW + PAGE - 10, n = 100;

    __asm__ volatile("rep movsw" : "+S"(from), "+D"(to), "+c"(n) : : "memory", "cc");
}
static void copy_down(word x)
{
    word from = WINDOW + 2 * PAGE - 1, to = WINDOW + PAGE + 9, n = 100;

    __asm__ volatile("std; rep movsb; cld" : "+S"(from), "+D"(to), "+c"(n) : : "memory", "cc");
}
static void compare(word x)
{
    word from = WINDOW, to = WINDOW + PAGE - 50, n = 100;

    __asm__ volatile("repe cmpsb" : "+S"(from), "+D"(to), "+c"(n) : : "memory", "cc");
}

void test(void)
{
    u64 pde_before = boot_pd[512];

    /* 0x40000000 is the first entry of the second page directory. */
    boot_pd[512] = (word)table | 7;
    WRITE_CR(3, READ_CR(3));
    trap_action = on_fault;
    trap_resume = 1;
    map(0, true);
    map(1, false);
    fill(100);
    expect("REP STOSB faulted once", faults, 1);
    expect("where the second page starts", fault_cr2, WINDOW + PAGE);
    expect("a write to an absent page", fault_error, 2);
    expect("RDI at the end", rdi, WINDOW + 6100);
    expect("RCX at the end", rcx, 0);
    expect("the last byte of the first page", ((volatile u8 *)pages[0])[PAGE - 1], 0x5a);
    expect("the last byte", ((volatile u8 *)pages[1])[6099 - PAGE], 0x5a);
    expect("not the one behind", ((volatile u8 *)pages[1])[6100 - PAGE], 0);
    trap_resume = 0;

    idt_set(PF, (void *)catch_registers, 0x18, 0x8e, 0);
    map(1, false);
    expect("REP STOSB again", attempt(interrupted_state, 0), PF);
    expect("RCX counts what is left", at_fault[0], 6000 - (PAGE - 100));
    expect("RDI points at the fault", at_fault[2], WINDOW + PAGE);
    expect("REP MOVSW", attempt(copy, 0), PF);
    expect("RCX", at_fault[0], 95);
    expect("RSI", at_fault[1], WINDOW + 10);
    expect("RDI", at_fault[2], WINDOW + PAGE);
    map(1, true);
    map(0, false);
    expect("REP MOVSB downwards", attempt(copy_down, 0), PF);
    expect("CR2", trap.cr2, WINDOW + PAGE - 1);
    expect("RCX", at_fault[0], 90);
    expect("RDI", at_fault[2], WINDOW + PAGE - 1);
    map(0, true);
    map(1, false);
    for (unsigned i = 0; i < 512; i++)
        pages[0][i] = 0;
    expect("REPE CMPSB", attempt(compare, 0), PF);
    expect("RCX", at_fault[0], 50);
    expect("error: a read", trap.error, 0);
    boot_pd[512] = pde_before;
    WRITE_CR(3, READ_CR(3));
}
