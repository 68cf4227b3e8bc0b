/*
 * fuzz_net.c - frames with any virtio-net header, for the software that completes them; and specs
 * of networks. The input: what is accepted, the header's fields, the frame.
 */
#include "fuzz.h"

#include "net/internal.h"

#include <stdlib.h>

enum { FIELDS = 12 };

struct emitted {
    size_t bytes;
    unsigned accepts;
};

static void emit(void *opaque, const struct net_packet *p)
{
    struct emitted *e = opaque;

    if (p->size < NET_HEADER || p->size > NET_FRAME_MAX || p->count != 1 ||
        p->iov[0].iov_len != p->size || !net_offload_valid(p) ||
        net_offload_needs(&p->offload) & ~e->accepts)
        abort();
    e->bytes += p->size;
}

/* A frame of TCP or UDP, over either IP, perhaps tagged, as large as a guest may send. */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    bool v6 = fuzz_random() & 1, udp = fuzz_random() & 1, tag = fuzz_random() % 4 == 0;
    size_t ip = FIELDS + 14 + (tag ? 4 : 0), l4 = ip + (v6 ? 40 : 20), size;

    size = l4 + fuzz_random() % (fuzz_random() & 1 ? 100 : 20000);
    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    to[0] &= 0x1f;
    to[1] = 1;
    to[2] = (uint8_t)(udp ? NET_GSO_UDP_L4 : v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4);
    store_le(to + 4, 30 + fuzz_random() % 2000, 2);
    store_le(to + 6, l4 - FIELDS, 2);
    store_le(to + 8, udp ? 6 : 16, 2);
    memcpy(to + FIELDS + 12, tag ? "\x81\x00\x00\x05" : "\x08\x00", tag ? 4 : 2);
    memcpy(to + ip - 2, v6 ? "\x86\xdd" : "\x08\x00", 2);
    to[ip] = v6 ? 0x60 : 0x45;
    to[ip + (v6 ? 6 : 9)] = udp ? 17 : 6;
    if (l4 + 13 < size)
        to[l4 + 12] = 0x50;
    for (unsigned n = (unsigned)(fuzz_random() % 4); n > 0; n--)
        to[fuzz_random() % MIN(size, (size_t)80)] = (uint8_t)fuzz_random();
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct net_options o;
    struct net_packet p = {.count = 1};
    struct emitted e = {0};
    struct iovec iov;

    if (size < FIELDS + NET_HEADER || size - FIELDS > NET_FRAME_MAX)
        return 0;
    {
        auto_free char *spec = xcalloc(1, size + 1);

        memcpy(spec, data, size);
        if (!net_options_parse(&o, spec, NULL))
            net_options_free(&o);
    }
    p.offload = (struct net_offload){data[1],
                                     data[2],
                                     data[3],
                                     (uint16_t)load_le(data + 4, 2),
                                     (uint16_t)load_le(data + 6, 2),
                                     (uint16_t)load_le(data + 8, 2)};
    iov = (struct iovec){(void *)(uintptr_t)(data + FIELDS), size - FIELDS};
    p.iov = &iov;
    p.size = iov.iov_len;
    if (!net_offload_valid(&p))
        return 0;
    e.accepts = data[0] & 1 ? data[0] & 0x1f : 0;
    if (net_offload_needs(&p.offload) & ~e.accepts)
        net_complete(&p, e.accepts, emit, &e);
    /* Headers of 512 bytes before each 32 of payload are the most. */
    if (e.bytes > NET_FRAME_MAX + (size_t)512 * (NET_FRAME_MAX / 32 + 1))
        abort();
    return 0;
}
