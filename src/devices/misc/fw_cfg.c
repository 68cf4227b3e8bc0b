/*
 * fw_cfg.c - see fw_cfg.h. The interface is specified in QEMU's docs/specs/fw_cfg.rst.
 *
 * An item's bytes are read one by one at the data port, or moved by DMA: the guest writes the
 * address of a control block, big-endian, to the DMA port, and the block's control word tells it
 * the result. The block is read once; its length is bounded by what the item has, and by FILL_MAX
 * for the zeros that are read behind an item's end.
 *
 * A snapshot carries what is selected. The items are the board's, who makes them again.
 */
#include "devices/misc/fw_cfg.h"

#include "base/log.h"
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>

enum { PORT_SELECTOR = 0, PORT_DATA = 1, PORT_COUNT = 2, PORT_BASE = 0x510 };
enum { DMA_BASE = 0x514, DMA_COUNT = 8 };
enum { KEY_WRITE = 0x4000 }; /* of the selector: once asked for writing, has no meaning now */
enum { NAME_SIZE = 56, DIR_ENTRY_SIZE = 64 };
enum { ID_TRADITIONAL = 1, ID_DMA = 2 };
enum { FILL_MAX = 16 * MiB, PIECE = 4096 };
enum dma_control {
    DMA_ERROR = 1 << 0,
    DMA_READ = 1 << 1,
    DMA_SKIP = 1 << 2,
    DMA_SELECT = 1 << 3,
    DMA_WRITE = 1 << 4,
};

struct item {
    uint16_t key;
    char *name; /* files; NULL: numbered only */
    uint8_t *data;
    uint32_t size;
    bool writable;
    void (*read)(void *opaque, uint32_t offset, uint8_t *data, size_t size); /* no data then */
    void (*written)(void *opaque, const uint8_t *data, size_t size);
    void *opaque;
};

struct fw_cfg {
    struct device dev;
    struct item **items; /* files last, sorted by name; under the device's lock */
    unsigned count, files;
    uint16_t key;      /* saved */
    uint32_t offset;   /* saved: in the item */
    uint32_t dma_high; /* saved: written, waiting for the low half */
};
#define to_fw_cfg(d) container_of(d, struct fw_cfg, dev)

/* ---- items ------------------------------------------------------------------------------------
 */

static void store_be(uint8_t *p, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static uint64_t load_be(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v = v << 8 | p[i];
    return v;
}

static struct item *item_find(struct fw_cfg *f, uint16_t key)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->items[i]->key == key)
            return f->items[i];
    return NULL;
}

static struct item *file_find(struct fw_cfg *f, const char *name)
{
    for (unsigned i = f->count - f->files; i < f->count; i++)
        if (!strcmp(f->items[i]->name, name))
            return f->items[i];
    return NULL;
}

static void item_free(struct item *i)
{
    free(i->name);
    free(i->data);
    free(i);
}

static void item_set(struct item *i, const void *data, size_t size)
{
    uint8_t *copy = xcalloc(1, size);

    if (size)
        memcpy(copy, data, size);
    free(i->data);
    i->data = copy;
    i->size = (uint32_t)size;
}

/* At `position`, later ones move up. */
static struct item *item_insert(struct fw_cfg *f, unsigned position)
{
    struct item **items = xcalloc(f->count + 1, sizeof(struct item *));

    if (f->count) {
        memcpy(items, f->items, position * sizeof(struct item *));
        memcpy(items + position + 1, f->items + position,
               (f->count - position) * sizeof(struct item *));
    }
    items[position] = xcalloc(1, sizeof(struct item));
    free(f->items);
    f->items = items;
    f->count++;
    return items[position];
}

static struct item *numbered(struct fw_cfg *f, uint16_t key)
{
    struct item *i = item_find(f, key);

    if (!i) {
        i = item_insert(f, f->count - f->files);
        i->key = key;
    }
    return i;
}

static struct item *file_new(struct fw_cfg *f, const char *name, size_t size, struct error *err)
{
    unsigned first = f->count - f->files, at = first;
    struct item *i;

    if (!*name || strlen(name) >= NAME_SIZE) {
        error_set(err, EINVAL, "fw_cfg: file name '%s' has not 1 to %d characters", name,
                  NAME_SIZE - 1);
        return NULL;
    }
    if (file_find(f, name)) {
        error_set(err, EEXIST, "fw_cfg: there is a file '%s' already", name);
        return NULL;
    }
    if (f->files == FW_CFG_FILES || size > UINT32_MAX) {
        error_set(err, ENOSPC, "fw_cfg: no room for file '%s' (%zu bytes, %u files are there)",
                  name, size, f->files);
        return NULL;
    }
    while (at < f->count && strcmp(f->items[at]->name, name) < 0)
        at++;
    i = item_insert(f, at);
    i->name = xstrdup(name);
    f->files++;
    for (unsigned n = 0; n < f->files; n++)
        f->items[first + n]->key = (uint16_t)(FW_CFG_FILE_FIRST + n);
    return i;
}

