/*
 * smp.c - several processors: starting and stopping them, IPIs of all kinds, locked accesses, TLB
 * shootdown, code that another processor writes, MONITOR and MWAIT.
 *
 * Processors are numbered by APIC ID, from 0. The others stand in ap_main() with interrupts on and
 * do what work[ID] says; run() gives everybody the same. Handlers count for each processor.
 */
#include "apic.h"

enum { MOST = 8, TRAMPOLINE = 0x8000, REPORT = 0x7000 };
enum { PING = 0x50, SHOOT = 0x60, URGENT = 0x90 };

typedef void job(u32 me);

static volatile u32 alive[MOST], pings[MOST], nmis[MOST], beat[MOST];
static job *volatile work[MOST];
static u32 cpus;
u8 ap_stacks[MOST][8192] __attribute__((aligned(64)));

/* In real mode at TRAMPOLINE, then the way start.S goes. */
extern u8 ap_start[], ap_start_end[], real_nmi[], real_nmi_end[];
extern u8 smi_code[], smi_end[];
void ap_main(u32 me);
__asm__(".text\n.code16\n"
        "ap_start: cli; cld\n"
        " movw %cs, %ax; movw %ax, %ds\n"
        " movl $0x7000, %ebx; xorw %cx, %cx; movw %cx, %es; movw %ax, %es:(%bx)\n"
        " smsw %ax; movw %ax, %es:2(%bx)\n"
        " lgdtl ap_gdt - ap_start\n"
        " movl $0x11, %eax; movl %eax, %cr0\n"
        " ljmpl $0x08, $ap_32\n"
        "ap_gdt: .word 511; .long gdt\n"
        "ap_start_end:\n"
        "real_nmi: incl %cs:0x7004; iretw\n"
        "real_nmi_end:\n"
        "smi_code: movl $0x7000, %esi; movl $1, 8(%esi)\n" /* at SMBASE + 8000: in, wait, out */
        "1: pause; cmpl $0, 12(%esi); je 1b; rsm\n"
        "smi_end:\n"
        ".code32\n"
        "ap_32: movw $0x10, %ax; movw %ax, %ds; movw %ax, %es; movw %ax, %ss\n"
        " movw %ax, %fs; movw %ax, %gs\n"
        " movl $0x20, %eax; movl %eax, %cr4; movl $boot_pml4, %eax; movl %eax, %cr3\n"
        " movl $0xc0000080, %ecx; rdmsr; orl $0x900, %eax; wrmsr\n"
        " movl $0x80000011, %eax; movl %eax, %cr0\n"
        " ljmp $0x18, $ap_64\n"
        ".code64\n"
        "ap_64: movl $1, %eax; cpuid; shrl $24, %ebx; movl %ebx, %edi\n"
        " incl %ebx; shll $13, %ebx; leaq ap_stacks(%rbx), %rsp; call ap_main\n");

static void apic_on(u32 me)
{
    LAPIC(SVR) = 0x100 | SPURIOUS;
    LAPIC(DFR) = 0xffffffff;
    LAPIC(LDR) = 1u << (24 + me);
    LAPIC(TPR) = 0;
}

void ap_main(u32 me)
{
    struct {
        u16 limit;
        word base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (word)idt};

    __asm__ volatile("lidt %0" : : "m"(pointer));
    apic_on(me);
    __atomic_fetch_add(&alive[me], 1, __ATOMIC_SEQ_CST);
    sti();
    for (;;) {
        job *f = work[me];

        beat[me]++;
        if (f) {
            f(me);
            work[me] = NULL;
        }
        relax();
    }
}

/* Up to 20 seconds: the host may have much else to do. */
#define UNTIL(condition)                                                                           \
    ({                                                                                             \
        bool yes_ = false;                                                                         \
        for (unsigned i_ = 0; i_ < 5 && !yes_; i_++)                                               \
            for (u32 start_ = pm_now(); us_since(start_) < 4000000 && !(yes_ = (condition));)      \
                relax();                                                                           \
        yes_;                                                                                      \
    })

