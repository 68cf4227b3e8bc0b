/*
 * img.c - `hospes img`: disk images made, described, checked, resized and mapped. convert and
 * compare are in img_convert.c.
 *
 * A command that changes an image wants its format by name, or finds it out by the content where
 * that says something; an image without any sign is raw only if -f raw says so, because what a
 * guest wrote into a raw disk must not choose its format. Commands that only read may guess.
 */
#include "cli/img.h"

#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* ---- options ----------------------------------------------------------------------------------
 */

static int set_format(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->format = value;
    return 0;
}

static int set_other_format(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->other_format = value;
    return 0;
}

static int set_options(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->options = value;
    return 0;
}

static int set_backing(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->backing = value;
    return 0;
}

static int set_backing_format(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->backing_format = value;
    return 0;
}

static int set_preallocation(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->preallocation = value;
    return 0;
}

static int set_cache(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->cache = value;
    return 0;
}

static int set_repair(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->repair = value;
    return 0;
}

static int set_snapshot_create(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->snapshot_create = value;
    return 0;
}

static int set_snapshot_apply(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->snapshot_apply = value;
    return 0;
}

static int set_snapshot_delete(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->snapshot_delete = value;
    return 0;
}

static int set_force_share(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->force_share = true;
    return 0;
}

static int set_chain(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->chain = true;
    return 0;
}

static int set_compress(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->compress = true;
    return 0;
}

static int set_no_create(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->no_create = true;
    return 0;
}

static int set_shrink(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->shrink = true;
    return 0;
}

static int set_strict(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->strict = true;
    return 0;
}

static int set_list(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->list = true;
    return 0;
}

static int set_quiet(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->quiet = true;
    return 0;
}

static int set_progress(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->progress = true;
    return 0;
}

static int set_data_file(void *target, const char *value, struct error *err)
{
    ((struct img_options *)target)->data_file = true;
    return 0;
}

static int set_output(void *target, const char *value, struct error *err)
{
    (void)err;
    ((struct img_options *)target)->json = !strcmp(value, "json");
    return 0;
}

static int set_sparse(void *target, const char *value, struct error *err)
{
    struct img_options *o = target;
    int r = block_parse_size(value, &o->sparse, err);

    if (r == 0 && o->sparse && (!is_power_of_2(o->sparse) || o->sparse < BLOCK_SECTOR))
        r = error_set(err, EINVAL, "%s is not 0 or a power of 2 from 512", value);
    return r;
}

#define HELP                                                                                       \
    {                                                                                              \
        "help", 'h', NULL, NULL, "this help", NULL                                                 \
    }
#define FORMAT                                                                                     \
    {                                                                                              \
        "format", 'f', "FORMAT", NULL, "format of the image (else by its content)", set_format     \
    }
#define SHARE                                                                                      \
    {                                                                                              \
        "force-share", 'U', NULL, NULL, "read it although it is in use", set_force_share           \
    }
#define OUTPUT                                                                                     \
    {                                                                                              \
        "output", 0, "human|json", "human|json", "for people or for programs", set_output          \
    }
#define DATA_FILE                                                                                  \
    {                                                                                              \
        "data-file", 0, NULL, NULL, "follow a qcow2's external data file", set_data_file           \
    }
#define QUIET                                                                                      \
    {                                                                                              \
        "quiet", 'q', NULL, NULL, "say nothing but errors", set_quiet                              \
    }
#define PROGRESS                                                                                   \
    {                                                                                              \
        "progress", 'p', NULL, NULL, "show progress even without a terminal", set_progress         \
    }

