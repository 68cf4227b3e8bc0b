/*
 * i8259.c - the two 8259A interrupt controllers of a PC and their edge/level control registers.
 *
 * Both chips are one device with one lock: INTA concerns both, and the slave's INT output is
 * simply input 2 of the master. After every change chips_update() works out the slave's output,
 * then the master's; nothing else drives them.
 *
 * An edge stays in the request register until it is acknowledged, also when the input falls
 * again: devices may pulse their lines. (The chip wants the input held until INTA and answers
 * with a spurious interrupt otherwise; so do we where a level went away.)
 *
 * Levels of the inputs are saved although they belong to devices: after a restore a line that
 * was high before must not look like a new edge.
 */
#include "devices/irq/i8259.h"

#include "machine/irq.h"
#include "machine/machine.h"

enum { MASTER, SLAVE, CHIPS };
enum { CASCADE = 2, SPURIOUS = 7 };

/* What the next write to the odd port is. */
enum init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

enum { ICW1_ICW4 = 0x01, ICW1_SINGLE = 0x02, ICW1 = 0x10 };
enum { ICW4_AUTO_EOI = 0x02, ICW4_FULLY_NESTED = 0x10 };
enum { OCW3_READ_ISR = 0x01, OCW3_READ = 0x02, OCW3_POLL = 0x04, OCW3 = 0x08 };
enum { OCW3_SPECIAL_MASK = 0x20, OCW3_SET_SPECIAL_MASK = 0x40 };
enum { OCW2_EOI = 0x20, OCW2_SPECIFIC = 0x40, OCW2_ROTATE = 0x80 };

struct chip {
    uint8_t edges;  /* latched requests of edge-triggered inputs */
    uint8_t inputs; /* levels of the pins */
    uint8_t imr, isr;
    uint8_t elcr;   /* inputs that are level-triggered */
    uint8_t base;   /* vector of input 0 */
    uint8_t lowest; /* the input that has the lowest priority */
    uint8_t init;   /* enum init_step */
    bool want_icw4, single;
    bool auto_eoi, rotate_auto_eoi, fully_nested, special_mask;
    bool read_isr, poll;
};

struct i8259 {
    struct device dev;
    struct chip chip[CHIPS];
    bool out; /* derived: INT of the master, as last told */
    void (*output)(void *opaque, bool level);
    void *opaque;
};
#define to_i8259(d) container_of(d, struct i8259, dev)

static uint8_t chip_irr(const struct chip *c)
{
    return (uint8_t)(c->edges | (c->inputs & c->elcr));
}

/* The set bit of highest priority, or -1. */
static int highest(const struct chip *c, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++)
        if (set & 1u << ((c->lowest + i) & 7))
            return (c->lowest + i) & 7;
    return -1;
}

static unsigned rank(const struct chip *c, int input)
{
    return input < 0 ? 8 : ((unsigned)input - c->lowest - 1) & 7;
}

/* The input that makes the chip's INT active, or -1. */
static int chip_request(const struct chip *c, bool master)
{
    int wanted = highest(c, chip_irr(c) & (uint8_t)~c->imr);
    uint8_t in_service = c->isr;

    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    /* Fully nested: the slave may interrupt its own service routine. */
    if (c->fully_nested && master)
        in_service &= (uint8_t) ~(1u << CASCADE);
    return rank(c, wanted) < rank(c, highest(c, in_service)) ? wanted : -1;
}

static void chip_input(struct chip *c, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (level && !(c->inputs & bit) && !(c->elcr & bit))
        c->edges |= bit;
    c->inputs = (uint8_t)(level ? c->inputs | bit : c->inputs & ~bit);
}

static void chips_update(struct i8259 *p)
{
    bool out;

    chip_input(&p->chip[MASTER], CASCADE, chip_request(&p->chip[SLAVE], false) >= 0);
    out = chip_request(&p->chip[MASTER], true) >= 0;
    if (out != p->out && p->output)
        p->output(p->opaque, out);
    p->out = out;
}

static void i8259_refresh(struct device *dev)
{
    chips_update(to_i8259(dev));
    if (to_i8259(dev)->output) /* also where it seems to know */
        to_i8259(dev)->output(to_i8259(dev)->opaque, to_i8259(dev)->out);
}

