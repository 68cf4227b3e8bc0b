#include "support/unit.h"

#include "support/test_machine.h"

#include "devices/irq/i8259.h"
#include "devices/irq/ioapic.h"
#include "devices/irq/lapic.h"
#include "devices/timer/i8254.h"
#include "x86/cpu.h"
#include "x86/model.h"

#include <sched.h>

enum { CPUS = 3 };
enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_THERMAL = 0x330,
    LVT_LINT0 = 0x350,
    LVT_LINT1 = 0x360,
    LVT_ERROR = 0x370,
    INITIAL = 0x380,
    CURRENT = 0x390,
    DIVIDE = 0x3e0,
};
enum { MSR_BASE = 0x1b, MSR_DEADLINE = 0x6e0, X2 = 0x800 };
enum { MASKED = 0x10000, PERIODIC = 0x20000, DEADLINE_MODE = 0x40000 };

struct fixture {
    struct machine *m;
    struct cpu_model model;
    struct cpu *cpu[CPUS];
    struct device *lapic[CPUS], *ioapic, *pic;
    struct apic_bus *bus;
    struct irq_line line[MACHINE_GSI_COUNT];
};

static void write_reg(struct fixture *f, unsigned cpu, unsigned reg, uint32_t value)
{
    f->cpu[cpu]->intc.write(f->cpu[cpu]->intc.opaque, reg, value, 4);
}

static uint32_t read_reg(struct fixture *f, unsigned cpu, unsigned reg)
{
    return (uint32_t)f->cpu[cpu]->intc.read(f->cpu[cpu]->intc.opaque, reg, 4);
}

static bool wrmsr(struct fixture *f, unsigned cpu, uint32_t index, uint64_t value)
{
    return f->cpu[cpu]->intc.write_msr(f->cpu[cpu]->intc.opaque, index, value);
}

/* All ones: the MSR does not exist. */
static uint64_t rdmsr(struct fixture *f, unsigned cpu, uint32_t index)
{
    uint64_t value = 0;

    return f->cpu[cpu]->intc.read_msr(f->cpu[cpu]->intc.opaque, index, &value) ? value : UINT64_MAX;
}

static int take(struct fixture *f, unsigned cpu)
{
    return f->cpu[cpu]->intc.acknowledge(f->cpu[cpu]->intc.opaque);
}

static bool event(struct fixture *f, unsigned cpu, enum cpu_event e)
{
    return (f->cpu[cpu]->events & e) != 0;
}

static bool intr(struct fixture *f, unsigned cpu)
{
    return event(f, cpu, CPU_EVENT_INTR);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct error err = {0};
    void *m;

    if (test_machine_setup(&m))
        return -1;
    *state = f;
    f->m = m;
    f->model.phys_bits = 40;
    f->model.word[FEATURE_X2APIC / 32] |= 1u << FEATURE_X2APIC % 32;
    f->model.word[FEATURE_TSC_DEADLINE / 32] |= 1u << FEATURE_TSC_DEADLINE % 32;
    f->bus = apic_bus_new();
    for (unsigned i = 0; i < CPUS; i++) {
        f->cpu[i] = cpu_new(i, i, &f->model);
        f->cpu[i]->events = 0;
        f->lapic[i] = lapic_add(f->m, f->bus, f->cpu[i], &err);
        if (!f->lapic[i])
            return -1;
        f->cpu[i]->events = 0; /* a flush, because the page moved */
        write_reg(f, i, SVR, 0x1ff);
        write_reg(f, i, LDR, 0x01000000u << i);
    }
    f->ioapic = ioapic_add(f->m, f->bus, 9, &err);
    f->pic = i8259_add(f->m, apic_bus_extint, f->bus, &err);
    apic_bus_set_pic(f->bus, f->pic);
    f->m->msi = apic_bus_msi;
    f->m->msi_opaque = f->bus;
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        irq_line_connect(&f->line[i], &f->m->gsi[i]);
    return f->ioapic && f->pic ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    void *m = f->m;

    while (f->m->devices) /* before the CPUs, as machine_free() does */
        device_free(f->m->devices);
    apic_bus_free(f->bus);
    test_machine_teardown(&m);
    for (unsigned i = 0; i < CPUS; i++)
        cpu_free(f->cpu[i]);
    free(f);
    return 0;
}

static void send(struct fixture *f, unsigned from, uint32_t to, uint32_t low)
{
    write_reg(f, from, ICR_HIGH, to << 24);
    write_reg(f, from, ICR, low);
}

/* ---- one processor -----------------------------------------------------------------------------
 */

