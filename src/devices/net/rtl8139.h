/*
 * rtl8139.h - Realtek's Fast Ethernet controller RTL8139C+.
 *
 * Register names are those of the datasheets "RTL8139C(L)+" and "RTL8139D(L)".
 */
#ifndef DEVICES_NET_RTL8139_H
#define DEVICES_NET_RTL8139_H

#include "devices/net/eeprom93.h"
#include "devices/net/nic.h"
#include "devices/pci/pci.h"

enum rtl8139_register {
    RTL_IDR = 0x00,
    RTL_MAR = 0x08,
    RTL_TSD = 0x10,  /* four; with C+: DTCCR */
    RTL_TSAD = 0x20, /* four; with C+: TNPDS and THPDS, 64 bits each */
    RTL_RBSTART = 0x30,
    RTL_ERBCR = 0x34,
    RTL_CR = 0x37,
    RTL_CAPR = 0x38,
    RTL_CBR = 0x3a,
    RTL_IMR = 0x3c,
    RTL_ISR = 0x3e,
    RTL_TCR = 0x40,
    RTL_RCR = 0x44,
    RTL_TCTR = 0x48,
    RTL_MPC = 0x4c,
    RTL_9346CR = 0x50,
    RTL_CONFIG0 = 0x51,
    RTL_CONFIG1 = 0x52,
    RTL_TIMERINT = 0x54,
    RTL_MSR = 0x58,
    RTL_CONFIG3 = 0x59,
    RTL_CONFIG4 = 0x5a,
    RTL_RERID = 0x5e,
    RTL_TSADS = 0x60, /* status of all descriptors */
    RTL_BMCR = 0x62,
    RTL_BMSR = 0x64,
    RTL_ANAR = 0x66,
    RTL_ANLPAR = 0x68,
    RTL_ANER = 0x6a,
    RTL_CONFIG5 = 0xd8,
    RTL_TPPOLL = 0xd9,
    RTL_CPCR = 0xe0,
    RTL_RDSAR = 0xe4,
    RTL_SIZE = 0x100,
};

enum rtl8139_bits {
    CR_BUFE = 1,
    CR_TE = 4,
    CR_RE = 8,
    CR_RST = 16,
    INT_ROK = 1 << 0,
    INT_TOK = 1 << 2,
    INT_TER = 1 << 3,
    INT_RXOVW = 1 << 4, /* with C+: no descriptor */
    INT_LINK = 1 << 5,
    INT_TDU = 1 << 7,
    INT_TIMEOUT = 1 << 14,
    TSD_OWN = 1 << 13,
    TSD_TOK = 1 << 15,
    RCR_AAP = 1,
    RCR_APM = 2,
    RCR_AM = 4,
    RCR_AB = 8,
    RCR_WRAP = 1 << 7,
    CPCR_TX = 1,
    CPCR_RX = 2,
    CPCR_CHECKSUM = 32,
    CPCR_VLAN = 64,
};

extern const struct device_type rtl8139_type;

#endif
