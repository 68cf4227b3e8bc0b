/*
 * i8042.c - see i8042.h. IBM PS/2 Technical Reference: keyboard and auxiliary device controller.
 *
 * The output buffer holds one byte and says whose it is. When the guest takes it, the next one
 * follows at once: the controller's own answer first, then keyboard, then mouse. Each byte is a
 * new edge on the interrupt line, so the line drops when the byte is read.
 */
#include "devices/input/i8042.h"

#include "devices/input/ps2.h"
#include "display/display.h"
#include "machine/machine.h"

enum source { FROM_NOBODY, FROM_CONTROLLER, FROM_KEYBOARD, FROM_MOUSE };
enum output_port { OUT_RESET = 1, OUT_A20 = 2, OUT_KEYBOARD_FULL = 16, OUT_MOUSE_FULL = 32 };

struct i8042 {
    struct device dev;
    struct ps2_keyboard keyboard; /* saved */
    struct ps2_mouse mouse;
    uint8_t mode;                /* the command byte, internal RAM byte 0 */
    uint8_t ram[31];             /* the rest of the internal RAM, bytes 1 to 31 */
    uint8_t command;             /* waits for its argument at port 60; 0: none */
    uint8_t output, output_from; /* the output buffer */
    bool last_was_command;       /* STATUS_COMMAND */
    bool release_prefix;         /* translating: F0 was seen, the next code is a release */
    struct irq_line keyboard_line, mouse_line;
    struct input_sink *keys, *pointer; /* NULL: there is no display */
};
#define to_i8042(d) container_of(d, struct i8042, dev)

/* Set 2 to set 1; codes from 0x80 up are as they are but for F7's 83. */
static uint8_t translate(uint8_t set2)
{
    static const uint8_t table[0x80] = {
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
        0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
        0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
        0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
        0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
        0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
        0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
        0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
        0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    };

    if (set2 == 0x83)
        return 0x41;
    if (set2 == 0x84)
        return 0x54;
    return set2 < 0x80 ? table[set2] : set2;
}

/* Fill the output buffer from whoever has something, and let the lines follow. */
static void i8042_refresh(struct device *dev)
{
    struct i8042 *c = to_i8042(dev);

    while (c->output_from == FROM_NOBODY && !ps2_empty(&c->keyboard.queue) &&
           !(c->mode & MODE_KEYBOARD_OFF)) {
        uint8_t byte = ps2_read(&c->keyboard.queue);

        if (c->mode & MODE_TRANSLATE && byte == 0xf0) {
            c->release_prefix = true;
            continue;
        }
        if (c->mode & MODE_TRANSLATE) {
            byte = translate(byte) | (c->release_prefix ? 0x80 : 0);
            c->release_prefix = false;
        }
        c->output = byte;
        c->output_from = FROM_KEYBOARD;
    }
    if (c->output_from == FROM_NOBODY && !(c->mode & MODE_MOUSE_OFF)) {
        ps2_mouse_report(&c->mouse);
        if (!ps2_empty(&c->mouse.queue)) {
            c->output = ps2_read(&c->mouse.queue);
            c->output_from = FROM_MOUSE;
        }
    }
    irq_line_set(&c->keyboard_line,
                 (c->output_from == FROM_KEYBOARD || c->output_from == FROM_CONTROLLER) &&
                     c->mode & MODE_KEYBOARD_INT);
    irq_line_set(&c->mouse_line, c->output_from == FROM_MOUSE && c->mode & MODE_MOUSE_INT);
}

static void put(struct i8042 *c, uint8_t byte, enum source from)
{
    c->output = byte;
    c->output_from = (uint8_t)from;
}

static uint8_t output_port(struct i8042 *c)
{
    return (uint8_t)(0xc0 | OUT_RESET | (machine_a20(c->dev.machine) ? OUT_A20 : 0) |
                     (c->output_from == FROM_KEYBOARD ? OUT_KEYBOARD_FULL : 0) |
                     (c->output_from == FROM_MOUSE ? OUT_MOUSE_FULL : 0));
}

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = to_i8042(dev);
    uint8_t byte = c->output;

    (void)offset;
    (void)size;
    c->output_from = FROM_NOBODY;
    irq_line_set(&c->keyboard_line, false);
    irq_line_set(&c->mouse_line, false);
    i8042_refresh(dev);
    return byte;
}

