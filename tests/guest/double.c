/*
 * double.c - faults within the delivery of faults (SDM vol. 3, table 6-5): which make a double
 * fault, which are delivered one after the other; 64-bit, with the double fault on a stack of its
 * own.
 *
 * A fault is made to fault in delivery by its own gate: one that is absent (#NP), to a bad segment
 * (#GP), with a bad stack (#SS), or in a part of the IDT whose page is not there (#PF).
 */
#include "kernel.h"

enum { HOLE = 0xc00000, IDT_AREA = 0xa00000 }; /* 2 MiB pages of their own */

static u8 ist1[4096] __attribute__((aligned(16)));

struct table {
    u16 limit;
    u64 base;
} __attribute__((packed));

static void idt_at(u64 base)
{
    struct table t = {sizeof(idt) - 1, base};

    __asm__ volatile("lidt %0" : : "m"(t));
}

static void make_de(word x)
{
    __asm__ volatile("xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div %%ecx"
                     :
                     :
                     : "eax", "ecx", "edx");
}
static void make_ud(word x)
{
    __asm__ volatile("ud2");
}
static void make_gp(word x)
{
    __asm__ volatile("mov %0, %%ds" : : "r"(0xfff8));
}
static void make_np(word x)
{
    __asm__ volatile("mov %0, %%ds" : : "r"(0x60));
}
static void make_pf(word at)
{
    (void)*(volatile u8 *)at;
}
static void make_int(word x)
{
    __asm__ volatile("int $0x90");
}
static void stack_in_hole(word x)
{
    __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"((word)HOLE + 4096));
}
static void interrupt_on_bad_stack(word x)
{
    __asm__ volatile("mov %0, %%rsp; outb %%al, $0xb4; sti; nop; nop"
                     :
                     : "r"((word)HOLE + 4096), "a"(0x95));
}

/* What delivery of `vector` will meet. */
enum trouble { FINE, ABSENT, BAD_CODE, NULL_CODE, BAD_IST };

static void trouble_set(unsigned vector, enum trouble t)
{
    idt_set(vector, stubs[vector],
            t == BAD_CODE    ? 0x10
            : t == NULL_CODE ? 0
                             : 0x18,
            t == ABSENT ? 0x0e : 0x8e, t == BAD_IST ? 2 : 0);
}

static void check(const char *name, void (*f)(word), word x, word vector, word error)
{
    word got = attempt(f, x);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

static void by_gates(void)
{
    *(volatile u64 *)(tss_area + 0x2c) = (u64)1 << 60; /* IST 2: not canonical, #SS */

    trouble_set(GP, ABSENT);
    check("#NP in the delivery of #GP", make_gp, 0, DF, 0);
    trouble_set(GP, BAD_CODE);
    check("#GP in the delivery of #GP", make_gp, 0, DF, 0);
    trouble_set(GP, BAD_IST);
    check("#SS in the delivery of #GP", make_gp, 0, DF, 0);
    trouble_set(GP, FINE);
    trouble_set(DE, ABSENT);
    check("#NP in the delivery of #DE", make_de, 0, DF, 0);
    trouble_set(DE, FINE);
    gdt[0x60 / 8] = descriptor(0, 0xfffff, 0x12, 12);
    trouble_set(NP, BAD_CODE);
    check("#GP in the delivery of #NP", make_np, 0, DF, 0);
    trouble_set(NP, FINE);

    trouble_set(UD, ABSENT);
    check("#NP in the delivery of #UD is an #NP", make_ud, 0, NP, UD * 8 + 3);
    trouble_set(UD, BAD_CODE);
    check("#GP in the delivery of #UD is a #GP", make_ud, 0, GP, 0x11);
    trouble_set(UD, NULL_CODE);
    check("a null CS there: the error code is EXT alone", make_ud, 0, GP, 1);
    trouble_set(UD, BAD_IST);
    check("#SS in the delivery of #UD is an #SS", make_ud, 0, SS, 1);
    trouble_set(NP, ABSENT);
    trouble_set(UD, ABSENT);
    check("#UD, #NP, and again: a double fault", make_ud, 0, DF, 0);
    trouble_set(NP, FINE);
    trouble_set(UD, FINE);
    trouble_set(0x90, ABSENT);
    check("INT n is benign, and not external", make_int, 0, NP, 0x90 * 8 + 2);
    trouble_set(0x90, FINE);

    trouble_set(PF, ABSENT);
    check("#NP in the delivery of #PF", make_pf, HOLE, DF, 0);
    expect("CR2 is the first one's", trap.cr2, HOLE);
    trouble_set(PF, BAD_CODE);
    check("#GP in the delivery of #PF", make_pf, HOLE + 8, DF, 0);
    trouble_set(PF, BAD_IST);
    check("#SS in the delivery of #PF", make_pf, HOLE + 8, DF, 0);
    trouble_set(PF, FINE);
}

/* Entries below `vector` in a page that is not there, the rest in one that is; or the reverse. */
static void split(unsigned vector, bool low_missing)
{
    u64 base = (low_missing ? HOLE + 0x200000 : HOLE) - 16 * vector;

    for (unsigned i = 0; i < 512; i++)
        if ((i / 2 < vector) != low_missing)
            ((volatile u64 *)base)[i] = idt[i];
    idt_at(base);
}

static void by_pages(void)
{
    split(PF, false); /* #PF's own gate is not there */
    check("#PF in the delivery of #PF: the IDT", make_pf, HOLE + 0x5000, DF, 0);
    expect("CR2 is the second one's", trap.cr2, HOLE);
    check("#UD is unharmed", make_ud, 0, UD, 0);
    split(PF, true); /* those before #PF */
    check("#PF in the delivery of #UD is a #PF", make_ud, 0, PF, 0);
    expect("CR2 is the gate", trap.cr2, HOLE + 0x200000 - 16 * (PF - UD));
    expect("and it points at the UD2", trap.ip - (word)make_ud < 16, 1);
    check("#PF in the delivery of #GP is a #PF", make_gp, 0, PF, 0);
    expect("CR2 is that gate", trap.cr2, HOLE + 0x200000 - 16);
    split(0x90, false);
    check("INT n whose gate is not there", make_int, 0, PF, 0);
    expect("CR2 is its gate", trap.cr2, HOLE);
    idt_at((u64)idt);

    check("#PF on the stack of a #PF", stack_in_hole, 0, DF, 0);
    expect("CR2 is the stack", trap.cr2 >= HOLE && trap.cr2 < HOLE + 4096, 1);
    check("an interrupt on a stack that is not there", interrupt_on_bad_stack, 0, DF, 0);
    idt_set(PF, stubs[PF], 0x18, 0x8e, 1);
    check("the same with a stack for #PF", interrupt_on_bad_stack, 0, PF, 2);
    check("a push there", stack_in_hole, 0, PF, 2);
    idt_set(PF, stubs[PF], 0x18, 0x8e, 0);
}

void test(void)
{
    u64 *pd = (u64 *)boot_pd;

    *(volatile u64 *)(tss_area + 0x24) = (u64)(ist1 + sizeof(ist1));
    idt_set(DF, stubs[DF], 0x18, 0x8e, 1);
    pd[HOLE >> 21] = 0;
    invlpg(HOLE);
    by_gates();
    by_pages();
}
