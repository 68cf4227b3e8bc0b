/*
 * p9.c - see p9.h. The protocol is that of Linux's Documentation/filesystems/9p and of the 9P2000.L
 * description of diod; all integers are little-endian, strings have two bytes of length.
 *
 * A fid is a path below the folder, and a descriptor once it is opened. Paths change when the guest
 * renames something above them.
 *
 * Reading a message past its end makes it bad, which is looked at before anything is done. What is
 * written past the room for the answer makes the answer an error.
 */
#include "devices/virtio/p9.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    RLERROR = 7,
    TSTATFS = 8,
    TLOPEN = 12,
    TLCREATE = 14,
    TSYMLINK = 16,
    TMKNOD = 18,
    TRENAME = 20,
    TREADLINK = 22,
    TGETATTR = 24,
    TSETATTR = 26,
    TREADDIR = 40,
    TFSYNC = 50,
    TLOCK = 52,
    TGETLOCK = 54,
    TLINK = 70,
    TMKDIR = 72,
    TRENAMEAT = 74,
    TUNLINKAT = 76,
    TVERSION = 100,
    TATTACH = 104,
    TFLUSH = 108,
    TWALK = 110,
    TREAD = 116,
    TWRITE = 118,
    TCLUNK = 120,
    TREMOVE = 122,
};
enum {
    FIDS = 65536,
    WALK_MAX = 16,
    NO_FID = -1,
    QID_SIZE = 13,
    UNLOCKED = 2,
    REMOVE_FOLDER = 0x200
};
enum setattr {
    SET_MODE = 1,
    SET_UID = 2,
    SET_GID = 4,
    SET_SIZE = 8,
    SET_ATIME = 16,
    SET_MTIME = 32,
    SET_ATIME_GIVEN = 128,
    SET_MTIME_GIVEN = 256,
};
enum { GETATTR_BASIC = 0x7ff };

struct fid {
    uint32_t number;
    char *path; /* "." is the folder itself, else "a/b" */
    int fd;     /* -1: not open */
    DIR *dir;   /* of an open folder */
    struct fid *next;
};

struct p9 {
    int root;
    bool mapped, read_only;
    uint32_t msize;
    struct fid *fids;
    unsigned fid_count;
};

/* ---- messages ----------------------------------------------------------------------------------
 */

struct reader {
    const uint8_t *at, *end;
    bool bad;
};

struct writer {
    uint8_t *start, *at, *end;
    bool full;
};

static uint64_t get(struct reader *r, unsigned size)
{
    uint64_t v;

    if ((size_t)(r->end - r->at) < size) {
        r->bad = true;
        return 0;
    }
    v = size == 1 ? r->at[0] : load_le(r->at, size);
    r->at += size;
    return v;
}

/* Into a buffer of PATH_MAX bytes. */
static void get_string(struct reader *r, char *to)
{
    size_t size = get(r, 2);

    *to = '\0';
    if (size >= PATH_MAX || (size_t)(r->end - r->at) < size || memchr(r->at, 0, size)) {
        r->bad = true;
        return;
    }
    memcpy(to, r->at, size);
    to[size] = '\0';
    r->at += size;
}

static void put(struct writer *w, uint64_t value, unsigned size)
{
    if ((size_t)(w->end - w->at) < size) {
        w->full = true;
        return;
    }
    store_le(w->at, value, size);
    w->at += size;
}

static void put_string(struct writer *w, const char *s)
{
    size_t size = strlen(s);

    put(w, size, 2);
    if ((size_t)(w->end - w->at) < size) {
        w->full = true;
        return;
    }
    memcpy(w->at, s, size);
    w->at += size;
}

static void put_qid(struct writer *w, const struct stat *st)
{
    uint8_t type = S_ISDIR(st->st_mode) ? 0x80 : S_ISLNK(st->st_mode) ? 0x02 : 0;

    put(w, type, 1);
    put(w, (uint32_t)(st->st_mtim.tv_sec ^ st->st_mtim.tv_nsec ^ st->st_size << 8), 4);
    put(w, st->st_ino ^ (uint64_t)st->st_dev << 40, 8);
}

/* ---- fids --------------------------------------------------------------------------------------
 */

static struct fid *fid_find(struct p9 *p, uint32_t number)
{
    struct fid *f = p->fids;

    while (f && f->number != number)
        f = f->next;
    return f;
}

