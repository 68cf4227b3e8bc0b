/*
 * debug.c - single steps, hardware breakpoints, general detect, INT1. Built for 32 and 64 bits.
 */
#include "kernel.h"

enum { TF = 1 << 8, RF = 1 << 16, BS = 1 << 14, BD = 1 << 13 };

static volatile u32 count, data[4];
static volatile bool by_branch;
static volatile word last_ip, last_dr6, last_flags;

static volatile u64 seen_debugctl;

static void on_debug(word *frame)
{
    count++;
    last_ip = frame[2];
    last_dr6 = READ_DR(6);
    last_flags = frame[4];
    WRITE_DR(6, 0xffff0ff0);
    if (by_branch) {
        seen_debugctl |= rdmsr(0x1d9);
        wrmsr(0x1d9, 2);
    }
    if (frame[0] != DB)
        trap_resume = 0;
    if (last_dr6 & 0xf && READ_DR(7) >> 16 == 0)
        frame[4] |= RF; /* do not meet an instruction breakpoint again */
}

extern const u8 step_end[], step_first[], ss_end[], at_nop[], behind_write[], behind_gd[], at_gd[],
    behind_int1[];

static void steps(void)
{
    count = 0;
    __asm__ volatile("pushf\n"
#ifdef __x86_64__
                     " orq $0x100, (%%rsp)\n"
#else
                     " orl $0x100, (%%esp)\n"
#endif
                     " popf\n step_first: nop\n nop\n xor %%eax, %%eax\n pushf\n"
#ifdef __x86_64__
                     " andq $~0x100, (%%rsp)\n"
#else
                     " andl $~0x100, (%%esp)\n"
#endif
                     " popf\n step_end: nop\n"
                     :
                     :
                     : "eax", "memory", "cc");
    expect("single steps: one after each instruction, POPF that clears TF too", count, 6);
    expect("the last is behind POPF", last_ip, (word)step_end);
    expect("DR6 has BS", last_dr6 & 0xe00f, BS);
    expect("TF was on in the image or just cleared", last_flags & TF, 0);
}

/* DEBUGCTL.BTF: behind each branch that is taken; #DB clears it. */
static void branches(void)
{
    count = 0;
    by_branch = true;
    wrmsr(0x1d9, 2);
    __asm__ volatile("pushf\n"
#ifdef __x86_64__
                     " orq $0x100, (%%rsp)\n"
#else
                     " orl $0x100, (%%esp)\n"
#endif
                     " popf\n nop\n nop\n jmp 1f\n nop\n 1: cmp %%eax, %%eax\n jne 2f\n je 2f\n"
                     " nop\n 2: call 3f\n 3:"
#ifdef __x86_64__
                     " pop %%rax\n pushf\n"
#else
                     " pop %%eax\n pushf\n"
#endif
#ifdef __x86_64__
                     " andq $~0x100, (%%rsp)\n"
#else
                     " andl $~0x100, (%%esp)\n"
#endif
                     " popf\n"
                     :
                     :
                     : "eax", "memory", "cc");
    by_branch = false;
    expect("single steps by branch: JMP, JE, CALL", count, 3);
    expect("#DB clears BTF", seen_debugctl, 0);
    wrmsr(0x1d9, 0);
}

static void mov_ss(void)
{
    count = 0;
    __asm__ volatile("mov %%ss, %%eax\n pushf\n"
#ifdef __x86_64__
                     " orq $0x100, (%%rsp)\n"
#else
                     " orl $0x100, (%%esp)\n"
#endif
                     " popf\n mov %%eax, %%ss\n nop\n ss_end: nop\n pushf\n"
#ifdef __x86_64__
                     " andq $~0x100, (%%rsp)\n"
#else
                     " andl $~0x100, (%%esp)\n"
#endif
                     " popf\n"
                     :
                     :
                     : "eax", "memory", "cc");
    expect("no single step behind MOV SS", count, 5);
}

