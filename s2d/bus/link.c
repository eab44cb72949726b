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
#include <endian.h>

#include "s2d/bus/bus_internal.h"

/* ---- running something on the loop, outside of coroutines ---- */

struct loop_call {
    struct io_task task;
    struct co *co;
    io_callback *fn;
    void *arg;
};

static void loop_call_run(void *arg)
{
    struct loop_call *call = arg;

    call->fn(call->arg);
    co_wake(call->co);
}

static void co_loop_call(struct io *io, io_callback *fn, void *arg)
{
    struct loop_call call = {.co = co_self(), .fn = fn, .arg = arg};

    io_task_init(&call.task, loop_call_run, &call);
    io_queue(io, &call.task);
    co_wait();
}

/* ---- deadlines of handshakes ---- */

static void deadline_over(void *arg)
{
    struct deadline *deadline = arg;

    deadline->expired = true;
    deadline->transport->shutdown(deadline->stream);
}

void deadline_start(struct deadline *deadline, struct io *io, const struct transport *transport,
                    struct transport_stream *stream, uint64_t timeout_ns)
{
    *deadline = (struct deadline){.io = io, .transport = transport, .stream = stream};
    io_timer_init(&deadline->timer, deadline_over, deadline);
    io_timer_arm(io, &deadline->timer, io_now_ns(io) + timeout_ns);
}

void deadline_stop(struct deadline *deadline)
{
    io_timer_disarm(deadline->io, &deadline->timer);
}

void nonce_draw(struct io *io, uint8_t nonce[BUS_NONCE_BYTES])
{
    for (size_t i = 0; i < BUS_NONCE_BYTES; i += sizeof(uint64_t)) {
        uint64_t random = io_random(io);

        memcpy(nonce + i, &random, sizeof(random));
    }
}

/* ---- the state of a link ---- */

static bool link_wants_dial(const struct link *link)
{
    const struct peer *peer = link->peer;

    if (peer->bus->closing || peer->removed || link->connection || link->dial)
        return false;
    return link->channel == BUS_CONTROL || peer->links[BUS_CONTROL].connection;
}

static void link_abandon_dial(struct link *link);
static void link_dial(void *arg);

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
static uint64_t link_backoff_ns(const struct link *link)
{
    if (link->failures == 0)
        return 0;
    return MIN(REDIAL_NS_MIN << MIN(link->failures - 1, 10u), REDIAL_NS_MAX);
}

static void link_up(struct link *link, struct connection *connection)
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
static bool peer_heard_start(struct peer *peer, uint64_t start_counter)
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

/* ---- dialing ---- */

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

static void link_abandon_dial(struct link *link)
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

/* Somebody's host says that nobody listens: worth counting (design.md, detection). */
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

