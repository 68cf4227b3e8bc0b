/*
 * rtl8139.c - see rtl8139.h.
 *
 * The registers are an array of bytes, since guests access them in every width; `mask` says which
 * bits take writes. After a write, what it touched has its effect. Two modes: C, with four transmit
 * slots and a ring of received bytes, and C+, with descriptor rings.
 *
 * In C+ mode nothing tells the card that a descriptor is its own again. A frame for which there was
 * none is kept by the network until the guest next touches the interrupt registers, which it does
 * after it refilled the ring.
 */
#include "devices/net/rtl8139.h"

#include "base/log.h"
#include "machine/machine.h"

enum { SLOTS = 4, DESCRIPTOR = 16, MINIMUM = 60, LONGEST = 4096, RING_MAX = 1024, PRIORITIES = 2 };
enum { PCI_CLOCK = 33333333 };

struct rtl8139 {
    struct pci_device pci;
    struct nic nic;

    /* saved */
    uint8_t reg[RTL_SIZE];
    struct eeprom93 eeprom;
    uint16_t tx_at[PRIORITIES], rx_at; /* the next descriptors of C+ */
    uint8_t waiting;                   /* slots of C mode that the guest handed over */
    uint64_t tally_sent, tally_received, tally_broadcast, tally_multicast;
    uint64_t counter_from; /* guest time at which TCTR was 0 */

    struct timer timer;
    bool receiving;
    uint8_t frame[NET_FRAME_MAX + 8];
};
#define to_rtl(d) container_of(to_pci(d), struct rtl8139, pci)

static uint16_t get16(const struct rtl8139 *r, unsigned at)
{
    return (uint16_t)load_le(r->reg + at, 2);
}

static uint32_t get32(const struct rtl8139 *r, unsigned at)
{
    return (uint32_t)load_le(r->reg + at, 4);
}

/* ---- interrupts and the timer ------------------------------------------------------------------
 */

static void update_interrupt(struct rtl8139 *r)
{
    pci_intx_set(&r->pci, (get16(r, RTL_ISR) & get16(r, RTL_IMR)) != 0);
}

static void raise_interrupt(struct rtl8139 *r, unsigned causes)
{
    store_le(r->reg + RTL_ISR, get16(r, RTL_ISR) | causes, 2);
    update_interrupt(r);
}

static uint32_t counter(struct rtl8139 *r)
{
    return (uint32_t)muldiv64(device_now(&r->pci.dev) - r->counter_from, PCI_CLOCK, NSEC_PER_SEC);
}

static void arm_timer(struct rtl8139 *r)
{
    uint32_t at = get32(r, RTL_TIMERINT), now = counter(r);

    /* When the counter, 32 bits wide, comes to the value the next time. */
    timer_set(&r->timer,
              at ? device_now(&r->pci.dev) +
                       muldiv64((uint32_t)(at - now - 1) + UINT64_C(1), NSEC_PER_SEC, PCI_CLOCK) + 1
                 : CLOCK_NEVER);
}

static void timer_expired(struct device *dev, struct timer *t)
{
    raise_interrupt(to_rtl(dev), INT_TIMEOUT);
    arm_timer(to_rtl(dev));
}

/* ---- transmission ------------------------------------------------------------------------------
 */

static bool receive_locked(struct rtl8139 *r, const struct net_packet *p);

/* The frame in r->frame. False: the network wants it later. */
static bool send_frame(struct rtl8139 *r, size_t size, const uint8_t tag[4], struct net_offload o)
{
    struct iovec iov[3] = {
        {r->frame, 12}, {tag ? (void *)(uintptr_t)tag : r->frame, tag ? 4 : 0}, {r->frame + 12, 0}};
    struct net_packet p = {.iov = iov, .count = 3};

    if (size < NET_HEADER)
        return true;
    if (size < MINIMUM && !o.gso) {
        memset(r->frame + size, 0, MINIMUM - size);
        size = MINIMUM;
    }
    iov[2].iov_len = size - 12;
    p.size = size + (tag ? 4 : 0);
    p.offload = o;
    if (o.flags && tag)
        p.offload.csum_start = (uint16_t)(o.csum_start + 4);
    if ((get32(r, RTL_TCR) >> 17 & 3) == 3) { /* loopback */
        if (!r->receiving && !o.gso)
            receive_locked(r, &p);
    } else if (p.size <= NET_FRAME_MAX && r->nic.net && !net_send(r->nic.net, &p)) {
        return false;
    }
    r->tally_sent++;
    return true;
}

