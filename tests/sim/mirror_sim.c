/* The mirror over real stores and the real bus, on simulated machines, with a database that is one
 * object: it applies commands in order and shows each node its state with a delay, or not at all.
 * Clients on the owner's node write stamped blocks while machines lose their processes or their
 * power, stand still, are cut off, and disks get slow.
 *
 *   mirror_sim [--seed S] [--runs N] [--log] [--transcript]
 *
 * Checked throughout: no acknowledged write is lost, and a block that shows the last write or an
 * unanswered one shows it from then on. Checked at the end: everything heals in bounded virtual
 * time, and all copies are the same. I1-I8 are asserted in the code that runs. */
#include <getopt.h>
#include <stdio.h>

#include "cache-tier/store.h"
#include "pool/disk.h"
#include "resiliency/column_local.h"
#include "resiliency/mirror.h"
#include "resiliency/store_client.h"
#include "resiliency/store_server.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/sim.h"
#include "s2d/bus/bus.h"

#define NODES 3
#define SLABS 4
#define SLAB_BLOCKS 256
#define BLOCKS (SLABS * SLAB_BLOCKS)
#define VDISK 5
#define CLIENTS 6 /* on each node; only the owner's are at work */
#define REQUEST_BLOCKS_MAX 16
#define MAYBE_MAX 16
#define STEP_NS MS
#define LEASE_NS (2 * SEC)
#define HEAL_NS (120 * SEC)
#define DISK_PATH "/disk"
#define DISK_BYTES (48 * MIB)
#define LOG_BYTES (4 * MIB)
#define PORT 7800

/* What a write made of a block: a version, and whether it was zeros. */
struct value {
    uint64_t version;
    bool zero;
};

struct block {
    struct value known; /* acknowledged, or seen */
    struct value maybe[MAYBE_MAX];
    unsigned maybe_count;
    bool busy; /* one request at a time */
};

struct cluster;

struct node {
    struct cluster *cluster;
    unsigned number;
    bool claimed;

    /* while it is up */
    struct io *io;
    struct disk *disk;
    struct store *store;
    struct bus *bus;
    struct buffer_pool *client_buffers, *owner_buffers, *store_buffers;
    struct store_client *client;
    struct store_server *server;
    struct column_store *local;
    struct mirror *mirror;
    struct co_group coroutines;
    bool running, stopping;
    uint64_t starts;

    /* its view of the database */
    bool raft_cut;
    uint64_t delay_ns, seen;  /* configurations */
    uint64_t lease_until_ns;  /* on the world's clock */
    uint64_t serving_session; /* 0: none */
    uint64_t last_session;    /* that this process served: never again */
    uint64_t down_until_ns, paused_until_ns;
};

struct command {
    uint64_t due_ns, epoch, disks[NODES];
    size_t count;
    uint32_t slab;
    enum { COMMAND_STALE, COMMAND_IN_SYNC, COMMAND_SLAB } kind;
};

#define COMMANDS_MAX 256
#define CONFIGS_MAX 4096

struct cluster {
    struct sim *sim;
    uint64_t seed;
    uint32_t width;
    struct node nodes[NODES + 1]; /* from 1 */
    struct vdisk_config *configs[CONFIGS_MAX];
    uint64_t published_ns[CONFIGS_MAX];
    uint64_t config_count;
    uint64_t raft_index;
    struct command commands[COMMANDS_MAX];
    size_t command_count;
    uint64_t owner_since_ns;

    struct block blocks[BLOCKS];
    uint64_t version;
    bool clients_stop;
    unsigned clients_at_work;
    bool check_wanted, checked;
    struct {
        unsigned reads, writes, unanswered, takeovers, stale, in_sync, crashes, rewritten;
    } count;
};

static bool show_log;

static uint64_t draw(struct cluster *cluster, uint64_t below)
{
    return sim_random(cluster->sim) % below;
}

#define check(cluster, condition)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(cluster, #condition, __LINE__);                                                   \
    } while (0)

static void fail(struct cluster *cluster, const char *what, int line)
{
    fprintf(stderr, "mirror_sim: seed %llu at %.6f s, line %d: %s\n",
            (unsigned long long)cluster->seed, (double)sim_now_ns(cluster->sim) / 1e9, line, what);
    abort();
}

