/*
 * apic_io.c - the I/O APIC: edges and levels, remote IRR and its end, masks; the 8254 at pin 2.
 * IRQ 4 is the UART's, which software moves.
 */
#include "apic.h"

enum { LOW = 0x41, LEVELLED = 0x52, TIMER = 0x63, PIN = 4, PIT_PIN = 2, REMOTE_IRR = 1 << 14 };
enum { STATUS = 1 << 12 | REMOTE_IRR };

static void end(word *frame)
{
    apic_eoi();
}

static void registers(void)
{
    u32 id = io_read(0);

    expect("24 pins", io_read(1) >> 16 & 0xff, 23);
    expect("version", (io_read(1) & 0xff) >= 0x11, true);
    for (unsigned i = 0, masked = 0; i < 24; i++) {
        masked += io_entry(i) >> 16 & 1;
        if (i == 23)
            expect("all are masked", masked >= 23, true);
    }
    io_write(0, 0xffffffff);
    expect("the ID has 4 bits", io_read(0), 0x0f000000);
    io_write(0, id);
    io_write(0x10 + 2 * 23, 0xffffffff & ~(u32)LEVEL);
    expect("what can be written of an entry", io_entry(23), 0x1ffff & ~(STATUS | LEVEL));
    io_write(0x11 + 2 * 23, 0xa5000000);
    expect("and of its destination", io_read(0x11 + 2 * 23), 0xa5000000);
    io_write(0x10 + 2 * 23, MASKED);
}

static void edges(void)
{
    io_route(PIN, LOW, apic_id());
    uart_pulse();
    window();
    expect("an edge comes", seen[LOW], 1);
    uart_line(true);
    window();
    window();
    expect("a high line is one edge", seen[LOW], 2);
    expect("no remote IRR", io_entry(PIN) & REMOTE_IRR, 0);
    uart_line(false);
    io_write(0x10 + 2 * PIN, MASKED | LOW);
    uart_pulse();
    window();
    io_write(0x10 + 2 * PIN, LOW);
    window();
    expect("masked, it is lost", seen[LOW], 2);
    io_route(PIN, LOGICAL | LOW, 1);
    uart_pulse();
    window();
    expect("a logical destination that is not ours", seen[LOW], 2);
    LAPIC(LDR) = 1u << 24;
    uart_pulse();
    window();
    expect("that is", seen[LOW], 3);
    io_route(PIN, LOWEST | LOGICAL | LOW, 0xff);
    uart_pulse();
    window();
    expect("lowest priority", seen[LOW], 4);
}

static volatile u32 irr_inside, tmr_inside;

static void level_handler(word *frame)
{
    irr_inside = io_entry(PIN) & REMOTE_IRR;
    tmr_inside = apic_bit(TMR, LEVELLED);
    if (seen[LEVELLED] == 3)
        uart_line(false);
    apic_eoi();
}

static void levels(void)
{
    forget();
    io_route(PIN, LEVEL | LEVELLED, apic_id());
    uart_line(true);
    expect("delivered: remote IRR", io_entry(PIN) & REMOTE_IRR, REMOTE_IRR);
    window();
    window();
    expect("again after each EOI while the line is high", seen[LEVELLED], 3);
    expect("remote IRR in the handler", irr_inside, REMOTE_IRR);
    expect("the TMR bit says level", tmr_inside, true);
    expect("the EOI cleared it", io_entry(PIN) & REMOTE_IRR, 0);
    /* Masked, a level waits. */
    forget();
    io_write(0x10 + 2 * PIN, MASKED | LEVEL | LEVELLED);
    uart_line(true);
    window();
    expect("masked, nothing comes", taken, 0);
    handlers[LEVELLED] = end;
    io_write(0x10 + 2 * PIN, LEVEL | LEVELLED);
    uart_line(false);
    window();
    expect("opened, it does", seen[LEVELLED], 1);
    expect("and its end was told", io_entry(PIN) & REMOTE_IRR, 0);
    uart_line(true);
    uart_line(false);
    io_write(0x10 + 2 * PIN, MASKED | LEVEL | LEVELLED);
    expect("masking does not clear remote IRR", io_entry(PIN) & REMOTE_IRR, REMOTE_IRR);
    io_write(0x10 + 2 * PIN, MASKED | LEVELLED);
    expect("being an edge does", io_entry(PIN) & REMOTE_IRR, 0);
    window(); /* what was delivered comes */
    forget();
    /* The same vector at another pin: EOI concerns it too, and finds nothing. */
    io_route(23, MASKED | LEVEL | LEVELLED, apic_id());
    send(0, SELF | FIXED | LEVELLED);
    window();
    expect("an edge of the same vector", seen[LEVELLED], 1);
    io_write(0x10 + 2 * 23, MASKED);
}

static volatile u32 nmis;

static void count_nmi(word *frame)
{
    nmis++;
}

static void other_deliveries(void)
{
    handlers[NMI] = count_nmi;
    io_route(PIN, BY_NMI, apic_id());
    uart_pulse();
    relax();
    io_route(PIN, MASKED, 0);
    expect("a pin can be an NMI", nmis, 1);
}

static void pit(void)
{
    forget();
    io_route(PIT_PIN, TIMER, apic_id());
    pit_start(2, PIT_10MS);
    expect("the 8254 at pin 2", wait_for(&seen[TIMER], 3), true);
    io_route(PIT_PIN, MASKED, 0);
    io_route(0, TIMER, apic_id());
    window();
    forget();
    listen_us(30000);
    expect("not at pin 0", taken, 0);
    io_route(0, MASKED, 0);
    pit_start(0, 0xffff);
}

void test(void)
{
    apic_start();
    handlers[LOW] = handlers[TIMER] = end;
    handlers[LEVELLED] = level_handler;
    registers();
    forget();
    edges();
    levels();
    other_deliveries();
    pit();
}
