/* What the log has of a record that is uncommitted goes when the record does, whatever ends it: a
 * commit while a checkpoint copies it, or the end of its extent's life. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/io.h"
#include "tests/unit/store_rig.h"

#define DISK_BYTES (12 * MIB)
#define LOG_BYTES (4 * MIB)
#define OTHER_VDISK (RIG_VDISK + 1)
#define RECORDS 8 /* of each owner: the last ones have the same position */

static void run(uint64_t disk_bytes, void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    rig_new(&rig, 1, disk_bytes, LOG_BYTES);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

static void co_expect(struct rig_owner *owner, uint32_t extent, uint32_t block, uint64_t stamp)
{
    uint64_t found;

    assert_int_equal(co_rig_read(owner, extent, block, &found), 0);
    assert_int_equal(found, stamp);
}

static void co_rot(struct rig_store *rig, uint64_t offset)
{
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    assert_int_equal(co_io_read(disk_file(rig->disk), block, BLOCK_SIZE, offset), 0);
    block[30] ^= 0x10;
    assert_int_equal(co_io_write(disk_file(rig->disk), block, BLOCK_SIZE, offset, IO_WRITE_DSYNC),
                     0);
}

/* ---- committed while it is copied ---- */

#define READ_NS (10 * MS) /* of the record, before it is appended as a copy */
#define WRITE_NS (5 * MS)

struct race {
    struct rig_store rig;
    struct rig_owner owner, other;
    struct co_group group;
    int result;
};

static void checkpoint_main(void *arg)
{
    struct race *race = arg;

    race->result = co_store_checkpoint(race->rig.store);
}

/* The owner's last record is uncommitted, and a checkpoint has begun to copy it. What the other
 * has, up to its record number `last`, is committed. */
static void co_race_begin(struct io *io, struct race *race, uint32_t last)
{
    *race =
        (struct race){.owner = {.commit = true}, .other = {.vdisk = OTHER_VDISK, .commit = true}};
    assert_int_equal(co_rig_open(io, &race->rig), 0);
    assert_int_equal(co_rig_seal(&race->owner, race->rig.store, 1), 0);
    assert_int_equal(co_rig_seal(&race->other, race->rig.store, 1), 0);
    for (uint32_t i = 1; i <= last; i++)
        assert_int_equal(co_rig_write(&race->other, 1, i, 1, 200 + i), 0);
    assert_int_equal(co_rig_commit(&race->other), 0);
    for (uint32_t i = 1; i <= RECORDS; i++)
        assert_int_equal(co_rig_write(&race->owner, 0, i, 1, 100 + i), 0);
    co_group_init(&race->group);
    assert_int_equal(co_group_spawn(&race->group, io, "checkpoint", checkpoint_main, race), 0);
}

static void co_check_race(struct race *race)
{
    for (uint32_t i = 1; i <= RECORDS; i++) {
        co_expect(&race->owner, 0, i, 100 + i);
        co_expect(&race->other, 1, i, 200 + i);
    }
}

/* All is as it was written, whatever became of the copy: in the log, in its place, and after a
 * start. */
static void co_race_end(struct io *io, struct race *race)
{
    co_group_wait(&race->group);
    assert_int_equal(race->result, 0);
    co_check_race(race);
    assert_int_equal(co_rig_commit(&race->other), 0);
    assert_int_equal(co_store_checkpoint(race->rig.store), 0);
    assert_int_equal(store_stats(race->rig.store).dirty_blocks, 0);
    co_check_race(race);
    co_rig_close(&race->rig);
    assert_int_equal(co_rig_open(io, &race->rig), 0);
    race->owner.store = race->other.store = race->rig.store;
    co_check_race(race);
    co_rig_close(&race->rig);
}

/* The record is read for its copy; meanwhile it is committed, and the other's last one takes its
 * memory. */
static void while_read_main(struct io *io, void *arg)
{
    struct race race;

    (void)arg;
    co_race_begin(io, &race, RECORDS - 1);
    assert_int_equal(co_sleep_ns(MS), 0);
    assert_int_equal(co_rig_commit(&race.owner), 0);
    assert_int_equal(co_rig_write(&race.other, 1, RECORDS, 1, 200 + RECORDS), 0);
    co_race_end(io, &race);
}

/* The copy stands right behind the other's last record in a batch, and is committed while that is
 * written. */
static void while_written_main(struct io *io, void *arg)
{
    struct rig_write held, last;
    struct race race;

    (void)arg;
    co_race_begin(io, &race, RECORDS - 2);
    assert_int_equal(co_sleep_ns(READ_NS - 2 * MS), 0);
    rig_prepare(&race.other, &held, RECORD_WRITE, 1, RECORDS - 1, 1, 200 + RECORDS - 1);
    rig_submit(&race.other, &held); /* in flight: what comes now is gathered */
    assert_int_equal(co_sleep_ns(MS), 0);
    rig_prepare(&race.other, &last, RECORD_WRITE, 1, RECORDS, 1, 200 + RECORDS);
    rig_submit(&race.other, &last);
    assert_int_equal(co_rig_wait(&held), 0);
    assert_int_equal(co_sleep_ns(MS), 0);
    assert_int_equal(co_rig_commit(&race.owner), 0);
    assert_int_equal(co_rig_wait(&last), 0);
    co_race_end(io, &race);
}

static void a_copy_is_of_the_record_that_was_read(void **state)
{
    static void (*const mains[])(struct io * io, void *arg) = {while_read_main, while_written_main};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(mains); i++) {
        struct sim_options options = sim_default_options(1 + i);
        struct rig rig;

        options.disk_read_ns_min = READ_NS;
        options.disk_read_ns_max = READ_NS + 1;
        options.disk_write_ns_min = WRITE_NS;
        options.disk_write_ns_max = WRITE_NS + 1;
        rig_new_with(&rig, &options, DISK_BYTES, LOG_BYTES);
        assert_true(rig_run(&rig, mains[i], NULL));
        rig_done(&rig);
    }
}