static void command_argument(struct i8042 *c, uint8_t command, uint8_t byte)
{
    switch (command) {
    case 0xd1:
        machine_set_a20(c->dev.machine, (byte & OUT_A20) != 0);
        if (!(byte & OUT_RESET))
            machine_request_reset(c->dev.machine);
        break;
    case 0xd2: put(c, byte, FROM_KEYBOARD); break;
    case 0xd3: put(c, byte, FROM_MOUSE); break;
    case 0xd4:
        c->mode &= (uint8_t)~MODE_MOUSE_OFF;
        ps2_mouse_write(&c->mouse, byte);
        break;
    case 0x60: c->mode = byte; break;
    default: c->ram[(command & 0x1f) - 1] = byte; break; /* 61..7f */
    }
}

static void data_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = to_i8042(dev);
    uint8_t command = c->command;

    (void)offset;
    (void)size;
    c->last_was_command = false;
    c->command = 0;
    if (command) {
        command_argument(c, command, (uint8_t)value);
    } else {
        c->mode &= (uint8_t)~MODE_KEYBOARD_OFF; /* data for the keyboard turns it on */
        ps2_keyboard_write(&c->keyboard, (uint8_t)value);
    }
    i8042_refresh(dev);
}

static uint64_t status_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct i8042 *c = to_i8042(dev);

    (void)offset;
    (void)size;
    return STATUS_UNLOCKED | (c->mode & MODE_SYSTEM ? STATUS_SYSTEM : 0) |
           (c->output_from != FROM_NOBODY ? STATUS_OBF : 0) |
           (c->output_from == FROM_MOUSE ? STATUS_MOUSE_OBF : 0) |
           (c->last_was_command ? STATUS_COMMAND : 0);
}

static void command_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = to_i8042(dev);
    uint8_t command = (uint8_t)value;

    (void)offset;
    (void)size;
    c->last_was_command = true;
    c->command = 0;
    if (command == 0x20) {
        put(c, c->mode, FROM_CONTROLLER);
    } else if (command > 0x20 && command < 0x40) {
        put(c, c->ram[(command & 0x1f) - 1], FROM_CONTROLLER);
    } else if (command >= 0x60 && command < 0x80) {
        c->command = command;
    } else if (command >= 0xf0) {
        /* Pulses output lines low; bit 0 is the processor's reset. */
        if (!(command & OUT_RESET))
            machine_request_reset(dev->machine);
    } else {
        switch (command) {
        case 0xa7: c->mode |= MODE_MOUSE_OFF; break;
        case 0xa8: c->mode &= (uint8_t)~MODE_MOUSE_OFF; break;
        case 0xa9: put(c, 0, FROM_CONTROLLER); break; /* mouse port: no fault */
        case 0xaa:
            c->mode |= MODE_SYSTEM;
            put(c, 0x55, FROM_CONTROLLER);
            break;
        case 0xab: put(c, 0, FROM_CONTROLLER); break; /* keyboard port: no fault */
        case 0xad: c->mode |= MODE_KEYBOARD_OFF; break;
        case 0xae: c->mode &= (uint8_t)~MODE_KEYBOARD_OFF; break;
        case 0xc0: put(c, 0x80, FROM_CONTROLLER); break; /* input port: not locked */
        case 0xd0: put(c, output_port(c), FROM_CONTROLLER); break;
        case 0xd1:
        case 0xd2:
        case 0xd3:
        case 0xd4: c->command = command; break;
        case 0xdd: machine_set_a20(dev->machine, false); break;
        case 0xdf: machine_set_a20(dev->machine, true); break;
        default: guest_error_write(dev, I8042_STATUS, command, 1); break;
        }
    }
    i8042_refresh(dev);
}

static const struct io_ops data_io = {data_read, data_write, 1, 1};
static const struct io_ops status_io = {status_read, command_write, 1, 1};

