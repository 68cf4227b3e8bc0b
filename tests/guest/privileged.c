/*
 * privileged.c - privileged and sensitive instructions, each often enough to be translated: what
 * they do, what they refuse, and that what follows them sees it: segment bases, mappings, code.
 *
 * Everything runs ROUNDS times, and a check fails if any round was wrong. Faults belong to the
 * instruction, so what stands before it has happened and what stands behind it has not.
 */
#include "kernel.h"

enum { ROUNDS = 12 };
enum { FS_BASE = 0xc0000100, GS_BASE, KERNEL_GS_BASE, TSC_AUX, UNKNOWN_MSR = 0x12345 };
enum { CR0_TS = 8, CR4_TSD = 4, CR4_FSGSBASE = 1 << 16, CR4_PCIDE = 1 << 17 };
enum { P = 1, W = 2, U = 4, PS = 0x80 };

static const u64 bad_base = 0x8000000000000000;

/* ---- segment bases -------------------------------------------------------------------------- */

static volatile u64 places[4] = {0x1111, 0x2222, 0x3333, 0x4444};

static void write_fs(word v)
{
    __asm__ volatile("wrfsbase %0" : : "r"(v));
}
static void write_gs(word v)
{
    __asm__ volatile("wrgsbase %0" : : "r"(v));
}
static void read_fs(word v)
{
    __asm__ volatile("rdfsbase %0" : "=r"(v));
}
static void read_gs_32(word v)
{
    __asm__ volatile("rdgsbase %k0" : "=r"(v));
}
static void user_bases(void)
{
    __asm__ volatile("rdfsbase %%rax; add $8, %%rax; wrfsbase %%rax; mov %%fs:0, %%rbx; int $0x80"
                     :
                     :
                     : "rax", "rbx");
}

static void bases(void)
{
    unsigned same_block = 0, read_back = 0, cut = 0, by_msr = 0, swapped = 0, canonical = 0,
             undefined = 0, in_user = 0, memory_held = 0;
    word cr4 = READ_CR(4);

    for (unsigned i = 0; i < ROUNDS; i++) {
        word at = (word)&places[i & 3], other = (word)&places[(i + 1) & 3], v, w, x;

        WRITE_CR(4, cr4 | CR4_FSGSBASE);
        __asm__ volatile("mov %%fs:0, %0; wrfsbase %4; mov %%fs:0, %1; wrgsbase %3;"
                         "mov %%gs:0, %2"
                         : "=&r"(w), "=&r"(v), "=&r"(x)
                         : "r"(other), "r"(at)
                         : "memory");
        same_block += v == places[i & 3] && x == places[(i + 1) & 3];
        __asm__ volatile("rdfsbase %0; rdgsbase %1" : "=r"(v), "=r"(w));
        read_back += v == at && w == other && rdmsr(FS_BASE) == at && rdmsr(GS_BASE) == other;
        /* R10, R11, R15 and a 32-bit operand */
        __asm__ volatile("mov %2, %%r10; wrgsbase %%r10; rdgsbase %%r15; rdfsbase %%r11;"
                         "mov %%r15, %0; mov %%r11, %1"
                         : "=r"(v), "=r"(w)
                         : "r"(at)
                         : "r10", "r11", "r15");
        memory_held += v == at && w == at;
        v = 0xaaaaaaaa00000000 | (u32)at;
        __asm__ volatile("wrfsbase %k1; mov $-1, %0; rdfsbase %k0" : "=&r"(w) : "r"(v));
        cut += w == at && rdmsr(FS_BASE) == at;

        __asm__ volatile("mov %%fs:0, %0; wrmsr; mov %%fs:0, %1"
                         : "=&r"(v), "=&r"(w)
                         : "c"(FS_BASE), "a"((u32)other), "d"(0)
                         : "memory");
        by_msr += v == places[i & 3] && w == places[(i + 1) & 3];
        wrmsr(KERNEL_GS_BASE, other);
        wrmsr(GS_BASE, at);
        __asm__ volatile("mov %%gs:0, %0; swapgs; mov %%gs:0, %1; wrmsr; swapgs; mov %%gs:0, %2;"
                         "swapgs"
                         : "=&r"(v), "=&r"(w), "=&r"(x)
                         : "c"(KERNEL_GS_BASE), "a"((u32)other), "d"(0)
                         : "memory");
        swapped += v == places[i & 3] && w == places[(i + 1) & 3] && x == w;

        wrmsr(FS_BASE, at);
        canonical += attempt(write_fs, bad_base) == GP && rdmsr(FS_BASE) == at &&
                     attempt(write_gs, ~bad_base) == GP;
        write_fs((word)places - 8);
        in_user += attempt_user(user_bases, 0) == USER_DONE && rdmsr(FS_BASE) == (word)places;
        WRITE_CR(4, cr4 & ~(word)CR4_FSGSBASE);
        undefined += attempt(write_fs, 0) == UD && attempt(read_fs, 0) == UD &&
                     attempt(read_gs_32, 0) == UD && attempt_user(user_bases, 0) == UD;
    }
    WRITE_CR(4, cr4);
    expect("WRFSBASE, WRGSBASE count for the next access", same_block, ROUNDS);
    expect("RDFSBASE, RDGSBASE and the MSRs agree", read_back, ROUNDS);
    expect("bases by R10, R11 and R15", memory_held, ROUNDS);
    expect("32-bit operands are cut and extended", cut, ROUNDS);
    expect("WRMSR of FS_BASE counts for the next access", by_msr, ROUNDS);
    expect("WRMSR of KERNEL_GS_BASE counts for SWAPGS", swapped, ROUNDS);
    expect("bases that are not canonical", canonical, ROUNDS);
    expect("bases of ring 3", in_user, ROUNDS);
    expect("without CR4.FSGSBASE: #UD", undefined, ROUNDS);
}

