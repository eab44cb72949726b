/* The read cache keeps what is read again, takes nothing of a scan, and bounds its RAM; and the
 * store that reads through it is right whatever the cache's device does: read_cache.h promises
 * nothing but speed, store.h everything else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "cache-tier/overlay.h"
#include "cache-tier/read_cache.h"
#include "s2d/base/io.h"
#include "tests/unit/store_rig.h"

#define DISK_BYTES (24 * MIB)
#define LOG_BYTES (4 * MIB)
#define CACHE_PATH "/cache"
#define CACHE_BYTES (64 * READ_CACHE_CHUNK_BYTES)
#define CACHE_OFFSET MIB
#define CHUNK READ_CACHE_CHUNK_BLOCKS

/* ---- the world: a disk with a store, and a faster one for the cache ---- */

static void with_disks(uint64_t seed, void (*fn)(struct io *io, void *arg), void *arg)
{
    struct rig rig;

    rig_new(&rig, seed, DISK_BYTES, LOG_BYTES);
    assert_int_equal(sim_disk_create(rig.sim, rig.machine, CACHE_PATH, CACHE_OFFSET + CACHE_BYTES),
                     0);
    assert_true(rig_run(&rig, fn, arg));
    rig_done(&rig);
}

static struct io_file *co_open_cache_file(struct io *io)
{
    struct io_file *file;

    assert_int_equal(co_io_open(io, CACHE_PATH, IO_OPEN_DIRECT, &file), 0);
    return file;
}

static struct read_cache_options cache_options(struct io_file *file)
{
    return (struct read_cache_options){.file = file, .offset = CACHE_OFFSET, .bytes = CACHE_BYTES};
}

/* ---- the module alone ---- */

struct alone {
    struct io_file *file;
    struct read_cache *cache;
    uint8_t *block;
};

static void co_alone_open(struct io *io, struct alone *alone)
{
    struct read_cache_options options;

    alone->file = co_open_cache_file(io);
    options = cache_options(alone->file);
    alone->block = aligned_alloc(BLOCK_SIZE, READ_CACHE_CHUNK_BYTES);
    memset(alone->block, 0, READ_CACHE_CHUNK_BYTES);
    assert_int_equal(read_cache_new(&options, &alone->cache), 0);
}

static void co_alone_close(struct alone *alone)
{
    co_read_cache_free(alone->cache);
    io_file_close(alone->file);
    free(alone->block);
}

/* As a store does: look, and fill after a miss. Waits for the fill. True: it was there. */
static bool co_use(struct alone *alone, uint64_t key)
{
    uint64_t offset;

    if (read_cache_find(alone->cache, key, &offset))
        return true;
    rig_fill(alone->block, key + 1);
    if (read_cache_note_read(alone->cache, key, 1))
        read_cache_fill(alone->cache, key, 1, alone->block);
    assert_int_equal(co_sleep_ns(100 * MS), 0);
    return false;
}

static bool has(struct alone *alone, uint64_t key)
{
    uint64_t offset;

    return read_cache_find(alone->cache, key, &offset);
}

static void holds_main(struct io *io, void *arg)
{
    struct alone alone;
    uint64_t offset;

    (void)arg;
    co_alone_open(io, &alone);
    assert_false(has(&alone, 5));
    rig_fill(alone.block, 6);
    read_cache_fill(alone.cache, 5, 1, alone.block);
    assert_false(has(&alone, 5)); /* not before it is written */
    assert_int_equal(co_sleep_ns(100 * MS), 0);
    assert_true(read_cache_find(alone.cache, 5, &offset));
    assert_in_range(offset, CACHE_OFFSET, CACHE_OFFSET + CACHE_BYTES - BLOCK_SIZE);
    assert_int_equal(co_io_read(alone.file, alone.block, BLOCK_SIZE, offset), 0);
    assert_int_equal(rig_stamp(alone.block), 6);
    assert_false(has(&alone, 4)); /* its neighbour in the chunk was never read */

    for (uint32_t i = 0; i < CHUNK; i++) /* across two chunks */
        rig_fill(alone.block + (size_t)i * BLOCK_SIZE, 100 + i);
    read_cache_fill(alone.cache, 40, CHUNK, alone.block);
    assert_int_equal(co_sleep_ns(100 * MS), 0);
    for (uint32_t i = 0; i < CHUNK; i++) {
        assert_true(read_cache_find(alone.cache, 40 + i, &offset));
        assert_int_equal(co_io_read(alone.file, alone.block, BLOCK_SIZE, offset), 0);
        assert_int_equal(rig_stamp(alone.block), 100 + i);
    }
    co_alone_close(&alone);
}

