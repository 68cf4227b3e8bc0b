/* test_file.c - see test_file.h. */
#include "support/unit.h"

#include "test_file.h"

#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void test_file_sector(uint64_t n, uint8_t out[512])
{
    store_le(out, n, 8);
    for (unsigned i = 8; i < 512; i++)
        out[i] = (uint8_t)(n * 7 + i * 13);
}

void test_file_open(struct test_file *f, uint64_t sectors, const char *options)
{
    char text[200];
    struct error err = {0};
    uint8_t sector[512];

    strcpy(f->path, "/tmp/hospes-test-disk-XXXXXX");
    f->fd = mkstemp(f->path);
    assert_true(f->fd >= 0);
    for (uint64_t n = 0; n < sectors; n++) {
        test_file_sector(n, sector);
        assert_int_equal(pwrite(f->fd, sector, 512, (off_t)(n * 512)), 512);
    }
    snprintf(text, sizeof(text), "file=%s,format=raw%s", f->path, options);
    f->disk = disk_open(text, &err);
    if (!f->disk)
        fail_msg("%s", err.text);
}

void test_file_close(struct test_file *f)
{
    if (!f->disk)
        return;
    disk_close(f->disk);
    close(f->fd);
    unlink(f->path);
    f->disk = NULL;
}

void test_file_read(struct test_file *f, uint64_t n, uint8_t out[512])
{
    assert_int_equal(pread(f->fd, out, 512, (off_t)(n * 512)), 512);
}
