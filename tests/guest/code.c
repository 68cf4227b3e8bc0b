/*
 * code.c - self-modifying code: the next instruction, through another mapping, across pages, by
 * string instructions; built for 32 and 64 bits.
 */
#include "kernel.h"

static u8 room[3 * 4096] __attribute__((aligned(4096)));

static word run(const volatile u8 *at)
{
    return ((word(*)(void))(word)at)();
}

/* mov eax, n; ret */
static void emit(volatile u8 *at, u32 n)
{
    at[0] = 0xb8;
    at[1] = (u8)n;
    at[2] = (u8)(n >> 8);
    at[3] = (u8)(n >> 16);
    at[4] = (u8)(n >> 24);
    at[5] = 0xc3;
}

void test(void)
{
    volatile u8 *p = room;
    word v, sum = 0;

    emit(p, 1);
    expect("new code", run(p), 1);
    emit(p, 2);
    expect("code changed", run(p), 2);
    p[1] = 3;
    expect("one byte of an immediate", run(p), 3);
    p[0] = 0x90; /* nop, then the old immediate as instructions: 03 00 = add eax, [eax] */
    p[1] = 0x31;
    p[2] = 0xc0;
    p[3] = p[4] = 0x90;
    expect("other instructions", run(p), 0);
    for (unsigned i = 0; i < 1000; i++) {
        p[0] = 0xb8;
        emit(p, i);
        sum += run(p);
    }
    expect("a thousand changes", sum, 999 * 1000 / 2);

    /* An instruction that changes the one behind it. */
    __asm__ volatile("movb $5, 1f+1\n .byte 0xeb, 0\n 1: mov $1, %%al\n movzbl %%al, %k0"
                     : "=a"(v)
                     :
                     : "memory");
    expect("a store into what follows a jump", v, 5);

    emit(p + 4096 - 3, 0x11223344);
    expect("code over a page boundary", run(p + 4096 - 3), 0x11223344);
    p[4096] = 0x55; /* second byte of the second page's part of the immediate */
    expect("changed in the second page", run(p + 4096 - 3), 0x11553344);
    p[4094] = 0x66;
    expect("changed in the first", run(p + 4096 - 3), 0x11553366);

    emit(p, 7);
    emit(p + 8192, 8);
    v = run(p);
    {
        volatile u8 *from = p + 8192, *to = p;
        word n = 6;

        __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
    }
    expect("REP MOVSB over code", run(p) * 16 + v, 8 * 16 + 7);
    emit(p, 9);
    v = run(p);
    {
        u32 old = *(volatile u32 *)p, new = (old & 0xffff00ff) | 0x0a00;

        __asm__ volatile("lock cmpxchg %2, %1" : "+a"(old), "+m"(*(volatile u32 *)p) : "r"(new));
    }
    expect("LOCK CMPXCHG on code", run(p), 10);

    /* REP STOSB that overwrites itself: the instruction ends as it began. */
    {
        volatile u8 *q = p + 64;

        q[0] = 0xf3;
        q[1] = 0xaa;
        q[2] = 0xc3;
        for (unsigned i = 3; i < 16; i++)
            q[i] = 0x90;
        {
            volatile u8 *to = q + 3;
            word n = 8;

            __asm__ volatile("call *%2" : "+D"(to), "+c"(n) : "r"(q), "a"(0xc3) : "memory");
        }
        expect("REP STOSB right behind itself", q[10], 0xc3);
    }
}
