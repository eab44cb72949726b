/* transport: byte streams that carry the bus. TCP now (over io.h's streams, so in the simulator
 * too); RDMA verbs will be a second one, with the same face: a send gathers, and a receive names
 * the memory where the bytes shall lie.
 *
 * Contracts are those of io.h's streams: one receive and one send pending at a time; buffers are
 * lent until done(); shutdown ends what is pending. */
#ifndef S2D_BUS_TRANSPORT_H
#define S2D_BUS_TRANSPORT_H

#include "s2d/base/io.h"

struct transport;

/* An implementation begins its own with these. */
struct transport_listener {
    const struct transport *transport;
};
struct transport_stream {
    const struct transport *transport;
};

struct transport {
    const char *name;

    int (*listen)(struct io *io, const char *address, struct transport_listener **ret_listener);
    const char *(*listener_address)(const struct transport_listener *listener);
    int (*co_accept)(struct transport_listener *listener, struct transport_stream **ret_stream);
    void (*listener_shutdown)(struct transport_listener *listener);
    void (*listener_close)(struct transport_listener *listener);

    int (*co_connect)(struct io *io, const char *address, uint64_t timeout_ns,
                      struct transport_stream **ret_stream);
    void (*recv)(struct transport_stream *stream, struct io_op *op, void *buffer, size_t length);
    void (*sendv)(struct transport_stream *stream, struct io_op *op, struct iovec *iov,
                  int iov_count);
    /* For the handshake. */
    int (*co_recv_all)(struct transport_stream *stream, void *buffer, size_t length);
    int (*co_send)(struct transport_stream *stream, const void *buffer, size_t length);
    void (*shutdown)(struct transport_stream *stream);
    void (*close)(struct transport_stream *stream);
    const char *(*peer)(const struct transport_stream *stream); /* address, for logs */
};

extern const struct transport transport_tcp;

#endif
