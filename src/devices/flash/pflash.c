/*
 * pflash.c - see pflash.h. Intel's basic command set as the 28F320J5 has it, one chip of bytes, in
 * blocks of 4 KiB. Common Flash Interface, JEDEC JESD68.
 *
 * Programming only clears bits, erasing sets them. Each change goes to the file at once, so what
 * the firmware sees as written is written; a file that takes no more bytes is a failure that the
 * status register tells.
 */
#include "devices/flash/pflash.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum command {
    PROGRAM_ALTERNATE = 0x10,
    ERASE_BLOCK = 0x20,
    PROGRAM = 0x40,
    CLEAR_STATUS = 0x50,
    LOCK = 0x60,
    READ_STATUS = 0x70,
    READ_ID = 0x90,
    READ_CFI = 0x98,
    CONFIRM = 0xd0,
    WRITE_BUFFER = 0xe8,
    READ_ARRAY = 0xff,
};

enum status { READY = 0x80, ERASE_FAILED = 0x20, PROGRAM_FAILED = 0x10 };

enum { BUFFER = 32, CFI_SIZE = 0x34, MANUFACTURER = 0x89, DEVICE = 0x18, ERASED = 0xff };

/* What the next write is, after the command that came before. */
enum phase {
    WANTS_COMMAND,
    WANTS_BYTE,
    WANTS_ERASE,
    WANTS_LOCK,
    WANTS_COUNT,
    WANTS_DATA,
    WANTS_CONFIRM
};

struct pflash {
    struct device dev;
    uint8_t *data;
    uint64_t size, base;
    int fd; /* -1: none */
    char *name;
    bool told; /* that the file cannot be written */

    /* saved */
    uint8_t mode; /* what reads give: READ_ARRAY, READ_STATUS, READ_ID, READ_CFI */
    uint8_t status, phase;
    uint8_t count, filled; /* of the buffer */
    uint32_t start;        /* of what the buffer is for */
    uint8_t buffer[BUFFER];
};
#define to_pflash(d) container_of(d, struct pflash, dev)

