/* Life of a node, and the coroutine that brings what is into line with what the database says. */
#include <stdarg.h>
#include <stdio.h>

#include "csv-export/csv.h"
#include "resiliency/store_client.h"
#include "resiliency/store_server.h"
#include "s2d/node/node_internal.h"

#define IDENTITY_KEY "node/identity"
#define OWNER_BUFFER_BYTES (64 * MIB)
#define STORE_BUFFER_BYTES (32 * MIB)
#define COLD_START_GRACE_NS (30 * SEC)
#define VM_RESTART_DELAY_MS 30000

/* ---- small things that every part uses ---- */

void node_say(struct node_message *message, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vsnprintf(message->text, sizeof(message->text), format, list);
    va_end(list);
}

int node_explain(const struct command_result *result, struct node_message *message)
{
    if (result->code < 0)
        node_say(message, "%s", result->message);
    return result->code;
}

void node_reconcile_soon(struct node *node)
{
    node->reconcile_again = true;
    co_cond_signal(&node->reconcile);
}

bool node_spawn(struct node *node, const char *name, co_fn *fn, void *arg)
{
    int r = co_group_spawn(&node->group, node->io, name, fn, arg);

    if (r < 0)
        log_error(node->io, "node", "no memory for a coroutine", "name=%s", name);
    return r == 0;
}

void node_fatal(struct node *node, const char *reason)
{
    log_error(node->io, "node", "this node cannot go on", "reason=\"%s\"", reason);
    if (node->options.on_fatal)
        node->options.on_fatal(node->options.arg, reason);
}

bool node_lease_held(struct node *node)
{
    return node->liveness && liveness_lease_held(node->liveness);
}

const struct node_record *node_record_of(const struct node *node, uint64_t id)
{
    return database_find(consensus_database(node->consensus), TABLE_NODE, id);
}

/* ---- identity ---- */

struct kv_job {
    struct node *node;
    struct kv_batch batch;
    int result;
};

bool node_take_number(const json_t *json, uint64_t *ret_number)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0 ||
        json_integer_value(json) > (json_int_t)RAFT_NUMBER_MAX)
        return false;
    *ret_number = (uint64_t)json_integer_value(json);
    return true;
}

static bool take_hex(const json_t *json, uint8_t *ret_bytes, size_t count)
{
    const char *hex = json_string_value(json);

    return hex && hex_to_bytes(hex, ret_bytes, count) == 0;
}

static int read_identity(void *arg, const char *key, const void *value, size_t bytes)
{
    struct node_identity *identity = arg;
    json_t *json = json_parse(value, bytes);
    bool sound = node_take_number(json_object_get(json, "node"), &identity->node) &&
                 node_take_number(json_object_get(json, "start_counter"), &identity->start_counter);

    (void)key;
    if (sound && identity->node != 0)
        sound = take_hex(json_object_get(json, "cluster"), identity->cluster,
                         sizeof(identity->cluster)) &&
                take_hex(json_object_get(json, "key"), identity->key, KEY_BYTES);
    identity->peers = json_incref(json_object_get(json, "peers"));
    json_decref(json);
    return sound ? 0 : -EBADMSG;
}

static void load_identity(void *arg)
{
    struct kv_job *job = arg;

    job->result = kv_each(job->node->options.kv, IDENTITY_KEY, read_identity, &job->node->identity);
}

static void save_identity(void *arg)
{
    struct kv_job *job = arg;

    job->result = kv_write(job->node->options.kv, &job->batch);
}

int co_node_save_identity(struct node *node)
{
    struct kv_job job = {.node = node};
    char cluster[33], key[2 * KEY_BYTES + 1], *text;
    json_t *json;

    bytes_to_hex(node->identity.cluster, sizeof(node->identity.cluster), cluster);
    bytes_to_hex(node->identity.key, KEY_BYTES, key);
    json = json_pack("{s:I,s:I,s:s,s:s,s:O*}", "node", (json_int_t)node->identity.node,
                     "start_counter", (json_int_t)node->identity.start_counter, "cluster", cluster,
                     "key", key, "peers", node->identity.peers);
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text)
        return -ENOMEM;
    kv_batch_init(&job.batch);
    kv_put(&job.batch, IDENTITY_KEY, text, strlen(text));
    free(text);
    co_offload(node->io, save_identity, &job);
    kv_batch_done(&job.batch);
    return job.result;
}

/* ---- what the layers tell ---- */

static void on_up(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct node *node = arg;

    log_info(node->io, "node", "connected", "peer=%llu channel=%s", (unsigned long long)peer,
             channel == BUS_CONTROL ? "control" : "data");
    if (node->liveness)
        liveness_connected(node->liveness, peer);
    if (node->store_client)
        store_client_peer_changed(node->store_client, peer);
}

