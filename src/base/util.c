/* util.c - see util.h. */
#include "base/util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *or_die(void *p)
{
    if (!p) {
        fputs("hospes: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *xcalloc(size_t count, size_t size)
{
    return or_die(calloc(count ? count : 1, size ? size : 1));
}

char *xstrdup(const char *s)
{
    return or_die(strdup(s));
}

char *xasprintf(const char *format, ...)
{
    char *s = NULL;
    va_list ap;

    va_start(ap, format);
    if (vasprintf(&s, format, ap) < 0)
        s = NULL;
    va_end(ap);
    return or_die(s);
}

void auto_free_cleanup(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

void auto_close_cleanup(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
