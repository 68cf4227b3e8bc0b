/*
 * vm86.c - virtual-8086 mode: entry and exit, what traps, VME's virtual interrupt flag and
 * redirection; 32-bit.
 */
#include "kernel.h"

enum { CODE = 0x8000, STACK_SEG = 0x900, IF = 1 << 9, VM = 1 << 17, VIF = 1 << 19, VIP = 1 << 20 };
enum { IOPL3 = 3 << 12, CR4_VME = 1 };

static void put(unsigned at, const u8 *code, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        ((volatile u8 *)(word)at)[i] = code[i];
}

__attribute__((noreturn)) static void enter_at(word flags, word ip)
{
    /* GS FS DS ES SS ESP EFLAGS CS EIP: CS 0700:1000 = 0x8000 */
    __asm__ volatile("pushl $0x104; pushl $0x103; pushl $0x102; pushl $0x101; pushl $0x900; "
                     "pushl $0x1f0; pushl %0; pushl $0x700; pushl %1; iret"
                     :
                     : "r"(flags | VM | 2), "r"(ip));
    __builtin_unreachable();
}

static void enter_far(word ip)
{
    enter_at(0, ip);
}

static word run_code(word flags, const u8 *code, unsigned size)
{
    put(CODE, code, size);
    trap.vector = NONE;
    trap.error = 0;
    if (!protect())
        enter_at(flags, 0x1000);
    return trap.vector;
}
#define RUN(flags, ...)                                                                            \
    ({                                                                                             \
        static const u8 code_[] = {__VA_ARGS__};                                                   \
        run_code(flags, code_, sizeof(code_));                                                     \
    })
#define INT80 0xcd, 0x80
#define UD2   0x0f, 0x0b

static volatile word *frame(void)
{
    return (volatile word *)trap.frame; /* vector error IP CS flags SP SS ES DS FS GS */
}

