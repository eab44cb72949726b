/* Verbs of the cluster itself: its creation, tokens, nodes, the pool and its disks. */
#include <stdio.h>

#include "s2d/cluster/database_internal.h"

#define EXTENT_BYTES_MIN (4 * MIB)
#define EXTENT_BYTES_MAX (256 * MIB) /* as what a disk can be claimed with */
#define DISK_BYTES_MAX (UINT64_C(1) << 50)
#define RESTART_DELAY_MS 30000
#define RESTART_DELAY_MS_MAX (3600 * 1000)

/* ---- the cluster and its nodes ---- */

static void check_address(struct command *command, const char *address)
{
    if (!address_is_valid(address))
        command_refuse(command, -EINVAL, "'%s' is no address of a node: HOST:PORT", address);
}

/* What a command says of a new node. */
struct node_arguments {
    const char *name, *address, *site, *rack, *chassis;
    uint64_t start_counter;
};

static struct node_arguments node_arguments(struct command *command, const char *name)
{
    struct node_arguments node = {
        .name = name,
        .address = command_text(command, "address"),
        .site = command_text_or(command, "site", "site1"),
        .rack = command_text_or(command, "rack", "rack1"),
        .chassis = command_text_or(command, "chassis", name),
        .start_counter = command_u64_or(command, "start_counter", 0),
    };

    check_address(command, node.address);
    if (!name_is_valid(node.site) || !name_is_valid(node.rack) || !name_is_valid(node.chassis))
        command_refuse(command, -EINVAL, "site, rack and chassis are names, as nodes have");
    return node;
}

static struct node_record *add_node(struct command *command, const struct node_arguments *arguments)
{
    struct database *database = command->database;
    struct node_record *node = record_new(TABLE_NODE, database_new_id(database));

    if (!node)
        abort();
    SET_TEXT(node->name, arguments->name);
    SET_TEXT(node->address, arguments->address);
    SET_TEXT(node->site, arguments->site);
    SET_TEXT(node->rack, arguments->rack);
    SET_TEXT(node->chassis, arguments->chassis);
    node->state = NODE_UP;
    node->start_counter = arguments->start_counter;
    node->joined_ns = command_time_ns(command);
    database_put(database, TABLE_NODE, node);
    return node;
}

static void check_restart_delay(struct command *command, uint64_t delay_ms)
{
    if (delay_ms > RESTART_DELAY_MS_MAX)
        command_refuse(command, -EINVAL, "vm_restart_delay_ms is at most an hour");
}

/* {name, uuid, node_name, address, start_counter, time_ns}: the first command of every cluster. Its
 * key is not here: each node has it in its identity, and nobody needs to read it. */
static void cluster_create(struct command *command)
{
    const char *name = command_text(command, "name"), *uuid = command_text(command, "uuid");
    const char *node_name = command_text(command, "node_name");
    struct node_arguments arguments = node_arguments(command, node_name);
    uint64_t delay_ms = command_u64_or(command, "vm_restart_delay_ms", RESTART_DELAY_MS);
    struct cluster_record *cluster;
    struct node_record *node;

    check_restart_delay(command, delay_ms);
    if (database_cluster(command->database))
        command_refuse(command, -EEXIST, "this node belongs to the cluster '%s' already",
                       database_cluster(command->database)->name);
    if (!name_is_valid(name) || !name_is_valid(node_name))
        command_refuse(command, -EINVAL,
                       "names are 1 to 63 letters, digits, '.', '_' or '-', and begin with a "
                       "letter, a digit or '_'");
    if (strlen(uuid) >= sizeof(cluster->uuid))
        command_refuse(command, -EINVAL, "that is no UUID");
    if (command_refused(command))
        return;
    cluster = record_new(TABLE_CLUSTER, 1);
    if (!cluster)
        abort();
    SET_TEXT(cluster->name, name);
    SET_TEXT(cluster->uuid, uuid);
    cluster->created_ns = command_time_ns(command);
    cluster->next_id = 1;
    cluster->vm_restart_delay_ms = delay_ms;
    database_put(command->database, TABLE_CLUSTER, cluster);
    node = add_node(command, &arguments);
    database_add_event(command, SEVERITY_INFORMATION, "cluster.created", name,
                       "cluster created on node %s", node->name);
    command->result->reply = json_pack("{s:I}", "node", (json_int_t)node->base.id);
}

