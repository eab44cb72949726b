/* Where a capacity disk's log is, is said on two disks; whatever is cut short on the way, the
 * capacity disk names one log, whole, and no region is held by nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "pool/disk.h"
#include "pool/disk_format.h"
#include "s2d/base/co.h"
#include "s2d/base/sim.h"

#define CACHE_PATH "/cache"
#define CACHE_BYTES (64 * MIB)
#define CAPACITY_BYTES (16 * MIB)

static const struct disk_uuid cluster = {{1, 2, 3}};
static const char *const capacity_paths[] = {"/disk0", "/disk1"};

static bool machine_down(void *arg)
{
    return !sim_is_up(arg, 1);
}

static void run(struct sim *sim, void (*fn)(struct io *io, void *arg), void *arg)
{
    assert_int_equal(sim_start(sim, 1, fn, arg), 0);
    assert_true(sim_run(sim, sim_now_ns(sim) + 100 * SEC, machine_down, sim));
}

static void end_program(struct io *io)
{
    if (!sim_is_dying(io))
        io_stop(io);
}

static void claim_main(struct io *io, void *arg)
{
    struct disk_claim claim = {.cluster = cluster,
                               .disk_id = 1,
                               .role = DISK_CAPACITY,
                               .media = DISK_HDD,
                               .extent_bytes = MIB,
                               .log_bytes = DISK_LOG_BYTES_MIN};

    (void)arg;
    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths); i++, claim.disk_id++)
        assert_int_equal(co_disk_claim(io, capacity_paths[i], &claim, NULL), 0);
    claim.role = DISK_CACHE;
    claim.media = DISK_NVME;
    claim.log_bytes = 0;
    assert_int_equal(co_disk_claim(io, CACHE_PATH, &claim, NULL), 0);
    end_program(io);
}

static struct sim *new_world(uint64_t seed)
{
    struct sim_options options = sim_default_options(seed);
    struct sim *sim;

    assert_int_equal(sim_new(&options, &sim), 0);
    assert_int_equal(sim_disk_create(sim, 1, CACHE_PATH, CACHE_BYTES), 0);
    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths); i++)
        assert_int_equal(sim_disk_create(sim, 1, capacity_paths[i], CAPACITY_BYTES), 0);
    run(sim, claim_main, NULL);
    return sim;
}

struct disks {
    struct disk *cache, *capacity[2];
};

static int co_open_disks(struct io *io, struct disks *disks)
{
    int r = co_disk_open(io, CACHE_PATH, &cluster, NULL, &disks->cache);

    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths) && r == 0; i++)
        r = co_disk_open(io, capacity_paths[i], &cluster, NULL, &disks->capacity[i]);
    return r;
}

static void close_disks(struct disks *disks)
{
    disk_close(disks->cache);
    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths); i++)
        disk_close(disks->capacity[i]);
}

/* ---- a cache disk as it was claimed ---- */

static void look_main(struct io *io, void *arg)
{
    const struct cache_region *regions;
    struct disks disks = {0};
    size_t count;

    (void)arg;
    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_int_equal(disk_identity(disks.cache)->role, DISK_CACHE);
    assert_int_equal(disk_geometry(disks.cache)->extent_count, 0);
    count = disk_cache_regions(disks.cache, &regions);
    assert_int_equal(count, CACHE_LOG_REGIONS + 1); /* a sixteenth each, half of it in all */
    for (size_t i = 0; i < CACHE_LOG_REGIONS; i++) {
        assert_int_equal(regions[i].kind, CACHE_REGION_LOG);
        assert_int_equal(regions[i].bytes, CACHE_BYTES / 16);
        assert_true(disk_uuid_none(regions[i].disk));
    }
    assert_int_equal(regions[count - 1].kind, CACHE_REGION_READ);
    assert_true(regions[count - 1].bytes >= CACHE_BYTES / 2 - MIB);
    assert_int_equal(disk_cache_free_logs(disks.cache), CACHE_LOG_REGIONS);
    assert_true(disk_log_is_own(disks.capacity[0]));
    assert_false(disk_log(disks.capacity[0])->begun);
    close_disks(&disks);
    end_program(io);
}

