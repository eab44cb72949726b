/* A log on a cache disk: it moves there and back under a load, and the power may go at any write of
 * that; and it may be lost, with all that it held, after which the store says so and is never
 * believed before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "pool/disk_format.h"
#include "s2d/base/io.h"
#include "tests/unit/store_rig.h"

#define CACHE_PATH "/cache"
#define DISK_BYTES (12 * MIB)
#define LOG_BYTES (4 * MIB)
#define CACHE_BYTES (16 * MIB)
#define EXTENTS 3
#define BLOCKS 40 /* of each, that are written */

/* ---- a world with a cache disk ---- */

static void claim_main(struct io *io, void *arg)
{
    struct disk_claim claim = {.disk_id = 2, .role = DISK_CACHE, .media = DISK_NVME};
    struct disk *disk;

    (void)arg;
    assert_int_equal(co_disk_open(io, RIG_PATH, NULL, NULL, &disk), 0);
    claim.cluster = disk_identity(disk)->cluster;
    disk_close(disk);
    claim.log_bytes = LOG_BYTES + MIB; /* another ring size than the disk's own */
    assert_int_equal(co_disk_claim(io, CACHE_PATH, &claim, NULL), 0);
}

static void new_world(struct rig *rig, uint64_t seed)
{
    rig_new(rig, seed, DISK_BYTES, LOG_BYTES);
    assert_int_equal(sim_disk_create(rig->sim, rig->machine, CACHE_PATH, CACHE_BYTES), 0);
    assert_true(rig_run(rig, claim_main, NULL));
}

/* ---- one start of the node ---- */

struct opened {
    struct disk *disk, *cache;
    struct store *store;
    unsigned errors;
};

static void on_error(void *arg, int error)
{
    struct opened *opened = arg;

    opened->errors += error != -EBADMSG;
}

static int co_open(struct io *io, struct opened *opened)
{
    struct store_options options = {.name = "rig", .page_cache_pages = 8};
    int r;

    *opened = (struct opened){0};
    r = co_disk_open(io, RIG_PATH, NULL, NULL, &opened->disk);
    if (r == 0)
        r = co_disk_open(io, CACHE_PATH, NULL, NULL, &opened->cache);
    if (r < 0)
        return r;
    if (!disk_log_is_own(opened->disk)) {
        const struct cache_region *region =
            disk_cache_log_of(opened->cache, disk_identity(opened->disk)->uuid);

        assert_non_null(region);
        assert_true(disk_uuid_equal(region->log_uuid, disk_log(opened->disk)->uuid));
        options.log_device = opened->cache;
    }
    r = co_store_open(io, opened->disk, &options, &opened->store);
    if (r == 0)
        store_set_error_handler(opened->store, on_error, opened);
    return r;
}

static void co_close(struct opened *opened)
{
    co_store_close(take_ptr(opened->store));
    disk_close(take_ptr(opened->disk));
    disk_close(take_ptr(opened->cache));
}

static int co_move_to_cache(struct opened *opened)
{
    struct disk_log log;
    int r = co_disk_cache_reserve(opened->cache, disk_identity(opened->disk)->uuid, &log);

    return r < 0 ? r : co_store_move_log(opened->store, opened->cache, &log);
}

static int co_move_home(struct opened *opened)
{
    struct disk_log log = disk_own_log(opened->disk);
    int r = co_store_move_log(opened->store, NULL, &log);

    return r < 0 ? r : co_disk_cache_release(opened->cache, disk_identity(opened->disk)->uuid);
}

/* ---- an owner that goes on writing ---- */

struct model { /* what each block shows for sure, and what it may show instead */
    uint64_t sure[EXTENTS][BLOCKS], maybe[EXTENTS][BLOCKS];
    uint64_t next_stamp, epoch, sealed_other;
};

struct load {
    struct io *io;
    struct model *model;
    struct rig_owner *owner;
    struct co_group group;
    bool stop;
    uint64_t think_ns; /* at most, after each write */
    uint64_t written;
    int result;
};

