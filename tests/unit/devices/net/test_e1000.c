/* Tests of the 82540EM and the 82574L at their registers and rings. */
#include "support/unit.h"

#include "cable.h"
#include "devices/net/e1000.h"

#include <unistd.h>

enum {
    TX_RING = 0x10000,
    RX_RING = 0x20000,
    RING = 8, /* descriptors */
    TX_BUFFER = 0x100000,
    RX_BUFFER = 0x200000, /* 0x4000 bytes for each descriptor */
};

static const uint8_t my_mac[6] = {0x52, 0x54, 0, 0x11, 0x22, 0x33};

static int setup(void **state)
{
    return cable_setup(state, &e1000_type);
}

static int setup_e(void **state)
{
    return cable_setup(state, &e1000e_type);
}

static uint32_t rd(struct cable *c, unsigned reg)
{
    return (uint32_t)mmio_read(c->m, CABLE_MEMORY + reg, 4);
}

static void wr(struct cable *c, unsigned reg, uint32_t value)
{
    mmio_write(c->m, CABLE_MEMORY + reg, value, 4);
}

static void descriptor(struct cable *c, gpa ring, unsigned n, uint64_t address, uint32_t low,
                       uint32_t high)
{
    uint32_t d[4] = {(uint32_t)address, (uint32_t)(address >> 32), low, high};

    ram_write(c, ring + 16 * n, d, sizeof(d));
}

static void start_tx(struct cable *c)
{
    wr(c, E1000_TDBAL, TX_RING);
    wr(c, E1000_TDBAH, 0);
    wr(c, E1000_TDLEN, RING * 16);
    wr(c, E1000_TDH, 0);
    wr(c, E1000_TDT, 0);
    wr(c, E1000_TCTL, TCTL_EN | 1 << 3);
}

static void start_rx(struct cable *c, uint32_t rctl)
{
    for (unsigned i = 0; i < RING; i++)
        descriptor(c, RX_RING, i, RX_BUFFER + 0x4000 * i, 0, 0);
    wr(c, E1000_RDBAL, RX_RING);
    wr(c, E1000_RDBAH, 0);
    wr(c, E1000_RDLEN, RING * 16);
    wr(c, E1000_RDH, 0);
    wr(c, E1000_RDT, RING - 1);
    wr(c, E1000_RCTL, RCTL_EN | RCTL_SECRC | rctl);
}