void i8042_key(struct device *dev, unsigned linux_code, bool down)
{
    pthread_mutex_lock(&dev->lock);
    ps2_keyboard_key(&to_i8042(dev)->keyboard, linux_code, down);
    i8042_refresh(dev);
    pthread_mutex_unlock(&dev->lock);
}

void i8042_mouse(struct device *dev, int dx, int dy, int dz, uint8_t buttons)
{
    pthread_mutex_lock(&dev->lock);
    ps2_mouse_move(&to_i8042(dev)->mouse, dx, dy, dz, buttons);
    i8042_refresh(dev);
    pthread_mutex_unlock(&dev->lock);
}

static void take_key(void *opaque, const struct input_event *e)
{
    i8042_key(opaque, e->code, e->down);
}

static void take_movement(void *opaque, const struct input_event *e)
{
    i8042_mouse(opaque, e->x, -e->y, e->wheel, e->buttons);
}

static void i8042_reset(struct device *dev)
{
    struct i8042 *c = to_i8042(dev);

    ps2_keyboard_reset(&c->keyboard);
    ps2_mouse_reset(&c->mouse);
    c->mode = MODE_KEYBOARD_INT | MODE_MOUSE_INT | MODE_TRANSLATE;
    memset(c->ram, 0, sizeof(c->ram));
    c->command = 0;
    c->output = 0;
    c->output_from = FROM_NOBODY;
    c->last_was_command = true;
    c->release_prefix = false;
    i8042_refresh(dev);
}

static void i8042_restored(struct device *dev)
{
    struct i8042 *c = to_i8042(dev);

    ps2_keyboard_check(&c->keyboard);
    ps2_mouse_check(&c->mouse);
    if (c->output_from > FROM_MOUSE)
        c->output_from = FROM_NOBODY;
    if (!((c->command >= 0x60 && c->command < 0x80) || (c->command >= 0xd1 && c->command <= 0xd4)))
        c->command = 0;
    i8042_refresh(dev);
}

static int i8042_realize(struct device *dev, struct error *err)
{
    struct i8042 *c = to_i8042(dev);
    int r = device_claim_irq(dev, 1, &c->keyboard_line, err);

    if (!r)
        r = device_claim_irq(dev, 12, &c->mouse_line, err);
    if (!r)
        r = device_map_pio(dev, I8042_DATA, 1, &data_io, err);
    if (!r)
        r = device_map_pio(dev, I8042_STATUS, 1, &status_io, err);
    if (!r) {
        struct display *d = dev->machine->config.display;

        c->keys = input_sink_add(
            d, &(struct input_sink_ops){
                   .name = "PS/2 keyboard", .opaque = dev, .kinds = INPUT_KEYS, .event = take_key});
        c->pointer = input_sink_add(d, &(struct input_sink_ops){.name = "PS/2 mouse",
                                                                .opaque = dev,
                                                                .kinds = INPUT_RELATIVE,
                                                                .event = take_movement});
        input_sink_set_ready(c->keys, true);
        input_sink_set_ready(c->pointer, true);
    }
    return r;
}

static void i8042_unrealize(struct device *dev)
{
    input_sink_remove(to_i8042(dev)->keys);
    input_sink_remove(to_i8042(dev)->pointer);
}

static const struct state_field i8042_state[] = {
    STATE_STRUCT(struct i8042, keyboard, ps2_keyboard_state),
    STATE_STRUCT(struct i8042, mouse, ps2_mouse_state),
    STATE_U8(struct i8042, mode),
    STATE_ARRAY(struct i8042, ram),
    STATE_U8(struct i8042, command),
    STATE_U8(struct i8042, output),
    STATE_U8(struct i8042, output_from),
    STATE_BOOL(struct i8042, last_was_command),
    STATE_BOOL(struct i8042, release_prefix),
    STATE_END,
};

const struct device_type i8042_type = {
    .name = "i8042",
    .summary = "keyboard controller with PS/2 keyboard and mouse",
    .instance_size = sizeof(struct i8042),
    .state = i8042_state,
    .realize = i8042_realize,
    .unrealize = i8042_unrealize,
    .reset = i8042_reset,
    .refresh = i8042_restored,
};
