/*
 * host.c - opening /dev/kvm, and which processor features it can give a guest.
 *
 * Features: what KVM says it supports, cut to those we know (features.def) and can save; plus
 * those that our interrupt controller provides, where KVM lets us see its MSRs.
 */
#include "kvm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int kvm_has(int fd, long capability)
{
    return ioctl(fd, KVM_CHECK_EXTENSION, capability);
}

int kvm_open(struct error *err)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

    if (fd < 0) {
        const char *remedy = errno == EACCES   ? "; add yourself to the group 'kvm'"
                             : errno == ENOENT ? "; this host offers no virtualization"
                                               : "";

        return error_set(err, errno, "cannot open /dev/kvm: %s%s", strerror(errno), remedy);
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        close(fd);
        return error_set(err, ENOTSUP, "/dev/kvm has version %d of the interface, not %d", version,
                         KVM_API_VERSION);
    }
    return fd;
}

/* What /dev/kvm lists, in a buffer grown until it fits. */
static struct kvm_cpuid2 *supported_cpuid(int kvm)
{
    for (unsigned n = 64; n <= 1024; n *= 2) {
        struct kvm_cpuid2 *c = xcalloc(1, sizeof(*c) + n * sizeof(c->entries[0]));

        c->nent = n;
        if (!ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c))
            return c;
        free(c);
        if (errno != E2BIG)
            break;
    }
    return NULL;
}

static void take_entry(struct cpu_limits *l, const struct kvm_cpuid_entry2 *e)
{
    switch (e->function) {
    case 1:
        l->word[WORD_1_EDX] = e->edx;
        l->word[WORD_1_ECX] = e->ecx;
        break;
    case 6: l->word[WORD_6_EAX] = e->eax; break;
    case 7:
        if (e->index == 0) {
            l->word[WORD_7_0_EBX] = e->ebx;
            l->word[WORD_7_0_ECX] = e->ecx;
            l->word[WORD_7_0_EDX] = e->edx;
        } else if (e->index == 1) {
            l->word[WORD_7_1_EAX] = e->eax;
        }
        break;
    case 0xd:
        if (e->index == 1) {
            l->word[WORD_D_1_EAX] = e->eax;
        } else if (e->index >= 2 && e->index < XSAVE_COMPONENTS) {
            l->xsave[e->index].size = e->eax;
            l->xsave[e->index].offset = e->ebx;
        }
        break;
    case 0x80000001:
        l->word[WORD_80000001_EDX] = e->edx;
        l->word[WORD_80000001_ECX] = e->ecx;
        break;
    case 0x80000007: l->word[WORD_80000007_EDX] = e->edx; break;
    case 0x80000008:
        l->phys_bits = (uint8_t)e->eax;
        l->word[WORD_80000008_EBX] = e->ebx;
        break;
    default: break;
    }
}

static void allow(struct cpu_limits *l, enum cpu_feature f, bool yes)
{
    if (yes)
        l->word[f / 32] |= 1u << f % 32;
    else
        l->word[f / 32] &= ~(1u << f % 32);
}

int kvm_read_limits(int kvm, struct cpu_limits *out, struct error *err)
{
    static const struct {
        enum cpu_feature feature;
    } known[] = {
#define FEATURE(id, name, word, bit) {FEATURE_##id},
#include "x86/features.def"
#undef FEATURE
    };
    auto_free struct kvm_cpuid2 *c = supported_cpuid(kvm);
    struct cpu_limits l = {.who = "KVM", .phys_bits = 36};
    uint32_t mask[WORD_COUNT] = {0};
    bool user_msr = kvm_has(kvm, KVM_CAP_X86_USER_SPACE_MSR) > 0 &&
                    kvm_has(kvm, KVM_CAP_X86_MSR_FILTER) > 0;

    if (!c)
        return error_set_errno(err, errno, "/dev/kvm does not say which CPUID it supports");
    l.xsave[0].size = 160;
    l.xsave[1].offset = 160;
    l.xsave[1].size = 256;
    for (unsigned i = 0; i < c->nent; i++)
        take_entry(&l, &c->entries[i]);
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        mask[known[i].feature / 32] |= 1u << known[i].feature % 32;
    for (unsigned i = 0; i < WORD_COUNT; i++)
        l.word[i] &= mask[i];
    /* Nested virtualization, a PMU and protection keys have no place in struct cpu. */
    allow(&l, FEATURE_VMX, false);
    allow(&l, FEATURE_SVM, false);
    allow(&l, FEATURE_PDCM, false);
    allow(&l, FEATURE_PKU, false);
    allow(&l, FEATURE_MONITOR, false);
    /* Ours, whatever KVM's own APIC could do. */
    allow(&l, FEATURE_APIC, true);
    allow(&l, FEATURE_X2APIC, user_msr);
    allow(&l, FEATURE_TSC_DEADLINE, user_msr);
    allow(&l, FEATURE_ARAT, true);
    allow(&l, FEATURE_HYPERVISOR, true);
    allow(&l, FEATURE_HT, true);
    allow(&l, FEATURE_CMP_LEGACY, true);
    allow(&l, FEATURE_TOPOEXT, true);
    *out = l;
    return 0;
}
