/* What the mirror promises (resiliency/mirror.h, I1-I8), on fake stores and a fake database. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "resiliency/parity_layout.h"
#include "s2d/base/checksum.h"
#include "tests/unit/mirror_world.h"

#define THREE                                                                                      \
    &(struct world_options)                                                                        \
    {                                                                                              \
        .seed = 1, .width = 3, .slabs = 1                                                          \
    }
#define TWO                                                                                        \
    &(struct world_options)                                                                        \
    {                                                                                              \
        .seed = 1, .width = 2, .slabs = 1                                                          \
    }

static struct owner *first_owner(struct world *world)
{
    return &world->owners[0];
}

/* ---- a request in a coroutine of its own ---- */

struct request {
    struct owner *owner;
    uint64_t block;
    char fill; /* 0: a read */
    int result;
    bool done;
};

static void request_run(void *arg)
{
    struct request *request = arg;

    request->result = request->fill ? co_owner_write(request->owner, request->block, request->fill)
                                    : co_owner_read(request->owner, request->block);
    request->done = true;
}

static void request_start(struct world *world, struct request *request)
{
    assert_int_equal(co_group_spawn(&world->coroutines, world->io, "request", request_run, request),
                     0);
}

static bool co_done_within(struct request *request, uint64_t duration_ns)
{
    for (uint64_t waited_ns = 0; waited_ns < duration_ns && !request->done; waited_ns += MS)
        co_sleep_ns(MS);
    return request->done;
}

static int co_ask(struct owner *owner, char fill, uint64_t number, bool is_repeat)
{
    struct client_request request = {.session = 77, .number = number, .is_repeat = is_repeat};
    char *buffer = co_buffer_get(owner->world->buffers, 2 * BLOCK_SIZE);
    int r;

    memset(buffer, fill, 2 * BLOCK_SIZE);
    r = co_vdisk_write(mirror_vdisk(owner->mirror), buffer, 5 * BLOCK_SIZE, 2 * BLOCK_SIZE,
                       request);
    buffer_put(owner->world->buffers, buffer, 2 * BLOCK_SIZE);
    return r;
}

static void repeat_is_not_run(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_ask(owner, 'a', 1, false), 0);
    assert_int_equal(co_owner_write(owner, 5, 'b'), 0);
    assert_int_equal(co_ask(owner, 'a', 1, true), 0); /* its answer was lost */
    assert_int_equal(co_owner_read(owner, 5), 'b');
    assert_int_equal(co_owner_read(owner, 6), 'a');
    assert_int_equal(co_ask(owner, 'c', 2, true), 0); /* nothing of it was ever written */
    assert_int_equal(co_owner_read(owner, 5), 'c');
    assert_int_equal(co_owner_read(owner, 6), 'c');
}

/* A request that was committed and not answered is sent again: somebody else's write since then
 * must stay. */
static void test_repeat_is_not_run(void **state)
{
    (void)state;
    world_run(THREE, repeat_is_not_run);
}

/* ---- writing and reading ---- */

static void write_is_on_every_column(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 5, 'a'), 0);
    for (uint64_t disk = 1; disk <= 3; disk++)
        assert_int_equal(world_peek(world, disk, 5), 'a');
    assert_int_equal(co_owner_read(owner, 5), 'a');
    assert_int_equal(co_owner_read(owner, 6), 0);
    assert_int_equal(co_vdisk_trim(mirror_vdisk(owner->mirror), 4 * BLOCK_SIZE, 3 * BLOCK_SIZE,
                                   (struct client_request){0}),
                     0);
    assert_int_equal(co_owner_read(owner, 5), 0);
    assert_int_equal(world->stale_proposals, 0);
}

static void test_write_is_on_every_column(void **state)
{
    (void)state;
    world_run(THREE, write_is_on_every_column);
}

static void wide_write_crosses_slabs(struct world *world)
{
    struct owner *owner = first_owner(world);
    size_t bytes = (WORLD_SLAB_BLOCKS + 20) * BLOCK_SIZE;
    uint64_t offset = (WORLD_SLAB_BLOCKS - 10) * BLOCK_SIZE;
    char *buffer = co_buffer_get(world->buffers, bytes);
    char *back = co_buffer_get(world->buffers, bytes);

    for (size_t i = 0; i < bytes; i++)
        buffer[i] = (char)(i / BLOCK_SIZE + 1);
    assert_int_equal(co_vdisk_write(mirror_vdisk(owner->mirror), buffer, offset, bytes,
                                    (struct client_request){0}),
                     0);
    assert_int_equal(co_vdisk_read(mirror_vdisk(owner->mirror), back, offset, bytes), 0);
    assert_memory_equal(buffer, back, bytes);
    assert_int_equal(co_vdisk_write(mirror_vdisk(owner->mirror), buffer, offset + 100, BLOCK_SIZE,
                                    (struct client_request){0}),
                     -EINVAL);
    assert_int_equal(co_vdisk_read(mirror_vdisk(owner->mirror), back,
                                   mirror_vdisk(owner->mirror)->size_bytes, BLOCK_SIZE),
                     -EINVAL);
    buffer_put(world->buffers, buffer, bytes);
    buffer_put(world->buffers, back, bytes);
}

/* Slabs 1 and 2 have no space yet: the first write asks for it. */
static void test_wide_write_crosses_slabs(void **state)
{
    (void)state;
    world_run(THREE, wide_write_crosses_slabs);
}

/* ---- empty slabs ---- */

static void be_thin(struct world *world)
{
    world->thin = true;
}

static bool slab_is_there(struct world *world, uint32_t slab)
{
    return vdisk_config_slab_allocated(world->config, slab);
}

static int co_trim_slab(struct owner *owner, uint32_t slab)
{
    uint64_t bytes = WORLD_SLAB_BLOCKS * BLOCK_SIZE;

    return co_vdisk_trim(mirror_vdisk(owner->mirror), slab * bytes, bytes,
                         (struct client_request){0});
}

static void empty_slab_is_given_back(struct world *world)
{
    struct owner *owner = first_owner(world);
    uint64_t block = WORLD_SLAB_BLOCKS + 3, generation;

    assert_int_equal(co_owner_write(owner, 3, 'a'), 0);
    assert_int_equal(co_owner_write(owner, block, 'b'), 0);
    assert_int_equal(co_owner_write(owner, block + 1, 'c'), 0);
    generation = world_column(world, 1, 0)->where.generation;
    assert_int_equal(co_vdisk_trim(mirror_vdisk(owner->mirror), block * BLOCK_SIZE, BLOCK_SIZE,
                                   (struct client_request){0}),
                     0);
    co_sleep_ns(10 * SEC);
    assert_true(slab_is_there(world, 1)); /* something is left */
    assert_int_equal(world->release_proposals, 0);

    assert_int_equal(co_trim_slab(owner, 1), 0);
    co_sleep_ns(10 * SEC);
    assert_false(slab_is_there(world, 1));
    assert_true(slab_is_there(world, 0));
    assert_int_equal(co_owner_read(owner, block + 1), 0);
    assert_int_equal(co_owner_write(owner, block, 'd'), 0);
    assert_int_equal(co_owner_read(owner, block), 'd');
    assert_int_equal(co_owner_read(owner, block + 1), 0);
    assert_true(world_column(world, 1, 0)->where.generation > generation); /* I10 */
}

static void test_empty_slab_is_given_back(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = be_thin},
              empty_slab_is_given_back);
}

static void released_slab_takes_nothing_with_it(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request write = {.owner = owner, .block = 5, .fill = 'w'};

    assert_int_equal(co_owner_write(owner, 5, 'a'), 0);
    assert_int_equal(co_trim_slab(owner, 0), 0);
    world->raft_delay_ns = 700 * MS; /* longer than a proposal waits before it is repeated */
    while (world->release_proposals == 0)
        co_sleep_ns(50 * MS);
    request_start(world, &write); /* between the proposal and its commit */
    co_sleep_ns(300 * MS);
    assert_false(write.done);
    co_sleep_ns(10 * SEC);
    assert_true(write.done);
    assert_int_equal(write.result, 0);
    assert_true(world->release_proposals > 1); /* the later one was void */
    assert_int_equal(co_owner_read(owner, 5), 'w');
    world_check_copies(world);
}

/* A write that comes while the slab goes waits, and lands in the next one. */
static void test_released_slab_takes_nothing_with_it(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = be_thin},
              released_slab_takes_nothing_with_it);
}

static void late_release_is_void(struct world *world)
{
    struct owner *owner = first_owner(world), *next;

    assert_int_equal(co_owner_write(owner, 5, 'a'), 0);
    assert_int_equal(co_trim_slab(owner, 0), 0);
    world->raft_delay_ns = 5 * SEC;
    while (world->release_proposals == 0)
        co_sleep_ns(50 * MS);
    next = world_take_over(world, 2);
    assert_int_equal(co_mirror_wait_ready(next->mirror, UINT64_MAX), 0);
    assert_int_equal(co_owner_write(next, 5, 'n'), 0);
    co_sleep_ns(20 * SEC);
    assert_true(slab_is_there(world, 0));
    assert_int_equal(co_owner_read(next, 5), 'n');
}

