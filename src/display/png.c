/*
 * png.c - a screen as a PNG file, by libpng.
 *
 * The picture is copied first: writing a file takes longer than a screen should stand still.
 */
#include "display/display.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct picture {
    uint32_t width, height;
    uint32_t *pixels;
};

static void copy(void *opaque, const struct screen_surface *s)
{
    struct picture *p = opaque;

    p->pixels = malloc((size_t)s->width * s->height * 4);
    p->width = s->width;
    p->height = s->height;
    for (uint32_t y = 0; p->pixels && y < s->height; y++)
        memcpy(p->pixels + (size_t)y * s->width, (const uint8_t *)s->pixels + (size_t)y * s->stride,
               s->width * 4u);
}

/* libpng reports errors by longjmp(): nothing here lives in registers across it. */
static bool write_png(FILE *f, const struct picture *p)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool good = false;

    if (info && !setjmp(png_jmpbuf(png))) {
        png_init_io(png, f);
        png_set_IHDR(png, info, p->width, p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
        png_set_compression_level(png, 3);
        png_write_info(png, info);
        png_set_bgr(png); /* 0x00RRGGBB in memory, lowest byte first */
        png_set_filler(png, 0, PNG_FILLER_AFTER);
        for (uint32_t y = 0; y < p->height; y++)
            png_write_row(png, (png_bytep)(p->pixels + (size_t)y * p->width));
        png_write_end(png, NULL);
        good = true;
    }
    png_destroy_write_struct(&png, &info);
    return good;
}

int display_screenshot(struct display *d, unsigned number, const char *path, struct error *err)
{
    struct picture p = {0};
    auto_free char *beside = xasprintf("%s.new", path);
    FILE *f;
    bool good;
    int r = display_look(d, number, copy, &p, err);

    if (r < 0)
        return error_prefix(err, r, "screenshot: ");
    if (!p.pixels)
        return error_set(err, ENOMEM,
                         "screenshot: a picture of %u x %u pixels does not fit in "
                         "memory",
                         p.width, p.height);
    f = fopen(beside, "we");
    if (!f) {
        r = error_set_errno(err, errno, "screenshot: cannot write '%s'", beside);
        free(p.pixels);
        return r;
    }
    good = write_png(f, &p);
    good = fclose(f) == 0 && good;
    free(p.pixels);
    if (good && rename(beside, path) == 0)
        return 0;
    r = error_set_errno(err, good && errno ? errno : EIO, "screenshot: cannot write '%s'", path);
    unlink(beside);
    return r;
}