static void a_cache_disk_has_logs_and_read_cache(void **state)
{
    struct sim *sim = new_world(1);

    (void)state;
    run(sim, look_main, NULL);
    sim_free(sim);
}

/* ---- binding, and back ---- */

static int co_bind(struct disks *disks, size_t i)
{
    struct disk_log log;
    int r = co_disk_cache_reserve(disks->cache, disk_identity(disks->capacity[i])->uuid, &log);

    return r < 0 ? r : co_disk_set_log(disks->capacity[i], &log, false);
}

static int co_unbind(struct disks *disks, size_t i, bool lost)
{
    struct disk_log log = disk_own_log(disks->capacity[i]);
    int r = co_disk_set_log(disks->capacity[i], &log, lost);

    return r < 0 ? r : co_disk_cache_release(disks->cache, disk_identity(disks->capacity[i])->uuid);
}

static void bind_main(struct io *io, void *arg)
{
    struct disks disks = {0};
    bool *over = arg;
    int r = co_open_disks(io, &disks);

    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths) && r == 0; i++)
        r = co_bind(&disks, i);
    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths) && r == 0; i++)
        r = co_unbind(&disks, i, i == 1);
    if (r == 0)
        r = co_disk_set_log_lost(disks.capacity[1], false);
    *over = r == 0;
    assert_true(r == 0 || sim_is_dying(io));
    close_disks(&disks);
    end_program(io);
}

/* What a start finds: the capacity disk names one log; if that is on the cache disk, the region is
 * there, for this disk, of that life. */
static void check_main(struct io *io, void *arg)
{
    struct disks disks = {0};

    (void)arg;
    assert_int_equal(co_open_disks(io, &disks), 0);
    for (size_t i = 0; i < ARRAY_SIZE(capacity_paths); i++) {
        struct disk_uuid uuid = disk_identity(disks.capacity[i])->uuid;
        const struct disk_log *log = disk_log(disks.capacity[i]);
        const struct cache_region *region = disk_cache_log_of(disks.cache, uuid);

        if (!disk_log_is_own(disks.capacity[i])) {
            assert_non_null(region);
            assert_true(disk_uuid_equal(region->log_uuid, log->uuid));
            assert_int_equal(region->offset, log->offset);
            assert_int_equal(region->bytes, log->bytes);
            assert_true(disk_uuid_equal(log->device, disk_identity(disks.cache)->uuid));
        }
        assert_true(!disk_log_lost(disks.capacity[i]) || disk_log_is_own(disks.capacity[i]));
    }
    close_disks(&disks);
    end_program(io);
}

static void power_goes_at_each_write_of_a_binding(void **state)
{
    bool over = false;

    (void)state;
    for (uint64_t nth = 1; !over; nth++) {
        struct sim *sim = new_world(nth);

        sim_crash_at_write(sim, 1, nth);
        run(sim, bind_main, &over);
        sim_crash_at_write(sim, 1, 0);
        run(sim, check_main, NULL);
        run(sim, bind_main, &over); /* it can be done again from whatever is there */
        assert_true(over);
        over = nth >= 32; /* 2 disks, 2 ways, 2 superblocks of 2 copies: 18 writes */
        sim_free(sim);
    }
}

