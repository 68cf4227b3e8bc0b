/*
 * test_seed.c - the seed disk of cloud images: a FAT volume CIDATA whose files are read back here
 * by a reader of FAT that follows the chains.
 */
#include "support/unit.h"

#include "base/util.h"
#include "cli/seed.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint8_t disk[720 * 512];

static void make(const struct seed *s)
{
    struct error err = {0};
    int fd = seed_make(s, &err);

    if (fd < 0)
        fail_msg("%s", err.text);
    assert_int_equal(pread(fd, disk, sizeof(disk), 0), (ssize_t)sizeof(disk));
    close(fd);
}

/* The content of the file with this long name; it may have one or two long entries. */
static char *content_of(const char *name)
{
    static const uint8_t place[13] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    unsigned sectors = (unsigned)load_le(disk + 22, 2), roots = (unsigned)load_le(disk + 17, 2);
    const uint8_t *fat = disk + 512, *root = disk + 512 * (1 + 2 * sectors);
    char found[64] = "";

    assert_memory_equal(fat, fat + 512 * sectors, 512 * sectors);
    for (unsigned i = 0; i < roots; i++) {
        const uint8_t *e = root + 32 * i;
        unsigned cluster = (unsigned)load_le(e + 26, 2), size = (unsigned)load_le(e + 28, 4);
        char *content;

        if (e[11] == 0x0f) {
            if (e[0] & 0x40)
                memset(found, 0, sizeof(found));
            for (unsigned k = 0; k < 13; k++)
                if (load_le(e + place[k], 2) < 0x80)
                    found[((e[0] & 0x3fu) - 1) * 13 + k] = (char)e[place[k]];
            continue;
        }
        if (!(e[11] & 0x20) || strcmp(found, name))
            continue;
        content = xcalloc(1, size + 1);
        for (unsigned done = 0; done < size; done += 512) {
            unsigned pair;

            assert_in_range(cluster, 2, 0xfef);
            memcpy(content + done, root + 32 * roots + (cluster - 2) * 512, MIN(size - done, 512u));
            pair = (unsigned)load_le(fat + cluster * 3 / 2, 2);
            cluster = cluster & 1 ? pair >> 4 : pair & 0xfff;
        }
        assert_true(cluster >= 0xff8); /* the end, no sooner and no later */
        return content;
    }
    fail_msg("there is no file %s", name);
    return NULL;
}

static json_t *user_data(void)
{
    char *content = content_of("user-data");
    json_t *config;

    assert_int_equal(strncmp(content, "#cloud-config\n", 14), 0);
    config = json_loads(content + 14, 0, NULL);
    assert_non_null(config);
    free(content);
    return config;
}

static void volume(void **state)
{
    char *meta;

    make(&(struct seed){.hostname = "box", .user = "me", .password = "pw"});
    assert_memory_equal(disk + 43, "CIDATA     FAT12   ", 19);
    assert_int_equal(load_le(disk + 510, 2), 0xaa55);
    meta = content_of("meta-data");
    assert_non_null(strstr(meta, "local-hostname: box\n"));
    assert_non_null(strstr(meta, "instance-id: hospes-"));
    free(meta);
}

static void user_with_password(void **state)
{
    json_t *config, *user;
    const char *hard = "it's: \"quoted\" \\ #&*%@`|>{}[],";

    make(&(struct seed){.hostname = "box", .user = "me", .password = hard});
    config = user_data();
    user = json_array_get(json_object_get(config, "users"), 0);
    assert_string_equal(json_string_value(json_object_get(user, "name")), "me");
    assert_string_equal(json_string_value(json_object_get(user, "plain_text_passwd")), hard);
    assert_true(json_is_false(json_object_get(user, "lock_passwd")));
    assert_true(json_is_true(json_object_get(config, "ssh_pwauth")));
    json_decref(config);
}

/* Longer than a cluster, so that chains count. */
static void many_keys(void **state)
{
    char path[] = "/tmp/hospes-keys-XXXXXX";
    FILE *f = fdopen(mkstemp(path), "w");
    json_t *config, *keys;

    for (unsigned i = 0; i < 40; i++)
        fprintf(f, "%sssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI%040u me@%u\n", i ? "" : "# mine\n", i,
                i);
    fclose(f);
    make(&(struct seed){.hostname = "box", .ssh_key = path});
    config = user_data();
    keys = json_object_get(config, "ssh_authorized_keys");
    assert_int_equal(json_array_size(keys), 40);
    assert_non_null(strstr(json_string_value(json_array_get(keys, 39)), "me@39"));
    assert_true(json_is_false(json_object_get(config, "ssh_pwauth")));
    json_decref(config);
    unlink(path);
}

static void refusals(void **state)
{
    static const char *const content[] = {"-----BEGIN OPENSSH PRIVATE KEY-----\nabc def\n", "",
                                          "x\n"};
    struct error err = {0};

    assert_int_equal(seed_make(&(struct seed){.hostname = "b", .ssh_key = "/not/there.pub"}, &err),
                     -ENOENT);
    assert_non_null(strstr(err.text, "/not/there.pub"));
    for (unsigned i = 0; i < ARRAY_SIZE(content); i++) {
        char path[] = "/tmp/hospes-keys-XXXXXX";
        FILE *f = fdopen(mkstemp(path), "w");

        fputs(content[i], f);
        fclose(f);
        err = (struct error){0};
        assert_int_equal(seed_make(&(struct seed){.hostname = "b", .ssh_key = path}, &err),
                         -EINVAL);
        assert_non_null(strstr(err.text, path));
        unlink(path);
    }
    err = (struct error){0};
    assert_int_equal(
        seed_make(&(struct seed){.hostname = "b", .user = "u", .password = "\xff"}, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volume),
        cmocka_unit_test(user_with_password),
        cmocka_unit_test(many_keys),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
