/*
 * test_translator.c - the engine bt around its translations: faults of the host, the stack of
 * paired calls, kicks, the bounds of the cache, its mappings, the tools, and the verifier.
 *
 * Code runs until HLT; exceptions go to handlers that are a HLT. Most results are compared with the
 * interpreter's.
 */
#include "../interp/guest.h"

#include "interp/simd_fault.h"
#include "memory/ram.h"
#include "translator/internal.h"
#include "translator/verify.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEEP_STACK = 0x1f0000, MANY = 0x40000 };

/* ---- running -------------------------------------------------------------------------------- */

static struct translator_options options;

static int at_start(void **state)
{
    translator_options_default(&options);
    options.warm = 0;
    options.verify = true;
    return 0;
}

static struct guest *bt_guest(enum guest_mode mode)
{
    struct guest *g = guest_new(mode);

    for (unsigned v = 0; v < 32; v++)
        *guest_memory(g, GUEST_HANDLER + 16 * v) = 0xf4;
    g->cpu->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu_state_changed(g->cpu);
    interp_detach(g->cpu);
    translator_attach(g->cpu, &options);
    return g;
}

static void bt_free(struct guest *g)
{
    translator_detach(g->cpu);
    interp_attach(g->cpu);
    guest_free(g);
}

static struct translator *translator_of(struct guest *g)
{
    return ((struct bt_cpu *)g->cpu->engine)->t;
}

static void run_to_halt(struct guest *g)
{
    g->cpu->activity = CPU_RUNNING;
    assert_int_equal(translator_run(g->cpu), INTERP_HALTED);
}

static int vector_of(const struct guest *g)
{
    uint64_t at = g->cpu->rip - 1 - GUEST_HANDLER;

    return at < 32 * 16 && at % 16 == 0 ? (int)at / 16 : -1;
}

/* Runs `hex` on both engines from the state that `set` makes, three times, and compares what there
 * is. The vector it ended by, or -1. */
static int both(enum guest_mode mode, const char *hex, void (*set)(struct guest *g))
{
    int vector = -2;

    simd_fault_arm(); /* cmocka takes signals for each test */
    for (unsigned time = 0; time < 3; time++) {
        struct guest *a = guest_new(mode), *b = bt_guest(mode);

        for (unsigned v = 0; v < 32; v++)
            *guest_memory(a, GUEST_HANDLER + 16 * v) = 0xf4;
        a->cpu->cr4 = b->cpu->cr4;
        cpu_state_changed(a->cpu);
        for (unsigned round = 0; round <= time; round++) {
            struct guest *each[] = {a, b};

            for (unsigned i = 0; i < 2; i++) {
                each[i]->cpu->gpr[GPR_RSP] = GUEST_STACK;
                guest_code(each[i], GUEST_CODE, hex);
                if (set)
                    set(each[i]);
                each[i]->cpu->activity = CPU_RUNNING;
            }
            while (interp_step(a->cpu, 1000) == INTERP_OK)
                ;
            run_to_halt(b);
            assert_memory_equal(a->cpu->gpr, b->cpu->gpr, sizeof(a->cpu->gpr));
            assert_int_equal(a->cpu->rip, b->cpu->rip);
            assert_int_equal(a->cpu->rflags, b->cpu->rflags);
            assert_int_equal(a->cpu->cr2, b->cpu->cr2);
            assert_memory_equal(a->ram->host + GUEST_DATA, b->ram->host + GUEST_DATA,
                                GUEST_STACK - GUEST_DATA);
        }
        vector = vector_of(b);
        guest_free(a);
        bt_free(b);
    }
    return vector;
}

/* ---- faults that the host takes ------------------------------------------------------------- */

static void in_data(struct guest *g)
{
    g->cpu->gpr[GPR_RBX] = GUEST_DATA + 8;
    g->cpu->gpr[GPR_R10] = 7; /* one of those in memory */
    g->cpu->gpr[GPR_R11] = 0;
}

static void divisions(void **state)
{
    /* mov eax,5; xor edx,edx; xor ecx,ecx; stc; div ecx */
    assert_int_equal(both(LONG64, "b805000000 31d2 31c9 f9 f7f1 f4", in_data), EXC_DE);
    /* by a register in memory, with what is written to registers before it */
    assert_int_equal(both(LONG64, "4d89d7 49ffc2 31d2 f8 49f7f3 f4", in_data), EXC_DE);
    /* by memory: idiv dword [rbx] */
    assert_int_equal(both(LONG64, "c70300000000 31d2 f73b f4", in_data), EXC_DE);
    /* the quotient does not fit: div bl */
    assert_int_equal(both(PROT32, "b8ffff0000 b301 f6f3 f4", NULL), EXC_DE);
}

