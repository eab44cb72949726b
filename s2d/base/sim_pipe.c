/* What is on the way from one end of a connection to the other. */
#include "s2d/base/sim_net.h"

#define LOOPBACK_NS_MIN (5 * US)
#define LOOPBACK_NS_MAX (20 * US)
#define RETRANSMIT_NS (200 * MS)

bool pipe_is_open(const struct pipe *pipe)
{
    struct machine *from = pipe->connection->ends[pipe->from].machine;
    struct machine *to = pipe->connection->ends[1 - pipe->from].machine;

    return from == to || (to->powered && !from->sim->cut[from->number][to->number]);
}

void pipe_schedule(struct pipe *pipe)
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

    if (machines_share_host(from, to))
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
    if (rate && !machines_share_host(from, connection->ends[1 - pipe->from].machine))
        from->egress_free_ns += (uint64_t)((unsigned __int128)bytes * SEC / rate);
    return from->egress_free_ns;
}

struct segment *segment_new(enum segment_kind kind, size_t length)
{
    struct segment *segment = sim_alloc(sizeof(*segment) + length);

    segment->kind = kind;
    segment->length = length;
    return segment;
}

void pipe_push(struct pipe *pipe, struct segment *segment)
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

void pipe_push_kind(struct pipe *pipe, enum segment_kind kind)
{
    pipe_push(pipe, segment_new(kind, 0));
}

void segments_free(struct list *segments)
{
    struct list *node;

    while ((node = list_pop_front(segments)))
        free(list_entry(node, struct segment, node));
}

void pipe_clear(struct pipe *pipe)
{
    sim_event_cancel(pipe->connection->sim, &pipe->event);
    segments_free(&pipe->in_flight);
    pipe->stalled = false;
}

void pipe_cut_off(struct pipe *pipe)
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

void pipe_kick(struct pipe *pipe)
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
