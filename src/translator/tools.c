/*
 * tools.c - looking at translations: the log (guest and host code side by side), counters, and the
 * map that lets `perf` name blocks.
 */
#include "translator/internal.h"

#include "base/log.h"
#include "translator/verify.h"

#include <Zydis/Zydis.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int tools_open(struct translator *t, struct error *err)
{
    char path[64];

    if (t->options.log_path) {
        t->log = fopen(t->options.log_path, "we");
        if (!t->log)
            return error_set(err, errno, "cannot write the translator's log '%s': %s",
                             t->options.log_path, strerror(errno));
    }
    if (t->options.perf_map) {
        snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
        t->perf_map = fopen(path, "we");
        if (!t->perf_map)
            return error_set(err, errno, "cannot write the map for perf, '%s': %s", path,
                             strerror(errno));
    }
    return 0;
}

void tools_close(struct translator *t)
{
    if (t->log)
        fclose(t->log);
    if (t->perf_map)
        fclose(t->perf_map);
    t->log = t->perf_map = NULL;
}

static void print_code(FILE *f, ZydisMachineMode mode, const uint8_t *p, size_t size, uint64_t at,
                       const char *indent)
{
    ZydisStackWidth width = mode == ZYDIS_MACHINE_MODE_LONG_64     ? ZYDIS_STACK_WIDTH_64
                            : mode == ZYDIS_MACHINE_MODE_LEGACY_32 ? ZYDIS_STACK_WIDTH_32
                                                                   : ZYDIS_STACK_WIDTH_16;
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction d;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    char text[128];

    ZydisDecoderInit(&decoder, mode, width);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    while (size) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, p, size, &d, op))) {
            fprintf(f, "%s%08lx  .byte 0x%02x\n", indent, (unsigned long)at, *p);
            d.length = 1;
        } else {
            ZydisFormatterFormatInstruction(&formatter, &d, op, d.operand_count_visible, text,
                                            sizeof(text), at, NULL);
            fprintf(f, "%s%08lx  %s\n", indent, (unsigned long)at, text);
        }
        p += d.length;
        size -= d.length;
        at += d.length;
    }
}

void log_block(struct translator *t, const struct block *b, uint8_t *const *host,
               const uint16_t *at, unsigned count)
{
    const struct code_page *p = &t->pages[b->page];
    const uint8_t *bytes = p->ram->host + p->offset;
    ZydisMachineMode mode = b->key & KEY_SIZE16   ? ZYDIS_MACHINE_MODE_LEGACY_16
                            : b->key & KEY_SIZE32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                  : ZYDIS_MACHINE_MODE_LONG_64;
    FILE *f = t->log;
    const uint8_t *from = t->rw + MIN(b->start, b->entry_saved);

    fprintf(f, "block %u: %s+%#lx, key %#x, %u instructions, %u -> %u bytes, host %#lx\n",
            (unsigned)(b - t->blocks), p->ram->name, (unsigned long)(p->offset + b->offset), b->key,
            b->instructions, b->length, b->end - b->start,
            (unsigned long)(uintptr_t)(t->rx + b->start));
    for (unsigned i = 0; i <= count; i++) {
        const uint8_t *to = host[i];

        print_code(f, ZYDIS_MACHINE_MODE_LONG_64, from, (size_t)(to - from),
                   (uint64_t)(uintptr_t)(t->rx + (from - t->rw)), "        ");
        if (i < count)
            print_code(f, mode, bytes + at[i], MIN(15u, (unsigned)(at[i + 1] - at[i])), at[i],
                       "  ");
        from = to;
    }
    fprintf(f, "    cold:\n");
    print_code(f, ZYDIS_MACHINE_MODE_LONG_64, from, (size_t)(t->rw + b->end - from),
               (uint64_t)(uintptr_t)(t->rx + (from - t->rw)), "        ");
    fflush(f);
}

void verify_or_stop(struct translator *t, const struct block *b, uint8_t *const *host,
                    const uint16_t *at, unsigned count)
{
    char why[256];

    if (verify_block(t, b, why, sizeof(why)))
        return;
    t->log = stderr;
    log_block(t, b, host, at, count);
    fprintf(stderr, "hospes: internal error: translated code is not confined: %s\n", why);
    abort();
}

void perf_map_stubs(struct translator *t)
{
    if (t->perf_map)
        fprintf(t->perf_map, "%lx %x stubs\n", (unsigned long)(uintptr_t)t->rx, t->first);
}

void perf_map_add(struct translator *t, const struct block *b)
{
    const struct code_page *p = &t->pages[b->page];

    fprintf(t->perf_map, "%lx %x guest:%s+%lx%s\n", (unsigned long)(uintptr_t)(t->rx + b->start),
            b->end - b->start, p->ram->name, (unsigned long)(p->offset + b->offset),
            b->key & KEY_USER ? ":user" : "");
    fflush(t->perf_map);
}

