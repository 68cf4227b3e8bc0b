/* card.h - a card for tests of back ends: it keeps what it was given, and can refuse. */
#ifndef TESTS_NET_CARD_H
#define TESTS_NET_CARD_H

#include "net/net.h"

enum { CARD_FRAMES = 64 };

struct card {
    pthread_mutex_t lock; /* the client's lock; guards the rest */
    pthread_cond_t changed;
    struct net *net;
    unsigned room; /* frames it will still take */
    unsigned count, refused, writable, links;
    bool link;
    struct {
        size_t size;
        struct net_offload offload;
        uint8_t *bytes;
    } frame[CARD_FRAMES];
};

void card_attach(struct card *c, struct net *n);
void card_free(struct card *c); /* detaches */
/* Waits at most five seconds until `count` frames are there. */
bool card_wait(struct card *c, unsigned count);
/* Waits for a frame of that EtherType that `match` likes (NULL: any) from index *from on. */
const uint8_t *card_find(struct card *c, unsigned *from, unsigned type,
                         bool (*match)(const uint8_t *frame, size_t size), size_t *size);
bool card_send(struct card *c, const void *frame, size_t size);

#endif
