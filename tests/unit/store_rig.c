#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/log.h"
#include "s2d/base/checksum.h"
#include "tests/unit/store_rig.h"

static const struct disk_uuid cluster = {{0x52, 0x49, 0x47}};

/* ---- the world ---- */

struct program {
    void (*fn)(struct io *io, void *arg);
    void *arg;
    bool returned;
    struct rig *rig;
};

static void program_main(struct io *io, void *arg)
{
    struct program *program = arg;

    program->fn(io, program->arg);
    if (!sim_is_dying(io)) {
        program->returned = true;
        io_stop(io);
    }
}

static bool program_over(void *arg)
{
    struct program *program = arg;

    return !sim_is_up(program->rig->sim, program->rig->machine);
}

bool rig_run(struct rig *rig, void (*fn)(struct io *io, void *arg), void *arg)
{
    struct program program = {.fn = fn, .arg = arg, .rig = rig};

    assert_int_equal(sim_start(rig->sim, rig->machine, program_main, &program), 0);
    if (!sim_run(rig->sim, sim_now_ns(rig->sim) + 1000 * SEC, program_over, &program))
        fail_msg("the program hangs");
    return program.returned;
}

struct claim_job {
    uint64_t log_bytes;
    int result;
};

static void claim_main(struct io *io, void *arg)
{
    struct claim_job *job = arg;
    struct disk_claim claim = {
        .cluster = cluster,
        .disk_id = 1,
        .role = DISK_CAPACITY,
        .media = DISK_SSD,
        .extent_bytes = RIG_EXTENT_BYTES,
        .log_bytes = job->log_bytes,
    };
    struct disk_message message;

    job->result = co_disk_claim(io, RIG_PATH, &claim, &message);
    if (job->result < 0)
        print_message("%s\n", message.text);
}

void rig_new(struct rig *rig, uint64_t seed, uint64_t disk_bytes, uint64_t log_bytes)
{
    struct sim_options options = sim_default_options(seed);

    rig_new_with(rig, &options, disk_bytes, log_bytes);
}

void rig_new_with(struct rig *rig, const struct sim_options *options, uint64_t disk_bytes,
                  uint64_t log_bytes)
{
    struct claim_job job = {.log_bytes = log_bytes};

    rig->machine = 1;
    assert_int_equal(sim_new(options, &rig->sim), 0);
    assert_int_equal(sim_disk_create(rig->sim, rig->machine, RIG_PATH, disk_bytes), 0);
    assert_true(rig_run(rig, claim_main, &job));
    assert_int_equal(job.result, 0);
}

static void claim_cache_main(struct io *io, void *arg)
{
    struct disk_claim claim = {.cluster = cluster,
                               .disk_id = 2,
                               .role = DISK_CACHE,
                               .media = DISK_SSD,
                               .log_bytes = *(const uint64_t *)arg};
    struct disk *disk, *cache;
    struct disk_log log;
    struct log_region region;

    assert_int_equal(co_disk_claim(io, RIG_CACHE_PATH, &claim, NULL), 0);
    assert_int_equal(co_disk_open(io, RIG_CACHE_PATH, NULL, NULL, &cache), 0);
    assert_int_equal(co_disk_open(io, RIG_PATH, NULL, NULL, &disk), 0);
    assert_int_equal(co_disk_cache_reserve(cache, disk_identity(disk)->uuid, &log), 0);
    region = (struct log_region){
        .io = io, .file = disk_file(cache), .offset = log.offset, .bytes = log.bytes};
    memcpy(region.uuid, log.uuid.bytes, sizeof(region.uuid));
    assert_int_equal(co_log_format(&region), 0);
    assert_int_equal(co_disk_set_log(disk, &log, false), 0);
    disk_close(disk);
    disk_close(cache);
}

void rig_put_log_on_cache(struct rig *rig, uint64_t cache_bytes, uint64_t log_bytes)
{
    assert_int_equal(sim_disk_create(rig->sim, rig->machine, RIG_CACHE_PATH, cache_bytes), 0);
    assert_true(rig_run(rig, claim_cache_main, &log_bytes));
}

void rig_done(struct rig *rig)
{
    sim_free(rig->sim);
}

static void on_error(void *arg, int error)
{
    struct rig_store *opened = arg;

    opened->errors++;
    opened->last_error = error;
}

int co_rig_open(struct io *io, struct rig_store *opened)
{
    struct store_options options = {.name = "rig", .page_cache_pages = 8};
    int r;

    memset(opened, 0, sizeof(*opened));
    r = co_disk_open(io, RIG_PATH, &cluster, NULL, &opened->disk);
    if (r == 0 && disk_identity(opened->disk)->role != DISK_CAPACITY)
        r = -ENODEV; /* as a node does with a disk that is not what its record says */
    if (r == 0 && !disk_log_is_own(opened->disk))
        r = co_disk_open(io, RIG_CACHE_PATH, &cluster, NULL, &opened->cache);
    options.log_device = opened->cache;
    if (r == 0)
        r = co_store_open(io, opened->disk, &options, &opened->store);
    if (r < 0) {
        co_rig_close(opened);
        return r;
    }
    store_set_error_handler(opened->store, on_error, opened);
    return 0;
}