static void fill(uint8_t *frame, size_t size, const uint8_t *to)
{
    for (size_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(i * 5 + 1);
    memcpy(frame, to, 6);
    frame[12] = 0x88;
    frame[13] = 0xb5;
}

static unsigned be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint16_t sum16(const uint8_t *p, size_t size, uint32_t sum)
{
    for (size_t i = 0; i < size; i++)
        sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* ---- identity ---------------------------------------------------------------------------------
 */

static void the_eeprom_holds_the_address(void **state)
{
    struct cable *c = *state;
    bool e = c->card->dev.type == &e1000e_type;
    uint16_t sum = 0;

    assert_int_equal(cable_config(c, PCI_VENDOR_ID, 4), e ? 0x10d38086 : 0x100e8086);
    assert_int_equal(cable_config(c, PCI_CLASS, 1) | cable_config(c, PCI_CLASS + 1, 2) << 8,
                     0x020000);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t v;

        wr(c, E1000_EERD, i << (e ? 2 : 8) | 1);
        v = rd(c, E1000_EERD);
        assert_true(v & (e ? 2 : 16));
        if (i < 3)
            assert_int_equal(v >> 16, load_le(my_mac + 2 * i, 2));
        sum = (uint16_t)(sum + (v >> 16));
    }
    assert_int_equal(sum, 0xbaba);
    assert_int_equal(rd(c, E1000_RA), load_le(my_mac, 4));
    assert_int_equal(rd(c, E1000_RA + 4), load_le(my_mac + 4, 2) | 0x80000000);
}

static void clock_eeprom(struct cable *c, bool bit)
{
    uint32_t base = EECD_CS | EECD_REQ | (bit ? EECD_DI : 0);

    wr(c, E1000_EECD, base);
    wr(c, E1000_EECD, base | EECD_SK);
    wr(c, E1000_EECD, base);
}

static void the_eeprom_is_read_bit_by_bit(void **state)
{
    struct cable *c = *state;

    wr(c, E1000_EECD, EECD_REQ);
    assert_true(rd(c, E1000_EECD) & EECD_GNT);
    for (unsigned word = 0; word < 3; word++) {
        unsigned command = 6 << 6 | word, value = 0;

        wr(c, E1000_EECD, EECD_REQ | EECD_CS);
        for (int i = 8; i >= 0; i--)
            clock_eeprom(c, command >> i & 1);
        test_save_reset_restore(c->m);
        for (int i = 0; i < 16; i++) {
            wr(c, E1000_EECD, EECD_CS | EECD_REQ | EECD_SK);
            value = value << 1 | (rd(c, E1000_EECD) & EECD_DO ? 1 : 0);
            wr(c, E1000_EECD, EECD_CS | EECD_REQ);
        }
        wr(c, E1000_EECD, EECD_REQ);
        assert_int_equal(value, load_le(my_mac + 2 * word, 2));
    }
    wr(c, E1000_EECD, 0);
    assert_false(rd(c, E1000_EECD) & EECD_GNT);
}

static uint32_t phy(struct cable *c, unsigned number)
{
    wr(c, E1000_MDIC, number << 16 | 1 << 21 | MDIC_READ);
    assert_true(rd(c, E1000_MDIC) & MDIC_READY);
    assert_false(rd(c, E1000_MDIC) & MDIC_ERROR);
    return rd(c, E1000_MDIC) & 0xffff;
}

static void the_phy_follows_the_cable(void **state)
{
    struct cable *c = *state;
    bool e = c->card->dev.type == &e1000e_type;

    assert_int_equal(phy(c, 2) << 16 | phy(c, 3), e ? 0x01410cb1 : 0x01410c20);
    assert_true(phy(c, 1) & 4);
    assert_true(rd(c, E1000_STATUS) & STATUS_LU);
    wr(c, E1000_MDIC, 1 << 16 | 2 << 21 | MDIC_READ);
    assert_true(rd(c, E1000_MDIC) & MDIC_ERROR);
    wr(c, E1000_IMS, ICR_LSC);
    assert_false(test_irq(c->m, CABLE_GSI));
    net_set_link(c->net, false);
    for (int i = 0; i < 1000 && !test_irq(c->m, CABLE_GSI); i++)
        usleep(1000);
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_false(rd(c, E1000_STATUS) & STATUS_LU);
    assert_false(phy(c, 1) & 4);
    assert_int_equal(rd(c, E1000_ICR) & ICR_LSC, ICR_LSC);
    assert_false(test_irq(c->m, CABLE_GSI));
    /* Autonegotiation, and a reset of the PHY, tell again. */
    wr(c, E1000_MDIC, 0 << 16 | 1 << 21 | MDIC_WRITE | 0x1340);
    assert_int_equal(rd(c, E1000_ICR) & ICR_LSC, ICR_LSC);
    assert_int_equal(phy(c, 0), 0x1140);
}

/* ---- transmission -----------------------------------------------------------------------------
 */

static void legacy_frames_go_out(void **state)
{
    struct cable *c = *state;
    uint8_t frame[1514], got[2000];

    fill(frame, sizeof(frame), (const uint8_t *)"\x02\0\0\0\0\1");
    ram_write(c, TX_BUFFER, frame, sizeof(frame));
    start_tx(c);
    wr(c, E1000_IMS, ICR_TXDW);
    /* In two pieces, the second behind a later write of the tail. */
    descriptor(c, TX_RING, 0, TX_BUFFER, 1000 | 1 << 27, 0);
    descriptor(c, TX_RING, 1, TX_BUFFER + 1000, 514 | 0x9 << 24, 0);
    wr(c, E1000_TDT, 1);
    assert_true(cable_quiet(c));
    assert_false(test_irq(c->m, CABLE_GSI));
    test_save_reset_restore(c->m);
    wr(c, E1000_TDT, 2);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 1514);
    assert_memory_equal(got, frame, 1514);
    assert_int_equal(rd(c, E1000_TDH), 2);
    assert_true(mmio_read(c->m, TX_RING + 12, 1) & 1);
    assert_true(mmio_read(c->m, TX_RING + 16 + 12, 1) & 1);
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_ICR) & (ICR_TXDW | ICR_TXQE), ICR_TXDW | ICR_TXQE);
    assert_false(test_irq(c->m, CABLE_GSI));
    /* A short one is padded; no report, no interrupt; the ring wraps. */
    for (unsigned i = 2; i < RING + 1; i++) {
        descriptor(c, TX_RING, i % RING, TX_BUFFER, (20 + i) | 1 << 24, 0);
        wr(c, E1000_TDT, (i + 1) % RING);
        memset(got, 0xff, sizeof(got));
        assert_int_equal(cable_receive(c, got, sizeof(got)), 60);
        assert_memory_equal(got, frame, 20 + i);
        assert_int_equal(got[20 + i] | got[59], 0);
    }
    assert_int_equal(rd(c, E1000_TDH), 1);
    assert_int_equal(rd(c, E1000_ICR) & ICR_TXDW, 0);
    /* A legacy checksum over [14, end) at 50, and a VLAN tag. */
    wr(c, E1000_CTRL, CTRL_SLU | CTRL_VME);
    descriptor(c, TX_RING, 1, TX_BUFFER, 100 | 0x45u << 24 | 50 << 16, 14 << 8 | 0x2005u << 16);
    wr(c, E1000_TDT, 2);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 104);
    assert_memory_equal(got, frame, 12);
    assert_int_equal(be16(got + 12), 0x8100);
    assert_int_equal(be16(got + 14), 0x2005);
    {
        uint32_t was = be16(frame + 50), now = be16(got + 54);

        assert_int_equal(sum16(frame + 14, 86, 0), now);
        assert_int_not_equal(was, now);
    }
    assert_int_equal(rd(c, E1000_GPTC), 9);
    assert_int_equal(rd(c, E1000_GPTC), 0); /* reading clears */
}

