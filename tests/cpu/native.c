/*
 * native.c - the host CPU's side: test cases run in a child that cannot do harm.
 *
 * The child has two pipe ends, the batch (shared memory), the arena and nothing else: resource
 * limits, no privileges to gain, and a seccomp filter that lets system calls pass only from the
 * two places in the loop below. Whatever the random code does ends in a signal; the handler, on
 * its own stack, reads the state out of the signal frame and goes back to the loop instead of
 * returning. A case that never ends is killed by the parent, which starts another child.
 *
 * Rules for an editor: between native_enter and native_handler's first lines FS, GS, DS, ES, the
 * flags, RSP and the whole FPU belong to the random code. The handler must not touch anything
 * that needs them (thread-local storage, stack protector) before it has put them back. Addresses
 * of the child are never in registers the random code sees, except those it chose.
 */
#include "oracle.h"

#include <asm/ldt.h>
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

#define NO_SANITIZER __attribute__((no_sanitize("address", "undefined"), noinline))

/* An XSAVE area in standard format; what does not fit is not asked for. */
enum { XSAVE_AREA = 4096, XSTATE_BV = 512 };

/* What native_enter loads, at offsets that its assembly names. */
struct entry {
    uint64_t gpr[GPR_COUNT];             /* 0 */
    uint64_t rip, cs, rflags, rsp, ss;   /* 128: IRETQ's frame */
    uint64_t ds, es, fs, gs;             /* 168 */
    uint64_t fs_base, gs_base, set_base; /* 200 */
    uint8_t *xsave;                      /* 224 */
    uint64_t xcr0;                       /* 232 */
};
_Static_assert(offsetof(struct entry, rip) == 128 && offsetof(struct entry, ds) == 168 &&
                   offsetof(struct entry, fs_base) == 200 && offsetof(struct entry, xsave) == 224,
               "native_enter's offsets");

struct batch {
    volatile uint32_t count, current;
    volatile uint32_t has_ldt;
    uint32_t cpu;  /* the child stays on this one */
    char why[128]; /* the child could not start */
    struct test_case c[BATCH];
    struct outcome o[BATCH];
};

static struct batch *batch;
static pid_t child;
static int to_child = -1, from_child = -1;

/* The child's. */
/* Lies where bits 16 to 31 of the address are 0: IRETQ to a 16-bit stack segment leaves them in
 * ESP, where the random code finds them. */
#define ENTRY_ADDRESS UINT64_C(0x345600001000)
static struct entry *const entry = (struct entry *)ENTRY_ADDRESS;
static uint8_t xsave_area[XSAVE_AREA] __attribute__((aligned(64)));
static uint8_t image[IMAGE_SIZE];
static uint64_t image_seed = UINT64_MAX;
static uint8_t *code_alias;
static uint64_t xcr0;
static unsigned offset_ymm, offset_k, offset_zmm_hi, offset_hi16;

/* Written by the assembly. */
uint64_t native_saved_rsp, native_real_fs, native_seen_fs_base, native_seen_gs_base;
uint16_t native_seen_sel[4]; /* DS ES FS GS */
void native_enter(struct entry *e);
void native_handler(int signal, siginfo_t *info, void *context);
void native_on_signal(int signal, siginfo_t *info, ucontext_t *context);
long native_read(int fd, void *buffer, unsigned long size);
long native_write(int fd, const void *buffer, unsigned long size);
extern const char native_read_end[], native_write_end[];

