/*
 * start.S - entry by Multiboot in 32-bit protected mode; exception stubs; ways into ring 3.
 *
 * 64-bit kernels get the low 4 GiB mapped one to one in 2 MiB pages first, with five levels where
 * LA57 is defined.
 */
.set MAGIC, 0x1badb002
.set FLAGS, 1 << 16 /* addresses below: the file is no ELF */

.section .multiboot, "a"
.align 4
header:
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)
    .long header, header, data_end, kernel_end, start

.section .text.start, "ax"
.code32
.global start
start:
    cld
    movl $stack_top, %esp
    lgdt gdt_pointer
    ljmp $0x08, $1f
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
#ifndef __x86_64__
    call kernel_main
    hlt
#else
    movl $boot_pdpt + 7, boot_pml4
    movl $boot_pd, %edi
    movl $boot_pdpt, %ebx
    movl $4, %ecx
2:  leal 7(%edi), %eax
    movl %eax, (%ebx)
    addl $8, %ebx
    addl $4096, %edi
    loop 2b
    movl $boot_pd, %edi
    xorl %ebx, %ebx
    movl $2048, %ecx
3:  leal 0x87(%ebx), %eax
    movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %ebx
    loop 3b
    movl $0x20, %eax /* PAE */
#ifdef LA57
    orl $0x1000, %eax
    movl $boot_pml4 + 7, boot_pml5
    movl $boot_pml5, %ecx
#else
    movl $boot_pml4, %ecx
#endif
    movl %eax, %cr4
    movl %ecx, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax /* SCE, LME, NXE */
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x18, $4f
.code64
4:  movl $stack_top, %esp
    call kernel_main
    hlt
#endif

/* Every vector: push an error code where the processor does not, the number, and collect. */
.text
.altmacro
.macro STUB n
    .align 16
stub_\n:
    .if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17)
    .else
    push $0
    .endif
    push $\n
    jmp collect
.endm

.align 16
.global stubs
stubs:
.set i, 0
.rept 256
    STUB %i
    .set i, i + 1
.endr
stubs_end:

#ifdef __x86_64__
/* The frame: vector, error, RIP, CS, RFLAGS, RSP, SS. */
.global collect
collect:
    push %rax
    mov 8(%rsp), %rax
    mov %rax, trap+0
    mov 16(%rsp), %rax
    mov %rax, trap+8
    mov 24(%rsp), %rax
    mov %rax, trap+16
    mov 32(%rsp), %rax
    mov %rax, trap+24
    mov 40(%rsp), %rax
    mov %rax, trap+32
    mov 48(%rsp), %rax
    mov %rax, trap+40
    mov 56(%rsp), %rax
    mov %rax, trap+48
    mov %cr2, %rax
    mov %rax, trap+56
    lea 8(%rsp), %rax
    mov %rax, trap+64
    mov %ss, %eax
    mov %rax, trap+72
    mov %cs, %eax
    mov %rax, trap+80
    pop %rax
    mov %rax, trap+88
    incq trap_count
    cmpb $0, trap_resume(%rip)
    jne resume
    mov recovery+0, %rsp
    mov recovery+8, %rbp
    mov recovery+16, %rbx
    mov recovery+24, %r12
    mov recovery+32, %r13
    mov recovery+40, %r14
    mov recovery+48, %r15
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    pushq $2
    popfq
    mov $1, %eax
    jmp *recovery+56

/* Go on where it happened: interrupts, traps. The handler in C may change the frame. */
resume:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    lea 72(%rsp), %rdi
    cld
    call trap_hook
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/* int protect(void): 0; 1 when an exception came back here. */
.global protect
protect:
    mov (%rsp), %rax
    mov %rax, recovery+56
    lea 8(%rsp), %rax
    mov %rax, recovery+0
    mov %rbp, recovery+8
    mov %rbx, recovery+16
    mov %r12, recovery+24
    mov %r13, recovery+32
    mov %r14, recovery+40
    mov %r15, recovery+48
    xor %eax, %eax
    ret

/* void enter_user(rip, rsp, flags, argument): never returns; the way back is an exception. */
.global enter_user
enter_user:
    pushq $0x2b
    push %rsi
    push %rdx
    pushq $0x33
    push %rdi
    mov %rcx, %rdi
    iretq

