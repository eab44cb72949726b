/* Messages on their way to their handlers. Every one travels in a struct received: lent to the
 * handler for the call, or, when kept, until its release. They and the data slots come from free
 * lists and the receive pool: a message costs no allocation once the bus has warmed up. */
#include "s2d/bus/bus_internal.h"

/* ---- the place of the data ---- */

static bool landing_find(struct bus *bus, uint32_t bytes, struct landing *landing)
{
    landing->bytes = bytes;
    landing->kind = LANDING_POOL;
    landing->data = buffer_try_get(bus->receive_pool, bytes);
    if (landing->data)
        return true;
    /* Credit says there is room, but the pool may be in pieces, or in use by control messages. */
    landing->kind = LANDING_HEAP;
    landing->data = aligned_alloc(BLOCK_SIZE, ALIGN_UP(bytes, BLOCK_SIZE));
    if (landing->data)
        return true;
    landing->kind = LANDING_NONE;
    return false;
}

void landing_release(struct bus *bus, struct peer *peer, struct landing *landing)
{
    switch (landing->kind) {
    case LANDING_POOL:
        buffer_put(bus->receive_pool, landing->data, landing->bytes);
        break;
    case LANDING_HEAP:
        free(landing->data);
        break;
    case LANDING_NONE:
    case LANDING_CALL:
        break;
    }
    landing->kind = LANDING_NONE;
    landing->data = NULL;
    if (peer && landing->cost > 0)
        credit_release(peer, landing->cost);
    landing->cost = 0;
}

const char *receive_admit(struct connection *connection, const struct frame *frame,
                          struct landing *ret_landing)
{
    *ret_landing = (struct landing){.kind = LANDING_NONE};
    if (!connection->peer && frame->data_bytes > GUEST_DATA_MAX)
        return "a guest sent too much";
    if (connection->peer && connection->channel == BUS_DATA) {
        ret_landing->cost = credit_cost(frame->data_bytes);
        if (!credit_charge(connection, ret_landing->cost))
            return "a request came without credit";
    }
    if (frame->data_bytes == 0 || landing_find(connection->bus, frame->data_bytes, ret_landing))
        return NULL;
    landing_release(connection->bus, connection->peer, ret_landing);
    return "out of memory";
}

/* ---- the message ---- */

static struct received *received_get(struct bus *bus)
{
    struct list *node = list_pop_front(&bus->free_received);
    struct received *received =
        node ? list_entry(node, struct received, node) : malloc(sizeof(struct received));

    if (received) {
        list_init(&received->node);
        received->bus = bus;
        received->kept = false;
    }
    return received;
}

static void received_put(struct received *received)
{
    struct bus *bus = received->bus;

    landing_release(bus, received->peer, &received->landing);
    list_push_front(&bus->free_received, &received->node);
}

static void received_fill(struct received *received, struct connection *connection,
                          const struct frame *frame, const void *header,
                          const struct landing *landing)
{
    received->peer = connection->peer;
    received->landing = *landing;
    received->message = (struct bus_message){
        .from = connection->peer ? connection->peer->node : 0,
        .connection = connection->number,
        .channel = connection->channel,
        .type = frame->type,
        .flags = frame->flags,
        .request = frame->request,
        .header = header,
        .header_bytes = frame->header_bytes,
        .data = landing->data,
        .data_bytes = frame->data_bytes,
    };
    if (!connection->peer) {
        memcpy(received->key_id, connection->key_id, sizeof(received->key_id));
        received->message.key_id = received->key_id;
    }
}

static const struct handler *find_handler(const struct bus *bus, const struct bus_message *message)
{
    const struct handler *handler;

    if (message->type > BUS_TYPE_MAX)
        return NULL;
    handler = &bus->handlers[message->type];
    if (!handler->fn || (message->from == 0 && !handler->guests))
        return NULL;
    return handler;
}

static void nobody_handles(struct bus *bus, const struct bus_message *message)
{
    int r = 0;

    log_debug(bus->io, "bus", "nobody handles a message", "type=%u peer=%llu", message->type,
              (unsigned long long)message->from);
    if (message->request != 0)
        r = bus_reply(bus, message, -EOPNOTSUPP, NULL);
    (void)r; /* no memory for the answer: the caller's time-out is one */
}

const char *receive_message(struct connection *connection, const struct frame *frame,
                            const void *header, struct landing *landing)
{
    struct bus *bus = connection->bus;
    struct received *received = received_get(bus);
    const struct handler *handler;

    if (!received) {
        landing_release(bus, connection->peer, landing);
        return "out of memory";
    }
    counter_add(&bus->counters[connection->channel].messages_received, 1);
    received_fill(received, connection, frame, header, landing);
    landing->kind = LANDING_NONE; /* moved */

    handler = find_handler(bus, &received->message);
    if (handler)
        handler->fn(handler->arg, &received->message);
    else
        nobody_handles(bus, &received->message);
    if (!received->kept)
        received_put(received);
    return NULL;
}

struct bus_message *bus_message_keep(const struct bus_message *message)
{
    struct received *received = container_of(message, struct received, message);

    assert(!received->kept);
    received->kept = true;
    assert(message->header_bytes <= sizeof(received->header));
    memcpy(received->header, message->header, message->header_bytes);
    received->message.header = received->header;
    co_group_add(&received->bus->group, 1);
    if (received->peer)
        peer_get(received->peer);
    return &received->message;
}

void bus_message_release(struct bus_message *message)
{
    struct received *received = container_of(message, struct received, message);
    struct bus *bus = received->bus;
    struct peer *peer = received->peer;

    assert(received->kept);
    received->kept = false;
    received_put(received);
    if (peer)
        peer_put(peer);
    co_group_done(&bus->group);
}

void receive_free(struct bus *bus)
{
    struct list *node;

    while ((node = list_pop_front(&bus->free_received)))
        free(list_entry(node, struct received, node));
}
