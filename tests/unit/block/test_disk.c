#include "support/unit.h"

#include "base/log.h"
#include "block/disk.h"
#include "unit/block/memory_file.h"

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[] = "/tmp/hospes-disk-XXXXXX";
static struct error err;

static char *path(const char *name)
{
    static char text[4][200];
    static unsigned n;

    n = (n + 1) % 4;
    snprintf(text[n], sizeof(text[n]), "%s/%s", folder, name);
    return text[n];
}

static void make(const char *name, const char *format, uint64_t size, const char *options)
{
    struct block_create c = {.size = size, .options = options};

    if (block_create(path(name), format, &c, &err) < 0)
        fail_msg("%s", err.text);
}

static struct disk *open_disk(const char *format, ...) __attribute__((format(printf, 1, 2)));
static struct disk *open_disk(const char *format, ...)
{
    char text[500];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    memset(&err, 0, sizeof(err));
    return disk_open(text, &err);
}

struct wait {
    struct disk_request r;
    sem_t done;
    int result;
};

static void done(struct disk_request *r, int result)
{
    struct wait *w = r->opaque;

    w->result = result;
    sem_post(&w->done);
}

static int request(struct disk *d, enum disk_op op, uint64_t offset, uint64_t length,
                   const struct iovec *iov, unsigned count, unsigned flags)
{
    struct wait w = {.r = {.op = op,
                           .offset = offset,
                           .length = length,
                           .iov = iov,
                           .iov_count = count,
                           .flags = flags,
                           .done = done,
                           .opaque = &w}};

    sem_init(&w.done, 0, 0);
    disk_submit(d, &w.r);
    sem_wait(&w.done);
    return w.result;
}

static int move(struct disk *d, enum disk_op op, uint64_t offset, void *p, size_t length)
{
    struct iovec iov = {p, length};

    return request(d, op, offset, 0, &iov, 1, 0);
}

static void moves_bytes_by_either_way(void **unused)
{
    static const char *const ways[] = {
        "aio=io_uring",        "aio=threads",  "cache=none",
        "cache=writethrough",  "cache=unsafe", "cache=directsync,aio=threads",
        "detect-zeroes=unmap",
    };
    static const char *const formats[] = {"raw", "qcow2"};
    uint8_t *out = aligned_alloc(4096, 3 * MiB), *in = aligned_alloc(4096, 3 * MiB);

    (void)unused;
    for (unsigned i = 0; i < 3 * MiB; i++)
        out[i] = (uint8_t)(i * 2654435761u >> 13);
    for (unsigned f = 0; f < ARRAY_SIZE(formats); f++)
        for (unsigned w = 0; w < ARRAY_SIZE(ways); w++) {
            struct iovec iov[3] = {{in, 4096}, {in + 8192, 1000}, {in + 4096, 3000}};
            struct disk_stats stats;
            struct disk *d;

            make("a", formats[f], 8 * MiB, NULL);
            d = open_disk("file=%s,format=%s,%s", path("a"), formats[f], ways[w]);
            if (!d && err.code == EINVAL && strstr(err.text, "O_DIRECT"))
                continue; /* a file system without it */
            if (!d)
                fail_msg("%s", err.text);
            assert_int_equal(disk_size(d), 8 * MiB);
            assert_int_equal(move(d, DISK_READ, 4 * MiB, in, 3 * MiB), 0);
            assert_true(block_is_zero(in, 3 * MiB));
            assert_int_equal(move(d, DISK_WRITE, 512, out, 3 * MiB), 0);
            assert_int_equal(move(d, DISK_WRITE, 1 * MiB + 512, out + 1 * MiB, 64 * KiB), 0);
            assert_int_equal(request(d, DISK_FLUSH, 0, 0, NULL, 0, 0), 0);
            assert_int_equal(move(d, DISK_READ, 512, in, 3 * MiB), 0);
            assert_memory_equal(in, out, 3 * MiB);
            memset(in, 0, 16384);
            assert_int_equal(request(d, DISK_READ, 512, 0, iov, 3, 0), 0);
            assert_memory_equal(in, out, 4096);
            assert_memory_equal(in + 8192, out + 4096, 1000);
            assert_memory_equal(in + 4096, out + 5096, 3000);
            assert_int_equal(move(d, DISK_WRITE, 8 * MiB - 700, out + 5, 700), 0);
            assert_int_equal(move(d, DISK_READ, 8 * MiB - 700, in, 700), 0);
            assert_memory_equal(in, out + 5, 700);
            assert_int_equal(request(d, DISK_WRITE_ZEROES, 70000, 200000, NULL, 0, DISK_UNMAP), 0);
            assert_int_equal(move(d, DISK_READ, 512, in, 3 * MiB), 0);
            assert_memory_equal(in, out, 70000 - 512);
            assert_true(block_is_zero(in + 70000 - 512, 200000));
            assert_memory_equal(in + 270000 - 512, out + 270000 - 512, 3 * MiB - 270000);
            assert_int_equal(request(d, DISK_DISCARD, 0, 2 * MiB, NULL, 0, 0), 0);
            assert_int_equal(move(d, DISK_READ, 8 * MiB - 511, in, 512), -EINVAL);
            assert_int_equal(request(d, DISK_DISCARD, 4096, UINT64_MAX, NULL, 0, 0), -EINVAL);
            disk_get_stats(d, &stats);
            assert_int_equal(stats.failed, 2);
            if (w == 0) /* where the host has io_uring at all it is used */
                print_message("# %s: %llu of %llu reads and writes went the fast way\n", formats[f],
                              (unsigned long long)stats.fast,
                              (unsigned long long)(stats.reads + stats.writes));
            if (!strcmp(ways[w], "aio=threads"))
                assert_int_equal(stats.fast, 0);
            disk_close(d);
        }
    free(in);
    free(out);
}

