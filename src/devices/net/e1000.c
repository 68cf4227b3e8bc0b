/*
 * e1000.c - the two controllers' registers, PHY, EEPROM and interrupts; e1000_ring.c has the rings.
 *
 * `map` says which registers there are. What is not in it reads as zero and takes no writes: guests
 * probe much that one of the family has and another has not. A register with a meaning has a case
 * in e1000_read() or e1000_write(); all others only keep what is written.
 *
 * Interrupts: ICR, IMS and the guest time before which nobody is to be disturbed give the level of
 * the pin, or the messages. `told` has the causes for which a message went out (or the pin rose)
 * and that nobody acknowledged since: they send no other. So update_interrupt() may be called at
 * any time.
 *
 * The delay timers (RDTR, RADV, TIDV, TADV) only keep their values: interrupts come at once, held
 * back by ITR and EITR.
 */
#include "devices/net/e1000.h"

#include "machine/machine.h"

#include <stdlib.h>

/* ---- what there is ----------------------------------------------------------------------------
 */

enum access { RW = 1, RO = 2, E_ONLY = 4 };

static const struct {
    uint16_t offset, count;
    uint8_t access;
} map[] = {
    {E1000_CTRL, 1, RW},
    {E1000_STATUS, 1, RO},
    {E1000_EECD, 3, RW}, /* EERD, CTRL_EXT */
    {E1000_MDIC, 1, RW},
    {E1000_FCAL, 3, RW}, /* FCAH, FCT */
    {E1000_VET, 1, RW},
    {E1000_ICR, 2, RW}, /* ITR */
    {E1000_ICS, 1, RW},
    {E1000_IMS, 1, RW},
    {E1000_IMC, 1, RW},
    {E1000_EIAC, 1, RW | E_ONLY},
    {E1000_IAM, 1, RW | E_ONLY},
    {E1000_IVAR, 6, RW | E_ONLY}, /* EITR */
    {E1000_RCTL, 1, RW},
    {E1000_FCTTV, 1, RW},
    {E1000_TXCW, 1, RW},
    {E1000_RXCW, 1, RO},
    {E1000_TCTL, 2, RW}, /* TCTL_EXT */
    {E1000_TIPG, 1, RW},
    {E1000_AIT, 1, RW},
    {E1000_LEDCTL, 1, RW},
    {E1000_EXTCNF_CTRL, 3, RW | E_ONLY},
    {E1000_PBA, 1, RW},
    {0x1008, 1, RW | E_ONLY}, /* PBS */
    {0x1010, 1, RO | E_ONLY}, /* EEMNGCTL */
    {E1000_FCRTL, 1, RW},
    {0x2168, 1, RW}, /* FCRTH */
    {E1000_PSRCTL, 1, RW | E_ONLY},
    {0x2410, 4, RW}, /* packet buffer pointers */
    {0x2420, 1, RW},
    {0x2428, 1, RW},
    {0x2430, 1, RW},
    {E1000_RDBAL, 3, RW},
    {E1000_RDH, 1, RW},
    {E1000_RDT, 1, RW},
    {E1000_RDTR, 1, RW},
    {E1000_RXDCTL, 2, RW},     /* RADV */
    {0x2900, 12, RW | E_ONLY}, /* the second receive queue: nothing is put there */
    {0x2c00, 1, RW},           /* RSRPD */
    {0x2c08, 1, RW | E_ONLY},  /* RAID */
    {0x3000, 2, RW},           /* TXDMAC, KABGTXD */
    {0x3410, 4, RW},
    {0x3420, 1, RW},
    {0x3428, 1, RW},
    {0x3430, 1, RW},
    {E1000_TDBAL, 3, RW},
    {E1000_TDH, 1, RW},
    {E1000_TDT, 1, RW},
    {E1000_TIDV, 1, RW},
    {E1000_TXDCTL, 3, RW}, /* TADV, TSPMT */
    {E1000_TARC, 1, RW | E_ONLY},
    {E1000_TDBAL + 0x100, 3, RW | E_ONLY},
    {E1000_TDH + 0x100, 1, RW | E_ONLY},
    {E1000_TDT + 0x100, 1, RW | E_ONLY},
    {E1000_TXDCTL + 0x100, 1, RW | E_ONLY},
    {E1000_TARC + 0x100, 1, RW | E_ONLY},
    {E1000_STATISTICS, (E1000_STATISTICS_END - E1000_STATISTICS) / 4, RO},
    {E1000_RXCSUM, 1, RW},
    {E1000_RFCTL, 1, RW | E_ONLY},
    {E1000_MTA, 128, RW},
    {E1000_RA, 32, RW},
    {E1000_VFTA, 128, RW},
    {E1000_WUC, 1, RW},
    {0x5808, 1, RW}, /* WUFC */
    {0x5810, 1, RW}, /* WUS */
    {E1000_MRQC, 1, RW | E_ONLY},
    {E1000_MANC, 1, RW},
    {0x5838, 1, RW},          /* IPAV */
    {0x5840, 8, RW},          /* IP4AT */
    {0x5880, 4, RW},          /* IP6AT */
    {0x5900, 1, RO},          /* WUPL */
    {0x5b00, 9, RW | E_ONLY}, /* GCR, GSC */
    {E1000_FACTPS, 1, RO | E_ONLY},
    {E1000_SWSM, 2, RW | E_ONLY},    /* FWSM */
    {0x5b64, 1, RW | E_ONLY},        /* GCR2 */
    {E1000_RETA, 42, RW | E_ONLY},   /* RSSRK */
    {E1000_SYSTIML, 7, RW | E_ONLY}, /* TIMINCA, stamps */
    {0xb61c, 4, RW | E_ONLY},
};

