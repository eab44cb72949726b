/* Claiming takes nothing that somebody else may need, and opening takes nothing that is not ours;
 * both say in a sentence what they found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "pool/disk.h"
#include "pool/disk_format.h"
#include "pool/extent_table.h"
#include "pool/superblock.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/sim.h"

#define PATH "/disk"
#define DISK_BYTES (16 * MIB)

static const struct disk_uuid ours = {{1, 2, 3}}, theirs = {{9, 9}};

struct job { /* what a program does, and what came of it */
    struct disk_claim claim;
    const struct disk_uuid *cluster;
    bool open;
    int result;
    struct disk_message message;
    struct disk_identity identity;
    struct disk_geometry geometry;
};

static void job_main(struct io *io, void *arg)
{
    struct job *job = arg;
    struct disk *disk = NULL;

    if (!job->open) {
        job->result = co_disk_claim(io, PATH, &job->claim, &job->message);
    } else {
        job->result = co_disk_open(io, PATH, job->cluster, &job->message, &disk);
        if (disk) {
            job->identity = *disk_identity(disk);
            job->geometry = *disk_geometry(disk);
        }
        disk_close(disk);
    }
    if (!sim_is_dying(io))
        io_stop(io);
}

static bool machine_down(void *arg)
{
    return !sim_is_up(arg, 1);
}

static void run(struct sim *sim, void (*fn)(struct io *io, void *arg), void *arg)
{
    assert_int_equal(sim_start(sim, 1, fn, arg), 0);
    assert_true(sim_run(sim, sim_now_ns(sim) + 100 * SEC, machine_down, sim));
}

static struct disk_claim claim_of(struct disk_uuid cluster)
{
    return (struct disk_claim){
        .cluster = cluster,
        .disk_id = 42,
        .role = DISK_CAPACITY,
        .media = DISK_SSD,
        .extent_bytes = MIB,
        .log_bytes = DISK_LOG_BYTES_MIN,
    };
}

static struct sim *new_world(void)
{
    struct sim_options options = sim_default_options(1);
    struct sim *sim;

    assert_int_equal(sim_new(&options, &sim), 0);
    assert_int_equal(sim_disk_create(sim, 1, PATH, DISK_BYTES), 0);
    return sim;
}

static int claim_as(struct sim *sim, struct disk_uuid cluster, struct job *job)
{
    *job = (struct job){.claim = claim_of(cluster)};
    run(sim, job_main, job);
    return job->result;
}

static int open_as(struct sim *sim, const struct disk_uuid *cluster, struct job *job)
{
    *job = (struct job){.open = true, .cluster = cluster};
    run(sim, job_main, job);
    return job->result;
}

static void poke(struct sim *sim, uint64_t offset, const void *data, size_t length)
{
    assert_int_equal(sim_disk_poke(sim, 1, PATH, offset, data, length), 0);
}

/* ---- claiming ---- */

static void a_claimed_disk_opens(void **state)
{
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(open_as(sim, &ours, &job), -ENODEV);
    assert_non_null(strstr(job.message.text, "claim it first"));
    assert_int_equal(claim_as(sim, ours, &job), 0);
    assert_int_equal(open_as(sim, &ours, &job), 0);
    assert_string_equal(job.message.text, "");
    assert_int_equal(job.identity.disk_id, 42);
    assert_int_equal(job.identity.media, DISK_SSD);
    assert_int_equal(job.geometry.log_bytes, DISK_LOG_BYTES_MIN);
    assert_int_equal(job.geometry.extent_count, 10);
    assert_int_equal(claim_as(sim, ours, &job), -EALREADY);
    assert_int_equal(open_as(sim, NULL, &job), 0); /* and it is unharmed */
    sim_free(sim);
}

