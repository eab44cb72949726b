/* The owner's end of what store_messages.h describes.
 *
 * A stream's appends stand in one list in their order. Acknowledgements end them from the front; a
 * break (the connection, the server's BROKEN, a detach) ends all of them. An append whose data the
 * bus still reads from its place completes when the bus lets go of it, and those behind it wait, so
 * that done() comes in order. Cookies carry a generation: what is said about an earlier attachment
 * finds nobody. */
#include "resiliency/store_client_private.h"

/* ---- cookies ---- */

static int slot_take(struct store_client *client, struct column_stream *stream)
{
    struct client_slot *slots;
    uint32_t index = 0;

    while (index < client->slot_count && client->slots[index].stream)
        index++;
    if (index == client->slot_count) {
        slots = realloc(client->slots, (2 * client->slot_count + 16) * sizeof(*slots));
        if (!slots)
            return -ENOMEM;
        client->slots = slots;
        memset(slots + client->slot_count, 0, (client->slot_count + 16) * sizeof(*slots));
        client->slot_count = 2 * client->slot_count + 16;
    }
    client->slots[index].stream = stream;
    client->slots[index].generation++;
    stream->cookie = (uint64_t)client->slots[index].generation << 32 | (index + 1);
    return 0;
}

static void slot_release(struct store_client *client, struct column_stream *stream)
{
    uint32_t index = (uint32_t)stream->cookie;

    if (index > 0)
        client->slots[index - 1].stream = NULL;
    stream->cookie = 0;
}

static struct column_stream *slot_find(const struct store_client *client, uint64_t cookie)
{
    uint32_t index = (uint32_t)cookie;

    if (index == 0 || index > client->slot_count || !client->slots[index - 1].stream ||
        client->slots[index - 1].stream->cookie != cookie)
        return NULL;
    return client->slots[index - 1].stream;
}

/* ---- the end of appends ---- */

static void complete_stream(struct column_stream *stream)
{
    while (!list_empty(&stream->in_flight)) {
        struct column_append *first = list_first(&stream->in_flight, struct column_append, node);

        if (!first->ended || first->sending)
            return;
        list_remove(&first->node);
        if (list_empty(&stream->in_flight))
            list_remove(&stream->node); /* its owner may free it once it is idle */
        first->store.done(&first->store, first->result);
    }
}

static void complete_ended(void *arg)
{
    struct store_client *client = arg;
    struct list *node;

    while ((node = list_pop_front(&client->ended)))
        complete_stream(list_entry(node, struct column_stream, node));
}

/* Not from inside of whoever made it end. */
static void complete_later(struct column_stream *stream)
{
    struct store_client *client = peer_of(stream)->client;

    list_remove(&stream->node);
    list_push_back(&client->ended, &stream->node);
    io_queue(client->io, &client->ended_task);
}

static void stream_fail(struct column_stream *stream, int error)
{
    stream->attached = false;
    list_for_each (node, &stream->in_flight) {
        struct column_append *append = list_entry(node, struct column_append, node);

        list_remove(&append->wait_node);
        if (append->ended)
            continue;
        append->ended = true;
        append->result = error;
    }
    if (!list_empty(&stream->in_flight))
        complete_later(stream);
}

/* The server has ended the attachment. One whose seal was answered, and whose coroutine has not run
 * since, will not be made (remote_seal() looks at the cookie). */
static void stream_lost(struct column_stream *stream, int error)
{
    if (stream->attached)
        stream_fail(stream, error);
    else
        slot_release(peer_of(stream)->client, stream);
}

/* ---- sending records ---- */

static void append_sent(void *arg)
{
    struct column_append *append = arg;

    append->sending = false;
    if (append->ended)
        complete_later(append->stream);
}

static uint32_t data_bytes(const struct column_append *append)
{
    const struct record *record = &append->store.record;

    return record->kind == RECORD_WRITE ? record->count * BLOCK_SIZE : 0;
}

