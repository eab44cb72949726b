/* Dialing a peer for one of its links. */
#include "s2d/bus/bus_internal.h"

struct dial {
    struct bus *bus;
    struct peer *peer;
    struct link *link;
    struct co *co;
    bool hello_sent;
    bool abandoned; /* the link has forgotten us */

    struct transport_stream *stream;
    struct hello hello;
    struct challenge challenge;
    enum bus_refusal refusal;
    int error;
};

bool link_said_hello(const struct link *link)
{
    return link->dial && link->dial->hello_sent;
}

void link_abandon_dial(struct link *link)
{
    struct dial *dial = take_ptr(link->dial);

    if (!dial)
        return;
    dial->abandoned = true;
    co_cancel(dial->co);
}

/* Each reason once, until it changes or the link comes up: a peer may be away for days. */
static void dial_log_failure(struct dial *dial)
{
    const char *why = dial->refusal ? refusal_text(dial->refusal) : strerrordesc_np(-dial->error);
    enum log_level level = LOG_WARN;

    if (why == dial->link->last_failure)
        return;
    dial->link->last_failure = why;
    if (dial->refusal == REFUSAL_NONE || dial->refusal == REFUSAL_CROSSING)
        level = LOG_INFO;
    log_write(dial->bus->io, level, "bus", "cannot connect",
              "peer=%llu channel=%s address=%s why=\"%s\"", (unsigned long long)dial->peer->node,
              bus_channel_name(dial->link->channel), dial->peer->address, why);
}

/* Somebody's host says that nobody listens: worth counting (docs/protocol.md, Detection). */
static void dial_count_refused(struct dial *dial)
{
    struct bus *bus = dial->bus;
    struct peer *peer = dial->peer;
    uint64_t now_ns = io_now_ns(bus->io);

    if (dial->refusal != REFUSAL_NONE || dial->error != -ECONNREFUSED) {
        peer->refused_times = 0;
        return;
    }
    if (peer->refused_times++ == 0)
        peer->refused_since_ns = now_ns;
    if (bus->options.on_refused)
        bus->options.on_refused(bus->options.arg, peer->node, peer->refused_times,
                                now_ns - peer->refused_since_ns);
}

static void dial_failed(struct dial *dial)
{
    struct link *link = dial->link;

    dial_log_failure(dial);
    link->failures++;
    link_kick(link, link_backoff_ns(link));
    dial_count_refused(dial);
}

static void dial_succeeded(struct dial *dial)
{
    struct connection_start start = {
        .link = dial->link,
        .version = dial->challenge.version,
        .dialed = true,
        .attempt = dial->hello.attempt,
        .stream = dial->stream,
    };
    struct connection *connection;

    if (!peer_heard_start(dial->peer, dial->challenge.start_counter)) {
        dial->refusal = REFUSAL_OLD_START;
        dial_failed(dial);
        return;
    }
    dial->error = connection_new(dial->bus, &start, &connection);
    if (dial->error < 0) {
        dial_failed(dial);
        return;
    }
    dial->stream = NULL; /* the connection's now */
    link_up(dial->link, connection);
}

static void dial_finish(void *arg)
{
    struct dial *dial = arg;

    if (dial->abandoned)
        return;
    assert(dial->link->dial == dial && !dial->link->connection);
    dial->link->dial = NULL;
    if (dial->refusal == REFUSAL_NONE && dial->error == 0)
        dial_succeeded(dial);
    else
        dial_failed(dial);
}

static void dial_hello(struct dial *dial)
{
    const struct bus_options *options = &dial->bus->options;

    dial->hello = (struct hello){
        .version_oldest = BUS_VERSION_OLDEST,
        .version_newest = BUS_VERSION_NEWEST,
        .channel = dial->link->channel == BUS_CONTROL ? HELLO_CONTROL : HELLO_DATA,
        .node = options->node,
        .to_node = dial->peer->node,
        .start_counter = options->start_counter,
        .to_start_counter = dial->peer->start_counter,
        .attempt = ++dial->link->attempts,
        .seen = dial->link->seen,
    };
    memcpy(dial->hello.cluster, options->cluster, sizeof(dial->hello.cluster));
}

static void co_dial(struct dial *dial)
{
    struct bus *bus = dial->bus;
    struct deadline deadline;

    dial->error =
        bus->transport->co_connect(bus->io, dial->peer->address, CONNECT_NS, &dial->stream);
    if (dial->error < 0 || dial->abandoned)
        return;
    dial->hello_sent = true; /* from here on it holds off crossing ones, see accept_judge() */
    dial_hello(dial);
    deadline_start(&deadline, bus->io, bus->transport, dial->stream, HANDSHAKE_NS);
    dial->refusal = co_handshake_dial(bus->io, bus->transport, dial->stream, bus->key, &dial->hello,
                                      &dial->challenge, &dial->error);
    deadline_stop(&deadline);
    if (deadline.expired && dial->refusal == REFUSAL_NONE)
        dial->error = -ETIMEDOUT;
}

static void dial_main(void *arg)
{
    struct dial *dial = arg;
    struct bus *bus = dial->bus;

    co_dial(dial);
    co_loop_call(bus->io, dial_finish, dial);
    if (dial->stream)
        bus->transport->close(dial->stream);
    peer_put(dial->peer);
    free(dial);
    co_group_done(&bus->group);
}

void link_dial(void *arg)
{
    struct link *link = arg;
    struct bus *bus = link->peer->bus;
    struct dial *dial;

    if (!link_wants_dial(link))
        return;
    dial = calloc(1, sizeof(*dial));
    if (dial) {
        dial->bus = bus;
        dial->peer = link->peer;
        dial->link = link;
    }
    if (!dial || co_spawn_handle(bus->io, "bus dial", dial_main, dial, &dial->co) < 0) {
        free(dial);
        link_kick(link, REDIAL_NS_MAX);
        return;
    }
    link->dial = dial;
    peer_get(link->peer);
    co_group_add(&bus->group, 1);
}
