/* What the parts of the bus share; nobody else includes this. bus.c: life, the table of peers, the
 * clockwork that notices silence. The others have a section each below. */
#ifndef S2D_BUS_BUS_INTERNAL_H
#define S2D_BUS_BUS_INTERNAL_H

#include "s2d/base/buffer.h"
#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/metrics.h"
#include "s2d/bus/bus.h"
#include "s2d/bus/frame.h"
#include "s2d/bus/handshake.h"
#include "s2d/bus/transport.h"

#define BUS_CHANNELS 2
#define RECEIVE_BYTES_DEFAULT (64 * MIB)
#define RECEIVE_SHARES 16            /* a peer's window is one share of receive_bytes */
#define RECEIVE_BUFFER_BYTES 262144u /* of a connection */
/* What a connection holds by copy for a peer that does not read. */
#define CONTROL_QUEUE_MAX (16 * MIB)
#define DATA_QUEUE_MAX (64 * MIB)
#define BATCH_COPY_BYTES 262144u /* what a batch holds by copy */
#define BATCH_BYTES_MAX MIB      /* a batch that has reached it takes no more */
#define BATCH_PIECES 64
#define FREE_BATCHES_MAX 16
#define CALL_BUCKETS 1024
#define HANDSHAKES_MAX 64 /* under way, of dialers that we have not yet heard out */
#define GUESTS_MAX 16
#define GUEST_DATA_MAX BUS_COPY_MAX
#define GUEST_LIFE_TICKS (60 * SEC / TICK_NS)
#define HANDSHAKE_NS (2 * SEC)
#define CONNECT_NS (1 * SEC)
#define REDIAL_NS_MIN (10 * MS)
#define REDIAL_NS_MAX (200 * MS)
#define TICK_NS (200 * MS) /* an idle connection says so this often */
#define SILENT_TICKS_MAX (BUS_SILENCE_NS / TICK_NS)

/* ---- memory that a payload lies in ---- */

enum landing_kind {
    LANDING_NONE,
    LANDING_POOL, /* the bus's receive pool */
    LANDING_HEAP, /* aligned_alloc(): when the pool is fragmented, or control filled it */
    LANDING_CALL, /* the caller's memory, of a call: not ours to release */
};
struct landing {
    enum landing_kind kind;
    char *data;
    uint32_t bytes;
    uint32_t cost; /* the sender's credit that goes with it */
};

/* ---- a message on its way to its handler, or kept ---- */

struct received {
    struct bus_message message; /* first: bus_message_keep() finds us by it */
    struct list node;           /* bus->free_received */
    struct bus *bus;
    struct peer *peer; /* whose credit it holds; NULL: a guest's */
    struct landing landing;
    bool kept;
    uint8_t key_id[BUS_KEY_ID_BYTES];
    uint8_t header[BUS_HEADER_MAX]; /* when kept */
};

/* ---- sending ---- */

struct send_done {
    void (*fn)(void *arg);
    void *arg;
};

/* What leaves in one gather-send. Small messages follow each other in `copy`; large data is sent
 * from its place. */
struct send_batch {
    struct list node;
    uint32_t used;  /* of copy */
    uint64_t bytes; /* in all */
    unsigned piece_count, done_count;
    struct iovec pieces[BATCH_PIECES];
    struct send_done done[BATCH_PIECES];
    char copy[BATCH_COPY_BYTES];
};

/* ---- a connection, from the end of its handshake to its last byte ---- */

struct connection {
    struct bus *bus;
    struct link *link; /* NULL: a guest, or cut off from its link */
    struct peer *peer; /* NULL: a guest */
    enum bus_channel channel;
    uint64_t number;
    uint16_t version;
    uint8_t key_id[BUS_KEY_ID_BYTES];
    struct transport_stream *stream;
    struct list node; /* bus->connections */
    bool up;          /* false: broken; nothing is sent or delivered any more */
    bool dialed;      /* by us */
    uint64_t attempt; /* the dialer's number for it */
    struct io_task settle_task;

    /* sending */
    struct list batches; /* struct send_batch; the last one gathers, the first may be under way */
    struct list flush_node;
    uint64_t queued_bytes; /* by copy */
    struct io_op send_op;
    bool sending;

    /* receiving */
    char *buffer;
    uint32_t start, end; /* what of the buffer is not yet delivered */
    struct io_op recv_op;
    bool receiving, delivering;
    /* A large payload on its way to its place. */
    struct {
        bool active;
        struct frame frame;
        struct landing landing;
        struct bus_call *call; /* whose memory it is */
        uint32_t have;
        bool skip; /* nobody wants it: read and dropped */
    } large;

