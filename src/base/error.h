/*
 * error.h - how a failure is told to a person.
 *
 * A function that can fail returns 0 (or a count) or -errno. If somebody will read about the
 * failure, its last parameter is `struct error *err`, owned by the caller, who may pass NULL.
 *
 * A message names the thing and the value, says the remedy where there is one, starts in lower
 * case and has no full stop. Layers above add a prefix. Only the one who handles an error reports
 * it. On failure out-parameters are untouched.
 *
 *     if (size > limit)
 *         return error_set(err, EFBIG, "kernel '%s' is %zu bytes, the limit is %zu", ...);
 *
 *     r = kernel_open(path, &k, err);
 *     if (r < 0)
 *         return error_prefix(err, r, "option --kernel: ");
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

struct error {
    int code; /* a positive errno; 0: no error */
    char text[500];
};

/* Fill `err` (if any) and return -code, so that `return error_set(...)` is one statement. */
int error_set(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the name of the errno `code` after the text. */
int error_set_errno(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put a prefix before the text and return `result` unchanged. */
int error_prefix(struct error *err, int result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
