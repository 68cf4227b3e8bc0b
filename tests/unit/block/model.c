/*
 * model.c - see model.h. What a cut may leave is known for each sector: the value at the last flush
 * that was over by then, or one that a request begun later gave it.
 */
#include "support/unit.h"

#include "unit/block/model.h"

#include <stdio.h>

enum { CHANGES_MAX = 1 << 20, LONGEST = 96 };

static uint64_t state;

static uint64_t next(void)
{
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
    return next() % n;
}

/* What a request did, and between which events of the host's file. */
struct change {
    size_t begin, end;
    uint32_t sector, count;
    uint64_t value; /* of the first sector, counting up; 0: zeros. Flush: count 0 */
    bool maybe;     /* a discard: zeros, or as it was */
};

struct run {
    const struct model_setup *s;
    struct memory_file file, backing;
    struct block_node *n;
    uint64_t *now; /* each sector's value */
    uint64_t sectors, stamp;
    struct change *change;
    size_t changes;
};

static void fill(uint8_t *p, uint64_t sectors, uint64_t value)
{
    for (uint64_t i = 0; i < sectors; i++)
        for (unsigned k = 0; k < BLOCK_SECTOR; k += 8)
            store_le(p + BLOCK_SECTOR * i + k, value ? value + i : 0, 8);
}

static uint64_t value_of(const uint8_t *p)
{
    uint64_t v = load_le(p, 8);

    for (unsigned k = 8; k < BLOCK_SECTOR; k += 8)
        if (load_le(p + k, 8) != v)
            return UINT64_MAX; /* torn */
    return v;
}

static struct block_node *open_image(struct run *r, struct memory_file *f, unsigned flags)
{
    struct error err = {0};
    struct block_node *file, *n, *backing;

    file = memory_file_open(f, BLOCK_WRITE);
    n = block_open_over(file, r->s->format,
                        BLOCK_WRITE | BLOCK_UNMAP | BLOCK_NO_BACKING | r->s->flags | flags, &err);
    if (!n)
        fail_msg("cannot open: %s", err.text);
    if (r->s->backed) {
        backing = block_open_over(memory_file_open(&r->backing, 0), "qcow2", 0, &err);
        if (!backing)
            fail_msg("cannot open the backing file: %s", err.text);
        n->backing = backing;
    }
    return n;
}

static void make_backing(struct run *r)
{
    struct block_create c = {.size = align_down(r->s->size * 3 / 4, BLOCK_SECTOR),
                             .filename = "backing",
                             .options = "cluster_size=4096"};
    struct error err = {0};
    struct block_node *file = memory_file_open(&r->backing, BLOCK_WRITE), *n;
    uint8_t buffer[8 * BLOCK_SECTOR];

    assert_int_equal(block_driver_find("qcow2")->create(file, &c, &err), 0);
    n = block_open_over(file, "qcow2", BLOCK_WRITE, &err);
    assert_non_null(n);
    for (uint64_t s = 0; s + 8 <= c.size / BLOCK_SECTOR; s += 8)
        if (below(3)) {
            fill(buffer, 8, BIT(40) + s);
            assert_int_equal(block_write(n, s * BLOCK_SECTOR, buffer, sizeof(buffer)), 0);
            for (unsigned i = 0; i < 8; i++)
                r->now[s + i] = BIT(40) + s + i;
        }
    block_close(n);
}

static void setup(struct run *r, const struct model_setup *s, uint64_t seed)
{
    struct block_create c = {.size = s->size, .options = s->options, .filename = "memory"};
    struct error err = {0};
    struct block_node *file;
    int result;

    state = seed + (getenv("MODEL_SEED") ? strtoull(getenv("MODEL_SEED"), NULL, 0) << 32 : 0);
    *r = (struct run){.s = s, .sectors = s->size / BLOCK_SECTOR, .stamp = 1};
    memory_file_init(&r->file);
    memory_file_init(&r->backing);
    r->now = xcalloc(r->sectors, sizeof(*r->now));
    r->change = xcalloc(CHANGES_MAX, sizeof(*r->change));
    if (s->backed) {
        make_backing(r);
        c.backing = "backing";
        c.backing_format = "qcow2";
    }
    file = memory_file_open(&r->file, BLOCK_WRITE);
    result = block_driver_find(s->format)->create(file, &c, &err);
    if (result < 0)
        fail_msg("cannot make: %s", err.text);
    block_close(file);
}

