/* The simulator's network: TCP and Unix streams between machines.
 *
 * A connection is two ends and, from each to the other, a pipe: segments in the order of sending,
 * each with a time of arrival. The first one's arrival is an event; it waits (it is not lost: TCP
 * sends again) while the direction is cut or the machine has no power. Connecting is a SYN and its
 * answer through the same pipes, so that cuts and crashes treat it alike.
 *
 *   end:  NEW -- SYN, or its answer --> OPEN --> CLOSED
 *
 * CLOSED is what this side's kernel thinks: its program has shut the stream down, or died. Data
 * that arrives at a closed end is answered with a reset. Whether the program still holds the stream
 * is another matter (`attached`); a connection goes when neither side's does. Other machines are
 * never told what they could not know: a host without power is silent, and a peer that has nothing
 * to send may hold its half for ever.
 *
 * What is sent is cut into segments at random, and received as far as it has come, so that a reader
 * meets any boundaries. Not modelled: acknowledgements (a cut of one direction does not slow the
 * other), retransmission timers. */
#include <arpa/inet.h>
#include <inttypes.h>

#include "s2d/base/checksum.h"
#include "s2d/base/sim_world.h"

#define LOOPBACK_NS_MIN (5 * US)
#define LOOPBACK_NS_MAX (20 * US)
#define BACKLOG_MAX 128
#define FIRST_EPHEMERAL_PORT 32768
#define SPLIT_PERCENT 25
#define RETRANSMIT_NS (200 * MS)

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

static struct end *other_end(struct end *end)
{
    return &end->connection->ends[1 - end->side];
}

static struct pipe *pipe_out(struct end *end)
{
    return &end->connection->pipes[end->side];
}

static struct pipe *pipe_in(struct end *end)
{
    return &end->connection->pipes[1 - end->side];
}

/* ---- addresses ---- */

struct address {
    unsigned machine;
    uint16_t port;    /* 0 with Unix */
    const char *path; /* "unix:...", or NULL */
};

