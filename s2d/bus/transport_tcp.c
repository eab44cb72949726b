#include "s2d/bus/transport.h"

struct tcp_listener {
    struct transport_listener base;
    struct io_listener *listener;
};

struct tcp_stream {
    struct transport_stream base;
    struct io_stream *stream;
};

static struct io_listener *listener_of(const struct transport_listener *listener)
{
    return container_of(listener, struct tcp_listener, base)->listener;
}

static struct io_stream *stream_of(const struct transport_stream *stream)
{
    return container_of(stream, struct tcp_stream, base)->stream;
}

static int tcp_listen(struct io *io, const char *address, struct transport_listener **ret_listener)
{
    struct tcp_listener *tcp = calloc(1, sizeof(*tcp));
    int r;

    if (!tcp)
        return -ENOMEM;
    r = io_listen(io, address, &tcp->listener);
    if (r < 0) {
        free(tcp);
        return r;
    }
    tcp->base.transport = &transport_tcp;
    *ret_listener = &tcp->base;
    return 0;
}

static const char *tcp_listener_address(const struct transport_listener *listener)
{
    return io_listener_address(listener_of(listener));
}

static void tcp_listener_shutdown(struct transport_listener *listener)
{
    io_listener_shutdown(listener_of(listener));
}

static void tcp_listener_close(struct transport_listener *listener)
{
    io_listener_close(listener_of(listener));
    free(container_of(listener, struct tcp_listener, base));
}

static int stream_new(struct io_stream *stream, struct transport_stream **ret_stream)
{
    struct tcp_stream *tcp = calloc(1, sizeof(*tcp));

    if (!tcp) {
        io_stream_close(stream);
        return -ENOMEM;
    }
    tcp->base.transport = &transport_tcp;
    tcp->stream = stream;
    *ret_stream = &tcp->base;
    return 0;
}

static int co_tcp_accept(struct transport_listener *listener, struct transport_stream **ret_stream)
{
    struct io_stream *stream;
    int r;

    r = co_io_accept(listener_of(listener), &stream);
    return r < 0 ? r : stream_new(stream, ret_stream);
}

static int co_tcp_connect(struct io *io, const char *address, uint64_t timeout_ns,
                          struct transport_stream **ret_stream)
{
    struct io_stream *stream;
    int r;

    r = co_io_connect(io, address, timeout_ns, &stream);
    return r < 0 ? r : stream_new(stream, ret_stream);
}

static void tcp_recv(struct transport_stream *stream, struct io_op *op, void *buffer, size_t length)
{
    io_stream_recv(stream_of(stream), op, buffer, length);
}

static void tcp_sendv(struct transport_stream *stream, struct io_op *op, struct iovec *iov,
                      int iov_count)
{
    io_stream_sendv(stream_of(stream), op, iov, iov_count);
}

static int co_tcp_recv_all(struct transport_stream *stream, void *buffer, size_t length)
{
    return co_io_recv_all(stream_of(stream), buffer, length);
}

static int co_tcp_send(struct transport_stream *stream, const void *buffer, size_t length)
{
    return co_io_send(stream_of(stream), buffer, length);
}

static void tcp_shutdown(struct transport_stream *stream)
{
    io_stream_shutdown(stream_of(stream));
}

static void tcp_close(struct transport_stream *stream)
{
    io_stream_close(stream_of(stream));
    free(container_of(stream, struct tcp_stream, base));
}

static const char *tcp_peer(const struct transport_stream *stream)
{
    return io_stream_peer(stream_of(stream));
}

const struct transport transport_tcp = {
    .name = "tcp",
    .listen = tcp_listen,
    .listener_address = tcp_listener_address,
    .co_accept = co_tcp_accept,
    .listener_shutdown = tcp_listener_shutdown,
    .listener_close = tcp_listener_close,
    .co_connect = co_tcp_connect,
    .recv = tcp_recv,
    .sendv = tcp_sendv,
    .co_recv_all = co_tcp_recv_all,
    .co_send = co_tcp_send,
    .shutdown = tcp_shutdown,
    .close = tcp_close,
    .peer = tcp_peer,
};