/* An old owner's proposal that comes late must not take the new owner's writes with it. */
static void test_late_release_is_void(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = be_thin},
              late_release_is_void);
}

/* An empty slab stays while one of its columns is away, and goes when that one is back. */
static void co_slab_waits_for_column(struct world *world)
{
    co_sleep_ns(10 * SEC);
    assert_true(slab_is_there(world, 0));
    assert_int_equal(world->release_proposals, 0);
    fake_column_set_reachable(&world->columns[1], true);
    co_sleep_ns(20 * SEC);
    assert_false(slab_is_there(world, 0));
}

/* A stale copy may still have data that a resync has to compare: its slab stays. */
static void stale_column_keeps_its_slab(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 5, 'a'), 0);
    fake_column_set_reachable(&world->columns[1], false);
    assert_int_equal(co_trim_slab(owner, 0), 0);
    co_slab_waits_for_column(world);
}

static void test_stale_column_keeps_its_slab(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = be_thin},
              stale_column_keeps_its_slab);
}

/* A column was away for a moment when the slab was looked at, and nobody missed it. */
static void absent_column_is_asked_again(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 5, 'a'), 0);
    assert_int_equal(co_trim_slab(owner, 0), 0);
    fake_column_set_reachable(&world->columns[1], false);
    co_slab_waits_for_column(world);
}

static void test_absent_column_is_asked_again(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = be_thin},
              absent_column_is_asked_again);
}

/* Looking at slabs lets the node work, also when all that is asked for is in RAM. */
static void looks_come_one_by_one(struct world *world)
{
    struct owner *owner = first_owner(world);

    world->columns[0].sums_in_ram = true;
    for (uint32_t slab = 0; slab < WORLD_SLABS; slab++) {
        assert_int_equal(co_owner_write(owner, slab * WORLD_SLAB_BLOCKS, 'a'), 0);
        assert_int_equal(co_owner_write(owner, slab * WORLD_SLAB_BLOCKS + 1, 'a'), 0);
    }
    for (uint32_t slab = 0; slab < WORLD_SLABS; slab++)
        assert_int_equal(co_vdisk_trim(mirror_vdisk(owner->mirror),
                                       (uint64_t)slab * WORLD_SLAB_BLOCKS * BLOCK_SIZE, BLOCK_SIZE,
                                       (struct client_request){0}),
                         0);
    world->columns[0].sums_asked_max = 0;
    co_sleep_ns(10 * SEC);
    assert_int_equal(world->release_proposals, 0);
    assert_int_equal(world->columns[0].sums_asked_max, 1);
}

static void test_looks_come_one_by_one(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 3, .slabs = WORLD_SLABS, .prepare = be_thin},
        looks_come_one_by_one);
}

static void full_pool_is_enospc(struct world *world)
{
    struct owner *owner = first_owner(world);

    world->full = true;
    assert_int_equal(co_owner_write(owner, WORLD_SLAB_BLOCKS, 'a'), -ENOSPC);
    assert_int_equal(co_owner_read(owner, WORLD_SLAB_BLOCKS), 0);
    assert_int_equal(co_owner_write(owner, 0, 'a'), 0);
    world->full = false;
    assert_int_equal(co_owner_write(owner, WORLD_SLAB_BLOCKS, 'b'), 0);
}

static void test_full_pool_is_enospc(void **state)
{
    (void)state;
    world_run(THREE, full_pool_is_enospc);
}

/* ---- columns that do not answer ---- */

static void write_waits_for_every_column(struct world *world)
{
    struct request request = {first_owner(world), 1, 'a', 0, false};

    world->raft_delay_ns = 400 * MS;
    fake_column_set_hang(&world->columns[2], true);
    request_start(world, &request);
    assert_false(co_done_within(&request, 2400 * MS)); /* slow is not away: 2.5 s */
    assert_int_equal(world->stale_proposals, 0);
    assert_false(co_done_within(&request, 400 * MS)); /* proposed, and that is not enough */
    assert_int_equal(world->stale_proposals, 1);
    assert_true(world_in_sync(world, 3));
    assert_true(co_done_within(&request, 500 * MS));
    assert_int_equal(request.result, 0);
    assert_false(world_in_sync(world, 3));
}

/* I1: never acknowledge what a member missed until "that member is stale" is in the database. */
static void test_write_waits_for_every_column(void **state)
{
    (void)state;
    world_run(THREE, write_waits_for_every_column);
}

static void alike(struct world *world)
{
    struct request request = {first_owner(world), 1, 'a', 0, false};

    for (unsigned disk = 0; disk < 3; disk++)
        fake_column_set_hang(&world->columns[disk], true);
    request_start(world, &request);
    assert_false(co_done_within(&request, 10 * SEC));
    assert_int_equal(world->stale_proposals, 0);
    fake_column_set_hang(&world->columns[0], false);
    assert_true(co_done_within(&request, SEC)); /* now one answers, and the others are slow */
    assert_int_equal(request.result, 0);
    assert_false(world_in_sync(world, 2));
    assert_false(world_in_sync(world, 3));
}

/* Logs that are full make all columns slow alike: with fewer copies writes would be no faster. */
static void test_columns_that_are_slow_alike_stay(void **state)
{
    (void)state;
    world_run(THREE, alike);
}

static void read_waits_for_the_write(struct world *world)
{
    struct request write = {first_owner(world), 1, 'b', 0, false};
    struct request read = {first_owner(world), 1, 0, 0, false};
    struct request beside = {first_owner(world), 2, 0, 0, false};

    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    fake_column_set_hang(&world->columns[2], true);
    request_start(world, &write);
    co_sleep_ns(10 * MS); /* it is on the other two by now */
    assert_int_equal(world_peek(world, 1, 1), 'b');
    request_start(world, &read);
    request_start(world, &beside);
    assert_false(co_done_within(&read, SEC));
    assert_true(beside.done);
    fake_column_set_hang(&world->columns[2], false);
    assert_true(co_done_within(&read, 100 * MS));
    assert_int_equal(read.result, 'b');
    assert_true(write.done);
}

/* I7: what a reader saw cannot be lost by a takeover, so it sees nothing that is not committed. */
static void test_read_waits_for_the_write(void **state)
{
    (void)state;
    world_run(THREE, read_waits_for_the_write);
}

static void read_ends_with_its_session(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request request = {owner, 1, 0, 0, false};

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    request_start(world, &request);
    co_sleep_ns(world->columns[0].latency_ns / 2);
    mirror_stop(owner->mirror); /* as when the lease ran out; there is a new one by now */
    assert_true(co_done_within(&request, SEC));
    assert_int_equal(request.result, -ESTALE);
}

/* I5: a read that was under way when its session ended may be older than what another owner has
 * answered since, even if this node holds a lease again. */
static void test_read_ends_with_its_session(void **state)
{
    (void)state;
    world_run(THREE, read_ends_with_its_session);
    world_run(&(struct world_options){.seed = 1, .width = 4, .slabs = 1, .data_columns = 2},
              read_ends_with_its_session);
}

static void away_is_evicted_sooner(struct world *world)
{
    struct request request = {first_owner(world), 1, 'a', 0, false};

    assert_int_equal(co_owner_write(first_owner(world), 1, 'x'), 0);
    fake_column_set_reachable(&world->columns[1], false);
    request_start(world, &request);
    assert_false(co_done_within(&request, 250 * MS));
    assert_true(co_done_within(&request, 250 * MS));
    assert_int_equal(request.result, 0);
    assert_false(world_in_sync(world, 2));
}

static void test_away_is_evicted_sooner(void **state)
{
    (void)state;
    world_run(THREE, away_is_evicted_sooner);
}

static void failed_medium_is_evicted_at_once(struct world *world)
{
    struct request request = {first_owner(world), 1, 'a', 0, false};

    assert_int_equal(co_owner_write(first_owner(world), 1, 'x'), 0);
    world->columns[0].append_error = -EIO; /* the owner's own */
    request_start(world, &request);
    assert_true(co_done_within(&request, 100 * MS));
    assert_int_equal(request.result, 0);
    assert_false(world_in_sync(world, 1));
    assert_int_equal(co_owner_read(first_owner(world), 1), 'a');
}

static void test_failed_medium_is_evicted_at_once(void **state)
{
    (void)state;
    world_run(THREE, failed_medium_is_evicted_at_once);
}

static void short_break_evicts_nobody(struct world *world)
{
    struct request requests[8];

    world->columns[1].latency_ns = 10 * MS;
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        requests[i] = (struct request){first_owner(world), i, (char)('a' + i), 0, false};
        request_start(world, &requests[i]);
    }
    co_sleep_ns(12 * MS);
    fake_column_set_reachable(&world->columns[1], false);
    co_sleep_ns(20 * MS);
    fake_column_set_reachable(&world->columns[1], true);
    for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
        assert_true(co_done_within(&requests[i], 200 * MS));
        assert_int_equal(requests[i].result, 0);
    }
    assert_int_equal(world->stale_proposals, 0);
    world_check_copies(world);
}