enum { IP = 14, TCP = 34, DATA = 54, PAYLOAD = 3000, MSS = 1000 };

/* As Linux prepares a TCP frame for segmentation: no length, no checksum, the pseudo header's sum
 * without the length. */
static size_t tso_frame(uint8_t *f)
{
    static const uint8_t start[] = {
        2, 0,  0,    0, 0,  1, 0x52, 0x54, 0,  0x11, 0x22, 0x33, 8,    0, 0x45, 0, 0, 0,
        0, 7,  0x40, 0, 64, 6, 0,    0,    10, 0,    2,    15,   10,   0, 2,    2, 1, 2,
        0, 80, 0,    0, 1,  0, 0,    0,    0,  1,    0x50, 0x18, 0x20, 0, 0,    0, 0, 0};
    uint16_t pseudo = (uint16_t)~sum16(start + 26, 8, 6);

    memcpy(f, start, sizeof(start));
    f[TCP + 16] = (uint8_t)(pseudo >> 8);
    f[TCP + 17] = (uint8_t)pseudo;
    for (size_t i = 0; i < PAYLOAD; i++)
        f[DATA + i] = (uint8_t)(i / 3);
    return DATA + PAYLOAD;
}

static uint32_t pseudo_sum(const uint8_t *ip, unsigned protocol, size_t length)
{
    uint32_t sum = protocol + (uint32_t)length;

    for (int i = 12; i < 20; i += 2)
        sum += be16(ip + i);
    return sum;
}

