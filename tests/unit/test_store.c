/* The store keeps the promises of store.h: order, fences, watermarks, reading what was written,
 * destage, columns that return, and errors of the medium. test_store_crash.c has the power cuts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "s2d/base/checksum.h"
#include "tests/unit/store_rig.h"

#define DISK_BYTES (24 * MIB)
#define LOG_BYTES (4 * MIB)

static void with_store(uint64_t seed, void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    rig_new(&rig, seed, DISK_BYTES, LOG_BYTES);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

static uint64_t must_read(struct rig_owner *owner, uint32_t extent, uint32_t block)
{
    uint64_t stamp;

    assert_int_equal(co_rig_read(owner, extent, block, &stamp), 0);
    return stamp;
}

/* ---- writing and reading ---- */

static void read_back_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(must_read(&owner, 0, 5), 0); /* nothing was written: zeros */
    assert_int_equal(co_rig_write(&owner, 0, 5, 3, 100), 0);
    assert_int_equal(co_rig_write(&owner, 0, 6, 1, 200), 0);
    assert_int_equal(must_read(&owner, 0, 5), 100);
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 7), 102);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 0);
    assert_int_equal(must_read(&owner, 0, 5), 100);
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 7), 102);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(must_read(&owner, 0, 6), 200);
    assert_int_equal(must_read(&owner, 0, 8), 0);
    co_rig_close(&rig);
}

static void reads_back_what_was_written(void **state)
{
    (void)state;
    with_store(1, read_back_main, NULL);
}

/* ---- figures ---- */

static void age_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    uint64_t age_ns;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_sleep_ns(100 * SEC), 0);
    assert_int_equal(store_stats(rig.store).dirty_age_ns, 0); /* there is nothing to be old */
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 1), 0);
    assert_in_range(store_stats(rig.store).dirty_age_ns, 0, SEC);
    assert_int_equal(co_sleep_ns(50 * SEC), 0);
    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 2), 0);
    age_ns = store_stats(rig.store).dirty_age_ns;
    assert_in_range(age_ns, 50 * SEC, 51 * SEC); /* the first one counts */
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(store_stats(rig.store).dirty_age_ns, 0);
    for (int i = 0; i < 400; i++) { /* more than there are marks */
        assert_int_equal(co_rig_write(&owner, 0, i % 3, 1, 3), 0);
        assert_int_equal(co_sleep_ns(1700 * MS), 0);
    }
    age_ns = store_stats(rig.store).dirty_age_ns;
    assert_in_range(age_ns, 680 * SEC, 690 * SEC);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0); /* from an earlier life: since the open */
    assert_int_equal(co_sleep_ns(5 * SEC), 0);
    assert_in_range(store_stats(rig.store).dirty_age_ns, 5 * SEC, 6 * SEC);
    co_rig_close(&rig);
}

static void the_oldest_dirty_block_has_an_age(void **state)
{
    (void)state;
    with_store(3, age_main, NULL);
}

/* ---- order and fences ---- */

static void order_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct rig_write good, gap, late;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    owner.vdisk = RIG_VDISK;
    owner.generation = owner.epoch = owner.session = 1;
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 5), -ESTALE); /* nobody sealed it */
    assert_int_equal(co_rig_seal(&owner, rig.store, 3), 0);

    /* all three at once: what follows a gap is refused, and results keep their order */
    rig_prepare(&owner, &good, RECORD_WRITE, 0, 0, 1, 10);
    rig_prepare(&owner, &gap, RECORD_WRITE, 0, 1, 1, 20);
    gap.append.record.prev_seq = 0;
    rig_prepare(&owner, &late, RECORD_WRITE, 0, 2, 1, 30);
    rig_submit(&owner, &good);
    rig_submit(&owner, &gap);
    rig_submit(&owner, &late);
    assert_false(gap.done); /* never from inside */
    assert_int_equal(co_rig_wait(&gap), -EILSEQ);
    assert_true(good.done);
    assert_int_equal(co_rig_wait(&late), -EILSEQ);
    assert_int_equal(co_rig_wait(&good), 0);
    assert_int_equal(must_read(&owner, 0, 1), 0);
    assert_int_equal(must_read(&owner, 0, 2), 0);
    co_rig_close(&rig);
}

/* A cumulative answer must not vouch for what a broken connection swallowed (I4). */
static void a_gap_is_refused(void **state)
{
    (void)state;
    with_store(2, order_main, NULL);
}

static void fence_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner old = {0}, new = {0};
    struct store_stream_info info;
    struct store_seal seal;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&old, rig.store, 1), 0);
    assert_int_equal(co_rig_write(&old, 0, 0, 1, 10), 0);
    assert_int_equal(co_rig_seal(&new, rig.store, 5), 0);
    assert_int_equal(co_rig_write(&old, 0, 0, 1, 11), -ESTALE);
    assert_int_equal(co_store_mark(rig.store, RIG_VDISK, 4, (struct log_position){1, 1}, false),
                     -ESTALE);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 4, NULL, 0), -ESTALE);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 4, 4, &seal), -ESTALE);
    assert_int_equal(seal.sealed_epoch, 5);
    assert_true(store_stream_info(rig.store, RIG_VDISK, &info));
    assert_int_equal(info.session, 5);
    /* a mark of a higher epoch fences too, in the same session: the owner goes on with that epoch
     */
    assert_int_equal(co_store_mark(rig.store, RIG_VDISK, 6, (struct log_position){1, 1}, false), 0);
    assert_int_equal(co_rig_write(&new, 0, 0, 1, 12), -ESTALE);
    new.epoch = 6;
    new.seq = 0;
    assert_int_equal(co_rig_write(&new, 0, 0, 1, 13), 0);
    assert_int_equal(must_read(&new, 0, 0), 13);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    old.store = rig.store;
    assert_int_equal(co_rig_write(&old, 0, 0, 1, 14), -ESTALE);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 5, 5, &seal), -ESTALE);
    assert_int_equal(seal.sealed_epoch, 6);
    co_rig_close(&rig);
}

static void a_higher_epoch_fences_every_call_for_good(void **state)
{
    (void)state;
    with_store(3, fence_main, NULL);
}