static unsigned access_of(const struct e1000 *e, uint64_t offset)
{
    for (unsigned i = 0; i < ARRAY_SIZE(map); i++)
        if (offset >= map[i].offset && offset < map[i].offset + 4u * map[i].count)
            return map[i].access & E_ONLY && !e->e ? 0 : map[i].access & (RW | RO);
    return 0;
}

/* ---- interrupts -------------------------------------------------------------------------------
 */

/* Say that a vector (0: the pin or MSI; 1 + n: MSI-X n) wants to fire; false: not yet. */
static bool may_fire(struct e1000 *e, unsigned throttle, uint32_t interval)
{
    uint64_t now = device_now(&e->pci.dev);

    if (now < e->quiet_until[throttle]) {
        uint64_t next = CLOCK_NEVER;

        /* The timer serves all: it wakes at the earliest. */
        for (unsigned i = 0; i < ARRAY_SIZE(e->quiet_until); i++)
            if (e->quiet_until[i] > now)
                next = MIN(next, e->quiet_until[i]);
        timer_set(&e->throttle, next);
        return false;
    }
    e->quiet_until[throttle] = now + (interval & 0xffff) * UINT64_C(256);
    return true;
}

/* Which cause IVAR's fields are for, in their order. */
static const uint32_t vector_cause[] = {ICR_RXQ0, ICR_RXQ0 << 1, ICR_TXQ0, ICR_TXQ0 << 1,
                                        ICR_OTHER};

static void send_vectors(struct e1000 *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(vector_cause); i++) {
        uint32_t cause = vector_cause[i], entry = *e1000_reg(e, E1000_IVAR) >> 4 * i & 15;
        unsigned vector = entry & 7;

        if (!(*e1000_reg(e, E1000_ICR) & *e1000_reg(e, E1000_IMS) & cause & ~e->told))
            continue;
        if (entry & 8 && vector < E1000_VECTORS) {
            if (!may_fire(e, 1 + vector, *e1000_reg(e, E1000_EITR + 4 * vector)))
                continue;
            pci_msix_send(&e->pci, vector);
        }
        e->told |= cause;
        if (*e1000_reg(e, E1000_CTRL_EXT) & CTRL_EXT_EIAME)
            *e1000_reg(e, E1000_IMS) &= ~(*e1000_reg(e, E1000_IAM) & cause);
        if (*e1000_reg(e, E1000_EIAC) & cause)
            *e1000_reg(e, E1000_ICR) &= ~cause;
        else
            *e1000_reg(e, E1000_ICR) |= ICR_ASSERTED; /* reading ICR acknowledges it */
    }
}

