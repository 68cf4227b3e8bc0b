/*
 * seed.h - what a cloud image asks for at its first start (cloud-init's NoCloud): a small disk
 * named CIDATA with the user to make.
 */
#ifndef CLI_SEED_H
#define CLI_SEED_H

#include "base/error.h"

struct seed {
    const char *hostname;
    const char *user;     /* NULL: the image's own default user */
    const char *password; /* NULL: none */
    const char *ssh_key;  /* a public key, or the name of a file with some, a line each; NULL */
};

/* The disk, in a memfd of its own: the descriptor, the caller's; or -errno with *err. Open it as
 * /proc/self/fd/N. */
int seed_make(const struct seed *s, struct error *err);

#endif
