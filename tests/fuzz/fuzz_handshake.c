/* Bytes of a stranger, from the first one on: up to three streams at a time are accepted by a bus,
 * through hello, challenge and proof to an established connection. What a stranger may learn and do
 * is checked: without the key nothing but "no", with it nothing but a connection; in the end
 * nothing is left of anybody.
 *
 * Input: a byte of choices, two bits of which say how many streams; then, dealt out in equal parts,
 * what each of them says. */
#include "s2d/base/checksum.h"
#include "s2d/bus/bus_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum choice {
    STREAMS = 3,          /* 1 … 3 */
    HELLO_RIGHT = 0x80,   /* hellos have the form, the checksum and the names that get further */
    KNOWS_THE_KEY = 0x40, /* proofs are right */
    HANGS = 0x20,         /* who has said all in its handshake stays: the bus closes on it */
};
#define STREAMS_MAX 3
#define TURNS_MAX 100000

static const uint8_t key[BUS_KEY_BYTES] = {7};

/* A stream of a transport: what the stranger will have said, and what it was told. */
struct stranger {
    struct transport_stream stream;
    uint8_t choices;
    uint8_t *bytes;
    size_t length, offset;
    struct bus_hello_format hello; /* as it was sent */
    struct bus_challenge_format challenge;
    uint8_t told[sizeof(struct bus_challenge_format) + sizeof(struct bus_welcome_format)];
    size_t told_bytes;  /* before the frames */
    struct co *waiting; /* the handshake's coroutine */
    struct io_op *recv_op, *send_op;
    char *buffer;
    size_t room;
    bool hangs, shut, closed;
};

struct fuzz {
    struct io *io;
    struct bus *bus;
    uint8_t choices;
    struct stranger strangers[STREAMS_MAX];
    unsigned count, accepted;
    unsigned messages;
    bool closed;
};
static struct fuzz fuzz;

static struct stranger *stranger_of(struct transport_stream *stream)
{
    return container_of(stream, struct stranger, stream);
}

/* ---- what it says ---- */

static void seal(void *format, size_t bytes)
{
    uint32_t crc = crc32c(format, bytes - sizeof(crc));

    memcpy((char *)format + bytes - sizeof(crc), &crc, sizeof(crc));
}

/* Of three nodes, one of which is no peer; the other names are few enough to meet each other. */
static void make_hello_right(struct stranger *stranger)
{
    struct bus_hello_format *hello = (struct bus_hello_format *)stranger->bytes;

    if (stranger->length < sizeof(*hello))
        return;
    hello->magic = BUS_MAGIC_HELLO;
    hello->version_oldest = hello->version_newest = BUS_VERSION_NEWEST;
    hello->bytes = sizeof(*hello);
    hello->channel %= HELLO_GUEST + 1;
    memset(hello->cluster, 0, sizeof(hello->cluster));
    if (hello->key_id[0] % 2 == 0)
        memset(hello->key_id, 0, sizeof(hello->key_id));
    hello->node %= 4;
    hello->to_node %= 2;
    hello->start_counter %= 4;
    hello->to_start_counter %= 3;
    hello->attempt %= 4;
    hello->seen %= 4;
    hello->reserved = 0;
    seal(hello, sizeof(*hello));
}

static void make_proof_right(struct stranger *stranger)
{
    struct bus_proof_format proof;

    if (stranger->length - stranger->offset < sizeof(proof))
        return;
    memcpy(&stranger->challenge, stranger->told, sizeof(stranger->challenge));
    memcpy(&stranger->hello, stranger->bytes, sizeof(stranger->hello));
    proof_encode(&stranger->hello, &stranger->challenge, key, &proof);
    memcpy(stranger->bytes + stranger->offset, &proof, sizeof(proof));
}

/* ---- a transport ---- */

static void co_turn(struct stranger *stranger)
{
    assert(!stranger->waiting);
    stranger->waiting = co_self();
    co_wait();
}

static int stranger_recv_all(struct transport_stream *stream, void *buffer, size_t length)
{
    struct stranger *stranger = stranger_of(stream);

    co_turn(stranger);
    if (stranger->choices & KNOWS_THE_KEY && length == sizeof(struct bus_proof_format) &&
        stranger->told_bytes == sizeof(struct bus_challenge_format) &&
        stranger->offset == sizeof(struct bus_hello_format))
        make_proof_right(stranger);
    while (stranger->choices & HANGS && !stranger->shut &&
           stranger->length - stranger->offset < length) {
        stranger->hangs = true;
        co_turn(stranger);
    }
    if (stranger->shut || stranger->length - stranger->offset < length)
        return -ECONNRESET;
    memcpy(buffer, stranger->bytes + stranger->offset, length);
    stranger->offset += length;
    return 0;
}