static void update_interrupt(struct e1000 *e)
{
    uint32_t *icr = e1000_reg(e, E1000_ICR);
    uint32_t pending = *icr & *e1000_reg(e, E1000_IMS) & ~ICR_ASSERTED;

    e->told &= pending;
    if (pci_msix_enabled(&e->pci)) {
        pci_intx_set(&e->pci, false);
        if (*icr == ICR_ASSERTED)
            *icr = 0;
        send_vectors(e);
        e->told &= *icr & *e1000_reg(e, E1000_IMS);
        return;
    }
    if (!pending) {
        *icr &= ~ICR_ASSERTED;
        pci_intx_set(&e->pci, false);
        return;
    }
    if (!(pending & ~e->told) || (e->told && !pci_msi_enabled(&e->pci))) {
        e->told = pending; /* the pin is high already */
        return;
    }
    if (!may_fire(e, 0, *e1000_reg(e, E1000_ITR)))
        return;
    e->told = pending;
    *icr |= ICR_ASSERTED;
    if (pci_msi_enabled(&e->pci))
        pci_msi_send(&e->pci, 0);
    else
        pci_intx_set(&e->pci, true);
}

static void throttle_expired(struct device *dev, struct timer *t)
{
    update_interrupt(to_e1000(dev));
}

void e1000_cause(struct e1000 *e, uint32_t causes)
{
    if (e->e && causes & (ICR_LSC | ICR_RXO | ICR_MDAC))
        causes |= ICR_OTHER;
    if (!e->e)
        causes &= 0x1ffff; /* the 82540EM has no causes of queues */
    /* Raised anew: with MSI-X, a message for an old one does not count for it. */
    e->told &= ~(pci_msix_enabled(&e->pci) ? causes : 0);
    *e1000_reg(e, E1000_ICR) |= causes;
    update_interrupt(e);
}

static uint32_t read_icr(struct e1000 *e)
{
    uint32_t value = *e1000_reg(e, E1000_ICR);

    /* The 82574 keeps them where it asserted nothing. */
    if (!e->e || !*e1000_reg(e, E1000_IMS) || value & ICR_ASSERTED) {
        if (e->e && value & ICR_ASSERTED && *e1000_reg(e, E1000_CTRL_EXT) & CTRL_EXT_IAME)
            *e1000_reg(e, E1000_IMS) &= ~*e1000_reg(e, E1000_IAM);
        *e1000_reg(e, E1000_ICR) = 0;
    }
    update_interrupt(e);
    return e->e ? value : value & ~ICR_ASSERTED;
}

/* ---- the PHY ----------------------------------------------------------------------------------
 */

enum phy_register {
    PHY_CONTROL = 0,
    PHY_STATUS = 1,
    PHY_ID1 = 2,
    PHY_ID2 = 3,
    PHY_ADVERTISE = 4,
    PHY_PARTNER = 5,
    PHY_EXPANSION = 6,
    PHY_GIGABIT = 9,
    PHY_GIGABIT_STATUS = 10,
    PHY_EXTENDED = 15,
    PHY_M88_CONTROL = 16,
    PHY_M88_STATUS = 17,
    PHY_M88_INTERRUPT = 18,
    PHY_M88_EXTENDED = 20,
};

enum {
    PHY_LINK = 1 << 2,
    PHY_DONE = 1 << 5,
    PHY_RESTART = 1 << 9,
    PHY_LOOPBACK = 1 << 14,
    PHY_RESET = 1 << 15,
    M88_LINK = 1 << 10,
};

bool e1000_link(struct e1000 *e)
{
    return nic_link(&e->nic);
}

