/*
 * serial.c - 16550A UART (National PC16550D data sheet), the serial port of a PC.
 *
 * Bytes move at the speed of the host, not of the divisor: what is written to THR is offered to
 * the back end at once, and only when that is full does THRE stay clear. The one place where time
 * matters is the receive time-out: bytes below the trigger level interrupt after four characters'
 * time.
 *
 * The interrupt line follows from saved state in serial_refresh() alone. Received bytes come from
 * the main loop, so receive() takes the device's lock itself.
 */
#include "devices/char/serial.h"

#include "chardev/chardev.h"

#include <errno.h>

enum { FIFO_SIZE = 16, INPUT_CLOCK = 1843200 };

struct serial {
    struct device dev;
    uint16_t iobase;         /* property */
    uint8_t irq;             /* property */
    struct chardev *chardev; /* property; may be NULL */

    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr; /* saved; lsr without DR, which is rx_count */
    uint16_t divisor;
    bool thr_pending; /* a THRE interrupt is due: cleared by reading IIR or writing THR */
    bool timeout;     /* the receive time-out has struck */
    uint8_t rx[FIFO_SIZE], rx_head, rx_count;
    uint8_t tx[FIFO_SIZE], tx_count; /* what the back end did not take yet */

    struct irq_line line;
    struct timer timeout_timer;
};
#define to_serial(d) container_of(d, struct serial, dev)

static unsigned rx_capacity(const struct serial *s)
{
    return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct serial *s)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};

    return s->fcr & FCR_ENABLE ? levels[s->fcr >> 6] : 1;
}

/* Time of one character: start, 5-8 data bits, parity, stop bits. */
static uint64_t character_nsec(const struct serial *s)
{
    unsigned bits = 1 + 5 + (s->lcr & 3) + (s->lcr >> 3 & 1) + 1 + (s->lcr >> 2 & 1);

    return muldiv64(bits * 16u * (s->divisor ? s->divisor : 1u), NSEC_PER_SEC, INPUT_CLOCK);
}

static uint8_t line_status(const struct serial *s)
{
    return s->lsr | (s->rx_count ? LSR_DR : 0) | (s->tx_count ? 0 : LSR_THRE | LSR_TEMT);
}

