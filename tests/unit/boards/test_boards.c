/* test_boards.c - each board is put together, leaves what a kernel expects, and goes off. */
#include "support/unit.h"

#include "../devices/pci/sample.h"
#include "boards/board.h"
#include "devices/acpi/pm.h"
#include "devices/devices.h"
#include "devices/pci/i440fx.h"
#include "devices/pci/pci.h"
#include "devices/pci/q35.h"
#include "support/test_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char kernel_path[] = "/tmp/hospes-test-boards-XXXXXX";

/* The smallest Multiboot kernel that says itself where it goes: a header and HLT. */
static int group_setup(void **state)
{
    const uint32_t load = 0x100000, flags = 1 << 16, magic = 0x1badb002;
    const uint32_t image[16] = {magic,     flags,     -(magic + flags), load,      load,
                                load + 64, load + 64, load + 32,        0xf4f4f4f4};
    int fd = mkstemp(kernel_path);

    device_types_register(device_types);

    if (fd < 0 || write(fd, image, sizeof(image)) != sizeof(image))
        return -1;
    return close(fd);
}

static int group_teardown(void **state)
{
    return unlink(kernel_path);
}

static struct machine *build(const char *board, uint64_t memory, unsigned cpus, bool kernel)
{
    struct machine_config config = {.board = board,
                                    .cpus = cpus,
                                    .memory = memory,
                                    .acpi = true,
                                    .hpet = true,
                                    .kernel = kernel ? kernel_path : NULL,
                                    .isa_debug_exit = true,
                                    .rtc_base = 1000000007};
    struct machine *m = machine_new(&config, true);
    struct error err = {0};