/* Credit for it was taken. */
static void append_transmit(struct column_append *append)
{
    struct column_stream *stream = append->stream;
    struct client_peer *peer = peer_of(stream);
    struct bus *bus = peer->client->bus;
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    struct bus_send send = {
        .to = peer->id,
        .channel = BUS_DATA,
        .connection = stream->connection,
        .type = STORE_RECORD,
        .header = header,
        .data = append->store.data,
        .data_bytes = data_bytes(append),
    };
    int r;

    send.header_bytes =
        store_record_encode(stream->handle, &append->store.record, append->store.sums, header);
    if (send.data_bytes > BUS_COPY_MAX) {
        send.sent = append_sent;
        send.sent_arg = append;
        append->sending = true;
    }
    if (send.data_bytes == 0)
        send.data = NULL;
    r = bus_send(bus, &send);
    if (r == 0)
        return;
    append->sending = false;
    bus_put_credit(bus, peer->id, stream->connection, send.data_bytes);
    stream_fail(stream, r);
}

static void fail_waiting(struct client_peer *peer, int error)
{
    while (!list_empty(&peer->waiting)) {
        struct column_append *append = list_first(&peer->waiting, struct column_append, wait_node);

        stream_fail(append->stream, error); /* takes at least this one out */
    }
}

/* Sends what waits for credit, in order, until nothing does. */
static void sender_run(void *arg)
{
    struct client_peer *peer = arg;
    struct bus *bus = peer->client->bus;

    while (!list_empty(&peer->waiting)) {
        struct column_append *append = list_first(&peer->waiting, struct column_append, wait_node);
        uint32_t bytes = data_bytes(append);
        int r = co_bus_credit(bus, peer->id, bytes);

        if (r < 0) {
            fail_waiting(peer, r);
            break;
        }
        /* Meanwhile it may have ended; who is first now may need another size. */
        if (list_empty(&peer->waiting) ||
            list_first(&peer->waiting, struct column_append, wait_node) != append ||
            data_bytes(append) != bytes) {
            bus_put_credit(bus, peer->id, bus_connection(bus, peer->id, BUS_DATA), bytes);
            continue;
        }
        list_remove(&append->wait_node);
        append_transmit(append);
    }
    peer->sending = false;
}

static void wait_for_credit(struct column_append *append)
{
    struct client_peer *peer = peer_of(append->stream);
    int r;

    SOMETIMES("store-client: records wait for credit");
    list_push_back(&peer->waiting, &append->wait_node);
    if (peer->sending)
        return;
    peer->sending = true;
    r = co_group_spawn(&peer->client->senders, peer->client->io, "records", sender_run, peer);
    if (r < 0) {
        peer->sending = false;
        fail_waiting(peer, r);
    }
}

static void remote_append(struct column_stream *stream, struct column_append *append)
{
    struct client_peer *peer = peer_of(stream);
    int r;

    append->stream = stream;
    append->sending = false;
    append->ended = false;
    list_init(&append->wait_node);
    list_push_back(&stream->in_flight, &append->node);
    if (!stream->attached) {
        stream_fail(stream, -ENOTCONN);
        return;
    }
    r = list_empty(&peer->waiting) ? bus_try_credit(peer->client->bus, peer->id, data_bytes(append))
                                   : -EAGAIN;
    if (r == 0)
        append_transmit(append);
    else if (r == -EAGAIN)
        wait_for_credit(append);
    else
        stream_fail(stream, r);
}

static void remote_detach(struct column_stream *stream)
{
    slot_release(peer_of(stream)->client, stream);
    stream_fail(stream, -ECANCELED);
}

/* ---- what servers say by themselves ---- */

static void handle_acks(void *arg, const struct bus_message *message)
{
    struct store_client *client = arg;
    struct store_ack acks[STORE_ACKS_MAX];
    uint32_t count;

    if (store_acks_decode(message->header, message->header_bytes, acks, &count) < 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        struct column_stream *stream = slot_find(client, acks[i].cookie);

        if (!stream || !stream->attached || peer_of(stream)->id != message->from)
            continue;
        list_for_each (node, &stream->in_flight) {
            struct column_append *append = list_entry(node, struct column_append, node);

            if (append->store.record.position.seq > acks[i].seq)
                break;
            append->ended = true;
            append->result = 0;
        }
        complete_stream(stream);
    }
}

