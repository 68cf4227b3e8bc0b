/*
 * internal.h - what the core (net.c) and the back ends share; for src/net only.
 *
 * A back end embeds struct net first. Its thread runs in rounds: hand over what waits, send what
 * waits, fill() the descriptors to wait for, poll(), ready(). Hooks run on that thread without
 * locks, but for transmit() of a back end that is `direct`, which any thread calls with n->lock.
 */
#ifndef NET_INTERNAL_H
#define NET_INTERNAL_H

#include "net/net.h"

#include <poll.h>
#include <stdatomic.h>

/* ---- options
 * -----------------------------------------------------------------------------------*/

enum { NET_OPTIONS_MAX = 64 };

struct net_options {
    char *text; /* holds the words */
    const char *type;
    struct {
        const char *key, *value;
    } item[NET_OPTIONS_MAX];
    unsigned count;
};

int net_options_parse(struct net_options *o, const char *spec, struct error *err);
void net_options_free(struct net_options *o);
/* The value given last, or NULL. */
const char *net_option(const struct net_options *o, const char *key);
/* The next item with that key from *position on (0 at first), or NULL. */
const char *net_option_next(const struct net_options *o, const char *key, unsigned *position);
/* 0, with *out left alone where the key is missing; -EINVAL. */
int net_option_bool(const struct net_options *o, const char *key, bool *out, struct error *err);
int net_option_number(const struct net_options *o, const char *key, uint64_t low, uint64_t high,
                      uint64_t *out, struct error *err);
/* A descriptor number that is open: 3 or above. */
int net_option_fd(const struct net_options *o, const char *key, int *out, struct error *err);

/* ---- back ends
 * ---------------------------------------------------------------------------------*/

struct net_poll {
    struct pollfd *fds;
    unsigned count, room;
    int timeout; /* milliseconds; -1: for ever. A hook may lower it */
};
unsigned net_poll_add(struct net_poll *p, int fd, short events); /* its index */
short net_poll_events(const struct net_poll *p, int fd);         /* 0: nothing, or not there */

struct net_ops {
    const char *type;
    const char *keys; /* "a|b|c": what the spec may say besides id and capture */
    const char *help; /* lines for net_help() */
    unsigned features;
    bool direct;
    size_t size;
    int (*open)(struct net *n, const struct net_options *o, struct error *err);
    void (*close)(struct net *n); /* also after a failed open */
    /* `receiving`: frames can be handed over now; else do not read any. */
    void (*fill)(struct net *n, struct net_poll *p, bool receiving);
    void (*ready)(struct net *n, struct net_poll *p, bool receiving);
    /* False: not now; fill() asks for writability while net_sending(n). */
    bool (*transmit)(struct net *n, const struct net_packet *p);
    void (*set_accepts)(struct net *n, unsigned features); /* with n->lock; may be NULL */
    int (*forward)(struct net *n, const char *rule, bool add, struct error *err); /* may be NULL */
};

extern const struct net_ops net_user_ops, net_tap_ops, net_bridge_ops, net_stream_ops,
    net_dgram_ops, net_socket_ops;

struct net_frame {
    struct net_frame *next;
    struct net_offload offload;
    size_t size;
    uint8_t bytes[];
};

struct net_queue {
    struct net_frame *first, **last;
    unsigned count;
    size_t bytes;
};

struct net_command {
    int (*run)(struct net *n, const char *rule, bool add, struct error *err);
    const char *rule;
    bool add, done;
    int result;
    struct error *err;
    struct net_command *next;
};

struct net {
    const struct net_ops *ops;
    char *id;
    pthread_t thread;
    bool thread_started;
    int wake;          /* eventfd */
    unsigned features; /* the type's; open() may take some away */

    pthread_mutex_t lock;   /* guards what follows. Order: the client's lock, then this */
    pthread_cond_t changed; /* a hook returned; a command is done */
    struct net_client client;
    bool attached, running, calling, stop;
    bool work;              /* there is some: another round */
    bool sleeping;          /* in poll(), or about to: wake it */
    bool blocked;           /* receive() refused: wait for net_receive_ready() */
    bool client_waits;      /* net_send() refused */
    bool link_set, carrier; /* set by a person; by the back end */
    bool link_told;         /* what the client knows */
    unsigned accepts;
    struct net_queue sending;
    struct net_command *commands;
    struct net_counts counts;
    struct net_pcap *pcap;
    bool pcap_dirty;

    struct net_queue pending; /* frames the client had no room for; the thread's */
};

/* For back ends, on their thread. */
void net_deliver(struct net *n, const struct net_packet *p);
void net_deliver_bytes(struct net *n, const void *frame, size_t size);
bool net_sending(struct net *n);
void net_set_carrier(struct net *n, bool up); /* also in open() */

/* ---- offload.c
 * ---------------------------------------------------------------------------------*/

/* Does what the header asks for fit the frame? */
bool net_offload_valid(const struct net_packet *p);
/* What a receiver must accept to be given this frame. */
unsigned net_offload_needs(const struct net_offload *o);
/* Do the work: `emit` gets frames that need only `accepts`, each as one iovec. */
void net_complete(const struct net_packet *p, unsigned accepts,
                  void (*emit)(void *opaque, const struct net_packet *p), void *opaque);
/* Put the checksum that `o` asks for into the frame. The offsets lie in it. */
void net_finish_csum(uint8_t *frame, size_t size, const struct net_offload *o);
/* The Internet checksum's sum, not folded; `sum` goes on. */
uint64_t net_sum(const void *data, size_t size, uint64_t sum);
uint16_t net_fold(uint64_t sum); /* folded and inverted, big endian as in a frame */
size_t net_flatten(const struct net_packet *p, uint8_t *to, size_t room);

/* ---- pcap.c
 * ------------------------------------------------------------------------------------*/

struct net_pcap;
int net_pcap_open(const char *path, struct net_pcap **out, struct error *err);
void net_pcap_write(struct net_pcap *p, const struct net_packet *packet);
void net_pcap_flush(struct net_pcap *p);
void net_pcap_close(struct net_pcap *p); /* NULL is nothing */

/* ---- address.c
 * ---------------------------------------------------------------------------------*/

int net_set_nonblocking(int fd);

#endif
