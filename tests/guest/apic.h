/*
 * apic.h - what the kernels that run on a whole board share: interrupts by vector, a clock, the
 * interrupt chips' registers, the UART as a line that software moves.
 *
 * board_start() sends every interrupt to handle(): it is counted and noted in the order they came,
 * then the vector's own handler runs, with the frame (kernel.h), which may be NULL. Handlers run
 * with interrupts off and may switch them on. An exception that no handler expects ends the kernel;
 * fails() is for those that a check wants.
 *
 * Waits are by the ACPI timer and long: a loaded host may not run us for a while. Checks of time
 * therefore ask for "not too early", or for a ratio.
 */
#ifndef APIC_H
#define APIC_H

#include "kernel.h"

#include <stddef.h>

static inline u32 inl(u16 port)
{
    u32 v;

    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline void outl(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
static inline void sti(void)
{
    __asm__ volatile("sti" ::: "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" ::: "memory");
}
static inline void relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}
/* One instruction with interrupts on, and the STI shadow before it: what waits is taken. */
static inline void window(void)
{
    __asm__ volatile("sti; nop; cli" ::: "memory");
}
static inline u64 rdtsc(void)
{
    u32 low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (u64)high << 32;
}

/* ---- interrupts by vector ---------------------------------------------------------------------
 */

typedef void handler(word *frame);
static handler *volatile handlers[256];
static volatile u32 seen[256], taken;
static volatile u8 order[64];

static void handle(word *frame)
{
    u8 vector = (u8)frame[0];
    u32 n = __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);

    if (vector < 32 && !handlers[vector]) {
        print("unexpected exception ");
        print_hex(vector);
        print(" at ");
        print_hex(frame[2]);
        print(" error ");
        print_hex(frame[1]);
        print("\n");
        expect("no exception", 1, 0);
        finish();
    }
    if (n < sizeof(order))
        order[n] = vector;
    __atomic_fetch_add(&seen[vector], 1, __ATOMIC_SEQ_CST);
    if (handlers[vector])
        handlers[vector](frame);
}

static inline void forget(void)
{
    for (unsigned i = 0; i < 256; i++)
        seen[i] = 0;
    taken = 0;
    for (unsigned i = 0; i < sizeof(order); i++)
        order[i] = 0;
}

/* The first four vectors that came, the first in the high byte. */
static inline u32 came(void)
{
    return (u32)order[0] << 24 | (u32)order[1] << 16 | (u32)order[2] << 8 | order[3];
}

/* The vector that f ends with, interrupts off; NONE. */
static inline word fails(void (*f)(word), word argument)
{
    word vector;

    cli();
    trap_resume = 0;
    vector = attempt(f, argument);
    trap_resume = 1;
    return vector;
}

/* ---- the clock ---------------------------------------------------------------------------------
 */

enum { PM_HZ = 3579545 };
static u16 pm_timer;

static inline u32 pci_read(unsigned device, unsigned function, unsigned offset)
{
    outl(0xcf8, 0x80000000 | device << 11 | function << 8 | offset);
    return inl(0xcfc);
}

/* 24 bits: differences up to 4.6 seconds. */
static inline u32 pm_now(void)
{
    return inl(pm_timer) & 0xffffff;
}
static inline u32 us_since(u32 start)
{
    return (u32)((u64)((pm_now() - start) & 0xffffff) * 1000000 / PM_HZ);
}
static inline void delay_us(u32 us)
{
    u32 start = pm_now();

    while (us_since(start) < us)
        relax();
}
/* With interrupts on, until the count is there or 4 seconds are over: then false. */
static inline bool wait_for(volatile u32 *count, u32 at_least)
{
    u32 start = pm_now();

    sti();
    while (*count < at_least && us_since(start) < 4000000)
        relax();
    cli();
    return *count >= at_least;
}
/* Let come what comes. */
static inline void listen_us(u32 us)
{
    sti();
    delay_us(us);
    cli();
}

/* ---- 8259, 8254 --------------------------------------------------------------------------------
 */

enum { PIC_BASE = 0x30, PIC_SLAVE = 0x38, MASTER = 0x20, SLAVE = 0xa0, EOI = 0x20 };

static inline void pic_init(u8 icw4)
{
    outb(MASTER, 0x11);
    outb(MASTER + 1, PIC_BASE);
    outb(MASTER + 1, 4);
    outb(MASTER + 1, icw4);
    outb(SLAVE, 0x11);
    outb(SLAVE + 1, PIC_SLAVE);
    outb(SLAVE + 1, 2);
    outb(SLAVE + 1, icw4);
    outb(MASTER + 1, 0xff);
    outb(SLAVE + 1, 0xff);
}

