/*
 * cache.c - the code cache, and who knows whom in it: pages, blocks, links.
 *
 * The cache is one memfd mapped twice: once readable and writable, once readable and executable, so
 * that no page is ever both. It is filled from the front; what is invalidated stays as waste until
 * the cache is full, then everybody leaves and it starts again from nothing (a guest refills what
 * it uses within milliseconds).
 *
 * Rules an editor must keep:
 *  - A block is found by guest-physical page (by name, an index into `pages`), offset and key,
 * never by linear address. The hash is read without the lock: an entry is complete before it is put
 * in, and is only ever taken out by replacing one index.
 *  - A page that has a name has RAM_CODE set, and no vCPU of ours may keep a write entry for it in
 * a TLB when the first block is translated from it.
 *  - Code that others may be executing changes only in aligned words: the displacement of a jump
 *    never straddles eight bytes.
 *  - Order of an invalidation: out of the hash; links into it go back to their stubs; then every
 *    vCPU is told (code_gone, poll) to forget jump entries and return stacks. Until it hears, it
 * may go on in the old code, as a processor may until it serialises; the vCPU that wrote hears at
 * once.
 */
#include "translator/internal.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t size)
{
    if (p)
        munmap(p, size);
}

enum { GUARD = 64 * 1024, INSN_REACH = 14 };