    /* credit, data connections only (credit.c) */
    uint64_t granted_to_us, taken, unspent;
    uint64_t received_cost, granted_by_us;

    /* life signs, looked at each tick */
    bool heard, spoke;
    unsigned silent_ticks;
};

/* ---- one channel to one peer ---- */

struct link {
    struct peer *peer;
    enum bus_channel channel;
    struct connection *connection; /* that is up; NULL: none */

    struct dial *dial; /* under way; dial.c */
    struct io_timer redial;
    unsigned failures;          /* in a row */
    const char *last_failure;   /* that was logged: each reason once */
    uint64_t attempts;          /* of ours */
    uint64_t seen;              /* newest attempt of theirs that was up here and has ended */
    struct list credit_waiters; /* credit.c */
};

struct peer {
    struct bus *bus;
    uint64_t node;
    char address[IO_ADDRESS_MAX];
    struct link links[BUS_CHANNELS];
    uint64_t start_counter; /* newest that was heard; 0: never */
    uint64_t held_cost;     /* of its requests whose buffers are in use */
    unsigned refused_times;
    uint64_t refused_since_ns;
    unsigned references; /* dials, connections and kept messages */
    bool removed;        /* freed with the last reference */
};

/* ---- the bus ---- */

struct bus_counters {
    struct counter messages_sent, messages_received;
    struct counter bytes_sent, bytes_received;
    struct counter batches, receives;
    struct counter connects, disconnects;
    struct counter credit_waits;
};

struct handler {
    bus_handler *fn;
    void *arg;
    bool guests;
};

struct bus {
    struct io *io;
    struct bus_options options;
    uint8_t key[BUS_KEY_BYTES];
    const struct transport *transport;
    struct transport_listener *listener;
    bool closing;
    struct co_group group; /* coroutines, connections and kept messages */

    struct peer *peers[BUS_NODES_MAX];
    unsigned peer_count;
    struct list connections; /* all, guests too */
    unsigned guest_count;
    struct list handshakes; /* accepted streams: accept.c */
    unsigned handshake_count;
    uint64_t next_connection;
    enum bus_refusal last_refusal; /* that was logged for an accepted stream */
    uint64_t last_refusal_node, last_refusal_ns;

    struct io_timer tick;
    struct io_task flush_task;
    struct list to_flush; /* struct connection */
    struct list free_batches;
    unsigned free_batch_count;

    struct buffer_pool *receive_pool;
    uint64_t window_bytes; /* of each peer */
    struct list free_received;
    struct handler handlers[BUS_TYPE_MAX + 1];

    struct list calls[CALL_BUCKETS]; /* struct bus_call, by request */
    uint64_t next_request;

    struct bus_counters counters[BUS_CHANNELS];
    struct counter handshakes_refused;
};

const char *bus_channel_name(enum bus_channel channel);
struct peer *bus_peer(const struct bus *bus, uint64_t node); /* NULL: none */
/* The connection that is up; NULL: none. */
struct connection *bus_find_connection(const struct bus *bus, uint64_t node,
                                       enum bus_channel channel);
void peer_get(struct peer *peer);
void peer_put(struct peer *peer);

/* ---- link.c: one channel to one peer, and which connection it has now ---- */

void link_init(struct link *link, struct peer *peer, enum bus_channel channel);
/* Sees that it is connected or dials; after each change. Nothing happens before the loop's next
 * round. */
void link_kick(struct link *link, uint64_t delay_ns);
bool link_wants_dial(const struct link *link);
/* How long to wait after the failures so far. */
uint64_t link_backoff_ns(const struct link *link);
/* It has none; this is its connection now. A dial under way is given up. */
void link_up(struct link *link, struct connection *connection);
/* The link's connection has broken. */
void link_lost(struct link *link, struct connection *connection);
/* Gives up the dial and ends the connection. */
void link_stop(struct link *link, const char *why);
/* The peer has shown, with proof, which start it is. False: an older process than we know. */
bool peer_heard_start(struct peer *peer, uint64_t start_counter);

/* ---- dial.c: dialing a peer ---- */

/* io_callback with a struct link *: dials, if it is wanted now. */
void link_dial(void *arg);
void link_abandon_dial(struct link *link);
/* Is our hello under way? It holds off one of a higher node: accept_judge(). */
bool link_said_hello(const struct link *link);

/* ---- accept.c: who may come in ---- */

/* co_fn: accepts until the listener is shut down. */
void accept_main(void *arg);
void accept_cancel(struct bus *bus); /* ends the handshakes that are under way */

/* ---- handshake_co.c: what dialing and accepting share ---- */

