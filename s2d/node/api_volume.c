/* Volumes. */
#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/node/api_private.h"

/* ---- showing ---- */

struct slabs {
    uint64_t count, columns, stale;
};

static struct slabs count_slabs(const struct database *database, uint64_t vdisk)
{
    size_t count, first = database_slabs(database, vdisk, &count);
    struct slabs slabs = {.count = count};

    for (size_t i = first; i < first + count; i++) {
        const struct slab_record *slab = database_at(database, TABLE_SLAB, i);

        slabs.columns += slab->column_count;
        for (uint64_t j = 0; j < slab->column_count; j++)
            slabs.stale += slab->columns[j].state != COLUMN_RECORD_IN_SYNC;
    }
    return slabs;
}

static json_t *volume_json(const struct database *database, const void *record,
                           const struct api_reports *reports)
{
    const struct volume_record *volume = record;
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);
    struct slabs slabs = count_slabs(database, volume->vdisk);
    json_t *object = api_record_json(TABLE_VOLUME, volume);
    struct health_verdict verdict;
    const json_t *status;
    char shape[16];

    if (!object || !vdisk)
        return object;
    api_volume_health(database, volume, reports, &verdict);
    api_set_health(object, &verdict);
    json_object_set_new(object, "owner", api_node_name(database, vdisk->owner));
    json_object_set_new(object, "preferred_owner", api_node_name(database, vdisk->preferred_owner));
    json_object_set_new(object, "epoch", json_integer((json_int_t)vdisk->epoch));
    json_object_set_new(object, "session", json_integer((json_int_t)vdisk->session));
    json_object_set_new(object, "slabs", json_integer((json_int_t)slabs.count));
    json_object_set_new(object, "stale_columns", json_integer((json_int_t)slabs.stale));
    json_object_set_new(
        object, "footprint_bytes",
        json_integer((json_int_t)(slabs.columns * vdisk->slab_bytes / vdisk_data_columns(vdisk))));
    if (vdisk->resiliency == RESILIENCY_PARITY2) {
        snprintf(shape, sizeof(shape), "%u+%d", vdisk_data_columns(vdisk), PARITY2_COLUMNS);
        json_object_set_new(object, "columns", json_string(shape));
    }
    status = api_report(reports, vdisk->owner, "volumes", volume->base.id);
    if (status)
        json_object_set(object, "status", (json_t *)status);
    return object;
}

static uint64_t volume_owner(const struct database *database, const void *record)
{
    const struct volume_record *volume = record;
    const struct vdisk_record *vdisk = database_find(database, TABLE_VDISK, volume->vdisk);

    return vdisk ? vdisk->owner : 0;
}

static bool is_deleted(const void *record)
{
    return ((const struct volume_record *)record)->state == VOLUME_DELETING;
}

static const struct api_kind volume_kind = {
    .table = TABLE_VOLUME,
    .noun = "volume",
    .to_json = volume_json,
    .reporter = volume_owner,
    .is_hidden = is_deleted,
};

static void co_list(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    co_api_list(arg, &volume_kind, response);
}

static void co_show(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct volume_record *volume = api_record(arg, request, response, TABLE_VOLUME, "volume");

    if (volume)
        co_api_answer(arg, &volume_kind, volume->base.id, response);
}

/* ---- changing ---- */

/* What suits the number of nodes that have disks. */
static const char *default_resiliency(const struct database *database)
{
    const struct node_record *node;
    const struct disk_record *disk;
    unsigned nodes = 0;

    for (size_t i = 0; (node = database_at(database, TABLE_NODE, i)); i++) {
        for (size_t j = 0; (disk = database_at(database, TABLE_DISK, j)); j++) {
            if (disk->node == node->base.id && disk->state == DISK_OK) {
                nodes++;
                break;
            }
        }
    }
    return resiliency_words[nodes >= 3   ? RESILIENCY_MIRROR3
                            : nodes == 2 ? RESILIENCY_MIRROR2
                                         : RESILIENCY_SIMPLE];
}