static bool all_idle(void)
{
    for (u32 i = 1; i < cpus; i++)
        if (work[i])
            return false;
    return true;
}

static void start(job *f)
{
    for (u32 i = 1; i < cpus; i++)
        work[i] = f;
}

static bool finished(void)
{
    return UNTIL(all_idle());
}

static void run(job *f)
{
    start(f);
    f(0);
    if (!finished()) {
        expect("everybody did what was asked", 0, 1);
        finish();
    }
}

static u32 sum(volatile u32 *of)
{
    u32 n = 0;

    for (u32 i = 0; i < MOST; i++)
        n += of[i];
    return n;
}

static void ping(word *frame)
{
    pings[apic_id()]++;
    apic_eoi();
}

static volatile bool stay;

static void nmi(word *frame)
{
    nmis[apic_id()]++;
    while (stay)
        beat[apic_id()]++;
}

static void clear(void)
{
    for (u32 i = 0; i < MOST; i++)
        pings[i] = nmis[i] = 0;
}

/* One bit for each processor that got exactly one. */
static u32 who(volatile u32 *of)
{
    u32 set = 0;

    for (u32 i = 0; i < MOST; i++)
        if (of[i])
            set |= of[i] == 1 ? 1u << i : 0xf000u;
    return set;
}

/* Send, and see who got it; BSP included, after a while in which more could come. */
static u32 receivers(u32 destination, u32 command, u32 count)
{
    clear();
    send(destination, command);
    sti();
    (void)UNTIL(sum(pings) >= count);
    delay_us(3000);
    cli();
    return who(pings);
}

/* ---- start and stop -----------------------------------------------------------------------------
 */

static u32 count_cpus(void)
{
    u32 n;

    /* fw_cfg, item 5 */
    __asm__ volatile("outw %%ax, %%dx" : : "a"(5), "d"(0x510));
    n = inb(0x511);
    return n | (u32)inb(0x511) << 8;
}

static void start_them(void)
{
    volatile u16 *report = (volatile u16 *)REPORT;

    for (u8 *p = ap_start; p < ap_start_end; p++)
        *(volatile u8 *)(word)(TRAMPOLINE + (p - ap_start)) = *p;
    delay_us(1000);
    expect("nobody runs before", sum(alive), 0);
    for (u32 i = 1; i < cpus; i++) {
        send(i, INIT | LEVEL);
        send(i, INIT | LEVEL);
        delay_us(1000);
        send(i, SIPI | TRAMPOLINE >> 12);
        send(i, SIPI | TRAMPOLINE >> 12);
        expect("INIT, start, start", UNTIL(alive[i]), true);
    }
    expect("real mode at its vector: CS", report[0], TRAMPOLINE >> 4);
    expect("real mode: no PE", report[1] & 1, 0);
    send(0, OTHERS | SIPI | TRAMPOLINE >> 12);
    delay_us(10000);
    expect("each started once; those that run ignore it", sum(alive), cpus - 1);
}

static void stop_and_start(void)
{
    volatile u16 *report = (volatile u16 *)REPORT, *ivt = (volatile u16 *)0;
    u32 before = alive[1], still;

    /* An NMI in real mode would go through the vectors at 0. */
    for (u8 *p = real_nmi; p < real_nmi_end; p++)
        *(volatile u8 *)(word)(REPORT + 0x100 + (p - real_nmi)) = *p;
    ivt[4] = REPORT + 0x100;
    ivt[5] = 0;
    *(volatile u32 *)(REPORT + 4) = 0;
    report[0] = 0;
    clear();
    stay = true;
    send(1, BY_NMI);
    expect("it is in its NMI handler", UNTIL(nmis[1] == 1), true);
    send(1, BY_NMI); /* waits for the end of the first, and is gone with INIT */
    send(1, INIT);
    delay_us(10000);
    stay = false;
    still = beat[1];
    delay_us(10000);
    expect("INIT stops a running processor", beat[1], still);
    clear();
    send(1, FIXED | PING);
    delay_us(3000);
    expect("it takes no interrupt", pings[1], 0);
    send(1, SIPI | TRAMPOLINE >> 12);
    expect("and starts again", UNTIL(alive[1] == before + 1), true);
    expect("it runs", UNTIL(beat[1] != still), true);
    expect("where it should", report[0], TRAMPOLINE >> 4);
    expect("and without that NMI", *(volatile u32 *)(REPORT + 4), 0);
}