static const char *const counter_names[COUNTERS] = {
    [COUNT_ENTER] = "entries from the run loop",
    [COUNT_FILL] = "TLB misses filled by the short way",
    [COUNT_BESIDE_CODE] = "stores beside code",
    [COUNT_CHECK_SLOW] = "memory accesses by the long way",
    [COUNT_CHECK_WIDE] = "  of them checks for several accesses",
    [COUNT_INTERP_ONE] = "instructions left to the interpreter",
    [COUNT_INTERP_COLD] = "stretches of cold code interpreted",
    [COUNT_INTERP_EVENT] = "steps for events, traps and shadows",
    [COUNT_LINK] = "direct branches not linked",
    [COUNT_INDIRECT] = "indirect branches not in the table",
    [COUNT_POLL] = "polls that left",
    [COUNT_FAULT] = "host faults",
    [COUNT_FLUSH_JUMPS] = "jump tables dropped",
    [COUNT_STACK_RESET] = "return stacks reset",
};

static const char *const fast_names[FAST_OPS] = {
    [FAST_STRING] = "MOVS, STOS",
    [FAST_SYSCALL] = "SYSCALL",
    [FAST_SYSRET] = "SYSRET",
    [FAST_IRET] = "IRET",
};

static const char *const help_names[HELP_OPS] = {
    [HELP_IN] = "IN",
    [HELP_OUT] = "OUT",
    [HELP_RDMSR] = "RDMSR",
    [HELP_WRMSR] = "WRMSR",
    [HELP_CPUID] = "CPUID",
    [HELP_FROM_CR8] = "MOV from CR8",
    [HELP_TO_CR] = "MOV to CR0, CR2, CR4, CR8",
    [HELP_TO_CR3] = "MOV to CR3",
    [HELP_INVLPG] = "INVLPG",
    [HELP_PAUSE] = "PAUSE",
};

void print_stats(const struct translator *t, void *file)
{
    FILE *f = file;
    uint64_t slow_fast[FAST_OPS] = {0}, helped[HELP_OPS] = {0};
    const struct bt_stats *s = &t->stats;
    uint64_t fallback[FALLBACKS] = {0}, sum[COUNTERS] = {0}, misses = 0, flushes = 0;

    for (unsigned i = 0; i < t->cpu_count; i++) {
        struct bt_cpu *c = t->cpus[i];

        for (unsigned n = 0; n < COUNTERS; n++)
            sum[n] += c->count[n];
        for (unsigned n = 0; n < FALLBACKS; n++)
            fallback[n] += c->fallback[n];
        for (unsigned n = 0; n < FAST_OPS; n++)
            slow_fast[n] += c->slow_fast[n];
        for (unsigned n = 0; n < HELP_OPS; n++)
            helped[n] += c->helped[n];
        if (c->cpu->tlb) {
            misses += c->cpu->tlb->misses;
            flushes += c->cpu->tlb->flushes;
        }
    }
    fprintf(f,
            "translator: %lu blocks, %lu instructions, %lu guest bytes -> %lu host bytes "
            "(%.1f times)\n",
            (unsigned long)s->translated_blocks, (unsigned long)s->translated_instructions,
            (unsigned long)s->guest_bytes, (unsigned long)s->host_bytes,
            s->guest_bytes ? (double)s->host_bytes / (double)s->guest_bytes : 0);
    fprintf(f,
            "  %.3f s translating, %.0f ns an instruction; cache %u KiB, emptied %lu "
            "times, %lu parts of it, in %lu us at most\n",
            (double)s->translate_ns / 1e9,
            s->translated_instructions
                ? (double)s->translate_ns / (double)s->translated_instructions
                : 0,
            t->size >> 10, (unsigned long)s->flushes, (unsigned long)s->recycled,
            (unsigned long)s->longest_ns / 1000);
    fprintf(f, "  %lu blocks invalidated, %lu links made\n", (unsigned long)s->invalidated,
            (unsigned long)s->links);
    fprintf(f, "  %12lu TLB walks, %lu TLB flushes\n", (unsigned long)misses,
            (unsigned long)flushes);
    for (unsigned n = 0; n < COUNTERS; n++)
        if (counter_names[n])
            fprintf(f, "  %12lu %s\n", (unsigned long)sum[n], counter_names[n]);
    fprintf(f, "  left to the interpreter, by instruction:\n");
    for (unsigned shown = 0; shown < 24; shown++) {
        unsigned best = 0;
        const char *name;

        for (unsigned n = 0; n < FALLBACKS; n++)
            if (fallback[n] > fallback[best])
                best = n;
        if (!fallback[best])
            break;
        name = ZydisMnemonicGetString((ZydisMnemonic)best);
        fprintf(f, "  %12lu %s\n", (unsigned long)fallback[best],
                best == 0 || !name ? "(crosses pages or is invalid)" : name);
        fallback[best] = 0;
    }
    fprintf(f, "  and by those that have a way of their own:\n");
    for (unsigned n = 0; n < FAST_OPS; n++)
        fprintf(f, "  %12lu %s\n", (unsigned long)slow_fast[n], fast_names[n]);
    fprintf(f, "  done in C without the interpreter:\n");
    for (unsigned n = 0; n < HELP_OPS; n++)
        fprintf(f, "  %12lu %s\n", (unsigned long)helped[n], help_names[n]);
}
