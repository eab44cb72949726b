/* What all handlers need: the database, records by name, proposals, times, reports of all nodes. */
#include <stdio.h>
#include <time.h>

#include "hv/hv.h"
#include "s2d/node/api_private.h"

static const struct api_route *const tables[] = {
    api_cluster_routes, api_node_routes,     api_disk_routes,
    api_volume_routes,  api_file_routes,     api_vm_routes,
    api_misc_routes,    api_snapshot_routes, NULL,
};
static const struct api_route *const local_tables[] = {api_local_routes, NULL};

const struct api_router *api_routes_router(struct api_context *context)
{
    if (!context->router.tables) {
        list_init(&context->forwarded);
        context->router = (struct api_router){.tables = tables, .arg = context};
        context->local_router = (struct api_router){.tables = local_tables, .arg = context};
    }
    return &context->router;
}

/* ---- what is asked first ---- */

struct database *api_database(struct api_context *context, struct api_response *response)
{
    struct database *database = node_is_member(context->node) ? node_database(context->node) : NULL;

    if (database && database_cluster(database))
        return database;
    if (database)
        api_answer_error(response, -EAGAIN,
                         "the cluster database has not come to this node yet: try again");
    else
        api_answer_error(response, -ENOENT,
                         "this node belongs to no cluster yet: 's2d cluster create NAME', or "
                         "'s2d cluster join ADDRESS --token TOKEN'");
    return NULL;
}

static const char *noun_of(enum table table)
{
    return table == TABLE_VM ? "VM" : table_name(table);
}

const void *api_record(struct api_context *context, const struct api_request *request,
                       struct api_response *response, enum table table, const char *parameter)
{
    const struct database *database = api_database(context, response);
    const char *name = api_parameter(request, parameter);
    const void *record = database && name[0] ? database_find_name(database, table, name) : NULL;

    if (database && !record)
        api_answer_error(response, -ENOENT, "there is no %s '%.64s': 's2d %s list' names all",
                         noun_of(table), name, table_name(table));
    return record;
}

const struct node_record *api_node_named(struct api_context *context, const char *name,
                                         struct api_response *response)
{
    const struct database *database = api_database(context, response);
    const struct node_record *node =
        database ? database_find_name(database, TABLE_NODE, name) : NULL;

    if (database && !node)
        api_answer_error(response, -ENOENT, "there is no node '%.64s': 's2d node list' names all",
                         name);
    return node;
}

/* By its number, or as NODE:NAME. */
static const struct disk_record *find_disk(const struct database *database, const char *text)
{
    const char *colon = strchr(text, ':');
    const struct node_record *node;
    char name[NAME_MAX_BYTES];
    unsigned long long id;
    char *end;

    if (!colon) {
        id = strtoull(text, &end, 10);
        return text[0] >= '0' && text[0] <= '9' && !*end ? database_find(database, TABLE_DISK, id)
                                                         : NULL;
    }
    if ((size_t)(colon - text) >= sizeof(name))
        return NULL;
    memcpy(name, text, colon - text);
    name[colon - text] = '\0';
    node = database_find_name(database, TABLE_NODE, name);
    return node ? database_disk_of(database, node->base.id, colon + 1) : NULL;
}

const struct disk_record *api_disk(struct api_context *context, const struct api_request *request,
                                   struct api_response *response)
{
    const struct database *database = api_database(context, response);
    const char *text = api_parameter(request, "disk");
    const struct disk_record *disk = database ? find_disk(database, text) : NULL;

    if (database && !disk)
        api_answer_error(response, -ENOENT,
                         "there is no disk '%.80s': name it by its number in 's2d disk list', or "
                         "as NODE:NAME",
                         text);
    return disk;
}

void api_answer_failure(struct api_response *response, int error, const char *message)
{
    if (error == -EHOSTUNREACH && !message[0])
        message = "the cluster has no quorum: bring back enough nodes, or mend the network between "
                  "them";
    else if (error == -ETIMEDOUT && !message[0])
        message = "the cluster has not decided in time, perhaps for want of a quorum; whether it "
                  "was done is not known";
    else if (!message[0])
        message = strerror(-error);
    api_answer_error(response, error, "%s", message);
}

