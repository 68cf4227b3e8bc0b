/*
 * operand.h - what the one thing is that `hospes run` was given: a kernel, a disk image of some
 * format, a CD or DVD image, or a folder with a kernel and its RAM disk.
 *
 * It is found out by the content, once, when a person asks for it; never of an image that a device
 * uses already. Everything in the file may be wrong or hostile.
 */
#ifndef CLI_OPERAND_H
#define CLI_OPERAND_H

#include "base/error.h"
#include "base/util.h"

enum operand_kind { OPERAND_KERNEL, OPERAND_DISK, OPERAND_CD, OPERAND_FOLDER };

struct operand {
    enum operand_kind kind;
    const char *format;    /* DISK: a driver's name, static */
    uint64_t size;         /* DISK, CD: bytes as the guest sees it */
    bool bios, uefi;       /* DISK, CD: can such firmware start it, as far as can be seen? */
    char *kernel, *initrd; /* FOLDER: paths; initrd may be NULL */
};

/* 0, or -errno with *err that names the file. operand_free() in any case. */
int operand_look(const char *path, struct operand *out, struct error *err);
void operand_free(struct operand *o);

#endif