/* INIT waits for the end of system management mode. */
static void stop_in_smm(void)
{
    volatile u32 *report = (volatile u32 *)REPORT;
    u32 before = alive[1];

    for (u8 *p = smi_code; p < smi_end; p++)
        *(volatile u8 *)(word)(0x38000 + (p - smi_code)) = *p;
    report[2] = report[3] = 0;
    send(1, SMI);
    expect("it is in SMM", UNTIL(report[2]), true);
    send(1, INIT);
    delay_us(5000);
    report[3] = 1;
    delay_us(20000);
    for (u32 i = 0; i < 10 && alive[1] == before; i++) { /* a start IPI before its INIT is lost */
        send(1, SIPI | TRAMPOLINE >> 12);
        delay_us(20000);
    }
    expect("INIT in SMM comes after it, and it starts again", alive[1], before + 1);
}

/* ---- IPIs --------------------------------------------------------------------------------------
 */

static void cluster(u32 me)
{
    LAPIC(DFR) = 0x0fffffff;
    LAPIC(LDR) = (me / 2 << 4 | 1u << (me & 1)) << 24;
}

static void set_priorities(u32 me)
{
    LAPIC(TPR) = me == cpus - 1 ? 0x20 : 0x40 + me * 16;
}

static void ipis(void)
{
    u32 everybody = (1u << cpus) - 1;

    for (u32 i = 0; i < cpus; i++)
        expect("to one, by ID", receivers(i, FIXED | PING, 1), 1u << i);
    expect("to nobody", receivers(0x55, FIXED | PING, 0), 0);
    expect("to 255", receivers(0xff, FIXED | PING, cpus), everybody);
    expect("shorthand self", receivers(1, SELF | FIXED | PING, 1), 1);
    expect("shorthand all", receivers(1, ALL | FIXED | PING, cpus), everybody);
    expect("shorthand others", receivers(0, OTHERS | FIXED | PING, cpus - 1), everybody & ~1u);
    expect("logical, one", receivers(2, LOGICAL | PING, 1), 2);
    expect("logical, two", receivers(3, LOGICAL | PING, 2), 3);
    expect("logical, all", receivers(0xff, LOGICAL | PING, cpus), everybody);
    run(set_priorities);
    expect("lowest priority", receivers(everybody, LOGICAL | LOWEST | URGENT, 1), 1u << (cpus - 1));
    expect("the lowest of two", receivers(3, LOGICAL | LOWEST | URGENT, 1), cpus == 2 ? 2 : 1);
    run(apic_on);
    run(cluster);
    expect("clusters: one of 0", receivers(0x02, LOGICAL | PING, 1), 2);
    expect("clusters: both of 0", receivers(0x03, LOGICAL | PING, 2), 3);
    expect("clusters: of 1", receivers(0x1f, LOGICAL | PING, cpus - 2), everybody & 0xc);
    expect("clusters: all", receivers(0xff, LOGICAL | PING, cpus), everybody);
    run(apic_on);
}

static volatile u32 step[MOST];

static void deaf(u32 me)
{
    cli();
    step[me] = 1;
    while (step[me] == 1)
        relax();
    step[me] = 3;
    window();
    step[me] = 4;
    while (step[me] == 4)
        relax();
    sti();
}

static void masked_and_nmi(void)
{
    clear();
    work[1] = deaf;
    expect("it has interrupts off", UNTIL(step[1] == 1), true);
    send(1, FIXED | PING);
    send(1, BY_NMI);
    expect("an NMI comes all the same", UNTIL(nmis[1] == 1), true);
    delay_us(3000);
    expect("the interrupt does not", pings[1], 0);
    step[1] = 2;
    expect("in its window", UNTIL(step[1] == 4), true);
    expect("it does", pings[1], 1);
    step[1] = 5;
    expect("on it goes", finished(), true);
    clear();
    send(0, OTHERS | BY_NMI);
    expect("NMI to all others", UNTIL(sum(nmis) == cpus - 1), true);
}

