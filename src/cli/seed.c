/*
 * seed.c - see seed.h.
 *
 * The disk is a FAT12 file system without partitions, which every system reads: one FAT twice, a
 * root folder, files one behind the other. Their names need long entries. cloud-config is YAML, of
 * which JSON is a part, so jansson writes it.
 */
#include "cli/seed.h"

#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SECTOR = 512,
    SECTORS = 720, /* 360 KiB: what is there is small */
    FAT_SECTORS = 3,
    ROOT_ENTRIES = 64,
    ROOT = (1 + 2 * FAT_SECTORS) * SECTOR,
    DATA = ROOT + ROOT_ENTRIES * 32,
    CLUSTERS = (SECTORS * SECTOR - DATA) / SECTOR, /* of a sector each */
    NAME_PART = 13,                                /* characters in a long entry */
    ATTR_LABEL = 0x08,
    ATTR_LONG = 0x0f,
    ATTR_FILE = 0x20,
    LAST_LONG = 0x40,
    KEYS_MAX = 64 * 1024,
};

struct fat {
    uint8_t image[SECTORS * SECTOR];
    unsigned entries, cluster; /* used so far; the next free one */
};

/* ---- the file system --------------------------------------------------------------------------
 */

static void fat_begin(struct fat *f)
{
    uint8_t *b = f->image;

    memset(f, 0, sizeof(*f));
    memcpy(b, "\xeb\x3c\x90HOSPES  ", 11);
    store_le(b + 11, SECTOR, 2);
    b[13] = 1;              /* sectors of a cluster */
    store_le(b + 14, 1, 2); /* reserved: this one */
    b[16] = 2;              /* FATs */
    store_le(b + 17, ROOT_ENTRIES, 2);
    store_le(b + 19, SECTORS, 2);
    b[21] = 0xf8; /* a fixed disk */
    store_le(b + 22, FAT_SECTORS, 2);
    store_le(b + 24, 9, 2); /* sectors of a track, heads: nobody looks */
    store_le(b + 26, 2, 2);
    b[36] = 0x80;
    b[38] = 0x29; /* what follows is there */
    store_le(b + 39, (uint32_t)time(NULL), 4);
    memcpy(b + 43, "CIDATA     FAT12   ", 19);
    store_le(b + 510, 0xaa55, 2);
    memcpy(b + ROOT, "CIDATA     ", 11);
    b[ROOT + 11] = ATTR_LABEL;
    f->entries = 1;
    f->cluster = 2;
}

static void fat_chain(struct fat *f, unsigned cluster, unsigned next)
{
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t *at = f->image + SECTOR * (1 + copy * FAT_SECTORS) + cluster * 3 / 2;
        unsigned value = (unsigned)load_le(at, 2);

        value = cluster & 1 ? (value & 0x000f) | next << 4 : (value & 0xf000) | next;
        store_le(at, value, 2);
    }
}

static uint8_t short_name_sum(const char name[11])
{
    uint8_t sum = 0;

    for (unsigned i = 0; i < 11; i++)
        sum = (uint8_t)((sum >> 1 | sum << 7) + (uint8_t)name[i]);
    return sum;
}

/* The part of a long name that entry `n` (from 1 on) holds. */
static void long_entry(uint8_t *entry, const char *name, unsigned n, bool last, uint8_t sum)
{
    static const uint8_t place[NAME_PART] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    size_t length = strlen(name);

    entry[0] = (uint8_t)(n | (last ? LAST_LONG : 0));
    entry[11] = ATTR_LONG;
    entry[13] = sum;
    for (unsigned i = 0; i < NAME_PART; i++) {
        size_t at = (n - 1) * NAME_PART + i;

        store_le(entry + place[i], at < length ? (uint8_t)name[at] : at == length ? 0 : 0xffff, 2);
    }
}

