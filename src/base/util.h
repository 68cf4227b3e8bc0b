/*
 * util.h - the few things every file wants: sizes, bits, checked arithmetic, scope cleanup.
 *
 * Sizes that come from outside the process go through the checked functions before they become
 * a length or an index.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define MIN(a, b)                       ((a) < (b) ? (a) : (b))
#define MAX(a, b)                       ((a) > (b) ? (a) : (b))
#define BIT(n)                          (UINT64_C(1) << (n))

enum { KiB = 1 << 10, MiB = 1 << 20, GiB = 1 << 30 };
#define NSEC_PER_USEC UINT64_C(1000)
#define NSEC_PER_MSEC UINT64_C(1000000)
#define NSEC_PER_SEC  UINT64_C(1000000000)

/* The `length` low bits from `start` up; length 1 to 64. */
static inline uint64_t bits_get(uint64_t value, unsigned start, unsigned length)
{
    return value >> start & (~UINT64_C(0) >> (64 - length));
}

static inline uint64_t bits_set(uint64_t value, unsigned start, unsigned length, uint64_t field)
{
    uint64_t mask = ~UINT64_C(0) >> (64 - length) << start;

    return (value & ~mask) | (field << start & mask);
}

/* The low `size` bytes set; size 1 to 8. */
static inline uint64_t size_mask(unsigned size)
{
    return ~UINT64_C(0) >> (64 - 8 * size);
}

static inline int64_t sign_extend(uint64_t value, unsigned bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static inline bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static inline uint64_t align_down(uint64_t v, uint64_t power)
{
    return v & ~(power - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t power)
{
    return (v + power - 1) & ~(power - 1);
}

/* Does [start, start+length) lie within [0, limit)? Right for every value, zero length included. */
static inline bool range_within(uint64_t start, uint64_t length, uint64_t limit)
{
    return start <= limit && length <= limit - start;
}

/* Do two ranges with no wrap-around share a byte? */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return alen && blen && a <= b + (blen - 1) && b <= a + (alen - 1);
}

/* value * mul / div with a 128-bit middle; div not 0, the result must fit. */
static inline uint64_t muldiv64(uint64_t value, uint64_t mul, uint64_t div)
{
    return (uint64_t)((unsigned __int128)value * mul / div);
}

/* Little-endian loads and stores of possibly unaligned memory; size 1, 2, 4 or 8. */
static inline uint64_t load_le(const void *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size);
    return v;
}

static inline void store_le(void *p, uint64_t v, unsigned size)
{
    memcpy(p, &v, size);
}

/* Like malloc and strdup, but running out of memory ends the process with a message. Only for
 * sizes that no guest, image or client chooses. */
void *xcalloc(size_t count, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Scope cleanup: `auto_free char *s = ...`, `auto_close int fd = -1`. */
void auto_free_cleanup(void *pointer_to_pointer);
void auto_close_cleanup(int *fd);
#define auto_free  __attribute__((cleanup(auto_free_cleanup)))
#define auto_close __attribute__((cleanup(auto_close_cleanup)))

#endif
