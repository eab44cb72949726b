/* A link is one channel to one peer: it sees that there is one connection, and only one.
 *
 * Both ends dial, at once when a connection ends, then every 10 … 200 ms; the data link only while
 * the control link is up, so that a dead peer's port is asked by one dialer. Which of two
 * connections is to stay is decided in one place, when the acceptor has seen the dialer's proof
 * (accept_judge()):
 *
 *   - A dialer numbers its attempts. Of connections that the same end dialed, the newer one stays:
 * it would not dial if the old one were not dead for it.
 *   - A hello says which attempt of the acceptor's was up at the dialer's end and has ended
 * ("seen"). A connection that the acceptor dialed gives way only to a hello that has seen its end.
 *   - Crossing dials: while the hello of the lower node is under way, it refuses the higher one's;
 * the higher one accepts, and drops its own. So exactly one of the two comes up.
 *   - A newer start counter ends everything of the old process; an older one is refused.
 *
 * Handshakes run in coroutines; what they decide, and every event, runs on the loop
 * (co_loop_call()), so handlers of events never run in a coroutine. */
#include "s2d/bus/bus_internal.h"

bool link_wants_dial(const struct link *link)
{
    const struct peer *peer = link->peer;

    if (peer->bus->closing || peer->removed || link->connection || link->dial)
        return false;
    return link->channel == BUS_CONTROL || peer->links[BUS_CONTROL].connection;
}

void link_init(struct link *link, struct peer *peer, enum bus_channel channel)
{
    link->peer = peer;
    link->channel = channel;
    io_timer_init(&link->redial, link_dial, link);
    list_init(&link->credit_waiters);
}

void link_kick(struct link *link, uint64_t delay_ns)
{
    struct io *io = link->peer->bus->io;

    if (link_wants_dial(link))
        io_timer_arm(io, &link->redial, io_now_ns(io) + delay_ns);
}

/* The nth failure in a row waits 10 ms · 2^(n-1), at most 200 ms; the first dial after a connection
 * that lived does not wait. */
uint64_t link_backoff_ns(const struct link *link)
{
    if (link->failures == 0)
        return 0;
    return MIN(REDIAL_NS_MIN << MIN(link->failures - 1, 10u), REDIAL_NS_MAX);
}

void link_up(struct link *link, struct connection *connection)
{
    struct peer *peer = link->peer;
    struct bus *bus = peer->bus;

    assert(!link->connection);
    link_abandon_dial(link);
    io_timer_disarm(bus->io, &link->redial);
    link->connection = connection;
    link->last_failure = NULL;
    peer->refused_times = 0;
    counter_add(&bus->counters[link->channel].connects, 1);
    log_info(bus->io, "bus", "connected", "peer=%llu channel=%s address=%s %s",
             (unsigned long long)peer->node, bus_channel_name(link->channel),
             connection->stream->transport->peer(connection->stream),
             connection->dialed ? "dialed" : "accepted");

    connection_start(connection);
    if (link->channel == BUS_CONTROL)
        link_kick(&peer->links[BUS_DATA], 0);
    if (bus->options.on_up)
        bus->options.on_up(bus->options.arg, peer->node, link->channel);
}

void link_lost(struct link *link, struct connection *connection)
{
    struct peer *peer = link->peer;
    struct bus *bus = peer->bus;

    assert(link->connection == connection);
    link->connection = NULL;
    connection->link = NULL;
    if (!connection->dialed)
        link->seen = MAX(link->seen, connection->attempt);
    link_kick(link, link_backoff_ns(link));
    link->failures++; /* until the next one has lived for a while: connection_tick() */
    credit_fail_waiters(link, bus->closing ? -ECANCELED : -ENOTCONN);
    if (bus->options.on_down && !bus->closing)
        bus->options.on_down(bus->options.arg, peer->node, link->channel);
}

void link_stop(struct link *link, const char *why)
{
    link_abandon_dial(link);
    if (link->connection)
        connection_break(link->connection, why, 0);
    io_timer_disarm(link->peer->bus->io, &link->redial);
}

/* The peer has shown, with proof, which start it is. False: an older process than we know. */
bool peer_heard_start(struct peer *peer, uint64_t start_counter)
{
    struct bus *bus = peer->bus;
    bool restarted = peer->start_counter != 0 && start_counter > peer->start_counter;

    if (start_counter < peer->start_counter)
        return false;
    if (start_counter == peer->start_counter)
        return true;
    peer->start_counter = start_counter;
    for (int i = 0; i < BUS_CHANNELS; i++) {
        if (peer->links[i].connection)
            connection_break(peer->links[i].connection, "the peer has restarted", 0);
        peer->links[i].seen = 0; /* it counts its attempts anew */
    }
    if (restarted && bus->options.on_restarted)
        bus->options.on_restarted(bus->options.arg, peer->node, start_counter);
    return true;
}