enum bus_refusal co_handshake_dial(struct io *io, const struct transport *transport,
                                   struct transport_stream *stream, const uint8_t *key,
                                   struct hello *hello, struct challenge *ret_challenge,
                                   int *ret_error)
{
    struct bus_hello_format hello_format;
    struct bus_challenge_format challenge_format;
    struct bus_proof_format proof_format;
    struct bus_welcome_format welcome_format;
    enum bus_refusal refusal;
    int r;

    nonce_draw(io, hello->nonce);
    hello_encode(hello, &hello_format);
    r = transport->co_send(stream, &hello_format, sizeof(hello_format));
    if (r == 0)
        r = transport->co_recv_all(stream, &challenge_format, sizeof(challenge_format));
    *ret_error = r;
    if (r < 0)
        return REFUSAL_NONE;
    refusal = challenge_decode(&challenge_format, ret_challenge);
    if (refusal == REFUSAL_NONE)
        refusal = ret_challenge->refusal;
    if (refusal != REFUSAL_NONE)
        return refusal;
    if (handshake_version(ret_challenge->version, ret_challenge->version) == 0)
        return REFUSAL_VERSION;
    if (hello->to_node != 0 && ret_challenge->node != hello->to_node)
        return REFUSAL_OTHER_NODE;
    if (!challenge_verify(&challenge_format, &hello_format, key))
        return REFUSAL_KEY;

    proof_encode(&hello_format, &challenge_format, key, &proof_format);
    r = transport->co_send(stream, &proof_format, sizeof(proof_format));
    if (r == 0)
        r = transport->co_recv_all(stream, &welcome_format, sizeof(welcome_format));
    *ret_error = r;
    return r < 0 ? REFUSAL_NONE : welcome_decode(&welcome_format);
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

static void link_dial(void *arg)
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

/* ---- accepting ---- */

struct handshake {
    struct list node; /* bus->handshakes */
    struct bus *bus;
    struct transport_stream *stream;
    struct bus_hello_format hello_format;
    struct bus_challenge_format challenge_format;
    struct hello hello;
    uint16_t version;
    uint8_t key[BUS_KEY_BYTES];
    enum bus_refusal refusal;
};

static bool all_zeros(const uint8_t bytes[16])
{
    static const uint8_t zeros[16];

    return memcmp(bytes, zeros, sizeof(zeros)) == 0;
}

/* A stranger may knock for days: the same one is logged once a minute, all of them once a second.
 */
static bool refusal_is_news(const struct handshake *handshake)
{
    const struct bus *bus = handshake->bus;
    bool same =
        handshake->refusal == bus->last_refusal && handshake->hello.node == bus->last_refusal_node;
    uint64_t ago_ns = io_now_ns(bus->io) - bus->last_refusal_ns;

    return bus->last_refusal == REFUSAL_NONE || ago_ns >= (same ? 60 * SEC : SEC);
}

static void accept_log_refusal(struct handshake *handshake)
{
    struct bus *bus = handshake->bus;

    counter_add(&bus->handshakes_refused, 1);
    if (handshake->refusal == REFUSAL_CROSSING || !refusal_is_news(handshake))
        return;
    bus->last_refusal_ns = io_now_ns(bus->io);
    bus->last_refusal = handshake->refusal;
    bus->last_refusal_node = handshake->hello.node;
    log_warn(bus->io, "bus", "connection refused", "peer=%llu address=%s why=\"%s\"",
             (unsigned long long)handshake->hello.node, bus->transport->peer(handshake->stream),
             refusal_text(handshake->refusal));
}

static enum bus_refusal admit_guest(struct handshake *handshake)
{
    struct bus *bus = handshake->bus;
    const struct hello *hello = &handshake->hello;
    bool knows_cluster = !all_zeros(hello->cluster) || all_zeros(hello->key_id);

    if (knows_cluster && memcmp(hello->cluster, bus->options.cluster, sizeof(hello->cluster)) != 0)
        return REFUSAL_CLUSTER;
    if (bus->guest_count >= GUESTS_MAX)
        return REFUSAL_BUSY;
    if (all_zeros(hello->key_id))
        return REFUSAL_NONE;
    if (!bus->options.find_key ||
        bus->options.find_key(bus->options.arg, hello->key_id, handshake->key) < 0)
        return REFUSAL_KEY;
    return REFUSAL_NONE;
}

/* What can be said before the proof. */
static enum bus_refusal admit_hello(struct handshake *handshake)
{
    struct bus *bus = handshake->bus;
    const struct hello *hello = &handshake->hello;

    if (bus->closing)
        return REFUSAL_BUSY;
    if (hello->to_node != 0 && hello->to_node != bus->options.node)
        return REFUSAL_OTHER_NODE;
    if (hello->channel == HELLO_GUEST)
        return admit_guest(handshake);
    if (memcmp(hello->cluster, bus->options.cluster, sizeof(hello->cluster)) != 0)
        return REFUSAL_CLUSTER;
    if (!all_zeros(hello->key_id))
        return REFUSAL_KEY;
    if (!bus_peer(bus, hello->node))
        return REFUSAL_UNKNOWN_NODE;
    return REFUSAL_NONE;
}

/* Shall the proven dialer's connection be the link's? Ends the one before if so. */
static enum bus_refusal accept_judge(struct link *link, const struct hello *hello)
{
    const struct bus *bus = link->peer->bus;
    struct connection *connection = link->connection;
    bool newer;

    if (!connection) {
        bool ours_first =
            link->dial && link->dial->hello_sent && bus->options.node < link->peer->node;

        return ours_first ? REFUSAL_CROSSING : REFUSAL_NONE;
    }
    if (connection->dialed)
        newer = hello->to_start_counter == bus->options.start_counter &&
                hello->seen >= connection->attempt;
    else
        newer = hello->attempt > connection->attempt;
    if (!newer)
        return REFUSAL_CROSSING;
    connection_break(connection, "replaced by a newer one", 0);
    return REFUSAL_NONE;
}

static enum bus_refusal accept_new(struct handshake *handshake, struct link *link,
                                   struct connection **ret_connection)
{
    struct bus *bus = handshake->bus;
    struct connection_start start = {
        .link = link,
        .version = handshake->version,
        .attempt = handshake->hello.attempt,
        .key_id = handshake->hello.key_id,
        .stream = handshake->stream,
    };
    struct bus_welcome_format welcome;
    struct connection *connection;

    if (connection_new(bus, &start, &connection) < 0)
        return REFUSAL_BUSY;
    handshake->stream = NULL;
    welcome_encode(REFUSAL_NONE, &welcome);
    *ret_connection = connection;
    if (connection_send_bytes(connection, &welcome, sizeof(welcome)) < 0)
        connection_break(connection, "out of memory", -ENOMEM);
    return REFUSAL_NONE;
}

static enum bus_refusal accept_guest(struct handshake *handshake)
{
    struct connection *connection;
    enum bus_refusal refusal;

    refusal = accept_new(handshake, NULL, &connection);
    if (refusal == REFUSAL_NONE && connection->up)
        connection_start(connection);
    return refusal;
}

static enum bus_refusal accept_member(struct handshake *handshake)
{
    struct peer *peer = bus_peer(handshake->bus, handshake->hello.node);
    struct connection *connection;
    enum bus_refusal refusal;
    struct link *link;

    if (!peer) /* removed meanwhile */
        return REFUSAL_UNKNOWN_NODE;
    link = &peer->links[handshake->hello.channel == HELLO_CONTROL ? BUS_CONTROL : BUS_DATA];
    if (!peer_heard_start(peer, handshake->hello.start_counter))
        return REFUSAL_OLD_START;
    refusal = accept_judge(link, &handshake->hello);
    if (refusal == REFUSAL_NONE)
        refusal = accept_new(handshake, link, &connection);
    if (refusal == REFUSAL_NONE && connection->up)
        link_up(link, connection);
    return refusal;
}

static void accept_decide(void *arg)
{
    struct handshake *handshake = arg;

    if (handshake->bus->closing)
        handshake->refusal = REFUSAL_BUSY;
    else if (handshake->hello.channel == HELLO_GUEST)
        handshake->refusal = accept_guest(handshake);
    else
        handshake->refusal = accept_member(handshake);
}

/* Reads a hello, also one of another version, whose length may be another. Returns 0, or the
 * stream's error. */
static int co_accept_hello(struct handshake *handshake)
{
    enum { PREFIX_BYTES = 16, HELLO_BYTES_MAX = 4096 };
    const struct transport *transport = handshake->bus->transport;
    struct bus_hello_format *format = &handshake->hello_format;
    uint8_t rest[HELLO_BYTES_MAX];
    uint32_t bytes;
    int r;

    r = transport->co_recv_all(handshake->stream, format, PREFIX_BYTES);
    if (r < 0)
        return r;
    bytes = le32toh(format->bytes);
    if (le32toh(format->magic) != BUS_MAGIC_HELLO || bytes < PREFIX_BYTES ||
        bytes > HELLO_BYTES_MAX) {
        handshake->refusal = REFUSAL_NONSENSE;
        return 0;
    }
    r = transport->co_recv_all(handshake->stream, rest, bytes - PREFIX_BYTES);
    if (r < 0)
        return r;
    memcpy((uint8_t *)format + PREFIX_BYTES, rest, MIN(bytes, sizeof(*format)) - PREFIX_BYTES);
    handshake->refusal = hello_decode(format, &handshake->hello);
    return 0;
}

static int co_accept_challenge(struct handshake *handshake)
{
    struct bus *bus = handshake->bus;
    struct challenge challenge = {
        .refusal = handshake->refusal,
        .version_oldest = BUS_VERSION_OLDEST,
        .version_newest = BUS_VERSION_NEWEST,
    };

    if (handshake->refusal == REFUSAL_NONE) { /* to others we say no more than "no" */
        handshake->version =
            handshake_version(handshake->hello.version_oldest, handshake->hello.version_newest);
        challenge.version = handshake->version;
        challenge.node = bus->options.node;
        challenge.start_counter = bus->options.start_counter;
        memcpy(challenge.cluster, bus->options.cluster, sizeof(challenge.cluster));
        nonce_draw(bus->io, challenge.nonce);
    }
    challenge_encode(&challenge, &handshake->hello_format,
                     handshake->refusal ? NULL : handshake->key, &handshake->challenge_format);
    return bus->transport->co_send(handshake->stream, &handshake->challenge_format,
                                   sizeof(handshake->challenge_format));
}

/* Returns 0 when it is decided (handshake->refusal), or the stream's error. */
static int co_accept_handshake(struct handshake *handshake)
{
    struct bus *bus = handshake->bus;
    struct bus_proof_format proof;
    int r;

    r = co_accept_hello(handshake);
    if (r < 0)
        return r;
    memcpy(handshake->key, bus->key, sizeof(handshake->key));
    if (handshake->refusal == REFUSAL_NONE)
        handshake->refusal = admit_hello(handshake);
    r = co_accept_challenge(handshake);
    if (r < 0 || handshake->refusal != REFUSAL_NONE)
        return r;
    r = bus->transport->co_recv_all(handshake->stream, &proof, sizeof(proof));
    if (r < 0)
        return r;
    if (proof_verify(&proof, &handshake->hello_format, &handshake->challenge_format,
                     handshake->key))
        co_loop_call(bus->io, accept_decide, handshake);
    else
        handshake->refusal = REFUSAL_KEY;
    return 0;
}

static void co_accept_refuse(struct handshake *handshake)
{
    struct bus_welcome_format welcome;
    int r;

    accept_log_refusal(handshake);
    welcome_encode(handshake->refusal, &welcome);
    r = handshake->bus->transport->co_send(handshake->stream, &welcome, sizeof(welcome));
    (void)r; /* it was told, or it is gone */
}

static void handshake_main(void *arg)
{
    struct handshake *handshake = arg;
    struct bus *bus = handshake->bus;
    struct deadline deadline;
    int r;

    deadline_start(&deadline, bus->io, bus->transport, handshake->stream, HANDSHAKE_NS);
    r = co_accept_handshake(handshake);
    list_remove(&handshake->node);
    if (handshake->stream) { /* else it is a connection now */
        if (r == 0)
            co_accept_refuse(handshake);
        bus->transport->close(handshake->stream);
    }
    deadline_stop(&deadline);
    explicit_bzero(handshake->key, sizeof(handshake->key));
    bus->handshake_count--;
    free(handshake);
}

static void accept_stream(struct bus *bus, struct transport_stream *stream)
{
    struct handshake *handshake = NULL;

    if (bus->handshake_count < HANDSHAKES_MAX)
        handshake = calloc(1, sizeof(*handshake));
    if (handshake) {
        handshake->bus = bus;
        handshake->stream = stream;
        if (co_group_spawn(&bus->group, bus->io, "bus accept", handshake_main, handshake) == 0) {
            list_push_back(&bus->handshakes, &handshake->node);
            bus->handshake_count++;
            return;
        }
    }
    free(handshake);
    bus->transport->close(stream);
}

void link_accept_main(void *arg)
{
    struct bus *bus = arg;
    struct transport_stream *stream;
    int r;

    for (;;) {
        r = bus->transport->co_accept(bus->listener, &stream);
        if (r == 0)
            accept_stream(bus, stream);
        else if (r == -ECANCELED || bus->closing)
            return;
        else if (co_sleep_ns(REDIAL_NS_MAX) < 0) /* out of descriptors or memory: try again */
            return;
    }
}

void link_cancel_handshakes(struct bus *bus)
{
    list_for_each (node, &bus->handshakes)
        bus->transport->shutdown(list_entry(node, struct handshake, node)->stream);
}
