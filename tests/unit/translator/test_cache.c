/* What becomes of translations when code changes: which pages are watched, what goes, what stays.
 */
#include "translator/internal.h"

#include "support/unit.h"

#include <pthread.h>

enum { RAM_SIZE = 2 << 20, CODE = 0x10000, STACK = 0x8000, MAIN = 0x4000 };

struct vm {
    struct memory_map *map, *ports;
    struct ram_block *ram;
    struct region *region;
    struct cpu_model model;
    struct cpu *cpu;
    struct bt_cpu *c;
    struct translator *t;
};

static struct segment flat(uint16_t selector, uint32_t type)
{
    return (struct segment){.selector = selector,
                            .attr = ATTR_G | ATTR_DB | ATTR_P | ATTR_S | type,
                            .limit = UINT32_MAX};
}

static struct vm *vm_new(uint64_t cache, unsigned warm)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct translator_options o = {.cache_size = cache, .warm = warm};
    struct cpu_limits limits;
    struct error err = {0};

    cpu_limits_software(&limits);
    assert_int_equal(cpu_model_build(NULL, &limits, 1, &vm->model, &err), 0);
    vm->map = memory_map_new("memory", UINT64_C(1) << 40);
    vm->ports = memory_map_new("ports", 1 << 16);
    assert_int_equal(ram_block_new("ram", RAM_SIZE, &vm->ram, &err), 0);
    assert_int_equal(
        memory_add_ram(vm->map, "ram", 0, RAM_SIZE, 0, IN_ALL, vm->ram, 0, true, &vm->region, &err),
        0);
    vm->cpu = cpu_new(0, 0, &vm->model);
    vm->cpu->memory = vm->map;
    vm->cpu->ports = vm->ports;
    vm->cpu->cr0 = CR0_PE | CR0_ET;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        vm->cpu->seg[i] = flat(0x10, 3);
    vm->cpu->seg[SEG_CS] = flat(0x08, 11);
    cpu_state_changed(vm->cpu);
    translator_attach(vm->cpu, &o);
    vm->c = vm->cpu->engine;
    vm->t = vm->c->t;
    return vm;
}

static void vm_free(struct vm *vm)
{
    translator_detach(vm->cpu);
    cpu_free(vm->cpu);
    memory_remove(vm->region);
    memory_map_free(vm->map);
    memory_map_free(vm->ports);
    ram_block_free(vm->ram);
    free(vm);
}

/* MOV EAX, n; RET. */
static void write_function(struct vm *vm, uint32_t at, uint32_t n)
{
    uint8_t code[6] = {0xb8};

    store_le(code + 1, n, 4);
    code[5] = 0xc3;
    assert_int_equal(dma_write(vm->map, at, code, sizeof(code)), 0);
}

/* A loop that calls EBX, EDX times, adding up in ESI; then HLT. */
static uint32_t call(struct vm *vm, uint32_t at, uint32_t times)
{
    static const uint8_t code[] = {0x31, 0xf6, 0xff, 0xd3, 0x01, 0xc6, 0x4a, 0x75, 0xf9, 0xf4};
    struct cpu *cpu = vm->cpu;

    if (memcmp(vm->ram->host + MAIN, code, sizeof(code)) != 0)
        assert_int_equal(dma_write(vm->map, MAIN, code, sizeof(code)), 0);
    cpu->gpr[GPR_RBX] = at;
    cpu->gpr[GPR_RDX] = times;
    cpu->gpr[GPR_RSP] = STACK;
    cpu->rip = MAIN;
    cpu->activity = CPU_RUNNING;
    cpu_state_changed(cpu);
    assert_int_equal(translator_run(cpu), INTERP_HALTED);
    return (uint32_t)cpu->gpr[GPR_RSI];
}

static bool watched(const struct vm *vm, uint32_t at)
{
    return vm->ram->page_flags[at >> RAM_PAGE_BITS] & RAM_CODE;
}

static void poke(struct vm *vm, uint32_t at, uint8_t byte)
{
    assert_int_equal(dma_write(vm->map, at, &byte, 1), 0);
}

static void a_page_is_watched_while_it_has_blocks(void **state)
{
    struct vm *vm = vm_new(0, 3);

    write_function(vm, CODE, 7);
    assert_int_equal(call(vm, CODE, 2), 14);
    assert_false(watched(vm, CODE)); /* cold */
    assert_int_equal(call(vm, CODE, 20), 140);
    assert_true(watched(vm, CODE));
    assert_int_equal(vm->t->stats.invalidated, 0);
    write_function(vm, CODE, 9);
    assert_int_equal(vm->t->stats.invalidated, 1);
    assert_false(watched(vm, CODE));
    assert_true(watched(vm, MAIN));
    assert_int_equal(call(vm, CODE, 20), 180);
    assert_true(watched(vm, CODE));
    /* Data beside it, near and far; the last byte before it, the first behind it. */
    poke(vm, CODE + 128, 1);
    poke(vm, CODE + 6, 2);
    poke(vm, CODE - 1, 3);
    assert_int_equal(vm->t->stats.invalidated, 1);
    assert_true(watched(vm, CODE));
    assert_int_equal(call(vm, CODE, 20), 180);
    assert_int_equal(vm->t->stats.invalidated, 1);
    poke(vm, CODE + 5, 0xc3); /* its last byte */
    assert_int_equal(vm->t->stats.invalidated, 2);
    assert_false(watched(vm, CODE));
    vm_free(vm);
}

