/* Power cut after every nth write. A mixed workload (writes, overlapping rewrites, trims, records
 * in flight together, seals into new sessions, marks, checkpoints, extents given back and taken
 * again) runs on a store whose log is a few megabytes, so that destage and the log's wrap are part
 * of it. The power goes in the middle of write n, for each n; the store is opened again and
 * compared with a model:
 *
 *   what was acknowledged reads back; what was not reads as it was before or as it was to be, the
 *   same at every later look; blocks of an extent's new life never show its old one, and an extent
 *   given back stays so; the seal reports what is above the watermark, in order; epochs below the
 *   highest shown are refused.
 *
 * A second vdisk is slow: its records stay above the watermark for laps of the log, over starts and
 * sessions, and its column sometimes drops its tail. Then its blocks show what was committed, and
 * the dropped ones are on the compare list until it is cleared.
 *
 * Then the workload goes on from there and is cut again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/store_rig.h"

#define DISK_BYTES (12 * MIB)
#define LOG_BYTES (4 * MIB)
#define EXTENTS 4
#define DEPTH 6 /* records in flight */
#define SLOW_VDISK 8
#define SLOW_EXTENT EXTENTS
#define SLOW_BLOCKS 24

/* What one block may show: the last acknowledged value, and any in flight when the power went. */
#define VALUES_MAX (DEPTH + 2)
struct cell {
    uint64_t values[VALUES_MAX]; /* stamps; 0: zeros */
    size_t count;
};

struct slow_model {
    struct cell newest[SLOW_BLOCKS];    /* what a read may show */
    struct cell committed[SLOW_BLOCKS]; /* what is left when the tail is dropped */
    bool compared[SLOW_BLOCKS];         /* is on the compare list for sure */
    uint64_t epoch;
};

struct model {
    struct slow_model slow;
    bool freed[EXTENTS]; /* for sure: requests of its last life are refused */
    struct cell cells[EXTENTS][RIG_EXTENT_BLOCKS];
    uint64_t generations[EXTENTS];
    uint64_t maybe_generations[EXTENTS]; /* being taken into use when the power went; 0: no */
    uint64_t epoch;                      /* the highest shown */
    uint64_t next_stamp;
    uint64_t rounds; /* of the workload, over all starts */
    uint64_t acknowledged;
    uint64_t checkpoints; /* as the store counts them */
};

struct run {
    struct model *model;
    uint64_t random;
    uint64_t rounds; /* to do; then it closes */
    struct rig_store rig;
    struct rig_owner owner, slow;
    bool cut;
};

static uint64_t next_random(struct run *run)
{
    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    return run->random;
}

static uint32_t pick(struct run *run, uint32_t below)
{
    return next_random(run) % below;
}

/* ---- the model ---- */

static void cell_set(struct cell *cell, uint64_t value)
{
    cell->values[0] = value;
    cell->count = 1;
}

static void cell_may_be(struct cell *cell, uint64_t value)
{
    for (size_t i = 0; i < cell->count; i++)
        if (cell->values[i] == value)
            return;
    assert_true(cell->count < VALUES_MAX);
    cell->values[cell->count++] = value;
}

static bool cell_allows(const struct cell *cell, uint64_t value)
{
    for (size_t i = 0; i < cell->count; i++)
        if (cell->values[i] == value)
            return true;
    return false;
}

struct planned { /* a record and what it does to the model */
    struct rig_write write;
    uint32_t extent, block, count;
    uint64_t stamp; /* 0: zeros */
};

static uint64_t planned_value(const struct planned *planned, uint32_t i)
{
    return planned->stamp == 0 ? 0 : planned->stamp + i;
}

static void model_begin(struct model *model, const struct planned *planned)
{
    for (uint32_t i = 0; i < planned->count; i++)
        cell_may_be(&model->cells[planned->extent][planned->block + i], planned_value(planned, i));
}

static void model_end(struct model *model, const struct planned *planned)
{
    for (uint32_t i = 0; i < planned->count; i++)
        cell_set(&model->cells[planned->extent][planned->block + i], planned_value(planned, i));
    model->acknowledged++;
}

