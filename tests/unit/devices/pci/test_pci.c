/* test_pci.c - configuration space, BARs, INTx, MSI, MSI-X, buses, by the ports a guest uses. */
#include "support/unit.h"

#include "sample.h"
#include "support/test_machine.h"

#include <errno.h>

enum { SLOT = 3, DEVFN = SLOT << 3 };

static unsigned messages;
static uint64_t message_address;
static uint32_t message_data;

static void take_message(void *opaque, gpa address, uint32_t data)
{
    messages++;
    message_address = address;
    message_data = data;
}

static uint32_t cfg_read(struct machine *m, unsigned devfn, unsigned reg, unsigned size)
{
    out32(m, PCI_CONFIG_ADDRESS, 1u << 31 | devfn << 8 | (reg & 0xfc));
    return (uint32_t)machine_in(m, (uint16_t)(PCI_CONFIG_DATA + (reg & 3)), size);
}

static void cfg_write(struct machine *m, unsigned devfn, unsigned reg, uint32_t value,
                      unsigned size)
{
    out32(m, PCI_CONFIG_ADDRESS, 1u << 31 | devfn << 8 | (reg & 0xfc));
    machine_out(m, (uint16_t)(PCI_CONFIG_DATA + (reg & 3)), value, size);
}

static unsigned find_cap(struct machine *m, unsigned devfn, uint8_t id)
{
    unsigned at = cfg_read(m, devfn, PCI_CAPABILITIES, 1);

    for (unsigned n = 0; at && n < 48; n++, at = cfg_read(m, devfn, at + 1, 1))
        if (cfg_read(m, devfn, at, 1) == id)
            return at;
    return 0;
}

static int setup(void **state)
{
    struct machine *m;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    m->msi = take_message;
    messages = 0;
    return pci_host_add(m, "pci.0", NULL) && test_add(m, &sample_type, "addr=3", NULL) == 0 ? 0
                                                                                            : -1;
}

static struct sample *the_sample(struct machine *m)
{
    return sample_of(&pci_device_at(pci_bus_find(m, "pci.0"), SLOT, 0)->dev);
}

static void set_intx(struct machine *m, bool level)
{
    struct sample *s = the_sample(m);

    pthread_mutex_lock(&s->pci.dev.lock);
    pci_intx_set(&s->pci, level);
    pthread_mutex_unlock(&s->pci.dev.lock);
}

static void send_vector(struct machine *m, bool msix, unsigned vector)
{
    struct sample *s = the_sample(m);

    pthread_mutex_lock(&s->pci.dev.lock);
    (msix ? pci_msix_send : pci_msi_send)(&s->pci, vector);
    pthread_mutex_unlock(&s->pci.dev.lock);
}

static void header_says_what_it_is(void **state)
{
    struct machine *m = *state;

    assert_int_equal(cfg_read(m, DEVFN, PCI_VENDOR_ID, 4), 0x56781234);
    assert_int_equal(cfg_read(m, DEVFN, PCI_REVISION, 4), 0x02030409);
    assert_int_equal(cfg_read(m, DEVFN, PCI_INTERRUPT_PIN, 1), 2);
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
    assert_int_equal(cfg_read(m, DEVFN, PCI_DEVICE_ID, 2), 0x5678);
    assert_int_equal(cfg_read(m, DEVFN, PCI_VENDOR_ID + 1, 1), 0x12);
    /* Nobody there: ones. So it is with the address register not enabled. */
    assert_int_equal(cfg_read(m, 4 << 3, 0, 4), 0xffffffff);
    assert_int_equal(cfg_read(m, DEVFN + 1, 0, 2), 0xffff);
    out32(m, PCI_CONFIG_ADDRESS, DEVFN << 8);
    assert_int_equal(in32(m, PCI_CONFIG_DATA), 0xffffffff);
    out32(m, PCI_CONFIG_ADDRESS, 0xffffffff);
    assert_int_equal(in32(m, PCI_CONFIG_ADDRESS), 0x80fffffc);
    /* Bytes of the address register do not exist. */
    out8(m, PCI_CONFIG_ADDRESS, 0);
    assert_int_equal(in32(m, PCI_CONFIG_ADDRESS), 0x80fffffc);
}

