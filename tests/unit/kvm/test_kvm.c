/*
 * test_kvm.c - the KVM engine with tiny guests: ports, memory-mapped I/O, HLT and interrupts,
 * kicks, registers there and back, ROM, the dirty log, the interpreter stepping in.
 *
 * The guests use 16-bit integer code only, for some devices run nothing else; where there is no
 * usable /dev/kvm, every test is skipped and says why. A watchdog ends a test that hangs.
 */
#include "support/unit.h"

#include "base/log.h"
#include "kvm/kvm.h"
#include "memory/ram.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum {
    RAM_SIZE = 0x40000,
    ROM_BASE = 0x80000,
    ROM_SIZE = 0x1000,
    MMIO_BASE = 0xa0000,
    CODE = 0x1000,
    PORT = 0xe9,
};

struct guest {
    struct memory_map *memory, *ports;
    struct ram_block *ram, *rom;
    struct cpu_model model;
    struct cpu *cpu, *cpus[1];
    struct engine engine;
    _Atomic uint64_t a20;
    char out[256]; /* what came to the port */
    unsigned out_length;
    uint64_t mmio[4];
    int pending_vector; /* for the interrupt controller; -1: none */
    uint8_t cr8;
};

static struct guest *the_guest; /* hooks of devices without a struct device find it here */

static uint64_t port_read(struct device *dev, uint64_t offset, unsigned size)
{
    return 0x55 + offset;
}

static void port_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    if (the_guest->out_length < sizeof(the_guest->out))
        the_guest->out[the_guest->out_length++] = (char)value;
}

static uint64_t mmio_read(struct device *dev, uint64_t offset, unsigned size)
{
    return the_guest->mmio[offset / 8 & 3] >> offset % 8 * 8;
}

static void mmio_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    the_guest->mmio[offset / 8 & 3] = value + size;
}

static const struct io_ops port_ops = {port_read, port_write, 1, 4};
static const struct io_ops mmio_ops = {mmio_read, mmio_write, 1, 8};

static int acknowledge(void *opaque)
{
    struct guest *g = opaque;
    int vector = g->pending_vector;

    g->pending_vector = -1;
    cpu_retract(g->cpu, CPU_EVENT_INTR);
    return vector;
}

static uint8_t get_cr8(void *opaque)
{
    return ((struct guest *)opaque)->cr8;
}

static void set_cr8(void *opaque, uint8_t value)
{
    ((struct guest *)opaque)->cr8 = value;
}

static bool no_msr_read(void *opaque, uint32_t index, uint64_t *value)
{
    *value = 0xfee00900;
    return index == 0x1b;
}

static bool no_msr_write(void *opaque, uint32_t index, uint64_t value)
{
    return false;
}

static void guest_free(struct guest *g)
{
    if (g->engine.ops)
        engine_kvm.destroy(&g->engine);
    cpu_free(g->cpu);
    memory_map_free(g->memory);
    memory_map_free(g->ports);
    ram_block_free(g->ram);
    ram_block_free(g->rom);
    free(g);
    the_guest = NULL;
}

static int guest_new(struct guest **out, struct error *err)
{
    struct guest *g = xcalloc(1, sizeof(*g));
    struct cpu_limits limits;
    int r;

    engine_kvm.limits(&limits);
    g->a20 = ~UINT64_C(0);
    g->pending_vector = -1;
    g->memory = memory_map_new("memory", UINT64_C(1) << 40);
    g->ports = memory_map_new("port", 0x10000);
    assert_int_equal(ram_block_new("ram", RAM_SIZE, &g->ram, err), 0);
    assert_int_equal(ram_block_new("rom", ROM_SIZE, &g->rom, err), 0);
    assert_int_equal(
        memory_add_ram(g->memory, "ram", 0, RAM_SIZE, 0, IN_ALL, g->ram, 0, true, NULL, err), 0);
    assert_int_equal(memory_add_ram(g->memory, "rom", ROM_BASE, ROM_SIZE, 0, IN_ALL, g->rom, 0,
                                    false, NULL, err),
                     0);
    assert_int_equal(
        memory_add_io(g->memory, "mmio", MMIO_BASE, 32, 0, &mmio_ops, NULL, NULL, NULL, err), 0);
    assert_int_equal(memory_add_io(g->ports, "port", PORT, 4, 0, &port_ops, NULL, NULL, NULL, err),
                     0);
    assert_int_equal(cpu_model_build("qemu64,check=off", &limits, 1, &g->model, err), 0);
    g->cpu = cpu_new(0, 0, &g->model);
    g->cpus[0] = g->cpu;
    g->cpu->memory = g->memory;
    g->cpu->ports = g->ports;
    g->cpu->a20_mask = &g->a20;
    g->cpu->apic_page = CPU_NO_APIC_PAGE;
    g->cpu->intc = (struct cpu_intc){.opaque = g,
                                     .acknowledge = acknowledge,
                                     .get_cr8 = get_cr8,
                                     .set_cr8 = set_cr8,
                                     .read_msr = no_msr_read,
                                     .write_msr = no_msr_write};
    g->engine =
        (struct engine){.memory = g->memory, .ports = g->ports, .cpus = g->cpus, .cpu_count = 1};
    the_guest = g;
    r = engine_kvm.create(&g->engine, err);
    if (r < 0) {
        guest_free(g);
        return r;
    }
    g->engine.ops = &engine_kvm;
    g->cpu->kick = engine_kvm.kick;
    *out = g;
    return 0;
}