static void only_what_was_written_goes(void **state)
{
    struct vm *vm = vm_new(0, 0);

    for (uint32_t i = 0; i < 20; i++) {
        write_function(vm, CODE + 6 * i, i);
        assert_int_equal(call(vm, CODE + 6 * i, 4), 4 * i);
    }
    assert_int_equal(vm->t->stats.invalidated, 0);
    poke(vm, CODE + 6 * 11 + 1, 77);
    assert_int_equal(vm->t->stats.invalidated, 1);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(call(vm, CODE + 6 * i, 4), 4 * (i == 11 ? 77 : i));
    vm_free(vm);
}

/* Code that is not executed any more costs the stores beside it something for a while only; code
 * that is, for shorter and shorter parts of the time. */
static void patience_with_data_beside_code(void **state)
{
    struct vm *vm = vm_new(0, 0);
    uint32_t stores, last = 0;

    write_function(vm, CODE, 3);
    for (unsigned round = 0; round < 6; round++) {
        assert_int_equal(call(vm, CODE, 5), 15);
        assert_true(watched(vm, CODE));
        for (stores = 0; watched(vm, CODE) && stores < 1000000; stores++)
            poke(vm, CODE + 512, (uint8_t)stores);
        assert_in_range(stores, last + last / 2, 100000);
        assert_false(watched(vm, CODE));
        last = stores;
    }
    vm_free(vm);
}

/* The same physical code at two addresses would need paging; here: entries that collide, and many
 * addresses, with changes from outside between the runs. */
static void jump_tables_forget(void **state)
{
    struct vm *vm = vm_new(0, 0);

    for (uint32_t round = 0; round < 5; round++)
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t at = CODE + i * 0x400 + i % 3 * 0x1001;

            write_function(vm, at, round * 64 + i);
            assert_int_equal(call(vm, at, 5), 5 * (round * 64 + i));
        }
    assert_in_range(vm->t->stats.invalidated, 4 * 60, 5 * 64);
    vm_free(vm);
}

static void what_changes_often_is_interpreted(void **state)
{
    struct vm *vm = vm_new(0, 3);
    uint64_t before;

    for (uint32_t i = 0; i < 200; i++) {
        write_function(vm, CODE, i);
        assert_int_equal(call(vm, CODE, 2), 2 * i);
    }
    before = vm->t->stats.translated_blocks;
    assert_in_range(before, 3, 90);
    write_function(vm, CODE, 1);
    assert_int_equal(call(vm, CODE, 200), 200);
    assert_int_equal(vm->t->stats.translated_blocks, before + 1); /* it is worth it */
    vm_free(vm);
}

static void a_full_cache_starts_again(void **state)
{
    struct vm *vm = vm_new(1 * MiB, 0);
    enum { FUNCTIONS = 12000 };

    for (uint32_t i = 0; i < FUNCTIONS; i++)
        write_function(vm, CODE + i * 8, i);
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t i = 0; i < FUNCTIONS; i++)
            assert_int_equal(call(vm, CODE + i * 8, 2), 2 * i);
    assert_in_range(vm->t->stats.flushes, 1, 30);
    assert_true(watched(vm, MAIN));
    for (uint32_t i = 0; i < FUNCTIONS; i += 97) {
        write_function(vm, CODE + i * 8, ~i);
        assert_int_equal(call(vm, CODE + i * 8, 2), (uint32_t)(2 * ~i));
    }
    vm_free(vm);
}

/* Two regions: what was made last stays when the older one goes. */
static void a_full_region_goes_alone(void **state)
{
    struct vm *vm = vm_new(8 * MiB, 0);
    enum { FUNCTIONS = 200000 };
    uint64_t made;

    for (uint32_t i = 0; i < FUNCTIONS; i++)
        write_function(vm, CODE + i * 8, i);
    for (uint32_t i = 0; i < FUNCTIONS; i++)
        assert_int_equal(call(vm, CODE + i * 8, 2), 2 * i);
    assert_int_equal(vm->t->stats.flushes, 0);
    assert_in_range(vm->t->stats.recycled, 1, 8);
    assert_int_equal(vm->t->stats.invalidated, 0);
    made = vm->t->stats.translated_blocks;
    for (uint32_t i = FUNCTIONS - 2000; i < FUNCTIONS; i++)
        assert_int_equal(call(vm, CODE + i * 8, 2), 2 * i);
    assert_in_range(vm->t->stats.translated_blocks, made, made + 10);
    for (uint32_t i = 0; i < FUNCTIONS; i += 397) {
        write_function(vm, CODE + i * 8, ~i);
        assert_int_equal(call(vm, CODE + i * 8, 2), (uint32_t)(2 * ~i));
    }
    vm_free(vm);
}

