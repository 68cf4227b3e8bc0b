/*
 * tasks.c - hardware task switches by JMP, CALL, IRET and task gates; 32-bit.
 */
#include "kernel.h"

#include <stddef.h>

enum {
    MAIN = FIRST_FREE * 8,
    OTHER = 0x60,
    DF_TASK = 0x68,
    SMALL = 0x70,
    TASK_GATE = 0x78,
    ABSENT = 0x90
};
enum { NT = 1 << 14 };

struct tss {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
        edi, es, cs, ss, ds, fs, gs, ldt;
    u16 trap, map;
} __attribute__((packed));

static volatile struct tss other, df;
static volatile u16 small[22];
static u8 other_stack[1024] __attribute__((aligned(16))),
    df_stack[1024] __attribute__((aligned(16)));
volatile u32 seen[8], runs;
void other_iret(void);
void other_jmp(void);
void other_error(void);
void other_two(void);
void other_loop(void);
void small_task(void);
__asm__(".text\n"
        "other_iret:\n"
        " mov %eax, seen+0; mov %esp, seen+4; pushf; pop %eax; mov %eax, seen+8\n"
        " str %ax; movzwl %ax, %eax; mov %eax, seen+12; mov %cr0, %eax; mov %eax, seen+16\n"
        " incl runs; clts; iret\n"
        " incl runs; incl runs; iret\n" /* entered again, it goes on behind IRET */
        "other_jmp:\n"
        " incl runs; pushf; pop %eax; mov %eax, seen+8; ljmp $0x40, $0\n"
        "other_error:\n"
        " pop %eax; mov %eax, seen+0; pushf; pop %eax; mov %eax, seen+8; incl runs\n"
        " addl $2, tss_area+0x20; iret\n" /* behind the faulting instruction */
        " jmp other_error\n"
        "other_two:\n"
        " incl runs; addl $2, tss_area+0x20; iret\n"
        "df_task:\n"
        " pop %eax; mov %eax, seen+0; movl $1, runs\n"
        " movl $after_df, tss_area+0x20; iret\n"
        "ts_task:\n"
        " pop %eax; mov %eax, seen+0; andb $0xfd, gdt+0x45; ljmp $0x40, $0\n"
        "small_task:\n"
        " mov %esp, seen+4; mov %eax, seen+0; incl runs; iret\n");
extern const u8 df_task[], ts_task[], after_df[];

static void prepare(void (*entry)(void))
{
    other = (struct tss){.eip = (u32)entry,
                         .eflags = 2,
                         .eax = 0xdeadbeef,
                         .esp = (u32)other_stack + sizeof(other_stack),
                         .es = 0x10,
                         .cs = 0x08,
                         .ss = 0x10,
                         .ds = 0x10,
                         .fs = 0x10,
                         .gs = 0x10,
                         .map = sizeof(struct tss)};
    gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, 0x89, 0);
    runs = 0;
}

static void call_task(word x)
{
    __asm__ volatile("lcall $0x60, $0" : : : "memory");
}
static void jmp_task(word x)
{
    __asm__ volatile("ljmp $0x60, $0" : : : "memory");
}
static void call_task_gate(word x)
{
    __asm__ volatile("lcall $0x78, $0" : : : "memory");
}
static void call_small(word x)
{
    __asm__ volatile("lcall $0x70, $0" : : : "memory");
}
static void int_task(word x)
{
    __asm__ volatile("int $0x90" : : : "memory");
}
static void fault_two_bytes(word x)
{
    __asm__ volatile("mov $0xfff8, %%eax; mov %%eax, %%ds" : : : "eax", "memory");
}
static void ud2(word x)
{
    __asm__ volatile("ud2");
}
static void iret_nt(word x)
{
    __asm__ volatile("pushf; orl $0x4000, (%%esp); popf; iret" : : : "memory");
}
static void bad_everything(word x)
{
    idt[GP] = 0;
    __asm__ volatile("mov $0xfff8, %%eax; mov %%eax, %%ds; .global after_df; after_df:"
                     :
                     :
                     : "eax", "memory");
}

static unsigned type_of(unsigned selector);

