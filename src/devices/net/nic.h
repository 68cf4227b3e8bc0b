/*
 * nic.h - what every network card has: a cable and an address.
 *
 * A card embeds struct nic, lists NIC_PROPERTIES among its properties and calls nic_open() in
 * realize and nic_close() in unrealize.
 */
#ifndef DEVICES_NET_NIC_H
#define DEVICES_NET_NIC_H

#include "machine/device.h"
#include "net/net.h"

struct nic {
    char *mac_text;  /* properties: this and net */
    struct net *net; /* NULL: no cable */
    uint8_t mac[NET_MAC];
};

#define NIC_PROPERTIES(type, field)                                                                \
    PROPERTY_REF("netdev", type, field.net, "the network it is connected to"),                     \
        PROPERTY_STRING("mac", type, field.mac_text, NULL,                                         \
                        "its address, as in 52:54:00:12:34:56 (default: made from the machine's "  \
                        "name and the device's)")

/* Sets `mac` and attaches; hooks are called with the device's lock. `writable` and `link` may be
 * NULL. */
int nic_open(struct device *dev, struct nic *nic,
             bool (*receive)(void *opaque, const struct net_packet *p),
             void (*writable)(void *opaque), void (*link)(void *opaque, bool up),
             struct error *err);
void nic_close(struct nic *nic);

static inline bool nic_link(const struct nic *nic)
{
    return nic->net && net_link(nic->net);
}

/* What a receiver's filter needs. */
static inline bool nic_is_broadcast(const uint8_t *frame)
{
    return !memcmp(frame, "\xff\xff\xff\xff\xff\xff", NET_MAC);
}
/* The CRC-32 of Ethernet over an address, as cards hash multicast addresses: bits in the order in
 * which they are sent (`reflected`) or not. */
uint32_t nic_crc(const uint8_t *data, size_t size, bool reflected);

/* For cards that look into frames themselves: an IPv4 frame of TCP or UDP, whose IP checksum and
 * (`transport`) whose TCP or UDP checksum are wanted, and with `segment` to be cut behind so many
 * bytes of payload. What is no such frame is left as it is. */
struct net_offload nic_offload(uint8_t *frame, size_t size, bool ip, bool transport,
                               unsigned segment);

#endif
