/* Tests of screens, listeners, input and keymaps, with a driver of a few pixels. */
#include "chardev/chardev.h"
#include "display/display.h"
#include "display/keymap.h"
#include "display/text.h"
#include "support/unit.h"

#include <linux/input-event-codes.h>
#include <png.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

/* A device: what it shows, and how often it was asked. */
struct source {
    struct screen *screen;
    pthread_mutex_t lock; /* the device's */
    uint32_t width, height, colour, columns, rows, wished;
    struct screen_rect dirty;
    atomic_uint updates, wholes;
};

static void update(void *opaque, struct screen *s, bool whole)
{
    struct source *d = opaque;
    struct screen_surface *f = screen_surface(s);

    pthread_mutex_lock(&d->lock);
    d->updates++;
    d->wholes += whole;
    screen_resize(s, d->width, d->height);
    screen_set_text(s, d->columns, d->rows);
    for (uint32_t y = d->dirty.y; y < d->dirty.y + d->dirty.height; y++)
        for (uint32_t x = d->dirty.x; x < d->dirty.x + d->dirty.width; x++)
            f->pixels[y * f->width + x] = d->colour;
    screen_dirty(s, d->dirty.x, d->dirty.y, d->dirty.width, d->dirty.height);
    d->dirty.width = 0;
    pthread_mutex_unlock(&d->lock);
}

static void wish(void *opaque, uint32_t width, uint32_t height)
{
    ((struct source *)opaque)->wished = width << 16 | height;
}

static void paint(struct source *d, struct screen_rect r, uint32_t colour)
{
    pthread_mutex_lock(&d->lock);
    d->dirty = r;
    d->colour = colour;
    screen_kick(d->screen);
    pthread_mutex_unlock(&d->lock);
}

struct viewer {
    pthread_mutex_t lock;
    unsigned resizes, changes, texts;
    uint32_t width, height, columns;
    struct screen_rect last;
    uint32_t pixel; /* of the last rectangle's first */
};

static void on_resize(void *opaque, const struct screen_surface *s)
{
    struct viewer *v = opaque;

    pthread_mutex_lock(&v->lock);
    v->resizes++;
    v->width = s->width;
    v->height = s->height;
    pthread_mutex_unlock(&v->lock);
}

static void on_change(void *opaque, const struct screen_surface *s, const struct screen_rect *rects,
                      unsigned count)
{
    struct viewer *v = opaque;

    pthread_mutex_lock(&v->lock);
    v->changes++;
    v->last = rects[count - 1];
    v->pixel = s->pixels[v->last.y * s->width + v->last.x];
    pthread_mutex_unlock(&v->lock);
}

static void on_text(void *opaque, const struct screen_surface *s)
{
    struct viewer *v = opaque;

    pthread_mutex_lock(&v->lock);
    v->texts++;
    v->columns = s->columns;
    pthread_mutex_unlock(&v->lock);
}

static bool eventually(struct viewer *v, const unsigned *counter, unsigned least)
{
    for (int i = 0; i < 5000; i++) {
        bool there;

        pthread_mutex_lock(&v->lock);
        there = *counter >= least;
        pthread_mutex_unlock(&v->lock);
        if (there)
            return true;
        usleep(1000);
    }
    return false;
}

static const struct display_listener listener = {
    .resized = on_resize, .changed = on_change, .text = on_text};

