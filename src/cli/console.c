/*
 * console.c - see console.h.
 *
 * The terminal must be as we found it whenever the shell or a person sees it again: at exit(), at
 * each signal that ends or stops us, and at crashes. So the saved settings are file-scope, and
 * everything a signal handler does here is async-signal-safe (tcsetattr, write, sigaction, raise).
 *
 * The ending signals only write to a pipe: the loop ends the machine in order, then console_close()
 * tells which signal it was and main() dies of it, so that our parent sees the truth.
 */
#include "cli/console.h"

#include "base/log.h"
#include "chardev/chardev.h"
#include "event/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { CTRL_A = 1, TYPED_MAX = 64 };

static struct {
    struct console_actions actions;
    struct chardev *chardev;
    struct loop *loop;
    struct loop_fd *watch;
    bool escape;
    bool have_terminal;
    struct termios saved, raw;
    atomic_bool is_raw; /* the terminal's mode now is ours */
    volatile sig_atomic_t ended_by;
    int pipe[2];
    struct sigaction old[NSIG];
    bool caught[NSIG];
} console = {.pipe = {-1, -1}};

static const int ending[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
static const int crashing[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};

/* ---- terminal modes; called from signal handlers too --------------------------------------------
 */

/* A background process that touches the terminal would be stopped: SIGTTOU is held off. */
static void set_mode(const struct termios *mode)
{
    sigset_t block, before;

    sigemptyset(&block);
    sigaddset(&block, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &block, &before);
    while (tcsetattr(STDIN_FILENO, TCSADRAIN, mode) < 0 && errno == EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void leave_raw(void)
{
    if (console.have_terminal && atomic_exchange(&console.is_raw, false))
        set_mode(&console.saved);
}

static void enter_raw(void)
{
    if (!console.have_terminal || tcgetpgrp(STDIN_FILENO) != getpgrp())
        return;
    if (!atomic_exchange(&console.is_raw, true))
        set_mode(&console.raw);
}

static void raw_log(const char *line)
{
    bool raw = console.is_raw && isatty(STDERR_FILENO);

    fprintf(stderr, "%s%s", line, raw ? "\r\n" : "\n");
}

/* ---- signals ----------------------------------------------------------------------------------
 */

static void catch (int signal, void (*handler)(int signal), int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};

    sigemptyset(&a.sa_mask);
    if (!console.caught[signal] && sigaction(signal, &a, &console.old[signal]) == 0)
        console.caught[signal] = true;
}

static void on_ending(int signal)
{
    int before = errno;
    char byte = 0;

    if (console.ended_by) { /* asked twice: do not wait for anything */
        struct sigaction plain = {.sa_handler = SIG_DFL};

        leave_raw();
        sigaction(signal, &plain, NULL);
        raise(signal);
        return;
    }
    console.ended_by = signal;
    if (write(console.pipe[1], &byte, 1) < 0)
        console.ended_by = 0; /* cannot be: the pipe is empty */
    errno = before;
}

/* Installed with SA_RESETHAND: returning repeats the fault, now with its default action. */
static void on_crash(int signal)
{
    leave_raw();
    raise(signal);
}

static void on_stop(int signal)
{
    int before = errno;

    (void)signal;
    leave_raw();
    raise(SIGSTOP);
    errno = before;
}

static void on_continue(int signal)
{
    int before = errno;

    (void)signal;
    if (console.loop)
        enter_raw();
    errno = before;
}

static void ending_read(void *opaque, uint32_t events)
{
    char byte;

    (void)events;
    (void)opaque;
    if (read(console.pipe[0], &byte, 1) == 1 && console.actions.quit)
        console.actions.quit(console.actions.opaque);
}

int console_catch_signals(struct loop *loop, const struct console_actions *actions,
                          struct error *err)
{
    console.actions = *actions;
    console.loop = loop;
    if (console.pipe[0] < 0) {
        if (pipe2(console.pipe, O_CLOEXEC | O_NONBLOCK) < 0)
            return error_set_errno(err, errno, "cannot create a pipe");
        console.watch = loop_add_fd(loop, console.pipe[0], EPOLLIN, ending_read, NULL);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(ending); i++) {
        struct sigaction now;

        /* Who was told to ignore one (nohup) goes on ignoring it. */
        if (sigaction(ending[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            continue;
        catch (ending[i], on_ending, SA_RESTART);
    }
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* ---- keys -------------------------------------------------------------------------------------
 */

static void say(const char *text)
{
    size_t size = strlen(text);

    while (size) {
        ssize_t n = write(STDERR_FILENO, text, size);

        if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            text += n;
            size -= (size_t)n;
        }
    }
}

static const char keys_help[] =
    "\r\n"
    "Ctrl-A x       quit: the machine loses its power\r\n"
    "Ctrl-A o       press the power button\r\n"
    "Ctrl-A r       reset\r\n"
    "Ctrl-A p       pause, and go on\r\n"
    "Ctrl-A w       type \"stty rows R cols C\" with this window's size\r\n"
    "Ctrl-A Ctrl-A  Ctrl-A for the guest\r\n"
    "Ctrl-A h       this help\r\n";

/* Feeding from within the filter would come back to it: done a moment later. */
static void type_size(void *opaque)
{
    struct winsize w;
    char text[TYPED_MAX];

    if (!console.chardev || opaque != console.chardev || ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0 ||
        !w.ws_row)
        return;
    snprintf(text, sizeof(text), "stty rows %u cols %u\r", w.ws_row, w.ws_col);
    chardev_feed(console.chardev, text, strlen(text));
}

static void command_key(void *opaque, char key)
{
    const struct console_actions *a = &console.actions;
    void (*action)(void *opaque) = NULL;

    (void)opaque;
    switch (key) {
    case 'x': action = a->quit; break;
    case 'p': action = a->pause; break;
    case 'o': action = a->power; break;
    case 'r': action = a->reset; break;
    case 'w': loop_post(console.loop, type_size, console.chardev); return;
    default: say(keys_help); return;
    }
    if (action)
        action(a->opaque);
}

size_t console_keys(bool *escape, uint8_t *data, size_t size,
                    void (*command)(void *opaque, char key), void *opaque)
{
    size_t kept = 0;

    for (size_t i = 0; i < size; i++) {
        uint8_t c = data[i];

        if (!*escape) {
            if (c == CTRL_A)
                *escape = true;
            else
                data[kept++] = c;
            continue;
        }
        *escape = false;
        if (c == CTRL_A)
            data[kept++] = c;
        else
            command(opaque, (char)(c < ' ' ? c + 'a' - 1 : c)); /* Ctrl may still be held */
    }
    return kept;
}

static size_t filter(void *opaque, uint8_t *data, size_t size)
{
    return console_keys(&console.escape, data, size, command_key, opaque);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static void at_exit(void)
{
    leave_raw();
}

int console_open(struct loop *loop, const struct console_actions *actions, struct chardev **out,
                 struct error *err)
{
    int r;

    if (console.chardev)
        return error_set(err, EBUSY, "the terminal can serve one port only");
    console.actions = *actions;
    console.loop = loop;
    r = chardev_fds(loop, STDIN_FILENO, STDOUT_FILENO, &console.chardev, err);
    if (r < 0)
        return r;
    *out = console.chardev;
    if (tcgetattr(STDIN_FILENO, &console.saved) < 0)
        return 0; /* no terminal: a pipe or a file */
    console.raw = console.saved;
    cfmakeraw(&console.raw);
    console.have_terminal = true;
    console.escape = false;
    chardev_set_filter(console.chardev, filter, NULL);
    log_set_sink(raw_log);
    for (unsigned i = 0; i < ARRAY_SIZE(crashing); i++)
        catch (crashing[i], on_crash, (int)(SA_RESETHAND | SA_NODEFER));
    catch (SIGTSTP, on_stop, SA_RESTART);
    catch (SIGCONT, on_continue, SA_RESTART);
    atexit(at_exit);
    enter_raw();
    return 0;
}

int console_close(void)
{
    int signal = console.ended_by;

    leave_raw();
    log_set_sink(NULL);
    for (int i = 1; i < NSIG; i++)
        if (console.caught[i]) {
            sigaction(i, &console.old[i], NULL);
            console.caught[i] = false;
        }
    loop_remove_fd(console.watch);
    console.watch = NULL;
    for (unsigned i = 0; i < 2; i++) {
        if (console.pipe[i] >= 0)
            close(console.pipe[i]);
        console.pipe[i] = -1;
    }
    console.chardev = NULL;
    console.loop = NULL;
    console.have_terminal = false;
    console.ended_by = 0;
    return signal;
}