/* "4+2". Returns the data columns; 0: that is no shape of parity2. */
static uint64_t parse_columns(const char *text)
{
    unsigned data = 0, parity = 0;
    int end = 0;

    if (sscanf(text, "%2u+%1u%n", &data, &parity, &end) != 2 || text[end] != '\0' ||
        parity != PARITY2_COLUMNS || data < 2 || data > PARITY2_DATA_COLUMNS_MAX)
        return 0;
    return data;
}

static void co_create(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"name", "size_bytes", "resiliency", "columns",
                                        "thin", "owner",      NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *name = api_text(&arguments, "name");
    uint64_t size_bytes = api_u64(&arguments, "size_bytes");
    const char *resiliency = api_text_or(&arguments, "resiliency", NULL);
    const char *columns = api_text_or(&arguments, "columns", NULL);
    uint64_t data_columns = columns ? parse_columns(columns) : 0;
    bool thin = api_bool_or(&arguments, "thin", true);
    const char *owner_name = api_text_or(&arguments, "owner", NULL);
    const struct database *database;
    const struct node_record *owner = NULL;
    const struct volume_record *volume;
    struct node_message message = {""};
    int r;

    database = arguments.refused ? NULL : api_database(context, response);
    if (database && owner_name)
        owner = api_node_named(context, owner_name, response);
    if (!database || (owner_name && !owner))
        return;
    if (columns && data_columns == 0) {
        api_answer_failure(response, -EINVAL, "columns are K+2, like 2+2 or 4+2, K from 2 to 14");
        return;
    }
    r = co_node_create_volume(context->node, name, size_bytes,
                              resiliency ? resiliency : default_resiliency(database), data_columns,
                              thin, owner ? owner->base.id : 0, &message);
    if (r < 0) {
        api_answer_failure(response, r, message.text);
        return;
    }
    volume = database_find_name(node_database(context->node), TABLE_VOLUME, name);
    if (volume && context->co_await_mount)
        context->co_await_mount(context->arg, volume->base.id);
    volume = database_find_name(node_database(context->node), TABLE_VOLUME, name);
    co_api_answer(context, &volume_kind, volume ? volume->base.id : 0, response);
}

static void co_resize(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"size_bytes", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t size_bytes = api_u64(&arguments, "size_bytes"), id;
    const struct volume_record *volume =
        arguments.refused ? NULL : api_record(arg, request, response, TABLE_VOLUME, "volume");

    if (!volume)
        return;
    id = volume->base.id;
    if (co_api_propose(arg,
                       json_pack("{s:s,s:I,s:I}", "verb", "volume.resize", "volume", (json_int_t)id,
                                 "size_bytes", (json_int_t)size_bytes),
                       response, NULL) == 0)
        co_api_answer(arg, &volume_kind, id, response);
}

/* Asks the owner to do it. body: stolen. Returns as co_api_forward(). */
static int co_at_owner(struct api_context *context, const struct volume_record *volume,
                       const char *verb, json_t *body, uint64_t timeout_ns,
                       struct api_response *response)
{
    uint64_t owner = volume_owner(node_database(context->node), volume);
    char target[64];

    if (owner == 0) {
        json_decref(body);
        api_answer_error(response, -EAGAIN,
                         "volume %s has no owner now: 's2d volume show %s' says why", volume->name,
                         volume->name);
        return -EAGAIN;
    }
    snprintf(target, sizeof(target), "/v1/local/volumes/%llu/%s",
             (unsigned long long)volume->base.id, verb);
    return co_api_forward(context, owner, API_POST, target, body, timeout_ns, response);
}

#define MOVE_NS (30 * SEC)
#define LOOK_NS (100 * MS)

/* The owner by the database may not serve yet, or not any more: then it is asked again a little
 * later. */