/* What the broken connection swallowed is sent again from the store's durable-through. */
static void test_short_break_evicts_nobody(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++)
        world_run(&(struct world_options){.seed = seed, .width = 3, .slabs = 1},
                  short_break_evicts_nobody);
}

static void last_column_is_waited_for(struct world *world)
{
    struct request write = {first_owner(world), 1, 'b', 0, false};
    struct request read = {first_owner(world), 2, 0, 0, false};

    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    assert_int_equal(co_owner_write(first_owner(world), 2, 'c'), 0);
    fake_column_set_reachable(&world->columns[0], false);
    fake_column_set_reachable(&world->columns[1], false);
    request_start(world, &write);
    request_start(world, &read);
    assert_false(co_done_within(&write, 20 * SEC));
    assert_false(read.done);
    assert_int_equal(world->stale_proposals, 0); /* it would help nobody */
    fake_column_set_reachable(&world->columns[1], true);
    assert_true(co_done_within(&read, 500 * MS));
    assert_int_equal(read.result, 'c');
    assert_true(co_done_within(&write, 500 * MS));
    assert_int_equal(write.result, 0);
    assert_false(world_in_sync(world, 1));
    assert_true(world_in_sync(world, 2));
}

/* I3: the last in-sync column is never marked stale; the slab waits for it. */
static void test_last_column_is_waited_for(void **state)
{
    (void)state;
    world_run(TWO, last_column_is_waited_for);
}

/* ---- resync ---- */

static void stale_column_comes_back(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    assert_int_equal(co_owner_write(owner, 2, 'b'), 0);
    fake_column_set_reachable(&world->columns[2], false);
    assert_int_equal(co_owner_write(owner, 1, 'c'), 0);
    assert_int_equal(co_owner_write(owner, 3, 'd'), 0);
    assert_false(world_in_sync(world, 3));
    fake_column_set_reachable(&world->columns[2], true);
    assert_true(co_world_heal(world));
    assert_int_equal(world_peek(world, 3, 1), 'c');
    assert_int_equal(world_peek(world, 3, 2), 'b');
    assert_int_equal(world_peek(world, 3, 3), 'd');
    assert_true(world->columns[2].drops > 0);
    co_sleep_ns(SEC);
    assert_int_equal(world->columns[2].clears, 1);
    assert_true(mirror_status(owner->mirror).copied_blocks <= 3); /* the differences, not all */
    assert_int_equal(mirror_status(owner->mirror).stale_disks, 0);
}

static void test_stale_column_comes_back(void **state)
{
    (void)state;
    world_run(THREE, stale_column_comes_back);
}

static void tail_of_a_stale_column_goes(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    assert_int_equal(co_owner_read(owner, 1), 'a');
    assert_true(co_world_heal(world));
    assert_int_equal(world_peek(world, 3, 9), 0); /* was planted; nobody else has it */
    assert_int_equal(world->columns[2].told_before_drop, 0);
    world_check_copies(world);
}

static void plant_in_stale(struct world *world)
{
    struct vdisk_config *config = world_edit(world);

    assert_int_equal(vdisk_config_mark_stale(config, 3, config->epoch), 1);
    world_publish(world, config);
    fake_column_plant(&world->columns[2], world_column(world, 0, 2)->where, 0, 2, 9,
                      (struct log_position){4, 17}, 'z', 9);
    world->columns[2].stale_undropped = true;
}

/* An ex-owner's uncommitted record: dropped before a watermark could commit it, and compared. */
static void test_tail_of_a_stale_column_goes(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = plant_in_stale},
              tail_of_a_stale_column_goes);
}

struct pounding {
    struct owner *owner;
    bool stop, stopped;
    unsigned count;
};

static void pound(void *arg)
{
    struct pounding *pounding = arg;

    while (!pounding->stop) {
        uint64_t block = io_random(pounding->owner->world->io) % WORLD_SLAB_BLOCKS;

        assert_int_equal(co_owner_write(pounding->owner, block, (char)('a' + block % 23)), 0);
        pounding->count++;
    }
    pounding->stopped = true;
}

static void resync_ends_under_load(struct world *world)
{
    struct pounding pounding[4] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(pounding); i++) {
        pounding[i].owner = first_owner(world);
        assert_int_equal(
            co_group_spawn(&world->coroutines, world->io, "pound", pound, &pounding[i]), 0);
    }
    co_sleep_ns(100 * MS);
    fake_column_set_reachable(&world->columns[2], false);
    co_sleep_ns(SEC);
    assert_false(world_in_sync(world, 3));
    fake_column_set_reachable(&world->columns[2], true);
    assert_true(co_world_heal(world));
    for (unsigned i = 0; i < ARRAY_SIZE(pounding); i++) {
        pounding[i].stop = true;
        while (!pounding[i].stopped)
            co_sleep_ns(MS);
        assert_true(pounding[i].count > 100);
    }
    world_check_copies(world);
}

static void test_resync_ends_under_load(void **state)
{
    (void)state;
    world_run(THREE, resync_ends_under_load);
}

static void one_piece_at_a_time(struct world *world)
{
    world->limits.resync_depth = 1;
}

static void copies_do_not_outrun_the_watermark(struct world *world)
{
    struct owner *owner = first_owner(world);
    uint64_t blocks = 3 * WORLD_SLAB_BLOCKS;
    struct request stuck = {owner, blocks - 1, 'z', 0, false};

    for (uint64_t block = 0; block < blocks; block++) {
        if (block == 1)
            fake_column_set_reachable(&world->columns[2], false);
        assert_int_equal(co_owner_write(owner, block, 'a'), 0);
    }
    world->columns[2].latency_ns = 10 * MS;
    fake_column_set_reachable(&world->columns[2], true);
    while (mirror_status(owner->mirror).compare_blocks == 0)
        co_sleep_ns(MS);
    fake_column_set_hang(&world->columns[1], true);
    request_start(world, &stuck);
    co_sleep_ns(2 * SEC);
    assert_false(stuck.done);
    assert_true(mirror_status(owner->mirror).copied_blocks <= 2 * 64); /* of 288 */
    fake_column_set_hang(&world->columns[1], false);
    assert_true(co_world_heal(world));
    assert_true(stuck.done);
    assert_true(mirror_status(owner->mirror).copied_blocks >= blocks - 2);
    world_check_copies(world);
}

/* Copies are records above the watermark too: with a write that is stuck they would fill the
 * target's log, and then nothing could ever be written there again. */
static void test_copies_do_not_outrun_the_watermark(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 3, .slabs = 3, .prepare = one_piece_at_a_time},
        copies_do_not_outrun_the_watermark);
}

static void stuck_write_bounds_the_others(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request stuck = {owner, 1, 'a', 0, false};
    struct request others[60];
    unsigned done = 0;

    /* slab 0 hangs on disk 2; slab 1, on which the others write, lies on disks 3 and 4 */
    fake_column_set_hang(&world->columns[1], true);
    request_start(world, &stuck);
    co_sleep_ns(MS);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
        others[i] = (struct request){owner, WORLD_SLAB_BLOCKS + i, 'b', 0, false};
        request_start(world, &others[i]);
    }
    co_sleep_ns(100 * MS);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        done += others[i].done;
    assert_true(done > 20);
    assert_true(done < 40); /* 32 blocks above the watermark, the stuck one's included */
    fake_column_set_hang(&world->columns[1], false);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        assert_true(co_done_within(&others[i], SEC));
    assert_true(stuck.done);
}

static void two_slabs_apart(struct world *world)
{
    struct vdisk_config *config = world_edit(world);

    world->limits.unsettled_bytes = 32 * BLOCK_SIZE;
    config->columns[3].disk = config->columns[3].node = 3; /* slab 1: disks 3 and 4 */
    config->columns[2].disk = config->columns[2].node = 4;
    world_publish(world, config);
}

/* A write that waits for its column holds the watermark of all; the logs must not fill for it. */
static void test_stuck_write_bounds_the_others(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 2, .slabs = 2, .prepare = two_slabs_apart},
        stuck_write_bounds_the_others);
}

static void waiting_slab_bounds_the_others(struct world *world)
{
    struct owner *owner;
    struct request request;

    co_owner_end(first_owner(world));
    fake_column_set_reachable(&world->columns[2], false);
    fake_column_set_reachable(&world->columns[3], false);
    owner = world_take_over(world, 1);
    for (uint64_t block = 0; block < 32; block++)
        assert_int_equal(co_owner_write(owner, block, 'a'), 0); /* slab 0 serves */
    request = (struct request){.owner = owner, .block = 40, .fill = 'b'};
    request_start(world, &request);
    assert_false(co_done_within(&request, SEC));
    fake_column_set_reachable(&world->columns[2], true);
    fake_column_set_reachable(&world->columns[3], true);
    assert_true(co_done_within(&request, SEC));
    assert_int_equal(request.result, 0);
    world_check_copies(world);
}

/* No watermark of a session flows to the disks of a slab that is not taken over: what the others
 * write meanwhile stays in their logs, where the takeover needs room. */
