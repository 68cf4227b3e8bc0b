/*
 * long.c - 64-bit mode: interrupt stacks, IST, IRET to every level and mode, SYSCALL, SYSENTER,
 * canonical addresses, 64-bit call gates, NMI and interrupt blocking.
 */
#include "kernel.h"

enum { IF = 1 << 9, SEL = 0x60, GATE = 0x70 };

static u8 ist1[1024] __attribute__((aligned(16)));
volatile u64 seen[8];

static void with_error(const char *name, void (*f)(word), word x, word vector, word error)
{
    word got = attempt(f, x);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

static void int90(word x)
{
    __asm__ volatile("int $0x90" : : : "memory");
}
static void int90_misaligned(word x)
{
    __asm__ volatile("mov %%rsp, %%rbx; and $-16, %%rsp; sub $8, %%rsp; mov %%rsp, seen; int $0x90"
                     :
                     :
                     : "rbx", "memory");
}
static void read_at(word at)
{
    (void)*(volatile u8 *)at;
}
static void push_at(word sp)
{
    __asm__ volatile("xchg %0, %%rsp; push %%rax; xchg %0, %%rsp" : "+r"(sp) : : "memory");
}
static void jump_to(word at)
{
    ((void (*)(void))at)();
}
static void wr_gs(word v)
{
    wrmsr(0xc0000101, v);
}
static void wr_lstar(word v)
{
    wrmsr(0xc0000082, v);
}
static void syscall0(word x)
{
    __asm__ volatile("syscall" : : : "rcx", "r11", "memory");
}
static void sysret_bad(word rcx)
{
    __asm__ volatile("sysretq" : : "c"(rcx), "r"(0));
}

/* ---- IRET ----------------------------------------------------------------------------------- */

static u64 iret_area[64]; /* faults push below the image */

static void iretq(word x)
{
    __asm__ volatile("mov %%rsp, %%rbx; mov iret_image_p, %%rsp; iretq"
                     :
                     :
                     : "rax", "rbx", "memory");
}
__attribute__((used)) u64 *iret_image_p = &iret_area[58];

static word iret_to(word ip, word cs, word flags, word sp, word ss)
{
    iret_image_p[0] = ip;
    iret_image_p[1] = cs;
    iret_image_p[2] = flags;
    iret_image_p[3] = sp;
    iret_image_p[4] = ss;
    return attempt(iretq, 0);
}

void back(void);
void back_flags(void);
void u_compat(void);
void u_syscall(void);
void syscall_entry(void);
void u_sysenter(void);
void sysenter_entry(void);
void gate_target(void);
void u_gate(void);
__asm__(
    ".text\n"
    "back: mov %rbx, %rsp; int $0x80\n"
    "back_flags: pushfq; pop %rax; int $0x80\n"
    "syscall_entry: mov %rcx, seen+0; mov %r11, seen+8; pushfq_stack: mov %rsp, seen+16\n"
    " mov %cs, %eax; mov %rax, seen+24; mov %ss, %eax; mov %rax, seen+32\n"
    " mov $stack_top - 4096, %rsp; pushfq; pop %rax; mov %rax, seen+40\n"
    " mov seen+16, %rsp; sysretq\n"
    "sysenter_entry: mov %rsp, seen+0; mov %cs, %eax; mov %rax, seen+8; mov %ss, %eax\n"
    " mov %rax, seen+16; mov $user_exit, %edx; mov $user_stack + 2048, %ecx; sysexitq\n"
    "gate_target: mov %cs, %eax; mov %rax, seen+0; mov %ss, %eax; mov %rax, seen+8\n"
    " lea 32(%rsp), %rax; mov %rax, seen+16; mov 16(%rsp), %rax; mov %rax, seen+24\n"
    " lretq\n"
    ".pushsection .user, \"ax\"\n"
    "u_syscall: xor %eax, %eax; syscall; mov %cs, %eax; mov %ss, %edx; shl $16, %edx\n"
    " or %edx, %eax; int $0x80\n"
    "u_sysenter: sysenter\n"
    "user_exit: mov %cs, %eax; int $0x80\n"
    "u_gate: mov %rsp, seen+32; lcall *gate_pointer; mov %rsp, seen+40; int $0x80\n"
    "gate_pointer: .long 0; .word 0x73\n"
    ".code32\n"
    "u_compat: mov %cs, %eax; dec %eax; inc %eax; int $0x80\n" /* DEC is a REX prefix in 64-bit */
    ".code64\n"
    ".popsection\n");

static void stacks(void)
{
    expect("INT n", attempt(int90, 0), 0x90);
    expect("SS is pushed without a change of level", trap.ss & 0xffff, 0x10);
    expect("INT n on a misaligned stack", attempt(int90_misaligned, 0), 0x90);
    expect("RSP pushed is the misaligned one", trap.sp, seen[0]);
    expect("the frame is aligned", (trap.frame + 7 * 8) & 15, 0);
    *(volatile u64 *)(tss_area + 0x24) = (u64)(ist1 + sizeof(ist1));
    idt_set(0x90, stubs[0x90], 0x18, 0x8e, 1);
    expect("INT n with IST 1", attempt(int90, 0), 0x90);
    expect("takes its stack", trap.frame, (word)ist1 + sizeof(ist1) - 7 * 8);
    expect("and leaves SS", trap.handler_ss & 0xffff, 0x10);
    *(volatile u64 *)(tss_area + 0x24) = (u64)1 << 60;
    with_error("an IST that is not canonical", int90, 0, SS, 0);
    idt_set(0x90, stubs[0x90], 0x18, 0x8e, 0);
    expect("ring 3", attempt_user(user_nothing, 0), USER_DONE);
    expect("CS", trap.cs & 0xffff, 0x33);
    expect("SS", trap.ss & 0xffff, 0x2b);
    expect("stack from RSP0", trap.frame, (word)exception_stack_top - 7 * 8);
    expect("SS is null in the handler", trap.handler_ss & 0xffff, 0);
    idt_set(0x90, stubs[0x90], 0x08, 0x8e, 0);
    with_error("a gate to 32-bit code", int90, 0, GP, 0x08);
    idt_set(0x90, stubs[0x90], 0x18, 0x85, 0);
    with_error("a task gate", int90, 0, GP, 0x90 * 8 + 2);
    idt_set(0x90, (void *)((word)1 << 60), 0x18, 0x8e, 0);
    with_error("a target that is not canonical", int90, 0, GP, 0);
    idt_set(0x90, stubs[0x90], 0x18, 0x8e, 0);
}

static void canonical(void)
{
    with_error("a load from a hole", read_at, (word)1 << 60, GP, 0);
    *(volatile u64 *)(tss_area + 0x24) = (u64)(ist1 + sizeof(ist1));
    idt_set(SS, stubs[SS], 0x18, 0x8e, 1); /* the stack is unusable then */
    with_error("a push into a hole", push_at, ((word)1 << 60) + 8, SS, 0);
    idt_set(SS, stubs[SS], 0x18, 0x8e, 0);
    with_error("a call into a hole", jump_to, (word)1 << 60, GP, 0);
    with_error("WRMSR GS.base", wr_gs, (word)1 << 60, GP, 0);
    with_error("WRMSR LSTAR", wr_lstar, (word)1 << 60, GP, 0);
    wrmsr(0xc0000101, 0xffff800000001000);
    expect("GS.base", rdmsr(0xc0000101), 0xffff800000001000);
    wrmsr(0xc0000102, 0x5000);
    __asm__ volatile("swapgs" : : : "memory");
    expect("SWAPGS", rdmsr(0xc0000101), 0x5000);
    expect("and back", rdmsr(0xc0000102), 0xffff800000001000);
    wrmsr(0xc0000101, 0);
}

static void irets(void)
{
    word sp = (word)user_stack + 2048, got;

    expect("IRETQ to ring 3", iret_to((word)user_nothing, 0x33, 2, sp, 0x2b), USER_DONE);
    expect("IRETQ to ring 3, IF and IOPL", iret_to((word)back_flags, 0x18, 0x3202, sp, 0x10),
           USER_DONE);
    expect("are set in ring 0", trap.ax & 0x3200, 0x3200);
    expect("IRETQ within ring 0 loads RSP",
           (iret_to((word)user_nothing, 0x18, 2, sp, 0x10), trap.sp), sp);
    expect("IRETQ with a null SS", iret_to((word)user_nothing, 0x18, 2, sp, 0), USER_DONE);
    expect("pushes it", trap.ss & 0xffff, 0);
    got = iret_to((word)user_nothing, 0x33, 2, sp, 3);
    expect("a null SS for ring 3", got << 16 | trap.error, GP << 16);
    got = iret_to((word)user_nothing, 0x33, 2, sp, 0x10);
    expect("SS of ring 0 for ring 3", got << 16 | trap.error, GP << 16 | 0x10);
    got = iret_to((word)user_nothing, 0, 2, sp, 0x10);
    expect("CS null", got << 16 | trap.error, GP << 16);
    got = iret_to((word)1 << 60, 0x18, 2, sp, 0x10);
    expect("RIP not canonical", got << 16 | trap.error, GP << 16);
    got = iret_to((word)user_nothing, 0x18, 0x4002, sp, 0x10);
    expect("IRETQ that sets NT", got, USER_DONE);
    __asm__ volatile("pushfq; orq $0x4000, (%%rsp); popfq" : : : "memory", "cc");
    got = iret_to((word)user_nothing, 0x18, 2, sp, 0x10);
    expect("IRETQ with NT", got << 16 | trap.error, GP << 16);
    expect("to compatibility mode", iret_to((word)u_compat, 0x3b, 2, sp, 0x2b), USER_DONE);
    expect("CS there", trap.ax & 0xffff, 0x3b);
    expect("DEC and INC are instructions there", trap.ip, (word)u_compat + 6);
    gdt[SEL / 8] = descriptor(0, 0xfffff, 0xfb, 14);
    got = iret_to((word)user_nothing, SEL | 3, 2, sp, 0x2b);
    expect("CS with L and D", got << 16 | trap.error, GP << 16 | SEL);
}

/* ---- descriptors ---------------------------------------------------------------------------- */

static void load_tr(word s)
{
    __asm__ volatile("ltr %w0" : : "r"(s));
}
static void load_ldt(word s)
{
    __asm__ volatile("lldt %w0" : : "r"(s));
}
static void load_fs(word s)
{
    __asm__ volatile("mov %0, %%fs" : : "r"((u32)s));
}

/* LAR and LSL; ~0 where they clear ZF. */
static u64 lar(word s)
{
    u64 v = 0;
    u8 z;

    __asm__ volatile("lar %2, %0; setz %1" : "+r"(v), "=q"(z) : "r"(s));
    return z ? v : ~0ull;
}
static u64 lsl(word s)
{
    u64 v = 0;
    u8 z;

    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(v), "=q"(z) : "r"(s));
    return z ? v : ~0ull;
}

