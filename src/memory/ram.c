/* ram.c - see ram.h. */
#include "memory/ram.h"

#include "memory/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 8 * 1024 * 1024 }; /* below, huge pages are not worth a thread */

int ram_block_new(const char *name, uint64_t size, struct ram_block **out, struct error *err)
{
    struct ram_block *b;
    void *flags;
    int e;

    if (!size || size > UINT64_C(1) << 46)
        return error_set(err, EINVAL, "memory '%s': size %#llx is out of range", name,
                         (unsigned long long)size);
    b = xcalloc(1, sizeof(*b));
    b->name = xstrdup(name);
    b->size = align_up(size, RAM_PAGE_SIZE);
    b->host = MAP_FAILED;
    b->fd = memfd_create(name, MFD_CLOEXEC);
    if (b->fd < 0 || ftruncate(b->fd, (off_t)b->size) < 0)
        goto fail;
    b->host = huge_reserve(b->size);
    if (b->host == MAP_FAILED ||
        mmap(b->host, b->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             b->fd, 0) == MAP_FAILED)
        goto fail;
    flags = mmap(NULL, b->size >> RAM_PAGE_BITS, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (flags == MAP_FAILED)
        goto fail;
    b->page_flags = flags;
    flags = mmap(NULL, (b->size >> RAM_PAGE_BITS) * sizeof(*b->write_at), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (flags == MAP_FAILED)
        goto fail;
    b->write_at = flags;
    if (b->size >= LARGE)
        b->huge = huge_watch(b->host, b->size, b->fd);
    *out = b;
    return 0;

fail:
    e = errno;
    ram_block_free(b);
    return error_set_errno(err, e, "cannot reserve %llu MiB for memory '%s'",
                           (unsigned long long)(size / MiB), name);
}

void ram_block_free(struct ram_block *b)
{
    if (!b)
        return;
    if (b->code_gone)
        b->code_gone(b);
    huge_unwatch(b->huge);
    if (b->host != MAP_FAILED)
        munmap(b->host, b->size);
    if (b->page_flags)
        munmap(b->page_flags, b->size >> RAM_PAGE_BITS);
    if (b->write_at)
        munmap(b->write_at, (b->size >> RAM_PAGE_BITS) * sizeof(*b->write_at));
    if (b->fd >= 0)
        close(b->fd);
    free(b->name);
    free(b);
}

int ram_discard(struct ram_block *b, uint64_t offset, uint64_t length)
{
    huge_leave(b->huge, offset, length);
    if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) <
        0)
        return -errno;
    ram_written(b, offset, length);
    return 0;
}

void ram_written(struct ram_block *b, uint64_t offset, uint64_t length)
{
    uint8_t tracking = atomic_load_explicit(&b->tracking, memory_order_relaxed);

    if (!length)
        return;
    /* The bytes are there before the flags are looked at: an engine sets RAM_CODE, then reads. */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t page = offset >> RAM_PAGE_BITS; page <= (offset + length - 1) >> RAM_PAGE_BITS;
         page++) {
        uint8_t flags = atomic_load_explicit(&b->page_flags[page], memory_order_relaxed);

        if (tracking & ~flags)
            atomic_fetch_or_explicit(&b->page_flags[page], tracking, memory_order_relaxed);
        if (flags & RAM_CODE) {
            uint64_t start = MAX(offset, page << RAM_PAGE_BITS);
            uint64_t end = MIN(offset + length, (page + 1) << RAM_PAGE_BITS);

            b->code_written(b, start, end - start);
        }
    }
}

bool ram_test_and_clear(struct ram_block *b, uint64_t offset, enum ram_page_flag flag)
{
    atomic_uchar *flags = &b->page_flags[offset >> RAM_PAGE_BITS];

    if (!(atomic_load_explicit(flags, memory_order_relaxed) & flag))
        return false;
    return (atomic_fetch_and(flags, (unsigned char)~flag) & flag) != 0;
}