static void sleep_open(u32 me)
{
    cli();
    step[me] = 1;
    __asm__ volatile("sti; hlt" ::: "memory");
    step[me] = 2;
}

static void sleep_shut(u32 me)
{
    cli();
    step[me] = 1;
    __asm__ volatile("hlt" ::: "memory");
    step[me] = 2;
    sti();
}

static void halts(void)
{
    clear();
    for (u32 i = 1; i < cpus; i++) {
        step[i] = 0;
        work[i] = sleep_open;
        expect("it will sleep", UNTIL(step[i] == 1), true);
        delay_us(5000);
        expect("it sleeps", step[i], 1);
        send(i, FIXED | PING);
        expect("an IPI wakes it", UNTIL(step[i] == 2), true);
    }
    expect("each got its own", sum(pings), cpus - 1);
    step[1] = 0;
    work[1] = sleep_shut;
    expect("it will sleep with interrupts off", UNTIL(step[1] == 1), true);
    delay_us(2000);
    send(1, FIXED | PING);
    delay_us(5000);
    expect("an IPI does not wake it", step[1], 1);
    send(1, BY_NMI);
    expect("an NMI does", UNTIL(step[1] == 2), true);
    expect("on it goes", finished(), true);
    expect("and takes what waited", UNTIL(pings[1] == 2), true);
    /* A thousand races between STI, HLT and what ends it. */
    clear();
    for (u32 i = 0; i < 100 && !work[1]; i++) {
        step[1] = 0;
        work[1] = sleep_open;
        while (step[1] == 0)
            relax();
        send(1, FIXED | PING); /* it is between CLI and HLT, or asleep */
        (void)UNTIL(!work[1]);
    }
    expect("no wake-up is lost", sum(pings), 100);
    expect("and it is awake", finished(), true);
}

/* ---- memory ------------------------------------------------------------------------------------
 */

enum { ROUNDS = 5000 };
static u8 shared[3 * 4096] __attribute__((aligned(4096)));
#define AT(offset, type) ((volatile type *)(word)(shared + (offset)))
enum { IN_LINE = 0, ACROSS_LINES = 128 - 3, ACROSS_PAGES = 4096 - 2, ACROSS_8 = 8192 - 5 };
enum { PAIR = 256, BIT = 512, EIGHT = 1024 - 4, LOCK_WORD = 2048, GUARDED = 2052 };

static void count(u32 me)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incl %0" : "+m"(*AT(IN_LINE, u32)));
        __asm__ volatile("lock addl $3, %0" : "+m"(*AT(ACROSS_LINES, u32)));
        __asm__ volatile("lock addl $0x10001, %0" : "+m"(*AT(ACROSS_PAGES, u32)));
        u64 more = 0x100000001;

        __asm__ volatile("lock xaddq %1, %0" : "+m"(*AT(ACROSS_8, u64)), "+r"(more));
    }
}

static void count_compare(u32 me)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        u64 low = *AT(PAIR, u64), high = *AT(PAIR + 8, u64), v = *AT(EIGHT, u64);
        bool done = false;

        while (!done)
            __asm__ volatile("lock cmpxchg16b %1"
                             : "=@ccz"(done), "+m"(*AT(PAIR, u64)), "+a"(low), "+d"(high)
                             : "b"(low + 1), "c"(high + 3)
                             : "memory");
        for (done = false; !done;) {
            u32 a = (u32)v, d = (u32)(v >> 32);

            __asm__ volatile("lock cmpxchg8b %1"
                             : "=@ccz"(done), "+m"(*AT(EIGHT, u64)), "+a"(a), "+d"(d)
                             : "b"((u32)(v + 0x80000001)), "c"((u32)((v + 0x80000001) >> 32))
                             : "memory");
            v = a | (u64)d << 32;
        }
    }
}

