/*
 * probe.c - does this /dev/kvm run ordinary guests?
 *
 * A device that opens proves nothing: some run only special guests. So a small one has to come out
 * right: 64-bit code behind four levels of paging, SSE2 and (where offered) AVX, a breakpoint
 * through an interrupt gate and back, memory, a port, HLT. A timer ends what hangs.
 *
 * Guest-physical layout, one page each from 0x1000: page tables, IDT, GDT, data, stack, code.
 */
#include "kvm/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD_LOW = 0x3000,
    PD_HIGH = 0x4000,
    PT_HIGH = 0x5000,
    IDT = 0x6000,
    GDT = 0x7000,
    DATA = 0x8000,
    STACK_TOP = 0xa000,
    CODE = 0xa000,
    MEMORY = 0x10000,
    ENTRY = 7, /* present, writable, user: enough for every table */
    LARGE = 1 << 7,
    PORT = 0x500,
    DATA_VALUE = 0x12345678,
    LIMIT_MSEC = 200,
};

/* In: EDI is 1 where AVX may be used. Linear 1 GiB is the data page. Out: DATA + 1 is written,
 * EAX = value ^ (2 + 2) * 5 ^ 1 << 8 goes to the port. */
__asm__(".pushsection .rodata\n"
        "kvm_probe_code:\n"
        "    movl $0x40000000, %ebx\n"
        "    movl $5, %eax\n"
        "    movq %rax, %xmm0\n"
        "    paddq %xmm0, %xmm0\n"
        "    movq %xmm0, %rcx\n"
        "    xorl %esi, %esi\n"
        "    testl %edi, %edi\n"
        "    jz 1f\n"
        "    vpaddq %xmm0, %xmm0, %xmm1\n"
        "    vmovq %xmm1, %rcx\n"
        "    jmp 2f\n"
        "1:  addl %ecx, %ecx\n"
        "2:  int3\n"
        "    movl (%rbx), %eax\n"
        "    incl (%rbx)\n"
        "    shll $8, %esi\n"
        "    xorl %ecx, %eax\n"
        "    xorl %esi, %eax\n"
        "    movw $0x500, %dx\n"
        "    outl %eax, %dx\n"
        "    hlt\n"
        "kvm_probe_gate:\n"
        "    incl %esi\n"
        "    iretq\n"
        "kvm_probe_code_end:\n"
        ".popsection\n");
extern const uint8_t kvm_probe_code[], kvm_probe_gate[], kvm_probe_code_end[];

struct probe {
    int kvm, vm, cpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
    bool avx;
    timer_t timer;
    bool has_timer;
};

/* For the timer's handler, on the thread that probes. */
static _Thread_local struct kvm_run *probed;

static void time_is_up(int signal)
{
    if (probed)
        __atomic_store_n(&probed->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static void put(struct probe *p, uint32_t address, uint64_t value)
{
    store_le(p->memory + address, value, 8);
}

static void fill_memory(struct probe *p)
{
    uint64_t gate = CODE + (uint64_t)(kvm_probe_gate - kvm_probe_code);

    memcpy(p->memory + CODE, kvm_probe_code, (size_t)(kvm_probe_code_end - kvm_probe_code));
    put(p, PML4, PDPT | ENTRY);
    put(p, PDPT, PD_LOW | ENTRY);
    put(p, PDPT + 8, PD_HIGH | ENTRY);
    put(p, PD_LOW, ENTRY | LARGE);
    put(p, PD_HIGH, PT_HIGH | ENTRY);
    put(p, PT_HIGH, DATA | ENTRY);
    put(p, GDT + 8, UINT64_C(0x00209b0000000000));  /* 64-bit code */
    put(p, GDT + 16, UINT64_C(0x00cf93000000ffff)); /* data */
    put(p, IDT + 3 * 16, (gate & 0xffff) | 8u << 16 | UINT64_C(0x8e) << 40 | (gate >> 16) << 48);
    put(p, DATA, DATA_VALUE);
}

static int create_guest(struct probe *p, struct error *err)
{
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY};
    int size;

    p->kvm = kvm_open(err);
    if (p->kvm < 0)
        return p->kvm;
    p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return error_set_errno(err, errno, "KVM does not create a virtual machine");
    p->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED) {
        p->memory = NULL;
        return error_set_errno(err, errno, "no memory for a probe guest");
    }
    fill_memory(p);
    region.userspace_addr = (uintptr_t)p->memory;
    ioctl(p->vm, KVM_SET_TSS_ADDR, 0xfeffd000ul);
    ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &(uint64_t){0xfeffc000});
    if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return error_set_errno(err, errno, "KVM does not take memory");
    p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->cpu < 0)
        return error_set_errno(err, errno, "KVM does not create a processor");
    size = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return error_set(err, EIO, "KVM's page of a processor has %d bytes", size);
    p->run_size = (size_t)size;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
    if (p->run == MAP_FAILED) {
        p->run = NULL;
        return error_set_errno(err, errno, "cannot map KVM's page of a processor");
    }
    return 0;
}