static const struct option_spec create_specs[] = {
    {"format", 'f', "FORMAT", NULL, "format of the new image (raw)", set_format},
    {"backing", 'b', "FILE", NULL, "what the new image is based on; only changes are stored",
     set_backing},
    {"backing-format", 'F', "FORMAT", NULL, "its format; must be given", set_backing_format},
    {"options", 'o', "NAME=VALUE,...", NULL, "of the format; -o help lists them", set_options},
    QUIET,
    HELP,
    {0},
};
static const struct option_spec info_specs[] = {
    FORMAT, SHARE,
    OUTPUT, {"backing-chain", 0, NULL, NULL, "all its backing files, too", set_chain},
    HELP,   {0},
};
static const struct option_spec check_specs[] = {
    FORMAT,
    {"repair", 'r', "leaks|all", "leaks|all", "mend lost space, or all that can be mended",
     set_repair},
    SHARE,
    OUTPUT,
    DATA_FILE,
    QUIET,
    HELP,
    {0},
};
static const struct option_spec convert_specs[] = {
    FORMAT,
    {"output-format", 'O', "FORMAT", NULL, "format of the new image (raw)", set_other_format},
    {"compress", 'c', NULL, NULL, "compress the data", set_compress},
    {"options", 'o', "NAME=VALUE,...", NULL, "of the new image's format", set_options},
    {"backing", 'B', "FILE", NULL, "the new image is based on this one", set_backing},
    {"backing-format", 'F', "FORMAT", NULL, "its format", set_backing_format},
    {"no-create", 'n', NULL, NULL, "the target exists: write into it", set_no_create},
    {"cache", 't', "MODE", "unsafe|writeback|none",
     "of the target: unsafe (default) does not wait for the disk", set_cache},
    {"sparse", 'S', "SIZE", NULL, "leave out zeros in units of SIZE (4k); 0: never", set_sparse},
    SHARE,
    DATA_FILE,
    PROGRESS,
    QUIET,
    HELP,
    {0},
};
static const struct option_spec resize_specs[] = {
    FORMAT,
    {"shrink", 0, NULL, NULL, "yes, cut off the end", set_shrink},
    {"preallocation", 0, "MODE", "off", "only off", set_preallocation},
    QUIET,
    HELP,
    {0},
};
static const struct option_spec snapshot_specs[] = {
    FORMAT,
    {"list", 'l', NULL, NULL, "list them (what is done without an option)", set_list},
    {"create", 'c', "NAME", NULL, "make one", set_snapshot_create},
    {"apply", 'a', "NAME", NULL, "the disk becomes what it was then", set_snapshot_apply},
    {"delete", 'd', "NAME", NULL, "forget one, by name or number", set_snapshot_delete},
    SHARE,
    QUIET,
    HELP,
    {0},
};
static const struct option_spec compare_specs[] = {
    FORMAT,
    {"other-format", 'F', "FORMAT", NULL, "format of the second", set_other_format},
    {"strict", 's', NULL, NULL, "the sizes must agree, too", set_strict},
    SHARE,
    DATA_FILE,
    PROGRESS,
    QUIET,
    HELP,
    {0},
};
static const struct option_spec map_specs[] = {FORMAT, SHARE, OUTPUT, DATA_FILE, HELP, {0}};

static int operand(void *target, const char *value, struct error *err)
{
    struct img_options *o = target;

    if (o->operands == ARRAY_SIZE(o->operand))
        return error_set(err, EINVAL, "'%s' is one operand too many", value);
    o->operand[o->operands++] = value;
    return 0;
}

/* ---- signals and progress ---------------------------------------------------------------------
 */

volatile sig_atomic_t img_stopped;

static void stop(int number)
{
    (void)number;
    img_stopped = 1;
}

void img_catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction a = {.sa_handler = stop, .sa_flags = SA_RESTART};

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        sigaction(numbers[i], &a, NULL);
}

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void img_progress_begin(struct img_progress *p, const struct img_options *o)
{
    *p = (struct img_progress){.shown = !o->quiet && (o->progress || isatty(STDERR_FILENO))};
    p->began = p->last = seconds_now();
}

void img_progress_show(struct img_progress *p, uint64_t done, uint64_t all)
{
    enum { WIDTH = 40 };
    double now, part = all ? (double)done / (double)all : 1;
    char bar[WIDTH + 1];

    if (!p->shown)
        return;
    now = seconds_now();
    if (now - p->last < 0.2)
        return;
    p->last = now;
    p->drawn = true;
    memset(bar, ' ', WIDTH);
    memset(bar, '=', (size_t)(part * WIDTH));
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %5.1f%%", bar, part * 100);
    if (part > 0.01)
        fprintf(stderr, "  %3.0f s left ", (now - p->began) * (1 - part) / part);
    fflush(stderr);
}