int co_api_propose(struct api_context *context, json_t *command, struct api_response *response,
                   json_t **ret_reply)
{
    struct command_result result;
    int r = co_node_propose(context->node, command, &result);

    if (r < 0)
        api_answer_failure(response, r, result.message);
    if (ret_reply)
        *ret_reply = json_incref(result.reply);
    command_result_done(&result);
    return r;
}

/* ---- JSON ---- */

json_t *api_time(uint64_t time_ns)
{
    time_t seconds = (time_t)(time_ns / SEC);
    struct tm broken;
    char date[32], text[48];

    if (time_ns == 0 || !gmtime_r(&seconds, &broken))
        return json_null();
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &broken);
    snprintf(text, sizeof(text), "%s.%03uZ", date, (unsigned)(time_ns % SEC / MS));
    return json_string(text);
}

json_t *api_record_json(enum table table, const void *record)
{
    static const char *const times[] = {"created_ns", "joined_ns", "ended_ns", "time_ns"};
    json_t *object = record_to_json(table, record);

    for (size_t i = 0; object && i < ARRAY_SIZE(times); i++) {
        const json_t *value = json_object_get(object, times[i]);
        char name[16];

        if (!value)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)strlen(times[i]) - 3, times[i]);
        json_object_set_new(object, name, api_time((uint64_t)json_integer_value(value)));
        json_object_del(object, times[i]);
    }
    return object;
}

void api_set_health(json_t *object, const struct health_verdict *verdict)
{
    json_object_set_new(object, "health", json_string(health_words[verdict->state->health]));
    json_object_set_new(object, "operational", json_string(verdict->state->state));
    json_object_set_new(object, "reason", api_json_text(verdict->text));
}

json_t *api_node_name(const struct database *database, uint64_t id)
{
    const struct node_record *node = database_find(database, TABLE_NODE, id);

    return node ? json_string(node->name) : json_null();
}

/* ---- reports ---- */

void api_reports_done(struct api_reports *reports)
{
    json_decref(reports->nodes);
    reports->nodes = NULL;
}

static void id_text(uint64_t id, char text[24])
{
    snprintf(text, 24, "%llu", (unsigned long long)id);
}

void co_api_gather_from(struct api_context *context, uint64_t node, struct api_reports *ret_reports)
{
    struct api_response response = {0};
    char key[24];

    if (!ret_reports->nodes)
        ret_reports->nodes = json_object();
    id_text(node, key);
    if (node != 0 && co_api_forward(context, node, API_GET, "/v1/local/status", NULL, API_STATUS_NS,
                                    &response) == 0)
        json_object_set(ret_reports->nodes, key, response.json);
    api_response_done(&response);
}

void co_api_gather(struct api_context *context, struct api_reports *ret_reports)
{
    const struct database *database = node_database(context->node);
    const struct node_record *node;

    *ret_reports = (struct api_reports){.nodes = json_object()};
    /* The table may change while we ask: by position, one at a time. */
    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        if (node->state != NODE_DOWN)
            co_api_gather_from(context, node->base.id, ret_reports);
    }
}

const json_t *api_report(const struct api_reports *reports, uint64_t node, const char *kind,
                         uint64_t id)
{
    char node_key[24], key[24];

    id_text(node, node_key);
    id_text(id, key);
    return json_object_get(json_object_get(json_object_get(reports->nodes, node_key), kind), key);
}

static uint64_t number(const json_t *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(object, name));
}

void api_disk_health(const struct database *database, const struct disk_record *disk,
                     const struct api_reports *reports, struct health_verdict *ret_verdict)
{
    const json_t *report = api_report(reports, disk->node, "disks", disk->base.id);
    struct health_disk own = {
        .open = json_is_true(json_object_get(report, "open")),
        .reason = json_string_value(json_object_get(report, "reason")),
        .rotten_blocks = number(report, "rotten_blocks"),
        .healed_blocks = number(report, "healed_blocks"),
        .withheld_slabs = number(report, "withheld_slabs"),
    };

    health_of_disk(database, disk, report ? &own : NULL, ret_verdict);
}