static void large_frames_are_segmented(void **state)
{
    struct cable *c = *state;
    uint8_t frame[DATA + PAYLOAD], got[2000];
    size_t size = tso_frame(frame);

    ram_write(c, TX_BUFFER, frame, size);
    start_tx(c);
    /* The context: sums of IP and TCP, segments. */
    descriptor(c, TX_RING, 0,
               (uint64_t)(TCP | (TCP + 16) << 8) << 32 | IP | (IP + 10) << 8 |
                   (uint32_t)(TCP - 1) << 16,
               PAYLOAD | 0x27u << 24, (uint32_t)MSS << 16 | DATA << 8);
    descriptor(c, TX_RING, 1, TX_BUFFER, DATA | 1 << 20 | 0x24u << 24, 0x300);
    wr(c, E1000_TDT, 2);
    test_save_reset_restore(c->m);
    descriptor(c, TX_RING, 2, TX_BUFFER + DATA, PAYLOAD | 1 << 20 | 0x2du << 24, 0);
    wr(c, E1000_TDT, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(cable_receive(c, got, sizeof(got)), DATA + MSS);
        assert_int_equal(be16(got + IP + 2), 40 + MSS);
        assert_int_equal(be16(got + IP + 4), 7 + i);
        assert_int_equal(sum16(got + IP, 20, 0), 0);
        assert_int_equal(be16(got + TCP + 6), 0x100 + MSS * i);
        assert_int_equal(got[TCP + 13], i == 2 ? 0x18 : 0x10);
        assert_int_equal(sum16(got + TCP, 20 + MSS, pseudo_sum(got + IP, 6, 20 + MSS)), 0);
        assert_memory_equal(got + DATA, frame + DATA + MSS * i, MSS);
    }
    assert_int_equal(rd(c, E1000_TDH), 3);
    assert_true(mmio_read(c->m, TX_RING + 32 + 12, 1) & 1);
    assert_int_equal(rd(c, E1000_TSCTC), 1);

    /* Only checksums, by the other context: the first still says segments. */
    descriptor(c, TX_RING, 3,
               (uint64_t)(TCP | (TCP + 16) << 8) << 32 | IP | (IP + 10) << 8 |
                   (uint32_t)(TCP - 1) << 16,
               0x20u << 24, 0);
    {
        uint16_t pseudo = (uint16_t)~sum16(frame + 26, 8, 6 + 20 + 100);

        frame[IP + 3] = 140;
        frame[TCP + 16] = (uint8_t)(pseudo >> 8);
        frame[TCP + 17] = (uint8_t)pseudo;
        ram_write(c, TX_BUFFER, frame, size);
    }
    descriptor(c, TX_RING, 4, TX_BUFFER, (DATA + 100) | 1 << 20 | 0x29u << 24, 0x300);
    wr(c, E1000_TDT, 5);
    assert_int_equal(cable_receive(c, got, sizeof(got)), DATA + 100);
    assert_int_equal(sum16(got + IP, 20, 0), 0);
    assert_int_equal(sum16(got + TCP, 120, pseudo_sum(got + IP, 6, 120)), 0);
}

static void a_confused_ring_sends_nothing(void **state)
{
    struct cable *c = *state;
    uint8_t got[2000];

    start_tx(c);
    wr(c, E1000_TDT, 200); /* outside */
    wr(c, E1000_TDT, 0);
    wr(c, E1000_TDLEN, 0);
    wr(c, E1000_TDT, 1);
    wr(c, E1000_TDLEN, RING * 16);
    wr(c, E1000_TDBAL, 0x80000000); /* no RAM */
    wr(c, E1000_TDT, 2);
    wr(c, E1000_TDBAL, TX_RING);
    wr(c, E1000_TDT, 0);
    /* Segments of nothing, headers beyond the frame, a buffer outside RAM. */
    descriptor(c, TX_RING, 0, ~UINT64_C(0), 0xffff | 0x27u << 24, 0);
    descriptor(c, TX_RING, 1, TX_BUFFER, 40 | 1 << 20 | 0x25u << 24, 0x300);
    wr(c, E1000_TDT, 2);
    assert_int_equal(rd(c, E1000_TDH), 2);
    assert_true(cable_quiet(c));
    descriptor(c, TX_RING, 2, 0x90000000, 64 | 1 << 24, 0);
    wr(c, E1000_TDT, 3);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 64);
    wr(c, E1000_TCTL, 0);
    wr(c, E1000_TDT, 4);
    assert_true(cable_quiet(c));
    assert_int_equal(rd(c, E1000_TDH), 3);
}

/* ---- reception --------------------------------------------------------------------------------
 */

