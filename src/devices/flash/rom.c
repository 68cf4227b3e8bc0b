/*
 * rom.c - see rom.h.
 *
 * A name of the user's is looked for where he is before the packages' folders, a name of ours is
 * not: nobody must be able to slip a firmware into a machine by leaving a file in a folder.
 */
#include "devices/flash/rom.h"

#include "base/util.h"
#include "memory/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = {
    "/usr/share/seabios",      "/usr/share/OVMF",         "/usr/lib/ipxe/qemu",
    "/usr/share/qemu",         "/usr/share/edk2/ovmf",    "/usr/share/edk2/x64",
    "/usr/share/qemu/seabios", "/usr/local/share/hospes", NULL,
};

const char *rom_folder(unsigned n)
{
    return n < ARRAY_SIZE(folders) ? folders[n] : NULL;
}

int rom_find(const char *name, const char *package, char **out, struct error *err)
{
    if (strchr(name, '/')) {
        *out = xstrdup(name);
        return 0;
    }
    for (unsigned i = 0; folders[i]; i++) {
        char *path = xasprintf("%s/%s", folders[i], name);

        if (!access(path, R_OK)) {
            *out = path;
            return 0;
        }
        free(path);
    }
    return error_set(err, ENOENT,
                     "there is no '%s' in %s or other folders of firmware; install the "
                     "package '%s', or name the file with its folder",
                     name, folders[0], package);
}

static int read_whole(int fd, uint8_t *to, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        done += (uint64_t)n;
    }
    return 0;
}

int rom_load(const char *path, uint64_t most, bool at_end, struct ram_block **out, uint64_t *size,
             struct error *err)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct ram_block *block;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "cannot open firmware '%s'", path);
    if (!S_ISREG(st.st_mode) || st.st_size < 512 || (uint64_t)st.st_size > most)
        return error_set(err, EINVAL,
                         "firmware '%s' is not a file of 512 bytes to %llu KiB, but has %lld bytes",
                         path, (unsigned long long)(most / KiB), (long long)st.st_size);
    r = ram_block_new(path, (uint64_t)st.st_size, &block, err);
    if (r < 0)
        return r;
    r = read_whole(fd, block->host + (at_end ? block->size - (uint64_t)st.st_size : 0),
                   (uint64_t)st.st_size);
    if (r < 0) {
        ram_block_free(block);
        return error_set_errno(err, -r, "cannot read firmware '%s'", path);
    }
    *out = block;
    *size = (uint64_t)st.st_size;
    return 0;
}