static void update_link(struct e1000 *e)
{
    bool up = e1000_link(e);

    *e1000_reg(e, E1000_STATUS) &= ~(uint32_t)STATUS_LU;
    *e1000_reg(e, E1000_STATUS) |= up ? STATUS_LU : 0;
    e->phy[PHY_STATUS] = (uint16_t)(0x7949 | (up ? PHY_LINK | PHY_DONE : 0));
    e->phy[PHY_M88_STATUS] = (uint16_t)(0xa808 | (up ? M88_LINK : 0));
    e->phy[PHY_PARTNER] = up ? 0xcde1 : 0;
    e->phy[PHY_GIGABIT_STATUS] = up ? 0x7c00 : 0;
}

static void reset_phy(struct e1000 *e)
{
    memset(e->phy, 0, sizeof(e->phy));
    e->phy[PHY_CONTROL] = 0x1140; /* autonegotiation, full duplex, gigabit */
    e->phy[PHY_ID1] = 0x0141;
    e->phy[PHY_ID2] = e->e ? 0x0cb1 : 0x0c20; /* BME1000; M88E1011 */
    e->phy[PHY_ADVERTISE] = 0x0de1;
    e->phy[PHY_EXPANSION] = 1;
    e->phy[PHY_GIGABIT] = 0x0e00;
    e->phy[PHY_EXTENDED] = 0x3000;
    e->phy[PHY_M88_CONTROL] = 0x0360;
    e->phy[PHY_M88_EXTENDED] = 0x0d60;
    update_link(e);
}

static void write_phy(struct e1000 *e, unsigned number, uint16_t value)
{
    switch (number) {
    case PHY_CONTROL:
        if (value & PHY_RESET)
            reset_phy(e);
        else
            e->phy[number] = value & (uint16_t)~PHY_RESTART & 0xffc0;
        if (value & (PHY_RESET | PHY_RESTART)) {
            update_link(e);
            e1000_cause(e, ICR_LSC);
        }
        break;
    case PHY_STATUS:
    case PHY_ID1:
    case PHY_ID2:
    case PHY_PARTNER:
    case PHY_EXPANSION:
    case PHY_GIGABIT_STATUS:
    case PHY_EXTENDED:
    case PHY_M88_STATUS: break;
    default: e->phy[number] = value; break;
    }
}

static void write_mdic(struct e1000 *e, uint32_t value)
{
    unsigned number = value >> 16 & 31, phy = value >> 21 & 31;
    uint32_t result = value & ~(uint32_t)(MDIC_ERROR | 0xffff);

    if (phy != 1) {
        result |= MDIC_ERROR;
    } else if (value & MDIC_READ) {
        result |= e->phy[number];
        if (number == PHY_M88_INTERRUPT + 1)
            e->phy[number] = 0;
    } else if (value & MDIC_WRITE) {
        write_phy(e, number, (uint16_t)value);
        result |= value & 0xffff;
    }
    *e1000_reg(e, E1000_MDIC) = result | MDIC_READY;
    if (value & MDIC_INTERRUPT)
        e1000_cause(e, ICR_MDAC);
}

/* ---- the EEPROM -------------------------------------------------------------------------------
 */

enum { EEPROM_SUM = 0xbaba };

static void fill_eeprom(struct e1000 *e)
{
    uint16_t *w = e->eeprom.word, sum = 0;

    memset(w, 0, sizeof(e->eeprom.word));
    for (unsigned i = 0; i < 3; i++)
        w[i] = (uint16_t)load_le(e->nic.mac + 2 * i, 2);
    w[3] = 0x0400; /* a LAN on the motherboard: nobody looks for another address */
    w[4] = w[5] = w[6] = w[7] = 0xffff;
    w[8] = 0x3000; /* PBA number */
    w[9] = 0x1000;
    w[0xa] = 0x6400 | (e->e ? 0 : 0x4);
    w[0xb] = (uint16_t)pci_get(&e->pci, PCI_SUBSYSTEM, 2);
    w[0xc] = (uint16_t)pci_get(&e->pci, PCI_SUBSYSTEM_VENDOR, 2);
    w[0xd] = (uint16_t)pci_get(&e->pci, PCI_DEVICE_ID, 2);
    w[0xe] = 0x8086;
    w[0xf] = 0x3040;
    w[0x37] = 0xffff; /* no alternate address */
    for (unsigned i = 0; i < EEPROM93_WORDS - 1; i++)
        sum = (uint16_t)(sum + w[i]);
    w[EEPROM93_WORDS - 1] = (uint16_t)(EEPROM_SUM - sum);
}

