/*
 * test_virtio.c - rings, features, status and transports, at the registers, with the entropy
 * device, which does nothing but fill what it is given.
 */
#include "support/unit.h"

#include "driver.h"

#include "devices/devices.h"
#include "devices/virtio/virtio_pci.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>

#define EVERYTHING (~UINT64_C(0))
enum { DEVFN = 3 << 3 };

static unsigned messages;
static uint32_t message_data;

static void take_message(void *opaque, gpa address, uint32_t data)
{
    messages++;
    message_data = data;
}

static int setup(void **state)
{
    messages = 0;
    if (test_machine_setup(state) < 0)
        return -1;
    ((struct machine *)*state)->msi = take_message;
    return 0;
}

static void add(struct driver *d, void **state, enum driver_via via, const char *properties)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, "virtio-rng", properties, &err))
        fail_msg("%s", err.text);
}

static struct pci_host *host_of(struct driver *d)
{
    return container_of(d->v->pci.bus, struct pci_host, root);
}

/* A chain of `n` buffers of `size` bytes comes back full of what looks random. */
static void fetch(struct driver *d, unsigned n, uint32_t size)
{
    struct driver_buffer b[300];
    uint8_t bytes[4096], zero[4096] = {0};

    assert_true(n <= ARRAY_SIZE(b) && size <= sizeof(bytes));
    for (unsigned i = 0; i < n; i++)
        b[i] = (struct driver_buffer){driver_alloc(d, size), size, true};
    assert_int_equal(driver_do(d, 0, b, n), n * size);
    for (unsigned i = 0; i < n && size >= 16; i++) {
        driver_get(d, b[i].at, bytes, size);
        assert_memory_not_equal(bytes, zero, size);
    }
}

/* ---- every transport, every kind of ring ---------------------------------------------------- */

static void fills_buffers_by_every_transport_and_ring(void **state)
{
    static const uint64_t kinds[] = {0,
                                     BIT(VIRTIO_RING_F_EVENT_IDX),
                                     BIT(VIRTIO_RING_F_INDIRECT_DESC),
                                     BIT(VIRTIO_F_RING_PACKED),
                                     BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX),
                                     EVERYTHING};

    for (unsigned via = 0; via < VIA_COUNT; via++) {
        bool modern = via == VIA_MODERN || via == VIA_MMIO;
        struct driver d;

        assert_int_equal(test_machine_teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, via, modern ? "packed=on" : NULL);
        for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
            driver_start(&d, kinds[i]);
            assert_int_equal(d.packed, modern && kinds[i] >> VIRTIO_F_RING_PACKED & 1);
            for (unsigned n = 0; n < 40; n++) { /* several times around the ring of 8 */
                driver_isr(&d);
                assert_false(driver_interrupted(&d));
                fetch(&d, 1 + n % 5, 16 + n);
                /* we look at each entry and do not say at which the next interrupt is wanted */
                if (!(d.features >> VIRTIO_RING_F_EVENT_IDX & 1)) {
                    assert_true(driver_interrupted(&d));
                    assert_int_equal(driver_isr(&d), 1);
                }
                if (n % 10 == 3)
                    test_save_reset_restore(d.m);
            }
            if (d.features >> VIRTIO_RING_F_INDIRECT_DESC & 1) {
                d.indirect = true;
                fetch(&d, 200, 16); /* more than the ring has */
                fetch(&d, 1, 4096);
            }
        }
        assert_int_equal(driver_status(&d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    }
}

static void an_interrupt_comes_at_the_position_asked_for(void **state)
{
    struct driver d;
    struct driver_buffer b;

    for (unsigned packed = 0; packed < 2; packed++) {
        assert_int_equal(test_machine_teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, VIA_MODERN, packed ? "packed=on" : NULL);
        driver_start(&d, EVERYTHING);
        b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
        driver_do(&d, 0, &b, 1); /* the first is told in any case */
        driver_isr(&d);
        /* tell us when the fourth is done */
        if (packed) {
            driver_put(&d, d.q[0].avail, &(uint16_t){3 | 1 << 15}, 2);
            driver_put(&d, d.q[0].avail + 2, &(uint16_t){2}, 2);
        } else {
            driver_put(&d, d.q[0].avail + 4 + 2 * d.q[0].num, &(uint16_t){3}, 2);
        }
        for (unsigned i = 1; i < 6; i++) {
            driver_do(&d, 0, &b, 1);
            assert_int_equal(driver_interrupted(&d), i == 3);
            driver_isr(&d);
        }
    }
}