static void guard(u32 me)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        u32 one = 1;

        for (;;) {
            __asm__ volatile("xchgl %0, %1" : "+r"(one), "+m"(*AT(LOCK_WORD, u32)) : : "memory");
            if (!one)
                break;
            relax();
        }
        *AT(GUARDED, u32) = *AT(GUARDED, u32) + 1;
        *AT(LOCK_WORD, u32) = 0;
    }
}

/* Each has a bit of its own in one word. */
static void flip(u32 me)
{
    for (u32 i = 0; i < (ROUNDS | 1); i++)
        __asm__ volatile("lock btcl %1, %0" : "+m"(*AT(BIT, u32)) : "r"(me));
}

static void locks(void)
{
    u64 n = (u64)cpus * ROUNDS;

    run(count);
    expect("LOCK INC", *AT(IN_LINE, u32), n);
    expect("LOCK ADD across cache lines", *AT(ACROSS_LINES, u32), 3 * n);
    expect("LOCK ADD across pages", *AT(ACROSS_PAGES, u32), (u32)(0x10001 * n));
    expect("LOCK XADD of 8 bytes across pages", *AT(ACROSS_8, u64), 0x100000001ull * n);
    run(count_compare);
    expect("CMPXCHG16B, low", *AT(PAIR, u64), n);
    expect("CMPXCHG16B, high", *AT(PAIR + 8, u64), 3 * n);
    expect("CMPXCHG8B across cache lines", *AT(EIGHT, u64), 0x80000001ull * n);
    run(guard);
    expect("a lock made of XCHG", *AT(GUARDED, u32), n);
    run(flip);
    expect("LOCK BTC", *AT(BIT, u32), (1u << cpus) - 1);
}

/* Stores of one are seen in order by the others. */
static volatile u32 first, second, disorder;

static void ordered(u32 me)
{
    if (me == 0)
        for (u32 i = 1; i <= 4 * ROUNDS; i++) {
            first = i;
            second = i;
        }
    else
        for (u32 s = 0; s < 4 * ROUNDS;) {
            s = second;
            if (first < s)
                disorder++;
        }
}

static void ordering(void)
{
    run(ordered);
    expect("stores are seen in order", disorder, 0);
}

/* ---- TLB shootdown -----------------------------------------------------------------------------
 */

enum { WINDOW = 0x3000000, PAGES = 32 };
static word table[512] __attribute__((aligned(4096)));
static volatile u32 epoch, stale, reads[MOST], acks;

