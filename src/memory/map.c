/*
 * map.c - see map.h.
 *
 * Readers take a read lock for the search only; the region found is kept alive by a reference
 * count while its hook runs, so a hook may remove regions, its own included. The flat view is
 * rebuilt whole at commit: maps have some dozens of regions and change rarely.
 */
#include "memory/map.h"

#include "base/log.h"
#include "memory/ram.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

struct region {
    struct memory_map *map;
    struct region *next; /* all regions, newest first */
    char *name;
    atomic_int refs;
    gpa base;
    uint64_t size;
    int priority;
    unsigned visibility;
    bool enabled;
    /* RAM and ROM */
    struct ram_block *block;
    uint64_t block_offset;
    bool writable;
    /* I/O */
    const struct io_ops *ops;
    struct device *dev;
    pthread_mutex_t *lock;
};

struct section {
    gpa base, last;
    struct region *region;
};

struct flat {
    struct section *sections;
    size_t count;
};

struct memory_map {
    char *name;
    uint64_t limit;
    pthread_rwlock_t lock;       /* guards all below */
    pthread_mutex_t change_lock; /* a change and its listeners, one at a time; recursive */
    unsigned depth;              /* memory_begin() nesting, under change_lock */
    bool pending;
    struct region *regions;
    struct flat flat[VIEW_COUNT];
    struct memory_listener *listeners; /* changed only while no vCPU runs */
};

static void region_unref(struct region *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    free(r->name);
    free(r);
}

struct memory_map *memory_map_new(const char *name, uint64_t limit)
{
    struct memory_map *m = xcalloc(1, sizeof(*m));
    pthread_mutexattr_t attr;

    m->name = xstrdup(name);
    m->limit = limit;
    pthread_rwlock_init(&m->lock, NULL);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&m->change_lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return m;
}

void memory_map_free(struct memory_map *m)
{
    if (!m)
        return;
    while (m->regions) {
        struct region *r = m->regions;

        m->regions = r->next;
        region_unref(r);
    }
    for (unsigned v = 0; v < VIEW_COUNT; v++)
        free(m->flat[v].sections);
    pthread_rwlock_destroy(&m->lock);
    pthread_mutex_destroy(&m->change_lock);
    free(m->name);
    free(m);
}

/* Put a section into a flat view, keeping what is already there: higher priorities come first. */
static void flat_insert(struct flat *f, struct region *r)
{
    gpa base = r->base, last = r->base + (r->size - 1);
    size_t i = 0;

    while (i < f->count && f->sections[i].last < base)
        i++;
    for (;;) {
        gpa end = last;
        bool more = false;

        if (i < f->count && f->sections[i].base <= end) {
            if (f->sections[i].base <= base) { /* covered: go on behind it */
                if (f->sections[i].last >= last)
                    return;
                base = f->sections[i++].last + 1;
                continue;
            }
            end = f->sections[i].base - 1;
            more = true;
        }
        f->sections = realloc(f->sections, (f->count + 1) * sizeof(*f->sections));
        assert(f->sections);
        memmove(&f->sections[i + 1], &f->sections[i], (f->count - i) * sizeof(*f->sections));
        f->sections[i++] = (struct section){base, end, r};
        f->count++;
        if (!more)
            return;
        base = end + 1;
    }
}

static int by_priority(const void *a, const void *b)
{
    int x = (*(struct region *const *)a)->priority, y = (*(struct region *const *)b)->priority;

    return x > y ? -1 : x < y;
}

static void rebuild_locked(struct memory_map *m)
{
    struct region **all;
    size_t count = 0, n = 0;

    for (struct region *r = m->regions; r; r = r->next)
        count++;
    all = xcalloc(count, sizeof(struct region *));
    for (struct region *r = m->regions; r; r = r->next)
        all[n++] = r;
    qsort(all, count, sizeof(struct region *), by_priority);
    for (unsigned v = 0; v < VIEW_COUNT; v++) {
        free(m->flat[v].sections);
        m->flat[v] = (struct flat){0};
        for (n = 0; n < count; n++)
            if (all[n]->enabled && all[n]->visibility & 1u << v &&
                range_within(all[n]->base, all[n]->size, m->limit))
                flat_insert(&m->flat[v], all[n]);
    }
    free(all);
}

