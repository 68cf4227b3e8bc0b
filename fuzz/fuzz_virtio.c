/*
 * fuzz_virtio.c - guests that break the rules of virtio: rings, chains, requests, registers,
 * configurations and state streams with wrong bytes, for each device in turn, over MMIO.
 *
 * The first byte says which device. The rest is a list of 8-byte operations: some set the device up
 * and send chains that are right in form, with whatever is in them; others write anywhere in the
 * rings and registers. Rings and buffers lie in one small window, so that operations meet. In the
 * end a reset must leave a device that a proper driver can start again.
 */
#include "fuzz.h"

#include "block/disk.h"
#include "chardev/chardev.h"
#include "devices/devices.h"
#include "devices/virtio/virtio_mmio.h"
#include "display/display.h"
#include "machine/machine.h"
#include "memory/ram.h"
#include "net/net.h"
#include "state/state.h"

#include <linux/virtio_mmio.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    OPERATION = 8,
    RAM = 4 * MiB,
    BASE = 0xfeb00000,
    RINGS = 0x100000,
    RING_STEP = 0x1000,
    DATA = 0x180000,
    DATA_SIZE = 0x4000,
    QUEUES = 8,
    SIZE = 8, /* the smallest ring there is */
    AVAIL = 0x400,
    USED = 0x800,
};

static const char *const kinds[] = {"rng", "balloon",  "serial", "blk",   "net", "scsi",
                                    "9p",  "keyboard", "tablet", "vsock", "gpu"};

struct guest {
    struct machine *m;
    struct virtio_device *v;
    struct chardev *chardev;
    uint16_t avail[QUEUES];
    int wire;
};

static struct machine_backend backends[4];

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_virtio: %s\n", what);
    abort();
}

static void set(struct guest *g, unsigned reg, uint32_t value)
{
    memory_write(g->m->memory, VIEW_NORMAL, BASE + reg, value, 4);
}

static uint32_t get(struct guest *g, unsigned reg)
{
    return (uint32_t)memory_read(g->m->memory, VIEW_NORMAL, BASE + reg, 4);
}

/* ---- the machines ------------------------------------------------------------------------------
 */

static struct disk *make_disk(void)
{
    char path[] = "/tmp/fuzz-virtio-XXXXXX";
    int fd = mkstemp(path);
    auto_free char *options = xasprintf("file=%s,format=raw", path);
    struct disk *d;

    check(fd >= 0 && !ftruncate(fd, 64 * KiB), "no file");
    close(fd);
    d = disk_open(options, NULL);
    check(d != NULL, "no disk");
    unlink(path);
    return d;
}

static char folder[] = "/tmp/fuzz-virtio-XXXXXX";

static void remove_folder(void)
{
    auto_free char *command = xasprintf("rm -rf '%s' '%s.v'", folder, folder);

    if (system(command))
        fprintf(stderr, "fuzz_virtio: '%s' is left\n", folder);
}

static void add(struct guest *g, const char *type, const char *properties)
{
    struct error err = {0};

    if (!device_add(g->m, device_type_find(type), properties, &err)) {
        fprintf(stderr, "fuzz_virtio: %s\n", err.text);
        abort();
    }
}

