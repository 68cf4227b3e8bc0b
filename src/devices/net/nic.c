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

static uint32_t sum_be(const uint8_t *p, size_t size, uint32_t sum)
{
    for (size_t i = 0; i + 1 < size; i += 2)
        sum += (uint32_t)p[i] << 8 | p[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void put_be(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

struct net_offload nic_offload(uint8_t *frame, size_t size, bool ip, bool transport,
                               unsigned segment)
{
    enum { IP = NET_HEADER, TCP = 6, UDP = 17 };
    struct net_offload o = {0};
    size_t header, total, sum_at;
    uint8_t protocol;

    if (size < IP + 20 || frame[12] != 8 || frame[13] != 0 || frame[IP] >> 4 != 4)
        return o;
    header = (frame[IP] & 15) * 4u;
    total = segment ? size - IP : (size_t)(frame[IP + 2] << 8 | frame[IP + 3]);
    protocol = frame[IP + 9];
    if (header < 20 || total < header || total > size - IP)
        return o;
    if (segment)
        put_be(frame + IP + 2, (uint32_t)MIN(total, (size_t)0xffff));
    if (ip || segment) {
        put_be(frame + IP + 10, 0);
        put_be(frame + IP + 10, ~sum_be(frame + IP, header, 0));
    }
    sum_at = IP + header + (protocol == TCP ? 16 : 6);
    if (!(transport || segment) || (protocol != TCP && protocol != UDP) || sum_at + 2 > IP + total)
        return o;
    put_be(frame + sum_at, sum_be(frame + IP + 12, 8, protocol + (uint32_t)(total - header)));
    o = (struct net_offload){.flags = NET_NEEDS_CSUM,
                             .csum_start = (uint16_t)(IP + header),
                             .csum_offset = protocol == TCP ? 16 : 6};
    if (segment) {
        o.gso = protocol == TCP ? NET_GSO_TCPV4 : NET_GSO_UDP_L4;
        o.segment = (uint16_t)segment;
    }
    return o;
}