static int setup(void **state)
{
    alarm(30);
    assert_int_equal(guest_new((struct guest **)state, &(struct error){0}), 0);
    return 0;
}

static int teardown(void **state)
{
    guest_free(*state);
    alarm(0);
    return 0;
}

/* Real mode, flat at 0, code at CODE, stack below it. */
static void load(struct guest *g, const void *code, size_t size)
{
    memcpy(g->ram->host + CODE, code, size);
    cpu_reset(g->cpu);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        g->cpu->seg[i].selector = 0;
        g->cpu->seg[i].base = 0;
    }
    g->cpu->rip = CODE;
    g->cpu->gpr[GPR_RSP] = CODE;
    engine_kvm.push(&g->engine, g->cpu);
}

static enum engine_exit run(struct guest *g)
{
    struct error err = {0};
    enum engine_exit out = engine_kvm.run(&g->engine, g->cpu, &err);

    if (out == ENGINE_ERROR)
        fail_msg("%s", err.text);
    return out;
}

static void run_to_halt(struct guest *g)
{
    assert_int_equal(run(g), ENGINE_HALTED);
    assert_int_equal(g->cpu->activity, CPU_HALTED);
    engine_kvm.pull(&g->engine, g->cpu);
}

static void writes_to_a_port(void **state)
{
    static const uint8_t code[] = {
        0xb9, 5,        0, /* mov cx, 5 */
        0x88, 0xc8,        /* l: mov al, cl */
        0xe6, PORT,        /* out 0xe9, al */
        0xe2, 0xfa,        /* loop l */
        0xe4, PORT + 1,    /* in al, 0xea */
        0xf4,              /* hlt */
    };
    struct guest *g = *state;

    load(g, code, sizeof(code));
    run_to_halt(g);
    assert_int_equal(g->out_length, 5);
    assert_memory_equal(g->out, "\5\4\3\2\1", 5);
    assert_int_equal(g->cpu->gpr[GPR_RAX] & 0xff, 0x56);
    assert_int_equal(g->cpu->rip, CODE + sizeof(code));
}

static void reaches_devices_by_memory(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0,    0xa0,    /* mov ax, 0xa000 */
        0x8e, 0xd8,          /* mov ds, ax */
        0xa1, 8,    0,       /* mov ax, [8] */
        0x40,                /* inc ax */
        0xa3, 16,   0,       /* mov [16], ax */
        0x8a, 0x1e, 9,    0, /* mov bl, [9] */
        0xf4,                /* hlt */
    };
    struct guest *g = *state;

    g->mmio[1] = 0x1234;
    load(g, code, sizeof(code));
    run_to_halt(g);
    assert_int_equal(g->mmio[2], 0x1235 + 2);
    assert_int_equal(g->cpu->gpr[GPR_RBX] & 0xff, 0x12);
}

static void rom_cannot_be_written(void **state)
{
    static const uint8_t code[] = {
        0xb8, 0,    0x80,       /* mov ax, 0x8000 */
        0x8e, 0xd8,             /* mov ds, ax */
        0xc6, 6,    0,    0, 9, /* mov byte [0], 9 */
        0xa0, 0,    0,          /* mov al, [0] */
        0xf4,                   /* hlt */
    };
    struct guest *g = *state;

    g->rom->host[0] = 0x77;
    load(g, code, sizeof(code));
    run_to_halt(g);
    assert_int_equal(g->cpu->gpr[GPR_RAX] & 0xff, 0x77);
    assert_int_equal(g->rom->host[0], 0x77);
}