static void frames_arrive(void **state)
{
    struct cable *c = *state;
    uint8_t frame[1514], got[1600], d[16];

    fill(frame, sizeof(frame), my_mac);
    start_rx(c, 0);
    wr(c, E1000_IMS, ICR_RXT0);
    cable_send(c, frame, 1514);
    assert_true(cable_wait(c, RX_RING + 12, 3));
    ram_read(c, RX_RING, d, 16);
    assert_int_equal(load_le(d + 8, 2), 1514);
    ram_read(c, RX_BUFFER, got, 1514);
    assert_memory_equal(got, frame, 1514);
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_ICR) & ICR_RXT0, ICR_RXT0);
    assert_false(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_RDH), 1);
    /* A short one is padded; with the frame check sequence it has four bytes more. */
    wr(c, E1000_RCTL, RCTL_EN);
    cable_send(c, frame, 30);
    assert_true(cable_wait(c, RX_RING + 16 + 12, 3));
    ram_read(c, RX_RING + 16, d, 16);
    assert_int_equal(load_le(d + 8, 2), 64);
    ram_read(c, RX_BUFFER + 0x4000, got, 64);
    assert_memory_equal(got, frame, 30);
    assert_int_equal(got[30] | got[63], 0);
    /* Small buffers: one frame over three descriptors. */
    wr(c, E1000_RCTL, RCTL_EN | RCTL_SECRC | 2 << 16);
    cable_send(c, frame, 1200);
    assert_true(cable_wait(c, RX_RING + 4 * 16 + 12, 3));
    for (unsigned i = 0; i < 3; i++) {
        ram_read(c, RX_RING + 16 * (2 + i), d, 16);
        assert_int_equal(load_le(d + 8, 2), i == 2 ? 1200 - 1024 : 512);
        assert_int_equal(d[12] & 3, i == 2 ? 3 : 1);
        ram_read(c, RX_BUFFER + 0x4000 * (2 + i), got, 512);
        assert_memory_equal(got, frame + 512 * i, i == 2 ? 1200 - 1024 : 512);
    }
    assert_int_equal(rd(c, E1000_GPRC), 3);
    assert_int_equal(rd(c, E1000_GORCL), 1514 + 4 + 60 + 8 + 1200 + 4);
    assert_int_equal(rd(c, E1000_GORCL + 4), 0);
    assert_int_equal(rd(c, E1000_GORCL), 0);
    test_save_reset_restore(c->m);
    /* Two descriptors are left, a frame of three waits; then it comes, and the next as well. */
    cable_send(c, frame, 1514);
    cable_send(c, frame, 100);
    usleep(20000);
    assert_int_equal(rd(c, E1000_RDH), 5);
    assert_false(mmio_read(c->m, RX_RING + 5 * 16 + 12, 1) & 1);
    for (unsigned i = 0; i < 5; i++)
        descriptor(c, RX_RING, i, RX_BUFFER + 0x4000 * i, 0, 0);
    wr(c, E1000_RDT, 4);
    assert_true(cable_wait(c, RX_RING + 12, 3));
    assert_int_equal(rd(c, E1000_RDH), 1);
    /* RXDMT0: half of the ring or less is left. */
    wr(c, E1000_ICR, ~0u);
    (void)rd(c, E1000_ICR);
    cable_send(c, frame, 100);
    assert_true(cable_wait(c, RX_RING + 16 + 12, 3));
    assert_int_equal(rd(c, E1000_ICR) & ICR_RXDMT0, ICR_RXDMT0);
}

static bool arrives(struct cable *c, const uint8_t *to, unsigned *at)
{
    uint8_t frame[60];
    bool there;

    fill(frame, sizeof(frame), to);
    wr(c, E1000_RDT, (*at + RING - 1) % RING);
    cable_send(c, frame, sizeof(frame));
    usleep(10000);
    there = mmio_read(c->m, RX_RING + 16 * *at + 12, 1) & 1;
    if (there) {
        descriptor(c, RX_RING, *at, RX_BUFFER, 0, 0);
        *at = (*at + 1) % RING;
    }
    return there;
}

