#include "support/unit.h"

#include "chardev/chardev.h"
#include "devices/char/serial.h"
#include "support/test_machine.h"

enum { BASE = 0x3f8, IRQ = 4 };

struct bench {
    struct machine *m;
    struct chardev *c;
};

static int setup_with(void **state, size_t limit)
{
    struct bench *b = xcalloc(1, sizeof(*b));
    struct device *dev;

    if (test_machine_setup((void **)&b->m) < 0)
        return -1;
    b->c = chardev_memory(NULL, limit);
    dev = device_new(b->m, &isa_serial_type, "serial0");
    device_set_ref(dev, "chardev", b->c);
    *state = b;
    return device_realize(dev, NULL);
}

static int setup(void **state)
{
    return setup_with(state, 4096);
}

static int setup_narrow(void **state)
{
    return setup_with(state, 1);
}

static int teardown(void **state)
{
    struct bench *b = *state;

    test_machine_teardown((void **)&b->m);
    chardev_free(b->c);
    free(b);
    return 0;
}

static void bytes_go_out_and_come_in(void **state)
{
    struct bench *b = *state;
    char text[8] = {0};

    assert_int_equal(in8(b->m, BASE + SERIAL_LSR), LSR_THRE | LSR_TEMT);
    out8(b->m, BASE + SERIAL_THR, 'h');
    out8(b->m, BASE + SERIAL_THR, 'i');
    assert_int_equal(chardev_memory_take(b->c, text, sizeof(text)), 2);
    assert_string_equal(text, "hi");
    chardev_feed(b->c, "xyz", 3); /* no FIFO: one at a time */
    assert_int_equal(in8(b->m, BASE + SERIAL_LSR) & LSR_DR, LSR_DR);
    assert_int_equal(in8(b->m, BASE + SERIAL_RBR), 'x');
    chardev_feed(b->c, "", 0);
    test_save_reset_restore(b->m);
    assert_int_equal(in8(b->m, BASE + SERIAL_RBR), 'y');
    assert_int_equal(in8(b->m, BASE + SERIAL_LSR) & LSR_DR, 0);
}

static void the_divisor_hides_data_and_ier(void **state)
{
    struct bench *b = *state;

    out8(b->m, BASE + SERIAL_LCR, LCR_DLAB | 3);
    assert_int_equal(in8(b->m, BASE + SERIAL_DLL), 12);
    out8(b->m, BASE + SERIAL_DLL, 0x34);
    out8(b->m, BASE + SERIAL_DLM, 0x12);
    out8(b->m, BASE + SERIAL_LCR, 3);
    assert_int_equal(in8(b->m, BASE + SERIAL_IER), 0);
    out8(b->m, BASE + SERIAL_IER, 0xff);
    assert_int_equal(in8(b->m, BASE + SERIAL_IER), 0x0f);
    test_save_reset_restore(b->m);
    out8(b->m, BASE + SERIAL_LCR, LCR_DLAB);
    assert_int_equal(in8(b->m, BASE + SERIAL_DLL), 0x34);
    assert_int_equal(in8(b->m, BASE + SERIAL_DLM), 0x12);
}

static void interrupts_have_priorities(void **state)
{
    struct bench *b = *state;

    out8(b->m, BASE + SERIAL_FCR, FCR_ENABLE | 0x40); /* trigger level 4 */
    out8(b->m, BASE + SERIAL_IER, IER_RDI | IER_THRI | IER_RLSI);
    assert_false(test_irq(b->m, IRQ)); /* OUT2 gates it */
    out8(b->m, BASE + SERIAL_MCR, MCR_OUT2);
    assert_true(test_irq(b->m, IRQ));
    test_save_reset_restore(b->m);
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_FIFO | IIR_THRI);
    assert_false(test_irq(b->m, IRQ)); /* reading IIR acknowledged it */
    chardev_feed(b->c, "abc", 3);
    assert_false(test_irq(b->m, IRQ)); /* below the trigger */
    chardev_feed(b->c, "d", 1);
    assert_true(test_irq(b->m, IRQ));
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_FIFO | IIR_RDI);
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_FIFO | IIR_RDI); /* not by reading IIR */
    assert_int_equal(in8(b->m, BASE + SERIAL_RBR), 'a');
    assert_false(test_irq(b->m, IRQ));
}