static void misaligned(void **state)
{
    /* inc ecx; movaps [rbx],xmm0 */
    assert_int_equal(both(LONG64, "ffc1 f9 0f2903 f4", in_data), EXC_GP);
    assert_int_equal(both(LONG64, "ffc1 0f6f03 0f294308 f4", in_data), -1);
}

static void floating_point(void **state)
{
    /* mov dword [rbx],0x1d80 (ZM clear); ldmxcsr; xorps; divss xmm0,xmm1 */
    assert_int_equal(
        both(LONG64, "c703801d0000 0fae13 0f57c9 b83f000000 f30f2ac0 f30f5ec1 f4", in_data),
        EXC_XM);
    /* mov dword [rbx],0x37b (ZM clear); fninit; fldcw; fld1; fldz; fdivp; inc ecx; fwait */
    assert_int_equal(both(LONG64, "dbe3 c7037b030000 d92b d9e8 d9ee def9 ffc1 9b f4", in_data),
                     EXC_MF);
}

/* What FXSAVE says of the last instruction and operand must not be where those are in the host. */
static void host_addresses_stay_here(void **state)
{
    struct guest *g = bt_guest(LONG64);

    simd_fault_arm();
    /* mov dword [rbx],0x37b (ZM clear); fldcw; mov dword [rbx],0; fld1; fdiv dword [rbx];
     * fxsave64 [rbx+64] */
    guest_code(g, GUEST_CODE, "dbe3 c7037b030000 d92b c70300000000 d9e8 d833 480fae4340 f4");
    g->cpu->gpr[GPR_RBX] = GUEST_DATA;
    run_to_halt(g);
    assert_true(load_le(guest_memory(g, GUEST_DATA + 66), 2) & 0x80); /* an exception waits */
    assert_int_equal(load_le(guest_memory(g, GUEST_DATA + 72), 8), 0);
    assert_int_equal(load_le(guest_memory(g, GUEST_DATA + 80), 8), 0);
    bt_free(g);
}

static void page_faults(void **state)
{
    /* A shared check that fails for its second access only: mov [rbx],eax; mov [rbx+0x100],eax */
    char code[80];

    snprintf(code, sizeof(code), "bb %02x%02x%02x00 8903 40898300010000 f4", 0x80, 0xff, 0x01);
    assert_int_equal(both(LONG64, code, NULL), EXC_PF);
    /* mov rbx,GUEST_READONLY-4: the write crosses into it; read first: mov rax,[rbx]; mov [rbx],rax
     */
    assert_int_equal(both(LONG64, "bbfc0f0200 488b03 488903 f4", NULL), EXC_PF);
}

/* ---- checks that must not be shared --------------------------------------------------------- */

static void segment_that_wraps(struct guest *g)
{
    g->cpu->seg[SEG_FS].base = UINT64_C(0x9110) - (UINT64_C(1) << 32);
    g->cpu->gpr[GPR_RBX] = 0xfffffff0;
}

/* mov eax,fs:[ebx]; mov ecx,fs:[ebx+0x10]: one page apart by nothing but 4 GiB. */
static void cut_offsets_wrap(void **state)
{
    assert_int_equal(both(LONG64, "64678b03 64678b4b10 f4", segment_that_wraps), EXC_PF);
}

static void unreal_segment(struct guest *g)
{
    g->cpu->seg[SEG_FS].base = 0x9008;
    g->cpu->seg[SEG_FS].limit = UINT32_MAX;
    g->cpu->seg[SEG_FS].attr |= ATTR_G | ATTR_DB;
    g->cpu->gpr[GPR_RBX] = 0xfff0;
    cpu_state_changed(g->cpu);
    for (unsigned i = 0; i < 0x100; i++)
        *guest_memory(g, 0x19000 + i) = *guest_memory(g, 0x9000 + i) = (uint8_t)i;
}

static void cut_offsets_wrap_in_16_bits(void **state)
{
    /* mov eax,fs:[bx]; mov ecx,fs:[bx+0x10] */
    assert_int_equal(both(REAL16, "64668b07 64668b4f10 f4", unreal_segment), -1);
}