static void another_clusters_disk_is_named(void **state)
{
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, theirs, &job), 0);
    assert_int_equal(claim_as(sim, ours, &job), -EPERM);
    assert_non_null(strstr(job.message.text, "09090000-"));
    assert_int_equal(open_as(sim, &ours, &job), -EPERM);
    assert_non_null(strstr(job.message.text, "09090000-"));
    assert_non_null(strstr(job.message.text, "disk 42"));
    assert_int_equal(open_as(sim, &theirs, &job), 0);
    sim_free(sim);
}

static void somebodys_data_is_refused_by_name(void **state)
{
    static const struct {
        uint64_t offset;
        const char *bytes;
        size_t length;
        const char *name;
    } signs[] = {
        {512, "EFI PART", 8, "GPT partition table"},
        {510, "\x55\xaa", 2, "MBR partition table"},
        {1080, "\x53\xef", 2, "ext4"},
        {0, "XFSB", 4, "XFS"},
        {0x10040, "_BHRfS_M", 8, "btrfs"},
        {536, "LABELONE", 8, "unknown kind"}, /* not where LVM has it */
        {512, "LABELONE", 8, "LVM"},
        {4096, "\xfc\x4e\x2b\xa9", 4, "software RAID"},
        {4086, "SWAPSPACE2", 10, "swap"},
        {0, "LUKS\xba\xbe", 6, "LUKS"},
        {999999, "x", 1, "unknown kind (at byte 999999)"},
        {DISK_BYTES - 512, "EFI PART", 8, "backup GPT"},
        {DISK_BYTES - 8192, "\xfc\x4e\x2b\xa9", 4, "software RAID"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(signs); i++) {
        struct sim *sim = new_world();
        uint8_t before[512], after[512];
        struct job job;

        poke(sim, signs[i].offset, signs[i].bytes, signs[i].length);
        assert_int_equal(sim_disk_peek(sim, 1, PATH, 0, before, sizeof(before)), 0);
        assert_int_equal(claim_as(sim, ours, &job), -EEXIST);
        if (!strstr(job.message.text, signs[i].name))
            fail_msg("'%s' does not name %s", job.message.text, signs[i].name);
        assert_int_equal(sim_disk_peek(sim, 1, PATH, 0, after, sizeof(after)), 0);
        assert_memory_equal(before, after, sizeof(before));
        sim_free(sim);
    }
}

static void nonsense_is_refused(void **state)
{
    struct sim *sim = new_world();
    struct job job = {.claim = claim_of(ours)};

    (void)state;
    job.claim.extent_bytes = 3 * MIB;
    run(sim, job_main, &job);
    assert_int_equal(job.result, -EINVAL);
    job = (struct job){.claim = claim_of(ours)};
    job.claim.log_bytes = DISK_BYTES;
    run(sim, job_main, &job);
    assert_int_equal(job.result, -ENOSPC);
    job = (struct job){.claim = claim_of(ours)};
    job.claim.disk_id = 0;
    run(sim, job_main, &job);
    assert_int_equal(job.result, -EINVAL);
    assert_int_equal(claim_as(sim, ours, &job), 0); /* nothing was written by these */
    sim_free(sim);
}

/* The power goes at each write of a claim: then it is no disk yet, and claiming again works; never
 * is it a disk with half a table. */
static void an_interrupted_claim_can_be_run_again(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 9; nth++) {
        struct sim *sim = new_world();
        struct job job = {.claim = claim_of(ours)};
        int opened;

        sim_crash_at_write(sim, 1, nth);
        run(sim, job_main, &job);
        sim_crash_at_write(sim, 1, 0);
        opened = open_as(sim, &ours, &job);
        assert_true(opened == 0 || opened == -ENODEV);
        if (opened == -ENODEV)
            assert_int_equal(claim_as(sim, ours, &job), 0);
        assert_int_equal(open_as(sim, &ours, &job), 0);
        sim_free(sim);
    }
}

/* ---- superblocks ---- */

