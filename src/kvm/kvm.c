/*
 * kvm.c - the engine: creating the virtual machine, running vCPUs, answering their exits.
 *
 * One round of run(): look at events, have the interpreter do what KVM is not for, give KVM its
 * registers if they changed, inject, enter, answer the exit.
 *
 * A kick must not be lost between the look at events and the entry: kick() sets immediate_exit
 * after the event, then signals; we clear immediate_exit before we look. So either we see the
 * event, or the entry sees immediate_exit, or the signal interrupts what was entered.
 */
#include "kvm/internal.h"

#include "base/log.h"
#include "interp/exceptions.h"
#include "interp/interp.h"
#include "memory/ram.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_X2APIC_END = 0x8ff };

/* Instructions in a row for the interpreter where it is not about a single one. */
enum { INTERP_BATCH = 10000 };

/* ---- creating
 * ------------------------------------------------------------------------------------ */

/* The vCPU whose thread this is, while the interpreter has it. */
static _Thread_local struct kvm_cpu *interpreting;

static void on_kick(int signal)
{
}

static void limits(struct cpu_limits *out)
{
    auto_close int fd = kvm_open(NULL);

    /* A model made from this has nothing; create() says why. */
    memset(out, 0, sizeof(*out));
    out->who = "KVM";
    if (fd >= 0)
        kvm_read_limits(fd, out, NULL);
}

static int check_capabilities(struct kvm_machine *m, struct error *err)
{
    static const struct {
        long capability;
        const char *name;
    } needed[] = {
        {KVM_CAP_USER_MEMORY, "user memory"},
        {KVM_CAP_EXT_CPUID, "CPUID"},
        {KVM_CAP_VCPU_EVENTS, "vCPU events"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
        {KVM_CAP_USER_NMI, "NMI"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (kvm_has(m->kvm, needed[i].capability) <= 0)
            return error_set(err, ENOTSUP, "this KVM lacks a needed capability: %s",
                             needed[i].name);
    m->has_xsave = kvm_has(m->kvm, KVM_CAP_XSAVE) > 0;
    m->has_xcrs = kvm_has(m->kvm, KVM_CAP_XCRS) > 0;
    m->has_debugregs = kvm_has(m->kvm, KVM_CAP_DEBUGREGS) > 0;
    m->has_sregs2 = kvm_has(m->kvm, KVM_CAP_SREGS2) > 0;
    m->has_readonly = kvm_has(m->kvm, KVM_CAP_READONLY_MEM) > 0;
    m->has_user_msr = kvm_has(m->kvm, KVM_CAP_X86_USER_SPACE_MSR) > 0 &&
                      kvm_has(m->kvm, KVM_CAP_X86_MSR_FILTER) > 0;
    return 0;
}

/* The APIC's MSRs come to us. KVM never filters x2APIC's, but it has no APIC for them, and then
 * reports them as invalid. */
static int divert_msrs(struct kvm_machine *m, struct error *err)
{
    static uint8_t none[8];
    struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                                 .args = {KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
                                          KVM_MSR_EXIT_REASON_FILTER}};
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};

    filter.ranges[0] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 1,
                                                     MSR_APIC_BASE, none};
    filter.ranges[1] = (struct kvm_msr_filter_range){KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, 1,
                                                     MSR_TSC_DEADLINE, none};
    if (ioctl(m->vm, KVM_ENABLE_CAP, &cap) < 0 || ioctl(m->vm, KVM_X86_SET_MSR_FILTER, &filter) < 0)
        return error_set_errno(err, errno, "KVM does not hand over the APIC's MSRs");
    return 0;
}

static void ask_all_to_flush(struct kvm_machine *m)
{
    for (unsigned i = 0; i < m->engine->cpu_count; i++)
        cpu_post(m->engine->cpus[i], CPU_EVENT_FLUSH);
}

static void slots_changed(struct memory_listener *l)
{
    struct kvm_machine *m = container_of(l, struct kvm_machine, listener);

    kvm_slots_update(m);
    ask_all_to_flush(m);
}

/* One that interprets, with translations from before. In a device's hook it uses none, and two
 * that flush at once must not wait for each other. */
static bool still_uses_old_pages(const struct cpu *cpu)
{
    const struct kvm_cpu *kc = kvm_cpu(cpu);

    return kc != interpreting && kc->interpreting && !kc->flushing &&
           (atomic_load(&cpu->events) & CPU_EVENT_FLUSH);
}

