/* The bus itself: its life, its peers, and the clockwork that notices silence. */
#include "s2d/bus/bus.h"

#include "s2d/bus/bus_internal.h"

const char *bus_channel_name(enum bus_channel channel)
{
    return channel == BUS_CONTROL ? "control" : "data";
}

/* ---- peers ---- */

struct peer *bus_peer(const struct bus *bus, uint64_t node)
{
    for (unsigned i = 0; i < bus->peer_count; i++) {
        if (bus->peers[i]->node == node)
            return bus->peers[i];
    }
    return NULL;
}

struct connection *bus_find_connection(const struct bus *bus, uint64_t node,
                                       enum bus_channel channel)
{
    const struct peer *peer = bus_peer(bus, node);

    return peer ? peer->links[channel].connection : NULL;
}

void peer_get(struct peer *peer)
{
    peer->references++;
}

void peer_put(struct peer *peer)
{
    assert(peer->references > 0);
    if (--peer->references == 0)
        free(peer);
}

static int peer_new(struct bus *bus, uint64_t node, struct peer **ret_peer)
{
    struct peer *peer = calloc(1, sizeof(*peer));

    if (!peer)
        return -ENOMEM;
    peer->bus = bus;
    peer->node = node;
    peer->references = 1; /* the table's */
    link_init(&peer->links[BUS_CONTROL], peer, BUS_CONTROL);
    link_init(&peer->links[BUS_DATA], peer, BUS_DATA);
    *ret_peer = peer;
    return 0;
}

static void peer_stop(struct peer *peer, const char *why)
{
    link_stop(&peer->links[BUS_DATA], why);
    link_stop(&peer->links[BUS_CONTROL], why);
}

int bus_add_peer(struct bus *bus, uint64_t node, const char *address)
{
    struct peer *peer = bus_peer(bus, node);
    int r;

    if (node == 0 || node == bus->options.node || strlen(address) >= IO_ADDRESS_MAX)
        return -EINVAL;
    if (peer && strcmp(peer->address, address) == 0)
        return 0;
    if (peer) {
        peer_stop(peer, "the peer has a new address");
    } else {
        if (bus->peer_count == BUS_NODES_MAX)
            return -ENOBUFS;
        r = peer_new(bus, node, &peer);
        if (r < 0)
            return r;
        bus->peers[bus->peer_count++] = peer;
    }
    strcpy(peer->address, address);
    link_kick(&peer->links[BUS_CONTROL], 0);
    return 0;
}

/* Takes it out of the table; what still refers to it lets it live on. */
static void peer_remove(struct bus *bus, unsigned index, const char *why)
{
    struct peer *peer = bus->peers[index];

    peer->removed = true;
    peer_stop(peer, why);
    assert(bus->peers[index] == peer); /* no event has removed one meanwhile: bus.h forbids it */
    bus->peers[index] = bus->peers[--bus->peer_count];
    peer_put(peer);
}

void bus_remove_peer(struct bus *bus, uint64_t node)
{
    for (unsigned i = 0; i < bus->peer_count; i++) {
        if (bus->peers[i]->node == node) {
            peer_remove(bus, i, "the peer was removed");
            return;
        }
    }
}

bool bus_is_up(const struct bus *bus, uint64_t node, enum bus_channel channel)
{
    return bus_find_connection(bus, node, channel) != NULL;
}

uint64_t bus_connection(const struct bus *bus, uint64_t node, enum bus_channel channel)
{
    const struct connection *connection = bus_find_connection(bus, node, channel);

    return connection ? connection->number : 0;
}

uint64_t bus_peer_start_counter(const struct bus *bus, uint64_t node)
{
    const struct peer *peer = bus_peer(bus, node);

    return peer ? peer->start_counter : 0;
}

/* ---- handlers ---- */

void bus_handle(struct bus *bus, uint16_t type, bus_handler *handler, void *arg)
{
    assert(type > 0 && type <= BUS_TYPE_MAX);
    bus->handlers[type].fn = handler;
    bus->handlers[type].arg = arg;
}

void bus_allow_guest(struct bus *bus, uint16_t type)
{
    assert(type > 0 && type <= BUS_TYPE_MAX);
    bus->handlers[type].guests = true;
}

/* ---- the clockwork ---- */

static void bus_tick(void *arg)
{
    struct bus *bus = arg;

    list_for_each_safe (node, &bus->connections)
        connection_tick(list_entry(node, struct connection, node));
    io_timer_arm(bus->io, &bus->tick, io_now_ns(bus->io) + TICK_NS);
}

/* ---- metrics ---- */

static const struct {
    const char *name, *help;
    size_t offset; /* in struct bus_counters */
} bus_metrics[] = {
    {"s2d_bus_messages_sent_total", "messages handed to the transport",
     offsetof(struct bus_counters, messages_sent)},
    {"s2d_bus_messages_received_total", "messages handed to their handlers",
     offsetof(struct bus_counters, messages_received)},
    {"s2d_bus_sent_bytes_total", "bytes handed to the transport",
     offsetof(struct bus_counters, bytes_sent)},
    {"s2d_bus_received_bytes_total", "bytes taken from the transport",
     offsetof(struct bus_counters, bytes_received)},
    {"s2d_bus_batches_total", "gather-sends", offsetof(struct bus_counters, batches)},
    {"s2d_bus_receives_total", "receives", offsetof(struct bus_counters, receives)},
    {"s2d_bus_connects_total", "connections that came up", offsetof(struct bus_counters, connects)},
    {"s2d_bus_disconnects_total", "connections that ended",
     offsetof(struct bus_counters, disconnects)},
    {"s2d_bus_credit_waits_total", "data requests that waited for credit",
     offsetof(struct bus_counters, credit_waits)},
};