static int co_write_one(struct load *load)
{
    struct model *model = load->model;
    uint64_t stamp = ++model->next_stamp;
    uint32_t extent = stamp % EXTENTS, block = stamp * 7 % BLOCKS;
    int r;

    model->maybe[extent][block] = stamp;
    r = co_rig_write(load->owner, extent, block, 1, stamp);
    if (r < 0)
        return r;
    model->sure[extent][block] = stamp;
    load->written++;
    return co_rig_commit(load->owner);
}

static void load_main(void *arg)
{
    struct load *load = arg;

    while (!load->stop && load->result == 0) {
        load->result = co_write_one(load);
        if (load->result == 0 && load->think_ns > 0)
            load->result = co_sleep_ns(io_random(load->io) % load->think_ns);
    }
}

static void load_start(struct load *load, struct io *io, struct model *model,
                       struct rig_owner *owner)
{
    *load = (struct load){.io = io, .model = model, .owner = owner};
    co_group_init(&load->group);
    assert_int_equal(co_group_spawn(&load->group, io, "load", load_main, load), 0);
}

static void co_load_stop(struct load *load)
{
    load->stop = true;
    co_group_wait(&load->group);
}

/* Every block shows what was acknowledged last, or what was under way when the power went. */
static void co_check(struct rig_owner *owner, struct model *model)
{
    for (uint32_t extent = 0; extent < EXTENTS; extent++) {
        for (uint32_t block = 0; block < BLOCKS; block++) {
            uint64_t stamp;
            int r = co_rig_read(owner, extent, block, &stamp);

            if (r == -ECANCELED)
                return;
            assert_int_equal(r, 0);
            if (stamp != model->sure[extent][block])
                assert_int_equal(stamp, model->maybe[extent][block]);
            model->sure[extent][block] = model->maybe[extent][block] = stamp;
        }
    }
}

/* ---- moving ---- */

struct job {
    struct model *model;
    bool over;
};

/* Fences stay: epochs below the highest shown are refused, of a vdisk that writes nothing as well.
 */
static void co_check_fences(struct opened *opened, const struct model *model)
{
    struct rig_owner old = {.vdisk = RIG_VDISK}, other = {.vdisk = RIG_VDISK + 1};

    if (model->epoch > 1)
        assert_int_equal(co_rig_seal(&old, opened->store, model->epoch - 1), -ESTALE);
    if (model->sealed_other > 1)
        assert_int_equal(co_rig_seal(&other, opened->store, model->sealed_other - 1), -ESTALE);
}

static int co_begin(struct io *io, struct opened *opened, struct model *model,
                    struct rig_owner *owner)
{
    struct rig_owner other = {.vdisk = RIG_VDISK + 1};
    int r = co_open(io, opened);

    if (r < 0)
        return r;
    assert_false(store_health(opened->store)->log_damaged);
    co_check_fences(opened, model);
    /* several, a batch each: a log's former life begins like the next one */
    for (int i = 0; i < 4 && r == 0; i++) {
        r = co_rig_seal(owner, opened->store, model->epoch + 1);
        model->epoch += r == 0;
        if (r == 0)
            r = co_rig_seal(&other, opened->store, model->sealed_other + 1);
        model->sealed_other += r == 0;
    }
    owner->commit = true;
    return r;
}

static void move_main(struct io *io, void *arg)
{
    struct job *job = arg;
    struct rig_owner owner = {0};
    struct opened opened;
    struct load load;
    int r = co_begin(io, &opened, job->model, &owner);

    if (r == 0) {
        co_check(&owner, job->model);
        load_start(&load, io, job->model, &owner);
        r = co_sleep_ns(2 * MS);
        for (int i = 0; i < 2 && r == 0; i++) {
            uint64_t before = load.written;

            r = disk_log_is_own(opened.disk) ? co_move_to_cache(&opened) : co_move_home(&opened);
            if (r == 0)
                r = co_sleep_ns(5 * MS);
            assert_true(r < 0 || load.written > before); /* it goes on */
        }
        co_load_stop(&load);
        if (r == 0)
            co_check(&owner, job->model);
        assert_true(r == 0 || sim_is_dying(io));
        assert_int_equal(opened.errors, 0);
    }
    job->over = r == 0;
    co_close(&opened);
}

