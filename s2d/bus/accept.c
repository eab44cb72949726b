/* Accepting streams: who it is, and whether its connection is to be the link's (accept_judge()). */
#include <endian.h>

#include "s2d/bus/bus_internal.h"

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
        bool ours_first = link_said_hello(link) && bus->options.node < link->peer->node;

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

void accept_main(void *arg)
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

void accept_cancel(struct bus *bus)
{
    list_for_each (node, &bus->handshakes) {
        struct handshake *handshake = list_entry(node, struct handshake, node);

        if (handshake->stream) /* else it is a connection now */
            bus->transport->shutdown(handshake->stream);
    }
}