static void seal_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct store_seal seal;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 10), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_rig_write(&owner, 1, 7, 2, 20), 0);
    assert_int_equal(co_rig_zero(&owner, 0, 3, 4), 0);

    /* the same owner after a reconnect: it goes on behind `durable` */
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 2, 2, &seal), 0);
    assert_int_equal(seal.durable.session, 2);
    assert_int_equal(seal.durable.seq, 3);
    assert_int_equal(seal.watermark.seq, 1);
    assert_int_equal(seal.tail_count, 2);
    assert_int_equal(seal.tail[0].position.seq, 2);
    assert_int_equal(seal.tail[0].where.extent, 1);
    assert_int_equal(seal.tail[0].block, 7);
    assert_int_equal(seal.tail[0].count, 2);
    assert_int_equal(seal.tail[1].kind, RECORD_ZERO);
    store_seal_done(&seal);
    assert_int_equal(co_rig_write(&owner, 1, 7, 2, 30), 0);
    co_rig_close(&rig);

    /* a new owner, after a restart of the store: it is told all that is above the watermark */
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 9, 9, &seal), 0);
    assert_int_equal(seal.tail_count, 3);
    assert_int_equal(seal.tail[2].position.session, 2);
    assert_int_equal(seal.tail[2].position.seq, 4);
    assert_int_equal(seal.durable.seq, 0); /* nothing of session 9 */
    store_seal_done(&seal);
    co_rig_close(&rig);
}

static void write_of_client(struct rig_owner *owner, uint32_t block, uint64_t number,
                            uint32_t flags)
{
    struct rig_write write;

    rig_prepare(owner, &write, RECORD_WRITE, 0, block, 1, 100 + number);
    write.append.record.client_session = number ? 7 : 0;
    write.append.record.client_number = number;
    write.append.record.flags |= flags;
    rig_submit(owner, &write);
    assert_int_equal(co_rig_wait(&write), 0);
}

static void given_up_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct store_seal seal;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    write_of_client(&owner, 3, 1, 0);
    write_of_client(&owner, 4, 2, 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0); /* nobody can read block 3 of it */
    write_of_client(&owner, 3, 0, RECORD_REWRITE | RECORD_OLDER);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0); /* and it stays so */
    owner.store = rig.store;
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 3, 3, &seal), 0);
    assert_int_equal(seal.tail_count, 1);
    assert_int_equal(seal.tail[0].client_number, 2);
    store_seal_done(&seal);
    co_rig_close(&rig);
}

/* What a takeover could not read, and put an older version over, is committed by its watermark like
 * the rest; but its request did not happen. */
static void a_request_that_was_given_up_is_not_remembered(void **state)
{
    (void)state;
    with_store(1, given_up_main, NULL);
}

static void a_seal_reports_the_tail(void **state)
{
    (void)state;
    with_store(4, seal_main, NULL);
}

static void refuse_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct rig_write write;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    rig_prepare(&owner, &write, RECORD_WRITE, 0, 0, 2, 10);
    write.data[5000] ^= 1;
    rig_submit(&owner, &write);
    assert_int_equal(co_rig_wait(&write), -EBADMSG);
    owner.seq = 0;
    assert_int_equal(co_rig_write(&owner, 0, RIG_EXTENT_BLOCKS - 1, 2, 1), -EINVAL);
    owner.seq = 0;
    assert_int_equal(co_rig_write(&owner, 5000, 0, 1, 1), -EINVAL);
    owner.seq = 0;
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 11), 0); /* and it goes on */
    assert_int_equal(must_read(&owner, 0, 0), 11);
    co_rig_close(&rig);
}

static void refuses_what_makes_no_sense(void **state)
{
    (void)state;
    with_store(5, refuse_main, NULL);
}

/* ---- watermarks and destage ---- */

static uint64_t place_stamp(struct io *io, struct rig_store *rig, uint32_t extent, uint32_t block)
{
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    (void)io;
    assert_int_equal(co_io_read(disk_file(rig->disk), data, BLOCK_SIZE,
                                disk_block_offset(disk_geometry(rig->disk), extent, block)),
                     0);
    return rig_stamp(data);
}

static void destage_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 10), 0);
    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 11), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 20), 0); /* above the watermark */
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(place_stamp(io, &rig, 0, 0), 10);
    assert_int_equal(place_stamp(io, &rig, 0, 1), 11);
    assert_int_equal(store_stats(rig.store).dirty_blocks, 1);
    assert_int_equal(must_read(&owner, 0, 0), 20);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(place_stamp(io, &rig, 0, 0), 20);
    co_rig_close(&rig);
}

/* Destaged means committed (I2): what no watermark covers stays in the log, whatever is destaged
 * around it. */
static void only_committed_records_are_destaged(void **state)
{
    (void)state;
    with_store(6, destage_main, NULL);
}

static void full_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct rig_write *writes = calloc(2000, sizeof(*writes));
    uint32_t done = 0;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    for (uint32_t i = 0; i < 2000; i++) { /* twice the log */
        rig_prepare(&owner, &writes[i], RECORD_WRITE, i % 8, i / 8 % RIG_EXTENT_BLOCKS, 1, i + 1);
        rig_submit(&owner, &writes[i]);
    }
    assert_int_equal(co_sleep_ns(SEC), 0);
    while (done < 2000 && writes[done].done)
        done++;
    assert_in_range(done, 500, 1000); /* an eighth is kept; nothing of it can be destaged */

    /* the watermark frees room, and all of it lands, in order */
    for (uint32_t i = 0; i < 2000; i++) {
        while (!writes[i].done) {
            struct log_position watermark = {1, i};

            assert_int_equal(co_store_mark(rig.store, RIG_VDISK, 1, watermark, false), 0);
            assert_int_equal(co_sleep_ns(MS), 0);
        }
        assert_int_equal(co_rig_wait(&writes[i]), 0);
    }
    for (uint32_t i = 0; i < 2000; i++)
        assert_int_equal(must_read(&owner, i % 8, i / 8 % RIG_EXTENT_BLOCKS), i + 1);
    free(writes);
    co_rig_close(&rig);
}

static void a_full_log_waits_for_a_watermark(void **state)
{
    (void)state;
    with_store(7, full_main, NULL);
}

#define FILL_WRITES 1500 /* more than the log holds */

/* Submits them all, none of them committed; some wait for room after this. For free() when they
 * have been waited for. */
static struct rig_write *co_fill_log(struct rig_owner *owner)
{
    struct rig_write *writes = calloc(FILL_WRITES, sizeof(*writes));