/* from: whose address this is for; its own names (127.0.0.1, unix:) mean itself. */
static int address_parse(const struct machine *from, const char *text, struct address *ret_address)
{
    char host[IO_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    struct in_addr in;
    uint32_t number;
    char *end;
    unsigned long port;

    if (strlen(text) >= IO_ADDRESS_MAX || !colon)
        return -EINVAL;
    *ret_address = (struct address){.machine = from->number};
    if (strncmp(text, "unix:", 5) == 0) {
        ret_address->path = text;
        return text[5] ? 0 : -EINVAL;
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    port = strtoul(colon + 1, &end, 10);
    if (inet_pton(AF_INET, host, &in) != 1 || end == colon + 1 || *end || port > UINT16_MAX)
        return -EINVAL;
    ret_address->port = (uint16_t)port;

    number = ntohl(in.s_addr);
    if (number == INADDR_ANY || number >> 24 == 127)
        return 0;
    if (number >> 8 != ((10u << 16) | (83u << 8)))
        return -EHOSTUNREACH;
    ret_address->machine = number & 0xff;
    return number & 0xff ? 0 : -EINVAL;
}

static struct listener *find_listener(struct machine *machine, uint16_t port, const char *path)
{
    list_for_each (node, &machine->listeners) {
        struct listener *listener = list_entry(node, struct listener, node);

        if (listener->shut)
            continue;
        if (path ? strcmp(listener->listener.address, path) == 0
                 : listener->port != 0 && listener->port == port)
            return listener;
    }
    return NULL;
}

static uint16_t next_port(struct machine *machine)
{
    do {
        machine->last_port = machine->last_port < UINT16_MAX
                                 ? MAX(machine->last_port + 1, FIRST_EPHEMERAL_PORT)
                                 : FIRST_EPHEMERAL_PORT;
    } while (find_listener(machine, machine->last_port, NULL));
    return machine->last_port;
}

/* ---- pipes ---- */

static bool pipe_is_open(const struct pipe *pipe)
{
    struct machine *from = pipe->connection->ends[pipe->from].machine;
    struct machine *to = pipe->connection->ends[1 - pipe->from].machine;

    return from == to || (to->powered && !from->sim->cut[from->number][to->number]);
}

static void pipe_schedule(struct pipe *pipe)
{
    if (list_empty(&pipe->in_flight) || pipe->stalled)
        return;
    sim_event_schedule(pipe->connection->sim, &pipe->event,
                       list_first(&pipe->in_flight, struct segment, node)->arrival_ns);
}

/* What a bad cable adds. TCP waits twice as long before each further try. */
static uint64_t link_latency_ns(struct sim *sim, const struct sim_link *link)
{
    uint64_t latency_ns = sim_rng_between(&sim->net_rng, 0, link->delay_ns);
    uint64_t again_ns = RETRANSMIT_NS;

    while (sim_rng_chance(&sim->net_rng, link->loss_percent)) {
        latency_ns += again_ns;
        again_ns *= 2;
    }
    return latency_ns;
}

static uint64_t pipe_latency_ns(struct pipe *pipe)
{
    struct connection *connection = pipe->connection;
    struct machine *from = connection->ends[pipe->from].machine;
    struct machine *to = connection->ends[1 - pipe->from].machine;
    struct sim *sim = connection->sim;
    const struct sim_link *link = &sim->links[from->number][to->number];
    uint64_t latency_ns;

    if (from == to)
        return sim_rng_between(&sim->net_rng, LOOPBACK_NS_MIN, LOOPBACK_NS_MAX);
    latency_ns = sim_rng_between(&sim->net_rng, sim->options.net_latency_ns_min,
                                 sim->options.net_latency_ns_max);
    if (link->delay_ns > 0 || link->loss_percent > 0)
        latency_ns += link_latency_ns(sim, link);
    return latency_ns;
}

/* When the sender's card has put bytes on the wire. */
static uint64_t egress_ns(struct pipe *pipe, size_t bytes)
{
    struct connection *connection = pipe->connection;
    struct machine *from = connection->ends[pipe->from].machine;
    uint64_t rate = connection->sim->options.net_bytes_per_second;

    from->egress_free_ns = MAX(from->egress_free_ns, connection->sim->now_ns);
    if (rate && from != connection->ends[1 - pipe->from].machine)
        from->egress_free_ns += (uint64_t)((unsigned __int128)bytes * SEC / rate);
    return from->egress_free_ns;
}

static struct segment *segment_new(enum segment_kind kind, size_t length)
{
    struct segment *segment = calloc(1, sizeof(*segment) + length);

    if (!segment)
        abort();
    segment->kind = kind;
    segment->length = length;
    return segment;
}

static void pipe_push(struct pipe *pipe, struct segment *segment)
{
    bool was_empty = list_empty(&pipe->in_flight);

    if (pipe->connection->broken) {
        free(segment);
        return;
    }
    segment->arrival_ns = egress_ns(pipe, segment->length) + pipe_latency_ns(pipe);
    segment->arrival_ns = MAX(segment->arrival_ns, pipe->last_arrival_ns);
    pipe->last_arrival_ns = segment->arrival_ns;
    pipe->unread_bytes += segment->length;
    list_push_back(&pipe->in_flight, &segment->node);
    if (was_empty)
        pipe_schedule(pipe);
}

static void pipe_push_kind(struct pipe *pipe, enum segment_kind kind)
{
    pipe_push(pipe, segment_new(kind, 0));
}

static void segments_free(struct list *segments)
{
    struct list *node;

    while ((node = list_pop_front(segments)))
        free(list_entry(node, struct segment, node));
}

static void pipe_clear(struct pipe *pipe)
{
    sim_event_cancel(pipe->connection->sim, &pipe->event);
    segments_free(&pipe->in_flight);
    pipe->stalled = false;
}

/* A sender without power: what had not left it is gone. */
static void pipe_cut_off(struct pipe *pipe)
{
    bool gone = false;

    list_for_each_safe (node, &pipe->in_flight) {
        gone = gone || sim_rng_chance(&pipe->connection->sim->net_rng, 50);
        if (gone) {
            list_remove(node);
            free(list_entry(node, struct segment, node));
        }
    }
    if (list_empty(&pipe->in_flight))
        pipe_clear(pipe);
}

/* The way may be open again. */
static void pipe_kick(struct pipe *pipe)
{
    uint64_t arrival_ns = pipe->connection->sim->now_ns + pipe_latency_ns(pipe);

    if (!pipe->stalled || !pipe_is_open(pipe))
        return;
    pipe->stalled = false;
    list_for_each (node, &pipe->in_flight) {
        struct segment *segment = list_entry(node, struct segment, node);

        segment->arrival_ns = MAX(segment->arrival_ns, arrival_ns);
        pipe->last_arrival_ns = MAX(pipe->last_arrival_ns, segment->arrival_ns);
    }
    pipe_schedule(pipe);
}

/* ---- connections ---- */

static void pipe_fire(void *arg);

static void connection_init_side(struct connection *connection, unsigned side,
                                 struct machine *machine)
{
    struct end *end = &connection->ends[side];
    struct pipe *pipe = &connection->pipes[side];

    end->connection = connection;
    end->machine = machine;
    end->side = side;
    list_init(&end->node);
    list_init(&end->received);
    pipe->connection = connection;
    pipe->from = side;
    list_init(&pipe->in_flight);
    sim_event_init(&pipe->event, pipe_fire, pipe);
}

static struct connection *connection_new(struct machine *from, const struct address *to)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (!connection)
        abort();
    connection->sim = from->sim;
    connection->port = to->port;
    if (to->path)
        strcpy(connection->path, to->path);
    connection_init_side(connection, 0, from);
    connection_init_side(connection, 1, sim_machine(from->sim, to->machine));
    list_push_back(&from->sim->connections, &connection->node);
    return connection;
}

static void connection_free(struct connection *connection)
{
    for (int side = 0; side < 2; side++) {
        pipe_clear(&connection->pipes[side]);
        segments_free(&connection->ends[side].received);
    }
    list_remove(&connection->node);
    free(connection);
}

static void connection_free_if_unused(struct connection *connection)
{
    if (!connection->ends[0].attached && !connection->ends[1].attached)
        connection_free(connection);
}

static void end_attach(struct end *end, struct list *to)
{
    assert(!end->attached);
    end->attached = true;
    end->stream.io = &end->machine->io;
    list_push_back(to, &end->node);
}

static void end_detach(struct end *end)
{
    assert(!end->recv_op);
    assert(!end->send_op);
    end->attached = false;
    list_remove(&end->node);
    connection_free_if_unused(end->connection);
}

/* ---- what a program waits for ---- */

static void end_complete_recv(struct end *end, int result)
{
    struct io_op *op = end->recv_op;

    end->recv_op = NULL;
    if (op)
        machine_complete(end->machine, op, result);
}

static void end_complete_send(struct end *end, int result)
{
    struct io_op *op = end->send_op;

    end->send_op = NULL;
    if (op)
        machine_complete(end->machine, op, result);
}

/* Cuts what is sent at random, as the network does. */
static void end_send_now(struct end *end)
{
    struct pipe *pipe = pipe_out(end);
    struct sim *sim = end->connection->sim;

    for (int i = 0; i < end->send_iov_count; i++) {
        const char *at = end->send_iov[i].iov_base;
        size_t left = end->send_iov[i].iov_len;

        while (left > 0) {
            bool split = sim_rng_chance(&sim->net_rng, SPLIT_PERCENT);
            size_t length = split ? sim_rng_between(&sim->net_rng, 1, left) : left;
            struct segment *segment = segment_new(SEGMENT_DATA, length);

            memcpy(segment->data, at, length);
            sim_note(sim, RECORD_SEND, end->machine->number, other_end(end)->machine->number,
                     hash64(at, length));
            pipe_push(pipe, segment);
            at += length;
            left -= length;
        }
    }
    end_complete_send(end, 0);
}

static bool window_has_room(struct end *end)
{
    return pipe_out(end)->unread_bytes < end->connection->sim->options.net_window_bytes;
}

static size_t end_take(struct end *end, char *buffer, size_t length)
{
    size_t taken = 0;

    while (taken < length && !list_empty(&end->received)) {
        struct segment *segment = list_first(&end->received, struct segment, node);
        size_t count = MIN(length - taken, segment->length - segment->consumed);

        memcpy(buffer + taken, segment->data + segment->consumed, count);
        segment->consumed += count;
        taken += count;
        if (segment->consumed == segment->length) {
            list_remove(&segment->node);
            free(segment);
        }
    }
    pipe_in(end)->unread_bytes -= taken;
    return taken;
}

/* Completes the pending receive if there is anything to say. */
static void end_try_recv(struct end *end)
{
    struct end *sender = other_end(end);

    if (!end->recv_op)
        return;
    if (!list_empty(&end->received)) {
        end_complete_recv(end, (int)end_take(end, end->recv_buffer, end->recv_length));
        if (sender->send_op && window_has_room(sender))
            end_send_now(sender);
    } else if (end->reset) {
        end_complete_recv(end, -ECONNRESET);
    } else if (end->end_received) {
        end_complete_recv(end, 0);
    }
}

/* The other side is gone, or the connection is. */
static void end_reset(struct end *end)
{
    end->reset = true;
    end->state = END_CLOSED;
    end_complete_send(end, -ECONNRESET);
    end_try_recv(end);
}

/* This side's kernel ends the connection: orderly, or with a reset when something that came was
 * never read. */
static void end_close(struct end *end)
{
    if (end->state == END_OPEN)
        pipe_push_kind(pipe_out(end), list_empty(&end->received) ? SEGMENT_END : SEGMENT_RESET);
    end->state = END_CLOSED;
    pipe_in(end)->unread_bytes = 0;
    segments_free(&end->received);
}

/* ---- connecting and accepting ---- */

static void connect_end(struct connect *connect, int result)
{
    if (!connect->end->connect)
        return;
    connect->end->connect = NULL;
    sim_event_cancel(connect->end->machine->sim, &connect->timeout);
    connect->result = result;
    machine_complete(connect->end->machine, &connect->op, result);
}

static void connect_done(struct io_op *op, int result)
{
    (void)result;
    co_wake(container_of(op, struct connect, op)->co);
}

static void connect_time_out(void *arg)
{
    connect_end(arg, -ETIMEDOUT);
}

static void connect_cancel(void *arg)
{
    connect_end(arg, -ECANCELED);
}

int sim_co_connect(struct io *io, const char *address, uint64_t timeout_ns,
                   struct io_stream **ret_stream)
{
    struct machine *machine = machine_of_io(io);
    struct connect connect = {.co = co_self(), .op.done = connect_done};
    struct address to;
    struct end *end;
    int r;

    r = address_parse(machine, address, &to);
    if (r < 0)
        return r;
    if (to.machine > SIM_MACHINES_MAX)
        return -EHOSTUNREACH;
    r = machine->dying ? -ECANCELED : co_set_cancel(connect_cancel, &connect);
    if (r < 0)
        return r;

    end = &connection_new(machine, &to)->ends[0];
    connect.end = end;
    end->connect = &connect;
    snprintf(end->stream.peer, sizeof(end->stream.peer), "%s", address);
    end_attach(end, &machine->streams);
    sim_note(machine->sim, RECORD_CONNECT, machine->number, to.machine, to.port);
    pipe_push_kind(pipe_out(end), SEGMENT_SYN);
    sim_event_init(&connect.timeout, connect_time_out, &connect);
    if (timeout_ns < UINT64_MAX - machine->sim->now_ns)
        sim_event_schedule(machine->sim, &connect.timeout, machine->sim->now_ns + timeout_ns);
    co_wait();
    co_clear_cancel();

    if (connect.result < 0) {
        end_close(end);
        end_detach(end);
        return connect.result;
    }
    *ret_stream = &end->stream;
    return 0;
}

static void accept_end(struct accept *accept)
{
    if (accept->listener->accept != accept)
        return;
    accept->listener->accept = NULL;
    machine_complete(accept->listener->machine, &accept->op, 0);
}

static void accept_done(struct io_op *op, int result)
{
    (void)result;
    co_wake(container_of(op, struct accept, op)->co);
}

static void accept_cancel(void *arg)
{
    accept_end(arg);
}

static int listener_wait(struct listener *listener)
{
    struct accept accept = {.listener = listener, .co = co_self(), .op.done = accept_done};
    int r;

    assert(!listener->accept); /* one coroutine at a time */
    r = co_set_cancel(accept_cancel, &accept);
    if (r < 0)
        return r;
    listener->accept = &accept;
    co_wait();
    co_clear_cancel();
    return co_cancelled() ? -ECANCELED : 0;
}

int sim_co_accept(struct io_listener *io_listener, struct io_stream **ret_stream)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);
    struct end *end;

    for (;;) {
        if (listener->shut || listener->machine->dying || co_cancelled())
            return -ECANCELED;
        if (!list_empty(&listener->backlog))
            break;
        if (listener_wait(listener) < 0)
            return -ECANCELED;
    }
    end = list_entry(list_pop_front(&listener->backlog), struct end, node);
    listener->backlog_count--;
    list_push_back(&listener->machine->streams, &end->node);
    *ret_stream = &end->stream;
    return 0;
}