static void system_descriptors(void)
{
    u64 good = descriptor(0x1000, 0x67, 0x89, 0);

    gdt[SEL / 8] = good;
    gdt[SEL / 8 + 1] = 0x1fffff; /* base not canonical */
    with_error("LTR, base not canonical", load_tr, SEL, GP, SEL);
    gdt[SEL / 8 + 1] = (u64)0x1f << 40;
    with_error("LTR, type in the upper half", load_tr, SEL, GP, SEL);
    gdt[SEL / 8 + 1] = 0xffffffff;
    gdt[SEL / 8] = descriptor(0x1000, 0x67, 0x09, 0);
    with_error("LTR absent", load_tr, SEL, NP, SEL);
    gdt[SEL / 8] = descriptor(0x1000, 0x67, 0x81, 0);
    with_error("LTR of a 16-bit TSS", load_tr, SEL, GP, SEL);
    gdt[63] = good;
    with_error("LTR, the second half beyond the GDT", load_tr, 63 * 8, GP, 63 * 8);
    with_error("LTR busy", load_tr, FIRST_FREE * 8, GP, FIRST_FREE * 8);
    gdt[SEL / 8] = good;
    expect("LTR, base above 4 GiB", attempt(load_tr, SEL), NONE);
    expect("marks it busy", gdt[SEL / 8] >> 40 & 0xff, 0x8b);
    gdt[FIRST_FREE] &= ~((u64)2 << 40);
    load_tr(FIRST_FREE * 8);

    gdt[SEL / 8] = descriptor((u32)(word)&gdt[1], 15, 0x82, 0); /* an LDT: selectors 4 and c */
    gdt[SEL / 8 + 1] = 1;
    expect("LLDT, base above 4 GiB", attempt(load_ldt, SEL), NONE);
    gdt[SEL / 8 + 1] = 0;
    load_ldt(SEL);
    expect("a segment from the LDT", attempt(load_fs, 0x0c), NONE);
    with_error("beyond the LDT", load_fs, 0x14, GP, 0x14);
    gdt[SEL / 8 + 1] = 0x1fffff;
    with_error("LLDT, base not canonical", load_ldt, SEL, GP, SEL);
    gdt[63] = gdt[SEL / 8];
    with_error("LLDT, the second half beyond the GDT", load_ldt, 63 * 8, GP, 63 * 8);
    gdt[63] = 0;
    load_ldt(0);
    load_fs(0);

    gdt[SEL / 8] = descriptor(0x1000, 0xabcd, 0x8b, 8);
    gdt[SEL / 8 + 1] = 0;
    expect("LAR of a busy TSS", lar(SEL) & 0xf0ff00, 0x808b00);
    expect("LSL of it", lsl(SEL), 0xabcdfff);
    gdt[SEL / 8] = descriptor(0, 0x67, 0x82, 0);
    expect("LSL of an LDT", lsl(SEL), 0x67);
    gdt[SEL / 8] = descriptor(0, 0x67, 0x8c, 0);
    expect("LAR of a call gate", lar(SEL) & 0xff00, 0x8c00);
    expect("LSL of a call gate", lsl(SEL), ~0ull);
    for (unsigned type = 0; type < 16; type++)
        if (type != 2 && type != 9 && type != 11 && type != 12) {
            gdt[SEL / 8] = descriptor(0, 0x67, 0x80 | type, 0);
            expect("LAR and LSL of a type long mode has not", lar(SEL) & lsl(SEL), ~0ull);
        }
    gdt[SEL / 8] = 0;
}