static void teardown(struct run *r)
{
    memory_file_free(&r->file);
    memory_file_free(&r->backing);
    free(r->now);
    free(r->change);
}

static void check_content(struct run *r, struct block_node *n, uint64_t sector, uint64_t count,
                          const uint64_t *want)
{
    uint8_t *buffer = malloc(count * BLOCK_SECTOR);
    int result = block_read(n, sector * BLOCK_SECTOR, buffer, count * BLOCK_SECTOR);

    if (result)
        fail_msg("read of sector %llu, %llu: %s", (unsigned long long)sector,
                 (unsigned long long)count, strerror(-result));
    for (uint64_t i = 0; i < count; i++)
        if (value_of(buffer + i * BLOCK_SECTOR) != want[sector + i])
            fail_msg("sector %llu is %llx, not %llx", (unsigned long long)(sector + i),
                     (unsigned long long)value_of(buffer + i * BLOCK_SECTOR),
                     (unsigned long long)want[sector + i]);
    free(buffer);
}

/* The map agrees with what reading says. */
static void check_map(struct run *r, uint64_t sector, uint64_t count)
{
    struct block_extent e;
    uint8_t buffer[BLOCK_SECTOR];

    assert_int_equal(block_map(r->n, sector * BLOCK_SECTOR, count * BLOCK_SECTOR,
                               below(2) ? BLOCK_MAP_WRITE : 0, &e),
                     0);
    assert_true(e.length >= 1 && e.length <= count * BLOCK_SECTOR);
    if (e.kind == BLOCK_ZERO) {
        assert_int_equal(r->now[sector], 0);
    } else if (e.kind == BLOCK_DATA) {
        assert_true(e.file->driver->protocol);
        assert_int_equal(block_read(e.file, e.offset, buffer, sizeof(buffer)), 0);
        assert_int_equal(value_of(buffer), r->now[sector]);
        assert_int_equal(block_read(e.file, e.offset + align_down(e.length - 1, BLOCK_SECTOR),
                                    buffer, sizeof(buffer)),
                         0);
        assert_int_equal(value_of(buffer), r->now[sector + (e.length - 1) / BLOCK_SECTOR]);
    }
}

static void set_now(struct run *r, uint64_t sector, uint64_t count, uint64_t value)
{
    for (uint64_t i = 0; i < count; i++)
        r->now[sector + i] = value ? value + i : 0;
}

static struct change *begin(struct run *r, uint64_t sector, uint64_t count, uint64_t value)
{
    struct change *c = &r->change[r->changes++];

    assert_true(r->changes < CHANGES_MAX);
    *c = (struct change){.begin = r->file.events,
                         .sector = (uint32_t)sector,
                         .count = (uint32_t)count,
                         .value = value};
    return c;
}

static void flush(struct run *r)
{
    struct change *c = begin(r, 0, 0, 0);

    assert_int_equal(block_flush(r->n), 0);
    c->end = r->file.events;
}

static void write_some(struct run *r, uint64_t sector, uint64_t count, bool compressed)
{
    uint8_t *buffer = malloc(count * BLOCK_SECTOR);
    struct change *c;
    int result;

    fill(buffer, count, r->stamp);
    c = begin(r, sector, count, r->stamp);
    result = compressed
                 ? block_write_compressed(r->n, sector * BLOCK_SECTOR, buffer, count * BLOCK_SECTOR)
                 : block_write(r->n, sector * BLOCK_SECTOR, buffer, count * BLOCK_SECTOR);
    if (result)
        fail_msg("write of sector %llu, %llu: %s", (unsigned long long)sector,
                 (unsigned long long)count, strerror(-result));
    c->end = r->file.events;
    set_now(r, sector, count, r->stamp);
    r->stamp += count;
    free(buffer);
}