static void holds_what_was_filled(void **state)
{
    (void)state;
    with_disks(1, holds_main, NULL);
}

/* What is read again stays, however many others pass: a thousand chunks through 64 slots. */
static void scan_main(struct io *io, void *arg)
{
    struct alone alone;

    (void)arg;
    co_alone_open(io, &alone);
    for (int round = 0; round < 2; round++)
        for (uint64_t hot = 0; hot < 20; hot++)
            assert_int_equal(co_use(&alone, hot * 10 * CHUNK), round == 1);
    for (uint64_t i = 0; i < 1000; i++)
        assert_false(co_use(&alone, (1000 + 7 * i) * CHUNK)); /* far apart: no sequential scan */
    for (uint64_t hot = 0; hot < 20; hot++)
        assert_true(has(&alone, hot * 10 * CHUNK));
    assert_false(has(&alone, 1000 * CHUNK));
    assert_true(has(&alone, (1000 + 7 * 999) * CHUNK)); /* new ones do come in */
    co_alone_close(&alone);
}

static void a_scan_flushes_nothing(void **state)
{
    (void)state;
    with_disks(2, scan_main, NULL);
}

/* A chunk that fills up block by block was still read only once. */
static void small_steps_main(struct io *io, void *arg)
{
    struct alone alone;

    (void)arg;
    co_alone_open(io, &alone);
    assert_false(co_use(&alone, 0));
    assert_true(co_use(&alone, 0));
    for (uint64_t chunk = 100; chunk < 400; chunk++)
        for (uint32_t i = 0; i < CHUNK; i += 2) { /* not in order, or it would not come in */
            rig_fill(alone.block, 1);
            read_cache_fill(alone.cache, chunk * CHUNK + i, 1, alone.block);
            assert_int_equal(co_sleep_ns(10 * MS), 0);
        }
    assert_true(has(&alone, 0));
    co_alone_close(&alone);
}

static void filling_a_chunk_up_is_no_use_of_it(void **state)
{
    (void)state;
    with_disks(3, small_steps_main, NULL);
}

static void sequential_main(struct io *io, void *arg)
{
    struct alone alone;
    unsigned taken = 0;

    (void)arg;
    co_alone_open(io, &alone);
    for (uint64_t key = 0; key < 10000; key += 8) {
        taken += read_cache_note_read(alone.cache, key, 8);
        assert_true(read_cache_note_read(alone.cache, 1000000 + 977 * key, 8)); /* in between */
    }
    assert_in_range(taken, 1, 20);
    assert_int_equal(read_cache_counters(alone.cache)->bypassed.value, 10000 - 8 * taken);
    assert_true(read_cache_note_read(alone.cache, 500000, 1));
    co_alone_close(&alone);
}

/* A slow disk reads sequentially as fast as one likes; only its seeks are worth saving. */
static void sequential_reads_stay_out(void **state)
{
    (void)state;
    with_disks(4, sequential_main, NULL);
}

