/*
 * fuzz_translator.c - random bytes as guest code for the translator, in all modes.
 *
 * Nothing is executed: blocks are made, and the verifier judges each (verify.h), which aborts where
 * one is not confined. The first bytes of an input choose the mode and where in the page the code
 * stands; the rest is code. The cache is small, so that it is full now and then.
 */
#include "fuzz.h"

#include "base/log.h"
#include "memory/ram.h"
#include "translator/internal.h"
#include "x86/model.h"

#include <stdio.h>
#include <stdlib.h>

enum { RAM_SIZE = 64 * KiB, BLOCKS = 6 };

struct world {
    struct cpu_model model;
    struct memory_map *memory;
    struct ram_block *ram;
    struct region *region;
    struct cpu *cpu;
    struct bt_cpu *bt;
};

static struct world *world_new(void)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct translator_options options;
    struct cpu_limits limits;
    struct error err = {0};

    log_set_level(LOG_ERROR);
    cpu_limits_software(&limits);
    w->memory = memory_map_new("memory", UINT64_C(1) << 40);
    if (cpu_model_build("max", &limits, 1, &w->model, &err) < 0 ||
        ram_block_new("ram", RAM_SIZE, &w->ram, &err) < 0 ||
        memory_add_ram(w->memory, "ram", 0, RAM_SIZE, 0, IN_ALL, w->ram, 0, true, &w->region,
                       &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    w->cpu = cpu_new(0, 0, &w->model);
    w->cpu->memory = w->memory;
    translator_options_default(&options);
    options.cache_size = TRANSLATOR_CACHE_MIN;
    options.verify = true;
    translator_attach(w->cpu, &options);
    w->bt = w->cpu->engine;
    return w;
}

/* Every key that key_of() of run.c could give, and some that it would not. */
static uint32_t choose_key(unsigned a, unsigned b)
{
    uint32_t key = a & 1 ? KEY_USER : a & 2 ? KEY_CPL0 : 0;
    uint32_t units = KEY_X87 | KEY_SSE | KEY_AVX | KEY_AVX512;

    if (a & 4)
        key |= KEY_SINGLE;
    if (a & 8)
        units = a & 16 ? 0 : a & 32 ? KEY_X87 : KEY_X87 | KEY_SSE;
    key |= units;
    switch (b % 3) {
    case 0: return key | KEY_FLAT_CODE | KEY_FLAT_DATA;
    case 1: key |= KEY_SIZE16; break;
    default: key |= KEY_SIZE32; break;
    }
    key |= (b & 4 ? KEY_FLAT_CODE : 0) | (b & 8 ? KEY_FLAT_DATA : 0) | (b & 16 ? KEY_STACK32 : 0);
    return key | (b & 32 ? KEY_REAL : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world *w;
    struct translator *t;
    unsigned offset;
    uint32_t key, page, page2;

    if (size < 8)
        return 0;
    if (!w)
        w = world_new();
    t = w->bt->t;
    key = choose_key(data[0], data[1]);
    offset = (data[2] | (unsigned)data[3] << 8) & 0xfff;
    data += 4;
    size = MIN(size - 4, (size_t)0x2000 - offset);
    memset(w->ram->host, 0x90, RAM_SIZE);
    memcpy(w->ram->host + offset, data, size);
    pthread_mutex_lock(&t->lock);
    for (unsigned i = 0; i < BLOCKS && offset < 0x1000; i++) {
        struct block *b;

        if (!page_make(t, w->bt, w->ram, 0, &page) || !page_make(t, w->bt, w->ram, 0x1000, &page2))
            abort();
        b = translate(t, w->bt, page, offset, key, offset > 0x1000 - 15 && i & 1 ? page2 : 0);
        if (!b) {
            if (!cache_full(t))
                abort(); /* every code can be translated */
            cache_empty(t);
            continue;
        }
        if (!b->length || offset + b->length > 0x1000 || b->end > t->size)
            abort();
        offset += b->length;
    }
    pthread_mutex_unlock(&t->lock);
    return 0;
}

/* Code bytes that are instructions more often than random ones: common opcodes and prefixes. */
size_t fuzz_make_input(uint8_t *to, size_t room)
{
    static const uint8_t starts[] = {0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48, 0x0f, 0x0f,
                                     0x8b, 0x89, 0x50, 0xc4, 0xc5, 0x62, 0x64, 0x65,
                                     0x41, 0x4c, 0x8d, 0xff, 0x9c, 0x83};
    size_t size = MIN(room, (size_t)(24 + fuzz_random() % 400));

    for (size_t i = 0; i < size; i++) {
        uint64_t r = fuzz_random();

        to[i] = r & 0x300 ? (uint8_t)r : starts[(r >> 16) % sizeof(starts)];
    }
    return size;
}