static int stranger_send(struct transport_stream *stream, const void *buffer, size_t length)
{
    struct stranger *stranger = stranger_of(stream);

    co_turn(stranger);
    if (stranger->shut)
        return -ECONNRESET;
    assert(stranger->told_bytes + length <= sizeof(stranger->told));
    memcpy(stranger->told + stranger->told_bytes, buffer, length);
    stranger->told_bytes += length;
    return 0;
}

static void stranger_recv(struct transport_stream *stream, struct io_op *op, void *buffer,
                          size_t length)
{
    struct stranger *stranger = stranger_of(stream);

    assert(!stranger->recv_op && length > 0);
    stranger->recv_op = op;
    stranger->buffer = buffer;
    stranger->room = length;
}

static void stranger_sendv(struct transport_stream *stream, struct io_op *op, struct iovec *iov,
                           int iov_count)
{
    (void)iov;
    (void)iov_count;
    assert(!stranger_of(stream)->send_op);
    stranger_of(stream)->send_op = op;
}

static void stranger_shutdown(struct transport_stream *stream)
{
    stranger_of(stream)->shut = true;
}

static void stranger_close(struct transport_stream *stream)
{
    struct stranger *stranger = stranger_of(stream);

    assert(!stranger->closed && !stranger->waiting && !stranger->recv_op && !stranger->send_op);
    stranger->closed = true;
}

static const char *stranger_peer(const struct transport_stream *stream)
{
    (void)stream;
    return "stranger";
}

static int co_stranger_accept(struct transport_listener *listener,
                              struct transport_stream **ret_stream)
{
    (void)listener;
    if (fuzz.accepted == fuzz.count)
        return -ECANCELED;
    *ret_stream = &fuzz.strangers[fuzz.accepted++].stream;
    return 0;
}

static int co_nobody_there(struct io *io, const char *address, uint64_t timeout_ns,
                           struct transport_stream **ret_stream)
{
    (void)io;
    (void)address;
    (void)timeout_ns;
    (void)ret_stream;
    return -ECONNREFUSED;
}

static const struct transport transport_stranger = {
    .name = "stranger",
    .co_accept = co_stranger_accept,
    .co_connect = co_nobody_there,
    .recv = stranger_recv,
    .sendv = stranger_sendv,
    .co_recv_all = stranger_recv_all,
    .co_send = stranger_send,
    .shutdown = stranger_shutdown,
    .close = stranger_close,
    .peer = stranger_peer,
};

/* ---- turns ---- */

static void complete(struct io_op **op_slot, int result)
{
    struct io_op *op = *op_slot;

    *op_slot = NULL;
    if (op)
        op->done(op, result);
}

/* Frames come in pieces of their own choice. */
static void step_connection(struct stranger *stranger)
{
    size_t left = stranger->length - stranger->offset;
    size_t piece = left > 0 ? 1 + stranger->bytes[stranger->offset] * 3u : 0;

    complete(&stranger->send_op, stranger->shut ? -ECONNRESET : 0);
    if (!stranger->recv_op)
        return;
    piece = MIN(piece, MIN(stranger->room, left));
    if (stranger->shut || piece == 0) {
        complete(&stranger->recv_op, -ECONNRESET);
        return;
    }
    memcpy(stranger->buffer, stranger->bytes + stranger->offset, piece);
    stranger->offset += piece;
    complete(&stranger->recv_op, (int)piece);
}

static void step(struct stranger *stranger)
{
    if (stranger->waiting)
        co_wake(take_ptr(stranger->waiting));
    else
        step_connection(stranger);
}

static void stop_loop(void *io)
{
    io_stop(io);
}

static void one_turn(void)
{
    struct io_task stop;

    io_task_init(&stop, stop_loop, fuzz.io);
    io_queue(fuzz.io, &stop);
    io_run(fuzz.io);
}

/* ---- a bus ---- */

static void on_message(void *arg, const struct bus_message *message)
{
    (void)message;
    ((struct fuzz *)arg)->messages++;
}

static int find_key(void *arg, const uint8_t key_id[BUS_KEY_ID_BYTES],
                    uint8_t ret_key[BUS_KEY_BYTES])
{
    (void)arg;
    if (key_id[0] % 4 == 3)
        return -ENOENT;
    memcpy(ret_key, key, BUS_KEY_BYTES);
    return 0;
}

