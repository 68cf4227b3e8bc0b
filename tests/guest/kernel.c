/* kernel.c - see kernel.h. */
#include "kernel.h"

void (*volatile trap_action)(word *frame);
volatile u64 idt[512] __attribute__((aligned(4096)));
u8 tss_area[0x2100] __attribute__((aligned(4096)));
u8 user_stack[4096] __attribute__((aligned(4096)));
static unsigned checks, failures;

void print(const char *s)
{
    while (*s)
        outb(0xe9, (u8)*s++);
}

void print_hex(u64 v)
{
    bool started = false;

    print("0x");
    for (int i = 60; i >= 0; i -= 4) {
        unsigned digit = v >> i & 15;

        if (digit || started || i == 0) {
            outb(0xe9, (u8)(digit < 10 ? '0' + digit : 'a' + digit - 10));
            started = true;
        }
    }
}

void expect(const char *name, u64 got, u64 want)
{
    checks++;
    if (got == want) {
        print("PASS ");
        print(name);
    } else {
        failures++;
        print("FAIL ");
        print(name);
        print(": got ");
        print_hex(got);
        print(", want ");
        print_hex(want);
    }
    print("\n");
}

void finish(void)
{
    print(failures || !checks ? "FAILED " : "PASSED ");
    print_hex(failures ? failures : checks);
    print(failures || !checks ? " of the checks\n" : " checks\n");
    outb(0xf4, failures || !checks);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void trap_hook(word *frame)
{
    if (trap_action)
        trap_action(frame);
}

u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(access & 0xff) << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)(flags & 15) << 52 | (u64)(base >> 24) << 56;
}

void idt_set(unsigned vector, const void *handler, u16 selector, unsigned type_dpl_p, unsigned ist)
{
    word at = (word)handler;
    u64 low = (at & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)type_dpl_p << 40 |
              (u64)(at >> 16 & 0xffff) << 48;

#ifdef __x86_64__
    idt[2 * vector] = low;
    idt[2 * vector + 1] = at >> 32;
#else
    idt[vector] = low;
#endif
}

word attempt(void (*f)(word), word argument)
{
    trap.vector = NONE;
    trap.error = 0;
    if (!protect())
        f(argument);
    return trap.vector;
}

word attempt_user(void (*f)(void), word argument)
{
    trap.vector = NONE;
    trap.error = 0;
    if (!protect())
        enter_user((word)f, (word)user_stack + sizeof(user_stack) - 64, 0x2, argument);
    return trap.vector;
}

static void setup(void)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (word)idt};

    for (unsigned i = 0; i < 256; i++)
#ifdef __x86_64__
        idt_set(i, stubs[i], 0x18, i == USER_DONE ? 0xee : 0x8e, 0);
#else
        idt_set(i, stubs[i], 0x08, i == USER_DONE ? 0xee : 0x8e, 0);
#endif
    __asm__ volatile("lidt %0" : : "m"(pointer));
    gdt[FIRST_FREE] = descriptor((u32)(word)tss_area, 0x20ff, 0x89, 0);
    gdt[FIRST_FREE + 1] = 0;
#ifdef __x86_64__
    *(u64 *)(tss_area + 4) = (u64)exception_stack_top;
#else
    *(u32 *)(tss_area + 4) = (u32)exception_stack_top;
    *(u16 *)(tss_area + 8) = 0x10;
#endif
    *(u16 *)(tss_area + 0x66) = 0x88; /* I/O map behind 32 bytes of interrupt redirection */
    tss_area[0x20ff] = 0xff;
    __asm__ volatile("ltr %0" : : "r"((u16)(FIRST_FREE * 8)));
}

void kernel_main(void);
void kernel_main(void)
{
    setup();
    test();
    finish();
}

/* gcc calls it for initializers. */
void *memset(void *to, int value, unsigned long size);
void *memset(void *to, int value, unsigned long size)
{
    u8 *p = to;

    while (size--)
        *(volatile u8 *)p++ = (u8)value;
    return to;
}

void *memcpy(void *to, const void *from, unsigned long size);
void *memcpy(void *to, const void *from, unsigned long size)
{
    u8 *p = to;
    const u8 *q = from;

    while (size--)
        *(volatile u8 *)p++ = *q++;
    return to;
}
