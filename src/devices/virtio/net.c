/*
 * net.c - virtio-net: a network card that leaves checksums and segments to others. virtio 1.2,
 * section 5.1.
 *
 * Frames from the guest are copied out of its memory once and handed to the cable; what the cable
 * does not take stays in the ring until there is room. Frames to the guest are written into as many
 * buffers as it takes (mergeable buffers), on the back end's thread; with no buffers the back end
 * waits for a kick.
 *
 * With several pairs of queues a flow is received where the guest last sent it. All but the
 * registers is under io_lock; the control queue changes the filters.
 */
#include "devices/devices.h"
#include "devices/net/nic.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "machine/machine.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <stdlib.h>

enum { MAX_PAIRS = 8, CTRL_QUEUE_SIZE = 64, MAC_TABLE = 64, FLOWS = 256, RX_BUFFERS = 1024 };
enum { HEADER_PLAIN = 10, HEADER_MERGEABLE = 12, CONFIG_SIZE = 12, VLANS = 4096 };
enum { PROMISC = 1, ALLMULTI = 2, ALLUNI = 4, NOMULTI = 8, NOUNI = 16, NOBCAST = 32 };

struct virtio_nic {
    struct virtio_device v;
    struct nic nic;
    /* properties */
    uint16_t pairs, rx_size, tx_size, host_mtu;
    uint32_t bootindex;
    bool csum, guest_csum, gso, guest_gso, mergeable, status, ctrl_vq, ctrl_rx, ctrl_vlan, ctrl_mac;

    /* Saved; io_lock. */
    uint8_t mac[NET_MAC]; /* the guest may choose another than the card's own */
    uint8_t rx_mode;      /* PROMISC ... */
    uint16_t used_pairs;
    uint64_t offloads; /* of GUEST_* features, those that are on */
    uint8_t unicast[MAC_TABLE][NET_MAC], multicast[MAC_TABLE][NET_MAC];
    uint16_t unicasts, multicasts; /* more than MAC_TABLE: all are taken */
    uint64_t vlan[VLANS / 64];

    bool restored;       /* start() comes after a restore */
    uint8_t flow[FLOWS]; /* where each was sent last */
    uint8_t frame[NET_FRAME_MAX];
    struct virtio_element *chain[RX_BUFFERS];
    size_t written[RX_BUFFERS];
};

static struct virtio_nic *to_vnic(struct virtio_device *v)
{
    return container_of(v, struct virtio_nic, v);
}

static bool has_num_buffers(const struct virtio_nic *n)
{
    return virtio_has(&n->v, VIRTIO_F_VERSION_1) || virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF);
}

static size_t header_size(const struct virtio_nic *n)
{
    return has_num_buffers(n) ? HEADER_MERGEABLE : HEADER_PLAIN;
}

/* ---- flows -------------------------------------------------------------------------------------
 */

/* The same for both directions; of what is no IP all is one flow. */
static unsigned flow_of(const uint8_t *f, size_t size)
{
    size_t ip = ETH_HLEN, ports;
    uint32_t hash = 0;
    unsigned type;

    if (size < ETH_HLEN + 4)
        return 0;
    type = (unsigned)f[12] << 8 | f[13];
    if (type == ETH_P_8021Q) {
        type = (unsigned)f[16] << 8 | f[17];
        ip += 4;
    }
    if (type == ETH_P_IP && size >= ip + 20) {
        for (unsigned i = 0; i < 8; i += 4)
            hash ^= (uint32_t)load_le(f + ip + 12 + i, 4);
        ports = ip + 4u * (f[ip] & 15u);
        if ((f[ip + 9] != 6 && f[ip + 9] != 17) || f[ip + 6] & 0x3f || f[ip + 7])
            ports = size;
    } else if (type == ETH_P_IPV6 && size >= ip + 40) {
        for (unsigned i = 0; i < 32; i += 4)
            hash ^= (uint32_t)load_le(f + ip + 8 + i, 4);
        ports = f[ip + 6] == 6 || f[ip + 6] == 17 ? ip + 40 : size;
    } else {
        return 0;
    }
    if (size >= ports + 4)
        hash ^= (uint32_t)(load_le(f + ports, 2) ^ load_le(f + ports + 2, 2));
    hash ^= hash >> 16;
    return (hash ^ hash >> 8) % FLOWS;
}