/* ---- committed by a watermark that a crash forgets, and dropped ---- */

struct half {
    struct rig rig;
    uint64_t nth; /* write after the commit: the power goes in it */
};

/* Block 1 has a version in place and one in the log, which a checkpoint has copied when it hears
 * that it is committed. That is durable nowhere here. */
static void half_main(struct io *io, void *arg)
{
    struct half *half = arg;
    struct race race = {.other = {.vdisk = OTHER_VDISK, .commit = true}};

    assert_int_equal(co_rig_open(io, &race.rig), 0);
    assert_int_equal(co_rig_seal(&race.owner, race.rig.store, 1), 0);
    assert_int_equal(co_rig_seal(&race.other, race.rig.store, 1), 0);
    assert_int_equal(co_rig_write(&race.owner, 0, 1, 1, 50), 0);
    assert_int_equal(co_rig_commit(&race.owner), 0);
    assert_int_equal(co_store_checkpoint(race.rig.store), 0);
    for (uint32_t i = 1; i <= RECORDS; i++)
        assert_int_equal(co_rig_write(&race.other, 1, i, 1, 200 + i), 0);
    assert_int_equal(co_rig_commit(&race.other), 0);
    assert_int_equal(co_rig_write(&race.owner, 0, 1, 1, 60), 0);
    co_group_init(&race.group);
    assert_int_equal(co_group_spawn(&race.group, io, "checkpoint", checkpoint_main, &race), 0);
    assert_int_equal(co_sleep_ns(READ_NS + WRITE_NS + 2 * MS), 0); /* it writes down watermarks */
    assert_int_equal(co_rig_commit(&race.owner), 0);
    sim_crash_at_write(half->rig.sim, half->rig.machine, half->nth);
    co_group_wait(&race.group);
    co_rig_close(&race.rig);
}