static void look_main(struct io *io, void *arg)
{
    struct job *job = arg;
    struct rig_owner owner = {0};
    struct opened opened;

    assert_int_equal(co_begin(io, &opened, job->model, &owner), 0);
    co_check(&owner, job->model);
    co_close(&opened);
}

static void a_log_moves_under_a_load(void **state)
{
    struct model model = {.next_stamp = 1000};
    struct job job = {.model = &model};
    struct rig rig;

    (void)state;
    new_world(&rig, 1);
    for (int i = 0; i < 3; i++) {
        assert_true(rig_run(&rig, move_main, &job));
        assert_true(job.over);
        assert_true(rig_run(&rig, look_main, &job));
    }
    rig_done(&rig);
}

/* A writer that thinks between its writes: one of them begins in each moment of a move. */
static void whenever_main(struct io *io, void *arg)
{
    struct model *model = arg;
    struct rig_owner owner = {.commit = true};
    struct opened opened;
    struct load load;

    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, 1), 0);
    load_start(&load, io, model, &owner);
    load.think_ns = 20 * MS;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(
            disk_log_is_own(opened.disk) ? co_move_to_cache(&opened) : co_move_home(&opened), 0);
        assert_int_equal(co_sleep_ns(MS), 0);
    }
    co_load_stop(&load);
    assert_int_equal(load.result, 0);
    co_check(&owner, model);
    co_close(&opened);
}

static void a_write_may_begin_whenever(void **state)
{
    struct model model = {.next_stamp = 1000};
    struct rig rig;

    (void)state;
    new_world(&rig, 3);
    assert_true(rig_run(&rig, whenever_main, &model));
    rig_done(&rig);
}

#define CUTS 100

static void power_goes_at_each_write_of_a_move(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth < CUTS; nth++) {
        struct model model = {.next_stamp = 1000};
        struct job job = {.model = &model};
        struct rig rig;

        new_world(&rig, nth);
        for (int i = 0; i < 2; i++) { /* the second time from whatever is there */
            sim_crash_at_write(rig.sim, rig.machine, nth * (i + 1));
            rig_run(&rig, move_main, &job);
            sim_crash_at_write(rig.sim, rig.machine, 0);
            assert_true(rig_run(&rig, look_main, &job));
        }
        rig_done(&rig);
    }
}

/* What nobody commits cannot be destaged: the log stays where it is, and nothing is refused. */
static void uncommitted_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0};
    struct opened opened;
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 77), 0);
    assert_int_equal(co_move_to_cache(&opened), -EAGAIN);
    assert_true(disk_log_is_own(opened.disk));
    assert_int_equal(co_rig_write(&owner, 0, 1, 1, 78), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_move_to_cache(&opened), 0);
    assert_false(disk_log_is_own(opened.disk));
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), 0);
    assert_int_equal(stamp, 77);
    co_close(&opened);
}

static void a_log_waits_for_watermarks(void **state)
{
    struct rig rig;

    (void)state;
    new_world(&rig, 1);
    assert_true(rig_run(&rig, uncommitted_main, NULL));
    rig_done(&rig);
}

static bool is_extent(void *arg, const struct store_extent *extent)
{
    return extent->where.extent == *(uint32_t *)arg;
}

/* A deleted volume's last write stays uncommitted for ever, unless the store is told: then the log
 * may move, also after a restart, and what others have uncommitted is not touched. */