static void name_peer(struct end *end)
{
    struct machine *peer = other_end(end)->machine;

    if (end->connection->path[0])
        snprintf(end->stream.peer, sizeof(end->stream.peer), "unix:");
    else
        snprintf(end->stream.peer, sizeof(end->stream.peer), "10.83.0.%u:%u", peer->number,
                 next_port(peer));
}

/* ---- arrivals ---- */

static void arrive_syn(struct end *end)
{
    struct connection *connection = end->connection;
    const char *path = connection->path[0] ? connection->path : NULL;
    struct listener *listener = find_listener(end->machine, connection->port, path);

    if (!other_end(end)->attached)
        return; /* it gave up meanwhile */
    if (!listener) {
        pipe_push_kind(pipe_out(end), SEGMENT_RESET);
        return;
    }
    if (listener->backlog_count == BACKLOG_MAX)
        return;
    end->state = END_OPEN;
    name_peer(end);
    end_attach(end, &listener->backlog);
    listener->backlog_count++;
    pipe_push_kind(pipe_out(end), SEGMENT_ACCEPTED);
    if (listener->accept)
        accept_end(listener->accept);
}

static void arrive_accepted(struct end *end)
{
    if (end->state != END_NEW || !end->connect) {
        pipe_push_kind(pipe_out(end), SEGMENT_RESET);
        return;
    }
    end->state = END_OPEN;
    connect_end(end->connect, 0);
}