static void wakes_for_an_interrupt(void **state)
{
    static const uint8_t code[] = {
        0xfb,       /* sti */
        0xf4,       /* hlt */
        0xe6, PORT, /* out 0xe9, al */
        0xfa,       /* cli */
        0xf4,       /* hlt */
    };
    static const uint8_t handler[] = {0xb0, 0x42, 0xcf}; /* mov al, 0x42; iret */
    struct guest *g = *state;

    store_le(g->ram->host + 4 * 0x40, 0x2000, 4);
    memcpy(g->ram->host + 0x2000, handler, sizeof(handler));
    load(g, code, sizeof(code));
    assert_int_equal(run(g), ENGINE_HALTED);
    assert_int_equal(g->out_length, 0);
    assert_false(cpu_has_work(g->cpu));
    assert_int_equal(run(g), ENGINE_HALTED); /* nothing has changed */
    g->pending_vector = 0x40;
    cpu_post(g->cpu, CPU_EVENT_INTR);
    assert_true(cpu_has_work(g->cpu));
    run_to_halt(g);
    assert_int_equal(g->out_length, 1);
    assert_int_equal(g->out[0], 0x42);
    g->pending_vector = 0x40; /* interrupts are off now */
    cpu_post(g->cpu, CPU_EVENT_INTR);
    assert_int_equal(run(g), ENGINE_HALTED);
    assert_int_equal(g->pending_vector, 0x40);
}

static void holds_an_interrupt_until_sti(void **state)
{
    static const uint8_t code[] = {
        0xb0, 1,    0xe6, PORT, /* mov al, 1; out 0xe9, al */
        0xfb,                   /* sti */
        0x3c, 2,    0x75, 0xfc, /* l: cmp al, 2; jne l */
        0xb0, 3,    0xe6, PORT, /* mov al, 3; out 0xe9, al */
        0xfa, 0xf4,             /* cli; hlt */
    };
    static const uint8_t handler[] = {0xb0, 2, 0xe6, PORT, 0xcf}; /* mov al, 2; out; iret */
    struct guest *g = *state;

    store_le(g->ram->host + 4 * 0x41, 0x2000, 4);
    memcpy(g->ram->host + 0x2000, handler, sizeof(handler));
    load(g, code, sizeof(code));
    g->pending_vector = 0x41;
    cpu_post(g->cpu, CPU_EVENT_INTR);
    run_to_halt(g);
    assert_int_equal(g->out_length, 3);
    assert_memory_equal(g->out, "\1\2\3", 3);
}

static void *kick_later(void *opaque)
{
    usleep(20000);
    cpu_post(opaque, CPU_EVENT_EXIT);
    return NULL;
}

static void leaves_a_loop_when_kicked(void **state)
{
    static const uint8_t code[] = {0x40, 0xeb, 0xfd}; /* l: inc ax; jmp l */
    struct guest *g = *state;
    pthread_t t;

    load(g, code, sizeof(code));
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&t, NULL, kick_later, g->cpu), 0);
        assert_int_equal(run(g), ENGINE_EVENT);
        assert_true(cpu_retract(g->cpu, CPU_EVENT_EXIT));
        pthread_join(t, NULL);
        engine_kvm.pull(&g->engine, g->cpu);
        assert_in_range(g->cpu->rip, CODE, CODE + 1);
    }
    assert_int_equal(kvm_interpreted(g->cpu), 0);
}

