/* Who waits for room in a log gets it, whatever ended what was in the way: not only a watermark
 * that moves. And what a close says never lies over what the log holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/store_rig.h"

#define DISK_BYTES (12 * MIB)
#define LOG_BYTES (4 * MIB)
#define OTHER_VDISK (RIG_VDISK + 1)
#define RECORD_BLOCKS 50
#define RECORDS 17 /* of so many blocks: a log takes no more without a checkpoint */
#define IN_EXTENT (RIG_EXTENT_BLOCKS / RECORD_BLOCKS)
#define EXTENTS (DIV_ROUND_UP(RECORDS, IN_EXTENT))
#define OTHER_EXTENT EXTENTS
#define SOON_NS (2 * SEC)

static void run(void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    rig_new(&rig, 1, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

static uint64_t used_blocks(const struct rig_store *rig)
{
    return store_stats(rig->store).log_used_bytes / BLOCK_SIZE;
}

/* A log that is full of what the owner has not committed. */
static void co_fill(struct rig_owner *owner)
{
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(
            co_rig_write(owner, i / IN_EXTENT, i % IN_EXTENT * RECORD_BLOCKS, RECORD_BLOCKS, 1 + i),
            0);
}

static void co_begin(struct io *io, struct rig_store *rig, struct rig_owner *owner,
                     struct rig_owner *other)
{
    *owner = (struct rig_owner){0};
    *other = (struct rig_owner){.vdisk = OTHER_VDISK};
    assert_int_equal(co_rig_open(io, rig), 0);
    assert_int_equal(co_rig_seal(owner, rig->store, 1), 0);
    assert_int_equal(co_rig_seal(other, rig->store, 1), 0);
    co_fill(owner);
}

/* ---- the extents of what was in the way are freed ---- */

static void freed_main(struct io *io, void *arg)
{
    struct rig_owner owner, other;
    struct rig_write write;
    struct rig_store rig;

    (void)arg;
    co_begin(io, &rig, &owner, &other);
    rig_prepare(&other, &write, RECORD_WRITE, OTHER_EXTENT, 0, RECORD_BLOCKS, 100);
    rig_submit(&other, &write);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    assert_false(write.done); /* no watermark, no room */
    for (uint32_t i = 0; i < EXTENTS; i++)
        assert_int_equal(co_store_free_extent(rig.store, (struct extent_ref){i, 1}), 0);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    assert_true(write.done);
    assert_int_equal(co_rig_wait(&write), 0);
    co_rig_close(&rig);
}

static void what_is_freed_makes_room(void **state)
{
    (void)state;
    run(freed_main, NULL);
}

/* ---- who was first in the queue is turned away ---- */

static void turned_away_main(struct io *io, void *arg)
{
    struct rig_owner owner, other;
    struct rig_write large, small;
    struct rig_store rig;

    (void)arg;
    co_begin(io, &rig, &owner, &other);
    rig_prepare(&owner, &large, RECORD_WRITE, EXTENTS - 1, 0, RECORD_BLOCKS, 200);
    rig_submit(&owner, &large);
    rig_prepare(&other, &small, RECORD_WRITE, OTHER_EXTENT, 0, 1, 100);
    rig_submit(&other, &small);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    assert_false(large.done || small.done); /* there is room for the small one, but not its turn */
    store_let_go(rig.store, RIG_VDISK, 1);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    assert_true(large.done && small.done);
    assert_int_equal(co_rig_wait(&large), -ESTALE);
    assert_int_equal(co_rig_wait(&small), 0);
    co_rig_close(&rig);
}

static void the_next_one_goes_when_the_first_is_turned_away(void **state)
{
    (void)state;
    run(turned_away_main, NULL);
}

/* ---- a log that is idle, and not filled, but too short up to its end ---- */

#define LARGE_BLOCKS 250

/* Ends with so many blocks written since the tail moved, and nothing under way. */
static void co_write_some(struct rig_store *rig, struct rig_owner *owner, uint64_t blocks)
{
    uint64_t target = used_blocks(rig) + blocks;

    while (used_blocks(rig) < target)
        assert_int_equal(co_rig_write(owner, 0, owner->seq % RIG_EXTENT_BLOCKS, 1, owner->seq), 0);
    assert_int_equal(co_rig_commit(owner), 0);
}

static void end_of_lap_main(struct io *io, void *arg)
{
    const uint64_t *first = arg;
    struct rig_owner owner = {0};
    struct rig_write write;
    struct rig_store rig;

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    co_write_some(&rig, &owner, *first);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    co_write_some(&rig, &owner, 600);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    rig_prepare(&owner, &write, RECORD_WRITE, 1, 0, LARGE_BLOCKS, 1000);
    rig_submit(&owner, &write);
    assert_int_equal(co_sleep_ns(SOON_NS), 0);
    assert_true(write.done);
    assert_int_equal(co_rig_wait(&write), 0);
    co_rig_close(&rig);
}

static void room_is_made_when_the_end_of_a_lap_is_too_short(void **state)
{
    (void)state;
    for (uint64_t first = 100; first < 400; first += 10)
        run(end_of_lap_main, &first);
}

/* ---- no block is left ---- */

static void no_block_main(struct io *io, void *arg)
{
    struct rig_owner owner, other;
    struct rig_store rig;
    uint64_t stamp;

    (void)arg;
    co_begin(io, &rig, &owner, &other);
    for (uint64_t epoch = 2; used_blocks(&rig) < store_stats(rig.store).log_bytes / BLOCK_SIZE;
         epoch++)
        assert_int_equal(co_rig_seal(&other, rig.store, epoch), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(store_health(rig.store)->log_damaged);
    owner.store = rig.store;
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), 0);
    assert_int_equal(stamp, 1);
    co_rig_close(&rig);
}

static void a_log_without_a_block_left_is_closed_whole(void **state)
{
    (void)state;
    run(no_block_main, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_freed_makes_room),
        cmocka_unit_test(the_next_one_goes_when_the_first_is_turned_away),
        cmocka_unit_test(room_is_made_when_the_end_of_a_lap_is_too_short),
        cmocka_unit_test(a_log_without_a_block_left_is_closed_whole),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