static void test_waiting_slab_bounds_the_others(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 2, .slabs = 2, .prepare = two_slabs_apart},
        waiting_slab_bounds_the_others);
}

static void new_column_gets_everything(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct vdisk_config *config;

    for (uint64_t block = 0; block < 20; block++)
        assert_int_equal(co_owner_write(owner, 3 * block, (char)('a' + block)), 0);
    config = world_edit(world);
    config->columns[2] = (struct column_config){
        .disk = 4,
        .node = 4,
        .where = {.extent = 3, .generation = ++world->raft_index},
        .state = COLUMN_STALE,
    };
    world_publish(world, config);
    fake_column_set_reachable(&world->columns[2], false);
    assert_true(co_world_heal(world));
    assert_true(world_in_sync(world, 4));
    for (uint64_t block = 0; block < 20; block++)
        assert_int_equal(world_peek(world, 4, 3 * block), 'a' + (int)block);
    assert_int_equal(mirror_status(owner->mirror).copied_blocks, 20);
    world_check_copies(world);
}

/* A lost disk's column gets a new extent elsewhere. */
static void test_new_column_gets_everything(void **state)
{
    (void)state;
    world_run(THREE, new_column_gets_everything);
}

static void joining_column_is_waited_for(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request request = {owner, 1, 'x', 0, false};
    unsigned proposals;

    fake_column_set_reachable(&world->columns[2], false);
    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    world->raft_delay_ns = 300 * MS;
    proposals = world->in_sync_proposals;
    fake_column_set_reachable(&world->columns[2], true);
    while (world->in_sync_proposals == proposals)
        co_sleep_ns(MS);
    fake_column_set_hang(&world->columns[2], true); /* between proposal and answer */
    request_start(world, &request);
    assert_false(co_done_within(&request, 200 * MS));
    assert_false(world_in_sync(world, 3));
    fake_column_set_hang(&world->columns[2], false);
    assert_true(co_world_heal(world));
    assert_true(co_done_within(&request, SEC));
    world_check_copies(world);
}

/* I1: from the moment it proposes a column in-sync the owner waits for that column too. */
static void test_joining_column_is_waited_for(void **state)
{
    (void)state;
    world_run(THREE, joining_column_is_waited_for);
}

static void hung_joiner_is_left(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request request = {owner, 1, 'x', 0, false};
    struct vdisk_config *config = world_edit(world);

    assert_int_equal(vdisk_config_mark_stale(config, 3, config->epoch), 2);
    fake_column_set_hang(&world->columns[2], true);
    world_publish(world, config);
    while (mirror_status(owner->mirror).catching_disks == 0)
        co_sleep_ns(10 * US);
    co_sleep_ns(350 * US); /* the first slab is compared, the second is being: nothing differs */
    request_start(world, &request);
    assert_true(co_done_within(&request, 5 * SEC));
    assert_false(world_in_sync(world, 3));
    fake_column_set_hang(&world->columns[2], false);
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

/* Before it is proposed in-sync nobody needs it: like one that is being brought up it may hold
 * writes up no longer than one that counts. */
static void test_hung_joiner_is_left(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 2}, hung_joiner_is_left);
}

static uint32_t at[2]; /* where the two slabs of a vdisk lie */

static void two_slabs_far(struct world *world)
{
    struct vdisk_config *config = world_edit(world);
    size_t width = config->width;

    for (unsigned i = 2; i-- > 0;) {
        struct column_config *from = config->columns + i * width;

        memmove(config->columns + at[i] * width, from, width * sizeof(*from));
        if (at[i] != i)
            memset(from, 0, width * sizeof(*from));
    }
    world_publish(world, config);
}

/* Disk 3 missed writes to two slabs; of one of them its source has a block that nobody can read. */
static void unreadable_slab_is_left_out(struct world *world)
{
    struct owner *owner = first_owner(world);
    uint64_t bad = (uint64_t)at[0] * WORLD_SLAB_BLOCKS, good = (uint64_t)at[1] * WORLD_SLAB_BLOCKS;
    struct vdisk_config *config;

    assert_int_equal(co_owner_write(owner, bad + 1, 'a'), 0);
    assert_int_equal(co_owner_write(owner, good + 1, 'b'), 0);
    co_sleep_ns(50 * MS);
    fake_column_set_reachable(&world->columns[2], false);
    assert_int_equal(co_owner_write(owner, bad + 1, 'c'), 0);
    assert_int_equal(co_owner_write(owner, good + 1, 'd'), 0);
    assert_int_equal(co_owner_write(owner, good + 2, 'e'), 0);
    fake_column_rot(&world->columns[0], world_column(world, at[0], 0)->where, 1);
    fake_column_rot(&world->columns[1], world_column(world, at[0], 1)->where, 1);
    fake_column_set_reachable(&world->columns[2], true);
    co_sleep_ns(3 * SEC);
    assert_int_equal(world_column(world, at[0], 2)->state, COLUMN_STALE);
    assert_int_equal(world_column(world, at[1], 2)->state, COLUMN_IN_SYNC);
    assert_int_equal(world_peek(world, 3, good + 1), 'd');
    assert_true(mirror_status(owner->mirror).lost_blocks > 0);
    config = world_edit(world); /* what is in-sync counts */
    assert_int_equal(vdisk_config_mark_stale(config, 1, config->epoch), 2);
    world_publish(world, config);
    assert_int_equal(co_owner_read(owner, good + 2), 'e');
    assert_int_equal(co_owner_write(owner, bad + 1, 'f'), 0); /* and the block is there again */
    assert_true(co_world_heal(world));
    world_check_copies(world);
    assert_int_equal(world_peek(world, 3, bad + 1), 'f');
}

/* Also in volumes of more slabs than a word has bits, or half a word. */
static void test_unreadable_slab_is_left_out(void **state)
{
    static const uint32_t places[][2] = {{0, 1}, {33, 39}, {39, 7}, {33, 65}, {65, 1}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        memcpy(at, places[i], sizeof(at));
        world_run(
            &(struct world_options){
                .seed = 1, .width = 3, .slabs = 2, .size_slabs = 70, .prepare = two_slabs_far},
            unreadable_slab_is_left_out);
    }
}

static void waiting_slab_is_left_out(struct world *world)
{
    struct owner *owner;
    struct vdisk_config *config = world_edit(world);

    /* slab 0 has its only in-sync column on disk 1, slab 1 on disk 2; disk 3 is stale in both */
    assert_int_equal(vdisk_config_mark_stale(config, 3, config->epoch), 2);
    config->columns[1].state = COLUMN_STALE;
    config->columns[1].stale_epoch = config->epoch;
    config->columns[3].state = COLUMN_STALE;
    config->columns[3].stale_epoch = config->epoch;
    world_publish(world, config);
    fake_column_set_reachable(&world->columns[0], false);
    owner = world_take_over(world, 2);
    for (int i = 0; i < 30 && world_column(world, 1, 2)->state != COLUMN_IN_SYNC; i++)
        co_sleep_ns(100 * MS);
    assert_int_equal(world_column(world, 1, 2)->state, COLUMN_IN_SYNC);
    assert_int_equal(world_column(world, 0, 2)->state, COLUMN_STALE);
    assert_int_equal(co_owner_write(owner, WORLD_SLAB_BLOCKS + 1, 'b'), 0);
    fake_column_set_reachable(&world->columns[0], true);
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

/* A slab whose last in-sync column is away keeps no other from becoming in-sync. */
static void test_waiting_slab_is_left_out(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 2}, waiting_slab_is_left_out);
}

static uint64_t move_after_ns;

static void joiner_moves(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct vdisk_config *config;

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    config = world_edit(world);
    assert_int_equal(vdisk_config_mark_stale(config, 3, config->epoch), 1);
    world_publish(world, config);
    while (mirror_status(owner->mirror).catching_disks == 0)
        co_sleep_ns(10 * US);
    co_sleep_ns(move_after_ns);
    if (!world_in_sync(world, 3)) {
        config = world_edit(world);
        config->columns[2] = (struct column_config){
            .disk = 4,
            .node = 4,
            .where = {.extent = 3, .generation = ++world->raft_index},
            .state = COLUMN_STALE,
        };
        world_publish(world, config);
    }
    assert_int_equal(co_owner_write(owner, 2, 'b'), 0);
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

/* At any moment of its resync the last stale column of a disk may get a place elsewhere: there is
 * nothing to propose then. */
static void test_joiner_moves(void **state)
{
    (void)state;
    for (move_after_ns = 0; move_after_ns < 2 * MS; move_after_ns += 10 * US)
        world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1}, joiner_moves);
}

static void evict_by_writing(struct world *world, uint64_t disk, uint64_t block, char fill)
{
    co_sleep_ns(100 * MS); /* all watermarks are told */
    fake_column_set_reachable(&world->columns[disk - 1], false);
    assert_int_equal(co_owner_write(first_owner(world), block, fill), 0);
    assert_false(world_in_sync(world, disk));
}

