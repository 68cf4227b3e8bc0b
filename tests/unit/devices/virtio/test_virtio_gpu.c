/* test_virtio_gpu.c - pictures from the guest's pages to a display, and what is refused. */
#include "support/unit.h"

#include "driver.h"

#include "display/display.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <linux/virtio_gpu.h>

static struct display *display;

static int setup(void **state)
{
    if (test_machine_setup(state) < 0)
        return -1;
    display = display_new();
    ((struct machine *)*state)->config.display = display;
    return 0;
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    display_free(display);
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via, const char *properties)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, "virtio-gpu", properties, &err))
        fail_msg("%s", err.text);
    driver_start(d, ~UINT64_C(0));
}

/* Send a command; the type of the answer. */
static uint32_t ask(struct driver *d, const void *command, uint32_t size, void *answer,
                    uint32_t room)
{
    gpa at = driver_alloc(d, size), to = driver_alloc(d, room);
    uint8_t head[24];

    driver_put(d, at, command, size);
    assert_true(driver_do(d, 0, (struct driver_buffer[]){{at, size, false}, {to, room, true}}, 2) >=
                24);
    driver_get(d, to, head, 24);
    if (answer)
        driver_get(d, to, answer, room);
    assert_int_equal(load_le(head + 4, 4), VIRTIO_GPU_FLAG_FENCE);
    assert_int_equal(load_le(head + 8, 8), 0x1234);
    return (uint32_t)load_le(head, 4);
}

#define HEAD(command)                                                                              \
    {                                                                                              \
        .type = (command), .flags = VIRTIO_GPU_FLAG_FENCE, .fence_id = 0x1234                      \
    }

static uint32_t create(struct driver *d, uint32_t id, uint32_t format, uint32_t width,
                       uint32_t height)
{
    struct virtio_gpu_resource_create_2d c = {.hdr = HEAD(VIRTIO_GPU_CMD_RESOURCE_CREATE_2D),
                                              .resource_id = id,
                                              .format = format,
                                              .width = width,
                                              .height = height};

    return ask(d, &c, sizeof(c), NULL, 24);
}

/* `there` entries follow the command, which says that it is `said`. */
static uint32_t attach(struct driver *d, uint32_t id, const struct virtio_gpu_mem_entry *e,
                       uint32_t there, uint32_t said)
{
    struct {
        struct virtio_gpu_resource_attach_backing c;
        struct virtio_gpu_mem_entry e[3];
    } c = {.c = {.hdr = HEAD(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING),
                 .resource_id = id,
                 .nr_entries = said}};

    for (uint32_t i = 0; i < there; i++)
        c.e[i] = e[i];
    return ask(d, &c, (uint32_t)(sizeof(c.c) + there * sizeof(*e)), NULL, 24);
}

static uint32_t scanout(struct driver *d, uint32_t id, uint32_t x, uint32_t y, uint32_t w,
                        uint32_t h)
{
    struct virtio_gpu_set_scanout c = {
        .hdr = HEAD(VIRTIO_GPU_CMD_SET_SCANOUT), .r = {x, y, w, h}, .resource_id = id};

    return ask(d, &c, sizeof(c), NULL, 24);
}

static uint32_t transfer(struct driver *d, uint32_t id, uint32_t x, uint32_t y, uint32_t w,
                         uint32_t h, uint64_t offset)
{
    struct virtio_gpu_transfer_to_host_2d c = {.hdr = HEAD(VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D),
                                               .r = {x, y, w, h},
                                               .offset = offset,
                                               .resource_id = id};

    return ask(d, &c, sizeof(c), NULL, 24);
}

static uint32_t flush(struct driver *d, uint32_t id, uint32_t x, uint32_t y, uint32_t w, uint32_t h)
{
    struct virtio_gpu_resource_flush c = {
        .hdr = HEAD(VIRTIO_GPU_CMD_RESOURCE_FLUSH), .r = {x, y, w, h}, .resource_id = id};

    return ask(d, &c, sizeof(c), NULL, 24);
}

struct seen {
    uint32_t width, height, pixel[4];
};

static void look(void *opaque, const struct screen_surface *s)
{
    struct seen *seen = opaque;

    seen->width = s->width;
    seen->height = s->height;
    if (s->width < 2)
        return;
    seen->pixel[0] = s->pixels[0];
    seen->pixel[1] = s->pixels[s->width - 1];
    seen->pixel[2] = s->pixels[(s->height - 1) * s->stride / 4];
    seen->pixel[3] = s->pixels[(s->height - 1) * s->stride / 4 + s->width - 1];
}

