/*
 * memory_file.h - a host's file in memory that remembers every write and flush, so that a test can
 * ask what is left of it when the power fails in between.
 */
#ifndef TESTS_UNIT_BLOCK_MEMORY_FILE_H
#define TESTS_UNIT_BLOCK_MEMORY_FILE_H

#include "block/block.h"

struct memory_event {
    uint64_t offset;
    size_t length; /* 0: a flush, or (resize) a new length */
    bool resize;
    uint8_t *bytes;
};

struct memory_file {
    uint8_t *bytes;
    size_t size, room;
    bool recording;
    struct memory_event *event;
    size_t events, events_room;
    uint64_t limit;  /* writes behind it are -ENOSPC */
    int fail_after;  /* writes until one fails with EIO; -1: never */
    bool fail_again; /* and all after it */
};

void memory_file_init(struct memory_file *f);
void memory_file_free(struct memory_file *f);
void memory_file_record(struct memory_file *f); /* from now on, from this content */
/* A node on it; closing the node leaves the file. */
struct block_node *memory_file_open(struct memory_file *f, unsigned flags);
void memory_file_copy(struct memory_file *to, const struct memory_file *from);
/*
 * The file when the power fails after `events` events: `from` is the content when recording began.
 * All before the last flush is there; of what came after it each sector is there or not, as
 * random() says (NULL: all is there).
 */
void memory_file_cut(const struct memory_file *log, const struct memory_file *from, size_t events,
                     uint64_t (*random)(void), struct memory_file *out);

#endif
