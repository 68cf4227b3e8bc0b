/*
 * test_plan.c - what is made of an image and of the short options: exactly the drives, devices and
 * networks that a user could have written.
 */
#include "support/unit.h"

#include "base/log.h"
#include "cli/plan.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char bios_disk[] = "/tmp/hospes-plan-XXXXXX", uefi_disk[] = "/tmp/hospes,plan-XXXXXX";
static char kernel[] = "/tmp/hospes-k-XXXXXX";
static char all[8192]; /* what the plan says, a line each */

static void image(char *path, bool code)
{
    uint8_t bytes[65536] = {0};
    int fd = mkstemp(path);

    bytes[0] = code ? 0xeb : 0;
    bytes[446 + 4] = 0xef;
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
    assert_int_equal(write(fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
    close(fd);
}

static int setup(void **state)
{
    int fd;

    log_set_level(LOG_ERROR);
    image(bios_disk, true);
    image(uefi_disk, false);
    fd = mkstemp(kernel);
    assert_int_equal(write(fd, "\177ELF", 4), 4);
    close(fd);
    return 0;
}

static int teardown(void **state)
{
    unlink(bios_disk);
    unlink(uefi_disk);
    unlink(kernel);
    return 0;
}

static void line(const char *what, const char *text)
{
    size_t n = strlen(all);

    snprintf(all + n, sizeof(all) - n, "%s %s\n", what, text);
}

/* The plan of a command line, words apart by lines, or its error. */
static const char *plan(const char *words)
{
    struct error err = {0};
    struct run_options o;
    /* "k" is the kernel. */
    auto_free char *copy = words[0] == 'k' && words[1] == '\n'
                               ? xasprintf("%s%s", kernel, words + 1)
                               : xstrdup(words);
    char name[] = "run", *argv[32] = {name}, *save = NULL;
    int argc = 1, r;

    for (char *w = strtok_r(copy, "\n", &save); w; w = strtok_r(NULL, "\n", &save))
        argv[argc++] = w;
    all[0] = '\0';
    r = run_parse(argc, argv, &o, &err);
    if (r < 0) {
        line("error", err.text);
        return all;
    }
    r = plan_make(&o, &err);
    if (r < 0) {
        line("error", err.text);
    } else {
        line("board", o.config.board);
        line("firmware", o.config.firmware ? o.config.firmware : "-");
        if (o.config.kernel)
            line("kernel", o.config.kernel);
        for (unsigned i = 0; i < o.drive_count; i++)
            line("drive", o.drives[i]);
        for (unsigned i = 0; i < o.netdev_count; i++)
            line("netdev", o.netdevs[i]);
        for (unsigned i = 0; i < o.config.device_count; i++)
            line("device", o.devices[i]);
    }
    plan_free(&o);
    return all;
}

static void says(const char *words, const char *part)
{
    if (!strstr(plan(words), part))
        fail_msg("'%s' does not say '%s' but:\n%s", words, part, all);
}

static void a_disk(void **state)
{
    char expected[1024];

    snprintf(expected, sizeof(expected),
             "board pc\nfirmware bios\ndrive id=disk0,file=%s,format=raw\n"
             "netdev user,id=net0\ndevice virtio-blk-pci,drive=disk0,bootindex=0\ndevice VGA\n"
             "device virtio-rng-pci\ndevice virtio-net-pci,netdev=net0\n",
             bios_disk);
    assert_string_equal(plan(bios_disk), expected);
}

/* Its name has a comma in it, too. */
static void a_disk_for_uefi(void **state)
{
    auto_free char *words = xasprintf("%s\n--machine\npc", uefi_disk);

    plan(uefi_disk);
    assert_non_null(strstr(all, "board q35\nfirmware uefi\n"));
    assert_non_null(strstr(all, "file=/tmp/hospes,,plan-"));
    says(words, "board pc\nfirmware uefi\n");
}

static void buses(void **state)
{
    char words[300];

    snprintf(words, sizeof(words), "--disk\n%s,bus=scsi,cache=none\n--disk\n%s,bus=scsi", bios_disk,
             bios_disk);
    plan(words);
    assert_non_null(strstr(all, ",cache=none,format=raw\n"));
    assert_non_null(strstr(all, "device virtio-scsi-pci,id=scsi0\ndevice "
                                "scsi-hd,drive=disk0,bootindex=0\ndevice "
                                "scsi-hd,drive=disk1,bootindex=1\n")); /* one controller */
    snprintf(words, sizeof(words), "--disk\n%s,bus=nvme", bios_disk);
    says(words, "device nvme,drive=disk0,serial=disk0,bootindex=0\n");
    snprintf(words, sizeof(words), "--disk\n%s,bus=floppy", bios_disk);
    says(words, "bus is one of virtio, ide");
    snprintf(words, sizeof(words), "--machine\nmicrovm\n--disk\n%s", bios_disk);
    says(words, "device virtio-blk-device,drive=disk0");
}

static void snapshot_and_cd(void **state)
{
    char words[300];

    snprintf(words, sizeof(words), "%s\n--snapshot\n--cdrom\n%s", bios_disk, bios_disk);
    plan(words);
    assert_non_null(strstr(all, ",snapshot=on\n"));
    assert_non_null(strstr(all, "format=raw,readonly=on\n"));
    assert_non_null(strstr(all, "device ide-cd,drive=cd0,bootindex=1\n"));
}

static void networks(void **state)
{
    static const char *const bad[] = {"22", "x:22", "0:22", "1:65536", "22:22/sctp", "22:", ":22"};
    char words[300];

    says("k\n--net\nnone", "firmware -\nkernel /tmp/");
    says("k\n--forward\n2222:22\n--forward\n0.0.0.0:53:53/udp",
         "netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:53-:53\n");
    says("k\n--net\nuser,restrict=on,model=e1000", "netdev user,id=net0,restrict=on\n");
    assert_non_null(strstr(all, "device e1000,netdev=net0\n"));
    says("k\n--net\ntap,ifname=t0", "netdev tap,id=net0,ifname=t0\n");
    says("k\n--net\nnone\n--forward\n1:1", "--forward is for --net user");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        snprintf(words, sizeof(words), "k\n--forward\n%s", bad[i]);
        says(words, "HOSTPORT:GUESTPORT");
    }
}

static void cloud_images(void **state)
{
    char words[300];

    snprintf(words, sizeof(words), "%s\n--user\nme\n--password\nsecret", bios_disk);
    plan(words);
    assert_non_null(strstr(all, "drive id=seed,file=/proc/self/fd/"));
    assert_non_null(strstr(all, "device virtio-blk-pci,drive=seed"));
    assert_null(strstr(all, "secret"));
    says("k\n--user\nMe!", "is not a user name");
    says("k\n--ssh-key\n/not/there", "/not/there");
}

static void shares(void **state)
{
    says("k\n--share\n/tmp\n--share\n/,readonly=on",
         "device virtio-9p-pci,path=/tmp,mount_tag=share\n"
         "device virtio-9p-pci,path=/,mount_tag=share2,readonly=on\n");
    says("k\n--share\n/not/there", "cannot share '/not/there'");
    says("k\n--share\n/etc/passwd", "is not a folder");
}

static void nothing_there(void **state)
{
    says("/not/there.qcow2", "/not/there.qcow2");
    says("--disk\n/tmp", "is a folder");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk),        cmocka_unit_test(a_disk_for_uefi),
        cmocka_unit_test(buses),         cmocka_unit_test(snapshot_and_cd),
        cmocka_unit_test(networks),      cmocka_unit_test(cloud_images),
        cmocka_unit_test(nothing_there), cmocka_unit_test(shares),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