static void priorities_and_eoi(void **state)
{
    struct fixture *f = *state;

    send(f, 0, 0, 0x41);
    send(f, 0, 0, 0x63);
    send(f, 0, 0, 0x65);
    assert_true(intr(f, 0));
    assert_int_equal(read_reg(f, 0, IRR + 0x20), 2);
    assert_int_equal(read_reg(f, 0, IRR + 0x30), 0x28);
    test_save_reset_restore(f->m);
    assert_true(intr(f, 0));
    assert_int_equal(take(f, 0), 0x65);
    assert_false(intr(f, 0)); /* 0x63 is of the same class */
    assert_int_equal(take(f, 0), -1);
    assert_int_equal(read_reg(f, 0, ISR + 0x30), 0x20);
    assert_int_equal(read_reg(f, 0, PPR), 0x60);
    test_save_reset_restore(f->m);
    assert_false(intr(f, 0));
    write_reg(f, 0, EOI, 0);
    assert_true(intr(f, 0));
    assert_int_equal(take(f, 0), 0x63);
    send(f, 0, 0, 0x70);
    assert_int_equal(take(f, 0), 0x70);
    write_reg(f, 0, EOI, 0); /* ends the highest */
    assert_int_equal(read_reg(f, 0, PPR), 0x60);
    write_reg(f, 0, EOI, 0);
    assert_int_equal(take(f, 0), 0x41);
    write_reg(f, 0, EOI, 0);
    assert_int_equal(take(f, 0), -1);
}

static void task_priority_holds_back(void **state)
{
    struct fixture *f = *state;
    struct cpu_intc *c = &f->cpu[0]->intc;

    c->set_cr8(c->opaque, 5);
    assert_int_equal(read_reg(f, 0, TPR), 0x50);
    write_reg(f, 0, TPR, 0x57);
    assert_int_equal(c->get_cr8(c->opaque), 5);
    assert_int_equal(read_reg(f, 0, PPR), 0x57);
    send(f, 0, 0, 0x5f);
    assert_false(intr(f, 0));
    assert_int_equal(take(f, 0), -1);
    test_save_reset_restore(f->m);
    assert_false(intr(f, 0));
    c->set_cr8(c->opaque, 4);
    assert_true(intr(f, 0));
    write_reg(f, 0, TPR, 0x50);
    assert_false(intr(f, 0));
    write_reg(f, 0, TPR, 0);
    assert_int_equal(take(f, 0), 0x5f);
    assert_int_equal(read_reg(f, 0, PPR), 0x50);
}

static void registers_after_reset(void **state)
{
    struct fixture *f = *state;

    device_reset(f->lapic[1]);
    assert_int_equal(read_reg(f, 1, ID), 1 << 24);
    write_reg(f, 1, ID, 5 << 24);
    assert_int_equal(read_reg(f, 1, ID), 1 << 24);
    assert_int_equal(read_reg(f, 1, VERSION) & 0xff00ff, 0x050014);
    assert_int_equal(read_reg(f, 1, SVR), 0xff);
    assert_int_equal(read_reg(f, 1, LDR), 0);
    assert_int_equal(read_reg(f, 1, DFR), UINT32_MAX);
    for (unsigned reg = LVT_TIMER; reg <= LVT_ERROR; reg += 0x10)
        assert_int_equal(read_reg(f, 1, reg), MASKED);
    write_reg(f, 1, LVT_LINT0, 0x40);
    assert_int_equal(read_reg(f, 1, LVT_LINT0), MASKED | 0x40); /* software-disabled */
    send(f, 0, 1, 0x50);
    assert_false(intr(f, 1));
    write_reg(f, 1, SVR, 0x1ff);
    write_reg(f, 1, LVT_LINT0, 0xffffffff);
    assert_int_equal(read_reg(f, 1, LVT_LINT0), 0x1a7ff);
    write_reg(f, 1, LVT_LINT0, 0x40);
    assert_int_equal(read_reg(f, 1, LVT_LINT0), 0x40);
    write_reg(f, 1, SVR, 0xff);
    assert_int_equal(read_reg(f, 1, LVT_LINT0), MASKED | 0x40);
    device_reset(f->lapic[0]);
    assert_int_equal(read_reg(f, 0, LVT_LINT0), 0x700);
    assert_int_equal(rdmsr(f, 0, MSR_BASE), 0xfee00900);
    assert_int_equal(rdmsr(f, 1, MSR_BASE), 0xfee00800);
    assert_int_equal(f->cpu[1]->apic_page, 0xfee00000);
}

static void page_accesses_of_other_sizes(void **state)
{
    struct fixture *f = *state;
    struct cpu_intc *c = &f->cpu[0]->intc;

    assert_int_equal(c->read(c->opaque, VERSION + 2, 1), 5);
    assert_int_equal(c->read(c->opaque, VERSION, 2), 0x14);
    assert_int_equal(c->read(c->opaque, VERSION + 4, 4), 0);
    c->write(c->opaque, TPR, 0x30, 1);
    assert_int_equal(read_reg(f, 0, TPR), 0);
    c->write(c->opaque, TPR + 4, 0x30, 4);
    assert_int_equal(read_reg(f, 0, TPR), 0);
    c->write(c->opaque, TPR, UINT64_C(0x7700000030), 8);
    assert_int_equal(read_reg(f, 0, TPR), 0x30);
}