void img_progress_end(struct img_progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r%*s\r", 70, "");
}

/* ---- opening ----------------------------------------------------------------------------------
 */

struct block_node *img_open(const struct img_options *o, const char *name, const char *format,
                            unsigned flags, struct error *err)
{
    struct block_node *n;

    if (o->force_share && !(flags & BLOCK_WRITE))
        flags |= BLOCK_FORCE_SHARE;
    if (o->data_file)
        flags |= BLOCK_DATA_FILE;
    n = block_open(name, format, flags, err);
    if (n && !format && flags & BLOCK_WRITE && !strcmp(n->driver->name, "raw")) {
        error_set(err, EINVAL,
                  "'%s': the content says no format; to change it as a raw disk say -f raw", name);
        block_close(n);
        return NULL;
    }
    return n;
}

static int told(int r, const struct error *err)
{
    if (r < 0)
        log_error("%s", err->text);
    return r < 0 ? IMG_FAILED : 0;
}

static void json_text(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            printf("\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            printf("\\u%04x", *s);
        else
            putchar(*s);
    }
    putchar('"');
}

static const char *human_size(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned u = 0;

    while (v >= 1000 && u < ARRAY_SIZE(units) - 1) {
        v /= 1024;
        u++;
    }
    snprintf(out, 32, "%.3g %s", v, units[u]);
    return out;
}

/* ---- create -----------------------------------------------------------------------------------
 */

static int help_of_format(const char *format)
{
    const struct block_driver *d = block_driver_find(format);

    if (!d) {
        log_error("there is no format '%s'", format);
        return IMG_FAILED;
    }
    printf("Options of format %s:\n", d->name);
    for (const struct block_create_option *c = d->create_options; c && c->name; c++)
        printf("  %-18s %s\n", c->name, c->help);
    return 0;
}

/* A new image without a size is as large as the one it is based on. */
static int size_of_backing(const struct img_options *o, const char *name, uint64_t *size,
                           struct error *err)
{
    const char *slash = strrchr(name, '/');
    auto_free char *path = o->backing[0] == '/' || !slash
                               ? xstrdup(o->backing)
                               : xasprintf("%.*s/%s", (int)(slash - name), name, o->backing);
    struct block_node *n = block_open(path, o->backing_format, 0, err);

    if (!n)
        return error_prefix(err, -EIO, "backing file: ");
    if (!*size)
        *size = n->size;
    block_close(n);
    return 0;
}

static int img_create(const struct img_options *o)
{
    struct block_create c = {
        .backing = o->backing, .backing_format = o->backing_format, .options = o->options};
    const char *format = o->format ? o->format : "raw";
    struct error err = {0};
    char text[32];
    int r = 0;

    if (o->operands == 2)
        r = block_parse_size(o->operand[1], &c.size, &err);
    if (r == 0 && o->backing && !o->backing_format)
        r = error_set(&err, EINVAL,
                      "option -b needs -F: the format of a backing file is not guessed");
    if (r == 0 && o->backing)
        r = size_of_backing(o, o->operand[0], &c.size, &err);
    if (r == 0 && o->operands < 2 && !o->backing)
        r = error_set(&err, EINVAL, "how large? give a size after the name, as in 10G");
    if (r == 0)
        r = block_create(o->operand[0], format, &c, &err);
    if (r == 0 && !o->quiet)
        printf("'%s': %s, %s\n", o->operand[0], format, human_size(c.size, text));
    return told(r, &err);
}

/* ---- info -------------------------------------------------------------------------------------
 */

