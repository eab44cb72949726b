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
#define BUS_TYPE_MAX 1023
#define BUS_KEY_BYTES 32
#define BUS_KEY_ID_BYTES 16
#define BUS_SILENCE_NS (3 * SEC) /* a connection on which nothing came for so long is dead */

enum bus_channel { BUS_CONTROL, BUS_DATA };

/* Message types: a range to each module (message_types.h of the bus names them), 1 … BUS_TYPE_MAX.
 * A request of a type that nobody handles is answered with -EOPNOTSUPP; other such messages are
 * dropped. */

/* A message as its handler sees it; valid until the handler returns, unless kept. The handler may
 * change the bytes of `data`. */
struct bus_message {
    uint64_t from;       /* node; 0: a guest, see bus_allow_guest() */
    uint64_t connection; /* counts up with each new connection of this bus: tells old from new */
    enum bus_channel channel;
    uint16_t type;
    uint32_t flags;
    uint64_t request; /* != 0: the sender waits for bus_reply() */
    const void *header;
    uint32_t header_bytes;
    void *data; /* bulk part, aligned to BLOCK_SIZE; NULL if none */
    uint32_t data_bytes;
    const uint8_t *key_id; /* guests: the BUS_KEY_ID_BYTES they authenticated with; else NULL */
};
/* Called on the loop, not in a coroutine; must not suspend. To work longer: bus_message_keep(),
 * then bus_message_release(). May call everything of this header that is not co_. */
typedef void bus_handler(void *arg, const struct bus_message *message);

/* A message kept past its handler: same contents; holds its buffers, and so the sender's credit,
 * until released. Never fails; at most once, and only inside the handler. Releases are legal after
 * the connection or the peer is gone, but not after co_bus_close() returned. */
struct bus_message *bus_message_keep(const struct bus_message *message);
void bus_message_release(struct bus_message *message);

/* ---- life ---- */

struct bus_options {
    uint64_t node;          /* our id; 0: not a member yet (only co_bus_call_address() works) */
    uint64_t start_counter; /* rises with every start of this node */
    const uint8_t *key;     /* cluster key; co_bus_call_address(): may be a token's */
    size_t key_bytes;       /* BUS_KEY_BYTES */
    uint8_t
        key_id[BUS_KEY_ID_BYTES]; /* all zeros: the cluster key. Else co_bus_call_address() names
                                     the token's key by it, and `cluster` may be all zeros */
    uint8_t cluster[16];          /* cluster UUID: a peer of another is refused by name */
    const char *listen;           /* "10.83.0.1:7800"; NULL: only dials */
    uint64_t receive_bytes;       /* buffers for data requests: each peer may have a sixteenth of it
                                     under way; 0: 64 MiB */
    struct metrics *metrics;      /* may be NULL; outlives the bus */

    /* The key of a guest (a node that joins): writes it and returns 0, or -ENOENT. Must not
     * suspend. NULL: none. */
    int (*find_key)(void *arg, const uint8_t key_id[BUS_KEY_ID_BYTES],
                    uint8_t ret_key[BUS_KEY_BYTES]);

    /* Events about a peer; any may be NULL. On the loop; they may send, but not remove the peer. */
    void (*on_up)(void *arg, uint64_t node, enum bus_channel channel);
    void (*on_down)(void *arg, uint64_t node,
                    enum bus_channel channel); /* after it no message of that connection arrives */
    /* The peer's port refused a connection (the host answers, the daemon is gone); `times` in a
     * row, and the time from the first to the last of them. */
    void (*on_refused)(void *arg, uint64_t node, unsigned times, uint64_t over_ns);
    /* An authenticated hello with a newer start counter: the old daemon is dead. Its connections
     * are down already (on_down() was called); the new one's on_up() follows. Not called for the
     * first start counter seen. */
    void (*on_restarted)(void *arg, uint64_t node, uint64_t start_counter);
    void *arg;
};

/* Listens and starts to connect. Returns 0, -EADDRINUSE, -EINVAL, -ENOMEM. */
must_check int bus_new(struct io *io, const struct bus_options *options, struct bus **ret_bus);
/* Ends every connection (on_down() is not called any more, but each sent() is); calls end with
 * -ECANCELED; waits until all kept messages are released; frees the bus. NULL is fine. */
void co_bus_close(struct bus *bus);
uint64_t bus_node(const struct bus *bus);
/* The address bound, with the port the kernel chose if 0 was given; NULL: does not listen. */
const char *bus_listen_address(const struct bus *bus);

/* The peers to stay connected to. Idempotent; a changed address reconnects. Either side may dial;
 * of two crossing connections one survives (both sides choose the same). A node that is no peer is
 * refused. Removing a peer calls on_down() before it returns.
 * Returns 0, -EINVAL (node is 0 or our own, address too long), -ENOBUFS (BUS_NODES_MAX), -ENOMEM.
 */