static void arrive_reset(struct end *end)
{
    sim_note(end->connection->sim, RECORD_RESET, end->machine->number,
             other_end(end)->machine->number, 0);
    if (end->connect)
        connect_end(end->connect, -ECONNREFUSED);
    else if (end->state == END_OPEN)
        end_reset(end);
}

static void arrive_data(struct end *end, struct segment *segment)
{
    sim_note(end->connection->sim, RECORD_ARRIVE, end->machine->number,
             other_end(end)->machine->number, segment->length);
    if (end->state != END_OPEN) {
        pipe_push_kind(pipe_out(end), SEGMENT_RESET);
        free(segment);
        return;
    }
    list_push_back(&end->received, &segment->node);
    end_try_recv(end);
}

static void arrive_end(struct end *end)
{
    sim_note(end->connection->sim, RECORD_END, end->machine->number,
             other_end(end)->machine->number, 0);
    end->end_received = true;
    end_try_recv(end);
}

static void arrive(struct end *end, struct segment *segment)
{
    enum segment_kind kind = segment->kind;

    if (kind == SEGMENT_DATA) {
        arrive_data(end, segment);
        return;
    }
    free(segment);
    switch (kind) {
    case SEGMENT_SYN:
        arrive_syn(end);
        break;
    case SEGMENT_ACCEPTED:
        arrive_accepted(end);
        break;
    case SEGMENT_END:
        arrive_end(end);
        break;
    case SEGMENT_RESET:
        arrive_reset(end);
        break;
    case SEGMENT_DATA:
        break;
    }
}

