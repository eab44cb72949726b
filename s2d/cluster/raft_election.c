/* raft_election: who leads. A node first asks whether it could win (pre-vote: changes nothing
 * anywhere), then stands in the next term. Votes leave when they are durable (R1); they name how
 * long the voter has not heard a leader. */
#include "s2d/cluster/raft_internal.h"

/* A voter; or one whose removal is not known to be committed: the change may have reached nobody
 * else, and then only this node can win and finish it (Ongaro's thesis, 4.2.2). It counts only the
 * votes of others. */
bool raft_may_stand(const struct raft *raft)
{
    struct raft_configuration before;

    if (raft_votes(raft))
        return true;
    if (raft->configuration_index <= raft->commit)
        return false;
    raft_log_configuration(&raft->log, raft->configuration_index - 1, &before);
    return raft_configuration_role(&before, raft->options.id) == RAFT_VOTER;
}

bool raft_protects_leader(const struct raft *raft)
{
    if (raft_leads(raft))
        return true; /* it steps down by itself when no quorum answers */
    return raft->leader != 0 &&
           raft->now_ns - raft->heard_ns < raft->options.election_timeout_min_ns;
}

static void own_last(const struct raft *raft, uint64_t *ret_term, uint64_t *ret_index)
{
    *ret_term = raft->options.witness ? raft->hard.vouched_term : raft_log_last_term(&raft->log);
    *ret_index = raft->options.witness ? raft->hard.vouched_index : raft_last(raft);
}

/* Does the candidate hold all that this node's word may have helped to commit? Term first, then
 * index. */
static bool candidate_complete(const struct raft *raft, const struct raft_message *message)
{
    uint64_t term, index;

    own_last(raft, &term, &index);
    if (planted(raft, RAFT_VOTE_BLINDLY))
        return true;
    if (raft->options.witness && planted(raft, RAFT_WITNESS_TIE_BREAK))
        return true;
    if (raft->options.witness && planted(raft, RAFT_WITNESS_INDEX_ONLY))
        return message->vote.last_index >= index;
    if (message->vote.last_term != term)
        return message->vote.last_term > term;
    return message->vote.last_index >= index;
}

static void answer_vote(struct raft *raft, const struct raft_message *message, bool granted,
                        uint64_t batch)
{
    struct raft_message answer = {
        .type = message->type == RAFT_VOTE ? RAFT_VOTE_ANSWER : RAFT_PRE_VOTE_ANSWER,
        .vote_answer = {.request_term = message->term,
                        .granted = granted,
                        .silence_ns = raft->now_ns - raft->heard_ns},
    };

    raft_send(raft, message->from, &answer, batch);
}

int raft_on_pre_vote(struct raft *raft, const struct raft_message *message)
{
    bool granted = message->term >= raft->hard.term && !raft_protects_leader(raft) &&
                   candidate_complete(raft, message);

    answer_vote(raft, message, granted, 0);
    return 0;
}

int raft_on_vote(struct raft *raft, const struct raft_message *message)
{
    bool free_to = raft->hard.vote == 0 || raft->hard.vote == message->from;
    bool granted = free_to && !raft_leads(raft) && candidate_complete(raft, message);
    uint64_t batch;

    assert(message->term == raft->hard.term);
    SOMETIMES_IF(free_to && !granted, "raft: a vote is refused, the candidate's log is behind");
    SOMETIMES_IF(!free_to, "raft: a second candidate asks in one term");
    if (granted) {
        raft->hard.vote = message->from;
        raft_restart_election_timer(raft);
    }
    batch = granted ? raft_batch_of_all(raft) : 0;
    if (planted(raft, RAFT_FORGET_VOTE))
        batch = 0;
    answer_vote(raft, message, granted, batch);
    return 0;
}

static void ask_for_votes(struct raft *raft, enum raft_message_type type, uint64_t batch)
{
    struct raft_message message = {
        .type = type,
        .vote = {.last_index = raft_last(raft),
                 .last_term = raft_log_last_term(&raft->log),
                 .forced = raft->forced},
    };

    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (peer_votes(&raft->peers[i]))
            raft_send(raft, raft->peers[i].id, &message, batch);
}

static void campaign(struct raft *raft)
{
    raft->state = RAFT_CANDIDATE;
    raft->hard.term++;
    raft->hard.vote = raft->options.id;
    raft_drop_held(raft); /* R1 */
    raft->predecessor_heard_ns = raft->heard_ns;
    raft_restart_election_timer(raft);
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft->peers[i].granted = false;
    ask_for_votes(raft, RAFT_VOTE, raft_batch_of_all(raft));
}

