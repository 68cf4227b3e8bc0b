/* nic.c - see nic.h. */
#include "devices/net/nic.h"

#include "machine/machine.h"

#include <stdlib.h>

int nic_open(struct device *dev, struct nic *nic,
             bool (*receive)(void *opaque, const struct net_packet *p),
             void (*writable)(void *opaque), void (*link)(void *opaque, bool up), struct error *err)
{
    struct net_client client = {
        .opaque = dev, .lock = &dev->lock, .receive = receive, .writable = writable, .link = link};
    int r = 0;

    if (nic->mac_text) {
        r = net_mac_parse(nic->mac_text, nic->mac, err);
    } else {
        const char *name = dev->machine->config.name;
        auto_free char *identity = xasprintf("%s/%s", name ? name : "hospes", dev->id);

        net_mac_of(identity, 0, nic->mac);
    }
    if (!r && nic->net)
        r = net_attach(nic->net, &client, err);
    if (r < 0) {
        nic->net = NULL; /* not ours to detach */
        return error_prefix(err, r, "%s: ", dev->id);
    }
    return 0;
}

void nic_close(struct nic *nic)
{
    if (nic->net)
        net_attach(nic->net, NULL, NULL);
}

uint32_t nic_crc(const uint8_t *data, size_t size, bool reflected)
{
    uint32_t crc = ~UINT32_C(0);

    for (size_t i = 0; i < size; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            unsigned in = data[i] >> bit & 1;

            if (reflected)
                crc = crc >> 1 ^ ((crc ^ in) & 1 ? 0xedb88320 : 0);
            else
                crc = crc << 1 ^ ((crc >> 31 ^ in) & 1 ? 0x04c11db7 : 0);
        }
    return crc;
}
