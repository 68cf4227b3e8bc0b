/*
 * micro.c - fixed pieces of work with a stop-watch, for `make bench`.
 *
 * One static binary runs natively, in a guest under TCG and in a guest under Hospes. Each row does
 * a fixed amount of work three times and prints `#row NAME SECONDS sum=DIGEST`, the median. The
 * digest is of the result: bench/run compares it between the three, so that an engine that is fast
 * and wrong is found.
 *
 * Rules for an editor: the work of a row never depends on the machine (no number of processors, no
 * time, no address in a digest); setting up is not timed; a row takes under five seconds under TCG,
 * all repeats together about fifteen. Results are comparable only between runs of one source:
 * change a row's work together with its name.
 */
#include <errno.h>
#include <immintrin.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REPEATS = 3, MIB = 1 << 20 };

static char *buffer; /* of 64 MiB, touched before any row */

static void die(const char *what)
{
    fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_MONOTONIC, &t))
        die("clock_gettime");
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t fnv(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

enum { LCG_SEED = 12345 };
static uint64_t lcg(uint64_t *x)
{
    *x = *x * 6364136223846793005u + 1442695040888963407u;
    return *x >> 33;
}

static void fill(void *p, size_t size, uint64_t seed)
{
    uint32_t *out = p;

    for (size_t i = 0; i < size / 4; i++)
        out[i] = (uint32_t)lcg(&seed);
}

/* ---- integer and memory ---- */

/* Through a pointer the compiler cannot know: real calls, no unrolled recursion. */
static unsigned (*volatile fib_again)(unsigned);
static unsigned fib(unsigned n)
{
    return n < 2 ? n : fib_again(n - 1) + fib_again(n - 2);
}

static __attribute__((noinline)) unsigned fib_direct(unsigned n)
{
    return n < 2 ? n : fib_direct(n - 1) + fib_direct(n - 2);
}

static uint64_t run_fib(void)
{
    return fib_direct(36);
}

static uint64_t run_fib_indirect(void)
{
    fib_again = fib;
    return fib_again(35);
}

static uint64_t sieve(uint8_t *composite, unsigned limit)
{
    uint64_t primes = 0;

    memset(composite, 0, limit);
    for (unsigned i = 2; i < limit; i++) {
        if (composite[i])
            continue;
        primes += i;
        for (unsigned j = i * 2; j < limit; j += i)
            composite[j] = 1;
    }
    return primes;
}

static uint64_t run_sieve(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < 50; i++)
        sum += sieve((uint8_t *)buffer, MIB + i);
    return sum;
}

static uint32_t crc32_bitwise(const uint8_t *p, size_t size)
{
    uint32_t crc = ~0u;

    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1));
    }
    return ~crc;
}

static void fill_buffer(void)
{
    fill(buffer, 16 * MIB, LCG_SEED);
}

static uint64_t run_hash(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < 12; i++)
        sum += crc32_bitwise((uint8_t *)buffer + i, MIB) + fnv(i, buffer + i, MIB);
    return sum;
}

