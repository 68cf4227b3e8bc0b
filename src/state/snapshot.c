/*
 * snapshot.c - state_save_machine() and state_load_machine() of state.h.
 *
 * The file: a magic line, then sections, each a kind (1 byte), a name (1 byte of length and the
 * bytes) and a length (8 bytes) followed by that many bytes:
 *
 *   clock   guest nanoseconds, and the host's TSC at that moment
 *   cpu     by number: pending events, then the fields of cpu_state
 *   memory  of the machine's RAM: size, then pages that are not zero, each with its offset
 *   device  by id, in order of creation: its fields
 *   end
 *
 * Clock and CPUs come first because a device's refresh may look at them: a timer compares its
 * deadline with the clock, a local APIC sets its CPU's events. The TSCs of all CPUs are moved by
 * one difference, so that they go on from where they were and stay together. A machine that was
 * refused half-way is not usable: reset it or load another snapshot.
 */
#include "engine/engine.h"
#include "machine/machine.h"
#include "memory/ram.h"
#include "state/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum section_kind {
    SECTION_CLOCK = 1,
    SECTION_CPU,
    SECTION_MEMORY,
    SECTION_DEVICE,
    SECTION_END,
};

/* Edges that would be lost; INTR is a level that the local APIC sets again. */
enum { SAVED_EVENTS = CPU_EVENT_NMI | CPU_EVENT_SMI | CPU_EVENT_INIT | CPU_EVENT_SIPI };

static const char magic[16] = "hospes-state-1\n";
static const uint8_t zero_page[RAM_PAGE_SIZE];

struct cpu_extra {
    uint32_t events;
};
static const struct state_field cpu_extra_state[] = {
    STATE_U32(struct cpu_extra, events),
    STATE_END,
};

/* The host's TSC when guest time stopped: the guest's TSCs go on from there. 0 without CPUs. */
static uint64_t host_tsc(const struct machine *m)
{
    if (m->stopped_tsc && !m->running)
        return m->stopped_tsc;
    return m->cpu_count ? cpu_read_tsc(m->cpus[0]) - m->cpus[0]->tsc_offset : 0;
}

static void put_section(FILE *out, enum section_kind kind, const char *name, uint64_t length)
{
    uint8_t head[2] = {(uint8_t)kind, (uint8_t)strlen(name)};

    fwrite(head, 1, sizeof(head), out);
    fwrite(name, 1, head[1], out);
    fwrite(&length, 1, sizeof(length), out);
}

static void put_buffer(FILE *out, enum section_kind kind, const char *name, struct state_buffer *b)
{
    put_section(out, kind, name, b->size);
    fwrite(b->data, 1, b->size, out);
    state_buffer_free(b);
}

static bool page_is_zero(const struct ram_block *ram, uint64_t offset)
{
    return memcmp(ram->host + offset, zero_page, RAM_PAGE_SIZE) == 0;
}

static void save_memory(FILE *out, const struct ram_block *ram)
{
    uint64_t pages = 0;

    for (uint64_t offset = 0; offset < ram->size; offset += RAM_PAGE_SIZE)
        pages += !page_is_zero(ram, offset);
    put_section(out, SECTION_MEMORY, "ram", 8 + pages * (8 + RAM_PAGE_SIZE));
    fwrite(&ram->size, 1, 8, out);
    for (uint64_t offset = 0; offset < ram->size; offset += RAM_PAGE_SIZE)
        if (!page_is_zero(ram, offset)) {
            fwrite(&offset, 1, 8, out);
            fwrite(ram->host + offset, 1, RAM_PAGE_SIZE, out);
        }
}

