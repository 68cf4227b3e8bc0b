/*
 * offload.c - the work a sender left to others, done in software: checksums and segments.
 *
 * The header that asks for it comes from a guest: nothing in it is believed beyond what
 * net_offload_valid() and the frame itself say. A frame that is not what its header claims (no TCP
 * where segments of TCP are asked for) is dropped.
 */
#include "net/internal.h"

#include <stdlib.h>

enum {
    ETHER_IPV4 = 0x0800,
    ETHER_IPV6 = 0x86dd,
    ETHER_VLAN = 0x8100,
    ETHER_QINQ = 0x88a8,
    IP_TCP = 6,
    IP_UDP = 17,
    TCP_FIN_PSH = 0x09,
    TCP_CWR = 0x80,
};

/* What a guest may make of one large frame is bounded: so many headers, of so many bytes. */
enum { SEGMENT_MIN = 32, HEADERS_MAX = 512 };

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* Sums 32-bit words in memory order: the one's complement sum does not mind (RFC 1071). A further
 * piece may follow only one of even length. */
uint64_t net_sum(const void *data, size_t size, uint64_t sum)
{
    const uint8_t *p = data;

    for (; size >= 4; p += 4, size -= 4)
        sum += (uint32_t)load_le(p, 4);
    if (size >= 2) {
        sum += (uint16_t)load_le(p, 2);
        p += 2;
        size -= 2;
    }
    if (size)
        sum += *p;
    return sum;
}

uint16_t net_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum; /* in memory order: stored as it is */
}

void net_finish_csum(uint8_t *frame, size_t size, const struct net_offload *o)
{
    /* The field holds the pseudo header's sum: it is part of what is summed. Zero would mean “no
     * checksum” for UDP. */
    uint16_t sum = net_fold(net_sum(frame + o->csum_start, size - o->csum_start, 0));

    store_le(frame + o->csum_start + o->csum_offset, sum ? sum : 0xffff, 2);
}

bool net_offload_valid(const struct net_packet *p)
{
    const struct net_offload *o = &p->offload;

    if (o->flags & NET_NEEDS_CSUM &&
        !range_within((uint64_t)o->csum_start + o->csum_offset, 2, p->size))
        return false;
    switch (o->gso & ~NET_GSO_ECN) {
    case NET_GSO_NONE: return true;
    case NET_GSO_TCPV4:
    case NET_GSO_TCPV6:
    case NET_GSO_UDP_L4: return o->segment >= SEGMENT_MIN && o->flags & NET_NEEDS_CSUM;
    default: return false;
    }
}

unsigned net_offload_needs(const struct net_offload *o)
{
    unsigned needs = o->flags & NET_NEEDS_CSUM ? NET_CSUM : 0;

    switch (o->gso & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4: needs |= NET_TSO4; break;
    case NET_GSO_TCPV6: needs |= NET_TSO6; break;
    case NET_GSO_UDP_L4: needs |= NET_USO; break;
    default: break;
    }
    if (o->gso & NET_GSO_ECN)
        needs |= NET_ECN;
    return needs;
}

size_t net_flatten(const struct net_packet *p, uint8_t *to, size_t room)
{
    size_t used = 0;

    for (unsigned i = 0; i < p->count; i++) {
        size_t n = MIN(p->iov[i].iov_len, room - used);

        memcpy(to + used, p->iov[i].iov_base, n);
        used += n;
    }
    return used;
}

struct layers {
    size_t ip, transport, payload; /* offsets */
    bool v6, tcp;
};

/* Where the layers of a frame to be segmented start; false where it is not what its header says. */
static bool find_layers(const uint8_t *f, size_t size, const struct net_offload *o,
                        struct layers *out)
{
    unsigned gso = o->gso & ~NET_GSO_ECN, type, ip_length, protocol, header;
    size_t at = NET_HEADER;
    struct layers l;

