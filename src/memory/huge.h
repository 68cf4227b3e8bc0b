/*
 * huge.h - huge pages for large mappings of memfds: guest RAM, the code cache.
 *
 * Hosts give shared memory small pages (shmem_enabled=never is what distributions ship), and then a
 * guest's working set and its translations cost a page walk of the host's for nearly each access.
 * One thread of the process looks now and then which 2 MiB of what it watches are in use, and has
 * the host put each of them on one page (MADV_COLLAPSE, Linux 6.1). Nothing depends on it: content
 * and addresses stay, and where the host cannot, small pages it is.
 */
#ifndef MEMORY_HUGE_H
#define MEMORY_HUGE_H

#include "base/util.h"

enum { HUGE_PAGE_SIZE = 2 * 1024 * 1024 };

struct huge_area;

/* Address space from a multiple of HUGE_PAGE_SIZE on, inaccessible, to map a file over; MAP_FAILED
 * and errno. munmap() it. */
void *huge_reserve(size_t size);

/* All of [base, base+size) is the memfd from its start on; `base` by huge_reserve(). NULL where
 * there is nothing to gain. Any thread. */
struct huge_area *huge_watch(void *base, size_t size, int fd);
/* Before the mapping goes; NULL is nothing. */
void huge_unwatch(struct huge_area *a);
/* These bytes are about to be given back to the host (a balloon), which shall not have to provide
 * them again.
 * NULL is nothing. Any thread. */
void huge_leave(struct huge_area *a, size_t offset, size_t length);

/* How many bytes of it are on huge pages by now; for `hospes doctor`, statistics and tests. */
size_t huge_bytes(const struct huge_area *a);

#endif
