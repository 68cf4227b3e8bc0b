/*
 * apic_x2.c - x2APIC: ways between the modes, access rules of the MSRs, its ICR, IDs (SDM vol. 3,
 * 11.12), on one processor.
 */
#include "apic.h"

enum { X2 = 0x800, LOW = 0x41, HIGH = 0x63, TIMER = 0x70, ERROR = 0x71 };
enum { ENABLE = 1 << 11, EXTENDED = 1 << 10 };

static u32 msr;
static u64 base;

static void write_msr(word value)
{
    wrmsr(msr, value);
}
static void read_msr(word index)
{
    (void)rdmsr((u32)index);
}
static word writing(u32 index, u64 value)
{
    msr = index;
    return fails(write_msr, value);
}
static u32 reg(unsigned offset)
{
    return X2 + offset / 16;
}
static word mode(u64 bits)
{
    return writing(APIC_BASE, (base & ~(u64)(ENABLE | EXTENDED)) | bits);
}

static void end(word *frame)
{
    wrmsr(reg(APIC_EOI), 0);
}

static void modes(void)
{
    expect("in xAPIC mode there are no MSRs", fails(read_msr, reg(VERSION)), GP);
    expect("EXTD without EN", mode(EXTENDED), GP);
    expect("from xAPIC to off", mode(0), NONE);
    expect("off: CPUID has no APIC", ({
               u32 r[4];
               cpuid(1, 0, r);
               r[3] >> 9 & 1;
           }),
           0);
    expect("from off to x2APIC", mode(ENABLE | EXTENDED), GP);
    expect("from off to xAPIC", mode(ENABLE), NONE);
    expect("off reset it", LAPIC(SVR), 0xff);
    LAPIC(TPR) = 0x20;
    LAPIC(LDR) = 0x01000000;
    LAPIC(SVR) = 0x100 | SPURIOUS;
    expect("from xAPIC to x2APIC", mode(ENABLE | EXTENDED), NONE);
    expect("TPR came along", rdmsr(reg(TPR)), 0x20);
    expect("SVR too", rdmsr(reg(SVR)), 0x100 | SPURIOUS);
    wrmsr(reg(TPR), 0);
    expect("from x2APIC to xAPIC", mode(ENABLE), GP);
    expect("EN alone cleared", mode(EXTENDED), GP);
    expect("x2APIC again", mode(ENABLE | EXTENDED), NONE);
    expect("from x2APIC to off", mode(0), NONE);
    expect("then by way of xAPIC", mode(ENABLE), NONE);
    expect("a reserved bit of IA32_APIC_BASE", writing(APIC_BASE, base | 1), GP);
    expect("to x2APIC", mode(ENABLE | EXTENDED), NONE);
    expect("the page is no APIC any more", LAPIC(VERSION) == rdmsr(reg(VERSION)), false);
}

static void access(void)
{
    static const struct {
        const char *name;
        u16 offset;
        bool readable, writable;
        u64 good, bad;
    } rules[] = {
        {"ID", ID, true, false, 0, 0},
        {"version", VERSION, true, false, 0, 0},
        {"TPR", TPR, true, true, 0xf0, 0x100},
        {"APR, which is gone", 0x90, false, false, 0, 0},
        {"PPR", PPR, true, false, 0, 0},
        {"EOI", APIC_EOI, false, true, 0, 1},
        {"RRD, which is gone", 0xc0, false, false, 0, 0},
        {"LDR", LDR, true, false, 0, 0},
        {"DFR, which is gone", DFR, false, false, 0, 0},
        {"SVR", SVR, true, true, 0x100 | SPURIOUS, 1u << 16},
        {"ISR", ISR, true, false, 0, 0},
        {"ISR 7", ISR + 0x70, true, false, 0, 0},
        {"TMR", TMR, true, false, 0, 0},
        {"IRR", IRR, true, false, 0, 0},
        {"ESR", ESR, true, true, 0, 1},
        {"ICR high, which is gone", ICR_HIGH, false, false, 0, 0},
        {"LVT timer", LVT_TIMER, true, true, MASKED | TIMER, 1u << 19},
        {"LVT LINT0", LINT0, true, true, MASKED | EXTINT, 1u << 17},
        {"LVT LINT1", LINT1, true, true, MASKED | BY_NMI, 1u << 18},
        {"LVT error", LVT_ERROR, true, true, MASKED | ERROR, 1u << 8},
        {"initial count", INITIAL, true, true, 0, 1ull << 32},
        {"current count", CURRENT, true, false, 0, 0},
        {"divide", DIVIDE, true, true, 11, 4},
        {"nothing at 000", 0x000, false, false, 0, 0},
        {"nothing at 040", 0x040, false, false, 0, 0},
        {"nothing at 3D0", 0x3d0, false, false, 0, 0},
        {"nothing at FF0", 0xff0, false, false, 0, 0},
    };

    for (unsigned i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        u32 index = reg(rules[i].offset);

        print("  ");
        expect(rules[i].name, fails(read_msr, index), rules[i].readable ? NONE : GP);
        print("   written: ");
        expect(rules[i].name, writing(index, rules[i].good), rules[i].writable ? NONE : GP);
        if (!rules[i].writable)
            continue;
        print("   reserved bits: ");
        expect(rules[i].name, writing(index, rules[i].bad), GP);
        print("   bit 32: ");
        expect(rules[i].name, writing(index, rules[i].good | 1ull << 32), GP);
    }
    wrmsr(reg(TPR), 0);
    expect("self IPI cannot be read", fails(read_msr, reg(0x3f0)), GP);
    expect("self IPI takes 8 bits", writing(reg(0x3f0), 0x100), GP);
    expect("ICR: a reserved bit", writing(reg(ICR), 1u << 20), GP);
}

