/*
 * run.c - `hospes run`: from a command line to a running machine and an exit status.
 */
#include "base/log.h"
#include "boards/board.h"
#include "chardev/chardev.h"
#include "cli/backends.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/plan.h"
#include "devices/devices.h"
#include "display/display.h"
#include "engine/engine.h"
#include "event/loop.h"
#include "net/net.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct exit_meaning exit_meanings[] = {
    {EXIT_OFF, "the guest switched itself off"},
    {EXIT_FAILED, "could not start: a file, a value, the host"},
    {EXIT_USAGE, "the command line is wrong"},
    {EXIT_RESET, "the guest reset, and --no-reboot was given"},
    {EXIT_PANIC, "the guest panicked (pvpanic)"},
    {EXIT_STOPPED, "the user quit (Ctrl-A x)"},
    {EXIT_INTERNAL, "the engine could not go on"},
    {-1, "2 * VALUE + 1: the guest wrote VALUE to isa-debug-exit"},
    {0, NULL},
};

int exit_status_of(enum machine_end end, int debug_code)
{
    switch (end) {
    case END_POWEROFF: return EXIT_OFF;
    case END_RESET: return EXIT_RESET;
    case END_PANIC: return EXIT_PANIC;
    case END_QUIT: return EXIT_STOPPED;
    case END_DEBUG: return debug_code & 0xff; /* odd: the device made it so */
    case END_ERROR:
    case END_NONE: break;
    }
    return EXIT_INTERNAL;
}

/* ---- options ----------------------------------------------------------------------------------
 */

#define CONFIG(target) (&((struct run_options *)(target))->config)

static int set_initrd(void *target, const char *value, struct error *err)
{
    CONFIG(target)->initrd = value;
    return 0;
}

static int set_append(void *target, const char *value, struct error *err)
{
    CONFIG(target)->append = value;
    return 0;
}

static int set_cpus(void *target, const char *value, struct error *err)
{
    uint64_t n;
    int r = parse_number(value, 1, MACHINE_MAX_CPUS, &n, err);

    if (!r)
        CONFIG(target)->cpus = (unsigned)n;
    return r;
}

static int set_memory(void *target, const char *value, struct error *err)
{
    uint64_t n;
    int r = parse_size(value, &n, err);

    if (r < 0)
        return r;
    if (n < 2 * MiB || n > UINT64_C(1) << 40)
        return error_set(err, EINVAL, "'%s' is not from 2M to 1T", value);
    CONFIG(target)->memory = n;
    return 0;
}

static int set_engine(void *target, const char *value, struct error *err)
{
    CONFIG(target)->engine = value;
    return 0;
}

static int set_machine(void *target, const char *value, struct error *err)
{
    CONFIG(target)->board = value;
    return 0;
}

static int set_cpu(void *target, const char *value, struct error *err)
{
    CONFIG(target)->cpu = value;
    return 0;
}

static int set_name(void *target, const char *value, struct error *err)
{
    CONFIG(target)->name = value;
    return 0;
}

static int set_no_reboot(void *target, const char *value, struct error *err)
{
    CONFIG(target)->no_reboot = true;
    return 0;
}

static int set_no_acpi(void *target, const char *value, struct error *err)
{
    CONFIG(target)->acpi = false;
    return 0;
}

static int set_no_hpet(void *target, const char *value, struct error *err)
{
    CONFIG(target)->hpet = false;
    return 0;
}

static int check_backend(const char *value, struct error *err)
{
    if (!strcmp(value, "none") || !strcmp(value, "stdio") ||
        (!strncmp(value, "file:", 5) && value[5]))
        return 0;
    return error_set(err, EINVAL, "'%s' is none of none, stdio, file:PATH", value);
}

static int set_serial(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;
    int r = check_backend(value, err);

    if (r < 0)
        return r;
    if (o->serial_count == ARRAY_SIZE(o->serial))
        return error_set(err, EINVAL, "there are %zu serial ports", ARRAY_SIZE(o->serial));
    o->serial[o->serial_count++] = value;
    return 0;
}

