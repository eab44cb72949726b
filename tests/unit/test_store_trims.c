/* A log full of trims. Each takes a thirty-sixth of a log block, and an image of a checksum page
 * when it is put in its place; so the room for that has to be kept from the moment it is taken, or
 * a checkpoint waits for room that only it can make, and the disk takes no writes any more. With
 * the log on the disk itself and on a cache disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/store_rig.h"

#define EXTENTS 400 /* of a page each: more images than what a log keeps has room for */
#define BLOCKS 4    /* of each, that are looked at */
#define DISK_BYTES ((EXTENTS + 16) * MIB)
#define LOG_BYTES (4 * MIB)
#define LOG_BLOCKS (LOG_BYTES / BLOCK_SIZE)
#define DEPTH 64

struct trims {
    struct rig_store rig;
    struct rig_owner owner;
    struct rig_write writes[DEPTH];
    uint64_t stamps[EXTENTS][BLOCKS]; /* as they are acknowledged; 0: zeros */
    uint64_t maybe[EXTENTS][BLOCKS];  /* as they may be, after a cut */
    uint64_t next_stamp, epoch, random, rounds;
    bool cut;
};

static const bool places[] = {false, true}; /* is the log on a cache disk? */

static void on_each_place(void (*fn)(struct io *io, void *arg))
{
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        static struct trims trims;
        struct rig rig;

        trims = (struct trims){.next_stamp = 1, .random = 1};
        rig_new(&rig, 1 + i, DISK_BYTES, LOG_BYTES);
        if (places[i])
            rig_put_log_on_cache(&rig, 64 * MIB, LOG_BYTES);
        assert_true(rig_run(&rig, fn, &trims));
        rig_done(&rig);
    }
}

static void co_open(struct io *io, struct trims *trims)
{
    assert_int_equal(co_rig_open(io, &trims->rig), 0);
    trims->owner = (struct rig_owner){.generation = 1, .commit = true};
    assert_int_equal(co_rig_seal(&trims->owner, trims->rig.store, ++trims->epoch), 0);
}

/* ---- records of every extent, DEPTH in flight ---- */

/* False: the power went. What was not acknowledged may have been done. */
static bool co_wait_for(struct trims *trims, uint32_t first, uint32_t count, uint32_t block,
                        uint32_t blocks)
{
    bool alive = true;

    for (uint32_t i = 0; i < count; i++) {
        int r = co_rig_wait(&trims->writes[i]);

        assert_true(r == 0 || r == -ECANCELED);
        alive = alive && r == 0;
        for (uint32_t j = block; r == 0 && j < MIN(block + blocks, BLOCKS); j++)
            trims->stamps[first + i][j] = trims->maybe[first + i][j];
    }
    return alive;
}

static bool co_each_extent(struct trims *trims, uint8_t kind, uint32_t block, uint32_t blocks)
{
    for (uint32_t first = 0; first < EXTENTS; first += DEPTH) {
        uint32_t count = MIN(DEPTH, EXTENTS - first);

        for (uint32_t i = 0; i < count; i++) {
            uint64_t stamp = kind == RECORD_ZERO ? 0 : trims->next_stamp;

            trims->next_stamp += blocks;
            for (uint32_t j = block; j < MIN(block + blocks, BLOCKS); j++)
                trims->maybe[first + i][j] = stamp > 0 ? stamp + j - block : 0;
            rig_prepare(&trims->owner, &trims->writes[i], kind, first + i, block, blocks, stamp);
            rig_submit(&trims->owner, &trims->writes[i]);
        }
        if (!co_wait_for(trims, first, count, block, blocks))
            return false;
    }
    return true;
}

static bool co_check(struct trims *trims)
{
    for (uint32_t i = 0; i < EXTENTS; i++) {
        for (uint32_t j = 0; j < BLOCKS; j++) {
            uint64_t stamp;
            int r = co_rig_read(&trims->owner, i, j, &stamp);

            if (r == -ECANCELED)
                return false;
            assert_int_equal(r, 0);
            if (stamp != trims->stamps[i][j] && stamp != trims->maybe[i][j])
                fail_msg("extent %u block %u shows %llu, not %llu", i, j, (unsigned long long)stamp,
                         (unsigned long long)trims->stamps[i][j]);
            trims->stamps[i][j] = trims->maybe[i][j] = stamp;
        }
    }
    return true;
}