static void quicksort(uint32_t *v, long low, long high)
{
    while (low < high) {
        uint32_t pivot = v[low + (high - low) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (j - low < high - i) { /* recursion into the smaller part */
            quicksort(v, low, j);
            low = i;
        } else {
            quicksort(v, i, high);
            high = j;
        }
    }
}

static uint64_t run_quicksort(void)
{
    enum { COUNT = 1500000 };

    fill(buffer, COUNT * 4, LCG_SEED);
    quicksort((uint32_t *)buffer, 0, COUNT - 1);
    return fnv(0, buffer, 4096) ^ fnv(0, buffer + COUNT * 4 - 4096, 4096);
}

/* One random cycle through all lines of `size` bytes (Sattolo's shuffle). */
static void **chase_ring(size_t size)
{
    enum { LINE = 64 };
    size_t count = size / LINE;
    uint32_t *order = (uint32_t *)(buffer + 32 * MIB);
    uint64_t x = LCG_SEED;

    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t j = lcg(&x) % i;
        uint32_t t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (size_t i = 0; i < count; i++)
        *(void **)(buffer + (size_t)order[i] * LINE) = buffer +
                                                       (size_t)order[(i + 1) % count] * LINE;
    return (void **)buffer;
}

static uint64_t chase(unsigned long steps)
{
    void **p = (void **)buffer;

    for (unsigned long i = 0; i < steps; i += 4)
        p = *(void **)*(void **)*(void **)*p;
    return (uint64_t)((char *)p - buffer);
}

static void chase_16k_setup(void)
{
    chase_ring(16 << 10);
}

static void chase_1m_setup(void)
{
    chase_ring(MIB);
}

static void chase_16m_setup(void)
{
    chase_ring(16 * MIB);
}

static uint64_t run_chase_16k(void)
{
    return chase(80000000);
}

static uint64_t run_chase_1m(void)
{
    return chase(30000000);
}

static uint64_t run_chase_16m(void)
{
    return chase(5000000);
}

/* A bytecode machine with threaded dispatch: a random walk over a table, counted down. */
enum op {
    OP_SET,
    OP_MUL,
    OP_ADD,
    OP_SHR,
    OP_AND,
    OP_LOAD,
    OP_XOR,
    OP_STORE,
    OP_DEC,
    OP_JNZ,
    OP_END
};
struct instruction {
    uint8_t op, a, b, c;
    uint32_t value;
};

static uint64_t interpret(uint64_t *table, uint64_t count)
{
    static const struct instruction program[] = {
        {OP_SET, 1, 0, 0, 12345}, {OP_SET, 6, 0, 0, 1664525}, {OP_SET, 7, 0, 0, 1013904223},
        {OP_SET, 8, 0, 0, 4095},  {OP_MUL, 1, 1, 6, 0},       {OP_ADD, 1, 1, 7, 0},
        {OP_SHR, 2, 1, 0, 13},    {OP_AND, 3, 2, 8, 0},       {OP_LOAD, 4, 3, 0, 0},
        {OP_XOR, 4, 4, 1, 0},     {OP_STORE, 4, 3, 0, 0},     {OP_ADD, 5, 5, 4, 0},
        {OP_DEC, 0, 0, 0, 0},     {OP_JNZ, 0, 0, 0, 4},       {OP_END, 0, 0, 0, 0},
    };
    static const void *const labels[] = {&&set, &&mul,   &&add, &&shr, &&and, &&load,
                                         &&xor, &&store, &&dec, &&jnz, &&end};
    uint64_t r[16] = {count};
    const struct instruction *i = program;

#define NEXT goto *labels[(++i)->op] /* each handler has its own jump: that is the point */
    goto *labels[i->op];
set:
    r[i->a] = i->value;
    NEXT;
mul:
    r[i->a] = r[i->b] * r[i->c];
    NEXT;
add:
    r[i->a] = r[i->b] + r[i->c];
    NEXT;
shr:
    r[i->a] = r[i->b] >> i->value;
    NEXT;
    and : r[i->a] = r[i->b] & r[i->c];
    NEXT;
load:
    r[i->a] = table[r[i->b]];
    NEXT;
    xor : r[i->a] = r[i->b] ^ r[i->c];
    NEXT;
store:
    table[r[i->b]] = r[i->a];
    NEXT;
dec:
    r[i->a]--;
    NEXT;
jnz:
    if (r[i->a]) {
        i = &program[i->value];
        goto *labels[i->op];
    }
    NEXT;
end:
#undef NEXT
    return r[5];
}

static uint64_t run_interp(void)
{
    memset(buffer, 0, 4096 * 8);
    return interpret((uint64_t *)buffer, 8000000);
}

/* ---- SSE, AVX, x87, string instructions ---- */

enum { MATRIX = 256 };

static void matmul_setup(void)
{
    double *m = (double *)buffer;
    uint64_t x = LCG_SEED;

    for (unsigned i = 0; i < 2 * MATRIX * MATRIX; i++)
        m[i] = (double)(lcg(&x) & 1023) / 64; /* sums of products are exact in any order */
}

static __attribute__((target("sse2"))) void matmul_sse2(const double *a, const double *b,
                                                        double *out)
{
    for (unsigned i = 0; i < MATRIX; i++)
        for (unsigned j = 0; j < MATRIX; j += 8) {
            __m128d s0 = _mm_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;
            for (unsigned k = 0; k < MATRIX; k++) {
                __m128d f = _mm_set1_pd(a[i * MATRIX + k]);
                const double *row = b + k * MATRIX + j;
                s0 = _mm_add_pd(s0, _mm_mul_pd(f, _mm_load_pd(row)));
                s1 = _mm_add_pd(s1, _mm_mul_pd(f, _mm_load_pd(row + 2)));
                s2 = _mm_add_pd(s2, _mm_mul_pd(f, _mm_load_pd(row + 4)));
                s3 = _mm_add_pd(s3, _mm_mul_pd(f, _mm_load_pd(row + 6)));
            }
            _mm_store_pd(out + i * MATRIX + j, s0);
            _mm_store_pd(out + i * MATRIX + j + 2, s1);
            _mm_store_pd(out + i * MATRIX + j + 4, s2);
            _mm_store_pd(out + i * MATRIX + j + 6, s3);
        }
}

static __attribute__((target("avx2,fma"))) void matmul_avx2(const double *a, const double *b,
                                                            double *out)
{
    for (unsigned i = 0; i < MATRIX; i++)
        for (unsigned j = 0; j < MATRIX; j += 16) {
            __m256d s0 = _mm256_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;
            for (unsigned k = 0; k < MATRIX; k++) {
                __m256d f = _mm256_broadcast_sd(a + i * MATRIX + k);
                const double *row = b + k * MATRIX + j;
                s0 = _mm256_fmadd_pd(f, _mm256_load_pd(row), s0);
                s1 = _mm256_fmadd_pd(f, _mm256_load_pd(row + 4), s1);
                s2 = _mm256_fmadd_pd(f, _mm256_load_pd(row + 8), s2);
                s3 = _mm256_fmadd_pd(f, _mm256_load_pd(row + 12), s3);
            }
            _mm256_store_pd(out + i * MATRIX + j, s0);
            _mm256_store_pd(out + i * MATRIX + j + 4, s1);
            _mm256_store_pd(out + i * MATRIX + j + 8, s2);
            _mm256_store_pd(out + i * MATRIX + j + 12, s3);
        }
}

static uint64_t matmul(void (*multiply)(const double *, const double *, double *), unsigned times)
{
    double *a = (double *)buffer, *b = a + MATRIX * MATRIX, *out = b + MATRIX * MATRIX;

    for (unsigned i = 0; i < times; i++)
        multiply(a, b, out);
    return fnv(0, out, MATRIX * MATRIX * sizeof(*out));
}

static uint64_t run_matmul_sse2(void)
{
    return matmul(matmul_sse2, 4);
}

static uint64_t run_matmul_avx2(void)
{
    return matmul(matmul_avx2, 4);
}

/* Planets of long double: loads, stores, multiply, divide and square root of the x87. */
static uint64_t run_x87(void)
{
    enum { BODIES = 5 };
    long double p[BODIES][3], v[BODIES][3], mass[BODIES], energy = 0;
    uint64_t x = LCG_SEED;

    for (int i = 0; i < BODIES; i++) {
        mass[i] = 1 + i;
        for (int d = 0; d < 3; d++) {
            p[i][d] = (long double)(lcg(&x) & 4095) / 16 - 128;
            v[i][d] = (long double)(lcg(&x) & 4095) / 65536;
        }
    }
    for (int step = 0; step < 30000; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                long double d[3], square = 0.01L;
                for (int k = 0; k < 3; k++) {
                    d[k] = p[i][k] - p[j][k];
                    square += d[k] * d[k];
                }
                long double pull = 0.001L / (square * __builtin_sqrtl(square));
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * mass[j] * pull;
                    v[j][k] += d[k] * mass[i] * pull;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++)
                p[i][k] += 0.001L * v[i][k];
    }
    for (int i = 0; i < BODIES; i++)
        energy += mass[i] * (v[i][0] * v[i][0] + v[i][1] * v[i][1] + v[i][2] * v[i][2]);
    return fnv(0, &energy, 10);
}