static int set_debugcon(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->debugcon = value;
    return check_backend(value, err);
}

static int set_firmware_log(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->firmware_log = value;
    return check_backend(value, err);
}

static int set_firmware(void *target, const char *value, struct error *err)
{
    if (!*value)
        return error_set(err, EINVAL, "write bios, uefi, or a file's name");
    CONFIG(target)->firmware = value;
    return 0;
}

static int set_firmware_vars(void *target, const char *value, struct error *err)
{
    CONFIG(target)->firmware_vars = value;
    return 0;
}

/* "id=NAME," and what disk_open() takes. */
static int set_drive(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->drive_count == ARRAY_SIZE(o->drives))
        return error_set(err, E2BIG, "there can be %zu drives", ARRAY_SIZE(o->drives));
    if (strncmp(value, "id=", 3) || !strchr(value, ',') || value[3] == ',')
        return error_set(err, EINVAL, "'%s' is not id=NAME,file=PATH,...", value);
    o->drives[o->drive_count++] = value;
    return 0;
}

static int set_device(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->config.device_count == ARRAY_SIZE(o->devices))
        return error_set(err, E2BIG, "there can be %zu devices", ARRAY_SIZE(o->devices));
    o->devices[o->config.device_count++] = value;
    return 0;
}

static int set_chardev(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->chardev_count == ARRAY_SIZE(o->chardevs))
        return error_set(err, E2BIG, "there can be %zu", ARRAY_SIZE(o->chardevs));
    o->chardevs[o->chardev_count++] = value;
    return 0;
}

static int set_netdev(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->netdev_count == ARRAY_SIZE(o->netdevs))
        return error_set(err, E2BIG, "there can be %zu", ARRAY_SIZE(o->netdevs));
    o->netdevs[o->netdev_count++] = value;
    return 0;
}

static int set_screenshot(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->screenshot = value;
    return 0;
}

static int set_display(void *target, const char *value, struct error *err)
{
    bool none = !strcmp(value, "none");

    if (!none && strcmp(value, "text") && strncmp(value, "vnc=", 4))
        return error_set(err, EINVAL, "'%s' is none of none, text, vnc=[HOST]:N, vnc=unix:PATH",
                         value);
    ((struct run_options *)target)->display = none ? NULL : value;
    return 0;
}

static int set_disk(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->disk_count == ARRAY_SIZE(o->disks))
        return error_set(err, E2BIG, "there can be %zu", ARRAY_SIZE(o->disks));
    o->disks[o->disk_count++] = value;
    return 0;
}

static int set_cdrom(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->cdrom = value;
    return 0;
}

static int set_net(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->net = value;
    return 0;
}

static int set_forward(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->forward_count == ARRAY_SIZE(o->forwards))
        return error_set(err, E2BIG, "there can be %zu", ARRAY_SIZE(o->forwards));
    o->forwards[o->forward_count++] = value;
    return 0;
}

static int set_share(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->share_count == ARRAY_SIZE(o->shares))
        return error_set(err, E2BIG, "there can be %zu", ARRAY_SIZE(o->shares));
    o->shares[o->share_count++] = value;
    return 0;
}

static int set_snapshot(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->snapshot = true;
    return 0;
}

static int set_user(void *target, const char *value, struct error *err)
{
    if (!*value || strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != strlen(value))
        return error_set(err, EINVAL, "'%s' is not a user name of a-z, 0-9, _, - and .", value);
    ((struct run_options *)target)->user = value;
    return 0;
}

static int set_password(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->password = value;
    return 0;
}

static int set_ssh_key(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->ssh_key = value;
    return 0;
}