    for (uint32_t i = 0; i < FILL_WRITES; i++) {
        rig_prepare(owner, &writes[i], RECORD_WRITE, 0, i % RIG_EXTENT_BLOCKS, 1, i + 1);
        rig_submit(owner, &writes[i]);
    }
    assert_int_equal(co_sleep_ns(SEC), 0);
    return writes;
}

static void full_seal_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner old = {0}, new = {0};
    struct rig_write *writes;
    struct store_seal seal;
    uint32_t stale = 0;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&old, rig.store, 1), 0);
    writes = co_fill_log(&old);
    /* a dead owner's backlog must not keep the next one out */
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 2, 2, &seal), 0);
    for (uint32_t i = 0; i < FILL_WRITES; i++) {
        int r = co_rig_wait(&writes[i]);

        assert_true(r == 0 || r == -ESTALE);
        assert_true(r == -ESTALE || stale == 0); /* in order */
        stale += r == -ESTALE;
    }
    assert_true(stale > 0);
    assert_int_equal(seal.tail_count, FILL_WRITES - stale);
    store_seal_done(&seal);
    new = (struct rig_owner){.store = rig.store, .vdisk = RIG_VDISK, .generation = 1};
    new.epoch = new.session = 2;
    new.watermark = (struct log_position){1, FILL_WRITES - stale};
    assert_int_equal(co_rig_write(&new, 0, 0, 1, 9000), 0);
    assert_int_equal(must_read(&new, 0, 0), 9000);
    free(writes);
    co_rig_close(&rig);
}

static void full_let_go_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct rig_write *writes;
    uint32_t stale = 0;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    writes = co_fill_log(&owner);
    store_let_go(rig.store, RIG_VDISK, owner.session + 1); /* not this one */
    store_let_go(rig.store, RIG_VDISK + 1, owner.session);
    assert_int_equal(co_sleep_ns(SEC), 0);
    assert_false(writes[FILL_WRITES - 1].done);

    store_let_go(rig.store, RIG_VDISK, owner.session);
    for (uint32_t i = 0; i < FILL_WRITES; i++) {
        int r = co_rig_wait(&writes[i]);

        assert_true(r == 0 || (r == -ESTALE && i > 0));
        assert_true(r == -ESTALE || stale == 0); /* in order */
        stale += r == -ESTALE;
    }
    assert_true(stale > 0);
    free(writes);
    co_rig_close(&rig);
}

/* An owner that stops waits for what it has sent; a full log would have it wait for its successor.
 */
static void a_log_lets_go_of_what_waits_for_room(void **state)
{
    (void)state;
    with_store(8, full_let_go_main, NULL);
}

static void a_seal_turns_away_what_waits_for_room(void **state)
{
    (void)state;
    with_store(8, full_seal_main, NULL);
}

/* The records that fill a log may be the very ones that a takeover has to write again: it must get
 * by without the room that only its own watermark would free. */
static void full_takeover_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner old = {0}, new = {0};
    struct rig_write *writes, again[40], ordinary;
    struct store_seal seal;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&old, rig.store, 1), 0);
    writes = co_fill_log(&old);
    assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 2, 2, &seal), 0);
    store_seal_done(&seal);
    for (uint32_t i = 0; i < FILL_WRITES; i++)
        (void)co_rig_wait(&writes[i]);

    new = (struct rig_owner){.store = rig.store, .vdisk = RIG_VDISK, .generation = 1};
    new.epoch = new.session = 2;
    for (uint32_t i = 0; i < ARRAY_SIZE(again); i++) {
        rig_prepare(&new, &again[i], RECORD_WRITE, 0, i, 1, 5000 + i);
        again[i].append.record.flags |= RECORD_REWRITE;
        rig_submit(&new, &again[i]);
    }
    assert_int_equal(co_sleep_ns(SEC), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(again); i++)
        assert_true(again[i].done);
    /* an ordinary write still waits, and what is written again never passes one of its stream */
    rig_prepare(&new, &ordinary, RECORD_WRITE, 0, 100, 1, 9000);
    rig_submit(&new, &ordinary);
    for (uint32_t i = 0; i < ARRAY_SIZE(again); i++)
        assert_int_equal(co_rig_wait(&again[i]), 0);
    rig_prepare(&new, &again[0], RECORD_WRITE, 0, 101, 1, 9001);
    again[0].append.record.flags |= RECORD_REWRITE;
    rig_submit(&new, &again[0]);
    assert_int_equal(co_sleep_ns(SEC), 0);
    assert_false(ordinary.done);
    assert_false(again[0].done);

    assert_int_equal(
        co_store_mark(rig.store, RIG_VDISK, 2, (struct log_position){2, ARRAY_SIZE(again)}, false),
        0);
    assert_int_equal(co_rig_wait(&ordinary), 0);
    assert_int_equal(co_rig_wait(&again[0]), 0);
    assert_int_equal(must_read(&new, 0, 7), 5007);
    assert_int_equal(must_read(&new, 0, 100), 9000);
    assert_int_equal(must_read(&new, 0, 101), 9001);
    free(writes);
    co_rig_close(&rig);
}

static void a_takeover_needs_no_free_log(void **state)
{
    (void)state;
    with_store(8, full_takeover_main, NULL);
}

/* ---- trims ---- */

static void trim_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(co_rig_write(&owner, 2, 10, 20, 100), 0);
        if (round > 0) { /* in the log in the first round, in place in the others */
            assert_int_equal(co_rig_commit(&owner), 0);
            assert_int_equal(co_store_checkpoint(rig.store), 0);
        }
        assert_int_equal(co_rig_zero(&owner, 2, 15, 5), 0);
        assert_int_equal(must_read(&owner, 2, 14), 104);
        assert_int_equal(must_read(&owner, 2, 15), 0);
        assert_int_equal(must_read(&owner, 2, 19), 0);
        assert_int_equal(must_read(&owner, 2, 20), 110);
        assert_int_equal(co_rig_write(&owner, 2, 16, 1, 500), 0);
        assert_int_equal(must_read(&owner, 2, 15), 0);
        assert_int_equal(must_read(&owner, 2, 16), 500);
        assert_int_equal(co_rig_commit(&owner), 0);
        if (round == 2)
            assert_int_equal(co_rig_zero(&owner, 2, 0, RIG_EXTENT_BLOCKS), 0);
        assert_int_equal(co_rig_commit(&owner), 0);
        assert_int_equal(co_store_checkpoint(rig.store), 0);
        assert_int_equal(must_read(&owner, 2, 14), round == 2 ? 0 : 104);
        assert_int_equal(must_read(&owner, 2, 16), round == 2 ? 0 : 500);
        co_rig_close(&rig);
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_int_equal(must_read(&owner, 2, 16), round == 2 ? 0 : 500);
    }
    co_rig_close(&rig);
}

