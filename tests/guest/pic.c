/*
 * pic.c - the 8259A pair on a board, and the ways its interrupts take to the processor.
 */
#include "apic.h"

enum { IRQ0 = PIC_BASE, IRQ4 = PIC_BASE + 4, IRQ7 = PIC_BASE + 7, IRQ8 = PIC_SLAVE };
enum { IRQ12 = PIC_SLAVE + 4, READ_IRR = 0x0a, READ_ISR = 0x0b, POLL = 0x0c };
enum { IN0 = 1 << 0, CASCADE = 1 << 2, IN4 = 1 << 4, IN8 = 1 << 8, IN12 = 1 << 12 };

static u8 read_pic(u16 chip, u8 what)
{
    outb(chip, what);
    return inb(chip);
}

static void end_master(word *frame)
{
    outb(MASTER, EOI);
}

static void end_both(word *frame)
{
    outb(SLAVE, EOI);
    outb(MASTER, EOI);
}

/* IRQ 12: a byte as if the mouse had sent it. */
static void mouse_byte(void)
{
    outb(0x64, 0xd3);
    outb(0x60, 0x55);
}

static void quiet(void)
{
    pic_open(0);
    pit_start(0, 0xffff);
    uart_line(false);
    (void)inb(0x60);
    pic_init(1);
    forget();
}

static void periodic(void)
{
    pic_open(IN0);
    pit_start(2, PIT_10MS);
    expect("IRQ 0 comes again and again", wait_for(&seen[IRQ0], 3), true);
    expect("nothing else comes", taken - seen[IRQ0], 0);
    pic_open(0);
    forget();
    listen_us(30000);
    expect("masked, it does not", taken, 0);
    expect("but it waits", read_pic(MASTER, READ_IRR) & 1, 1);
    quiet();
}

static volatile u8 isr_inside, isr_slave_inside;
static volatile u32 nested;

static void look_inside(word *frame)
{
    isr_inside = read_pic(MASTER, READ_ISR);
    isr_slave_inside = read_pic(SLAVE, READ_ISR);
}

static void without_eoi(void)
{
    handlers[IRQ0] = look_inside;
    pic_open(IN0);
    pit_start(2, PIT_1MS);
    expect("one comes", wait_for(&seen[IRQ0], 1), true);
    expect("its bit in ISR", isr_inside, 1);
    listen_us(10000);
    expect("no more without EOI", seen[IRQ0], 1);
    expect("the next waits", read_pic(MASTER, READ_IRR) & 1, 1);
    outb(MASTER, EOI);
    expect("EOI clears the bit", read_pic(MASTER, READ_ISR), 0);
    window();
    expect("and lets the next come", seen[IRQ0], 2);
    outb(MASTER, 0x60); /* specific, input 0 */
    expect("specific EOI", read_pic(MASTER, READ_ISR), 0);
    handlers[IRQ0] = end_master;
    quiet();
}

static void raise_three(void)
{
    pic_open(0);
    mouse_byte();
    uart_line(true);
    pit_raise();
    pic_open(IN0 | CASCADE | IN4 | IN12);
}

static void take_all(void)
{
    for (unsigned i = 0; i < 8; i++)
        window();
}

static void priorities(void)
{
    raise_three();
    expect("IRR of the master", read_pic(MASTER, READ_IRR), IN0 | CASCADE | IN4);
    expect("IRR of the slave", read_pic(SLAVE, READ_IRR), IN12 >> 8);
    take_all();
    expect("in order of priority", came(), (u32)IRQ0 << 24 | IRQ12 << 16 | IRQ4 << 8);
    quiet();
    raise_three();
    outb(MASTER, 0xc0 | 3); /* input 3 is the lowest, 4 the highest */
    take_all();
    expect("rotated by 4", came(), (u32)IRQ4 << 24 | IRQ0 << 16 | IRQ12 << 8);
    quiet();
    handlers[IRQ12] = look_inside;
    raise_three();
    pic_open(CASCADE | IN12);
    window();
    expect("a slave's input is in service on the master", isr_inside, CASCADE);
    expect("and on the slave", isr_slave_inside, IN12 >> 8);
    outb(SLAVE, EOI);
    outb(MASTER, EOI);
    handlers[IRQ12] = end_both;
    quiet();
}

static void open_low(word *frame)
{
    u32 before = taken;

    handlers[frame[0]] = end_master; /* the next time */
    pit_raise();
    window();
    nested = (u32)order[before] << 8;
    uart_pulse(); /* again: must wait for our end */
    window();
    nested |= taken - before;
    outb(MASTER, EOI);
}

static void nesting(void)
{
    handlers[IRQ4] = open_low;
    pic_open(IN0 | IN4);
    uart_pulse();
    window();
    expect("IRQ 0 interrupts IRQ 4, IRQ 4 does not", nested, IRQ0 << 8 | 1);
    window();
    expect("what waited comes after", seen[IRQ4], 2);
    quiet();
    /* Special mask mode: what is masked in service holds nothing back. */
    handlers[IRQ0] = NULL;
    pic_open(IN0 | IN4);
    pit_raise();
    window();
    uart_pulse();
    window();
    expect("IRQ 4 waits behind IRQ 0", seen[IRQ4], 0);
    outb(MASTER, 0x68);
    pic_open(IN4);
    window();
    expect("special mask lets it through", seen[IRQ4], 1);
    outb(MASTER, 0x48);
    handlers[IRQ0] = end_master;
    quiet();
}

