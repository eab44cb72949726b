/* Sending, and requests that wait for replies. A call lives in its caller's memory, found by its
 * number in a small table. It ends once: by its reply, its time-out, its connection's end, or
 * bus_call_cancel(). When the connection still reads from or writes to the caller's memory (large
 * data), done() waits for that: the pins. */
#include "s2d/bus/bus_internal.h"

static struct list *call_bucket(struct bus *bus, uint64_t request)
{
    return &bus->calls[request % CALL_BUCKETS];
}

/* ---- the end of a call ---- */

static void call_finish(struct bus_call *call)
{
    call->done(call, call->result);
}

static void call_end(struct bus_call *call, int result)
{
    assert(!call->ended);
    call->ended = true;
    call->result = result;
    list_remove(&call->node);
    io_timer_disarm(call->bus->io, &call->timer);
    if (call->pins == 0)
        call_finish(call);
}

void call_unpin(struct bus_call *call, enum call_pin pin)
{
    assert(call->pins & pin);
    call->pins &= ~pin;
    if (call->ended && call->pins == 0)
        call_finish(call);
}

/* A reply that is arriving is waited for: its memory is lent, and the peer is alive. */
static void call_timed_out(void *arg)
{
    struct bus_call *call = arg;

    if (!(call->pins & CALL_RECEIVING))
        call_end(call, -ETIMEDOUT);
}

static void call_request_sent(void *arg)
{
    struct bus_call *call = arg;

    if (call->sent)
        call->sent(call->sent_arg);
    call_unpin(call, CALL_SENDING);
}

void bus_call_cancel(struct bus_call *call, int result)
{
    if (!call->ended)
        call_end(call, result);
}

void call_fail_all(struct bus *bus, uint64_t connection, int error)
{
    struct list failed;

    list_init(&failed); /* apart: done() may start new calls */
    for (unsigned i = 0; i < CALL_BUCKETS; i++) {
        list_for_each_safe (node, &bus->calls[i]) {
            struct bus_call *call = list_entry(node, struct bus_call, node);

            if (connection == 0 || call->connection == connection) {
                list_remove(node);
                list_push_back(&failed, node);
            }
        }
    }
    while (!list_empty(&failed))
        call_end(list_first(&failed, struct bus_call, node), error);
}

/* ---- replies ---- */

struct bus_call *call_find(struct connection *connection, uint64_t request)
{
    list_for_each (node, call_bucket(connection->bus, request)) {
        struct bus_call *call = list_entry(node, struct bus_call, node);

        if (call->request == request && call->connection == connection->number)
            return call;
    }
    return NULL;
}

bool call_admit(struct bus_call *call, const struct frame *frame)
{
    const struct bus_reply *reply = call->reply;

    if (frame->header_bytes <= reply->header_bytes && frame->data_bytes <= reply->data_bytes)
        return true;
    call_end(call, -EPROTO);
    return false;
}

void call_replied(struct bus_call *call, const struct frame *frame, const void *header)
{
    struct bus_reply *reply = call->reply;

    reply->result = frame->result;
    reply->header_bytes = frame->header_bytes;
    reply->data_bytes = frame->data_bytes;
    if (frame->header_bytes > 0)
        memcpy(reply->header, header, frame->header_bytes);
    call_end(call, 0);
}

/* ---- sending ---- */

static int check_send(const struct bus_send *send)
{
    assert(send->type > 0 && send->type <= BUS_TYPE_MAX);
    if (send->header_bytes > BUS_HEADER_MAX || send->data_bytes > BUS_PAYLOAD_MAX)
        return -EMSGSIZE;
    return 0;
}

/* Sends on the connection that is up, and spends the credit. */
static int send_on(struct connection *connection, const struct bus_send *send, uint64_t request,
                   struct send_done done)
{
    struct frame frame = {
        .kind = request ? FRAME_REQUEST : FRAME_MESSAGE,
        .type = send->type,
        .flags = send->flags,
        .request = request,
    };
    struct send_payload payload = {
        .header = send->header,
        .header_bytes = send->header_bytes,
        .data = send->data,
        .data_bytes = send->data_bytes,
        .done = done,
    };

    uint32_t cost = send->channel == BUS_DATA ? credit_cost(send->data_bytes) : 0;
    int r;

    if (connection->unspent < cost)
        return -EAGAIN;
    r = connection_send(connection, &frame, &payload);
    if (r == 0)
        connection->unspent -= cost;
    return r;
}

static struct connection *connection_for(struct bus *bus, const struct bus_send *send)
{
    struct connection *connection = bus_find_connection(bus, send->to, send->channel);

    if (connection && send->connection != 0 && connection->number != send->connection)
        return NULL;
    return connection;
}

