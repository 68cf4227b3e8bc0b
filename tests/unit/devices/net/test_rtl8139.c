/* Tests of the RTL8139C+ at its registers, in C mode and in C+ mode. */
#include "support/unit.h"

#include "cable.h"
#include "devices/net/rtl8139.h"

#include <unistd.h>

enum {
    BUFFER = 0x100000,
    RX = 0x200000, /* the ring of bytes, or buffers of 0x800 */
    TX_RING = 0x10000,
    RX_RING = 0x11000,
};

static const uint8_t my_mac[6] = {0x52, 0x54, 0, 0x11, 0x22, 0x33};

static int setup(void **state)
{
    return cable_setup(state, &rtl8139_type);
}

static uint32_t rd(struct cable *c, unsigned reg, unsigned size)
{
    return (uint32_t)machine_in(c->m, (uint16_t)(CABLE_PORTS + reg), size);
}

static void wr(struct cable *c, unsigned reg, uint32_t value, unsigned size)
{
    machine_out(c->m, (uint16_t)(CABLE_PORTS + reg), value, size);
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

static void identity(void **state)
{
    struct cable *c = *state;

    assert_int_equal(cable_config(c, PCI_VENDOR_ID, 4), 0x813910ec);
    assert_int_equal(cable_config(c, PCI_REVISION, 1), 0x20);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(rd(c, RTL_IDR + i, 1), my_mac[i]);
    assert_int_equal(rd(c, RTL_IDR, 4), load_le(my_mac, 4));
    /* Memory shows the same registers. */
    assert_int_equal(mmio_read(c->m, CABLE_MEMORY + 0x200000 + RTL_TCR, 4), 0x74800000);
    wr(c, RTL_TCR, ~0u, 4);
    assert_int_equal(rd(c, RTL_TCR, 4) & 0x7cc00000, 0x74800000);
    /* The EEPROM: words 7 to 9 are the address. */
    for (unsigned word = 6; word < 10; word++) {
        unsigned command = 6 << 6 | word, value = 0;

        wr(c, RTL_9346CR, 0x80, 1);
        for (int i = 10; i >= 0; i--) { /* two zeros come first */
            uint32_t bit = command >> i & 1 ? 2 : 0;

            wr(c, RTL_9346CR, 0x88 | bit, 1);
            wr(c, RTL_9346CR, 0x8c | bit, 1);
        }
        test_save_reset_restore(c->m);
        for (int i = 0; i < 16; i++) {
            wr(c, RTL_9346CR, 0x88, 1);
            wr(c, RTL_9346CR, 0x8c, 1);
            value = value << 1 | (rd(c, RTL_9346CR, 1) & 1);
        }
        assert_int_equal(value, word < 7 ? 0 : load_le(my_mac + 2 * (word - 7), 2));
    }
    /* The configuration is locked. */
    wr(c, RTL_9346CR, 0, 1);
    wr(c, RTL_CONFIG1, 0x55, 1);
    assert_int_not_equal(rd(c, RTL_CONFIG1, 1), 0x55);
    wr(c, RTL_9346CR, 0xc0, 1);
    wr(c, RTL_CONFIG1, 0x55, 1);
    assert_int_equal(rd(c, RTL_CONFIG1, 1), 0x55);
    wr(c, RTL_CR, CR_RST, 1);
    assert_int_equal(rd(c, RTL_CR, 1), CR_BUFE);
    assert_int_equal(rd(c, RTL_CONFIG1, 1), 0x0d);
}

static void four_slots_send(void **state)
{
    struct cable *c = *state;
    uint8_t frame[1514], got[2000];

    fill(frame, sizeof(frame), (const uint8_t *)"\x02\0\0\0\0\1");
    ram_write(c, BUFFER, frame, sizeof(frame));
    wr(c, RTL_IMR, INT_TOK, 2);
    for (unsigned i = 0; i < 4; i++) {
        wr(c, RTL_TSAD + 4 * i, BUFFER, 4);
        assert_int_equal(rd(c, RTL_TSD + 4 * i, 4), TSD_OWN);
    }
    wr(c, RTL_TSD, 1514, 4); /* before the transmitter is on: it waits */
    assert_true(cable_quiet(c));
    test_save_reset_restore(c->m);
    wr(c, RTL_CR, CR_TE, 1);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 1514);
    assert_memory_equal(got, frame, 1514);
    assert_int_equal(rd(c, RTL_TSD, 4), TSD_OWN | TSD_TOK | 1514);
    assert_int_equal(rd(c, RTL_TSADS, 2), 0x100f);
    assert_true(test_irq(c->m, CABLE_GSI));
    wr(c, RTL_ISR, INT_TOK, 2);
    assert_false(test_irq(c->m, CABLE_GSI));
    for (unsigned i = 0; i < 4; i++) {
        wr(c, RTL_TSD + 4 * i, 40 + i, 4);
        memset(got, 0xff, sizeof(got));
        assert_int_equal(cable_receive(c, got, sizeof(got)), 60);
        assert_memory_equal(got, frame, 40 + i);
        assert_int_equal(got[59], 0);
    }
    assert_int_equal(rd(c, RTL_TSADS, 2), 0xf00f);
    /* Outside RAM: zeros, and nothing worse. */
    wr(c, RTL_TSAD, 0x90000000, 4);
    wr(c, RTL_TSD, 0x1fff, 4);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 0x1fff > 2000 ? 2000 : 0x1fff);
    assert_int_equal(got[0] | got[1999], 0);
}

