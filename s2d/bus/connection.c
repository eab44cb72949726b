/* A connection moves bytes.
 *
 * Out: messages of a turn are copied, one after the other, into the last batch of a queue; at the
 * end of the turn (io_defer) the first batch leaves in one gather-send. While it is under way the
 * next one gathers: the busier, the larger the batches. Data above BUS_COPY_MAX is not copied but
 * sent from its place, as a piece of its own.
 *
 * In: one receive is always pending, into a buffer of 256 KiB; so a peer that sends is never
 * blocked by us, which is what keeps the bus free of circles (memory for what comes is there:
 * credit.c). Whole frames are delivered from the buffer. The data of a large one is received
 * straight to where it shall lie, behind what of it was in the buffer already.
 *
 * An end has two steps: connection_break() makes it deaf and dumb at once and tells everybody;
 * settle() frees it when the transport has given back the memory that was lent to it. */
#include "s2d/bus/bus_internal.h"

static void settle(struct connection *connection);

/* ---- batches ---- */

static struct send_batch *batch_get(struct bus *bus)
{
    struct list *node = list_pop_front(&bus->free_batches);
    struct send_batch *batch;

    if (node) {
        bus->free_batch_count--;
        batch = list_entry(node, struct send_batch, node);
    } else {
        batch = malloc(sizeof(*batch));
        if (!batch)
            return NULL;
    }
    list_init(&batch->node);
    batch->used = 0;
    batch->bytes = 0;
    batch->piece_count = 0;
    batch->done_count = 0;
    return batch;
}

static void batch_put(struct bus *bus, struct send_batch *batch)
{
    if (bus->free_batch_count >= FREE_BATCHES_MAX) {
        free(batch);
        return;
    }
    list_push_front(&bus->free_batches, &batch->node); /* the next one is warm in the cache */
    bus->free_batch_count++;
}

/* Everything of it has left, or never will. */
static void batch_finish(struct bus *bus, struct send_batch *batch)
{
    for (unsigned i = 0; i < batch->done_count; i++)
        batch->done[i].fn(batch->done[i].arg);
    batch_put(bus, batch);
}

/* Two pieces at most for a message: what is copied, and large data. */
static bool batch_has_room(const struct send_batch *batch, size_t copied)
{
    return batch->used + copied <= BATCH_COPY_BYTES && batch->bytes < BATCH_BYTES_MAX &&
           batch->piece_count + 2 <= BATCH_PIECES && batch->done_count < BATCH_PIECES;
}

static struct send_batch *gathering_batch(struct connection *connection, size_t copied)
{
    struct list *last = connection->batches.prev;
    bool leaving = connection->sending && last == connection->batches.next;
    struct send_batch *batch;

    if (last != &connection->batches && !leaving) {
        batch = list_entry(last, struct send_batch, node);
        if (batch_has_room(batch, copied))
            return batch;
    }
    batch = batch_get(connection->bus);
    if (batch)
        list_push_back(&connection->batches, &batch->node);
    return batch;
}

static void batch_add_piece(struct send_batch *batch, const void *data, size_t bytes)
{
    struct iovec *last = batch->piece_count > 0 ? &batch->pieces[batch->piece_count - 1] : NULL;

    batch->bytes += bytes;
    if (last && (char *)last->iov_base + last->iov_len == (const char *)data) {
        last->iov_len += bytes;
        return;
    }
    assert(batch->piece_count < BATCH_PIECES);
    batch->pieces[batch->piece_count++] =
        (struct iovec){.iov_base = (void *)data, .iov_len = bytes};
}

static void batch_copy(struct send_batch *batch, const void *data, size_t bytes)
{
    char *to = batch->copy + batch->used;

    assert(batch->used + bytes <= BATCH_COPY_BYTES);
    if (bytes == 0)
        return;
    memcpy(to, data, bytes);
    batch->used += bytes;
    batch_add_piece(batch, to, bytes);
}

/* ---- sending ---- */