int bus_send(struct bus *bus, const struct bus_send *send)
{
    struct connection *connection = connection_for(bus, send);
    int r;

    assert(send->sent || send->data_bytes <= BUS_COPY_MAX);
    r = check_send(send);
    if (r < 0)
        return r;
    if (!connection)
        return -ENOTCONN;
    return send_on(connection, send, 0, (struct send_done){send->sent, send->sent_arg});
}

/* ---- calls ---- */

/* The credit is taken already. */
static int call_start(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                      struct bus_call *call)
{
    struct connection *connection = connection_for(bus, request);
    struct send_done done = {request->sent, request->sent_arg};
    int r;

    if (!connection)
        return -ENOTCONN;
    call->bus = bus;
    call->request = ++bus->next_request;
    call->connection = connection->number;
    call->sent = request->sent;
    call->sent_arg = request->sent_arg;
    call->pins = 0;
    call->ended = false;
    if (request->data_bytes > BUS_COPY_MAX) {
        call->pins = CALL_SENDING;
        done = (struct send_done){call_request_sent, call};
    }
    r = send_on(connection, request, call->request, done);
    if (r < 0)
        return r;
    list_push_back(call_bucket(bus, call->request), &call->node);
    io_timer_init(&call->timer, call_timed_out, call);
    if (timeout_ns != UINT64_MAX)
        io_timer_arm(bus->io, &call->timer, io_now_ns(bus->io) + timeout_ns);
    return 0;
}

/* The credit was taken just now, for a call that could not begin. */
static void call_return_credit(struct bus *bus, const struct bus_send *request)
{
    if (request->channel == BUS_DATA)
        bus_put_credit(bus, request->to, bus_connection(bus, request->to, BUS_DATA),
                       request->data_bytes);
}

int bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
             struct bus_call *call)
{
    int r;

    r = check_send(request);
    if (r == 0 && request->channel == BUS_DATA)
        r = bus_try_credit(bus, request->to, request->data_bytes);
    if (r < 0)
        return r;
    r = call_start(bus, request, timeout_ns, call);
    if (r < 0)
        call_return_credit(bus, request);
    return r;
}

struct waiting_call {
    struct bus_call call;
    struct co_cond ended;
    struct co_group group; /* for the wait that cannot be cancelled */
    bool done;
    int result;
};

static void waiting_call_done(struct bus_call *call, int result)
{
    struct waiting_call *waiting = container_of(call, struct waiting_call, call);

    waiting->done = true;
    waiting->result = result;
    co_cond_signal(&waiting->ended);
    co_group_done(&waiting->group);
}

int co_bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                struct bus_reply *reply)
{
    struct waiting_call waiting = {.call = {.reply = reply, .done = waiting_call_done}};
    int r;

    r = check_send(request);
    if (r == 0 && request->channel == BUS_DATA)
        r = co_bus_credit(bus, request->to, request->data_bytes);
    if (r < 0)
        return r;
    r = call_start(bus, request, timeout_ns, &waiting.call);
    if (r < 0) {
        call_return_credit(bus, request);
        return r;
    }

    co_cond_init(&waiting.ended);
    co_group_init(&waiting.group);
    co_group_add(&waiting.group, 1);
    r = co_cond_wait(&waiting.ended);
    if (!waiting.done) {
        assert(r == -ECANCELED);
        bus_call_cancel(&waiting.call, -ECANCELED);
        co_group_wait(&waiting.group);
    }
    return waiting.result;
}

/* ---- replies, from the other side ---- */

static struct connection *connection_of(struct bus *bus, const struct bus_message *message)
{
    struct connection *connection;

    if (message->from != 0) {
        connection = bus_find_connection(bus, message->from, message->channel);
        return connection && connection->number == message->connection ? connection : NULL;
    }
    list_for_each (node, &bus->connections) {
        connection = list_entry(node, struct connection, node);
        if (connection->up && connection->number == message->connection)
            return connection;
    }
    return NULL;
}

int bus_reply(struct bus *bus, const struct bus_message *message, int result,
              const struct bus_send *send)
{
    static const struct bus_send nothing;
    struct connection *connection = connection_of(bus, message);
    struct frame frame = {.kind = FRAME_REPLY, .request = message->request, .result = result};
    struct send_payload payload;

    if (!send)
        send = &nothing;
    assert(message->request != 0);
    assert(result <= 0 && result >= -4095);
    assert(send->sent || send->data_bytes <= BUS_COPY_MAX);
    if (send->header_bytes > BUS_HEADER_MAX || send->data_bytes > BUS_PAYLOAD_MAX)
        return -EMSGSIZE;
    if (!connection) {
        if (send->sent)
            send->sent(send->sent_arg);
        return 0;
    }
    frame.flags = send->flags;
    payload = (struct send_payload){
        .header = send->header,
        .header_bytes = send->header_bytes,
        .data = send->data,
        .data_bytes = send->data_bytes,
        .done = {send->sent, send->sent_arg},
    };
    return connection_send(connection, &frame, &payload);
}