/* The directory as its bytes: a count, then an entry for each file. */
static void directory_make(struct fw_cfg *f)
{
    size_t size = 4 + (size_t)f->files * DIR_ENTRY_SIZE;
    auto_free uint8_t *dir = xcalloc(1, size);

    store_be(dir, f->files, 4);
    for (unsigned n = 0; n < f->files; n++) {
        const struct item *i = f->items[f->count - f->files + n];
        uint8_t *e = dir + 4 + n * DIR_ENTRY_SIZE;

        store_be(e, i->size, 4);
        store_be(e + 4, i->key, 2);
        memcpy(e + 8, i->name, strlen(i->name));
    }
    item_set(numbered(f, FW_CFG_FILE_DIR), dir, size);
}

void fw_cfg_add_item(struct device *dev, uint16_t key, const void *data, size_t size)
{
    struct fw_cfg *f = to_fw_cfg(dev);

    pthread_mutex_lock(&dev->lock);
    item_set(numbered(f, key), data, size);
    pthread_mutex_unlock(&dev->lock);
}

void fw_cfg_add_reader(struct device *dev, uint16_t key, uint32_t size,
                       void (*read)(void *opaque, uint32_t offset, uint8_t *data, size_t size),
                       void *opaque)
{
    struct fw_cfg *f = to_fw_cfg(dev);
    struct item *i;

    pthread_mutex_lock(&dev->lock);
    i = numbered(f, key);
    free(i->data);
    i->data = NULL;
    i->size = size;
    i->read = read;
    i->opaque = opaque;
    pthread_mutex_unlock(&dev->lock);
}

void fw_cfg_add_u16(struct device *dev, uint16_t key, uint16_t value)
{
    fw_cfg_add_item(dev, key, &value, sizeof(value));
}

void fw_cfg_add_u32(struct device *dev, uint16_t key, uint32_t value)
{
    fw_cfg_add_item(dev, key, &value, sizeof(value));
}

void fw_cfg_add_u64(struct device *dev, uint16_t key, uint64_t value)
{
    fw_cfg_add_item(dev, key, &value, sizeof(value));
}

int fw_cfg_add_writable(struct device *dev, const char *name, const void *data, size_t size,
                        void (*written)(void *opaque, const uint8_t *data, size_t size),
                        void *opaque, struct error *err)
{
    struct fw_cfg *f = to_fw_cfg(dev);
    struct error local = {0};
    struct item *i;

    pthread_mutex_lock(&dev->lock);
    i = file_new(f, name, size, &local);
    if (i) {
        item_set(i, data, size);
        i->writable = written != NULL;
        i->written = written;
        i->opaque = opaque;
        directory_make(f);
    }
    pthread_mutex_unlock(&dev->lock);
    return i ? 0 : error_set(err, local.code, "%s", local.text);
}

int fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t size,
                    struct error *err)
{
    return fw_cfg_add_writable(dev, name, data, size, NULL, NULL, err);
}

int fw_cfg_set_file(struct device *dev, const char *name, const void *data, size_t size,
                    struct error *err)
{
    struct fw_cfg *f = to_fw_cfg(dev);
    struct item *i;
    int r = 0;

    pthread_mutex_lock(&dev->lock);
    i = file_find(f, name);
    if (!i || size > UINT32_MAX) {
        r = error_set(err, ENOENT, "fw_cfg: there is no file '%s' to replace by %zu bytes", name,
                      size);
    } else {
        item_set(i, data, size);
        directory_make(f);
    }
    pthread_mutex_unlock(&dev->lock);
    return r;
}

/* `size` bytes from `offset`, both within the item. */
static void item_read(const struct item *i, uint32_t offset, uint8_t *to, size_t size)
{
    if (i->read)
        i->read(i->opaque, offset, to, size);
    else
        memcpy(to, i->data + offset, size);
}

/* ---- selector and data port ---------------------------------------------------------------------
 */

static void item_select(struct fw_cfg *f, uint16_t key)
{
    f->key = key & (uint16_t)~KEY_WRITE;
    f->offset = 0;
}

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct fw_cfg *f = to_fw_cfg(dev);
    const struct item *i = item_find(f, f->key);
    uint8_t byte = 0;

    if (offset != PORT_DATA || size != 1)
        return guest_error_read(dev, offset, size);
    if (i && f->offset < i->size)
        item_read(i, f->offset++, &byte, 1);
    return byte;
}

static void port_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == PORT_SELECTOR && size == 2)
        item_select(to_fw_cfg(dev), (uint16_t)value);
    else
        guest_error_write(dev, offset, value, size);
}

static const struct io_ops port_io = {port_read, port_write, 1, 2};

/* ---- DMA --------------------------------------------------------------------------------------
 */

/* Item bytes to the guest, then zeros. */
static bool dma_to_guest(struct fw_cfg *f, const struct item *i, gpa address, uint32_t length)
{
    struct memory_map *memory = f->dev.machine->memory;
    uint32_t have = i && f->offset < i->size ? MIN(length, i->size - f->offset) : 0;
    uint8_t piece[PIECE];

    if (length - have > FILL_MAX)
        return false;
    for (uint32_t done = 0; done < have;) {
        uint32_t n = MIN((uint32_t)PIECE, have - done);

        item_read(i, f->offset + done, piece, n);
        if (dma_write(memory, address + done, piece, n) < 0)
            return false;
        done += n;
    }
    return dma_fill(memory, address + have, 0, length - have) == 0;
}