static void forget_main(struct io *io, void *arg)
{
    struct alone alone;

    (void)arg;
    co_alone_open(io, &alone);
    memset(alone.block, 1, READ_CACHE_CHUNK_BYTES);
    read_cache_fill(alone.cache, 32, 8, alone.block);
    read_cache_forget(alone.cache, 33, 2); /* while it is being written */
    assert_int_equal(co_sleep_ns(100 * MS), 0);
    assert_true(has(&alone, 32));
    assert_false(has(&alone, 33));
    assert_false(has(&alone, 34));
    assert_true(has(&alone, 35));
    read_cache_forget(alone.cache, 30, 6); /* across two chunks */
    assert_false(has(&alone, 35));
    assert_true(has(&alone, 36));
    read_cache_mismatch(alone.cache, 39);
    assert_false(has(&alone, 36));
    read_cache_forget(alone.cache, 0, 1u << 20); /* a whole extent */
    read_cache_fill(alone.cache, 36, 1, alone.block);
    assert_int_equal(co_sleep_ns(100 * MS), 0);
    assert_true(has(&alone, 36));
    co_alone_close(&alone);
}

static void forgets_what_changes(void **state)
{
    (void)state;
    with_disks(5, forget_main, NULL);
}

/* More fills at once than there are buffers, into fewer slots than chunks: the rest is left out. */
static void flood_main(struct io *io, void *arg)
{
    const struct read_cache_counters *counters;
    struct alone alone;

    (void)arg;
    co_alone_open(io, &alone);
    counters = read_cache_counters(alone.cache);
    for (uint64_t round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < 100; i++)
            read_cache_fill(alone.cache, (round * 100 + i) * CHUNK, 1, alone.block);
        assert_int_equal(co_sleep_ns(100 * MS), 0);
    }
    assert_int_equal(counters->filled.value + counters->skipped.value, 2000);
    assert_in_range(counters->filled.value, 20, 20 * 40);
    assert_int_equal(read_cache_stats(alone.cache).used_bytes, CACHE_BYTES);
    read_cache_fill(alone.cache, 7, 1, alone.block); /* under way at the end */
    co_alone_close(&alone);
}

static void fills_are_bounded(void **state)
{
    (void)state;
    with_disks(6, flood_main, NULL);
}

static void dead_main(struct io *io, void *arg)
{
    struct alone alone;

    (void)arg;
    co_alone_open(io, &alone);
    assert_false(co_use(&alone, 0));
    io_file_set_fault(alone.file, -EIO);
    for (uint64_t i = 1; i < READ_CACHE_ERRORS_MAX; i++)
        co_use(&alone, i * 100 * CHUNK);
    assert_false(read_cache_stats(alone.cache).off);
    io_file_set_fault(alone.file, 0);
    co_use(&alone, 2 * CHUNK); /* a success in between: it was not dead */
    io_file_set_fault(alone.file, -EIO);
    for (uint64_t i = 1; i <= READ_CACHE_ERRORS_MAX; i++)
        co_use(&alone, i * 200 * CHUNK);
    assert_true(read_cache_stats(alone.cache).off);
    assert_false(has(&alone, 0));
    co_alone_close(&alone);
}

static void a_dead_device_turns_it_off(void **state)
{
    (void)state;
    with_disks(7, dead_main, NULL);
}

/* What the README says of RAM: measured on the real index for 1 TiB, and computed for the log's
 * overlay from its size. A sixteenth of a cache disk in logs, the rest read cache. */
static void state_main(struct io *io, void *arg)
{
    const uint64_t cache_bytes = 1024 * GIB, log_bytes = cache_bytes / 16;
    struct read_cache_options options = {.bytes = cache_bytes - log_bytes};
    struct read_cache *cache;
    /* and what a checkpoint notes of each block of a quarter of the log */
    uint64_t index, overlay = log_bytes / BLOCK_SIZE * (OVERLAY_BYTES_PER_BLOCK + 24 / 4);

    (void)arg;
    options.file = co_open_cache_file(io);
    assert_int_equal(read_cache_new(&options, &cache), 0);
    index = read_cache_stats(cache).index_bytes;
    print_message("RAM per TiB of cache disk: %u MiB of read cache index (%.1f bytes a chunk), "
                  "%u MiB for logs\n",
                  (unsigned)(index / MIB), (double)index / (options.bytes / READ_CACHE_CHUNK_BYTES),
                  (unsigned)(overlay / MIB));
    assert_in_range(index, 1, options.bytes / READ_CACHE_CHUNK_BYTES * READ_CACHE_BYTES_PER_CHUNK);
    assert_in_range(index + overlay, 1, GIB - 1);
    co_read_cache_free(cache);
    io_file_close(options.file);
}