static void errors_are_gathered(void **state)
{
    struct fixture *f = *state;

    write_reg(f, 0, LVT_ERROR, 0x33);
    send(f, 0, 0, 0x0f); /* illegal vector */
    assert_int_equal(read_reg(f, 0, IRR), 0);
    assert_int_equal(take(f, 0), 0x33);
    write_reg(f, 0, EOI, 0);
    assert_int_equal(read_reg(f, 0, ESR), 0);
    test_save_reset_restore(f->m);
    write_reg(f, 0, ESR, 0);
    test_save_reset_restore(f->m);
    assert_int_equal(read_reg(f, 0, ESR), 0x20);
    write_reg(f, 0, ESR, 0);
    assert_int_equal(read_reg(f, 0, ESR), 0);
    write_reg(f, 0, 0x3f0, 0); /* no such register in xAPIC mode */
    assert_int_equal(read_reg(f, 0, 0x10), 0);
    write_reg(f, 0, ESR, 0);
    assert_int_equal(read_reg(f, 0, ESR), 0x80);
    assert_int_equal(take(f, 0), 0x33);
    write_reg(f, 0, LVT_ERROR, 0x03); /* a bad vector of its own: no endless recursion */
    send(f, 0, 0, 0x0f);
    write_reg(f, 0, ESR, 0);
    assert_int_equal(read_reg(f, 0, ESR), 0x60);
}

/* ---- timer -------------------------------------------------------------------------------------
 */

static void one_shot_timer(void **state)
{
    struct fixture *f = *state;

    write_reg(f, 0, DIVIDE, 0x3); /* by 16 */
    write_reg(f, 0, LVT_TIMER, 0x40);
    write_reg(f, 0, INITIAL, 1000);
    assert_int_equal(read_reg(f, 0, CURRENT), 1000);
    test_advance(f->m, 16 * 400);
    assert_int_equal(read_reg(f, 0, CURRENT), 600);
    test_save_reset_restore(f->m);
    assert_int_equal(read_reg(f, 0, CURRENT), 600);
    test_advance(f->m, 16 * 600 - 1);
    assert_false(intr(f, 0));
    assert_int_equal(read_reg(f, 0, CURRENT), 1);
    test_advance(f->m, 1);
    assert_int_equal(read_reg(f, 0, CURRENT), 0);
    assert_int_equal(take(f, 0), 0x40);
    write_reg(f, 0, EOI, 0);
    test_advance(f->m, NSEC_PER_SEC);
    assert_false(intr(f, 0));

    write_reg(f, 0, DIVIDE, 0xb); /* by 1 */
    write_reg(f, 0, INITIAL, 1000);
    write_reg(f, 0, INITIAL, 0); /* called off */
    test_advance(f->m, NSEC_PER_SEC);
    assert_false(intr(f, 0));
    write_reg(f, 0, INITIAL, 1000);
    test_advance(f->m, 500);
    write_reg(f, 0, DIVIDE, 0); /* by 2 */
    assert_int_equal(read_reg(f, 0, CURRENT), 500);
    test_advance(f->m, 999);
    assert_false(intr(f, 0));
    write_reg(f, 0, LVT_TIMER, MASKED | 0x40);
    test_advance(f->m, 1);
    assert_false(intr(f, 0));
}

static void periodic_timer(void **state)
{
    struct fixture *f = *state;
    unsigned taken = 0;

    write_reg(f, 0, DIVIDE, 0xb);
    write_reg(f, 0, LVT_TIMER, PERIODIC | 0x40);
    write_reg(f, 0, INITIAL, 1000000);
    for (unsigned i = 0; i < 10; i++) {
        test_advance(f->m, NSEC_PER_MSEC - 1);
        assert_false(intr(f, 0));
        if (i == 4)
            test_save_reset_restore(f->m);
        test_advance(f->m, 1);
        assert_int_equal(take(f, 0), 0x40);
        write_reg(f, 0, EOI, 0);
    }
    assert_int_equal(read_reg(f, 0, CURRENT), 1000000);
    /* An hour's stop is one interrupt, and the phase stays. */
    clock_set(f->m->clock, clock_now(f->m->clock) + 3600 * NSEC_PER_SEC + 300000);
    assert_int_equal(read_reg(f, 0, CURRENT), 700000);
    clock_run(f->m->clock);
    assert_int_equal(take(f, 0), 0x40);
    write_reg(f, 0, EOI, 0);
    assert_int_equal(read_reg(f, 0, CURRENT), 700000);
    test_advance(f->m, 699999);
    assert_false(intr(f, 0));
    test_advance(f->m, 1);
    assert_true(intr(f, 0));
    assert_int_equal(take(f, 0), 0x40);
    write_reg(f, 0, EOI, 0);
    /* Greed is bounded. */
    write_reg(f, 0, INITIAL, 1);
    for (unsigned i = 0; i < 1000; i++) {
        test_advance(f->m, NSEC_PER_USEC);
        if (intr(f, 0)) {
            taken++;
            take(f, 0);
            write_reg(f, 0, EOI, 0);
        }
    }
    assert_in_range(taken, 10, 51);
}