/* A lap of the log: all that it held is in its place. */
static void co_lap(struct trims *trims)
{
    for (uint32_t i = 0; i < LOG_BLOCKS; i++)
        assert_int_equal(co_rig_write(&trims->owner, 0, BLOCKS, 1, 1 + i), 0);
}

static void co_reopen_and_check(struct io *io, struct trims *trims)
{
    assert_true(co_check(trims));
    co_rig_close(&trims->rig);
    co_open(io, trims);
    assert_true(co_check(trims));
    co_rig_close(&trims->rig);
}

/* ---- one after the other ---- */

static void small_trims_main(struct io *io, void *arg)
{
    struct trims *trims = arg;

    co_open(io, trims);
    assert_true(co_each_extent(trims, RECORD_WRITE, 0, BLOCKS));
    assert_int_equal(co_store_checkpoint(trims->rig.store), 0);
    for (uint32_t round = 0; round < 12; round++)
        assert_true(co_each_extent(trims, RECORD_ZERO, round % BLOCKS, 1));
    assert_true(co_each_extent(trims, RECORD_WRITE, 1, 1));
    co_lap(trims);
    co_reopen_and_check(io, trims);
}

static void small_trims_do_not_fill_a_log_for_good(void **state)
{
    (void)state;
    on_each_place(small_trims_main);
}

/* A trim of a whole page takes no image, as long as all of it is zero: a block that was written
 * since and is still in the log does not change that. */
static void whole_pages_main(struct io *io, void *arg)
{
    struct trims *trims = arg;

    co_open(io, trims);
    for (uint32_t round = 0; round < 4; round++) {
        assert_true(co_each_extent(trims, RECORD_WRITE, 0, 1));
        assert_int_equal(co_store_checkpoint(trims->rig.store), 0);
        assert_true(co_each_extent(trims, RECORD_ZERO, 0, RIG_EXTENT_BLOCKS));
        assert_true(co_each_extent(trims, RECORD_WRITE, 1, 1));
        assert_true(co_check(trims));
        assert_int_equal(co_store_checkpoint(trims->rig.store), 0);
        assert_true(co_check(trims));
    }
    co_lap(trims);
    co_reopen_and_check(io, trims);
}

static void a_page_written_after_its_trim_takes_no_more_room(void **state)
{
    (void)state;
    on_each_place(whole_pages_main);
}

/* ---- RAM ---- */

#define MANY 1200 /* extents: more than a store remembers trims of */

/* A trim takes next to nothing of a log, and RAM for a bit to each block: of many extents, an
 * almost empty log is destaged too. */
static void many_trims_main(struct io *io, void *arg)
{
    struct trims *trims = arg;
    struct store *store;

    co_open(io, trims);
    store = trims->rig.store;
    for (uint32_t extent = 0; extent < MANY; extent++)
        assert_int_equal(co_rig_zero(&trims->owner, extent, 0, RIG_EXTENT_BLOCKS), 0);
    assert_int_equal(co_rig_write(&trims->owner, 0, 0, 1, 1), 0); /* commits the last one */
    co_sleep_ns(SEC);
    assert_true(store_stats(store).checkpoints > 0);
    assert_true(store_stats(store).zero_extents <= 1024);
    co_rig_close(&trims->rig);
}

static void many_trims_do_not_fill_ram(void **state)
{
    static struct trims trims;
    struct rig rig;

    (void)state;
    rig_new(&rig, 1, (MANY + 64) * MIB, 16 * MIB);
    assert_true(rig_run(&rig, many_trims_main, &trims));
    rig_done(&rig);
}

static void cut_many_main(struct io *io, void *arg)
{
    struct trims *trims = arg;
    int r = 0;

    co_open(io, trims);
    for (uint32_t extent = 0; r == 0 && extent < MANY; extent++)
        r = co_rig_zero(&trims->owner, extent, 0, RIG_EXTENT_BLOCKS);
    assert_int_equal(r, -ECANCELED);
    co_rig_close(&trims->rig);
}

static void reopen_many_main(struct io *io, void *arg)
{
    struct trims *trims = arg;

    co_open(io, trims);
    co_sleep_ns(SEC);
    assert_true(store_stats(trims->rig.store).zero_extents <= 1024);
    co_rig_close(&trims->rig);
}

