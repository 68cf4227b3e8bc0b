/*
 * virtio_slots.c - where virtio-mmio devices sit on a board without PCI, and how kernels learn of
 * them: by ACPI, or without it by their command line.
 */
#include "boards/common.h"

#include <errno.h>
#include <stdlib.h>

/* Not the serial ports', the clock's, ACPI's. */
static const uint8_t slot_irq[BOARD_VIRTIO_SLOTS] = {5, 6, 7, 10, 11, 12, 14, 15};

int board_virtio_slot(struct machine *m, gpa *base, uint8_t *irq, struct error *err)
{
    struct board *b = board_of(m);

    if (b->virtio_slots == BOARD_VIRTIO_SLOTS)
        return error_set(err, ENOSPC, "all %d virtio-mmio slots of machine '%s' are taken",
                         BOARD_VIRTIO_SLOTS, m->config.board);
    *base = BOARD_VIRTIO_BASE + BOARD_VIRTIO_STEP * b->virtio_slots;
    *irq = b->virtio_irq[b->virtio_slots] = slot_irq[b->virtio_slots];
    b->level_isa |= 1u << *irq;
    b->virtio_slots++;
    return 0;
}

void board_virtio_append(struct machine *m)
{
    struct board *b = board_of(m);

    for (unsigned i = 0; i < b->virtio_slots && !m->config.acpi; i++) {
        const char *before = b->append ? b->append : m->config.append;
        gpa base = BOARD_VIRTIO_BASE + BOARD_VIRTIO_STEP * i;
        char *longer = xasprintf("%s virtio_mmio.device=%d@%#llx:%u", before ? before : "",
                                 BOARD_VIRTIO_STEP, (unsigned long long)base, b->virtio_irq[i]);

        free(b->append);
        b->append = longer;
    }
}