/* Its column is stale when it comes back. The block is compared by its checksum, so that must be of
 * what is there. */
static void half_dropped_main(struct io *io, void *arg)
{
    struct extent_ref column = {0, 1};
    struct rig_owner owner = {0};
    struct rig_store rig;
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 2, &column, 1), 0);
    assert_int_equal(co_rig_read(&owner, 0, 1, &stamp), 0);
    assert_true(stamp == 50 || stamp == 60);
    co_rig_close(&rig);
}

static void a_copy_is_destaged_when_its_commit_is_durable(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 12; nth++) {
        struct sim_options options = sim_default_options(nth);
        struct half half = {.nth = nth};

        options.disk_read_ns_min = READ_NS;
        options.disk_read_ns_max = READ_NS + 1;
        options.disk_write_ns_min = WRITE_NS;
        options.disk_write_ns_max = WRITE_NS + 1;
        rig_new_with(&half.rig, &options, DISK_BYTES, LOG_BYTES);
        rig_run(&half.rig, half_main, &half);
        sim_crash_at_write(half.rig.sim, half.rig.machine, 0);
        assert_true(rig_run(&half.rig, half_dropped_main, NULL));
        rig_done(&half.rig);
    }
}

/* ---- dropped, by a drop that was placed before it was durable ---- */

static void drop_main(void *arg)
{
    struct race *race = arg;
    struct extent_ref column = {0, 1};

    race->result = co_store_drop_tail(race->rig.store, RIG_VDISK, 1, &column, 1);
}

/* The record is in flight when its drop is gathered behind it, and durable when a checkpoint wants
 * to copy it, which stands behind the drop then. */
static void drop_behind_main(struct io *io, void *arg)
{
    struct race race = {0};
    struct rig_write write;

    (void)arg;
    assert_int_equal(co_rig_open(io, &race.rig), 0);
    assert_int_equal(co_rig_seal(&race.owner, race.rig.store, 1), 0);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(co_rig_write(&race.owner, 0, i, 1, 100 + i), 0);
    assert_int_equal(co_rig_commit(&race.owner), 0);

    rig_prepare(&race.owner, &write, RECORD_WRITE, 0, 0, 1, 200);
    rig_submit(&race.owner, &write);
    assert_int_equal(co_sleep_ns(MS), 0);
    co_group_init(&race.group);
    assert_int_equal(co_group_spawn(&race.group, io, "drop", drop_main, &race), 0);
    assert_int_equal(co_rig_wait(&write), 0);
    assert_int_equal(co_store_checkpoint(race.rig.store), 0);
    co_group_wait(&race.group);
    assert_int_equal(race.result, 0);
    co_expect(&race.owner, 0, 0, 100);
    co_rig_close(&race.rig);

    assert_int_equal(co_rig_open(io, &race.rig), 0);
    race.owner.store = race.rig.store;
    co_expect(&race.owner, 0, 0, 100);
    co_rig_close(&race.rig);
}

static void no_copy_follows_a_drop(void **state)
{
    struct sim_options options = sim_default_options(1);
    struct rig rig;

    (void)state;
    options.disk_read_ns_min = MS;
    options.disk_read_ns_max = MS + 1;
    options.disk_write_ns_min = WRITE_NS;
    options.disk_write_ns_max = WRITE_NS + 1;
    rig_new_with(&rig, &options, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, drop_behind_main, NULL));
    rig_done(&rig);
}

/* ---- the end of its extent's life, told by the database ---- */

#define INDEX 9        /* of the database, when it was told */
#define UNCOMMITTED 40 /* blocks of a record; all together a sixteenth of the log at most */
#define BEGAN 12       /* the generation of a life that began later */