/* C mode: slots the guest handed over by writing their size. */
static void send_slots(struct rtl8139 *r)
{
    for (unsigned i = 0; i < SLOTS && r->reg[RTL_CR] & CR_TE; i++) {
        uint32_t status = get32(r, RTL_TSD + 4 * i), size = status & 0x1fff;

        if (!(r->waiting >> i & 1))
            continue;
        if (pci_dma_read(&r->pci, get32(r, RTL_TSAD + 4 * i), r->frame, size) < 0)
            memset(r->frame, 0, size);
        if (!send_frame(r, size, NULL, (struct net_offload){0}))
            return;
        r->waiting &= (uint8_t) ~(1u << i);
        store_le(r->reg + RTL_TSD + 4 * i, status | TSD_OWN | TSD_TOK, 4);
        raise_interrupt(r, INT_TOK);
    }
}

enum cplus_tx {
    TX_OWN = 1u << 31,
    TX_END = 1 << 30,
    TX_FIRST = 1 << 29,
    TX_LAST = 1 << 28,
    TX_LARGE = 1 << 27,
    TX_IP = 1 << 18,
    TX_UDP = 1 << 17,
    TX_TCP = 1 << 16,
    TX_TAG = 1 << 17, /* of the second dword */
};

static gpa ring_base(const struct rtl8139 *r, unsigned at)
{
    return (get32(r, at) & ~255u) | (gpa)get32(r, at + 4) << 32;
}

static uint16_t next_of(uint16_t at, uint32_t command)
{
    return command & TX_END || at + 1 == RING_MAX ? 0 : (uint16_t)(at + 1);
}

/* Give the descriptors from `from` up to `to` back to the guest. */
static void give_back(struct rtl8139 *r, gpa base, uint16_t from, uint16_t to)
{
    for (uint16_t at = from, n = 0; n < RING_MAX; n++) {
        uint32_t command;

        if (pci_dma_read(&r->pci, base + at * DESCRIPTOR, &command, 4) < 0)
            return;
        command &= ~(uint32_t)TX_OWN;
        pci_dma_write(&r->pci, base + at * DESCRIPTOR, &command, 4);
        at = next_of(at, command);
        if (at == to)
            return;
    }
}

/* One frame of a ring; false: there is none, or it must wait. */
static bool send_descriptors(struct rtl8139 *r, unsigned queue)
{
    gpa base = ring_base(r, RTL_TSAD + 8 * queue);
    uint16_t at = r->tx_at[queue];
    uint32_t first = 0, vlan = 0;
    size_t used = 0;
    struct net_offload o = {0};
    uint8_t tag[4];

    for (unsigned n = 0; n < RING_MAX; n++) {
        uint32_t d[4];
        size_t length;

        if (pci_dma_read(&r->pci, base + at * DESCRIPTOR, d, sizeof(d)) < 0) {
            log_guest("%s: a descriptor lies outside RAM", r->pci.dev.id);
            return false;
        }
        if (!(d[0] & TX_OWN))
            return false;
        if (!n) {
            first = d[0];
            vlan = d[1];
        }
        length = MIN((size_t)(d[0] & 0xffff), NET_FRAME_MAX - used);
        if (pci_dma_read(&r->pci, d[2] | (gpa)d[3] << 32, r->frame + used, length) < 0)
            memset(r->frame + used, 0, length);
        used += length;
        at = next_of(at, d[0]);
        if (!(d[0] & TX_LAST))
            continue;
        if (first & TX_LARGE)
            o = nic_offload(r->frame, used, true, true, first >> 16 & 0x7ff);
        else if (first & (TX_IP | TX_UDP | TX_TCP))
            o = nic_offload(r->frame, used, first & TX_IP, first & (TX_UDP | TX_TCP), 0);
        /* The tag's bytes stand in the descriptor as on the wire. */
        memcpy(tag, (const uint8_t[]){0x81, 0, (uint8_t)vlan, (uint8_t)(vlan >> 8)}, 4);
        if (!send_frame(r, used, vlan & TX_TAG ? tag : NULL, o))
            return false;
        give_back(r, base, r->tx_at[queue], at);
        r->tx_at[queue] = at;
        return true;
    }
    return false;
}