/* CALL a task whose TSS has a bad selector at `field`; a third task takes what comes of it. */
static void bad_task(const char *name, unsigned field, u16 selector, unsigned vector, u16 error)
{
    u64 gate = idt[vector];

    prepare(other_iret);
    *(volatile u16 *)((volatile u8 *)&other + field) = selector;
    df.eip = (u32)ts_task;
    df.esp = (u32)df_stack + sizeof(df_stack);
    gdt[DF_TASK / 8] = descriptor((u32)&df, sizeof(df) - 1, 0x89, 0);
    idt[vector] = (u64)DF_TASK << 16 | (u64)0x85 << 40;
    seen[0] = 0xffffffff;
    expect(name, attempt(call_task, 0), NONE);
    idt[vector] = gate;
    expect("  error code", seen[0], error);
    expect("  raised by the new task", df.link & 0xffff, OTHER);
    __asm__ volatile("clts");
}

static unsigned type_of(unsigned selector)
{
    return gdt[selector / 8] >> 40 & 0x1f;
}

static void with_error(const char *name, void (*f)(word), word vector, word error)
{
    word got = attempt(f, 0);

    expect(name, got << 16 | trap.error, vector << 16 | error);
}

static void tf_set(word *frame)
{
    seen[5] = frame[0];
    seen[6] = READ_DR(6);
}