static void print_snapshots(const struct block_node *n, bool json)
{
    struct block_snapshot *list = NULL;
    unsigned count = 0;

    if (!n->driver->snapshot_list ||
        n->driver->snapshot_list((struct block_node *)n, &list, &count) < 0 || !count) {
        free(list);
        return;
    }
    if (json)
        printf(",\n    \"snapshots\": [");
    else
        printf("Snapshot list:\n%-10s%-20s%10s  %s\n", "ID", "TAG", "VM SIZE", "DATE");
    for (unsigned i = 0; i < count; i++) {
        time_t t = (time_t)list[i].date_sec;
        char date[40], size[32];
        struct tm tm;

        if (json) {
            printf("%s\n        {\"id\": ", i ? "," : "");
            json_text(list[i].id);
            printf(", \"name\": ");
            json_text(list[i].name);
            printf(", \"vm-state-size\": %llu, \"date-sec\": %llu, \"date-nsec\": %u, "
                   "\"vm-clock-sec\": %llu, \"vm-clock-nsec\": %llu}",
                   (unsigned long long)list[i].vm_state_size, (unsigned long long)list[i].date_sec,
                   list[i].date_nsec, (unsigned long long)(list[i].vm_clock_nsec / NSEC_PER_SEC),
                   (unsigned long long)(list[i].vm_clock_nsec % NSEC_PER_SEC));
            continue;
        }
        localtime_r(&t, &tm);
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        printf("%-10s%-20s%10s  %s\n", list[i].id, list[i].name,
               human_size(list[i].vm_state_size, size), date);
    }
    if (json)
        printf("\n    ]");
    free(list);
}

static void print_info(struct block_node *n, bool json)
{
    struct block_info info = {0};
    char a[32], b[32];

    if (n->driver->info)
        n->driver->info(n, &info);
    if (json) {
        printf("{\n    \"filename\": ");
        json_text(n->filename);
        printf(",\n    \"format\": \"%s\",\n    \"virtual-size\": %llu,\n    \"actual-size\": %llu,"
               "\n    \"dirty-flag\": %s",
               n->driver->name, (unsigned long long)n->size,
               (unsigned long long)block_allocated_size(n), info.dirty ? "true" : "false");
        if (info.cluster_size)
            printf(",\n    \"cluster-size\": %llu", (unsigned long long)info.cluster_size);
        if (n->backing_name) {
            printf(",\n    \"backing-filename\": ");
            json_text(n->backing_name);
        }
        if (n->backing_format) {
            printf(",\n    \"backing-filename-format\": ");
            json_text(n->backing_format);
        }
        print_snapshots(n, true);
        if (info.count)
            printf(",\n    \"format-specific\": {");
        for (unsigned i = 0; i < info.count; i++) {
            printf("%s\n        ", i ? "," : "");
            json_text(info.fact[i].name);
            printf(": ");
            json_text(info.fact[i].value);
        }
        printf("%s\n}", info.count ? "\n    }" : "");
        return;
    }
    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
           n->filename, n->driver->name, human_size(n->size, a), (unsigned long long)n->size,
           human_size(block_allocated_size(n), b));
    if (info.cluster_size)
        printf("cluster_size: %llu\n", (unsigned long long)info.cluster_size);
    if (info.dirty)
        printf("dirty: it was not closed; writing mends it\n");
    if (n->backing_name)
        printf("backing file: %s\n", n->backing_name);
    if (n->backing_format)
        printf("backing file format: %s\n", n->backing_format);
    print_snapshots(n, false);
    if (info.count)
        printf("Format specific information:\n");
    for (unsigned i = 0; i < info.count; i++)
        printf("    %s: %s\n", info.fact[i].name, info.fact[i].value);
}

static int img_info(const struct img_options *o)
{
    unsigned flags = (o->chain ? 0 : BLOCK_NO_BACKING) | BLOCK_DATA_FILE;
    struct error err = {0};
    struct block_node *n = img_open(o, o->operand[0], o->format, flags, &err);

    if (!n)
        return told(-EIO, &err);
    if (o->json && o->chain)
        printf("[\n");
    for (struct block_node *b = n; b; b = b->backing) {
        if (b != n)
            printf("%s", o->json ? ",\n" : "\n");
        print_info(b, o->json);
    }
    if (o->json)
        printf("%s\n", o->chain ? "\n]" : "");
    block_close(n);
    return 0;
}

/* ---- check ------------------------------------------------------------------------------------
 */

enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_NOT_POSSIBLE = 63 };

static void print_line(void *opaque, const char *text)
{
    (void)opaque;
    printf("%s\n", text);
}