static void masks_hold(void **state)
{
    struct machine *m = *state;

    for (unsigned reg = 0; reg < PCI_BAR0; reg += 4)
        cfg_write(m, DEVFN, reg, 0xffffffff, 4);
    assert_int_equal(cfg_read(m, DEVFN, PCI_VENDOR_ID, 4), 0x56781234);
    assert_int_equal(cfg_read(m, DEVFN, PCI_COMMAND, 2), 0x0547);
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
    assert_int_equal(cfg_read(m, DEVFN, PCI_HEADER_TYPE, 1), 0);
    cfg_write(m, DEVFN, PCI_INTERRUPT_LINE, 0xab, 1);
    assert_int_equal(cfg_read(m, DEVFN, PCI_INTERRUPT_LINE, 2), 0x02ab);
    /* Status bits clear by ones, and only by those. */
    pci_put(&the_sample(m)->pci, PCI_STATUS, 0xf910, 2);
    cfg_write(m, DEVFN, PCI_STATUS, 0x8000, 2);
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2), 0x7910);
    test_save_reset_restore(m);
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2), 0x7910);
}

static void bars_have_sizes(void **state)
{
    struct machine *m = *state;

    for (unsigned i = 0; i < 6; i++)
        cfg_write(m, DEVFN, PCI_BAR0 + 4 * i, 0xffffffff, 4);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0, 4), 0xffffffe1);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0 + 4, 4), 0xfffff000);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0 + 8, 4), 0xffff000c);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0 + 12, 4), 0xffffffff);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0 + 16, 4), 0xfffff000);
    assert_int_equal(cfg_read(m, DEVFN, PCI_BAR0 + 20, 4), 0);
    assert_int_equal(cfg_read(m, DEVFN, PCI_ROM_ADDRESS, 4), 0);
}

static void bars_answer_where_they_are_put(void **state)
{
    struct machine *m = *state;

    cfg_write(m, DEVFN, PCI_BAR0, 0xc040, 4);
    cfg_write(m, DEVFN, PCI_BAR0 + 4, 0xe0001000, 4);
    cfg_write(m, DEVFN, PCI_BAR0 + 8, 0x00010000, 4);
    cfg_write(m, DEVFN, PCI_BAR0 + 12, 0x00000080, 4);
    assert_int_equal(in32(m, 0xc040), 0xffffffff); /* decoding is off */
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_IO, 2);
    assert_int_equal(in32(m, 0xc040), 0x5a000000);
    assert_int_equal(in32(m, 0xc05c), 0x5a00001c);
    assert_int_equal(in32(m, 0xc060), 0xffffffff);
    assert_int_equal(mmio_read(m, 0xe0001100, 4), 0xffffffff);
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(in32(m, 0xc040), 0xffffffff);
    assert_int_equal(mmio_read(m, 0xe0001100, 4), 0x5a000000); /* a part, from its own start */
    assert_int_equal(mmio_read(m, 0xe0001000, 4), 0xffffffff);
    mmio_write(m, UINT64_C(0x8000010010), 0x1122334455667788, 8);
    assert_true(mmio_read(m, UINT64_C(0x8000010010), 8) == 0x1122334455667788);
    test_save_reset_restore(m);
    assert_int_equal(mmio_read(m, 0xe0001104, 4), 0x5a000004);
    cfg_write(m, DEVFN, PCI_BAR0 + 4, 0xe0002000, 4);
    assert_int_equal(mmio_read(m, 0xe0001100, 4), 0xffffffff);
    assert_int_equal(mmio_read(m, 0xe0002100, 4), 0x5a000000);
    mmio_write(m, 0xe0002100, 77, 4);
    assert_int_equal(the_sample(m)->last_write, 77);
    /* Over RAM, the RAM answers. */
    mmio_write(m, 0x3100, 0x31, 4);
    cfg_write(m, DEVFN, PCI_BAR0 + 4, 0x3000, 4);
    assert_int_equal(mmio_read(m, 0x3100, 4), 0x31);
    assert_true(pci_bar_address(&the_sample(m)->pci, 1) == 0x3000);
    device_reset(&the_sample(m)->pci.dev);
    assert_true(pci_bar_address(&the_sample(m)->pci, 1) == DEVICE_UNMAPPED);
}

