/* The cluster and its nodes. */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/bus/bus.h"
#include "s2d/cluster/consensus.h"
#include "s2d/node/api_private.h"

#define POLL_NS (100 * MS)

/* ---- becoming a member ---- */

static void co_create(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text(&arguments, "name");
    struct node_message message = {""};
    int r;

    if (arguments.refused)
        return;
    r = co_node_create_cluster(context->node, name, &message);
    if (r < 0) {
        api_answer_failure(response, r, message.text);
        return;
    }
    api_routes_start(context);
    api_answer_json(response,
                    json_pack("{s:s,s:s}", "name", name, "node", node_name(context->node)));
}

static void co_join(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"address", "token", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *address = api_text(&arguments, "address"), *token = api_text(&arguments, "token");
    struct node_message message = {""};
    const struct cluster_record *cluster;
    int r;

    if (arguments.refused)
        return;
    r = co_node_join(context->node, address, token, &message);
    if (r < 0) {
        api_answer_failure(response, r, message.text);
        return;
    }
    api_routes_start(context);
    cluster = database_cluster(node_database(context->node));
    api_answer_json(response, json_pack("{s:s,s:s}", "name", cluster ? cluster->name : "", "node",
                                        node_name(context->node)));
}

static void co_token(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    struct node_message message = {""};
    char token[TOKEN_TEXT_MAX];
    int r;

    (void)request;
    if (!api_database(context, response))
        return;
    r = co_node_make_token(context->node, token, &message);
    if (r < 0)
        api_answer_failure(response, r, message.text);
    else
        api_answer_json(response, json_pack("{s:s}", "token", token));
}

/* ---- quorum ---- */

static const char *role_word(enum raft_member_role role)
{
    switch (role) {
    case RAFT_VOTER:
        return "voter";
    case RAFT_LEARNER:
        return "stand-by";
    case RAFT_WITNESS:
        return "witness";
    case RAFT_NO_MEMBER:
        break;
    }
    return "none";
}

void api_quorum(struct api_context *context, struct health_quorum *ret_quorum)
{
    struct raft_status status;

    raft_status(consensus_raft(node_consensus(context->node)), &status);
    *ret_quorum = (struct health_quorum){.votes = raft_configuration_votes(&status.configuration),
                                         .has_leader = status.role.leader != 0};
    for (uint32_t i = 0; i < status.configuration.count; i++) {
        const struct raft_member *member = &status.configuration.members[i];

        if (member->role == RAFT_VOTER || member->role == RAFT_WITNESS)
            ret_quorum->votes_up += api_node_answers(context, member->id);
    }
}

bool api_has_quorum(struct api_context *context)
{
    struct health_quorum quorum;

    api_quorum(context, &quorum);
    return quorum.has_leader && quorum.votes_up >= quorum.votes / 2 + 1;
}

static json_t *member_json(struct api_context *context, const struct raft_member *member,
                           uint64_t leader)
{
    const struct database *database = node_database(context->node);
    const struct node_record *node = database_find(database, TABLE_NODE, member->id);

    return json_pack("{s:o,s:s,s:s,s:b,s:b}", "node", api_node_name(database, member->id), "role",
                     role_word(member->role), "state", node ? node_state_words[node->state] : "",
                     "answers", api_node_answers(context, member->id), "leads",
                     member->id == leader);
}

static void co_quorum(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    const struct database *database = api_database(context, response);
    struct health_quorum quorum;
    struct raft_status status;
    json_t *members;

    (void)request;
    if (!database)
        return;
    api_quorum(context, &quorum);
    raft_status(consensus_raft(node_consensus(context->node)), &status);
    members = json_array();
    for (uint32_t i = 0; i < status.configuration.count; i++)
        json_array_append_new(
            members, member_json(context, &status.configuration.members[i], status.role.leader));
    api_answer_json(
        response,
        json_pack("{s:b,s:o,s:I,s:I,s:I,s:I,s:I,s:s,s:o}", "has_quorum", api_has_quorum(context),
                  "leader", api_node_name(database, status.role.leader), "term",
                  (json_int_t)status.role.term, "votes", (json_int_t)quorum.votes, "needed",
                  (json_int_t)(quorum.votes / 2 + 1), "votes_up", (json_int_t)quorum.votes_up,
                  "commit_index", (json_int_t)status.commit_index, "answered_by",
                  node_name(context->node), "members", members));
}

/* ---- health ---- */