static void flush_soon(struct connection *connection)
{
    if (list_empty(&connection->flush_node))
        list_push_back(&connection->bus->to_flush, &connection->flush_node);
    io_defer(connection->bus->io, &connection->bus->flush_task);
}

static void send_done(struct io_op *op, int result)
{
    struct connection *connection = container_of(op, struct connection, send_op);
    struct send_batch *batch = list_first(&connection->batches, struct send_batch, node);

    connection->sending = false;
    if (connection->up && result < 0)
        connection_break(connection, "sending failed", result);
    if (!connection->up) {
        settle(connection);
        return;
    }
    list_remove(&batch->node);
    connection->queued_bytes -= batch->used;
    if (!list_empty(&connection->batches))
        flush_soon(connection);
    batch_finish(connection->bus, batch);
}

static void send_first_batch(struct connection *connection)
{
    struct bus_counters *counters = &connection->bus->counters[connection->channel];
    struct send_batch *batch;

    if (!connection->up || connection->sending || list_empty(&connection->batches))
        return;
    batch = list_first(&connection->batches, struct send_batch, node);
    connection->sending = true;
    connection->spoke = true;
    counter_add(&counters->batches, 1);
    counter_add(&counters->bytes_sent, batch->bytes);
    connection->send_op.done = send_done;
    connection->stream->transport->sendv(connection->stream, &connection->send_op, batch->pieces,
                                         (int)batch->piece_count);
}

void connection_flush_all(void *arg)
{
    struct bus *bus = arg;
    struct list *node;

    while ((node = list_pop_front(&bus->to_flush)))
        send_first_batch(list_entry(node, struct connection, flush_node));
}

int connection_send_bytes(struct connection *connection, const void *bytes, size_t length)
{
    struct send_batch *batch = gathering_batch(connection, length);

    if (!batch)
        return -ENOMEM;
    batch_copy(batch, bytes, length);
    connection->queued_bytes += length;
    flush_soon(connection);
    return 0;
}

static void frame_complete(struct connection *connection, struct frame *frame,
                           const struct send_payload *payload)
{
    frame->version = (uint8_t)connection->version;
    frame->header_bytes = payload->header_bytes;
    frame->data_bytes = payload->data_bytes;
    frame->granted = credit_grant(connection);
    frame->payload_crc = 0;
    if (frame->flags & BUS_CHECKSUM)
        frame->payload_crc = frame_payload_crc(payload->header, payload->header_bytes,
                                               payload->data, payload->data_bytes);
}

int connection_send(struct connection *connection, struct frame *frame,
                    const struct send_payload *payload)
{
    bool in_place = payload->data_bytes > BUS_COPY_MAX;
    uint32_t data_copied = in_place ? 0 : payload->data_bytes;
    size_t copied = FRAME_BYTES + payload->header_bytes + data_copied;
    uint64_t queued_max = connection->channel == BUS_CONTROL ? CONTROL_QUEUE_MAX : DATA_QUEUE_MAX;
    uint8_t bytes[FRAME_BYTES];
    struct send_batch *batch;

    assert(connection->up);
    if (connection->queued_bytes + copied > queued_max)
        return -ENOBUFS;
    batch = gathering_batch(connection, copied);
    if (!batch)
        return -ENOMEM;

    frame_complete(connection, frame, payload);
    frame_encode(frame, bytes);
    batch_copy(batch, bytes, sizeof(bytes));
    batch_copy(batch, payload->header, payload->header_bytes);
    batch_copy(batch, payload->data, data_copied);
    if (in_place)
        batch_add_piece(batch, payload->data, payload->data_bytes);
    if (payload->done.fn)
        batch->done[batch->done_count++] = payload->done;

    connection->queued_bytes += copied;
    counter_add(&connection->bus->counters[connection->channel].messages_sent, 1);
    flush_soon(connection);
    return 0;
}

/* ---- receiving ---- */