/* ---- to the cable ------------------------------------------------------------------------------
 */

static struct net_offload read_offload(const struct virtio_nic *n, const uint8_t *h)
{
    struct net_offload o = {.flags = h[0] & NET_NEEDS_CSUM,
                            .gso = h[1],
                            .header = (uint16_t)load_le(h + 2, 2),
                            .segment = (uint16_t)load_le(h + 4, 2),
                            .csum_start = (uint16_t)load_le(h + 6, 2),
                            .csum_offset = (uint16_t)load_le(h + 8, 2)};

    return o;
}

/* False: the cable takes nothing now. */
static bool send_chain(struct virtio_nic *n, struct virtio_element *e, unsigned pair)
{
    size_t skip = header_size(n), size;
    uint8_t header[HEADER_MERGEABLE];
    struct net_packet p = {.iov = &(struct iovec){n->frame, 0}, .count = 1};

    if (iov_read(e->out, e->out_count, 0, header, skip) != skip) {
        virtio_break(&n->v, "a frame of %zu bytes with its header", e->out_size);
        return true;
    }
    size = e->out_size - skip;
    if (!n->nic.net || size < NET_HEADER || size > NET_FRAME_MAX)
        return true; /* lost */
    iov_read(e->out, e->out_count, skip, n->frame, size);
    n->flow[flow_of(n->frame, size)] = (uint8_t)pair;
    p.offload = read_offload(n, header);
    p.size = size;
    p.iov = &(struct iovec){n->frame, size};
    return net_send(n->nic.net, &p);
}

static void send_frames(struct virtio_nic *n, struct virtio_queue *q)
{
    virtqueue_want_kicks(q, false);
    for (unsigned i = 0; i < q->num; i++) {
        struct virtio_element *e = virtqueue_pop(q);

        if (!e) {
            virtqueue_want_kicks(q, true);
            e = virtqueue_pop(q);
            if (!e)
                return;
            virtqueue_want_kicks(q, false);
        }
        if (!send_chain(n, e, q->number / 2)) {
            virtqueue_unpop(q, e); /* writable() will kick */
            return;
        }
        virtqueue_push(q, e, 0);
    }
    virtio_kick(&n->v, q->number);
}

static void nic_writable(void *opaque)
{
    struct virtio_nic *n = opaque;

    for (unsigned i = 0; i < n->pairs; i++)
        virtio_kick(&n->v, 2 * i + 1);
}

/* ---- from the cable ----------------------------------------------------------------------------
 */

static bool in_table(const uint8_t (*table)[NET_MAC], unsigned count, const uint8_t *mac)
{
    if (count > MAC_TABLE)
        return true;
    for (unsigned i = 0; i < count; i++)
        if (!memcmp(table[i], mac, NET_MAC))
            return true;
    return false;
}

static bool is_for_us(const struct virtio_nic *n, const uint8_t *f)
{
    if (n->rx_mode & PROMISC)
        return true;
    if (f[12] == 0x81 && f[13] == 0 && virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN)) {
        unsigned id = ((unsigned)f[14] << 8 | f[15]) % VLANS;

        if (!(n->vlan[id / 64] & BIT(id % 64)))
            return false;
    }
    if (nic_is_broadcast(f))
        return !(n->rx_mode & NOBCAST);
    if (f[0] & 1)
        return !(n->rx_mode & NOMULTI) &&
               (n->rx_mode & ALLMULTI || in_table(n->multicast, n->multicasts, f));
    return !(n->rx_mode & NOUNI) && (n->rx_mode & ALLUNI || !memcmp(f, n->mac, NET_MAC) ||
                                     in_table(n->unicast, n->unicasts, f));
}

static struct virtio_queue *receive_queue(struct virtio_nic *n, size_t size)
{
    unsigned pair = n->used_pairs > 1 ? n->flow[flow_of(n->frame, size)] : 0;

    return &n->v.queue[2 * (pair < n->used_pairs ? pair : 0)];
}

/* Buffers for `size` bytes in chain[]; their number. 0: there are not enough; -1: they never will
 * be. */
