#include "support/unit.h"

#include "chardev/chardev.h"
#include "event/loop.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

struct user {
    char got[8192];
    size_t count, room;
    unsigned writable, closed;
};

static size_t user_room(void *opaque)
{
    return ((struct user *)opaque)->room;
}

static void user_receive(void *opaque, const uint8_t *data, size_t size)
{
    struct user *u = opaque;

    assert_in_range(size, 1, u->room);
    memcpy(u->got + u->count, data, size);
    u->count += size;
    u->room -= size;
}

static void user_writable(void *opaque)
{
    ((struct user *)opaque)->writable++;
}

static void user_event(void *opaque, enum chardev_event what)
{
    ((struct user *)opaque)->closed += what == CHARDEV_CLOSED;
}

static struct chardev_user hooks(struct user *u)
{
    return (struct chardev_user){u, user_room, user_receive, user_writable, user_event};
}

static void input_waits_for_room(void **state)
{
    struct loop *l = loop_new(NULL);
    struct user u = {.room = 3};
    struct chardev_user h = hooks(&u);
    struct chardev *c;
    int in[2], out[2];

    (void)state;
    assert_int_equal(pipe(in) | pipe(out), 0);
    assert_int_equal(chardev_fds(l, in[0], out[1], &c, NULL), 0);
    chardev_attach(c, &h);
    assert_int_equal(write(in[1], "abcdef", 6), 6);
    loop_poll(l, 0);
    assert_int_equal(u.count, 3);
    u.room = 2;
    chardev_accept(c);
    loop_poll(l, 0);
    u.room = 8;
    chardev_accept(c);
    chardev_accept(c);
    loop_poll(l, 0);
    assert_int_equal(u.count, 6);
    assert_memory_equal(u.got, "abcdef", 6);
    close(in[1]);
    loop_poll(l, 0);
    assert_int_equal(u.closed, 1);
    loop_poll(l, 0); /* the end is told once */
    assert_int_equal(u.closed, 1);
    chardev_free(c);
    loop_free(l);
    close(in[0]);
    close(out[0]);
    close(out[1]);
}

/* The reader is slow: the writer is told how much was taken, and when there is room again. */
static void output_is_bounded_and_complete(void **state)
{
    struct loop *l = loop_new(NULL);
    struct user u = {0};
    struct chardev_user h = hooks(&u);
    static uint8_t block[1000], back[4096];
    size_t sent = 0, seen = 0;
    struct chardev *c;
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    assert_int_equal(chardev_fds(l, -1, fds[1], &c, NULL), 0);
    chardev_attach(c, &h);
    for (size_t n = 1; n;) {
        for (size_t i = 0; i < sizeof(block); i++)
            block[i] = (uint8_t)((sent + i) * 7);
        n = chardev_write(c, block, sizeof(block));
        sent += n;
        assert_true(sent < 10 * MiB);
    }
    for (int idle = 0; idle < 3;) {
        ssize_t n;

        loop_poll(l, 0);
        n = read(fds[0], back, sizeof(back));
        idle = n > 0 ? 0 : idle + 1;
        for (ssize_t i = 0; i < n; i++, seen++)
            if (back[i] != (uint8_t)(seen * 7))
                fail_msg("byte %zu is wrong", seen);
    }
    assert_int_equal(seen, sent);
    assert_int_equal(u.writable, 1);
    chardev_free(c);
    loop_free(l);
    close(fds[0]);
    close(fds[1]);
}

static void a_reader_that_left_takes_everything(void **state)
{
    struct loop *l = loop_new(NULL);
    struct chardev *c;
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(chardev_fds(l, -1, fds[1], &c, NULL), 0);
    close(fds[0]);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(chardev_write(c, "0123456789abcdef", 16), 16);
        loop_poll(l, 0);
    }
    chardev_free(c);
    loop_free(l);
    close(fds[1]);
}

static size_t drop_q(void *opaque, uint8_t *data, size_t size)
{
    size_t kept = 0;

    (void)opaque;
    for (size_t i = 0; i < size; i++)
        if (data[i] != 'q')
            data[kept++] = data[i];
    return kept;
}

static void a_filter_sees_input_first(void **state)
{
    struct chardev *c = chardev_memory(NULL, 16);
    struct user u = {.room = 100};
    struct chardev_user h = hooks(&u);

    (void)state;
    chardev_attach(c, &h);
    chardev_set_filter(c, drop_q, NULL);
    chardev_feed(c, "qaqqbq", 6);
    assert_int_equal(u.count, 2);
    assert_memory_equal(u.got, "ab", 2);
    chardev_free(c);
}

static void a_file_gets_all_of_it(void **state)
{
    char path[] = "chardev-test-XXXXXX";
    struct loop *l = loop_new(NULL);
    struct error err = {0};
    struct chardev *c;
    char back[16] = {0};
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(chardev_file(l, path, &c, NULL), 0);
    assert_int_equal(chardev_write(c, "tail", 4), 4);
    chardev_free(c); /* without the loop having run */
    assert_int_equal(read(fd, back, sizeof(back)), 4);
    assert_string_equal(back, "tail");
    close(fd);
    unlink(path);
    assert_true(chardev_file(l, "no/such/folder", &c, &err) < 0);
    assert_string_equal(err.text, "cannot write to 'no/such/folder': No such file or directory");
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_waits_for_room),
        cmocka_unit_test(output_is_bounded_and_complete),
        cmocka_unit_test(a_reader_that_left_takes_everything),
        cmocka_unit_test(a_filter_sees_input_first),
        cmocka_unit_test(a_file_gets_all_of_it),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests_name("chardev", tests, NULL, NULL);
}