static const char *check_payload(const struct frame *frame, const void *header, const void *data)
{
    if (!(frame->flags & BUS_CHECKSUM))
        return NULL;
    if (frame_payload_crc(header, frame->header_bytes, data, frame->data_bytes) !=
        frame->payload_crc)
        return "checksum of a payload is wrong";
    return NULL;
}

static void take_reply(struct connection *connection, const struct frame *frame, const char *header,
                       const char *data)
{
    struct bus_call *call = call_find(connection, frame->request);

    if (!call || !call_admit(call, frame)) /* it has timed out, or has no room */
        return;
    if (frame->data_bytes > 0)
        memcpy(call->reply->data, data, frame->data_bytes);
    call_replied(call, frame, header);
}

static const char *take_message(struct connection *connection, const struct frame *frame,
                                const char *header, const char *data)
{
    struct landing landing = {.kind = LANDING_NONE};
    const char *why;

    why = receive_admit(connection, frame, &landing);
    if (why)
        return why;
    if (frame->data_bytes > 0)
        memcpy(landing.data, data, frame->data_bytes);
    return receive_message(connection, frame, header, &landing);
}

/* A frame that lies whole in the buffer. */
static const char *take_whole(struct connection *connection, const struct frame *frame)
{
    const char *header = connection->buffer + connection->start + FRAME_BYTES;
    const char *data = header + frame->header_bytes;
    const char *why;

    connection->start += frame_total_bytes(frame);
    why = check_payload(frame, header, data);
    if (why)
        return why;
    switch (frame->kind) {
    case FRAME_MESSAGE:
    case FRAME_REQUEST:
        return take_message(connection, frame, header, data);
    case FRAME_REPLY:
        take_reply(connection, frame, header, data);
        break;
    case FRAME_GRANT:
    case FRAME_PING:
        break;
    }
    return NULL;
}

static const char *place_large(struct connection *connection, const struct frame *frame)
{
    struct bus_call *call;

    if (frame->kind != FRAME_REPLY)
        return receive_admit(connection, frame, &connection->large.landing);

    call = call_find(connection, frame->request);
    connection->large.landing = (struct landing){.kind = LANDING_CALL};
    connection->large.skip = !call || !call_admit(call, frame);
    if (connection->large.skip)
        return NULL;
    connection->large.landing.data = call->reply->data;
    connection->large.call = call;
    call->pins |= CALL_RECEIVING;
    return NULL;
}

/* A frame whose data is not all there and too large for the buffer. Its frame and header part stay
 * in the buffer. */
static const char *begin_large(struct connection *connection, const struct frame *frame)
{
    uint32_t fixed = FRAME_BYTES + frame->header_bytes;
    uint32_t have = connection->end - connection->start - fixed;
    const char *why;

    connection->large.frame = *frame;
    connection->large.call = NULL;
    connection->large.skip = false;
    why = place_large(connection, frame);
    if (why)
        return why;
    connection->large.active = true;
    connection->large.have = have;
    if (connection->large.skip) {
        connection->start = 0;
        connection->end = 0;
        return NULL;
    }
    memcpy(connection->large.landing.data, connection->buffer + connection->start + fixed, have);
    connection->end = connection->start + fixed;
    return NULL;
}

static const char *finish_large(struct connection *connection)
{
    const struct frame *frame = &connection->large.frame;
    const char *header = connection->buffer + connection->start + FRAME_BYTES;
    struct bus_call *call = take_ptr(connection->large.call);
    const char *why = NULL;

    connection->large.active = false;
    connection->start = 0;
    connection->end = 0; /* header still lies there: nothing is received before we return */
    if (connection->large.skip)
        return NULL;
    why = check_payload(frame, header, connection->large.landing.data);
    if (frame->kind == FRAME_REPLY) {
        if (!why && !call->ended)
            call_replied(call, frame, header);
        call_unpin(call, CALL_RECEIVING);
        return why;
    }
    if (why) {
        landing_release(connection->bus, connection->peer, &connection->large.landing);
        return why;
    }
    return receive_message(connection, frame, header, &connection->large.landing);
}