static int collect_buffers(struct virtio_nic *n, struct virtio_queue *q, size_t size)
{
    bool mergeable = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF);
    unsigned count = 0;
    size_t room = 0;

    while (room < size && count < RX_BUFFERS) {
        struct virtio_element *e = virtqueue_pop(q);

        if (!e || (!mergeable && e->in_size < size)) {
            bool small = e != NULL;

            if (e)
                virtqueue_unpop(q, e);
            while (count)
                virtqueue_unpop(q, n->chain[--count]);
            return small ? -1 : 0;
        }
        n->chain[count++] = e;
        room += e->in_size;
    }
    return (int)count;
}

static void fill_buffers(struct virtio_nic *n, struct virtio_queue *q, unsigned count,
                         const struct net_packet *p)
{
    size_t head = header_size(n), done = 0;
    uint8_t header[HEADER_MERGEABLE] = {p->offload.flags, p->offload.gso};

    store_le(header + 2, p->offload.header, 2);
    store_le(header + 4, p->offload.segment, 2);
    store_le(header + 6, p->offload.csum_start, 2);
    store_le(header + 8, p->offload.csum_offset, 2);
    store_le(header + 10, count, 2);
    for (unsigned i = 0; i < count; i++) {
        const struct virtio_element *e = n->chain[i];
        size_t at = i ? 0 : iov_write(e->in, e->in_count, 0, header, head);
        size_t part = MIN(p->size - done, e->in_size - at);

        iov_write(e->in, e->in_count, at, n->frame + done, part);
        n->written[i] = at + part;
        done += part;
    }
    virtqueue_push_many(q, n->chain, n->written, count);
}

/* Work left undone that the guest did not offer to do. */
static bool offload_good(const struct virtio_nic *n, const struct net_offload *o)
{
    unsigned gso = o->gso & (unsigned)~NET_GSO_ECN;

    if (o->flags & NET_NEEDS_CSUM && !(n->offloads & BIT(VIRTIO_NET_F_GUEST_CSUM)))
        return false;
    if (gso == NET_GSO_TCPV4)
        return n->offloads & BIT(VIRTIO_NET_F_GUEST_TSO4);
    if (gso == NET_GSO_TCPV6)
        return n->offloads & BIT(VIRTIO_NET_F_GUEST_TSO6);
    return gso == NET_GSO_NONE;
}

static bool take_frame(struct virtio_nic *n, const struct net_packet *p)
{
    struct virtio_queue *q;
    int count;

    if (!virtio_io_live(&n->v) || p->size > NET_FRAME_MAX || !offload_good(n, &p->offload))
        return true; /* nobody is there: lost, as on a cable */
    iov_read(p->iov, p->count, 0, n->frame, p->size);
    if (p->size < NET_HEADER || !is_for_us(n, n->frame))
        return true;
    q = receive_queue(n, p->size);
    if (!virtqueue_ready(q))
        return true;
    count = collect_buffers(n, q, header_size(n) + p->size);
    if (!count) {
        virtqueue_want_kicks(q, true);
        count = collect_buffers(n, q, header_size(n) + p->size);
        if (!count)
            return false;
    }
    if (count > 0) {
        virtqueue_want_kicks(q, false);
        fill_buffers(n, q, (unsigned)count, p);
    }
    return true;
}

static bool nic_receive(void *opaque, const struct net_packet *p)
{
    struct virtio_nic *n = opaque;
    bool taken;

    virtio_io_begin(&n->v);
    taken = take_frame(n, p);
    virtio_io_end(&n->v);
    return taken;
}

static void set_accepts(struct virtio_nic *n)
{
    unsigned f = 0;

    f |= n->offloads & BIT(VIRTIO_NET_F_GUEST_CSUM) ? NET_CSUM : 0;
    f |= n->offloads & BIT(VIRTIO_NET_F_GUEST_TSO4) ? NET_TSO4 : 0;
    f |= n->offloads & BIT(VIRTIO_NET_F_GUEST_TSO6) ? NET_TSO6 : 0;
    f |= n->offloads & BIT(VIRTIO_NET_F_GUEST_ECN) ? NET_ECN : 0;
    if (n->nic.net)
        net_set_accepts(n->nic.net, f);
}

/* ---- the control queue -------------------------------------------------------------------------
 */

