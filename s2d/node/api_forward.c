/* Requests between nodes: one bus message with the method, the target and the body of a local
 * route, one reply with the answer. Only local routes are taken, and they never ask on: no request
 * can travel in a circle.
 *
 *   request  data: {"method": "GET", "target": "/v1/local/…", "body": {…}}
 *   reply    header: u32 HTTP status, u32 kind of data; data: JSON or text */
#include <stdio.h>

#include "s2d/node/api_private.h"
#include "s2d/node/node_internal.h"

#define TYPE_API (BUS_TYPE_NODE + 10)
#define REPLY_MAX (512 * KIB)
#define FORWARDED_MAX 64 /* that run here at once */

enum reply_kind { REPLY_NOTHING, REPLY_JSON, REPLY_TEXT, REPLY_DATA };

struct reply_header { /* little-endian, as all of our hosts are */
    uint32_t status;
    uint32_t kind;
};
static_assert(sizeof(struct reply_header) == 8, "part of the wire format");

/* ---- the one that answers ---- */

struct forwarded {
    struct list node; /* in context->forwarded */
    struct api_context *context;
    struct bus_message *message;
    struct co *co;
};

static int parse_forwarded(const struct bus_message *message, json_t **ret_json,
                           struct api_request *ret_request)
{
    const char *target, *method, *why;
    json_t *json, *body;
    int r = api_json_parse(message->data, message->data_bytes, &json, &why);

    if (r < 0 || !json)
        return -EPROTO;
    target = json_string_value(json_object_get(json, "target"));
    method = json_string_value(json_object_get(json, "method"));
    body = json_object_get(json, "body");
    r = target && method ? api_method_by_name(method) : -EPROTO;
    if (r >= 0)
        r = api_request_init(ret_request, (enum api_method)r, target);
    if (r < 0) {
        json_decref(json);
        return -EPROTO;
    }
    if (json_is_object(body))
        ret_request->body = json_incref(body);
    *ret_json = json;
    return 0;
}

static void wake(void *arg)
{
    co_wake(arg);
}

/* Larger data is sent from its place: waits until the bus has let go of it. */
static int co_reply(struct forwarded *forwarded, struct bus_send *send)
{
    struct bus *bus = forwarded->context->node->bus;
    int r;

    if (send->data_bytes > REPLY_MAX)
        return bus_reply(bus, forwarded->message, -EMSGSIZE, NULL);
    if (send->data_bytes <= BUS_COPY_MAX)
        return bus_reply(bus, forwarded->message, 0, send);
    send->sent = wake;
    send->sent_arg = co_self();
    r = bus_reply(bus, forwarded->message, 0, send);
    if (r == 0)
        co_wait();
    return r;
}

static void co_send_answer(struct forwarded *forwarded, const struct api_response *response)
{
    struct reply_header header = {.status = response->status ? response->status : 200};
    struct bus_send send = {
        .flags = BUS_CHECKSUM, .header = &header, .header_bytes = sizeof(header)};
    char *text = NULL;
    int r;

    if (response->json) {
        text = json_dumps(response->json, JSON_COMPACT);
        header.kind = REPLY_JSON;
        send.data = text;
        send.data_bytes = text ? (uint32_t)strlen(text) : 0;
    } else if (response->data) {
        header.kind =
            strcmp(response->content_type, API_CONTENT_TEXT) == 0 ? REPLY_TEXT : REPLY_DATA;
        send.data = response->data;
        send.data_bytes = (uint32_t)MIN(response->data_bytes, UINT32_MAX);
    }
    r = co_reply(forwarded, &send);
    if (r < 0) /* who asked has left, or asks again */
        log_debug(forwarded->context->node->io, "api", "an answer to a node is lost", "error=%d",
                  r);
    free(text);
}

static void forwarded_end(struct forwarded *forwarded)
{
    struct api_context *context = forwarded->context;

    bus_message_release(forwarded->message);
    list_remove(&forwarded->node);
    free(forwarded);
    context->forwarded_count--;
    if (context->stopper && context->forwarded_count == 0)
        co_wake(take_ptr(context->stopper));
}

static void co_answer(void *arg)
{
    struct forwarded *forwarded = arg;
    struct api_response response = {0};
    struct api_request request = {0};
    json_t *json = NULL;

    if (parse_forwarded(forwarded->message, &json, &request) < 0)
        api_answer_error(&response, -EPROTO, "the other node's request makes no sense");
    else
        co_api_dispatch(&forwarded->context->local_router, &request, &response);
    co_send_answer(forwarded, &response);
    api_response_done(&response);
    api_request_done(&request);
    json_decref(json);
    forwarded_end(forwarded);
}

static void handle_api(void *arg, const struct bus_message *message)
{
    struct api_context *context = arg;
    struct forwarded *forwarded = NULL;

    if (context->forwarded_count < FORWARDED_MAX && !context->stopper)
        forwarded = calloc(1, sizeof(*forwarded));
    if (!forwarded) {
        (void)!bus_reply(context->node->bus, message, -EAGAIN, NULL);
        return;
    }
    forwarded->context = context;
    forwarded->message = bus_message_keep(message);
    list_push_back(&context->forwarded, &forwarded->node);
    context->forwarded_count++;
    if (co_spawn_handle(context->node->io, "api-forwarded", co_answer, forwarded, &forwarded->co) <
        0) {
        (void)!bus_reply(context->node->bus, forwarded->message, -EAGAIN, NULL);
        forwarded_end(forwarded);
    }
}

