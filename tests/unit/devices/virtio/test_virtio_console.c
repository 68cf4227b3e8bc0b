/* test_virtio_console.c - ports, their control messages, and bytes both ways. */
#include "support/unit.h"

#include "driver.h"

#include "chardev/chardev.h"
#include "devices/devices.h"
#include "event/loop.h"
#include "support/test_machine.h"

#include <linux/virtio_console.h>
#include <stdio.h>

static struct chardev *host[2];
static struct machine_backend backends[2];

static int setup(void **state)
{
    struct machine *m;

    if (test_machine_setup(state) < 0)
        return -1;
    m = *state;
    for (unsigned i = 0; i < 2; i++) {
        host[i] = chardev_memory(m->loop, i ? 32 : 4096);
        backends[i] = (struct machine_backend){"chardev", i ? "c1" : "c0", host[i]};
    }
    m->config.backends = backends;
    m->config.backend_count = 2;
    return 0;
}

static int teardown(void **state)
{
    machine_free_devices(*state);
    for (unsigned i = 0; i < 2; i++)
        chardev_free(host[i]);
    return test_machine_teardown(state);
}

static void add(struct driver *d, void **state, enum driver_via via)
{
    struct error err = {0};

    if (!driver_add_device(d, *state, via, "virtio-serial", "max_ports=3", &err))
        fail_msg("%s", err.text);
    assert_int_equal(test_add(*state, &virtconsole_type, "chardev=c0", NULL), 0);
    assert_int_equal(test_add(*state, &virtserialport_type, "chardev=c1,name=org.test.1", NULL), 0);
}

static void settle(struct driver *d)
{
    for (unsigned i = 0; i < 5; i++) {
        virtio_settle(d->v);
        loop_poll(d->m->loop, 0);
    }
}

static void tell(struct driver *d, uint32_t id, uint16_t event, uint16_t value)
{
    struct driver_buffer b = {driver_alloc(d, 8), 8, false};

    driver_put(d, b.at, &id, 4);
    driver_put(d, b.at + 4, &event, 2);
    driver_put(d, b.at + 6, &value, 2);
    driver_do(d, 3, &b, 1);
}

/* The next control message is this one. */
static void expect(struct driver *d, gpa at, uint32_t id, uint16_t event, uint16_t value,
                   const char *name)
{
    uint8_t got[64] = {0};
    uint32_t size;

    assert_true(driver_used(d, 2, &size) >= 0);
    assert_int_equal(size, 8 + (name ? strlen(name) : 0));
    driver_get(d, at, got, size);
    assert_int_equal(load_le(got, 4), id);
    assert_int_equal(load_le(got + 4, 2), event);
    assert_int_equal(load_le(got + 6, 2), value);
    if (name)
        assert_memory_equal(got + 8, name, strlen(name));
}