/* Where the words of a command are read. */
struct command {
    const struct virtio_element *e;
    size_t at;
};

static bool get(struct command *c, void *to, size_t size)
{
    bool good = iov_read(c->e->out, c->e->out_count, c->at, to, size) == size;

    c->at += size;
    return good;
}

static bool set_mode(struct virtio_nic *n, uint8_t what, struct command *c)
{
    uint8_t on;

    if (what > VIRTIO_NET_CTRL_RX_NOBCAST || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX) ||
        (what > VIRTIO_NET_CTRL_RX_ALLMULTI && !virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX_EXTRA)) ||
        !get(c, &on, 1))
        return false;
    n->rx_mode = (uint8_t)(on ? n->rx_mode | 1u << what : n->rx_mode & ~(1u << what));
    return true;
}

/* A list too long for us means all addresses; it must be there nevertheless. */
static bool get_macs(struct command *c, uint8_t (*table)[NET_MAC], uint16_t *count)
{
    uint32_t n;

    if (!get(c, &n, 4) || n > c->e->out_size / NET_MAC)
        return false;
    *count = (uint16_t)MIN(n, MAC_TABLE + 1);
    if (n <= MAC_TABLE)
        return get(c, table, (size_t)n * NET_MAC);
    c->at += (size_t)n * NET_MAC;
    return c->at <= c->e->out_size;
}

static bool set_macs(struct virtio_nic *n, uint8_t what, struct command *c)
{
    uint8_t lists[2][MAC_TABLE][NET_MAC] = {0}, mac[NET_MAC];
    uint16_t counts[2];

    if (what == VIRTIO_NET_CTRL_MAC_ADDR_SET) {
        if (!virtio_has(&n->v, VIRTIO_NET_F_CTRL_MAC_ADDR) || !get(c, mac, NET_MAC))
            return false;
        memcpy(n->mac, mac, NET_MAC);
        return true;
    }
    if (what != VIRTIO_NET_CTRL_MAC_TABLE_SET || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_RX) ||
        !get_macs(c, lists[0], &counts[0]) || !get_macs(c, lists[1], &counts[1]))
        return false;
    memcpy(n->unicast, lists[0], sizeof(n->unicast));
    memcpy(n->multicast, lists[1], sizeof(n->multicast));
    n->unicasts = counts[0];
    n->multicasts = counts[1];
    return true;
}

static bool set_vlan(struct virtio_nic *n, uint8_t what, struct command *c)
{
    uint16_t id;

    if (what > VIRTIO_NET_CTRL_VLAN_DEL || !virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN) ||
        !get(c, &id, 2) || id >= VLANS)
        return false;
    if (what == VIRTIO_NET_CTRL_VLAN_ADD)
        n->vlan[id / 64] |= BIT(id % 64);
    else
        n->vlan[id / 64] &= ~BIT(id % 64);
    return true;
}

static bool set_pairs(struct virtio_nic *n, uint8_t what, struct command *c)
{
    uint16_t pairs;

    if (what != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !virtio_has(&n->v, VIRTIO_NET_F_MQ) ||
        !get(c, &pairs, 2) || !pairs || pairs > n->pairs)
        return false;
    n->used_pairs = pairs;
    return true;
}

static bool set_offloads(struct virtio_nic *n, uint8_t what, struct command *c)
{
    uint64_t f;

    if (what != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
        !virtio_has(&n->v, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || !get(c, &f, 8) ||
        f & ~n->v.features)
        return false;
    n->offloads = f;
    set_accepts(n);
    return true;
}

static void take_command(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_nic *n = to_vnic(q->v);
    struct command c = {.e = e};
    uint8_t head[2], ack = VIRTIO_NET_ERR;
    bool good = false;

    if (get(&c, head, sizeof(head)))
        switch (head[0]) {
        case VIRTIO_NET_CTRL_RX: good = set_mode(n, head[1], &c); break;
        case VIRTIO_NET_CTRL_MAC: good = set_macs(n, head[1], &c); break;
        case VIRTIO_NET_CTRL_VLAN: good = set_vlan(n, head[1], &c); break;
        case VIRTIO_NET_CTRL_MQ: good = set_pairs(n, head[1], &c); break;
        case VIRTIO_NET_CTRL_GUEST_OFFLOADS: good = set_offloads(n, head[1], &c); break;
        default: break;
        }
    if (good)
        ack = VIRTIO_NET_OK;
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, &ack, 1));
}

