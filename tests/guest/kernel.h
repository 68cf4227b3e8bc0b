/*
 * kernel.h - what the bare-metal test kernels share.
 *
 * A kernel is one subject. It prints a line for each check on port 0xe9 and ends through port
 * 0xf4: 0 when all passed. An exception during `attempt(f, x)` ends f, with what the processor
 * delivered in `trap`; without one trap.vector is NONE. Ring 3 comes back by INT 0x80.
 *
 * GDT: 08 code, 10 data, 18 64-bit code (of ring 0), 28 data, 33-1=30 code of ring 3, 38 32-bit
 * code of ring 3; entries from 8 on (selector 0x40) are the test's.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word; /* as wide as a register */

enum { NONE = 0x100, USER_DONE = 0x80, FIRST_FREE = 8, VECTOR_FREE = 0x90 };
enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM };

struct trap {
    word vector, error, ip, cs, flags, sp, ss, cr2;
    word frame; /* address of `vector` on the handler's stack */
    word handler_ss, handler_cs, ax;
};
extern volatile struct trap trap;
extern volatile word trap_count;
extern volatile u8 trap_resume; /* exceptions return to where they happened, through trap_hook */
extern void (*volatile trap_action)(
    word *frame); /* called then: frame[0] vector, [1] error, [2] IP... */

extern volatile u64 gdt[64];
extern u8 stubs[256][16], user_start[], user_end[], kernel_end[], stack_top[],
    exception_stack_top[];
extern word boot_pml4[], boot_pml5[], boot_pdpt[], boot_pd[];
extern void user_load(void), user_store(void), user_call(void), user_nothing(void);
extern void kernel_return(void);
int protect(void) __attribute__((returns_twice));
void enter_user(word ip, word sp, word flags, word argument) __attribute__((noreturn));

void print(const char *s);
void print_hex(u64 v);
/* One check: prints its name, and what differed. */
void expect(const char *name, u64 got, u64 want);
_Noreturn void finish(void);
void test(void); /* the kernel's subject */

/* Run; the vector of what ended it, or NONE. */
word attempt(void (*f)(word), word argument);
word attempt_user(void (*f)(void), word argument); /* in ring 3: USER_DONE if it came to its end */

struct gate {
    u64 low, high;
};
void idt_set(unsigned vector, const void *handler, u16 selector, unsigned type_dpl_p,
             unsigned ist); /* type_dpl_p: 0x8e a present 32/64-bit interrupt gate of ring 0 */
u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags); /* flags: G 8, D 4, L 2 */
extern u8 user_stack[4096], tss_area[0x2100];
extern volatile u64 idt[512];

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
static inline u8 inb(u16 port)
{
    u8 v;

    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

#define READ_CR(n)                                                                                 \
    ({                                                                                             \
        word v_;                                                                                   \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v_) : : "memory");                            \
        v_;                                                                                        \
    })
#define WRITE_CR(n, v) __asm__ volatile("mov %0, %%cr" #n : : "r"((word)(v)) : "memory")
#define READ_DR(n)                                                                                 \
    ({                                                                                             \
        word v_;                                                                                   \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v_) : : "memory");                            \
        v_;                                                                                        \
    })
#define WRITE_DR(n, v) __asm__ volatile("mov %0, %%dr" #n : : "r"((word)(v)) : "memory")

static inline u64 rdmsr(u32 index)
{
    u32 low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (u64)high << 32;
}
static inline void wrmsr(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" : : "a"((u32)value), "d"((u32)(value >> 32)), "c"(index) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                     : "a"(leaf), "c"(sub));
}
static inline void invlpg(word linear)
{
    __asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

#endif