static void a_corrupt_copy_is_survived_and_mended(void **state)
{
    static const uint64_t copies[] = {SUPERBLOCK_A_OFFSET, SUPERBLOCK_B_OFFSET};
    uint8_t junk = 0xee;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(copies); i++) {
        struct sim *sim = new_world();
        struct job job;

        assert_int_equal(claim_as(sim, ours, &job), 0);
        poke(sim, copies[i] + 100, &junk, 1);
        assert_int_equal(open_as(sim, &ours, &job), 0);
        assert_true(job.identity.superblock_repaired);
        poke(sim, copies[1 - i] + 100, &junk, 1); /* the other one goes: the mended one serves */
        assert_int_equal(open_as(sim, &ours, &job), 0);
        poke(sim, copies[0] + 100, &junk, 1);
        poke(sim, copies[1] + 100, &junk, 1);
        assert_int_equal(open_as(sim, &ours, &job), -EBADMSG);
        assert_non_null(strstr(job.message.text, "both copies"));
        assert_int_equal(claim_as(sim, ours, &job), -EEXIST); /* there may be data */
        sim_free(sim);
    }
}

static void another_format_is_named(void **state)
{
    struct sim *sim = new_world();
    uint32_t version = DISK_FORMAT_VERSION + 6;
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    poke(sim, SUPERBLOCK_A_OFFSET + offsetof(struct superblock, version), &version, 4);
    assert_int_equal(open_as(sim, &ours, &job), 0); /* one copy: rot */
    poke(sim, SUPERBLOCK_A_OFFSET + offsetof(struct superblock, version), &version, 4);
    poke(sim, SUPERBLOCK_B_OFFSET + offsetof(struct superblock, version), &version, 4);
    assert_int_equal(open_as(sim, &ours, &job), -EPROTONOSUPPORT);
    assert_non_null(strstr(job.message.text, "version 7"));
    assert_non_null(strstr(job.message.text, "a newer"));
    assert_int_equal(claim_as(sim, ours, &job), -EEXIST);
    sim_free(sim);
}

static void a_role_that_there_is_not_is_refused(void **state)
{
    static struct superblock superblock;
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    assert_int_equal(sim_disk_peek(sim, 1, PATH, SUPERBLOCK_A_OFFSET, &superblock, BLOCK_SIZE), 0);
    superblock.role = 7;
    superblock_finish(&superblock, 0);
    poke(sim, SUPERBLOCK_A_OFFSET, &superblock, BLOCK_SIZE);
    superblock_finish(&superblock, 1);
    poke(sim, SUPERBLOCK_B_OFFSET, &superblock, BLOCK_SIZE);
    assert_int_equal(open_as(sim, &ours, &job), -EBADMSG);
    assert_non_null(strstr(job.message.text, "makes no sense"));
    sim_free(sim);
}

static void unknown_features_are_refused(void **state)
{
    struct superblock superblock = {.feature_compat = 1};
    struct disk_message message;

    (void)state;
    superblock_finish(&superblock, 0);
    assert_int_equal(superblock_check(&superblock, 0, &message), 0);
    superblock.feature_incompat = 4;
    superblock_finish(&superblock, 0);
    assert_int_equal(superblock_check(&superblock, 0, &message), -EPROTONOSUPPORT);
    assert_non_null(strstr(message.text, "0x4"));
    assert_int_equal(superblock_check(&superblock, 1, &message), -EBADMSG); /* misplaced */
}

/* ---- the lock ---- */

struct second {
    uint64_t hold_ns;
    int result;
    uint64_t waited_ns;
    struct disk_message message;
};

static void holder_main(void *arg)
{
    struct second *second = arg;
    struct disk *disk = NULL;

    assert_int_equal(co_disk_open(co_io(co_self()), PATH, &ours, NULL, &disk), 0);
    assert_int_equal(co_sleep_ns(second->hold_ns), 0);
    disk_close(disk);
}