static void on_down(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct node *node = arg;

    log_info(node->io, "node", "connection ended", "peer=%llu channel=%s", (unsigned long long)peer,
             channel == BUS_CONTROL ? "control" : "data");
    if (node->store_server)
        store_server_peer_down(node->store_server, peer);
    if (node->store_client)
        store_client_peer_changed(node->store_client, peer);
}

static void on_refused(void *arg, uint64_t peer, unsigned times, uint64_t over_ns)
{
    struct node *node = arg;

    if (node->liveness)
        liveness_refused(node->liveness, peer, times, over_ns);
}

struct forget_task {
    struct node *node;
    uint64_t client;
};

static void forget_main(void *arg)
{
    struct forget_task task = *(struct forget_task *)arg;

    free(arg);
    co_csv_forget_client(task.node->csv, task.client);
}

/* What a node that is down had open here is closed. If it was only cut off, it opens it again by
 * itself. */
static void forget_clients(struct node *node, const struct database_change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct node_record *record =
            changes[i].table == TABLE_NODE ? node_record_of(node, changes[i].id) : NULL;
        struct forget_task *task;

        if (!record || record->state != NODE_DOWN || node->stopping)
            continue;
        task = malloc(sizeof(*task));
        if (!task)
            return; /* its next start is noticed as well */
        *task = (struct forget_task){.node = node, .client = record->base.id};
        if (!node_spawn(node, "forget-client", forget_main, task))
            free(task);
    }
}

/* A node that is told that it is down is up again at once if it lives: a look at the table from
 * time to time would miss that it ever was down, and declare it again and again. */
static void settle_down(struct node *node, const struct database_change *changes, size_t count)
{
    for (size_t i = 0; node->liveness && i < count; i++) {
        const struct node_record *record =
            changes[i].table == TABLE_NODE ? node_record_of(node, changes[i].id) : NULL;

        if (record && record->state == NODE_DOWN)
            liveness_node_down(node->liveness, record->base.id);
    }
}

static void on_applied(void *arg, const struct database_change *changes, size_t count)
{
    struct node *node = arg;

    if (!node->consensus)
        return; /* nothing is open yet */
    settle_down(node, changes, count);
    node_volumes_applied(node, changes, count);
    forget_clients(node, changes, count);
    if (node->options.on_change)
        node->options.on_change(node->options.arg, changes, count);
    node_reconcile_soon(node);
}

static void on_loaded(void *arg)
{
    struct node *node = arg;

    node_volumes_applied(node, NULL, 0);
    if (node->options.on_change)
        node->options.on_change(node->options.arg, NULL, 0);
    node_reconcile_soon(node);
}

/* Who leads without having heard another leader since its start comes out of a cluster that was
 * down. (How long the voters heard nobody says nothing: they count from their own start.) */
static void on_role(void *arg, const struct raft_role *role)
{
    struct node *node = arg;

    if (node->liveness)
        liveness_role(node->liveness, role);
    if (role->leader != 0 && role->leader != node->identity.node)
        node->heard_leader = true;
    if (role->state != RAFT_LEADER) {
        node->led_ns = 0;
    } else if (node->led_ns == 0) {
        node->led_ns = io_now_ns(node->io);
        node->leader_cold = !node->heard_leader;
        memset(node->downs, 0, sizeof(node->downs)); /* others declared since we led last */
    }
    node_reconcile_soon(node);
}

static void on_lost(void *arg, uint64_t peer)
{
    struct node *node = arg;

    log_error(node->io, "node", "a node came back without what it had promised to keep",
              "node=%llu action=\"evict it and join it again\"", (unsigned long long)peer);
}

static void on_failure(void *arg, int error)
{
    (void)error;
    node_fatal(arg, "the store of the cluster database failed");
}

static void on_lease(void *arg, bool held)
{
    struct node *node = arg;

    if (held && !node->booted) {
        node->booted = true;
        node->booted_ns = io_now_ns(node->io);
        node_volumes_boot(node);
    }
    if (!held && node->options.on_lease)
        node->options.on_lease(node->options.arg, 0);
    node_reconcile_soon(node);
}

static void on_renewed(void *arg, uint64_t expires_ns)
{
    struct node *node = arg;

    if (node->options.on_lease)
        node->options.on_lease(node->options.arg, expires_ns);
}

/* ---- reconciling ---- */

/* The others' database may have been told of an older life of this node. */
static void co_tell_started(struct node *node)
{
    const struct node_record *record = node_record_of(node, node->identity.node);
    struct command_result result;

    if (!record || (record->start_counter == node->identity.start_counter &&
                    record->state != NODE_DOWN && strcmp(record->address, node->listen) == 0))
        return;
    co_node_propose(node,
                    json_pack("{s:s,s:I,s:I,s:s}", "verb", "node.started", "node",
                              (json_int_t)node->identity.node, "start_counter",
                              (json_int_t)node->identity.start_counter, "address", node->listen),
                    &result);
    command_result_done(&result);
}