/* {vm_restart_delay_ms} */
static void cluster_set(struct command *command)
{
    struct cluster_record *cluster = database_find_mutable(command->database, TABLE_CLUSTER, 1);
    uint64_t delay_ms = command_u64(command, "vm_restart_delay_ms");

    check_restart_delay(command, delay_ms);
    if (command_refused(command))
        return;
    cluster->vm_restart_delay_ms = delay_ms;
    database_put(command->database, TABLE_CLUSTER, cluster);
}

static size_t count_valid_tokens(const struct database *database, uint64_t now_ns)
{
    const struct token_record *token;
    size_t count = 0;

    for (size_t i = 0; (token = database_at(database, TABLE_TOKEN, i)); i++)
        count += token->expires_ns >= now_ns;
    return count;
}

static void remove_expired_tokens(struct database *database, uint64_t now_ns)
{
    const struct token_record *token;
    size_t i = 0;

    while ((token = database_at(database, TABLE_TOKEN, i))) {
        if (token->expires_ns < now_ns)
            database_remove(database, TABLE_TOKEN, token->base.id);
        else
            i++;
    }
}

/* {secret, expires_ns, time_ns} */
static void token_create(struct command *command)
{
    const char *secret = command_text(command, "secret");
    uint64_t expires_ns = command_u64(command, "expires_ns"), now_ns = command_time_ns(command);
    struct token_record *token;

    if (strlen(secret) != 64 || strspn(secret, "0123456789abcdef") != 64)
        command_refuse(command, -EINVAL, "a token's secret has 64 hexadecimal digits");
    if (count_valid_tokens(command->database, now_ns) >= TOKENS_MAX)
        command_refuse(command, -ENOSPC, "%d tokens wait to be used: each is good for an hour",
                       TOKENS_MAX);
    if (command_refused(command))
        return;
    remove_expired_tokens(command->database, now_ns);
    token = record_new(TABLE_TOKEN, database_new_id(command->database));
    if (!token)
        abort();
    SET_TEXT(token->secret, secret);
    token->expires_ns = expires_ns;
    database_put(command->database, TABLE_TOKEN, token);
    command->result->reply = json_pack("{s:I}", "token", (json_int_t)token->base.id);
}

/* {token, name, address, start_counter, time_ns}: the token is used up. */
static void node_join(struct command *command)
{
    struct token_record *token = command_record(command, "token", TABLE_TOKEN);
    const char *name = command_new_name(command, "name", TABLE_NODE);
    struct node_arguments arguments = node_arguments(command, name);
    struct node_record *node;

    if (token && token->expires_ns < command_time_ns(command))
        command_refuse(command, -EACCES,
                       "the token has expired: make another with 's2d cluster token'");
    if (database_count(command->database, TABLE_NODE) >= NODES_MAX)
        command_refuse(command, -ENOSPC, "a cluster has at most %d nodes", NODES_MAX);
    if (command_refused(command))
        return;
    database_remove(command->database, TABLE_TOKEN, token->base.id);
    node = add_node(command, &arguments);
    database_add_event(command, SEVERITY_INFORMATION, "node.joined", name, "node %s joined", name);
    command->result->reply = json_pack("{s:I}", "node", (json_int_t)node->base.id);
}

/* {node, start_counter, address}: its daemon started (again), and takes part. */
static void node_started(struct command *command)
{
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    uint64_t start_counter = command_u64(command, "start_counter");
    const char *address = command_text_or(command, "address", "");

    if (address[0])
        check_address(command, address);
    if (node && start_counter < node->start_counter)
        command_refuse(command, -ESTALE, "node %s has started again since", node->name);
    if (command_refused(command))
        return;
    if (node->state == NODE_DOWN) {
        node->state = NODE_UP;
        database_add_event(command, SEVERITY_INFORMATION, "node.up", node->name, "node %s is up",
                           node->name);
    }
    node->start_counter = start_counter;
    if (address[0])
        SET_TEXT(node->address, address);
    database_put(command->database, TABLE_NODE, node);
}

static size_t disks_of_node(struct database *database, uint64_t node, uint64_t *ret_disks,
                            size_t max)
{
    const struct disk_record *disk;
    size_t count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)) && count < max; i++) {
        if (disk->node == node)
            ret_disks[count++] = disk->base.id;
    }
    return count;
}

