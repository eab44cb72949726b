/* raft_witness: a vote without a log. Two full voters cannot outvote each other; a witness decides
 * between them, and may stand in for the copy of one that is away. Its rules:
 *
 *  W1  It keeps (term, vote, vouched term, vouched index) and answers when that is durable, in
 *      one write.
 *
 *  W2  It votes once a term, and only for a candidate whose (last term, last index), term first,
 *      is not below what it vouches for (raft_on_vote()).
 *
 *  W3  It takes a request to vouch for (t, i) if t is not below its term. Within a term i only
 *      rises; a higher term replaces it, whatever the index.
 *
 *  W4  The leader asks only for entries of its own term that are durable on its own disk, and
 *      counts the witness toward i only by that answer, never by a heartbeat.
 *
 *  W5  It asks only while the full voters that are present are no quorum. A voter is away until
 *      it has confirmed an entry of this term and everything that the witness was asked for: or
 *      it could not win, and the death of one node would stop the cluster.
 *
 *  W6  It asks only for what a full voter of the present configuration holds: itself, unless it
 *      is being removed. (Not in the model, which has no changes; found by the random schedules.)
 *
 * A witness on a share, which cannot run a process, is this same code run by whoever can reach
 * the share: load the four numbers, feed one message, and send the answer only if a
 * compare-and-set of the four succeeds. */
#include "s2d/cluster/raft_internal.h"

/* Witness */

static bool vouch_rises(const struct raft *raft, uint64_t term, uint64_t index)
{
    if (term != raft->hard.vouched_term)
        return term > raft->hard.vouched_term;
    return index > raft->hard.vouched_index || planted(raft, RAFT_WITNESS_LOWER);
}

int raft_on_vouch(struct raft *raft, const struct raft_message *message)
{
    struct raft_message answer = {.type = RAFT_VOUCH_ANSWER};
    uint64_t batch;

    assert(message->term == raft->hard.term); /* W3: a lower one was answered as stale */
    if (message->vouch.index == 0 || message->vouch.index > RAFT_NUMBER_MAX)
        return -EPROTO;
    SOMETIMES_IF(!vouch_rises(raft, message->term, message->vouch.index),
                 "raft: a late request to vouch changes nothing");
    if (vouch_rises(raft, message->term, message->vouch.index)) {
        raft->hard.vouched_term = message->term;
        raft->hard.vouched_index = message->vouch.index;
    }
    answer.vouch_answer.request_term = message->term;
    answer.vouch_answer.index = raft->hard.vouched_index;
    batch = planted(raft, RAFT_WITNESS_VOLATILE) ? 0 : raft_batch_of_hard_state(raft);
    raft_send(raft, message->from, &answer, batch);
    return 0;
}

/* Leader */

static struct peer *find_witness(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].role == RAFT_WITNESS)
            return &raft->peers[i];
    return NULL;
}

static bool absent(const struct raft *raft, const struct peer *peer)
{
    if (peer->lost || peer->down)
        return true;
    if (raft->now_ns - peer->heard_ns >= raft->options.away_after_ns)
        return true;
    /* It lives, but confirms nothing: a disk that hangs. */
    return raft->now_ns - peer->level_ns >= raft->options.election_timeout_max_ns;
}

void raft_witness_presence(struct raft *raft, struct peer *peer)
{
    if (peer->role != RAFT_VOTER)
        return;
    if (peer->match >= raft->durable)
        peer->level_ns = raft->now_ns;
    if (absent(raft, peer))
        peer->away = true;
    else if (peer->match >= raft->term_start && peer->match >= raft->asked)
        peer->away = false; /* W5 */
}

static bool needed(const struct raft *raft)
{
    uint32_t present = raft_votes(raft), coming = present;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct peer *peer = &raft->peers[i];

        present += peer->role == RAFT_VOTER && !peer->away;
        coming += peer->role == RAFT_VOTER && !absent(raft, peer);
    }
    if (present >= raft_quorum(raft))
        return false;
    /* Whoever is catching up would chase what the witness is asked for under load: while commits
     * flow without it, let them. */
    return coming < raft_quorum(raft) ||
           raft->now_ns - raft->commit_ns >= raft->options.heartbeat_ns;
}

/* From here on a voter that lacks what the witness was asked for could not win: it is away. */
static void mark_away(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].match < raft->asked)
            raft->peers[i].away = true;
}

/* W6: up to where a full voter of the present configuration holds the log durably: this node,
 * unless it is being removed. The witness must never vouch for what only a node without a vote has:
 * nobody could win any more. */
static uint64_t held_by_a_voter(const struct raft *raft)
{
    uint64_t held = 0;

    if (raft_votes(raft))
        return raft->durable;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].role == RAFT_VOTER && !raft->peers[i].lost)
            held = MAX(held, raft->peers[i].match);
    return MIN(held, raft->durable);
}

/* One request at a time; the next one takes all that became durable meanwhile. */
void raft_witness_ask(struct raft *raft)
{
    struct peer *witness = find_witness(raft);
    struct raft_message message = {.type = RAFT_VOUCH};
    uint64_t held = held_by_a_voter(raft);
    bool waiting;

    if (!witness || !needed(raft))
        return;
    if (held < raft->term_start || held <= raft->commit) /* W4 */
        return;
    waiting = witness->match < raft->asked;
    if (waiting && raft->now_ns - witness->sent_ns < raft->options.heartbeat_ns)
        return;
    if (!waiting && held <= raft->asked)
        return;
    raft->asked = MAX(raft->asked, held);
    mark_away(raft);
    witness->sent_ns = raft->now_ns;
    message.vouch.index = raft->asked;
    raft_send(raft, witness->id, &message, 0);
}

int raft_on_vouch_answer(struct raft *raft, struct peer *peer, const struct raft_message *message)
{
    if (message->vouch_answer.request_term != raft->hard.term)
        return 0;
    if (peer->role != RAFT_WITNESS || message->vouch_answer.index > raft->asked)
        return -EPROTO;
    peer->heard_ns = raft->now_ns;
    if (message->vouch_answer.index > peer->match) {
        peer->match = message->vouch_answer.index;
        peer->round_before_match = raft->round;
        raft_leader_commit(raft);
    }
    return 0;
}
