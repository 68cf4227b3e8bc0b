/*
 * rewrite.c - code that changes often, and data beside code: what a translator keeps of code must
 * follow, whatever it does to be quick about it. Built for 32 and 64 bits. The cycle counts it
 * prints are for reading; only what the code does is judged.
 */
#include "kernel.h"

static u8 room[16 * 4096] __attribute__((aligned(4096)));

typedef word function(word);

static function *at(const volatile u8 *p)
{
    return (function *)(word)p;
}

#ifdef __x86_64__
#define ARGUMENT "\x89\xf8" /* mov eax, edi */
#else
#define ARGUMENT "\x8b\x44\x24\x04" /* mov eax, [esp + 4] */
#endif
enum { ARGUMENT_SIZE = sizeof(ARGUMENT) - 1, FUNCTION_SIZE = ARGUMENT_SIZE + 6 };

/* x + n */
static void emit_add(volatile u8 *p, u32 n)
{
    for (unsigned i = 0; i < ARGUMENT_SIZE; i++)
        *p++ = (u8)ARGUMENT[i];
    *p++ = 0x05;
    *(volatile u32 *)p = n;
    p[4] = 0xc3;
}

static void set_number(volatile u8 *p, u32 n)
{
    *(volatile u32 *)(p + ARGUMENT_SIZE + 1) = n;
}

static u64 tsc(void)
{
    u32 low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (u64)high << 32;
}

static void report(const char *what, u64 cycles, u32 rounds)
{
    print(what);
    print(": cycles ");
    print_hex((u32)(cycles >> 3) / (rounds >> 3));
    print("\n");
}

/* Patch an immediate, call: `calls` times between two patches. */
static void patch_and_call(const char *name, u32 rounds, u32 calls)
{
    volatile u8 *p = room;
    word x = 0, want = 0;
    u64 start;

    emit_add(p, 0);
    start = tsc();
    for (u32 i = 0; i < rounds; i++) {
        set_number(p, i * 3);
        for (u32 j = 0; j < calls; j++)
            x = at(p)(x);
    }
    report(name, tsc() - start, rounds);
    for (u32 i = 0; i < rounds; i++)
        want += i * 3 * calls;
    expect(name, (u32)x, (u32)want);
}

static void store_beside(const char *name, unsigned distance)
{
    volatile u8 *p = room + 4096;
    volatile u32 *data = (volatile u32 *)(word)(p + distance);
    u32 rounds = 20000;
    word x = 0;
    u64 start;

    emit_add(p, 1);
    *data = 0;
    for (u32 i = 0; i < 100; i++)
        x = at(p)(x);
    start = tsc();
    for (u32 i = 0; i < rounds; i++)
        *data = i;
    report(name, tsc() - start, rounds);
    expect(name, *data, rounds - 1);
    start = tsc();
    for (u32 i = 0; i < rounds; i++) {
        *data += (u32)x & 1;
        x = at(p)(x);
    }
    report("with a call", tsc() - start, rounds);
    expect("both are right", *data * 0x10000u + (u32)x,
           (rounds - 1 + rounds / 2) * 0x10000u + rounds + 100);
}

/* Stores that begin before the code, in bytes that are none; instructions over a page boundary. */
static void at_the_edges(void)
{
    volatile u8 *p = room + 12 * 4096 + 64, *crossing = room + 13 * 4096 - 4;
    u32 x = 0, want = 0;

    p[0] = 0xb8; /* mov eax, n; ret */
    *(volatile u32 *)(p + 1) = 0;
    p[5] = 0xc3;
    for (u32 i = 0; i < 60; i++) {
        *(volatile u32 *)(p - 2) = 0xb80000 | i << 24; /* the lowest byte of n */
        for (u32 j = 0; j < 40; j++, want += i)
            x += (u32)at(p)(0);
    }
    expect("stores that end in code", x, want);
    x = want = 0;
    crossing[0] = 0xb8;
    *(volatile u32 *)(crossing + 1) = 0;
    crossing[5] = 0xc3;
    for (u32 i = 0; i < 60; i++) {
        crossing[i & 1 ? 4 : 2] = (u8)i; /* in the second page, in the first */
        for (u32 j = 0; j < 40; j++, want += *(volatile u32 *)(crossing + 1))
            x += (u32)at(crossing)(0);
    }
    expect("an instruction in two pages", x, want);
}

/* Functions side by side, each with a counter, written one after the other while older ones run on.
 */
