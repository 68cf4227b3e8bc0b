/*
 * ram.h - memory the guest can address that is backed by host memory: RAM, ROM images, VRAM.
 *
 * A block is one memfd, mapped once for its whole life, so a host pointer into it stays valid
 * until ram_block_free(). Untouched pages cost nothing.
 *
 * Each 4 KiB page has a byte of flags, changed with atomic operations:
 *
 *   RAM_DIRTY_*  set by whoever writes the page, cleared by the client named; only clients in
 *                block->tracking are served.
 *   RAM_CODE     an engine keeps translations of this page: a writer that finds the flag must
 *                call ram_written(), which tells the engine.
 *   RAM_WRITE_CACHED
 *                some vCPU's TLB may have a write entry for this page. Set before the entry is
 *                made, and RAM_CODE looked at afterwards; so an engine that sets RAM_CODE and then
 *                does not see this flag need not ask others to drop write entries. Cleared by an
 *                engine alone, when no vCPU has one.
 *
 * An engine may let guest code write a page directly only while ram_write_is_plain() is true for
 * it; when a flag changes so that it no longer is, the engine is told (struct memory_listener).
 */
#ifndef MEMORY_RAM_H
#define MEMORY_RAM_H

#include "base/error.h"
#include "base/util.h"

#include <stdatomic.h>

enum { RAM_PAGE_BITS = 12, RAM_PAGE_SIZE = 1 << RAM_PAGE_BITS };

enum ram_page_flag {
    RAM_DIRTY_DISPLAY = 1 << 0,
    RAM_DIRTY_MIGRATION = 1 << 1,
    RAM_WRITE_CACHED = 1 << 6,
    RAM_CODE = 1 << 7,
};

struct ram_block {
    char *name;
    uint8_t *host; /* page aligned, PROT_READ|PROT_WRITE also for ROM: the map says who may write */
    uint64_t size; /* bytes, a multiple of the page size */
    int fd;        /* the memfd, offset 0 = host[0] */
    atomic_uchar *page_flags; /* size >> RAM_PAGE_BITS of them */
    atomic_uint *write_at;    /* the same: where a TLB may have a write entry; x86/mmu.c */
    struct huge_area *huge;   /* NULL: not worth it */
    atomic_uchar tracking;    /* RAM_DIRTY_* clients that want to know of writes */
    /* Set by an engine that uses RAM_CODE; called from any thread, after the bytes changed. */
    void (*code_written)(struct ram_block *b, uint64_t offset, uint64_t length);
    void (*code_gone)(struct ram_block *b); /* it is about to be freed */
    void *code_opaque;
};

/* `size` is rounded up to pages. Fails where the host cannot provide the address space. */
int ram_block_new(const char *name, uint64_t size, struct ram_block **out, struct error *err);
void ram_block_free(struct ram_block *b); /* NULL is nothing */
/* Whole pages are given back to the host and are zeros when they are next looked at: a balloon.
 * 0 or -errno. Any thread. */
int ram_discard(struct ram_block *b, uint64_t offset, uint64_t length);

static inline bool ram_write_is_plain(const struct ram_block *b, uint64_t offset)
{
    uint8_t flags = atomic_load_explicit(&b->page_flags[offset >> RAM_PAGE_BITS],
                                         memory_order_relaxed);

    return !(flags & RAM_CODE) &&
           !(atomic_load_explicit(&b->tracking, memory_order_relaxed) & ~flags);
}

/* After bytes [offset, offset+length) of the block changed: mark pages, tell the engine. The
 * range must lie in the block. */
void ram_written(struct ram_block *b, uint64_t offset, uint64_t length);

/* Returns whether the flag was set, and clears it. The caller then has the engines flush
 * (memory_flush()) before it reads the page. */
bool ram_test_and_clear(struct ram_block *b, uint64_t offset, enum ram_page_flag flag);

#endif
