/*
 * state.h - saving and loading what the state tables declare.
 *
 * The form in memory and in files: a sequence of records, each a name, an element size, a count
 * and little-endian elements; nested structs are sequences within. Loading is strict: a wrong
 * size, count or order, a missing field that the version says must be there, or bytes left over
 * are errors that name the field, and nothing of that struct has changed then.
 */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include "base/error.h"
#include "base/state.h"

#include <stdio.h>

struct device;
struct machine;

struct state_buffer {
    uint8_t *data;
    size_t size, capacity;
    size_t position; /* of the reader */
};

void state_buffer_free(struct state_buffer *b);

/* One struct by its table. `version` goes into the stream. */
void state_save(struct state_buffer *b, const struct state_field *table, uint16_t version,
                const void *object);
int state_load(struct state_buffer *b, const struct state_field *table, uint16_t version,
               void *object, struct error *err);

/* A device: its hooks before_save and refresh are called, its lock is taken. */
void state_save_device(struct state_buffer *b, struct device *dev);
int state_load_device(struct state_buffer *b, struct device *dev, struct error *err);

/* The whole machine: clock, CPUs, devices by id, RAM (pages that are not zero). Paused only. */
int state_save_machine(FILE *out, struct machine *m, struct error *err);
int state_load_machine(FILE *in, struct machine *m, struct error *err);

/* For people: one field a line. */
void state_print(FILE *out, const struct state_field *table, const void *object);

#endif