/* ---- many threads ---- */

/* Each has pieces of 16 KiB, the threads in turn: they share clusters of 64 KiB. */
enum { THREADS = 4, ROUNDS = 200, AREA = 4 * MiB, DEPTH = 8, UNIT = 32, UNITS = AREA / 512 / UNIT };

static uint64_t place_of(unsigned user, unsigned sector)
{
    return ((uint64_t)(sector / UNIT * THREADS + user) * UNIT + sector % UNIT) * 512;
}

struct user {
    struct disk *d;
    unsigned number;
    pthread_t thread;
};

static void *use_area(void *opaque)
{
    struct user *u = opaque;
    uint32_t *mirror = calloc(AREA / 512, 4);
    uint8_t *buffer = aligned_alloc(4096, UNIT * 512 * DEPTH);
    unsigned random = u->number * 7919 + 1;

    for (unsigned round = 1; round < ROUNDS; round++) {
        struct wait w[DEPTH];
        struct iovec iov[DEPTH];
        unsigned sector[DEPTH], count[DEPTH];
        struct disk_request *all[DEPTH];

        /* Pieces that do not overlap, all in flight at once; areas of users are interleaved. */
        for (unsigned i = 0; i < DEPTH; i++) {
            uint8_t *p = buffer + UNIT * 512 * i;
            bool write;

            random = random * 1664525 + 1013904223;
            sector[i] = (i * (UNITS / DEPTH) + (random >> 12) % (UNITS / DEPTH)) * UNIT +
                        (random >> 8) % UNIT;
            count[i] = 1 + (random >> 20) % (UNIT - sector[i] % UNIT);
            write = random >> 31;
            for (unsigned s = 0; s < count[i] && write; s++) {
                mirror[sector[i] + s] = round << 8 | u->number;
                for (unsigned k = 0; k < 512; k += 4)
                    memcpy(p + s * 512 + k, &mirror[sector[i] + s], 4);
            }
            iov[i] = (struct iovec){p, count[i] * 512};
            w[i] = (struct wait){.r = {.op = write ? DISK_WRITE : DISK_READ,
                                       .offset = place_of(u->number, sector[i]),
                                       .iov = &iov[i],
                                       .iov_count = 1,
                                       .done = done,
                                       .opaque = &w[i]}};
            sem_init(&w[i].done, 0, 0);
            all[i] = &w[i].r;
        }
        disk_submit_many(u->d, all, DEPTH);
        for (unsigned i = 0; i < DEPTH; i++) {
            sem_wait(&w[i].done);
            assert_int_equal(w[i].result, 0);
            for (unsigned s = 0; s < count[i] && w[i].r.op == DISK_READ; s++)
                for (unsigned k = 0; k < 512; k += 4)
                    assert_memory_equal(buffer + UNIT * 512 * i + s * 512 + k,
                                        &mirror[sector[i] + s], 4);
        }
        if (round % 64 == u->number)
            assert_int_equal(request(u->d, DISK_FLUSH, 0, 0, NULL, 0, 0), 0);
        if (round % 10 == 9) {
            unsigned unit = round % UNITS;

            assert_int_equal(request(u->d, DISK_WRITE_ZEROES, place_of(u->number, unit * UNIT),
                                     UNIT * 512, NULL, 0, DISK_UNMAP),
                             0);
            memset(mirror + unit * UNIT, 0, UNIT * 4);
        }
    }
    free(mirror);
    free(buffer);
    return NULL;
}