int state_save_machine(FILE *out, struct machine *m, struct error *err)
{
    uint64_t now[2] = {clock_now(m->clock), host_tsc(m)};
    struct state_buffer b = {0};

    fwrite(magic, 1, sizeof(magic), out);
    put_section(out, SECTION_CLOCK, "clock", sizeof(now));
    fwrite(now, 1, sizeof(now), out);
    for (unsigned i = 0; i < m->cpu_count; i++) {
        struct cpu_extra extra = {.events = m->cpus[i]->events & SAVED_EVENTS};
        char name[16];

        snprintf(name, sizeof(name), "%u", i);
        state_save(&b, cpu_extra_state, 0, &extra);
        state_save(&b, cpu_state, 0, m->cpus[i]);
        put_buffer(out, SECTION_CPU, name, &b);
    }
    if (m->ram)
        save_memory(out, m->ram);
    for (struct device *d = m->devices; d; d = d->next) {
        if (strlen(d->id) > 255)
            return error_set(err, ENAMETOOLONG, "device '%.40s...': its name is too long to save",
                             d->id);
        state_save_device(&b, d);
        put_buffer(out, SECTION_DEVICE, d->id, &b);
    }
    put_section(out, SECTION_END, "", 0);
    if (fflush(out) || ferror(out))
        return error_set_errno(err, errno ? errno : EIO, "cannot write the state");
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int get(FILE *in, void *bytes, size_t n, struct error *err)
{
    if (fread(bytes, 1, n, in) == n)
        return 0;
    if (ferror(in))
        return error_set_errno(err, EIO, "cannot read the state");
    return error_set(err, EINVAL, "the state is cut short");
}

/* The head of the section that must come next. */
static int get_section(FILE *in, enum section_kind kind, const char *name, uint64_t *length,
                       struct error *err)
{
    char found[256] = "";
    uint8_t head[2];
    int r = get(in, head, sizeof(head), err);

    if (!r)
        r = get(in, found, head[1], err);
    if (!r)
        r = get(in, length, sizeof(*length), err);
    if (r)
        return r;
    if (head[0] != kind || head[1] != strlen(name) || memcmp(found, name, head[1]) != 0)
        return error_set(err, EINVAL,
                         "section %d '%s' expected, %u '%.*s' found: the machine must be built "
                         "with the same options",
                         (int)kind, name, head[0], (int)head[1], found);
    return 0;
}

/* A section whole. The length is only believed as far as there are bytes. */
static int get_buffer(FILE *in, enum section_kind kind, const char *name, struct state_buffer *b,
                      struct error *err)
{
    uint64_t length, chunk;
    int r = get_section(in, kind, name, &length, err);

    while (!r && b->size < length) {
        uint8_t *data;

        chunk = MIN(length - b->size, (uint64_t)MiB);
        data = realloc(b->data, b->size + chunk);
        if (!data)
            return error_set(err, ENOMEM, "section '%s': no memory for %" PRIu64 " bytes", name,
                             length);
        b->data = data;
        b->capacity = b->size + chunk;
        r = get(in, b->data + b->size, chunk, err);
        if (!r)
            b->size += chunk;
    }
    return r;
}

static int whole(const struct state_buffer *b, const char *name, struct error *err)
{
    if (b->position != b->size)
        return error_set(err, EINVAL, "section '%s': %zu bytes are left over", name,
                         b->size - b->position);
    return 0;
}

static int load_cpu(FILE *in, struct machine *m, unsigned index, uint64_t tsc_moved,
                    struct error *err)
{
    struct cpu *cpu = m->cpus[index];
    struct cpu_extra extra = {0};
    struct state_buffer b = {0};
    char name[16];
    int r;

    snprintf(name, sizeof(name), "%u", index);
    r = get_buffer(in, SECTION_CPU, name, &b, err);
    if (!r)
        r = state_load(&b, cpu_extra_state, 0, &extra, err);
    if (!r)
        r = state_load(&b, cpu_state, 0, cpu, err);
    if (!r)
        r = whole(&b, name, err);
    state_buffer_free(&b);
    if (r < 0)
        return error_prefix(err, r, "processor %u: ", index);
    cpu->events = (cpu->events & ~(uint32_t)SAVED_EVENTS) | (extra.events & SAVED_EVENTS);
    cpu->tsc_offset += tsc_moved;
    cpu_state_changed(cpu);
    if (m->engine.ops && m->engine.ops->push)
        m->engine.ops->push(&m->engine, cpu);
    return 0;
}

static int load_memory(FILE *in, struct ram_block *ram, struct error *err)
{
    uint64_t length, size, offset = 0, filled = 0;
    int r = get_section(in, SECTION_MEMORY, "ram", &length, err);

    if (!r)
        r = get(in, &size, sizeof(size), err);
    if (r < 0)
        return r;
    if (size != ram->size || length < 8 || (length - 8) % (8 + RAM_PAGE_SIZE) ||
        (length - 8) / (8 + RAM_PAGE_SIZE) > size / RAM_PAGE_SIZE)
        return error_set(err, EINVAL,
                         "memory of %" PRIu64 " bytes in a section of %" PRIu64
                         ", this machine has %" PRIu64 " bytes",
                         size, length, ram->size);
    for (length -= 8;; length -= 8 + RAM_PAGE_SIZE) {
        uint64_t next = ram->size;

        if (length) {
            r = get(in, &next, sizeof(next), err);
            if (r < 0)
                return r;
            if (next % RAM_PAGE_SIZE || next >= ram->size || next < filled)
                return error_set(err, EINVAL,
                                 "memory: there is no page %#" PRIx64 " after %#" PRIx64, next,
                                 filled);
        }
        for (offset = filled; offset < next; offset += RAM_PAGE_SIZE)
            if (!page_is_zero(ram, offset)) {
                memset(ram->host + offset, 0, RAM_PAGE_SIZE);
                ram_written(ram, offset, RAM_PAGE_SIZE);
            }
        if (!length)
            return 0;
        r = get(in, ram->host + next, RAM_PAGE_SIZE, err);
        if (r < 0)
            return r;
        ram_written(ram, next, RAM_PAGE_SIZE);
        filled = next + RAM_PAGE_SIZE;
    }
}

static int load_device(FILE *in, struct device *dev, struct error *err)
{
    struct state_buffer b = {0};
    int r = get_buffer(in, SECTION_DEVICE, dev->id, &b, err);

    if (!r)
        r = state_load_device(&b, dev, err);
    if (!r)
        r = whole(&b, dev->id, err);
    state_buffer_free(&b);
    return r;
}

static int load_clock(FILE *in, struct machine *m, uint64_t *tsc_moved, struct error *err)
{
    uint64_t length, now[2];
    int r = get_section(in, SECTION_CLOCK, "clock", &length, err);

    if (!r && length != sizeof(now))
        return error_set(err, EINVAL, "section 'clock' has %" PRIu64 " bytes, not %zu", length,
                         sizeof(now));
    if (!r)
        r = get(in, now, sizeof(now), err);
    if (r < 0)
        return r;
    clock_set(m->clock, now[0]);
    *tsc_moved = now[1] - host_tsc(m);
    return 0;
}

int state_load_machine(FILE *in, struct machine *m, struct error *err)
{
    char found[sizeof(magic)];
    uint64_t length, tsc_moved = 0;
    int r = get(in, found, sizeof(found), err);

    if (r < 0)
        return r;
    if (memcmp(found, magic, sizeof(magic)) != 0)
        return error_set(err, EINVAL, "this is not the saved state of a machine");
    r = load_clock(in, m, &tsc_moved, err);
    for (unsigned i = 0; !r && i < m->cpu_count; i++)
        r = load_cpu(in, m, i, tsc_moved, err);
    if (!r && m->ram)
        r = load_memory(in, m->ram, err);
    for (struct device *d = m->devices; !r && d; d = d->next)
        r = load_device(in, d, err);
    return r ? r : get_section(in, SECTION_END, "", &length, err);
}
