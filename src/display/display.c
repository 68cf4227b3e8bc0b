/*
 * display.c - see display.h: screens, those who watch them, and the thread between.
 *
 * One lock guards all screens and watches: the screen's lock of the contract. The thread holds it
 * for a round (update the screens that somebody watches, tell the watchers); what devices may call
 * at any time only sets atomic flags and writes the eventfd the thread sleeps on.
 */
#include "display/display.h"

#include "display/internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { RECTS = 32, KICK_MSEC = 5 };

struct cursor {
    uint32_t *argb; /* NULL: hidden */
    uint32_t width, height, hot_x, hot_y;
};

struct screen {
    struct display *display;
    struct screen *next;
    char *name;
    unsigned number;
    struct screen_driver driver;
    struct screen_surface surface;
    struct cursor cursor;
    /* news since the last round */
    struct screen_rect rect[RECTS];
    unsigned rects;
    bool resized, text_changed, cursor_changed;
    atomic_bool kicked, whole;
};

struct display_watch {
    struct display *display;
    struct display_watch *next;
    unsigned number;
    struct display_listener listener;
    atomic_uint interval; /* milliseconds */
    int64_t told_at;      /* milliseconds */
    bool fresh;           /* knows nothing, or missed something */
};

struct display {
    pthread_mutex_t lock;
    struct screen *screens; /* by number */
    struct display_watch *watches;
    pthread_t thread;
    bool thread_started;
    atomic_bool stop;
    int wake;
    struct input *input;
};

