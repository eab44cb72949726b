/* A store whose blocks are on a hard disk and whose log is on flash: random writes leave the log in
 * sweeps over the disk, several times as fast as the disk could have taken them one by one. On
 * virtual time, so the figures are the same on every machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/store_rig.h"

#define DISK_BYTES (80 * MIB)
#define CACHE_BYTES (64 * MIB)
#define CACHE_LOG_BYTES (8 * MIB)
#define EXTENTS 64 /* of RIG_EXTENT_BYTES: what is written to */
#define DEPTH 32
#define LAPS 4
#define BARE_RATE 150 /* random writes a second of the disk itself, at depth 32: test_hdd.c */

struct two_disks {
    struct disk *disk, *cache;
    struct rig_store rig;
    struct rig_owner owner;
};

static void co_open(struct io *io, struct two_disks *disks, uint64_t epoch)
{
    struct store_options options = {.name = "hdd", .page_cache_pages = 256};

    assert_int_equal(co_disk_open(io, RIG_CACHE_PATH, NULL, NULL, &disks->cache), 0);
    assert_int_equal(co_disk_open(io, RIG_PATH, NULL, NULL, &disks->disk), 0);
    assert_int_equal(io_file_make_hdd(disk_file(disks->disk), &IO_HDD_7200), 0);
    options.log_device = disks->cache;
    assert_int_equal(co_store_open(io, disks->disk, &options, &disks->rig.store), 0);
    assert_int_equal(co_rig_seal(&disks->owner, disks->rig.store, epoch), 0);
    disks->owner.commit = true;
}

static void co_close(struct two_disks *disks)
{
    co_store_close(disks->rig.store);
    disk_close(disks->disk);
    disk_close(disks->cache);
}

struct sweep {
    uint64_t stamps[EXTENTS * RIG_EXTENT_BLOCKS];
    double rate;
    uint64_t round_ns_max; /* the longest that a round took with a full log */
    uint64_t checkpoints, destaged;
};

/* Rounds of DEPTH random writes, each waited for; what is acknowledged is in sweep->stamps. */
static void co_write_rounds(struct io *io, struct two_disks *disks, struct sweep *sweep,
                            uint64_t count, uint64_t *stamp)
{
    static struct rig_write writes[DEPTH];

    for (uint64_t done = 0; done < count; done += DEPTH) {
        uint64_t start_ns = io_now_ns(io);

        for (unsigned i = 0; i < DEPTH; i++) {
            uint64_t place = io_random(io) % ARRAY_SIZE(sweep->stamps);

            rig_prepare(&disks->owner, &writes[i], RECORD_WRITE, place / RIG_EXTENT_BLOCKS,
                        place % RIG_EXTENT_BLOCKS, 1, ++*stamp);
            rig_submit(&disks->owner, &writes[i]);
            sweep->stamps[place] = *stamp;
        }
        for (unsigned i = 0; i < DEPTH; i++)
            assert_int_equal(co_rig_wait(&writes[i]), 0);
        sweep->round_ns_max = MAX(sweep->round_ns_max, io_now_ns(io) - start_ns);
    }
}

static void sweep_main(struct io *io, void *arg)
{
    const uint64_t lap = CACHE_LOG_BYTES / BLOCK_SIZE;
    struct sweep *sweep = arg;
    struct two_disks disks = {0};
    uint64_t stamp = 0, start_ns;

    co_open(io, &disks, 1);
    co_write_rounds(io, &disks, sweep, lap, &stamp); /* now the log is full */
    sweep->round_ns_max = 0;
    start_ns = io_now_ns(io);
    co_write_rounds(io, &disks, sweep, LAPS * lap, &stamp);
    sweep->rate = (double)LAPS * lap * SEC / (double)(io_now_ns(io) - start_ns);
    sweep->checkpoints = store_stats(disks.rig.store).checkpoints;
    sweep->destaged = store_stats(disks.rig.store).destaged_blocks;
    co_close(&disks);

    co_open(io, &disks, 2);
    for (uint32_t i = 0; i < ARRAY_SIZE(sweep->stamps); i++) {
        uint64_t found;

        assert_int_equal(
            co_rig_read(&disks.owner, i / RIG_EXTENT_BLOCKS, i % RIG_EXTENT_BLOCKS, &found), 0);
        assert_int_equal(found, sweep->stamps[i]);
    }
    co_close(&disks);
}

static void a_hard_disk_is_swept(void **state)
{
    static struct sweep sweep;
    struct sim_options options = sim_default_options(1);
    struct rig rig;

    (void)state;
    options.disk_read_ns_min = options.disk_write_ns_min = 20 * US; /* flash */
    options.disk_read_ns_max = options.disk_write_ns_max = 40 * US;
    rig_new_with(&rig, &options, DISK_BYTES, DISK_LOG_BYTES_MIN);
    rig_put_log_on_cache(&rig, CACHE_BYTES, CACHE_LOG_BYTES);
    assert_true(rig_run(&rig, sweep_main, &sweep));
    print_message("%.0f random writes/s with a full log, %.0f blocks a sweep, %u at once waited "
                  "%.0f ms at most\n",
                  sweep.rate, (double)sweep.destaged / (double)sweep.checkpoints, DEPTH,
                  (double)sweep.round_ns_max / (double)MS);
    assert_in_range((uint64_t)sweep.rate, 5 * BARE_RATE, 100 * BARE_RATE);
    /* a quarter of the log at a time, less what was overwritten and the batches' headers */
    assert_in_range(sweep.destaged / sweep.checkpoints, CACHE_LOG_BYTES / BLOCK_SIZE / 8,
                    CACHE_LOG_BYTES / BLOCK_SIZE / 4);
    /* a full log makes all wait a little, not some for a whole sweep, which takes half a second */
    assert_in_range(sweep.round_ns_max, 0, 8 * (uint64_t)(DEPTH * SEC / sweep.rate));
    rig_done(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hard_disk_is_swept),
    };

    setenv("CMOCKA_TEST_ABORT", "1", 1); /* it could not jump out of a coroutine */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