/* ---- the workload ---- */

/* A few records in flight together, on blocks of their own (I7). Returns false at the cut. */
static bool co_burst(struct run *run)
{
    struct planned planned[DEPTH];
    uint32_t count = 1 + pick(run, DEPTH), lane = RIG_EXTENT_BLOCKS / DEPTH;
    bool alive = true;

    run->owner.commit = false;
    for (uint32_t i = 0; i < count; i++) {
        struct planned *one = &planned[i];
        bool zero = pick(run, 8) == 0;

        one->extent = pick(run, EXTENTS);
        one->block = i * lane + pick(run, 8);
        one->count = 1 + pick(run, pick(run, 4) == 0 ? lane - 8 : 3);
        one->stamp = zero ? 0 : run->model->next_stamp;
        run->model->next_stamp += 1000;
        run->owner.generation = run->model->generations[one->extent];
        rig_prepare(&run->owner, &one->write, zero ? RECORD_ZERO : RECORD_WRITE, one->extent,
                    one->block, one->count, one->stamp);
        model_begin(run->model, one);
        rig_submit(&run->owner, &one->write);
    }
    for (uint32_t i = 0; i < count; i++) {
        int r = co_rig_wait(&planned[i].write);

        assert_true(r == 0 || r == -ECANCELED);
        if (r == 0)
            assert_true(alive); /* a 0 vouches for all before it */
        alive = alive && r == 0;
        if (r == 0)
            model_end(run->model, &planned[i]);
    }
    return alive;
}

/* A trim of a whole extent. */
static bool co_trim_extent(struct run *run)
{
    struct planned one = {.extent = pick(run, EXTENTS), .count = RIG_EXTENT_BLOCKS};
    int r;

    run->owner.generation = run->model->generations[one.extent];
    rig_prepare(&run->owner, &one.write, RECORD_ZERO, one.extent, 0, one.count, 0);
    model_begin(run->model, &one);
    rig_submit(&run->owner, &one.write);
    r = co_rig_wait(&one.write);
    assert_true(r == 0 || r == -ECANCELED);
    if (r == 0)
        model_end(run->model, &one);
    return r == 0;
}

/* Who has not heard yet that an extent has another life writes nothing to it (I10). */
static bool co_earlier_life_is_refused(struct run *run, struct extent_ref where)
{
    int r;

    run->owner.generation = where.generation;
    r = co_rig_write(&run->owner, where.extent, 0, 1, run->model->next_stamp);
    run->owner.seq--; /* what was refused leaves no gap */
    if (r == -ECANCELED)
        return false;
    assert_int_equal(r, -ESTALE);
    return true;
}

/* An extent is given back and taken again by a first record in its next life. */
static bool co_recycle(struct run *run)
{
    uint32_t extent = pick(run, EXTENTS);
    struct extent_ref where = {extent, run->model->generations[extent]};
    struct planned one = {.extent = extent, .block = pick(run, 64), .count = 1};
    int r;

    /* gone or not gone: both may be seen until it is durable */
    for (uint32_t i = 0; i < RIG_EXTENT_BLOCKS; i++)
        cell_may_be(&run->model->cells[extent][i], 0);
    run->model->maybe_generations[extent] = where.generation + 1;
    if (pick(run, 2) == 0) {
        r = co_store_free_extent(run->rig.store, where);
        assert_true(r == 0 || r == -ECANCELED);
        if (r < 0)
            return false;
        run->model->freed[extent] = true;
    }
    one.stamp = run->model->next_stamp;
    run->model->next_stamp += 1000;
    run->owner.generation = where.generation + 1;
    rig_prepare(&run->owner, &one.write, RECORD_WRITE, extent, one.block, 1, one.stamp);
    model_begin(run->model, &one);
    rig_submit(&run->owner, &one.write);
    r = co_rig_wait(&one.write);
    assert_true(r == 0 || r == -ECANCELED);
    if (r < 0)
        return false;
    run->model->generations[extent] = where.generation + 1;
    run->model->maybe_generations[extent] = 0;
    run->model->freed[extent] = false;
    for (uint32_t i = 0; i < RIG_EXTENT_BLOCKS; i++)
        cell_set(&run->model->cells[extent][i], 0);
    model_end(run->model, &one);
    return co_earlier_life_is_refused(run, where);
}

