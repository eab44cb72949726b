/* Credit: who may send how many bytes of data requests.
 *
 * Each side grants the other a window, as a running total that never falls: "since this connection
 * began you may have sent N bytes". N is what has come, plus the window, less what of that peer's
 * is still held in buffers (on this connection or an older one). So N rises as buffers are
 * released, and all that a peer can have under way fits in its window. Every frame on the data
 * connection carries N; when nothing leaves that way, a frame of its own does, once a quarter of
 * the window has gathered: at most that much is ever held back, and the largest request fits in the
 * rest, so nobody waits for ever.
 *
 * The sender takes credit first (in order: a large request is not starved by small ones) and spends
 * it by sending. All of it is void when the connection ends. */
#include "s2d/bus/bus_internal.h"

struct credit_waiter { /* on the stack of the waiting coroutine */
    struct list node;  /* link->credit_waiters */
    struct co_cond cond;
    uint64_t connection;
    uint32_t cost;
    bool ended;
    int result;
};

/* Whole blocks: what buffers are made of. A request without data holds something too. */
uint32_t credit_cost(uint32_t data_bytes)
{
    return data_bytes == 0 ? BLOCK_SIZE : ALIGN_UP(data_bytes, BLOCK_SIZE);
}

/* ---- the receiver's side ---- */

static uint64_t grant_now(const struct connection *connection)
{
    uint64_t window = connection->bus->window_bytes, held = connection->peer->held_cost;

    return connection->received_cost + (held < window ? window - held : 0);
}

uint64_t credit_grant(struct connection *connection)
{
    if (!connection->peer || connection->channel != BUS_DATA)
        return 0;
    connection->granted_by_us = MAX(connection->granted_by_us, grant_now(connection));
    return connection->granted_by_us;
}

bool credit_charge(struct connection *connection, uint32_t cost)
{
    if (connection->received_cost + cost > connection->granted_by_us)
        return false;
    connection->received_cost += cost;
    connection->peer->held_cost += cost;
    return true;
}

void credit_release(struct peer *peer, uint32_t cost)
{
    struct connection *connection = peer->links[BUS_DATA].connection;

    assert(peer->held_cost >= cost);
    peer->held_cost -= cost;
    if (!connection)
        return;
    if (grant_now(connection) >= connection->granted_by_us + connection->bus->window_bytes / 4)
        connection_send_grant(connection);
}

/* ---- the sender's side ---- */

static bool credit_take(struct connection *connection, uint32_t cost)
{
    if (connection->granted_to_us - connection->taken < cost)
        return false;
    connection->taken += cost;
    connection->unspent += cost;
    return true;
}

static void waiter_end(struct credit_waiter *waiter, int result)
{
    list_remove(&waiter->node);
    waiter->ended = true;
    waiter->result = result;
    co_cond_signal(&waiter->cond);
}

static void serve_waiters(struct link *link)
{
    while (link->connection && !list_empty(&link->credit_waiters)) {
        struct credit_waiter *first = list_first(&link->credit_waiters, struct credit_waiter, node);

        if (!credit_take(link->connection, first->cost))
            return;
        waiter_end(first, 0);
    }
}

const char *credit_granted(struct connection *connection, uint64_t granted)
{
    if (connection->channel != BUS_DATA)
        return granted == 0 ? NULL : "credit where there is none";
    if (granted < connection->granted_to_us)
        return "credit was taken back";
    if (granted == connection->granted_to_us)
        return NULL;
    connection->granted_to_us = granted;
    if (connection->link)
        serve_waiters(connection->link);
    return NULL;
}

void credit_fail_waiters(struct link *link, int error)
{
    while (!list_empty(&link->credit_waiters))
        waiter_end(list_first(&link->credit_waiters, struct credit_waiter, node), error);
}

int bus_try_credit(struct bus *bus, uint64_t to, uint32_t bytes)
{
    struct connection *connection = bus_find_connection(bus, to, BUS_DATA);

    if (bytes > BUS_PAYLOAD_MAX)
        return -EMSGSIZE;
    if (!connection)
        return -ENOTCONN;
    if (!list_empty(&connection->link->credit_waiters))
        return -EAGAIN; /* others came first */
    return credit_take(connection, credit_cost(bytes)) ? 0 : -EAGAIN;
}

void bus_put_credit(struct bus *bus, uint64_t to, uint64_t number, uint32_t bytes)
{
    struct connection *connection = bus_find_connection(bus, to, BUS_DATA);
    uint32_t cost = credit_cost(bytes);

    if (!connection || connection->number != number)
        return;
    assert(connection->unspent >= cost);
    connection->unspent -= cost;
    connection->taken -= cost;
    serve_waiters(connection->link);
}

/* Cancelled: those behind may be able to go on. */
static void waiter_give_up(struct bus *bus, uint64_t to, struct credit_waiter *waiter)
{
    struct connection *connection = bus_find_connection(bus, to, BUS_DATA);

    list_remove(&waiter->node);
    if (connection)
        serve_waiters(connection->link);
}

int co_bus_credit(struct bus *bus, uint64_t to, uint32_t bytes)
{
    struct credit_waiter waiter = {.cost = credit_cost(bytes)};
    int r;

    r = bus_try_credit(bus, to, bytes);
    if (r != -EAGAIN)
        return r;
    counter_add(&bus->counters[BUS_DATA].credit_waits, 1);
    co_cond_init(&waiter.cond);
    waiter.connection = bus_connection(bus, to, BUS_DATA);
    list_push_back(&bus_peer(bus, to)->links[BUS_DATA].credit_waiters, &waiter.node);
    r = co_cond_wait(&waiter.cond);
    if (!waiter.ended) {
        assert(r == -ECANCELED);
        waiter_give_up(bus, to, &waiter);
        return -ECANCELED;
    }
    if (waiter.result < 0)
        return waiter.result;
    /* It may have broken between the grant and our turn to run. */
    return bus_connection(bus, to, BUS_DATA) == waiter.connection ? 0 : -ENOTCONN;
}
