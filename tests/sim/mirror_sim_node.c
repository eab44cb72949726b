/* A node's process: its disk, store, bus, mirror, and what it sees of the database. */
#include "tests/sim/mirror_sim.h"

#include "cache-tier/store.h"
#include "resiliency/column_local.h"
#include "resiliency/store_client.h"
#include "resiliency/store_server.h"
#include "s2d/base/log.h"
#include "s2d/bus/bus.h"

/* ---- what a mirror is given ---- */

struct column_store *node_column(void *arg, uint64_t number, uint64_t disk)
{
    struct node *node = arg;

    if (number == node->number)
        return node->local;
    return store_client_column(node->client, number, disk);
}

static bool node_lease_held(void *arg)
{
    struct node *node = arg;

    return sim_now_ns(node->cluster->sim) < node->lease_until_ns;
}

static void node_propose_stale(void *arg, uint64_t vdisk, uint64_t epoch, const uint64_t *disks,
                               size_t count)
{
    struct command command = {.kind = COMMAND_STALE, .epoch = epoch, .count = count};

    (void)vdisk;
    assert(count <= NODES_MAX);
    memcpy(command.disks, disks, count * sizeof(*disks));
    propose(arg, command);
}

static void node_propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk,
                                 const uint32_t *slabs, size_t count)
{
    struct command command = {
        .kind = COMMAND_IN_SYNC, .epoch = epoch, .disks = {disk}, .count = 1, .slab_count = count};

    (void)vdisk;
    assert(count <= SLABS);
    for (size_t i = 0; i < count; i++)
        command.slabs[i] = slabs[i];
    propose(arg, command);
}

static void node_on_heal(void *arg, const struct mirror_heal *heal)
{
    ((struct node *)arg)->cluster->count.healed += heal->count;
}

static int co_node_request_slabs(void *arg, uint64_t vdisk, uint64_t epoch, const uint32_t *slabs,
                                 size_t count)
{
    struct node *node = arg;

    (void)vdisk;
    assert(count == 1);
    propose(node, (struct command){.kind = COMMAND_SLAB, .epoch = epoch, .slab = slabs[0]});
    for (int i = 0; i < 200; i++) {
        if (co_sleep_ns(MS) < 0)
            return -ECANCELED;
        if (!node->mirror || mirror_stopped(node->mirror))
            return -ESTALE;
        if (vdisk_config_slab_allocated(node->cluster->configs[node->seen - 1], slabs[0]))
            return 0;
    }
    return -EAGAIN;
}

static void reap_run(void *arg)
{
    co_mirror_free(arg);
}

void node_end_mirror(struct node *node)
{
    struct mirror *mirror = take_ptr(node->mirror);

    node->serving_session = 0;
    if (!mirror)
        return;
    node->cluster->count.rewritten += mirror_status(mirror).rewritten_blocks;
    mirror_stop(mirror);
    check(node->cluster,
          co_group_spawn(&node->coroutines, node->io, "reap", reap_run, mirror) == 0);
}

static void begin_mirror(struct node *node, struct vdisk_config *config)
{
    struct mirror_options options = {
        .node = node->number,
        .buffers = node->owner_buffers,
        .pace = &node->pace,
        .column = node_column,
        .lease_held = node_lease_held,
        .propose_stale = node_propose_stale,
        .propose_in_sync = node_propose_in_sync,
        .co_request_slabs = co_node_request_slabs,
        .on_heal = node_on_heal,
        .limits = {.unsettled_bytes = 512 * KIB,
                   .stripe_bytes = 2 * MIB,
                   .resync_depth = 2}, /* their logs are small */
        .arg = node,
    };

    pace_init(&node->pace, PACE_FLOOR_BYTES);
    check(node->cluster, mirror_new(node->io, &options, config, &node->mirror) == 0);
    node->serving_session = node->last_session = config->session;
}

/* What the newest configuration that this node sees means for it. A mirror is made only for a
 * session that began while this process ran: an owner that restarted takes over anew (I5). */
static void follow(struct node *node, struct vdisk_config *config, bool began_before_us)
{
    bool mine = config->owner == node->number;

    if (node->mirror && mine && config->session == node->serving_session) {
        check(node->cluster, mirror_configure(node->mirror, config) == 0);
        if (mirror_stopped(node->mirror))
            node_end_mirror(node);
        return;
    }
    node_end_mirror(node);
    if (mine && !began_before_us && config->session > node->last_session && node_lease_held(node))
        begin_mirror(node, config);
}

static void ticker_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    uint64_t first = cluster->config_count; /* what was there before us */

    while (!node->stopping && co_sleep_ns(MS) == 0) {
        uint64_t now_ns = sim_now_ns(cluster->sim), newest = node->seen;

        if (!node->raft_cut) {
            if (!node_lease_held(node) && !node->zombie)
                node_end_mirror(node); /* it had run out: what was owned is owned no more */
            node->lease_until_ns = now_ns + LEASE_NS;
        } else if (!node_lease_held(node) && !node->zombie) {
            node_end_mirror(node);
        }
        while (!node->raft_cut && newest < cluster->config_count &&
               cluster->published_ns[newest] + node->delay_ns <= now_ns)
            newest++;
        if (newest == node->seen)
            continue;
        node->seen = newest;
        follow(node, cluster->configs[newest - 1],
               cluster->configs[newest - 1]->session <= cluster->configs[first - 1]->epoch);
    }
}

/* ---- a node's process ---- */

static void on_crash(void *arg)
{
    struct node *node = arg;

    node->stopping = true;
    if (node->mirror)
        node_end_mirror(node);
}

