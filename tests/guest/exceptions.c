/*
 * exceptions.c - which exception, with which error code, and which of several comes first; 32-bit.
 */
#include "kernel.h"

#define BODY(name, ...)                                                                            \
    static void name(word x)                                                                       \
    {                                                                                              \
        __asm__ volatile(__VA_ARGS__);                                                             \
    }

enum { TEST_SELECTOR = 0x60, TEST_INDEX = TEST_SELECTOR / 8 };

BODY(divide, "xor %%ecx, %%ecx; mov $1, %%eax; xor %%edx, %%edx; div %%ecx" ::: "eax", "ecx", "edx")
BODY(divide_overflow, "mov $1, %%ecx; mov $1, %%eax; mov $5, %%edx; div %%ecx" ::
         : "eax", "ecx", "edx")
BODY(ud2, "ud2")
BODY(lock_mov, ".byte 0xf0, 0x89, 0xc0")
BODY(too_long, ".fill 15, 1, 0x3e; nop")
BODY(int3, "int3")
BODY(into, "movb $0x7f, %%al; addb $1, %%al; into" ::: "eax")
BODY(bound, "mov $5, %%eax; pushl $3; pushl $1; bound %%eax, (%%esp); add $8, %%esp" ::: "eax")
BODY(int_gate_0, "int $0x21")
BODY(int_absent, "int $0x22")
BODY(int_bad_type, "int $0x23")
BODY(int_beyond, "int $0xf0")
BODY(int_good, "int $0x24")
BODY(fpu_off, "fnop")
BODY(cli_, "cli")
BODY(in_port, "in $0x70, %%al" ::: "eax")
BODY(in_open_port, "mov $0xe9, %%edx; in %%dx, %%al" ::: "eax", "edx")
BODY(mov_cr, "mov %%cr0, %%eax" ::: "eax")
BODY(mov_cr5, ".byte 0x0f, 0x20, 0xe8" ::: "eax")
BODY(mov_dr, "mov %%dr7, %%eax" ::: "eax")
BODY(wbinvd, "wbinvd")
BODY(smsw, "smsw %%ax" ::: "eax")
BODY(rdmsr_, "mov $0x10, %%ecx; rdmsr" ::: "eax", "ecx", "edx")
BODY(rdtsc_, "rdtsc" ::: "eax", "edx")

static void load_ds(word s)
{
    __asm__ volatile("mov %0, %%ds; mov %%ss, %0; mov %0, %%ds" : "+r"(s));
}
static void load_ss(word s)
{
    __asm__ volatile("mov %0, %%ss" : : "r"(s));
}
static void load_cs(word s)
{
    __asm__ volatile("pushl %0; pushl $1f; lret; 1:" : : "r"(s));
}
static void load_ldt(word s)
{
    __asm__ volatile("lldt %w0" : : "r"(s));
}
static void load_tr(word s)
{
    __asm__ volatile("ltr %w0" : : "r"(s));
}
static void rdmsr_n(word n)
{
    (void)rdmsr((u32)n);
}
static void set_cr4(word v)
{
    WRITE_CR(4, v);
}
static void read_at(word at)
{
    (void)*(volatile u32 *)at;
}
static void read_fs(word at)
{
    __asm__ volatile("mov %%fs:(%0), %%eax" : : "r"(at) : "eax");
}