/* A mapping of the memfd with inaccessible zones around it. */
static uint8_t *map_guarded(int fd, size_t size, int prot)
{
    uint8_t *all = mmap(NULL, size + 2 * GUARD, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (all == MAP_FAILED)
        return NULL;
    if (mmap(all + GUARD, size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(all, size + 2 * GUARD);
        return NULL;
    }
    return all + GUARD;
}

int cache_new(struct translator *t, struct error *err)
{
    t->size = (uint32_t)t->options.cache_size;
    t->fd = memfd_create("hospes-code", MFD_CLOEXEC);
    if (t->fd < 0 || ftruncate(t->fd, t->size) < 0)
        return error_set(err, errno, "no memory for a code cache of %u MiB: %s", t->size >> 20,
                         strerror(errno));
    t->rw = map_guarded(t->fd, t->size, PROT_READ | PROT_WRITE);
    t->rx = map_guarded(t->fd, t->size, PROT_READ | PROT_EXEC);
    t->hash = reserve(sizeof(*t->hash) << BLOCK_HASH_BITS);
    t->blocks = reserve(sizeof(*t->blocks) * MAX_BLOCKS);
    t->pages = reserve(sizeof(*t->pages) * MAX_PAGES);
    t->sites = reserve(sizeof(*t->sites) * MAX_SITES);
    t->links = reserve(sizeof(*t->links) * MAX_LINKS);
    t->faults = reserve(sizeof(*t->faults) * MAX_FAULTS);
    if (!t->rw || !t->rx || !t->hash || !t->blocks || !t->pages || !t->sites || !t->links ||
        !t->faults)
        return error_set(err, ENOMEM,
                         "the host refuses memory that can be executed, or address space for the "
                         "code cache: use --engine interp");
    t->block_count = t->page_count = t->link_count = 1; /* 0: none */
    t->site_count = SITES_FIXED;
    return 0;
}

void cache_free(struct translator *t)
{
    if (t->rw)
        munmap(t->rw - GUARD, t->size + 2 * GUARD);
    if (t->rx)
        munmap(t->rx - GUARD, t->size + 2 * GUARD);
    if (t->fd >= 0)
        close(t->fd);
    release(t->hash, sizeof(*t->hash) << BLOCK_HASH_BITS);
    release(t->blocks, sizeof(*t->blocks) * MAX_BLOCKS);
    release(t->pages, sizeof(*t->pages) * MAX_PAGES);
    release(t->sites, sizeof(*t->sites) * MAX_SITES);
    release(t->links, sizeof(*t->links) * MAX_LINKS);
    release(t->faults, sizeof(*t->faults) * MAX_FAULTS);
}

/* Room for one more block of any size? */
bool cache_full(const struct translator *t)
{
    return t->used + 64 * KiB > t->size || t->block_count + 1 >= MAX_BLOCKS ||
           t->page_count + 2 >= MAX_PAGES || t->site_count + 4096 > MAX_SITES ||
           t->link_count + 1024 > MAX_LINKS || t->fault_count + 1024 > MAX_FAULTS;
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* One name for each page of a block of RAM, in an array that costs what is used of it. */
static uint32_t *names_of(struct ram_block *ram)
{
    return ram->code_opaque;
}

static size_t names_size(const struct ram_block *ram)
{
    return (ram->size >> RAM_PAGE_BITS) * sizeof(uint32_t);
}

uint32_t page_find(struct translator *t, struct ram_block *ram, uint64_t offset)
{
    uint32_t *names = names_of(ram);

    return names ? names[offset >> RAM_PAGE_BITS] : 0;
}

/* code_written() must find the translator from the block of RAM. */
struct ram_names {
    struct translator *t;
    uint32_t name[];
};

static struct translator *the_translator_of(struct ram_block *ram)
{
    uint32_t *names = names_of(ram);

    return names ? container_of(names, struct ram_names, name[0])->t : NULL;
}

void cache_empty(struct translator *t)
{
    for (uint32_t i = 1; i < t->page_count; i++) {
        struct code_page *p = &t->pages[i];
        uint32_t *names = names_of(p->ram);

        if (names)
            names[p->offset >> RAM_PAGE_BITS] = 0;
        atomic_fetch_and(&p->ram->page_flags[p->offset >> RAM_PAGE_BITS], (unsigned char)~RAM_CODE);
    }
    memset(t->hash, 0, sizeof(*t->hash) << BLOCK_HASH_BITS);
    memset(t->pages, 0, sizeof(*t->pages) * t->page_count);
    t->block_count = t->page_count = t->link_count = 1;
    t->site_count = SITES_FIXED;
    t->fault_count = 0;
    t->used = t->first;
    t->stats.flushes++;
}

static void drop_writes_elsewhere(struct translator *t, struct bt_cpu *c)
{
    for (unsigned i = 0; i < t->cpu_count; i++)
        if (t->cpus[i] != c) {
            cpu_post(t->cpus[i]->cpu, CPU_EVENT_FLUSH);
        }
}

/* Does another vCPU still have to hear of the flush? */
static bool others_hold_writes(struct translator *t, struct bt_cpu *c)
{
    for (unsigned i = 0; i < t->cpu_count; i++) {
        struct bt_cpu *o = t->cpus[i];

        if (o != c && o->inside && !o->flushing && (atomic_load(&o->cpu->events) & CPU_EVENT_FLUSH))
            return true;
    }
    return false;
}

/* Names the page and sees that writes to it are noticed. 0: not yet, for other vCPUs may still
 * write without anybody noticing; ask again later. */
uint32_t page_make(struct translator *t, struct bt_cpu *c, struct ram_block *ram, uint64_t offset,
                   uint32_t *out)
{
    uint32_t *names = names_of(ram), name;
    atomic_uchar *flags = &ram->page_flags[offset >> RAM_PAGE_BITS];
    struct code_page *p;

    if (!names) {
        struct ram_names *n = reserve(sizeof(*n) + names_size(ram));

        if (!n)
            return 0;
        n->t = t;
        ram->code_opaque = names = n->name;
        ram->code_written = code_written;
    }
    name = names[offset >> RAM_PAGE_BITS];
    if (!(atomic_fetch_or(flags, RAM_CODE) & RAM_CODE)) {
        if (atomic_fetch_and(flags, (unsigned char)~RAM_WRITE_CACHED) & RAM_WRITE_CACHED) {
            mmu_drop_writes(c->cpu, ram->host + (offset & ~UINT64_C(0xfff)));
            drop_writes_elsewhere(t, c);
        }
    }
    if (others_hold_writes(t, c))
        return 0;
    if (!name) {
        name = t->page_count++;
        p = &t->pages[name];
        *p = (struct code_page){.ram = ram, .offset = offset & ~UINT64_C(0xfff)};
        names[offset >> RAM_PAGE_BITS] = name;
    }
    *out = name;
    return name;
}

/* ---- blocks --------------------------------------------------------------------------------- */

static uint32_t hash_of(uint32_t page, unsigned offset, uint32_t key)
{
    uint64_t h = ((uint64_t)page << 12 | offset) * UINT64_C(0x9e3779b97f4a7c15) ^
                 (uint64_t)key * UINT64_C(0xc2b2ae3d27d4eb4f);

    return (uint32_t)(h >> (64 - BLOCK_HASH_BITS));
}

struct block *block_find(struct translator *t, uint32_t page, unsigned offset, uint32_t key)
{
    uint32_t i = __atomic_load_n(&t->hash[hash_of(page, offset, key)], __ATOMIC_ACQUIRE);

    while (i) {
        struct block *b = &t->blocks[i];

        if (b->page == page && b->offset == offset && b->key == key)
            return b;
        i = __atomic_load_n(&b->next, __ATOMIC_ACQUIRE);
    }
    return NULL;
}

void block_insert(struct translator *t, struct block *b)
{
    uint32_t *head = &t->hash[hash_of(b->page, b->offset, b->key)];
    struct code_page *p = &t->pages[b->page];
    uint32_t i = (uint32_t)(b - t->blocks);

    b->valid = true;
    b->next = *head;
    b->next_in_page = p->blocks;
    p->blocks = i;
    if (b->page2) {
        b->next_in_page2 = t->pages[b->page2].crossers;
        t->pages[b->page2].crossers = i;
    }
    for (unsigned at = b->offset & ~63u; at < b->offset + b->length && at < 4096; at += 64)
        p->granules |= BIT(at >> 6);
    __atomic_store_n(head, i, __ATOMIC_RELEASE);
}

static void patch32(struct translator *t, uint32_t at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)cache_rw(t, at), value, __ATOMIC_RELEASE);
}

/* `page_check` gates the jump: closed first, opened last. */
static void unlink_one(struct translator *t, struct link *l)
{
    if (l->page_check)
        patch32(t, l->page_check, UINT32_MAX);
    patch32(t, l->patch, l->stub - (l->patch + 4));
    l->to = 0;
}

void link_blocks(struct translator *t, struct link *l, struct block *to)
{
    uint32_t target = l->saved ? to->entry_saved : to->start;

    if (l->to || !to->valid || !t->blocks[l->from].valid)
        return;
    l->to = (uint32_t)(to - t->blocks);
    l->next_incoming = to->incoming;
    to->incoming = (uint32_t)(l - t->links);
    patch32(t, l->patch, target - (l->patch + 4));
    if (l->page_check)
        patch32(t, l->page_check, to->page);
    t->stats.links++;
}

void block_invalidate(struct translator *t, struct block *b)
{
    uint32_t *at = &t->hash[hash_of(b->page, b->offset, b->key)];
    uint32_t i = (uint32_t)(b - t->blocks);

    if (!b->valid)
        return;
    b->valid = false;
    while (*at && *at != i)
        at = &t->blocks[*at].next;
    if (*at)
        __atomic_store_n(at, b->next, __ATOMIC_RELEASE);
    for (uint32_t l = b->incoming; l; l = t->links[l].next_incoming)
        if (t->links[l].to == i)
            unlink_one(t, &t->links[l]);
    b->incoming = 0;
    t->stats.invalidated++;
}

void code_written(struct ram_block *ram, uint64_t offset, uint64_t length)
{
    struct translator *t = the_translator_of(ram);
    bool any = false;

    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    for (uint64_t at = offset & ~UINT64_C(0xfff); at < offset + length; at += 0x1000) {
        uint32_t name = page_find(t, ram, at);
        struct code_page *p = &t->pages[name];
        uint64_t first = at < offset ? offset - at : 0;
        uint64_t end = MIN(offset + length - at, UINT64_C(0x1000));
        uint64_t granules = 0, left = 0;
        uint32_t *link;

        if (!name)
            continue;
        if (first < INSN_REACH && p->crossers) { /* their bytes here; all of them, it is rare */
            for (uint32_t i = p->crossers; i; i = t->blocks[i].next_in_page2)
                block_invalidate(t, &t->blocks[i]);
            p->crossers = 0;
            any = true;
        }
        for (uint64_t g = first >> 6; g <= (end - 1) >> 6; g++)
            granules |= BIT(g);
        if (!(p->granules & granules))
            continue;
        for (link = &p->blocks; *link;) {
            struct block *b = &t->blocks[*link];

            if (b->offset < end && b->offset + b->length > first) {
                *link = b->next_in_page;
                block_invalidate(t, b);
                any = true;
                continue;
            }
            for (unsigned g = b->offset & ~63u; g < (unsigned)b->offset + b->length; g += 64)
                left |= BIT(g >> 6 & 63);
            link = &b->next_in_page;
        }
        p->granules = left;
        p->invalidated++;
    }
    if (any)
        for (unsigned i = 0; i < t->cpu_count; i++) {
            atomic_store(&t->cpus[i]->code_gone, true);
            atomic_store(&t->cpus[i]->context->poll, 0);
        }
    pthread_mutex_unlock(&t->lock);
}

struct block *block_of_host(struct translator *t, uint32_t host)
{
    uint32_t low = 1, high = t->block_count;

    if (host < t->first || host >= t->used)
        return NULL;
    /* Blocks lie in the cache in the order they were made. */
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;

        if (t->blocks[mid].start <= host)
            low = mid;
        else
            high = mid;
    }
    return low < t->block_count && t->blocks[low].start <= host && host < t->blocks[low].end
               ? &t->blocks[low]
               : NULL;
}
