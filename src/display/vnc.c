/*
 * vnc.c - see vnc.h.
 *
 * The display's thread copies what changed into a shadow picture, under v->lock; our thread copies
 * that into libvncserver's frame buffer before it serves its clients. So a slow client keeps
 * nobody waiting but other clients, and those for at most CLIENT_WAIT.
 *
 * We listen ourselves (libvncserver knows no UNIX sockets) and hand each connection over. Our
 * descriptors are added to the set it waits on, so that it wakes for them.
 */
#include "display/vnc.h"

#include "base/log.h"
#include "display/keymap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <rfb/rfb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CLIENT_WAIT = 1000, /* milliseconds for a client that stopped in the middle of a message */
    CLIENTS = 16,
    FRAME_MSEC = 33,
    RECTS = 64,
    PASSWORD = 8,
};

struct vnc {
    struct display *display;
    struct display_watch *watch;
    unsigned number;
    const struct keymap *keymap;
    char *unlink_path;
    char password[PASSWORD + 1];
    char *passwords[2];
    int listener, wake;
    unsigned port;
    pthread_t thread;
    bool thread_started;
    atomic_bool stop;

    pthread_mutex_t lock; /* guards the shadow */
    uint32_t *shadow;
    uint32_t width, height;
    struct screen_rect rect[RECTS];
    unsigned rects;
    bool resized;

    /* the thread's */
    rfbScreenInfoPtr rfb;
    uint32_t *frame;
    unsigned clients;
};