/* "order=cdn,menu=on", in any order, or the letters alone. */
static int set_boot(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;
    char *save = NULL;

    free(o->boot);
    o->boot = xstrdup(value);
    for (char *word = strtok_r(o->boot, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        const char *order = strncmp(word, "order=", 6) ? NULL : word + 6;

        if (!order && !strchr(word, '='))
            order = word;
        if (order && *order && strspn(order, "acdnp") == strlen(order))
            o->config.boot_order = order;
        else if (!strcmp(word, "menu=on") || !strcmp(word, "menu=off"))
            o->config.boot_menu = word[6] == 'n';
        else
            return error_set(err, EINVAL,
                             "'%s' is neither order=LETTERS (c disk, d CD, n network) nor "
                             "menu=on or menu=off",
                             word);
    }
    return 0;
}

static int set_debug_exit(void *target, const char *value, struct error *err)
{
    CONFIG(target)->isa_debug_exit = true;
    return 0;
}

static int set_log_level(void *target, const char *value, struct error *err)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(value, names[i]))
            log_set_level((enum log_level)i);
    return 0;
}

/* The translator's. They mean nothing to other engines: run() says so. */
static struct translator_options *bt_options(void *target)
{
    ((struct run_options *)target)->bt_given = true;
    return &((struct run_options *)target)->bt;
}

static int set_engine_check(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->engine_check = true;
    bt_options(target)->check = true;
    return 0;
}

static int set_bt_cache(void *target, const char *value, struct error *err)
{
    uint64_t size;
    int r = parse_size(value, &size, err);

    if (r < 0)
        return r;
    if (size < TRANSLATOR_CACHE_MIN || size > TRANSLATOR_CACHE_MAX)
        return error_set(err, EINVAL, "'%s' is not from 1M to 1G", value);
    bt_options(target)->cache_size = size;
    return 0;
}

static int set_bt_log(void *target, const char *value, struct error *err)
{
    bt_options(target)->log_path = value;
    return 0;
}

static int set_bt_stats(void *target, const char *value, struct error *err)
{
    bt_options(target)->stats = true;
    return 0;
}

static int set_bt_perf_map(void *target, const char *value, struct error *err)
{
    bt_options(target)->perf_map = true;
    return 0;
}

static int set_bt_verify(void *target, const char *value, struct error *err)
{
    bt_options(target)->verify = true;
    return 0;
}

static int set_help_all(void *target, const char *value, struct error *err)
{
    ((struct run_options *)target)->help_all = true;
    return 0;
}

