/*
 * nbd.c - the protocol `nbd`.
 */
#include "block/drivers.h"

const struct block_driver *block_nbd_driver(void)
{
    return NULL;
}