static void handle_broken(void *arg, const struct bus_message *message)
{
    struct store_client *client = arg;
    struct column_stream *stream;
    uint64_t cookie;
    int result;

    if (store_broken_decode(message->header, message->header_bytes, &cookie, &result) < 0)
        return;
    stream = slot_find(client, cookie);
    if (stream && peer_of(stream)->id == message->from)
        stream_lost(stream, result);
}

/* ---- seals ---- */

/* One answer's part of the tail. */
static int take_tail(const struct store_seal_answer *answer, const void *data,
                     struct store_seal *seal)
{
    struct store_tail_record *tail;
    int r;

    if (seal->tail_count + answer->tail_count > TAIL_TOTAL_MAX)
        return -EPROTO;
    tail = realloc(seal->tail, (seal->tail_count + answer->tail_count + 1) * sizeof(*tail));
    if (!tail)
        return -ENOMEM;
    seal->tail = tail;
    r = store_tail_decode(data, answer->tail_count, tail + seal->tail_count);
    if (r == 0)
        seal->tail_count += answer->tail_count;
    return r;
}

static int co_seal_once(struct column_stream *stream, struct store_call *call, void *data,
                        struct store_seal *seal, struct store_seal_answer *ret_answer)
{
    uint8_t header[BUS_HEADER_MAX] __attribute__((aligned(8)));
    struct bus_reply reply = {
        .header = header,
        .header_bytes = sizeof(header),
        .data = data,
        .data_bytes = STORE_TAIL_MAX * sizeof(struct store_tail_format),
    };
    int r, result;

    result = co_client_call(stream->store, STORE_SEAL, BUS_CONTROL, call, NULL,
                            CALL_TIMEOUT_SLOW_NS, &reply);
    if (result < 0 && result != -ESTALE)
        return result;
    r = store_seal_answer_decode(header, reply.header_bytes, reply.data_bytes, ret_answer);
    if (r == 0 && result == 0)
        r = take_tail(ret_answer, data, seal);
    seal->sealed_epoch = ret_answer->sealed_epoch;
    seal->watermark = ret_answer->watermark;
    seal->durable = ret_answer->durable;
    return r < 0 ? r : result;
}

static int co_seal_all(struct column_stream *stream, struct store_call *call,
                       struct store_seal *seal)
{
    cleanup(freep) void *data =
        aligned_alloc(BLOCK_SIZE, STORE_TAIL_MAX * sizeof(struct store_tail_format));
    struct store_seal_answer answer = {0};
    int r;

    if (!data)
        return -ENOMEM;
    do {
        r = co_seal_once(stream, call, data, seal, &answer);
        if (r == 0 && answer.more)
            call->after = seal->tail[seal->tail_count - 1].position;
    } while (r == 0 && answer.more);
    stream->handle = answer.handle;
    return r;
}

static int remote_seal(struct column_stream *stream, uint64_t epoch, uint64_t session,
                       struct store_seal *ret_seal)
{
    struct client_peer *peer = peer_of(stream);
    struct store_client *client = peer->client;
    struct store_seal seal = {0};
    struct store_call call = {.vdisk = stream->vdisk, .epoch = epoch, .position.session = session};
    int r;

    assert(!stream->attached);
    r = slot_take(client, stream);
    if (r < 0)
        return r;
    call.cookie = stream->cookie;
    stream->connection = bus_connection(client->bus, peer->id, BUS_DATA);
    r = stream->connection ? co_seal_all(stream, &call, &seal) : -ENOTCONN;
    if (r == 0 && stream->cookie == call.cookie &&
        bus_connection(client->bus, peer->id, BUS_DATA) == stream->connection) {
        stream->attached = true;
        *ret_seal = seal;
        return 0;
    }
    SOMETIMES_IF(r == 0, "store-client: an attachment was lost while it was made");
    if (r == -ESTALE)
        ret_seal->sealed_epoch = seal.sealed_epoch;
    store_seal_done(&seal);
    if (stream->cookie == call.cookie)
        slot_release(client, stream);
    return r == 0 ? -ENOTCONN : r;
}

