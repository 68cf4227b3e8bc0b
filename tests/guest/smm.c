/*
 * smm.c - SMI, the state it saves, RSM, moving SMBASE; built for 32 and 64 bits. Port 0xb2 makes
 * an SMI.
 */
#include "kernel.h"

/* Auto HALT restart, in the 64-bit map of AMD64 processors and the old one. */
#ifdef __x86_64__
#define HALT_FIELD "0xfec9"
#else
#define HALT_FIELD "0xff02"
#endif

/* Real-mode code at SMBASE + 0x8000, with 4 GiB data segments. */
void handler(void);
extern u8 handler_end[], handler_rsm[];
__asm__(".text\n.code16\n"
        "handler: movl $0x5000, %esi\n" /* where the report goes */
        " movl %cr0, %eax; movl %eax, (%esi)\n"
        " movw %cs, %ax; movw %ax, 4(%esi)\n"
        " pushfl_: movl $0x7000, %esp; pushfl; popl 8(%esi)\n"
        " movl %cr4, %eax; movl %eax, 12(%esi)\n"
        " movl $0x11223344, %ebx\n" /* must not reach the interrupted program */
        " cs; movl 0xfefc, %eax; movl %eax, 16(%esi)\n"
        " incl 20(%esi)\n"
        " movl 24(%esi), %eax; testl %eax, %eax; jz 2f\n"
        " cs; movl %eax, 0xff00; cs; movl %eax, 0xfef8\n" /* a new SMBASE */
        "2: movl 28(%esi), %eax; testl %eax, %eax; jz 1f\n"
        " cs; movb " HALT_FIELD ", %al; movb %al, 32(%esi)\n"
        " cmpl $2, 28(%esi); jne 1f\n" /* do not go back to the halt */
        " cs; movb $0, " HALT_FIELD "\n"
        "1: handler_rsm: rsm\n"
        "handler_end:\n"
#ifdef __x86_64__
        ".code64\n"
#else
        ".code32\n"
#endif
);

enum { REPORT = 0x5000, BASE = 0x30000 };

static volatile u32 *const report = (volatile u32 *)REPORT;

static void install(u32 base)
{
    for (const u8 *p = (const u8 *)handler; p < handler_end; p++)
        *(volatile u8 *)(word)(base + 0x8000 + (u32)(p - (const u8 *)handler)) = *p;
}

static void rsm(word x)
{
    __asm__ volatile("rsm");
}

static void nmi(word x)
{
    outb(0xb3, 0);
}

static volatile u32 interrupts;
static volatile word interrupted_ip;

static void on_interrupt(word *frame)
{
    interrupts++;
    interrupted_ip = frame[2];
}

extern const u8 behind_hlt[];

/* An SMI while halted, with an interrupt behind it: the handler comes first, and RSM goes back to
 * the halt, which the interrupt then ends; or, as the handler wants, behind it. */
static void halted(void)
{
    trap_action = on_interrupt;
    trap_resume = 1;
    report[5] = report[8] = 0;
    report[7] = 1;
    outb(0xb5, 0x95); /* an SMI, then that interrupt, at the next HLT */
    __asm__ volatile("sti; hlt; behind_hlt: cli" : : : "memory");
    expect("the handler ran in the halt", report[5], 1);
    expect("the saved state says halted", report[8] & 1, 1);
    expect("the interrupt ended it", interrupts, 1);
    expect("behind the HLT", interrupted_ip, (word)behind_hlt);
    report[7] = 2;
    outb(0xb5, 0); /* nothing but the SMI: only its handler can end the halt */
    __asm__ volatile("hlt" : : : "memory");
    expect("the handler ended the halt", report[5], 2);
    expect("without an interrupt", interrupts, 1);
    report[7] = 1;
    report[8] = 0xff;
    outb(0xb2, 0);
    expect("not halted: the field is clear", report[8] & 1, 0);
    report[7] = 0;
    trap_resume = 0;
}

static void step(word x)
{
#ifdef __x86_64__
    __asm__ volatile("pushf; orq $0x100, (%%rsp); popf; outb %%al, $0xb2; nop" : : "a"(0));
#else
    __asm__ volatile("pushf; orl $0x100, (%%esp); popf; outb %%al, $0xb2; nop" : : "a"(0));
#endif
}

static word flags(void)
{
    word f;

    __asm__ volatile("pushf; pop %0" : "=r"(f));
    return f;
}

void test(void)
{
    word cr0 = READ_CR(0), cr4 = READ_CR(4), before = flags(), b = 0x55aa55aa, si = 0x66, di = 0x77;
    u32 r[4];
    bool lm;

    cpuid(0x80000001, 0, r);
    lm = r[3] >> 29 & 1;
    expect("RSM outside of SMM", attempt(rsm, 0), UD);
    install(BASE);
    __asm__ volatile("outb %%al, $0xb2; nop" : "+b"(b), "+S"(si), "+D"(di) : "a"(0) : "memory");
    expect("the handler ran", report[5], 1);
    expect("EBX is back", b, 0x55aa55aa);
    expect("ESI is back", si, 0x66);
    expect("CR0", READ_CR(0), cr0);
    expect("CR4", READ_CR(4), cr4);
    expect("flags", flags() & ~0xd5ul, before & ~0xd5ul);
    expect("CR0 inside: no PE, no PG", report[0] & 0x80000001, 0);
    expect("CS inside is SMBASE / 16", report[1] & 0xffff, BASE >> 4);
    expect("EFLAGS inside", report[2] & ~0xd5u, 2);
    expect("CR4 inside", report[3], 0);
    expect("the map's revision", report[4], lm ? 0x20064 : 0x20000);
    report[6] = 0x40000;
    outb(0xb2, 0);
    report[6] = 0;
    expect("again", report[5], 2);
    for (unsigned i = 0; i < 0x40; i++)
        *(volatile u8 *)(word)(BASE + 0x8000 + i) = 0xf4;
    install(0x40000);
    outb(0xb2, 0);
    expect("at the new SMBASE", report[5], 3);
    expect("CS there", report[1] & 0xffff, 0x4000);
    halted();
    expect("a single step over an SMI", attempt(step, 0), DB);
    expect("an NMI is not blocked afterwards", attempt(nmi, 0), NMI);
}