static void pipe_fire(void *arg)
{
    struct pipe *pipe = arg;
    struct segment *segment = list_first(&pipe->in_flight, struct segment, node);

    if (!pipe_is_open(pipe)) {
        pipe->stalled = true;
        return;
    }
    list_remove(&segment->node);
    pipe_schedule(pipe);
    arrive(&pipe->connection->ends[1 - pipe->from], segment);
}

/* ---- listeners ---- */

int sim_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct machine *machine = machine_of_io(io);
    struct address address;
    struct listener *listener;
    int r;

    if (machine->dying)
        return -ECANCELED;
    r = address_parse(machine, text, &address);
    if (r < 0)
        return r;
    if (address.machine != machine->number)
        return -EADDRNOTAVAIL;
    if ((address.path || address.port) && find_listener(machine, address.port, address.path))
        return -EADDRINUSE;

    listener = calloc(1, sizeof(*listener));
    if (!listener)
        return -ENOMEM;
    listener->listener.io = io;
    listener->machine = machine;
    list_init(&listener->backlog);
    if (address.path) {
        strcpy(listener->listener.address, address.path);
    } else {
        listener->port = address.port ? address.port : next_port(machine);
        snprintf(listener->listener.address, IO_ADDRESS_MAX, "10.83.0.%u:%u", machine->number,
                 listener->port);
    }
    list_push_back(&machine->listeners, &listener->node);

    *ret_listener = &listener->listener;
    return 0;
}

