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
#include <inttypes.h>

#include "s2d/base/checksum.h"
#include "s2d/base/sim_net.h"

#define SPLIT_PERCENT 25

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

struct connection *sim_connection_new(struct machine *from, const struct address *to)
{
    struct connection *connection = sim_alloc(sizeof(*connection));

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

void end_attach(struct end *end, struct list *to)
{
    assert(!end->attached);
    end->attached = true;
    end->stream.io = &end->machine->io;
    list_push_back(to, &end->node);
}

void end_detach(struct end *end)
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

void end_close(struct end *end)
{
    if (end->state == END_OPEN)
        pipe_push_kind(pipe_out(end), list_empty(&end->received) ? SEGMENT_END : SEGMENT_RESET);
    end->state = END_CLOSED;
    pipe_in(end)->unread_bytes = 0;
    segments_free(&end->received);
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