.section .user, "ax"
/* In ring 3: argument in RDI. */
.global user_load, user_store, user_call, user_nothing
user_load:
    mov (%rdi), %al
    int $0x80
user_store:
    movb $0x90, (%rdi)
    int $0x80
user_call:
    call *%rdi
    int $0x80
user_nothing:
    int $0x80
#else
/* The frame: vector, error, EIP, CS, EFLAGS, and ESP, SS from outer levels. */
.global collect
collect:
    push %eax
    mov %ss:4(%esp), %eax
    mov %eax, %ss:trap+0
    mov %ss:8(%esp), %eax
    mov %eax, %ss:trap+4
    mov %ss:12(%esp), %eax
    mov %eax, %ss:trap+8
    mov %ss:16(%esp), %eax
    mov %eax, %ss:trap+12
    mov %ss:20(%esp), %eax
    mov %eax, %ss:trap+16
    mov %ss:24(%esp), %eax
    mov %eax, %ss:trap+20
    mov %ss:28(%esp), %eax
    mov %eax, %ss:trap+24
    mov %cr2, %eax
    mov %eax, %ss:trap+28
    lea 4(%esp), %eax
    mov %eax, %ss:trap+32
    mov %ss, %eax
    mov %eax, %ss:trap+36
    mov %cs, %eax
    mov %eax, %ss:trap+40
    pop %eax
    mov %eax, %ss:trap+44
    incl %ss:trap_count
    cmpb $0, %ss:trap_resume
    jne resume
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov recovery+0, %esp
    mov recovery+4, %ebp
    mov recovery+8, %ebx
    mov recovery+12, %esi
    mov recovery+16, %edi
    ljmp $0x08, $1f
1:  push $2
    popfl
    mov $1, %eax
    jmp *recovery+20

resume:
    pusha
    push %ds
    push %es
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    lea 40(%esp), %eax
    cld
    push %eax
    call trap_hook
    pop %eax
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

.global protect
protect:
    mov (%esp), %eax
    mov %eax, recovery+20
    lea 4(%esp), %eax
    mov %eax, recovery+0
    mov %ebp, recovery+4
    mov %ebx, recovery+8
    mov %esi, recovery+12
    mov %edi, recovery+16
    xor %eax, %eax
    ret

.global enter_user
enter_user:
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    mov 12(%esp), %edx
    mov 16(%esp), %edi
    pushl $0x2b
    push %ecx
    push %edx
    pushl $0x33
    push %eax
    mov $0x2b, %eax
    mov %eax, %ds
    mov %eax, %es
    iret

.section .user, "ax"
.global user_load, user_store, user_call, user_nothing
user_load:
    mov (%edi), %al
    int $0x80
user_store:
    movb $0x90, (%edi)
    int $0x80
user_call:
    call *%edi
    int $0x80
user_nothing:
    int $0x80
#endif

/* Where fetches go: returns at once. */
.text
.global kernel_return
kernel_return:
    ret

.data
.align 16
.global gdt, gdt_pointer
/* 08 code32 ring 0, 10 data ring 0, 18 code64 ring 0, 20 data ring 0 (scratch), 28 data ring 3,
 * 30 code ring 3 of the kernel's size, 38 other code ring 3; the rest is for tests. */
gdt:
    .quad 0
#ifdef __x86_64__
    .quad 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff
    .quad 0x00cff3000000ffff, 0x00affb000000ffff, 0x00cffb000000ffff
#else
    .quad 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00cf93000000ffff
    .quad 0x00cff3000000ffff, 0x00cffb000000ffff, 0x00cffb000000ffff
#endif
    .fill 56, 8, 0
gdt_pointer:
    .word 64 * 8 - 1
    .long gdt, 0

.bss
.align 4096
.global boot_pml4, boot_pml5, boot_pdpt, boot_pd
boot_pml5: .space 4096
boot_pml4: .space 4096
boot_pdpt: .space 4096
boot_pd:   .space 4096 * 4
    .space 16384
.global stack_top
stack_top:
    .space 16384
.global exception_stack_top
exception_stack_top:
.global trap, trap_count, trap_resume, recovery
.align 16
trap: .space 128
trap_count: .space 8
trap_resume: .space 8
recovery: .space 128