/* Each life of a log has a name of its own: what is bound again is another log. */
static void again_main(struct io *io, void *arg)
{
    struct disks disks = {0};
    struct disk_uuid first;

    (void)arg;
    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_int_equal(co_bind(&disks, 0), 0);
    first = disk_log(disks.capacity[0])->uuid;
    assert_int_equal(disk_cache_free_logs(disks.cache), CACHE_LOG_REGIONS - 1);
    assert_int_equal(co_unbind(&disks, 0, true), 0);
    assert_true(disk_log_lost(disks.capacity[0]));
    assert_true(disk_log(disks.capacity[0])->begun);
    assert_int_equal(disk_cache_free_logs(disks.cache), CACHE_LOG_REGIONS);
    assert_int_equal(co_bind(&disks, 0), 0);
    assert_false(disk_uuid_equal(disk_log(disks.capacity[0])->uuid, first));
    assert_true(disk_log_lost(disks.capacity[0])); /* another log does not bring back the old one */
    assert_int_equal(co_disk_set_log_lost(disks.capacity[0], false), 0);
    close_disks(&disks);
    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_false(disk_log_lost(disks.capacity[0]));
    assert_false(disk_log_is_own(disks.capacity[0]));
    close_disks(&disks);
    end_program(io);
}

static void a_log_that_is_bound_again_is_another(void **state)
{
    struct sim *sim = new_world(1);

    (void)state;
    run(sim, again_main, NULL);
    sim_free(sim);
}

/* ---- two at once ---- */

struct reservation {
    struct disk *cache;
    struct disk_uuid capacity;
    struct disk_log log;
    int result;
};

static void reserve_main(void *arg)
{
    struct reservation *reservation = arg;

    reservation->result =
        co_disk_cache_reserve(reservation->cache, reservation->capacity, &reservation->log);
}

/* In two coroutines. Returns how many got one. */
static unsigned co_reserve_two(struct io *io, struct disks *disks, struct reservation *two)
{
    struct co_group group;

    co_group_init(&group);
    for (size_t i = 0; i < 2; i++) {
        two[i] = (struct reservation){.cache = disks->cache,
                                      .capacity = disk_identity(disks->capacity[i])->uuid};
        assert_int_equal(co_group_spawn(&group, io, "reserve", reserve_main, &two[i]), 0);
    }
    co_group_wait(&group);
    return (two[0].result == 0) + (two[1].result == 0);
}

static void two_main(struct io *io, void *arg)
{
    struct disks disks = {0};
    struct reservation two[2];
    struct disk_log log;

    (void)arg;
    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_int_equal(co_reserve_two(io, &disks, two), 2);
    assert_true(two[0].log.offset != two[1].log.offset);
    assert_int_equal(disk_cache_free_logs(disks.cache), CACHE_LOG_REGIONS - 2);
    for (size_t i = 0; i < 2; i++) {
        const struct cache_region *region = disk_cache_log_of(disks.cache, two[i].capacity);

        assert_non_null(region);
        assert_int_equal(region->offset, two[i].log.offset);
        assert_int_equal(co_disk_cache_release(disks.cache, two[i].capacity), 0);
    }
    for (uint8_t i = 0; i < CACHE_LOG_REGIONS - 1; i++) /* one is left */
        assert_int_equal(co_disk_cache_reserve(disks.cache, (struct disk_uuid){{0xee, i}}, &log),
                         0);
    assert_int_equal(co_reserve_two(io, &disks, two), 1);
    assert_int_equal(two[0].result + two[1].result, -ENOSPC);
    assert_int_equal(co_disk_cache_release(disks.cache, (struct disk_uuid){{0xee, 0}}), 0);
    assert_int_equal(co_reserve_two(io, &disks, two), 2); /* and nobody holds up the next one */
    close_disks(&disks);
    end_program(io);
}

static void two_disks_never_get_one_region(void **state)
{
    struct sim *sim = new_world(1);

    (void)state;
    run(sim, two_main, NULL);
    sim_free(sim);
}

