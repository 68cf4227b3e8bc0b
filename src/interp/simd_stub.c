/*
 * simd_stub.c - host code for one instruction: load the guest's registers, run it, store them.
 *
 * A stub is called as stub(cpu, frame), so RDI and RSI hold these two throughout; renamed general
 * registers are RAX, RCX, RDX and R8 to R11. It loads exactly the registers in the spec, always
 * at the host's full vector width, so that partial writes and cleared upper parts come out as the
 * host makes them. Nothing between the loads and the stores can raise a floating-point exception
 * but the instruction itself: FXRSTOR, FXSAVE and moves do not check for any.
 *
 * Code lives in a memfd mapped twice, writable and executable, never both. It is written once
 * and not reclaimed: when the arena is full, further instructions run in one scratch slot under
 * the lock, so a guest can make itself slow but not make the process grow.
 */
#include "interp/simd.h"

#include "base/log.h"
#include "interp/simd_fault.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ARENA_SIZE = 6 * MiB, STUBS_MAX = 1 << 14, STUBS_CHUNK = 256, BUCKETS = 1 << 12 };

static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    uint8_t *write, *exec; /* the two views of the arena; NULL: no executable memory */
    size_t used;           /* by lock; the scratch slot is at 0 */
    unsigned count;
    struct simd_stub *chunk;
    struct simd_stub *bucket[BUCKETS];
    bool avx, avx512, avx512bw; /* what the host has */
} stubs = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static void stubs_init(void)
{
    int fd = memfd_create("hospes-simd", MFD_CLOEXEC);
    void *write = MAP_FAILED, *exec = MAP_FAILED;

    __builtin_cpu_init();
    stubs.avx = __builtin_cpu_supports("avx");
    stubs.avx512 = __builtin_cpu_supports("avx512f");
    stubs.avx512bw = __builtin_cpu_supports("avx512bw");
    if (fd >= 0 && ftruncate(fd, ARENA_SIZE) == 0) {
        write = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        exec = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (fd >= 0)
        close(fd);
    if (write == MAP_FAILED || exec == MAP_FAILED) {
        log_error("no executable memory (%s): SIMD and x87 instructions of the guest will be "
                  "invalid; allow executable shared mappings for this process",
                  strerror(errno));
        return;
    }
    simd_fault_install(exec, ARENA_SIZE, offsetof(struct simd_frame, fault));
    stubs.write = write;
    stubs.exec = exec;
    stubs.used = SIMD_STUB_MAX;
}

bool simd_stub_available(void)
{
    pthread_once(&stubs.once, stubs_init);
    return stubs.exec != NULL;
}

static uint8_t *put(uint8_t *p, const void *bytes, unsigned n)
{
    memcpy(p, bytes, n);
    return p + n;
}
#define PUT(p, ...) put(p, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static uint8_t *put_offset(uint8_t *p, size_t offset)
{
    uint32_t v = (uint32_t)offset;

    return put(p, &v, sizeof(v));
}

/* Moves between registers and struct cpu at [rdi + offset]. */
static uint8_t *put_vector(uint8_t *p, unsigned r, bool store)
{
    uint8_t modrm = 0x87 | (r & 7) << 3;

    if (stubs.avx512) /* VMOVDQU64 zmm */
        p = PUT(p, 0x62, 0x61 | !(r & 8) << 7 | !(r & 16) << 4, 0xfe, 0x48, store ? 0x7f : 0x6f,
                modrm);
    else if (stubs.avx) /* VMOVUPS ymm */
        p = PUT(p, 0xc5, 0x7c | !(r & 8) << 7, store ? 0x11 : 0x10, modrm);
    else
        p = PUT(p, 0x40 | (r & 8) >> 1, 0x0f, store ? 0x11 : 0x10, modrm);
    return put_offset(p, offsetof(struct cpu, zmm) + r * sizeof(((struct cpu *)0)->zmm[0]));
}

static uint8_t *put_mask(uint8_t *p, unsigned r, bool store)
{
    /* KMOVQ where there is one; else the registers have 16 bits. */
    p = PUT(p, 0xc4, 0xe1, stubs.avx512bw ? 0xf8 : 0x78, store ? 0x91 : 0x90, 0x87 | r << 3);
    return put_offset(p, offsetof(struct cpu, k) + r * sizeof(uint64_t));
}

static uint8_t *put_gpr(uint8_t *p, unsigned host, unsigned slot, bool store)
{
    p = PUT(p, 0x48 | (host & 8) >> 1, store ? 0x89 : 0x8b, 0x86 | (host & 7) << 3);
    return put_offset(p, offsetof(struct simd_frame, gpr) + slot * sizeof(uint64_t));
}

static uint8_t *put_ldmxcsr(uint8_t *p, size_t offset)
{
    return put_offset(PUT(p, 0x0f, 0xae, 0x96), offset);
}

static uint8_t *put_leave(uint8_t *p, const struct simd_spec *s)
{
    if (s->use & SIMD_USES_FX)
        p = PUT(p, 0xdb, 0xe3); /* FNINIT */
    if (s->vector_in && stubs.avx)
        p = PUT(p, 0xc5, 0xf8, 0x77); /* VZEROUPPER */
    return PUT(p, 0xc3);
}

/* Write the stub to *out; returns its length, *fault_exit is an offset. */
static unsigned stub_emit(const struct simd_spec *s, uint8_t *out, unsigned *fault_exit)
{
    uint8_t *p = out;

    if (s->use & SIMD_USES_FX) /* FXRSTOR64; it clobbers XMM and MXCSR, so it is first */
        p = put_offset(PUT(p, 0x48, 0x0f, 0xae, 0x8e), offsetof(struct simd_frame, fx));
    for (unsigned i = 0; i < 32; i++)
        if ((s->vector_in | s->vector_out) & BIT(i))
            p = put_vector(p, i, false);
    for (unsigned i = 0; i < 8; i++)
        if ((s->k_in | s->k_out) & BIT(i))
            p = put_mask(p, i, false);
    for (unsigned i = 0; i < s->gprs; i++)
        p = put_gpr(p, s->gpr[i].host, i, false);
    if (s->use & SIMD_USES_MXCSR)
        p = put_ldmxcsr(p, offsetof(struct simd_frame, mxcsr));
    if (s->use & SIMD_USES_FLAGS) { /* PUSH [rsi+], POPFQ */
        p = put_offset(PUT(p, 0xff, 0xb6), offsetof(struct simd_frame, flags));
        p = PUT(p, 0x9d);
    }
    p = put(p, s->code, s->code_length);
    if (s->use & SIMD_USES_FLAGS) { /* PUSHFQ, POP [rsi+] */
        p = PUT(p, 0x9c);
        p = put_offset(PUT(p, 0x8f, 0x86), offsetof(struct simd_frame, flags));
    }
    if (s->use & SIMD_USES_MXCSR) {
        p = put_offset(PUT(p, 0x0f, 0xae, 0x9e), offsetof(struct simd_frame, mxcsr));
        p = put_ldmxcsr(p, offsetof(struct simd_frame, host_mxcsr));
    }
    for (unsigned i = 0; i < s->gprs; i++)
        if (s->gpr[i].access & SIMD_WRITES)
            p = put_gpr(p, s->gpr[i].host, i, true);
    for (unsigned i = 0; i < 32; i++)
        if (s->vector_out & BIT(i))
            p = put_vector(p, i, true);
    for (unsigned i = 0; i < 8; i++)
        if (s->k_out & BIT(i))
            p = put_mask(p, i, true);
    if (s->use & SIMD_USES_FX) /* FXSAVE64 */
        p = put_offset(PUT(p, 0x48, 0x0f, 0xae, 0x86), offsetof(struct simd_frame, fx));
    p = put_leave(p, s);

    *fault_exit = (unsigned)(p - out);
    if (s->use & SIMD_USES_MXCSR) {
        p = put_offset(PUT(p, 0x0f, 0xae, 0x9e), offsetof(struct simd_frame, mxcsr));
        p = put_ldmxcsr(p, offsetof(struct simd_frame, host_mxcsr));
    }
    p = put_leave(p, s);
    return (unsigned)(p - out);
}

static unsigned spec_hash(const struct simd_spec *s)
{
    const uint8_t *p = (const uint8_t *)s;
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < sizeof(*s); i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) % BUCKETS;
}

