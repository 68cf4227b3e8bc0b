/*
 * e1000_ring.c - the two controllers' descriptor rings: transmission and reception.
 *
 * A ring lies in guest memory; the hardware owns the descriptors from head up to, not including,
 * tail. Descriptors are copied before they are looked at.
 *
 * A frame is taken from the ring in one go, when all its descriptors are there: only then do the
 * head and the descriptors' status change. So nothing of a frame has to be kept between two calls,
 * or in a snapshot; and a frame that the network takes only later is read from the ring again.
 * Segmentation and the checksums of TCP and UDP go on to the network as offloads (net/net.h).
 */
#include "devices/net/e1000.h"

#include "base/log.h"

enum { DESCRIPTOR = 16, IP_TCP = 6, MINIMUM = 60, RX_DESCRIPTORS_MAX = 64 };

/* ---- transmission -----------------------------------------------------------------------------
 */

enum tx_command { /* of the third dword */
                  TX_EOP = 1 << 24,
                  TX_CHECKSUM = 1 << 26, /* legacy: insert one */
                  TX_SEGMENT = 1 << 26,  /* extended */
                  TX_REPORT = 1 << 27,
                  TX_EXTENDED = 1 << 29,
                  TX_VLAN = 1 << 30,
                  TX_TYPE_DATA = 1 << 20,
                  TX_TYPE_MASK = 15 << 20,
};

enum { TX_DONE = 1, TX_IP_SUM = 1 << 8, TX_TCP_SUM = 1 << 9 }; /* of the fourth */

/* A context: where headers and checksums lie. */
struct layout {
    uint8_t ip_start, ip_offset, tcp_start, tcp_offset;
    uint16_t ip_end, tcp_end; /* last byte summed; 0: to the end */
    uint16_t segment;
    uint8_t header;
    bool ipv4, tcp;
};

static struct layout layout_of(const uint32_t d[4])
{
    return (struct layout){.ip_start = (uint8_t)d[0],
                           .ip_offset = (uint8_t)(d[0] >> 8),
                           .ip_end = (uint16_t)(d[0] >> 16),
                           .tcp_start = (uint8_t)d[1],
                           .tcp_offset = (uint8_t)(d[1] >> 8),
                           .tcp_end = (uint16_t)(d[1] >> 16),
                           .segment = (uint16_t)(d[3] >> 16),
                           .header = (uint8_t)(d[3] >> 8),
                           .ipv4 = (d[2] >> 25 & 1) != 0,
                           .tcp = (d[2] >> 24 & 1) != 0};
}