static int fid_new(struct p9 *p, uint32_t number, const char *path, struct fid **out)
{
    struct fid *f;

    if (fid_find(p, number))
        return -EINVAL;
    if (p->fid_count == FIDS)
        return -ENFILE;
    f = calloc(1, sizeof(*f));
    if (f)
        f->path = strdup(path);
    if (!f || !f->path) {
        free(f);
        return -ENOMEM;
    }
    f->number = number;
    f->fd = -1;
    f->next = p->fids;
    p->fids = f;
    p->fid_count++;
    *out = f;
    return 0;
}

static void fid_shut(struct fid *f)
{
    if (f->dir)
        closedir(f->dir); /* and its descriptor */
    else if (f->fd >= 0)
        close(f->fd);
    f->dir = NULL;
    f->fd = -1;
}

static void fid_free(struct p9 *p, struct fid *f)
{
    struct fid **q = &p->fids;

    while (*q != f)
        q = &(*q)->next;
    *q = f->next;
    p->fid_count--;
    fid_shut(f);
    free(f->path);
    free(f);
}

/* ---- paths -------------------------------------------------------------------------------------
 */

/* With O_PATH a link at the end is what is meant, and a descriptor of it the result. */
static int open_beneath(const struct p9 *p, const char *path, int flags, mode_t mode)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
                           .mode = mode,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
                                      RESOLVE_NO_SYMLINKS};
    long fd;

    fd = syscall(SYS_openat2, p->root, path, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

static bool good_name(const char *name)
{
    return *name && strlen(name) <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") &&
           strcmp(name, "..");
}

/* "a" and "b" make "a/b". */
static int join(char to[PATH_MAX], const char *folder, const char *name)
{
    int n;

    if (!strcmp(folder, "."))
        n = snprintf(to, PATH_MAX, "%s", name);
    else
        n = snprintf(to, PATH_MAX, "%s/%s", folder, name);
    return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* The folder something lies in, opened as a place, and its name there. */
static int open_parent(const struct p9 *p, const char *path, const char **name)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');

    if (!strcmp(path, "."))
        return -EBUSY;
    *name = slash ? slash + 1 : path;
    if (!slash)
        return open_beneath(p, ".", O_PATH | O_DIRECTORY, 0);
    snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
    return open_beneath(p, folder, O_PATH | O_DIRECTORY, 0);
}

/* ---- attributes that the guest means -----------------------------------------------------------
 */

/* Attributes of what a descriptor names, also one that is only a place. */
static void fd_path(int fd, char to[40])
{
    snprintf(to, 40, "/proc/self/fd/%d", fd);
}

static bool get_attribute(int fd, const char *name, uint64_t *value, unsigned size)
{
    uint8_t bytes[8] = {0};
    char path[40];

    fd_path(fd, path);
    if (getxattr(path, name, bytes, size) != (ssize_t)size)
        return false;
    *value = load_le(bytes, size);
    return true;
}

static int set_attribute(int fd, const char *name, uint64_t value, unsigned size)
{
    uint8_t bytes[8];
    char path[40];

    store_le(bytes, value, size);
    fd_path(fd, path);
    return setxattr(path, name, bytes, size, 0) < 0 ? -errno : 0;
}

static int stat_fd(const struct p9 *p, int fd, struct stat *st)
{
    uint64_t v;

    if (fstatat(fd, "", st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!p->mapped || !(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode)))
        return 0;
    if (get_attribute(fd, "user.virtfs.uid", &v, 4))
        st->st_uid = (uid_t)v;
    if (get_attribute(fd, "user.virtfs.gid", &v, 4))
        st->st_gid = (gid_t)v;
    if (get_attribute(fd, "user.virtfs.mode", &v, 4))
        st->st_mode = (mode_t)v;
    if (get_attribute(fd, "user.virtfs.rdev", &v, 8))
        st->st_rdev = (dev_t)v;
    return 0;
}

static int stat_path(const struct p9 *p, const char *path, struct stat *st)
{
    int fd = open_beneath(p, path, O_PATH, 0), r;

    if (fd < 0)
        return fd;
    r = stat_fd(p, fd, st);
    close(fd);
    return r;
}

static int set_owner(int fd, uint32_t uid, uint32_t gid)
{
    int r = 0;

    if (uid != UINT32_MAX)
        r = set_attribute(fd, "user.virtfs.uid", uid, 4);
    if (!r && gid != UINT32_MAX)
        r = set_attribute(fd, "user.virtfs.gid", gid, 4);
    return r;
}

/* What a new file is to be, as the guest sees it. */
static int mark_new(const struct p9 *p, int fd, mode_t mode, uint32_t gid, uint64_t rdev)
{
    int r;

    if (!p->mapped)
        return 0;
    r = set_attribute(fd, "user.virtfs.mode", mode, 4);
    if (!r)
        r = set_owner(fd, 0, gid);
    if (!r && rdev)
        r = set_attribute(fd, "user.virtfs.rdev", rdev, 8);
    return r;
}

/* ---- the messages ------------------------------------------------------------------------------
 * Each reads its fields, acts, and writes the answer's body: 0 or -errno.
 */

struct call {
    struct p9 *p;
    struct reader r;
    struct writer w;
};

static struct fid *get_fid(struct call *c)
{
    return fid_find(c->p, (uint32_t)get(&c->r, 4));
}

static int do_version(struct call *c)
{
    uint32_t msize = (uint32_t)get(&c->r, 4);
    char version[PATH_MAX];

    get_string(&c->r, version);
    if (c->r.bad || msize < P9_MSIZE_MIN)
        return -EMSGSIZE;
    p9_reset(c->p);
    c->p->msize = MIN(msize, (uint32_t)P9_MSIZE_MAX);
    put(&c->w, c->p->msize, 4);
    put_string(&c->w, !strncmp(version, "9P2000.L", 8) ? "9P2000.L" : "unknown");
    return 0;
}

static int do_attach(struct call *c)
{
    uint32_t number = (uint32_t)get(&c->r, 4);
    struct stat st;
    struct fid *f;
    int r;

    if (c->r.bad)
        return -EINVAL;
    r = stat_path(c->p, ".", &st);
    if (!r)
        r = fid_new(c->p, number, ".", &f);
    if (!r)
        put_qid(&c->w, &st);
    return r;
}

static int do_walk(struct call *c)
{
    struct fid *f = get_fid(c), *new;
    uint32_t number = (uint32_t)get(&c->r, 4);
    unsigned names = (unsigned)get(&c->r, 2), done = 0;
    char path[PATH_MAX], next[PATH_MAX], name[PATH_MAX];
    uint8_t *count = c->w.at;
    int r = 0;

    if (c->r.bad || names > WALK_MAX)
        return -EINVAL;
    if (!f || f->fd >= 0)
        return -EBADF;
    if (f->number != number && fid_find(c->p, number))
        return -EBADF;
    snprintf(path, sizeof(path), "%s", f->path);
    put(&c->w, 0, 2);
    for (; done < names && !r; done++) {
        struct stat st;

        get_string(&c->r, name);
        if (c->r.bad)
            return -EINVAL;
        if (!strcmp(name, "..")) {
            char *slash = strrchr(path, '/');

            snprintf(next, sizeof(next), "%.*s", slash ? (int)(slash - path) : 1,
                     slash ? path : ".");
        } else {
            r = good_name(name) ? join(next, path, name) : -ENOENT;
        }
        if (!r)
            r = stat_path(c->p, next, &st);
        if (r < 0)
            break;
        put_qid(&c->w, &st);
        memcpy(path, next, sizeof(path));
    }
    if (r < 0 && !done)
        return r;
    store_le(count, done, 2);
    if (done < names) /* part of the way: the new fid is not made */
        return 0;
    if (number != f->number)
        return fid_new(c->p, number, path, &new);
    free(f->path);
    f->path = strdup(path);
    return f->path ? 0 : -ENOMEM;
}

static bool wants_write(uint32_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
}

static int open_flags(const struct p9 *p, uint32_t flags)
{
    (void)p;
    return (int)(flags & (O_ACCMODE | O_TRUNC | O_APPEND | O_DIRECTORY)) | O_NONBLOCK | O_NOCTTY;
}

static int open_fid(struct p9 *p, struct fid *f, uint32_t flags)
{
    struct stat st;
    int r = stat_path(p, f->path, &st);

    if (r < 0)
        return r;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return -ENXIO; /* the guest's kernel opens devices and pipes itself */
    r = open_beneath(p, f->path, open_flags(p, flags), 0);
    if (r < 0)
        return r;
    f->fd = r;
    if (fstat(f->fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        fid_shut(f); /* another file meanwhile */
        return -ENXIO;
    }
    if (S_ISDIR(st.st_mode)) {
        f->dir = fdopendir(f->fd);
        if (!f->dir) {
            r = -errno;
            fid_shut(f);
            return r;
        }
    }
    return 0;
}

static int do_lopen(struct call *c)
{
    struct fid *f = get_fid(c);
    uint32_t flags = (uint32_t)get(&c->r, 4);
    struct stat st;
    int r;

    if (c->r.bad)
        return -EINVAL;
    if (!f || f->fd >= 0)
        return -EBADF;
    if (c->p->read_only && wants_write(flags))
        return -EROFS;
    r = open_fid(c->p, f, flags);
    if (!r)
        r = stat_fd(c->p, f->fd, &st);
    if (r < 0)
        return r;
    put_qid(&c->w, &st);
    put(&c->w, 0, 4);
    return 0;
}

static int do_lcreate(struct call *c)
{
    struct fid *f = get_fid(c);
    char name[PATH_MAX], path[PATH_MAX], *copy;
    uint32_t flags, mode, gid;
    struct stat st;
    int fd, r;

    get_string(&c->r, name);
    flags = (uint32_t)get(&c->r, 4);
    mode = (uint32_t)get(&c->r, 4);
    gid = (uint32_t)get(&c->r, 4);
    if (c->r.bad || !good_name(name))
        return -EINVAL;
    if (!f || f->fd >= 0)
        return -EBADF;
    if (c->p->read_only)
        return -EROFS;
    r = join(path, f->path, name);
    if (r < 0)
        return r;
    fd = open_beneath(c->p, path, open_flags(c->p, flags) | O_CREAT | (int)(flags & O_EXCL),
                      c->p->mapped ? 0600 : mode & 07777);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        r = -ENXIO;
    if (!r)
        r = mark_new(c->p, fd, (mode & 07777) | S_IFREG, gid, 0);
    if (!r)
        r = stat_fd(c->p, fd, &st);
    copy = r ? NULL : strdup(path);
    if (!copy) {
        close(fd);
        return r ? r : -ENOMEM;
    }
    free(f->path);
    f->path = copy;
    f->fd = fd;
    put_qid(&c->w, &st);
    put(&c->w, 0, 4);
    return 0;
}

static int do_read(struct call *c)
{
    struct fid *f = get_fid(c);
    uint64_t offset = get(&c->r, 8);
    uint32_t count = (uint32_t)get(&c->r, 4);
    ssize_t n;

    if (c->r.bad)
        return -EINVAL;
    if (!f || f->fd < 0 || f->dir)
        return -EBADF;
    put(&c->w, 0, 4);
    if (c->w.full || offset > INT64_MAX)
        return -EINVAL;
    n = pread(f->fd, c->w.at, MIN(count, (size_t)(c->w.end - c->w.at)), (off_t)offset);
    if (n < 0)
        return -errno;
    store_le(c->w.at - 4, (uint64_t)n, 4);
    c->w.at += n;
    return 0;
}

static int do_write(struct call *c)
{
    struct fid *f = get_fid(c);
    uint64_t offset = get(&c->r, 8);
    uint32_t count = (uint32_t)get(&c->r, 4);
    ssize_t n;

    if (c->r.bad || count > (size_t)(c->r.end - c->r.at) || offset > INT64_MAX)
        return -EINVAL;
    if (!f || f->fd < 0 || f->dir)
        return -EBADF;
    n = pwrite(f->fd, c->r.at, count, (off_t)offset);
    if (n < 0)
        return -errno;
    put(&c->w, (uint64_t)n, 4);
    return 0;
}

static int do_clunk(struct call *c)
{
    struct fid *f = get_fid(c);

    if (!f)
        return -EBADF;
    fid_free(c->p, f);
    return 0;
}

static int remove_path(struct p9 *p, const char *path, bool folder)
{
    const char *name;
    int parent, r = 0;

    if (p->read_only)
        return -EROFS;
    parent = open_parent(p, path, &name);
    if (parent < 0)
        return parent;
    if (unlinkat(parent, name, folder ? AT_REMOVEDIR : 0) < 0)
        r = -errno;
    close(parent);
    return r;
}

static int do_remove(struct call *c)
{
    struct fid *f = get_fid(c);
    struct stat st;
    int r;

    if (!f)
        return -EBADF;
    r = stat_path(c->p, f->path, &st);
    if (!r)
        r = remove_path(c->p, f->path, S_ISDIR(st.st_mode));
    fid_free(c->p, f); /* in any case */
    return r;
}

static int do_unlinkat(struct call *c)
{
    struct fid *f = get_fid(c);
    char name[PATH_MAX], path[PATH_MAX];
    uint32_t flags;
    int r;

    get_string(&c->r, name);
    flags = (uint32_t)get(&c->r, 4);
    if (c->r.bad || !good_name(name))
        return -EINVAL;
    if (!f)
        return -EBADF;
    r = join(path, f->path, name);
    return r < 0 ? r : remove_path(c->p, path, flags & REMOVE_FOLDER);
}

static int do_getattr(struct call *c)
{
    struct fid *f = get_fid(c);
    struct stat st;
    int r;

    get(&c->r, 8); /* we always give the basic ones */
    if (c->r.bad)
        return -EINVAL;
    if (!f)
        return -EBADF;
    r = f->fd >= 0 ? stat_fd(c->p, f->fd, &st) : stat_path(c->p, f->path, &st);
    if (r < 0)
        return r;
    put(&c->w, GETATTR_BASIC, 8);
    put_qid(&c->w, &st);
    put(&c->w, st.st_mode, 4);
    put(&c->w, st.st_uid, 4);
    put(&c->w, st.st_gid, 4);
    put(&c->w, st.st_nlink, 8);
    put(&c->w, st.st_rdev, 8);
    put(&c->w, (uint64_t)st.st_size, 8);
    put(&c->w, (uint64_t)st.st_blksize, 8);
    put(&c->w, (uint64_t)st.st_blocks, 8);
    put(&c->w, (uint64_t)st.st_atim.tv_sec, 8);
    put(&c->w, (uint64_t)st.st_atim.tv_nsec, 8);
    put(&c->w, (uint64_t)st.st_mtim.tv_sec, 8);
    put(&c->w, (uint64_t)st.st_mtim.tv_nsec, 8);
    put(&c->w, (uint64_t)st.st_ctim.tv_sec, 8);
    put(&c->w, (uint64_t)st.st_ctim.tv_nsec, 8);
    for (unsigned i = 0; i < 4; i++) /* birth, generation, data version: not told */
        put(&c->w, 0, 8);
    return 0;
}

static int change_mode(struct p9 *p, int fd, uint32_t mode)
{
    struct stat st;
    char path[40];

    fd_path(fd, path);
    if (!p->mapped)
        return chmod(path, mode & 07777) < 0 ? -errno : 0;
    if (stat_fd(p, fd, &st) < 0)
        return -EIO;
    return set_attribute(fd, "user.virtfs.mode", (st.st_mode & S_IFMT) | (mode & 07777), 4);
}

static int change_owner(struct p9 *p, int fd, uint32_t uid, uint32_t gid)
{
    if (p->mapped)
        return set_owner(fd, uid, gid);
    /* As far as the host allows: a guest's root is not the host's. */
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM)
        return -errno;
    return 0;
}

static int change_size(struct p9 *p, const char *path, uint64_t size)
{
    int fd = open_beneath(p, path, O_WRONLY | O_NONBLOCK, 0), r = 0;
    struct stat st;

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        r = -EINVAL;
    else if (size > INT64_MAX || ftruncate(fd, (off_t)size) < 0)
        r = size > INT64_MAX ? -EFBIG : -errno;
    close(fd);
    return r;
}

static struct timespec time_of(uint32_t valid, uint32_t now, uint32_t given, uint64_t sec,
                               uint64_t nsec)
{
    if (!(valid & now))
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    if (!(valid & given))
        return (struct timespec){.tv_nsec = UTIME_NOW};
    return (struct timespec){.tv_sec = (time_t)sec, .tv_nsec = (long)(nsec % 1000000000)};
}

static int do_setattr(struct call *c)
{
    struct fid *f = get_fid(c);
    uint32_t valid = (uint32_t)get(&c->r, 4), mode = (uint32_t)get(&c->r, 4);
    uint32_t uid = (uint32_t)get(&c->r, 4), gid = (uint32_t)get(&c->r, 4);
    uint64_t size = get(&c->r, 8), when[4];
    struct timespec times[2];
    char path[40];
    int fd, r = 0;

    for (unsigned i = 0; i < 4; i++)
        when[i] = get(&c->r, 8);
    if (c->r.bad)
        return -EINVAL;
    if (!f)
        return -EBADF;
    if (c->p->read_only)
        return -EROFS;
    fd = open_beneath(c->p, f->path, O_PATH, 0);
    if (fd < 0)
        return fd;
    times[0] = time_of(valid, SET_ATIME, SET_ATIME_GIVEN, when[0], when[1]);
    times[1] = time_of(valid, SET_MTIME, SET_MTIME_GIVEN, when[2], when[3]);
    if (valid & SET_SIZE)
        r = change_size(c->p, f->path, size);
    if (!r && valid & (SET_UID | SET_GID))
        r = change_owner(c->p, fd, valid & SET_UID ? uid : UINT32_MAX,
                         valid & SET_GID ? gid : UINT32_MAX);
    if (!r && valid & SET_MODE)
        r = change_mode(c->p, fd, mode);
    fd_path(fd, path);
    if (!r && valid & (SET_ATIME | SET_MTIME) && utimensat(AT_FDCWD, path, times, 0) < 0)
        r = -errno;
    close(fd);
    return r;
}

static int do_readdir(struct call *c)
{
    struct fid *f = get_fid(c);
    uint64_t offset = get(&c->r, 8);
    uint32_t count = (uint32_t)get(&c->r, 4);
    uint8_t *size = c->w.at, *start, *limit;
    struct dirent *d;

    if (c->r.bad)
        return -EINVAL;
    if (!f || !f->dir)
        return -EBADF;
    put(&c->w, 0, 4);
    if (c->w.full)
        return -EINVAL;
    start = c->w.at;
    limit = start + MIN(count, (size_t)(c->w.end - start));
    if (offset)
        seekdir(f->dir, (long)offset);
    else
        rewinddir(f->dir);
    while ((errno = 0, d = readdir(f->dir))) {
        size_t name = strlen(d->d_name);
        struct stat st = {.st_ino = d->d_ino};

        if (c->w.at + QID_SIZE + 8 + 1 + 2 + name > limit)
            break;
        st.st_mode = d->d_type == DT_DIR ? S_IFDIR : d->d_type == DT_LNK ? S_IFLNK : S_IFREG;
        put_qid(&c->w, &st);
        put(&c->w, (uint64_t)d->d_off, 8);
        put(&c->w, c->p->mapped && d->d_type == DT_REG ? DT_UNKNOWN : d->d_type, 1);
        put_string(&c->w, d->d_name);
    }
    if (!d && errno)
        return -errno;
    store_le(size, (uint64_t)(c->w.at - start), 4);
    return 0;
}

static int do_fsync(struct call *c)
{
    struct fid *f = get_fid(c);

    if (!f || f->fd < 0)
        return -EBADF;
    return fsync(f->fd) < 0 ? -errno : 0;
}

static int do_statfs(struct call *c)
{
    struct fid *f = get_fid(c);
    struct statfs s;

    if (!f)
        return -EBADF;
    if (fstatfs(c->p->root, &s) < 0)
        return -errno;
    put(&c->w, 0x01021997, 4); /* V9FS_MAGIC */
    put(&c->w, (uint64_t)s.f_bsize, 4);
    put(&c->w, s.f_blocks, 8);
    put(&c->w, s.f_bfree, 8);
    put(&c->w, s.f_bavail, 8);
    put(&c->w, s.f_files, 8);
    put(&c->w, s.f_ffree, 8);
    put(&c->w, 0, 8);
    put(&c->w, NAME_MAX, 4);
    return 0;
}

/* The folder's descriptor, where a new name is to be made; checks all that is common. */
static int begin_new(struct call *c, const struct fid *f, const char *name)
{
    if (c->r.bad || !good_name(name))
        return -EINVAL;
    if (!f)
        return -EBADF;
    if (c->p->read_only)
        return -EROFS;
    return open_beneath(c->p, f->path, O_PATH | O_DIRECTORY, 0);
}

/* Marks what was made there, and tells its qid. */
static int end_new(struct call *c, int folder, const char *name, mode_t mode, uint32_t gid,
                   uint64_t rdev)
{
    int fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), r;
    struct stat st;

    if (fd < 0)
        return -errno;
    r = mark_new(c->p, fd, mode, gid, rdev);
    if (!r)
        r = stat_fd(c->p, fd, &st);
    close(fd);
    if (!r)
        put_qid(&c->w, &st);
    return r;
}

