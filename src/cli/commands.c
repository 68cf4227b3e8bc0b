/*
 * commands.c - the commands there are, and those too small for a file: version, help, completion,
 * man. Completion and manual page are made from the option tables, so they cannot be out of date.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "devices/devices.h"
#include "x86/model.h"

#include <errno.h>
#include <stdio.h>

extern const struct option_spec run_option_specs[], doctor_option_specs[];

static int command_version(int argc, char **argv)
{
    printf("hospes %s\n", HOSPES_VERSION);
    return 0;
}

static const char *command_name(const void *opaque, unsigned n)
{
    return commands[n].name;
}

static void usage(FILE *out)
{
    fprintf(out, "Usage: hospes COMMAND [OPTION]...\n\nCommands:\n");
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-12s %s\n", c->name, c->summary);
    fprintf(out,
            "\nA first guest:   hospes run vmlinuz --initrd initrd.img --append console=ttyS0\n"
            "More about one:  hospes COMMAND --help\n");
}

static int command_help(int argc, char **argv)
{
    if (argc < 2) {
        usage(stdout);
        return 0;
    }
    return cli_main(3, (char *[]){argv[0], argv[1], (char[]){"--help"}, NULL});
}

static void complete_options(const struct option_spec *specs)
{
    for (; specs->name; specs++)
        printf(" --%s", specs->name);
}

static void complete_values(const struct option_spec *specs)
{
    for (; specs->name; specs++) {
        if (specs->choices) {
            printf("    --%s) words=\"", specs->name);
            for (const char *c = specs->choices; *c; c++)
                putchar(*c == '|' ? ' ' : *c);
            printf("\" ;;\n");
        } else if (specs->argument && !strcmp(specs->name, "cpu")) {
            printf("    --cpu) words=\"");
            for (unsigned n = 0; cpu_model_name(n); n++)
                printf("%s%s", n ? " " : "", cpu_model_name(n));
            printf("\" ;;\n");
        }
    }
}

static int command_completion(int argc, char **argv)
{
    printf("# bash completion for hospes: source <(hospes completion)\n"
           "_hospes() {\n  local words cur=\"${COMP_WORDS[COMP_CWORD]}\"\n"
           "  if [ \"$COMP_CWORD\" -eq 1 ]; then words=\"");
    for (const struct command *c = commands; c->name; c++)
        printf("%s%s", c == commands ? "" : " ", c->name);
    printf("\"\n  else case \"${COMP_WORDS[COMP_CWORD-1]}\" in\n");
    for (const struct command *c = commands; c->name; c++)
        if (c->options)
            complete_values(c->options);
    for (const struct command *c = commands; c->name; c++)
        if (c->sub) {
            printf("    %s) words=\"", c->name);
            for (const struct command *s = c->sub; s->name; s++)
                printf("%s%s", s == c->sub ? "" : " ", s->name);
            printf("\" ;;\n");
        }
    printf("    *) case \"$cur\" in -*) case \"${COMP_WORDS[1]}\" in\n");
    for (const struct command *c = commands; c->name; c++)
        if (c->options) {
            printf("      %s) words=\"", c->name);
            complete_options(c->options);
            printf("\" ;;\n");
        } else if (c->sub) {
            printf("      %s) case \"${COMP_WORDS[2]}\" in\n", c->name);
            for (const struct command *s = c->sub; s->name; s++) {
                printf("        %s) words=\"", s->name);
                complete_options(s->options);
                printf("\" ;;\n");
            }
            printf("        esac ;;\n");
        }
    printf("      esac ;; esac ;;\n  esac; fi\n"
           "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
           "  [ -n \"$words\" ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\n"
           "complete -o filenames -F _hospes hospes\n");
    return 0;
}

/* Text in roff: a dash that is typed is \-. */
static void roff(const char *text)
{
    for (; *text; text++)
        printf(*text == '-' ? "\\-" : *text == '\\' ? "\\e" : "%c", *text);
}

static void man_options(const struct option_spec *specs)
{
    for (const struct option_spec *s = specs; s->name; s++) {
        printf(".TP\n\\fB\\-\\-");
        roff(s->name);
        if (s->letter)
            printf("\\fR, \\fB\\-%c", s->letter);
        printf("\\fR%s%s\n", s->argument ? " " : "", s->argument ? s->argument : "");
        roff(s->help);
        putchar('\n');
    }
}

static int command_man(int argc, char **argv)
{
    printf(".TH HOSPES 1 \"\" \"hospes %s\"\n.SH NAME\nhospes \\- run virtual machines\n"
           ".SH SYNOPSIS\n.B hospes\n.I command\n[\n.I option\n\\&...]\n.SH COMMANDS\n",
           HOSPES_VERSION);
    for (const struct command *c = commands; c->name; c++) {
        printf(".TP\n.B %s\n", c->name);
        roff(c->summary);
        putchar('\n');
    }
    for (const struct command *c = commands; c->name; c++) {
        if (c->options) {
            printf(".SH OPTIONS OF %s\n", c->name);
            man_options(c->options);
        }
        for (const struct command *s = c->sub; s && s->name; s++) {
            printf(".SH OPTIONS OF %s %s\n", c->name, s->name);
            roff(s->summary);
            putchar('\n');
            man_options(s->options);
        }
    }
    printf(".SH EXAMPLES\n");
    for (const char *const *e = run_examples; *e; e++) {
        printf(".TP\n.B ");
        roff(*e);
        putchar('\n');
    }
    printf(".SH EXIT STATUS\n");
    for (const struct exit_meaning *e = exit_meanings; e->text; e++) {
        if (e->status < 0)
            printf(".TP\nodd\n");
        else
            printf(".TP\n%d\n", e->status);
        roff(e->text);
        putchar('\n');
    }
    return 0;
}

const struct command commands[] = {
    {"run", "start a disk image, a CD or a kernel in a virtual machine", command_run,
     run_option_specs, NULL},
    {"img", "make, describe, check and convert disk images", command_img, NULL, img_commands},
    {"doctor", "what this host can do, and what is missing", command_doctor, doctor_option_specs,
     NULL},
    {"version", "the version", command_version, NULL, NULL},
    {"help", "this, or the help of a command", command_help, NULL, NULL},
    {"completion", "completion for bash: source <(hospes completion)", command_completion, NULL,
     NULL},
    {"man", "the manual page, in roff: hospes man | man -l -", command_man, NULL, NULL},
    {0},
};

int cli_main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL, *near;

    device_types_register(device_types);
    if (!name) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    else if (!strcmp(name, "--version"))
        name = "version";
    for (const struct command *c = commands; c->name; c++)
        if (!strcmp(c->name, name)) {
            int status = c->run(argc - 1, argv + 1);

            if (fflush(stdout) == EOF) {
                log_error("cannot write to standard output");
                return status ? status : EXIT_FAILED;
            }
            return status;
        }
    near = nearest_word(name, command_name, NULL);
    if (near)
        log_error("there is no command '%s'; did you mean '%s'?", name, near);
    else
        log_error("there is no command '%s'; 'hospes help' lists them", name);
    return EXIT_USAGE;
}