void memory_begin(struct memory_map *m)
{
    pthread_mutex_lock(&m->change_lock);
    m->depth++;
}

void memory_commit(struct memory_map *m)
{
    assert(m->depth);
    if (m->depth == 1 && m->pending) {
        m->pending = false;
        pthread_rwlock_wrlock(&m->lock);
        rebuild_locked(m);
        pthread_rwlock_unlock(&m->lock);
        for (struct memory_listener *l = m->listeners; l; l = l->next)
            l->changed(l);
    }
    m->depth--;
    pthread_mutex_unlock(&m->change_lock);
}

static void region_insert(struct memory_map *m, struct region *r)
{
    memory_begin(m);
    pthread_rwlock_wrlock(&m->lock);
    r->next = m->regions;
    m->regions = r;
    pthread_rwlock_unlock(&m->lock);
    m->pending = true;
    memory_commit(m);
}

static struct region *region_new(struct memory_map *m, const char *name, gpa base, uint64_t size,
                                 int priority, unsigned visibility)
{
    struct region *r = xcalloc(1, sizeof(*r));

    r->map = m;
    r->name = xstrdup(name);
    r->refs = 1;
    r->base = base;
    r->size = size;
    r->priority = priority;
    r->visibility = visibility;
    r->enabled = true;
    return r;
}

static int check_range(struct memory_map *m, const char *name, gpa base, uint64_t size,
                       struct error *err)
{
    if (!size || !range_within(base, size, m->limit))
        return error_set(err, EINVAL, "%s: [%#llx, +%#llx) does not fit into the %s map", name,
                         (unsigned long long)base, (unsigned long long)size, m->name);
    return 0;
}

int memory_add_ram(struct memory_map *m, const char *name, gpa base, uint64_t size, int priority,
                   unsigned visibility, struct ram_block *block, uint64_t block_offset,
                   bool writable, struct region **out, struct error *err)
{
    struct region *r;
    int result = check_range(m, name, base, size, err);

    if (result < 0)
        return result;
    if ((base | size | block_offset) % RAM_PAGE_SIZE ||
        !range_within(block_offset, size, block->size))
        return error_set(err, EINVAL, "%s: memory at %#llx is not made of whole pages of '%s'",
                         name, (unsigned long long)base, block->name);
    r = region_new(m, name, base, size, priority, visibility);
    r->block = block;
    r->block_offset = block_offset;
    r->writable = writable;
    region_insert(m, r);
    if (out)
        *out = r;
    return 0;
}

int memory_add_io(struct memory_map *m, const char *name, gpa base, uint64_t size, int priority,
                  const struct io_ops *ops, struct device *dev, pthread_mutex_t *lock,
                  struct region **out, struct error *err)
{
    struct region *r;
    int result = check_range(m, name, base, size, err);

    if (result < 0)
        return result;
    assert(is_power_of_2(ops->min_size) && is_power_of_2(ops->max_size) &&
           ops->min_size <= ops->max_size && ops->max_size <= 8);
    r = region_new(m, name, base, size, priority, IN_ALL);
    r->ops = ops;
    r->dev = dev;
    r->lock = lock;
    region_insert(m, r);
    if (out)
        *out = r;
    return 0;
}

void memory_remove(struct region *r)
{
    struct memory_map *m;

    if (!r)
        return;
    m = r->map;
    memory_begin(m);
    pthread_rwlock_wrlock(&m->lock);
    for (struct region **p = &m->regions; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            break;
        }
    rebuild_locked(m); /* at once: no view may point at it any more */
    pthread_rwlock_unlock(&m->lock);
    m->pending = true;
    memory_commit(m);
    region_unref(r);
}

void memory_place(struct region *r, gpa base, bool enabled)
{
    struct memory_map *m = r->map;

    memory_begin(m);
    pthread_rwlock_wrlock(&m->lock);
    if (r->base != base || r->enabled != enabled)
        m->pending = true;
    r->base = base;
    r->enabled = enabled;
    if (m->pending)
        rebuild_locked(m); /* views hold pointers to regions whose range just changed */
    pthread_rwlock_unlock(&m->lock);
    memory_commit(m);
}