/* All that KVM supports; tells whether AVX is among it and can be switched on. */
static int set_features(struct probe *p, struct error *err)
{
    struct cpu_limits limits;
    struct kvm_xcrs xcrs = {.nr_xcrs = 1};
    auto_free struct kvm_cpuid2 *c = xcalloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));
    int r = kvm_read_limits(p->kvm, &limits, err);

    if (r)
        return r;
    c->nent = 256;
    if (ioctl(p->kvm, KVM_GET_SUPPORTED_CPUID, c) < 0 || ioctl(p->cpu, KVM_SET_CPUID2, c) < 0)
        return error_set_errno(err, errno, "KVM does not take its own CPUID");
    xcrs.xcrs[0].value = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    p->avx = (limits.word[FEATURE_AVX / 32] >> FEATURE_AVX % 32 & 1) && limits.xsave[2].size &&
             kvm_has(p->kvm, KVM_CAP_XCRS) > 0 && !ioctl(p->cpu, KVM_SET_XCRS, &xcrs);
    return 0;
}

static int set_registers(struct probe *p, struct error *err)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rsp = STACK_TOP, .rflags = 2, .rdi = p->avx};
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};

    if (ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
        return error_set_errno(err, errno, "KVM does not give registers");
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.gdt.base = GDT;
    s.gdt.limit = 23;
    s.idt.base = IDT;
    s.idt.limit = 0xfff;
    s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s.cr3 = PML4;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | (p->avx ? (uint64_t)CR4_OSXSAVE : 0);
    s.efer = EFER_LME | EFER_LMA;
    if (ioctl(p->cpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->cpu, KVM_SET_REGS, &r) < 0)
        return error_set_errno(err, errno, "KVM does not take the registers of 64-bit code");
    return 0;
}

static int start_timer(struct probe *p, struct error *err)
{
    struct sigaction action = {.sa_handler = time_is_up};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    /* Again and again, for the one that comes just before the entry. */
    struct itimerspec when = {.it_value.tv_nsec = LIMIT_MSEC * (long)NSEC_PER_MSEC,
                              .it_interval.tv_nsec = (long)NSEC_PER_MSEC};
    sigset_t set;

    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0 ||
        timer_create(CLOCK_MONOTONIC, &event, &p->timer) < 0)
        return error_set_errno(err, errno, "cannot time a probe guest");
    p->has_timer = true;
    timer_settime(p->timer, 0, &when, NULL);
    return 0;
}

static int run_guest(struct probe *p, struct error *err)
{
    uint32_t expected = DATA_VALUE ^ 20 ^ 1 << 8;
    bool right = false;

    for (unsigned exits = 0; exits < 16; exits++) {
        struct kvm_run *run = p->run;

        if (ioctl(p->cpu, KVM_RUN, 0) < 0) {
            if (errno == EINTR)
                return error_set(err, ETIME,
                                 "/dev/kvm does not run ordinary guests: a probe guest did not end "
                                 "within %d ms",
                                 LIMIT_MSEC);
            return error_set_errno(err, errno, "/dev/kvm does not run a probe guest");
        }
        if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT && run->io.size == 4 &&
            run->io.direction == KVM_EXIT_IO_OUT) {
            right = load_le((uint8_t *)run + run->io.data_offset, 4) == expected;
            continue;
        }
        if (run->exit_reason == KVM_EXIT_HLT) {
            if (right && load_le(p->memory + DATA, 4) == DATA_VALUE + 1)
                return 0;
            return error_set(err, EIO,
                             "/dev/kvm does not run ordinary guests: a probe guest "
                             "computed something wrong");
        }
        return error_set(err, EIO,
                         "/dev/kvm does not run ordinary guests: a probe guest ended "
                         "with exit %u (%u)",
                         run->exit_reason,
                         run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0);
    }
    return error_set(err, EIO,
                     "/dev/kvm does not run ordinary guests: a probe guest goes round in "
                     "circles");
}

int kvm_probe_guest(struct error *err)
{
    struct probe p = {.kvm = -1, .vm = -1, .cpu = -1};
    int r = create_guest(&p, err);

    if (!r)
        r = set_features(&p, err);
    if (!r)
        r = set_registers(&p, err);
    probed = p.run;
    if (!r)
        r = start_timer(&p, err);
    if (!r)
        r = run_guest(&p, err);
    if (p.has_timer)
        timer_delete(p.timer);
    probed = NULL;
    if (p.run)
        munmap(p.run, p.run_size);
    if (p.cpu >= 0)
        close(p.cpu);
    if (p.memory)
        munmap(p.memory, MEMORY);
    if (p.vm >= 0)
        close(p.vm);
    if (p.kvm >= 0)
        close(p.kvm);
    return r;
}