static void two_gs(struct guest *g)
{
    g->cpu->seg[SEG_GS].base = GUEST_DATA;
    g->cpu->kernel_gs_base = 0x30000;
    *guest_memory(g, GUEST_DATA + 0x18) = 1;
    *guest_memory(g, 0x30018) = 2;
}

static void swapgs_between(void **state)
{
    /* mov rax,gs:[0x10]; swapgs; mov rcx,gs:[0x18]; swapgs; mov rdx,gs:[0x18] */
    assert_int_equal(both(LONG64,
                          "65488b042510000000 0f01f8 65488b0c2518000000 0f01f8 "
                          "65488b142518000000 f4",
                          two_gs),
                     -1);
}

/* push rax; add eax,ebx; pushfq; pop rcx: the flags are saved when the addend is known already. */
static void flags_and_addends(void **state)
{
    assert_int_equal(both(LONG64, "50 01d8 9c 59 58 f4", in_data), -1);
    assert_int_equal(both(LONG64, "50 01d8 9c 50 01d8 9d 59 58 f4", in_data), -1);
}

/* ---- the stack of paired calls -------------------------------------------------------------- */

static void deep_stack(struct guest *g)
{
    g->cpu->gpr[GPR_RSP] = DEEP_STACK;
}

static void recursion(void **state)
{
    /* mov ecx,10000; call f; hlt; f: dec ecx; jz 1; call f; 1: inc eax; ret */
    assert_int_equal(
        both(LONG64, "b910270000 31c0 e801000000 f4 ffc9 7405 e8f7ffffff ffc0 c3", deep_stack), -1);
}

static void calls_without_returns(void **state)
{
    /* mov ecx,9000; 1: call f; f: pop rax; dec ecx; jnz 1; hlt */
    assert_int_equal(both(LONG64, "b928230000 e800000000 58 ffc9 75f6 f4", deep_stack), -1);
}

static void returns_without_calls(void **state)
{
    /* mov ecx,9000; 1: mov eax,2; push rax; ret (2 is behind); 2: dec ecx; jnz 1; hlt */
    char code[100];

    snprintf(code, sizeof(code), "b928230000 b8 %02x%02x0000 50 c3 ffc9 75f5 f4",
             (GUEST_CODE + 12) & 0xff, GUEST_CODE >> 8);
    assert_int_equal(both(LONG64, code, deep_stack), -1);
}

static void bad_returns(struct guest *g)
{
    static const uint8_t handler[] = {0xbc, 0,    0xc0, 0, 0, /* mov esp,GUEST_STACK */
                                      0xff, 0xc9,             /* dec ecx */
                                      0x0f, 0x85, 0,    0, 0, 0, 0xf4};
    int32_t back = GUEST_CODE - (GUEST_HANDLER + 16 * EXC_GP + 13);

    memcpy(guest_memory(g, GUEST_HANDLER + 16 * EXC_GP), handler, sizeof(handler));
    memcpy(guest_memory(g, GUEST_HANDLER + 16 * EXC_GP + 9), &back, 4);
    g->cpu->gpr[GPR_RCX] = 1000;
    g->cpu->gpr[GPR_RAX] = UINT64_C(0x8000000000000000);
}

/* The address that stands in the frames which nobody pushed, a thousand times. */
static void returns_to_nowhere(void **state)
{
    assert_int_equal(both(LONG64, "50 c3", bad_returns), -1);
}

/* ---- kicks ---------------------------------------------------------------------------------- */