static void gone_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0}, other = {.vdisk = RIG_VDISK + 1};
    uint32_t gone = 0;
    struct opened opened;
    uint64_t stamp;

    (void)arg;
    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, 1), 0);
    assert_int_equal(co_rig_seal(&other, opened.store, 1), 0);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 77), 0);
    assert_int_equal(co_rig_write(&other, 1, 0, 1, 88), 0);
    assert_int_equal(co_store_drop_gone(opened.store, is_extent, &gone), 0);
    assert_int_equal(co_move_to_cache(&opened), -EAGAIN);
    assert_int_equal(co_rig_commit(&other), 0);
    assert_int_equal(co_move_to_cache(&opened), 0);
    assert_int_equal(co_rig_read(&other, 1, 0, &stamp), 0);
    assert_int_equal(stamp, 88);
    co_close(&opened);

    assert_int_equal(co_open(io, &opened), 0);
    other.store = opened.store;
    assert_int_equal(co_rig_read(&other, 1, 0, &stamp), 0);
    assert_int_equal(stamp, 88);
    co_close(&opened);
}

static void what_is_gone_does_not_hold_a_log(void **state)
{
    struct rig rig;

    (void)state;
    new_world(&rig, 1);
    assert_true(rig_run(&rig, gone_main, NULL));
    rig_done(&rig);
}

/* ---- refused in the instant of the move ---- */

struct instant {
    struct io *io;
    struct opened opened;
    struct rig_owner stale;
    struct rig_write refused;
    struct io_timer timer;
    uint64_t took_ns; /* by the move; 0: not known yet */
};

/* A record of a session that is over. Timers come before coroutines that are ready. */
static void instant_came(void *arg)
{
    struct instant *instant = arg;

    rig_submit(&instant->stale, &instant->refused);
}

static void instant_main(struct io *io, void *arg)
{
    struct instant *instant = arg;
    uint64_t start_ns, took_ns = instant->took_ns;
    struct rig_owner owner = {0};

    assert_int_equal(co_open(io, &instant->opened), 0);
    assert_int_equal(co_rig_seal(&owner, instant->opened.store, 2), 0);
    instant->stale = owner;
    instant->stale.epoch = instant->stale.session = 1;
    rig_prepare(&instant->stale, &instant->refused, RECORD_WRITE, 0, 0, 1, 1);
    io_timer_init(&instant->timer, instant_came, instant);
    start_ns = io_now_ns(io);
    io_timer_arm(io, &instant->timer, start_ns + (took_ns > 0 ? took_ns : SEC));
    assert_int_equal(co_move_to_cache(&instant->opened), 0);
    instant->took_ns = io_now_ns(io) - start_ns;
    assert_int_equal(co_rig_wait(&instant->refused), -ESTALE);
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 1), 0);
    co_close(&instant->opened);
}

/* In the very turn in which the superblock names the new log: it is in neither then. */
static void a_write_may_be_refused_whenever(void **state)
{
    struct instant instant = {0};

    (void)state;
    for (int i = 0; i < 2; i++) { /* the first time it is learned when that is */
        struct rig rig;

        new_world(&rig, 1);
        assert_true(rig_run(&rig, instant_main, &instant));
        rig_done(&rig);
    }
}

/* ---- a new log that fails ---- */

#define FAIL_STEP_NS (50 * US)

struct failing {
    struct rig *rig;
    uint64_t after_ns;
    struct opened opened;
    struct disk_log to;
    int moved, marked;
};

/* The power goes at the first write after the move. No log of the store's has the epoch by then, so
 * without that write the store must not say that it keeps it. */
static void failing_move_main(void *arg)
{
    struct failing *failing = arg;
    struct opened *opened = &failing->opened;

    failing->moved = co_store_move_log(opened->store, opened->cache, &failing->to);
    sim_crash_at_write(failing->rig->sim, failing->rig->machine, 1);
    if (failing->moved < 0)
        failing->marked =
            co_store_mark(opened->store, RIG_VDISK, 2, (struct log_position){0}, false);
}