/* Sample: slot 3, INTB. Wired to PIRQ 2 here, and that to ISA 11 and GSI 18. */
static void pins_reach_interrupts(void **state)
{
    struct machine *m = *state;
    struct pci_host *h = pci_bus_find(m, NULL)->host;

    pci_host_wire(h, SLOT, 1, 2);
    pci_host_route_gsi(h, 2, 18);
    set_intx(m, true);
    assert_true(test_irq(m, 18));
    assert_false(test_irq(m, 11));
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT,
                     PCI_STATUS_INTERRUPT);
    pci_host_route_isa(h, 2, 11);
    assert_true(test_irq(m, 11));
    test_save_reset_restore(m);
    assert_true(test_irq(m, 11));
    pci_host_route_isa(h, 2, 5); /* while it is high */
    assert_false(test_irq(m, 11));
    assert_true(test_irq(m, 5));
    pci_host_wire(h, SLOT, 1, 3);
    assert_false(test_irq(m, 5));
    assert_false(test_irq(m, 18));
    pci_host_wire(h, SLOT, 1, 2);
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
    assert_false(test_irq(m, 5));
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT,
                     PCI_STATUS_INTERRUPT); /* the status tells all the same */
    cfg_write(m, DEVFN, PCI_COMMAND, 0, 2);
    assert_true(test_irq(m, 5));
    set_intx(m, false);
    assert_false(test_irq(m, 5));
    assert_int_equal(cfg_read(m, DEVFN, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, 0);
}

static void two_functions_share_a_wire(void **state)
{
    struct machine *m = *state;
    struct pci_host *h = pci_bus_find(m, NULL)->host;
    struct sample *other;

    assert_int_equal(test_add(m, &sample_type, "addr=3.1", NULL), 0);
    other = sample_of(test_device(m));
    assert_int_equal(cfg_read(m, DEVFN, PCI_HEADER_TYPE, 1), 0x80);
    pci_host_wire(h, SLOT, 1, 2);
    pci_host_route_isa(h, 2, 11);
    set_intx(m, true);
    pci_intx_set(&other->pci, true);
    set_intx(m, false);
    assert_true(test_irq(m, 11));
    device_free(&other->pci.dev); /* unplugged: its interrupt goes with it */
    assert_false(test_irq(m, 11));
    assert_null(pci_device_at(&h->root, SLOT, 1));
}

static void msi_sends_and_masks(void **state)
{
    struct machine *m = *state;
    unsigned cap = find_cap(m, DEVFN, PCI_CAP_MSI);

    assert_true(cap != 0);
    assert_int_equal(cfg_read(m, DEVFN, cap + 2, 2), 0x0184); /* 4 vectors, 64 bits, masks */
    cfg_write(m, DEVFN, cap + 4, 0xfee01007, 4);
    cfg_write(m, DEVFN, cap + 8, 1, 4);
    cfg_write(m, DEVFN, cap + 12, 0x4047, 2);
    send_vector(m, false, 0);
    assert_int_equal(messages, 0); /* not enabled */
    cfg_write(m, DEVFN, cap + 2, 1 | 2 << 4, 2);
    send_vector(m, false, 0);
    assert_int_equal(messages, 0); /* not a bus master */
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    send_vector(m, false, 2);
    assert_int_equal(messages, 1);
    assert_true(message_address == UINT64_C(0x1fee01004));
    assert_int_equal(message_data, 0x4046);
    cfg_write(m, DEVFN, cap + 2, 1 | 1 << 4, 2); /* two granted: vector 2 is 0, 3 is 1 */
    send_vector(m, false, 2);
    assert_int_equal(message_data, 0x4046);
    send_vector(m, false, 3);
    assert_int_equal(message_data, 0x4047);
    send_vector(m, false, 4); /* does not exist */
    assert_int_equal(messages, 3);
    cfg_write(m, DEVFN, cap + 16, 0xffffffff, 4);
    assert_int_equal(cfg_read(m, DEVFN, cap + 16, 4), 0xf);
    send_vector(m, false, 1);
    assert_int_equal(messages, 3);
    assert_int_equal(cfg_read(m, DEVFN, cap + 20, 4), 2);
    test_save_reset_restore(m);
    cfg_write(m, DEVFN, cap + 16, 0xd, 4);
    assert_int_equal(messages, 4);
    assert_int_equal(message_data, 0x4047);
    assert_int_equal(cfg_read(m, DEVFN, cap + 20, 4), 0);
    set_intx(m, true); /* MSI replaces the pin */
    pci_host_wire(pci_bus_find(m, NULL)->host, SLOT, 1, 0);
    pci_host_route_isa(pci_bus_find(m, NULL)->host, 0, 10);
    assert_false(test_irq(m, 10));
    cfg_write(m, DEVFN, cap + 2, 0, 2);
    assert_true(test_irq(m, 10));
}