static void transmit(struct rtl8139 *r)
{
    bool any = false;

    if (!(r->reg[RTL_CR] & CR_TE))
        return;
    if (!(r->reg[RTL_CPCR] & CPCR_TX)) {
        send_slots(r);
        return;
    }
    for (unsigned queue = PRIORITIES; queue-- > 0;) { /* the high priority first */
        if (!(r->reg[RTL_TPPOLL] >> (6 + queue) & 1))
            continue;
        for (unsigned n = 0; n < RING_MAX && send_descriptors(r, queue); n++)
            any = true;
    }
    if (any)
        raise_interrupt(r, INT_TOK);
}

/* ---- reception ---------------------------------------------------------------------------------
 */

enum rx_kind { FOR_NOBODY = 0, FOR_ME = 1 << 14, FOR_ALL = 1 << 13, FOR_GROUP = 1 << 15 };

/* Who a frame is for, by the bits of C mode's status; FOR_NOBODY: not wanted. */
static unsigned kind_of(const struct rtl8139 *r, const uint8_t *f)
{
    uint32_t rcr = get32(r, RTL_RCR);
    unsigned bit;

    if (nic_is_broadcast(f))
        return rcr & (RCR_AB | RCR_AAP) ? FOR_ALL : FOR_NOBODY;
    if (f[0] & 1) {
        bit = nic_crc(f, NET_MAC, false) >> 26;
        return rcr & RCR_AAP || (rcr & RCR_AM && r->reg[RTL_MAR + bit / 8] >> bit % 8 & 1)
                   ? FOR_GROUP
                   : FOR_NOBODY;
    }
    if (!memcmp(f, r->reg + RTL_IDR, NET_MAC))
        return rcr & (RCR_APM | RCR_AAP) ? FOR_ME : FOR_NOBODY;
    return rcr & RCR_AAP ? FOR_ME : FOR_NOBODY;
}

static uint32_t buffer_size(const struct rtl8139 *r)
{
    return 8u * KiB << (get32(r, RTL_RCR) >> 11 & 3);
}

/* Where the guest has read to in the ring of bytes. */
static uint32_t read_to(const struct rtl8139 *r)
{
    return (get16(r, RTL_CAPR) + 16u) % buffer_size(r);
}

static void put_bytes(struct rtl8139 *r, uint32_t *at, const void *data, uint32_t length)
{
    uint32_t size = buffer_size(r), n = length;
    gpa base = get32(r, RTL_RBSTART);

    /* With WRAP the last frame runs on behind the end, where the guest left room. */
    if (*at + length > size && !(get32(r, RTL_RCR) & RCR_WRAP && size < 64 * KiB))
        n = size > *at ? size - *at : 0;
    pci_dma_write(&r->pci, base + *at, data, n);
    if (n < length)
        pci_dma_write(&r->pci, base, (const uint8_t *)data + n, length - n);
    *at = n < length ? length - n : *at + length;
}

static bool receive_bytes(struct rtl8139 *r, const uint8_t *f, uint32_t size, unsigned kind)
{
    uint32_t ring = buffer_size(r), at = get16(r, RTL_CBR) % ring, start = at;
    uint32_t room = (ring + read_to(r) - at) % ring, need = (uint32_t)align_up(size + 8, 4);
    uint32_t header = 1 | kind | (size + 4) << 16, zero = 0;

    if (room && need >= room) {
        raise_interrupt(r, INT_RXOVW);
        return false;
    }
    put_bytes(r, &at, &header, 4);
    put_bytes(r, &at, f, size);
    put_bytes(r, &at, &zero, 4); /* the frame check sequence, which drivers cut off unseen */
    store_le(r->reg + RTL_CBR, (start + need) % ring, 2);
    raise_interrupt(r, INT_ROK);
    return true;
}

enum cplus_rx {
    RX_OWN = 1u << 31,
    RX_END = 1 << 30,
    RX_WHOLE = 3 << 28, /* first and last */
    RX_TAG = 1 << 16,
    RX_TCP = 1 << 16,
    RX_UDP = 2 << 16,
    RX_IP = 3 << 16,
};

