/*
 * image.c - see image.h. The image is opened, read, mapped, changed, checked, mended, closed and
 * opened again. Nothing may crash, and what was mended must stay good.
 */
#include "image.h"

#include "base/log.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { RECORD = 4 + BLOCK_SECTOR, FILE_LIMIT = 32 * MiB, WRITE = 1, MEND = 2 };

static void ignore(const char *line)
{
    (void)line;
}

/* Descriptors may name files beside the image: there are none. */
static void leave_the_world(void)
{
    static bool done;
    char folder[] = "/tmp/hospes-fuzz-XXXXXX";

    if (done)
        return;
    done = true;
    log_set_sink(ignore);
    if (!mkdtemp(folder) || chdir(folder) < 0 || rmdir(folder) < 0)
        abort();
}

size_t fuzz_seed(unsigned n, uint8_t *out)
{
    struct block_create c = {.size = fuzz_image.size, .filename = "seed"};
    struct memory_file f;
    struct error err = {0};
    struct block_node *file, *node;
    uint8_t data[3000];
    size_t size = 1;
    unsigned count = 0;

    leave_the_world();
    while (fuzz_image.options[count])
        count++;
    if (n >= 2 * count)
        return 0;
    c.options = fuzz_image.options[n / 2];
    memory_file_init(&f);
    file = memory_file_open(&f, BLOCK_WRITE);
    if (block_driver_find(fuzz_image.format)->create(file, &c, &err) < 0)
        abort();
    node = block_open_over(file, fuzz_image.format, BLOCK_WRITE, &err);
    if (!node)
        abort();
    memset(data, 0x5a, sizeof(data));
    if (n % 2) {
        if (block_write(node, 0, data, sizeof(data)) < 0)
            abort();
        if (node->driver->snapshot_create) /* refused where a count has one bit */
            node->driver->snapshot_create(node, "one", &err);
        block_write(node, 8192, data, sizeof(data));
    }
    block_close(node);
    out[0] = (uint8_t)(n * 3 & (WRITE | MEND));
    for (uint64_t s = 0; s < f.size / BLOCK_SECTOR && size + RECORD <= FUZZ_INPUT_MAX; s++) {
        const uint8_t *sector = f.bytes + s * BLOCK_SECTOR;

        if (block_is_zero(sector, BLOCK_SECTOR))
            continue;
        store_le(out + size, s, 4);
        memcpy(out + size + 4, sector, BLOCK_SECTOR);
        size += RECORD;
    }
    memory_file_free(&f);
    return size;
}

static void build(struct memory_file *f, const uint8_t *data, size_t size)
{
    struct block_node *n = memory_file_open(f, BLOCK_WRITE);

    for (; size >= RECORD; data += RECORD, size -= RECORD) {
        uint64_t at = load_le(data, 4) % (FILE_LIMIT / BLOCK_SECTOR) * BLOCK_SECTOR;

        if (block_write(n, at, data + 4, BLOCK_SECTOR) < 0)
            abort();
    }
    if (size > 4) /* a file that ends within a sector */
        block_write(n, load_le(data, 4) % FILE_LIMIT, data + 4, size - 4);
    block_close(n);
}

static void look(struct block_node *n)
{
    uint64_t at = 0;
    uint8_t buffer[8192];

    for (unsigned i = 0; i < 200 && at < n->size; i++) {
        struct block_extent e;

        if (block_status(n, at, n->size - at, &e) < 0)
            break;
        if (!e.length || e.length > n->size - at || e.kind == BLOCK_UNBACKED)
            abort();
        block_read(n, at, buffer, MIN(e.length, sizeof(buffer)));
        at += e.length;
    }
    if (n->size >= sizeof(buffer))
        block_read(n, n->size - sizeof(buffer), buffer, sizeof(buffer));
}

static void change(struct block_node *n)
{
    uint64_t half = align_down(n->size / 2, BLOCK_SECTOR);
    struct error err = {0};
    uint8_t buffer[5000], back[5000];

    memset(buffer, 0xa5, sizeof(buffer));
    if (n->size < 2 * sizeof(buffer))
        return;
    if (block_write(n, half, buffer, sizeof(buffer)) == 0 && block_flush(n) == 0 &&
        block_read(n, half, back, sizeof(back)) == 0 && memcmp(buffer, back, sizeof(back)))
        abort();
    block_write_zeroes(n, 100, 4000, true);
    block_discard(n, half, MIN(half, (uint64_t)MiB));
    if (n->driver->snapshot_create) {
        struct block_snapshot *list;
        unsigned count;

        if (n->driver->snapshot_list(n, &list, &count) == 0) {
            if (count) {
                char name[sizeof(list[0].name)];

                snprintf(name, sizeof(name), "%s", list[0].name);
                n->driver->snapshot_apply(n, name, &err);
                n->driver->snapshot_delete(n, name, &err);
            }
            free(list);
        }
        n->driver->snapshot_create(n, "two", &err);
    }
    block_write(n, 0, buffer, sizeof(buffer));
    if (n->driver->resize && n->size < (uint64_t)GiB)
        block_resize(n, n->size + 70000, &err);
    block_flush(n);
}

static struct block_node *open_image(struct memory_file *f, unsigned flags)
{
    struct error err = {0};
    struct block_node *n = block_open_over(memory_file_open(f, flags & BLOCK_WRITE),
                                           fuzz_image.format,
                                           flags | BLOCK_NO_BACKING | BLOCK_UNMAP, &err);

    if (!n && !err.text[0])
        abort(); /* a refusal says why */
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct block_check c = {.fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS};
    struct block_info info = {0};
    struct error err = {0};
    struct memory_file f;
    struct block_node *n;

    leave_the_world();
    if (!size)
        return 0;
    memory_file_init(&f);
    f.limit = FILE_LIMIT;
    build(&f, data + 1, size - 1);
    if (data[0] & MEND && fuzz_image.mend)
        fuzz_image.mend(&f);
    n = open_image(&f, data[0] & WRITE ? BLOCK_WRITE : 0);
    if (n) {
        look(n);
        if (n->driver->info)
            n->driver->info(n, &info);
        if (data[0] & WRITE)
            change(n);
        block_close(n);
    }
    n = open_image(&f, BLOCK_WRITE | BLOCK_REPAIR);
    if (n && n->driver->check && n->driver->snapshot_create && block_check(n, &c, &err) == 0 &&
        !c.corruptions && !c.errors && !c.leaks) {
        struct block_check again = {0};

        if (block_check(n, &again, &err) == 0 && (again.corruptions || again.leaks))
            abort();
        change(n);
        /* An image whose tables share bytes with others is consistent until they are written. */
        if (block_check(n, &again, &err) == 0 && again.corruptions && !c.corruptions_fixed)
            abort();
    } else if (n && n->driver->check) {
        block_check(n, &c, &err);
    }
    block_close(n);
    memory_file_free(&f);
    return 0;
}