static void i8259_reset(struct device *dev)
{
    for (unsigned i = 0; i < CHIPS; i++) {
        struct chip *c = &to_i8259(dev)->chip[i];

        *c = (struct chip){.inputs = c->inputs, .lowest = 7};
    }
    i8259_refresh(dev);
}

static void set_input(struct device *dev, unsigned pin, bool level)
{
    struct i8259 *p = to_i8259(dev);

    pthread_mutex_lock(&dev->lock);
    chip_input(&p->chip[pin / 8], pin % 8, level);
    chips_update(p);
    pthread_mutex_unlock(&dev->lock);
}

/* ---- acknowledge and end ----------------------------------------------------------------------
 */

static void chip_acknowledge(struct chip *c, int input)
{
    uint8_t bit = (uint8_t)(1u << input);

    c->edges &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_auto_eoi)
        c->lowest = (uint8_t)input;
}

/* INTA on one chip: a vector. */
static int chip_vector(struct chip *c, bool master, int *input)
{
    *input = chip_request(c, master);
    if (*input < 0)
        return c->base + SPURIOUS;
    chip_acknowledge(c, *input);
    return c->base + *input;
}

int pic_acknowledge(struct device *pic)
{
    struct i8259 *p = to_i8259(pic);
    int input, vector;

    pthread_mutex_lock(&pic->lock);
    vector = chip_vector(&p->chip[MASTER], true, &input);
    if (input == CASCADE) {
        vector = chip_vector(&p->chip[SLAVE], false, &input);
        /* INT falls during INTA, so what is still waiting makes a new edge. */
        chip_input(&p->chip[MASTER], CASCADE, false);
    }
    chips_update(p);
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

static void write_ocw2(struct chip *c, uint8_t value)
{
    int input = value & 7;

    switch (value & (OCW2_ROTATE | OCW2_SPECIFIC | OCW2_EOI)) {
    case OCW2_EOI:
    case OCW2_ROTATE | OCW2_EOI:
        /* In special mask mode what is masked keeps its bit until a specific EOI. */
        input = highest(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
        if (input < 0)
            return;
        c->isr &= (uint8_t) ~(1u << input);
        break;
    case OCW2_SPECIFIC | OCW2_EOI:
    case OCW2_ROTATE | OCW2_SPECIFIC | OCW2_EOI: c->isr &= (uint8_t) ~(1u << input); break;
    case OCW2_ROTATE | OCW2_SPECIFIC: break; /* set priority */
    case OCW2_ROTATE: c->rotate_auto_eoi = true; return;
    case 0: c->rotate_auto_eoi = false; return;
    default: return; /* no operation */
    }
    if (value & OCW2_ROTATE)
        c->lowest = (uint8_t)input;
}

static void write_ocw3(struct chip *c, uint8_t value)
{
    if (value & OCW3_POLL)
        c->poll = true;
    if (value & OCW3_READ)
        c->read_isr = (value & OCW3_READ_ISR) != 0;
    if (value & OCW3_SET_SPECIAL_MASK)
        c->special_mask = (value & OCW3_SPECIAL_MASK) != 0;
}

static void write_icw1(struct chip *c, uint8_t value)
{
    *c = (struct chip){.inputs = c->inputs,
                       .elcr = c->elcr,
                       .base = c->base,
                       .lowest = 7,
                       .init = INIT_ICW2,
                       .want_icw4 = (value & ICW1_ICW4) != 0,
                       .single = (value & ICW1_SINGLE) != 0};
}

static void write_odd(struct chip *c, uint8_t value)
{
    switch (c->init) {
    case INIT_ICW2:
        c->base = value & 0xf8;
        c->init = !c->single ? INIT_ICW3 : c->want_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3: /* who is the slave of whom: wired */
        c->init = c->want_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        c->auto_eoi = (value & ICW4_AUTO_EOI) != 0;
        c->fully_nested = (value & ICW4_FULLY_NESTED) != 0;
        c->init = INIT_DONE;
        break;
    default: c->imr = value; break;
    }
}

/* ---- ports ------------------------------------------------------------------------------------
 */

static void chip_write(struct i8259 *p, unsigned which, uint64_t offset, uint8_t value)
{
    struct chip *c = &p->chip[which];

    if (offset)
        write_odd(c, value);
    else if (value & ICW1)
        write_icw1(c, value);
    else if (value & OCW3)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
    chips_update(p);
}

static uint64_t chip_read(struct i8259 *p, unsigned which, uint64_t offset)
{
    struct chip *c = &p->chip[which];

    if (c->poll) { /* the read that follows acts as INTA of this chip */
        int input = chip_request(c, which == MASTER);

        c->poll = false;
        if (input < 0)
            return 0;
        chip_acknowledge(c, input);
        if (which == SLAVE)
            chip_input(&p->chip[MASTER], CASCADE, false);
        chips_update(p);
        return 0x80 | (unsigned)input;
    }
    if (offset)
        return c->imr;
    return c->read_isr ? c->isr : chip_irr(c);
}

static uint64_t master_read(struct device *dev, uint64_t offset, unsigned size)
{
    return chip_read(to_i8259(dev), MASTER, offset);
}

static void master_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    chip_write(to_i8259(dev), MASTER, offset, (uint8_t)value);
}

static uint64_t slave_read(struct device *dev, uint64_t offset, unsigned size)
{
    return chip_read(to_i8259(dev), SLAVE, offset);
}

static void slave_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    chip_write(to_i8259(dev), SLAVE, offset, (uint8_t)value);
}