void co_rig_close(struct rig_store *opened)
{
    co_store_close(take_ptr(opened->store));
    disk_close(take_ptr(opened->disk));
    disk_close(take_ptr(opened->cache));
}

/* ---- the owner ---- */

void rig_fill(void *block, uint64_t stamp)
{
    uint64_t *words = block;

    for (size_t i = 0; i < BLOCK_SIZE / sizeof(*words); i++)
        words[i] = stamp == 0 ? 0 : stamp * 0x9e3779b97f4a7c15ull + i;
    if (stamp != 0)
        words[0] = stamp;
}

uint64_t rig_stamp(const void *block)
{
    uint8_t expected[BLOCK_SIZE];
    uint64_t stamp;

    memcpy(&stamp, block, sizeof(stamp));
    rig_fill(expected, stamp);
    return memcmp(expected, block, BLOCK_SIZE) == 0 ? stamp : UINT64_MAX;
}

int co_rig_seal(struct rig_owner *owner, struct store *store, uint64_t epoch)
{
    struct store_seal seal;
    int r;

    owner->store = store;
    if (owner->vdisk == 0)
        owner->vdisk = RIG_VDISK;
    if (owner->generation == 0)
        owner->generation = 1;
    r = co_store_seal(store, owner->vdisk, epoch, epoch, &seal);
    if (r < 0)
        return r;
    store_seal_done(&seal);
    owner->epoch = owner->session = epoch;
    owner->seq = 0;
    return 0;
}

static void write_done(struct store_append *append, int result)
{
    struct rig_write *write = container_of(append, struct rig_write, append);

    assert_false(write->done);
    write->done = true;
    write->result = result;
    if (write->co)
        co_wake(write->co);
}

void rig_prepare(struct rig_owner *owner, struct rig_write *write, uint8_t kind, uint32_t extent,
                 uint32_t block, uint32_t count, uint64_t stamp)
{
    uint64_t address = (uint64_t)extent * RIG_EXTENT_BLOCKS + block;

    memset(write, 0, sizeof(*write));
    write->append.record = (struct record){
        .vdisk = owner->vdisk,
        .where = {extent, owner->generation},
        .slab = extent,
        .kind = kind,
        .block = block,
        .count = count,
        .address = address,
        .epoch = owner->epoch,
        .position = {owner->session, owner->seq + 1},
        .prev_seq = owner->seq,
        .watermark = owner->watermark,
    };
    owner->seq++;
    if (owner->commit)
        owner->watermark = write->append.record.position;
    write->append.done = write_done;
    if (kind == RECORD_ZERO)
        return;
    write->data = aligned_alloc(BLOCK_SIZE, (size_t)count * BLOCK_SIZE);
    write->sums = malloc(count * sizeof(*write->sums));
    for (uint32_t i = 0; i < count; i++)
        rig_fill(write->data + (size_t)i * BLOCK_SIZE, stamp + i);
    checksum_blocks(write->data, count, owner->vdisk, address, write->sums);
    write->append.data = write->data;
    write->append.sums = write->sums;
}

void rig_submit(struct rig_owner *owner, struct rig_write *write)
{
    store_append(owner->store, &write->append);
}

int co_rig_wait(struct rig_write *write)
{
    if (!write->done) {
        write->co = co_self();
        co_wait();
    }
    free(take_ptr(write->data));
    free(take_ptr(write->sums));
    return write->result;
}

int co_rig_write(struct rig_owner *owner, uint32_t extent, uint32_t block, uint32_t count,
                 uint64_t stamp)
{
    struct rig_write write;

    rig_prepare(owner, &write, RECORD_WRITE, extent, block, count, stamp);
    rig_submit(owner, &write);
    return co_rig_wait(&write);
}

int co_rig_zero(struct rig_owner *owner, uint32_t extent, uint32_t block, uint32_t count)
{
    struct rig_write write;

    rig_prepare(owner, &write, RECORD_ZERO, extent, block, count, 0);
    rig_submit(owner, &write);
    return co_rig_wait(&write);
}

int co_rig_commit(struct rig_owner *owner)
{
    owner->watermark = (struct log_position){owner->session, owner->seq};
    return co_store_mark(owner->store, owner->vdisk, owner->epoch, owner->watermark, false);
}

int co_rig_read(struct rig_owner *owner, uint32_t extent, uint32_t block, uint64_t *ret_stamp)
{
    struct extent_ref where = {extent, owner->generation};
    uint64_t address = (uint64_t)extent * RIG_EXTENT_BLOCKS + block;
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    int r = co_store_read(owner->store, owner->vdisk, where, block, 1, address, data, NULL, NULL);

    if (r == 0)
        *ret_stamp = rig_stamp(data);
    return r;
}
