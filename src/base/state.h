/*
 * state.h - declared state: one table per struct that says which fields a snapshot carries.
 *
 * Saving, loading, comparing and showing walk the table (state/). A field is unsigned integers of
 * 1, 2, 4 or 8 bytes (bool and enums included), one or an array of them, or nested structs with
 * tables of their own. `since` is the version of the table in which the field appeared; an older
 * stream leaves it as reset left it.
 */
#ifndef BASE_STATE_H
#define BASE_STATE_H

#include "base/util.h"

struct state_field {
    const char *name; /* NULL ends the table */
    uint32_t offset;  /* in the struct */
    uint32_t size;    /* of one element, bytes */
    uint32_t count;   /* of elements */
    uint16_t since;
    bool boolean;                    /* elements are bool: loading refuses other than 0 and 1 */
    const struct state_field *table; /* elements are structs */
};

#define STATE_FIELD(type, field, elements, version)                                                  \
    {                                                                                                \
        .name = #field, .offset = offsetof(type, field),                                           \
        .size = sizeof(((type *)0)->field) / (elements), .count = (elements), .since = (version),  \
        .boolean = _Generic(((type *)0)->field, bool: true, bool *: true, default: false) \
    }
#define STATE_ONE(type, field)   STATE_FIELD(type, field, 1, 0)
#define STATE_U8(type, field)    STATE_ONE(type, field)
#define STATE_U16(type, field)   STATE_ONE(type, field)
#define STATE_U32(type, field)   STATE_ONE(type, field)
#define STATE_U64(type, field)   STATE_ONE(type, field)
#define STATE_BOOL(type, field)  STATE_ONE(type, field)
#define STATE_ARRAY(type, field) STATE_FIELD(type, field, ARRAY_SIZE(((type *)0)->field), 0)
#define STATE_STRUCT(type, field, fields)                                                          \
    {                                                                                              \
        .name = #field, .offset = offsetof(type, field), .size = sizeof(((type *)0)->field),       \
        .count = 1, .table = (fields)                                                              \
    }
#define STATE_STRUCT_ARRAY(type, field, fields)                                                    \
    {                                                                                              \
        .name = #field, .offset = offsetof(type, field), .size = sizeof(((type *)0)->field[0]),    \
        .count = ARRAY_SIZE(((type *)0)->field), .table = (fields)                                 \
    }
#define STATE_END                                                                                  \
    {                                                                                              \
        .name = NULL                                                                               \
    }

#endif