__asm__(".text\n"
        ".globl native_read, native_read_end, native_write, native_write_end\n"
        "native_read:\n"
        "    xorl %eax, %eax\n"
        "    syscall\n"
        "native_read_end:\n"
        "    ret\n"
        "native_write:\n"
        "    movl $1, %eax\n"
        "    syscall\n"
        "native_write_end:\n"
        "    ret\n"
        ".globl native_enter\n"
        "native_enter:\n"
        "    pushq %rbx\n"
        "    pushq %rbp\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, native_saved_rsp(%rip)\n"
        "    movq 224(%rdi), %rsi\n"
        "    movl 232(%rdi), %eax\n"
        "    movl 236(%rdi), %edx\n"
        "    xrstor64 (%rsi)\n"
        "    movw 168(%rdi), %ds\n"
        "    movw 176(%rdi), %es\n"
        "    movw 184(%rdi), %fs\n"
        "    movw 192(%rdi), %gs\n"
        "    cmpq $0, 216(%rdi)\n"
        "    je 1f\n"
        "    movq 200(%rdi), %rax\n"
        "    wrfsbase %rax\n"
        "    movq 208(%rdi), %rax\n"
        "    wrgsbase %rax\n"
        "1:  movq (%rdi), %rax\n"
        "    movq 8(%rdi), %rcx\n"
        "    movq 16(%rdi), %rdx\n"
        "    movq 24(%rdi), %rbx\n"
        "    movq 40(%rdi), %rbp\n"
        "    movq 48(%rdi), %rsi\n"
        "    movq 64(%rdi), %r8\n"
        "    movq 72(%rdi), %r9\n"
        "    movq 80(%rdi), %r10\n"
        "    movq 88(%rdi), %r11\n"
        "    movq 96(%rdi), %r12\n"
        "    movq 104(%rdi), %r13\n"
        "    movq 112(%rdi), %r14\n"
        "    movq 120(%rdi), %r15\n"
        "    leaq 128(%rdi), %rsp\n"
        "    movq 56(%rdi), %rdi\n"
        "    iretq\n"
        ".globl native_handler\n"
        "native_handler:\n"
        "    pushq $0x202\n"
        "    popfq\n"
        "    cld\n"
        "    movw %ds, native_seen_sel(%rip)\n"
        "    movw %es, 2+native_seen_sel(%rip)\n"
        "    movw %fs, 4+native_seen_sel(%rip)\n"
        "    movw %gs, 6+native_seen_sel(%rip)\n"
        "    rdfsbase %rax\n"
        "    movq %rax, native_seen_fs_base(%rip)\n"
        "    rdgsbase %rax\n"
        "    movq %rax, native_seen_gs_base(%rip)\n"
        "    xorl %eax, %eax\n"
        "    movw %ax, %ds\n"
        "    movw %ax, %es\n"
        "    movw %ax, %fs\n"
        "    movw %ax, %gs\n"
        "    movq native_real_fs(%rip), %rax\n"
        "    wrfsbase %rax\n"
        "    xorl %eax, %eax\n"
        "    wrgsbase %rax\n"
        "    call native_on_signal\n"
        "    movq native_saved_rsp(%rip), %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbp\n"
        "    popq %rbx\n"
        "    ret\n");

/* Between the two formats. The opmask, ZMM_Hi256 and Hi16_ZMM offsets are the processor's own
 * (CPUID leaf 0xd): vendors differ. */
NO_SANITIZER static void xsave_fill(const struct cpu_image *s)
{
    uint8_t *a = xsave_area;
    uint16_t ftw = s->ftw;

    memcpy(a, &s->fcw, 2);
    memcpy(a + 2, &s->fsw, 2);
    memcpy(a + 4, &ftw, 2);
    memset(a + 6, 0, 18);
    memcpy(a + 24, &s->mxcsr, 4);
    memcpy(a + 32, s->st, 128);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(a + 160 + 16 * i, s->zmm[i], 16);
        if (offset_ymm)
            memcpy(a + offset_ymm + 16 * i, s->zmm[i] + 16, 16);
        if (offset_zmm_hi)
            memcpy(a + offset_zmm_hi + 32 * i, s->zmm[i] + 32, 32);
        if (offset_hi16)
            memcpy(a + offset_hi16 + 64 * i, s->zmm[16 + i], 64);
    }
    if (offset_k)
        memcpy(a + offset_k, s->k, 64);
    memset(a + XSTATE_BV, 0, 64);
    memcpy(a + XSTATE_BV, &xcr0, 8);
}

NO_SANITIZER static void xsave_read(struct cpu_image *s, const uint8_t *a)
{
    uint64_t have;

    memcpy(&have, a + XSTATE_BV, 8);
    memset(s->st, 0, sizeof(s->st));
    memset(s->zmm, 0, sizeof(s->zmm));
    memset(s->k, 0, sizeof(s->k));
    s->fcw = 0x37f;
    s->fsw = 0;
    s->ftw = 0;
    memcpy(&s->mxcsr, a + 24, 4);
    if (have & XCR0_X87) {
        memcpy(&s->fcw, a, 2);
        memcpy(&s->fsw, a + 2, 2);
        s->ftw = a[4];
        memcpy(s->st, a + 32, 128);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (have & XCR0_SSE)
            memcpy(s->zmm[i], a + 160 + 16 * i, 16);
        if (have & XCR0_AVX && offset_ymm)
            memcpy(s->zmm[i] + 16, a + offset_ymm + 16 * i, 16);
        if (have & XCR0_ZMM_HI256 && offset_zmm_hi)
            memcpy(s->zmm[i] + 32, a + offset_zmm_hi + 32 * i, 32);
        if (have & XCR0_HI16_ZMM && offset_hi16)
            memcpy(s->zmm[16 + i], a + offset_hi16 + 64 * i, 64);
    }
    if (have & XCR0_OPMASK && offset_k)
        memcpy(s->k, a + offset_k, 64);
}