/* Without MQ the control queue is the third, however many we have. */
static void nic_kicked(struct virtio_device *v, unsigned number)
{
    struct virtio_nic *n = to_vnic(v);
    unsigned control = virtio_has(v, VIRTIO_NET_F_MQ) ? 2u * n->pairs : 2;

    if (number == control && virtio_has(v, VIRTIO_NET_F_CTRL_VQ))
        virtqueue_each(&v->queue[number], take_command);
    else if (number > control)
        return;
    else if (number & 1)
        send_frames(n, &v->queue[number]);
    else if (n->nic.net)
        net_receive_ready(n->nic.net);
}

/* ---- configuration -----------------------------------------------------------------------------
 */

static void fill_config(struct virtio_device *v)
{
    struct virtio_nic *n = to_vnic(v);

    virtio_io_begin(v);
    memcpy(v->config, n->mac, NET_MAC);
    virtio_io_leave(v);
    store_le(v->config + 6, nic_link(&n->nic) ? VIRTIO_NET_S_LINK_UP : 0, 2);
    store_le(v->config + 8, n->pairs, 2);
    store_le(v->config + 10, n->host_mtu, 2);
}

/* Old drivers set the address here. */
static void nic_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    struct virtio_nic *n = to_vnic(v);

    if (virtio_has(v, VIRTIO_F_VERSION_1) || !range_within(offset, size, NET_MAC))
        return;
    virtio_io_begin(v);
    store_le(n->mac + offset, value, size);
    virtio_io_leave(v);
}

static void nic_link_changed(void *opaque, bool up)
{
    struct virtio_nic *n = opaque;

    pthread_mutex_lock(&n->v.dev.lock);
    if (n->status)
        virtio_config_changed(&n->v);
    pthread_mutex_unlock(&n->v.dev.lock);
}

/* ---- life --------------------------------------------------------------------------------------
 */

#define GUEST_OFFLOADS                                                                             \
    (BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |  \
     BIT(VIRTIO_NET_F_GUEST_ECN))

static void nic_reset(struct virtio_device *v)
{
    struct virtio_nic *n = to_vnic(v);

    memcpy(n->mac, n->nic.mac, NET_MAC);
    n->rx_mode = PROMISC; /* until the driver says otherwise */
    n->used_pairs = 1;
    n->unicasts = n->multicasts = 0;
    memset(n->unicast, 0, sizeof(n->unicast));
    memset(n->multicast, 0, sizeof(n->multicast));
    memset(n->vlan, 0, sizeof(n->vlan));
    memset(n->flow, 0, sizeof(n->flow));
    n->offloads = 0;
    n->restored = false;
    set_accepts(n);
}

static bool nic_accept(struct virtio_device *v, uint64_t f)
{
    bool needs_csum = f & (BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6));
    bool needs_guest_csum = f & (BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6));
    bool needs_control = f & (BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) |
                              BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_MQ));

    return (!needs_csum || f & BIT(VIRTIO_NET_F_CSUM)) &&
           (!needs_guest_csum || f & BIT(VIRTIO_NET_F_GUEST_CSUM)) &&
           (!needs_control || f & BIT(VIRTIO_NET_F_CTRL_VQ));
}

static void nic_start(struct virtio_device *v)
{
    struct virtio_nic *n = to_vnic(v);

    if (!n->restored) /* else they are as the guest set them */
        n->offloads = v->features & GUEST_OFFLOADS;
    if (!virtio_has(v, VIRTIO_NET_F_CTRL_RX))
        n->rx_mode = PROMISC;
    n->restored = false;
    set_accepts(n);
}