static uint64_t elcr_read(struct device *dev, uint64_t offset, unsigned size)
{
    return to_i8259(dev)->chip[offset].elcr;
}

static void elcr_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    /* Timer, keyboard, cascade; RTC and the coprocessor are always edge-triggered. */
    static const uint8_t writable[CHIPS] = {0xf8, 0xde};
    struct chip *c = &to_i8259(dev)->chip[offset];

    c->elcr = (uint8_t)value & writable[offset];
    c->edges &= (uint8_t)~c->elcr;
    chips_update(to_i8259(dev));
}

static const struct io_ops master_io = {master_read, master_write, 1, 1};
static const struct io_ops slave_io = {slave_read, slave_write, 1, 1};
static const struct io_ops elcr_io = {elcr_read, elcr_write, 1, 1};

static int i8259_realize(struct device *dev, struct error *err)
{
    int r = device_map_pio(dev, I8259_MASTER, 2, &master_io, err);

    if (!r)
        r = device_map_pio(dev, I8259_SLAVE, 2, &slave_io, err);
    if (!r)
        r = device_map_pio(dev, I8259_ELCR, CHIPS, &elcr_io, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < 16; i++)
        if (i != CASCADE)
            irq_pin_connect(&dev->machine->gsi[i],
                            &(struct irq_input){.set = set_input, .chip = dev, .pin = i});
    return 0;
}

static void i8259_unrealize(struct device *dev)
{
    for (unsigned i = 0; i < 16; i++)
        irq_pin_disconnect(&dev->machine->gsi[i], dev);
}

static const struct state_field chip_state[] = {
    STATE_U8(struct chip, edges),
    STATE_U8(struct chip, inputs),
    STATE_U8(struct chip, imr),
    STATE_U8(struct chip, isr),
    STATE_U8(struct chip, elcr),
    STATE_U8(struct chip, base),
    STATE_U8(struct chip, lowest),
    STATE_U8(struct chip, init),
    STATE_BOOL(struct chip, want_icw4),
    STATE_BOOL(struct chip, single),
    STATE_BOOL(struct chip, auto_eoi),
    STATE_BOOL(struct chip, rotate_auto_eoi),
    STATE_BOOL(struct chip, fully_nested),
    STATE_BOOL(struct chip, special_mask),
    STATE_BOOL(struct chip, read_isr),
    STATE_BOOL(struct chip, poll),
    STATE_END,
};

static const struct state_field i8259_state[] = {
    STATE_STRUCT_ARRAY(struct i8259, chip, chip_state),
    STATE_END,
};

const struct device_type i8259_type = {
    .name = "i8259",
    .summary = "Interrupt controllers of a PC (a pair)",
    .instance_size = sizeof(struct i8259),
    .state = i8259_state,
    .realize = i8259_realize,
    .reset = i8259_reset,
    .refresh = i8259_refresh,
    .unrealize = i8259_unrealize,
};

struct device *i8259_add(struct machine *m, void (*output)(void *opaque, bool level), void *opaque,
                         struct error *err)
{
    struct device *dev = device_new(m, &i8259_type, NULL);

    to_i8259(dev)->output = output;
    to_i8259(dev)->opaque = opaque;
    if (device_realize(dev, err) < 0) {
        device_free(dev);
        return NULL;
    }
    return dev;
}