#define VECTOR(name, f, x, want) expect(name, attempt(f, x), want)
static void with_error(const char *name, void (*f)(word), word x, word vector, word error)
{
    word got = attempt(f, x);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

extern const u8 fault_here[];

static void fault_ip(word x)
{
    __asm__ volatile(".global fault_here\nfault_here: ud2");
}

static void user_attempts(const char *name, void (*f)(void), word vector, word error)
{
    word got = attempt_user(f, 0);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

#define USER(name, code)                                                                           \
    void name(void);                                                                               \
    __asm__(".pushsection .user, \"ax\"\n" #name ": " code "\n int $0x80\n .popsection");
USER(u_hlt, "hlt")
USER(u_cli, "cli")
USER(u_in, "in $0x70, %al")
USER(u_in_open, "mov $0xe9, %dx; in %dx, %al")
USER(u_in_wide, "mov $0xe6, %dx; in %dx, %eax")
USER(u_cr, "mov %cr0, %eax")
USER(u_dr, "mov %dr7, %eax")
USER(u_lgdt, "lgdt 0x1000")
USER(u_ltr, "mov $0x40, %eax; ltr %ax")
USER(u_wbinvd, "wbinvd")
USER(u_clts, "clts")
USER(u_invlpg, "invlpg (%eax)")
USER(u_rdmsr, "mov $0x10, %ecx; rdmsr")
USER(u_rdtsc, "rdtsc")
USER(u_int_gate0, "int $0x21")
USER(u_int3, "int3")
USER(u_popf, "pushf; pop %eax; push $0x3202; popf; pushf; pop %eax")
USER(u_smsw, "smsw %ax")
USER(u_sgdt, "sub $16, %esp; sgdt (%esp)")
USER(u_unaligned, "pushf; orl $0x40000, (%esp); popf; mov 1(%esp), %eax")
USER(u_ds_kernel, "mov $0x10, %eax; mov %eax, %ds")
USER(u_ss_kernel, "mov $0x10, %eax; mov %eax, %ss")

static void double_fault(word x)
{
    idt[GP] = 0; /* absent: #NP within #GP */
    load_ds(0xfff8);
}

void test(void)
{
    u64 gp_gate = idt[GP];

    VECTOR("divide by zero", divide, 0, DE);
    VECTOR("quotient too large", divide_overflow, 0, DE);
    VECTOR("UD2", ud2, 0, UD);
    VECTOR("LOCK MOV", lock_mov, 0, UD);
    with_error("16 bytes of instruction", too_long, 0, GP, 0);
    VECTOR("INT3", int3, 0, BP);
    VECTOR("INTO", into, 0, OF);
    VECTOR("BOUND", bound, 0, BR);
    attempt(fault_ip, 0);
    expect("a fault points at the instruction", trap.ip, (word)fault_here);
    expect("and has RF set", trap.flags >> 16 & 1, 1);
    attempt(int3, 0);
    expect("a trap points behind it", *(volatile u8 *)(trap.ip - 1), 0xcc);
    expect("and has RF clear", trap.flags >> 16 & 1, 0);

    idt_set(0x21, stubs[0x21], 8, 0x8e, 0);
    idt_set(0x22, stubs[0x22], 8, 0x0e, 0);
    idt_set(0x23, stubs[0x23], 8, 0x8c, 0); /* a call gate */
    VECTOR("INT n in ring 0, gate of ring 0", int_gate_0, 0, 0x21);
    with_error("INT n, gate absent", int_absent, 0, NP, 0x22 * 8 + 2);
    with_error("INT n, no interrupt gate", int_bad_type, 0, GP, 0x23 * 8 + 2);
    idt_set(0x24, stubs[0x24], 0, 0x8e, 0);
    with_error("gate with a null selector", int_good, 0, GP, 0);
    idt_set(0x24, stubs[0x24], 0x10, 0x8e, 0);
    with_error("gate to a data segment", int_good, 0, GP, 0x10);
    idt_set(0x24, stubs[0x24], TEST_SELECTOR, 0x8e, 0);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x1b, 12);
    with_error("gate to an absent code segment", int_good, 0, NP, TEST_SELECTOR);
    idt_set(0x24, stubs[0x24], 0x3ff8, 0x8e, 0);
    with_error("gate with a selector beyond the GDT", int_good, 0, GP, 0x3ff8);
    idt_set(0x24, (void *)0x1000, TEST_SELECTOR, 0x8e, 0);
    gdt[TEST_INDEX] = descriptor(0, 0xfff, 0x9b, 4);
    with_error("gate target beyond the limit", int_good, 0, GP, 0);
    {
        struct {
            u16 limit;
            u32 base;
        } __attribute__((packed)) idtr = {0x7ff, (u32)(word)idt}, small = {0x77f, idtr.base};

        __asm__ volatile("lidt %0" : : "m"(small));
        with_error("INT n beyond the IDT", int_beyond, 0, GP, 0xf0 * 8 + 2);
        __asm__ volatile("lidt %0" : : "m"(idtr));
    }

    with_error("DS beyond the GDT", load_ds, 0x2000, GP, 0x2000);
    with_error("DS from no LDT", load_ds, 0x0c, GP, 0x0c);
    VECTOR("DS null", load_ds, 0, NONE);
    VECTOR("DS null, RPL 3", load_ds, 3, NONE);
    load_ds(0x10);
    with_error("SS null", load_ss, 0, GP, 0);
    with_error("SS of ring 3", load_ss, 0x2b, GP, 0x28);
    with_error("SS with RPL 3", load_ss, 0x13, GP, 0x10);
    with_error("SS with code", load_ss, 0x08, GP, 0x08);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x91, 12);
    with_error("SS read-only", load_ss, TEST_SELECTOR, GP, TEST_SELECTOR);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x13, 12);
    with_error("SS absent", load_ss, TEST_SELECTOR, SS, TEST_SELECTOR);
    with_error("DS absent", load_ds, TEST_SELECTOR, NP, TEST_SELECTOR);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x99, 12);
    with_error("DS execute-only", load_ds, TEST_SELECTOR, GP, TEST_SELECTOR);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x89, 12);
    with_error("DS with a TSS", load_ds, TEST_SELECTOR, GP, TEST_SELECTOR);
    with_error("CS null", load_cs, 0, GP, 0);
    with_error("CS data", load_cs, 0x10, GP, 0x10);
    gdt[TEST_INDEX] = descriptor(0, 0xfffff, 0x1b, 12);
    with_error("CS absent", load_cs, TEST_SELECTOR, NP, TEST_SELECTOR);
    with_error("LLDT of a data segment", load_ldt, 0x10, GP, 0x10);
    VECTOR("LLDT null", load_ldt, 0, NONE);
    with_error("LTR null", load_tr, 0, GP, 0);
    with_error("LTR busy", load_tr, FIRST_FREE * 8, GP, FIRST_FREE * 8);
    gdt[TEST_INDEX] = descriptor(0, 0x67, 0x09, 0);
    with_error("LTR absent", load_tr, TEST_SELECTOR, NP, TEST_SELECTOR);
    gdt[TEST_INDEX] = descriptor(0, 0xfff, 0x93, 4);
    __asm__ volatile("mov %0, %%fs" : : "r"(TEST_SELECTOR));
    VECTOR("the last byte of a segment", read_fs, 0xffc, NONE);
    with_error("one byte beyond", read_fs, 0xffd, GP, 0);
    with_error("an offset that wraps", read_fs, 0xffffffff, GP, 0);
    __asm__ volatile("mov %0, %%fs" : : "r"(0));
    with_error("a null segment", read_fs, 0, GP, 0);

    VECTOR("MOV from CR5", mov_cr5, 0, UD);
    VECTOR("MOV from CR0", mov_cr, 0, NONE);
    VECTOR("MOV from DR7", mov_dr, 0, NONE);
    with_error("an MSR that is not there", rdmsr_n, 0x7fffffff, GP, 0);
    VECTOR("a reserved bit of CR4", set_cr4, 1u << 31, GP);
    VECTOR("HLT, CLI, WBINVD and the like in ring 0", wbinvd, 0, NONE);
    VECTOR("CLI", cli_, 0, NONE);
    VECTOR("IN", in_port, 0, NONE);
    VECTOR("IN DX", in_open_port, 0, NONE);
    VECTOR("SMSW", smsw, 0, NONE);
    VECTOR("RDMSR", rdmsr_, 0, NONE);
    VECTOR("RDTSC", rdtsc_, 0, NONE);
    WRITE_CR(0, READ_CR(0) | 8);
    VECTOR("x87 with CR0.TS", fpu_off, 0, NM);
    WRITE_CR(0, (READ_CR(0) & ~8ul) | 4);
    VECTOR("x87 with CR0.EM", fpu_off, 0, NM);
    WRITE_CR(0, READ_CR(0) & ~4ul);

    user_attempts("ring 3: HLT", u_hlt, GP, 0);
    user_attempts("ring 3: CLI", u_cli, GP, 0);
    user_attempts("ring 3: IN of a port the bitmap closes", u_in, USER_DONE, 0);
    tss_area[0x88 + 0x70 / 8] = 1;
    user_attempts("ring 3: IN of a port the bitmap closes", u_in, GP, 0);
    tss_area[0x88 + 0x70 / 8] = 0;
    user_attempts("ring 3: IN of an open port", u_in_open, USER_DONE, 0);
    user_attempts("ring 3: IN of four open ports", u_in_wide, USER_DONE, 0);
    tss_area[0x88 + 0xe9 / 8] = 1 << (0xe9 & 7);
    user_attempts("ring 3: IN of four ports, the last closed", u_in_wide, GP, 0);
    tss_area[0x88 + 0xe9 / 8] = 0;
    user_attempts("ring 3: MOV CR", u_cr, GP, 0);
    user_attempts("ring 3: MOV DR", u_dr, GP, 0);
    user_attempts("ring 3: LGDT", u_lgdt, GP, 0);
    user_attempts("ring 3: LTR", u_ltr, GP, 0);
    user_attempts("ring 3: WBINVD", u_wbinvd, GP, 0);
    user_attempts("ring 3: CLTS", u_clts, GP, 0);
    user_attempts("ring 3: INVLPG", u_invlpg, GP, 0);
    user_attempts("ring 3: RDMSR", u_rdmsr, GP, 0);
    user_attempts("ring 3: RDTSC", u_rdtsc, USER_DONE, 0);
    WRITE_CR(4, READ_CR(4) | 4);
    user_attempts("ring 3: RDTSC with CR4.TSD", u_rdtsc, GP, 0);
    WRITE_CR(4, READ_CR(4) & ~4ul);
    user_attempts("ring 3: INT n through a gate of ring 0", u_int_gate0, GP, 0x21 * 8 + 2);
    user_attempts("ring 3: INT3 through a gate of ring 0", u_int3, GP, BP * 8 + 2);
    user_attempts("ring 3: SMSW", u_smsw, USER_DONE, 0);
    user_attempts("ring 3: SGDT", u_sgdt, USER_DONE, 0);
    user_attempts("ring 3: POPF", u_popf, USER_DONE, 0);
    expect("leaves IF and IOPL", trap.ax & 0x3200, 0);
    user_attempts("ring 3: DS of ring 0", u_ds_kernel, GP, 0x10);
    user_attempts("ring 3: SS of ring 0", u_ss_kernel, GP, 0x10);
    user_attempts("ring 3: unaligned, AC without CR0.AM", u_unaligned, USER_DONE, 0);
    WRITE_CR(0, READ_CR(0) | 1 << 18);
    user_attempts("ring 3: unaligned, AC and CR0.AM", u_unaligned, AC, 0);
    WRITE_CR(0, READ_CR(0) & ~(1ul << 18));

    attempt_user(u_hlt, 0);
    expect("CS pushed from ring 3", trap.cs & 0xffff, 0x33);
    expect("SS pushed from ring 3", trap.ss & 0xffff, 0x2b);
    expect("stack taken from the TSS", trap.frame, (word)exception_stack_top - 7 * sizeof(word));
    expect("SS in the handler", trap.handler_ss & 0xffff, 0x10);

    with_error("a fault while delivering a fault", double_fault, 0, DF, 0);
    idt[GP] = gp_gate;
    attempt(read_at, 0);
}
