/*
 * input.c - keys and pointers on their way from front ends to devices.
 *
 * One lock guards it all and is held while a device's hook runs, which takes the device's own. A
 * device says that it is ready without the lock, by an atomic flag, so the receiver is chosen anew
 * for each event: when it is another one than before, what is down is released at the old one.
 */
#include "display/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { INPUT_CODES = 768 }; /* KEY_MAX + 1 */

struct input_sink {
    struct input *input;
    struct input_sink *next; /* newest first */
    struct input_sink_ops ops;
    atomic_bool ready;
};

struct input {
    pthread_mutex_t lock;
    struct input_sink *sinks;
    struct input_sink *keys, *pointer; /* the last receivers */
    uint64_t down[INPUT_CODES / 64];
    uint8_t buttons;
    bool positioned; /* x and y are known */
    int32_t x, y;
};

struct input *input_new(void)
{
    struct input *i = xcalloc(1, sizeof(*i));

    pthread_mutex_init(&i->lock, NULL);
    return i;
}

void input_free(struct input *i)
{
    pthread_mutex_destroy(&i->lock);
    free(i);
}

struct input_sink *input_sink_add(struct display *d, const struct input_sink_ops *ops)
{
    struct input_sink *s;
    struct input *i;

    if (!d)
        return NULL;
    i = display_input(d);
    s = xcalloc(1, sizeof(*s));
    s->input = i;
    s->ops = *ops;
    pthread_mutex_lock(&i->lock);
    s->next = i->sinks;
    i->sinks = s;
    pthread_mutex_unlock(&i->lock);
    return s;
}

void input_sink_remove(struct input_sink *s)
{
    struct input *i;

    if (!s)
        return;
    i = s->input;
    pthread_mutex_lock(&i->lock);
    for (struct input_sink **at = &i->sinks; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    i->keys = i->keys == s ? NULL : i->keys;
    i->pointer = i->pointer == s ? NULL : i->pointer;
    pthread_mutex_unlock(&i->lock);
    free(s);
}

void input_sink_set_ready(struct input_sink *s, bool ready)
{
    if (s)
        s->ready = ready;
}

static struct input_sink *receiver_locked(struct input *i, unsigned kinds)
{
    struct input_sink *s = i->sinks;

    while (s && !(s->ready && s->ops.kinds & kinds))
        s = s->next;
    return s;
}

static void release_keys_locked(struct input *i)
{
    for (unsigned code = 0; code < INPUT_CODES; code++)
        if (i->down[code / 64] >> code % 64 & 1 && i->keys)
            i->keys->ops.event(i->keys->ops.opaque,
                               &(struct input_event){.type = INPUT_KEY, .code = (uint16_t)code});
    memset(i->down, 0, sizeof(i->down));
}

void input_key(struct display *d, unsigned linux_code, bool down)
{
    struct input *i = display_input(d);
    struct input_event e = {.type = INPUT_KEY, .code = (uint16_t)linux_code, .down = down};
    struct input_sink *s;

    if (!linux_code || linux_code >= INPUT_CODES)
        return;
    pthread_mutex_lock(&i->lock);
    s = receiver_locked(i, INPUT_KEYS);
    if (s != i->keys)
        release_keys_locked(i);
    i->keys = s;
    if (down)
        i->down[linux_code / 64] |= BIT(linux_code % 64);
    else
        i->down[linux_code / 64] &= ~BIT(linux_code % 64);
    if (s)
        s->ops.event(s->ops.opaque, &e);
    pthread_mutex_unlock(&i->lock);
}

static void release_buttons_locked(struct input *i)
{
    struct input_sink *s = i->pointer;
    struct input_event e = {.type = INPUT_POINTER};

    if (!i->buttons || !s)
        return;
    if (s->ops.kinds & INPUT_ABSOLUTE) {
        e.absolute = true;
        e.x = i->x;
        e.y = i->y;
    }
    s->ops.event(s->ops.opaque, &e);
    i->buttons = 0;
}

static struct input_sink *pointer_locked(struct input *i)
{
    struct input_sink *s = receiver_locked(i, INPUT_ABSOLUTE | INPUT_RELATIVE);

    if (s != i->pointer)
        release_buttons_locked(i);
    i->pointer = s;
    return s;
}

static int32_t scale(uint32_t at, uint32_t size)
{
    return size > 1 ? (int32_t)((uint64_t)MIN(at, size - 1) * (INPUT_RANGE - 1) / (size - 1)) : 0;
}

void input_pointer(struct display *d, uint32_t x, uint32_t y, uint32_t width, uint32_t height,
                   uint8_t buttons, int wheel, int hwheel)
{
    struct input *i = display_input(d);
    struct input_event e = {
        .type = INPUT_POINTER, .wheel = wheel, .hwheel = hwheel, .buttons = buttons};
    struct input_sink *s;

    pthread_mutex_lock(&i->lock);
    s = pointer_locked(i);
    if (s && s->ops.kinds & INPUT_ABSOLUTE) {
        e.absolute = true;
        e.x = scale(x, width);
        e.y = scale(y, height);
        i->x = e.x;
        i->y = e.y;
        i->positioned = false; /* those are other units */
    } else {
        e.x = i->positioned ? (int32_t)x - i->x : 0;
        e.y = i->positioned ? (int32_t)y - i->y : 0;
        i->positioned = true;
        i->x = (int32_t)MIN(x, (uint32_t)INT16_MAX);
        i->y = (int32_t)MIN(y, (uint32_t)INT16_MAX);
    }
    i->buttons = buttons;
    if (s)
        s->ops.event(s->ops.opaque, &e);
    pthread_mutex_unlock(&i->lock);
}

void input_move(struct display *d, int dx, int dy, uint8_t buttons, int wheel, int hwheel)
{
    struct input *i = display_input(d);
    struct input_event e = {.type = INPUT_POINTER,
                            .x = dx,
                            .y = dy,
                            .wheel = wheel,
                            .hwheel = hwheel,
                            .buttons = buttons};
    struct input_sink *s;

    pthread_mutex_lock(&i->lock);
    s = pointer_locked(i);
    if (s && s->ops.kinds & INPUT_ABSOLUTE) {
        e.absolute = true;
        e.x = i->x = MAX(0, MIN(INPUT_RANGE - 1, i->x + dx * 32));
        e.y = i->y = MAX(0, MIN(INPUT_RANGE - 1, i->y + dy * 32));
    }
    i->buttons = buttons;
    if (s)
        s->ops.event(s->ops.opaque, &e);
    pthread_mutex_unlock(&i->lock);
}

bool input_is_absolute(struct display *d)
{
    struct input *i = display_input(d);
    struct input_sink *s;

    pthread_mutex_lock(&i->lock);
    s = receiver_locked(i, INPUT_ABSOLUTE | INPUT_RELATIVE);
    pthread_mutex_unlock(&i->lock);
    return s && s->ops.kinds & INPUT_ABSOLUTE;
}

void input_release_all(struct display *d)
{
    struct input *i = display_input(d);

    pthread_mutex_lock(&i->lock);
    release_keys_locked(i);
    release_buttons_locked(i);
    i->positioned = false;
    pthread_mutex_unlock(&i->lock);
}