static void threads_do_not_disturb_each_other(void **unused)
{
    static const char *const options[] = {NULL, "cluster_size=4096", "cluster_size=2M"};

    (void)unused;
    for (unsigned f = 0; f < 4; f++) {
        const char *format = f ? "qcow2" : "raw";
        struct block_check c = {0};
        struct user u[THREADS];
        struct block_node *n;
        struct disk *d;

        make("t", format, THREADS * AREA, f ? options[f - 1] : NULL);
        /* O_DIRECT makes requests wait, so that they meet others half done. */
        d = open_disk("file=%s,format=%s,cache=%s", path("t"), format, f % 2 ? "none" : "unsafe");
        if (!d && strstr(err.text, "O_DIRECT"))
            d = open_disk("file=%s,format=%s", path("t"), format);
        assert_non_null(d);
        for (unsigned i = 0; i < THREADS; i++) {
            u[i] = (struct user){.d = d, .number = i};
            pthread_create(&u[i].thread, NULL, use_area, &u[i]);
        }
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(u[i].thread, NULL);
        disk_close(d);
        if (!f)
            continue;
        n = block_open(path("t"), format, 0, &err);
        assert_non_null(n);
        assert_int_equal(block_check(n, &c, &err), 0);
        assert_int_equal(c.corruptions + c.errors + c.leaks, 0);
        block_close(n);
    }
}

/* ---- the rest ---- */

static void an_image_is_used_by_one_writer(void **unused)
{
    struct disk *a, *b;

    (void)unused;
    make("l", "raw", MiB, NULL);
    a = open_disk("file=%s,format=raw", path("l"));
    assert_non_null(a);
    assert_null(open_disk("file=%s,format=raw", path("l")));
    assert_int_equal(err.code, EBUSY);
    assert_non_null(strstr(err.text, "in use by another process"));
    assert_null(open_disk("file=%s,format=raw,readonly=on", path("l")));
    assert_int_equal(err.code, EBUSY);
    b = open_disk("file=%s,format=raw,readonly=on,force-share=on", path("l"));
    assert_non_null(b);
    disk_close(b);
    disk_close(a);
    a = open_disk("file=%s,format=raw,readonly=on", path("l"));
    b = open_disk("file=%s,format=raw,readonly=on", path("l"));
    assert_non_null(a);
    assert_non_null(b);
    assert_null(open_disk("file=%s,format=raw", path("l")));
    disk_close(a);
    disk_close(b);
}

static void read_only_is(void **unused)
{
    uint8_t sector[512] = {1};
    struct disk *d;

    (void)unused;
    make("r", "qcow2", MiB, NULL);
    d = open_disk("file=%s,format=qcow2,readonly=on", path("r"));
    assert_non_null(d);
    assert_true(disk_read_only(d));
    assert_int_equal(move(d, DISK_WRITE, 0, sector, 512), -EROFS);
    assert_int_equal(request(d, DISK_DISCARD, 0, 512, NULL, 0, 0), -EROFS);
    assert_int_equal(request(d, DISK_FLUSH, 0, 0, NULL, 0, 0), 0);
    assert_int_equal(move(d, DISK_READ, 0, sector, 512), 0);
    assert_int_equal(sector[0], 0);
    disk_close(d);
}

