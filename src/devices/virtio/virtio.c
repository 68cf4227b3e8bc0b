/*
 * virtio.c - features, status, configuration and the I/O thread. See virtio.h.
 *
 * The guest is told from virtio_io_end(), which first lets io_lock go: what is due is in `told`,
 * `tell_config` and `tell_broken`, taken under dev.lock, so that a reset in between, which clears
 * them, leaves nothing behind for the next driver.
 */
#include "devices/virtio/virtio.h"

#include "base/log.h"
#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* What the legacy interface cannot say. */
#define LEGACY_FEATURES ((UINT64_C(1) << 32) - 1)

static const struct state_field queue_state[] = {
    STATE_U16(struct virtio_queue, size),
    STATE_U16(struct virtio_queue, vector),
    STATE_BOOL(struct virtio_queue, enabled),
    STATE_U64(struct virtio_queue, desc),
    STATE_U64(struct virtio_queue, driver),
    STATE_U64(struct virtio_queue, device),
    STATE_U16(struct virtio_queue, next_avail),
    STATE_U16(struct virtio_queue, next_used),
    STATE_BOOL(struct virtio_queue, avail_wrap),
    STATE_BOOL(struct virtio_queue, used_wrap),
    STATE_END,
};

const struct state_field virtio_state[] = {
    STATE_U64(struct virtio_device, features),
    STATE_U8(struct virtio_device, status),
    STATE_U8(struct virtio_device, isr),
    STATE_U8(struct virtio_device, generation),
    STATE_U16(struct virtio_device, config_vector),
    STATE_U16(struct virtio_device, queue_select),
    STATE_U32(struct virtio_device, device_select),
    STATE_U32(struct virtio_device, driver_select),
    STATE_U32(struct virtio_device, page_size),
    STATE_U32(struct virtio_device, queue_align),
    STATE_BOOL(struct virtio_device, legacy_used),
    STATE_STRUCT_ARRAY(struct virtio_device, queue, queue_state),
    STATE_END,
};

/* ---- the I/O side ------------------------------------------------------------------------------
 */

void virtio_io_begin(struct virtio_device *v)
{
    atomic_fetch_add(&v->users, 1);
    atomic_fetch_add(&v->waiting, 1);
    pthread_mutex_lock(&v->io_lock);
    atomic_fetch_sub(&v->waiting, 1);
}

