/* watch: who is alive, as the Raft leader sees it: it answers heartbeats with what is left of the
 * lease, and says when a node may be declared down. A state machine; nothing suspends or sends.
 * Times are this node's CLOCK_BOOTTIME in nanoseconds.
 *
 * A node may be declared down (I5) when no lease of its can run any more, by anybody's grant, plus
 * LEASE_MARGIN_NS; or at once on proof that its process is dead: its port refused two peers, or all
 * that remain, three times over 100 ms (docs/protocol.md, Detection). */
#ifndef S2D_CLUSTER_WATCH_H
#define S2D_CLUSTER_WATCH_H

#include "s2d/cluster/lease.h"

#define WATCH_NODES_MAX 64
#define WATCH_PROOF_NS SEC /* reports of refusals count together for so long */
#define WATCH_HEAR_NS SEC  /* in which a new leader is heard from, or not: five heartbeats */

struct watch_node {
    uint64_t id;            /* 0: free */
    uint64_t start_counter; /* of the newest process that heartbeats, or that a decision is about */
    const char *down_reason; /* that process is being declared down: it gets no lease any more */
    uint64_t heard_ns;
    uint64_t granted_until_ns;             /* no lease that we granted runs longer */
    uint64_t reporters[WATCH_NODES_MAX];   /* who was refused, */
    uint64_t reported_ns[WATCH_NODES_MAX]; /* and when */
    size_t report_count;
};

struct watch {
    struct watch_node nodes[WATCH_NODES_MAX];
    uint64_t predecessors_until_ns; /* leases granted by earlier leaders run at most this long */
    uint64_t led_ns;                /* since when we lead */
    bool leading;
};

void watch_init(struct watch *watch);

/* This node has begun to lead; predecessor_heard_ns: no voter heard an earlier leader later
 * (raft.h). */
void watch_lead(struct watch *watch, uint64_t now_ns, uint64_t predecessor_heard_ns);
void watch_unlead(struct watch *watch);

/* A heartbeat of `node`. quorum_round_ns: when the last heartbeat round of Raft that a quorum
 * answered was sent. Returns what is left of the lease, at most LEASE_NS; 0: nothing can be
 * granted. */
uint64_t watch_grant(struct watch *watch, uint64_t now_ns, uint64_t node, uint64_t start_counter,
                     uint64_t quorum_round_ns);

/* The database names this process of the node: what was decided or reported of an earlier one is
 * void. If that one was heard in this leadership, this one has the time of a lease to be heard. */
void watch_started(struct watch *watch, uint64_t now_ns, uint64_t node, uint64_t start_counter);

/* The leader has decided about the process of that start counter: what it grants from now on must
 * not outlive the decision, which may be committed late. So that process gets nothing any more,
 * also if it was never heard before; watch_may_declare_down() stays true. watch_down_reason(): why;
 * NULL: it is not so. Settled by watch_settle() (the database says that it is down), by a newer
 * process, and by the end of this leadership. reason: a constant. */
void watch_decide_down(struct watch *watch, uint64_t node, uint64_t start_counter,
                       const char *reason);
const char *watch_down_reason(const struct watch *watch, uint64_t node);
void watch_settle(struct watch *watch, uint64_t now_ns, uint64_t node);
/* The node is no member any more. */
void watch_forget(struct watch *watch, uint64_t node);

/* `reporter` was refused by the port of `node` often enough, after it had spoken with the process
 * of that start counter. On any node, not only the leader. */
void watch_refused(struct watch *watch, uint64_t now_ns, uint64_t node, uint64_t start_counter,
                   uint64_t reporter);
/* It answers somebody: earlier reports are void. */
void watch_alive(struct watch *watch, uint64_t node);

/* True when the reports prove the process dead. others: nodes that are up, without `node`. */
bool watch_proven_dead(const struct watch *watch, uint64_t now_ns, uint64_t node, size_t others);
/* From when on a leader may declare the node down if it stays silent. */
uint64_t watch_down_at_ns(const struct watch *watch, uint64_t node);
/* True when the leader may declare it down. */
bool watch_may_declare_down(const struct watch *watch, uint64_t now_ns, uint64_t node,
                            size_t others);

#endif
