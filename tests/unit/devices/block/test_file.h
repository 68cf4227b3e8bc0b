/*
 * test_file.h - a raw disk in a temporary file for tests of disk controllers: sector n begins with
 * n and goes on with bytes that follow from it. test_disk_settle() waits until the disk has nothing
 * to do, so that tests see what a guest would see some time later.
 */
#ifndef UNIT_BLOCK_TEST_FILE_H
#define UNIT_BLOCK_TEST_FILE_H

#include "block/disk.h"

struct test_file {
    char path[48];
    int fd;
    struct disk *disk;
};

/* `options` after the file's name, as ",readonly=on"; may be "". Fails the test on trouble. */
void test_file_open(struct test_file *f, uint64_t sectors, const char *options);
void test_file_close(struct test_file *f);           /* nothing, where it was not opened */
void test_file_sector(uint64_t n, uint8_t out[512]); /* as it is at first */
void test_file_read(struct test_file *f, uint64_t n, uint8_t out[512]); /* as it is now */

#endif