/* ---- time, names ---------------------------------------------------------------------------- */

static void user_rdtsc(void)
{
    __asm__ volatile("rdtsc; int $0x80" : : : "rax", "rdx");
}
static void user_rdtscp(void)
{
    __asm__ volatile("rdtscp; int $0x80" : : : "rax", "rcx", "rdx");
}
static void user_rdpid(void)
{
    __asm__ volatile("rdpid %%r10; int $0x80" : : : "r10");
}
static void user_cpuid(void)
{
    __asm__ volatile("cpuid; int $0x80" : : : "rax", "rbx", "rcx", "rdx");
}

static void time_and_names(void)
{
    unsigned grows = 0, aux = 0, pid = 0, user = 0, denied = 0, id = 0;
    word cr4 = READ_CR(4);

    for (unsigned i = 0; i < ROUNDS; i++) {
        word low, high, low2, high2, c, v, r[4];

        wrmsr(TSC_AUX, 0x1000 + i);
        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
        __asm__ volatile("mov $-1, %%rcx; rdtscp" : "=a"(low2), "=d"(high2), "=c"(c));
        grows += (low2 | high2 << 32) > (low | high << 32) && !(low2 >> 32) && !(high2 >> 32);
        aux += c == 0x1000 + i;
        __asm__ volatile("rdpid %%r11; rdpid %0; sub %0, %%r11; add %%r11, %0"
                         : "=&r"(v)
                         :
                         : "r11");
        pid += v == 0x1000 + i;
        WRITE_CR(4, cr4 & ~(word)CR4_TSD);
        user += attempt_user(user_rdtsc, 0) == USER_DONE &&
                attempt_user(user_rdtscp, 0) == USER_DONE &&
                attempt_user(user_rdpid, 0) == USER_DONE &&
                attempt_user(user_cpuid, 0) == USER_DONE;
        WRITE_CR(4, cr4 | CR4_TSD);
        denied += attempt_user(user_rdtsc, 0) == GP && attempt_user(user_rdtscp, 0) == GP;
        r[0] = r[2] = 0xffffffff00000000;
        __asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
        id += r[0] >= 7 && !((r[0] | r[1] | r[2] | r[3]) >> 32);
    }
    WRITE_CR(4, cr4);
    expect("RDTSCP is later than RDTSC", grows, ROUNDS);
    expect("RDTSCP has TSC_AUX", aux, ROUNDS);
    expect("RDPID has TSC_AUX", pid, ROUNDS);
    expect("RDTSC, RDTSCP, RDPID, CPUID in ring 3", user, ROUNDS);
    expect("not with CR4.TSD", denied, ROUNDS);
    expect("CPUID clears upper halves", id, ROUNDS);
}

/* ---- MSRs, control registers ---------------------------------------------------------------- */

