/*
 * block.h - disk images: a graph of nodes, a format (qcow2, vmdk, ...) over a protocol (file, nbd).
 *
 * Devices do not use this header but disk.h, which is asynchronous. This one is synchronous: what
 * `hospes img`, the request engine's worker threads and the tests call.
 *
 * Offsets and lengths are bytes, of any alignment. Functions return 0 or -errno; where a person
 * reads about a failure the last parameter is struct error (base/error.h). An image is hostile
 * input: whatever it says is checked before it is used, and no image can make us read or write
 * outside the files that the user named (and its backing files, which must be opened by their
 * names in the image, unless BLOCK_NO_BACKING).
 *
 * Threads: block_read(), _write(), _flush(), _discard(), _write_zeroes(), _write_compressed(),
 * _map() and _status() may run on any threads at once; a driver guards its own tables. Everything
 * else wants the node to itself. Overlapping writes that run at once end in one order or the other
 * for each sector, and never harm bytes outside.
 *
 * Durability: after block_flush() what was written before it began survives a power cut, whatever
 * happens later; drivers order their metadata so that an image always opens again with everything
 * that was flushed, and has at most lost space (leaks).
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include "base/error.h"
#include "base/util.h"

#include <stdatomic.h>

enum { BLOCK_SECTOR = 512 };
#define BLOCK_SIZE_MAX (BIT(63) - MiB)

/* How a node is opened. */
enum {
    BLOCK_WRITE = 1 << 0,       /* for writing; else read-only, all the way down */
    BLOCK_DIRECT = 1 << 1,      /* O_DIRECT: past the host's page cache */
    BLOCK_FORCE_SHARE = 1 << 2, /* take no locks and respect none; only for reading */
    BLOCK_NO_BACKING = 1 << 3,  /* leave the backing file closed: only the image itself matters */
    BLOCK_DATA_FILE = 1 << 4,   /* follow a qcow2's external data file, which it names itself */
    BLOCK_REPAIR = 1 << 5,      /* open even what is marked damaged: block_check() will mend it */
    BLOCK_NO_FLUSH = 1 << 6,    /* cache=unsafe: flushes do nothing until the end */
    BLOCK_UNMAP = 1 << 7,       /* discards reach the host's file system or device */
};

struct block_node;
struct block_create;
struct block_snapshot;
struct block_check;
struct block_info;
struct block_options;

/* ---- what lies where --------------------------------------------------------------------------
 */

enum block_kind {
    BLOCK_DATA,     /* bytes at `offset` of `file`, as they are */
    BLOCK_ZERO,     /* zeros without reading */
    BLOCK_UNBACKED, /* not in this image: in its backing file, or zeros. Only drivers say this. */
    BLOCK_SLOW,     /* compressed, or a write that must allocate: only read()/write() can */
};

struct block_extent {
    enum block_kind kind;
    bool compressed;
    unsigned depth;          /* 0: the image itself, 1: its backing file, ... */
    uint64_t length;         /* bytes for which this holds, from the offset asked about */
    struct block_node *file; /* DATA: a protocol node */
    uint64_t offset;         /* DATA: in it */
};

enum {
    BLOCK_MAP_WRITE = 1 << 0,  /* may these bytes be overwritten in place? else BLOCK_SLOW */
    BLOCK_MAP_NOWAIT = 1 << 1, /* -EAGAIN instead of waiting for a lock or reading a table */
};

/* ---- a driver ---------------------------------------------------------------------------------
 */

struct block_create_option {
    const char *name, *help;
};

/* Ranges are inside [0, size) and not empty when a hook is called. Only those that a format has
 * are there; `protocol` drivers have no node below. */
struct block_driver {
    const char *name;
    const char *summary;
    bool protocol;
    bool no_write; /* the format, or our understanding of it, cannot be written */
    size_t instance_size;
    const struct block_create_option *create_options; /* name NULL ends */

    /* Is this the start of such an image? `size`: at least a sector where the file has one. */
    bool (*probe)(const uint8_t *head, size_t size);
    /* n->file is open (formats) or n->filename set (protocols); sets n->size, n->backing_name. */
    int (*open)(struct block_node *n, struct error *err);
    void (*close)(struct block_node *n); /* clean shutdown: all metadata is on its way */
    /* Make an image in the empty `file`, open for writing. */
    int (*create)(struct block_node *file, const struct block_create *c, struct error *err);