static bool wait_isr(struct cable *c, unsigned bits)
{
    for (int i = 0; i < 5000; i++) {
        if ((rd(c, RTL_ISR, 2) & bits) == bits)
            return true;
        usleep(200);
    }
    return false;
}

static void the_ring_of_bytes_fills(void **state)
{
    struct cable *c = *state;
    uint8_t frame[1514], got[2000];
    unsigned at = 0, frames = 0, first;

    fill(frame, sizeof(frame), my_mac);
    wr(c, RTL_RBSTART, RX, 4);
    wr(c, RTL_RCR, RCR_APM | RCR_WRAP, 4);
    wr(c, RTL_CR, CR_RE, 1);
    wr(c, RTL_IMR, INT_ROK, 2);
    assert_true(rd(c, RTL_CR, 1) & CR_BUFE);
    cable_send(c, frame, 1001);
    assert_true(wait_isr(c, INT_ROK));
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_false(rd(c, RTL_CR, 1) & CR_BUFE);
    ram_read(c, RX, got, 4 + 1001);
    assert_int_equal(load_le(got, 2), 0x4001);
    assert_int_equal(load_le(got + 2, 2), 1005);
    assert_memory_equal(got + 4, frame, 1001);
    assert_int_equal(rd(c, RTL_CBR, 2), 1012); /* aligned */
    test_save_reset_restore(c->m);
    /* Fill it: the frame that does not fit waits for the guest. */
    for (frames = 1; frames < 12; frames++) {
        wr(c, RTL_ISR, 0xffff, 2);
        cable_send(c, frame, 1001);
        usleep(5000);
        if (rd(c, RTL_ISR, 2) & INT_RXOVW)
            break;
    }
    assert_int_equal(frames, 8); /* 8 * 1012 < 8192 */
    first = rd(c, RTL_CBR, 2);
    assert_int_equal(first, 8 * 1012);
    at = 3 * 1012;
    wr(c, RTL_ISR, 0xffff, 2);
    wr(c, RTL_CAPR, at - 16, 2);
    assert_true(wait_isr(c, INT_ROK));
    /* With WRAP it runs on behind the end. */
    ram_read(c, RX + first, got, 4 + 1001);
    assert_int_equal(load_le(got + 2, 2), 1005);
    assert_memory_equal(got + 4, frame, 1001);
    assert_int_equal(rd(c, RTL_CBR, 2), (first + 1012) % 8192);
    /* Without, it goes on at the start. */
    wr(c, RTL_CAPR, (first + 1012 - 16) % 8192, 2);
    assert_true(rd(c, RTL_CR, 1) & CR_BUFE);
    wr(c, RTL_RCR, RCR_APM, 4);
    for (unsigned n = 0; n < 8; n++) {
        first = rd(c, RTL_CBR, 2);
        wr(c, RTL_ISR, 0xffff, 2);
        cable_send(c, frame, 1001);
        assert_true(wait_isr(c, INT_ROK));
        wr(c, RTL_CAPR, (rd(c, RTL_CBR, 2) - 16) & 0xffff, 2);
    }
    assert_true(first + 1012 > 8192);
    ram_read(c, RX + first, got, 8192 - first);
    ram_read(c, RX, got + 8192 - first, 1005 - (8192 - first));
    assert_memory_equal(got + 4, frame, 1001);
}