static void listener_drop_backlog(struct listener *listener)
{
    struct list *node;

    while ((node = list_pop_front(&listener->backlog))) {
        struct end *end = list_entry(node, struct end, node);

        end_close(end);
        end_detach(end);
    }
    listener->backlog_count = 0;
}

void sim_listener_shutdown(struct io_listener *io_listener)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);

    listener->shut = true;
    if (listener->accept)
        accept_end(listener->accept);
    listener_drop_backlog(listener);
}

void sim_listener_close(struct io_listener *io_listener)
{
    struct listener *listener = container_of(io_listener, struct listener, listener);

    assert(!listener->accept);
    listener_drop_backlog(listener);
    list_remove(&listener->node);
    free(listener);
}

/* ---- streams ---- */

static struct end *end_of_stream(struct io_stream *stream)
{
    return container_of(stream, struct end, stream);
}

/* The error of an end that is not open. */
static int end_error(const struct end *end)
{
    if (end->machine->dying)
        return -ECANCELED;
    return end->reset ? -ECONNRESET : -ECANCELED;
}

void sim_stream_recv(struct io_stream *stream, struct io_op *op, void *buffer, size_t length)
{
    struct end *end = end_of_stream(stream);

    assert(!end->recv_op); /* one at a time */
    assert(length > 0);
    end->recv_op = op;
    end->recv_buffer = buffer;
    end->recv_length = length;
    if (end->machine->dying || (end->state == END_CLOSED && !end->reset))
        end_complete_recv(end, -ECANCELED);
    else
        end_try_recv(end);
}

void sim_stream_sendv(struct io_stream *stream, struct io_op *op, struct iovec *iov, int iov_count)
{
    struct end *end = end_of_stream(stream);

    assert(!end->send_op); /* one at a time */
    end->send_op = op;
    end->send_iov = iov;
    end->send_iov_count = iov_count;
    if (end->machine->dying || end->state != END_OPEN)
        end_complete_send(end, end_error(end));
    else if (window_has_room(end))
        end_send_now(end);
}

void sim_stream_shutdown(struct io_stream *stream)
{
    struct end *end = end_of_stream(stream);

    end_close(end);
    end_complete_recv(end, -ECANCELED);
    end_complete_send(end, -ECANCELED);
}

void sim_stream_close(struct io_stream *stream)
{
    struct end *end = end_of_stream(stream);

    end_close(end);
    end_detach(end);
}

/* ---- crashes ---- */

/* What the program waits for ends; the objects stay until it has let go of them. */
static void end_cancel(struct end *end)
{
    if (end->connect)
        connect_end(end->connect, -ECANCELED);
    end_complete_recv(end, -ECANCELED);
    end_complete_send(end, -ECANCELED);
}

/* A peer that waits for room in the window gets it, and sends into the void until the host is back.
 */
static void end_forget_received(struct end *end)
{
    struct end *sender = other_end(end);

    list_for_each (node, &end->received) {
        struct segment *segment = list_entry(node, struct segment, node);

        pipe_in(end)->unread_bytes -= segment->length - segment->consumed;
    }
    segments_free(&end->received);
    if (sender->send_op && window_has_room(sender))
        end_send_now(sender);
}