static uint64_t run_memcpy(void)
{
    for (int i = 0; i < 600; i++)
        memcpy(buffer + (17 + i % 8) * MIB, buffer + (i % 8) * MIB, MIB);
    return fnv(0, buffer + 20 * MIB, 4096);
}

/* Blocks that the C library copies by vector loads and stores, not by rep movsb. */
static uint64_t run_memcpy_small(void)
{
    for (int i = 0; i < 20000; i++)
        for (int j = 0; j < 64; j++)
            memcpy(buffer + 17 * MIB + j * 1024, buffer + (i & 15) * 1024 + j * 16, 700 + i % 64);
    return fnv(0, buffer + 17 * MIB, 65536);
}

static uint64_t run_rep_movsb(void)
{
    for (int i = 0; i < 300; i++) {
        void *to = buffer + (17 + i % 8) * MIB;
        const void *from = buffer + (i % 8) * MIB;
        size_t count = MIB;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    }
    return fnv(0, buffer + 20 * MIB, 4096);
}

static uint64_t run_rep_stosb(void)
{
    for (int i = 0; i < 600; i++) {
        void *to = buffer + (17 + i % 8) * MIB;
        size_t count = MIB;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(i) : "memory");
    }
    return fnv(0, buffer + 20 * MIB, 4096);
}

