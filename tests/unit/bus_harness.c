#include "bus_harness.h"

#include <stdio.h>

/* ---- events ---- */

static void on_up(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct node *node = arg;

    assert(co_self() == NULL);
    node->ups[peer][channel]++;
    assert(node->ups[peer][channel] == node->downs[peer][channel] + 1);
    assert(bus_is_up(node->bus, peer, channel));
}

static void on_down(void *arg, uint64_t peer, enum bus_channel channel)
{
    struct node *node = arg;

    node->downs[peer][channel]++;
    assert(node->ups[peer][channel] == node->downs[peer][channel]);
    assert(!bus_is_up(node->bus, peer, channel));
}

static void on_refused(void *arg, uint64_t peer, unsigned times, uint64_t over_ns)
{
    struct node *node = arg;

    node->refused_times[peer] = times;
    node->refused_over_ns[peer] = over_ns;
}

static void on_restarted(void *arg, uint64_t peer, uint64_t start_counter)
{
    struct node *node = arg;

    assert(!bus_is_up(node->bus, peer, BUS_CONTROL) && !bus_is_up(node->bus, peer, BUS_DATA));
    node->restarted[peer] = start_counter;
}

/* ---- the world ---- */

struct world *world_new(enum backend backend, uint64_t seed)
{
    struct world *world = calloc(1, sizeof(*world));
    struct sim_options options = sim_default_options(seed);
    int r;

    assert(world);
    world->backend = backend;
    r = backend == ON_SIM ? sim_new(&options, &world->sim) : io_uring_new(NULL, &world->io);
    assert(r == 0);
    for (unsigned id = 1; id <= NODES_MAX; id++) {
        struct node *node = &world->nodes[id];

        node->world = world;
        node->id = id;
        memset(node->key, 0x5a, sizeof(node->key));
        node->options = (struct bus_options){
            .node = id,
            .start_counter = 1,
            .key = node->key,
            .key_bytes = sizeof(node->key),
            .cluster = "the same cluster",
            .on_up = on_up,
            .on_down = on_down,
            .on_refused = on_refused,
            .on_restarted = on_restarted,
            .arg = node,
        };
        if (backend == ON_SIM)
            snprintf(node->address, sizeof(node->address), "10.83.0.%u:7800", id);
        else
            snprintf(node->address, sizeof(node->address), "127.0.0.%u:0", id);
    }
    return world;
}

void world_free(struct world *world)
{
    for (unsigned id = 1; id <= NODES_MAX; id++) {
        if (world->nodes[id].bus)
            node_stop(&world->nodes[id]);
    }
    sim_free(world->sim);
    io_free(world->io);
    free(world);
}

struct poll {
    struct world *world;
    struct io_timer timer;
    bool (*done)(void *arg);
    void *arg;
    bool result;
    uint64_t deadline_ns;
};

static void poll_look(void *arg)
{
    struct poll *poll = arg;
    struct io *io = poll->world->io;

    poll->result = poll->done && poll->done(poll->arg);
    if (poll->result || io_now_ns(io) >= poll->deadline_ns)
        io_stop(io);
    else
        io_timer_arm(io, &poll->timer, io_now_ns(io) + MS / 2);
}

bool world_run(struct world *world, uint64_t limit_ns, bool (*done)(void *arg), void *arg)
{
    struct poll poll = {.world = world, .done = done, .arg = arg};

    if (world->sim)
        return sim_run(world->sim, sim_now_ns(world->sim) + limit_ns, done, arg);
    poll.deadline_ns = io_clock_ns(world->io) + limit_ns;
    io_timer_init(&poll.timer, poll_look, &poll);
    io_timer_arm(world->io, &poll.timer, 0);
    io_run(world->io);
    return poll.result;
}

void world_pass(struct world *world, uint64_t duration_ns)
{
    world_run(world, duration_ns, NULL, NULL);
}