static void waiting_bytes_time_out(void **state)
{
    struct bench *b = *state;

    out8(b->m, BASE + SERIAL_LCR, 3); /* 8N1, 10 bits at 9600 baud: 1.04 ms a character */
    out8(b->m, BASE + SERIAL_FCR, FCR_ENABLE | FCR_TRIGGER);
    out8(b->m, BASE + SERIAL_IER, IER_RDI);
    out8(b->m, BASE + SERIAL_MCR, MCR_OUT2);
    chardev_feed(b->c, "ab", 2);
    test_advance(b->m, 4 * NSEC_PER_MSEC);
    assert_false(test_irq(b->m, IRQ));
    test_advance(b->m, 200 * NSEC_PER_USEC);
    assert_true(test_irq(b->m, IRQ));
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_FIFO | IIR_TIMEOUT);
    test_save_reset_restore(b->m);
    assert_true(test_irq(b->m, IRQ));
    assert_int_equal(in8(b->m, BASE + SERIAL_RBR), 'a');
    assert_false(test_irq(b->m, IRQ)); /* starts again for the next */
    test_advance(b->m, 5 * NSEC_PER_MSEC);
    assert_true(test_irq(b->m, IRQ));
    out8(b->m, BASE + SERIAL_FCR, FCR_ENABLE | FCR_CLEAR_RX);
    assert_false(test_irq(b->m, IRQ));
}

static void overruns_are_told_once(void **state)
{
    struct bench *b = *state;

    out8(b->m, BASE + SERIAL_MCR, MCR_LOOP | MCR_OUT2);
    out8(b->m, BASE + SERIAL_IER, IER_RLSI);
    out8(b->m, BASE + SERIAL_THR, 1);
    assert_false(test_irq(b->m, IRQ));
    out8(b->m, BASE + SERIAL_THR, 2);
    assert_true(test_irq(b->m, IRQ));
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_RLSI);
    assert_int_equal(in8(b->m, BASE + SERIAL_LSR) & (LSR_OE | LSR_DR), LSR_OE | LSR_DR);
    assert_int_equal(in8(b->m, BASE + SERIAL_LSR) & LSR_OE, 0);
    assert_false(test_irq(b->m, IRQ));
    assert_int_equal(in8(b->m, BASE + SERIAL_RBR), 1);
}

static void loopback_ties_the_modem_lines(void **state)
{
    struct bench *b = *state;

    assert_int_equal(in8(b->m, BASE + SERIAL_MSR), MSR_CTS | MSR_DSR | MSR_DCD);
    out8(b->m, BASE + SERIAL_MCR, MCR_LOOP | MCR_RTS | MCR_OUT1);
    assert_int_equal(in8(b->m, BASE + SERIAL_MSR), MSR_CTS | MSR_RI | MSR_DDSR | MSR_DDCD);
    assert_int_equal(in8(b->m, BASE + SERIAL_MSR), MSR_CTS | MSR_RI);
    out8(b->m, BASE + SERIAL_MCR, MCR_LOOP | MCR_RTS);
    test_save_reset_restore(b->m);
    assert_int_equal(in8(b->m, BASE + SERIAL_MSR), MSR_CTS | MSR_TERI);
}

static void a_slow_reader_holds_thre_back(void **state)
{
    struct bench *b = *state;
    char text[4] = {0};

    out8(b->m, BASE + SERIAL_MCR, MCR_OUT2);
    out8(b->m, BASE + SERIAL_IER, IER_THRI);
    in8(b->m, BASE + SERIAL_IIR);
    out8(b->m, BASE + SERIAL_THR, 'a');
    assert_int_equal(in8(b->m, BASE + SERIAL_IIR), IIR_THRI);
    out8(b->m, BASE + SERIAL_THR, 'b'); /* the back end is full */
    assert_int_equal(in8(b->m, BASE + SERIAL_LSR), 0);
    assert_false(test_irq(b->m, IRQ));
    test_save_reset_restore(b->m);
    assert_int_equal(chardev_memory_take(b->c, text, 1), 1);
    assert_true(test_irq(b->m, IRQ));
    assert_int_equal(chardev_memory_take(b->c, text + 1, 1), 1);
    assert_string_equal(text, "ab");
}

static void only_bytes_and_only_aligned_bases(void **state)
{
    struct bench *b = *state;
    struct error err = {0};

    assert_int_equal(test_add(b->m, &isa_serial_type, "iobase=0x3f9", &err), -EINVAL);
    assert_string_equal(err.text, "isa-serial: iobase 0x3f9 is not a multiple of 8");
    assert_int_equal(test_add(b->m, &isa_serial_type, "iobase=0x2f8,irq=99", &err), -EINVAL);
    assert_string_equal(err.text, "isa-serial: interrupt 99 does not exist, the last is 23");
    out8(b->m, BASE + SERIAL_SCR, 0xa5);
    assert_int_equal(in16(b->m, BASE + SERIAL_MSR) >> 8, 0xa5); /* cut into bytes */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(bytes_go_out_and_come_in),
        CASE(the_divisor_hides_data_and_ier),
        CASE(interrupts_have_priorities),
        CASE(waiting_bytes_time_out),
        CASE(overruns_are_told_once),
        CASE(loopback_ties_the_modem_lines),
        cmocka_unit_test_setup_teardown(a_slow_reader_holds_thre_back, setup_narrow, teardown),
        CASE(only_bytes_and_only_aligned_bases),
    };
    return cmocka_run_group_tests_name("serial", tests, NULL, NULL);
}