static bool store(struct pflash *f, uint64_t offset, uint64_t length)
{
    uint64_t done = 0;

    while (f->fd >= 0 && done < length) {
        ssize_t n = pwrite(f->fd, f->data + offset + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (!f->told)
                log_error("firmware variables '%s' cannot be written: %s", f->name,
                          strerror(n < 0 ? errno : ENOSPC));
            f->told = true;
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

static void program(struct pflash *f, uint64_t offset, const uint8_t *bytes, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        f->data[offset + i] &= bytes[i];
    f->status |= (uint8_t)(READY | (store(f, offset, length) ? 0 : PROGRAM_FAILED));
}

static void erase(struct pflash *f, uint64_t offset)
{
    offset = align_down(offset, PFLASH_BLOCK);
    memset(f->data + offset, ERASED, PFLASH_BLOCK);
    f->status |= (uint8_t)(READY | (store(f, offset, PFLASH_BLOCK) ? 0 : ERASE_FAILED));
}

static void command(struct pflash *f, uint8_t value)
{
    f->phase = WANTS_COMMAND;
    switch (value) {
    case PROGRAM:
    case PROGRAM_ALTERNATE: f->phase = WANTS_BYTE; break;
    case ERASE_BLOCK: f->phase = WANTS_ERASE; break;
    case LOCK: f->phase = WANTS_LOCK; break;
    case WRITE_BUFFER:
        f->phase = WANTS_COUNT;
        f->status |= READY;
        break;
    case CLEAR_STATUS:
        f->status = 0;
        f->mode = READ_ARRAY;
        return;
    case READ_STATUS:
    case READ_ID:
    case READ_CFI:
    case READ_ARRAY: f->mode = value; return;
    default: f->mode = READ_ARRAY; return;
    }
    f->mode = READ_STATUS;
}

static void buffered(struct pflash *f, uint64_t offset, uint8_t value)
{
    if (!f->filled)
        f->start = (uint32_t)offset;
    f->buffer[f->filled++] = value;
    if (f->filled == f->count)
        f->phase = WANTS_CONFIRM;
}

static void write_byte(struct pflash *f, uint64_t offset, uint8_t value)
{
    switch (f->phase) {
    case WANTS_BYTE:
        program(f, offset, &value, 1);
        f->phase = WANTS_COMMAND;
        break;
    case WANTS_ERASE:
        if (value == CONFIRM)
            erase(f, offset);
        else
            f->status |= READY | ERASE_FAILED | PROGRAM_FAILED;
        f->phase = WANTS_COMMAND;
        break;
    case WANTS_LOCK: /* blocks have no locks: done at once */
        f->status |= READY;
        f->phase = WANTS_COMMAND;
        break;
    case WANTS_COUNT:
        f->count = (uint8_t)(value % BUFFER + 1);
        f->filled = 0;
        f->phase = value < BUFFER ? WANTS_DATA : WANTS_COMMAND;
        break;
    case WANTS_DATA: buffered(f, offset, value); break;
    case WANTS_CONFIRM:
        if (value == CONFIRM && range_within(f->start, f->count, f->size))
            program(f, f->start, f->buffer, f->count);
        else
            f->status |= READY | PROGRAM_FAILED;
        f->phase = WANTS_COMMAND;
        break;
    default: command(f, value); break;
    }
}

/* The table that says what this is: "QRY", command set 1, sizes and one region of blocks. */
static uint8_t cfi_byte(const struct pflash *f, uint64_t offset)
{
    static const uint8_t head[] = {'Q',  'R', 'Y', 1, 0, 0x31, 0, 0, 0, 0, 0, 0x45,
                                   0x55, 0,   0,   7, 7, 10,   0, 4, 4, 4, 0};
    uint64_t blocks = f->size / PFLASH_BLOCK - 1;
    unsigned bits = 0;

    while (UINT64_C(1) << bits < f->size)
        bits++;
    switch (offset) {
    case 0x27: return (uint8_t)bits;
    case 0x2a: return 5; /* the buffer: 2^5 bytes */
    case 0x2c: return 1;
    case 0x2d: return (uint8_t)blocks;
    case 0x2e: return (uint8_t)(blocks >> 8);
    case 0x2f: return (uint8_t)(PFLASH_BLOCK >> 8);
    case 0x30: return (uint8_t)(PFLASH_BLOCK >> 16);
    case 0x31: return 'P';
    case 0x32: return 'R';
    case 0x33: return 'I';
    default: return offset >= 0x10 && offset - 0x10 < sizeof(head) ? head[offset - 0x10] : 0;
    }
}

static uint64_t pflash_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct pflash *f = to_pflash(dev);
    uint64_t value = 0;

    switch (f->mode) {
    case READ_ARRAY: return load_le(f->data + offset, size);
    case READ_STATUS:
        for (unsigned i = 0; i < size; i++)
            value = value << 8 | f->status;
        return value;
    case READ_ID:
        offset %= PFLASH_BLOCK;
        return offset == 0 ? MANUFACTURER : offset == 1 ? DEVICE : 0;
    default: return cfi_byte(f, offset % PFLASH_BLOCK);
    }
}

static void pflash_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        write_byte(to_pflash(dev), offset + i, (uint8_t)(value >> 8 * i));
}

static const struct io_ops pflash_io = {pflash_read, pflash_write, 1, 8};

/* ---- the device --------------------------------------------------------------------------------
 */

static void pflash_reset(struct device *dev)
{
    struct pflash *f = to_pflash(dev);

    f->mode = READ_ARRAY;
    f->status = READY;
    f->phase = WANTS_COMMAND;
    f->count = f->filled = 0;
}

static void pflash_refresh(struct device *dev)
{
    struct pflash *f = to_pflash(dev);

    /* The fields may come from a hostile stream. */
    if (f->phase > WANTS_CONFIRM || f->count > BUFFER ||
        (f->phase == WANTS_DATA && f->filled >= f->count))
        pflash_reset(dev);
}

static int pflash_realize(struct device *dev, struct error *err)
{
    struct pflash *f = to_pflash(dev);

    if (!f->data)
        return error_set(err, EINVAL, "cfi.pflash01: is a part of a board with UEFI firmware");
    return device_map_mmio(dev, f->base, f->size, PRIORITY_BOARD, &pflash_io, err);
}

static void pflash_unrealize(struct device *dev)
{
    struct pflash *f = to_pflash(dev);

    if (f->fd >= 0) {
        fdatasync(f->fd);
        close(f->fd);
    }
    free(f->data);
    free(f->name);
}

static const struct state_field pflash_state[] = {
    STATE_U8(struct pflash, mode),      STATE_U8(struct pflash, status),
    STATE_U8(struct pflash, phase),     STATE_U8(struct pflash, count),
    STATE_U8(struct pflash, filled),    STATE_U32(struct pflash, start),
    STATE_ARRAY(struct pflash, buffer), STATE_END,
};

const struct device_type pflash_type = {
    .name = "cfi.pflash01",
    .summary = "Parallel flash with Intel's command set",
    .instance_size = sizeof(struct pflash),
    .state = pflash_state,
    .realize = pflash_realize,
    .reset = pflash_reset,
    .refresh = pflash_refresh,
    .unrealize = pflash_unrealize,
};

static int read_file(int fd, uint8_t *to, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

struct device *pflash_add(struct machine *m, gpa base, int fd, const char *name,
                          const uint8_t *content, uint64_t size, struct error *err)
{
    struct device *dev;
    struct pflash *f;
    int r = 0;

    if (!size || size % PFLASH_BLOCK || size > PFLASH_MAX) {
        error_set(err, EINVAL, "'%s' has %llu bytes; a flash has a multiple of 4 KiB, up to 16 MiB",
                  name, (unsigned long long)size);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    dev = device_new(m, &pflash_type, NULL);
    f = to_pflash(dev);
    f->base = base;
    f->size = size;
    f->data = xcalloc(1, size);
    f->fd = fd;
    f->name = xstrdup(name);
    if (fd >= 0)
        r = read_file(fd, f->data, size);
    else
        memcpy(f->data, content, size);
    if (r < 0)
        error_set_errno(err, -r, "cannot read '%s'", name);
    if (r < 0 || device_realize(dev, err) < 0) {
        pflash_unrealize(dev);
        device_free(dev);
        return NULL;
    }
    return dev;
}