/* Runs on the signal stack, with the segment registers put right again. */
NO_SANITIZER void native_on_signal(int signal, siginfo_t *info, ucontext_t *context)
{
    static const uint8_t order[GPR_COUNT] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    };
    struct outcome *o = &batch->o[batch->current];
    const greg_t *g = context->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)g[REG_RIP];

    o->status = signal == SIGSYS ? LEFT : RAN;
    if (rip >= (uint64_t)(uintptr_t)native_enter && rip < (uint64_t)(uintptr_t)native_handler)
        o->status = BROKEN;
    o->vector = (uint8_t)g[REG_TRAPNO];
    o->error = (uint64_t)g[REG_ERR];
    o->cr2 = (uint64_t)g[REG_CR2];
    for (unsigned i = 0; i < GPR_COUNT; i++)
        o->out.gpr[i] = (uint64_t)g[order[i]];
    o->out.rip = rip;
    o->out.rflags = (uint64_t)g[REG_EFL];
    o->out.sel[SEG_CS] = (uint16_t)g[REG_CSGSFS];
    o->out.sel[SEG_SS] = (uint16_t)(g[REG_CSGSFS] >> 48);
    o->out.sel[SEG_DS] = native_seen_sel[0];
    o->out.sel[SEG_ES] = native_seen_sel[1];
    o->out.sel[SEG_FS] = native_seen_sel[2];
    o->out.sel[SEG_GS] = native_seen_sel[3];
    o->out.fs_base = native_seen_fs_base;
    o->out.gs_base = native_seen_gs_base;
    xsave_read(&o->out, (const uint8_t *)context->uc_mcontext.fpregs);
}

NO_SANITIZER static uint8_t *image_host(unsigned offset)
{
    return (uint8_t *)image_address(offset);
}

/* Note what differs from the image, and put it back. */
NO_SANITIZER static void collect(struct outcome *o)
{
    o->lines = 0;
    for (unsigned at = 0; at < IMAGE_SIZE; at += LINE) {
        uint8_t *now = image_host(at);
        struct dirty_line *line;

        if (!memcmp(now, image + at, LINE))
            continue;
        line = &o->line[o->lines++];
        line->index = (uint16_t)(at / LINE);
        memcpy(line->bytes, now, LINE);
        memcpy(now, image + at, LINE);
    }
}

NO_SANITIZER static void load_image(uint64_t seed)
{
    unsigned ro = ARENA_DATA_PAGES * PAGE;

    if (seed == image_seed)
        return;
    memory_image_fill(seed, image);
    image_seed = seed;
    for (unsigned at = 0; at < IMAGE_SIZE; at += PAGE)
        if (at != ro)
            memcpy(image_host(at), image + at, PAGE);
    /* The read-only page is written through its alias, behind the code's. */
    memcpy(code_alias + (ptrdiff_t)ARENA_CODE_PAGES * PAGE, image + ro, PAGE);
}

/* Its linear address for us to write: the open pages' own, the other code's alias. */
NO_SANITIZER static uint8_t *code_host(const struct test_case *c)
{
    return (c->open ? (uint8_t *)OPEN_BASE : code_alias) + c->code_offset;
}

NO_SANITIZER static void run_case(const struct test_case *c, struct outcome *o)
{
    const struct cpu_image *in = &c->in;

    load_image(c->memory_seed);
    memcpy(code_host(c), c->code, c->length);
    xsave_fill(in);
    memcpy(entry->gpr, in->gpr, sizeof(entry->gpr));
    entry->rip = in->rip;
    entry->rflags = in->rflags;
    entry->rsp = in->gpr[GPR_RSP];
    entry->cs = in->sel[SEG_CS];
    entry->ss = in->sel[SEG_SS];
    entry->ds = in->sel[SEG_DS];
    entry->es = in->sel[SEG_ES];
    entry->fs = in->sel[SEG_FS];
    entry->gs = in->sel[SEG_GS];
    entry->set_base = c->mode == 64;
    entry->fs_base = in->fs_base;
    entry->gs_base = in->gs_base;
    entry->xsave = xsave_area;
    entry->xcr0 = xcr0;
    native_enter(entry);
    if (c->open)
        memcpy(image + IMAGE_OPEN + c->code_offset, c->code, c->length);
    collect(o);
    if (c->open)
        memset(image + IMAGE_OPEN + c->code_offset, 0xcc, c->length);
    memset(code_host(c), 0xcc, c->length);
}