void memory_set_writable(struct region *r, bool writable)
{
    struct memory_map *m = r->map;

    memory_begin(m);
    pthread_rwlock_wrlock(&m->lock);
    if (r->writable != writable)
        m->pending = true;
    r->writable = writable;
    pthread_rwlock_unlock(&m->lock);
    memory_commit(m);
}

void memory_set_visibility(struct region *r, unsigned visibility)
{
    struct memory_map *m = r->map;

    memory_begin(m);
    pthread_rwlock_wrlock(&m->lock);
    if (r->visibility != visibility)
        m->pending = true;
    r->visibility = visibility;
    pthread_rwlock_unlock(&m->lock);
    memory_commit(m);
}

gpa memory_region_base(const struct region *r)
{
    return r->base;
}

/* The section that holds `address`, or NULL and in *gap how many bytes nobody answers for. */
static struct section *find_locked(struct memory_map *m, enum memory_view view, gpa address,
                                   uint64_t *gap)
{
    struct flat *f = &m->flat[view];
    size_t low = 0, high = f->count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (f->sections[mid].last < address)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < f->count && f->sections[low].base <= address)
        return &f->sections[low];
    *gap = (low < f->count ? f->sections[low].base : MAX(m->limit, address + 1)) - address;
    return NULL;
}

static void fill_target(const struct section *s, gpa address, struct memory_target *out)
{
    struct region *r = s->region;

    *out = (struct memory_target){.length = s->last - address + 1, .io = r->ops != NULL};
    if (r->block) {
        out->block = r->block;
        out->offset = r->block_offset + (address - r->base);
        out->writable = r->writable;
    }
}

void memory_lookup(struct memory_map *m, enum memory_view view, gpa address,
                   struct memory_target *out)
{
    struct section *s;
    uint64_t gap = 0;

    pthread_rwlock_rdlock(&m->lock);
    s = find_locked(m, view, address, &gap);
    if (s)
        fill_target(s, address, out);
    else
        *out = (struct memory_target){.length = gap};
    pthread_rwlock_unlock(&m->lock);
}

static uint64_t host_load(const uint8_t *p, unsigned size)
{
    switch (size) {
    case 1: return *(const volatile uint8_t *)p;
    case 2: return *(const volatile uint16_t *)p;
    case 4: return *(const volatile uint32_t *)p;
    default: return *(const volatile uint64_t *)p;
    }
}

static void host_store(uint8_t *p, uint64_t value, unsigned size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)p = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)p = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)p = (uint32_t)value; break;
    default: *(volatile uint64_t *)p = value; break;
    }
}

/* The largest naturally aligned power of two at `address` that is at most `size` and `limit`. */
static unsigned piece_size(gpa address, unsigned size, uint64_t limit)
{
    unsigned piece = 8;

    while (piece > size || piece > limit || address & (piece - 1))
        piece /= 2;
    return piece;
}

/* One piece of an access, at most `size` bytes: returns how many bytes were handled. */
static unsigned access_piece(struct memory_map *m, enum memory_view view, gpa address,
                             uint64_t *value, unsigned size, bool write)
{
    struct region *r = NULL;
    struct memory_target t = {0};
    struct section *s;
    uint64_t gap = 0, offset = 0, in_region = 0;
    unsigned piece;

    pthread_rwlock_rdlock(&m->lock);
    s = find_locked(m, view, address, &gap);
    if (s) {
        r = s->region;
        fill_target(s, address, &t);
        offset = address - r->base;
        in_region = t.length;
        atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    }
    pthread_rwlock_unlock(&m->lock);

    if (!r) {
        piece = (unsigned)MIN(size, gap);
        if (!write)
            *value = size_mask(piece);
        return piece;
    }
    if (t.block) {
        piece = piece_size(address, size, in_region);
        if (!write) {
            *value = host_load(t.block->host + t.offset, piece);
        } else if (t.writable) {
            host_store(t.block->host + t.offset, *value, piece);
            ram_written(t.block, t.offset, piece);
        }
    } else {
        piece = piece_size(offset, MIN(size, r->ops->max_size), in_region);
        if (piece < r->ops->min_size) {
            log_guest("%s: access of %u bytes at offset %#llx is not supported", r->name, piece,
                      (unsigned long long)offset);
            if (!write)
                *value = size_mask(piece);
        } else {
            if (r->lock)
                pthread_mutex_lock(r->lock);
            if (write)
                r->ops->write(r->dev, offset, *value & size_mask(piece), piece);
            else
                *value = r->ops->read(r->dev, offset, piece) & size_mask(piece);
            if (r->lock)
                pthread_mutex_unlock(r->lock);
        }
    }
    region_unref(r);
    return piece;
}