void raft_stand(struct raft *raft, bool forced)
{
    assert(!raft_leads(raft));
    assert(raft_may_stand(raft));
    raft->leader = 0;
    raft->forced = forced;
    if (forced || (raft_votes(raft) && raft_quorum(raft) == 1)) {
        campaign(raft);
        return;
    }
    raft->state = RAFT_PRE_CANDIDATE;
    raft_restart_election_timer(raft);
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft->peers[i].granted = false;
    ask_for_votes(raft, RAFT_PRE_VOTE, 0);
}

static uint32_t votes_granted(const struct raft *raft)
{
    uint32_t votes = 0;

    for (uint32_t i = 0; i < raft->peer_count; i++)
        votes += peer_votes(&raft->peers[i]) && raft->peers[i].granted;
    return votes;
}

static void count_votes(struct raft *raft)
{
    bool own_durable = raft->hard_durable.term == raft->hard.term;
    uint32_t votes = votes_granted(raft) + raft_votes(raft);

    if (raft->state == RAFT_PRE_CANDIDATE && votes >= raft_quorum(raft))
        campaign(raft);
    else if (raft->state == RAFT_CANDIDATE && own_durable && votes >= raft_quorum(raft))
        raft_lead(raft);
}

void raft_election_persisted(struct raft *raft)
{
    if (raft->state == RAFT_CANDIDATE)
        count_votes(raft);
}

int raft_on_vote_answer(struct raft *raft, const struct raft_message *message)
{
    enum raft_state state = message->type == RAFT_VOTE_ANSWER ? RAFT_CANDIDATE : RAFT_PRE_CANDIDATE;
    struct peer *peer = raft_peer(raft, message->from);
    uint64_t silence_ns = message->vote_answer.silence_ns;

    if (raft->state != state || message->vote_answer.request_term != raft->hard.term)
        return 0;
    if (!message->vote_answer.granted || !peer_votes(peer))
        return 0;
    peer->granted = true;
    /* It heard its leader before it answered, and answered before now. */
    if (state == RAFT_CANDIDATE && silence_ns < raft->now_ns)
        raft->predecessor_heard_ns = MAX(raft->predecessor_heard_ns, raft->now_ns - silence_ns);
    count_votes(raft);
    return 0;
}

static bool may_succeed(const struct raft *raft, const struct peer *peer)
{
    return peer->role == RAFT_VOTER && !peer->lost && !peer->down &&
           raft->now_ns - peer->heard_ns < raft->options.election_timeout_max_ns;
}

static struct peer *best_successor(struct raft *raft)
{
    struct peer *best = NULL;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        struct peer *peer = &raft->peers[i];

        if (may_succeed(raft, peer) && (!best || peer->match > best->match))
            best = peer;
    }
    return best;
}

static void send_timeout_now(struct raft *raft, uint64_t to)
{
    struct raft_message message = {.type = RAFT_TIMEOUT_NOW};

    raft_send(raft, to, &message, 0);
}

void raft_hand_over(struct raft *raft)
{
    struct peer *best = best_successor(raft);

    if (best)
        send_timeout_now(raft, best->id);
}

void raft_transfer_advance(struct raft *raft)
{
    struct peer *peer = raft_peer(raft, raft->transfer_target);

    if (raft->transfer_target == 0 || raft->transfer_sent)
        return;
    if (peer && peer->match == raft_last(raft)) {
        SOMETIMES("raft: leadership is handed to a peer that is level");
        send_timeout_now(raft, peer->id);
        raft->transfer_sent = true;
    }
}

int raft_transfer(struct raft *raft, uint64_t now_ns, uint64_t target)
{
    struct peer *peer;

    raft->now_ns = MAX(raft->now_ns, now_ns);
    if (!raft_leads(raft))
        return -ESTALE;
    peer = target == 0 ? best_successor(raft) : raft_peer(raft, target);
    if (!peer)
        return target == 0 ? -EAGAIN : -EINVAL;
    if (peer->role != RAFT_VOTER)
        return -EINVAL;
    if (raft->transfer_target != 0 || peer->lost)
        return -EAGAIN;

    raft->transfer_target = peer->id;
    raft->transfer_sent = false;
    raft->transfer_deadline_ns = raft->now_ns + raft->options.election_timeout_max_ns;
    raft_transfer_advance(raft);
    return 0;
}