/* What the last session's owner may still send: a mark of all that it wrote, a tail drop (I4). */
static bool co_predecessor_is_refused(struct run *run)
{
    struct log_position all = {run->owner.session, run->owner.seq};
    struct extent_ref where = {0, run->model->generations[0]};
    uint64_t epoch = run->owner.epoch - 1;
    int marked = co_store_mark(run->rig.store, RIG_VDISK, epoch, all, false);
    int dropped = co_store_drop_tail(run->rig.store, RIG_VDISK, epoch, &where, 1);

    assert_true(marked == -ESTALE || marked == -ECANCELED);
    assert_true(dropped == -ESTALE || dropped == -ECANCELED);
    return marked == -ESTALE && dropped == -ESTALE;
}

static bool co_new_session(struct run *run)
{
    uint64_t epoch = run->model->epoch + 1 + pick(run, 2);
    struct log_position watermark = run->owner.watermark;
    int r = co_rig_seal(&run->owner, run->rig.store, epoch);

    assert_true(r == 0 || r == -ECANCELED);
    if (r == 0)
        run->model->epoch = epoch;
    run->owner.watermark = watermark;
    return r == 0 && co_predecessor_is_refused(run);
}

/* ---- the slow vdisk ---- */

static bool co_slow_write(struct run *run)
{
    struct slow_model *slow = &run->model->slow;
    uint32_t block = pick(run, SLOW_BLOCKS), count = 1 + pick(run, MIN(3, SLOW_BLOCKS - block));
    uint64_t stamp = pick(run, 4) == 0 ? 0 : run->model->next_stamp;
    struct rig_write write;
    int r;

    run->model->next_stamp += 1000;
    for (uint32_t i = 0; i < count; i++)
        cell_may_be(&slow->newest[block + i], stamp ? stamp + i : 0);
    rig_prepare(&run->slow, &write, stamp ? RECORD_WRITE : RECORD_ZERO, SLOW_EXTENT, block, count,
                stamp);
    rig_submit(&run->slow, &write);
    r = co_rig_wait(&write);
    assert_true(r == 0 || r == -ECANCELED);
    for (uint32_t i = 0; i < count && r == 0; i++)
        cell_set(&slow->newest[block + i], stamp ? stamp + i : 0);
    return r == 0;
}

static bool co_slow_commit(struct run *run)
{
    struct slow_model *slow = &run->model->slow;
    struct log_position watermark = {run->slow.session, run->slow.seq};
    int r;

    for (uint32_t i = 0; i < SLOW_BLOCKS; i++)
        cell_may_be(&slow->committed[i], slow->newest[i].values[0]);
    r = co_store_mark(run->rig.store, SLOW_VDISK, run->slow.epoch, watermark, true);
    assert_true(r == 0 || r == -ECANCELED);
    if (r < 0)
        return false;
    run->slow.watermark = watermark;
    for (uint32_t i = 0; i < SLOW_BLOCKS; i++)
        cell_set(&slow->committed[i], slow->newest[i].values[0]);
    return true;
}

static bool co_slow_drop(struct run *run)
{
    struct slow_model *slow = &run->model->slow;
    struct extent_ref where = {SLOW_EXTENT, 1};
    struct slow_model before = *slow;
    int r;

    for (uint32_t i = 0; i < SLOW_BLOCKS; i++)
        for (size_t v = 0; v < slow->committed[i].count; v++)
            cell_may_be(&slow->newest[i], slow->committed[i].values[v]);
    r = co_store_drop_tail(run->rig.store, SLOW_VDISK, run->slow.epoch, &where, 1);
    assert_true(r == 0 || r == -ECANCELED);
    if (r < 0)
        return false;
    for (uint32_t i = 0; i < SLOW_BLOCKS; i++) {
        slow->newest[i] = slow->committed[i];
        if (!cell_allows(&before.committed[i], before.newest[i].values[0]))
            slow->compared[i] = true;
    }
    return true;
}

