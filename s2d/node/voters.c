#include "s2d/node/voters.h"

#include "s2d/base/sometimes.h"

struct tally {
    unsigned votes, ready, gone_votes;
};

static bool votes(const struct voter_candidate *candidate)
{
    return candidate->role == RAFT_VOTER || candidate->role == RAFT_WITNESS;
}

static bool may_be_promoted(const struct voter_candidate *candidate)
{
    return candidate->role == RAFT_LEARNER && candidate->in_cluster && candidate->ready;
}

static struct tally count_votes(const struct voter_candidate *candidates, size_t count)
{
    struct tally tally = {0};

    for (size_t i = 0; i < count; i++) {
        tally.votes += votes(&candidates[i]);
        tally.gone_votes += candidates[i].role == RAFT_VOTER && candidates[i].gone;
        tally.ready += may_be_promoted(&candidates[i]);
    }
    return tally;
}

/* One more voter: to reach three or an odd number, for one who is away, or with another to follow.
 */
static bool wants_voter(const struct tally *tally)
{
    return tally->votes < VOTERS_MAX && (tally->votes < VOTERS_MIN || tally->votes % 2 == 0 ||
                                         tally->gone_votes > 0 || tally->ready > 1);
}

/* Its own role: nothing is to change. */
static enum raft_member_role next_role(const struct voter_candidate *candidate,
                                       const struct tally *tally)
{
    if (!candidate->in_cluster)
        return RAFT_NO_MEMBER;
    if (candidate->role == RAFT_NO_MEMBER)
        return RAFT_LEARNER;
    if (candidate->role == RAFT_VOTER && candidate->gone && tally->votes > VOTERS_MIN) {
        SOMETIMES("voters: a vote is taken from who is away");
        return RAFT_LEARNER;
    }
    if (may_be_promoted(candidate) && wants_voter(tally))
        return RAFT_VOTER;
    return candidate->role;
}

bool voters_next_change(const struct voter_candidate *candidates, size_t count,
                        struct voter_change *ret_change)
{
    struct tally tally = count_votes(candidates, count);

    for (size_t i = 0; i < count; i++) {
        enum raft_member_role role = next_role(&candidates[i], &tally);

        if (role == candidates[i].role)
            continue;
        *ret_change = (struct voter_change){.node = candidates[i].node, .role = role};
        return true;
    }
    return false;
}
