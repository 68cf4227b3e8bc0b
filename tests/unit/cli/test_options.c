/* test_options.c - what `hospes run` understands and how it refuses; the console's keys. */
#include "support/unit.h"

#include "cli/cli.h"
#include "cli/console.h"
#include "cli/options.h"

#include <errno.h>

enum { ARGS = 16 };

/* Words separated by '\n', so that values may have blanks. */
static int parse(const char *line, struct run_options *o, struct error *err)
{
    static char copy[400];
    char *argv[ARGS + 1] = {(char *)(uintptr_t) "run"}, *save = NULL;
    int argc = 1;

    assert_true(strlen(line) < sizeof(copy));
    strcpy(copy, line);
    for (char *w = strtok_r(copy, "\n", &save); w && argc < ARGS; w = strtok_r(NULL, "\n", &save))
        argv[argc++] = w;
    return run_parse(argc, argv, o, err);
}

static void defaults(void **state)
{
    struct run_options o;

    assert_int_equal(parse("vmlinuz", &o, NULL), 0);
    assert_string_equal(o.operand, "vmlinuz");
    assert_null(o.config.board); /* plan.c chooses */
    assert_string_equal(o.config.engine, "auto");
    assert_int_equal(o.config.cpus, 1);
    assert_int_equal(o.config.memory, GiB);
    assert_true(o.config.acpi && o.config.hpet);
    assert_false(o.config.no_reboot || o.config.isa_debug_exit);
    assert_null(o.config.cpu);
    assert_int_equal(o.serial_count, 1);
    assert_string_equal(o.serial[0], "stdio");
    assert_null(o.debugcon);
    assert_int_equal(o.bt.cache_size, 128 * MiB);
    assert_false(o.bt_given || o.bt.stats || o.bt.perf_map || o.bt.verify || o.bt.log_path);
}

static void of_the_translator(void **state)
{
    struct error err = {0};
    struct run_options o;

    assert_int_equal(
        parse("k\n--bt-cache\n1M\n--bt-stats\n--bt-log\nf\n--bt-perf-map\n--bt-verify", &o, NULL),
        0);
    assert_true(o.bt_given && o.bt.stats && o.bt.perf_map && o.bt.verify);
    assert_int_equal(o.bt.cache_size, MiB);
    assert_string_equal(o.bt.log_path, "f");
    assert_int_equal(parse("k\n--bt-cache\n1G", &o, NULL), 0);
    assert_int_equal(o.bt.cache_size, GiB);
    assert_int_equal(parse("k\n--bt-cache\n1025M", &o, &err), -EINVAL);
    assert_string_equal(err.text, "option --bt-cache: '1025M' is not from 1M to 1G");
    err = (struct error){0};
    assert_int_equal(parse("k\n--bt-cache\n1023K", &o, &err), -EINVAL);
}

static void everything(void **state)
{
    struct run_options o;

    assert_int_equal(parse("--cpus\n8\nk\n-m\n3G\n--append=a b\n-i\nrd\n--engine\ninterp\n"
                           "--machine\nq35\n--cpu\nmax,-avx",
                           &o, NULL),
                     0);
    assert_int_equal(o.config.cpus, 8);
    assert_int_equal(o.config.memory, UINT64_C(3) << 30);
    assert_string_equal(o.config.append, "a b");
    assert_string_equal(o.config.initrd, "rd");
    assert_string_equal(o.config.engine, "interp");
    assert_string_equal(o.config.board, "q35");
    assert_string_equal(o.config.cpu, "max,-avx");
    assert_int_equal(parse("k\n--no-reboot\n--no-acpi\n--no-hpet\n--isa-debug-exit\n--serial\n"
                           "file:log\n--serial\nnone\n--debugcon\nstdio\n--name\nx",
                           &o, NULL),
                     0);
    assert_true(o.config.no_reboot && o.config.isa_debug_exit);
    assert_false(o.config.acpi || o.config.hpet);
    assert_int_equal(o.serial_count, 2);
    assert_string_equal(o.serial[0], "file:log");
    assert_string_equal(o.debugcon, "stdio");
    assert_string_equal(o.config.name, "x");
    assert_int_equal(parse("--\n--odd-name", &o, NULL), 0);
    assert_string_equal(o.operand, "--odd-name");
    assert_int_equal(parse("--help\n--nonsense", &o, NULL), 1);
    assert_int_equal(parse("-h", &o, NULL), 1);
}