static void write_eecd(struct e1000 *e, uint32_t value)
{
    *e1000_reg(e, E1000_EECD) = value & (EECD_SK | EECD_CS | EECD_DI | EECD_REQ | 0x30);
    eeprom93_drive(&e->eeprom, value & EECD_CS, value & EECD_SK, value & EECD_DI);
}

static uint32_t read_eecd(struct e1000 *e)
{
    uint32_t value = *e1000_reg(e, E1000_EECD) | EECD_PRES;

    value |= value & EECD_REQ ? EECD_GNT : 0;
    value |= e->eeprom.data ? EECD_DO : 0;
    return e->e ? value | EECD_AUTO_RD : value;
}

static void write_eerd(struct e1000 *e, uint32_t value)
{
    unsigned address = e->e ? value >> 2 & 0x3fff : value >> 8 & 0xff;
    uint32_t done = e->e ? 1 << 1 : 1 << 4;

    value &= 0xffff & ~done;
    if (value & 1)
        value |= done | (address < EEPROM93_WORDS ? (uint32_t)e->eeprom.word[address] << 16 : 0);
    *e1000_reg(e, E1000_EERD) = value;
}

/* ---- registers --------------------------------------------------------------------------------
 */

/* Statistics stay at their largest value; the wide ones are two registers. */
void e1000_count(struct e1000 *e, unsigned offset, uint64_t n, bool wide)
{
    uint32_t *r = e1000_reg(e, offset);
    uint64_t value = r[0] + (wide ? (uint64_t)r[1] << 32 : 0);

    value = value + n < value ? UINT64_MAX : value + n;
    r[0] = wide ? (uint32_t)value : (uint32_t)MIN(value, (uint64_t)UINT32_MAX);
    if (wide)
        r[1] = (uint32_t)(value >> 32);
}

/* CTRL.RST: everything but the address filter's first entry, which comes from the EEPROM anyway. */
static void reset_mac(struct e1000 *e)
{
    const uint8_t *mac = (const uint8_t *)e->eeprom.word;

    memset(e->reg, 0, sizeof(e->reg));
    memset(e->context, 0, sizeof(e->context));
    memset(e->quiet_until, 0, sizeof(e->quiet_until));
    e->told = 0;
    eeprom93_reset(&e->eeprom);
    *e1000_reg(e, E1000_CTRL) = e->e ? 0x00140240 : 0x00140a41;
    *e1000_reg(e, E1000_STATUS) = STATUS_FD | 0x80 | (e->e ? 0 : 0x300 | 0x2000);
    *e1000_reg(e, E1000_PBA) = e->e ? 0x00140014 : 0x00100030;
    *e1000_reg(e, E1000_VET) = 0x8100;
    *e1000_reg(e, E1000_LEDCTL) = 0x07061302;
    *e1000_reg(e, E1000_RXDCTL) = e->e ? 0x00010000 : 0;
    *e1000_reg(e, E1000_TXDCTL) = *e1000_reg(e, E1000_TXDCTL + 0x100) = e->e ? 1 << 22 : 0;
    *e1000_reg(e, E1000_TARC) = *e1000_reg(e, E1000_TARC + 0x100) = e->e ? 0x403 : 0;
    *e1000_reg(e, E1000_RXCSUM) = e->e ? RXCSUM_IPOFL | RXCSUM_TUOFL : 0;
    *e1000_reg(e, E1000_EXTCNF_CTRL) = e->e ? 8 : 0;
    *e1000_reg(e, E1000_SWSM) = e->e ? 1 << 0 : 0;
    *e1000_reg(e, E1000_RA) = (uint32_t)load_le(mac, 4);
    *e1000_reg(e, E1000_RA + 4) = (uint32_t)load_le(mac + 4, 2) | 1u << 31;
    update_link(e);
}

