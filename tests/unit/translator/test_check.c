/*
 * test_check.c - the lock-step check: it finds each kind of fault put in on purpose, finds none in
 * code that is right, and makes devices see everything once.
 */
#include "support/unit.h"

#include "memory/ram.h"
#include "translator/translator.h"
#include "x86/model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { RAM = 1 * MiB, CODE = 0x1000, DEVICE = 0x10000000 };

struct fixture {
    struct cpu_model model;
    struct ram_block *ram;
    struct memory_map *memory, *ports;
    struct cpu *cpu;
    char text[8192]; /* what the check printed */
};

static unsigned reads, writes;

static uint64_t device_read(struct device *dev, uint64_t offset, unsigned size)
{
    return 100 + reads++;
}

static void device_write(struct device *dev, uint64_t offset, uint64_t value, unsigned size)
{
    writes++;
}

static const struct io_ops device_ops = {device_read, device_write, 1, 8};

static const uint8_t program[] = {
    0xb8, 5,    0,    0,    0,                         /* mov eax, 5 */
    0x83, 0xc0, 7,                                     /* add eax, 7 */
    0xc7, 0x05, 0,    0x30, 0, 0,    0x12, 0x34, 0, 0, /* mov dword [3000h], 3412h */
    0x66, 0x0f, 0xef, 0xc1,                            /* pxor xmm0, xmm1 */
    0x8b, 0x1d, 0,    0,    0, 0x10,                   /* mov ebx, [DEVICE] */
    0x89, 0x1d, 4,    0,    0, 0x10,                   /* mov [DEVICE + 4], ebx */
    0xe4, 0x40,                                        /* in al, 40h */
    0xb9, 3,    0,    0,    0,                         /* mov ecx, 3 */
    0xff, 0x05, 0,    0x30, 0, 0,                      /* again: inc dword [3000h] */
    0x49,                                              /* dec ecx */
    0x75, 0xf7,                                        /* jne again */
    0x3c, 12,                                          /* cmp al, 12 */
    0x83, 0xf8, 12,                                    /* cmp eax, 12 */
    0xf4,                                              /* hlt */
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));
    struct cpu_limits limits;
    struct cpu *cpu;

    reads = writes = 0;
    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build(NULL, &limits, 1, &f->model, NULL), 0);
    assert_int_equal(ram_block_new("ram", RAM, &f->ram, NULL), 0);
    f->memory = memory_map_new("memory", UINT64_C(1) << 46);
    f->ports = memory_map_new("ports", 1 << 16);
    assert_int_equal(
        memory_add_ram(f->memory, "ram", 0, RAM, 0, IN_ALL, f->ram, 0, true, NULL, NULL), 0);
    assert_int_equal(
        memory_add_io(f->memory, "io", DEVICE, 0x1000, 0, &device_ops, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(
        memory_add_io(f->ports, "port", 0x40, 1, 0, &device_ops, NULL, NULL, NULL, NULL), 0);
    f->cpu = cpu = cpu_new(0, 0, &f->model);
    cpu->memory = f->memory;
    cpu->ports = f->ports;
    cpu->cr0 = CR0_PE | CR0_ET;
    cpu->cr4 = CR4_OSFXSR;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){.attr = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | 3,
                                       .limit = UINT32_MAX};
    cpu->seg[SEG_CS].attr |= ATTR_CODE;
    cpu->rip = CODE;
    cpu->zmm[0][0] = cpu->zmm[1][0] = 7;
    memcpy(f->ram->host + CODE, program, sizeof(program));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    cpu_free(f->cpu);
    memory_map_free(f->memory);
    memory_map_free(f->ports);
    ram_block_free(f->ram);
    free(f);
    return 0;
}

/* Run the program; what went to stderr ends up in f->text. */
static bool differs(struct fixture *f, unsigned sabotage)
{
    struct translator_options o;
    FILE *capture = tmpfile();
    int err = dup(STDERR_FILENO);
    enum interp_result r;
    bool found;
    size_t n;

    translator_options_default(&o);
    o.cache_size = 1 * MiB;
    o.check = true;
    o.sabotage = sabotage;
    translator_attach(f->cpu, &o);
    cpu_state_changed(f->cpu);
    assert_non_null(capture);
    fflush(stderr);
    dup2(fileno(capture), STDERR_FILENO);
    r = translator_run(f->cpu);
    found = translator_differs(f->cpu);
    assert_int_equal(r, found ? INTERP_EVENT : INTERP_HALTED);
    translator_detach(f->cpu);
    fflush(stderr);
    dup2(err, STDERR_FILENO);
    close(err);
    rewind(capture);
    n = fread(f->text, 1, sizeof(f->text) - 1, capture);
    f->text[n] = 0;
    fclose(capture);
    return found;
}

static void right_code_passes_and_devices_see_it_once(void **state)
{
    struct fixture *f = *state;

    assert_false(differs(f, BT_WRONG_NONE));
    assert_int_equal(reads, 2);
    assert_int_equal(writes, 1);
    assert_int_equal(f->cpu->gpr[GPR_RBX], 100);
    assert_int_equal(load_le(f->ram->host + 0x3000, 4), 0x3412 + 3);
    assert_int_equal(f->cpu->zmm[0][0], 0);
    assert_int_equal(f->cpu->rip, CODE + sizeof(program));
    assert_non_null(strstr(f->text, " instructions compared"));
    assert_null(strstr(f->text, "check: 0 blocks"));
    assert_null(strstr(f->text, "differs"));
}

static void wrong_code_is_found(void **state)
{
    static const struct {
        unsigned sabotage;
        const char *line; /* starts the one of what differs */
    } cases[] = {
        {BT_WRONG_ADD, "\n* rax "},
        {BT_WRONG_STORE, "\n* memory ram+0x3000: before 00"},
        {BT_WRONG_JCC, "\ntranslator: left at "},
        {BT_WRONG_CMP, "\n* rflags "},
        {BT_WRONG_VECTOR, "\n* zmm[0] "},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (i) {
            teardown(state);
            setup(state);
        }
        assert_true(differs(*state, cases[i].sabotage));
        assert_non_null(strstr(((struct fixture *)*state)->text, cases[i].line));
        assert_non_null(strstr(((struct fixture *)*state)->text, "differs from the interpreter"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(right_code_passes_and_devices_see_it_once, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_code_is_found, setup, teardown),
    };
    return cmocka_run_group_tests_name("translator check", tests, NULL, NULL);
}
