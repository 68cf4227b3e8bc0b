/*
 * 9p.c - virtio-9p: a folder of the host in the guest (mount -t 9p -o trans=virtio TAG FOLDER).
 * The messages are p9.c's. What a guest has open does not survive a snapshot: it must mount anew.
 */
#include "devices/devices.h"
#include "devices/virtio/p9.h"
#include "devices/virtio/virtio_mmio.h"
#include "devices/virtio/virtio_pci.h"

#include <errno.h>
#include <linux/virtio_9p.h>
#include <stdlib.h>

enum { QUEUE_SIZE = 128, TAG_MAX = 32 };

struct virtio_9p {
    struct virtio_device v;
    /* properties */
    char *path, *tag, *security;
    bool read_only;

    struct p9 *p9; /* io_lock, as the buffers */
    uint8_t request[P9_MSIZE_MAX], answer[P9_MSIZE_MAX];
};

static struct virtio_9p *to_9p(struct virtio_device *v)
{
    return container_of(v, struct virtio_9p, v);
}

static void take_message(struct virtio_queue *q, struct virtio_element *e)
{
    struct virtio_9p *n = to_9p(q->v);
    size_t size = iov_read(e->out, e->out_count, 0, n->request, sizeof(n->request));
    size_t room = MIN(e->in_size, sizeof(n->answer)), said;

    /* The buffer may be longer than the message. */
    said = size >= P9_HEADER ? load_le(n->request, 4) : 0;
    if (said < P9_HEADER || said > size || room < 11) {
        virtio_break(q->v, "a message of %zu bytes with room for %zu", e->out_size, e->in_size);
        virtqueue_discard(e);
        return;
    }
    size = p9_answer(n->p9, n->request, said, n->answer, room);
    virtqueue_push(q, e, iov_write(e->in, e->in_count, 0, n->answer, size));
}

static void p9_kicked(struct virtio_device *v, unsigned number)
{
    virtqueue_each(&v->queue[number], take_message);
}

static void p9_device_reset(struct virtio_device *v)
{
    p9_reset(to_9p(v)->p9);
}

static int p9_realize(struct virtio_device *v, struct error *err)
{
    struct virtio_9p *n = to_9p(v);
    const char *name = v->dev.type->name;

    if (!n->path || !n->tag)
        return error_set(err, EINVAL, "%s: say path=FOLDER and mount_tag=NAME", name);
    if (!*n->tag || strlen(n->tag) > TAG_MAX)
        return error_set(err, EINVAL, "%s: mount_tag=%s has not 1 to %d characters", name, n->tag,
                         TAG_MAX);
    if (strcmp(n->security, "none") && strcmp(n->security, "mapped-xattr") &&
        strcmp(n->security, "mapped"))
        return error_set(err, EINVAL, "%s: security_model=%s is neither none nor mapped-xattr",
                         name, n->security);
    n->p9 = p9_open(n->path, n->security[0] == 'm', n->read_only, err);
    if (!n->p9)
        return error_prefix(err, -err->code, "%s: ", name);
    v->offered |= BIT(VIRTIO_9P_MOUNT_TAG);
    store_le(v->config, strlen(n->tag), 2);
    memcpy(v->config + 2, n->tag, strlen(n->tag));
    v->config_size = 2 + (unsigned)strlen(n->tag);
    virtio_add_queue(v, QUEUE_SIZE);
    return 0;
}

static void p9_unrealize(struct virtio_device *v)
{
    p9_close(to_9p(v)->p9);
}

static const struct virtio_type p9_virtio = {
    .name = "virtio-9p",
    .id = VIRTIO_ID_9P,
    .legacy_id = 0x1009,
    .class_code = 0x018000,
    .realize = p9_realize,
    .unrealize = p9_unrealize,
    .reset = p9_device_reset,
    .refresh = p9_device_reset,
    .kicked = p9_kicked,
};

#define P9_PROPERTIES                                                                              \
    PROPERTY_STRING("path", struct virtio_9p, path, NULL, "the host's folder"),                    \
        PROPERTY_STRING("mount_tag", struct virtio_9p, tag, NULL, "what the guest mounts"),        \
        PROPERTY_STRING("security_model", struct virtio_9p, security, "mapped-xattr",              \
                        "mapped-xattr: owners and modes in attributes; none: the host's own"),     \
        PROPERTY_BOOL("readonly", struct virtio_9p, read_only, false, "nothing can be changed")

static const struct property p9_pci_properties[] = {
    VIRTIO_PCI_PROPERTIES(struct virtio_9p, v),
    P9_PROPERTIES,
    PROPERTY_END,
};
static const struct property p9_mmio_properties[] = {
    VIRTIO_MMIO_PROPERTIES(struct virtio_9p, v),
    P9_PROPERTIES,
    PROPERTY_END,
};
static const struct state_field p9_pci_state[] = {
    VIRTIO_PCI_STATE(struct virtio_9p, v),
    STATE_END,
};
static const struct state_field p9_mmio_state[] = {
    VIRTIO_MMIO_STATE(struct virtio_9p, v),
    STATE_END,
};

#define SUMMARY "a folder of the host (virtio)"
const struct device_type virtio_9p_pci_type =
    VIRTIO_PCI_DEVICE("virtio-9p-pci", SUMMARY, struct virtio_9p, p9_pci_properties, p9_pci_state,
                      p9_virtio, VIRTIO_PCI_CHOICE);
const struct device_type virtio_9p_pci_transitional_type =
    VIRTIO_PCI_DEVICE("virtio-9p-pci-transitional", SUMMARY, struct virtio_9p, p9_pci_properties,
                      p9_pci_state, p9_virtio, VIRTIO_PCI_TRANSITIONAL);
const struct device_type virtio_9p_pci_modern_type =
    VIRTIO_PCI_DEVICE("virtio-9p-pci-non-transitional", SUMMARY, struct virtio_9p,
                      p9_pci_properties, p9_pci_state, p9_virtio, VIRTIO_PCI_MODERN);
const struct device_type virtio_9p_mmio_type = VIRTIO_MMIO_DEVICE(
    "virtio-9p-device", SUMMARY, struct virtio_9p, p9_mmio_properties, p9_mmio_state, p9_virtio);
