/*
 * triple.c - a fault in the delivery of a double fault shuts the processor down. Built once for
 * each way there; the runner ends the test when the shutdown comes that port 0xf5 announced.
 */
#include "kernel.h"

void test(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) none = {0, 0};

    outb(0xf5, 1);
#if defined(NO_IDT)
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
#elif defined(BAD_STACK)
    __asm__ volatile("mov %0, %%rsp; push %%rax" : : "r"((word)1 << 60), "m"(none));
#else
    idt[2 * GP] = idt[2 * DF] = 0; /* #NP in #GP, #NP in #DF */
    __asm__ volatile("mov %0, %%ds" : : "r"(0xfff8), "m"(none));
#endif
    outb(0xf5, 0);
    expect("this point is not reached", 1, 0);
}