/* Somebody wipes a cache disk that is in use: a start would find it empty. */
static void wiped_main(struct io *io, void *arg)
{
    static const uint64_t offsets[] = {SUPERBLOCK_A_OFFSET, SUPERBLOCK_B_OFFSET};
    cleanup(freep) uint8_t *zeros = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    struct disks disks = {0};

    (void)arg;
    assert_non_null(zeros);
    memset(zeros, 0, BLOCK_SIZE);
    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_int_equal(co_bind(&disks, 0), 0);
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++)
        assert_int_equal(
            co_io_write(disk_file(disks.cache), zeros, BLOCK_SIZE, offsets[i], IO_WRITE_DSYNC), 0);
    assert_int_equal(co_bind(&disks, 1), -ENODEV);
    assert_true(disk_log_is_own(disks.capacity[1]));
    close_disks(&disks);
    assert_int_equal(co_disk_open(io, CACHE_PATH, &cluster, NULL, &disks.cache), -ENODEV);
    end_program(io);
}

/* A binding does not write its superblock again: nobody would notice that the other logs are gone.
 */
static void a_wiped_disk_stays_wiped(void **state)
{
    struct sim *sim = new_world(1);

    (void)state;
    run(sim, wiped_main, NULL);
    sim_free(sim);
}

static void change_main(struct io *io, void *arg)
{
    struct disk *cache = NULL;
    struct disk_log log;
    int *ret_r = arg;

    *ret_r = co_disk_open(io, CACHE_PATH, &cluster, NULL, &cache);
    for (uint8_t i = 0; i < 2 && *ret_r == 0; i++)
        *ret_r = co_disk_cache_reserve(cache, (struct disk_uuid){{0xee, i}}, &log);
    disk_close(cache);
    end_program(io);
}

static void overwrite(struct sim *sim)
{
    static const uint64_t offsets[] = {SUPERBLOCK_A_OFFSET, SUPERBLOCK_B_OFFSET};
    static const uint8_t zeros[BLOCK_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++)
        assert_int_equal(sim_disk_poke(sim, 1, CACHE_PATH, offsets[i], zeros, BLOCK_SIZE), 0);
}

static void open_main(struct io *io, void *arg)
{
    struct disk *disk = NULL;

    *(int *)arg = co_disk_open(io, CACHE_PATH, &cluster, NULL, &disk);
    disk_close(disk);
    end_program(io);
}

/* Wiped at any moment of an open and of changes, or thereafter. damage: one copy is to be mended,
 * too. */
static void wipe_while_it_is_written(bool damage)
{
    unsigned refused = 0, done = 0;

    for (uint64_t after_ns = 0; after_ns < 4 * MS; after_ns += 20 * US) {
        struct sim *sim = new_world(1 + after_ns);
        int r;

        if (damage)
            assert_int_equal(
                sim_disk_poke(sim, 1, CACHE_PATH, SUPERBLOCK_B_OFFSET + 100, "damage", 6), 0);
        assert_int_equal(sim_start(sim, 1, change_main, &r), 0);
        sim_run(sim, sim_now_ns(sim) + after_ns, machine_down, sim);
        overwrite(sim);
        sim_run(sim, sim_now_ns(sim) + SEC, machine_down, sim);
        assert_true(r == 0 || r == -ENODEV);
        refused += r < 0;
        done += r == 0;
        run(sim, open_main, &r);
        assert_int_equal(r, -ENODEV);
        sim_free(sim);
    }
    assert_true(refused > 20 && done > 20);
}

static void a_disk_wiped_while_it_is_written_stays_wiped(void **state)
{
    (void)state;
    wipe_while_it_is_written(false);
    wipe_while_it_is_written(true);
}

struct mending {
    struct sim *sim;
    uint64_t offset;
    unsigned nth;
    int result;
};