static void co_wait_in_sync(struct world *world, uint64_t disk)
{
    fake_column_set_reachable(&world->columns[disk - 1], true);
    for (int i = 0; i < 100 && !world_in_sync(world, disk); i++)
        co_sleep_ns(100 * MS);
    assert_true(world_in_sync(world, disk));
}

static void equal_blocks_leave_no_stamp(struct world *world)
{
    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    evict_by_writing(world, 3, 1, 'b');
    evict_by_writing(world, 2, 1, 'a'); /* disk 2 is left with 'b' */
    co_wait_in_sync(world, 3);          /* held 'a' all the time: found equal, not copied */
    evict_by_writing(world, 1, 2, 'c'); /* the only one that saw both changes */
    co_wait_in_sync(world, 2);
    assert_int_equal(world_peek(world, 2, 1), 'a');
    world_check_copies(world);
}

/* A column that was brought up does not know what changed and changed back while it was away, so
 * its stamps alone are no guide for others. */
static void test_equal_blocks_leave_no_stamp(void **state)
{
    (void)state;
    world_run(THREE, equal_blocks_leave_no_stamp);
}

/* As if the log went that had what `other` lacks. */
static void lose_log(struct world *world, uint64_t disk, uint64_t other, uint64_t block)
{
    struct extent_ref to = world_column(world, 0, disk - 1)->where,
                      from = world_column(world, 0, other - 1)->where;
    struct fake_block *lost = &world->columns[disk - 1].extents[to.extent].blocks[block];
    const struct fake_block *old = &world->columns[other - 1].extents[from.extent].blocks[block];

    memcpy(lost->data, old->data, BLOCK_SIZE);
    lost->sum = old->sum;
}

static void lost_source_is_not_believed(struct world *world)
{
    struct vdisk_config *config;
    unsigned proposals;

    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    evict_by_writing(world, 3, 1, 'b');
    co_sleep_ns(100 * MS);
    lose_log(world, 1, 3, 1); /* and the database was told, which the owner does not know yet */
    world->raft_delay_ns = 100 * MS;
    proposals = world->in_sync_proposals;
    fake_column_set_reachable(&world->columns[2], true);
    while (world->in_sync_proposals == proposals)
        co_sleep_ns(MS);
    assert_int_equal(world_peek(world, 3, 1), 'a'); /* found equal to disk 1 */
    config = world_edit(world);
    assert_int_equal(vdisk_config_mark_stale(config, 1, config->epoch), 1);
    world_publish(world, config);
    co_wait_in_sync(world, 3);
    assert_int_equal(world_peek(world, 3, 1), 'b');
}

static uint64_t lost_after_ns;
static bool lost_has_moved, joined_before;

static void source_is_lost_at_any_time(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request request = {owner, 5, 'x', 0, false};
    struct vdisk_config *config;

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    evict_by_writing(world, 3, 1, 'b');
    co_sleep_ns(100 * MS);
    lose_log(world, 1, 3, 1);
    fake_column_set_reachable(&world->columns[2], true);
    while (mirror_status(owner->mirror).catching_disks == 0)
        co_sleep_ns(10 * US);
    world->columns[2].latency_ns = 3 * MS; /* it is waited for before it is proposed */
    request_start(world, &request);
    co_sleep_ns(lost_after_ns);
    joined_before = world_in_sync(world, 3); /* the database is told before it joins, or never */
    if (joined_before) {
        assert_true(co_done_within(&request, SEC));
        return;
    }
    config = world_edit(world);
    assert_int_equal(vdisk_config_mark_stale(config, 1, config->epoch), 1);
    if (lost_has_moved) {
        config->columns[0].disk = config->columns[0].node = 4;
        config->columns[0].where =
            (struct extent_ref){.extent = 3, .generation = ++world->raft_index};
        config->columns[0].stale_epoch = 0;
    }
    fake_column_set_reachable(&world->columns[0], false);
    world_publish(world, config);
    co_wait_in_sync(world, 3);
    assert_int_equal(world_peek(world, 3, 1), 'b');
    assert_true(co_done_within(&request, SEC));
}

/* Also when that is heard between the last look and the proposal, or with the new place that the
 * lost column has got since. */
static void test_source_is_lost_at_any_time(void **state)
{
    (void)state;
    for (int moved = 0; moved < 2; moved++) {
        lost_has_moved = moved;
        joined_before = false;
        for (lost_after_ns = 0; !joined_before; lost_after_ns += 20 * US)
            world_run(THREE, source_is_lost_at_any_time);
        assert_true(lost_after_ns > MS / 2);
    }
}

/* Its node called it stale, not the owner: whatever was compared with it is compared again. */
static void test_lost_source_is_not_believed(void **state)
{
    (void)state;
    world_run(THREE, lost_source_is_not_believed);
}

static void slow_read_of_dropped_tail(struct world *world)
{
    struct request read = {first_owner(world), 1, 0, 0, false};
    struct vdisk_config *config;

    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    co_sleep_ns(100 * MS);
    world->columns[0].read_ns = 200 * MS;
    assert_int_equal(co_owner_write(first_owner(world), 1, 'b'), 0);
    config = world_edit(world); /* before disk 1 hears that it is committed */
    assert_int_equal(vdisk_config_mark_stale(config, 1, config->epoch), 1);
    world_publish(world, config);
    request_start(world, &read); /* of disk 1, which is in-sync as yet */
    co_sleep_ns(100 * MS);
    assert_int_equal(world->columns[0].drops, 1);
    assert_int_equal(world_peek(world, 1, 1), 'a');
    assert_true(co_done_within(&read, SEC));
    assert_int_equal(read.result, 'b');
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

/* A read may take longer than the column stays in-sync: it drops what nobody told it is committed.
 */
static void test_slow_read_of_dropped_tail(void **state)
{
    (void)state;
    world_run(THREE, slow_read_of_dropped_tail);
}

static void lost_target_is_compared_again(struct world *world)
{
    struct fake_column *target = &world->columns[2];
    struct fake_block *lost;
    unsigned proposals;

    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    evict_by_writing(world, 3, 1, 'b');
    world->raft_delay_ns = 100 * MS;
    proposals = world->in_sync_proposals;
    fake_column_set_reachable(target, true);
    while (world->in_sync_proposals == proposals)
        co_sleep_ns(MS);
    assert_int_equal(world_peek(world, 3, 1), 'b');
    fake_column_set_reachable(target, false); /* it starts anew behind a hole in its log: */
    lost = &target->extents[world_column(world, 0, 2)->where.extent].blocks[1];
    memset(lost->data, 'a', BLOCK_SIZE);
    checksum_blocks(lost->data, 1, WORLD_VDISK, 1, &lost->sum);
    lost->compare = true;
    world_publish(world, world_edit(world)); /* and says so: the proposal is void */
    fake_column_set_reachable(target, true);
    assert_true(co_world_heal(world));
    assert_int_equal(world_peek(world, 3, 1), 'b');
    world_check_copies(world);
}

/* Nothing was on its way to it that would have told that it went. */
static void test_lost_target_is_compared_again(void **state)
{
    (void)state;
    world_run(THREE, lost_target_is_compared_again);
}

static void void_proposal_is_made_again(struct world *world)
{
    struct owner *owner = first_owner(world);
    unsigned proposals;

    fake_column_set_reachable(&world->columns[2], false);
    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    world->raft_delay_ns = 100 * MS;
    proposals = world->in_sync_proposals;
    fake_column_set_reachable(&world->columns[2], true);
    while (world->in_sync_proposals == proposals)
        co_sleep_ns(MS);
    world_publish(world, world_edit(world)); /* another command came first */
    assert_true(co_world_heal(world));
    assert_true(world->in_sync_proposals >= proposals + 2);
    world_check_copies(world);
}

static void test_void_proposal_is_made_again(void **state)
{
    (void)state;
    world_run(THREE, void_proposal_is_made_again);
}

static void paused_resync_waits(struct world *world)
{
    struct owner *owner = first_owner(world);

    fake_column_set_reachable(&world->columns[2], false);
    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    mirror_pause_resync(owner->mirror, true);
    fake_column_set_reachable(&world->columns[2], true);
    co_sleep_ns(5 * SEC);
    assert_false(world_in_sync(world, 3));
    assert_int_equal(mirror_status(owner->mirror).catching_disks, 1);
    mirror_pause_resync(owner->mirror, false);
    assert_true(co_world_heal(world));
}

static void test_paused_resync_waits(void **state)
{
    (void)state;
    world_run(THREE, paused_resync_waits);
}

/* ---- takeover ---- */

static void plant_tails(struct world *world)
{
    /* block 1: the newest is on disk 3 only; block 2: older on 1, newer on 2 */
    fake_column_plant(&world->columns[2], world_column(world, 0, 2)->where, 0, 2, 1,
                      (struct log_position){4, 17}, 'n', 1);
    fake_column_plant(&world->columns[0], world_column(world, 0, 0)->where, 0, 0, 2,
                      (struct log_position){4, 8}, 'o', 2);
    fake_column_plant(&world->columns[1], world_column(world, 0, 1)->where, 0, 1, 2,
                      (struct log_position){4, 9}, 'p', 2);
}

static void newest_is_written_again(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_read(owner, 1), 'n');
    assert_int_equal(co_owner_read(owner, 2), 'p');
    for (uint64_t disk = 1; disk <= 3; disk++) {
        assert_int_equal(world_peek(world, disk, 1), 'n');
        assert_int_equal(world_peek(world, disk, 2), 'p');
    }
    assert_int_equal(mirror_status(owner->mirror).rewritten_blocks, 2);
    co_sleep_ns(100 * MS);
    for (unsigned i = 0; i < 3; i++) /* opened: what came before is committed */
        assert_true(list_empty(&world->columns[i].log));
}