const struct option_spec run_option_specs[] = {
    {"initrd", 'i', "FILE", NULL, "initial RAM disk", set_initrd},
    {"append", 'a', "TEXT", NULL, "the kernel's command line", set_append},
    {"cpus", 'c', "N", NULL, "processors (1)", set_cpus},
    {"memory", 'm', "SIZE", NULL, "RAM, as in 512M or 2G (1G)", set_memory},
    {"engine", 'e', "NAME", "auto|kvm|bt|interp|tcg", "auto, kvm, bt, interp (auto: the best here)",
     set_engine},
    {"engine-check", 0, NULL, NULL, "compare each step of bt with interp; slow", set_engine_check,
     true},
    {"machine", 'M', "NAME", "pc|q35|microvm", "pc, q35, microvm (pc)", set_machine},
    {"cpu", 0, "MODEL", NULL, "host, max,-avx512f ...; help lists them (the engine's best)",
     set_cpu, true},
    {"name", 0, "TEXT", NULL, "the guest's name", set_name, true},
    {"serial", 's', "WHERE", NULL, "stdio, none, file:PATH; again for COM2 ... (stdio)", set_serial,
     true},
    {"debugcon", 0, "WHERE", NULL, "the same for debug port 0xe9 (none)", set_debugcon, true},
    {"disk", 'd', "FILE", NULL, "a disk; ,bus=virtio|ide|sata|scsi|nvme|usb,format=...", set_disk},
    {"cdrom", 0, "FILE", NULL, "a CD or DVD image", set_cdrom},
    {"snapshot", 0, NULL, NULL, "forget what is written to the disks", set_snapshot},
    {"net", 'n', "WHAT", NULL, "user, none, tap,ifname=...; ,model=e1000 (user)", set_net},
    {"forward", 'f', "H:G", NULL, "port H of this host leads to the guest's G", set_forward},
    {"share", 0, "DIR", NULL, "a folder of this host for the guest; ,readonly=on", set_share},
    {"user", 0, "NAME", NULL, "cloud images: make this user", set_user},
    {"password", 0, "TEXT", NULL, "cloud images: its password", set_password},
    {"ssh-key", 0, "KEY", NULL, "cloud images: a public key, or a file of them", set_ssh_key},
    {"firmware", 0, "WHAT", NULL, "bios, uefi or FILE: start it, not the kernel", set_firmware},
    {"bios", 0, "FILE", NULL, "the same as --firmware FILE", set_firmware, true},
    {"firmware-vars", 0, "FILE", NULL, "UEFI's variables (a file of your own by --name)",
     set_firmware_vars, true},
    {"firmware-log", 0, "WHERE", NULL, "what the firmware says for its developers (none)",
     set_firmware_log, true},
    {"boot", 0, "TEXT", NULL, "order=cdn (disk, CD, network), menu=on", set_boot, true},
    {"drive", 0, "TEXT", NULL, "id=NAME,file=PATH,...: a disk for a device", set_drive, true},
    {"device", 0, "TEXT", NULL, "TYPE,property=value,...: add a device", set_device, true},
    {"netdev", 0, "TEXT", NULL, "TYPE,id=ID,...: a network for netdev=; help lists them",
     set_netdev, true},
    {"display", 0, "WHAT", NULL, "none, text, vnc=[HOST]:N or vnc=unix:PATH (none)", set_display},
    {"screenshot", 0, "FILE", NULL, "the screen as PNG, when the machine ends", set_screenshot,
     true},
    {"chardev", 0, "TEXT", NULL, "null,id=ID or file,id=ID,path=FILE: for chardev=", set_chardev,
     true},
    {"no-reboot", 0, NULL, NULL, "end when the guest resets (a triple fault does)", set_no_reboot,
     true},
    {"no-acpi", 0, NULL, NULL, "offer no ACPI tables", set_no_acpi, true},
    {"no-hpet", 0, NULL, NULL, "offer no HPET", set_no_hpet, true},
    {"isa-debug-exit", 0, NULL, NULL, "the guest can end by a write to port 0xf4", set_debug_exit,
     true},
    {"bt-cache", 0, "SIZE", NULL, "room for translated code, 1M to 1G (128M)", set_bt_cache, true},
    {"bt-stats", 0, NULL, NULL, "print the translator's counters at the end", set_bt_stats, true},
    {"bt-log", 0, "FILE", NULL, "write guest and translated code side by side", set_bt_log, true},
    {"bt-perf-map", 0, NULL, NULL, "write /tmp/perf-PID.map: perf names blocks", set_bt_perf_map,
     true},
    {"bt-verify", 0, NULL, NULL, "prove each translation confined (slow)", set_bt_verify, true},
    {"log-level", 0, "LEVEL", "error|warning|info|debug", "error, warning, info, debug (info)",
     set_log_level, true},
    {"help", 'h', NULL, NULL, "this help", NULL},
    {"help-all", 0, NULL, NULL, "all options, with those for experts", set_help_all},
    {0},
};

static int set_operand(void *target, const char *value, struct error *err)
{
    struct run_options *o = target;

    if (o->operand)
        return error_set(err, EINVAL,
                         "there can be one kernel or image, not '%s' and '%s'; quote what follows "
                         "--append, and give more disks by --disk",
                         o->operand, value);
    o->operand = value;
    return 0;
}

const char *const run_examples[] = {
    "hospes run disk.qcow2 --cpus 2 --memory 2G --forward 2222:22",
    "hospes run cloud.qcow2 --user me --ssh-key ~/.ssh/id_ed25519.pub --snapshot",
    "hospes run installer.iso --disk new.qcow2 --display vnc=:1",
    "hospes run vmlinuz --initrd initrd.img --append 'console=ttyS0'",
    NULL,
};