/* Where the log has the block with that stamp. */
static uint64_t co_find_stamp(struct rig_store *rig, uint64_t stamp)
{
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t from = disk_geometry(rig->disk)->log_offset;

    for (uint64_t at = from; at < from + LOG_BYTES; at += BLOCK_SIZE) {
        assert_int_equal(co_io_read(disk_file(rig->disk), block, BLOCK_SIZE, at), 0);
        if (rig_stamp(block) == stamp)
            return at;
    }
    fail();
    return 0;
}

#define TOGETHER 20 /* records of a batch */

/* Extent 0 from its start: records of one block each, a few batches of them. */
static void co_write_together(struct rig_owner *owner, uint32_t records)
{
    struct rig_write writes[TOGETHER];

    for (uint32_t from = 0; from < records; from += TOGETHER) {
        for (uint32_t i = 0; i < TOGETHER; i++) {
            rig_prepare(owner, &writes[i], RECORD_WRITE, 0, from + i, 1, 100 + from + i);
            rig_submit(owner, &writes[i]);
        }
        for (uint32_t i = 0; i < TOGETHER; i++)
            assert_int_equal(co_rig_wait(&writes[i]), 0);
    }
}

/* What is uncommitted before the hole, in extent 0. */
struct before {
    uint32_t blocks;
    bool apart; /* a record to each of them */
    bool alone; /* what was committed has been destaged */
};

/* The log as it is before the hole: that, and uncommitted records of extents 1 and 2. Behind it
 * there was more. */
static void co_make_hole(struct io *io, struct rig_store *rig, const struct before *before)
{
    struct rig_owner owner = {0};

    assert_int_equal(co_rig_open(io, rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig->store, 1), 0);
    for (uint32_t i = 0; i < 16; i++)
        assert_int_equal(co_rig_write(&owner, 3, i, 1, 300 + i), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    if (before->alone)
        assert_int_equal(co_store_checkpoint(rig->store), 0);
    if (before->apart)
        co_write_together(&owner, before->blocks);
    else
        assert_int_equal(co_rig_write(&owner, 0, 0, before->blocks, 100), 0);
    for (uint32_t extent = 1; extent < 3; extent++)
        assert_int_equal(co_rig_write(&owner, extent, 0, 1, 100 + extent), 0);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(co_rig_write(&owner, 3, 20 + i, 1, 320 + i), 0);
    co_rig_close(rig);

    assert_int_equal(co_rig_open(io, rig), 0);
    assert_false(store_health(rig->store)->log_damaged);
    co_rot(rig, co_find_stamp(rig, 320) - BLOCK_SIZE); /* its batch's header */
    co_rig_close(rig);
    assert_int_equal(co_rig_open(io, rig), 0);
    assert_true(disk_log_lost(rig->disk));
}

/* Extent 0 is as it was, extent 1's slab was deleted, and extent 2 has got another life. */
static void settled_main(struct io *io, void *arg)
{
    struct store_extent columns[] = {{.where = {0, 1}, .vdisk = RIG_VDISK},
                                     {.where = {2, INDEX}, .vdisk = OTHER_VDISK, .slab = 2},
                                     {.where = {3, 1}, .vdisk = RIG_VDISK, .slab = 3}};
    struct rig_owner owner = {0}, other = {.vdisk = OTHER_VDISK, .commit = true};
    struct rig_store rig;

    (void)arg;
    co_make_hole(io, &rig, &(struct before){.blocks = 1});
    assert_int_equal(co_store_settle_loss(rig.store, INDEX, columns, ARRAY_SIZE(columns), NULL, 0),
                     0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_seal(&other, rig.store, 2), 0);
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
        assert_int_equal(
            co_store_clear_compare(rig.store, columns[i].vdisk, 2, &columns[i].where, 1), 0);
    co_expect(&owner, 0, 0, 100); /* still uncommitted */
    other.generation = INDEX;
    co_expect(&other, 2, 0, 0);
    assert_int_equal(co_rig_write(&other, 2, 1, 1, 202), 0);
    other.generation = BEGAN;
    assert_int_equal(co_rig_write(&other, 1, 0, 1, 201), 0);
    assert_int_equal(co_rig_commit(&other), 0);
    for (uint32_t i = 0; i < 16; i++) /* enough for a checkpoint to copy what is uncommitted */
        assert_int_equal(co_rig_write(&other, 1, 1 + i, 1, 210 + i), 0);
    assert_int_equal(co_rig_commit(&other), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 1);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(disk_log_lost(rig.disk));
    owner.store = other.store = rig.store;
    co_expect(&owner, 0, 0, 100);
    co_expect(&other, 1, 0, 201);
    other.generation = INDEX;
    co_expect(&other, 2, 0, 0);
    co_expect(&other, 2, 1, 202);
    co_rig_close(&rig);
}

static void a_freed_extent_leaves_nothing_uncommitted(void **state)
{
    (void)state;
    run(DISK_BYTES, settled_main, NULL);
}

/* There is so little to destage that a checkpoint would rather wait for a watermark: who would send
 * one is not served before the loss is settled. */
static void waits_main(struct io *io, void *arg)
{
    const struct before *before = arg;
    struct store_extent column = {.where = {0, 1}, .vdisk = RIG_VDISK};
    struct rig_owner owner = {0};
    struct rig_store rig;

    co_make_hole(io, &rig, before);
    assert_int_equal(co_store_settle_loss(rig.store, INDEX, &column, 1, NULL, 0), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(disk_log_lost(rig.disk));
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 2, &column.where, 1), 0);
    for (uint32_t i = 0; i < before->blocks; i++)
        co_expect(&owner, 0, i, 100 + i);
    co_rig_close(&rig);
}