static void tsc_deadline_timer(void **state)
{
    struct fixture *f = *state;
    uint64_t second = cpu_tsc_hz(), now = cpu_read_tsc(f->cpu[0]);

    assert_true(wrmsr(f, 0, MSR_DEADLINE, now + second)); /* not in this mode */
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), 0);
    write_reg(f, 0, LVT_TIMER, DEADLINE_MODE | 0x40);
    write_reg(f, 0, INITIAL, 1000);
    assert_int_equal(read_reg(f, 0, INITIAL), 0);
    assert_true(wrmsr(f, 0, MSR_DEADLINE, now + 1000 * second));
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), now + 1000 * second);
    assert_int_equal(read_reg(f, 0, CURRENT), 0);
    test_advance(f->m, 500 * NSEC_PER_SEC); /* the TSC is the host's: leave it some seconds */
    assert_false(intr(f, 0));
    test_save_reset_restore(f->m);
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), now + 1000 * second);
    test_advance(f->m, 501 * NSEC_PER_SEC);
    assert_int_equal(take(f, 0), 0x40);
    write_reg(f, 0, EOI, 0);
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), 0);
    assert_true(wrmsr(f, 0, MSR_DEADLINE, 1)); /* long past: at once */
    assert_int_equal(take(f, 0), 0x40);
    write_reg(f, 0, EOI, 0);
    assert_true(wrmsr(f, 0, MSR_DEADLINE, UINT64_MAX));
    test_advance(f->m, 1000 * NSEC_PER_SEC);
    assert_false(intr(f, 0));
    assert_true(wrmsr(f, 0, MSR_DEADLINE, now + 1000 * second));
    write_reg(f, 0, LVT_TIMER, 0x40); /* leaving the mode disarms */
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), 0);
    test_advance(f->m, 2000 * NSEC_PER_SEC);
    assert_false(intr(f, 0));
    f->model.word[FEATURE_TSC_DEADLINE / 32] &= ~(1u << FEATURE_TSC_DEADLINE % 32);
    assert_int_equal(rdmsr(f, 0, MSR_DEADLINE), UINT64_MAX);
    assert_false(wrmsr(f, 0, MSR_DEADLINE, 0));
    write_reg(f, 0, LVT_TIMER, DEADLINE_MODE | 0x40);
    assert_int_equal(read_reg(f, 0, LVT_TIMER), 0x40);
}

/* ---- between processors
 * -------------------------------------------------------------------------- */

static unsigned who(struct fixture *f)
{
    unsigned set = 0;

    for (unsigned i = 0; i < CPUS; i++)
        if (intr(f, i)) {
            set |= 1u << i;
            take(f, i);
            write_reg(f, i, EOI, 0);
        }
    return set;
}

static void destinations(void **state)
{
    struct fixture *f = *state;

    send(f, 0, 2, 0x50);
    assert_int_equal(who(f), 4);
    send(f, 0, 9, 0x50);
    assert_int_equal(who(f), 0);
    send(f, 0, 0xff, 0x50);
    assert_int_equal(who(f), 7);
    send(f, 0, 0x06, 0x850); /* logical, flat */
    assert_int_equal(who(f), 6);
    send(f, 1, 0, 0x40050); /* self */
    assert_int_equal(who(f), 2);
    send(f, 1, 0, 0x80050); /* all */
    assert_int_equal(who(f), 7);
    send(f, 1, 0, 0xc0050); /* others */
    assert_int_equal(who(f), 5);
    for (unsigned i = 0; i < CPUS; i++) {
        write_reg(f, i, DFR, 0x0fffffff); /* cluster */
        write_reg(f, i, LDR, (i == 2 ? 0x21u : 0x11u << i) << 24);
    }
    assert_int_equal(read_reg(f, 0, DFR), 0x0fffffff);
    send(f, 0, 0x11, 0x850);
    assert_int_equal(who(f), 1);
    send(f, 0, 0x2f, 0x850);
    test_save_reset_restore(f->m);
    assert_int_equal(who(f), 6); /* 0x22 and 0x21 */
    send(f, 0, 0x21, 0x850);
    assert_int_equal(who(f), 4);
    send(f, 0, 0x41, 0x850);
    assert_int_equal(who(f), 0);
}

static void lowest_priority_finds_the_idlest(void **state)
{
    struct fixture *f = *state;

    write_reg(f, 0, TPR, 0x20);
    write_reg(f, 1, TPR, 0x10);
    write_reg(f, 2, TPR, 0x30);
    send(f, 0, 0x07, 0x950);
    assert_int_equal(who(f), 2);
    write_reg(f, 1, SVR, 0xff);
    send(f, 0, 0x07, 0x950);
    assert_int_equal(who(f), 1);
    send(f, 0, 0x04, 0x950);
    assert_int_equal(who(f), 4);
}