/* ---- the database ---- */

static struct vdisk_config *config_now(struct cluster *cluster)
{
    return cluster->configs[cluster->config_count - 1];
}

static void publish(struct cluster *cluster, struct vdisk_config *config)
{
    check(cluster, vdisk_config_check(config) == 0);
    check(cluster, cluster->config_count < CONFIGS_MAX);
    cluster->published_ns[cluster->config_count] = sim_now_ns(cluster->sim);
    cluster->configs[cluster->config_count++] = config;
}

static struct vdisk_config *edit(struct cluster *cluster)
{
    struct vdisk_config *now = config_now(cluster), *copy = NULL;

    check(cluster, vdisk_config_copy(now, now->slab_count, &copy) == 0);
    copy->epoch++;
    cluster->raft_index++;
    return copy;
}

static void place_slab(struct cluster *cluster, struct vdisk_config *config, uint32_t slab)
{
    for (uint32_t i = 0; i < config->width; i++) {
        uint64_t node = 1 + (slab + i) % NODES;

        config->columns[slab * config->width + i] = (struct column_config){
            .disk = 10 + node,
            .node = node,
            .where = {.extent = slab, .generation = cluster->raft_index},
            .state = COLUMN_IN_SYNC,
        };
    }
}

static void mark_stale(struct cluster *cluster, const uint64_t *disks, size_t count)
{
    struct vdisk_config *config = edit(cluster);
    size_t changed = 0;

    for (size_t i = 0; i < count; i++)
        changed += vdisk_config_mark_stale(config, disks[i], config->epoch);
    if (changed > 0)
        publish(cluster, config);
    else
        vdisk_config_put(config);
    cluster->count.stale += changed > 0;
}

static void apply(struct cluster *cluster, const struct command *command)
{
    struct vdisk_config *config;

    if (command->epoch != config_now(cluster)->epoch)
        return; /* void */
    switch (command->kind) {
    case COMMAND_STALE:
        mark_stale(cluster, command->disks, command->count);
        return;
    case COMMAND_IN_SYNC:
        config = edit(cluster);
        if (vdisk_config_mark_in_sync(config, command->disks[0], config->epoch) > 0)
            publish(cluster, config);
        else
            vdisk_config_put(config);
        cluster->count.in_sync++;
        return;
    case COMMAND_SLAB:
        config = edit(cluster);
        if (!vdisk_config_slab_allocated(config, command->slab)) {
            place_slab(cluster, config, command->slab);
            publish(cluster, config);
        } else {
            vdisk_config_put(config);
        }
        return;
    }
}

/* A proposal on its way; it may get lost. */
static void propose(struct node *node, struct command command)
{
    struct cluster *cluster = node->cluster;

    if (node->raft_cut || draw(cluster, 20) == 0 || cluster->command_count == COMMANDS_MAX)
        return;
    command.due_ns = sim_now_ns(cluster->sim) + draw(cluster, 20 * MS);
    cluster->commands[cluster->command_count++] = command;
}

static void apply_due(struct cluster *cluster)
{
    uint64_t now_ns = sim_now_ns(cluster->sim);

    for (size_t i = 0; i < cluster->command_count;) {
        struct command command = cluster->commands[i];

        if (command.due_ns > now_ns) {
            i++;
            continue;
        }
        cluster->commands[i] = cluster->commands[--cluster->command_count];
        apply(cluster, &command);
    }
}

static bool is_healthy(struct node *node)
{
    return node->running && !node->stopping && !node->raft_cut && node->paused_until_ns == 0;
}

static bool owner_is_gone(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);
    struct node *owner = &cluster->nodes[config->owner];
    uint64_t now_ns = sim_now_ns(cluster->sim);

    if (owner->serving_session == config->session && now_ns < owner->lease_until_ns)
        return false;
    if (is_healthy(owner) && now_ns < cluster->owner_since_ns + SEC)
        return false; /* it has hardly heard of it */
    return !owner->running || now_ns >= owner->lease_until_ns ||
           owner->serving_session != config->session;
}