static void snapshot_leaves_the_image_alone(void **unused)
{
    uint8_t sector[512] = {7}, other[512];
    struct disk *d;

    (void)unused;
    make("s", "raw", MiB, NULL);
    d = open_disk("file=%s,format=raw,snapshot=on", path("s"));
    if (!d)
        fail_msg("%s", err.text);
    assert_int_equal(move(d, DISK_WRITE, 1024, sector, 512), 0);
    assert_int_equal(move(d, DISK_READ, 1024, other, 512), 0);
    assert_memory_equal(sector, other, 512);
    disk_close(d);
    d = open_disk("file=%s,format=raw", path("s"));
    assert_int_equal(move(d, DISK_READ, 1024, other, 512), 0);
    assert_true(block_is_zero(other, 512));
    disk_close(d);
}

static void a_guessed_raw_disk_stays_raw(void **unused)
{
    uint8_t sector[1024] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
    struct disk *d;

    (void)unused;
    make("g", "raw", MiB, NULL);
    d = open_disk("file=%s", path("g"));
    assert_non_null(d);
    assert_int_equal(move(d, DISK_WRITE, 0, sector, 1024), -EPERM);
    assert_int_equal(move(d, DISK_WRITE, 0, sector, 3), 0);
    assert_int_equal(move(d, DISK_WRITE, 3, sector + 3, 5), -EPERM);
    assert_int_equal(move(d, DISK_WRITE, 512, sector, 512), 0);
    disk_close(d);
    d = open_disk("file=%s,format=raw", path("g"));
    assert_int_equal(move(d, DISK_WRITE, 0, sector, 1024), 0);
    disk_close(d);
    /* now it does look like one, and is refused as a damaged one */
    assert_null(open_disk("file=%s", path("g")));
    assert_non_null(strstr(err.text, "clusters of 2^0"));
}

static void throttling_limits(void **unused)
{
    struct timespec a, b;
    struct disk *d;
    uint8_t sector[512];
    double took;

    (void)unused;
    make("h", "raw", MiB, NULL);
    for (unsigned k = 0; k < 2; k++) {
        d = open_disk("file=%s,format=raw,iops=100,aio=%s", path("h"), k ? "threads" : "io_uring");
        assert_non_null(d);
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (unsigned i = 0; i < 40; i++)
            assert_int_equal(move(d, DISK_READ, 0, sector, 512), 0);
        clock_gettime(CLOCK_MONOTONIC, &b);
        took = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
        assert_true(took > 0.2 && took < 5); /* 11 at once, the others 10 ms each */
        disk_close(d);
    }
}

static void closing_cancels_what_waits(void **unused)
{
    uint8_t sector[512];
    struct iovec iov = {sector, 512};
    struct wait w[8];
    struct disk *d;
    unsigned cancelled = 0;

    (void)unused;
    make("c", "raw", MiB, NULL);
    d = open_disk("file=%s,format=raw,iops=1", path("c"));
    assert_non_null(d);
    for (unsigned i = 0; i < 8; i++) {
        w[i] = (struct wait){
            .r = {.op = DISK_READ, .iov = &iov, .iov_count = 1, .done = done, .opaque = &w[i]}};
        sem_init(&w[i].done, 0, 0);
        disk_submit(d, &w[i].r);
    }
    disk_close(d);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(sem_trywait(&w[i].done), 0);
        assert_true(w[i].result == 0 || w[i].result == -ECANCELED);
        cancelled += w[i].result == -ECANCELED;
    }
    assert_true(cancelled >= 4);
}

static uint64_t new_size;

static void note_size(void *opaque, uint64_t size)
{
    *(uint64_t *)opaque = size;
}

