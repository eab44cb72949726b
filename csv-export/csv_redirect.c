/* Requests to another owner.
 *
 * Before the first request on a connection to an owner's session, the volume attaches: the owner
 * answers when it has done with everything that came from us on an older connection. So a repeat
 * never runs beside its original, and no old write lands on top of a newer one.
 *
 * There are no time-outs: a request ends by its answer, by the end of its connection, because its
 * coroutine was cancelled, or because the volume table named another owner (csv_cancel_calls());
 * the old one, if it lives, is fenced by then. Each call runs in a coroutine of its own, which is
 * what makes it possible to cancel it and go on. */
#include "csv-export/csv_internal.h"

struct csv_call {
    struct list node; /* volume->calls */
    struct csv *csv;
    struct co *co;
    struct co_cond changed; /* ended */
    bool ended;
    struct bus_send send;
    struct bus_reply reply;
    int result;
};

static void call_main(void *arg)
{
    struct csv_call *call = arg;

    call->result = co_bus_call(call->csv->options.bus, &call->send, UINT64_MAX, &call->reply);
    list_remove(&call->node);
    call->ended = true;
    co_cond_signal(&call->changed);
}

/* Who waits may be cancelled: then the call is, and comes to its end soon. */
static void co_call_wait(struct csv_call *call)
{
    int r = 0;

    while (!call->ended && r == 0)
        r = co_cond_wait(&call->changed);
    if (!call->ended)
        co_cancel(call->co);
    while (!call->ended)
        co_cond_wait_always(&call->changed);
}

/* Sends and waits. Returns 0 (call->reply says more), or an error of the connection. */
static int co_call(struct csv_volume *volume, struct csv_call *call)
{
    int r;

    call->csv = volume->csv;
    co_cond_init(&call->changed);
    call->send.to = volume->owner;
    call->send.channel = BUS_DATA;
    call->send.flags = BUS_CHECKSUM;
    r = co_spawn_handle(volume->csv->io, "csv call", call_main, call, &call->co);
    if (r < 0)
        return r;
    list_push_back(&volume->calls, &call->node);
    co_call_wait(call);
    return call->result;
}

void csv_cancel_calls(struct csv_volume *volume)
{
    list_for_each_safe (node, &volume->calls)
        co_cancel(list_entry(node, struct csv_call, node)->co);
}

/* Is the session that the request is for still that of the owner? */
static bool is_current(const struct csv_volume *volume, const struct csv_request *request)
{
    return volume->session == request->session && volume->owner != 0 &&
           volume->owner != volume->csv->options.node && !volume->removed && !volume->csv->stopped;
}

static int co_attach(struct csv_volume *volume, const struct csv_request *request,
                     uint64_t connection)
{
    struct csv_attach attach = {
        .volume = volume->id,
        .session = request->session,
        .client_counter = volume->csv->options.start_counter,
    };
    uint8_t bytes[CSV_ATTACH_BYTES];
    struct csv_call call = {
        .send = {.type = CSV_MSG_ATTACH,
                 .connection = connection,
                 .header = bytes,
                 .header_bytes = sizeof(bytes)},
    };

    csv_attach_encode(&attach, bytes);
    if (co_call(volume, &call) < 0 || call.reply.result < 0)
        return -ESTALE;
    volume->attached_connection = connection;
    volume->attached_session = request->session;
    return 0;
}

static bool is_attached(const struct csv_volume *volume, const struct csv_request *request,
                        uint64_t connection)
{
    return volume->attached_connection == connection &&
           volume->attached_session == request->session;
}

/* The connection to send on. Returns 0 or -ESTALE. */
static int co_connection(struct csv_volume *volume, const struct csv_request *request,
                         uint64_t *ret_connection)
{
    uint64_t connection;
    int r = 0;

    if (!is_current(volume, request))
        return -ESTALE;
    connection = bus_connection(volume->csv->options.bus, volume->owner, BUS_DATA);
    if (connection == 0)
        return -ESTALE;
    if (!is_attached(volume, request, connection)) {
        co_mutex_lock(&volume->attaching);
        if (!is_current(volume, request))
            r = -ESTALE;
        else if (!is_attached(volume, request, connection))
            r = co_attach(volume, request, connection);
        co_mutex_unlock(&volume->attaching);
    }
    if (r == 0 && !is_current(volume, request))
        r = -ESTALE;
    *ret_connection = connection;
    return r;
}

static int co_send(struct csv_volume *volume, const struct csv_request *request,
                   uint64_t connection, struct csv_reply *reply)
{
    uint8_t request_bytes[CSV_REQUEST_MAX], reply_bytes[CSV_REPLY_BYTES];
    struct csv_call call = {
        .send = {.type = CSV_MSG_REQUEST,
                 .connection = connection,
                 .header = request_bytes,
                 .data = request->bulk,
                 .data_bytes = request->bulk_bytes},
        .reply = {.header = reply_bytes,
                  .header_bytes = sizeof(reply_bytes),
                  .data = reply->bulk,
                  .data_bytes = csv_reply_room(request)},
    };
    int r;

    r = csv_request_encode(request, request_bytes);
    if (r < 0)
        return r;
    call.send.header_bytes = r;
    r = co_call(volume, &call);
    if (r == -ENOMEM || r == -EMSGSIZE)
        return r;
    if (r < 0)
        return -ESTALE;
    if (call.reply.header_bytes == 0) { /* it was not run */
        counter_add(&volume->csv->counters.refused, 1);
        SOMETIMES_IF(call.reply.result == -ENOTCONN, "csv: a request finds itself not attached");
        if (call.reply.result == -ENOTCONN)
            volume->attached_connection = 0;
        return -ESTALE;
    }
    if (csv_reply_decode(reply_bytes, call.reply.header_bytes, reply) < 0)
        return -ESTALE;
    reply->bulk_bytes = call.reply.data_bytes;
    return call.reply.result;
}

int co_csv_redirect(struct csv_volume *volume, const struct csv_request *request,
                    struct csv_reply *reply)
{
    bool large = MAX(request->bulk_bytes, csv_reply_room(request)) > CSV_SMALL_BYTES;
    struct co_sem *window = large ? &volume->large_window : &volume->small_window;
    uint64_t connection;
    int r;

    r = co_sem_take(window, 1);
    if (r < 0)
        return r;
    r = co_connection(volume, request, &connection);
    if (r == 0) {
        counter_add(&volume->csv->counters.redirected, 1);
        r = co_send(volume, request, connection, reply);
    }
    co_sem_give(window, 1);
    return r;
}