/* A lease that is still held must run out first, unless its process is dead. */
static bool lease_is_free(struct cluster *cluster)
{
    struct node *owner = &cluster->nodes[config_now(cluster)->owner];

    return !owner->running || owner->serving_session == 0 ||
           sim_now_ns(cluster->sim) >= owner->lease_until_ns;
}

static void take_over(struct cluster *cluster, unsigned number)
{
    struct vdisk_config *config = edit(cluster);

    config->session = config->epoch;
    config->owner = number;
    publish(cluster, config);
    cluster->owner_since_ns = sim_now_ns(cluster->sim);
    cluster->count.takeovers++;
}

static void lead(struct cluster *cluster)
{
    unsigned candidate = 1 + (unsigned)draw(cluster, NODES);

    apply_due(cluster);
    if (is_healthy(&cluster->nodes[candidate]) && owner_is_gone(cluster) && lease_is_free(cluster))
        take_over(cluster, candidate);
    for (unsigned i = 1; i <= NODES; i++) {
        uint64_t disk = 10 + i;

        /* A dead node is one command; the leader notices within a while. */
        if (!cluster->nodes[i].running && draw(cluster, 300) == 0)
            mark_stale(cluster, &disk, 1);
    }
}

/* ---- what a mirror is given ---- */

static struct column_store *node_column(void *arg, uint64_t number, uint64_t disk)
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
    assert(count <= NODES);
    memcpy(command.disks, disks, count * sizeof(*disks));
    propose(arg, command);
}