uint64_t world_now_ns(struct world *world)
{
    return world->sim ? sim_now_ns(world->sim) : io_clock_ns(world->io);
}

/* ---- nodes ---- */

static void node_stop_now(void *arg)
{
    struct node *node = arg;

    node->stopping = true;
    co_cond_broadcast(&node->stop);
}

static void node_main(struct io *io, void *arg)
{
    struct node *node = arg;
    int r;

    node->io = io;
    node->options.listen = node->address;
    r = bus_new(io, &node->options, &node->bus);
    assert(r == 0);
    snprintf(node->address, sizeof(node->address), "%s", bus_listen_address(node->bus));
    while (!node->stopping && co_cond_wait(&node->stop) == 0)
        ;
    co_bus_close(node->bus);
    node->bus = NULL;
    if (node->world->sim)
        io_stop(io);
}

static void node_main_uring(void *arg)
{
    struct node *node = arg;

    node_main(node->world->io, node);
}

static bool node_runs(void *arg)
{
    return ((struct node *)arg)->bus != NULL;
}

static bool node_is_gone(void *arg)
{
    struct node *node = arg;

    return !node->bus && (!node->world->sim || !sim_is_up(node->world->sim, node->id));
}

void node_start(struct node *node)
{
    struct world *world = node->world;
    int r;

    node->stopping = false;
    co_cond_init(&node->stop);
    memset(node->ups, 0, sizeof(node->ups));
    memset(node->downs, 0, sizeof(node->downs));
    if (world->sim) {
        r = sim_start(world->sim, node->id, node_main, node);
        sim_on_crash(world->sim, node->id, node_stop_now, node);
    } else {
        r = co_spawn(world->io, "node", node_main_uring, node);
    }
    assert(r == 0);
    assert(world_run(world, WAIT_NS, node_runs, node));
}

void node_stop(struct node *node)
{
    node_stop_now(node);
    assert(world_run(node->world, WAIT_NS, node_is_gone, node));
}

void node_add_peer(struct node *node, struct node *peer)
{
    int r = bus_add_peer(node->bus, peer->id, peer->address);

    assert(r == 0);
}

bool nodes_are_connected(struct node *a, struct node *b)
{
    for (enum bus_channel channel = BUS_CONTROL; channel <= BUS_DATA; channel++) {
        if (!bus_is_up(a->bus, b->id, channel) || !bus_is_up(b->bus, a->id, channel))
            return false;
    }
    return true;
}

static bool pair_is_connected(void *arg)
{
    struct node **pair = arg;

    return nodes_are_connected(pair[0], pair[1]);
}

void wait_connected(struct node *a, struct node *b)
{
    struct node *pair[2] = {a, b};

    assert(world_run(a->world, WAIT_NS, pair_is_connected, pair));
}

void world_connect(struct world *world, unsigned count)
{
    for (unsigned id = 1; id <= count; id++)
        node_start(&world->nodes[id]);
    for (unsigned id = 1; id <= count; id++) {
        for (unsigned other = 1; other <= count; other++) {
            if (other != id)
                node_add_peer(&world->nodes[id], &world->nodes[other]);
        }
    }
    for (unsigned id = 1; id <= count; id++) {
        for (unsigned other = id + 1; other <= count; other++)
            wait_connected(&world->nodes[id], &world->nodes[other]);
    }
}

struct running {
    co_fn *fn;
    void *arg;
    bool done;
};

static void running_main(void *arg)
{
    struct running *running = arg;

    running->fn(running->arg);
    running->done = true;
}

static bool running_is_done(void *arg)
{
    return ((struct running *)arg)->done;
}

void node_run(struct node *node, co_fn *fn, void *arg)
{
    struct running running = {.fn = fn, .arg = arg};
    int r = co_spawn(node->io, "test", running_main, &running);

    assert(r == 0);
    assert(world_run(node->world, WAIT_NS, running_is_done, &running));
}