static void a_loss_is_settled_among_uncommitted_records(void **state)
{
    (void)state;
    run(DISK_BYTES, waits_main, &(struct before){.blocks = UNCOMMITTED, .alone = true});
}

/* Their copies, a batch each, take twice the room that they have: those of a sixteenth of the log
 * more than a checkpoint may write. */
static void a_loss_is_settled_among_many_small_ones(void **state)
{
    (void)state;
    run(DISK_BYTES, waits_main,
        &(struct before){.blocks = 6 * TOGETHER, .apart = true, .alone = true});
}

/* ---- a takeover that writes more than a log holds ---- */

#define LISTED 8 /* extents that get a compare list each, which every checkpoint says again */
#define AGAIN_BLOCKS 16
#define AGAIN_EXTENTS 3 /* as many records as fill the log with no more than this to destage */
#define AGAIN_DISK_BYTES (24 * MIB)

static void submit_next(struct rig_owner *owner, struct rig_write *write, uint32_t i,
                        uint32_t flags)
{
    uint32_t at = i * AGAIN_BLOCKS % (AGAIN_EXTENTS * RIG_EXTENT_BLOCKS);

    rig_prepare(owner, write, RECORD_WRITE, LISTED + at / RIG_EXTENT_BLOCKS, at % RIG_EXTENT_BLOCKS,
                AGAIN_BLOCKS, 1 + i * AGAIN_BLOCKS);
    write->append.record.flags |= flags;
    rig_submit(owner, write);
}

/* One after the other, until one has to wait. Returns how many did not. */
static uint32_t co_fill(struct rig_owner *owner, struct rig_write *write, uint32_t flags)
{
    for (uint32_t i = 0;; i++) {
        submit_next(owner, write, i, flags);
        assert_int_equal(co_sleep_ns(100 * MS), 0);
        if (!write->done)
            return i;
        assert_int_equal(co_rig_wait(write), 0);
    }
}

/* All that is uncommitted fills the log but for what is kept for checkpoints. Then extents have to
 * be compared, and the takeover's watermark comes at last. */
