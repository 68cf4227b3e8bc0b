/*
 * smm.c - SMI, the state it saves, RSM, moving SMBASE; built for 32 and 64 bits. Port 0xb2 makes
 * an SMI.
 */
#include "kernel.h"

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
        " movl 24(%esi), %eax; testl %eax, %eax; jz 1f\n"
        " cs; movl %eax, 0xff00; cs; movl %eax, 0xfef8\n" /* a new SMBASE */
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
    expect("an NMI is not blocked afterwards", attempt(nmi, 0), NMI);
}