/* I6 */
static void test_newest_is_written_again(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = plant_tails},
              newest_is_written_again);
}

static void plant_rotten(struct world *world)
{
    plant_tails(world);
    fake_column_rot(&world->columns[1], world_column(world, 0, 1)->where, 2);
    for (unsigned i = 0; i < 3; i++) {
        fake_column_plant(&world->columns[i], world_column(world, 0, i)->where, 0, (uint16_t)i, 3,
                          (struct log_position){4, 30}, 'q', 3);
        fake_column_rot(&world->columns[i], world_column(world, 0, i)->where, 3);
    }
}

static void rotten_newest_is_not_guessed(struct world *world)
{
    struct owner *owner = first_owner(world);

    /* disk 3 lacks the newest: it was never acknowledged, and the older version will do */
    assert_int_equal(co_owner_read(owner, 2), 'o');
    /* all have it, nobody can read it: an error, never a guess */
    assert_int_equal(co_owner_read(owner, 3), -EIO);
    assert_int_equal(co_owner_write(owner, 3, 'r'), 0);
    assert_int_equal(co_owner_read(owner, 3), 'r');
    assert_int_equal(co_owner_read(owner, 1), 'n');
    assert_true(mirror_status(owner->mirror).lost_blocks > 0);
}

static void test_rotten_newest_is_not_guessed(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = plant_rotten},
              rotten_newest_is_not_guessed);
}

/* Only disk 2 has what the request wrote to block 5, and cannot give it; a takeover that puts the
 * older version there does not get done. */
static void plant_given_up(struct world *world)
{
    fake_column_plant(&world->columns[0], world_column(world, 0, 0)->where, 0, 0, 5,
                      (struct log_position){4, 8}, 'o', 5);
    fake_column_plant(&world->columns[1], world_column(world, 0, 1)->where, 0, 1, 5,
                      (struct log_position){4, 9}, 'p', 5);
    fake_column_sign(&world->columns[1], (struct client_request){.session = 77, .number = 1});
    fake_column_rot(&world->columns[1], world_column(world, 0, 1)->where, 5);
    fake_column_set_hang(&world->columns[2], true);
}

static void given_up_request_is_not_done(struct world *world)
{
    struct owner *owner = world_take_over(world, 1), *next;

    co_sleep_ns(100 * MS);
    assert_int_equal(world_peek(world, 1, 5), 'o');
    assert_int_equal(world_peek(world, 2, 5), 'o');
    assert_false(mirror_ready(owner->mirror));
    next = world_take_over(world, 2);
    fake_column_set_hang(&world->columns[2], false);
    assert_int_equal(co_mirror_wait_ready(next->mirror, UINT64_MAX), 0);
    assert_int_equal(co_owner_read(next, 5), 'o');
    assert_int_equal(co_ask(next, 'p', 1, true), 0);
    assert_int_equal(co_owner_read(next, 5), 'p');
}

/* A takeover sees a record that an earlier one could not read and gave up, below what was written
 * in its place: its request did not happen, and must be run when it is repeated. */
static void test_given_up_request_is_not_done(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = plant_given_up},
              given_up_request_is_not_done);
}

static void plant_given_up_at_once(struct world *world)
{
    plant_given_up(world);
    fake_column_set_hang(&world->columns[2], false);
    fake_column_plant(&world->columns[2], world_column(world, 0, 2)->where, 0, 2, 1,
                      (struct log_position){4, 17}, 'n', 1);
    world->columns[2].read_error = -ETIMEDOUT;
}

static void given_up_request_stays_so(struct world *world)
{
    struct owner *owner = first_owner(world);

    co_sleep_ns(100 * MS);
    assert_int_equal(world_peek(world, 2, 5), 'o');
    assert_false(mirror_ready(owner->mirror)); /* block 1 could not be read */
    world->columns[2].read_error = 0;
    assert_int_equal(co_mirror_wait_ready(owner->mirror, UINT64_MAX), 0);
    assert_int_equal(co_owner_read(owner, 1), 'n');
    assert_int_equal(co_owner_read(owner, 5), 'o');
    assert_int_equal(co_ask(owner, 'p', 1, true), 0);
    assert_int_equal(co_owner_read(owner, 5), 'p');
}

/* The same when it is the same owner who does it again: what it reads now in the record's place is
 * what it put there. */
static void test_given_up_request_stays_so(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){
            .seed = 1, .width = 3, .slabs = 1, .prepare = plant_given_up_at_once},
        given_up_request_stays_so);
}

static void two_slabs_have_tails(struct world *world)
{
    fake_column_plant(&world->columns[0], world_column(world, 0, 0)->where, 0, 0, 1,
                      (struct log_position){4, 16}, 'm', 1);
    fake_column_plant(&world->columns[0], world_column(world, 1, 0)->where, 1, 0, 1,
                      (struct log_position){4, 17}, 'n', WORLD_SLAB_BLOCKS + 1);
    world->columns[0].read_ns = 50 * MS;
}

static void slabs_serve_one_by_one(struct world *world)
{
    struct request request = {first_owner(world), 1, 0, 0, false};

    request_start(world, &request);
    co_sleep_ns(75 * MS);
    fake_column_set_hang(&world->columns[2], true); /* the second slab's is being read */
    assert_true(co_done_within(&request, SEC));
    assert_int_equal(request.result, 'm');
    assert_false(mirror_ready(first_owner(world)->mirror));
}

/* Who waits for a slab is not kept waiting by the next one's takeover. */
static void test_slabs_serve_one_by_one(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 3, .slabs = 2, .prepare = two_slabs_have_tails},
        slabs_serve_one_by_one);
}

static void disk_3_is_slow(struct world *world)
{
    fake_column_plant(&world->columns[2], world_column(world, 0, 2)->where, 0, 2, 1,
                      (struct log_position){4, 17}, 'n', 1);
    world->columns[2].read_ns = 100 * MS;
}

static void takeover_evicts_who_goes(struct world *world)
{
    struct request request = {first_owner(world), 1, 0, 0, false};

    request_start(world, &request);
    co_sleep_ns(50 * MS);
    assert_int_equal(world->columns[2].seals, 1);
    fake_column_set_reachable(&world->columns[2], false); /* its record is being read */
    assert_true(co_done_within(&request, 2 * SEC));
    assert_int_equal(request.result, 0); /* 'n' was on the absent one alone */
    assert_false(world_in_sync(world, 3));
    fake_column_set_reachable(&world->columns[2], true);
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

/* It was sealed before it went, and nothing is being written to it that would tell. */
static void test_takeover_evicts_who_goes(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = disk_3_is_slow},
              takeover_evicts_who_goes);
}

static void disk_2_is_away(struct world *world)
{
    plant_tails(world);
    fake_column_set_reachable(&world->columns[1], false);
}

static void takeover_evicts_the_absent(struct world *world)
{
    struct request request = {first_owner(world), 2, 0, 0, false};

    request_start(world, &request);
    assert_false(co_done_within(&request, 250 * MS));
    assert_true(co_done_within(&request, 500 * MS));
    assert_int_equal(request.result, 'o'); /* 'p' was on the absent one alone */
    assert_false(world_in_sync(world, 2));
    fake_column_set_reachable(&world->columns[1], true);
    assert_true(co_world_heal(world));
    assert_int_equal(world_peek(world, 2, 2), 'o'); /* and does not come back */
    world_check_copies(world);
}

static void test_takeover_evicts_the_absent(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = disk_2_is_away},
              takeover_evicts_the_absent);
}

static void cold_start(struct world *world)
{
    disk_2_is_away(world);
    world->grace_until_ns = io_now_ns(world->io) + 30 * SEC;
}

static void nobody_is_evicted_for_being_late(struct world *world)
{
    co_sleep_ns(20 * SEC);
    assert_int_equal(world->stale_proposals, 0);
    fake_column_set_reachable(&world->columns[1], true);
    assert_int_equal(co_owner_read(first_owner(world), 2), 'p');
    assert_int_equal(world->stale_proposals, 0);
}

/* I5: after a cold start nobody is marked stale for being late … unless a request waits. */
static void test_nobody_is_evicted_for_being_late(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = cold_start},
              nobody_is_evicted_for_being_late);
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .prepare = cold_start},
              takeover_evicts_the_absent);
}