static uint32_t protocol_of(const struct rtl8139 *r, const uint8_t *f, size_t size)
{
    if (!(get16(r, RTL_CPCR) & CPCR_CHECKSUM) || size < 34 || f[12] != 8 || f[13])
        return 0;
    if ((f[20] & 0x3f) | f[21])
        return RX_IP;
    return f[23] == 6 ? RX_TCP : f[23] == 17 ? RX_UDP : RX_IP;
}

static bool receive_descriptor(struct rtl8139 *r, uint8_t *f, uint32_t size, unsigned kind,
                               bool checked)
{
    gpa base = ring_base(r, RTL_RDSAR);
    uint32_t d[4], protocol = checked ? protocol_of(r, f, size) : 0, tag = 0;

    if (pci_dma_read(&r->pci, base + r->rx_at * DESCRIPTOR, d, sizeof(d)) < 0) {
        log_guest("%s: a receive descriptor lies outside RAM", r->pci.dev.id);
        return true;
    }
    if (!(d[0] & RX_OWN)) {
        raise_interrupt(r, INT_RXOVW);
        return false;
    }
    if (get16(r, RTL_CPCR) & CPCR_VLAN && size >= 18 && f[12] == 0x81 && !f[13]) {
        tag = RX_TAG | f[14] | (uint32_t)f[15] << 8;
        memmove(f + 4, f, 12);
        f += 4;
        size = MAX(size - 4, (uint32_t)MINIMUM);
    }
    if (size + 4 > (d[0] & 0x1fff))
        return true; /* it would not fit: lost */
    memset(f + size, 0, 4);
    pci_dma_write(&r->pci, d[2] | (gpa)d[3] << 32, f, size + 4);
    d[1] = tag;
    d[0] = (d[0] & RX_END) | RX_WHOLE | protocol | (size + 4) |
           (kind == FOR_GROUP ? 1u << 27
            : kind == FOR_ME  ? 1u << 26
                              : 1u << 25);
    pci_dma_write(&r->pci, base + r->rx_at * DESCRIPTOR + 4, &d[1], 4);
    pci_dma_write(&r->pci, base + r->rx_at * DESCRIPTOR, &d[0], 4);
    r->rx_at = next_of(r->rx_at, d[0]);
    raise_interrupt(r, INT_ROK);
    return true;
}

static bool receive_locked(struct rtl8139 *r, const struct net_packet *p)
{
    uint8_t f[LONGEST + 8];
    uint32_t size = 0;
    unsigned kind;
    bool taken;

    if (!(r->reg[RTL_CR] & CR_RE) || !(pci_get(&r->pci, PCI_COMMAND, 2) & PCI_COMMAND_MASTER) ||
        p->size > LONGEST)
        return true;
    for (unsigned i = 0; i < p->count; i++) {
        memcpy(f + size, p->iov[i].iov_base, p->iov[i].iov_len);
        size += (uint32_t)p->iov[i].iov_len;
    }
    memset(f + size, 0, sizeof(f) - size);
    size = MAX(size, (uint32_t)MINIMUM);
    kind = kind_of(r, f);
    if (kind == FOR_NOBODY)
        return true;
    if (r->reg[RTL_CPCR] & CPCR_RX)
        taken = receive_descriptor(r, f, size, kind, p->offload.flags & NET_DATA_VALID);
    else
        taken = receive_bytes(r, f, size, kind);
    if (taken) {
        r->tally_received += kind == FOR_ME;
        r->tally_broadcast += kind == FOR_ALL;
        r->tally_multicast += kind == FOR_GROUP;
    }
    return taken;
}

static bool rtl8139_receive(void *opaque, const struct net_packet *p)
{
    struct rtl8139 *r = to_rtl((struct device *)opaque);
    bool taken;

    r->receiving = true;
    taken = receive_locked(r, p);
    r->receiving = false;
    return taken;
}

