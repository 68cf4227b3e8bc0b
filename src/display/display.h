/*
 * display.h - where screens, keyboards and mice of a machine meet those who watch and type.
 *
 * One struct display for a machine. A display device adds a screen; front ends (VNC, the terminal,
 * screenshots) listen to it. Input devices add sinks; front ends send events, which go to the sink
 * that is in use.
 *
 * Pictures are pulled. The display's own thread asks each screen's driver to bring the picture up
 * to date, as often as the most eager listener wants (not at all when nobody watches), and then
 * tells the listeners which rectangles changed. So a device never waits for a viewer, and the
 * guest's frame buffer is read only by its device.
 *
 * Locks: a screen's lock is taken before its device's, an input sink's device's lock after the
 * display's input lock. Therefore: screen_draw functions are called in update() only; what a
 * device may call with its lock held is marked [any]. Adding and removing belong to realize and
 * unrealize (no device lock is held there) and to the main thread; removing waits for a hook that
 * runs.
 */
#ifndef DISPLAY_DISPLAY_H
#define DISPLAY_DISPLAY_H

#include "base/error.h"
#include "base/util.h"

struct display;
struct screen;

struct display *display_new(void);
void display_free(struct display *d); /* screens, listeners and sinks are gone by then */

/* ---- screens: for display devices
 * ----------------------------------------------------------------
 */

enum { SCREEN_MAX_WIDTH = 8192, SCREEN_MAX_HEIGHT = 8192, SCREEN_MAX_CELLS = 256 };

struct screen_rect {
    uint32_t x, y, width, height;
};

/* A text cell: code page 437 and the attribute byte of a VGA (low nibble foreground). */
struct screen_cell {
    uint8_t code, attribute;
};

/* All fields are set by screen_resize() and screen_set_text(); the contents by the driver. */
struct screen_surface {
    uint32_t width, height; /* pixels; 0: nothing was shown yet */
    uint32_t stride;        /* bytes from row to row */
    uint32_t *pixels;       /* 0x00RRGGBB, host order */
    /* A text mode besides: the same picture as cells. columns 0: graphics. */
    uint32_t columns, rows;
    struct screen_cell *cells;
    uint32_t cursor; /* index of the cell with the cursor; columns * rows: hidden */
};

struct screen_driver {
    void *opaque;
    /* Bring the surface up to date by the functions below. On the display's thread or a
     * screenshot's, with the screen's lock held and no other: take the device's. `whole`: nothing
     * drawn before counts (first time, or after screen_invalidate()). */
    void (*update)(void *opaque, struct screen *s, bool whole);
    /* Somebody would like this size (a viewer's window): a hint for the guest. With the screen's
     * lock held, as update(). May be NULL. */
    void (*wish_size)(void *opaque, uint32_t width, uint32_t height);
};

/* Screens are numbered in order of creation; the lowest is what is shown by default. `d` NULL (no
 * display: machine->config.display): there is no screen, NULL, which all [any] functions take. */
struct screen *screen_add(struct display *d, const char *name, const struct screen_driver *driver);
void screen_remove(struct screen *s); /* NULL is nothing */

/* In update() only. */
struct screen_surface *screen_surface(struct screen *s);
/* Another size: the pixels are black afterwards and all is dirty. False where the size is 0 or
 * beyond the bounds above: the picture stays. */
bool screen_resize(struct screen *s, uint32_t width, uint32_t height);
/* Another text size, 0 x 0: graphics. Cells are blank afterwards. */
bool screen_set_text(struct screen *s, uint32_t columns, uint32_t rows);
void screen_dirty(struct screen *s, uint32_t x, uint32_t y, uint32_t width, uint32_t height);
void screen_cells_dirty(struct screen *s); /* some cell or the cursor changed */
/* The pointer's picture, drawn by the viewer; NULL hides it. ARGB, premultiplied by nothing. */
void screen_set_cursor(struct screen *s, const uint32_t *argb, uint32_t width, uint32_t height,
                       uint32_t hot_x, uint32_t hot_y);

/* There is something new: update soon instead of at the next tick. [any] */
void screen_kick(struct screen *s);
/* The next update gets `whole`: after a mode change, a restore. [any] */
void screen_invalidate(struct screen *s);

/* ---- listeners: for front ends
 * -------------------------------------------------------------------
 */

