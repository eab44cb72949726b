/* Bytes of a peer. Twice: the fixed-size pieces of the wire format decoded from anything, and the
 * receive path of an established connection fed by a transport that hands out the fuzzer's bytes in
 * pieces of its choice. So that the fuzzer gets past the checksums, it may ask for them to be put
 * right. What decodes must obey its bounds; nothing may crash, leak or keep credit. */
#include "s2d/base/checksum.h"
#include "s2d/bus/bus_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the pieces ---- */

static void fuzz_frame(const uint8_t *data)
{
    uint8_t again[FRAME_BYTES];
    struct frame frame;
    const char *why;

    if (frame_decode(data, &frame, &why) < 0) {
        assert(why);
        return;
    }
    assert(frame.header_bytes <= BUS_HEADER_MAX);
    assert(frame.data_bytes <= BUS_PAYLOAD_MAX);
    assert(frame.result <= 0);
    frame_encode(&frame, again);
    assert(memcmp(data, again, sizeof(again)) == 0);
}

static void seal(void *format, size_t bytes)
{
    uint32_t crc = crc32c(format, bytes - sizeof(crc));

    memcpy((char *)format + bytes - sizeof(crc), &crc, sizeof(crc));
}

static void fuzz_handshake(const uint8_t *data, bool right)
{
    static const uint8_t key[BUS_KEY_BYTES];
    struct bus_hello_format hello_format;
    struct bus_challenge_format challenge_format;
    struct bus_welcome_format welcome;
    struct challenge challenge;
    struct hello hello;

    memcpy(&hello_format, data, sizeof(hello_format));
    memcpy(&challenge_format, data, sizeof(challenge_format));
    memcpy(&welcome, data, sizeof(welcome));
    if (right) {
        seal(&hello_format, sizeof(hello_format));
        seal(&challenge_format, sizeof(challenge_format));
        seal(&welcome, sizeof(welcome));
    }
    if (hello_decode(&hello_format, &hello) == REFUSAL_NONE) {
        assert(handshake_version(hello.version_oldest, hello.version_newest) != 0);
        assert(hello.channel <= HELLO_GUEST);
    }
    if (challenge_decode(&challenge_format, &challenge) == REFUSAL_NONE)
        assert(!challenge_verify(&challenge_format, &hello_format, key));
    assert(refusal_text(welcome_decode(&welcome)));
    assert(refusal_errno(welcome_decode(&welcome)) <= 0);
}

/* ---- a connection ---- */

struct feed { /* a transport's stream: the bytes that the peer will have sent */
    struct transport_stream stream;
    uint8_t *bytes;
    size_t length, offset;
    struct io_op *recv_op, *send_op;
    char *buffer;
    size_t room;
    bool shut;
};

static void feed_recv(struct transport_stream *stream, struct io_op *op, void *buffer,
                      size_t length)
{
    struct feed *feed = container_of(stream, struct feed, stream);

    assert(!feed->recv_op && length > 0);
    feed->recv_op = op;
    feed->buffer = buffer;
    feed->room = length;
}

static void feed_sendv(struct transport_stream *stream, struct io_op *op, struct iovec *iov,
                       int iov_count)
{
    struct feed *feed = container_of(stream, struct feed, stream);

    (void)iov;
    (void)iov_count;
    assert(!feed->send_op);
    feed->send_op = op;
}

static void feed_shutdown(struct transport_stream *stream)
{
    container_of(stream, struct feed, stream)->shut = true;
}

static void feed_close(struct transport_stream *stream)
{
    struct feed *feed = container_of(stream, struct feed, stream);

    assert(!feed->recv_op && !feed->send_op);
}

static const char *feed_peer(const struct transport_stream *stream)
{
    (void)stream;
    return "fuzzer";
}

static const struct transport transport_feed = {
    .name = "feed",
    .recv = feed_recv,
    .sendv = feed_sendv,
    .shutdown = feed_shutdown,
    .close = feed_close,
    .peer = feed_peer,
};

struct fuzz {
    struct bus *bus;
    struct bus_message *kept[8];
    unsigned kept_count;
    struct bus_call call;
    struct bus_reply reply;
    uint8_t reply_header[64], *reply_data;
    unsigned calls_done;
};

static void fuzz_handler(void *arg, const struct bus_message *message)
{
    struct fuzz *fuzz = arg;

    assert((uintptr_t)message->data % BLOCK_SIZE == 0);
    if (message->data_bytes > 0)
        ((uint8_t *)message->data)[message->data_bytes - 1] ^= 1;
    if (message->request != 0)
        assert(bus_reply(fuzz->bus, message, 0, NULL) == 0);
    if ((message->header_bytes & 1) && fuzz->kept_count < ARRAY_SIZE(fuzz->kept))
        fuzz->kept[fuzz->kept_count++] = bus_message_keep(message);
}

static void fuzz_call_done(struct bus_call *call, int result)
{
    assert(result <= 0);
    container_of(call, struct fuzz, call)->calls_done++;
}

/* With the highest bit of the first byte, frames are made valid where they stand: magic, version,
 * checksum, and lengths that the input can fill. */