/* The power goes before or while they are put in place: the next open finds as many. */
static void many_trims_are_replayed(void **state)
{
    (void)state;
    for (uint64_t nth = 1024; nth < 1064; nth += 4) {
        static struct trims trims;
        struct rig rig;

        trims = (struct trims){0};
        rig_new(&rig, nth, (MANY + 64) * MIB, 16 * MIB);
        sim_crash_at_write(rig.sim, rig.machine, nth);
        assert_false(rig_run(&rig, cut_many_main, &trims));
        sim_crash_at_write(rig.sim, rig.machine, 0);
        assert_true(rig_run(&rig, reopen_many_main, &trims));
        rig_done(&rig);
    }
}

/* ---- with power cuts ---- */

static uint32_t pick(struct trims *trims, uint32_t below)
{
    trims->random = trims->random * 6364136223846793005ull + 1442695040888963407ull;
    return (trims->random >> 33) % below;
}

#define ROUNDS 30
#define ROUNDS_FULL 3 /* of trims, that fill a log */

static void cut_main(struct io *io, void *arg)
{
    struct trims *trims = arg;
    struct store_seal seal;
    int r = co_rig_open(io, &trims->rig);

    trims->cut = true;
    assert_true(r == 0 || r == -ECANCELED);
    if (r < 0)
        return;
    trims->owner = (struct rig_owner){
        .store = trims->rig.store, .vdisk = RIG_VDISK, .generation = 1, .commit = true};
    trims->epoch += 2; /* the seal of the last start may be there or not */
    r = co_store_seal(trims->rig.store, RIG_VDISK, trims->epoch, trims->epoch, &seal);
    if (r == 0) {
        store_seal_done(&seal);
        trims->owner.epoch = trims->owner.session = trims->epoch;
        trims->owner.watermark = (struct log_position){trims->epoch, 0}; /* as if written again */
        r = co_store_mark(trims->rig.store, RIG_VDISK, trims->epoch, trims->owner.watermark, false);
    }
    assert_true(r == 0 || r == -ECANCELED);
    if (r == 0 && co_check(trims)) {
        while (trims->rounds < ROUNDS) {
            bool zero = trims->rounds % (ROUNDS_FULL + 1) != 0;

            if (!co_each_extent(trims, zero ? RECORD_ZERO : RECORD_WRITE,
                                zero ? pick(trims, BLOCKS) : 0, zero ? 1 : BLOCKS))
                break;
            trims->rounds++;
        }
        trims->cut = trims->rounds < ROUNDS;
    }
    co_rig_close(&trims->rig);
}

/* The power goes at every nth write, again and again, of which many are those of a checkpoint of a
 * full log: what it left there must not be in the way of the next one. */
static void a_log_full_of_trims_is_replayed_and_goes_on(void **state)
{
    static const uint64_t from[] = {20, 131, 437, 649}; /* the last two catch TRIMS_EARLY */
    uint64_t cuts = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(from); i++) {
        uint64_t nth = from[i];
        static struct trims trims;
        struct rig rig;
        bool on_cache = places[nth % 2];

        trims = (struct trims){.next_stamp = 1, .random = nth};
        rig_new(&rig, nth, DISK_BYTES, LOG_BYTES);
        if (on_cache)
            rig_put_log_on_cache(&rig, 64 * MIB, LOG_BYTES);
        for (uint64_t at = nth; trims.rounds < ROUNDS;) {
            uint64_t before = trims.rounds;

            sim_crash_at_write(rig.sim, rig.machine, at);
            rig_run(&rig, cut_main, &trims);
            sim_crash_at_write(rig.sim, rig.machine, 0);
            cuts += trims.cut;
            if (trims.rounds == before)
                at += 7; /* too early to get anywhere: openings write as well */
        }
        rig_done(&rig);
    }
    print_message("%llu cuts\n", (unsigned long long)cuts);
    assert_true(cuts > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_trims_do_not_fill_a_log_for_good),
        cmocka_unit_test(a_page_written_after_its_trim_takes_no_more_room),
        cmocka_unit_test(many_trims_do_not_fill_ram),
        cmocka_unit_test(many_trims_are_replayed),
        cmocka_unit_test(a_log_full_of_trims_is_replayed_and_goes_on),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