/* {node, start_counter, reason}: one command for all vdisks with columns there (I3). Void when it
 * has started again since. */
static void node_down(struct command *command)
{
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    uint64_t start_counter = command_u64(command, "start_counter");
    const char *reason = command_text_or(command, "reason", "it does not answer");
    uint64_t disks[NODE_DISKS_MAX];
    size_t count;

    if (node && start_counter != node->start_counter)
        command_refuse(command, -ESTALE, "node %s has started again since", node->name);
    if (node && node->state == NODE_DOWN)
        command_refuse(command, -EALREADY, "node %s is down already", node->name);
    if (command_refused(command))
        return;
    node->state = NODE_DOWN;
    database_put(command->database, TABLE_NODE, node);
    database_add_event(command, SEVERITY_ERROR, "node.down", node->name, "node %s is down: %s",
                       node->name, reason);
    count = disks_of_node(command->database, node->base.id, disks, NODE_DISKS_MAX);
    database_exclude(command, disks, count, node->base.id);
}

/* {node, state}: drain, pause, resume. */
static void node_set_state(struct command *command)
{
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    unsigned state = command_word(command, "state", node_state_words);

    if (node && node->state == NODE_DOWN)
        command_refuse(command, -EAGAIN, "node %s is down: start its daemon first", node->name);
    if (state == NODE_DOWN)
        command_refuse(command, -EINVAL, "a node goes down by itself");
    if (command_refused(command))
        return;
    node->state = state;
    database_put(command->database, TABLE_NODE, node);
}

/* {node}: only a node that is down (its lease has run out, its vdisks have other owners), without
 * disks that hold data. */
static void node_evict(struct command *command)
{
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    uint64_t disks[NODE_DISKS_MAX];
    size_t count = 0;

    if (command_refused(command))
        return;
    count = disks_of_node(command->database, node->base.id, disks, NODE_DISKS_MAX);
    for (size_t i = 0; i < count; i++) {
        if (database_used_extents(command->database, disks[i]) > 0)
            command_refuse(
                command, -EBUSY,
                "disks of node %s still hold data: retire them first ('s2d disk retire')",
                node->name);
    }
    if (node->state != NODE_DOWN)
        command_refuse(command, -EBUSY, "node %s is up: stop its daemon first", node->name);
    if (command_refused(command))
        return;
    for (size_t i = 0; i < count; i++)
        database_remove(command->database, TABLE_DISK, disks[i]);
    database_add_event(command, SEVERITY_WARNING, "node.evicted", node->name, "node %s was evicted",
                       node->name);
    database_remove(command->database, TABLE_NODE, node->base.id);
}

/* {extent_bytes} */
static void pool_create(struct command *command)
{
    struct cluster_record *cluster = database_find_mutable(command->database, TABLE_CLUSTER, 1);
    uint64_t extent_bytes = command_u64(command, "extent_bytes");

    if (cluster->extent_bytes)
        command_refuse(command, -EEXIST, "the cluster has its pool already");
    if (extent_bytes < EXTENT_BYTES_MIN || extent_bytes > EXTENT_BYTES_MAX ||
        (extent_bytes & (extent_bytes - 1)))
        command_refuse(
            command, -EINVAL,
            "the extent size is a power of two from 4 MiB to 256 MiB; 256 MiB suits most");
    if (command_refused(command))
        return;
    cluster->extent_bytes = extent_bytes;
    database_put(command->database, TABLE_CLUSTER, cluster);
    database_add_event(command, SEVERITY_INFORMATION, "pool.created", cluster->name,
                       "pool created, extents of %llu MiB",
                       (unsigned long long)(extent_bytes / MIB));
}

#define READ_CACHE_BYTES_MIN (16 * MIB)

static const char *read_cache_message(bool limited, uint64_t bytes)
{
    if (!limited)
        return "read caches take what cache disks have from now on";
    return bytes == 0 ? "hard disks have no read cache from now on"
                      : "the read cache of a hard disk is limited from now on";
}