void test(void)
{
    u64 gp_gate = idt[GP];

    prepare(other_iret);
    expect("CALL to a TSS", attempt(call_task, 0), NONE);
    expect("ran once", runs, 1);
    expect("EAX from the TSS", seen[0], 0xdeadbeef);
    expect("ESP from the TSS", seen[1], (u32)other_stack + sizeof(other_stack));
    expect("NT set", seen[2] & NT, NT);
    expect("TR", seen[3], OTHER);
    expect("CR0.TS set", seen[4] & 8, 8);
    expect("back link", other.link & 0xffff, MAIN);
    expect("the task is free again", type_of(OTHER), 9);
    expect("ours is busy", type_of(MAIN), 11);
    expect("NT cleared in its image", other.eflags & NT, 0);
    __asm__ volatile("clts");
    expect("CALL again goes on behind IRET", attempt(call_task, 0), NONE);
    expect("ran on", runs, 3);
    __asm__ volatile("clts");

    prepare(other_jmp);
    expect("JMP there and back", attempt(jmp_task, 0), NONE);
    expect("ran", runs, 1);
    expect("NT clear", seen[2] & NT, 0);
    expect("the task is free", type_of(OTHER), 9);
    expect("ours is busy", type_of(MAIN), 11);
    __asm__ volatile("clts");

    prepare(other_iret);
    gdt[TASK_GATE / 8] = (u64)OTHER << 16 | (u64)0x85 << 40;
    expect("CALL to a task gate", attempt(call_task_gate, 0), NONE);
    expect("ran", runs, 1);
    __asm__ volatile("clts");
    prepare(other_iret);
    idt_set(0x90, 0, OTHER, 0x85, 0);
    expect("INT n to a task gate", attempt(int_task, 0), NONE);
    expect("ran", runs, 1);
    expect("NT set", seen[2] & NT, NT);
    __asm__ volatile("clts");

    prepare(other_error);
    idt[GP] = (u64)OTHER << 16 | (u64)0x85 << 40;
    expect("a fault through a task gate", attempt(fault_two_bytes, 0), NONE);
    expect("its error code", seen[0], 0xfff8);
    expect("RF in the image of the faulting task", *(volatile u32 *)(tss_area + 0x24) >> 16 & 1, 1);
    idt[GP] = gp_gate;
    __asm__ volatile("clts");
    {
        u64 ud_gate = idt[UD];

        prepare(other_two);
        *(volatile u32 *)(tss_area + 0x24) = 0;
        idt[UD] = (u64)OTHER << 16 | (u64)0x85 << 40;
        expect("a fault without an error code", attempt(ud2, 0), NONE);
        expect("RF in its image", *(volatile u32 *)(tss_area + 0x24) >> 16 & 1, 1);
        idt[UD] = ud_gate;
        prepare(other_iret);
        idt_set(0x90, 0, OTHER, 0x85, 0);
        expect("INT n", attempt(int_task, 0), NONE);
        expect("no RF in its image", *(volatile u32 *)(tss_area + 0x24) >> 16 & 1, 0);
        __asm__ volatile("clts");
    }

    df = (struct tss){.eip = (u32)df_task,
                      .eflags = 2,
                      .esp = (u32)df_stack + sizeof(df_stack),
                      .es = 0x10,
                      .cs = 0x08,
                      .ss = 0x10,
                      .ds = 0x10};
    gdt[DF_TASK / 8] = descriptor((u32)&df, sizeof(df) - 1, 0x89, 0);
    {
        u64 df_gate = idt[8];

        runs = 0;
        seen[0] = 1;
        idt[8] = (u64)DF_TASK << 16 | (u64)0x85 << 40;
        expect("a double fault through a task gate", attempt(bad_everything, 0), NONE);
        expect("ran", runs, 1);
        expect("error code", seen[0], 0);
        idt[8] = df_gate;
        idt[GP] = gp_gate;
        __asm__ volatile("clts");
    }

    for (unsigned i = 0; i < 22; i++)
        small[i] = 0;
    small[7] = (u16)(u32)small_task; /* IP: the segment's base makes up for its 16 bits */
    small[8] = 2;
    small[9] = 0x1234;
    small[13] = 0x800;
    small[17] = 0x10;
    small[18] = 0x80;
    small[19] = 0x10;
    small[20] = 0x10;
    gdt[0x80 / 8] = descriptor((u32)small_task & 0xffff0000, 0xfffff, 0x9b, 12);
    gdt[SMALL / 8] = descriptor((u32)small, sizeof(small) - 1, 0x81, 0);
    runs = 0;
    expect("CALL to a 16-bit TSS", attempt(call_small, 0), NONE);
    expect("ran", runs, 1);
    expect("AX", seen[0] & 0xffff, 0x1234);
    expect("SP", seen[1] & 0xffff, 0x800);
    __asm__ volatile("clts");

    /* What must not work. */
    prepare(other_iret);
    gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, 0x8b, 0);
    with_error("a busy TSS", call_task, GP, OTHER);
    gdt[OTHER / 8] = descriptor((u32)&other, sizeof(other) - 1, 0x09, 0);
    with_error("an absent TSS", call_task, NP, OTHER);
    gdt[OTHER / 8] = descriptor((u32)&other, 0x66, 0x89, 0);
    with_error("a TSS too short", call_task, TS, OTHER);
    *(u16 *)tss_area = OTHER;
    prepare(other_iret);
    with_error("IRET to a task that is not busy", iret_nt, TS, OTHER);
    expect("ours is still busy", type_of(MAIN), 11);

    /* Faults of the new task, in its context: we come back by the recovery path, in its TSS. */
    prepare(other_iret);
    other.ds = 0xfff8;
    with_error("a bad DS in the new task", call_task, TS, 0xfff8);
    expect("TR is the new task's", ({
               u16 tr;
               __asm__ volatile("str %0" : "=r"(tr));
               tr;
           }),
           OTHER);
    gdt[MAIN / 8] &= ~((u64)2 << 40);
    __asm__ volatile("ltr %0" : : "r"((u16)MAIN));
    __asm__ volatile("clts");
    /* Without CS or SS only another task can handle it. */
    bad_task("CS is data", offsetof(struct tss, cs), 0x10, TS, 0x10);
    bad_task("CS is null", offsetof(struct tss, cs), 0, TS, 0);
    bad_task("SS of another ring", offsetof(struct tss, ss), 0x2b, TS, 0x28);
    bad_task("SS is null", offsetof(struct tss, ss), 0, TS, 0);
    bad_task("LDT is data", offsetof(struct tss, ldt), 0x10, TS, 0x10);
    bad_task("LDT beyond the GDT", offsetof(struct tss, ldt), 0x2000, TS, 0x2000);
    gdt[ABSENT / 8] = descriptor(0, 0xfffff, 0x1b, 12);
    bad_task("CS is absent", offsetof(struct tss, cs), ABSENT, NP, ABSENT);
    bad_task("CS beyond the GDT", offsetof(struct tss, cs), 0x2008, TS, 0x2008);
    gdt[ABSENT / 8] = descriptor(0, 0xfffff, 0x13, 12);
    bad_task("SS is absent", offsetof(struct tss, ss), ABSENT, SS, ABSENT);
    bad_task("DS is absent", offsetof(struct tss, ds), ABSENT, NP, ABSENT);
    gdt[ABSENT / 8] = descriptor(0, 0xfff, 0x9b, 4);
    bad_task("EIP beyond the limit of CS", offsetof(struct tss, cs), ABSENT, GP, 0);

    /* The debug trap bit. */
    prepare(other_iret);
    other.trap = 1;
    trap_action = tf_set;
    trap_resume = 1;
    WRITE_DR(6, 0);
    expect("CALL to a TSS with T", attempt(call_task, 0) == DB, 1);
    trap_resume = 0;
    expect("#DB", seen[5], DB);
    expect("with BT", seen[6] & 0xe00f, 0x8000);
    expect("before its first instruction", runs, 1);
}
