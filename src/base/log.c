/* log.c - see log.h. A line is formatted whole and written with one call, so lines never mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static _Atomic enum log_level shown = LOG_INFO;
static void (*_Atomic sink_function)(const char *line);

void log_set_level(enum log_level level)
{
    shown = level;
}

bool log_enabled(enum log_level level)
{
    return level <= shown;
}

void log_set_sink(void (*sink)(const char *line))
{
    sink_function = sink;
}

void log_message(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    void (*sink)(const char *line) = sink_function;
    char line[1024];
    va_list ap;
    int n;

    if (!log_enabled(level))
        return;
    n = snprintf(line, sizeof(line), "hospes: %s", names[level]);
    va_start(ap, format);
    vsnprintf(line + n, sizeof(line) - (size_t)n, format, ap);
    va_end(ap);
    if (sink)
        sink(line);
    else
        fprintf(stderr, "%s\n", line);
}