static bool co_slow_clear(struct run *run)
{
    struct extent_ref where = {SLOW_EXTENT, 1};
    int r;

    memset(run->model->slow.compared, 0, sizeof(run->model->slow.compared));
    r = co_store_clear_compare(run->rig.store, SLOW_VDISK, run->slow.epoch, &where, 1);
    assert_true(r == 0 || r == -ECANCELED);
    return r == 0;
}

static bool co_slow_round(struct run *run)
{
    struct store_stream_info info;

    /* what is above the watermark must fit in what a log keeps for copies: an owner's credits see
     * to it */
    if (store_stream_info(run->rig.store, SLOW_VDISK, &info) && info.pending_records > 14)
        return pick(run, 2) ? co_slow_commit(run) : co_slow_drop(run);
    switch (pick(run, 40)) {
    case 0:
        return co_slow_commit(run);
    case 1:
        return co_slow_drop(run);
    case 2:
        return pick(run, 4) != 0 || co_slow_clear(run);
    default:
        return co_slow_write(run);
    }
}

/* Shows what it should, and its dropped blocks are named. */
static bool co_slow_check(struct run *run)
{
    struct slow_model *slow = &run->model->slow;
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};
    struct extent_ref where = {SLOW_EXTENT, 1};
    int r;

    for (uint32_t i = 0; i < SLOW_BLOCKS; i++) {
        uint64_t value;

        r = co_rig_read(&run->slow, SLOW_EXTENT, i, &value);
        if (r == -ECANCELED)
            return false;
        assert_int_equal(r, 0);
        if (!cell_allows(&slow->newest[i], value))
            fail_msg("slow block %u shows %llu, not %llu (of %zu)", i, (unsigned long long)value,
                     (unsigned long long)slow->newest[i].values[0], slow->newest[i].count);
        cell_set(&slow->newest[i], value);
    }
    r = co_store_compare_set(run->rig.store, SLOW_VDISK, where, 0, bitmap);
    if (r == -ECANCELED)
        return false;
    assert_int_equal(r, 0);
    for (uint32_t i = 0; i < SLOW_BLOCKS; i++)
        if (slow->compared[i] && !(bitmap[i / 64] >> (i % 64) & 1))
            fail_msg("slow block %u shows in no compare list", i);
    return true;
}

/* A new session; what was above the watermark stays there. */
static bool co_slow_open(struct run *run)
{
    struct slow_model *slow = &run->model->slow;
    int r;

    run->slow = (struct rig_owner){.store = run->rig.store, .vdisk = SLOW_VDISK, .generation = 1};
    slow->epoch++;
    r = co_rig_seal(&run->slow, run->rig.store, slow->epoch);
    assert_true(r == 0 || r == -ECANCELED);
    return r == 0 && co_slow_check(run);
}

static bool co_round(struct run *run)
{
    int r = 0;

    switch (pick(run, 16)) {
    case 0:
        r = co_rig_commit(&run->owner);
        break;
    case 1: /* the in-sync set changed: the same owner goes on under a higher epoch */
        r = co_store_mark(run->rig.store, RIG_VDISK, run->owner.epoch + 1, run->owner.watermark,
                          pick(run, 2) == 0);
        if (r == 0)
            run->model->epoch = ++run->owner.epoch;
        break;
    case 2:
        if (pick(run, 3) == 0)
            r = co_store_checkpoint(run->rig.store);
        break;
    case 3:
        if (pick(run, 4) == 0)
            return co_new_session(run);
        break;
    case 4:
        if (pick(run, 4) == 0)
            return co_trim_extent(run);
        break;
    case 5:
        if (pick(run, 4) == 0)
            return co_recycle(run);
        break;
    case 6:
    case 7:
        return co_slow_round(run);
    default:
        if (!co_burst(run))
            return false;
        /* the watermark follows, sometimes at a distance */
        if (pick(run, 3) != 0)
            run->owner.watermark = (struct log_position){run->owner.session, run->owner.seq};
        break;
    }
    assert_true(r == 0 || r == -ECANCELED);
    return r == 0;
}

