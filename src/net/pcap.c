/*
 * pcap.c - a capture file as tcpdump and Wireshark read it (the classic format, nanoseconds).
 */
#include "net/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

enum { PCAP_ETHERNET = 1, PCAP_BUFFER = 256 * KiB };

struct net_pcap {
    FILE *file;
    char *path;
    char buffer[PCAP_BUFFER];
};

struct pcap_file_header {
    uint32_t magic; /* 0xa1b23c4d: times in nanoseconds */
    uint16_t major, minor;
    uint32_t zone, accuracy, longest, link_type;
};

struct pcap_frame_header {
    uint32_t seconds, nanoseconds, stored, length;
};

int net_pcap_open(const char *path, struct net_pcap **out, struct error *err)
{
    const struct pcap_file_header h = {.magic = 0xa1b23c4d,
                                       .major = 2,
                                       .minor = 4,
                                       .longest = NET_FRAME_MAX,
                                       .link_type = PCAP_ETHERNET};
    FILE *f = fopen(path, "we");
    struct net_pcap *p;

    if (!f)
        return error_set_errno(err, errno, "cannot write the capture to '%s'", path);
    p = xcalloc(1, sizeof(*p));
    p->file = f;
    p->path = xstrdup(path);
    setvbuf(f, p->buffer, _IOFBF, sizeof(p->buffer));
    if (fwrite(&h, sizeof(h), 1, f) != 1 || fflush(f)) {
        int e = errno;

        net_pcap_close(p);
        return error_set_errno(err, e, "cannot write the capture to '%s'", path);
    }
    *out = p;
    return 0;
}

void net_pcap_write(struct net_pcap *p, const struct net_packet *packet)
{
    struct pcap_frame_header h = {.stored = (uint32_t)packet->size,
                                  .length = (uint32_t)packet->size};
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    h.seconds = (uint32_t)now.tv_sec;
    h.nanoseconds = (uint32_t)now.tv_nsec;
    fwrite(&h, sizeof(h), 1, p->file);
    for (unsigned i = 0; i < packet->count; i++)
        fwrite(packet->iov[i].iov_base, 1, packet->iov[i].iov_len, p->file);
}

void net_pcap_flush(struct net_pcap *p)
{
    fflush(p->file);
}

void net_pcap_close(struct net_pcap *p)
{
    if (!p)
        return;
    fclose(p->file);
    free(p->path);
    free(p);
}