    type = get16(f + 12);
    for (int tags = 0; tags < 2 && (type == ETHER_VLAN || type == ETHER_QINQ); tags++) {
        if (size < at + 4)
            return false;
        type = get16(f + at + 2);
        at += 4;
    }
    l.ip = at;
    l.v6 = type == ETHER_IPV6;
    l.tcp = gso != NET_GSO_UDP_L4;
    if ((type != ETHER_IPV4 && type != ETHER_IPV6) || size < at + (l.v6 ? 40 : 20) ||
        f[at] >> 4 != (l.v6 ? 6 : 4))
        return false;
    if ((gso == NET_GSO_TCPV4 && l.v6) || (gso == NET_GSO_TCPV6 && !l.v6))
        return false;
    ip_length = l.v6 ? 40 : (f[at] & 15) * 4u;
    l.transport = o->csum_start;
    /* IPv6 may have extension headers between: believe csum_start, they are copied as they are. */
    if (l.v6 ? l.transport < at + 40 : ip_length < 20 || l.transport != at + ip_length)
        return false;
    protocol = l.v6 ? (l.transport == at + 40 ? f[at + 6] : l.tcp ? IP_TCP : IP_UDP) : f[at + 9];
    if (protocol != (l.tcp ? IP_TCP : IP_UDP) || size < l.transport + (l.tcp ? 20 : 8) ||
        o->csum_offset != (l.tcp ? 16 : 6))
        return false;
    header = l.tcp ? (f[l.transport + 12] >> 4) * 4u : 8;
    if (header < (l.tcp ? 20u : 8u) || size < l.transport + header)
        return false;
    l.payload = l.transport + header;
    if (l.payload > HEADERS_MAX)
        return false;
    *out = l;
    return true;
}

static uint16_t pseudo_sum(const uint8_t *f, const struct layers *l, size_t length)
{
    uint8_t tail[4] = {0, l->tcp ? IP_TCP : IP_UDP, (uint8_t)(length >> 8), (uint8_t)length};
    uint64_t sum = net_sum(tail, sizeof(tail), 0);

    sum = l->v6 ? net_sum(f + l->ip + 8, 32, sum) : net_sum(f + l->ip + 12, 8, sum);
    return (uint16_t)~net_fold(sum);
}

static void segments(const uint8_t *frame, size_t size, const struct net_offload *o,
                     const struct layers *l, unsigned accepts,
                     void (*emit)(void *opaque, const struct net_packet *p), void *opaque)
{
    size_t payload = size - l->payload, done = 0;
    uint32_t sequence = l->tcp ? get32(frame + l->transport + 4) : 0;
    unsigned id = get16(frame + l->ip + 4); /* IPv4's */
    uint8_t *f = malloc(l->payload + MIN((size_t)o->segment, payload));

    if (!f)
        return;
    do {
        size_t n = MIN((size_t)o->segment, payload - done), length = l->payload + n;
        struct iovec iov = {f, length};
        struct net_packet p = {.iov = &iov, .count = 1, .size = length};

        memcpy(f, frame, l->payload);
        memcpy(f + l->payload, frame + l->payload + done, n);
        if (l->v6) {
            put16(f + l->ip + 4, (unsigned)(length - l->ip - 40));
        } else {
            put16(f + l->ip + 2, (unsigned)(length - l->ip));
            put16(f + l->ip + 4, id++);
            store_le(f + l->ip + 10, 0, 2);
            store_le(f + l->ip + 10, net_fold(net_sum(f + l->ip, l->transport - l->ip, 0)), 2);
        }
        if (l->tcp) {
            put32(f + l->transport + 4, sequence + (uint32_t)done);
            if (done + n < payload)
                f[l->transport + 13] &= (uint8_t)~TCP_FIN_PSH;
            if (done)
                f[l->transport + 13] &= (uint8_t)~TCP_CWR;
        } else {
            put16(f + l->transport + 4, (unsigned)(length - l->transport));
        }
        store_le(f + l->transport + o->csum_offset, pseudo_sum(f, l, length - l->transport), 2);
        p.offload = (struct net_offload){
            .flags = NET_NEEDS_CSUM, .csum_start = o->csum_start, .csum_offset = o->csum_offset};
        if (!(accepts & NET_CSUM)) {
            net_finish_csum(f, length, &p.offload);
            p.offload = (struct net_offload){.flags = NET_DATA_VALID};
        }
        emit(opaque, &p);
        done += n;
    } while (done < payload);
    free(f);
}

void net_complete(const struct net_packet *p, unsigned accepts,
                  void (*emit)(void *opaque, const struct net_packet *p), void *opaque)
{
    uint8_t *frame = malloc(p->size);
    size_t size;
    struct layers l;

    if (!frame)
        return;
    size = net_flatten(p, frame, p->size);
    if (p->offload.gso != NET_GSO_NONE) {
        if (find_layers(frame, size, &p->offload, &l))
            segments(frame, size, &p->offload, &l, accepts, emit, opaque);
    } else {
        struct iovec iov = {frame, size};
        struct net_packet whole = {.iov = &iov, .count = 1, .size = size, .offload = p->offload};

        if (p->offload.flags & NET_NEEDS_CSUM && !(accepts & NET_CSUM)) {
            net_finish_csum(frame, size, &p->offload);
            whole.offload = (struct net_offload){.flags = NET_DATA_VALID};
        }
        emit(opaque, &whole);
    }
    free(frame);
}