static void the_filter_knows_its_addresses(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, multi[6] = {1, 0, 0x5e, 0, 0, 0xfb};
    static const uint8_t all[6] = {255, 255, 255, 255, 255, 255};
    struct cable *c = *state;
    uint8_t tagged[64];
    unsigned at = 0, hash;

    start_rx(c, 0);
    assert_true(arrives(c, my_mac, &at));
    assert_false(arrives(c, other, &at));
    assert_false(arrives(c, multi, &at));
    assert_false(arrives(c, all, &at));
    wr(c, E1000_RCTL, RCTL_EN | RCTL_BAM);
    assert_true(arrives(c, all, &at));
    wr(c, E1000_RCTL, RCTL_EN | RCTL_UPE);
    assert_true(arrives(c, other, &at));
    assert_false(arrives(c, multi, &at));
    wr(c, E1000_RCTL, RCTL_EN | RCTL_MPE);
    assert_true(arrives(c, multi, &at));
    /* The hash: bits 47 to 36 of the address with offset 0, 43 to 32 with offset 3. */
    hash = (multi[5] << 8 | multi[4]) >> 4;
    wr(c, E1000_RCTL, RCTL_EN);
    wr(c, E1000_MTA + 4 * (hash >> 5), 1u << (hash & 31));
    assert_true(arrives(c, multi, &at));
    wr(c, E1000_RCTL, RCTL_EN | 3 << 12);
    assert_false(arrives(c, multi, &at));
    hash = (multi[5] << 8 | multi[4]) & 0xfff;
    wr(c, E1000_MTA + 4 * (hash >> 5), 1u << (hash & 31));
    assert_true(arrives(c, multi, &at));
    /* A second address. */
    wr(c, E1000_RA + 8 * 15, (uint32_t)load_le(other, 4));
    assert_false(arrives(c, other, &at));
    wr(c, E1000_RA + 8 * 15 + 4, (uint32_t)load_le(other + 4, 2) | 0x80000000);
    assert_true(arrives(c, other, &at));
    /* VLANs: only 5, and the tag goes into the descriptor. */
    wr(c, E1000_RCTL, RCTL_EN | RCTL_VFE | RCTL_SECRC);
    wr(c, E1000_CTRL, CTRL_SLU | CTRL_VME);
    wr(c, E1000_VFTA, 1 << 5);
    fill(tagged, sizeof(tagged), my_mac);
    memcpy(tagged + 12, "\x81\x00\x20\x06", 4);
    cable_send(c, tagged, sizeof(tagged));
    tagged[15] = 5;
    cable_send(c, tagged, sizeof(tagged));
    assert_true(cable_wait(c, RX_RING + 16 * at + 12, 3 | 8));
    assert_int_equal(mmio_read(c->m, RX_RING + 16 * at + 14, 2), 0x2005);
    assert_int_equal(mmio_read(c->m, RX_RING + 16 * at + 8, 2), 60);
    assert_int_equal(rd(c, E1000_RDH), (at + 1) % RING);
    /* Switched off, it takes nothing. */
    at = (at + 1) % RING;
    wr(c, E1000_RCTL, RCTL_UPE);
    assert_false(arrives(c, my_mac, &at));
}

static void loopback_comes_back(void **state)
{
    struct cable *c = *state;
    uint8_t frame[100], got[100];

    fill(frame, sizeof(frame), my_mac);
    ram_write(c, TX_BUFFER, frame, sizeof(frame));
    start_rx(c, RCTL_LOOPBACK);
    start_tx(c);
    descriptor(c, TX_RING, 0, TX_BUFFER, 100 | 1 << 24, 0);
    wr(c, E1000_TDT, 1);
    assert_int_equal(mmio_read(c->m, RX_RING + 12, 1) & 3, 3);
    ram_read(c, RX_BUFFER, got, 100);
    assert_memory_equal(got, frame, 100);
    assert_true(cable_quiet(c));
}

/* ---- interrupts -------------------------------------------------------------------------------
 */

static void interrupts_are_throttled(void **state)
{
    struct cable *c = *state;

    wr(c, E1000_ITR, 1000); /* 256 us */
    wr(c, E1000_IMS, ICR_TXDW);
    wr(c, E1000_ICS, ICR_TXDW);
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_ICR) & 0xff, ICR_TXDW);
    wr(c, E1000_ICS, ICR_TXDW);
    assert_false(test_irq(c->m, CABLE_GSI));
    test_advance(c->m, 255 * NSEC_PER_USEC);
    assert_false(test_irq(c->m, CABLE_GSI));
    test_save_reset_restore(c->m);
    test_advance(c->m, 1 * NSEC_PER_USEC);
    assert_true(test_irq(c->m, CABLE_GSI));
    /* The mask takes it away and gives it back, after the interval. */
    wr(c, E1000_IMC, ICR_TXDW);
    assert_false(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_IMS), 0);
    test_advance(c->m, NSEC_PER_MSEC);
    wr(c, E1000_IMS, ICR_TXDW);
    assert_true(test_irq(c->m, CABLE_GSI));
    wr(c, E1000_ICR, ICR_TXDW);
    assert_false(test_irq(c->m, CABLE_GSI));
    /* A reset of the card ends all of it. */
    test_advance(c->m, NSEC_PER_MSEC);
    wr(c, E1000_ICS, ICR_TXDW);
    assert_true(test_irq(c->m, CABLE_GSI));
    wr(c, E1000_CTRL, CTRL_RST);
    assert_false(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, E1000_IMS), 0);
    assert_int_equal(rd(c, E1000_CTRL) & CTRL_RST, 0);
    assert_int_equal(rd(c, E1000_RA), load_le(my_mac, 4));
}