static void net_ready(struct rtl8139 *r)
{
    if (r->nic.net)
        net_receive_ready(r->nic.net);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

/* Which bits of a register's byte a guest can write. */
static uint8_t mask_of(const struct rtl8139 *r, unsigned at)
{
    bool unlocked = r->reg[RTL_9346CR] >> 6 == 3;

    switch (at) {
    case 6:
    case 7:
    case RTL_ERBCR:
    case RTL_ERBCR + 1:
    case RTL_ERBCR + 2: /* ERSR */
    case RTL_CBR:
    case RTL_CBR + 1:
    case RTL_RERID:
    case RTL_TSADS:
    case RTL_TSADS + 1:
    case RTL_BMSR:
    case RTL_BMSR + 1:
    case RTL_ANLPAR:
    case RTL_ANLPAR + 1:
    case RTL_ANER:
    case RTL_ANER + 1: return 0;
    case RTL_CR: return CR_TE | CR_RE;
    case RTL_TCR + 2: return 0x07; /* bits 22 to 31 say which chip this is */
    case RTL_TCR + 3: return 0x03;
    case RTL_CONFIG0:
    case RTL_CONFIG1:
    case RTL_CONFIG3:
    case RTL_CONFIG4:
    case RTL_CONFIG5: return unlocked ? 0xff : 0;
    default: return 0xff;
    }
}

static void update_link(struct rtl8139 *r)
{
    bool up = nic_link(&r->nic);

    store_le(r->reg + RTL_BMSR, up ? 0x782d : 0x7809, 2);
    store_le(r->reg + RTL_ANLPAR, up ? 0x45e1 : 0, 2);
    r->reg[RTL_MSR] = (uint8_t)((r->reg[RTL_MSR] & 0xc0) | 0x10 | (up ? 0 : 4));
}

static void reset_chip(struct rtl8139 *r)
{
    uint8_t lock = r->reg[RTL_9346CR];

    memset(r->reg + RTL_MAR, 0, RTL_SIZE - RTL_MAR);
    r->reg[RTL_9346CR] = lock & 0xc0;
    store_le(r->reg + RTL_TCR, 0x74800000, 4); /* an RTL8139C+ */
    store_le(r->reg + RTL_CAPR, 0xfff0, 2);
    for (unsigned i = 0; i < SLOTS; i++)
        store_le(r->reg + RTL_TSD + 4 * i, TSD_OWN, 4);
    r->reg[RTL_CONFIG0] = 0x10;
    r->reg[RTL_CONFIG1] = 0x0c | 1; /* registers in ports and memory */
    r->reg[RTL_CONFIG3] = 1;
    store_le(r->reg + RTL_BMCR, 0x3100, 2); /* 100 Mbit/s, autonegotiation, full duplex */
    store_le(r->reg + RTL_ANAR, 0x05e1, 2);
    r->tx_at[0] = r->tx_at[1] = r->rx_at = 0;
    r->waiting = 0;
    r->counter_from = device_now(&r->pci.dev);
    timer_set(&r->timer, CLOCK_NEVER);
    update_link(r);
    update_interrupt(r);
    net_ready(r);
}

/* C+: the counters go to memory. */
static void dump_tally(struct rtl8139 *r)
{
    gpa to = (get32(r, RTL_TSD) & ~63u) | (gpa)get32(r, RTL_TSD + 4) << 32;
    uint8_t t[64] = {0};

    store_le(t, r->tally_sent, 8);
    store_le(t + 8, r->tally_received + r->tally_broadcast + r->tally_multicast, 8);
    store_le(t + 40, r->tally_received, 8);
    store_le(t + 48, r->tally_broadcast, 8);
    store_le(t + 56, r->tally_multicast, 4);
    pci_dma_write(&r->pci, to, t, sizeof(t));
    r->reg[RTL_TSD] &= (uint8_t)~8u;
}

/* What a write to these bytes brings about. */
static void have_effect(struct rtl8139 *r, unsigned at, unsigned size, uint8_t command)
{
    bool cplus = (r->reg[RTL_CPCR] & CPCR_TX) != 0;

#define TOUCHED(reg, length) ranges_overlap(at, size, reg, length)
    if (TOUCHED(RTL_CR, 1)) {
        if (command & CR_RST) {
            reset_chip(r);
            return;
        }
        if (command & CR_TE)
            r->tx_at[0] = r->tx_at[1] = 0;
        if (command & CR_RE)
            r->rx_at = 0;
        transmit(r);
        net_ready(r);
    }
    for (unsigned i = 0; i < SLOTS && !cplus; i++)
        if (TOUCHED(RTL_TSD + 4 * i, 4) && !(get32(r, RTL_TSD + 4 * i) & TSD_OWN)) {
            r->waiting |= (uint8_t)(1u << i);
            transmit(r);
        }
    if (cplus && TOUCHED(RTL_TSD, 4) && r->reg[RTL_TSD] & 8)
        dump_tally(r);
    if (TOUCHED(RTL_CAPR, 2) || TOUCHED(RTL_RBSTART, 4))
        net_ready(r);
    if (TOUCHED(RTL_RBSTART, 4))
        store_le(r->reg + RTL_CBR, 0, 2);
    if (TOUCHED(RTL_IMR, 4)) {
        update_interrupt(r);
        if (r->reg[RTL_CPCR] & CPCR_RX)
            net_ready(r);
    }
    if (TOUCHED(RTL_TCTR, 4))
        r->counter_from = device_now(&r->pci.dev);
    if (TOUCHED(RTL_TCTR, 4) || TOUCHED(RTL_TIMERINT, 4))
        arm_timer(r);
    if (TOUCHED(RTL_MPC, 4))
        memset(r->reg + RTL_MPC, 0, 4);
    if (TOUCHED(RTL_9346CR, 1)) {
        uint8_t v = r->reg[RTL_9346CR];

        eeprom93_drive(&r->eeprom, v >> 6 == 2 && v & 8, v & 4, v & 2);
    }
    if (TOUCHED(RTL_BMCR, 2)) {
        if (get16(r, RTL_BMCR) & 0x8000)
            store_le(r->reg + RTL_BMCR, 0x3100, 2);
        store_le(r->reg + RTL_BMCR, get16(r, RTL_BMCR) & ~0x0200u, 2); /* restarted, done */
        update_link(r);
    }
    if (TOUCHED(RTL_MSR, 1))
        update_link(r);
    if (TOUCHED(RTL_TPPOLL, 1))
        transmit(r);
#undef TOUCHED
}

static uint64_t rtl8139_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct rtl8139 *r = to_rtl(dev);
    uint8_t bytes[RTL_SIZE + 4];
    uint16_t slots = 0;

    memcpy(bytes, r->reg, RTL_SIZE);
    memset(bytes + RTL_SIZE, 0xff, 4);
    bytes[RTL_CR] = (uint8_t)((r->reg[RTL_CR] & (CR_TE | CR_RE)) |
                              (get16(r, RTL_CBR) == read_to(r) ? CR_BUFE : 0));
    bytes[RTL_9346CR] = (uint8_t)((bytes[RTL_9346CR] & ~1u) | r->eeprom.data);
    bytes[RTL_TPPOLL] = 0;
    store_le(bytes + RTL_TCTR, counter(r), 4);
    for (unsigned i = 0; i < SLOTS; i++) {
        uint32_t status = get32(r, RTL_TSD + 4 * i);

        slots |= (uint16_t)((status & TSD_TOK ? 1u << (12 + i) : 0) |
                            (status & TSD_OWN ? 1u << i : 0));
    }
    store_le(bytes + RTL_TSADS, slots, 2);
    return load_le(bytes + offset, size);
}