static void print_check(const struct img_options *o, const struct block_node *n,
                        const struct block_check *c)
{
    if (o->json) {
        printf("{\n    \"filename\": ");
        json_text(n->filename);
        printf(
            ",\n    \"format\": \"%s\",\n    \"check-errors\": %llu,\n    \"corruptions\": %llu,\n"
            "    \"leaks\": %llu,\n    \"corruptions-fixed\": %llu,\n    \"leaks-fixed\": %llu,\n"
            "    \"total-clusters\": %llu,\n    \"allocated-clusters\": %llu,\n"
            "    \"compressed-clusters\": %llu,\n    \"fragmented-clusters\": %llu,\n"
            "    \"image-end-offset\": %llu\n}\n",
            n->driver->name, (unsigned long long)c->errors, (unsigned long long)c->corruptions,
            (unsigned long long)c->leaks, (unsigned long long)c->corruptions_fixed,
            (unsigned long long)c->leaks_fixed, (unsigned long long)c->clusters,
            (unsigned long long)c->allocated, (unsigned long long)c->compressed,
            (unsigned long long)c->fragmented, (unsigned long long)c->image_end);
        return;
    }
    if (o->quiet)
        return;
    if (c->corruptions_fixed || c->leaks_fixed)
        printf("Mended: %llu errors, %llu leaked clusters\n",
               (unsigned long long)c->corruptions_fixed, (unsigned long long)c->leaks_fixed);
    if (c->corruptions)
        printf("%llu errors were found on the image: data may be lost, do not write to it "
               "(hospes img check -r all mends)\n",
               (unsigned long long)c->corruptions);
    if (c->leaks)
        printf("%llu leaked clusters: space is lost, no data (hospes img check -r leaks mends)\n",
               (unsigned long long)c->leaks);
    if (c->errors)
        printf("%llu parts could not be checked\n", (unsigned long long)c->errors);
    if (!c->corruptions && !c->leaks && !c->errors)
        printf("No errors were found on the image.\n");
    if (c->clusters)
        printf("%llu/%llu = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n",
               (unsigned long long)c->allocated, (unsigned long long)c->clusters,
               (double)c->allocated * 100 / (double)c->clusters,
               c->allocated ? (double)c->fragmented * 100 / (double)c->allocated : 0,
               c->allocated ? (double)c->compressed * 100 / (double)c->allocated : 0);
    printf("Image end offset: %llu\n", (unsigned long long)c->image_end);
}

static int img_check(const struct img_options *o)
{
    unsigned flags = BLOCK_NO_BACKING | BLOCK_REPAIR | (o->repair ? BLOCK_WRITE : 0);
    struct block_check c = {.tell = o->json || o->quiet ? NULL : print_line};
    struct error err = {0};
    struct block_node *n = img_open(o, o->operand[0], o->format, flags, &err);
    int status = 0;

    if (!n)
        return told(-EIO, &err);
    if (o->repair)
        c.fix = BLOCK_FIX_LEAKS | (!strcmp(o->repair, "all") ? BLOCK_FIX_ERRORS : 0);
    if (!n->driver->check) {
        log_error("'%s': format %s has nothing to check", o->operand[0], n->driver->name);
        status = CHECK_NOT_POSSIBLE;
    } else if (block_check(n, &c, &err) < 0) {
        status = told(-EIO, &err);
    } else {
        print_check(o, n, &c);
        status = c.errors ? IMG_FAILED : c.corruptions ? CHECK_CORRUPT : c.leaks ? CHECK_LEAKS : 0;
    }
    block_close(n);
    return status;
}

/* ---- resize, snapshot, map --------------------------------------------------------------------
 */

