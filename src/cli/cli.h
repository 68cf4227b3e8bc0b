/*
 * cli.h - the commands of the program `hospes`, and how it ends.
 *
 * Exit statuses are even, so that isa-debug-exit's odd ones stay apart; 1 is what every program
 * says that could not do its work.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/error.h"
#include "machine/machine.h"
#include "translator/translator.h"

enum exit_status {
    EXIT_OFF = 0,       /* the guest switched itself off */
    EXIT_FAILED = 1,    /* could not start: a file, an option's value, the host */
    EXIT_USAGE = 2,     /* the command line makes no sense */
    EXIT_RESET = 4,     /* the guest reset, by a triple fault too, and --no-reboot was given */
    EXIT_PANIC = 6,     /* the guest said that it panicked (pvpanic) */
    EXIT_STOPPED = 8,   /* the user quit: Ctrl-A x */
    EXIT_INTERNAL = 10, /* the engine could not go on */
};

/* The statuses for people: a line each, for help and the manual. */
struct exit_meaning {
    int status; /* -1: the formula of isa-debug-exit */
    const char *text;
};
extern const struct exit_meaning exit_meanings[]; /* text NULL ends */

extern const char *const run_examples[]; /* command lines; NULL ends */

/* What `hospes run` understood. */
struct run_options {
    struct machine_config config;
    const char *serial[4]; /* "none", "stdio", "file:PATH"; NULL: not given */
    unsigned serial_count;
    const char *debugcon, *firmware_log;
    const char *devices[32]; /* config.device_count of them */
    const char *chardevs[16], *drives[16], *netdevs[16];
    unsigned chardev_count, drive_count, netdev_count;
    const char *display;    /* "vnc=WHERE", "text"; NULL: none */
    const char *screenshot; /* a file, when the machine ends */
    /* What plan.c makes those above from. */
    const char *operand; /* a kernel, an image, a folder */
    const char *disks[12], *forwards[16], *shares[4];
    unsigned disk_count, forward_count, share_count;
    const char *cdrom, *net, *user, *password, *ssh_key;
    bool snapshot;
    char **made; /* texts of plan.c's */
    unsigned made_count;
    int seed_fd;                  /* 0: none */
    char *boot;                   /* what config.boot_order points into; of the process */
    struct translator_options bt; /* of the engine that translates */
    bool bt_given;                /* one of them was on the command line */
    bool help_all;
    bool quiet;
    bool engine_check;
};

/* 0, one of these, or -errno with *err for a wrong command line. */
enum { RUN_WANTS_HELP = 1, RUN_WANTS_MODELS = 2, RUN_GAVE_HELP = 3 };
int run_parse(int argc, char **argv, struct run_options *out, struct error *err);
int command_run(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_img(int argc, char **argv);
/* What the status for a machine that ended is. */
int exit_status_of(enum machine_end end, int debug_code);

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command */
    const struct option_spec *options;
    const struct command *sub; /* commands of the command, ending like these; NULL: none */
};
extern const struct command commands[]; /* name NULL ends */
extern const struct command img_commands[];
int cli_main(int argc, char **argv);

#endif