/* Blocks linked in a row, more than there is room for: the caller's block is gone when they return,
 * and so is what a jump table knows of another function. */
static void a_region_goes_under_a_caller(void **state)
{
    struct vm *vm = vm_new(8 * MiB, 0);
    enum { LENGTH = 300000, OTHER = 0x8800 };
    uint8_t *p = vm->ram->host + CODE;

    store_le(p, 0x00ebc031, 4);           /* XOR EAX, EAX; JMP to the next */
    for (uint32_t i = 1; i < LENGTH; i++) /* INC EAX; JMP to the next */
        store_le(p + i * 4, 0x9001eb40, 4);
    p[(LENGTH - 1) * 4 + 1] = 0xc3;
    for (uint32_t round = 0; round < 2; round++) {
        write_function(vm, OTHER, round);
        assert_int_equal(call(vm, OTHER, 10), 10 * round);
        assert_int_equal(call(vm, CODE, 1), LENGTH - 1);
        assert_int_equal(call(vm, OTHER, 10), 10 * round);
    }
    assert_in_range(vm->t->stats.recycled, 2, 20);
    vm_free(vm);
}

/* Links into a block that stays, from blocks that stay and from blocks that go. */
enum { COMMON = 0x8000, STEP = 12 };

static void jumps_to_common(struct vm *vm, uint32_t first, uint32_t round)
{
    uint8_t *p = vm->ram->host + CODE + first * STEP;

    p[0] = 0xb8; /* MOV EAX, first; JMP COMMON */
    store_le(p + 1, first, 4);
    p[5] = 0xe9;
    store_le(p + 6, (uint32_t)(COMMON - (CODE + first * STEP + 10)), 4);
    assert_int_equal(call(vm, CODE + first * STEP, 3), 3 * (first + round));
}

static void change_common(struct vm *vm, uint32_t round)
{
    const uint8_t code[4] = {0x83, 0xc0, (uint8_t)round, 0xc3}; /* ADD EAX, round; RET */

    assert_int_equal(dma_write(vm->map, COMMON, code, sizeof(code)), 0);
}

static void links_of_a_region_go_with_it(void **state)
{
    struct vm *vm = vm_new(8 * MiB, 0);
    uint32_t count = 0, middle;

    change_common(vm, 1);
    while (vm->t->region == 0 || vm->t->used < 6 * MiB)
        jumps_to_common(vm, count++, 1);
    middle = count;
    change_common(vm, 2);
    for (uint32_t i = middle; i-- > 0;)
        assert_int_equal(call(vm, CODE + i * STEP, 3), 3 * (i + 2));
    assert_int_equal(vm->t->stats.recycled, 0);
    while (!vm->t->stats.recycled || vm->t->used < 3 * MiB)
        jumps_to_common(vm, count++, 2);
    assert_in_range(count, middle, 150000);
    assert_in_range(vm->t->stats.links, count, UINT32_MAX);
    change_common(vm, 3);
    for (uint32_t i = count; i-- > 0;)
        assert_int_equal(call(vm, CODE + i * STEP, 3), 3 * (i + 3));
    vm_free(vm);
}

/* Another thread writes while code runs; when it is done, the new code is what is called. */
struct writer {
    struct vm *vm;
    uint32_t n;
};

static void *write_in_background(void *opaque)
{
    struct writer *w = opaque;

    for (uint32_t i = 0; i < 50; i++)
        write_function(w->vm, CODE, w->n);
    return NULL;
}

static void code_written_by_another_thread(void **state)
{
    struct vm *vm = vm_new(0, 0);

    write_function(vm, CODE, 0);
    for (uint32_t n = 1; n < 60; n++) {
        struct writer w = {vm, n};
        pthread_t thread;
        uint32_t sum;

        assert_int_equal(pthread_create(&thread, NULL, write_in_background, &w), 0);
        sum = call(vm, CODE, 1000);
        assert_in_range(sum, (n - 1) * 1000, n * 1000);
        pthread_join(thread, NULL);
        assert_int_equal(call(vm, CODE, 10), 10 * n);
    }
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_is_watched_while_it_has_blocks),
        cmocka_unit_test(only_what_was_written_goes),
        cmocka_unit_test(patience_with_data_beside_code),
        cmocka_unit_test(jump_tables_forget),
        cmocka_unit_test(what_changes_often_is_interpreted),
        cmocka_unit_test(a_full_cache_starts_again),
        cmocka_unit_test(a_full_region_goes_alone),
        cmocka_unit_test(a_region_goes_under_a_caller),
        cmocka_unit_test(links_of_a_region_go_with_it),
        cmocka_unit_test(code_written_by_another_thread),
    };

    return cmocka_run_group_tests_name("translator-cache", tests, NULL, NULL);
}