static void interrupts_can_be_suppressed(void **state)
{
    struct driver d;
    struct driver_buffer b;

    add(&d, state, VIA_MODERN, "packed=on,event_idx=off");
    for (unsigned packed = 0; packed < 2; packed++) {
        driver_start(&d, packed ? BIT(VIRTIO_F_RING_PACKED) : 0);
        assert_int_equal(d.packed, packed);
        b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
        driver_put(&d, d.q[0].avail + (packed ? 2 : 0), &(uint16_t){1}, 2);
        driver_do(&d, 0, &b, 1);
        assert_false(driver_interrupted(&d));
        driver_put(&d, d.q[0].avail + (packed ? 2 : 0), &(uint16_t){0}, 2);
        driver_do(&d, 0, &b, 1);
        assert_true(driver_interrupted(&d));
    }
}

/* ---- what a guest may do wrong -------------------------------------------------------------- */

enum wrong {
    LOOP,
    TABLE_LOOP,
    TABLE_SIZE,
    TABLE_NOWHERE,
    TABLE_IN_TABLE,
    NOWHERE,
    PAST_END,
    WRAPS,
    READ_AFTER_WRITE,
    HEAD,
    NEXT,
    INDEX,
    HUGE,
    WRONGS
};

static void do_wrong(struct driver *d, enum wrong what)
{
    gpa ram_end = d->m->ram->size, page = driver_alloc(d, 4096), desc = d->q[0].desc;
    struct driver_buffer b[2] = {{page, 16, true}, {page + 64, 16, true}};
    uint16_t flags_at = d->packed ? 14 : 12;

    switch (what) {
    case TABLE_LOOP:
    case TABLE_IN_TABLE: d->indirect = true; break;
    case NOWHERE: b[0].at = 0xd0000000; break;
    case PAST_END: b[1].at = ram_end - 8; break;
    case WRAPS: b[0].at = UINT64_MAX - 7; break;
    case READ_AFTER_WRITE: b[1].in = false; break;
    case HUGE: b[0].size = b[1].size = UINT32_MAX; break;
    default: break;
    }
    driver_add(d, 0, b, 2);
    switch (what) {
    case LOOP: /* in a packed ring: every entry of the ring says there is one more */
        for (unsigned i = 0; i < d->q[0].num; i++)
            driver_put(d, desc + 16 * i, (uint64_t[]){page, 16}, 16);
        for (unsigned i = 0; i < d->q[0].num; i++) {
            driver_put(d, desc + 16 * i + 14, &(uint16_t){0}, 2);
            driver_put(
                d, desc + 16 * i + flags_at,
                &(uint16_t){VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | (d->packed ? 1 << 7 : 0)}, 2);
        }
        break;
    case TABLE_SIZE:
        driver_put(d, desc + 8, &(uint32_t){40}, 4);
        driver_put(d, desc + flags_at, &(uint16_t){VRING_DESC_F_INDIRECT | (d->packed ? 128 : 0)},
                   2);
        break;
    case TABLE_NOWHERE:
        driver_put(d, desc, &(uint64_t){0xd0000000}, 8);
        driver_put(d, desc + flags_at, &(uint16_t){VRING_DESC_F_INDIRECT | (d->packed ? 128 : 0)},
                   2);
        break;
    case TABLE_LOOP: {
        gpa table = load_le(d->m->ram->host + desc, 8);

        if (d->packed) /* there are no links */
            driver_put(d, table + 14, &(uint16_t){VRING_DESC_F_INDIRECT}, 2);
        else
            driver_put(d, table + 14, &(uint16_t){0}, 2);
        break;
    }
    case TABLE_IN_TABLE: {
        gpa table = load_le(d->m->ram->host + desc, 8);

        driver_put(d, table + flags_at, &(uint16_t){VRING_DESC_F_INDIRECT}, 2);
        break;
    }
    case HEAD: driver_put(d, d->q[0].avail + 4, &(uint16_t){99}, 2); break;
    case NEXT: driver_put(d, desc + 14, &(uint16_t){8}, 2); break;
    case INDEX: driver_put(d, d->q[0].avail + 2, &(uint16_t){9}, 2); break;
    default: break;
    }
    driver_kick(d, 0);
}