/* {read_cache_limited, read_cache_bytes} */
static void pool_set(struct command *command)
{
    struct cluster_record *cluster = database_find_mutable(command->database, TABLE_CLUSTER, 1);
    bool limited = command_bool_or(command, "read_cache_limited", false);
    uint64_t bytes = limited ? command_u64(command, "read_cache_bytes") : 0;

    if (!cluster->extent_bytes)
        command_refuse(command, -ENOENT, "there is no pool yet: 's2d pool create'");
    if (bytes != 0 && bytes < READ_CACHE_BYTES_MIN)
        command_refuse(command, -EINVAL, "a read cache has at least 16 MiB, or is none (0)");
    if (command_refused(command))
        return;
    cluster->read_cache_limited = limited;
    cluster->read_cache_bytes = bytes;
    database_put(command->database, TABLE_CLUSTER, cluster);
    database_add_event(command, SEVERITY_INFORMATION, "pool.set", cluster->name, "%s",
                       read_cache_message(limited, bytes));
}

/* {node, name, path, uuid, role, media, size_bytes}: a place in the database, before the disk is
 * written to. Claiming the same disk (uuid) again returns the same id. */
static void disk_claim(struct command *command)
{
    struct database *database = command->database;
    struct node_record *node = command_record(command, "node", TABLE_NODE);
    const char *name = command_text(command, "name"), *path = command_text(command, "path");
    const char *uuid = command_text(command, "uuid");
    unsigned role = command_word(command, "role", disk_role_words);
    unsigned media = command_word(command, "media", disk_media_words);
    uint64_t size_bytes = command_u64(command, "size_bytes");
    const struct cluster_record *cluster = database_cluster(database);
    const struct disk_record *old = node ? database_disk_of(database, node->base.id, name) : NULL;
    uint64_t disks[NODE_DISKS_MAX];
    struct disk_record *disk;

    if (!cluster->extent_bytes)
        command_refuse(command, -ENOENT, "there is no pool yet: 's2d pool create'");
    if (!name_is_valid(name))
        command_refuse(command, -EINVAL, "'%s' cannot name a disk", name);
    if (strlen(path) >= PATH_MAX_BYTES)
        command_refuse(command, -ENAMETOOLONG, "the path of disk '%s' is too long", name);
    if (strlen(uuid) >= sizeof(disk->uuid) || size_bytes > DISK_BYTES_MAX)
        command_refuse(command, -EINVAL, "disk '%s' cannot be as it is described", name);
    if (old && old->state == DISK_RETIRED)
        old = NULL; /* another disk has its place now */
    if (old && strcmp(old->uuid, uuid) != 0)
        command_refuse(command, -EEXIST, "node %s has a disk called '%s' already", node->name,
                       name);
    if (node && !old &&
        disks_of_node(database, node->base.id, disks, NODE_DISKS_MAX) == NODE_DISKS_MAX)
        command_refuse(command, -ENOSPC, "a node has at most %d disks", NODE_DISKS_MAX);
    if (command_refused(command))
        return;
    if (old) {
        command->result->reply = json_pack("{s:I}", "disk", (json_int_t)old->base.id);
        return;
    }
    if (database_disk_of(database, node->base.id, name))
        database_remove(database, TABLE_DISK,
                        database_disk_of(database, node->base.id, name)->base.id);
    disk = record_new(TABLE_DISK, database_new_id(database));
    if (!disk)
        abort();
    disk->node = node->base.id;
    SET_TEXT(disk->name, name);
    SET_TEXT(disk->path, path);
    SET_TEXT(disk->uuid, uuid);
    SET_TEXT(disk->reason, "being claimed");
    disk->role = role;
    disk->media = media;
    disk->size_bytes = size_bytes;
    disk->state = DISK_FAILED; /* until disk.ready */
    database_put(database, TABLE_DISK, disk);
    command->result->reply = json_pack("{s:I}", "disk", (json_int_t)disk->base.id);
}

/* {disk, extents, log_bytes}: the disk is formatted, open and can be placed on. log_bytes: its own
 * log, or all the logs of a cache disk, which has no extents. */
static void disk_ready(struct command *command)
{
    struct disk_record *disk = command_record(command, "disk", TABLE_DISK);
    uint64_t extents = command_u64(command, "extents");
    uint64_t log_bytes = command_u64(command, "log_bytes");
    const struct cluster_record *cluster = database_cluster(command->database);

    if (disk && disk->state != DISK_FAILED && disk->state != DISK_OK)
        command_refuse(command, -EBUSY, "disk %s is being retired", disk->name);
    if (disk && (extents < disk->extents || extents > DISK_EXTENTS_MAX ||
                 extents > disk->size_bytes / cluster->extent_bytes))
        command_refuse(command, -EINVAL, "disk %s has no room for %llu extents, or had more",
                       disk->name, (unsigned long long)extents);
    if (command_refused(command))
        return;
    disk->state = DISK_OK;
    disk->reason[0] = '\0';
    disk->extents = extents;
    disk->log_bytes = log_bytes;
    database_put(command->database, TABLE_DISK, disk);
}

