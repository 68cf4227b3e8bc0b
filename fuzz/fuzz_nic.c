/*
 * fuzz_nic.c - a guest that does anything to a network card. The input names a card; then come
 * actions of 12 bytes: register accesses, descriptors, payload, time, snapshots. The card has no
 * cable: what it sends comes back where the guest switched loopback on, which the preamble does.
 */
#include "fuzz.h"

#include "base/log.h"
#include "devices/net/e1000.h"
#include "devices/net/rtl8139.h"
#include "state/state.h"
#include "unit/boot/bare_machine.h"

#include <stdlib.h>

enum { ACTION = 12, CARDS = 3, MEMORY = 1 * MiB, BAR = 0xe0000000, RING = 0x8000, DATA = 0x10000 };

static const struct device_type *const types[CARDS] = {&e1000_type, &e1000e_type, &rtl8139_type};

struct guest {
    struct machine *m;
    struct pci_host *host;
    struct pci_device *card[CARDS];
};

static void check(bool good, const char *what)
{
    if (!good) {
        log_error("%s", what);
        abort();
    }
}

static void build(struct guest *g)
{
    g->m = bare_machine(MEMORY, "qemu64");
    check(g->m != NULL, "no machine");
    g->host = pci_host_add(g->m, "pci.0", NULL);
    for (unsigned i = 0; i < CARDS; i++) {
        auto_free char *where = xasprintf("addr=%u", 3 + i);
        struct device *dev = device_add(g->m, types[i], where, NULL);

        check(dev != NULL, "no card");
        g->card[i] = to_pci(dev);
    }
}

/* Addresses and bus mastering, as firmware would; a reset takes them away. */
static void place(struct guest *g, unsigned card)
{
    unsigned devfn = (3 + card) << 3;

    for (unsigned i = 0; i < 6; i++)
        pci_config_write(g->host, 0, devfn, PCI_BAR0 + 4 * i,
                         g->card[card]->bar[i].kind == PCI_BAR_IO ? 0xc000 : BAR + 0x100000 * i, 4);
    pci_config_write(g->host, 0, devfn, PCI_COMMAND, 7, 2);
}

static gpa registers(unsigned card)
{
    return card == 2 ? BAR + 0x100000 : BAR;
}

/* Registers that matter, so that chance finds them. */
static const uint16_t e1000_hot[] = {
    E1000_CTRL,  E1000_EECD,  E1000_EERD,      E1000_CTRL_EXT, E1000_MDIC,  E1000_ICR,  E1000_ITR,
    E1000_ICS,   E1000_IMS,   E1000_IMC,       E1000_EIAC,     E1000_IAM,   E1000_IVAR, E1000_EITR,
    E1000_RCTL,  E1000_TCTL,  E1000_PSRCTL,    E1000_RDBAL,    E1000_RDLEN, E1000_RDH,  E1000_RDT,
    E1000_TDBAL, E1000_TDLEN, E1000_TDH,       E1000_TDT,      E1000_TDT,   E1000_TDT,  0x3900,
    0x3908,      0x3910,      E1000_TDT + 256, E1000_RXCSUM,   E1000_RFCTL, E1000_VFTA, E1000_MTA,
    E1000_RA,    E1000_GORCL, E1000_TIMINCA,   E1000_SYSTIML,  E1000_VET,
};
static const uint8_t rtl_hot[] = {
    RTL_IDR,     RTL_MAR,  RTL_TSD,    RTL_TSD + 4, RTL_TSAD,     RTL_TSAD + 4,
    RTL_RBSTART, RTL_CR,   RTL_CAPR,   RTL_IMR,     RTL_ISR,      RTL_TCR,
    RTL_RCR,     RTL_TCTR, RTL_9346CR, RTL_CONFIG1, RTL_BMCR,     RTL_TPPOLL,
    RTL_TPPOLL,  RTL_CPCR, RTL_RDSAR,  RTL_MSR,     RTL_TIMERINT,
};

static void snapshot(struct device *dev)
{
    struct state_buffer saved = {0}, again = {0};

    state_save_device(&saved, dev);
    device_reset(dev);
    check(state_load_device(&saved, dev, NULL) == 0, "a snapshot does not load");
    state_save_device(&again, dev);
    check(saved.size == again.size && !memcmp(saved.data, again.data, saved.size),
          "a snapshot is not what was saved");
    state_buffer_free(&saved);
    state_buffer_free(&again);
}