static struct simd_stub *stub_build_locked(const struct simd_spec *spec)
{
    uint8_t code[SIMD_STUB_MAX];
    struct simd_stub *stub;
    unsigned length = 0, fault_exit = 0;

    if (spec->kind == SIMD_HOST)
        length = stub_emit(spec, code, &fault_exit);
    if (stubs.count == STUBS_MAX || !range_within(stubs.used, length, ARENA_SIZE))
        return NULL;
    if (stubs.count % STUBS_CHUNK == 0)
        stubs.chunk = xcalloc(STUBS_CHUNK, sizeof(*stub));
    stub = &stubs.chunk[stubs.count++ % STUBS_CHUNK];
    stub->spec = *spec;
    if (length) {
        memcpy(stubs.write + stubs.used, code, length);
        stub->entry = stubs.exec + stubs.used;
        stub->fault_exit = stubs.exec + stubs.used + fault_exit;
        /* A cache line of its own: no stale code of a neighbour is ever fetched with it. */
        stubs.used += align_up(length, 64);
    }
    return stub;
}

const struct simd_stub *simd_stub_find(const struct simd_spec *spec)
{
    struct simd_stub **bucket = &stubs.bucket[spec_hash(spec)];
    struct simd_stub *stub;

    if (!simd_stub_available())
        return NULL;
    pthread_mutex_lock(&stubs.lock);
    for (stub = *bucket; stub; stub = stub->next)
        if (!memcmp(&stub->spec, spec, sizeof(*spec)))
            break;
    if (!stub) {
        stub = stub_build_locked(spec);
        if (stub) {
            stub->next = *bucket;
            *bucket = stub;
        }
    }
    pthread_mutex_unlock(&stubs.lock);
    return stub;
}

static void enter(const void *entry, const void *fault_exit, struct cpu *cpu,
                  struct simd_frame *frame)
{
    void (*code)(struct cpu *, struct simd_frame *) =
        (void (*)(struct cpu *, struct simd_frame *))(uintptr_t)entry;

    frame->fault = (struct simd_fault){.exit = fault_exit};
    frame->host_mxcsr = __builtin_ia32_stmxcsr();
    code(cpu, frame);
}

void simd_stub_run(const struct simd_stub *stub, struct cpu *cpu, struct simd_frame *frame)
{
    simd_fault_unblock();
    enter(stub->entry, stub->fault_exit, cpu, frame);
}

void simd_stub_run_once(const struct simd_spec *spec, struct cpu *cpu, struct simd_frame *frame)
{
    unsigned fault_exit, eax, ebx, ecx, edx;

    simd_fault_unblock();
    pthread_mutex_lock(&stubs.lock);
    stub_emit(spec, stubs.write, &fault_exit);
    __cpuid(0, eax, ebx, ecx, edx); /* serialises: the slot held other code before */
    enter(stubs.exec, stubs.exec + fault_exit, cpu, frame);
    pthread_mutex_unlock(&stubs.lock);
}