/* Tracking came or went, or a client cleared flags and wants to see what KVM logged. KVM takes
 * write permission back itself; an interpreter's TLB would go on without. */
static void slots_flush(struct memory_listener *l)
{
    struct kvm_machine *m = container_of(l, struct kvm_machine, listener);

    kvm_slots_update(m);
    ask_all_to_flush(m);
    if (interpreting)
        interpreting->flushing = true;
    for (unsigned i = 0; i < m->engine->cpu_count; i++)
        while (still_uses_old_pages(m->engine->cpus[i]))
            sched_yield();
    if (interpreting)
        interpreting->flushing = false;
    kvm_slots_harvest(m);
}

static int create_vcpu(struct kvm_machine *m, struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = xcalloc(1, sizeof(*kc));
    struct kvm_device_attr a = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};

    kc->machine = m;
    kc->fd = -1;
    kc->push = true;
    cpu->engine = kc;
    kc->fd = ioctl(m->vm, KVM_CREATE_VCPU, (unsigned long)cpu->apic_id);
    if (kc->fd < 0)
        return error_set_errno(err, errno, "KVM does not create processor %u", cpu->index);
    kc->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kc->fd, 0);
    if (kc->run == MAP_FAILED) {
        kc->run = NULL;
        return error_set_errno(err, errno, "cannot map KVM's page of processor %u", cpu->index);
    }
    m->has_tsc_offset = ioctl(kc->fd, KVM_HAS_DEVICE_ATTR, &a) == 0;
    interp_attach(cpu);
    return kvm_registers_init(cpu, err);
}

static void destroy(struct engine *e)
{
    struct kvm_machine *m = e->data;
    uint64_t interpreted = 0;

    if (m->listener.changed)
        memory_unlisten(e->memory, &m->listener);
    for (unsigned i = 0; i < e->cpu_count; i++) {
        struct kvm_cpu *kc = kvm_cpu(e->cpus[i]);

        if (!kc)
            continue;
        interpreted += kc->interpreted;
        if (kc->run)
            munmap(kc->run, m->run_size);
        if (kc->fd >= 0)
            close(kc->fd);
        if (e->cpus[i]->tlb)
            interp_detach(e->cpus[i]);
        free(kc);
        e->cpus[i]->engine = NULL;
    }
    if (interpreted)
        log_debug("kvm: the interpreter stepped in %llu times", (unsigned long long)interpreted);
    if (m->vm >= 0)
        close(m->vm);
    if (m->kvm >= 0)
        close(m->kvm);
    pthread_mutex_destroy(&m->lock);
    free(m);
    e->data = NULL;
}

static int create_all(struct kvm_machine *m, struct error *err)
{
    struct sigaction kick_action = {.sa_handler = on_kick};
    struct engine *e = m->engine;
    int r, size;

    m->kvm = kvm_open(err);
    if (m->kvm < 0)
        return m->kvm;
    r = check_capabilities(m, err);
    if (!r)
        r = kvm_read_limits(m->kvm, &m->limits, err);
    if (r)
        return r;
    m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
    if (m->vm < 0)
        return error_set_errno(err, errno, "KVM does not create a virtual machine");
    /* Needed by Intel's processors without "unrestricted guest"; any unused place will do. */
    ioctl(m->vm, KVM_SET_TSS_ADDR, 0xfeffd000ul);
    ioctl(m->vm, KVM_SET_IDENTITY_MAP_ADDR, &(uint64_t){0xfeffc000});
    size = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return error_set(err, EIO, "KVM's page of a processor has %d bytes", size);
    m->run_size = (size_t)size;
    ioctl(m->vm, KVM_ENABLE_CAP, /* or else user code gets #UD without our being asked */
          &(struct kvm_enable_cap){.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {1}});
    if (m->has_user_msr)
        r = divert_msrs(m, err);
    for (unsigned i = 0; i < e->cpu_count && !r; i++)
        r = create_vcpu(m, e->cpus[i], err);
    if (r)
        return r;
    if (sigaction(KVM_KICK_SIGNAL, &kick_action, NULL) < 0)
        return error_set_errno(err, errno, "cannot handle signal %d", KVM_KICK_SIGNAL);
    kvm_slots_update(m);
    m->listener = (struct memory_listener){.changed = slots_changed, .flush = slots_flush};
    memory_listen(e->memory, &m->listener);
    return 0;
}

static int create(struct engine *e, struct error *err)
{
    struct kvm_machine *m = xcalloc(1, sizeof(*m));
    int r;

    m->engine = e;
    m->kvm = m->vm = -1;
    pthread_mutex_init(&m->lock, NULL);
    e->data = m;
    r = create_all(m, err);
    if (r)
        destroy(e);
    return r;
}