/* The checksum's bytes in the order of memory: sum of [start, end] of the frame. */
static uint16_t sum_of(const uint8_t *frame, size_t start, size_t end)
{
    uint64_t sum = 0;
    size_t i;

    for (i = start; i + 1 < end; i += 2)
        sum += load_le(frame + i, 2);
    if (i < end)
        sum += frame[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Put the sum of [start, last] (last 0: all) at `at`; what does not lie in the frame is ignored. */
static void insert_sum(uint8_t *frame, size_t size, size_t start, size_t last, size_t at)
{
    size_t end = last && last + 1 < size ? last + 1 : size;

    if (start < end && range_within(at, 2, size))
        store_le(frame + at, sum_of(frame, start, end), 2);
}

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* A frame to be cut: drivers leave the lengths out of the IP header and the pseudo header. */
static struct net_offload segmentation(uint8_t *f, size_t size, const struct layout *l)
{
    struct net_offload o = {.flags = NET_NEEDS_CSUM,
                            .gso = l->ipv4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
                            .header = l->header,
                            .segment = l->segment,
                            .csum_start = l->tcp_start,
                            .csum_offset = (uint16_t)(l->tcp_offset - l->tcp_start)};
    uint32_t sum;

    if (!l->tcp)
        o.gso = NET_GSO_UDP_L4;
    if (!range_within(l->ip_start, l->ipv4 ? 20 : 40, size) ||
        !range_within(l->tcp_offset, 2, size) || l->tcp_offset < l->tcp_start)
        return (struct net_offload){.gso = 0xff}; /* it will be dropped */
    if (l->ipv4) {
        put16(f + l->ip_start + 2, MIN(size - l->ip_start, (size_t)0xffff));
        store_le(f + l->ip_start + 10, 0, 2);
        insert_sum(f, size, l->ip_start, l->ip_end, l->ip_start + 10u);
    } else {
        put16(f + l->ip_start + 4, MIN(size - l->ip_start - 40u, (size_t)0xffff));
    }
    sum = ((uint32_t)f[l->tcp_offset] << 8 | f[l->tcp_offset + 1]) +
          (uint32_t)(size - l->tcp_start);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    put16(f + l->tcp_offset, sum);
    return o;
}

static void count_sent(struct e1000 *e, const uint8_t *frame, size_t size)
{
    e1000_count(e, E1000_TPT, 1, false);
    e1000_count(e, E1000_GPTC, 1, false);
    e1000_count(e, E1000_TOTL, size + 4, true);
    e1000_count(e, E1000_GOTCL, size + 4, true);
    if (nic_is_broadcast(frame))
        e1000_count(e, E1000_BPTC, 1, false);
    else if (frame[0] & 1)
        e1000_count(e, E1000_MPTC, 1, false);
}

/* The frame in e->frame; the first descriptor of its data decides on options, the last on the tag.
 * False: the network wants it later. */
static bool send_frame(struct e1000 *e, unsigned queue, size_t size, const uint32_t first[4],
                       const uint32_t last[4])
{
    bool extended = (first[2] & TX_EXTENDED) != 0;
    bool segment = extended && first[2] & TX_SEGMENT;
    struct layout l = layout_of(e->context[queue][segment]);
    struct net_offload o = {0};
    uint8_t tag[4] = {(uint8_t)(*e1000_reg(e, E1000_VET) >> 8), (uint8_t)*e1000_reg(e, E1000_VET),
                      (uint8_t)(last[3] >> 24), (uint8_t)(last[3] >> 16)};
    bool tagged = last[2] & TX_VLAN && *e1000_reg(e, E1000_CTRL) & CTRL_VME;
    struct iovec iov[3] = {{e->frame, 12}, {tag, tagged ? 4 : 0}, {e->frame + 12, 0}};
    struct net_packet p = {.iov = iov, .count = 3};

    if (size < NET_HEADER)
        return true;
    if (segment) {
        o = segmentation(e->frame, size, &l);
    } else if (extended) {
        if (first[3] & TX_IP_SUM)
            insert_sum(e->frame, size, l.ip_start, l.ip_end, l.ip_offset);
        if (first[3] & TX_TCP_SUM && l.tcp_end)
            insert_sum(e->frame, size, l.tcp_start, l.tcp_end, l.tcp_offset);
        else if (first[3] & TX_TCP_SUM && l.tcp_offset >= l.tcp_start &&
                 range_within(l.tcp_offset, 2, size))
            o = (struct net_offload){.flags = NET_NEEDS_CSUM,
                                     .csum_start = l.tcp_start,
                                     .csum_offset = (uint16_t)(l.tcp_offset - l.tcp_start)};
    } else if (last[2] & TX_CHECKSUM) {
        insert_sum(e->frame, size, last[3] >> 8 & 0xff, 0, last[2] >> 16 & 0xff);
    }
    if (size < MINIMUM) {
        memset(e->frame + size, 0, MINIMUM - size);
        if (!o.gso)
            size = MINIMUM; /* zeros change no sum */
    }
    iov[2].iov_len = size - 12;
    p.size = size + (tagged ? 4 : 0);
    p.offload = o;
    p.offload.csum_start = (uint16_t)(o.csum_start + (tagged && o.flags ? 4 : 0));
    if (*e1000_reg(e, E1000_RCTL) & RCTL_LOOPBACK || e->phy[0] & 1 << 14) {
        if (!e->receiving && !o.gso)
            e1000_receive(&e->pci.dev, &p);
    } else if (p.size <= NET_FRAME_MAX && e->nic.net && !net_send(e->nic.net, &p)) {
        return false;
    }
    count_sent(e, e->frame, size);
    if (segment)
        e1000_count(e, E1000_TSCTC, 1, false);
    return true;
}

struct tx_ring {
    gpa base;
    uint32_t length, head, tail; /* descriptors */
};

static bool ring_of(struct e1000 *e, unsigned at, struct tx_ring *out)
{
    *out = (struct tx_ring){
        .base = *e1000_reg(e, at) | (gpa)*e1000_reg(e, at + 4) << 32,
        .length = *e1000_reg(e, at + 8) / DESCRIPTOR,
        .head = *e1000_reg(e, at + 0x10),
        .tail = *e1000_reg(e, at + 0x18),
    };
    return out->length && out->head < out->length && out->tail < out->length;
}

/* Set DD in the descriptors from `from` up to `to` that ask for it. */
static bool write_back(struct e1000 *e, const struct tx_ring *r, uint32_t from, uint32_t to)
{
    bool any = false;

    for (uint32_t at = from; at != to; at = at + 1 == r->length ? 0 : at + 1) {
        uint32_t d[4];

        if (pci_dma_read(&e->pci, r->base + at * (gpa)DESCRIPTOR, d, sizeof(d)) < 0 ||
            !(d[2] & TX_REPORT))
            continue;
        d[3] |= TX_DONE;
        pci_dma_write(&e->pci, r->base + at * (gpa)DESCRIPTOR + 12, &d[3], 4);
        any = true;
    }
    return any;
}

void e1000_transmit(struct e1000 *e, unsigned queue)
{
    unsigned registers = E1000_TDBAL + 0x100 * queue;
    uint32_t d[4], first[4] = {0}, at, causes = 0;
    size_t used = 0;
    bool in_frame = false;
    struct tx_ring r;

    if ((queue && !e->e) || !(*e1000_reg(e, E1000_TCTL) & TCTL_EN) || !ring_of(e, registers, &r))
        return;
    for (at = r.head; at != r.tail;) {
        uint32_t next = at + 1 == r.length ? 0 : at + 1;
        uint32_t length, type;

        if (pci_dma_read(&e->pci, r.base + at * (gpa)DESCRIPTOR, d, sizeof(d)) < 0) {
            log_guest("%s: a descriptor lies outside RAM", e->pci.dev.id);
            break;
        }
        type = d[2] & TX_TYPE_MASK;
        if (d[2] & TX_EXTENDED && type == 0) {
            memcpy(e->context[queue][(d[2] & TX_SEGMENT) != 0], d, sizeof(d));
        } else {
            length = d[2] & (d[2] & TX_EXTENDED ? 0xfffff : 0xffff);
            if (!in_frame)
                memcpy(first, d, sizeof(first));
            in_frame = true;
            length = MIN(length, (uint32_t)(NET_FRAME_MAX - used));
            if (pci_dma_read(&e->pci, d[0] | (gpa)d[1] << 32, e->frame + used, length) < 0)
                memset(e->frame + used, 0, length);
            used += length;
            if (!(d[2] & TX_EOP)) {
                at = next;
                continue;
            }
            if (!send_frame(e, queue, used, first, d))
                break; /* e1000_writable() comes back */
        }
        at = next;
        if (!in_frame || d[2] & TX_EOP) {
            if (write_back(e, &r, *e1000_reg(e, registers + 0x10), at))
                causes |= ICR_TXDW | ICR_TXQ0 << queue;
            *e1000_reg(e, registers + 0x10) = at;
            in_frame = false;
            used = 0;
        }
    }
    if (at == r.tail && !in_frame && r.head != r.tail)
        causes |= ICR_TXQE | ICR_TXQ0 << queue;
    if (causes)
        e1000_cause(e, causes);
}

/* ---- reception --------------------------------------------------------------------------------
 */

enum rx_status {
    RX_DONE = 1,
    RX_EOP = 2,
    RX_NO_SUMS = 4,
    RX_VLAN = 8,
    RX_TCP_SUM = 32,
    RX_IP_SUM = 64
};

/* Is the frame for this card? */
static bool wanted(struct e1000 *e, const uint8_t *f, size_t size)
{
    static const uint8_t shift[4] = {4, 3, 2, 0}; /* which 12 bits of the address are the hash */
    uint32_t rctl = *e1000_reg(e, E1000_RCTL);
    unsigned hash, type = (unsigned)f[12] << 8 | f[13];

    if (rctl & RCTL_VFE && type == *e1000_reg(e, E1000_VET) && size >= 18) {
        unsigned tag = (unsigned)f[14] << 8 | f[15];

        if (rctl & RCTL_CFIEN && !!(tag & 0x1000) != !!(rctl & RCTL_CFI))
            return false;
        if (!(e->reg[E1000_VFTA / 4 + (tag >> 5 & 127)] >> (tag & 31) & 1))
            return false;
    }
    if (nic_is_broadcast(f) && rctl & RCTL_BAM)
        return true;
    if (f[0] & 1 ? rctl & RCTL_MPE : rctl & RCTL_UPE)
        return true;
    for (unsigned i = 0; i < 16; i++) {
        const uint32_t *ra = e1000_reg(e, E1000_RA + 8 * i);

        if (ra[1] >> 31 && (uint32_t)load_le(f, 4) == ra[0] &&
            (uint16_t)load_le(f + 4, 2) == (uint16_t)ra[1])
            return true;
    }
    if (!(f[0] & 1))
        return false;
    hash = ((unsigned)f[5] << 8 | f[4]) >> shift[rctl >> 12 & 3];
    return e->reg[E1000_MTA / 4 + (hash >> 5 & 127)] >> (hash & 31) & 1;
}

/* What RCTL says of a buffer's bytes. */
static uint32_t buffer_size(uint32_t rctl)
{
    uint32_t size = 2048u >> (rctl >> 16 & 3);

    return rctl & RCTL_BSEX && size != 2048 ? 16 * size : size;
}

struct arrival {
    const uint8_t *data;
    size_t size; /* with the frame check sequence where the guest wants it */
    uint32_t status, vlan;
};

/* One descriptor's worth from data[done]; how many bytes. `d` is as read. */
static size_t fill_legacy(struct e1000 *e, uint32_t d[4], const struct arrival *a, size_t done)
{
    size_t n = MIN(a->size - done, (size_t)buffer_size(*e1000_reg(e, E1000_RCTL)));
    uint32_t status = RX_DONE | (done + n == a->size ? RX_EOP | (a->status & 0xff) : 0);

    pci_dma_write(&e->pci, d[0] | (gpa)d[1] << 32, a->data + done, n);
    d[2] = (uint32_t)n;
    d[3] = status | a->vlan << 16;
    return n;
}

/* The 82574's: one buffer, or with packet split up to four, of which the first would have the
 * header; nothing is split, they are filled in turn. */
static size_t fill_extended(struct e1000 *e, gpa at, uint32_t d[8], const struct arrival *a,
                            size_t done, bool split)
{
    uint32_t psrctl = *e1000_reg(e, E1000_PSRCTL);
    size_t n, total = 0;
    uint16_t lengths[4] = {0};

    for (unsigned i = 0; i < (split ? 4 : 1) && done + total < a->size; i++) {
        size_t room = !split   ? buffer_size(*e1000_reg(e, E1000_RCTL))
                      : i == 0 ? (psrctl & 0x7f) * 128
                               : (psrctl >> 8 * i & 0x3f) * 1024;
        gpa buffer = d[2 * i] | (gpa)d[2 * i + 1] << 32;

        if (split && i && !buffer)
            break;
        n = MIN(a->size - done - total, room);
        pci_dma_write(&e->pci, buffer, a->data + done + total, n);
        lengths[i] = (uint16_t)n;
        total += n;
    }
    memset(d, 0, 8 * sizeof(*d));
    d[2] = RX_DONE | (done + total == a->size ? RX_EOP | a->status : 0);
    d[3] = lengths[0] | a->vlan << 16;
    if (split) { /* word 4: header status; 5 to 7: lengths of the further buffers */
        d[4] = (uint32_t)lengths[1] << 16;
        d[5] = lengths[2] | (uint32_t)lengths[3] << 16;
    }
    pci_dma_write(&e->pci, at, d, split ? 32 : 16);
    return total;
}

static void count_received(struct e1000 *e, const uint8_t *f, size_t size)
{
    e1000_count(e, E1000_TPR, 1, false);
    e1000_count(e, E1000_GPRC, 1, false);
    e1000_count(e, E1000_TORL, size + 4, true);
    e1000_count(e, E1000_GORCL, size + 4, true);
    if (nic_is_broadcast(f))
        e1000_count(e, E1000_BPRC, 1, false);
    else if (f[0] & 1)
        e1000_count(e, E1000_MPRC, 1, false);
}

/* Is the frame of TCP or UDP in IP, whose sums the card would have checked? */
static uint32_t checked(const struct e1000 *e, const uint8_t *f, size_t size)
{
    uint32_t rxcsum = e->reg[E1000_RXCSUM / 4], status = 0;
    unsigned type = (unsigned)f[12] << 8 | f[13], protocol;

    if (type == 0x0800 && size >= 34) {
        protocol = f[23];
        status = rxcsum & RXCSUM_IPOFL ? RX_IP_SUM : 0;
        if ((f[20] & 0x3f) | f[21]) /* a fragment */
            return status;
    } else if (type == 0x86dd && size >= 54) {
        protocol = f[20];
    } else {
        return 0;
    }
    if (rxcsum & RXCSUM_TUOFL && (protocol == IP_TCP || protocol == 17))
        status |= RX_TCP_SUM;
    return status;
}

/* Put the frame into the ring. False: there are not enough descriptors. */
static bool put_frame(struct e1000 *e, const struct arrival *a, uint32_t *causes)
{
    uint32_t rctl = *e1000_reg(e, E1000_RCTL), rfctl = *e1000_reg(e, E1000_RFCTL);
    bool extended = e->e && rfctl & RFCTL_EXTEN, split = extended && rctl & RCTL_SPLIT;
    uint32_t step = split ? 32 : DESCRIPTOR, psrctl = *e1000_reg(e, E1000_PSRCTL);
    size_t each = split ? (psrctl & 0x7f) * 128 + 1024 * ((psrctl >> 8 & 0x3f)) : buffer_size(rctl);
    uint32_t length = *e1000_reg(e, E1000_RDLEN) / step, head = *e1000_reg(e, E1000_RDH);
    uint32_t tail = *e1000_reg(e, E1000_RDT), left;
    gpa base = *e1000_reg(e, E1000_RDBAL) | (gpa)*e1000_reg(e, E1000_RDBAH) << 32;
    size_t done = 0;

    if (!length || head >= length || !each)
        return false;
    left = tail >= length ? 0 : tail >= head ? tail - head : length - head + tail;
    if (left * each < a->size)
        return false;
    for (unsigned i = 0; done < a->size && head != tail && i < length; i++) {
        gpa at = base + head * (gpa)step;
        uint32_t d[8] = {0};

        if (pci_dma_read(&e->pci, at, d, step) < 0) {
            log_guest("%s: a receive descriptor lies outside RAM", e->pci.dev.id);
            return true;
        }
        if (extended) {
            done += fill_extended(e, at, d, a, done, split);
        } else {
            if (d[0] | d[1])
                done += fill_legacy(e, d, a, done);
            else
                d[3] = RX_DONE; /* a null descriptor: it is only marked */
            pci_dma_write(&e->pci, at + 8, d + 2, 8);
        }
        head = head + 1 == length ? 0 : head + 1;
    }
    *e1000_reg(e, E1000_RDH) = head;
    left = tail >= head ? tail - head : length - head + tail;
    if (left <= length >> (1 + (rctl >> 8 & 3)))
        *causes |= ICR_RXDMT0;
    return true;
}

static bool receive_locked(struct e1000 *e, const struct net_packet *p)
{
    uint32_t rctl = *e1000_reg(e, E1000_RCTL), causes = ICR_RXT0 | ICR_RXQ0;
    uint8_t *f = e->received;
    struct arrival a = {.data = f};
    size_t size = 0;

    if (!(rctl & RCTL_EN) || !(pci_get(&e->pci, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
        return true;
    for (unsigned i = 0; i < p->count; i++) {
        memcpy(f + size, p->iov[i].iov_base, p->iov[i].iov_len);
        size += p->iov[i].iov_len;
    }
    if (size < MINIMUM) {
        memset(f + size, 0, MINIMUM - size);
        size = MINIMUM;
    }
    if (size > (rctl & RCTL_LPE ? 16380u : 1518u)) {
        e1000_count(e, E1000_ROC, 1, false);
        return true;
    }
    if (!wanted(e, f, size))
        return true;
    a.status = p->offload.flags & NET_DATA_VALID ? checked(e, f, size) : RX_NO_SUMS;
    if (*e1000_reg(e, E1000_CTRL) & CTRL_VME &&
        (uint32_t)(f[12] << 8 | f[13]) == *e1000_reg(e, E1000_VET)) {
        a.vlan = (uint32_t)(f[14] << 8 | f[15]);
        a.status |= RX_VLAN;
        memmove(f + 4, f, 12);
        a.data = f + 4;
    }
    a.size = size - (size_t)(a.data - f);
    if (!(rctl & RCTL_SECRC)) {
        memset(f + size, 0, 4); /* drivers cut the frame check sequence off unseen */
        a.size += 4;
    }
    if (!put_frame(e, &a, &causes))
        return false;
    count_received(e, a.data, a.size);
    e1000_cause(e, causes);
    return true;
}

bool e1000_receive(void *opaque, const struct net_packet *p)
{
    struct e1000 *e = to_e1000(opaque);
    bool taken;

    e->receiving = true;
    taken = receive_locked(e, p);
    e->receiving = false;
    return taken;
}