/* ---- after the cut ---- */

static uint64_t generation_now(const struct run *run, uint32_t extent)
{
    return MAX(run->model->generations[extent], run->model->maybe_generations[extent]);
}

/* Reads all blocks; what one shows now it must show for good. */
static bool co_check(struct run *run)
{
    struct model *model = run->model;
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, RIG_EXTENT_BYTES);

    for (uint32_t extent = 0; extent < EXTENTS; extent++) {
        struct extent_ref where = {extent, generation_now(run, extent)};
        int r = co_store_read(run->rig.store, RIG_VDISK, where, 0, RIG_EXTENT_BLOCKS,
                              (uint64_t)extent * RIG_EXTENT_BLOCKS, data, NULL, NULL);

        if (r == -ECANCELED)
            return false;
        if (r != 0)
            print_message("extent %u round %llu: read gives %d\n", extent,
                          (unsigned long long)model->rounds, r);
        assert_int_equal(r, 0);
        for (uint32_t i = 0; i < RIG_EXTENT_BLOCKS; i++) {
            uint64_t value = rig_stamp(data + (size_t)i * BLOCK_SIZE);
            struct cell *cell = &model->cells[extent][i];

            if (!cell_allows(cell, value))
                fail_msg("extent %u block %u shows %llu, not %llu (of %zu)", extent, i,
                         (unsigned long long)value, (unsigned long long)cell->values[0],
                         cell->count);
            cell_set(cell, value);
        }
        if (model->freed[extent]) {
            where.generation = model->generations[extent];
            r = co_store_read(run->rig.store, RIG_VDISK, where, 0, 1, 0, data, NULL, NULL);
            if (r == -ECANCELED)
                return false;
            assert_int_equal(r, -ESTALE);
            where.generation++;
        }
        model->generations[extent] = where.generation;
        model->maybe_generations[extent] = 0;
        model->freed[extent] = false;
    }
    return true;
}

/* A new owner: sealed anew; what is above the watermark is reported in order, and written again as
 * it is read (I6 is the owner's business; here it only keeps the model simple: all is committed
 * after). */
static bool co_take_over(struct run *run)
{
    struct model *model = run->model;
    struct store_seal seal;
    uint64_t epoch = model->epoch + 1;
    int r;

    if (model->epoch > 0) {
        r = co_store_seal(run->rig.store, RIG_VDISK, model->epoch - 1, model->epoch - 1, &seal);
        if (r == -ECANCELED)
            return false;
        assert_true(r == -ESTALE || (r == -EINVAL && model->epoch == 1));
    }
    r = co_store_seal(run->rig.store, RIG_VDISK, epoch, epoch, &seal);
    if (r == -ESTALE) { /* the seal that the cut interrupted was durable */
        epoch = seal.sealed_epoch + 1;
        r = co_store_seal(run->rig.store, RIG_VDISK, epoch, epoch, &seal);
    }
    if (r == -ECANCELED)
        return false;
    assert_int_equal(r, 0);
    for (size_t i = 0; i < seal.tail_count; i++) {
        assert_true(log_position_compare(seal.tail[i].position, seal.watermark) > 0);
        if (i > 0)
            assert_true(log_position_compare(seal.tail[i].position, seal.tail[i - 1].position) > 0);
    }
    store_seal_done(&seal);
    model->epoch = epoch;
    memset(&run->owner, 0, sizeof(run->owner));
    run->owner.store = run->rig.store;
    run->owner.vdisk = RIG_VDISK;
    run->owner.epoch = run->owner.session = epoch;
    run->owner.watermark = (struct log_position){epoch, 0}; /* as if written again */
    r = co_store_mark(run->rig.store, RIG_VDISK, epoch, run->owner.watermark, false);
    assert_true(r == 0 || r == -ECANCELED);
    return r == 0;
}