static void trimmed_blocks_read_as_zeros(void **state)
{
    (void)state;
    with_store(9, trim_main, NULL);
}

/* ---- extents ---- */

static void count_extents(void *arg, const struct store_extent *extent)
{
    (void)extent;
    ++*(unsigned *)arg;
}

static void extent_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.generation = 5, .commit = true};
    unsigned count = 0;
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 3, 0, 2, 100), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    owner.generation = 4;
    assert_int_equal(co_rig_read(&owner, 3, 0, &stamp), -ESTALE);
    owner.generation = 6;
    assert_int_equal(must_read(&owner, 3, 0), 0); /* nothing of that life is here */
    assert_int_equal(co_rig_write(&owner, 3, 1, 1, 200), 0);
    assert_int_equal(must_read(&owner, 3, 0), 0); /* no other file's data (I10) */
    assert_int_equal(must_read(&owner, 3, 1), 200);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(must_read(&owner, 3, 0), 0);
    assert_int_equal(must_read(&owner, 3, 1), 200);
    store_each_extent(rig.store, count_extents, &count);
    assert_int_equal(count, 1);

    assert_int_equal(co_store_free_extent(rig.store, (struct extent_ref){3, 5}), -ESTALE);
    assert_int_equal(co_store_free_extent(rig.store, (struct extent_ref){3, 6}), 0);
    assert_int_equal(co_store_free_extent(rig.store, (struct extent_ref){3, 6}), 0);
    assert_int_equal(co_rig_read(&owner, 3, 1, &stamp), -ESTALE);
    count = 0;
    store_each_extent(rig.store, count_extents, &count);
    assert_int_equal(count, 0);
    co_rig_close(&rig);
}

static void a_new_generation_shows_nothing_of_the_old(void **state)
{
    (void)state;
    with_store(10, extent_main, NULL);
}

/* ---- resync ---- */

static bool in_set(const uint64_t *bitmap, uint32_t block)
{
    return bitmap[block / 64] >> (block % 64) & 1;
}

static void stamp_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct extent_ref where = {0, 1}, other = {1, 1};
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 1, 0, 1, 1), 0);
    assert_int_equal(co_rig_commit(&owner), 0); /* learnt in epoch 2 */
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 1), 0);
    owner.epoch = 3; /* a column went stale; the commit is learnt in epoch 3 */
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);

    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 3, bitmap), 0);
    assert_true(in_set(bitmap, 0)); /* a page's stamp is the commit's, not the record's */
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, other, 3, bitmap), 0);
    assert_false(in_set(bitmap, 0));
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, other, 2, bitmap), 0);
    assert_true(in_set(bitmap, 0));
    /* blocks in the log count for the source as well */
    assert_int_equal(co_rig_write(&owner, 1, 77, 1, 2), 0);
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, other, 9, bitmap), 0);
    assert_true(in_set(bitmap, 77));
    assert_false(in_set(bitmap, 0));
    co_rig_close(&rig);
}

static void pages_bear_the_epoch_that_told_of_the_commit(void **state)
{
    (void)state;
    with_store(11, stamp_main, NULL);
}

static void drop_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct extent_ref where = {0, 1};
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};
    struct store_seal seal;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 2, 10), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(co_rig_write(&owner, 0, 1, 2, 20), 0);
    assert_int_equal(co_rig_write(&owner, 1, 5, 1, 30), 0);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 3, &where, 1), 0);
    assert_int_equal(must_read(&owner, 0, 1), 11);
    assert_int_equal(must_read(&owner, 0, 2), 0);
    assert_int_equal(must_read(&owner, 1, 5), 30); /* another column's tail stays */
    co_rig_close(&rig);

    for (int round = 0; round < 2; round++) { /* over a restart, and over a checkpoint */
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_int_equal(must_read(&owner, 0, 1), 11);
        memset(bitmap, 0, sizeof(bitmap));
        assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 0, bitmap), 0);
        assert_false(in_set(bitmap, 0));
        assert_true(in_set(bitmap, 1));
        assert_true(in_set(bitmap, 2));
        assert_int_equal(co_store_seal(rig.store, RIG_VDISK, 4 + round, 4 + round, &seal), 0);
        assert_int_equal(seal.tail_count, 1);
        store_seal_done(&seal);
        assert_int_equal(co_store_checkpoint(rig.store), 0);
        co_rig_close(&rig);
    }
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 9, &where, 1), 0);
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 0, bitmap), 0);
    assert_false(in_set(bitmap, 1));
    co_rig_close(&rig);
}

static void a_dropped_tail_goes_on_the_compare_list(void **state)
{
    (void)state;
    with_store(12, drop_main, NULL);
}

/* ---- rot ---- */

static void co_flip(struct rig_store *rig, uint64_t offset)
{
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t at = ALIGN_DOWN(offset, BLOCK_SIZE);

    assert_int_equal(co_io_read(disk_file(rig->disk), block, BLOCK_SIZE, at), 0);
    block[offset - at] ^= 0x10;
    assert_int_equal(co_io_write(disk_file(rig->disk), block, BLOCK_SIZE, at, IO_WRITE_DSYNC), 0);
}

static void rot_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};
    struct extent_ref where = {0, 1};
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, 4 * BLOCK_SIZE);
    struct block_set bad = {0};
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 4, 10), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);

    /* in data: that block and no other */
    co_flip(&rig, disk_block_offset(disk_geometry(rig.disk), 0, 2) + 100);
    assert_int_equal(co_store_read(rig.store, RIG_VDISK, where, 0, 4, 0, data, NULL, &bad),
                     -EBADMSG);
    assert_int_equal(bad.bits[0], BIT(2));
    assert_int_equal(rig_stamp(data), 10);
    assert_int_equal(rig_stamp(data + 3 * BLOCK_SIZE), 13);
    assert_true(rig.errors > 0);
    assert_int_equal(co_rig_write(&owner, 0, 2, 1, 50), 0); /* a repair */
    assert_int_equal(must_read(&owner, 0, 2), 50);
    assert_int_equal(co_rig_commit(&owner), 0);
    co_rig_close(&rig);

    /* in a checksum page: its blocks are unknown, never zeros, until they are written again */
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    co_flip(&rig, disk_page_offset(disk_geometry(rig.disk), 0) + 200);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(co_rig_read(&owner, 0, 1, &stamp), -EBADMSG);
    assert_int_equal(store_health(rig.store)->corrupt_pages, 1);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 60), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(must_read(&owner, 0, 1), 60);
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), -EBADMSG);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(must_read(&owner, 0, 1), 60);
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), -EBADMSG);
    co_rig_close(&rig);
}

