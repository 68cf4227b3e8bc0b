/*
 * state.c - see state.h. One struct or device to and from bytes.
 *
 * A record is: length of the name (1 byte, never 0), the name, the size of an element (4 bytes),
 * the count (4 bytes), the elements. The elements of a nested struct have size 0 in their record
 * and are sequences themselves. A sequence ends with a zero byte; the outermost one has the version
 * (2 bytes) in front.
 *
 * Loading walks table and bytes side by side, twice: the first walk checks everything and touches
 * nothing, the second one cannot fail. So a refused stream leaves the struct as it was.
 */
#include "state/state.h"

#include "machine/device.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { NAME_MAX_LEN = 255 };

void state_buffer_free(struct state_buffer *b)
{
    free(b->data);
    *b = (struct state_buffer){0};
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put(struct state_buffer *b, const void *bytes, size_t n)
{
    if (b->capacity - b->size < n) {
        size_t capacity = MAX(b->capacity * 2, b->size + n + 256);
        uint8_t *data = xcalloc(1, capacity);

        if (b->size)
            memcpy(data, b->data, b->size);
        free(b->data);
        b->data = data;
        b->capacity = capacity;
    }
    if (n)
        memcpy(b->data + b->size, bytes, n);
    b->size += n;
}

static void put_number(struct state_buffer *b, uint64_t value, unsigned size)
{
    put(b, &value, size);
}

static void save_sequence(struct state_buffer *b, const struct state_field *table,
                          const void *object)
{
    for (const struct state_field *f = table; f && f->name; f++) {
        const char *field = (const char *)object + f->offset;
        size_t length = strlen(f->name);

        assert(length && length <= NAME_MAX_LEN);
        put_number(b, length, 1);
        put(b, f->name, length);
        put_number(b, f->table ? 0 : f->size, 4);
        put_number(b, f->count, 4);
        if (!f->table) {
            put(b, field, (size_t)f->size * f->count);
            continue;
        }
        for (uint32_t i = 0; i < f->count; i++)
            save_sequence(b, f->table, field + (size_t)i * f->size);
    }
    put_number(b, 0, 1);
}

void state_save(struct state_buffer *b, const struct state_field *table, uint16_t version,
                const void *object)
{
    put_number(b, version, 2);
    save_sequence(b, table, object);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The next n bytes, or NULL where fewer are left. */
static const uint8_t *take(struct state_buffer *b, size_t n)
{
    const uint8_t *bytes = b->data + b->position;

    if (b->size - b->position < n)
        return NULL;
    b->position += n;
    return bytes;
}

static bool take_number(struct state_buffer *b, unsigned size, uint64_t *value)
{
    const uint8_t *bytes = take(b, size);

    if (bytes)
        *value = load_le(bytes, size);
    return bytes != NULL;
}

static int truncated(struct error *err, const char *where)
{
    return error_set(err, EINVAL, "field '%s': the state ends within it", where);
}

/* The head of the record that must come next: that of `f`. */
static int load_head(struct state_buffer *b, const struct state_field *f, struct error *err)
{
    uint32_t want_size = f->table ? 0 : f->size;
    uint64_t length, size, count;
    const uint8_t *name;

    if (!take_number(b, 1, &length))
        return truncated(err, f->name);
    if (!length)
        return error_set(err, EINVAL, "field '%s' is missing", f->name);
    name = take(b, length);
    if (!name)
        return truncated(err, f->name);
    if (length != strlen(f->name) || memcmp(name, f->name, length) != 0) {
        char found[NAME_MAX_LEN + 1];

        for (size_t i = 0; i < length; i++)
            found[i] = name[i] > ' ' && name[i] < 0x7f ? (char)name[i] : '?';
        found[length] = '\0';
        return error_set(err, EINVAL, "field '%s' expected, '%s' found", f->name, found);
    }
    if (!take_number(b, 4, &size) || !take_number(b, 4, &count))
        return truncated(err, f->name);
    if (size != want_size)
        return error_set(err, EINVAL, "field '%s': elements of %" PRIu64 " bytes, not %u", f->name,
                         size, want_size);
    if (count != f->count)
        return error_set(err, EINVAL, "field '%s': %" PRIu64 " elements, not %u", f->name, count,
                         f->count);
    return 0;
}

/* `object` NULL: only check. */
static int load_sequence(struct state_buffer *b, const struct state_field *table, uint16_t version,
                         char *object, struct error *err)
{
    uint64_t end;

    for (const struct state_field *f = table; f && f->name; f++) {
        const uint8_t *bytes;
        int r;

        if (f->since > version)
            continue;
        r = load_head(b, f, err);
        if (r < 0)
            return r;
        if (f->table) {
            for (uint32_t i = 0; i < f->count; i++) {
                char *element = object ? object + f->offset + (size_t)i * f->size : NULL;

                r = load_sequence(b, f->table, version, element, err);
                if (r < 0)
                    return error_prefix(err, r, "%s[%u]: ", f->name, i);
            }
            continue;
        }
        bytes = take(b, (size_t)f->size * f->count);
        if (!bytes)
            return truncated(err, f->name);
        for (uint32_t i = 0; f->boolean && i < f->count; i++)
            if (bytes[i] > 1)
                return error_set(err, EINVAL, "field '%s': %u is neither 0 nor 1", f->name,
                                 bytes[i]);
        if (object)
            memcpy(object + f->offset, bytes, (size_t)f->size * f->count);
    }
    if (!take_number(b, 1, &end))
        return error_set(err, EINVAL, "the state ends before its end mark");
    if (end)
        return error_set(err, EINVAL, "a field that is not known follows the last one");
    return 0;
}

int state_load(struct state_buffer *b, const struct state_field *table, uint16_t version,
               void *object, struct error *err)
{
    size_t start = b->position, fields;
    uint64_t stream_version;
    int r;

    if (!take_number(b, 2, &stream_version))
        return truncated(err, "version");
    if (stream_version > version) {
        b->position = start;
        return error_set(err, EINVAL,
                         "state of version %" PRIu64 ", but only versions up to %u are known: a "
                         "newer hospes wrote it",
                         stream_version, version);
    }
    fields = b->position;
    r = load_sequence(b, table, (uint16_t)stream_version, NULL, err);
    if (r < 0) {
        b->position = start;
        return r;
    }
    b->position = fields;
    r = load_sequence(b, table, (uint16_t)stream_version, object, NULL);
    assert(!r);
    return 0;
}

/* ---- devices --------------------------------------------------------------------------------- */

void state_save_device(struct state_buffer *b, struct device *dev)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->type->before_save)
        dev->type->before_save(dev);
    state_save(b, dev->type->state, dev->type->state_version, dev);
    pthread_mutex_unlock(&dev->lock);
}

