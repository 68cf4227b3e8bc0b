/*
 * disk.h - a disk as a device model sees it: opened from an option string, used by requests that
 * never block the caller.
 *
 * Requests may be submitted from any thread, in any number, and run and end in any order. `done`
 * is called once for each, from one of the block layer's threads (several at once for different
 * requests), never from inside disk_submit(); it may submit more requests, and must not block or
 * close the disk. The request and what its iovec points to belong to the disk until then.
 *
 * A flush covers every write whose `done` was called before the flush was submitted. What was
 * flushed survives a power cut.
 */
#ifndef BLOCK_DISK_H
#define BLOCK_DISK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk;
struct block_node;

/*
 * Open by QEMU's -drive words, "file=PATH,format=qcow2,cache=none,...". A comma in a value is
 * doubled; a text without "=" is the file.
 *
 *   file=NAME            a path or an NBD URI; may be missing for an empty drive (disk_open is then
 *                        not called at all)
 *   format=NAME          raw, qcow2, vmdk, vpc, vhdx, vdi. Without: found out by the content, with
 *                        a warning where the disk is writable and it turns out to be raw, whose
 *                        first block the guest then may not overwrite with another format's magic
 *   cache=MODE           writeback (default), none, writethrough, directsync, unsafe
 *   readonly=on|off      also read-only=
 *   discard=unmap|ignore default: unmap
 *   detect-zeroes=off|on|unmap
 *   snapshot=on          changes go to a temporary file and are lost in the end
 *   force-share=on       take no locks; only with readonly=on
 *   aio=io_uring|threads default: io_uring where the host has it
 *   data-file=on         follow a qcow2's external data file
 *   iops=, iops_rd=, iops_wr=, bps=, bps_rd=, bps_wr=   limits per second; 0: none
 *   (also throttling.iops-total, -read, -write, throttling.bps-total, -read, -write)
 */
struct disk *disk_open(const char *options, struct error *err);
/* Over a node that is open already, which the disk takes over, even on failure. `options`: those
 * above without file and format; may be NULL. */
struct disk *disk_open_node(struct block_node *node, const char *options, struct error *err);
/* Requests that have not begun end with -ECANCELED, the others are waited for; then all is flushed.
 * NULL is nothing. */
void disk_close(struct disk *d);

uint64_t disk_size(struct disk *d); /* bytes; a multiple of 512 (a short last sector is cut off) */
bool disk_read_only(struct disk *d);
bool disk_write_cache(struct disk *d); /* false: every write is durable when it is done */
const char *disk_filename(struct disk *d);
/* The best alignment of requests in bytes (a power of two, 512 to 4096): a physical block. */
unsigned disk_physical_block(struct disk *d);
uint32_t disk_discard_granularity(struct disk *d); /* bytes */
struct block_node *disk_node(struct disk *d);

/* The size changed, by disk_resize(): called from its thread. One listener; NULL: none. */
void disk_on_resize(struct disk *d, void (*resized)(void *opaque, uint64_t size), void *opaque);
/* Waits for the requests in flight, so not from `done`. */
int disk_resize(struct disk *d, uint64_t size, struct error *err);
/* Wait until no request is in flight, throttled ones included. Not while the disk is paused. */
void disk_drain(struct disk *d);
/* Requests that come wait from now on; returns when those before are done, so that the node may be
 * used alone (snapshots, resizing). May be nested. Not from `done`. */
void disk_pause(struct disk *d);
void disk_resume(struct disk *d);

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };
enum {
    DISK_FUA = 1 << 0,   /* write, write_zeroes: durable when done */
    DISK_UNMAP = 1 << 1, /* write_zeroes: the space may be given up */
};

struct disk_request {
    enum disk_op op;
    unsigned flags;
    uint64_t offset;         /* bytes, any alignment */
    uint64_t length;         /* discard, write_zeroes; read and write: the sum of the iovec */
    const struct iovec *iov; /* read, write; at most 1024 elements, 1 GiB */
    unsigned iov_count;
    /* 0, or -errno: -EINVAL outside of the disk or malformed, -EROFS, -EIO, -ENOSPC, -ECANCELED */
    void (*done)(struct disk_request *r, int result);
    void *opaque; /* the submitter's */

    /* The disk's own. */
    struct disk *disk;
    struct disk_request *next;
    struct block_node *node;
    unsigned ticket;
    int refused;
    uint64_t bytes, place;
};

void disk_submit(struct disk *d, struct disk_request *r);
/* Several at once: one system call where they all take the fast path. */
void disk_submit_many(struct disk *d, struct disk_request **requests, unsigned count);

struct disk_stats {
    uint64_t reads, writes, flushes, discards, zeroes; /* requests done */
    uint64_t read_bytes, written_bytes;
    uint64_t fast; /* of them, by io_uring without a worker thread */
    uint64_t failed, throttled;
};
void disk_get_stats(struct disk *d, struct disk_stats *out);

#endif