static u32 far_pointer[2];

static void far_jump(word x)
{
    __asm__ volatile("ljmpl *%0" : : "m"(far_pointer));
}
static void far_return(word rip)
{
    __asm__ volatile("pushq $0x18; push %0; lretq" : : "r"(rip));
}

static void targets(void)
{
    word sp = (word)user_stack + 2048, got;

    gdt[SEL / 8] = descriptor(0, 0xfff, 0x9b, 4); /* compatibility mode, 4 KiB */
    far_pointer[0] = 0x1000;
    far_pointer[1] = SEL;
    with_error("JMP to a compatibility segment beyond its limit", far_jump, 0, GP, 0);
    expect("points at the JMP", trap.cs & 0xffff, 0x18);
    with_error("RETF to a hole", far_return, (word)1 << 60, GP, 0);
    gdt[SEL / 8] = descriptor(0, 0xfff, 0xfb, 4);
    got = iret_to(0x1000, SEL | 3, 2, sp, 0x2b);
    expect("IRETQ beyond the limit of compatibility code", got << 16 | trap.error, GP << 16);
    gdt[SEL / 8] = descriptor(0, 0xfffff, 0xfb, 12);
    got = iret_to((word)u_compat | (word)1 << 32, SEL | 3, 2, sp, 0x2b);
    expect("IRETQ to compatibility code above 4 GiB", got << 16 | trap.error, GP << 16);
    expect("IRETQ does not look at RSP", iret_to((word)user_nothing, 0x33, 2, (word)1 << 60, 0x2b),
           USER_DONE);
    expect("which is what it was", trap.sp, (word)1 << 60);
    gdt[SEL / 8] = 0;
}

