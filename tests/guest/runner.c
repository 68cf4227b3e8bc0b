/*
 * runner.c - runs a bare-metal test kernel on any engine.
 *
 *     guest-runner ENGINE KERNEL [CPU-MODEL]
 *
 * ENGINE `bt-check` is bt in lock-step with interp. The machine: 16 MiB of RAM, the CPU as
 * Multiboot leaves it, and ports: 0xe9 prints, 0xf4 ends with a status, 0xb2 makes an SMI, 0xb3 an
 * NMI after that many instructions have passed (at the next look), 0xb4 raises an external
 * interrupt with that vector, 0xb5 makes an SMI when the CPU is halted next, and that interrupt (0:
 * none) when it is after that; 0xc0 (source), 0xc4 (destination) and 0xc8 (length: starts it), 32
 * bits each, are a device that copies memory, as devices do, and with bit 31 of the length in a
 * thread of its own, which 0xc8 waits for when it is read. The kernel must end by itself within the
 * test's time limit; a HLT that nothing can end, and a triple fault, are failures, unless the
 * kernel announced the triple fault by writing 1 to port 0xf5.
 */
#include "engine/engine.h"
#include "memory/ram.h"
#include "translator/translator.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { RAM_SIZE = 16 << 20, LOAD_ADDRESS = 0x100000, MULTIBOOT_MAGIC = 0x2badb002 };

static struct {
    struct cpu *cpu;
    bool ended, shutdown_wanted;
    int status, vector;
    bool smi_at_halt;
    int vector_at_halt;
} guest = {.vector = -1};

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return size_mask(size);
}

static void print_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    putchar((int)(value & 0xff));
}

static void end_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == 1) {
        guest.shutdown_wanted = value & 1;
        return;
    }
    guest.ended = true;
    guest.status = (int)(value & 0xff);
    cpu_post(guest.cpu, CPU_EVENT_EXIT);
}

static void interrupt(int vector)
{
    guest.vector = vector;
    cpu_post(guest.cpu, CPU_EVENT_INTR);
}

static void event_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    switch (offset) {
    case 0: cpu_post(guest.cpu, CPU_EVENT_SMI); break;
    case 1: cpu_post(guest.cpu, CPU_EVENT_NMI); break;
    case 2: interrupt((int)(value & 0xff)); break;
    case 3:
        guest.smi_at_halt = true;
        guest.vector_at_halt = (int)(value & 0xff);
        break;
    }
}

static int acknowledge(void *opaque)
{
    int vector = guest.vector;

    guest.vector = -1;
    cpu_retract(guest.cpu, CPU_EVENT_INTR);
    return vector;
}

/* ---- the device that copies ---- */

static struct {
    struct memory_map *memory;
    uint32_t from, to, length;
    pthread_t thread;
    bool running;
} copier;

static void *copy(void *unused)
{
    uint8_t *buffer = malloc(copier.length);

    if (buffer && dma_read(copier.memory, copier.from, buffer, copier.length) == 0)
        dma_write(copier.memory, copier.to, buffer, copier.length);
    free(buffer);
    return NULL;
}

static void copier_wait(void)
{
    if (copier.running)
        pthread_join(copier.thread, NULL);
    copier.running = false;
}

static uint64_t copier_read(struct device *dev, uint64_t offset, unsigned size)
{
    copier_wait();
    return 0;
}

static void copier_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    copier_wait();
    switch (offset) {
    case 0: copier.from = (uint32_t)value; break;
    case 4: copier.to = (uint32_t)value; break;
    case 8:
        copier.length = value & 0xffffff;
        if (value >> 31 & 1)
            copier.running = pthread_create(&copier.thread, NULL, copy, NULL) == 0;
        if (!copier.running)
            copy(NULL);
        break;
    }
}

static const struct io_ops copier_ops = {copier_read, copier_write, 4, 4};
static const struct io_ops print_ops = {port_read, print_write, 1, 1};
static const struct io_ops end_ops = {port_read, end_write, 1, 1};
static const struct io_ops event_ops = {port_read, event_write, 1, 1};

static struct segment flat(uint16_t selector, uint32_t type)
{
    return (struct segment){.selector = selector,
                            .attr = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | type,
                            .limit = UINT32_MAX};
}

/* Multiboot 1, 3.2: machine state. */
static void start_multiboot(struct cpu *cpu)
{
    cpu->cr0 = CR0_PE | CR0_ET;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = flat(0x10, 3);
    cpu->seg[SEG_CS] = flat(0x08, 11);
    cpu->gpr[GPR_RAX] = MULTIBOOT_MAGIC;
    cpu->gpr[GPR_RBX] = 0x9000;
    cpu_state_changed(cpu);
}

