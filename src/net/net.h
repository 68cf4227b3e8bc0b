/*
 * net.h - the cable between a network card and the world: back ends, and what a card is to them.
 *
 * A back end (user, tap, stream, dgram, socket) has one client at a time: the card. Both hand over
 * whole Ethernet frames without the frame check sequence. A frame may carry the virtio-net header:
 * work its sender left to others. A back end takes any such frame: what it cannot hand on it
 * completes itself (checksum, segments). A card is given only what it says it accepts.
 *
 * Threads: a back end has a thread of its own, which calls the client's hooks, one at a time, with
 * the client's lock held and no other. Everything here may be called from any thread, and with the
 * client's lock held, except net_attach(), net_set_running(), net_free() and net_forward_*(),
 * which wait for its thread and so must be called without it (a device's realize and unrealize
 * are). Nothing here ever waits for the host's network.
 */
#ifndef NET_NET_H
#define NET_NET_H

#include "base/error.h"
#include "base/util.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/uio.h>

struct net;

enum {
    NET_MAC = 6,
    NET_HEADER = 14,                        /* Ethernet's */
    NET_FRAME_MAX = 65535 + NET_HEADER + 8, /* a whole IP packet behind two VLAN tags */
    NET_MTU = 1500,
};

/* What the sender left undone: the fields of the virtio-net header (virtio 1.2, 5.1.6), with their
 * values, in host order. All zero: nothing. Offsets count from the start of the frame. */
enum net_offload_flag { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum net_gso {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3, /* IP fragments of a datagram: refused, nobody offers it */
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5,
    NET_GSO_ECN = 0x80,
};

struct net_offload {
    uint8_t flags;        /* enum net_offload_flag */
    uint8_t gso;          /* enum net_gso */
    uint16_t header;      /* bytes up to the payload, a hint */
    uint16_t segment;     /* payload bytes of each segment, 32 at least */
    uint16_t csum_start;  /* sum from here to the end ... */
    uint16_t csum_offset; /* ... goes here, counted from csum_start */
};

struct net_packet {
    const struct iovec *iov; /* the frame; the caller's, valid during the call */
    unsigned count;
    size_t size; /* sum of the lengths; 14 to NET_FRAME_MAX */
    struct net_offload offload;
};

/* Frames a receiver can be given besides complete ones. NET_DATA_VALID may come with any. */
enum net_feature {
    NET_CSUM = 1 << 0, /* NET_NEEDS_CSUM; the others imply it */
    NET_TSO4 = 1 << 1,
    NET_TSO6 = 1 << 2,
    NET_ECN = 1 << 3, /* TSO with the ECN bit */
    NET_USO = 1 << 4,
};

struct net_client {
    void *opaque;
    pthread_mutex_t *lock; /* held around each hook: the device's; NULL: none */
    /* A frame arrived. True: taken, or not wanted (another's address, the receiver is off). False:
     * there is no room: the back end keeps it and stops reading until net_receive_ready(). */
    bool (*receive)(void *opaque, const struct net_packet *p);
    /* After net_send() refused: there is room again. May be NULL. */
    void (*writable)(void *opaque);
    /* The cable was pulled or plugged. May be NULL. */
    void (*link)(void *opaque, bool up);
};

/*
 * Open a back end from "TYPE,key=value,...": the argument of --netdev, where a comma in a value is
 * written twice. docs/network.md lists types and keys; net_help() prints them.
 */
int net_open(const char *spec, struct net **out, struct error *err);
void net_free(struct net *n); /* detaches; NULL is nothing */
void net_help(FILE *out);
const char *net_id(const struct net *n);   /* id= of the spec, or its type */
const char *net_type(const struct net *n); /* "user", ... */

/* The card; the struct is copied. NULL detaches: afterwards no hook of the old client is running or
 * will run. A second client is refused (-EBUSY). */
int net_attach(struct net *n, const struct net_client *client, struct error *err);

/* Send a frame; it is copied or gone when this returns. False: not now (the queue is full): keep
 * it, writable() will be called. Frames of wrong size or with offloads that do not fit the frame
 * are dropped and count as sent, as do all while the link is down. Without a client's lock held
 * several threads may send at once. */
bool net_send(struct net *n, const struct net_packet *p);
/* receive() will take frames again. */
void net_receive_ready(struct net *n);
/* enum net_feature: what receive() may be given from now on; 0 at first and after net_attach(). A
 * frame that is being delivered may still be of the old kind only if the lock is not held here. */
void net_set_accepts(struct net *n, unsigned features);
/* What the back end hands on at full speed instead of doing it itself: for a card that may choose
 * what it offers its guest. All of it always works. */
unsigned net_features(const struct net *n);

/* The cable: as a person pulls it (set_link), and the back end's own carrier (a stream that is not
 * connected has none). Up is both. */
void net_set_link(struct net *n, bool up);
bool net_link(struct net *n);
/* While not running no client's hook is called: for a paused machine. Running at first. */
void net_set_running(struct net *n, bool running);

struct net_counts {
    uint64_t sent, sent_bytes, received, received_bytes;
    uint64_t send_dropped, receive_dropped; /* malformed, link down, no client, queue full */
};
void net_counts(struct net *n, struct net_counts *out);

/* Write what passes the cable, both ways, to a pcap file; NULL ends that. The `capture=` key does
 * it from the start. */
int net_capture(struct net *n, const char *path, struct error *err);

/* Port forwards of a user back end while it runs: "[tcp|udp]:[HOSTADDR]:PORT-[GUESTADDR]:PORT"; to
 * remove, the part before the '-'. -EOPNOTSUPP on other types. These wait for the back end's own
 * thread, at most as long as a round of it takes. */
int net_forward_add(struct net *n, const char *rule, struct error *err);
int net_forward_remove(struct net *n, const char *rule, struct error *err);

/* The address of card number `index` of the machine known as `identity` (its UUID or name): the
 * same at every start, 52:54:00 and a hash. */
void net_mac_of(const char *identity, unsigned index, uint8_t mac[NET_MAC]);
/* "52:54:00:12:34:56"; refuses multicast and zero. */
int net_mac_parse(const char *text, uint8_t mac[NET_MAC], struct error *err);

#endif
