/*
 * machine.c - see machine.h.
 *
 * Memory is split as on a PC: what the board allows below its PCI hole, the rest from 4 GiB up,
 * one block behind both.
 */
#include "machine/machine.h"

#include "base/log.h"
#include "event/loop.h"
#include "machine/vcpu.h"
#include "memory/ram.h"

#include <errno.h>
#include <stdlib.h>
#include <x86intrin.h>

struct machine *machine_new(const struct machine_config *config, bool manual_clock)
{
    struct machine *m = xcalloc(1, sizeof(*m));

    m->config = *config;
    /* An odd value, so that nothing passes by assuming zero. */
    m->clock = manual_clock ? clock_new_manual(1234567891) : clock_new();
    m->loop = loop_new(m->clock);
    m->memory = memory_map_new("memory", UINT64_C(1) << 52);
    m->ports = memory_map_new("port", 0x10000);
    m->devices_end = &m->devices;
    m->a20_mask = ~UINT64_C(0);
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        irq_pin_init(&m->gsi[i], i);
    return m;
}

static void free_devices(struct machine *m)
{
    /* Latest first: children before the buses they sit on. */
    while (m->devices) {
        struct device *last = m->devices;

        while (last->next)
            last = last->next;
        device_free(last);
    }
}

void machine_free_devices(struct machine *m)
{
    if (m->vcpus_started)
        vcpu_join_all(m);
    m->vcpus_started = false;
    loop_cancel_posts(m->loop, m); /* a reset that came too late: loop_free() would carry it out */
    free_devices(m);
    if (m->board && m->board->free)
        m->board->free(m);
    m->board = NULL;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    machine_free_devices(m);
    if (m->engine.ops && m->engine.ops->destroy)
        m->engine.ops->destroy(&m->engine);
    for (unsigned i = 0; i < m->cpu_count; i++)
        cpu_free(m->cpus[i]);
    loop_free(m->loop);
    clock_free(m->clock);
    memory_map_free(m->memory);
    memory_map_free(m->ports);
    ram_block_free(m->ram);
    while (m->old_ram) {
        struct machine_ram *next = m->old_ram->next;

        ram_block_free(m->old_ram->block);
        free(m->old_ram);
        m->old_ram = next;
    }
    for (unsigned i = 0; i < MACHINE_GSI_COUNT; i++)
        pthread_mutex_destroy(&m->gsi[i].lock);
    free(m);
}

void machine_release_ram(struct machine *m, struct ram_block *block)
{
    struct machine_ram *r;

    if (!block)
        return;
    r = xcalloc(1, sizeof(*r));
    r->block = block;
    r->next = m->old_ram;
    m->old_ram = r;
}

static int build_ram(struct machine *m, struct error *err)
{
    uint64_t size = align_up(m->config.memory, RAM_PAGE_SIZE);
    int r = ram_block_new("pc.ram", size, &m->ram, err);

    if (r < 0)
        return r;
    m->ram_below_4g = MIN(size, m->board->max_ram_below_4g);
    m->ram_above_4g = size - m->ram_below_4g;
    r = memory_add_ram(m->memory, "ram-below-4g", 0, m->ram_below_4g, PRIORITY_DEFAULT, IN_ALL,
                       m->ram, 0, true, NULL, err);
    if (!r && m->ram_above_4g)
        r = memory_add_ram(m->memory, "ram-above-4g", UINT64_C(1) << 32, m->ram_above_4g,
                           PRIORITY_DEFAULT, IN_ALL, m->ram, m->ram_below_4g, true, NULL, err);
    return r;
}

static int build_cpus(struct machine *m, const struct engine_ops *engine, struct error *err)
{
    struct cpu_limits limits;
    int r;

    if (m->config.cpus < 1 || m->config.cpus > m->board->max_cpus)
        return error_set(err, EINVAL, "machine '%s' has 1 to %u processors, not %u", m->board->name,
                         m->board->max_cpus, m->config.cpus);
    engine->limits(&limits);
    /* OVMF makes page tables, of 2 MiB pages, for every address there could be: for 46 bits they
     * take 256 MiB. Who wants more than 1 TiB of addresses with it says phys-bits=. */
    if (m->config.firmware && strcmp(m->config.firmware, "bios") &&
        m->config.memory <= UINT64_C(256) * GiB &&
        !(m->config.cpu && strstr(m->config.cpu, "phys-bits=")))
        limits.phys_bits = MIN(limits.phys_bits, 40);
    r = cpu_model_build(m->config.cpu, &limits, m->config.cpus, &m->model, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < m->config.cpus; i++) {
        struct cpu *cpu = cpu_new(i, i, &m->model);

        cpu->memory = m->memory;
        cpu->ports = m->ports;
        cpu->a20_mask = &m->a20_mask;
        cpu->apic_page = CPU_NO_APIC_PAGE;
        m->cpus[m->cpu_count++] = cpu;
    }
    return 0;
}