/* The dialer's side of a handshake on a stream that is connected. hello: its nonce is drawn here.
 * Returns NONE (ret_challenge is proven), a refusal; *ret_error: 0, or the transport's error when
 * nothing was refused. */
must_check enum bus_refusal co_handshake_dial(struct io *io, const struct transport *transport,
                                              struct transport_stream *stream, const uint8_t *key,
                                              struct hello *hello, struct challenge *ret_challenge,
                                              int *ret_error);
void nonce_draw(struct io *io, uint8_t nonce[BUS_NONCE_BYTES]);
/* Runs fn on the loop, outside of coroutines, and waits for it. */
void co_loop_call(struct io *io, io_callback *fn, void *arg);

/* Shuts a stream down when time is over. */
struct deadline {
    struct io *io;
    struct io_timer timer;
    const struct transport *transport;
    struct transport_stream *stream;
    bool expired;
};
void deadline_start(struct deadline *deadline, struct io *io, const struct transport *transport,
                    struct transport_stream *stream, uint64_t timeout_ns);
void deadline_stop(struct deadline *deadline);

/* ---- connection.c: bytes: batches out, frames in ---- */

struct connection_start {
    struct link *link; /* NULL: a guest */
    uint16_t version;
    bool dialed;
    uint64_t attempt;
    const uint8_t *key_id;           /* NULL: zeros */
    struct transport_stream *stream; /* taken on success */
};
must_check int connection_new(struct bus *bus, const struct connection_start *start,
                              struct connection **ret_connection);
/* Begins to receive. */
void connection_start(struct connection *connection);
/* Ends it: nothing is delivered or sent any more; calls on it fail; it frees itself when the
 * transport has given back what was lent. Any number of times. why: a constant, for the log. */
void connection_break(struct connection *connection, const char *why, int error);

/* Queues bytes that are no frame (the welcome). */
must_check int connection_send_bytes(struct connection *connection, const void *bytes,
                                     size_t length);
/* Queues a frame with its payload; `granted`, `version`, lengths and checksum are filled in.
 * done.fn may be NULL. Returns 0, -ENOBUFS, -ENOMEM. */
struct send_payload {
    const void *header;
    uint32_t header_bytes;
    const void *data;
    uint32_t data_bytes;
    struct send_done done;
};
must_check int connection_send(struct connection *connection, struct frame *frame,
                               const struct send_payload *payload);
/* A frame that carries nothing but what credit_grant() says. */
void connection_send_grant(struct connection *connection);
void connection_tick(struct connection *connection);
/* io_callback: sends what the turn gathered, of every connection of the bus. */
void connection_flush_all(void *arg);

/* ---- receive.c: frames to handlers; kept messages ---- */

/* Takes the credit of a message that begins, and finds the place for its data. Returns NULL, or why
 * the connection must end. */
const char *receive_admit(struct connection *connection, const struct frame *frame,
                          struct landing *ret_landing);
/* Gives memory and credit back. */
void landing_release(struct bus *bus, struct peer *peer, struct landing *landing);
/* Hands a whole message to its handler. Takes the landing. Returns NULL, or why the connection must
 * end. */
const char *receive_message(struct connection *connection, const struct frame *frame,
                            const void *header, struct landing *landing);
void receive_free(struct bus *bus);

/* ---- credit.c: who may send how many bytes of data requests ---- */

uint32_t credit_cost(uint32_t data_bytes);            /* of a request */
uint64_t credit_grant(struct connection *connection); /* what a frame that leaves now shall say */
/* The peer's frame says so. Returns NULL, or what is wrong with it. */
const char *credit_granted(struct connection *connection, uint64_t granted);
/* A request of that cost has come; false: nobody granted it. */
bool credit_charge(struct connection *connection, uint32_t cost);
/* Its buffers are free again. */
void credit_release(struct peer *peer, uint32_t cost);
void credit_fail_waiters(struct link *link, int error);

/* ---- call.c: requests that wait for replies ---- */

/* Pins: why a call that ended must wait before its memory is the caller's again. */
enum call_pin { CALL_SENDING = BIT(0), CALL_RECEIVING = BIT(1) };
struct bus_call *call_find(struct connection *connection, uint64_t request); /* NULL: none */
void call_unpin(struct bus_call *call, enum call_pin pin);
/* The reply is there whole; its data, if any, lies where it belongs. */
void call_replied(struct bus_call *call, const struct frame *frame, const void *header);
/* Is there room for the reply? If not, the call has ended. */
bool call_admit(struct bus_call *call, const struct frame *frame);
/* Ends the calls of one connection (0: of all). */
void call_fail_all(struct bus *bus, uint64_t connection, int error);

#endif
