/* driver.c - see driver.h. */
#include "support/unit.h"

#include "driver.h"

#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_mmio.h>
#include <linux/virtio_pci.h>
#include <stdio.h>

enum { DEVFN = 3 << 3, GUEST_PAGE = 4096 };

/* ---- registers ------------------------------------------------------------------------------ */

uint64_t common_get(struct driver *d, unsigned offset, unsigned size)
{
    return mmio_read(d->m, DRIVER_BAR + VIRTIO_PCI_COMMON + offset, size);
}

void common_set(struct driver *d, unsigned offset, uint64_t value, unsigned size)
{
    mmio_write(d->m, DRIVER_BAR + VIRTIO_PCI_COMMON + offset, value, size);
}

static uint32_t mm_get(struct driver *d, unsigned offset)
{
    return (uint32_t)mmio_read(d->m, DRIVER_MMIO + offset, 4);
}

static void mm_set(struct driver *d, unsigned offset, uint32_t value)
{
    mmio_write(d->m, DRIVER_MMIO + offset, value, 4);
}

static bool is_mmio(const struct driver *d)
{
    return d->via == VIA_MMIO || d->via == VIA_MMIO_LEGACY;
}

uint8_t driver_status(struct driver *d)
{
    if (is_mmio(d))
        return (uint8_t)mm_get(d, VIRTIO_MMIO_STATUS);
    if (d->via == VIA_LEGACY)
        return in8(d->m, DRIVER_PORT + VIRTIO_PCI_STATUS);
    return (uint8_t)common_get(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

static void set_status(struct driver *d, uint8_t status)
{
    if (is_mmio(d))
        mm_set(d, VIRTIO_MMIO_STATUS, status);
    else if (d->via == VIA_LEGACY)
        out8(d->m, DRIVER_PORT + VIRTIO_PCI_STATUS, status);
    else
        common_set(d, VIRTIO_PCI_COMMON_STATUS, status, 1);
}

uint8_t driver_isr(struct driver *d)
{
    if (is_mmio(d)) {
        uint32_t isr = mm_get(d, VIRTIO_MMIO_INTERRUPT_STATUS);

        mm_set(d, VIRTIO_MMIO_INTERRUPT_ACK, isr);
        return (uint8_t)isr;
    }
    if (d->via == VIA_LEGACY)
        return in8(d->m, DRIVER_PORT + VIRTIO_PCI_ISR);
    return (uint8_t)mmio_read(d->m, DRIVER_BAR + VIRTIO_PCI_ISR_AT, 1);
}

bool driver_interrupted(struct driver *d)
{
    virtio_settle(d->v);
    return is_mmio(d) ? test_irq(d->m, DRIVER_IRQ) : d->v->pci.intx_driven;
}

static gpa config_at(struct driver *d)
{
    if (is_mmio(d))
        return DRIVER_MMIO + VIRTIO_MMIO_CONFIG;
    if (d->via == VIA_LEGACY)
        return DRIVER_PORT + VIRTIO_PCI_CONFIG_OFF(false);
    return DRIVER_BAR + VIRTIO_PCI_DEVICE;
}

uint64_t driver_config(struct driver *d, unsigned offset, unsigned size)
{
    if (d->via == VIA_LEGACY)
        return machine_in(d->m, (uint16_t)(config_at(d) + offset), size);
    return mmio_read(d->m, config_at(d) + offset, size);
}

void driver_set_config(struct driver *d, unsigned offset, uint64_t value, unsigned size)
{
    if (d->via == VIA_LEGACY)
        machine_out(d->m, (uint16_t)(config_at(d) + offset), value, size);
    else
        mmio_write(d->m, config_at(d) + offset, value, size);
}

static void negotiate(struct driver *d, uint64_t wanted)
{
    if (d->via == VIA_LEGACY) {
        d->offered = in32(d->m, DRIVER_PORT + VIRTIO_PCI_HOST_FEATURES);
        d->features = d->offered & wanted;
        out32(d->m, DRIVER_PORT + VIRTIO_PCI_GUEST_FEATURES, (uint32_t)d->features);
        return;
    }
    d->offered = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (is_mmio(d)) {
            mm_set(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
            d->offered |= (uint64_t)mm_get(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32 * i;
        } else {
            common_set(d, VIRTIO_PCI_COMMON_DFSELECT, i, 4);
            d->offered |= common_get(d, VIRTIO_PCI_COMMON_DF, 4) << 32 * i;
        }
    }
    d->features = d->offered & (wanted | BIT(VIRTIO_F_VERSION_1));
    for (unsigned i = 0; i < 2; i++) {
        uint32_t word = (uint32_t)(d->features >> 32 * i);

        if (is_mmio(d)) {
            mm_set(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
            mm_set(d, VIRTIO_MMIO_DRIVER_FEATURES, word);
        } else {
            common_set(d, VIRTIO_PCI_COMMON_GFSELECT, i, 4);
            common_set(d, VIRTIO_PCI_COMMON_GF, word, 4);
        }
    }
}

/* ---- memory --------------------------------------------------------------------------------- */

gpa driver_alloc(struct driver *d, uint32_t size)
{
    gpa at = d->next;

    d->next = align_up(at + size, 16);
    assert_true(d->next <= d->m->ram->size);
    memset(d->m->ram->host + at, 0, size);
    return at;
}

void driver_put(struct driver *d, gpa at, const void *data, uint32_t size)
{
    assert_int_equal(dma_write(d->m->memory, at, data, size), 0);
}

void driver_get(struct driver *d, gpa at, void *data, uint32_t size)
{
    assert_int_equal(dma_read(d->m->memory, at, data, size), 0);
}

static uint64_t peek(struct driver *d, gpa at, unsigned size)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load_le(d->m->ram->host + at, size);
}

static void poke(struct driver *d, gpa at, uint64_t value, unsigned size)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    store_le(d->m->ram->host + at, value, size);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- starting ------------------------------------------------------------------------------- */

static unsigned queue_size(struct driver *d, unsigned n)
{
    if (is_mmio(d)) {
        mm_set(d, VIRTIO_MMIO_QUEUE_SEL, n);
        return mm_get(d, VIRTIO_MMIO_QUEUE_NUM_MAX);
    }
    if (d->via == VIA_LEGACY) {
        out16(d->m, DRIVER_PORT + VIRTIO_PCI_QUEUE_SEL, (uint16_t)n);
        return in16(d->m, DRIVER_PORT + VIRTIO_PCI_QUEUE_NUM);
    }
    common_set(d, VIRTIO_PCI_COMMON_Q_SELECT, n, 2);
    return (unsigned)common_get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
}

static void place(struct driver *d, struct driver_queue *q)
{
    gpa where[3] = {q->desc, q->avail, q->used};

    if (d->via == VIA_LEGACY) {
        out32(d->m, DRIVER_PORT + VIRTIO_PCI_QUEUE_PFN, (uint32_t)(q->desc / GUEST_PAGE));
    } else if (d->via == VIA_MMIO_LEGACY) {
        mm_set(d, VIRTIO_MMIO_QUEUE_NUM, q->num);
        mm_set(d, VIRTIO_MMIO_QUEUE_ALIGN, GUEST_PAGE);
        mm_set(d, VIRTIO_MMIO_QUEUE_PFN, (uint32_t)(q->desc / GUEST_PAGE));
    } else if (d->via == VIA_MMIO) {
        mm_set(d, VIRTIO_MMIO_QUEUE_NUM, q->num);
        for (unsigned i = 0; i < 3; i++) {
            mm_set(d, VIRTIO_MMIO_QUEUE_DESC_LOW + 0x10 * i, (uint32_t)where[i]);
            mm_set(d, VIRTIO_MMIO_QUEUE_DESC_HIGH + 0x10 * i, (uint32_t)(where[i] >> 32));
        }
        mm_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
    } else {
        common_set(d, VIRTIO_PCI_COMMON_Q_SIZE, q->num, 2);
        for (unsigned i = 0; i < 3; i++) {
            common_set(d, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * i, (uint32_t)where[i], 4);
            common_set(d, VIRTIO_PCI_COMMON_Q_DESCHI + 8 * i, where[i] >> 32, 4);
        }
        common_set(d, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    }
}

static void start_queue(struct driver *d, unsigned n)
{
    struct driver_queue *q = &d->q[n];

    *q = (struct driver_queue){
        .number = n, .num = queue_size(d, n), .avail_wrap = true, .used_wrap = true};
    assert_int_not_equal(q->num, 0);
    d->next = align_up(d->next, GUEST_PAGE);
    if (d->packed) {
        q->desc = driver_alloc(d, 16 * q->num);
        q->avail = driver_alloc(d, 4);
        q->used = driver_alloc(d, 4);
    } else {
        q->desc = driver_alloc(d, 16 * q->num + 4 + 2 * q->num + 2);
        q->avail = q->desc + 16 * q->num;
        d->next = align_up(d->next, GUEST_PAGE);
        q->used = driver_alloc(d, 4 + 8 * q->num + 2);
    }
    place(d, q);
}

void driver_reset(struct driver *d)
{
    set_status(d, 0);
    assert_int_equal(driver_status(d), 0);
}

void driver_start(struct driver *d, uint64_t wanted)
{
    unsigned queues = MIN(d->v->queues, DRIVER_QUEUES);

    if (d->via == VIA_MMIO_LEGACY) /* as Linux does: before the reset */
        mm_set(d, VIRTIO_MMIO_GUEST_PAGE_SIZE, GUEST_PAGE);
    driver_reset(d);
    d->next = DRIVER_MEMORY;
    set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    negotiate(d, wanted);
    d->packed = d->features >> VIRTIO_F_RING_PACKED & 1;
    d->indirect = false;
    if (d->via == VIA_MODERN || d->via == VIA_MMIO) {
        set_status(d, driver_status(d) | VIRTIO_CONFIG_S_FEATURES_OK);
        assert_true(driver_status(d) & VIRTIO_CONFIG_S_FEATURES_OK);
    }
    for (unsigned i = 0; i < queues; i++)
        start_queue(d, i);
    set_status(d, driver_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void enable_pci(struct driver *d)
{
    struct pci_host *host = container_of(d->v->pci.bus, struct pci_host, root);

    pci_config_write(host, 0, DEVFN, PCI_BAR0, DRIVER_PORT, 4);
    pci_config_write(host, 0, DEVFN, PCI_BAR0 + 4, DRIVER_MSIX, 4);
    pci_config_write(host, 0, DEVFN, PCI_BAR0 + 16, DRIVER_BAR, 4);
    pci_config_write(host, 0, DEVFN, PCI_COMMAND,
                     PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

bool driver_add_device(struct driver *d, struct machine *m, enum driver_via via, const char *name,
                       const char *properties, struct error *err)
{
    static const char *const suffix[] = {"-pci", "-pci", "-device", "-device"};
    char type[80], all[400];
    struct device *dev;

    device_types_register(device_types);
    *d = (struct driver){.m = m, .via = via, .next = DRIVER_MEMORY};
    snprintf(type, sizeof(type), "%s%s", name, suffix[via]);
    if (is_mmio(d))
        snprintf(all, sizeof(all), "base=%#x,irq=%d%s,%s", (unsigned)DRIVER_MMIO, DRIVER_IRQ,
                 via == VIA_MMIO_LEGACY ? ",force-legacy=on" : "", properties ? properties : "");
    else
        snprintf(all, sizeof(all), "addr=3%s,%s", via == VIA_LEGACY ? ",disable-modern=on" : "",
                 properties ? properties : "");
    assert_non_null(device_type_find(type));
    if (!is_mmio(d) && !pci_bus_find(m, NULL))
        assert_non_null(pci_host_add(m, "pci.0", NULL));
    dev = device_add(m, device_type_find(type), all, err);
    if (!dev)
        return false;
    d->v = to_virtio(dev);
    if (!is_mmio(d))
        enable_pci(d);
    return true;
}

/* ---- chains --------------------------------------------------------------------------------- */

static uint16_t flags_of(const struct driver_buffer *b, bool more)
{
    return (uint16_t)((b->in ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0));
}

static gpa make_table(struct driver *d, const struct driver_buffer *b, unsigned n)
{
    gpa table = driver_alloc(d, 16 * n);

    for (unsigned i = 0; i < n; i++) {
        poke(d, table + 16 * i, b[i].at, 8);
        poke(d, table + 16 * i + 8, b[i].size, 4);
        poke(d, table + 16 * i + (d->packed ? 14 : 12), flags_of(&b[i], !d->packed && i + 1 < n),
             2);
        if (!d->packed)
            poke(d, table + 16 * i + 14, i + 1, 2);
    }
    return table;
}

static uint16_t add_split(struct driver *d, struct driver_queue *q, const struct driver_buffer *b,
                          unsigned n, uint16_t extra)
{
    uint16_t head = (uint16_t)q->next_free;

    for (unsigned i = 0; i < n; i++) {
        gpa at = q->desc + 16 * q->next_free;

        q->next_free = (q->next_free + 1) % q->num;
        poke(d, at, b[i].at, 8);
        poke(d, at + 8, b[i].size, 4);
        poke(d, at + 12, flags_of(&b[i], i + 1 < n) | extra, 2);
        poke(d, at + 14, q->next_free, 2);
    }
    poke(d, q->avail + 4 + 2 * (q->avail_idx % q->num), head, 2);
    poke(d, q->avail + 2, ++q->avail_idx, 2);
    return head;
}

static uint16_t add_packed(struct driver *d, struct driver_queue *q, const struct driver_buffer *b,
                           unsigned n, uint16_t extra)
{
    uint16_t id = (uint16_t)q->next_free, first_flags = 0;
    gpa first = q->desc + 16 * q->next_free;

    for (unsigned i = 0; i < n; i++) {
        gpa at = q->desc + 16 * q->next_free;
        uint16_t flags = (uint16_t)(flags_of(&b[i], i + 1 < n) | extra |
                                    (q->avail_wrap ? 1 << 7 : 1 << 15));

        poke(d, at, b[i].at, 8);
        poke(d, at + 8, b[i].size, 4);
        poke(d, at + 12, id, 2);
        if (i)
            poke(d, at + 14, flags, 2);
        else
            first_flags = flags;
        if (++q->next_free == q->num) {
            q->next_free = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    poke(d, first + 14, first_flags, 2);
    return id;
}

uint16_t driver_add(struct driver *d, unsigned queue, const struct driver_buffer *b, unsigned n)
{
    struct driver_queue *q = &d->q[queue];
    struct driver_buffer table;
    uint16_t extra = 0;

    if (d->indirect) {
        table = (struct driver_buffer){.at = make_table(d, b, n), .size = 16 * n};
        extra = VRING_DESC_F_INDIRECT;
        b = &table;
        n = 1;
    }
    return d->packed ? add_packed(d, q, b, n, extra) : add_split(d, q, b, n, extra);
}

void driver_kick(struct driver *d, unsigned queue)
{
    if (is_mmio(d))
        mm_set(d, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    else if (d->via == VIA_LEGACY)
        out16(d->m, DRIVER_PORT + VIRTIO_PCI_QUEUE_NOTIFY, (uint16_t)queue);
    else
        mmio_write(d->m, DRIVER_BAR + VIRTIO_PCI_NOTIFY + VIRTIO_PCI_NOTIFY_STEP * queue, queue, 2);
}

static int used_packed(struct driver *d, struct driver_queue *q, uint32_t *written)
{
    gpa at = q->desc + 16 * q->used_idx;
    uint16_t flags = (uint16_t)peek(d, at + 14, 2), id = (uint16_t)peek(d, at + 12, 2);

    if (!!(flags & 1 << 7) != q->used_wrap || !!(flags & 1 << 15) != q->used_wrap)
        return -1;
    if (written)
        *written = (uint32_t)peek(d, at + 8, 4);
    return id;
}

int driver_used(struct driver *d, unsigned queue, uint32_t *written)
{
    struct driver_queue *q = &d->q[queue];
    int id;

    virtio_settle(d->v);
    if (d->packed)
        return used_packed(d, q, written);
    if ((uint16_t)peek(d, q->used + 2, 2) == q->used_idx)
        return -1;
    id = (int)peek(d, q->used + 4 + 8 * (q->used_idx % q->num), 4);
    if (written)
        *written = (uint32_t)peek(d, q->used + 8 + 8 * (q->used_idx % q->num), 4);
    q->used_idx++;
    return id;
}

/* In a packed ring the next used entry lies as many slots on as the chain had. */
static void skip_slots(struct driver_queue *q, unsigned slots)
{
    q->used_idx = (uint16_t)(q->used_idx + slots);
    if (q->used_idx >= q->num) {
        q->used_idx = (uint16_t)(q->used_idx - q->num);
        q->used_wrap = !q->used_wrap;
    }
}

uint32_t driver_do(struct driver *d, unsigned queue, const struct driver_buffer *b, unsigned n)
{
    uint16_t id = driver_add(d, queue, b, n);
    uint32_t written = 0;

    driver_kick(d, queue);
    assert_int_equal(driver_used(d, queue, &written), id);
    if (d->packed)
        skip_slots(&d->q[queue], d->indirect ? 1 : n);
    return written;
}