static void read_msr(word index)
{
    (void)rdmsr((u32)index);
}
static void write_msr(word index)
{
    wrmsr((u32)index, bad_base);
}
static void use_sse(word n)
{
    __asm__ volatile("pxor %xmm0, %xmm0");
}
static void write_cr0(word v)
{
    WRITE_CR(0, v);
}
static void write_cr4(word v)
{
    WRITE_CR(4, v);
}
static void write_cr3(word v)
{
    WRITE_CR(3, v);
}

#define USER_TRIES(name, code)                                                                     \
    static void name(void)                                                                         \
    {                                                                                              \
        __asm__ volatile(code "; int $0x80" : : : "rax", "rcx", "rdx");                            \
    }
USER_TRIES(user_rdmsr, "mov $0xc0000100, %%ecx; rdmsr")
USER_TRIES(user_wrmsr, "mov $0xc0000100, %%ecx; wrmsr")
USER_TRIES(user_clts, "clts")
USER_TRIES(user_from_cr, "mov %%cr2, %%rax")
USER_TRIES(user_to_cr, "mov %%rax, %%cr3")
USER_TRIES(user_invlpg, "invlpg (%%rsp)")
USER_TRIES(user_in, "in $0xe9, %%al")
USER_TRIES(user_out, "mov $0xe9, %%dx; out %%al, %%dx")
USER_TRIES(user_segment, "mov %%cs, %%eax; mov %%ss, %%ax")

static void system_registers(void)
{
    static void (*const denied[])(void) = {user_rdmsr, user_wrmsr,  user_clts, user_from_cr,
                                           user_to_cr, user_invlpg, user_in,   user_out};
    unsigned msr_faults = 0, ts = 0, reads = 0, refused = 0, in_user = 0, segments = 0,
             cr_faults = 0, cr2 = 0;
    word cr0 = READ_CR(0), cr4 = READ_CR(4), cr3 = READ_CR(3);

    WRITE_CR(4, cr4 | 0x200);
    cr4 = READ_CR(4);
    for (unsigned i = 0; i < ROUNDS; i++) {
        word v, w, faults = 0;

        msr_faults += attempt(read_msr, UNKNOWN_MSR) == GP &&
                      attempt(write_msr, UNKNOWN_MSR) == GP && attempt(write_msr, FS_BASE) == GP;
        WRITE_CR(0, cr0 | CR0_TS);
        v = attempt(use_sse, 0);
        __asm__ volatile("clts; clts; pxor %%xmm0, %%xmm0" : : : "memory");
        ts += v == NM && !(READ_CR(0) & CR0_TS);
        WRITE_CR(2, (word)0x123456789 + i);
        __asm__ volatile("mov %%cr2, %%r15; mov %%r15, %0; mov %%cr2, %1"
                         : "=r"(v), "=r"(w)
                         :
                         : "r15");
        cr2 += v == (word)0x123456789 + i && v == w;
        reads += READ_CR(0) == cr0 && READ_CR(3) == cr3 && READ_CR(4) == cr4;
        cr_faults += attempt(write_cr0, cr0 & ~(word)1) == GP &&
                     attempt(write_cr4, cr4 | 1 << 31) == GP &&
                     attempt(write_cr3, (word)1 << 60) == GP && READ_CR(0) == cr0 &&
                     READ_CR(4) == cr4 && READ_CR(3) == cr3;
        for (unsigned n = 0; n < sizeof(denied) / sizeof(denied[0]); n++)
            faults += attempt_user(denied[n], 0) == GP;
        refused += faults == sizeof(denied) / sizeof(denied[0]);
        in_user += attempt_user(user_segment, 0) == USER_DONE;
        __asm__ volatile("mov $-1, %0; mov $-1, %%r10; mov %%cs, %k0; mov %%ss, %%r10w;"
                         "mov %%r10, %1"
                         : "=&r"(v), "=r"(w)
                         :
                         : "r10");
        segments += v == 0x18 && (w >> 16) == 0xffffffffffff && (w & 0xffff) != 0xffff;
    }
    expect("MSRs that are not there, values that are not canonical", msr_faults, ROUNDS);
    expect("CR0.TS by MOV, CLTS", ts, ROUNDS);
    expect("CR2 as it was written", cr2, ROUNDS);
    expect("CR0, CR3, CR4 as they are", reads, ROUNDS);
    expect("control registers that refuse", cr_faults, ROUNDS);
    expect("what ring 3 may not", refused, ROUNDS);
    expect("MOV from segment registers in ring 3", in_user, ROUNDS);
    expect("MOV from segment registers: 32 bits, 16 bits", segments, ROUNDS);
}