static void other_deliveries(void **state)
{
    struct fixture *f = *state;

    send(f, 0, 1, 0x400);
    assert_int_equal(f->cpu[1]->events, CPU_EVENT_NMI);
    send(f, 0, 2, 0x200);
    assert_int_equal(f->cpu[2]->events, CPU_EVENT_SMI);
    f->cpu[1]->events = f->cpu[2]->events = 0;
    send(f, 0, 0, 0xcc500); /* INIT, level, assert, to others */
    assert_int_equal(f->cpu[0]->events, 0);
    assert_int_equal(f->cpu[1]->events, CPU_EVENT_INIT);
    assert_int_equal(read_reg(f, 1, SVR), 0xff);
    assert_int_equal(read_reg(f, 1, LDR), 0);
    assert_int_equal(rdmsr(f, 1, MSR_BASE), 0xfee00800);
    f->cpu[1]->events = 0;
    send(f, 0, 1, 0x8500); /* de-assert */
    assert_int_equal(f->cpu[1]->events, 0);
    send(f, 0, 1, 0x69a);
    assert_int_equal(f->cpu[1]->events, CPU_EVENT_SIPI);
    assert_int_equal(f->cpu[1]->sipi_vector, 0x9a);
    f->cpu[1]->events = 0;
    send(f, 0, 1, 0x740); /* reserved in an ICR */
    send(f, 0, 1, 0x340);
    assert_int_equal(f->cpu[1]->events, 0);
    test_save_reset_restore(f->m);
    assert_int_equal(read_reg(f, 0, ICR) & 0xfff, 0x340);
    assert_int_equal(read_reg(f, 0, ICR_HIGH), 1 << 24);
    apic_bus_nmi(f->bus);
    assert_int_equal(f->cpu[0]->events, 0); /* LINT1 is masked */
    write_reg(f, 0, LVT_LINT1, 0x400);
    apic_bus_nmi(f->bus);
    assert_int_equal(f->cpu[0]->events, CPU_EVENT_NMI);
}

static void message_signalled(void **state)
{
    struct fixture *f = *state;

    machine_msi(f->m, 0xfee01000, 0x4051);
    assert_int_equal(take(f, 1), 0x51);
    assert_int_equal(read_reg(f, 1, TMR + 0x20), 0);
    write_reg(f, 1, EOI, 0);
    machine_msi(f->m, 0xfee05004, 0x52); /* logical */
    assert_int_equal(who(f), 5);
    machine_msi(f->m, 0xfee0700c, 0x152); /* lowest priority */
    assert_int_equal(who(f), 1);
    machine_msi(f->m, 0xfee01000, 0x8051); /* level, de-assert */
    machine_msi(f->m, 0xfed01000, 0x51);
    machine_msi(f->m, 0x1fee01000, 0x51);
    machine_msi(f->m, 0xfee01000, 0x0351); /* reserved */
    assert_int_equal(who(f), 0);
    machine_msi(f->m, 0xfee02000, 0x400);
    assert_true(event(f, 2, CPU_EVENT_NMI));
    machine_msi(f->m, 0xfee01000, 0x700); /* ExtINT: the vector is the i8259's */
    test_save_reset_restore(f->m);
    assert_true(intr(f, 1));
    assert_int_equal(take(f, 1), 7); /* it has none: the spurious one */
    assert_false(intr(f, 1));
}

/* ---- x2APIC, IA32_APIC_BASE
 * ----------------------------------------------------------------------- */

static void base_register_transitions(void **state)
{
    struct fixture *f = *state;

    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00500)); /* x2APIC without enable */
    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00a00));
    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00901));
    assert_false(wrmsr(f, 0, MSR_BASE, BIT(40) | 0x900));
    assert_int_equal(rdmsr(f, 0, X2 + 2), UINT64_MAX); /* not in this mode */
    assert_false(wrmsr(f, 0, X2 + 0xb, 0));
    assert_true(wrmsr(f, 0, MSR_BASE, 0x12345900)); /* the page moves */
    assert_int_equal(f->cpu[0]->apic_page, 0x12345000);
    assert_true(event(f, 0, CPU_EVENT_FLUSH));
    test_save_reset_restore(f->m);
    assert_int_equal(f->cpu[0]->apic_page, 0x12345000);
    assert_true(wrmsr(f, 0, MSR_BASE, 0xfee00d00));
    assert_int_equal(f->cpu[0]->apic_page, CPU_NO_APIC_PAGE);
    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00900)); /* no way back */
    assert_int_equal(rdmsr(f, 0, MSR_BASE), 0xfee00d00);
    assert_true(wrmsr(f, 0, MSR_BASE, 0xfee00100));
    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00d00));
    assert_true(wrmsr(f, 0, MSR_BASE, 0xfee00900));
    assert_int_equal(read_reg(f, 0, SVR), 0xff); /* it was reset on the way */
    f->model.word[FEATURE_X2APIC / 32] &= ~(1u << FEATURE_X2APIC % 32);
    assert_false(wrmsr(f, 0, MSR_BASE, 0xfee00d00));
}