static void a_listener_hears_of_a_new_size(void **unused)
{
    struct disk *d;

    (void)unused;
    make("z", "qcow2", MiB, NULL);
    d = open_disk("file=%s,format=qcow2", path("z"));
    disk_on_resize(d, note_size, &new_size);
    assert_int_equal(disk_resize(d, 5 * MiB, &err), 0);
    assert_int_equal(new_size, 5 * MiB);
    assert_int_equal(disk_size(d), 5 * MiB);
    disk_close(d);
}

static void a_paused_disk_keeps_requests(void **unused)
{
    static const char *const options[] = {"aio=io_uring", "aio=threads", "iops=1000"};

    (void)unused;
    make("p", "qcow2", MiB, NULL);
    for (unsigned k = 0; k < ARRAY_SIZE(options); k++) {
        struct disk *d = open_disk("file=%s,format=qcow2,%s", path("p"), options[k]);
        uint8_t sector[5][512] = {{1}};
        struct iovec iov[5];
        struct wait w[5];
        char name[8];

        assert_non_null(d);
        disk_pause(d);
        for (unsigned i = 0; i < 5; i++) {
            iov[i] = (struct iovec){sector[i], 512};
            w[i] = (struct wait){.r = {.op = i % 2 ? DISK_READ : DISK_WRITE,
                                       .offset = i * 512,
                                       .iov = &iov[i],
                                       .iov_count = 1,
                                       .done = done,
                                       .opaque = &w[i]}};
            sem_init(&w[i].done, 0, 0);
            disk_submit(d, &w[i].r);
        }
        usleep(5000);
        for (unsigned i = 0; i < 5; i++)
            assert_int_equal(sem_trywait(&w[i].done), -1);
        snprintf(name, sizeof(name), "s%u", k);
        assert_int_equal(disk_node(d)->driver->snapshot_create(disk_node(d), name, &err), 0);
        disk_resume(d);
        for (unsigned i = 0; i < 5; i++) {
            sem_wait(&w[i].done);
            assert_int_equal(w[i].result, 0);
        }
        disk_drain(d);
        disk_close(d);
    }
}

static void options_are_checked(void **unused)
{
    static const char *const wrong[][2] = {
        {"format=raw", "a disk needs file=NAME"},
        {"file=x,cache=fast", "option cache: 'fast' is none of"},
        {"file=x,sched=on", "a disk has no option 'sched'"},
        {"file=x,readonly=maybe", "option readonly: 'maybe' is neither on nor off"},
        {"file=x,iops=many", "option iops: 'many' is not a size"},
        {"file=/nowhere/at,,all,format=raw", "cannot open '/nowhere/at,all'"},
        {"file=/dev/null,format=raw", "'/dev/null' is neither a file nor a block device"},
        {"file=json:{},format=raw", "descriptions in JSON"},
        {"file=x,force-share=on", "option force-share needs readonly=on"},
        {"x=1,,", "a disk has no option 'x'"},
        {"format", "cannot open 'format'"},
    };

    (void)unused;
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        assert_null(open_disk("%s", wrong[i][0]));
        if (!strstr(err.text, wrong[i][1]))
            fail_msg("%s: %s", wrong[i][0], err.text);
    }
}

static int group_setup(void **unused)
{
    (void)unused;
    return mkdtemp(folder) ? 0 : -1;
}

static int group_teardown(void **unused)
{
    char command[300];

    (void)unused;
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_bytes_by_either_way),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(an_image_is_used_by_one_writer),
        cmocka_unit_test(read_only_is),
        cmocka_unit_test(snapshot_leaves_the_image_alone),
        cmocka_unit_test(a_guessed_raw_disk_stays_raw),
        cmocka_unit_test(throttling_limits),
        cmocka_unit_test(closing_cancels_what_waits),
        cmocka_unit_test(a_listener_hears_of_a_new_size),
        cmocka_unit_test(a_paused_disk_keeps_requests),
        cmocka_unit_test(options_are_checked),
    };

    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests_name("disk", tests, group_setup, group_teardown);
}