static void node_propose_in_sync(void *arg, uint64_t vdisk, uint64_t epoch, uint64_t disk)
{
    (void)vdisk;
    propose(arg,
            (struct command){.kind = COMMAND_IN_SYNC, .epoch = epoch, .disks = {disk}, .count = 1});
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

static void end_mirror(struct node *node)
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
        .column = node_column,
        .lease_held = node_lease_held,
        .propose_stale = node_propose_stale,
        .propose_in_sync = node_propose_in_sync,
        .co_request_slabs = co_node_request_slabs,
        .arg = node,
    };

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
            end_mirror(node);
        return;
    }
    end_mirror(node);
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
            if (!node_lease_held(node))
                end_mirror(node); /* it had run out: what was owned is owned no more */
            node->lease_until_ns = now_ns + LEASE_NS;
        } else if (!node_lease_held(node)) {
            end_mirror(node);
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

/* ---- clients ---- */

static void fill(char *buffer, uint64_t block, uint64_t version)
{
    uint64_t *words = (uint64_t *)buffer;

    for (size_t i = 0; i < BLOCK_SIZE / 8; i += 2) {
        words[i] = version;
        words[i + 1] = block;
    }
}

static bool shows(const char *buffer, uint64_t block, struct value value)
{
    static const char zeros[BLOCK_SIZE];
    char expected[BLOCK_SIZE];

    if (value.zero)
        return memcmp(buffer, zeros, BLOCK_SIZE) == 0;
    fill(expected, block, value.version);
    return memcmp(buffer, expected, BLOCK_SIZE) == 0;
}

/* One value is right: the known one, or one that was never answered; and then it stays. */
static void saw(struct cluster *cluster, uint64_t number, const char *buffer)
{
    struct block *block = &cluster->blocks[number];
    bool right = shows(buffer, number, block->known);

    for (unsigned i = 0; !right && i < block->maybe_count; i++) {
        right = shows(buffer, number, block->maybe[i]);
        if (right)
            block->known = block->maybe[i];
    }
    if (!right)
        fprintf(stderr, "block %llu shows version %llu, known is %llu%s, %u unanswered\n",
                (unsigned long long)number, (unsigned long long)*(const uint64_t *)buffer,
                (unsigned long long)block->known.version, block->known.zero ? " (zeros)" : "",
                block->maybe_count);
    check(cluster, right);
    block->maybe_count = 0;
}

static void wrote(struct cluster *cluster, uint64_t number, struct value value, int result)
{
    struct block *block = &cluster->blocks[number];

    if (result == 0) {
        block->known = value;
        block->maybe_count = 0;
        return;
    }
    check(cluster, result == -ESTALE || result == -ECANCELED);
    check(cluster, block->maybe_count < MAYBE_MAX);
    block->maybe[block->maybe_count++] = value;
}

static bool take_blocks(struct cluster *cluster, uint64_t *ret_block, uint32_t *ret_count)
{
    uint64_t block = draw(cluster, BLOCKS);
    uint32_t count = draw(cluster, 4) == 0 ? 1 + (uint32_t)draw(cluster, REQUEST_BLOCKS_MAX) : 1;

    count = (uint32_t)MIN(count, BLOCKS - block);
    for (uint32_t i = 0; i < count; i++) {
        struct block *at = &cluster->blocks[block + i];

        if (at->busy || at->maybe_count == MAYBE_MAX)
            return false;
    }
    for (uint32_t i = 0; i < count; i++)
        cluster->blocks[block + i].busy = true;
    *ret_block = block;
    *ret_count = count;
    return true;
}

static void co_client_read(struct node *node, char *buffer, uint64_t block, uint32_t count)
{
    struct cluster *cluster = node->cluster;
    int r = co_vdisk_read(mirror_vdisk(node->mirror), buffer, block * BLOCK_SIZE,
                          (uint64_t)count * BLOCK_SIZE);

    check(cluster, r == 0 || r == -ESTALE || r == -ECANCELED);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        saw(cluster, block + i, buffer + (size_t)i * BLOCK_SIZE);
    cluster->count.reads += r == 0;
}

static void co_client_write(struct node *node, char *buffer, uint64_t block, uint32_t count)
{
    struct cluster *cluster = node->cluster;
    struct value value = {.version = ++cluster->version, .zero = draw(cluster, 8) == 0};
    uint64_t offset = block * BLOCK_SIZE, length = (uint64_t)count * BLOCK_SIZE;
    struct vdisk *vdisk = mirror_vdisk(node->mirror);
    int r;

    for (uint32_t i = 0; i < count; i++)
        fill(buffer + (size_t)i * BLOCK_SIZE, block + i, value.version);
    r = value.zero ? co_vdisk_trim(vdisk, offset, length, (struct client_request){0})
                   : co_vdisk_write(vdisk, buffer, offset, length, (struct client_request){0});
    for (uint32_t i = 0; i < count; i++)
        wrote(cluster, block + i, value, r);
    cluster->count.writes += r == 0;
    cluster->count.unanswered += r != 0;
}

static void client_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    size_t bytes = REQUEST_BLOCKS_MAX * BLOCK_SIZE;
    char *buffer = co_buffer_get(node->client_buffers, bytes);

    while (!node->stopping && co_sleep_ns(draw(cluster, 4 * MS)) == 0) {
        uint64_t block;
        uint32_t count;

        if (cluster->clients_stop || !node->mirror || !take_blocks(cluster, &block, &count))
            continue;
        cluster->clients_at_work++;
        if (draw(cluster, 3) == 0)
            co_client_read(node, buffer, block, count);
        else
            co_client_write(node, buffer, block, count);
        cluster->clients_at_work--;
        for (uint32_t i = 0; i < count; i++)
            cluster->blocks[block + i].busy = false;
    }
    buffer_put(node->client_buffers, buffer, bytes);
}

/* ---- the last look ---- */

static void co_check_slab_columns(struct node *node, uint32_t slab, char *first, char *other)
{
    struct cluster *cluster = node->cluster;
    const struct vdisk_config *config = config_now(cluster);
    const struct column_config *columns = vdisk_config_slab(config, slab);
    uint64_t sums[SLAB_BLOCKS], others[SLAB_BLOCKS];

    for (uint32_t i = 0; i < config->width; i++) {
        struct column_store *store = node_column(node, columns[i].node, columns[i].disk);
        int r = co_column_read(store, VDISK, columns[i].where, 0, SLAB_BLOCKS,
                               (uint64_t)slab * SLAB_BLOCKS, i == 0 ? first : other,
                               i == 0 ? sums : others, NULL);

        check(cluster, r == 0);
        if (i == 0)
            continue;
        check(cluster, memcmp(first, other, SLAB_BLOCKS * BLOCK_SIZE) == 0);
        check(cluster, memcmp(sums, others, sizeof(sums)) == 0);
    }
}