/* A bit set: that input can interrupt. */
static inline void pic_open(u16 inputs)
{
    outb(MASTER + 1, (u8)~inputs);
    outb(SLAVE + 1, (u8)(~inputs >> 8));
}

static inline void pit_start(unsigned mode, unsigned count)
{
    outb(0x43, (u8)(0x30 | mode << 1));
    outb(0x40, (u8)count);
    outb(0x40, (u8)(count >> 8));
}
enum { PIT_10MS = 11932, PIT_1MS = 1193 };

/* Its output rises once and stays high: IRQ 0 waits in the 8259. */
static inline void pit_raise(void)
{
    u32 start = pm_now();

    pit_start(0, 20);
    outb(MASTER, 0x0a);
    while (!(inb(MASTER) & 1) && us_since(start) < 4000000)
        relax();
}

/* ---- the UART: IRQ 4 as high or low as we want -------------------------------------------------
 */

static inline void uart_init(void)
{
    outb(0x3fb, 3);
    outb(0x3f9, 0);
    outb(0x3fa, 0);
    outb(0x3fc, 8); /* OUT2 opens the way to the line */
}
static inline void uart_line(bool high)
{
    outb(0x3f9, high ? 2 : 0); /* the transmitter is empty, may that interrupt? */
}
/* An edge and no more. */
static inline void uart_pulse(void)
{
    uart_line(true);
    uart_line(false);
}

/* ---- APICs -------------------------------------------------------------------------------------
 */

#define LAPIC(reg) (*(volatile u32 *)(word)(0xfee00000 + (reg)))
#define APIC_BASE  0x1b
enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, APIC_EOI = 0xb0, LDR = 0xd0, DFR = 0xe0 };
enum { SVR = 0xf0, ISR = 0x100, TMR = 0x180, IRR = 0x200, ESR = 0x280, ICR = 0x300 };
enum { ICR_HIGH = 0x310, LVT_TIMER = 0x320, LINT0 = 0x350, LINT1 = 0x360, LVT_ERROR = 0x370 };
enum { INITIAL = 0x380, CURRENT = 0x390, DIVIDE = 0x3e0 };
enum { MASKED = 1 << 16, PERIODIC = 1 << 17, DEADLINE = 2 << 17 };
enum { FIXED, LOWEST = 1 << 8, SMI = 2 << 8, BY_NMI = 4 << 8, INIT = 5 << 8, SIPI = 6 << 8 };
enum { EXTINT = 7 << 8, LOGICAL = 1 << 11, ASSERT = 1 << 14, LEVEL = 1 << 15 };
enum { SELF = 1 << 18, ALL = 2 << 18, OTHERS = 3 << 18 };
enum { SPURIOUS = 0xff };

static inline u32 apic_id(void)
{
    return LAPIC(ID) >> 24;
}
static inline void apic_eoi(void)
{
    LAPIC(APIC_EOI) = 0;
}
static inline void send(u32 destination, u32 command)
{
    LAPIC(ICR_HIGH) = destination << 24;
    LAPIC(ICR) = command | ASSERT;
    while (LAPIC(ICR) & 1 << 12)
        relax();
}
static inline bool apic_bit(unsigned map, u8 vector)
{
    return LAPIC(map + vector / 32 * 16) >> vector % 32 & 1;
}
static inline u32 apic_errors(void)
{
    LAPIC(ESR) = 0;
    return LAPIC(ESR);
}

#define IOAPIC(offset) (*(volatile u32 *)(word)(0xfec00000 + (offset)))
static inline u32 io_read(u32 reg)
{
    IOAPIC(0) = reg;
    return IOAPIC(0x10);
}
static inline void io_write(u32 reg, u32 value)
{
    IOAPIC(0) = reg;
    IOAPIC(0x10) = value;
}
/* Destination first: it is in force when the low half opens the pin. */
static inline void io_route(unsigned pin, u32 low, u32 destination)
{
    io_write(0x10 + 2 * pin, MASKED);
    io_write(0x11 + 2 * pin, destination << 24);
    io_write(0x10 + 2 * pin, low);
}
static inline u32 io_entry(unsigned pin)
{
    return io_read(0x10 + 2 * pin);
}

static inline void board_start(void)
{
    u32 power = pci_read(1, 3, 0x40); /* PIIX4's power management */

    pm_timer = (u16)((power & 0xffc0) + 8);
    trap_action = handle;
    trap_resume = 1;
    pic_init(1);
    uart_init();
}

/* The local APIC on, the 8259s silent. */
static inline void apic_start(void)
{
    board_start();
    LAPIC(LINT0) = MASKED;
    LAPIC(SVR) = 0x100 | SPURIOUS;
    LAPIC(TPR) = 0;
}

#endif
