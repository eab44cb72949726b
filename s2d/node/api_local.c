/* What a node does and says of its own things alone: for the other nodes (api_forward.c). Records
 * are named by id: names may change hands while a request travels. */
#include <stdio.h>
#include <sys/stat.h>

#include "fs-refs-lite/fs.h"
#include "hv/hv.h"
#include "resiliency/mirror.h"
#include "s2d/base/co.h"
#include "s2d/base/metrics.h"
#include "s2d/node/api_private.h"

#define CONSOLE_TAIL_BYTES (128 * KIB)
#define CHECK_LINES_MAX 100
#define PATH_BYTES 600

static uint64_t id_of(const struct api_request *request)
{
    return strtoull(api_parameter(request, "id"), NULL, 10);
}

static void co_status(void *arg, const struct api_request *request, struct api_response *response)
{
    (void)request;
    if (api_database(arg, response))
        api_answer_json(response, co_api_local_status(arg));
}

static void co_metrics(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    char *text = NULL;

    (void)request;
    if (metrics_render(node_metrics(context->node), &text) < 0)
        api_answer_error(response, -ENOMEM, "out of memory");
    else
        api_answer_text(response, text);
}

static void co_claim(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"path", "role", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    const char *path = api_text(&arguments, "path"), *role = api_text_or(&arguments, "role", NULL);
    struct node_message message = {""};
    uint64_t id;
    int r;

    if (arguments.refused)
        return;
    r = co_node_claim_disk(context->node, path, role, &id, &message);
    if (r < 0)
        api_answer_failure(response, r, message.text);
    else
        api_answer_json(response, json_pack("{s:I}", "id", (json_int_t)id));
}

/* ---- volumes ---- */

static void co_move(void *arg, const struct api_request *request, struct api_response *response)
{
    static const char *const names[] = {"to", NULL};
    struct api_context *context = arg;
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t to = api_u64(&arguments, "to");
    struct node_message message = {""};
    int r;

    if (arguments.refused)
        return;
    r = co_node_move_volume(context->node, id_of(request), to, &message);
    if (r < 0)
        api_answer_failure(response, r, message.text);
    else
        api_answer_json(response, json_object());
}

/* The first problems in words, all of them in number. */
static void note_problem(void *arg, const char *line)
{
    json_t *lines = arg;

    if (json_array_size(lines) < CHECK_LINES_MAX)
        json_array_append_new(lines, api_json_text(line));
}

static void co_check(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    struct fs_check_result result;
    struct mirror_scrub scrub;
    json_t *lines = json_array();
    int r =
        co_node_check_volume(context->node, id_of(request), note_problem, lines, &result, &scrub);

    if (r < 0) {
        json_decref(lines);
        api_answer_error(response, r, "the volume could not be looked through: %s",
                         r == -EREMOTE ? "it has moved meanwhile; try again" : strerror(-r));
        return;
    }
    api_answer_json(response,
                    json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "problems",
                              (json_int_t)(result.problems + scrub.different), "inodes",
                              (json_int_t)result.inodes, "directories",
                              (json_int_t)result.directories, "names", (json_int_t)result.names,
                              "extents", (json_int_t)result.extents, "nodes",
                              (json_int_t)result.nodes, "used_bytes",
                              (json_int_t)(result.used_blocks * BLOCK_SIZE), "compared_bytes",
                              (json_int_t)(scrub.copies * BLOCK_SIZE), "rotten_bytes",
                              (json_int_t)(scrub.rotten * BLOCK_SIZE), "different_bytes",
                              (json_int_t)(scrub.different * BLOCK_SIZE), "unread_bytes",
                              (json_int_t)(scrub.unread * BLOCK_SIZE), "lines", lines));
}

/* ---- VMs ---- */

static struct hv *hv_of(struct api_context *context, struct api_response *response)
{
    struct hv *hv = context->hv && context->vms ? context->hv(context->vms) : NULL;

    if (!hv)
        api_answer_error(response, -EAGAIN, "node %s is still taking up its VMs: try again",
                         node_name(context->node));
    return hv;
}

/* {incarnation}: one that asks late must not end the next. */
enum ending { ENDING_STOP, ENDING_SHUTDOWN, ENDING_KILL };