static void act(struct guest *g, unsigned card, const uint8_t *a)
{
    uint32_t value = (uint32_t)load_le(a + 4, 4), d[4];
    unsigned hot = card == 2 ? rtl_hot[a[1] % ARRAY_SIZE(rtl_hot)]
                             : e1000_hot[a[1] % ARRAY_SIZE(e1000_hot)];
    gpa at = registers(card) + (a[0] & 0x80 ? load_le(a + 2, 2) % (card == 2 ? 256 : 0xc004) : hot);
    unsigned size = card == 2 ? 1u << (a[0] >> 5 & 3) : 4;

    switch (a[0] & 15) {
    case 0 ... 5: memory_write(g->m->memory, VIEW_NORMAL, at, value, size); break;
    case 6: /* small values: indices, lengths */
        memory_write(g->m->memory, VIEW_NORMAL, at, value & 0x3f, size);
        break;
    case 7: memory_read(g->m->memory, VIEW_NORMAL, at, size); break;
    case 8 ... 10: /* a descriptor, its buffer mostly in RAM */
        d[0] = a[0] & 0x10 ? value : DATA + (value & 0xfff);
        d[1] = a[3] == 0xff ? value : 0;
        d[2] = (uint32_t)load_le(a + 4, 4);
        d[3] = (uint32_t)load_le(a + 8, 4);
        if (card == 2)
            for (unsigned i = 0; i < 2; i++) { /* its command comes first */
                uint32_t swap = d[i];

                d[i] = d[i + 2];
                d[i + 2] = swap;
            }
        dma_write(g->m->memory, RING + 16 * (a[2] & 15), d, sizeof(d));
        break;
    case 11: dma_write(g->m->memory, DATA + (a[1] & 63), a + 2, 10); break;
    case 12: clock_advance(g->m->clock, value & 0xffffff); break;
    case 13: snapshot(&g->card[card]->dev); break;
    case 14:
        pci_config_write(g->host, 0, (3 + card) << 3, (unsigned)load_le(a + 2, 2) & 0xff, value, 1);
        place(g, card);
        break;
    default:
        if (a[1] < 16)
            device_reset(&g->card[card]->dev);
        place(g, card);
        break;
    }
}

static size_t action(uint8_t *to, unsigned kind, unsigned reg, uint32_t value)
{
    memset(to, 0, ACTION);
    to[0] = (uint8_t)(0x80 | 0x40 | kind); /* a register by number, 32 bits */
    store_le(to + 2, reg, 2);
    store_le(to + 4, value, 4);
    return ACTION;
}

/* Rings and loopback, then chance. */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = 1;
    unsigned card = (unsigned)(fuzz_random() % CARDS), n = (unsigned)(fuzz_random() % 150);

    to[0] = (uint8_t)card;
    if (card < 2 && fuzz_random() % 8) {
        size += action(to + size, 0, E1000_TDBAL, RING);
        size += action(to + size, 0, E1000_TDLEN, 128);
        size += action(to + size, 0, E1000_TCTL, TCTL_EN);
        size += action(to + size, 0, E1000_RDBAL, RING + 128);
        size += action(to + size, 0, E1000_RDLEN, 128);
        size += action(to + size, 0, E1000_RDT, 7);
        size += action(to + size, 0, E1000_RFCTL, fuzz_random() & RFCTL_EXTEN);
        size += action(to + size, 0, E1000_RCTL,
                       RCTL_EN | RCTL_UPE | RCTL_MPE | RCTL_LOOPBACK | (uint32_t)fuzz_random());
    } else if (card == 2 && fuzz_random() % 8) {
        size += action(to + size, 0, RTL_CPCR, (uint32_t)fuzz_random());
        size += action(to + size, 0, RTL_TSAD, RING);
        size += action(to + size, 0, RTL_RDSAR, RING);
        size += action(to + size, 0, RTL_RBSTART, DATA);
        size += action(to + size, 0, RTL_TCR, 3 << 17);
        size += action(to + size, 0, RTL_RCR, (uint32_t)fuzz_random() | RCR_AAP);
        size += action(to + size, 0, RTL_ERBCR, (CR_TE | CR_RE) << 24);
    }
    for (unsigned i = 0; i < n * ACTION; i++)
        to[size++] = (uint8_t)fuzz_random();
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest g;
    unsigned card;

    if (!size)
        return 0;
    log_set_level(LOG_ERROR);
    if (!g.m)
        build(&g);
    card = data[0] % CARDS;
    device_reset(&g.card[card]->dev);
    place(&g, card);
    for (data++, size--; size >= ACTION; data += ACTION, size -= ACTION)
        act(&g, card, data);
    device_reset(&g.card[card]->dev);
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        check(!g.m->gsi[i].raised, "a reset left an interrupt pin high");
    return 0;
}