static void registers_answer_through_ports_too(void **state)
{
    struct cable *c = *state;
    uint16_t base = (uint16_t)(cable_config(c, PCI_BAR0 + 4, 4) & ~3u);

    out32(c->m, base, E1000_VET);
    assert_int_equal(in32(c->m, base), E1000_VET);
    assert_int_equal(in32(c->m, base + 4), 0x8100);
    out32(c->m, base + 4, 0x88a8);
    assert_int_equal(rd(c, E1000_VET), 0x88a8);
    /* What there is not reads as zero. */
    assert_int_equal(rd(c, E1000_IVAR), 0);
    wr(c, E1000_IVAR, 5);
    assert_int_equal(rd(c, E1000_IVAR), 0);
    assert_int_equal(rd(c, 0x1fffc), 0);
    wr(c, E1000_STATUS, 0);
    assert_true(rd(c, E1000_STATUS) & STATUS_FD);
}

static void enable_msix(struct cable *c)
{
    unsigned at = cable_config(c, PCI_CAPABILITIES, 1);

    while (at && cable_config(c, at, 1) != PCI_CAP_MSIX)
        at = cable_config(c, at + 1, 1);
    assert_int_not_equal(at, 0);
    for (unsigned i = 0; i < E1000_VECTORS; i++) {
        mmio_write(c->m, CABLE_MSIX + 16 * i, 0xfee00000, 4);
        mmio_write(c->m, CABLE_MSIX + 16 * i + 4, 0, 4);
        mmio_write(c->m, CABLE_MSIX + 16 * i + 8, 0x40 + i, 4);
        mmio_write(c->m, CABLE_MSIX + 16 * i + 12, 0, 4);
    }
    cable_set_config(c, at + 2, 0x8000, 2);
}

static void vectors_of_queues(void **state)
{
    struct cable *c = *state;
    uint8_t frame[100];

    enable_msix(c);
    wr(c, E1000_IVAR, 8 | 9 << 8 | 10 << 16);
    wr(c, E1000_EIAC, ICR_RXQ0 | ICR_TXQ0);
    wr(c, E1000_IMS, ICR_RXQ0 | ICR_TXQ0 | ICR_OTHER | ICR_LSC);
    /* Transmission: vector 1; the cause is cleared by the message. */
    start_tx(c);
    fill(frame, sizeof(frame), my_mac);
    ram_write(c, TX_BUFFER, frame, sizeof(frame));
    descriptor(c, TX_RING, 0, TX_BUFFER, 100 | 0x9 << 24, 0);
    wr(c, E1000_TDT, 1);
    assert_int_equal(c->messages, 1);
    assert_int_equal(c->message_data, 0x41);
    assert_int_equal(rd(c, E1000_ICR) & ICR_TXQ0, 0);
    /* Reception by extended descriptors: vector 0, twice. */
    wr(c, E1000_RFCTL, RFCTL_EXTEN);
    start_rx(c, 0);
    for (unsigned i = 0; i < 2; i++) {
        cable_send(c, frame, 90 + i);
        assert_true(cable_wait(c, RX_RING + 16 * i + 8, 3));
        pthread_mutex_lock(&c->card->dev.lock);
        assert_int_equal(c->messages, 2 + i);
        assert_int_equal(c->message_data, 0x40);
        pthread_mutex_unlock(&c->card->dev.lock);
        assert_int_equal(mmio_read(c->m, RX_RING + 16 * i + 12, 2), 90 + i);
    }
    /* Others stay until they are cleared, and tell once. */
    wr(c, E1000_ICS, ICR_LSC);
    assert_int_equal(c->messages, 4);
    assert_int_equal(c->message_data, 0x42);
    assert_int_equal(rd(c, E1000_IMS) & ICR_OTHER, ICR_OTHER);
    wr(c, E1000_IMS, ICR_RXQ0);
    assert_int_equal(c->messages, 4);
    assert_int_equal(rd(c, E1000_ICR),
                     ICR_ASSERTED | ICR_LSC | ICR_OTHER | ICR_TXDW | ICR_TXQE | ICR_RXT0);
    assert_int_equal(rd(c, E1000_ICR), 0); /* reading acknowledged it */
    /* EITR holds a vector back. */
    wr(c, E1000_EITR, 1000);
    wr(c, E1000_ICS, ICR_RXQ0);
    assert_int_equal(c->messages, 5);
    wr(c, E1000_ICS, ICR_RXQ0);
    wr(c, E1000_ICS, ICR_TXQ0);
    assert_int_equal(c->messages, 6);
    assert_int_equal(c->message_data, 0x41);
    test_advance(c->m, 256 * NSEC_PER_USEC);
    assert_int_equal(c->messages, 7);
    assert_int_equal(c->message_data, 0x40);
    /* Auto-mask. */
    wr(c, E1000_IAM, ICR_OTHER);
    wr(c, E1000_CTRL_EXT, CTRL_EXT_EIAME);
    wr(c, E1000_ICS, ICR_LSC);
    assert_int_equal(c->messages, 8);
    assert_int_equal(rd(c, E1000_IMS) & ICR_OTHER, 0);
}