/* Delivers what is in the buffer. Returns NULL, or what is wrong with it. */
static const char *parse(struct connection *connection)
{
    while (connection->up && !connection->large.active) {
        uint32_t have = connection->end - connection->start;
        struct frame frame;
        const char *why;
        bool whole;

        if (have < FRAME_BYTES)
            return NULL;
        if (frame_decode((uint8_t *)connection->buffer + connection->start, &frame, &why) < 0)
            return why;
        whole = frame_total_bytes(&frame) <= have;
        if (!whole && (frame.data_bytes <= BUS_COPY_MAX || have < FRAME_BYTES + frame.header_bytes))
            return NULL;
        if (frame.version != connection->version)
            return "a frame of another version than agreed";
        why = credit_granted(connection, frame.granted);
        if (!why)
            why = whole ? take_whole(connection, &frame) : begin_large(connection, &frame);
        if (why)
            return why;
    }
    return NULL;
}

/* The largest thing that must fit behind start: a frame that is not received in place. */
#define BUFFERED_MAX (FRAME_BYTES + BUS_HEADER_MAX + BUS_COPY_MAX)

static void make_room(struct connection *connection)
{
    uint32_t have = connection->end - connection->start;

    if (connection->start == 0 ||
        (have > 0 && RECEIVE_BUFFER_BYTES - connection->start > 2 * BUFFERED_MAX))
        return;
    memmove(connection->buffer, connection->buffer + connection->start, have);
    connection->start = 0;
    connection->end = have;
}

static void recv_done(struct io_op *op, int result);

static void receive_more(struct connection *connection)
{
    uint32_t left = connection->large.frame.data_bytes - connection->large.have;
    size_t length;
    char *to;

    if (!connection->large.active) {
        make_room(connection);
        to = connection->buffer + connection->end;
        length = RECEIVE_BUFFER_BYTES - connection->end;
    } else if (connection->large.skip) {
        to = connection->buffer;
        length = MIN(left, RECEIVE_BUFFER_BYTES);
    } else {
        to = connection->large.landing.data + connection->large.have;
        length = left;
    }
    connection->receiving = true;
    connection->recv_op.done = recv_done;
    connection->stream->transport->recv(connection->stream, &connection->recv_op, to, length);
}

static const char *take_bytes(struct connection *connection, uint32_t bytes)
{
    if (!connection->large.active) {
        connection->end += bytes;
        return parse(connection);
    }
    connection->large.have += bytes;
    if (connection->large.have < connection->large.frame.data_bytes)
        return NULL;
    return finish_large(connection);
}

static void recv_done(struct io_op *op, int result)
{
    struct connection *connection = container_of(op, struct connection, recv_op);
    struct bus_counters *counters = &connection->bus->counters[connection->channel];
    const char *why;

    connection->receiving = false;
    if (connection->up && result <= 0)
        connection_break(connection, result < 0 ? "receiving failed" : "closed by the peer",
                         result);
    if (!connection->up) {
        settle(connection);
        return;
    }
    connection->heard = true;
    counter_add(&counters->receives, 1);
    counter_add(&counters->bytes_received, result);

    connection->delivering = true; /* a handler may end us; not free us */
    why = take_bytes(connection, result);
    connection->delivering = false;
    if (why)
        connection_break(connection, why, -EPROTO);
    if (connection->up)
        receive_more(connection);
    else
        settle(connection);
}

/* ---- life ---- */

static void settle_task(void *arg)
{
    settle(arg);
}

