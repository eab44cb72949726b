#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
/* cmocka wants the above first */
#include <cmocka.h>

#include "tests/unit/mirror_world.h"

#include "s2d/base/log.h"

/* ---- the database ---- */

struct command {
    struct world *world;
    struct owner *owner;
    enum { COMMAND_STALE, COMMAND_IN_SYNC, COMMAND_RELEASE, COMMAND_SHOW } kind;
    uint64_t epoch, disks[WORLD_DISKS];
    size_t count;
    uint32_t slabs[WORLD_SLABS];
    size_t slab_count;
};

struct vdisk_config *world_edit(struct world *world)
{
    struct vdisk_config *copy = NULL;

    assert_int_equal(vdisk_config_copy(world->config, world->config->slab_count, &copy), 0);
    copy->epoch++;
    return copy;
}

static void run_command(void *arg);

static void queue_command(const struct command *command)
{
    struct command *copy = malloc(sizeof(*copy));

    assert_non_null(copy);
    *copy = *command;
    assert_int_equal(co_group_spawn(&command->world->coroutines, command->world->io, "command",
                                    run_command, copy),
                     0);
}

void world_publish(struct world *world, struct vdisk_config *config)
{
    assert_int_equal(vdisk_config_check(config), 0);
    vdisk_config_put(world->config);
    world->config = config;
    for (unsigned i = 0; i < world->owner_count; i++)
        queue_command(
            &(struct command){.world = world, .owner = &world->owners[i], .kind = COMMAND_SHOW});
}

static void apply_proposal(struct world *world, const struct command *command)
{
    struct vdisk_config *config;
    size_t changed = 0;

    if (command->epoch != world->config->epoch)
        return; /* void */
    config = world_edit(world);
    if (command->kind == COMMAND_RELEASE) {
        memset(&config->columns[command->disks[0] * config->width], 0,
               config->width * sizeof(config->columns[0]));
        changed++;
    }
    for (size_t i = 0; i < command->count; i++) {
        if (command->kind == COMMAND_STALE)
            changed += vdisk_config_mark_stale(config, command->disks[i], config->epoch);
        else
            changed += vdisk_config_mark_in_sync(config, command->disks[i], command->slabs,
                                                 command->slab_count, config->epoch);
    }
    if (changed == 0)
        vdisk_config_put(config);
    else
        world_publish(world, config);
}

static void run_command(void *arg)
{
    struct command command = *(struct command *)arg;
    struct world *world = command.world;

    free(arg);
    if (command.kind != COMMAND_SHOW) {
        co_sleep_ns(world->raft_delay_ns + io_random(world->io) % (2 * MS));
        apply_proposal(world, &command);
        return;
    }
    co_sleep_ns(command.owner->delay_ns);
    if (command.owner->mirror && !command.owner->cut_off)
        assert_int_equal(mirror_configure(command.owner->mirror, world->config), 0);
}

/* ---- what an owner is given ---- */

static struct column_store *owner_column(void *arg, uint64_t node, uint64_t disk)
{
    struct owner *owner = arg;

    (void)node;
    return &owner->world->columns[disk - 1].base;
}

static bool owner_lease(void *arg)
{
    return ((struct owner *)arg)->lease;
}

static void owner_propose_stale(void *arg, uint64_t vdisk, uint64_t epoch, const uint64_t *disks,
                                size_t count)
{
    struct owner *owner = arg;
    struct command command = {.world = owner->world,
                              .owner = owner,
                              .kind = COMMAND_STALE,
                              .epoch = epoch,
                              .count = count};

    assert_int_equal(vdisk, WORLD_VDISK);
    assert_true(count > 0 && count <= WORLD_DISKS);
    memcpy(command.disks, disks, count * sizeof(*disks));
    owner->world->stale_proposals++;
    if (!owner->cut_off)
        queue_command(&command);
}

static void owner_propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk,
                                  const uint32_t *slabs, size_t count)
{
    struct owner *owner = arg;
    struct command command = {.world = owner->world,
                              .owner = owner,
                              .kind = COMMAND_IN_SYNC,
                              .epoch = epoch,
                              .disks = {disk},
                              .count = 1};

    assert_int_equal(vdisk, WORLD_VDISK);
    assert_true(count <= WORLD_SLABS);
    for (size_t i = 0; i < count; i++)
        command.slabs[command.slab_count++] = slabs[i];
    owner->world->in_sync_proposals++;
    if (!owner->cut_off)
        queue_command(&command);
}

