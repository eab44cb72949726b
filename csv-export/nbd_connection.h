/* nbd_connection: one client of the NBD server. Internal to nbd_server.c, nbd_handshake.c and
 * nbd_connection.c. */
#ifndef S2D_CSV_NBD_CONNECTION_H
#define S2D_CSV_NBD_CONNECTION_H

#include "csv-export/nbd_protocol.h"
#include "csv-export/nbd_server.h"
#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/metrics.h"

#define NBD_IN_BYTES (256 * 1024) /* received at once: many requests to a system call */
#define NBD_SLOTS 128             /* requests of one connection under way */
#define NBD_IOVS (2 * NBD_SLOTS)
#define NBD_CONNECTION_BYTES (8 * MIB) /* buffers that one client, which may not read, can hold */

struct nbd_counters {
    struct counter reads, writes, others, read_bytes, write_bytes, errors, connections;
    struct histogram read_ns, write_ns;
};

struct nbd_server {
    struct io *io;
    struct nbd_backend *backend;
    struct io_listener *listener;
    struct buffer_pool *pool;
    struct metrics *metrics;
    struct nbd_counters counters;
    struct list connections;
    unsigned connection_count, connections_max;
    bool shut;
    struct co_group coroutines; /* the accepting one, and one to a connection */
};

/* One request, or a part of a large one, from its arrival until its reply has left. */
struct nbd_slot {
    struct list node; /* in free_slots, or out, or sending */
    struct nbd_connection *connection;
    struct nbd_request_header header; /* offset and length: of this part */
    uint64_t start_ns;
    void *buffer; /* buffer_length bytes of the server's pool */
    uint32_t buffer_length;
    struct nbd_slot *parent; /* this is a part of that */
    unsigned parts;          /* of ours, not yet done; and one while they are being made */
    int error;

    uint8_t reply[NBD_REPLY_HEADER_MAX];
    uint32_t reply_length;
    uint32_t data_length; /* sent from the buffer behind the reply */
    struct co *sent;      /* woken when it left; NULL: the slot is released */
};

struct nbd_connection {
    struct list node; /* in server->connections */
    struct nbd_server *server;
    struct io_stream *stream;
    struct nbd_file *file;
    struct nbd_export_info info;
    bool structured, allocation_context;
    char *context_name; /* the export that the context was chosen for */

    uint8_t *in; /* what was received and not yet taken: [in_start, in_end) */
    size_t in_start, in_end;

    struct nbd_slot slots[NBD_SLOTS];
    struct list free_slots;
    unsigned used_slots;
    struct co_cond slot_freed;
    struct co_sem buffer_bytes; /* of NBD_CONNECTION_BYTES, left */

    struct list out;     /* replies to send */
    struct list sending; /* those that the operation is sending */
    struct iovec iov[NBD_IOVS];
    struct io_op send_op;
    struct io_task flush;
    bool is_sending, is_broken;
};

/* Makes `need` (<= NBD_IN_BYTES) unread bytes stand at *ret_bytes. Returns 0, -ECONNRESET, … */
must_check int co_nbd_peek(struct nbd_connection *connection, size_t need,
                           const uint8_t **ret_bytes);
void nbd_consume(struct nbd_connection *connection, size_t length);

/* Options, until the client has chosen an export (then connection->file is open).
 * Returns 0, or an error: the client left, or spoke nonsense. */
must_check int co_nbd_handshake(struct nbd_connection *connection);

/* Serves requests until the client leaves; returns when none is under way. */
void co_nbd_transmission(struct nbd_connection *connection);

void nbd_connection_init(struct nbd_connection *connection);

#endif