static void x2apic_registers(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < CPUS; i++) {
        assert_true(wrmsr(f, i, MSR_BASE, rdmsr(f, i, MSR_BASE) | 0x400));
        f->cpu[i]->events = 0;
        assert_int_equal(rdmsr(f, i, X2 + 2), i);
        assert_int_equal(rdmsr(f, i, X2 + 0xd), 1u << i);
    }
    assert_true(wrmsr(f, 0, X2 + 0x30, UINT64_C(2) << 32 | 0x50));
    assert_int_equal(rdmsr(f, 0, X2 + 0x30), UINT64_C(2) << 32 | 0x50);
    assert_int_equal(take(f, 2), 0x50);
    assert_int_equal(rdmsr(f, 2, X2 + 0x12), 0x10000);
    assert_true(wrmsr(f, 2, X2 + 0xb, 0));
    assert_int_equal(rdmsr(f, 2, X2 + 0x12), 0);
    assert_true(wrmsr(f, 0, X2 + 0x30, UINT64_C(6) << 32 | 0x850)); /* logical, cluster 0 */
    assert_false(intr(f, 0));
    assert_int_equal(take(f, 1), 0x50);
    assert_int_equal(take(f, 2), 0x50);
    assert_true(wrmsr(f, 1, X2 + 0xb, 0));
    assert_true(wrmsr(f, 2, X2 + 0xb, 0));
    assert_true(wrmsr(f, 0, X2 + 0x30, UINT64_C(0x10006) << 32 | 0x850)); /* cluster 1 */
    assert_true(wrmsr(f, 0, X2 + 0x30, UINT64_C(0xff) << 32 | 0x50));     /* nobody's ID */
    assert_false(intr(f, 1));
    assert_true(wrmsr(f, 0, X2 + 0x30, UINT64_C(0xffffffff) << 32 | 0x50)); /* everybody */
    assert_true(intr(f, 0) && intr(f, 1) && intr(f, 2));
    assert_int_equal(take(f, 0), 0x50);
    assert_true(wrmsr(f, 0, X2 + 0xb, 0));
    assert_true(wrmsr(f, 0, X2 + 0x3f, 0x44)); /* self IPI */
    test_save_reset_restore(f->m);
    assert_int_equal(take(f, 0), 0x44);

    /* What raises #GP. */
    assert_false(wrmsr(f, 0, X2 + 0xb, 1));
    assert_false(wrmsr(f, 0, X2 + 0x8, 0x100));
    assert_false(wrmsr(f, 0, X2 + 0x2, 0));
    assert_false(wrmsr(f, 0, X2 + 0x3, 0));
    assert_false(wrmsr(f, 0, X2 + 0xd, 0));
    assert_false(wrmsr(f, 0, X2 + 0xe, 0));
    assert_false(wrmsr(f, 0, X2 + 0xf, BIT(32)));
    assert_false(wrmsr(f, 0, X2 + 0x28, 1));
    assert_false(wrmsr(f, 0, X2 + 0x30, 0x2000));
    assert_false(wrmsr(f, 0, X2 + 0x31, 0));
    assert_false(wrmsr(f, 0, X2 + 0x32, 0x100));
    assert_false(wrmsr(f, 0, X2 + 0x39, 1));
    assert_int_equal(rdmsr(f, 0, X2 + 0xb), UINT64_MAX);
    assert_int_equal(rdmsr(f, 0, X2 + 0xe), UINT64_MAX);
    assert_int_equal(rdmsr(f, 0, X2 + 0x31), UINT64_MAX);
    assert_int_equal(rdmsr(f, 0, X2 + 0x3f), UINT64_MAX);
    assert_int_equal(rdmsr(f, 0, X2 + 0xff), UINT64_MAX);
    assert_true(wrmsr(f, 0, X2 + 0x32, 0x10040));
    assert_int_equal(rdmsr(f, 0, X2 + 0x32), 0x10040);
    /* IOAPICs and devices still have eight bits, where all ones is everybody. */
    machine_msi(f->m, 0xfeeff000, 0x61);
    assert_true(intr(f, 0) && intr(f, 1) && intr(f, 2));
}

/* ---- with the other chips
 * ------------------------------------------------------------------------- */

static void init_pic(struct fixture *f)
{
    out8(f->m, 0x20, 0x11);
    out8(f->m, 0x21, 0x30);
    out8(f->m, 0x21, 4);
    out8(f->m, 0x21, 1);
}

static void virtual_wire(void **state)
{
    struct fixture *f = *state;

    device_reset(f->lapic[0]); /* as a kernel without firmware finds it */
    init_pic(f);
    irq_line_set(&f->line[4], true);
    assert_true(intr(f, 0));
    assert_false(intr(f, 1));
    test_save_reset_restore(f->m);
    assert_true(intr(f, 0));
    assert_int_equal(take(f, 0), 0x34);
    assert_false(intr(f, 0));
    out8(f->m, 0x20, 0x20);
    irq_line_set(&f->line[3], true);
    write_reg(f, 0, SVR, 0x1ff);
    write_reg(f, 0, LVT_LINT0, MASKED);
    assert_false(intr(f, 0));
    write_reg(f, 0, LVT_LINT0, 0x700);
    assert_true(intr(f, 0));
    write_reg(f, 0, LVT_LINT0, MASKED);
    assert_true(wrmsr(f, 0, MSR_BASE, 0xfee00100)); /* off: LINT0 is INTR */
    assert_true(intr(f, 0));
    assert_int_equal(take(f, 0), 0x33);
    assert_false(intr(f, 0));
    apic_bus_nmi(f->bus);
    assert_true(event(f, 0, CPU_EVENT_NMI));
    assert_false(event(f, 1, CPU_EVENT_NMI));
}

static void the_pic_through_a_fixed_vector(void **state)
{
    struct fixture *f = *state;

    init_pic(f);
    write_reg(f, 0, LVT_LINT0, 0x55);
    irq_line_set(&f->line[4], true);
    assert_int_equal(take(f, 0), 0x55);
    write_reg(f, 0, EOI, 0);
    test_save_reset_restore(f->m); /* INT is still high: no second edge */
    assert_false(intr(f, 0));
}