static void *run_thread(void *opaque)
{
    struct guest *g = opaque;

    return (void *)(uintptr_t)translator_run(g->cpu);
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void kick_ends(enum guest_mode mode, const char *hex)
{
    struct guest *g = bt_guest(mode);
    struct timespec end;
    pthread_t thread;
    void *result;
    uint64_t began;

    guest_code(g, GUEST_CODE, hex);
    g->cpu->gpr[GPR_RCX] = g->cpu->gpr[GPR_RAX] = 1;
    g->cpu->gpr[GPR_RDX] = GUEST_CODE;
    g->cpu->kick = engine_bt.kick;
    assert_int_equal(pthread_create(&thread, NULL, run_thread, g), 0);
    usleep(20000);
    began = now_ms();
    cpu_post(g->cpu, CPU_EVENT_EXIT);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 20;
    assert_int_equal(pthread_timedjoin_np(thread, &result, &end), 0);
    assert_int_equal((enum interp_result)(uintptr_t)result, INTERP_EVENT);
    assert_in_range(now_ms() - began, 0, 5000); /* a busy host */
    bt_free(g);
}

static void kicks(void **state)
{
    kick_ends(LONG64, "ebfe");
    kick_ends(PROT32, "ebfe");
    kick_ends(REAL16, "ebfe");
    kick_ends(LONG64, "90 48ffc6 eb00 48ffc7 eb00 ebf5"); /* over several blocks */
    kick_ends(LONG64, "e802000000 ebf9 c3");              /* call, ret */
    kick_ends(LONG64, "85c9 75fc f4");                    /* a conditional branch */
    kick_ends(LONG64, "ffe2");                            /* jmp rdx: to itself */
    kick_ends(LONG64, "e800000000 4883c408 ebf5");        /* call forward, no return */
    kick_ends(LONG64, "b905000000 e2fe ebf7");            /* loop */
}

/* ---- the cache ------------------------------------------------------------------------------ */

static void cache_is_bounded(void **state)
{
    struct translator *t;
    struct guest *g;

    options.cache_size = TRANSLATOR_CACHE_MIN;
    options.verify = false;
    g = bt_guest(LONG64);
    t = translator_of(g);
    guest_code(g, GUEST_CODE, "e9");
    for (uint32_t at = MANY; at < MANY + 0x40000; at += 4)
        memcpy(guest_memory(g, at), "\xff\xc0\xeb\x00", 4); /* inc eax; jmp to the next */
    *guest_memory(g, MANY + 0x40000) = 0xf4;
    for (unsigned round = 1; round <= 2; round++) {
        g->cpu->rip = MANY;
        run_to_halt(g);
        assert_int_equal(g->cpu->gpr[GPR_RAX], round * 0x10000);
    }
    assert_true(t->stats.flushes > 2);
    assert_int_equal(t->size, TRANSLATOR_CACHE_MIN);
    assert_in_range(t->used, t->first, t->size);
    bt_free(g);
}

/* What /proc/self/maps says of the page at `at`: its permissions, "" where nothing is. */
static void permissions(const void *at, char out[5])
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned long from, to;
    char line[400], mode[8];

    assert_non_null(f);
    out[0] = '\0';
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && (uintptr_t)at >= from &&
            (uintptr_t)at < to)
            memcpy(out, mode, 5);
    fclose(f);
}

static void has(const void *at, const char *want)
{
    char mode[5];

    permissions(at, mode);
    assert_string_equal(mode, want);
}

/* Code in a device's memory, which goes with the device. */
static void memory_with_code_goes(void **state)
{
    struct guest *g = bt_guest(PROT32);
    struct error err = {0};
    struct ram_block *extra;
    struct region *region;

    assert_int_equal(ram_block_new("extra", 0x1000, &extra, &err), 0);
    assert_int_equal(memory_add_ram(g->memory, "extra", 0x400000, 0x1000, PRIORITY_DEFAULT, IN_ALL,
                                    extra, 0, true, &region, &err),
                     0);
    memcpy(extra->host, "\x40\xf4", 2); /* inc eax; hlt */
    guest_code(g, GUEST_CODE, "31c0 68 00004000 c3");
    run_to_halt(g);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 1);
    assert_int_equal(translator_of(g)->ram_count, 2);

    memory_remove(region);
    mmu_flush_all(g->cpu);
    ram_block_free(extra);
    assert_int_equal(translator_of(g)->ram_count, 1);
    guest_code(g, GUEST_CODE, "40 40 f4");
    run_to_halt(g);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 3);
    bt_free(g);
}