static void msix_sends_and_masks(void **state)
{
    struct machine *m = *state;
    unsigned cap = find_cap(m, DEVFN, PCI_CAP_MSIX);
    gpa table = 0xe0010000, pending = table + 2048;

    assert_true(cap != 0);
    assert_int_equal(cfg_read(m, DEVFN, cap + 2, 2), 69);
    assert_int_equal(cfg_read(m, DEVFN, cap + 4, 4), 4); /* offset 0 in BAR 4 */
    assert_int_equal(cfg_read(m, DEVFN, cap + 8, 4), 2048 | 4);
    cfg_write(m, DEVFN, PCI_BAR0 + 16, (uint32_t)table, 4);
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    assert_int_equal(mmio_read(m, table + 69 * 16 + 12, 4), 1); /* masked by reset */
    mmio_write(m, table + 69 * 16, UINT64_C(0xfee00000), 8);
    mmio_write(m, table + 69 * 16 + 8, 0x61, 4);
    cfg_write(m, DEVFN, cap + 2, 0xffff, 2);
    assert_int_equal(cfg_read(m, DEVFN, cap + 2, 2), 0xc000 | 69);
    mmio_write(m, table + 69 * 16 + 12, 0xfffffffe, 4);
    assert_int_equal(mmio_read(m, table + 69 * 16 + 12, 4), 0);
    send_vector(m, true, 69);
    assert_int_equal(messages, 0); /* the whole function is masked */
    assert_int_equal(mmio_read(m, pending + 8, 4), 1 << 5);
    test_save_reset_restore(m);
    cfg_write(m, DEVFN, cap + 2, 0x8000, 2);
    assert_int_equal(messages, 1);
    assert_true(message_address == 0xfee00000);
    assert_int_equal(message_data, 0x61);
    assert_int_equal(mmio_read(m, pending + 8, 8), 0);
    mmio_write(m, table + 69 * 16 + 12, 1, 4);
    send_vector(m, true, 69);
    send_vector(m, true, 69);
    assert_int_equal(messages, 1);
    mmio_write(m, table + 69 * 16 + 12, 0, 4);
    assert_int_equal(messages, 2); /* once */
    mmio_write(m, pending, 0xff, 4);
    assert_int_equal(mmio_read(m, pending, 4), 0); /* read only */
    send_vector(m, true, 70);
    assert_int_equal(messages, 2);
}

