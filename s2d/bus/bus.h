/* bus: messages between nodes. Two connections to each peer: *control* (Raft, leases, seals, acks:
 * small, always read) and *data* (records, copies, reads). Every connection begins with a versioned
 * hello and a mutual HMAC-SHA-256 challenge with the cluster key; frames carry a magic, a length
 * and a CRC32C of the header (payloads have their own checksums, or ask for one with BUS_CHECKSUM).
 * Transport is TCP behind an interface that RDMA verbs will join (transport.h).
 *
 * What is sent in one turn of the loop leaves in one gather-send for each connection. Order holds
 * within a connection; a connection that breaks loses what was under way, and the layer above
 * resends (it has names for its requests).
 *
 * Nothing waits in a circle: on the data connection a *request* needs credit, granted by the
 * receiver as it frees its buffers; replies need none (their reader has the buffer ready); the
 * control connection has none (its messages are small and handled at once).
 *
 * One reactor. Handlers run on the loop, in a coroutine only where said. */
#ifndef S2D_BUS_BUS_H
#define S2D_BUS_BUS_H

#include <sys/uio.h>

#include "s2d/base/io.h"

struct metrics;
struct bus;

#define BUS_PAYLOAD_MAX (MIB + 64 * KIB) /* of one message */
#define BUS_HEADER_MAX 4096              /* of the part before the bulk data */
#define BUS_NODES_MAX 64

enum bus_channel { BUS_CONTROL, BUS_DATA };

/* Message types: a range to each module (message_types.h of the bus names them), 1 … 65535. */

/* A message as its handler sees it; valid until the handler returns, but for `data`, see
 * bus_message_keep(). */
struct bus_message {
    uint64_t from;       /* node */
    uint64_t connection; /* counts up with each new connection of that peer and channel: tells old
                            from new */
    enum bus_channel channel;
    uint16_t type;
    uint32_t flags;
    uint64_t request; /* != 0: the sender waits for bus_reply() */
    const void *header;
    uint32_t header_bytes;
    void *data; /* bulk part, aligned to BLOCK_SIZE; NULL if none */
    uint32_t data_bytes;
};
/* Called on the loop, not in a coroutine; must not suspend. To work longer: bus_message_keep(),
 * then bus_message_release(). */
typedef void bus_handler(void *arg, const struct bus_message *message);

/* A message kept past its handler: same contents; holds its buffers, and so the sender's credit,
 * until released. */
struct bus_message *bus_message_keep(const struct bus_message *message);
void bus_message_release(struct bus_message *message);

/* ---- life ---- */

struct bus_options {
    uint64_t node;           /* our id; 0: not a member yet (only bus_call_address() works) */
    uint64_t start_counter;  /* rises with every start of this node */
    const uint8_t *key;      /* cluster key */
    size_t key_bytes;        /* 32 */
    uint8_t cluster[16];     /* cluster UUID: a peer of another is refused by name */
    const char *listen;      /* "10.83.0.1:7800" */
    uint64_t receive_bytes;  /* buffers for requests of peers, in all; 0: 64 MiB */
    struct metrics *metrics; /* may be NULL */

    /* Events about a peer; any may be NULL. On the loop. */
    void (*on_up)(void *arg, uint64_t node, enum bus_channel channel);
    void (*on_down)(void *arg, uint64_t node,
                    enum bus_channel channel); /* after it no message of that connection arrives */
    /* The peer's port refused a connection (the host answers, the daemon is gone); `times` in a
     * row, and over how long. */
    void (*on_refused)(void *arg, uint64_t node, unsigned times, uint64_t over_ns);
    /* A hello with a newer start counter: the old daemon is dead. */
    void (*on_restarted)(void *arg, uint64_t node, uint64_t start_counter);
    void *arg;
};

/* Listens and starts to connect. Returns 0, -EADDRINUSE, -EINVAL, -ENOMEM. */
must_check int bus_new(struct io *io, const struct bus_options *options, struct bus **ret_bus);
/* Ends every connection; calls of co_bus_call() return -ECANCELED; waits until all kept messages
 * are released. */
void co_bus_close(struct bus *bus);
uint64_t bus_node(const struct bus *bus);

