/*
 * doctor.c - `hospes doctor`: what this host can do for guests, what is missing, what to do.
 *
 * A line is "ok", "note" (works, could be better) or "MISSING" (a guest cannot be run without).
 * Only the last makes the exit status 1.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "engine/engine.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct option_spec doctor_option_specs[] = {
    {"help", 'h', NULL, NULL, "this help", NULL},
    {0},
};

enum verdict { FINE, NOTE, MISSING };

static void line(enum verdict v, const char *what, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void line(enum verdict v, const char *what, const char *format, ...)
{
    static const char *const marks[] = {"ok", "note", "MISSING"};
    char text[600];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    printf("%-8s %-10s %s\n", marks[v], what, text);
}

struct host_cpu {
    char vendor[13], brand[49];
    bool vmx, svm, hypervisor;
};

static void identify(struct host_cpu *c)
{
    unsigned a, b, cx, d, top;

    *c = (struct host_cpu){0};
    __cpuid(0, a, b, cx, d);
    store_le(c->vendor, b, 4);
    store_le(c->vendor + 4, d, 4);
    store_le(c->vendor + 8, cx, 4);
    __cpuid(1, a, b, cx, d);
    c->vmx = cx >> 5 & 1;
    c->hypervisor = cx >> 31;
    __cpuid(0x80000000, top, b, cx, d);
    if (top >= 0x80000001) {
        __cpuid(0x80000001, a, b, cx, d);
        c->svm = cx >> 2 & 1;
    }
    for (unsigned i = 0; top >= 0x80000004 && i < 3; i++) {
        __cpuid(0x80000002 + i, a, b, cx, d);
        store_le(c->brand + 16 * i, a, 4);
        store_le(c->brand + 16 * i + 4, b, 4);
        store_le(c->brand + 16 * i + 8, cx, 4);
        store_le(c->brand + 16 * i + 12, d, 4);
    }
}

static void check_cpu(void)
{
    struct host_cpu c;
    const char *name;

    identify(&c);
    name = c.brand + strspn(c.brand, " ");
    line(FINE, "processor", "%s (%s), %ld online%s", *name ? name : "unknown", c.vendor,
         sysconf(_SC_NPROCESSORS_ONLN), c.hypervisor ? ", itself in a virtual machine" : "");
    if (c.vmx || c.svm)
        line(FINE, "hardware", "virtualization by %s", c.vmx ? "VT-x (vmx)" : "AMD-V (svm)");
    else
        line(NOTE, "hardware", "neither vmx nor svm: %s; guests run on the software engine",
             c.hypervisor ? "the hypervisor below does not pass it on"
                          : "switched off in the firmware setup, or not there");
}

static void check_kvm_device(void)
{
    auto_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        line(FINE, "/dev/kvm", "opens");
    else if (errno == ENOENT)
        line(NOTE, "/dev/kvm",
             "does not exist: KVM is not loaded (modprobe kvm_intel, kvm_amd), "
             "or this is a container without it");
    else if (errno == EACCES)
        line(NOTE, "/dev/kvm",
             "no permission; remedy: sudo adduser \"$USER\" kvm, then log in "
             "again");
    else
        line(NOTE, "/dev/kvm", "%m");
}

static void check_engines(void)
{
    const struct engine_ops *e, *best;
    struct error err = {0};
    char reason[200] = "";

    for (unsigned n = 0; (e = engine_list(n)); n++) {
        struct error why = {0};

        if (e->probe(&why) < 0)
            line(NOTE, e->name, "not usable: %s", why.text);
        else
            line(FINE, e->name, "%s", e->summary);
    }
    best = engine_choose("auto", reason, sizeof(reason), &err);
    if (best)
        line(FINE, "choice", "--engine auto takes %s: %s", best->name, reason);
    else
        line(MISSING, "choice", "no engine can run: %s", err.text);
}

static void check_translator(void)
{
    struct translator_host host;

    translator_host_look(&host);
    line(host.lahf && host.executable ? FINE : NOTE, "translator",
         "%s LAHF in 64-bit mode; memory can%s be executed; GS is set by %s; vectors: %s",
         host.lahf ? "has" : "lacks", host.executable ? "" : "not",
         host.fsgsbase ? "WRGSBASE" : "arch_prctl, which is slower",
         host.avx512 ? "AVX-512"
         : host.avx  ? "AVX"
                     : "SSE");
}

static bool limits_have(const struct cpu_limits *l, enum cpu_feature f)
{
    return l->word[f / 32] >> f % 32 & 1;
}

static void check_features(void)
{
    static const struct {
        enum cpu_feature feature;
        const char *name;
    } wanted[] = {
        {FEATURE_SSE42, "SSE4.2"}, {FEATURE_AES, "AES"},         {FEATURE_AVX, "AVX"},
        {FEATURE_AVX2, "AVX2"},    {FEATURE_BMI2, "BMI2"},       {FEATURE_FMA, "FMA"},
        {FEATURE_SHA_NI, "SHA"},   {FEATURE_AVX512F, "AVX-512"}, {FEATURE_XSAVE, "XSAVE"}};
    char yes[200] = "", no[200] = "";
    struct cpu_limits limits;

    cpu_limits_software(&limits);
    for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
        char *to = limits_have(&limits, wanted[i].feature) ? yes : no;
        size_t used = strlen(to);

        snprintf(to + used, 200 - used, "%s%s", used ? ", " : "", wanted[i].name);
    }
    line(FINE, "software", "engines give guests %s%s%s%s", *yes ? yes : "no SIMD",
         *no ? "; this processor lacks " : "", no, "");
}

/* A number of KiB from /proc/meminfo, or 0. */
static unsigned long long meminfo(const char *key)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char text[128];
    unsigned long long n = 0;

    while (f && fgets(text, sizeof(text), f))
        if (!strncmp(text, key, strlen(key)) && text[strlen(key)] == ':')
            n = strtoull(text + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return n;
}