static void help(bool all)
{
    printf("Start a virtual machine, with its serial console on this terminal.\n\n");
    for (const char *const *e = run_examples; *e; e++)
        printf("  %s\n", *e);
    putchar('\n');
    options_help(run_option_specs, all, stdout);
    if (!all)
        return;
    printf("\nKeys: Ctrl-A h tells them, Ctrl-A x quits.\n\nExit status:\n");
    for (const struct exit_meaning *e = exit_meanings; e->text; e++)
        if (e->status < 0)
            printf("  odd  %s\n", e->text);
        else
            printf("  %-4d %s\n", e->status, e->text);
}

int run_parse(int argc, char **argv, struct run_options *out, struct error *err)
{
    struct run_options o = {
        .config = {.engine = "auto", .cpus = 1, .memory = GiB, .acpi = true, .hpet = true}};
    unsigned terminals = 0;
    int r;

    translator_options_default(&o.bt);
    r = options_parse(run_option_specs, argc, argv, &o, set_operand, err);

    if (r)
        return r;
    if (o.help_all) {
        help(true);
        return RUN_GAVE_HELP;
    }
    if (o.config.cpu && !strcmp(o.config.cpu, "help"))
        return RUN_WANTS_MODELS;
    for (unsigned i = 0; i < o.config.device_count; i++)
        if (device_help(stdout, o.devices[i]))
            return RUN_GAVE_HELP;
    for (unsigned i = 0; i < o.netdev_count; i++)
        if (!strcmp(o.netdevs[i], "help")) {
            net_help(stdout);
            return RUN_GAVE_HELP;
        }
    if (!o.operand && !o.disk_count && !o.cdrom && !o.config.firmware)
        return error_set(err, EINVAL,
                         "run what? Try: hospes run IMAGE, or hospes run KERNEL --initrd FILE");
    if (!o.serial_count)
        o.serial[o.serial_count++] = o.display && !strcmp(o.display, "text") ? "none" : "stdio";
    for (unsigned i = 0; i < o.serial_count; i++)
        terminals += !strcmp(o.serial[i], "stdio");
    terminals += o.debugcon && !strcmp(o.debugcon, "stdio");
    terminals += o.firmware_log && !strcmp(o.firmware_log, "stdio");
    if (terminals > 1)
        return error_set(err, EINVAL,
                         "only one of --serial, --debugcon and --firmware-log can be stdio");
    if (terminals && o.display && !strcmp(o.display, "text"))
        return error_set(
            err, EINVAL,
            "the terminal shows the screen (--display text), so no other can be stdio");
    if (o.engine_check) {
        if (strcmp(o.config.engine, "auto") && strcmp(o.config.engine, "bt") &&
            strcmp(o.config.engine, "tcg"))
            return error_set(err, EINVAL, "--engine-check is for --engine bt, not %s",
                             o.config.engine);
        o.config.engine = "bt";
    }
    *out = o;
    return 0;
}

/* ---- running ----------------------------------------------------------------------------------
 */

struct session {
    struct machine *machine;
    struct console_actions actions;
    struct chardev *chardevs[7];
    unsigned count;
    struct backends *backends;
};

static void quit(void *opaque)
{
    machine_request_end(((struct session *)opaque)->machine, END_QUIT);
}

static void pause_or_resume(void *opaque)
{
    struct machine *m = ((struct session *)opaque)->machine;

    if (m->running) {
        machine_pause(m);
        log_info("paused; Ctrl-A p goes on");
    } else {
        log_info("running");
        machine_resume(m);
    }
}

static void press_power(void *opaque)
{
    struct machine *m = ((struct session *)opaque)->machine;

    if (m->power_button)
        m->power_button(m);
    else
        log_info("this machine has no power button; Ctrl-A x quits");
}