/* A record shows the store an epoch while it is held back for the move. */
static void failing_main(struct io *io, void *arg)
{
    struct failing *failing = arg;
    struct opened *opened = &failing->opened;
    struct rig_owner owner = {0};
    struct rig_write held;
    struct co_group group;

    assert_int_equal(co_open(io, opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened->store, 1), 0);
    assert_int_equal(
        co_disk_cache_reserve(opened->cache, disk_identity(opened->disk)->uuid, &failing->to), 0);
    co_group_init(&group);
    assert_int_equal(co_group_spawn(&group, io, "move", failing_move_main, failing), 0);
    assert_int_equal(co_sleep_ns(1), 0);
    owner.epoch = 2;
    rig_prepare(&owner, &held, RECORD_WRITE, 0, 0, 1, 1);
    rig_submit(&owner, &held);
    assert_int_equal(co_sleep_ns(failing->after_ns), 0);
    sim_disk_set_fault(failing->rig->sim, failing->rig->machine, CACHE_PATH, SIM_DISK_WRITE_ERRORS);
    co_group_wait(&group);
    assert_int_equal(co_rig_wait(&held), -ECANCELED);
    co_close(opened);
}

static void a_log_that_failed_to_begin_vouches_for_nothing(void **state)
{
    struct failing failing = {.moved = -EIO};

    (void)state;
    for (uint64_t i = 0; failing.moved < 0; i++) {
        struct rig rig;

        failing = (struct failing){.rig = &rig, .after_ns = i * FAIL_STEP_NS, .marked = -ECANCELED};
        new_world(&rig, 1);
        assert_false(rig_run(&rig, failing_main, &failing));
        sim_crash_at_write(rig.sim, rig.machine, 0);
        sim_disk_set_fault(rig.sim, rig.machine, CACHE_PATH, SIM_DISK_OK);
        assert_int_equal(failing.marked, -ECANCELED);
        rig_done(&rig);
    }
}

/* ---- losing ---- */

#define NEW_EXTENT EXTENTS /* begins its life in the log that will be lost */
#define LOSS_INDEX 50      /* of the database, when it was told */

struct loss {
    bool begun; /* the superblock may say "lost" */
    bool settled;
    uint64_t epoch;
    uint64_t intact_since; /* of what was lost, told to the store */
};

/* Writes what is destaged, then what is lost; extents 0 and NEW_EXTENT have some of that. */
static void fill_main(struct io *io, void *arg)
{
    struct rig_owner owner = {.commit = true};
    struct loss *loss = arg;
    struct opened opened;

    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, 5), 0);
    for (uint32_t extent = 0; extent < EXTENTS; extent++)
        assert_int_equal(co_rig_write(&owner, extent, 0, 1, 10 + extent), 0);
    assert_int_equal(co_rig_commit(&owner), 0);
    assert_int_equal(co_move_to_cache(&opened), 0); /* all is in place */
    assert_int_equal(co_rig_write(&owner, 0, 0, 1, 90), 0);
    owner.generation = 40;
    assert_int_equal(co_rig_write(&owner, NEW_EXTENT, 0, 1, 91), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, 9), 0);
    loss->epoch = 9;
    co_close(&opened);
}

/* The cache disk fails under the store: what came before the failure is gone with it. */
static void fail_main(struct io *io, void *arg)
{
    struct rig_owner owner = {.commit = true};
    struct opened opened;
    struct loss *loss = arg;

    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, loss->epoch), 0);
    assert_false(store_log_device_failed(opened.store));
    io_file_set_fault(disk_file(opened.cache), -EIO);
    assert_int_equal(co_rig_write(&owner, 1, 0, 1, 92), -EIO);
    assert_int_equal(opened.errors, 1);
    assert_true(store_log_device_failed(opened.store));
    co_close(&opened);
}