/* ---- state
 * ------------------------------------------------------------------------------------------ */

static void answer_io(struct cpu *cpu, const struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;

    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            memory_write(cpu->ports, VIEW_NORMAL, run->io.port, load_le(data, size), size);
        else
            store_le(data, memory_read(cpu->ports, VIEW_NORMAL, run->io.port, size), size);
    }
}

/* KVM cuts accesses at pages, so a length need not be a power of two. */
static void answer_mmio(struct cpu *cpu, struct kvm_run *run)
{
    unsigned length = MIN(run->mmio.len, 8u), size;

    for (unsigned i = 0; i < length; i += size) {
        gpa address = run->mmio.phys_addr + i;
        uint8_t *data = run->mmio.data + i;

        size = length;
        if (!is_power_of_2(length))
            size = 1;
        if (run->mmio.is_write)
            cpu_phys_write(cpu, address, load_le(data, size), size);
        else
            store_le(data, cpu_phys_read(cpu, address, size), size);
    }
}

static bool is_apic_msr(uint32_t index)
{
    return index == MSR_APIC_BASE || index == MSR_TSC_DEADLINE ||
           (index >= MSR_X2APIC && index <= MSR_X2APIC_END);
}

/* An APIC's MSR, or one KVM does not know at all: then the guest gets what it would in the
 * software engines. What KVM knows and refuses stays refused. */
static void answer_msr(struct cpu *cpu, struct kvm_run *run)
{
    uint32_t index = run->msr.index;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR, ok = false;
    uint64_t value = run->msr.data;

    if (is_apic_msr(index) && cpu->intc.read_msr)
        ok = write ? cpu->intc.write_msr(cpu->intc.opaque, index, value)
                   : cpu->intc.read_msr(cpu->intc.opaque, index, &value);
    else if (run->msr.reason == KVM_MSR_EXIT_REASON_UNKNOWN)
        ok = write ? cpu_wrmsr(cpu, index, value) : cpu_rdmsr(cpu, index, &value);
    run->msr.error = !ok;
    if (!write)
        run->msr.data = value;
}

/* Exits whose answer KVM takes at the next entry. */
static bool answer(struct cpu *cpu, struct kvm_run *run)
{
    switch (run->exit_reason) {
    case KVM_EXIT_IO: answer_io(cpu, run); return true;
    case KVM_EXIT_MMIO: answer_mmio(cpu, run); return true;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR: answer_msr(cpu, run); return true;
    default: return false;
    }
}

/* Have KVM take the answer to the last exit without running the guest. */
static void complete(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);

    while (kc->incomplete) {
        kc->run->immediate_exit = 1;
        if (ioctl(kc->fd, KVM_RUN, 0) < 0 || !answer(cpu, kc->run))
            kc->incomplete = false;
    }
}

static int bring_up_to_date(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    int r;

    if (!kc->stale)
        return 0;
    complete(cpu);
    r = kvm_registers_pull(cpu, err);
    if (!r)
        kc->stale = false;
    return r;
}

static void pull(struct engine *e, struct cpu *cpu)
{
    struct error err = {0};

    if (bring_up_to_date(cpu, &err) < 0)
        log_error("processor %u: %s", cpu->index, err.text);
}

static void push(struct engine *e, struct cpu *cpu)
{
    kvm_cpu(cpu)->stale = false;
    kvm_cpu(cpu)->push = true;
}

/* ---- running
 * ------------------------------------------------------------------------------------------ */

static void kick(struct cpu *cpu)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);

    if (!kc || !atomic_load(&kc->running))
        return;
    __atomic_store_n(&kc->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (!pthread_equal(kc->thread, pthread_self()))
        pthread_kill(kc->thread, KVM_KICK_SIGNAL);
}

/* What KVM cannot do. Something always moves on: an instruction, or the delivery of an event. */
static int interpret(struct cpu *cpu, uint64_t count, enum interp_result *result, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    int r = bring_up_to_date(cpu, err);

    if (r)
        return r;
    interpreting = kc;
    kc->interpreting = true;
    cpu_state_changed(cpu);
    cpu_retract(cpu, CPU_EVENT_FLUSH);
    *result = interp_step(cpu, count);
    kc->interpreting = false;
    interpreting = NULL;
    kc->interpreted++;
    kc->push = true;
    return 0;
}

