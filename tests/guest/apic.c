/*
 * apic.c - the local APIC through its page (SDM vol. 3, chapter 11), on one processor.
 */
#include "apic.h"

enum { LOW = 0x41, MIDDLE = 0x52, HIGH = 0x63, HIGH_TOO = 0x65, TIMER = 0x70, ERROR = 0x71 };

static void end(word *frame)
{
    apic_eoi();
}

static void send_self(u8 vector)
{
    send(0, SELF | FIXED | vector);
}

static void registers(void)
{
    u32 version = LAPIC(VERSION), r[4];

    cpuid(1, 0, r);
    expect("ID is that of CPUID", apic_id(), r[1] >> 24);
    expect("version 1xH", version & 0xf0, 0x10);
    expect("five LVT entries at least", (version >> 16 & 0xff) >= 4, true);
    expect("the page is where IA32_APIC_BASE says", rdmsr(APIC_BASE) & ~0x1ffull, 0xfee00800);
    expect("this is the bootstrap processor", rdmsr(APIC_BASE) >> 8 & 1, 1);
    LAPIC(LDR) = 0xffffffff;
    expect("LDR has 8 bits", LAPIC(LDR), 0xff000000);
    LAPIC(DFR) = 0;
    expect("DFR has 4 bits", LAPIC(DFR), 0x0fffffff);
    LAPIC(DFR) = 0xffffffff;
    LAPIC(TPR) = 0x5a;
    expect("TPR", LAPIC(TPR), 0x5a);
    expect("CR8 is its high half", READ_CR(8), 5);
    WRITE_CR(8, 9);
    expect("CR8 sets it", LAPIC(TPR), 0x90);
    expect("PPR follows when nothing is in service", LAPIC(PPR), 0x90);
    WRITE_CR(8, 0);
}

static void set_cr8(word v)
{
    WRITE_CR(8, v);
}

static volatile u32 ppr_inside, isr_inside;

static void look_inside(word *frame)
{
    ppr_inside = LAPIC(PPR);
    isr_inside = apic_bit(ISR, (u8)frame[0]) | (u32)apic_bit(IRR, (u8)frame[0]) << 1;
    apic_eoi();
}

static void self_ipi(void)
{
    forget();
    handlers[MIDDLE] = look_inside;
    send_self(MIDDLE);
    expect("an IPI to self waits in IRR", apic_bit(IRR, MIDDLE), true);
    expect("its TMR bit is clear", apic_bit(TMR, MIDDLE), false);
    send_self(MIDDLE);
    window();
    expect("it comes, twice is once", seen[MIDDLE], 1);
    expect("in its handler: ISR, not IRR", isr_inside, 1);
    expect("in its handler: PPR is its class", ppr_inside & 0xf0, MIDDLE & 0xf0);
    expect("EOI clears ISR", apic_bit(ISR, MIDDLE), false);
    expect("and PPR", LAPIC(PPR), 0);
    send(apic_id(), FIXED | MIDDLE);
    window();
    expect("by its ID as well", seen[MIDDLE], 2);
    send(0xff, FIXED | MIDDLE);
    window();
    expect("and to everybody", seen[MIDDLE], 3);
    handlers[MIDDLE] = end;
    apic_eoi();
    expect("EOI of nothing does nothing", LAPIC(PPR), 0);
}

static void priorities(void)
{
    forget();
    send_self(LOW);
    send_self(HIGH);
    send_self(MIDDLE);
    send_self(HIGH_TOO);
    for (unsigned i = 0; i < 4; i++)
        window();
    expect("the highest first", came(), (u32)HIGH_TOO << 24 | HIGH << 16 | MIDDLE << 8 | LOW);
    forget();
    LAPIC(TPR) = MIDDLE & 0xf0;
    send_self(LOW);
    send_self(MIDDLE);
    send_self(HIGH);
    for (unsigned i = 0; i < 4; i++)
        window();
    expect("TPR holds its class and below", came(), (u32)HIGH << 24);
    LAPIC(TPR) = (MIDDLE & 0xf0) - 1;
    for (unsigned i = 0; i < 4; i++)
        window();
    expect("until it is lowered", came(), (u32)HIGH << 24 | MIDDLE << 16);
    sti();
    WRITE_CR(8, 0);
    __asm__ volatile("nop");
    cli();
    expect("lowering CR8 lets it come at once", came(), (u32)HIGH << 24 | MIDDLE << 16 | LOW << 8);
    expect("CR8 above 15", fails(set_cr8, 16), GP);
}

static volatile u32 while_serving;

static void serve_middle(word *frame)
{
    u32 before = taken;

    send_self(LOW);
    send_self(MIDDLE + 1); /* the same class */
    send_self(HIGH);
    for (unsigned i = 0; i < 4; i++)
        window();
    while_serving = (taken - before) << 8 | order[before];
    expect("the nested one's EOI was its own", apic_bit(ISR, MIDDLE), true);
    apic_eoi();
}