static int img_resize(const struct img_options *o)
{
    const char *text = o->operands == 2 ? o->operand[1] : NULL;
    struct error err = {0};
    struct block_node *n;
    uint64_t size;
    char human[32];
    int r;

    if (!text)
        return told(error_set(&err, EINVAL, "to which size? as in 10G, or +2G for more"), &err);
    r = block_parse_size(text + (text[0] == '+' || text[0] == '-'), &size, &err);
    if (r < 0)
        return told(r, &err);
    n = img_open(o, o->operand[0], o->format, BLOCK_WRITE | BLOCK_UNMAP, &err);
    if (!n)
        return told(-EIO, &err);
    if (text[0] == '-' && size > n->size)
        r = error_set(&err, EINVAL, "'%s' has only %llu bytes", o->operand[0],
                      (unsigned long long)n->size);
    size = text[0] == '+' ? n->size + size : text[0] == '-' ? n->size - size : size;
    size = align_up(size, BLOCK_SECTOR);
    if (r == 0 && size < n->size && !o->shrink)
        r = error_set(&err, EINVAL,
                      "'%s' would lose its last %llu bytes; if that is meant say --shrink",
                      o->operand[0], (unsigned long long)(n->size - size));
    if (r == 0)
        r = block_resize(n, size, &err);
    if (r == 0) {
        r = block_flush(n);
        if (r < 0)
            error_set_errno(&err, -r, "cannot write '%s'", o->operand[0]);
    }
    block_close(n);
    if (r == 0 && !o->quiet)
        printf("'%s': %s\n", o->operand[0], human_size(size, human));
    return told(r, &err);
}

static int img_snapshot(const struct img_options *o)
{
    bool change = o->snapshot_create || o->snapshot_apply || o->snapshot_delete;
    unsigned flags = BLOCK_NO_BACKING | (change ? BLOCK_WRITE | BLOCK_UNMAP : 0);
    struct error err = {0};
    struct block_node *n;
    int r = 0;

    if (!!o->snapshot_create + !!o->snapshot_apply + !!o->snapshot_delete + o->list > 1)
        return told(error_set(&err, EINVAL, "only one of -l, -c, -a and -d"), &err);
    n = img_open(o, o->operand[0], o->format, flags, &err);
    if (!n)
        return told(-EIO, &err);
    if (!n->driver->snapshot_list)
        r = error_set(&err, ENOTSUP, "images of format %s have no snapshots; qcow2 has",
                      n->driver->name);
    else if (o->snapshot_create)
        r = n->driver->snapshot_create(n, o->snapshot_create, &err);
    else if (o->snapshot_apply)
        r = n->driver->snapshot_apply(n, o->snapshot_apply, &err);
    else if (o->snapshot_delete)
        r = n->driver->snapshot_delete(n, o->snapshot_delete, &err);
    else
        print_snapshots(n, false);
    block_close(n);
    return told(r, &err);
}

static bool same_run(const struct block_extent *a, const struct block_extent *b)
{
    return a->kind == b->kind && a->depth == b->depth && a->compressed == b->compressed &&
           a->file == b->file && (a->kind != BLOCK_DATA || a->offset + a->length == b->offset);
}

static void print_run(const struct img_options *o, uint64_t start, const struct block_extent *e,
                      bool first)
{
    if (o->json) {
        printf("%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"zero\": %s, \"data\": %s, "
               "\"compressed\": %s",
               first ? "[" : ",\n", (unsigned long long)start, (unsigned long long)e->length,
               e->depth, e->kind == BLOCK_ZERO ? "true" : "false",
               e->kind == BLOCK_ZERO ? "false" : "true", e->compressed ? "true" : "false");
        if (e->kind == BLOCK_DATA)
            printf(", \"offset\": %llu", (unsigned long long)e->offset);
        printf("}");
        return;
    }
    if (first)
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    if (e->kind == BLOCK_DATA)
        printf("%-#16llx%-#16llx%-#16llx%s\n", (unsigned long long)start,
               (unsigned long long)e->length, (unsigned long long)e->offset, e->file->filename);
    else if (e->kind == BLOCK_SLOW)
        printf("%-#16llx%-#16llx%-16s\n", (unsigned long long)start, (unsigned long long)e->length,
               "compressed");
}

static int img_map(const struct img_options *o)
{
    struct error err = {0};
    struct block_node *n = img_open(o, o->operand[0], o->format, 0, &err);
    struct block_extent run = {0}, e;
    uint64_t start = 0;
    bool first = true;
    int r = 0;

    if (!n)
        return told(-EIO, &err);
    img_catch_signals();
    for (uint64_t at = 0; r == 0 && at < n->size && !img_stopped; at += e.length) {
        r = block_status(n, at, n->size - at, &e);
        if (r < 0) {
            error_set_errno(&err, -r, "cannot map '%s' at byte %llu", o->operand[0],
                            (unsigned long long)at);
            break;
        }
        if (run.length && same_run(&run, &e)) {
            run.length += e.length;
            continue;
        }
        if (run.length) {
            print_run(o, start, &run, first);
            first = false;
        }
        run = e;
        start = at;
    }
    if (r == 0 && run.length)
        print_run(o, start, &run, first);
    if (o->json)
        printf("%s]\n", run.length ? "" : "[");
    block_close(n);
    return told(r, &err);
}