static void dma_needs_bus_mastering(void **state)
{
    struct machine *m = *state;
    struct pci_device *p = &the_sample(m)->pci;
    uint32_t v = 0x12345678;

    assert_int_equal(pci_dma_write(p, 0x1000, &v, 4), -EACCES);
    cfg_write(m, DEVFN, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    assert_int_equal(pci_dma_write(p, 0x1000, &v, 4), 0);
    v = 0;
    assert_int_equal(pci_dma_read(p, 0x1000, &v, 4), 0);
    assert_int_equal(v, 0x12345678);
    assert_int_equal(pci_dma_read(p, UINT64_C(0xffffffff0), &v, 4), -EFAULT);
}

static void bridges_forward(void **state)
{
    struct machine *m = *state;
    struct pci_host *h = pci_bus_find(m, NULL)->host;
    struct pci_bus *behind;
    struct pci_device *child;

    assert_int_equal(test_add(m, &pci_bridge_type, "addr=5", NULL), 0);
    behind = pci_bus_find(m, test_device(m)->id);
    assert_non_null(behind);
    assert_int_equal(test_add(m, &sample_type, "bus=pci-bridge0,addr=2", NULL), 0);
    child = to_pci(test_device(m));
    assert_ptr_equal(child->bus, behind);
    assert_int_equal(cfg_read(m, 5 << 3, PCI_HEADER_TYPE, 1), 1);
    assert_int_equal(pci_config_read(h, 7, 2 << 3, 0, 4), 0xffffffff);
    cfg_write(m, 5 << 3, PCI_PRIMARY_BUS, 0x00090700, 4);
    assert_int_equal(pci_config_read(h, 7, 2 << 3, 0, 4), 0x56781234);
    assert_int_equal(pci_config_read(h, 8, 2 << 3, 0, 4), 0xffffffff);
    pci_config_write(h, 7, 2 << 3, PCI_BAR0 + 4, 0xe0101000, 4);
    pci_config_write(h, 7, 2 << 3, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(mmio_read(m, 0xe0101100, 4), 0xffffffff); /* no window yet */
    cfg_write(m, 5 << 3, PCI_MEMORY_BASE, 0xe010e010, 4);
    assert_int_equal(mmio_read(m, 0xe0101100, 4), 0xffffffff); /* the bridge is off */
    cfg_write(m, 5 << 3, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(mmio_read(m, 0xe0101100, 4), 0x5a000000);
    cfg_write(m, 5 << 3, PCI_MEMORY_BASE, 0xe020e020, 4);
    assert_int_equal(mmio_read(m, 0xe0101100, 4), 0xffffffff);
    /* INTB of slot 2 is INTD of the bridge's slot. */
    pci_host_wire(h, 5, 3, 1);
    pci_host_route_isa(h, 1, 10);
    pci_intx_set(child, true);
    assert_true(test_irq(m, 10));
    test_save_reset_restore(m);
    assert_true(test_irq(m, 10));
    pci_intx_set(child, false);
    assert_false(test_irq(m, 10));
}

static void ecam_reaches_all_buses(void **state)
{
    struct machine *m = *state;
    struct pci_host *h = pci_bus_find(m, NULL)->host;
    gpa base = 0xb0000000;

    pci_host_place_ecam(h, base, 256 * MiB, true);
    assert_int_equal(mmio_read(m, base + (DEVFN << 12), 4), 0x56781234);
    mmio_write(m, base + (DEVFN << 12) + PCI_INTERRUPT_LINE, 9, 1);
    assert_int_equal(cfg_read(m, DEVFN, PCI_INTERRUPT_LINE, 1), 9);
    assert_int_equal(mmio_read(m, base + (DEVFN << 12) + 0x100, 4), 0xffffffff); /* 256 bytes */
    assert_int_equal(mmio_read(m, base + (1 << 20), 4), 0xffffffff);
    pci_host_place_ecam(h, base, 64 * MiB, false);
    assert_int_equal(mmio_read(m, base + (DEVFN << 12), 4), 0xffffffff);
}

static void refuses_bad_places(void **state)
{
    struct machine *m = *state;
    struct error err = {0};

    assert_int_equal(test_add(m, &sample_type, "addr=20", &err), -EINVAL);
    assert_string_equal(err.text, "sample: addr=20 is not slot.function, 0.0 to 1f.7");
    assert_int_equal(test_add(m, &sample_type, "addr=3.8", &err), -EINVAL);
    assert_int_equal(test_add(m, &sample_type, "addr=-1", &err), -EINVAL);
    assert_int_equal(test_add(m, &sample_type, "addr=3", &err), -EBUSY);
    assert_int_equal(test_add(m, &sample_type, "bus=nowhere", &err), -ENOENT);
    assert_string_equal(err.text, "sample: there is no PCI bus 'nowhere'");
    for (unsigned i = 0; i < 30; i++) /* slots 1 to 31 but 3 */
        assert_int_equal(test_add(m, &sample_type, NULL, NULL), 0);
    assert_int_equal(test_add(m, &sample_type, NULL, &err), -ENOSPC);
    assert_non_null(pci_device_at(pci_bus_find(m, NULL), 31, 0));
}

static void reset_control(void **state)
{
    struct machine *m = *state;

    out8(m, PCI_RESET_CONTROL, 2);
    assert_false(m->reset_requested);
    assert_int_equal(in8(m, PCI_RESET_CONTROL), 2);
    out8(m, PCI_RESET_CONTROL, 6);
    assert_true(m->reset_requested);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, test_machine_teardown)
    const struct CMUnitTest tests[] = {
        TEST(header_says_what_it_is),  TEST(masks_hold),
        TEST(bars_have_sizes),         TEST(bars_answer_where_they_are_put),
        TEST(pins_reach_interrupts),   TEST(two_functions_share_a_wire),
        TEST(msi_sends_and_masks),     TEST(msix_sends_and_masks),
        TEST(dma_needs_bus_mastering), TEST(bridges_forward),
        TEST(ecam_reaches_all_buses),  TEST(refuses_bad_places),
        TEST(reset_control),
    };

    return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
