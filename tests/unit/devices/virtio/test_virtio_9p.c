/* test_virtio_9p.c - the messages of 9P2000.L, what cannot be reached, and the device around it. */
#include "support/unit.h"

#include "driver.h"

#include "devices/virtio/p9.h"
#include "memory/ram.h"
#include "support/test_machine.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { RLERROR = 7, MSIZE = 8192 };

/* A folder "shared" beside a file "secret", which must not be reached from it. */
static char base[40];
static struct p9 *p9;

static char *in_base(const char *name)
{
    static char path[4][200];
    static unsigned n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof(path[n]), "%s/%s", base, name);
    return path[n];
}

static void put_file(const char *name, const char *text)
{
    FILE *f = fopen(in_base(name), "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **state)
{
    strcpy(base, "/var/tmp/virtio-9p-XXXXXX"); /* where extended attributes are likely */
    if (!mkdtemp(base) || mkdir(in_base("shared"), 0755) < 0 ||
        mkdir(in_base("shared/sub"), 0755) < 0 || symlink("..", in_base("shared/up")) < 0 ||
        symlink("../secret", in_base("shared/link")) < 0 ||
        mkfifo(in_base("shared/pipe"), 0600) < 0)
        return -1;
    put_file("secret", "secret");
    put_file("shared/file", "contents");
    return 0;
}

static int teardown(void **state)
{
    auto_free char *command = xasprintf("rm -rf '%s'", base);

    p9_close(p9);
    p9 = NULL;
    return system(command);
}

/* ---- messages: built and sent ------------------------------------------------------------------
 */

static uint8_t message[MSIZE], answer[MSIZE];
static size_t length;

static void begin(uint8_t type)
{
    memset(message, 0, sizeof(message));
    message[4] = type;
    store_le(message + 5, 0x1234, 2);
    length = 7;
}

static void add(uint64_t value, unsigned size)
{
    store_le(message + length, value, size);
    length += size;
}

static void add_text(const char *text)
{
    add(strlen(text), 2);
    memcpy(message + length, text, strlen(text));
    length += strlen(text);
}

/* 0, or the error the answer names. */
static int ask(void)
{
    size_t size;

    store_le(message, length, 4);
    memset(answer, 0xee, sizeof(answer));
    size = p9_answer(p9, message, length, answer, sizeof(answer));
    assert_true(size >= 7);
    assert_int_equal(load_le(answer, 4), size);
    assert_int_equal(load_le(answer + 5, 2), 0x1234);
    if (answer[4] == RLERROR)
        return (int)load_le(answer + 7, 4);
    assert_int_equal(answer[4], message[4] + 1);
    return 0;
}

static void open_folder(bool mapped, bool read_only)
{
    p9 = p9_open(in_base("shared"), mapped, read_only, NULL);
    assert_non_null(p9);
    begin(100);
    add(MSIZE, 4);
    add_text("9P2000.L");
    assert_int_equal(ask(), 0);
    assert_int_equal(load_le(answer + 7, 4), MSIZE);
    begin(104);
    add(1, 4);
    add(UINT32_MAX, 4);
    add_text("root");
    add_text("");
    add(0, 4);
    assert_int_equal(ask(), 0);
}

/* From fid 1 to a new fid by one or two names. */
static int walk(uint32_t to, const char *a, const char *b)
{
    begin(110);
    add(1, 4);
    add(to, 4);
    add(b ? 2 : 1, 2);
    add_text(a);
    if (b)
        add_text(b);
    if (ask())
        return (int)load_le(answer + 7, 4);
    return load_le(answer + 7, 2) == (b ? 2 : 1) ? 0 : -1; /* -1: part of the way */
}

static int open_fid(uint32_t fid, uint32_t flags)
{
    begin(12);
    add(fid, 4);
    add(flags, 4);
    return ask();
}

static int clunk(uint32_t fid)
{
    begin(120);
    add(fid, 4);
    return ask();
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void files_are_read_and_written(void **state)
{
    char text[20] = "";
    FILE *f;

    open_folder(false, false);
    assert_int_equal(walk(2, "file", NULL), 0);
    assert_int_equal(open_fid(2, O_RDWR), 0);
    begin(116);
    add(2, 4);
    add(3, 8);
    add(100, 4);
    assert_int_equal(ask(), 0);
    assert_int_equal(load_le(answer + 7, 4), 5);
    assert_memory_equal(answer + 11, "tents", 5);
    begin(118);
    add(2, 4);
    add(8, 8);
    add(5, 4);
    memcpy(message + length, " more", 5);
    length += 5;
    assert_int_equal(ask(), 0);
    f = fopen(in_base("shared/file"), "r");
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    assert_string_equal(text, "contents more");
    assert_int_equal(clunk(2), 0);
    assert_int_equal(clunk(2), EBADF);
    begin(116); /* of a fid that is not open */
    add(1, 4);
    add(0, 8);
    add(100, 4);
    assert_int_equal(ask(), EBADF);
}

static void nothing_outside_is_reached(void **state)
{
    static const char *const names[] = {"../secret", "/etc/passwd", "sub/../../secret",
                                        "",          ".",           "a/b"};

    open_folder(false, false);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        assert_int_equal(walk(2, names[i], NULL), ENOENT);
    assert_int_equal(walk(2, "..", "secret"), -1); /* ".." of the root is the root */
    assert_int_equal(walk(2, "up", "secret"), -1); /* a link is no folder */
    assert_int_equal(walk(2, "up", NULL), 0);
    assert_int_equal(open_fid(2, O_RDONLY), ENXIO);
    clunk(2);
    assert_int_equal(walk(2, "link", NULL), 0);
    assert_int_equal(open_fid(2, O_RDONLY), ENXIO);
    clunk(2);
    assert_int_equal(walk(2, "pipe", NULL), 0); /* would block, or be somebody else's */
    assert_int_equal(open_fid(2, O_RDONLY), ENXIO);
    clunk(2);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        begin(72);
        add(1, 4);
        add_text(names[i]);
        add(0755, 4);
        add(0, 4);
        assert_int_equal(ask(), EINVAL);
        begin(76);
        add(1, 4);
        add_text(names[i]);
        add(0, 4);
        assert_int_equal(ask(), EINVAL);
        assert_int_equal(walk(3, "file", NULL), 0);
        begin(20);
        add(3, 4);
        add(1, 4);
        add_text(names[i]);
        assert_int_equal(ask(), EINVAL);
        clunk(3);
    }
    /* a file made through a link */
    assert_int_equal(walk(2, "sub", NULL), 0);
    begin(14);
    add(1, 4);
    add_text("link");
    add(O_RDWR, 4);
    add(0644, 4);
    add(0, 4);
    assert_int_equal(ask(), ELOOP);
    /* the folder that a fid means becomes a link outwards */
    assert_int_equal(rename(in_base("shared/sub"), in_base("shared/old")), 0);
    assert_int_equal(symlink("..", in_base("shared/sub")), 0);
    begin(14);
    add(2, 4);
    add_text("made");
    add(O_RDWR | O_CREAT, 4);
    add(0644, 4);
    add(0, 4);
    assert_int_not_equal(ask(), 0);
    assert_int_equal(access(in_base("made"), F_OK), -1);
}

static bool has_attributes(void)
{
    return setxattr(in_base("shared/file"), "user.test", "x", 1, 0) == 0;
}

static void owners_live_in_attributes(void **state)
{
    struct stat st;
    uint32_t mode;

    if (!has_attributes())
        skip();
    open_folder(true, false);
    assert_int_equal(walk(2, "file", NULL), 0);
    begin(26);
    add(2, 4);
    add(7, 4);
    add(04751, 4);
    add(12, 4);
    add(34, 4);
    for (unsigned i = 0; i < 5; i++)
        add(0, 8);
    assert_int_equal(ask(), 0);
    begin(24);
    add(2, 4);
    add(0x7ff, 8);
    assert_int_equal(ask(), 0);
    assert_int_equal(load_le(answer + 28, 4), S_IFREG | 04751);
    assert_int_equal(load_le(answer + 32, 4), 12);
    assert_int_equal(load_le(answer + 36, 4), 34);
    assert_int_equal(stat(in_base("shared/file"), &st), 0);
    assert_int_not_equal(st.st_mode & 04000, 04000); /* the host's file is none of that */
    assert_int_equal(getxattr(in_base("shared/file"), "user.virtfs.mode", &mode, 4), 4);
    /* a link is a file for the host, and a link for the guest */
    begin(16);
    add(1, 4);
    add_text("new");
    add_text("/etc/passwd");
    add(0, 4);
    assert_int_equal(ask(), 0);
    assert_int_equal(answer[7], 2);
    assert_int_equal(lstat(in_base("shared/new"), &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(walk(3, "new", NULL), 0);
    begin(22);
    add(3, 4);
    assert_int_equal(ask(), 0);
    assert_memory_equal(answer + 9, "/etc/passwd", 11);
    begin(18);
    add(1, 4);
    add_text("zero");
    add(S_IFCHR | 0666, 4);
    add(1, 4);
    add(5, 4);
    add(0, 4);
    assert_int_equal(ask(), 0);
    assert_int_equal(walk(4, "zero", NULL), 0);
    assert_int_equal(open_fid(4, O_RDONLY), ENXIO);
}

static void renaming_moves_what_is_known(void **state)
{
    open_folder(false, false);
    put_file("shared/sub/deep", "d");
    assert_int_equal(walk(2, "sub", "deep"), 0);
    begin(74);
    add(1, 4);
    add_text("sub");
    add(1, 4);
    add_text("moved");
    assert_int_equal(ask(), 0);
    assert_int_equal(open_fid(2, O_RDONLY), 0); /* by its new path */
    assert_int_equal(access(in_base("shared/moved/deep"), F_OK), 0);
    begin(76);
    add(1, 4);
    add_text("moved");
    add(0x200, 4);
    assert_int_equal(ask(), ENOTEMPTY);
    begin(122);
    add(2, 4);
    assert_int_equal(ask(), 0);
    assert_int_equal(access(in_base("shared/moved/deep"), F_OK), -1);
}

static void folders_are_listed_in_parts(void **state)
{
    unsigned names = 0, rounds = 0;
    uint64_t offset = 0;

    open_folder(false, false);
    for (unsigned i = 0; i < 100; i++) {
        char name[40];

        snprintf(name, sizeof(name), "shared/sub/file%u", i);
        put_file(name, "");
    }
    assert_int_equal(walk(2, "sub", NULL), 0);
    assert_int_equal(open_fid(2, O_RDONLY | O_DIRECTORY), 0);
    for (;; rounds++) {
        size_t size, at = 11;

        begin(40);
        add(2, 4);
        add(offset, 8);
        add(200, 4);
        assert_int_equal(ask(), 0);
        size = load_le(answer + 7, 4);
        assert_true(size <= 200);
        if (!size)
            break;
        for (; at < 11 + size; names++) {
            offset = load_le(answer + at + 13, 8);
            at += 24 + load_le(answer + at + 22, 2);
        }
        assert_int_equal(at, 11 + size);
    }
    assert_int_equal(names, 102);
    assert_true(rounds > 10);
}

static void read_only_is_read_only(void **state)
{
    open_folder(false, true);
    assert_int_equal(walk(2, "file", NULL), 0);
    assert_int_equal(open_fid(2, O_RDWR), EROFS);
    assert_int_equal(open_fid(2, O_RDONLY | O_TRUNC), EROFS);
    begin(122);
    add(2, 4);
    assert_int_equal(ask(), EROFS);
    begin(72);
    add(1, 4);
    add_text("x");
    add(0755, 4);
    add(0, 4);
    assert_int_equal(ask(), EROFS);
    assert_int_equal(walk(2, "file", NULL), 0);
    assert_int_equal(open_fid(2, O_RDONLY), 0);
}

static void messages_cut_short(void **state)
{
    open_folder(false, false);
    assert_int_equal(walk(2, "file", NULL), 0);
    for (unsigned type = 0; type < 256; type++)
        for (unsigned extra = 0; extra < 20; extra++) {
            if (type == 100 || (type == 120 && extra >= 4) || (type == 122 && extra >= 4))
                continue; /* would end it all */
            begin((uint8_t)type);
            add(2, 4);
            memset(message + length, 0xff, 20);
            length = 7 + extra;
            store_le(message, length, 4);
            ask();
        }
    store_le(message, 6, 4);
    assert_int_equal(p9_answer(p9, message, 6, answer, sizeof(answer)), 0);
    store_le(message, 100, 4);
    assert_int_equal(p9_answer(p9, message, 50, answer, sizeof(answer)), 0);
    begin(118); /* more to write than there is */
    add(2, 4);
    add(0, 8);
    add(1000, 4);
    assert_int_equal(ask(), EINVAL);
}

static void the_device_carries_messages(void **state)
{
    struct driver d;
    struct error err = {0};
    gpa at, to;
    char text[120];
    uint32_t written;

    for (enum driver_via via = 0; via < VIA_COUNT; via++) {
        assert_int_equal(test_machine_teardown(state), 0);
        assert_int_equal(test_machine_setup(state), 0);
        snprintf(text, sizeof(text), "path=%s,mount_tag=tag1,security_model=none",
                 in_base("shared"));
        assert_true(driver_add_device(&d, *state, via, "virtio-9p", text, &err));
        driver_start(&d, ~UINT64_C(0));
        assert_int_equal(driver_config(&d, 0, 2), 4);
        assert_int_equal(driver_config(&d, 2, 4), load_le("tag1", 4));
        begin(100);
        add(MSIZE, 4);
        add_text("9P2000.L");
        store_le(message, length, 4);
        at = driver_alloc(&d, (uint32_t)length);
        to = driver_alloc(&d, 100);
        driver_put(&d, at, message, (uint32_t)length);
        written = driver_do(&d, 0,
                            (struct driver_buffer[]){{at, 5, false},
                                                     {at + 5, (uint32_t)length - 5, false},
                                                     {to, 100, true}},
                            3);
        assert_int_equal(written, 21);
        assert_int_equal(d.m->ram->host[to + 4], 101);
        driver_add(&d, 0, (struct driver_buffer[]){{at, 5, false}, {to, 100, true}}, 2);
        driver_kick(&d, 0);
        virtio_settle(d.v); /* half a message */
        if (via == VIA_MODERN || via == VIA_MMIO)
            assert_int_equal(driver_status(&d), 0x4f);
    }
    assert_int_equal(test_machine_teardown(state), 0);
}

static void refuses_by_name(void **state)
{
    static const char *const bad[][2] = {
        {"mount_tag=x", "virtio-9p-pci: say path=FOLDER and mount_tag=NAME"},
        {"path=/,mount_tag=", "virtio-9p-pci: mount_tag= has not 1 to 32 characters"},
        {"path=/,mount_tag=x,security_model=passthrough",
         "virtio-9p-pci: security_model=passthrough is neither none nor mapped-xattr"},
        {"path=/nowhere,mount_tag=x",
         "virtio-9p-pci: cannot open folder '/nowhere': No such file or directory"},
    };

    assert_int_equal(test_machine_setup(state), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};
        struct driver d;

        assert_false(driver_add_device(&d, *state, VIA_MODERN, "virtio-9p", bad[i][0], &err));
        assert_string_equal(err.text, bad[i][1]);
    }
    assert_int_equal(test_machine_teardown(state), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(files_are_read_and_written),
        TEST(nothing_outside_is_reached),
        TEST(owners_live_in_attributes),
        TEST(renaming_moves_what_is_known),
        TEST(folders_are_listed_in_parts),
        TEST(read_only_is_read_only),
        TEST(messages_cut_short),
        TEST(the_device_carries_messages),
        TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-9p", tests, NULL, NULL);
}
