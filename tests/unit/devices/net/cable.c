/* cable.c - see cable.h. */
#include "support/unit.h"

#include "cable.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void take_message(void *opaque, gpa address, uint32_t data)
{
    struct cable *c = opaque;

    c->messages++;
    c->message_address = address;
    c->message_data = data;
}

int cable_setup(void **state, const struct device_type *type)
{
    struct cable *c = xcalloc(1, sizeof(*c));
    struct error err = {0};
    struct device *dev;
    void *machine;
    int sock[2];

    if (test_machine_setup(&machine) < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, sock) < 0)
        return -1;
    *state = c;
    c->m = machine;
    c->m->msi = take_message;
    c->m->msi_opaque = c;
    c->fd = sock[0];
    c->host = pci_host_add(c->m, "pci.0", &err);
    pci_host_wire(c->host, 3, 0, 0);
    pci_host_route_gsi(c->host, 0, CABLE_GSI);
    {
        auto_free char *spec = xasprintf("dgram,local.type=fd,local.str=%d", sock[1]);

        if (net_open(spec, &c->net, &err) < 0)
            return -1;
    }
    dev = device_new(c->m, type, NULL);
    c->backend = (struct machine_backend){"netdev", "cable", c->net};
    c->m->config.backends = &c->backend;
    c->m->config.backend_count = 1;
    if (device_set(dev, "netdev", "cable", &err) < 0 || device_set(dev, "addr", "3", &err) < 0 ||
        device_set(dev, "mac", "52:54:00:11:22:33", &err) < 0 || device_realize(dev, &err) < 0)
        return -1;
    c->card = to_pci(dev);
    for (unsigned bar = 0; bar < 6; bar++) {
        bool io = c->card->bar[bar].kind == PCI_BAR_IO;

        cable_set_config(c, PCI_BAR0 + 4 * bar,
                         bar == 3 ? CABLE_MSIX
                         : io     ? CABLE_PORTS + 0x100 * bar
                                  : CABLE_MEMORY + 0x200000 * bar,
                         4);
    }
    cable_set_config(c, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    return 0;
}

int cable_teardown(void **state)
{
    struct cable *c = *state;
    void *machine = c->m;

    machine_free_devices(c->m);
    net_free(c->net);
    close(c->fd);
    free(c);
    return test_machine_teardown(&machine);
}

uint32_t cable_config(struct cable *c, unsigned offset, unsigned size)
{
    return pci_config_read(c->host, 0, 3 << 3, offset, size);
}

void cable_set_config(struct cable *c, unsigned offset, uint32_t value, unsigned size)
{
    pci_config_write(c->host, 0, 3 << 3, offset, value, size);
}

void cable_send(struct cable *c, const void *frame, size_t size)
{
    assert_int_equal(send(c->fd, frame, size, 0), size);
}

static size_t receive_within(struct cable *c, void *frame, size_t room, int msec)
{
    struct pollfd p = {c->fd, POLLIN, 0};
    ssize_t n;

    if (poll(&p, 1, msec) != 1)
        return 0;
    n = recv(c->fd, frame, room, 0);
    return n < 0 ? 0 : (size_t)n;
}

size_t cable_receive(struct cable *c, void *frame, size_t room)
{
    return receive_within(c, frame, room, 1000);
}

bool cable_quiet(struct cable *c)
{
    uint8_t byte;

    return !receive_within(c, &byte, 1, 20);
}

bool cable_wait(struct cable *c, gpa address, uint8_t bits)
{
    for (int i = 0; i < 5000; i++) {
        bool there;

        /* The card's thread writes with the card's lock. */
        pthread_mutex_lock(&c->card->dev.lock);
        there = (mmio_read(c->m, address, 1) & bits) == bits;
        pthread_mutex_unlock(&c->card->dev.lock);
        if (there)
            return true;
        usleep(200);
    }
    return false;
}

void ram_write(struct cable *c, gpa address, const void *data, size_t size)
{
    assert_int_equal(dma_write(c->m->memory, address, data, size), 0);
}

void ram_read(struct cable *c, gpa address, void *data, size_t size)
{
    pthread_mutex_lock(&c->card->dev.lock);
    assert_int_equal(dma_read(c->m->memory, address, data, size), 0);
    pthread_mutex_unlock(&c->card->dev.lock);
}
