#include "support/unit.h"

#include "machine/device.h"
#include "state/state.h"

struct point {
    uint16_t x;
    uint32_t y;
};

struct thing {
    uint8_t kind;
    bool on;
    uint32_t derived; /* not saved */
    uint16_t list[3];
    struct point corner[2];
    uint64_t late;
};

static const struct state_field point_state[] = {
    STATE_U16(struct point, x),
    STATE_U32(struct point, y),
    STATE_END,
};

static const struct state_field thing_state[] = {
    STATE_U8(struct thing, kind),          STATE_BOOL(struct thing, on),
    STATE_ARRAY(struct thing, list),       STATE_STRUCT_ARRAY(struct thing, corner, point_state),
    STATE_FIELD(struct thing, late, 1, 3), STATE_END,
};

/* The same struct as version 2 wrote it. */
static const struct state_field old_state[] = {
    STATE_U8(struct thing, kind),
    STATE_BOOL(struct thing, on),
    STATE_ARRAY(struct thing, list),
    STATE_STRUCT_ARRAY(struct thing, corner, point_state),
    STATE_END,
};

static const struct thing sample = {.kind = 7,
                                    .on = true,
                                    .derived = 99,
                                    .list = {1, 0x203, 4},
                                    .corner = {{5, 6}, {0x708, 0x90a0b0c}},
                                    .late = 0x1122334455667788};

static void carries_all_declared_fields_and_no_other(void **state)
{
    struct state_buffer b = {0};
    struct thing t = {.derived = 1};
    struct error err = {0};

    state_save(&b, thing_state, 3, &sample);
    assert_int_equal(state_load(&b, thing_state, 3, &t, &err), 0);
    assert_int_equal(b.position, b.size);
    assert_int_equal(t.kind, 7);
    assert_true(t.on);
    assert_int_equal(t.derived, 1);
    assert_memory_equal(t.list, sample.list, sizeof(t.list));
    assert_int_equal(t.corner[0].y, 6);
    assert_int_equal(t.corner[1].x, 0x708);
    assert_int_equal(t.corner[1].y, 0x90a0b0c);
    assert_int_equal(t.late, sample.late);
    state_buffer_free(&b);
}

static void reads_an_older_version_and_leaves_newer_fields(void **state)
{
    struct state_buffer b = {0};
    struct thing t = {.late = 42};
    struct error err = {0};

    state_save(&b, old_state, 2, &sample);
    assert_int_equal(state_load(&b, thing_state, 3, &t, &err), 0);
    assert_int_equal(t.corner[1].x, 0x708);
    assert_int_equal(t.late, 42);
    state_buffer_free(&b);

    /* A stream that says version 3 must have the field. */
    state_save(&b, old_state, 3, &sample);
    assert_int_equal(state_load(&b, thing_state, 3, &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'late' is missing");
    assert_int_equal(b.position, 0);
    state_buffer_free(&b);

    state_save(&b, thing_state, 4, &sample);
    assert_int_equal(state_load(&b, thing_state, 3, &t, &err), -EINVAL);
    assert_non_null(strstr(err.text, "state of version 4"));
    assert_int_equal(b.position, 0);
    state_buffer_free(&b);
}

static void refuses_fields_it_does_not_know(void **state)
{
    struct state_buffer b = {0};
    struct thing t = {0};
    struct error err = {0};

    state_save(&b, thing_state, 2, &sample); /* a field of version 3 in a stream of version 2 */
    assert_int_equal(state_load(&b, thing_state, 3, &t, &err), -EINVAL);
    assert_string_equal(err.text, "a field that is not known follows the last one");
    state_buffer_free(&b);
}

static int load_changed(size_t at, uint8_t value, struct thing *t, struct error *err)
{
    struct state_buffer b = {0};
    int r;

    state_save(&b, thing_state, 3, &sample);
    assert_true(at < b.size);
    b.data[at] = value;
    r = state_load(&b, thing_state, 3, t, err);
    state_buffer_free(&b);
    return r;
}

static void names_what_is_wrong(void **state)
{
    struct thing t = {0};
    struct error err = {0};

    /* version (2), length 4, "kind", size (4), count (4), value */
    assert_int_equal(load_changed(3, 'm', &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'kind' expected, 'mind' found");
    assert_int_equal(load_changed(3, '\n', &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'kind' expected, '?ind' found");
    assert_int_equal(load_changed(7, 2, &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'kind': elements of 2 bytes, not 1");
    assert_int_equal(load_changed(14, 0x80, &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'kind': 2147483649 elements, not 1");
    /* the value of "on": 16 + 1 + 2 + 8 */
    assert_int_equal(load_changed(27, 2, &t, &err), -EINVAL);
    assert_string_equal(err.text, "field 'on': 2 is neither 0 nor 1");
    assert_int_equal(t.kind, 0); /* nothing of it was taken */
}

static void survives_every_truncation_and_every_changed_byte(void **state)
{
    const struct thing untouched = {.kind = 0x55, .derived = 3};
    struct state_buffer whole = {0};
    struct error err = {0};

    state_save(&whole, thing_state, 3, &sample);
    for (size_t length = 0; length < whole.size; length++) {
        /* A copy of just that size, so that the sanitizer sees a read beyond it. */
        struct state_buffer cut = {.data = malloc(length + !length), .size = length};
        struct thing t = untouched;

        memcpy(cut.data, whole.data, length);
        assert_int_equal(state_load(&cut, thing_state, 3, &t, &err), -EINVAL);
        assert_memory_equal(&t, &untouched, sizeof(t));
        assert_int_equal(cut.position, 0);
        free(cut.data);
    }
    for (size_t at = 0; at < whole.size; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            struct thing t = untouched;

            if (load_changed(at, whole.data[at] ^ (uint8_t)(1u << bit), &t, &err) < 0)
                assert_memory_equal(&t, &untouched, sizeof(t));
        }
    state_buffer_free(&whole);
}

static void reads_one_struct_after_the_other(void **state)
{
    struct state_buffer b = {0};
    struct point a = {1, 2}, c = {3, 4};
    struct error err = {0};

    state_save(&b, point_state, 0, &a);
    state_save(&b, point_state, 0, &c);
    memset(&a, 0, sizeof(a));
    memset(&c, 0, sizeof(c));
    assert_int_equal(state_load(&b, point_state, 0, &a, &err), 0);
    assert_int_equal(state_load(&b, point_state, 0, &c, &err), 0);
    assert_int_equal(a.y, 2);
    assert_int_equal(c.x, 3);
    assert_int_equal(state_load(&b, point_state, 0, &c, &err), -EINVAL);
    state_buffer_free(&b);
}

static void prints_one_field_a_line(void **state)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    state_print(out, thing_state, &sample);
    fclose(out);
    assert_string_equal(text, "kind: 0x07\n"
                              "on: 0x01\n"
                              "list: 0x0001 0x0203 0x0004\n"
                              "corner[0].x: 0x0005\n"
                              "corner[0].y: 0x00000006\n"
                              "corner[1].x: 0x0708\n"
                              "corner[1].y: 0x090a0b0c\n"
                              "late: 0x1122334455667788\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carries_all_declared_fields_and_no_other),
        cmocka_unit_test(reads_an_older_version_and_leaves_newer_fields),
        cmocka_unit_test(refuses_fields_it_does_not_know),
        cmocka_unit_test(names_what_is_wrong),
        cmocka_unit_test(survives_every_truncation_and_every_changed_byte),
        cmocka_unit_test(reads_one_struct_after_the_other),
        cmocka_unit_test(prints_one_field_a_line),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