static const struct column_store_ops remote_ops = {
    .co_seal = remote_seal,
    .append = remote_append,
    .detach = remote_detach,
    .co_mark = co_client_mark,
    .co_read = co_client_read,
    .co_read_at = co_client_read_at,
    .co_checksums = co_client_checksums,
    .co_drop_tail = co_client_drop_tail,
    .co_compare_set = co_client_compare_set,
    .co_clear_compare = co_client_clear_compare,
};

/* ---- peers ---- */

static struct client_peer *find_peer(struct store_client *client, uint64_t node)
{
    list_for_each (position, &client->peers) {
        struct client_peer *peer = list_entry(position, struct client_peer, node);

        if (peer->id == node)
            return peer;
    }
    return NULL;
}

static bool peer_is_up(const struct client_peer *peer)
{
    return bus_is_up(peer->client->bus, peer->id, BUS_CONTROL) &&
           bus_is_up(peer->client->bus, peer->id, BUS_DATA);
}

void store_client_peer_changed(struct store_client *client, uint64_t node)
{
    struct client_peer *peer = find_peer(client, node);
    bool up;

    if (!peer)
        return;
    up = peer_is_up(peer);
    list_for_each (position, &peer->columns)
        list_entry(position, struct column_remote, node)->base.reachable = up;
    for (uint32_t i = 0; !up && i < client->slot_count; i++) {
        struct column_stream *stream = client->slots[i].stream;

        if (stream && peer_of(stream) == peer)
            stream_lost(stream, -ENOTCONN);
    }
}

static struct client_peer *make_peer(struct store_client *client, uint64_t node)
{
    struct client_peer *peer = calloc(1, sizeof(*peer));

    if (!peer)
        return NULL;
    peer->client = client;
    peer->id = node;
    list_init(&peer->columns);
    list_init(&peer->waiting);
    list_push_back(&client->peers, &peer->node);
    return peer;
}

struct column_store *store_client_column(struct store_client *client, uint64_t node, uint64_t disk)
{
    struct client_peer *peer = find_peer(client, node);
    struct column_remote *remote;

    if (!peer)
        peer = make_peer(client, node);
    if (!peer)
        return NULL;
    list_for_each (position, &peer->columns) {
        remote = list_entry(position, struct column_remote, node);
        if (remote->base.disk == disk)
            return &remote->base;
    }
    remote = calloc(1, sizeof(*remote));
    if (!remote)
        return NULL;
    remote->base = (struct column_store){
        .ops = &remote_ops, .node = node, .disk = disk, .reachable = peer_is_up(peer)};
    remote->peer = peer;
    list_push_back(&peer->columns, &remote->node);
    return &remote->base;
}

/* ---- life ---- */

int store_client_new(struct io *io, struct bus *bus, struct store_client **ret_client)
{
    struct store_client *client = calloc(1, sizeof(*client));

    if (!client)
        return -ENOMEM;
    client->io = io;
    client->bus = bus;
    list_init(&client->peers);
    list_init(&client->ended);
    io_task_init(&client->ended_task, complete_ended, client);
    co_group_init(&client->senders);
    bus_handle(bus, STORE_ACKS, handle_acks, client);
    bus_handle(bus, STORE_BROKEN, handle_broken, client);
    *ret_client = client;
    return 0;
}

static void peer_free(struct client_peer *peer)
{
    struct list *node;

    assert(list_empty(&peer->waiting));
    while ((node = list_pop_front(&peer->columns)))
        free(list_entry(node, struct column_remote, node));
    list_remove(&peer->node);
    free(peer);
}

void co_store_client_free(struct store_client *client)
{
    if (!client)
        return;
    bus_handle(client->bus, STORE_ACKS, NULL, NULL);
    bus_handle(client->bus, STORE_BROKEN, NULL, NULL);
    co_group_wait(&client->senders);
    io_task_cancel(&client->ended_task);
    while (!list_empty(&client->peers))
        peer_free(list_first(&client->peers, struct client_peer, node));
    free(client->slots);
    free(client);
}