static void calls(bool amd)
{
    u64 star = (u64)0x18 << 32 | (u64)0x23 << 48; /* SYSRET: CS 33, SS 2b */

    wrmsr(0xc0000081, star);
    wrmsr(0xc0000082, (word)syscall_entry);
    wrmsr(0xc0000084, IF | 0x400);
    expect("SYSCALL and SYSRET", attempt_user(u_syscall, 0), USER_DONE);
    expect("RCX is the return address", seen[0], (word)u_syscall + 4);
    expect("R11 is RFLAGS", seen[1] & 0x3f7fd7 & ~0xd5ul, 2);
    expect("CS", seen[3] & 0xffff, 0x18);
    expect("SS", seen[4] & 0xffff, 0x20);
    expect("RSP is the user's", seen[2], (word)user_stack + sizeof(user_stack) - 64);
    expect("CS and SS after SYSRET", trap.ax & 0xffffffff, 0x2b0033);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    expect("SYSCALL without SCE", attempt(syscall0, 0), UD);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
    with_error("SYSRET to a hole", sysret_bad, (word)1 << 60, GP, 0);
    expect("faults in ring 0 on Intel's, in ring 3 on AMD's", trap.cs & 3, amd ? 3 : 0);
    expect("at the SYSRET, or at the target", trap.ip == (word)1 << 60, amd);

    wrmsr(0x174, 0x18);
    wrmsr(0x175, (word)exception_stack_top - 512);
    wrmsr(0x176, (word)sysenter_entry);
    if (amd) {
        expect("SYSENTER in long mode on AMD", attempt_user(u_sysenter, 0), UD);
    } else {
        /* SYSEXIT takes CS + 32 and + 40. */
        gdt[7] = descriptor(0, 0xfffff, 0xfb, 10);
        gdt[FIRST_FREE] = gdt[FIRST_FREE]; /* SS is not read from the table */
        expect("SYSENTER and SYSEXIT", attempt_user(u_sysenter, 0), USER_DONE);
        expect("RSP", seen[0], (word)exception_stack_top - 512);
        expect("CS", seen[1] & 0xffff, 0x18);
        expect("SS", seen[2] & 0xffff, 0x20);
        expect("CS after SYSEXIT", trap.ax & 0xffff, 0x3b);
        expect("RSP after SYSEXIT", trap.sp, (word)user_stack + 2048);
        wrmsr(0x174, 0);
        expect("SYSENTER with a null CS", attempt_user(u_sysenter, 0), GP);
    }

    gdt[GATE / 8] = ((word)gate_target & 0xffff) | 0x18ull << 16 | 0xecull << 40 |
                    (u64)((word)gate_target >> 16 & 0xffff) << 48;
    gdt[GATE / 8 + 1] = (word)gate_target >> 32;
    expect("a 64-bit call gate from ring 3", attempt_user(u_gate, 0), USER_DONE);
    expect("CS", seen[0] & 0xffff, 0x18);
    expect("SS is null", seen[1] & 0xffff, 0);
    expect("stack from RSP0", seen[2], (word)exception_stack_top);
    expect("RSP of the caller", seen[3], seen[4]);
    expect("is back after RETF", seen[5], seen[4]);
}

