/* voters: whose vote counts in the cluster's database. Pure: what the leader sees in, the next
 * change out.
 *
 * An odd number of nodes votes, five at most; the others stand by: they have the data, and no vote
 * (a fourth voter would ask for one more answer and bear no more deaths). The vote of who is away
 * for long moves to one who stands by; is there none, he loses it as long as three are left, so
 * that what is needed for a quorum shrinks with the cluster. Who is there again stands by, and gets
 * a vote when there is one. Nothing of this is a risk: each change is committed by a quorum of
 * those who voted before, and a node that missed it asks them too. */
#ifndef S2D_NODE_VOTERS_H
#define S2D_NODE_VOTERS_H

#include "s2d/base/base.h"
#include "s2d/cluster/raft_types.h"

#define VOTERS_MAX 5
#define VOTERS_MIN 3             /* no vote is taken away below */
#define VOTE_MOVES_NS (10 * SEC) /* after so long an absence */

struct voter_candidate {
    uint64_t node;
    enum raft_member_role role;
    bool in_cluster; /* the database has a record of it */
    bool ready;      /* it is there, and holds nearly all of the log */
    bool gone;       /* down, and not heard for VOTE_MOVES_NS */
};
struct voter_change {
    uint64_t node;
    enum raft_member_role role; /* that it shall have */
};

/* The leader itself is among the candidates, neither ready nor gone. False: all is as it should be.
 * One change at a time: call again when it is in force. */
bool voters_next_change(const struct voter_candidate *candidates, size_t count,
                        struct voter_change *ret_change);

#endif
