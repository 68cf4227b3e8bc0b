/* host.c - see host.h. */
#include "support/unit.h"

#include "host.h"

static void take_message(void *opaque, gpa address, uint32_t data)
{
    struct host *h = opaque;

    h->messages++;
    h->message_data = data;
}

int host_setup(void **state)
{
    struct host *h = xcalloc(1, sizeof(*h));
    struct error err = {0};
    void *machine;

    if (test_machine_setup(&machine) < 0)
        return -1;
    h->m = machine;
    h->m->msi = take_message;
    h->m->msi_opaque = h;
    h->m->config.display = h->display = display_new();
    h->pci = pci_host_add(h->m, "pci.0", &err);
    pci_host_wire(h->pci, 3, 0, 0);
    pci_host_route_gsi(h->pci, 0, HOST_GSI);
    if (test_add(h->m, &xhci_type, "addr=3", &err) < 0)
        return -1;
    h->xhci = test_device(h->m);
    pci_config_write(h->pci, 0, 3 << 3, PCI_BAR0, HOST_BAR, 4);
    pci_config_write(h->pci, 0, 3 << 3, PCI_BAR0 + 4, 0, 4);
    pci_config_write(h->pci, 0, 3 << 3, PCI_COMMAND, 6, 2);
    *state = h;
    return 0;
}

int host_teardown(void **state)
{
    struct host *h = *state;
    void *machine = h->m;
    int r;

    machine_free_devices(h->m);
    display_free(h->display);
    r = test_machine_teardown(&machine);
    free(h);
    return r;
}

int host_add(struct host *h, const struct device_type *type, const char *properties,
             struct error *err)
{
    int r = test_add(h->m, type, properties, err);

    h->usb = test_device(h->m);
    return r;
}

uint32_t host_read(struct host *h, unsigned reg)
{
    return (uint32_t)mmio_read(h->m, HOST_BAR + reg, 4);
}

void host_write(struct host *h, unsigned reg, uint32_t value)
{
    mmio_write(h->m, HOST_BAR + reg, value, 4);
}

static void put64(struct host *h, gpa at, uint64_t value)
{
    mmio_write(h->m, at, value, 8);
}

void host_start(struct host *h)
{
    h->commands = (struct host_ring){HOST_COMMANDS, 0, 1};
    h->event_at = 0;
    h->event_cycle = 1;
    dma_fill(h->m->memory, 0x1000, 0, 0xf000);
    put64(h, 0x1000 + 8, HOST_CONTEXT); /* slot 1 */
    put64(h, 0x2f00, HOST_EVENTS);
    put64(h, 0x2f08, HOST_EVENT_COUNT);
    host_write(h, XHCI_CONFIG, 8);
    host_write(h, XHCI_DCBAAP, 0x1000);
    host_write(h, XHCI_DCBAAP + 4, 0);
    host_write(h, XHCI_CRCR, HOST_COMMANDS | 1);
    host_write(h, XHCI_CRCR + 4, 0);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERSTSZ, 1);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERDP, HOST_EVENTS);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERDP + 4, 0);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERSTBA, 0x2f00);
    host_write(h, XHCI_INTERRUPTER + XHCI_ERSTBA + 4, 0);
    host_write(h, XHCI_INTERRUPTER + XHCI_IMAN, 2);
    host_write(h, XHCI_USBCMD, 5);
}

void host_put(struct host *h, struct host_ring *r, uint64_t parameter, uint32_t status,
              uint32_t control)
{
    gpa at = r->base + 16 * r->at++;

    put64(h, at, parameter);
    mmio_write(h->m, at + 8, status, 4);
    mmio_write(h->m, at + 12, control | r->cycle, 4);
    if (r->at == 63) { /* a link back */
        put64(h, r->base + 63 * 16, r->base);
        mmio_write(h->m, r->base + 63 * 16 + 12, TRB_LINK << 10 | 2 | r->cycle, 4);
        r->at = 0;
        r->cycle ^= 1;
    }
}

bool host_event(struct host *h, struct host_event *e)
{
    gpa at = HOST_EVENTS + 16 * h->event_at;

    e->parameter = mmio_read(h->m, at, 8);
    e->status = (uint32_t)mmio_read(h->m, at + 8, 4);
    e->control = (uint32_t)mmio_read(h->m, at + 12, 4);
    if ((e->control & 1) != h->event_cycle)
        return false;
    h->event_at = (h->event_at + 1) % HOST_EVENT_COUNT;
    h->event_cycle ^= !h->event_at;
    host_write(h, XHCI_INTERRUPTER + XHCI_ERDP, (HOST_EVENTS + 16 * h->event_at) | 8);
    return true;
}