static bool check_memory(void)
{
    unsigned long long available = meminfo("MemAvailable"), total = meminfo("MemTotal");
    long page = sysconf(_SC_PAGESIZE);

    if (page != 4096) {
        line(MISSING, "pages", "of %ld bytes; 4096 are needed", page);
        return false;
    }
    if (available && available < 512 * 1024)
        line(NOTE, "memory", "%llu MiB of %llu available; the default guest may use 1024",
             available / 1024, total / 1024);
    else
        line(FINE, "memory", "%llu MiB of %llu available", available / 1024, total / 1024);
    return true;
}

static void check_packages(void)
{
    static const struct {
        const char *path, *package, *use;
    } files[] = {
        {"/usr/share/seabios/bios-256k.bin", "seabios", "boot disks by BIOS"},
        {"/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", "boot disks by UEFI"},
        {"/bin/busybox", "busybox-static", "the guest of make demo"},
        {"/usr/bin/qemu-system-x86_64", "qemu-system-x86", "make bench, for comparison"},
    };
    char missing[200] = "";

    for (unsigned i = 0; i < ARRAY_SIZE(files); i++)
        if (access(files[i].path, R_OK) < 0) {
            size_t used = strlen(missing);

            line(NOTE, "package", "%s is not installed: %s", files[i].package, files[i].use);
            snprintf(missing + used, sizeof(missing) - used, " %s", files[i].package);
        }
    if (*missing)
        line(NOTE, "remedy", "sudo apt-get install%s", missing);
    else
        line(FINE, "packages", "all optional ones are there");
}

int command_doctor(int argc, char **argv)
{
    struct error err = {0};
    bool well;
    int r = options_parse(doctor_option_specs, argc, argv, NULL, NULL, &err);

    if (r > 0) {
        printf("Look at this host: which engine guests get and why, and what is missing.\n"
               "Exit status 0: guests can run; 1: they cannot, see the lines that say MISSING.\n\n"
               "Options:\n");
        options_help(doctor_option_specs, true, stdout);
        return 0;
    }
    if (r < 0) {
        log_error("doctor: %s", err.text);
        return EXIT_USAGE;
    }
    check_cpu();
    check_kvm_device();
    check_engines();
    check_translator();
    check_features();
    well = check_memory();
    check_packages();
    well &= engine_choose("auto", (char[200]){0}, 200, &err) != NULL;
    printf("%s\n", well ? "Guests can run here." : "Guests cannot run here yet.");
    return well ? 0 : EXIT_FAILED;
}