static void checker_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    size_t bytes = SLAB_BLOCKS * BLOCK_SIZE;
    char *first = co_buffer_get(node->client_buffers, bytes);
    char *other = co_buffer_get(node->client_buffers, bytes);

    for (uint32_t slab = 0; slab < SLABS; slab++) {
        int r = co_vdisk_read(mirror_vdisk(node->mirror), first,
                              (uint64_t)slab * SLAB_BLOCKS * BLOCK_SIZE, bytes);

        check(cluster, r == 0);
        for (uint32_t i = 0; i < SLAB_BLOCKS; i++)
            saw(cluster, (uint64_t)slab * SLAB_BLOCKS + i, first + (size_t)i * BLOCK_SIZE);
        if (vdisk_config_slab_allocated(config_now(cluster), slab))
            co_check_slab_columns(node, slab, first, other);
    }
    buffer_put(node->client_buffers, first, bytes);
    buffer_put(node->client_buffers, other, bytes);
    cluster->checked = true;
}

static void watcher_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;

    while (!node->stopping && co_sleep_ns(10 * MS) == 0) {
        if (!cluster->check_wanted || !node->mirror)
            continue;
        cluster->check_wanted = false;
        checker_run(node);
    }
}

/* ---- a node's process ---- */

static void on_crash(void *arg)
{
    struct node *node = arg;

    node->stopping = true;
    if (node->mirror)
        end_mirror(node);
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
                               .extent_bytes = SLAB_BLOCKS * BLOCK_SIZE,
                               .log_bytes = LOG_BYTES};
    struct store_options options = {.name = "d", .page_cache_pages = 8};
    struct disk_message message = {0};
    int r = 0;

    memset(claim.cluster.bytes, 7, sizeof(claim.cluster.bytes));
    if (!node->claimed)
        r = co_disk_claim(node->io, DISK_PATH, &claim, &message);
    if (r == 0 || r == -EALREADY)
        r = co_disk_open(node->io, DISK_PATH, &claim.cluster, &message, &node->disk);
    if (r == 0)
        node->claimed = true;
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
    for (unsigned i = 1; r == 0 && i <= NODES; i++) {
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
    end_mirror(node);
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

static void node_main(struct io *io, void *arg)
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
    node->last_session = 0;
    co_group_init(&node->coroutines);
    sim_on_crash(cluster->sim, node->number, on_crash, node);
    snprintf(name, sizeof(name), "n%u", node->number);
    check(cluster, log_file_sink_new(stderr, name, LOG_DEBUG, &sink) == 0);
    if (show_log)
        io_set_log_sink(io, sink);
    check(cluster, buffer_pool_new("client", 8 * MIB, &node->client_buffers) == 0);
    check(cluster, buffer_pool_new("owner", 8 * MIB, &node->owner_buffers) == 0);
    check(cluster, buffer_pool_new("store", 8 * MIB, &node->store_buffers) == 0);
    r = co_node_open_disk(node);
    if (r == 0)
        r = node_open_bus(node);
    check(cluster, r == 0 || node->stopping);
    if (r == 0 && !node->stopping) {
        node->running = true;
        node_spawn(node, ticker_run, "ticker");
        node_spawn(node, watcher_run, "watcher");
        for (int i = 0; i < CLIENTS; i++)
            node_spawn(node, client_run, "client");
        while (!node->stopping && co_sleep_ns(SEC) == 0)
            ;
    }
    co_node_close(node);
    node->running = false;
    io_set_log_sink(io, NULL);
}

/* ---- faults ---- */

static void start_node(struct node *node)
{
    node->down_until_ns = 0;
    node->delay_ns = draw(node->cluster, 10 * MS);
    check(node->cluster, sim_start(node->cluster->sim, node->number, node_main, node) == 0);
}

static void crash_node(struct node *node, enum sim_crash_kind kind, uint64_t down_ns)
{
    struct cluster *cluster = node->cluster;

    if (node->paused_until_ns > 0) {
        node->paused_until_ns = 0;
        sim_resume(cluster->sim, node->number);
    }
    sim_crash(cluster->sim, node->number, kind);
    node->down_until_ns = sim_now_ns(cluster->sim) + down_ns;
    cluster->count.crashes++;
}