void api_routes_start(struct api_context *context)
{
    if (context->started || !context->node->bus)
        return;
    context->started = true;
    bus_handle(context->node->bus, TYPE_API, handle_api, context);
}

void co_api_routes_stop(struct api_context *context)
{
    if (!context->started)
        return;
    bus_handle(context->node->bus, TYPE_API, NULL, NULL);
    context->started = false;
    list_for_each (node, &context->forwarded) {
        co_cancel(list_entry(node, struct forwarded, node)->co);
    }
    if (context->forwarded_count > 0) {
        context->stopper = co_self();
        co_wait();
    }
}

/* ---- the one that asks ---- */

bool api_node_answers(struct api_context *context, uint64_t id)
{
    return id == node_id(context->node) || bus_is_up(context->node->bus, id, BUS_CONTROL);
}

static const char *name_of(struct api_context *context, uint64_t id)
{
    const struct node_record *node = database_find(node_database(context->node), TABLE_NODE, id);

    return node ? node->name : "?";
}

static void explain(struct api_context *context, uint64_t to, int error,
                    struct api_response *response)
{
    switch (error) {
    case -ETIMEDOUT:
        api_answer_error(response, error,
                         "node %s did not answer in time; whether it was done is not known",
                         name_of(context, to));
        return;
    case -EOPNOTSUPP:
    case -EAGAIN:
        api_answer_error(response, -EAGAIN, "node %s is starting, stopping or too busy: try again",
                         name_of(context, to));
        return;
    case -ENOTCONN:
        api_answer_error(response, -EHOSTUNREACH, "node %s cannot be reached",
                         name_of(context, to));
        return;
    default:
        api_answer_error(response, error, "node %s could not be asked: %s", name_of(context, to),
                         strerror(-error));
    }
}

/* A reply whose status is an error has the errno's name in its JSON. */
static int error_of(const struct reply_header *header, const json_t *json)
{
    const char *code = json_string_value(json_object_get(json_object_get(json, "error"), "code"));

    return header->status < 300 ? 0 : code ? api_error_by_name(code) : -EPROTO;
}

static int take_reply(const struct reply_header *header, const struct bus_reply *reply,
                      struct api_response *response)
{
    char *copy;

    if (reply->header_bytes != sizeof(*header))
        return -EPROTO;
    if (header->kind == REPLY_JSON) {
        json_t *json = json_loadb(reply->data, reply->data_bytes, 0, NULL);

        if (!json)
            return -EPROTO;
        api_answer_json(response, json);
    } else {
        copy = malloc(reply->data_bytes + 1);
        if (!copy)
            return -ENOMEM;
        memcpy(copy, reply->data, reply->data_bytes);
        api_answer_data(response, copy, reply->data_bytes,
                        header->kind == REPLY_TEXT ? API_CONTENT_TEXT : API_CONTENT_DATA);
    }
    response->status = header->status;
    response->error = error_of(header, response->json);
    return 0;
}

static int co_ask(struct api_context *context, uint64_t to, const char *text, uint64_t timeout_ns,
                  struct api_response *response)
{
    struct reply_header header = {0};
    struct bus_send send = {.to = to,
                            .channel = BUS_CONTROL,
                            .type = TYPE_API,
                            .flags = BUS_CHECKSUM,
                            .data = text,
                            .data_bytes = (uint32_t)strlen(text)};
    struct bus_reply reply = {
        .header = &header, .header_bytes = sizeof(header), .data_bytes = REPLY_MAX};
    int r;

    if (strlen(text) > BUS_COPY_MAX)
        return -EMSGSIZE;
    reply.data = aligned_alloc(BLOCK_SIZE, REPLY_MAX);
    if (!reply.data)
        return -ENOMEM;
    r = co_bus_call(context->node->bus, &send, timeout_ns, &reply);
    if (r == 0)
        r = reply.result;
    if (r == 0)
        r = take_reply(&header, &reply, response);
    free(reply.data);
    return r;
}

static void co_run_here(struct api_context *context, enum api_method method, const char *target,
                        json_t *body, struct api_response *response)
{
    struct api_request request = {0};
    int r = api_request_init(&request, method, target);

    if (r < 0) {
        api_answer_error(response, r, "the path makes no sense");
        return;
    }
    request.body = json_incref(body);
    co_api_dispatch(&context->local_router, &request, response);
    api_request_done(&request);
}

int co_api_forward(struct api_context *context, uint64_t to, enum api_method method,
                   const char *target, json_t *body, uint64_t timeout_ns,
                   struct api_response *response)
{
    char *text = NULL;
    json_t *json;
    int r = 0;

    assert(strncmp(target, "/v1/local/", 10) == 0);
    if (to == node_id(context->node)) {
        co_run_here(context, method, target, body, response);
        json_decref(body);
        return response->error;
    }
    json = json_pack("{s:s,s:s,s:o?}", "method", api_method_names[method], "target", target, "body",
                     body);
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    r = text ? co_ask(context, to, text, timeout_ns, response) : -ENOMEM;
    free(text);
    if (r < 0)
        explain(context, to, r, response);
    return response->error;
}