static void a_picture_is_seen(void **state)
{
    static const uint32_t formats[] = {
        VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM, VIRTIO_GPU_FORMAT_R8G8B8A8_UNORM,
        VIRTIO_GPU_FORMAT_X8R8G8B8_UNORM, VIRTIO_GPU_FORMAT_A8B8G8R8_UNORM};
    static const uint32_t raw[] = {0x00112233, 0x00332211, 0x33221100, 0x11223300};

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        struct driver d;
        struct seen seen = {0};
        struct virtio_gpu_resp_display_info info = {0};
        struct virtio_gpu_ctrl_hdr get = HEAD(VIRTIO_GPU_CMD_GET_DISPLAY_INFO);
        gpa pages;

        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, i & 1 ? VIA_MMIO : VIA_MODERN, "xres=640,yres=480");
        assert_int_equal(driver_config(&d, 8, 4), 1);
        assert_int_equal(ask(&d, &get, sizeof(get), &info, sizeof(info)),
                         VIRTIO_GPU_RESP_OK_DISPLAY_INFO);
        assert_int_equal(info.pmodes[0].r.width, 640);
        assert_int_equal(create(&d, 7, formats[i], 100, 50), VIRTIO_GPU_RESP_OK_NODATA);
        pages = driver_alloc(&d, 4 * 100 * 50);
        for (unsigned n = 0; n < 100 * 50; n++)
            store_le(d.m->ram->host + pages + 4 * n, raw[i], 4);
        /* in three pieces that lie elsewhere in order */
        assert_int_equal(attach(&d, 7,
                                (struct virtio_gpu_mem_entry[]){{pages + 8000, 8000, 0},
                                                                {pages, 8000, 0},
                                                                {pages + 16000, 4000, 0}},
                                3, 3),
                         VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(scanout(&d, 7, 0, 0, 100, 50), VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(transfer(&d, 7, 0, 0, 100, 50, 0), VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(flush(&d, 7, 0, 0, 100, 50), VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(display_look(display, 0, look, &seen, NULL), 0);
        assert_int_equal(seen.width, 100);
        assert_int_equal(seen.height, 50);
        for (unsigned n = 0; n < 4; n++)
            assert_int_equal(seen.pixel[n], 0x112233);
        /* one corner changes, but is not flushed at first; the corner's row lies in the last piece
         */
        store_le(d.m->ram->host + pages + 16000 + 3996, 0xffffffff, 4);
        assert_int_equal(transfer(&d, 7, 99, 49, 1, 1, 4 * (49 * 100 + 99)),
                         VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(flush(&d, 7, 99, 49, 1, 1), VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(display_look(display, 0, look, &seen, NULL), 0);
        assert_int_equal(seen.pixel[3], 0xffffff);
        assert_int_equal(seen.pixel[2], 0x112233);
        /* a part of it */
        assert_int_equal(scanout(&d, 7, 10, 10, 90, 40), VIRTIO_GPU_RESP_OK_NODATA);
        assert_int_equal(display_look(display, 0, look, &seen, NULL), 0);
        assert_int_equal(seen.width, 90);
        assert_int_equal(seen.pixel[3], 0xffffff);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    struct driver d;
    struct virtio_gpu_ctrl_hdr unknown = HEAD(0x999);

    add(&d, state, VIA_MODERN, "max_hostmem=1000000");
    assert_int_equal(ask(&d, &unknown, sizeof(unknown), NULL, 24), VIRTIO_GPU_RESP_ERR_UNSPEC);
    assert_int_equal(create(&d, 0, 1, 10, 10), VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID);
    assert_int_equal(create(&d, 1, 5, 10, 10), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(create(&d, 1, 1, 0, 10), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(create(&d, 1, 1, 0x80000000, 0x80000000),
                     VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(create(&d, 1, 1, 1000, 1000), VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY);
    assert_int_equal(create(&d, 1, 1, 10, 10), VIRTIO_GPU_RESP_OK_NODATA);
    assert_int_equal(create(&d, 1, 1, 10, 10), VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID);
    assert_int_equal(transfer(&d, 1, 0, 0, 10, 10, 0), VIRTIO_GPU_RESP_ERR_UNSPEC);
    assert_int_equal(attach(&d, 1, (struct virtio_gpu_mem_entry[]){{0xd0000000, 400, 0}}, 1, 20000),
                     VIRTIO_GPU_RESP_ERR_UNSPEC);
    assert_int_equal(attach(&d, 1, (struct virtio_gpu_mem_entry[]){{0xd0000000, 400, 0}}, 1, 5),
                     VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(attach(&d, 1, (struct virtio_gpu_mem_entry[]){{0xd0000000, 400, 0}}, 1, 1),
                     VIRTIO_GPU_RESP_OK_NODATA);
    assert_int_equal(transfer(&d, 1, 0, 0, 10, 10, 0), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(transfer(&d, 1, 5, 0, 6, 1, 0), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(transfer(&d, 1, UINT32_MAX, 0, 2, 1, 0),
                     VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(transfer(&d, 1, 0, 0, 1, 1, UINT64_MAX - 3),
                     VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(flush(&d, 1, 0, 0, 11, 1), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(flush(&d, 2, 0, 0, 1, 1), VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID);
    assert_int_equal(scanout(&d, 1, 0, 0, 0, 1), VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER);
    assert_int_equal(scanout(&d, 9, 0, 0, 1, 1), VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID);
    assert_int_equal(driver_status(&d), 15);
}

static void a_wish_is_passed_on(void **state)
{
    struct driver d;
    struct virtio_gpu_resp_display_info info = {0};
    struct virtio_gpu_ctrl_hdr get = HEAD(VIRTIO_GPU_CMD_GET_DISPLAY_INFO);

    add(&d, state, VIA_MODERN, NULL);
    driver_isr(&d);
    display_wish_size(display, 0, 1000, 600);
    assert_int_equal(driver_isr(&d), 2);
    assert_int_equal(driver_config(&d, 0, 4), VIRTIO_GPU_EVENT_DISPLAY);
    driver_set_config(&d, 4, VIRTIO_GPU_EVENT_DISPLAY, 4);
    assert_int_equal(driver_config(&d, 0, 4), 0);
    ask(&d, &get, sizeof(get), &info, sizeof(info));
    assert_int_equal(info.pmodes[0].r.width, 1000);
    assert_int_equal(info.pmodes[0].r.height, 600);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_picture_is_seen),
        TEST(what_cannot_be_is_refused),
        TEST(a_wish_is_passed_on),
    };

    return cmocka_run_group_tests_name("virtio-gpu", tests, NULL, NULL);
}
