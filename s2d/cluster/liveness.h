/* liveness: the lease of this node and, while it leads, the watch over the others: lease.h and
 * watch.h over the bus.
 *
 * It proposes nothing itself; it asks whoever is above to declare a node down. Heartbeats and their
 * answers never wait for a disk. One reactor; nothing suspends. */
#ifndef S2D_CLUSTER_LIVENESS_H
#define S2D_CLUSTER_LIVENESS_H

#include "s2d/cluster/consensus.h"
#include "s2d/cluster/watch.h"

/* The reasons that on_down() names. */
#define LIVENESS_DAEMON_DEAD "its daemon is dead" /* the host answers: proven */
#define LIVENESS_SILENT "it does not answer"

struct liveness;

struct liveness_options {
    uint64_t node, start_counter;
    struct bus *bus; /* borrowed, as is: */
    struct consensus *consensus;
    /* The lease was lost, or is there (again). On the loop. May be NULL. */
    void (*on_lease)(void *arg, bool held);
    /* The lease was renewed: it is good until then. May be NULL. */
    void (*on_renewed)(void *arg, uint64_t expires_ns);
    /* Leader: this process of the node may be declared down. True: it will be proposed, in this
     * term only (co_consensus_propose_in()), and no lease is granted to it any more. Called again
     * every heartbeat until the database says it, or false was returned and it is heard. */
    bool (*on_down)(void *arg, uint64_t node, uint64_t start_counter, const char *reason);
    void *arg;
};

must_check int liveness_new(struct io *io, const struct liveness_options *options,
                            struct liveness **ret_liveness);
void liveness_free(struct liveness *liveness);

/* Ask right before each answer. Reads the clock. */
bool liveness_lease_held(struct liveness *liveness);
uint64_t liveness_lease_expires_ns(struct liveness *liveness);
/* A planned stop: no more heartbeats, the lease is handed back. */
void liveness_give_up(struct liveness *liveness);

/* What the bus tells (bus_options). */
void liveness_refused(struct liveness *liveness, uint64_t node, unsigned times, uint64_t over_ns);
void liveness_connected(struct liveness *liveness, uint64_t node);
/* The database has just said that the node is down: what was decided is done. (It may be up again
 * before anybody looks.) */
void liveness_node_down(struct liveness *liveness, uint64_t node);
/* The leader, or who leads, has changed. */
void liveness_role(struct liveness *liveness, const struct raft_role *role);

#endif