static void nic_refresh(struct virtio_device *v)
{
    struct virtio_nic *n = to_vnic(v);

    n->used_pairs = MAX(MIN(n->used_pairs, n->pairs), 1);
    n->offloads &= v->features & GUEST_OFFLOADS;
    n->restored = (v->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
}

static void nic_running(struct virtio_device *v, bool running)
{
    if (to_vnic(v)->nic.net)
        net_set_running(to_vnic(v)->nic.net, running);
}

static int check_properties(const struct virtio_nic *n, struct error *err)
{
    const char *name = n->v.dev.type->name;

    if (!n->pairs || n->pairs > MAX_PAIRS)
        return error_set(err, EINVAL, "%s: queues=%u is not from 1 to %d", name, n->pairs,
                         MAX_PAIRS);
    if (!is_power_of_2(n->rx_size) || n->rx_size < 64 || n->rx_size > VIRTIO_QUEUE_MAX)
        return error_set(err, EINVAL, "%s: rx_queue_size=%u is not a power of two from 64 to %d",
                         name, n->rx_size, VIRTIO_QUEUE_MAX);
    if (!is_power_of_2(n->tx_size) || n->tx_size < 64 || n->tx_size > VIRTIO_QUEUE_MAX)
        return error_set(err, EINVAL, "%s: tx_queue_size=%u is not a power of two from 64 to %d",
                         name, n->tx_size, VIRTIO_QUEUE_MAX);
    if (n->host_mtu && n->host_mtu < 68)
        return error_set(err, EINVAL, "%s: host_mtu=%u is less than 68", name, n->host_mtu);
    return 0;
}

static uint64_t features(const struct virtio_nic *n)
{
    bool control = n->ctrl_vq;

    return BIT(VIRTIO_NET_F_MAC) | (n->csum ? BIT(VIRTIO_NET_F_CSUM) : 0) |
           (n->csum && n->gso
                ? BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
                      BIT(VIRTIO_NET_F_HOST_ECN) | (n->v.legacy ? BIT(VIRTIO_NET_F_GSO) : 0)
                : 0) |
           (n->guest_csum ? BIT(VIRTIO_NET_F_GUEST_CSUM) : 0) |
           (n->guest_csum && n->guest_gso
                ? BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |
                      BIT(VIRTIO_NET_F_GUEST_ECN)
                : 0) |
           (n->mergeable ? BIT(VIRTIO_NET_F_MRG_RXBUF) : 0) |
           (n->status ? BIT(VIRTIO_NET_F_STATUS) : 0) | (n->host_mtu ? BIT(VIRTIO_NET_F_MTU) : 0) |
           (control ? BIT(VIRTIO_NET_F_CTRL_VQ) : 0) |
           (control && n->ctrl_rx ? BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA)
                                  : 0) |
           (control && n->ctrl_vlan ? BIT(VIRTIO_NET_F_CTRL_VLAN) : 0) |
           (control && n->ctrl_mac ? BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) : 0) |
           (control && n->guest_csum ? BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) : 0) |
           (control && n->pairs > 1 ? BIT(VIRTIO_NET_F_MQ) : 0);
}

static int nic_attach(struct virtio_nic *n, struct error *err)
{
    const char *machine = n->v.dev.machine->config.name;
    struct net_client client = {
        .opaque = n, .receive = nic_receive, .writable = nic_writable, .link = nic_link_changed};
    int r = 0;

    if (n->nic.mac_text) {
        r = net_mac_parse(n->nic.mac_text, n->nic.mac, err);
    } else {
        auto_free char *identity = xasprintf("%s/%s", machine ? machine : "hospes", n->v.dev.id);

        net_mac_of(identity, 0, n->nic.mac);
    }
    if (!r && n->nic.net)
        r = net_attach(n->nic.net, &client, err);
    return r < 0 ? error_prefix(err, r, "%s: ", n->v.dev.type->name) : 0;
}

static int vnic_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_nic *n = to_vnic(v);
    int r = check_properties(n, err);

    if (r < 0)
        return r;
    v->offered |= features(n);
    v->config_size = CONFIG_SIZE;
    for (unsigned i = 0; i < n->pairs; i++) {
        virtio_add_queue(v, n->rx_size);
        virtio_add_queue(v, n->tx_size);
    }
    if (n->ctrl_vq)
        virtio_add_queue(v, CTRL_QUEUE_SIZE);
    return nic_attach(n, err);
}

static void vnic_unrealize(struct virtio_device *v)
{
    nic_close(&to_vnic(v)->nic);
}