static void again_main(struct io *io, void *arg)
{
    struct rig_owner old = {0}, owner = {0};
    struct extent_ref columns[LISTED];
    struct rig_write waits;
    struct rig_store rig;
    uint32_t count;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&old, rig.store, 1), 0);
    for (uint32_t i = 0; i < LISTED; i++) {
        columns[i] = (struct extent_ref){i, 1};
        assert_int_equal(co_rig_write(&old, i, 0, 1, 100 + i), 0);
    }
    owner.generation = 1;
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    count = co_fill(&owner, &waits, RECORD_REWRITE);
    assert_true(count > LOG_BYTES / BLOCK_SIZE * 3 / 4 / (AGAIN_BLOCKS + 1));
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 2, columns, LISTED), 0);
    assert_int_equal(co_store_mark(rig.store, RIG_VDISK, 2, (struct log_position){2, count}, true),
                     0);
    assert_int_equal(co_rig_wait(&waits), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 0);
    co_expect(&owner, LISTED + count * AGAIN_BLOCKS / RIG_EXTENT_BLOCKS % AGAIN_EXTENTS,
              count * AGAIN_BLOCKS % RIG_EXTENT_BLOCKS, 1 + count * AGAIN_BLOCKS);
    co_rig_close(&rig);
}

static void a_takeover_leaves_room_for_checkpoints(void **state)
{
    (void)state;
    run(AGAIN_DISK_BYTES, again_main, NULL);
}

/* ---- a drop makes room ---- */

/* What is uncommitted fills the log, and another vdisk's write waits for room: no watermark of
 * either will come. */
static void dropped_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0}, other = {.vdisk = OTHER_VDISK};
    struct extent_ref columns[AGAIN_EXTENTS];
    struct rig_write waits, others;
    struct rig_store rig;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_rig_seal(&other, rig.store, 1), 0);
    co_fill(&owner, &waits, 0);
    rig_prepare(&other, &others, RECORD_WRITE, 0, 0, 1, 7);
    rig_submit(&other, &others);
    assert_int_equal(co_sleep_ns(SEC), 0);
    assert_false(others.done);
    for (uint32_t i = 0; i < AGAIN_EXTENTS; i++)
        columns[i] = (struct extent_ref){LISTED + i, owner.generation};
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 1, columns, AGAIN_EXTENTS), 0);
    assert_int_equal(co_rig_wait(&others), 0);
    assert_int_equal(co_rig_wait(&waits), 0);
    co_expect(&other, 0, 0, 7);
    co_rig_close(&rig);
}

static void a_drop_makes_room(void **state)
{
    (void)state;
    run(AGAIN_DISK_BYTES, dropped_main, NULL);
}

/* A column that has nothing to drop gets no list, which every checkpoint would have to write. */
static void listless_main(struct io *io, void *arg)
{
    struct rig_owner owner = {.commit = true};
    struct extent_ref columns[LISTED];
    struct rig_store rig;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    for (uint32_t i = 0; i < LISTED; i++) {
        columns[i] = (struct extent_ref){i, 1};
        assert_int_equal(co_rig_write(&owner, i, 0, 1, 100 + i), 0);
    }
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 1, columns, LISTED), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 200), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_true(store_stats(rig.store).log_used_bytes < 2 * LISTED * BLOCK_SIZE);
    co_rig_close(&rig);
}

static void nothing_dropped_is_not_listed(void **state)
{
    (void)state;
    run(AGAIN_DISK_BYTES, listless_main, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_is_destaged_when_its_commit_is_durable),
        cmocka_unit_test(a_copy_is_of_the_record_that_was_read),
        cmocka_unit_test(no_copy_follows_a_drop),
        cmocka_unit_test(a_freed_extent_leaves_nothing_uncommitted),
        cmocka_unit_test(a_loss_is_settled_among_uncommitted_records),
        cmocka_unit_test(a_loss_is_settled_among_many_small_ones),
        cmocka_unit_test(a_takeover_leaves_room_for_checkpoints),
        cmocka_unit_test(a_drop_makes_room),
        cmocka_unit_test(nothing_dropped_is_not_listed),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
