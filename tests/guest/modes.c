/*
 * modes.c - real mode, 16- and 32-bit protected mode, compatibility and 64-bit mode, and the ways
 * between them; "unreal" segments; A20-less wraparound of segments. Built for 32 bits; assembly
 * below 64 KiB goes round all modes and leaves a trail.
 */
#include "kernel.h"

enum { LOW = 0x8000, TRAIL = 0x5000 };

extern u8 low_start[], low_end[];
void round_trip(void);
volatile u32 saved_sp;

/* Copied to 0x8000, and linked to run there: addresses are given relative to low_start. */
#define AT(label) "(" label " - low_start + 0x8000)"
__asm__(
    ".text\n"
    "low_start:\n"
    ".code16\n" /* CS 0x40 (16-bit), still protected */
    " movl %cr0, %eax; movw %cs, %bx; movw %bx, 0x5000\n"
    " andb $0xfe, %al; movl %eax, %cr0\n"
    " ljmp $0x800, $real_mode - low_start\n"
    "real_mode:\n"
    " movw %cs, %ax; movw %ax, 0x5002\n"
    " movw $0x500, %ax; movw %ax, %ds; movw $0x1234, 4\n" /* [0x5004] */
    " movw $0x700, %ax; movw %ax, %ss; movw $0x100, %sp\n"
    " pushw $0x4321; movw %sp, 6; popw 8\n" /* SP in [6], value in [8] */
    " movl $0x120000, %ebx; movl $0x99, %ecx\n"
    " movw $0, %ax; movw %ax, %es; movb %es:(%ebx), %cl; movb %cl, 10\n" /* unreal: limit 4 GiB
                                                                          */
    " lidtl %cs:real_idt - low_start\n"
    " int $0x41\n"
    " movw %ax, 12\n"
    " pushfl; popl %eax; movl %eax, 16\n"
    /* to 32-bit protected mode and on to long mode */
    " lgdtl %cs:gdt_image - low_start\n"
    " movl %cr0, %eax; orb $1, %al; movl %eax, %cr0\n"
    " ljmpl $0x08, $" AT(
        "protected32") "\n"
                       "int41: movw $0x5678, %ax; iretw\n"
                       "real_idt: .word 0x3ff; .long 0\n"
                       "gdt_image: .word 511; .long gdt\n"
                       ".code32\n"
                       "protected32:\n"
                       " movw $0x10, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss; movl "
                       "saved_sp, %esp\n"
                       " movl $1, 0x5014\n"
                       " movl %cr4, %eax; orl $0x20, %eax; movl %eax, %cr4; movl $boot_pml4, "
                       "%eax; movl %eax, %cr3\n"
                       " movl $0xc0000080, %ecx; rdmsr; orl $0x100, %eax; wrmsr; rdmsr; movl "
                       "%eax, 0x5018\n"
                       " movl %cr0, %eax; orl $0x80000000, %eax; movl %eax, %cr0\n"
                       " movl $0xc0000080, %ecx; rdmsr; movl %eax, 0x501c\n"
                       " movl $0x5, %eax; decl %eax; movl %eax, 0x5020\n" /* compatibility mode:
                                                                             DEC */
                       " ljmp $0x60, $" AT(
                           "long64") "\n"
                                     ".code64\n"
                                     "long64: movq $-1, %rax; movl $1, %eax; movq %rax, "
                                     "0x5028\n" /* zero-extends */
                                     " movq $0x1122334455667788, %r10; movq %r10, 0x5030\n"
                                     " movq gdt_far - low_start + 0x8000, %rdi\n"
                                     " ljmpl *" AT(
                                         "gdt_far") "\n"
                                                    "gdt_far: .long " AT(
                                                        "compat") "; .word 0x08\n"
                                                                  ".code32\n"
                                                                  "compat: movl $7, 0x5038; "
                                                                  "movl %cr0, %eax; andl "
                                                                  "$0x7fffffff, %eax; movl "
                                                                  "%eax, %cr0\n"
                                                                  " movl $0xc0000080, %ecx; "
                                                                  "rdmsr; movl %eax, 0x503c; "
                                                                  "andl $~0x100, %eax; wrmsr\n"
                                                                  " movl %cr4, %eax; andl "
                                                                  "$~0x20, %eax; movl %eax, "
                                                                  "%cr4\n"
                                                                  " ljmp $0x08, $trip_over\n"
                                                                  "low_end:\n"
                                                                  "round_trip: pusha; movl "
                                                                  "%esp, saved_sp\n"
                                                                  " movw $0x10, %ax; movw %ax, "
                                                                  "%es\n"
                                                                  " ljmp $0x68, $0x8000\n" /* 16-bit
                                                                                              code,
                                                                                              base
                                                                                              0
                                                                                            */
                                                                  "trip_over: movw $0x10, %ax; "
                                                                  "movw %ax, %ds; movw %ax, "
                                                                  "%es; movw %ax, %ss; movl "
                                                                  "saved_sp, %esp\n"
                                                                  " movw %ax, %fs; movw %ax, "
                                                                  "%gs; popa; ret\n");