static void rtl8139_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtl8139 *r = to_rtl(dev);
    uint8_t command = 0;

    for (unsigned i = 0; i < size && offset + i < RTL_SIZE; i++) {
        unsigned at = (unsigned)offset + i;
        uint8_t byte = (uint8_t)(value >> 8 * i), mask = mask_of(r, at);

        if (at == RTL_CR)
            command = byte;
        if (at == RTL_ISR || at == RTL_ISR + 1)
            r->reg[at] &= (uint8_t)~byte;
        else
            r->reg[at] = (uint8_t)((r->reg[at] & ~mask) | (byte & mask));
    }
    have_effect(r, (unsigned)offset, size, command);
}

static const struct io_ops rtl8139_io = {rtl8139_read, rtl8139_write, 1, 4};

/* ---- the device --------------------------------------------------------------------------------
 */

static void rtl8139_writable(void *opaque)
{
    transmit(to_rtl((struct device *)opaque));
}

static void rtl8139_link(void *opaque, bool up)
{
    update_link(to_rtl((struct device *)opaque));
    raise_interrupt(to_rtl((struct device *)opaque), INT_LINK);
}

static void fill_eeprom(struct rtl8139 *r)
{
    uint16_t *w = r->eeprom.word;

    memset(w, 0, sizeof(r->eeprom.word));
    w[0] = 0x8129;
    w[1] = 0x10ec;
    w[2] = 0x8139;
    for (unsigned i = 0; i < 3; i++)
        w[7 + i] = (uint16_t)load_le(r->nic.mac + 2 * i, 2);
}