static void second_main(struct io *io, void *arg)
{
    struct second *second = arg;
    struct disk *disk = NULL;
    struct co_group group;
    uint64_t from;

    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, io, "holder", holder_main, second), 0);
    assert_int_equal(co_sleep_ns(SEC), 0);
    from = io_now_ns(io);
    second->result = co_disk_open(io, PATH, &ours, &second->message, &disk);
    second->waited_ns = io_now_ns(io) - from;
    disk_close(disk);
    co_group_wait(&group);
    io_stop(io);
}

static void a_second_opener_waits_then_refuses(void **state)
{
    struct second brief = {.hold_ns = 4 * SEC}, lasting = {.hold_ns = 20 * SEC};
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    run(sim, second_main, &brief);
    assert_int_equal(brief.result, 0);
    assert_in_range(brief.waited_ns, 2 * SEC, 4 * SEC);
    run(sim, second_main, &lasting);
    assert_int_equal(lasting.result, -EBUSY);
    assert_in_range(lasting.waited_ns, 10 * SEC, 11 * SEC);
    assert_non_null(strstr(lasting.message.text, "another process"));
    sim_free(sim);
}

/* ---- giving back, shrinking ---- */

/* A disk that is overwritten under us is none of ours any more. */
static void look_main(struct io *io, void *arg)
{
    struct sim *sim = arg;
    struct disk *disk = NULL;
    char noise[BLOCK_SIZE];

    memset(noise, 0x5a, sizeof(noise));
    assert_int_equal(co_disk_open(io, PATH, &ours, NULL, &disk), 0);
    assert_int_equal(co_disk_look(disk), 0);
    assert_int_equal(sim_disk_poke(sim, 1, PATH, SUPERBLOCK_A_OFFSET, noise, BLOCK_SIZE), 0);
    assert_int_equal(co_disk_look(disk), 0); /* the other copy says so */
    assert_int_equal(sim_disk_poke(sim, 1, PATH, SUPERBLOCK_B_OFFSET, noise, BLOCK_SIZE), 0);
    assert_int_equal(co_disk_look(disk), -ENODEV);
    disk_close(disk);
    io_stop(io);
}

static void an_overwritten_disk_is_noticed(void **state)
{
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    run(sim, look_main, sim);
    sim_free(sim);
}

static void release_main(struct io *io, void *arg)
{
    struct disk *disk = NULL;

    (void)arg;
    assert_int_equal(co_disk_open(io, PATH, &ours, NULL, &disk), 0);
    assert_int_equal(co_disk_release(disk), 0);
    disk_close(disk);
    io_stop(io);
}

static void a_released_disk_can_be_claimed_by_another(void **state)
{
    struct sim *sim = new_world();
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    run(sim, release_main, NULL);
    assert_int_equal(open_as(sim, &ours, &job), -ENODEV);
    assert_int_equal(claim_as(sim, theirs, &job), 0);
    sim_free(sim);
}

/* ---- geometry ---- */

static void geometry_uses_the_disk_without_overlap(void **state)
{
    static const struct {
        uint64_t size, extent, log, extents, log_chosen;
    } cases[] = {
        {2 * GIB, 16 * MIB, 0, 95, 512 * MIB},
        {256 * GIB, 256 * MIB, 0, 957, 16 * GIB},
        {16384 * GIB, 256 * MIB, 0, 65339, 16 * GIB},
        {12 * MIB, MIB, 4 * MIB, 6, 4 * MIB},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct disk_geometry g;
        uint64_t end, pages;

        assert_int_equal(disk_geometry_plan(cases[i].size, cases[i].extent, cases[i].log, &g), 0);
        assert_int_equal(g.log_bytes, cases[i].log_chosen);
        pages = (uint64_t)g.extent_count * g.pages_per_extent;
        assert_true(g.pages_offset >= g.table_offset + (uint64_t)g.table_blocks * BLOCK_SIZE);
        assert_true(g.log_offset >= g.pages_offset + pages * BLOCK_SIZE);
        assert_true(g.extents_offset >= g.log_offset + g.log_bytes);
        end = g.extents_offset + g.extent_count * g.extent_bytes;
        assert_true(end <= cases[i].size);
        assert_true(cases[i].size - end < g.extent_bytes + 3 * MIB); /* none is wasted */
        assert_in_range(g.extent_count, cases[i].extents - 2, cases[i].extents + 2);
    }
}