static void old_owner_is_fenced(struct world *world)
{
    struct owner *old = first_owner(world), *new;
    struct request request = {old, 1, 'z', 0, false};

    assert_int_equal(co_owner_write(old, 1, 'a'), 0);
    old->cut_off = true; /* it does not know that it is old */
    new = world_take_over(world, 2);
    assert_int_equal(co_owner_read(new, 1), 'a');
    request_start(world, &request);
    assert_false(co_done_within(&request, 10 * SEC));
    assert_int_equal(co_owner_read(new, 1), 'a');
    old->lease = false;
    assert_int_equal(co_owner_read(old, 2), -ESTALE); /* reads rest on the lease alone */
    mirror_stop(old->mirror);
    assert_true(co_done_within(&request, 100 * MS));
    assert_int_equal(request.result, -ESTALE);
    assert_int_equal(co_owner_write(old, 1, 'y'), -ESTALE);
}

/* I4: stores fence writers without any clock. */
static void test_old_owner_is_fenced(void **state)
{
    (void)state;
    world_run(THREE, old_owner_is_fenced);
}

static void handed_over_leaves_nothing(struct world *world)
{
    struct owner *old = first_owner(world), *new;

    for (uint64_t block = 0; block < 10; block++)
        assert_int_equal(co_owner_write(old, block, 'a'), 0);
    assert_int_equal(co_mirror_hand_over(old->mirror, io_now_ns(world->io) + SEC), 0);
    new = world_take_over(world, 2);
    assert_int_equal(co_owner_read(new, 3), 'a');
    assert_int_equal(mirror_status(new->mirror).rewritten_blocks, 0);
    assert_int_equal(co_owner_write(old, 3, 'b'), -ESTALE);
}

static void test_handed_over_leaves_nothing(void **state)
{
    (void)state;
    world_run(THREE, handed_over_leaves_nothing);
}

static void hand_over_gives_up(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request write = {owner, 1, 'b', 0, false};

    fake_column_set_hang(&world->columns[2], true);
    request_start(world, &write);
    co_sleep_ns(10 * MS);
    assert_int_equal(co_mirror_hand_over(owner->mirror, io_now_ns(world->io) + 100 * MS),
                     -ETIMEDOUT);
    fake_column_set_hang(&world->columns[2], false);
    assert_true(co_done_within(&write, 100 * MS));
    assert_int_equal(co_owner_write(owner, 1, 'c'), 0); /* and serves on */
}

static void test_hand_over_gives_up(void **state)
{
    (void)state;
    world_run(THREE, hand_over_gives_up);
}

static void senseless_configurations_are_refused(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct vdisk_config *config;

    config = world_edit(world);
    config->epoch = world->config->epoch - 1;
    assert_int_equal(mirror_configure(owner->mirror, config), -EINVAL); /* older */
    config->epoch = world->config->epoch + 1;
    config->columns[1].disk = config->columns[0].disk;
    assert_int_equal(mirror_configure(owner->mirror, config), -EINVAL);
    config->columns[1].disk = 2;
    config->size_bytes *= 2; /* addresses without slabs */
    assert_int_equal(mirror_configure(owner->mirror, config), -EINVAL);
    vdisk_config_put(config);
    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);

    config = world_edit(world);
    assert_int_equal(vdisk_config_mark_stale(config, 3, config->epoch), 1);
    fake_column_set_reachable(&world->columns[2], false);
    world_publish(world, config);
    co_sleep_ns(10 * MS);
    assert_int_equal(co_owner_write(owner, 1, 'b'), 0);
    config = world_edit(world);
    assert_int_equal(vdisk_config_mark_in_sync(config, 3, NULL, 0, config->epoch), 1);
    assert_int_equal(mirror_configure(owner->mirror, config), -EPROTO);
    vdisk_config_put(config);
    assert_true(mirror_stopped(owner->mirror)); /* it must not serve on that */
}

/* I3: only the owner proposes in-sync; a database that says so by itself is not believed. */
static void test_senseless_configurations_are_refused(void **state)
{
    (void)state;
    world_run(THREE, senseless_configurations_are_refused);
}

static void idle_watermark_is_told(struct world *world)
{
    assert_int_equal(co_owner_write(first_owner(world), 1, 'a'), 0);
    assert_false(list_empty(&world->columns[1].log));
    co_sleep_ns(50 * MS);
    for (unsigned i = 0; i < 3; i++)
        assert_true(list_empty(&world->columns[i].log));
}

static void test_idle_watermark_is_told(void **state)
{
    (void)state;
    world_run(THREE, idle_watermark_is_told);
}

/* ---- rot ---- */

static void rotten_copy_is_healed(struct world *world)
{
    struct owner *owner = first_owner(world);

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    co_sleep_ns(50 * MS);
    fake_column_rot(&world->columns[0], world_column(world, 0, 0)->where, 1);
    assert_int_equal(co_owner_read(owner, 1), 'a');
    assert_int_equal(world->heals, 1);
    world_check_copies(world);
    assert_int_equal(mirror_status(owner->mirror).healed_blocks, 1);

    for (unsigned i = 0; i < 3; i++)
        fake_column_rot(&world->columns[i], world_column(world, 0, i)->where, 1);
    assert_int_equal(co_owner_read(owner, 1), -EIO);
    assert_int_equal(world->heals, 1);
}

static void test_rotten_copy_is_healed(void **state)
{
    (void)state;
    world_run(THREE, rotten_copy_is_healed);
}

static void garbled_beside_rot(struct world *world)
{
    struct owner *owner = first_owner(world);
    char *buffer = co_buffer_get(world->buffers, 2 * BLOCK_SIZE);

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    assert_int_equal(co_owner_write(owner, 2, 'b'), 0);
    evict_by_writing(world, 1, 3, 'c'); /* the local one */
    fake_column_rot(&world->columns[1], world_column(world, 0, 1)->where, 1);
    world->columns[1].garbled = 1;
    assert_int_equal(co_vdisk_read(mirror_vdisk(owner->mirror), buffer, BLOCK_SIZE, 2 * BLOCK_SIZE),
                     0);
    assert_int_equal(buffer[0], 'a');
    assert_int_equal(buffer[BLOCK_SIZE], 'b');
    buffer_put(world->buffers, buffer, 2 * BLOCK_SIZE);
}

/* What comes over the network is verified also beside a block that its store calls rotten. */
static void test_garbled_beside_rot(void **state)
{
    (void)state;
    world_run(THREE, garbled_beside_rot);
}

/* Between the two looks at a copy that seems rotten its column may get a new place, where there is
 * nothing yet: zeros that match their checksum. */
static void column_moves_between_two_looks(struct world *world)
{
    struct owner *owner = first_owner(world);
    struct request read = {owner, 1, 0, 0, false};
    struct vdisk_config *config;

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    co_sleep_ns(50 * MS);
    fake_column_rot(&world->columns[0], world_column(world, 0, 0)->where, 1);
    world->columns[0].latency_ns = 50 * MS; /* the new configuration comes during the first look */
    request_start(world, &read);
    co_sleep_ns(MS);
    config = world_edit(world);
    config->columns[0] = (struct column_config){
        .disk = 4,
        .node = 4,
        .where = {.extent = 3, .generation = ++world->raft_index},
        .state = COLUMN_STALE,
    };
    world_publish(world, config);
    assert_true(co_done_within(&read, SEC));
    assert_int_equal(read.result, 'a');
    assert_true(co_world_heal(world));
    world_check_copies(world);
}

static void test_column_moves_between_two_looks(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){.seed = 1, .width = 2, .slabs = 2, .prepare = two_slabs_apart},
        column_moves_between_two_looks); /* the new place is on a disk that slab 1 uses already */
}

/* ---- scrub ---- */

static void count_line(void *arg, const char *line)
{
    unsigned *lines = arg;

    assert_true(strlen(line) > 0);
    *lines += 1;
}

static struct mirror_scrub co_scrub(struct world *world, unsigned *ret_lines)
{
    struct mirror_scrub result = {0};

    *ret_lines = 0;
    assert_int_equal(co_mirror_scrub(world->owners[world->owner_count - 1].mirror, count_line,
                                     ret_lines, &result),
                     0);
    return result;
}

/* As a bug of ours would leave it: one copy has other contents than the rest, with a checksum that
 * matches them. */
static void make_different(struct world *world, uint64_t disk, uint32_t block, char fill)
{
    struct extent_ref where = world_column(world, 0, (uint32_t)disk - 1)->where;
    struct fake_block *place = &world->columns[disk - 1].extents[where.extent].blocks[block];

    memset(place->data, fill, BLOCK_SIZE);
    place->sum = checksum_block(place->data, WORLD_VDISK, block);
}