static uint64_t cluster_sectors(struct run *r)
{
    struct block_info info = {0};

    if (!r->n->driver->info || r->n->driver->info(r->n, &info) < 0 || !info.cluster_size)
        return 1;
    return info.cluster_size / BLOCK_SECTOR;
}

/* One random request. */
static void step(struct run *r)
{
    uint64_t align = r->s->align ? r->s->align / BLOCK_SECTOR : 1;
    uint64_t sector = below(r->sectors) / align * align, cluster, count;
    struct change *c;

    if (below(4) == 0)
        sector = 0; /* often the same place */
    if (below(8) == 0)
        sector = r->sectors - align * (1 + below(4));
    count = align * (1 + below(below(3) ? 8 : LONGEST));
    count = MIN(count, r->sectors - sector);
    switch (below(r->s->compressed ? 16 : 14)) {
    case 0: flush(r); break;
    case 1:
        c = begin(r, sector, count, 0);
        assert_int_equal(block_discard(r->n, sector * BLOCK_SECTOR, count * BLOCK_SECTOR), 0);
        c->end = r->file.events;
        c->maybe = true;
        { /* what a discard leaves is up to the format: look, and hold it to that */
            uint8_t *b = malloc(count * BLOCK_SECTOR);

            assert_int_equal(block_read(r->n, sector * BLOCK_SECTOR, b, count * BLOCK_SECTOR), 0);
            for (uint64_t i = 0; i < count; i++) {
                uint64_t v = value_of(b + i * BLOCK_SECTOR);

                assert_true(v == 0 || v == r->now[sector + i]);
                r->now[sector + i] = v;
            }
            free(b);
        }
        break;
    case 2:
    case 3:
        c = begin(r, sector, count, 0);
        assert_int_equal(
            block_write_zeroes(r->n, sector * BLOCK_SECTOR, count * BLOCK_SECTOR, below(2)), 0);
        c->end = r->file.events;
        set_now(r, sector, count, 0);
        break;
    case 4:
    case 5: check_content(r, r->n, sector, count, r->now); break;
    case 6: check_map(r, sector, count); break;
    case 14:
    case 15:
        cluster = cluster_sectors(r);
        sector = sector / cluster * cluster;
        count = cluster * (1 + below(3));
        count = MIN(count, r->sectors - sector);
        write_some(r, sector, count, true);
        break;
    default: write_some(r, sector, count, false);
    }
}

static void snapshot_step(struct run *r, uint64_t **saved, unsigned *count)
{
    struct error err = {0};
    char name[16];
    struct change *c;
    int result;

    switch (*count < 4 ? below(3) : 2) {
    case 0:
    case 1:
        snprintf(name, sizeof(name), "s%u", *count);
        flush(r);
        result = r->n->driver->snapshot_create(r->n, name, &err);
        if (result)
            fail_msg("%s", err.text);
        flush(r);
        saved[*count] = malloc(r->sectors * 8);
        memcpy(saved[*count], r->now, r->sectors * 8);
        ++*count;
        break;
    default:
        if (!*count)
            break;
        snprintf(name, sizeof(name), "s%u", *count - 1);
        if (below(2)) {
            c = &r->change[r->changes];
            for (uint64_t i = 0; i < r->sectors; i++) {
                c = begin(r, i, 1, saved[*count - 1][i]);
                c->end = SIZE_MAX; /* filled below */
            }
            result = r->n->driver->snapshot_apply(r->n, name, &err);
            if (result)
                fail_msg("%s", err.text);
            for (uint64_t i = 0; i < r->sectors; i++)
                r->change[r->changes - 1 - i].end = r->file.events;
            memcpy(r->now, saved[*count - 1], r->sectors * 8);
        }
        flush(r);
        --*count;
        free(saved[*count]);
        result = r->n->driver->snapshot_delete(r->n, name, &err);
        if (result)
            fail_msg("%s", err.text);
        flush(r);
    }
}

static void tell(void *opaque, const char *text)
{
    char *all = opaque;
    size_t used = strlen(all);

    if (used < 1500)
        snprintf(all + used, 2000 - used, "%s; ", text);
}