static bool arrives(struct cable *c, const uint8_t *to)
{
    uint8_t frame[60];
    bool there;

    fill(frame, sizeof(frame), to);
    wr(c, RTL_ISR, 0xffff, 2);
    cable_send(c, frame, sizeof(frame));
    usleep(8000);
    there = rd(c, RTL_ISR, 2) & INT_ROK;
    wr(c, RTL_CAPR, (rd(c, RTL_CBR, 2) - 16) & 0xffff, 2);
    return there;
}

static void the_filter_knows_its_addresses(void **state)
{
    static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, multi[6] = {1, 0, 0x5e, 0, 0, 1};
    static const uint8_t all[6] = {255, 255, 255, 255, 255, 255};
    struct cable *c = *state;

    wr(c, RTL_RBSTART, RX, 4);
    wr(c, RTL_CR, CR_RE, 1);
    assert_false(arrives(c, my_mac));
    wr(c, RTL_RCR, RCR_APM, 4);
    assert_true(arrives(c, my_mac));
    assert_false(arrives(c, all));
    wr(c, RTL_RCR, RCR_AB, 4);
    assert_true(arrives(c, all));
    wr(c, RTL_RCR, RCR_AM, 4);
    assert_false(arrives(c, multi));
    /* 01:00:5e:00:00:01 has hash 31: the CRC begins with 011111. */
    wr(c, RTL_MAR, 1u << 31, 4);
    assert_true(arrives(c, multi));
    assert_false(arrives(c, other));
    wr(c, RTL_RCR, RCR_AAP, 4);
    assert_true(arrives(c, other));
    wr(c, RTL_CR, 0, 1);
    assert_false(arrives(c, my_mac));
}

/* ---- C+ ---------------------------------------------------------------------------------------
 */

static void put(struct cable *c, gpa ring, unsigned n, uint32_t command, uint32_t vlan, uint64_t at)
{
    uint32_t d[4] = {command, vlan, (uint32_t)at, (uint32_t)(at >> 32)};

    ram_write(c, ring + 16 * n, d, sizeof(d));
}

static uint32_t status(struct cable *c, gpa ring, unsigned n)
{
    uint32_t d;

    ram_read(c, ring + 16 * n, &d, 4);
    return d;
}

static void start_cplus(struct cable *c)
{
    wr(c, RTL_CPCR, CPCR_TX | CPCR_RX | CPCR_CHECKSUM | CPCR_VLAN, 2);
    wr(c, RTL_TSAD, TX_RING, 4);
    wr(c, RTL_TSAD + 4, 0, 4);
    wr(c, RTL_RDSAR, RX_RING, 4);
    wr(c, RTL_RDSAR + 4, 0, 4);
    wr(c, RTL_RCR, RCR_APM, 4);
    wr(c, RTL_CR, CR_TE | CR_RE, 1);
}

enum { OWN = 1 << 31, END = 1 << 30, FIRST = 1 << 29, LAST = 1 << 28, LARGE = 1 << 27 };
enum { IP = 14, TCP = 34, DATA = 54, PAYLOAD = 3000, MSS = 1000 };

