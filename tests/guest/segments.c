/*
 * segments.c - limits, types, accessed bits, inspection instructions, call gates and far returns
 * between rings; 32-bit.
 */
#include "kernel.h"

enum { SEL = 0x60, IDX = SEL / 8, SEL2 = 0x68, GATE = 0x70 };

static void with_error(const char *name, void (*f)(word), word x, word vector, word error)
{
    word got = attempt(f, x);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

static void fs_set(word s)
{
    __asm__ volatile("mov %0, %%fs" : : "r"(s));
}
static void fs_read(word at)
{
    __asm__ volatile("movb %%fs:(%0), %%al" : : "r"(at) : "eax");
}
static void fs_read4(word at)
{
    fs_set(SEL); /* exceptions reload it */
    __asm__ volatile("mov %%fs:(%0), %%eax" : : "r"(at) : "eax");
}
static void fs_write(word at)
{
    __asm__ volatile("movb $1, %%fs:(%0)" : : "r"(at) : "memory");
}
void u_push(void);
__asm__(".pushsection .user, \"ax\"\n"
        "u_push: mov $0x63, %eax; mov %eax, %ss; mov %edi, %esp; push %eax; int $0x80\n"
        ".popsection\n");

static void push_at(const char *name, word sp, word vector)
{
    word got = attempt_user(u_push, sp);

    expect(name, got << 16 | trap.error, vector << 16);
}

static volatile u32 buffer[64];

static u32 lar(word s, bool *ok)
{
    u32 v = 0;
    u8 z;

    __asm__ volatile("lar %2, %0; setz %1" : "+r"(v), "=q"(z) : "r"(s));
    *ok = z;
    return v;
}
static u32 lsl(word s, bool *ok)
{
    u32 v = 0;
    u8 z;

    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(v), "=q"(z) : "r"(s));
    *ok = z;
    return v;
}
static bool verr(word s)
{
    u8 z;

    __asm__ volatile("verr %w1; setz %0" : "=q"(z) : "r"(s));
    return z;
}
static bool verw(word s)
{
    u8 z;

    __asm__ volatile("verw %w1; setz %0" : "=q"(z) : "r"(s));
    return z;
}

static void inspection(void)
{
    bool ok;
    u32 v;

    gdt[IDX] = descriptor(0x12345678, 0xabcde, 0x92, 12);
    v = lar(SEL, &ok);
    expect("LAR of data", ok ? v & 0xf0ff00 : 0, 0xc09200);
    v = lsl(SEL, &ok);
    expect("LSL with granularity", ok ? v : 0, 0xabcdefff);
    gdt[IDX] = descriptor(0, 0x321, 0x92, 4);
    v = lsl(SEL, &ok);
    expect("LSL without", ok ? v : 0, 0x321);
    expect("VERR, VERW of writable data", verr(SEL) | verw(SEL) << 1, 3);
    gdt[IDX] = descriptor(0, 0x321, 0x90, 4);
    expect("of read-only data", verr(SEL) | verw(SEL) << 1, 1);
    gdt[IDX] = descriptor(0, 0x321, 0x98, 4);
    expect("of execute-only code", verr(SEL) | verw(SEL) << 1, 0);
    gdt[IDX] = descriptor(0, 0x321, 0x9a, 4);
    expect("of readable code", verr(SEL) | verw(SEL) << 1, 1);
    expect("with RPL 3", verr(SEL | 3), 0);
    gdt[IDX] = descriptor(0, 0x321, 0x9e, 4);
    expect("of conforming code with RPL 3", verr(SEL | 3), 1);
    gdt[IDX] = descriptor(0, 0x67, 0x8b, 0);
    lar(SEL, &ok);
    expect("LAR of a busy TSS", ok, 1);
    gdt[IDX] = descriptor(0, 0x67, 0x8c, 0);
    lar(SEL, &ok);
    expect("LAR of a call gate", ok, 1);
    lsl(SEL, &ok);
    expect("LSL of a call gate", ok, 0);
    gdt[IDX] = descriptor(0, 0x67, 0x8e, 0);
    lar(SEL, &ok);
    expect("LAR of an interrupt gate", ok, 0);
    lar(0, &ok);
    expect("LAR of null", ok, 0);
    lar(0x4000, &ok);
    expect("LAR beyond the GDT", ok, 0);
    {
        u32 low = 0x1000, high = 0x1003;
        u8 z;

        __asm__ volatile("arpl %w2, %w0; setz %1" : "+r"(low), "=q"(z) : "r"(3));
        expect("ARPL raises", low << 1 | z, 0x1003 << 1 | 1);
        __asm__ volatile("arpl %w2, %w0; setz %1" : "+r"(high), "=q"(z) : "r"(1));
        expect("ARPL leaves", high << 1 | z, 0x1003 << 1);
    }
}