static void nothing_is_writable_and_executable(void **state)
{
    struct guest *g = bt_guest(LONG64);
    const struct translator *t = translator_of(g);
    struct bt_cpu *c = g->cpu->engine;
    char line[400], mode[8];
    pthread_t thread;
    unsigned lines = 0;
    FILE *f;

    guest_code(g, GUEST_CODE, "ffc0 ebfc");
    g->cpu->kick = engine_bt.kick;
    assert_int_equal(pthread_create(&thread, NULL, run_thread, g), 0);
    usleep(10000);
    f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        lines++;
        if (sscanf(line, "%*s %7s", mode) == 1)
            assert_false(mode[1] == 'w' && mode[2] == 'x');
    }
    fclose(f);
    assert_true(lines > 10);
    has(t->rw, "rw-s");
    has(t->rw + t->size - 1, "rw-s");
    has(t->rx, "r-xs");
    has(t->rx + t->size - 1, "r-xs");
    /* and nothing near them */
    has(t->rw - 1, "---p");
    has(t->rw - 64 * KiB, "---p");
    has(t->rw + t->size, "---p");
    has(t->rx - 1, "---p");
    has(t->rx + t->size + 64 * KiB - 1, "---p");
    for (unsigned i = 0; i < 2; i++) {
        has(c->stack[i] - 1, "---p");
        has(c->stack[i], "rw-p");
    }
    cpu_post(g->cpu, CPU_EVENT_EXIT);
    assert_int_equal(pthread_join(thread, NULL), 0);
    bt_free(g);
}

/* ---- tools ---------------------------------------------------------------------------------- */

static unsigned count_lines(const char *path, const char *part)
{
    FILE *f = fopen(path, "re");
    char line[400];
    unsigned n = 0;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        n += strstr(line, part) != NULL;
    fclose(f);
    return n;
}

static void tools_write_what_they_should(void **state)
{
    char log[] = "/tmp/hospes-test-XXXXXX", map[64];
    int fd = mkstemp(log);
    const struct translator *t;
    uint64_t host = 0, guest = 0, instructions = 0;
    unsigned blocks;
    struct guest *g;

    assert_true(fd >= 0);
    close(fd);
    snprintf(map, sizeof(map), "/tmp/perf-%d.map", (int)getpid());
    options.log_path = log;
    options.perf_map = true;
    g = bt_guest(LONG64);
    t = translator_of(g);
    guest_code(g, GUEST_CODE, "b903000000 ffc9 75fc 0f010b 4c8b1b e800000000 58 f4");
    g->cpu->gpr[GPR_RBX] = GUEST_DATA;
    run_to_halt(g);
    blocks = t->block_count - 1;
    assert_in_range(blocks, 3, 20);
    assert_int_equal(t->stats.translated_blocks, blocks);
    for (unsigned i = 1; i <= blocks; i++) {
        host += t->blocks[i].end - MIN(t->blocks[i].start, t->blocks[i].entry_saved);
        guest += t->blocks[i].length;
        instructions += t->blocks[i].instructions;
    }
    assert_int_equal(t->stats.guest_bytes, guest);
    assert_int_equal(t->stats.translated_instructions, instructions);
    assert_in_range(t->stats.host_bytes, host, host + 16 * blocks);
    assert_true(t->used - t->first >= host);
    bt_free(g);
    assert_int_equal(count_lines(log, "block "), blocks);
    assert_true(count_lines(log, "  00000000  mov ecx, 0x03") >= 1);
    assert_true(count_lines(log, "sidt") >= 1);
    assert_int_equal(count_lines(map, " guest:ram+"), blocks);
    assert_int_equal(count_lines(map, " stubs"), 1);
    assert_int_equal(count_lines(map, " guest:ram+5000"), 1);
    unlink(log);
    unlink(map);
}

static void options_are_bounded(void **state)
{
    struct guest *g;

    options.cache_size = 1;
    g = bt_guest(LONG64);
    assert_int_equal(translator_of(g)->size, TRANSLATOR_CACHE_MIN);
    bt_free(g);
    options.cache_size = 0;
    g = bt_guest(LONG64);
    assert_int_equal(translator_of(g)->size, 128 * MiB);
    bt_free(g);
}

/* ---- the verifier --------------------------------------------------------------------------- */

struct doctored {
    const char *what, *find, *put; /* hexadecimal */
};

static unsigned bytes_of(const char *hex, uint8_t *out)
{
    unsigned n = 0, byte;

    for (; *hex; hex++)
        if (*hex != ' ') {
            assert_int_equal(sscanf(hex, "%2x", &byte), 1);
            out[n++] = (uint8_t)byte;
            hex++;
        }
    return n;
}

static const struct block *block_at(struct translator *t, unsigned offset)
{
    for (uint32_t i = 1; i < t->block_count; i++)
        if (t->blocks[i].offset == offset && t->blocks[i].valid)
            return &t->blocks[i];
    return NULL;
}