static void build(struct guest *g, const char *kind)
{
    struct machine_config config = {.memory = RAM, .cpus = 2, .name = "fuzz"};
    auto_free char *type = xasprintf("virtio-%s-device", kind);
    char properties[200];
    int n = snprintf(properties, sizeof(properties), "base=%#x,irq=5,packed=on", (unsigned)BASE);

    config.backends = backends;
    config.backend_count = ARRAY_SIZE(backends);
    config.display = display_new();
    g->m = machine_new(&config, true);
    g->m->ram_below_4g = RAM;
    check(
        !ram_block_new("ram", RAM, &g->m->ram, NULL) &&
            !memory_add_ram(g->m->memory, "ram", 0, RAM, 0, IN_ALL, g->m->ram, 0, true, NULL, NULL),
        "no RAM");
    backends[0] = (struct machine_backend){"chardev", "c", NULL};
    backends[1] = (struct machine_backend){"drive", "d", NULL};
    backends[2] = (struct machine_backend){"drive", "e", NULL};
    backends[3] = (struct machine_backend){"netdev", "n", NULL};
    if (!strcmp(kind, "blk") || !strcmp(kind, "scsi")) {
        backends[1].object = make_disk();
        backends[2].object = make_disk();
    }
    if (!strcmp(kind, "serial"))
        backends[0].object = g->chardev = chardev_null();
    if (!strcmp(kind, "net")) {
        char spec[60];
        int wire[2];
        struct net *net;

        check(!socketpair(AF_UNIX, SOCK_DGRAM, 0, wire), "no sockets");
        snprintf(spec, sizeof(spec), "dgram,local.type=fd,local.str=%d", wire[1]);
        check(!net_open(spec, &net, NULL), "no net");
        backends[3].object = net;
        g->wire = wire[0];
        snprintf(properties + n, sizeof(properties) - (size_t)n, ",netdev=n,queues=2");
    }
    if (!strcmp(kind, "blk"))
        snprintf(properties + n, sizeof(properties) - (size_t)n, ",drive=d,num-queues=2");
    if (!strcmp(kind, "serial"))
        snprintf(properties + n, sizeof(properties) - (size_t)n, ",max_ports=3");
    if (!strcmp(kind, "balloon"))
        snprintf(properties + n, sizeof(properties) - (size_t)n,
                 ",free-page-reporting=on,guest-stats-polling-interval=1");
    if ((!strcmp(kind, "9p") || !strcmp(kind, "vsock")) && strstr(folder, "XXXXXX")) {
        check(mkdtemp(folder) != NULL, "no folder");
        atexit(remove_folder);
    }
    if (!strcmp(kind, "vsock"))
        snprintf(properties + n, sizeof(properties) - (size_t)n, ",path=%s.v", folder);
    if (!strcmp(kind, "9p")) {
        snprintf(properties + n, sizeof(properties) - (size_t)n, ",path=%s,mount_tag=t", folder);
    }
    add(g, type, properties);
    g->v = to_virtio(g->m->devices);
    if (!strcmp(kind, "serial")) {
        add(g, "virtconsole", "chardev=c");
        add(g, "virtserialport", "name=x");
    }
    if (!strcmp(kind, "scsi")) {
        add(g, "scsi-hd", "drive=d");
        add(g, "scsi-cd", "drive=e,lun=3");
    }
}

/* ---- operations --------------------------------------------------------------------------------
 */

static gpa ring(unsigned q)
{
    return RINGS + RING_STEP * (q % QUEUES);
}

static void poke(struct guest *g, gpa at, uint64_t value, unsigned size)
{
    store_le(g->m->ram->host + at, value, size);
}

/* As a driver does it; `without`: features not to take. */
static void start(struct guest *g, uint64_t without)
{
    uint64_t features = g->v->offered & ~without & ~BIT(VIRTIO_F_ANY_LAYOUT);

    set(g, VIRTIO_MMIO_STATUS, 0);
    check(get(g, VIRTIO_MMIO_STATUS) == 0, "a reset was not carried out");
    memset(g->m->ram->host + RINGS, 0, QUEUES * RING_STEP);
    memset(g->avail, 0, sizeof(g->avail));
    set(g, VIRTIO_MMIO_STATUS, 3);
    for (unsigned i = 0; i < 2; i++) {
        set(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        set(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32 * i));
    }
    set(g, VIRTIO_MMIO_STATUS, 11);
    for (unsigned q = 0; q < QUEUES; q++) {
        set(g, VIRTIO_MMIO_QUEUE_SEL, q);
        set(g, VIRTIO_MMIO_QUEUE_NUM, SIZE);
        set(g, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)ring(q));
        set(g, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)ring(q) + AVAIL);
        set(g, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)ring(q) + USED);
        set(g, VIRTIO_MMIO_QUEUE_READY, 1);
    }
    set(g, VIRTIO_MMIO_STATUS, 15);
}

static void describe(struct guest *g, unsigned q, unsigned n, uint32_t at, uint32_t length,
                     unsigned flags, unsigned next)
{
    gpa d = ring(q) + 16 * (n % SIZE);
    bool packed = virtio_has(g->v, VIRTIO_F_RING_PACKED);

    poke(g, d, DATA + at % DATA_SIZE, 8);
    poke(g, d + 8, length, 4);
    poke(g, d + (packed ? 14 : 12), flags, 2);
    poke(g, d + (packed ? 12 : 14), next, 2);
}