    int (*read)(struct block_node *n, uint64_t offset, void *buffer, size_t length);
    int (*write)(struct block_node *n, uint64_t offset, const void *buffer, size_t length);
    int (*flush)(struct block_node *n);
    int (*discard)(struct block_node *n, uint64_t offset, uint64_t length);
    int (*write_zeroes)(struct block_node *n, uint64_t offset, uint64_t length, bool unmap);
    int (*write_compressed)(struct block_node *n, uint64_t offset, const void *buffer,
                            size_t length);
    int (*map)(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
               struct block_extent *out);
    /* Protocols: does the host's file have a hole there? 1 or 0, for *run bytes at least. */
    int (*hole)(struct block_node *n, uint64_t offset, uint64_t length, uint64_t *run);
    int (*resize)(struct block_node *n, uint64_t size, struct error *err);
    int (*check)(struct block_node *n, struct block_check *c, struct error *err);
    int (*info)(struct block_node *n, struct block_info *out);
    /* The files that belong to the image besides its own. */
    void (*files)(struct block_node *n, void (*each)(void *opaque, const char *path), void *opaque);
    int (*snapshot_create)(struct block_node *n, const char *name, struct error *err);
    int (*snapshot_apply)(struct block_node *n, const char *name, struct error *err);
    int (*snapshot_delete)(struct block_node *n, const char *name, struct error *err);
    int (*snapshot_list)(struct block_node *n, struct block_snapshot **out, unsigned *count);
};

struct block_node {
    const struct block_driver *driver;
    char *filename; /* as the user or the image wrote it, for messages */
    unsigned flags;
    _Atomic uint64_t size;               /* bytes a guest sees */
    struct block_node *file;             /* formats: the protocol node below */
    struct block_node *backing;          /* open backing image, or NULL */
    char *backing_name, *backing_format; /* as the image says; NULL: none */
    int fd;                              /* protocols: for the fast path; -1: there is none */
    unsigned align; /* protocols: of offsets, lengths and memory for the fast path */
    void *state;    /* the driver's, instance_size */
    /* Requests in flight, in two epochs: what a driver frees is reused only after every request
     * that began before has ended (block_quiesced()). */
    atomic_ulong inflight[2];
    atomic_uint epoch;
};

extern const struct block_driver *const block_drivers[]; /* NULL ends */
const struct block_driver *block_driver_find(const char *name);

/* ---- opening and making -----------------------------------------------------------------------
 */

/*
 * Open `filename` (a path, or nbd://, nbd+unix://, ... as libnbd knows them). `format` NULL: find
 * it out by the content, which nobody should do with an image that a guest can write.
 */
struct block_node *block_open(const char *filename, const char *format, unsigned flags,
                              struct error *err);
/* The same over a protocol node that is open already; takes `file` over, even on failure. */
struct block_node *block_open_over(struct block_node *file, const char *format, unsigned flags,
                                   struct error *err);
struct block_node *block_open_protocol(const char *filename, unsigned flags, struct error *err);
/* A file without a name, for temporary data; takes the descriptor over. */
struct block_node *block_open_fd(int fd, const char *name, unsigned flags, struct error *err);
/* A closed node of a driver, for protocols of the caller's own (tests). */
struct block_node *block_node_new(const struct block_driver *driver, const char *filename,
                                  unsigned flags);
void block_close(struct block_node *n); /* NULL is nothing */
/* The format whose magic numbers are there, or raw. */
int block_probe(struct block_node *file, const struct block_driver **out);
/* The same of a first sector that somebody is about to write. */
const struct block_driver *block_probe_sector(const uint8_t sector[BLOCK_SECTOR]);

struct block_create {
    uint64_t size;
    const char *backing, *backing_format; /* NULL: none */
    const char *options;                  /* "name=value,...", of driver->create_options; NULL */
    const char *filename;
    const char *final_name; /* what it will be called when it is complete; NULL: filename */
};
/* A new image; an existing file is overwritten. */
int block_create(const char *filename, const char *format, const struct block_create *c,
                 struct error *err);