static void wake(struct vnc *v)
{
    uint64_t one = 1;

    while (write(v->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- what the display tells: on its thread -----------------------------------------------------
 */

static void copy_rect(uint32_t *to, uint32_t to_width, const uint32_t *from, uint32_t from_stride,
                      struct screen_rect r)
{
    for (uint32_t y = r.y; y < r.y + r.height; y++)
        memcpy(to + (size_t)y * to_width + r.x,
               (const uint8_t *)from + (size_t)y * from_stride + r.x * 4u, r.width * 4u);
}

static void resized(void *opaque, const struct screen_surface *s)
{
    struct vnc *v = opaque;
    uint32_t *shadow = calloc((size_t)s->width * s->height, 4);

    if (!shadow)
        return;
    pthread_mutex_lock(&v->lock);
    free(v->shadow);
    v->shadow = shadow;
    v->width = s->width;
    v->height = s->height;
    v->resized = true;
    v->rects = 0;
    pthread_mutex_unlock(&v->lock);
}

static void changed(void *opaque, const struct screen_surface *s, const struct screen_rect *rects,
                    unsigned count)
{
    struct vnc *v = opaque;

    pthread_mutex_lock(&v->lock);
    if (v->shadow && v->width == s->width && v->height == s->height)
        for (unsigned i = 0; i < count; i++) {
            copy_rect(v->shadow, v->width, s->pixels, s->stride, rects[i]);
            if (v->rects == RECTS)
                v->rect[v->rects = 0] = (struct screen_rect){0, 0, v->width, v->height};
            else
                v->rect[v->rects] = rects[i];
            v->rects++;
        }
    pthread_mutex_unlock(&v->lock);
    wake(v);
}

/* ---- what clients do: on our thread ------------------------------------------------------------
 */

static void key_event(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    unsigned code = keymap_code(v->keymap, keysym, NULL, NULL);

    if (code)
        input_key(v->display, code, down);
    else
        log_debug("vnc: no key has the symbol 0x%x", (unsigned)keysym);
}

static void release_keys(rfbClientPtr client)
{
    input_release_all(((struct vnc *)client->screen->screenData)->display);
}

static void pointer_event(int mask, int x, int y, rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;
    uint8_t buttons = 0;
    unsigned was = (unsigned)(uintptr_t)client->clientData, pressed = (unsigned)mask & ~was;
    int wheel = !!(pressed & 8) - !!(pressed & 16), hwheel = !!(pressed & 64) - !!(pressed & 32);

    client->clientData = (void *)(uintptr_t)(unsigned)mask;
    buttons |= mask & 1 ? INPUT_LEFT : 0;
    buttons |= mask & 2 ? INPUT_MIDDLE : 0;
    buttons |= mask & 4 ? INPUT_RIGHT : 0;
    buttons |= mask & 128 ? INPUT_SIDE : 0;
    input_pointer(v->display, (uint32_t)MAX(x, 0), (uint32_t)MAX(y, 0),
                  (uint32_t)client->screen->width, (uint32_t)client->screen->height, buttons, wheel,
                  hwheel);
    rfbDefaultPtrAddEvent(mask, x, y, client);
}

static int wish_size(int width, int height, int screens, struct rfbExtDesktopScreen *list,
                     rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;

    if (screens != 1)
        return rfbExtDesktopSize_InvalidScreenLayout;
    display_wish_size(v->display, v->number, (uint32_t)width, (uint32_t)height);
    return width == client->screen->width && height == client->screen->height
               ? rfbExtDesktopSize_Success
               : rfbExtDesktopSize_ResizeProhibited; /* it may happen later, by the guest */
}

static void client_gone(rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;

    input_release_all(v->display);
    if (!--v->clients)
        display_set_interval(v->watch, 0);
}

static enum rfbNewClientAction new_client(rfbClientPtr client)
{
    struct vnc *v = client->screen->screenData;

    client->clientGoneHook = client_gone;
    if (!v->clients++)
        display_set_interval(v->watch, FRAME_MSEC);
    return v->clients > CLIENTS ? RFB_CLIENT_REFUSE : RFB_CLIENT_ACCEPT;
}

/* ---- our thread --------------------------------------------------------------------------------
 */

static void take_shadow(struct vnc *v)
{
    struct screen_rect rect[RECTS];
    uint32_t *old = NULL;
    unsigned rects;

    pthread_mutex_lock(&v->lock);
    if (v->resized) {
        uint32_t *frame = malloc((size_t)v->width * v->height * 4);

        if (frame) {
            memcpy(frame, v->shadow, (size_t)v->width * v->height * 4);
            old = v->frame;
            v->frame = frame;
            v->resized = false;
            v->rects = 0;
            rfbNewFramebuffer(v->rfb, (char *)frame, (int)v->width, (int)v->height, 8, 3, 4);
            /* It sets the default pixel format: ours has red above. */
            v->rfb->serverFormat.redShift = 16;
            v->rfb->serverFormat.greenShift = 8;
            v->rfb->serverFormat.blueShift = 0;
        }
    }
    rects = v->resized ? 0 : v->rects;
    for (unsigned i = 0; i < rects; i++) {
        rect[i] = v->rect[i];
        copy_rect(v->frame, v->width, v->shadow, v->width * 4, rect[i]);
    }
    v->rects = 0;
    pthread_mutex_unlock(&v->lock);
    free(old);
    for (unsigned i = 0; i < rects; i++)
        rfbMarkRectAsModified(v->rfb, (int)rect[i].x, (int)rect[i].y,
                              (int)(rect[i].x + rect[i].width), (int)(rect[i].y + rect[i].height));
}

static bool is_ready(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, 0) > 0;
}

static void *vnc_thread(void *opaque)
{
    struct vnc *v = opaque;
    uint64_t count;

    pthread_setname_np(pthread_self(), "vnc");
    while (!v->stop) {
        rfbProcessEvents(v->rfb, 1000000);
        if (is_ready(v->wake) && read(v->wake, &count, sizeof(count)) < 0)
            continue;
        if (is_ready(v->listener)) {
            int fd = accept4(v->listener, NULL, NULL, SOCK_CLOEXEC);

            if (fd >= FD_SETSIZE)
                close(fd);
            else if (fd >= 0)
                rfbNewClient(v->rfb, fd); /* closes it where it fails */
            /* Its closing of clients takes descriptors out of the set; ours stay. */
            v->rfb->maxFd = MAX(v->rfb->maxFd, MAX(v->listener, v->wake));
        }
        take_shadow(v);
    }
    return NULL;
}

/* ---- opening -----------------------------------------------------------------------------------
 */

static void quiet(const char *format, ...)
{
    char line[300];
    va_list list;

    va_start(list, format);
    vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    line[strcspn(line, "\n")] = '\0';
    log_debug("vnc: %s", line);
}

static int read_password(struct vnc *v, const char *path, struct error *err)
{
    char line[64] = "";
    FILE *f = fopen(path, "re");
    bool got;

    if (!f)
        return error_set_errno(err, errno, "password-file=%s", path);
    got = fgets(line, sizeof(line), f) != NULL;
    fclose(f);
    line[strcspn(line, "\r\n")] = '\0';
    if (!got || !*line || strlen(line) > PASSWORD)
        return error_set(err, EINVAL,
                         "password-file=%s: its first line must have 1 to %d letters "
                         "(VNC looks at no more)",
                         path, PASSWORD);
    memcpy(v->password, line, strlen(line) + 1);
    v->passwords[0] = v->password;
    return 0;
}

static int listen_unix(struct vnc *v, const char *path, struct error *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;

    if (!*path || strlen(path) >= sizeof(a.sun_path))
        return error_set(err, EINVAL, "path '%s' of a UNIX socket must have 1 to %zu letters", path,
                         sizeof(a.sun_path) - 1);
    memcpy(a.sun_path, path, strlen(path));
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
        unlink(path);
    v->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (v->listener < 0 || bind(v->listener, (struct sockaddr *)&a, sizeof(a)) < 0)
        return error_set_errno(err, errno, "cannot listen at '%s'", path);
    v->unlink_path = xstrdup(path);
    chmod(path, 0600); /* whoever may open it sees and types */
    return listen(v->listener, 4) < 0 ? error_set_errno(err, errno, "'%s'", path) : 0;
}

static int listen_tcp(struct vnc *v, const char *host, unsigned port, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    struct sockaddr_storage bound;
    socklen_t size = sizeof(bound);
    char service[8];
    int one = 1, r;

    snprintf(service, sizeof(service), "%u", port);
    r = getaddrinfo(*host ? host : "127.0.0.1", service, &hints, &list);
    if (r)
        return error_set(err, EINVAL, "host '%s': %s", host, gai_strerror(r));
    v->listener = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = 0;
    if (v->listener >= 0)
        setsockopt(v->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (v->listener < 0 || bind(v->listener, list->ai_addr, list->ai_addrlen) < 0 ||
        listen(v->listener, 4) < 0 ||
        getsockname(v->listener, (struct sockaddr *)&bound, &size) < 0)
        r = error_set_errno(err, errno, "cannot listen at port %u of '%s'", port, host);
    freeaddrinfo(list);
    if (!r)
        v->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                    : ((struct sockaddr_in *)&bound)->sin_port);
    if (!r && !v->passwords[0] && *host && strcmp(host, "localhost") && strncmp(host, "127.", 4) &&
        strcmp(host, "::1"))
        log_warn("vnc: whoever reaches port %u of %s sees and types: there is no password", v->port,
                 host);
    return r;
}

static int parse_number(const char *text, unsigned long most, unsigned long *out)
{
    char *end;

    *out = strtoul(text, &end, 10);
    return *text < '0' || *text > '9' || *end || *out > most ? -EINVAL : 0;
}

/* The words behind the first; then listen where the first says. */
static int vnc_configure(struct vnc *v, char *spec, struct error *err)
{
    char *save = NULL, *where = strtok_r(spec, ",", &save), *word, *colon;
    unsigned long display = 0, port = 0, screen = 0;
    bool have_port = false;
    int r = 0;

    while (!r && (word = strtok_r(NULL, ",", &save))) {
        if (!strncmp(word, "password-file=", 14)) {
            r = read_password(v, word + 14, err);
        } else if (!strncmp(word, "keymap=", 7)) {
            v->keymap = keymap_find(word + 7);
            if (!v->keymap)
                r = error_set(err, EINVAL, "there is no keymap '%s'; there are %s", word + 7,
                              keymap_names());
        } else if (!strncmp(word, "screen=", 7) && !parse_number(word + 7, 15, &screen)) {
            v->number = (unsigned)screen;
        } else if (!strncmp(word, "port=", 5) && !parse_number(word + 5, 65535, &port)) {
            have_port = true;
        } else {
            r = error_set(err, EINVAL,
                          "'%s' is none of password-file=FILE, keymap=NAME, screen=N, "
                          "port=N",
                          word);
        }
    }
    if (r < 0)
        return r;
    if (where && !strncmp(where, "unix:", 5))
        return listen_unix(v, where + 5, err);
    colon = where ? strrchr(where, ':') : NULL;
    if (!colon || (colon[1] && parse_number(colon + 1, 59635, &display) < 0) ||
        (!colon[1] && !have_port))
        return error_set(err, EINVAL, "'%s' is neither [HOST]:N nor unix:PATH", where ? where : "");
    *colon = '\0';
    return listen_tcp(v, where, have_port ? (unsigned)port : 5900 + (unsigned)display, err);
}

static int vnc_start(struct vnc *v, struct error *err)
{
    const struct display_listener listener = {.opaque = v, .resized = resized, .changed = changed};
    int r;

    v->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (v->wake < 0)
        return error_set_errno(err, errno, "cannot create an eventfd");
    if (v->wake >= FD_SETSIZE || v->listener >= FD_SETSIZE)
        return error_set(err, EMFILE, "libvncserver cannot use descriptors from %d on", FD_SETSIZE);
    rfbLog = rfbErr = quiet;
    v->frame = calloc(640 * 480, 4);
    v->rfb = rfbGetScreen(NULL, NULL, 640, 480, 8, 3, 4);
    if (!v->rfb || !v->frame)
        return error_set(err, ENOMEM, "libvncserver did not start");
    v->rfb->frameBuffer = (char *)v->frame;
    v->rfb->serverFormat.redShift = 16;
    v->rfb->serverFormat.greenShift = 8;
    v->rfb->serverFormat.blueShift = 0;
    v->rfb->screenData = v;
    v->rfb->desktopName = "Hospes";
    v->rfb->port = v->rfb->ipv6port = 0; /* it does not listen */
    v->rfb->autoPort = FALSE;
    v->rfb->alwaysShared = TRUE;
    v->rfb->maxClientWait = CLIENT_WAIT;
    v->rfb->deferUpdateTime = 0;
    v->rfb->cursor = NULL;
    v->rfb->kbdAddEvent = key_event;
    v->rfb->kbdReleaseAllKeys = release_keys;
    v->rfb->ptrAddEvent = pointer_event;
    v->rfb->newClientHook = new_client;
    v->rfb->setDesktopSizeHook = wish_size;
    v->rfb->permitFileTransfer = FALSE;
    if (v->passwords[0]) {
        v->rfb->authPasswdData = v->passwords;
        v->rfb->passwordCheck = rfbCheckPasswordByList;
    }
    rfbInitServer(v->rfb);
    FD_SET(v->wake, &v->rfb->allFds);
    FD_SET(v->listener, &v->rfb->allFds);
    v->rfb->maxFd = MAX(v->rfb->maxFd, MAX(v->listener, v->wake));
    v->watch = display_watch(v->display, v->number, &listener);
    r = pthread_create(&v->thread, NULL, vnc_thread, v);
    if (r)
        return error_set_errno(err, r, "cannot start a thread");
    v->thread_started = true;
    return 0;
}

int vnc_open(struct display *d, const char *spec, struct vnc **out, struct error *err)
{
    auto_free char *words = xstrdup(spec);
    struct vnc *v = xcalloc(1, sizeof(*v));
    int r;

    v->display = d;
    v->keymap = keymap_find("en-us");
    v->listener = v->wake = -1;
    pthread_mutex_init(&v->lock, NULL);
    r = vnc_configure(v, words, err);
    r = r ? r : vnc_start(v, err);
    if (r < 0) {
        vnc_free(v);
        return error_prefix(err, r, "vnc: ");
    }
    *out = v;
    return 0;
}

void vnc_free(struct vnc *v)
{
    if (!v)
        return;
    if (v->thread_started) {
        v->stop = true;
        wake(v);
        pthread_join(v->thread, NULL);
    }
    if (v->rfb) {
        rfbShutdownServer(v->rfb, TRUE);
        rfbScreenCleanup(v->rfb);
    }
    display_unwatch(v->watch);
    if (v->listener >= 0)
        close(v->listener);
    if (v->wake >= 0)
        close(v->wake);
    if (v->unlink_path)
        unlink(v->unlink_path);
    free(v->unlink_path);
    free(v->frame);
    free(v->shadow);
    explicit_bzero(v->password, sizeof(v->password));
    pthread_mutex_destroy(&v->lock);
    free(v);
}

unsigned vnc_port(const struct vnc *v)
{
    return v->port;
}