static void its_ram_is_bounded(void **state)
{
    (void)state;
    with_disks(8, state_main, NULL);
}

static void nonsense_main(struct io *io, void *arg)
{
    struct io_file *file = co_open_cache_file(io);
    struct read_cache_options options = cache_options(file);
    struct read_cache *cache = NULL;

    (void)arg;
    options.bytes = READ_CACHE_CHUNKS_MIN * READ_CACHE_CHUNK_BYTES - 1;
    assert_int_equal(read_cache_new(&options, &cache), -EINVAL);
    options = cache_options(file);
    options.offset = 512;
    assert_int_equal(read_cache_new(&options, &cache), -EINVAL);
    options.offset = 0;
    options.bytes = UINT64_MAX;
    assert_int_equal(read_cache_new(&options, &cache), -EINVAL);
    assert_null(cache);
    io_file_close(file);
}

static void refuses_what_makes_no_sense(void **state)
{
    (void)state;
    with_disks(9, nonsense_main, NULL);
}

/* ---- a store that reads through it ---- */

struct cached_store {
    struct rig_store rig;
    struct rig_owner owner;
    struct io_file *file; /* the cache's */
};

static void co_cached_open(struct io *io, struct cached_store *store, uint64_t epoch)
{
    struct read_cache_options options;

    assert_int_equal(co_rig_open(io, &store->rig), 0);
    assert_int_equal(co_rig_seal(&store->owner, store->rig.store, epoch), 0);
    store->file = co_open_cache_file(io);
    options = cache_options(store->file);
    assert_int_equal(co_store_set_read_cache(store->rig.store, &options), 0);
}

static void co_cached_close(struct cached_store *store)
{
    co_rig_close(&store->rig);
    io_file_close(store->file);
}

/* Blocks first to first + count with stamps from `stamp` on, in their place. */
static void co_place(struct cached_store *store, uint32_t first, uint32_t count, uint64_t stamp)
{
    assert_int_equal(co_rig_write(&store->owner, 0, first, count, stamp), 0);
    assert_int_equal(co_rig_commit(&store->owner), 0);
    assert_int_equal(co_store_checkpoint(store->rig.store), 0);
}

static uint64_t co_must_read(struct cached_store *store, uint32_t block)
{
    uint64_t stamp = 0;

    assert_int_equal(co_rig_read(&store->owner, 0, block, &stamp), 0);
    assert_int_equal(co_sleep_ns(100 * MS), 0); /* for the fill */
    return stamp;
}

static struct store_stats stats_of(const struct cached_store *store)
{
    return store_stats(store->rig.store);
}

static void hit_main(struct io *io, void *arg)
{
    struct cached_store store = {0};

    (void)arg;
    co_cached_open(io, &store, 1);
    co_place(&store, 3, 2, 100);
    assert_int_equal(co_must_read(&store, 3), 100);
    assert_int_equal(stats_of(&store).place_read_blocks, 1);
    assert_int_equal(co_must_read(&store, 3), 100);
    assert_int_equal(stats_of(&store).cache_read_blocks, 1);
    assert_int_equal(co_must_read(&store, 4), 101); /* its neighbour is a miss */
    assert_int_equal(stats_of(&store).place_read_blocks, 2);
    assert_int_equal(co_must_read(&store, 9), 0); /* nobody wrote it: no device is asked */

    /* a newer version is in the log; then in its place, and the old copy is forgotten */
    assert_int_equal(co_rig_write(&store.owner, 0, 3, 1, 300), 0);
    assert_int_equal(co_must_read(&store, 3), 300);
    assert_int_equal(stats_of(&store).log_read_blocks, 1);
    assert_int_equal(co_rig_commit(&store.owner), 0);
    assert_int_equal(co_store_checkpoint(store.rig.store), 0);
    assert_int_equal(co_must_read(&store, 3), 300);
    assert_int_equal(co_must_read(&store, 3), 300);
    assert_int_equal(stats_of(&store).cache_read_blocks, 2);
    assert_int_equal(stats_of(&store).read_cache_mismatches, 0);

    /* a trim: zeros, not what was there */
    assert_int_equal(co_rig_zero(&store.owner, 0, 3, 1), 0);
    assert_int_equal(co_rig_commit(&store.owner), 0);
    assert_int_equal(co_store_checkpoint(store.rig.store), 0);
    assert_int_equal(co_must_read(&store, 3), 0);
    co_cached_close(&store);

    co_cached_open(io, &store, 2); /* and it begins empty */
    assert_int_equal(co_must_read(&store, 4), 101);
    assert_int_equal(stats_of(&store).cache_read_blocks, 0);
    co_cached_close(&store);
}