static void owner_propose_release(void *arg, uint64_t vdisk, uint64_t epoch, uint32_t slab)
{
    struct owner *owner = arg;

    assert_int_equal(vdisk, WORLD_VDISK);
    owner->world->release_proposals++;
    if (!owner->cut_off)
        queue_command(&(struct command){.world = owner->world,
                                        .owner = owner,
                                        .kind = COMMAND_RELEASE,
                                        .epoch = epoch,
                                        .disks = {slab}});
}

static void place_slab(struct world *world, struct vdisk_config *config, uint32_t slab)
{
    world->raft_index++;
    for (uint32_t i = 0; i < config->width; i++)
        config->columns[slab * config->width + i] = (struct column_config){
            .disk = i + 1,
            .node = i + 1,
            .where = {.extent = slab, .generation = world->raft_index},
            .state = COLUMN_IN_SYNC,
        };
}

static int owner_request_slabs(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                               size_t count)
{
    struct owner *owner = arg;
    struct world *world = owner->world;
    struct vdisk_config *config;

    (void)vdisk;
    assert_int_equal(count, 1);
    co_sleep_ns(world->raft_delay_ns);
    if (owner->cut_off || epoch != world->config->epoch)
        return -EAGAIN;
    if (world->full)
        return -ENOSPC;
    config = world_edit(world);
    place_slab(world, config, slabs[0]);
    world_publish(world, config);
    co_sleep_ns(owner->delay_ns + MS);
    return 0;
}

static void owner_on_heal(void *arg, const struct mirror_heal *heal)
{
    struct owner *owner = arg;

    assert_true(heal->count > 0);
    owner->world->heals += heal->count;
}

struct owner *world_take_over(struct world *world, uint64_t node)
{
    struct vdisk_config *config = world_edit(world);
    struct owner *owner = &world->owners[world->owner_count];
    struct mirror_options options = {
        .node = node,
        .buffers = world->buffers,
        .limits = world->limits,
        .grace_until_ns = world->grace_until_ns,
        .column = owner_column,
        .lease_held = owner_lease,
        .propose_stale = owner_propose_stale,
        .propose_in_sync = owner_propose_in_sync,
        .co_request_slabs = owner_request_slabs,
        .propose_release = world->thin ? owner_propose_release : NULL,
        .on_heal = owner_on_heal,
        .arg = owner,
    };

    assert_true(world->owner_count < ARRAY_SIZE(world->owners));
    config->session = config->epoch;
    config->owner = node;
    world_publish(world, config);
    *owner = (struct owner){.world = world, .node = node, .lease = true, .delay_ns = MS};
    world->owner_count++;
    assert_int_equal(mirror_new(world->io, &options, world->config, &owner->mirror), 0);
    return owner;
}

void co_owner_end(struct owner *owner)
{
    struct mirror *mirror = take_ptr(owner->mirror);

    co_mirror_free(mirror);
}

/* ---- running ---- */

static bool log_wanted(void)
{
    return getenv("S2D_TEST_LOG") != NULL;
}

struct start {
    const struct world_options *options;
    struct world *world;
};