static void ports_introduce_themselves(void **state)
{
    struct driver d;
    gpa at[16];

    add(&d, state, VIA_MODERN);
    driver_start(&d, BIT(VIRTIO_CONSOLE_F_MULTIPORT));
    assert_int_equal(driver_config(&d, 4, 4), 3);
    for (unsigned i = 0; i < 16; i++)
        at[i] = driver_alloc(&d, 64);
    for (unsigned i = 0; i < 1; i++) /* room for one only */
        driver_add(&d, 2, &(struct driver_buffer){at[i], 64, true}, 1);
    tell(&d, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    expect(&d, at[0], 0, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
    assert_int_equal(driver_used(&d, 2, NULL), -1);
    test_save_reset_restore(d.m); /* the rest is remembered */
    for (unsigned i = 1; i < 16; i++)
        driver_add(&d, 2, &(struct driver_buffer){at[i], 64, true}, 1);
    driver_kick(&d, 2);
    expect(&d, at[1], 1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
    tell(&d, 1, VIRTIO_CONSOLE_PORT_READY, 1);
    expect(&d, at[2], 1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.test.1");
    expect(&d, at[3], 1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
    tell(&d, 0, VIRTIO_CONSOLE_PORT_READY, 1);
    expect(&d, at[4], 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL);
    expect(&d, at[5], 0, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
    /* what is not there, and a port that comes later */
    tell(&d, 2, VIRTIO_CONSOLE_PORT_READY, 1);
    tell(&d, 77, VIRTIO_CONSOLE_PORT_OPEN, 1);
    assert_int_equal(driver_used(&d, 2, NULL), -1);
    assert_int_equal(test_add(*state, &virtserialport_type, "nr=2", NULL), 0);
    expect(&d, at[6], 2, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
    tell(&d, 2, VIRTIO_CONSOLE_PORT_READY, 1);
    expect(&d, at[7], 2, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL); /* nobody is at the other end */
    device_free(test_device(*state));
    expect(&d, at[8], 2, VIRTIO_CONSOLE_PORT_REMOVE, 1, NULL);
}

static void bytes_go_both_ways(void **state)
{
    struct driver d;
    char text[200] = "";
    gpa at;

    for (enum driver_via via = 0; via < VIA_COUNT; via++) {
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
        add(&d, state, via);
        driver_start(&d, 0); /* an old driver: one port */
        at = driver_alloc(&d, 200);
        driver_put(&d, at, "to the host", 11);
        driver_do(&d, 1, (struct driver_buffer[]){{at, 3, false}, {at + 3, 8, false}}, 2);
        assert_int_equal(chardev_memory_take(host[0], text, sizeof(text)), 11);
        assert_memory_equal(text, "to the host", 11);
        /* without buffers the bytes wait */
        chardev_feed(host[0], "to the guest", 12);
        driver_add(&d, 0, (struct driver_buffer[]){{at, 5, true}}, 1);
        driver_add(&d, 0, (struct driver_buffer[]){{at + 5, 50, true}}, 1);
        driver_kick(&d, 0);
        settle(&d);
        for (unsigned i = 0; i < 2; i++) {
            uint32_t size;

            assert_true(driver_used(&d, 0, &size) >= 0);
            assert_int_equal(size, i ? 7 : 5);
        }
        driver_get(&d, at, text, 12);
        assert_memory_equal(text, "to the guest", 12);
    }
}

static void a_slow_reader_holds_the_guest(void **state)
{
    struct driver d;
    char text[200] = "", sent[100];
    struct driver_buffer b;
    size_t got;

    add(&d, state, VIA_MODERN);
    driver_start(&d, BIT(VIRTIO_CONSOLE_F_MULTIPORT));
    for (unsigned i = 0; i < sizeof(sent); i++)
        sent[i] = (char)('a' + i % 26);
    b = (struct driver_buffer){driver_alloc(&d, 100), 100, false};
    driver_put(&d, b.at, sent, 100);
    driver_add(&d, 5, &b, 1);
    driver_kick(&d, 5);
    assert_int_equal(driver_used(&d, 5, NULL), -1);
    test_save_reset_restore(d.m);
    for (got = 0; got < 96; got += 32) {
        assert_int_equal(driver_used(&d, 5, NULL), -1);
        assert_int_equal(chardev_memory_take(host[1], text + got, 100), 32);
        settle(&d);
    }
    assert_int_equal(driver_used(&d, 5, NULL), 0);
    assert_int_equal(chardev_memory_take(host[1], text + got, 100), 4);
    assert_memory_equal(text, sent, 100);
}

static void a_closed_port_takes_nothing(void **state)
{
    struct driver d;
    struct driver_buffer b;
    uint32_t size;

    add(&d, state, VIA_MODERN);
    driver_start(&d, BIT(VIRTIO_CONSOLE_F_MULTIPORT));
    b = (struct driver_buffer){driver_alloc(&d, 64), 64, true};
    driver_add(&d, 4, &b, 1);
    driver_kick(&d, 4);
    chardev_feed(host[1], "early", 5);
    settle(&d);
    assert_int_equal(driver_used(&d, 4, NULL), -1);
    tell(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
    settle(&d);
    assert_int_equal(driver_used(&d, 4, &size), 0);
    assert_int_equal(size, 5);
}

static void emergency_bytes(void **state)
{
    struct driver d;
    char c = 0;

    add(&d, state, VIA_MODERN);
    driver_set_config(&d, 8, 'x', 4);
    assert_int_equal(chardev_memory_take(host[0], &c, 1), 1);
    assert_int_equal(c, 'x');
}

static void refuses_by_name(void **state)
{
    static const struct {
        const struct device_type *type;
        const char *properties, *text;
    } bad[] = {
        {&virtserialport_type, "nr=0", "virtserialport: nr=0 is not from 1 to 2"},
        {&virtserialport_type, "nr=1", "virtserialport: nr=1 is the number of another port"},
        {&virtserialport_type, "chardev=c9",
         "virtserialport: chardev=c9: there is no chardev of this name"},
        {&virtserialport_type, "chardev=c0", "virtserialport: another port has that chardev"},
        {&virtconsole_type, "bus=other.0",
         "virtconsole: there is no virtio-serial device other.0 for it; add one before it, as in "
         "--device virtio-serial-pci"},
    };
    struct driver d;

    add(&d, state, VIA_MODERN);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct error err = {0};

        assert_int_not_equal(test_add(d.m, bad[i].type, bad[i].properties, &err), 0);
        assert_string_equal(err.text, bad[i].text);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ports_introduce_themselves),
        TEST(bytes_go_both_ways),
        TEST(a_slow_reader_holds_the_guest),
        TEST(a_closed_port_takes_nothing),
        TEST(emergency_bytes),
        TEST(refuses_by_name),
    };

    return cmocka_run_group_tests_name("virtio-console", tests, NULL, NULL);
}