/* Rot that nobody reads is found and repaired; copies that differ are told, not judged. */
static void scrub_finds_what_is_wrong(struct world *world)
{
    struct owner *owner = world_take_over(world, 1);
    struct mirror_scrub result;
    unsigned lines;

    for (uint64_t block = 0; block < 4; block++)
        assert_int_equal(co_owner_write(owner, block, (char)('a' + block)), 0);
    assert_true(co_world_heal(world));
    assert_int_equal(co_sleep_ns(SEC), 0); /* all is told to be committed */
    result = co_scrub(world, &lines);
    assert_true(result.copies >= 3 * 4);
    assert_int_equal(result.rotten + result.different + result.unread + lines, 0);

    fake_column_rot(&world->columns[2], world_column(world, 0, 2)->where, 1);
    make_different(world, 2, 3, 'x');
    result = co_scrub(world, &lines);
    assert_int_equal(result.rotten, 1);
    assert_int_equal(result.different, 2); /* from the copy before it, and the one after */
    assert_int_equal(lines, 3);
    assert_int_equal(world_peek(world, 3, 1), 'b');
    assert_int_equal(world_peek(world, 2, 3), 'x');

    fake_column_set_reachable(&world->columns[1], false);
    result = co_scrub(world, &lines);
    assert_int_equal(result.rotten + result.different, 0);
    assert_true(result.unread > 0);
    mirror_stop(owner->mirror);
    assert_int_equal(co_mirror_scrub(owner->mirror, count_line, &lines, &result), -ESTALE);
}

static void test_scrub_finds_what_is_wrong(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .no_owner = true},
              scrub_finds_what_is_wrong);
}

struct slow_scrub {
    struct mirror *mirror;
    unsigned lines;
    int result;
    bool done;
};

static void slow_scrub_run(void *arg)
{
    struct slow_scrub *scrub = arg;
    struct mirror_scrub found;

    scrub->result = co_mirror_scrub(scrub->mirror, count_line, &scrub->lines, &found);
    scrub->done = true;
}

static void scrub_ends_with_the_lease(struct world *world)
{
    struct owner *owner = world_take_over(world, 1);
    struct slow_scrub scrub = {.mirror = owner->mirror};

    assert_int_equal(co_owner_write(owner, 1, 'a'), 0);
    co_sleep_ns(100 * MS);
    world->columns[1].read_ns = 100 * MS;
    assert_int_equal(co_group_spawn(&world->coroutines, world->io, "scrub", slow_scrub_run, &scrub),
                     0);
    co_sleep_ns(10 * MS); /* disk 1 was read */
    owner->lease = false;
    owner->cut_off = true;
    assert_int_equal(co_owner_write(world_take_over(world, 2), 1, 'b'), 0);
    while (!scrub.done)
        co_sleep_ns(MS);
    assert_int_equal(scrub.result, -ESTALE);
    assert_int_equal(scrub.lines, 0);
}

/* Copies that it read before and after another owner wrote do not differ. */
static void test_scrub_ends_with_the_lease(void **state)
{
    (void)state;
    world_run(&(struct world_options){.seed = 1, .width = 3, .slabs = 1, .no_owner = true},
              scrub_ends_with_the_lease);
}

/* In parity block n of the first unit is in row n of column 0. */
static void scrub_encodes_rows(struct world *world)
{
    struct owner *owner = world_take_over(world, 1);
    struct mirror_scrub result;
    struct extent_ref where;
    struct fake_block *place;
    unsigned lines;

    for (uint64_t block = 0; block < 4; block++)
        assert_int_equal(co_owner_write(owner, block, (char)('a' + block)), 0);
    assert_int_equal(co_sleep_ns(SEC), 0);
    result = co_scrub(world, &lines);
    assert_true(result.copies >= 4 * 4);
    assert_int_equal(result.rotten + result.different + result.unread + lines, 0);

    where = world_column(world, 0, 0)->where;
    fake_column_rot(&world->columns[0], where, 1);
    place = &world->columns[0].extents[where.extent].blocks[2];
    memset(place->data, 'x', BLOCK_SIZE);
    place->sum = checksum_block(place->data, WORLD_VDISK, parity_address(world->config, 0, 0, 2));
    result = co_scrub(world, &lines);
    assert_int_equal(result.rotten, 1);
    assert_int_equal(result.different, 1); /* the rotten one was mended from its row */
    assert_int_equal(lines, 2);
    assert_int_equal(co_owner_read(owner, 1), 'b');
}

/* A write hole would show nowhere else as long as all columns are there. */
static void test_scrub_encodes_rows(void **state)
{
    (void)state;
    world_run(
        &(struct world_options){
            .seed = 1, .width = 4, .slabs = 1, .data_columns = 2, .no_owner = true},
        scrub_encodes_rows);
}

static void rot_here_and_there_is_healed(struct world *world)
{
    struct owner *owner = first_owner(world);
    char *buffer = co_buffer_get(world->buffers, 8 * BLOCK_SIZE);

    for (uint64_t block = 0; block < 8; block++)
        assert_int_equal(co_owner_write(owner, block, (char)('a' + block)), 0);
    fake_column_rot(&world->columns[0], world_column(world, 0, 0)->where, 1);
    fake_column_rot(&world->columns[0], world_column(world, 0, 0)->where, 2);
    fake_column_rot(&world->columns[1], world_column(world, 0, 1)->where, 1);
    fake_column_rot(&world->columns[2], world_column(world, 0, 2)->where, 2);
    assert_int_equal(co_vdisk_read(mirror_vdisk(owner->mirror), buffer, 0, 8 * BLOCK_SIZE), 0);
    for (unsigned block = 0; block < 8; block++)
        assert_int_equal(buffer[block * BLOCK_SIZE], 'a' + (int)block);
    buffer_put(world->buffers, buffer, 8 * BLOCK_SIZE);
    assert_int_equal(world->heals, 2); /* those of the copy that was asked */
}

static void test_rot_here_and_there_is_healed(void **state)
{
    (void)state;
    world_run(THREE, rot_here_and_there_is_healed);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeat_is_not_run),
        cmocka_unit_test(test_write_is_on_every_column),
        cmocka_unit_test(test_wide_write_crosses_slabs),
        cmocka_unit_test(test_empty_slab_is_given_back),
        cmocka_unit_test(test_released_slab_takes_nothing_with_it),
        cmocka_unit_test(test_late_release_is_void),
        cmocka_unit_test(test_absent_column_is_asked_again),
        cmocka_unit_test(test_looks_come_one_by_one),
        cmocka_unit_test(test_stale_column_keeps_its_slab),
        cmocka_unit_test(test_full_pool_is_enospc),
        cmocka_unit_test(test_write_waits_for_every_column),
        cmocka_unit_test(test_columns_that_are_slow_alike_stay),
        cmocka_unit_test(test_read_waits_for_the_write),
        cmocka_unit_test(test_read_ends_with_its_session),
        cmocka_unit_test(test_away_is_evicted_sooner),
        cmocka_unit_test(test_failed_medium_is_evicted_at_once),
        cmocka_unit_test(test_short_break_evicts_nobody),
        cmocka_unit_test(test_last_column_is_waited_for),
        cmocka_unit_test(test_stale_column_comes_back),
        cmocka_unit_test(test_tail_of_a_stale_column_goes),
        cmocka_unit_test(test_resync_ends_under_load),
        cmocka_unit_test(test_copies_do_not_outrun_the_watermark),
        cmocka_unit_test(test_stuck_write_bounds_the_others),
        cmocka_unit_test(test_waiting_slab_bounds_the_others),
        cmocka_unit_test(test_new_column_gets_everything),
        cmocka_unit_test(test_joining_column_is_waited_for),
        cmocka_unit_test(test_unreadable_slab_is_left_out),
        cmocka_unit_test(test_waiting_slab_is_left_out),
        cmocka_unit_test(test_joiner_moves),
        cmocka_unit_test(test_hung_joiner_is_left),
        cmocka_unit_test(test_equal_blocks_leave_no_stamp),
        cmocka_unit_test(test_lost_source_is_not_believed),
        cmocka_unit_test(test_source_is_lost_at_any_time),
        cmocka_unit_test(test_slow_read_of_dropped_tail),
        cmocka_unit_test(test_lost_target_is_compared_again),
        cmocka_unit_test(test_void_proposal_is_made_again),
        cmocka_unit_test(test_paused_resync_waits),
        cmocka_unit_test(test_newest_is_written_again),
        cmocka_unit_test(test_rotten_newest_is_not_guessed),
        cmocka_unit_test(test_given_up_request_is_not_done),
        cmocka_unit_test(test_given_up_request_stays_so),
        cmocka_unit_test(test_slabs_serve_one_by_one),
        cmocka_unit_test(test_takeover_evicts_who_goes),
        cmocka_unit_test(test_takeover_evicts_the_absent),
        cmocka_unit_test(test_nobody_is_evicted_for_being_late),
        cmocka_unit_test(test_old_owner_is_fenced),
        cmocka_unit_test(test_handed_over_leaves_nothing),
        cmocka_unit_test(test_hand_over_gives_up),
        cmocka_unit_test(test_senseless_configurations_are_refused),
        cmocka_unit_test(test_idle_watermark_is_told),
        cmocka_unit_test(test_rotten_copy_is_healed),
        cmocka_unit_test(test_garbled_beside_rot),
        cmocka_unit_test(test_column_moves_between_two_looks),
        cmocka_unit_test(test_scrub_finds_what_is_wrong),
        cmocka_unit_test(test_scrub_ends_with_the_lease),
        cmocka_unit_test(test_scrub_encodes_rows),
        cmocka_unit_test(test_rot_here_and_there_is_healed),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
