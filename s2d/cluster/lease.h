/* lease: this node's right to serve; I5 rests on it. A state machine: events and the time go in,
 * nothing suspends or sends.
 *
 * The node sends heartbeats to the Raft leader; an answer says how much is left of what a quorum
 * confirmed, and the node counts it from its own *sending*: a slow answer never stretches a lease.
 * After a lapse the node owns nothing until it has applied Raft up to the index that the new lease
 * names. Time is CLOCK_BOOTTIME in nanoseconds: it goes on while the host sleeps. */
#ifndef S2D_CLUSTER_LEASE_H
#define S2D_CLUSTER_LEASE_H

#include "s2d/base/base.h"

#define LEASE_NS (2 * SEC)
#define LEASE_HEARTBEAT_NS (200 * MS)
#define LEASE_MARGIN_NS                                                                            \
    (500 * MS) /* for clocks that run at different rates, before anybody is declared down */
#define LEASE_SENT_MAX 16 /* heartbeats whose sending time is remembered: 3.2 s */

struct lease {
    uint64_t seq; /* of the last heartbeat sent */
    uint64_t sent_ns[LEASE_SENT_MAX];
    uint64_t expires_ns; /* 0: none */
    uint64_t
        wait_index; /* what must be applied before it counts; 0: nothing, it never lapsed since */
};

void lease_init(struct lease *lease);

/* A heartbeat leaves now: its number. */
uint64_t lease_send(struct lease *lease, uint64_t now_ns);

/* The leader's answer to heartbeat seq: remaining_ns are left, counted from its sending; the leader
 * had committed `index`. Returns 0, -ESTALE (too late, unknown, or nothing left), -EPROTO (more
 * than LEASE_NS, or an index that no log has: the lease would wait for it for ever). */
must_check int lease_on_answer(struct lease *lease, uint64_t now_ns, uint64_t seq,
                               uint64_t remaining_ns, uint64_t index);

/* True while this node may answer. now_ns: read right now (io_clock_ns()), not at the start of the
 * turn: a process that was stopped and woken must not trust what it knew. applied: the Raft index
 * applied here. */
bool lease_held(struct lease *lease, uint64_t now_ns, uint64_t applied);

/* When it runs out; 0: not held. For the keepers of VMs, which must stop by then. */
uint64_t lease_expires_ns(const struct lease *lease);
/* Handed back: a planned stop. */
void lease_give_up(struct lease *lease);

#endif
