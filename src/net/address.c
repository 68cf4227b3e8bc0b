/*
 * address.c - Ethernet addresses, and what else has no better place.
 */
#include "net/internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>

/* FNV-1a with MurmurHash3's finalizer: two names that differ in a letter differ everywhere. */
void net_mac_of(const char *identity, unsigned index, uint8_t mac[NET_MAC])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (const char *c = identity; *c; c++)
        h = (h ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
    for (unsigned i = 0; i < sizeof(index); i++)
        h = (h ^ (uint8_t)(index >> 8 * i)) * UINT64_C(0x100000001b3);
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    h ^= h >> 33;
    mac[0] = 0x52;
    mac[1] = 0x54;
    mac[2] = 0x00;
    mac[3] = (uint8_t)h;
    mac[4] = (uint8_t)(h >> 8);
    mac[5] = (uint8_t)(h >> 16);
}

static int hex(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

int net_mac_parse(const char *text, uint8_t mac[NET_MAC], struct error *err)
{
    uint8_t m[NET_MAC], any = 0;
    const char *p = text;

    for (unsigned i = 0; i < NET_MAC; i++) {
        if (!isxdigit((unsigned char)p[0]) || !isxdigit((unsigned char)p[1]) ||
            (i < NET_MAC - 1 ? p[2] != ':' && p[2] != '-' : p[2] != '\0'))
            return error_set(err, EINVAL, "'%s' is not an address like 52:54:00:12:34:56", text);
        m[i] = (uint8_t)(hex(p[0]) << 4 | hex(p[1]));
        any |= m[i];
        p += 3;
    }
    if (!any || m[0] & 1)
        return error_set(err, EINVAL, "'%s' cannot be a card's address: it is %s", text,
                         any ? "a multicast address" : "zero");
    memcpy(mac, m, NET_MAC);
    return 0;
}

int net_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}