static void a_store_reads_again_from_the_cache(void **state)
{
    (void)state;
    with_disks(10, hit_main, NULL);
}

/* Overwrites all of the region with what `fill` makes of each block. */
static void co_spoil(struct cached_store *store, uint8_t *(*fill)(uint8_t *block, uint64_t index))
{
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);

    for (uint64_t i = 0; i < CACHE_BYTES / BLOCK_SIZE; i++) {
        uint64_t offset = CACHE_OFFSET + i * BLOCK_SIZE;

        assert_int_equal(co_io_read(store->file, block, BLOCK_SIZE, offset), 0);
        assert_int_equal(co_io_write(store->file, fill(block, i), BLOCK_SIZE, offset, 0), 0);
    }
}

static uint8_t *lost(uint8_t *block, uint64_t index)
{
    (void)index;
    return memset(block, 0, BLOCK_SIZE);
}

static uint8_t *of_another(uint8_t *block, uint64_t index)
{
    rig_fill(block, 100 + (index + 1) % CHUNK); /* right, but for another place */
    return block;
}

static uint8_t *torn(uint8_t *block, uint64_t index)
{
    (void)index;
    block[BLOCK_SIZE - 1] ^= 1;
    return block;
}

static void lies_main(struct io *io, void *arg)
{
    uint8_t *(*const lies[])(uint8_t *, uint64_t) = {lost, of_another, torn};
    struct cached_store store = {0};

    (void)arg;
    co_cached_open(io, &store, 1);
    co_place(&store, 0, 64, 100);
    for (size_t lie = 0; lie < ARRAY_SIZE(lies); lie++) {
        uint64_t mismatches = stats_of(&store).read_cache_mismatches, hits;

        for (uint32_t i = 0; i < 64; i += CHUNK)
            co_must_read(&store, i);
        co_spoil(&store, lies[lie]);
        for (uint32_t i = 0; i < 64; i += CHUNK)
            assert_int_equal(co_must_read(&store, i), 100 + i);
        assert_int_equal(stats_of(&store).read_cache_mismatches, mismatches + 64 / CHUNK);
        hits = stats_of(&store).cache_read_blocks; /* the place was right, and is cached again */
        for (uint32_t i = 0; i < 64; i += CHUNK)
            assert_int_equal(co_must_read(&store, i), 100 + i);
        assert_int_equal(stats_of(&store).cache_read_blocks, hits + 64 / CHUNK);
    }
    /* nothing of that is rot, or a failure of the disk */
    assert_int_equal(store.rig.errors, 0);
    assert_int_equal(stats_of(&store).verify_errors, 0);
    assert_int_equal(stats_of(&store).rotten_blocks, 0);
    co_cached_close(&store);
}

static void a_device_that_lies_costs_only_speed(void **state)
{
    (void)state;
    with_disks(11, lies_main, NULL);
}