static const struct virtio_type net_virtio = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .legacy_id = 0x1000,
    .class_code = 0x020000,
    .realize = vnic_realize,
    .unrealize = vnic_unrealize,
    .reset = nic_reset,
    .accept = nic_accept,
    .start = nic_start,
    .kicked = nic_kicked,
    .config_read = fill_config,
    .config_written = nic_written,
    .refresh = nic_refresh,
    .running = nic_running,
};

#define NET_PROPERTIES                                                                             \
    NIC_PROPERTIES(struct virtio_nic, nic),                                                        \
        PROPERTY_U16("queues", struct virtio_nic, pairs, 1, "pairs of queues, 1 to 8"),            \
        PROPERTY_U16("rx_queue_size", struct virtio_nic, rx_size, 256, "64 to 1024"),              \
        PROPERTY_U16("tx_queue_size", struct virtio_nic, tx_size, 256, "64 to 1024"),              \
        PROPERTY_U16("host_mtu", struct virtio_nic, host_mtu, 0, "largest packet; 0: not said"),   \
        PROPERTY_U32("bootindex", struct virtio_nic, bootindex, UINT32_MAX,                        \
                     "place in the boot order"),                                                   \
        PROPERTY_BOOL("csum", struct virtio_nic, csum, true, "do the guest's checksums"),          \
        PROPERTY_BOOL("gso", struct virtio_nic, gso, true, "cut the guest's segments"),            \
        PROPERTY_BOOL("guest_csum", struct virtio_nic, guest_csum, true,                           \
                      "frames without checksum to the guest"),                                     \
        PROPERTY_BOOL("guest_gso", struct virtio_nic, guest_gso, true,                             \
                      "frames of many segments to the guest"),                                     \
        PROPERTY_BOOL("mrg_rxbuf", struct virtio_nic, mergeable, true,                             \
                      "a frame may take several buffers"),                                         \
        PROPERTY_BOOL("status", struct virtio_nic, status, true, "tell whether the link is up"),   \
        PROPERTY_BOOL("ctrl_vq", struct virtio_nic, ctrl_vq, true, "have a control queue"),        \
        PROPERTY_BOOL("ctrl_rx", struct virtio_nic, ctrl_rx, true, "filters by address"),          \
        PROPERTY_BOOL("ctrl_vlan", struct virtio_nic, ctrl_vlan, true, "filter by VLAN"),          \
        PROPERTY_BOOL("ctrl_mac_addr", struct virtio_nic, ctrl_mac, true,                          \
                      "the guest may change its address")
#define NET_STATE                                                                                  \
    STATE_ARRAY(struct virtio_nic, mac), STATE_U8(struct virtio_nic, rx_mode),                     \
        STATE_U16(struct virtio_nic, used_pairs), STATE_U64(struct virtio_nic, offloads),          \
        STATE_FIELD(struct virtio_nic, unicast, MAC_TABLE *NET_MAC, 0),                            \
        STATE_FIELD(struct virtio_nic, multicast, MAC_TABLE *NET_MAC, 0),                          \
        STATE_U16(struct virtio_nic, unicasts), STATE_U16(struct virtio_nic, multicasts),          \
        STATE_ARRAY(struct virtio_nic, vlan)

static const struct property net_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_nic, v),
    NET_PROPERTIES,
    PROPERTY_END,
};
static const struct property net_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_nic, v),
    NET_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field net_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_nic, v),
    NET_STATE,
    STATE_END,
};
static const struct state_field net_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_nic, v),
    NET_STATE,
    STATE_END,
};

#define SUMMARY "a network card (virtio)"
const struct device_type virtio_net_pci_type =
    VIRTIO_PCI_DEVICE("virtio-net-pci", SUMMARY, struct virtio_nic, net_pci_properties,
                      net_pci_state, net_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_net_pci_transitional_type =
    VIRTIO_PCI_DEVICE("virtio-net-pci-transitional", SUMMARY, struct virtio_nic, net_pci_properties,
                      net_pci_state, net_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_net_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-net-pci-non-transitional", SUMMARY, struct virtio_nic,
                      net_pci_properties, net_pci_state, net_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_net_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-net-device", SUMMARY, struct virtio_nic, net_mmio_properties,
                       net_mmio_state, net_virtio);