unsigned host_code(const struct host_event *e)
{
    return e->status >> 24;
}

static unsigned event_type(const struct host_event *e)
{
    return e->control >> 10 & 63;
}

unsigned host_command(struct host *h, uint64_t parameter, uint32_t control, unsigned *slot)
{
    gpa at = h->commands.base + 16 * h->commands.at;
    struct host_event e;

    host_put(h, &h->commands, parameter, 0, control);
    host_write(h, XHCI_DOORBELL, 0);
    do /* a stopped endpoint may have told before */
        assert_true(host_event(h, &e));
    while (event_type(&e) != TRB_COMMAND_EVENT);
    assert_int_equal(e.parameter, at);
    if (slot)
        *slot = e.control >> 24;
    return host_code(&e);
}

void host_enumerate(struct host *h, unsigned port)
{
    unsigned reg = XHCI_PORTSC + 16 * (port - 1), slot;
    struct host_event e;
    gpa in = HOST_INPUT;

    host_write(h, reg, 1 << 4 | 1 << 9);
    while (host_event(h, &e))
        assert_int_equal(event_type(&e), TRB_PORT_EVENT);
    assert_int_equal(host_read(h, reg) & 3, 3);
    assert_int_equal(host_command(h, 0, TRB_ENABLE_SLOT << 10, &slot), CODE_SUCCESS);
    assert_int_equal(slot, 1);
    h->endpoint[1] = (struct host_ring){0x6000, 0, 1};
    dma_fill(h->m->memory, in, 0, 0x420);
    mmio_write(h->m, in + 4, 3, 4);
    mmio_write(h->m, in + 32, 1u << 27, 4);
    mmio_write(h->m, in + 36, port << 16, 4);
    mmio_write(h->m, in + 64 + 4, 4 << 3 | 64 << 16, 4);
    put64(h, in + 64 + 8, 0x6000 | 1);
    assert_int_equal(host_command(h, in, TRB_ADDRESS_DEVICE << 10 | 1u << 24, NULL), CODE_SUCCESS);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 12, 4), 2u << 27 | 1);
    assert_int_equal(mmio_read(h->m, HOST_CONTEXT + 32, 4) & 7, 1);
}

unsigned host_configure(struct host *h, unsigned id, unsigned type, unsigned packet)
{
    gpa in = HOST_INPUT, base = 0x6000 + 0x400 * id;

    h->endpoint[id] = (struct host_ring){base, 0, 1};
    dma_fill(h->m->memory, in, 0, 0x420);
    mmio_write(h->m, in + 4, 1 | 1u << id, 4);
    mmio_write(h->m, in + 32, id << 27, 4);
    mmio_write(h->m, in + 32 * (id + 1) + 4, type << 3 | packet << 16, 4);
    put64(h, in + 32 * (id + 1) + 8, base | 1);
    return host_command(h, in, TRB_CONFIGURE_ENDPOINT << 10 | 1u << 24, NULL);
}

unsigned host_control(struct host *h, uint8_t type, uint8_t request, uint16_t value, uint16_t index,
                      uint16_t length, uint32_t *moved)
{
    struct host_ring *r = &h->endpoint[1];
    bool in = type & 0x80;
    struct host_event e;
    unsigned code = CODE_SUCCESS;

    host_put(h, r,
             type | request << 8 | (uint64_t)value << 16 | (uint64_t)index << 32 |
                 (uint64_t)length << 48,
             8, TRB_SETUP << 10 | 1 << 6 | (length ? (in ? 3u : 2u) << 16 : 0));
    if (length)
        host_put(h, r, HOST_DATA, length, TRB_DATA << 10 | 1 << 2 | (in ? 1u << 16 : 0));
    host_put(h, r, 0, 0, TRB_STATUS << 10 | 1 << 5 | (in && length ? 0 : 1u << 16));
    host_write(h, XHCI_DOORBELL + 4, 1);
    if (moved)
        *moved = length;
    while (host_event(h, &e)) {
        assert_int_equal(event_type(&e), TRB_TRANSFER_EVENT);
        assert_int_equal(e.control >> 16 & 31, 1);
        if (host_code(&e) == CODE_SHORT && moved)
            *moved = length - (e.status & 0xffffff);
        else if (host_code(&e) != CODE_SHORT)
            code = host_code(&e);
    }
    return code;
}

void host_submit(struct host *h, unsigned id, gpa data, uint32_t length)
{
    host_put(h, &h->endpoint[id], data, length, TRB_NORMAL << 10 | 1 << 5 | 1 << 2);
    host_write(h, XHCI_DOORBELL + 4, id);
}