static void rot_is_found_and_named(void **state)
{
    (void)state;
    with_store(13, rot_main, NULL);
}

/* Wherever the list of block 4 alone lies in the log, its bit is lost. Returns in how many places.
 */
static unsigned co_rot_list(struct rig_store *rig)
{
    static const uint8_t zeros[BLOCK_SIZE];
    const struct disk_geometry *geometry = disk_geometry(rig->disk);
    cleanup(freep) uint64_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    unsigned count = 0;

    for (uint64_t at = 0; at < geometry->log_bytes; at += BLOCK_SIZE) {
        assert_int_equal(
            co_io_read(disk_file(rig->disk), block, BLOCK_SIZE, geometry->log_offset + at), 0);
        if (block[0] != BIT(4) || memcmp(block + 1, zeros, BLOCK_SIZE - sizeof(*block)) != 0)
            continue;
        co_flip(rig, geometry->log_offset + at);
        count++;
    }
    return count;
}

static void rotten_list_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct extent_ref where = {0, 1};
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 0, 4, 1, 10), 0);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 3, &where, 1), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0); /* carries the list on */
    assert_true(co_rot_list(&rig) > 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 0, bitmap), 0);
    for (uint32_t block = 0; block < RIG_EXTENT_BLOCKS; block++)
        assert_true(in_set(bitmap, block));
    co_rig_close(&rig);
}

/* Who knows no longer what to compare compares everything. */
static void a_rotten_compare_list_is_not_believed(void **state)
{
    (void)state;
    with_store(19, rotten_list_main, NULL);
}

static void rotten_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};
    const struct disk_geometry *geometry;
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    geometry = disk_geometry(rig.disk);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 8, 10), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    for (uint32_t block = 0; block < 4; block++) {
        co_flip(&rig, disk_block_offset(geometry, 0, block));
        for (int again = 0; again < 2; again++)
            assert_int_equal(co_rig_read(&owner, 0, block, &stamp), -EBADMSG);
        assert_int_equal(store_stats(rig.store).rotten_blocks, block + 1);
    }
    assert_int_equal(store_stats(rig.store).verify_errors, 8);

    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 50), 0);
    assert_int_equal(store_stats(rig.store).rotten_blocks, 3);
    co_flip(&rig, disk_block_offset(geometry, 0, 2)); /* the device had a bad moment */
    assert_int_equal(must_read(&owner, 0, 2), 12);
    assert_int_equal(store_stats(rig.store).rotten_blocks, 2);
    assert_int_equal(co_rig_write(&owner, 1, 0, 8, 20), 0); /* another extent */
    assert_int_equal(must_read(&owner, 1, 0), 20);
    assert_int_equal(store_stats(rig.store).rotten_blocks, 2);
    assert_int_equal(co_store_free_extent(rig.store, (struct extent_ref){0, 1}), 0);
    assert_int_equal(store_stats(rig.store).rotten_blocks, 0);
    co_rig_close(&rig);
}

/* However often a rotten block is looked at, it is one; repaired, replaced or freed, it is none:
 * else a disk that was healed would be complained of for ever. */
static void a_rotten_block_counts_until_it_is_repaired(void **state)
{
    (void)state;
    with_store(14, rotten_main, NULL);
}

#define LOG_BLOCK(rig, n) (disk_geometry((rig)->disk)->log_offset + (2 + (n)) * BLOCK_SIZE)

static void any_damaged(void *arg, const struct store_extent *extent)
{
    *(unsigned *)arg += extent->damaged;
}

static void hole_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct extent_ref where = {0, 1};
    struct store_extent columns[2] = {{.where = {0, 1}, .vdisk = RIG_VDISK},
                                      {.where = {1, 1}, .vdisk = RIG_VDISK}};
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64], stamp;
    unsigned damaged;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0); /* batch of one block at 0 */
    for (uint32_t i = 0; i < 10; i++)                       /* batches of two blocks: 1, 3, 5 … */
        assert_int_equal(co_rig_write(&owner, 0, i, 1, 100 + i), 0);
    assert_int_equal(co_rig_write(&owner, 1, 0, 1, 110), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(store_health(rig.store)->log_damaged);
    co_flip(&rig, LOG_BLOCK(&rig, 5) + 30); /* the third record's header */
    co_rig_close(&rig);

    for (int round = 0; round < 3; round++) { /* it is said again until it was dealt with */
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_true(store_health(rig.store)->log_damaged);
        damaged = 0;
        store_each_extent(rig.store, any_damaged, &damaged);
        assert_int_equal(damaged, 1);
        assert_int_equal(co_rig_read(&owner, 0, 1, &stamp), -ESTALE); /* who asks does not know */
        memset(bitmap, 0, sizeof(bitmap));
        assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 0, bitmap), 0);
        assert_true(in_set(bitmap, 2));
        assert_true(in_set(bitmap, RIG_EXTENT_BLOCKS - 1)); /* everything */
        memset(bitmap, 0, sizeof(bitmap)); /* as a source too: its stamps may be gone */
        assert_int_equal(co_store_compare_set(rig.store, RIG_VDISK, where, 1, bitmap), 0);
        assert_true(in_set(bitmap, 2));
        assert_true(in_set(bitmap, RIG_EXTENT_BLOCKS - 1));
        assert_int_equal(co_rig_seal(&owner, rig.store, 2 + round), 0);
        assert_int_equal(co_rig_write(&owner, 0, 20 + round, 1, 200), 0);
        if (round == 1)
            assert_int_equal(co_store_checkpoint(rig.store), 0);
        co_rig_close(&rig);
    }
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    /* the database knows of an extent that began there */
    assert_int_equal(co_store_settle_loss(rig.store, 9, columns, 2, NULL, 0), 0);
    damaged = 0;
    store_each_extent(rig.store, any_damaged, &damaged);
    assert_int_equal(damaged, 2);
    for (int i = 0; i < 2; i++)
        assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 9, &columns[i].where, 1), 0);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(store_health(rig.store)->log_damaged);
    owner.store = rig.store;
    assert_int_equal(must_read(&owner, 0, 1), 101);
    assert_int_equal(must_read(&owner, 0, 2), 0); /* gone: that is why the column was stale */
    /* nothing of what lay behind the hole came back as a continuation */
    assert_int_equal(must_read(&owner, 0, 5), 0);
    assert_int_equal(must_read(&owner, 0, 22), 200);
    co_rig_close(&rig);
}