/* Everything set to something odd, given to KVM, and taken back after a HLT. */
static void registers_survive(void **state)
{
    static const uint8_t code[] = {0xf4};
    struct guest *g = *state;
    struct cpu *cpu = g->cpu;
    uint8_t zmm[16];
    uint64_t gpr[GPR_COUNT];

    load(g, code, sizeof(code));
    for (unsigned i = 0; i < GPR_COUNT; i++)
        cpu->gpr[i] = UINT64_C(0x1111111111111111) * i + 7;
    memcpy(gpr, cpu->gpr, sizeof(gpr));
    for (unsigned i = 0; i < 16; i++)
        for (unsigned j = 0; j < 16; j++)
            cpu->zmm[i][j] = (uint8_t)(i * 16 + j + 1);
    memcpy(zmm, cpu->zmm[9], sizeof(zmm));
    cpu->fx.fcw = 0x27f;
    cpu->fx.mxcsr = 0x1fa0;
    cpu->fx.ftw = 0x80;
    cpu->fx.st[0][3] = 0x5a;
    cpu->fx.st[0][7] = 0x80;
    cpu->fx.st[0][9] = 0x40;
    cpu->rflags = 0x8d7 & ~(uint64_t)RFLAGS_TF;
    cpu->seg[SEG_FS].selector = 0x1230;
    cpu->seg[SEG_FS].base = 0x12300;
    cpu->gdtr = (struct table_register){0x123456, 0x77};
    cpu->idtr = (struct table_register){0x654321, 0x3ff};
    cpu->cr2 = 0xdeadbeef000;
    cpu->cr4 |= CR4_OSFXSR | CR4_DE;
    cpu->dr[1] = 0x12345678;
    cpu->star = 0x0023001000000000;
    cpu->lstar = 0xffffffff81000000;
    cpu->sysenter_eip = 0xc0001234;
    cpu->kernel_gs_base = 0xffff888000001000;
    cpu->pat = 0x0407050600070106;
    cpu->nmi_blocked = true;
    engine_kvm.push(&g->engine, cpu);
    run_to_halt(g);
    assert_memory_equal(cpu->gpr, gpr, sizeof(gpr));
    assert_memory_equal(cpu->zmm[9], zmm, sizeof(zmm));
    assert_int_equal(cpu->fx.fcw, 0x27f);
    assert_int_equal(cpu->fx.mxcsr, 0x1fa0);
    assert_int_equal(cpu->fx.ftw, 0x80);
    assert_int_equal(cpu->fx.st[0][3], 0x5a);
    assert_int_equal(cpu->rflags & RFLAGS_STATUS, 0x8d5);
    assert_int_equal(cpu->seg[SEG_FS].selector, 0x1230);
    assert_int_equal(cpu->seg[SEG_FS].base, 0x12300);
    assert_int_equal(cpu->gdtr.base, 0x123456);
    assert_int_equal(cpu->gdtr.limit, 0x77);
    assert_int_equal(cpu->idtr.base, 0x654321);
    assert_int_equal(cpu->cr2, 0xdeadbeef000);
    assert_true(cpu->cr4 & CR4_DE);
    assert_int_equal(cpu->dr[1], 0x12345678);
    assert_int_equal(cpu->star, 0x0023001000000000);
    assert_int_equal(cpu->lstar, 0xffffffff81000000);
    assert_int_equal(cpu->sysenter_eip, 0xc0001234);
    assert_int_equal(cpu->kernel_gs_base, 0xffff888000001000);
    assert_int_equal(cpu->pat, 0x0407050600070106);
    assert_true(cpu->nmi_blocked);
}

static void writes_are_logged_while_tracked(void **state)
{
    static const uint8_t code[] = {
        0xc6, 6, 0, 0x50, 1, /* mov byte [0x5000], 1 */
        0xf4,                /* hlt */
    };
    struct guest *g = *state;

    load(g, code, sizeof(code));
    g->ram->tracking = RAM_DIRTY_MIGRATION;
    memory_flush(g->memory);
    for (unsigned i = 0; i < RAM_SIZE; i += RAM_PAGE_SIZE)
        ram_test_and_clear(g->ram, i, RAM_DIRTY_MIGRATION);
    memory_flush(g->memory);
    run_to_halt(g);
    memory_flush(g->memory);
    assert_true(ram_test_and_clear(g->ram, 0x5000, RAM_DIRTY_MIGRATION));
    assert_false(ram_test_and_clear(g->ram, 0x6000, RAM_DIRTY_MIGRATION));
    memory_flush(g->memory);
    assert_false(ram_test_and_clear(g->ram, 0x5000, RAM_DIRTY_MIGRATION));
    g->ram->tracking = 0;
    memory_flush(g->memory);
    load(g, code, sizeof(code));
    run_to_halt(g);
}

/* With the A20 gate shut KVM cannot run; the interpreter does, and KVM goes on when it opens. */
static void interpreter_runs_with_a20_shut(void **state)
{
    static const uint8_t code[] = {0xb0, 0x33, 0xe6, PORT, 0xf4, 0xe6, PORT, 0xf4};
    struct guest *g = *state;

    load(g, code, sizeof(code));
    g->a20 = ~BIT(20);
    run_to_halt(g);
    assert_int_equal(g->out_length, 1);
    assert_int_not_equal(kvm_interpreted(g->cpu), 0);
    g->a20 = ~UINT64_C(0);
    g->cpu->activity = CPU_RUNNING;
    engine_kvm.push(&g->engine, g->cpu);
    run_to_halt(g);
    assert_int_equal(g->out_length, 2);
    assert_int_equal(g->out[1], 0x33);
}

