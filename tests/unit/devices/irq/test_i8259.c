#include "support/unit.h"

#include "support/test_machine.h"

#include "devices/irq/i8259.h"
#include "devices/timer/i8254.h"

enum { M0 = I8259_MASTER, M1 = M0 + 1, S0 = I8259_SLAVE, S1 = S0 + 1 };
enum { MASTER_BASE = 0x30, SLAVE_BASE = 0x38 };

struct fixture {
    struct machine *m;
    struct device *pic;
    struct irq_line line[16];
    bool out;
    unsigned rises;
};

static void output(void *opaque, bool level)
{
    struct fixture *f = opaque;

    f->rises += level && !f->out;
    f->out = level;
}

static void init_chip(struct fixture *f, uint16_t base, uint8_t vector, uint8_t icw4)
{
    out8(f->m, base, 0x11);
    out8(f->m, base + 1, vector);
    out8(f->m, base + 1, base == M0 ? 4 : 2);
    out8(f->m, base + 1, icw4);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct error err = {0};
    void *m;

    if (test_machine_setup(&m))
        return -1;
    f->m = m;
    f->pic = i8259_add(f->m, output, f, &err);
    for (unsigned i = 0; i < 16; i++)
        irq_line_connect(&f->line[i], &f->m->gsi[i]);
    init_chip(f, M0, MASTER_BASE, 1);
    init_chip(f, S0, SLAVE_BASE, 1);
    *state = f;
    return f->pic ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *m = f->m;

    test_machine_teardown(&m);
    free(f);
    return 0;
}

static void raise(struct fixture *f, unsigned irq)
{
    irq_line_set(&f->line[irq], true);
}

static void lower(struct fixture *f, unsigned irq)
{
    irq_line_set(&f->line[irq], false);
}

static uint8_t read_reg(struct fixture *f, uint16_t base, uint8_t ocw3)
{
    out8(f->m, base, ocw3);
    return in8(f->m, base);
}

static uint8_t irr(struct fixture *f, uint16_t base)
{
    return read_reg(f, base, 0x0a);
}

static uint8_t isr(struct fixture *f, uint16_t base)
{
    return read_reg(f, base, 0x0b);
}

static void edge_is_taken_once(void **state)
{
    struct fixture *f = *state;

    raise(f, 4);
    assert_true(f->out);
    assert_int_equal(irr(f, M0), 0x10);
    test_save_reset_restore(f->m);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 4);
    assert_false(f->out);
    assert_int_equal(isr(f, M0), 0x10);
    assert_int_equal(irr(f, M0), 0);
    test_save_reset_restore(f->m); /* the line is still high: no new edge */
    out8(f->m, M0, 0x20);
    assert_int_equal(isr(f, M0), 0);
    assert_false(f->out);
    lower(f, 4);
    assert_false(f->out);
    raise(f, 4);
    assert_true(f->out);
    lower(f, 4); /* a pulse stays requested */
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 4);
}

static void level_asks_until_it_falls(void **state)
{
    struct fixture *f = *state;

    out8(f->m, I8259_ELCR, 0xff);
    out8(f->m, I8259_ELCR + 1, 0xff);
    assert_int_equal(in8(f->m, I8259_ELCR), 0xf8); /* 0-2, 8 and 13 stay edge-triggered */
    assert_int_equal(in8(f->m, I8259_ELCR + 1), 0xde);
    raise(f, 11);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 3);
    assert_int_equal(isr(f, M0), 0x04);
    assert_int_equal(isr(f, S0), 0x08);
    test_save_reset_restore(f->m);
    assert_false(f->out);
    out8(f->m, S0, 0x20);
    out8(f->m, M0, 0x20);
    assert_true(f->out); /* still high: again */
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 3);
    lower(f, 11);
    out8(f->m, S0, 0x63);
    out8(f->m, M0, 0x62);
    assert_false(f->out);
    /* An edge is forgotten when its input becomes level-triggered. */
    out8(f->m, I8259_ELCR, 0);
    raise(f, 6);
    lower(f, 6);
    assert_true(f->out);
    out8(f->m, I8259_ELCR, 0x40);
    assert_false(f->out);
    /* ICW1 leaves the trigger modes to ELCR. */
    init_chip(f, S0, SLAVE_BASE, 1);
    assert_int_equal(in8(f->m, I8259_ELCR + 1), 0xde);
}

static void priorities_nest(void **state)
{
    struct fixture *f = *state;

    raise(f, 5);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 5);
    raise(f, 6);
    assert_false(f->out);
    raise(f, 3);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 3);
    raise(f, 9); /* the slave stands at 2, above 3 */
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 1);
    assert_int_equal(isr(f, M0), 0x2c);
    out8(f->m, S0, 0x20);
    out8(f->m, M0, 0x20); /* ends the highest */
    assert_int_equal(isr(f, M0), 0x28);
    out8(f->m, M0, 0x20);
    assert_int_equal(isr(f, M0), 0x20);
    assert_false(f->out);
    out8(f->m, M0, 0x65); /* specific */
    assert_int_equal(isr(f, M0), 0);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 6);
}