static bool is_for_interpreter(const struct cpu *cpu)
{
    return cpu->in_smm || (cpu->events & CPU_EVENT_SMI) || *cpu->a20_mask != ~UINT64_C(0) ||
           (!kvm_cpu(cpu)->stale && cpu->pending_vector >= 0);
}

static int give_registers(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    int r;

    if (!kc->push)
        return 0;
    complete(cpu);
    r = kvm_registers_push(cpu, err);
    if (r)
        return r;
    kc->push = false;
    kc->injectable = (cpu->rflags & RFLAGS_IF) && !cpu->sti_shadow && !cpu->movss_shadow;
    return 0;
}

/* NMI and interrupts. Clears `halted` when the processor has something to wake up for. */
static int inject(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);

    if (!cpu->nmi_blocked && cpu_retract(cpu, CPU_EVENT_NMI)) {
        if (ioctl(kc->fd, KVM_NMI, 0) < 0)
            return error_set_errno(err, errno, "KVM does not take an NMI");
        cpu->activity = CPU_RUNNING;
        kc->injectable = false;
    }
    if ((cpu->events & CPU_EVENT_INTR) && kc->injectable && cpu->intc.acknowledge) {
        int vector = cpu->intc.acknowledge(cpu->intc.opaque);

        if (vector >= 0) {
            if (ioctl(kc->fd, KVM_INTERRUPT, &(struct kvm_interrupt){.irq = (uint32_t)vector}) < 0)
                return error_set_errno(err, errno, "KVM does not take interrupt %d", vector);
            cpu->activity = CPU_RUNNING;
            kc->injectable = false;
        }
    }
    kc->run->request_interrupt_window = (cpu->events & CPU_EVENT_INTR) != 0;
    return 0;
}

/* After HLT the vCPU's thread wants to know what can wake the processor, and no more. */
static int halted(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    struct kvm_vcpu_events v;

    if (ioctl(kc->fd, KVM_GET_VCPU_EVENTS, &v) < 0)
        return error_set_errno(err, errno, "KVM does not give events");
    cpu->activity = CPU_HALTED;
    cpu->rflags = bits_set(cpu->rflags, 9, 1, kc->run->if_flag);
    cpu->sti_shadow = cpu->movss_shadow = false;
    cpu->nmi_blocked = v.nmi.masked != 0;
    return 0;
}

static void tell_once(struct cpu *cpu, const char *what, uint64_t detail)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);

    if (!kc->told)
        log_debug("kvm: processor %u: %s (%#llx): the interpreter steps in, now and later",
                  cpu->index, what, (unsigned long long)detail);
    kc->told = true;
}

/*
 * The instruction at RIP is one KVM's emulator does not know (or cannot fetch). Where it cannot be
 * told not to, KVM has queued #UD for it already.
 */
static int emulate(struct cpu *cpu, struct error *err)
{
    enum interp_result result;
    int r = bring_up_to_date(cpu, err);

    if (r)
        return r;
    if (cpu->pending_vector == EXC_UD && cpu->pending_kind == INTERRUPT_EXCEPTION)
        cpu->pending_vector = -1;
    return interpret(cpu, 1, &result, err);
}

