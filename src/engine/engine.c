/*
 * engine.c - the list of engines and the choice among them; see engine.h.
 *
 * The list changes only while the program starts, on one thread, so it has no lock.
 */
#include "engine/engine.h"

#include <errno.h>
#include <stdio.h>

enum { ENGINE_MAX = 8 };

static const struct engine_ops *list[ENGINE_MAX] = {&engine_interp};
static unsigned count = 1;

void engine_register(const struct engine_ops *ops)
{
    for (unsigned i = 0; i < count; i++)
        if (list[i] == ops)
            return;
    if (count == ENGINE_MAX)
        return;
    memmove(list + 1, list, count++ * sizeof(*list));
    list[0] = ops;
}

const struct engine_ops *engine_list(unsigned n)
{
    return n < count ? list[n] : NULL;
}

static const struct engine_ops *find(const char *name)
{
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(list[i]->name, name))
            return list[i];
    return NULL;
}

/* Software engines are those that need nothing of the host: all but KVM. */
static const struct engine_ops *choose_first(bool software, char *reason, size_t reason_size,
                                             struct error *err)
{
    char refused[600] = "";
    size_t used = 0;

    for (unsigned i = 0; i < count; i++) {
        struct error why = {0};

        if (software && !strcmp(list[i]->name, "kvm"))
            continue;
        if (list[i]->probe(&why) < 0) {
            if (used < sizeof(refused))
                used += (size_t)snprintf(refused + used, sizeof(refused) - used, "%s%s: %s",
                                         used ? "; " : "", list[i]->name, why.text);
            continue;
        }
        snprintf(reason, reason_size, "%s%s%s", list[i]->summary, used ? "; not " : "", refused);
        return list[i];
    }
    error_set(err, ENODEV, "no engine can run here: %s", refused);
    return NULL;
}

const struct engine_ops *engine_choose(const char *name, char *reason, size_t reason_size,
                                       struct error *err)
{
    const struct engine_ops *e;
    char names[120] = "auto, tcg";
    size_t used = strlen(names);
    struct error why = {0};

    if (!name || !*name || !strcmp(name, "auto"))
        return choose_first(false, reason, reason_size, err);
    if (!strcmp(name, "tcg"))
        return choose_first(true, reason, reason_size, err);
    e = find(name);
    if (e && e->probe(&why) < 0) {
        error_set(err, why.code, "engine '%s' cannot run here: %s", name, why.text);
        return NULL;
    }
    if (e) {
        snprintf(reason, reason_size, "as asked for");
        return e;
    }
    for (unsigned i = 0; i < count && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, ", %s", list[i]->name);
    error_set(err, EINVAL, "unknown engine '%s'; there are: %s", name, names);
    return NULL;
}
