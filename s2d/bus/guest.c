/* One request to an address that is no peer: what a node does to join. A coroutine of its own, with
 * its own stream; nothing here needs a bus. */
#include "s2d/bus/bus_internal.h"

struct guest {
    const struct transport *transport;
    struct transport_stream *stream;
    struct challenge challenge;
};

static int co_guest_handshake(struct io *io, struct guest *guest, const struct bus_options *options)
{
    struct hello hello = {
        .version_oldest = BUS_VERSION_OLDEST,
        .version_newest = BUS_VERSION_NEWEST,
        .channel = HELLO_GUEST,
        .node = options->node,
        .start_counter = options->start_counter,
    };
    enum bus_refusal refusal;
    int error;

    memcpy(hello.cluster, options->cluster, sizeof(hello.cluster));
    memcpy(hello.key_id, options->key_id, sizeof(hello.key_id));
    refusal = co_handshake_dial(io, guest->transport, guest->stream, options->key, &hello,
                                &guest->challenge, &error);
    return refusal ? refusal_errno(refusal) : error;
}

static int co_guest_send(struct guest *guest, const struct bus_send *request)
{
    struct frame frame = {
        .kind = FRAME_REQUEST,
        .version = (uint8_t)guest->challenge.version,
        .type = request->type,
        .flags = request->flags,
        .header_bytes = request->header_bytes,
        .data_bytes = request->data_bytes,
        .request = 1,
    };
    uint8_t bytes[FRAME_BYTES];
    int r;

    if (frame.flags & BUS_CHECKSUM)
        frame.payload_crc = frame_payload_crc(request->header, request->header_bytes, request->data,
                                              request->data_bytes);
    frame_encode(&frame, bytes);
    r = guest->transport->co_send(guest->stream, bytes, sizeof(bytes));
    if (r == 0 && request->header_bytes > 0)
        r = guest->transport->co_send(guest->stream, request->header, request->header_bytes);
    if (r == 0 && request->data_bytes > 0)
        r = guest->transport->co_send(guest->stream, request->data, request->data_bytes);
    return r;
}

static int co_guest_receive(struct guest *guest, struct bus_reply *reply)
{
    uint8_t bytes[FRAME_BYTES];
    struct frame frame;
    const char *why;
    int r;

    r = guest->transport->co_recv_all(guest->stream, bytes, sizeof(bytes));
    if (r < 0)
        return r;
    if (frame_decode(bytes, &frame, &why) < 0 || frame.kind != FRAME_REPLY || frame.request != 1)
        return -EPROTO;
    if (frame.header_bytes > reply->header_bytes || frame.data_bytes > reply->data_bytes)
        return -EPROTO;
    r = guest->transport->co_recv_all(guest->stream, reply->header, frame.header_bytes);
    if (r == 0)
        r = guest->transport->co_recv_all(guest->stream, reply->data, frame.data_bytes);
    if (r < 0)
        return r;
    if ((frame.flags & BUS_CHECKSUM) &&
        frame_payload_crc(reply->header, frame.header_bytes, reply->data, frame.data_bytes) !=
            frame.payload_crc)
        return -EPROTO;
    reply->result = frame.result;
    reply->header_bytes = frame.header_bytes;
    reply->data_bytes = frame.data_bytes;
    return 0;
}

int co_bus_call_address(struct io *io, const struct bus_options *options, const char *address,
                        const struct bus_send *request, uint64_t timeout_ns,
                        struct bus_reply *reply)
{
    struct guest guest = {.transport = &transport_tcp};
    uint64_t start_ns = io_now_ns(io);
    struct deadline deadline;
    uint64_t spent_ns;
    int r;

    if (options->key_bytes != BUS_KEY_BYTES)
        return -EINVAL;
    if (request->header_bytes > BUS_HEADER_MAX || request->data_bytes > BUS_COPY_MAX)
        return -EMSGSIZE;
    r = guest.transport->co_connect(io, address, timeout_ns, &guest.stream);
    if (r < 0)
        return r;
    spent_ns = MIN(io_now_ns(io) - start_ns, timeout_ns);
    deadline_start(&deadline, io, guest.transport, guest.stream, timeout_ns - spent_ns);
    r = co_guest_handshake(io, &guest, options);
    if (r == 0)
        r = co_guest_send(&guest, request);
    if (r == 0)
        r = co_guest_receive(&guest, reply);
    deadline_stop(&deadline);
    guest.transport->close(guest.stream);
    if (r < 0 && deadline.expired)
        return -ETIMEDOUT;
    return r == -ECONNRESET || r == -EPIPE ? -ENOTCONN : r;
}