static void limits(void)
{
    u32 base = (u32)buffer;

    gdt[IDX] = descriptor(base, 0xff, 0x92, 4);
    fs_set(SEL);
    expect("the accessed bit is set", gdt[IDX] >> 40 & 1, 1);
    expect("the last byte", attempt(fs_read, 0xff), NONE);
    with_error("behind it", fs_read, 0x100, GP, 0);
    with_error("four bytes over the end", fs_read4, 0xfd, GP, 0);
    gdt[IDX] = descriptor(base, 0xff, 0x90, 4);
    fs_set(SEL);
    with_error("a write to read-only data", fs_write, 0, GP, 0);
    gdt[IDX] = descriptor(base, 0xff, 0x9a, 4);
    fs_set(SEL);
    expect("a read from code", attempt(fs_read, 0), NONE);
    with_error("a write to code", fs_write, 0, GP, 0);
    gdt[IDX] = descriptor(base - 0x1000, 0xfff, 0x96, 4);
    fs_set(SEL);
    expect("expand-down, first valid byte", attempt(fs_read, 0x1000), NONE);
    with_error("expand-down, below it", fs_read, 0xfff, GP, 0);
    gdt[IDX] = descriptor(base - 0xff00, 0xfeff, 0x96, 0);
    fs_set(SEL);
    expect("expand-down of 64 KiB", attempt(fs_read, 0xff00), NONE);
    with_error("its upper end", fs_read, 0x10000, GP, 0);
    with_error("two bytes over the upper end", fs_read4, 0xfffd, GP, 0);
    fs_set(0x10);

    gdt[IDX] = descriptor(base, 0xff, 0xf2, 4);
    push_at("a push in a small stack", 0x80, USER_DONE);
    push_at("a push beyond its limit", 0x200, SS);
    push_at("a push below zero", 2, SS);
    gdt[IDX] = descriptor(base - 0xff00, 0xffff, 0x92, 0); /* SP is 16 bits wide */
    buffer[63] = 0;
    __asm__ volatile("mov %%esp, %%ebx; mov %0, %%ss; mov $0xabcd0000, %%esp; pushl $0x5566; "
                     "mov %%esp, %%ecx; mov %1, %%ss; mov %%ebx, %%esp; mov %%ecx, %2"
                     :
                     : "r"(SEL), "r"(0x10), "m"(buffer[0])
                     : "ebx", "ecx", "memory");
    expect("a 16-bit stack wraps SP", buffer[63], 0x5566);
    expect("and keeps the upper half of ESP", buffer[0], 0xabcdfffc);
}

/* ---- call gates ----------------------------------------------------------------------------- */

volatile u32 gate_seen[8], user_esp_after;
void gate_target(void);
void gate_same(void);
__asm__(".text\n"
        "gate_target:\n"
        " mov %cs, %eax; mov %eax, gate_seen+0\n"
        " mov %ss, %eax; mov %eax, gate_seen+4\n"
        " mov 4(%esp), %eax; mov %eax, gate_seen+8\n"   /* CS of the caller */
        " mov 8(%esp), %eax; mov %eax, gate_seen+12\n"  /* last parameter pushed */
        " mov 12(%esp), %eax; mov %eax, gate_seen+16\n" /* first */
        " mov 20(%esp), %eax; mov %eax, gate_seen+20\n" /* SS of the caller */
        " lea 24(%esp), %eax; mov %eax, gate_seen+24\n"
        " lret $8\n"
        "gate_same:\n"
        " mov %cs, %eax; mov %eax, gate_seen+0\n"
        " mov 4(%esp), %eax; mov %eax, gate_seen+8\n"
        " lret\n"
        ".pushsection .user, \"ax\"\n"
        "u_gate: mov %esp, %ebx; push $0x1111; push $0x2222; lcall $0x73, $0; mov %esp, %ecx\n"
        " mov %ds, %edx; mov %fs, %eax; int $0x80\n"
        "u_gate_rpl: lcall $0x70, $0; int $0x80\n"
        "u_jmp_gate: ljmp $0x73, $0\n"
        "u_conforming: mov $0x2b, %eax; lcall $0x6b, $user_conforming_target; int $0x80\n"
        "user_conforming_target: mov %cs, %eax; lret\n"
        ".popsection\n");
