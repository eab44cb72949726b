/* Disks and the pool. */
#include <stdio.h>

#include "s2d/node/api_private.h"

#define CLAIM_NS (600 * SEC) /* its log region is written with zeros */
#define EXTENT_BYTES (256 * MIB)

static json_t *disk_json(const struct database *database, const void *record,
                         const struct api_reports *reports)
{
    const struct disk_record *disk = record;
    uint64_t extent_bytes = database_cluster(database)->extent_bytes;
    uint64_t used = database_used_extents(database, disk->base.id);
    const json_t *status = api_report(reports, disk->node, "disks", disk->base.id);
    json_t *object = api_record_json(TABLE_DISK, disk);
    struct health_verdict verdict;

    if (!object)
        return NULL;
    api_disk_health(database, disk, reports, &verdict);
    api_set_health(object, &verdict);
    json_object_set_new(object, "node", api_node_name(database, disk->node));
    json_object_set_new(object, "used_extents", json_integer((json_int_t)used));
    json_object_set_new(object, "used_bytes", json_integer((json_int_t)(used * extent_bytes)));
    if (status)
        json_object_set(object, "status", (json_t *)status);
    return object;
}

static uint64_t disk_reporter(const struct database *database, const void *record)
{
    (void)database;
    return ((const struct disk_record *)record)->node;
}

static const struct api_kind disk_kind = {
    .table = TABLE_DISK,
    .noun = "disk",
    .to_json = disk_json,
    .reporter = disk_reporter,
};

static void co_list(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    co_api_list(arg, &disk_kind, response);
}

static void co_show(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct disk_record *disk = api_disk(arg, request, response);

    if (disk)
        co_api_answer(arg, &disk_kind, disk->base.id, response);
}

/* {path, role, node}: node: this one. */
static void co_claim(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"path", "role", "node", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *path = api_text(&arguments, "path");
    const char *role = api_text_or(&arguments, "role", NULL);
    const char *name = api_text_or(&arguments, "node", node_name(context->node));
    const struct node_record *node;
    uint64_t id;

    if (arguments.refused)
        return;
    node = api_node_named(context, name, response);
    if (!node ||
        co_api_forward(context, node->base.id, API_POST, "/v1/local/disks",
                       json_pack("{s:s,s:s*}", "path", path, "role", role), CLAIM_NS, response) < 0)
        return;
    id = (uint64_t)json_integer_value(json_object_get(response->json, "id"));
    co_api_answer(context, &disk_kind, id, response);
}

static void co_retire(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct disk_record *disk = api_disk(arg, request, response);
    uint64_t id = disk ? disk->base.id : 0;

    if (disk &&
        co_api_propose(arg, json_pack("{s:s,s:I}", "verb", "disk.retire", "disk", (json_int_t)id),
                       response, NULL) == 0)
        co_api_answer(arg, &disk_kind, id, response);
}

/* For development clusters: {disk}: the name of a disk of this node, to which something is done. */
static void hurt_disk(struct api_context *context, const struct api_request *request,
                      struct api_response *response, int (*hurt)(struct node *node, uint64_t disk))
{
    static const char *const names[] = {"disk", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text(&arguments, "disk");
    const struct database *database = arguments.refused ? NULL : api_database(context, response);
    const struct disk_record *disk =
        database ? database_disk_of(database, node_id(context->node), name) : NULL;

    int r;

    if (!database)
        return;
    r = disk ? hurt(context->node, disk->base.id) : -ENOENT;
    if (r == 0)
        api_answer_json(response, json_object());
    else if (r == -ENOENT)
        api_answer_error(response, r, "node %s has no disk '%.64s' that is open",
                         node_name(context->node), name);
    else
        api_answer_error(response, r, "disk '%.64s' cannot be hurt: %s", name,
                         r == -EPERM ? "it is a device, not a file" : strerror(-r));
}

static int fail_disk(struct node *node, uint64_t disk)
{
    return node_fault_disk(node, disk, -EIO);
}

static void co_fail(void *arg, const struct api_request *request, struct api_response *response)
{
    hurt_disk(arg, request, response, fail_disk);
}

static void co_slow(void *arg, const struct api_request *request, struct api_response *response)
{
    hurt_disk(arg, request, response, node_slow_disk);
}

/* ---- the pool ---- */

/* read_cache_bytes is there only if there is a limit. */
static void set_read_cache(json_t *object, const struct cluster_record *cluster)
{
    const char *word = "all";

    if (cluster->read_cache_limited)
        word = cluster->read_cache_bytes > 0 ? "limited" : "none";
    json_object_set_new(object, "read_cache", json_string(word));
    if (cluster->read_cache_limited)
        json_object_set_new(object, "read_cache_bytes",
                            json_integer((json_int_t)cluster->read_cache_bytes));
}

static void answer_pool(struct api_context *context, struct api_response *response)
{
    const struct database *database = node_database(context->node);
    struct health_space space = health_space_of(database);
    struct health_verdict verdict;
    json_t *object =
        json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "extent_bytes",
                  (json_int_t)database_cluster(database)->extent_bytes, "size_bytes",
                  (json_int_t)space.size_bytes, "used_bytes", (json_int_t)space.used_bytes,
                  "free_bytes", (json_int_t)(space.size_bytes - space.used_bytes), "promised_bytes",
                  (json_int_t)space.promised_bytes, "disks", (json_int_t)space.disks, "disks_ok",
                  (json_int_t)space.disks_ok);

    health_of_pool(database, &verdict);
    if (object)
        set_read_cache(object, database_cluster(database));
    if (object)
        api_set_health(object, &verdict);
    api_answer_json(response, object);
}

static void co_pool(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    if (api_database(arg, response))
        answer_pool(arg, response);
}

static void co_create_pool(void *arg, const struct api_request *request,
                           struct api_response *response)
{
    static const char *const names[] = {"extent_bytes", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t extent_bytes = api_u64_or(&arguments, "extent_bytes", EXTENT_BYTES);

    if (arguments.refused || !api_database(arg, response))
        return;
    if (co_api_propose(
            arg,
            json_pack("{s:s,s:I}", "verb", "pool.create", "extent_bytes", (json_int_t)extent_bytes),
            response, NULL) == 0)
        answer_pool(arg, response);
}

/* Without read_cache_bytes there is no limit. */
static void co_set_pool(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"read_cache_bytes", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t bytes = api_u64_or(&arguments, "read_cache_bytes", UINT64_MAX);
    bool limited = bytes != UINT64_MAX;

    if (arguments.refused || !api_database(arg, response))
        return;
    if (co_api_propose(arg,
                       json_pack("{s:s,s:b,s:I}", "verb", "pool.set", "read_cache_limited", limited,
                                 "read_cache_bytes", (json_int_t)(limited ? bytes : 0)),
                       response, NULL) == 0)
        answer_pool(arg, response);
}

const struct api_route api_disk_routes[] = {
    {API_GET, "/v1/disks", co_list},
    {API_POST, "/v1/disks", co_claim},
    {API_GET, "/v1/disks/{disk}", co_show},
    {API_POST, "/v1/disks/{disk}/retire", co_retire},
    {API_POST, "/v1/development/fail-disk", co_fail},
    {API_POST, "/v1/development/slow-disk", co_slow},
    {API_GET, "/v1/pool", co_pool},
    {API_POST, "/v1/pool", co_create_pool},
    {API_POST, "/v1/pool/settings", co_set_pool},
    {0, NULL, NULL},
};