/* The peers to stay connected to. Idempotent; a changed address reconnects. Either side may dial;
 * of two crossing connections one survives (both sides choose the same). */
must_check int bus_add_peer(struct bus *bus, uint64_t node, const char *address);
void bus_remove_peer(struct bus *bus, uint64_t node);
bool bus_is_up(const struct bus *bus, uint64_t node, enum bus_channel channel);
uint64_t bus_peer_start_counter(const struct bus *bus, uint64_t node); /* 0: never seen */

void bus_handle(struct bus *bus, uint16_t type, bus_handler *handler,
                void *arg); /* NULL takes it off */

/* ---- sending; none of these suspends unless it is called co_ ---- */

enum bus_flags {
    BUS_CHECKSUM =
        BIT(0), /* CRC32C over header part and data as well: for what has no checksum of its own */
};

/* Queues a message for the end of the turn. header and data up to 32 KiB are copied; larger data is
 * sent from its place, and must stay until sent(arg) (called exactly once, on the loop, also when
 * the connection breaks; NULL with copied data is fine). Returns 0, -ENOTCONN, -EMSGSIZE, -ENOBUFS
 * (control: more than 16 MiB queued for a peer that does not read). */
struct bus_send {
    uint64_t to;
    enum bus_channel channel;
    uint16_t type;
    uint32_t flags;
    const void *header;
    uint32_t header_bytes;
    const void *data;
    uint32_t data_bytes;
    void (*sent)(void *arg); /* see above; may be NULL when data_bytes <= BUS_COPY_MAX */
    void *sent_arg;
};
#define BUS_COPY_MAX (32 * 1024)
must_check int bus_send(struct bus *bus, const struct bus_send *send);

/* Credit for one data request of that size: waits in order. Every bus_send() on BUS_DATA that is
 * not a reply takes its credit from here first. Returns 0, -ENOTCONN (also when the connection
 * breaks meanwhile), -ECANCELED. A broken connection voids what was taken. */
must_check int co_bus_credit(struct bus *bus, uint64_t to, uint32_t bytes);
must_check int bus_try_credit(struct bus *bus, uint64_t to,
                              uint32_t bytes); /* 0, -EAGAIN, -ENOTCONN */

/* ---- request and reply ---- */

/* Where a reply goes: the caller's memory. */
struct bus_reply {
    int result;            /* what the peer's handler said: 0 or a negative errno */
    void *header;          /* room for header_bytes */
    uint32_t header_bytes; /* in: room, out: received */
    void *data;            /* room for data_bytes, aligned; a large reply lands here in place */
    uint32_t data_bytes;   /* in: room, out: received */
};
/* Sends and waits for the answer. Returns 0 (reply->result says more), -ENOTCONN, -ETIMEDOUT (an
 * answer that comes later is dropped), -EPROTO (reply does not fit), -ECANCELED. On BUS_DATA it
 * takes credit by itself. */
must_check int co_bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                           struct bus_reply *reply);
/* The same without a coroutine: done(arg, result) is called once. Returns 0 or as bus_send(); data
 * requests: -EAGAIN without credit. */
struct bus_call { /* the caller's memory until done() */
    struct bus_reply *reply;
    void (*done)(struct bus_call *call, int result);
    /* private from here */
    struct list node;
    struct io_timer timer;
    uint64_t request, to;
};
must_check int bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                        struct bus_call *call);

/* Answers a message with request != 0, on the connection it came by (gone: nothing happens, 0).
 * Fields of `send` used: flags, header, data, sent. May be called from the handler or later, with a
 * kept message. */
must_check int bus_reply(struct bus *bus, const struct bus_message *message, int result,
                         const struct bus_send *send);

/* One request to an address that is no peer (joining): connects, authenticates with `key` (the
 * token's), asks, closes. Returns as co_bus_call(), -ECONNREFUSED, -EACCES (key), -EPROTONOSUPPORT
 * (versions). */
must_check int co_bus_call_address(struct io *io, const struct bus_options *options,
                                   const char *address, const struct bus_send *request,
                                   uint64_t timeout_ns, struct bus_reply *reply);

#endif
