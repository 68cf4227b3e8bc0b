/* Tests of the VNC server, by libvncclient over TCP and a UNIX socket. */
#include "display/vnc.h"
#include "support/unit.h"

#include <linux/input-event-codes.h>
#include <pthread.h>
#include <rfb/rfbclient.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct source {
    struct screen *screen;
    pthread_mutex_t lock;
    uint32_t width, height, wished;
};

/* A picture that says where each pixel is. */
static void update(void *opaque, struct screen *s, bool whole)
{
    struct source *d = opaque;
    struct screen_surface *f = screen_surface(s);

    pthread_mutex_lock(&d->lock);
    screen_resize(s, d->width, d->height);
    for (uint32_t y = 0; y < f->height; y++)
        for (uint32_t x = 0; x < f->width; x++)
            f->pixels[y * f->width + x] = (x & 0xff) << 16 | (y & 0xff) << 8 | 0x5a;
    if (whole)
        screen_dirty(s, 0, 0, f->width, f->height);
    pthread_mutex_unlock(&d->lock);
}

static void wish(void *opaque, uint32_t width, uint32_t height)
{
    struct source *d = opaque;

    pthread_mutex_lock(&d->lock);
    d->wished = width << 16 | height;
    pthread_mutex_unlock(&d->lock);
}

struct taker {
    pthread_mutex_t lock;
    unsigned count;
    struct input_event event[32];
};

static void take(void *opaque, const struct input_event *e)
{
    struct taker *t = opaque;

    pthread_mutex_lock(&t->lock);
    if (t->count < ARRAY_SIZE(t->event))
        t->event[t->count++] = *e;
    pthread_mutex_unlock(&t->lock);
}

static bool took(struct taker *t, unsigned count)
{
    for (int i = 0; i < 5000; i++) {
        bool there;

        pthread_mutex_lock(&t->lock);
        there = t->count >= count;
        pthread_mutex_unlock(&t->lock);
        if (there)
            return true;
        usleep(1000);
    }
    return false;
}

static unsigned sizes;

static rfbBool allocate(rfbClient *c)
{
    sizes++;
    free(c->frameBuffer);
    c->frameBuffer = calloc((size_t)c->width * (size_t)c->height, 4);
    return c->frameBuffer != NULL;
}

static char *give_password(rfbClient *c)
{
    return strdup((const char *)rfbClientGetClientData(c, give_password));
}

static void silent(const char *format, ...)
{
}

static rfbClient *client_new(const char *password)
{
    rfbClient *c = rfbGetClient(8, 3, 4);

    rfbClientLog = rfbClientErr = silent;
    c->MallocFrameBuffer = allocate;
    c->canHandleNewFBSize = TRUE;
    c->format.redShift = 16;
    c->format.greenShift = 8;
    c->format.blueShift = 0;
    c->appData.encodingsString = "raw";
    c->GetPassword = give_password;
    rfbClientSetClientData(c, give_password, (void *)(uintptr_t)password);
    return c;
}

static rfbClient *connect_tcp(struct vnc *v, const char *password)
{
    rfbClient *c = client_new(password);

    free(c->serverHost);
    c->serverHost = strdup("127.0.0.1");
    c->serverPort = (int)vnc_port(v);
    return rfbInitClient(c, NULL, NULL) ? c : NULL; /* frees it itself */
}

static void client_end(rfbClient *c)
{
    free(c->frameBuffer);
    rfbClientCleanup(c);
}

static void serve_until(rfbClient *c, bool (*done)(rfbClient *c))
{
    for (int i = 0; i < 500 && !done(c); i++)
        if (WaitForMessage(c, 10000) > 0)
            assert_true(HandleRFBServerMessage(c));
    assert_true(done(c));
}

static bool shows_the_picture(rfbClient *c)
{
    const uint32_t *p = (const uint32_t *)(const void *)c->frameBuffer;

    return (p[0] & 0xffffff) == 0x5a &&
           (p[c->width * c->height - 1] & 0xffffff) ==
               (uint32_t)(((c->width - 1) & 0xff) << 16 | ((c->height - 1) & 0xff) << 8 | 0x5a);
}

static bool is_larger(rfbClient *c)
{
    return c->width == 400 && shows_the_picture(c);
}

struct fixture {
    struct display *display;
    struct source source;
    struct taker keys, pointer;
    struct input_sink *key_sink, *pointer_sink;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct screen_driver driver = {&f->source, update, wish};

    f->display = display_new();
    f->source.width = 320;
    f->source.height = 200;
    pthread_mutex_init(&f->source.lock, NULL);
    pthread_mutex_init(&f->keys.lock, NULL);
    pthread_mutex_init(&f->pointer.lock, NULL);
    f->source.screen = screen_add(f->display, "test", &driver);
    f->key_sink = input_sink_add(f->display,
                                 &(struct input_sink_ops){"k", &f->keys, INPUT_KEYS, take});
    f->pointer_sink = input_sink_add(
        f->display, &(struct input_sink_ops){"p", &f->pointer, INPUT_ABSOLUTE, take});
    input_sink_set_ready(f->key_sink, true);
    input_sink_set_ready(f->pointer_sink, true);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    input_sink_remove(f->key_sink);
    input_sink_remove(f->pointer_sink);
    screen_remove(f->source.screen);
    display_free(f->display);
    free(f);
    return 0;
}

