/*
 * file.c - the protocol `file`: regular files and block devices of the host.
 *
 * Locks. Every open takes open-file-description locks on single bytes far from any meaning, at the
 * places and with the sense that QEMU's have, so that the two keep each other off an image: byte
 * 100+p is read-locked by who uses permission p, byte 200+p by who does not suffer p in others.
 * Somebody conflicts when a write lock there could not be had. Locks need no file content and die
 * with the descriptor.
 *
 * O_DIRECT wants offsets, lengths and memory aligned: what is not goes through a buffer here, one
 * unaligned write at a time. The fast path (disk.c) only takes what is aligned.
 *
 * An fsync() that failed has dropped what it could not write, and the next one would say all is
 * well: the failure is remembered and every later flush fails, too.
 */
#include "block/drivers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PERM_BASE = 100, SHARE_BASE = 200 };
enum { PERM_READ = 1 << 0, PERM_WRITE = 1 << 1, PERM_RESIZE = 1 << 3, PERM_COUNT = 5 };
enum { BOUNCE = 1 << 20 };

struct file {
    bool device;
    bool no_zero, no_punch, no_discard; /* the host refused it once */
    atomic_int flush_error;
    pthread_mutex_t unaligned; /* O_DIRECT: one read-modify-write at a time */
    /* The last answer of file_hole(), which takes some file systems long; only of files that are
     * not written. */
    pthread_mutex_t hole_lock;
    uint64_t hole_start, hole_end;
    bool hole;
};

/* ---- locks ------------------------------------------------------------------------------------
 */

static int lock_byte(int fd, int command, short type, off_t at, struct flock *out)
{
    *out = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, command, out) < 0 ? -errno : 0;
}