static void refusals(void **state)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"--cpus\n2", "run what? Try: hospes run IMAGE, or hospes run KERNEL --initrd FILE"},
        {"a\nb",
         "there can be one kernel or image, not 'a' and 'b'; quote what follows --append, and give "
         "more disks by --disk"},
        {"k\n--initr\nx\n--memroy\n1G", "there is no option --memroy; did you mean --memory?"},
        {"k\n--xyzzy=3", "there is no option --xyzzy; --help lists the options"},
        {"k\n-z", "there is no option -z; --help lists the options"},
        {"k\n--cpus", "option --cpus needs a value: N"},
        {"k\n-m", "option -m needs a value: SIZE"},
        {"k\n--no-acpi=yes", "option --no-acpi takes no value"},
        {"k\n--cpus\n0", "option --cpus: '0' is not a number from 1 to 255"},
        {"k\n--cpus\n2x", "option --cpus: '2x' is not a number from 1 to 255"},
        {"k\n--cpus\n-1", "option --cpus: '-1' is not a number from 1 to 255"},
        {"k\n--memory\n512", "option --memory: '512' is not a size; write a whole number and K, M, "
                             "G or T, as in 512M"},
        {"k\n--memory\n1GB", "option --memory: '1GB' is not a size; write a whole number and K, M, "
                             "G or T, as in 512M"},
        {"k\n--memory\n-1G", "option --memory: '-1G' is not a size; write a whole number and K, M, "
                             "G or T, as in 512M"},
        {"k\n--memory\n99999999999T", "option --memory: size '99999999999T' is too large"},
        {"k\n--memory\n1M", "option --memory: '1M' is not from 2M to 1T"},
        {"k\n--engine\nkvn", "option --engine: 'kvn' is none of auto|kvm|bt|interp|tcg"},
        {"k\n-e\nkvm\n--engine-check", "--engine-check is for --engine bt, not kvm"},
        {"k\n--machine\nisapc", "option --machine: 'isapc' is none of pc|q35|microvm"},
        {"k\n--serial\nfile:", "option --serial: 'file:' is none of none, stdio, file:PATH"},
        {"k\n--serial\nstdio\n--serial\nstdio",
         "only one of --serial, --debugcon and --firmware-log can be stdio"},
        {"k\n--debugcon\nstdio",
         "only one of --serial, --debugcon and --firmware-log can be stdio"},
        {"k\n-s\nnone\n-s\nnone\n-s\nnone\n-s\nnone\n-s\nnone",
         "option --serial: there are 4 serial ports"},
        {"k\n--log-level\nloud", "option --log-level: 'loud' is none of error|warning|info|debug"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct run_options o = {.config.cpus = 77};
        struct error err = {0};

        assert_true(parse(cases[i].line, &o, &err) < 0);
        assert_int_not_equal(err.code, 0);
        assert_string_equal(err.text, cases[i].text);
        assert_int_equal(o.config.cpus, 77); /* untouched on failure */
    }
}

static void sizes(void **state)
{
    uint64_t n;

    assert_int_equal(parse_size("4K", &n, NULL), 0);
    assert_int_equal(n, 4096);
    assert_int_equal(parse_size("1T", &n, NULL), 0);
    assert_int_equal(n, UINT64_C(1) << 40);
    assert_int_equal(parse_size(" 1G", &n, NULL), -EINVAL);
    assert_int_equal(parse_size("", &n, NULL), -EINVAL);
    assert_int_equal(parse_size("G", &n, NULL), -EINVAL);
    assert_int_equal(parse_size("1g", &n, NULL), -EINVAL);
    assert_int_equal(parse_size("18446744073709551615K", &n, NULL), -ERANGE);
    assert_int_equal(parse_size("99999999999999999999999K", &n, NULL), -EINVAL);
}

static void statuses(void **state)
{
    assert_int_equal(exit_status_of(END_POWEROFF, 0), 0);
    assert_int_equal(exit_status_of(END_RESET, 0), 4);
    assert_int_equal(exit_status_of(END_PANIC, 0), 6);
    assert_int_equal(exit_status_of(END_QUIT, 0), 8);
    assert_int_equal(exit_status_of(END_ERROR, 0), 10);
    assert_int_equal(exit_status_of(END_DEBUG, 1), 1);
    assert_int_equal(exit_status_of(END_DEBUG, 33), 33);
    assert_int_equal(exit_status_of(END_DEBUG, 0xff), 255);
    /* All different, and each has its line in the help. */
    for (const struct exit_meaning *a = exit_meanings; a->text; a++)
        for (const struct exit_meaning *b = a + 1; b->text; b++)
            assert_int_not_equal(a->status, b->status);
}

static void collect(void *opaque, char key)
{
    char *to = opaque;

    to[strlen(to)] = key;
}

static void keys(void **state)
{
    uint8_t data[] = "ab\1xc\1\1d\1h\1";
    char commands[8] = "";
    bool escape = false;
    size_t n = console_keys(&escape, data, sizeof(data) - 1, collect, commands);

    assert_int_equal(n, 5);
    assert_memory_equal(data, "abc\1d", 5);
    assert_string_equal(commands, "xh");
    assert_true(escape); /* the last Ctrl-A waits for its key in the next read */
    n = console_keys(&escape, (uint8_t[]){'x' - 'a' + 1, 'z'}, 2, collect, commands);
    assert_int_equal(n, 1);
    assert_string_equal(commands, "xhx"); /* Ctrl held on */
    assert_false(escape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),   cmocka_unit_test(of_the_translator),
        cmocka_unit_test(everything), cmocka_unit_test(refusals),
        cmocka_unit_test(sizes),      cmocka_unit_test(statuses),
        cmocka_unit_test(keys),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