static void slave_asks_again_for_what_waits(void **state)
{
    struct fixture *f = *state;

    raise(f, 12);
    raise(f, 10);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 2);
    out8(f->m, M0, 0x20);
    assert_false(f->out); /* 12 is below 10, still in service in the slave */
    out8(f->m, S0, 0x20);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 4);
    out8(f->m, M0, 0x20);
    raise(f, 8); /* above 12 */
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 0);

    init_chip(f, M0, MASTER_BASE, 3); /* automatic EOI: INT of the slave never stays low */
    init_chip(f, S0, SLAVE_BASE, 3);
    for (unsigned i = 8; i < 16; i++)
        lower(f, i);
    raise(f, 12);
    raise(f, 10);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 2);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 4);
    assert_false(f->out);
}

static void fully_nested_slave_interrupts_itself(void **state)
{
    struct fixture *f = *state;

    raise(f, 12);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 4);
    raise(f, 9);
    assert_false(f->out); /* the master still serves input 2 */
    out8(f->m, M0, 0x62);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 1);

    init_chip(f, M0, MASTER_BASE, 0x11);
    init_chip(f, S0, SLAVE_BASE, 1);
    for (unsigned i = 8; i < 16; i++)
        lower(f, i);
    raise(f, 12);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 4);
    raise(f, 9);
    assert_true(f->out);
    test_save_reset_restore(f->m);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 1);
}

static void fully_nested_means_nothing_to_the_slave(void **state)
{
    struct fixture *f = *state;

    init_chip(f, S0, SLAVE_BASE, 0x11);
    raise(f, 10);
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 2);
    out8(f->m, M0, 0x20);
    raise(f, 12);
    assert_false(f->out);
}

/* Over a restore a device's line falls and rises; that is no edge. */
static void lines_of_devices_over_a_restore(void **state)
{
    struct fixture *f = *state;

    assert_non_null(i8254_add(f->m, NULL));
    out8(f->m, I8254_CONTROL, 0x30); /* low until terminal count, then high */
    out8(f->m, I8254_BASE, 100);
    out8(f->m, I8254_BASE, 0);
    test_advance(f->m, NSEC_PER_MSEC);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE);
    out8(f->m, M0, 0x20);
    test_save_reset_restore(f->m);
    assert_true(test_irq(f->m, 0));
    assert_int_equal(irr(f, M0), 0);
    assert_false(f->out);
}

static void masked_waits(void **state)
{
    struct fixture *f = *state;

    out8(f->m, M1, 0x10);
    assert_int_equal(in8(f->m, M1), 0x10);
    raise(f, 4);
    assert_false(f->out);
    assert_int_equal(irr(f, M0), 0x10);
    test_save_reset_restore(f->m);
    out8(f->m, M1, 0);
    assert_true(f->out);
}

static void spurious_where_the_request_went_away(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 7);
    assert_int_equal(isr(f, M0), 0);
    raise(f, 14);
    assert_true(f->out);
    out8(f->m, S1, 0x40); /* masked behind the master's back */
    assert_int_equal(pic_acknowledge(f->pic), SLAVE_BASE + 7);
    assert_int_equal(isr(f, S0), 0);
    assert_int_equal(isr(f, M0), 4);
    out8(f->m, I8259_ELCR, 0x20);
    out8(f->m, M0, 0x20);
    raise(f, 5);
    assert_true(f->out);
    lower(f, 5);
    assert_false(f->out);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 7);
}

static void auto_eoi_and_rotation(void **state)
{
    struct fixture *f = *state;

    init_chip(f, M0, MASTER_BASE, 3);
    raise(f, 1);
    raise(f, 6);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
    assert_int_equal(isr(f, M0), 0);
    assert_true(f->out);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 6);
    out8(f->m, M0, 0x80); /* rotate at each automatic EOI */
    test_save_reset_restore(f->m);
    lower(f, 1);
    lower(f, 6);
    raise(f, 1);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
    test_save_reset_restore(f->m);
    lower(f, 1);
    raise(f, 1);
    raise(f, 6);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 6); /* 1 went to the end */
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
    out8(f->m, M0, 0x00);
    out8(f->m, M0, 0xc7); /* 7 lowest again */
    lower(f, 1);
    lower(f, 6);
    raise(f, 1);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
    lower(f, 1);
    raise(f, 6);
    raise(f, 1);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
}

static void rotating_eoi(void **state)
{
    struct fixture *f = *state;

    raise(f, 3);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 3);
    out8(f->m, M0, 0xa0);
    assert_int_equal(isr(f, M0), 0);
    lower(f, 3);
    raise(f, 3);
    raise(f, 4); /* now the highest */
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 4);
    out8(f->m, M0, 0xe4); /* specific, 4 becomes the lowest */
    raise(f, 5);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 5);
    out8(f->m, M0, 0x40); /* no operation */
    assert_int_equal(isr(f, M0), 0x20);
    out8(f->m, M0, 0xa0);
    out8(f->m, M0, 0xc2); /* set priority: 3 highest */
    raise(f, 0);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 3);
}