static void begin(void)
{
    struct bus_options options = {
        .node = 1,
        .start_counter = 1,
        .key = key,
        .key_bytes = sizeof(key),
        .find_key = find_key,
        .receive_bytes = MIB,
    };
    int r = bus_new(fuzz.io, &options, &fuzz.bus);

    assert(r == 0);
    fuzz.bus->transport = &transport_stranger;
    for (uint64_t node = 2; node <= 3; node++) {
        r = bus_add_peer(fuzz.bus, node, "127.0.0.1:1");
        assert(r == 0);
    }
    bus_handle(fuzz.bus, 1, on_message, &fuzz);
    bus_allow_guest(fuzz.bus, 1);
    r = co_group_spawn(&fuzz.bus->group, fuzz.io, "accept", accept_main, fuzz.bus);
    assert(r == 0);
}

static void close_main(void *arg)
{
    (void)arg;
    co_bus_close(fuzz.bus);
    fuzz.closed = true;
}

static void turn_all(void)
{
    for (unsigned i = 0; i < fuzz.accepted; i++) {
        step(&fuzz.strangers[i]);
        one_turn();
    }
    one_turn();
}

/* Or they will never say more. */
static bool all_gone(void)
{
    for (unsigned i = 0; i < fuzz.count; i++)
        if (!fuzz.strangers[i].closed && !fuzz.strangers[i].hangs)
            return false;
    return true;
}

/* ---- what a stranger was told ---- */

static bool is_zero(const void *bytes, size_t count)
{
    const uint8_t *at = bytes;

    return count == 0 || (at[0] == 0 && memcmp(at, at + 1, count - 1) == 0);
}

static void check_told(const struct stranger *stranger)
{
    struct bus_challenge_format format;
    struct challenge challenge;
    enum bus_refusal refusal;

    if (stranger->told_bytes == 0)
        return;
    assert(stranger->told_bytes >= sizeof(format));
    memcpy(&format, stranger->told, sizeof(format));
    refusal = challenge_decode(&format, &challenge);
    assert(refusal == REFUSAL_NONE);
    if (challenge.refusal == REFUSAL_NONE)
        return;
    assert(challenge.node == 0 && challenge.start_counter == 0);
    assert(is_zero(challenge.cluster, sizeof(challenge.cluster)));
    assert(is_zero(challenge.nonce, sizeof(challenge.nonce)));
    assert(is_zero(challenge.proof, sizeof(challenge.proof)));
}

/* Who does not know the key is nobody. */
static void check_bus(void)
{
    if (fuzz.choices & KNOWS_THE_KEY)
        return;
    assert(list_empty(&fuzz.bus->connections) && fuzz.bus->guest_count == 0);
    assert(bus_peer_start_counter(fuzz.bus, 2) == 0 && bus_peer_start_counter(fuzz.bus, 3) == 0);
    assert(fuzz.messages == 0);
}

static void deal_out(const uint8_t *data, size_t size)
{
    for (unsigned i = 0; i < fuzz.count; i++) {
        struct stranger *stranger = &fuzz.strangers[i];
        size_t first = size * i / fuzz.count;

        *stranger = (struct stranger){.stream = {.transport = &transport_stranger},
                                      .choices = fuzz.choices};
        stranger->length = size * (i + 1) / fuzz.count - first;
        stranger->bytes = malloc(MAX(stranger->length, (size_t)1));
        memcpy(stranger->bytes, data + first, stranger->length);
        if (fuzz.choices & HELLO_RIGHT)
            make_hello_right(stranger);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned turns = 0;
    int r;

    if (size < 1)
        return 0;
    if (!fuzz.io && io_uring_new(NULL, &fuzz.io) < 0)
        abort();
    fuzz = (struct fuzz){
        .io = fuzz.io, .choices = data[0], .count = MIN(1u + (data[0] & STREAMS), STREAMS_MAX)};
    deal_out(data + 1, size - 1);
    begin();
    while (!all_gone()) {
        assert(turns++ < TURNS_MAX);
        turn_all();
        check_bus();
    }
    r = co_spawn(fuzz.io, "close", close_main, NULL);
    assert(r == 0);
    while (!fuzz.closed) {
        assert(turns++ < TURNS_MAX);
        turn_all();
    }
    for (unsigned i = 0; i < fuzz.count; i++) {
        check_told(&fuzz.strangers[i]);
        assert(fuzz.strangers[i].closed);
        free(fuzz.strangers[i].bytes);
    }
    return 0;
}
