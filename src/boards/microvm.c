/*
 * microvm.c - the board `microvm`: no PCI and little else, for guests that start in no time.
 *
 * i8259, PIT, RTC, APICs, serial ports; ACPI by a plain block of power management registers.
 * Devices come by virtio-mmio, up to eight, on ISA interrupts that are free here.
 */
#include "boards/common.h"
#include "devices/acpi/pm.h"

#include <errno.h>

static void microvm_power_button(struct machine *m)
{
    acpi_pm_power_button(board_of(m)->pm);
}

/* Interrupts of virtio devices stay until they are acknowledged. */
static void microvm_prepare(struct machine *m)
{
    machine_out(m, 0x4d0, board_of(m)->level_isa & 0xf8, 1);
    machine_out(m, 0x4d1, board_of(m)->level_isa >> 8 & 0xde, 1);
}

static int microvm_build(struct machine *m, struct error *err)
{
    struct error unread = {0};
    struct board *b;
    int r;

    err = err ? err : &unread;
    r = board_add_core(m, ACPI_MICROVM, err);
    if (r)
        return r;
    b = board_of(m);
    b->level_isa = 1 << 9;
    b->prepare = microvm_prepare;
    b->pm = acpi_pm_add(m, err);
    if (!b->pm)
        return -err->code;
    m->power_button = microvm_power_button;
    m->mmio_slot = board_virtio_slot;
    r = board_add_isa(m, false, err);
    return r ? r : board_finish(m, err);
}

const struct board_type board_microvm = {
    .name = "microvm",
    .summary = "small machine without PCI",
    .max_ram_below_4g = UINT64_C(3) * GiB,
    .max_cpus = MACHINE_MAX_CPUS,
    .build = microvm_build,
    .free = board_free,
};