void api_volume_health(const struct database *database, const struct volume_record *volume,
                       const struct api_reports *reports, struct health_verdict *ret_verdict)
{
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
    const json_t *report =
        vdisk ? api_report(reports, vdisk->owner, "volumes", volume->base.id) : NULL;
    struct health_volume own = {
        .serving = json_is_true(json_object_get(report, "serving")),
        .read_only = json_is_true(json_object_get(report, "read_only")),
        .waiting = json_string_value(json_object_get(report, "waiting")),
        .stale_disks = number(report, "stale_disks"),
        .detached_slabs = number(report, "detached_slabs"),
        .detached_disk = number(report, "detached_disk"),
        .lost_blocks = number(report, "lost_blocks"),
    };

    health_of_volume(database, volume, report ? &own : NULL, ret_verdict);
}

void api_vm_health(const struct database *database, const struct vm_record *vm,
                   const struct api_reports *reports, struct health_verdict *ret_verdict)
{
    const json_t *report = api_report(reports, vm->node, "vms", vm->base.id);
    const char *state = json_string_value(json_object_get(report, "state"));
    bool present = number(report, "incarnation") == vm->incarnation;
    struct health_vm own = {
        .running = present && state && strcmp(state, "running") == 0,
        .no_space = present && json_is_true(json_object_get(report, "no_space")),
    };

    health_of_vm(database, vm, &own, ret_verdict);
}

/* ---- what this node reports ---- */

static json_t *disk_status(struct api_context *context, uint64_t id)
{
    struct node_disk_status status;

    if (node_disk_status(context->node, id, &status) < 0)
        return NULL;
    return json_pack(
        "{s:b,s:o,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "open", status.open, "reason",
        api_json_text(status.reason), "log_on", status.log_on, "bound", (json_int_t)status.bound,
        "log_bytes", (json_int_t)status.log_bytes, "log_used_bytes",
        (json_int_t)status.log_used_bytes, "dirty_blocks", (json_int_t)status.dirty_blocks,
        "verify_errors", (json_int_t)status.verify_errors, "healed_blocks",
        (json_int_t)status.healed_blocks, "rotten_blocks", (json_int_t)status.rotten_blocks,
        "withheld_slabs", (json_int_t)status.withheld_slabs);
}

static json_t *co_volume_status(struct api_context *context, uint64_t id)
{
    struct node_volume_status status;

    if (co_node_volume_status(context->node, id, &status) < 0 || !status.owned)
        return NULL;
    return json_pack(
        "{s:b,s:b,s:b,s:s?,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "owned",
        status.owned, "serving", status.serving, "read_only", status.read_only, "waiting",
        status.waiting, "detached_slabs", (json_int_t)status.detached_slabs, "detached_disk",
        (json_int_t)status.detached_disk, "slabs_waiting", (json_int_t)status.slabs_waiting,
        "stale_disks", (json_int_t)status.stale_disks, "catching_disks",
        (json_int_t)status.catching_disks, "compare_blocks", (json_int_t)status.compare_blocks,
        "copied_blocks", (json_int_t)status.copied_blocks, "healed_blocks",
        (json_int_t)status.healed_blocks, "lost_blocks", (json_int_t)status.lost_blocks, "reads",
        (json_int_t)status.reads, "writes", (json_int_t)status.writes, "read_bytes",
        (json_int_t)status.read_bytes, "written_bytes", (json_int_t)status.written_bytes,
        "free_bytes", (json_int_t)status.free_bytes, "used_bytes",
        (json_int_t)(status.total_bytes - MIN(status.free_bytes, status.total_bytes)));
}

static void add_status(json_t *object, uint64_t id, json_t *status)
{
    char key[24];

    id_text(id, key);
    if (status)
        json_object_set_new(object, key, status);
}

json_t *co_api_local_status(struct api_context *context)
{
    const struct database *database = node_database(context->node);
    json_t *disks = json_object(), *volumes = json_object(), *vms = json_object();
    const struct record_base *record;

    for (size_t i = 0; (record = database_at(database, TABLE_DISK, i)); i++)
        add_status(disks, record->id, disk_status(context, record->id));
    for (size_t i = 0; (record = database_at(database, TABLE_VOLUME, i)); i++) {
        uint64_t id = record->id;

        add_status(volumes, id, co_volume_status(context, id));
    }
    for (size_t i = 0; (record = database_at(database, TABLE_VM, i)); i++)
        add_status(vms, record->id, api_vm_status(context, record->id));
    return json_pack("{s:s,s:o,s:o,s:o}", "node", node_name(context->node), "disks", disks,
                     "volumes", volumes, "vms", vms);
}