static uint32_t ioapic_read(struct fixture *f, uint8_t reg)
{
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_INDEX, reg, 1);
    return (uint32_t)mmio_read(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_DATA, 4);
}

static void ioapic_write(struct fixture *f, uint8_t reg, uint32_t value)
{
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_INDEX, reg, 4);
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_DATA, value, 4);
}

static void redirect(struct fixture *f, unsigned pin, uint32_t to, uint32_t low)
{
    ioapic_write(f, (uint8_t)(0x11 + 2 * pin), to << 24);
    ioapic_write(f, (uint8_t)(0x10 + 2 * pin), low);
}

static void ioapic_registers(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(ioapic_read(f, 0), 9 << 24);
    assert_int_equal(ioapic_read(f, 1), 0x00170020);
    assert_int_equal(ioapic_read(f, 0x10), 0x10000);
    ioapic_write(f, 0, 0xff000000);
    test_save_reset_restore(f->m);
    assert_int_equal(ioapic_read(f, 0), 0x0f000000);
    assert_int_equal(ioapic_read(f, 2), 0x0f000000);
    ioapic_write(f, 0x3e, 0xffffffff);
    ioapic_write(f, 0x3f, 0xffffffff);
    assert_int_equal(ioapic_read(f, 0x3e), 0x1afff);
    assert_int_equal(ioapic_read(f, 0x3f), 0xff000000);
    assert_int_equal(ioapic_read(f, 0x40), UINT32_MAX);
    assert_int_equal(ioapic_read(f, 0x0f), UINT32_MAX);
    ioapic_write(f, 0x40, 0);
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_INDEX, 1, 1);
    test_save_reset_restore(f->m);
    assert_int_equal(mmio_read(f->m, IOAPIC_DEFAULT_BASE, 1), 1);
    device_reset(f->ioapic);
    assert_int_equal(ioapic_read(f, 0), 9 << 24);
    assert_int_equal(ioapic_read(f, 0x3e), 0x10000);
}

static void edges_through_the_ioapic(void **state)
{
    struct fixture *f = *state;

    redirect(f, 4, 1, 0x54);
    irq_line_set(&f->line[4], true);
    assert_int_equal(take(f, 1), 0x54);
    write_reg(f, 1, EOI, 0);
    test_save_reset_restore(f->m);
    assert_false(intr(f, 1));
    irq_line_set(&f->line[4], false);
    irq_line_set(&f->line[4], true);
    assert_true(intr(f, 1));
    assert_int_equal(take(f, 1), 0x54);
    write_reg(f, 1, EOI, 0);
    irq_line_set(&f->line[4], false);
    redirect(f, 4, 1, MASKED | 0x54);
    irq_line_set(&f->line[4], true);
    redirect(f, 4, 1, 0x54);
    assert_false(intr(f, 1)); /* an edge while masked is lost */
    /* GSI 0 is pin 2, GSI 2 is nobody. */
    redirect(f, 0, 1, 0x60);
    redirect(f, 2, 1, 0x62);
    irq_line_set(&f->line[2], true);
    assert_false(intr(f, 1));
    irq_line_set(&f->line[0], true);
    assert_int_equal(take(f, 1), 0x62);
    /* The line of a device falls and rises over a restore; that is no edge. */
    assert_non_null(i8254_add(f->m, NULL));
    irq_line_set(&f->line[0], false);
    out8(f->m, I8254_CONTROL, 0x30);
    out8(f->m, I8254_BASE, 100);
    out8(f->m, I8254_BASE, 0);
    write_reg(f, 1, EOI, 0);
    test_advance(f->m, NSEC_PER_MSEC);
    assert_int_equal(take(f, 1), 0x62);
    write_reg(f, 1, EOI, 0);
    test_save_reset_restore(f->m);
    assert_false(intr(f, 1));
    redirect(f, 23, 2, 0x400);
    irq_line_set(&f->line[23], true);
    assert_true(event(f, 2, CPU_EVENT_NMI));
}

static void levels_through_the_ioapic(void **state)
{
    struct fixture *f = *state;

    redirect(f, 16, 1, 0x8070);
    irq_line_set(&f->line[16], true);
    assert_int_equal(ioapic_read(f, 0x30), 0xc070); /* remote IRR */
    assert_int_equal(take(f, 1), 0x70);
    assert_int_equal(read_reg(f, 1, TMR + 0x30), 0x10000);
    test_save_reset_restore(f->m);
    write_reg(f, 1, EOI, 0); /* still high: again */
    assert_true(intr(f, 1));
    assert_int_equal(take(f, 1), 0x70);
    irq_line_set(&f->line[16], false);
    write_reg(f, 1, EOI, 0);
    assert_int_equal(ioapic_read(f, 0x30), 0x8070);
    assert_false(intr(f, 1));
    /* Masked, the level waits. */
    redirect(f, 16, 1, 0x18070);
    irq_line_set(&f->line[16], true);
    assert_false(intr(f, 1));
    redirect(f, 16, 1, 0x8070);
    assert_int_equal(take(f, 1), 0x70);
    /* No broadcast: the guest tells the IOAPIC itself. */
    write_reg(f, 1, SVR, 0x11ff);
    write_reg(f, 1, EOI, 0);
    assert_false(intr(f, 1));
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_EOI, 0x71, 4);
    assert_false(intr(f, 1));
    mmio_write(f->m, IOAPIC_DEFAULT_BASE + IOAPIC_EOI, 0x70, 4);
    assert_true(intr(f, 1));
    assert_int_equal(take(f, 1), 0x70);
    /* The older way: an edge for a moment clears remote IRR. */
    redirect(f, 16, 1, 0x10070);
    assert_int_equal(ioapic_read(f, 0x30), 0x10070);
    /* The EOI of an edge is not told. */
    write_reg(f, 1, SVR, 0x1ff);
    redirect(f, 17, 1, 0x8070);
    irq_line_set(&f->line[17], true);
    write_reg(f, 1, EOI, 0);
    assert_int_equal(take(f, 1), 0x70);
    send(f, 0, 1, 0x80);
    assert_int_equal(take(f, 1), 0x80);
    redirect(f, 18, 2, 0x8080);
    irq_line_set(&f->line[18], true);
    write_reg(f, 1, EOI, 0);
    assert_int_equal(ioapic_read(f, 0x34), 0xc080);
}