static uint64_t systim(struct e1000 *e)
{
    uint32_t timinca = *e1000_reg(e, E1000_TIMINCA);
    uint64_t period = (timinca >> 24) * UINT64_C(40); /* of a 25 MHz clock */

    if (!period)
        return e->systim_base;
    return e->systim_base + device_now(&e->pci.dev) / period * (timinca & 0xffffff);
}

static void net_ready(struct e1000 *e)
{
    if (e->nic.net && !e->receiving)
        net_receive_ready(e->nic.net);
}

/* Octet counters have 64 bits: a low register and a high one. */
static bool is_wide(unsigned offset)
{
    return (offset >= E1000_GORCL && offset < 0x4098) || (offset >= E1000_TORL && offset < 0x40d0);
}

static uint64_t read_register(struct e1000 *e, unsigned offset)
{
    uint32_t *r = e1000_reg(e, offset), value = *r;

    if (!access_of(e, offset))
        return 0;
    if (offset >= E1000_STATISTICS && offset < E1000_STATISTICS_END) {
        if (!is_wide(offset))
            *r = 0;
        else if (offset & 4) /* reading the high half ends both */
            r[-1] = r[0] = 0;
        return value;
    }
    switch (offset) {
    case E1000_STATUS:
        if (e->e && !(*e1000_reg(e, E1000_CTRL) & CTRL_GIO_MASTER_DISABLE))
            value |= STATUS_GIO_MASTER;
        return value;
    case E1000_EECD: return read_eecd(e);
    case E1000_ICR: return read_icr(e);
    case E1000_ICS:
    case E1000_IMC: return 0;
    case E1000_SYSTIML: return (uint32_t)systim(e);
    case E1000_SYSTIMH: return systim(e) >> 32;
    case E1000_SWSM: *r |= 1; return value; /* a read takes the semaphore */
    default: return value;
    }
}

static void write_register(struct e1000 *e, unsigned offset, uint32_t value)
{
    uint32_t *r = e1000_reg(e, offset);

    if (access_of(e, offset) != RW)
        return;
    switch (offset) {
    case E1000_CTRL:
        if (value & CTRL_RST) {
            reset_mac(e);
            update_interrupt(e);
            net_ready(e);
            return;
        }
        if (value & CTRL_PHY_RST)
            reset_phy(e);
        *r = value & ~(uint32_t)CTRL_PHY_RST;
        break;
    case E1000_EECD: write_eecd(e, value); break;
    case E1000_EERD: write_eerd(e, value); break;
    case E1000_MDIC: write_mdic(e, value); break;
    case E1000_CTRL_EXT:
        *r = value & ~(uint32_t)CTRL_EXT_EE_RST & (e->e ? ~0u : ~CTRL_EXT_PBA_CLR);
        break;
    case E1000_ICR:
        if (e->e && *e1000_reg(e, E1000_ICR) & ICR_ASSERTED &&
            *e1000_reg(e, E1000_CTRL_EXT) & CTRL_EXT_IAME)
            *e1000_reg(e, E1000_IMS) &= ~*e1000_reg(e, E1000_IAM);
        *r &= ~value;
        update_interrupt(e);
        break;
    case E1000_ICS: e1000_cause(e, value & ~ICR_ASSERTED); break;
    case E1000_IMS:
        *r |= value;
        update_interrupt(e);
        break;
    case E1000_IMC:
        *e1000_reg(e, E1000_IMS) &= ~value;
        update_interrupt(e);
        break;
    case E1000_RCTL:
        *r = value;
        net_ready(e);
        break;
    case E1000_RDLEN:
    case E1000_TDLEN:
    case E1000_TDLEN + 0x100: *r = value & 0xfff80; break;
    case E1000_RDBAL:
    case E1000_TDBAL:
    case E1000_TDBAL + 0x100: *r = value & ~15u; break;
    case E1000_RDH:
    case E1000_TDH:
    case E1000_TDH + 0x100: *r = value & 0xffff; break;
    case E1000_RDT:
        *r = value & 0xffff;
        net_ready(e);
        break;
    case E1000_TDT:
    case E1000_TDT + 0x100:
        *r = value & 0xffff;
        e1000_transmit(e, offset == E1000_TDT ? 0 : 1);
        break;
    case E1000_TCTL:
        *r = value;
        for (unsigned q = 0; q < E1000_QUEUES; q++)
            e1000_transmit(e, q);
        break;
    case E1000_RDTR: *r = value & 0xffff; break; /* FPD does not stay */
    case E1000_SYSTIML: e->systim_base += value - (uint32_t)systim(e); break;
    case E1000_SYSTIMH:
        e->systim_base += (uint64_t)(value - (uint32_t)(systim(e) >> 32)) << 32;
        break;
    default: *r = value; break;
    }
}