static void failing_main(struct io *io, void *arg)
{
    struct read_cache_options none = {0};
    struct cached_store store = {0};

    (void)arg;
    co_cached_open(io, &store, 1);
    co_place(&store, 0, 64, 100);
    for (uint32_t i = 0; i < 64; i++)
        assert_int_equal(co_must_read(&store, i), 100 + i);
    io_file_set_fault(store.file, -EIO);
    for (uint32_t i = 0; i < 64; i += 3)
        assert_int_equal(co_must_read(&store, i), 100 + i);
    assert_int_equal(store.rig.errors, 0);
    assert_true(stats_of(&store).read_cache_off);
    assert_int_equal(co_store_set_read_cache(store.rig.store, &none), 0);
    assert_int_equal(stats_of(&store).read_cache_bytes, 0);
    assert_int_equal(co_must_read(&store, 5), 105);
    co_cached_close(&store);
}

static void a_device_that_fails_costs_only_speed(void **state)
{
    (void)state;
    with_disks(12, failing_main, NULL);
}

/* A scrub that saw the cache would pass over rot until the last good copy is gone. */
static void rot_main(struct io *io, void *arg)
{
    struct cached_store store = {0};
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    struct extent_ref where = {0, 1};
    uint64_t offset;

    (void)arg;
    co_cached_open(io, &store, 1);
    co_place(&store, 7, 1, 100);
    assert_int_equal(co_must_read(&store, 7), 100);
    offset = disk_block_offset(disk_geometry(store.rig.disk), 0, 7);
    memset(block, 0x55, BLOCK_SIZE);
    assert_int_equal(co_io_write(disk_file(store.rig.disk), block, BLOCK_SIZE, offset, 0), 0);
    assert_int_equal(co_must_read(&store, 7), 100); /* a client is served by the cache */
    assert_int_equal(co_store_read_at(store.rig.store, RIG_VDISK, where, 7, 1, 7,
                                      LOG_POSITION_NEWEST, block, NULL, NULL),
                     -EBADMSG);
    co_cached_close(&store);
}

static void a_scrub_sees_the_medium(void **state)
{
    (void)state;
    with_disks(13, rot_main, NULL);
}

/* Power goes while fills and reads are under way: everything comes back, nothing hangs. */
static void dying_main(struct io *io, void *arg)
{
    struct cached_store store = {0};
    uint64_t stamp;
    int r = 0;

    (void)arg;
    co_cached_open(io, &store, 1);
    co_place(&store, 0, 128, 100);
    while (r == 0)
        r = co_rig_read(&store.owner, 0, io_random(io) % 128, &stamp);
    assert_int_equal(r, -ECANCELED);
    co_cached_close(&store);
}

static void a_crash_leaves_nothing_behind(void **state)
{
    (void)state;
    for (uint64_t nth = 0; nth < 20; nth++) {
        struct rig rig;

        rig_new(&rig, 2000 + nth, DISK_BYTES, LOG_BYTES);
        assert_int_equal(
            sim_disk_create(rig.sim, rig.machine, CACHE_PATH, CACHE_OFFSET + CACHE_BYTES), 0);
        sim_crash_at_write(rig.sim, rig.machine, 30 + nth); /* the first fills */
        assert_false(rig_run(&rig, dying_main, NULL));
        rig_done(&rig);
    }
}

/* ---- anything at any time ---- */

#define RANDOM_BLOCKS RIG_EXTENT_BLOCKS
#define RANDOM_STEPS 400

struct random_run {
    uint64_t seed;
    uint64_t stamps[RANDOM_BLOCKS];
    uint64_t next_stamp;
    uint64_t hits;
};

static void check_read(struct cached_store *store, const struct random_run *run, uint32_t first,
                       uint32_t count)
{
    cleanup(freep) uint8_t *data = aligned_alloc(BLOCK_SIZE, (size_t)count * BLOCK_SIZE);
    struct extent_ref where = {0, store->owner.generation};

    assert_int_equal(
        co_store_read(store->rig.store, RIG_VDISK, where, first, count, first, data, NULL, NULL),
        0);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(rig_stamp(data + (size_t)i * BLOCK_SIZE), run->stamps[first + i]);
}