static void lmsw_clear(word x)
{
    __asm__ volatile("lmsw %w0" : : "r"(0));
}

static u32 trail(unsigned at)
{
    return *(volatile u32 *)(TRAIL + at);
}

void test(void)
{
    for (u8 *p = low_start; p < low_end; p++)
        *(volatile u8 *)(LOW + (p - low_start)) = *p;
    *(volatile u32 *)(0x41 * 4) = 0x08000000; /* patched below: 0800:int41 */
    {
        extern u8 int41[];

        *(volatile u32 *)(0x41 * 4) = 0x08000000 | (u32)(int41 - low_start);
    }
    *(volatile u8 *)0x120000 = 0x77;
    boot_pml4[0] = (word)boot_pdpt | 3;
    boot_pdpt[0] = (word)boot_pd | 3;
    boot_pd[0] = 0x83; /* entries of 8 bytes: the upper halves are zero */
    gdt[0x60 / 8] = descriptor(0, 0xfffff, 0x9b, 10);
    gdt[0x68 / 8] = descriptor(0, 0xffff, 0x9b, 0);
    round_trip();
    {
        struct {
            u16 limit;
            u32 base;
        } __attribute__((packed)) idtr = {0x7ff, (u32)(word)idt};

        __asm__ volatile("lidt %0" : : "m"(idtr));
    }
    expect("CS in 16-bit protected mode", trail(0) & 0xffff, 0x68);
    expect("CS in real mode", trail(0) >> 16, 0x800);
    expect("a store in real mode", trail(4) & 0xffff, 0x1234);
    expect("SP in real mode", trail(4) >> 16, 0xfe);
    expect("what was pushed", trail(8) & 0xffff, 0x4321);
    expect("a load far above 64 KiB (ES keeps its limit)", trail(8) >> 16 & 0xff, 0x77);
    expect("INT and IRET in real mode", trail(12) & 0xffff, 0x5678);
    expect("flags", trail(16) & ~0xd5u & ~0x10u, 2);
    expect("32-bit protected mode", trail(0x14), 1);
    expect("EFER with LME", trail(0x18) & 0x500, 0x100);
    expect("LMA came with paging", trail(0x1c) & 0x500, 0x500);
    expect("compatibility mode", trail(0x20), 4);
    expect("64-bit mode", trail(0x28), 1);
    expect("zero extension", trail(0x2c), 0);
    expect("R10", trail(0x34), 0x11223344);
    expect("back in compatibility mode", trail(0x38), 7);
    expect("LMA went with paging", trail(0x3c) & 0x500, 0x100);
    expect("LMSW cannot leave protected mode", (attempt(lmsw_clear, 0), READ_CR(0) & 1), 1);
}