struct display_listener {
    void *opaque;
    /* All on the display's thread with the screen's lock held: the surface may be read. `rects`
     * are disjoint and within the surface. Any may be NULL. */
    void (*resized)(void *opaque, const struct screen_surface *s);
    void (*changed)(void *opaque, const struct screen_surface *s, const struct screen_rect *rects,
                    unsigned count);
    void (*text)(void *opaque, const struct screen_surface *s); /* cells, cursor, or their size */
    void (*cursor)(void *opaque, const uint32_t *argb, uint32_t width, uint32_t height,
                   uint32_t hot_x, uint32_t hot_y);
};

struct display_watch;
/* Watch screen `number`, existing or not yet. The first call of resized() and changed() tells all
 * there is. Nothing is called before an interval is set. */
struct display_watch *display_watch(struct display *d, unsigned number,
                                    const struct display_listener *listener);
void display_unwatch(struct display_watch *w); /* NULL is nothing */
/* How often this listener wants news, milliseconds; 0: not now. [any] */
void display_set_interval(struct display_watch *w, unsigned msec);
/* Pass a viewer's wish for a size to the device. Not with a screen's lock held. */
void display_wish_size(struct display *d, unsigned number, uint32_t width, uint32_t height);

/* Look at a screen now: updates it and calls look() with its lock held. -ENOENT: no such screen, or
 * nothing was ever shown. */
int display_look(struct display *d, unsigned number,
                 void (*look)(void *opaque, const struct screen_surface *s), void *opaque,
                 struct error *err);
/* The same as a PNG file, written beside and renamed. */
int display_screenshot(struct display *d, unsigned number, const char *path, struct error *err);

/* ---- input
 * ---------------------------------------------------------------------------------------
 */

enum input_kind { INPUT_KEYS = 1, INPUT_RELATIVE = 2, INPUT_ABSOLUTE = 4 };

enum input_type { INPUT_KEY, INPUT_POINTER };

enum input_button {
    INPUT_LEFT = 1,
    INPUT_RIGHT = 2,
    INPUT_MIDDLE = 4,
    INPUT_SIDE = 8,
    INPUT_EXTRA = 16,
};

enum { INPUT_RANGE = 32768 }; /* absolute positions are 0 .. INPUT_RANGE-1 */

struct input_event {
    enum input_type type;
    /* INPUT_KEY: a Linux code (KEY_A is 30, linux/input-event-codes.h) */
    uint16_t code;
    bool down;
    /* INPUT_POINTER: one report. Right, down and the wheel away from the user are positive. */
    bool absolute; /* x and y are a position, else movement */
    int32_t x, y;
    int32_t wheel, hwheel;
    uint8_t buttons; /* enum input_button: those that are down now */
};

struct input_sink_ops {
    const char *name;
    void *opaque;
    unsigned kinds; /* enum input_kind: what it takes */
    /* On any front end's thread; takes the device's lock. Never blocks. */
    void (*event)(void *opaque, const struct input_event *e);
};

/*
 * Of the sinks that take an event and are ready, the one added last gets it; a sink is ready when
 * a driver in the guest uses it (PS/2 devices: always). So a tablet takes over from the PS/2 mouse
 * when the guest enables it. Keys that are down when the receiver changes are released there.
 */
struct input_sink;
/* `d` NULL: nobody types; NULL. */
struct input_sink *input_sink_add(struct display *d, const struct input_sink_ops *ops);
void input_sink_remove(struct input_sink *s);                /* NULL is nothing */
void input_sink_set_ready(struct input_sink *s, bool ready); /* false at first. [any] */

/* For front ends; not with a device's lock held. */
void input_key(struct display *d, unsigned linux_code, bool down);
/* The pointer is at (x, y) of a screen of that size: goes to an absolute sink, or as movement since
 * the last report to a relative one. */
void input_pointer(struct display *d, uint32_t x, uint32_t y, uint32_t width, uint32_t height,
                   uint8_t buttons, int wheel, int hwheel);
void input_move(struct display *d, int dx, int dy, uint8_t buttons, int wheel, int hwheel);
/* Is there an absolute sink that is ready? */
bool input_is_absolute(struct display *d);
/* Releases every key and button that is down: a front end lost its focus or connection. */
void input_release_all(struct display *d);

#endif
