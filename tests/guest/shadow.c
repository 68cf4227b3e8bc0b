/*
 * shadow.c - the shadow of STI is one instruction long, whatever that is: branches of every kind,
 * ports, HLT. First with an interrupt that waits already, which must be taken exactly behind it;
 * then with a timer that may strike anywhere, which must never be taken before it. And interrupts
 * come while a loop does nothing but touch ports, MSRs and control registers.
 */
#include "apic.h"

enum { VECTOR = 0x52, TIMER = 0x70, EARLY_ROUNDS = 24, TIMED_ROUNDS = 10000 };

/* Of the instruction behind STI, of the one behind that. */
static volatile word shadowed, behind;
static volatile u32 in_shadow, right_behind;

static void note(word *frame)
{
    in_shadow += frame[2] == shadowed;
    right_behind += frame[2] == behind;
    apic_eoi();
}

/* 1: what is behind STI, 2: where that leads to. */
#define CASE(name, before, instruction, between, after)                                            \
    static void name(void)                                                                         \
    {                                                                                              \
        __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; lea 2f(%%rip), %%rax;"              \
                         "mov %%rax, %1;" before "; sti; 1: " instruction "; " between             \
                         "; 2: nop; cli; " after                                                   \
                         : "=m"(shadowed), "=m"(behind)                                            \
                         :                                                                         \
                         : "rax", "rbx", "rcx", "rdx", "memory", "cc");                            \
    }
CASE(jump, "", "jmp 2f", "ud2", "")
CASE(jump_if, "cmp %%eax, %%eax", "jz 2f", "ud2", "")
CASE(call, "", "call 2f", "ud2", "pop %%rax")
CASE(call_indirect, "mov %%rax, %%rcx", "call *%%rcx", "ud2", "pop %%rax")
CASE(jump_indirect, "mov %%rax, %%rcx", "jmp *%%rcx", "ud2", "")
CASE(ret, "push %%rax", "ret", "ud2", "")
CASE(nop, "", "nop", "", "")
CASE(push, "", "push %%rax", "", "pop %%rax")
CASE(port, "", "in $0x80, %%al", "", "")
CASE(out_port, "", "out %%al, $0x80", "", "")
CASE(segment, "", "mov %%cs, %%eax", "", "")
CASE(name_of_cpu, "xor %%eax, %%eax", "cpuid", "", "")
CASE(from_control, "", "mov %%cr2, %%rcx", "", "")
CASE(invalidate, "", "invlpg (%%rsp)", "", "")
CASE(address_space, "mov %%cr3, %%rcx", "mov %%rcx, %%cr3", "", "")
CASE(load, "", "mov (%%rsp), %%rcx", "", "")

/* The target stands before STI. */
static void backwards(void)
{
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; lea 2f(%%rip), %%rax; mov %%rax, %1;"
                     "jmp 3f; 2: nop; cli; jmp 4f; 3: sti; 1: jmp 2b; 4:"
                     : "=m"(shadowed), "=m"(behind)
                     :
                     : "rax", "memory", "cc");
}
static void backwards_taken(void)
{
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; lea 2f(%%rip), %%rax; mov %%rax, %1;"
                     "cmp %%eax, %%eax; jmp 3f; 2: nop; cli; jmp 4f; 3: sti; 1: jz 2b; ud2; 4:"
                     : "=m"(shadowed), "=m"(behind)
                     :
                     : "rax", "memory", "cc");
}

static const struct {
    const char *name;
    void (*f)(void);
} cases[] = {
    {"JMP", jump},
    {"JMP backwards", backwards},
    {"JZ taken", jump_if},
    {"JZ taken backwards", backwards_taken},
    {"CALL", call},
    {"CALL by register", call_indirect},
    {"JMP by register", jump_indirect},
    {"RET", ret},
    {"NOP", nop},
    {"PUSH", push},
    {"IN", port},
    {"OUT", out_port},
    {"MOV from CS", segment},
    {"CPUID", name_of_cpu},
    {"MOV from CR2", from_control},
    {"INVLPG", invalidate},
    {"MOV to CR3", address_space},
    {"a load", load},
};

/* JNZ that falls through: what is behind it is 3 bytes of another instruction's. */
static void falls_through(void)
{
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; lea 2f(%%rip), %%rax; mov %%rax, %1;"
                     "cmp %%eax, %%eax; sti; 1: jnz 3f; 2: nop; cli; jmp 4f; 3: ud2; 4:"
                     : "=m"(shadowed), "=m"(behind)
                     :
                     : "rax", "memory", "cc");
}

static void waiting(const char *name, void (*f)(void))
{
    in_shadow = right_behind = 0;
    for (unsigned i = 0; i < EARLY_ROUNDS; i++) {
        send(0, SELF | FIXED | VECTOR);
        f();
    }
    print(name);
    expect(": an interrupt that waited is taken behind it", right_behind, EARLY_ROUNDS);
    print(name);
    expect(": not before it", in_shadow, 0);
}

static void timed(const char *name, void (*f)(void))
{
    in_shadow = right_behind = 0;
    for (unsigned i = 0; i < TIMED_ROUNDS; i++)
        f();
    print(name);
    expect(": a timer does not strike before it", in_shadow, 0);
}

static void halts(void)
{
    unsigned woken = 0;

    forget();
    for (unsigned i = 0; i < EARLY_ROUNDS; i++) {
        send(0, SELF | FIXED | VECTOR);
        __asm__ volatile("sti; hlt; cli" ::: "memory");
        woken += seen[VECTOR] == i + 1;
    }
    expect("STI, HLT: an interrupt that waited ends it", woken, EARLY_ROUNDS);
}

static void busy(const char *name, void (*f)(void))
{
    u32 before = seen[TIMER], n;

    sti();
    for (n = 0; seen[TIMER] < before + 3 && n < 100000000; n++)
        f();
    cli();
    expect(name, seen[TIMER] >= before + 3, true);
}

static void touch_port(void)
{
    word n = 1000;

    __asm__ volatile("1: in $0x80, %%al; out %%al, $0x80; dec %%ecx; jnz 1b"
                     : "+c"(n)
                     :
                     : "rax", "cc");
}
static void touch_msr(void)
{
    word n = 1000;

    __asm__ volatile("1: push %%rcx; mov $0xc0000102, %%ecx; rdmsr; wrmsr; pop %%rcx; loop 1b"
                     : "+c"(n)
                     :
                     : "rax", "rdx", "cc");
}
static void touch_cr3(void)
{
    word n = 1000;

    __asm__ volatile("1: mov %%cr3, %%rax; mov %%rax, %%cr3; invlpg (%%rsp); loop 1b"
                     : "+c"(n)
                     :
                     : "rax", "memory", "cc");
}

void test(void)
{
    apic_start();
    handlers[VECTOR] = handlers[TIMER] = note;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        waiting(cases[i].name, cases[i].f);
    waiting("JNZ not taken", falls_through);
    halts();
    LAPIC(DIVIDE) = 0xb;
    LAPIC(LVT_TIMER) = PERIODIC | TIMER;
    LAPIC(INITIAL) = 5000;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        timed(cases[i].name, cases[i].f);
    timed("JNZ not taken", falls_through);
    busy("a loop of IN and OUT is interrupted", touch_port);
    busy("a loop of RDMSR and WRMSR is interrupted", touch_msr);
    busy("a loop of MOV CR3 and INVLPG is interrupted", touch_cr3);
    LAPIC(LVT_TIMER) = MASKED;
}