static void shoot(word *frame)
{
    invlpg(WINDOW);
    __atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

static void read_on(u32 me)
{
    while (epoch < PAGES) {
        u32 e = epoch, v = *(volatile u32 *)WINDOW;

        if (v < e)
            stale++;
        reads[me]++;
    }
}

static void shootdown(void)
{
    /* Pages that hold their own number, behind the window. */
    for (u32 i = 0; i <= PAGES; i++)
        *(volatile u32 *)(word)(WINDOW + 0x200000 + i * 4096) = i;
    table[0] = (WINDOW + 0x200000) | 3;
    boot_pd[WINDOW >> 21] = (word)table | 3;
    WRITE_CR(3, READ_CR(3));
    start(read_on);
    for (u32 i = 1; i <= PAGES; i++) {
        acks = 0;
        table[0] = (WINDOW + 0x200000 + i * 4096) | 3;
        send(0, OTHERS | FIXED | SHOOT);
        if (!UNTIL(acks == cpus - 1))
            break;
        epoch = i;
    }
    epoch = PAGES;
    expect("all readers ended", finished(), true);
    expect("no stale translation after a shootdown", stale, 0);
    for (u32 i = 1; i < cpus; i++)
        expect("it read", reads[i] != 0, true);
    invlpg(WINDOW);
    expect("and so do we", *(volatile u32 *)WINDOW, PAGES);
}

/* ---- code that another processor writes --------------------------------------------------------
 */

static u8 code[64] __attribute__((aligned(64)));
static volatile u32 version, done[MOST], wrong;
enum { VERSIONS = 60 };

static void call_on(u32 me)
{
    for (u32 want = 1; want <= VERSIONS; want++) {
        u32 r[4], got;

        while (version < want)
            relax();
        cpuid(0, 0, r); /* serializes */
        got = ((u32(*)(void))(word)code)();
        if (got != (want & 1 ? want : ~want))
            wrong++;
        done[me] = want;
    }
}

static bool all_called(u32 n)
{
    for (u32 i = 1; i < cpus; i++)
        if (done[i] < n)
            return false;
    return true;
}

static void cross_modifying(void)
{
    start(call_on);
    for (u32 i = 1; i <= VERSIONS; i++) {
        u8 *p = code;

        *p++ = 0xb8; /* MOV EAX, i */
        for (u32 b = 0; b < 4; b++)
            *(volatile u8 *)p++ = (u8)(i >> 8 * b);
        if (!(i & 1)) {
            *p++ = 0xf7; /* NOT EAX: the code is of another length */
            *p++ = 0xd0;
        }
        *p = 0xc3;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        version = i;
        if (!UNTIL(all_called(i)))
            break;
    }
    expect("everybody called all", all_called(VERSIONS), true);
    expect("what was written last", wrong, 0);
    expect("they ended", finished(), true);
}

/* MOV EAX, imm32; RET at `p`, in one store of 8 bytes. */
static void emit_number(volatile u8 *p, u32 n)
{
    *(volatile u64 *)p = 0xb8 | (u64)n << 8 | 0xc3ull << 40;
}

static u32 call_code(const volatile u8 *p)
{
    return ((u32(*)(void))(word)p)();
}

/* Everybody calls without end, and says what came; the writer patches, and sends an interrupt,
 * whose end serializes. Who had it must not see what was there before. */
static u8 poked[4096] __attribute__((aligned(4096)));
static volatile u32 at_least, called[MOST];

static void call_always(u32 me)
{
    while (version != ~0u) {
        u32 least = at_least, got = call_code(poked);

        if (got < least)
            wrong++;
        called[me]++;
    }
}

static void shoot_and_wait(void)
{
    acks = 0;
    send(0, OTHERS | FIXED | SHOOT);
    (void)UNTIL(acks == cpus - 1);
}

static void patched_under_way(void)
{
    u32 began = pm_now();

    wrong = version = at_least = 0;
    emit_number(poked, 0);
    start(call_always);
    for (u32 i = 1; i <= 2000 && us_since(began) < 500000; i++) {
        emit_number(poked, i);
        shoot_and_wait();
        at_least = i;
    }
    for (u32 i = 1; i < cpus; i++)
        expect("it called", UNTIL(called[i] > 10), true);
    version = ~0u;
    expect("they ended", finished(), true);
    expect("nobody saw old code after its interrupt", wrong, 0);
}

/* As kernels do it: INT3 over the first byte, interrupt, the others, interrupt, the first byte. */
enum { TRAPPED = 0x7fffffff };
void int3_skips(void);
__asm__(".text\nint3_skips: addq $4, (%rsp); movl $0x7fffffff, %eax; iretq\n");

static void call_poked(u32 me)
{
    while (version != ~0u) {
        u32 least = at_least, got = call_code(poked);

        if (got != TRAPPED && (got < least || got > at_least + 1))
            wrong++;
        called[me]++;
    }
}

static void poked_by_int3(void)
{
    u64 old[2] = {idt[2 * BP], idt[2 * BP + 1]};
    u32 began = pm_now();

    idt_set(BP, int3_skips, 0x18, 0x8e, 0);
    wrong = version = at_least = 0;
    emit_number(poked, 0);
    start(call_poked);
    for (u32 i = 1; i <= 1000 && us_since(began) < 500000; i++) {
        poked[0] = 0xcc;
        shoot_and_wait();
        *(volatile u32 *)(poked + 1) = i;
        shoot_and_wait();
        poked[0] = 0xb8;
        shoot_and_wait();
        at_least = i;
    }
    version = ~0u;
    expect("they ended", finished(), true);
    expect("INT3 over code that runs", wrong, 0);
    idt[2 * BP] = old[0];
    idt[2 * BP + 1] = old[1];
}

/* Everybody counts in a word of its own, on a page where one writes and calls functions. */
static u8 crowded[2][4096] __attribute__((aligned(4096)));
enum { COUNTS = 40000, FUNCTION_AT = 64, FUNCTION_STEP = 48 };

static void count_beside_code(u32 me)
{
    volatile u32 *mine = (volatile u32 *)(word)(crowded[0] + FUNCTION_AT + 32 + me * FUNCTION_STEP);
    volatile u64 *other = (volatile u64 *)(word)(crowded[1] + 4032 + 8 * me);

    if (me == 0) {
        for (u32 i = 0; i < 3000; i++) {
            volatile u8 *p = crowded[i / 7 & 1] + FUNCTION_AT + i % 80 * FUNCTION_STEP;

            if ((u32)(p - (volatile u8 *)crowded[i / 7 & 1]) > 4000)
                continue;
            emit_number(p, i);
            for (u32 j = 0; j < 1 + i % 11; j++)
                if (call_code(p) != i)
                    wrong++;
        }
        return;
    }
    for (u32 i = 0; i < COUNTS; i++) {
        *mine = *mine + 1;
        *other += 3;
    }
}

static void data_beside_code(void)
{
    wrong = 0;
    for (u32 round = 0; round < 3; round++) {
        for (u32 i = 0; i < 4096; i++)
            crowded[0][i] = crowded[1][i] = 0;
        run(count_beside_code);
        for (u32 i = 1; i < cpus; i++) {
            expect("no store beside code is lost",
                   *(volatile u32 *)(word)(crowded[0] + FUNCTION_AT + 32 + i * FUNCTION_STEP),
                   COUNTS);
            expect("on the other page", *(volatile u64 *)(word)(crowded[1] + 4032 + 8 * i),
                   3 * COUNTS);
        }
    }
    expect("code beside data is what was written", wrong, 0);
}

/* Each patches and calls functions of its own on a page they share. */
static void patch_own(u32 me)
{
    volatile u8 *p = crowded[0] + 16 * me;

    for (u32 i = 0; i < 5000; i++) {
        emit_number(p, i * MOST + me);
        for (u32 j = 0; j < 1 + i / 64 % 8; j++)
            if (call_code(p) != i * MOST + me)
                __atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
    }
}

static void patch_together(void)
{
    wrong = 0;
    run(patch_own);
    expect("everybody patches one page", wrong, 0);
}

/* ---- MONITOR, MWAIT ----------------------------------------------------------------------------
 */

static volatile u32 bell[32] __attribute__((aligned(64)));

static void listen(u32 me)
{
    step[me] = 1;
    while (!bell[0]) {
        __asm__ volatile("monitor" : : "a"(bell), "c"(0), "d"(0));
        if (!bell[0])
            __asm__ volatile("mwait" : : "a"(0), "c"(0));
    }
    step[me] = 2;
}

static void monitor(void)
{
    u32 r[4];

    cpuid(1, 0, r);
    expect("there is MONITOR", r[2] >> 3 & 1, 1);
    step[1] = 0;
    start(listen);
    expect("they listen", UNTIL(step[1] == 1), true);
    delay_us(20000);
    expect("nobody is back", all_idle(), false);
    clear();
    send(0, OTHERS | FIXED | PING);
    expect("interrupts are taken meanwhile", UNTIL(sum(pings) == cpus - 1), true);
    bell[0] = 1;
    expect("a store ends it", finished(), true);
}

void test(void)
{
    apic_start();
    handlers[PING] = handlers[URGENT] = ping;
    handlers[SHOOT] = shoot;
    handlers[NMI] = nmi;
    cpus = count_cpus();
    expect("two to eight processors", cpus >= 2 && cpus <= MOST, true);
    apic_on(0);
    start_them();
    ipis();
    masked_and_nmi();
    halts();
    stop_and_start();
    stop_in_smm();
    locks();
    ordering();
    shootdown();
    cross_modifying();
    patched_under_way();
    poked_by_int3();
    data_beside_code();
    patch_together();
    monitor();
}
