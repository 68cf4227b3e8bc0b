/*
 * test_operand.c - what `hospes run` takes its operand for: kernels, images, folders, and files
 * that pretend.
 */
#include "support/unit.h"

#include "block/block.h"
#include "cli/operand.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/hospes-operand-XXXXXX";
static uint8_t bytes[256 * 1024];

static const char *path_of(const char *name)
{
    static char path[4][200];
    static unsigned n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof(path[n]), "%s/%s", folder, name);
    return path[n];
}

static const char *file(const char *name, size_t size)
{
    const char *path = path_of(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    close(fd);
    return path;
}

static struct operand look(const char *path)
{
    struct error err = {0};
    struct operand o;

    if (operand_look(path, &o, &err) < 0)
        fail_msg("%s", err.text);
    operand_free(&o);
    return o;
}

static int clean(void **state)
{
    memset(bytes, 0, sizeof(bytes));
    return 0;
}

static void boot_sector(bool code)
{
    bytes[0] = code ? 0xeb : 0;
    bytes[510] = 0x55;
    bytes[511] = 0xaa;
}

static void gpt(uint64_t entries_at, uint32_t count, uint32_t size, bool esp)
{
    static const uint8_t type[16] = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
                                     0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b};

    memcpy(bytes + 512, "EFI PART", 8);
    store_le(bytes + 512 + 72, entries_at, 8);
    store_le(bytes + 512 + 80, count, 4);
    store_le(bytes + 512 + 84, size, 4);
    if (esp)
        memcpy(bytes + 1024 + 128, type, 16);
}

static void kernels(void **state)
{
    memcpy(bytes + 0x202, "HdrS", 4);
    boot_sector(true); /* as a kernel with an EFI stub has */
    assert_int_equal(look(file("bzImage", 65536)).kind, OPERAND_KERNEL);
    clean(NULL);
    memcpy(bytes, "\177ELF", 4);
    assert_int_equal(look(file("elf", 4096)).kind, OPERAND_KERNEL);
    clean(NULL);
    store_le(bytes + 4096, 0x1badb002, 4);
    store_le(bytes + 4104, -(uint32_t)0x1badb002, 4);
    assert_int_equal(look(file("multiboot", 65536)).kind, OPERAND_KERNEL);
    clean(NULL);
    assert_int_equal(look(file("nothing", 10)).kind,
                     OPERAND_KERNEL); /* its loader says what is wrong */
    assert_int_equal(look(file("empty", 0)).kind, OPERAND_KERNEL);
}

static void raw_disks(void **state)
{
    struct operand o;

    boot_sector(true);
    o = look(file("bios", 65536));
    assert_int_equal(o.kind, OPERAND_DISK);
    assert_string_equal(o.format, "raw");
    assert_true(o.bios && !o.uefi && o.size == 65536);

    boot_sector(false);
    gpt(2, 128, 128, true);
    o = look(file("uefi", 65536));
    assert_true(!o.bios && o.uefi);
    boot_sector(true);
    o = look(file("both", 65536));
    assert_true(o.bios && o.uefi);
    clean(NULL);
    boot_sector(false);
    bytes[446 + 16 + 4] = 0xef;
    assert_true(look(file("mbr-esp", 65536)).uefi);
}

static void hostile_tables(void **state)
{
    static const struct {
        uint64_t at;
        uint32_t count, size;
    } bad[] = {{UINT64_MAX, 128, 128},      {UINT64_MAX / 512, 128, 128},
               {2, UINT32_MAX, UINT32_MAX}, {2, 128, 0},
               {1 << 20, 128, 128},         {2, UINT32_MAX, 128}};

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        clean(NULL);
        boot_sector(false);
        gpt(bad[i].at, bad[i].count, bad[i].size, false);
        assert_false(look(file("bad", 65536)).uefi);
    }
}

static void images(void **state)
{
    static const char *const formats[] = {"qcow2", "vdi", "raw"};

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        struct block_create c = {.size = 1024 * 1024};
        const char *path = path_of(formats[i]);
        struct error err = {0};
        struct block_node *n;
        struct operand o;

        assert_int_equal(block_create(path, formats[i], &c, &err), 0);
        clean(NULL);
        boot_sector(true);
        n = block_open(path, formats[i], BLOCK_WRITE, &err);
        assert_non_null(n);
        assert_int_equal(block_write(n, 0, bytes, 512), 0);
        block_close(n);
        o = look(path);
        assert_int_equal(o.kind, OPERAND_DISK);
        assert_string_equal(o.format, formats[i]);
        assert_true(o.bios && o.size == 1024 * 1024);
    }
}

static void discs(void **state)
{
    struct operand o;

    memcpy(bytes + 32768, "\1CD001", 6);
    assert_int_equal(look(file("data.iso", 65536)).kind, OPERAND_CD);
    boot_sector(true); /* a hybrid image */
    memcpy(bytes + 34816, "\0CD001\1EL TORITO SPECIFICATION", 30);
    store_le(bytes + 34816 + 0x47, 30, 4);
    bytes[61440] = 1;
    bytes[61440 + 64] = 0x91;
    bytes[61440 + 65] = 0xef;
    o = look(file("boot.iso", 65536));
    assert_true(o.kind == OPERAND_CD && o.bios && o.uefi);
    store_le(bytes + 34816 + 0x47, UINT32_MAX, 4); /* a catalog that is not there */
    o = look(file("bad.iso", 65536));
    assert_true(o.kind == OPERAND_CD && !o.bios && !o.uefi);
}

static void folders(void **state)
{
    struct error err = {0};
    struct operand o;

    assert_int_equal(mkdir(path_of("boot"), 0700), 0);
    assert_int_equal(operand_look(path_of("boot"), &o, &err), -ENOENT);
    operand_free(&o);
    file("boot/vmlinuz-6.1.0-9-amd64", 100);
    file("boot/vmlinuz-6.1.0-10-amd64", 100);
    file("boot/initrd.img-6.1.0-10-amd64", 100);
    err = (struct error){0};
    assert_int_equal(operand_look(path_of("boot"), &o, &err), 0);
    assert_int_equal(o.kind, OPERAND_FOLDER);
    assert_non_null(strstr(o.kernel, "6.1.0-10"));
    assert_non_null(strstr(o.initrd, "6.1.0-10"));
    operand_free(&o);
    assert_int_not_equal(operand_look(path_of("not-there"), &o, &err), 0);
    assert_non_null(strstr(err.text, "not-there"));
    operand_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(kernels, clean),        cmocka_unit_test_setup(raw_disks, clean),
        cmocka_unit_test_setup(hostile_tables, clean), cmocka_unit_test_setup(images, clean),
        cmocka_unit_test_setup(discs, clean),          cmocka_unit_test_setup(folders, clean),
    };
    char command[64];
    int r;

    if (!mkdtemp(folder))
        return 1;
    r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r '%s'", folder);
    return system(command) ? 1 : r;
}