static int take_locks(int fd, const char *path, unsigned flags, struct error *err)
{
    unsigned used = PERM_READ | (flags & BLOCK_WRITE ? PERM_WRITE | PERM_RESIZE : 0);
    unsigned denied = PERM_WRITE | PERM_RESIZE;
    struct flock f;
    int r;

    if (flags & BLOCK_FORCE_SHARE)
        return 0;
    for (unsigned p = 0; p < PERM_COUNT; p++) {
        if (used & 1u << p && (r = lock_byte(fd, F_OFD_SETLK, F_RDLCK, PERM_BASE + p, &f)) < 0)
            goto failed;
        if (denied & 1u << p && (r = lock_byte(fd, F_OFD_SETLK, F_RDLCK, SHARE_BASE + p, &f)) < 0)
            goto failed;
    }
    for (unsigned p = 0; p < PERM_COUNT; p++) {
        if (used & 1u << p) {
            r = lock_byte(fd, F_OFD_GETLK, F_WRLCK, SHARE_BASE + p, &f);
            if (r == 0 && f.l_type != F_UNLCK)
                return error_set(err, EBUSY,
                                 "'%s' is in use by another process that does not share it%s", path,
                                 flags & BLOCK_WRITE ? "; open it read-only or stop that process"
                                                     : "; stop that process");
        }
        if (denied & 1u << p) {
            r = lock_byte(fd, F_OFD_GETLK, F_WRLCK, PERM_BASE + p, &f);
            if (r == 0 && f.l_type != F_UNLCK)
                return error_set(err, EBUSY,
                                 "'%s' is open for writing in another process; stop it, or read "
                                 "with --force-share what may be half written",
                                 path);
        }
    }
    return 0;
failed:
    if (r == -EINVAL || r == -ENOLCK || r == -ENOSYS)
        return 0; /* a file system without locks */
    return error_set_errno(err, -r, "cannot lock '%s'", path);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int device_size(int fd, uint64_t *out)
{
    return ioctl(fd, BLKGETSIZE64, out) < 0 ? -errno : 0;
}

/* The least alignment that O_DIRECT takes here: asked by trying. */
static unsigned direct_alignment(int fd, bool device)
{
    void *buffer = aligned_alloc(4096, 4096);
    unsigned align = 512;
    int sector;

    if (device && ioctl(fd, BLKSSZGET, &sector) == 0 && sector >= 512 && sector <= 4096)
        align = (unsigned)sector;
    while (buffer && align < 4096 && pread(fd, buffer, align, align) < 0 && errno == EINVAL)
        align *= 2;
    free(buffer);
    return align;
}

static int attach(struct block_node *n, int fd, struct error *err)
{
    struct file *f = n->state;
    uint64_t size = 0;
    struct stat st;
    int r = 0;

    if (fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "cannot look at '%s'", n->filename);
    f->device = S_ISBLK(st.st_mode);
    if (f->device)
        r = device_size(fd, &size);
    else if (S_ISREG(st.st_mode))
        size = (uint64_t)st.st_size;
    else
        return error_set(err, EINVAL, "'%s' is neither a file nor a block device", n->filename);
    if (r < 0)
        return error_set_errno(err, -r, "cannot ask for the size of '%s'", n->filename);
    r = take_locks(fd, n->filename, n->flags, err);
    if (r < 0)
        return r;
    pthread_mutex_init(&f->unaligned, NULL);
    pthread_mutex_init(&f->hole_lock, NULL);
    n->size = size;
    n->fd = fd;
    n->align = n->flags & BLOCK_DIRECT ? direct_alignment(fd, f->device) : 1;
    return 0;
}

static int open_flags(const struct block_node *n)
{
    return O_CLOEXEC | (n->flags & BLOCK_WRITE ? O_RDWR : O_RDONLY) |
           (n->flags & BLOCK_DIRECT ? O_DIRECT : 0);
}

static int file_open(struct block_node *n, struct error *err)
{
    struct stat st;
    int flags = open_flags(n), fd, r;

    /* A mounted device must not be written below its file system: O_EXCL says so. */
    if (n->flags & BLOCK_WRITE && stat(n->filename, &st) == 0 && S_ISBLK(st.st_mode))
        flags |= O_EXCL;
    fd = open(n->filename, flags | O_NONBLOCK);
    if (fd < 0) {
        if (errno == EINVAL && flags & O_DIRECT)
            return error_set(err, EINVAL,
                             "the file system of '%s' has no O_DIRECT; use cache=writeback",
                             n->filename);
        if (errno == EBUSY)
            return error_set(err, EBUSY, "'%s' is in use by the host (mounted?)", n->filename);
        if ((errno == EACCES || errno == EROFS) && n->flags & BLOCK_WRITE)
            return error_set_errno(err, errno, "cannot open '%s' for writing (readonly=on reads)",
                                   n->filename);
        return error_set_errno(err, errno, "cannot open '%s'", n->filename);
    }
    r = attach(n, fd, err);
    if (r < 0)
        close(fd);
    return r;
}

struct block_node *block_open_fd(int fd, const char *name, unsigned flags, struct error *err)
{
    struct block_node *n = block_node_new(&block_file, name, flags);

    if (attach(n, fd, err) < 0) {
        close(fd);
        n->driver = &block_raw; /* nothing to close */
        block_close(n);
        return NULL;
    }
    return n;
}

struct block_node *block_file_create(const char *path, struct error *err)
{
    int fd = open(path, O_CLOEXEC | O_RDWR | O_CREAT, 0644);
    struct block_node *n;
    struct file *f;
    int r;

    if (fd < 0) {
        error_set_errno(err, errno, "cannot make '%s'", path);
        return NULL;
    }
    n = block_open_fd(fd, path, BLOCK_WRITE, err);
    if (!n)
        return NULL;
    f = n->state;
    if (!f->device) {
        r = ftruncate(n->fd, 0) < 0 ? -errno : 0;
        if (r < 0) {
            error_set_errno(err, -r, "cannot empty '%s'", path);
            block_close(n);
            return NULL;
        }
        n->size = 0;
    }
    return n;
}

static void file_close(struct block_node *n)
{
    struct file *f = n->state;

    pthread_mutex_destroy(&f->unaligned);
    pthread_mutex_destroy(&f->hole_lock);
    close(n->fd);
}

/* ---- contents ---------------------------------------------------------------------------------
 */

static int read_all(int fd, uint64_t offset, void *buffer, size_t length)
{
    uint8_t *p = buffer;

    while (length) {
        ssize_t n = pread(fd, p, length, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) { /* the file became shorter behind our back, or a tail under O_DIRECT */
            memset(p, 0, length);
            return 0;
        }
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static int write_all(int fd, uint64_t offset, const void *buffer, size_t length)
{
    const uint8_t *p = buffer;

    while (length) {
        ssize_t n = pwrite(fd, p, length, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ENOSPC;
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static bool aligned(const struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    return !((offset | (uintptr_t)buffer | length) & (n->align - 1));
}

/* Through a buffer that O_DIRECT accepts; a write keeps what else is in its first and last block.
 */
static int bounce(struct block_node *n, uint64_t offset, uint8_t *in, const uint8_t *out,
                  size_t length)
{
    struct file *f = n->state;
    auto_free uint8_t *buffer = aligned_alloc(4096, BOUNCE);
    int r = buffer ? 0 : -ENOMEM;

    if (out)
        pthread_mutex_lock(&f->unaligned);
    while (r == 0 && length) {
        uint64_t start = align_down(offset, n->align);
        size_t skip = offset - start, step = MIN(length, BOUNCE - skip);
        size_t whole = align_up(skip + step, n->align);

        if (in || skip)
            r = read_all(n->fd, start, buffer, in ? whole : n->align);
        if (r == 0 && out && skip + step != whole && (whole > n->align || !skip))
            r = read_all(n->fd, start + whole - n->align, buffer + whole - n->align, n->align);
        if (r == 0 && in)
            memcpy(in, buffer + skip, step);
        if (r == 0 && out) {
            memcpy(buffer + skip, out, step);
            r = write_all(n->fd, start, buffer, whole);
        }
        offset += step;
        length -= step;
        in = in ? in + step : NULL;
        out = out ? out + step : NULL;
    }
    if (out)
        pthread_mutex_unlock(&f->unaligned);
    return r;
}

static int file_read(struct block_node *n, uint64_t offset, void *buffer, size_t length)
{
    if (aligned(n, offset, buffer, length))
        return read_all(n->fd, offset, buffer, length);
    return bounce(n, offset, buffer, NULL, length);
}

static int file_write(struct block_node *n, uint64_t offset, const void *buffer, size_t length)
{
    struct file *f = n->state;
    int r;

    if (f->device && !range_within(offset, length, n->size))
        return -ENOSPC;
    r = aligned(n, offset, buffer, length) ? write_all(n->fd, offset, buffer, length)
                                           : bounce(n, offset, NULL, buffer, length);
    if (r == 0)
        block_grew(n, offset + length);
    return r;
}

static int file_flush(struct block_node *n)
{
    struct file *f = n->state;
    int error = atomic_load(&f->flush_error);

    if (error)
        return -error;
    if (n->flags & BLOCK_NO_FLUSH || fdatasync(n->fd) == 0)
        return 0;
    error = errno;
    atomic_store(&f->flush_error, error);
    return -error;
}

static bool refused(int error)
{
    return error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS || error == EINVAL;
}

static int file_discard(struct block_node *n, uint64_t offset, uint64_t length)
{
    struct file *f = n->state;
    uint64_t size = n->size;
    int r;

    if (f->no_discard || offset >= size)
        return 0;
    length = MIN(length, size - offset);
    if (f->device) {
        uint64_t start = align_up(offset, 4096), end = align_down(offset + length, 4096);
        uint64_t range[2] = {start, end - start};

        if (start >= end)
            return 0;
        r = ioctl(n->fd, BLKDISCARD, range);
    } else {
        r = fallocate(n->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)length);
    }
    if (r < 0 && refused(errno)) {
        f->no_discard = true;
        return 0;
    }
    return r < 0 ? -errno : 0;
}

static int file_write_zeroes(struct block_node *n, uint64_t offset, uint64_t length, bool unmap)
{
    struct file *f = n->state;
    uint64_t size = n->size;

    if (f->device && !range_within(offset, length, size))
        return -ENOSPC;
    if (!range_within(offset, length, size) || (offset | length) & (n->align - 1))
        return -ENOTSUP;
    if (unmap && !f->no_punch) {
        if (fallocate(n->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)length) == 0)
            return 0;
        if (!refused(errno))
            return -errno;
        f->no_punch = true;
    }
    if (!f->no_zero) {
        if (fallocate(n->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)length) == 0)
            return 0;
        if (!refused(errno))
            return -errno;
        f->no_zero = true;
    }
    return -ENOTSUP;
}

static int file_map(struct block_node *n, uint64_t offset, uint64_t length, unsigned flags,
                    struct block_extent *out)
{
    (void)flags;
    *out = (struct block_extent){.kind = BLOCK_DATA, .length = length, .file = n, .offset = offset};
    return 0;
}

/* 1: a hole from `offset` to *end; 0: data. */
static int seek_hole(struct block_node *n, uint64_t offset, uint64_t *end)
{
    off_t data, hole;

    *end = BLOCK_SIZE_MAX;
    if (offset >= n->size)
        return 1;
    data = lseek(n->fd, (off_t)offset, SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? 1 : -errno;
    *end = (uint64_t)data;
    if ((uint64_t)data > offset)
        return 1;
    hole = lseek(n->fd, data, SEEK_HOLE);
    if (hole <= data)
        return -EIO;
    *end = (uint64_t)hole;
    return 0;
}

static int file_hole(struct block_node *n, uint64_t offset, uint64_t length, uint64_t *run)
{
    struct file *f = n->state;
    uint64_t end;
    int r;

    (void)length;
    if (f->device)
        return -ENOTSUP;
    pthread_mutex_lock(&f->hole_lock);
    if (!(n->flags & BLOCK_WRITE) && offset >= f->hole_start && offset < f->hole_end) {
        r = f->hole;
        end = f->hole_end;
    } else {
        r = seek_hole(n, offset, &end);
        if (r >= 0) {
            f->hole_start = offset;
            f->hole_end = end;
            f->hole = r;
        }
    }
    pthread_mutex_unlock(&f->hole_lock);
    *run = r < 0 ? 0 : end - offset;
    return r;
}

static int file_resize(struct block_node *n, uint64_t size, struct error *err)
{
    struct file *f = n->state;

    if (f->device) {
        uint64_t now;
        int r = device_size(n->fd, &now); /* somebody may have made it larger */

        if (r < 0 || size > now)
            return error_set(err, ENOSPC, "block device '%s' has %llu bytes, not %llu", n->filename,
                             (unsigned long long)n->size, (unsigned long long)size);
        n->size = now;
        return 0;
    }
    if (ftruncate(n->fd, (off_t)size) < 0)
        return error_set_errno(err, errno, "cannot make '%s' %llu bytes long", n->filename,
                               (unsigned long long)size);
    n->size = size;
    return 0;
}

int block_file_preallocate(struct block_node *n, uint64_t offset, uint64_t length, bool write)
{
    auto_free uint8_t *zeros = NULL;
    int r = 0;

    if (n->driver != &block_file)
        return -ENOTSUP;
    if (!length)
        return 0;
    if (!write && fallocate(n->fd, 0, (off_t)offset, (off_t)length) == 0) {
        block_grew(n, offset + length);
        return 0;
    }
    if (!write && !refused(errno))
        return -errno;
    zeros = aligned_alloc(4096, MiB);
    if (!zeros)
        return -ENOMEM;
    memset(zeros, 0, MiB);
    while (r == 0 && length) {
        size_t step = MIN(length, (uint64_t)MiB);

        r = file_write(n, offset, zeros, step);
        offset += step;
        length -= step;
    }
    return r;
}

uint64_t block_allocated_size(struct block_node *n)
{
    struct stat st;

    while (n->file)
        n = n->file;
    return n->fd >= 0 && fstat(n->fd, &st) == 0 && !S_ISBLK(st.st_mode)
               ? (uint64_t)st.st_blocks * 512
               : n->size;
}

const struct block_driver block_file = {
    .name = "file",
    .summary = "a file or block device of the host",
    .protocol = true,
    .instance_size = sizeof(struct file),
    .open = file_open,
    .close = file_close,
    .read = file_read,
    .write = file_write,
    .flush = file_flush,
    .discard = file_discard,
    .write_zeroes = file_write_zeroes,
    .map = file_map,
    .hole = file_hole,
    .resize = file_resize,
};