static void nesting(void)
{
    forget();
    handlers[MIDDLE] = serve_middle;
    send_self(MIDDLE);
    window();
    handlers[MIDDLE] = end;
    expect("a higher class interrupts, the same does not", while_serving, 1 << 8 | HIGH);
    for (unsigned i = 0; i < 4; i++)
        window();
    expect("then by priority", came(), (u32)MIDDLE << 24 | HIGH << 16 | (MIDDLE + 1) << 8 | LOW);
}

static void no_end(word *frame)
{
}

static void eoi_order(void)
{
    forget();
    handlers[LOW] = handlers[HIGH] = no_end;
    send_self(LOW);
    window();
    send_self(HIGH);
    window();
    expect("two in service", apic_bit(ISR, LOW) | apic_bit(ISR, HIGH) << 1, 3);
    apic_eoi();
    expect("EOI ends the highest", apic_bit(ISR, LOW) | apic_bit(ISR, HIGH) << 1, 1);
    apic_eoi();
    expect("then the other", apic_bit(ISR, LOW) | apic_bit(ISR, HIGH) << 1, 0);
    handlers[LOW] = handlers[HIGH] = end;
}

/* Counts at divide by 1 in `us` microseconds. */
static u32 counts_per(u32 us)
{
    u32 start, before;

    LAPIC(DIVIDE) = 11;
    LAPIC(LVT_TIMER) = MASKED | TIMER;
    LAPIC(INITIAL) = 0xffffffff;
    start = pm_now();
    before = LAPIC(CURRENT);
    delay_us(us);
    before -= LAPIC(CURRENT);
    before = (u32)((u64)before * us / us_since(start));
    LAPIC(INITIAL) = 0;
    return before;
}

static void timer(void)
{
    u32 per_20ms = counts_per(20000), start;

    forget();
    expect("stopped by an initial count of 0", LAPIC(CURRENT), 0);
    expect("no interrupt when masked", taken, 0);
    LAPIC(LVT_TIMER) = TIMER;
    start = pm_now();
    LAPIC(INITIAL) = per_20ms;
    expect("it counts down", LAPIC(CURRENT) <= per_20ms, true);
    expect("one-shot fires", wait_for(&seen[TIMER], 1), true);
    expect("not too early", us_since(start) >= 10000, true);
    expect("the count is 0 then", LAPIC(CURRENT), 0);
    listen_us(40000);
    expect("and does not again", seen[TIMER], 1);
    LAPIC(DIVIDE) = 3; /* by 16 */
    start = pm_now();
    LAPIC(INITIAL) = per_20ms / 16;
    expect("divided by 16 it fires", wait_for(&seen[TIMER], 2), true);
    expect("as late", us_since(start) >= 10000, true);
    LAPIC(DIVIDE) = 11;
    forget();
    LAPIC(LVT_TIMER) = PERIODIC | TIMER;
    start = pm_now();
    LAPIC(INITIAL) = per_20ms / 2;
    expect("periodic fires again and again", wait_for(&seen[TIMER], 4), true);
    expect("not too often", us_since(start) >= 20000, true);
    LAPIC(LVT_TIMER) = PERIODIC | MASKED | TIMER;
    window(); /* what came before counts */
    forget();
    listen_us(30000);
    expect("masked, it does not", taken, 0);
    expect("but counts on", LAPIC(CURRENT) != 0, true);
    LAPIC(INITIAL) = 0;
}

static void deadline(void)
{
    u32 r[4], per_20ms = counts_per(20000);
    u64 from, to, hz20ms;

    cpuid(1, 0, r);
    expect("there is a TSC deadline", r[2] >> 24 & 1, 1);
    from = rdtsc();
    delay_us(20000);
    hz20ms = rdtsc() - from;
    forget();
    LAPIC(LVT_TIMER) = DEADLINE | TIMER;
    LAPIC(INITIAL) = per_20ms;
    expect("the initial count is ignored", LAPIC(INITIAL) | LAPIC(CURRENT), 0);
    to = rdtsc() + hz20ms;
    wrmsr(0x6e0, to);
    expect("armed", rdmsr(0x6e0), to);
    expect("it fires", wait_for(&seen[TIMER], 1), true);
    expect("not early", rdtsc() >= to, true);
    expect("disarmed then", rdmsr(0x6e0), 0);
    wrmsr(0x6e0, 1);
    window();
    expect("a deadline in the past fires at once", wait_for(&seen[TIMER], 2), true);
    wrmsr(0x6e0, rdtsc() + hz20ms);
    wrmsr(0x6e0, 0);
    listen_us(40000);
    expect("0 disarms", seen[TIMER], 2);
    LAPIC(LVT_TIMER) = MASKED | TIMER;
    wrmsr(0x6e0, rdtsc() + hz20ms);
    expect("nothing to arm in another mode", rdmsr(0x6e0), 0);
}