/* Code that lies in a device is what KVM's emulator refuses to fetch. */
static void *shut_a20_later(void *opaque)
{
    struct guest *g = opaque;

    usleep(20000);
    g->a20 = ~BIT(20);
    cpu_post(g->cpu, CPU_EVENT_FLUSH);
    for (unsigned ms = 0; ms < 5000 && !kvm_interpreted(g->cpu); ms += 10)
        usleep(10000); /* a busy host may take its time */
    cpu_post(g->cpu, CPU_EVENT_EXIT);
    return NULL;
}

/* As another processor does it; the memory map has asked for a flush before. */
static void a20_shuts_while_the_guest_runs(void **state)
{
    static const uint8_t code[] = {0x40, 0xeb, 0xfd}; /* l: inc ax; jmp l */
    struct guest *g = *state;
    pthread_t t;

    load(g, code, sizeof(code));
    atomic_fetch_or(&g->cpu->events, CPU_EVENT_FLUSH);
    assert_int_equal(pthread_create(&t, NULL, shut_a20_later, g), 0);
    assert_int_equal(run(g), ENGINE_EVENT);
    pthread_join(t, NULL);
    assert_int_not_equal(kvm_interpreted(g->cpu), 0);
}

static void interpreter_does_what_kvm_cannot(void **state)
{
    static const uint8_t code[] = {
        0xea, 0, 0, 0, 0xa0, /* jmp 0xa000:0 */
    };
    struct guest *g = *state;

    g->mmio[0] = UINT64_C(0x00f4e9e644b0); /* mov al, 0x44; out 0xe9, al; hlt */
    load(g, code, sizeof(code));
    run_to_halt(g);
    assert_int_equal(g->out_length, 1);
    assert_int_equal(g->out[0], 0x44);
    assert_int_not_equal(kvm_interpreted(g->cpu), 0);
}

static void triple_fault_is_a_shutdown(void **state)
{
    static const uint8_t code[] = {0x0f, 0x0b}; /* ud2 */
    struct guest *g = *state;

    load(g, code, sizeof(code));
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        g->cpu->seg[i].selector = i == SEG_CS ? 8 : 16;
        g->cpu->seg[i].limit = 0xffffffff;
        g->cpu->seg[i].attr = ATTR_P | ATTR_S | ATTR_DB | ATTR_G | ATTR_ACCESSED | ATTR_WRITABLE |
                              (i == SEG_CS ? ATTR_CODE : 0);
    }
    g->cpu->cr0 |= CR0_PE;
    g->cpu->idtr.limit = 0;
    engine_kvm.push(&g->engine, g->cpu);
    assert_int_equal(run(g), ENGINE_SHUTDOWN);
    assert_int_equal(g->cpu->activity, CPU_SHUTDOWN);
}

/* Whatever this /dev/kvm is: the probe ends soon, and says something where it refuses. */
static void probe_ends_with_a_reason(void **state)
{
    struct error err = {0};
    int r = kvm_probe_guest(&err);

    if (r < 0)
        assert_true(strlen(err.text) > 20);
    print_message("# probe guest: %s\n", r < 0 ? err.text : "runs right");
    assert_int_equal(r < 0, err.code != 0);
    if (r < 0)
        assert_true(engine_kvm.probe(&err) < 0);
}

#define GUEST_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        GUEST_TEST(writes_to_a_port),
        GUEST_TEST(reaches_devices_by_memory),
        GUEST_TEST(rom_cannot_be_written),
        GUEST_TEST(wakes_for_an_interrupt),
        GUEST_TEST(holds_an_interrupt_until_sti),
        GUEST_TEST(leaves_a_loop_when_kicked),
        GUEST_TEST(registers_survive),
        GUEST_TEST(writes_are_logged_while_tracked),
        GUEST_TEST(interpreter_runs_with_a20_shut),
        GUEST_TEST(a20_shuts_while_the_guest_runs),
        GUEST_TEST(interpreter_does_what_kvm_cannot),
        GUEST_TEST(triple_fault_is_a_shutdown),
        cmocka_unit_test(probe_ends_with_a_reason),
    };
    struct error err = {0};
    struct guest *g;

    log_set_level(LOG_ERROR);
    alarm(30);
    if (guest_new(&g, &err) < 0) {
        printf("1..1\nok 1 # SKIP %s\n", err.text);
        return 0;
    }
    guest_free(g);
    return cmocka_run_group_tests_name("kvm", tests, NULL, NULL);
}