static void offer(struct guest *g, unsigned q, unsigned head)
{
    q %= QUEUES;
    poke(g, ring(q) + AVAIL + 4 + 2 * (g->avail[q] % SIZE), head, 2);
    poke(g, ring(q) + AVAIL + 2, ++g->avail[q], 2);
    set(g, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

/* Something to read and something to write, of the sizes given. */
static void send_chain(struct guest *g, unsigned q, uint32_t out, uint32_t in, uint32_t at)
{
    bool packed = virtio_has(g->v, VIRTIO_F_RING_PACKED);
    unsigned n = packed ? g->v->queue[q % QUEUES].next_avail : 0;
    unsigned wrap = packed && g->v->queue[q % QUEUES].avail_wrap ? 1 << 7 : packed ? 1 << 15 : 0;

    describe(g, q, n, at, out, (in ? VRING_DESC_F_NEXT : 0) | wrap, n + 1);
    if (in) {
        if (n + 1 == SIZE)
            wrap ^= 1 << 7 | 1 << 15;
        describe(g, q, n + 1, at + out, in, VRING_DESC_F_WRITE | wrap, 0);
    }
    offer(g, q, n);
}

static void corrupt_stream(struct guest *g, uint16_t where, uint8_t what)
{
    struct state_buffer b = {0};

    state_save_device(&b, &g->v->dev);
    if (b.size)
        b.data[where * 13u % b.size] ^= what;
    state_load_device(&b, &g->v->dev, NULL); /* may refuse */
    state_buffer_free(&b);
}

static void drain_wire(struct guest *g)
{
    char frame[2048];

    while (g->wire && recv(g->wire, frame, sizeof(frame), MSG_DONTWAIT) > 0)
        ;
}

static void operate(struct guest *g, const uint8_t *op)
{
    uint16_t half = (uint16_t)load_le(op + 2, 2);
    uint32_t word = (uint32_t)load_le(op + 4, 4);

    switch (op[0] % 24) {
    case 0: set(g, half % 0x200 & ~3u, word); break;
    case 1: set(g, VIRTIO_MMIO_CONFIG + half % 0x40, word); break;
    case 2: get(g, half % 0x200 & ~3u); break;
    case 3: start(g, (uint64_t)op[1] << 28 | half); break;
    case 4: describe(g, op[1], op[2], word, op[3] * 64u, op[7], op[6]); break;
    case 5: offer(g, op[1], op[2] % 32); break;
    case 6: poke(g, RINGS + word % (QUEUES * RING_STEP - 4), half, 2); break;
    case 7 ... 11: poke(g, DATA + half % (DATA_SIZE - 4), word, 4); break;
    case 12: poke(g, DATA + half % 64, op[4], 1); break;
    case 13 ... 17: send_chain(g, op[1] % 4, op[2], op[3] * 16u, word % 64); break;
    case 18: send_chain(g, op[1], word & 0xfff, word >> 16 & 0xfff, half); break;
    case 19: virtio_settle(g->v); break;
    case 20: corrupt_stream(g, half, op[4]); break;
    case 21: clock_advance(g->m->clock, word); break;
    case 22: /* a frame for the card */
        if (g->wire)
            send(g->wire, g->m->ram->host + DATA, 14 + half % 1500, MSG_DONTWAIT);
        break;
    default: device_reset(&g->v->dev); break;
    }
}

size_t fuzz_make_input(uint8_t *to, size_t room)
{
    size_t size = 1 + OPERATION * (2 + fuzz_random() % 60);

    for (size_t i = 0; i < size; i++)
        to[i] = (uint8_t)fuzz_random();
    to[1] = 3; /* most begin with a device that runs, with all features or few */
    if (fuzz_random() & 1)
        to[2] = to[3] = to[4] = 0;
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest guests[ARRAY_SIZE(kinds)];
    struct guest *g;

    if (!size)
        return 0;
    device_types_register(device_types);
    g = &guests[data[0] % ARRAY_SIZE(kinds)];
    if (!g->m)
        build(g, kinds[data[0] % ARRAY_SIZE(kinds)]);
    data++, size--;
    for (; size >= OPERATION; data += OPERATION, size -= OPERATION)
        operate(g, data);
    virtio_settle(g->v);
    drain_wire(g);
    device_reset(&g->v->dev);
    check(!g->m->gsi[5].raised, "a reset left the interrupt high");
    start(g, 0);
    check(get(g, VIRTIO_MMIO_STATUS) == 15, "the device does not start again");
    virtio_settle(g->v);
    check(get(g, VIRTIO_MMIO_STATUS) == 15, "empty queues break the device");
    device_reset(&g->v->dev);
    return 0;
}