static void peer_up(void *arg, uint64_t number, enum bus_channel channel)
{
    struct node *node = arg;

    (void)channel;
    if (node->client)
        store_client_peer_changed(node->client, number);
}

static void peer_down(void *arg, uint64_t number, enum bus_channel channel)
{
    struct node *node = arg;

    (void)channel;
    if (node->server)
        store_server_peer_down(node->server, number);
    if (node->client)
        store_client_peer_changed(node->client, number);
}

static int co_node_open_disk(struct node *node)
{
    struct disk_claim claim = {.disk_id = 10 + node->number,
                               .role = DISK_CAPACITY,
                               .media = DISK_SSD,
                               .extent_bytes = COLUMN_BLOCKS * BLOCK_SIZE,
                               .log_bytes = LOG_BYTES};
    struct store_options options = {.name = "d", .page_cache_pages = 8};
    struct disk_message message = {0};
    int r = 0;

    memset(claim.cluster.bytes, 7, sizeof(claim.cluster.bytes));
    if (!node->claimed)
        r = co_disk_claim(node->io, DISK_PATH, &claim, &message);
    if (r == 0 || r == -EALREADY)
        r = co_disk_open(node->io, DISK_PATH, &claim.cluster, &message, &node->disk);
    if (r == 0) {
        node->claimed = true;
        node->geometry = *disk_geometry(node->disk);
    }
    if (r == 0)
        r = co_store_open(node->io, node->disk, &options, &node->store);
    if (r == 0)
        r = column_local_new(node->store, node->number, 10 + node->number, &node->local);
    return r;
}

static int node_open_bus(struct node *node)
{
    static const uint8_t key[BUS_KEY_BYTES] = {1, 2, 3};
    char address[IO_ADDRESS_MAX];
    struct bus_options options = {
        .node = node->number,
        .start_counter = ++node->starts,
        .key = key,
        .key_bytes = sizeof(key),
        .listen = address,
        .receive_bytes = 16 * MIB,
        .on_up = peer_up,
        .on_down = peer_down,
        .arg = node,
    };
    int r;

    snprintf(address, sizeof(address), "10.83.0.%u:%d", node->number, PORT);
    r = bus_new(node->io, &options, &node->bus);
    if (r == 0)
        r = store_client_new(node->io, node->bus, &node->client);
    if (r == 0)
        r = store_server_new(node->io, node->bus, node->store_buffers, &node->server);
    if (r == 0)
        r = store_server_add(node->server, 10 + node->number, node->store);
    for (unsigned i = 1; r == 0 && i <= node->cluster->node_count; i++) {
        snprintf(address, sizeof(address), "10.83.0.%u:%d", i, PORT);
        if (i != node->number)
            r = bus_add_peer(node->bus, i, address);
    }
    return r;
}

static void node_spawn(struct node *node, co_fn *fn, const char *name)
{
    check(node->cluster, co_group_spawn(&node->coroutines, node->io, name, fn, node) == 0);
}

static void co_node_close(struct node *node)
{
    node->stopping = true;
    node_end_mirror(node);
    co_group_wait(&node->coroutines);
    if (node->server)
        co_store_server_remove(node->server, 10 + node->number);
    if (node->store)
        co_store_close(take_ptr(node->store)); /* ends what peers had under way in it */
    co_store_client_free(take_ptr(node->client));
    store_server_free(take_ptr(node->server));
    co_bus_close(take_ptr(node->bus));
    column_local_free(take_ptr(node->local));
    disk_close(take_ptr(node->disk));
    buffer_pool_free(take_ptr(node->client_buffers));
    buffer_pool_free(take_ptr(node->owner_buffers));
    buffer_pool_free(take_ptr(node->store_buffers));
}

void node_main(struct io *io, void *arg)
{
    cleanup(log_file_sink_freep) struct log_sink *sink = NULL;
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    char name[8];
    int r;

    node->io = io;
    node->stopping = false;
    node->seen = 0;
    node->lease_until_ns = 0;
    node->zombie = cluster->data_columns == 1 && draw(cluster, 3) == 0;
    node->last_session = 0;
    co_group_init(&node->coroutines);
    sim_on_crash(cluster->sim, node->number, on_crash, node);
    snprintf(name, sizeof(name), "n%u", node->number);
    check(cluster, log_file_sink_new(stderr, name, LOG_DEBUG, &sink) == 0);
    if (cluster->show_log)
        io_set_log_sink(io, sink);
    check(cluster, buffer_pool_new("client", 16 * MIB, &node->client_buffers) == 0);
    check(cluster, buffer_pool_new("owner", 8 * MIB, &node->owner_buffers) == 0);
    check(cluster, buffer_pool_new("store", 8 * MIB, &node->store_buffers) == 0);
    r = co_node_open_disk(node);
    if (r == 0)
        r = node_open_bus(node);
    check(cluster, r == 0 || node->stopping || node->disk_fails);
    if (r == 0 && !node->stopping) {
        node->running = true;
        node_spawn(node, ticker_run, "ticker");
        node_spawn(node, watcher_run, "watcher");
        for (int i = 0; i < CLIENTS; i++)
            node_spawn(node, client_run, "client");
        node_spawn(node, peeker_run, "peeker");
        node_spawn(node, peeker_run, "peeker");
        for (int i = 0; cluster->repeating && i < 2; i++)
            node_spawn(node, reader_run, "reader");
        if (cluster->repeating)
            node_spawn(node, repeater_run, "repeater");
        if (cluster->data_columns == 1)
            node_spawn(node, inspector_run, "inspector");
    }
    while (!node->stopping && co_sleep_ns(SEC) == 0)
        ;
    co_node_close(node);
    node->running = false;
    io_set_log_sink(io, NULL);
}