static void verifier_finds(const char *hex, const struct doctored *d, unsigned count)
{
    struct guest *g = bt_guest(LONG64);
    struct translator *t = translator_of(g);
    const struct block *b;
    char why[256];
    uint32_t low;

    guest_code(g, GUEST_CODE, hex);
    in_data(g);
    run_to_halt(g);
    b = block_at(t, 0);
    assert_non_null(b);
    low = MIN(b->start, b->entry_saved);
    for (unsigned i = 0; i < count; i++) {
        uint8_t find[32], put[32], was[32];
        unsigned n = bytes_of(d[i].find, find), m = bytes_of(d[i].put, put);
        uint8_t *at = memmem(t->rw + low, b->end - low, find, n);

        assert_true(verify_block(t, b, why, sizeof(why)));
        if (!at)
            fail_msg("%s: the block has no %s", d[i].what, d[i].find);
        memcpy(was, at, m);
        memcpy(at, put, m);
        if (verify_block(t, b, why, sizeof(why)))
            fail_msg("%s: not found", d[i].what);
        assert_non_null(strstr(why, "block at "));
        memcpy(at, was, m);
    }
    assert_true(verify_block(t, b, why, sizeof(why)));
    bt_free(g);
}

static void verifier_can_fail(void **state)
{
    static const struct doctored data[] = {
        {"a check without its branch", "0f85", "660f1f440000"},
        {"a check that is the wrong way round", "0f85", "0f84"},
        {"a write beyond the range checked", "44895403 08", "44895403 0d"},
        {"a write before the range checked", "44895403 08", "44895403 07"},
        {"a read beyond the range checked", "448b5c03 0c", "448b5c03 0d"},
        {"a read that is larger", "448b5c03 0c", "4c8b5c03 0c"},
        {"another base register", "44895403 08", "44895401 08"},
        {"without the addend", "44895403 08", "44895323 08"},
        {"an index that is not cut", "0fb7c9", "0f1f00"},
        {"another part of the GS area", "6548890425 48200000", "6548890425 28200000"},
        {"the GS area's end", "6548890425 48200000", "6548890425 f0ffff7f"},
        {"the absolute address", "6548890425 48200000", "2e48890425 48200000"},
        {"FS", "6548890425 48200000", "6448890425 48200000"},
        {"a system call", "44895403 08", "0f05909090"},
        {"an interrupt", "44895403 08", "cd80909090"},
        {"GS base", "44895403 08", "f3480faed9"},
        {"a segment", "44895403 08", "8ee8909090"},
        {"an indirect jump", "44895403 08", "ffe0909090"},
        {"an indirect call", "44895403 08", "ffd0909090"},
        {"a return", "44895403 08", "c390909090"},
        {"a push", "44895403 08", "5058909090"},
        {"RSP", "44895403 08", "4883c40890"},
        {"a string instruction", "44895403 08", "a490909090"},
        {"XSAVE", "44895403 08", "0fae249090"},
        {"protection keys", "44895403 08", "0f01ef9090"},
        {"STD", "44895403 08", "fd90909090"},
        {"no instruction at all", "44895403 08", "0606060606"},
        {"RIP-relative data", "44895403 08", "8b05000000"},
    };
    static const struct doctored call[] = {
        {"a call without the frame", "51", "90"},
        {"a frame that stays", "488d6424 08", "488d6424 00"},
        {"a frame too many", "488d6424 08", "488d6424 10"},
    };
    static const struct doctored ret[] = {
        {"a return that is not compared", "483b4c24 08", "483b4c24 10"},
        {"a return compared with something else", "483b4c24 08", "4885c90f1f"},
    };

    /* mov [rbx+8],eax; mov ecx,[rbx+12]; hlt */
    verifier_finds("894308 8b4b0c f4", data, ARRAY_SIZE(data));
    verifier_finds("e801000000 f4 f4", call, ARRAY_SIZE(call));
    /* ret, to what the stack has: 0, where zeros are code; so jump over it */
    verifier_finds("85db 750a c3 90909090 90909090 90 f4", ret, ARRAY_SIZE(ret));
}