static void descriptors_send(void **state)
{
    static const uint8_t start[] = {
        2, 0,  0,    0, 0,  1, 0x52, 0x54, 0,  0x11, 0x22, 0x33, 8,    0, 0x45, 0, 0, 0,
        0, 7,  0x40, 0, 64, 6, 0,    0,    10, 0,    2,    15,   10,   0, 2,    2, 1, 2,
        0, 80, 0,    0, 1,  0, 0,    0,    0,  1,    0x50, 0x18, 0x20, 0, 0,    0, 0, 0};
    struct cable *c = *state;
    uint8_t frame[DATA + PAYLOAD], got[2000];

    start_cplus(c);
    memcpy(frame, start, sizeof(start));
    for (size_t i = 0; i < PAYLOAD; i++)
        frame[DATA + i] = (uint8_t)(i / 3);
    ram_write(c, BUFFER, frame, sizeof(frame));
    /* A large frame in two pieces, the second of which comes late. */
    put(c, TX_RING, 0, (uint32_t)OWN | FIRST | LARGE | MSS << 16 | 54, 0, BUFFER);
    put(c, TX_RING, 1, 0, 0, 0);
    wr(c, RTL_TPPOLL, 0x40, 1);
    assert_true(cable_quiet(c));
    test_save_reset_restore(c->m);
    put(c, TX_RING, 1, (uint32_t)OWN | LAST | PAYLOAD, 0, BUFFER + 54);
    wr(c, RTL_TPPOLL, 0x40, 1);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t pseudo = 6 + 20 + MSS;

        assert_int_equal(cable_receive(c, got, sizeof(got)), DATA + MSS);
        assert_int_equal(be16(got + IP + 2), 40 + MSS);
        assert_int_equal(sum16(got + IP, 20, 0), 0);
        for (int at = 12; at < 20; at += 2)
            pseudo += be16(got + IP + at);
        assert_int_equal(sum16(got + TCP, 20 + MSS, pseudo), 0);
        assert_int_equal(be16(got + TCP + 6), 0x100 + MSS * i);
        assert_memory_equal(got + DATA, frame + DATA + MSS * i, MSS);
    }
    assert_int_equal(status(c, TX_RING, 0) & OWN, 0);
    assert_int_equal(status(c, TX_RING, 1) & OWN, 0);
    assert_int_equal(rd(c, RTL_ISR, 2) & INT_TOK, INT_TOK);
    /* Checksums, a tag, the end of the ring. */
    frame[IP + 3] = 140;
    ram_write(c, BUFFER, frame, sizeof(frame));
    put(c, TX_RING, 2, (uint32_t)OWN | END | FIRST | LAST | 1 << 18 | 1 << 16 | 154,
        1 << 17 | 0x0520, BUFFER);
    wr(c, RTL_TPPOLL, 0x40, 1);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 158);
    assert_int_equal(be16(got + 12), 0x8100);
    assert_int_equal(be16(got + 14), 0x2005);
    assert_int_equal(sum16(got + 4 + IP, 20, 0), 0);
    assert_int_equal(status(c, TX_RING, 2) & (OWN | END), END);
    put(c, TX_RING, 0, (uint32_t)OWN | FIRST | LAST | 100, 0, BUFFER);
    wr(c, RTL_TPPOLL, 0x40, 1);
    assert_int_equal(cable_receive(c, got, sizeof(got)), 100);
    assert_memory_equal(got, frame, 100);
    /* The counters go to memory. */
    wr(c, RTL_TSD + 4, 0, 4);
    wr(c, RTL_TSD, 0x30000 | 8, 4);
    assert_int_equal(rd(c, RTL_TSD, 4) & 8, 0);
    assert_int_equal(mmio_read(c->m, 0x30000, 8), 3);
}

