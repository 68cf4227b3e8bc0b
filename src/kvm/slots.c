/*
 * slots.c - KVM's memory slots follow the flat view of guest memory.
 *
 * An update removes the slots that are no longer wanted as they are, then adds what is missing.
 * In between a vCPU may touch memory that has no slot: it exits as for a device, and the map
 * answers it from the same RAM. ROM is read-only to KVM: writes come to us and are dropped by the
 * map. Blocks whose writers somebody tracks have KVM's dirty log on.
 *
 * SMM has no slots of its own: the interpreter runs it.
 */
#include "kvm/internal.h"

#include "base/log.h"
#include "memory/ram.h"

#include <errno.h>
#include <stdlib.h>

struct wanted {
    struct kvm_machine *m;
    struct kvm_slot slot[KVM_SLOTS];
    unsigned count;
    bool overflow;
};

static bool collect(void *opaque, const struct memory_section *s)
{
    struct wanted *w = opaque;
    const struct memory_target *t = &s->target;

    if (!t->block || (!t->writable && !w->m->has_readonly))
        return true;
    if ((s->base | s->size | t->offset) & (RAM_PAGE_SIZE - 1))
        return true; /* part of a page: as devices are */
    if (w->count == KVM_SLOTS) {
        w->overflow = true;
        return false;
    }
    w->slot[w->count++] = (struct kvm_slot){
        .block = t->block,
        .base = s->base,
        .size = s->size,
        .offset = t->offset,
        .flags = (t->writable ? 0 : KVM_MEM_READONLY) |
                 (t->block->tracking ? KVM_MEM_LOG_DIRTY_PAGES : 0),
    };
    return true;
}

static bool same(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return a->block == b->block && a->base == b->base && a->size == b->size &&
           a->offset == b->offset && a->flags == b->flags;
}

static int slot_set(struct kvm_machine *m, unsigned n, const struct kvm_slot *s, uint64_t size)
{
    struct kvm_userspace_memory_region r = {
        .slot = n,
        .flags = s->flags,
        .guest_phys_addr = s->base,
        .memory_size = size,
        .userspace_addr = (uintptr_t)(s->block->host + s->offset),
    };

    return ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0 ? -errno : 0;
}

/* The log of one slot becomes page flags of its block. */
static void harvest_slot(struct kvm_machine *m, unsigned n)
{
    const struct kvm_slot *s = &m->slots[n];
    uint64_t pages = s->size >> RAM_PAGE_BITS, words = (pages + 63) / 64;
    auto_free uint64_t *bits = xcalloc(words, 8);
    struct kvm_dirty_log log = {.slot = n, .dirty_bitmap = bits};

    if (ioctl(m->vm, KVM_GET_DIRTY_LOG, &log) < 0) {
        /* Not knowing, all of it counts as written. */
        ram_written(s->block, s->offset, s->size);
        return;
    }
    for (uint64_t w = 0; w < words; w++) {
        while (bits[w]) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(bits[w]);

            bits[w] &= bits[w] - 1;
            ram_written(s->block, s->offset + (page << RAM_PAGE_BITS), RAM_PAGE_SIZE);
        }
    }
}

void kvm_slots_harvest(struct kvm_machine *m)
{
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < KVM_SLOTS; i++)
        if (m->slots[i].block && m->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            harvest_slot(m, i);
    pthread_mutex_unlock(&m->lock);
}

static void slot_remove(struct kvm_machine *m, unsigned n)
{
    if (m->slots[n].flags & KVM_MEM_LOG_DIRTY_PAGES)
        harvest_slot(m, n);
    slot_set(m, n, &m->slots[n], 0);
    m->slots[n].block = NULL;
}

static void slot_add(struct kvm_machine *m, const struct kvm_slot *s)
{
    for (unsigned i = 0; i < KVM_SLOTS; i++) {
        int r;

        if (m->slots[i].block)
            continue;
        r = slot_set(m, i, s, s->size);
        if (!r) {
            m->slots[i] = *s;
        } else if (!m->slots_failed) {
            m->slots_failed = true;
            log_error("kvm: cannot map %#llx bytes of '%s' at %#llx: %s; the guest gets it slowly",
                      (unsigned long long)s->size, s->block->name, (unsigned long long)s->base,
                      strerror(-r));
        }
        return;
    }
}

void kvm_slots_update(struct kvm_machine *m)
{
    auto_free struct wanted *w = xcalloc(1, sizeof(*w));

    w->m = m;
    pthread_mutex_lock(&m->lock);
    memory_walk(m->engine->memory, VIEW_NORMAL, collect, w);
    if (w->overflow && !m->slots_failed) {
        m->slots_failed = true;
        log_error("kvm: guest memory is in more than %d pieces; the rest is slow", KVM_SLOTS);
    }
    for (unsigned i = 0; i < KVM_SLOTS; i++) {
        bool keep = false;

        for (unsigned j = 0; m->slots[i].block && !keep && j < w->count; j++) {
            keep = same(&m->slots[i], &w->slot[j]);
            if (keep)
                w->slot[j].block = NULL;
        }
        if (m->slots[i].block && !keep)
            slot_remove(m, i);
    }
    for (unsigned j = 0; j < w->count; j++)
        if (w->slot[j].block)
            slot_add(m, &w->slot[j]);
    pthread_mutex_unlock(&m->lock);
}