static void verifier_wants_known_targets(void **state)
{
    struct guest *g = bt_guest(LONG64);
    struct translator *t = translator_of(g);
    const struct block *b;
    char why[256];
    int32_t was, bad;

    guest_code(g, GUEST_CODE, "eb02 9090 ffc0 f4");
    run_to_halt(g);
    b = block_at(t, 0);
    assert_non_null(b);
    for (uint32_t i = 1; i < t->link_count; i++) {
        uint8_t *patch = t->rw + t->links[i].patch;

        if (&t->blocks[t->links[i].from] != b)
            continue;
        memcpy(&was, patch, 4);
        assert_true(verify_block(t, b, why, sizeof(why)));
        for (int step = -3; step <= 3; step++) {
            bad = was + step;
            memcpy(patch, &bad, 4);
            assert_int_equal(verify_block(t, b, why, sizeof(why)), step == 0);
        }
        bad = (int32_t)(b->end + 4096 - (t->links[i].patch + 4));
        memcpy(patch, &bad, 4);
        assert_false(verify_block(t, b, why, sizeof(why)));
        memcpy(patch, &was, 4);
    }
    bt_free(g);
}

static void fs_in_data(struct guest *g)
{
    in_data(g);
    g->cpu->seg[SEG_FS].base = GUEST_DATA;
    g->cpu->gpr[GPR_RCX] = 0xc0000100;
}

/* Checks on both sides of an instruction that C does are shared only as its site allows. */
static void verifier_knows_helpers(void **state)
{
    static const struct {
        const char *hex;
        enum help_op op, other;
        uint16_t writes; /* besides */
    } cases[] = {
        /* mov [rbx+8],eax; in al,0x80; mov [rbx+12],ecx */
        {"894308 e480 894b0c f4", HELP_IN, HELP_INVLPG, 0},
        {"894308 e480 894b0c f4", HELP_IN, HELP_TO_CR3, 0},
        {"894308 e480 894b0c f4", HELP_IN, HELP_IN, BIT(GPR_RBX)},
        /* mov eax,fs:[8]; rdmsr; mov eax,fs:[12] */
        {"648b042508000000 0f32 648b04250c000000 f4", HELP_RDMSR, HELP_WRMSR, 0},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct guest *g = bt_guest(LONG64);
        struct translator *t = translator_of(g);
        struct site *s = NULL, was;
        const struct block *b;
        char why[256];

        guest_code(g, GUEST_CODE, cases[i].hex);
        fs_in_data(g);
        run_to_halt(g);
        b = block_at(t, 0);
        assert_non_null(b);
        for (uint32_t n = 0; n < t->site_count; n++)
            if (t->sites[n].kind == SITE_HELP && &t->blocks[t->sites[n].block] == b)
                s = &t->sites[n];
        assert_non_null(s);
        assert_int_equal(s->helper, cases[i].op);
        assert_true(verify_block(t, b, why, sizeof(why)));
        was = *s;
        s->helper = (uint8_t)cases[i].other;
        s->writes |= cases[i].writes;
        assert_false(verify_block(t, b, why, sizeof(why)));
        *s = was;
        assert_true(verify_block(t, b, why, sizeof(why)));
        bt_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(divisions, at_start),
        cmocka_unit_test_setup(misaligned, at_start),
        cmocka_unit_test_setup(floating_point, at_start),
        cmocka_unit_test_setup(host_addresses_stay_here, at_start),
        cmocka_unit_test_setup(page_faults, at_start),
        cmocka_unit_test_setup(cut_offsets_wrap, at_start),
        cmocka_unit_test_setup(cut_offsets_wrap_in_16_bits, at_start),
        cmocka_unit_test_setup(swapgs_between, at_start),
        cmocka_unit_test_setup(flags_and_addends, at_start),
        cmocka_unit_test_setup(recursion, at_start),
        cmocka_unit_test_setup(calls_without_returns, at_start),
        cmocka_unit_test_setup(returns_without_calls, at_start),
        cmocka_unit_test_setup(returns_to_nowhere, at_start),
        cmocka_unit_test_setup(kicks, at_start),
        cmocka_unit_test_setup(cache_is_bounded, at_start),
        cmocka_unit_test_setup(memory_with_code_goes, at_start),
        cmocka_unit_test_setup(nothing_is_writable_and_executable, at_start),
        cmocka_unit_test_setup(tools_write_what_they_should, at_start),
        cmocka_unit_test_setup(options_are_bounded, at_start),
        cmocka_unit_test_setup(verifier_can_fail, at_start),
        cmocka_unit_test_setup(verifier_wants_known_targets, at_start),
        cmocka_unit_test_setup(verifier_knows_helpers, at_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
