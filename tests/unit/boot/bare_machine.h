/* bare_machine.h - a machine with RAM and one processor and nothing else, for loaders and their
 * fuzzer; and kernel files that exist in memory only. */
#ifndef UNIT_BOOT_BARE_MACHINE_H
#define UNIT_BOOT_BARE_MACHINE_H

#include "machine/machine.h"
#include "memory/ram.h"

#include <sys/mman.h>
#include <unistd.h>

static const struct board_type bare_board = {
    .name = "bare", .summary = "", .max_ram_below_4g = UINT64_C(3) * GiB, .max_cpus = 1};

/* `cpu`: a model as after --cpu. NULL where something cannot be had. */
static inline struct machine *bare_machine(uint64_t memory, const char *cpu)
{
    struct machine_config config = {.board = "bare", .cpus = 1, .memory = memory, .acpi = true};
    struct machine *m = machine_new(&config, true);
    struct cpu_limits limits;
    uint64_t below = MIN(memory, bare_board.max_ram_below_4g);

    cpu_limits_software(&limits);
    if (cpu_model_build(cpu, &limits, 1, &m->model, NULL) < 0 ||
        ram_block_new("bare.ram", memory, &m->ram, NULL) < 0 ||
        memory_add_ram(m->memory, "low", 0, below, PRIORITY_DEFAULT, IN_ALL, m->ram, 0, true, NULL,
                       NULL) < 0)
        return NULL;
    m->ram_below_4g = below;
    m->ram_above_4g = memory - below;
    m->cpus[0] = cpu_new(0, 0, &m->model);
    m->cpus[0]->memory = m->memory;
    m->cpus[0]->ports = m->ports;
    m->cpus[0]->a20_mask = &m->a20_mask;
    m->cpu_count = 1;
    return m;
}

static inline int memory_file(const void *data, size_t size)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    if (fd >= 0 && write(fd, data, size) != (ssize_t)size) {
        close(fd);
        return -1;
    }
    return fd;
}

#endif
