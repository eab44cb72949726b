/* Nodes with a bus each, over either backend: in the simulator a machine to a node, on io_uring all
 * on one loop and 127.0.0.<id>. Tests run the world from outside, and look at what the nodes noted.
 */
#ifndef S2D_TESTS_UNIT_BUS_HARNESS_H
#define S2D_TESTS_UNIT_BUS_HARNESS_H

#include "s2d/base/co.h"
#include "s2d/base/io.h"
#include "s2d/base/sim.h"
#include "s2d/bus/bus.h"

#define NODES_MAX 4
#define WAIT_NS (20 * SEC) /* for what must happen; virtual in the simulator */

enum backend { ON_URING, ON_SIM };

struct world;

struct node {
    struct world *world;
    unsigned id;
    struct io *io;
    struct bus *bus; /* NULL: not running */
    char address[IO_ADDRESS_MAX];
    struct bus_options options; /* may be changed before node_start() */
    uint8_t key[BUS_KEY_BYTES];
    bool stopping;
    struct co_cond stop;

    /* what happened, by node and channel */
    unsigned ups[NODES_MAX + 1][2], downs[NODES_MAX + 1][2];
    unsigned refused_times[NODES_MAX + 1];
    uint64_t refused_over_ns[NODES_MAX + 1];
    uint64_t restarted[NODES_MAX + 1]; /* the start counter */
};

struct world {
    enum backend backend;
    struct sim *sim;
    struct io *io;                    /* io_uring's */
    struct node nodes[NODES_MAX + 1]; /* from 1 */
};

struct world *world_new(enum backend backend, uint64_t seed);
void world_free(struct world *world); /* stops what runs */

/* Runs until done(arg), at most limit_ns; returns whether it was. */
bool world_run(struct world *world, uint64_t limit_ns, bool (*done)(void *arg), void *arg);
void world_pass(struct world *world, uint64_t duration_ns);
uint64_t world_now_ns(struct world *world);

/* Starts, and returns when it listens. */
void node_start(struct node *node);
void node_stop(struct node *node);
void node_add_peer(struct node *node, struct node *peer);
/* Starts nodes 1 … count, makes them peers, waits until both channels are up everywhere. */
void world_connect(struct world *world, unsigned count);
bool nodes_are_connected(struct node *a, struct node *b);
void wait_connected(struct node *a, struct node *b);

/* Runs fn(arg) in a coroutine of that node until it returns. */
void node_run(struct node *node, co_fn *fn, void *arg);

#endif