struct faults {
    enum health worst;
    json_t *list;
};

static void note(struct faults *faults, const struct health_verdict *verdict, const char *subject)
{
    const struct health_state *state = verdict->state;

    faults->worst = MAX(faults->worst, state->health);
    if (state->health == HEALTH_HEALTHY || !faults->list)
        return;
    json_array_append_new(faults->list,
                          json_pack("{s:s,s:s,s:o,s:s,s:o,s:s}", "health",
                                    health_words[state->health], "kind", state->kind, "subject",
                                    api_json_text(subject), "state", state->state, "text",
                                    api_json_text(verdict->text), "action", state->action));
}

static void note_nodes_and_disks(struct faults *faults, const struct database *database,
                                 const struct api_reports *reports)
{
    const struct node_record *node;
    const struct disk_record *disk;
    struct health_verdict verdict;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        health_of_node(node, &verdict);
        note(faults, &verdict, node->name);
    }
    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        const struct node_record *host = database_find(database, TABLE_NODE, disk->node);
        char name[2 * NAME_MAX_BYTES];

        snprintf(name, sizeof(name), "%s:%s", host ? host->name : "?", disk->name);
        api_disk_health(database, disk, reports, &verdict);
        note(faults, &verdict, name);
    }
}

static void note_volumes_and_vms(struct faults *faults, const struct database *database,
                                 const struct api_reports *reports)
{
    const struct volume_record *volume;
    const struct vm_record *vm;
    struct health_verdict verdict;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        if (volume->state == VOLUME_DELETING)
            continue;
        api_volume_health(database, volume, reports, &verdict);
        note(faults, &verdict, volume->name);
    }
    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        api_vm_health(database, vm, reports, &verdict);
        note(faults, &verdict, vm->name);
    }
}

enum health co_api_cluster_health(struct api_context *context, json_t **ret_faults)
{
    struct faults faults = {.list = ret_faults ? json_array() : NULL};
    struct health_verdict verdict;
    struct health_quorum quorum;
    struct api_reports reports;
    const struct database *database;

    co_api_gather(context, &reports);
    database = node_database(context->node); /* as it is after the questions */
    api_quorum(context, &quorum);
    health_of_quorum(&quorum, &verdict);
    note(&faults, &verdict, "quorum");
    health_of_pool(database, &verdict);
    note(&faults, &verdict, "pool");
    note_nodes_and_disks(&faults, database, &reports);
    note_volumes_and_vms(&faults, database, &reports);
    api_reports_done(&reports);
    if (ret_faults)
        *ret_faults = faults.list;
    return faults.worst;
}

static void co_health(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    enum health health;
    json_t *faults;

    (void)request;
    if (!api_database(context, response))
        return;
    health = co_api_cluster_health(context, &faults);
    api_answer_json(response, json_pack("{s:s,s:b,s:o}", "health", health_words[health],
                                        "has_quorum", api_has_quorum(context), "faults", faults));
}

/* ---- status ---- */

static size_t count_nodes_up(const struct database *database)
{
    const struct node_record *node;
    size_t up = 0;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++)
        up += node->state != NODE_DOWN;
    return up;
}

static size_t count_volumes(const struct database *database)
{
    const struct volume_record *volume;
    size_t count = 0;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++)
        count += volume->state != VOLUME_DELETING;
    return count;
}

static size_t count_vms_running(const struct database *database)
{
    const struct vm_record *vm;
    size_t count = 0;

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++)
        count += vm->incarnation > vm->ended;
    return count;
}

/* Never the record itself: it holds the cluster's key. */
static json_t *cluster_json(struct api_context *context, enum health health)
{
    const struct database *database = node_database(context->node);
    const struct cluster_record *cluster = database_cluster(database);
    struct health_space space = health_space_of(database);
    struct raft_status status;

    raft_status(consensus_raft(node_consensus(context->node)), &status);
    return json_pack(
        "{s:s,s:s,s:o,s:s,s:b,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s}", "name",
        cluster->name, "uuid", cluster->uuid, "created", api_time(cluster->created_ns), "health",
        health_words[health], "has_quorum", api_has_quorum(context), "leader",
        api_node_name(database, status.role.leader), "nodes",
        (json_int_t)database_count(database, TABLE_NODE), "nodes_up",
        (json_int_t)count_nodes_up(database), "disks",
        (json_int_t)database_count(database, TABLE_DISK), "extent_bytes",
        (json_int_t)cluster->extent_bytes, "pool_bytes", (json_int_t)space.size_bytes,
        "pool_used_bytes", (json_int_t)space.used_bytes, "volumes",
        (json_int_t)count_volumes(database), "vms", (json_int_t)database_count(database, TABLE_VM),
        "vms_running", (json_int_t)count_vms_running(database), "vm_restart_delay_ms",
        (json_int_t)cluster->vm_restart_delay_ms, "answered_by", node_name(context->node));
}

