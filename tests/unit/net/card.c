/* card.c - see card.h. */
#include "card.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

static bool receive(void *opaque, const struct net_packet *p)
{
    struct card *c = opaque;
    size_t used = 0;

    if (!c->room || c->count == CARD_FRAMES) {
        c->refused++;
        pthread_cond_broadcast(&c->changed);
        return false;
    }
    c->room--;
    c->frame[c->count].bytes = malloc(p->size);
    c->frame[c->count].size = p->size;
    c->frame[c->count].offload = p->offload;
    for (unsigned i = 0; i < p->count; i++) {
        memcpy(c->frame[c->count].bytes + used, p->iov[i].iov_base, p->iov[i].iov_len);
        used += p->iov[i].iov_len;
    }
    c->count++;
    pthread_cond_broadcast(&c->changed);
    return true;
}

static void writable(void *opaque)
{
    struct card *c = opaque;

    c->writable++;
    pthread_cond_broadcast(&c->changed);
}

static void link_changed(void *opaque, bool up)
{
    struct card *c = opaque;

    c->links++;
    c->link = up;
    pthread_cond_broadcast(&c->changed);
}

void card_attach(struct card *c, struct net *n)
{
    struct net_client client = {.opaque = c,
                                .lock = &c->lock,
                                .receive = receive,
                                .writable = writable,
                                .link = link_changed};

    *c = (struct card){.net = n, .room = CARD_FRAMES};
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    net_attach(n, &client, NULL);
}

void card_free(struct card *c)
{
    net_attach(c->net, NULL, NULL);
    for (unsigned i = 0; i < c->count; i++)
        free(c->frame[i].bytes);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
}

static struct timespec soon(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += 5;
    return t;
}

bool card_wait(struct card *c, unsigned count)
{
    struct timespec until = soon();
    bool there;

    pthread_mutex_lock(&c->lock);
    while (c->count < count && !pthread_cond_timedwait(&c->changed, &c->lock, &until))
        ;
    there = c->count >= count;
    pthread_mutex_unlock(&c->lock);
    return there;
}

const uint8_t *card_find(struct card *c, unsigned *from, unsigned type,
                         bool (*match)(const uint8_t *frame, size_t size), size_t *size)
{
    for (;; (*from)++) {
        const uint8_t *f;

        if (!card_wait(c, *from + 1))
            return NULL;
        f = c->frame[*from].bytes;
        if (f[12] << 8 != (int)(type & 0xff00) || f[13] != (type & 0xff) ||
            (match && !match(f, c->frame[*from].size)))
            continue;
        *size = c->frame[(*from)++].size;
        return f;
    }
}

bool card_send(struct card *c, const void *frame, size_t size)
{
    struct iovec iov = {(void *)(uintptr_t)frame, size};
    struct net_packet p = {.iov = &iov, .count = 1, .size = size};

    return net_send(c->net, &p);
}