    assert_non_null(board_find(board));
    if (machine_build(m, board_find(board), &engine_interp, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

static uint8_t cmos(struct machine *m, uint8_t index)
{
    out8(m, 0x70, index);
    return in8(m, 0x71);
}

static uint32_t config(struct machine *m, unsigned slot, unsigned function, unsigned reg)
{
    return pci_config_read(pci_bus_find(m, NULL)->host, 0, slot << 3 | function, reg, 4);
}

/* What is the same on all. */
static void check_common(struct machine *m)
{
    struct error err = {0};
    const char signature[] = "RSD PTR ";

    if (machine_reset(m, &err) < 0)
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(mmio_read(m, 0xe0000 + i, 1), signature[i]);
    assert_int_equal(m->cpus[0]->rip, 0x100020);
    assert_int_equal(m->cpus[1]->activity, CPU_WAIT_SIPI);
    assert_int_equal(mmio_read(m, 0xfee00020, 4), 0xffffffff); /* the APIC is the CPU's own */
    assert_int_equal(mmio_read(m, 0xfec00010, 4), 0);          /* I/O APIC: register 0, its id */
    assert_true(mmio_read(m, 0xfed00000, 4) != 0xffffffff);    /* HPET */
    assert_int_equal(cmos(m, 0x5f), 1);                        /* processors - 1 */
    out16(m, 0x510, 0);
    assert_int_equal(in8(m, 0x511), 'Q'); /* firmware configuration's signature */
    test_advance(m, NSEC_PER_SEC);
    assert_int_equal(in32(m, ACPI_PM_PORTS + PM_TIMER) / 1000, PM_TIMER_HZ / 1000);
    m->power_button(m);
    assert_int_equal(in16(m, ACPI_PM_PORTS + PM1_STATUS) & PM1_POWER_BUTTON, PM1_POWER_BUTTON);
    out8(m, 0xf4, 0x31);
    assert_int_equal(m->end, END_DEBUG);
    assert_int_equal(m->debug_code, 0x63); /* what the process exits with */
    m->end = END_NONE;
    out8(m, 0xcf9, 6);
    assert_true(m->reset_requested);
    m->reset_requested = false;
    if (machine_reset(m, &err) < 0) /* and a second time */
        fail_msg("%s", err.text);
}

static void pc_is_complete(void **state)
{
    struct machine *m = build("pc", UINT64_C(4) * GiB + 128 * MiB, 2, true);

    assert_true(m->ram_below_4g == UINT64_C(3) * GiB);
    assert_true(m->ram_above_4g == UINT64_C(1) * GiB + 128 * MiB);
    assert_int_equal(cmos(m, 0x34) | cmos(m, 0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(cmos(m, 0x5b) | cmos(m, 0x5c) << 8 | cmos(m, 0x5d) << 16, 1152 * 16);
    assert_int_equal(cmos(m, 0x17) | cmos(m, 0x18) << 8, 0xffff);
    check_common(m);
    assert_int_equal(config(m, 0, 0, 0), 0x12378086);
    assert_int_equal(config(m, 1, 0, 0), 0x70008086);
    assert_int_equal(config(m, 1, 3, 0), 0x71138086);
    assert_int_equal(config(m, 1, 0, 0x60), 0x0b0b0a0a);
    assert_int_equal(in8(m, 0x4d1), 0x0c);
    mmio_write(m, 0xf0000, 0x12345678, 4); /* RAM */
    assert_int_equal(mmio_read(m, 0xf0000, 4), 0x12345678);
    mmio_write(m, UINT64_C(0x100000000), 0x9abcdef0, 4);
    assert_int_equal(mmio_read(m, UINT64_C(0x100000000), 4), 0x9abcdef0);
    out16(m, ACPI_PM_PORTS + PM1_CONTROL, PM1_SLEEP_ENABLE);
    assert_int_equal(m->end, END_POWEROFF);
    machine_free(m);
}

static void q35_is_complete(void **state)
{
    struct machine *m = build("q35", UINT64_C(3) * GiB, 2, true);

    assert_true(m->ram_below_4g == UINT64_C(2) * GiB);
    check_common(m);
    assert_int_equal(config(m, 0, 0, 0), 0x29c08086);
    assert_int_equal(config(m, 31, 0, 0), 0x29188086);
    assert_int_equal(mmio_read(m, Q35_ECAM_BASE + (31 << 15), 4), 0x29188086);
    out16(m, ACPI_PM_PORTS + PM1_CONTROL, PM1_SLEEP_ENABLE | 7 << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_POWEROFF);
    machine_free(m);
}

static void microvm_is_complete(void **state)
{
    struct machine *m = build("microvm", 128 * MiB, 2, true);

    check_common(m);
    assert_null(pci_bus_find(m, NULL));
    assert_int_equal(in32(m, 0xcfc), 0xffffffff);
    assert_int_equal(in8(m, 0x64), 0xff);
    out16(m, ACPI_PM_PORTS + PM1_CONTROL, PM1_SLEEP_ENABLE | 5 << PM1_SLEEP_TYPE_SHIFT);
    assert_int_equal(m->end, END_POWEROFF);
    machine_free(m);
}

/* A function added by the user gets what a firmware would give it. */
static void functions_get_addresses(void **state)
{
    struct machine *m = build("pc", 128 * MiB, 1, true);
    struct error err = {0};
    struct pci_device *p;

    assert_int_equal(test_add(m, &sample_type, NULL, NULL), 0);
    p = to_pci(test_device(m));
    assert_int_equal(pci_slot(p), 2);
    if (machine_reset(m, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(pci_bar_address(p, 0) >= 0xc000 && pci_bar_address(p, 0) <= 0xffe0);
    for (unsigned bar = 1; bar <= 4; bar++) {
        if (!p->bar[bar].kind)
            continue;
        assert_true(pci_bar_address(p, bar) >= 0xc0000000);
        assert_true(pci_bar_address(p, bar) + p->bar[bar].size <= 0xfec00000);
    }
    assert_int_equal(mmio_read(m, pci_bar_address(p, 1) + 0x100, 4), 0x5a000000);
    assert_int_equal(config(m, 2, 0, PCI_INTERRUPT_LINE) & 0xffff, 0x020b); /* INTB: PIRQC, 11 */
    machine_free(m);
}

static void without_a_kernel_nothing_is_prepared(void **state)
{
    struct machine *m = build("pc", 64 * MiB, 1, false);

    assert_null(m->load);
    assert_int_equal(machine_reset(m, NULL), 0);
    assert_int_equal(config(m, 0, 0, 0x58) & 0xffffff00, 0);
    machine_free(m);
}

static void errors_name_the_thing(void **state)
{
    struct machine_config config = {
        .board = "pc", .cpus = 1, .memory = 64 * MiB, .kernel = "/nonexistent/vmlinuz"};
    struct machine *m = machine_new(&config, true);
    struct error err = {0};

    assert_true(machine_build(m, &board_pc, &engine_interp, &err) < 0);
    assert_non_null(strstr(err.text, "/nonexistent/vmlinuz"));
    machine_free(m);
    config.kernel = NULL;
    config.cpus = 256;
    m = machine_new(&config, true);
    assert_int_equal(machine_build(m, &board_pc, &engine_interp, &err), -EINVAL);
    assert_string_equal(err.text, "machine 'pc' has 1 to 255 processors, not 256");
    machine_free(m);
}

static void lists(void **state)
{
    unsigned n = 0;

    while (board_list(n))
        n++;
    assert_int_equal(n, 3);
    assert_ptr_equal(board_find("q35"), &board_q35);
    assert_null(board_find("q36"));
    for (n = 0; device_types[n + 1]; n++)
        assert_non_null(device_types[n]->name);
    assert_true(n > 15);
}

/* A file of fw_cfg by its name, read through the ports as a firmware does; its size. */
static size_t firmware_file(struct machine *m, const char *name, char *out, size_t room)
{
    uint32_t count = 0;

    out16(m, 0x510, 0x19);
    for (unsigned i = 0; i < 4; i++)
        count = count << 8 | in8(m, 0x511);
    while (count--) {
        uint8_t entry[64];
        size_t size;

        for (unsigned i = 0; i < sizeof(entry); i++)
            entry[i] = in8(m, 0x511);
        if (strcmp((char *)entry + 8, name))
            continue;
        size = (size_t)entry[0] << 24 | (size_t)entry[1] << 16 | (size_t)entry[2] << 8 | entry[3];
        assert_true(size <= room);
        out16(m, 0x510, (uint16_t)(entry[4] << 8 | entry[5]));
        for (size_t i = 0; i < size; i++)
            out[i] = (char)in8(m, 0x511);
        return size;
    }
    return 0;
}

/* A machine with a firmware of 64 KiB that is a file of ours. */
static struct machine *with_firmware(const char *board, const char *order,
                                     const char *const *devices, unsigned count, struct error *err)
{
    static char path[] = "/tmp/hospes-test-rom-XXXXXX";
    struct machine_config config = {.board = board,
                                    .cpus = 1,
                                    .memory = 64 * MiB,
                                    .acpi = true,
                                    .firmware = path,
                                    .boot_order = order,
                                    .boot_menu = true,
                                    .devices = devices,
                                    .device_count = count};
    struct machine *m;
    uint8_t rom[64 * KiB] = {0};
    int fd;

    strcpy(path + sizeof(path) - 7, "XXXXXX");
    fd = mkstemp(path);
    memcpy(rom + sizeof(rom) - 16, "reset vector", 12);
    assert_true(fd >= 0 && write(fd, rom, sizeof(rom)) == sizeof(rom));
    close(fd);
    m = machine_new(&config, true);
    if (machine_build(m, board_find(board), &engine_interp, err) < 0) {
        machine_free(m);
        m = NULL;
    }
    unlink(path);
    return m;
}

static void a_firmware_is_where_the_cpu_begins(void **state)
{
    struct error err = {0};
    struct machine *m = with_firmware("pc", NULL, NULL, 0, &err);
    char text[16] = "";

    assert_non_null(m);
    assert_int_equal(machine_reset(m, &err), 0);
    for (unsigned i = 0; i < 12; i++)
        text[i] = (char)mmio_read(m, 0xfffffff0 + i, 1);
    assert_string_equal(text, "reset vector");
    assert_int_equal(mmio_read(m, 0xffff0, 1), 'r');
    mmio_write(m, 0xfffffff0, 0, 1); /* ROM */
    assert_int_equal(mmio_read(m, 0xfffffff0, 1), 'r');
    assert_int_equal(m->cpus[0]->rip, 0xfff0);
    assert_int_equal(config(m, 0, 0, I440FX_PAM) & 0x30, 0);
    assert_int_equal(firmware_file(m, "etc/system-states", text, sizeof(text)), 6);
    assert_int_equal(firmware_file(m, "bootorder", text, sizeof(text)), 0);
    machine_free(m);
}

static void the_boot_order_is_told(void **state)
{
    static const char *const pc[] = {"ide-cd,bus=ide.1", "ide-cd,bus=ide.0,unit=1,bootindex=7",
                                     "e1000,addr=5,bootindex=2", "e1000,addr=6.1,id=other"};
    static const char *const q35[] = {"ide-cd,bus=ide.3,bootindex=0"};
    static const char *const twice[] = {"ide-cd,bootindex=1", "e1000,bootindex=1"};
    struct error err = {0};
    struct machine *m = with_firmware("pc", "dn", pc, ARRAY_SIZE(pc), &err);
    char text[1000];

    if (!m)
        fail_msg("%s", err.text);
    firmware_file(m, "bootorder", text, sizeof(text));
    assert_string_equal(text, "/pci@i0cf8/ethernet@5/ethernet-phy@0\n"
                              "/pci@i0cf8/ide@1,1/drive@0/disk@1\n"
                              "/pci@i0cf8/ide@1,1/drive@1/disk@0\n"
                              "/pci@i0cf8/ethernet@6,1/ethernet-phy@0");
    machine_free(m);
    m = with_firmware("q35", NULL, q35, ARRAY_SIZE(q35), &err);
    assert_non_null(m);
    firmware_file(m, "bootorder", text, sizeof(text));
    assert_string_equal(text, "/pci@i0cf8/pci8086,2922@1f,2/drive@3/disk@0");
    machine_free(m);
    assert_null(with_firmware("pc", NULL, twice, ARRAY_SIZE(twice), &err));
    assert_string_equal(err.text, "two devices have bootindex=1");
}

static void firmware_variables_are_the_users(void **state)
{
    char folder[] = "/tmp/hospes-test-state-XXXXXX", *path, command[200];
    struct machine_config config = {
        .board = "q35", .cpus = 1, .memory = 64 * MiB, .firmware = "uefi", .name = "../odd name"};
    struct error err = {0};
    struct machine *m[2];
    struct stat st;

    if (access("/usr/share/OVMF/OVMF_CODE_4M.fd", R_OK)) {
        print_message("OVMF is not installed: nothing to test\n");
        return;
    }
    assert_non_null(mkdtemp(folder));
    setenv("XDG_STATE_HOME", folder, 1);
    m[0] = machine_new(&config, true);
    if (machine_build(m[0], &board_q35, &engine_interp, &err) < 0)
        fail_msg("%s", err.text);
    path = xasprintf("%s/hospes/_._odd name/uefi-vars.fd", folder);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(mmio_read(m[0], 0x100000000 - 4 * MiB + 0x28, 4), 0x4856465f); /* _FVH */
    /* another machine must not have them at the same time */
    m[1] = machine_new(&config, true);
    assert_int_equal(machine_build(m[1], &board_q35, &engine_interp, &err), -EBUSY);
    assert_non_null(strstr(err.text, "are in use by another machine"));
    machine_free(m[1]);
    machine_free(m[0]);
    assert_int_equal(truncate(path, 1000), 0);
    m[0] = machine_new(&config, true);
    assert_int_equal(machine_build(m[0], &board_q35, &engine_interp, &err), -EINVAL);
    assert_non_null(strstr(err.text, "have 1000 bytes"));
    machine_free(m[0]);
    unsetenv("XDG_STATE_HOME");
    snprintf(command, sizeof(command), "rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_firmware_is_where_the_cpu_begins),
        cmocka_unit_test(the_boot_order_is_told),
        cmocka_unit_test(firmware_variables_are_the_users),
        cmocka_unit_test(pc_is_complete),
        cmocka_unit_test(q35_is_complete),
        cmocka_unit_test(microvm_is_complete),
        cmocka_unit_test(functions_get_addresses),
        cmocka_unit_test(without_a_kernel_nothing_is_prepared),
        cmocka_unit_test(errors_name_the_thing),
        cmocka_unit_test(lists),
    };

    return cmocka_run_group_tests_name("boards", tests, group_setup, group_teardown);
}