/* What the node does then, and at each start after a power cut in the middle of it. */
static int co_recover(struct io *io, struct opened *opened, struct loss *loss)
{
    struct store_options options = {.name = "rig", .page_cache_pages = 8};
    struct store_extent columns[EXTENTS + 1];
    struct store_fence fence = {
        .vdisk = RIG_VDISK, .epoch = loss->epoch + 2, .intact_since = loss->intact_since};
    int r;

    *opened = (struct opened){0};
    r = co_disk_open(io, RIG_PATH, NULL, NULL, &opened->disk);
    if (r == 0 && !disk_log_is_own(opened->disk)) {
        struct disk_log log = disk_own_log(opened->disk);

        r = co_store_begin_log(opened->disk, NULL, &log);
        loss->begun = true;
    }
    if (r == 0)
        r = co_store_open(io, opened->disk, &options, &opened->store);
    if (r < 0 || !disk_log_lost(opened->disk))
        return r;
    store_set_error_handler(opened->store, on_error, opened);
    assert_true(store_health(opened->store)->log_damaged);
    for (uint32_t i = 0; i <= EXTENTS; i++)
        columns[i] = (struct store_extent){
            .where = {i, i == NEW_EXTENT ? 40 : 1}, .vdisk = RIG_VDISK, .slab = i};
    /* extent 2's slab was deleted */
    columns[2] = columns[EXTENTS];
    r = co_store_settle_loss(opened->store, LOSS_INDEX, columns, EXTENTS, &fence, 1);
    loss->settled = r == 0;
    return r;
}

static void co_check_compared(struct store *store, uint32_t extent, uint64_t generation)
{
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};
    struct extent_ref where = {extent, generation};

    assert_int_equal(co_store_compare_set(store, RIG_VDISK, where, 0, bitmap), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bitmap); i++)
        assert_true(bitmap[i] == UINT64_MAX);
}

static void recover_main(struct io *io, void *arg)
{
    struct loss *loss = arg;
    struct opened opened;
    int r = co_recover(io, &opened, loss);

    assert_true(r == 0 || sim_is_dying(io));
    co_close(&opened);
}

static void count_damaged(void *arg, const struct store_extent *extent)
{
    *(unsigned *)arg += extent->damaged;
}

/* Whatever was cut short: the store says that it is damaged, each column is to be compared whole,
 * also one whose life began in the lost log, and older epochs are refused. */
static void settled_main(struct io *io, void *arg)
{
    struct rig_owner old = {0}, owner = {.generation = 1};
    struct extent_ref columns[] = {{0, 1}, {1, 1}, {NEW_EXTENT, 40}};
    uint32_t gone = NEW_EXTENT;
    struct loss *loss = arg;
    struct opened opened;
    unsigned damaged = 0;

    assert_int_equal(co_recover(io, &opened, loss), 0);
    assert_false(disk_log_lost(opened.disk));
    assert_true(store_health(opened.store)->log_damaged);
    store_each_extent(opened.store, count_damaged, &damaged);
    assert_int_equal(damaged, 3);
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
        co_check_compared(opened.store, columns[i].extent, columns[i].generation);
    assert_int_equal(co_rig_seal(&old, opened.store, loss->epoch + 1), -ESTALE);

    /* its slab is gone: requests of that life, and of any before the loss, come too late */
    assert_int_equal(co_rig_seal(&owner, opened.store, loss->epoch + 2), 0);
    assert_int_equal(co_rig_write(&owner, 2, 0, 1, 93), -ESTALE);
    owner.seq = 0; /* none of them is taken */
    owner.generation = LOSS_INDEX;
    assert_int_equal(co_rig_write(&owner, 2, 0, 1, 93), -ESTALE);
    owner.generation = LOSS_INDEX + 1;
    owner.seq = 0;
    assert_int_equal(co_rig_write(&owner, 2, 0, 1, 93), 0);

    assert_int_equal(co_store_clear_compare(opened.store, RIG_VDISK, loss->epoch + 2, columns, 2),
                     0);
    co_close(&opened);
    assert_int_equal(co_open(io, &opened), 0);
    /* the third one's volume is deleted: nobody will ever clear it */
    assert_true(store_health(opened.store)->log_damaged);
    assert_int_equal(co_store_free_damaged(opened.store, is_extent, &gone), 0);
    co_close(&opened);
    assert_int_equal(co_open(io, &opened), 0);
    assert_false(store_health(opened.store)->log_damaged);
    co_close(&opened);
}