static void nonsense_breaks_the_device_until_its_reset(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "packed=on");
    for (unsigned packed = 0; packed < 2; packed++)
        for (enum wrong what = 0; what < WRONGS; what++) {
            if (packed && (what == HEAD || what == NEXT || what == INDEX))
                continue; /* nothing of the kind there */
            driver_start(&d, EVERYTHING & ~(packed ? 0 : BIT(VIRTIO_F_RING_PACKED)));
            do_wrong(&d, what);
            if (driver_used(&d, 0, NULL) >= 0)
                fail_msg("fault %u (packed %u) was accepted", what, packed);
            assert_int_equal(driver_status(&d), 0x4f);
            assert_true(driver_interrupted(&d));
            assert_int_equal(driver_isr(&d), 2); /* look at the configuration */
            test_save_reset_restore(d.m);
            driver_kick(&d, 0); /* nothing more happens */
            assert_int_equal(driver_used(&d, 0, NULL), -1);
            assert_int_equal(driver_status(&d), 0x4f);
        }
    driver_start(&d, 0);
    fetch(&d, 2, 100);
    assert_int_equal(driver_status(&d), 0x0f);
}

static void rings_must_lie_in_ram_and_be_aligned(void **state)
{
    static const struct {
        unsigned reg;
        uint32_t value;
    } bad[] = {
        {VIRTIO_PCI_COMMON_Q_DESCLO, 0xd0000000}, {VIRTIO_PCI_COMMON_Q_AVAILHI, 0x100},
        {VIRTIO_PCI_COMMON_Q_USEDLO, 0xfffff0},   {VIRTIO_PCI_COMMON_Q_DESCLO, 0x100008},
        {VIRTIO_PCI_COMMON_Q_AVAILLO, 0x100001},  {VIRTIO_PCI_COMMON_Q_USEDLO, 0x100002},
        {VIRTIO_PCI_COMMON_Q_DESCLO, 0xe0000000},
    };
    struct driver d;

    add(&d, state, VIA_MODERN, NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        driver_reset(&d);
        common_set(&d, VIRTIO_PCI_COMMON_STATUS, 3, 1);
        common_set(&d, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
        common_set(&d, VIRTIO_PCI_COMMON_GF, 1, 4);
        common_set(&d, VIRTIO_PCI_COMMON_STATUS, 11, 1);
        for (unsigned r = 0; r < 3; r++)
            common_set(&d, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * r, 0x100000 + 0x1000 * r, 4);
        common_set(&d, bad[i].reg, bad[i].value, 4);
        common_set(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
        common_set(&d, VIRTIO_PCI_COMMON_STATUS, 15, 1);
        assert_int_equal(driver_status(&d), 0x4f);
    }
    /* three entries are not a split ring */
    driver_reset(&d);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 3, 1);
    common_set(&d, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    common_set(&d, VIRTIO_PCI_COMMON_GF, 1, 4);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 11, 1);
    common_set(&d, VIRTIO_PCI_COMMON_Q_SIZE, 3, 2);
    common_set(&d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 15, 1);
    assert_int_equal(driver_status(&d), 0x4f);
}

/* ---- features and status -------------------------------------------------------------------- */

static void features_are_refused_and_fixed(void **state)
{
    struct driver d;

    add(&d, state, VIA_MODERN, "event_idx=off,indirect_desc=off");
    common_set(&d, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_DF, 4), 0);
    common_set(&d, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_DF, 4), 1);
    common_set(&d, VIRTIO_PCI_COMMON_DFSELECT, 2, 4);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_DF, 4), 0);
    /* without VERSION_1, or with what is not offered, FEATURES_OK does not stick */
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 3, 1);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 11, 1);
    assert_int_equal(driver_status(&d), 3);
    common_set(&d, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    common_set(&d, VIRTIO_PCI_COMMON_GF, 1 | 1 << 2, 4);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 11, 1);
    assert_int_equal(driver_status(&d), 3);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 7, 1); /* nor does DRIVER_OK then */
    assert_int_equal(driver_status(&d), 3);
    common_set(&d, VIRTIO_PCI_COMMON_GF, 1, 4);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 11, 1);
    assert_int_equal(driver_status(&d), 11);
    common_set(&d, VIRTIO_PCI_COMMON_GF, 0, 4); /* too late */
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_GF, 4), 1);
    test_save_reset_restore(d.m);
    common_set(&d, VIRTIO_PCI_COMMON_STATUS, 0, 1);
    assert_int_equal(driver_status(&d), 0);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_GF, 4), 0);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
}