/* Loopback ties the modem outputs to the inputs. */
static uint8_t modem_inputs(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP))
        return s->chardev ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
           (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem(struct serial *s)
{
    uint8_t now = modem_inputs(s), changed = (s->msr ^ now) & 0xf0;

    s->msr = (uint8_t)((s->msr & 0x0f) | now);
    s->msr |= changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
    if (changed & MSR_RI && !(now & MSR_RI))
        s->msr |= MSR_TERI; /* trailing edge only */
}

static uint8_t interrupt_id(const struct serial *s)
{
    if (s->ier & IER_RLSI && s->lsr & (LSR_OE | LSR_PE | LSR_FE | LSR_BI))
        return IIR_RLSI;
    if (s->ier & IER_RDI && s->rx_count >= rx_trigger(s))
        return IIR_RDI;
    if (s->ier & IER_RDI && s->timeout && s->rx_count)
        return IIR_TIMEOUT;
    if (s->ier & IER_THRI && s->thr_pending)
        return IIR_THRI;
    if (s->ier & IER_MSI && s->msr & 0x0f)
        return IIR_MSI;
    return IIR_NONE;
}

static void serial_refresh(struct device *dev)
{
    struct serial *s = to_serial(dev);

    irq_line_set(&s->line, interrupt_id(s) != IIR_NONE && s->mcr & MCR_OUT2);
}

static void arm_timeout(struct serial *s)
{
    bool wanted = s->fcr & FCR_ENABLE && s->rx_count && !s->timeout;

    timer_set(&s->timeout_timer,
              wanted ? device_now(&s->dev) + 4 * character_nsec(s) : CLOCK_NEVER);
}

static void timeout_expired(struct device *dev, struct timer *t)
{
    (void)t;
    to_serial(dev)->timeout = true;
    serial_refresh(dev);
}

static void push_received(struct serial *s, uint8_t byte)
{
    if (s->rx_count == rx_capacity(s)) {
        s->lsr |= LSR_OE; /* lost, as on the wire */
        return;
    }
    s->rx[(s->rx_head + s->rx_count++) % FIFO_SIZE] = byte;
    s->timeout = false;
    arm_timeout(s);
}

/* ---- towards the back end ---------------------------------------------------------------------
 */

static void send_pending(struct serial *s)
{
    size_t n;

    if (!s->tx_count)
        return;
    n = s->chardev ? chardev_write(s->chardev, s->tx, s->tx_count) : s->tx_count;
    s->tx_count -= (uint8_t)n;
    memmove(s->tx, s->tx + n, s->tx_count);
    if (!s->tx_count)
        s->thr_pending = true;
}

static void transmit(struct serial *s, uint8_t byte)
{
    s->thr_pending = false;
    if (s->mcr & MCR_LOOP) {
        push_received(s, byte);
        s->thr_pending = true;
        return;
    }
    if (s->tx_count < FIFO_SIZE)
        s->tx[s->tx_count++] = byte; /* full: overwritten data is lost on the chip, too */
    send_pending(s);
}

static size_t can_receive(void *opaque)
{
    struct serial *s = opaque;
    size_t room;

    pthread_mutex_lock(&s->dev.lock);
    room = s->mcr & MCR_LOOP ? 0 : rx_capacity(s) - s->rx_count;
    pthread_mutex_unlock(&s->dev.lock);
    return room;
}

static void receive(void *opaque, const uint8_t *data, size_t size)
{
    struct serial *s = opaque;

    pthread_mutex_lock(&s->dev.lock);
    for (size_t i = 0; i < size; i++)
        push_received(s, data[i]);
    serial_refresh(&s->dev);
    pthread_mutex_unlock(&s->dev.lock);
}

static void writable(void *opaque)
{
    struct serial *s = opaque;

    pthread_mutex_lock(&s->dev.lock);
    send_pending(s);
    serial_refresh(&s->dev);
    pthread_mutex_unlock(&s->dev.lock);
}

static void backend_event(void *opaque, enum chardev_event what)
{
    struct serial *s = opaque;

    if (what != CHARDEV_BREAK)
        return;
    pthread_mutex_lock(&s->dev.lock);
    push_received(s, 0);
    s->lsr |= LSR_BI;
    serial_refresh(&s->dev);
    pthread_mutex_unlock(&s->dev.lock);
}

/* ---- registers
 * ----------------------------------------------------------------------------------- */

static uint8_t pop_received(struct serial *s)
{
    uint8_t byte = s->rx[s->rx_head];

    if (!s->rx_count)
        return 0;
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    s->rx_count--;
    s->timeout = false;
    arm_timeout(s);
    if (s->chardev)
        chardev_accept(s->chardev);
    return byte;
}

static uint64_t serial_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct serial *s = to_serial(dev);
    uint8_t value = 0;

    (void)size;
    switch (offset) {
    case SERIAL_RBR: value = s->lcr & LCR_DLAB ? (uint8_t)s->divisor : pop_received(s); break;
    case SERIAL_IER: value = s->lcr & LCR_DLAB ? (uint8_t)(s->divisor >> 8) : s->ier; break;
    case SERIAL_IIR:
        value = interrupt_id(s);
        if (value == IIR_THRI)
            s->thr_pending = false;
        value |= s->fcr & FCR_ENABLE ? IIR_FIFO : 0;
        break;
    case SERIAL_LCR: value = s->lcr; break;
    case SERIAL_MCR: value = s->mcr; break;
    case SERIAL_LSR:
        value = line_status(s);
        s->lsr = 0;
        break;
    case SERIAL_MSR:
        value = s->msr;
        s->msr &= 0xf0;
        break;
    case SERIAL_SCR: value = s->scr; break;
    }
    serial_refresh(dev);
    return value;
}

static void write_fcr(struct serial *s, uint8_t value)
{
    /* Switching the FIFOs on or off empties them. */
    if ((value ^ s->fcr) & FCR_ENABLE)
        value |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    if (value & FCR_CLEAR_RX) {
        s->rx_count = 0;
        s->timeout = false;
    }
    if (value & FCR_CLEAR_TX && s->tx_count) {
        s->tx_count = 0;
        s->thr_pending = true;
    }
    s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | FCR_TRIGGER) : 0;
    arm_timeout(s);
    if (s->chardev)
        chardev_accept(s->chardev);
}