static void compiler(void)
{
    enum { SLOT = 48, FUNCTIONS = 300 };
    u64 start = tsc();
    u32 x = 0, want = 0;

    for (u32 i = 0; i < FUNCTIONS; i++) {
        volatile u8 *p = room + 2 * 4096 + i * SLOT;
        volatile u32 *counter = (volatile u32 *)(p + 32);

        emit_add(p, i);
        *counter = 0;
        for (u32 j = 0; j < 20; j++) {
            x = (u32)at(p)(x);
            ++*counter;
            want += i;
        }
        if (i >= 7) {
            x = (u32)at(p - 7 * SLOT)(x) + *(volatile u32 *)(p - 7 * SLOT + 32);
            want += i - 7 + 20;
        }
    }
    report("a compiler at work, for each function", tsc() - start, FUNCTIONS);
    expect("a compiler at work", x, want);
    /* All again, in place. */
    for (u32 round = 0; round < 3; round++)
        for (u32 i = 0; i < FUNCTIONS; i++) {
            volatile u8 *p = room + 2 * 4096 + i * SLOT;

            set_number(p, i ^ round);
            x = (u32)at(p)(x);
            want += i ^ round;
        }
    expect("everything patched", x, want);
}

/* The page is data, then code, then data. */
static void recycled(void)
{
    volatile u8 *p = room + 8 * 4096;
    u64 start, cycles = 0;
    u32 x = 0, want = 0;

    for (u32 round = 0; round < 20; round++) {
        emit_add(p, round);
        for (u32 i = 0; i < 50; i++, want += round)
            x = (u32)at(p)(x);
        start = tsc();
        for (u32 n = 0; n < 40; n++)
            for (u32 i = 0; i < 4096; i += 4)
                *(volatile u32 *)(p + i) = i;
        cycles += tsc() - start;
    }
    report("a page that was code, for each store", cycles, 20 * 40 * 1024);
    expect("a page of code and data in turns", x, want);
}

/* Loops that change an instruction of their own: the next one, and one some way ahead. */
#ifdef __x86_64__
#define SELF(label) label "+1(%%rip)"
#define PUSH        " push %%rcx\n"
#define POP         " pop %%rcx\n"
#else
#define SELF(label) label "+1"
#define PUSH        " push %%ecx\n"
#define POP         " pop %%ecx\n"
#endif

static void in_the_loop(void)
{
    u32 sum = 0, n = 1000;

    __asm__ volatile("1: movl %1, " SELF("2f") "\n"
                                               "2: movl $0x55555555, %%eax\n"
                                               " addl %%eax, %0\n"
                                               " decl %1\n jnz 1b\n"
                     : "+r"(sum), "+r"(n)
                     :
                     : "eax", "memory", "cc");
    expect("a store to the next instruction, in a loop", sum, 500500);
    sum = 0;
    n = 1000;
    __asm__ volatile("1: movl %1, " SELF("2f") "\n"
                                               " movl %1, %%ecx\n addl $0, %%ecx\n nop\n" PUSH
                                               "2: movl $0x55555555, %%eax\n"
                                               " addl %%eax, %0\n" POP " decl %1\n jnz 1b\n"
                     : "+r"(sum), "+r"(n)
                     :
                     : "eax", "ecx", "memory", "cc");
    expect("some instructions ahead", sum, 500500);
}

/* Code that ends up changing the loop it is called from, and its own caller's next instruction. */
static void returns_to_new_code(void)
{
    volatile u8 *p = room + 9 * 4096, *q = room + 10 * 4096;
    word v = 0;

    for (u32 i = 0; i < 200; i++) {
        volatile u8 *w = p;
        word address;

        /* p: push; call q; mov eax, i; pop; ret - and q writes the i. */
        *w++ = 0xe8;
        *(volatile u32 *)w = (u32)(q - (p + 5));
        w += 4;
        *w++ = 0xb8;
        address = (word)w;
        *(volatile u32 *)w = 0x77777777;
        w += 4;
        *w++ = 0xc3;
        /* q: mov dword [address], i; ret */
        w = q;
#ifdef __x86_64__
        *w++ = 0x48, *w++ = 0xb8;
        *(volatile u64 *)w = address;
        w += 8;
#else
        *w++ = 0xb8;
        *(volatile u32 *)w = address;
        w += 4;
#endif
        *w++ = 0xc7, *w++ = 0x00;
        *(volatile u32 *)w = i;
        w += 4;
        *w++ = 0xc3;
        for (u32 j = 0; j < 5; j++) {
            *(volatile u32 *)(w - 5) = i + j;
            v += at(p)(0) - j;
        }
    }
    expect("a return to code that changed meanwhile", v, 5 * 199 * 200 / 2);
}