_Noreturn static void child_refuse(const char *what)
{
    snprintf(batch->why, sizeof(batch->why), "%s: %s", what, strerror(errno));
    _exit(77);
}

static void child_map(void)
{
    int fd = memfd_create("oracle", MFD_CLOEXEC);
    size_t alias_size = (size_t)(ARENA_CODE_PAGES + 1) * PAGE;
    /* Present from the start: page faults then mean protection. */
    const int fixed = MAP_FIXED_NOREPLACE | MAP_POPULATE;

    if (fd < 0 || ftruncate(fd, (off_t)alias_size))
        child_refuse("memfd");
    code_alias = mmap(NULL, alias_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (code_alias == MAP_FAILED)
        child_refuse("mapping the code alias");
    memset(code_alias, 0xcc, alias_size);
    if (mmap((void *)CODE_BASE, (size_t)ARENA_CODE_PAGES * PAGE, PROT_READ | PROT_EXEC,
             MAP_SHARED | fixed, fd, 0) == MAP_FAILED ||
        mmap((void *)(ARENA + (uint64_t)ARENA_RO * PAGE), PAGE, PROT_READ, MAP_SHARED | fixed, fd,
             (off_t)ARENA_CODE_PAGES * PAGE) == MAP_FAILED ||
        mmap((void *)(ARENA + (uint64_t)ARENA_DATA * PAGE), (size_t)ARENA_DATA_PAGES * PAGE,
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) == MAP_FAILED ||
        mmap((void *)(ARENA + (uint64_t)ARENA_STACK * PAGE), (size_t)ARENA_STACK_PAGES * PAGE,
             PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) == MAP_FAILED ||
        mmap((void *)ARENA_HIGH, (size_t)HIGH_PAGES * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) == MAP_FAILED ||
        mmap((void *)OPEN_BASE, (size_t)ARENA_CODE_PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) == MAP_FAILED ||
        mmap(entry, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) ==
            MAP_FAILED)
        child_refuse("mapping the arena");
    close(fd);
}

static bool child_ldt(void)
{
    enum { WRITE_LDT = 0x11 }; /* the form that keeps AVL */

    for (unsigned i = 0; i < ORACLE_LDT_SIZE; i++) {
        const struct ldt_entry *e = &oracle_ldt[i];
        struct user_desc d = {
            .entry_number = i,
            .base_addr = e->base,
            .limit = e->limit,
            .seg_32bit = e->is_32,
            .contents = e->contents,
            .read_exec_only = e->read_exec_only,
            .limit_in_pages = e->in_pages,
            .seg_not_present = e->absent,
            .useable = e->avl,
        };

        if (syscall(SYS_modify_ldt, WRITE_LDT, &d, sizeof(d)))
            return false;
    }
    return true;
}

static void child_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    static uint8_t stack[64 * KiB] __attribute__((aligned(64)));
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction sa = {
        .sa_sigaction = native_handler,
        .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
    };

    if (sigaltstack(&alternate, NULL))
        child_refuse("sigaltstack");
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        if (sigaction(signals[i], &sa, NULL))
            child_refuse("sigaction");
}

static void child_sandbox(void)
{
    uint64_t r = (uint64_t)(uintptr_t)native_read_end, w = (uint64_t)(uintptr_t)native_write_end;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 8),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(r >> 32), 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)r, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)w, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, SYS_write, 1, 0), /* read is 0, write 1 */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {ARRAY_SIZE(filter), filter};
    struct rlimit none = {0, 0};

    if (setrlimit(RLIMIT_CORE, &none) || setrlimit(RLIMIT_FSIZE, &none) ||
        setrlimit(RLIMIT_NPROC, &none) || setrlimit(RLIMIT_NOFILE, &none))
        child_refuse("setrlimit");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        child_refuse("no_new_privs");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
        child_refuse("seccomp");
}

/* Not called _Noreturn: a sanitizer would make system calls before such a call. */
NO_SANITIZER static void child_loop(void)
{
    char byte = 0;

    for (;;) {
        if (native_write(1, &byte, 1) != 1 || native_read(0, &byte, 1) != 1)
            for (;;) /* the parent is gone, and so are we: PR_SET_PDEATHSIG */
                __asm__ volatile("ud2");
        for (; batch->current < batch->count; batch->current++)
            run_case(&batch->c[batch->current], &batch->o[batch->current]);
    }
}