static void mend_main(struct io *io, void *arg)
{
    static const uint8_t foreign[BLOCK_SIZE] = {0xeb, 0x63};
    struct mending *mending = arg;
    struct disk *cache = NULL;
    struct disk_log log;

    assert_int_equal(co_disk_open(io, CACHE_PATH, &cluster, NULL, &cache), 0);
    assert_int_equal(
        sim_disk_poke(mending->sim, 1, CACHE_PATH, mending->offset, foreign, BLOCK_SIZE), 0);
    if (mending->nth > 0)
        sim_crash_at_write(mending->sim, 1, mending->nth);
    mending->result = co_disk_cache_reserve(cache, (struct disk_uuid){{0xee}}, &log);
    disk_close(cache);
    end_program(io);
}

/* One copy of a superblock is somebody else's, or rotten in its magic: a change mends it, and the
 * power may go in each of its writes. */
static void a_copy_that_is_not_ours_is_mended(void **state)
{
    static const uint64_t offsets[] = {SUPERBLOCK_A_OFFSET, SUPERBLOCK_B_OFFSET};
    uint8_t block[BLOCK_SIZE];

    (void)state;
    for (unsigned nth = 0; nth < 6; nth++) { /* 0: it stays */
        for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
            struct sim *sim = new_world(1 + nth);
            struct mending mending = {.sim = sim, .offset = offsets[i], .nth = nth};
            int r = 0;

            assert_int_equal(sim_start(sim, 1, mend_main, &mending), 0);
            sim_run(sim, sim_now_ns(sim) + SEC, machine_down, sim);
            if (nth == 0) {
                assert_int_equal(mending.result, 0);
                assert_int_equal(sim_disk_peek(sim, 1, CACHE_PATH, offsets[i], block, BLOCK_SIZE),
                                 0);
                assert_memory_equal(block, SUPERBLOCK_MAGIC, 8);
            }
            run(sim, open_main, &r);
            assert_int_equal(r, 0);
            sim_free(sim);
        }
    }
}

struct unbinding {
    struct disks *disks;
    struct co_group *group;
};

static void co_release_log(void *arg)
{
    struct unbinding *unbinding = arg;
    struct disks *disks = unbinding->disks;
    int r = co_disk_cache_release(disks->cache, disk_identity(disks->capacity[0])->uuid);

    assert_true(r == 0 || r == -ENODEV);
    co_group_done(unbinding->group);
}

static void give_back_main(struct io *io, void *arg)
{
    struct disks disks = {0};
    struct co_group group;
    struct unbinding unbinding = {.disks = &disks, .group = &group};

    assert_int_equal(co_open_disks(io, &disks), 0);
    assert_int_equal(co_bind(&disks, 0), 0);
    co_group_init(&group);
    co_group_add(&group, 1);
    assert_int_equal(co_spawn(io, "release", co_release_log, &unbinding), 0);
    assert_int_equal(co_sleep_ns(*(uint64_t *)arg), 0);
    assert_int_equal(co_disk_release(disks.cache), 0);
    co_group_wait(&group);
    close_disks(&disks);
    assert_int_equal(co_disk_open(io, CACHE_PATH, &cluster, NULL, &disks.cache), -ENODEV);
    end_program(io);
}

/* A retired disk may be given back while its last log, which has moved off it, is being released:
 * that must not bring its superblock back. */
static void a_disk_that_is_given_back_is_gone(void **state)
{
    (void)state;
    for (uint64_t after_ns = 0; after_ns < 2 * MS; after_ns += 20 * US) {
        struct sim *sim = new_world(1 + after_ns);

        run(sim, give_back_main, &after_ns);
        sim_free(sim);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_disk_has_logs_and_read_cache),
        cmocka_unit_test(power_goes_at_each_write_of_a_binding),
        cmocka_unit_test(a_log_that_is_bound_again_is_another),
        cmocka_unit_test(two_disks_never_get_one_region),
        cmocka_unit_test(a_wiped_disk_stays_wiped),
        cmocka_unit_test(a_disk_wiped_while_it_is_written_stays_wiped),
        cmocka_unit_test(a_copy_that_is_not_ours_is_mended),
        cmocka_unit_test(a_disk_that_is_given_back_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