static void workload_main(struct io *io, void *arg)
{
    struct run *run = arg;
    int r = co_rig_open(io, &run->rig);

    run->cut = true;
    assert_true(r == 0 || r == -ECANCELED);
    if (r < 0)
        return;
    assert_false(store_health(run->rig.store)->log_damaged);
    assert_int_equal(store_health(run->rig.store)->corrupt_pages, 0);
    if (co_check(run) && co_take_over(run) && co_check(run) && co_slow_open(run)) {
        while (run->rounds > 0 && co_round(run)) {
            run->rounds--;
            run->model->rounds++;
        }
        run->cut = run->rounds > 0;
    }
    run->model->checkpoints += store_stats(run->rig.store).checkpoints;
    co_rig_close(&run->rig);
}

static struct model *model_new(void)
{
    struct model *model = calloc(1, sizeof(*model));

    model->next_stamp = 1000;
    for (uint32_t extent = 0; extent < EXTENTS; extent++) {
        model->generations[extent] = 1;
        for (uint32_t i = 0; i < RIG_EXTENT_BLOCKS; i++)
            cell_set(&model->cells[extent][i], 0);
    }
    for (uint32_t i = 0; i < SLOW_BLOCKS; i++) {
        cell_set(&model->slow.newest[i], 0);
        cell_set(&model->slow.committed[i], 0);
    }
    return model;
}

/* One life of a disk: the power goes at write nth, and at nth again, until `rounds` rounds are
 * done. */
static void one_life(uint64_t seed, uint64_t nth, uint64_t rounds, uint64_t *ret_checkpoints,
                     uint64_t *ret_cuts)
{
    struct model *model = model_new();
    struct rig rig;

    rig_new(&rig, seed, DISK_BYTES, LOG_BYTES);
    while (model->rounds < rounds) {
        uint64_t before = model->rounds;
        struct run run = {.model = model,
                          .random = seed * 1000003 + nth * 7919 + model->rounds + 1,
                          .rounds = rounds - model->rounds};

        sim_crash_at_write(rig.sim, rig.machine, nth);
        rig_run(&rig, workload_main, &run);
        sim_crash_at_write(rig.sim, rig.machine, 0);
        *ret_cuts += run.cut;
        if (model->rounds == before)
            nth += 7; /* too early to get anywhere: openings write as well */
    }
    *ret_checkpoints += model->checkpoints;
    rig_done(&rig);
    free(model);
}

static void power_cut_after_every_nth_write(void **state)
{
    uint64_t checkpoints = 0, cuts = 0;
    uint64_t stride =
        getenv("S2D_CRASH_STRIDE") ? strtoull(getenv("S2D_CRASH_STRIDE"), NULL, 0) : 1;
    uint64_t lives = getenv("S2D_CRASH_LIVES") ? strtoull(getenv("S2D_CRASH_LIVES"), NULL, 0) : 120;

    (void)state;
    for (uint64_t i = 0; i < lives; i++)
        one_life(i + 1, 3 + i * stride, 400, &checkpoints, &cuts);
    print_message("%llu lives, %llu cuts, %llu checkpoints\n", (unsigned long long)lives,
                  (unsigned long long)cuts, (unsigned long long)checkpoints);
    assert_true(cuts > lives);
    assert_true(checkpoints > lives);
}

/* test_store_crash FIRST [COUNT]: these lives, as many as one likes. */
static int campaign(uint64_t first, uint64_t count)
{
    uint64_t checkpoints = 0, cuts = 0;

    for (uint64_t seed = first; seed < first + count; seed++)
        one_life(seed, 3 + (seed - 1) % 120, 400, &checkpoints, &cuts);
    printf("lives %llu to %llu passed, %llu cuts, %llu checkpoints\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1), (unsigned long long)cuts,
           (unsigned long long)checkpoints);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_cut_after_every_nth_write),
    };

    if (argc > 1)
        return campaign(strtoull(argv[1], NULL, 10), argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
