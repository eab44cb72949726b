/* What all kinds of clients share: stamps, the judgement of errors, starting and stopping. */
#include "tests/sim/sim_workload.h"

#include "s2d/base/checksum.h"
#include "tests/sim/sim_faults.h"
#include "tests/sim/sim_health.h"

struct workload {
    struct world *world;
    struct blocks *blocks[SHAPE_VOLUMES_MAX];
    struct files *files;
    struct copies *copies;
    uint32_t *stamps; /* the register of each; stamp 0 is nobody's */
    uint64_t stamp_count, stamp_size;
    unsigned running[SHAPE_VOLUMES_MAX];
    uint64_t flush_draws;
};

struct workload *workload_new(struct world *world)
{
    struct workload *workload = calloc(1, sizeof(*workload));

    if (!workload)
        abort();
    workload->world = world;
    for (unsigned i = 0; i < world->shape.volume_count; i++)
        workload->blocks[i] = blocks_new(world, i);
    workload->files = files_new(world);
    workload->copies = copies_new();
    workload->stamp_count = 1;
    return workload;
}

void workload_free(struct workload *workload)
{
    if (!workload)
        return;
    for (unsigned i = 0; i < SHAPE_VOLUMES_MAX; i++)
        blocks_free(workload->blocks[i]);
    files_free(workload->files);
    copies_free(workload->copies);
    free(workload->stamps);
    free(workload);
}

struct blocks *world_blocks(struct world *world, unsigned volume)
{
    return world->workload->blocks[volume];
}

struct files *world_files(struct world *world)
{
    return world->workload->files;
}

struct copies *world_copies(struct world *world)
{
    return world->workload->copies;
}

/* ---- stamps ---- */

uint64_t stamp_new(struct workload *workload, uint32_t reg)
{
    if (workload->stamp_count >= workload->stamp_size) {
        workload->stamp_size = MAX(2 * workload->stamp_size, (uint64_t)4096);
        workload->stamps =
            reallocarray(workload->stamps, workload->stamp_size, sizeof(*workload->stamps));
        if (!workload->stamps)
            abort();
    }
    workload->stamps[workload->stamp_count] = reg;
    return workload->stamp_count++;
}

uint32_t stamp_register(const struct workload *workload, uint64_t stamp)
{
    return stamp > 0 && stamp < workload->stamp_count ? workload->stamps[stamp] : UINT32_MAX;
}

/* ---- flushes ---- */

#define FLUSH_DRAWS 918273 /* a stream of their own; any number will do */

bool workload_flushes(struct world *world)
{
    uint64_t words[] = {world->options.seed, FLUSH_DRAWS, world->workload->flush_draws};

    if (world->shape.flush_percent == 0 || world->quiet)
        return false;
    world->workload->flush_draws++;
    return hash64(words, sizeof(words)) % 100 < world->shape.flush_percent;
}

int co_client_flush(const struct client *client, struct csv_volume *volume, uint64_t ino)
{
    struct world *world = client->machine->world;
    int r = co_csv_sync(volume, ino, world->workload->flush_draws % 2);

    world->counts.flushes += r == 0;
    return r;
}

/* ---- errors ---- */

bool error_is_excused(const struct client *client, int error, bool changes, const char *what)
{
    const struct machine *machine = client->machine;
    struct world *world = machine->world;

    if (error == -ECANCELED || error == -ESHUTDOWN || sim_is_dying(node_io(machine->node)))
        return true; /* its node ends */
    if ((error == -ENOSPC && changes && lacked_room(world, client->since_ns)) ||
        ((error == -EIO || error == -EBADMSG || (error == -EROFS && changes)) && world->exposed)) {
        world->counts.errors_told++;
        return true;
    }
    world_fail(world, "node %u: %s: %s", machine->number, what, strerror(-error));
}

/* ---- clients ---- */

uint32_t client_who(const struct client *client)
{
    return client->machine->number * 100 + client->number;
}

bool client_goes_on(const struct client *client)
{
    return !client->machine->stopping && !client->machine->world->quiet && !co_cancelled();
}

bool co_client_think(struct client *client)
{
    struct world *world = client->machine->world;
    int r = co_sleep_ns(world_draw(world, world->shape.think_ns_max));

    client->since_ns = world_now_ns(world);
    return r == 0 && client_goes_on(client);
}

enum client_kind { CLIENT_OF_BLOCKS, CLIENT_OF_FILES, CLIENT_OF_COPIES };

static enum client_kind client_kind(const struct client *client)
{
    const struct shape *shape = &client->machine->world->shape;

    if (client->number < shape->block_clients)
        return CLIENT_OF_BLOCKS;
    return client->number < shape->block_clients + shape->file_clients ? CLIENT_OF_FILES
                                                                       : CLIENT_OF_COPIES;
}

uint64_t client_place(const struct client *client)
{
    const struct shape *shape = &client->machine->world->shape;
    uint64_t node = client->machine->number - 1;

    switch (client_kind(client)) {
    case CLIENT_OF_BLOCKS:
        return node * shape->block_clients + client->number;
    case CLIENT_OF_FILES:
        return node * shape->file_clients + client->number - shape->block_clients;
    case CLIENT_OF_COPIES:
        return node + 1;
    }
    return 0;
}

unsigned client_volume(const struct client *client)
{
    return (unsigned)(client_place(client) % client->machine->world->shape.volume_count);
}

static void client_main(void *arg)
{
    struct client client = *(struct client *)arg;
    struct world *world = client.machine->world;

    free(arg);
    while (!world->ready && client_goes_on(&client)) {
        if (co_sleep_ns(50 * MS) < 0)
            break;
    }
    switch (client_kind(&client)) {
    case CLIENT_OF_BLOCKS:
        co_block_client(&client);
        break;
    case CLIENT_OF_FILES:
        co_file_client(&client);
        break;
    case CLIENT_OF_COPIES:
        co_copy_client(&client);
        break;
    }
    world->workload->running[client_volume(&client)]--;
}

void workload_start(struct machine *machine)
{
    const struct shape *shape = &machine->world->shape;
    unsigned count = shape->block_clients + shape->file_clients;

    count += machine->number <= shape->copy_clients;
    for (unsigned i = 0; i < count; i++) {
        struct client *client = malloc(sizeof(*client));

        if (!client)
            abort();
        *client = (struct client){.machine = machine, .number = i};
        if (!machine->world->quiet && machine_spawn(machine, "client", client_main, client))
            machine->world->workload->running[client_volume(client)]++;
        else
            free(client);
    }
}

unsigned workload_running(const struct workload *workload, unsigned volume)
{
    return workload->running[volume];
}

int co_workload_prepare(struct machine *machine)
{
    struct world *world = machine->world;
    int r = 0;

    for (unsigned i = 0; i < world->shape.volume_count && r == 0; i++)
        r = co_blocks_prepare(machine, world_blocks(world, i));
    return r;
}

void co_workload_read_all(struct machine *machine)
{
    for (unsigned i = 0; i < machine->world->shape.volume_count; i++) {
        if (volume_is_lost(machine->world, i))
            continue;
        co_blocks_read_all(machine, world_blocks(machine->world, i));
        co_files_read_all(machine, i);
        co_copies_read_all(machine, i);
    }
}