static void errors(void)
{
    forget();
    LAPIC(LVT_ERROR) = ERROR;
    (void)apic_errors();
    send_self(5);
    expect("an illegal vector is not sent", apic_bit(IRR, 5), false);
    window();
    expect("an error interrupt comes", seen[ERROR], 1);
    expect("ESR: sent an illegal vector", apic_errors() & ~0x40u, 0x20);
    expect("ESR: cleared", apic_errors(), 0);
    forget();
    LAPIC(LVT_ERROR) = MASKED | ERROR;
    send_self(15);
    window();
    expect("masked, no interrupt", taken, 0);
    expect("but the bit", apic_errors() & 0x20, 0x20);
}

static void disable(void)
{
    forget();
    LAPIC(LVT_TIMER) = TIMER;
    send_self(LOW);
    LAPIC(SVR) = SPURIOUS;
    expect("switched off: the LVT is masked", LAPIC(LVT_TIMER) & MASKED, MASKED);
    LAPIC(LVT_TIMER) = TIMER;
    expect("and stays so", LAPIC(LVT_TIMER) & MASKED, MASKED);
    send(apic_id(), FIXED | HIGH);
    expect("nothing is accepted", apic_bit(IRR, HIGH), false);
    LAPIC(SVR) = 0x100 | SPURIOUS;
    window();
    expect("what waited is kept", came(), (u32)LOW << 24);
    LAPIC(LVT_TIMER) = MASKED;
}

static volatile u32 nmi_nested, nmi_depth;

static void on_nmi(word *frame)
{
    u32 mine = ++nmi_depth;

    if (seen[NMI] == 1) {
        send(apic_id(), BY_NMI);
        for (unsigned i = 0; i < 10; i++)
            window(); /* whatever IF is */
        nmi_nested = nmi_depth - mine;
    }
    nmi_depth--;
}

static void nmi(void)
{
    forget();
    handlers[NMI] = on_nmi;
    send(apic_id(), BY_NMI | 0x55);
    for (unsigned i = 0; i < 10; i++)
        relax();
    expect("an NMI comes with interrupts off; the next when the first returned", seen[NMI], 2);
    expect("not in its handler", nmi_nested, 0);
    LAPIC(TPR) = 0xff;
    send(apic_id(), BY_NMI);
    relax();
    expect("TPR does not hold it", seen[NMI], 3);
    LAPIC(TPR) = 0;
    expect("it is not in service", LAPIC(PPR), 0);
}

/* At SMBASE + 8000: count, and back. */
extern u8 smi_code[], smi_end[];
__asm__(".text\n.code16\nsmi_code: movl $0x5000, %esi; incl (%esi); rsm\nsmi_end: .code64\n");

static void smi(void)
{
    volatile u32 *count = (volatile u32 *)0x5000;

    for (u8 *p = smi_code; p < smi_end; p++)
        *(volatile u8 *)(word)(0x38000 + (p - smi_code)) = *p;
    *count = 0;
    send(apic_id(), SMI);
    relax();
    expect("an SMI by IPI", *count, 1);
}

static void sti_shadow(void)
{
    forget();
    send_self(LOW);
    __asm__ volatile("sti; cli");
    expect("not between STI and CLI", taken, 0);
    __asm__ volatile("sti; nop; cli");
    expect("one instruction later", taken, 1);
    send_self(LOW);
    __asm__ volatile("sti; hlt; cli");
    expect("STI, HLT: HLT ends", taken, 2);
    LAPIC(LVT_TIMER) = TIMER;
    LAPIC(INITIAL) = 1000000;
    __asm__ volatile("sti; hlt; cli");
    expect("the timer ends HLT", seen[TIMER], 1);
    LAPIC(LVT_TIMER) = MASKED;
}

static void moving(void)
{
    u64 base = rdmsr(APIC_BASE);
    word at = 0xfed80000;

    wrmsr(APIC_BASE, (base & 0xfff) | at);
    expect("the page moves", *(volatile u32 *)(at + VERSION) & 0xf0, 0x10);
    *(volatile u32 *)(at + TPR) = 0x30;
    expect("and works there", READ_CR(8), 3);
    *(volatile u32 *)(at + TPR) = 0;
    wrmsr(APIC_BASE, base);
    expect("and moves back", LAPIC(VERSION) & 0xf0, 0x10);
}

void test(void)
{
    apic_start();
    handlers[LOW] = handlers[MIDDLE] = handlers[MIDDLE + 1] = handlers[HIGH] = end;
    handlers[HIGH_TOO] = handlers[TIMER] = handlers[ERROR] = end;
    registers();
    self_ipi();
    priorities();
    nesting();
    eoi_order();
    timer();
    deadline();
    errors();
    disable();
    nmi();
    smi();
    sti_shadow();
    moving();
}