/* A hole in the middle is never taken for the end (I9): the columns are stale, and stay so. */
static void a_hole_in_the_log_is_damage(void **state)
{
    (void)state;
    with_store(14, hole_main, NULL);
}

static void anchors_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};
    uint64_t log_offset;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    log_offset = disk_geometry(rig.disk)->log_offset;
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    for (uint32_t i = 0; i < 1200; i++) /* more than a lap */
        assert_int_equal(co_rig_write(&owner, i % 4, i % 64, 1, 100 + i), 0);
    assert_true(store_stats(rig.store).checkpoints > 0);
    co_flip(&rig, log_offset + 20);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0); /* one is enough */
    co_flip(&rig, log_offset + 20);
    co_flip(&rig, log_offset + BLOCK_SIZE + 20);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0); /* none: the ring knows */
    owner.store = rig.store;
    assert_false(store_health(rig.store)->log_damaged);
    for (uint32_t i = 1200 - 64; i < 1200; i++)
        assert_int_equal(must_read(&owner, i % 4, i % 64), 100 + i);
    co_rig_close(&rig);
}

static void lost_anchors_are_survived(void **state)
{
    (void)state;
    with_store(15, anchors_main, NULL);
}

/* Two blocks of extent 2 are in place, and its row. */
static void co_open_with_row(struct io *io, struct rig_store *rig, struct rig_owner *owner)
{
    assert_int_equal(co_rig_open(io, rig), 0);
    assert_int_equal(co_rig_seal(owner, rig->store, 1), 0);
    assert_int_equal(co_rig_write(owner, 2, 0, 2, 10), 0);
    assert_int_equal(co_rig_commit(owner), 0);
    assert_int_equal(co_store_checkpoint(rig->store), 0);
}

static void table_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true, .generation = 3};
    struct extent_ref where = {2, 3};
    uint64_t stamp;

    (void)arg;
    co_open_with_row(io, &rig, &owner);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    co_flip(&rig, disk_geometry(rig.disk)->table_offset + 1000);
    co_rig_close(&rig);

    for (int round = 0; round < 2; round++) {
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_true(store_health(rig.store)->log_damaged);
        assert_true(store_health(rig.store)->lost_extents > 0);
        assert_int_equal(co_rig_read(&owner, 2, 0, &stamp), -EBADMSG); /* never zeros */
        co_rig_close(&rig);
    }
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 2, 1, 1, 50), 0); /* the owner says what it is */
    assert_int_equal(co_rig_read(&owner, 2, 1, &stamp), -ESTALE);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 2, &where, 1), 0);
    assert_int_equal(must_read(&owner, 2, 1), 50);
    assert_int_equal(must_read(&owner, 2, 0), 10); /* its pages prove what they hold */
    co_rig_close(&rig);
}

static void a_lost_table_block_never_reads_as_zeros(void **state)
{
    (void)state;
    with_store(16, table_main, NULL);
}

static void forgiven_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true, .generation = 3};
    struct extent_ref where = {2, 3};
    uint64_t stamp;

    (void)arg;
    co_open_with_row(io, &rig, &owner);
    assert_int_equal(co_rig_zero(&owner, 2, 0, RIG_EXTENT_BLOCKS), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0); /* its page is given up, and stays there */
    assert_int_equal(must_read(&owner, 2, 0), 0);
    assert_int_equal(co_rig_write(&owner, 2, 5, 1, 50), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 1, &where, 1), 0);
    co_flip(&rig, disk_geometry(rig.disk)->table_offset + 1000);
    co_rig_close(&rig);

    for (int round = 0; round < 2; round++) {
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_int_equal(co_rig_read(&owner, 2, 0, &stamp), -ESTALE);
        co_rig_close(&rig);
    }
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_zero(&owner, 2, 0, 5), 0); /* it was compared */
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 2, &where, 1), 0);
    co_rig_close(&rig);
    for (int round = 0; round < 3; round++) { /* said of the lost row, and then of one in place */
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
        assert_int_equal(must_read(&owner, 2, 0), 0);
        assert_int_equal(must_read(&owner, 2, 5), 50);
        if (round == 1)
            assert_int_equal(co_store_checkpoint(rig.store), 0);
        co_rig_close(&rig);
    }
}

/* "In-sync again" was said before the row was lost. Said to the row that a replay makes of a
 * record, it would be believed which of its pages count, and what was trimmed would come back. */
static void an_old_word_does_not_excuse_a_lost_row(void **state)
{
    (void)state;
    with_store(16, forgiven_main, NULL);
}

/* Extent 2 has its row and two blocks in place, extent 0 a record in the log alone; then the block
 * of the table rots that all rows are in. Returns how many there are. */
static uint32_t co_lose_rows(struct io *io, struct rig_owner *owner)
{
    struct rig_store rig;
    uint32_t extents;

    co_open_with_row(io, &rig, owner);
    assert_int_equal(co_rig_write(owner, 0, 7, 1, 20), 0);
    extents = disk_geometry(rig.disk)->extent_count;
    assert_int_equal(disk_geometry(rig.disk)->table_blocks, 1);
    co_flip(&rig, disk_geometry(rig.disk)->table_offset + 1000);
    co_rig_close(&rig);
    return extents;
}

static void made_anew_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true, .generation = 3};
    struct extent_ref where = {0, 3};
    uint32_t extents = co_lose_rows(io, &owner);

    (void)arg;
    for (int round = 0; round < 2; round++) { /* made anew by a replay; read from its place */
        assert_int_equal(co_rig_open(io, &rig), 0);
        assert_true(store_health(rig.store)->log_damaged);
        assert_int_equal(store_health(rig.store)->lost_extents, extents);
        assert_int_equal(store_lost_extents(rig.store), extents - 1);
        assert_int_equal(co_store_checkpoint(rig.store), 0);
        co_rig_close(&rig);
    }
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_store_clear_compare(rig.store, RIG_VDISK, 2, &where, 1), 0);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(store_health(rig.store)->lost_extents, extents - 1);
    co_rig_close(&rig);
}