void test(void)
{
    word v;

    expect("INT n with IOPL 3 goes through the IDT", RUN(IOPL3, INT80), 0x80);
    expect("IP", trap.ip, 0x1002);
    expect("CS", trap.cs & 0xffff, 0x700);
    expect("VM pushed", trap.flags & VM, VM);
    expect("SP", trap.sp, 0x1f0);
    expect("SS", trap.ss & 0xffff, 0x900);
    expect("ES", frame()[7] & 0xffff, 0x101);
    expect("DS", frame()[8] & 0xffff, 0x102);
    expect("FS", frame()[9] & 0xffff, 0x103);
    expect("GS", frame()[10] & 0xffff, 0x104);
    expect("the frame starts at ESP0", trap.frame, (word)exception_stack_top - 11 * 4);
    expect("handler's SS", trap.handler_ss & 0xffff, 0x10);
    v = RUN(0, INT80);
    expect("INT n with IOPL 0", v << 16 | trap.error, GP << 16);
    expect("INT3 goes through the IDT whatever IOPL",
           (idt_set(3, stubs[3], 8, 0xee, 0), RUN(0, 0xcc)), BP);
    expect("CLI", RUN(0, 0xfa), GP);
    expect("STI", RUN(0, 0xfb), GP);
    expect("PUSHF", RUN(0, 0x9c), GP);
    expect("POPF", RUN(0, 0x9d), GP);
    expect("IRET", RUN(0, 0xcf), GP);
    expect("HLT", RUN(IOPL3, 0xf4), GP);
    expect("MOV CR0", RUN(IOPL3, 0x0f, 0x20, 0xc0), GP);
    expect("LLDT", RUN(IOPL3, 0x0f, 0x00, 0xd0), UD);
    expect("LAR", RUN(IOPL3, 0x0f, 0x02, 0xc0), UD);
    expect("IN of an open port", RUN(0, 0xe4, 0xe9, UD2), UD);
    tss_area[0x88 + 0x70 / 8] = 1;
    expect("IN of a closed port, IOPL 3", RUN(IOPL3, 0xe4, 0x70, UD2), GP);
    tss_area[0x88 + 0x70 / 8] = 0;
    /* mov ax, 0xb800/16...: segment arithmetic: ds = 0x7f0, [0x100] = 0x8000 */
    *(volatile u8 *)0x8200 = 0x5a;
    expect(
        "segments are selector * 16",
        (RUN(0, 0xb8, 0xf0, 0x07, 0x8e, 0xd8, 0x31, 0xc0, 0xa0, 0x00, 0x03, UD2), trap.ax & 0xff),
        0x5a);
    expect("limits are 64 KiB", RUN(0, 0x66, 0xbb, 0, 0, 1, 0, 0x67, 0x8a, 0x03), GP);
    v = RUN(IOPL3, 0x9c, 0x58, UD2); /* pushf; pop ax */
    expect("PUSHF with IOPL 3", trap.ax & 0xf000, 0x3000);
    RUN(IOPL3, 0x68, 0x00, 0x00, 0x9d, 0x9c, 0x58, UD2);
    expect("POPF cannot change IOPL", trap.ax & 0x3000, 0x3000);
    RUN(IOPL3, 0x9a, 0x05, 0x10, 0x00, 0x07, 0x58, 0x5b, UD2); /* call 0700:1005; pop ax; pop bx */
    expect("a far call pushes IP", trap.ax & 0xffff, 0x1005);
    expect("IRET with IOPL 3",
           RUN(IOPL3, 0x9c, 0x68, 0x00, 0x07, 0x68, 0x0a, 0x10, 0xcf, 0x90, 0x90, UD2), UD);

    WRITE_CR(4, READ_CR(4) | CR4_VME);
    expect("VME: CLI", RUN(VIF, 0xfa, UD2), UD);
    expect("clears VIF", trap.flags & VIF, 0);
    expect("VME: STI", RUN(0, 0xfb, UD2), UD);
    expect("sets VIF, not IF", trap.flags & (VIF | IF), VIF);
    expect("VME: STI with VIP", RUN(VIP, 0xfb, UD2), GP);
    RUN(VIF, 0x9c, 0x58, UD2);
    expect("VME: PUSHF shows VIF as IF, IOPL 3", trap.ax & 0x3200, 0x3200);
    RUN(0, 0x68, 0x00, 0x02, 0x9d, UD2);
    expect("VME: POPF sets VIF", trap.flags & (VIF | IF), VIF);
    expect("VME: POPF with TF", RUN(0, 0x68, 0x00, 0x01, 0x9d, UD2), GP);
    expect("VME: 32-bit PUSHFD", RUN(0, 0x66, 0x9c), GP);
    /* INT 0x21 stays in the 8086 program: vector at 0x84 -> 0700:1040 */
    tss_area[0x68 + 0x21 / 8] = 0;
    *(volatile u32 *)(0x21 * 4) = 0x07001040;
    put(CODE + 0x40, (const u8[]){0x58, 0x5b, 0x59, UD2}, 5); /* pop ax (IP), bx (CS), cx */
    expect("VME: INT n redirected", RUN(VIF, 0xcd, 0x21), UD);
    expect("IP on the stack of the 8086", trap.ax & 0xffff, 0x1002);
    expect("VIF cleared", trap.flags & VIF, 0);
    tss_area[0x68 + 0x21 / 8] = 1 << (0x21 & 7);
    expect("VME: INT n not redirected, IOPL 0", RUN(VIF, 0xcd, 0x21), GP);
    idt_set(0x21, stubs[0x21], 8, 0xee, 0);
    expect("VME: INT n not redirected, IOPL 3", RUN(IOPL3, 0xcd, 0x21), 0x21);
    WRITE_CR(4, READ_CR(4) & ~(word)CR4_VME);

    v = attempt(enter_far, 0x11000);
    expect("IRET to an EIP above 64 KiB", v << 16 | trap.error, GP << 16);
    expect("is a fault of ring 0", trap.cs & 0xffff, 0x08);

    gdt[0x60 / 8] = descriptor(0, 0xfffff, 0x9f, 12);
    idt_set(0x22, stubs[0x22], 0x60, 0xee, 0);
    v = RUN(IOPL3, 0xcd, 0x22);
    expect("a gate to conforming code", v << 16 | trap.error, GP << 16 | 0x60);
}
