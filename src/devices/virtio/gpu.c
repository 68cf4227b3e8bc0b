/*
 * gpu.c - virtio-gpu without 3D: the guest draws into memory of its own and says what it wants to
 * have copied and shown. virtio 1.2, section 5.7.
 *
 * A resource has pixels here and pages in the guest. "Transfer" copies a rectangle from there to
 * here, "flush" says that it may be seen; the display's thread then brings its surface up to date.
 * All is under io_lock, which comes after the screen's lock. Resources do not survive a snapshot:
 * after a restore the guest is told that the display changed, and draws anew.
 */
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include "display/display.h"
#include "machine/machine.h"

#include <errno.h>
#include <linux/virtio_gpu.h>
#include <stdlib.h>

enum { CONTROL, CURSOR, CONTROL_SIZE = 256, CURSOR_QUEUE_SIZE = 16, ENTRIES_MAX = 16384 };
enum { CURSOR_PIXELS = 64, RESOURCES_MAX = 1024, HEADER = sizeof(struct virtio_gpu_ctrl_hdr) };

struct resource {
    uint32_t id, format, width, height;
    uint8_t *pixels;                      /* four bytes each, as the format says */
    struct virtio_gpu_mem_entry *entries; /* where the guest has them; NULL: nowhere */
    uint32_t entry_count;
    struct resource *next;
};

struct virtio_gpu {
    struct virtio_device v;
    uint32_t width, height; /* properties: what is asked for at first */
    uint64_t host_memory;   /* property: bytes for all resources */

    struct screen *screen; /* NULL: nobody looks */
    /* io_lock */
    struct resource *resources;
    unsigned resource_count;
    uint64_t used;
    uint32_t shown; /* the resource that is seen; 0: none */
    struct virtio_gpu_rect view, dirty;
    uint32_t wish_width, wish_height;
    uint32_t cursor[CURSOR_PIXELS * CURSOR_PIXELS];
    uint32_t hot_x, hot_y;
    bool cursor_changed, cursor_visible;
    _Atomic uint32_t events; /* saved: VIRTIO_GPU_EVENT_DISPLAY */
};

static struct virtio_gpu *to_gpu(struct virtio_device *v)
{
    return container_of(v, struct virtio_gpu, v);
}

/* ---- resources ---------------------------------------------------------------------------------
 */

static struct resource *find(struct virtio_gpu *g, uint32_t id)
{
    struct resource *r = g->resources;

    while (r && r->id != id)
        r = r->next;
    return r;
}