/* The runner's device that copies memory. */
enum { BACKGROUND = 1u << 31 };

static void outl(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %w1" : : "a"(value), "Nd"(port) : "memory");
}

static void device_copies(volatile u8 *to, const volatile u8 *from, u32 length)
{
    outl(0xc0, (u32)(word)from);
    outl(0xc4, (u32)(word)to);
    outl(0xc8, length);
}

static void device_waits(void)
{
    u32 v;

    __asm__ volatile("inl %w1, %0" : "=a"(v) : "Nd"(0xc8) : "memory");
}

static void written_by_a_device(void)
{
    volatile u8 *code = room + 11 * 4096, *copies = room + 13 * 4096;
    u32 x = 0, want = 0;

    for (u32 i = 0; i < 100; i++) {
        emit_add(copies, i);
        emit_add(copies + 4096 - 5, i + 7); /* into the next page */
        device_copies(code + i % 3, copies, FUNCTION_SIZE);
        for (u32 j = 0; j < 1 + i % 9; j++, want += i)
            x = (u32)at(code + i % 3)(x);
        device_copies(code, copies, 8192);
        for (u32 j = 0; j < 10; j++, want += i + i + 7)
            x = (u32)at(code + 4096 - 5)((u32)at(code)(x));
    }
    expect("code that a device writes", x, want);
    /* In the background, under code that runs: the old or the new, and when it is done, the new. */
    x = want = 0;
    for (u32 i = 1; i < 200; i++) {
        emit_add(copies, i);
        device_copies(code, copies, FUNCTION_SIZE | BACKGROUND);
        for (u32 j = 0; j < 20; j++)
            (void)at(code + 4096 - 5)(x);
        device_waits();
        x = (u32)at(code)(x);
        want += i;
    }
    expect("and while code runs", x, want);
}

#ifdef __x86_64__
/* Stores beside code through a mapping that changes. */
enum { WINDOW = 0xa00000, CR0_WP = 1 << 16 };
static word table[512] __attribute__((aligned(4096)));

static void store_through(word value)
{
    for (u32 i = 0; i < 20; i++)
        *(volatile u32 *)(WINDOW + 256) = (u32)value + i;
}

static void map_window(volatile u8 *page, word bits)
{
    table[0] = (word)page | bits;
    invlpg(WINDOW);
}

static void through_a_window(void)
{
    volatile u8 *one = room + 14 * 4096, *other = room + 15 * 4096;
    volatile u32 *in_one = (volatile u32 *)(word)(one + 256);
    volatile u32 *in_other = (volatile u32 *)(word)(other + 256);
    word old = boot_pd[WINDOW >> 21], cr0 = READ_CR(0), x = 0;

    for (u32 i = 0; i < 512; i++)
        table[i] = 0;
    boot_pd[WINDOW >> 21] = (word)table | 3;
    WRITE_CR(3, READ_CR(3));
    emit_add(one, 1);
    emit_add(other, 2);
    for (u32 i = 0; i < 50; i++)
        x = at(one)(at(other)(x));
    map_window(one, 3);
    store_through(1000);
    map_window(other, 3);
    store_through(2000);
    expect("beside code, through a mapping", *in_one, 1019);
    expect("that changed", *in_other, 2019);
    WRITE_CR(0, cr0 | CR0_WP);
    map_window(one, 3);
    store_through(3000);
    map_window(one, 1);
    expect("that may not be written any more", attempt(store_through, 4000), PF);
    expect("nor is it", *in_one, 3019);
    map_window(one, 3);
    expect("and may be again", attempt(store_through, 5000), NONE);
    expect("and is", *in_one, 5019);
    map_window(one, 3);
    store_through(6000);
    expect("dirty", table[0] >> 6 & 1, 1);
    WRITE_CR(0, cr0);
    for (u32 i = 0; i < 50; i++)
        x = at(one)(at(other)(x));
    expect("the code is as it was", x, 300);
    boot_pd[WINDOW >> 21] = old;
    WRITE_CR(3, READ_CR(3));
}
#else
static void through_a_window(void)
{
}
#endif

void test(void)
{
    patch_and_call("patch and call", 4000, 1);
    patch_and_call("patch and ten calls", 1000, 10);
    patch_and_call("patch and a thousand calls", 50, 1000);
    store_beside("a store beside code", 128);
    store_beside("a store close to code", 32);
    store_beside("a store in the next line but one", 2048);
    at_the_edges();
    compiler();
    recycled();
    in_the_loop();
    returns_to_new_code();
    written_by_a_device();
    through_a_window();
}