static void auto_eoi_and_poll(void)
{
    pic_init(3);
    handlers[IRQ4] = look_inside;
    isr_inside = 0xff;
    pic_open(IN4);
    uart_pulse();
    window();
    expect("automatic EOI: nothing in service", isr_inside, 0);
    handlers[IRQ4] = end_master;
    quiet();
    pic_open(IN4);
    uart_pulse();
    expect("poll: the request", read_pic(MASTER, POLL), 0x84);
    expect("poll acknowledged it", read_pic(MASTER, READ_ISR), IN4);
    window();
    expect("so it does not come", taken, 0);
    outb(MASTER, EOI);
    expect("poll: nothing", read_pic(MASTER, POLL) & 0x80, 0);
    quiet();
}

static void lower_at_three(word *frame)
{
    if (seen[IRQ4] == 3)
        uart_line(false);
    outb(MASTER, EOI);
}

static void edges_and_levels(void)
{
    u8 elcr = inb(0x4d0), elcr2 = inb(0x4d1);

    outb(0x4d0, 0xff);
    expect("inputs 0 to 2 are edges for ever", inb(0x4d0), 0xf8);
    outb(0x4d1, 0xff);
    expect("8 and 13 too", inb(0x4d1), 0xde);
    outb(0x4d0, (u8)(elcr & ~IN4));
    outb(0x4d1, elcr2);
    pic_open(IN4);
    uart_line(true);
    take_all();
    expect("an edge comes once", seen[IRQ4], 1);
    quiet();
    outb(0x4d0, elcr | IN4);
    pic_open(IN4);
    handlers[IRQ4] = lower_at_three;
    uart_line(true);
    take_all();
    handlers[IRQ4] = end_master;
    expect("a level again after each EOI until it is low", seen[IRQ4], 3);
    forget();
    pic_open(0);
    uart_line(true);
    uart_line(false);
    pic_open(IN4);
    window();
    expect("a level that went away is forgotten", taken, 0);
    outb(0x4d0, elcr);
    quiet();
}

/* Does a pulse on IRQ 4 arrive? */
static u32 arrives(void)
{
    quiet();
    pic_open(IN4);
    uart_pulse();
    take_all();
    return seen[IRQ4];
}

static void ways(void)
{
    u64 base = rdmsr(APIC_BASE);

    expect("through the APIC as reset leaves it", arrives(), 1);
    LAPIC(SVR) = 0x1ff;
    LAPIC(LINT0) = EXTINT;
    expect("through LINT0 as ExtINT", arrives(), 1);
    expect("an ExtINT is not in service in the APIC", apic_bit(ISR, IRQ4), 0);
    LAPIC(TPR) = 0xff;
    expect("the task priority does not hold it", arrives(), 1);
    LAPIC(TPR) = 0;
    LAPIC(LINT0) = EXTINT | MASKED;
    expect("not with LINT0 masked", arrives(), 0);
    LAPIC(LINT0) = EXTINT;
    window();
    expect("it waited", seen[IRQ4], 1);
    LAPIC(SVR) = 0xff;
    expect("switching the APIC off masks LINT0", LAPIC(LINT0) & MASKED, MASKED);
    LAPIC(LINT0) = EXTINT;
    expect("for as long as it is off", LAPIC(LINT0) & MASKED, MASKED);
    expect("so nothing arrives", arrives(), 0);
    wrmsr(APIC_BASE, base & ~0x800ull);
    expect("without the APIC it arrives", arrives(), 1);
    wrmsr(APIC_BASE, base);
    LAPIC(SVR) = 0x1ff;
    LAPIC(LINT0) = MASKED;
    quiet();
}

/* The I/O APIC says "ask the 8259", which has nothing by then: input 7, with no bit in ISR. */
static void spurious(void)
{
    handlers[IRQ7] = look_inside;
    isr_inside = 0xff;
    pic_open(0);
    io_route(4, EXTINT, apic_id());
    uart_pulse();
    take_all();
    io_route(4, MASKED, 0);
    expect("a spurious interrupt has vector 7", came(), (u32)IRQ7 << 24);
    expect("and is not in service", isr_inside & 0x80, 0);
    handlers[IRQ7] = end_master;
    quiet();
}

void test(void)
{
    board_start();
    for (unsigned i = 0; i < 8; i++) {
        handlers[PIC_BASE + i] = end_master;
        handlers[PIC_SLAVE + i] = end_both;
    }
    outb(0x64, 0x60);
    outb(0x60, 0x02); /* the mouse may interrupt */
    expect("masks read back", (pic_open(0x5aa5), inb(MASTER + 1) | inb(SLAVE + 1) << 8), 0xa55a);
    quiet();
    periodic();
    without_eoi();
    priorities();
    nesting();
    auto_eoi_and_poll();
    edges_and_levels();
    ways();
    spurious();
}