static void co_end(struct api_context *context, const struct api_request *request,
                   enum ending ending, struct api_response *response)
{
    static const char *const names[] = {"timeout_ms", "incarnation", NULL};
    struct api_arguments arguments = api_arguments(request, response, names);
    uint64_t timeout_ns = api_u64(&arguments, "timeout_ms") * MS, id = id_of(request);
    uint64_t incarnation = api_u64(&arguments, "incarnation");
    struct hv *hv = arguments.refused ? NULL : hv_of(context, response);
    int r = 0;

    if (!hv)
        return;
    switch (ending) {
    case ENDING_STOP:
        r = co_hv_stop(hv, id, incarnation, timeout_ns);
        break;
    case ENDING_SHUTDOWN:
        r = co_hv_shutdown(hv, id, incarnation, timeout_ns);
        break;
    case ENDING_KILL:
        r = co_hv_kill(hv, id, incarnation);
        break;
    }
    if (r == -ETIMEDOUT)
        api_answer_error(
            response, -EAGAIN,
            "the guest did not end in time, and runs on: 's2d vm kill' pulls the plug");
    else if (r == -ENOENT)
        api_answer_error(response, -EAGAIN, "the VM does not run on node %s now: try again",
                         node_name(context->node));
    else if (r < 0)
        api_answer_error(response, r, "the VM could not be ended: %s", strerror(-r));
    else
        api_answer_json(response, json_object());
}

static void co_stop(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, ENDING_STOP, response);
}

static void co_shutdown(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, ENDING_SHUTDOWN, response);
}

static void co_kill(void *arg, const struct api_request *request, struct api_response *response)
{
    co_end(arg, request, ENDING_KILL, response);
}

static void co_console(void *arg, const struct api_request *request, struct api_response *response)
{
    struct api_context *context = arg;
    struct hv *hv = hv_of(context, response);
    char path[PATH_BYTES];

    if (!hv)
        return;
    if (hv_console(hv, id_of(request), path, sizeof(path)) < 0)
        api_answer_error(response, -EAGAIN, "the VM does not run on node %s now: try again",
                         node_name(context->node));
    else
        api_answer_json(response, json_pack("{s:s,s:o}", "node", node_name(context->node), "path",
                                            api_json_text(path)));
}

/* The file grows while it is read: its size is that of the opening. */
static int co_read_tail(struct io *io, const char *path, char **ret_data, size_t *ret_bytes)
{
    cleanup(io_file_closep) struct io_file *file = NULL;
    uint64_t size, bytes;
    char *data;
    int r = co_io_open(io, path, IO_OPEN_READ_ONLY, &file);

    if (r < 0)
        return r;
    size = io_file_info(file)->size_bytes;
    bytes = MIN(size, CONSOLE_TAIL_BYTES);
    data = malloc(bytes + 1);
    if (!data)
        return -ENOMEM;
    r = bytes > 0 ? co_io_read(file, data, bytes, size - bytes) : 0;
    if (r < 0) {
        free(data);
        return r;
    }
    *ret_data = data;
    *ret_bytes = bytes;
    return 0;
}

static void co_console_log(void *arg, const struct api_request *request,
                           struct api_response *response)
{
    struct api_context *context = arg;
    struct hv *hv = hv_of(context, response);
    char path[PATH_BYTES], *data = NULL;
    size_t bytes = 0;
    int r;

    if (!hv)
        return;
    r = hv_console_log(hv, id_of(request), path, sizeof(path));
    if (r == 0)
        r = co_read_tail(node_io(context->node), path, &data, &bytes);
    if (r < 0)
        api_answer_error(response, r, "the console's log cannot be read: %s", strerror(-r));
    else
        api_answer_data(response, data, bytes, API_CONTENT_DATA);
}

const struct api_route api_local_routes[] = {
    {API_GET, "/v1/local/status", co_status},
    {API_GET, "/v1/local/metrics", co_metrics},
    {API_POST, "/v1/local/disks", co_claim},
    {API_POST, "/v1/local/volumes/{id}/move", co_move},
    {API_POST, "/v1/local/volumes/{id}/check", co_check},
    {API_POST, "/v1/local/vms/{id}/stop", co_stop},
    {API_POST, "/v1/local/vms/{id}/shutdown", co_shutdown},
    {API_POST, "/v1/local/vms/{id}/kill", co_kill},
    {API_GET, "/v1/local/vms/{id}/console", co_console},
    {API_GET, "/v1/local/vms/{id}/console-log", co_console_log},
    {0, NULL, NULL},
};
