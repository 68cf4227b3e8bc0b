/*
 * cache.c - the code cache, and who knows whom in it: pages, blocks, links.
 *
 * The cache is one memfd mapped twice: once readable and writable, once readable and executable, so
 * that no page is ever both. It is made of regions, which are filled one after the other; what is
 * invalidated stays as waste until its region's turn comes again: then everybody leaves, all that
 * is left in it goes, and it is filled anew. Blocks, sites, links and faults of a region are a part
 * of their arrays, so they go with it. (A guest translates what it still uses within milliseconds.)
 *
 * Rules an editor must keep:
 *  - A block is found by guest-physical page (by name, an index into `pages`), offset and key,
 * never by linear address. The hash is read without the lock: an entry is complete before it is put
 * in, and is only ever taken out by replacing one index.
 *  - A page that has a name has RAM_CODE set, and no vCPU of ours may keep a write entry for it in
 * a TLB when the first block is translated from it.
 *  - Code that others may be executing changes only in aligned words: the displacement of a jump
 *    never straddles eight bytes.
 *  - Order of an invalidation: not valid, out of the hash; links into it go back to their stubs,
 *    and it is taken out of all vCPUs' jump tables, by whoever wrote. All of that is done before
 *    the write is (for the guest): nobody has to be told. Who is in the block may end it, as a
 *    processor may until it serialises: what the interpreter does for a block (stores to watched
 *    pages, serialising instructions) goes on behind it in a block that is still valid only.
 *  - A jump table is written by its vCPU, but any thread may clear an entry. So the vCPU looks
 *    whether the block is valid when the entry is written (jump_remember()), and an invalidation
 *    looks for entries when the block is invalid.
 *  - Return stacks need not hear of it: behind a CALL there is only the way to the block that
 *    follows, which is as right as it was, whatever became of the CALL.
 *  - A page without blocks is not watched (RAM_CODE goes), but keeps its name: the name in
 *    tlb_table.code and in links is that of the page, and a block is only found when there is one.
 *  - Stores beside code are let pass by bt_fast() when no granule they touch has code. Who makes a
 *    block closes the page first (all granules are set) and sees that nobody is between that
 *    question and the store (bt_cpu.writing).
 */
#include "translator/internal.h"

#include "base/log.h"
#include "memory/huge.h"

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

/* One name for each page of a block of RAM, in an array that costs what is used of it. */
static uint32_t *names_of(struct ram_block *ram)
{
    return ram->code_opaque;
}

static size_t names_size(const struct ram_block *ram)
{
    return (ram->size >> RAM_PAGE_BITS) * sizeof(uint32_t);
}

/* code_written() must find the translator from the block of RAM. */
struct ram_names {
    struct translator *t;
    uint32_t name[];
};

static void names_free(struct ram_block *ram)
{
    struct ram_names *n = container_of(names_of(ram), struct ram_names, name[0]);

    ram->code_opaque = NULL;
    ram->code_written = NULL;
    ram->code_gone = NULL;
    release(n, sizeof(*n) + names_size(ram));
}

enum {
    GUARD = HUGE_PAGE_SIZE,
    INSN_REACH = 14,
    BLOCK_ROOM = 64 * 1024,
    REGION_MIN = 4 * 1024 * 1024
};

/* A mapping of the memfd with inaccessible zones around it. */
static uint8_t *map_guarded(int fd, size_t size, int prot)
{
    uint8_t *all = huge_reserve(size + 2 * GUARD);

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
    if (t->rw)
        t->huge = huge_watch(t->rw, t->size, t->fd);
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
    t->page_count = 1; /* 0: none */
    return 0;
}

void cache_free(struct translator *t)
{
    huge_unwatch(t->huge);
    if (t->rw)
        munmap(t->rw - GUARD, t->size + 2 * GUARD);
    if (t->rx)
        munmap(t->rx - GUARD, t->size + 2 * GUARD);
    if (t->fd >= 0)
        close(t->fd);
    for (unsigned i = 0; i < t->ram_count; i++)
        names_free(t->ram[i]);
    release(t->hash, sizeof(*t->hash) << BLOCK_HASH_BITS);
    release(t->blocks, sizeof(*t->blocks) * MAX_BLOCKS);
    release(t->pages, sizeof(*t->pages) * MAX_PAGES);
    release(t->sites, sizeof(*t->sites) * MAX_SITES);
    release(t->links, sizeof(*t->links) * MAX_LINKS);
    release(t->faults, sizeof(*t->faults) * MAX_FAULTS);
}