static void viewers_learn_what_changed(void **state)
{
    struct source d = {.width = 100, .height = 50, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct viewer v = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct display_listener l = listener;
    struct display *display = display_new();
    struct screen_driver driver = {&d, update, wish};
    struct display_watch *w;
    unsigned seen;

    l.opaque = &v;
    w = display_watch(display, 0, &l); /* before there is a screen */
    display_set_interval(w, 5);
    usleep(10000);
    assert_int_equal(v.resizes, 0);
    d.screen = screen_add(display, "test", &driver);
    assert_true(eventually(&v, &v.changes, 1));
    assert_int_equal(v.resizes, 1);
    assert_int_equal(v.width, 100);
    assert_int_equal(v.last.width, 100); /* at first all */
    assert_int_equal(d.wholes, 1);
    paint(&d, (struct screen_rect){10, 20, 5, 6}, 0xabcdef);
    assert_true(eventually(&v, &v.changes, 2));
    assert_int_equal(v.last.x, 10);
    assert_int_equal(v.last.height, 6);
    assert_int_equal(v.pixel, 0xabcdef);
    /* Another size, and a text mode. */
    pthread_mutex_lock(&d.lock);
    d.width = 200;
    d.columns = 80;
    d.rows = 25;
    pthread_mutex_unlock(&d.lock);
    assert_true(eventually(&v, &v.resizes, 2));
    assert_true(eventually(&v, &v.texts, 2));
    assert_int_equal(v.columns, 80);
    assert_int_equal(v.width, 200);
    /* Nobody looks: nobody asks. What changed meanwhile is told afterwards. */
    display_set_interval(w, 0);
    usleep(20000);
    seen = d.updates;
    paint(&d, (struct screen_rect){0, 0, 1, 1}, 1);
    usleep(20000);
    assert_int_equal(d.updates, seen);
    display_set_interval(w, 5);
    seen = v.changes;
    assert_true(eventually(&v, &v.changes, seen + 1));
    screen_invalidate(d.screen);
    for (int i = 0; i < 1000 && d.wholes < 2; i++)
        usleep(1000);
    assert_int_equal(d.wholes, 2);
    display_wish_size(display, 0, 640, 480);
    assert_int_equal(d.wished, 640 << 16 | 480);
    display_unwatch(w);
    screen_remove(d.screen);
    display_free(display);
}

static void a_kick_does_not_wait_for_the_tick(void **state)
{
    struct source d = {.width = 10, .height = 10, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct viewer v = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct display_listener l = listener;
    struct display *display = display_new();
    struct screen_driver driver = {&d, update, NULL};
    struct display_watch *w;

    l.opaque = &v;
    d.screen = screen_add(display, "test", &driver);
    w = display_watch(display, 0, &l);
    display_set_interval(w, 60000);
    assert_true(eventually(&v, &v.changes, 1));
    paint(&d, (struct screen_rect){0, 0, 1, 1}, 1);
    assert_true(eventually(&v, &v.changes, 2));
    display_unwatch(w);
    screen_remove(d.screen);
    display_free(display);
}

static void look_at_size(void *opaque, const struct screen_surface *s)
{
    *(uint32_t *)opaque = s->width << 16 | s->height;
}

static void sizes_are_bounded(void **state)
{
    struct source d = {.width = 0, .height = 0, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct display *display = display_new();
    struct screen_driver driver = {&d, update, NULL};
    struct screen *second;
    struct error err = {0};
    uint32_t size = 0;

    d.screen = screen_add(display, "a", &driver);
    second = screen_add(display, "b", &driver);
    assert_int_equal(display_look(display, 0, look_at_size, &size, &err), -ENOENT);
    assert_int_equal(display_look(display, 2, look_at_size, &size, &err), -ENOENT);
    d.width = SCREEN_MAX_WIDTH + 1;
    d.height = 10;
    assert_int_equal(display_look(display, 0, look_at_size, &size, &err), -ENOENT);
    d.width = 30;
    d.dirty = (struct screen_rect){0, 0, 1, 1};
    assert_int_equal(display_look(display, 1, look_at_size, &size, &err), 0);
    assert_int_equal(size, 30 << 16 | 10);
    screen_remove(d.screen);
    d.screen = screen_add(display, "c", &driver); /* is number 0 again */
    assert_int_equal(display_look(display, 0, look_at_size, &size, &err), 0);
    screen_remove(second);
    screen_remove(d.screen);
    display_free(display);
    assert_null(screen_add(NULL, "none", &driver));
    screen_kick(NULL);
}

static void a_screenshot_is_the_picture(void **state)
{
    struct source d = {.width = 64, .height = 32, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct display *display = display_new();
    struct screen_driver driver = {&d, update, NULL};
    char path[] = "/tmp/hospes-shot-XXXXXX";
    png_image image = {.version = PNG_IMAGE_VERSION};
    uint8_t pixels[64 * 32 * 3];
    struct error err = {0};

    close(mkstemp(path));
    d.screen = screen_add(display, "test", &driver);
    d.dirty = (struct screen_rect){3, 4, 2, 1};
    d.colour = 0x123456;
    assert_int_equal(display_screenshot(display, 0, path, NULL), 0);
    assert_true(png_image_begin_read_from_file(&image, path));
    image.format = PNG_FORMAT_RGB;
    assert_int_equal(image.width, 64);
    assert_int_equal(image.height, 32);
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    assert_memory_equal(pixels + (4 * 64 + 3) * 3, "\x12\x34\x56\x12\x34\x56\0\0\0", 9);
    unlink(path);
    assert_true(display_screenshot(display, 0, "/nowhere/x.png", &err) < 0);
    assert_non_null(strstr(err.text, "/nowhere/x.png"));
    assert_int_equal(display_screenshot(display, 1, path, &err), -ENOENT);
    screen_remove(d.screen);
    display_free(display);
}

/* ---- input ------------------------------------------------------------------------------------
 */

struct taker {
    unsigned count;
    struct input_event event[32];
};

static void take(void *opaque, const struct input_event *e)
{
    struct taker *t = opaque;

    assert_true(t->count < ARRAY_SIZE(t->event));
    t->event[t->count++] = *e;
}

static void keys_go_to_who_is_ready(void **state)
{
    struct display *d = display_new();
    struct taker old = {0}, new = {0};
    struct input_sink *ps2, *usb;

    input_key(d, KEY_A, true); /* nobody there */
    ps2 = input_sink_add(d, &(struct input_sink_ops){"ps2", &old, INPUT_KEYS, take});
    usb = input_sink_add(d, &(struct input_sink_ops){"usb", &new, INPUT_KEYS, take});
    input_sink_set_ready(ps2, true);
    input_key(d, KEY_B, true);
    assert_int_equal(old.count, 1);
    assert_int_equal(old.event[0].code, KEY_B);
    assert_true(old.event[0].down);
    /* The other takes over: what was down is let go where it was pressed. */
    input_sink_set_ready(usb, true);
    input_key(d, KEY_C, true);
    assert_int_equal(old.count, 2);
    assert_int_equal(old.event[1].code, KEY_B);
    assert_false(old.event[1].down);
    assert_int_equal(new.count, 1);
    input_release_all(d);
    assert_int_equal(new.count, 2);
    assert_int_equal(new.event[1].code, KEY_C);
    assert_false(new.event[1].down);
    input_key(d, 5000, true);
    input_key(d, 0, true);
    assert_int_equal(new.count, 2);
    input_sink_remove(usb);
    input_key(d, KEY_D, true);
    assert_int_equal(old.count, 3);
    input_sink_remove(ps2);
    display_free(d);
}

static void pointers_are_absolute_or_move(void **state)
{
    struct display *d = display_new();
    struct taker mouse = {0}, tablet = {0};
    struct input_sink *m, *t;

    m = input_sink_add(d, &(struct input_sink_ops){"m", &mouse, INPUT_RELATIVE, take});
    t = input_sink_add(d, &(struct input_sink_ops){"t", &tablet, INPUT_ABSOLUTE, take});
    input_sink_set_ready(m, true);
    assert_false(input_is_absolute(d));
    input_pointer(d, 100, 100, 640, 480, 0, 0, 0);
    input_pointer(d, 110, 95, 640, 480, INPUT_LEFT, 1, 0);
    assert_int_equal(mouse.count, 2);
    assert_int_equal(mouse.event[0].x | mouse.event[0].y, 0); /* from nowhere known */
    assert_int_equal(mouse.event[1].x, 10);
    assert_int_equal(mouse.event[1].y, -5);
    assert_int_equal(mouse.event[1].buttons, INPUT_LEFT);
    assert_int_equal(mouse.event[1].wheel, 1);
    input_sink_set_ready(t, true);
    assert_true(input_is_absolute(d));
    input_pointer(d, 639, 0, 640, 480, INPUT_LEFT, 0, 0);
    assert_int_equal(mouse.count, 3); /* the button is let go */
    assert_int_equal(mouse.event[2].buttons, 0);
    assert_int_equal(tablet.count, 1);
    assert_true(tablet.event[0].absolute);
    assert_int_equal(tablet.event[0].x, INPUT_RANGE - 1);
    assert_int_equal(tablet.event[0].y, 0);
    input_pointer(d, 5000, 240, 640, 481, 0, 0, 0);
    assert_int_equal(tablet.event[1].x, INPUT_RANGE - 1);
    assert_int_equal(tablet.event[1].y, (INPUT_RANGE - 1) / 2);
    input_sink_remove(t);
    input_sink_remove(m);
    display_free(d);
}

static void symbols_are_on_their_keys(void **state)
{
    const struct keymap *us = keymap_find("en-us"), *de = keymap_find("de"),
                        *fr = keymap_find("fr");
    bool shift, altgr;

    assert_null(keymap_find("xx"));
    assert_int_equal(keymap_code(us, 'y', &shift, &altgr), KEY_Y);
    assert_false(shift);
    assert_int_equal(keymap_code(us, '@', &shift, &altgr), KEY_2);
    assert_true(shift);
    assert_int_equal(keymap_code(de, 'y', NULL, NULL), KEY_Z);
    assert_int_equal(keymap_code(de, 'Z', &shift, &altgr), KEY_Y);
    assert_true(shift);
    assert_int_equal(keymap_code(de, '@', &shift, &altgr), KEY_Q);
    assert_true(altgr);
    assert_int_equal(keymap_code(de, 0xfc, &shift, NULL), KEY_LEFTBRACE); /* u umlaut */
    assert_int_equal(keymap_code(de, 0x10000fc, NULL, NULL), KEY_LEFTBRACE);
    assert_int_equal(keymap_code(de, 0x10020ac, NULL, NULL), KEY_E); /* euro */
    assert_int_equal(keymap_code(fr, 'q', NULL, NULL), KEY_A);
    assert_int_equal(keymap_code(fr, '1', &shift, NULL), KEY_1);
    assert_true(shift);
    assert_int_equal(keymap_code(us, 0xff0d, NULL, NULL), KEY_ENTER);
    assert_int_equal(keymap_code(us, 0xffc9, NULL, NULL), KEY_F12);
    assert_int_equal(keymap_code(us, 0, NULL, NULL), 0);
    assert_int_equal(keymap_code(us, 0x1000398, NULL, NULL), 0);
    /* Each layout has all of ASCII. */
    for (uint32_t c = ' '; c < 0x7f; c++)
        assert_true(keymap_code(us, c, NULL, NULL) && keymap_code(de, c, NULL, NULL) &&
                    keymap_code(fr, c, NULL, NULL) &&
                    keymap_code(keymap_find("en-gb"), c, NULL, NULL));
}

/* ---- the terminal -----------------------------------------------------------------------------
 */

struct page {
    pthread_mutex_t lock;
    struct screen *screen;
    const char *line;
    uint32_t columns;
    uint8_t attribute;
};

static void update_page(void *opaque, struct screen *s, bool whole)
{
    struct page *p = opaque;
    struct screen_surface *f = screen_surface(s);

    pthread_mutex_lock(&p->lock);
    screen_resize(s, 640, 400);
    screen_set_text(s, p->columns, p->columns ? 25 : 0);
    for (uint32_t i = 0; p->columns && p->line[i]; i++)
        f->cells[i] = (struct screen_cell){(uint8_t)p->line[i], p->attribute};
    if (p->columns)
        f->cursor = 81;
    screen_cells_dirty(s);
    pthread_mutex_unlock(&p->lock);
}

static bool terminal_gets(struct chardev *c, char *text, size_t room, const char *what)
{
    size_t used = 0;

    for (int i = 0; i < 5000; i++) {
        used += chardev_memory_take(c, text + used, room - 1 - used);
        text[used] = '\0';
        if (strstr(text, what))
            return true;
        usleep(1000);
    }
    return false;
}

static void the_terminal_shows_text(void **state)
{
    struct page p = {PTHREAD_MUTEX_INITIALIZER, NULL, "Hi \xcd\x01", 80, 0x1e};
    struct screen_driver driver = {&p, update_page, NULL};
    struct chardev *terminal = chardev_memory(NULL, 65536);
    struct display *d = display_new();
    struct taker keys = {0};
    static const uint16_t typed[] = {KEY_LEFTSHIFT, KEY_A,         KEY_LEFTCTRL, KEY_C,
                                     KEY_UP,        KEY_F5,        KEY_LEFTALT,  KEY_X,
                                     KEY_ENTER,     KEY_LEFTBRACE, KEY_ESC};
    char *text = malloc(70000);
    struct input_sink *sink;
    struct error err = {0};
    struct text *t;
    unsigned at = 0;

    sink = input_sink_add(d, &(struct input_sink_ops){"k", &keys, INPUT_KEYS, take});
    input_sink_set_ready(sink, true);
    assert_int_equal(text_open(d, 0, terminal, "xx", &t, &err), -EINVAL);
    assert_int_equal(text_open(d, 0, terminal, "de", &t, NULL), 0);
    p.screen = screen_add(d, "page", &driver);
    /* Yellow on blue, a double line and a face; the cursor. */
    assert_true(
        terminal_gets(terminal, text, 70000, "\x1b[1;1H\x1b[0;93;44mHi \xe2\x95\x90\xe2\x98\xba"));
    assert_true(terminal_gets(terminal, text, 70000, "\x1b[2;2H\x1b[?25h"));
    /* Only what changed is written. */
    pthread_mutex_lock(&p.lock);
    p.line = "Ho";
    pthread_mutex_unlock(&p.lock);
    assert_true(terminal_gets(terminal, text, 70000, "\x1b[1;2H\x1b[0;93;44mo\x1b[2;2H"));
    assert_null(strstr(text, "Ho"));
    pthread_mutex_lock(&p.lock);
    p.columns = 0;
    pthread_mutex_unlock(&p.lock);
    assert_true(terminal_gets(terminal, text, 70000, "640 x 400 pixels"));
    /* Keys: A, ctrl-C, up, F5, alt-X, enter, an umlaut, escape. */
    chardev_feed(terminal, "A\x03\x1b[A\x1b[15~\x1bx\r\xc3\xbc\x1b", 16);
    for (unsigned i = 0; i < keys.count; i++)
        if (keys.event[i].down)
            assert_int_equal(keys.event[i].code, typed[at++]);
    assert_int_equal(at, ARRAY_SIZE(typed));
    assert_int_equal(keys.count, 2 * ARRAY_SIZE(typed));
    text_free(t);
    screen_remove(p.screen);
    input_sink_remove(sink);
    display_free(d);
    chardev_free(terminal);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(viewers_learn_what_changed),
        cmocka_unit_test(a_kick_does_not_wait_for_the_tick),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(a_screenshot_is_the_picture),
        cmocka_unit_test(keys_go_to_who_is_ready),
        cmocka_unit_test(pointers_are_absolute_or_move),
        cmocka_unit_test(symbols_are_on_their_keys),
        cmocka_unit_test(the_terminal_shows_text),
    };
    return cmocka_run_group_tests_name("display", tests, NULL, NULL);
}