int state_load_device(struct state_buffer *b, struct device *dev, struct error *err)
{
    int r;

    pthread_mutex_lock(&dev->lock);
    r = state_load(b, dev->type->state, dev->type->state_version, dev, err);
    if (!r && dev->type->refresh)
        dev->type->refresh(dev);
    pthread_mutex_unlock(&dev->lock);
    return r < 0 ? error_prefix(err, r, "device '%s': ", dev->id) : 0;
}

/* ---- for people ------------------------------------------------------------------------------ */

static void print_fields(FILE *out, const char *prefix, const struct state_field *table,
                         const char *object)
{
    for (const struct state_field *f = table; f && f->name; f++) {
        const char *field = object + f->offset;

        if (!f->table) {
            fprintf(out, "%s%s:", prefix, f->name);
            for (uint32_t i = 0; i < f->count; i++) {
                const uint8_t *element = (const uint8_t *)field + (size_t)i * f->size;

                fputs(" 0x", out);
                for (uint32_t byte = f->size; byte-- > 0;)
                    fprintf(out, "%02x", element[byte]);
            }
            fputc('\n', out);
            continue;
        }
        for (uint32_t i = 0; i < f->count; i++) {
            auto_free char *inner = f->count > 1 ? xasprintf("%s%s[%u].", prefix, f->name, i)
                                                 : xasprintf("%s%s.", prefix, f->name);

            print_fields(out, inner, f->table, field + (size_t)i * f->size);
        }
    }
}

void state_print(FILE *out, const struct state_field *table, const void *object)
{
    print_fields(out, "", table, object);
}
