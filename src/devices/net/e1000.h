/*
 * e1000.h - Intel's gigabit Ethernet controllers: 82540EM (e1000) and 82574L (e1000e).
 *
 * Register names are those of Intel's manuals: "PCI/PCI-X Family of Gigabit Ethernet Controllers
 * Software Developer's Manual" (8254x) and "82574 GbE Controller Family Datasheet".
 */
#ifndef DEVICES_NET_E1000_H
#define DEVICES_NET_E1000_H

#include "devices/net/eeprom93.h"
#include "devices/net/nic.h"
#include "devices/pci/pci.h"

enum {
    E1000_MEMORY = 128 * KiB, /* BAR 0 */
    E1000_REGISTERS = 0xc000, /* of which these bytes are kept */
    E1000_VECTORS = 5,
    E1000_QUEUES = 2, /* of transmission; the 82540EM has one */
};

enum e1000_register {
    E1000_CTRL = 0x0000,
    E1000_STATUS = 0x0008,
    E1000_EECD = 0x0010,
    E1000_EERD = 0x0014,
    E1000_CTRL_EXT = 0x0018,
    E1000_MDIC = 0x0020,
    E1000_FCAL = 0x0028,
    E1000_FCAH = 0x002c,
    E1000_FCT = 0x0030,
    E1000_VET = 0x0038,
    E1000_ICR = 0x00c0,
    E1000_ITR = 0x00c4,
    E1000_ICS = 0x00c8,
    E1000_IMS = 0x00d0,
    E1000_IMC = 0x00d8,
    E1000_EIAC = 0x00dc,
    E1000_IAM = 0x00e0,
    E1000_IVAR = 0x00e4,
    E1000_EITR = 0x00e8, /* five */
    E1000_RCTL = 0x0100,
    E1000_FCTTV = 0x0170,
    E1000_TXCW = 0x0178,
    E1000_RXCW = 0x0180,
    E1000_TCTL = 0x0400,
    E1000_TCTL_EXT = 0x0404,
    E1000_TIPG = 0x0410,
    E1000_AIT = 0x0458,
    E1000_LEDCTL = 0x0e00,
    E1000_EXTCNF_CTRL = 0x0f00,
    E1000_PBA = 0x1000,
    E1000_FCRTL = 0x2160,
    E1000_PSRCTL = 0x2170,
    E1000_RDBAL = 0x2800,
    E1000_RDBAH = 0x2804,
    E1000_RDLEN = 0x2808,
    E1000_RDH = 0x2810,
    E1000_RDT = 0x2818,
    E1000_RDTR = 0x2820,
    E1000_RXDCTL = 0x2828,
    E1000_RADV = 0x282c,
    E1000_TDBAL = 0x3800, /* the second queue's registers lie 0x100 behind */
    E1000_TDBAH = 0x3804,
    E1000_TDLEN = 0x3808,
    E1000_TDH = 0x3810,
    E1000_TDT = 0x3818,
    E1000_TIDV = 0x3820,
    E1000_TXDCTL = 0x3828,
    E1000_TADV = 0x382c,
    E1000_TARC = 0x3840,
    E1000_STATISTICS = 0x4000,
    E1000_MPC = 0x4010,
    E1000_ROC = 0x40ac,
    E1000_RUC = 0x40a4,
    E1000_GPRC = 0x4074,
    E1000_BPRC = 0x4078,
    E1000_MPRC = 0x407c,
    E1000_GPTC = 0x4080,
    E1000_GORCL = 0x4088,
    E1000_GOTCL = 0x4090,
    E1000_TORL = 0x40c0,
    E1000_TOTL = 0x40c8,
    E1000_TPR = 0x40d0,
    E1000_TPT = 0x40d4,
    E1000_MPTC = 0x40f0,
    E1000_BPTC = 0x40f4,
    E1000_TSCTC = 0x40f8,
    E1000_STATISTICS_END = 0x4128,
    E1000_RXCSUM = 0x5000,
    E1000_RFCTL = 0x5008,
    E1000_MTA = 0x5200,
    E1000_RA = 0x5400,
    E1000_VFTA = 0x5600,
    E1000_WUC = 0x5800,
    E1000_MRQC = 0x5818,
    E1000_MANC = 0x5820,
    E1000_FACTPS = 0x5b30,
    E1000_SWSM = 0x5b50,
    E1000_RETA = 0x5c00,
    E1000_SYSTIML = 0xb600,
    E1000_SYSTIMH = 0xb604,
    E1000_TIMINCA = 0xb608,
};