/* {disk, reason}: the medium failed, or its log is damaged: all its columns are stale (I3); those
 * of a failed disk get new places (repair.c in s2d/node). */
static void disk_failed(struct command *command)
{
    struct disk_record *disk = command_record(command, "disk", TABLE_DISK);
    const char *reason = command_text(command, "reason");
    bool keeps_serving = command_bool_or(command, "keeps_serving", false);
    uint64_t id;

    if (command_refused(command))
        return;
    id = disk->base.id;
    if (!keeps_serving && disk->state == DISK_OK)
        disk->state = DISK_FAILED;
    SET_TEXT(disk->reason, reason);
    database_put(command->database, TABLE_DISK, disk);
    database_add_event(command, SEVERITY_ERROR, "disk.failed", disk->name, "disk %s: %s",
                       disk->name, reason);
    /* A failed one does not join anyway; one that fails while it is retired would. */
    if (keeps_serving || disk->state != DISK_FAILED)
        database_void_in_sync(command, id);
    database_exclude(command, &id, 1, 0);
}

/* A volume of one copy that has data on the disk: it cannot be moved off. NULL: there is none. */
static const struct volume_record *simple_volume_on(const struct database *database, uint64_t disk)
{
    const struct slab_record *slab;

    for (size_t i = 0; (slab = database_at(database, TABLE_SLAB, i)); i++) {
        const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, slab->vdisk);

        if (slab->column_count == 1 && slab->columns[0].disk == disk && vdisk)
            return database_find(database, TABLE_VOLUME, vdisk->volume);
    }
    return NULL;
}

/* {disk, empty}: retiring: the leader moves its columns away, and says it again when it holds none:
 * retired. Of a cache disk its node moves the logs away, and says `empty`. */
static void disk_retire(struct command *command)
{
    struct disk_record *disk = command_record(command, "disk", TABLE_DISK);
    const struct volume_record *simple =
        disk ? simple_volume_on(command->database, disk->base.id) : NULL;
    bool empty = command_bool_or(command, "empty", false);

    if (simple)
        command_refuse(command, -EBUSY,
                       "volume %s keeps one copy only, and part of it on disk %s: delete the "
                       "volume first",
                       simple->name, disk->name);
    if (command_refused(command) || disk->state == DISK_RETIRED)
        return;
    if (disk->state == DISK_FAILED)
        empty = true; /* nothing is on it any more that anybody believes */
    disk->state = DISK_RETIRING;
    if (disk->role == DISK_ROLE_CACHE
            ? empty
            : database_used_extents(command->database, disk->base.id) == 0) {
        disk->state = DISK_RETIRED;
        database_add_event(command, SEVERITY_INFORMATION, "disk.retired", disk->name,
                           "disk %s holds nothing any more: it can be taken out", disk->name);
    }
    database_put(command->database, TABLE_DISK, disk);
}

/* {disk}: its claim was refused: as if it had never been asked for. One that has been ready stays.
 */
static void disk_unclaim(struct command *command)
{
    const struct disk_record *disk = command_record(command, "disk", TABLE_DISK);

    if (disk && (disk->extents > 0 || disk->log_bytes > 0))
        command_refuse(command, -EBUSY, "disk %s is in the pool: retire it", disk->name);
    if (!command_refused(command))
        database_remove(command->database, TABLE_DISK, disk->base.id);
}

const struct verb cluster_verbs[] = {
    {"cluster.create", cluster_create}, {"cluster.set", cluster_set},
    {"token.create", token_create},     {"node.join", node_join},
    {"node.started", node_started},     {"node.down", node_down},
    {"node.set_state", node_set_state}, {"node.evict", node_evict},
    {"pool.create", pool_create},       {"pool.set", pool_set},
    {"disk.claim", disk_claim},         {"disk.ready", disk_ready},
    {"disk.failed", disk_failed},       {"disk.retire", disk_retire},
    {"disk.unclaim", disk_unclaim},     {NULL, NULL},
};
