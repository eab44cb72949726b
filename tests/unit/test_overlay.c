/* The index finds what a plain list of versions would find, whatever is done to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/overlay.h"

#define RING 256u
#define EXTENTS 3u
#define BLOCKS 64u
#define KEYS (EXTENTS * BLOCKS)
#define VERSIONS 8u

/* The plain one: versions of each key, newest first. */
struct version {
    uint32_t at, record;
    uint64_t sum, stamp;
};
struct plain {
    struct version versions[KEYS][VERSIONS];
    uint32_t counts[KEYS];
    bool zero[KEYS];
    bool used[RING];
};

static uint64_t random_state = 88172645463325252ull;

static uint32_t pick(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static struct overlay *new_overlay(void)
{
    struct overlay_options options = {
        .ring_blocks = RING, .extent_count = EXTENTS, .extent_blocks = BLOCKS};
    struct overlay *overlay;

    assert_int_equal(overlay_new(&options, &overlay), 0);
    return overlay;
}

static void plain_put(struct plain *plain, uint32_t key, uint32_t index, struct version version)
{
    memmove(&plain->versions[key][index + 1], &plain->versions[key][index],
            (plain->counts[key] - index) * sizeof(struct version));
    plain->versions[key][index] = version;
    plain->counts[key]++;
    plain->used[version.at] = true;
}

static void plain_cut(struct plain *plain, uint32_t key, uint32_t from)
{
    for (uint32_t i = from; i < plain->counts[key]; i++)
        plain->used[plain->versions[key][i].at] = false;
    plain->counts[key] = MIN(plain->counts[key], from);
}

static void check_key(const struct overlay *overlay, const struct plain *plain, uint32_t key)
{
    uint32_t at = overlay_find(overlay, key);

    for (uint32_t i = 0; i < plain->counts[key]; i++) {
        const struct version *version = &plain->versions[key][i];

        assert_int_equal(at, version->at);
        assert_int_equal(overlay_sum(overlay, at), version->sum);
        assert_int_equal(overlay_record(overlay, at), version->record);
        if (version->record == 0)
            assert_int_equal(overlay_stamp(overlay, at), version->stamp);
        at = overlay_older(overlay, at);
    }
    assert_int_equal(at, OVERLAY_NONE);
    assert_int_equal(overlay_is_zero(overlay, key), plain->zero[key]);
}

static void check_all(const struct overlay *overlay, const struct plain *plain)
{
    uint64_t total = 0;

    for (uint32_t extent = 0; extent < EXTENTS; extent++) {
        uint64_t bitmap = 0;
        uint32_t count = 0;

        overlay_collect(overlay, extent, &bitmap);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            uint32_t key = extent * BLOCKS + i;

            check_key(overlay, plain, key);
            count += plain->counts[key];
            assert_int_equal(bitmap >> i & 1, plain->counts[key] > 0 || plain->zero[key]);
        }
        assert_int_equal(overlay_extent_count(overlay, extent), count);
        total += count;
    }
    assert_int_equal(overlay_count(overlay), total);
}

static uint32_t free_at(const struct plain *plain)
{
    uint32_t at = pick(RING);

    while (plain->used[at])
        at = (at + 1) % RING;
    return at;
}