static void ipis(void)
{
    u32 id = (u32)rdmsr(reg(ID)), r[4];
    u32 logical = id >> 4 << 16 | 1u << (id & 15);

    cpuid(11, 0, r);
    expect("the ID is that of CPUID leaf 11", id, r[3]);
    expect("LDR is made of it", rdmsr(reg(LDR)), logical);
    forget();
    wrmsr(reg(0x3f0), LOW);
    expect("self IPI waits in IRR", rdmsr(reg(IRR) + LOW / 32) >> LOW % 32 & 1, 1);
    wrmsr(reg(ICR), (u64)id << 32 | HIGH);
    expect("the ICR reads as written", rdmsr(reg(ICR)), (u64)id << 32 | HIGH);
    window();
    window();
    expect("both come, by priority", came(), (u32)HIGH << 24 | LOW << 16);
    forget();
    wrmsr(reg(ICR), (u64)logical << 32 | LOGICAL | LOW);
    window();
    expect("logical destination", seen[LOW], 1);
    wrmsr(reg(ICR), (u64)(logical | 0xffff) << 32 | LOGICAL | LOW);
    window();
    expect("with others of the cluster", seen[LOW], 2);
    wrmsr(reg(ICR), (u64)(logical ^ 0x00030000) << 32 | LOGICAL | LOW);
    window();
    expect("not another cluster", seen[LOW], 2);
    wrmsr(reg(ICR), (u64)(logical << 1 & 0xffff) << 32 | LOGICAL | LOW);
    window();
    expect("not another member", seen[LOW], 2);
    wrmsr(reg(ICR), 0xffffffffull << 32 | LOW);
    window();
    expect("everybody, physical", seen[LOW], 3);
    wrmsr(reg(ICR), 0xffffffffull << 32 | LOGICAL | LOW);
    window();
    expect("everybody, logical", seen[LOW], 4);
    wrmsr(reg(ICR), 0xffull << 32 | LOW);
    window();
    expect("255 is not everybody", seen[LOW], 4);
    wrmsr(reg(ICR), SELF | LOW);
    window();
    expect("shorthand self", seen[LOW], 5);
    wrmsr(reg(ESR), 0);
    wrmsr(reg(0x3f0), 3);
    wrmsr(reg(ESR), 0);
    expect("self IPI with an illegal vector: ESR", rdmsr(reg(ESR)) & 0x60, 0x20);
}

static void timer(void)
{
    forget();
    wrmsr(reg(DIVIDE), 11);
    wrmsr(reg(LVT_TIMER), TIMER);
    wrmsr(reg(INITIAL), 1000000);
    expect("the timer fires", wait_for(&seen[TIMER], 1), true);
    expect("the count is 0", rdmsr(reg(CURRENT)), 0);
    WRITE_CR(8, 6);
    expect("CR8 is TPR", rdmsr(reg(TPR)), 0x60);
    wrmsr(reg(TPR), 0);
}

void test(void)
{
    apic_start();
    base = rdmsr(APIC_BASE);
    handlers[LOW] = handlers[HIGH] = handlers[TIMER] = end;
    modes();
    access();
    ipis();
    timer();
    mode(0);
    expect("back to xAPIC", mode(ENABLE), NONE);
    expect("it answers in its page", LAPIC(VERSION) & 0xf0, 0x10);
}