static int do_mkdir(struct call *c)
{
    struct fid *f = get_fid(c);
    char name[PATH_MAX];
    uint32_t mode, gid;
    int folder, r;

    get_string(&c->r, name);
    mode = (uint32_t)get(&c->r, 4);
    gid = (uint32_t)get(&c->r, 4);
    folder = begin_new(c, f, name);
    if (folder < 0)
        return folder;
    r = mkdirat(folder, name, c->p->mapped ? 0700 : mode & 07777) < 0 ? -errno : 0;
    if (!r)
        r = end_new(c, folder, name, (mode & 07777) | S_IFDIR, gid, 0);
    close(folder);
    return r;
}

/* A file that stands for something else, with contents. */
static int make_file(int folder, const char *name, const char *contents)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    ssize_t size = (ssize_t)strlen(contents), n;

    if (fd < 0)
        return -errno;
    n = size ? write(fd, contents, (size_t)size) : 0;
    close(fd);
    return n == size ? 0 : -EIO;
}

static int do_symlink(struct call *c)
{
    struct fid *f = get_fid(c);
    char name[PATH_MAX], target[PATH_MAX];
    int folder, r;
    uint32_t gid;

    get_string(&c->r, name);
    get_string(&c->r, target);
    gid = (uint32_t)get(&c->r, 4);
    folder = begin_new(c, f, name);
    if (folder < 0)
        return folder;
    if (c->p->mapped)
        r = make_file(folder, name, target);
    else
        r = symlinkat(target, folder, name) < 0 ? -errno : 0;
    if (!r)
        r = end_new(c, folder, name, S_IFLNK | 0777, gid, 0);
    close(folder);
    return r;
}