static bool dma_from_guest(struct fw_cfg *f, struct item *i, gpa address, uint32_t length)
{
    if (!i || !i->writable || !range_within(f->offset, length, i->size))
        return false;
    if (dma_read(f->dev.machine->memory, address, i->data + f->offset, length) < 0)
        return false;
    i->written(i->opaque, i->data, i->size);
    return true;
}

static void dma_run(struct fw_cfg *f, gpa block)
{
    struct memory_map *memory = f->dev.machine->memory;
    uint8_t bytes[16], result[4];
    uint32_t control, length;
    struct item *i;
    gpa address;
    bool good = true;

    if (dma_read(memory, block, bytes, sizeof(bytes)) < 0) {
        log_guest("%s: DMA control block at %#llx is not in RAM", f->dev.id,
                  (unsigned long long)block);
        return;
    }
    control = (uint32_t)load_be(bytes, 4);
    length = (uint32_t)load_be(bytes + 4, 4);
    address = load_be(bytes + 8, 8);
    if (control & DMA_SELECT)
        item_select(f, (uint16_t)(control >> 16));
    i = item_find(f, f->key);
    if (!range_within(address, length, UINT64_C(1) << 52))
        good = false;
    else if (control & DMA_READ)
        good = dma_to_guest(f, i, address, length);
    else if (control & DMA_WRITE)
        good = dma_from_guest(f, i, address, length);
    if (good && control & (DMA_READ | DMA_WRITE | DMA_SKIP)) {
        uint32_t room = UINT32_MAX - f->offset;

        f->offset += MIN(length, room);
    }
    if (!good)
        log_guest("%s: DMA of %u bytes at %#llx, item %#x, failed", f->dev.id, length,
                  (unsigned long long)address, f->key);
    store_be(result, good ? 0 : DMA_ERROR, 4);
    if (dma_write(memory, block, result, sizeof(result)) < 0)
        log_guest("%s: DMA control block at %#llx cannot be written", f->dev.id,
                  (unsigned long long)block);
}

/* Reads as "QEMU CFG": how a guest knows that there is DMA. */
static uint64_t dma_port_read(struct device *dev, uint64_t offset, unsigned size)
{
    static const uint8_t signature[] = "QEMU CFG";

    return load_le(signature + offset, size);
}

static void dma_port_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *f = to_fw_cfg(dev);

    if (offset == 0 && size == 8) {
        f->dma_high = 0;
        dma_run(f, __builtin_bswap64(value));
    } else if (offset == 0 && size == 4) {
        f->dma_high = __builtin_bswap32((uint32_t)value);
    } else if (offset == 4 && size == 4) {
        gpa block = (gpa)f->dma_high << 32 | __builtin_bswap32((uint32_t)value);

        f->dma_high = 0;
        dma_run(f, block);
    } else {
        guest_error_write(dev, DMA_BASE - PORT_BASE + offset, value, size);
    }
}

static const struct io_ops dma_io = {dma_port_read, dma_port_write, 1, 8};

/* ---- the device -------------------------------------------------------------------------------
 */

static void fw_cfg_reset(struct device *dev)
{
    item_select(to_fw_cfg(dev), FW_CFG_SIGNATURE);
    to_fw_cfg(dev)->dma_high = 0;
}

static int fw_cfg_realize(struct device *dev, struct error *err)
{
    struct fw_cfg *f = to_fw_cfg(dev);
    uint32_t id = ID_TRADITIONAL | ID_DMA;
    int r = device_map_pio(dev, PORT_BASE, PORT_COUNT, &port_io, err);

    if (!r)
        r = device_map_pio(dev, DMA_BASE, DMA_COUNT, &dma_io, err);
    if (r < 0)
        return r;
    fw_cfg_add_item(dev, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_item(dev, FW_CFG_ID, &id, sizeof(id));
    directory_make(f);
    return 0;
}

static void fw_cfg_unrealize(struct device *dev)
{
    struct fw_cfg *f = to_fw_cfg(dev);

    for (unsigned i = 0; i < f->count; i++)
        item_free(f->items[i]);
    free(f->items);
}

static const struct state_field fw_cfg_state[] = {
    STATE_U16(struct fw_cfg, key),
    STATE_U32(struct fw_cfg, offset),
    STATE_U32(struct fw_cfg, dma_high),
    STATE_END,
};

const struct device_type fw_cfg_type = {
    .name = "fw_cfg",
    .summary = "Firmware configuration (ports 0x510 to 0x51b)",
    .instance_size = sizeof(struct fw_cfg),
    .state = fw_cfg_state,
    .realize = fw_cfg_realize,
    .reset = fw_cfg_reset,
    .unrealize = fw_cfg_unrealize,
};