static void a_split_packet_fills_its_buffers(void **state)
{
    struct cable *c = *state;
    uint8_t frame[4000], got[4000];
    uint32_t d[8] = {RX_BUFFER, 0, RX_BUFFER + 0x1000, 0, RX_BUFFER + 0x3000, 0, 0, 0};

    fill(frame, sizeof(frame), my_mac);
    wr(c, E1000_RFCTL, RFCTL_EXTEN);
    wr(c, E1000_PSRCTL, 2 | 2 << 8 | 2 << 16);
    start_rx(c, RCTL_SPLIT | RCTL_LPE);
    for (unsigned i = 0; i < 4; i++)
        ram_write(c, RX_RING + 32 * i, d, sizeof(d));
    wr(c, E1000_RDT, 3);
    cable_send(c, frame, 4000);
    assert_true(cable_wait(c, RX_RING + 8, 3));
    ram_read(c, RX_RING, d, sizeof(d));
    assert_int_equal(d[3] & 0xffff, 256);
    assert_int_equal(d[4], 2048 << 16);
    assert_int_equal(d[5], 4000 - 256 - 2048);
    ram_read(c, RX_BUFFER, got, 256);
    ram_read(c, RX_BUFFER + 0x1000, got + 256, 2048);
    ram_read(c, RX_BUFFER + 0x3000, got + 2304, 4000 - 2304);
    assert_memory_equal(got, frame, 4000);
}

#define ON(which, test) cmocka_unit_test_setup_teardown(test, which, cable_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(setup, the_eeprom_holds_the_address),
        ON(setup_e, the_eeprom_holds_the_address),
        ON(setup, the_eeprom_is_read_bit_by_bit),
        ON(setup, the_phy_follows_the_cable),
        ON(setup_e, the_phy_follows_the_cable),
        ON(setup, legacy_frames_go_out),
        ON(setup_e, legacy_frames_go_out),
        ON(setup, large_frames_are_segmented),
        ON(setup_e, large_frames_are_segmented),
        ON(setup, a_confused_ring_sends_nothing),
        ON(setup, frames_arrive),
        ON(setup_e, frames_arrive),
        ON(setup, the_filter_knows_its_addresses),
        ON(setup, loopback_comes_back),
        ON(setup, interrupts_are_throttled),
        ON(setup_e, interrupts_are_throttled),
        ON(setup, registers_answer_through_ports_too),
        ON(setup_e, vectors_of_queues),
        ON(setup_e, a_split_packet_fills_its_buffers),
    };
    return cmocka_run_group_tests_name("e1000", tests, NULL, NULL);
}
