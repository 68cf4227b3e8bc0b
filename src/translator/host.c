/*
 * host.c - what this host has of what the translator needs. The engine's probe, the engine itself
 * and `hospes doctor` ask here, so that they cannot disagree.
 */
#include "translator/translator.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HWCAP2_FSGSBASE_BIT = 2 };

void translator_host_look(struct translator_host *host)
{
    unsigned a, b, c = 0, d;
    int fd = memfd_create("hospes-probe", MFD_CLOEXEC);
    void *p;

    *host = (struct translator_host){0};
    host->lahf = __get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1;
    host->fsgsbase = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT) != 0;
    host->avx = __builtin_cpu_supports("avx");
    host->avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    if (fd < 0)
        return;
    host->memfd = ftruncate(fd, 4096) == 0;
    p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    host->executable = p != MAP_FAILED;
    if (host->executable)
        munmap(p, 4096);
    close(fd);
}

int translator_host_check(const struct translator_host *host, struct error *err)
{
    if (!host->lahf)
        return error_set(err, ENOTSUP, "this processor has no LAHF in 64-bit mode");
    if (!host->memfd)
        return error_set(err, ENOTSUP, "the host has no memfd");
    if (!host->executable)
        return error_set(err, EPERM,
                         "the host refuses memory that can be executed (vm.memfd_noexec, or a "
                         "security policy)");
    return 0;
}