static void world_main(struct io *io, void *arg)
{
    struct start *start = arg;
    struct world *world = start->world;
    cleanup(log_file_sink_freep) struct log_sink *sink = NULL;

    world->io = io;
    if (log_wanted()) {
        assert_int_equal(log_file_sink_new(stderr, "world", LOG_DEBUG, &sink), 0);
        io_set_log_sink(io, sink);
    }
    co_group_init(&world->coroutines);
    for (unsigned i = 0; i < WORLD_DISKS; i++)
        fake_column_init(&world->columns[i], io, i + 1, i + 1, i == 0, WORLD_VDISK,
                         WORLD_SLAB_BLOCKS);
    if (start->options->prepare)
        start->options->prepare(world);
    if (!start->options->no_owner)
        world_take_over(world, 1);
    world->test(world);
    for (unsigned i = 0; i < world->owner_count; i++)
        co_owner_end(&world->owners[i]);
    co_group_wait(&world->coroutines);
    co_sleep_ns(SEC);
    for (unsigned i = 0; i < WORLD_DISKS; i++)
        fake_column_done(&world->columns[i]);
    io_set_log_sink(io, NULL);
    world->done = true;
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

void world_run(const struct world_options *options, void (*test)(struct world *world))
{
    struct sim_options sim_options = sim_default_options(options->seed);
    struct world world = {.raft_delay_ns = 5 * MS, .test = test, .raft_index = 10};
    struct start start = {options, &world};
    uint32_t slabs = options->size_slabs > 0 ? options->size_slabs : WORLD_SLABS;

    assert_int_equal(sim_new(&sim_options, &world.sim), 0);
    assert_int_equal(buffer_pool_new("test", 8 * MIB, &world.buffers), 0);
    assert_int_equal(vdisk_config_new(slabs, options->width, WORLD_SLAB_BLOCKS, &world.config), 0);
    if (options->data_columns > 0)
        world.config->data_columns = options->data_columns;
    world.config->vdisk = WORLD_VDISK;
    world.config->epoch = 4;
    world.config->session = 4;
    world.config->owner = 1;
    world.config->size_bytes = (uint64_t)slabs * WORLD_SLAB_BLOCKS * BLOCK_SIZE;
    for (uint32_t slab = 0; slab < options->slabs; slab++)
        place_slab(&world, world.config, slab);
    if (getenv("S2D_TEST_TRANSCRIPT"))
        sim_set_transcript(world.sim, stderr);
    assert_int_equal(sim_start(world.sim, 1, world_main, &start), 0);
    assert_true(sim_run(world.sim, 3600 * SEC, is_done, &world));
    sim_crash(world.sim, 1, SIM_HOST_DIES);
    sim_free(world.sim);
    vdisk_config_put(world.config);
    assert_int_equal(buffer_pool_used_bytes(world.buffers), 0);
    buffer_pool_free(world.buffers);
}

/* ---- looking ---- */

struct column_config *world_column(struct world *world, uint32_t slab, uint32_t column)
{
    return &world->config->columns[slab * world->config->width + column];
}

bool world_in_sync(struct world *world, uint64_t disk)
{
    for (size_t i = 0; i < (size_t)world->config->slab_count * world->config->width; i++) {
        if (world->config->columns[i].disk == disk &&
            world->config->columns[i].state != COLUMN_IN_SYNC)
            return false;
    }
    return true;
}

int co_owner_write(struct owner *owner, uint64_t block, char fill)
{
    void *buffer = co_buffer_get(owner->world->buffers, BLOCK_SIZE);
    int r;

    memset(buffer, fill, BLOCK_SIZE);
    r = co_vdisk_write(mirror_vdisk(owner->mirror), buffer, block * BLOCK_SIZE, BLOCK_SIZE,
                       (struct client_request){0});
    buffer_put(owner->world->buffers, buffer, BLOCK_SIZE);
    return r;
}

static int fill_of(const char *data)
{
    for (size_t i = 1; i < BLOCK_SIZE; i++)
        assert_int_equal(data[i], data[0]);
    return data[0];
}

int co_owner_read(struct owner *owner, uint64_t block)
{
    void *buffer = co_buffer_get(owner->world->buffers, BLOCK_SIZE);
    int r;

    memset(buffer, 0x7f, BLOCK_SIZE);
    r = co_vdisk_read(mirror_vdisk(owner->mirror), buffer, block * BLOCK_SIZE, BLOCK_SIZE);
    if (r == 0)
        r = fill_of(buffer);
    buffer_put(owner->world->buffers, buffer, BLOCK_SIZE);
    return r;
}

int world_peek(struct world *world, uint64_t disk, uint64_t block)
{
    uint32_t slab = (uint32_t)(block / WORLD_SLAB_BLOCKS);
    const char *data = NULL;

    for (uint32_t i = 0; i < world->config->width; i++) {
        struct column_config *column = world_column(world, slab, i);

        if (column->disk == disk)
            data = fake_column_peek(&world->columns[disk - 1], column->where,
                                    (uint32_t)(block % WORLD_SLAB_BLOCKS));
    }
    return data ? data[0] : 0;
}

bool co_world_heal(struct world *world)
{
    for (int i = 0; i < 600; i++) {
        bool healed = true;

        for (uint64_t disk = 1; disk <= WORLD_DISKS; disk++)
            healed = healed && world_in_sync(world, disk);
        if (healed)
            return true;
        co_sleep_ns(100 * MS);
    }
    return false;
}

static void check_block(struct world *world, uint32_t slab, uint32_t block)
{
    const char *first = NULL;
    bool seen = false;

    for (uint32_t i = 0; i < world->config->width; i++) {
        struct column_config *column = world_column(world, slab, i);
        const char *data;

        if (column->disk == 0 || column->state != COLUMN_IN_SYNC)
            continue;
        data = fake_column_peek(&world->columns[column->disk - 1], column->where, block);
        if (!seen)
            first = data;
        seen = true;
        assert_int_equal(data == NULL, first == NULL);
        if (data)
            assert_memory_equal(data, first, BLOCK_SIZE);
    }
}

void world_check_copies(struct world *world)
{
    for (uint32_t slab = 0; slab < world->config->slab_count; slab++) {
        for (uint32_t block = 0; block < WORLD_SLAB_BLOCKS; block++)
            check_block(world, slab, block);
    }
}