static void reconcile_main(void *arg)
{
    struct node *node = arg;

    while (!node->stopping && !co_cancelled()) {
        if (!node->reconcile_again) {
            int r = co_cond_wait_until(&node->reconcile, io_now_ns(node->io) + RECONCILE_NS);

            if (r == -ECANCELED)
                break;
        }
        if (node->stopping)
            break;
        node->reconcile_again = false;
        node_reconcile_peers(node);
        co_tell_started(node);
        if (node->stopping)
            break;
        co_node_reconcile_disks(node);
        if (node->stopping)
            break;
        node_reconcile_volumes(node);
        node_jobs_pass(node);
        if (consensus_leads(node->consensus))
            node_lead_pass(node);
        co_cond_broadcast(&node->changed);
    }
}

int co_node_propose(struct node *node, json_t *command, struct command_result *ret_result)
{
    return co_node_propose_in(node, 0, command, ret_result);
}

int co_node_propose_in(struct node *node, uint64_t term, json_t *command,
                       struct command_result *ret_result)
{
    int r;

    *ret_result = (struct command_result){.code = -ENOMEM};
    if (!command)
        return -ENOMEM;
    if (!node->member || node->stopping) {
        ret_result->code = node->stopping ? -ECANCELED : -ENOENT;
        snprintf(ret_result->message, sizeof(ret_result->message), "%s",
                 node->stopping ? "this node is stopping"
                                : "this node belongs to no cluster yet: 's2d cluster create NAME' "
                                  "or 's2d cluster join'");
        json_decref(command);
        return ret_result->code;
    }
    json_object_set_new(command, "time_ns", json_integer((json_int_t)io_wall_ns(node->io)));
    r = co_consensus_propose_in(node->consensus, term, command, PROPOSE_NS, ret_result);
    json_decref(command);
    return r;
}

/* ---- life ---- */

static int co_open_bus(struct node *node)
{
    struct bus_options options = {
        .node = node->identity.node,
        .start_counter = node->identity.start_counter,
        .key = node->identity.key,
        .key_bytes = KEY_BYTES,
        .listen = node->listen,
        .metrics = node->metrics,
        .find_key = node_find_key,
        .on_up = on_up,
        .on_down = on_down,
        .on_refused = on_refused,
        .arg = node,
    };
    int r;

    memcpy(options.cluster, node->identity.cluster, sizeof(options.cluster));
    r = bus_new(node->io, &options, &node->bus);
    if (r < 0)
        return r;
    r = buffer_pool_new("store", STORE_BUFFER_BYTES, &node->store_buffers);
    if (r == 0)
        r = store_server_new(node->io, node->bus, node->store_buffers, &node->store_server);
    return r < 0 ? r : store_client_new(node->io, node->bus, &node->store_client);
}

static int co_open_consensus(struct node *node)
{
    struct consensus_options options = {
        .node = node->identity.node,
        .start_counter = node->identity.start_counter,
        .bus = node->bus,
        .kv = node->options.kv,
        .on_applied = on_applied,
        .on_loaded = on_loaded,
        .on_role = on_role,
        .on_lost = on_lost,
        .on_failure = on_failure,
        .arg = node,
    };

    return co_consensus_open(node->io, &options, &node->consensus);
}

static int open_liveness(struct node *node)
{
    struct liveness_options options = {
        .node = node->identity.node,
        .start_counter = node->identity.start_counter,
        .bus = node->bus,
        .consensus = node->consensus,
        .on_lease = on_lease,
        .on_renewed = on_renewed,
        .on_down = node_declare_down,
        .arg = node,
    };

    return liveness_new(node->io, &options, &node->liveness);
}

static bool may_answer(void *arg)
{
    return node_lease_held(arg);
}

static int open_csv(struct node *node)
{
    struct csv_options options = {
        .node = node->identity.node,
        .start_counter = node->identity.start_counter,
        .bus = node->bus,
        .metrics = node->metrics,
        .authorize = node_authorize,
        .disk_with_name = node_disk_with_name,
        .may_answer = may_answer,
        .arg = node,
    };

    return csv_new(node->io, &options, &node->csv);
}