static void refuses_by_name(void **state)
{
    static const struct {
        enum driver_via via;
        const char *properties, *text;
    } bad[] = {
        {VIA_MODERN, "iommu_platform=on",
         "virtio-rng-pci: iommu_platform=on needs an IOMMU, and there is none"},
        {VIA_MODERN, "disable-legacy=maybe",
         "virtio-rng-pci: disable-legacy=maybe is none of on, off, auto"},
        {VIA_LEGACY, "packed=on",
         "virtio-rng-pci: packed=on is for modern drivers, and those are disabled"},
        {VIA_LEGACY, "disable-legacy=on",
         "virtio-rng-pci: with disable-modern=on nothing is left: the device has no legacy "
         "interface, or disable-legacy=on"},
        {VIA_MODERN, "vectors=200", "virtio-rng-pci: vectors=200 is more than 128"},
        {VIA_MMIO, "max-bytes=0", "virtio-rng-device: max-bytes and period cannot be 0"},
        {VIA_MMIO, "base=0xffffffffffffffff",
         "virtio-rng-device: this machine has no slots for virtio-mmio; microvm has"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        struct driver d;

        assert_false(
            driver_add_device(&d, *state, bad[i].via, "virtio-rng", bad[i].properties, &err));
        assert_string_equal(err.text, bad[i].text);
    }
}

/* ---- PCI ------------------------------------------------------------------------------------ */

static void identities(void **state)
{
    static const struct {
        const char *type, *properties;
        uint16_t device, subsystem, revision;
        bool ports, memory;
    } kinds[] = {
        {"virtio-rng-pci", NULL, 0x1005, 4, 0, true, true},
        {"virtio-rng-pci", "disable-legacy=on", 0x1044, 0x1100, 1, false, true},
        {"virtio-rng-pci", "disable-modern=on", 0x1005, 4, 0, true, false},
        {"virtio-rng-pci-transitional", NULL, 0x1005, 4, 0, true, true},
        {"virtio-rng-pci-non-transitional", NULL, 0x1044, 0x1100, 1, false, true},
    };
    struct machine *m = *state;

    device_types_register(device_types);
    assert_non_null(pci_host_add(m, "pci.0", NULL));
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct device *dev = device_add(m, device_type_find(kinds[i].type), kinds[i].properties,
                                        NULL);
        struct pci_device *p = to_pci(dev);

        assert_int_equal(pci_get(p, PCI_VENDOR_ID, 2), 0x1af4);
        assert_int_equal(pci_get(p, PCI_DEVICE_ID, 2), kinds[i].device);
        assert_int_equal(pci_get(p, PCI_SUBSYSTEM, 2), kinds[i].subsystem);
        assert_int_equal(pci_get(p, PCI_REVISION, 1), kinds[i].revision);
        assert_int_equal(p->bar[0].kind, kinds[i].ports ? PCI_BAR_IO : PCI_BAR_NONE);
        assert_int_equal(p->bar[4].kind, kinds[i].memory ? PCI_BAR_MEM64 : PCI_BAR_NONE);
    }
}