static bool co_is_served_by(struct api_context *context, const struct volume_record *volume,
                            uint64_t node)
{
    uint64_t id = volume->base.id;
    struct api_reports reports = {NULL};
    bool serving;

    co_api_gather_from(context, node, &reports);
    serving = json_is_true(json_object_get(api_report(&reports, node, "volumes", id), "serving"));
    api_reports_done(&reports);
    return serving;
}

/* One try. Returns 0 (done), -EAGAIN (look again soon), or what was answered. */
static int co_try_move(struct api_context *context, const struct volume_record *volume, uint64_t to,
                       struct api_response *response)
{
    uint64_t owner = volume_owner(node_database(context->node), volume);
    int r;

    if (owner == to)
        return co_is_served_by(context, volume, to) ? 0 : -EAGAIN;
    if (owner == 0)
        return -EAGAIN;
    r = co_at_owner(context, volume, "move", json_pack("{s:I}", "to", (json_int_t)to),
                    API_ACTION_NS, response);
    return r == 0 || r == -EREMOTE ? -EAGAIN : r;
}

int co_api_move_volume(struct api_context *context, uint64_t id, uint64_t to,
                       struct api_response *response)
{
    uint64_t deadline_ns = io_now_ns(node_io(context->node)) + MOVE_NS;
    const struct volume_record *volume;
    int r = -EAGAIN;

    while ((volume = database_find(node_database(context->node), TABLE_VOLUME, id))) {
        r = co_try_move(context, volume, to, response);
        if (r != -EAGAIN)
            return r;
        if (io_now_ns(node_io(context->node)) >= deadline_ns || co_sleep_ns(LOOK_NS) < 0) {
            api_answer_error(response, -ETIMEDOUT,
                             "the move takes longer than expected: 's2d volume list' shows how it "
                             "goes on");
            return -ETIMEDOUT;
        }
    }
    api_answer_error(response, -ENOENT, "the volume is gone");
    return -ENOENT;
}

/* {to}: a node's name. */
static void co_move(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"to", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *to_name = api_text(&arguments, "to");
    const struct volume_record *volume =
        arguments.refused ? NULL : api_record(arg, request, response, TABLE_VOLUME, "volume");
    const struct node_record *to = volume ? api_node_named(arg, to_name, response) : NULL;
    uint64_t id;

    if (!volume || !to)
        return;
    if (to->state != NODE_UP) {
        api_answer_error(response, -EAGAIN, "node %s is %s: choose another one", to->name,
                         node_state_words[to->state]);
        return;
    }
    id = volume->base.id;
    if (co_api_move_volume(arg, id, to->base.id, response) == 0)
        co_api_answer(arg, &volume_kind, id, response);
}

#define CHECK_NS (3600 * SEC)

static void co_check(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct volume_record *volume = api_record(arg, request, response, TABLE_VOLUME, "volume");

    if (volume)
        (void)!co_at_owner(arg, volume, "check", NULL, CHECK_NS, response);
}

static void co_delete(void *arg, const struct api_request *request, struct api_response *response)
{
    const struct volume_record *volume = api_record(arg, request, response, TABLE_VOLUME, "volume");

    if (volume && co_api_propose(arg,
                                 json_pack("{s:s,s:I}", "verb", "volume.delete", "volume",
                                           (json_int_t)volume->base.id),
                                 response, NULL) == 0)
        api_answer_json(response, json_object());
}

const struct api_route api_volume_routes[] = {
    {API_GET, "/v1/volumes", co_list},
    {API_POST, "/v1/volumes", co_create},
    {API_GET, "/v1/volumes/{volume}", co_show},
    {API_DELETE, "/v1/volumes/{volume}", co_delete},
    {API_POST, "/v1/volumes/{volume}/resize", co_resize},
    {API_POST, "/v1/volumes/{volume}/move", co_move},
    {API_POST, "/v1/volumes/{volume}/check", co_check},
    {0, NULL, NULL},
};
