/* serial.h - the 16550A UART, as on the ISA bus at COM1 to COM4. */
#ifndef DEVICES_CHAR_SERIAL_H
#define DEVICES_CHAR_SERIAL_H

#include "machine/device.h"

enum serial_register {                 /* offsets; DLAB selects the divisor latch at 0 and 1 */
                       SERIAL_RBR = 0, /* read: receive buffer */
                       SERIAL_THR = 0, /* write: transmit holding */
                       SERIAL_DLL = 0,
                       SERIAL_IER = 1,
                       SERIAL_DLM = 1,
                       SERIAL_IIR = 2, /* read */
                       SERIAL_FCR = 2, /* write */
                       SERIAL_LCR = 3,
                       SERIAL_MCR = 4,
                       SERIAL_LSR = 5,
                       SERIAL_MSR = 6,
                       SERIAL_SCR = 7,
                       SERIAL_PORTS = 8,
};

enum serial_ier { IER_RDI = 1, IER_THRI = 2, IER_RLSI = 4, IER_MSI = 8, IER_ALL = 15 };
enum serial_iir {
    IIR_MSI = 0,
    IIR_NONE = 1,
    IIR_THRI = 2,
    IIR_RDI = 4,
    IIR_RLSI = 6,
    IIR_TIMEOUT = 12,
    IIR_FIFO = 0xc0,
};
enum serial_fcr { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_TRIGGER = 0xc0 };
enum serial_lcr { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum serial_mcr {
    MCR_DTR = 1,
    MCR_RTS = 2,
    MCR_OUT1 = 4,
    MCR_OUT2 = 8, /* gates the interrupt on a PC */
    MCR_LOOP = 16,
};
enum serial_lsr {
    LSR_DR = 1,
    LSR_OE = 2,
    LSR_PE = 4,
    LSR_FE = 8,
    LSR_BI = 16,
    LSR_THRE = 32,
    LSR_TEMT = 64,
};
enum serial_msr {
    MSR_DCTS = 1,
    MSR_DDSR = 2,
    MSR_TERI = 4,
    MSR_DDCD = 8,
    MSR_CTS = 16,
    MSR_DSR = 32,
    MSR_RI = 64,
    MSR_DCD = 128,
};

/* Properties: iobase, irq; reference "chardev" (struct chardev, may be NULL: nobody listens). */
extern const struct device_type isa_serial_type;

#endif