/* ---- interrupts ----------------------------------------------------------------------------- */

static volatile u32 interrupts;
static volatile word interrupted_ip;
static volatile bool again;

static void on_interrupt(word *frame)
{
    interrupts++;
    interrupted_ip = frame[2];
    if (again) {
        again = false;
        outb(0xb3, 0); /* another NMI: held until our IRET */
        seen[0] = interrupts;
    }
}

extern const u8 behind_nop[], behind_hlt[];

static void events(void)
{
    trap_action = on_interrupt;
    trap_resume = 1;
    outb(0xb4, 0x95);
    __asm__ volatile("nop; nop");
    expect("an interrupt waits for IF", interrupts, 0);
    __asm__ volatile("sti; nop; behind_nop: nop; cli" : : : "memory");
    expect("and comes with it", interrupts, 1);
    expect("one instruction behind STI", interrupted_ip, (word)behind_nop);
    interrupts = 0;
    __asm__ volatile("mov %%ss, %%eax; mov $0x95, %%ebx; sti; nop; cli; nop"
                     :
                     :
                     : "eax", "ebx", "memory");
    expect("none is left", interrupts, 0);
    outb(0xb4, 0x96);
    __asm__ volatile("sti; hlt; behind_hlt: cli" : : : "memory");
    expect("HLT ends", interrupts, 1);
    expect("behind it", interrupted_ip, (word)behind_hlt);
    interrupts = 0;
    outb(0xb4, 0x97);
    __asm__ volatile("sti; cli; nop; nop" : : : "memory");
    expect("STI; CLI lets nothing in", interrupts, 0);
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
    interrupts = 0;
    again = true;
    outb(0xb3, 0);
    expect("NMI does not need IF", interrupts, 2);
    expect("a second waits for IRET", seen[0], 1);
    trap_resume = 0;
}

void test(void)
{
    u32 r[4];

    cpuid(0, 0, r);
    stacks();
    canonical();
    irets();
    system_descriptors();
    targets();
    calls(r[2] == 0x444d4163);
    events();
}