static void chips_go_in_any_order(void **state)
{
    struct fixture *f = *state;

    irq_line_set(&f->line[4], true);
    device_free(f->lapic[0]);
    assert_null(f->cpu[0]->intc.acknowledge);
    assert_int_equal(f->cpu[0]->apic_page, CPU_NO_APIC_PAGE);
    apic_bus_set_pic(f->bus, NULL);
    device_free(f->pic);
    redirect(f, 4, 0, 0x50);
    device_free(f->ioapic);
    irq_line_set(&f->line[4], false);
    send(f, 1, 0, 0x50);
    send(f, 1, 0, 0x80050);
    assert_int_equal(take(f, 1), 0x50);
    write_reg(f, 1, EOI, 0);
}

/* ---- threads
 * ------------------------------------------------------------------------------------- */

enum { ROUNDS = 200 };

static atomic_uint served, done;

struct processor {
    struct fixture *f;
    unsigned index;
};

/* What a kernel does: take, make the device quiet, EOI; and send to the neighbour. */
static void *processor_main(void *opaque)
{
    struct processor *p = opaque;
    unsigned sent = 0;

    while (!done || intr(p->f, p->index)) {
        int vector = intr(p->f, p->index) ? take(p->f, p->index) : -1;

        if (vector == 0x70) {
            irq_line_set(&p->f->line[16], false);
            write_reg(p->f, p->index, EOI, 0);
            served++;
        } else if (vector >= 0) {
            write_reg(p->f, p->index, EOI, 0);
        } else {
            sched_yield();
        }
        if (sent++ < ROUNDS)
            send(p->f, p->index, (p->index + 1) % CPUS, 0x41);
    }
    return NULL;
}

static void no_interrupt_is_lost_between_threads(void **state)
{
    struct fixture *f = *state;
    struct processor p[CPUS];
    pthread_t thread[CPUS];
    bool lost = false;

    served = done = 0;
    redirect(f, 16, 7, 0x8970); /* lowest priority, level, any of three */
    for (unsigned i = 0; i < CPUS; i++) {
        p[i] = (struct processor){f, i};
        assert_int_equal(pthread_create(&thread[i], NULL, processor_main, &p[i]), 0);
    }
    for (unsigned i = 0; i < ROUNDS && !lost; i++) {
        irq_line_set(&f->line[16], true);
        for (unsigned wait = 0; served == i && !lost; wait++) {
            sched_yield();
            lost = wait > 5000000;
        }
    }
    done = 1;
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(thread[i], NULL);
    assert_false(lost);
    assert_int_equal(served, ROUNDS);
    assert_int_equal(ioapic_read(f, 0x30), 0x8970); /* nothing in flight */
}

static void refuses_to_be_added_by_name(void **state)
{
    struct error err = {0};

    assert_int_equal(test_add(*state, &lapic_type, NULL, &err), -EINVAL);
    assert_string_equal(err.text, "lapic: it is wired by the machine, '-device' cannot add one");
    assert_int_equal(test_add(*state, &ioapic_type, NULL, &err), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(priorities_and_eoi),
        TEST(task_priority_holds_back),
        TEST(registers_after_reset),
        TEST(page_accesses_of_other_sizes),
        TEST(errors_are_gathered),
        TEST(one_shot_timer),
        TEST(periodic_timer),
        TEST(tsc_deadline_timer),
        TEST(destinations),
        TEST(lowest_priority_finds_the_idlest),
        TEST(other_deliveries),
        TEST(message_signalled),
        TEST(base_register_transitions),
        TEST(x2apic_registers),
        TEST(virtual_wire),
        TEST(the_pic_through_a_fixed_vector),
        TEST(ioapic_registers),
        TEST(edges_through_the_ioapic),
        TEST(levels_through_the_ioapic),
        TEST(chips_go_in_any_order),
        TEST(no_interrupt_is_lost_between_threads),
        cmocka_unit_test_setup_teardown(refuses_to_be_added_by_name, test_machine_setup,
                                        test_machine_teardown),
    };
    return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