/* ---- regions -------------------------------------------------------------------------------- */

/* Where region n starts in each array; n == regions: where the last one ends. */
static struct region region_start(const struct translator *t, unsigned n)
{
    const struct region first = {t->first, 1, SITES_FIXED, 1, 0};
    const struct region last = {t->size, MAX_BLOCKS, MAX_SITES, MAX_LINKS, MAX_FAULTS};
#define SHARE(field) (first.field + (last.field - first.field) / t->regions * n)

    return (struct region){SHARE(used), SHARE(blocks), SHARE(sites), SHARE(links), SHARE(faults)};
#undef SHARE
}

static void region_begin(struct translator *t, unsigned n)
{
    struct region start = region_start(t, n);

    t->region = n;
    t->used = start.used;
    t->block_count = start.blocks;
    t->site_count = start.sites;
    t->link_count = start.links;
    t->fault_count = start.faults;
    t->limit = region_start(t, n + 1);
}

void cache_begin(struct translator *t)
{
    t->regions = (unsigned)MIN(MAX(t->size / REGION_MIN, 1u), (uint32_t)MAX_REGIONS);
    for (unsigned n = 0; n < t->regions; n++)
        t->region_end[n] = region_start(t, n);
    region_begin(t, 0);
}

/* Room for one more block of any size? */
bool cache_full(const struct translator *t)
{
    const struct region *l = &t->limit;

    return t->used + BLOCK_ROOM > l->used || t->block_count + 1 >= l->blocks ||
           t->page_count + 2 >= MAX_PAGES || t->site_count + 4096 > l->sites ||
           t->link_count + 1024 > l->links || t->fault_count + 1024 > l->faults;
}

/* ---- pages ---------------------------------------------------------------------------------- */

uint32_t page_find(struct translator *t, struct ram_block *ram, uint64_t offset)
{
    uint32_t *names = names_of(ram);

    return names ? names[offset >> RAM_PAGE_BITS] : 0;
}

static struct translator *the_translator_of(struct ram_block *ram)
{
    uint32_t *names = names_of(ram);

    return names ? container_of(names, struct ram_names, name[0])->t : NULL;
}

/* What making a block again costs, in stores beside code; and how often patience doubles. */
enum { PATIENCE = 256, PATIENCE_DOUBLES = 10 };

static void page_unwatch(struct code_page *p)
{
    atomic_fetch_and(&p->ram->page_flags[p->offset >> RAM_PAGE_BITS], (unsigned char)~RAM_CODE);
}

void cache_empty(struct translator *t)
{
    for (uint32_t i = 1; i < t->page_count; i++) {
        struct code_page *p = &t->pages[i];
        uint32_t *names = names_of(p->ram);

        if (names)
            names[p->offset >> RAM_PAGE_BITS] = 0;
        page_unwatch(p);
    }
    memset(t->hash, 0, sizeof(*t->hash) << BLOCK_HASH_BITS);
    memset(t->pages, 0, sizeof(*t->pages) * t->page_count);
    t->page_count = 1;
    cache_begin(t);
    t->stats.flushes++;
}

