/*
 * log.h - messages for the person who runs the machine.
 *
 * Lines go to standard error as "hospes: warning: text". Messages that a guest can cause go
 * through log_guest(), which tells each call site once and counts the rest, so that a guest
 * cannot flood a log. Any thread may call.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); /* the most talkative one shown; default LOG_INFO */
bool log_enabled(enum log_level level);

/* Called for each line instead of writing to standard error; NULL restores that. The console
 * uses it to put carriage returns where the terminal is raw. */
void log_set_sink(void (*sink)(const char *line));

void log_message(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...) log_message(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_message(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_DEBUG, __VA_ARGS__)

/* One counter for each call site: the first time is shown as a warning, the rest are counted. */
#define log_guest(...)                                                                             \
    ({                                                                                             \
        static atomic_ulong log_guest_count;                                                       \
        if (atomic_fetch_add_explicit(&log_guest_count, 1, memory_order_relaxed) == 0)             \
            log_message(LOG_WARN, "guest: " __VA_ARGS__);                                          \
    })

#endif