static uint64_t e1000_read(struct device *dev, uint64_t offset, unsigned size)
{
    return offset < E1000_REGISTERS ? read_register(to_e1000(dev), (unsigned)offset) : 0;
}

static void e1000_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset < E1000_REGISTERS)
        write_register(to_e1000(dev), (unsigned)offset, (uint32_t)value);
}

static const struct io_ops e1000_memory = {e1000_read, e1000_write, 4, 4};

/* IOADDR and IODATA: the same registers, for code without memory access. */
static uint64_t e1000_in(struct device *dev, uint64_t offset, unsigned size)
{
    struct e1000 *e = to_e1000(dev);

    if (offset == 0)
        return e->io_address;
    return offset == 4 ? e1000_read(dev, e->io_address & ~3u, 4) : 0;
}

static void e1000_out(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct e1000 *e = to_e1000(dev);

    if (offset == 0)
        e->io_address = value & (E1000_MEMORY - 1);
    else if (offset == 4)
        e1000_write(dev, e->io_address & ~3u, value, 4);
}

static const struct io_ops e1000_ports = {e1000_in, e1000_out, 4, 4};

/* ---- the device -------------------------------------------------------------------------------
 */

static void e1000_writable(void *opaque)
{
    for (unsigned q = 0; q < E1000_QUEUES; q++)
        e1000_transmit(to_e1000(opaque), q);
}

static void e1000_link_changed(void *opaque, bool up)
{
    update_link(to_e1000(opaque));
    e1000_cause(to_e1000(opaque), ICR_LSC);
}

static int e1000_realize(struct pci_device *p, struct error *err)
{
    struct e1000 *e = container_of(p, struct e1000, pci);
    int r;

    e->e = p->dev.type == &e1000e_type;
    timer_init(&e->throttle, &p->dev, throttle_expired);
    pci_bar_add(p, 0, PCI_BAR_MEM32, false, E1000_MEMORY);
    r = pci_bar_io(p, 0, 0, E1000_MEMORY, &e1000_memory, err);
    if (e->e) {
        pci_bar_add(p, 2, PCI_BAR_IO, false, 32);
        pci_bar_add(p, 3, PCI_BAR_MEM32, false, 16 * KiB);
        r = r ? r : pci_bar_io(p, 2, 0, 32, &e1000_ports, err);
        r = r ? r : pci_msi_add(p, 1, err);
        r = r ? r : pci_msix_add(p, E1000_VECTORS, 3, 0, err);
        if (!r && (r = pci_cap_add(p, PCI_CAP_EXPRESS, 0x3c, err)) > 0) {
            pci_set(p, (unsigned)r + 2, 0x0002, 2);  /* version 2, an endpoint */
            pci_set(p, (unsigned)r + 4, 0x8000, 4);  /* role-based errors */
            pci_set(p, (unsigned)r + 12, 0x0411, 4); /* x1, 2.5 GT/s */
            pci_set(p, (unsigned)r + 18, 0x0011, 2);
            pci_set_writable(p, (unsigned)r + 8, 0xffff, 2);
            pci_set_writable(p, (unsigned)r + 16, 0x00c3, 2);
            r = 0;
        }
    } else {
        pci_bar_add(p, 1, PCI_BAR_IO, false, 64);
        r = r ? r : pci_bar_io(p, 1, 0, 64, &e1000_ports, err);
    }
    r = r ? r : nic_open(&p->dev, &e->nic, e1000_receive, e1000_writable, e1000_link_changed, err);
    if (!r)
        fill_eeprom(e);
    return r;
}