/* ---- a device that hangs ---- */

struct hang {
    struct sim *sim;
    double slowdown; /* at first */
    uint64_t stays_ns;
    int result;
    uint64_t took_ns;
    struct disk_message message;
};

static void hang_main(struct io *io, void *arg)
{
    struct hang *hang = arg;
    uint64_t start_ns = io_now_ns(io);
    struct disk *disk = NULL;

    sim_disk_set_slowdown(hang->sim, 1, PATH, hang->slowdown);
    hang->result = co_disk_open(io, PATH, &ours, &hang->message, &disk);
    hang->took_ns = io_now_ns(io) - start_ns;
    disk_close(disk);
    sim_disk_set_slowdown(hang->sim, 1, PATH, 1);
    assert_int_equal(co_sleep_ns(hang->stays_ns), 0);
    if (hang->stays_ns > 0) { /* the read has come back: nobody holds the disk any more */
        assert_int_equal(co_disk_open(io, PATH, &ours, &hang->message, &disk), 0);
        disk_close(disk);
    }
    io_stop(io);
}

/* One controller that died must not keep a node from serving its other disks. */
static void a_device_that_hangs_is_given_up(void **state)
{
    struct sim *sim = new_world();
    struct hang hang = {.sim = sim, .slowdown = 1e7, .stays_ns = 10000 * SEC};
    struct job job;

    (void)state;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    assert_int_equal(sim_start(sim, 1, hang_main, &hang), 0);
    assert_true(sim_run(sim, sim_now_ns(sim) + 20000 * SEC, machine_down, sim));
    assert_int_equal(hang.result, -ETIMEDOUT);
    assert_in_range(hang.took_ns, DISK_ANSWER_WAIT_S * SEC, (DISK_ANSWER_WAIT_S + 1) * SEC);
    sim_free(sim);
}

static void a_slow_device_is_waited_for(void **state)
{
    struct sim *sim = new_world();
    struct sim_options options = sim_default_options(1);
    struct hang hang = {.sim = sim};
    struct job job;

    (void)state;
    hang.slowdown = (double)(DISK_ANSWER_WAIT_S - 1) * SEC / (double)options.disk_read_ns_max;
    assert_int_equal(claim_as(sim, ours, &job), 0);
    assert_int_equal(sim_start(sim, 1, hang_main, &hang), 0);
    assert_true(sim_run(sim, sim_now_ns(sim) + 1000 * SEC, machine_down, sim));
    assert_int_equal(hang.result, 0);
    sim_free(sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_claimed_disk_opens),
        cmocka_unit_test(another_clusters_disk_is_named),
        cmocka_unit_test(somebodys_data_is_refused_by_name),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(an_interrupted_claim_can_be_run_again),
        cmocka_unit_test(a_corrupt_copy_is_survived_and_mended),
        cmocka_unit_test(another_format_is_named),
        cmocka_unit_test(a_role_that_there_is_not_is_refused),
        cmocka_unit_test(unknown_features_are_refused),
        cmocka_unit_test(a_second_opener_waits_then_refuses),
        cmocka_unit_test(an_overwritten_disk_is_noticed),
        cmocka_unit_test(a_released_disk_can_be_claimed_by_another),
        cmocka_unit_test(a_device_that_hangs_is_given_up),
        cmocka_unit_test(a_slow_device_is_waited_for),
        cmocka_unit_test(geometry_uses_the_disk_without_overlap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