/* The entry point and whether the image is one of ours, from its Multiboot header. */
static bool load(const char *path, uint8_t *ram, uint32_t *entry)
{
    FILE *f = fopen(path, "rb");
    uint32_t header[8];
    size_t n;

    if (!f) {
        perror(path);
        return false;
    }
    n = fread(ram + LOAD_ADDRESS, 1, RAM_SIZE - LOAD_ADDRESS, f);
    fclose(f);
    memcpy(header, ram + LOAD_ADDRESS, sizeof(header));
    if (n < sizeof(header) || header[0] != 0x1badb002 || header[3] != LOAD_ADDRESS) {
        fprintf(stderr, "%s: not a test kernel\n", path);
        return false;
    }
    *entry = header[7];
    return true;
}

/* What port 0xb5 asked for; false: nothing is to come. */
static bool halted(struct cpu *cpu)
{
    if (guest.smi_at_halt) {
        guest.smi_at_halt = false;
        cpu_post(cpu, CPU_EVENT_SMI);
        return true;
    }
    if (!guest.vector_at_halt)
        return false;
    interrupt(guest.vector_at_halt);
    guest.vector_at_halt = 0;
    return true;
}

static int run(struct engine *e)
{
    struct cpu *cpu = guest.cpu;
    struct error err = {0};

    while (!guest.ended) {
        if (cpu->activity == CPU_HALTED && !cpu_has_work(cpu) && !halted(cpu)) {
            printf("halted for ever at %#llx\n", (unsigned long long)cpu->rip);
            break;
        }
        switch (e->ops->run(e, cpu, &err)) {
        case ENGINE_EVENT:
        case ENGINE_HALTED: break;
        case ENGINE_SHUTDOWN:
            if (guest.shutdown_wanted) {
                printf("PASS shutdown\n");
                return 0;
            }
            printf("triple fault\n");
            if (e->ops->pull)
                e->ops->pull(e, cpu);
            cpu_print(cpu, stdout);
            return 1;
        case ENGINE_ERROR: fprintf(stderr, "%s\n", err.text); return 1;
        }
    }
    if (!guest.ended) {
        cpu_print(cpu, stdout);
        return 1;
    }
    return guest.status;
}

int main(int argc, char **argv)
{
    struct memory_map *memory = memory_map_new("memory", UINT64_C(1) << 46);
    struct memory_map *ports = memory_map_new("ports", 1 << 16);
    const struct engine_ops *ops;
    struct cpu_limits limits;
    struct ram_block *ram;
    struct cpu_model model;
    struct error err = {0};
    struct engine engine;
    uint32_t entry = 0;
    char reason[200];
    const char *name;
    int status;

    if (argc < 3) {
        fprintf(stderr, "usage: %s ENGINE KERNEL [CPU-MODEL]\n", argv[0]);
        return 2;
    }
    engine_register(&engine_bt);
    name = argv[1];
    if (!strcmp(name, "bt-check")) {
        struct translator_options o;

        translator_options_default(&o);
        o.check = true;
        translator_options_set(&o);
        name = "bt";
    }
    ops = engine_choose(name, reason, sizeof(reason), &err);
    if (!ops)
        goto fail;
    ops->limits(&limits);
    if (cpu_model_build(argc > 3 && *argv[3] ? argv[3] : NULL, &limits, 1, &model, &err) < 0 ||
        ram_block_new("ram", RAM_SIZE, &ram, &err) < 0 ||
        memory_add_ram(memory, "ram", 0, RAM_SIZE, 0, IN_ALL, ram, 0, true, NULL, &err) < 0 ||
        memory_add_io(ports, "print", 0xe9, 1, 0, &print_ops, NULL, NULL, NULL, &err) < 0 ||
        memory_add_io(ports, "end", 0xf4, 2, 0, &end_ops, NULL, NULL, NULL, &err) < 0 ||
        memory_add_io(ports, "copier", 0xc0, 12, 0, &copier_ops, NULL, NULL, NULL, &err) < 0 ||
        memory_add_io(ports, "events", 0xb2, 4, 0, &event_ops, NULL, NULL, NULL, &err) < 0)
        goto fail;
    if (!load(argv[2], ram->host, &entry))
        return 2;

    copier.memory = memory;
    guest.cpu = cpu_new(0, 0, &model);
    guest.cpu->memory = memory;
    guest.cpu->ports = ports;
    guest.cpu->intc.acknowledge = acknowledge;
    guest.cpu->kick = ops->kick;
    start_multiboot(guest.cpu);
    guest.cpu->rip = entry;
    engine = (struct engine){
        .ops = ops, .memory = memory, .ports = ports, .cpus = &guest.cpu, .cpu_count = 1};
    if (ops->create(&engine, &err) < 0)
        goto fail;
    if (ops->push)
        ops->push(&engine, guest.cpu);
    status = run(&engine);
    copier_wait();
    ops->destroy(&engine);
    cpu_free(guest.cpu);
    memory_map_free(memory);
    memory_map_free(ports);
    ram_block_free(ram);
    return status;

fail:
    fprintf(stderr, "%s: %s\n", argv[0], err.text);
    return 2;
}