static void co_status(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    enum health health;

    (void)request;
    if (!api_database(context, response))
        return;
    health = co_api_cluster_health(context, NULL);
    api_answer_json(response, cluster_json(context, health));
}

const struct api_route api_cluster_routes[] = {
    {API_GET, "/v1/cluster", co_status},
    {API_POST, "/v1/cluster", co_create},
    {API_POST, "/v1/cluster/join", co_join},
    {API_POST, "/v1/cluster/token", co_token},
    {API_GET, "/v1/cluster/quorum", co_quorum},
    {API_GET, "/v1/cluster/health", co_health},
    {0, NULL, NULL},
};

/* ---- nodes ---- */

static json_t *names_of_volumes(const struct database *database, uint64_t node)
{
    const struct volume_record *volume;
    json_t *names = json_array();

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);

        if (vdisk && vdisk->owner == node && volume->state != VOLUME_DELETING)
            json_array_append_new(names, json_string(volume->name));
    }
    return names;
}

static json_t *names_of_vms(const struct database *database, uint64_t node)
{
    const struct vm_record *vm;
    json_t *names = json_array();

    for (size_t i = 0; (vm = database_at(database, TABLE_VM, i)); i++) {
        if (vm->node == node && vm->incarnation > vm->ended)
            json_array_append_new(names, json_string(vm->name));
    }
    return names;
}

static size_t count_disks(const struct database *database, uint64_t node)
{
    const struct disk_record *disk;
    size_t count = 0;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++)
        count += disk->node == node;
    return count;
}

static json_t *node_json(struct api_context *context, const struct node_record *node)
{
    const struct database *database = node_database(context->node);
    json_t *object = api_record_json(TABLE_NODE, node);
    json_t *volumes = names_of_volumes(database, node->base.id);
    json_t *vms = names_of_vms(database, node->base.id);
    struct health_verdict verdict;
    struct raft_status status;

    if (!object)
        return NULL;
    raft_status(consensus_raft(node_consensus(context->node)), &status);
    health_of_node(node, &verdict);
    api_set_health(object, &verdict);
    json_object_set_new(
        object, "vote",
        json_string(role_word(raft_configuration_role(&status.configuration, node->base.id))));
    json_object_set_new(object, "leads", json_boolean(status.role.leader == node->base.id));
    json_object_set_new(object, "disks",
                        json_integer((json_int_t)count_disks(database, node->base.id)));
    json_object_set_new(object, "volumes", json_integer((json_int_t)json_array_size(volumes)));
    json_object_set_new(object, "vms", json_integer((json_int_t)json_array_size(vms)));
    json_object_set_new(object, "volume_names", volumes);
    json_object_set_new(object, "vm_names", vms);
    return object;
}

static void co_list_nodes(void *arg, const struct api_request *request,
                          struct api_response *response)
{
    struct api_context *context = arg;
    const struct database *database = api_database(context, response);
    const struct node_record *node;
    json_t *list;

    (void)request;
    if (!database)
        return;
    list = json_array();
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++)
        json_array_append_new(list, node_json(context, node));
    api_answer_json(response, list);
}

static void co_show_node(void *arg, const struct api_request *request,
                         struct api_response *response)
{
    const struct node_record *node = api_record(arg, request, response, TABLE_NODE, "node");

    if (node)
        api_answer_json(response, node_json(arg, node));
}

static int co_set_state(struct api_context *context, uint64_t node, enum node_state state,
                        struct api_response *response)
{
    return co_api_propose(context,
                          json_pack("{s:s,s:I,s:s}", "verb", "node.set_state", "node",
                                    (json_int_t)node, "state", node_state_words[state]),
                          response, NULL);
}

/* A VM that runs there cannot be taken along by this version. */
static bool refuse_running_vms(struct api_context *context, const struct node_record *node,
                               struct api_response *response)
{
    json_t *names = names_of_vms(node_database(context->node), node->base.id);
    const char *first = json_string_value(json_array_get(names, 0));

