/* Requests between nodes: one bus message with the method, the target and the body of a local
 * route, one reply with the answer (api_message.h). Only local routes are taken, and they never ask
 * on: no request can travel in a circle. */
#include <stdio.h>

#include "s2d/node/api_message.h"
#include "s2d/node/api_private.h"
#include "s2d/node/node_internal.h"

#define TYPE_API (BUS_TYPE_NODE + 10)
#define REPLY_MAX (512 * KIB)
#define FORWARDED_MAX 64 /* that run here at once */

/* ---- the one that answers ---- */

struct forwarded {
    struct list node; /* in context->forwarded */
    struct api_context *context;
    struct bus_message *message;
    struct co *co;
};

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
    struct api_message_header header;
    struct bus_send send = {
        .flags = BUS_CHECKSUM, .header = &header, .header_bytes = sizeof(header)};
    struct api_message_data data = api_message_reply(response, &header);
    int r;

    send.data = data.bytes;
    send.data_bytes = (uint32_t)MIN(data.length, UINT32_MAX);
    r = co_reply(forwarded, &send);
    if (r < 0) /* who asked has left, or asks again */
        log_debug(forwarded->context->node->io, "api", "an answer to a node is lost", "error=%d",
                  r);
    free(data.owned);
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

    if (api_message_parse(forwarded->message->data, forwarded->message->data_bytes, &json,
                          &request) < 0)
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

static int co_ask(struct api_context *context, uint64_t to, const char *text, uint64_t timeout_ns,
                  struct api_response *response)
{
    struct api_message_header header = {0};
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
        r = reply.header_bytes == sizeof(header)
                ? api_message_take(&header, reply.data, reply.data_bytes, response)
                : -EPROTO;
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
    char *text;
    int r;

    assert(strncmp(target, "/v1/local/", 10) == 0);
    if (to == node_id(context->node)) {
        co_run_here(context, method, target, body, response);
        json_decref(body);
        return response->error;
    }
    text = api_message_text(method, target, body);
    r = text ? co_ask(context, to, text, timeout_ns, response) : -ENOMEM;
    free(text);
    if (r < 0)
        explain(context, to, r, response);
    return response->error;
}