static int do_mknod(struct call *c)
{
    struct fid *f = get_fid(c);
    char name[PATH_MAX];
    uint32_t mode, major, minor, gid;
    int folder, r;

    get_string(&c->r, name);
    mode = (uint32_t)get(&c->r, 4);
    major = (uint32_t)get(&c->r, 4);
    minor = (uint32_t)get(&c->r, 4);
    gid = (uint32_t)get(&c->r, 4);
    folder = begin_new(c, f, name);
    if (folder < 0)
        return folder;
    if (!c->p->mapped && !S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        r = -EPERM; /* no devices on the host */
    else if (c->p->mapped)
        r = make_file(folder, name, "");
    else
        r = mknodat(folder, name, mode & (S_IFMT | 07777), 0) < 0 ? -errno : 0;
    if (!r)
        r = end_new(c, folder, name, mode, gid, makedev(major, minor));
    close(folder);
    return r;
}

static int do_link(struct call *c)
{
    struct fid *folder_fid = get_fid(c), *f = get_fid(c);
    char name[PATH_MAX];
    const char *old;
    int folder, from, r;

    get_string(&c->r, name);
    if (!f)
        return -EBADF;
    folder = begin_new(c, folder_fid, name);
    if (folder < 0)
        return folder;
    from = open_parent(c->p, f->path, &old);
    r = from < 0 ? from : linkat(from, old, folder, name, 0) < 0 ? -errno : 0;
    if (from >= 0)
        close(from);
    close(folder);
    return r;
}

static int do_readlink(struct call *c)
{
    struct fid *f = get_fid(c);
    char target[PATH_MAX];
    struct stat st;
    ssize_t n = 0;
    int fd, r;

    if (!f)
        return -EBADF;
    fd = open_beneath(c->p, f->path, O_PATH, 0);
    if (fd < 0)
        return fd;
    r = stat_fd(c->p, fd, &st);
    if (!r && !S_ISLNK(st.st_mode))
        r = -EINVAL;
    if (!r) {
        n = readlinkat(fd, "", target, sizeof(target) - 1);
        if (n < 0 && c->p->mapped) { /* a file that stands for a link */
            close(fd);
            fd = open_beneath(c->p, f->path, O_RDONLY | O_NONBLOCK, 0);
            n = fd < 0 ? -1 : read(fd, target, sizeof(target) - 1);
        }
        if (n < 0)
            r = -errno;
    }
    if (fd >= 0)
        close(fd);
    if (r < 0)
        return r;
    target[n] = '\0';
    put_string(&c->w, target);
    return 0;
}

/* Paths of fids below what was renamed follow it. */
static void follow_rename(struct p9 *p, const char *from, const char *to)
{
    size_t length = strlen(from);

    for (struct fid *f = p->fids; f; f = f->next)
        if (!strncmp(f->path, from, length) && (!f->path[length] || f->path[length] == '/')) {
            char *path = xasprintf("%s%s", to, f->path + length);

            free(f->path);
            f->path = path;
        }
}

static int rename_path(struct call *c, const char *from, const char *to)
{
    const char *from_name, *to_name;
    int source, target, r = 0;

    if (c->p->read_only)
        return -EROFS;
    source = open_parent(c->p, from, &from_name);
    if (source < 0)
        return source;
    target = open_parent(c->p, to, &to_name);
    if (target < 0)
        r = target;
    else if (renameat(source, from_name, target, to_name) < 0)
        r = -errno;
    else
        follow_rename(c->p, from, to);
    close(source);
    if (target >= 0)
        close(target);
    return r;
}

static int do_rename(struct call *c)
{
    struct fid *f = get_fid(c), *folder = get_fid(c);
    char name[PATH_MAX], from[PATH_MAX], to[PATH_MAX];
    int r;

    get_string(&c->r, name);
    if (c->r.bad || !good_name(name))
        return -EINVAL;
    if (!f || !folder)
        return -EBADF;
    snprintf(from, sizeof(from), "%s", f->path);
    r = join(to, folder->path, name);
    return r < 0 ? r : rename_path(c, from, to);
}

static int do_renameat(struct call *c)
{
    struct fid *source = get_fid(c), *target;
    char from[PATH_MAX], to[PATH_MAX], name[PATH_MAX], new_name[PATH_MAX];
    int r;

    get_string(&c->r, name);
    target = get_fid(c);
    get_string(&c->r, new_name);
    if (c->r.bad || !good_name(name) || !good_name(new_name))
        return -EINVAL;
    if (!source || !target)
        return -EBADF;
    r = join(from, source->path, name);
    if (!r)
        r = join(to, target->path, new_name);
    return r < 0 ? r : rename_path(c, from, to);
}

/* There is one guest, and its kernel keeps its locks. */
static int do_lock(struct call *c)
{
    if (!get_fid(c))
        return -EBADF;
    put(&c->w, 0, 1);
    return 0;
}

static int do_getlock(struct call *c)
{
    uint64_t start, length, process;
    char client[PATH_MAX];

    if (!get_fid(c))
        return -EBADF;
    get(&c->r, 1);
    start = get(&c->r, 8);
    length = get(&c->r, 8);
    process = get(&c->r, 4);
    get_string(&c->r, client);
    if (c->r.bad)
        return -EINVAL;
    put(&c->w, UNLOCKED, 1);
    put(&c->w, start, 8);
    put(&c->w, length, 8);
    put(&c->w, process, 4);
    put_string(&c->w, client);
    return 0;
}

/* Requests are answered in turn: what is to be flushed has been answered. */
static int do_flush(struct call *c)
{
    return 0;
}

static int dispatch(struct call *c, uint8_t type)
{
    if (!c->p->msize && type != TVERSION)
        return -EPROTO;
    switch (type) {
    case TSTATFS: return do_statfs(c);
    case TLOPEN: return do_lopen(c);
    case TLCREATE: return do_lcreate(c);
    case TSYMLINK: return do_symlink(c);
    case TMKNOD: return do_mknod(c);
    case TRENAME: return do_rename(c);
    case TREADLINK: return do_readlink(c);
    case TGETATTR: return do_getattr(c);
    case TSETATTR: return do_setattr(c);
    case TREADDIR: return do_readdir(c);
    case TFSYNC: return do_fsync(c);
    case TLOCK: return do_lock(c);
    case TGETLOCK: return do_getlock(c);
    case TLINK: return do_link(c);
    case TMKDIR: return do_mkdir(c);
    case TRENAMEAT: return do_renameat(c);
    case TUNLINKAT: return do_unlinkat(c);
    case TVERSION: return do_version(c);
    case TATTACH: return do_attach(c);
    case TFLUSH: return do_flush(c);
    case TWALK: return do_walk(c);
    case TREAD: return do_read(c);
    case TWRITE: return do_write(c);
    case TCLUNK: return do_clunk(c);
    case TREMOVE: return do_remove(c);
    default: return -EOPNOTSUPP; /* extended attributes and authentication among them */
    }
}

size_t p9_answer(struct p9 *p, const uint8_t *message, size_t size, uint8_t *answer, size_t room)
{
    struct call c = {.p = p,
                     .r = {.at = message, .end = message + size},
                     .w = {.start = answer, .at = answer, .end = answer + room}};
    uint64_t said = get(&c.r, 4);
    uint8_t type = (uint8_t)get(&c.r, 1);
    uint16_t tag = (uint16_t)get(&c.r, 2);
    int r;

    if (c.r.bad || said != size)
        return 0;
    c.w.at += P9_HEADER;
    r = dispatch(&c, type);
    if (!r && c.w.full)
        r = -EMSGSIZE;
    if (r < 0) {
        c.w.at = answer + P9_HEADER;
        c.w.full = false;
        put(&c.w, (uint64_t)-r, 4);
        type = RLERROR - 1;
    }
    store_le(answer, (uint64_t)(c.w.at - answer), 4);
    answer[4] = (uint8_t)(type + 1);
    store_le(answer + 5, tag, 2);
    return (size_t)(c.w.at - answer);
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct p9 *p9_open(const char *folder, bool mapped, bool read_only, struct error *err)
{
    struct p9 *p = xcalloc(1, sizeof(*p));
    int fd;

    p->mapped = mapped;
    p->read_only = read_only;
    p->root = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (p->root < 0) {
        error_set_errno(err, errno, "cannot open folder '%s'", folder);
        free(p);
        return NULL;
    }
    fd = open_beneath(p, ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) {
        error_set_errno(err, -fd, "cannot read folder '%s'%s", folder,
                        fd == -ENOSYS ? ": Linux 5.6 or newer is needed (openat2)" : "");
        close(p->root);
        free(p);
        return NULL;
    }
    close(fd);
    return p;
}

void p9_reset(struct p9 *p)
{
    while (p->fids)
        fid_free(p, p->fids);
    p->msize = 0;
}

void p9_close(struct p9 *p)
{
    if (!p)
        return;
    p9_reset(p);
    close(p->root);
    free(p);
}