static void press_reset(void *opaque)
{
    machine_request_reset(((struct session *)opaque)->machine);
}

static int open_backend(struct session *s, const char *where, struct chardev **out,
                        struct error *err)
{
    int r;

    if (!where || !strcmp(where, "none"))
        return 0;
    if (!strcmp(where, "stdio"))
        r = console_open(s->machine->loop, &s->actions, out, err);
    else
        r = chardev_file(s->machine->loop, where + strlen("file:"), out, err);
    if (!r)
        s->chardevs[s->count++] = *out;
    return r;
}

static int open_backends(struct session *s, const struct run_options *o, struct error *err)
{
    struct machine_config *c = &s->machine->config;
    int r = console_catch_signals(s->machine->loop, &s->actions, err);

    for (unsigned i = 0; !r && i < o->serial_count; i++)
        r = open_backend(s, o->serial[i], &c->serial[i], err);
    if (!r)
        r = open_backend(s, o->debugcon, &c->debugcon, err);
    return r < 0 ? r : open_backend(s, o->firmware_log, &c->firmware_log, err);
}

static int run(struct session *s, const struct run_options *o, struct error *err)
{
    const struct board_type *board = board_find(o->config.board);
    const struct engine_ops *engine;
    struct chardev *terminal = NULL;
    struct error unseen = {0};
    enum machine_end end;
    char reason[200] = "";
    int r;

    engine = engine_choose(o->config.engine, reason, sizeof(reason), err);
    if (!engine)
        return -err->code;
    if (!board)
        return error_set(err, EINVAL, "there is no machine '%s'", o->config.board);
    s->machine = machine_new(&o->config, false);
    s->machine->config.devices = o->devices;
    s->actions = (struct console_actions){.opaque = s,
                                          .quit = quit,
                                          .pause = pause_or_resume,
                                          .power = press_power,
                                          .reset = press_reset};
    log_info("engine %s: %s", engine->name, reason);
    if (o->bt_given && engine != &engine_bt)
        log_warn("engine %s translates nothing: the --bt options have no effect", engine->name);
    translator_options_set(&o->bt);
    r = open_backends(s, o, err);
    if (!r && o->display && !strcmp(o->display, "text"))
        r = open_backend(s, "stdio", &terminal, err);
    if (!r)
        r = backends_open(s->machine, o, terminal, &s->backends, err);
    if (!r)
        r = machine_build(s->machine, board, engine, err);
    if (!r)
        r = machine_start(s->machine, err);
    if (r < 0)
        return r;
    end = machine_wait(s->machine);
    if (o->screenshot &&
        display_screenshot(s->machine->config.display, 0, o->screenshot, &unseen) < 0)
        log_warn("%s", unseen.text);
    if (end == END_ERROR)
        log_error("%s", s->machine->error.text);
    return exit_status_of(end, s->machine->debug_code);
}

int command_run(int argc, char **argv)
{
    struct run_options o;
    struct session s = {0};
    struct error err = {0};
    int r = run_parse(argc, argv, &o, &err), signal;

    if (r > 0) {
        if (r == RUN_WANTS_MODELS)
            cpu_model_list(stdout);
        else if (r != RUN_GAVE_HELP)
            help(false);
        return 0;
    }
    if (r < 0) {
        log_error("run: %s", err.text);
        return EXIT_USAGE;
    }
    r = plan_make(&o, &err);
    if (!r)
        r = run(&s, &o, &err);
    if (r < 0)
        log_error("%s", err.text);
    /* Devices use the back ends, and those, which write out what they hold, the machine's loop. */
    if (s.machine)
        machine_free_devices(s.machine);
    backends_free(s.backends);
    for (unsigned i = 0; i < s.count; i++)
        chardev_free(s.chardevs[i]);
    plan_free(&o);
    signal = console_close();
    machine_free(s.machine);
    if (signal) { /* die of it, so that the caller sees why */
        raise(signal);
        return 128 + signal;
    }
    return r < 0 ? EXIT_FAILED : r;
}