static void e1000_unrealize(struct pci_device *p)
{
    nic_close(&container_of(p, struct e1000, pci)->nic);
}

static void e1000_reset(struct pci_device *p)
{
    struct e1000 *e = container_of(p, struct e1000, pci);

    fill_eeprom(e);
    reset_mac(e);
    reset_phy(e);
    e->io_address = 0;
    e->systim_base = 0;
    timer_set(&e->throttle, CLOCK_NEVER);
    update_interrupt(e);
    net_ready(e);
}

static void e1000_refresh(struct pci_device *p)
{
    struct e1000 *e = container_of(p, struct e1000, pci);
    uint64_t now = device_now(&p->dev), next = CLOCK_NEVER;

    for (unsigned i = 0; i < ARRAY_SIZE(e->quiet_until); i++)
        if (e->quiet_until[i] > now)
            next = MIN(next, e->quiet_until[i]);
    timer_set(&e->throttle, next);
    update_link(e);
    net_ready(e);
}

/* What waits goes on when the guest lets the function master the bus. */
static void e1000_config_written(struct pci_device *p, unsigned offset, unsigned size)
{
    struct e1000 *e = container_of(p, struct e1000, pci);

    if (ranges_overlap(offset, size, PCI_COMMAND, 2) &&
        pci_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MASTER)
        net_ready(e);
    update_interrupt(e);
}

static const struct pci_type e1000_pci = {
    .vendor = 0x8086,
    .device = 0x100e,
    .romfile = "efi-e1000.rom",
    .subsystem_vendor = 0x8086,
    .subsystem = 0x001e, /* PRO/1000 MT Desktop Adapter */
    .revision = 3,
    .class_code = 0x020000,
    .pin = 1,
    .realize = e1000_realize,
    .reset = e1000_reset,
    .refresh = e1000_refresh,
    .unrealize = e1000_unrealize,
    .config_written = e1000_config_written,
};

static const struct pci_type e1000e_pci = {
    .vendor = 0x8086,
    .device = 0x10d3,
    .romfile = "efi-e1000e.rom",
    .subsystem_vendor = 0x8086,
    .subsystem = 0xa01f, /* Gigabit CT Desktop Adapter */
    .class_code = 0x020000,
    .pin = 1,
    .express = true,
    .realize = e1000_realize,
    .reset = e1000_reset,
    .refresh = e1000_refresh,
    .unrealize = e1000_unrealize,
    .config_written = e1000_config_written,
};

static const struct property e1000_properties[] = {
    PCI_PROPERTIES(struct e1000, pci),
    NIC_PROPERTIES(struct e1000, nic),
    PROPERTY_END,
};

static const struct state_field e1000_state[] = {
    PCI_STATE(struct e1000, pci),
    STATE_ARRAY(struct e1000, reg),
    STATE_ARRAY(struct e1000, phy),
    STATE_STRUCT(struct e1000, eeprom, eeprom93_state),
    STATE_FIELD(struct e1000, context, E1000_QUEUES * 2 * 4, 0),
    STATE_U32(struct e1000, told),
    STATE_ARRAY(struct e1000, quiet_until),
    STATE_U64(struct e1000, systim_base),
    STATE_U32(struct e1000, io_address),
    STATE_END,
};

const struct device_type e1000_type = {
    .name = "e1000",
    .summary = "Intel 82540EM gigabit Ethernet (PRO/1000 MT Desktop)",
    .bus = "pci",
    .instance_size = sizeof(struct e1000),
    .properties = e1000_properties,
    .state = e1000_state,
    .bus_data = &e1000_pci,
    PCI_DEVICE_HOOKS,
};

const struct device_type e1000e_type = {
    .name = "e1000e",
    .summary = "Intel 82574L gigabit Ethernet (Gigabit CT Desktop), MSI-X",
    .bus = "pci",
    .instance_size = sizeof(struct e1000),
    .properties = e1000_properties,
    .state = e1000_state,
    .bus_data = &e1000e_pci,
    PCI_DEVICE_HOOKS,
};