static void make_valid(struct feed *feed)
{
    size_t at = 0;

    while (feed->length - at >= FRAME_BYTES) {
        struct bus_frame_format format;

        memcpy(&format, feed->bytes + at, sizeof(format));
        format.magic = BUS_MAGIC_FRAME;
        format.version = BUS_VERSION_NEWEST;
        format.kind = 1 + format.kind % 5;
        format.header_bytes %= 128;
        format.data_bytes %= 3 * BUS_COPY_MAX;
        format.flags = 0;
        format.result = 0;
        format.granted %= 4096;
        if (format.kind >= FRAME_REPLY)
            format.type = 0;
        else
            format.type = 1 + format.type % 2;
        if (format.kind == FRAME_REQUEST || format.kind == FRAME_REPLY)
            format.request = 1 + format.request % 2;
        else
            format.request = 0;
        if (format.kind >= FRAME_GRANT)
            format.header_bytes = format.data_bytes = 0;
        seal(&format, sizeof(format));
        memcpy(feed->bytes + at, &format, sizeof(format));
        at += sizeof(format) + format.header_bytes + format.data_bytes;
        if (at >= feed->length)
            return;
    }
}

static void complete(struct io_op **op_slot, int result)
{
    struct io_op *op = *op_slot;

    *op_slot = NULL;
    if (op)
        op->done(op, result);
}

static void feed_step(struct feed *feed)
{
    size_t piece = feed->offset < feed->length ? 1 + feed->bytes[feed->offset] * 97u : 0;

    complete(&feed->send_op, feed->shut ? -ECONNRESET : 0);
    piece = MIN(piece, MIN(feed->room, feed->length - feed->offset));
    if (feed->shut || !feed->recv_op) {
        complete(&feed->recv_op, -ECONNRESET);
        return;
    }
    memcpy(feed->buffer, feed->bytes + feed->offset, piece);
    feed->offset += piece;
    complete(&feed->recv_op, (int)piece);
}

static void stop_loop(void *io)
{
    io_stop(io);
}

static void one_turn(struct io *io)
{
    struct io_task stop;

    io_task_init(&stop, stop_loop, io);
    io_queue(io, &stop);
    io_run(io);
}

static void fuzz_connection(struct fuzz *fuzz, struct feed *feed, enum bus_channel channel)
{
    struct link *link = &bus_peer(fuzz->bus, 2)->links[channel];
    struct connection_start start = {.link = link, .version = 1, .stream = &feed->stream};
    struct bus_send request = {.to = 2, .channel = BUS_CONTROL, .type = 1};
    struct connection *connection;
    int r;

    r = connection_new(fuzz->bus, &start, &connection);
    assert(r == 0);
    link->connection = connection;
    fuzz->bus->next_request = 0; /* so that replies can meet it */
    fuzz->reply = (struct bus_reply){.header = fuzz->reply_header,
                                     .header_bytes = sizeof(fuzz->reply_header),
                                     .data = fuzz->reply_data,
                                     .data_bytes = 2 * BUS_COPY_MAX};
    fuzz->call = (struct bus_call){.reply = &fuzz->reply, .done = fuzz_call_done};
    fuzz->calls_done = 0;
    connection_start(connection);
    if (channel == BUS_CONTROL) {
        r = bus_call(fuzz->bus, &request, UINT64_MAX, &fuzz->call);
        assert(r == 0);
    }
    while (link->connection) {
        feed_step(feed);
        one_turn(fuzz->bus->io);
    }
    while (feed->recv_op || feed->send_op) {
        feed_step(feed);
        one_turn(fuzz->bus->io);
    }
    while (fuzz->kept_count > 0)
        bus_message_release(fuzz->kept[--fuzz->kept_count]);
    one_turn(fuzz->bus->io);
    assert(fuzz->calls_done == (channel == BUS_CONTROL));
    assert(bus_peer(fuzz->bus, 2)->held_cost == 0);
    assert(buffer_pool_used_bytes(fuzz->bus->receive_pool) == 0);
    assert(list_empty(&fuzz->bus->connections));
}

static struct fuzz *fuzz_new(void)
{
    static const uint8_t key[BUS_KEY_BYTES];
    static struct fuzz fuzz;
    struct bus_options options = {
        .node = 1, .start_counter = 1, .key = key, .key_bytes = sizeof(key)};
    struct io *io;
    int r;

    r = io_uring_new(NULL, &io);
    assert(r == 0);
    r = bus_new(io, &options, &fuzz.bus);
    assert(r == 0);
    r = bus_add_peer(fuzz.bus, 2, "127.0.0.1:1");
    assert(r == 0);
    bus_peer(fuzz.bus, 2)->removed = true; /* it never dials */
    bus_handle(fuzz.bus, 1, fuzz_handler, &fuzz);
    fuzz.reply_data = malloc(2 * BUS_COPY_MAX);
    return &fuzz;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz *fuzz;
    struct feed feed = {.stream = {.transport = &transport_feed}};

    if (size < sizeof(struct bus_hello_format) + 1)
        return 0;
    fuzz_frame(data + 1);
    fuzz_handshake(data + 1, data[0] & 0x80);

    if (!fuzz)
        fuzz = fuzz_new();
    feed.length = size - 1;
    feed.bytes = malloc(feed.length);
    memcpy(feed.bytes, data + 1, feed.length);
    if (data[0] & 0x80)
        make_valid(&feed);
    fuzz_connection(fuzz, &feed, data[0] & 1 ? BUS_DATA : BUS_CONTROL);
    free(feed.bytes);
    return 0;
}