/* ---- mappings ------------------------------------------------------------------------------- */

enum { WINDOW = 0x40000000 }; /* beyond what is mapped: a page of its own in each space */

static u64 top[2][512] __attribute__((aligned(4096)));
static u64 pdpt[2][512] __attribute__((aligned(4096)));
static u64 pd[2][512] __attribute__((aligned(4096)));
static u64 pt[2][512] __attribute__((aligned(4096)));
static u64 data[2][512] __attribute__((aligned(4096)));
static u8 code[2][4096] __attribute__((aligned(4096)));

static void space_make(unsigned s)
{
    u64 low = *(const u64 *)boot_pml4 & ~0xfffull;

    for (unsigned i = 0; i < 512; i++) {
        top[s][i] = boot_pml4[i];
        pdpt[s][i] = ((const u64 *)low)[i];
    }
    top[s][0] = (word)pdpt[s] | P | W | U;
    pdpt[s][WINDOW >> 30] = (word)pd[s] | P | W | U;
    pd[s][0] = (word)pt[s] | P | W | U;
    pt[s][0] = (word)data[s] | P | W | U;
    pt[s][1] = (word)code[s] | P | W | U;
    data[s][0] = 0x1000 + s;
}

/* mov cr3, rdi (or invlpg [rdi]); mov eax, n; ret */
static void code_make(unsigned s, u8 third, u32 n)
{
    u8 *p = code[s];

    p[0] = 0x0f;
    p[1] = third == 0x3f ? 0x01 : 0x22;
    p[2] = third;
    p[3] = 0xb8;
    p[4] = (u8)n;
    p[5] = (u8)(n >> 8);
    p[6] = p[7] = 0;
    p[8] = 0xc3;
}