static void descriptors_receive(void **state)
{
    struct cable *c = *state;
    uint8_t frame[1514], got[2000];

    fill(frame, sizeof(frame), my_mac);
    put(c, RX_RING, 0, (uint32_t)OWN | 1600, 0, RX);
    put(c, RX_RING, 1, (uint32_t)OWN | END | 1600, 0, RX + 0x800);
    start_cplus(c);
    wr(c, RTL_IMR, INT_ROK | INT_RXOVW, 2);
    cable_send(c, frame, 1514);
    assert_true(wait_isr(c, INT_ROK));
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_int_equal(status(c, RX_RING, 0) & 0xf0001fff, FIRST | LAST | 1518);
    assert_int_equal(status(c, RX_RING, 0) >> 26 & 1, 1);
    ram_read(c, RX, got, 1514);
    assert_memory_equal(got, frame, 1514);
    test_save_reset_restore(c->m);
    wr(c, RTL_ISR, 0xffff, 2);
    memcpy(frame + 12, "\x81\x00\x20\x05", 4);
    cable_send(c, frame, 100);
    assert_true(wait_isr(c, INT_ROK));
    assert_int_equal(status(c, RX_RING, 1) & 0xf0001fff, FIRST | LAST | END | 100);
    assert_int_equal(mmio_read(c->m, RX_RING + 16 + 4, 4), 1 << 16 | 0x0520);
    ram_read(c, RX + 0x800, got, 96);
    assert_memory_equal(got + 12, frame + 16, 84);
    /* None is left: the frame waits until the guest is done with its interrupt. */
    wr(c, RTL_ISR, 0xffff, 2);
    frame[12] = 0x88;
    cable_send(c, frame, 200);
    assert_true(wait_isr(c, INT_RXOVW));
    assert_int_equal(rd(c, RTL_ISR, 2) & INT_ROK, 0);
    put(c, RX_RING, 0, (uint32_t)OWN | 1600, 0, RX);
    wr(c, RTL_ISR, 0xffff, 2);
    assert_true(wait_isr(c, INT_ROK));
    assert_int_equal(status(c, RX_RING, 0) & 0xf0001fff, FIRST | LAST | 204);
}

static void the_timer_counts(void **state)
{
    struct cable *c = *state;

    wr(c, RTL_IMR, INT_TIMEOUT, 2);
    wr(c, RTL_TIMERINT, 33333, 4); /* a millisecond */
    wr(c, RTL_TCTR, 0, 4);
    test_advance(c->m, 900 * NSEC_PER_USEC);
    assert_in_range(rd(c, RTL_TCTR, 4), 29998, 30001);
    assert_false(test_irq(c->m, CABLE_GSI));
    test_save_reset_restore(c->m);
    test_advance(c->m, 101 * NSEC_PER_USEC);
    assert_true(test_irq(c->m, CABLE_GSI));
    wr(c, RTL_ISR, INT_TIMEOUT, 2);
    assert_false(test_irq(c->m, CABLE_GSI));
}

static void the_link_tells(void **state)
{
    struct cable *c = *state;

    assert_int_equal(rd(c, RTL_BMSR, 2) & 4, 4);
    assert_int_equal(rd(c, RTL_MSR, 1) & 4, 0);
    wr(c, RTL_IMR, INT_LINK, 2);
    net_set_link(c->net, false);
    assert_true(wait_isr(c, INT_LINK));
    assert_true(test_irq(c->m, CABLE_GSI));
    assert_int_equal(rd(c, RTL_BMSR, 2) & 4, 0);
    assert_int_equal(rd(c, RTL_MSR, 1) & 4, 4);
    wr(c, RTL_BMCR, 0x8000, 2);
    assert_int_equal(rd(c, RTL_BMCR, 2), 0x3100);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, cable_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity),
        T(four_slots_send),
        T(the_ring_of_bytes_fills),
        T(the_filter_knows_its_addresses),
        T(descriptors_send),
        T(descriptors_receive),
        T(the_timer_counts),
        T(the_link_tells),
    };
    return cmocka_run_group_tests_name("rtl8139", tests, NULL, NULL);
}