/* The oldest pending version of a key, which is what a watermark commits first. */
static bool oldest_pending(const struct plain *plain, uint32_t key, uint32_t *ret_index)
{
    for (uint32_t i = plain->counts[key]; i-- > 0;) {
        if (plain->versions[key][i].record != 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

static void random_step(struct overlay *overlay, struct plain *plain)
{
    uint32_t key = pick(KEYS / 4) * 4, at = free_at(plain), index;
    struct version version = {.at = at, .record = 1 + pick(1000), .sum = pick(1u << 30)};

    switch (pick(8)) {
    case 0:
    case 1:
    case 2:
        if (plain->counts[key] == VERSIONS)
            return;
        overlay_insert(overlay, at, key, version.sum, version.record);
        plain_put(plain, key, 0, version);
        return;
    case 3: /* a copy of an older record: below a pending one */
        if (plain->counts[key] == 0 || plain->counts[key] == VERSIONS ||
            plain->versions[key][0].record == 0)
            return;
        overlay_insert_below(overlay, plain->versions[key][0].at, at, key, version.sum,
                             version.record);
        plain_put(plain, key, 1, version);
        return;
    case 4:
        if (!oldest_pending(plain, key, &index))
            return;
        overlay_commit(overlay, plain->versions[key][index].at, 77);
        plain_cut(plain, key, index + 1);
        plain->versions[key][index].record = 0;
        plain->versions[key][index].stamp = 77;
        plain->zero[key] = false;
        return;
    case 5:
        if (plain->counts[key] == 0)
            return;
        overlay_move(overlay, plain->versions[key][0].at, at);
        plain->used[plain->versions[key][0].at] = false;
        plain->used[at] = true;
        plain->versions[key][0].at = at;
        return;
    case 6: /* destaged */
        index = plain->counts[key];
        if (index == 0 || plain->versions[key][index - 1].record != 0)
            return;
        overlay_remove(overlay, plain->versions[key][index - 1].at);
        plain_cut(plain, key, index - 1);
        return;
    default:
        if (oldest_pending(plain, key, &index) && pick(4) != 0)
            return;
        overlay_zero_commit(overlay, key / BLOCKS, key % BLOCKS, 1, pick(100), 5);
        index = plain->counts[key];
        if (index > 0 && plain->versions[key][index - 1].record == 0)
            plain_cut(plain, key, index - 1);
        plain->zero[key] = true;
        return;
    }
}

static void drop_extent(struct overlay *overlay, struct plain *plain, uint32_t extent)
{
    overlay_drop_extent(overlay, extent);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        plain_cut(plain, extent * BLOCKS + i, 0);
        plain->zero[extent * BLOCKS + i] = false;
    }
}

static void finds_what_a_plain_list_finds(void **state)
{
    struct overlay *overlay = new_overlay();
    struct plain *plain = calloc(1, sizeof(*plain));

    (void)state;
    for (uint32_t i = 0; i < 200000; i++) {
        if (overlay_count(overlay) > RING - 8)
            drop_extent(overlay, plain, pick(EXTENTS));
        random_step(overlay, plain);
        if (i % 500 == 0)
            check_all(overlay, plain);
    }
    check_all(overlay, plain);
    free(plain);
    overlay_free(overlay);
}

static void zeros_set_aside_go_on_reading_as_zeros(void **state)
{
    struct overlay *overlay = new_overlay();
    const uint64_t *bits;
    uint64_t stamp;
    uint32_t extent;

    (void)state;
    overlay_zero_commit(overlay, 0, 3, 2, 10, 5);
    overlay_zero_commit(overlay, 1, 0, BLOCKS, 50, 6);
    overlay_zero_begin(overlay, 20); /* the first is from before, the second is not */
    bits = overlay_zero_next(overlay, 0, &extent, &stamp);
    assert_non_null(bits);
    assert_int_equal(extent, 0);
    assert_int_equal(stamp, 5);
    assert_int_equal(bits[0], 0x18);
    assert_null(overlay_zero_next(overlay, 1, &extent, &stamp));
    assert_true(overlay_is_zero(overlay, 3));
    overlay_zero_commit(overlay, 0, 9, 1, 60, 7); /* comes while the others are destaged */
    overlay_insert(overlay, 0, 4, 1, 1);
    overlay_commit(overlay, 0, 8); /* written again */
    assert_false(overlay_is_zero(overlay, 4));
    overlay_zero_end(overlay);
    assert_false(overlay_is_zero(overlay, 3));
    assert_true(overlay_is_zero(overlay, 9));
    assert_true(overlay_is_zero(overlay, BLOCKS + 5));
    overlay_free(overlay);
}

/* A stamp that does not fit counts as newer than anything: more is compared, never less. */
static void large_stamps_saturate_upwards(void **state)
{
    struct overlay *overlay = new_overlay();

    (void)state;
    overlay_insert(overlay, 0, 4, 1, 1);
    overlay_commit(overlay, 0, 1ull << 40);
    assert_true(overlay_stamp(overlay, 0) == UINT64_MAX);
    overlay_free(overlay);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_a_plain_list_finds),
        cmocka_unit_test(zeros_set_aside_go_on_reading_as_zeros),
        cmocka_unit_test(large_stamps_saturate_upwards),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