static void end_crash(struct end *end, enum sim_crash_kind kind)
{
    if (kind == SIM_HOST_DIES) {
        pipe_cut_off(pipe_out(end));
        end->state = END_CLOSED;
        end_forget_received(end);
    } else {
        end_close(end);
    }
    end_cancel(end);
}

static void listener_crash(struct listener *listener, enum sim_crash_kind kind)
{
    listener->shut = true;
    if (listener->accept)
        accept_end(listener->accept);
    list_for_each (node, &listener->backlog)
        end_crash(list_entry(node, struct end, node), kind);
    listener_drop_backlog(listener);
}

void sim_net_crash(struct machine *machine, enum sim_crash_kind kind)
{
    list_for_each (node, &machine->listeners)
        listener_crash(list_entry(node, struct listener, node), kind);
    list_for_each (node, &machine->streams)
        end_crash(list_entry(node, struct end, node), kind);
}

static void kick_all(struct sim *sim)
{
    list_for_each (node, &sim->connections) {
        struct connection *connection = list_entry(node, struct connection, node);

        pipe_kick(&connection->pipes[0]);
        pipe_kick(&connection->pipes[1]);
    }
}

void sim_net_powered(struct machine *machine)
{
    kick_all(machine->sim);
}

size_t sim_net_count_open(struct machine *machine)
{
    size_t count = 0;

    list_for_each (node, &machine->listeners) {
        fprintf(stderr, "machine %u: listener left: %s\n", machine->number,
                list_entry(node, struct listener, node)->listener.address);
        count++;
    }
    list_for_each (node, &machine->streams) {
        fprintf(stderr, "machine %u: stream left: to %s\n", machine->number,
                list_entry(node, struct end, node)->stream.peer);
        count++;
    }
    return count;
}

/* ---- what a test does to the network ---- */

void sim_cut(struct sim *sim, unsigned from, unsigned to)
{
    assert(from <= SIM_MACHINES_MAX);
    assert(to <= SIM_MACHINES_MAX);
    sim_note(sim, RECORD_CUT, 0, from, to);
    sim->cut[from][to] = true;
}

void sim_heal(struct sim *sim, unsigned from, unsigned to)
{
    sim_note(sim, RECORD_HEAL, 0, from, to);
    sim->cut[from][to] = false;
    kick_all(sim);
}

void sim_heal_all(struct sim *sim)
{
    sim_note(sim, RECORD_HEAL, 0, 0, 0);
    memset(sim->cut, 0, sizeof(sim->cut));
    kick_all(sim);
}

void sim_set_link(struct sim *sim, unsigned from, unsigned to, uint64_t delay_ns,
                  unsigned loss_percent)
{
    assert(from <= SIM_MACHINES_MAX);
    assert(to <= SIM_MACHINES_MAX);
    assert(loss_percent < 100);
    sim_note(sim, RECORD_LINK, from, to, delay_ns);
    sim->links[from][to] = (struct sim_link){.delay_ns = delay_ns, .loss_percent = loss_percent};
}

static void connection_break(struct connection *connection)
{
    connection->broken = true;
    for (int side = 0; side < 2; side++) {
        struct end *end = &connection->ends[side];

        pipe_clear(&connection->pipes[side]);
        if (end->connect)
            connect_end(end->connect, -ETIMEDOUT);
        else if (end->state == END_OPEN)
            end_reset(end);
    }
}

static bool connects(const struct connection *connection, unsigned a, unsigned b)
{
    unsigned first = connection->ends[0].machine->number;
    unsigned second = connection->ends[1].machine->number;

    return (first == a && second == b) || (first == b && second == a);
}

void sim_break_connections(struct sim *sim, unsigned a, unsigned b)
{
    sim_note(sim, RECORD_RESET, a, b, 0);
    list_for_each (node, &sim->connections) {
        struct connection *connection = list_entry(node, struct connection, node);

        if (connects(connection, a, b))
            connection_break(connection);
    }
}

/* ---- a machine's part, and the end ---- */

void sim_net_init(struct machine *machine)
{
    list_init(&machine->listeners);
    list_init(&machine->streams);
}

/* With every program gone nobody holds a stream any more. */
void sim_net_free(struct sim *sim)
{
    assert(list_empty(&sim->connections));
}