static void co_lie(struct cached_store *store, struct io *io)
{
    cleanup(freep) uint8_t *block = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    uint64_t blocks = CACHE_BYTES / BLOCK_SIZE;
    uint64_t from = CACHE_OFFSET + io_random(io) % blocks * BLOCK_SIZE;
    uint64_t to = CACHE_OFFSET + io_random(io) % blocks * BLOCK_SIZE;

    if (co_io_read(store->file, block, BLOCK_SIZE, from) == 0)
        (void)!co_io_write(store->file, block, BLOCK_SIZE, to, 0);
}

static void co_random_step(struct cached_store *store, struct random_run *run, struct io *io)
{
    struct read_cache_options options = cache_options(store->file);
    uint32_t first = io_random(io) % RANDOM_BLOCKS;
    uint32_t count = 1 + io_random(io) % MIN(40, RANDOM_BLOCKS - first);
    uint64_t what = io_random(io) % 100;

    if (what < 20) {
        assert_int_equal(co_rig_write(&store->owner, 0, first, count, run->next_stamp), 0);
        for (uint32_t i = 0; i < count; i++)
            run->stamps[first + i] = run->next_stamp++;
    } else if (what < 25) {
        assert_int_equal(co_rig_zero(&store->owner, 0, first, count), 0);
        memset(&run->stamps[first], 0, count * sizeof(run->stamps[0]));
    } else if (what < 32) {
        assert_int_equal(co_rig_commit(&store->owner), 0);
        assert_int_equal(co_store_checkpoint(store->rig.store), 0);
    } else if (what < 40) {
        co_lie(store, io);
    } else if (what < 42) {
        io_file_set_fault(store->file, io_random(io) % 2 ? -EIO : 0);
    } else if (what < 43) {
        assert_int_equal(co_store_set_read_cache(store->rig.store, &options), 0);
    } else if (what < 45) {
        assert_int_equal(co_sleep_ns(10 * MS), 0);
    } else {
        check_read(store, run, first, count);
    }
}

static void random_main(struct io *io, void *arg)
{
    struct random_run *run = arg;
    struct cached_store store = {0};

    for (uint64_t epoch = 1; epoch <= 2; epoch++) {
        co_cached_open(io, &store, epoch);
        for (unsigned step = 0; step < RANDOM_STEPS; step++)
            co_random_step(&store, run, io);
        for (uint32_t block = 0; block < RANDOM_BLOCKS; block++)
            check_read(&store, run, block, 1);
        assert_int_equal(store.rig.errors, 0);
        run->hits += stats_of(&store).cache_read_blocks;
        assert_int_equal(co_rig_commit(&store.owner), 0);
        co_cached_close(&store);
    }
}

static void whatever_it_does_reads_are_right(void **state)
{
    uint64_t hits = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct random_run run = {.seed = seed, .next_stamp = 1};

        with_disks(1000 + seed, random_main, &run);
        hits += run.hits;
    }
    assert_in_range(hits, 1000, UINT64_MAX); /* or the cache was never asked */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_what_was_filled),
        cmocka_unit_test(a_scan_flushes_nothing),
        cmocka_unit_test(filling_a_chunk_up_is_no_use_of_it),
        cmocka_unit_test(sequential_reads_stay_out),
        cmocka_unit_test(forgets_what_changes),
        cmocka_unit_test(fills_are_bounded),
        cmocka_unit_test(a_dead_device_turns_it_off),
        cmocka_unit_test(its_ram_is_bounded),
        cmocka_unit_test(refuses_what_makes_no_sense),
        cmocka_unit_test(a_store_reads_again_from_the_cache),
        cmocka_unit_test(a_device_that_lies_costs_only_speed),
        cmocka_unit_test(a_device_that_fails_costs_only_speed),
        cmocka_unit_test(a_scrub_sees_the_medium),
        cmocka_unit_test(a_crash_leaves_nothing_behind),
        cmocka_unit_test(whatever_it_does_reads_are_right),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