void u_gate(void);
void u_gate_rpl(void);
void u_jmp_gate(void);
void u_conforming(void);

static u64 gate(u16 selector, const void *target, unsigned access, unsigned parameters)
{
    u32 at = (u32)(word)target;

    return (at & 0xffff) | (u64)selector << 16 | (u64)parameters << 32 | (u64)access << 40 |
           (u64)(at >> 16) << 48;
}

static void call_gate_same(word x)
{
    __asm__ volatile("lcall $0x70, $0" : : : "eax");
}

static void gates(void)
{
    word got;

    gdt[GATE / 8] = gate(0x08, gate_same, 0x8c, 0);
    expect("a call gate to the same ring", attempt(call_gate_same, 0), NONE);
    expect("CS in it", gate_seen[0], 0x08);
    expect("CS pushed", gate_seen[2], 0x08);
    gdt[GATE / 8] = gate(0x08, gate_same, 0x0c, 0);
    with_error("an absent gate", call_gate_same, 0, NP, GATE);
    gdt[GATE / 8] = gate(0, gate_same, 0x8c, 0);
    with_error("a gate with a null selector", call_gate_same, 0, GP, 0);
    gdt[GATE / 8] = gate(0x10, gate_same, 0x8c, 0);
    with_error("a gate to data", call_gate_same, 0, GP, 0x10);

    gdt[GATE / 8] = gate(0x08, gate_target, 0xec, 2);
    __asm__ volatile("mov %0, %%fs" : : "r"(0x10)); /* not for ring 3 */
    got = attempt_user(u_gate, 0);
    expect("a call gate from ring 3", got, USER_DONE);
    expect("CS in ring 0", gate_seen[0], 0x08);
    expect("SS in ring 0", gate_seen[1], 0x10);
    expect("CS of the caller", gate_seen[2], 0x33);
    expect("the last parameter", gate_seen[3], 0x2222);
    expect("the first parameter", gate_seen[4], 0x1111);
    expect("SS of the caller", gate_seen[5], 0x2b);
    expect("the frame starts at ESP0", gate_seen[6], (word)exception_stack_top);
    expect("RET n released the parameters on both stacks", trap.sp,
           (word)user_stack + sizeof(user_stack) - 64);
    expect("FS of ring 0 is null after the return", trap.ax & 0xffff, 0);

    gdt[GATE / 8] = gate(0x08, gate_target, 0x8c, 2);
    got = attempt_user(u_gate, 0);
    expect("a gate of ring 0 from ring 3", got << 16 | trap.error, GP << 16 | GATE);
    gdt[GATE / 8] = gate(0x08, gate_target, 0xec, 2);
    got = attempt_user(u_jmp_gate, 0);
    expect("JMP through a gate to an inner ring", got << 16 | trap.error, GP << 16 | 0x08);
    *(u16 *)(tss_area + 8) = 0x33;
    *(u16 *)(tss_area + 8) = 0x10;
    gdt[SEL2 / 8] = descriptor(0, 0xfffff, 0x9e, 12);
    got = attempt_user(u_conforming, 0);
    expect("conforming code of ring 0 from ring 3", got, USER_DONE);
    expect("runs with RPL 3", trap.ax & 0xffff, SEL2 | 3);
}

static void code_limit(word x)
{
    /* A code segment that ends in the middle of an instruction. */
    __asm__ volatile("ljmp $0x60, $0");
}

void test(void)
{
    inspection();
    limits();
    gates();
    buffer[0] = 0xb8909090; /* nop nop nop mov eax, imm32 cut off */
    gdt[IDX] = descriptor((u32)buffer, 5, 0x9a, 4);
    with_error("an instruction over the limit of CS", code_limit, 0, GP, 0);
    expect("points at the instruction", trap.ip, 3);
}
