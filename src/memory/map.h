/*
 * map.h - who answers at which guest-physical address, or I/O port.
 *
 * A map holds regions; where they overlap, the higher priority answers. Two views exist of every
 * map: what the CPUs see, and what a CPU in system-management mode sees. Changes are grouped by
 * memory_begin()/memory_commit(); at the outermost commit a new flat view replaces the old one
 * and listeners (engines) are told.
 *
 * Dispatch: an access is cut into naturally aligned power-of-two pieces no larger than the
 * region's max_size; a piece smaller than min_size never reaches the device: it reads as ones and
 * writes nothing. An address where nobody lives does the same. The hook runs with the owner's
 * lock held and no lock of the map, so it may change the map.
 *
 * Threads: all functions may be called from any thread. Lock order: device locks, then the map's.
 */
#ifndef MEMORY_MAP_H
#define MEMORY_MAP_H

#include "base/error.h"
#include "base/util.h"

#include <pthread.h>

struct device;
struct memory_map;
struct ram_block;
struct region;

typedef uint64_t gpa; /* guest-physical address, or port number in a port map */
typedef uint64_t gva; /* guest-virtual (linear) address */

/* Offsets count from the start of the region; sizes 1, 2, 4, 8 within [min_size, max_size]. */
struct io_ops {
    uint64_t (*read)(struct device *dev, uint64_t offset, unsigned size);
    void (*write)(struct device *dev, uint64_t offset, uint64_t value, unsigned size);
    uint8_t min_size, max_size;
};

enum memory_view { VIEW_NORMAL, VIEW_SMM, VIEW_COUNT };

enum region_visibility { IN_NORMAL = 1 << VIEW_NORMAL, IN_SMM = 1 << VIEW_SMM, IN_ALL = 3 };

/* Usual priorities; any int will do. */
enum { PRIORITY_DEFAULT = 0, PRIORITY_PCI = 10, PRIORITY_BOARD = 100, PRIORITY_SMRAM = 200 };

struct memory_map *memory_map_new(const char *name, uint64_t limit); /* addresses < limit */
void memory_map_free(struct memory_map *m);

/*
 * Add a region. `writable` false makes it ROM: writes are dropped. RAM regions must be page
 * aligned in address, size and block offset. The names are for people. The region belongs to the
 * map until memory_remove().
 */
int memory_add_ram(struct memory_map *m, const char *name, gpa base, uint64_t size, int priority,
                   unsigned visibility, struct ram_block *block, uint64_t block_offset,
                   bool writable, struct region **out, struct error *err);
/* `lock` may be NULL where `dev` needs none. */
int memory_add_io(struct memory_map *m, const char *name, gpa base, uint64_t size, int priority,
                  const struct io_ops *ops, struct device *dev, pthread_mutex_t *lock,
                  struct region **out, struct error *err);
void memory_remove(struct region *r); /* NULL is nothing */
/* Move and show or hide in one step (a PCI BAR, a PAM register). Out-of-range bases hide it. */
void memory_place(struct region *r, gpa base, bool enabled);
void memory_set_writable(struct region *r, bool writable); /* RAM regions */
void memory_set_visibility(struct region *r, unsigned visibility);
gpa memory_region_base(const struct region *r);

void memory_begin(struct memory_map *m);
void memory_commit(struct memory_map *m);

/* What lives at an address. `length` is how far the same answer holds from `address` on. */
struct memory_target {
    struct ram_block *block; /* NULL: MMIO or nothing */
    uint64_t offset;         /* in the block */
    uint64_t length;
    bool writable; /* RAM; false for ROM */
    bool io;       /* a device answers */
};
void memory_lookup(struct memory_map *m, enum memory_view view, gpa address,
                   struct memory_target *out);

/* A CPU's access: RAM, ROM or device; size 1, 2, 4 or 8, any alignment. RAM accesses that lie
 * within 8 aligned bytes are single host accesses. */
uint64_t memory_read(struct memory_map *m, enum memory_view view, gpa address, unsigned size);
void memory_write(struct memory_map *m, enum memory_view view, gpa address, uint64_t value,
                  unsigned size);

/*
 * DMA: a device's access, to RAM (and, for reads, ROM) only. 0, or -EFAULT when any byte of
 * [address, address+length) is something else; a write then may have changed the bytes before it.
 */
int dma_read(struct memory_map *m, gpa address, void *buffer, uint64_t length);
int dma_write(struct memory_map *m, gpa address, const void *buffer, uint64_t length);
int dma_fill(struct memory_map *m, gpa address, uint8_t byte, uint64_t length);

/* The flat view, lowest address first, for engines that must know it whole (KVM) and for people.
 * Stops when `visit` returns false. */
struct memory_section {
    const char *name;
    gpa base;
    uint64_t size;
    struct memory_target target;
};
void memory_walk(struct memory_map *m, enum memory_view view,
                 bool (*visit)(void *opaque, const struct memory_section *s), void *opaque);

/*
 * Engines listen. Listeners come and go only while no vCPU runs.
 *
 * changed(): the flat view is another one. Every vCPU must drop its translations of addresses
 * before its next instruction; changed() asks for that and does not wait (the caller may hold
 * device locks that a vCPU wants).
 *
 * flush(): page flags changed (dirty bits were cleared, code was found). Returns when no vCPU but
 * the calling one still uses write permission it cached before. Call it without device locks. A
 * vCPU that is inside a device hook counts as one that does not.
 */
struct memory_listener {
    void (*changed)(struct memory_listener *l);
    void (*flush)(struct memory_listener *l);
    struct memory_listener *next;
};
void memory_listen(struct memory_map *m, struct memory_listener *l);
void memory_unlisten(struct memory_map *m, struct memory_listener *l);
void memory_flush(struct memory_map *m);

#endif