/* ---- the kernel ---- */

static void wait_for(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid || status)
        die("a child failed");
}

static uint64_t run_syscall(void)
{
    uint64_t parents = 0;

    for (int i = 0; i < 1000000; i++)
        parents |= (uint64_t)(syscall(SYS_getppid) < 0);
    return parents;
}

static uint64_t run_pagefault(void)
{
    enum { PAGES = 1024, PAGE = 4096 };

    for (int i = 0; i < 100; i++) {
        char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0);
        if (p == MAP_FAILED || madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE))
            die("mmap");
        for (int j = 0; j < PAGES; j++)
            p[j * PAGE] = (char)j;
        munmap(p, PAGES * PAGE);
    }
    return 0;
}

/* Without the big buffer, which the child would have to copy page tables for. */
static uint64_t run_fork(void)
{
    for (int i = 0; i < 500; i++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0)
            _exit(0);
        wait_for(pid);
    }
    return 0;
}

/* posix_spawn is vfork and exec. */
static void spawn(unsigned times, const char *program, char *const *arguments)
{
    for (unsigned i = 0; i < times; i++) {
        pid_t pid;
        errno = posix_spawn(&pid, program, NULL, NULL, arguments, environ);
        if (errno)
            die(program);
        wait_for(pid);
    }
}

static uint64_t run_exec(void)
{
    char *const arguments[] = {"micro", "nothing", NULL};

    spawn(200, "/proc/self/exe", arguments);
    return 0;
}

static uint64_t run_pipe(void)
{
    int to[2], from[2];
    uint32_t token = 0;

    if (pipe(to) || pipe(from))
        die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(to[1]);
        close(from[0]);
        while (read(to[0], &token, sizeof(token)) == sizeof(token)) {
            token++;
            if (write(from[1], &token, sizeof(token)) != sizeof(token))
                _exit(1);
        }
        _exit(0);
    }
    close(to[0]);
    close(from[1]);
    for (int i = 0; i < 20000; i++)
        if (write(to[1], &token, sizeof(token)) != sizeof(token) ||
            read(from[0], &token, sizeof(token)) != sizeof(token))
            die("pipe");
    close(to[1]);
    wait_for(pid);
    close(from[0]);
    return token;
}