static void a_lost_log_is_told(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth < 40; nth++) {
        struct loss loss = {0};
        struct rig rig;

        new_world(&rig, nth);
        assert_true(rig_run(&rig, fill_main, &loss));
        assert_true(rig_run(&rig, fail_main, &loss));
        sim_crash_at_write(rig.sim, rig.machine, nth);
        rig_run(&rig, recover_main, &loss);
        sim_crash_at_write(rig.sim, rig.machine, 0);
        assert_true(rig_run(&rig, settled_main, &loss));
        rig_done(&rig);
    }
}

/* The last copy: what may be old is not given out. */
static void withhold_main(struct io *io, void *arg)
{
    struct extent_ref where = {0, 1};
    struct rig_owner owner = {0};
    struct loss *loss = arg;
    struct opened opened;
    uint64_t stamp;

    assert_int_equal(co_recover(io, &opened, loss), 0);
    store_withhold(opened.store, where);
    assert_int_equal(co_rig_seal(&owner, opened.store, loss->epoch + 2), 0);
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), -EBADMSG);
    assert_int_equal(co_rig_read(&owner, 1, 0, &stamp), -ESTALE); /* others have it */
    assert_int_equal(co_store_clear_compare(opened.store, RIG_VDISK, loss->epoch + 2, &where, 1),
                     0);
    assert_int_equal(co_rig_read(&owner, 0, 0, &stamp), 0);
    assert_int_equal(stamp, 10); /* as it was destaged: the caller made it right first */
    co_close(&opened);
}

static unsigned co_source_blocks(struct store *store, uint64_t since_epoch)
{
    uint64_t bitmap[RIG_EXTENT_BLOCKS / 64] = {0};
    struct extent_ref where = {0, 1};
    unsigned count = 0;

    assert_int_equal(co_store_compare_set(store, RIG_VDISK, where, since_epoch, bitmap), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bitmap); i++)
        count += (unsigned)__builtin_popcountll(bitmap[i]);
    return count;
}

/* As a source it tells what changed in epochs of which it lost nothing, and nothing less of others:
 * a copy that missed what went with the log would be called in-sync. */
static void source_main(struct io *io, void *arg)
{
    struct rig_owner owner = {0};
    struct store_stream_info info;
    struct loss *loss = arg;
    struct opened opened;

    assert_int_equal(co_open(io, &opened), 0);
    assert_int_equal(co_rig_seal(&owner, opened.store, loss->epoch + 1), 0);
    assert_true(store_stream_info(opened.store, RIG_VDISK, &info));
    assert_int_equal(info.durable_epoch, loss->epoch + 1);
    io_file_set_fault(disk_file(opened.cache), -EIO);
    assert_int_equal(co_rig_seal(&owner, opened.store, loss->epoch + 2), -EIO);
    assert_true(store_stream_info(opened.store, RIG_VDISK, &info));
    assert_int_equal(info.durable_epoch, loss->epoch + 1); /* nothing of a later one */
    co_close(&opened);

    loss->intact_since = info.durable_epoch + 1;
    assert_int_equal(co_recover(io, &opened, loss), 0);
    assert_int_equal(co_source_blocks(opened.store, loss->epoch + 1), RIG_EXTENT_BLOCKS);
    assert_int_equal(co_source_blocks(opened.store, loss->epoch + 2), 0);
    assert_int_equal(co_source_blocks(opened.store, 0), RIG_EXTENT_BLOCKS);
    co_close(&opened);

    assert_int_equal(co_open(io, &opened), 0); /* it is known no longer than it runs */
    assert_int_equal(co_source_blocks(opened.store, loss->epoch + 2), RIG_EXTENT_BLOCKS);
    co_close(&opened);
}

/* In a world of its own, with what fill_main() leaves there. */
static void after_filling(void (*fn)(struct io *io, void *arg))
{
    struct loss loss = {0};
    struct rig rig;

    new_world(&rig, 1);
    assert_true(rig_run(&rig, fill_main, &loss));
    assert_true(rig_run(&rig, fn, &loss));
    rig_done(&rig);
}