static const struct counter *metric_counter(const struct bus *bus, int channel, size_t index)
{
    return (const struct counter *)((const char *)&bus->counters[channel] +
                                    bus_metrics[index].offset);
}

static int metrics_add(struct bus *bus)
{
    static const char *const labels[BUS_CHANNELS] = {"channel=\"control\"", "channel=\"data\""};
    int r;

    for (int channel = 0; channel < BUS_CHANNELS; channel++) {
        for (size_t i = 0; i < ARRAY_SIZE(bus_metrics); i++) {
            r = metrics_add_counter(bus->options.metrics, bus_metrics[i].name, bus_metrics[i].help,
                                    labels[channel], metric_counter(bus, channel, i));
            if (r < 0)
                return r;
        }
    }
    return metrics_add_counter(bus->options.metrics, "s2d_bus_handshakes_refused_total",
                               "accepted connections that were refused", "",
                               &bus->handshakes_refused);
}

static void metrics_take_off(struct bus *bus)
{
    for (int channel = 0; channel < BUS_CHANNELS; channel++) {
        for (size_t i = 0; i < ARRAY_SIZE(bus_metrics); i++)
            metrics_remove(bus->options.metrics, metric_counter(bus, channel, i));
    }
    metrics_remove(bus->options.metrics, &bus->handshakes_refused);
}

/* ---- life ---- */

/* Half-built is fine; nothing is connected or running. */
static void bus_free(struct bus *bus)
{
    struct list *node;

    if (!bus)
        return;
    if (bus->options.metrics)
        metrics_take_off(bus);
    if (bus->listener)
        bus->transport->listener_close(bus->listener);
    while ((node = list_pop_front(&bus->free_batches)))
        free(list_entry(node, struct send_batch, node));
    receive_free(bus);
    buffer_pool_free(bus->receive_pool);
    explicit_bzero(bus->key, sizeof(bus->key));
    free(bus);
}
DEFINE_CLEANUP(struct bus, bus_free)

static void bus_init(struct bus *bus, struct io *io, const struct bus_options *options)
{
    uint64_t receive_bytes =
        options->receive_bytes ? options->receive_bytes : RECEIVE_BYTES_DEFAULT;

    bus->io = io;
    bus->options = *options;
    memcpy(bus->key, options->key, BUS_KEY_BYTES);
    bus->options.key = bus->key;
    bus->transport = &transport_tcp;
    /* A held-back quarter of the window must leave room for the largest request. */
    bus->window_bytes = MAX(receive_bytes / RECEIVE_SHARES, 2 * BUS_PAYLOAD_MAX);
    bus->options.receive_bytes = MAX(receive_bytes, bus->window_bytes);
    co_group_init(&bus->group);
    list_init(&bus->connections);
    list_init(&bus->handshakes);
    list_init(&bus->to_flush);
    list_init(&bus->free_batches);
    list_init(&bus->free_received);
    for (unsigned i = 0; i < CALL_BUCKETS; i++)
        list_init(&bus->calls[i]);
    io_timer_init(&bus->tick, bus_tick, bus);
    io_task_init(&bus->flush_task, connection_flush_all, bus);
}

static int bus_listen(struct bus *bus)
{
    int r;

    if (!bus->options.listen)
        return 0;
    r = bus->transport->listen(bus->io, bus->options.listen, &bus->listener);
    if (r < 0)
        return r;
    bus->options.listen = NULL; /* the caller's string: not ours to keep */
    return co_group_spawn(&bus->group, bus->io, "bus listen", accept_main, bus);
}

int bus_new(struct io *io, const struct bus_options *options, struct bus **ret_bus)
{
    cleanup(bus_freep) struct bus *bus = NULL;
    int r;

    if (options->key_bytes != BUS_KEY_BYTES || options->node == 0)
        return -EINVAL;
    bus = calloc(1, sizeof(*bus));
    if (!bus)
        return -ENOMEM;
    bus_init(bus, io, options);
    r = buffer_pool_new("bus receive", bus->options.receive_bytes, &bus->receive_pool);
    if (r < 0)
        return r;
    if (options->metrics) {
        r = metrics_add(bus);
        if (r < 0)
            return r;
    }
    r = bus_listen(bus);
    if (r < 0)
        return r;
    io_timer_arm(io, &bus->tick, io_now_ns(io) + TICK_NS);
    *ret_bus = take_ptr(bus);
    return 0;
}

static void break_all(struct bus *bus)
{
    list_for_each_safe (node, &bus->connections)
        connection_break(list_entry(node, struct connection, node), "closing", 0);
}

void co_bus_close(struct bus *bus)
{
    if (!bus)
        return;
    assert(!bus->closing);
    bus->closing = true;
    io_timer_disarm(bus->io, &bus->tick);
    if (bus->listener)
        bus->transport->listener_shutdown(bus->listener);
    call_fail_all(bus, 0, -ECANCELED);
    while (bus->peer_count > 0)
        peer_remove(bus, bus->peer_count - 1, "closing");
    accept_cancel(bus);
    break_all(bus); /* guests */
    co_group_wait(&bus->group);
    io_task_cancel(&bus->flush_task);
    bus_free(bus);
}

uint64_t bus_node(const struct bus *bus)
{
    return bus->options.node;
}

const char *bus_listen_address(const struct bus *bus)
{
    return bus->listener ? bus->transport->listener_address(bus->listener) : NULL;
}