static void crash_all(struct cluster *cluster)
{
    for (unsigned i = 1; i <= NODES; i++) {
        if (sim_is_up(cluster->sim, i))
            crash_node(&cluster->nodes[i], SIM_HOST_DIES, draw(cluster, 2 * SEC));
    }
}

static uint64_t some_time(struct cluster *cluster)
{
    return draw(cluster, 3) == 0 ? draw(cluster, 8 * SEC) : draw(cluster, 600 * MS);
}

static void fault(struct cluster *cluster)
{
    struct node *node = &cluster->nodes[1 + draw(cluster, NODES)];
    unsigned other = 1 + (unsigned)draw(cluster, NODES);
    struct sim *sim = cluster->sim;
    bool up = sim_is_up(sim, node->number);

    switch (draw(cluster, 14)) {
    case 0:
    case 1:
        if (up)
            crash_node(node, SIM_PROCESS_DIES, some_time(cluster));
        break;
    case 2:
    case 3:
        if (up)
            crash_node(node, SIM_HOST_DIES, some_time(cluster));
        break;
    case 4:
        if (up && node->paused_until_ns == 0) {
            sim_pause(sim, node->number);
            node->paused_until_ns = sim_now_ns(sim) + 1 + some_time(cluster);
        }
        break;
    case 5:
        sim_cut(sim, node->number, other);
        break;
    case 6:
        for (unsigned i = 1; i <= NODES; i++) {
            sim_cut(sim, node->number, i);
            sim_cut(sim, i, node->number);
        }
        node->raft_cut = true;
        break;
    case 7:
        node->raft_cut = !node->raft_cut;
        break;
    case 8:
    case 9:
        sim_heal_all(sim);
        node->raft_cut = false;
        break;
    case 10:
        sim_disk_set_slowdown(sim, node->number, DISK_PATH, 1 + (double)draw(cluster, 300));
        break;
    case 11:
        sim_disk_set_slowdown(sim, node->number, DISK_PATH, 1);
        break;
    case 12:
        if (other != node->number)
            sim_break_connections(sim, node->number, other);
        break;
    case 13:
        if (draw(cluster, 4) == 0)
            crash_all(cluster);
        else if (up && node->paused_until_ns == 0)
            sim_crash_at_write(sim, node->number, 1 + draw(cluster, 50));
        break;
    }
}

static void heal(struct cluster *cluster)
{
    sim_heal_all(cluster->sim);
    for (unsigned i = 1; i <= NODES; i++) {
        struct node *node = &cluster->nodes[i];

        sim_disk_set_slowdown(cluster->sim, i, DISK_PATH, 1);
        sim_crash_at_write(cluster->sim, i, 0);
        node->raft_cut = false;
        node->paused_until_ns = MIN(node->paused_until_ns, 1u);
        node->down_until_ns = MIN(node->down_until_ns, 1u);
    }
}

/* One step of virtual time, and what happens between steps. */
static void step(struct cluster *cluster)
{
    uint64_t now_ns = sim_now_ns(cluster->sim);

    for (unsigned i = 1; i <= NODES; i++) {
        struct node *node = &cluster->nodes[i];

        if (node->paused_until_ns > 0 && now_ns >= node->paused_until_ns) {
            node->paused_until_ns = 0;
            if (sim_is_up(cluster->sim, i))
                sim_resume(cluster->sim, i);
        }
        if (!sim_is_up(cluster->sim, i) && now_ns >= node->down_until_ns)
            start_node(node);
    }
    lead(cluster);
    sim_run(cluster->sim, now_ns + STEP_NS, NULL, NULL);
}

static void run_for(struct cluster *cluster, uint64_t duration_ns)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + duration_ns;

    while (sim_now_ns(cluster->sim) < until_ns)
        step(cluster);
}

static bool is_whole(struct cluster *cluster)
{
    const struct vdisk_config *config = config_now(cluster);
    struct node *owner = &cluster->nodes[config->owner];

    for (size_t i = 0; i < (size_t)SLABS * config->width; i++) {
        if (config->columns[i].disk != 0 && config->columns[i].state != COLUMN_IN_SYNC)
            return false;
    }
    return owner->mirror && owner->serving_session == config->session &&
           mirror_ready(owner->mirror);
}