static void msix_vectors_carry_interrupts(void **state)
{
    struct driver d;
    unsigned cap;

    add(&d, state, VIA_MODERN, NULL);
    cap = d.v->pci.msix_cap;
    assert_int_not_equal(cap, 0);
    pci_config_write(host_of(&d), 0, DEVFN, cap + 2, 1u << 15, 2);
    for (unsigned i = 0; i < 2; i++) {
        mmio_write(d.m, DRIVER_MSIX + 16 * i, 0xfee00000, 4);
        mmio_write(d.m, DRIVER_MSIX + 16 * i + 8, 0x40 + i, 4);
        mmio_write(d.m, DRIVER_MSIX + 16 * i + 12, 0, 4);
    }
    driver_start(&d, 0);
    /* a vector that does not exist reads back as none */
    common_set(&d, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
    common_set(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
    fetch(&d, 1, 16);
    assert_int_equal(messages, 0);
    common_set(&d, VIRTIO_PCI_COMMON_Q_MSIX, 1, 2);
    assert_int_equal(common_get(&d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
    fetch(&d, 1, 16);
    virtio_settle(d.v);
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    assert_false(driver_interrupted(&d)); /* INTx is silent */
    common_set(&d, VIRTIO_PCI_COMMON_MSIX, 0, 2);
    do_wrong(&d, NOWHERE);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    assert_int_equal(messages, 2);
    assert_int_equal(message_data, 0x40);
}

static void configuration_space_reaches_the_registers(void **state)
{
    struct driver d;
    unsigned cap;
    struct pci_host *h;

    add(&d, state, VIA_MODERN, NULL);
    h = host_of(&d);
    cap = d.v->cfg_cap;
    /* status, by the modern BAR */
    pci_config_write(h, 0, DEVFN, cap + 4, 4, 1);
    pci_config_write(h, 0, DEVFN, cap + 8, VIRTIO_PCI_COMMON_STATUS, 4);
    pci_config_write(h, 0, DEVFN, cap + 12, 1, 4);
    pci_config_write(h, 0, DEVFN, cap + 16, 3, 1);
    assert_int_equal(driver_status(&d), 3);
    assert_int_equal(pci_config_read(h, 0, DEVFN, cap + 16, 1), 3);
    /* the same by the legacy one */
    pci_config_write(h, 0, DEVFN, cap + 4, 0, 1);
    pci_config_write(h, 0, DEVFN, cap + 8, VIRTIO_PCI_STATUS, 4);
    assert_int_equal(pci_config_read(h, 0, DEVFN, cap + 16, 1), 3);
    pci_config_write(h, 0, DEVFN, cap + 16, 0, 1);
    assert_int_equal(driver_status(&d), 0);
    /* neither outside nor misaligned */
    pci_config_write(h, 0, DEVFN, cap + 4, 4, 1);
    pci_config_write(h, 0, DEVFN, cap + 8, VIRTIO_PCI_BAR_SIZE, 4);
    pci_config_write(h, 0, DEVFN, cap + 16, 1, 1);
    pci_config_write(h, 0, DEVFN, cap + 8, 1, 4);
    pci_config_write(h, 0, DEVFN, cap + 12, 4, 4);
    pci_config_write(h, 0, DEVFN, cap + 16, 1, 4);
    assert_int_equal(driver_status(&d), 0);
}

static void without_bus_mastering_nothing_is_read(void **state)
{
    struct driver d;
    struct driver_buffer b;

    add(&d, state, VIA_MODERN, NULL);
    driver_start(&d, 0);
    b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
    pci_config_write(host_of(&d), 0, DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    driver_add(&d, 0, &b, 1);
    driver_kick(&d, 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    pci_config_write(host_of(&d), 0, DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
                     2);
    assert_int_equal(driver_used(&d, 0, NULL), 0); /* the kick was kept */
}

static void a_pause_holds_the_queues(void **state)
{
    struct driver d;
    struct driver_buffer b;

    add(&d, state, VIA_MMIO, NULL);
    driver_start(&d, 0);
    b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
    virtio_running(&d.v->dev, false);
    driver_add(&d, 0, &b, 1);
    driver_kick(&d, 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    test_save_reset_restore(d.m);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    virtio_running(&d.v->dev, true);
    assert_int_equal(driver_used(&d, 0, NULL), 0);
}

static void legacy_drivers_may_kick_early(void **state)
{
    struct driver d;
    struct driver_buffer b;

    add(&d, state, VIA_LEGACY, NULL);
    driver_start(&d, 0);
    driver_reset(&d);
    out8(d.m, DRIVER_PORT + VIRTIO_PCI_STATUS, 3);
    out16(d.m, DRIVER_PORT + VIRTIO_PCI_QUEUE_SEL, 0);
    out32(d.m, DRIVER_PORT + VIRTIO_PCI_QUEUE_PFN, (uint32_t)(d.q[0].desc / 4096));
    assert_int_equal(in32(d.m, DRIVER_PORT + VIRTIO_PCI_QUEUE_PFN), d.q[0].desc / 4096);
    b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
    assert_int_equal(driver_do(&d, 0, &b, 1), 16);
    out32(d.m, DRIVER_PORT + VIRTIO_PCI_QUEUE_PFN, 0); /* gives the queue up */
    assert_int_equal(in32(d.m, DRIVER_PORT + VIRTIO_PCI_QUEUE_PFN), 0);
    driver_add(&d, 0, &b, 1);
    driver_kick(&d, 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
}

static void mmio_registers(void **state)
{
    struct driver d;

    add(&d, state, VIA_MMIO, NULL);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO, 4), 0x74726976);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO + VIRTIO_MMIO_VERSION, 4), 2);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO + VIRTIO_MMIO_DEVICE_ID, 4), 4);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO + VIRTIO_MMIO_SHM_LEN_LOW, 4), 0xffffffff);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO, 2), 0xffff); /* words only */
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_QUEUE_SEL, 0x10000, 4);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO + VIRTIO_MMIO_QUEUE_NUM_MAX, 4), 0);
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_QUEUE_READY, 1, 4); /* of no queue */
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_QUEUE_NOTIFY, 77, 4);
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_QUEUE_PFN, 1, 4); /* legacy only */
    driver_start(&d, 0);
    fetch(&d, 1, 16);
    assert_int_equal(mmio_read(d.m, DRIVER_MMIO + VIRTIO_MMIO_INTERRUPT_STATUS, 4), 1);
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_INTERRUPT_ACK, 2, 4);
    assert_true(driver_interrupted(&d));
    mmio_write(d.m, DRIVER_MMIO + VIRTIO_MMIO_INTERRUPT_ACK, 1, 4);
    assert_false(driver_interrupted(&d));
}