/* Where red, green and blue are, in bits; false: not a format of ours. */
static bool shifts(uint32_t format, unsigned s[3])
{
    static const struct {
        uint32_t format;
        uint8_t at[3];
    } formats[] = {
        {VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM, {16, 8, 0}},
        {VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM, {16, 8, 0}},
        {VIRTIO_GPU_FORMAT_A8R8G8B8_UNORM, {8, 16, 24}},
        {VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM, {8, 16, 24}},
        {VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM, {0, 8, 16}},
        {VIRTIO_GPU_FORMAT_R8G8B8X8_UNORM, {0, 8, 16}},
        {VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM, {24, 16, 8}},
        {VIRTIO_GPU_FORMAT_X8B8G8R8_UNORM, {24, 16, 8}},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
        if (formats[i].format == format) {
            for (unsigned c = 0; c < 3; c++)
                s[c] = formats[i].at[c];
            return true;
        }
    return false;
}

static uint32_t to_rgb(uint32_t pixel, const unsigned s[3])
{
    return (pixel >> s[0] & 0xff) << 16 | (pixel >> s[1] & 0xff) << 8 | (pixel >> s[2] & 0xff);
}

static void remove_resource(struct virtio_gpu *g, struct resource *r)
{
    struct resource **p = &g->resources;

    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    if (g->shown == r->id)
        g->shown = 0;
    g->used -= 4ull * r->width * r->height;
    g->resource_count--;
    free(r->pixels);
    free(r->entries);
    free(r);
}

static bool inside(const struct virtio_gpu_rect *r, uint32_t width, uint32_t height)
{
    return r->x <= width && r->width <= width - r->x && r->y <= height &&
           r->height <= height - r->y;
}

/* Bytes of the guest's copy, from `offset` on; *at and *start remember where the last one was. */
static bool read_backing(struct virtio_gpu *g, const struct resource *r, uint64_t offset,
                         uint8_t *to, uint64_t size, uint32_t *at, uint64_t *start)
{
    if (offset < *start)
        *at = 0, *start = 0;
    while (size) {
        const struct virtio_gpu_mem_entry *e = &r->entries[*at];
        uint64_t n;

        if (*at >= r->entry_count)
            return false;
        if (offset >= *start + e->length) {
            *start += e->length;
            ++*at;
            continue;
        }
        n = MIN(size, *start + e->length - offset);
        if (dma_read(g->v.dev.machine->memory, e->addr + (offset - *start), to, n) < 0)
            return false;
        to += n;
        offset += n;
        size -= n;
    }
    return true;
}

/* ---- commands ----------------------------------------------------------------------------------
 * Each gets its words, of which `size` are there, and returns the type of the answer.
 */

#define COMMAND(type) (*(const struct type *)words)

static uint32_t create(struct virtio_gpu *g, const void *words)
{
    const struct virtio_gpu_resource_create_2d c = COMMAND(virtio_gpu_resource_create_2d);
    uint64_t size = 4ull * c.width * c.height;
    struct resource *r;
    unsigned s[3];

    if (!c.resource_id || find(g, c.resource_id))
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!shifts(c.format, s) || !c.width || !c.height || c.width > SCREEN_MAX_WIDTH ||
        c.height > SCREEN_MAX_HEIGHT)
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    if (size > g->host_memory - g->used || g->resource_count == RESOURCES_MAX)
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    r = calloc(1, sizeof(*r));
    if (r)
        r->pixels = calloc(1, size);
    if (!r || !r->pixels) {
        free(r);
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    }
    r->id = c.resource_id;
    r->format = c.format;
    r->width = c.width;
    r->height = c.height;
    r->next = g->resources;
    g->resources = r;
    g->resource_count++;
    g->used += size;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t unref(struct virtio_gpu *g, const void *words)
{
    struct resource *r = find(g, COMMAND(virtio_gpu_resource_unref).resource_id);

    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    remove_resource(g, r);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t set_scanout(struct virtio_gpu *g, const void *words)
{
    const struct virtio_gpu_set_scanout c = COMMAND(virtio_gpu_set_scanout);
    const struct resource *r = find(g, c.resource_id);

    if (c.scanout_id)
        return VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID;
    if (!c.resource_id) {
        g->shown = 0;
        return VIRTIO_GPU_RESP_OK_NODATA;
    }
    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!c.r.width || !c.r.height || !inside(&c.r, r->width, r->height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    g->shown = c.resource_id;
    g->view = g->dirty = c.r;
    if (g->screen)
        screen_invalidate(g->screen);
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static void add_dirty(struct virtio_gpu *g, const struct virtio_gpu_rect *r)
{
    uint32_t right = MAX(g->dirty.x + g->dirty.width, r->x + r->width);
    uint32_t bottom = MAX(g->dirty.y + g->dirty.height, r->y + r->height);

    if (!g->dirty.width) {
        g->dirty = *r;
        return;
    }
    g->dirty.x = MIN(g->dirty.x, r->x);
    g->dirty.y = MIN(g->dirty.y, r->y);
    g->dirty.width = right - g->dirty.x;
    g->dirty.height = bottom - g->dirty.y;
}

static uint32_t flush(struct virtio_gpu *g, const void *words)
{
    const struct virtio_gpu_resource_flush c = COMMAND(virtio_gpu_resource_flush);
    const struct resource *r = find(g, c.resource_id);

    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!inside(&c.r, r->width, r->height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    if (g->shown == r->id && c.r.width && c.r.height) {
        add_dirty(g, &c.r);
        if (g->screen)
            screen_kick(g->screen);
    }
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t transfer(struct virtio_gpu *g, const void *words)
{
    const struct virtio_gpu_transfer_to_host_2d c = COMMAND(virtio_gpu_transfer_to_host_2d);
    struct resource *r = find(g, c.resource_id);
    uint64_t start = 0, stride;
    uint32_t at = 0;

    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (!inside(&c.r, r->width, r->height))
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    if (!r->entries)
        return VIRTIO_GPU_RESP_ERR_UNSPEC;
    stride = 4ull * r->width;
    for (uint32_t y = 0; y < c.r.height; y++)
        if (c.offset > UINT64_MAX / 2 ||
            !read_backing(g, r, c.offset + stride * y,
                          r->pixels + stride * (c.r.y + y) + 4ull * c.r.x, 4ull * c.r.width, &at,
                          &start))
            return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t attach(struct virtio_gpu *g, const void *words, const struct virtio_element *e)
{
    const struct virtio_gpu_resource_attach_backing c = COMMAND(virtio_gpu_resource_attach_backing);
    struct resource *r = find(g, c.resource_id);
    size_t size = (size_t)c.nr_entries * sizeof(struct virtio_gpu_mem_entry);

    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    if (r->entries || !c.nr_entries || c.nr_entries > ENTRIES_MAX)
        return VIRTIO_GPU_RESP_ERR_UNSPEC;
    r->entries = malloc(size);
    if (!r->entries)
        return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    if (iov_read(e->out, e->out_count, sizeof(c), r->entries, size) != size) {
        free(r->entries);
        r->entries = NULL;
        return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    }
    r->entry_count = c.nr_entries;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static uint32_t detach(struct virtio_gpu *g, const void *words)
{
    struct resource *r = find(g, COMMAND(virtio_gpu_resource_detach_backing).resource_id);

    if (!r)
        return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    free(r->entries);
    r->entries = NULL;
    r->entry_count = 0;
    return VIRTIO_GPU_RESP_OK_NODATA;
}

static void take_control(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_gpu *g = to_gpu(q->v);
    union {
        struct virtio_gpu_ctrl_hdr head;
        struct virtio_gpu_transfer_to_host_2d longest;
        uint8_t bytes[64];
    } words = {0};
    struct virtio_gpu_resp_display_info answer = {0};
    size_t size = HEADER;
    uint32_t type = VIRTIO_GPU_RESP_ERR_UNSPEC;

    if (iov_read(e->out, e->out_count, 0, &words, sizeof(words)) < HEADER || e->in_size < HEADER) {
        virtio_break(q->v, "a command of %zu and %zu bytes", e->out_size, e->in_size);
        virtqueue_discard(e);
        return;
    }
    switch (words.head.type) {
    case VIRTIO_GPU_CMD_GET_DISPLAY_INFO:
        answer.pmodes[0].r.width = g->wish_width;
        answer.pmodes[0].r.height = g->wish_height;
        answer.pmodes[0].enabled = 1;
        size = sizeof(answer);
        type = VIRTIO_GPU_RESP_OK_DISPLAY_INFO;
        break;
    case VIRTIO_GPU_CMD_RESOURCE_CREATE_2D: type = create(g, &words); break;
    case VIRTIO_GPU_CMD_RESOURCE_UNREF: type = unref(g, &words); break;
    case VIRTIO_GPU_CMD_SET_SCANOUT: type = set_scanout(g, &words); break;
    case VIRTIO_GPU_CMD_RESOURCE_FLUSH: type = flush(g, &words); break;
    case VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D: type = transfer(g, &words); break;
    case VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING: type = attach(g, &words, e); break;
    case VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING: type = detach(g, &words); break;
    default: break;
    }
    answer.hdr.type = type;
    if (words.head.flags & VIRTIO_GPU_FLAG_FENCE) { /* all was done in turn */
        answer.hdr.flags = VIRTIO_GPU_FLAG_FENCE;
        answer.hdr.fence_id = words.head.fence_id;
        answer.hdr.ctx_id = words.head.ctx_id;
    }
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, &answer, size));
}

static void take_cursor(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_gpu *g = to_gpu(q->v);
    struct virtio_gpu_update_cursor c = {0};
    const struct resource *r;
    unsigned s[3];

    iov_read(e->out, e->out_count, 0, &c, sizeof(c));
    virtqueue_push(q, e, 0);
    if (c.hdr.type != VIRTIO_GPU_CMD_UPDATE_CURSOR) /* the viewer knows where it is */
        return;
    r = find(g, c.resource_id);
    g->cursor_changed = true;
    g->cursor_visible = r && r->width == CURSOR_PIXELS && r->height == CURSOR_PIXELS &&
                        shifts(r->format, s);
    if (g->cursor_visible) {
        unsigned alpha = s[2] == 24 || s[0] == 24 ? 0 : 24;

        for (unsigned i = 0; i < CURSOR_PIXELS * CURSOR_PIXELS; i++) {
            uint32_t pixel = (uint32_t)load_le(r->pixels + 4 * i, 4);

            g->cursor[i] = (pixel >> alpha & 0xff) << 24 | to_rgb(pixel, s);
        }
        g->hot_x = MIN(c.hot_x, CURSOR_PIXELS - 1u);
        g->hot_y = MIN(c.hot_y, CURSOR_PIXELS - 1u);
    }
    if (g->screen)
        screen_kick(g->screen);
}

static void gpu_kicked(struct virtio_device *v, unsigned number)
{
    virtqueue_each(&v->queue[number], number == CONTROL ? take_control : take_cursor);
}

/* ---- the display -------------------------------------------------------------------------------
 */

static void draw(struct virtio_gpu *g, struct screen *screen, const struct resource *r)
{
    struct screen_surface *f = screen_surface(screen);
    struct virtio_gpu_rect d = g->dirty;
    unsigned s[3];

    if (!shifts(r->format, s))
        return;
    /* What is dirty of what is seen. */
    if (d.x < g->view.x)
        d.width -= MIN(d.width, g->view.x - d.x), d.x = g->view.x;
    if (d.y < g->view.y)
        d.height -= MIN(d.height, g->view.y - d.y), d.y = g->view.y;
    if (d.x >= g->view.x + g->view.width || d.y >= g->view.y + g->view.height)
        return;
    d.width = MIN(d.width, g->view.x + g->view.width - d.x);
    d.height = MIN(d.height, g->view.y + g->view.height - d.y);
    for (uint32_t y = d.y; y < d.y + d.height; y++) {
        const uint8_t *from = r->pixels + 4ull * ((uint64_t)y * r->width + d.x);
        uint32_t *to = (uint32_t *)((uint8_t *)f->pixels + (uint64_t)f->stride * (y - g->view.y)) +
                       (d.x - g->view.x);

        for (uint32_t x = 0; x < d.width; x++)
            to[x] = to_rgb((uint32_t)load_le(from + 4ull * x, 4), s);
    }
    screen_dirty(screen, d.x - g->view.x, d.y - g->view.y, d.width, d.height);
}

static void update(void *opaque, struct screen *screen, bool whole)
{
    struct virtio_gpu *g = opaque;
    const struct resource *r;

    virtio_io_begin(&g->v);
    r = find(g, g->shown);
    if (r) {
        const struct screen_surface *f = screen_surface(screen);

        if (f->width != g->view.width || f->height != g->view.height)
            whole = screen_resize(screen, g->view.width, g->view.height);
        if (whole)
            g->dirty = g->view;
        if (g->dirty.width)
            draw(g, screen, r);
        g->dirty.width = 0;
    }
    if (g->cursor_changed || whole)
        screen_set_cursor(screen, g->cursor_visible ? g->cursor : NULL, CURSOR_PIXELS,
                          CURSOR_PIXELS, g->hot_x, g->hot_y);
    g->cursor_changed = false;
    virtio_io_end(&g->v);
}

static void tell_display(struct virtio_gpu *g)
{
    g->events |= VIRTIO_GPU_EVENT_DISPLAY;
    virtio_tell_config(&g->v);
}

static void wish_size(void *opaque, uint32_t width, uint32_t height)
{
    struct virtio_gpu *g = opaque;

    if (!width || !height || width > SCREEN_MAX_WIDTH || height > SCREEN_MAX_HEIGHT)
        return;
    virtio_io_begin(&g->v);
    g->wish_width = width;
    g->wish_height = height;
    if (virtio_io_live(&g->v))
        tell_display(g);
    virtio_io_end(&g->v);
}

/* ---- the device --------------------------------------------------------------------------------
 */

static void fill_config(struct virtio_device *v)
{
    store_le(v->config, to_gpu(v)->events, 4);
    store_le(v->config + 8, 1, 4); /* scanouts */
}

static void gpu_written(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    if (offset == 4 && size == 4)
        to_gpu(v)->events &= ~(uint32_t)value;
}

static void gpu_reset(struct virtio_device *v)
{
    struct virtio_gpu *g = to_gpu(v);

    while (g->resources)
        remove_resource(g, g->resources);
    g->shown = 0;
    g->dirty.width = 0;
    g->cursor_visible = false;
    g->cursor_changed = true;
    g->events = 0;
    if (g->screen)
        screen_invalidate(g->screen);
}

static void gpu_refresh(struct virtio_device *v)
{
    gpu_reset(v);
    to_gpu(v)->events = v->status & VIRTIO_CONFIG_S_DRIVER_OK ? VIRTIO_GPU_EVENT_DISPLAY : 0;
}

static int gpu_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_gpu *g = to_gpu(v);
    struct display *d = v->dev.machine->config.display;

    if (!g->width || !g->height || g->width > SCREEN_MAX_WIDTH || g->height > SCREEN_MAX_HEIGHT)
        return error_set(err, EINVAL, "%s: xres=%u,yres=%u is not from 1 to %d", v->dev.type->name,
                         g->width, g->height, SCREEN_MAX_WIDTH);
    g->wish_width = g->width;
    g->wish_height = g->height;
    v->config_size = sizeof(struct virtio_gpu_config);
    virtio_add_queue(v, CONTROL_SIZE);
    virtio_add_queue(v, CURSOR_QUEUE_SIZE);
    if (d)
        g->screen = screen_add(
            d, v->dev.id,
            &(struct screen_driver){.opaque = g, .update = update, .wish_size = wish_size});
    return 0;
}

static void gpu_unrealize(struct virtio_device *v)
{
    struct virtio_gpu *g = to_gpu(v);

    screen_remove(g->screen);
    g->screen = NULL;
    gpu_reset(v);
}

static const struct virtio_type gpu_virtio = {
    .name = "virtio-gpu",
    .id = VIRTIO_ID_GPU,
    .class_code = 0x038000,
    .realize = gpu_realize,
    .unrealize = gpu_unrealize,
    .reset = gpu_reset,
    .refresh = gpu_refresh,
    .kicked = gpu_kicked,
    .config_read = fill_config,
    .config_written = gpu_written,
};

#define GPU_PROPERTIES                                                                             \
    PROPERTY_U32("xres", struct virtio_gpu, width, 1280, "pixels from left to right at first"),    \
        PROPERTY_U32("yres", struct virtio_gpu, height, 800, "and from top to bottom"),            \
        PROPERTY_U64("max_hostmem", struct virtio_gpu, host_memory, 256 * MiB,                     \
                     "bytes of host memory the guest can have for pictures")
#define GPU_STATE STATE_U32(struct virtio_gpu, events)

static const struct property gpu_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_gpu, v),
    GPU_PROPERTIES,
    PROPERTY_END,
};
static const struct property gpu_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_gpu, v),
    GPU_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field gpu_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_gpu, v),
    GPU_STATE,
    STATE_END,
};
static const struct state_field gpu_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_gpu, v),
    GPU_STATE,
    STATE_END,
};

#define SUMMARY "a screen without 3D (virtio)"
const struct device_type virtio_gpu_pci_type =
    VIRTIO_PCI_DEVICE("virtio-gpu-pci", SUMMARY, struct virtio_gpu, gpu_pci_properties,
                      gpu_pci_state, gpu_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_gpu_mmio_type =
    VIRTIO_MMIO_DEVICE("virtio-gpu-device", SUMMARY, struct virtio_gpu, gpu_mmio_properties,
                       gpu_mmio_state, gpu_virtio);