int connection_new(struct bus *bus, const struct connection_start *start,
                   struct connection **ret_connection)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (!connection)
        return -ENOMEM;
    connection->buffer = malloc(RECEIVE_BUFFER_BYTES);
    if (!connection->buffer) {
        free(connection);
        return -ENOMEM;
    }
    connection->bus = bus;
    connection->link = start->link;
    connection->peer = start->link ? start->link->peer : NULL;
    connection->channel = start->link ? start->link->channel : BUS_CONTROL;
    connection->number = ++bus->next_connection;
    connection->version = start->version;
    connection->dialed = start->dialed;
    connection->attempt = start->attempt;
    connection->stream = start->stream;
    connection->up = true;
    if (start->key_id)
        memcpy(connection->key_id, start->key_id, sizeof(connection->key_id));
    list_init(&connection->batches);
    list_init(&connection->flush_node);
    io_task_init(&connection->settle_task, settle_task, connection);
    list_push_back(&bus->connections, &connection->node);
    co_group_add(&bus->group, 1);
    if (connection->peer)
        peer_get(connection->peer);
    else
        bus->guest_count++;
    *ret_connection = connection;
    return 0;
}

static void send_bare(struct connection *connection, enum frame_kind kind)
{
    struct frame frame = {.kind = kind};
    struct send_payload nothing = {.header = NULL};
    int r;

    r = connection_send(connection, &frame, &nothing);
    (void)r; /* no memory: the next frame, or the next tick's, says the same */
}

void connection_send_grant(struct connection *connection)
{
    send_bare(connection, FRAME_GRANT);
}

void connection_start(struct connection *connection)
{
    if (connection->channel == BUS_DATA)
        connection_send_grant(connection);
    receive_more(connection);
}

void connection_break(struct connection *connection, const char *why, int error)
{
    struct bus *bus = connection->bus;

    if (!connection->up)
        return;
    connection->up = false;
    list_remove(&connection->flush_node);
    connection->stream->transport->shutdown(connection->stream);
    io_queue(bus->io, &connection->settle_task);
    log_info(bus->io, "bus", "disconnected", "peer=%llu channel=%s address=%s why=\"%s\" error=%d",
             connection->peer ? (unsigned long long)connection->peer->node : 0ULL,
             bus_channel_name(connection->channel),
             connection->stream->transport->peer(connection->stream), why, -error);
    counter_add(&bus->counters[connection->channel].disconnects, 1);
    if (connection->link)
        link_lost(connection->link, connection);
    call_fail_all(bus, connection->number, -ENOTCONN);
}

/* The memory that the transport has borrowed is ours again: gives back everything else. */
static void settle(struct connection *connection)
{
    struct bus *bus = connection->bus;
    struct list *node;

    assert(!connection->up);
    if (connection->sending || connection->receiving || connection->delivering)
        return;
    io_task_cancel(&connection->settle_task);
    list_remove(&connection->node);
    while ((node = list_pop_front(&connection->batches)))
        batch_finish(bus, list_entry(node, struct send_batch, node));
    if (connection->large.active && connection->large.call)
        call_unpin(connection->large.call, CALL_RECEIVING);
    else if (connection->large.active)
        landing_release(bus, connection->peer, &connection->large.landing);
    connection->stream->transport->close(connection->stream);
    if (connection->peer)
        peer_put(connection->peer);
    else
        bus->guest_count--;
    free(connection->buffer);
    free(connection);
    co_group_done(&bus->group);
}

/* Counts our own ticks, not time: a process that was stopped does not blame its peers for it. */
void connection_tick(struct connection *connection)
{
    bool is_guest = connection->peer == NULL;

    if (!connection->up)
        return;
    connection->silent_ticks = connection->heard && !is_guest ? 0 : connection->silent_ticks + 1;
    if (connection->heard && connection->link)
        connection->link->failures = 0;
    if (connection->silent_ticks >= (is_guest ? GUEST_LIFE_TICKS : SILENT_TICKS_MAX)) {
        connection_break(connection, is_guest ? "guests do not stay" : "nothing heard", -ETIMEDOUT);
        return;
    }
    if (!connection->spoke && !connection->sending && !is_guest)
        send_bare(connection, FRAME_PING);
    connection->heard = false;
    connection->spoke = false;
}