static void special_mask_lets_lower_ones_through(void **state)
{
    struct fixture *f = *state;

    raise(f, 1);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 1);
    raise(f, 6);
    out8(f->m, M1, 0x02);
    assert_false(f->out);
    out8(f->m, M0, 0x68);
    assert_true(f->out);
    test_save_reset_restore(f->m);
    assert_int_equal(pic_acknowledge(f->pic), MASTER_BASE + 6);
    out8(f->m, M0, 0x20); /* not 1: it is masked */
    assert_int_equal(isr(f, M0), 0x02);
    out8(f->m, M0, 0x08); /* no change of the mode */
    raise(f, 5);
    assert_true(f->out);
    out8(f->m, M0, 0x48);
    assert_false(f->out);
}

static void poll_acknowledges(void **state)
{
    struct fixture *f = *state;

    out8(f->m, M0, 0x0c);
    assert_int_equal(in8(f->m, M0), 0);
    raise(f, 3);
    out8(f->m, M0, 0x0c);
    test_save_reset_restore(f->m);
    assert_int_equal(in8(f->m, M1), 0x83);
    assert_false(f->out);
    assert_int_equal(isr(f, M0), 8);
    assert_int_equal(in8(f->m, M0), 8); /* only the next read is special */
    out8(f->m, M0, 0x0b);
    test_save_reset_restore(f->m);
    assert_int_equal(in8(f->m, M0), 8);
    out8(f->m, M0, 0x20);
    raise(f, 13);
    out8(f->m, M0, 0x0c);
    assert_int_equal(in8(f->m, M0), 0x82);
    out8(f->m, M0, 0x20);
    assert_false(f->out); /* the slave asks still, but that is no new edge */
    out8(f->m, S0, 0x0c);
    assert_int_equal(in8(f->m, S0), 0x85);
    assert_int_equal(isr(f, S0), 0x20);
}

static void initialization_sequence(void **state)
{
    struct fixture *f = *state;

    raise(f, 4);
    out8(f->m, M1, 0x0f);
    out8(f->m, M0, 0x0b);
    out8(f->m, M0, 0x12); /* single, no ICW4 */
    assert_int_equal(in8(f->m, M1), 0);
    assert_int_equal(in8(f->m, M0), 0); /* IRR again, the old edge forgotten */
    assert_false(f->out);
    test_save_reset_restore(f->m);
    out8(f->m, M1, 0x47); /* ICW2: the low bits are not taken */
    out8(f->m, M1, 0x5a); /* IMR at once */
    assert_int_equal(in8(f->m, M1), 0x5a);
    out8(f->m, M1, 0);
    raise(f, 1);
    assert_int_equal(pic_acknowledge(f->pic), 0x41);
    /* With a slave, without ICW4; then with it. */
    out8(f->m, M0, 0x10);
    test_save_reset_restore(f->m);
    out8(f->m, M1, 0x60);
    out8(f->m, M1, 0x04);
    out8(f->m, M1, 0xfe);
    assert_int_equal(in8(f->m, M1), 0xfe);
    out8(f->m, M0, 0x11);
    test_save_reset_restore(f->m);
    out8(f->m, M1, 0x60);
    out8(f->m, M1, 0x04);
    out8(f->m, M1, 0x01);
    assert_int_equal(in8(f->m, M1), 0);
}

static void reset_forgets_and_tells(void **state)
{
    struct fixture *f = *state;

    raise(f, 4);
    assert_true(f->out);
    device_reset(f->pic);
    assert_false(f->out);
    assert_int_equal(in8(f->m, M1), 0);
    assert_int_equal(pic_acknowledge(f->pic), 7);
    lower(f, 4);
    raise(f, 4);
    assert_true(f->out);
    assert_int_equal(f->rises, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(edge_is_taken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(level_asks_until_it_falls, setup, teardown),
        cmocka_unit_test_setup_teardown(priorities_nest, setup, teardown),
        cmocka_unit_test_setup_teardown(slave_asks_again_for_what_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(fully_nested_slave_interrupts_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(fully_nested_means_nothing_to_the_slave, setup, teardown),
        cmocka_unit_test_setup_teardown(lines_of_devices_over_a_restore, setup, teardown),
        cmocka_unit_test_setup_teardown(masked_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(spurious_where_the_request_went_away, setup, teardown),
        cmocka_unit_test_setup_teardown(auto_eoi_and_rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(rotating_eoi, setup, teardown),
        cmocka_unit_test_setup_teardown(special_mask_lets_lower_ones_through, setup, teardown),
        cmocka_unit_test_setup_teardown(poll_acknowledges, setup, teardown),
        cmocka_unit_test_setup_teardown(initialization_sequence, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_forgets_and_tells, setup, teardown),
    };
    return cmocka_run_group_tests_name("i8259", tests, NULL, NULL);
}