must_check int bus_add_peer(struct bus *bus, uint64_t node, const char *address);
void bus_remove_peer(struct bus *bus, uint64_t node);
bool bus_is_up(const struct bus *bus, uint64_t node, enum bus_channel channel);
/* The number of the connection that is up now, as in bus_message.connection; 0: down. */
uint64_t bus_connection(const struct bus *bus, uint64_t node, enum bus_channel channel);
uint64_t bus_peer_start_counter(const struct bus *bus, uint64_t node); /* 0: never seen */

void bus_handle(struct bus *bus, uint16_t type, bus_handler *handler,
                void *arg); /* NULL takes it off */
/* Messages of this type are also taken from guests: connections of co_bus_call_address(), which
 * authenticated with the cluster key or one of find_key()'s. They arrive with from = 0. */
void bus_allow_guest(struct bus *bus, uint16_t type);

/* ---- sending; none of these suspends unless it is called co_ ---- */

enum bus_flags {
    BUS_CHECKSUM =
        BIT(0), /* CRC32C over header part and data as well: for what has no checksum of its own */
};

/* Queues a message for the end of the turn. header and data up to 32 KiB are copied; larger data is
 * sent from its place, and must stay until sent(arg) (called exactly once, on the loop, never from
 * inside bus_send(), also when the connection breaks; NULL with copied data is fine). Returns 0, or
 * (sent() is not called) -ENOTCONN, -EMSGSIZE, -ENOBUFS (16 MiB of control, 64 MiB of data queued
 * by copy for a peer that does not read), -ENOMEM, -EAGAIN (BUS_DATA: no credit was taken on this
 * connection). Credit is spent by success only. */
struct bus_send {
    uint64_t to;
    enum bus_channel channel;
    uint64_t connection; /* != 0: only on this one; any other: -ENOTCONN */
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

/* Credit for one data request with that many data_bytes: waits in order. Every bus_send() on
 * BUS_DATA (that is no reply) spends what was taken here first, for the same size. Returns 0,
 * -ENOTCONN (also when the connection breaks meanwhile), -EMSGSIZE, -ECANCELED. A broken connection
 * voids what was taken: who suspends between taking and sending looks at bus_connection(), and
 * names it in bus_send.connection. */
must_check int co_bus_credit(struct bus *bus, uint64_t to, uint32_t bytes);
must_check int bus_try_credit(struct bus *bus, uint64_t to,
                              uint32_t bytes); /* 0, -EAGAIN, -ENOTCONN, -EMSGSIZE */
/* Gives back what was taken on that connection and will not be sent; nothing happens if it is gone.
 */
void bus_put_credit(struct bus *bus, uint64_t to, uint64_t connection, uint32_t bytes);

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
 * answer that comes later is dropped), -EPROTO (reply does not fit), -ECANCELED, or as bus_send().
 * On BUS_DATA it takes credit by itself; the time-out counts from the sending. Data too large to be
 * copied is waited for: a call does not return while its request is being sent from, or its reply
 * received into, the caller's memory (BUS_SILENCE_NS bounds that). So request->sent may be NULL.
 * timeout_ns: UINT64_MAX for none. */
must_check int co_bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                           struct bus_reply *reply);
/* The same without a coroutine: done(call, result) is called once, never from inside bus_call().
 * Returns 0, or as bus_send() (done() is not called). A data request takes its credit here: -EAGAIN
 * when there is none. */
struct bus_call { /* the caller's memory until done() */
    struct bus_reply *reply;
    void (*done)(struct bus_call *call, int result);
    /* private from here */
    struct list node;
    struct io_timer timer;
    struct bus *bus;
    uint64_t request, connection;
    void (*sent)(void *arg);
    void *sent_arg;
    unsigned pins; /* the connection still reads from, or writes to, the caller's memory */
    bool ended;
    int result;
};
must_check int bus_call(struct bus *bus, const struct bus_send *request, uint64_t timeout_ns,
                        struct bus_call *call);
/* Ends a call that is under way with `result`; done() is called before this returns, or as soon as
 * the caller's memory is free. A call that has ended: nothing happens. */
void bus_call_cancel(struct bus_call *call, int result);

/* Answers a message with request != 0, on the connection it came by (gone: sent() is called at once
 * if given, and 0 returned). Fields of `send` used: flags, header, data, sent; NULL: result alone.
 * May be called from the handler or later, with a kept message; once. Errors as bus_send(). */
must_check int bus_reply(struct bus *bus, const struct bus_message *message, int result,
                         const struct bus_send *send);

/* One request, without or with little data (BUS_COPY_MAX), to an address that is no peer (joining):
 * connects, authenticates with `key` (the token's, named by key_id), asks, closes. Of options only
 * node, start_counter, key, key_bytes, key_id and cluster are used. request: to, channel and
 * connection are not used. timeout_ns: for all of it. Returns as co_bus_call(), -ECONNREFUSED,
 * -EACCES (key), -EPROTONOSUPPORT (versions), -EXDEV (another cluster). */
must_check int co_bus_call_address(struct io *io, const struct bus_options *options,
                                   const char *address, const struct bus_send *request,
                                   uint64_t timeout_ns, struct bus_reply *reply);

#endif
