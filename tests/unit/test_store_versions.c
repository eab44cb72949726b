/* Versions of a block: a takeover in parity reads what a column held at a record, below newer ones
 * that no watermark covers (I6). The log keeps all of them until a watermark retires them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/store_rig.h"

#define DISK_BYTES (24 * MIB)
#define LOG_BYTES (4 * MIB)

static void with_store(void (*fn)(struct io *io, void *arg))
{
    struct rig rig;

    rig_new(&rig, 1, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, fn, NULL));
    rig_done(&rig);
}

/* The stamp of the block as of a record of session 1. */
static uint64_t stamp_at(struct rig_owner *owner, uint32_t block, uint64_t seq)
{
    struct extent_ref where = {.extent = 0, .generation = owner->generation};
    struct log_position at = {owner->session, seq};
    void *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t stamp;

    assert_non_null(data);
    assert_int_equal(
        co_store_read_at(owner->store, owner->vdisk, where, block, 1, block, at, data, NULL, NULL),
        0);
    stamp = rig_stamp(data);
    free(data);
    return stamp;
}

/* Records 1 … 5 of block 0, of which the watermark covers the first; 3 is a trim. */
static void write_versions(struct rig_owner *owner)
{
    assert_int_equal(co_rig_write(owner, 0, 0, 1, 10), 0);
    assert_int_equal(co_rig_commit(owner), 0);
    assert_int_equal(co_rig_write(owner, 0, 0, 2, 20), 0);
    assert_int_equal(co_rig_zero(owner, 0, 0, 1), 0);
    assert_int_equal(co_rig_write(owner, 0, 0, 1, 40), 0);
    assert_int_equal(co_rig_write(owner, 0, 0, 1, 50), 0);
}

static void check_versions(struct rig_owner *owner)
{
    assert_int_equal(stamp_at(owner, 0, 1), 10);
    assert_int_equal(stamp_at(owner, 0, 2), 20);
    assert_int_equal(stamp_at(owner, 0, 3), 0);
    assert_int_equal(stamp_at(owner, 0, 4), 40);
    assert_int_equal(stamp_at(owner, 0, 5), 50);
    assert_int_equal(stamp_at(owner, 0, 9), 50);
    assert_int_equal(stamp_at(owner, 1, 1), 0); /* not written yet */
    assert_int_equal(stamp_at(owner, 1, 2), 21);
    assert_int_equal(stamp_at(owner, 1, 5), 21);
}

static void versions_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0};
    struct rig_store rig;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    write_versions(&owner);
    check_versions(&owner);
    /* the committed one goes to its place, and stays what lies below the others */
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    check_versions(&owner);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    check_versions(&owner);
    co_rig_close(&rig);
}

static void every_version_above_the_watermark_can_be_read(void **state)
{
    (void)state;
    with_store(versions_main);
}

/* Pushed out of the tail's way, a record stands behind newer ones in the log, but not in order. */
static void moved_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0}, other = {.vdisk = RIG_VDISK + 1};
    struct rig_store rig;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    write_versions(&owner);
    assert_int_equal(co_rig_seal(&other, rig.store, 1), 0);
    other.commit = true;
    for (uint32_t i = 0; i < 3000; i++) /* three times the log */
        assert_int_equal(co_rig_write(&other, 1 + i % 8, i / 8 % RIG_EXTENT_BLOCKS, 1, 1000 + i),
                         0);
    check_versions(&owner);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    check_versions(&owner);
    co_rig_close(&rig);
}

static void versions_outlive_the_place_they_were_logged_at(void **state)
{
    (void)state;
    with_store(moved_main);
}

/* Who was touched is told to a takeover even if the store was restarted in between. */
static void touched_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0};
    struct store_seal seal;
    struct rig_write write;
    struct rig_store rig;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    rig_prepare(&owner, &write, RECORD_WRITE, 0, 0, 1, 10);
    write.append.record.flags |= 0x800du << RECORD_TOUCHED_SHIFT;
    rig_submit(&owner, &write);
    assert_int_equal(co_rig_wait(&write), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 2, 2, &seal), 0);
    assert_int_equal(seal.tail_count, 1);
    assert_int_equal(record_touched(seal.tail[0].flags), 0x800d);
    store_seal_done(&seal);
    co_rig_close(&rig);
}

static void a_tail_says_which_columns_a_write_touched(void **state)
{
    (void)state;
    with_store(touched_main);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_version_above_the_watermark_can_be_read),
        cmocka_unit_test(versions_outlive_the_place_they_were_logged_at),
        cmocka_unit_test(a_tail_says_which_columns_a_write_touched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