static int64_t now_msec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static void wake(struct display *d)
{
    uint64_t one = 1;

    while (write(d->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- what drivers draw with: the lock is held --------------------------------------------------
 */

struct screen_surface *screen_surface(struct screen *s)
{
    return &s->surface;
}

static void dirty_all(struct screen *s)
{
    s->rect[0] = (struct screen_rect){0, 0, s->surface.width, s->surface.height};
    s->rects = s->surface.width ? 1 : 0;
}

bool screen_resize(struct screen *s, uint32_t width, uint32_t height)
{
    uint32_t *pixels;

    if (width == s->surface.width && height == s->surface.height)
        return true;
    if (!width || !height || width > SCREEN_MAX_WIDTH || height > SCREEN_MAX_HEIGHT)
        return false;
    pixels = calloc((size_t)width * height, sizeof(*pixels));
    if (!pixels)
        return false;
    free(s->surface.pixels);
    s->surface.pixels = pixels;
    s->surface.width = width;
    s->surface.height = height;
    s->surface.stride = width * 4;
    s->resized = true;
    dirty_all(s);
    return true;
}

bool screen_set_text(struct screen *s, uint32_t columns, uint32_t rows)
{
    struct screen_cell *cells = NULL;

    if (columns == s->surface.columns && rows == s->surface.rows)
        return true;
    if (columns > SCREEN_MAX_CELLS || rows > SCREEN_MAX_CELLS || !columns != !rows)
        return false;
    if (columns) {
        cells = calloc((size_t)columns * rows, sizeof(*cells));
        if (!cells)
            return false;
        for (uint32_t i = 0; i < columns * rows; i++)
            cells[i] = (struct screen_cell){' ', 7};
    }
    free(s->surface.cells);
    s->surface.cells = cells;
    s->surface.columns = columns;
    s->surface.rows = rows;
    s->surface.cursor = columns * rows;
    s->text_changed = true;
    return true;
}

static struct screen_rect hull(struct screen_rect a, struct screen_rect b)
{
    uint32_t right = MAX(a.x + a.width, b.x + b.width);
    uint32_t bottom = MAX(a.y + a.height, b.y + b.height);
    struct screen_rect r = {MIN(a.x, b.x), MIN(a.y, b.y), 0, 0};

    r.width = right - r.x;
    r.height = bottom - r.y;
    return r;
}

static bool touch(struct screen_rect a, struct screen_rect b)
{
    return a.x <= b.x + b.width && b.x <= a.x + a.width && a.y <= b.y + b.height &&
           b.y <= a.y + a.height;
}

void screen_dirty(struct screen *s, uint32_t x, uint32_t y, uint32_t width, uint32_t height)
{
    const struct screen_surface *f = &s->surface;
    struct screen_rect r = {x, y, 0, 0};

    if (x >= f->width || y >= f->height || !width || !height)
        return;
    r.width = MIN(width, f->width - x);
    r.height = MIN(height, f->height - y);
    /* Those that touch become one, again as that one grows; too many become one. */
    for (unsigned i = 0; i < s->rects;) {
        if (touch(s->rect[i], r) || s->rects == RECTS) {
            r = hull(s->rect[i], r);
            s->rect[i] = s->rect[--s->rects];
            i = 0;
        } else {
            i++;
        }
    }
    s->rect[s->rects++] = r;
}

void screen_cells_dirty(struct screen *s)
{
    s->text_changed = true;
}

void screen_set_cursor(struct screen *s, const uint32_t *argb, uint32_t width, uint32_t height,
                       uint32_t hot_x, uint32_t hot_y)
{
    bool good = argb && width && height && width <= 512 && height <= 512;
    size_t size = good ? sizeof(*argb) * width * height : 0;

    free(s->cursor.argb);
    s->cursor = (struct cursor){.argb = good ? malloc(size) : NULL};
    if (s->cursor.argb) {
        memcpy(s->cursor.argb, argb, size);
        s->cursor.width = width;
        s->cursor.height = height;
        s->cursor.hot_x = MIN(hot_x, width - 1);
        s->cursor.hot_y = MIN(hot_y, height - 1);
    }
    s->cursor_changed = true;
}

/* ---- from any thread ---------------------------------------------------------------------------
 */

void screen_kick(struct screen *s)
{
    if (s && !atomic_exchange(&s->kicked, true))
        wake(s->display);
}

void screen_invalidate(struct screen *s)
{
    if (!s)
        return;
    s->whole = true;
    screen_kick(s);
}

void display_set_interval(struct display_watch *w, unsigned msec)
{
    w->interval = msec;
    wake(w->display);
}

/* ---- rounds ------------------------------------------------------------------------------------
 */

static void update_locked(struct screen *s)
{
    s->kicked = false;
    s->driver.update(s->driver.opaque, s, atomic_exchange(&s->whole, false));
}

static struct screen *screen_find_locked(struct display *d, unsigned number)
{
    struct screen *s = d->screens;

    while (s && s->number != number)
        s = s->next;
    return s;
}

static void tell(struct display_watch *w, const struct screen *s)
{
    const struct display_listener *l = &w->listener;
    const struct screen_surface *f = &s->surface;
    const struct screen_rect all = {0, 0, f->width, f->height};

    if (!f->width)
        return;
    if (l->resized && (w->fresh || s->resized))
        l->resized(l->opaque, f);
    if (l->changed && (w->fresh || s->rects))
        l->changed(l->opaque, f, w->fresh ? &all : s->rect, w->fresh ? 1 : s->rects);
    if (l->text && (w->fresh || s->text_changed))
        l->text(l->opaque, f);
    if (l->cursor && (w->fresh || s->cursor_changed))
        l->cursor(l->opaque, s->cursor.argb, s->cursor.width, s->cursor.height, s->cursor.hot_x,
                  s->cursor.hot_y);
    w->fresh = false;
}

/* One screen's news to all who watch it; those who want none now will get everything later. */
static void tell_all(struct display *d, struct screen *s)
{
    for (struct display_watch *w = d->watches; w; w = w->next) {
        if (w->number != s->number)
            continue;
        if (w->interval)
            tell(w, s);
        else
            w->fresh = true;
        w->told_at = now_msec();
    }
    s->rects = 0;
    s->resized = s->text_changed = s->cursor_changed = false;
}

/* Milliseconds until somebody wants news of this screen; INT64_MAX: nobody does. */
static int64_t due_in(const struct display *d, const struct screen *s, int64_t now)
{
    int64_t best = INT64_MAX;

    for (const struct display_watch *w = d->watches; w; w = w->next)
        if (w->number == s->number && w->interval) {
            int64_t after = s->kicked ? MIN((int64_t)w->interval, KICK_MSEC) : (int64_t)w->interval;

            best = MIN(best, w->told_at + after - now);
        }
    return best;
}

static void *display_thread(void *opaque)
{
    struct display *d = opaque;

    pthread_setname_np(pthread_self(), "display");
    while (!d->stop) {
        struct pollfd p = {d->wake, POLLIN, 0};
        int64_t sleep = INT64_MAX;
        uint64_t count;

        pthread_mutex_lock(&d->lock);
        for (struct screen *s = d->screens; s; s = s->next) {
            int64_t due = due_in(d, s, now_msec());

            if (due <= 0) {
                update_locked(s);
                tell_all(d, s);
                due = due_in(d, s, now_msec());
            }
            sleep = MIN(sleep, MAX(due, INT64_C(1)));
        }
        pthread_mutex_unlock(&d->lock);
        if (poll(&p, 1, sleep == INT64_MAX ? -1 : (int)sleep) > 0 &&
            read(d->wake, &count, sizeof(count)) < 0)
            continue;
    }
    return NULL;
}

/* ---- screens and watches -----------------------------------------------------------------------
 */

struct screen *screen_add(struct display *d, const char *name, const struct screen_driver *driver)
{
    struct screen *s, **at;

    if (!d)
        return NULL;
    s = xcalloc(1, sizeof(*s));
    s->display = d;
    s->name = xstrdup(name);
    s->driver = *driver;
    s->whole = true;
    pthread_mutex_lock(&d->lock);
    for (at = &d->screens; *at && (*at)->number == s->number; at = &(*at)->next)
        s->number++; /* the lowest that is free */
    s->next = *at;
    *at = s;
    for (struct display_watch *w = d->watches; w; w = w->next)
        w->fresh |= w->number == s->number;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    return s;
}

void screen_remove(struct screen *s)
{
    struct display *d;

    if (!s)
        return;
    d = s->display;
    pthread_mutex_lock(&d->lock);
    for (struct screen **at = &d->screens; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    pthread_mutex_unlock(&d->lock);
    free(s->surface.pixels);
    free(s->surface.cells);
    free(s->cursor.argb);
    free(s->name);
    free(s);
}

struct display_watch *display_watch(struct display *d, unsigned number,
                                    const struct display_listener *listener)
{
    struct display_watch *w = xcalloc(1, sizeof(*w));

    w->display = d;
    w->number = number;
    w->listener = *listener;
    w->fresh = true;
    pthread_mutex_lock(&d->lock);
    w->next = d->watches;
    d->watches = w;
    if (!d->thread_started)
        d->thread_started = !pthread_create(&d->thread, NULL, display_thread, d);
    pthread_mutex_unlock(&d->lock);
    return w;
}

void display_unwatch(struct display_watch *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->display->lock);
    for (struct display_watch **at = &w->display->watches; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    pthread_mutex_unlock(&w->display->lock);
    free(w);
}

void display_wish_size(struct display *d, unsigned number, uint32_t width, uint32_t height)
{
    struct screen *s;

    if (!width || !height || width > SCREEN_MAX_WIDTH || height > SCREEN_MAX_HEIGHT)
        return;
    /* The lock keeps the screen; the driver takes its device's, as in update(). */
    pthread_mutex_lock(&d->lock);
    s = screen_find_locked(d, number);
    if (s && s->driver.wish_size)
        s->driver.wish_size(s->driver.opaque, width, height);
    pthread_mutex_unlock(&d->lock);
}

int display_look(struct display *d, unsigned number,
                 void (*look)(void *opaque, const struct screen_surface *s), void *opaque,
                 struct error *err)
{
    struct screen *s;
    int r = 0;

    pthread_mutex_lock(&d->lock);
    s = screen_find_locked(d, number);
    if (s)
        update_locked(s);
    if (s && s->surface.width)
        look(opaque, &s->surface);
    else
        r = s ? error_set(err, ENOENT, "screen %u shows nothing yet", number)
              : error_set(err, ENOENT, "there is no screen %u", number);
    pthread_mutex_unlock(&d->lock);
    return r;
}

struct input *display_input(struct display *d)
{
    return d->input;
}

struct display *display_new(void)
{
    struct display *d = xcalloc(1, sizeof(*d));

    pthread_mutex_init(&d->lock, NULL);
    d->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    d->input = input_new();
    return d;
}

void display_free(struct display *d)
{
    if (!d)
        return;
    d->stop = true;
    wake(d);
    if (d->thread_started)
        pthread_join(d->thread, NULL);
    input_free(d->input);
    close(d->wake);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