/* The log may know of every row that was lost. Who is told of damage and of no lost row would look
 * for a hole in the log. */
static void a_row_that_the_log_made_anew_was_lost(void **state)
{
    (void)state;
    with_store(16, made_anew_main, NULL);
}

static void nobodys_main(struct io *io, void *arg)
{
    const struct store_extent columns[] = {{.where = {0, 3}, .vdisk = RIG_VDISK},
                                           {.where = {2, 3}, .vdisk = RIG_VDISK}};
    const uint64_t index = 9;
    struct rig_store rig;
    struct rig_owner owner = {.commit = true, .generation = 3};
    uint32_t extents = co_lose_rows(io, &owner);
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(store_lost_extents(rig.store), extents - 1);
    assert_int_equal(co_store_free_lost(rig.store, index, columns, ARRAY_SIZE(columns)), 0);
    assert_int_equal(store_lost_extents(rig.store), 1); /* what somebody has is not given back */
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_read(&owner, 2, 0, &stamp), -EBADMSG);
    assert_int_equal(co_rig_read(&owner, 0, 7, &stamp), -ESTALE);
    owner.generation = index; /* of a life that ended before */
    assert_int_equal(co_rig_write(&owner, 1, 0, 1, 30), -ESTALE);
    assert_int_equal(co_rig_seal(&owner, rig.store, 3), 0);
    owner.generation = index + 1; /* placed there since: sound from its first record on */
    assert_int_equal(co_rig_write(&owner, 1, 0, 1, 40), 0);
    for (int round = 0; round < 3; round++) { /* by the log, and then in its place */
        assert_int_equal(must_read(&owner, 1, 0), 40);
        assert_int_equal(must_read(&owner, 1, 1), 0);
        assert_int_equal(store_lost_extents(rig.store), 1);
        if (round == 1)
            assert_int_equal(co_store_checkpoint(rig.store), 0);
        co_rig_close(&rig);
        assert_int_equal(co_rig_open(io, &rig), 0);
        owner.store = rig.store;
    }
    /* both volumes were deleted */
    assert_int_equal(co_store_free_lost(rig.store, index, NULL, 0), 0);
    assert_int_equal(co_store_free_extent(rig.store, columns[0].where), 0);
    assert_int_equal(store_lost_extents(rig.store), 0);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_false(store_health(rig.store)->log_damaged);
    assert_int_equal(store_health(rig.store)->lost_extents, 0);
    co_rig_close(&rig);
}

/* A row that was lost while its extent was free: no owner ever comes to say whose it is. It would
 * be told at each start, and the column that is placed there next would begin its life damaged. */
static void a_lost_row_that_is_nobodys_is_freed(void **state)
{
    (void)state;
    with_store(16, nobodys_main, NULL);
}

static void freed_list_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {0};
    struct extent_ref where = {0, 1};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    assert_int_equal(co_rig_write(&owner, 0, 4, 1, 10), 0);
    assert_int_equal(co_store_drop_tail(rig.store, RIG_VDISK, 3, &where, 1), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0); /* the list is in the log */
    assert_int_equal(co_store_free_extent(rig.store, where), 0);
    co_rig_close(&rig);

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_store_checkpoint(rig.store), 0);
    assert_int_equal(co_rot_list(&rig), 1); /* the one from before: it was not carried on */
    co_rig_close(&rig);
}

/* The list of an extent that was given back goes with it, at a start as well, or each checkpoint
 * would carry it on: it is nobody's to clear. */
static void a_freed_extent_has_no_compare_list(void **state)
{
    (void)state;
    with_store(20, freed_list_main, NULL);
}

/* ---- errors of the medium ---- */

struct fault_plan {
    struct sim *sim;
    enum sim_disk_fault fault;
    uint64_t after_ns;
    uint64_t acknowledged[64]; /* stamps, by block */
    unsigned failed;
};

static void strike(void *arg)
{
    struct fault_plan *plan = arg;

    sim_disk_set_fault(plan->sim, 1, RIG_PATH, plan->fault);
}

static void fault_main(struct io *io, void *arg)
{
    struct fault_plan *plan = arg;
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};
    uint64_t stamp;
    int r;

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    assert_int_equal(sim_call_at(plan->sim, sim_now_ns(plan->sim) + plan->after_ns, strike, plan),
                     0);
    for (uint32_t i = 0; i < 900; i++) {
        r = co_rig_write(&owner, i % 8, i % 64, 1, 1 + i);
        assert_true(r == 0 || r == -EIO);
        if (r == 0)
            plan->acknowledged[i % 64] = 1 + i;
        else
            plan->failed++;
        if (i % 10 == 0) {
            r = co_rig_read(&owner, i % 8, i % 64, &stamp);
            assert_true(r == 0 || r == -EBADMSG || r == -EIO);
        }
        if (i % 100 == 99) {
            r = co_store_checkpoint(rig.store);
            assert_true(r == 0 || r == -EIO);
        }
    }
    if (plan->fault == SIM_DISK_DEAD || plan->fault == SIM_DISK_WRITE_ERRORS) {
        assert_true(plan->failed > 0);
        assert_true(rig.errors > 0); /* an event, never an abort */
    }
    co_rig_close(&rig);
}

static void fault_over_main(struct io *io, void *arg)
{
    struct fault_plan *plan = arg;
    struct rig_store rig;
    struct rig_owner owner = {0};

    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 2), 0);
    for (uint32_t block = 0; block < 64; block++)
        if (plan->acknowledged[block] != 0)
            assert_true(must_read(&owner, block % 8, block) >= plan->acknowledged[block]);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 5000), 0);
    co_rig_close(&rig);
}

/* The disk fails at any moment of the work; nothing aborts, and what was acknowledged is there when
 * the disk is back. */
static void errors_are_events(void **state)
{
    static const enum sim_disk_fault faults[] = {SIM_DISK_READ_ERRORS, SIM_DISK_WRITE_ERRORS,
                                                 SIM_DISK_DEAD};

    (void)state;
    for (unsigned i = 0; i < 60; i++) {
        struct fault_plan plan = {.fault = faults[i % 3], .after_ns = (i / 3) * 3 * MS + i * US};
        struct rig rig;

        rig_new(&rig, 100 + i, DISK_BYTES, LOG_BYTES);
        plan.sim = rig.sim;
        assert_true(rig_run(&rig, fault_main, &plan));
        sim_disk_set_fault(rig.sim, 1, RIG_PATH, SIM_DISK_OK);
        assert_true(rig_run(&rig, fault_over_main, &plan));
        rig_done(&rig);
    }
}