static word call_code(word argument)
{
    word v;

    __asm__ volatile("call *%2"
                     : "=a"(v)
                     : "D"(argument), "r"((word)WINDOW + 4096)
                     : "memory", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11");
    return v;
}

static void switches(bool pcid, const char *of_data, const char *of_code)
{
    const u64 keep = pcid ? (u64)1 << 63 : 0;
    word old = READ_CR(3), cr4 = READ_CR(4), cr3[2];
    unsigned right = 0, fetched = 0;

    if (pcid)
        WRITE_CR(4, cr4 | CR4_PCIDE);
    for (unsigned s = 0; s < 2; s++) {
        cr3[s] = (word)top[s] | (pcid ? s + 1 : 0);
        code_make(s, 0xdf, 0x100 + s);
    }
    WRITE_CR(3, cr3[0]);
    for (unsigned i = 0; i < ROUNDS; i++) {
        word a, b, c;

        __asm__ volatile("mov (%5), %0; mov %3, %%cr3; mov (%5), %1; mov %4, %%cr3; mov (%5), %2"
                         : "=&r"(a), "=&r"(b), "=&r"(c)
                         : "r"(cr3[1] | keep), "r"(cr3[0] | keep), "r"((word)WINDOW)
                         : "memory");
        right += a == 0x1000 && b == 0x1001 && c == 0x1000;
        a = call_code(cr3[1] | keep);
        b = call_code(cr3[0] | keep);
        fetched += a == 0x101 && b == 0x100;
    }
    WRITE_CR(3, old);
    WRITE_CR(4, cr4);
    expect(of_data, right, ROUNDS);
    expect(of_code, fetched, ROUNDS);
}

static void invalidations(void)
{
    volatile u64 *p = (volatile u64 *)WINDOW;
    word old = READ_CR(3);
    unsigned right = 0, fetched = 0, absent = 0, by_segment = 0;

    code_make(0, 0x3f, 0x200);
    code_make(1, 0x3f, 0x201);
    WRITE_CR(3, (word)top[0]);
    for (unsigned i = 0; i < ROUNDS; i++) {
        word a, b, c;

        __asm__ volatile("mov (%3), %0; mov %4, (%6); invlpg (%3); mov (%3), %1;"
                         "mov %5, (%6); invlpg (%3); mov (%3), %2"
                         : "=&r"(a), "=&r"(b), "=&r"(c)
                         : "r"(p), "r"((u64)(word)data[1] | P | W), "r"((u64)(word)data[0] | P | W),
                           "r"(&pt[0][0])
                         : "memory");
        right += a == 0x1000 && b == 0x1001 && c == 0x1000;
        wrmsr(FS_BASE, (word)WINDOW - 0x1000);
        __asm__ volatile("mov (%2), %0; mov %3, (%4); invlpg %%fs:0x1000; mov (%2), %1"
                         : "=&r"(a), "=&r"(b)
                         : "r"(p), "r"((u64)(word)data[1] | P | W), "r"(&pt[0][0])
                         : "memory");
        by_segment += a == 0x1000 && b == 0x1001;
        pt[0][0] = (word)data[0] | P | W;
        invlpg(WINDOW);
        /* The page of the code itself. */
        call_code(WINDOW);
        pt[0][1] = (word)code[1] | P | W;
        a = call_code(WINDOW + 4096);
        b = call_code(WINDOW);
        pt[0][1] = (word)code[0] | P | W;
        c = call_code(WINDOW + 4096);
        fetched += a == 0x201 && b == 0x201 && c == 0x200;
        invlpg(0x123456789000);
        absent += *p == 0x1000;
    }
    WRITE_CR(3, old);
    expect("INVLPG counts for the next access", right, ROUNDS);
    expect("INVLPG by a segment", by_segment, ROUNDS);
    expect("INVLPG counts for the next instruction", fetched, ROUNDS);
    expect("INVLPG of an address nothing is at", absent, ROUNDS);
}

/* ---- ports, SERIALIZE ----------------------------------------------------------------------- */

static void ports(void)
{
    unsigned bytes = 0, words = 0, longs = 0, fixed = 0, kept = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        word a, b, c, d, sp = 0, sp2 = 0;

        /* Nothing answers at 0x80 and 0x1234: ones. */
        __asm__ volatile("mov %%rsp, %5; mov $0x1234, %%edx; xor %%eax, %%eax; in %%dx, %%al;"
                         "mov %%rax, %0; mov $-1, %%rax; shl $16, %%rax; in %%dx, %%ax;"
                         "mov %%rax, %1; mov $0x55, %%eax; in %%dx, %%eax; mov %%rax, %2;"
                         "xor %%eax, %%eax; in $0x80, %%al; mov %%rax, %3; out %%al, $0x80;"
                         "out %%eax, %%dx; mov %%rsp, %4"
                         : "=&r"(a), "=&r"(b), "=&r"(c), "=&r"(d), "=&r"(sp), "=&r"(sp2)
                         :
                         : "rax", "rdx", "memory");
        bytes += a == 0xff;
        words += b == ~(word)0;
        longs += c == 0xffffffff;
        fixed += d == 0xff;
        kept += sp == sp2;
    }
    expect("IN of a byte keeps the rest", bytes, ROUNDS);
    expect("IN of a word", words, ROUNDS);
    expect("IN of 32 bits clears the upper half", longs, ROUNDS);
    expect("IN of a port in the instruction", fixed, ROUNDS);
    expect("and nothing else changes", kept, ROUNDS);
}

static void serializing(void)
{
    unsigned right = 0;

    for (unsigned i = 0; i < ROUNDS; i++) {
        word v;

        __asm__ volatile("movb %b1, 1f+1(%%rip); .byte 0x0f, 0x01, 0xe8; 1: mov $1, %%al;"
                         "movzbl %%al, %k0"
                         : "=&a"(v)
                         : "q"((word)i + 7)
                         : "memory");
        right += v == i + 7;
    }
    expect("SERIALIZE, then code that has just changed", right, ROUNDS);
}

void test(void)
{
    word cr0 = READ_CR(0);

    WRITE_CR(0, cr0 & ~(word)4); /* EM */
    /* Selectors that a return to ring 3 leaves alone, and an I/O map that allows nothing. */
    __asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
    *(volatile u16 *)(tss_area + 0x66) = 0x20ff;
    bases();
    time_and_names();
    system_registers();
    space_make(0);
    space_make(1);
    switches(false, "MOV CR3 counts for the next access",
             "MOV CR3 counts for the next instruction");
    switches(true, "the same with PCIDs kept", "the same of code");
    invalidations();
    ports();
    serializing();
}