/* One entry. Returns true when run() should return *out. */
static bool enter(struct cpu *cpu, enum engine_exit *out, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    struct kvm_run *run = kc->run;
    enum interp_result interp_result;
    int r;

    if (cpu->intc.get_cr8)
        run->cr8 = cpu->intc.get_cr8(cpu->intc.opaque);
    r = ioctl(kc->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    kc->stale = true;
    kc->incomplete = false;
    if (cpu->intc.set_cr8 && run->cr8 != cpu->intc.get_cr8(cpu->intc.opaque))
        cpu->intc.set_cr8(cpu->intc.opaque, (uint8_t)run->cr8);
    kc->injectable = run->ready_for_interrupt_injection && run->if_flag;
    *out = ENGINE_ERROR;
    if (r == -EINTR || r == -EAGAIN)
        return false;
    if (r) {
        error_set_errno(err, -r, "KVM cannot run processor %u", cpu->index);
        return true;
    }
    if (answer(cpu, run)) {
        kc->incomplete = true;
        return false;
    }
    switch (run->exit_reason) {
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR: return false;
    case KVM_EXIT_HLT: *out = halted(cpu, err) ? ENGINE_ERROR : ENGINE_HALTED; return true;
    case KVM_EXIT_SHUTDOWN:
        if (bring_up_to_date(cpu, err))
            return true;
        cpu->activity = CPU_SHUTDOWN;
        *out = ENGINE_SHUTDOWN;
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        tell_once(cpu, "KVM cannot emulate an instruction", run->internal.suberror);
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
            return emulate(cpu, err) != 0;
        break;
    case KVM_EXIT_FAIL_ENTRY:
        tell_once(cpu, "the processor refuses the guest's state",
                  run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        error_set(err, EIO, "KVM stopped processor %u for an unknown reason, %u", cpu->index,
                  run->exit_reason);
        return true;
    }
    return interpret(cpu, 1, &interp_result, err) != 0;
}

static bool interpreter_part(struct cpu *cpu, enum engine_exit *out, struct error *err)
{
    bool batch = cpu->in_smm || *cpu->a20_mask != ~UINT64_C(0);
    enum interp_result result;

    *out = ENGINE_ERROR;
    if (interpret(cpu, batch ? INTERP_BATCH : 1, &result, err))
        return true;
    *out = result == INTERP_SHUTDOWN ? ENGINE_SHUTDOWN
           : result == INTERP_HALTED ? ENGINE_HALTED
                                     : ENGINE_EVENT;
    return result == INTERP_SHUTDOWN || result == INTERP_HALTED;
}

static enum engine_exit loop(struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    enum engine_exit out;

    for (;;) {
        uint32_t events;

        __atomic_store_n(&kc->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        events = atomic_load(&cpu->events);
        /* Taken, or the next one would not kick; interpret() drops the TLBs whenever it starts. */
        if (events & CPU_EVENT_FLUSH)
            cpu_retract(cpu, CPU_EVENT_FLUSH);
        if (events & (CPU_EVENT_EXIT | CPU_EVENT_SIPI) ||
            ((events & CPU_EVENT_INIT) && !cpu->in_smm))
            return ENGINE_EVENT;
        if (cpu->activity != CPU_RUNNING && (cpu->activity != CPU_HALTED || !cpu_has_work(cpu)))
            return ENGINE_HALTED;
        if (is_for_interpreter(cpu)) {
            if (interpreter_part(cpu, &out, err))
                return out;
            continue;
        }
        if (give_registers(cpu, err) || inject(cpu, err))
            return ENGINE_ERROR;
        if (cpu->activity == CPU_HALTED) {
            if (!cpu_has_work(cpu))
                return ENGINE_HALTED;    /* the interrupt went away again */
            cpu->activity = CPU_RUNNING; /* KVM has an event of its own that comes first */
        }
        if (enter(cpu, &out, err))
            return out;
    }
}

static enum engine_exit run(struct engine *e, struct cpu *cpu, struct error *err)
{
    struct kvm_cpu *kc = kvm_cpu(cpu);
    enum engine_exit out;

    if (!kc->has_thread || !pthread_equal(kc->thread, pthread_self())) {
        sigset_t set;

        kc->thread = pthread_self();
        kc->has_thread = true;
        sigemptyset(&set);
        sigaddset(&set, KVM_KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    }
    atomic_store(&kc->running, true);
    out = loop(cpu, err);
    atomic_store(&kc->running, false);
    return out;
}

uint64_t kvm_interpreted(const struct cpu *cpu)
{
    return kvm_cpu(cpu)->interpreted;
}

/* ---- choosing
 * ------------------------------------------------------------------------------------------ */

/* Virtualization of the processor, as its flags have it. */
static bool has_vmx_or_svm(void)
{
    unsigned a, b, c = 0, d;

    __asm__("cpuid" : "=a"(a), "=b"(b), "+c"(c), "=d"(d) : "a"(1));
    if (c >> 5 & 1)
        return true;
    c = 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "+c"(c), "=d"(d) : "a"(0x80000000u));
    if (a < 0x80000001u)
        return false;
    c = 0;
    __asm__("cpuid" : "=a"(a), "=b"(b), "+c"(c), "=d"(d) : "a"(0x80000001u));
    return (c >> 2 & 1) != 0;
}

static int probe(struct error *err)
{
    if (!has_vmx_or_svm())
        return error_set(err, ENODEV,
                         "this processor shows neither VT-x nor AMD-V (no flag vmx or "
                         "svm; in a virtual machine: nested virtualization is off)");
    return kvm_probe_guest(err);
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .summary = "the processor's own virtualization, by /dev/kvm",
    .probe = probe,
    .limits = limits,
    .create = create,
    .destroy = destroy,
    .run = run,
    .kick = kick,
    .pull = pull,
    .push = push,
};