static void serial_write(struct device *dev, uint64_t offset, uint64_t value64, unsigned size)
{
    struct serial *s = to_serial(dev);
    uint8_t value = (uint8_t)value64;

    (void)size;
    switch (offset) {
    case SERIAL_THR:
        if (s->lcr & LCR_DLAB)
            s->divisor = (uint16_t)bits_set(s->divisor, 0, 8, value);
        else
            transmit(s, value);
        break;
    case SERIAL_IER:
        if (s->lcr & LCR_DLAB) {
            s->divisor = (uint16_t)bits_set(s->divisor, 8, 8, value);
            break;
        }
        /* Enabling THRI while the holding register is empty interrupts at once. */
        if (value & ~s->ier & IER_THRI && !s->tx_count)
            s->thr_pending = true;
        s->ier = value & IER_ALL;
        break;
    case SERIAL_FCR: write_fcr(s, value); break;
    case SERIAL_LCR: s->lcr = value; break;
    case SERIAL_MCR:
        s->mcr = value & 0x1f;
        update_modem(s);
        if (s->chardev)
            chardev_accept(s->chardev);
        break;
    case SERIAL_LSR: break; /* factory test */
    case SERIAL_MSR: break; /* read only */
    case SERIAL_SCR: s->scr = value; break;
    }
    serial_refresh(dev);
}

static const struct io_ops serial_io = {serial_read, serial_write, 1, 1};

/* ---- life
 * ----------------------------------------------------------------------------------------- */

static void serial_reset(struct device *dev)
{
    struct serial *s = to_serial(dev);

    s->ier = s->fcr = s->lcr = s->mcr = s->lsr = s->scr = 0;
    s->divisor = 12; /* 9600 baud */
    s->thr_pending = s->timeout = false;
    s->rx_head = s->rx_count = s->tx_count = 0;
    s->msr = modem_inputs(s);
    timer_set(&s->timeout_timer, CLOCK_NEVER);
    serial_refresh(dev);
}

static void serial_restored(struct device *dev)
{
    struct serial *s = to_serial(dev);

    /* A stream is input like any other: keep indices in range. */
    s->rx_head %= FIFO_SIZE;
    s->rx_count = (uint8_t)MIN(s->rx_count, rx_capacity(s));
    s->tx_count = MIN(s->tx_count, (uint8_t)FIFO_SIZE);
    arm_timeout(s);
    send_pending(s);
    serial_refresh(dev);
}

static int serial_realize(struct device *dev, struct error *err)
{
    struct serial *s = to_serial(dev);
    int r;

    if (s->iobase % SERIAL_PORTS)
        return error_set(err, EINVAL, "isa-serial: iobase %#x is not a multiple of 8", s->iobase);
    timer_init(&s->timeout_timer, dev, timeout_expired);
    r = device_claim_irq(dev, s->irq, &s->line, err);
    if (r < 0)
        return r;
    r = device_map_pio(dev, s->iobase, SERIAL_PORTS, &serial_io, err);
    if (r < 0)
        return r;
    if (s->chardev) {
        struct chardev_user user = {.opaque = s,
                                    .can_receive = can_receive,
                                    .receive = receive,
                                    .writable = writable,
                                    .event = backend_event};

        chardev_attach(s->chardev, &user);
    }
    return 0;
}

static void serial_unrealize(struct device *dev)
{
    chardev_attach(to_serial(dev)->chardev, NULL);
}

static const struct property serial_properties[] = {
    PROPERTY_U16("iobase", struct serial, iobase, 0x3f8, "first of 8 I/O ports"),
    PROPERTY_U8("irq", struct serial, irq, 4, "ISA interrupt"),
    PROPERTY_REF("chardev", struct serial, chardev, "where the bytes go"),
    PROPERTY_END,
};

static const struct state_field serial_state[] = {
    STATE_U8(struct serial, ier),           STATE_U8(struct serial, fcr),
    STATE_U8(struct serial, lcr),           STATE_U8(struct serial, mcr),
    STATE_U8(struct serial, lsr),           STATE_U8(struct serial, msr),
    STATE_U8(struct serial, scr),           STATE_U16(struct serial, divisor),
    STATE_BOOL(struct serial, thr_pending), STATE_BOOL(struct serial, timeout),
    STATE_ARRAY(struct serial, rx),         STATE_U8(struct serial, rx_head),
    STATE_U8(struct serial, rx_count),      STATE_ARRAY(struct serial, tx),
    STATE_U8(struct serial, tx_count),      STATE_END,
};

const struct device_type isa_serial_type = {
    .name = "isa-serial",
    .summary = "16550A serial port",
    .bus = "isa",
    .instance_size = sizeof(struct serial),
    .properties = serial_properties,
    .state = serial_state,
    .realize = serial_realize,
    .reset = serial_reset,
    .refresh = serial_restored,
    .unrealize = serial_unrealize,
};
