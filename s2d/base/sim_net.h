/* sim_net: what the parts of the simulated network share: sim_net.c, sim_pipe.c, sim_connect.c. */
#ifndef S2D_BASE_SIM_NET_H
#define S2D_BASE_SIM_NET_H

#include "s2d/base/sim_world.h"

#define BACKLOG_MAX 128

enum segment_kind { SEGMENT_SYN, SEGMENT_ACCEPTED, SEGMENT_DATA, SEGMENT_END, SEGMENT_RESET };

struct segment {
    struct list node;
    uint64_t arrival_ns;
    enum segment_kind kind;
    size_t length, consumed;
    char data[];
};

struct pipe {
    struct connection *connection;
    unsigned from;          /* side */
    struct list in_flight;  /* struct segment */
    struct sim_event event; /* the first one's arrival */
    bool stalled;           /* it is due, and the way is not open */
    uint64_t last_arrival_ns;
    size_t unread_bytes; /* on the way, or not read yet */
};

enum end_state { END_NEW, END_OPEN, END_CLOSED };

struct end {
    struct io_stream stream;
    struct list node; /* of machine->streams, or of listener->backlog; while attached */
    struct connection *connection;
    struct machine *machine;
    unsigned side;
    enum end_state state;
    bool attached;

    struct list received; /* struct segment */
    bool end_received;    /* after all of the above */
    bool reset;

    struct io_op *recv_op, *send_op; /* pending */
    void *recv_buffer;
    size_t recv_length;
    struct iovec *send_iov;
    int send_iov_count;

    struct connect *connect; /* waits for the answer to our SYN */
};

struct connection {
    struct list node; /* of sim->connections */
    struct sim *sim;
    struct end ends[2];   /* 0: who connected */
    struct pipe pipes[2]; /* by side of the sender */
    uint16_t port;        /* that was connected to; 0: Unix */
    char path[IO_ADDRESS_MAX];
    bool broken; /* by sim_break_connections(): nothing passes any more */
};

struct listener {
    struct io_listener listener;
    struct list node; /* of machine->listeners */
    struct machine *machine;
    uint16_t port; /* 0: Unix */
    struct list backlog;
    size_t backlog_count;
    bool shut;
    struct accept *accept;
};

struct accept {
    struct listener *listener;
    struct co *co;
    struct io_op op; /* wakes co in the machine's turn */
};

struct connect {
    struct end *end;
    struct co *co;
    struct io_op op;
    struct sim_event timeout;
    int result;
};

static inline struct end *other_end(struct end *end)
{
    return &end->connection->ends[1 - end->side];
}

static inline struct pipe *pipe_out(struct end *end)
{
    return &end->connection->pipes[end->side];
}

static inline struct pipe *pipe_in(struct end *end)
{
    return &end->connection->pipes[1 - end->side];
}

/* ---- sim_pipe.c ---- */

struct segment *segment_new(enum segment_kind kind, size_t length);
void segments_free(struct list *segments);
bool pipe_is_open(const struct pipe *pipe);
/* Plans the arrival of the first segment. */
void pipe_schedule(struct pipe *pipe);
void pipe_push(struct pipe *pipe, struct segment *segment); /* takes it */
void pipe_push_kind(struct pipe *pipe, enum segment_kind kind);
void pipe_clear(struct pipe *pipe);
/* A sender without power: what had not left it is gone. */
void pipe_cut_off(struct pipe *pipe);
/* The way may be open again. */
void pipe_kick(struct pipe *pipe);

/* ---- sim_connect.c ---- */

struct address {
    unsigned machine;
    uint16_t port;    /* 0 with Unix */
    const char *path; /* "unix:...", or NULL */
};

struct listener *find_listener(struct machine *machine, uint16_t port, const char *path);
/* Ends the waiting of who connects, of who accepts. */
void connect_end(struct connect *connect, int result);
void accept_end(struct accept *accept);
void name_peer(struct end *end); /* of an accepted stream */
void listener_drop_backlog(struct listener *listener);

/* ---- sim_net.c ---- */

struct connection *sim_connection_new(struct machine *from, const struct address *to);
void end_attach(struct end *end, struct list *to);
void end_detach(struct end *end); /* frees the connection with its second end */
/* This side's kernel ends the connection: orderly, or with a reset when something that came was
 * never read. */
void end_close(struct end *end);

#endif