int machine_build(struct machine *m, const struct board_type *board,
                  const struct engine_ops *engine, struct error *err)
{
    int r;

    m->board = board;
    r = build_ram(m, err);
    if (!r)
        r = build_cpus(m, engine, err);
    if (!r)
        r = board->build(m, err);
    if (r)
        return r;
    m->engine = (struct engine){.ops = engine,
                                .memory = m->memory,
                                .ports = m->ports,
                                .cpus = m->cpus,
                                .cpu_count = m->cpu_count};
    r = engine->create(&m->engine, err);
    if (r) {
        m->engine.ops = NULL;
        return r;
    }
    for (unsigned i = 0; i < m->cpu_count; i++)
        m->cpus[i]->kick = engine->kick;
    return 0;
}

/* vCPUs stand still. */
static int reset_all(struct machine *m, struct error *err)
{
    m->a20_mask = ~UINT64_C(0);
    for (unsigned i = 0; i < m->cpu_count; i++) {
        m->cpus[i]->events = 0;
        cpu_reset(m->cpus[i]);
    }
    /* Devices after the CPUs: local APICs set their CPU's pages and events. */
    for (struct device *d = m->devices; d; d = d->next)
        device_reset(d);
    return m->load ? m->load(m, err) : 0;
}

static void tell_devices(struct machine *m, bool running)
{
    for (struct device *d = m->devices; d; d = d->next)
        if (d->type->running)
            d->type->running(d, running);
}

int machine_start(struct machine *m, struct error *err)
{
    int r = reset_all(m, err);

    if (r < 0)
        return r;
    m->vcpus_started = true;
    r = vcpu_create_all(m, err);
    if (r < 0)
        return r;
    m->running = true;
    tell_devices(m, true);
    vcpu_run_all(m);
    return 0;
}

void machine_pause(struct machine *m)
{
    if (!m->running)
        return;
    m->running = false;
    vcpu_stop_all(m);
    clock_stop(m->clock);
    tell_devices(m, false);
    m->stopped_tsc = __rdtsc();
}

/* Guest time stood still, so must the TSCs: all by the same, for guests compare them. */
static void skip_pause(struct machine *m)
{
    uint64_t length = __rdtsc() - m->stopped_tsc;

    for (unsigned i = 0; i < m->cpu_count; i++)
        m->cpus[i]->tsc_offset -= length;
}

void machine_resume(struct machine *m)
{
    if (m->running || m->end != END_NONE)
        return;
    m->running = true;
    skip_pause(m);
    clock_start(m->clock);
    tell_devices(m, true);
    vcpu_run_all(m);
}

int machine_reset(struct machine *m, struct error *err)
{
    bool was_running = m->running;
    int r;

    machine_pause(m);
    m->reset_requested = false;
    r = reset_all(m, err);
    if (was_running && !r)
        machine_resume(m);
    return r;
}

static void carry_out_reset(void *opaque)
{
    struct machine *m = opaque;
    struct error err = {0};

    if (!m->reset_requested || m->end != END_NONE)
        return;
    log_debug("machine: reset");
    if (machine_reset(m, &err) < 0) {
        m->error = err;
        machine_request_end(m, END_ERROR);
    }
}

void machine_request_reset(struct machine *m)
{
    if (m->config.no_reboot) {
        machine_request_end(m, END_RESET);
        return;
    }
    if (!atomic_exchange(&m->reset_requested, true))
        loop_post(m->loop, carry_out_reset, m);
}

void machine_request_end(struct machine *m, enum machine_end reason)
{
    int none = END_NONE;

    if (atomic_compare_exchange_strong(&m->end, &none, (int)reason))
        loop_quit(m->loop);
}

enum machine_end machine_wait(struct machine *m)
{
    loop_run(m->loop);
    machine_pause(m);
    return (enum machine_end)m->end;
}

void machine_msi(struct machine *m, gpa address, uint32_t data)
{
    if (m->msi)
        m->msi(m->msi_opaque, address, data);
}

void machine_set_a20(struct machine *m, bool enabled)
{
    uint64_t mask = enabled ? ~UINT64_C(0) : ~BIT(20);

    if (atomic_exchange(&m->a20_mask, mask) == mask)
        return;
    for (unsigned i = 0; i < m->cpu_count; i++)
        cpu_post(m->cpus[i], CPU_EVENT_FLUSH);
}

bool machine_a20(struct machine *m)
{
    return m->a20_mask == ~UINT64_C(0);
}

uint64_t machine_in(struct machine *m, uint16_t port, unsigned size)
{
    return memory_read(m->ports, VIEW_NORMAL, port, size);
}

void machine_out(struct machine *m, uint16_t port, uint64_t value, unsigned size)
{
    memory_write(m->ports, VIEW_NORMAL, port, value, size);
}