/* "a=1,b=2"; a comma in a value is doubled. Looking one up marks it used. */
struct block_options *block_options_parse(const char *text, struct error *err);
const char *block_option(struct block_options *o, const char *name);
/* 0, or -EINVAL naming the value. Missing: *out stays. */
int block_option_size(struct block_options *o, const char *name, uint64_t *out, struct error *err);
int block_option_bool(struct block_options *o, const char *name, bool *out, struct error *err);
/* The first that nobody looked up, or NULL. */
const char *block_option_unused(const struct block_options *o);
void block_options_free(struct block_options *o);
/* "10G", "1.5M", "512": bytes; suffixes k, M, G, T, P, E. */
int block_parse_size(const char *text, uint64_t *out, struct error *err);

/* ---- contents ---------------------------------------------------------------------------------
 */

int block_read(struct block_node *n, uint64_t offset, void *buffer, size_t length);
int block_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length);
int block_flush(struct block_node *n);
int block_discard(struct block_node *n, uint64_t offset, uint64_t length);
/* unmap: the space may be given up. Without, it stays allocated where it is. */
int block_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap);
/* Whole clusters (or the image's tail); -ENOTSUP where the format has no compression. */
int block_write_compressed(struct block_node *n, uint64_t offset, const void *buffer,
                           size_t length);
/* Never BLOCK_UNBACKED: goes down the chain of backing files. */
int block_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
              struct block_extent *out);
/* The same for people and converters: holes in the host's file are zeros, too. */
int block_status(struct block_node *n, uint64_t offset, uint64_t length, struct block_extent *out);
int block_resize(struct block_node *n, uint64_t size, struct error *err);

/* ---- for drivers ------------------------------------------------------------------------------
 */

/* Bytes of a backing file, zeros behind its end or where there is none. */
int block_read_backing(struct block_node *n, uint64_t offset, void *buffer, size_t length);
unsigned block_begin(struct block_node *n); /* a request begins; gives what block_end() wants */
void block_end(struct block_node *n, unsigned ticket);
/* Start a new epoch if the last one is over. True: every request that began before the previous
 * call that returned true has ended. Not to be called by two threads at once. */
bool block_quiesced(struct block_node *n);
bool block_is_zero(const void *buffer, size_t length);
/* A protocol's file reaches at least to `end` now. */
void block_grew(struct block_node *n, uint64_t end);
static inline uint64_t load_be(const void *p, unsigned size)
{
    return __builtin_bswap64(load_le(p, size)) >> (64 - 8 * size);
}
static inline void store_be(void *p, uint64_t v, unsigned size)
{
    store_le(p, __builtin_bswap64(v) >> (64 - 8 * size), size);
}

/* ---- what people ask about --------------------------------------------------------------------
 */

enum { BLOCK_FIX_LEAKS = 1 << 0, BLOCK_FIX_ERRORS = 1 << 1 };
struct block_check {
    unsigned fix;                                 /* in: what to mend */
    void (*tell)(void *opaque, const char *text); /* in: a line about each; may be NULL */
    void *opaque;
    uint64_t corruptions, leaks, errors; /* out: that are still there */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t clusters, allocated, compressed, fragmented;
    uint64_t image_end; /* first byte behind what is in use */
};
/* 0 although the image is damaged: see the counts. */
int block_check(struct block_node *n, struct block_check *c, struct error *err);
/* A line of a check. */
void block_check_tell(struct block_check *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

struct block_snapshot {
    char id[16], name[256];
    uint64_t vm_state_size, date_sec, vm_clock_nsec, disk_size;
    uint32_t date_nsec;
};

enum { BLOCK_INFO_MAX = 24 };
struct block_info {
    uint64_t cluster_size;
    bool dirty, corrupt, encrypted;
    unsigned count; /* of facts of the format's own */
    struct {
        char name[32], value[64];
    } fact[BLOCK_INFO_MAX];
};
void block_info_add(struct block_info *i, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Bytes of the host's file that are really allocated. */
uint64_t block_allocated_size(struct block_node *n);

#endif