static void futex_until(uint32_t *word, uint32_t wanted)
{
    uint32_t seen;

    while ((seen = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != wanted)
        syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void futex_set(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* Two address spaces on one processor hand a token over: a context switch each time. */
static uint64_t run_ctxsw(void)
{
    enum { ROUNDS = 20000 };
    uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (word == MAP_FAILED)
        die("mmap");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    for (uint32_t i = 0; i < ROUNDS; i++) {
        if (pid) {
            futex_set(word, 2 * i + 1);
            futex_until(word, 2 * i + 2);
        } else {
            futex_until(word, 2 * i + 1);
            futex_set(word, 2 * i + 2);
        }
    }
    if (pid == 0)
        _exit(0);
    wait_for(pid);
    uint32_t end = *word;
    munmap(word, 4096);
    return end;
}

static volatile sig_atomic_t signals;
static void on_signal(int number)
{
    signals++;
}

static uint64_t run_signal(void)
{
    struct sigaction action = {.sa_handler = on_signal};

    sigemptyset(&action.sa_mask);
    if (sigaction(SIGUSR1, &action, NULL))
        die("sigaction");
    signals = 0;
    for (int i = 0; i < 50000; i++)
        if (raise(SIGUSR1))
            die("raise");
    return (uint64_t)signals;
}

/* ---- code that is written ---- */

static uint8_t *code;
static void code_setup(void)
{
    if (code)
        return;
    code = mmap(NULL, MIB, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        die("mmap");
    memset(code, 0xcc, MIB);
}

/* mov eax, VALUE; lea eax, [rax + rdi]; ret */
static unsigned emit_add(uint8_t *p, uint32_t value)
{
    static const uint8_t tail[] = {0x8d, 0x04, 0x38, 0xc3};

    *p = 0xb8;
    memcpy(p + 1, &value, 4);
    memcpy(p + 5, tail, sizeof(tail));
    return 5 + sizeof(tail);
}

/* The same bytes patched before each call, as a kernel's or a linker's patching does. */
static uint64_t run_smc(void)
{
    uint32_t (*volatile f)(uint32_t) = (uint32_t(*)(uint32_t))code;
    uint32_t sum = 0;

    emit_add(code, 0);
    for (uint32_t i = 0; i < 100000; i++) {
        memcpy(code + 1, &i, 4);
        sum = f(sum);
    }
    return sum;
}

/* As a JIT compiler works: new functions beside old ones that run on, and data on the same page. */
static uint64_t run_jit(void)
{
    enum { FUNCTIONS = 20000, SLOT = 48 };
    uint32_t sum = 0;

    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        uint8_t *p = code + (size_t)i * SLOT;
        uint32_t *counter = (uint32_t *)(p + 32);
        emit_add(p, i);
        *counter = 0;
        uint32_t (*volatile f)(uint32_t) = (uint32_t(*)(uint32_t))p;
        for (int j = 0; j < 20; j++) {
            sum = f(sum);
            ++*counter;
        }
        if (i >= 7) { /* an older neighbour, still in use */
            f = (uint32_t(*)(uint32_t))(p - 7 * SLOT);
            sum = f(sum) + *(uint32_t *)(p - 7 * SLOT + 32);
        }
    }
    return sum;
}

/* ---- two processors ---- */

static void *thread_work(void *memory)
{
    uint64_t *result = memory;
    uint8_t *p = (uint8_t *)memory + 4096;
    uint64_t sum = 0;

    for (unsigned i = 0; i < 60; i++)
        sum += sieve(p, MIB / 2 + i) + crc32_bitwise(p, MIB / 8);
    memset(p, 0, 4096 * 8);
    *result = sum + interpret((uint64_t *)p, 8000000) + fib_direct(34);
    return NULL;
}

static uint64_t run_threads(unsigned count)
{
    pthread_t thread[2];
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        if (pthread_create(&thread[i], NULL, thread_work, buffer + i * 8 * MIB))
            die("pthread_create");
    for (unsigned i = 0; i < count; i++) {
        pthread_join(thread[i], NULL);
        sum += *(uint64_t *)(buffer + i * 8 * MIB);
    }
    return sum;
}

static uint64_t run_threads_1(void)
{
    return run_threads(1);
}

static uint64_t run_threads_2(void)
{
    return run_threads(2);
}

/* ---- rows ---- */

static void no_setup(void)
{
}
static const struct row {
    const char *name;
    void (*setup)(void);
    uint64_t (*run)(void);
} rows[] = {
    {"fib", no_setup, run_fib},
    {"fib-indirect", no_setup, run_fib_indirect},
    {"sieve", no_setup, run_sieve},
    {"hash", fill_buffer, run_hash},
    {"quicksort", no_setup, run_quicksort},
    {"chase-16k", chase_16k_setup, run_chase_16k},
    {"chase-1m", chase_1m_setup, run_chase_1m},
    {"chase-16m", chase_16m_setup, run_chase_16m},
    {"interp", no_setup, run_interp},
    {"matmul-sse2", matmul_setup, run_matmul_sse2},
    {"matmul-avx2", matmul_setup, run_matmul_avx2},
    {"x87", no_setup, run_x87},
    {"memcpy", fill_buffer, run_memcpy},
    {"memcpy-small", fill_buffer, run_memcpy_small},
    {"rep-movsb", fill_buffer, run_rep_movsb},
    {"rep-stosb", no_setup, run_rep_stosb},
    {"syscall", no_setup, run_syscall},
    {"pagefault", no_setup, run_pagefault},
    {"fork", no_setup, run_fork},
    {"exec", no_setup, run_exec},
    {"pipe", no_setup, run_pipe},
    {"ctxsw", no_setup, run_ctxsw},
    {"signal", no_setup, run_signal},
    {"smc", code_setup, run_smc},
    {"jit", code_setup, run_jit},
    {"threads-1", no_setup, run_threads_1},
    {"threads-2", no_setup, run_threads_2},
};

static void report(const char *name, double seconds, uint64_t sum)
{
    printf("#row %s %.6f sum=%016" PRIx64 "\n", name, seconds, sum);
    fflush(stdout);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Rows of one processor stay on one, natively as in a guest that has no other. */
static void stay_on_one_processor(void)
{
    cpu_set_t set;
    int first = 0;

    if (sched_getaffinity(0, sizeof(set), &set))
        die("sched_getaffinity");
    for (int i = 0; i < CPU_SETSIZE; i++) /* the last: interrupts favour the first */
        if (CPU_ISSET(i, &set))
            first = i;
    CPU_ZERO(&set);
    CPU_SET(first, &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        die("sched_setaffinity");
}

static void run_row(const struct row *row)
{
    double seconds[REPEATS];
    uint64_t sum[REPEATS];

    if (row->run == run_matmul_avx2 &&
        !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
        printf("#row %s none\n", row->name);
        return;
    }
    /* Processes that are copied are small ones, as most are. */
    size_t size = row->run == run_fork || row->run == run_pipe || row->run == run_ctxsw ? MIB
                                                                                        : 64 * MIB;
    buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        die("mmap");
    memset(buffer, 1, row->run == run_syscall ? MIB : size);
    if (strncmp(row->name, "threads-", 8))
        stay_on_one_processor();
    row->setup();
    for (int i = 0; i < REPEATS; i++) {
        double start = now();
        sum[i] = row->run();
        seconds[i] = now() - start;
        if (sum[i] != sum[0]) {
            printf("#row %s failed: results differ: %016" PRIx64 " %016" PRIx64 "\n", row->name,
                   sum[0], sum[i]);
            exit(1);
        }
    }
    qsort(seconds, REPEATS, sizeof(seconds[0]), compare);
    report(row->name, seconds[REPEATS / 2], sum[0]);
}

/* time NAME COMMAND...: once, its output into the digest. */
static int time_command(const char *name, char **command)
{
    static char chunk[65536];
    posix_spawn_file_actions_t actions;
    int out[2], status;
    pid_t pid;
    uint64_t sum = 0xcbf29ce484222325u;
    ssize_t n;

    stay_on_one_processor();
    if (pipe(out))
        die("pipe");
    double start = now();
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    posix_spawn_file_actions_addclose(&actions, out[1]);
    errno = posix_spawnp(&pid, command[0], &actions, NULL, command, environ);
    if (errno)
        die(command[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    while ((n = read(out[0], chunk, sizeof(chunk))) > 0)
        sum = fnv(sum, chunk, (size_t)n);
    if (waitpid(pid, &status, 0) != pid)
        die("waitpid");
    double seconds = now() - start;
    if (status) {
        printf("#row %s failed: status 0x%x\n", name, (unsigned)status);
        return 1;
    }
    report(name, seconds, sum);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc == 2 && !strcmp(argv[1], "list")) {
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            puts(rows[i].name);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "clock")) {
        printf("#%s %.6f\n", argv[2], now());
        return 0;
    }
    if (argc >= 4 && !strcmp(argv[1], "spawn")) {
        spawn((unsigned)atoi(argv[2]), argv[3], argv + 3);
        return 0;
    }
    if (argc >= 4 && !strcmp(argv[1], "time"))
        return time_command(argv[2], argv + 3);
    if (argc == 2)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            if (!strcmp(argv[1], rows[i].name)) {
                run_row(&rows[i]);
                return 0;
            }
    fputs("usage: micro ROW | list | clock LABEL | spawn TIMES PROGRAM... | time NAME COMMAND...\n",
          stderr);
    return 2;
}