/* dev.lock held: tell the guest what is due. */
static void deliver(struct virtio_device *v)
{
    uint64_t queues = atomic_exchange(&v->told, 0);
    bool config = atomic_exchange(&v->tell_config, false);

    if (atomic_exchange(&v->tell_broken, false) && virtio_has(v, VIRTIO_F_VERSION_1)) {
        v->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        config |= (v->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
    }
    if (config)
        v->generation++;
    if (config || queues)
        v->transport->interrupt(v, queues, config);
}

/* io_lock held: which queues' interrupts are due? True: something is. */
static bool collect(struct virtio_device *v)
{
    for (unsigned i = 0; i < v->queues; i++)
        if (v->queue[i].used_pending && virtqueue_should_tell(&v->queue[i]))
            atomic_fetch_or(&v->told, BIT(i));
    return v->told || v->tell_config || v->tell_broken;
}

void virtio_io_end(struct virtio_device *v)
{
    bool due = collect(v);

    pthread_mutex_unlock(&v->io_lock);
    if (due) {
        pthread_mutex_lock(&v->dev.lock);
        deliver(v);
        pthread_mutex_unlock(&v->dev.lock);
    }
    atomic_fetch_sub(&v->users, 1); /* from here on the device may be freed */
}

void virtio_io_leave(struct virtio_device *v)
{
    pthread_mutex_unlock(&v->io_lock);
    atomic_fetch_sub(&v->users, 1);
}

bool virtio_io_live(const struct virtio_device *v)
{
    return v->live && v->running && !v->broken && v->allowed;
}

void virtio_request_begin(struct virtio_device *v)
{
    v->in_flight++;
}

void virtio_request_end(struct virtio_device *v)
{
    assert(v->in_flight);
    if (--v->in_flight == 0)
        pthread_cond_broadcast(&v->io_idle);
}

void virtio_tell_config(struct virtio_device *v)
{
    atomic_store(&v->tell_config, true);
}

void virtio_config_changed(struct virtio_device *v)
{
    if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
        atomic_store(&v->tell_config, true);
    else
        v->generation++;
    deliver(v);
}

void virtio_break(struct virtio_device *v, const char *format, ...)
{
    char text[200];
    va_list args;

    if (v->broken)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    v->broken = true;
    atomic_store(&v->tell_broken, true);
    if (v->dev.guest_errors++ == 0)
        log_warn("guest: %s: %s; the device waits for a reset", v->dev.id, text);
}

static void wake(struct virtio_device *v)
{
    uint64_t one = 1;

    if (write(v->kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_error("%s: cannot wake its thread", v->dev.id);
}

void virtio_kick(struct virtio_device *v, unsigned queue)
{
    if (!(atomic_fetch_or(&v->kicked, BIT(queue)) & BIT(queue)))
        wake(v);
}

static void handle_kicks(struct virtio_device *v)
{
    uint64_t queues;

    while (virtio_io_live(v) && !v->quit && (queues = atomic_exchange(&v->kicked, 0)))
        for (unsigned i = 0; i < v->queues; i++)
            if (queues & BIT(i) && v->queue[i].mapped && !v->broken && v->type->kicked) {
                if (atomic_load(&v->waiting)) { /* somebody wants to reset, say */
                    atomic_fetch_or(&v->kicked, queues >> i << i);
                    return;
                }
                v->type->kicked(v, i);
            }
}

static void *io_thread(void *opaque)
{
    struct virtio_device *v = opaque;
    bool again = false;
    uint64_t n;

    for (;;) {
        if (!again && read(v->kick_fd, &n, sizeof(n)) < 0 && errno != EINTR)
            return NULL;
        if (again)
            sched_yield();
        atomic_fetch_add(&v->users, 1); /* not by virtio_io_begin(): nobody must make room for us */
        pthread_mutex_lock(&v->io_lock);
        if (v->quit) {
            virtio_io_leave(v);
            return NULL;
        }
        again = false;
        if (virtio_io_live(v)) { /* otherwise kicks wait; what makes it live wakes us */
            v->working = true;
            handle_kicks(v);
            again = virtio_io_live(v) && v->kicked; /* we made room for somebody */
            virtio_io_end(v);
            atomic_fetch_add(&v->users, 1);
            pthread_mutex_lock(&v->io_lock);
            v->working = false;
        }
        pthread_cond_broadcast(&v->io_idle);
        virtio_io_leave(v);
    }
}

static void all_kicked(struct virtio_device *v)
{
    uint64_t queues = v->queues == 64 ? ~UINT64_C(0) : BIT(v->queues) - 1;

    atomic_store(&v->kicked, queues);
    wake(v);
}

/* Nothing is in flight any more. io_lock held. */
static void wait_for_requests(struct virtio_device *v)
{
    while (v->in_flight)
        pthread_cond_wait(&v->io_idle, &v->io_lock);
}

void virtio_settle(struct virtio_device *v)
{
    pthread_mutex_lock(&v->io_lock);
    while (v->in_flight || v->working || (v->kicked && virtio_io_live(v)))
        pthread_cond_wait(&v->io_idle, &v->io_lock);
    pthread_mutex_unlock(&v->io_lock);
}

void virtio_running(struct device *dev, bool running)
{
    struct virtio_device *v = to_virtio(dev);

    if (!running && v->type->running)
        v->type->running(v, false);
    virtio_io_begin(v);
    v->running = running;
    if (!running)
        wait_for_requests(v);
    virtio_io_end(v);
    if (running) {
        if (v->type->running)
            v->type->running(v, true);
        all_kicked(v);
    }
}

void virtio_allow(struct virtio_device *v, bool allowed)
{
    if (atomic_exchange(&v->allowed, allowed) == allowed)
        return;
    if (allowed) {
        all_kicked(v);
    } else { /* what is under way ends first */
        virtio_io_begin(v);
        virtio_io_leave(v);
    }
}

/* ---- queues ------------------------------------------------------------------------------------
 */

unsigned virtio_add_queue(struct virtio_device *v, uint16_t size)
{
    struct virtio_queue *q = &v->queue[v->queues];

    assert(v->queues < VIRTIO_QUEUES && is_power_of_2(size) && size <= VIRTIO_QUEUE_MAX);
    *q = (struct virtio_queue){.v = v, .number = v->queues, .max_size = size, .size = size};
    return v->queues++;
}

struct virtio_queue *virtio_selected(struct virtio_device *v)
{
    return v->queue_select < v->queues ? &v->queue[v->queue_select] : NULL;
}

static void queue_reset(struct virtio_queue *q)
{
    virtqueue_unmap(q);
    q->size = q->max_size;
    q->vector = VIRTIO_NO_VECTOR;
    q->enabled = false;
    q->desc = q->driver = q->device = 0;
    q->next_avail = q->next_used = 0;
    q->avail_wrap = q->used_wrap = true;
    q->used_pending = 0;
}

/* dev.lock and io_lock: begin to work with the queues that are enabled. */
static void go_live(struct virtio_device *v)
{
    v->live = true;
    for (unsigned i = 0; i < v->queues; i++)
        if (v->queue[i].enabled && !v->queue[i].mapped)
            virtqueue_map(&v->queue[i]);
    if (v->type->start && !v->broken)
        v->type->start(v);
}

void virtio_queue_enable(struct virtio_queue *q)
{
    struct virtio_device *v = q->v;

    q->enabled = true;
    pthread_mutex_lock(&v->io_lock);
    if (v->live && !q->mapped)
        virtqueue_map(q);
    pthread_mutex_unlock(&v->io_lock);
    deliver(v);
}

void virtio_queue_legacy(struct virtio_queue *q, uint64_t address, unsigned align)
{
    struct virtio_device *v = q->v;

    v->legacy_used = true;
    pthread_mutex_lock(&v->io_lock);
    if (!address) {
        uint16_t vector = q->vector;

        wait_for_requests(v);
        queue_reset(q);
        q->vector = vector;
        pthread_mutex_unlock(&v->io_lock);
        return;
    }
    pthread_mutex_unlock(&v->io_lock);
    if (q->enabled)
        return;
    q->desc = address;
    q->driver = address + 16ull * q->size;
    q->device = align_up(q->driver + 4 + 2ull * q->size + 2, align);
    virtio_queue_enable(q);
}

void virtio_notified(struct virtio_device *v, unsigned queue)
{
    if (queue >= v->queues)
        return;
    /* Legacy drivers may use a device before they say that they are ready. */
    if (!v->live && v->legacy_used && v->status & VIRTIO_CONFIG_S_DRIVER) {
        pthread_mutex_lock(&v->io_lock);
        go_live(v);
        pthread_mutex_unlock(&v->io_lock);
        deliver(v);
        all_kicked(v);
    }
    virtio_kick(v, queue);
}

/* ---- registers ---------------------------------------------------------------------------------
 */

uint32_t virtio_get_features(const struct virtio_device *v, unsigned select, bool legacy)
{
    uint64_t f = legacy ? v->offered & LEGACY_FEATURES
                        : v->offered & ~(BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_F_NOTIFY_ON_EMPTY));

    return select < 2 ? (uint32_t)(f >> 32 * select) : 0;
}

void virtio_set_features(struct virtio_device *v, unsigned select, uint32_t value, bool legacy)
{
    if (select > 1 || (legacy && select))
        return;
    if (v->live || v->status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK))
        return; /* too late */
    v->legacy_used |= legacy;
    v->features = bits_set(v->features, 32 * select, 32, value);
    if (legacy) /* nobody could say no later */
        v->features &= v->offered & LEGACY_FEATURES;
}

static bool features_good(struct virtio_device *v)
{
    uint64_t f = v->features;

    if (f & ~v->offered || !(f & BIT(VIRTIO_F_VERSION_1)))
        return false;
    return !v->type->accept || v->type->accept(v, f);
}

void virtio_set_status(struct virtio_device *v, uint8_t status, bool legacy)
{
    if (!status) {
        virtio_reset(v);
        return;
    }
    v->legacy_used |= legacy;
    if (!legacy && status & ~v->status & VIRTIO_CONFIG_S_FEATURES_OK && !features_good(v))
        status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
    if (!legacy && status & VIRTIO_CONFIG_S_DRIVER_OK && !(status & VIRTIO_CONFIG_S_FEATURES_OK))
        status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
    status |= v->status & VIRTIO_CONFIG_S_NEEDS_RESET; /* only a reset clears it */
    v->status = status;
    if (status & VIRTIO_CONFIG_S_DRIVER_OK && !v->live) {
        pthread_mutex_lock(&v->io_lock);
        go_live(v);
        pthread_mutex_unlock(&v->io_lock);
        deliver(v);
        all_kicked(v); /* what came early */
    }
}

uint64_t virtio_config_get(struct virtio_device *v, unsigned offset, unsigned size)
{
    if (v->type->config_read)
        v->type->config_read(v);
    if (!range_within(offset, size, v->config_size))
        return 0;
    return load_le(v->config + offset, size);
}

void virtio_config_put(struct virtio_device *v, unsigned offset, uint64_t value, unsigned size)
{
    if (v->type->config_written && range_within(offset, size, v->config_size))
        v->type->config_written(v, offset, value, size);
}

/* ---- life --------------------------------------------------------------------------------------
 */

void virtio_reset(struct virtio_device *v)
{
    virtio_io_begin(v);
    v->live = false;
    wait_for_requests(v);
    for (unsigned i = 0; i < v->queues; i++)
        queue_reset(&v->queue[i]);
    v->broken = false;
    atomic_store(&v->kicked, 0);
    atomic_store(&v->told, 0);
    atomic_store(&v->tell_config, false);
    atomic_store(&v->tell_broken, false);
    if (v->type->reset)
        v->type->reset(v);
    v->features = 0;
    virtio_io_leave(v);
    v->status = v->isr = 0;
    v->config_vector = VIRTIO_NO_VECTOR;
    v->queue_select = 0;
    v->device_select = v->driver_select = 0;
    v->legacy_used = false;
    v->transport->clear(v);
}

void virtio_before_save(struct device *dev)
{
    struct virtio_device *v = to_virtio(dev);

    virtio_io_begin(v);
    wait_for_requests(v);
    collect(v);
    virtio_io_leave(v);
    deliver(v);
}

void virtio_refresh(struct virtio_device *v)
{
    virtio_io_begin(v);
    wait_for_requests(v);
    v->live = false;
    v->broken = (v->status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
    v->features &= v->offered;
    for (unsigned i = 0; i < v->queues; i++)
        virtqueue_unmap(&v->queue[i]);
    for (unsigned i = v->queues; i < VIRTIO_QUEUES; i++)
        v->queue[i].enabled = false;
    if (v->type->refresh)
        v->type->refresh(v);
    if (v->status & VIRTIO_CONFIG_S_DRIVER_OK)
        go_live(v);
    virtio_io_leave(v);
    if (atomic_load(&v->tell_broken)) /* what the state says cannot be */
        deliver(v);
    all_kicked(v);
}

static int check_properties(struct virtio_device *v, struct error *err)
{
    if (v->prop_iommu)
        return error_set(err, ENOTSUP, "%s: iommu_platform=on needs an IOMMU, and there is none",
                         v->dev.type->name);
    if (v->prop_packed && !v->modern)
        return error_set(err, EINVAL, "%s: packed=on is for modern drivers, and those are disabled",
                         v->dev.type->name);
    return 0;
}

int virtio_realize(struct virtio_device *v, struct error *err)
{
    int r = check_properties(v, err);

    if (r < 0)
        return r;
    v->kick_fd = -1;
    v->running = true;
    pthread_mutex_init(&v->io_lock, NULL);
    pthread_cond_init(&v->io_idle, NULL);
    v->offered = (v->prop_indirect ? BIT(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
                 (v->prop_event_idx ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0) |
                 (v->prop_packed ? BIT(VIRTIO_F_RING_PACKED) : 0) |
                 (v->modern ? BIT(VIRTIO_F_VERSION_1) : 0) |
                 (v->legacy ? BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_F_NOTIFY_ON_EMPTY) : 0);
    r = v->type->realize(v, err);
    if (r < 0)
        return r;
    v->kick_fd = eventfd(0, EFD_CLOEXEC);
    if (v->kick_fd < 0)
        r = error_set_errno(err, errno, "%s: no event descriptor", v->dev.type->name);
    if (!r) {
        r = -pthread_create(&v->thread, NULL, io_thread, v);
        v->thread_made = !r;
        if (r)
            error_set_errno(err, -r, "%s: no thread", v->dev.type->name);
    }
    if (r < 0)
        virtio_unrealize(v);
    return r;
}

void virtio_unrealize(struct virtio_device *v)
{
    if (v->thread_made) {
        virtio_io_begin(v);
        v->quit = true;
        v->live = false;
        wait_for_requests(v);
        virtio_io_leave(v);
        wake(v);
        pthread_join(v->thread, NULL);
        v->thread_made = false;
    }
    if (v->type->unrealize)
        v->type->unrealize(v);
    while (atomic_load(&v->users)) /* who ended the last request is about to tell the guest */
        sched_yield();
    if (v->kick_fd >= 0)
        close(v->kick_fd);
    v->kick_fd = -1;
    pthread_cond_destroy(&v->io_idle);
    pthread_mutex_destroy(&v->io_lock);
}