static void check_image(struct block_node *n, unsigned fix, bool leaks_allowed, bool repair_allowed,
                        bool careful)
{
    char text[2000] = "";
    struct block_check c = {.fix = fix, .tell = tell, .opaque = text};
    struct error err = {0};

    if (!n->driver->check)
        return;
    if (block_check(n, &c, &err) < 0)
        fail_msg("check: %s", err.text);
    /* A cut among a snapshot's steps may leave a flag that is too careful, and no more. */
    if (careful && (strstr(text, "corrupt cluster") || strstr(text, "COPIED is set")))
        fail_msg("check: %s", text);
    if (c.errors || (c.corruptions && !repair_allowed) || (c.leaks && !leaks_allowed))
        fail_msg("check: %llu errors, %llu corruptions, %llu leaks: %s",
                 (unsigned long long)c.errors, (unsigned long long)c.corruptions,
                 (unsigned long long)c.leaks, text);
}

static void use(struct run *r, unsigned steps, bool reopen)
{
    uint64_t *saved[8];
    unsigned count = 0;

    for (unsigned i = 0; i < steps; i++) {
        step(r);
        if (r->s->snapshots && below(25) == 0)
            snapshot_step(r, saved, &count);
        if (reopen && below(60) == 0) {
            block_close(r->n);
            r->n = open_image(r, &r->file, 0);
        }
    }
    while (count) {
        struct error err = {0};
        char name[16];

        free(saved[--count]);
        snprintf(name, sizeof(name), "s%u", count);
        if (r->n->driver->snapshot_delete(r->n, name, &err) < 0)
            fail_msg("%s", err.text);
    }
}

void model_run(const struct model_setup *s, uint64_t seed, unsigned steps)
{
    struct run r;

    setup(&r, s, seed);
    r.n = open_image(&r, &r.file, 0);
    use(&r, steps, true);
    check_content(&r, r.n, 0, r.sectors, r.now);
    check_image(r.n, 0, false, false, false);
    block_close(r.n);
    r.n = open_image(&r, &r.file, 0);
    check_content(&r, r.n, 0, r.sectors, r.now);
    check_image(r.n, 0, false, false, false);
    block_close(r.n);
    teardown(&r);
}

/* Is `value` one that the sector may have when the power fails after `events` events? */
static bool possible(const struct run *r, const uint64_t *start, uint32_t sector, uint64_t value,
                     size_t events)
{
    size_t from = 0;
    bool found;

    for (size_t i = 0; i < r->changes; i++) /* the last flush that was over */
        if (!r->change[i].count && r->change[i].end <= events)
            from = i;
    found = value == start[sector];
    for (size_t i = 0; i < r->changes && r->change[i].begin <= events; i++) {
        const struct change *c = &r->change[i];
        bool hit;

        if (!c->count || sector < c->sector || sector >= c->sector + c->count)
            continue;
        hit = value ==
              (c->value ? c->value + (r->change[i].count > 1 ? sector - c->sector : 0) : 0);
        if (i < from)
            found = hit || (c->maybe && found);
        else
            found |= hit;
    }
    return found;
}

static void check_cut(struct run *r, const uint64_t *start, struct memory_file *f, size_t events)
{
    struct block_node *n = open_image(r, f, 0);
    uint8_t *buffer = malloc(r->s->size);
    uint64_t *values = malloc(r->sectors * 8);
    int result;

    check_image(n, 0, r->s->leaks, r->s->repaired || r->s->snapshots, r->s->snapshots);
    check_image(n, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, r->s->leaks,
                r->s->repaired || r->s->snapshots, r->s->snapshots);
    check_image(n, 0, false, false, false);
    result = block_read(n, 0, buffer, r->s->size);
    if (result)
        fail_msg("cut at %zu: read: %s", events, strerror(-result));
    for (uint64_t i = 0; i < r->sectors; i++) {
        values[i] = value_of(buffer + i * BLOCK_SECTOR);
        if (!possible(r, start, (uint32_t)i, values[i], events))
            fail_msg("cut at %zu: sector %llu is %llx, which it may not be", events,
                     (unsigned long long)i, (unsigned long long)values[i]);
    }
    /* The image is good for more: what is written now harms nothing else. */
    for (unsigned k = 0; k < 6; k++) {
        uint64_t at = below(r->sectors - 8), stamp = BIT(50) + 100 * k;

        fill(buffer, 8, stamp);
        assert_int_equal(block_write(n, at * BLOCK_SECTOR, buffer, 8 * BLOCK_SECTOR), 0);
        for (unsigned i = 0; i < 8; i++)
            values[at + i] = stamp + i;
    }
    check_content(r, n, 0, r->sectors, values);
    check_image(n, 0, false, false, false);
    block_close(n);
    n = open_image(r, f, 0);
    check_content(r, n, 0, r->sectors, values);
    check_image(n, 0, false, false, false);
    block_close(n);
    free(buffer);
    free(values);
}