static void the_quota_lasts_a_period(void **state)
{
    struct driver d;
    struct driver_buffer b;
    uint32_t written;

    add(&d, state, VIA_MODERN, "max-bytes=24,period=10");
    driver_start(&d, 0);
    b = (struct driver_buffer){driver_alloc(&d, 16), 16, true};
    assert_int_equal(driver_do(&d, 0, &b, 1), 16);
    assert_int_equal(driver_do(&d, 0, &b, 1), 8);
    driver_add(&d, 0, &b, 1);
    driver_kick(&d, 0);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    test_advance(d.m, 9 * NSEC_PER_MSEC);
    assert_int_equal(driver_used(&d, 0, NULL), -1);
    test_advance(d.m, 2 * NSEC_PER_MSEC);
    assert_int_equal(driver_used(&d, 0, &written), 2);
    assert_int_equal(written, 16);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, test_machine_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(fills_buffers_by_every_transport_and_ring),
        TEST(an_interrupt_comes_at_the_position_asked_for),
        TEST(interrupts_can_be_suppressed),
        TEST(nonsense_breaks_the_device_until_its_reset),
        TEST(rings_must_lie_in_ram_and_be_aligned),
        TEST(features_are_refused_and_fixed),
        TEST(refuses_by_name),
        TEST(identities),
        TEST(msix_vectors_carry_interrupts),
        TEST(configuration_space_reaches_the_registers),
        TEST(without_bus_mastering_nothing_is_read),
        TEST(a_pause_holds_the_queues),
        TEST(legacy_drivers_may_kick_early),
        TEST(mmio_registers),
        TEST(the_quota_lasts_a_period),
    };

    return cmocka_run_group_tests_name("virtio", tests, NULL, NULL);
}