/* A block of RAM goes; no vCPU runs. */
static void ram_gone(struct ram_block *ram)
{
    struct translator *t = the_translator_of(ram);

    pthread_mutex_lock(&t->lock);
    cache_empty(t);
    for (unsigned i = 0; i < t->cpu_count; i++)
        t->cpus[i]->names_gone = t->cpus[i]->code_gone = true;
    for (unsigned i = 0; i < t->ram_count; i++)
        if (t->ram[i] == ram) {
            t->ram[i] = t->ram[--t->ram_count];
            break;
        }
    names_free(ram);
    pthread_mutex_unlock(&t->lock);
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

/* Names the page if need be, and sees that writes to it are noticed. 0: not yet, for other vCPUs
 * may still write without anybody noticing; ask again later. */
uint32_t page_make(struct translator *t, struct bt_cpu *c, struct ram_block *ram, uint64_t offset,
                   uint32_t *out)
{
    uint32_t *names = names_of(ram), name;
    atomic_uchar *flags = &ram->page_flags[offset >> RAM_PAGE_BITS];
    struct code_page *p;

    if (!names) {
        struct ram_names *n = t->ram_count < MAX_RAM ? reserve(sizeof(*n) + names_size(ram)) : NULL;

        if (!n)
            return 0;
        n->t = t;
        ram->code_opaque = names = n->name;
        ram->code_written = code_written;
        ram->code_gone = ram_gone;
        t->ram[t->ram_count] = ram;
        t->ram_count++;
    }
    name = names[offset >> RAM_PAGE_BITS];
    if (!(atomic_fetch_or(flags, RAM_CODE) & RAM_CODE)) {
        if (atomic_fetch_and(flags, (unsigned char)~RAM_WRITE_CACHED) & RAM_WRITE_CACHED) {
            if (mmu_drop_writes(c->cpu, ram, offset))
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

typedef uint64_t granule_set[GRANULE_WORDS];

static void granules_add(granule_set set, unsigned first, unsigned end)
{
    for (unsigned g = first >> GRANULE_BITS; g <= (end - 1) >> GRANULE_BITS; g++)
        set[g / 64] |= BIT(g % 64);
}

/* All that the blocks of a page were made from; those that are not valid leave its lists. */
static void granules_get(struct translator *t, struct code_page *p, granule_set set)
{
    uint32_t *link, blocks = 0;

    memset(set, 0, sizeof(granule_set));
    for (link = &p->blocks; *link;) {
        struct block *b = &t->blocks[*link];

        if (b->valid) {
            granules_add(set, b->offset, MIN(b->offset + b->length, 4096u));
            link = &b->next_in_page;
            blocks++;
        } else {
            *link = b->next_in_page;
        }
    }
    for (link = &p->crossers; *link;) {
        struct block *b = &t->blocks[*link];

        if (b->valid) {
            granules_add(set, 0, INSN_REACH);
            link = &b->next_in_page2;
        } else {
            *link = b->next_in_page2;
        }
    }
    p->patience = PATIENCE * (4 + blocks) << p->drops;
}

/* Others may be reading: no bit that stays is ever clear. */
static void granules_set(struct code_page *p, const granule_set set)
{
    for (unsigned i = 0; i < GRANULE_WORDS; i++)
        atomic_store(&p->granules[i], set[i]);
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

void block_jump(struct block *b, uint64_t rip)
{
    uint64_t none = 0;

    if (!atomic_compare_exchange_strong(&b->jump_rip, &none, rip ^ BIT(63)) &&
        none != (rip ^ BIT(63)))
        atomic_store(&b->jump_rip, JUMP_RIP_MANY);
}

/* Take a block out of a jump table. It may be another thread's: entries may come and go. */
static void jumps_clear(struct tlb_table *table, uint64_t rip, const void *code)
{
    if (rip != JUMP_RIP_MANY) {
        struct tlb_jump *j = jump_of(table, rip ^ BIT(63));

        if (__atomic_load_n(&j->code, __ATOMIC_RELAXED) == code)
            __atomic_store_n(&j->rip, tlb_no_rip((unsigned)(j - table->jump)), __ATOMIC_RELAXED);
        return;
    }
    for (unsigned i = 0; i < TLB_JUMPS; i++)
        if (__atomic_load_n(&table->jump[i].code, __ATOMIC_RELAXED) == code)
            __atomic_store_n(&table->jump[i].rip, tlb_no_rip(i), __ATOMIC_RELAXED);
}

void block_forget(struct translator *t, struct block *b)
{
    uint32_t n = (uint32_t)(b - t->blocks);
    uint64_t rip;

    for (uint32_t l = b->incoming; l; l = t->links[l].next_incoming)
        if (t->links[l].to == n)
            unlink_one(t, &t->links[l]);
    b->incoming = 0;
    atomic_thread_fence(memory_order_seq_cst);
    rip = atomic_exchange(&b->jump_rip, 0);
    for (unsigned i = 0; rip && i < t->cpu_count; i++) {
        struct tlb *tlb = t->cpus[i]->cpu->tlb;

        for (unsigned s = 0; s < TLB_SETS; s++)
            for (unsigned m = 0; m < MMU_MODES; m++) {
                struct tlb_table *table = __atomic_load_n(&tlb->set[s].table[m], __ATOMIC_ACQUIRE);

                if (table && table->jumps_used)
                    jumps_clear(table, rip, cache_rx(t, b->entry_saved));
            }
    }
}

void block_invalidate(struct translator *t, struct block *b)
{
    uint32_t *at = &t->hash[hash_of(b->page, b->offset, b->key)];
    uint32_t i = (uint32_t)(b - t->blocks);

    if (!b->valid)
        return;
    atomic_store(&b->valid, false);
    while (*at && *at != i)
        at = &t->blocks[*at].next;
    if (*at)
        __atomic_store_n(at, b->next, __ATOMIC_RELEASE);
    block_forget(t, b);
    t->stats.invalidated++;
}

/* ---- writes --------------------------------------------------------------------------------- */

#define CLOSED_TSC (UINT64_C(1) << 21) /* under a millisecond */

bool page_close(struct translator *t, struct bt_cpu *c, uint32_t page)
{
    static const granule_set all = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct code_page *p = &t->pages[page];
    bool busy = false;

    p->before_known = !p->closed_until && (p->blocks || p->crossers);
    for (unsigned i = 0; i < GRANULE_WORDS; i++)
        p->before[i] = atomic_load(&p->granules[i]);
    granules_set(p, all);
    for (unsigned i = 0; i < t->cpu_count; i++)
        if (t->cpus[i] != c && atomic_load(&t->cpus[i]->writing) == page) {
            atomic_store(&t->cpus[i]->context->poll, 0);
            busy = true;
        }
    p->closed_until = busy ? __builtin_ia32_rdtsc() + CLOSED_TSC : 0;
    return !busy;
}

/* The same with what is known: what there was, and the block just made. A page may have thousands
 * of blocks; to look at each for every new one would take for ever. */
static bool page_open_with(struct code_page *p, const struct block *b, bool crosser)
{
    granule_set set;

    if (!b || !p->before_known || p->closed_until)
        return false;
    memcpy(set, p->before, sizeof(set));
    if (crosser)
        granules_add(set, 0, INSN_REACH);
    else
        granules_add(set, b->offset, MIN(b->offset + b->length, 4096u));
    granules_set(p, set);
    p->patience += PATIENCE << p->drops;
    return true;
}

void pages_open(struct translator *t, const struct block *b, uint32_t page, uint32_t page2)
{
    if (!page_open_with(&t->pages[page], b, false))
        page_open(t, page);
    if (page2 && (page2 == page || !page_open_with(&t->pages[page2], b, true)))
        page_open(t, page2);
}

void page_open(struct translator *t, uint32_t page)
{
    struct code_page *p = &t->pages[page];
    granule_set set;

    granules_get(t, p, set);
    if (p->closed_until > __builtin_ia32_rdtsc())
        return;
    p->closed_until = 0;
    granules_set(p, set);
    if (!p->blocks && !p->crossers) {
        page_unwatch(p);
        p->beside = 0;
    }
}

/*
 * Code that was changed lately is likely to be changed again soon: it has to be executed some times
 * more before it is worth a translation, up to what a translation costs.
 */
enum { HEAT_MAX = 12 };
#define HEAT_TSC (UINT64_C(1) << 25) /* some 10 ms */

unsigned page_warm(const struct translator *t, uint32_t page)
{
    const struct code_page *p = &t->pages[page];

    return t->options.warm ? t->options.warm + (page ? p->heat : 0) : 0;
}

static void page_heat(struct translator *t, struct code_page *p, const struct block *b)
{
    uint64_t now = __builtin_ia32_rdtsc();

    p->heat = now - p->heated > HEAT_TSC ? 0 : MIN(p->heat + 1, (uint32_t)HEAT_MAX);
    p->heated = now;
    for (unsigned i = 0; i < t->cpu_count; i++)
        t->cpus[i]->warm[warm_index(p->ram->host + p->offset + b->offset)] = 0;
}

/* A store beside code that did not go by bt_fast() costs as much as several that did. */
static bool still_patient(struct code_page *p)
{
    enum { SLOW_STORE = 8 };

    atomic_store_explicit(&p->beside, p->beside + SLOW_STORE, memory_order_relaxed);
    return !page_is_tired(p);
}

/*
 * Blocks that were made from any of these bytes go. So do all of a page that many stores went to
 * beside its code: it may be code that nobody executes any more, and then the page is plain again.
 * If it is not so, it will be longer until that is tried once more.
 */
static void page_written(struct translator *t, uint32_t name, unsigned first, unsigned end)
{
    struct code_page *p = &t->pages[name];
    uint64_t before = t->stats.invalidated;

    if (page_is_tired(p)) {
        first = 0;
        end = 4096;
        p->drops = MIN(p->drops + 1, (uint32_t)PATIENCE_DOUBLES);
    }

    for (uint32_t i = p->blocks; i; i = t->blocks[i].next_in_page) {
        struct block *b = &t->blocks[i];

        if (b->valid && b->offset < end && b->offset + b->length > first) {
            block_invalidate(t, b);
            page_heat(t, p, b);
        }
    }
    for (uint32_t i = first < INSN_REACH ? p->crossers : 0; i; i = t->blocks[i].next_in_page2) {
        struct block *b = &t->blocks[i];

        if (b->valid) { /* all of them: it is rare */
            block_invalidate(t, b);
            page_heat(t, &t->pages[b->page], b);
        }
    }
    page_open(t, name);
    if (t->stats.invalidated == before)
        still_patient(p);
}

void code_written(struct ram_block *ram, uint64_t offset, uint64_t length)
{
    struct translator *t = the_translator_of(ram);

    if (!t)
        return;
    for (uint64_t at = offset & ~UINT64_C(0xfff); at < offset + length; at += 0x1000) {
        unsigned first = (unsigned)(at < offset ? offset - at : 0);
        unsigned end = (unsigned)MIN(offset + length - at, UINT64_C(0x1000));
        uint32_t name = __atomic_load_n(&names_of(ram)[at >> RAM_PAGE_BITS], __ATOMIC_ACQUIRE);
        struct code_page *p = &t->pages[name];

        /* The bytes are in memory before this looks (ram_written()): who makes a block now has
         * closed the page already, or sees them. */
        if (!name || (!page_is_code(p, first, end - first) && still_patient(p)))
            continue;
        pthread_mutex_lock(&t->lock);
        name = page_find(t, ram, at);
        if (name)
            page_written(t, name, first, end);
        pthread_mutex_unlock(&t->lock);
    }
}

/* ---- recycling ------------------------------------------------------------------------------ */

/* Links of blocks that go leave the lists of those they lead to. */
static void links_drop(struct translator *t, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end; i++) {
        uint32_t to = t->links[i].to, *at;

        if (!to)
            continue;
        for (at = &t->blocks[to].incoming; *at;) {
            struct link *l = &t->links[*at];

            if (*at < first || *at >= end) {
                at = &l->next_incoming;
                continue;
            }
            l->to = 0;
            *at = l->next_incoming;
        }
    }
}

bool cache_recycle(struct translator *t)
{
    unsigned next = (t->region + 1) % t->regions;
    uint64_t invalidated = t->stats.invalidated;
    struct region start, end;

    if (t->regions == 1 || t->page_count + 2 >= MAX_PAGES) {
        cache_empty(t);
        return true;
    }
    t->region_end[t->region] = (struct region){t->used, t->block_count, t->site_count,
                                               t->link_count, t->fault_count};
    start = region_start(t, next);
    end = t->region_end[next];
    for (uint32_t i = start.blocks; i < end.blocks; i++) {
        atomic_store(&t->blocks[i].jump_rip, 0); /* all tables are dropped */
        block_invalidate(t, &t->blocks[i]);
    }
    links_drop(t, start.links, end.links);
    if (end.blocks > start.blocks)
        for (uint32_t i = 1; i < t->page_count; i++)
            page_open(t, i);
    region_begin(t, next);
    t->stats.invalidated = invalidated; /* that counts others */
    t->stats.recycled += end.blocks > start.blocks;
    return false;
}

struct block *block_of_host(struct translator *t, uint32_t host)
{
    for (unsigned n = 0; n < t->regions; n++) {
        bool current = n == t->region;
        uint32_t low = region_start(t, n).blocks;
        uint32_t high = current ? t->block_count : t->region_end[n].blocks;
        uint32_t used = current ? t->used : t->region_end[n].used;

        if (host < region_start(t, n).used || host >= used || low == high)
            continue;
        /* Blocks of a region lie in the order they were made. */
        while (high - low > 1) {
            uint32_t mid = low + (high - low) / 2;

            if (t->blocks[mid].start <= host)
                low = mid;
            else
                high = mid;
        }
        if (t->blocks[low].start <= host && host < t->blocks[low].end)
            return &t->blocks[low];
    }
    return NULL;
}