    if (first)
        api_answer_error(response, -EBUSY,
                         "%zu VMs run on node %s, %s among them, and this version does not "
                         "migrate: stop them first, and start them with --on NODE",
                         json_array_size(names), node->name, first);
    json_decref(names);
    return first != NULL;
}

/* The node that is up and owns the fewest volumes; 0: none but `without`. */
static uint64_t least_loaded(const struct database *database, uint64_t without)
{
    size_t fewest = SIZE_MAX;
    const struct node_record *node;
    uint64_t best = 0;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        json_t *names;

        if (node->base.id == without || node->state != NODE_UP)
            continue;
        names = names_of_volumes(database, node->base.id);
        if (json_array_size(names) < fewest) {
            fewest = json_array_size(names);
            best = node->base.id;
        }
        json_decref(names);
    }
    return best;
}

static uint64_t owned_volume(const struct database *database, uint64_t node)
{
    const struct volume_record *volume;

    for (size_t i = 0; (volume = database_at(database, TABLE_VOLUME, i)); i++) {
        const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);

        if (vdisk && vdisk->owner == node && volume->state == VOLUME_ONLINE)
            return volume->base.id;
    }
    return 0;
}

/* Returns 0 when it owns none any more, or what was answered. */
static int co_move_volumes_away(struct api_context *context, uint64_t node,
                                struct api_response *response)
{
    uint64_t volume;

    while ((volume = owned_volume(node_database(context->node), node)) != 0) {
        uint64_t to = least_loaded(node_database(context->node), node);
        int r;

        if (to == 0) {
            api_answer_error(response, -EHOSTUNREACH,
                             "no other node is up that could own its volumes");
            return -EHOSTUNREACH;
        }
        r = co_api_move_volume(context, volume, to, response);
        if (r < 0)
            return r;
    }
    return 0;
}

static void co_drain(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    const struct node_record *node = api_record(arg, request, response, TABLE_NODE, "node");
    struct api_response ignored = {0};
    uint64_t id;

    if (!node || refuse_running_vms(context, node, response))
        return;
    id = node->base.id;
    if (co_set_state(context, id, NODE_DRAINING, response) < 0)
        return;
    /* One that was started before the state was known everywhere; none is any more. */
    node = database_find(node_database(context->node), TABLE_NODE, id);
    if ((node && refuse_running_vms(context, node, response)) ||
        co_move_volumes_away(context, id, response) < 0) {
        /* As it was: half a drain helps nobody. */
        (void)!co_set_state(context, id, NODE_UP, &ignored);
        api_response_done(&ignored);
        return;
    }
    if (co_set_state(context, id, NODE_PAUSED, response) < 0)
        return;
    node = database_find(node_database(context->node), TABLE_NODE, id);
    api_answer_json(response, node ? node_json(context, node) : json_object());
}

static void co_resume(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    const struct node_record *node = api_record(arg, request, response, TABLE_NODE, "node");
    uint64_t id = node ? node->base.id : 0;

    if (!node || co_set_state(context, id, NODE_UP, response) < 0)
        return;
    node = database_find(node_database(context->node), TABLE_NODE, id);
    api_answer_json(response, node ? node_json(context, node) : json_object());
}

/* The leader takes it out of Raft when it sees that its record is gone. */
static void co_evict(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    const struct node_record *node = api_record(arg, request, response, TABLE_NODE, "node");

    if (node && co_api_propose(
                    context,
                    json_pack("{s:s,s:I}", "verb", "node.evict", "node", (json_int_t)node->base.id),
                    response, NULL) == 0)
        api_answer_json(response, json_object());
}

static void co_node_metrics(void *arg, const struct api_request *request,
                            struct api_response *response)
{
    const struct node_record *node = api_record(arg, request, response, TABLE_NODE, "node");

    if (node)
        (void)!co_api_forward(arg, node->base.id, API_GET, "/v1/local/metrics", NULL, API_STATUS_NS,
                              response);
}

const struct api_route api_node_routes[] = {
    {API_GET, "/v1/nodes", co_list_nodes},
    {API_GET, "/v1/nodes/{node}", co_show_node},
    {API_POST, "/v1/nodes/{node}/drain", co_drain},
    {API_POST, "/v1/nodes/{node}/resume", co_resume},
    {API_DELETE, "/v1/nodes/{node}", co_evict},
    {API_GET, "/v1/nodes/{node}/metrics", co_node_metrics},
    {0, NULL, NULL},
};