static void use_client(struct fixture *f, rfbClient *c)
{
    serve_until(c, shows_the_picture);
    assert_int_equal(c->width, 320);
    /* Keys: a letter, one with shift as a German layout has it, a release by leaving. */
    SendKeyEvent(c, 'a', TRUE);
    SendKeyEvent(c, 'a', FALSE);
    SendKeyEvent(c, 0xffe1, TRUE);
    SendKeyEvent(c, 'Z', TRUE);
    assert_true(took(&f->keys, 4));
    assert_int_equal(f->keys.event[0].code, KEY_A);
    assert_true(f->keys.event[0].down);
    assert_false(f->keys.event[1].down);
    assert_int_equal(f->keys.event[2].code, KEY_LEFTSHIFT);
    assert_int_equal(f->keys.event[3].code, KEY_Y);
    SendPointerEvent(c, 319, 0, 1);
    SendPointerEvent(c, 0, 199, 1 | 8);
    assert_true(took(&f->pointer, 2));
    assert_int_equal(f->pointer.event[0].x, INPUT_RANGE - 1);
    assert_int_equal(f->pointer.event[0].y, 0);
    assert_int_equal(f->pointer.event[0].buttons, INPUT_LEFT);
    assert_int_equal(f->pointer.event[1].wheel, 1);
    assert_int_equal(f->pointer.event[1].y, INPUT_RANGE - 1);
    /* The guest changes its mode. */
    pthread_mutex_lock(&f->source.lock);
    f->source.width = 400;
    f->source.height = 300;
    pthread_mutex_unlock(&f->source.lock);
    screen_invalidate(f->source.screen);
    serve_until(c, is_larger);
    client_end(c);
    assert_true(took(&f->keys, 6));
    assert_false(f->keys.event[4].down);
    assert_false(f->keys.event[5].down);
    assert_true(took(&f->pointer, 3));
    assert_int_equal(f->pointer.event[2].buttons, 0);
}

static void a_client_sees_and_types(void **state)
{
    struct fixture *f = *state;
    struct vnc *v;
    rfbClient *c;

    assert_int_equal(vnc_open(f->display, ":0,port=0,keymap=de", &v, NULL), 0);
    c = connect_tcp(v, "");
    assert_non_null(c);
    use_client(f, c);
    vnc_free(v);
}

static void a_unix_socket_does_it_too(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char dir[] = "/tmp/hospes-vnc-XXXXXX";
    rfbClient *c = client_new("");
    struct vnc *v;

    assert_non_null(mkdtemp(dir));
    snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
    {
        auto_free char *spec = xasprintf("unix:%s,keymap=de", a.sun_path);

        assert_int_equal(vnc_open(f->display, spec, &v, NULL), 0);
    }
    assert_int_equal(vnc_port(v), 0);
    free(c->serverHost);
    c->serverHost = strdup(a.sun_path);
    c->serverPort = 0;
    assert_true(rfbInitClient(c, NULL, NULL));
    use_client(f, c);
    vnc_free(v);
    assert_int_equal(access(a.sun_path, F_OK), -1);
    rmdir(dir);
}

static void a_password_is_asked_for(void **state)
{
    struct fixture *f = *state;
    char path[] = "/tmp/hospes-password-XXXXXX";
    auto_free char *spec = NULL;
    struct error err = {0};
    struct vnc *v;
    rfbClient *c;
    int fd = mkstemp(path);

    spec = xasprintf(":0,port=0,password-file=%s", path);
    assert_int_equal(vnc_open(f->display, spec, &v, &err), -EINVAL); /* empty */
    assert_int_equal(write(fd, "secret\nx", 8), 8);
    assert_int_equal(vnc_open(f->display, spec, &v, NULL), 0);
    assert_null(connect_tcp(v, "wrong"));
    c = connect_tcp(v, "secret");
    assert_non_null(c);
    serve_until(c, shows_the_picture);
    client_end(c);
    vnc_free(v);
    close(fd);
    unlink(path);
}

static void wrong_specs_are_named(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    struct vnc *v = NULL;

    assert_int_equal(vnc_open(f->display, "1", &v, &err), -EINVAL);
    assert_int_equal(vnc_open(f->display, ":x", &v, &err), -EINVAL);
    assert_int_equal(vnc_open(f->display, ":70000", &v, &err), -EINVAL);
    assert_int_equal(vnc_open(f->display, ":0,keymap=klingon", &v, &err), -EINVAL);
    assert_non_null(strstr(err.text, "klingon"));
    assert_int_equal(vnc_open(f->display, ":0,colour=red", &v, &err), -EINVAL);
    assert_true(vnc_open(f->display, "unix:/nowhere/x", &v, &err) < 0);
    assert_int_equal(vnc_open(f->display, ":0,password-file=/nowhere/x", &v, &err), -ENOENT);
    assert_null(v);
}

static void confused_clients_are_let_go(void **state)
{
    static const char *const said[] = {"GET / HTTP/1.0\r\n\r\n", "RFB 999.999\n\xff\xff",
                                       "RFB 003.008\n\x01\x01\x07\x07\x07\xff\xff\xff\xff"};
    struct fixture *f = *state;
    struct vnc *v;
    rfbClient *c;

    assert_int_equal(vnc_open(f->display, ":0,port=0", &v, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(said); i++) {
        struct sockaddr_in a = {.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)vnc_port(v)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);

        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
        assert_true(write(fd, said[i], strlen(said[i])) > 0);
        close(fd);
    }
    c = connect_tcp(v, "");
    assert_non_null(c);
    serve_until(c, shows_the_picture);
    client_end(c);
    vnc_free(v);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_client_sees_and_types), T(a_unix_socket_does_it_too),   T(a_password_is_asked_for),
        T(wrong_specs_are_named),   T(confused_clients_are_let_go),
    };
    return cmocka_run_group_tests_name("vnc", tests, NULL, NULL);
}