int co_node_start_member(struct node *node)
{
    int r;

    r = co_open_bus(node);
    if (r == 0)
        r = buffer_pool_new("owner", OWNER_BUFFER_BYTES, &node->owner_buffers);
    if (r == 0)
        r = open_csv(node);
    if (r == 0)
        r = co_open_consensus(node);
    if (r < 0)
        return r;
    node_reconcile_peers(node); /* they dial us already: known ones are let in at once */
    r = co_node_disks_start(node);
    if (r == 0)
        r = open_liveness(node);
    if (r < 0)
        return r;
    node->member = true;
    node_follow_volumes(node);
    node_membership_start(node);
    node_reconcile_soon(node);
    return node_spawn(node, "reconcile", reconcile_main, node) ? 0 : -ENOMEM;
}

static struct node *node_new(struct io *io, const struct node_options *options)
{
    struct node *node = calloc(1, sizeof(*node));

    if (!node)
        return NULL;
    node->io = io;
    node->options = *options;
    snprintf(node->name, sizeof(node->name), "%s", options->name);
    snprintf(node->listen, sizeof(node->listen), "%s", options->listen);
    snprintf(node->folder, sizeof(node->folder), "%s", options->folder);
    node->options.name = node->name;
    node->options.listen = node->listen;
    node->options.folder = node->folder;
    if (node->options.cold_start_grace_ns == 0)
        node->options.cold_start_grace_ns = COLD_START_GRACE_NS;
    if (node->options.vm_restart_delay_ms == 0)
        node->options.vm_restart_delay_ms = VM_RESTART_DELAY_MS;
    pace_init(&node->pace,
              options->rebuild_floor_bytes ? options->rebuild_floor_bytes : PACE_FLOOR_BYTES);
    co_group_init(&node->group);
    co_group_init(&node->volumes_group);
    co_cond_init(&node->reconcile);
    co_cond_init(&node->changed);
    list_init(&node->disks);
    list_init(&node->disks_gone);
    list_init(&node->claiming);
    list_init(&node->volumes);
    list_init(&node->leader_tasks);
    if (metrics_new(&node->metrics) < 0) {
        free(node);
        return NULL;
    }
    return node;
}

int co_node_start(struct io *io, const struct node_options *options, struct node **ret_node)
{
    struct node *node = node_new(io, options);
    struct kv_job job = {.node = node};
    int r;

    if (!node)
        return -ENOMEM;
    co_offload(io, load_identity, &job);
    r = job.result;
    if (r == 0) {
        node->identity.start_counter++;
        r = co_node_save_identity(node);
    }
    if (r == 0 && node->identity.node != 0)
        r = co_node_start_member(node);
    if (r < 0) {
        co_node_stop(node, false);
        return r;
    }
    *ret_node = node;
    return 0;
}

/* What a callback may still ask for is there until its pointer is NULL. */
static void co_close_parts(struct node *node)
{
    co_csv_close(node->csv);
    node->csv = NULL;
    co_node_disks_stop(node);
    liveness_free(take_ptr(node->liveness));
    co_consensus_close(node->consensus);
    node->consensus = NULL;
    co_store_client_free(take_ptr(node->store_client));
    store_server_free(take_ptr(node->store_server));
    co_bus_close(node->bus);
}

void co_node_stop(struct node *node, bool handover)
{
    if (!node)
        return;
    if (handover && node->member) {
        node->leaving = true;
        co_node_volumes_stop(node, true);
    }
    node->stopping = true;
    co_cond_broadcast(&node->reconcile);
    co_cond_broadcast(&node->changed);
    if (handover && node->member && consensus_leads(node->consensus)) {
        int r = consensus_transfer(node->consensus);

        (void)r; /* nobody to hand over to: the others elect */
    }
    if (node->consensus)
        consensus_end_proposals(node->consensus); /* without a quorum they would hold us up */
    if (node->liveness)
        liveness_give_up(node->liveness);
    if (node->member)
        co_node_volumes_stop(node, false);
    co_group_wait(&node->group);
    co_close_parts(node);
    buffer_pool_free(node->store_buffers);
    buffer_pool_free(node->owner_buffers);
    metrics_free(node->metrics);
    json_decref(node->identity.peers);
    free(node);
}

bool node_is_member(const struct node *node)
{
    return node->member;
}

uint64_t node_id(const struct node *node)
{
    return node->identity.node;
}

const char *node_name(const struct node *node)
{
    return node->name;
}

const struct node_options *node_options(const struct node *node)
{
    return &node->options;
}

struct io *node_io(struct node *node)
{
    return node->io;
}

struct metrics *node_metrics(struct node *node)
{
    return node->metrics;
}

struct consensus *node_consensus(struct node *node)
{
    return node->consensus;
}

struct database *node_database(struct node *node)
{
    return node->member ? consensus_database(node->consensus) : NULL;
}

struct liveness *node_liveness(struct node *node)
{
    return node->liveness;
}

struct csv *node_csv(struct node *node)
{
    return node->csv;
}