void model_cut(const struct model_setup *s, uint64_t seed, unsigned steps, unsigned every)
{
    struct memory_file before, cut;
    uint64_t *start;
    struct run r;
    size_t events;

    setup(&r, s, seed);
    memory_file_init(&before);
    memory_file_init(&cut);
    r.n = open_image(&r, &r.file, 0);
    use(&r, 20, false); /* something is there already */
    block_close(r.n);
    memory_file_copy(&before, &r.file);
    start = malloc(r.sectors * 8);
    memcpy(start, r.now, r.sectors * 8);
    r.changes = 0;
    memory_file_record(&r.file);
    r.n = open_image(&r, &r.file, 0);
    use(&r, steps, false);
    flush(&r);
    block_close(r.n);
    r.file.recording = false;
    events = r.file.events;
    assert_true(events > steps / 4);
    for (size_t i = below(every) + 1; i <= events; i += every) {
        memory_file_cut(&r.file, &before, i, NULL, &cut);
        check_cut(&r, start, &cut, i);
        for (unsigned k = 0; k < 2; k++) {
            memory_file_cut(&r.file, &before, i, next, &cut);
            check_cut(&r, start, &cut, i);
        }
    }
    free(start);
    memory_file_free(&before);
    memory_file_free(&cut);
    teardown(&r);
}

/* Requests without a look at their results. Those that fail may have done a part. */
static void use_carelessly(struct run *r, unsigned steps)
{
    uint8_t *buffer = malloc(LONGEST * BLOCK_SECTOR);

    for (unsigned i = 0; i < steps; i++) {
        uint64_t sector = below(r->sectors - LONGEST), count = 1 + below(LONGEST);
        struct change *c;

        switch (below(6)) {
        case 0:
            c = begin(r, 0, 0, 0);
            c->end = block_flush(r->n) == 0 ? r->file.events : SIZE_MAX;
            break;
        case 1:
            c = begin(r, sector, count, 0);
            c->maybe = true;
            block_write_zeroes(r->n, sector * BLOCK_SECTOR, count * BLOCK_SECTOR, below(2));
            break;
        case 2:
            c = begin(r, sector, count, 0);
            c->maybe = true;
            block_discard(r->n, sector * BLOCK_SECTOR, count * BLOCK_SECTOR);
            break;
        default:
            fill(buffer, count, r->stamp);
            c = begin(r, sector, count, r->stamp);
            c->maybe = true;
            r->stamp += count;
            if (block_write(r->n, sector * BLOCK_SECTOR, buffer, count * BLOCK_SECTOR) == 0)
                c->maybe = false;
        }
    }
    free(buffer);
}

void model_fail(const struct model_setup *s, uint64_t seed, unsigned steps)
{
    for (unsigned k = 0; k < 15; k++) {
        struct memory_file after;
        uint64_t *start;
        struct run r;

        setup(&r, s, seed + k);
        start = xcalloc(r.sectors, 8);
        memcpy(start, r.now, r.sectors * 8);
        r.n = open_image(&r, &r.file, 0);
        memory_file_record(&r.file);
        use_carelessly(&r, 10);
        r.file.fail_after = (int)below(steps);
        r.file.fail_again = below(2);
        use_carelessly(&r, steps);
        block_close(r.n);
        memory_file_init(&after);
        memory_file_copy(&after, &r.file);
        check_cut(&r, start, &after, r.file.events);
        memory_file_free(&after);
        free(start);
        teardown(&r);
    }
}