uint64_t memory_read(struct memory_map *m, enum memory_view view, gpa address, unsigned size)
{
    uint64_t result = 0, part = 0;

    for (unsigned done = 0; done < size;) {
        unsigned n = access_piece(m, view, address + done, &part, size - done, false);

        result |= part << 8 * done;
        done += n;
    }
    return result;
}

void memory_write(struct memory_map *m, enum memory_view view, gpa address, uint64_t value,
                  unsigned size)
{
    for (unsigned done = 0; done < size;) {
        uint64_t part = value >> 8 * done;

        done += access_piece(m, view, address + done, &part, size - done, true);
    }
}

enum dma_kind { DMA_READ, DMA_WRITE, DMA_FILL };

static int dma_access(struct memory_map *m, gpa address, void *buffer, uint64_t length,
                      enum dma_kind kind)
{
    uint8_t *p = buffer;

    if (!range_within(address, length, m->limit))
        return -EFAULT;
    while (length) {
        struct memory_target t;
        uint64_t n;

        memory_lookup(m, VIEW_NORMAL, address, &t);
        n = MIN(length, t.length);
        if (!t.block || (kind != DMA_READ && !t.writable))
            return -EFAULT;
        if (kind == DMA_READ)
            memcpy(p, t.block->host + t.offset, n);
        else if (kind == DMA_WRITE)
            memcpy(t.block->host + t.offset, p, n);
        else
            memset(t.block->host + t.offset, *(uint8_t *)buffer, n);
        if (kind != DMA_READ)
            ram_written(t.block, t.offset, n);
        if (kind != DMA_FILL)
            p += n;
        address += n;
        length -= n;
    }
    return 0;
}

int dma_read(struct memory_map *m, gpa address, void *buffer, uint64_t length)
{
    return dma_access(m, address, buffer, length, DMA_READ);
}

int dma_write(struct memory_map *m, gpa address, const void *buffer, uint64_t length)
{
    return dma_access(m, address, (void *)buffer, length, DMA_WRITE);
}

int dma_fill(struct memory_map *m, gpa address, uint8_t byte, uint64_t length)
{
    return dma_access(m, address, &byte, length, DMA_FILL);
}

void memory_walk(struct memory_map *m, enum memory_view view,
                 bool (*visit)(void *opaque, const struct memory_section *s), void *opaque)
{
    struct memory_section *copy;
    size_t count;

    pthread_rwlock_rdlock(&m->lock);
    count = m->flat[view].count;
    copy = xcalloc(count, sizeof(*copy));
    for (size_t i = 0; i < count; i++) {
        struct section *s = &m->flat[view].sections[i];

        copy[i].name = s->region->name;
        copy[i].base = s->base;
        copy[i].size = s->last - s->base + 1;
        fill_target(s, s->base, &copy[i].target);
        atomic_fetch_add(&s->region->refs, 1); /* keeps the name */
    }
    struct region **regions = xcalloc(count, sizeof(struct region *));
    for (size_t i = 0; i < count; i++)
        regions[i] = m->flat[view].sections[i].region;
    pthread_rwlock_unlock(&m->lock);

    for (size_t i = 0; i < count; i++)
        if (!visit(opaque, &copy[i]))
            break;
    for (size_t i = 0; i < count; i++)
        region_unref(regions[i]);
    free(regions);
    free(copy);
}

void memory_listen(struct memory_map *m, struct memory_listener *l)
{
    l->next = m->listeners;
    m->listeners = l;
}

void memory_unlisten(struct memory_map *m, struct memory_listener *l)
{
    for (struct memory_listener **p = &m->listeners; *p; p = &(*p)->next)
        if (*p == l) {
            *p = l->next;
            break;
        }
}

void memory_flush(struct memory_map *m)
{
    for (struct memory_listener *l = m->listeners; l; l = l->next)
        l->flush(l);
}