static int rtl8139_realize(struct pci_device *p, struct error *err)
{
    struct rtl8139 *r = container_of(p, struct rtl8139, pci);
    int result;

    timer_init(&r->timer, &p->dev, timer_expired);
    pci_bar_add(p, 0, PCI_BAR_IO, false, RTL_SIZE);
    pci_bar_add(p, 1, PCI_BAR_MEM32, false, RTL_SIZE);
    result = pci_bar_io(p, 0, 0, RTL_SIZE, &rtl8139_io, err);
    result = result ? result : pci_bar_io(p, 1, 0, RTL_SIZE, &rtl8139_io, err);
    return result
               ? result
               : nic_open(&p->dev, &r->nic, rtl8139_receive, rtl8139_writable, rtl8139_link, err);
}

static void rtl8139_unrealize(struct pci_device *p)
{
    nic_close(&container_of(p, struct rtl8139, pci)->nic);
}

static void rtl8139_reset(struct pci_device *p)
{
    struct rtl8139 *r = container_of(p, struct rtl8139, pci);

    memset(r->reg, 0, sizeof(r->reg));
    r->tally_sent = r->tally_received = r->tally_broadcast = r->tally_multicast = 0;
    memcpy(r->reg + RTL_IDR, r->nic.mac, NET_MAC);
    fill_eeprom(r);
    eeprom93_reset(&r->eeprom);
    reset_chip(r);
}

static void rtl8139_refresh(struct pci_device *p)
{
    struct rtl8139 *r = container_of(p, struct rtl8139, pci);

    r->rx_at %= RING_MAX;
    r->tx_at[0] %= RING_MAX;
    r->tx_at[1] %= RING_MAX;
    arm_timer(r);
    update_link(r);
    net_ready(r);
}

static const struct pci_type rtl8139_pci = {
    .vendor = 0x10ec,
    .device = 0x8139,
    .subsystem_vendor = 0x10ec,
    .subsystem = 0x8139,
    .revision = 0x20, /* C+ */
    .class_code = 0x020000,
    .pin = 1,
    .realize = rtl8139_realize,
    .reset = rtl8139_reset,
    .refresh = rtl8139_refresh,
    .unrealize = rtl8139_unrealize,
};

static const struct property rtl8139_properties[] = {
    PCI_PROPERTIES(struct rtl8139, pci),
    NIC_PROPERTIES(struct rtl8139, nic),
    PROPERTY_END,
};

static const struct state_field rtl8139_state[] = {
    PCI_STATE(struct rtl8139, pci),
    STATE_ARRAY(struct rtl8139, reg),
    STATE_STRUCT(struct rtl8139, eeprom, eeprom93_state),
    STATE_ARRAY(struct rtl8139, tx_at),
    STATE_U16(struct rtl8139, rx_at),
    STATE_U8(struct rtl8139, waiting),
    STATE_U64(struct rtl8139, tally_sent),
    STATE_U64(struct rtl8139, tally_received),
    STATE_U64(struct rtl8139, tally_broadcast),
    STATE_U64(struct rtl8139, tally_multicast),
    STATE_U64(struct rtl8139, counter_from),
    STATE_END,
};

const struct device_type rtl8139_type = {
    .name = "rtl8139",
    .summary = "Realtek RTL8139C+ Fast Ethernet",
    .bus = "pci",
    .instance_size = sizeof(struct rtl8139),
    .properties = rtl8139_properties,
    .state = rtl8139_state,
    .bus_data = &rtl8139_pci,
    PCI_DEVICE_HOOKS,
};