static void await_whole(struct cluster *cluster)
{
    uint64_t until_ns = sim_now_ns(cluster->sim) + HEAL_NS;

    while (!is_whole(cluster)) {
        check(cluster, sim_now_ns(cluster->sim) < until_ns);
        step(cluster);
    }
}

/* ---- a run ---- */

static void begin(struct cluster *cluster)
{
    struct vdisk_config *config = NULL;

    check(cluster, vdisk_config_new(SLABS, cluster->width, SLAB_BLOCKS, &config) == 0);
    config->vdisk = VDISK;
    config->epoch = 1;
    config->session = 1;
    config->owner = 1;
    config->size_bytes = (uint64_t)BLOCKS * BLOCK_SIZE;
    cluster->raft_index = 1;
    for (uint32_t slab = 0; slab < cluster->seed % (SLABS + 1); slab++)
        place_slab(cluster, config, slab);
    publish(cluster, config);
    for (uint64_t block = 0; block < BLOCKS; block++)
        cluster->blocks[block].known.zero = true;
    for (unsigned i = 1; i <= NODES; i++) {
        cluster->nodes[i] = (struct node){.cluster = cluster, .number = i};
        check(cluster, sim_disk_create(cluster->sim, i, DISK_PATH, DISK_BYTES) == 0);
    }
}

static void finish(struct cluster *cluster)
{
    cluster->clients_stop = true;
    while (cluster->clients_at_work > 0)
        step(cluster);
    await_whole(cluster);
    cluster->check_wanted = true;
    for (int i = 0; i < 20000 && !cluster->checked; i++)
        step(cluster);
    check(cluster, cluster->checked);
    for (unsigned i = 1; i <= NODES; i++)
        sim_crash(cluster->sim, i, SIM_HOST_DIES);
}

static void play(struct cluster *cluster)
{
    unsigned faults = (unsigned)draw(cluster, 40);

    run_for(cluster, 2 * SEC);
    for (unsigned i = 0; i < faults; i++) {
        fault(cluster);
        run_for(cluster, draw(cluster, 4) == 0 ? draw(cluster, 4 * SEC) : draw(cluster, 300 * MS));
    }
    heal(cluster);
    await_whole(cluster);
    run_for(cluster, 2 * SEC);
    check(cluster, cluster->count.writes > 0);
    await_whole(cluster);
}

static void run(uint64_t seed, bool transcript)
{
    struct sim_options options = sim_default_options(seed);
    struct cluster *cluster = calloc(1, sizeof(*cluster));

    assert(cluster);
    options.torn_writes = true;
    cluster->seed = seed;
    cluster->width = seed % 3 == 0 ? 2 : 3;
    check(cluster, sim_new(&options, &cluster->sim) == 0);
    if (transcript)
        sim_set_transcript(cluster->sim, stderr);
    begin(cluster);
    play(cluster);
    finish(cluster);
    printf("seed %llu: %.1f s, %u writes, %u reads, %u unanswered, %u crashes, %u takeovers, %u "
           "stale, %u in-sync, %u rewritten, transcript %016llx\n",
           (unsigned long long)seed, (double)sim_now_ns(cluster->sim) / 1e9, cluster->count.writes,
           cluster->count.reads, cluster->count.unanswered, cluster->count.crashes,
           cluster->count.takeovers, cluster->count.stale, cluster->count.in_sync,
           cluster->count.rewritten, (unsigned long long)sim_transcript_hash(cluster->sim));
    fflush(stdout);
    sim_free(cluster->sim);
    for (uint64_t i = 0; i < cluster->config_count; i++)
        vdisk_config_put(cluster->configs[i]);
    free(cluster);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"runs", required_argument, NULL, 'r'},
                                            {"log", no_argument, NULL, 'l'},
                                            {"transcript", no_argument, NULL, 't'},
                                            {0}};
    uint64_t seed = 1, runs = 1;
    bool transcript = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 0);
            break;
        case 'r':
            runs = strtoull(optarg, NULL, 0);
            break;
        case 'l':
            show_log = true;
            break;
        case 't':
            transcript = true;
            break;
        default:
            fprintf(stderr, "usage: mirror_sim [--seed S] [--runs N] [--log] [--transcript]\n");
            return 2;
        }
    }
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, transcript);
    return 0;
}