enum e1000_bits {
    CTRL_GIO_MASTER_DISABLE = 1 << 2,
    CTRL_SLU = 1 << 6,
    CTRL_RST = 1 << 26,
    CTRL_VME = 1 << 30,
    CTRL_PHY_RST = 1u << 31,
    STATUS_FD = 1 << 0,
    STATUS_LU = 1 << 1,
    STATUS_GIO_MASTER = 1 << 19,
    CTRL_EXT_EE_RST = 1 << 13,
    CTRL_EXT_EIAME = 1 << 24,
    CTRL_EXT_IAME = 1 << 27,
    CTRL_EXT_PBA_CLR = 1u << 31,

    EECD_SK = 1 << 0,
    EECD_CS = 1 << 1,
    EECD_DI = 1 << 2,
    EECD_DO = 1 << 3,
    EECD_REQ = 1 << 6,
    EECD_GNT = 1 << 7,
    EECD_PRES = 1 << 8,
    EECD_AUTO_RD = 1 << 9,

    MDIC_WRITE = 1 << 26,
    MDIC_READ = 2 << 26,
    MDIC_READY = 1 << 28,
    MDIC_INTERRUPT = 1 << 29,
    MDIC_ERROR = 1 << 30,

    RCTL_EN = 1 << 1,
    RCTL_UPE = 1 << 3,
    RCTL_MPE = 1 << 4,
    RCTL_LPE = 1 << 5,
    RCTL_LOOPBACK = 1 << 6,
    RCTL_SPLIT = 1 << 10,
    RCTL_BAM = 1 << 15,
    RCTL_VFE = 1 << 18,
    RCTL_CFIEN = 1 << 19,
    RCTL_CFI = 1 << 20,
    RCTL_BSEX = 1 << 25,
    RCTL_SECRC = 1 << 26,
    TCTL_EN = 1 << 1,
    RFCTL_EXTEN = 1 << 15,
    RXCSUM_IPOFL = 1 << 8,
    RXCSUM_TUOFL = 1 << 9,
    RXCSUM_PCSD = 1 << 13,
};

enum e1000_cause {
    ICR_TXDW = 1 << 0,
    ICR_TXQE = 1 << 1,
    ICR_LSC = 1 << 2,
    ICR_RXDMT0 = 1 << 4,
    ICR_RXO = 1 << 6,
    ICR_RXT0 = 1 << 7,
    ICR_MDAC = 1 << 9,
    ICR_RXQ0 = 1 << 20, /* the 82574's: RXQ1, TXQ0, TXQ1 follow */
    ICR_TXQ0 = 1 << 22,
    ICR_OTHER = 1 << 24,
    ICR_ASSERTED = 1u << 31,
};

struct e1000 {
    struct pci_device pci;
    struct nic nic;
    bool e; /* an 82574L: fixed by the type */

    /* saved */
    uint32_t reg[E1000_REGISTERS / 4];
    uint16_t phy[32];
    struct eeprom93 eeprom;
    uint32_t context[E1000_QUEUES][2][4];    /* descriptors: for checksums, for segmentation */
    uint32_t told;                           /* causes the guest was told of and that still stand */
    uint64_t quiet_until[1 + E1000_VECTORS]; /* ITR, EITR: no interrupt before, guest time */
    uint64_t systim_base;
    uint32_t io_address; /* of the I/O BAR */

    struct timer throttle;
    bool receiving;                      /* inside receive(): loopback does not nest */
    uint8_t frame[NET_FRAME_MAX + 8];    /* one being assembled */
    uint8_t received[NET_FRAME_MAX + 8]; /* one being taken apart */
};

extern const struct device_type e1000_type, e1000e_type;

static inline struct e1000 *to_e1000(struct device *dev)
{
    return container_of(to_pci(dev), struct e1000, pci);
}

static inline uint32_t *e1000_reg(struct e1000 *e, unsigned offset)
{
    return &e->reg[offset / 4];
}

/* e1000.c */
void e1000_cause(struct e1000 *e, uint32_t causes);
void e1000_count(struct e1000 *e, unsigned offset, uint64_t n, bool wide);
bool e1000_link(struct e1000 *e);

/* e1000_ring.c */
void e1000_transmit(struct e1000 *e, unsigned queue);
bool e1000_receive(void *opaque, const struct net_packet *p);

#endif
