/*
 * p9.h - a server of 9P2000.L for one host folder, message by message. virtio-9p is its transport.
 *
 * Nothing outside of the folder can be reached: every path is resolved by openat2() beneath it,
 * without following links, which are the guest's business. Names with '/' are refused. Only regular
 * files and folders are ever opened.
 *
 * One thread at a time. Descriptors the guest opens count against the process's own.
 */
#ifndef DEVICES_VIRTIO_P9_H
#define DEVICES_VIRTIO_P9_H

#include "base/error.h"
#include "base/util.h"

struct p9;

enum { P9_MSIZE_MAX = 512 * KiB, P9_MSIZE_MIN = 4096, P9_HEADER = 7 };

/* `mapped`: owner, mode and kind of files are kept in extended attributes (user.virtfs.*), so that
 * a guest's root can own files; otherwise the host's own are shown and changed as far as it allows.
 */
struct p9 *p9_open(const char *folder, bool mapped, bool read_only, struct error *err);
void p9_close(struct p9 *p); /* NULL is nothing */
void p9_reset(struct p9 *p); /* all that the guest has open is closed */

/* Answer the message of `size` bytes: the answer's size, at most `room`, which must be at least
 * P9_MSIZE_MIN. 0: it is no message at all. */
size_t p9_answer(struct p9 *p, const uint8_t *message, size_t size, uint8_t *answer, size_t room);

#endif