/* ---- reads beside destage ---- */

struct beside {
    struct sim *sim;
    struct rig_owner owner;
    uint64_t stamp;
    int result;
    bool done;
};

static void slow_reader(void *arg)
{
    struct beside *beside = arg;

    sim_disk_set_slowdown(beside->sim, 1, RIG_PATH, 10000);
    beside->result = co_rig_read(&beside->owner, 0, 5, &beside->stamp);
    beside->done = true;
}

static void beside_main(struct io *io, void *arg)
{
    struct beside *beside = arg;
    struct rig_owner *owner = &beside->owner;
    struct co_group group;
    struct rig_store rig;

    assert_int_equal(co_rig_open(io, &rig), 0);
    owner->commit = true;
    assert_int_equal(co_rig_seal(owner, rig.store, 1), 0);
    assert_int_equal(co_rig_write(owner, 0, 5, 1, 100), 0);
    for (int place = 0; place < 2;
         place++) { /* the read has looked it up in the log, in its place */
        co_group_init(&group);
        beside->done = false;
        assert_int_equal(co_rig_commit(owner), 0);
        if (place)
            assert_int_equal(co_store_checkpoint(rig.store), 0);
        assert_int_equal(co_group_spawn(&group, io, "reader", slow_reader, beside), 0);
        co_yield ();
        sim_disk_set_slowdown(beside->sim, 1, RIG_PATH, 1);
        for (uint32_t i = 0; i < FILL_WRITES; i++) /* laps of the log */
            assert_int_equal(co_rig_write(owner, 1 + i % 3, i / 3 % 200, 1, i + 1), 0);
        assert_int_equal(co_rig_write(owner, 0, 5, 1, 200 + place), 0);
        assert_int_equal(co_rig_commit(owner), 0);
        assert_int_equal(co_store_checkpoint(rig.store), 0);
        assert_false(beside->done); /* all of that happened while it was under way */
        co_group_wait(&group);
        assert_int_equal(beside->result, 0);
        assert_int_equal(beside->stamp, 200 + place);
    }
    assert_int_equal(store_stats(rig.store).verify_errors, 0);
    co_rig_close(&rig);
}

/* A read that a destage and the log's tail overtake looks again before it calls it rot. */
static void a_read_overtaken_by_destage_is_right(void **state)
{
    struct beside beside = {0};
    struct rig rig;

    (void)state;
    rig_new(&rig, 17, DISK_BYTES, LOG_BYTES);
    beside.sim = rig.sim;
    assert_true(rig_run(&rig, beside_main, &beside));
    rig_done(&rig);
}

/* ---- large records, and the ring's end ---- */

static void large_main(struct io *io, void *arg)
{
    struct rig_store rig;
    struct rig_owner owner = {.commit = true};
    uint64_t *sums = calloc(RIG_EXTENT_BLOCKS, sizeof(*sums));
    struct extent_ref where = {1, 1};

    (void)arg;
    assert_int_equal(co_rig_open(io, &rig), 0);
    assert_int_equal(co_rig_seal(&owner, rig.store, 1), 0);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(co_rig_write(&owner, 1, 0, RECORD_BLOCKS_MAX, 1 + i * 1000), 0);
        assert_int_equal(co_rig_write(&owner, 2, i, 1 + i % 5, 1 + i), 0);
    }
    assert_int_equal(must_read(&owner, 1, 255), 1 + 39 * 1000 + 255);
    assert_int_equal(
        co_store_checksums(rig.store, RIG_VDISK, where, 0, RIG_EXTENT_BLOCKS, sums, NULL), 0);
    assert_true(sums[0] != 0 && sums[255] != 0);
    co_rig_close(&rig);
    assert_int_equal(co_rig_open(io, &rig), 0);
    owner.store = rig.store;
    assert_int_equal(must_read(&owner, 1, 0), 1 + 39 * 1000);
    assert_int_equal(must_read(&owner, 2, 39), 40);
    free(sums);
    co_rig_close(&rig);
}

static void large_records_and_the_end_of_the_ring(void **state)
{
    (void)state;
    with_store(18, large_main, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_was_written),
        cmocka_unit_test(the_oldest_dirty_block_has_an_age),
        cmocka_unit_test(a_gap_is_refused),
        cmocka_unit_test(a_higher_epoch_fences_every_call_for_good),
        cmocka_unit_test(a_seal_reports_the_tail),
        cmocka_unit_test(a_request_that_was_given_up_is_not_remembered),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(only_committed_records_are_destaged),
        cmocka_unit_test(a_full_log_waits_for_a_watermark),
        cmocka_unit_test(a_takeover_needs_no_free_log),
        cmocka_unit_test(a_seal_turns_away_what_waits_for_room),
        cmocka_unit_test(a_log_lets_go_of_what_waits_for_room),
        cmocka_unit_test(trimmed_blocks_read_as_zeros),
        cmocka_unit_test(a_new_generation_shows_nothing_of_the_old),
        cmocka_unit_test(pages_bear_the_epoch_that_told_of_the_commit),
        cmocka_unit_test(a_dropped_tail_goes_on_the_compare_list),
        cmocka_unit_test(a_rotten_compare_list_is_not_believed),
        cmocka_unit_test(rot_is_found_and_named),
        cmocka_unit_test(a_rotten_block_counts_until_it_is_repaired),
        cmocka_unit_test(a_hole_in_the_log_is_damage),
        cmocka_unit_test(lost_anchors_are_survived),
        cmocka_unit_test(a_lost_table_block_never_reads_as_zeros),
        cmocka_unit_test(an_old_word_does_not_excuse_a_lost_row),
        cmocka_unit_test(a_row_that_the_log_made_anew_was_lost),
        cmocka_unit_test(a_lost_row_that_is_nobodys_is_freed),
        cmocka_unit_test(a_freed_extent_has_no_compare_list),
        cmocka_unit_test(errors_are_events),
        cmocka_unit_test(a_read_overtaken_by_destage_is_right),
        cmocka_unit_test(large_records_and_the_end_of_the_ring),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