/* "user-data" is USER-D~N for those who know no long names. */
static int fat_add(struct fat *f, const char *name, const char *content, struct error *err)
{
    size_t size = strlen(content), clusters = (size + SECTOR - 1) / SECTOR;
    unsigned parts = (unsigned)(strlen(name) + NAME_PART - 1) / NAME_PART;
    char alias[12];
    uint8_t *entry;

    if (clusters > 2u + CLUSTERS - f->cluster || f->entries + parts + 1 > ROOT_ENTRIES)
        return error_set(err, EFBIG, "%s of %zu bytes is too large for a seed disk", name, size);
    snprintf(alias, sizeof(alias), "%-6.6s~%u   ", name, f->entries % 10);
    for (char *c = alias; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    for (unsigned n = parts; n; n--)
        long_entry(f->image + ROOT + 32 * f->entries++, name, n, n == parts, short_name_sum(alias));
    entry = f->image + ROOT + 32 * f->entries++;
    memcpy(entry, alias, 11);
    entry[11] = ATTR_FILE;
    store_le(entry + 24, 1 << 5 | 1, 2); /* changed 1980-01-01 */
    store_le(entry + 26, clusters ? f->cluster : 0, 2);
    store_le(entry + 28, size, 4);
    memcpy(f->image + DATA + (size_t)(f->cluster - 2) * SECTOR, content, size);
    for (size_t i = 0; i < clusters; i++, f->cluster++)
        fat_chain(f, f->cluster, i + 1 < clusters ? f->cluster + 1 : 0xfff);
    return 0;
}

/* ---- what cloud-init reads --------------------------------------------------------------------
 */

/* JSON is UTF-8: jansson makes no string of anything else. */
static int check_text(const char *what, const char *text, struct error *err)
{
    json_t *s = text ? json_string(text) : NULL;
    int r = text && !s ? error_set(err, EINVAL, "the %s must be UTF-8", what) : 0;

    json_decref(s);
    return r;
}

/* A key, or all in a file. */
static int add_keys(json_t *keys, const char *text, struct error *err)
{
    auto_free char *content = NULL;
    char *save = NULL;
    FILE *file;
    size_t n;

    if (strchr(text, ' ')) {
        return check_text("SSH key", text, err) ?: json_array_append_new(keys, json_string(text));
    }
    file = fopen(text, "re");
    if (!file)
        return error_set_errno(err, errno, "cannot read the SSH key '%s'", text);
    content = xcalloc(1, KEYS_MAX + 1);
    n = fread(content, 1, KEYS_MAX, file);
    fclose(file);
    if (n == KEYS_MAX || strlen(content) != n || strstr(content, "PRIVATE KEY"))
        return error_set(err, EINVAL, "'%s' is not a file of public SSH keys (it ends in .pub)",
                         text);
    for (char *line = strtok_r(content, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (*line != '#' && strchr(line, ' '))
            if (json_array_append_new(keys, json_string(line)) < 0)
                return error_set(err, EINVAL, "'%s' is not UTF-8", text);
    return json_array_size(keys) ? 0 : error_set(err, EINVAL, "there is no SSH key in '%s'", text);
}

static int user_data(const struct seed *s, char **out, struct error *err)
{
    json_t *config = json_object(), *keys = json_array(), *users = json_array();
    auto_free char *text = NULL;
    int r = check_text("password", s->password, err) ?: check_text("user", s->user, err);

    if (!r && s->ssh_key)
        r = add_keys(keys, s->ssh_key, err);

    json_object_set_new(config, "ssh_pwauth", json_boolean(s->password != NULL));
    if (s->user) {
        json_t *user = json_pack("{s:s, s:s, s:s, s:b, s:O}", "name", s->user, "sudo",
                                 "ALL=(ALL) NOPASSWD:ALL", "shell", "/bin/bash", "lock_passwd",
                                 s->password == NULL, "ssh_authorized_keys", keys);

        if (s->password)
            json_object_set_new(user, "plain_text_passwd", json_string(s->password));
        json_array_append_new(users, user);
        json_object_set(config, "users", users);
    } else {
        json_object_set(config, "ssh_authorized_keys", keys);
        if (s->password)
            json_object_set_new(config, "password", json_string(s->password));
        json_object_set_new(config, "chpasswd", json_pack("{s:b}", "expire", 0));
    }
    text = json_dumps(config, JSON_INDENT(1));
    if (!r)
        *out = xasprintf("#cloud-config\n%s\n", text);
    json_decref(users);
    json_decref(keys);
    json_decref(config);
    return r;
}

int seed_make(const struct seed *s, struct error *err)
{
    auto_free struct fat *f = xcalloc(1, sizeof(*f));
    auto_free char *user = NULL, *meta = NULL;
    uint32_t sum = 2166136261u; /* FNV-1a */
    int fd, r = user_data(s, &user, err);

    if (r < 0)
        return r;
    /* Another instance when anything is different: cloud-init does things once for each. */
    for (const char *c = user; *c; c++)
        sum = (sum ^ (uint8_t)*c) * 16777619u;
    meta = xasprintf("instance-id: hospes-%08x\nlocal-hostname: %s\n", sum, s->hostname);
    fat_begin(f);
    fat_chain(f, 0, 0xff8);
    fat_chain(f, 1, 0xfff);
    r = fat_add(f, "user-data", user, err);
    r = r ? r : fat_add(f, "meta-data", meta, err);
    if (r < 0)
        return r;
    fd = memfd_create("hospes-seed", MFD_CLOEXEC);
    if (fd < 0 || write(fd, f->image, sizeof(f->image)) != (ssize_t)sizeof(f->image)) {
        r = errno;
        if (fd >= 0)
            close(fd);
        return error_set_errno(err, r, "no memory for a seed disk");
    }
    return fd;
}