NO_SANITIZER static void child_main(int in, int out)
{
    cpu_set_t cpus;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || close_range(2, ~0U, 0))
        child_refuse("file descriptors");
    CPU_ZERO(&cpus);
    CPU_SET(batch->cpu, &cpus);
    if (sched_setaffinity(0, sizeof(cpus), &cpus))
        child_refuse("sched_setaffinity");
    child_map();
    batch->has_ldt = child_ldt();
    child_signals();
    __asm__ volatile("rdfsbase %0" : "=r"(native_real_fs));
    child_sandbox();
    child_loop();
}

static int wait_child(int timeout_ms)
{
    struct pollfd p = {.fd = from_child, .events = POLLIN};
    char byte;
    int r;

    do
        r = poll(&p, 1, timeout_ms);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return -ETIMEDOUT;
    return read(from_child, &byte, 1) == 1 ? 0 : -EPIPE;
}

void native_stop(void)
{
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        child = 0;
    }
    if (to_child >= 0)
        close(to_child);
    if (from_child >= 0)
        close(from_child);
    to_child = from_child = -1;
}

static int child_start(struct error *err)
{
    int down[2], up[2], status;

    if (pipe2(down, O_CLOEXEC))
        return error_set(err, errno, "pipe: %s", strerror(errno));
    if (pipe2(up, O_CLOEXEC)) {
        close(down[0]);
        close(down[1]);
        return error_set(err, errno, "pipe: %s", strerror(errno));
    }
    child = fork();
    if (child == 0)
        child_main(down[0], up[1]);
    close(down[0]);
    close(up[1]);
    to_child = down[1];
    from_child = up[0];
    if (child < 0)
        return error_set(err, errno, "fork: %s", strerror(errno));
    if (wait_child(500) == 0)
        return 0;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    child = 0;
    native_stop();
    return error_set(err, ENOTSUP, "the sandbox does not start: %s",
                     batch->why[0] ? batch->why : "the child died");
}

/* Which state components there are and where; 0 in the offsets: not there. */
static int find_xsave(struct error *err)
{
    unsigned a, b, c, d, low, high;
    struct {
        unsigned number, *offset;
    } part[] = {{2, &offset_ymm}, {5, &offset_k}, {6, &offset_zmm_hi}, {7, &offset_hi16}};

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(27)))
        return error_set(err, ENOTSUP, "the host CPU or kernel has no XSAVE");
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
        return error_set(err, ENOTSUP, "the host kernel does not allow WRFSBASE");
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    xcr0 = ((uint64_t)high << 32 | low) & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
    for (size_t i = 0; i < ARRAY_SIZE(part); i++) {
        if (!(xcr0 & BIT(part[i].number)))
            continue;
        __cpuid_count(0xd, part[i].number, a, b, c, d);
        if (!range_within(b, a, XSAVE_AREA))
            return error_set(err, ENOTSUP, "XSAVE component %u lies at %u", part[i].number, b);
        *part[i].offset = b;
    }
    return 0;
}

int native_start(struct error *err)
{
    int r = find_xsave(err);

    if (r < 0)
        return r;
    batch = mmap(NULL, sizeof(*batch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (batch == MAP_FAILED)
        return error_set(err, errno, "mmap: %s", strerror(errno));
    batch->cpu = (uint32_t)MAX(sched_getcpu(), 0);
    signal(SIGPIPE, SIG_IGN);
    return child_start(err);
}

struct test_case *native_cases(void)
{
    return batch->c;
}

struct outcome *native_outcomes(void)
{
    return batch->o;
}

unsigned native_cpu(void)
{
    return batch->cpu;
}

bool native_has_ldt(void)
{
    return batch->has_ldt;
}

uint64_t native_xcr0(void)
{
    return xcr0;
}

int native_run(unsigned count, struct error *err)
{
    char byte = 0;
    int r;

    batch->count = count;
    batch->current = 0;
    while (batch->current < count) {
        if (write(to_child, &byte, 1) == 1)
            r = wait_child(500);
        else
            r = -EPIPE;
        if (r == 0)
            continue; /* it goes on until all are done */
        batch->o[batch->current].status = r == -ETIMEDOUT ? HUNG : DIED;
        batch->o[batch->current].lines = 0;
        batch->current++;
        native_stop();
        r = child_start(err);
        if (r < 0)
            return r;
    }
    return 0;
}
