/* error.c - see error.h. Text that does not fit is cut; a message is never lost whole. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *format, ...)
{
    va_list ap;

    if (err) {
        err->code = code;
        va_start(ap, format);
        vsnprintf(err->text, sizeof(err->text), format, ap);
        va_end(ap);
    }
    return -code;
}

int error_set_errno(struct error *err, int code, const char *format, ...)
{
    va_list ap;
    size_t used;

    if (err) {
        err->code = code;
        va_start(ap, format);
        vsnprintf(err->text, sizeof(err->text), format, ap);
        va_end(ap);
        used = strlen(err->text);
        snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(code));
    }
    return -code;
}

int error_prefix(struct error *err, int result, const char *format, ...)
{
    char prefix[sizeof(err->text)];
    size_t used;
    va_list ap;

    if (!err)
        return result;
    va_start(ap, format);
    vsnprintf(prefix, sizeof(prefix), format, ap);
    va_end(ap);
    used = strlen(prefix);
    memmove(err->text + used, err->text, sizeof(err->text) - used);
    memcpy(err->text, prefix, used);
    err->text[sizeof(err->text) - 1] = '\0';
    return result;
}