static void a_damaged_source_tells_what_it_knows(void **state)
{
    (void)state;
    after_filling(source_main);
}

static void the_last_copy_is_withheld(void **state)
{
    (void)state;
    after_filling(withhold_main);
}

/* ---- an old state of the cache disk ---- */

#define OTHER_STAMPS 8

struct old_state {
    struct sim *sim;
    uint8_t *bytes;
    uint64_t epoch;
    int opened; /* as the last co_open() said */
    bool checkpoints;
};

static void old_state_main(struct io *io, void *arg)
{
    struct rig_owner owner = {.commit = true};
    struct old_state *old = arg;
    struct opened opened;

    old->opened = co_open(io, &opened);
    if (old->opened == 0) {
        assert_int_equal(co_rig_seal(&owner, opened.store, ++old->epoch), 0);
        if (disk_log_is_own(opened.disk))
            assert_int_equal(co_move_to_cache(&opened), 0);
        for (uint64_t i = 0; i < OTHER_STAMPS; i++)
            assert_int_equal(co_rig_write(&owner, 0, 0, 1, 50 + i), 0);
        assert_int_equal(co_rig_commit(&owner), 0);
    }
    if (old->opened == 0 && old->checkpoints) {
        for (size_t at = 0; at < CACHE_BYTES; at += MIB)
            assert_int_equal(sim_disk_peek(old->sim, 1, CACHE_PATH, at, old->bytes + at, MIB), 0);
        assert_int_equal(co_store_checkpoint(opened.store), 0);
    }
    co_close(&opened);
}

static void keep(struct rig *rig, struct old_state *old)
{
    for (size_t at = 0; at < CACHE_BYTES; at += MIB)
        assert_int_equal(
            sim_disk_peek(rig->sim, rig->machine, CACHE_PATH, at, old->bytes + at, MIB), 0);
}

static void bring_back(struct rig *rig, const struct old_state *old)
{
    for (size_t at = 0; at < CACHE_BYTES; at += MIB)
        assert_int_equal(
            sim_disk_poke(rig->sim, rig->machine, CACHE_PATH, at, old->bytes + at, MIB), 0);
}

/* A cache disk that went back to what it was before the last start, or before the last checkpoint:
 * its log is sound, bears the right name, and lacks what was acknowledged since. */
static void an_old_log_is_lost(void **state)
{
    struct old_state old = {.bytes = malloc(CACHE_BYTES)};
    struct rig rig;

    (void)state;
    assert_non_null(old.bytes);
    new_world(&rig, 1);
    old.sim = rig.sim;
    assert_true(rig_run(&rig, old_state_main, &old));
    keep(&rig, &old);
    bring_back(&rig, &old);
    assert_true(rig_run(&rig, old_state_main, &old)); /* it is what it was */
    assert_int_equal(old.opened, 0);
    bring_back(&rig, &old);
    assert_true(rig_run(&rig, old_state_main, &old));
    assert_int_equal(old.opened, -EBADMSG);
    rig_done(&rig);

    new_world(&rig, 2);
    old.sim = rig.sim;
    old.checkpoints = true;
    assert_true(rig_run(&rig, old_state_main, &old));
    bring_back(&rig, &old);
    assert_true(rig_run(&rig, old_state_main, &old));
    assert_int_equal(old.opened, -EBADMSG);
    rig_done(&rig);
    free(old.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_moves_under_a_load),
        cmocka_unit_test(a_write_may_begin_whenever),
        cmocka_unit_test(power_goes_at_each_write_of_a_move),
        cmocka_unit_test(a_log_waits_for_watermarks),
        cmocka_unit_test(what_is_gone_does_not_hold_a_log),
        cmocka_unit_test(a_write_may_be_refused_whenever),
        cmocka_unit_test(a_log_that_failed_to_begin_vouches_for_nothing),
        cmocka_unit_test(a_lost_log_is_told),
        cmocka_unit_test(the_last_copy_is_withheld),
        cmocka_unit_test(a_damaged_source_tells_what_it_knows),
        cmocka_unit_test(an_old_log_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