static void breakpoints(void)
{
    count = 0;
    WRITE_DR(0, at_nop);
    WRITE_DR(7, 0x402); /* G0, execute */
    __asm__ volatile("mov $1, %%eax\n at_nop: nop\n nop" : : : "eax");
    expect("an instruction breakpoint", count, 1);
    expect("is a fault", last_ip, (word)at_nop);
    expect("DR6 has B0", last_dr6 & 0xe00f, 1);
    expect("RF is clear in the image", last_flags & RF, 0);

    count = 0;
    WRITE_DR(0, data);
    WRITE_DR(7, 0xd0402); /* 4 bytes, write */
    data[0] = 1;
    __asm__ volatile("behind_write: nop");
    expect("a data write", count, 1);
    expect("is a trap", last_ip <= (word)behind_write && last_ip > (word)behind_write - 8, 1);
    (void)data[0];
    expect("a read does not match", count, 1);
    ((volatile u8 *)data)[3] = 2;
    expect("the last of its bytes does", count, 2);
    data[1] = 3;
    expect("the next does not", count, 2);
    *(volatile u32 *)((u8 *)data + 2) = 5; /* overlaps, unaligned */
    expect("an overlapping one does", count, 3);
    WRITE_DR(7, 0xf0402); /* 4 bytes, read or write */
    (void)data[0];
    expect("read or write: a read", count, 4);
    data[0] = 1;
    expect("read or write: a write", count, 5);
    WRITE_DR(7, 0x10402); /* 1 byte, write */
    ((volatile u8 *)data)[1] = 1;
    expect("one byte: the next does not match", count, 5);
    ((volatile u8 *)data)[0] = 1;
    expect("one byte: itself", count, 6);
    {
        volatile void *to = data;
        word n = 8;

        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
    }
    expect("REP STOSB over it", count, 7);
    WRITE_DR(7, 0x400);
    data[0] = 9;
    expect("disabled", count, 7);

    WRITE_CR(4, READ_CR(4) | 8); /* DE */
    WRITE_DR(1, 0x80);
    WRITE_DR(7, 0x200408); /* G1, I/O */
    outb(0x80, 1);
    expect("an I/O breakpoint", count, 8);
    expect("DR6 has B1", last_dr6 & 0xe00f, 2);
    outb(0x81, 1);
    expect("another port", count, 8);
    WRITE_DR(7, 0x400);
    WRITE_CR(4, READ_CR(4) & ~(word)8);
}

static void others(void)
{
    count = 0;
    WRITE_DR(7, 0x2400); /* GD */
    __asm__ volatile("at_gd: mov %%dr0, %0" : "=r"(*(word *)&trap.sp));
    expect("general detect", count, 1);
    expect("is a fault", last_ip, (word)at_gd);
    expect("DR6 has BD", last_dr6 & 0xe00f, BD);
    expect("GD is cleared", READ_DR(7) & 0x2000, 0);

    count = 0;
    WRITE_DR(6, 0xffff0ff0);
    __asm__ volatile(".byte 0xf1\n behind_int1: nop");
    expect("INT1", count, 1);
    expect("is a trap", last_ip, (word)behind_int1);
    expect("DR6 says nothing", last_dr6 & 0xe00f, 0);
}

static void read_dr4(word x)
{
    word v;

    __asm__ volatile("mov %%db4, %0" : "=r"(v));
    trap.ax = v;
}

void test(void)
{
    trap_action = on_debug;
    trap_resume = 1;
    steps();
    branches();
    mov_ss();
    breakpoints();
    others();
    trap_resume = 0;
    WRITE_DR(6, 0xffff0ff0);
    expect("DR4 is DR6", attempt(read_dr4, 0), NONE);
    WRITE_CR(4, READ_CR(4) | 8);
    expect("DR4 with CR4.DE", attempt(read_dr4, 0), UD);
    WRITE_CR(4, READ_CR(4) & ~(word)8);
    WRITE_DR(7, 0);
    expect("DR7 bit 10 is one", READ_DR(7), 0x400);
    WRITE_DR(6, 0);
    expect("DR6 fixed bits", READ_DR(6), 0xffff0ff0);
}