/* ---- the command ------------------------------------------------------------------------------
 */

static const struct verb {
    const char *name;
    int (*run)(const struct img_options *o);
    unsigned least, most; /* operands */
    const char *usage;
} verbs[] = {
    {"create", img_create, 1, 2, "FILE [SIZE]"},
    {"info", img_info, 1, 1, "FILE"},
    {"check", img_check, 1, 1, "FILE"},
    {"convert", img_convert, 2, 2, "FROM TO"},
    {"resize", img_resize, 2, 2, "FILE [+|-]SIZE"},
    {"snapshot", img_snapshot, 1, 1, "FILE"},
    {"compare", img_compare, 2, 2, "FILE FILE"},
    {"map", img_map, 1, 1, "FILE"},
};

const struct command img_commands[] = {
    {"create", "make an image", NULL, create_specs, NULL},
    {"info", "what an image is", NULL, info_specs, NULL},
    {"check", "find and mend errors; ends with 2 for errors, 3 for lost space", NULL, check_specs,
     NULL},
    {"convert", "copy an image into another format", NULL, convert_specs, NULL},
    {"resize", "change the size of a disk", NULL, resize_specs, NULL},
    {"snapshot", "snapshots inside of a qcow2 image", NULL, snapshot_specs, NULL},
    {"compare", "do two images have the same content? 0: yes, 1: no", NULL, compare_specs, NULL},
    {"map", "which parts of a disk are where", NULL, map_specs, NULL},
    {0},
};

static void usage(FILE *out)
{
    fprintf(out, "Usage: hospes img COMMAND [OPTION]... FILE...\n\nCommands:\n");
    for (const struct command *c = img_commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fprintf(out, "\nFormats:\n");
    for (unsigned i = 0; block_drivers[i]; i++)
        fprintf(out, "  %-10s %s%s\n", block_drivers[i]->name, block_drivers[i]->summary,
                block_drivers[i]->no_write ? " (read only)" : "");
    fprintf(out, "\nMore about one: hospes img COMMAND --help\n");
}

static const char *verb_name(const void *opaque, unsigned n)
{
    (void)opaque;
    return n < ARRAY_SIZE(verbs) ? verbs[n].name : NULL;
}

int command_img(int argc, char **argv)
{
    struct img_options o = {.sparse = 4096};
    const struct command *c = img_commands;
    const struct verb *v = verbs;
    struct error err = {0};
    int r;

    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? IMG_USAGE : 0;
    }
    for (; c->name && strcmp(c->name, argv[1]); c++)
        v++;
    if (!c->name) {
        const char *near = nearest_word(argv[1], verb_name, NULL);

        log_error("there is no 'hospes img %s'%s%s%s", argv[1], near ? "; did you mean '" : "",
                  near ? near : "", near ? "'?" : "; hospes img --help lists what there is");
        return IMG_USAGE;
    }
    r = options_parse(c->options, argc - 1, argv + 1, &o, operand, &err);
    if (r == 1) {
        printf("Usage: hospes img %s [OPTION]... %s\n\n%s.\n\n", v->name, v->usage, c->summary);
        options_help(c->options, true, stdout);
        return 0;
    }
    if (r == 0 && o.options && !strcmp(o.options, "help"))
        return help_of_format(o.other_format ? o.other_format : o.format ? o.format : "raw");
    if (r == 0 && (o.operands < v->least || o.operands > v->most))
        r = error_set(&err, EINVAL, "usage: hospes img %s [OPTION]... %s", v->name, v->usage);
    if (r < 0) {
        log_error("%s", err.text);
        return IMG_USAGE;
    }
    return v->run(&o);
}
